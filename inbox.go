package raft

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/seed-8da499c8/raft/internal/buffer"
)

// inbox is where everybody leaves what the event loop is to do. Its lock is held for a
// slice swap, for copying one command that is not large, into a new body now and then, or
// for copying what remains of a body that callers have left, or that is less than half full
// when it is taken.
type inbox struct {
	maxPendingBytes int
	maxBatchBytes   int
	wake            chan struct{} // holds one token while there is something new

	mu        sync.Mutex
	events    []any
	reads     []*readWait     // that gather for the next round or question
	gone      int             // of them, whose readers have left
	groups    readGroups      // those among them that others may join
	soon      bool            // the loop takes them, and they do not wait for long
	asked     []chan<- Status // who wants to see the status
	batches   []*batch        // of proposals, in order
	pending   int             // bytes of batches, and of room that was promised
	waiting   []*roomWaiter
	left      int           // of those waiting that have left
	granted   []*roomWaiter // those to be woken once mu is let go of
	lastBytes int           // of the proposals taken last that were not large: what the next ones may need
	lastCount int           // likewise
	closed    error         // why nothing is taken any more
	ended     chan struct{} // closed then
}

// batch is a run of proposals in the making: its body goes into the log as it
// is, and from there into every frame.
type batch struct {
	body      []byte
	proposals []proposal
	withdrawn int  // bytes of proposals whose callers have left
	large     bool // it is one large command, with no room for others

	taken bool // guarded by the inbox's mu: it is with the loop now
	// first and term say where the batch stands in the log, once it does.
	first, term atomic.Uint64
}

// proposal is one command's place in a batch, and who waits for it: either
// done or wait is set, neither once the caller has left.
type proposal struct {
	end  int // of its entry in the batch's body
	done func(Result, error)
	wait *waiter
}

// waiter is a blocked caller of Propose. result and err are written before
// ready is.
type waiter struct {
	ready  chan struct{}
	result Result
	err    error

	batch    *batch
	position int
}

func newWaiter() any { return &waiter{ready: make(chan struct{}, 1)} }

// complete ends the wait for a proposal.
func (p *proposal) complete(result Result, err error) {
	switch {
	case p.done != nil:
		p.done(result, err)
	case p.wait != nil:
		p.wait.result, p.wait.err = result, err
		p.wait.ready <- struct{}{}
	}
}

// roomWaiter is a caller that waits for room in the queue of proposals.
type roomWaiter struct {
	bytes   int
	granted bool
	left    bool // does not wait any more
	ready   chan struct{}
}

func newInbox(maxPendingBytes, maxBatchBytes int) *inbox {
	return &inbox{maxPendingBytes: maxPendingBytes, maxBatchBytes: maxBatchBytes, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (q *inbox) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// post leaves an event for the loop, and reports false if there is no loop any
// more.
func (q *inbox) post(event any) bool {
	q.mu.Lock()
	open := q.closed == nil
	if open {
		q.events = append(q.events, event)
	}
	first := len(q.events) == 1
	q.mu.Unlock()
	if open && first {
		q.signal()
	}
	return open
}

// enqueueRead leaves a read for the loop: with those that the next round or question is to
// confirm, or, if it may need neither, with the events.
func (q *inbox) enqueueRead(w *readWait) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed != nil:
		return q.closed
	case w.options.Level == ReadLocal || w.options.MaxStaleness > 0:
		w.taken = true
		if q.events = append(q.events, w); len(q.events) == 1 {
			q.signal()
		}
		return nil
	case len(q.reads) >= maxReads:
		return errTooManyReads
	default:
		q.gatherRead(w)
		return nil
	}
}

// gatherRead adds a read to those that gather. Called with mu held.
func (q *inbox) gatherRead(w *readWait) {
	if q.reads = append(q.reads, w); len(q.reads) == 1 {
		q.signal()
	}
}

// joinRead leaves a read of a level that names no entry for the loop, together with all
// others of that level that gather. Soon reports that the group will be told if it takes a
// while, so that nobody need look at anything else before.
func (q *inbox) joinRead(level ReadLevel) (g *readGroup, soon bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		return nil, false, q.closed
	}
	g = q.groups[level]
	if g == nil {
		g = newReadGroup(level)
		g.told = !q.soon
		q.groups[level] = g
		q.gatherRead(&g.readWait)
	}
	if g.members >= maxReads {
		return nil, false, errTooManyReads
	}
	g.members++
	return g, !g.told, nil
}

// leaveRead takes a reader out of a group, and reports false if the loop has it already.
func (q *inbox) leaveRead(g *readGroup) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if g.taken {
		return false
	}
	g.members--
	return true
}

// tellReads tells the groups that gather, and those that come before the loop takes them.
func (q *inbox) tellReads() {
	q.mu.Lock()
	q.soon = false
	var untold []*readGroup
	for _, g := range q.groups {
		if g != nil && g.mark() {
			untold = append(untold, g)
		}
	}
	q.mu.Unlock()
	for _, g := range untold { // without the lock: their readers may be many
		close(g.settled)
	}
}

// withdrawRead takes a read whose caller leaves out of the queue, and reports false if
// the loop has it already.
func (q *inbox) withdrawRead(w *readWait) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.taken {
		return false
	}
	w.left = true
	if q.gone++; 2*q.gone > len(q.reads) { // all together: many may leave at the same moment
		q.reads = slices.DeleteFunc(q.reads, func(w *readWait) bool { return w.left })
		q.gone = 0
	}
	return true
}

// takeReads adds the reads that have gathered to the events. Called with mu held.
func (q *inbox) takeReads(events []any) []any {
	for _, g := range q.groups {
		if g != nil {
			g.left, g.others = g.members == 0, g.members-1
		}
	}
	for _, w := range q.reads {
		if w.taken = true; !w.left {
			events = append(events, w)
		}
	}
	clear(q.reads)
	q.reads, q.gone, q.groups, q.soon = q.reads[:0], 0, readGroups{}, true
	return events
}

// closedBecause returns why nothing is taken any more.
func (q *inbox) closedBecause() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// ask leaves a wish to see the status, and reports false if there is no loop
// any more.
func (q *inbox) ask(answer chan<- Status) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		return false
	}
	q.asked = append(q.asked, answer)
	q.signal()
	return true
}

// largeCommand is the size from which a command gets a batch of its own, which its caller
// encodes without the lock. Smaller ones do better together.
const largeCommand = 128 << 10

// enqueue leaves a command for the loop if there is room.
func (q *inbox) enqueue(kind EntryKind, command []byte, p proposal) error {
	if len(command) >= largeCommand {
		if err := q.promiseRoom(proposalSize(len(command))); err != nil {
			return err
		}
		return q.enqueuePromised(kind, command, p)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.takeRoom(proposalSize(len(command))); err != nil {
		return err
	}
	q.add(kind, command, p)
	return nil
}

// promiseRoom takes room for a command that is yet to be encoded.
func (q *inbox) promiseRoom(size int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.takeRoom(size)
}

// takeRoom takes room in the queue, if there is any, and nobody waits for it. Called with
// mu held.
func (q *inbox) takeRoom(size int) error {
	switch {
	case q.closed != nil:
		return q.closed
	case len(q.waiting) > 0 || q.pending+size > q.maxPendingBytes:
		return ErrOverloaded
	}
	q.pending += size
	return nil
}

// enqueuePromised leaves a command that has its room for the loop.
func (q *inbox) enqueuePromised(kind EntryKind, command []byte, p proposal) error {
	var alone *batch
	if len(command) >= largeCommand {
		alone = &batch{large: true}
		alone.body = buffer.Uncleared(entrySize(len(command)))
		alone.add(kind, command, p)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		return q.closed
	}
	if alone == nil {
		q.add(kind, command, p)
	} else if q.batches = append(q.batches, alone); len(q.batches) == 1 {
		q.signal()
	}
	return nil
}

// proposalBytes is what a command counts beside its entry: its place in the
// queue, and who waits for it. Else small commands would take far more memory
// than the bounds say.
const proposalBytes = 64

// proposalSize is what a command of so many bytes counts in the queue.
func proposalSize(commandBytes int) int { return entrySize(commandBytes) + proposalBytes }

// size is what the batch counts in the queue.
func (b *batch) size() int { return len(b.body) + proposalBytes*len(b.proposals) }

// enqueueWait is enqueue for a caller that waits for room, in turn.
func (q *inbox) enqueueWait(ctx context.Context, kind EntryKind, command []byte, p proposal) error {
	if err := q.enqueue(kind, command, p); err != ErrOverloaded {
		return err
	}
	if err := q.awaitRoom(ctx, proposalSize(len(command))); err != nil {
		return err
	}
	return q.enqueuePromised(kind, command, p)
}

// awaitRoom waits until size bytes are promised to the caller.
func (q *inbox) awaitRoom(ctx context.Context, size int) error {
	w := &roomWaiter{bytes: size, ready: make(chan struct{})}
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.grantRoom()
	q.unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.unlock()
	if w.granted {
		q.pending -= size
	} else {
		q.forget(w)
	}
	q.grantRoom()
	return leftQueue(ctx)
}

// forget passes over a caller who does not wait for room any more. Those who
// left are taken out together: many may leave at the same moment, and the loop
// needs the lock. Called with mu held.
func (q *inbox) forget(w *roomWaiter) {
	w.left = true
	q.left++
	if 2*q.left > len(q.waiting) {
		q.waiting = slices.DeleteFunc(q.waiting, func(w *roomWaiter) bool { return w.left })
		q.left = 0
	}
}

// leftQueue is the error of a caller whose ctx ended before its command left the
// queue: it is in no log, and not in the queue either.
func leftQueue(ctx context.Context) error {
	return fmt.Errorf("%w: %w before the command was in the log", ErrNotAccepted, contextError(ctx))
}

// contextError is why ctx ended: its error, and its cause if that is another.
// The cause may be how another command ended, which says nothing about this one.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	switch {
	case cause == err:
		return err
	case unclassified(cause) == nil:
		return fmt.Errorf("%w (%v)", err, cause)
	default:
		return fmt.Errorf("%w (%w)", err, cause)
	}
}

// grantRoom promises room to those who wait, in order. Called with mu held.
func (q *inbox) grantRoom() {
	for len(q.waiting) > 0 {
		w := q.waiting[0]
		if w.left {
			q.waiting = q.waiting[1:]
			q.left--
			continue
		}
		if q.closed == nil && q.pending > 0 && q.pending+w.bytes > q.maxPendingBytes {
			return
		}
		q.waiting = q.waiting[1:]
		q.pending += w.bytes
		w.granted = true
		q.granted = append(q.granted, w)
	}
}

// unlock lets go of mu, and then wakes those who were promised room, who may be many.
func (q *inbox) unlock() {
	granted := q.granted
	q.granted = nil
	q.mu.Unlock()
	for _, w := range granted {
		close(w.ready)
	}
}

// add encodes a command into the last batch. Called with mu held.
func (q *inbox) add(kind EntryKind, command []byte, p proposal) {
	b := q.batchFor(entrySize(len(command)))
	b.add(kind, command, p)
	if len(q.batches) == 1 && len(b.proposals) == 1 {
		q.signal()
	}
}

// add encodes a command into the batch.
func (b *batch) add(kind EntryKind, command []byte, p proposal) {
	if p.wait != nil {
		p.wait.batch, p.wait.position = b, len(b.proposals)
	}
	b.body = appendEntry(b.body, kind, command)
	p.end = len(b.body)
	b.proposals = append(b.proposals, p)
}

// What a batch allocates in vain, at most, for commands that do not come: places for their
// proposers, and bytes of its body once it is taken.
const (
	maxPlaces = 4096
	slack     = 4 << 10
)

// batchFor returns the batch that is to take an entry. A body does not grow beyond what was
// allocated for it, which would copy it again and again: the next batch is twice as large
// instead, with room for a whole number of entries like this one. Behind a large command
// it begins small, since another one may close it soon. Called with mu held.
func (q *inbox) batchFor(size int) *batch {
	room, places := q.lastBytes+q.lastBytes/4, q.lastCount+q.lastCount/4
	if n := len(q.batches); n > 0 {
		last := q.batches[n-1]
		switch {
		case last.large:
			room, places = min(room, slack), min(places, slack/size)
		case len(last.body)+size <= cap(last.body):
			return last
		default:
			room, places = 2*cap(last.body), 2*len(last.proposals)
		}
	}
	b := &batch{body: buffer.Uncleared(max(size, min(room, q.maxBatchBytes)/size*size)), proposals: make([]proposal, 0, min(places, maxPlaces))}
	q.batches = append(q.batches, b)
	return b
}

// withdraw takes a command whose caller leaves out of the queue, and reports
// false if the loop has it already.
func (q *inbox) withdraw(w *waiter) bool {
	q.mu.Lock()
	defer q.unlock()
	b := w.batch
	if b.taken {
		return false
	}
	start := 0
	if w.position > 0 {
		start = b.proposals[w.position-1].end
	}
	b.proposals[w.position].wait = nil
	b.withdrawn += b.proposals[w.position].end - start
	if 2*b.withdrawn > len(b.body) {
		before := b.size()
		b.compact()
		q.pending -= before - b.size()
		q.grantRoom()
	}
	return true
}

// taken is what the loop takes out of the inbox.
type taken struct {
	events  []any
	asked   []chan<- Status
	batches []*batch
	more    bool // proposals are left
	reading bool // reads are left
}

// take returns what is there, of the proposals about as many bytes as there is
// room for, of the reads those that gather only if there is use for them. The slice of
// events is reused from then on.
func (q *inbox) take(events []any, room int, reads bool) taken {
	q.mu.Lock()
	defer q.unlock()
	out := taken{events: q.events, asked: q.asked}
	q.events, q.asked = events[:0], nil
	if reads {
		out.events = q.takeReads(out.events)
	}
	out.reading = len(q.reads) > 0
	out.batches = q.takeBatches(room)
	out.more = len(q.batches) > 0
	if len(out.batches) > 0 {
		q.grantRoom()
	}
	return out
}

// takeBatches hands over proposals until they fill the room. Called with mu
// held.
func (q *inbox) takeBatches(room int) []*batch {
	n, small, count := 0, 0, 0
	for n < len(q.batches) && room > 0 {
		b := q.batches[n]
		room -= b.size()
		q.pending -= b.size()
		if !b.large {
			small += len(b.body)
			count += len(b.proposals)
		}
		b.taken = true
		b.compact()
		n++
	}
	if n == 0 {
		return nil
	}
	if count > 0 {
		q.lastBytes, q.lastCount = min(small, q.maxBatchBytes), min(count, maxPlaces)
	}
	taken := q.batches[:n:n]
	q.batches = append([]*batch(nil), q.batches[n:]...) // an array of its own, which does not keep what was taken
	return taken
}

// compact removes the entries of callers that have left, and what was allocated for
// others that did not come: the log may keep the body for long.
func (b *batch) compact() {
	if b.withdrawn == 0 {
		if cap(b.body) > 2*len(b.body)+slack {
			b.body = bytes.Clone(b.body)
		}
		return
	}
	var body []byte
	var kept []proposal
	start := 0
	for _, p := range b.proposals {
		if p.done != nil || p.wait != nil {
			body = append(body, b.body[start:p.end]...)
			start, p.end = p.end, len(body)
			if p.wait != nil {
				p.wait.position = len(kept)
			}
			kept = append(kept, p)
			continue
		}
		start = p.end
	}
	b.body, b.proposals, b.withdrawn = body, kept, 0
}

// close refuses everything from now on with err, and returns what was left.
func (q *inbox) close(err error) taken {
	q.mu.Lock()
	defer q.unlock()
	if q.closed != nil {
		return taken{}
	}
	q.closed = err
	close(q.ended)
	q.grantRoom() // those who wait for room find out that it is closed
	out := taken{events: q.takeReads(q.events), asked: q.asked, batches: q.takeBatches(math.MaxInt)}
	q.events, q.asked = nil, nil
	return out
}
