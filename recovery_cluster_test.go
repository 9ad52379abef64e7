package raft_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// Clusters that lost their majority for good.

// lostMajority returns a cluster of which nobody runs, and the survivor: the one whose log
// is longest. Another one has less, and one has nothing any more.
func lostMajority(t *testing.T, options clusterOptions) (c *cluster, survivor, behind raft.NodeID, commands []string) {
	c = startCluster(t, 3, options)
	survivor = c.leader()
	behind = c.others(survivor)[0]
	for i := range 60 {
		if i == 30 {
			c.kill(behind)
		}
		commands = append(commands, fmt.Sprint("command ", i))
		c.propose(survivor, commands[i])
	}
	for _, id := range c.running() {
		c.kill(id)
	}
	return c, survivor, behind, commands
}

func (c *cluster) inspect(id raft.NodeID) raft.Survivor {
	c.t.Helper()
	survivor, err := raft.InspectSurvivor(c.config(id).DataDir)
	require.NoError(c.t, err)
	return survivor
}

// Two of three are lost for good. The survivor goes on alone, with all that was
// acknowledged, and others join it.
func TestMajorityIsLostForGood(t *testing.T) {
	t.Parallel()
	for name, configure := range map[string]func(*raft.Config){"log": nil, "snapshots": often} {
		t.Run(name, func(t *testing.T) {
			options := directories(t)
			options.configure = configure
			bubble(t, func(t *testing.T) {
				c, a, b, commands := lostMajority(t, options)
				require.Greater(t, c.inspect(a).LastIndex, c.inspect(b).LastIndex)
				require.Equal(t, c.inspect(a).Fingerprint, c.inspect(b).Fingerprint)

				found, err := raft.RecoverCluster(c.config(a).DataDir, raft.Member{ID: a})
				require.NoError(t, err)
				require.Equal(t, a, found.ID)
				require.Len(t, found.Members, 3)
				require.NotEqual(t, found.Fingerprint, c.inspect(a).Fingerprint)

				c.start(a)
				require.Equal(t, a, c.leader())
				require.Equal(t, commands, c.applied(a))
				require.Equal(t, []raft.Member{{ID: a, Address: addressOf(a), Role: raft.Voter}}, c.status(a).Members)
				for _, id := range []raft.NodeID{"x", "y"} {
					c.join(id)
					require.NoError(t, c.node(a).AddVoter(within(t), newMember(id)))
				}
				c.propose(a, "with others")
				c.kill(a)
				c.leader()
				c.start(a)
				c.settled(append(commands, "with others")...)
			})
		})
	}
}

// A member of before comes back, with all that it had. It and the recovered cluster refuse
// each other and say why, and nothing changes on either side, also if somebody adds it.
func TestMinorityOfBeforeCannotComeBack(t *testing.T) {
	t.Parallel()
	options := directories(t)
	bubble(t, func(t *testing.T) {
		c, a, b, commands := lostMajority(t, options)
		_, err := raft.RecoverCluster(c.config(a).DataDir, raft.Member{ID: a})
		require.NoError(t, err)
		before, recovered := c.inspect(b), c.inspect(a)
		c.start(a)
		c.leader()
		c.start(b)
		term := c.status(a).Term
		time.Sleep(20 * electionTimeout)
		require.Contains(t, c.status(b).Reason, "pre-vote refused by "+string(a)+": request from another cluster: ")
		require.Contains(t, c.status(b).Reason, "was recovered")
		require.Empty(t, c.status(b).Leader)

		_, err = c.node(b).HandleHeartbeat(t.Context(), &raft.Heartbeat{
			Header: raft.Header{Fingerprint: recovered.Fingerprint, From: a, To: b}, Term: 1000, LeaderAddress: addressOf(a),
		})
		require.ErrorIs(t, err, raft.ErrWrongCluster)

		err = c.node(a).AddVoter(t.Context(), newMember(b))
		require.ErrorIs(t, err, raft.ErrInvalidChange)
		require.ErrorContains(t, err, string(b)+" was a member before the cluster was recovered")
		require.Len(t, c.status(a).Members, 1)
		require.Equal(t, term, c.status(a).Term)
		c.propose(a, "goes on")
		require.Equal(t, append(commands, "goes on"), c.applied(a))

		c.stop(b)
		require.Equal(t, before, c.inspect(b))
	})
}

// Two survivors that were both recovered are two clusters.
func TestTwoRecoveriesAreTwoClusters(t *testing.T) {
	t.Parallel()
	options := directories(t)
	bubble(t, func(t *testing.T) {
		c, a, b, _ := lostMajority(t, options)
		for _, id := range []raft.NodeID{a, b} {
			_, err := raft.RecoverCluster(c.config(id).DataDir, raft.Member{ID: id})
			require.NoError(t, err)
			c.start(id)
			c.leaderOf(id)
		}
		c.propose(a, "here")
		c.propose(b, "there")
		time.Sleep(20 * electionTimeout)
		require.NotContains(t, c.applied(a), "there")
		require.NotContains(t, c.applied(b), "here")
	})
}

// An old name may be used again once nothing tells of it any more.
func TestOldNameAfterARecovery(t *testing.T) {
	t.Parallel()
	options := directories(t)
	options.configure = often
	bubble(t, func(t *testing.T) {
		c, a, b, commands := lostMajority(t, options)
		_, err := raft.RecoverCluster(c.config(a).DataDir, raft.Member{ID: a})
		require.NoError(t, err)
		recovered := c.inspect(a).LastIndex
		require.NoError(t, os.RemoveAll(c.config(b).DataDir))
		c.members[b].joins = true
		c.start(a)
		c.leader()
		c.start(b)
		require.ErrorIs(t, c.node(a).AddLearner(t.Context(), newMember(b)), raft.ErrInvalidChange)
		time.Sleep(20 * electionTimeout) // the leader does not look for those before any more
		for range 40 {
			commands = append(commands, "more")
			c.propose(a, "more")
		}
		_, err = c.node(a).TakeSnapshot(t.Context())
		require.NoError(t, err)
		c.eventually(soon, "the log is compacted", func() bool { return c.status(a).FirstIndex > recovered })
		require.NoError(t, c.node(a).AddVoter(t.Context(), newMember(b)))
		c.settled(commands...)
	})
}

// The errors name the directory, and RecoverCluster refuses one that is in use.
func TestRunningNodeIsNotRecovered(t *testing.T) {
	t.Parallel()
	options := directories(t)
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, options)
		dir := c.config("a").DataDir
		_, err := raft.RecoverCluster(dir, raft.Member{ID: "a"})
		require.ErrorIs(t, err, raft.ErrDataDirInUse)
		require.ErrorContains(t, err, "raft: cannot recover a cluster from "+dir+": ")
		_, err = raft.InspectSurvivor(dir)
		require.ErrorIs(t, err, raft.ErrDataDirInUse)
		c.propose("a", "goes on")
		c.stop("a")
		require.Contains(t, c.inspect("a").String(), "node a of cluster ")

		nowhere := filepath.Join(dir, "nowhere")
		_, err = raft.InspectSurvivor(nowhere)
		require.ErrorIs(t, err, raft.ErrNoData)
		require.NoDirExists(t, nowhere)
	})
}
