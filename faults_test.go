package raft_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// What a cluster does when its networks, disks and state machines misbehave.
// Ids such as P1 are explained in testdata/scenarios.md.

// steady requires that a node leads in one term for a time, and that commands
// succeed meanwhile.
func (c *cluster) steady(leader raft.NodeID, period time.Duration, how string) {
	c.t.Helper()
	term := c.status(leader).Term
	for end := time.Now().Add(period); time.Now().Before(end); time.Sleep(electionTimeout / 2) {
		c.propose(leader, fmt.Sprintf("%s %v", how, time.Until(end)))
		require.Equal(c.t, term, c.status(leader).Term, how)
		require.True(c.t, c.isLeader(leader), how)
	}
}

func TestP1PartiallyConnectedThree(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		a := c.leader()
		b, third := c.others(a)[0], c.others(a)[1]
		term := c.status(a).Term
		c.network.Partition([]raft.NodeID{a, third}, []raft.NodeID{b, third})
		var leader raft.NodeID
		c.eventually(soon, "a leader", func() bool {
			leader = c.status(third).Leader
			return leader != "" && c.isLeader(leader)
		})
		c.steady(leader, 50*electionTimeout, "without the link a-b")
		require.LessOrEqual(t, c.status(leader).Term, term+2)
		c.network.Heal()
		c.steady(leader, 5*electionTimeout, "healed")
		c.equal()
	})
}

func TestP1PartiallyConnectedFive(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 5, clusterOptions{})
		leader := c.leader() // C of the scenario; D hears only B, E only C
		rest := c.others(leader)
		a, b, d, e := rest[0], rest[1], rest[2], rest[3]
		term := c.status(leader).Term
		c.network.Partition([]raft.NodeID{a, b, leader}, []raft.NodeID{b, d}, []raft.NodeID{leader, e})
		c.steady(leader, 50*electionTimeout, "partially connected")
		require.Equal(t, term, c.status(d).Term, "d has not raised the term")
		c.network.Heal()
		c.steady(leader, 5*electionTimeout, "healed")
		require.Equal(t, term, c.status(leader).Term)
		c.equal()
	})
}

func TestP2RejoiningNodeDeposesNobody(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		lost := c.others(leader)[0]
		term := c.status(leader).Term
		c.network.Isolate(lost)
		c.steady(leader, 100*electionTimeout, "without it")
		require.Equal(t, term, c.status(lost).Term, "its term has not grown")
		require.Contains(t, c.status(lost).Reason, "pre-vote")
		c.network.Heal()
		c.steady(leader, 10*electionTimeout, "with it again")
		require.Equal(t, term, c.status(leader).Term)
		c.equal()
	})
}

func TestP3NodeOfALowTermHelpsToElect(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, clusterOptions{})
		c.network.Isolate("c")
		for _, id := range c.ids {
			c.start(id)
		}
		leader := c.leaderOf("a", "b")
		for c.status(leader).Term < 6 {
			c.network.Isolate("a", "b", "c")
			c.eventually(soon, "the leader's step down", func() bool { return !c.isLeader(leader) })
			c.network.Isolate("c")
			leader = c.leaderOf("a", "b")
		}
		c.propose(leader, "in a late term")
		require.EqualValues(t, 1, c.status("c").Term)

		c.network.Heal()
		c.kill(leader)
		survivor := raft.NodeID("a")
		if leader == "a" {
			survivor = "b"
		}
		require.Equal(t, survivor, c.leader(), "only its log is complete")
		c.settled("in a late term")
	})
}

func TestP5LeaderThatCannotHear(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		a := c.leader()
		c.network.Drop("", a, 1)
		pending := c.proposeLater(t.Context(), a, "open")
		c.eventually(2*electionTimeout, "its step down", func() bool { return !c.isLeader(a) })
		requireUnknown(t, receive(t, pending, "the outcome").err)
		b := c.leaderOf(c.others(a)...)
		c.propose(b, "goes on")
		c.network.Heal()
		c.equal()
	})
}

func TestP5LeaderThatIsNotHeard(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		a := c.leader()
		term := c.status(a).Term
		c.network.Drop(a, "", 1)
		pending := c.proposeLater(t.Context(), a, "open")
		b := c.leaderOf(c.others(a)...)
		c.propose(b, "goes on")
		c.eventually(2*electionTimeout, "its step down", func() bool { return !c.isLeader(a) })
		requireUnknown(t, receive(t, pending, "the outcome").err)
		c.eventually(soon, "the new leader's term", func() bool { return c.status(a).Term > term && c.status(a).Leader == b })
		c.network.Heal()
		c.settled("goes on")
	})
}

func TestF2SlowStateMachine(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const unapplied, pending, size = 100_000, 50_000, 1000
		c := startCluster(t, 3, clusterOptions{
			machine: recorders(func(string) error { time.Sleep(3 * time.Second); return nil }),
			configure: func(config *raft.Config) {
				config.MaxUnappliedBytes, config.MaxPendingBytes, config.MaxCommandBytes = unapplied, pending, size
			},
		})
		leader := c.leader()
		term := c.status(leader).Term
		var heartbeats atomic.Int64
		c.network.Intercept(func(_, _ raft.NodeID, message any) raft.Verdict {
			if _, ok := message.(*raft.Heartbeat); ok {
				heartbeats.Add(1)
			}
			return raft.Verdict{}
		})
		var overloaded, succeeded atomic.Int64
		const seconds = 60
		for range seconds {
			for range 100 {
				c.node(leader).ProposeAsync(make([]byte, size), func(_ raft.Result, err error) {
					switch {
					case err == nil:
						succeeded.Add(1)
					case !overloadedOrOver(err):
						t.Error(err)
					default:
						overloaded.Add(1)
					}
				})
				time.Sleep(time.Second / 100)
			}
			s := c.status(leader)
			require.Equal(t, term, s.Term)
			require.Equal(t, raft.Leader, s.Role)
			require.LessOrEqual(t, int(s.LastIndex-s.AppliedIndex)*size, unapplied+pending)
			require.Contains(t, s.Reason, "still to apply")
			for _, peer := range s.Peers {
				require.LessOrEqual(t, peer.LastContact, 2*heartbeat)
			}
		}
		perFollower := int64(seconds * time.Second / heartbeat)
		require.InDelta(t, 2*perFollower, heartbeats.Load(), float64(perFollower)/50)
		require.InDelta(t, seconds/3, succeeded.Load(), 2)
		require.Greater(t, overloaded.Load(), int64(5000))
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.node(leader).Propose(impatient, []byte("waits for room"))
		requireRefused(t, err)
	})
}

// overloadedOrOver reports whether a proposal failed for want of room, or
// because the test was over.
func overloadedOrOver(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrOverloaded) || errors.Is(err, raft.ErrStopped) || errors.Is(err, raft.ErrOutcomeUnknown)
}

// What waits behind a slow state machine goes on as soon as that has caught up.
func TestF2BackPressureEndsAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const applyTime, callers, each = time.Millisecond, 4, 50
		c := startCluster(t, 3, clusterOptions{
			machine:   recorders(func(string) error { time.Sleep(applyTime); return nil }),
			configure: func(config *raft.Config) { config.MaxUnappliedBytes = 1 },
		})
		leader := c.leader()
		began := time.Now()
		var group sync.WaitGroup
		for range callers {
			group.Go(func() {
				for i := range each {
					_, err := c.node(leader).Propose(context.Background(), fmt.Append(nil, i))
					assert.NoError(t, err)
				}
			})
		}
		group.Wait()
		require.LessOrEqual(t, time.Since(began), 2*callers*each*applyTime)
	})
}

func TestF4SlowDisksOfTheMinority(t *testing.T) {
	t.Parallel()
	for nodes, slow := range map[int]int{3: 1, 5: 2} {
		t.Run(fmt.Sprintf("%d of %d", slow, nodes), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newCluster(t, nodes, clusterOptions{})
				for _, id := range c.ids {
					c.disk(id).slow(10 * time.Millisecond)
					c.start(id)
				}
				c.network.Delay("", "", time.Millisecond, 2*time.Millisecond)
				leader := c.leader()
				slowest := func() time.Duration {
					var most time.Duration
					for i := range 200 {
						began := time.Now()
						c.propose(leader, fmt.Sprint(i))
						most = max(most, time.Since(began))
					}
					return most
				}
				healthy := slowest()
				for _, id := range c.others(leader)[:slow] {
					c.disk(id).slow(500 * time.Millisecond)
				}
				require.LessOrEqual(t, slowest(), healthy*12/10)
				require.Equal(t, leader, c.leader())
				c.equal()
			})
		})
	}
}

func TestN1BulkDelaysNoHeartbeat(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]int{"one slow link": 1, "both links slow": 2} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const entries, size, rate = 64, 1 << 20, 1_000_000
				c := startCluster(t, 3, clusterOptions{
					machine: func(raft.NodeID) raft.StateMachine { return new(counting) },
					configure: func(config *raft.Config) {
						config.HeartbeatInterval, config.MaxPendingBytes = 50*time.Millisecond, 2*entries*size
					},
				})
				leader := c.leader()
				term := c.status(leader).Term
				followers := c.others(leader)
				for _, id := range followers[:slow] {
					c.network.Bandwidth(leader, id, rate)
				}
				command := make([]byte, size)
				began := time.Now()
				outcomes := make(chan outcome, entries)
				for range entries {
					c.node(leader).ProposeAsync(command, func(result raft.Result, err error) { outcomes <- outcome{result, err} })
				}
				if slow == 1 {
					for range entries {
						require.NoError(t, receive(t, outcomes, "an outcome").err, "the fast majority goes on at full speed")
					}
				}
				transfer := entries * size * time.Second / rate
				c.eventually(transfer*3/2, "the arrival of everything", func() bool {
					for _, id := range c.ids {
						if s := c.status(id); s.Leader != leader || s.Term != term {
							require.Fail(t, "the leader was changed", "%v: %+v", time.Since(began), s)
						}
						if c.members[id].machine.(*counting).count() < entries {
							return false
						}
					}
					return true
				})
				t.Logf("%v for %v of transfer", time.Since(began), transfer)
			})
		})
	}
}

// counting is a state machine that counts its commands.
type counting struct{ n atomic.Int64 }

func (m *counting) Apply([]byte) ([]byte, error) { m.n.Add(1); return nil, nil }
func (*counting) Snapshot() ([]byte, error)      { return nil, nil }
func (*counting) Restore([]byte) error           { return nil }
func (m *counting) count() int                   { return int(m.n.Load()) }

func TestN3SlowOrDeadPeerCostsNoMemory(t *testing.T) {
	t.Parallel()
	faults := map[string]func(c *cluster, leader, peer raft.NodeID){
		"slow":    func(c *cluster, leader, peer raft.NodeID) { c.network.Bandwidth(leader, peer, 1000) },
		"silent":  func(c *cluster, leader, peer raft.NodeID) { c.network.Drop(peer, leader, 1) },
		"dead":    func(c *cluster, leader, peer raft.NodeID) { c.kill(peer) },
		"cut off": func(c *cluster, leader, peer raft.NodeID) { c.network.Isolate(peer) },
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const inflight, messages, batch, size, commands = 100_000, 16, 20_000, 10_000, 500
				c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) {
					config.MaxInflightBytes, config.MaxInflightMessages, config.MaxBatchBytes = inflight, messages, batch
				}})
				leader := c.leader()
				peer := c.others(leader)[0]
				c.steady(leader, time.Second, "in good health")
				fault(c, leader, peer)
				var sent atomic.Int64
				c.network.Intercept(func(_, to raft.NodeID, message any) raft.Verdict {
					if entries, ok := message.(*raft.AppendEntries); ok && to == peer {
						sent.Add(int64(entries.Entries.Size()))
					}
					return raft.Verdict{}
				})
				began := time.Now()
				for i := range commands {
					c.propose(leader, fmt.Sprintf("%0*d", size, i))
					if i%10 == 0 {
						time.Sleep(100 * time.Millisecond)
					}
					for _, p := range c.status(leader).Peers {
						require.LessOrEqual(t, p.InflightBytes, inflight+batch)
						require.LessOrEqual(t, p.Inflight, messages)
					}
				}
				const full = commands * 10 * time.Millisecond
				require.Equal(t, full, time.Since(began), "writes go on at full speed")
				attempts := int64(full / heartbeat) // one message each, at most
				require.LessOrEqual(t, sent.Load(), attempts*batch+inflight, "what is lost is not sent over and over")
				c.network.Heal()
				if !c.isRunning(peer) {
					c.start(peer)
				}
				c.equal()
			})
		})
	}
}

func TestN6PeerThatNeverAnswers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		mute := c.others(leader)[0]
		c.network.Drop(mute, "", 1)
		c.steady(leader, 10*electionTimeout, "with a mute peer")
		synctest.Wait()
		early := runtime.NumGoroutine()
		c.steady(leader, 100*electionTimeout, "with a mute peer")
		synctest.Wait()
		require.LessOrEqual(t, runtime.NumGoroutine(), early+5, "calls of the mute peer do not pile up")
		require.NotEmpty(t, c.status(leader).Peers[0].Trouble+c.status(leader).Peers[1].Trouble)
		began := time.Now()
		c.stop(leader)
		require.Zero(t, time.Since(began))
	})
}

// spy returns a transport that can say what it wants, and the header that the
// leader puts on what it sends to a node.
func (c *cluster) spy(leader, to raft.NodeID) (raft.Transport, raft.Header) {
	headers := make(chan raft.Header, 100)
	c.network.Intercept(func(_, receiver raft.NodeID, message any) raft.Verdict {
		if m, ok := message.(*raft.Heartbeat); ok && receiver == to {
			select {
			case headers <- m.Header:
			default:
			}
		}
		return raft.Verdict{}
	})
	defer c.network.Intercept(nil)
	header := <-headers
	require.Equal(c.t, leader, header.From)
	spy := c.network.Transport("spy")
	c.t.Cleanup(func() { require.NoError(c.t, spy.Close()) })
	return spy, header
}

func TestW6CommitBeyondTheLog(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		healthy, lagging := c.others(leader)[0], c.others(leader)[1]
		c.propose(leader, "one")
		c.settled("one")
		spy, header := c.spy(leader, healthy)
		c.network.Isolate(lagging)
		c.propose(leader, "two")
		for _, id := range []raft.NodeID{healthy, lagging} {
			if id == lagging {
				c.network.Heal()
				c.network.Intercept(func(_, to raft.NodeID, message any) raft.Verdict {
					_, entries := message.(*raft.AppendEntries)
					return raft.Verdict{Drop: entries && to == lagging} // it lags on
				})
			}
			header.To = id
			response, err := spy.CallHeartbeat(t.Context(), id, &raft.Heartbeat{Header: header, Term: c.status(leader).Term, Commit: 1 << 40, LeaderAddress: "address of " + string(leader)})
			require.NoError(t, err)
			require.Equal(t, c.status(leader).Term, response.Term)
			after := c.status(id)
			require.LessOrEqual(t, after.CommitIndex, after.LastIndex)
			require.LessOrEqual(t, after.CommitIndex, c.status(leader).CommitIndex)
		}
		c.network.Intercept(nil)
		c.propose(leader, "three")
		c.settled("one", "two", "three")
	})
}

func TestRequestsForOthersAreTurnedAway(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		target := c.others(leader)[0]
		spy, header := c.spy(leader, target)
		before := c.status(target)

		otherCluster, otherGroup, otherNode, itself, nameless := header, header, header, header, header
		otherCluster.Fingerprint[0]++
		otherGroup.Group = 1
		otherNode.To = leader
		itself.From = target
		nameless.From = ""
		otherDisk := header
		otherDisk.Incarnation++
		for name, refused := range map[string]struct {
			header raft.Header
			want   error
		}{
			"another cluster":   {otherCluster, raft.ErrWrongCluster},
			"another group":     {otherGroup, raft.ErrWrongCluster},
			"another node":      {otherNode, raft.ErrWrongNode},
			"from itself":       {itself, raft.ErrWrongNode},
			"from nobody":       {nameless, raft.ErrWrongNode},
			"from another disk": {otherDisk, raft.ErrOtherDisk},
		} {
			_, err := spy.CallVote(t.Context(), target, &raft.VoteRequest{Header: refused.header, Term: 1000, LastLogIndex: 1000, LastLogTerm: 999, Transfer: true})
			require.ErrorIs(t, err, refused.want, name)
			_, err = spy.CallHeartbeat(t.Context(), target, &raft.Heartbeat{Header: refused.header, Term: 1000, Configuration: 1})
			require.ErrorIs(t, err, refused.want, name)
			_, err = spy.CallAppend(t.Context(), target, &raft.AppendEntries{Header: refused.header, Term: 1000})
			require.ErrorIs(t, err, refused.want, name)
			var remote *raft.RemoteError
			require.ErrorAs(t, err, &remote)
			require.Equal(t, target, remote.Peer)
		}
		require.Equal(t, before.Term, c.status(target).Term)
		require.Equal(t, leader, c.status(target).Leader)

		_, err := spy.CallSnapshot(t.Context(), target, &raft.InstallSnapshot{Header: header})
		require.ErrorIs(t, err, raft.ErrInvalidMessage)
		answer, err := spy.CallTimeoutNow(t.Context(), target, &raft.TimeoutNow{Header: header})
		require.NoError(t, err)
		require.False(t, answer.Started, "in a term that is long over")
		_, err = spy.CallForward(t.Context(), target, &raft.ForwardRequest{Header: header})
		require.ErrorIs(t, err, raft.ErrUnsupported)
		_, err = spy.CallHeartbeat(t.Context(), target, &raft.Heartbeat{Header: header})
		require.ErrorIs(t, err, raft.ErrInvalidMessage)
		_, err = spy.CallHeartbeat(t.Context(), "nobody", &raft.Heartbeat{Header: header})
		require.ErrorIs(t, err, raft.ErrUnreachable)
		c.steady(leader, 2*electionTimeout, "after all this")
		for _, id := range c.ids {
			require.NotContains(t, c.status(id).Reason, "turned away", "the real leader is heard again")
		}
	})
}

func TestNodesFoundedWithOtherPeersRefuseEachOther(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, clusterOptions{each: func(id raft.NodeID, config *raft.Config) {
			if id == "c" {
				config.Cluster = "another"
			}
		}})
		for _, id := range c.ids {
			c.start(id)
		}
		leader := c.leaderOf("a", "b")
		c.steady(leader, 20*electionTimeout, "without c")
		require.Contains(t, c.status(leader).Reason, "c is turned away")
		require.Contains(t, c.status("c").Reason, "fingerprint")
		require.Empty(t, c.status("c").Leader)
		require.Empty(t, c.applied("c"))
	})
}

func TestW1EmptyDiskUnderAnOldNameDoesNotCount(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		for led := map[raft.NodeID]bool{leader: true}; len(led) < 3; led[leader] = true {
			// Whoever has led has met everybody.
			c.network.Isolate(leader)
			c.leaderOf(c.others(leader)...)
			c.network.Heal()
			leader = c.leader()
		}
		wiped, other := c.others(leader)[0], c.others(leader)[1]
		c.propose(leader, "before")
		c.settled("before")
		c.kill(wiped)
		oldDisk := c.disk(wiped)
		c.members[wiped].disk = newDisk()
		c.start(wiped)
		c.steady(leader, 10*electionTimeout, "the other two go on")
		trouble := func() string {
			for _, peer := range c.status(leader).Peers {
				if peer.ID == wiped {
					return peer.Trouble
				}
			}
			return "not a peer"
		}
		require.Contains(t, trouble(), "peer came back with another disk")
		require.Contains(t, c.status(leader).Reason, string(wiped)+" is turned away")
		require.Contains(t, c.status(wiped).Reason, "give it its old storage back", "it learns it too")
		require.Empty(t, c.applied(wiped))

		// Neither its acknowledgement nor its vote makes a majority.
		c.kill(other)
		pending := c.proposeLater(t.Context(), leader, "with the empty disk alone")
		time.Sleep(20 * electionTimeout)
		requireUnknown(t, receive(t, pending, "the outcome").err)
		require.NotEqual(t, raft.Leader, c.status(leader).Role)
		require.NotEqual(t, raft.Leader, c.status(wiped).Role)
		require.Empty(t, c.applied(wiped))

		// With its old disk it is itself again, under the same leader too.
		c.start(other)
		again := c.leaderOf(leader, other)
		c.propose(again, "after")
		c.kill(wiped)
		c.members[wiped].disk = oldDisk
		c.start(wiped)
		c.eventually(soon, "its return", func() bool { return slices.Contains(c.applied(wiped), "after") })
		require.Equal(t, again, c.leader())
		require.NotContains(t, c.status(again).Reason, "turned away")
		c.equal()
	})
}

// A leader passes on whom it has met: a disk that was swapped does not count
// with those either who never spoke to the node before.
func TestW1SwappedDiskIsKnownThroughTheLeader(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		others := c.others(leader)
		swapped, behind := others[0], others[1]
		time.Sleep(3 * heartbeat)
		c.network.Isolate(behind)
		c.propose(leader, "x") // on the leader and the one whose disk is swapped
		c.kill(leader)
		c.kill(swapped)
		c.members[swapped].disk = newDisk()
		c.network.Heal()
		c.start(swapped)
		time.Sleep(50 * electionTimeout)
		require.NotEqual(t, raft.Leader, c.status(swapped).Role)
		require.NotEqual(t, raft.Leader, c.status(behind).Role, "it lacks x")
		require.Contains(t, c.status(behind).Reason, "peer came back with another disk")
		c.start(leader)
		c.eventually(soon, "x where it was missing", func() bool { return slices.Contains(c.applied(behind), "x") })
	})
}

func TestC4NothingIsAcknowledgedBeforeItIsDurable(t *testing.T) {
	t.Parallel()
	t.Run("one voter", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			c := startCluster(t, 1, clusterOptions{})
			c.disk("a").stall()
			pending := c.proposeLater(t.Context(), "a", "x")
			time.Sleep(100 * time.Millisecond)
			require.Empty(t, pending)
			require.Empty(t, c.applied("a"))
			c.disk("a").resume()
			require.NoError(t, receive(t, pending, "the outcome").err)
			c.settled("x")

			c.disk("a").stall()
			pending = c.proposeLater(t.Context(), "a", "y")
			time.Sleep(100 * time.Millisecond)
			c.kill("a")
			requireUnknown(t, receive(t, pending, "the outcome").err)
			c.start("a")
			c.leader()
			c.settled("x")
		})
	})
	t.Run("the leader's disk is not needed", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			c := startCluster(t, 3, clusterOptions{})
			leader := c.leader()
			c.disk(leader).stall()
			c.propose(leader, "x")
			c.kill(leader)
			c.leader()
			c.settled("x")
			c.start(leader)
			c.settled("x")
		})
	})
	t.Run("one disk of three is not enough", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			c := startCluster(t, 3, clusterOptions{})
			leader := c.leader()
			c.disk(leader).stall()
			c.disk(c.others(leader)[0]).stall()
			pending := c.proposeLater(t.Context(), leader, "x")
			time.Sleep(electionTimeout)
			require.Empty(t, pending)
			for _, id := range c.ids {
				require.Empty(t, c.applied(id))
			}
			c.disk(leader).resume()
			c.disk(c.others(leader)[0]).resume()
			require.NoError(t, receive(t, pending, "the outcome").err)
			c.settled("x")
		})
	})
}

func TestD15LeaderWhoseDiskHangs(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		a := c.leader()
		c.disk(a).stall()
		// Its followers could commit without its disk: they do not get the entries.
		c.network.Intercept(func(from, _ raft.NodeID, message any) raft.Verdict {
			_, entries := message.(*raft.AppendEntries)
			return raft.Verdict{Drop: entries && from == a}
		})
		began := time.Now()
		var pending []<-chan outcome
		for i := range 10 {
			pending = append(pending, c.proposeLater(t.Context(), a, fmt.Sprint("pending ", i)))
		}
		b := c.leaderOf(c.others(a)...)
		c.propose(b, "by another leader")
		require.LessOrEqual(t, time.Since(began), 10*electionTimeout)
		for _, p := range pending {
			requireUnknown(t, receive(t, p, "the outcome").err)
		}
		require.Contains(t, c.status(a).Reason, "the disk has not answered")
		c.steady(b, 20*electionTimeout, "the hung node does not disturb")

		c.disk(a).resume()
		require.Equal(t, b, c.leader())
		c.equal()
	})
}

func TestD15ShortStallsDoNotCostTheLeadership(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		for range 20 {
			for _, id := range c.ids {
				c.disk(id).stall()
			}
			pending := c.proposeLater(t.Context(), leader, "x")
			time.Sleep(electionTimeout * 9 / 10)
			for _, id := range c.ids {
				c.disk(id).resume()
			}
			time.Sleep(heartbeat)
			require.NoError(t, receive(t, pending, "the outcome").err)
			require.True(t, c.isLeader(leader))
		}
		c.equal()
	})
}

func TestFailedWriteStopsTheNode(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{ended: func(t *testing.T, _ raft.NodeID, err error) {
			if err != nil {
				require.ErrorIs(t, err, errDisk)
			}
		}})
		leader := c.leader()
		c.propose(leader, "before")
		c.disk(leader).failNext(1)
		// The followers commit it all the same, but this node stops before it hears of it, or after.
		pending := c.proposeLater(t.Context(), leader, "unlucky")
		node := c.node(leader)
		c.awaitEnd(leader)
		writes := c.disk(leader).writes()
		require.ErrorIs(t, node.Err(), errDisk)
		require.Contains(t, node.Status().Reason, errDisk.Error())
		if err := receive(t, pending, "the outcome").err; err != nil {
			requireUnknown(t, err)
			require.ErrorIs(t, err, errDisk)
		}
		_, err := node.Propose(t.Context(), []byte("late"))
		requireRefused(t, err)
		require.ErrorIs(t, err, raft.ErrStopped)
		c.stop(leader)

		b := c.leader()
		c.propose(b, "goes on")
		require.Equal(t, writes, c.disk(leader).writes(), "the failed write is not tried again")
		c.start(leader)
		c.equal()
	})
}

// A write may fail in the very moment in which an entry is committed: whoever
// waits for it is told.
func TestFailedWriteForgetsNobody(t *testing.T) {
	t.Parallel()
	for lag := range 40 {
		bubble(t, func(t *testing.T) {
			c := startCluster(t, 3, clusterOptions{ended: func(*testing.T, raft.NodeID, error) {}})
			leader := c.leader()
			c.disk(leader).slow(20 * time.Microsecond)
			c.disk(leader).failNext(1)
			c.network.Delay(leader, "", 20*time.Microsecond, 20*time.Microsecond)
			outcomes := make(chan outcome, lag+1)
			for i := range lag + 1 {
				c.node(leader).ProposeAsync(fmt.Append(nil, i), func(result raft.Result, err error) { outcomes <- outcome{result, err} })
			}
			c.awaitEnd(leader)
			synctest.Wait()
			require.Len(t, outcomes, lag+1)
		})
	}
}

// The same at a node that does not lead: what it refuses in the step in which
// it fails, it refuses aloud.
func TestFailedWriteForgetsNoRefusal(t *testing.T) {
	t.Parallel()
	for range 200 {
		bubble(t, func(t *testing.T) {
			c := startCluster(t, 3, clusterOptions{ended: func(*testing.T, raft.NodeID, error) {}})
			leader := c.leader()
			follower := c.others(leader)[0]
			c.disk(follower).stall()
			c.propose(leader, "x")
			time.Sleep(time.Millisecond) // the follower's write hangs
			node := c.node(follower)
			const commands = 50
			outcomes := make(chan error, commands)
			c.disk(follower).lose()
			for range commands {
				node.ProposeAsync([]byte("y"), func(_ raft.Result, err error) { outcomes <- err })
			}
			c.awaitEnd(follower)
			synctest.Wait() // for the callbacks of what came after that
			require.Len(t, outcomes, commands)
			for range commands {
				requireRefused(t, <-outcomes)
			}
		})
	}
}
