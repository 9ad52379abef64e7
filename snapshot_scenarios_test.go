package raft_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
	"github.com/seed-8da499c8/raft/internal/testenv"
)

// What goes wrong with snapshots in implementations, and must not here, where whole
// nodes are needed for it: see testdata/scenarios.md.

// pile is a state machine whose state is as large as a test wants, of numbers that say
// where they stand, and how many commands it has applied.
type pile struct {
	size     int // bytes, a multiple of 8
	commands atomic.Int64
	restored atomic.Int64                    // snapshots
	slow     func(ctx context.Context) error // while it is restored
}

func (p *pile) Apply([]byte) ([]byte, error) { p.commands.Add(1); return nil, nil }
func (p *pile) Snapshot() ([]byte, error)    { panic("not called") }
func (p *pile) Restore([]byte) error         { panic("not called") }
func (p *pile) count() int                   { return int(p.commands.Load()) }

func (p *pile) CaptureSnapshot() (raft.SnapshotView, error) {
	return &pileView{p.size, p.commands.Load()}, nil
}

func (p *pile) RestoreFrom(ctx context.Context, r io.Reader) error {
	if p.slow != nil {
		if err := p.slow(ctx); err != nil {
			return err
		}
	}
	state, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(state) != p.size+8 {
		return fmt.Errorf("%d bytes of a state of %d", len(state), p.size+8)
	}
	for at := 0; at < p.size; at += 8 {
		if n := binary.BigEndian.Uint64(state[at:]); n != uint64(at) {
			return fmt.Errorf("%d stands at %d", n, at)
		}
	}
	p.commands.Store(int64(binary.BigEndian.Uint64(state[p.size:])))
	p.restored.Add(1)
	return nil
}

type pileView struct {
	size     int
	commands int64
}

func (v *pileView) WriteTo(ctx context.Context, w io.Writer) error {
	const block = 64 << 10
	var b []byte
	for at := 0; at < v.size; at += 8 {
		if b = binary.BigEndian.AppendUint64(b, uint64(at)); len(b) < block {
			continue
		}
		if _, err := w.Write(b); err != nil || ctx.Err() != nil {
			return cmpErr(err, ctx.Err())
		}
		b = b[:0]
	}
	_, err := w.Write(binary.BigEndian.AppendUint64(b, uint64(v.commands)))
	return err
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (v *pileView) Close() error { return nil }

func piles(size int) func(raft.NodeID) raft.StateMachine {
	return func(raft.NodeID) raft.StateMachine { return &pile{size: size} }
}

func (c *cluster) pile(id raft.NodeID) *pile { return c.members[id].machine.(*pile) }

// startBehind starts three nodes with a state of some size, one of which is away while
// the others write more than they keep in their logs, and have snapshots of it.
func startBehind(t *testing.T, size int, configure func(*raft.Config)) (c *cluster, leader, other, behind raft.NodeID) {
	c = startCluster(t, 3, clusterOptions{machine: piles(size), configure: func(config *raft.Config) {
		config.TrailingEntries = 5
		configure(config)
	}})
	leader = c.leader()
	behind, other = c.others(leader)[0], c.others(leader)[1]
	c.kill(behind)
	time.Sleep(2 * electionTimeout)
	c.proposeMany(leader, 0, 60)
	for _, id := range []raft.NodeID{leader, other} {
		c.eventually(soon, "all of it applied", func() bool { return c.status(id).AppliedIndex == c.status(leader).LastIndex })
		_, err := c.node(id).TakeSnapshot(t.Context())
		require.NoError(t, err)
	}
	return c, leader, other, behind
}

// chunksTo counts the bytes of snapshots that are sent to a node.
func (c *cluster) chunksTo(to raft.NodeID) *atomic.Int64 {
	sent := new(atomic.Int64)
	c.network.Intercept(func(_, receiver raft.NodeID, message any) raft.Verdict {
		if m, ok := message.(*raft.InstallSnapshot); ok && receiver == to {
			sent.Add(int64(len(m.Data)))
		}
		return raft.Verdict{}
	})
	return sent
}

// received returns how many bytes of a snapshot have come to a node.
func (c *cluster) received(id raft.NodeID) uint64 {
	if r := c.status(id).Receiving; r != nil {
		return r.Done
	}
	return 0
}

// caughtUp waits until a node has applied what another one has.
func (c *cluster) caughtUp(within time.Duration, id, with raft.NodeID) {
	c.t.Helper()
	c.eventually(within, fmt.Sprintf("%s has what %s has", id, with), func() bool {
		return c.pile(id).count() == c.pile(with).count() && c.status(id).AppliedIndex == c.status(with).AppliedIndex
	})
}

// S15: the receiver restarts in the middle of a transfer, which goes on: what was
// synced is not sent again.
func TestS15ReceiverRestartsInATransfer(t *testing.T) {
	t.Parallel()
	const size, rate = 24 << 20, 4 << 20
	bubble(t, func(t *testing.T) {
		c, leader, _, behind := startBehind(t, size, func(config *raft.Config) { config.SnapshotRate = rate })
		term := c.status(leader).Term
		sent := c.chunksTo(behind)
		c.start(behind)
		c.eventually(10*time.Second, "much of it received", func() bool { return c.received(behind) > 20<<20 })
		require.Equal(t, leader, c.status(behind).Receiving.Peer)
		require.Equal(t, c.status(leader).SnapshotIndex, c.status(behind).Receiving.Index)
		require.Greater(t, c.status(behind).Receiving.Total, uint64(size))
		require.InDelta(t, rate, c.status(behind).Receiving.BytesPerSecond, rate/5)
		c.kill(behind)
		before := sent.Load()
		c.start(behind)
		began := time.Now()
		c.eventually(10*time.Second, "it goes on", func() bool { return c.received(behind) > 0 })
		time.Sleep(time.Second) // of virtual time: a rate is told from some chunks
		require.InDelta(t, rate, c.status(behind).Receiving.BytesPerSecond, rate/5, "what was there did not come now")
		c.caughtUp(10*time.Second, behind, leader)
		require.EqualValues(t, 1, c.pile(behind).restored.Load())
		require.Less(t, sent.Load()-before, int64(size-16<<20+1<<20), "two syncs of 8 MiB each were there")
		require.Less(t, time.Since(began), 5*time.Second)
		require.Equal(t, term, c.status(leader).Term)
		require.Nil(t, c.status(behind).Receiving)
		c.steady(leader, 2*electionTimeout, "afterwards")
	})
}

// S15: the leader is gone in the middle of a transfer. Another one begins anew, with
// its own snapshot.
func TestS15LeaderChangesInATransfer(t *testing.T) {
	t.Parallel()
	const size, rate = 8 << 20, 4 << 20
	for name, end := range map[string]func(*cluster, raft.NodeID){
		"killed":  (*cluster).kill,
		"cut off": func(c *cluster, leader raft.NodeID) { c.network.Isolate(leader) },
		"stopped": (*cluster).stop,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c, leader, other, behind := startBehind(t, size, func(config *raft.Config) { config.SnapshotRate = rate })
				c.start(behind)
				c.eventually(10*time.Second, "some of it received", func() bool { return c.received(behind) > size/2 })
				end(c, leader)
				require.Equal(t, other, c.leaderOf(other, behind), "the log of %s is too short", behind)
				c.caughtUp(10*time.Second, behind, other)
				require.EqualValues(t, 1, c.pile(behind).restored.Load())
				c.network.Heal()
				if !c.isRunning(leader) {
					c.start(leader)
				}
				c.propose(c.leader(), "afterwards")
				c.caughtUp(10*time.Second, behind, other)
				c.caughtUp(10*time.Second, leader, other)
			})
		})
	}
}

// S15: two leaders' transfers to one node overlap, since what the first one sent was
// held up, and comes in between.
func TestS15TransfersOfTwoLeadersOverlap(t *testing.T) {
	t.Parallel()
	const size, rate = 8 << 20, 4 << 20
	bubble(t, func(t *testing.T) {
		c, leader, other, behind := startBehind(t, size, func(config *raft.Config) { config.SnapshotRate = rate })
		c.start(behind)
		c.eventually(10*time.Second, "some of it received", func() bool { return c.received(behind) > size/4 })
		c.network.Hold(leader, behind)
		c.network.Cut(leader, other)
		c.eventually(10*time.Second, "another leader sends", func() bool {
			r := c.status(behind).Receiving
			return c.isLeader(other) && r != nil && r.Peer == other && r.Done > size/4
		})
		held := c.network.Held(leader, behind)
		require.True(t, slices.ContainsFunc(held, func(m any) bool { _, ok := m.(*raft.InstallSnapshot); return ok }))
		c.network.Heal() // what was held arrives
		c.caughtUp(10*time.Second, behind, other)
		require.EqualValues(t, 1, c.pile(behind).restored.Load())
		require.Equal(t, other, c.leader())
		c.steady(other, 2*electionTimeout, "afterwards")
		c.caughtUp(10*time.Second, leader, other)
	})
}

// A snapshot is sent as fast as SnapshotRate says, and not faster, also where nothing
// else happens.
func TestSnapshotRateIsKept(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{1 << 20, 64 << 20} {
		t.Run(fmt.Sprint(rate>>20), func(t *testing.T) {
			const size = 16 << 20
			bubble(t, func(t *testing.T) {
				c, leader, _, behind := startBehind(t, size, func(config *raft.Config) { config.SnapshotRate = rate })
				c.network.Delay("", "", time.Millisecond, time.Millisecond)
				sent := c.chunksTo(behind)
				c.start(behind)
				c.eventually(10*time.Second, "the first bytes", func() bool { return sent.Load() > 0 })
				began, first := time.Now(), sent.Load()
				c.caughtUp(time.Minute, behind, leader)
				took := time.Since(began)
				should := time.Duration(size-first) * time.Second / time.Duration(rate)
				require.GreaterOrEqual(t, took, should-should/20)
				require.LessOrEqual(t, took, should+should/5+heartbeat)
			})
		})
	}
}

// A link that is slow does not keep a follower away for good: the leader gives it more
// time.
func TestSnapshotOverAVerySlowLink(t *testing.T) {
	t.Parallel()
	const size, bandwidth = 2 << 20, 50_000
	bubble(t, func(t *testing.T) {
		c, leader, _, behind := startBehind(t, size, func(*raft.Config) {})
		term := c.status(leader).Term
		c.network.Bandwidth(leader, behind, bandwidth)
		c.start(behind)
		c.caughtUp(4*size/bandwidth*time.Second, behind, leader)
		require.Equal(t, term, c.status(leader).Term)
		c.network.Heal()
		c.steady(leader, 2*electionTimeout, "afterwards")
	})
}

// What a follower will need after its snapshot is kept while it receives that: it needs
// no second one, though the others take one after the other.
func TestFollowerNeedsOneSnapshotOnly(t *testing.T) {
	t.Parallel()
	const size, rate = 4 << 20, 1 << 20
	bubble(t, func(t *testing.T) {
		c, leader, _, behind := startBehind(t, size, func(config *raft.Config) {
			often(config)
			config.SnapshotRate = rate
		})
		before := c.status(leader).SnapshotIndex
		c.start(behind)
		for i := 0; c.pile(behind).restored.Load() == 0; i++ {
			c.propose(leader, fmt.Sprintf("%0200000d", i)) // 2 MB a second
			time.Sleep(heartbeat)
			require.Less(t, i, 1000)
		}
		require.Greater(t, c.status(leader).SnapshotIndex, before, "newer ones were taken meanwhile")
		c.caughtUp(soon, behind, leader)
		require.EqualValues(t, 1, c.pile(behind).restored.Load())
		c.eventually(time.Minute, "nothing is kept for it any more", func() bool {
			c.propose(leader, fmt.Sprintf("%0200000d", 0))
			s := c.status(leader)
			return s.LastIndex-s.FirstIndex < 60
		})
	})
}

// A follower that is away in the middle of a transfer comes back when the log behind
// that snapshot is gone: it gets a newer one, and not both.
func TestFollowerThatWasAwayInATransferGetsTheNewerSnapshot(t *testing.T) {
	t.Parallel()
	const size, rate = 8 << 20, 4 << 20
	bubble(t, func(t *testing.T) {
		c, leader, _, behind := startBehind(t, size, func(config *raft.Config) { config.SnapshotRate = rate })
		c.start(behind)
		c.eventually(10*time.Second, "some of it received", func() bool { return c.received(behind) > size/2 })
		c.kill(behind)
		time.Sleep(2 * electionTimeout)
		c.proposeMany(leader, 60, 60)
		newest, err := c.node(leader).TakeSnapshot(t.Context())
		require.NoError(t, err)
		time.Sleep(2 * electionTimeout)
		c.start(behind)
		c.caughtUp(10*time.Second, behind, leader)
		require.EqualValues(t, 1, c.pile(behind).restored.Load())
		require.Equal(t, newest, c.status(behind).SnapshotIndex)
	})
}

// A state machine that takes long to restore does not cost its node anything but
// that: a follower answers its leader, and acknowledges entries; a leader leads.
func TestSlowRestoreCostsNoLeadership(t *testing.T) {
	t.Parallel()
	const takes = 30 * time.Second
	slow := func(ctx context.Context) error { return sleep(ctx, takes) }
	t.Run("follower", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			c, leader, _, behind := startBehind(t, 1<<20, func(*raft.Config) {})
			c.options.machine = func(raft.NodeID) raft.StateMachine { return &pile{size: 1 << 20, slow: slow} }
			term := c.status(leader).Term
			c.start(behind)
			c.eventually(soon, "it restores", func() bool { return c.status(behind).Reason != "" && c.status(behind).SnapshotIndex > 0 })
			require.Contains(t, c.status(behind).Reason, "the state machine is restoring the snapshot of entry ")
			began := time.Now()
			for time.Since(began) < takes-time.Second {
				c.propose(leader, "meanwhile")
				time.Sleep(heartbeat)
				for _, p := range c.status(leader).Peers {
					require.LessOrEqual(t, p.LastContact, heartbeat+heartbeat/2)
				}
			}
			require.Equal(t, term, c.status(leader).Term)
			require.Equal(t, c.status(leader).LastIndex, c.status(behind).LastIndex, "the log goes on")
			require.Zero(t, c.pile(behind).count())
			c.caughtUp(2*time.Second, behind, leader)
		})
	})
	t.Run("leader", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			c := startCluster(t, 3, clusterOptions{machine: piles(1 << 20)})
			c.proposeMany(c.leader(), 0, 10)
			for _, id := range c.ids {
				_, err := c.node(id).TakeSnapshot(t.Context())
				require.NoError(t, err)
			}
			for _, id := range c.ids {
				c.kill(id)
			}
			c.options.machine = func(raft.NodeID) raft.StateMachine { return &pile{size: 1 << 20, slow: slow} }
			began := time.Now()
			for _, id := range c.ids {
				c.start(id)
			}
			c.eventually(soon, "a leader", func() bool { return c.status("a").Leader != "" && c.isLeader(c.status("a").Leader) })
			leader := c.status("a").Leader
			term := c.status(leader).Term
			pending := c.proposeLater(t.Context(), leader, "waits for the state machine")
			time.Sleep(20 * electionTimeout)
			require.Empty(t, pending)
			require.Equal(t, c.status(leader).LastIndex, c.status(leader).CommitIndex, "it is committed")
			require.NoError(t, (<-pending).err)
			require.InDelta(t, takes, time.Since(began), float64(time.Second))
			require.Equal(t, term, c.status(leader).Term)
			require.Equal(t, 11, c.pile(leader).count())
		})
	})
}

// A log that was long enough for a snapshot before its node stopped is compacted after
// the next start, though nothing is added to it.
func TestIdleLogIsCompacted(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		few := 1 << 20
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) {
			config.SnapshotEntries, config.TrailingEntries = few, 5
		}})
		c.proposeMany(c.leader(), 0, 100)
		for _, id := range c.ids {
			require.EqualValues(t, 1, c.status(id).FirstIndex)
			c.kill(id)
		}
		few = 50
		for _, id := range c.ids {
			c.start(id)
		}
		for _, id := range c.ids {
			c.eventually(soon, "a snapshot", func() bool { return c.status(id).FirstIndex > 90 })
		}
		require.Len(t, c.equal(), 100)
	})
}

// A large state is not written again and again for a log that is short beside it.
func TestSnapshotsAreAsRareAsTheStateIsLarge(t *testing.T) {
	t.Parallel()
	const size = 1_000_000
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{machine: vaults, configure: often})
		v := c.vault("a")
		c.propose("a", fmt.Sprintf("%0*d", size, 0))
		_, err := c.node("a").TakeSnapshot(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, v.captured.Load())
		v.writing = func(_ context.Context, w io.Writer, state []byte) error {
			_, err := w.Write(state[:size]) // the same size again
			return err
		}
		for i := range 100 {
			c.propose("a", fmt.Sprintf("%0*d", size/50, i)) // twice the state in all
		}
		require.InDelta(t, 1+1.5, v.captured.Load(), 0.5)
	})
}

// F7: a snapshot that takes ten seconds to write, or a state that takes as long to copy, and clients that go on writing: no heartbeat is missed, no leader deposed. The
// clients do not notice it, unless the state machine makes them wait.
func TestF7TakingASnapshotHoldsUpNobody(t *testing.T) {
	const takes = 10 * time.Second
	raft.WithoutVerification(t)
	for name, test := range map[string]struct {
		machine func() raft.StateMachine
		waits   bool // the clients do
	}{
		"streamed": {machine: func() raft.StateMachine {
			v := new(vault)
			v.writing = func(ctx context.Context, w io.Writer, state []byte) error {
				if err := sleep(ctx, takes); err != nil {
					return err
				}
				_, err := w.Write(state)
				return err
			}
			return v
		}},
		"copied": {waits: true, machine: func() raft.StateMachine {
			s := new(spoiled)
			s.snapshot = func() ([]byte, error) {
				time.Sleep(takes)
				return s.recorder.Snapshot()
			}
			return s
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 3, clusterOptions{machine: func(raft.NodeID) raft.StateMachine { return test.machine() }})
				c.network.Delay("", "", time.Millisecond, 2*time.Millisecond)
				for _, id := range c.ids {
					c.disk(id).slow(time.Millisecond)
				}
				leader := c.leader()
				term := c.status(leader).Term
				gaps := c.heartbeatGaps(leader)
				normal := c.load(leader, 8, takes)
				taken := make(chan error, 3)
				for _, id := range c.ids {
					go func() {
						_, err := c.node(id).TakeSnapshot(t.Context())
						taken <- err
					}()
				}
				meanwhile := c.load(leader, 8, takes-time.Second)
				require.Empty(t, taken, "it is not over yet")
				for range c.ids {
					require.NoError(t, <-taken)
				}
				require.Equal(t, term, c.status(leader).Term)
				require.Less(t, gaps(), heartbeat+heartbeat/2, "the longest time without a heartbeat")
				if !test.waits {
					require.Greater(t, len(meanwhile), 1000)
					require.Less(t, p99(meanwhile), 10*p99(normal))
				}
				c.equal()
			})
		})
	}
}

// heartbeatGaps watches the heartbeats of a leader. The function that it returns tells
// the longest time in which one of the others was sent none.
func (c *cluster) heartbeatGaps(leader raft.NodeID) func() time.Duration {
	var longest atomic.Int64
	last := map[raft.NodeID]*atomic.Int64{}
	began := time.Now()
	for _, id := range c.others(leader) {
		last[id] = new(atomic.Int64)
	}
	c.network.Intercept(func(from, to raft.NodeID, message any) raft.Verdict {
		if _, ok := message.(*raft.Heartbeat); ok && from == leader {
			now := int64(time.Since(began))
			gap := now - last[to].Swap(now)
			for was := longest.Load(); gap > was && !longest.CompareAndSwap(was, gap); was = longest.Load() {
			}
		}
		return raft.Verdict{}
	})
	return func() time.Duration { return time.Duration(longest.Load()) }
}

// load has clients propose one command after the other for a time, and returns how long
// each took.
func (c *cluster) load(leader raft.NodeID, clients int, period time.Duration) []time.Duration {
	ctx, cancel := context.WithTimeout(context.Background(), period)
	defer cancel()
	took := make(chan []time.Duration, clients)
	node := c.node(leader)
	for range clients {
		go func() {
			var all []time.Duration
			for ctx.Err() == nil {
				began := time.Now()
				if _, err := node.Propose(ctx, []byte("x")); err == nil {
					all = append(all, time.Since(began))
				}
				_ = sleep(ctx, 20*time.Millisecond)
			}
			took <- all
		}()
	}
	var all []time.Duration
	for range clients {
		all = append(all, <-took...)
	}
	return all
}

func p99(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)*99/100]
}

// W1: a node that came back with an empty disk is sent no snapshot either: it does not
// count, whatever it has.
func TestW1EmptyDiskIsSentNoSnapshot(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c, leader, other, behind := startBehind(t, 1<<20, func(*raft.Config) {})
		c.start(behind)
		c.caughtUp(soon, behind, leader)
		c.kill(behind)
		c.members[behind].disk = newDisk()
		sent := c.chunksTo(behind)
		c.start(behind)
		c.steady(leader, 10*electionTimeout, "the other two go on")
		require.Zero(t, sent.Load())
		require.Zero(t, c.status(behind).SnapshotIndex)
		require.Zero(t, c.pile(behind).count())

		c.kill(other)
		pending := c.proposeLater(t.Context(), leader, "with the empty disk alone")
		time.Sleep(20 * electionTimeout)
		requireUnknown(t, receive(t, pending, "the outcome").err)
		require.NotEqual(t, raft.Leader, c.status(behind).Role)
	})
}

// snapshotsIn returns the files of the snapshots in a data directory, the newest first.
func snapshotsIn(t *testing.T, dir string) []string {
	names, err := filepath.Glob(filepath.Join(dir, "snapshots", "*.snap"))
	require.NoError(t, err)
	slices.Sort(names)
	slices.Reverse(names)
	return names
}

// flip changes one bit of a file.
func flip(t *testing.T, name string, offset int64) {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	require.NoError(t, err)
	var b [1]byte
	_, err = file.ReadAt(b[:], offset)
	require.NoError(t, err)
	b[0] ^= 1
	_, err = file.WriteAt(b[:], offset)
	require.NoError(t, err)
	require.NoError(t, file.Close())
}

// S12: the newest snapshot in a data directory is damaged.
func TestS12DamagedSnapshotInADirectory(t *testing.T) {
	t.Parallel()
	for name, covered := range map[string]bool{"covered": true, "not covered": false} {
		t.Run(name, func(t *testing.T) {
			options := directories(t)
			options.ended = func(*testing.T, raft.NodeID, error) {}
			bubble(t, func(t *testing.T) {
				options.configure = func(config *raft.Config) {
					config.TrailingEntries = 10
					if covered {
						config.TrailingEntries = 1000
					}
				}
				c := startCluster(t, 1, options)
				for i := range 2 {
					c.proposeMany("a", 50*i, 50)
					_, err := c.node("a").TakeSnapshot(t.Context())
					require.NoError(t, err)
				}
				c.propose("a", "the end")
				c.kill("a")
				dir := c.config("a").DataDir
				names := snapshotsIn(t, dir)
				require.Len(t, names, 2)
				flip(t, names[0], 200)
				damaged := contents(t, dir)
				c.start("a")
				if !covered {
					<-c.node("a").Done()
					var corrupt *raft.CorruptError
					require.ErrorAs(t, c.node("a").Err(), &corrupt)
					require.Equal(t, filepath.ToSlash(names[0]), corrupt.File)
					require.ErrorIs(t, c.node("a").Err(), raft.ErrCorrupt)
					require.Contains(t, c.status("a").Reason, corrupt.File)
					require.Equal(t, damaged, contents(t, dir))
					return
				}
				c.leader()
				require.Len(t, c.applied("a"), 101)
				require.EqualValues(t, 52, c.status("a").SnapshotIndex)
				require.Equal(t, 1, c.restored("a"))
				require.FileExists(t, names[0], "until there is another one")
				index, err := c.node("a").TakeSnapshot(t.Context())
				require.NoError(t, err)
				require.Equal(t, index, c.status("a").SnapshotIndex)
				require.NoFileExists(t, names[0])
			})
		})
	}
}

// D17: the snapshot of a leader rots on its disk, and a follower needs it. The leader
// finds out and stops; the follower gets the next leader's, and no byte of that one.
func TestD17DamagedSnapshotIsNotSpread(t *testing.T) {
	t.Parallel()
	options := directories(t)
	options.ended = func(*testing.T, raft.NodeID, error) {}
	options.configure = func(config *raft.Config) { config.TrailingEntries = 5 }
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, options)
		leader := c.leader()
		behind, other := c.others(leader)[0], c.others(leader)[1]
		c.stop(behind)
		time.Sleep(2 * electionTimeout)
		c.proposeMany(leader, 0, 100)
		for _, id := range []raft.NodeID{leader, other} {
			c.eventually(soon, "all of it applied", func() bool { return len(c.applied(id)) == 100 })
			_, err := c.node(id).TakeSnapshot(t.Context())
			require.NoError(t, err)
		}
		name := snapshotsIn(t, c.config(leader).DataDir)[0]
		flip(t, name, 500)
		sent := c.chunksTo(behind)
		c.start(behind)
		<-c.members[leader].ended
		require.Zero(t, sent.Load(), "not a byte left")
		require.ErrorIs(t, c.members[leader].err, raft.ErrCorrupt)
		require.ErrorContains(t, c.members[leader].err, filepath.ToSlash(name))
		require.ErrorContains(t, c.members[leader].err, "cannot read its snapshot of entry ")
		c.buried(c.members[leader])
		require.Equal(t, other, c.leader())
		require.Len(t, c.equal(), 100)
		require.Equal(t, 1, c.restored(behind))
	})
}

// F5: what is compacted is free. A hundred times the entries that are kept have gone
// through the log, and what is left takes no more than those and their successors do.
func TestF5CompactedEntriesAreFree(t *testing.T) {
	const size, window, commands = 32 << 10, 100, 10_000
	config := raft.NewConfig("a", "a", map[raft.NodeID]string{"a": "a"})
	config.Storage = raft.NewMemoryStorage()
	config.SnapshotEntries, config.TrailingEntries = window, window
	config.SnapshotBytes, config.LogCacheBytes = 2*window*size, window*size
	before := raft.HeapBytes()
	node, err := raft.NewNode(config, new(counting), raft.NewMemoryNetwork().Transport("a"))
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- node.Run(t.Context()) }()
	for leadership := range node.WatchLeader(t.Context()) {
		if leadership.IsSelf {
			break
		}
	}
	for range commands {
		_, err := node.Propose(t.Context(), make([]byte, size))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		s := node.Status()
		return s.LastIndex-s.FirstIndex < 3*window
	}, 10*time.Second, time.Millisecond)
	require.LessOrEqual(t, raft.HeapBytes()-before, 4*window*size, "that of the log, and a cache")
	require.NoError(t, node.Stop(t.Context()))
	require.NoError(t, <-ended)
}

// N3: a follower that is dead, cut off or slow costs no more memory than its limits say
// and some, however much is written meanwhile, and nobody else waits for it. It catches
// up afterwards.
func TestN3LogIsCompactedWithoutAFollower(t *testing.T) {
	const size, limit = 256 << 10, 4 << 20
	commands := 700
	if testing.Short() || testenv.Race {
		commands = 400
	}
	raft.WithoutVerification(t)
	faults := map[string]func(c *cluster, leader, peer raft.NodeID){
		"slow":    func(c *cluster, leader, peer raft.NodeID) { c.network.Bandwidth(leader, peer, 1000) },
		"dead":    func(c *cluster, leader, peer raft.NodeID) { c.kill(peer) },
		"cut off": func(c *cluster, leader, peer raft.NodeID) { c.network.Isolate(peer) },
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				before := raft.HeapBytes()
				c := startCluster(t, 3, clusterOptions{
					machine: func(raft.NodeID) raft.StateMachine { return new(counting) },
					configure: func(config *raft.Config) {
						config.SnapshotBytes, config.LogCacheBytes, config.MaxInflightBytes, config.MaxUnappliedBytes = limit, limit, limit, limit
					},
				})
				leader := c.leader()
				peer := c.others(leader)[0]
				fault(c, leader, peer)
				began, most := time.Now(), 0
				command := make([]byte, size)
				for i := range commands {
					_, err := c.node(leader).Propose(t.Context(), command)
					require.NoError(t, err)
					time.Sleep(10 * time.Millisecond)
					if i%100 == 99 {
						most = max(most, raft.HeapBytes()-before)
					}
				}
				require.Less(t, time.Since(began), time.Duration(commands)*10*time.Millisecond+time.Second, "writes go on at full speed")
				require.Less(t, most, 64<<20+3*4*limit, "%d bytes were written", commands*size)
				require.Equal(t, commands, c.members[leader].machine.(*counting).count())
				c.network.Heal()
				if !c.isRunning(peer) {
					c.start(peer)
				}
				c.eventually(time.Minute, "it catches up", func() bool { return c.status(peer).AppliedIndex == c.status(leader).LastIndex })
				require.NotZero(t, c.status(peer).SnapshotIndex)
			})
		})
	}
}
