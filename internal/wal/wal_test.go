package wal

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

func run(term, first uint64, bodies ...string) Run {
	r := Run{Term: term, First: first, Count: len(bodies)}
	for _, b := range bodies {
		r.Body = append(r.Body, b...)
	}
	return r
}

func TestAppendAndReopen(t *testing.T) {
	disk := vfs.NewMemory()
	var log *Log
	var contents Contents
	var err error
	for round := range 50 {
		log, contents, err = Open(disk, "log", Options{SegmentBytes: 1 << 10})
		require.NoError(t, err)
		require.Equal(t, uint64(round), contents.Last.Index)
		require.NoError(t, log.Append(Batch{State: fmt.Appendf(nil, "state %d", round), Commit: uint64(round), Runs: []Run{run(uint64(round/10+1), uint64(round+1), fmt.Sprintf("entry %d", round+1))}}))
		require.NoError(t, log.Close())
	}
	log, contents, err = Open(disk, "log", Options{SegmentBytes: 1 << 10})
	require.NoError(t, err)
	require.Equal(t, "state 49", string(contents.State))
	require.Equal(t, uint64(49), contents.Commit)
	require.Len(t, contents.Terms, 5)
	runs, err := log.Read(1, 50, 1<<20)
	require.NoError(t, err)
	require.Len(t, runs, 50)
	require.Equal(t, "entry 17", string(runs[16].Body))
	require.NoError(t, log.Append(Batch{Runs: []Run{run(7, 51, "a", "b", "c")}}))
	require.NoError(t, log.Append(Batch{Runs: []Run{run(8, 53, "d")}}))
	runs, err = log.Read(51, 53, 1<<20)
	require.NoError(t, err)
	require.Equal(t, []Run{{Term: 7, First: 51, Count: 2, Total: 3, Body: []byte("abc")}, {Term: 8, First: 53, Count: 1, Total: 1, Body: []byte("d")}}, runs)
	require.NoError(t, log.Append(Batch{Compact: Position{51, 7}}))
	_, err = log.Read(51, 53, 1<<20)
	require.ErrorIs(t, err, ErrCompacted)
	require.NoError(t, log.Close())
	log, contents, err = Open(disk, "log", Options{SegmentBytes: 1 << 10})
	require.NoError(t, err)
	require.Equal(t, Contents{State: []byte("state 49"), Commit: 51, Compacted: Position{51, 7}, Last: Position{53, 8}, Terms: []TermStart{{52, 7}, {53, 8}}}, contents)
	require.Less(t, len(segmentsOf(disk.Files())), 5)
	require.NoError(t, log.Close())
}

// A caller who knows the checksum of a body saves the log the reading of it.
func TestChecksumOfTheCaller(t *testing.T) {
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", Options{})
	require.NoError(t, err)
	right, wrong := run(1, 1, "one", "two"), run(1, 3, "three")
	right.Summed, right.Sum = true, crc32c.Checksum(right.Body)
	wrong.Summed, wrong.Sum = true, right.Sum
	require.NoError(t, log.Append(Batch{Runs: []Run{right}}))
	require.NoError(t, log.Append(Batch{Runs: []Run{wrong}}))
	runs, err := log.Read(1, 2, 1<<20)
	require.NoError(t, err)
	require.Equal(t, right.Body, runs[0].Body)
	_, err = log.Read(3, 3, 1<<20)
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt, "it was looked at again")
	require.NoError(t, log.Close())
}
