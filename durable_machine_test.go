package raft_test

import (
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// State machines that keep their own state.

// archive is a state machine that keeps its own state, as in a database: what was
// synced outlives its node.
type archive struct {
	mu       sync.Mutex
	present  archiveState
	durable  archiveState
	given    []raft.Index // since the start
	syncs    int
	syncErr  error
	taken    int                         // snapshots
	restored int                         // likewise
	says     func(raft.Index) raft.Index // what Sync returns instead
	applyErr error                       // of AppliedIndex
}

type archiveState struct {
	Commands []string
	Applied  raft.Index
}

// crash loses what was not synced.
func (a *archive) crash() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.present = archiveState{slices.Clone(a.durable.Commands), a.durable.Applied}
	a.given = nil
}

func (a *archive) Apply([]byte) ([]byte, error) { panic("not called") }

func (a *archive) ApplyBatch(commands []raft.Command, results []raft.ApplyResult) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, command := range commands {
		a.present.Commands = append(a.present.Commands, string(command.Data))
		a.present.Applied = command.Index
		a.given = append(a.given, command.Index)
		results[i].Response = []byte("noted")
	}
}

func (a *archive) AppliedIndex() (raft.Index, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.present.Applied, a.applyErr
}

func (a *archive) Sync() (raft.Index, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.syncs++
	if a.syncErr != nil {
		return 0, a.syncErr
	}
	a.durable = archiveState{slices.Clone(a.present.Commands), a.present.Applied}
	if a.says != nil {
		return a.says(a.durable.Applied), nil
	}
	return a.durable.Applied, nil
}

func (a *archive) Snapshot() ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taken++
	return json.Marshal(a.present)
}

// Restore makes durable what it restores, as it should: the log before is gone.
func (a *archive) Restore(snapshot []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.restored++
	a.present, a.durable = archiveState{}, archiveState{}
	return errors.Join(json.Unmarshal(snapshot, &a.present), json.Unmarshal(snapshot, &a.durable))
}

func (a *archive) seen() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.present.Commands)
}

// with lets a test look at an archive, or change it.
func (a *archive) with(f func(*archive)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(a)
}

// archives are the options of a cluster whose state machines outlive their nodes.
func archives(configure func(*raft.Config)) clusterOptions {
	all := map[raft.NodeID]*archive{}
	return clusterOptions{configure: configure, machine: func(id raft.NodeID) raft.StateMachine {
		if all[id] == nil {
			all[id] = new(archive)
		}
		return all[id]
	}}
}

func (c *cluster) archive(id raft.NodeID) *archive { return c.members[id].machine.(*archive) }

// The log is compacted up to what the state machine has synced, and no snapshot is
// taken that nobody needs. After a crash the state machine is given what it has lost,
// and nothing that it has.
func TestDurableStateMachineGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, archives(often))
		c.proposeMany(c.leader(), 0, 110)
		c.equal()
		for _, id := range c.ids {
			a, s := c.archive(id), c.status(id)
			a.with(func(a *archive) {
				require.Zero(t, a.taken, "snapshots")
				require.Positive(t, a.syncs)
				require.Greater(t, s.FirstIndex, raft.Index(30))
				require.LessOrEqual(t, s.FirstIndex, a.durable.Applied-5+1, "no more than what is durable is gone, but for the trailing entries")
			})
			require.Zero(t, s.SnapshotIndex)
		}
		had := map[raft.NodeID]raft.Index{}
		for _, id := range c.ids {
			c.kill(id)
			c.archive(id).crash()
			c.archive(id).with(func(a *archive) { had[id] = a.durable.Applied })
		}
		for _, id := range c.ids {
			c.start(id)
		}
		require.Len(t, c.equal(), 110)
		for _, id := range c.ids {
			c.archive(id).with(func(a *archive) {
				require.Less(t, len(a.given), 80)
				for _, index := range a.given {
					require.Greater(t, index, had[id], "it had that")
				}
				require.Zero(t, a.restored)
			})
		}
	})
}

// A follower that lacks what is compacted has a snapshot taken for it.
func TestDurableStateMachineIsSnapshotForAFollower(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, archives(often))
		leader := c.leader()
		away, other := c.others(leader)[0], c.others(leader)[1]
		c.proposeMany(leader, 0, 3)
		c.kill(away)
		c.archive(away).crash()
		time.Sleep(2 * electionTimeout)
		c.proposeMany(leader, 3, 100)
		require.Greater(t, c.status(leader).FirstIndex, raft.Index(50))
		c.start(away)
		require.Len(t, c.equal(), 103)
		require.Equal(t, 1, c.archive(away).restored)
		require.Equal(t, 1, c.archive(leader).taken)
		require.Zero(t, c.archive(other).taken)
		require.NotZero(t, c.status(leader).SnapshotIndex)
		size := c.status(leader).SnapshotBytes
		require.NotZero(t, size)
		c.proposeMany(leader, 103, 50)
		require.Len(t, c.equal(), 153)
		require.Equal(t, 1, c.archive(leader).taken, "it was needed once")
		require.Equal(t, size, c.status(leader).SnapshotBytes)

		c.kill(away)
		c.archive(away).crash()
		c.start(away)
		require.Len(t, c.equal(), 153)
		require.Equal(t, 1, c.archive(away).restored)

		index, err := c.node(leader).TakeSnapshot(t.Context())
		require.NoError(t, err)
		require.Equal(t, c.status(leader).AppliedIndex, index)
		require.Equal(t, 2, c.archive(leader).taken)
	})
}

// A state machine that has applied what the log does not have belongs to another node,
// or one of the two has lost something.
func TestDurableStateMachineAheadOfTheLogIsRefused(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		options := archives(often)
		options.ended = func(*testing.T, raft.NodeID, error) {}
		c := startCluster(t, 1, options)
		c.proposeMany("a", 0, 5)
		c.stop("a")
		c.archive("a").with(func(a *archive) { a.present.Applied = 8 })
		c.start("a")
		<-c.node("a").Done()
		require.EqualError(t, c.node("a").Err(), "raft: the state machine of node a has applied entry 8, and its log ends at 7: one of them is another node's, or has lost something")
		c.stop("a")
		c.archive("a").with(func(a *archive) { a.present.Applied, a.applyErr = 7, errVault })
		c.start("a")
		<-c.node("a").Done()
		require.ErrorIs(t, c.node("a").Err(), errVault)
		require.ErrorContains(t, c.node("a").Err(), "raft: the state machine of node a does not say what it has applied: ")
		c.stop("a")
		c.archive("a").with(func(a *archive) { a.applyErr = nil })
		c.start("a")
		c.leader()
	})
}

// A state machine that has lost what the log has not any more cannot be helped.
func TestDurableStateMachineBehindTheLogIsRefused(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		options := archives(often)
		options.ended = func(*testing.T, raft.NodeID, error) {}
		c := startCluster(t, 1, options)
		c.proposeMany("a", 0, 50)
		first := c.status("a").FirstIndex
		require.Greater(t, first, raft.Index(10))
		c.stop("a")
		c.archive("a").with(func(a *archive) { a.present = archiveState{} })
		c.start("a")
		<-c.node("a").Done()
		require.ErrorContains(t, c.node("a").Err(), "raft: node a has no snapshot of entry ")
	})
}

// A state machine that cannot sync, or has synced little, keeps its log long. It is
// asked again later, and goes on applying.
func TestDurableStateMachineThatDoesNotSync(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, archives(often))
		a := c.archive("a")
		a.with(func(a *archive) { a.syncErr = errVault })
		c.proposeMany("a", 0, 100)
		a.with(func(a *archive) { require.Equal(t, 1, a.syncs) })
		require.EqualValues(t, 1, c.status("a").FirstIndex)
		require.Contains(t, c.status("a").Reason, errVault.Error())
		_, err := c.node("a").TakeSnapshot(t.Context())
		require.NoError(t, err, "a snapshot needs no sync")
		first := c.status("a").FirstIndex

		a.with(func(a *archive) {
			a.syncErr, a.syncs = nil, 0
			a.says = func(raft.Index) raft.Index { return 10 }
		})
		time.Sleep(time.Minute)
		c.proposeMany("a", 100, 100)
		a.with(func(a *archive) {
			require.Positive(t, a.syncs)
			require.LessOrEqual(t, a.syncs, 5, "once for so many entries")
			require.Len(t, a.present.Commands, 200)
		})
		require.Equal(t, first, c.status("a").FirstIndex, "no more is gone than the snapshot covers")
	})
}

// A damaged snapshot does not keep a state machine from starting that needs none.
func TestDurableStateMachineNeedsNoSnapshot(t *testing.T) {
	t.Parallel()
	directory := directories(t)
	bubble(t, func(t *testing.T) {
		options := archives(often)
		options.each = directory.each
		c := startCluster(t, 1, options)
		c.proposeMany("a", 0, 30)
		_, err := c.node("a").TakeSnapshot(t.Context())
		require.NoError(t, err)
		c.proposeMany("a", 30, 60)
		c.stop("a")
		require.Greater(t, c.archive("a").durable.Applied, raft.Index(50))
		flip(t, snapshotsIn(t, c.config("a").DataDir)[0], 100)
		c.start("a")
		c.leader()
		require.Len(t, c.applied("a"), 90)
		index, err := c.node("a").TakeSnapshot(t.Context())
		require.NoError(t, err)
		require.Equal(t, c.status("a").SnapshotIndex, index)
	})
}
