package raft

import "context"

// ReadIndex returns once this node has applied everything that was committed when the
// call began: a read of the local state machine after it is linearizable. It returns an
// index up to which the state machine has come. Nothing is written: the leader makes sure
// that it still leads, by a round of heartbeats that all reads share which came before it
// began (thesis §6.4).
//
// All errors but ctx's match [ErrNotAccepted]: reading again is safe. A
// [*NotLeaderError] is returned where nobody leads, or the leader changes meanwhile, and
// [ErrOverloaded] if 65,536 reads wait already.
func (n *Node) ReadIndex(ctx context.Context) (Index, error) {
	if ctx.Err() != nil {
		return 0, contextError(ctx)
	}
	r := n.readers.Get().(*readCall)
	if !n.inbox.post(&r.readWait) {
		return 0, n.inbox.closedBecause()
	}
	select {
	case <-r.ready:
	case <-ctx.Done():
		n.inbox.post(readLeft{&r.readWait}) // who knows whether it has ended meanwhile: it is not used again
		return 0, contextError(ctx)
	}
	index, err := r.index, r.err
	n.readers.Put(r)
	return index, err
}

// readCall is a blocked caller that reads. index and err are written before ready is.
type readCall struct {
	readWait
	ready chan struct{}
	index Index
	err   error
}

func newReadCall() any {
	r := &readCall{ready: make(chan struct{}, 1)}
	r.done = func(index Index, err error) {
		r.index, r.err = index, err
		r.ready <- struct{}{}
	}
	return r
}
