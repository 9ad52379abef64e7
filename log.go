package raft

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"sort"

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
	if n := shortEntry(body); n > 0 {
		return EntryKind(body[1]), body[4:n:n], body[n:]
	}
	r := wire.NewReader(body[2:])
	data = r.Bytes()
	if r.Err() != nil {
		panic(fmt.Sprintf("raft: body of a run ends within an entry: %v", r.Err()))
	}
	return EntryKind(body[1]), data, r.Rest()
}

// shortEntry returns the size of the entry at the front of body, if that has at
// most 255 bytes of data, in the form that appendEntry gives it; else 0, also
// for what is no entry. Most entries are such, and a node reads every entry
// several times, so they have this way of their own.
func shortEntry(body []byte) int {
	if len(body) < 4 || body[0] != 0x92 || body[1] > math.MaxInt8 || body[2] != 0xc4 || len(body)-4 < int(body[3]) {
		return 0
	}
	return 4 + int(body[3])
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
	group.body = parseBody(r, group.count)
	return group, r.Err()
}

// parseBody reads so many entries off the front, and returns their bytes.
func parseBody(r *wire.Reader, count int) []byte {
	start := r.Rest()
	for i := 0; i < count && r.Err() == nil; i++ {
		if n := shortEntry(r.Rest()); n > 0 {
			*r = wire.NewReader(r.Rest()[n:])
		} else {
			parseEntry(r)
		}
	}
	size := len(start) - len(r.Rest())
	return start[:size:size]
}

// parseEntry checks one [kind, data] pair.
func parseEntry(r *wire.Reader) {
	rest := r.Rest()
	if len(rest) < 2 || rest[0] != 0x92 || rest[1] > math.MaxInt8 {
		r.Fail("not an entry")
	}
	r.ArrayLen()
	r.Uint()
	if data := r.Bytes(); len(rest)-len(r.Rest()) != entrySize(len(data)) {
		r.Fail("an entry that is not in its shortest form")
	}
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

// upTo returns the entries up to an index.
func (e Entries) upTo(index Index) Entries {
	end := sort.Search(len(e.runs), func(i int) bool { return e.runs[i].last() > index })
	if end == len(e.runs) || e.runs[end].first > index {
		return Entries{e.runs[:end:end]}
	}
	head, _ := e.runs[end].split(int(index-e.runs[end].first) + 1)
	return Entries{append(e.runs[:end:end], head)}
}

// position returns the number of the run that holds index.
func (e Entries) position(index Index) int {
	return sort.Search(len(e.runs), func(i int) bool { return e.runs[i].last() >= index })
}

// from returns entries that start at index, whole runs of at most maxBytes as
// far as possible, and one entry at least if there is one.
func (e Entries) from(index Index, maxBytes int) Entries {
	if index > e.last() {
		return Entries{}
	}
	i := e.position(index)
	head := e.runs[i]
	if skip := int(index - head.first); skip > 0 {
		_, head = head.split(skip)
	}
	if len(head.body) > maxBytes && head.count > 1 {
		head, _ = head.split(head.fitting(maxBytes))
		return Entries{[]run{head}}
	}
	size, end := len(head.body), i+1
	for end < len(e.runs) && size+len(e.runs[end].body) <= maxBytes {
		size += len(e.runs[end].body)
		end++
	}
	if head.first == e.runs[i].first {
		return Entries{e.runs[i:end:end]}
	}
	return Entries{append([]run{head}, e.runs[i+1:end]...)}
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

// raftLog is the log as the core sees it: what it holds, what of that was
// handed to the storage, and what is durable. Index 0 is the empty log before
// the first entry, with term 0.
//
//	1 ............ durable ......... handed ......... last
//	  on disk              | being written | not yet handed over
type raftLog struct {
	runs    []run // the elements below len are never overwritten: messages share them
	durable Index // the last index up to which this log is on disk
	handed  Index // the last index handed to the storage, in the write under way at the latest
	writing Index // what becomes durable when the write under way ends; falls with a truncation
	bytes   int   // of all entries
}

// newLog returns a log of entries that are durable.
func newLog(entries Entries) raftLog {
	l := raftLog{runs: slices.Clip(entries.runs), bytes: entries.Size()}
	l.durable, l.handed, l.writing = l.last(), l.last(), l.last()
	return l
}

func (l *raftLog) clone() raftLog {
	c := *l
	c.runs = slices.Clip(c.runs)
	l.runs = slices.Clip(l.runs)
	return c
}

// last returns the index of the last entry.
func (l *raftLog) last() Index { return Entries{l.runs}.last() }

// lastTerm returns the term of the last entry.
func (l *raftLog) lastTerm() Term {
	if len(l.runs) == 0 {
		return 0
	}
	return l.runs[len(l.runs)-1].term
}

// term returns the term of the entry at index, and whether the log knows it.
func (l *raftLog) term(index Index) (Term, bool) {
	if index == 0 {
		return 0, true
	}
	if index > l.last() {
		return 0, false
	}
	return l.runs[Entries{l.runs}.position(index)].term, true
}

// matches reports whether the log has an entry of that term at index: then it
// equals the other log in all entries up to there (thesis §3.5, Log Matching).
func (l *raftLog) matches(index Index, term Term) bool {
	have, ok := l.term(index)
	return ok && have == term
}

// moreUpToDate reports whether this log is more up-to-date than one that ends
// with that entry: the later term wins, then the longer log (thesis §3.6.1).
func (l *raftLog) moreUpToDate(index Index, term Term) bool {
	if l.lastTerm() != term {
		return l.lastTerm() > term
	}
	return l.last() > index
}

// agreement returns the last index, at most the one given, whose entry's term
// does not exceed term, and that entry's term. Beyond it this log cannot agree
// with a log that has an entry of that term at the given index, since terms
// never fall along a log.
func (l *raftLog) agreement(index Index, term Term) (Index, Term) {
	index = min(index, l.last())
	for i := (Entries{l.runs}).position(index); index > 0 && l.runs[i].term > term; i-- {
		index = l.runs[i].first - 1
	}
	have, _ := l.term(index)
	return index, have
}

// from returns entries that start at index.
func (l *raftLog) from(index Index, maxBytes int) Entries {
	return Entries{l.runs}.from(index, maxBytes)
}

// fitting returns how many entries of the run fit into maxBytes, 1 at least.
func (r run) fitting(maxBytes int) int {
	n, rest := 0, r.body
	for n < r.count {
		_, _, rest = readEntry(rest)
		if n > 0 && len(r.body)-len(rest) > maxBytes {
			break
		}
		n++
	}
	return n
}

// appendRun adds entries of one term at the end.
func (l *raftLog) appendRun(r run) {
	l.runs = append(l.runs, r)
	l.bytes += len(r.body)
}

// replaceFrom adds entries, in place of whatever stands at their first index
// and behind it. What is removed is no longer durable, nor will the write under
// way make it so: its late completion must not be taken for the new entries'.
func (l *raftLog) replaceFrom(entries Entries) error {
	first := entries.First()
	if first == 0 || first > l.last()+1 {
		return fmt.Errorf("%w: entries at %d do not continue a log that ends at %d", ErrInvalidMessage, first, l.last())
	}
	if first <= l.last() {
		l.truncate(first)
	}
	for _, r := range entries.runs {
		l.appendRun(r)
	}
	return nil
}

// truncate removes the entry at index and all behind it.
func (l *raftLog) truncate(index Index) {
	i := Entries{l.runs}.position(index)
	head := l.runs[i]
	l.bytes -= Entries{l.runs[i:]}.Size()
	l.runs = slices.Clip(l.runs[:i]) // the next append copies: messages share what is removed
	if keep := int(index - head.first); keep > 0 {
		head, _ = head.split(keep)
		l.appendRun(head)
	}
	l.durable = min(l.durable, index-1)
	l.handed = min(l.handed, index-1)
	l.writing = min(l.writing, index-1)
}

// unhanded returns what was not handed to the storage yet.
func (l *raftLog) unhanded() Entries { return l.from(l.handed+1, math.MaxInt) }

// hand marks everything as handed to the storage.
func (l *raftLog) hand() { l.handed, l.writing = l.last(), l.last() }

// written marks as durable what the write that ended has made so.
func (l *raftLog) written() { l.durable = max(l.durable, l.writing) }
