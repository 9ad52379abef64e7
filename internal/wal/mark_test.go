package wal

import (
	"maps"
	"path"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// TestLostLogIsRefused: of each log all segments are gone, removed or under other
// names. It does not begin anew, and nothing is changed.
func TestLostLogIsRefused(t *testing.T) {
	for _, s := range specimens(t) {
		for _, renamed := range []bool{false, true} {
			disk := s.disk.CrashClone(vfs.CrashKeep, 0)
			for _, name := range s.order {
				if renamed {
					require.NoError(t, disk.Rename(name, name+".bak"))
				} else {
					require.NoError(t, disk.Remove(name))
				}
			}
			for range 2 {
				var corrupt *CorruptError
				require.ErrorAs(t, s.judge(t, disk, false, "without segments"), &corrupt)
				require.Equal(t, "log/"+markName, corrupt.File)
				require.ErrorContains(t, corrupt, "all its segments are missing")
			}
			if !renamed {
				continue
			}
			for _, name := range s.order {
				require.NoError(t, disk.Rename(name+".bak", name))
			}
			require.NoError(t, s.judge(t, disk, false, "with its segments again"))
		}
	}
}

// TestMarkIsMade of a log that has none: an old one, or one that a crash met
// between its first segment and the mark. It is durable when Open returns, and
// made once only.
func TestMarkIsMade(t *testing.T) {
	for _, s := range specimens(t) {
		disk := s.disk.CrashClone(vfs.CrashKeep, 0)
		require.NoError(t, disk.Remove("log/"+markName))
		require.NoError(t, disk.SyncDir("log"))
		require.NoError(t, s.judge(t, disk, false, "without the mark"))
		disk = disk.CrashClone(vfs.CrashLose, 0)
		require.Contains(t, disk.Files(), "log/"+markName)
		disk.Inject(vfs.Nth(vfs.OpCreate, 1, vfs.ErrIO))
		require.NoError(t, s.judge(t, disk, false, "with the mark"))
	}
}

// TestCrashBeforeTheMark crashes the first start at each operation: it is never
// refused afterwards, there is no mark without a segment, and the next start
// makes both.
func TestCrashBeforeTheMark(t *testing.T) {
	modes := []vfs.CrashMode{vfs.CrashLose, vfs.CrashKeep, vfs.CrashKill, vfs.CrashScatter}
	between := 0
	disk := vfs.NewMemory()
	crash := func() {
		for _, mode := range modes {
			for seed := range uint64(4) {
				left := disk.CrashClone(mode, seed)
				_, marked := left.Files()["log/"+markName]
				segments := slices.DeleteFunc(segmentsOf(left.Files()), func(name string) bool { return path.Ext(name) != segmentSuffix })
				require.False(t, marked && len(segments) == 0, "%v: a mark and no segment", mode)
				if !marked && len(segments) > 0 {
					between++
				}
				log, _, err := Open(left, "log", inline(1<<10))
				require.NoError(t, err)
				files := left.CrashClone(vfs.CrashLose, 0).Files()
				require.Contains(t, files, "log/"+markName)
				require.Contains(t, files, "log/"+fileName(1, segmentSuffix))
				require.Empty(t, files["log/"+markName])
				require.NoError(t, log.Close())
			}
		}
	}
	disk.Inject(func(op vfs.Op) error {
		if op.Number > 0 {
			crash()
		}
		return nil
	})
	_, _, err := Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	disk.Inject(nil)
	crash()
	require.Positive(t, between)
}

// TestFailedMark: a log whose mark cannot be made durable is not opened.
func TestFailedMark(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpCreate, vfs.OpSyncDir} {
		disk := vfs.NewMemory()
		marking := false
		disk.Inject(func(op vfs.Op) error {
			marking = marking || op.Kind == vfs.OpCreate && op.Name == "log/"+markName
			if marking && op.Kind == kind {
				return vfs.ErrIO
			}
			return nil
		})
		_, _, err := Open(disk, "log", inline(1<<10))
		require.ErrorIs(t, err, vfs.ErrIO)
		disk.Inject(nil)
		log, _, err := Open(disk, "log", inline(1<<10))
		require.NoError(t, err)
		require.Contains(t, disk.CrashClone(vfs.CrashLose, 0).Files(), "log/"+markName)
		require.NoError(t, log.Close())
	}
}

// TestMustExist makes nothing where there is no log, and opens it where there is
// one.
func TestMustExist(t *testing.T) {
	options := inline(1 << 10)
	options.MustExist = true
	for name, prepare := range map[string]func(*vfs.Memory){
		"nothing":         func(*vfs.Memory) {},
		"its parent":      func(disk *vfs.Memory) { require.NoError(t, disk.MkdirAll("parent")) },
		"empty directory": func(disk *vfs.Memory) { require.NoError(t, disk.MkdirAll("parent/log")) },
		"a spare only": func(disk *vfs.Memory) {
			require.NoError(t, disk.Put("parent/log/"+fileName(1, spareSuffix), make([]byte, 1<<10)))
		},
		"other files": func(disk *vfs.Memory) { require.NoError(t, disk.Put("parent/log/1.wal", nil)) },
	} {
		disk := vfs.NewMemory()
		prepare(disk)
		files, operations := disk.Files(), disk.Operations()
		_, _, err := Open(disk, "parent/log", options)
		require.ErrorIs(t, err, ErrNoLog, name)
		require.Equal(t, operations, disk.Operations(), name)
		require.Equal(t, files, disk.Files(), name)
	}

	for _, s := range specimens(t) {
		for _, marked := range []bool{true, false} {
			disk := s.disk.CrashClone(vfs.CrashKeep, 0)
			if !marked {
				require.NoError(t, disk.Remove("log/"+markName))
			}
			log, contents, err := Open(disk, "log", options)
			require.NoError(t, err)
			got, err := observe(log, contents, 1<<20)
			require.NoError(t, err)
			require.True(t, got.equal(s.want))
			require.NoError(t, log.Close())
		}
	}

	disk := vfs.NewMemory()
	require.NoError(t, disk.Put("log/"+markName, nil))
	_, _, err := Open(disk, "log", options)
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt, "a log that was lost is not one that there never was")

	require.NoError(t, disk.Remove("log/"+markName))
	disk.Inject(vfs.Nth(vfs.OpList, 1, vfs.ErrIO))
	_, _, err = Open(disk, "log", options)
	require.ErrorIs(t, err, vfs.ErrIO)
	require.NotErrorIs(t, err, ErrNoLog)
}

// TestAbandon leaves the bytes as they are, and lets go of the directory.
func TestAbandon(t *testing.T) {
	for _, background := range []bool{false, true} {
		for _, s := range specimens(t) {
			disk := s.disk.CrashClone(vfs.CrashKeep, 0)
			options := inline(1 << 10)
			options.Inline = !background
			for range 2 {
				log, _, err := Open(disk, "log", options)
				require.NoError(t, err)
				_, _, err = Open(disk, "log", options)
				require.ErrorIs(t, err, vfs.ErrLocked)
				require.NoError(t, log.Abandon())
				require.ErrorIs(t, log.Append(s.want.more()), errClosed)
				require.True(t, maps.EqualFunc(s.files, disk.Files(), slices.Equal), s.name)
			}
			require.NoError(t, s.judge(t, disk, false, "after it was abandoned"))
		}
	}
}
