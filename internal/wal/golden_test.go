package wal

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// rewrite makes tests that compare with files under testdata write these
// instead.
var rewrite = flag.Bool("rewrite", false, "write the files under testdata anew")

const goldenFormat = "testdata/golden/format.txt"

// checkGolden compares lines with those of a file.
func checkGolden(t *testing.T, name string, lines []string) {
	if *rewrite {
		require.NoError(t, os.MkdirAll(path.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	}
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), lines)
}

// everything is a batch with every kind of record. No log has such a one: a seal
// stands alone.
func everything() records {
	return records{
		state: []byte("state"), truncate: true, last: 0x0102030405060708,
		runs:   []runRecord{{0x11, 0x12, 0x13, 0x14, 0x15}, {0x21, 0x22, 0x23, 0x24, 0x25}},
		commit: 0x31, compact: Position{0x41, 0x42}, seal: true,
	}
}

// TestGoldenFormat: what stands in a file never changes within a version.
func TestGoldenFormat(t *testing.T) {
	base := snapshot{state: []byte("a state"), commit: 0x51, compacted: Position{0x49, 0x48}, last: Position{0x52, 0x50}}
	h := header{number: 0x61, salt: 0x0102030405060708, size: 0x7000, firstBatch: 0x62, previous: 0x63, base: base}
	empty := h
	empty.base.state = []byte{}
	none := h
	none.base.state = nil
	r := everything()
	b := r.appendTo(make([]byte, headBytes))
	head{number: 0x71, syncedThrough: 0x70, previous: 0x72, recordsLength: uint32(len(b) - headBytes), bodiesLength: 0x38, recordChecksum: crc32c.Checksum(b[headBytes:])}.encode(b, h.salt, 0x78)
	checkGolden(t, goldenFormat, []string{
		fmt.Sprintf("header: %x", h.encode()),
		fmt.Sprintf("header with an empty state: %x", empty.encode()),
		fmt.Sprintf("header without a state: %x", none.encode()),
		fmt.Sprintf("batch: %x", b),
	})

	for _, h := range []header{h, empty, none} {
		got, err := decodeHeader(h.encode())
		require.NoError(t, err)
		require.Equal(t, h, got)
	}
	var decoded records
	require.NoError(t, decoded.decode(b[headBytes:]))
	require.Equal(t, r, decoded)
	got, ok := decodeHead(b, h.salt, 0x78)
	require.True(t, ok)
	require.Equal(t, uint64(0x71), got.number)
	for _, wrong := range []struct {
		salt   uint64
		offset int64
	}{{h.salt + 1, 0x78}, {h.salt, 0x80}} {
		_, ok = decodeHead(b, wrong.salt, wrong.offset)
		require.False(t, ok, "a batch is one only where it was written")
	}
}

// TestGoldenLogs reads logs that were written when version 1 was new, and writes
// the same.
func TestGoldenLogs(t *testing.T) {
	checkGoldenLog(t, "testdata/golden/log", newSpecimen(t, "golden", 30, true, 0))
	checkGoldenLog(t, "testdata/golden/anew", newStartedAnew(t, true))
}

// checkGoldenLog compares a log with the files in a directory, and what these say
// with the text beside it.
func checkGoldenLog(t *testing.T, dir string, s *specimen) {
	if *rewrite {
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.MkdirAll(dir, 0o755))
		for name, content := range s.files {
			require.NoError(t, os.WriteFile(path.Join(dir, path.Base(name)), content, 0o644))
		}
	}
	disk := vfs.NewMemory()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Greater(t, len(entries), 2)
	for _, entry := range entries {
		content, err := os.ReadFile(path.Join(dir, entry.Name()))
		require.NoError(t, err)
		require.NoError(t, disk.Put("log/"+entry.Name(), content))
	}
	require.Equal(t, slices.Sorted(maps.Keys(s.files)), slices.Sorted(maps.Keys(disk.Files())))
	for name, content := range disk.Files() {
		require.Equal(t, content, s.files[name], name)
	}

	log, contents, err := Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	got, err := observe(log, contents, 100)
	require.NoError(t, err)
	lines := []string{got.String()}
	for i, e := range got.entries {
		lines = append(lines, fmt.Sprintf("%d of term %d: %s", got.compacted.Index+1+uint64(i), e.term, e.body))
	}
	checkGolden(t, dir+".txt", lines)
	require.NoError(t, log.Close())
}
