package snapshot

import (
	"errors"
	"fmt"
	"io"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// CopyFor makes a copy of a snapshot for a cluster of another fingerprint, durable
// when it returns. Nothing changes by it: the copy takes the place of the snapshot when
// the directory is opened with that fingerprint, and Clean removes it if it is
// opened with any other.
func (s *Store) CopyFor(fingerprint [16]byte, id ID) error {
	raw, err := s.Raw(id)
	if err != nil {
		return err
	}
	return errors.Join(s.copyFor(fingerprint, raw), raw.Close())
}

func (s *Store) copyFor(fingerprint [16]byte, raw *Raw) error {
	copied := raw.plan
	copied.fingerprint = fingerprint
	temp := tempName(copied.id, s.options.Random())
	file, err := s.fs.Create(s.path(temp))
	if err != nil {
		return err
	}
	err = s.fill(file, copied, raw)
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, s.remove(temp))
	}
	if err := s.fs.Rename(s.path(temp), s.path(copyName(copied.id))); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}

// fill writes a copy, which differs from the snapshot in its header only, and reads all
// of it back.
func (s *Store) fill(file vfs.File, copied plan, raw *Raw) error {
	rest := io.NewSectionReader(raw, headerBytes, copied.size-headerBytes)
	if _, err := file.WriteAt(copied.encode(), 0); err != nil {
		return err
	}
	if _, err := io.Copy(io.NewOffsetWriter(file, headerBytes), rest); err != nil {
		return err
	}
	w := newWalker(file, raw.name, copied)
	for more := true; more; {
		var err error
		if _, more, err = w.next(w.size); err != nil {
			return fmt.Errorf("copy of %w", err)
		}
	}
	return file.Sync()
}

// adopt gives the copies among these files that were made for the store's cluster the
// names of the snapshots whose place they take, and reports whether there is one.
func (s *Store) adopt(names []string) (adopted bool, err error) {
	for _, name := range names {
		id, ok := parseCopy(name)
		if !ok {
			continue
		}
		if own, err := s.isOwn(name); err != nil {
			return adopted, err
		} else if !own {
			continue
		}
		if err := s.fs.Rename(s.path(name), s.path(fileName(id))); err != nil {
			return adopted, err
		}
		adopted = true
	}
	return adopted, nil
}

// isOwn reports whether a copy was made for the store's cluster.
func (s *Store) isOwn(name string) (bool, error) {
	file, err := s.fs.Open(s.path(name))
	if err != nil {
		return false, err
	}
	defer file.Close()
	b := make([]byte, headerBytes)
	var corrupt *vfs.CorruptError
	if err := readFull(file, s.path(name), b, 0); errors.As(err, &corrupt) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	h, err := decodeHeader(b)
	return err == nil && h.fingerprint == s.options.Fingerprint, nil
}
