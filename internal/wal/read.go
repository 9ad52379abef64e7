package wal

import (
	"errors"
	"fmt"
	"io"

	"github.com/seed-8da499c8/raft/internal/buffer"
	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// ErrCompacted is returned by Read for entries that were compacted.
var ErrCompacted = errors.New("the entries were compacted")

// maxGap is how many bytes between two bodies are read along, rather than asked
// for separately.
const maxGap = 4 << 10

// piece is a stretch of one file that holds the bodies of several runs.
type piece struct {
	segment *segment
	offset  int64
	length  int64
	spans   []span
	terms   []uint64
}

// Read returns the runs that hold the entries from first up to last, or of the
// first of these as many as take about maxBytes, one run at least. The first
// run may begin before first. It may be called from any goroutine, and does not
// wait for an Append that is under way, whose entries it does not see.
//
// The error matches ErrCompacted if the log begins behind first, and is a
// *CorruptError if the bytes are not those that were written.
func (l *Log) Read(first, last uint64, maxBytes int) ([]Run, error) {
	pieces, err := l.locate(first, last, maxBytes)
	if err != nil {
		return nil, err
	}
	defer letGo(pieces)
	var runs []Run
	for _, p := range pieces {
		if runs, err = p.read(runs); err != nil {
			return nil, err
		}
	}
	return runs, nil
}

// locate finds out what to read, and keeps the files open until it was read.
func (l *Log) locate(first, last uint64, maxBytes int) ([]piece, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	x := &l.index
	switch {
	case first <= x.compacted.Index:
		return nil, fmt.Errorf("%w: entry %d is asked for, the log begins behind %d", ErrCompacted, first, x.compacted.Index)
	case first > last || last > x.last.Index:
		return nil, fmt.Errorf("entries %d to %d are asked for, the log ends at %d", first, last, x.last.Index)
	}
	var pieces []piece
	n, k := x.find(first)
	for bytes := 0; n < len(x.segments); k++ {
		s := x.segments[n]
		if k == len(s.spans) {
			n, k = n+1, -1
			continue
		}
		next := s.spans[k]
		gap, near := gapBefore(pieces, s, next)
		size := int(gap) + int(next.length)
		if next.first > last || len(pieces) > 0 && bytes+size > maxBytes {
			break
		}
		bytes += size
		if !near {
			if len(pieces) == 0 || pieces[len(pieces)-1].segment != s {
				s.use.RLock()
			}
			pieces = append(pieces, piece{segment: s, offset: int64(next.offset)})
		}
		p := &pieces[len(pieces)-1]
		p.length += int64(size)
		p.spans = append(p.spans, next)
		term, _ := x.termAt(next.last()) // its first one may be compacted
		p.terms = append(p.terms, term)
	}
	return pieces, nil
}

// letGo lets the files be closed. Each was locked once: a second time would wait
// for who waits to close it.
func letGo(pieces []piece) {
	for i, p := range pieces {
		if i == 0 || pieces[i-1].segment != p.segment {
			p.segment.use.RUnlock()
		}
	}
}

// gapBefore returns how many bytes are between the last piece and a span, and
// whether they are few enough to be read along.
func gapBefore(pieces []piece, s *segment, next span) (gap int64, near bool) {
	if len(pieces) == 0 {
		return 0, false
	}
	p := pieces[len(pieces)-1]
	gap = int64(next.offset) - (p.offset + p.length)
	if p.segment != s || gap < 0 || gap > maxGap {
		return 0, false
	}
	return gap, true
}

// read reads a piece, checks its runs and adds them.
func (p piece) read(runs []Run) ([]Run, error) {
	bytes := buffer.Uncleared(int(p.length))[:p.length]
	if n, err := p.segment.file.ReadAt(bytes, p.offset); err == io.EOF && n < len(bytes) {
		return nil, vfs.Corruptf(p.segment.name, p.offset+int64(n), "it ends there, before entries that were written")
	} else if n < len(bytes) {
		return nil, fmt.Errorf("%s: %w", p.segment.name, err)
	}
	for i, s := range p.spans {
		start := int64(s.offset) - p.offset
		body := bytes[start : start+int64(s.length) : start+int64(s.length)]
		if crc32c.Checksum(body) != s.checksum {
			return nil, vfs.Corruptf(p.segment.name, int64(s.offset), "entries %d to %d are not what was written", s.first, s.last())
		}
		runs = append(runs, Run{Term: p.terms[i], First: s.first, Count: int(s.count), Total: int(s.total), Body: body})
	}
	return runs, nil
}
