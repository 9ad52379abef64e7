package raft

import (
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// EntryKind says what a log entry is for. The numbers are part of the
// protocol and of the disk format.
type EntryKind uint8

// The kinds of entries.
const (
	EntryNoop          EntryKind = 1 // appended by each new leader (thesis §6.4)
	EntryCommand       EntryKind = 2 // for the state machine
	EntryConfiguration EntryKind = 3 // the members (ch. 4)
)

// LogEntry is one entry of the log.
type LogEntry struct {
	Term  Term
	Index Index
	Kind  EntryKind
	Data  []byte
}

// Entries is an immutable run of consecutive entries in their one encoded
// form, a sequence of
//
//	[term, first index, [[kind, data], [kind, data], ...]]
//
// with one such group for each stretch of equal terms. The bytes of an entry
// are encoded once, by the goroutine that proposes it; the log, the frames and
// the followers' logs share them. The zero value holds no entries.
type Entries struct {
	runs []run
}

// run is a stretch of consecutive entries of one term. body is the encoded
// [kind, data] pairs one after another; it is never changed.
type run struct {
	term  Term
	first Index
	count int
	body  []byte
}

func (r run) last() Index { return r.first + Index(r.count) - 1 }

// appendEntry appends the encoding of one entry, a pair of kind and data.
func appendEntry(dst []byte, kind EntryKind, data []byte) []byte {
	return wire.AppendBytes(append(dst, 0x92, byte(kind)), data)
}

// entrySize is the number of bytes that appendEntry appends.
func entrySize(dataBytes int) int { return 2 + wire.BytesSize(dataBytes) }

// readEntry reads one entry off the front of a body that was validated when it
// was parsed.
func readEntry(body []byte) (kind EntryKind, data, rest []byte) {
	r := wire.NewReader(body[2:])
	data = r.Bytes()
	if r.Err() != nil {
		panic(fmt.Sprintf("raft: body of a run ends within an entry: %v", r.Err()))
	}
	return EntryKind(body[1]), data, r.Rest()
}

// split returns the first n entries of the run and the others.
func (r run) split(n int) (head, tail run) {
	rest := r.body
	for range n {
		_, _, rest = readEntry(rest)
	}
	at := len(r.body) - len(rest)
	return run{r.term, r.first, n, r.body[:at:at]}, run{r.term, r.first + Index(n), r.count - n, rest}
}

// MakeEntries encodes entries, which must have consecutive indexes and terms
// that do not fall, and kinds below 128; it panics otherwise.
func MakeEntries(entries ...LogEntry) Entries {
	var e Entries
	for i, entry := range entries {
		if i > 0 && (entry.Index != entries[i-1].Index+1 || entry.Term < entries[i-1].Term) {
			panic(fmt.Sprintf("raft: entry %d of term %d follows entry %d of term %d", entry.Index, entry.Term, entries[i-1].Index, entries[i-1].Term))
		}
		if entry.Kind > math.MaxInt8 {
			panic(fmt.Sprintf("raft: entry %d is of kind %d", entry.Index, entry.Kind))
		}
		if i == 0 || entry.Term != entries[i-1].Term {
			e.runs = append(e.runs, run{term: entry.Term, first: entry.Index})
		}
		last := &e.runs[len(e.runs)-1]
		last.count++
		last.body = appendEntry(last.body, entry.Kind, entry.Data)
	}
	return e
}

// ParseEntries reads what AppendBinary wrote, for entries that start at index
// first. The result aliases raw, which must not change any more. Every length
// is checked; the error matches [ErrInvalidMessage].
func ParseEntries(first Index, raw []byte) (Entries, error) {
	e, err := parseEntries(first, raw)
	if err != nil {
		return Entries{}, fmt.Errorf("%w: %w", ErrInvalidMessage, err)
	}
	return e, nil
}

// parseEntries does the work of ParseEntries. It allocates for groups, never
// for entries.
func parseEntries(first Index, raw []byte) (Entries, error) {
	var e Entries
	var term Term
	next := first
	for r := wire.NewReader(raw); len(r.Rest()) > 0; {
		group, err := parseGroup(&r)
		if err != nil {
			return Entries{}, err
		}
		end := next + Index(group.count)
		if group.count == 0 || group.first != next || next == 0 || end < next || group.term <= term {
			return Entries{}, fmt.Errorf("%d entries of term %d at index %d follow entry %d of term %d", group.count, group.term, group.first, next-1, term)
		}
		if len(e.runs) == manyGroups {
			e.runs = slices.Grow(e.runs, 1+groupsIn(r))
		}
		e.runs = append(e.runs, group)
		next, term = end, group.term
	}
	return e, nil
}

// manyGroups is how many groups make it worth to count the others: by then a
// group may be as short as the memory that is kept for it, so that growing in
// steps would hold a multiple of the bytes that came.
const manyGroups = 64

// groupsIn returns about how many groups r still holds. A group takes at least
// 8 bytes, whatever r pretends.
func groupsIn(r wire.Reader) int {
	n, most := 0, len(r.Rest())/8
	for n < most && r.Err() == nil && len(r.Rest()) > 0 {
		r.Skip(1)
		n++
	}
	return n
}

// parseGroup reads the group of entries of one term off the front.
func parseGroup(r *wire.Reader) (run, error) {
	if n := r.ArrayLen(); n != 3 {
		r.Fail("not a group of entries")
	}
	group := run{term: Term(r.Uint()), first: Index(r.Uint()), count: r.ArrayLen()}
	start := r.Rest()
	for i := 0; i < group.count && r.Err() == nil; i++ {
		parseEntry(r)
	}
	size := len(start) - len(r.Rest())
	group.body = start[:size:size]
	return group, r.Err()
}

// parseEntry checks one [kind, data] pair.
func parseEntry(r *wire.Reader) {
	if rest := r.Rest(); len(rest) < 2 || rest[0] != 0x92 || rest[1] > math.MaxInt8 {
		r.Fail("not an entry")
	}
	r.ArrayLen()
	r.Uint()
	r.Bytes()
}

// Len returns the number of entries.
func (e Entries) Len() int {
	n := 0
	for _, r := range e.runs {
		n += r.count
	}
	return n
}

// First returns the index of the first entry, 0 if there is none.
func (e Entries) First() Index {
	if len(e.runs) == 0 {
		return 0
	}
	return e.runs[0].first
}

// last returns the index of the last entry, 0 if there is none.
func (e Entries) last() Index {
	if len(e.runs) == 0 {
		return 0
	}
	return e.runs[len(e.runs)-1].last()
}

// Size returns how many bytes the entries take in memory and, but for a few
// bytes of headers, on the wire and on disk.
func (e Entries) Size() int {
	n := 0
	for _, r := range e.runs {
		n += len(r.body)
	}
	return n
}

// All yields the entries in order. Their Data aliases the encoded form and
// must not be changed.
func (e Entries) All() iter.Seq[LogEntry] {
	return func(yield func(LogEntry) bool) {
		for _, r := range e.runs {
			body := r.body
			for i := range r.count {
				var entry LogEntry
				entry.Kind, entry.Data, body = readEntry(body)
				entry.Term, entry.Index = r.term, r.first+Index(i)
				if !yield(entry) {
					return
				}
			}
		}
	}
}

// AppendBinary appends the encoded form. Neighbouring runs of one term share a
// group, so equal entries have equal bytes however they were batched.
func (e Entries) AppendBinary(dst []byte) ([]byte, error) {
	for i, count := 0, 0; i < len(e.runs); i++ {
		if r := e.runs[i]; i == 0 || r.term != e.runs[i-1].term {
			count = e.groupCount(i)
			dst = wire.AppendArrayLen(dst, 3)
			dst = wire.AppendUint(dst, uint64(r.term))
			dst = wire.AppendUint(dst, uint64(r.first))
			dst = wire.AppendArrayLen(dst, count)
		}
		dst = append(dst, e.runs[i].body...)
	}
	return dst, nil
}

// encodedSize is the number of bytes that AppendBinary appends.
func (e Entries) encodedSize() int {
	n := e.Size()
	for i, r := range e.runs {
		if i == 0 || r.term != e.runs[i-1].term {
			n += 1 + wire.UintSize(uint64(r.term)) + wire.UintSize(uint64(r.first)) + wire.ArrayLenSize(e.groupCount(i))
		}
	}
	return n
}

// groupCount is the number of entries in the runs from i on that share its term.
func (e Entries) groupCount(i int) int {
	n := 0
	for _, r := range e.runs[i:] {
		if r.term != e.runs[i].term {
			break
		}
		n += r.count
	}
	return n
}
