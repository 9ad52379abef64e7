package raft_test

import (
	"cmp"
	"context"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
	"github.com/seed-8da499c8/raft/internal/vfs"
	"github.com/seed-8da499c8/raft/internal/wal"
)

// Nodes with data directories, on the real file system.

// directories gives every node a data directory, which outlives it.
func directories(t *testing.T) clusterOptions {
	root := t.TempDir()
	return clusterOptions{each: func(id raft.NodeID, config *raft.Config) {
		config.Storage, config.DataDir = nil, filepath.Join(root, string(id))
		config.SegmentBytes = 64 << 10
		config.LogCacheBytes = 1 << 10
	}}
}

// contents reads all files below a directory.
func contents(t *testing.T, dir string) map[string]string {
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		files[name] = string(text)
		return err
	}))
	return files
}

func TestNodeComesBackWithItsDataDirectory(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*cluster, raft.NodeID){"stopped": (*cluster).stop, "killed": (*cluster).kill} {
		t.Run(name, func(t *testing.T) {
			options := directories(t)
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 3, options)
				var want []string
				for i := range 200 {
					command := strings.Repeat("x", i*10)
					want = append(want, command)
					c.propose(c.leader(), command)
				}
				for _, id := range c.ids {
					end(c, id)
				}
				for _, id := range c.ids {
					c.start(id)
				}
				c.leader()
				c.settled(want...)
			})
		})
	}
}

// Without a word about storage a node keeps its promises in a directory that is
// named after it.
func TestDataDirectoryIsTheDefault(t *testing.T) {
	t.Chdir(t.TempDir())
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{configure: func(config *raft.Config) { config.Storage = nil }})
		c.propose("a", "x")
		c.stop("a")
		c.start("a")
		c.leader()
		c.settled("x")
	})
	files, err := filepath.Glob("*/*")
	require.NoError(t, err)
	require.Equal(t, []string{"a.raft/0000000000000001.wal", "a.raft/LOCK", "a.raft/begun", "a.raft/snapshots"}, files)
}

// What was committed is applied after a restart before anybody is heard from.
func TestRestartedNodeAppliesWhatItKnowsToBeCommitted(t *testing.T) {
	t.Parallel()
	options := directories(t)
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, options)
		leader := c.leader()
		for _, command := range []string{"1", "2", "3"} {
			c.propose(leader, command)
		}
		for _, id := range c.ids {
			c.stop(id)
		}
		c.start(leader)
		c.eventually(electionTimeout/2, "what is committed is applied", func() bool {
			return len(c.applied(leader)) > 0 // what is committed is saved with what comes next
		})
		require.Empty(t, c.status(leader).Leader)
	})
}

func TestRequireExisting(t *testing.T) {
	t.Parallel()
	for name, storage := range map[string]func() raft.Storage{
		"directory": func() raft.Storage { return nil },
		"storage":   func() raft.Storage { return raft.NewMemoryStorage() },
	} {
		t.Run(name, func(t *testing.T) {
			options := directories(t)
			each, required := options.each, true
			kept := storage()
			options.each = func(id raft.NodeID, config *raft.Config) {
				if each(id, config); kept != nil {
					config.DataDir, config.Storage = "", kept
				}
				config.RequireExisting = required
			}
			options.ended = func(*testing.T, raft.NodeID, error) {}
			bubble(t, func(t *testing.T) {
				c := newCluster(t, 1, options)
				c.start("a")
				<-c.members["a"].ended
				require.ErrorIs(t, c.members["a"].err, raft.ErrNoData)
				require.ErrorContains(t, c.members["a"].err, "node a")
				c.stop("a")
				required = false
				c.start("a")
				c.leader()
				c.stop("a")
				required = true
				c.start("a")
				c.leader()
			})
		})
	}
}

func TestD18TwoNodesOnOneDirectory(t *testing.T) {
	t.Parallel()
	options := directories(t)
	options.ended = func(*testing.T, raft.NodeID, error) {}
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, options)
		config := c.config("a")
		second, err := raft.NewNode(config, newRecorder(), raft.NewMemoryNetwork().Transport("a"))
		require.NoError(t, err)
		began := time.Now()
		err = second.Run(t.Context())
		require.ErrorIs(t, err, raft.ErrDataDirInUse)
		require.ErrorContains(t, err, config.DataDir)
		require.Equal(t, err, second.Err())
		require.Zero(t, time.Since(began))
		require.ErrorIs(t, propose(t.Context(), second), raft.ErrStopped)
		c.propose("a", "goes on")
		c.stop("a")
		c.start("a")
		c.leader()
		c.settled("goes on")
	})
}

func TestNodeDoesNotStartOnADamagedDirectory(t *testing.T) {
	t.Parallel()
	options := directories(t)
	options.ended = func(*testing.T, raft.NodeID, error) {}
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, options)
		c.propose("a", "x")
		c.stop("a")
		dir := c.config("a").DataDir
		name := filepath.Join(dir, "0000000000000001.wal")
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		require.NoError(t, err)
		one := make([]byte, 1)
		_, err = file.ReadAt(one, 150) // in the first batch
		require.NoError(t, err)
		_, err = file.WriteAt([]byte{^one[0]}, 150)
		require.NoError(t, err)
		require.NoError(t, file.Close())
		damaged := contents(t, dir)

		c.start("a")
		<-c.members["a"].ended
		var corrupt *raft.CorruptError
		require.ErrorAs(t, c.members["a"].err, &corrupt)
		require.Equal(t, name, corrupt.File)
		require.ErrorIs(t, c.node("a").Err(), raft.ErrCorrupt)
		require.Contains(t, c.status("a").Reason, name)
		require.Equal(t, damaged, contents(t, dir))
		c.stop("a")
	})
}

func TestNodeDoesNotStartOnTheDirectoryOfAnother(t *testing.T) {
	t.Parallel()
	options := directories(t)
	options.ended = func(*testing.T, raft.NodeID, error) {}
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, options)
		dir := c.config("a").DataDir
		c.stop("a")
		before := contents(t, dir)
		config := raft.NewConfig("b", "b", map[raft.NodeID]string{"b": "b"})
		config.DataDir = dir
		node, err := raft.NewNode(config, newRecorder(), raft.NewMemoryNetwork().Transport("b"))
		require.NoError(t, err)
		require.ErrorContains(t, node.Run(t.Context()), "node b was given the storage of node a")
		require.Equal(t, before, contents(t, dir))
		c.start("a")
		c.leader()
	})
}

// runAlone runs a node on a directory, which is expected not to start.
func runAlone(t *testing.T, dir string, requireExisting bool) error {
	config := raft.NewConfig("a", "a", map[raft.NodeID]string{"a": "a"})
	config.DataDir, config.RequireExisting = dir, requireExisting
	node, err := raft.NewNode(config, newRecorder(), raft.NewMemoryNetwork().Transport("a"))
	require.NoError(t, err)
	err = node.Run(t.Context())
	require.Error(t, err)
	require.Equal(t, err, node.Err())
	return err
}

func TestRequireExistingMakesNothing(t *testing.T) {
	for name, has := range map[string]string{
		"nothing": "", "its parent": "parent/", "empty directory": "parent/data/", "only a lock": "parent/data/LOCK",
		"a file of somebody else": "parent/data/notes.txt",
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(has+"x")), 0o755))
			if has != "" && !strings.HasSuffix(has, "/") {
				require.NoError(t, os.WriteFile(filepath.Join(root, has), nil, 0o644))
			}
			before := tree(t, root)
			require.ErrorIs(t, runAlone(t, filepath.Join(root, "parent", "data"), true), raft.ErrNoData)
			require.Equal(t, before, tree(t, root))
		})
	}
}

// tree returns the names of all files and directories below one.
func tree(t *testing.T, dir string) (names []string) {
	require.NoError(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		names = append(names, name)
		return err
	}))
	return names
}

// A directory whose log is gone does not begin anew, whatever RequireExisting
// says.
func TestNodeDoesNotStartWithoutItsLog(t *testing.T) {
	t.Parallel()
	options := directories(t)
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, options)
		c.propose("a", "x")
		c.stop("a")
		dir := c.config("a").DataDir
		segments, err := filepath.Glob(filepath.Join(dir, "*.wal"))
		require.NoError(t, err)
		require.NotEmpty(t, segments)
		for _, name := range segments {
			require.NoError(t, os.Rename(name, name+".bak"))
		}
		before := contents(t, dir)
		for _, required := range []bool{false, true} {
			err := runAlone(t, dir, required)
			var corrupt *raft.CorruptError
			require.ErrorAs(t, err, &corrupt)
			require.ErrorIs(t, err, raft.ErrCorrupt)
			require.NotErrorIs(t, err, raft.ErrNoData)
			require.Equal(t, filepath.Join(dir, "begun"), corrupt.File)
			require.Equal(t, before, contents(t, dir))
		}
		for _, name := range segments {
			require.NoError(t, os.Rename(name+".bak", name))
		}
		c.start("a")
		c.leader()
		c.settled("x")
	})
}

func TestNodeDoesNotStartWithAHardStateThatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	log, _, err := wal.Open(vfs.OS(), filepath.ToSlash(dir), wal.Options{SegmentBytes: 64 << 10})
	require.NoError(t, err)
	require.NoError(t, log.Append(wal.Batch{State: []byte("no hard state")}))
	require.NoError(t, log.Close())
	before := contents(t, dir)
	for range 2 {
		err = runAlone(t, dir, false)
		var corrupt *raft.CorruptError
		require.ErrorAs(t, err, &corrupt)
		require.Equal(t, filepath.ToSlash(dir), corrupt.File)
		require.ErrorContains(t, corrupt, "hard state cannot be read")
		require.Equal(t, before, contents(t, dir))
	}
}

// A leader that would send a follower what is no longer what it wrote finds out,
// and stops. Another, whose disk is whole, takes over.
func TestD17DamagedEntriesAreNotSpread(t *testing.T) {
	t.Parallel()
	options := directories(t)
	options.ended = func(*testing.T, raft.NodeID, error) {}
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, options)
		leader := c.leader()
		behind, other := c.others(leader)[0], c.others(leader)[1]
		c.stop(behind)
		var want []string
		for i := range 300 {
			want = append(want, strings.Repeat(string('a'+rune(i%26)), 1000))
			c.propose(leader, want[i])
		}
		name := filepath.Join(c.config(leader).DataDir, "0000000000000002.wal")
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = file.WriteAt([]byte("!"), 20_000)
		require.NoError(t, err)
		require.NoError(t, file.Close())

		c.start(behind)
		<-c.members[leader].ended
		require.ErrorIs(t, c.members[leader].err, raft.ErrCorrupt)
		require.ErrorContains(t, c.members[leader].err, name)
		c.buried(c.members[leader])
		require.Equal(t, other, c.leader())
		c.settled(want...)
	})
}

// A6: starts and stops over real files and sockets, those that fail too, leave
// nothing open and no files beside those of the log.
func TestA6DataDirectoriesAndSocketsAreLetGo(t *testing.T) {
	root := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	start := func(i int) error {
		config := raft.NewConfig("a", "127.0.0.1:0", map[raft.NodeID]string{"a": "127.0.0.1:0"})
		config.DataDir, config.SegmentBytes = filepath.Join(root, "data"), 64<<10
		switch i % 4 {
		case 1: // port in use
			config.Address = taken.Addr().String()
			config.Peers["a"] = config.Address
		case 2: // bad disk
			config.DataDir = filepath.Join(root, "file", "data")
		}
		node, err := raft.NewNode(config, newRecorder(), raft.NewTCPTransport(config.Peers, time.Second))
		if err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- node.Run(context.Background()) }()
		if i%4 != 1 && i%4 != 2 {
			_, err = node.Propose(t.Context(), []byte("work"))
			for leadership := range node.WatchLeader(t.Context()) {
				if leadership.IsSelf {
					_, err = node.Propose(t.Context(), []byte("work"))
					break
				}
			}
			if err != nil {
				return err
			}
		} else {
			<-node.Done()
		}
		return cmp.Or(node.Stop(t.Context()), <-ended)
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o644))
	require.NoError(t, start(0))
	goroutines, files, names := runtime.NumGoroutine(), openFiles(), listing(t, root)
	for i := range 200 {
		switch err := start(i); i % 4 {
		case 1, 2:
			require.Error(t, err)
		default:
			require.NoError(t, err)
		}
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+2 && openFiles() <= files+2 }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, names, listing(t, root))
}

// openFiles counts what this process has open; 0 where that cannot be told.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

func listing(t *testing.T, dir string) []string { return slices.Sorted(maps.Keys(contents(t, dir))) }

// A node whose ctx ends while it still reads its newest snapshot ends like any other.
func TestEndOfTheContextWhileASnapshotIsRead(t *testing.T) {
	t.Parallel()
	options := directories(t)
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, options)
		c.propose("a", "x")
		_, err := c.node("a").TakeSnapshot(t.Context())
		require.NoError(t, err)
		c.stop("a")
		node, err := raft.NewNode(c.config("a"), new(recorder), raft.NewMemoryNetwork().Transport("a"))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, node.Run(ctx))
		require.NoError(t, node.Err())
		c.start("a")
		require.Equal(t, []string{"x"}, c.equal())
	})
}
