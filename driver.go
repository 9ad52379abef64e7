package raft

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"time"
)

// driver is the deterministic layer between the core and the goroutines of a
// node: it checks what comes in, keeps back what may not leave yet, knows who
// waits for what, and hands out work so that at most one write and one apply
// are under way. Like the core it is stepped, by [driver.advance]; it has no
// goroutine and no channel.
type driver struct {
	core     *core
	verify   bool // check invariants after every step
	settings driverSettings

	// Kept back until what they promise is durable, each in order.
	appendReplies []reply
	replies       []reply
	requests      []request
	// Answers of members whose record of the first contact is not durable yet.
	deferred []deferredEvent

	waiting  []waitingRun // of the leader's own proposals, by index
	applied  Index
	applying bool // the applier has a task

	unsettled      []sized // the leader's own batches that are not applied or not on its disk, in order
	unsettledBytes int     // what they count

	rejected map[NodeID]string        // peers that this node turned away, and why
	told     map[NodeID]time.Duration // when that was logged last
	refused  uint64                   // how many requests were
	work     work

	compaction      compaction
	reconfiguration reconfiguration
	reads           reads
	resolutions     []*resolution // who waits to learn what has become of an entry
}

type driverSettings struct {
	maxApplyBytes     int
	maxUnappliedBytes int
	logCacheBytes     int
	snapshotEntries   int // 0: none is taken unless somebody wants one
	snapshotBytes     int
	trailingEntries   int
	durableMachine    bool // the state machine keeps its own state
}

// sized is what a batch of proposals in the log counts.
type sized struct {
	last  Index
	bytes int
}

// deferredEvent is an event that waits for a change of the hard state.
type deferredEvent struct {
	event  any
	change uint64
}

// waitingRun are callers that wait for consecutive entries of one term, which
// the log holds: they are answered by index.
type waitingRun struct {
	first     Index
	term      Term
	proposals []proposal
}

func (w waitingRun) last() Index { return w.first + Index(len(w.proposals)) - 1 }

// work is what one advance asks the goroutines to do.
type work struct {
	save          *SaveBatch
	apply         *applyTask
	snapshot      *snapshotJob
	requests      []request
	replies       []reply
	reads         []read
	snapshotReads []snapshotRead
	chunks        []snapshotArrived
	closes        []NodeID
	resets        []NodeID
	failed        []failedRun
	outcomes      []waitOutcome
	delayed       []func() // of readers: they are to know that it takes a while
	slowReads     bool     // and so are those who gather: nobody would tell them
	notes         []note
	failure       error // the node must stop
}

// failedRun are callers whose wait ends with an error.
type failedRun struct {
	waitingRun
	err error // as it is, or the cause of an unknown outcome where first is set
}

// Events of the driver, beside those of the core.
type (
	// appliedUpTo: the state machine has applied more of the task that is out.
	appliedUpTo struct {
		index Index
		bytes int  // of entries, since the last such event
		done  bool // the whole task
	}
	// restored: the state machine is what a snapshot says.
	restored struct {
		id   EntryID
		size uint64
	}
	// failed: a goroutine met an error that the node cannot go on with.
	failed struct{ err error }
)

func newDriver(c *core, settings driverSettings) *driver {
	return &driver{
		core: c, settings: settings, verify: verifySteps, rejected: map[NodeID]string{}, told: map[NodeID]time.Duration{},
		compaction: compaction{fresh: true},
	}
}

// verifySteps makes every driver check its invariants after every step. The
// tests of this package set it.
var verifySteps = false

// advance lets events happen, in order, then time, and returns the work that
// has come of it. Batches of proposals are taken as far as proposalRoom said.
func (d *driver) advance(now time.Duration, events []any, batches []*batch) work {
	for _, event := range events {
		d.admit(now, event)
	}
	d.step(now, tick{})
	for _, b := range batches {
		d.propose(now, b)
	}
	d.settleMembership(now)
	d.settleReads(now)
	d.settleResolutions()
	effects := d.core.finish(now)
	d.collect(effects)
	if batch, ok := d.core.takeWrite(now); ok {
		save := batch // on the heap, as batch would be each time
		d.work.save = &save
	}
	d.release()
	d.schedule(now)
	d.core.log.evict(d.settings.logCacheBytes, d.applied)
	d.work.slowReads = d.reads.tellAt == 0 && !d.wantsReads()
	out := d.work
	d.work = work{}
	return out
}

// wantsMore reports whether there is use for what was left in the inbox: who takes from that
// is to go on at once, since nobody else will say so.
func (d *driver) wantsMore(in taken) bool {
	return in.more && d.proposalRoom() > 0 || in.reading && d.wantsReads()
}

// reuse takes back the work that advance has returned, once it is carried out: the next one
// needs room for its answers again.
func (d *driver) reuse(w work) { d.work.replies = emptied(w.replies) }

// emptied returns the room of answers that have gone out, unless there were very many.
func emptied(replies []reply) []reply {
	if cap(replies) > maxParked {
		return nil
	}
	clear(replies)
	return replies[:0]
}

// step lets the core take one event, under the eyes of the invariants.
func (d *driver) step(now time.Duration, event any) {
	leading, settled := d.core.role == Leader, d.core.commitIndex
	var before milestone
	if d.verify {
		before = d.core.milestone()
	}
	d.core.step(now, event)
	if d.verify {
		d.core.checkInvariants()
		checkStep(before, d.core)
	}
	if leading && d.core.role != Leader {
		// What this leader had not committed may or may not survive. The commit
		// index as it is now says nothing about that: the very step that ended the
		// leadership may have committed a successor's entries at these indexes.
		d.failFrom(settled+1, errLeadershipLost)
		d.unsettled, d.unsettledBytes = nil, 0
		d.endLeadership(d.notLeader())
	}
	d.endOvertaken(d.core.log.compacted.Index)
	if d.verify {
		d.checkWaiting()
	}
}

// checkWaiting panics if somebody waits for an entry that the log does not hold.
func (d *driver) checkWaiting() {
	for _, w := range d.waiting {
		if !d.core.log.matches(w.first, w.term) || !d.core.log.matches(w.last(), w.term) {
			panic(fmt.Sprintf("raft: invariant broken on %s: callers wait for entries %d to %d of term %d, which are not in its log", d.core.settings.id, w.first, w.last(), w.term))
		}
	}
}

// admit checks where an event comes from, and passes it on to the core.
func (d *driver) admit(now time.Duration, event any) {
	if a, ok := answererOf(event); ok {
		d.admitResponse(now, a, event)
		return
	}
	switch e := event.(type) {
	case voteRequested:
		d.admitRequest(now, e.request.Header, e.request.valid(), e.respond, event)
	case heartbeatArrived:
		d.admitRequest(now, e.request.Header, cmp.Or(e.request.valid(), d.checkOwnDisk(e.request)), e.respond, event)
	case appendArrived:
		d.admitRequest(now, e.request.Header, e.request.valid(), e.respond, event)
	case snapshotArrived:
		d.admitRequest(now, e.request.Header, e.request.valid(), e.respond, event)
	case written:
		d.step(now, event)
		d.admitDeferred(now)
		d.settle()
	case appliedUpTo:
		d.applied = e.index
		d.applying, d.compaction.fresh = !e.done, false
		d.advanceMark(e.bytes)
		d.settle()
	case restored:
		d.handleRestored(e)
		d.settle()
	case outrun:
		d.handleOutrun(e)
	case captured:
		d.handleCaptured(now, e)
	case synced:
		d.handleSynced(now, e)
	case snapshotWritten:
		d.handleSnapshotWritten(now, e)
	case snapshotWanted:
		d.handleSnapshotWanted(e)
	case changeWanted:
		d.handleChangeWanted(now, e)
	case catchUpWanted:
		d.handleCatchUpWanted(now, e)
	case transferWanted:
		d.handleTransferWanted(now, e)
	case *readWait:
		d.handleRead(now, e)
	case readLeft:
		d.handleReadLeft(e)
	case forwardArrived:
		if d.isAdmitted(now, e.request.Header, nil, e.respond, event) {
			d.handleForward(now, e)
		}
	case forwardAnswered:
		d.handleForwardAnswer(e)
	case resolveWanted:
		d.handleResolveWanted(e)
	case resolveLeft:
		d.handleResolveLeft(e)
	case timeoutNowArrived:
		d.admitRequest(now, e.request.Header, nil, e.respond, event)
	case failed:
		d.work.failure = e.err
	default:
		d.step(now, event)
	}
}

// answerer is who has answered, and what the answer says about it.
type answerer struct {
	id          NodeID
	term        Term
	incarnation uint64
}

// answererOf returns who has answered, if an event is an answer.
func answererOf(event any) (a answerer, ok bool) {
	switch e := event.(type) {
	case voteAnswered:
		if r := e.response; r != nil {
			return answerer{e.from, r.Term, r.Incarnation}, true
		}
	case heartbeatAnswered:
		if r := e.response; r != nil {
			return answerer{e.from, r.Term, r.Incarnation}, true
		}
	case appendAnswered:
		return answerer{e.from, e.response.Term, e.response.Incarnation}, true
	case snapshotAnswered:
		if r := e.response; r != nil {
			return answerer{e.from, r.Term, r.Incarnation}, true
		}
	case timeoutNowAnswered:
		if r := e.response; r != nil {
			return answerer{e.from, r.Term, r.Incarnation}, true
		}
	}
	return answerer{}, false
}

// valid checks the term: a later one is taken over.
func (a answerer) valid() error {
	if a.term > maxTerm {
		return fmt.Errorf("%w: answer of term %d", ErrInvalidMessage, a.term)
	}
	return nil
}

// settle takes note of batches that are applied, and on the leader's own disk:
// its followers may be faster than that is.
func (d *driver) settle() {
	for len(d.unsettled) > 0 && d.unsettled[0].last <= min(d.applied, d.core.log.durable) {
		d.unsettledBytes -= d.unsettled[0].bytes
		d.unsettled = d.unsettled[1:]
	}
}

// admitRequest passes a request on to the core that isAdmitted.
func (d *driver) admitRequest(now time.Duration, h Header, invalid error, respond responder, event any) {
	if d.isAdmitted(now, h, invalid, respond, event) {
		d.step(now, event)
	}
}

// isAdmitted refuses a request that is not meant for this node, or whose sender is not
// who it seems to be.
func (d *driver) isAdmitted(now time.Duration, h Header, invalid error, respond responder, event any) bool {
	if invalid == nil {
		d.adoptFingerprint(h, event)
	}
	err := d.checkHeader(h, event)
	if err == nil {
		err = invalid
	}
	if err != nil {
		d.work.replies = append(d.work.replies, reply{respond: respond, response: err})
		d.refused++
		d.reject(now, h.From, err)
		return false
	}
	d.accept(h.From)
	return true
}

// adoptFingerprint has a node that waits to be added take the cluster's fingerprint
// from the first leader that calls, or candidate: that has it among its members. The
// leader that adds it may be gone before it has called, and its vote be needed.
func (d *driver) adoptFingerprint(h Header, event any) {
	c := d.core
	if c.settings.fingerprint != ([16]byte{}) || h.To != c.settings.id || h.From == c.settings.id || !h.From.valid() {
		return
	}
	switch event.(type) {
	case voteRequested, heartbeatArrived, appendArrived:
		c.settings.fingerprint = h.Fingerprint
		c.remember()
		c.tell("join cluster", h.From, "it is of the cluster of fingerprint %x", h.Fingerprint)
	}
}

// checkHeader checks the sender of a request.
func (d *driver) checkHeader(h Header, event any) error {
	c := d.core
	switch {
	case h.Fingerprint != c.settings.fingerprint || h.Group != 0:
		return fmt.Errorf("%w: %s has fingerprint %x, %s has %x: they were founded with other names, Peers or addresses, or one of them was recovered", ErrWrongCluster, h.From, h.Fingerprint, c.settings.id, c.settings.fingerprint)
	case h.To != c.settings.id || h.From == c.settings.id || !h.From.valid():
		return fmt.Errorf("%w: from %q to %q arrived at %q: look at the addresses in Peers", ErrWrongNode, h.From, h.To, c.settings.id)
	}
	if m, member := c.configuration.member(h.From); !member || c.speaksOfAnother(m, event) {
		return nil // a leader or candidate that this node does not know of yet (§4.1)
	}
	_, err := c.meet(h.From, h.Incarnation)
	return err
}

// speaksOfAnother reports whether a request may come from a member as it was before it
// was taken out and in again, which is over, or as it is since, which this node has not
// read yet: then its disk may be another one than that which this node is to meet.
func (c *core) speaksOfAnother(m Member, event any) bool {
	follows := func(term Term) bool { return term < c.currentTerm || term == c.currentTerm && m.ID == c.leader }
	switch e := event.(type) {
	case voteRequested:
		return e.request.Added != c.configuration.origins[m.ID].added
	case heartbeatArrived:
		return e.request.Configuration != c.configuration.index
	case appendArrived:
		return follows(e.request.Term)
	case snapshotArrived:
		return follows(e.request.Term)
	default: // a forwarded call, or a TimeoutNow, from whoever it is: neither vouches for anything
		_, known := c.contact(m.ID)
		return !known
	}
}

// checkOwnDisk finds out that this node is the one that came back with another
// disk: its leader counts nothing that it says, and there is no use in following.
func (d *driver) checkOwnDisk(r *Heartbeat) error {
	own := Contact{d.core.settings.id, d.core.settings.incarnation}
	for _, contact := range r.Contacts {
		switch {
		case contact.ID != own.ID || contact.Incarnation == own.Incarnation:
		case contact.Incarnation == contested:
			return fmt.Errorf("%w: %s has heard of two storages of this node, %s, since it was taken in, and counts neither: take it out and add it again", ErrOtherDisk, r.From, own.ID)
		default:
			return fmt.Errorf("%w: %s met this node, %s, as %016x, and its storage is %016x now: take it out and add it again, or, if nobody has met it with this one, give it its old storage back",
				ErrOtherDisk, r.From, own.ID, contact.Incarnation, own.Incarnation)
		}
	}
	return nil
}

// admitResponse lets a member's answer count once the record of the first
// contact with it is durable.
func (d *driver) admitResponse(now time.Duration, a answerer, event any) {
	c, from := d.core, a.id
	if _, member := c.configuration.member(from); !member {
		if c.peer(from) != nil { // it has left, and is to learn it
			d.step(now, event)
		}
		return
	}
	if !d.mayBeFirst(from, event) {
		return
	}
	var durable bool
	err := a.valid()
	if err == nil {
		durable, err = c.meet(from, a.incarnation)
	}
	if err != nil {
		if p := c.peer(from); p != nil {
			p.otherDisk = true
		}
		d.reject(now, from, err)
		return
	}
	d.accept(from)
	if p := c.peer(from); p != nil {
		p.otherDisk = false // it has its old disk again
		p.unmet = false
	}
	if !durable {
		d.deferred = append(d.deferred, deferredEvent{event, c.lastMet})
		return
	}
	d.step(now, event)
}

// mayBeFirst reports whether an answer may be taken for the first one of a member, if there
// was none before. One that was asked for before the member was added may come late, from
// a process that had the same id and another disk.
func (d *driver) mayBeFirst(from NodeID, event any) bool {
	c := d.core
	if p := c.peer(from); p != nil {
		answer, ok := event.(heartbeatAnswered)
		return !p.unmet || ok && answer.response.Round > p.since
	}
	if _, known := c.contact(from); known || c.configuration.origins[from].added == 0 {
		return true
	}
	answer, ok := event.(voteAnswered)
	return ok && c.isOfThisElection(answer)
}

func (d *driver) admitDeferred(now time.Duration) {
	ready := 0
	for ready < len(d.deferred) && d.deferred[ready].change <= d.core.durable {
		ready++
	}
	events := d.deferred[:ready]
	d.deferred = d.deferred[ready:]
	for _, e := range events {
		d.step(now, e.event)
	}
}

// tellAgain is how long the log keeps silent about a peer that is turned away and
// let in by turns, as one whose name another process uses too.
const tellAgain = time.Minute

// reject remembers, and tells once, why a peer is turned away, until it is let in
// again.
func (d *driver) reject(now time.Duration, from NodeID, err error) {
	why := wordsOf(err)
	if !d.concerns(from) || d.rejected[from] == why {
		return
	}
	d.rejected[from] = why
	if last, ok := d.told[from]; ok && now < last+tellAgain {
		return
	}
	d.told[from] = now
	d.core.tell("turn peer away", from, "%s", why)
}

// concerns reports whether it matters that a peer is turned away: another member, or
// the leader, which a node that is to be added does not know as one yet.
func (d *driver) concerns(id NodeID) bool {
	_, member := d.core.configuration.member(id)
	return id != d.core.settings.id && (member || id != "" && id == d.core.leader)
}

// accept forgets why a member was turned away.
func (d *driver) accept(from NodeID) {
	if len(d.rejected) > 0 {
		delete(d.rejected, from)
	}
}

// proposalRoom returns how many bytes of proposals are to be taken out of their
// queue. A node that cannot append them takes them all to refuse them.
func (d *driver) proposalRoom() int {
	switch c := d.core; {
	case c.role != Leader:
		return math.MaxInt
	case c.handover != nil || c.departure > 0:
		return 0 // they wait for the next leader, or for this one to go on
	}
	return d.settings.maxUnappliedBytes - d.unsettledBytes
}

// propose appends a batch of commands, or refuses it.
func (d *driver) propose(now time.Duration, b *batch) {
	if len(b.proposals) == 0 {
		return
	}
	c := d.core
	if c.role != Leader {
		err := &NotLeaderError{Leader: c.leader, Address: d.leaderAddress()}
		d.work.failed = append(d.work.failed, failedRun{waitingRun{proposals: b.proposals}, err})
		return
	}
	first := c.log.last() + 1
	d.step(now, proposed{len(b.proposals), b.body})
	b.term.Store(uint64(c.currentTerm))
	b.first.Store(uint64(first)) // last: who sees it sees the term too
	d.waiting = append(d.waiting, waitingRun{first, c.currentTerm, b.proposals})
	d.unsettled = append(d.unsettled, sized{c.log.last(), b.size()})
	d.unsettledBytes += b.size()
}

// leaderAddress returns where the leader listens, from its own word or from
// the configuration.
func (d *driver) leaderAddress() string {
	if d.core.leaderAddress != "" {
		return d.core.leaderAddress
	}
	m, _ := d.core.configuration.member(d.core.leader)
	return m.Address
}

var errLeadershipLost = errors.New("leadership was lost")

// failFrom ends the waits for entries from an index on.
func (d *driver) failFrom(index Index, cause error) {
	for i, w := range d.waiting {
		if w.last() < index {
			continue
		}
		keep := 0
		if w.first < index {
			keep = int(index - w.first)
		}
		d.work.failed = append(d.work.failed, failedRun{waitingRun{w.first + Index(keep), w.term, w.proposals[keep:]}, cause})
		d.waiting[i].proposals = w.proposals[:keep]
	}
	d.waiting = slices.DeleteFunc(d.waiting, func(w waitingRun) bool { return len(w.proposals) == 0 })
}

// collect takes over the effects of the core.
func (d *driver) collect(e effects) {
	d.requests = append(d.requests, e.requests...)
	for _, r := range e.replies {
		if _, ok := r.response.(*AppendResponse); ok {
			d.appendReplies = append(d.appendReplies, r)
		} else {
			d.replies = append(d.replies, r)
		}
	}
	d.core.out.replies = emptied(e.replies)
	d.boundParked(&d.replies, maxParked)
	d.boundParked(&d.appendReplies, maxWindow)
	d.work.notes = append(d.work.notes, e.notes...)
	d.work.reads = append(d.work.reads, e.reads...)
	d.work.snapshotReads = append(d.work.snapshotReads, e.snapshotReads...)
	d.work.chunks = append(d.work.chunks, e.chunks...)
	d.work.closes = append(d.work.closes, e.closes...)
	d.compaction.wanted = d.compaction.wanted || e.wantSnapshot
	d.work.resets = append(d.work.resets, e.resets...)
	if d.work.failure == nil {
		d.work.failure = e.failure
	}
}

// maxParked bounds the replies that wait for the disk, but for those to AppendEntries, of
// which a leader may have a whole window under way. Peers give up waiting long before and
// ask again, so a disk that hangs makes ever more.
const maxParked = 1024

// boundParked answers the oldest of too many replies with an error.
func (d *driver) boundParked(replies *[]reply, most int) {
	for n := len(*replies) - most; n > 0; n-- {
		err := fmt.Errorf("raft: node %s: too many answers wait for its disk", d.core.settings.id)
		d.work.replies = append(d.work.replies, reply{respond: (*replies)[0].respond, response: err})
		*replies = (*replies)[1:]
	}
}

// release lets go what may leave: see [effects] for the rule. What was made in
// an earlier term is not sent any more, nor is a request of a role that is over:
// a candidate's may speak of entries that a leader has replaced since. A peer
// that waits for an answer is told the new term instead. Answers to AppendEntries keep their order; everything
// else passes what still waits.
func (d *driver) release() {
	c := d.core
	d.requests = slices.DeleteFunc(d.requests, func(r request) bool {
		stale := r.term != c.currentTerm || r.role != c.role
		ready := !stale && c.kept(r.promise)
		if ready {
			d.work.requests = append(d.work.requests, r)
		}
		return stale || ready
	})
	d.replies = slices.DeleteFunc(d.replies, func(r reply) bool {
		return d.releaseReply(r)
	})
	sent := 0
	for sent < len(d.appendReplies) && d.releaseReply(d.appendReplies[sent]) {
		sent++
	}
	d.appendReplies = slices.Delete(d.appendReplies, 0, sent)
}

// releaseReply sends a reply if it may leave. An error is one of any term.
func (d *driver) releaseReply(r reply) bool {
	c := d.core
	if _, isError := r.response.(error); r.term != c.currentTerm && !isError {
		r.response, r.promise = c.outdated(r.response), c.promised(0)
	}
	if !c.kept(r.promise) {
		return false
	}
	d.work.replies = append(d.work.replies, r)
	return true
}

// outdated returns the answer that takes the place of one made in an earlier
// term: it grants and acknowledges nothing.
func (c *core) outdated(response any) any {
	switch r := response.(type) {
	case *VoteResponse:
		return &VoteResponse{Term: c.currentTerm, PreVote: r.PreVote, Refusal: RefusalStaleTerm, Incarnation: c.settings.incarnation}
	case *HeartbeatResponse:
		return &HeartbeatResponse{Term: c.currentTerm, Round: r.Round, Incarnation: c.settings.incarnation}
	case *AppendResponse:
		return &AppendResponse{Term: c.currentTerm, PrevLogIndex: r.PrevLogIndex, Incarnation: c.settings.incarnation}
	case *TimeoutNowResponse:
		return &TimeoutNowResponse{Term: c.currentTerm, Incarnation: c.settings.incarnation}
	case *SnapshotResponse:
		return &SnapshotResponse{Term: c.currentTerm, Incarnation: c.settings.incarnation}
	default:
		panic(fmt.Sprintf("raft: no rule for an outdated %T", response))
	}
}

// scheduleApply hands out the next committed entries, one task at a time: those
// in memory up to a number of bytes, or all before them, which the applier reads
// piece by piece. The waits for them end with the task: a committed entry's
// outcome is settled.
func (d *driver) scheduleApply() {
	c := d.core
	until := c.commitIndex
	if d.settings.durableMachine { // after a crash it must not be ahead of the log
		until = min(until, c.log.durable)
	}
	if d.applied >= until {
		return
	}
	task := &applyTask{first: d.applied + 1, terms: c.log.terms}
	if from := c.log.cachedFrom(); task.first < from {
		task.last = min(until, from-1)
	} else {
		task.entries = c.log.from(task.first, d.settings.maxApplyBytes).upTo(until)
		task.last = task.entries.last()
	}
	task.waiting = takeWaiting(&d.waiting, task.last)
	d.applying, d.work.apply = true, task
}

// takeWaiting removes the waits for entries up to an index and returns them.
func takeWaiting(waiting *[]waitingRun, index Index) []waitingRun {
	var taken []waitingRun
	for len(*waiting) > 0 && (*waiting)[0].first <= index {
		w := &(*waiting)[0]
		n := len(w.proposals)
		if index < w.last() {
			n = int(index-w.first) + 1
		}
		taken = append(taken, waitingRun{w.first, w.term, w.proposals[:n:n]})
		if n < len(w.proposals) {
			w.first, w.proposals = w.first+Index(n), w.proposals[n:]
			break
		}
		*waiting = (*waiting)[1:]
	}
	return taken
}

// clone returns an independent copy, but for the callers that wait, who are
// shared.
func (d *driver) clone() *driver {
	e := *d
	e.core = d.core.clone()
	e.appendReplies = slices.Clone(d.appendReplies)
	e.replies = slices.Clone(d.replies)
	e.work.replies = slices.Clone(d.work.replies)
	e.requests = slices.Clone(d.requests)
	e.deferred = slices.Clone(d.deferred)
	e.waiting = slices.Clone(d.waiting)
	e.unsettled = slices.Clone(d.unsettled)
	e.rejected, e.told = maps.Clone(d.rejected), maps.Clone(d.told)
	e.reconfiguration, e.reads = d.reconfiguration.clone(), d.reads.clone()
	e.resolutions = slices.Clone(d.resolutions)
	e.compaction.marks, e.compaction.waiters = slices.Clone(d.compaction.marks), slices.Clone(d.compaction.waiters)
	return &e
}

// hash returns a digest of the state that later steps depend on.
func (d *driver) hash() uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, d.core.hash(), d.applied, d.applying, d.unsettled, d.unsettledBytes, len(d.replies), len(d.appendReplies), d.rejected)
	for _, e := range d.deferred {
		switch a := e.event.(type) { // the response on its own, so that it is printed and not its address
		case voteAnswered:
			fmt.Fprintln(h, e.change, a.from, a.term, a.preVote, a.response)
		case heartbeatAnswered:
			fmt.Fprintln(h, e.change, a.from, a.term, a.response)
		case appendAnswered:
			fmt.Fprintln(h, e.change, a.from, a.term, a.response)
		case snapshotAnswered:
			fmt.Fprintln(h, e.change, a.from, a.term, a.id, a.response)
		case timeoutNowAnswered:
			fmt.Fprintln(h, e.change, a.from, a.term, a.response)
		}
	}
	p := d.compaction
	fmt.Fprintln(h, p.capturing, p.writing, p.wanted, p.retryAt, p.fresh, p.sessions, p.size, p.last, p.bytes, p.marks, len(p.waiters))
	fmt.Fprintln(h, d.reconfiguration.words()...)
	fmt.Fprintln(h, d.reads.words()...)
	for _, r := range d.resolutions {
		fmt.Fprintln(h, r.EntryID)
	}
	for _, r := range d.requests {
		fmt.Fprintln(h, r.to, r.term, r.role, r.promise, r.message)
	}
	for _, r := range slices.Concat(d.replies, d.appendReplies) {
		fmt.Fprintln(h, r.term, r.promise, r.response)
	}
	for _, w := range d.waiting {
		fmt.Fprintln(h, w.first, w.term, len(w.proposals))
	}
	return h.Sum64()
}
