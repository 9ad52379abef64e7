package raft

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sort"

	"github.com/seed-8da499c8/raft/internal/crc32c"
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

	EntryOpenSession    EntryKind = 4 // of a client (§6.3)
	EntrySessionCommand EntryKind = 5 // for the state machine, unless it had it before
	EntryCloseSession   EntryKind = 6
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
	checksum
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
	head = run{term: r.term, first: r.first, count: n, body: r.body[:at:at]}
	return head, run{term: r.term, first: r.first + Index(n), count: r.count - n, body: rest}
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

// terms returns where each term starts.
func (e Entries) terms() stretches {
	var starts stretches
	for i, r := range e.runs {
		if i == 0 || r.term != e.runs[i-1].term {
			starts = append(starts, TermStart{r.first, r.term})
		}
	}
	return starts
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
	for i, r := range e.runs {
		if i == 0 || r.term != e.runs[i-1].term {
			dst = e.appendHead(dst, i)
		}
		dst = append(dst, r.body...)
	}
	return dst, nil
}

// appendHead appends what stands before the bodies of the group that begins with run i.
func (e Entries) appendHead(dst []byte, i int) []byte {
	dst = wire.AppendArrayLen(dst, 3)
	dst = wire.AppendUint(dst, uint64(e.runs[i].term))
	dst = wire.AppendUint(dst, uint64(e.runs[i].first))
	return wire.AppendArrayLen(dst, e.groupCount(i))
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
// handed to the storage, and what is durable. Of every entry that is kept it
// knows the term; the entries themselves it has in memory from cachedFrom on,
// and the storage has the others. Index 0 is the empty log before the first
// entry, with term 0.
//
//	compacted   1st kept ........ cachedFrom ..... durable ......... handed ......... last
//	  forgotten | in the storage  | in memory, too | being written | not yet handed over
type raftLog struct {
	compacted EntryID   // the entry before the first one that is kept
	told      Index     // of what was compacted, the storage was told up to here
	terms     stretches // of all that are kept; the elements below len are never overwritten
	end       Index     // the last one
	durable   Index     // the last index up to which this log is on disk
	handed    Index     // the last index handed to the storage, in the write under way at the latest
	writing   Index     // what becomes durable when the write under way ends; falls with a truncation

	runs        []run  // in memory, up to the last; the elements below len are never overwritten: messages share them
	cachedBytes int    // what they count
	evicted     int    // what those count that the array below runs still refers to
	grown       uint64 // bytes of all entries that were ever appended
}

// newLog returns the log that a storage keeps, nothing of it in memory.
func newLog(state StorageState) raftLog {
	return raftLog{
		compacted: state.Compacted, told: state.Compacted.Index, terms: slices.Clip(state.Terms), end: state.Last,
		durable: state.Last, handed: state.Last, writing: state.Last,
	}
}

func (l *raftLog) clone() raftLog {
	l.runs, l.terms = slices.Clip(l.runs), slices.Clip(l.terms)
	return *l
}

// last returns the index of the last entry.
func (l *raftLog) last() Index { return l.end }

// lastTerm returns the term of the last entry.
func (l *raftLog) lastTerm() Term {
	if len(l.terms) == 0 {
		return l.compacted.Term
	}
	return l.terms[len(l.terms)-1].Term
}

// firstKept returns the index of the first entry that is kept, or would be if
// there were one.
func (l *raftLog) firstKept() Index { return l.compacted.Index + 1 }

// cachedFrom returns the index from which on entries are in memory: last+1 if
// none is.
func (l *raftLog) cachedFrom() Index {
	if len(l.runs) == 0 {
		return l.end + 1
	}
	return l.runs[0].first
}

// term returns the term of the entry at index, and whether the log knows it.
// What is compacted is unknown, which is not the same as a term of 0.
func (l *raftLog) term(index Index) (Term, bool) {
	switch {
	case index < l.compacted.Index || index > l.end:
		return 0, false
	case index == l.compacted.Index:
		return l.compacted.Term, true
	default:
		return l.terms.term(index), true
	}
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
// never fall along a log. Of what is compacted nothing more is known than that
// it is committed: the answer is the last of it, or the index given if that is
// lower, then without its term.
func (l *raftLog) agreement(index Index, term Term) (Index, Term) {
	index = min(index, l.last())
	for i := l.terms.position(index); i >= 0 && l.terms[i].Term > term; i-- {
		index = l.terms[i].First - 1
	}
	have, _ := l.term(index)
	return index, have
}

// from returns entries in memory that start at index, whole runs of at most
// maxBytes as far as possible, and one entry at least if there is one.
func (l *raftLog) from(index Index, maxBytes int) Entries {
	if index < l.cachedFrom() {
		panic(fmt.Sprintf("raft: entries from %d on are not in memory, only those from %d on", index, l.cachedFrom()))
	}
	return Entries{l.runs}.from(index, maxBytes)
}

// appendRun adds entries of one term at the end.
func (l *raftLog) appendRun(r run) {
	if len(l.terms) == 0 || l.lastTerm() != r.term {
		l.terms = append(l.terms, TermStart{r.first, r.term})
	}
	l.runs = append(l.runs, r)
	l.cachedBytes += r.weight()
	l.grown += uint64(len(r.body))
	l.end = r.last()
}

// replaceFrom adds entries, in place of whatever stands at their first index
// and behind it. What is removed is no longer durable, nor will the write under
// way make it so: its late completion must not be taken for the new entries'.
func (l *raftLog) replaceFrom(entries Entries) error {
	first := entries.First()
	if first < l.firstKept() || first > l.last()+1 {
		return fmt.Errorf("%w: entries at %d do not continue a log from %d to %d", ErrInvalidMessage, first, l.firstKept(), l.last())
	}
	if first <= l.last() {
		l.truncate(first)
	}
	for _, r := range entries.runs {
		l.appendRun(r)
	}
	return nil
}

// truncate removes the entry at index, which is kept, and all behind it. Messages
// share what is removed.
func (l *raftLog) truncate(index Index) {
	l.end = index - 1
	n := l.terms.position(index)
	if l.terms[n].First < index {
		n++
	}
	l.terms = slices.Clip(l.terms[:n])
	l.keep(Entries{l.runs}.upTo(l.end).runs)
	l.durable = min(l.durable, l.end)
	l.handed = min(l.handed, l.end)
	l.writing = min(l.writing, l.end)
}

// compact forgets the entries up to one that a snapshot covers. A log that has no
// such entry is not the one that the snapshot is of: all of it is forgotten, and it
// goes on behind the snapshot. What is left stays (§5.3).
func (l *raftLog) compact(to EntryID) {
	if !l.matches(to.Index, to.Term) {
		l.compacted, l.terms, l.end, l.handed = to, nil, to.Index, to.Index
		// It is the write to come that makes this so.
		l.durable, l.writing = min(l.durable, to.Index-1), min(l.writing, to.Index-1)
		l.keep(nil)
		return
	}
	l.compacted = to
	if n := l.terms.position(to.Index + 1); to.Index == l.end {
		l.terms = nil
	} else {
		l.terms = append(stretches{{to.Index + 1, l.terms[n].Term}}, l.terms[n+1:]...)
	}
	l.handed = max(l.handed, to.Index)
	if l.cachedFrom() <= to.Index {
		l.keep(Entries{l.runs}.from(to.Index+1, math.MaxInt).runs)
	}
}

// keep has no more than these runs in memory. It copies: nothing refers to the
// array below the others any more.
func (l *raftLog) keep(runs []run) {
	l.runs = append([]run(nil), runs...)
	l.cachedBytes, l.evicted = 0, 0
	for _, r := range l.runs {
		l.cachedBytes += r.weight()
	}
}

// A write has about so much at most: what gathers while a disk hangs may be more
// than a storage takes at once.
const (
	maxWriteBytes = 64 << 20
	maxWriteRuns  = 1 << 15
)

// isHanded reports whether the storage was told everything.
func (l *raftLog) isHanded() bool { return l.handed == l.end && l.told == l.compacted.Index }

// hand returns what the storage was not told yet, as much as one write may have,
// and marks it as handed: what is compacted, and the entries. That a snapshot has
// taken the log's place is a write of its own.
func (l *raftLog) hand() (compacted EntryID, e Entries) {
	if l.told < l.compacted.Index {
		compacted, l.told = l.compacted, l.compacted.Index
	}
	if l.durable >= compacted.Index {
		e = l.from(l.handed+1, maxWriteBytes)
	}
	if len(e.runs) > maxWriteRuns {
		e.runs = e.runs[:maxWriteRuns:maxWriteRuns]
	}
	l.handed = max(l.handed, e.last())
	l.writing = l.handed
	return compacted, e
}

// written marks as durable what the write that ended has made so.
func (l *raftLog) written() { l.durable = max(l.durable, l.writing) }

// runBytes is what a run counts beside its entries: else many small ones would
// take far more memory than their entries have bytes.
const runBytes = 64

// unappliedCaches is how many times the memory for the end of the log may hold what
// is not applied yet.
const unappliedCaches = 4

// weight is what the run counts in memory.
func (r run) weight() int { return len(r.body) + runBytes }

// evict removes the oldest entries from memory until what is left counts at most
// maxBytes, or a few times that if the rest is not applied yet: to read back what is
// needed soon costs more than it saves. What is not durable stays in any case: it
// cannot be read back.
func (l *raftLog) evict(maxBytes int, applied Index) {
	n := 0
	for ; n < len(l.runs) && l.runs[n].last() <= l.durable; n++ {
		if l.cachedBytes <= maxBytes || l.runs[n].last() > applied && l.cachedBytes/unappliedCaches <= maxBytes {
			break
		}
		l.cachedBytes -= l.runs[n].weight()
		l.evicted += l.runs[n].weight()
	}
	l.runs = l.runs[n:]
	if n > 0 && l.evicted >= runBytes*len(l.runs) {
		// The array keeps what was evicted. To copy what is left costs less than
		// that has cost, so all the copies together cost little.
		l.runs = append([]run(nil), l.runs...)
		l.evicted = 0
	}
}

// checkInvariants tells what no correct log is ever in.
func (l *raftLog) checkInvariants(must func(ok bool, format string, args ...any)) {
	before := l.compacted
	for i, start := range l.terms {
		follows := start.First > before.Index && start.Term > before.Term || i == 0 && start.Term == before.Term
		if !follows || start.First > l.end || i == 0 && start.First != l.firstKept() { // must would cost more than all the rest
			must(false, "term %d starts at entry %d, behind entry %d of term %d", start.Term, start.First, before.Index, before.Term)
		}
		before = EntryID{start.First, start.Term}
	}
	must(len(l.terms) > 0 || l.end == l.compacted.Index, "no terms of a log from %d to %d", l.firstKept(), l.end)
	next, bytes, terms := l.cachedFrom(), 0, l.terms
	for _, r := range l.runs {
		for len(terms) > 1 && terms[1].First <= r.first {
			terms = terms[1:]
		}
		if r.first != next || r.count == 0 || r.term != terms[0].Term || len(terms) > 1 && r.last() >= terms[1].First {
			must(false, "run of %d entries of term %d at %d follows entry %d", r.count, r.term, r.first, next-1)
		}
		next, bytes = r.last()+1, bytes+r.weight()
	}
	if n := len(l.runs); n > 0 && l.runs[n-1].known { // each was the last once
		must(l.runs[n-1].sum == crc32c.Checksum(l.runs[n-1].body), "the checksum of the run at %d is wrong", l.runs[n-1].first)
	}
	must(next == l.end+1 && bytes == l.cachedBytes, "%d bytes of entries up to %d are in memory, counted as %d up to %d", bytes, next-1, l.cachedBytes, l.end)
	must(l.cachedFrom() > l.compacted.Index && l.cachedFrom() <= max(l.durable, l.compacted.Index)+1, "entries are in memory from %d on, durable up to %d", l.cachedFrom(), l.durable)
}

// stretches say of which terms the entries of a log are: each start holds up to
// the next one.
type stretches []TermStart

// position returns the number of the stretch that holds index, -1 if none does.
func (s stretches) position(index Index) int {
	return sort.Search(len(s), func(i int) bool { return s[i].First > index }) - 1
}

// term returns the term of the entry at index, which is not before the first
// start.
func (s stretches) term(index Index) Term { return s[s.position(index)].Term }

// check returns an error unless entries that were read are such of the log as
// were asked for: from first on, one at least and none behind last.
func (s stretches) check(entries Entries, first, last Index) error {
	next := first
	for _, r := range entries.runs {
		if r.first != next || r.count == 0 || r.last() > last || s.term(r.first) != r.term || s.term(r.last()) != r.term {
			return fmt.Errorf("entries %d to %d of term %d were read where entries from %d on are of term %d", r.first, r.last(), r.term, next, s.term(next))
		}
		next = r.last() + 1
	}
	if next == first {
		return errors.New("nothing was read")
	}
	return nil
}
