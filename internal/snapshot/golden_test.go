package snapshot

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// rewrite makes tests that compare with files under testdata write these
// instead.
var rewrite = flag.Bool("rewrite", false, "write the files under testdata anew")

const (
	goldenFile   = "testdata/golden/0000000000000013-0000000000000007.snap"
	goldenFormat = "testdata/golden/format.txt"
)

// TestGoldenFile reads a snapshot that was written when version 1 was new, and writes
// the same.
func TestGoldenFile(t *testing.T) {
	id := ID{0x13, 7}
	metadata := []byte("metadata of more than one chunk")
	data := []byte(strings.Repeat("the state of the machine, ", 5))
	options := Options{ChunkBytes: 24, Random: func() uint64 { return 0x0123456789abcdef }}
	copy(options.Fingerprint[:], "a fingerprint...")
	disk := vfs.NewMemory()
	w, err := open(t, disk, options).Create(id, metadata)
	require.NoError(t, err)
	_, err = w.Write(data)
	require.NoError(t, err)
	_, err = w.Commit()
	require.NoError(t, err)
	written := disk.Files()[dir+"/"+fileName(id)]
	if *rewrite {
		require.NoError(t, os.MkdirAll("testdata/golden", 0o755))
		require.NoError(t, os.WriteFile(goldenFile, written, 0o644))
	}
	golden, err := os.ReadFile(goldenFile)
	require.NoError(t, err)
	require.Equal(t, golden, written)

	disk = vfs.NewMemory()
	require.NoError(t, disk.Put(strings.Replace(goldenFile, "testdata/golden", dir, 1), golden))
	s := open(t, disk, options)
	require.Equal(t, []Info{{ID: id, Size: int64(len(golden)), Identity: 0x0123456789abcdef}}, s.List())
	r, err := s.Open(id)
	require.NoError(t, err)
	require.Equal(t, metadata, r.Metadata())
	got := make([]byte, r.DataSize())
	_, err = r.Read(got[:24])
	require.NoError(t, err)
	require.Equal(t, data[:24], got[:24])
	require.NoError(t, s.Verify(t.Context(), id))
}

// TestPlans: the lengths of metadata and data make the length of a file, and other
// lengths there are none.
func TestPlans(t *testing.T) {
	length := func(content, chunk int64) (bytes, chunks int64) {
		for ; content > 0; content -= chunk {
			bytes += chunkHeadBytes + min(content, chunk)
			chunks++
		}
		return bytes, chunks
	}
	for _, chunk := range []int64{1, 2, 12, 13, 30} {
		for metadata := int64(0); metadata < 70; metadata += 3 {
			h := header{chunk: chunk, metadata: metadata}
			want := map[int64]plan{}
			head, headChunks := length(metadata, chunk)
			for data := range int64(100) {
				tail, tailChunks := length(data, chunk)
				size := headerBytes + head + tail + trailerBytes
				want[size] = plan{h, size, data, headChunks + tailChunks}
			}
			for size := int64(-100); size < headerBytes+head+trailerBytes+100; size++ {
				p, err := newPlan(h, size)
				require.Equal(t, want[size], p)
				require.Equal(t, want[size] == plan{}, err != nil)
			}
		}
	}
}

// TestHeadersThatThereCannotBe, with right checksums.
func TestHeadersThatThereCannotBe(t *testing.T) {
	good := header{id: ID{1, 0}, chunk: maxChunkBytes, metadata: maxMetadataBytes}
	got, err := decodeHeader(good.encode())
	require.NoError(t, err)
	require.Equal(t, good, got)
	for _, change := range []func(*header){
		func(h *header) { h.id.Index = 0 }, func(h *header) { h.chunk = 0 },
		func(h *header) { h.chunk++ }, func(h *header) { h.metadata++ },
	} {
		h := good
		change(&h)
		_, err := decodeHeader(h.encode())
		require.ErrorContains(t, err, "numbers that there cannot be")
	}
}

// TestGoldenFormat: what stands in a file, and what its name is, never changes within
// a version.
func TestGoldenFormat(t *testing.T) {
	h := header{
		id: ID{0x0102030405060708, 0x11}, identity: 0x2122232425262728, fingerprint: [16]byte{0x31, 0x32, 15: 0x33},
		chunk: 0x4142, metadata: 0x515253,
	}
	p, err := newPlan(h, 0x61626364)
	require.NoError(t, err)
	chunk := append(make([]byte, chunkHeadBytes), "content"...)
	sealChunk(chunk, kindMetadata, h.identity, 0x71)
	other := append(make([]byte, chunkHeadBytes), "content"...)
	sealChunk(other, kindData, h.identity, 0x71)
	info := Info{ID: h.id, Size: p.size, Identity: h.identity}
	lines := []string{
		fmt.Sprintf("header: %x", h.encode()),
		fmt.Sprintf("chunk of metadata: %x", chunk),
		fmt.Sprintf("chunk of data: %x", other),
		fmt.Sprintf("trailer: %x", p.trailer()),
		fmt.Sprintf("mark: %x", newMark(0x81, h.identity, 0x91)),
		"names: " + strings.Join([]string{fileName(h.id), tempName(h.id, h.identity), partialName(info)}, " "),
	}
	text := strings.Join(lines, "\n") + "\n"
	if *rewrite {
		require.NoError(t, os.WriteFile(goldenFormat, []byte(text), 0o644))
	}
	golden, err := os.ReadFile(goldenFormat)
	require.NoError(t, err)
	require.Equal(t, string(golden), text)

	got, err := decodeHeader(h.encode())
	require.NoError(t, err)
	require.Equal(t, h, got)
	require.True(t, isChunk(chunk, kindMetadata, h.identity, 0x71))
	for _, wrong := range []bool{
		isChunk(chunk, kindData, h.identity, 0x71), isChunk(chunk, kindMetadata, h.identity+1, 0x71),
		isChunk(chunk, kindMetadata, h.identity, 0x72), isChunk(chunk[:len(chunk)-1], kindMetadata, h.identity, 0x71),
	} {
		require.False(t, wrong, "a chunk is one only where it was written")
	}
	require.Equal(t, int64(0x81), decodeMark(newMark(0x81, h.identity, 0x91), h.identity, 0x91))
	require.Zero(t, decodeMark(newMark(0x81, h.identity, 0x91), h.identity, 0x92))
	id, ok := parseFile(fileName(h.id))
	require.True(t, ok)
	require.Equal(t, h.id, id)
	part, ok := parsePartial(partialName(info))
	require.True(t, ok)
	require.Equal(t, info, part)
}
