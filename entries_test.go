package raft

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// randomLog returns n consecutive entries, mostly several of one term.
func randomLog(random *rand.Rand, first Index, n int) []LogEntry {
	var entries []LogEntry
	term := Term(1 + randomNumber(random)>>8)
	for i := range n {
		if random.IntN(4) == 0 {
			term += Term(1 + random.IntN(300))
		}
		entries = append(entries, LogEntry{
			Term: term, Index: first + Index(i), Kind: EntryKind(1 + random.IntN(3)), Data: make([]byte, randomLength(random)),
		})
	}
	return entries
}

func randomEntries(random *rand.Rand, first Index, n int) Entries {
	return MakeEntries(randomLog(random, first, n)...)
}

// referenceEntries encodes entries with the msgpack library.
func referenceEntries(t *testing.T, entries Entries) []byte {
	t.Helper()
	var groups [][]LogEntry
	for entry := range entries.All() {
		if n := len(groups); n > 0 && groups[n-1][0].Term == entry.Term {
			groups[n-1] = append(groups[n-1], entry)
		} else {
			groups = append(groups, []LogEntry{entry})
		}
	}
	var b bytes.Buffer
	e := msgpack.NewEncoder(&b)
	for _, group := range groups {
		require.NoError(t, e.EncodeArrayLen(3))
		require.NoError(t, e.EncodeUint(uint64(group[0].Term)))
		require.NoError(t, e.EncodeUint(uint64(group[0].Index)))
		require.NoError(t, e.EncodeArrayLen(len(group)))
		for _, entry := range group {
			require.NoError(t, e.EncodeArrayLen(2))
			require.NoError(t, e.EncodeUint(uint64(entry.Kind)))
			require.NoError(t, e.EncodeBytes(append([]byte{}, entry.Data...)))
		}
	}
	return b.Bytes()
}

// requireUsable requires that every method works on entries that were parsed
// to start at first, and that their encoding is what encodedSize says and
// parses to the same entries.
func requireUsable(t *testing.T, e Entries, first Index) {
	t.Helper()
	all := slices.Collect(e.All())
	require.Len(t, all, e.Len())
	if len(all) == 0 {
		require.Zero(t, e.First())
		require.Zero(t, e.last())
	} else {
		require.Equal(t, first, e.First())
		require.Equal(t, all[len(all)-1].Index, e.last())
	}
	for i, entry := range all {
		require.Equal(t, first+Index(i), entry.Index)
		require.NotZero(t, entry.Term)
		require.True(t, i == 0 || entry.Term >= all[i-1].Term)
		require.Equal(t, len(entry.Data), cap(entry.Data))
	}
	for range e.All() {
		break // a caller may stop early
	}
	for _, r := range e.runs {
		for n := range r.count + 1 {
			head, tail := r.split(n)
			require.Equal(t, r.first, head.first)
			require.Equal(t, n, head.count)
			require.Equal(t, r.first+Index(n), tail.first)
			require.Equal(t, r.count-n, tail.count)
			require.Equal(t, string(r.body), string(head.body)+string(tail.body))
			if n > 64 {
				break // what follows is no different, and takes quadratic time
			}
		}
	}
	encoded, err := e.AppendBinary(nil)
	require.NoError(t, err)
	require.Len(t, encoded, e.encodedSize())
	again, err := ParseEntries(first, encoded)
	require.NoError(t, err)
	require.Equal(t, all, slices.Collect(again.All()))
}

func TestEntriesRoundTrip(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		first := Index(1 + randomNumber(random)>>8)
		log := randomLog(random, first, i)
		e := MakeEntries(log...)
		requireUsable(t, e, first)
		require.Equal(t, log, slices.Collect(e.All()))

		encoded, err := e.AppendBinary([]byte("before"))
		require.NoError(t, err)
		require.Equal(t, "before"+string(referenceEntries(t, e)), string(encoded))
		parsed, err := ParseEntries(first, encoded[len("before"):])
		require.NoError(t, err)
		require.Equal(t, e, parsed)
	}
}

func TestEntriesOfTheZeroValue(t *testing.T) {
	requireUsable(t, Entries{}, 7)
	require.Equal(t, Entries{}, MakeEntries())
	e, err := ParseEntries(7, nil)
	require.NoError(t, err)
	require.Equal(t, Entries{}, e)
	require.Zero(t, e.Len())
	require.Zero(t, e.Size())
	require.Zero(t, e.encodedSize())
}

func TestEntriesAreOneGroupPerTerm(t *testing.T) {
	e := MakeEntries(
		LogEntry{Term: 1, Index: 5, Kind: EntryCommand, Data: []byte("x")},
		LogEntry{Term: 1, Index: 6, Kind: EntryNoop},
		LogEntry{Term: 200, Index: 7, Kind: EntryConfiguration, Data: []byte("yz")},
	)
	require.Equal(t, 3, e.Len())
	require.EqualValues(t, 5, e.First())
	require.EqualValues(t, 7, e.last())
	require.Equal(t, 5+4+6, e.Size())
	encoded, err := e.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, []byte{
		0x93, 1, 5, 0x92, 0x92, 2, 0xc4, 1, 'x', 0x92, 1, 0xc4, 0,
		0x93, 0xcc, 200, 7, 0x91, 0x92, 3, 0xc4, 2, 'y', 'z',
	}, encoded)
}

// Runs that were batched or split differently have the same bytes.
func TestEntriesHaveOneEncodingHoweverTheyWereBatched(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		whole := randomEntries(random, 1, 100)
		var pieces Entries
		for _, r := range whole.runs {
			for r.count > 0 {
				var head run
				head, r = r.split(random.IntN(r.count + 1))
				if head.count > 0 {
					pieces.runs = append(pieces.runs, head)
				}
			}
		}
		requireUsable(t, pieces, 1)
		want, _ := whole.AppendBinary(nil)
		got, _ := pieces.AppendBinary(nil)
		require.Equal(t, want, got)
		require.Equal(t, whole.Size(), pieces.Size())
	}
}

func TestSplitSharesTheBytes(t *testing.T) {
	r := MakeEntries(LogEntry{Term: 1, Index: 1, Kind: EntryCommand, Data: []byte("a")}, LogEntry{Term: 1, Index: 2, Kind: EntryCommand, Data: []byte("b")}).runs[0]
	head, tail := r.split(1)
	require.Same(t, &r.body[0], &head.body[0])
	require.Same(t, &r.body[len(head.body)], &tail.body[0])
	require.Equal(t, len(head.body), cap(head.body), "appending to the head must not reach the tail")
	require.Panics(t, func() { r.split(3) })
}

func TestEntrySizeIsWhatAppendEntryAppends(t *testing.T) {
	for _, n := range []int{0, 1, 255, 256, 65535, 65536} {
		require.Len(t, appendEntry(nil, EntryCommand, make([]byte, n)), entrySize(n))
	}
}

func TestMakeEntriesPanicsOnWhatIsNoLog(t *testing.T) {
	for name, entries := range map[string][]LogEntry{
		"gap":          {{Term: 1, Index: 1}, {Term: 1, Index: 3}},
		"same index":   {{Term: 1, Index: 1}, {Term: 1, Index: 1}},
		"falling":      {{Term: 2, Index: 1}, {Term: 1, Index: 2}},
		"no such kind": {{Term: 1, Index: 1, Kind: 128}},
	} {
		require.Panics(t, func() { MakeEntries(entries...) }, name)
	}
}

// group encodes one group with entries of one byte each.
func group(term Term, first Index, count int) []byte {
	b := wire.AppendArrayLen(nil, 3)
	b = wire.AppendUint(b, uint64(term))
	b = wire.AppendUint(b, uint64(first))
	b = wire.AppendArrayLen(b, count)
	for range count {
		b = appendEntry(b, EntryCommand, []byte("x"))
	}
	return b
}

func TestL10EntriesWithAGapAreRefused(t *testing.T) {
	ok, err := ParseEntries(5, slices.Concat(group(1, 5, 2), group(2, 7, 1)))
	require.NoError(t, err)
	requireUsable(t, ok, 5)
	for name, raw := range map[string][]byte{
		"before the first":   group(1, 6, 1),
		"already there":      group(1, 4, 2),
		"between two groups": slices.Concat(group(1, 5, 2), group(2, 8, 1)),
		"overlap":            slices.Concat(group(1, 5, 2), group(2, 6, 1)),
	} {
		_, err := ParseEntries(5, raw)
		require.ErrorIs(t, err, ErrInvalidMessage, name)
	}
}

func TestW4EntriesThatNoPeerSendsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		first Index
		raw   []byte
	}{
		"empty group":             {5, group(1, 5, 0)},
		"term 0":                  {5, group(0, 5, 1)},
		"falling terms":           {5, slices.Concat(group(2, 5, 1), group(1, 6, 1))},
		"two groups of one term":  {5, slices.Concat(group(2, 5, 1), group(2, 6, 1))},
		"index 0":                 {0, group(1, 0, 1)},
		"indexes that wrap":       {math.MaxUint64, group(1, math.MaxUint64, 1)},
		"indexes that wrap later": {math.MaxUint64 - 1, group(1, math.MaxUint64-1, 3)},
		"two fields":              {5, []byte{0x92, 1, 5}},
		"four fields":             {5, append([]byte{0x94}, append(group(1, 5, 1)[1:], 0xc0)...)},
		"no array":                {5, []byte{0xc0}},
		"three fields":            {5, []byte{0x93, 1, 5, 0x91, 0x93, 1, 0xc4, 0, 0xc0}},
		"kind of two bytes":       {5, []byte{0x93, 1, 5, 0x91, 0x92, 0xcc, 1, 0xc4, 0}},
		"kind 128":                {5, []byte{0x93, 1, 5, 0x91, 0x92, 0xcc, 128, 0xc4, 0}},
		"pair of another size":    {5, []byte{0x93, 1, 5, 0x91, 0xdc, 0, 2, 1, 0xc4, 0}},
		"data is a string":        {5, []byte{0x93, 1, 5, 0x91, 0x92, 1, 0xa0}},
		"data is nil":             {5, []byte{0x93, 1, 5, 0x91, 0x92, 1, 0xc0}},
		"bytes behind":            {5, append(group(1, 5, 1), 0)},
	} {
		e, err := ParseEntries(c.first, c.raw)
		require.ErrorIs(t, err, ErrInvalidMessage, name)
		require.Equal(t, Entries{}, e, name)
		require.Equal(t, 1, strings.Count(err.Error(), "invalid message"), name)
	}
}

func TestW4EntriesTruncatedOrChanged(t *testing.T) {
	raw := slices.Concat(group(1, 1000, 3), group(300, 1003, 2), group(1<<40, 1005, 17))
	for end := 1; end < len(raw); end++ {
		if e, err := ParseEntries(1000, raw[:end]); err == nil {
			requireUsable(t, e, 1000) // it ends with a group
		} else {
			require.ErrorIs(t, err, ErrInvalidMessage)
		}
	}
	for i, original := range raw {
		for _, b := range []byte{original ^ 1, original ^ 0x80, 0x00, 0x92, 0x93, 0xc4, 0xc6, 0xdd, 0xff} {
			raw[i] = b
			if e, err := ParseEntries(1000, raw); err == nil {
				requireUsable(t, e, 1000)
			} else {
				require.ErrorIs(t, err, ErrInvalidMessage)
			}
		}
		raw[i] = original
	}
}

// Longer forms of a group's numbers are read as well. An entry has one form: its
// bytes are counted, and end in the logs of all members as they are.
func TestEntriesInLongerForms(t *testing.T) {
	group := []byte{0xdc, 0, 3, 0xcd, 0, 1, 0xcf, 0, 0, 0, 0, 0, 0, 0, 5, 0xdd, 0, 0, 0, 1}
	e, err := ParseEntries(5, append(slices.Clone(group), 0x92, 2, 0xc4, 1, 'x'))
	require.NoError(t, err)
	requireUsable(t, e, 5)
	require.Equal(t, []LogEntry{{Term: 1, Index: 5, Kind: EntryCommand, Data: []byte("x")}}, slices.Collect(e.All()))
	for _, entry := range [][]byte{{0x92, 2, 0xc6, 0, 0, 0, 1, 'x'}, {0x92, 2, 0xc5, 0, 1, 'x'}, {0x92, 0xcc, 2, 0xc4, 1, 'x'}, {0xdc, 0, 2, 2, 0xc4, 1, 'x'}} {
		_, err := ParseEntries(5, append(slices.Clone(group), entry...))
		require.ErrorIs(t, err, ErrInvalidMessage, "%x", entry)
	}
}

func TestW4EntriesThatClaimMuchAllocateLittle(t *testing.T) {
	for name, raw := range map[string][]byte{
		"data":       {0x93, 1, 5, 0x91, 0x92, 1, 0xc6, 0x10, 0, 0, 0},
		"entries":    {0x93, 1, 5, 0xdd, 0x10, 0, 0, 0},
		"fields":     {0xdd, 0x10, 0, 0, 0},
		"no groups":  append(slices.Concat(manyTerms(manyGroups+1)...), make([]byte, 1<<10)...),
		"long count": append(wire.AppendArrayLen([]byte{0x93, 1, 5}, 1<<16), make([]byte, 1<<16)...),
	} {
		require.Less(t, leastAllocated(func() {
			_, err := ParseEntries(5, raw)
			require.ErrorIs(t, err, ErrInvalidMessage)
		}), uint64(32<<10), name)
	}
}

// manyTerms returns n groups of one entry each, from index 5 on.
func manyTerms(n int) [][]byte {
	var groups [][]byte
	for i := range n {
		groups = append(groups, group(Term(i+1), Index(5+i), 1))
	}
	return groups
}

// A follower may miss a great many terms of a single no-op each. What is kept
// for them stays in proportion to the bytes that came.
func TestW4EntriesOfManyTerms(t *testing.T) {
	raw := slices.Concat(manyTerms(100_000)...)
	require.Less(t, leastAllocated(func() {
		e, err := ParseEntries(5, raw)
		require.NoError(t, err)
		require.Equal(t, 100_000, e.Len())
	}), uint64(8*len(raw)), "the race detector doubles it")
	e, err := ParseEntries(5, raw)
	require.NoError(t, err)
	encoded, err := e.AppendBinary(nil)
	require.NoError(t, err)
	require.True(t, bytes.Equal(raw, encoded))
}

func TestParseEntriesAllocatesForGroupsOnly(t *testing.T) {
	for _, count := range []int{1, 10_000} {
		raw := group(1, 5, count)
		require.Equal(t, 1.0, testing.AllocsPerRun(10, func() {
			if _, err := ParseEntries(5, raw); err != nil {
				panic(err)
			}
		}))
	}
}

func FuzzParseEntries(f *testing.F) {
	random := rand.New(rand.NewPCG(7, 8))
	for n := range 5 {
		raw, _ := randomEntries(random, 5, n).AppendBinary(nil)
		f.Add(uint64(5), raw)
	}
	f.Add(uint64(math.MaxUint64), group(1, math.MaxUint64, 1))
	f.Add(uint64(0), group(1, 0, 1))
	f.Fuzz(func(t *testing.T, first uint64, raw []byte) {
		e, err := ParseEntries(Index(first), raw)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalidMessage)
			return
		}
		requireUsable(t, e, Index(first))
	})
}
