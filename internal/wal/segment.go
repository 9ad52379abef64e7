package wal

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/seed-8da499c8/raft/internal/crc32c"
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
	spare, err := l.takeSpare(number, h.size)
	if err != nil {
		return err
	}
	s := &segment{header: h, name: l.path(fileName(number, segmentSuffix)), file: spare.file, end: h.base.last.Index, written: spare.written}
	if err := l.establish(s, spare.name); err != nil {
		return errors.Join(err, spare.file.Close())
	}
	l.mu.Lock()
	l.index.segments = append(l.index.segments, s)
	l.mu.Unlock()
	l.position = h.length()
	return nil
}

// establish gives a new segment its header, then its name in place of that of a spare.
func (l *Log) establish(s *segment, spare string) error {
	if _, err := s.file.WriteAt(s.header.encode(), 0); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	if err := l.fs.Rename(spare, s.name); err != nil {
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
		recordsLength: uint32(len(b) - headBytes), recordChecksum: crc32c.Checksum(b[headBytes:]),
	}
	h.encode(b, s.salt, offset)
	if _, err := s.file.WriteAt(b[:sealBytes], offset); err != nil {
		return err
	}
	return s.file.Sync()
}

// spare is a file for a later segment. What it holds does not matter.
type spare struct {
	name    string
	file    vfs.File // nil: there is none
	written int64    // up to here it was written before, as far as that matters
}

// startSpare has a file for the next segment got ready in the background.
func (l *Log) startSpare() {
	if l.options.Inline {
		return
	}
	number := l.active().number + 1
	ready := make(chan spare, 1)
	l.spare = ready
	l.background.Go(func() {
		s, _ := l.findSpare(number) // takeSpare tries again
		ready <- s
	})
}

// findSpare returns a file of the usual size, one that was used before if there is
// one: a sync takes much longer where space is only reserved than where it was
// written before.
func (l *Log) findSpare(number uint64) (spare, error) {
	if s, ok := l.takeUsed(); ok {
		return s, nil
	}
	name := l.path(fileName(number, spareSuffix))
	file, err := l.fs.Create(name)
	if err != nil {
		return spare{}, err
	}
	err = file.Allocate(l.options.SegmentBytes)
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		return spare{}, errors.Join(err, file.Close(), l.fs.Remove(name))
	}
	return spare{name, file, 0}, nil
}

// takeUsed returns the file of a removed segment.
func (l *Log) takeUsed() (spare, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.used)
	if n == 0 {
		return spare{}, false
	}
	s := l.used[n-1]
	l.used = l.used[:n-1]
	return s, true
}

// takeSpare returns a file of at least that size. If none could be made before, it
// tries again: there may be room now.
func (l *Log) takeSpare(number uint64, size int64) (s spare, err error) {
	if l.spare != nil {
		s = <-l.spare
		l.spare = nil
	}
	if s.file == nil {
		if s, err = l.findSpare(number); err != nil {
			return spare{}, err
		}
	}
	if err := s.file.Allocate(size); err != nil {
		return spare{}, errors.Join(err, s.file.Close())
	}
	return s, nil
}

// dropSpares removes all spares, once nothing in the background makes more.
func (l *Log) dropSpares() error {
	spares := l.used
	if l.spare != nil {
		spares = append(spares, <-l.spare)
	}
	l.used, l.spare = nil, nil
	var err error
	for _, s := range spares {
		if s.file != nil {
			err = errors.Join(err, s.file.Close(), l.fs.Remove(s.name))
		}
	}
	return err
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
		s, keeps := l.removals[0], len(l.used) < maxUsed
		l.mu.Unlock()

		err := l.removeOne(s, keeps && s.size == l.options.SegmentBytes)

		l.mu.Lock()
		if err != nil {
			l.removeErr = err
		} else {
			l.removals = l.removals[1:]
		}
		l.mu.Unlock()
	}
}

// maxUsed is how many files of removed segments are kept for later ones.
const maxUsed = 2

// removeOne removes a segment, or makes a spare of it. Its file is let go of once
// nobody reads it any more.
func (l *Log) removeOne(s *segment, keep bool) error {
	name := l.path(fileName(s.number, spareSuffix))
	var err error
	if keep {
		err = l.fs.Rename(s.name, name)
	} else {
		err = l.fs.Remove(s.name)
	}
	if err == nil {
		err = l.fs.SyncDir(l.dir)
	}
	if err != nil {
		return err
	}
	s.use.Lock()
	defer s.use.Unlock()
	if !keep {
		_ = s.file.Close()
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = append(l.used, spare{name, s.file, s.size})
	return nil
}
