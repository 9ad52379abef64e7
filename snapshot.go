package raft

import (
	"errors"
	"fmt"
	"time"
)

// Snapshots (thesis ch. 5): the core's part. A leader sends its newest snapshot to
// a follower that needs entries which are not kept any more, one chunk after the
// other; a follower gathers the chunks in a file, and once that is complete it
// takes the place of the log. Files are read and written elsewhere: see effects.

// SnapshotMetadata says what a snapshot is of.
type SnapshotMetadata struct {
	EntryID                          // the last entry that it covers
	Configuration ConfigurationEntry // the one in force at that entry (§5.1)
	Sessions      []byte             // of clients at that entry (§6.3), see [sessionTable]; empty: there was none ever
}

// transfer is how far a snapshot has got, as either end knows it. The leader has at
// most one chunk being read, or under way: that is all the flow control there is.
type transfer struct {
	peer  NodeID // the other end
	id    EntryID
	size  uint64 // 0: not known yet
	next  uint64 // the offset that is wanted next
	moved uint64 // bytes that came or went since: others were there
	since time.Duration
	told  time.Duration // when its progress was told last

	// Of the receiver.
	trouble string // why the last chunk could not be stored

	// Of the leader.
	pace     pace
	busy     bool          // a chunk is being read, or is under way
	sent     time.Duration // when the chunk left that is under way
	patience time.Duration // how long its answer is waited for
}

type (
	// snapshotRead asks for a chunk of a snapshot, for a follower. It comes with
	// the event chunkRead.
	snapshotRead struct {
		peer   NodeID
		term   Term // in which this node leads
		id     EntryID
		offset uint64
		bytes  int // at most
	}
	// chunkRead: what a snapshotRead has led to.
	chunkRead struct {
		snapshotRead
		number, size uint64 // of the snapshot
		data         []byte
		err          error // instead of data
	}
	// snapshotArrived: a leader sends a chunk.
	snapshotArrived struct {
		request *InstallSnapshot
		respond responder
	}
	// chunkStored: what has become of a chunk that was to be stored.
	chunkStored struct {
		chunk    snapshotArrived
		next     uint64            // the offset wanted next
		complete *SnapshotMetadata // the snapshot is, durably
		err      error
	}
	// snapshotAnswered: a follower has answered a chunk, or not.
	snapshotAnswered struct {
		from     NodeID
		term     Term
		id       EntryID
		response *SnapshotResponse
		err      error // instead of a response
	}
)

// sendSnapshot has the next chunk read for a follower that lacks what is compacted, and
// is there.
func (c *core) sendSnapshot(now time.Duration, p *progress) {
	t := p.transfer
	away := now >= p.contact+c.settings.electionTimeout
	if t != nil && !t.busy && t.id != c.snapshot && (t.next == 0 || away && t.id.Index < c.log.compacted.Index) {
		c.endTransfer(p) // it has nothing of that one yet; or, when it has it all, it will need a newer one
		t = nil
	}
	if away { // heartbeats will tell when it is back
		p.retryAt = max(p.retryAt, now+c.settings.heartbeatInterval)
		return
	}
	if t == nil {
		if c.snapshot.Index < c.log.compacted.Index {
			c.out.wantSnapshot = true // a state machine that keeps its own state has none before it is asked for one
			return
		}
		t = &transfer{peer: p.id, id: c.snapshot, since: now, told: now}
		p.transfer = t
		c.tell("send snapshot", p.id, "it needs entry %d, and the log starts at %d: it gets the snapshot of entry %d", p.next, c.log.firstKept(), t.id.Index)
	}
	if t.busy || now < max(c.due(p), p.retryAt) {
		return
	}
	t.busy = true
	c.out.snapshotReads = append(c.out.snapshotReads, snapshotRead{p.id, c.currentTerm, t.id, t.next, max(1, c.settings.chunkBytes>>p.slow)})
}

// endTransfer ends a transfer, if there is one.
func (c *core) endTransfer(p *progress) {
	if p.transfer != nil {
		p.transfer = nil
		c.out.closes = append(c.out.closes, p.id)
	}
}

// transferTo returns the transfer that an event is about, if it still goes on.
func (c *core) transferTo(peer NodeID, term Term, id EntryID) (*progress, *transfer) {
	p := c.peer(peer)
	if p == nil || term != c.currentTerm || p.transfer == nil || p.transfer.id != id {
		return nil, nil
	}
	return p, p.transfer
}

// handleChunkRead sends a chunk. A snapshot that is not there any more has a
// newer one in its place. One that cannot be read stops the node: what its disk
// says is not what was written.
func (c *core) handleChunkRead(now time.Duration, e chunkRead) {
	p, t := c.transferTo(e.peer, e.term, e.id)
	switch {
	case t == nil:
		c.out.closes = append(c.out.closes, e.peer)
		return
	case !c.lacksCompacted(p) || e.err != nil && c.snapshot != t.id:
		c.endTransfer(p)
		return
	case e.err != nil:
		_ = c.fail(fmt.Errorf("raft: node %s cannot read its snapshot of entry %d: %w", c.settings.id, e.id.Index, e.err))
		return
	}
	t.size = e.size
	message := &InstallSnapshot{
		Header: c.header(p.id), Term: c.currentTerm, LastIndex: t.id.Index, LastTerm: t.id.Term,
		Transfer: e.number, Size: e.size, Offset: e.offset, Data: e.data,
	}
	t.sent, t.patience = now, c.patience(p, len(e.data))
	c.out.requests = append(c.out.requests, request{to: p.id, message: message, term: c.currentTerm, role: c.role, patience: t.patience})
	t.moved += uint64(len(e.data))
	t.pace.spend(now, len(e.data), 0, c.settings.snapshotRate, 0)
}

// handleSnapshotAnswer goes on with what the follower wants next, or with the log
// once it needs no more of the snapshot, whichever that was: it may have had
// another one of its own (§5.3).
func (c *core) handleSnapshotAnswer(now time.Duration, e snapshotAnswered) {
	if e.response != nil && c.stepsDownFor(now, e.from, e.response.Term) {
		return
	}
	p, t := c.transferTo(e.from, e.term, e.id)
	if t == nil || c.role != Leader {
		return
	}
	t.busy = false
	if e.err != nil {
		p.trouble = wordsOf(e.err)
		p.retryAt = now + c.settings.heartbeatInterval
		if errors.Is(e.err, ErrInvalidMessage) { // the file may have rotted since it was checked: it is checked again
			c.out.closes = append(c.out.closes, p.id)
		}
		if now >= t.sent+t.patience && now < p.contact+c.settings.electionTimeout {
			p.slow = min(p.slow+1, maxSlow)
		}
		return
	}
	if e.response.Term != c.currentTerm {
		return
	}
	p.contact, p.trouble, p.stuck = now, "", ""
	p.retryAt = now
	if p.slow > 0 && 8*(now-t.sent) < t.patience {
		p.slow--
	}
	if e.response.Match > p.match {
		c.acknowledged(now, p, e.response.Match)
	}
	switch {
	case p.match >= t.id.Index || !c.lacksCompacted(p):
		c.tell("snapshot arrived", p.id, "it has the log up to entry %d, after %v", p.match, (now - t.since).Round(time.Millisecond))
		c.endTransfer(p)
	case e.response.Next >= t.size:
		t.next = 0 // it speaks of another snapshot
	default:
		t.next = e.response.Next
		c.tellProgress(now, "sending snapshot", t)
	}
}

// tellEvery is the least time between two lines about a transfer.
const tellEvery = 10 * time.Second

// tellProgress tells how far a transfer is, now and then.
func (c *core) tellProgress(now time.Duration, action string, t *transfer) {
	if now < t.told+tellEvery {
		return
	}
	t.told = now
	c.tell(action, t.peer, "%d of %d bytes of the snapshot of entry %d are there, at %d bytes per second", t.next, t.size, t.id.Index, t.rate(now))
}

// rate returns how many bytes a second a transfer has made.
func (t *transfer) rate(now time.Duration) int64 {
	return int64(float64(t.moved) / max(now-t.since, time.Millisecond).Seconds())
}

func (t *transfer) clone() *transfer {
	if t == nil {
		return nil
	}
	u := *t
	return &u
}

func (t *transfer) status(now time.Duration) *SnapshotTransfer {
	if t == nil {
		return nil
	}
	return &SnapshotTransfer{Peer: t.peer, Index: t.id.Index, Done: t.next, Total: t.size, BytesPerSecond: t.rate(now)}
}

// handleInstallSnapshot is the receiver's side (§5.3). What this node has anyway
// needs no chunk; everything else is stored, away from here.
func (c *core) handleInstallSnapshot(now time.Duration, e snapshotArrived) {
	r := e.request
	if !c.followLeader(now, r.Term, r.From, c.addressOf(r.From)) {
		c.replySnapshot(e, 0, 0)
		return
	}
	if c.log.matches(r.LastIndex, r.LastTerm) {
		c.commitTo(r.LastIndex) // only what is committed is in a snapshot
	}
	if r.LastIndex <= c.commitIndex {
		c.incoming = nil
		c.replySnapshot(e, r.Size, c.commitIndex)
		return
	}
	if c.transferOf(r) == nil {
		c.incoming = &transfer{peer: r.From, id: EntryID{r.LastIndex, r.LastTerm}, size: r.Size, since: now, told: now}
		c.tell("receive snapshot", r.From, "it covers entry %d, in %d bytes, and the log ends at %d", r.LastIndex, r.Size, c.log.last())
	}
	c.out.chunks = append(c.out.chunks, e)
}

// transferOf returns the transfer that a chunk is of, if it still goes on.
func (c *core) transferOf(r *InstallSnapshot) *transfer {
	if t := c.incoming; t != nil && t.peer == r.From && t.id == (EntryID{r.LastIndex, r.LastTerm}) {
		return t
	}
	return nil
}

// addressOf returns where a leader listens, as far as this node knows.
func (c *core) addressOf(leader NodeID) string {
	if c.leader == leader && c.leaderAddress != "" {
		return c.leaderAddress
	}
	m, _ := c.configuration.member(leader)
	return m.Address
}

// replySnapshot answers a chunk: the offset wanted next, and up to where the log is
// settled.
func (c *core) replySnapshot(e snapshotArrived, next uint64, match Index) {
	c.reply(e.respond, &SnapshotResponse{Term: c.currentTerm, Next: next, Match: match, Incarnation: c.settings.incarnation}, c.promised(match))
}

// handleChunkStored answers a chunk, and has a complete snapshot take the place of
// the log.
func (c *core) handleChunkStored(now time.Duration, e chunkStored) {
	t := c.transferOf(e.chunk.request)
	switch {
	case e.err != nil:
		if why := wordsOf(e.err); t != nil && t.trouble != why {
			t.trouble = why
			c.tell("cannot store snapshot", t.peer, "%s", why)
		}
		c.reply(e.chunk.respond, fmt.Errorf("raft: node %s cannot store a snapshot: %w", c.settings.id, e.err), promise{})
	case e.complete == nil:
		if t != nil {
			t.next, t.trouble = e.next, ""
			t.moved += uint64(len(e.chunk.request.Data))
			c.tellProgress(now, "receiving snapshot", t)
		}
		c.replySnapshot(e.chunk, e.next, min(c.commitIndex, c.log.durable))
	default:
		c.incoming = nil
		if err := c.install(now, *e.complete); err != nil {
			c.reply(e.chunk.respond, err, promise{})
			return
		}
		c.replySnapshot(e.chunk, e.next, c.commitIndex)
	}
}

// install takes over a snapshot that is on disk. A log that has its last entry has
// all before it, and goes on as it is. Any other log is replaced: what it holds
// conflicts, or ends before (§5.3, figure 5.3). Until that is durable too this node
// takes part in no election: its log is not what it was, and not yet what it will be.
func (c *core) install(now time.Duration, s SnapshotMetadata) error {
	if s.Index > c.snapshot.Index {
		c.snapshot = s.EntryID
	}
	if c.log.matches(s.Index, s.Term) {
		c.commitTo(s.Index)
	}
	if s.Index <= c.commitIndex {
		return nil
	}
	configuration, err := decodeConfiguration(s.Configuration.Index, s.Configuration.Data)
	if err != nil {
		return c.fail(fmt.Errorf("raft: node %s: snapshot of entry %d: %w", c.settings.id, s.Index, err))
	}
	if c.role == Leader {
		return c.fail(fmt.Errorf("raft: node %s leads term %d without entry %d, which a snapshot covers: a member lost data", c.settings.id, c.currentTerm, s.Index))
	}
	c.tell("install snapshot", c.leader, "it covers entry %d, and the log ends at %d", s.Index, c.log.last())
	c.becomeFollower(now, c.currentTerm, c.leader)
	if s.Term > c.currentTerm { // only at a start: the term was not on disk yet
		c.currentTerm, c.votedFor = s.Term, ""
	}
	c.log.compact(s.EntryID)
	c.commitIndex = s.Index
	c.meetAnew(configuration)
	c.earlier = nil
	c.inForce(configuration)
	c.installing = c.remember()
	return nil
}

// isInstalling reports whether a snapshot is taking the place of the log.
func (c *core) isInstalling() bool { return c.installing > c.durable }

// snapshotTaken takes note of a snapshot that this node has made.
func (c *core) snapshotTaken(id EntryID) {
	if id.Index > c.snapshot.Index {
		c.snapshot = id
	}
}

// forget compacts the log up to an entry, or an earlier one if followers that are
// in contact need what is behind that. For them, too, nothing before keep is kept.
func (c *core) forget(now time.Duration, upTo, keep Index) {
	for _, p := range c.peers {
		needs := p.match
		if p.transfer != nil {
			needs = max(needs, p.transfer.id.Index)
		}
		if now < p.contact+c.settings.electionTimeout && !p.otherDisk {
			upTo = min(upTo, max(needs, keep))
		}
	}
	if term, ok := c.log.term(upTo); ok && upTo > c.log.compacted.Index {
		c.log.compact(EntryID{upTo, term})
		c.forgetConfigurations()
	}
}

func (r *InstallSnapshot) valid() error {
	if !r.Term.isPossible() || r.LastTerm == 0 || r.LastTerm > r.Term || r.LastIndex == 0 || r.Offset >= r.Size || uint64(len(r.Data)) > r.Size-r.Offset {
		return fmt.Errorf("%w: %d bytes at %d of %d of the snapshot of entry %d of term %d, from a leader of term %d", ErrInvalidMessage, len(r.Data), r.Offset, r.Size, r.LastIndex, r.LastTerm, r.Term)
	}
	return nil
}
