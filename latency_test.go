package raft_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// What a command waits for: one round trip and one write of a majority's disks, and what
// was under way when it came. All is in virtual time, so only waits count.

const (
	diskTime = 10 * time.Millisecond
	linkTime = 2 * time.Millisecond // one way
	cycle    = 2*linkTime + diskTime
)

// startTimed starts three nodes whose disks and links take their time.
func startTimed(t *testing.T, configure func(*raft.Config)) (*cluster, *raft.Node) {
	c := startCluster(t, 3, clusterOptions{configure: configure, machine: func(raft.NodeID) raft.StateMachine { return new(counting) }})
	for _, id := range c.ids {
		c.disk(id).slow(diskTime)
	}
	c.network.Delay("", "", linkTime, linkTime)
	leader := c.leader()
	c.steady(leader, time.Second, "with slow disks and links")
	return c, c.node(leader)
}

// latencies returns how long each of a caller's commands took, one after the other.
func latencies(t *testing.T, node *raft.Node, size, count int) []time.Duration {
	took := make([]time.Duration, count)
	for i := range took {
		began := time.Now()
		_, err := node.Propose(t.Context(), make([]byte, size))
		require.NoError(t, err)
		took[i] = time.Since(began)
		time.Sleep(time.Duration(i%7) * time.Millisecond) // at any moment of the others' cycles
	}
	return took
}

// amidst has others propose all the time while f runs.
func amidst(t *testing.T, node *raft.Node, others, size int, f func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range others {
		group.Go(func() {
			for command := make([]byte, size); ctx.Err() == nil; {
				_, _ = node.Propose(ctx, command)
			}
		})
	}
	f()
	cancel()
	group.Wait()
}

// The leader writes while it sends, and the followers write at the same time.
func TestCommandAloneTakesOneCycle(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		_, node := startTimed(t, nil)
		for _, took := range latencies(t, node, 100, 20) {
			require.Equal(t, cycle, took)
		}
	})
}

// Whoever comes while a write is under way waits for that one, and for its own: not for
// as many as there are others.
func TestCommandAmongManyTakesTwoCycles(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		_, node := startTimed(t, func(config *raft.Config) {
			config.MaxInflightMessages = 1024 // where callers take long to run, each command may be a message of its own
		})
		amidst(t, node, 255, 100, func() {
			for _, took := range latencies(t, node, 100, 20) {
				require.LessOrEqual(t, took, 2*cycle)
			}
		})
	})
}

// A small command waits for the large ones that came before it, which fill the link for a
// time, and not for those that come after it.
func TestLargeCommandsDoNotStarveASmallOne(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const others, size, bandwidth = 32, 64 << 10, 64 << 20
		c, node := startTimed(t, nil)
		c.network.Bandwidth("", "", bandwidth)
		const before = others * size * time.Second / bandwidth // what each of them has under way
		amidst(t, node, others, size, func() {
			for _, took := range latencies(t, node, 100, 20) {
				require.LessOrEqual(t, took, before+2*cycle)
			}
		})
	})
}
