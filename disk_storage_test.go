package raft

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
	"github.com/seed-8da499c8/raft/internal/wal"
)

// openTestStorage opens a storage whose files are the same whenever the same was
// done to them.
func openTestStorage(disk vfs.FS) (*diskStorage, error) {
	salt := uint64(0)
	return openDiskStorage(disk, "a.raft", wal.Options{SegmentBytes: 64 << 10, Inline: true, Random: func() uint64 { salt++; return salt }})
}

func mustOpen(t *testing.T, disk vfs.FS) *diskStorage {
	t.Helper()
	s, err := openTestStorage(disk)
	require.NoError(t, err)
	return s
}

// commands returns entries of one term whose data tells where they stand.
func commands(term Term, first Index, count, size int) Entries {
	var entries []LogEntry
	for i := range count {
		data := fmt.Appendf(nil, "%d@%d", first+Index(i), term)
		entries = append(entries, LogEntry{Term: term, Index: first + Index(i), Kind: EntryCommand, Data: append(data, make([]byte, max(0, size-len(data)))...)})
	}
	return MakeEntries(entries...)
}

func listOf(e Entries) []LogEntry {
	var list []LogEntry
	for entry := range e.All() {
		list = append(list, entry)
	}
	return list
}

var someHardState = HardState{
	ID: "a", Term: 300, VotedFor: "b-1", Incarnation: math.MaxUint64, Fingerprint: [16]byte{1, 15: 16},
	Contacts:       []Contact{{"b-1", 7}, {"c", 1 << 40}},
	Configurations: []ConfigurationEntry{{Index: 1, Data: []byte{0x91, 0x90}}},
}

// The bytes of a hard state are on disks: they must be readable for ever.
func TestHardStateGolden(t *testing.T) {
	got, err := someHardState.marshal(nil)
	require.NoError(t, err)
	const golden = "98a161cd012ca3622d31cfffffffffffffffffc410010000000000000000000000000000109292a3622d310792a163cf0000010000000000" + "01c4029190"
	require.Equal(t, golden, fmt.Sprintf("%x", got))
	var h HardState
	require.NoError(t, h.unmarshal(got))
	require.Equal(t, someHardState, h)

	before := someHardState
	before.Configurations = append([]ConfigurationEntry{{Index: 1, Data: []byte{0x90}}}, ConfigurationEntry{Index: 7, Data: []byte{0x91, 0x90}})
	got, err = before.marshal(nil)
	require.NoError(t, err)
	require.Equal(t, strings.Replace(strings.Replace(golden, "98", "99", 1), "01c4029190", "07c402919091"+"9201c40190", 1), fmt.Sprintf("%x", got))
	require.NoError(t, h.unmarshal(got))
	require.Equal(t, before, h)

	before.Joined = true
	got, err = before.marshal(nil)
	require.NoError(t, err)
	require.NoError(t, h.unmarshal(got))
	require.Equal(t, before, h)

	got[0]++ // a later version has one more field
	require.NoError(t, h.unmarshal(append(got, 0x07)))
	require.Equal(t, before, h)
}

func FuzzHardState(f *testing.F) {
	b, _ := someHardState.marshal(nil)
	f.Add(b)
	f.Add([]byte{0x90})
	f.Fuzz(func(t *testing.T, data []byte) {
		var h, again HardState
		if h.unmarshal(data) != nil {
			return
		}
		b, err := h.marshal(nil)
		require.NoError(t, err)
		require.NoError(t, again.unmarshal(b))
		require.Equal(t, h, again)
	})
}

// What is read starts and ends where it was asked to, also within a run, and
// without what was replaced since.
func TestDiskStorageCutsRuns(t *testing.T) {
	s := mustOpen(t, vfs.NewMemory())
	require.NoError(t, s.Save(SaveBatch{HardState: &someHardState, Entries: commands(1, 1, 100, 0)}))
	require.NoError(t, s.Save(SaveBatch{Entries: commands(2, 51, 10, 0)}))
	require.NoError(t, s.Save(SaveBatch{Entries: commands(3, 56, 1, 0)}))
	want := append(listOf(commands(1, 1, 50, 0)), listOf(commands(2, 51, 5, 0))...)
	want = append(want, listOf(commands(3, 56, 1, 0))...)
	for first := Index(1); first <= 56; first++ {
		for last := first; last <= 56; last += 5 {
			got, err := s.Entries(first, last, math.MaxInt)
			require.NoError(t, err)
			require.Equal(t, want[first-1:last], listOf(got), "%d to %d", first, last)
			one, err := s.Entries(first, last, 1)
			require.NoError(t, err)
			require.Equal(t, want[first-1:first], listOf(one))
		}
	}
	for _, bad := range [][2]Index{{0, 1}, {1, 57}, {57, 57}, {5, 4}} {
		_, err := s.Entries(bad[0], bad[1], math.MaxInt)
		require.Error(t, err, "%v", bad)
	}
	require.NoError(t, s.Close())
}

// What looks right to the log but is no entry is damage, and no panic.
func TestDiskStorageChecksEntries(t *testing.T) {
	s := mustOpen(t, vfs.NewMemory())
	require.NoError(t, s.log.Append(wal.Batch{Runs: []wal.Run{{Term: 1, First: 1, Count: 2, Body: []byte("no entry")}}}))
	_, err := s.Entries(1, 2, math.MaxInt)
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.Equal(t, "a.raft", corrupt.File)
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "entries 1 to 2")
	more := append(appendEntry(nil, EntryNoop, nil), 0)
	require.NoError(t, s.log.Append(wal.Batch{Runs: []wal.Run{{Term: 1, First: 3, Count: 1, Body: more}}}))
	_, err = s.Entries(3, 3, math.MaxInt)
	require.ErrorIs(t, err, ErrCorrupt)

	require.NoError(t, s.log.Append(wal.Batch{State: []byte("no hard state")}))
	_, err = s.Load()
	corrupt = nil
	require.ErrorAs(t, err, &corrupt)
	require.Equal(t, "a.raft", corrupt.File)
	require.ErrorContains(t, err, "hard state")
}

func TestE3TermAndVoteAreNeverTornApart(t *testing.T) {
	t.Parallel()
	states := []HardState{{ID: "a", Term: 5, VotedFor: "b", Incarnation: 1}, {ID: "a", Term: 6, Incarnation: 1}, {ID: "a", Term: 6, VotedFor: "c", Incarnation: 1}}
	work := func(disk vfs.FS) (saved int) {
		s, err := openTestStorage(disk)
		if err != nil {
			return 0
		}
		for i := range states {
			if s.Save(SaveBatch{HardState: &states[i]}) != nil {
				return i
			}
		}
		return len(states)
	}
	whole := vfs.NewMemory()
	require.Equal(t, len(states), work(whole))
	for operation := 1; operation <= whole.Operations()+1; operation++ {
		for _, mode := range []vfs.CrashMode{vfs.CrashLose, vfs.CrashKeep, vfs.CrashTear, vfs.CrashScatter, vfs.CrashKill} {
			for seed := range uint64(20) {
				disk := vfs.NewMemory()
				disk.FailAfter(operation)
				saved := work(disk)
				s := mustOpen(t, disk.CrashClone(mode, seed))
				state, err := s.Load()
				require.NoError(t, err)
				if saved == 0 && state.HardState.Term == 0 {
					continue
				}
				at := -1
				for i := range states {
					if state.HardState.Term == states[i].Term && state.HardState.VotedFor == states[i].VotedFor {
						at = i
					}
				}
				require.GreaterOrEqual(t, at, saved-1, "%v after operation %d: term %d and vote for %q", mode, operation, state.HardState.Term, state.HardState.VotedFor)
			}
		}
	}
}

// Term, vote, commit index and log change together, whatever the log was.
func TestS1SnapshotTakesThePlaceOfTheLogAtOnce(t *testing.T) {
	before := HardState{ID: "a", Term: 1, Incarnation: 1}
	after := HardState{ID: "a", Term: 3, VotedFor: "b", Incarnation: 1}
	first := SaveBatch{HardState: &before, Entries: commands(1, 1, 5, 0), Commit: 3}
	for name, batch := range map[string]SaveBatch{
		"behind the end": {HardState: &after, Compacted: EntryID{8, 2}},
		"on a conflict":  {HardState: &after, Compacted: EntryID{4, 2}},
		"with entries":   {HardState: &after, Compacted: EntryID{5, 2}, Entries: commands(3, 6, 2, 0), Commit: 6},
	} {
		memory := NewMemoryStorage()
		require.NoError(t, memory.Save(first))
		old := loaded(memory)
		require.NoError(t, memory.Save(batch))
		replaced := loaded(memory)
		work := func(disk vfs.FS) (saved int) {
			s, err := openTestStorage(disk)
			for _, batch := range []SaveBatch{first, batch} {
				if err != nil || s.Save(batch) != nil {
					return saved
				}
				saved++
			}
			return saved
		}
		whole := vfs.NewMemory()
		require.Equal(t, 2, work(whole))
		for operation := 1; operation <= whole.Operations()+1; operation++ {
			for _, mode := range []vfs.CrashMode{vfs.CrashLose, vfs.CrashKeep, vfs.CrashTear, vfs.CrashScatter, vfs.CrashKill} {
				disk := vfs.NewMemory()
				disk.FailAfter(operation)
				saved := work(disk)
				s := mustOpen(t, disk.CrashClone(mode, uint64(operation)))
				found := []StorageState{{}, old, replaced}[saved:]
				require.Contains(t, found[:min(2, len(found))], loaded(s), "%s: %v after operation %d", name, mode, operation)
			}
		}
	}
}

// A vote after truncated entries, and one that stands only in a segment that is
// gone, both survive.
func TestVotesSurviveTruncationAndCompaction(t *testing.T) {
	disk := vfs.NewMemory()
	s := mustOpen(t, disk)
	vote := HardState{ID: "a", Term: 1, Incarnation: 1}
	require.NoError(t, s.Save(SaveBatch{HardState: &vote, Entries: commands(1, 1, 10, 0), Commit: 4}))
	vote.Term, vote.VotedFor = 7, "b"
	require.NoError(t, s.Save(SaveBatch{HardState: &vote}))
	require.NoError(t, s.Save(SaveBatch{Entries: commands(2, 5, 1, 0)}))
	s = mustOpen(t, disk.CrashClone(vfs.CrashLose, 0))
	state, err := s.Load()
	require.NoError(t, err)
	require.Equal(t, vote, state.HardState)
	require.Equal(t, Index(5), state.Last)

	segments := func(disk *vfs.Memory) (n int) {
		for name := range disk.Files() {
			if strings.HasSuffix(name, ".wal") {
				n++
			}
		}
		return n
	}
	disk = disk.CrashClone(vfs.CrashLose, 0)
	s = mustOpen(t, disk)
	for i := Index(6); i < 200; i++ {
		require.NoError(t, s.Save(SaveBatch{Entries: commands(7, i, 1, 4<<10), Commit: i}))
	}
	before := segments(disk)
	require.Greater(t, before, 5)
	require.NoError(t, s.Save(SaveBatch{Compacted: EntryID{198, 7}}))
	require.Less(t, segments(disk), 3)
	s = mustOpen(t, disk.CrashClone(vfs.CrashLose, 0))
	state, err = s.Load()
	require.NoError(t, err)
	require.Equal(t, vote, state.HardState)
	require.Equal(t, EntryID{198, 7}, state.Compacted)
	require.Equal(t, Index(199), state.Last)
	_, err = s.Entries(198, 199, math.MaxInt)
	require.ErrorIs(t, err, ErrCompacted)
	require.NoError(t, s.Save(SaveBatch{Compacted: EntryID{100, 7}}), "that is forgotten already")
}

func TestDiskStorageErrors(t *testing.T) {
	disk := vfs.NewMemory()
	s := mustOpen(t, disk)
	_, err := openTestStorage(disk)
	require.ErrorIs(t, err, ErrDataDirInUse)
	require.NoError(t, s.Save(SaveBatch{HardState: &someHardState, Entries: commands(1, 1, 3, 0), Commit: 2}))
	for _, first := range []Index{2, 5} {
		require.Error(t, s.Save(SaveBatch{Entries: commands(1, first, 1, 0)}), "behind a gap, or in place of what is committed")
	}
	require.Error(t, s.Save(SaveBatch{Compacted: EntryID{2, 9}}), "in place of what is committed")
	require.NoError(t, s.Save(SaveBatch{Commit: 100}), "which counts as far as the log goes")
	require.NoError(t, s.Close())
	require.Error(t, s.Save(SaveBatch{Commit: 3}))

	name := "a.raft/0000000000000001.wal"
	before := disk.Files()
	require.NoError(t, disk.Corrupt(name, 20, 1))
	damaged := disk.Files()
	_, err = openTestStorage(disk)
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, name, corrupt.File)
	require.ErrorContains(t, err, name)
	require.Equal(t, damaged, disk.Files())
	require.NoError(t, disk.Corrupt(name, 20, 1))
	require.Equal(t, before, disk.Files())
	s = mustOpen(t, disk)
	state, err := s.Load()
	require.NoError(t, err)
	require.Equal(t, Index(3), state.Commit)
}

func TestD1AFailedSyncIsNeverTriedAgain(t *testing.T) {
	for _, keep := range []bool{false, true} {
		disk := vfs.NewMemory()
		disk.KeepAfterFailedSync(keep)
		s := mustOpen(t, disk)
		require.NoError(t, s.Save(SaveBatch{HardState: &someHardState, Entries: commands(1, 1, 1, 0)}))
		disk.Inject(vfs.Nth(vfs.OpSync, 1, vfs.ErrIO))
		require.ErrorIs(t, s.Save(SaveBatch{Entries: commands(1, 2, 1, 0)}), vfs.ErrIO)
		operations := disk.Operations()
		require.ErrorIs(t, s.Save(SaveBatch{Entries: commands(1, 2, 1, 0)}), vfs.ErrIO)
		require.Equal(t, operations, disk.Operations(), "nothing is written any more")
		require.ErrorIs(t, s.Close(), vfs.ErrIO)

		// The next process makes durable what it finds, and then a power cut comes.
		disk.Inject(nil)
		s = mustOpen(t, disk)
		state, err := s.Load()
		require.NoError(t, err)
		found := state.Last
		disk = disk.CrashClone(vfs.CrashLose, 0)
		s = mustOpen(t, disk)
		state, err = s.Load()
		require.NoError(t, err)
		require.Equal(t, found, state.Last)
		require.GreaterOrEqual(t, state.Last, Index(1))
	}
}

// TestD10DiskFull is about a real file system of 4 MiB, which
// TestD10OnARealFileSystem makes; by itself it uses one in memory.
func TestD10DiskFull(t *testing.T) {
	disk := vfs.NewMemory()
	disk.SetCapacity(4 << 20)
	fillDisk(t, disk, "a.raft", func() { disk.SetCapacity(0) })
}

// fillDisk saves until the disk is full, makes room, and looks at what is there.
func fillDisk(t *testing.T, disk vfs.FS, dir string, makeRoom func()) {
	options := wal.Options{SegmentBytes: 256 << 10}
	s, err := openDiskStorage(disk, dir, options)
	require.NoError(t, err)
	acknowledged := Index(0)
	for err == nil {
		next := acknowledged + 1
		if err = s.Save(SaveBatch{HardState: &someHardState, Entries: commands(1, next, 1, 10<<10)}); err == nil {
			acknowledged = next
		}
		require.Less(t, acknowledged, Index(1000), "the disk never becomes full")
	}
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	require.Greater(t, acknowledged, Index(300))
	require.Error(t, s.Save(SaveBatch{Entries: commands(1, acknowledged+1, 1, 0)}), "a full disk stops a node")
	require.ErrorIs(t, s.Close(), vfs.ErrNoSpace)
	makeRoom()
	s, err = openDiskStorage(disk, dir, options)
	require.NoError(t, err)
	state, err := s.Load()
	require.NoError(t, err)
	require.Contains(t, []Index{acknowledged, acknowledged + 1}, state.Last)
	for first := Index(1); first <= acknowledged; first++ {
		got, err := s.Entries(first, first, 1)
		require.NoError(t, err)
		require.Equal(t, listOf(commands(1, first, 1, 10<<10)), listOf(got))
	}
	require.NoError(t, s.Save(SaveBatch{Entries: commands(2, acknowledged+1, 1, 10<<10)}))
	require.NoError(t, s.Close())
}

// A directory that belongs to somebody else's files is not touched, but for ours.
func TestDiskStorageLeavesForeignFilesAlone(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/notes.txt", []byte("mine"), 0o644))
	s, err := openDiskStorage(vfs.OS(), dir, wal.Options{SegmentBytes: 64 << 10})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	text, err := os.ReadFile(dir + "/notes.txt")
	require.NoError(t, err)
	require.Equal(t, "mine", string(text))
	_, err = os.Stat(dir + "/0000000000000002.spare")
	require.True(t, errors.Is(err, fs.ErrNotExist), "nothing is left in reserve after Close")
}

func TestCheckDiskStorage(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMemory()
	require.NoError(t, CheckStorage(func() (Storage, error) { return openTestStorage(disk) }))

	dir := t.TempDir()
	require.NoError(t, CheckStorage(func() (Storage, error) {
		return openDiskStorage(vfs.OS(), dir, wal.Options{SegmentBytes: 64 << 10})
	}))
}
