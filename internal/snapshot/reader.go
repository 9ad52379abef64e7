package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// Raw is a snapshot's file as it is sent: bytes at offsets, which are checked by
// who receives them. It stays whole while it is open, though the store may have
// removed it. Its methods may be called from any goroutine.
type Raw struct {
	store *Store
	file  vfs.File
	name  string
	plan  plan
}

// Raw opens the file of a snapshot. Its header and trailer are checked. The error
// matches fs.ErrNotExist if there is no such snapshot, or not any more.
func (s *Store) Raw(id ID) (*Raw, error) {
	info, err := s.find(id)
	if err != nil {
		return nil, err
	}
	name := s.path(fileName(id))
	file, err := s.fs.Open(name)
	if err != nil {
		return nil, fmt.Errorf("snapshot at %v: %w", id, err)
	}
	p, err := s.examine(file, name, id)
	if err != nil {
		s.note(info, err)
		return nil, errors.Join(err, file.Close())
	}
	return &Raw{s, file, name, p}, nil
}

// Info describes the file.
func (r *Raw) Info() Info {
	return Info{ID: r.plan.id, Size: r.plan.size, Identity: r.plan.identity}
}

// ReadAt reads bytes of the file.
func (r *Raw) ReadAt(p []byte, offset int64) (int, error) { return r.file.ReadAt(p, offset) }

// Close closes the file.
func (r *Raw) Close() error { return r.file.Close() }

// next reads the next part of the file, and remembers if it is damaged.
func (r *Raw) next(w *walker) (content []byte, ok bool, err error) {
	content, ok, err = w.next(w.size)
	r.store.note(r.Info(), err)
	return content, ok, err
}

// Verify reads all of a snapshot and checks it. The error is a *vfs.CorruptError
// if it is not what was written, and that of the ctx if that ends before. How long
// ago the system has read the bytes from the disk is not known.
func (s *Store) Verify(ctx context.Context, id ID) error {
	raw, err := s.Raw(id)
	if err != nil {
		return err
	}
	w := newWalker(raw.file, raw.name, raw.plan)
	for more := true; more && err == nil; {
		if err = ctx.Err(); err == nil {
			_, more, err = raw.next(w)
		}
	}
	return errors.Join(err, raw.Close())
}

// Reader reads a snapshot. It is used by one goroutine at a time. It stays whole
// while it is open, though the store may have removed the file.
type Reader struct {
	raw      *Raw
	walker   *walker
	metadata []byte
	rest     []byte // of the chunk that was read last
	err      error
}

// Open opens a snapshot and reads its metadata. The error matches fs.ErrNotExist
// if there is no such snapshot, or not any more, and is a *vfs.CorruptError if it
// is not what was written.
func (s *Store) Open(id ID) (*Reader, error) {
	raw, err := s.Raw(id)
	if err != nil {
		return nil, err
	}
	r := &Reader{raw: raw, walker: newWalker(raw.file, raw.name, raw.plan)}
	if err := r.readMetadata(); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return r, nil
}

// readMetadata reads it into memory. The file is longer, so its length is no lie.
func (r *Reader) readMetadata() error {
	r.metadata = make([]byte, 0, r.walker.metadata)
	for r.walker.read < r.walker.metadata {
		content, _, err := r.raw.next(r.walker)
		if err != nil {
			return err
		}
		r.metadata = append(r.metadata, content...)
	}
	return nil
}

// Info describes the file.
func (r *Reader) Info() Info { return r.raw.Info() }

// Metadata returns the metadata, which must not be changed.
func (r *Reader) Metadata() []byte { return r.metadata }

// DataSize returns how long the data is.
func (r *Reader) DataSize() int64 { return r.walker.data }

// Read reads the data. It returns only what was checked, and io.EOF only if all
// there was is whole.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 && len(p) > 0 {
		if r.err != nil {
			return 0, r.err
		}
		content, more, err := r.raw.next(r.walker)
		if err == nil && !more {
			err = io.EOF
		}
		r.rest, r.err = content, err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close closes the file.
func (r *Reader) Close() error { return r.raw.Close() }
