package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-8da499c8/raft/internal/sim"
	"github.com/seed-8da499c8/raft/internal/vfs"
	"github.com/seed-8da499c8/raft/internal/wal"
)

// The whole of a node but its goroutines, sockets and kernel, plugged into a
// simulated world: driver and core, the inbox with its batches, the storage in
// files on a disk that crashes, the applier, and the bytes of all messages.

// simulation is one life of a cluster in a world of its own.
type simulation struct {
	seed     uint64
	world    *sim.World
	network  *sim.Network
	judge    *sim.Judge
	oracle   *sim.Oracle
	plan     sim.Plan
	nodes    []*simNode
	peers    map[NodeID]string
	random   *rand.Rand // of the cluster's own chances: delays of disks and the like
	settings simSettings
	over     bool // the faults are
	members  simMembers
	commits  []simCommit
	trace    *sim.Trace // nil: nobody will look

	lies func(*simNode) bool // a disk says that it has written, and has not
}

// simSettings are drawn for each seed.
type simSettings struct {
	nodes        int
	cacheBytes   int
	batchBytes   int
	window       int
	segmentBytes int64
	pending      int // bytes of proposals that a node takes at most
	unapplied    int // bytes of entries, likewise
	snapshots    int // entries after which one is taken; 0: never
	trailing     int // entries that are kept behind one
	chunkBytes   int
	snapshotRate int           // bytes per second
	faulty       time.Duration // how long the first phase lasts
	clients      int
	thinks       time.Duration // a client, between two commands

	forwards     bool        // nodes send commands on to the leader
	leases       bool        // leaders answer reads by their clocks
	clockDrift   float64     // by which those may differ
	beyond       bool        // they differ more
	levels       []ReadLevel // of reads
	maxSessions  int
	sessionBytes int // of replies that are kept in them
}

func drawSettings(random *rand.Rand) simSettings {
	return simSettings{
		nodes:        []int{1, 3, 3, 3, 3, 3, 3, 3, 5, 5, 5, 5}[random.IntN(12)],
		cacheBytes:   []int{1, 2 << 10, 1 << 20}[random.IntN(3)],
		batchBytes:   []int{300, 4 << 10, 1 << 20}[random.IntN(3)],
		window:       []int{1, 4, 64}[random.IntN(3)],
		segmentBytes: []int64{1 << 10, 4 << 10, 64 << 10}[random.IntN(3)],
		pending:      []int{1 << 10, 1 << 20}[random.IntN(2)],
		unapplied:    []int{1 << 10, 1 << 20}[random.IntN(2)],
		snapshots:    []int{0, 5, 5, 5, 5, 10, 10, 10, 10, 20, 20, 20}[random.IntN(12)],
		trailing:     []int{1, 5, 10}[random.IntN(3)],
		chunkBytes:   []int{100, 300, 1 << 20}[random.IntN(3)],
		snapshotRate: []int{8 << 10, 1 << 20}[random.IntN(2)],
		faulty:       time.Duration(2000+random.IntN(4000)) * time.Millisecond,
		clients:      1 + random.IntN(6),
		thinks:       time.Duration(5+random.IntN(40)) * time.Millisecond,
		forwards:     random.IntN(2) == 0,
		leases:       random.IntN(2) == 0,
		clockDrift:   []float64{0.1, 0.3, 0.6}[random.IntN(3)],
		beyond:       random.IntN(4) == 0,
		levels:       []ReadLevel{ReadLinearizable, ReadConfirmed, ReadLocal},
		maxSessions:  []int{1, 3, 6, 20}[random.IntN(4)],
		sessionBytes: []int{1, 150, 500, 4 << 10}[random.IntN(4)],
	}
}

// newSimulation returns the life of a seed, about to begin. A plan of nil is the
// seed's own.
func newSimulation(seed uint64, plan sim.Plan) *simulation {
	w := sim.NewWorld(seed)
	s := &simulation{
		seed: seed, world: w, judge: sim.NewJudge(), oracle: sim.NewOracle(), peers: map[NodeID]string{},
		members: simMembers{added: map[NodeID]Index{}},
		random:  w.Random("machines"), settings: drawSettings(w.Random("settings")), plan: plan,
	}
	if plan == nil {
		s.plan = sim.DrawPlan(w.Random("plan"), s.settings.nodes+simSpares, s.settings.faulty)
	}
	s.network = w.NewNetwork(s.settings.nodes+simSpares, sim.Quality{Delay: 50 * time.Microsecond, Jitter: time.Millisecond})
	for i := range s.settings.nodes + simSpares {
		id := NodeID('a' + rune(i))
		founds := i < s.settings.nodes
		if founds {
			s.peers[id] = addressOfSim(id)
		}
		n := &simNode{
			simulation: s, number: i, id: id, disk: vfs.NewMemory(), simMembership: simMembership{employed: founds, joins: !founds},
			clock: w.NewClock(time.Duration(s.random.Int64N(int64(time.Hour))), 1+(s.random.Float64()-0.5)/50),
			salts: w.Random("salts of " + string(id)),
		}
		n.clock.Bound = s.settings.clockBound()
		n.disk.KeepAfterFailedSync(s.random.IntN(2) == 0)
		s.nodes = append(s.nodes, n)
	}
	for _, n := range s.nodes {
		n.peers = make([]*simPeer, len(s.nodes))
	}
	return s
}

// run lives the life and returns the promise that was broken; nil: none.
func (s *simulation) run() error {
	founders := s.nodes[:s.settings.nodes]
	late := s.random.IntN(len(founders)) // a member that begins when the others have gone on
	for i, n := range founders {
		after := time.Duration(s.random.Int64N(int64(100 * time.Millisecond)))
		if len(founders) > 1 && i == late && s.settings.snapshots > 0 {
			after += 2 * time.Second
		}
		s.world.After(after, n.start)
	}
	for i := range s.settings.clients {
		newSimClient(s, i)
	}
	newSimOperator(s)
	s.world.Inflict(s.plan, s.network, simMachines{s})
	stop := func() bool { return s.judge.Verdict() != nil }
	s.world.RunUntil(s.settings.faulty, stop)
	if err := s.judge.Verdict(); err != nil {
		return err
	}
	if err := s.recoverAll(stop); err != nil {
		return err
	}
	return s.oracle.Check()
}

// recoverAll ends all faults, but for those of a minority, and requires of the other
// members that something good happens: a leader and a fresh command within 10
// election timeouts, and all of them equal soon after, with no change under way.
func (s *simulation) recoverAll(stop func() bool) error {
	s.over = true
	s.network.Heal()
	s.world.Note(sim.Line{Kind: "all faults end", Node: -1, Peer: -1})
	for _, n := range s.nodes {
		n.heal()
		n.retired = n.retired && !s.mayBelong(n)
		n.start()
	}
	var away []*simNode
	if s.random.IntN(2) == 0 {
		away = s.minority()
	}
	for _, n := range away {
		n.keptAway = true
	}
	for _, n := range away {
		s.keepAway(n)
	}
	fresh := ""
	healed := s.world.Now()
	done := func() bool { return stop() || fresh != "" && slices.ContainsFunc(s.whole(), applied(fresh)) }
	for attempt := 0; s.world.Now() < healed+10*simElectionTimeout && !done(); attempt++ {
		if leader := s.leader(); leader != nil && fresh == "" {
			command := fmt.Sprintf("fresh%d put fresh %d", attempt, attempt)
			op := s.oracle.Begin(-1, leader.number, s.world.Now(), command)
			leader.propose(op, func() {
				if op.Outcome == sim.Done {
					fresh = command
				}
			})
		}
		s.world.RunUntil(s.world.Now()+simElectionTimeout/10, stop)
	}
	if !done() {
		return fmt.Errorf("liveness: no fresh command was done within 10 election timeouts: %s", s)
	}
	soon := s.world.Now() + 20*simElectionTimeout
	if len(away) > 0 {
		soon += 40 * simElectionTimeout // whom they follow may have bad links only
	}
	equal := func() bool {
		return stop() || s.isSettled() && !slices.ContainsFunc(s.whole(), not(applied(fresh))) && !slices.ContainsFunc(s.whole(), (*simNode).hasReaders)
	}
	for s.world.Now() < soon && !equal() {
		s.world.RunUntil(s.world.Now()+simElectionTimeout/10, stop)
	}
	if !equal() {
		return fmt.Errorf("liveness: the members did not become equal soon: %s", s)
	}
	return s.readAll(stop)
}

// keepAway leaves a node dead, or able to disturb the others and unable to be of use to
// them.
func (s *simulation) keepAway(n *simNode) {
	away := s.random.IntN(4)
	s.world.Count("nodes kept away")
	if away == 0 {
		n.kill()
		return
	}
	for _, other := range s.nodes {
		if other.keptAway {
			continue
		}
		fault := sim.Fault{For: time.Hour, Kind: sim.OneWay, Node: n.number, Peer: other.number, Seed: s.random.Uint64()}
		switch away {
		case 1: // it is not heard
		case 2: // it hears nothing
			fault.Node, fault.Peer = fault.Peer, fault.Node
		case 3:
			fault.Kind = sim.Flap
		}
		s.world.Inflict(sim.Plan{fault}, s.network, simMachines{s})
	}
}

// applied tells nodes on which a command was applied from others.
func applied(command string) func(*simNode) bool {
	return func(n *simNode) bool { return n.driver != nil && slices.Contains(n.machine.recent, command) }
}

func not(is func(*simNode) bool) func(*simNode) bool {
	return func(n *simNode) bool { return !is(n) }
}

// leader returns the one of the latest term.
func (s *simulation) leader() (leader *simNode) {
	for _, n := range s.nodes {
		if n.driver != nil && !n.frozen && n.driver.core.role == Leader && (leader == nil || n.driver.core.currentTerm > leader.driver.core.currentTerm) {
			leader = n
		}
	}
	return leader
}

func (s *simulation) String() string {
	text := fmt.Sprintf("at %v", s.world.Now())
	for _, n := range s.nodes {
		if !n.employed {
			continue
		}
		if n.driver == nil {
			text += fmt.Sprintf("; %s is down", n.id)
			continue
		}
		st := n.driver.status(n.clock.Now())
		text += fmt.Sprintf("; %s: %v in term %d, last %d, commit %d, applied %d (%s); it knows %d: %v", n.id, st.Role, st.Term, st.LastIndex, st.CommitIndex, st.AppliedIndex, st.Reason, n.driver.core.configuration.index, n.driver.core.configuration)
	}
	return text
}

const (
	simHeartbeat       = 100 * time.Millisecond
	simElectionTimeout = 500 * time.Millisecond
	simBatch           = 1 << 10 // bytes of proposals that are taken at once
	simWindow          = 2 << 10 // bytes that are under way to a follower
)

// simNode is a machine with a disk and a clock, and the process that may run on
// it.
type simNode struct {
	*simulation
	number int
	id     NodeID
	clock  *sim.Clock
	disk   *vfs.Memory
	salts  *rand.Rand

	simMembership

	frozen    bool
	hung      bool    // the disk is
	inWrite   func()  // what comes in the middle of the next write, if anything
	slowDisk  float64 // 0: as usual
	slowApply float64

	// The process; driver is nil if none runs.
	life      int
	driver    *driver
	storage   *diskStorage
	inbox     *inbox
	machine   *simMachine
	sessions  *sessionTable
	saving    *SaveBatch
	waiting   func() // what waits for a disk that hangs
	durable   HardState
	last      Index // on disk
	turn      *sim.Event
	alarm     *sim.Event
	events    []any
	turns     int
	peers     []*simPeer
	chunk     Entries // read last, to look at
	works     []*diskWork
	receiver  snapshotReceiver
	rotten    bool  // a snapshot of this machine was damaged
	compacted Index // up to there the log was forgotten, in this process or the last
}

// simPeer is a node's append stream to another.
type simPeer struct {
	term   Term
	stream *sim.Stream
}

// start makes a process of what the disk holds.
func (n *simNode) start() {
	if n.driver != nil || n.disk == nil || !n.employed || n.retired {
		return
	}
	n.life++
	storage, err := openDiskStorage(n.disk, "data", wal.Options{SegmentBytes: n.settings.segmentBytes, Inline: true, Random: n.salts.Uint64})
	if err == nil {
		err = n.boot(storage)
	}
	if errors.Is(err, vfs.ErrIO) {
		n.disk = n.disk.CrashClone(vfs.CrashKill, 0)
		return // a bad disk; it is tried again when that is over
	}
	if err != nil {
		n.judge.Accuse("recovery", "node %s does not start: %v", n.id, err)
		return
	}
	n.world.Note(sim.Line{Kind: "start", Node: n.number, Peer: -1})
	n.world.Count("starts")
	n.show()
	n.wake()
}

func (n *simNode) boot(storage *diskStorage) error {
	state, err := storage.Load()
	if err != nil {
		return err
	}
	isNew := state.HardState.Incarnation == 0
	if isNew {
		batch := bootstrap(NewConfig(n.id, n.simulation.peers[n.id], n.simulation.peers), n.salts.Uint64()|1)
		if n.joins {
			batch = SaveBatch{HardState: &HardState{ID: n.id, Incarnation: n.salts.Uint64() | 1, Joined: true}}
		}
		if err := storage.Save(batch); err != nil {
			return err
		}
		if state, err = storage.Load(); err != nil {
			return err
		}
	}
	settings := coreSettings{
		id: n.id, address: addressOfSim(n.id), join: n.joins,
		fingerprint: state.HardState.Fingerprint, incarnation: state.HardState.Incarnation,
		heartbeatInterval: simHeartbeat, electionTimeout: simElectionTimeout, diskStallLimit: 5 * simElectionTimeout,
		maxBatchBytes: n.settings.batchBytes, maxInflightBytes: simWindow, maxInflightMessages: n.settings.window,
		snapshotRate: n.settings.snapshotRate, chunkBytes: n.settings.chunkBytes, lease: n.settings.lease(),
	}
	c, err := newCore(settings, state, !isNew, n.salts.Uint64(), n.clock.Now())
	if err != nil {
		return err
	}
	n.storage, n.durable = storage, state.HardState
	n.noteWritten()
	n.fingerprint = state.HardState.Fingerprint
	snapshots := storage.Snapshots()
	snapshots.options.SyncBytes, snapshots.options.ChunkBytes = 200, 100
	d, err := startDriver(context.Background(), c, snapshots, nil, driverSettings{
		maxApplyBytes: 4 << 10, maxUnappliedBytes: n.settings.unapplied, logCacheBytes: n.settings.cacheBytes,
		snapshotEntries: n.settings.snapshots, snapshotBytes: 4 << 10, trailingEntries: n.settings.trailing,
	})
	if err != nil {
		return err
	}
	if list := snapshots.files.List(); len(list) > 0 && list[0].Err != nil || len(list) > 0 && Index(list[0].Index) > c.snapshot.Index {
		n.world.Count("snapshots fallen back from")
	}
	n.driver, n.receiver = d, snapshotReceiver{store: snapshots}
	n.driver.verify = false // the judge looks at it, without a copy for each step
	n.inbox = newInbox(n.settings.pending, simBatch)
	n.machine, n.sessions = &simMachine{node: n, store: sim.NewStore()}, newSessionTable()
	n.saving, n.waiting, n.chunk, n.events = nil, nil, Entries{}, nil
	return nil
}

// end ends the process: nothing that it had begun comes to it any more.
func (n *simNode) end() {
	if n.alarm != nil {
		n.alarm.Cancel()
	}
	for i, p := range n.peers {
		if p != nil {
			p.stream.Close()
			n.peers[i] = nil
		}
	}
	n.driver, n.storage, n.saving, n.waiting, n.turn, n.alarm, n.works = nil, nil, nil, nil, nil, nil, nil
	n.show()
}

// kill ends the process as a signal does: the system keeps what was written.
func (n *simNode) kill() { n.crash(vfs.CrashKill, 0) }

// crash ends the process, and the machine too unless the mode is CrashKill. A
// write under way gets as far as it happens to.
func (n *simNode) crash(mode vfs.CrashMode, seed uint64) {
	if n.driver != nil && n.saving != nil && n.random.IntN(4) > 0 {
		n.disk.FailAfter(n.disk.Operations() + 2 + int(n.random.ExpFloat64())) // mostly before the sync
		_ = n.storage.Save(*n.saving)                                          // nobody hears of it
		n.world.Count("writes cut short")
	} else if n.driver != nil {
		n.cutShort()
	}
	if n.driver != nil {
		n.world.Note(sim.Line{Kind: "crash", Node: n.number, Peer: -1, Text: mode.String()})
		n.world.Count("crashes")
	}
	if n.driver != nil && n.driver.core.incoming != nil {
		n.world.Count("transfers interrupted")
	}
	if n.driver != nil && n.driver.core.configuration.isJoint() {
		n.world.Count("crashes in a joint phase")
	}
	before := n.disk
	n.disk = before.CrashClone(mode, seed)
	if mode != vfs.CrashKill {
		n.countLoss(before)
	}
	if mode != vfs.CrashKill && !n.rotten && n.random.IntN(2) == 0 {
		n.rot()
	}
	n.end()
}

// countLoss counts what a power cut has done to a disk that was as before.
func (n *simNode) countLoss(before *vfs.Memory) {
	is := func(mode vfs.CrashMode) bool {
		return maps.EqualFunc(n.disk.Files(), before.CrashClone(mode, 0).Files(), bytes.Equal)
	}
	switch lost, kept := is(vfs.CrashLose), is(vfs.CrashKeep); {
	case !lost && !kept:
		n.world.Count("writes torn")
	case !kept:
		n.world.Count("writes lost")
	}
}

// fail ends the process by itself, with a cause: who waits is told. A disk that
// fails, and to be no member any more, are the only good ones: a node that lacks what
// it should have, or is sent what must not be, has found out that another promise was
// broken.
func (n *simNode) fail(cause error, w work) {
	switch {
	case errors.Is(cause, ErrRemoved):
		n.leave()
	case !errors.Is(cause, vfs.ErrIO):
		n.judge.Accuse("no node has to stop", "%v", cause)
	}
	n.world.Note(sim.Line{Kind: "stop", Node: n.number, Peer: -1, Text: cause.Error()})
	n.world.Count("nodes that stopped by themselves")
	left := n.inbox.close(stoppedBy(n.id, cause))
	for _, event := range left.events {
		if w, ok := event.(*readWait); ok {
			w.done(0, stoppedBy(n.id, cause))
		}
	}
	for _, b := range left.batches {
		for i := range b.proposals {
			b.proposals[i].complete(Result{}, stoppedBy(n.id, cause))
		}
	}
	d := n.driver
	d.work.failed, d.work.outcomes = w.failed, w.outcomes
	d.failFrom(0, cause)
	d.endMembershipWaits(stoppedBy(n.id, cause))
	d.endReads(stoppedBy(n.id, cause))
	for _, o := range d.work.outcomes {
		o.done(o.index, o.err)
	}
	for _, task := range []*applyTask{w.apply, n.machine.task} {
		if task != nil {
			for _, waits := range task.claim(task.last) {
				d.work.failed = append(d.work.failed, failedRun{waits, cause})
			}
		}
	}
	failAll(d.work.failed, endAtOnce)
	_ = n.storage.Close()
	n.disk = n.disk.CrashClone(vfs.CrashKill, 0)
	n.end()
	if n.over && errors.Is(cause, vfs.ErrIO) { // it hears only now of a write that failed before
		n.world.After(simElectionTimeout/10, n.start)
	}
}

// heal ends what faults did to the machine.
func (n *simNode) heal() {
	n.slowDisk, n.slowApply, n.inWrite = 0, 0, nil
	n.clock.SetRate(1)
	n.clock.Hold(false)
	n.disk.Inject(nil)
	n.freeze(false)
	n.hang(false)
}

func (n *simNode) freeze(frozen bool) {
	if n.frozen = frozen; !frozen {
		n.wake()
	}
	n.show()
}

func (n *simNode) hang(hung bool) {
	n.hung = hung
	if waiting := n.waiting; !hung && waiting != nil {
		n.waiting = nil
		waiting()
	}
}

// post leaves an event for the process.
func (n *simNode) post(event any) {
	if n.driver != nil && n.inbox.post(event) {
		n.wake()
	}
}

// postIn leaves an event for one life of the process.
func (n *simNode) postIn(life int, event any) {
	if n.life == life {
		n.post(event)
	}
}

// wake has the loop turn, a moment later: what comes meanwhile is taken along.
func (n *simNode) wake() {
	if n.driver == nil || n.frozen || n.turn != nil {
		return
	}
	life := n.life
	n.turn = n.world.After(time.Duration(n.random.Int64N(int64(200*time.Microsecond))), func() {
		if n.life == life && n.driver != nil {
			n.turn = nil
			n.serve()
		}
	})
}

// serve is a turn of the event loop.
func (n *simNode) serve() {
	if n.frozen {
		return // who thaws it wakes it
	}
	in := n.inbox.take(n.events, n.driver.proposalRoom(), n.driver.wantsReads())
	w := n.driver.advance(n.clock.Now(), in.events, in.batches)
	clear(in.events)
	n.events = in.events
	if n.turns++; n.turns%50 == 0 { // it looks at the whole log
		n.driver.core.checkInvariants()
	}
	n.driver.checkWaiting()
	n.carryOut(w)
	if n.driver == nil {
		return
	}
	n.observe()
	n.show()
	if n.driver.wantsMore(in) {
		n.wake()
	}
	if n.alarm != nil {
		n.alarm.Cancel()
	}
	life := n.life
	n.alarm = n.world.After(n.clock.Until(n.driver.core.deadline()), func() {
		if n.life == life {
			n.wake()
		}
	})
}

func (n *simNode) carryOut(w work) {
	for _, note := range w.notes {
		n.world.Count(note.action)
		n.world.Note(sim.Line{Kind: note.action, Node: n.number, Peer: n.numberOf(note.peer), Text: note.fact})
	}
	if w.failure != nil {
		n.reply(w.replies)
		n.fail(w.failure, w)
		return
	}
	if joined := n.driver.core.settings.fingerprint; joined != n.fingerprint {
		n.fingerprint = joined
		n.storage.Snapshots().join(joined)
	}
	for _, id := range w.resets {
		n.reset(id)
	}
	for _, r := range w.requests {
		n.checkRequest(r)
		n.send(r)
	}
	if w.save != nil {
		n.save(w.save)
	}
	n.reply(w.replies)
	n.carryOutSnapshots(w)
	for _, r := range w.reads {
		n.read(r)
	}
	if w.apply != nil {
		n.apply(w.apply)
	}
	failAll(w.failed, endAtOnce)
}

func (n *simNode) numberOf(id NodeID) int {
	if id == "" {
		return -1
	}
	return int(id[0] - 'a')
}

func (n *simNode) reply(replies []reply) {
	for _, r := range replies {
		if err, ok := r.response.(error); ok {
			r.respond(nil, err)
		} else {
			r.respond(r.response, nil)
		}
	}
}

// save writes a batch, which takes a while.
func (n *simNode) save(batch *SaveBatch) {
	n.saving = batch
	life := n.life
	takes := time.Duration(n.random.Int64N(int64(2*time.Millisecond))) + time.Duration(n.slowDisk*float64(n.random.Int64N(int64(2*time.Second))))
	n.world.After(takes, func() {
		if n.life != life || n.driver == nil {
			return
		}
		if happen := n.inWrite; happen != nil {
			n.inWrite = nil
			happen()
			return
		}
		if n.hung {
			n.world.Count("writes that hung")
			n.waiting = n.written
			return
		}
		n.written()
	})
}

func (n *simNode) written() {
	batch := *n.saving
	n.saving = nil
	if n.lies != nil && n.lies(n) {
		batch = SaveBatch{}
	}
	if err := n.storage.Save(batch); err != nil {
		n.post(failed{fmt.Errorf("raft: node %s cannot write to its storage: %w", n.id, err)})
		return
	}
	if batch.HardState != nil {
		n.durable = *batch.HardState
	}
	if first := batch.Entries.First(); first > 0 && first <= n.last {
		n.world.Count("suffixes truncated")
	}
	n.noteWritten()
	n.post(written{})
}

// noteWritten shows the judge what the disk holds.
func (n *simNode) noteWritten() {
	last := n.storage.log.Contents().Last
	n.last = Index(last.Index)
	n.judge.Written(n.number, n.ballot(), sim.Mark{Index: last.Index, Term: last.Term})
}

// ballot is the vote on the disk.
func (n *simNode) ballot() sim.Ballot {
	return sim.Ballot{Term: uint64(n.durable.Term), Vote: markOf(n.durable.VotedFor)}
}

// read reads entries for a follower, which takes a while.
func (n *simNode) read(r read) {
	n.world.Count("reads for followers")
	life := n.life
	n.world.After(time.Duration(n.random.Int64N(int64(5*time.Millisecond))), func() {
		if n.life == life && n.driver != nil {
			entries, err := n.storage.Entries(r.first, r.last, r.maxBytes)
			n.post(entriesRead{r, entries, err})
		}
	})
}

// apply has the applier work on a task, which takes a while.
func (n *simNode) apply(task *applyTask) {
	life := n.life
	n.machine.task = task
	takes := time.Duration(n.random.Int64N(int64(time.Millisecond))) + time.Duration(n.slowApply*float64(n.random.Int64N(int64(3*time.Second))))
	n.world.After(takes, func() {
		if n.life != life || n.driver == nil {
			return
		}
		n.machine.task = nil
		report := func(event any) {
			n.noteSessions(event)
			n.postIn(life, event)
		}
		a := newApplier(context.Background(), n.machine, n.sessions, n.storage, 4<<10, report, &n.machine.stopped)
		if err := a.run(task); err != nil {
			n.post(failed{err})
		}
	})
}

// observe shows the judge what has become of the node.
func (n *simNode) observe() {
	c := n.driver.core
	n.compacted = c.log.compacted.Index
	n.noteMembers()
	n.judge.Observe(sim.Observation{
		Node: n.number, Life: n.life, Term: uint64(c.currentTerm), Vote: markOf(c.votedFor), Leads: c.role == Leader,
		OnDisk: n.ballot(),
		Commit: uint64(c.commitIndex), Applied: uint64(n.driver.applied), First: uint64(c.log.firstKept()), Last: uint64(c.log.last()),
		Forgotten: uint64(c.log.compacted.Term),
		Held:      n.holds(), Entry: n.entry,
		Members: n.known,
	})
	n.noteCommitted()
}

// holds lists what the node keeps in memory. What it takes at once may be more than
// there is room for.
func (n *simNode) holds() []sim.Held {
	log := &n.driver.core.log
	batch := simBatch / entrySize(len("1.1 get k0")) * proposalSize(len("1.1 get k0"))
	cached, most := 0, n.settings.cacheBytes
	if len(log.runs) > 0 && log.runs[0].last() <= log.durable { // else it cannot be read back
		cached = log.cachedBytes
		if log.runs[0].last() > n.driver.applied {
			most = unappliedCaches*most + unappliedCaches - 1 // which is rounded
		}
	}
	held := []sim.Held{
		{What: "commands in the queue", Bytes: n.inbox.pending, Most: n.settings.pending},
		{What: "commands that are not applied", Bytes: n.driver.unsettledBytes, Most: n.settings.unapplied + min(batch, n.settings.pending)},
		{What: "entries that are on its disk", Bytes: cached, Most: most},
		{What: "replies in sessions", Bytes: int(n.sessions.replyBytes), Most: n.settings.sessionBytes},
	}
	for _, p := range n.driver.core.peers {
		held = append(held, sim.Held{What: "entries under way", Bytes: p.bytes, Most: simWindow + n.settings.batchBytes})
	}
	return held
}

// markOf is a candidate as a judge writes it down.
func markOf(votedFor NodeID) uint64 {
	if votedFor == "" {
		return 0
	}
	return uint64(votedFor[0])
}

// entry returns the term and a digest of an entry, from memory or disk.
func (n *simNode) entry(index uint64) (term, digest uint64) {
	i, log := Index(index), &n.driver.core.log
	t, _ := log.term(i)
	var e Entries
	if i >= log.cachedFrom() {
		e = log.from(i, 1)
	} else {
		if first := n.chunk.First(); first == 0 || i < first || i > n.chunk.last() || n.chunkTerm(i) != t {
			var err error
			if n.chunk, err = n.storage.Entries(i, log.cachedFrom()-1, 16<<10); err != nil {
				n.judge.Accuse("reading back", "node %s cannot read entry %d: %v", n.id, i, err)
				return uint64(t), 0
			}
		}
		e = n.chunk.from(i, 1)
	}
	for one := range e.All() {
		h := fnv.New64a()
		h.Write([]byte{byte(one.Kind)})
		h.Write(one.Data)
		return uint64(one.Term), h.Sum64()
	}
	return uint64(t), 0
}

func (n *simNode) chunkTerm(i Index) Term { return n.chunk.runs[n.chunk.position(i)].term }

// checkRequest checks what a request promises against the disk: whoever campaigns
// or leads has voted for itself. A pre-vote promises nothing, nor does a question to a leader.
func (n *simNode) checkRequest(r request) {
	lastLogIndex := uint64(0)
	switch m := r.message.(type) {
	case *VoteRequest:
		if m.PreVote {
			return
		}
		lastLogIndex = uint64(m.LastLogIndex)
	case *ForwardRequest:
		return
	}
	n.judge.Promise(n.number, "a request", uint64(r.term), uint64(n.durable.Term), lastLogIndex, uint64(n.last))
	if n.durable.VotedFor != n.id {
		n.judge.Accuse("nothing is promised before it is durable", "%s sends a request in term %d and its disk says that it voted for %q", n.id, r.term, n.durable.VotedFor)
	}
}

// checkAnswer checks what an answer promises against the disk.
func (n *simNode) checkAnswer(to NodeID, response any) {
	switch m := response.(type) {
	case *VoteResponse:
		n.judge.Promise(n.number, "a vote", uint64(m.Term), uint64(n.durable.Term), 0, 0)
		if m.VoteGranted && !m.PreVote && n.durable.VotedFor != to {
			n.judge.Accuse("nothing is promised before it is durable", "%s votes for %s in term %d and its disk says %q", n.id, to, m.Term, n.durable.VotedFor)
		}
	case *TimeoutNowResponse:
		n.judge.Promise(n.number, "a successor's answer", uint64(m.Term), uint64(n.durable.Term), 0, 0)
	case *HeartbeatResponse:
		n.judge.Promise(n.number, "a heartbeat's answer", uint64(m.Term), uint64(n.durable.Term), 0, 0)
	case *SnapshotResponse:
		n.judge.Promise(n.number, "a snapshot's acknowledgement", uint64(m.Term), uint64(n.durable.Term), uint64(m.Match), uint64(n.last))
	case *AppendResponse:
		n.judge.Promise(n.number, "an acknowledgement", uint64(m.Term), uint64(n.durable.Term), uint64(m.Match), uint64(n.last))
	}
}

var errSimTimeout = errors.New("no answer in time")

// simMachine is the state machine of a process.
type simMachine struct {
	node    *simNode
	store   *sim.Store
	n       int
	recent  []string // commands
	task    *applyTask
	stopped atomic.Bool
}

func (m *simMachine) Apply([]byte) ([]byte, error) { panic("not called: it takes batches") }

func (m *simMachine) ApplyBatch(commands []Command, results []ApplyResult) {
	for i, c := range commands {
		command := string(c.Data)
		if err := m.node.oracle.Apply(m.node.number, m.n, sim.Applied{Index: uint64(c.Index), Command: command}); err != nil {
			m.node.judge.Accuse("the clients' view", "%v", err)
		}
		m.n++
		results[i].Response = []byte(m.store.Apply(command))
		if m.recent = append(m.recent, command); len(m.recent) > 200 {
			m.recent = slices.Clone(m.recent[100:])
		}
	}
}
