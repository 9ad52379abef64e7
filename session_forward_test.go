package raft_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// Sessions on members that do not lead, which forward what their clients propose, and what
// becomes of forwarded calls on their way.

// loseAnswers loses the answers to forwarded calls, until what it returns is called.
func (c *cluster) loseAnswers() (stop func()) {
	c.network.Intercept(func(_, _ raft.NodeID, message any) raft.Verdict {
		_, answer := message.(*raft.ForwardResponse)
		return raft.Verdict{Drop: answer}
	})
	return func() { c.network.Intercept(nil) }
}

// countForwarded counts the calls of a kind that are forwarded from now on.
func (c *cluster) countForwarded(kind raft.ForwardKind) *atomic.Int64 {
	count := new(atomic.Int64)
	c.network.Intercept(func(_, _ raft.NodeID, message any) raft.Verdict {
		if request, ok := message.(*raft.ForwardRequest); ok && request.Kind == kind {
			count.Add(1)
		}
		return raft.Verdict{}
	})
	return count
}

// The leader has executed a follower's command and its answer is lost, as that of the leader
// after it: the session has the command proposed again, and its client gets the reply to the one
// execution.
func TestCS1FollowersSession(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: forwarding, machine: recorders(refuseNo)})
		leader := c.leader()
		follower, next := c.others(leader)[0], c.others(leader)[1]
		s := c.session(follower)
		stop := c.loseAnswers()
		increment, no := inSession(t.Context(), s, "increment"), inSession(t.Context(), s, "no")
		synctest.Wait()
		require.Equal(t, []string{"increment"}, c.applied(leader))
		c.lead(next)
		time.Sleep(10 * electionTimeout) // until it is known that no answer comes
		require.Empty(t, increment)
		require.Empty(t, no)
		stop()
		time.Sleep(20 * electionTimeout)
		replied := receive(t, increment, "the reply")
		require.NoError(t, replied.err)
		require.Equal(t, "1", string(replied.result.Response))
		var refused *raft.ApplyError
		require.ErrorAs(t, receive(t, no, "the refusal").err, &refused)
		require.EqualError(t, refused.Err, errVault.Error())

		require.NoError(t, s.Close(t.Context()))
		_, err := s.Propose(t.Context(), []byte("after"))
		require.ErrorIs(t, err, raft.ErrSessionExpired)
		requireRefused(t, err)
		require.NoError(t, s.Close(t.Context()), "it is closed")
		c.settled("increment")
	})
}

// The bounds are those of the leader that opens a session, wherever it lives, and what it has
// forgotten is told as on the leader: across the wire, too.
func TestCS3FollowersSession(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: forwarding, each: func(id raft.NodeID, config *raft.Config) {
			config.MaxSessions = map[raft.NodeID]int{"a": 1, "b": 1, "c": 3}[id]
			config.SessionReplyBytes = map[raft.NodeID]int{"a": 1 << 20, "b": 1 << 20, "c": 1}[id]
		}})
		c.lead("c")
		for _, id := range []raft.NodeID{"a", "b"} {
			one, two := c.session(id), c.session(id)
			first, err := one.Propose(t.Context(), []byte("one of "+string(id)))
			require.NoError(t, err)
			require.Contains(t, c.applied(id), "one of "+string(id))
			_, err = two.Propose(t.Context(), []byte("two of "+string(id)))
			require.NoError(t, err)
			place := raft.SessionPlace{Session: one.ID(), Sequence: 1, FirstAwaited: 1}
			again, err := c.node(id).ProposeInSession(t.Context(), place, []byte("again"))
			require.ErrorIs(t, err, raft.ErrReplyDropped)
			require.NotErrorIs(t, err, raft.ErrNotAccepted)
			require.Equal(t, raft.Result{Index: first.Index, Term: first.Term}, again)
			require.NoError(t, c.node(id).CloseSession(t.Context(), one.ID()))
		}
		c.settled("one of a", "two of a", "one of b", "two of b")
	})
}

// A follower's command was executed, its answer is lost, and its session expires meanwhile:
// the client learns that nobody knows, and the next command is certainly not executed.
func TestCS4FollowersSessionExpires(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) {
			forwarding(config)
			config.MaxSessions = 1
		}})
		leader := c.leader()
		s := c.session(c.others(leader)[0])
		stop := c.loseAnswers()
		pending := inSession(t.Context(), s, "first")
		synctest.Wait()
		c.session(leader)
		stop()
		time.Sleep(20 * electionTimeout)
		unknown := requireUnknown(t, receive(t, pending, "the outcome").err)
		require.ErrorIs(t, unknown, raft.ErrSessionExpired)
		require.Zero(t, unknown.Index)
		_, err := s.Propose(t.Context(), []byte("second"))
		require.ErrorIs(t, err, raft.ErrSessionExpired)
		requireRefused(t, err)
		c.settled("first")
	})
}

// A session on a member that never leads waits until a leader is known, and asks one that is
// gone now and then.
func TestA2FollowersSessionWaitsForALeader(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: forwarding})
		leader := c.leader()
		c.join("d")
		require.NoError(t, c.node(leader).AddLearner(t.Context(), newMember("d")))
		c.eventually(soon, "the learner follows", func() bool { return c.status("d").Leader == leader })
		s := c.session("d")
		asked := c.countForwarded(raft.ForwardSessionCommand)
		away := c.others(leader)[0]
		c.kill(leader)
		c.network.Isolate(away)
		pending := inSession(t.Context(), s, "command")
		time.Sleep(10 * electionTimeout)
		require.Empty(t, pending)
		require.NotZero(t, asked.Load(), "the learner does not know that the leader is gone")
		require.LessOrEqual(t, asked.Load(), int64(1+10*electionTimeout/heartbeat), "once for each heartbeat at most")
		c.network.Heal()
		require.NoError(t, c.await(pending).err)
		c.start(leader)
		c.settled("command")
	})
}

// A2 with forwarding: whoever waits in a follower's session ends with its ctx, or with the
// node, wherever the command is.
func TestA2WaitsInFollowersSessionsEnd(t *testing.T) {
	t.Parallel()
	for name, hinder := range map[string]func(c *cluster, leader, follower raft.NodeID){
		"no answer": func(c *cluster, _, _ raft.NodeID) { c.loseAnswers() },
		"no leader": func(c *cluster, _, follower raft.NodeID) {
			c.network.Isolate(follower)
			c.eventually(soon, "no leader is known", func() bool { return c.status(follower).Leader == "" })
		},
		"a leader that is gone": func(c *cluster, leader, _ raft.NodeID) { c.kill(leader) },
		"not applied here": func(c *cluster, leader, follower raft.NodeID) {
			c.network.Intercept(func(_, to raft.NodeID, message any) raft.Verdict {
				_, append := message.(*raft.AppendEntries)
				return raft.Verdict{Drop: append && to == follower}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 3, clusterOptions{configure: forwarding})
				leader := c.leader()
				follower := c.others(leader)[0]
				s, other := c.session(follower), c.session(follower)
				hinder(c, leader, follower)
				ctx, cancel := context.WithTimeout(t.Context(), electionTimeout/4)
				defer cancel()
				brief, long := inSession(ctx, s, "brief"), inSession(context.Background(), s, "long")
				closed := make(chan error, 1)
				go func() { closed <- other.Close(ctx) }()
				time.Sleep(electionTimeout / 4)
				requireUnknownOrRefused(t, receive(t, brief, "the end with ctx").err)
				requireUnknownOrRefused(t, receive(t, closed, "the end with ctx"))
				require.Empty(t, long)
				c.stop(follower)
				requireUnknownOrRefused(t, receive(t, long, "the end with the node").err)
			})
		})
	}
}

// A8 with forwarding: the entry of a follower's session is replaced by another. Its client
// does not get the other's result, but that of its command, executed once.
func TestA8FollowersSessionWhoseEntryIsOverwritten(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 5, clusterOptions{configure: forwarding})
		a := c.leader()
		follower, rest := c.others(a)[0], c.others(a)[1:]
		s := c.session(follower)
		c.network.Partition([]raft.NodeID{a, follower}, rest)
		pending := inSession(t.Context(), s, "a's")
		synctest.Wait()
		require.Empty(t, pending)
		c.propose(c.leaderOf(rest...), "b's")
		time.Sleep(electionTimeout)
		require.Empty(t, pending)
		c.network.Heal()
		replied := c.await(pending)
		require.NoError(t, replied.err)
		require.Equal(t, "2", string(replied.result.Response))
		c.settled("b's", "a's")
	})
}

// What is proposed outside of a session is sent once, whatever becomes of it, also where the
// network would deliver requests twice.
func TestA1ProposalsAreForwardedOnce(t *testing.T) {
	t.Parallel()
	for name, hinder := range map[string]func(c *cluster, leader raft.NodeID) (want error){
		"well": func(c *cluster, _ raft.NodeID) error {
			c.network.Duplicate("", "", 1)
			return nil
		},
		"deaf": func(c *cluster, leader raft.NodeID) error {
			c.network.Cut("", leader)
			return raft.ErrOutcomeUnknown
		},
		"gone": func(c *cluster, leader raft.NodeID) error {
			c.kill(leader)
			return raft.ErrUnreachable
		},
		"no leader any more": func(c *cluster, leader raft.NodeID) error {
			c.network.Cut("", leader)
			time.Sleep(electionTimeout * 9 / 10) // from hearing nobody to stepping down
			return raft.ErrOutcomeUnknown
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 3, clusterOptions{configure: forwarding})
				leader := c.leader()
				follower := c.others(leader)[0]
				asked := c.countForwarded(raft.ForwardPropose)
				want := hinder(c, leader)
				ctx, cancel := context.WithTimeout(t.Context(), 2*electionTimeout)
				defer cancel()
				_, err := c.node(follower).Propose(ctx, []byte("once"))
				require.ErrorIs(t, err, want)
				require.EqualValues(t, 1, asked.Load())
				c.network.Heal()
				c.network.Duplicate("", "", 0)
				if !c.isRunning(leader) {
					c.start(leader)
				}
				c.propose(c.leader(), "after")
				once := 0
				for _, command := range c.equal() {
					if command == "once" {
						once++
					}
				}
				require.LessOrEqual(t, once, 1)
			})
		})
	}
}

// A leader holds what others forward to its own limits, and takes nothing that no member
// sends.
func TestA11WhatALeaderDoesNotProposeForOthers(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: forwarding, each: func(id raft.NodeID, config *raft.Config) {
			if id == "a" {
				config.MaxCommandBytes = 10
			}
		}})
		c.lead("a")
		before := c.status("a").LastIndex
		s := c.session("b")
		_, err := c.node("b").Propose(t.Context(), []byte("more than ten bytes"))
		require.ErrorIs(t, err, raft.ErrTooLarge)
		requireRefused(t, err)
		_, err = s.Propose(t.Context(), []byte("more than ten bytes"))
		require.ErrorIs(t, err, raft.ErrTooLarge)
		requireRefused(t, err)

		var header raft.Header
		c.network.Intercept(func(_, to raft.NodeID, message any) raft.Verdict {
			if request, ok := message.(*raft.ForwardRequest); ok {
				header = request.Header
			}
			return raft.Verdict{}
		})
		_, err = s.Propose(t.Context(), []byte("ten bytes."))
		require.NoError(t, err)
		for kind := range raft.ForwardKind(10) {
			if kind == raft.ForwardPropose || kind == raft.ForwardReadIndex || kind == raft.ForwardOpenSession {
				continue
			}
			response, err := c.node("a").HandleForward(t.Context(), &raft.ForwardRequest{Header: header, Kind: kind, Payload: []byte{0xc1}})
			if err == nil {
				require.Equal(t, raft.CodeInvalidMessage, response.Code, "kind %d", kind)
			} else {
				require.ErrorIs(t, err, raft.ErrUnsupported, "kind %d", kind)
			}
		}
		require.Equal(t, before+2, c.status("a").LastIndex, "the session, and one command")
		c.settled("ten bytes.")
	})
}
