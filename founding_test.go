package raft_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/seed-8da499c8/raft"
)

// W3: the members were not founded alike: one of them has other Peers, or another name of the
// cluster. It and the others refuse each other and say why; the others go on without it.
func TestW3FoundersDisagree(t *testing.T) {
	t.Parallel()
	for name, differs := range map[string]func(*raft.Config){
		"one more member": func(c *raft.Config) { c.Peers["d"] = "address of d" },
		"one less member": func(c *raft.Config) { delete(c.Peers, "a") },
		"another address": func(c *raft.Config) { c.Peers["b"] = "somewhere else" },
		"another cluster": func(c *raft.Config) { c.Cluster = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			logs := map[raft.NodeID]*observer.ObservedLogs{}
			options := clusterOptions{each: func(id raft.NodeID, config *raft.Config) {
				core, observed := observer.New(zapcore.InfoLevel)
				config.Logger, logs[id] = zap.New(core), observed
				if config.Peers = maps.Clone(config.Peers); id == "c" {
					differs(config)
				}
			}}
			bubble(t, func(t *testing.T) {
				c := newCluster(t, 3, options)
				for _, id := range c.ids {
					c.start(id)
				}
				leader := c.leaderOf("a", "b")
				c.propose(leader, "without c")
				time.Sleep(10 * electionTimeout)
				require.Contains(t, c.status("c").Reason, "refused by b: request from another cluster: c has fingerprint ")
				require.Contains(t, c.status("c").Reason, "they were founded with other names, Peers or addresses")
				require.Empty(t, c.status("c").Leader)
				require.Empty(t, c.applied("c"))
				peers := c.status(leader).Peers
				i := slices.IndexFunc(peers, func(p raft.PeerStatus) bool { return p.ID == "c" })
				require.GreaterOrEqual(t, i, 0)
				require.Contains(t, peers[i].Trouble, "they were founded with other names, Peers or addresses")
				require.Positive(t, c.status("b").Refused)
				require.Positive(t, c.status("c").Refused)
				require.True(t, c.isLeader(leader), "nobody was disturbed")
				require.NotZero(t, logs["b"].FilterMessage("turn peer away").Len())
			})
		})
	}
}
