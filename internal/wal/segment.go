package wal

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

const (
	segmentSuffix = ".wal"
	spareSuffix   = ".spare"
)

func fileName(number uint64, suffix string) string { return fmt.Sprintf("%016x%s", number, suffix) }

// fileNumber is the number in a name that fileName made; false for other names.
func fileNumber(name, suffix string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	number, err := strconv.ParseUint(digits, 16, 64)
	return number, err == nil && number > 0 && fileName(number, suffix) == name
}

// markName is the name of an empty file that says that a log was begun in its
// directory: one that has lost all its segments must not begin anew.
const markName = "begun"

// mark makes the mark, once there is a segment that must not get lost.
func (l *Log) mark() error {
	if l.marked {
		return nil
	}
	file, err := l.fs.Create(l.path(markName))
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return l.fs.SyncDir(l.dir)
}

// makeRoom goes on in a new segment unless a batch of so many bytes fits into
// this one.
func (l *Log) makeRoom(size int64) error {
	old := l.active()
	if l.position+size+sealBytes <= old.size {
		return nil
	}
	end := l.position
	if err := l.addSegment(old.number+1, size); err != nil {
		return err
	}
	if err := l.seal(old, end); err != nil {
		return err
	}
	l.startSpare()
	return nil
}

// addSegment makes a segment with room for a batch of so many bytes, durably,
// and goes on in it.
func (l *Log) addSegment(number uint64, room int64) error {
	h := header{number: number, salt: l.options.Random(), firstBatch: l.next, previous: l.previous, base: l.index.snapshot}
	h.size = max(l.options.SegmentBytes, h.length()+room+sealBytes)
	file, err := l.takeSpare(number, h.size)
	if err != nil {
		return err
	}
	s := &segment{header: h, name: l.path(fileName(number, segmentSuffix)), file: file, end: h.base.last.Index}
	if err := l.establish(s); err != nil {
		return errors.Join(err, file.Close())
	}
	l.mu.Lock()
	l.index.segments = append(l.index.segments, s)
	l.mu.Unlock()
	l.position = h.length()
	return nil
}

// establish gives a new segment its header, then its name.
func (l *Log) establish(s *segment) error {
	if _, err := s.file.WriteAt(s.header.encode(), 0); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	if err := l.fs.Rename(l.path(fileName(s.number, spareSuffix)), s.name); err != nil {
		return err
	}
	return l.fs.SyncDir(l.dir)
}

// seal says at the end of a segment that there is another one, so that it is
// noticed if that gets lost. A seal has the number of the batch that follows.
func (l *Log) seal(s *segment, offset int64) error {
	r := records{seal: true}
	b := r.appendTo(make([]byte, headBytes, sealBytes))
	h := head{
		number: l.next, syncedThrough: l.next - 1, previous: l.previous,
		recordsLength: uint32(len(b) - headBytes), recordChecksum: checksum(b[headBytes:]),
	}
	h.encode(b, s.salt, offset)
	if _, err := s.file.WriteAt(b[:sealBytes], offset); err != nil {
		return err
	}
	return s.file.Sync()
}

// spare is a file for the next segment, made ahead of time.
type spare struct {
	file vfs.File
	err  error
}

// startSpare has the file for the next segment made in the background.
func (l *Log) startSpare() {
	if l.options.Inline {
		return
	}
	number := l.active().number + 1
	made := make(chan spare, 1)
	l.spare = made
	l.background.Go(func() {
		file, err := l.makeSpare(number)
		made <- spare{file, err}
	})
}

// makeSpare makes a file of the usual size.
func (l *Log) makeSpare(number uint64) (vfs.File, error) {
	name := l.path(fileName(number, spareSuffix))
	file, err := l.fs.Create(name)
	if err != nil {
		return nil, err
	}
	err = file.Allocate(l.options.SegmentBytes)
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, file.Close(), l.fs.Remove(name))
	}
	return file, nil
}

// takeSpare returns a file of at least that size, under the name of a spare. If
// none could be made before, it tries again: there may be room now.
func (l *Log) takeSpare(number uint64, size int64) (vfs.File, error) {
	var s spare
	if l.spare != nil {
		s = <-l.spare
		l.spare = nil
	}
	if s.file == nil {
		file, err := l.makeSpare(number)
		if err != nil {
			return nil, err
		}
		s.file = file
	}
	if err := s.file.Allocate(size); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s.file, nil
}

// dropSpare removes the spare.
func (l *Log) dropSpare() error {
	if l.spare == nil {
		return nil
	}
	s := <-l.spare
	l.spare = nil
	if s.file == nil {
		return nil // there is none, and nobody needed it
	}
	return errors.Join(s.file.Close(), l.fs.Remove(l.path(fileName(l.active().number+1, spareSuffix))))
}

// remove removes segments in the background, after those that it removes
// already.
func (l *Log) remove(segments []*segment) {
	l.mu.Lock()
	l.removals = append(l.removals, segments...)
	start := len(l.removals) > 0 && !l.removing
	l.removing = l.removing || start
	l.mu.Unlock()
	switch {
	case !start:
	case l.options.Inline:
		l.removeAll()
	default:
		l.background.Go(l.removeAll)
	}
}

// removeAll removes segments, the oldest first and each durably before the
// next: those that are left must be consecutive.
func (l *Log) removeAll() {
	for {
		l.mu.Lock()
		if len(l.removals) == 0 || l.removeErr != nil {
			l.removing = false
			l.mu.Unlock()
			return
		}
		s := l.removals[0]
		l.mu.Unlock()

		err := l.fs.Remove(s.name)
		if err == nil {
			err = l.fs.SyncDir(l.dir)
		}

		l.mu.Lock()
		if err != nil {
			l.removeErr = err
		} else {
			l.removals = l.removals[1:]
		}
		l.mu.Unlock()
		if err == nil {
			s.use.Lock() // once nobody reads it any more
			_ = s.file.Close()
			s.use.Unlock()
		}
	}
}
