package raft

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// One node in the exploration: what it is, and what each thing that may happen
// to it makes of it. The driver and the core are the real ones. Nothing here
// depends on the other nodes, so each step of a node in some state is made once,
// however many worlds hold a node in that state.

// The times of the exploration. Every step is made at noon, and afterwards each
// time in the core is set to what says nothing: deadlines to never, contacts to
// noon or to long ago. Then time makes nothing happen unless the explorer lets it.
const (
	noon  = time.Hour
	never = 1000 * time.Hour
)

// exploredIDs are the names of the three nodes. A node's number is its place here.
var exploredIDs = [3]NodeID{"a", "b", "c"}

func numberOf(id NodeID) int { return int(id[0] - 'a') }

// member is a node in some state. It is never changed, and there is one value
// for each state only.
type member struct {
	driver  *driver
	storage *MemoryStorage // what is durable
	saving  *SaveBatch     // the write under way
	removed bool           // it has stopped, being no member any more
	sums    sums
	choices []choice // what may happen to it, but for letters

	log, disk []entrySum // of the process and of the storage
	reactions map[choice]*reaction
}

func (m *member) core() *core       { return m.driver.core }
func (m *member) self() int         { return numberOf(m.core().settings.id) }
func (m *member) durableTerm() Term { return m.storage.hardState.Term }
func (m *member) leads(term Term) bool {
	return m.core().role == Leader && m.core().currentTerm == term
}

// entrySum is an entry of a log, from index 1 on.
type entrySum struct {
	term       Term
	what       uint64 // a digest of its kind and data
	configures bool
}

func whatOf(kind EntryKind, data []byte) uint64 { return digest(append([]byte{byte(kind)}, data...)) }

// letter is a message. There is one value for each content only.
type letter struct {
	number   int32
	from, to int
	request  any // to which answer is the answer, if there is one
	answer   any
	sums     sums
}

// happening is a kind of thing that may happen to a node.
type happening uint8

const (
	delivered    happening = iota // a letter arrives
	wroteDisk                     // the write under way ends
	crashed                       // the process ends, and the next one starts; a write under way is lost
	crashedLate                   // the same, but the write under way has become durable
	timedOut                      // the election wait ends
	beatDue                       // a leader's next round of heartbeats is due
	lostQuorum                    // a leader has not heard from a majority for an election timeout
	lostLetters                   // a leader takes what a follower has not answered for lost
	commanded                     // a leader is given a command
	reconfigured                  // a leader is to change the members
	departed                      // a leader that is no voter any more has had its time

	happenings // how many there are
)

// choice is one thing that may happen to a node.
type choice struct {
	happening
	number int32 // of the letter, the follower or the command
}

func (c choice) crashes() bool { return c.happening == crashed || c.happening == crashedLate }

// reaction is what a node makes of a choice.
type reaction struct {
	member *member
	sent   []*letter
	broken *breach
}

// process is a node while it makes a step.
type process struct {
	driver  *driver
	storage *MemoryStorage
	saving  *SaveBatch
	work    work
	applied Index // by the state machine
	removed bool
	again   bool // the driver must look again: what is wrong with it has changed it
	sent    []*letter
	broken  *breach
}

// react returns what a member makes of a choice.
func (x *explorer) react(m *member, c choice) *reaction {
	r, ok := m.reactions[c]
	if !ok {
		r = x.step(m, c)
		m.reactions[c] = r
	}
	return r
}

// step lets the core and the driver make a step. A panic of theirs is a breach:
// they check their own invariants.
func (x *explorer) step(m *member, c choice) (r *reaction) {
	defer func() {
		if p := recover(); p != nil {
			r = &reaction{member: m, broken: &breach{coreInvariant, fmt.Sprint(p)}}
		}
	}()
	if m.removed {
		return &reaction{member: m}
	}
	p := &process{driver: m.driver.clone(), storage: m.storage, saving: m.saving, applied: m.driver.applied}
	events, batches := x.prepare(p, c)
	x.advance(p, events, batches)
	if c.happening == timedOut && !x.preVotes && p.driver.core.role == PreCandidate {
		x.advance(p, grantedPreVotes(p.driver.core), nil)
	}
	after := x.intern(p)
	if x.checks(nothingBack) {
		p.broken = cmp.Or(p.broken, nothingGoesBack(m, after, c.crashes()))
	}
	return &reaction{after, p.sent, p.broken}
}

// prepare makes a choice come true. It returns what the driver is to be told: of
// a timeout nothing, since that is due from now on.
func (x *explorer) prepare(p *process, c choice) (events []any, batches []*batch) {
	core := p.driver.core
	switch c.happening {
	case delivered:
		return []any{x.eventOf(x.letters[c.number])}, nil
	case wroteDisk:
		p.save()
		return []any{written{}}, nil
	case crashedLate:
		p.save()
		x.reboot(p)
	case crashed:
		x.reboot(p)
	case timedOut:
		core.electionDeadline = noon
	case beatDue:
		core.heartbeatDue = noon
	case lostQuorum:
		for _, peer := range core.peers {
			peer.contact = 0
		}
	case lostLetters:
		peer := core.peer(exploredIDs[c.number])
		peer.landed, peer.inflight[0].sent = 0, 0
	case commanded:
		b := &batch{body: appendEntry(nil, EntryCommand, []byte{'0' + byte(c.number)})}
		b.proposals = []proposal{{end: len(b.body), done: func(Result, error) {}}}
		return nil, []*batch{b}
	case reconfigured:
		if next, err := core.plannedChange(0, x.changes); err == nil {
			return []any{configurationProposed{next}}, nil
		}
	case departed:
		core.departure = noon
	}
	return nil, nil
}

// grantedPreVotes are the answers of all others, who would vote for this node.
func grantedPreVotes(c *core) []any {
	var events []any
	for _, m := range c.configuration.members {
		if m.ID != c.settings.id && c.configuration.isVoter(m.ID) {
			response := &VoteResponse{Term: c.currentTerm, VoteGranted: true, PreVote: true}
			events = append(events, voteAnswered{from: m.ID, term: c.currentTerm + 1, preVote: true, response: response})
		}
	}
	return events
}

// save makes the write under way durable.
func (p *process) save() {
	p.storage = copyOf(p.storage)
	if err := p.storage.Save(*p.saving); err != nil {
		panic(err)
	}
	p.saving = nil
}

// copyOf returns a storage of the same content. The runs of the first one are
// clipped, so that neither writes into an array of the other.
func copyOf(s *MemoryStorage) *MemoryStorage {
	log := s.memoryLog
	log.runs = slices.Clip(log.runs)
	return &MemoryStorage{hardState: s.hardState, memoryLog: log}
}

// reboot starts a process on what is durable. Nodes tell no incarnation where members
// change: whom they have met is nothing that this is about.
func (x *explorer) reboot(p *process) {
	state, err := p.storage.Load()
	if err != nil {
		panic(err)
	}
	settings := coreSettings{
		id: state.HardState.ID, address: "address", fingerprint: state.HardState.Fingerprint, incarnation: state.HardState.Incarnation,
		heartbeatInterval: beat, electionTimeout: wait, diskStallLimit: 5 * wait,
		maxBatchBytes: 1, maxInflightBytes: 1 << 20, maxInflightMessages: x.window, join: true,
	}
	if len(x.changes) > 0 {
		settings.incarnation = 0
	}
	core, err := newCore(settings, state, true, 1, noon)
	if err != nil {
		panic(err)
	}
	p.driver = newDriver(core, driverSettings{maxApplyBytes: 1 << 20, maxUnappliedBytes: 1 << 20, logCacheBytes: 1 << 20})
	p.driver.verify = true
	p.saving, p.applied = nil, p.driver.applied
}

// advance lets the driver take events and carries out what comes of them, as
// far as that is not left to the network and the disk: the state machine and
// reads of the log take no time.
func (x *explorer) advance(p *process, events []any, batches []*batch) {
	for first := true; first || len(events) > 0 || p.again; first = false {
		p.again = false
		p.work = p.driver.advance(noon, events, batches)
		if p.work.save != nil {
			p.saving = p.work.save
		}
		x.post(p)
		if x.fault != nil {
			x.fault(x, p)
		}
		events, batches = p.followUp(), nil
		stopTime(p.driver.core)
		switch {
		case p.work.failure == nil:
		case errors.Is(p.work.failure, ErrRemoved):
			p.removed, p.saving, events = true, nil, nil
			p.broken = cmp.Or(p.broken, onlyWhoIsOutStops(p))
		default:
			p.broken = cmp.Or(p.broken, &breach{nobodyHasToStop, p.work.failure.Error()})
		}
	}
}

// followUp applies and reads what the driver asked for, and returns what it is
// to be told of that.
func (p *process) followUp() []any {
	var events []any
	if task := p.work.apply; task != nil {
		p.broken = cmp.Or(p.broken, appliedInOrder(p, task))
		p.applied = task.last
		events = append(events, appliedUpTo{index: task.last, done: true})
	}
	for _, r := range p.work.reads {
		entries, err := p.storage.Entries(r.first, r.last, r.maxBytes)
		events = append(events, entriesRead{r, entries, err})
	}
	return events
}

// stopTime forgets when things happened, and puts off what is due.
func stopTime(c *core) {
	c.electionDeadline, c.heartbeatDue, c.preferAt = never, never, never
	if c.departure > 0 {
		c.departure = never
	}
	c.leaderContact, c.heardLeader, c.quietUntil = 0, false, 0
	c.writingSince, c.round, c.lease = noon, 0, lease{}
	for _, p := range c.peers {
		p.contact, p.landed, p.retryAt, p.slow, p.leftAt = noon, noon, 0, 0, noon
		p.answered, p.quiet, p.granted = 0, 0, false // nobody hands over right after an election here
		for i := range p.inflight {
			p.inflight[i].sent = noon
		}
	}
}

// post takes over what the node sends.
func (x *explorer) post(p *process) {
	self := numberOf(p.driver.core.settings.id)
	for _, r := range p.work.requests {
		if v, ok := r.message.(*VoteRequest); !ok || !v.PreVote || x.preVotes {
			x.send(p, x.internLetter(letter{from: self, to: numberOf(r.to), request: r.message}))
		}
	}
	x.postReplies(p, p.work.replies)
}

func (x *explorer) postReplies(p *process, replies []reply) {
	for _, r := range replies {
		if l := x.replied(r); l != nil {
			x.send(p, l)
		}
	}
}

func (x *explorer) send(p *process, l *letter) {
	if x.checks(promises) {
		p.broken = cmp.Or(p.broken, onlyDurablePromises(p, l))
	}
	if !slices.Contains(p.sent, l) {
		p.sent = append(p.sent, l)
	}
}

// eventOf is the event of a letter that arrives. What the receiver replies
// comes out of [explorer.replied].
func (x *explorer) eventOf(l *letter) any {
	if l.answer != nil {
		return answered(exploredIDs[l.from], l.request, l.answer, nil)
	}
	return arrival(l.request, func(response any, err error) {
		if err == nil {
			x.reply = x.internLetter(letter{from: l.to, to: l.from, request: l.request, answer: response})
		}
	})
}

// replied returns the letter that a reply is, nil for an error.
func (x *explorer) replied(r reply) *letter {
	x.reply = nil
	if err, ok := r.response.(error); ok {
		r.respond(nil, err)
	} else {
		r.respond(r.response, nil)
	}
	return x.reply
}

// pointless reports whether a letter can make no difference any more, whatever
// happens: an answer that shows no term that is new to the receiver's disk, and
// that grants or acknowledges nothing which the receiver still waits for. What
// it asked in a term it asked as that term's candidate or leader, with the term
// on its disk; it never becomes that again.
func (l *letter) pointless(m *member) bool {
	if l.answer == nil || termIn(l.answer) > m.durableTerm() {
		return false
	}
	switch r := l.request.(type) {
	case *VoteRequest:
		switch granted := l.answer.(*VoteResponse).VoteGranted; {
		case !granted:
			return true
		case r.PreVote:
			return r.Term <= m.durableTerm()
		default:
			return m.core().role != Candidate || m.core().currentTerm != r.Term
		}
	case *AppendEntries:
		return !m.leads(r.Term)
	default:
		return true
	}
}

func termIn(message any) Term {
	switch m := message.(type) {
	case *VoteRequest:
		return m.Term
	case *VoteResponse:
		return m.Term
	case *Heartbeat:
		return m.Term
	case *HeartbeatResponse:
		return m.Term
	case *AppendEntries:
		return m.Term
	case *AppendResponse:
		return m.Term
	case *TimeoutNow:
		return m.Term
	case *TimeoutNowResponse:
		return m.Term
	default:
		panic(fmt.Sprintf("no term in %T", m))
	}
}

// choicesOf lists what may happen to a node in this state, but for letters.
func (x *explorer) choicesOf(m *member) []choice {
	c := m.core()
	var list []choice
	add := func(h happening, number int32) { list = append(list, choice{h, number}) }
	if m.removed {
		return nil
	}
	if m.saving != nil {
		add(wroteDisk, 0)
		add(crashedLate, 0)
	}
	add(crashed, 0)
	if c.role != Leader {
		if c.currentTerm < x.terms {
			add(timedOut, 0)
		}
		return list
	}
	add(beatDue, 0)
	add(lostQuorum, 0)
	for _, p := range c.peers {
		if len(p.inflight) > 0 {
			add(lostLetters, int32(numberOf(p.id)))
		}
	}
	for n := range x.commands {
		add(commanded, int32(n)+1)
	}
	if len(x.changes) > 0 {
		add(reconfigured, 0)
	}
	if c.departure > 0 {
		add(departed, 0)
	}
	return list
}

// intern returns the one member of the state that a step has led to.
func (x *explorer) intern(p *process) *member {
	m := &member{driver: p.driver, storage: p.storage, saving: p.saving, removed: p.removed}
	m.sums = x.sumsOf(m)
	if known, ok := x.members[m.sums[0]]; ok {
		if x.twins != nil {
			x.twins[known] = m
		}
		return known
	}
	m.log, m.disk = m.logSums(), entrySums(m.storage.runs)
	m.choices = x.choicesOf(m)
	m.reactions = map[choice]*reaction{}
	x.members[m.sums[0]] = m
	return m
}

// logSums returns the entries of the process, those in memory and those that it
// would read.
func (m *member) logSums() []entrySum {
	from := m.core().log.cachedFrom()
	return append(entrySums(m.storage.runs)[:from-1:from-1], entrySums(m.core().log.runs)...)
}

func entrySums(runs []run) []entrySum {
	var list []entrySum
	for e := range (Entries{runs}).All() {
		list = append(list, entrySum{e.Term, whatOf(e.Kind, e.Data), e.Kind == EntryConfiguration})
	}
	return list
}

func (x *explorer) internLetter(l letter) *letter {
	l.sums = sumsOfLetter(&l)
	if known, ok := x.lettersBySum[l.sums[0]]; ok {
		return known
	}
	l.number = int32(len(x.letters))
	x.letters = append(x.letters, &l)
	x.lettersBySum[l.sums[0]] = &l
	return &l
}

// founded returns a node that was started for the first time, and has met the
// others. One that is no founding member has the fingerprint of the cluster already.
func (x *explorer) founded(self int) *member {
	peers := map[NodeID]string{}
	for _, id := range exploredIDs {
		if !strings.Contains(x.joining, string(id)) {
			peers[id] = "address " + string(id)
		}
	}
	batch := bootstrap(NewConfig(exploredIDs[self], "address", peers), uint64(self)+1)
	for i, id := range exploredIDs {
		if i != self && len(x.changes) == 0 {
			batch.HardState.Contacts = append(batch.HardState.Contacts, Contact{id, uint64(i) + 1})
		}
	}
	if peers[exploredIDs[self]] == "" {
		batch = SaveBatch{HardState: &HardState{ID: exploredIDs[self], Incarnation: uint64(self) + 1, Fingerprint: batch.HardState.Fingerprint, Joined: true}}
	}
	p := &process{storage: NewMemoryStorage(), saving: &batch}
	p.save()
	x.reboot(p)
	x.advance(p, nil, nil)
	return x.intern(p)
}
