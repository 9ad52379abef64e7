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
// which came before it began (thesis §6.4), to those of a majority that answer soonest, and
// to all if these take long; or by its lease, see Config.LeaseReads. Other members ask the
// leader, one question for all reads that came before it was sent.
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
	if options.Level < ReadLocal && options.MinIndex == 0 && options.MaxStaleness <= 0 {
		return n.readTogether(ctx, options.Level)
	}
	return n.readAlone(ctx, options)
}

// readAlone reads what may end at another time than other reads.
func (n *Node) readAlone(ctx context.Context, options ReadOptions) (Index, error) {
	type end struct {
		index Index
		err   error
	}
	ended := make(chan end, 1)
	w := &readWait{options: options, done: func(index Index, err error) { ended <- end{index, err} }}
	if err := n.inbox.enqueueRead(w); err != nil {
		return 0, err
	}
	select {
	case e := <-ended:
		return e.index, e.err
	case <-ctx.Done():
		if !n.inbox.withdrawRead(w) {
			n.inbox.post(readLeft{w})
		}
		return 0, contextError(ctx)
	}
}

// readTogether reads as one of a group. Most reads end so soon that to look at ctx, which
// many share, would be much of what they cost: their callers wait for the group alone, and
// look at ctx once it is told that it takes a while.
func (n *Node) readTogether(ctx context.Context, level ReadLevel) (Index, error) {
	g, soon, err := n.inbox.joinRead(level)
	if err != nil {
		return 0, err
	}
	if soon {
		<-g.settled
	} else {
		select {
		case <-g.settled:
		case <-ctx.Done():
			return n.leaveGroup(ctx, g)
		}
	}
	if g.ended == nil {
		return g.index, g.err
	}
	select {
	case <-g.ended:
		return g.index, g.err
	case <-ctx.Done():
		return n.leaveGroup(ctx, g)
	}
}

// leaveGroup ends a read of a group because its ctx has ended.
func (n *Node) leaveGroup(ctx context.Context, g *readGroup) (Index, error) {
	if !n.inbox.leaveRead(g) {
		n.inbox.post(readLeft{&g.readWait})
	}
	return 0, contextError(ctx)
}

// readGroup are readers of one level who wait for the same: the loop sees them as one.
type readGroup struct {
	readWait
	settled chan struct{} // closed when they have ended, or are told that it takes a while
	ended   chan struct{} // written before that: nil, or what is closed when they have ended
	index   Index         // written before the end, as is err
	err     error
	told    bool // the loop's, once it is left for that, else guarded by the inbox's mu
	members int  // who wait, until the loop has it; guarded by the inbox's mu
}

// readGroups are groups by their level.
type readGroups [ReadLocal]*readGroup

func newReadGroup(level ReadLevel) *readGroup {
	g := &readGroup{settled: make(chan struct{})}
	g.options.Level, g.done, g.delayed = level, g.end, g.tell
	return g
}

func (g *readGroup) end(index Index, err error) {
	g.index, g.err = index, err
	if g.ended != nil {
		close(g.ended)
		return
	}
	close(g.settled)
}

// tell tells the readers that it takes a while: they look at their ctx from now on.
func (g *readGroup) tell() {
	if g.mark() {
		close(g.settled)
	}
}

// mark takes note that they are told, and reports false if they were before.
func (g *readGroup) mark() bool {
	if g.told {
		return false
	}
	g.told = true
	g.ended = make(chan struct{})
	return true
}
