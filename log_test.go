package raft

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// twinLog is a raftLog as simple as can be: a slice of all entries, those that
// are compacted too, and of each whether it was handed over, is being written,
// and is durable.
type twinLog struct {
	compacted Index
	entries   []LogEntry
	handed    []bool
	writing   []bool // what the write under way holds and the log still does
	durable   []bool
}

func (w *twinLog) last() Index { return Index(len(w.entries)) }

func (w *twinLog) term(index Index) Term {
	if index == 0 {
		return 0
	}
	return w.entries[index-1].Term
}

func (w *twinLog) append(entries ...LogEntry) {
	for _, e := range entries {
		w.entries = append(w.entries, e)
		w.handed, w.writing, w.durable = append(w.handed, false), append(w.writing, false), append(w.durable, false)
	}
}

func (w *twinLog) truncate(index Index) {
	n := index - 1
	w.entries, w.handed, w.writing, w.durable = w.entries[:n:n], w.handed[:n:n], w.writing[:n:n], w.durable[:n:n]
}

func (w *twinLog) hand() {
	for i := range w.handed {
		w.handed[i], w.writing[i] = true, true
	}
}

func (w *twinLog) written() {
	for i, was := range w.writing {
		w.durable[i] = w.durable[i] || was
		w.writing[i] = false
	}
}

// upTo returns up to where a mark is set, from the first entry on.
func upTo(marks []bool) Index {
	n := 0
	for n < len(marks) && marks[n] {
		n++
	}
	return Index(n)
}

// agreement tries every index.
func (w *twinLog) agreement(index Index, term Term) Index {
	best := min(index, w.compacted)
	for i := w.compacted + 1; i <= min(index, w.last()); i++ {
		if w.term(i) <= term {
			best = i
		}
	}
	return best
}

func (w *twinLog) fresh(random *rand.Rand, first Index, n int) []LogEntry {
	entries := make([]LogEntry, n)
	term := max(w.term(first-1), 1)
	for i := range entries {
		if random.IntN(3) == 0 {
			term++
		}
		entries[i] = LogEntry{Term: term, Index: first + Index(i), Kind: EntryCommand, Data: fmt.Appendf(nil, "%x", random.Uint64N(1<<random.IntN(64)))}
	}
	return entries
}

// state is what a storage says of the entries as they are.
func (w *twinLog) state() StorageState {
	state := StorageState{Compacted: EntryID{w.compacted, w.term(w.compacted)}, Last: w.last()}
	for i := w.compacted + 1; i <= w.last(); i++ {
		if i == w.compacted+1 || w.term(i) != w.term(i-1) {
			state.Terms = append(state.Terms, TermStart{i, w.term(i)})
		}
	}
	return state
}

func requireLog(t *testing.T, w *twinLog, l *raftLog) {
	t.Helper()
	l.checkInvariants(func(ok bool, format string, args ...any) { require.True(t, ok, format, args) })
	bytes := 0
	for _, r := range l.runs {
		bytes += len(r.body) + 64
	}
	require.Equal(t, w.state(), StorageState{Compacted: l.compacted, Terms: append([]TermStart(nil), l.terms...), Last: l.last()})
	require.Equal(t, append([]LogEntry(nil), w.entries[l.cachedFrom()-1:]...), entriesOf(Entries{l.runs}))
	require.Equal(t, bytes, l.cachedBytes)
	require.Equal(t, w.term(w.last()), l.lastTerm())
	require.Equal(t, upTo(w.handed), l.handed)
	require.Equal(t, upTo(w.durable), l.durable)
}

// newTwins returns a log as it comes back from a storage, compacted or not, and
// its twin.
func newTwins(random *rand.Rand) (*twinLog, raftLog) {
	w := &twinLog{}
	if random.IntN(3) > 0 {
		w.append(w.fresh(random, 1, random.IntN(12))...)
		w.hand()
		w.written()
		w.compacted = Index(random.IntN(int(w.last()) + 1))
	}
	state := w.state()
	state.Terms = slices.Clone(state.Terms)
	return w, newLog(state)
}

func TestLogEqualsItsTwin(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		random := chance(seed)
		w, l := newTwins(random)
		requireLog(t, w, &l)
		writing := false
		for range 200 {
			switch random.IntN(8) {
			case 0, 1: // a leader appends
				for _, e := range w.fresh(random, w.last()+1, 1+random.IntN(3)) {
					w.append(e)
					l.appendRun(MakeEntries(e).runs[0])
				}
			case 2: // a follower is given entries, in place of others or not
				first := w.last() + 1
				if random.IntN(2) == 0 {
					first = w.compacted + 1 + Index(random.IntN(int(first-w.compacted)))
				}
				entries := w.fresh(random, first, 1+random.IntN(5))
				w.truncate(first)
				w.append(entries...)
				require.NoError(t, l.replaceFrom(MakeEntries(entries...)))
			case 3:
				if !writing && w.last() > w.compacted {
					index := w.compacted + 1 + Index(random.IntN(int(w.last()-w.compacted)))
					w.truncate(index)
					l.truncate(index)
				}
			case 4:
				if !writing && l.handed < l.last() {
					want := w.entries[l.handed:]
					w.hand()
					_, handed := l.hand()
					require.Equal(t, want, entriesOf(handed))
					writing = true
				}
			case 5:
				if writing {
					w.written()
					l.written()
					writing = false
				}
			case 6:
				requireEviction(t, &l, random.IntN(600))
			default:
				requireLookups(t, random, w, &l)
			}
			requireLog(t, w, &l)
			c := l.clone()
			c.appendRun(run{term: 99, first: c.last() + 1, count: 1, body: appendEntry(nil, EntryCommand, nil)})
			c.truncate(w.compacted + 1)
			requireLog(t, w, &l)
		}
	}
}

// requireEviction requires that as few runs leave the memory, from the front, as
// the bound asks for, and none that is not durable.
func requireEviction(t *testing.T, l *raftLog, maxBytes int) {
	t.Helper()
	before := slices.Clone(l.runs)
	l.evict(maxBytes, l.last())
	n := len(before) - len(l.runs)
	require.Equal(t, append([]run(nil), before[n:]...), append([]run(nil), l.runs...))
	bytes := 0
	for _, r := range l.runs {
		bytes += len(r.body) + 64
	}
	require.True(t, bytes <= maxBytes || l.runs[0].last() > l.durable, "%d bytes of %d", bytes, maxBytes)
	if n > 0 {
		require.Greater(t, bytes+len(before[n-1].body)+64, maxBytes)
		require.LessOrEqual(t, before[n-1].last(), l.durable)
	}
}

func entriesOf(entries Entries) []LogEntry {
	var list []LogEntry
	for e := range entries.All() {
		list = append(list, e)
	}
	return list
}

// requireLookups compares what the log answers with what the twin says.
func requireLookups(t *testing.T, random *rand.Rand, w *twinLog, l *raftLog) {
	t.Helper()
	for index := Index(0); index <= w.last()+2; index++ {
		term, ok := l.term(index)
		require.Equal(t, index >= w.compacted && index <= w.last(), ok)
		if ok {
			require.Equal(t, w.term(index), term)
			require.True(t, l.matches(index, term))
		}
		require.False(t, l.matches(index, 77))
		for term := range Term(8) {
			got, have := l.agreement(index, term)
			require.Equal(t, w.agreement(index, term), got, "agreement of %d@%d", index, term)
			if got >= w.compacted {
				require.Equal(t, w.term(got), have)
			}
			up := w.term(w.last()) > term || w.term(w.last()) == term && w.last() > index
			require.Equal(t, up, l.moreUpToDate(index, term))
		}
		if index >= l.cachedFrom() {
			requireFrom(t, w, l, index, random.IntN(60))
			if index <= w.last() {
				requireFrom(t, w, l, index, entrySize(len(w.entries[index-1].Data)))
			}
		}
		start := int(l.cachedFrom()) - 1
		end := max(start, min(int(index), len(w.entries)))
		require.Equal(t, append([]LogEntry(nil), w.entries[start:end]...), entriesOf(Entries{l.runs}.upTo(index)))
	}
}

// requireFrom requires that from returns consecutive entries of the log from
// index on, one at least, no more bytes than allowed but for that one, and as
// many as fit if they are of one run.
func requireFrom(t *testing.T, w *twinLog, l *raftLog, index Index, maxBytes int) {
	t.Helper()
	part := l.from(index, maxBytes)
	list := entriesOf(part)
	if index > w.last() {
		require.Empty(t, list)
		return
	}
	require.NotEmpty(t, list)
	require.Equal(t, w.entries[index-1:int(index)-1+len(list)], list)
	require.True(t, part.Size() <= maxBytes || len(list) == 1, "%d bytes of %d", part.Size(), maxBytes)
	if next := int(index) - 1 + len(list); next < len(w.entries) {
		following := l.runs[Entries{l.runs}.position(Index(next)+1)]
		if following.first <= Index(next) { // the run was split: nothing more fitted
			require.Greater(t, part.Size()+entrySize(len(w.entries[next].Data)), maxBytes)
		} else {
			require.Greater(t, part.Size()+len(following.body), maxBytes)
		}
	}
}

// cachedLog returns a log of entries that are durable and in memory.
func cachedLog(entries Entries) raftLog {
	var l raftLog
	for _, r := range entries.runs {
		l.appendRun(r)
	}
	l.hand()
	l.written()
	return l
}

func TestLogRefusesEntriesThatDoNotContinueIt(t *testing.T) {
	l := cachedLog(MakeEntries(LogEntry{Term: 1, Index: 1, Kind: EntryCommand}))
	require.ErrorIs(t, l.replaceFrom(MakeEntries(LogEntry{Term: 1, Index: 3, Kind: EntryCommand})), ErrInvalidMessage)
	require.ErrorIs(t, l.replaceFrom(Entries{}), ErrInvalidMessage)
	require.Equal(t, Index(1), l.last())
}

// What is sent shares memory with the log, and must not change with it.
func TestLogNeverChangesWhatItHasGivenAway(t *testing.T) {
	r := newRig(t, "a")
	l := cachedLog(r.log("1 1 1 1"))
	l.appendRun(entry(5, 2).runs[0])
	l.appendRun(entry(6, 2).runs[0])
	given := l.from(1, 1<<20)
	before := entriesOf(given)
	require.NoError(t, l.replaceFrom(entry(6, 3)))
	require.NoError(t, l.replaceFrom(entry(3, 4)))
	l.appendRun(entry(4, 4).runs[0])
	require.Equal(t, before, entriesOf(given))
	require.Equal(t, "1 1 4 4", termsOf(Entries{l.runs}))
}

// The write of an entry ends after the entry was replaced: that says nothing
// about the new one, not even if both have the same bytes.
func TestLogWriteOfAReplacedEntryDoesNotCount(t *testing.T) {
	r := newRig(t, "a")
	l := cachedLog(r.log("1 1"))
	l.appendRun(entry(3, 2).runs[0])
	l.appendRun(entry(4, 2).runs[0])
	l.hand() // 3@2 and 4@2 are being written
	require.NoError(t, l.replaceFrom(entry(4, 3)))
	require.NoError(t, l.replaceFrom(entry(4, 2))) // not that a correct leader would
	l.written()
	require.Equal(t, Index(3), l.durable)
	require.Equal(t, Index(3), l.handed)
	l.hand()
	require.Equal(t, Index(3), l.durable)
	require.NoError(t, l.replaceFrom(entry(2, 5)))
	require.Equal(t, Index(1), l.durable)
	l.written()
	require.Equal(t, Index(1), l.durable)
	_, handed := l.hand()
	require.Equal(t, 1, handed.Len())
}

// A write of what a snapshot has taken the place of makes nothing durable: not the snapshot,
// and none of the entries that stand at the same indexes from then on.
func TestOldWriteMakesNoSnapshotDurable(t *testing.T) {
	var l raftLog
	l.appendRun(run{term: 1, first: 1, count: 10, body: bytes.Repeat(appendEntry(nil, EntryCommand, []byte("x")), 10)})
	l.hand()
	l.compact(EntryID{5, 2})
	l.written()
	require.Equal(t, Index(4), l.durable)
	require.Equal(t, Index(5), l.last())
}
