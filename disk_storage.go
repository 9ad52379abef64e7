package raft

import (
	"errors"
	"fmt"

	"github.com/seed-8da499c8/raft/internal/snapshot"
	"github.com/seed-8da499c8/raft/internal/vfs"
	"github.com/seed-8da499c8/raft/internal/wal"
	"github.com/seed-8da499c8/raft/internal/wire"
)

// diskStorage is the [Storage] in a node's data directory: a log of internal/wal
// whose state is the hard state.
type diskStorage struct {
	log       *wal.Log
	dir       string
	snapshots *SnapshotStore

	// Reused by Save.
	state []byte
	runs  []wal.Run
}

// openDiskStorage opens a directory, which it makes if need be, and locks it
// until Close.
func openDiskStorage(fs vfs.FS, dir string, options wal.Options) (*diskStorage, error) {
	log, _, err := wal.Open(fs, dir, options)
	if err != nil {
		return nil, diskError(err)
	}
	snapshots := &SnapshotStore{fs: fs, dir: dir + "/snapshots", options: snapshot.Options{Random: options.Random}}
	return &diskStorage{log: log, dir: dir, snapshots: snapshots}, nil
}

// Snapshots returns the store in the data directory.
func (s *diskStorage) Snapshots() *SnapshotStore { return s.snapshots }

// diskError gives an error of internal/wal the type that users know.
func diskError(err error) error {
	if err == nil {
		return nil // nothing is allocated for it
	}
	var corrupt *wal.CorruptError
	switch {
	case errors.As(err, &corrupt):
		return &CorruptError{corrupt.File, corrupt.Offset, corrupt.Reason}
	case errors.Is(err, vfs.ErrLocked):
		return fmt.Errorf("%w: %w", ErrDataDirInUse, err)
	case errors.Is(err, wal.ErrNoLog):
		return fmt.Errorf("%w: %w", ErrNoData, err)
	case errors.Is(err, wal.ErrCompacted):
		return fmt.Errorf("%w: %w", ErrCompacted, err)
	default:
		return err
	}
}

// Load returns what is durable.
func (s *diskStorage) Load() (StorageState, error) {
	c := s.log.Contents()
	state := StorageState{
		Commit:    Index(c.Commit),
		Compacted: EntryID{Index(c.Compacted.Index), Term(c.Compacted.Term)},
		Last:      Index(c.Last.Index),
	}
	for _, t := range c.Terms {
		state.Terms = append(state.Terms, TermStart{Index(t.First), Term(t.Term)})
	}
	if c.State == nil {
		return state, nil
	}
	if err := state.HardState.unmarshal(c.State); err != nil {
		return StorageState{}, &CorruptError{File: s.dir, Reason: fmt.Sprintf("its hard state cannot be read: %v", err)}
	}
	return state, nil
}

// Save appends a batch to the log.
func (s *diskStorage) Save(batch SaveBatch) error {
	b := wal.Batch{
		Compact: wal.Position{Index: uint64(batch.Compacted.Index), Term: uint64(batch.Compacted.Term)},
		Runs:    s.runs[:0],
		Commit:  uint64(batch.Commit),
	}
	if batch.HardState != nil {
		var err error
		if s.state, err = batch.HardState.marshal(s.state[:0]); err != nil {
			return err
		}
		b.State = s.state
	}
	for _, r := range batch.Entries.runs {
		b.Runs = append(b.Runs, wal.Run{Term: uint64(r.term), First: uint64(r.first), Count: r.count, Body: r.body, Sum: r.sum, Summed: r.known})
	}
	err := s.log.Append(b)
	clear(b.Runs) // the bodies are the log's in memory, and may leave it
	s.runs = b.Runs[:0]
	return diskError(err)
}

// Entries reads entries.
func (s *diskStorage) Entries(first, last Index, maxBytes int) (Entries, error) {
	if first == 0 {
		return Entries{}, fmt.Errorf("raft: entries %d to %d of a log, which starts at 1", first, last)
	}
	runs, err := s.log.Read(uint64(first), uint64(last), maxBytes)
	if err != nil {
		return Entries{}, diskError(err)
	}
	e := Entries{make([]run, 0, len(runs))}
	for _, r := range runs {
		body, err := bodyOf(r)
		if err != nil {
			return Entries{}, &CorruptError{File: s.dir, Reason: fmt.Sprintf("entries %d to %d cannot be read: %v", r.First, r.First+uint64(r.Count)-1, err)}
		}
		e.runs = append(e.runs, run{term: Term(r.Term), first: Index(r.First), count: r.Count, body: body})
	}
	return e.from(first, maxBytes).upTo(last), nil
}

// bodyOf returns the bytes of the entries of a run that are in force. It checks
// that they are entries, since nobody looks again.
func bodyOf(r wal.Run) ([]byte, error) {
	reader := wire.NewReader(r.Body)
	body := parseBody(&reader, r.Count)
	if r.Count == r.Total && len(reader.Rest()) > 0 {
		reader.Fail("bytes behind the last entry")
	}
	return body, reader.Err()
}

// Close marks the log as complete and lets go of the directory.
func (s *diskStorage) Close() error { return diskError(s.log.Close()) }

// abandon lets go of the directory and leaves the files as they are.
func (s *diskStorage) abandon() error { return diskError(s.log.Abandon()) }

// marshal appends the hard state to dst, in the form of messages.
func (h *HardState) marshal(dst []byte) ([]byte, error) {
	c := appending(dst, "HardState")
	h.fields(&c)
	return c.appended()
}

// unmarshal reads what marshal wrote. It copies what it keeps.
func (h *HardState) unmarshal(data []byte) error {
	c := reading(append([]byte(nil), data...), "HardState")
	h.fields(&c)
	return c.done()
}

func (h *HardState) fields(c *codec) {
	c.member(&h.ID)
	number(c, &h.Term)
	c.node(&h.VotedFor)
	number(c, &h.Incarnation)
	c.fingerprint(&h.Fingerprint)
	c.contacts(&h.Contacts)
	// The last configuration, and those before it, which most have none of.
	var present ConfigurationEntry
	var earlier []ConfigurationEntry
	if n := len(h.Configurations); n > 0 {
		present, earlier = h.Configurations[n-1], h.Configurations[:n-1]
	}
	number(c, &present.Index)
	c.bytes(&present.Data)
	if len(earlier) > 0 || h.Joined || c.reading && c.left > 0 {
		c.configurations(&earlier)
	}
	if h.Joined || c.reading && c.left > 0 {
		c.flag(&h.Joined)
	}
	if c.reading && present.Index > 0 {
		h.Configurations = append(earlier, present)
	}
}
