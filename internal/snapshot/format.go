package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// All numbers on disk are big endian. What follows is the format of version 1
// and must not change: see the package comment for the pictures.
const (
	magic   = "raft.snp"
	version = 1

	headerBytes    = 64
	chunkHeadBytes = 12
	trailerBytes   = 32
	markBytes      = trailerBytes / 2
)

// What the parts behind the header begin with.
const (
	kindMetadata = 0x6d657461 // "meta"
	kindData     = 0x64617461 // "data"
	kindTrailer  = 0x6c617374 // "last"
	kindMark     = 0x73796e63 // "sync"
)

// maxChunkBytes bounds what is read at once, whatever a header says.
const maxChunkBytes = 1 << 20

// maxMetadataBytes bounds the metadata, which is held in memory.
const maxMetadataBytes = 1 << 30

// header is the beginning of a file.
type header struct {
	id          ID
	identity    uint64
	fingerprint [16]byte
	chunk       int64 // length of the content of a chunk
	metadata    int64 // length of the metadata
}

func (h header) encode() []byte {
	b := make([]byte, headerBytes)
	copy(b, magic)
	put := binary.BigEndian
	put.PutUint32(b[8:], version)
	// b[12:16] is the checksum.
	put.PutUint64(b[16:], h.id.Index)
	put.PutUint64(b[24:], h.id.Term)
	put.PutUint64(b[32:], h.identity)
	copy(b[40:], h.fingerprint[:])
	put.PutUint32(b[56:], uint32(h.chunk))
	put.PutUint32(b[60:], uint32(h.metadata))
	put.PutUint32(b[12:], headerChecksum(b))
	return b
}

func headerChecksum(b []byte) uint32 {
	return crc32c.Extend(crc32c.Checksum(b[:12]), b[16:])
}

// decodeHeader reads a header. The error is a vfs.NewerError if a later release
// has written it.
func decodeHeader(b []byte) (header, error) {
	if string(b[:8]) != magic {
		return header{}, errors.New("it does not begin like a snapshot")
	}
	get := binary.BigEndian
	switch v := get.Uint32(b[8:]); {
	case v == 0:
		return header{}, errors.New("it has format version 0, which there never was")
	case v != version:
		return header{}, vfs.NewerError{Have: v, Known: version}
	}
	if headerChecksum(b) != get.Uint32(b[12:]) {
		return header{}, errors.New("the checksum of its header is wrong")
	}
	h := header{
		id:       ID{get.Uint64(b[16:]), get.Uint64(b[24:])},
		identity: get.Uint64(b[32:]), fingerprint: [16]byte(b[40:]),
		chunk: int64(get.Uint32(b[56:])), metadata: int64(get.Uint32(b[60:])),
	}
	if h.id.Index == 0 || h.chunk == 0 || h.chunk > maxChunkBytes || h.metadata > maxMetadataBytes {
		return header{}, errors.New("its header has numbers that there cannot be")
	}
	return h, nil
}

// plan is what follows from the header and the length of a file: where everything
// stands in it.
type plan struct {
	header
	size   int64 // of the file
	data   int64 // length of the data
	chunks int64 // how many there are
}

// newPlan says what a file of that length holds. Not every length can be.
func newPlan(h header, size int64) (plan, error) {
	whole := chunkHeadBytes + h.chunk
	chunks := (h.metadata + h.chunk - 1) / h.chunk
	rest := size - headerBytes - trailerBytes - chunks*chunkHeadBytes - h.metadata
	full, tail := rest/whole, rest%whole
	if rest < 0 || tail > 0 && tail <= chunkHeadBytes {
		return plan{}, fmt.Errorf("it has %d bytes, which no snapshot with such a header has", size)
	}
	p := plan{h, size, full * h.chunk, chunks + full}
	if tail > 0 {
		p.data += tail - chunkHeadBytes
		p.chunks++
	}
	return p, nil
}

// trailer returns the end of the file.
func (p plan) trailer() []byte {
	b := make([]byte, trailerBytes)
	put := binary.BigEndian
	put.PutUint64(b[8:], uint64(p.size))
	put.PutUint64(b[16:], uint64(p.data))
	put.PutUint64(b[24:], uint64(p.chunks))
	seal(b, kindTrailer, p.identity, p.size-trailerBytes)
	return b
}

// sealChunk completes a chunk, whose content stands behind the place of its head.
func sealChunk(b []byte, kind uint32, identity uint64, offset int64) {
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-chunkHeadBytes))
	seal(b, kind, identity, offset)
}

// isChunk reports whether the bytes are a chunk of exactly that length.
func isChunk(b []byte, kind uint32, identity uint64, offset int64) bool {
	return sealed(b, kind, identity, offset) && binary.BigEndian.Uint32(b[8:]) == uint32(len(b)-chunkHeadBytes)
}

// newMark says that a file is durable through an offset. It has its place at
// another one.
func newMark(through int64, identity uint64, offset int64) []byte {
	b := make([]byte, markBytes)
	binary.BigEndian.PutUint64(b[8:], uint64(through))
	seal(b, kindMark, identity, offset)
	return b
}

// decodeMark returns what a mark says, 0 if there is none.
func decodeMark(b []byte, identity uint64, offset int64) int64 {
	through := int64(binary.BigEndian.Uint64(b[8:]))
	if !bytes.Equal(b, newMark(through, identity, offset)) {
		return 0
	}
	return through
}

// seal gives a part of a file that stands at an offset its kind and its checksum.
func seal(b []byte, kind uint32, identity uint64, offset int64) {
	binary.BigEndian.PutUint32(b, kind)
	binary.BigEndian.PutUint32(b[4:], partChecksum(b, identity, offset))
}

// sealed reports whether the bytes are a part of that kind which was written there.
func sealed(b []byte, kind uint32, identity uint64, offset int64) bool {
	get := binary.BigEndian
	return get.Uint32(b) == kind && get.Uint32(b[4:]) == partChecksum(b, identity, offset)
}

func partChecksum(b []byte, identity uint64, offset int64) uint32 {
	var seed [16]byte
	binary.BigEndian.PutUint64(seed[:], identity)
	binary.BigEndian.PutUint64(seed[8:], uint64(offset))
	crc := crc32c.Extend(crc32c.Checksum(seed[:]), b[:4])
	return crc32c.Extend(crc, b[8:])
}
