package snapshot

import (
	"errors"
	"fmt"
	iofs "io/fs"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// ErrGap is returned by [Receiver.Write] for bytes that others are missing before,
// and by Commit if some are missing. Next says which ones are wanted.
var ErrGap = errors.New("bytes are missing")

// Receiver receives the file of a snapshot. It is used by one goroutine at a time,
// and ends with Commit or Close, or with the first error of the disk or about wrong
// bytes: then what was received is removed, and every later call returns that error.
type Receiver struct {
	store  *Store
	info   Info
	file   vfs.File
	next   int64   // up to there all bytes are written
	walker *walker // up to its offset all are checked; nil until the header is there
	synced int64   // up to there all are durable, or a sync has not returned yet
	marks  int64   // how many there were
	err    error   // why it has ended
}

// Receive begins to receive a file, or goes on with one that was interrupted, also
// by a restart. Another one that was interrupted is given up: the .part is of the
// transfer that began last. There is space for all of the file when it returns, if
// the system can reserve it.
func (s *Store) Receive(info Info) (*Receiver, error) {
	info.Err = nil
	if info.Index == 0 || info.Size < headerBytes+trailerBytes {
		return nil, fmt.Errorf("a snapshot at %v cannot have %d bytes", info.ID, info.Size)
	}
	if err := s.claim(info.ID, &s.receiving); err != nil {
		return nil, err
	}
	r := &Receiver{store: s, info: info}
	resumed, err := r.resume()
	if err == nil && !resumed {
		err = r.begin()
	}
	if err != nil {
		return nil, r.fail(err)
	}
	return r, nil
}

func (r *Receiver) name() string { return partialName(r.info) }

// begin makes a new file, in place of any other that was being received.
func (r *Receiver) begin() error {
	s := r.store
	if err := s.removePartial(); err != nil {
		return err
	}
	file, err := s.fs.Create(s.path(r.name()))
	if err != nil {
		return err
	}
	r.file = file
	s.setPartial(&r.info)
	if err := file.Allocate(r.info.Size); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}

// resume goes on with a file that is there. It reports false if that cannot be, and
// the transfer must begin anew.
func (r *Receiver) resume() (bool, error) {
	file, err := r.store.fs.Open(r.store.path(r.name()))
	if errors.Is(err, iofs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	r.file = file
	err = r.restore()
	var corrupt *vfs.CorruptError
	if err == nil || !errors.As(err, &corrupt) {
		return true, err
	}
	*r = Receiver{store: r.store, info: r.info}
	return false, file.Close()
}

// restore finds out how far the file is durable. What it takes for damage may as
// well be a transfer that has not come far enough.
func (r *Receiver) restore() error {
	size, err := r.file.Size()
	if err != nil {
		return err
	}
	through, err := r.readMarks()
	if err != nil {
		return err
	}
	if err := r.check(through); err != nil {
		return err
	}
	if size != r.info.Size || through == 0 {
		return vfs.Corruptf(r.name(), 0, "it has %d bytes, which were synced through %d", size, through)
	}
	r.next, r.synced = through, through
	return nil
}

// readMarks returns how far the file is durable, 0 if nothing says so.
func (r *Receiver) readMarks() (through int64, err error) {
	b := make([]byte, markBytes)
	for i := range int64(2) {
		at := r.markOffset(i)
		if err := readFull(r.file, r.name(), b, at); err != nil {
			return 0, err
		}
		if said := decodeMark(b, r.info.Identity, at); said > through {
			through, r.marks = said, i+1
		}
	}
	return through, nil
}

// markOffset is the place of a mark: two of them take turns.
func (r *Receiver) markOffset(number int64) int64 { return r.trailer() + number%2*markBytes }

// trailer is where the trailer begins.
func (r *Receiver) trailer() int64 { return r.info.Size - trailerBytes }

// Next returns the offset of the byte that is wanted next.
func (r *Receiver) Next() int64 { return r.next }

// Write writes bytes at an offset. Those that are there already are ignored. The
// error matches ErrGap if others are missing before, and is a *vfs.CorruptError if
// the bytes are not those of a snapshot. A place that cannot be written to is an
// error that changes nothing.
func (r *Receiver) Write(offset int64, p []byte) error {
	switch {
	case r.err != nil:
		return r.err
	case offset < 0 || offset > r.info.Size-int64(len(p)):
		return fmt.Errorf("%d bytes at %d of a snapshot of %d", len(p), offset, r.info.Size)
	case offset > r.next:
		return fmt.Errorf("%w: those at %d arrived, those at %d are wanted", ErrGap, offset, r.next)
	case offset+int64(len(p)) <= r.next:
		return nil
	}
	if err := r.add(p[r.next-offset:]); err != nil {
		return r.fail(err)
	}
	return nil
}

// add writes the next bytes, and checks the parts that they complete.
func (r *Receiver) add(p []byte) error {
	if _, err := r.file.WriteAt(p, r.next); err != nil {
		return err
	}
	r.next += int64(len(p))
	if err := r.check(r.next); err != nil {
		return err
	}
	if r.checked()-r.synced < r.store.options.SyncBytes {
		return nil
	}
	return r.sync()
}

// checked returns up to where the file was checked.
func (r *Receiver) checked() int64 {
	if r.walker == nil {
		return 0
	}
	return r.walker.offset
}

// check checks the parts that end up to limit.
func (r *Receiver) check(limit int64) error {
	if r.walker == nil && limit < headerBytes {
		return nil
	}
	if r.walker == nil {
		if err := r.readHeader(); err != nil {
			return err
		}
	}
	for {
		if _, ok, err := r.walker.next(limit); !ok {
			return err
		}
	}
}

// readHeader finds out where everything will stand.
func (r *Receiver) readHeader() error {
	name := r.store.path(r.name())
	h, err := r.store.readHeader(r.file, name, r.info.ID)
	if err != nil {
		return err
	}
	if h.identity != r.info.Identity {
		return vfs.Corruptf(name, 0, "it is not the file that was announced")
	}
	p, err := newPlan(h, r.info.Size)
	if err != nil {
		return vfs.Corruptf(name, 0, "%v", err)
	}
	r.walker = newWalker(r.file, name, p)
	return nil
}

// sync makes durable what there is, and then says so in the file, unless the
// trailer is there already.
func (r *Receiver) sync() error {
	r.synced = r.checked()
	if err := r.file.Sync(); err != nil {
		return err
	}
	if r.next > r.trailer() {
		return nil
	}
	at := r.markOffset(r.marks)
	r.marks++
	_, err := r.file.WriteAt(newMark(r.synced, r.info.Identity, at), at)
	return err
}

// Commit completes the snapshot. Once it has returned, the snapshot is durable and
// the newest one, and older ones may be gone. The error matches ErrGap if bytes are
// missing, which changes nothing.
func (r *Receiver) Commit() (Info, error) {
	switch {
	case r.err != nil:
		return Info{}, r.err
	case r.checked() < r.info.Size:
		return Info{}, fmt.Errorf("%w: those at %d are wanted", ErrGap, r.next)
	}
	if err := r.store.establish(r.file, r.name(), r.info); err != nil {
		return Info{}, r.fail(err)
	}
	r.err = errFinished
	r.store.setPartial(nil)
	r.store.release(&r.store.receiving)
	return r.info, nil
}

// Close interrupts the transfer. Receive goes on with it. Behind the end it does
// nothing.
func (r *Receiver) Close() error {
	if r.err != nil {
		return nil
	}
	if err := r.sync(); err != nil {
		return r.fail(err)
	}
	r.err = errFinished
	defer r.store.release(&r.store.receiving)
	return r.file.Close()
}

// fail ends the transfer with an error.
func (r *Receiver) fail(err error) error {
	r.err = err
	if r.file != nil {
		_ = r.file.Close()
	}
	_ = r.store.removePartial() // or else it goes when the directory is opened, or is gone on with as far as a mark says
	r.store.release(&r.store.receiving)
	return err
}
