package wal

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// What recovery does in pieces of a window.

// bodyForLength is a body that makes a batch with one run so long.
func bodyForLength(length int64) []byte {
	r := records{runs: make([]runRecord, 1)}
	return bytes.Repeat([]byte("x"), int(length)-headBytes-len(r.appendTo(nil)))
}

// TestRecoveryWritesAllOfTheLastBatch: of a batch whose sync failed the bytes can
// be read, and are not on the disk. Once recovery has found it, it stays, however
// long it is.
func TestRecoveryWritesAllOfTheLastBatch(t *testing.T) {
	for _, length := range []int64{512, windowBytes - 8, windowBytes, windowBytes + 8, 2 * windowBytes, 3*windowBytes + 4096} {
		options := inline(8 << 20)
		disk := vfs.NewMemory()
		disk.KeepAfterFailedSync(true)
		log, _, err := Open(disk, "log", options)
		require.NoError(t, err)
		require.NoError(t, log.Append(Batch{Runs: []Run{{Term: 1, First: 1, Count: 1, Body: []byte("one")}}}))
		body := bodyForLength(length)
		for i := range body {
			body[i] = byte(i / 512 % 251)
		}
		start := log.position
		disk.Inject(vfs.Nth(vfs.OpSync, 1, vfs.ErrIO))
		require.ErrorIs(t, log.Append(Batch{Runs: []Run{{Term: 1, First: 2, Count: 1, Body: body}}}), vfs.ErrIO)
		require.ErrorIs(t, log.Close(), vfs.ErrIO)
		disk.Inject(nil)

		log, contents, err := Open(disk, "log", options)
		require.NoError(t, err)
		require.Equal(t, Position{2, 1}, contents.Last)
		require.Equal(t, start+length, log.position)
		disk = disk.CrashClone(vfs.CrashLose, 0)
		log, contents, err = Open(disk, "log", options)
		require.NoError(t, err)
		require.Equal(t, Position{2, 1}, contents.Last, "a batch of %d bytes", length)
		runs, err := log.Read(2, 2, 1)
		require.NoError(t, err)
		require.True(t, bytes.Equal(body, runs[0].Body), "a batch of %d bytes", length)
		require.NoError(t, log.Close())
	}
}

// TestLaterBatchOnABorder: damage to a durable batch is found out by the head of
// the next one, wherever that stands, also on the border of two windows.
func TestLaterBatchOnABorder(t *testing.T) {
	first := int64(windowBytes) // what is looked at is counted from the end of the whole batches
	second := first + windowBytes - headBytes
	name := "log/" + fileName(1, segmentSuffix)
	for _, border := range []int64{first, second} {
		for before := int64(-8); before <= 2*headBytes; before += 8 {
			options := inline(4 << 20)
			disk := vfs.NewMemory()
			log, _, err := Open(disk, "log", options)
			require.NoError(t, err)
			require.NoError(t, log.Append(Batch{Runs: []Run{{Term: 1, First: 1, Count: 1, Body: []byte("one")}}}))
			start := log.position
			require.NoError(t, log.Append(Batch{Runs: []Run{{Term: 1, First: 2, Count: 1, Body: bodyForLength(border - before)}}}))
			require.Equal(t, start+border-before, log.position)
			require.NoError(t, log.Append(Batch{Runs: []Run{{Term: 1, First: 3, Count: 1, Body: []byte("three")}}}))
			for _, at := range []int64{start, start + headBytes + 100} {
				damaged := disk.CrashClone(vfs.CrashLose, 0)
				require.NoError(t, damaged.Corrupt(name, at, 1))
				files := damaged.Files()
				_, _, err := Open(damaged, "log", options)
				var corrupt *CorruptError
				require.ErrorAs(t, err, &corrupt, "a head %d bytes before the border at %d", before, border)
				require.Equal(t, CorruptError{File: name, Offset: start, Reason: "batch 2 is damaged, and was durable when batch 3 was written"}, *corrupt)
				for file, content := range damaged.Files() {
					require.True(t, bytes.Equal(files[file], content))
				}
			}
			require.NoError(t, log.Close())
		}
	}
}
