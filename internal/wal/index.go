package wal

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// Position is an entry of the log: its index and its term.
type Position struct{ Index, Term uint64 }

// TermStart says that the entries from First on are of Term, up to the next one.
type TermStart struct{ First, Term uint64 }

// index is what the log says, and where it says it.
type index struct {
	snapshot
	terms    []TermStart // of the entries behind the compacted one
	segments []*segment  // oldest first
}

// segment is one file of the log.
type segment struct {
	header
	name string
	file vfs.File
	end  uint64 // the last index of the log as of this segment's last entry

	// written is up to where the disk was written before, as far as is known; of the
	// goroutine that appends.
	written int64

	// spans are the runs of entries that this segment holds, without those that
	// later ones have replaced, in order.
	spans []span

	// use is held for reading while the file is read, and for writing by who
	// closes it.
	use sync.RWMutex
}

// span is a run of entries in a segment.
type span struct {
	first    uint64
	count    uint32 // of entries that are still in force
	total    uint32 // of entries in the body
	offset   uint32 // of the body
	length   uint32 // of the body
	checksum uint32 // of the body
}

func (s span) last() uint64 { return s.first + uint64(s.count) - 1 }

// termAt returns the term of an entry, and whether the index knows it: it knows
// those from the compacted one to the last.
func (x *index) termAt(i uint64) (uint64, bool) {
	switch {
	case i == x.last.Index:
		return x.last.Term, true
	case i == x.compacted.Index:
		return x.compacted.Term, true
	case i > x.last.Index:
		return 0, false
	}
	after := sort.Search(len(x.terms), func(n int) bool { return x.terms[n].First > i })
	if after == 0 {
		return 0, false
	}
	return x.terms[after-1].Term, true
}

// place adds to the runs of a batch what else is to be done to this very log:
// where it is compacted, where it is cut, and how far it is committed.
func (x *index) place(r *records, compact Position, commit uint64) {
	end := x.last.Index
	if compact.Index > x.compacted.Index {
		r.compact = compact
		if term, known := x.termAt(compact.Index); !known || term != compact.Term {
			r.truncate, r.last = known, x.commit // so that it ends before what is compacted
			end = compact.Index
		}
	}
	if n := len(r.runs); n > 0 {
		if first := r.runs[0].first; first <= end {
			r.truncate, r.last = true, first-1
		}
		end = r.runs[n-1].last()
	}
	if commit = min(commit, end); commit > x.commit {
		r.commit = commit
	}
}

// check reports what is wrong with a batch that is to follow.
func (x *index) check(r *records) error {
	last := x.last
	if r.truncate {
		if r.last >= last.Index || r.last < x.commit || r.last < x.compacted.Index {
			return fmt.Errorf("it cuts the log behind entry %d, which ends at %d and is committed up to %d", r.last, last.Index, x.commit)
		}
		last.Index = r.last
		last.Term, _ = x.termAt(r.last)
	}
	if r.compact != (Position{}) {
		if err := x.checkCompaction(r.compact, last.Index); err != nil {
			return err
		}
		if r.compact.Index >= last.Index {
			last = r.compact
		}
	}
	for _, run := range r.runs {
		if run.count == 0 || run.first != last.Index+1 || run.term < last.Term || run.first > farthest {
			return fmt.Errorf("it has %d entries of term %d at index %d behind entry %d of term %d", run.count, run.term, run.first, last.Index, last.Term)
		}
		last = Position{run.last(), run.term}
	}
	if r.commit != 0 && (r.commit < x.commit || r.commit > last.Index) {
		return fmt.Errorf("it moves the commit index from %d to %d in a log that ends at %d", x.commit, r.commit, last.Index)
	}
	return nil
}

// checkCompaction is of a log that is cut behind last.
func (x *index) checkCompaction(to Position, last uint64) error {
	if to.Index <= x.compacted.Index || to.Index > farthest {
		return fmt.Errorf("it compacts up to entry %d a log that is compacted up to %d", to.Index, x.compacted.Index)
	}
	if term, known := x.termAt(to.Index); known && to.Index <= last && term != to.Term {
		return fmt.Errorf("it compacts up to entry %d of term %d, which is of term %d", to.Index, to.Term, term)
	}
	return nil
}

// apply takes over a batch that was checked. Its bodies start at offset in s.
func (x *index) apply(r *records, s *segment, offset int64) {
	if r.state != nil {
		x.state = bytes.Clone(r.state)
	}
	if r.truncate {
		x.truncate(r.last)
	}
	if r.compact != (Position{}) {
		x.compact(r.compact)
	}
	for _, run := range r.runs {
		s.spans = append(s.spans, span{run.first, run.count, run.count, uint32(offset), run.length, run.checksum})
		offset += int64(run.length)
		if len(x.terms) == 0 || x.terms[len(x.terms)-1].Term != run.term {
			x.terms = append(x.terms, TermStart{run.first, run.term})
		}
		x.last = Position{run.last(), run.term}
	}
	s.end = x.last.Index
	x.commit = max(x.commit, r.commit)
}

// truncate forgets the entries behind last.
func (x *index) truncate(last uint64) {
	term, _ := x.termAt(last)
	x.last = Position{last, term}
	for len(x.terms) > 0 && x.terms[len(x.terms)-1].First > last {
		x.terms = x.terms[:len(x.terms)-1]
	}
	for _, s := range slices.Backward(x.segments) {
		if s.end <= last {
			return
		}
		s.end = last
		for len(s.spans) > 0 && s.spans[len(s.spans)-1].first > last {
			s.spans = s.spans[:len(s.spans)-1]
		}
		if n := len(s.spans); n > 0 && s.spans[n-1].last() > last {
			s.spans[n-1].count = uint32(last - s.spans[n-1].first + 1)
		}
	}
}

// compact forgets the entries up to a position. If the log ends before it, it
// starts anew behind it.
func (x *index) compact(to Position) {
	x.compacted = to
	x.commit = max(x.commit, to.Index)
	if to.Index >= x.last.Index {
		x.last = to
		x.terms = nil
	}
	kept := sort.Search(len(x.terms), func(n int) bool { return x.terms[n].First > to.Index+1 })
	if kept > 0 {
		x.terms = slices.Clone(x.terms[kept-1:])
		x.terms[0].First = to.Index + 1
	}
	for _, s := range x.segments {
		s.spans = s.spans[sort.Search(len(s.spans), func(n int) bool { return s.spans[n].last() > to.Index }):]
	}
}

// obsolete takes out the segments of which nothing is needed any more: there is
// a later one, whose header has everything but entries.
func (x *index) obsolete() []*segment {
	n := 0
	for n < len(x.segments)-1 && x.segments[n].end <= x.compacted.Index {
		n++
	}
	out := x.segments[:n:n]
	x.segments = x.segments[n:]
	return out
}

// missing returns the first entry that the log should have and has not; 0: it
// is all there.
func (x *index) missing() uint64 {
	next := x.compacted.Index + 1
	for _, s := range x.segments {
		for _, span := range s.spans {
			if span.first > next {
				return next
			}
			next = max(next, span.last()+1)
		}
	}
	if next <= x.last.Index {
		return next
	}
	return 0
}

// find returns the number of the segment and of the span that hold an entry.
func (x *index) find(i uint64) (int, int) {
	n := sort.Search(len(x.segments), func(n int) bool { return x.segments[n].end >= i })
	spans := x.segments[n].spans
	return n, sort.Search(len(spans), func(k int) bool { return spans[k].last() >= i })
}
