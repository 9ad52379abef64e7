package raft_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// sentTo counts the bytes of entries that a cluster hands over for a node.
func (c *cluster) sentTo(id raft.NodeID) *atomic.Int64 {
	var sent atomic.Int64
	c.network.Intercept(func(_, to raft.NodeID, m any) raft.Verdict {
		if a, ok := m.(*raft.AppendEntries); ok && to == id {
			sent.Add(int64(a.Entries.Size()))
		}
		return raft.Verdict{}
	})
	return &sent
}

func (c *cluster) counted(id raft.NodeID) int { return c.members[id].machine.(*counting).count() }

// A follower behind a link that takes longer for a batch than it is usually given
// catches up all the same, without having most of it sent in vain.
func TestFollowerBehindASlowLinkCatchesUp(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{500_000, 200_000, 20_000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 3, clusterOptions{machine: func(raft.NodeID) raft.StateMachine { return new(counting) }})
				leader := c.leader()
				slow := c.others(leader)[0]
				c.network.Isolate(slow)
				const commands, size = 48, 64 << 10
				for range commands {
					c.propose(leader, string(make([]byte, size)))
				}
				c.network.Heal()
				c.network.Bandwidth(leader, slow, rate)
				sent := c.sentTo(slow)
				least := time.Duration(commands*size) * time.Second / time.Duration(rate)
				c.eventually(2*least+10*time.Second, "caught up", func() bool { return c.counted(slow) == commands })
				require.Less(t, sent.Load(), int64(2*commands*size))
			})
		})
	}
}

// A window that the streams have no room for holds back what does not fit, and
// throws nothing away.
func TestWindowBeyondWhatAStreamTakes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{
			machine: func(raft.NodeID) raft.StateMachine { return new(counting) },
			configure: func(config *raft.Config) {
				config.MaxInflightBytes, config.MaxInflightMessages = 64<<20, 128
			},
		})
		leader := c.leader()
		slow := c.others(leader)[0]
		c.network.Bandwidth(leader, slow, 1_000_000)
		sent := c.sentTo(slow)
		const commands = 60
		for range commands {
			c.propose(leader, string(make([]byte, 1<<20)))
		}
		c.eventually(70*time.Second, "caught up", func() bool { return c.counted(slow) == commands })
		require.Less(t, sent.Load(), int64(commands*5/4)<<20)
	})
}

// One message that is lost after a change of the leader holds up nobody.
func TestLossAfterAFailoverHoldsUpNobody(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{machine: func(raft.NodeID) raft.StateMachine { return new(counting) }})
		old := c.leader()
		for range 20 {
			c.propose(old, string(make([]byte, 1<<20)))
		}
		c.eventually(time.Minute, "all have all", func() bool {
			return c.counted("a") == 20 && c.counted("b") == 20 && c.counted("c") == 20
		})
		var lost atomic.Bool
		c.network.Intercept(func(from, to raft.NodeID, m any) raft.Verdict {
			_, ok := m.(*raft.AppendEntries)
			return raft.Verdict{Drop: ok && from != old && to != old && lost.CompareAndSwap(false, true)}
		})
		c.network.Bandwidth("", "", 1_000_000)
		c.kill(old)
		began := time.Now()
		c.leaderOf(c.others(old)...)
		require.True(t, lost.Load())
		require.Less(t, time.Since(began), 4*time.Second)
	})
}
