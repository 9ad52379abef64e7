package raft

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMemoryStoragePassesTheCheck(t *testing.T) {
	s := NewMemoryStorage()
	require.NoError(t, CheckStorage(func() (Storage, error) { return s, nil }))
}

// closing is a storage that counts how often it was closed.
type closing struct {
	*MemoryStorage
	closed *int
}

func (s closing) Close() error { *s.closed++; return nil }

func TestCheckStorageClosesWhatItOpens(t *testing.T) {
	s, opened, closed := NewMemoryStorage(), 0, 0
	require.NoError(t, CheckStorage(func() (Storage, error) {
		require.Equal(t, opened, closed, "closed before it is opened again")
		opened++
		return closing{s, &closed}, nil
	}))
	require.Equal(t, opened, closed)
}

// broken is a MemoryStorage with one thing wrong.
type broken struct {
	*MemoryStorage
	load    func(s *MemoryStorage) (StorageState, error)
	save    func(s *MemoryStorage, batch SaveBatch) error
	entries func(s *MemoryStorage, first, last Index, maxBytes int) (Entries, error)
}

func (b broken) Load() (StorageState, error) {
	if b.load != nil {
		return b.load(b.MemoryStorage)
	}
	return b.MemoryStorage.Load()
}

func (b broken) Save(batch SaveBatch) error {
	if b.save != nil {
		return b.save(b.MemoryStorage, batch)
	}
	return b.MemoryStorage.Save(batch)
}

func (b broken) Entries(first, last Index, maxBytes int) (Entries, error) {
	if b.entries != nil {
		return b.entries(b.MemoryStorage, first, last, maxBytes)
	}
	return b.MemoryStorage.Entries(first, last, maxBytes)
}

// loading is a storage that changes what was loaded.
func loading(change func(s *StorageState)) broken {
	return broken{load: func(s *MemoryStorage) (StorageState, error) {
		state, err := s.Load()
		change(&state)
		return state, err
	}}
}

// saving is a storage that changes what is saved.
func saving(change func(s *MemoryStorage, batch *SaveBatch)) broken {
	return broken{save: func(s *MemoryStorage, batch SaveBatch) error {
		change(s, &batch)
		return s.Save(batch)
	}}
}

// refusing is a storage that does not take some batches.
func refusing(is func(s *MemoryStorage, batch SaveBatch) bool) broken {
	return broken{save: func(s *MemoryStorage, batch SaveBatch) error {
		if is(s, batch) {
			return errWrong
		}
		return s.Save(batch)
	}}
}

var errWrong = errors.New("wrong")

// changeLog makes something wrong while others may read.
func changeLog(s *MemoryStorage, change func(l *memoryLog)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.memoryLog)
}

// replaces reports whether a batch has the whole log forgotten.
func replaces(s *MemoryStorage, batch SaveBatch) bool {
	to := batch.Compacted
	return to.Index > s.compacted.Index && (to.Index > s.last() || s.term(to.Index) != to.Term)
}

// changing is a storage that loses or keeps a part of the hard state.
func changing(change func(state *HardState)) broken {
	return saving(func(_ *MemoryStorage, batch *SaveBatch) {
		if batch.HardState != nil {
			state := batch.HardState.clone()
			change(&state)
			batch.HardState = &state
		}
	})
}

// Each way to be wrong is found, and named.
func TestCheckStorageFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for words, storage := range map[string]broken{
		"after nothing: Load: want HardState.Term 0, got 1": loading(func(s *StorageState) { s.HardState.Term = max(1, s.HardState.Term) }),
		"Load: want HardState.VotedFor b, got ":             changing(func(state *HardState) { state.VotedFor = "" }),
		"Load: want HardState.ID a, got b":                  changing(func(state *HardState) { state.ID = "b" }),
		"Load: want HardState.Incarnation 184":              changing(func(state *HardState) { state.Incarnation &= math.MaxInt64 }),
		"Load: want HardState.Fingerprint [1 0":             changing(func(state *HardState) { state.Fingerprint[15] = 0 }),
		"Load: want HardState.Contacts [{b 7}":              changing(func(state *HardState) { state.Contacts = nil }),
		"Load: want HardState.Configurations [{1 [145":      changing(func(state *HardState) { state.Configurations = nil }),
		"Load: want HardState.Term 1, got 2":                changing(func(state *HardState) { state.Term++ }),
		"Load: want Commit 6, got 99": loading(func(s *StorageState) {
			if s.Commit == 6 {
				s.Commit = 99
			}
		}),
		"after Save of a commit index that is lower than before and a restart: Load: want Commit 4, got 3": saving(func(s *MemoryStorage, batch *SaveBatch) {
			if batch.Commit > 0 {
				s.commit = 0
			}
		}),
		"after Save of a commit index and a restart: Load: want Commit 4, got 2": saving(func(_ *MemoryStorage, batch *SaveBatch) {
			if batch.Entries.Len() == 0 {
				batch.Commit = 0
			}
		}),
		"Load: want Terms [{1 1} {2 2}], got [{1 1} {2 2} {4 2}]": loading(func(s *StorageState) {
			if s.Last == 4 {
				s.Terms = append(s.Terms, TermStart{4, 2})
			}
		}),
		"Load: want Last 1, got 0":                              loading(func(s *StorageState) { s.Last = 0 }),
		"after Save of a first batch: want no error, got wrong": {save: func(*MemoryStorage, SaveBatch) error { return errWrong }},
		"after Save of an entry in place of the last one: want no error, got wrong": {save: func(s *MemoryStorage, batch SaveBatch) error {
			if first := batch.Entries.First(); first > 0 && first <= s.last() {
				return errWrong
			}
			return s.Save(batch)
		}},
		"after Save of an entry in place of four: Entries(11, 11): want an error, since the last entry is 10, got none": {save: func(s *MemoryStorage, batch SaveBatch) error {
			first, last := batch.Entries.First(), batch.Entries.last()
			rest := Entries{s.runs}.from(last+1, math.MaxInt)
			err := s.Save(batch)
			if first > 0 && rest.Len() > 1 {
				s.runs = append(s.runs, rest.runs...) // only what was overwritten is gone
			}
			return err
		}},
		"after Save of entry 14 behind entry 12: want an error, got none": {save: func(s *MemoryStorage, batch SaveBatch) error {
			if batch.Entries.First() > s.last()+1 {
				return nil
			}
			return s.Save(batch)
		}},
		"and a restart: Load: want HardState.Term 9, got 99": {save: func(s *MemoryStorage, batch SaveBatch) error {
			if batch.HardState != nil {
				s.hardState = *batch.HardState // though the batch may be refused
			}
			return s.Save(batch)
		}},
		"Entries(1, 1, 1048576): want one entry at least, got none": {entries: func(s *MemoryStorage, first, last Index, maxBytes int) (Entries, error) {
			if last == 1 {
				return Entries{}, nil
			}
			return s.Entries(first, last, maxBytes)
		}},
		"want one entry at least, got none": {entries: func(s *MemoryStorage, first, last Index, maxBytes int) (Entries, error) {
			entries, err := s.Entries(first, last, maxBytes)
			if entries.Size() > maxBytes {
				return Entries{}, err
			}
			return entries, err
		}},
		"want at most 0 bytes, got": {entries: func(s *MemoryStorage, first, last Index, _ int) (Entries, error) {
			return s.Entries(first, last, 1<<20)
		}},
		": want nothing behind entry ": {entries: func(s *MemoryStorage, first, _ Index, maxBytes int) (Entries, error) {
			return s.Entries(first, max(first, loaded(s).Last), maxBytes)
		}},
		"want an error other than ErrCompacted": {entries: func(s *MemoryStorage, first, last Index, maxBytes int) (Entries, error) {
			if first == 0 {
				return Entries{}, ErrCompacted
			}
			return s.Entries(first, last, maxBytes)
		}},
		"Entries(1, 13) of a log from 1 to 12: want an error other than ErrCompacted, got": {entries: func(s *MemoryStorage, first, last Index, maxBytes int) (Entries, error) {
			return s.Entries(first, min(max(first, last), max(first, loaded(s).Last)), maxBytes)
		}},
		"after Save while Entries runs: ": {entries: func(s *MemoryStorage, first, last Index, maxBytes int) (Entries, error) {
			if loaded(s).Last > 2030 && first < 2000 && maxBytes < 1<<20 {
				return Entries{}, errWrong
			}
			return s.Entries(first, last, maxBytes)
		}},
		"after Save of Compacted 1: Entries(1, 1): want ErrCompacted, got <nil>": saving(func(_ *MemoryStorage, batch *SaveBatch) { batch.Compacted = EntryID{} }),
		"after Save of Compacted 1: Entries(1, 1): want ErrCompacted, got wrong": {entries: func(s *MemoryStorage, first, last Index, maxBytes int) (Entries, error) {
			entries, err := s.Entries(first, last, maxBytes)
			if errors.Is(err, ErrCompacted) {
				err = errWrong
			}
			return entries, err
		}},
		"Load: want Compacted {1 1}, got {1 0}": loading(func(s *StorageState) { s.Compacted.Term = 0 }),
		"after Save of Compacted 1: Entries(2,": saving(func(s *MemoryStorage, batch *SaveBatch) {
			if to := &batch.Compacted; to.Index > 0 {
				*to = EntryID{to.Index + 1, s.term(to.Index + 1)}
			}
		}),
		"after Save of Compacted 1: Entries(2, 2156, 1048576): want entries, got the error": {save: func(s *MemoryStorage, batch SaveBatch) error {
			err := s.Save(batch)
			if batch.Compacted.Index == s.compacted.Index && batch.Compacted.Index > 0 {
				changeLog(s, func(l *memoryLog) { l.runs = nil })
			}
			return err
		}},
		"after Save of Compacted 5: want no error, got wrong": refusing(func(s *MemoryStorage, batch SaveBatch) bool {
			return batch.Compacted.Index > 0 && batch.Compacted.Index == s.compacted.Index
		}),
		"after Save of Compacted 2 and a restart: Load: want Compacted {5 3}, got {2 2}": {save: func(s *MemoryStorage, batch SaveBatch) error {
			err := s.Save(batch)
			if batch.Compacted.Index > 0 {
				changeLog(s, func(l *memoryLog) { l.compacted = batch.Compacted })
			}
			return err
		}},
		"after Save of entries and a Compacted of before: want no error, got": saving(func(s *MemoryStorage, batch *SaveBatch) {
			if to := batch.Compacted; to.Index > 0 && to.Index <= s.compacted.Index && to.Term != s.compacted.Term {
				changeLog(s, func(l *memoryLog) { l.runs = nil })
			}
		}),
		"after Save of entries and a Compacted of before: Entries(": {save: func(s *MemoryStorage, batch SaveBatch) error {
			if to := batch.Compacted; to.Index > 0 && to.Index < s.compacted.Index {
				return nil
			}
			return s.Save(batch)
		}},
		"after Save of Compacted 405 while Entries runs: ": {entries: func(s *MemoryStorage, first, last Index, maxBytes int) (Entries, error) {
			if loaded(s).Compacted.Index > 0 && first > 405 && maxBytes < 1<<20 {
				return Entries{}, errWrong
			}
			return s.Entries(first, last, maxBytes)
		}},
		"after Save of all there is, with entries behind the last one and a restart: Load: want HardState.VotedFor c, got ": saving(func(s *MemoryStorage, batch *SaveBatch) {
			if batch.Compacted.Index > s.compacted.Index {
				batch.HardState = nil
			}
		}),
		"after Save of all there is, with entries behind the last one: Entries(": saving(func(s *MemoryStorage, batch *SaveBatch) {
			if batch.Compacted.Index > s.compacted.Index {
				batch.Entries = Entries{}
			}
		}),
		"after Save of a Compacted beyond the commit index: want no error, got wrong": refusing(func(s *MemoryStorage, batch SaveBatch) bool {
			return batch.Compacted.Index > s.commit
		}),
		"after Save of a Compacted beyond the commit index and a restart: Load: want Commit 2144, got 2142": {save: func(s *MemoryStorage, batch SaveBatch) error {
			commit := max(s.commit, batch.Commit)
			err := s.Save(batch)
			s.commit = min(s.commit, commit)
			return err
		}},
		"after Save of a Compacted with entries in place of others: want no error, got wrong": refusing(func(s *MemoryStorage, batch SaveBatch) bool {
			return batch.Compacted.Index > s.compacted.Index && batch.Entries.First() > 0 && batch.Entries.First() <= s.last()
		}),
		"after Save of a Compacted with entries in place of all the others: want no error, got wrong": refusing(func(s *MemoryStorage, batch SaveBatch) bool {
			return batch.Compacted.Index > s.compacted.Index && batch.Entries.First() == batch.Compacted.Index+1
		}),
		"after Save of Compacted 2148: want no error, got wrong": refusing(func(s *MemoryStorage, batch SaveBatch) bool {
			return batch.Compacted.Index > s.compacted.Index && batch.Compacted.Index == s.last()
		}),
		"after Save of a Compacted behind the last entry: want no error, got wrong": refusing(func(s *MemoryStorage, batch SaveBatch) bool {
			return batch.Compacted.Index > s.last()
		}),
		"after Save of a Compacted behind the last entry and a restart: Load: want Compacted {": saving(func(s *MemoryStorage, batch *SaveBatch) {
			if batch.Compacted.Index > s.last() {
				batch.Compacted = EntryID{s.last(), s.term(s.last())}
			}
		}),
		"after Save of a Compacted of another term: want no error, got wrong": refusing(func(s *MemoryStorage, batch SaveBatch) bool {
			return replaces(s, batch) && batch.Compacted.Index <= s.last()
		}),
		"after Save of a Compacted of another term: Entries(2168, 2168): want an error": {save: func(s *MemoryStorage, batch SaveBatch) error {
			tail := Entries{s.runs}.from(batch.Compacted.Index+1, math.MaxInt)
			kept := replaces(s, batch) && tail.Len() > 0
			err := s.Save(batch)
			if kept {
				changeLog(s, func(l *memoryLog) { l.runs = tail.runs })
			}
			return err
		}},
		"after Save of a Compacted of another term and a restart: Load: want Commit ": {save: func(s *MemoryStorage, batch SaveBatch) error {
			commit := min(batch.Commit, s.last())
			err := s.Save(batch)
			s.commit = max(s.commit, commit) // as far as the log went before
			return err
		}},
		"after Save of a Compacted of another term for the last entry and a restart: Load: want Compacted {": saving(func(s *MemoryStorage, batch *SaveBatch) {
			if replaces(s, *batch) && batch.Compacted.Index == s.last() {
				batch.Compacted.Term = s.term(s.last())
			}
		}),
		"after Save of all there is, with a Compacted of another term: want no error, got wrong": refusing(func(s *MemoryStorage, batch SaveBatch) bool {
			return replaces(s, batch) && batch.Compacted.Index <= s.last() && batch.Entries.Len() > 0
		}),
		"after Save of all there is, with a Compacted behind the last entry: want no error, got wrong": refusing(func(s *MemoryStorage, batch SaveBatch) bool {
			return batch.Compacted.Index > s.last() && batch.Entries.Len() > 0
		}),
		"after Save of all there is, with a Compacted behind the last entry: Entries(": saving(func(s *MemoryStorage, batch *SaveBatch) {
			if batch.Compacted.Index > s.last() {
				batch.Entries = Entries{}
			}
		}),
		"after Save of a Compacted behind the last entry while Entries runs: ": {entries: func(s *MemoryStorage, first, last Index, maxBytes int) (Entries, error) {
			if loaded(s).HardState.Term == 20 && maxBytes < 1<<20 {
				return Entries{}, errWrong
			}
			return s.Entries(first, last, maxBytes)
		}},
		"after Save of a Compacted of another term for a committed entry: want an error, got none": {save: func(s *MemoryStorage, batch SaveBatch) error {
			if replaces(s, batch) && batch.Compacted.Index <= s.commit {
				return nil
			}
			return s.Save(batch)
		}},
		"after Save of an entry that is compacted in the same batch: want an error, got none": {save: func(s *MemoryStorage, batch SaveBatch) error {
			if first := batch.Entries.First(); first > 0 && first <= batch.Compacted.Index {
				return nil
			}
			return s.Save(batch)
		}},
		"after Save of a Compacted of another term with entries that go on behind the last one: want an error, got none": {save: func(s *MemoryStorage, batch SaveBatch) error {
			if batch.Entries.First() > batch.Compacted.Index+1 {
				batch.Compacted = EntryID{}
			}
			return s.Save(batch)
		}},
		"after Save of a Compacted behind the last entry with entries that do not go on there and a restart: Load: want Compacted {": {save: func(s *MemoryStorage, batch SaveBatch) error {
			if batch.Compacted.Index > s.last() {
				changeLog(s, func(l *memoryLog) { _ = l.compact(batch.Compacted) }) // though the batch may be refused
			}
			return s.Save(batch)
		}},
	} {
		s := storage
		s.MemoryStorage = NewMemoryStorage()
		err := CheckStorage(func() (Storage, error) { return s, nil })
		assert.ErrorContains(t, err, words)
	}
	require.ErrorContains(t, CheckStorage(func() (Storage, error) { return nil, errWrong }), "it cannot be opened: wrong")
	require.ErrorContains(t, CheckStorage(func() (Storage, error) { return NewMemoryStorage(), nil }), "after Save of a first batch and a restart: Load: want HardState.ID a, got ")
	s := broken{load: func(*MemoryStorage) (StorageState, error) { return StorageState{}, errWrong }}
	require.ErrorContains(t, CheckStorage(func() (Storage, error) { return s, nil }), "Load: want no error, got wrong")
}
