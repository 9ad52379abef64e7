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
// The node calls Load before anything else. Then Save comes from one goroutine,
// and Entries from several others, also while Save runs. Whatever is passed and returned is immutable: neither side changes it later.
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

	// Snapshots returns where the node keeps snapshots, always the same: made by
	// [NewSnapshotStore] or [NewMemorySnapshotStore].
	Snapshots() *SnapshotStore
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

// SaveBatch is what one Save makes durable. Its parts take effect in this order.
// One that does not fit the log is an error and changes nothing.
type SaveBatch struct {
	HardState *HardState // nil: as before
	// Compacted is what the log starts behind from now on: the entries up to it
	// are forgotten, and the commit index is at least as high. If the log has no
	// entry of that index and term, since it ends before, or has another one
	// there, which is never committed, all of it is forgotten: a snapshot takes
	// its place. Zero, or not above what was forgotten before: as before.
	Compacted EntryID
	// Entries replace whatever the log now holds from Entries.First() on, which
	// is at most one beyond the last entry, and never committed. So where a
	// snapshot has just taken the place of the log, they start right behind
	// Compacted. Empty: the log stays as it is.
	Entries Entries
	// Commit is known to be committed; never falls. What is less than was
	// saved before, or more than the last index, counts only that far.
	Commit Index
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
	Joined      bool // it began as that of a node that waits to be added, see Config.Join
	// Configurations are the one in force, which is the last, and those before it
	// that entries or snapshots of this storage may still need, so that nobody has
	// to look for them in the log. Those of entries that the log does not hold are
	// not in force.
	Configurations []ConfigurationEntry
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
	memoryLog
	snapshots *SnapshotStore
}

// NewMemoryStorage returns an empty MemoryStorage.
func NewMemoryStorage() *MemoryStorage {
	return &MemoryStorage{snapshots: NewMemorySnapshotStore()}
}

// Snapshots returns a store that is in memory as well.
func (s *MemoryStorage) Snapshots() *SnapshotStore { return s.snapshots }

// Load returns what was saved.
func (s *MemoryStorage) Load() (StorageState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := StorageState{HardState: s.hardState.clone(), Commit: s.commit, Compacted: s.compacted, Last: s.last()}
	state.Terms = Entries{s.runs}.terms()
	return state, nil
}

// Save keeps the batch. It returns [ErrInvalidMessage] for one that does not fit
// the log: entries behind a gap, or what is in conflict with committed ones.
func (s *MemoryStorage) Save(batch SaveBatch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.memoryLog
	if err := log.compact(batch.Compacted); err != nil {
		return err
	}
	if err := log.append(batch.Entries); err != nil {
		return err
	}
	log.commit = max(log.commit, min(batch.Commit, log.last()))
	s.memoryLog = log
	if batch.HardState != nil {
		s.hardState = batch.HardState.clone()
	}
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

// memoryLog is the log of a MemoryStorage. Changing one does not change its
// copies.
type memoryLog struct {
	commit    Index
	compacted EntryID
	runs      []run // the elements below len are never overwritten: readers share them
}

// compact does to the log what [SaveBatch] says of Compacted.
func (l *memoryLog) compact(to EntryID) error {
	if to.Index <= l.compacted.Index {
		return nil
	}
	switch has := to.Index <= l.last() && l.term(to.Index) == to.Term; {
	case has:
		l.runs = slices.Clone(Entries{l.runs}.from(to.Index+1, math.MaxInt).runs) // the old ones become free
	case to.Index <= l.commit:
		return fmt.Errorf("%w: a log that is committed up to %d has no entry %d of term %d to start behind", ErrInvalidMessage, l.commit, to.Index, to.Term)
	default:
		l.runs = nil
	}
	l.compacted = to
	l.commit = max(l.commit, to.Index)
	return nil
}

// append does to the log what [SaveBatch] says of Entries.
func (l *memoryLog) append(entries Entries) error {
	first := entries.First()
	if first == 0 {
		return nil
	}
	if first <= l.commit || first > l.last()+1 {
		return fmt.Errorf("%w: entries at %d do not continue a log that ends at %d and is committed up to %d", ErrInvalidMessage, first, l.last(), l.commit)
	}
	if first <= l.last() {
		l.runs = Entries{l.runs}.upTo(first - 1).runs // clipped: the next append copies
	}
	l.runs = append(l.runs, entries.runs...)
	return nil
}

func (l *memoryLog) last() Index { return max(l.compacted.Index, Entries{l.runs}.last()) }

// term returns the term of an entry that the log has.
func (l *memoryLog) term(index Index) Term { return l.runs[Entries{l.runs}.position(index)].term }

func (h HardState) clone() HardState {
	h.Contacts, h.Configurations = slices.Clone(h.Contacts), slices.Clone(h.Configurations)
	return h
}
