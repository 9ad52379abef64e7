package raft_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// cached returns options of nodes that keep so many bytes of their logs in
// memory, and send batches of at most half as many.
func cached(bytes int) clusterOptions {
	return clusterOptions{configure: func(config *raft.Config) {
		config.LogCacheBytes, config.MaxBatchBytes = bytes, bytes/2+1
	}}
}

// lag cuts a follower off until it lacks more than the leader has in memory.
func (c *cluster) lag(leader, follower raft.NodeID) {
	c.network.Isolate(follower)
	for i := range 60 {
		c.propose(leader, fmt.Sprintf("%01000d", i))
	}
}

// A follower that lags is caught up from the storage. While the storage takes
// its time for that, nobody else waits for it.
func TestHungReadDelaysNobody(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, cached(16<<10))
		leader := c.leader()
		follower := c.others(leader)[0]
		c.lag(leader, follower)
		c.disk(leader).stallReads()
		c.network.Heal()
		c.eventually(soon, "a read", func() bool { return c.disk(leader).readCount() > 0 })
		term, began := c.status(leader).Term, time.Now()
		for i := range 100 {
			c.propose(leader, fmt.Sprintf("meanwhile %d", i))
		}
		require.Zero(t, time.Since(began), "commands go on at full speed")
		for range 20 {
			time.Sleep(electionTimeout / 2)
			for _, p := range c.status(leader).Peers {
				require.LessOrEqual(t, p.LastContact, heartbeat)
			}
		}
		require.Equal(t, term, c.status(leader).Term)
		require.True(t, c.isLeader(leader))
		require.Less(t, len(c.applied(follower)), 60)
		c.disk(leader).resumeReads()
		require.Len(t, c.equal(), 160)
		require.Greater(t, c.disk(leader).readCount(), 4, "it took several reads")
	})
}

// A follower that lags far comes nearer at SnapshotRate, however fast the log grows
// meanwhile, and not faster: its entries are read beside the work for clients.
func TestLaggingFollowerIsCaughtUpAtARate(t *testing.T) {
	t.Parallel()
	const rate, window = 10_000, 8 << 10
	const lacks = 60_000 - 16<<10 // bytes that are not in memory
	for name, pause := range map[string]time.Duration{"idle": time.Hour, "a log that grows twice as fast": 20 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				options := cached(16 << 10)
				inner := options.configure
				options.configure = func(config *raft.Config) {
					inner(config)
					config.SnapshotRate, config.MaxInflightBytes = rate, window
				}
				c := startCluster(t, 3, options)
				leader := c.leader()
				follower := c.others(leader)[0]
				c.lag(leader, follower)
				c.network.Heal()
				began := time.Now()
				for i := 0; c.status(follower).LastIndex < c.status(leader).LastIndex; i++ {
					require.Less(t, time.Since(began), 2*lacks*time.Second/rate, "it comes no nearer")
					for end := time.Now().Add(pause); time.Now().Before(end) && c.status(follower).LastIndex < c.status(leader).LastIndex; {
						time.Sleep(5 * time.Millisecond)
					}
					if pause < time.Minute {
						c.propose(leader, fmt.Sprintf("%0400d", i))
					}
				}
				require.Greater(t, time.Since(began), (lacks-window)*time.Second/rate*4/5, "sooner than the rate allows")
			})
		})
	}
}

// Commands do not wait for that rate: where no majority goes on without a follower it
// gets all that it takes.
func TestNeededFollowerIsCaughtUpAtFullSpeed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		options := cached(16 << 10)
		inner := options.configure
		options.configure = func(config *raft.Config) {
			inner(config)
			config.SnapshotRate, config.MaxInflightBytes = 100, 1<<10
		}
		c := startCluster(t, 3, options)
		leader := c.leader()
		c.lag(leader, c.others(leader)[0])
		c.kill(c.others(leader)[1])
		c.network.Heal()
		time.Sleep(electionTimeout) // until the leader knows that it hears one only
		c.propose(leader, "needs both")
		require.Len(t, c.equal(), 61)
	})
}

// A log that cannot be read stops the node, since it
// may be damaged anywhere. The others go on without it.
func TestFailedReadStopsTheNode(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		options := cached(16 << 10)
		options.ended = func(t *testing.T, _ raft.NodeID, err error) {
			if err != nil {
				require.ErrorIs(t, err, errDisk)
			}
		}
		c := startCluster(t, 3, options)
		leader := c.leader()
		c.lag(leader, c.others(leader)[0])
		c.disk(leader).failReads(errDisk)
		c.network.Heal()
		node := c.node(leader)
		c.awaitEnd(leader)
		require.ErrorIs(t, node.Err(), errDisk)
		require.ErrorContains(t, node.Err(), "raft: node "+string(leader)+" cannot read entries ")
		require.Contains(t, node.Status().Reason, errDisk.Error())
		c.stop(leader)
		c.propose(c.leader(), "goes on")

		c.start(leader) // to apply its log it has to read it
		c.awaitEnd(leader)
		require.ErrorIs(t, c.node(leader).Err(), errDisk)
		require.ErrorContains(t, c.node(leader).Err(), "cannot be read to apply them")
		c.stop(leader)
		c.disk(leader).failReads(nil)
		c.start(leader)
		require.Len(t, c.equal(), 61)
	})
}

// What does not fit into memory is all applied after a restart, in order.
func TestRestartAppliesMoreThanFitsIntoMemory(t *testing.T) {
	t.Parallel()
	for _, bytes := range []int{1, 4 << 10, 32 << 20} {
		bubble(t, func(t *testing.T) {
			c := startCluster(t, 3, cached(min(bytes, 16<<20)))
			var want []string
			for i := range 300 {
				want = append(want, fmt.Sprintf("%0*d", 1+i, i))
				c.propose(c.leader(), want[i])
			}
			for _, id := range c.ids {
				c.kill(id)
			}
			for _, id := range c.ids {
				c.start(id)
			}
			c.propose(c.leader(), "after")
			require.Equal(t, append(want, "after"), c.equal())
			require.EqualValues(t, 1, c.status("a").FirstIndex)
		})
	}
}

// A node does not start on a log whose beginning is gone: its state machine
// would begin in the middle.
func TestCompactedLogWithoutASnapshotIsRefused(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{ended: func(t *testing.T, _ raft.NodeID, err error) {
			if err != nil {
				require.ErrorContains(t, err, "raft: node a has no snapshot of entry 2, and its log starts behind that: ")
			}
		}})
		c.propose("a", "x")
		c.propose("a", "y")
		c.stop("a")
		require.NoError(t, c.disk("a").Save(raft.SaveBatch{Compacted: raft.EntryID{Index: 2, Term: 2}}))
		c.start("a")
		c.awaitEnd("a")
		require.ErrorIs(t, c.node("a").Err(), raft.ErrCorrupt)
	})
}

// rote is a storage that need not keep the commands, since it knows them: each
// is size zeros.
type rote struct {
	size      int
	snapshots *raft.SnapshotStore
	mu        sync.Mutex
	state     raft.StorageState
	first     raft.Entries
}

func (s *rote) Snapshots() *raft.SnapshotStore { return s.snapshots }

func (s *rote) Load() (raft.StorageState, error) { return s.state, nil }

func (s *rote) Save(batch raft.SaveBatch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if batch.HardState != nil {
		s.state.HardState = *batch.HardState
	}
	for entry := range batch.Entries.All() {
		if entry.Index == 1 {
			s.first = batch.Entries
		}
		if len(s.state.Terms) == 0 || s.state.Terms[len(s.state.Terms)-1].Term != entry.Term {
			s.state.Terms = append(s.state.Terms, raft.TermStart{First: entry.Index, Term: entry.Term})
		}
		s.state.Last = entry.Index
	}
	s.state.Commit = batch.Commit
	return nil
}

func (s *rote) Entries(first, last raft.Index, maxBytes int) (raft.Entries, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case first == 1:
		return s.first, nil
	case first == 2:
		return raft.MakeEntries(raft.LogEntry{Term: 2, Index: 2, Kind: raft.EntryNoop}), nil
	}
	var list []raft.LogEntry
	data := make([]byte, s.size)
	for i := first; i <= last && (i == first || (int(i-first)+1)*(s.size+8) <= maxBytes); i++ {
		list = append(list, raft.LogEntry{Term: 2, Index: i, Kind: raft.EntryCommand, Data: data})
	}
	return raft.MakeEntries(list...), nil
}

// weigher is a state machine that weighs the heap every now and then. While it
// does nobody else gets on.
type weigher struct {
	counting
	before, most int
}

func (m *weigher) Apply(command []byte) ([]byte, error) {
	if m.count()%500 == 499 {
		m.most = max(m.most, raft.HeapBytes()-m.before)
	}
	return m.counting.Apply(command)
}

// F5: a log of many times the memory that it may take, while it grows and when
// all of it is read again.
func TestF5LogTakesNoMoreMemoryThanItMay(t *testing.T) {
	const size, commands = 32 << 10, 1600 // 50 MiB
	config := raft.NewConfig("a", "a", map[raft.NodeID]string{"a": "a"})
	config.SnapshotEntries, config.SnapshotBytes = math.MaxInt, math.MaxInt
	config.Storage, config.LogCacheBytes, config.MaxBatchBytes = &rote{size: size, snapshots: raft.NewMemorySnapshotStore()}, 1<<20, 256<<10
	run := func(use func(*raft.Node)) {
		machine := &weigher{before: raft.HeapBytes()}
		node, err := raft.NewNode(config, machine, raft.NewMemoryNetwork().Transport("a"))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- node.Run(ctx) }()
		for leadership := range node.WatchLeader(ctx) {
			if leadership.IsSelf {
				break
			}
		}
		use(node)
		cancel()
		require.NoError(t, <-ended)
		require.GreaterOrEqual(t, machine.count(), commands)
		require.Positive(t, machine.most)
		require.Less(t, machine.most, 12<<20)
	}
	run(func(node *raft.Node) {
		for range commands {
			_, err := node.Propose(t.Context(), make([]byte, size))
			require.NoError(t, err)
		}
	})
	run(func(node *raft.Node) {
		_, err := node.Propose(t.Context(), make([]byte, size)) // applied last
		require.NoError(t, err)
	})
}
