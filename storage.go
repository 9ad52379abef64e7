package raft

import (
	"fmt"
	"math"
	"slices"
	"sync"
)

// Storage keeps what a node must not forget: term, vote, log. A Storage serves
// one node at a time. An error of any method stops the node with that error,
// but for [ErrCompacted]; a call that failed is never made again.
//
// The node calls Load before anything else. Then Save and Compact come from one
// goroutine, and Entries from several others, also while Save or Compact runs.
// Whatever is passed and returned is immutable: neither side changes it later.
//
// [CheckStorage] checks an implementation.
type Storage interface {
	// Load returns what was saved, the zero value if nothing ever was.
	Load() (StorageState, error)

	// Save makes a batch durable, all of it or nothing, before it returns.
	Save(batch SaveBatch) error

	// Entries returns entries from first up to last, in order: as many as fit
	// into maxBytes, counted like [Entries.Size], or fewer, and one at least. The
	// error matches [ErrCompacted] if first is not kept any more. A range that is
	// empty, or reaches beyond what was saved, is an error as well.
	Entries(first, last Index, maxBytes int) (Entries, error)

	// Compact forgets the entries up to an index, durably. The commit index is
	// at least as high. An index that was forgotten before changes nothing.
	Compact(index Index) error
}

// StorageState is what a Storage keeps, but for the entries, of which it tells
// only where they are.
type StorageState struct {
	HardState HardState
	Commit    Index       // the last one saved; at most Last
	Compacted EntryID     // the entry before the first one that is kept; zero: all are kept
	Last      Index       // the last entry; Compacted.Index if none is kept
	Terms     []TermStart // where each term of the kept entries starts, in order
}

// check reports whether the state fits together.
func (s StorageState) check() error {
	next, term := s.Compacted.Index+1, s.Compacted.Term
	for i, start := range s.Terms {
		if i == 0 && start.First != next || start.First < next || start.First > s.Last || start.Term < term || i > 0 && start.Term == term {
			return fmt.Errorf("term %d starts at entry %d of a log from %d to %d, behind term %d", start.Term, start.First, s.Compacted.Index+1, s.Last, term)
		}
		next, term = start.First+1, start.Term
	}
	switch {
	case s.Last != s.Compacted.Index && len(s.Terms) == 0 || s.Last < s.Compacted.Index:
		return fmt.Errorf("a log from %d to %d has terms %v", s.Compacted.Index+1, s.Last, s.Terms)
	case s.Commit > s.Last || s.Commit < s.Compacted.Index:
		return fmt.Errorf("a commit index of %d is beside a log from %d to %d", s.Commit, s.Compacted.Index+1, s.Last)
	case term > s.HardState.Term:
		return fmt.Errorf("a log that ends in term %d is beside a hard state of term %d", term, s.HardState.Term)
	}
	return nil
}

// EntryID names an entry: no two entries of a cluster have both in common.
type EntryID struct {
	Index Index
	Term  Term
}

// TermStart says that entries from First on are of a term, up to where the next
// one starts.
type TermStart struct {
	First Index
	Term  Term
}

// SaveBatch is what one Save makes durable.
type SaveBatch struct {
	HardState *HardState // nil: as before
	// Commit is known to be committed; never falls. What is less than was
	// saved before, or more than the last index, counts only that far.
	Commit Index
	// Entries replace whatever the log holds from Entries.First() on, which is
	// at most one beyond the last entry, and never committed. Empty: the log
	// stays as it is.
	Entries Entries
}

// HardState is a node's memory of its promises, always saved as one (thesis
// §3.4: term and vote), and of who it is dealing with.
type HardState struct {
	ID          NodeID // whose storage this is
	Term        Term
	VotedFor    NodeID   // in Term; empty: nobody
	Incarnation uint64   // of this storage; never 0 once something was saved
	Fingerprint [16]byte // of the cluster
	Contacts    []Contact
	// Configuration is the one in force, so that nobody needs to look for it in
	// the log.
	Configuration ConfigurationEntry
}

// Contact is the incarnation in which a peer was first met.
type Contact struct {
	ID          NodeID
	Incarnation uint64
}

// ConfigurationEntry is an entry of kind [EntryConfiguration].
type ConfigurationEntry struct {
	Index Index
	Data  []byte
}

// MemoryStorage is a [Storage] in memory: for tests, and for clusters whose
// data may vanish with their processes. It keeps only what was saved, so a node
// that is made again with the MemoryStorage of a stopped one goes on where
// that was.
type MemoryStorage struct {
	mu        sync.Mutex
	hardState HardState
	commit    Index
	compacted EntryID
	runs      []run // the elements below len are never overwritten: readers share them
}

// NewMemoryStorage returns an empty MemoryStorage.
func NewMemoryStorage() *MemoryStorage { return new(MemoryStorage) }

// Load returns what was saved.
func (s *MemoryStorage) Load() (StorageState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := StorageState{HardState: s.hardState.clone(), Commit: s.commit, Compacted: s.compacted, Last: s.last()}
	state.Terms = Entries{s.runs}.terms()
	return state, nil
}

// Save keeps the batch. It returns [ErrInvalidMessage] for entries that do not
// continue the log, or that would replace committed ones.
func (s *MemoryStorage) Save(batch SaveBatch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := batch.Entries.First(); first > 0 {
		if first <= max(s.commit, s.compacted.Index) || first > s.last()+1 {
			return fmt.Errorf("%w: entries at %d do not continue a log that ends at %d and is committed up to %d", ErrInvalidMessage, first, s.last(), s.commit)
		}
		if first <= s.last() {
			s.runs = Entries{s.runs}.upTo(first - 1).runs // clipped: the next append copies
		}
		s.runs = append(s.runs, batch.Entries.runs...)
	}
	if batch.HardState != nil {
		s.hardState = batch.HardState.clone()
	}
	s.commit = max(s.commit, min(batch.Commit, s.last()))
	return nil
}

// Entries returns entries from first up to last.
func (s *MemoryStorage) Entries(first, last Index, maxBytes int) (Entries, error) {
	s.mu.Lock()
	runs, compacted, end := s.runs, s.compacted.Index, s.last()
	s.mu.Unlock()
	switch {
	case first <= compacted && first > 0:
		return Entries{}, fmt.Errorf("%w: entry %d of a log that starts at %d", ErrCompacted, first, compacted+1)
	case first == 0 || first > last || last > end:
		return Entries{}, fmt.Errorf("raft: entries %d to %d of a log from %d to %d", first, last, compacted+1, end)
	}
	return Entries{runs}.from(first, maxBytes).upTo(last), nil
}

// Compact forgets the entries up to an index. It returns [ErrInvalidMessage]
// for one that is not committed.
func (s *MemoryStorage) Compact(index Index) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case index <= s.compacted.Index:
		return nil
	case index > s.commit:
		return fmt.Errorf("%w: entry %d to forget of a log that is committed up to %d", ErrInvalidMessage, index, s.commit)
	}
	term := s.runs[Entries{s.runs}.position(index)].term
	s.runs = slices.Clone(Entries{s.runs}.from(index+1, math.MaxInt).runs) // the old ones become free
	s.compacted = EntryID{index, term}
	return nil
}

func (s *MemoryStorage) last() Index { return max(s.compacted.Index, Entries{s.runs}.last()) }

func (h HardState) clone() HardState {
	h.Contacts = slices.Clone(h.Contacts)
	return h
}
