package raft

import (
	"context"
	"time"
)

// ReadLevel says what a read may miss, and what it relies on.
type ReadLevel uint8

// The levels of reads. README.md has a table of what each guarantees and costs.
const (
	ReadLinearizable ReadLevel = 0 // sees all that was committed when it began; by the leader's clock if that has Config.LeaseReads
	ReadConfirmed    ReadLevel = 1 // the same, and never by a clock
	ReadLocal        ReadLevel = 2 // sees what this member has applied, and asks nobody
)

// ReadOptions are what [Node.Read] is to do. The zero value is that of [Node.ReadIndex].
type ReadOptions struct {
	Level ReadLevel

	// MinIndex makes the read wait until this member has applied that entry. With
	// the Index of a Result a client reads what it wrote, whatever the level.
	MinIndex Index

	// MaxStaleness lets the read miss what was committed in so long a time before it
	// began: if this member has made sure of a read not longer ago, nobody is asked
	// again. It is measured by this member's clock alone, and ReadLocal does not
	// look at it.
	MaxStaleness time.Duration
}

// ReadIndex returns once this node has applied everything that was committed when the
// call began: a read of the local state machine after it is linearizable. It works on any
// member, and returns an index up to which the state machine has come. Nothing is written:
// the leader makes sure that it still leads, by a round of heartbeats that all reads share
// which came before it began (thesis §6.4), or by its lease, see Config.LeaseReads. Other
// members ask the leader, one question for all reads that came before it was sent.
//
// All errors but ctx's match [ErrNotAccepted]: reading again is safe. A
// [*NotLeaderError] is returned where no leader is known, or it changes meanwhile, and
// [ErrOverloaded] if 65,536 reads wait already. The end of ctx may be noticed 10 ms late.
func (n *Node) ReadIndex(ctx context.Context) (Index, error) {
	return n.Read(ctx, ReadOptions{})
}

// Read is [Node.ReadIndex] for reads that may miss something, or must not rely on a clock.
func (n *Node) Read(ctx context.Context, options ReadOptions) (Index, error) {
	if ctx.Err() != nil {
		return 0, contextError(ctx)
	}
	if index, ok := n.lease.read(options); ok {
		return index, nil
	}
	r := n.readers.Get().(*readCall)
	r.options, r.taken = options, false
	soon, err := n.inbox.enqueueRead(&r.readWait)
	if err != nil {
		n.readers.Put(r)
		return 0, err
	}
	if soon && <-r.ready {
		return n.endRead(r)
	}
	select {
	case <-r.ready:
		return n.endRead(r)
	case <-ctx.Done():
		if !n.inbox.withdrawRead(&r.readWait) {
			n.inbox.post(readLeft{&r.readWait})
		}
		return 0, contextError(ctx) // who knows whether it has ended meanwhile: it is not used again
	}
}

// endRead returns how a read has ended.
func (n *Node) endRead(r *readCall) (Index, error) {
	index, err := r.index, r.err
	n.readers.Put(r)
	return index, err
}

// readCall is a blocked caller that reads. Most reads end so soon that to look at ctx, which
// many share, would be much of what they cost: their callers wait for the end alone, and
// look at ctx once they are told that it takes a while.
type readCall struct {
	readWait
	ready chan bool // true: it has ended; before that perhaps false: it takes a while
	index Index     // written before the end, as is err
	err   error
}

func newReadCall() any {
	r := &readCall{ready: make(chan bool, 2)}
	r.done = func(index Index, err error) {
		r.index, r.err = index, err
		r.ready <- true
	}
	r.delayed = func() { r.ready <- false }
	return r
}
