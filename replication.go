package raft

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// progress is what a leader knows about one follower (thesis §3.5).
//
// A follower is probed until it is known where its log agrees with the
// leader's: one message at a time. From then on it is replicated to: messages
// go out before earlier ones are answered, as far as the window allows.
type progress struct {
	id         NodeID
	match      Index // up to here the follower's log is durably the leader's; matchIndex in the thesis
	next       Index // the next entry to send; nextIndex in the thesis
	probing    bool
	inflight   []flight      // sent and not answered, in order
	bytes      int           // of the entries in inflight
	sentCommit Index         // the commit index that the follower will know from what was sent
	landed     time.Duration // when it last acknowledged something
	contact    time.Duration
	asked      uint64        // the last round of heartbeats that it was sent one of
	answered   uint64        // the last round of heartbeats that it has answered
	timed      uint64        // the round whose answer is timed, or was last
	timedAt    time.Duration // when that was sent
	took       time.Duration // how long answers take, an average over some
	quiet      time.Duration // how long it refuses votes after one, as it says
	retryAt    time.Duration // nothing is sent before: the last attempt was lost
	trouble    string        // why the last message was lost; empty once it answers
	otherDisk  bool          // it came back with another disk, or names impossible terms: it does not count
	reading    bool          // a read for it is out: entries wait for its end
	slow       int           // how often it needed more patience: see patience
	stuck      string        // what it has not acknowledged for long; empty once it does
	transfer   *transfer     // of a snapshot that it needs
	pace       pace          // of entries that are read for it
	paced      bool          // nothing but that keeps the next ones from being read

	granted bool // its vote made this node the leader: it was there

	unmet bool   // it gets heartbeats only, until it answers
	since uint64 // unmet: one of a round after this

	left     bool // it is no member any more, and is told so
	leftAt   time.Duration
	farewell uint64 // the first round of heartbeats that tells it
	knows    bool   // it has answered that
}

// flight is an AppendEntries that was sent and not answered.
type flight struct {
	prev  Index // PrevLogIndex
	last  Index // the same plus the number of entries
	bytes int
	sent  time.Duration
}

func newProgress(id NodeID, next Index, now time.Duration) *progress {
	return &progress{id: id, next: next, probing: true, contact: now, retryAt: now}
}

func (p *progress) clone() *progress {
	q := *p
	q.inflight = slices.Clone(p.inflight)
	q.transfer = p.transfer.clone()
	return &q
}

// numbers lists the state for a digest.
func (p *progress) numbers() []uint64 {
	n := []uint64{
		uint64(p.match), uint64(p.next), uint64(p.bytes), uint64(p.sentCommit), uint64(p.landed),
		uint64(p.contact), uint64(p.retryAt), uint64(len(p.inflight)),
	}
	for _, f := range p.inflight {
		n = append(n, uint64(f.prev), uint64(f.last), uint64(f.bytes), uint64(f.sent))
	}
	if t := p.transfer; t != nil {
		n = append(n, uint64(t.id.Index), uint64(t.id.Term), t.size, t.next, bit(t.busy), uint64(t.pace.at), uint64(t.pace.credit), uint64(t.sent), uint64(t.patience))
	}
	return append(n,
		uint64(p.pace.at), uint64(p.pace.credit), p.pace.grown, bit(p.paced), uint64(p.slow),
		bit(p.probing), bit(p.otherDisk), bit(p.reading), bit(p.granted), bit(p.unmet), p.since,
		bit(p.left), uint64(p.leftAt), p.farewell, bit(p.knows), p.asked, p.answered, p.timed, uint64(p.timedAt), uint64(p.took), uint64(p.quiet))
}

// land forgets what is in flight up to an index.
func (p *progress) land(index Index) {
	for len(p.inflight) > 0 && p.inflight[0].last <= index {
		p.bytes -= p.inflight[0].bytes
		p.inflight = p.inflight[1:]
	}
}

// probe starts again from an index: what is in flight does not count any more.
func (p *progress) probe(next Index) {
	p.probing = true
	p.next = max(next, p.match+1)
	p.inflight, p.bytes = nil, 0
	p.sentCommit = 0
}

// startAgain probes a follower that messages were lost to, from where it was
// probed before: what it has beyond match is not known to be lost. Else one lost
// message after an election would have the whole log sent again.
func (p *progress) startAgain() {
	next := p.match + 1
	if p.probing {
		next = p.next
	}
	p.probe(next)
}

func (c *core) peer(id NodeID) *progress {
	for _, p := range c.peers {
		if p.id == id {
			return p
		}
	}
	return nil
}

// replicate sends a follower what it lacks, as far as its window allows. What
// is not in memory any more is read first, at a pace unless commands wait for it, and
// sent by handleEntriesRead: until then the follower gets heartbeats only. While it is not known where the logs
// agree nothing is read: a message without entries finds that out as well. One
// that lacks what is compacted gets a snapshot.
func (c *core) replicate(now time.Duration, p *progress) {
	if p.unmet {
		return
	}
	if c.lacksCompacted(p) && !p.otherDisk {
		if !p.left {
			c.sendSnapshot(now, p)
		}
		return
	}
	c.endTransfer(p) // if there was one, it is not needed any more
	p.paced = false
	for !p.otherDisk && !p.reading && now >= p.retryAt && c.mayFly(p) {
		var entries Entries
		switch inMemory := p.next >= c.log.cachedFrom(); {
		case inMemory:
			entries = c.log.from(p.next, c.batchBytes(p))
		case !p.probing && now < c.due(p) && c.goOnWithout(now, p):
			p.paced = true
			return
		case !p.probing:
			p.reading = true
			c.out.reads = append(c.out.reads, read{p.id, c.currentTerm, p.next, c.log.cachedFrom() - 1, c.batchBytes(p)})
			return
		}
		announce := min(c.settled, p.match) > p.sentCommit && len(p.inflight) == 0
		if entries.Len() == 0 && !announce && !(p.probing && p.match < c.log.last()) {
			return
		}
		c.sendEntries(now, p, entries)
	}
}

// lacksCompacted reports whether a follower lacks entries, or may, that are not
// kept any more.
func (c *core) lacksCompacted(p *progress) bool { return p.next < c.log.firstKept() }

// due returns when the next chunk, or the next entries that must be read, may go to
// a follower.
func (c *core) due(p *progress) time.Duration {
	if p.transfer != nil {
		return p.transfer.pace.due(0, c.settings.snapshotRate)
	}
	return p.pace.due(c.log.grown, c.settings.snapshotRate)
}

// goOnWithout reports whether a majority in contact has more than a follower, so that
// nothing is committed the later if that takes its time.
func (c *core) goOnWithout(now time.Duration, follower *progress) bool {
	matched := c.configuration.reached(func(id NodeID) uint64 {
		if id == c.settings.id {
			return uint64(c.log.durable)
		}
		if p := c.peer(id); p != follower && now < p.contact+c.settings.electionTimeout {
			return uint64(p.match)
		}
		return 0
	})
	return Index(matched) > follower.match
}

// sendEntries sends a follower entries, the next ones for it, or none.
func (c *core) sendEntries(now time.Duration, p *progress, entries Entries) {
	prevTerm, ok := c.log.term(p.next - 1)
	if !ok {
		panic(fmt.Sprintf("raft: next index %d of %s is not in the log from %d to %d", p.next, p.id, c.log.firstKept(), c.log.last()))
	}
	message := &AppendEntries{
		Header: c.header(p.id), Term: c.currentTerm,
		PrevLogIndex: p.next - 1, PrevLogTerm: prevTerm, Entries: entries,
		LeaderCommit: c.commitIndex, LeaderAddress: c.settings.address,
	}
	r := request{to: p.id, message: message, term: c.currentTerm, role: c.role, patience: c.patience(p, entries.Size())}
	c.out.requests = append(c.out.requests, r)
	last := p.next - 1 + Index(entries.Len())
	p.inflight = append(p.inflight, flight{p.next - 1, last, entries.Size(), now})
	p.bytes += entries.Size()
	p.sentCommit = min(c.commitIndex, last)
	if !p.probing {
		p.next = last + 1 // optimistically
	}
}

// handleEntriesRead sends what was read for a follower, if that still waits for
// it. A log that cannot be read, or not as it was written, stops the node. The
// error of a read for an earlier term says nothing: the entries may have been
// replaced since.
func (c *core) handleEntriesRead(now time.Duration, e entriesRead) {
	p := c.peer(e.peer)
	if p == nil || e.term != c.currentTerm {
		return
	}
	p.reading = false
	if e.first < c.log.firstKept() {
		return // it gets a snapshot
	}
	err := e.err
	if err == nil {
		err = c.log.terms.check(e.entries, e.first, e.last)
	}
	switch {
	case errors.Is(err, ErrCompacted):
		p.trouble = wordsOf(err)
		p.retryAt = now + c.settings.heartbeatInterval
	case err != nil:
		_ = c.fail(fmt.Errorf("raft: node %s cannot read entries %d to %d of its log: %w", c.settings.id, e.first, e.last, err))
	case p.next == e.first && !p.probing && !p.otherDisk && now >= p.retryAt:
		entries := e.entries.from(e.first, e.maxBytes)
		c.sendEntries(now, p, entries)
		p.pace.spend(now, entries.Size(), c.log.grown, c.settings.snapshotRate, c.settings.maxInflightBytes)
	}
}

// mayFly reports whether the window has room for one more message.
func (c *core) mayFly(p *progress) bool {
	if len(p.inflight) == 0 {
		return true
	}
	return !p.probing && len(p.inflight) < c.settings.maxInflightMessages && p.bytes < c.settings.maxInflightBytes
}

// handleProposal appends commands to the leader's log.
func (c *core) handleProposal(e proposed) {
	if c.role != Leader {
		panic(fmt.Sprintf("raft: proposal to %s, which is a %s", c.settings.id, c.role))
	}
	c.log.appendRun(run{term: c.currentTerm, first: c.log.last() + 1, count: e.count, body: e.body}.summed())
}

// handleAppendEntries is the receiver's side of AppendEntries (§3.5).
func (c *core) handleAppendEntries(now time.Duration, e appendArrived) {
	r := e.request
	if !c.followLeader(now, r.Term, r.From, r.LeaderAddress) {
		c.rejectAppend(e, 0, 0)
		return
	}
	entries := r.Entries
	if r.PrevLogIndex < c.log.compacted.Index {
		var err error
		if entries, err = c.afterCompacted(r.From, entries); err != nil {
			c.reply(e.respond, err, promise{})
			return
		}
	} else if !c.log.matches(r.PrevLogIndex, r.PrevLogTerm) {
		index, term := c.log.agreement(r.PrevLogIndex, r.PrevLogTerm)
		c.tell("reject entries", r.From, "entry %d of term %d, which they follow, is not here: the logs may agree up to %d", r.PrevLogIndex, r.PrevLogTerm, index)
		c.rejectAppend(e, index, term)
		return
	}
	last := r.PrevLogIndex + Index(r.Entries.Len())
	if fresh := c.unknown(entries); len(fresh.runs) > 0 {
		if err := c.appendFresh(r.From, fresh); err != nil {
			c.reply(e.respond, err, promise{})
			return
		}
	}
	c.commitTo(min(r.LeaderCommit, last))
	c.reply(e.respond, &AppendResponse{Term: c.currentTerm, Success: true, Match: last, Incarnation: c.settings.incarnation}, c.promised(last))
}

func (c *core) rejectAppend(e appendArrived, index Index, term Term) {
	c.reply(e.respond, &AppendResponse{
		Term: c.currentTerm, PrevLogIndex: e.request.PrevLogIndex,
		ConflictIndex: index, ConflictTerm: term, Incarnation: c.settings.incarnation,
	}, c.promised(0))
}

// afterCompacted returns those of a late message's entries that are not
// compacted here. The others, and the one that they follow, are committed, so
// the leader's log agrees with this one in them (§3.6.3, Leader Completeness).
// That is checked where the term is still known.
func (c *core) afterCompacted(from NodeID, entries Entries) (Entries, error) {
	compacted := c.log.compacted
	if covered := entries.upTo(compacted.Index); covered.last() == compacted.Index && covered.runs[len(covered.runs)-1].term != compacted.Term {
		return Entries{}, c.refuseToReplace(from, compacted.Index)
	}
	return entries.from(compacted.Index+1, math.MaxInt), nil
}

// unknown returns the entries from the first one on that the log does not have.
// Those before are not touched: a late message must not remove what followed it.
func (c *core) unknown(entries Entries) Entries {
	for i, r := range entries.runs {
		if c.log.matches(r.last(), r.term) {
			continue // and so all before it: logs that agree at an index agree up to it
		}
		known := 0
		for c.log.matches(r.first+Index(known), r.term) {
			known++
		}
		if known == 0 {
			return Entries{entries.runs[i:]}
		}
		_, r = r.split(known)
		return Entries{append([]run{r}, entries.runs[i+1:]...)}
	}
	return Entries{}
}

// appendFresh appends entries that the log does not have, in place of any that
// conflict. It refuses to remove a committed entry: then one of the nodes has
// lost what it had promised to keep.
func (c *core) appendFresh(from NodeID, fresh Entries) error {
	first := fresh.First()
	if first <= c.commitIndex {
		return c.refuseToReplace(from, first)
	}
	if first <= c.log.last() {
		c.tell("replace entries", from, "entries %d to %d conflict with its own", first, c.log.last())
		c.rollBack(first)
	}
	if err := c.log.replaceFrom(fresh); err != nil {
		panic(err) // the entries follow one that the log has
	}
	return c.adoptFrom(fresh)
}

func (c *core) refuseToReplace(from NodeID, index Index) error {
	return c.fail(fmt.Errorf("raft: node %s: leader %s of term %d sends another entry %d than the one that is committed here (commit index %d): a member lost data, or members of two clusters were mixed", c.settings.id, from, c.currentTerm, index, c.commitIndex))
}

// commitTo raises the commit index; it never falls.
func (c *core) commitTo(index Index) { c.commitIndex = max(c.commitIndex, min(index, c.log.last())) }

// handleAppendResponse learns from a follower's answer where its log agrees.
func (c *core) handleAppendResponse(now time.Duration, e appendAnswered) {
	r := e.response
	if c.stepsDownFor(now, e.from, r.Term) || c.role != Leader || e.term != c.currentTerm || r.Term != c.currentTerm {
		return
	}
	p := c.peer(e.from)
	if p == nil {
		return
	}
	p.contact, p.trouble, p.stuck = now, "", ""
	p.retryAt = now // there is room again, if there was none
	if r.Success {
		c.lessPatience(now, p, r.Match)
		p.landed = now
		c.acknowledged(now, p, r.Match)
		return
	}
	stale := r.PrevLogIndex <= p.match || p.probing && r.PrevLogIndex != p.next-1
	if stale {
		return
	}
	index, _ := c.log.agreement(r.ConflictIndex, r.ConflictTerm)
	c.tell("probe follower", e.from, "its log lacks entry %d: the logs may agree up to %d", r.PrevLogIndex, index)
	p.probe(min(index+1, r.PrevLogIndex))
}

// acknowledged takes note that a follower durably has the log up to an index.
func (c *core) acknowledged(now time.Duration, p *progress, match Index) {
	if match > c.log.last() {
		c.tell("ignore acknowledgement", p.id, "it is of entry %d, the log ends at %d", match, c.log.last())
		return
	}
	p.land(match)
	if p.probing && match >= p.next-1 {
		p.probing = false
		p.inflight, p.bytes = nil, 0
	}
	p.next = max(p.next, match+1)
	if match > p.match {
		p.match = match
		c.advanceCommit(now)
	}
}

// advanceCommit commits what a majority has, the leader itself included as far
// as its own disk has it. Only an entry of the own term is committed by
// counting; it commits all before it (§3.6.2).
func (c *core) advanceCommit(now time.Duration) {
	index := Index(c.configuration.reached(func(id NodeID) uint64 {
		if id == c.settings.id {
			return uint64(c.log.durable)
		}
		return uint64(c.peer(id).match)
	}))
	if index > c.commitIndex && c.log.matches(index, c.currentTerm) {
		c.commitIndex = index
		c.configurationCommitted(now)
	}
}

// handleAppendLost starts again with a follower that messages were lost to,
// after a pause: an unreachable peer costs one attempt a heartbeat.
func (c *core) handleAppendLost(now time.Duration, e appendLost) {
	p := c.peer(e.to)
	if p == nil || e.term != c.currentTerm {
		return
	}
	if e.err != nil {
		p.trouble = wordsOf(e.err)
	}
	p.startAgain()
	p.retryAt = now + c.settings.heartbeatInterval
}

// handleAppendUnsent takes back what the stream to a follower had no room for.
// What is in the stream already stays.
func (c *core) handleAppendUnsent(now time.Duration, e appendUnsent) {
	p := c.peer(e.to)
	if p == nil || e.term != c.currentTerm {
		return
	}
	for n := len(p.inflight); n > 0 && p.inflight[n-1].prev >= e.prev; n-- {
		p.bytes -= p.inflight[n-1].bytes
		p.inflight = p.inflight[:n-1]
	}
	p.sentCommit = min(p.sentCommit, e.prev)
	p.next = min(p.next, max(p.match, e.prev)+1)
	p.trouble = cmp.Or(p.trouble, "its append stream takes no more at present")
	p.retryAt = now + c.settings.heartbeatInterval
}

// patience is how long a follower may take to acknowledge entries of that size,
// from when those before them were acknowledged, until they are sent again: two
// election timeouts, and what a slow link needs. If this was not enough for a
// follower that could be reached, its link is taken to be half as fast, batches are a
// quarter as large, and chunks of snapshots half, up to maxSlow times. A stream may be
// wedged as well as slow, so what is small never waits for much longer.
func (c *core) patience(p *progress, bytes int) time.Duration {
	const slowLink = 512 << 10 // bytes per second
	return 2*c.settings.electionTimeout + time.Duration(bytes)*time.Second/slowLink<<p.slow
}

const maxSlow = 6

// batchBytes bounds the entries in one message to a follower.
func (c *core) batchBytes(p *progress) int { return c.settings.maxBatchBytes >> (2 * p.slow) }

// lessPatience takes patience back from a follower that acknowledges in much less
// time than it is given.
func (c *core) lessPatience(now time.Duration, p *progress, match Index) {
	if p.slow == 0 || len(p.inflight) == 0 || p.inflight[0].last > match {
		return
	}
	first := p.inflight[0]
	if took := now - max(first.sent, p.landed); 8*took < c.patience(p, first.bytes) {
		p.slow--
	}
}

// checkStreams gives up messages that were not answered for long: the stream
// may be wedged, or a message was lost in it.
func (c *core) checkStreams(now time.Duration) {
	for _, p := range c.peers {
		if len(p.inflight) == 0 {
			continue
		}
		first := p.inflight[0]
		waits := now - max(first.sent, p.landed)
		if waits >= c.patience(p, first.bytes) {
			told := p.stuck != "" // once until it acknowledges something
			p.stuck = fmt.Sprintf("entries up to %d were not acknowledged for %v", first.last, waits)
			if !told {
				c.tell("probe follower", p.id, "%s", p.stuck)
			}
			p.startAgain()
			if now < p.contact+c.settings.electionTimeout {
				p.slow = min(p.slow+1, maxSlow)
			}
			c.out.resets = append(c.out.resets, p.id)
		}
	}
}
