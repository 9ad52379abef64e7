package snapshot

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// TestReceive makes the same file, whatever the pieces are.
func TestReceive(t *testing.T) {
	for index := uint64(1); index < 30; index++ {
		f := source(t, at(index), 1)
		for piece := int64(1); piece < f.Size+100; piece = piece*3 + 7 {
			disk := vfs.NewMemory()
			s := open(t, disk, small(2))
			require.NoError(t, f.receive(s, piece))
			require.Equal(t, map[string][]byte{dir + "/" + fileName(f.ID): f.bytes}, disk.Files())
			require.Equal(t, []Info{f.Info}, s.List())
			require.Nil(t, s.partial, "it is whole now")
			require.NoError(t, check(s, f.ID))
			require.NoError(t, check(open(t, disk, small(2)), f.ID))
		}
	}
}

// TestPiecesAgainAndAhead: those that are there already are ignored, those behind a
// gap are refused, and so is nonsense. None of it changes anything.
func TestPiecesAgainAndAhead(t *testing.T) {
	f := source(t, at(5), 1)
	require.Greater(t, f.Size, int64(1000))
	disk := vfs.NewMemory()
	s := open(t, disk, small(2))
	r, err := s.Receive(f.Info)
	require.NoError(t, err)
	for r.Next() < f.Size {
		next, before := r.Next(), disk.Operations()
		require.ErrorIs(t, r.Write(next+1, []byte{0}[:min(1, f.Size-next-1)]), ErrGap)
		_, err = r.Commit()
		require.ErrorIs(t, err, ErrGap)
		require.NoError(t, r.Write(0, f.bytes[:next]))
		require.NoError(t, r.Write(next/2, make([]byte, next-next/2)), "nobody looks at it again")
		require.NoError(t, r.Write(next, nil))
		require.ErrorContains(t, r.Write(-1, f.bytes[:1]), "at -1")
		require.Error(t, r.Write(next, append(slices.Clone(f.bytes[next:]), 0)))
		require.Error(t, r.Write(f.Size+1, nil))
		require.Equal(t, next, r.Next())
		require.Equal(t, before, disk.Operations())

		require.NoError(t, r.Write(next/2, f.bytes[next/2:min(next+170, f.Size)]))
		require.Equal(t, min(next+170, f.Size), r.Next())
	}
	_, err = r.Commit()
	require.NoError(t, err)
	require.NoError(t, check(s, f.ID))
}

// TestResume goes on after a restart of the process or the machine, at the last
// part before a sync; and after Close where it was, but for an unfinished part.
func TestResume(t *testing.T) {
	f := source(t, at(13), 1)
	const piece = 64
	part := int64(chunkHeadBytes + 100 + 1)
	require.Greater(t, f.Size, 4*(250+part))
	for upTo := int64(0); upTo < f.Size; upTo += piece {
		for _, closed := range []bool{false, true} {
			disk := vfs.NewMemory()
			s := open(t, disk, small(2))
			r, err := s.Receive(f.Info)
			require.NoError(t, err)
			require.NoError(t, f.pass(r, upTo, piece))
			if closed {
				require.NoError(t, r.Close())
			}
			for _, mode := range []vfs.CrashMode{vfs.CrashKill, vfs.CrashLose} {
				disk := disk.CrashClone(mode, 0)
				s := open(t, disk, small(2))
				r, err := s.Receive(f.Info)
				require.NoError(t, err)
				lost := upTo - r.Next()
				switch {
				case upTo > f.Size-trailerBytes:
					// The trailer has taken the place of the marks.
				case closed && mode == vfs.CrashKill:
					require.Less(t, lost, part)
				case mode == vfs.CrashKill:
					require.Less(t, lost, 250+part+piece)
				default:
					require.Less(t, lost, 2*(250+part+piece))
				}
				require.NoError(t, f.pass(r, f.Size, piece))
				_, err = r.Commit()
				require.NoError(t, err)
				require.NoError(t, check(s, f.ID))
			}
		}
	}
}

// TestD1FailedSyncIsNotForgotten: a system may show bytes that it takes for durable
// after a sync of them has failed. They do not count after a restart.
func TestD1FailedSyncIsNotForgotten(t *testing.T) {
	f := source(t, at(13), 1)
	failed := 0
	for n := 1; n < 4; n++ {
		disk := vfs.NewMemory()
		disk.KeepAfterFailedSync(true)
		s := open(t, disk, small(2))
		r, err := s.Receive(f.Info)
		require.NoError(t, err)
		sync := vfs.Nth(vfs.OpSync, n, vfs.ErrIO)
		disk.Inject(func(op vfs.Op) error {
			if op.Kind == vfs.OpRemove {
				return vfs.ErrIO // so the file stays
			}
			return sync(op)
		})
		require.ErrorIs(t, f.pass(r, f.Size, 50), vfs.ErrIO)
		before := disk.Operations()
		require.ErrorIs(t, r.Write(r.Next(), f.bytes[r.Next():]), vfs.ErrIO)
		_, err = r.Commit()
		require.ErrorIs(t, err, vfs.ErrIO)
		require.Equal(t, before, disk.Operations(), "nothing is tried again")

		disk = disk.CrashClone(vfs.CrashKill, 0)
		s = open(t, disk, small(2))
		again, err := s.Receive(f.Info)
		require.NoError(t, err)
		require.Less(t, again.Next(), r.Next())
		if again.Next() > 0 {
			failed++
		}
		require.NoError(t, f.pass(again, f.Size, 50))
		_, err = again.Commit()
		require.NoError(t, err)
		require.NoError(t, check(open(t, disk.CrashClone(vfs.CrashLose, 0), small(2)), f.ID))
	}
	require.Equal(t, 2, failed, "what was synced before counts")
}

// TestDamagedPart begins anew, since the disk cannot be trusted.
func TestDamagedPart(t *testing.T) {
	f := source(t, at(13), 1)
	name := dir + "/" + partialName(f.Info)
	disk := vfs.NewMemory()
	r, err := open(t, disk, small(2)).Receive(f.Info)
	require.NoError(t, err)
	require.NoError(t, f.pass(r, f.Size*3/4, 50))
	require.NoError(t, r.Close())
	resumed := r.checked()
	damage := map[string]func(*vfs.Memory) error{
		"byte":  func(disk *vfs.Memory) error { return disk.Corrupt(name, 300, 1) },
		"cut":   func(disk *vfs.Memory) error { return disk.Cut(name, f.Size-1) },
		"empty": func(disk *vfs.Memory) error { return disk.Cut(name, 0) },
		"longer": func(disk *vfs.Memory) error {
			return disk.Put(name, append(disk.Files()[name], make([]byte, 9)...))
		},
		"gone": func(disk *vfs.Memory) error { return disk.Remove(name) },
		"marks": func(disk *vfs.Memory) error {
			return disk.Put(name, append(disk.Files()[name][:f.Size-trailerBytes], make([]byte, trailerBytes)...))
		},
	}
	for _, through := range []int64{-1, f.Size - trailerBytes + 1, f.Size, f.Size + 1, 1 << 62} {
		damage[fmt.Sprintf("mark of %d", through)] = func(disk *vfs.Memory) error {
			file := disk.Files()[name]
			for place := range int64(2) {
				copy(file[r.markOffset(place):], newMark(through, f.Identity, r.markOffset(place)))
			}
			return disk.Put(name, file)
		}
	}
	damage["nothing"] = func(*vfs.Memory) error { return nil }
	for how, do := range damage {
		for _, opened := range []bool{false, true} {
			disk := disk.CrashClone(vfs.CrashKeep, 0)
			s := open(t, disk, small(2))
			require.NoError(t, do(disk))
			if opened {
				s = open(t, disk, small(2))
			}
			r, err := s.Receive(f.Info)
			require.NoError(t, err, how)
			want := int64(0)
			if how == "nothing" {
				want = resumed
			}
			require.Equal(t, want, r.Next(), how)
			require.NoError(t, f.pass(r, f.Size, 50), how)
			_, err = r.Commit()
			require.NoError(t, err, how)
			require.NoError(t, check(s, f.ID), how)
			require.Equal(t, namesOf(f.ID), names(disk), how)
		}
	}
}

// TestMarksTakeTurns: one that is torn leaves the one before.
func TestMarksTakeTurns(t *testing.T) {
	f := source(t, at(13), 1)
	name := dir + "/" + partialName(f.Info)
	for _, restarts := range []bool{false, true} {
		disk := vfs.NewMemory()
		r, err := open(t, disk, small(2)).Receive(f.Info)
		require.NoError(t, err)
		through := []int64{0}
		for last := 0; last < 4; {
			require.NoError(t, f.pass(r, r.Next()+20, 20))
			if r.synced == through[last] {
				continue
			}
			through = append(through, r.synced)
			last++
			for place := range int64(2) {
				torn := disk.CrashClone(vfs.CrashKeep, 0)
				require.NoError(t, torn.Corrupt(name, r.markOffset(place)+9, 1))
				after, err := open(t, torn, small(2)).Receive(f.Info)
				require.NoError(t, err)
				want := through[last]
				if place == int64(last-1)%2 {
					want = through[last-1]
				}
				require.Equal(t, want, after.Next())
			}
			if restarts {
				disk = disk.CrashClone(vfs.CrashKeep, 0)
				r, err = open(t, disk, small(2)).Receive(f.Info)
				require.NoError(t, err)
				require.Equal(t, through[last], r.Next())
			}
		}
	}
}

// TestTransfersAreNotMixed: two nodes have taken the same snapshot.
func TestTransfersAreNotMixed(t *testing.T) {
	one, two := source(t, at(13), 1), source(t, at(13), 2)
	require.NotEqual(t, one.Identity, two.Identity)
	disk := vfs.NewMemory()
	s := open(t, disk, small(2))
	for _, f := range []sent{one, two, one} {
		r, err := s.Receive(f.Info)
		require.NoError(t, err)
		require.Zero(t, r.Next())
		require.NoError(t, f.pass(r, f.Size*3/4, 50))
		require.NoError(t, r.Close())
		require.Equal(t, []string{partialName(f.Info)}, names(disk), "there is one")
	}
	s = open(t, disk, small(2))
	require.NoError(t, two.receive(s, 50))
	require.Equal(t, two.bytes, disk.Files()[dir+"/"+fileName(two.ID)])

	for _, upTo := range []int64{10, headerBytes, 300, two.Size - trailerBytes} {
		s := open(t, vfs.NewMemory(), small(2))
		r, err := s.Receive(one.Info)
		require.NoError(t, err)
		var corrupt *vfs.CorruptError
		mixed := sent{one.Info, slices.Concat(one.bytes[:upTo], two.bytes[upTo:])[:one.Size]}
		require.ErrorAs(t, mixed.pass(r, mixed.Size, 50), &corrupt)
		_, err = r.Commit()
		require.ErrorAs(t, err, &corrupt)
	}
}

// TestWrongFileIsRefused as soon as the part has arrived, and leaves nothing.
func TestWrongFileIsRefused(t *testing.T) {
	f := source(t, at(13), 1)
	options := small(1)
	options.Fingerprint[3]++
	foreign := open(t, vfs.NewMemory(), options)
	mustTake(t, foreign, at(13))
	raw, err := foreign.Raw(at(13))
	require.NoError(t, err)
	other := sent{raw.Info(), make([]byte, raw.Info().Size)}
	_, err = raw.ReadAt(other.bytes, 0)
	require.NoError(t, err)

	renamed, resized, disguised, newer := f, f, f, f
	renamed.Index++
	h, err := decodeHeader(f.bytes[:headerBytes])
	require.NoError(t, err)
	for err == nil {
		resized.Size++
		resized.bytes = append(slices.Clone(resized.bytes), 0)
		_, err = newPlan(h, resized.Size)
	}
	disguised.Identity++
	newer.bytes = slices.Clone(f.bytes)
	newer.bytes[11] = version + 1
	for reason, f := range map[string]sent{
		"it belongs to another cluster":                              other,
		"it is the snapshot at entry 13 of term 2, where the one at": renamed,
		"which no snapshot with such a header has":                   resized,
		"it is not the file that was announced":                      disguised,
		"it has format version 2":                                    newer,
	} {
		disk := vfs.NewMemory()
		s := open(t, disk, small(2))
		r, err := s.Receive(f.Info)
		require.NoError(t, err)
		require.ErrorContains(t, f.pass(r, f.Size, 16), reason)
		require.Equal(t, int64(headerBytes), r.Next())
		require.Empty(t, names(disk))
		require.Empty(t, s.List())
		require.NoError(t, source(t, at(13), 1).receive(s, 100), "the store goes on")
	}
}

// TestEveryWrongBit is found before the snapshot counts.
func TestEveryWrongBit(t *testing.T) {
	f := source(t, at(3), 1)
	s := open(t, vfs.NewMemory(), small(2))
	stride := 1
	if testenv.Brief() {
		stride = 29
	}
	for bit := 0; bit < 8*len(f.bytes); bit += stride {
		wrong := sent{f.Info, slices.Clone(f.bytes)}
		wrong.bytes[bit/8] ^= 1 << (bit % 8)
		require.Error(t, wrong.receive(s, 200), "bit %d", bit)
		require.Empty(t, s.List())
	}
	require.NoError(t, f.receive(s, 200))
}

// TestObsoletePart goes when something newer is whole, unless it is just arriving.
func TestObsoletePart(t *testing.T) {
	for _, arriving := range []bool{false, true} {
		for _, newer := range []bool{false, true} {
			disk := vfs.NewMemory()
			s := open(t, disk, small(1))
			f := source(t, at(13), 1)
			r, err := s.Receive(f.Info)
			require.NoError(t, err)
			require.NoError(t, f.pass(r, 300, 100))
			if !arriving {
				require.NoError(t, r.Close())
			}
			id := at(12)
			if newer {
				id = at(13)
			}
			mustTake(t, s, id)
			if newer && !arriving {
				require.Equal(t, namesOf(id), names(disk))
			} else {
				require.Contains(t, names(disk), partialName(f.Info))
			}
			if arriving {
				require.NoError(t, f.pass(r, 600, 100))
				require.NoError(t, r.Close())
			}
			s = open(t, disk, small(1))
			_, err = s.Receive(f.Info)
			if newer {
				require.ErrorIs(t, err, ErrNotNewer)
				require.Equal(t, namesOf(id), names(disk))
			} else {
				require.NoError(t, err)
			}
		}
	}
}
