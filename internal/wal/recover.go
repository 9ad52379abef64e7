package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// recovery is what the log looks like when it is opened. It changes nothing
// until everything was looked at.
type recovery struct {
	log    *Log
	files  []uint64 // numbers of segments, sorted
	spares []string

	window  window
	records records
	buffer  []byte // the bytes of records
	before  int64  // where the whole batches of the last segment but one end

	// Of the last segment.
	last int64 // where its last batch starts; 0: it has none
	end  int64 // where the whole batches end

	sealed bool // it says that another one follows
}

// recover reads the whole log, checks it, and unless that is all, repairs what a
// crash has left behind: a batch at the end that is not whole was never
// acknowledged and goes.
func (l *Log) recover() error {
	r := &recovery{log: l}
	if err := r.list(); err != nil {
		return err
	}
	for i, number := range r.files {
		if err := r.replay(number, i == len(r.files)-1); err != nil {
			return err
		}
	}
	if first := l.index.missing(); first > 0 {
		return vfs.Corruptf(l.path(fileName(r.files[0]-1, segmentSuffix)), 0, "it is missing, and with it entry %d", first)
	}
	if l.options.ReadOnly {
		return nil
	}
	return r.repair()
}

// list finds the files of the log.
func (r *recovery) list() error {
	names, err := r.log.fs.List(r.log.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if number, ok := fileNumber(name, segmentSuffix); ok {
			r.files = append(r.files, number)
		}
		if _, ok := fileNumber(name, spareSuffix); ok {
			r.spares = append(r.spares, name)
		}
		r.log.marked = r.log.marked || name == markName
	}
	if r.log.marked && len(r.files) == 0 {
		return vfs.Corruptf(r.log.path(markName), 0, "it says that a log was begun here, and all its segments are missing: bring them back, or remove this file if nothing was ever promised")
	}
	slices.Sort(r.files)
	for i, number := range r.files[min(1, len(r.files)):] {
		if number != r.files[i]+1 {
			return vfs.Corruptf(r.log.path(fileName(r.files[i]+1, segmentSuffix)), 0, "it is missing, between %s and %s", fileName(r.files[i], segmentSuffix), fileName(number, segmentSuffix))
		}
	}
	for _, name := range r.spares {
		if len(r.files) == 0 && name != fileName(1, spareSuffix) {
			return vfs.Corruptf(r.log.path(name), 0, "it is left of a log of which everything else is missing")
		}
	}
	return nil
}

// replay reads one segment and takes over what it says.
func (r *recovery) replay(number uint64, isLast bool) error {
	l := r.log
	s := &segment{name: l.path(fileName(number, segmentSuffix))}
	file, err := l.fs.Open(s.name)
	if err != nil {
		return err
	}
	s.file = file
	l.index.segments = append(l.index.segments, s) // which are closed in the end, whatever happens
	size, err := file.Size()
	if err != nil {
		return err
	}
	r.window.reset(s, size)
	if err := r.readHeader(s, number, size); err != nil {
		return err
	}
	if len(l.index.segments) == 1 {
		l.index.snapshot = s.base
		l.next, l.previous = s.firstBatch, s.previous
	} else if err := r.continues(s); err != nil {
		return err
	}
	s.end = l.index.last.Index
	r.before, r.last, r.end, r.sealed = r.end, 0, s.length(), false
	for {
		more, err := r.readBatch(s)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	l.position = r.end
	if isLast {
		return r.examineRest(s)
	}
	return nil
}

// readHeader reads and checks the header of a segment.
func (r *recovery) readHeader(s *segment, number uint64, size int64) error {
	corrupt := func(format string, args ...any) error {
		return vfs.Corruptf(s.name, 0, format, args...)
	}
	if size < headerBytes {
		return corrupt("it has %d bytes, less than a header", size)
	}
	b, err := r.window.at(0, headerBytes)
	if err != nil {
		return err
	}
	length, err := headerLength(b)
	if _, ok := err.(vfs.NewerError); ok {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if err != nil {
		return corrupt("%v", err)
	}
	if size < length+sealBytes {
		return corrupt("it has %d bytes, less than its header and a seal", size)
	}
	if b, err = r.window.at(0, length); err != nil {
		return err
	}
	if s.header, err = decodeHeader(b); err != nil {
		return corrupt("%v", err)
	}
	if s.number != number {
		return corrupt("it is segment %d under the name of another", s.number)
	}
	if s.size != size {
		return corrupt("it has %d bytes and was made with %d", size, s.size)
	}
	return nil
}

// continues checks that a segment goes on where the one before ended. Its header
// was written when everything before was durable: what the one before has less
// of was lost. It must say what those before say, since it will be all that is
// left of them.
func (r *recovery) continues(s *segment) error {
	l := r.log
	before := l.index.segments[len(l.index.segments)-2]
	if s.firstBatch > l.next {
		return vfs.Corruptf(before.name, r.end, "batch %d is damaged or missing, and was durable: %s begins with batch %d", l.next, s.name, s.firstBatch)
	}
	if s.firstBatch < l.next || s.previous != l.previous || !s.base.equal(l.index.snapshot) {
		return vfs.Corruptf(s.name, 0, "it does not continue %s", before.name)
	}
	return nil
}

// readBatch reads the next batch, and reports false at the end of the whole
// ones.
func (r *recovery) readBatch(s *segment) (bool, error) {
	l := r.log
	h, ok, err := r.readHead(s)
	if !ok {
		return false, err
	}
	corrupt := func(format string, args ...any) (bool, error) {
		return false, vfs.Corruptf(s.name, r.end, "batch %d: %s", h.number, fmt.Sprintf(format, args...))
	}
	whole, err := r.readRecords(s, h)
	if err == errRecords {
		return corrupt("%v", err)
	}
	if !whole {
		return false, err
	}
	if r.records.seal && h.number == l.next {
		r.sealed = true
		return false, nil
	}
	if h.number != l.next || h.previous != l.previous || h.syncedThrough >= h.number {
		return corrupt("it stands where batch %d should be", l.next)
	}
	if r.end+h.length()+sealBytes > s.size {
		return corrupt("it leaves no room for a seal")
	}
	if err := l.index.check(&r.records); err != nil {
		return corrupt("%v", err)
	}
	l.index.apply(&r.records, s, r.end+headBytes+int64(h.recordsLength))
	r.last, r.end = r.end, r.end+h.length()
	l.next++
	l.previous = h.checksum
	return true, nil
}

// readHead reads the head of a batch that the file has room for.
func (r *recovery) readHead(s *segment) (head, bool, error) {
	if r.end+headBytes > s.size {
		return head{}, false, nil
	}
	b, err := r.window.at(r.end, headBytes)
	if err != nil {
		return head{}, false, err
	}
	h, ok := decodeHead(b, s.salt, r.end)
	return h, ok && r.end+h.length() <= s.size, nil
}

// readRecords reads the records of a batch and checks the bodies of its runs.
// False says that some of it is not there.
func (r *recovery) readRecords(s *segment, h head) (bool, error) {
	at := r.end + headBytes
	b, err := r.window.at(at, int64(h.recordsLength))
	if err != nil {
		return false, err
	}
	if crc32c.Checksum(b) != h.recordChecksum {
		return false, nil
	}
	r.buffer = append(r.buffer[:0], b...) // the window moves on
	if err := r.records.decode(r.buffer); err != nil {
		return false, err
	}
	at += int64(h.recordsLength)
	bodies := int64(0)
	for _, run := range r.records.runs {
		bodies += int64(run.length)
	}
	if bodies != int64(h.bodiesLength) {
		return false, errRecords
	}
	for _, run := range r.records.runs {
		sum, err := r.window.checksum(at, int64(run.length))
		if err != nil || sum != run.checksum {
			return false, err
		}
		at += int64(run.length)
	}
	return true, nil
}

// examineRest looks at what follows the last whole batch. If anything there says
// that more was durable, it was lost. Else it is what a crash has left of a batch
// that was never acknowledged.
func (r *recovery) examineRest(s *segment) error {
	if r.sealed {
		return vfs.Corruptf(r.log.path(fileName(s.number+1, segmentSuffix)), 0, "it is missing: %s says that it follows", s.name)
	}
	for pos := r.end; pos < s.size; {
		b, err := r.window.at(pos, min(windowBytes, s.size-pos))
		if err != nil {
			return err
		}
		n := len(b)
		if pos+int64(n) < s.size {
			n -= headBytes // a head that begins in there is looked at with what follows
		}
		for i := nextHead(b, 0); i < n; i = nextHead(b, i+1) {
			if h, ok := decodeHead(b[i:], s.salt, pos+int64(i)); ok && h.syncedThrough >= r.log.next {
				return vfs.Corruptf(s.name, r.end, "batch %d is damaged, and was durable when batch %d was written", r.log.next, h.number)
			}
		}
		pos += int64(n)
	}
	return nil
}

// nextHead returns where the head of a batch may begin, at from or behind it: most of a
// file that has just been begun is empty.
func nextHead(b []byte, from int) int {
	i := bytes.Index(b[from:], binary.BigEndian.AppendUint32(nil, batchMagic))
	if i < 0 {
		return len(b)
	}
	return from + i
}

// repair makes durable what was found, since it counts from now on, and removes
// what does not. If it is interrupted, the next one does the same.
func (r *recovery) repair() error {
	l := r.log
	for _, name := range r.spares {
		if err := l.fs.Remove(l.path(name)); err != nil {
			return err
		}
	}
	if len(r.files) > 0 {
		if err := r.repairLast(l.active()); err != nil {
			return err
		}
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return err
	}
	return r.repairSeal()
}

// repairSeal seals the last segment but one again, if it is not known to be
// sealed durably: it is once there is a batch in the last one.
func (r *recovery) repairSeal() error {
	l := r.log
	n := len(l.index.segments)
	if n < 2 || r.last > 0 {
		return nil
	}
	return l.seal(l.index.segments[n-2], r.before)
}

// repairLast clears the place behind the last batch, where the head is of the one
// that is cut now: no part of a later batch completes that any more. It does so
// whatever is seen there, and writes the last batch again, of which nothing says that
// it is durable: after a failed sync a system may show bytes that it believes to be on
// the disk, and that are not. What else is left of the cut one, or of whoever had the
// file before, has no head that is valid.
func (r *recovery) repairLast(s *segment) error {
	if _, err := s.file.WriteAt(make([]byte, min(headBytes, s.size-r.end)), r.end); err != nil {
		return err
	}
	for at := r.last; at > 0 && at < r.end; {
		b, err := r.window.at(at, min(windowBytes, r.end-at))
		if err != nil {
			return err
		}
		if _, err := s.file.WriteAt(b, at); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return s.file.Sync()
}

// windowBytes is how much is read at once.
const windowBytes = 1 << 20

// window is the part of a file that was read last.
type window struct {
	segment *segment
	size    int64 // of the file
	start   int64
	bytes   []byte
}

func (w *window) reset(s *segment, size int64) {
	*w = window{segment: s, size: size, bytes: w.bytes[:0]}
}

// at returns n bytes at a position, which the file must have. They are valid
// until the next call.
func (w *window) at(pos, n int64) ([]byte, error) {
	if offset := pos - w.start; offset >= 0 && offset+n <= int64(len(w.bytes)) {
		return w.bytes[offset : offset+n], nil
	}
	length := max(n, min(windowBytes, w.size-pos))
	w.start = pos
	w.bytes = slices.Grow(w.bytes[:0], int(length))[:length]
	if got, err := w.segment.file.ReadAt(w.bytes, pos); got < len(w.bytes) {
		w.bytes = w.bytes[:0]
		return nil, fmt.Errorf("%s: %w", w.segment.name, err)
	}
	return w.bytes[:n], nil
}

// checksum returns that of n bytes at a position.
func (w *window) checksum(pos, n int64) (uint32, error) {
	sum := uint32(0)
	for n > 0 {
		b, err := w.at(pos, min(n, windowBytes))
		if err != nil {
			return 0, err
		}
		sum = crc32c.Extend(sum, b)
		pos += int64(len(b))
		n -= int64(len(b))
	}
	return sum, nil
}
