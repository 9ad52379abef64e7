package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"path/filepath"
	"runtime/debug"
	"sync"

	"github.com/seed-8da499c8/raft/internal/snapshot"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// SnapshotStore keeps a node's snapshots: the newest two, each a file of checksummed
// chunks, and one that is being received. It serves one node at a time, which checks
// each before use. What is in the files is the node's business; a [Storage] only
// says where they are.
type SnapshotStore struct {
	fs      vfs.FS
	dir     string
	options snapshot.Options
	files   *snapshot.Store

	mu      sync.Mutex
	sending map[NodeID]*snapshot.Raw // being sent to a peer: whole even if newer ones have taken its place
}

// NewSnapshotStore returns a store in a directory, which nobody else may use. The
// node makes it if need be.
func NewSnapshotStore(dir string) *SnapshotStore {
	return &SnapshotStore{fs: vfs.OS(), dir: filepath.ToSlash(dir)}
}

// NewMemorySnapshotStore returns a store in memory, for tests.
func NewMemorySnapshotStore() *SnapshotStore {
	fs := vfs.NewMemory()
	fs.SetCapacity(4 << 30) // a peer may announce any size
	return &SnapshotStore{fs: fs, dir: "snapshots"}
}

// open finds out what there is.
func (s *SnapshotStore) open(fingerprint [16]byte) (err error) {
	s.sending = map[NodeID]*snapshot.Raw{}
	s.options.Fingerprint = fingerprint
	s.files, err = snapshot.Open(s.fs, s.dir, s.options)
	return diskError(err)
}

// join tells the store the fingerprint of the cluster that its node has joined. Until
// then it holds nothing, and nobody uses it.
func (s *SnapshotStore) join(fingerprint [16]byte) {
	s.options.Fingerprint = fingerprint
	s.files.Join(fingerprint)
}

// clean removes what a process has left behind that ended in the middle of something.
func (s *SnapshotStore) clean() error { return diskError(s.files.Clean()) }

// close lets go of the files that are kept open to be sent.
func (s *SnapshotStore) close() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, raw := range s.sending {
		err = errors.Join(err, raw.Close())
	}
	clear(s.sending)
	return err
}

// newest returns the newest snapshot that a node can start with, whose log starts
// behind an entry; nil: there is none. It reads the whole file. A damaged one is
// passed over if the log goes on behind an older one, or holds everything.
func (s *SnapshotStore) newest(ctx context.Context, compacted Index) (*SnapshotMetadata, uint64, error) {
	var damage error
	for _, info := range s.files.List() {
		if Index(info.Index) < compacted {
			break
		}
		err := info.Err
		if err == nil {
			err = s.files.Verify(ctx, info.ID)
		}
		var corrupt *vfs.CorruptError
		switch {
		case errors.As(err, &corrupt):
			damage = errors.Join(damage, diskError(err))
			continue
		case err != nil:
			return nil, 0, err
		}
		metadata, err := s.metadata(info.ID)
		if err != nil {
			return nil, 0, err
		}
		return &metadata, uint64(info.Size), nil
	}
	if compacted == 0 {
		return nil, 0, nil
	}
	return nil, 0, damage
}

// metadata reads what a snapshot is of.
func (s *SnapshotStore) metadata(id snapshot.ID) (SnapshotMetadata, error) {
	reader, err := s.files.Open(id)
	if err != nil {
		return SnapshotMetadata{}, diskError(err)
	}
	m := SnapshotMetadata{EntryID: EntryID{Index(id.Index), Term(id.Term)}}
	if err := m.unmarshal(reader.Metadata()); err != nil {
		err = &CorruptError{File: s.dir, Reason: fmt.Sprintf("the snapshot of %v: its metadata cannot be read: %v", id, err)}
		return SnapshotMetadata{}, errors.Join(err, reader.Close())
	}
	return m, reader.Close()
}

// snapshotJob is a state to be written.
type snapshotJob struct {
	metadata SnapshotMetadata
	view     SnapshotView // nil if there is none
}

// writeTo has the view write its state, and closes it. A panic of it is an error,
// which stops nothing: the state machine itself is as it was.
func (j snapshotJob) writeTo(ctx context.Context, w io.Writer) (err error) {
	defer func() { err = errors.Join(err, j.close()) }()
	defer viewPanicked(&err)
	return j.view.WriteTo(ctx, w)
}

func (j snapshotJob) close() (err error) {
	defer viewPanicked(&err)
	return j.view.Close()
}

func viewPanicked(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the view of the state machine panicked: %v\n%s", p, debug.Stack())
	}
}

// write writes a snapshot and makes it durable.
func (s *SnapshotStore) write(ctx context.Context, job snapshotJob) (e snapshotWritten) {
	e.id = job.metadata.EntryID
	w, err := s.create(job.metadata)
	if err != nil {
		e.err = errors.Join(err, job.close())
	} else {
		defer w.Abort() // unless it is complete
		if e.err = job.writeTo(ctx, w); e.err == nil {
			var info snapshot.Info
			info, e.err = w.Commit()
			e.size = uint64(info.Size)
		}
	}
	if errors.Is(e.err, snapshot.ErrNotNewer) {
		e.newest = s.newestWhole()
	}
	return e
}

func (s *SnapshotStore) create(m SnapshotMetadata) (*snapshot.Writer, error) {
	metadata, err := m.marshal(nil)
	if err != nil {
		return nil, err
	}
	return s.files.Create(m.file(), metadata)
}

// newestWhole returns what the newest snapshot covers that is not known to be damaged.
func (s *SnapshotStore) newestWhole() (id EntryID) {
	for _, info := range s.files.List() {
		if info.Err == nil {
			return EntryID{Index(info.Index), Term(info.Term)}
		}
	}
	return id
}

// newestMetadata reads what that one is of.
func (s *SnapshotStore) newestMetadata() (*SnapshotMetadata, error) {
	m, err := s.metadata(s.newestWhole().file())
	if err != nil {
		return nil, err
	}
	return &m, nil
}

func (id EntryID) file() snapshot.ID {
	return snapshot.ID{Index: uint64(id.Index), Term: uint64(id.Term)}
}

// read reads a chunk of a snapshot for a peer. Before the first one the whole file
// is checked: damaged bytes must not spread.
func (s *SnapshotStore) read(ctx context.Context, r snapshotRead) chunkRead {
	e := chunkRead{snapshotRead: r}
	raw, err := s.take(ctx, r)
	if err != nil {
		e.err = diskError(err)
		return e
	}
	more := false
	defer func() { s.keep(r.peer, raw, more) }()
	info := raw.Info()
	e.number, e.size = info.Identity, uint64(info.Size)
	if r.offset >= e.size {
		e.err = fmt.Errorf("offset %d of a snapshot of %d bytes is asked for", r.offset, e.size)
		return e
	}
	e.data = make([]byte, min(uint64(r.bytes), e.size-r.offset))
	if _, err := raw.ReadAt(e.data, int64(r.offset)); err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	more = e.err == nil && r.offset+uint64(len(e.data)) < e.size // who lacks the end of it has it opened again
	return e
}

// take returns the file that is being sent to a peer. Nobody else has it until it
// is kept: a read of an earlier leadership may still be under way.
func (s *SnapshotStore) take(ctx context.Context, r snapshotRead) (*snapshot.Raw, error) {
	raw := s.detach(r.peer)
	id := r.id.file()
	if raw != nil && raw.Info().ID == id {
		return raw, nil
	}
	if raw != nil {
		_ = raw.Close() // it was only read
	}
	if err := s.files.Verify(ctx, id); err != nil {
		return nil, err
	}
	return s.files.Raw(id)
}

// detach returns the file that is kept open to be sent to a peer, which from then on
// is the caller's; nil: none is.
func (s *SnapshotStore) detach(peer NodeID) *snapshot.Raw {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw := s.sending[peer]
	delete(s.sending, peer)
	return raw
}

// keep keeps a file open for the next chunk, if there is one.
func (s *SnapshotStore) keep(peer NodeID, raw *snapshot.Raw, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if more && s.sending[peer] == nil {
		s.sending[peer] = raw
	} else {
		_ = raw.Close() // it was only read
	}
}

// snapshotReceiver stores the chunks of a snapshot that arrive. It is used by one
// goroutine.
type snapshotReceiver struct {
	store *SnapshotStore
	file  *snapshot.Receiver
	info  snapshot.Info
}

// take stores a chunk. One of another snapshot than before begins anew, or goes on
// where that was interrupted. A complete one is durable when take returns.
func (r *snapshotReceiver) take(e snapshotArrived) chunkStored {
	m := e.request
	stored := chunkStored{chunk: e}
	info := snapshot.Info{ID: EntryID{m.LastIndex, m.LastTerm}.file(), Size: int64(m.Size), Identity: m.Transfer}
	if err := r.turnTo(info); errors.Is(err, snapshot.ErrNotNewer) {
		stored.next = m.Size
		stored.complete, stored.err = r.store.newestMetadata()
		return stored
	} else if err != nil {
		stored.err = err
		return stored
	}
	if err := r.file.Write(int64(m.Offset), m.Data); err != nil && !errors.Is(err, snapshot.ErrGap) {
		r.file, stored.err = nil, diskError(err)
		if errors.Is(stored.err, ErrCorrupt) { // it is not known where: the leader is to look at its file again
			stored.err = fmt.Errorf("%w: %w", ErrInvalidMessage, stored.err)
		}
		return stored
	}
	stored.next = uint64(r.file.Next())
	if stored.next < m.Size {
		return stored
	}
	_, err := r.file.Commit()
	r.file = nil
	if err != nil && !errors.Is(err, snapshot.ErrNotNewer) {
		stored.err = diskError(err)
		return stored
	}
	stored.complete, stored.err = r.store.newestMetadata()
	return stored
}

// turnTo makes a snapshot the one that is received.
func (r *snapshotReceiver) turnTo(info snapshot.Info) error {
	if r.file != nil && r.info == info {
		return nil
	}
	if err := r.close(); err != nil {
		return err
	}
	file, err := r.store.files.Receive(info)
	if err != nil {
		return diskError(err)
	}
	r.file, r.info = file, info
	return nil
}

// close interrupts what is being received.
func (r *snapshotReceiver) close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return diskError(err)
}

// openSnapshot opens a snapshot for the state machine.
func (s *SnapshotStore) openSnapshot(id EntryID) (*snapshot.Reader, error) {
	reader, err := s.files.Open(id.file())
	return reader, diskError(err)
}

// isGone reports whether an error says that newer snapshots have taken the place of
// one.
func isGone(err error) bool { return errors.Is(err, iofs.ErrNotExist) }

// marshal appends the metadata, but for what the file's own header says.
func (m *SnapshotMetadata) marshal(dst []byte) ([]byte, error) {
	c := appending(dst, "SnapshotMetadata")
	m.fields(&c)
	return c.appended()
}

// unmarshal reads what marshal wrote. It copies what it keeps.
func (m *SnapshotMetadata) unmarshal(data []byte) error {
	c := reading(append([]byte(nil), data...), "SnapshotMetadata")
	m.fields(&c)
	return c.done()
}

func (m *SnapshotMetadata) fields(c *codec) {
	number(c, &m.Configuration.Index)
	c.bytes(&m.Configuration.Data)
	if c.reading && c.left == 0 || !c.reading && len(m.Sessions) == 0 { // as before there were sessions
		return
	}
	c.bytes(&m.Sessions)
}
