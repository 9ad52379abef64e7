package wal

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// How FuzzOpen makes the bytes more likely to be a log.
const (
	mended    = 1 << iota // the checksums are right
	placedAs              // the numbers and sizes of the files are right
	continued             // the second one goes on where the first one ends
)

// dress changes the files so that more than checksums is looked at.
func dress(files [][]byte, how byte) {
	first, previous := uint64(1), uint32(0)
	for i, b := range files {
		if len(b) < headerBytes {
			return
		}
		if how&placedAs != 0 {
			binary.BigEndian.PutUint64(b[16:], uint64(i+1))
			binary.BigEndian.PutUint64(b[32:], uint64(len(b)))
		}
		if how&continued != 0 {
			binary.BigEndian.PutUint64(b[40:], first)
			binary.BigEndian.PutUint32(b[88:], previous)
		}
		if how&mended == 0 {
			continue
		}
		mend(b)
		for _, p := range batches(b) {
			first, previous = p.number+1, p.checksum
		}
	}
}

// FuzzOpen opens any bytes as one or two segments. That is an error, and then
// nothing has changed, or a log which can be read and goes on.
func FuzzOpen(f *testing.F) {
	for _, closed := range []bool{false, true} {
		seeds := []*specimen{newStartedAnew(f, closed)}
		for _, steps := range []int{0, 3, 7, 12, 30} {
			seeds = append(seeds, newSpecimen(f, "seed", steps, closed, 0))
		}
		for _, s := range seeds {
			for i := range s.order[:min(3, len(s.order))] {
				var second []byte
				if i+1 < len(s.order) {
					second = s.files[s.order[i+1]]
				}
				for _, how := range []byte{0, mended, mended | placedAs, mended | placedAs | continued} {
					f.Add(s.files[s.order[i]], second, how)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, one, two []byte, how byte) {
		files := [][]byte{slices.Clone(one)}
		if len(two) > 0 {
			files = append(files, slices.Clone(two))
		}
		dress(files, how)
		disk := vfs.NewMemory()
		for i, file := range files {
			require.NoError(t, disk.Put("log/"+fileName(uint64(i+1), segmentSuffix), file))
		}
		before := disk.Files()
		var log *Log
		var contents Contents
		var err error
		require.Less(t, allocatedBy(func() { log, contents, err = Open(disk, "log", inline(1<<10)) }), uint64(16<<20+20*(len(one)+len(two))))
		if err != nil {
			require.Equal(t, before, disk.Files())
			return
		}
		goOn(t, disk, log, contents)
	})
}

// goOn reads a log whose entries may be any bytes, appends to it, opens it again,
// has it start anew and opens it once more.
func goOn(t *testing.T, disk *vfs.Memory, log *Log, contents Contents) {
	readThrough(t, log, contents)
	last := contents.Last
	require.NoError(t, log.Append(Batch{State: []byte("fuzz"), Runs: []Run{newRun(last.Term, last.Index+1, "more")}}))
	require.NoError(t, log.Close())
	log, again, err := Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	require.Equal(t, Position{last.Index + 1, last.Term}, again.Last)
	require.Equal(t, contents.Compacted, again.Compacted)
	readThrough(t, log, again)
	anew := Position{again.Last.Index, again.Last.Term + 1}
	require.NoError(t, log.Append(Batch{Compact: anew, Runs: []Run{newRun(anew.Term, anew.Index+1, "behind")}}))
	require.NoError(t, log.Close())
	log, again, err = Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	require.Equal(t, []Position{anew, {anew.Index + 1, anew.Term}}, []Position{again.Compacted, again.Last})
	readThrough(t, log, again)
	require.NoError(t, log.Close())
}

func readThrough(t *testing.T, log *Log, c Contents) {
	for next := c.Compacted.Index + 1; next <= c.Last.Index; {
		runs, err := log.Read(next, c.Last.Index, 100)
		require.NoError(t, err)
		require.LessOrEqual(t, runs[0].First, next)
		for _, r := range runs {
			require.Positive(t, r.Count)
			next = r.First + uint64(r.Count)
		}
	}
}

// FuzzRecords reads any bytes as records. What it takes it would write in the
// same way.
func FuzzRecords(f *testing.F) {
	all := everything()
	f.Add(all.appendTo(nil))
	for _, s := range append(specimenSteps(), startedAnewSteps()...) {
		r := records{state: s.batch.State, commit: s.batch.Commit, compact: s.batch.Compact}
		for _, run := range s.batch.Runs {
			r.runs = append(r.runs, runRecord{run.Term, run.First, uint32(run.Count), uint32(len(run.Body)), crc32c.Checksum(run.Body)})
		}
		f.Add(r.appendTo(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again records
		if r.decode(b) != nil {
			return
		}
		encoded := r.appendTo(nil)
		require.NoError(t, again.decode(encoded))
		require.Equal(t, string(encoded), string(again.appendTo(nil)))
		if len(encoded) == len(b) {
			require.Equal(t, string(b), string(encoded))
		}
	})
}
