package raft

import (
	"sync/atomic"
	"time"
)

// leaseView is what the goroutines of readers see of this node's lease: with it they read
// without the loop, which shows it after every step and before anything leaves that has
// come of the step. That makes it as good as a look at the core:
//
//   - Whoever was told that an entry is committed, or saw what it has done, was so after the
//     view showed the entry, or showed no lease: a lease is shown only while all that is
//     committed is applied. The reader loads the end of the lease first and then the index,
//     which only grows, so it has all that was committed when it began.
//   - When the reader loads an end that is not 0, nothing has left that makes a lease void
//     before its end: no TimeoutNow, and no entry of another configuration. If its clock,
//     which it reads after that, is not at the end either, nobody else could have been
//     elected, and have committed anything, when it began.
//
// However long the reader stands still between these, it answers as of when it began.
type leaseView struct {
	start   time.Time // of the driver's clock; written before the first end
	end     atomic.Int64
	applied atomic.Uint64
}

// show is the loop's. An end of 0 says that there is no lease.
func (v *leaseView) show(end time.Duration, applied Index) {
	if v.applied.Load() != uint64(applied) { // else the readers' caches keep it
		v.applied.Store(uint64(applied))
	}
	if v.end.Load() != int64(end) {
		v.end.Store(int64(end))
	}
}

// read returns up to where the state machine has come, if the lease answers the read.
func (v *leaseView) read(o ReadOptions) (Index, bool) {
	end := time.Duration(v.end.Load())
	if end == 0 || o.Level != ReadLinearizable || time.Since(v.start) >= end {
		return 0, false
	}
	index := Index(v.applied.Load())
	return index, index >= o.MinIndex
}
