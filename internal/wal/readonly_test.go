package wal

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// TestReadOnly opens what crashes have left at each operation of a log's life: it says what
// opening it says that repairs it, and changes nothing. Nothing can be appended.
func TestReadOnly(t *testing.T) {
	for _, s := range specimens(t) {
		for _, mode := range []vfs.CrashMode{vfs.CrashKill, vfs.CrashTear, vfs.CrashScatter} {
			disk := s.disk.CrashClone(mode, 1)
			files := disk.Files()
			options := inline(1 << 10)
			options.ReadOnly = true
			log, contents, err := Open(disk, "log", options)
			require.NoError(t, err)
			require.ErrorIs(t, log.Append(Batch{State: []byte("x")}), errReadOnly)
			_, _, err = Open(disk, "log", options)
			require.ErrorIs(t, err, vfs.ErrLocked)
			require.NoError(t, log.Abandon())
			require.Equal(t, files, disk.Files())

			log, repaired, err := Open(disk, "log", inline(1<<10))
			require.NoError(t, err)
			require.Equal(t, repaired, contents)
			require.NoError(t, log.Abandon())
		}
	}
	_, _, err := Open(vfs.NewMemory(), "log", Options{ReadOnly: true})
	require.ErrorIs(t, err, ErrNoLog)
}
