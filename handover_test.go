package raft_test

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// How long nobody can write when a leader goes in good order.

// acknowledgement is of a write: when, and by whom.
type acknowledgement struct {
	at time.Time
	by raft.NodeID
}

// writers propose to whoever leads, one command after the other each, and remember
// when these were acknowledged.
type writers struct {
	t       testing.TB
	nodes   map[raft.NodeID]*raft.Node
	stop    context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	acks []acknowledgement
}

func startWriters(t testing.TB, nodes map[raft.NodeID]*raft.Node) *writers {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{t: t, nodes: nodes, stop: cancel}
	for range 4 {
		w.running.Go(func() { w.write(ctx) })
	}
	return w
}

func (w *writers) write(ctx context.Context) {
	for ctx.Err() == nil {
		for id, node := range w.nodes {
			for w.propose(ctx, id, node) {
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Millisecond): // until somebody leads
		}
	}
}

// propose reports whether a node has taken a command.
func (w *writers) propose(ctx context.Context, id raft.NodeID, node *raft.Node) bool {
	if _, err := node.Propose(ctx, []byte("x")); err != nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acks = append(w.acks, acknowledgement{time.Now(), id})
	return true
}

// await waits for some acknowledgements of other nodes than one.
func (w *writers) await(except raft.NodeID) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		n := len(slices.DeleteFunc(slices.Clone(w.acks), func(a acknowledgement) bool { return a.by == except }))
		w.mu.Unlock()
		if n >= 20 {
			return
		}
		if time.Now().After(end) {
			w.stop()
			w.running.Wait()
			require.FailNow(w.t, "nobody acknowledges", "%d writes within a minute, those of %q not counted", n, except)
		}
	}
}

// gap ends the writers, and returns the time between the last write that one node has
// acknowledged and the first of another.
func (w *writers) gap(left raft.NodeID) time.Duration {
	w.await(left)
	w.stop()
	w.running.Wait()
	var last, first time.Time
	for _, a := range w.acks {
		switch {
		case a.by == left:
			last = a.at
		case first.IsZero():
			first = a.at
		}
	}
	return first.Sub(last)
}

// trials is how often each leader goes.
const trials = 20

// gaps has leaders go, one after the other, and returns how long nobody could write.
func (c *cluster) gaps(leave func(leader raft.NodeID), comeBack func(raft.NodeID)) []time.Duration {
	c.network.Delay("", "", time.Millisecond, 5*time.Millisecond)
	var gaps []time.Duration
	for range trials {
		leader, nodes := c.leader(), map[raft.NodeID]*raft.Node{}
		for _, id := range c.ids {
			c.disk(id).slow(2 * time.Millisecond)
			nodes[id] = c.node(id)
		}
		w := startWriters(c.t, nodes)
		w.await("")
		leave(leader)
		gaps = append(gaps, w.gap(leader))
		comeBack(leader)
	}
	slices.Sort(gaps)
	c.t.Logf("without an acknowledged write: median %v, longest %v", gaps[trials/2], gaps[trials-1])
	return gaps
}

// A leader that is stopped hands over: nobody waits for an election.
func TestStopHandsOver(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		gaps := c.gaps(c.stop, c.start)
		require.Less(t, gaps[trials/2], 2*heartbeat)
		require.Less(t, gaps[trials-1], electionTimeout)
	})
}

// So does one that is taken out, to a voter that has all that it has.
func TestRemovedLeaderHandsOver(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{ended: dismissed})
		gaps := c.gaps(func(leader raft.NodeID) {
			require.NoError(t, c.node(leader).RemoveMember(within(t), leader))
		}, func(left raft.NodeID) {
			c.awaitEnd(left)
			c.buried(c.members[left])
			c.ids = c.others(left)
			leader := c.leader()
			c.join(left)
			require.NoError(t, c.node(leader).AddVoter(within(t), newMember(left)))
		})
		require.Less(t, gaps[trials/2], 2*heartbeat)
		require.Less(t, gaps[trials-1], electionTimeout)
	})
}

// BenchmarkStopHandsOver measures, for nodes with TCP and a disk in one process and
// the default settings, how long nobody can write when the leader is stopped.
func BenchmarkStopHandsOver(b *testing.B) {
	raft.WithoutVerification(b)
	addresses, transports := connectByTCP(b, []raft.NodeID{"a", "b", "c"})
	dir, nodes := b.TempDir(), map[raft.NodeID]*raft.Node{}
	start := func(id raft.NodeID, transport raft.Transport) {
		config := raft.NewConfig(id, addresses[id], addresses)
		config.DataDir = filepath.Join(dir, string(id))
		node, err := raft.NewNode(config, new(counting), transport)
		require.NoError(b, err)
		nodes[id] = node
		go node.Run(context.Background())
	}
	for id, transport := range transports {
		start(id, transport)
	}
	var gaps []time.Duration
	for b.Loop() {
		leader := awaitFollowed(b, nodes)
		w := startWriters(b, nodes)
		w.await("")
		require.NoError(b, nodes[leader].Stop(context.Background()))
		gaps = append(gaps, w.gap(leader))
		start(leader, raft.NewTCPTransport(addresses, 500*time.Millisecond))
	}
	for _, node := range nodes {
		require.NoError(b, node.Stop(context.Background()))
	}
	slices.Sort(gaps)
	b.ReportMetric(float64(gaps[len(gaps)/2].Microseconds())/1000, "median-ms")
	b.ReportMetric(float64(gaps[len(gaps)-1].Microseconds())/1000, "longest-ms")
	b.ReportMetric(0, "ns/op") // of the trials and of what is between
}

// awaitFollowed waits for a leader whom all nodes follow.
func awaitFollowed(t testing.TB, nodes map[raft.NodeID]*raft.Node) raft.NodeID {
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "there is no leader whom all follow")
		leaders := map[raft.NodeID]bool{}
		for _, node := range nodes {
			leaders[node.Status().Leader] = true
		}
		for leader := range leaders {
			if leader != "" && len(leaders) == 1 {
				return leader
			}
		}
	}
}
