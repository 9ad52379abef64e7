package snapshot

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// of returns options for another cluster.
func of(fingerprint [16]byte) Options {
	options := small(9)
	options.Fingerprint = fingerprint
	return options
}

// TestCopyForAnotherCluster: a copy changes nothing for the cluster of now, which removes it,
// and takes the place of the snapshot where the directory has become another cluster's.
func TestCopyForAnotherCluster(t *testing.T) {
	other := [16]byte{7}
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	mustTake(t, s, at(10), at(30))
	before := disk.Files()
	require.NoError(t, s.CopyFor(other, at(30)))
	require.NoError(t, s.CopyFor(other, at(30)), "one that is left over is replaced")
	require.Len(t, disk.Files(), len(before)+1)
	require.NoError(t, check(s, at(30)))

	stays := disk.CrashClone(vfs.CrashLose, 0)
	require.Equal(t, []ID{at(30), at(10)}, ids(t, open(t, stays, small(1))))
	require.Equal(t, before, stays.Files())

	s = open(t, disk, of(other))
	require.Equal(t, namesOf(at(10), at(30)), names(disk))
	require.NoError(t, s.List()[0].Err)
	require.NoError(t, check(s, at(30)))
	require.ErrorContains(t, s.List()[1].Err, "it belongs to another cluster")
	mustTake(t, s, at(40))
	require.Equal(t, []ID{at(40), at(30)}, ids(t, s))
}

// TestDamageIsNotCopied: whatever is damaged in the snapshot, there is no copy.
func TestDamageIsNotCopied(t *testing.T) {
	f := source(t, at(30), 1)
	for offset := range f.bytes {
		if testenv.Brief() && offset%7 > 0 {
			continue
		}
		disk := with(t, f.ID, f.bytes)
		s := open(t, disk, small(1))
		require.NoError(t, disk.Corrupt(dir+"/"+fileName(f.ID), int64(offset), 4))
		files := disk.Files()
		require.Error(t, s.CopyFor([16]byte{7}, f.ID), "offset %d", offset)
		require.Equal(t, files, disk.Files())
	}
}

// TestCopyIsAtomic loses power at each operation of making a copy: there is none, or one
// that is whole.
func TestCopyIsAtomic(t *testing.T) {
	other := [16]byte{7}
	original := vfs.NewMemory()
	mustTake(t, open(t, original, small(1)), at(30))
	made := 0
	for _, mode := range []vfs.CrashMode{vfs.CrashLose, vfs.CrashKeep, vfs.CrashTear, vfs.CrashScatter} {
		for seed := range uint64(8) {
			for operation := 1; ; operation++ {
				disk := original.CrashClone(vfs.CrashKeep, 0)
				s := open(t, disk, small(2))
				disk.FailAfter(disk.Operations() + operation)
				err := s.CopyFor(other, at(30))
				left := disk.CrashClone(mode, seed)
				require.NoError(t, check(open(t, left.CrashClone(vfs.CrashKeep, 0), small(1)), at(30)))
				switch moved := open(t, left, of(other)); {
				case err == nil || moved.List()[0].Err == nil:
					made++
					require.NoError(t, check(moved, at(30)))
				default:
					require.ErrorContains(t, moved.List()[0].Err, "it belongs to another cluster")
				}
				if err == nil {
					break
				}
			}
		}
	}
	require.Greater(t, made, 4*8)
}
