package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// walker goes through a file part by part, and hands out only what it has checked.
type walker struct {
	plan
	file   io.ReaderAt
	name   string
	offset int64 // of the next part
	read   int64 // how much content there was before it, of metadata and data
	buffer []byte
}

// newWalker starts behind the header.
func newWalker(file io.ReaderAt, name string, p plan) *walker {
	longest := max(trailerBytes, min(chunkHeadBytes+p.chunk, p.size))
	return &walker{plan: p, file: file, name: name, offset: headerBytes, buffer: make([]byte, longest)}
}

// part returns what the next part must be. Behind the last one its length is 0.
func (w *walker) part() (kind uint32, length int64) {
	trailer := w.size - trailerBytes
	switch {
	case w.offset == w.size:
		return 0, 0
	case w.offset == trailer:
		return kindTrailer, trailerBytes
	case w.read < w.metadata:
		return kindMetadata, chunkHeadBytes + min(w.chunk, w.metadata-w.read)
	default:
		return kindData, min(chunkHeadBytes+w.chunk, trailer-w.offset)
	}
}

// next reads the next part and goes on behind it. It returns the content of a
// chunk, which is valid until the next call, and false if the part ends behind
// limit or there is none.
func (w *walker) next(limit int64) (content []byte, ok bool, err error) {
	kind, length := w.part()
	if length == 0 || w.offset+length > limit {
		return nil, false, nil
	}
	b := w.buffer[:length]
	if err := readFull(w.file, w.name, b, w.offset); err != nil {
		return nil, false, err
	}
	switch {
	case kind == kindTrailer && !bytes.Equal(b, w.trailer()):
		return nil, false, corruptTrailer(w.name, w.offset)
	case kind != kindTrailer && !isChunk(b, kind, w.identity, w.offset):
		return nil, false, vfs.Corruptf(w.name, w.offset, "a chunk of %d bytes is not what was written", length)
	case kind != kindTrailer:
		content = b[chunkHeadBytes:]
	}
	w.offset += length
	w.read += int64(len(content))
	return content, true, nil
}

func corruptTrailer(name string, offset int64) error {
	return vfs.Corruptf(name, offset, "it does not end there, or not like this")
}

// readFull reads all of b. A file that ends before is damaged.
func readFull(file io.ReaderAt, name string, b []byte, offset int64) error {
	n, err := file.ReadAt(b, offset)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return vfs.Corruptf(name, offset+int64(n), "it ends there")
	default:
		return err
	}
}

// readHeader reads the header of a file, which must be that of a snapshot and of
// this cluster.
func (s *Store) readHeader(file io.ReaderAt, name string, id ID) (header, error) {
	b := make([]byte, headerBytes)
	if err := readFull(file, name, b, 0); err != nil {
		return header{}, err
	}
	h, err := decodeHeader(b)
	switch {
	case errors.As(err, new(vfs.NewerError)):
		return header{}, fmt.Errorf("%s: %w", name, err)
	case err != nil:
		return header{}, vfs.Corruptf(name, 0, "%v", err)
	case h.id != id:
		return header{}, vfs.Corruptf(name, 0, "it is the snapshot at %v, where the one at %v should be", h.id, id)
	case h.fingerprint != s.options.Fingerprint:
		return header{}, vfs.Corruptf(name, 0, "it belongs to another cluster")
	default:
		return h, nil
	}
}

// examine reads header and trailer of a whole file.
func (s *Store) examine(file vfs.File, name string, id ID) (plan, error) {
	size, err := file.Size()
	if err != nil {
		return plan{}, err
	}
	h, err := s.readHeader(file, name, id)
	if err != nil {
		return plan{}, err
	}
	p, err := newPlan(h, size)
	if err != nil {
		return plan{}, vfs.Corruptf(name, 0, "%v", err)
	}
	b := make([]byte, trailerBytes)
	if err := readFull(file, name, b, size-trailerBytes); err != nil {
		return plan{}, err
	}
	if !bytes.Equal(b, p.trailer()) {
		return plan{}, corruptTrailer(name, size-trailerBytes)
	}
	return p, nil
}
