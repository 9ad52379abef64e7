package wal

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// TestReadLocksOnce: who closes a file that is being read waits for the reader,
// and the reader must not wait for it again at the next stretch of that file.
func TestReadLocksOnce(t *testing.T) {
	log, _, err := Open(vfs.NewMemory(), "log", inline(1<<20))
	require.NoError(t, err)
	for i := range uint64(3) {
		require.NoError(t, log.Append(Batch{State: make([]byte, 2*maxGap), Runs: []Run{newRun(1, i+1, "entry")}}))
	}
	pieces, err := log.locate(1, 3, 1<<20)
	require.NoError(t, err)
	require.Len(t, pieces, 3)
	s := log.active()
	s.use.RUnlock()
	require.True(t, s.use.TryLock(), "it is locked more than once")
}

// TestReadIsBounded: what stands between two runs and is read along counts too.
func TestReadIsBounded(t *testing.T) {
	log, _, err := Open(vfs.NewMemory(), "log", inline(8<<20))
	require.NoError(t, err)
	for i := range uint64(1000) {
		require.NoError(t, log.Append(Batch{State: make([]byte, maxGap*3/4), Runs: []Run{newRun(1, i+1, "entry")}}))
	}
	var runs []Run
	require.Less(t, allocatedBy(func() { runs, err = log.Read(1, 1000, 20<<10) }), uint64(80<<10))
	require.NoError(t, err)
	require.Len(t, runs, 7)
}
