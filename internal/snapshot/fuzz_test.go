package snapshot

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// How FuzzOpen makes the bytes more likely to be a snapshot.
const (
	mended = 1 << iota // the checksums are right
	ours               // the header is of this version, of this snapshot and cluster
	fits               // the trailer says what the file's length says
)

// dress changes a file so that more than checksums is looked at.
func dress(file []byte, how byte) {
	if len(file) < headerBytes+trailerBytes {
		return
	}
	if how&ours != 0 {
		h := header{id: at(3), identity: binary.BigEndian.Uint64(file[32:]), fingerprint: small(0).Fingerprint}
		h.chunk = int64(binary.BigEndian.Uint32(file[56:]))
		h.metadata = int64(binary.BigEndian.Uint32(file[60:]))
		copy(file, h.encode())
	}
	if how&mended != 0 {
		mend(file)
	}
	if how&fits == 0 {
		return
	}
	if h, err := decodeHeader(file[:headerBytes]); err == nil {
		if p, err := newPlan(h, int64(len(file))); err == nil {
			copy(file[len(file)-trailerBytes:], p.trailer())
		}
	}
}

// FuzzOpen has any bytes as a snapshot's file. Who opens it, reads it, verifies it or
// receives it finds the same damage, or none: then it is what would be written.
func FuzzOpen(f *testing.F) {
	for _, size := range []struct{ metadata, data int }{{0, 0}, {5, 0}, {0, 5}, {150, 120}, {100, 300}} {
		disk := vfs.NewMemory()
		w, err := open(f, disk, small(1)).Create(at(3), noise(1, size.metadata))
		require.NoError(f, err)
		_, err = w.Write(noise(2, size.data))
		require.NoError(f, err)
		_, err = w.Commit()
		require.NoError(f, err)
		for _, how := range []byte{0, mended, mended | ours, mended | ours | fits} {
			f.Add(disk.Files()[dir+"/"+fileName(at(3))], how)
		}
	}
	f.Fuzz(func(t *testing.T, file []byte, how byte) {
		file = slices.Clone(file)
		dress(file, how)
		disk := with(t, at(3), file)
		var metadata, data []byte
		var err error
		require.Less(t, allocatedBy(func() { metadata, data, err = readThrough(t, disk) }), uint64(200<<10+30*len(file)))
		require.Equal(t, file, disk.Files()[dir+"/"+fileName(at(3))])
		if err == nil {
			require.Equal(t, file, rewritten(t, file, metadata, data))
		}
		if err != nil && !errors.As(err, new(*vfs.CorruptError)) {
			require.ErrorAs(t, err, new(vfs.NewerError))
		}
		if len(file) < headerBytes+trailerBytes {
			return
		}
		info := Info{ID: at(3), Size: int64(len(file)), Identity: binary.BigEndian.Uint64(file[32:])}
		received := sent{info, file}.receive(open(t, vfs.NewMemory(), small(1)), 70)
		require.Equal(t, err == nil, received == nil, "when it is read: %v; when it is received: %v", err, received)
	})
}

// readThrough reads a file in every way.
func readThrough(t *testing.T, disk *vfs.Memory) (metadata, data []byte, err error) {
	s, err := openClean(disk, dir, small(1))
	if err != nil {
		return nil, nil, err
	}
	verified := s.Verify(t.Context(), at(3))
	r, err := s.Open(at(3))
	if err != nil {
		require.Error(t, verified)
		return nil, nil, err
	}
	data, err = io.ReadAll(r)
	require.Equal(t, verified == nil, err == nil, "verified: %v, read: %v", verified, err)
	return r.Metadata(), data, err
}

// rewritten writes what was found in a file again.
func rewritten(t *testing.T, file, metadata, data []byte) []byte {
	h, err := decodeHeader(file[:headerBytes])
	require.NoError(t, err)
	options := small(1)
	options.ChunkBytes, options.Random = int(h.chunk), func() uint64 { return h.identity }
	again := vfs.NewMemory()
	w, err := open(t, again, options).Create(at(3), metadata)
	require.NoError(t, err)
	_, err = w.Write(data)
	require.NoError(t, err)
	_, err = w.Commit()
	require.NoError(t, err)
	return again.Files()[dir+"/"+fileName(at(3))]
}

// FuzzReceive receives two files in turns, in any pieces, some of them wrong, with
// crashes in between. In the end each can be received as it is.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 200, 0, 0, 255, 3, 0, 0, 0, 0, 90, 4, 1, 0})
	f.Add([]byte{0, 0, 255, 0, 0, 255, 5, 2, 0, 0, 0, 80, 1, 9, 9, 0, 0, 255, 0, 0, 255, 0, 0, 255})
	f.Add([]byte{0, 0, 70, 2, 0, 30, 0, 0, 255, 6, 1, 0, 0, 0, 255, 6, 0, 0, 0, 0, 255})
	files := []sent{source(f, at(13), 1), source(f, at(13), 2)}
	f.Fuzz(func(t *testing.T, script []byte) {
		c := &courier{t: t, files: files, disk: vfs.NewMemory()}
		c.restart()
		for ; len(script) >= 3; script = script[3:] {
			c.do(script[0]%7, int64(script[1]), int64(script[2]))
		}
		for i := range files {
			c.change(i)
			c.finish()
			for _, id := range ids(t, c.store) {
				require.NoError(t, c.disk.Remove(dir+"/"+fileName(id)))
			}
			c.restart()
		}
	})
}

// courier brings files, and makes mistakes.
type courier struct {
	t     *testing.T
	files []sent
	disk  *vfs.Memory
	store *Store
	r     *Receiver
	file  sent
	wrong bool // a wrong byte may have been taken
}

func (c *courier) restart() {
	c.store = open(c.t, c.disk, small(3))
	c.r, c.file = nil, c.files[0]
	c.begin()
}

// change goes on with another file, from where that is.
func (c *courier) change(i int) {
	if c.r != nil {
		require.NoError(c.t, c.r.Close())
	}
	c.file = c.files[i]
	c.begin()
}

func (c *courier) begin() {
	r, err := c.store.Receive(c.file.Info)
	require.NoError(c.t, err)
	c.r, c.wrong = r, c.wrong && r.Next() > 0
}

func (c *courier) do(what byte, a, b int64) {
	next, size := c.r.Next(), c.file.Size
	rest := min(b, size-next)
	switch what {
	case 0: // what is wanted
		c.write(next, c.file.bytes[next:next+rest])
	case 1: // anywhere
		from := a * 7 % size
		c.write(from, c.file.bytes[from:min(from+b, size)])
	case 2: // something wrong
		bytes := slices.Clone(c.file.bytes[next : next+rest])
		if rest > 0 {
			bytes[a%rest] ^= byte(a | 1)
			c.wrong = true
		}
		c.write(next, bytes)
	case 3:
		require.NoError(c.t, c.r.Close())
		c.begin()
	case 4:
		c.disk = c.disk.CrashClone(vfs.CrashMode(a%5), uint64(b))
		c.restart()
	case 5:
		if next < size {
			_, err := c.r.Commit()
			require.ErrorIs(c.t, err, ErrGap)
		}
	case 6:
		c.change(int(a % 2))
	}
}

// write writes, and the store says what must be said.
func (c *courier) write(offset int64, p []byte) {
	next := c.r.Next()
	err := c.r.Write(offset, p)
	switch {
	case offset > next:
		require.ErrorIs(c.t, err, ErrGap)
	case errors.As(err, new(*vfs.CorruptError)), errors.As(err, new(vfs.NewerError)):
		require.True(c.t, c.wrong, err)
		c.wrong = false
		c.begin()
		require.Zero(c.t, c.r.Next())
	default:
		require.NoError(c.t, err)
		require.Equal(c.t, max(next, offset+int64(len(p))), c.r.Next())
	}
}

// finish receives the rest, twice if a mistake was made.
func (c *courier) finish() {
	for c.r.Next() < c.file.Size {
		next := c.r.Next()
		c.write(next, c.file.bytes[next:min(next+333, c.file.Size)])
	}
	info, err := c.r.Commit()
	require.NoError(c.t, err)
	require.Equal(c.t, c.file.Info, info)
	require.Equal(c.t, c.file.bytes, c.disk.Files()[dir+"/"+fileName(info.ID)])
}
