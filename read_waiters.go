package raft

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Reads: the driver's part, which knows who waits for them. Many share one round of
// heartbeats, or on other members than the leader one question to it: while one is under
// way the next batch gathers.

// readWait is somebody who waits for a read. As an event it is the wish to read.
type readWait struct {
	options ReadOptions
	done    func(Index, error)
	delayed func() // unless nil: called if it takes a while
	remote  bool   // it is another member's, which waits itself until it has applied the index
	others  int    // how many more readers it stands for; the loop's, once that has it

	// Guarded by the inbox's mu.
	taken bool // it is with the loop now
	left  bool // before that
}

// forwardArrived: another member asks this one as its leader.
type forwardArrived struct {
	request *ForwardRequest
	respond responder
}

// forwardAnswered: a leader has answered what this node has asked it, or not.
type forwardAnswered struct {
	from     NodeID
	request  *ForwardRequest
	response *ForwardResponse
	err      error // instead of a response
}

// readLeft: somebody does not wait for a read any more.
type readLeft struct{ wait *readWait }

// readBatch are reads that one round or one question confirms.
type readBatch struct {
	round   uint64        // of a leader: the first that does
	index   Index         // of a leader: what they have to see; 0: what is committed once it knows
	since   time.Duration // what was committed then they see: when the first came, or the question left
	level   ReadLevel     // the strictest of them
	waiting []*readWait
}

// freshness is how far the last read that was confirmed makes this member's state good:
// once it has applied index, it has all that was committed at a time.
type freshness struct {
	known bool
	at    time.Duration
	index Index
}

func (f *freshness) renew(at time.Duration, index Index) {
	if !f.known || at > f.at {
		*f = freshness{true, at, index}
	}
}

// renew takes note of what reads of a level have made sure of, which is as good for weaker
// ones. What rests on a clock says nothing to those that must not rely on any.
func (r *reads) renew(level ReadLevel, at time.Duration, index Index) {
	for weaker := range min(level, ReadConfirmed) + 1 {
		r.fresh[weaker].renew(at, index)
	}
}

// appliedWait waits until this node has applied an entry.
type appliedWait struct {
	index Index
	wait  *readWait
}

// reads is what a driver knows of the reads that wait.
type reads struct {
	term     Term            // in which the batches are asked about, of leader
	leader   NodeID          // likewise
	batches  []readBatch     // in order; only the last may not have begun
	call     *ForwardRequest // the question about the first batch, if this node does not lead
	applies  []appliedWait
	count    int                  // of all who wait
	untold   bool                 // some of them may not know that it takes a while
	tellAt   time.Duration        // when they are told; 0: that is not fixed yet
	lastSize int                  // of the last batch confirmed: what the next may need
	left     map[*readWait]int    // how many do not wait for it any more
	fresh    [ReadLocal]freshness // by level: of reads of that level, or a stricter one
}

// maxReads bounds the reads that wait before others are taken in, and likewise those that
// gather in the inbox, which are taken in together.
const maxReads = 1 << 16

// readDelay is after how long those who wait are told that it takes a while. A round of
// heartbeats takes far less.
const readDelay = 5 * time.Millisecond

var errTooManyReads = fmt.Errorf("%w: %d reads wait", ErrOverloaded, maxReads)

// handleRead begins a read.
func (d *driver) handleRead(now time.Duration, w *readWait) {
	c, r, o := d.core, &d.reads, w.options
	d.endStaleReads()
	fresh := r.fresh[min(o.Level, ReadConfirmed)]
	switch {
	case r.count >= maxReads:
		d.endWait(w.done, 0, errTooManyReads)
	case o.Level == ReadLocal:
		d.awaitApplied(w, 0)
	case fresh.known && o.MaxStaleness > 0 && now-fresh.at <= o.MaxStaleness:
		d.awaitApplied(w, fresh.index)
	case c.leader == "":
		d.endWait(w.done, 0, d.notLeader())
	case o.Level == ReadLinearizable && c.holdsLease(now):
		r.renew(ReadLinearizable, now, c.commitIndex)
		d.awaitApplied(w, c.commitIndex)
	default:
		d.gather(now, w)
	}
}

// leaseEnd returns until when reads may be answered by the clock from what is applied; 0:
// they may not.
func (d *driver) leaseEnd() time.Duration {
	if d.core.settings.lease == 0 || d.applied < d.core.commitIndex {
		return 0
	}
	return d.core.leaseEnd()
}

// gather adds a read to the batch that has not begun.
func (d *driver) gather(now time.Duration, w *readWait) {
	c, r := d.core, &d.reads
	index, known := c.readIndex()
	if !known {
		index = 0
	}
	if d.lastHasBegun() {
		r.term, r.leader = c.currentTerm, c.leader
		r.batches = append(r.batches, readBatch{round: c.round + 1, since: now, waiting: make([]*readWait, 0, r.lastSize)})
	}
	b := &r.batches[len(r.batches)-1]
	b.index = index // what was committed since the first one came is not too much
	b.level = max(b.level, w.options.Level)
	b.waiting = append(b.waiting, w)
	r.count += 1 + w.others
	r.untold = true
}

// wantsReads reports whether a read that comes now would share a round or a question that
// has not begun, or needs none. Else it had better wait for others: while one is under way
// the next batch gathers in the inbox, and only the first of it wakes the loop, which leaves
// it there.
func (d *driver) wantsReads() bool {
	return len(d.reads.batches) == 0 || !d.lastHasBegun() || d.core.settings.lease > 0
}

// lastHasBegun reports whether the last batch takes no more reads, or there is none.
func (d *driver) lastHasBegun() bool {
	n := len(d.reads.batches)
	if n == 0 || d.core.role == Leader {
		return n == 0 || d.reads.batches[n-1].round <= d.core.round
	}
	return n == 1 && d.reads.call != nil
}

// settleReads ends the reads that events have decided, and goes on with those that
// gather.
func (d *driver) settleReads(now time.Duration) {
	d.endStaleReads()
	d.forgetLeft()
	if d.core.role == Leader {
		d.settleRounds(now)
	} else {
		d.askLeader(now)
	}
	d.settleApplied()
	d.tellDelayed(now)
}

// tellDelayed tells those who wait, once somebody has done so for a while. Who has come
// just before that learns it too: that costs less than to know of each since when it waits.
func (d *driver) tellDelayed(now time.Duration) {
	r := &d.reads
	if r.count == 0 || !r.untold {
		r.untold, r.tellAt = false, 0
		return
	}
	if r.tellAt == 0 {
		r.tellAt = now + readDelay
	}
	if now < r.tellAt {
		return
	}
	r.untold, r.tellAt = false, 0
	for _, b := range r.batches {
		for _, w := range b.waiting {
			d.delay(w)
		}
	}
	for _, a := range r.applies {
		d.delay(a.wait)
	}
}

// delay has somebody told that it takes a while, who wants to know.
func (d *driver) delay(w *readWait) {
	if w.delayed != nil {
		d.work.delayed = append(d.work.delayed, w.delayed)
	}
}

// deadline returns when there is something to do at the latest.
func (d *driver) deadline() time.Duration {
	if at := d.reads.tellAt; at > 0 {
		return min(at, d.core.deadline())
	}
	return d.core.deadline()
}

// settleRounds goes on with the reads of a leader.
func (d *driver) settleRounds(now time.Duration) {
	c, r := d.core, &d.reads
	if len(r.batches) == 0 {
		return
	}
	confirmed := c.confirmedRound()
	for len(r.batches) > 0 && r.batches[0].round <= confirmed {
		index, known := c.readIndex()
		if !known {
			return
		}
		b := r.takeFirst()
		b.level = ReadConfirmed // whatever they asked for
		d.confirm(b, cmp.Or(b.index, index))
	}
	if len(r.batches) == 1 && r.batches[0].round > c.round {
		d.step(now, roundWanted{})
	}
}

// takeFirst takes the first batch out.
func (r *reads) takeFirst() readBatch {
	b := r.batches[0]
	r.batches = slices.Delete(r.batches, 0, 1)
	for _, w := range b.waiting {
		r.count -= 1 + w.others
	}
	return b
}

// askLeader asks about the first batch, if that has not been done.
func (d *driver) askLeader(now time.Duration) {
	c, r := d.core, &d.reads
	if len(r.batches) == 0 || r.call != nil {
		return
	}
	b := &r.batches[0]
	b.since, r.call = now, c.readRequest(b.level)
	d.work.requests = append(d.work.requests, request{to: c.leader, message: r.call, term: c.currentTerm, role: c.role, patience: 2 * c.settings.electionTimeout})
}

// handleForward answers another member's read, or says whether this node leads, so that a
// command can be proposed here.
func (d *driver) handleForward(now time.Duration, e forwardArrived) {
	answer := func(response *ForwardResponse) {
		d.work.replies = append(d.work.replies, reply{respond: e.respond, response: response})
	}
	switch {
	case !isServed(e.request.Kind):
		err := fmt.Errorf("%w: node %s does not serve forwarded calls of kind %d", ErrUnsupported, d.core.settings.id, e.request.Kind)
		d.work.replies = append(d.work.replies, reply{respond: e.respond, response: err})
	case d.core.role != Leader:
		answer(forwardResponse(Result{}, d.notLeader()))
	case e.request.Kind == ForwardReadIndex:
		d.handleRead(now, &readWait{options: readOptionsIn(e.request), remote: true, done: func(index Index, err error) {
			e.respond(forwardResponse(Result{Index: index}, err), nil)
		}})
	default:
		answer(new(ForwardResponse))
	}
}

// readRequest asks a leader what reads of a level have to see.
func (c *core) readRequest(level ReadLevel) *ForwardRequest {
	return &ForwardRequest{Header: c.header(c.leader), Kind: ForwardReadIndex, Payload: []byte{byte(level)}}
}

// readOptionsIn returns what a request asks for; more than is known is asked for in full.
func readOptionsIn(r *ForwardRequest) ReadOptions {
	if len(r.Payload) == 1 && ReadLevel(r.Payload[0]) == ReadLinearizable {
		return ReadOptions{}
	}
	return ReadOptions{Level: ReadConfirmed}
}

// handleForwardAnswer goes on with the reads that a leader was asked about.
func (d *driver) handleForwardAnswer(e forwardAnswered) {
	r := &d.reads
	if r.call == nil || r.call != e.request {
		return // they have ended since
	}
	b := r.takeFirst()
	r.call = nil
	var result Result
	err := e.err
	if err == nil {
		result, err = e.response.outcome(e.from)
	}
	if err == nil {
		d.confirm(b, result.Index)
		return
	}
	if !errors.Is(err, ErrNotAccepted) {
		err = fmt.Errorf("%w: leader %s did not confirm the read: %s", ErrNotAccepted, e.from, wordsOf(err))
	}
	for _, w := range b.waiting {
		d.endWait(w.done, 0, err)
	}
}

// confirm lets reads go on that have to see what is committed up to an index: they wait
// until it is applied here.
func (d *driver) confirm(b readBatch, index Index) {
	r := &d.reads
	r.renew(b.level, b.since, index)
	r.lastSize = len(b.waiting)
	d.work.outcomes = slices.Grow(d.work.outcomes, len(b.waiting))
	for _, w := range b.waiting {
		d.awaitApplied(w, index)
	}
}

// awaitApplied ends a read once this node has applied an entry, and the one that the
// reader names.
func (d *driver) awaitApplied(w *readWait, index Index) {
	r := &d.reads
	index = max(index, w.options.MinIndex)
	if w.remote {
		d.endWait(w.done, index, nil)
		return
	}
	if index <= d.applied {
		d.endWait(w.done, d.applied, nil)
		return
	}
	at, _ := slices.BinarySearchFunc(r.applies, index, func(a appliedWait, index Index) int {
		return cmp.Or(cmp.Compare(a.index, index), -1) // behind those of the same index
	})
	r.applies = slices.Insert(r.applies, at, appliedWait{index, w})
	r.count += 1 + w.others
	r.untold = true
}

// settleApplied ends the reads that have waited for what is applied by now.
func (d *driver) settleApplied() {
	r := &d.reads
	ready := 0
	for ready < len(r.applies) && r.applies[ready].index <= d.applied {
		w := r.applies[ready].wait
		d.endWait(w.done, d.applied, nil)
		r.count -= 1 + w.others
		ready++
	}
	r.applies = slices.Delete(r.applies, 0, ready)
}

// endStaleReads ends the reads that another leader was to confirm, or this one in
// another term.
func (d *driver) endStaleReads() {
	c, r := d.core, &d.reads
	if len(r.batches) > 0 && (r.term != c.currentTerm || r.leader != c.leader) {
		d.endUnconfirmed(d.notLeader())
	}
}

func (d *driver) endUnconfirmed(err error) {
	r := &d.reads
	for len(r.batches) > 0 {
		for _, w := range r.takeFirst().waiting {
			d.endWait(w.done, 0, err)
		}
	}
	r.batches, r.call = nil, nil
}

// endReads ends all reads of a node that stops.
func (d *driver) endReads(err error) {
	d.endUnconfirmed(err)
	for _, a := range d.reads.applies {
		d.endWait(a.wait.done, 0, err)
	}
	d.reads.applies, d.reads.count = nil, 0
}

func (d *driver) handleReadLeft(e readLeft) {
	if d.reads.left == nil {
		d.reads.left = map[*readWait]int{}
	}
	d.reads.left[e.wait]++
}

// forgetLeft forgets those who do not wait any more, all together: many may leave at the
// same moment.
func (d *driver) forgetLeft() {
	r := &d.reads
	if len(r.left) == 0 {
		return
	}
	hasLeft := func(w *readWait) bool {
		n := r.left[w]
		r.count -= n
		w.others -= n
		return w.others < 0
	}
	for i, b := range r.batches {
		r.batches[i].waiting = slices.DeleteFunc(b.waiting, hasLeft)
	}
	r.applies = slices.DeleteFunc(r.applies, func(a appliedWait) bool { return hasLeft(a.wait) })
	r.left = nil
}

// clone returns an independent copy, but for those who wait.
func (r reads) clone() reads {
	r.batches, r.applies = slices.Clone(r.batches), slices.Clone(r.applies)
	for i := range r.batches {
		r.batches[i].waiting = slices.Clone(r.batches[i].waiting)
	}
	return r
}

// words lists the state for a digest.
func (r reads) words() []any {
	words := []any{r.term, r.leader, r.count, r.untold, r.tellAt, r.fresh, r.call != nil}
	for _, b := range r.batches {
		words = append(words, b.round, b.index, b.since, b.level, len(b.waiting))
	}
	for _, a := range r.applies {
		words = append(words, a.index)
	}
	return words
}
