package raft

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// The times of every rig.
const (
	beat = 100 * time.Millisecond // HeartbeatInterval
	wait = 500 * time.Millisecond // ElectionTimeout
)

// rig is a cluster of drivers without goroutines, sleeps or sockets. Messages
// lie on a table until somebody delivers, drops or repeats them; writes lie
// with a disk until it finishes them; time moves when the test moves it. Equal
// tests run equally.
//
// A member that was never started is a puppet: what is sent to it stays on the
// table for the test to read, and the test speaks for it with ask and tell.
//
// After whatever happens to a node the rig checks that node against all that
// was seen of the cluster so far: see inspect.
type rig struct {
	t     *testing.T
	seed  uint64
	now   time.Duration
	ids   []NodeID
	nodes map[NodeID]*rigNode
	table []*packet // in the order of sending
	gone  map[link]bool
	held  map[link]bool
	late  func() time.Duration           // how long a message takes; nil: no time
	tune  func(*coreSettings)            // changes the settings of nodes started from now on
	watch func(*rigNode, step, work)     // sees every advance, if set
	sent  func(*packet)                  // sees every message that leaves, if set
	ended func(NodeID, string, *outcome) // sees the outcome of every command, if set
	queue int                            // maxUnappliedBytes
	cache int                            // logCacheBytes of nodes started from now on
	every int                            // snapshotEntries, likewise; 0: none is taken unless somebody wants one
	trail int                            // trailingEntries, likewise
	sync  int64                          // how many bytes of a snapshot are received between two syncs, likewise; 0: all
	files uint64                         // counts the snapshots that were written

	configuration ConfigurationEntry // in snapshots that are made by hand; zero: the first one

	chunks map[EntryID]chunkRead // snapshots that were sent by hand
	came   int                   // counts the snapshots that arrived

	fingerprint [16]byte

	configurations []ConfigurationEntry // that were committed, in order

	leaders   map[Term]NodeID            // G1
	entries   map[place]content          // G2: what stands at an index and term, and after which term
	committed []commitment               // G3, G4: by index from 1 on
	commands  []string                   // G5: what state machines were given
	votes     map[Term]map[NodeID]NodeID // granted votes that left, by voter
}

type link struct{ from, to NodeID }

type place struct {
	index Index
	term  Term
}

// content is an entry without its place.
type content struct {
	before Term // of the entry before
	kind   EntryKind
	data   string
}

type commitment struct {
	term Term // of the entry
	in   Term // of the leader that committed it
}

// packet is a message under way: a request, or the answer to one.
type packet struct {
	link
	due     time.Duration
	life    int // of the process that waits for the answer
	request any
	answer  any // nil: this is the request itself
	err     error
	lost    bool // the sender of the request learns that it got no answer
}

// rigNode is one member: its process, while driver is set, and what outlives it.
type rigNode struct {
	rig         *rig
	id          NodeID
	joins       bool // it is no founding member
	incarnation uint64
	life        int // counts the processes
	started     bool
	storage     Storage
	disk        *vfs.Memory // below the storage, if that is in files
	driver      *driver

	saving   *SaveBatch // the write under way
	stalled  bool       // writes do not end by themselves
	task     *applyTask
	slow     bool // the state machine does not get on by itself
	machine  rigMachine
	sessions *sessionTable

	reads   []read // under way
	unread  bool   // reads do not end by themselves
	readErr error  // what reads end with, those of the applier too

	snapshots snapshotWork

	frozen bool // the process stands still: nothing reaches it, and its time goes unnoticed

	failure error
	notes   []note
	was     *seen // at the last inspection
	used    Term  // the highest term in a message that left (G6)
}

// rigMachine records the commands that it is given. It takes batches, so that
// the applier's pace does not depend on the clock.
type rigMachine struct {
	commands []string
	restored int // so many of them came with a snapshot
	restores int // snapshots
}

func (m *rigMachine) Apply([]byte) ([]byte, error) { panic("not called") }
func (m *rigMachine) Snapshot() ([]byte, error)    { return rigState(m.commands), nil }
func (m *rigMachine) Restore(state []byte) error {
	m.commands = nil
	for line := range strings.Lines(string(state)) {
		m.commands = append(m.commands, strings.TrimSuffix(line, "\n"))
	}
	m.restored = len(m.commands)
	m.restores++
	return nil
}
func (m *rigMachine) ApplyBatch(commands []Command, results []ApplyResult) {
	for i, c := range commands {
		m.commands = append(m.commands, string(c.Data))
		results[i].Response = append([]byte("did "), c.Data...)
	}
}

// newRig returns a cluster of the members named, in one letter each, none of
// them started.
func newRig(t *testing.T, names string) *rig {
	r := &rig{
		t: t, seed: 1, nodes: map[NodeID]*rigNode{}, gone: map[link]bool{}, held: map[link]bool{},
		leaders: map[Term]NodeID{}, entries: map[place]content{}, votes: map[Term]map[NodeID]NodeID{},
		queue: 64 << 20, cache: 32 << 20, trail: 1, chunks: map[EntryID]chunkRead{},
	}
	for i, name := range strings.Fields(names) {
		id := NodeID(name)
		r.ids = append(r.ids, id)
		r.nodes[id] = &rigNode{rig: r, id: id, incarnation: 0xa0 + uint64(i), storage: r.newStorage()}
	}
	r.fingerprint = r.first(r.ids[0]).HardState.Fingerprint
	return r
}

// newCluster returns a cluster of which every member was started for the first
// time.
func newCluster(t *testing.T, names string) *rig {
	r := newRig(t, names)
	for _, id := range r.ids {
		r.start(id)
	}
	return r
}

func (r *rig) node(id NodeID) *rigNode { return r.nodes[id] }
func (r *rig) core(id NodeID) *core    { return r.nodes[id].driver.core }

func (r *rig) founding(id NodeID) Config {
	peers := map[NodeID]string{}
	for _, other := range r.ids {
		if !r.nodes[other].joins {
			peers[other] = string(other) + ".example:1"
		}
	}
	return NewConfig(id, string(id)+".example:1", peers)
}

func (r *rig) first(id NodeID) SaveBatch {
	if n := r.nodes[id]; n.joins {
		return SaveBatch{HardState: &HardState{ID: id, Incarnation: n.incarnation, Joined: true}}
	}
	return bootstrap(r.founding(id), r.nodes[id].incarnation)
}

// start starts a node for the first time.
func (r *rig) start(id NodeID) {
	r.nodes[id].open()
	require.NoError(r.t, r.nodes[id].storage.Save(r.first(id)))
	if r.nodes[id].disk != nil {
		r.crash(id) // so that boot can open the disk
	}
	r.nodes[id].boot(false)
}

// at is a state to start in. The log is given by the terms of its entries, the
// first of which is the first configuration's; entries of equal index and term
// are equal.
type at struct {
	log       string
	term      Term // 0: of the last entry
	vote      NodeID
	commit    Index
	compacted Index // up to here the log is forgotten
	snapshot  Index // what the snapshot covers; 0: what is forgotten
	cold      bool  // nothing of the log is in memory
	restarted bool
	strangers bool // it has not met the other members before
}

// startAt starts a member in an exact state.
func (r *rig) startAt(id NodeID, s at) {
	batch := r.first(id)
	batch.Entries = r.log(s.log)
	batch.Commit = s.commit
	batch.HardState.Term = max(s.term, batch.Entries.runs[len(batch.Entries.runs)-1].term)
	batch.HardState.VotedFor = s.vote
	if !s.strangers {
		batch.HardState.Contacts = r.contacts(id)
	}
	n := r.nodes[id]
	n.open()
	require.NoError(r.t, n.storage.Save(batch))
	r.noteCommitted(batch.Entries.upTo(max(s.snapshot, s.compacted)))
	if covered := max(s.snapshot, s.compacted); covered > 0 {
		n.keepSnapshot(batch.Entries.upTo(covered))
	}
	if s.compacted > 0 {
		term := stretches(loaded(n.storage).Terms).term(s.compacted)
		require.NoError(r.t, n.storage.Save(SaveBatch{Compacted: EntryID{s.compacted, term}}))
	}
	if n.disk != nil {
		r.crash(id) // so that boot can open the disk
	}
	n.boot(s.restarted)
	if !s.cold {
		n.warm()
	}
}

// warm puts the whole log into memory, as if it had come from a leader.
func (n *rigNode) warm() {
	log := &n.driver.core.log
	log.runs = slices.Clip(kept(n.storage).runs)
	for _, r := range log.runs {
		log.cachedBytes += r.weight()
	}
	n.was.log = log.clone()
}

func (r *rig) contacts(id NodeID) []Contact {
	var contacts []Contact
	for _, other := range r.ids {
		if other != id && !r.nodes[other].joins {
			contacts = append(contacts, Contact{other, r.nodes[other].incarnation})
		}
	}
	return contacts
}

// log returns a log of those terms, from index 1 on.
func (r *rig) log(terms string) Entries { return MakeEntries(r.logEntries(terms)...) }

func (r *rig) logEntries(terms string) []LogEntry {
	var entries []LogEntry
	for _, word := range strings.Fields(terms) {
		var term Term
		_, err := fmt.Sscan(word, &term)
		require.NoError(r.t, err)
		entries = append(entries, LogEntry{Term: term, Index: Index(len(entries)) + 1, Kind: EntryCommand})
	}
	for i := range entries {
		entries[i].Data = fmt.Appendf(nil, "%d@%d", entries[i].Index, entries[i].Term)
	}
	if len(entries) > 0 {
		for entry := range r.first(r.ids[0]).Entries.All() {
			entries[0] = entry
		}
	}
	return entries
}

// tail returns the entries from index first on of a log of those terms.
func (r *rig) tail(terms string, first Index) Entries {
	return MakeEntries(r.logEntries(terms)[first-1:]...)
}

// entry returns one entry.
func entry(index Index, term Term) Entries {
	return MakeEntries(LogEntry{Term: term, Index: index, Kind: EntryCommand, Data: fmt.Appendf(nil, "%d@%d", index, term)})
}

// boot makes a process of what the storage holds.
func (n *rigNode) boot(restarted bool) {
	n.open()
	state, err := n.storage.Load()
	require.NoError(n.rig.t, err)
	settings := coreSettings{
		id: n.id, address: n.rig.founding(n.id).Address,
		fingerprint: state.HardState.Fingerprint, incarnation: state.HardState.Incarnation,
		heartbeatInterval: beat, electionTimeout: wait, diskStallLimit: 5 * wait,
		maxBatchBytes: 1 << 20, maxInflightBytes: 16 << 20, maxInflightMessages: 64,
		snapshotRate: math.MaxInt, chunkBytes: 256 << 10, join: n.joins,
	}
	if n.rig.tune != nil {
		n.rig.tune(&settings)
	}
	n.life++
	c, err := newCore(settings, state, restarted, n.rig.seed*1000+uint64(n.life), n.rig.now)
	require.NoError(n.rig.t, err)
	require.GreaterOrEqual(n.rig.t, c.currentTerm, n.used, "G6: %s comes back in a term before one that it has used", n.id)
	n.Snapshots().options.SyncBytes = n.rig.sync
	n.driver, err = startDriver(n.rig.t.Context(), c, n.Snapshots(), nil, driverSettings{
		maxApplyBytes: 4 << 20, maxUnappliedBytes: n.rig.queue, logCacheBytes: n.rig.cache,
		snapshotEntries: n.rig.every, snapshotBytes: 1 << 20, trailingEntries: n.rig.trail,
	})
	require.NoError(n.rig.t, err)
	n.started = true
	n.machine, n.task, n.saving, n.reads, n.failure, n.was = rigMachine{}, nil, nil, nil, nil, nil
	n.sessions = newSessionTable()
	n.snapshots = snapshotWork{receiver: snapshotReceiver{store: n.Snapshots()}, slow: n.snapshots.slow}
	n.advance(nil, nil)
}

// up reports whether a process of the node runs.
func (r *rig) up(id NodeID) bool { return r.nodes[id].driver != nil }

// crash ends the process. A write under way is lost.
func (r *rig) crash(id NodeID) {
	n := r.nodes[id]
	if n.disk != nil {
		n.disk = n.disk.CrashClone(vfs.CrashKill, 0)
	}
	r.forget(id)
}

// forget drops all that a process knew.
func (r *rig) forget(id NodeID) {
	n := r.nodes[id]
	n.driver, n.saving, n.task, n.reads, n.frozen = nil, nil, nil, nil, false
	n.snapshots = snapshotWork{slow: n.snapshots.slow}
}

// crashAfterWrite ends the process between the end of the write under way and
// the news of it.
func (r *rig) crashAfterWrite(id NodeID) {
	n := r.nodes[id]
	if n.saving != nil {
		require.NoError(r.t, n.storage.Save(*n.saving))
	}
	r.crash(id)
}

func (r *rig) restart(id NodeID) {
	if r.up(id) {
		r.crash(id)
	}
	n := r.nodes[id]
	n.stalled, n.slow, n.unread, n.snapshots.slow = false, false, false, false
	n.boot(true)
}

// wipe ends the process and gives the node a new, empty disk.
func (r *rig) wipe(id NodeID) {
	r.crash(id)
	n := r.nodes[id]
	n.storage, n.incarnation, n.used = r.newStorage(), n.incarnation+0x100, 0
}

// do lets events happen to a node and carries out what comes of them, as far
// as that is not left to the network, the disk and the state machine.
func (r *rig) do(id NodeID, events ...any) { r.nodes[id].advance(events, nil) }

func (n *rigNode) advance(events []any, batches []*batch) {
	if n.driver == nil {
		return
	}
	deadline := n.driver.core.electionDeadline
	w := n.driver.advance(n.rig.now, events, batches)
	n.Snapshots().join(n.driver.core.settings.fingerprint) // of a cluster that has taken it in just now, perhaps
	if n.rig.watch != nil {
		n.rig.watch(n, step{n.rig.now, deadline, events, batches}, w)
	}
	n.notes = append(n.notes, w.notes...)
	if w.save != nil {
		require.Nil(n.rig.t, n.saving, "a write is handed out while one is under way")
		n.saving = w.save
	}
	if w.failure != nil {
		n.failure = w.failure
		n.answer(w.replies)
		failAll(w.failed, endAtOnce)
		n.rig.crash(n.id)
		return
	}
	for _, request := range w.requests {
		n.checkRequest(request)
		n.call(request)
		n.rig.put(&packet{link: link{n.id, request.to}, life: n.life, request: request.message})
	}
	n.takeSnapshotWork(w)
	n.reads = append(n.reads, w.reads...)
	n.answer(w.replies)
	if w.apply != nil {
		require.Nil(n.rig.t, n.task, "a task is handed out while one is under way")
		n.task = w.apply
	}
	failAll(w.failed, endAtOnce)
	n.inspect()
}

func endAtOnce(p *proposal, err error) { p.complete(Result{}, err) }

func (n *rigNode) answer(replies []reply) {
	for _, reply := range replies {
		if err, ok := reply.response.(error); ok {
			reply.respond(nil, err)
		} else {
			reply.respond(reply.response, nil)
		}
	}
}

// The network.

func (r *rig) put(p *packet) {
	if r.sent != nil {
		r.sent(p)
	}
	p.due = r.now
	if r.late != nil {
		p.due += r.late()
	}
	if r.gone[p.link] {
		r.lose(p)
		return
	}
	r.table = append(r.table, p)
}

// lose drops a message. Whoever waits for an answer learns that none comes, as
// from a call that times out, or a stream that breaks.
func (r *rig) lose(p *packet) {
	asker := p.from
	if p.answer != nil || p.err != nil {
		asker = p.to
	}
	if !p.lost && r.nodes[asker].started {
		r.table = append(r.table, &packet{link: p.link, due: r.now, life: p.life, request: p.request, lost: true})
	}
}

// disconnect drops all messages in both directions, those under way included.
func (r *rig) disconnect(a, b NodeID) { r.block(a, b); r.block(b, a) }

// block drops all messages in one direction.
func (r *rig) block(from, to NodeID) {
	r.gone[link{from, to}] = true
	for _, p := range r.remove(func(p *packet) bool { return p.link == link{from, to} && !p.lost }) {
		r.lose(p)
	}
}

// isolate disconnects a node from all others.
func (r *rig) isolate(id NodeID) {
	for _, other := range r.ids {
		if other != id {
			r.disconnect(id, other)
		}
	}
}

// heal ends disconnections and holds.
func (r *rig) heal() {
	clear(r.gone)
	clear(r.held)
}

// hold keeps messages in one direction on the table until release.
func (r *rig) hold(from, to NodeID)    { r.held[link{from, to}] = true }
func (r *rig) release(from, to NodeID) { delete(r.held, link{from, to}) }

// remove takes messages off the table.
func (r *rig) remove(which func(*packet) bool) []*packet {
	var removed []*packet
	r.table = slices.DeleteFunc(r.table, func(p *packet) bool {
		if which(p) {
			removed = append(removed, p)
			return true
		}
		return false
	})
	return removed
}

// take takes the messages from one node to another off the table: requests as
// they are, and answers.
func (r *rig) take(from, to NodeID) []any {
	var messages []any
	for _, p := range r.remove(func(p *packet) bool { return p.link == link{from, to} && !p.lost }) {
		if p.answer != nil {
			messages = append(messages, p.answer)
		} else {
			messages = append(messages, p.request)
		}
	}
	return messages
}

// mail takes the messages of one kind from one node to another off the table.
func mail[M any](r *rig, from, to NodeID) []M {
	var messages []M
	for _, p := range r.remove(func(p *packet) bool {
		_, isRequest := p.request.(M)
		_, isAnswer := p.answer.(M)
		return p.link == link{from, to} && !p.lost && (isAnswer || p.answer == nil && isRequest)
	}) {
		if m, ok := p.answer.(M); ok {
			messages = append(messages, m)
		} else {
			messages = append(messages, p.request.(M))
		}
	}
	return messages
}

// deliver hands a message to its receiver.
func (r *rig) deliver(p *packet) {
	switch {
	case p.lost:
		r.deliverLoss(p)
	case p.answer != nil || p.err != nil:
		r.deliverAnswer(p)
	default:
		r.deliverRequest(p)
	}
}

func (r *rig) deliverRequest(p *packet) {
	n := r.nodes[p.to]
	if n.driver == nil {
		r.lose(p)
		return
	}
	life := n.life
	respond := func(response any, err error) {
		if n.life == life {
			if err == nil {
				n.checkAnswer(p.from, response)
			}
			r.put(&packet{link: link{p.to, p.from}, life: p.life, request: p.request, answer: response, err: err})
		}
	}
	n.advance([]any{arrival(p.request, respond)}, nil)
}

// arrival is the event of a request that arrives.
func arrival(request any, respond responder) any {
	switch m := request.(type) {
	case *VoteRequest:
		return voteRequested{m, respond}
	case *Heartbeat:
		return heartbeatArrived{m, respond}
	case *AppendEntries:
		return appendArrived{m, respond}
	case *InstallSnapshot:
		return snapshotArrived{m, respond}
	case *TimeoutNow:
		return timeoutNowArrived{m, respond}
	case *ForwardRequest:
		return forwardArrived{m, respond}
	default:
		panic(fmt.Sprintf("no event for %T", m))
	}
}

func (r *rig) deliverAnswer(p *packet) {
	n := r.nodes[p.to]
	if n.driver == nil || n.life != p.life || !n.called(p.request) {
		return
	}
	n.advance([]any{answered(p.from, p.request, p.answer, p.err)}, nil)
}

// answered is the event of an answer, or of an error in place of one.
func answered(from NodeID, request, answer any, err error) any {
	switch m := request.(type) {
	case *VoteRequest:
		response, _ := answer.(*VoteResponse)
		return voteAnswered{from, m.Term, m.PreVote, response, err}
	case *Heartbeat:
		response, _ := answer.(*HeartbeatResponse)
		return heartbeatAnswered{from, m.Term, response, err}
	case *AppendEntries:
		if err != nil {
			return appendLost{from, m.Term, err}
		}
		return appendAnswered{from, m.Term, answer.(*AppendResponse)}
	case *InstallSnapshot:
		response, _ := answer.(*SnapshotResponse)
		return snapshotAnswered{from, m.Term, EntryID{m.LastIndex, m.LastTerm}, response, err}
	case *TimeoutNow:
		response, _ := answer.(*TimeoutNowResponse)
		return timeoutNowAnswered{from, m.Term, response, err}
	case *ForwardRequest:
		response, _ := answer.(*ForwardResponse)
		return forwardAnswered{from, m, response, err}
	default:
		panic(fmt.Sprintf("no event for the answer to %T", m))
	}
}

var errUnreachableInRig = errors.New("no route")

func (r *rig) deliverLoss(p *packet) {
	asker, other := p.from, p.to
	if !p.asked(asker) {
		asker, other = p.to, p.from
	}
	n := r.nodes[asker]
	if n.driver != nil && n.life == p.life && n.called(p.request) {
		n.advance([]any{answered(other, p.request, nil, errUnreachableInRig)}, nil)
	}
}

// asked reports whether id is who sent the request.
func (p *packet) asked(id NodeID) bool {
	switch m := p.request.(type) {
	case *VoteRequest:
		return m.From == id
	case *Heartbeat:
		return m.From == id
	case *AppendEntries:
		return m.From == id
	case *InstallSnapshot:
		return m.From == id
	case *TimeoutNow:
		return m.From == id
	case *ForwardRequest:
		return m.From == id
	}
	return false
}

// deliverable reports whether a message can be delivered now.
func (r *rig) deliverable(p *packet) bool {
	receiver := p.to
	if p.lost && !p.asked(p.to) {
		receiver = p.from
	}
	return p.due <= r.now && !r.held[p.link] && r.nodes[receiver].started && !r.nodes[receiver].frozen
}

// The disk, the state machine, and time.

// finishWrite ends the write under way and tells the node.
func (r *rig) finishWrite(id NodeID) {
	n := r.nodes[id]
	if n.saving == nil {
		return
	}
	batch := *n.saving
	n.saving = nil
	err := n.storage.Save(batch)
	if n.lostPower() {
		return
	}
	require.NoError(r.t, err)
	n.advance([]any{written{}}, nil)
}

// stall keeps a disk from finishing writes, until resume.
func (r *rig) stall(id NodeID) { r.nodes[id].stalled = true }

func (r *rig) resume(id NodeID) {
	r.nodes[id].stalled = false
	r.settle()
}

// apply lets the state machine do what it was given.
func (r *rig) apply(id NodeID) {
	n := r.nodes[id]
	if n.task == nil {
		return
	}
	var events []any
	a := newApplier(r.t.Context(), &n.machine, n.sessions, n, 100, func(event any) { events = append(events, event) }, new(atomic.Bool))
	task := n.task
	n.task = nil
	err := a.run(task)
	if n.lostPower() {
		return
	}
	if err != nil {
		events = append(events, failed{err})
	}
	n.checkApplied()
	n.advance(events, nil)
}

// read ends the first read under way.
func (r *rig) read(id NodeID) {
	n := r.nodes[id]
	if len(n.reads) == 0 {
		return
	}
	first := n.reads[0]
	n.reads = n.reads[1:]
	entries, err := n.Entries(first.first, first.last, first.maxBytes)
	n.advance([]any{entriesRead{first, entries, err}}, nil)
}

// A node of the rig is the Storage that its applier reads from.

func (n *rigNode) Snapshots() *SnapshotStore   { return n.storage.Snapshots() }
func (n *rigNode) Load() (StorageState, error) { return n.storage.Load() }
func (n *rigNode) Save(batch SaveBatch) error  { return n.storage.Save(batch) }
func (n *rigNode) Entries(first, last Index, maxBytes int) (Entries, error) {
	if n.readErr != nil {
		return Entries{}, n.readErr
	}
	return n.storage.Entries(first, last, maxBytes)
}

// settle lets everything happen that takes no time, until nothing is left.
func (r *rig) settle() {
	for range 100_000 {
		if !r.settleOne() {
			return
		}
	}
	require.Fail(r.t, "the cluster does not come to rest")
}

func (r *rig) settleOne() bool {
	if r.workOne() {
		return true
	}
	for i, p := range r.table {
		if r.deliverable(p) {
			r.table = slices.Delete(r.table, i, i+1)
			r.deliver(p)
			return true
		}
	}
	return false
}

// workOne lets one node's disk or state machine get on, and reports whether
// there was anything to do.
func (r *rig) workOne() bool {
	for _, id := range r.ids {
		n := r.nodes[id]
		switch {
		case n.driver == nil || n.frozen:
		case n.saving != nil && !n.stalled:
			r.finishWrite(id)
			return true
		case n.task != nil && !n.slow:
			r.apply(id)
			return true
		case len(n.reads) > 0 && !n.unread:
			r.read(id)
			return true
		case !n.snapshots.slow && r.workOnSnapshots(id), r.expire(id):
			return true
		}
	}
	return false
}

// awake reports whether a process of the node runs and time reaches it.
func (r *rig) awake(id NodeID) bool { return r.up(id) && !r.nodes[id].frozen }

// pass lets time pass, and whatever happens in it.
func (r *rig) pass(d time.Duration) {
	end := r.now + d
	r.settle()
	for {
		next := end
		for _, id := range r.ids {
			if r.awake(id) {
				next = min(next, r.core(id).deadline(), r.nodes[id].patience())
			}
		}
		for _, p := range r.table {
			if p.due > r.now {
				next = min(next, p.due)
			}
		}
		r.now = max(r.now, next)
		for _, id := range r.ids {
			if r.awake(id) && r.core(id).deadline() <= r.now {
				r.do(id)
			}
		}
		r.settle()
		if r.now >= end {
			return
		}
	}
}

// passUntil lets time pass until something holds, at most for a while.
func (r *rig) passUntil(limit time.Duration, what string, holds func() bool) {
	for end := r.now + limit; !holds(); {
		require.Less(r.t, r.now, end, "within %v: %s\n%s", limit, what, r)
		r.pass(beat / 4)
	}
}

// timeOut ends a node's election wait.
func (r *rig) timeOut(id NodeID) {
	r.core(id).electionDeadline = r.now
	r.do(id)
}

// elect lets a node campaign once everybody has waited for a leader in vain,
// and requires that it wins.
func (r *rig) elect(id NodeID) {
	r.now += wait
	for _, other := range r.ids {
		if r.up(other) {
			c := r.core(other)
			c.electionDeadline = max(c.electionDeadline, r.now+wait)
		}
	}
	r.timeOut(id)
	r.settle()
	require.Equal(r.t, Leader, r.core(id).role, "%s", r)
}

// crown makes a node lead with the votes of puppets.
func (r *rig) crown(id NodeID) {
	r.timeOut(id)
	c := r.core(id)
	if c.role == PreCandidate {
		r.grant(id)
	}
	r.finishWrite(id)
	if c.role == Candidate {
		r.grant(id)
	}
	require.Equal(r.t, Leader, c.role)
	for _, other := range r.ids {
		mail[*VoteRequest](r, id, other)
	}
}

// grant answers the present (pre-)election of a node for all other members, as
// far as that takes it.
func (r *rig) grant(id NodeID) {
	role := r.core(id).role
	for _, other := range r.ids {
		if other != id && r.core(id).role == role {
			r.grantFrom(id, other)
		}
	}
}

// grantFrom answers the present (pre-)election of a node for one other member.
func (r *rig) grantFrom(id, other NodeID) {
	c := r.core(id)
	pre := c.role == PreCandidate
	term := c.currentTerm
	if pre {
		term++
	}
	r.do(id, voteAnswered{other, term, pre, &VoteResponse{Term: c.currentTerm, VoteGranted: true, PreVote: pre, Incarnation: r.nodes[other].incarnation}, nil})
}

// leader returns the one node that leads in the latest term, if there is one.
func (r *rig) leader() NodeID {
	var best NodeID
	for _, id := range r.ids {
		if r.up(id) && r.core(id).role == Leader && (best == "" || r.core(id).currentTerm > r.core(best).currentTerm) {
			best = id
		}
	}
	return best
}

// Requests by hand, and proposals.

// given is what becomes of a request.
type given struct {
	done     bool
	response any
	err      error
}

// ask delivers a request as one from another member, and returns the answer,
// which comes once the disk allows it.
func (r *rig) ask(from, to NodeID, request any) *given {
	r.fillHeader(from, to, request)
	a := new(given)
	n := r.nodes[to]
	n.advance([]any{arrival(request, func(response any, err error) {
		require.False(r.t, a.done, "a second answer")
		if err == nil {
			n.checkAnswer(from, response)
		}
		*a = given{true, response, err}
	})}, nil)
	if !n.stalled {
		r.finishWrite(to)
	}
	return a
}

func (r *rig) fillHeader(from, to NodeID, request any) {
	h := Header{Fingerprint: r.fingerprint, From: from, To: to}
	if n, ok := r.nodes[from]; ok {
		h.Incarnation = n.incarnation
	}
	switch m := request.(type) {
	case *VoteRequest:
		m.Header = h
	case *Heartbeat:
		m.Header = h
	case *AppendEntries:
		m.Header = h
	case *InstallSnapshot:
		m.Header = h
	case *TimeoutNow:
		m.Header = h
	case *ForwardRequest:
		m.Header = h
	}
}

func (r *rig) askVote(from, to NodeID, request VoteRequest) *VoteResponse {
	return answerOf[*VoteResponse](r, r.ask(from, to, &request))
}

func (r *rig) askHeartbeat(from, to NodeID, request Heartbeat) *HeartbeatResponse {
	return answerOf[*HeartbeatResponse](r, r.ask(from, to, &request))
}

func (r *rig) askAppend(from, to NodeID, request AppendEntries) *AppendResponse {
	return answerOf[*AppendResponse](r, r.ask(from, to, &request))
}

func answerOf[R any](r *rig, a *given) R {
	require.True(r.t, a.done, "no answer")
	require.NoError(r.t, a.err)
	response, ok := a.response.(R)
	require.True(r.t, ok, "answer is a %T", a.response)
	return response
}

// acknowledge answers a leader's AppendEntries for a puppet: its log matches up
// to an index.
func (r *rig) acknowledge(leader, follower NodeID, match Index) {
	term := r.core(leader).currentTerm
	r.do(leader, appendAnswered{follower, term, &AppendResponse{Term: term, Success: true, Match: match, Incarnation: r.nodes[follower].incarnation}})
}

// reject answers a leader's AppendEntries for a puppet: entry prev is not in
// its log, which may agree up to an index.
func (r *rig) reject(leader, follower NodeID, prev, index Index, term Term) {
	current := r.core(leader).currentTerm
	r.do(leader, appendAnswered{follower, current, &AppendResponse{
		Term: current, PrevLogIndex: prev, ConflictIndex: index, ConflictTerm: term, Incarnation: r.nodes[follower].incarnation,
	}})
}

// outcome is what a proposer learns.
type outcome struct {
	ended  bool
	result Result
	err    error
}

// propose proposes commands at a node, in one batch.
func (r *rig) propose(id NodeID, commands ...string) []*outcome {
	b := new(batch)
	var outcomes []*outcome
	for _, command := range commands {
		o := new(outcome)
		outcomes = append(outcomes, o)
		b.body = appendEntry(b.body, EntryCommand, []byte(command))
		b.proposals = append(b.proposals, proposal{end: len(b.body), done: func(result Result, err error) {
			require.False(r.t, o.ended, "a second outcome")
			*o = outcome{true, result, err}
			if r.ended != nil {
				r.ended(id, command, o)
			}
		}})
	}
	r.nodes[id].advance(nil, []*batch{b})
	return outcomes
}

// Looking.

// terms returns the terms of a node's log, as startAt takes them.
func (r *rig) terms(id NodeID) string {
	log := &r.core(id).log
	var words []string
	for i := log.firstKept(); i <= log.last(); i++ {
		words = append(words, fmt.Sprint(log.terms.term(i)))
	}
	return strings.Join(words, " ")
}

// stored returns the entries of a node's log from one on, from memory and
// storage.
func (r *rig) stored(id NodeID, first Index) Entries {
	n, log := r.nodes[id], &r.core(id).log
	from := log.cachedFrom()
	if first >= from {
		return log.from(first, math.MaxInt)
	}
	entries, err := n.storage.Entries(first, from-1, math.MaxInt)
	require.NoError(r.t, err)
	return Entries{append(slices.Clip(entries.runs), log.runs...)}
}

func termsOf(entries Entries) string {
	var words []string
	for entry := range entries.All() {
		words = append(words, fmt.Sprint(entry.Term))
	}
	return strings.Join(words, " ")
}

// saved returns the terms of the log that a node's storage holds.
func (r *rig) saved(id NodeID) string { return termsOf(kept(r.nodes[id].storage)) }

func loaded(s Storage) StorageState {
	state, err := s.Load()
	if err != nil {
		panic(err)
	}
	return state
}

// kept returns all entries that a storage keeps.
func kept(s Storage) Entries {
	state := loaded(s)
	var all Entries
	for next := state.Compacted.Index + 1; next <= state.Last; next = all.last() + 1 {
		entries, err := s.Entries(next, state.Last, math.MaxInt)
		if err != nil {
			panic(err)
		}
		all.runs = append(all.runs, entries.runs...)
	}
	return all
}

func (r *rig) hardState(id NodeID) HardState { return loaded(r.nodes[id].storage).HardState }

func (r *rig) reason(id NodeID) string { return r.nodes[id].driver.status(r.now).Reason }

// told reports whether a node gave account of an action.
func (r *rig) told(id NodeID, action string) bool {
	return slices.ContainsFunc(r.nodes[id].notes, func(n note) bool { return n.action == action })
}

func (r *rig) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "at %v:", r.now)
	for _, id := range r.ids {
		if !r.up(id) {
			fmt.Fprintf(&b, "\n  %s: down (%v)", id, r.nodes[id].failure)
			continue
		}
		c := r.core(id)
		fmt.Fprintf(&b, "\n  %s: %s in term %d of %q, log up to %d@%d, durable %d, commit %d, %d peers: %s",
			id, c.role, c.currentTerm, c.leader, c.log.last(), c.log.lastTerm(), c.log.durable, c.commitIndex, len(c.peers), r.reason(id))
	}
	return b.String()
}

// The checks G1 to G8 of testdata/scenarios.md, made after each advance of a
// node, on that node: what the others did was checked when they did it.

// seen is what the last inspection of a node has found.
type seen struct {
	commitIndex  Index
	reconfigured uint64
	log          raftLog
}

func (n *rigNode) inspect() {
	r, c := n.rig, n.driver.core
	if c.role == Leader {
		n.checkLeader()
	}
	n.checkLog()
	n.checkCommitted()
	n.checkConfigurations()
	if n.was != nil {
		r.must(c.commitIndex >= n.was.commitIndex, "G6: commit index of %s", n.id)
	}
	n.was = &seen{c.commitIndex, c.reconfigured, c.log.clone()}
}

// must is for what is checked after each step: require takes its time also where all is
// well.
func (r *rig) must(ok bool, format string, args ...any) {
	if !ok {
		require.Failf(r.t, "what never happens has happened", format, args...)
	}
}

// checkLeader is G1, at most one leader per term, and G4, a leader has every
// entry that was committed in an earlier term (§3.6.3).
func (n *rigNode) checkLeader() {
	r, c := n.rig, n.driver.core
	if other, ok := r.leaders[c.currentTerm]; ok {
		r.must(other == n.id, "G1: two leaders in term %d", c.currentTerm)
		return
	}
	r.leaders[c.currentTerm] = n.id
	for i := len(r.committed) - 1; i >= 0; i-- {
		if e := r.committed[i]; e.in < c.currentTerm && Index(i)+1 >= c.log.compacted.Index {
			r.must(c.log.matches(Index(i)+1, e.term), "G4: leader %s of term %d lacks entry %d@%d, committed in term %d\n%s", n.id, c.currentTerm, i+1, e.term, e.in, r)
			return
		}
	}
}

// checkLog is G2, log matching (§3.5): an index and a term determine the entry
// and the term before it, so by induction everything before it.
func (n *rigNode) checkLog() {
	r, log := n.rig, &n.driver.core.log
	known := log.compacted.Index
	if n.was != nil {
		known = max(known, min(n.was.log.last(), log.last()))
		for known > log.compacted.Index {
			before, _ := n.was.log.term(known)
			if log.matches(known, before) {
				break
			}
			known--
		}
		if known == log.last() {
			return
		}
	}
	before, _ := log.term(known)
	for entry := range r.stored(n.id, known+1).All() {
		p := place{entry.Index, entry.Term}
		what := content{before, entry.Kind, string(entry.Data)}
		if seen, ok := r.entries[p]; ok {
			r.must(seen == what, "G2: %s has %v at %d@%d, where there was %v", n.id, what, p.index, p.term, seen)
		}
		r.entries[p] = what
		before = entry.Term
	}
}

// checkCommitted is G3: what is committed anywhere never changes.
func (n *rigNode) checkCommitted() {
	r, c := n.rig, n.driver.core
	from := max(1, c.log.compacted.Index)
	if n.was != nil {
		from = max(from, n.was.commitIndex+1)
	}
	for i := from; i <= c.commitIndex; i++ {
		term, _ := c.log.term(i)
		if i > Index(len(r.committed)) {
			r.committed = append(r.committed, commitment{term, c.currentTerm})
		}
		r.must(r.committed[i-1].term == term, "G3: %s commits entry %d of another term\n%s", n.id, i, r)
	}
	if c.commitIndex > 0 {
		r.must(c.log.matches(c.commitIndex, r.committed[c.commitIndex-1].term), "G3: %s lost a committed entry", n.id)
	}
}

// checkApplied is G5: state machines are given the same commands in the same
// order, no entry twice and none left out.
func (n *rigNode) checkApplied() {
	r := n.rig
	for i, command := range n.machine.commands {
		if i == len(r.commands) {
			r.commands = append(r.commands, command)
		}
		if r.commands[i] != command {
			r.must(false, "G5: command %d of %s is %q, and was %q", i, n.id, command, r.commands[i])
		}
	}
}

// checkRequest is G8 for requests: nothing leaves that promises what the
// storage does not hold.
func (n *rigNode) checkRequest(request request) {
	r := n.rig
	saved := loaded(n.storage)
	lead := func(term Term) {
		r.must(term == saved.HardState.Term, "G8: %s leads a term that its disk does not know", n.id)
		r.must(n.id == saved.HardState.VotedFor, "G8: %s leads without its own vote on disk", n.id)
		n.used = max(n.used, term)
	}
	switch m := request.message.(type) {
	case *VoteRequest:
		if m.PreVote {
			return
		}
		lead(m.Term)
		log := newLog(saved)
		r.must(log.matches(m.LastLogIndex, m.LastLogTerm), "G8: candidate %s speaks of entry %d@%d, which its disk does not have", n.id, m.LastLogIndex, m.LastLogTerm)
	case *Heartbeat:
		lead(m.Term)
	case *TimeoutNow:
		lead(m.Term)
	case *AppendEntries:
		lead(m.Term)
		n.checkEntries(m)
	case *InstallSnapshot:
		lead(m.Term)
		n.checkSnapshot(m)
	}
}

// checkEntries requires that entries are the leader's, wherever they come from,
// and that the one before them is.
func (n *rigNode) checkEntries(m *AppendEntries) {
	r, log := n.rig, &n.driver.core.log
	require.NoError(r.t, m.valid())
	r.must(log.matches(m.PrevLogIndex, m.PrevLogTerm), "L8: %s sends entries behind %d@%d, which is not in its log", n.id, m.PrevLogIndex, m.PrevLogTerm)
	before := m.PrevLogTerm
	for entry := range m.Entries.All() {
		r.must(log.matches(entry.Index, entry.Term), "L8: %s sends entry %d@%d, which is not in its log", n.id, entry.Index, entry.Term)
		if seen, ok := r.entries[place{entry.Index, entry.Term}]; ok {
			what := content{before, entry.Kind, string(entry.Data)}
			r.must(seen == what, "G2: %s sends %v at %d@%d, where there was %v", n.id, what, entry.Index, entry.Term, seen)
		}
		before = entry.Term
	}
}

// checkAnswer is G8 for answers.
func (n *rigNode) checkAnswer(to NodeID, response any) {
	r := n.rig
	saved := loaded(n.storage)
	var term Term
	switch m := response.(type) {
	case *VoteResponse:
		term = m.Term
		if m.VoteGranted && !m.PreVote {
			n.checkVote(to, m)
		}
	case *HeartbeatResponse:
		term = m.Term
	case *TimeoutNowResponse:
		term = m.Term
	case *AppendResponse:
		term = m.Term
		if m.Success {
			log := newLog(saved)
			have, _ := n.driver.core.log.term(m.Match)
			r.must(m.Match < log.compacted.Index || log.matches(m.Match, have), "G8: %s acknowledges entry %d@%d, which its disk does not have", n.id, m.Match, have)
		}
	case *SnapshotResponse:
		term = m.Term
		log := newLog(saved)
		have, _ := n.driver.core.log.term(m.Match)
		r.must(m.Match <= log.compacted.Index || log.matches(m.Match, have), "G8: %s acknowledges a snapshot up to entry %d@%d, which its disk does not have", n.id, m.Match, have)
	}
	r.must(term <= saved.HardState.Term, "G8: %s answers from a term that its disk does not know", n.id)
	n.used = max(n.used, term)
}

func (n *rigNode) checkVote(to NodeID, m *VoteResponse) {
	r := n.rig
	saved := loaded(n.storage).HardState
	r.must(m.Term == saved.Term, "G8: %s grants a vote in a term that its disk does not know", n.id)
	r.must(to == saved.VotedFor, "G8: %s grants a vote that its disk does not know", n.id)
	if r.votes[m.Term] == nil {
		r.votes[m.Term] = map[NodeID]NodeID{}
	}
	if other, ok := r.votes[m.Term][n.id]; ok {
		r.must(other == to, "G6: %s votes twice in term %d", n.id, m.Term)
	}
	r.votes[m.Term][n.id] = to
}

// requireHealthy requires that the cluster, left alone, ends with one leader,
// serves a fresh write, and has equal members (G10).
func (r *rig) requireHealthy() {
	r.t.Helper()
	serves := func(id NodeID) bool {
		if id == "" {
			return false
		}
		o := r.propose(id, fmt.Sprintf("fresh at %v", r.now))[0]
		r.pass(beat)
		return o.ended && o.err == nil
	}
	r.passUntil(10*wait, "a leader serves", func() bool { return serves(r.leader()) })
	r.pass(2 * wait)
	r.requireEqual()
}

// requireEqual requires that all running members have the same log, all of it
// committed and applied.
func (r *rig) requireEqual() {
	r.t.Helper()
	leader := r.core(r.leader())
	require.False(r.t, leader.configuration.isJoint(), "a joint phase does not end\n%s", r)
	for _, id := range r.ids {
		if _, member := leader.configuration.member(id); !r.up(id) || !member {
			continue
		}
		c := r.core(id)
		require.Equal(r.t, leader.log.last(), c.log.last(), "last entry of %s\n%s", id, r)
		require.Equal(r.t, leader.log.lastTerm(), c.log.lastTerm(), "last term of %s", id)
		require.Equal(r.t, c.log.last(), c.commitIndex, "commit index of %s\n%s", id, r)
		require.Equal(r.t, c.commitIndex, r.nodes[id].driver.applied, "applied index of %s", id)
		require.Equal(r.t, r.commands, r.nodes[id].machine.commands, "commands of %s", id)
	}
}

// The rig itself.

func TestRigElectsReplicatesAndRecovers(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	o := r.propose("a", "x", "y")
	r.settle()
	require.NoError(t, o[1].err)
	require.Equal(t, "did y", string(o[1].result.Response))
	r.restart("b")
	r.pass(10 * beat)
	require.Equal(t, NodeID("a"), r.leader())
	r.requireEqual()
	require.Equal(t, []string{"x", "y"}, r.node("b").machine.commands)
	r.requireHealthy()
}

// chance returns a seeded source of randomness.
func chance(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x7261)) }
