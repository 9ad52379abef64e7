package raft

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"
)

// Role is what a node is in its cluster at present (thesis §3.3).
type Role uint8

// The roles. A PreCandidate asks whether it could win an election before it
// disturbs anybody with a new term (§9.6).
const (
	Follower Role = iota
	PreCandidate
	Candidate
	Leader
)

func (r Role) String() string {
	switch r {
	case Follower:
		return "follower"
	case PreCandidate:
		return "pre-candidate"
	case Candidate:
		return "candidate"
	case Leader:
		return "leader"
	default:
		return fmt.Sprintf("role(%d)", uint8(r))
	}
}

// MarshalText makes roles readable in JSON.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (r *Role) UnmarshalText(text []byte) error {
	for role := Follower; role <= Leader; role++ {
		if role.String() == string(text) {
			*r = role
			return nil
		}
	}
	return fmt.Errorf("raft: %q is not a role", text)
}

// core is the Raft algorithm as a value that can be stepped: an event and the
// time go in, effects come out. It has no goroutine, lock, clock, disk, socket,
// logger or global random source, so the same state and the same events always
// lead to the same result. Times are durations since an arbitrary start.
//
// Every exported rule of the paper is a method here or in election.go,
// replication.go and log.go.
type core struct {
	settings coreSettings
	chance   rand.PCG // the only source of randomness

	// Durable state, and how much of it is on disk. Whoever changes one of
	// currentTerm, votedFor and contacts calls remember.
	currentTerm   Term
	votedFor      NodeID
	contacts      []Contact // sorted by ID
	joined        bool      // this disk is not a founding member's
	remembered    uint64    // counts the changes of the three
	durable       uint64    // the last change that is on disk
	writing       uint64    // the last change in the write under way
	lastMet       uint64    // the last change of contacts
	writingSince  time.Duration
	isWriting     bool
	configuration configuration   // in force
	earlier       []configuration // those before it that still matter, in order
	belonged      bool            // one in force had this node as a member
	reconfigured  uint64          // counts the changes of what is in force

	log         raftLog
	commitIndex Index
	snapshot    EntryID   // what the newest one on disk covers; zero: there is none
	installing  uint64    // the change by which a snapshot takes the log's place
	incoming    *transfer // of a snapshot that a leader sends

	role          Role
	leader        NodeID // in currentTerm; empty: not known
	leaderAddress string
	leaderContact time.Duration // when the leader was last heard from
	heardLeader   bool          // since the start: leaderContact means something
	quietUntil    time.Duration // no votes before: a promise made before a restart may still stand

	electionDeadline time.Duration // follower, candidates: when to campaign
	candidacy        uint64        // candidate: the change that holds its own vote
	ballots          map[NodeID]ballot

	settled      Index         // leader: commitIndex before the present batch of steps: it is announced alone only if no entries followed it at once
	heartbeatDue time.Duration // leader: when the next round to everybody starts
	round        uint64        // leader: counts rounds of heartbeats
	readRound    uint64        // the last round that reads have asked for
	hedgeAt      time.Duration // leader: when those voters are asked that were not asked first, if need be; 0: they were
	lease        lease         // leader: the right to answer reads by the clock
	peers        []*progress   // leader: the other members, sorted by ID
	handover     *handover     // leader: nil: none is under way
	handoverEnd  string        // why the last one failed
	departure    time.Duration // leader: when it leaves, being no voter any more, unless it is handing over; 0: it stays
	preferAt     time.Duration // leader: no handing over to a preferred one before

	out effects
}

// coreSettings are the parts of Config that the core needs, and who it is.
type coreSettings struct {
	id                  NodeID
	address             string
	fingerprint         [16]byte
	incarnation         uint64
	heartbeatInterval   time.Duration
	electionTimeout     time.Duration
	lease               time.Duration // how long a leader answers reads by its clock; 0: never
	diskStallLimit      time.Duration
	maxBatchBytes       int
	maxInflightBytes    int
	maxInflightMessages int
	join                bool // it may have no configuration yet: it waits to be added
	snapshotRate        int  // bytes per second to one follower
	chunkBytes          int  // of a snapshot, sent at once
}

// ballot is what a peer answered in the present (pre-)election.
type ballot struct {
	granted bool
	lost    bool   // there was no answer
	why     string // of a refusal, or why there was no answer
}

// effects is what steps led to, in order. This type and [driver.release] state
// and enforce the one rule about durability: a request or a reply leaves only
// when the promise that it makes is on disk. AppendEntries of a leader, chunks of
// its snapshots and pre-votes promise nothing and may leave at once.
type effects struct {
	requests      []request
	replies       []reply
	reads         []read
	snapshotReads []snapshotRead
	chunks        []snapshotArrived // to be stored
	wantSnapshot  bool              // a follower needs a newer one than there is
	closes        []NodeID          // to whom no snapshot is sent any more: its file need not be kept open
	notes         []note
	resets        []NodeID // append streams to open anew
	failure       error    // the node must stop
}

// promise is what must be durable before a message may leave: hard state up to
// a change, and the log up to an index. A response's term is part of its
// promise too, so that a node never restarts in a term before one that it used.
type promise struct {
	change uint64
	index  Index
}

// request is a message to a peer.
type request struct {
	to      NodeID
	message any // *VoteRequest, *Heartbeat, *AppendEntries, *InstallSnapshot, *TimeoutNow or *ForwardRequest
	term    Term
	role    Role // in which it was made: in another one it is not sent any more
	promise promise

	patience time.Duration // with entries and chunks: how long to wait for the answer
}

// responder takes the answer to a peer's request. The core passes it on.
type responder func(response any, err error)

// reply is the answer to a peer's request.
type reply struct {
	respond  responder
	response any  // a response message, or an error
	term     Term // the term in which it was made: later it is stale
	promise  promise
}

// read asks for entries that are not in memory any more, for a follower that
// lacks them. They come with the event entriesRead.
type read struct {
	peer        NodeID
	term        Term // in which this node leads
	first, last Index
	maxBytes    int
}

// note is a line of narration about something rare: fact -> action.
type note struct {
	action string // constant, for logs
	peer   NodeID // whom it is about; empty: nobody
	fact   string
	term   Term
}

// The events of the core.
type (
	tick          struct{} // time has passed
	voteRequested struct {
		request *VoteRequest
		respond responder
	}
	heartbeatArrived struct {
		request *Heartbeat
		respond responder
	}
	appendArrived struct {
		request *AppendEntries
		respond responder
	}

	// The answers of peers come with what was asked: the term, and the kind.
	voteAnswered struct {
		from     NodeID
		term     Term
		preVote  bool
		response *VoteResponse
		err      error // instead of a response
	}
	heartbeatAnswered struct {
		from     NodeID
		term     Term
		response *HeartbeatResponse
		err      error // instead of a response
	}
	appendAnswered struct {
		from     NodeID
		term     Term
		response *AppendResponse
	}
	// appendLost: some AppendEntries of that term did not reach the peer, or
	// their answers were lost.
	appendLost struct {
		to   NodeID
		term Term
		err  error
	}
	// appendUnsent: the stream to the peer had no room for an AppendEntries.
	appendUnsent struct {
		to   NodeID
		term Term
		prev Index // its PrevLogIndex
	}
	// proposed: entries of commands for a leader, with index and term still to
	// be stamped on.
	proposed struct {
		count int
		body  []byte
	}
	// written: the write under way is durable.
	written struct{}
	// entriesRead: what a read has led to.
	entriesRead struct {
		read
		entries Entries
		err     error // instead of entries
	}
)

// newCore returns a follower with the state that a storage has kept. One that
// comes back after a restart stays quiet for an election timeout: it may have
// promised a leader that it would, and a sole voter has nobody to promise to.
func newCore(settings coreSettings, state StorageState, restarted bool, seed uint64, now time.Duration) (*core, error) {
	c := &core{
		settings:    settings,
		chance:      *rand.NewPCG(seed, settings.incarnation),
		currentTerm: state.HardState.Term,
		votedFor:    state.HardState.VotedFor,
		contacts:    slices.Clone(state.HardState.Contacts),
		joined:      state.HardState.Joined,
		log:         newLog(state),
		ballots:     map[NodeID]ballot{},
	}
	if err := state.check(); err != nil {
		return nil, fmt.Errorf("raft: storage of node %q does not fit together: %w", settings.id, err)
	}
	c.commitIndex = state.Commit
	if err := c.loadConfigurations(state.HardState.Configurations); err != nil {
		return nil, err
	}
	c.electionDeadline = now + c.drawElectionWait()
	switch {
	case c.soleVoter():
		c.electionDeadline = now
	case restarted:
		c.quietUntil = now + settings.electionTimeout
	}
	return c, nil
}

// step lets one event happen at a time that never falls.
func (c *core) step(now time.Duration, event any) {
	switch e := event.(type) {
	case tick:
		c.tick(now)
	case voteRequested:
		c.handleVoteRequest(now, e)
	case voteAnswered:
		c.handleVoteResponse(now, e)
	case heartbeatArrived:
		c.handleHeartbeat(now, e)
	case heartbeatAnswered:
		c.handleHeartbeatResponse(now, e)
	case appendArrived:
		c.handleAppendEntries(now, e)
	case appendAnswered:
		c.handleAppendResponse(now, e)
	case appendLost:
		c.handleAppendLost(now, e)
	case proposed:
		c.handleProposal(e)
	case written:
		c.handleWritten(now)
	case appendUnsent:
		c.handleAppendUnsent(now, e)
	case entriesRead:
		c.handleEntriesRead(now, e)
	case chunkRead:
		c.handleChunkRead(now, e)
	case snapshotAnswered:
		c.handleSnapshotAnswer(now, e)
	case snapshotArrived:
		c.handleInstallSnapshot(now, e)
	case chunkStored:
		c.handleChunkStored(now, e)
	case configurationProposed:
		c.enter(now, e.next)
	case handoverWanted:
		c.startHandover(now, e.to)
	case timeoutNowArrived:
		c.handleTimeoutNow(now, e)
	case timeoutNowAnswered:
		c.handleTimeoutNowAnswer(now, e)
	case roundWanted:
		c.startRound(now)
	default:
		panic(fmt.Sprintf("raft: core has no rule for event %T", event))
	}
}

// finish ends a batch of steps: it sends what has become due to the followers,
// merged over the whole batch, and returns the effects of all its steps.
func (c *core) finish(now time.Duration) effects {
	if c.role == Leader {
		c.advanceHandover(now)
		for _, p := range c.peers {
			c.replicate(now, p)
		}
	}
	c.settled = c.commitIndex
	out := c.out
	c.out = effects{}
	return out
}

// tick does what is due by time alone.
func (c *core) tick(now time.Duration) {
	if c.role == Leader {
		c.checkQuorum(now)
		c.checkDisk(now)
	}
	if c.role == Leader && c.departure > 0 && now >= c.departure && c.handover == nil {
		c.becomeFollower(now, c.currentTerm, "")
	}
	if c.role == Leader {
		c.letGo(now)
		c.prefer(now)
		c.checkStreams(now)
		if now >= c.heartbeatDue {
			c.sendHeartbeats(now)
		}
		if c.hedgeAt > 0 && now >= c.hedgeAt {
			c.hedge(now)
		}
		return
	}
	if now >= c.electionDeadline {
		c.campaign(now)
	}
}

// deadline returns when the next tick is due.
func (c *core) deadline() time.Duration {
	if c.role != Leader {
		return c.electionDeadline
	}
	next := c.heartbeatDue // often enough for the checks, too
	if c.handover != nil {
		next = min(next, c.handover.deadline)
	}
	if c.hedgeAt > 0 {
		next = min(next, c.hedgeAt)
	}
	for _, p := range c.peers {
		if t := p.transfer; t != nil && !t.busy && !p.otherDisk || p.paced {
			next = min(next, max(c.due(p), p.retryAt))
		}
	}
	return next
}

// The three doors, and the fourth of pre-vote: nothing else assigns role.

// becomeFollower enters a term, or stays in the present one, as a follower of
// leader, which may be unknown. A node that was leading draws a new wait; any
// other keeps its own, so that a stale candidate cannot keep it from
// campaigning by its requests.
func (c *core) becomeFollower(now time.Duration, term Term, leader NodeID) {
	if term < c.currentTerm {
		panic(fmt.Sprintf("raft: %s would go back from term %d to %d", c.settings.id, c.currentTerm, term))
	}
	wasLeader := c.role == Leader
	if term > c.currentTerm {
		c.currentTerm, c.votedFor = term, ""
		c.remember()
		c.leader = ""
	}
	if c.leader != leader {
		c.leader, c.leaderAddress = leader, ""
	}
	if c.departure > 0 {
		c.depart()
	}
	c.role = Follower
	c.peers, c.handover, c.lease = nil, nil, lease{}
	clear(c.ballots)
	if wasLeader {
		c.electionDeadline = now + c.drawElectionWait()
	}
}

// becomePreCandidate starts a pre-election (§9.6): nothing durable changes.
func (c *core) becomePreCandidate(now time.Duration) {
	c.role = PreCandidate
	c.leader, c.leaderAddress = "", ""
	clear(c.ballots)
	c.electionDeadline = now + c.drawElectionWait()
}

// becomeCandidate starts an election in the next term (§3.4). The own vote
// counts once it is durable, like anybody's.
func (c *core) becomeCandidate(now time.Duration) {
	c.role = Candidate
	c.leader, c.leaderAddress = "", ""
	c.currentTerm++
	c.votedFor = c.settings.id
	c.candidacy = c.remember()
	clear(c.ballots)
	c.electionDeadline = now + c.drawElectionWait()
}

// becomeLeader takes over after a won election: a no-op of the new term goes
// into the log at once, so that what earlier leaders left can be committed
// (§3.6.2, §6.4), and a first round of heartbeats tells everybody.
func (c *core) becomeLeader(now time.Duration) {
	if c.role != Candidate {
		panic(fmt.Sprintf("raft: %s becomes leader as %s", c.settings.id, c.role))
	}
	c.role = Leader
	c.leader, c.leaderAddress = c.settings.id, c.settings.address
	c.peers, c.preferAt = nil, now+10*c.settings.electionTimeout
	c.followMembers(now)
	for _, p := range c.peers {
		p.granted = c.ballots[p.id].granted
	}
	clear(c.ballots)
	c.log.appendRun(run{term: c.currentTerm, first: c.log.last() + 1, count: 1, body: appendEntry(nil, EntryNoop, nil)})
	c.sendHeartbeats(now)
}

// remember counts a change of the hard state and returns its number: what
// depends on the change waits until it is durable.
func (c *core) remember() uint64 {
	c.remembered++
	return c.remembered
}

// takeWrite returns what is not durable yet, and false if there is nothing or
// a write is under way already: the next batch gathers meanwhile. The event
// written must follow.
func (c *core) takeWrite(now time.Duration) (SaveBatch, bool) {
	if c.isWriting || c.writing == c.remembered && c.log.isHanded() {
		return SaveBatch{}, false
	}
	var batch SaveBatch
	batch.Compacted, batch.Entries = c.log.hand()
	batch.Commit = min(c.commitIndex, c.log.handed) // a log never says that more is committed than it holds
	if c.writing != c.remembered {
		batch.HardState = &HardState{
			ID: c.settings.id, Term: c.currentTerm, VotedFor: c.votedFor,
			Incarnation: c.settings.incarnation, Fingerprint: c.settings.fingerprint,
			Contacts:       slices.Clone(c.contacts),
			Joined:         c.joined,
			Configurations: c.configurationEntries(),
		}
	}
	c.isWriting, c.writingSince, c.writing = true, now, c.remembered
	return batch, true
}

// handleWritten takes note of the end of the write under way: the own vote and
// the leader's own entries count from now on.
func (c *core) handleWritten(now time.Duration) {
	c.isWriting = false
	c.durable = c.writing
	c.log.written()
	switch c.role {
	case Candidate:
		c.countVotes(now)
	case Leader:
		c.advanceCommit(now)
	}
}

// kept reports whether a promise is durable.
func (c *core) kept(p promise) bool {
	return p.change <= c.durable && p.index <= c.log.durable
}

// promised returns the promise of the hard state as it is, and of the log up
// to index.
func (c *core) promised(index Index) promise { return promise{c.remembered, index} }

func (c *core) header(to NodeID) Header {
	return Header{Fingerprint: c.settings.fingerprint, From: c.settings.id, To: to, Incarnation: c.settings.incarnation}
}

func (c *core) reply(respond responder, response any, p promise) {
	c.out.replies = append(c.out.replies, reply{respond, response, c.currentTerm, p})
}

func (c *core) send(to NodeID, message any, p promise) {
	c.out.requests = append(c.out.requests, request{to: to, message: message, term: c.currentTerm, role: c.role, promise: p})
}

// tell narrates: because of this fact about a peer, that action. Only for what
// is rare.
func (c *core) tell(action string, peer NodeID, format string, args ...any) {
	c.out.notes = append(c.out.notes, note{action, peer, fmt.Sprintf(format, args...), c.currentTerm})
}

// fail stops the node: it found that it cannot go on without breaking a promise.
func (c *core) fail(err error) error {
	if c.out.failure == nil {
		c.out.failure = err
	}
	return err
}

// clone returns an independent copy.
func (c *core) clone() *core {
	d := *c
	d.contacts, d.earlier = slices.Clone(c.contacts), slices.Clone(c.earlier)
	d.log = c.log.clone()
	d.incoming = c.incoming.clone()
	if c.handover != nil {
		h := *c.handover
		d.handover = &h
	}
	d.ballots = make(map[NodeID]ballot, len(c.ballots))
	for id, b := range c.ballots {
		d.ballots[id] = b
	}
	d.peers = make([]*progress, len(c.peers))
	for i, p := range c.peers {
		d.peers[i] = p.clone()
	}
	d.out = effects{
		requests: slices.Clone(c.out.requests), replies: slices.Clone(c.out.replies),
		reads: slices.Clone(c.out.reads), snapshotReads: slices.Clone(c.out.snapshotReads),
		chunks: slices.Clone(c.out.chunks), wantSnapshot: c.out.wantSnapshot, closes: slices.Clone(c.out.closes),
		resets: slices.Clone(c.out.resets), notes: slices.Clone(c.out.notes), failure: c.out.failure,
	}
	return &d
}

// hash returns a digest of the state that later steps depend on. Two cores of
// equal hash act alike.
func (c *core) hash() uint64 {
	var b []byte
	number := func(values ...uint64) {
		for _, v := range values {
			b = binary.AppendUvarint(b, v)
		}
	}
	text := func(s string) { number(uint64(len(s))); b = append(b, s...) }
	flag := func(v bool) { number(bit(v)) }
	chance, _ := c.chance.MarshalBinary()
	text(string(chance))
	text(string(c.settings.id))
	number(uint64(c.currentTerm), c.remembered, c.durable, c.writing, c.lastMet, uint64(c.writingSince))
	text(string(c.votedFor))
	flag(c.isWriting)
	for _, contact := range c.contacts {
		text(string(contact.ID))
		number(contact.Incarnation)
	}
	for _, entry := range c.configurationEntries() {
		number(uint64(entry.Index))
		text(string(entry.Data))
	}
	number(uint64(c.log.durable), uint64(c.log.handed), uint64(c.log.writing), uint64(c.commitIndex), uint64(c.settled))
	number(uint64(c.log.compacted.Index), uint64(c.log.compacted.Term), uint64(c.log.told), uint64(c.log.end), uint64(c.log.cachedFrom()))
	number(uint64(c.snapshot.Index), uint64(c.snapshot.Term), c.installing)
	for _, start := range c.log.terms {
		number(uint64(start.First), uint64(start.Term))
	}
	for entry := range (Entries{c.log.runs}).All() {
		number(uint64(entry.Kind))
		text(string(entry.Data))
	}
	number(uint64(c.role), uint64(c.leaderContact), uint64(c.quietUntil))
	text(string(c.leader))
	text(c.leaderAddress)
	flag(c.heardLeader)
	number(uint64(c.electionDeadline), c.candidacy, uint64(c.heartbeatDue), c.round, c.readRound, uint64(c.hedgeAt))
	for _, id := range sortedKeys(c.ballots) {
		text(string(id))
		flag(c.ballots[id].granted)
	}
	for _, p := range c.peers {
		text(string(p.id))
		number(p.numbers()...)
	}
	if h := c.handover; h != nil {
		text(string(h.to))
		number(uint64(h.deadline), bit(h.sent))
	}
	number(uint64(c.departure), uint64(c.preferAt), bit(c.belonged))
	number(bit(c.lease.held), uint64(c.lease.since), c.lease.round, uint64(c.lease.sent), bit(c.lease.under == c.reconfigured), bit(c.lease.void))
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

func bit(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

// checkInvariants panics if the state is one that no correct node is ever in.
func (c *core) checkInvariants() {
	must := func(ok bool, format string, args ...any) {
		if !ok {
			panic(fmt.Sprintf("raft: invariant broken on %s in term %d: ", c.settings.id, c.currentTerm) + fmt.Sprintf(format, args...))
		}
	}
	last := c.log.last()
	must(c.commitIndex <= last, "commit index %d is beyond the last entry %d", c.commitIndex, last)
	must(c.log.durable <= c.log.handed && c.log.writing <= c.log.handed && c.log.handed <= last,
		"durable %d, writing %d <= handed %d <= last %d", c.log.durable, c.log.writing, c.log.handed, last)
	must(c.durable <= c.writing && c.writing <= c.remembered, "changes durable %d <= writing %d <= remembered %d", c.durable, c.writing, c.remembered)
	must(c.log.lastTerm() <= c.currentTerm, "last entry is of the later term %d", c.log.lastTerm())
	must(!c.isInstalling() || c.role == Follower, "%s while a snapshot takes the log's place", c.role)
	must(c.commitIndex >= c.log.compacted.Index, "commit index %d is before the compacted entry %d", c.commitIndex, c.log.compacted.Index)
	c.log.checkInvariants(must)
	must((c.role == Leader) == (c.leader == c.settings.id), "role %s with leader %q", c.role, c.leader)
	must(c.role != Leader || c.votedFor == c.settings.id, "leads, having voted for %q", c.votedFor)
	must(c.role == Leader || len(c.peers) == 0, "%s keeps progress of %d peers", c.role, len(c.peers))
	for _, p := range c.peers {
		must(p.match < p.next && p.match <= last && p.next <= last+1, "peer %s: match %d < next %d, last %d", p.id, p.match, p.next, last)
		bytes := 0
		for _, f := range p.inflight {
			bytes += f.bytes
		}
		must(p.bytes == bytes, "peer %s: %d bytes under way, not %d", p.id, p.bytes, bytes)
	}
}

// milestone is what a step must not go behind.
type milestone struct {
	term     Term
	votedFor NodeID
	role     Role
	commit   EntryID // the last entry known to be committed
	last     EntryID // of the log
}

func (c *core) milestone() milestone {
	term, _ := c.log.term(c.commitIndex)
	return milestone{c.currentTerm, c.votedFor, c.role, EntryID{c.commitIndex, term}, EntryID{c.log.last(), c.log.lastTerm()}}
}

// checkStep panics if a step led from one state to another that it must not
// lead to.
func checkStep(before milestone, after *core) {
	must := func(ok bool, format string, args ...any) {
		if !ok {
			panic(fmt.Sprintf("raft: step broke an invariant on %s: ", after.settings.id) + fmt.Sprintf(format, args...))
		}
	}
	must(after.currentTerm >= before.term, "term %d after %d", after.currentTerm, before.term)
	must(after.currentTerm > before.term || before.votedFor == "" || after.votedFor == before.votedFor,
		"vote for %q after one for %q in term %d", after.votedFor, before.votedFor, after.currentTerm)
	must(after.commitIndex >= before.commit.Index, "commit index %d after %d", after.commitIndex, before.commit.Index)
	must(before.commit.Index < after.log.compacted.Index || after.log.matches(before.commit.Index, before.commit.Term),
		"committed entry %d of term %d is gone", before.commit.Index, before.commit.Term)
	if before.role == Leader && after.role == Leader { // §3.6.3, Leader Append-Only
		must(after.currentTerm == before.term, "a leader changed its term from %d to %d", before.term, after.currentTerm)
		must(after.log.matches(before.last.Index, before.last.Term), "a leader lost entry %d of its log", before.last.Index)
	}
}
