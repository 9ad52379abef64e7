package raft_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// often makes nodes take a snapshot every few entries.
func often(config *raft.Config) {
	config.SnapshotEntries, config.SnapshotBytes, config.TrailingEntries = 20, 1<<20, 5
}

// proposeMany proposes commands, numbered from a number on, each when all have the one
// before.
func (c *cluster) proposeMany(id raft.NodeID, from, n int) {
	c.t.Helper()
	for i := range n {
		c.propose(id, fmt.Sprint("command ", from+i))
		synctest.Wait()
	}
}

func (c *cluster) restored(id raft.NodeID) int {
	return c.members[id].machine.(interface{ restores() int }).restores()
}

// A follower that was away while what it lacks was compacted comes back by a
// snapshot, and goes on with the log (§5.3).
func TestFollowerThatIsFarBehindComesBackBySnapshot(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: often})
		leader := c.leader()
		away := c.others(leader)[0]
		c.proposeMany(leader, 0, 10)
		c.kill(away)
		time.Sleep(2 * electionTimeout) // nothing is kept for it any more
		c.proposeMany(leader, 10, 200)
		require.Greater(t, c.status(leader).FirstIndex, raft.Index(50), "the log is compacted")
		term := c.status(leader).Term
		c.start(away)
		c.equal()
		require.Len(t, c.applied(away), 210)
		require.Equal(t, 1, c.restored(away))
		require.Equal(t, term, c.status(leader).Term)
		c.proposeMany(leader, 210, 10)
		require.Len(t, c.equal(), 220)
		require.Equal(t, 1, c.restored(away), "the log is enough")
	})
}

// A follower that was away for several snapshots gets the newest one, and no other.
func TestFollowerGetsTheNewestSnapshot(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) { config.TrailingEntries = 5 }})
		leader := c.leader()
		away := c.others(leader)[0]
		c.kill(away)
		time.Sleep(2 * electionTimeout)
		var newest raft.Index
		for i := range 2 {
			c.proposeMany(leader, 20*i, 20)
			var err error
			newest, err = c.node(leader).TakeSnapshot(t.Context())
			require.NoError(t, err)
			time.Sleep(2 * electionTimeout) // it is tried to send it
		}
		c.start(away)
		c.equal()
		require.Equal(t, 1, c.restored(away))
		require.Equal(t, newest, c.status(away).SnapshotIndex)
	})
}

// A cluster that starts again has its state from snapshots and what follows them.
func TestRestartFromSnapshotAndTail(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: often})
		c.proposeMany(c.leader(), 0, 110)
		c.equal()
		for _, id := range c.ids {
			c.kill(id)
		}
		for _, id := range c.ids {
			c.start(id)
		}
		require.Len(t, c.equal(), 110)
		for _, id := range c.ids {
			require.Equal(t, 1, c.restored(id))
			require.Greater(t, c.status(id).SnapshotIndex, raft.Index(50))
		}
	})
}

// TakeSnapshot covers all that was applied when it was called, and compacts.
func TestTakeSnapshot(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) { config.TrailingEntries = 3 }})
		leader := c.leader()
		c.proposeMany(leader, 0, 20)
		c.eventually(soon, "all acknowledged", func() bool { // what is not is kept
			s := c.status(leader)
			return !slices.ContainsFunc(s.Peers, func(p raft.PeerStatus) bool { return p.Match < s.LastIndex })
		})
		for _, id := range c.ids {
			applied := c.status(id).AppliedIndex
			index, err := c.node(id).TakeSnapshot(t.Context())
			require.NoError(t, err)
			require.GreaterOrEqual(t, index, applied)
			again, err := c.node(id).TakeSnapshot(t.Context())
			require.NoError(t, err)
			require.Equal(t, index, again, "nothing was applied since")
			require.Equal(t, index, c.status(id).SnapshotIndex)
			require.Equal(t, index-2, c.status(id).FirstIndex)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.node(leader).TakeSnapshot(ended)
		require.ErrorIs(t, err, context.Canceled)
		node := c.node(leader)
		c.stop(leader)
		_, err = node.TakeSnapshot(t.Context())
		require.ErrorIs(t, err, raft.ErrStopped)
	})
}

// N1: a snapshot of 100 MB over a link that carries 1 MB in a second does not keep
// heartbeats from arriving.
func TestN1SnapshotOverASlowLink(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, clusterOptions{
			configure: func(config *raft.Config) { config.TrailingEntries = 5 },
			machine:   func(raft.NodeID) raft.StateMachine { return &bulky{size: 100 << 20} },
		})
		for _, id := range c.ids {
			c.start(id)
		}
		leader := c.leader()
		away := c.others(leader)[0]
		c.kill(away)
		time.Sleep(2 * electionTimeout)
		c.proposeMany(leader, 0, 60)
		_, err := c.node(leader).TakeSnapshot(t.Context())
		require.NoError(t, err)
		term := c.status(leader).Term
		c.network.Bandwidth(leader, away, 1<<20)
		c.start(away)
		began := time.Now()
		c.eventually(3*time.Minute, "the snapshot installed", func() bool { return c.status(away).AppliedIndex >= c.status(leader).SnapshotIndex })
		require.Greater(t, time.Since(began), 90*time.Second)
		require.Equal(t, term, c.status(leader).Term)
		c.steady(leader, 2*electionTimeout, "after the transfer")
	})
}

// A state machine that keeps its own state is not given what a crash could take from
// the log again: it would be ahead of that for ever.
func TestDurableStateMachineIsNotAheadOfTheLog(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		keepers := map[raft.NodeID]*keeper{}
		c := startCluster(t, 3, clusterOptions{machine: func(id raft.NodeID) raft.StateMachine {
			if keepers[id] == nil {
				keepers[id] = new(keeper)
			}
			return keepers[id]
		}})
		leader := c.leader()
		slow := c.others(leader)[0]
		c.proposeMany(leader, 0, 3)
		c.disk(slow).stall()
		c.proposeMany(leader, 3, 3)
		time.Sleep(heartbeat)
		s := c.status(slow)
		require.Greater(t, s.CommitIndex, s.DurableIndex)
		require.LessOrEqual(t, s.AppliedIndex, s.DurableIndex)
		c.kill(slow)
		c.start(slow)
		c.eventually(soon, "all to be applied", func() bool { return c.status(slow).AppliedIndex == c.status(leader).LastIndex })
		require.Equal(t, keepers[leader].seen(), keepers[slow].seen(), "each once")
	})
}

// keeper is a recorder that keeps what it has over restarts of its node.
type keeper struct {
	recorder
	applied raft.Index
}

func (k *keeper) ApplyBatch(commands []raft.Command, results []raft.ApplyResult) {
	for i, command := range commands {
		results[i].Response, results[i].Err = k.Apply(command.Data)
		k.applied = command.Index
	}
}

func (k *keeper) AppliedIndex() (raft.Index, error) { return k.applied, nil }
func (k *keeper) Sync() (raft.Index, error)         { return k.applied, nil }

// A view is closed also if its node stops before it is written.
func TestViewIsClosedIfTheNodeStops(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		s := &slowToCapture{asked: make(chan struct{}), goOn: make(chan struct{})}
		c := startCluster(t, 1, clusterOptions{machine: func(raft.NodeID) raft.StateMachine { return s }})
		go c.node("a").TakeSnapshot(t.Context())
		<-s.asked
		stopped := make(chan error, 1)
		go func() { stopped <- c.node("a").Stop(t.Context()) }()
		synctest.Wait() // it waits for the state machine
		close(s.goOn)
		require.NoError(t, <-stopped)
		require.True(t, s.closed.Load())
	})
}

// slowToCapture is a state machine that takes its time to capture a view.
type slowToCapture struct {
	recorder
	asked, goOn chan struct{}
	closed      atomic.Bool
}

func (s *slowToCapture) CaptureSnapshot() (raft.SnapshotView, error) {
	close(s.asked)
	<-s.goOn
	return s, nil
}

func (s *slowToCapture) RestoreFrom(context.Context, io.Reader) error   { return nil }
func (s *slowToCapture) WriteTo(ctx context.Context, _ io.Writer) error { return ctx.Err() }
func (s *slowToCapture) Close() error {
	s.closed.Store(true)
	return nil
}

// bulky is a state machine whose state is of a size, and no more than that.
type bulky struct{ size int }

func (b *bulky) Apply([]byte) ([]byte, error) { return nil, nil }
func (b *bulky) Snapshot() ([]byte, error)    { return make([]byte, b.size), nil }
func (b *bulky) Restore(state []byte) error {
	if len(state) != b.size {
		return fmt.Errorf("%d bytes to restore, not %d", len(state), b.size)
	}
	return nil
}

// A5: TakeSnapshot waits for Run, and for something to cover. It needs no leader.
func TestA5TakeSnapshotBeforeThereIsAnything(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, clusterOptions{})
		a := c.build("a")
		taken := make(chan raft.Index, 1)
		go func() {
			index, err := a.node.TakeSnapshot(t.Context())
			require.NoError(t, err)
			taken <- index
		}()
		ctx, cancel := context.WithTimeout(t.Context(), electionTimeout)
		defer cancel()
		c.run(a)
		_, err := a.node.TakeSnapshot(ctx)
		require.NoError(t, err, "the first configuration is applied")
		require.EqualValues(t, 1, receive(t, taken, "the index"))
		require.Empty(t, c.status("a").Leader)
		_, err = a.node.TakeSnapshot(ctx)
		require.NoError(t, err)

		b := c.build("b")
		b.kill, b.ended = func() {}, make(chan struct{})
		close(b.ended)
		ended := make(chan error, 1)
		go func() {
			_, err := b.node.TakeSnapshot(t.Context())
			ended <- err
		}()
		synctest.Wait()
		require.NoError(t, b.node.Stop(t.Context()))
		require.ErrorIs(t, <-ended, raft.ErrStopped)
	})
}
