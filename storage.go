package raft

import (
	"slices"
	"sync"
)

// Storage keeps what a node must not forget: term, vote, log. The node calls
// Load once, before anything else, and Save from one goroutine. An error from
// either stops the node with that error; it is never retried. A Storage serves
// one node at a time, and is not closed by it.
type Storage interface {
	// Load returns what was saved, the zero value if nothing ever was.
	Load() (StorageState, error)

	// Save makes a batch durable, all of it or nothing, before it returns.
	Save(batch SaveBatch) error
}

// StorageState is everything that a Storage keeps.
type StorageState struct {
	HardState HardState
	Commit    Index // the last one saved; at most the last index
	Entries   Entries
}

// SaveBatch is what one Save makes durable.
type SaveBatch struct {
	HardState *HardState // nil: as before
	Commit    Index      // known to be committed; never falls
	// Entries replace whatever the log holds from Entries.First() on. Empty:
	// the log stays as it is.
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
}

// Contact is the incarnation in which a peer was first met.
type Contact struct {
	ID          NodeID
	Incarnation uint64
}

// MemoryStorage is a [Storage] in memory: for tests, and for clusters whose
// data may vanish with their processes. It keeps only what was saved, so a node
// that is made again with the MemoryStorage of a stopped one goes on where
// that was.
type MemoryStorage struct {
	mu    sync.Mutex
	state StorageState
}

// NewMemoryStorage returns an empty MemoryStorage.
func NewMemoryStorage() *MemoryStorage { return new(MemoryStorage) }

// Load returns what was saved.
func (s *MemoryStorage) Load() (StorageState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.state
	state.HardState.Contacts = slices.Clone(state.HardState.Contacts)
	state.Entries.runs = slices.Clone(state.Entries.runs)
	return state, nil
}

// Save keeps the batch. It returns [ErrInvalidMessage] for entries that do not
// continue the log.
func (s *MemoryStorage) Save(batch SaveBatch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := raftLog{runs: s.state.Entries.runs}
	if batch.Entries.Len() > 0 {
		if err := log.replaceFrom(batch.Entries); err != nil {
			return err
		}
	}
	s.state.Entries = Entries{log.runs}
	if batch.HardState != nil {
		s.state.HardState = *batch.HardState
		s.state.HardState.Contacts = slices.Clone(batch.HardState.Contacts)
	}
	s.state.Commit = max(s.state.Commit, min(batch.Commit, log.last()))
	return nil
}
