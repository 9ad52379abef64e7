package raft_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// Sessions in clusters.

// session opens a session at a node.
func (c *cluster) session(id raft.NodeID) *raft.Session {
	c.t.Helper()
	s, err := c.node(id).OpenSession(c.t.Context())
	require.NoError(c.t, err)
	return s
}

// inSession proposes in the background.
func inSession(ctx context.Context, s *raft.Session, command string) <-chan outcome {
	ended := make(chan outcome, 1)
	go func() {
		result, err := s.Propose(ctx, []byte(command))
		ended <- outcome{result, err}
	}()
	return ended
}

// await waits for an outcome, in virtual time.
func (c *cluster) await(ended <-chan outcome) outcome {
	c.t.Helper()
	select {
	case o := <-ended:
		return o
	case <-time.After(soon):
		require.FailNow(c.t, "no outcome")
		panic("unreachable")
	}
}

// lead hands leadership to a node.
func (c *cluster) lead(id raft.NodeID) {
	c.t.Helper()
	if leader := c.leader(); leader != id {
		require.NoError(c.t, c.node(leader).TransferLeadership(c.t.Context(), id))
	}
	require.Equal(c.t, id, c.leader())
}

// refuseNo refuses the command no.
func refuseNo(command string) error {
	if command == "no" {
		return errVault
	}
	return nil
}

// A leader has accepted a command, its followers have it, and no answer comes back: the
// client's session proposes it again, there and at the same time through the next leader. It is
// executed once, and all get the same reply.
func TestCS1RetryIsExecutedOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{machine: recorders(refuseNo)})
		a := c.leader()
		bc := c.others(a)
		s := c.session(a)
		var expected []string
		for _, command := range []string{"increment", "no"} {
			twin := s.On(c.node(bc[0]))
			c.equal()
			synctest.Wait() // nothing is under way
			c.network.Cut(bc[0], a)
			c.network.Cut(bc[1], a)
			first := inSession(t.Context(), s, command)
			synctest.Wait()
			c.network.Isolate(a)
			b := c.leaderOf(bc...)
			if command != "no" {
				expected = append(expected, command)
			}
			c.eventually(soon, "an entry of the new leader", func() bool { return c.status(b).AppliedIndex == c.status(b).LastIndex })
			require.Equal(t, expected, c.applied(b), "what the old leader has accepted is executed")
			c.network.Heal()
			c.lead(bc[0])
			second := inSession(t.Context(), twin, command)
			retried := c.await(second)
			c.lead(a)
			replied := c.await(first)
			require.Equal(t, replied.result, retried.result)
			if command == "no" {
				var one, two *raft.ApplyError
				require.ErrorAs(t, replied.err, &one)
				require.ErrorAs(t, retried.err, &two)
				require.Equal(t, *one, *two)
				require.EqualError(t, one.Err, errVault.Error())
			} else {
				require.NoError(t, replied.err)
				require.NoError(t, retried.err)
				require.Equal(t, "1", string(replied.result.Response))
			}
		}
		c.settled(expected...)
	})
}

// Many clients, each with several commands under way in one session, while leaders come and
// go: each command is executed once. With forwarding the sessions live on all members.
func TestCS1ManyCommandsWhileLeadersChange(t *testing.T) {
	t.Parallel()
	for _, forwards := range []bool{false, true} {
		t.Run(fmt.Sprintf("forwarding %t", forwards), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) {
					often(config)
					config.ForwardProposals = forwards
				}})
				a := c.leader()
				sessions := []*raft.Session{c.session(a)}
				if forwards {
					sessions = append(sessions, c.session(c.others(a)[0]), c.session(c.others(a)[1]))
				}
				const clients, each = 6, 30
				var all sync.WaitGroup
				for client := range clients {
					all.Go(func() {
						s := sessions[client%len(sessions)]
						for i := range each {
							result, err := s.Propose(t.Context(), fmt.Appendf(nil, "%d.%d", client, i))
							require.NoError(t, err)
							require.NotEmpty(t, result.Response)
							time.Sleep(20 * time.Millisecond)
						}
					})
				}
				done := make(chan struct{})
				go func() { all.Wait(); close(done) }()
				for over := false; !over; {
					c.network.Isolate(a)
					c.leaderOf(c.others(a)...)
					c.network.Heal()
					c.lead(a)
					select {
					case <-done:
						over = true
					case <-time.After(100 * time.Millisecond):
					}
				}
				seen := map[string]int{}
				for _, command := range c.equal() {
					seen[command]++
					require.Equal(t, 1, seen[command], command)
				}
				require.Len(t, seen, clients*each)
			})
		})
	}
}

// A client that keeps the numbers itself gets the same reply whichever member executes its
// command again, and what it does not wait for is not executed any more.
func TestCS1ClientsThatKeepTheirNumbers(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{machine: recorders(refuseNo)})
		id := c.session(c.leader()).ID()
		propose := func(sequence, awaited uint64, command string) (raft.Result, error) {
			return c.node(c.leader()).ProposeInSession(t.Context(), raft.SessionPlace{id, sequence, awaited}, []byte(command))
		}
		first, err := propose(256, 1, "first")
		require.NoError(t, err)
		refused, refusal := propose(3, 1, "no")
		require.ErrorContains(t, refusal, errVault.Error())
		for _, leader := range c.ids {
			c.lead(leader)
			again, err := propose(256, 1, "something else")
			require.NoError(t, err)
			require.Equal(t, first, again)
			again, err = propose(3, 1, "no")
			require.Equal(t, refusal, err)
			require.Equal(t, refused, again)
		}
		_, err = propose(300, 256, "second")
		require.NoError(t, err)
		late, err := propose(4, 1, "not awaited")
		require.ErrorIs(t, err, raft.ErrReplyDropped)
		require.Zero(t, late)

		c.lead(c.others(c.leader())[0])
		for range 2 {
			require.NoError(t, c.node(c.leader()).CloseSession(t.Context(), id))
		}
		_, err = propose(301, 256, "third")
		require.ErrorIs(t, err, raft.ErrSessionExpired)
		requireRefused(t, err)
		c.settled("first", "second")
	})
}

// A place that no client may name is refused before anything else.
func TestCS1PlacesThatAreNone(t *testing.T) {
	t.Parallel()
	node, err := raft.NewNode(raft.NewConfig("a", "a", map[raft.NodeID]string{"a": "a"}), new(recorder), raft.NewMemoryNetwork().Transport("a"))
	require.NoError(t, err)
	for _, place := range []raft.SessionPlace{{}, {0, 1, 1}, {1, 0, 0}, {1, 0, 1}, {1, 1, 0}, {1, 1, 2}, {1, 257, 1}, {1, math.MaxUint64, 1}} {
		_, err := node.ProposeInSession(t.Context(), place, []byte("x"))
		require.Error(t, err, "%v", place)
		requireRefused(t, err)
		require.NotErrorIs(t, err, raft.ErrStopped)
		require.ErrorContains(t, err, fmt.Sprintf("command %d of session %d", place.Sequence, place.Session))
	}
	require.NoError(t, node.Stop(t.Context()))
	_, err = node.ProposeInSession(t.Context(), raft.SessionPlace{1, 256, 1}, []byte("x"))
	require.ErrorIs(t, err, raft.ErrStopped)
}

// The sessions are part of snapshots: a member that comes back by one knows what was
// executed, and replies as the others would. So do members that start again.
func TestCS2SessionsAreInSnapshots(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]struct{ streams, forwards bool }{
		"at once": {false, false}, "streaming": {true, false}, "forwarding": {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				options := clusterOptions{machine: recorders(refuseNo), configure: func(config *raft.Config) {
					often(config)
					config.ForwardProposals = how.forwards
				}}
				if how.streams {
					options.machine = func(raft.NodeID) raft.StateMachine {
						return &streamingRecorder{recorder{before: refuseNo}}
					}
				}
				c := startCluster(t, 3, options)
				leader := c.leader()
				away := c.others(leader)[0]
				at := leader
				if how.forwards {
					at = away
				}
				s, o := c.session(at), c.session(at)
				again, refusedAgain := s.On(c.node(leader)), o.On(c.node(leader))
				first, err := s.Propose(t.Context(), []byte("once"))
				require.NoError(t, err)
				no, err := o.Propose(t.Context(), []byte("no"))
				var refused *raft.ApplyError
				require.ErrorAs(t, err, &refused)
				c.kill(away)
				time.Sleep(2 * electionTimeout)
				c.proposeMany(leader, 0, 100)
				require.Greater(t, c.status(leader).FirstIndex, no.Index)
				c.start(away)
				c.equal()
				require.Equal(t, 1, c.restored(away))
				retry := func(id raft.NodeID) {
					if !how.forwards {
						c.lead(id)
					}
					result, err := again.On(c.node(id)).Propose(t.Context(), []byte("once"))
					require.NoError(t, err)
					require.Equal(t, first, result)
					_, err = refusedAgain.On(c.node(id)).Propose(t.Context(), []byte("no"))
					require.Equal(t, error(refused), err)
				}
				retry(away)
				require.Len(t, c.equal(), 101)
				for _, id := range c.ids {
					c.kill(id)
				}
				for _, id := range c.ids {
					c.start(id)
				}
				c.leader()
				for _, id := range c.ids {
					retry(id)
				}
				require.Len(t, c.equal(), 101)
			})
		})
	}
}

// streamingRecorder hands out its state in the other way.
type streamingRecorder struct{ recorder }

func (r *streamingRecorder) CaptureSnapshot() (raft.SnapshotView, error) {
	state, err := r.Snapshot()
	return frozen(state), err
}

func (r *streamingRecorder) RestoreFrom(_ context.Context, from io.Reader) error {
	state, err := io.ReadAll(from)
	return errors.Join(err, r.Restore(state))
}

// frozen is a view of a state that was copied.
type frozen []byte

func (f frozen) WriteTo(_ context.Context, w io.Writer) error {
	_, err := w.Write(f)
	return err
}

func (f frozen) Close() error { return nil }

// The bounds are in the log: when a leader that allows fewer sessions opens one, the same
// one expires on all members, whatever their own settings are.
func TestCS3MembersWithOtherSettings(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{each: func(id raft.NodeID, config *raft.Config) {
			config.MaxSessions = map[raft.NodeID]int{"a": 1, "b": 2, "c": 100}[id]
		}})
		c.lead("c")
		one, two := c.session("c"), c.session("c")
		c.lead("b")
		three := c.session("b")
		for _, id := range c.ids {
			c.lead(id)
			_, err := one.On(c.node(id)).Propose(t.Context(), []byte("expired"))
			require.ErrorIs(t, err, raft.ErrSessionExpired)
			_, err = three.On(c.node(id)).Propose(t.Context(), []byte("three"))
			require.NoError(t, err)
		}
		c.lead("c")
		_, err := two.On(c.node("c")).Propose(t.Context(), []byte("two"))
		require.NoError(t, err)
		c.settled("three", "two")
	})
}

// What is proposed in a session that is no more is not executed, and nothing is tried in
// another one.
func TestCS4ExpiredSession(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) { config.MaxSessions = 2 }})
		a := c.leader()
		bc := c.others(a)
		s, other := c.session(a), c.session(a)
		_, err := s.Propose(t.Context(), []byte("first"))
		require.NoError(t, err)
		_, err = other.Propose(t.Context(), []byte("other"))
		require.NoError(t, err)

		// One command is under way, and nobody knows what has become of it.
		synctest.Wait() // nothing else is
		c.network.Cut(bc[0], a)
		c.network.Cut(bc[1], a)
		pending := inSession(t.Context(), s, "second")
		synctest.Wait()
		c.network.Isolate(a)
		b := c.leaderOf(bc...)
		c.network.Heal()
		c.lead(b)
		_, err = other.On(c.node(b)).Propose(t.Context(), []byte("used"))
		require.NoError(t, err)
		c.session(b)
		c.lead(a)
		unknown := requireUnknown(t, c.await(pending).err)
		require.ErrorIs(t, unknown, raft.ErrSessionExpired)
		require.Zero(t, unknown.Index, "being in the log would not say that it was executed")

		_, err = s.Propose(t.Context(), []byte("third"))
		require.ErrorIs(t, err, raft.ErrSessionExpired)
		requireRefused(t, err)
		require.NoError(t, other.Close(t.Context()))
		_, err = other.Propose(t.Context(), []byte("fourth"))
		require.ErrorIs(t, err, raft.ErrSessionExpired)
		require.NoError(t, s.Close(t.Context()), "it is closed")
		c.settled("first", "other", "second", "used")
	})
}

// A2: whoever waits in a session ends with its ctx, or with the node.
func TestA2WaitsInSessionsEnd(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		a := c.leader()
		s, single := c.session(a), c.session(a)
		follower := s.On(c.node(c.others(a)[0]))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := follower.Propose(ctx, []byte("at a follower"))
		requireRefused(t, err)
		require.ErrorIs(t, err, raft.ErrNotLeader)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = c.node(c.others(a)[0]).OpenSession(t.Context())
		require.ErrorIs(t, err, raft.ErrNotLeader)

		c.network.Isolate(a)
		var waits []<-chan outcome
		for i := range 300 { // more than there is room for
			waits = append(waits, inSession(t.Context(), s, fmt.Sprint(i)))
		}
		brief, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		unknown := requireUnknown(t, c.await(inSession(brief, single, "brief")).err)
		require.ErrorIs(t, unknown, context.DeadlineExceeded)
		synctest.Wait()
		c.stop(a)
		refused := 0
		for _, wait := range waits {
			if err := c.await(wait).err; errors.Is(err, raft.ErrNotAccepted) {
				refused++
			} else {
				requireUnknown(t, err)
			}
		}
		require.Less(t, refused, 300)
		_, err = s.Propose(t.Context(), []byte("after"))
		require.ErrorIs(t, err, raft.ErrStopped)
	})
}

// crashAll ends all nodes with state machines that keep their own state, and starts them
// again; these have what was synced before, or all.
func (c *cluster) crashAll(synced bool) {
	for _, id := range c.ids {
		c.kill(id)
		if synced {
			_, err := c.archive(id).Sync()
			require.NoError(c.t, err)
		}
		c.archive(id).crash()
	}
	for _, id := range c.ids {
		c.start(id)
	}
}

// A state machine that keeps its own state executes a command of a session once across
// crashes of all members, also if it was given it in an earlier life.
func TestCS1DurableStateMachine(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, archives(nil))
		leader := c.leader()
		s := c.session(leader)
		again := s.On(c.node(leader))
		first, err := s.Propose(t.Context(), []byte("once"))
		require.NoError(t, err)
		retry := func(want error) {
			for _, id := range c.ids {
				c.lead(id)
				result, err := again.On(c.node(id)).Propose(t.Context(), []byte("once"))
				require.ErrorIs(t, err, want)
				require.Equal(t, first.Index, result.Index)
				if want == nil {
					require.Equal(t, first, result)
				}
			}
		}
		retry(nil)
		c.crashAll(false)
		retry(nil) // all of them were given it again
		c.crashAll(true)
		retry(raft.ErrReplyDropped) // they have it, and the reply is nowhere
		require.Equal(t, []string{"once"}, c.equal())
	})
}

// Once there are sessions, the log of a state machine that keeps its own state is
// compacted by snapshots, which have them.
func TestCS2DurableStateMachine(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, archives(often))
		leader := c.leader()
		c.proposeMany(leader, 0, 50)
		c.archive(leader).with(func(a *archive) { require.Zero(t, a.taken, "there is no session") })
		s := c.session(leader)
		again := s.On(c.node(leader))
		first, err := s.Propose(t.Context(), []byte("once"))
		require.NoError(t, err)
		c.proposeMany(leader, 50, 150)
		c.equal()
		for _, id := range c.ids {
			c.eventually(soon, "a compacted log", func() bool { return c.status(id).FirstIndex > first.Index })
			c.archive(id).with(func(a *archive) { require.Positive(t, a.taken) })
		}
		c.crashAll(true)
		for _, id := range c.ids {
			c.lead(id)
			result, err := again.On(c.node(id)).Propose(t.Context(), []byte("once"))
			require.NoError(t, err)
			require.Equal(t, first, result)
		}
		require.Len(t, c.equal(), 201)
	})
}
