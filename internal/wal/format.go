package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// All numbers on disk are big endian. What follows is the format of version 1
// and must not change: see the package comment for the pictures.
const (
	segmentMagic = "raft.wal"
	version      = 1

	// headerBytes is the part of a segment's header before the state.
	headerBytes = 112

	batchMagic = 0x62746368 // "btch"

	// headBytes is the part of a batch before its records.
	headBytes = 40
)

// The records of a batch, in the order in which they may stand.
const (
	recordState    = 1 // u32 length, bytes
	recordTruncate = 2 // u64 last
	recordRun      = 3 // u64 term, u64 first, u32 count, u32 length, u32 checksum
	recordCommit   = 4 // u64 index
	recordCompact  = 5 // u64 index, u64 term
	recordSeal     = 6
)

const runRecordBytes = 1 + 8 + 8 + 4 + 4 + 4

// maxStateBytes bounds the state, which stands in every header.
const maxStateBytes = 1 << 20

// maxRecordsBytes bounds the records of a batch, which recovery holds in memory:
// the largest state, and a hundred thousand runs.
const maxRecordsBytes = 4 << 20

// maxSegmentBytes is how long a file may be: positions in it have 32 bits.
const maxSegmentBytes = math.MaxUint32

// farthest is where numbers and indexes end, so that adding to one is safe.
// Nobody gets there by counting.
const farthest = 1 << 62

// sealBytes is what every segment keeps free at its end for its seal.
var sealBytes = align(headBytes + 1)

// align rounds up to where a batch may start.
func align(n int64) int64 { return (n + 7) &^ 7 }

// header is the beginning of a segment: what must not be lost with the segments
// before it.
type header struct {
	number     uint64 // of the segment, as in the name of its file
	salt       uint64 // makes the checksums of its batches its own
	size       int64  // of the file
	firstBatch uint64 // the number of its first batch: all before are durable
	previous   uint32 // the checksum of the batch before that
	base       snapshot
}

// snapshot is everything that a log says beside its entries.
type snapshot struct {
	state     []byte // nil: none yet
	commit    uint64
	compacted Position
	last      Position
}

func (s snapshot) equal(other snapshot) bool {
	return bytes.Equal(s.state, other.state) && (s.state == nil) == (other.state == nil) &&
		s.commit == other.commit && s.compacted == other.compacted && s.last == other.last
}

// length is where the first batch stands.
func (h header) length() int64 { return align(headerBytes + int64(len(h.base.state))) }

func (h header) encode() []byte {
	b := make([]byte, h.length())
	copy(b, segmentMagic)
	put := binary.BigEndian
	put.PutUint32(b[8:], version)
	// b[12:16] is the checksum.
	put.PutUint64(b[16:], h.number)
	put.PutUint64(b[24:], h.salt)
	put.PutUint64(b[32:], uint64(h.size))
	put.PutUint64(b[40:], h.firstBatch)
	put.PutUint64(b[48:], h.base.commit)
	put.PutUint64(b[56:], h.base.compacted.Index)
	put.PutUint64(b[64:], h.base.compacted.Term)
	put.PutUint64(b[72:], h.base.last.Index)
	put.PutUint64(b[80:], h.base.last.Term)
	put.PutUint32(b[88:], h.previous)
	put.PutUint32(b[92:], uint32(len(h.base.state)))
	if h.base.state != nil {
		b[96] = 1
	}
	copy(b[headerBytes:], h.base.state)
	put.PutUint32(b[12:], headerChecksum(b))
	return b
}

// headerChecksum is of everything but itself.
func headerChecksum(b []byte) uint32 {
	return crc32c.Extend(crc32c.Checksum(b[:12]), b[16:])
}

// headerLength reads how long a header is, from its first headerBytes.
func headerLength(b []byte) (int64, error) {
	if string(b[:8]) != segmentMagic {
		return 0, errors.New("it does not begin like a segment of a log")
	}
	switch v := binary.BigEndian.Uint32(b[8:]); {
	case v == 0:
		return 0, errors.New("it has format version 0, which there never was")
	case v != version:
		return 0, vfs.NewerError{Have: v, Known: version}
	}
	state := binary.BigEndian.Uint32(b[92:])
	if state > maxStateBytes {
		return 0, fmt.Errorf("its header has a state of %d bytes, more than the %d that there may be", state, maxStateBytes)
	}
	return align(headerBytes + int64(state)), nil
}

// decodeHeader reads a whole header.
func decodeHeader(b []byte) (header, error) {
	get := binary.BigEndian
	if headerChecksum(b) != get.Uint32(b[12:]) {
		return header{}, errors.New("the checksum of its header is wrong")
	}
	h := header{
		number: get.Uint64(b[16:]), salt: get.Uint64(b[24:]), size: int64(get.Uint64(b[32:])),
		firstBatch: get.Uint64(b[40:]), previous: get.Uint32(b[88:]),
		base: snapshot{
			commit:    get.Uint64(b[48:]),
			compacted: Position{get.Uint64(b[56:]), get.Uint64(b[64:])},
			last:      Position{get.Uint64(b[72:]), get.Uint64(b[80:])},
		},
	}
	if b[96] != 0 {
		h.base.state = append([]byte{}, b[headerBytes:headerBytes+get.Uint32(b[92:])]...)
	}
	if !bytes.Equal(h.encode(), b) {
		return header{}, errors.New("its header has bytes that mean nothing")
	}
	if h.number > farthest || h.firstBatch == 0 || h.firstBatch > farthest || h.base.last.Index > farthest {
		return header{}, errors.New("its header has numbers that there cannot be")
	}
	if base := h.base; base.compacted.Index > base.commit || base.commit > base.last.Index {
		return header{}, fmt.Errorf("its header has a log that is compacted up to %d, committed up to %d and ends at %d", base.compacted.Index, base.commit, base.last.Index)
	}
	return h, nil
}

// head is the beginning of a batch.
type head struct {
	checksum       uint32 // of the head, and through it of everything in the batch
	number         uint64
	syncedThrough  uint64 // the last batch that was durable when this one was written
	previous       uint32 // the checksum of the batch before
	recordsLength  uint32
	bodiesLength   uint32
	recordChecksum uint32
}

// length is the size of the whole batch, padding included.
func (h head) length() int64 {
	return align(headBytes + int64(h.recordsLength) + int64(h.bodiesLength))
}

// encode writes the head to the front of b, for a batch that stands at offset in
// a segment of that salt, and returns its checksum.
func (h head) encode(b []byte, salt uint64, offset int64) uint32 {
	put := binary.BigEndian
	put.PutUint32(b, batchMagic)
	put.PutUint64(b[8:], h.number)
	put.PutUint64(b[16:], h.syncedThrough)
	put.PutUint32(b[24:], h.previous)
	put.PutUint32(b[28:], h.recordsLength)
	put.PutUint32(b[32:], h.bodiesLength)
	put.PutUint32(b[36:], h.recordChecksum)
	sum := headChecksum(b, salt, offset)
	put.PutUint32(b[4:], sum)
	return sum
}

// headChecksum depends on where the batch stands, so that bytes which came from
// elsewhere never look like a batch. The salt and the offset go first; the
// package crc32 would have them on the heap.
func headChecksum(b []byte, salt uint64, offset int64) uint32 {
	var seed [16]byte
	binary.BigEndian.PutUint64(seed[:], salt)
	binary.BigEndian.PutUint64(seed[8:], uint64(offset))
	crc := ^uint32(0)
	for _, v := range seed {
		crc = crc32c.Table[byte(crc)^v] ^ crc>>8
	}
	return crc32c.Extend(^crc, b[8:headBytes])
}

// decodeHead reads the head at an offset; false if there is none.
func decodeHead(b []byte, salt uint64, offset int64) (head, bool) {
	get := binary.BigEndian
	if len(b) < headBytes || get.Uint32(b) != batchMagic || get.Uint32(b[4:]) != headChecksum(b, salt, offset) {
		return head{}, false
	}
	if get.Uint32(b[28:]) > maxRecordsBytes {
		return head{}, false
	}
	return head{
		checksum: get.Uint32(b[4:]), number: get.Uint64(b[8:]), syncedThrough: get.Uint64(b[16:]),
		previous: get.Uint32(b[24:]), recordsLength: get.Uint32(b[28:]), bodiesLength: get.Uint32(b[32:]),
		recordChecksum: get.Uint32(b[36:]),
	}, true
}

// records is what a batch says, without the bodies of its runs.
type records struct {
	state    []byte // nil: as before
	truncate bool
	last     uint64 // after the truncation
	runs     []runRecord
	commit   uint64 // 0: as before
	compact  Position
	seal     bool
}

type runRecord struct {
	term, first uint64
	count       uint32
	length      uint32
	checksum    uint32
}

func (r runRecord) last() uint64 { return r.first + uint64(r.count) - 1 }

// empty reports whether the batch says nothing.
func (r *records) empty() bool {
	return r.state == nil && !r.truncate && len(r.runs) == 0 && r.commit == 0 && r.compact == Position{}
}

// appendTo encodes the records.
func (r *records) appendTo(b []byte) []byte {
	put := binary.BigEndian
	if r.state != nil {
		b = put.AppendUint32(append(b, recordState), uint32(len(r.state)))
		b = append(b, r.state...)
	}
	if r.truncate {
		b = put.AppendUint64(append(b, recordTruncate), r.last)
	}
	for _, run := range r.runs {
		b = put.AppendUint64(append(b, recordRun), run.term)
		b = put.AppendUint64(b, run.first)
		b = put.AppendUint32(b, run.count)
		b = put.AppendUint32(b, run.length)
		b = put.AppendUint32(b, run.checksum)
	}
	if r.commit != 0 {
		b = put.AppendUint64(append(b, recordCommit), r.commit)
	}
	if r.compact != (Position{}) {
		b = put.AppendUint64(append(b, recordCompact), r.compact.Index)
		b = put.AppendUint64(b, r.compact.Term)
	}
	if r.seal {
		b = append(b, recordSeal)
	}
	return b
}

var errRecords = errors.New("its records cannot be read")

// decode reads what appendTo wrote. It reuses runs, and aliases b.
func (r *records) decode(b []byte) error {
	*r = records{runs: r.runs[:0]}
	get := binary.BigEndian
	kind := byte(0)
	for len(b) > 0 {
		if b[0] < kind || b[0] == kind && kind != recordRun {
			return errRecords
		}
		kind = b[0]
		b = b[1:]
		size := recordBytes(kind, b)
		if size < 0 || len(b) < size {
			return errRecords
		}
		switch kind {
		case recordState:
			r.state = b[4:size:size]
		case recordTruncate:
			r.truncate, r.last = true, get.Uint64(b)
		case recordRun:
			r.runs = append(r.runs, runRecord{get.Uint64(b), get.Uint64(b[8:]), get.Uint32(b[16:]), get.Uint32(b[20:]), get.Uint32(b[24:])})
		case recordCommit:
			r.commit = get.Uint64(b)
		case recordCompact:
			r.compact = Position{get.Uint64(b), get.Uint64(b[8:])}
		case recordSeal:
			r.seal = true
		}
		b = b[size:]
	}
	return nil
}

// recordBytes is the size of a record behind its kind; -1 for no record.
func recordBytes(kind byte, b []byte) int {
	switch kind {
	case recordState:
		if len(b) < 4 || binary.BigEndian.Uint32(b) > maxStateBytes {
			return -1
		}
		return 4 + int(binary.BigEndian.Uint32(b))
	case recordTruncate, recordCommit:
		return 8
	case recordRun:
		return runRecordBytes - 1
	case recordCompact:
		return 16
	case recordSeal:
		return 0
	default:
		return -1
	}
}
