package raft_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// Stories of whole clusters, told through the public API.

func TestThreeNodesElectReplicateAndLoseTheirLeader(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})

		first := c.leader()
		result := c.propose(first, "one")
		require.Equal(t, "1", string(result.Response))
		require.Equal(t, c.status(first).Term, result.Term)
		require.Equal(t, result.Index, c.status(first).AppliedIndex)
		c.settled("one")

		c.kill(first)
		second := c.leader()
		require.NotEqual(t, first, second)
		require.Equal(t, "2", string(c.propose(second, "two").Response))
		c.settled("one", "two")

		c.start(first) // with the disk that it had, and an empty state machine
		c.settled("one", "two")
		require.Equal(t, second, c.leader(), "its return costs nobody the leadership")
		require.Equal(t, "3", string(c.propose(second, "three").Response))
		c.settled("one", "two", "three")
	})
}

func TestAClusterOfOneWorksAlone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{})
		for i := range 10 {
			require.Equal(t, fmt.Sprint(i+1), string(c.propose("a", fmt.Sprint(i)).Response))
		}
		began := time.Now()
		c.stop("a")
		c.start("a")
		c.leader()
		require.Less(t, time.Since(began), electionTimeout, "a sole voter has nobody to wait for")
		c.settled("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
	})
}

func TestFiveNodesGoOnWithoutTwo(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 5, clusterOptions{})
		first := c.leader()
		c.propose(first, "five")
		c.kill(first)
		second := c.leader()
		c.propose(second, "four")
		c.kill(second)
		third := c.leader()
		c.propose(third, "three")

		lonely := c.others(third)
		lonely = slices.DeleteFunc(lonely, func(id raft.NodeID) bool { return !c.isRunning(id) })
		c.kill(lonely[0])
		pending := c.proposeLater(t.Context(), third, "two are too few")
		time.Sleep(2 * electionTimeout)
		requireUnknown(t, receive(t, pending, "the outcome").err)

		c.start(first)
		c.start(second)
		c.start(lonely[0])
		last := c.leader()
		c.propose(last, "five again")
		applied := slices.DeleteFunc(c.equal(), func(command string) bool { return command == "two are too few" })
		require.Equal(t, []string{"five", "four", "three", "five again"}, applied)
	})
}

// withoutStreams hides the optional interface of a transport.
type withoutStreams struct{ raft.Transport }

func TestTransportWithoutAppendStreams(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{
			transport: func(transport raft.Transport) raft.Transport { return withoutStreams{transport} },
		})
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint(i))
			c.propose(c.leader(), want[i])
		}
		c.settled(want...)

		old := c.leader()
		c.network.Isolate(old)
		pending := c.proposeLater(t.Context(), old, "lost")
		c.propose(c.leaderOf(c.others(old)...), "kept")
		time.Sleep(electionTimeout) // the old leader steps down about when the others elect a new one
		requireUnknown(t, receive(t, pending, "the outcome").err)
		c.network.Heal()
		c.settled(append(want, "kept")...)
	})
}

// countedStreams counts the streams that are open.
type countedStreams struct {
	raft.Transport
	open *atomic.Int64
}

func (c countedStreams) OpenAppendStream(peer raft.NodeID, onResponse func(*raft.AppendResponse), onClosed func(error)) raft.AppendStream {
	c.open.Add(1)
	return &countedStream{AppendStream: c.Transport.(raft.AppendStreamer).OpenAppendStream(peer, onResponse, onClosed), open: c.open}
}

type countedStream struct {
	raft.AppendStream
	open *atomic.Int64
	once sync.Once
}

func (s *countedStream) Close() {
	s.AppendStream.Close()
	s.once.Do(func() { s.open.Add(-1) })
}

// The streams of a leader end with its leadership: what they still hold would take up
// its followers to no purpose (defect 5 of the seed).
func TestNoStreamOutlivesItsLeadership(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		open := map[raft.Transport]*atomic.Int64{}
		c := startCluster(t, 3, clusterOptions{
			transport: func(transport raft.Transport) raft.Transport {
				open[transport] = new(atomic.Int64)
				return countedStreams{transport, open[transport]}
			},
		})
		requireOfOneNode := func() {
			var counts []int64
			for _, n := range open {
				counts = append(counts, n.Load())
			}
			slices.Sort(counts)
			require.Equal(t, []int64{0, 0, 2}, counts)
		}
		for i := range 4 {
			old := c.leader()
			c.propose(old, fmt.Sprint(i))
			requireOfOneNode()
			require.NoError(t, c.node(old).TransferLeadership(within(t), ""))
			synctest.Wait()
		}
		c.propose(c.leader(), "last")
		requireOfOneNode()
	})
}

// batcher is a BatchStateMachine that remembers the commands and how they came.
type batcher struct {
	*recorder
	mu      sync.Mutex
	batches []int
	indexes []raft.Index
}

func (b *batcher) ApplyBatch(commands []raft.Command, results []raft.ApplyResult) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batches = append(b.batches, len(commands))
	for i, command := range commands {
		b.indexes = append(b.indexes, command.Index)
		results[i].Response, results[i].Err = b.Apply(command.Data)
	}
}

func TestBatchStateMachineGetsManyCommandsAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{
			machine: func(raft.NodeID) raft.StateMachine {
				return &batcher{recorder: &recorder{before: func(command string) error {
					if command == "7" {
						return fmt.Errorf("no %s", command)
					}
					return nil
				}}}
			},
		})
		leader := c.leader()
		const commands = 1000
		outcomes := make(chan outcome, commands)
		for i := range commands {
			c.node(leader).ProposeAsync(fmt.Append(nil, i), func(result raft.Result, err error) { outcomes <- outcome{result, err} })
		}
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, outcomes, commands)
		machine := c.members[leader].machine.(*batcher)
		for i := range commands {
			o := <-outcomes
			if i == 7 {
				var refused *raft.ApplyError
				require.ErrorAs(t, o.err, &refused)
				require.ErrorContains(t, refused.Err, "no 7")
				require.Equal(t, machine.indexes[i], refused.Index)
				continue
			}
			require.NoError(t, o.err)
			require.Equal(t, machine.indexes[i], o.result.Index)
		}
		require.Less(t, len(machine.batches), commands/10, "commands come in batches: %v", machine.batches)
		require.True(t, slices.IsSorted(machine.indexes))
		for _, id := range c.ids {
			require.Equal(t, machine.seen(), c.members[id].machine.(*batcher).seen())
		}
	})
}

// A short election timeout alone is a valid configuration: heartbeats follow.
func TestShortElectionTimeoutHasShortHeartbeats(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) {
			config.HeartbeatInterval, config.ElectionTimeout = 0, 150*time.Millisecond
		}})
		leader, term := c.leader(), c.status(c.leader()).Term
		time.Sleep(10 * time.Second)
		require.Equal(t, leader, c.leader())
		require.Equal(t, term, c.status(leader).Term)
	})
}
