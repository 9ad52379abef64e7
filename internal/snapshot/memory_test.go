package snapshot

import (
	"hash/crc32"
	"io"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// unsynced is a disk that syncs nothing, so that tests of other things take less
// time.
type unsynced struct{ vfs.FS }

type unsyncedFile struct{ vfs.File }

func (u unsynced) Create(name string) (vfs.File, error) {
	file, err := u.FS.Create(name)
	return unsyncedFile{file}, err
}

func (u unsynced) Open(name string) (vfs.File, error) {
	file, err := u.FS.Open(name)
	return unsyncedFile{file}, err
}

func (unsynced) SyncDir(string) error { return nil }

func (unsyncedFile) Sync() error { return nil }

// generated is a state that takes no memory.
type generated struct{ at, size int64 }

func (g *generated) Read(p []byte) (int, error) {
	if g.at == g.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), g.size-g.at)
	for i := range p[:n] {
		p[i] = byte((g.at + int64(i)) * 2654435761 >> 11)
	}
	g.at += n
	return int(n), nil
}

func (g generated) checksum() uint32 {
	sum := crc32.NewIEEE()
	_, _ = io.Copy(sum, &g)
	return sum.Sum32()
}

// TestMemoryIsBounded: a snapshot of any size takes the memory of some chunks, for
// who takes, verifies, reads, sends or receives it.
func TestMemoryIsBounded(t *testing.T) {
	size := int64(64 << 20)
	if testenv.Brief() {
		size = 8 << 20
	}
	const bound = 4 * 256 << 10
	want := generated{size: size}.checksum()
	fs := unsynced{vfs.OS()}
	base := filepath.ToSlash(t.TempDir())
	here, err := openClean(fs, base+"/here", Options{})
	require.NoError(t, err)
	there, err := openClean(fs, base+"/there", Options{})
	require.NoError(t, err)
	metadata := noise(1, 1000)

	require.Less(t, allocatedBy(func() {
		w, err := here.Create(at(10), metadata)
		require.NoError(t, err)
		_, err = io.Copy(w, &generated{size: size})
		require.NoError(t, err)
		_, err = w.Commit()
		require.NoError(t, err)
	}), uint64(bound))
	require.Less(t, allocatedBy(func() {
		_, err := openClean(fs, base+"/here", Options{})
		require.NoError(t, err)
	}), uint64(bound/8))
	require.Less(t, allocatedBy(func() { require.NoError(t, here.Verify(t.Context(), at(10))) }), uint64(bound))
	require.Less(t, allocatedBy(func() { pass(t, here, there, at(10)) }), uint64(bound))
	require.Less(t, allocatedBy(func() {
		r, err := there.Open(at(10))
		require.NoError(t, err)
		sum := crc32.NewIEEE()
		n, err := io.Copy(sum, r)
		require.NoError(t, err)
		require.Equal(t, size, n)
		require.Equal(t, want, sum.Sum32())
		require.Equal(t, metadata, r.Metadata())
		require.NoError(t, r.Close())
	}), uint64(bound))
}

// pass sends a file from one store to another, over a wire that holds 64 KiB, and
// interrupts it half way.
func pass(t testing.TB, here, there *Store, id ID) {
	raw, err := here.Raw(id)
	require.NoError(t, err)
	defer raw.Close()
	info := raw.Info()
	wire := make([]byte, 64<<10)
	for _, upTo := range []int64{info.Size / 2, info.Size} {
		r, err := there.Receive(info)
		require.NoError(t, err)
		for r.Next() < upTo {
			p := wire[:min(int64(len(wire)), info.Size-r.Next())]
			_, err := raw.ReadAt(p, r.Next())
			require.NoError(t, err)
			require.NoError(t, r.Write(r.Next(), p))
		}
		if upTo < info.Size {
			require.NoError(t, r.Close())
			continue
		}
		_, err = r.Commit()
		require.NoError(t, err)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	const size = 64 << 20
	block := noise(1, 1<<20)
	base := filepath.ToSlash(b.TempDir())
	here, err := openClean(vfs.OS(), base+"/here", Options{})
	require.NoError(b, err)
	there, err := openClean(vfs.OS(), base+"/there", Options{})
	require.NoError(b, err)
	index := uint64(0)
	write := func() {
		index++
		w, err := here.Create(at(index), nil)
		require.NoError(b, err)
		for range size / len(block) {
			_, err = w.Write(block)
			require.NoError(b, err)
		}
		_, err = w.Commit()
		require.NoError(b, err)
	}
	write()
	for name, work := range map[string]func(){
		"take":   write,
		"verify": func() { require.NoError(b, here.Verify(b.Context(), at(index))) },
		"pass": func() {
			b.StopTimer()
			write()
			b.StartTimer()
			pass(b, here, there, at(index))
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				work()
			}
		})
	}
}
