package raft

import (
	"context"
	"errors"
	"time"

	"github.com/seed-8da499c8/raft/internal/sim"
)

// Clients with sessions in a simulation. They are what [Session.Propose] is, on any node: an
// attempt that takes too long is left alone, and another one made elsewhere.

// noteSessions has the oracle compare the sessions that the node knows with those that
// others knew at the same entry.
func (n *simNode) noteSessions(event any) {
	var index Index
	switch e := event.(type) {
	case appliedUpTo:
		index = e.index
	case restored:
		index = e.id.Index
	default:
		return
	}
	if err := n.oracle.Sessions(n.number, uint64(index), n.sessions.encode()); err != nil {
		n.judge.Accuse("the clients' view", "%v", err)
	}
}

// useSession does something with the client's session, or opens one.
func (c *simClient) useSession(n *simNode) {
	switch p := c.random.IntN(30); {
	case c.session == nil:
		c.openSession(n)
	case p == 0 && c.active == 0:
		c.closeSession(n)
	case p == 1: // it has forgotten its session
		c.session, c.active = nil, 0
		c.later()
	default:
		burst := 1 + c.random.IntN(3)
		answered := c.waiting(burst)
		for range burst {
			c.inSession(n, answered)
		}
	}
}

// openSession opens a session. Members have settings of their own.
func (c *simClient) openSession(n *simNode) {
	opening := sessionOpening{uint64(c.settings.maxSessions + n.number%2), uint64(c.settings.sessionBytes)}
	answered := c.waiting(1)
	n.enqueue(EntryOpenSession, mustMarshal(&opening), func(result Result, err error) {
		if err == nil {
			c.world.Count("sessions opened")
			c.session, c.active = newSession(nil, result.Index), 0
		}
		answered()
	})
}

func (c *simClient) closeSession(n *simNode) {
	closing := sessionClosing{c.session.id}
	answered := c.waiting(1)
	n.enqueue(EntryCloseSession, mustMarshal(&closing), func(_ Result, err error) {
		if err == nil {
			c.world.Count("sessions closed")
		}
		answered()
	})
	c.session = nil
}

func mustMarshal(m interface{ marshal() ([]byte, error) }) []byte {
	data, err := m.marshal()
	if err != nil {
		panic(err)
	}
	return data
}

// simCommand is a command in a session.
type simCommand struct {
	*simClient
	session *Session
	place   SessionPlace
	op      *sim.Operation
	open    attempts
	tries   int
	ended   func() // nil: it has
	reply   *Result
}

// inSession proposes a command in the session, until its outcome is known or patience is
// lost.
func (c *simClient) inSession(n *simNode, ended func()) {
	place, err := c.session.begin(context.Background())
	if err != nil {
		panic(err)
	}
	op := c.oracle.Begin(c.number, n.number, c.world.Now(), c.command())
	command := &simCommand{simClient: c, session: c.session, place: place, op: op, ended: ended}
	c.active++
	command.try(n)
}

// simTries bounds the attempts at a command.
const simTries = 12

// try makes an attempt on a node.
func (x *simCommand) try(n *simNode) {
	x.tries++
	data, err := (&sessionCommand{x.place, []byte(x.op.Command)}).marshal()
	if err != nil {
		panic(err)
	}
	left := false
	x.world.After(x.draws(simElectionTimeout), func() {
		if !left {
			left = true
			x.goOn(Result{}, &OutcomeUnknownError{Cause: errSimTimeout})
		}
	})
	last := n.driver.core.log.last()
	n.enqueue(EntrySessionCommand, data, func(result Result, err error) {
		x.check(result, err)
		if err == nil && result.Index <= last {
			x.world.Count("retries found executed")
		}
		if !left {
			left = true
			x.goOn(result, err)
		}
	})
	if x.random.IntN(20) == 0 {
		x.world.After(x.draws(4*simElectionTimeout), func() { x.repeat(data) })
	}
}

func (x *simCommand) draws(most time.Duration) time.Duration {
	return time.Duration(x.random.Int64N(int64(most)))
}

// goOn ends the command, or tries again, after an attempt.
func (x *simCommand) goOn(result Result, err error) {
	if x.ended == nil || x.over {
		return
	}
	retry := x.open.goOn(context.Background(), err) || errors.Is(err, ErrNotAccepted)
	if !retry || x.tries == simTries {
		x.end(result, x.open.outcome(context.Background(), err))
		return
	}
	x.world.After(x.draws(simElectionTimeout/2), x.anew)
}

// anew makes another attempt, as soon as a node is up.
func (x *simCommand) anew() {
	switch n := x.someone(); {
	case x.ended == nil || x.over:
	case n == nil:
		x.world.After(x.draws(simElectionTimeout/2), x.anew)
	default:
		x.world.Count("retries in sessions")
		x.try(n)
	}
}

// repeat has an attempt arrive once more, late, if the command is done.
func (x *simCommand) repeat(data []byte) {
	n := x.someone()
	if x.ended != nil || x.op.Outcome != sim.Done || x.over || n == nil {
		return
	}
	n.enqueue(EntrySessionCommand, data, func(result Result, err error) {
		x.check(result, err)
		if err == nil || errors.Is(err, ErrReplyDropped) {
			x.world.Count("late copies of commands in sessions")
		}
	})
}

// check compares what an attempt has led to with what others at the command have.
func (x *simCommand) check(result Result, err error) {
	switch {
	case err != nil:
	case x.reply == nil:
		x.reply = &result
	case x.reply.Index != result.Index || x.reply.Term != result.Term || string(x.reply.Response) != string(result.Response):
		x.judge.Accuse("one reply to a command in a session", "%q has %+v, and had %+v", x.op.Command, result, *x.reply)
	}
}

// end tells the client what has become of the command.
func (x *simCommand) end(result Result, err error) {
	x.session.end(x.place.Sequence)
	x.op.Return = x.world.Now()
	switch {
	case err == nil:
		x.op.Outcome, x.op.Index, x.op.Response = sim.Done, uint64(result.Index), string(result.Response)
		x.wrote = max(x.wrote, result.Index)
	case errors.Is(err, ErrNotAccepted):
		x.op.Outcome = sim.Refused
	default:
		x.op.Outcome = sim.Unknown
	}
	if errors.Is(err, ErrReplyDropped) {
		x.op.Executed = true
		x.world.Count("replies dropped")
	}
	x.world.Count("commands in sessions " + string(x.op.Outcome))
	if x.session == x.simClient.session {
		x.active--
		if errors.Is(err, ErrSessionExpired) {
			x.world.Count("sessions expired")
			x.simClient.session = nil
		}
	}
	x.ended()
	x.ended = nil
}
