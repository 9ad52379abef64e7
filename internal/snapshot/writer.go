package snapshot

import (
	"errors"
	"fmt"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// Writer writes a snapshot that this node takes. It is used by one goroutine at a
// time, and ends with Commit or Abort, or with the first error: then the file is
// removed, so that its space is free again, and every later call returns that
// error.
type Writer struct {
	store  *Store
	header header
	file   vfs.File
	offset int64  // of the next chunk
	synced int64  // the offset at the last sync
	buffer []byte // the next chunk as far as it is there, with room for its head
	err    error  // why it has ended
}

// Create begins a snapshot. The metadata is written before it returns.
func (s *Store) Create(id ID, metadata []byte) (*Writer, error) {
	if id.Index == 0 || len(metadata) > maxMetadataBytes {
		return nil, fmt.Errorf("a snapshot at %v with %d bytes of metadata: want an entry, and at most %d bytes", id, len(metadata), maxMetadataBytes)
	}
	if err := s.claim(id, &s.writing); err != nil {
		return nil, err
	}
	w := &Writer{store: s, header: header{
		id: id, identity: s.options.Random(), fingerprint: s.options.Fingerprint,
		chunk: int64(s.options.ChunkBytes), metadata: int64(len(metadata)),
	}}
	w.buffer = make([]byte, chunkHeadBytes, chunkHeadBytes+s.options.ChunkBytes)
	if err := w.begin(metadata); err != nil {
		return nil, w.fail(err)
	}
	return w, nil
}

func (w *Writer) name() string { return tempName(w.header.id, w.header.identity) }

// begin writes everything before the data.
func (w *Writer) begin(metadata []byte) error {
	file, err := w.store.fs.Create(w.store.path(w.name()))
	if err != nil {
		return err
	}
	w.file = file
	if err := w.put(w.header.encode()); err != nil {
		return err
	}
	if err := w.add(kindMetadata, metadata); err != nil {
		return err
	}
	return w.flush(kindMetadata)
}

// Write adds to the data.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if err := w.add(kindData, p); err != nil {
		return 0, w.fail(err)
	}
	return len(p), nil
}

// add puts bytes into chunks, and writes each that is full.
func (w *Writer) add(kind uint32, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), cap(w.buffer)-len(w.buffer))
		w.buffer = append(w.buffer, p[:n]...)
		p = p[n:]
		if len(w.buffer) < cap(w.buffer) {
			break
		}
		if err := w.flush(kind); err != nil {
			return err
		}
	}
	return nil
}

// flush writes the chunk that is in the buffer, if there is one.
func (w *Writer) flush(kind uint32) error {
	if len(w.buffer) == chunkHeadBytes {
		return nil
	}
	sealChunk(w.buffer, kind, w.header.identity, w.offset)
	if err := w.put(w.buffer); err != nil {
		return err
	}
	w.buffer = w.buffer[:chunkHeadBytes]
	if w.offset-w.synced < w.store.options.SyncBytes {
		return nil
	}
	w.synced = w.offset
	return w.file.Sync()
}

func (w *Writer) put(b []byte) error {
	n, err := w.file.WriteAt(b, w.offset)
	w.offset += int64(n)
	return err
}

// Commit completes the snapshot. Once it has returned, the snapshot is durable and
// the newest one, and older ones may be gone.
func (w *Writer) Commit() (Info, error) {
	if w.err != nil {
		return Info{}, w.err
	}
	info, err := w.finish()
	if err != nil {
		return Info{}, w.fail(err)
	}
	w.err = errFinished
	w.store.release(&w.store.writing)
	return info, nil
}

// finish writes what is left, and gives the file its name.
func (w *Writer) finish() (Info, error) {
	if err := w.flush(kindData); err != nil {
		return Info{}, err
	}
	p, err := newPlan(w.header, w.offset+trailerBytes)
	if err != nil {
		panic(fmt.Sprintf("snapshot: wrote a file of which %v", err))
	}
	if err := w.put(p.trailer()); err != nil {
		return Info{}, err
	}
	info := Info{ID: w.header.id, Size: p.size, Identity: p.identity}
	return info, w.store.establish(w.file, w.name(), info)
}

// Abort gives up the snapshot and removes its file. Behind the end it does
// nothing.
func (w *Writer) Abort() error {
	if w.err != nil {
		return nil
	}
	w.err = errFinished
	return w.discard()
}

// fail ends the snapshot with an error.
func (w *Writer) fail(err error) error {
	w.err = err
	_ = w.discard() // what is left is removed when the directory is opened
	return err
}

func (w *Writer) discard() error {
	defer w.store.release(&w.store.writing)
	if w.file == nil {
		return nil
	}
	return errors.Join(w.file.Close(), w.store.remove(w.name()))
}
