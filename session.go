package raft

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Session is a client of the cluster whose commands are executed once each, however often
// they have to be proposed: [Session.Propose] does that by itself when leaders change.
// Make it with [Node.OpenSession]. Its methods may be called from any goroutine, and several
// commands at once be under way in it, in no order.
//
// The members remember, as a part of what they replicate and of their snapshots, what was
// executed in each session, and the replies that its client still waits for. What they
// remember is bounded. A session expires when Config.MaxSessions of them are there and one
// more is opened, if all the others were used since: whatever is proposed in it then fails with
// [ErrSessionExpired] and is not executed. A reply is dropped when all of them take more than
// Config.SessionReplyBytes: see [ErrReplyDropped].
//
// A Session lives on its node. While that does not lead, commands wait until it does.
type Session struct {
	node *Node
	id   Index

	mu    sync.Mutex
	next  uint64              // the sequence number of the next command
	acked uint64              // nobody waits for those below it
	ended map[uint64]struct{} // nor for these
	moved chan struct{}       // closed, and replaced, when acked grows
}

// OpenSession opens a session of a client, by an entry of the log. Call it on the leader.
// Errors are those of [Node.Propose]; what an unknown outcome may leave behind is a
// session that nobody uses.
func (n *Node) OpenSession(ctx context.Context) (*Session, error) {
	opening := sessionOpening{uint64(n.config.MaxSessions), uint64(n.config.SessionReplyBytes)}
	data, err := opening.marshal()
	if err != nil {
		return nil, err
	}
	result, err := n.propose(ctx, EntryOpenSession, data)
	if err != nil {
		return nil, err
	}
	return newSession(n, result.Index), nil
}

func newSession(n *Node, id Index) *Session {
	return &Session{node: n, id: id, next: 1, acked: 1, ended: map[uint64]struct{}{}, moved: make(chan struct{})}
}

// ID returns what names the session, the index of the entry that has opened it: no other
// session of the cluster ever has the same.
func (s *Session) ID() Index { return s.id }

// Propose is [Node.Propose] for a command that is executed once at most. It is proposed
// again for as long as ctx lasts, when leadership was lost or the outcome is unknown, and
// the result is that of the one execution, as it was first given. The text of an
// [*ApplyError] is that of the state machine's error, and its Err nothing more.
//
// Once ctx has ended, or the node has stopped, the error is of one of the two classes, as
// that of Node.Propose is. After an [*OutcomeUnknownError] the command may still be executed,
// once; to propose it again would be another command. If the error says where it stands,
// [Node.Resolve] settles that; what is committed was executed, unless the session had expired.
// [ErrSessionExpired] says that the session is no more; it matches [ErrNotAccepted] too if the command was not executed and
// never will be, else [ErrOutcomeUnknown].
func (s *Session) Propose(ctx context.Context, command []byte) (Result, error) {
	if err := s.node.checkCommand(command); err != nil {
		return Result{}, err
	}
	sequence, err := s.begin(ctx)
	if err != nil {
		return Result{}, err
	}
	defer s.end(sequence)
	var open attempts
	for {
		result, err := s.try(ctx, sequence, command)
		if !open.goOn(ctx, err) {
			return result, open.outcome(ctx, err)
		}
		if errors.Is(err, ErrNotLeader) && !s.node.awaitLeadership(ctx) {
			return Result{}, open.outcome(ctx, fmt.Errorf("%w, and then: %w", err, stoppedWaiting(ctx)))
		}
	}
}

// Close ends the session: nothing is executed in it any more. One that is not closed, since
// its client has crashed, expires in time.
func (s *Session) Close(ctx context.Context) error {
	closing := sessionClosing{s.id}
	data, err := closing.marshal()
	if err != nil {
		return err
	}
	if _, err = s.node.propose(ctx, EntryCloseSession, data); errors.Is(err, ErrSessionExpired) {
		return nil
	}
	return err
}

// begin gives a command its number. It waits while the first one under way is so many
// numbers back as members remember at most.
func (s *Session) begin(ctx context.Context) (uint64, error) {
	for {
		s.mu.Lock()
		sequence, room, moved := s.next, s.next < s.acked+sessionWindow, s.moved
		if room {
			s.next++
		}
		s.mu.Unlock()
		if room {
			return sequence, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return 0, leftQueue(ctx)
		}
	}
}

// end says that nobody waits for a command any more.
func (s *Session) end(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended[sequence] = struct{}{}
	if sequence != s.acked {
		return
	}
	for range len(s.ended) {
		if _, ok := s.ended[s.acked]; !ok {
			break
		}
		delete(s.ended, s.acked)
		s.acked++
	}
	close(s.moved)
	s.moved = make(chan struct{})
}

// try proposes a command once.
func (s *Session) try(ctx context.Context, sequence uint64, command []byte) (Result, error) {
	data, err := s.entry(sequence, command)
	if err != nil {
		return Result{}, err
	}
	return s.node.propose(ctx, EntrySessionCommand, data)
}

// entry is what an attempt at a command proposes. Along with it the members learn which
// replies are not waited for any more.
func (s *Session) entry(sequence uint64, command []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := sessionCommand{s.id, sequence, s.acked, command}
	return entry.marshal()
}

// attempts are those at one command whose outcome is not known.
type attempts struct {
	count int
	last  *OutcomeUnknownError
}

// goOn takes note of how an attempt has ended, and reports whether another one makes sense.
func (a *attempts) goOn(ctx context.Context, err error) bool {
	var unknown *OutcomeUnknownError
	switch {
	case errors.As(err, &unknown):
		a.count, a.last = a.count+1, unknown
		return ctx.Err() == nil
	case errors.Is(err, ErrNotLeader):
		return ctx.Err() == nil
	default:
		return false
	}
}

// outcome is what the last attempt says of all of them: what was refused now may
// have been accepted before. Where the command stands is known if there was only one; in a
// session that has expired it may stand there and not have been executed.
func (a *attempts) outcome(ctx context.Context, err error) error {
	var refused *ApplyError
	switch {
	case err == nil, errors.As(err, &refused), errors.Is(err, ErrReplyDropped):
		return err
	case a.count == 0 && errors.Is(err, ErrSessionExpired):
		return fmt.Errorf("%w: %w", ErrNotAccepted, err)
	case a.count == 0:
		return err
	}
	unknown := &OutcomeUnknownError{Cause: err}
	if a.count == 1 && !errors.Is(err, ErrSessionExpired) {
		unknown.Index, unknown.Term = a.last.Index, a.last.Term
	}
	if ctx.Err() != nil {
		unknown.Cause = contextError(ctx)
	}
	return unknown
}

// awaitLeadership waits until this node leads, and reports false if ctx has ended before,
// or the node.
func (n *Node) awaitLeadership(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for present := range n.WatchLeader(ctx) {
		if present.IsSelf {
			return true
		}
	}
	return false
}

// stoppedWaiting is why a wait for leadership has ended.
func stoppedWaiting(ctx context.Context) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	return ErrStopped
}
