package wal

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// prewriting opens a log that writes zeros ahead, and tells how far the last write to its
// disk went.
func prewriting(t *testing.T, segment int64) (log *Log, disk *vfs.Memory, reach *int64) {
	disk, reach = vfs.NewMemory(), new(int64)
	options := inline(segment)
	options.Prewrite = true
	log, _, err := Open(disk, "log", options)
	require.NoError(t, err)
	disk.Inject(func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite {
			*reach = op.Offset + op.Length
		}
		return nil
	})
	return log, disk, reach
}

// Most batches go where the disk was written before, each write of zeros serves many, and
// none goes beyond the file.
func TestBatchesGoWhereTheDiskWasWritten(t *testing.T) {
	log, disk, reach := prewriting(t, 2<<20)
	batches, further, written := 0, 0, int64(0)
	for index := uint64(1); ; index++ {
		require.NoError(t, log.Append(Batch{Runs: []Run{newRun(1, index, fmt.Sprintf("%2000d", index))}}))
		s := log.active()
		if s.number == 2 {
			break
		}
		batches++
		require.LessOrEqual(t, *reach, s.size)
		if *reach > log.position {
			require.GreaterOrEqual(t, log.position, written, "the disk was written there")
			require.GreaterOrEqual(t, *reach, min(log.position+leastAhead, s.size), "few are served")
			further, written = further+1, *reach
		} else {
			require.LessOrEqual(t, log.position, written)
		}
	}
	require.Greater(t, further, 3)
	require.Greater(t, batches, 100*further)
	disk.Inject(nil)
	want := log.Contents()
	require.NoError(t, log.Close())

	reopened, contents, err := Open(disk, "log", log.options)
	require.NoError(t, err)
	require.Equal(t, want, contents)
	require.NoError(t, reopened.Close())
}

// A batch of 128 KiB is worth it, too.
func TestZerosAheadOfMiddlingBatches(t *testing.T) {
	log, _, reach := prewriting(t, 4*largeBatch)
	require.NoError(t, log.Append(batchOf(1, 128<<10).batch))
	require.GreaterOrEqual(t, *reach, log.position+128<<10)
	require.NoError(t, log.Close())
}

// Nothing is written ahead of large batches, nor in files that were used before.
func TestNothingIsWrittenAheadInVain(t *testing.T) {
	log, _, reach := prewriting(t, 4*largeBatch)
	require.NoError(t, log.Append(batchOf(1, largeBatch).batch))
	require.Equal(t, log.position, *reach)

	fillTo(t, log, 7, 3)
	require.Equal(t, log.position, *reach)
	for first := log.active().number; log.active().number < first+2; {
		fillTo(t, log, log.active().number+1, 3)
		require.Equal(t, log.position, *reach)
	}
	require.NoError(t, log.Close())
}

// A crash at any operation leaves whole batches, whatever has become of zeros behind them.
func TestCrashWithZerosAhead(t *testing.T) {
	t.Parallel()
	c := newCrasher(t, 2<<10)
	c.options.Prewrite = true
	steps := workload()
	if testenv.Brief() {
		steps = steps[:60]
	}
	require.Greater(t, c.run(steps), 4)
}
