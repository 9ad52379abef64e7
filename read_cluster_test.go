package raft_test

import (
	"context"
	"errors"
	"flag"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/seed-8da499c8/raft"
)

// Reads and forwarded calls of nodes. What they rest on is tested in
// read_scenarios_test.go.

// readLater reads in the background.
func (c *cluster) readLater(ctx context.Context, id raft.NodeID, options raft.ReadOptions) <-chan outcome {
	node, ended := c.node(id), make(chan outcome, 1)
	go func() {
		index, err := node.Read(ctx, options)
		ended <- outcome{raft.Result{Index: index}, err}
	}()
	return ended
}

// Whoever has written something, anywhere, sees it after ReadIndex on any member, learners
// included, and nothing is written for that.
func TestReadsOnEveryMember(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{machine: recorders(func(string) error {
			time.Sleep(10 * time.Millisecond)
			return nil
		})})
		leader := c.leader()
		c.join("d")
		require.NoError(t, c.node(leader).AddLearner(t.Context(), newMember("d")))
		c.eventually(soon, "the learner follows", func() bool { return c.status("d").Leader == leader })
		for _, id := range c.ids {
			command := "before the read on " + string(id)
			result := c.propose(leader, command)
			last := c.status(leader).LastIndex
			time.Sleep(time.Second) // the leader's own disk is the last to be asked
			saves := c.disk(leader).saveCount()
			index, err := c.node(id).ReadIndex(t.Context())
			require.NoError(t, err, "%s", id)
			require.GreaterOrEqual(t, index, result.Index)
			require.Contains(t, c.applied(id), command)
			require.Equal(t, last, c.status(leader).LastIndex)
			require.Equal(t, saves, c.disk(leader).saveCount(), "nothing is written")
		}
	})
}

// A2: every read ends when leadership is lost or the node stops, on the leader and on
// those who have asked it, and reading again is safe.
func TestA2EveryReadEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(c *cluster, id raft.NodeID){
		"quorum lost": func(*cluster, raft.NodeID) {},
		"stopped":     (*cluster).stop,
		"killed":      (*cluster).kill,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 5, clusterOptions{})
				leader := c.leader()
				follower := c.others(leader)[0]
				away := c.others(leader)[1:]
				c.network.Partition([]raft.NodeID{leader, follower}, away)
				var ends []<-chan outcome
				for range 100 {
					for _, id := range []raft.NodeID{leader, follower} {
						ends = append(ends, c.readLater(context.Background(), id, raft.ReadOptions{}))
					}
				}
				synctest.Wait()
				for _, ended := range ends {
					require.Empty(t, ended)
				}
				end(c, leader)
				if c.isRunning(leader) {
					time.Sleep(electionTimeout + time.Second)
				} else {
					end(c, follower)
				}
				for _, ended := range ends {
					requireRefused(t, receive(t, ended, "the end of a read").err)
				}
			})
		})
	}
}

// R7: a caller that leaves ends its read at once, on every member.
func TestR7ReadersLeaveWithTheirContext(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		for _, id := range c.ids {
			ctx, cancel := context.WithCancel(t.Context())
			ended := c.readLater(ctx, id, raft.ReadOptions{Level: raft.ReadLocal, MinIndex: 1000})
			synctest.Wait()
			require.Empty(t, ended)
			cancel()
			require.ErrorIs(t, receive(t, ended, "the end").err, context.Canceled)
		}
	})
}

// R7: a read whose ctx ends at the moment when it does is one or the other, as a whole.
func TestR7ReadThatEndsWithItsContext(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{})
		leader := c.leader()
		for range 300 {
			index := c.status(leader).AppliedIndex + 1
			ctx, cancel := context.WithCancel(t.Context())
			ended := c.readLater(ctx, leader, raft.ReadOptions{Level: raft.ReadLocal, MinIndex: index})
			proposed := make(chan error, 1)
			c.node(leader).ProposeAsync(nil, func(_ raft.Result, err error) {
				cancel()
				proposed <- err
			})
			require.NoError(t, <-proposed)
			if o := <-ended; o.err == nil {
				require.GreaterOrEqual(t, o.result.Index, index)
			} else {
				require.ErrorIs(t, o.err, context.Canceled)
			}
		}
	})
}

// R7: a node forgets readers that share a round once all of them have left.
func TestR7ReadersWhoLeaveAreForgotten(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		for _, id := range []raft.NodeID{c.leader(), c.others(c.leader())[0]} {
			c.network.Intercept(losesRounds)
			ctx, cancel := context.WithCancel(t.Context())
			var ends []<-chan outcome
			for range 5 {
				ends = append(ends, c.readLater(ctx, id, raft.ReadOptions{}))
				synctest.Wait()
			}
			require.Equal(t, 1, c.node(id).WaitingReads(), "the first one: the others gather")
			time.Sleep(5 * time.Millisecond) // after which those who wait are told
			cancel()
			for _, ended := range ends {
				require.ErrorIs(t, receive(t, ended, "the end").err, context.Canceled)
			}
			synctest.Wait()
			require.Zero(t, c.node(id).WaitingReads())
			c.network.Intercept(nil)
		}
	})
}

// R7: callers whose reads mostly end at once look at their ctx as soon as one does not:
// whether its round or question is under way, it gathers for the next, or it comes later.
func TestR7ReadersOfALostRoundLeaveWithTheirContext(t *testing.T) {
	t.Parallel()
	for _, first := range []raft.ReadOptions{{}, {MinIndex: 1}, {MaxStaleness: 1}} { // the latter two look at it from the beginning
		bubble(t, func(t *testing.T) {
			c := startCluster(t, 3, clusterOptions{})
			for _, id := range []raft.NodeID{c.leader(), c.others(c.leader())[0]} {
				require.NoError(t, receive(t, c.readLater(t.Context(), id, raft.ReadOptions{}), "the index").err)
				time.Sleep(heartbeat) // what that has made sure of is older than MaxStaleness
				c.network.Intercept(losesRounds)
				ctx, cancel := context.WithCancel(t.Context())
				asks := c.readLater(ctx, id, first)
				synctest.Wait()
				gathers := c.readLater(ctx, id, raft.ReadOptions{})
				synctest.Wait()
				require.Empty(t, asks)
				require.Empty(t, gathers)
				cancel()
				time.Sleep(5 * time.Millisecond) // after which those who wait are told
				require.ErrorIs(t, receive(t, asks, "the end").err, context.Canceled)
				require.ErrorIs(t, receive(t, gathers, "the end").err, context.Canceled)
				ctx, cancel = context.WithCancel(t.Context())
				later := c.readLater(ctx, id, raft.ReadOptions{})
				synctest.Wait()
				cancel()
				require.ErrorIs(t, receive(t, later, "the end, at once").err, context.Canceled)
				c.network.Intercept(nil)
				time.Sleep(electionTimeout / 2) // the leader has made sure again that it leads
			}
		})
	}
}

// R7: so do those that come once a second batch, which has gathered among the events, is
// under way.
func TestR7ReadersBehindASecondBatchLeaveWithTheirContext(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		id := c.leader()
		require.NoError(t, receive(t, c.readLater(t.Context(), id, raft.ReadOptions{}), "the index").err)
		time.Sleep(heartbeat) // what that has made sure of is older than MaxStaleness
		c.network.Intercept(losesRounds)
		c.readLater(t.Context(), id, raft.ReadOptions{})
		synctest.Wait()
		c.readLater(t.Context(), id, raft.ReadOptions{MaxStaleness: 1})
		time.Sleep(2 * heartbeat) // both know that it takes a while, and a round for the second has begun
		ctx, cancel := context.WithCancel(t.Context())
		later := c.readLater(ctx, id, raft.ReadOptions{})
		synctest.Wait()
		cancel()
		require.ErrorIs(t, receive(t, later, "the end, at once").err, context.Canceled)
	})
}

// losesRounds loses what members ask each other for reads.
func losesRounds(_, _ raft.NodeID, message any) raft.Verdict {
	switch message.(type) {
	case *raft.Heartbeat, *raft.ForwardRequest:
		return raft.Verdict{Drop: true}
	default:
		return raft.Verdict{}
	}
}

var manyReads = flag.Int("reads", 20_000, "how many reads TestR7NothingIsLeftOfReads makes; half of them while nobody can confirm them")

// R7: nothing is left of reads, neither of those that were answered nor of those that nobody
// could confirm, whose callers have left or were told.
func TestR7NothingIsLeftOfReads(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		for range 8 {
			c.propose(c.leader(), strings.Repeat("state ", 20_000)) // beside which the entries of new leaders are small
		}
		const batch = 1000
		var failed atomic.Int64
		read := func(ctx context.Context) {
			var all sync.WaitGroup
			for i := range batch {
				all.Go(func() {
					if _, err := c.node(c.ids[i%3]).ReadIndex(ctx); err != nil {
						failed.Add(1)
					}
				})
			}
			all.Wait()
		}
		// turn makes a batch of reads that are answered, and one that is not. Every other time its
		// callers leave before the leader knows that it is alone.
		turn := func(i int) {
			c.leader()
			failed.Store(0)
			read(t.Context())
			require.Zero(t, failed.Load())
			c.network.Partition([]raft.NodeID{"a"}, []raft.NodeID{"b"}, []raft.NodeID{"c"})
			patience := []time.Duration{electionTimeout / 4, 10 * electionTimeout}[i%2]
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			read(ctx)
			require.EqualValues(t, batch, failed.Load())
			c.network.Heal()
		}
		heap := func() uint64 {
			var stats runtime.MemStats
			for range 3 {
				runtime.GC()
			}
			runtime.ReadMemStats(&stats)
			return stats.HeapAlloc
		}
		for i := range 4 {
			turn(i)
		}
		c.leader()
		before := heap()
		for i := range *manyReads / (2 * batch) {
			turn(i)
		}
		c.leader()
		synctest.Wait()
		after := heap()
		t.Logf("the heap has %d KiB before and %d KiB after %d reads", before>>10, after>>10, *manyReads)
		require.LessOrEqual(t, after, before+before/10)
		for _, id := range c.ids {
			require.Zero(t, c.node(id).WaitingReads(), "%s", id)
		}
	})
}

// With a lease the leader answers although nobody hears it, until the lease is over.
func TestLS2LeaseReadsOfAnIsolatedLeader(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) { config.LeaseReads = true }})
		leader := c.leader()
		time.Sleep(2 * heartbeat)
		c.network.Isolate(leader)
		require.NoError(t, receive(t, c.readLater(t.Context(), leader, raft.ReadOptions{}), "the answer").err)
		confirmed := c.readLater(t.Context(), leader, raft.ReadOptions{Level: raft.ReadConfirmed})
		synctest.Wait()
		require.Empty(t, confirmed)
		time.Sleep(electionTimeout * 9 / 10)
		late := c.readLater(t.Context(), leader, raft.ReadOptions{})
		synctest.Wait()
		require.Empty(t, late, "others may lead by now")
		time.Sleep(electionTimeout)
		requireRefused(t, receive(t, confirmed, "the end").err)
		requireRefused(t, receive(t, late, "the end").err)
	})
}

// T3: readers see no lease any more when a successor is asked, who may commit at once.
func TestT3ReadersSeeNoLeaseOnceASuccessorIsAsked(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) { config.LeaseReads = true }})
		leader := c.leader()
		time.Sleep(2 * heartbeat)
		var asked atomic.Bool
		reads := make(chan (<-chan outcome), 1)
		c.network.Intercept(func(from, _ raft.NodeID, m any) raft.Verdict {
			_, beats := m.(*raft.Heartbeat)
			if _, ok := m.(*raft.TimeoutNow); ok && !asked.Swap(true) {
				go func() { reads <- c.readLater(context.Background(), leader, raft.ReadOptions{}) }()
				return raft.Verdict{Delay: heartbeat / 2} // the read begins before there is another leader
			}
			return raft.Verdict{Drop: beats && from == leader && asked.Load()}
		})
		require.NoError(t, receive(t, c.readLater(t.Context(), leader, raft.ReadOptions{}), "the answer by the lease").err)
		require.NoError(t, c.node(leader).TransferLeadership(t.Context(), ""))
		requireRefused(t, receive(t, <-reads, "the end of the read").err)
	})
}

// T3: the same for whoever is told of the step by the loop itself: by then readers see no
// lease any more.
func TestT3LeaseEndsBeforeAnybodyIsTold(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		var c *cluster
		told := make(chan bool, 1)
		c = newCluster(t, 3, clusterOptions{each: func(id raft.NodeID, config *raft.Config) {
			config.LeaseReads = true
			core, _ := observer.New(zapcore.InfoLevel)
			config.Logger = zap.New(core, zap.Hooks(func(entry zapcore.Entry) error {
				if entry.Message == "hand over leadership" && len(told) == 0 { // who stops hands over, too
					told <- c.node(id).ShowsLease()
				}
				return nil
			}))
		}})
		for _, id := range c.ids {
			c.start(id)
		}
		leader := c.leader()
		c.eventually(2*heartbeat, "a lease, from a round after its first commit", func() bool { return c.node(leader).ShowsLease() })
		require.NoError(t, c.node(leader).TransferLeadership(t.Context(), ""))
		require.False(t, receive(t, told, "the loop's note"))
	})
}

// R3: the reads that gather while a round is under way have theirs as soon as that is over.
func TestR3NextRoundBeginsWhenOneEnds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		const there = 600 * time.Microsecond
		c.network.Intercept(func(from, _ raft.NodeID, m any) raft.Verdict {
			if _, beats := m.(*raft.Heartbeat); beats && from == leader {
				return raft.Verdict{Delay: there}
			}
			return raft.Verdict{}
		})
		began := time.Now()
		first := c.readLater(t.Context(), leader, raft.ReadOptions{})
		time.Sleep(there / 2) // its round is under way
		second := c.readLater(t.Context(), leader, raft.ReadOptions{})
		require.NoError(t, (<-first).err)
		require.Equal(t, there, time.Since(began))
		require.NoError(t, (<-second).err)
		require.Equal(t, 2*there, time.Since(began))
	})
}

// deafTransport ignores the deadlines of heartbeats.
type deafTransport struct {
	raft.Transport
	calls, most *atomic.Int64
	end         <-chan struct{}
}

func (d deafTransport) CallHeartbeat(context.Context, raft.NodeID, *raft.Heartbeat) (*raft.HeartbeatResponse, error) {
	n := d.calls.Add(1)
	defer d.calls.Add(-1)
	for most := d.most.Load(); n > most && !d.most.CompareAndSwap(most, n); most = d.most.Load() {
	}
	<-d.end
	return nil, context.DeadlineExceeded
}

// A transport that ignores deadlines does not gather goroutines without end.
func TestHeartbeatsUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		var calls, most atomic.Int64
		end := make(chan struct{})
		defer close(end) // the nodes stop after that, whatever has failed
		c := newCluster(t, 2, clusterOptions{
			configure: func(config *raft.Config) { config.ElectionTimeout = time.Minute },
			transport: func(inner raft.Transport) raft.Transport { return deafTransport{inner, &calls, &most, end} },
		})
		for _, id := range c.ids {
			c.start(id)
		}
		c.eventually(3*time.Minute, "a leader", func() bool { return c.isLeader("a") || c.isLeader("b") })
		time.Sleep(3 * raft.MaxHeartbeats * heartbeat) // as many are due
		require.EqualValues(t, raft.MaxHeartbeats, most.Load())
	})
}

func forwarding(config *raft.Config) { config.ForwardProposals = true }

// A member that does not lead has the leader propose, and is as good as it.
func TestForwardedProposals(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		refusal := errors.New("no such account")
		c := startCluster(t, 3, clusterOptions{configure: forwarding, machine: func(id raft.NodeID) raft.StateMachine {
			return &recorder{before: func(command string) error {
				if command == "refused" {
					return refusal
				}
				if id != "a" { // the leader, whose answer is there long before
					time.Sleep(time.Second)
				}
				return nil
			}}
		}})
		c.lead("a")
		for _, id := range c.others("a") {
			result := c.propose(id, "from "+string(id))
			require.Contains(t, c.applied(id), "from "+string(id), "it is applied here")
			require.NotZero(t, result.Term)
			require.NotEmpty(t, result.Response)

			refused, err := c.node(id).Propose(t.Context(), []byte("refused"))
			var apply *raft.ApplyError
			require.ErrorAs(t, err, &apply)
			require.Equal(t, result.Index+1, apply.Index)
			require.Equal(t, result.Index+1, refused.Index)
			require.EqualError(t, apply.Err, refusal.Error())
			require.NotErrorIs(t, err, raft.ErrNotAccepted)
			require.NotErrorIs(t, err, raft.ErrOutcomeUnknown)
		}
	})
}

// A1 with forwarding: the class of an outcome is the same as on the leader, and where the
// call itself is lost it says what is known of that.
func TestA1ForwardedOutcomes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: forwarding})
		a := c.leader()
		follower := c.others(a)[0]

		// The command arrives, and the answer does not.
		c.network.Intercept(func(_, _ raft.NodeID, message any) raft.Verdict {
			_, answer := message.(*raft.ForwardResponse)
			return raft.Verdict{Drop: answer}
		})
		patience := errors.New("out of patience")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, patience)
		defer cancel()
		_, err := c.node(follower).Propose(ctx, []byte("arrived"))
		requireUnknown(t, err)
		require.ErrorIs(t, err, context.DeadlineExceeded, "as on the leader")
		require.ErrorIs(t, err, patience)
		c.network.Intercept(nil)
		c.settled("arrived")

		// The leader is not there, and the follower does not know it yet.
		c.kill(a)
		_, err = c.node(follower).Propose(t.Context(), []byte("not handed over"))
		requireRefused(t, err)
		require.ErrorIs(t, err, raft.ErrUnreachable)
		c.start(a)
		c.propose(c.leader(), "after")
		c.settled("arrived", "after")
	})
}

// A2, A8 with forwarding: whoever waits for an entry at another member's leader learns
// that nobody knows when that loses its leadership, and not what stands there instead.
func TestA8ForwardedWaiterOfAnOverwrittenEntry(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 5, clusterOptions{configure: forwarding})
		a := c.leader()
		follower, rest := c.others(a)[0], c.others(a)[1:]
		c.network.Partition([]raft.NodeID{a, follower}, rest)
		pending := c.proposeLater(context.Background(), follower, "a's")
		synctest.Wait()
		require.Empty(t, pending)
		b := c.leaderOf(rest...)
		first := c.propose(b, "b's")
		time.Sleep(electionTimeout)
		unknown := requireUnknown(t, receive(t, pending, "the outcome").err)
		require.LessOrEqual(t, unknown.Index, first.Index)
		require.Less(t, unknown.Term, first.Term)
		c.network.Heal()
		c.settled("b's")
	})
}

// Nothing is forwarded where that is not wanted, nor twice, nor to nobody.
func TestA11NothingToForwardTo(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: forwarding})
		a := c.leader()
		lonely := c.others(a)[0]
		_, err := c.node(lonely).Propose(t.Context(), slices.Repeat([]byte("x"), 2<<20))
		require.ErrorIs(t, err, raft.ErrTooLarge)
		c.network.Isolate(lonely)
		c.eventually(soon, "no leader is known", func() bool { return c.status(lonely).Leader == "" })
		_, err = c.node(lonely).Propose(t.Context(), []byte("x"))
		require.ErrorIs(t, err, raft.ErrNotLeader)
		_, err = c.node(lonely).ReadIndex(t.Context())
		require.ErrorIs(t, err, raft.ErrNotLeader)
	})
}
