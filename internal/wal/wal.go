package wal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"sync"

	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// Run is a stretch of consecutive entries of one term. What an entry looks like
// inside Body is the caller's business.
type Run struct {
	Term  uint64
	First uint64 // index of the first entry
	Count int    // of entries
	Total int    // from Read: of entries in Body; those behind the first Count were replaced
	Body  []byte

	Summed bool   // for Append: Sum is the CRC-32C of Body, which need not be read for it
	Sum    uint32 // likewise
}

// Batch is what one Append makes durable. Its parts take effect in this order.
type Batch struct {
	State []byte // what the caller keeps beside entries; nil: as before
	// Compact has the entries up to there forgotten, and the commit index is at
	// least as high. A log that has no such entry is forgotten as a whole and
	// starts anew behind it: one that ends before, or that has an entry of
	// another term there, which is not committed. One that is not above what was
	// forgotten before changes nothing.
	Compact Position
	Runs    []Run  // they replace what the log holds from the first one's First on
	Commit  uint64 // an index; counts as far as the log goes, and never moves back
}

// Contents is what a log holds, but for the entries themselves.
type Contents struct {
	State     []byte // nil: none was ever appended
	Commit    uint64
	Compacted Position    // the entry before the first one that is kept
	Last      Position    // the last entry, or Compacted
	Terms     []TermStart // of the entries that are kept
}

// Options of a log. The zero value is fit for use.
type Options struct {
	// SegmentBytes is the size of a segment's file; a larger batch gets a
	// larger one for itself. Default 32 MiB.
	SegmentBytes int64

	// Inline has everything done by the goroutine that calls, and nothing in
	// the background, so that equal calls make equal files.
	Inline bool

	// Random returns random numbers. nil: those of the system.
	Random func() uint64

	// MustExist makes Open return ErrNoLog where no log was begun, and make
	// nothing there.
	MustExist bool

	// Prewrite has zeros written behind a batch where nothing was written before, for many
	// batches at once. A sync takes up to twice as long where space is only reserved. Where
	// a file system reserves none, a disk may be full half a MiB earlier.
	Prewrite bool

	// ReadOnly has a log read and checked, and nothing changed: what a crash has
	// left behind stays, and Append fails. Like MustExist it makes no log.
	ReadOnly bool
}

// ErrNoLog is returned by Open with MustExist where no log was begun.
var ErrNoLog = errors.New("there is no log")

// CorruptError says that a log is not what was written, and where.
type CorruptError = vfs.CorruptError

// Log is an open log. Append and Close are called from one goroutine at a time,
// Read from any.
type Log struct {
	fs      vfs.FS
	dir     string
	options Options
	lock    io.Closer

	// Of the goroutine that appends.
	position int64  // in the last segment, where the next batch goes
	next     uint64 // its number
	previous uint32 // the checksum of the one before
	failed   error  // of an earlier call: nothing is written any more
	records  records
	buffer   []byte   // head and records of a batch
	pieces   [][]byte // of a batch
	spare    chan spare
	marked   bool // the directory is, as one in which a log was begun

	mu    sync.RWMutex // never held for I/O
	index index        // written by the goroutine that appends

	used       []spare    // guarded by mu: files of removed segments
	removals   []*segment // guarded by mu: to be removed, oldest first
	removing   bool       // guarded by mu: a goroutine does it
	removeErr  error      // guarded by mu
	background sync.WaitGroup
}

// Open opens the log in a directory, which it makes if need be, and locks it
// until Close. The error matches vfs.ErrLocked if somebody else has it open, and
// is a *CorruptError if it is not what was written: then no file was changed.
func Open(fs vfs.FS, dir string, options Options) (*Log, Contents, error) {
	if options.SegmentBytes == 0 {
		options.SegmentBytes = 32 << 20
	}
	if options.SegmentBytes < 1<<10 || options.SegmentBytes > maxSegmentBytes {
		return nil, Contents{}, fmt.Errorf("a segment of %d bytes: want %d to %d", options.SegmentBytes, 1<<10, maxSegmentBytes)
	}
	if options.Random == nil {
		options.Random = systemRandom
	}
	if options.MustExist || options.ReadOnly {
		if err := exists(fs, dir); err != nil {
			return nil, Contents{}, err
		}
	}
	if err := fs.MkdirAll(dir); err != nil {
		return nil, Contents{}, err
	}
	lock, err := fs.Lock(dir)
	if err != nil {
		return nil, Contents{}, err
	}
	l := &Log{fs: fs, dir: dir, options: options, lock: lock, next: 1}
	if err := l.open(); err != nil {
		return nil, Contents{}, errors.Join(err, l.release())
	}
	return l, l.Contents(), nil
}

// exists reports ErrNoLog unless a log was begun in a directory.
func exists(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	for _, name := range names {
		if _, ok := fileNumber(name, segmentSuffix); ok || name == markName {
			return nil
		}
	}
	return ErrNoLog
}

// Contents returns what is durable at present. It may be called from any
// goroutine.
func (l *Log) Contents() Contents {
	l.mu.RLock()
	defer l.mu.RUnlock()
	x := &l.index
	return Contents{State: bytes.Clone(x.state), Commit: x.commit, Compacted: x.compacted, Last: x.last, Terms: slices.Clone(x.terms)}
}

// systemRandom returns a number from the system's source.
func systemRandom() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}

// open recovers what is there, and gets ready to append.
func (l *Log) open() error {
	if err := l.recover(); err != nil {
		return err
	}
	if l.options.ReadOnly {
		l.failed = errReadOnly
		return nil
	}
	if len(l.index.segments) == 0 {
		if err := l.addSegment(1, 0); err != nil {
			return err
		}
	}
	if err := l.mark(); err != nil {
		return err
	}
	l.startSpare()
	l.remove(l.index.obsolete())
	return nil
}

// Append makes a batch durable, all of it or nothing, before it returns. After
// an error from the disk nothing can be appended any more: what the disk did
// with the bytes is not known, and is found out when the log is opened again. A
// batch that does not fit the log is an error too, but changes nothing. The
// bodies must not change while Append runs. The space of what is forgotten comes
// back in whole segments, later.
func (l *Log) Append(b Batch) error {
	if err := l.usable(); err != nil {
		return err
	}
	r := &l.records
	*r = records{state: b.State, runs: r.runs[:0]}
	l.pieces = append(l.pieces[:0], nil) // for the head
	for _, run := range b.Runs {
		if int64(run.Count) != int64(uint32(run.Count)) || int64(len(run.Body)) > maxSegmentBytes {
			return fmt.Errorf("a run of %d entries in %d bytes is too large for a log", run.Count, len(run.Body))
		}
		if !run.Summed {
			run.Sum = crc32c.Checksum(run.Body)
		}
		r.runs = append(r.runs, runRecord{run.Term, run.First, uint32(run.Count), uint32(len(run.Body)), run.Sum})
		l.pieces = append(l.pieces, run.Body)
	}
	if len(b.State) > maxStateBytes {
		return fmt.Errorf("a state of %d bytes is too large for a log, which takes %d", len(b.State), maxStateBytes)
	}
	l.index.place(r, b.Compact, b.Commit)
	if err := l.index.check(r); err != nil {
		return fmt.Errorf("batch does not fit the log: %w", err)
	}
	if r.empty() {
		return nil
	}
	if err := l.write(r); err != nil || r.compact == (Position{}) {
		return err
	}
	l.mu.Lock()
	obsolete := l.index.obsolete()
	l.mu.Unlock()
	l.remove(obsolete)
	return nil
}

// usable returns why nothing can be appended.
func (l *Log) usable() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.failed == nil {
		l.failed = l.removeErr
	}
	return l.failed
}

// write appends a batch that was checked, with the bodies in pieces.
func (l *Log) write(r *records) error {
	l.buffer = r.appendTo(append(l.buffer[:0], make([]byte, headBytes)...))
	var bodies int64
	for _, body := range l.pieces[1:] {
		bodies += int64(len(body))
	}
	if len(l.buffer) > headBytes+maxRecordsBytes || int64(len(l.buffer))+bodies > maxSegmentBytes/2 {
		return fmt.Errorf("a batch of %d runs with %d bytes is too large for a log", len(r.runs), bodies)
	}
	h := head{
		number: l.next, syncedThrough: l.next - 1, previous: l.previous,
		recordsLength: uint32(len(l.buffer) - headBytes), bodiesLength: uint32(bodies),
		recordChecksum: crc32c.Checksum(l.buffer[headBytes:]),
	}
	if err := l.makeRoom(h.length()); err != nil {
		return l.fail(err)
	}
	s := l.active()
	sum := h.encode(l.buffer, s.salt, l.position)
	l.pieces[0] = l.buffer
	l.pieces = append(l.pieces, zeros[:h.length()-int64(len(l.buffer))-bodies], l.ahead(s, l.position+h.length()))
	if err := l.put(s, l.position); err != nil {
		return l.fail(err)
	}
	l.mu.Lock()
	l.index.apply(r, s, l.position+int64(len(l.buffer)))
	l.mu.Unlock()
	l.position += h.length()
	l.next++
	l.previous = sum
	return nil
}

// zeros are what no batch has written.
var zeros [512 << 10]byte

const (
	leastAhead = 64 << 10  // of zeros
	largeBatch = 256 << 10 // costs more with zeros than a quicker sync gains, where bandwidth is short
)

// ahead returns the zeros that are to be written behind a batch that ends there, so that
// later ones are where the disk was written before: few of them at first, for many a log
// stays small.
func (l *Log) ahead(s *segment, end int64) []byte {
	if end <= s.written {
		return nil
	}
	n := int64(0)
	if l.options.Prewrite && end-l.position < largeBatch {
		n = min(max(end, leastAhead), int64(len(zeros)), s.size-end)
	}
	s.written = end + n
	return zeros[:n]
}

// put writes the pieces and syncs them.
func (l *Log) put(s *segment, offset int64) error {
	_, err := s.file.WritevAt(l.pieces, offset)
	clear(l.pieces) // the bodies are the caller's
	if err != nil {
		return err
	}
	return s.file.Sync()
}

// fail makes sure that nothing is written after an error.
func (l *Log) fail(err error) error {
	l.failed = err
	return err
}

// active is the segment that is written to.
func (l *Log) active() *segment { return l.index.segments[len(l.index.segments)-1] }

// Close marks the log as complete, so that whatever is lost afterwards is
// noticed, and lets go of the directory. It returns the first error, also that
// of an Append before.
func (l *Log) Close() error {
	err := l.usable()
	if err == nil {
		l.records = records{runs: l.records.runs[:0]}
		l.pieces = append(l.pieces[:0], nil)
		err = l.write(&l.records)
	}
	l.failed = errClosed
	return errors.Join(err, l.release())
}

// Abandon lets go of the directory without a word in the log, for a caller that
// has found that it is not its own.
func (l *Log) Abandon() error {
	l.failed = errClosed
	return l.release()
}

var (
	errClosed   = errors.New("the log is closed")
	errReadOnly = errors.New("the log was opened to be read only")
)

// release ends what runs in the background, and closes everything.
func (l *Log) release() error {
	l.background.Wait()
	err := l.dropSpares()
	for _, s := range append(l.removals, l.index.segments...) {
		s.use.Lock()
		err = errors.Join(err, s.file.Close())
		s.use.Unlock()
	}
	return errors.Join(err, l.lock.Close())
}

// path does not clean the directory's name: some systems have names that must not
// be cleaned.
func (l *Log) path(name string) string { return l.dir + "/" + name }
