package raft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
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
// A Session lives on its node. While that does not lead, commands wait until it does, or
// with Config.ForwardProposals are sent on to the leader, once there is one.
type Session struct {
	node *Node
	id   Index

	mu    sync.Mutex
	next  uint64              // the sequence number of the next command
	acked uint64              // nobody waits for those below it
	ended map[uint64]struct{} // nor for these
	moved chan struct{}       // closed, and replaced, when acked grows
}

// OpenSession opens a session of a client, by an entry of the log. Call it on the leader, or
// with Config.ForwardProposals on any member.
// Errors are those of [Node.Propose]; what an unknown outcome may leave behind is a
// session that nobody uses.
func (n *Node) OpenSession(ctx context.Context) (*Session, error) {
	data, err := n.sessionOpening()
	if err != nil {
		return nil, err
	}
	result, err := n.proposeOrForward(ctx, EntryOpenSession, data)
	if err != nil {
		return nil, err
	}
	return newSession(n, result.Index), nil
}

// sessionOpening is what a leader of these settings has in the entry that opens a session.
func (n *Node) sessionOpening() ([]byte, error) {
	opening := sessionOpening{uint64(n.config.MaxSessions), uint64(n.config.SessionReplyBytes)}
	return opening.marshal()
}

func newSession(n *Node, id Index) *Session {
	return &Session{node: n, id: id, next: 1, acked: 1, ended: map[uint64]struct{}{}, moved: make(chan struct{})}
}

// ID returns what names the session, the index of the entry that has opened it: no other
// session of the cluster ever has the same.
func (s *Session) ID() Index { return s.id }

// SessionPlace is where a command stands in a session, for clients outside of this process:
// they number their own commands, and propose one again on any member, as the same.
type SessionPlace struct {
	Session      Index  // as [Session.ID] returned it
	Sequence     uint64 // of the command: 1 is the first of its session, and no two have the same
	FirstAwaited uint64 // the lowest sequence number whose reply the client still waits for, this one's at most
}

// valid refuses what no client may say. Members remember what was executed from the first
// command on that is waited for, so many of them at most.
func (p SessionPlace) valid() error {
	switch {
	case p.Session == 0 || p.Sequence == 0 || p.FirstAwaited == 0:
		return fmt.Errorf("command %d of session %d, whose client waits for those from %d on: none of them may be 0", p.Sequence, p.Session, p.FirstAwaited)
	case p.Sequence < p.FirstAwaited || p.Sequence-p.FirstAwaited >= sessionWindow:
		return fmt.Errorf("command %d of session %d, whose client waits for those from %d on: want one of the %d from there on", p.Sequence, p.Session, p.FirstAwaited, sessionWindow)
	default:
		return nil
	}
}

// Propose is [Node.Propose] for a command that is executed once at most. It is proposed
// again for as long as ctx lasts, when leadership was lost or the outcome is unknown, and
// the result is that of the one execution, as it was first given. The text of an
// [*ApplyError] is that of the state machine's error, and its Err nothing more.
//
// Once ctx has ended, or the node has stopped, the error is of one of the two classes, as
// that of Node.Propose is. After an [*OutcomeUnknownError] the command may still be executed,
// once; to propose it again would be another command. If the error says where it stands,
// [Node.Resolve] settles that; what is committed was executed, unless the session had expired.
// [ErrSessionExpired] says that the session is no more; it matches [ErrNotAccepted] too if
// the command was not executed and never will be, else [ErrOutcomeUnknown].
func (s *Session) Propose(ctx context.Context, command []byte) (Result, error) {
	if err := s.node.checkCommand(command); err != nil {
		return Result{}, err
	}
	place, err := s.begin(ctx)
	if err != nil {
		return Result{}, err
	}
	defer s.end(place.Sequence)
	return s.node.ProposeInSession(ctx, place, command)
}

// ProposeInSession is [Session.Propose] for a client that keeps the numbers itself, since it
// lives in another process: whichever member it asks again, and however often, a command of
// the same place is executed once, and all who ask get that reply. It is for the client to
// see to it that a place belongs to one command, and that it does not name as awaited
// what is above a number that it may propose again: what is below that is not executed any
// more, and the error matches [ErrReplyDropped], with an empty Result.
//
// A place with a zero, or 256 or more numbers ahead of FirstAwaited, is refused with
// [ErrNotAccepted]. What errors say is about this call: an earlier one at the same place may
// have led to more.
func (n *Node) ProposeInSession(ctx context.Context, at SessionPlace, command []byte) (Result, error) {
	if err := at.valid(); err != nil {
		return Result{}, fmt.Errorf("%w: %w", ErrNotAccepted, err)
	}
	if err := n.checkCommand(command); err != nil {
		return Result{}, err
	}
	data, err := (&sessionCommand{at, command}).marshal()
	if err != nil {
		return Result{}, err
	}
	return n.proposeUntilKnown(ctx, EntrySessionCommand, data)
}

// Close ends the session, as [Node.CloseSession] does.
func (s *Session) Close(ctx context.Context) error { return s.node.CloseSession(ctx, s.id) }

// CloseSession ends a session: nothing is executed in it any more. One that is not closed, since
// its client has crashed, expires in time. It is tried again for as long as ctx lasts, and
// does nothing if there is no such session.
func (n *Node) CloseSession(ctx context.Context, id Index) error {
	data, err := (&sessionClosing{id}).marshal()
	if err != nil {
		return err
	}
	if _, err = n.proposeUntilKnown(ctx, EntryCloseSession, data); errors.Is(err, ErrSessionExpired) {
		return nil
	}
	return err
}

// proposeUntilKnown proposes an entry that does nothing where it stands in the log once more,
// as often as it takes.
func (n *Node) proposeUntilKnown(ctx context.Context, kind EntryKind, data []byte) (Result, error) {
	var open attempts
	for {
		result, err := n.proposeOrForward(ctx, kind, data)
		if !open.goOn(ctx, err) {
			return result, open.outcome(ctx, err)
		}
		if !n.awaitLeader(ctx) {
			return Result{}, open.outcome(ctx, fmt.Errorf("%w, and then: %w", err, stoppedWaiting(ctx)))
		}
	}
}

// begin gives a command its place. It waits while the first one under way is so many
// numbers back as members remember at most.
func (s *Session) begin(ctx context.Context) (SessionPlace, error) {
	for {
		s.mu.Lock()
		place, moved := SessionPlace{s.id, s.next, s.acked}, s.moved
		room := place.valid() == nil
		if room {
			s.next++
		}
		s.mu.Unlock()
		if room {
			return place, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return SessionPlace{}, leftQueue(ctx)
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
	case errors.Is(err, ErrNotLeader), errors.Is(err, ErrUnreachable), isPassing(err):
		return ctx.Err() == nil
	default:
		return false
	}
}

// isPassing reports whether a leader has refused what it, or the next one, may take later.
func isPassing(err error) bool {
	_, ok := refusalIn(err)
	return ok && (errors.Is(err, ErrStopped) || errors.Is(err, ErrOverloaded))
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
	if ctx.Err() != nil && !errors.Is(err, ErrSessionExpired) {
		unknown.Cause = contextError(ctx)
	}
	return unknown
}

// awaitLeader waits until there is a reason to propose again, and reports false if ctx has
// ended before, or the node: until this node leads, or another that it may forward to. That
// one has not been of use a moment ago, and is not asked without a pause.
func (n *Node) awaitLeader(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	leaders := n.WatchLeader(ctx)
	for {
		select {
		case present, open := <-leaders:
			switch {
			case !open:
				return false
			case present.IsSelf:
				return true
			case n.config.ForwardProposals && present.Leader != "":
				return n.pause(ctx, n.config.HeartbeatInterval)
			}
		case <-n.inbox.ended: // Run may take longer, as with a disk that hangs
			return false
		}
	}
}

// pause reports whether so much time has passed before the end of ctx, or of the node.
func (n *Node) pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
	case <-n.inbox.ended:
	}
	return false
}

// stoppedWaiting is why a wait for a leader has ended.
func stoppedWaiting(ctx context.Context) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	return ErrStopped
}
