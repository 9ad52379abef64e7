package raft

import (
	"errors"
	"flag"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
	"github.com/seed-8da499c8/raft/internal/wal"
)

// rewrite makes tests that compare with files under testdata write these
// instead.
var rewrite = flag.Bool("rewrite", false, "write the files under testdata anew")

// goldenData are data directories as a version of the format has them. They are
// made once: a later version reads them back, and makes others of its own.
const (
	goldenClosed = "testdata/golden/data-1-closed" // of a node that was stopped
	goldenKilled = "testdata/golden/data-1-killed" // of one that was not
)

// saveGolden saves what the golden directories hold. It never changes.
func saveGolden(t *testing.T, s Storage) {
	hard := someHardState
	hard.Term, hard.VotedFor = 1, ""
	vote := func(term Term, id NodeID) *HardState {
		h := hard
		h.Term, h.VotedFor = term, id
		return &h
	}
	configuration := LogEntry{Term: 1, Index: 1, Kind: EntryConfiguration, Data: hard.Configurations[0].Data}
	noop := func(term Term, index Index) Entries {
		return MakeEntries(LogEntry{Term: term, Index: index, Kind: EntryNoop})
	}
	for _, batch := range []SaveBatch{
		{HardState: &hard, Entries: MakeEntries(configuration), Commit: 1},
		{HardState: vote(2, "a")},
		{Entries: noop(2, 2)},
		{Entries: commands(2, 3, 20, 40), Commit: 2},
		{Entries: commands(2, 23, 20, 300), Commit: 10}, // more than a file
		{HardState: vote(4, "b-1"), Entries: noop(3, 30), Commit: 12},
		{Entries: commands(4, 31, 5, 10)}, // instead of what was there
	} {
		require.NoError(t, s.Save(batch))
	}
	require.NoError(t, s.Save(SaveBatch{Compacted: EntryID{8, 2}}))
	require.NoError(t, s.Save(SaveBatch{HardState: vote(5, ""), Commit: 31}))
	require.NoError(t, s.Save(SaveBatch{Entries: commands(5, 36, 1, 5000)})) // larger than a file
}

// openGolden opens a directory in which equal calls lead to equal files.
func openGolden(t *testing.T, dir string) *diskStorage {
	salt := uint64(0)
	s, err := openDiskStorage(vfs.OS(), filepath.ToSlash(dir), wal.Options{SegmentBytes: 4 << 10, Inline: true, Random: func() uint64 { salt++; return salt }})
	require.NoError(t, err)
	return s
}

// The golden directories hold what was saved, and can be gone on with.
func TestV1GoldenDirectories(t *testing.T) {
	want := NewMemoryStorage()
	saveGolden(t, want)
	state, err := want.Load()
	require.NoError(t, err)
	entries, err := want.Entries(state.Compacted.Index+1, state.Last, math.MaxInt)
	require.NoError(t, err)
	for _, golden := range []string{goldenClosed, goldenKilled} {
		dir := t.TempDir()
		require.NoError(t, os.CopyFS(dir, os.DirFS(golden)))
		for _, more := range []Index{0, 1} {
			s := openGolden(t, dir)
			got, err := s.Load()
			require.NoError(t, err)
			require.Equal(t, state.Last+more, got.Last)
			got.Last = state.Last
			require.Equal(t, state, got, golden)
			var list []LogEntry
			for next := got.Compacted.Index + 1; next <= got.Last; {
				e, err := s.Entries(next, got.Last, math.MaxInt)
				require.NoError(t, err)
				list = append(list, listOf(e)...)
				next = e.last() + 1
			}
			require.Equal(t, listOf(entries), list, golden)
			if more == 0 {
				require.NoError(t, s.Save(SaveBatch{Entries: commands(5, state.Last+1, 1, 10)}))
			}
			require.NoError(t, s.Close())
		}
	}
}

// What is written today is, byte for byte, what the golden directories have.
func TestV1GoldenDirectoriesAreWhatIsWritten(t *testing.T) {
	dir := t.TempDir()
	s := openGolden(t, dir)
	saveGolden(t, s)
	compareGolden(t, goldenKilled, dir)
	require.NoError(t, s.Close())
	compareGolden(t, goldenClosed, dir)
}

func compareGolden(t *testing.T, golden, dir string) {
	written := contents(t, dir)
	if _, err := os.Stat(golden); *rewrite && errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, os.MkdirAll(golden, 0o755))
		for name, data := range written {
			require.NoError(t, os.WriteFile(filepath.Join(golden, name), []byte(data), 0o644))
		}
	}
	require.Equal(t, contents(t, golden), written, golden)
}

// contents returns the files of a directory, but for its lock.
func contents(t *testing.T, dir string) map[string]string {
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		if entry.Name() == "LOCK" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		require.NoError(t, err)
		files[entry.Name()] = string(data)
	}
	return files
}
