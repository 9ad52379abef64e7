// Package sim is a world in which a cluster lives and dies: virtual time, a
// network, clocks, faults, and judges who watch it all. One number, the seed,
// decides everything that happens; the same seed leads to the same life, bit for
// bit. The package knows bytes and integers; who plugs nodes into it gives them
// meaning.
//
// A life has two phases. In the first, faults of many kinds come and go, and
// nothing bad may happen ([Judge], [Oracle]). In the second all faults are over,
// and something good must happen, soon.
//
// Whoever wants to see a life has it recorded, as a page for a browser ([Trace]);
// what a life does not need in order to fail is taken away by [Reduce] and [Least].
//
// Everything runs on one goroutine: events in the order of their times, those of
// equal times in the order in which they were made.
package sim

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// World is virtual time, and what is to happen in it.
type World struct {
	seed   uint64
	now    time.Duration
	queue  eventQueue
	made   uint64 // events so far
	done   int    // events that have happened
	digest uint64 // of everything that was told

	// Tell, if set, sees every line of the story as it is told.
	Tell func(at time.Duration, line Line)

	counts map[string]int
}

// Line is a line of the story.
type Line struct {
	Kind string // constant
	Node int    // whom it is about; -1: nobody
	Peer int    // the other one, if there is one; -1: nobody
	Text string
}

// NewWorld returns a world at time 0 in which nothing is to happen.
func NewWorld(seed uint64) *World {
	h := fnv.New64a()
	return &World{seed: seed, digest: h.Sum64(), counts: map[string]int{}}
}

// Random returns a source of randomness of its own for a purpose, so that more
// use of one does not change the others.
func (w *World) Random(purpose string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(purpose))
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

// Now returns the time since the beginning.
func (w *World) Now() time.Duration { return w.now }

// Events returns how many events have happened.
func (w *World) Events() int { return w.done }

// Event is something that is to happen.
type Event struct {
	world  *World
	at     time.Duration
	number uint64
	place  int // in the queue; -1: it has happened, or never will
	happen func()
}

// Cancel keeps the event from happening, if it has not happened yet.
func (e *Event) Cancel() {
	if e.place >= 0 {
		heap.Remove(&e.world.queue, e.place)
	}
}

// After has something happen after a while.
func (w *World) After(d time.Duration, happen func()) *Event {
	w.made++
	e := &Event{world: w, at: w.now + max(0, d), number: w.made, happen: happen}
	heap.Push(&w.queue, e)
	return e
}

// RunUntil lets everything happen up to a time, or until stop says so after an
// event.
func (w *World) RunUntil(end time.Duration, stop func() bool) {
	for len(w.queue) > 0 && w.queue[0].at <= end {
		e := heap.Pop(&w.queue).(*Event)
		w.now = e.at
		w.done++
		e.happen()
		if stop() {
			return
		}
	}
	w.now = max(w.now, end)
}

// Count counts that something of a kind happened: who trusts a world wants to
// know what it went through.
func (w *World) Count(kind string) { w.counts[kind]++ }

// Counts returns how often things happened.
func (w *World) Counts() map[string]int { return w.counts }

// Note adds a line to the story. Its digest depends on every line and its time.
func (w *World) Note(line Line) {
	var b [24]byte
	binary.BigEndian.PutUint64(b[:], w.digest)
	binary.BigEndian.PutUint64(b[8:], uint64(w.now))
	binary.BigEndian.PutUint32(b[16:], uint32(line.Node))
	binary.BigEndian.PutUint32(b[20:], uint32(line.Peer))
	h := fnv.New64a()
	h.Write(b[:])
	h.Write([]byte(line.Kind))
	h.Write([]byte(line.Text))
	w.digest = h.Sum64()
	if w.Tell != nil {
		w.Tell(w.now, line)
	}
}

// Digest stands for the whole story so far: equal digests, equal stories.
func (w *World) Digest() string { return fmt.Sprintf("%016x", w.digest) }

// eventQueue is a heap by time and number.
type eventQueue []*Event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].number < q[j].number
}
func (q eventQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}
func (q *eventQueue) Push(e any) {
	e.(*Event).place = len(*q)
	*q = append(*q, e.(*Event))
}
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.place = -1
	return e
}
