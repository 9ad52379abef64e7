package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// allocatedBy returns how many bytes of memory a call takes, the given back ones
// included.
func allocatedBy(call func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	call()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// with returns a disk with these bytes as the file of a snapshot.
func with(t testing.TB, id ID, file []byte) *vfs.Memory {
	disk := vfs.NewMemory()
	require.NoError(t, disk.Put(dir+"/"+fileName(id), file))
	return disk
}

// judge opens a damaged file. Everybody who asks is told, nobody gets wrong data,
// and no file has changed. It returns where the damage was found, and whether that
// was when the directory was opened.
func judge(t testing.TB, f sent, file []byte) (corrupt *vfs.CorruptError, shown bool) {
	t.Helper()
	disk := with(t, f.ID, file)
	before := disk.Files()
	s := open(t, disk, small(1))
	listed := s.List()[0].Err

	// Whoever reads gets what is whole.
	r, err := s.Open(f.ID)
	if err == nil {
		var got []byte
		got, err = io.ReadAll(r)
		metadata, data := contents(f.ID)
		require.Equal(t, metadata, r.Metadata())
		require.Truef(t, bytes.HasPrefix(data, got), "read %d bytes of which some are wrong", len(got))
		require.NoError(t, r.Close())
	}
	var again *vfs.CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.ErrorAs(t, s.Verify(t.Context(), f.ID), &again)
	require.Equal(t, corrupt, again)
	shown = errors.As(listed, &again)
	require.Equal(t, corrupt, again)
	require.ErrorAs(t, s.List()[0].Err, &again)
	require.Equal(t, corrupt, again)
	require.Equal(t, dir+"/"+fileName(f.ID), corrupt.File)
	require.LessOrEqual(t, corrupt.Offset, int64(len(file)))
	require.True(t, maps.EqualFunc(before, disk.Files(), bytes.Equal))

	mustTake(t, s, f.ID) // which is what a damaged one cannot prevent
	require.Equal(t, []ID{f.ID}, ids(t, s))
	return corrupt, shown
}

// TestEveryBit flips every bit there is, one at a time.
func TestEveryBit(t *testing.T) {
	t.Parallel()
	f := source(t, at(3), 1)
	stride := 1
	if testenv.Brief() {
		stride = 23
	}
	for bit := 0; bit < 8*len(f.bytes); bit += stride {
		file := slices.Clone(f.bytes)
		file[bit/8] ^= 1 << (bit % 8)
		if bit/32 == 2 && file[11] != 0 {
			disk := with(t, f.ID, file)
			_, err := openClean(disk, dir, small(1))
			require.ErrorAs(t, err, new(vfs.NewerError), "bit %d is one of the version", bit)
			continue
		}
		corrupt, shown := judge(t, f, file)
		require.Equal(t, bit/8 < headerBytes || bit/8 >= len(file)-trailerBytes, shown)
		require.LessOrEqual(t, corrupt.Offset, int64(bit/8))
		require.Less(t, int64(bit/8)-corrupt.Offset, int64(chunkHeadBytes+101))
	}
}

// TestEveryLength cuts the file at every length, and adds to it. That shows at once.
func TestEveryLength(t *testing.T) {
	t.Parallel()
	f := source(t, at(3), 1)
	stride := 1
	if testenv.Brief() {
		stride = 17
	}
	for length := 0; length < len(f.bytes); length += stride {
		_, shown := judge(t, f, f.bytes[:length])
		require.True(t, shown)
	}
	for _, more := range [][]byte{{0}, make([]byte, 100), f.bytes, f.bytes[:headerBytes], f.bytes[headerBytes:], f.bytes[f.Size-trailerBytes:]} {
		for _, file := range [][]byte{slices.Concat(f.bytes, more), slices.Concat(more, f.bytes)} {
			_, shown := judge(t, f, file)
			require.True(t, shown)
		}
	}
}

// chunks are the parts of a file between header and trailer.
func chunks(file []byte) [][]byte {
	var parts [][]byte
	for rest := file[headerBytes : len(file)-trailerBytes]; len(rest) > 0; {
		n := chunkHeadBytes + binary.BigEndian.Uint32(rest[8:])
		parts = append(parts, rest[:n])
		rest = rest[n:]
	}
	return parts
}

// TestPartsMixedUp: a part is one only in its own file, at its own place.
func TestPartsMixedUp(t *testing.T) {
	f, other := source(t, at(13), 1), source(t, at(13), 101)
	parts := chunks(f.bytes)
	assemble := func(parts [][]byte, trailer []byte) []byte {
		return slices.Concat(f.bytes[:headerBytes], slices.Concat(parts...), trailer)
	}
	trailer := f.bytes[f.Size-trailerBytes:]
	require.Equal(t, f.bytes, assemble(parts, trailer))
	for i := range parts {
		judge(t, f, assemble(slices.Delete(slices.Clone(parts), i, i+1), trailer))
		judge(t, f, assemble(slices.Insert(slices.Clone(parts), i, parts[i]), trailer))
		for j := range i {
			swapped := slices.Clone(parts)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			judge(t, f, assemble(swapped, trailer))
		}
	}
	for at := headerBytes; at < min(len(f.bytes), len(other.bytes)); at += 50 {
		if !bytes.Equal(f.bytes[at:], other.bytes[at:]) {
			judge(t, f, slices.Concat(f.bytes[:at], other.bytes[at:]))
		}
	}
}

func TestFileOfAnother(t *testing.T) {
	f := source(t, at(3), 1)
	options := small(1)
	options.Fingerprint[7] ^= 1
	s := open(t, with(t, f.ID, f.bytes), options)
	require.ErrorContains(t, s.List()[0].Err, fileName(f.ID)+" is damaged at offset 0: it belongs to another cluster")
	_, err := s.Raw(f.ID)
	require.ErrorContains(t, err, "it belongs to another cluster")

	f.bytes[11] = 0
	corrupt, _ := judge(t, f, f.bytes)
	require.Equal(t, "it has format version 0, which there never was", corrupt.Reason)
	f.bytes[11] = version
	f.Term++
	corrupt, _ = judge(t, f, f.bytes)
	require.Equal(t, "it is the snapshot at entry 3 of term 1, where the one at entry 3 of term 2 should be", corrupt.Reason)
}

// TestNewerVersion is refused, and then nothing is changed.
func TestNewerVersion(t *testing.T) {
	f := source(t, at(3), 1)
	f.bytes[11] = version + 1
	disk := with(t, f.ID, f.bytes)
	require.NoError(t, disk.Put(dir+"/"+fileName(at(2)), source(t, at(2), 1).bytes))
	require.NoError(t, disk.Put(dir+"/"+tempName(at(4), 1), nil))
	before := disk.Files()
	_, err := openClean(disk, dir, small(1))
	var newer vfs.NewerError
	require.ErrorAs(t, err, &newer)
	require.Equal(t, vfs.NewerError{Have: 2, Known: 1}, newer)
	require.ErrorContains(t, err, fileName(f.ID)+": it has format version 2, this release reads version 1")
	require.Equal(t, before, disk.Files())
}

// mend makes the checksums right of whatever is there.
func mend(file []byte) {
	if len(file) < headerBytes+trailerBytes {
		return
	}
	binary.BigEndian.PutUint32(file[12:], headerChecksum(file[:headerBytes]))
	identity := binary.BigEndian.Uint64(file[32:])
	end := len(file) - trailerBytes
	for at := headerBytes; at+chunkHeadBytes <= end; {
		head := file[at:]
		length := chunkHeadBytes + int(binary.BigEndian.Uint32(head[8:]))
		if length > end-at {
			break
		}
		seal(head[:length], binary.BigEndian.Uint32(head), identity, int64(at))
		at += length
	}
	seal(file[end:], kindTrailer, identity, int64(end))
}

// TestD11LengthsThatLie: with right checksums too, nothing is believed that the file
// has no room for, and nothing more is allocated than it has.
func TestD11LengthsThatLie(t *testing.T) {
	f := source(t, at(3), 1)
	end := int(f.Size) - trailerBytes
	for _, field := range []struct{ at, bytes int }{
		{56, 4}, {60, 4}, {headerBytes + 8, 4}, {end + 8, 8}, {end + 16, 8}, {end + 24, 8},
	} {
		old := f.bytes[field.at : field.at+field.bytes]
		for _, value := range []uint64{0, 1, 12, 99, 100, 102, 1 << 20, 1<<20 + 1, 1 << 30, math.MaxInt32, math.MaxUint32, 1 << 62, math.MaxInt64, math.MaxUint64} {
			b := binary.BigEndian.AppendUint64(nil, value)[8-field.bytes:]
			if bytes.Equal(old, b) {
				continue
			}
			file := slices.Clone(f.bytes)
			copy(file[field.at:], b)
			mend(file)
			var s *Store
			require.Less(t, allocatedBy(func() {
				s = open(t, with(t, f.ID, file), small(1))
				r, err := s.Open(f.ID)
				if err == nil {
					_, err = io.Copy(io.Discard, r)
				}
				require.ErrorAs(t, err, new(*vfs.CorruptError), "%d at %d", value, field.at)
			}), uint64(300<<10))

			s = open(t, vfs.NewMemory(), small(1))
			require.Less(t, allocatedBy(func() {
				require.ErrorAs(t, sent{f.Info, file}.receive(s, 100), new(*vfs.CorruptError), "%d at %d", value, field.at)
			}), uint64(300<<10))
		}
	}
}

// TestChunkOfAnotherLength is none, though its checksum is right: equal contents make
// equal bytes.
func TestChunkOfAnotherLength(t *testing.T) {
	f := source(t, at(3), 1)
	chunk := chunks(f.bytes)[0]
	chunk[11]--
	seal(chunk, kindMetadata, f.Identity, headerBytes)
	corrupt, _ := judge(t, f, f.bytes)
	require.Equal(t, int64(headerBytes), corrupt.Offset)
}

// TestD11AnnouncedSizes that are not true: there is no room, or other bytes come.
func TestD11AnnouncedSizes(t *testing.T) {
	f := source(t, at(3), 1)
	for _, size := range []int64{f.Size - 1, f.Size + 200, 1 << 20, 1 << 40, math.MaxInt64} {
		disk := vfs.NewMemory()
		disk.SetCapacity(1 << 20)
		s := open(t, disk, small(1))
		require.Less(t, allocatedBy(func() {
			r, err := s.Receive(Info{ID: f.ID, Size: size, Identity: f.Identity})
			if size > 1<<20 {
				require.ErrorIs(t, err, vfs.ErrNoSpace)
				return
			}
			require.NoError(t, err)
			padded := append(slices.Clone(f.bytes), make([]byte, 150)...)
			require.ErrorAs(t, r.Write(0, padded[:min(size, int64(len(padded)))]), new(*vfs.CorruptError))
		}), uint64(300<<10))
		require.Empty(t, names(disk))
		require.NoError(t, f.receive(s, 100))
	}
}

// TestRotWhileOpen: whoever finds damage, it is known from then on.
func TestRotWhileOpen(t *testing.T) {
	f := source(t, at(3), 1)
	for _, offset := range []int64{20, headerBytes + 5, f.Size / 2, f.Size - 5} {
		for how, find := range map[string]func(*Store) error{
			"verify": func(s *Store) error { return s.Verify(t.Context(), f.ID) },
			"read":   func(s *Store) error { return check(s, f.ID) },
			"raw": func(s *Store) error {
				raw, err := s.Raw(f.ID)
				if err != nil {
					return err
				}
				return errors.Join(s.Verify(t.Context(), f.ID), raw.Close())
			},
		} {
			disk := with(t, f.ID, f.bytes)
			s := open(t, disk, small(1))
			require.Equal(t, []ID{f.ID}, ids(t, s))
			require.NoError(t, disk.Corrupt(dir+"/"+fileName(f.ID), offset, 1))
			require.NoError(t, s.List()[0].Err)
			require.ErrorAs(t, find(s), new(*vfs.CorruptError), how)
			require.ErrorAs(t, s.List()[0].Err, new(*vfs.CorruptError), how)
		}
	}
}

// TestFallBack: a damaged one does not count, and goes once a good one is there that
// is not as new.
func TestFallBack(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	mustTake(t, s, at(10), at(30))
	require.NoError(t, disk.Corrupt(dir+"/"+fileName(at(30)), 200, 1))
	s = open(t, disk, small(1))
	require.NoError(t, s.List()[0].Err, "it does not show")
	_, err := s.Create(at(20), nil)
	require.ErrorIs(t, err, ErrNotNewer)
	require.ErrorAs(t, s.Verify(t.Context(), at(30)), new(*vfs.CorruptError))
	require.ErrorAs(t, s.List()[0].Err, new(*vfs.CorruptError))
	require.NoError(t, s.Verify(t.Context(), at(10)))
	require.Equal(t, namesOf(at(10), at(30)), names(disk))

	require.NoError(t, source(t, at(20), 1).receive(s, 100))
	require.Equal(t, []ID{at(20), at(10)}, ids(t, s))
	require.Equal(t, namesOf(at(10), at(20)), names(disk))
}
