package wal

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// fillTo appends entries until a segment is written to, and forgets all but the last
// of them whenever there are as many segments as that.
func fillTo(t *testing.T, log *Log, number uint64, segments int) {
	for log.active().number < number {
		last := log.Contents().Last.Index
		require.NoError(t, log.Append(Batch{Runs: []Run{newRun(1, last+1, fmt.Sprintf("%200d", last+1))}}))
		if len(log.index.segments) >= segments {
			require.NoError(t, log.Append(Batch{Compact: Position{last, 1}}))
		}
	}
}

// A log that goes on and on makes no more files than it needs at once, and reserves
// no more space: it writes where it wrote before.
func TestRemovedSegmentsAreUsedAgain(t *testing.T) {
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", inline(2<<10))
	require.NoError(t, err)
	fillTo(t, log, 6, 3)
	disk.Inject(func(op vfs.Op) error {
		if op.Kind == vfs.OpCreate || op.Kind == vfs.OpRemove {
			return vfs.ErrIO
		}
		return nil
	})
	fillTo(t, log, 40, 3)
	last := log.Contents().Last
	runs, err := log.Read(last.Index, last.Index, 1<<20)
	require.NoError(t, err)
	require.Len(t, runs, 1)
	disk.Inject(nil)
	require.NoError(t, log.Close())
	for _, name := range segmentsOf(disk.Files()) {
		require.True(t, strings.HasSuffix(name, segmentSuffix), "%s is left", name)
	}
}

// No more files are kept than a few, and none of another size than is needed.
func TestFewFilesAreKept(t *testing.T) {
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", inline(2<<10))
	require.NoError(t, err)
	fillTo(t, log, 9, 99)
	require.NoError(t, log.Append(Batch{Compact: log.Contents().Last}))
	require.Len(t, log.used, maxUsed)
	require.Len(t, segmentsOf(disk.Files()), 1+maxUsed)
	fillTo(t, log, 9+maxUsed, 99)
	require.Empty(t, log.used)

	require.NoError(t, log.Append(batchOf(log.Contents().Last.Index+1, 5<<10).batch)) // gets a file of its own
	large := log.active()
	fillTo(t, log, large.number+1, 99)
	disk.Inject(vfs.Nth(vfs.OpCreate, 1, vfs.ErrIO))
	require.NoError(t, log.Append(Batch{Compact: log.Contents().Last}))
	require.NotEmpty(t, log.used)
	for _, s := range log.used {
		size, err := s.file.Size()
		require.NoError(t, err)
		require.Equal(t, int64(2<<10), size)
	}
	require.NoError(t, log.Close())
}

// Whoever reads a segment reads what it held, though it is removed meanwhile: its
// file gets no other content before.
func TestFileThatIsReadIsNotUsedAgain(t *testing.T) {
	log, _, err := Open(vfs.NewMemory(), "log", Options{SegmentBytes: 2 << 10})
	require.NoError(t, err)
	fillTo(t, log, 2, 99)
	pieces, err := log.locate(1, 1, 1<<20)
	require.NoError(t, err)
	require.NoError(t, log.Append(Batch{Compact: log.Contents().Last}))
	fillTo(t, log, 20, 3)
	runs, err := pieces[0].read(nil)
	require.NoError(t, err)
	require.Equal(t, uint64(1), runs[0].First)
	letGo(pieces)
	for { // it is kept, or closed, now
		log.mu.RLock()
		waits := log.removing
		log.mu.RUnlock()
		if !waits {
			break
		}
		runtime.Gosched()
	}
	require.NoError(t, log.Close())
}

// What a file held before never becomes part of the log that ends before it, however
// it comes to its end.
func TestWhatAFileHeldBeforeStaysAway(t *testing.T) {
	c := newCrasher(t, 2<<10)
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", c.options)
	require.NoError(t, err)
	for log.active().number < 8 { // batches of equal size: the old ones begin where new ones will
		last := log.Contents().Last
		next := step{batch: batchOf(last.Index+1, 200).batch}
		if len(log.index.segments) > 2 {
			next.batch.Compact = last
		}
		c.acked, c.pending = c.pending, c.pending.after(next)
		require.NoError(t, log.Append(next.batch))
		if s := log.active(); s.number > 5 {
			held := disk.Files()[s.name]
			require.Less(t, log.position, int64(len(held)))
			require.NotZero(t, strings.Count(string(held[log.position:]), "btch"), "an old batch behind the new ones")
			c.acked = c.pending
			c.survive(disk.CrashClone(vfs.CrashKill, 0), s.name)
		}
	}
}
