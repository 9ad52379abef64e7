package main

import (
	"encoding/binary"
	"hash/crc32"
	"sync"
	"sync/atomic"
)

// limitQueue is the leader's log in memory: segments of encoded entries, appended to by
// everybody who proposes, and read by four readers at their own pace.
//
//	entry: length uint32, checksum uint32, index uint64, command
type limitQueue struct {
	mu      sync.Mutex
	tail    *limitSegment
	index   uint64         // of the last entry
	waiting []*limitWaiter // for the entries that are not applied yet, in their order
	free    []*limitSegment

	readers [4]limitReader
	closed  chan struct{}
}

const (
	limitHeader       = 16
	limitSegmentBytes = 1 << 20
	limitFreeSegments = 64
)

// The readers of the queue.
const (
	readForDisk = iota
	readForFirst
	readForSecond
	readToApply
)

// limitSegment is a piece of the log. Each reader lets go of it once, and the last one
// hands it back.
type limitSegment struct {
	bytes   []byte
	used    atomic.Int64 // so many are published
	next    atomic.Pointer[limitSegment]
	holders atomic.Int32
}

// limitReader is a place in the log.
type limitReader struct {
	queue   *limitQueue
	segment *limitSegment
	offset  int
	passed  []*limitSegment // all read, not let go of yet
	wake    chan struct{}
	idle    atomic.Bool
}

// limitWaiter is somebody who waits for one entry, or one read.
type limitWaiter struct{ done chan struct{} }

var limitWaiters = sync.Pool{New: func() any { return &limitWaiter{make(chan struct{}, 1)} }}

func newLimitWaiter() *limitWaiter { return limitWaiters.Get().(*limitWaiter) }

// Wait may be called once.
func (w *limitWaiter) Wait() error {
	<-w.done
	limitWaiters.Put(w)
	return nil
}

func newLimitQueue(commandBytes int) *limitQueue {
	q := &limitQueue{closed: make(chan struct{})}
	q.tail = &limitSegment{bytes: make([]byte, max(limitSegmentBytes, limitHeader+commandBytes))}
	q.tail.holders.Store(int32(len(q.readers)))
	for i := range q.readers {
		r := &q.readers[i]
		r.queue, r.segment, r.wake = q, q.tail, make(chan struct{}, 1)
	}
	return q
}

// append adds an entry, and somebody who waits for it.
func (q *limitQueue) append(command []byte) *limitWaiter {
	w, checksum := newLimitWaiter(), crc32.Checksum(command, castagnoli)
	q.mu.Lock()
	entry := q.reserve(limitHeader + len(command))
	q.index++
	binary.LittleEndian.PutUint32(entry, uint32(len(command)))
	binary.LittleEndian.PutUint32(entry[4:], checksum)
	binary.LittleEndian.PutUint64(entry[8:], q.index)
	copy(entry[limitHeader:], command)
	q.tail.used.Add(int64(len(entry)))
	q.waiting = append(q.waiting, w)
	q.mu.Unlock()
	q.readers[readForFirst].kick()
	q.readers[readForSecond].kick()
	q.readers[readForDisk].kick()
	return w
}

// reserve returns room for an entry at the end of the log. It needs the lock.
func (q *limitQueue) reserve(size int) []byte {
	used := int(q.tail.used.Load())
	if len(q.tail.bytes)-used < size {
		s := q.newSegment(size)
		s.holders.Store(int32(len(q.readers)))
		q.tail.next.Store(s)
		q.tail, used = s, 0
	}
	return q.tail.bytes[used : used+size]
}

func (q *limitQueue) newSegment(size int) *limitSegment {
	last := len(q.free) - 1
	if last < 0 {
		return &limitSegment{bytes: make([]byte, max(limitSegmentBytes, size))}
	}
	s := q.free[last]
	q.free = q.free[:last]
	s.used.Store(0)
	s.next.Store(nil)
	return s
}

// kick wakes a reader that waits.
func (r *limitReader) kick() {
	if r.idle.Load() && r.idle.CompareAndSwap(true, false) {
		poke(r.wake)
	}
}

// poke leaves one notice in a channel with room for one.
func poke(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// take waits for what was appended since it was called last, and returns that with the
// last index in it. It ends with the queue.
func (r *limitReader) take(pieces [][]byte) (_ [][]byte, index uint64, ok bool) {
	for {
		r.queue.mu.Lock()
		pieces = r.advance(pieces)
		index := r.queue.index
		if len(pieces) == 0 {
			r.idle.Store(true)
		}
		r.queue.mu.Unlock()
		if len(pieces) > 0 {
			return pieces, index, true
		}
		select {
		case <-r.wake:
		case <-r.queue.closed:
			return nil, 0, false
		}
	}
}

// advance collects all that there is.
func (r *limitReader) advance(pieces [][]byte) [][]byte {
	for {
		if used := int(r.segment.used.Load()); used > r.offset {
			pieces = append(pieces, r.segment.bytes[r.offset:used])
			r.offset = used
		}
		if r.segment.next.Load() == nil {
			return pieces
		}
		r.pass()
	}
}

// pass goes on to the next segment, which must be there.
func (r *limitReader) pass() {
	r.passed = append(r.passed, r.segment)
	r.segment, r.offset = r.segment.next.Load(), 0
}

// next returns the command of the next entry, which must be there.
func (r *limitReader) next() []byte {
	for r.offset == int(r.segment.used.Load()) {
		r.pass()
	}
	entry := r.segment.bytes[r.offset:]
	end := limitHeader + int(binary.LittleEndian.Uint32(entry))
	r.offset += end
	return entry[limitHeader:end]
}

// release lets go of the segments that were passed.
func (r *limitReader) release() {
	for i, s := range r.passed {
		if s.holders.Add(-1) == 0 {
			r.queue.recycle(s)
		}
		r.passed[i] = nil
	}
	r.passed = r.passed[:0]
}

func (q *limitQueue) recycle(s *limitSegment) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.free) < limitFreeSegments {
		q.free = append(q.free, s)
	}
}

// popWaiting returns who waits for the next n entries.
func (q *limitQueue) popWaiting(n int) []*limitWaiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	popped := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	return popped
}
