package raft

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/seed-8da499c8/raft/internal/vfs"
	"github.com/seed-8da499c8/raft/internal/wal"
)

// Node is one member of a cluster. Make it with [NewNode], start it with
// [Node.Run], end it with [Node.Stop]. All methods may be called from any
// goroutine, but not from the [StateMachine]'s methods if they wait.
type Node struct {
	// Immutable.
	config    Config
	machine   StateMachine
	durable   DurableStateMachine // the same, if it is one; else nil
	transport Transport
	log       *zap.Logger
	inbox     *inbox
	done      chan struct{} // closed at the end of Run

	storage  Storage                // set by Run before anything else uses it
	sessions *sessionTable          // likewise, and then the applier's
	identity atomic.Pointer[Header] // of requests that callers' goroutines send; set by Run, and by the loop

	// pool holds waiters between calls of Propose. Each node has its own, since
	// the channels of a bubble of testing/synctest must not leave it.
	pool   sync.Pool
	lease  leaseView
	toStop atomic.Bool // the loop is to end

	callsLeft atomic.Int64 // of calls below, and of those that are made after the end

	mu       sync.Mutex // guards what follows
	ran      bool
	stopping bool
	serving  bool   // the loop runs
	finished bool   // nothing runs any more
	err      error  // why the node stopped
	last     Status // before Run and after it
	watchers watchers
	calls    []func()       // callbacks with errors, see callBack
	calling  bool           // a goroutine makes them
	slowed   chan struct{}  // closed when they have caught up; nil: nobody waits for that
	callers  sync.WaitGroup // of that goroutine
}

// NewNode checks the configuration and returns a node that is ready to run. It
// does no I/O. The error matches [ErrConfig] and names every problem.
//
// The node owns the transport from then on and closes it. With an error the
// transport is still the caller's.
func NewNode(config Config, sm StateMachine, transport Transport) (*Node, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	if sm == nil || transport == nil {
		return nil, fmt.Errorf("%w of node %q: want a state machine and a transport, neither of them nil", ErrConfig, config.ID)
	}
	durable, isDurable := sm.(DurableStateMachine)
	if _, ok := sm.(BatchStateMachine); isDurable && !ok {
		return nil, fmt.Errorf("%w of node %q: the state machine is a DurableStateMachine and no BatchStateMachine: it would not learn the indexes of commands", ErrConfig, config.ID)
	}
	return &Node{
		config: config, machine: sm, durable: durable, transport: transport,
		log:   config.Logger.Named("raft").With(zap.String("node", string(config.ID))),
		inbox: newInbox(config.MaxPendingBytes, config.MaxBatchBytes),
		done:  make(chan struct{}),
		pool:  sync.Pool{New: newWaiter},
		last:  Status{ID: config.ID, Reason: "the node is not running: Run has not been called"},
	}, nil
}

// Run starts the node and serves until ctx ends, Stop is called, or something
// happens that the node cannot go on with: then it returns that. It returns nil
// after ctx or Stop, also if Stop came before. It may be called once; more calls
// return [ErrAlreadyRun].
//
// The end of ctx is abrupt: nothing is handed over. Either way every waiting
// call has ended, and every goroutine of the node too, when Run returns.
func (n *Node) Run(ctx context.Context) error {
	n.mu.Lock()
	ran, stopping := n.ran, n.stopping
	n.ran = true
	if !ran && !stopping {
		n.last.Reason = "the node is starting: it reads what its storage holds"
	}
	n.mu.Unlock()
	switch {
	case ran:
		return ErrAlreadyRun
	case stopping:
		return nil
	}
	err := n.run(ctx)
	n.finish(err)
	return err
}

// Stop ends the node and waits until Run has returned, or ctx ends, whose error
// it returns then while the node goes on stopping. A leader hands over before, as
// [Node.TransferLeadership] does, so that the others need not wait for an election. What was not in the log yet
// fails with [ErrStopped], what was there without an outcome with
// [*OutcomeUnknownError]. More calls do the same; before Run, Stop makes Run
// return at once.
func (n *Node) Stop(ctx context.Context) error {
	n.mu.Lock()
	first, ran := !n.stopping, n.ran
	n.stopping = true
	n.mu.Unlock()
	if first && ran {
		n.handOver(ctx)
	}
	if first {
		n.toStop.Store(true)
		n.inbox.signal()
	}
	if first && !ran {
		n.refuse(n.close(n.last, nil), nil)
		n.finish(n.transport.Close())
	}
	select {
	case <-n.done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-n.done:
		return nil
	default:
		return fmt.Errorf("raft: node %s is still stopping: %w", n.config.ID, context.Cause(ctx))
	}
}

// Done returns a channel that is closed once the node has stopped.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err returns why the node stopped; nil while it runs, and after a clean stop.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// Propose replicates a command and returns once it is committed and applied
// here, with what the state machine returned. It waits while the queue of
// proposals is full, as long as ctx lasts. The command may be reused after the
// call.
//
// Errors that match [ErrNotAccepted] say that the command is not in the log and
// never will be: [*NotLeaderError], [ErrTooLarge], [ErrStopped], or ctx's error
// if ctx ended before the command was in the log. [*OutcomeUnknownError]
// says that it may be applied or not. [*ApplyError] says that it was applied
// and refused by the state machine.
//
// With Config.ForwardProposals a member that does not lead sends the command on to the
// leader, once, and all of that holds there: [ErrUnreachable] and [ErrOverloaded], of a leader
// that has too many forwarded commands under way, say too that the command is not in the
// log. Without a deadline of ctx's the leader has 10 election timeouts to answer.
func (n *Node) Propose(ctx context.Context, command []byte) (Result, error) {
	if err := n.checkCommand(command); err != nil {
		return Result{}, err
	}
	return n.proposeOrForward(ctx, EntryCommand, command)
}

// proposeOrForward is Propose for an entry of any kind whose outcome the applier knows.
func (n *Node) proposeOrForward(ctx context.Context, kind EntryKind, data []byte) (Result, error) {
	result, err := n.propose(ctx, kind, data)
	var elsewhere *NotLeaderError
	if n.config.ForwardProposals && errors.As(err, &elsewhere) && elsewhere.Leader != "" {
		return n.forward(ctx, elsewhere.Leader, forwardKinds[kind], data)
	}
	return result, err
}

// propose is proposeOrForward on this node alone.
func (n *Node) propose(ctx context.Context, kind EntryKind, data []byte) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, leftQueue(ctx)
	}
	w := n.pool.Get().(*waiter)
	if err := n.inbox.enqueueWait(ctx, kind, data, proposal{wait: w}); err != nil {
		w.batch = nil // a large one has been encoded even if the node stopped meanwhile
		n.pool.Put(w)
		return Result{}, err
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		if err := n.leave(ctx, w); err != nil {
			return Result{}, err
		}
	}
	result, err := w.result, w.err
	w.result, w.err, w.batch = Result{}, nil, nil
	n.pool.Put(w)
	return result, err
}

// leave gives up waiting, unless the result has come meanwhile: then it returns
// nil.
func (n *Node) leave(ctx context.Context, w *waiter) error {
	if n.inbox.withdraw(w) {
		return leftQueue(ctx)
	}
	select {
	case <-w.ready:
		return nil
	default:
	}
	unknown := &OutcomeUnknownError{Cause: contextError(ctx)}
	if first := w.batch.first.Load(); first > 0 {
		unknown.Index = Index(first) + Index(w.position)
		unknown.Term = Term(w.batch.term.Load())
	}
	return unknown
}

// ProposeAsync replicates a command without waiting for the outcome; the command is copied.
// done is called exactly once, on a goroutine of the node, never from inside
// ProposeAsync, with what Propose would have returned, or [ErrOverloaded] if
// the queue of proposals is full. Successes come in the order of the log;
// failures may overtake them. done must not wait for anything; it may call
// ProposeAsync. A nil done ignores the outcome.
//
// Whoever proposes on regardless of errors faster than it is called back is slowed down: while
// more than 16,384 callbacks with errors wait, a call that no callback makes takes up to 10 ms.
// A callback should propose one command at most: those that propose several which are refused
// become ever more.
func (n *Node) ProposeAsync(command []byte, done func(Result, error)) {
	if done == nil {
		done = func(Result, error) {}
	}
	if n.callsLeft.Load() > maxCalls && !calledByLibrary() {
		n.slowDown()
	}
	err := n.checkCommand(command)
	if err == nil {
		err = n.inbox.enqueue(EntryCommand, command, proposal{done: done})
	}
	if err != nil {
		n.callBack(func() { done(Result{}, err) })
	}
}

func (n *Node) checkCommand(command []byte) error {
	if len(command) > n.config.MaxCommandBytes {
		return fmt.Errorf("%w: %d bytes, MaxCommandBytes is %d", ErrTooLarge, len(command), n.config.MaxCommandBytes)
	}
	return nil
}

// end ends the wait for a proposal. Who gave a callback is called back.
func (n *Node) end(p *proposal, err error) {
	if done := p.done; done != nil {
		n.callBack(func() { done(Result{}, err) })
		return
	}
	p.complete(Result{}, err)
}

// Status returns what the node knows at this moment. It waits for the event
// loop, which never waits for anything.
func (n *Node) Status() Status {
	n.mu.Lock()
	last, serving := n.last, n.serving
	n.mu.Unlock()
	answer := make(chan Status, 1)
	if serving && n.inbox.ask(answer) {
		return <-answer
	}
	if serving { // it has just stopped
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.last
	}
	return last
}

// TakeSnapshot takes a snapshot of the state as it is when the call comes, or as it
// has become meanwhile, and returns the last index that it covers, once it is
// durable. The log is compacted then. If there is a snapshot of everything that is
// applied, it takes none and returns that one's index. It works on any member. An
// error says why no snapshot could be taken, which stops nothing; after the end of
// ctx the snapshot is still taken. [ErrStopped] is returned by a node that has
// stopped.
func (n *Node) TakeSnapshot(ctx context.Context) (Index, error) {
	if ctx.Err() != nil {
		return 0, contextError(ctx)
	}
	index, err, _ := n.awaitIndex(ctx, func(done func(Index, error)) any { return snapshotWanted{done} })
	return index, err
}

// awaitIndex posts an event that leads to an index or an error, and waits for it. In
// time is false if ctx has ended before, whose error it returns then.
func (n *Node) awaitIndex(ctx context.Context, event func(done func(Index, error)) any) (index Index, err error, inTime bool) {
	type outcome struct {
		index Index
		err   error
	}
	outcomes := make(chan outcome, 1)
	if !n.inbox.post(event(func(index Index, err error) { outcomes <- outcome{index, err} })) {
		return 0, n.inbox.closedBecause(), true
	}
	select {
	case o := <-outcomes:
		return o.index, o.err, true
	case <-ctx.Done():
		return 0, contextError(ctx), false
	}
}

// Leadership is who leads, as a node knows it.
type Leadership struct {
	Term    Term
	Leader  NodeID // empty: not known
	Address string // of the leader; empty: not known
	IsSelf  bool   // this node leads
}

// WatchLeader returns a channel of the caller's own that holds the present
// leadership and then every change. Only the latest value is kept for a slow
// reader, who never delays the node. The channel is closed once ctx has ended or
// the node has stopped.
func (n *Node) WatchLeader(ctx context.Context) <-chan Leadership {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.watchers.add(ctx, &n.mu)
}

// watchers are those who watch the leadership. The Node's mu guards it.
type watchers struct {
	present Leadership
	closed  bool
	all     map[chan Leadership]func() bool // each with what stops its AfterFunc
}

func (w *watchers) add(ctx context.Context, mu *sync.Mutex) <-chan Leadership {
	ch := make(chan Leadership, 1)
	ch <- w.present
	if w.closed {
		close(ch)
		return ch
	}
	if w.all == nil {
		w.all = map[chan Leadership]func() bool{}
	}
	w.all[ch] = context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if _, ok := w.all[ch]; ok {
			delete(w.all, ch)
			close(ch)
		}
	})
	return ch
}

// publish replaces whatever value a watcher has not read yet.
func (w *watchers) publish(l Leadership) {
	if w.present == l {
		return
	}
	w.present = l
	for ch := range w.all {
		select {
		case <-ch:
		default:
		}
		ch <- l
	}
}

func (w *watchers) close() {
	w.closed = true
	for ch, stop := range w.all {
		stop()
		close(ch)
	}
	w.all = nil
}

// run recovers the state, and serves until the node is to stop.
func (n *Node) run(ctx context.Context) (err error) {
	defer func() { err = joinClose(err, n.transport.Close()) }()
	defer func() { err = joinClose(err, n.closeStorage()) }()
	d, err := n.recover(ctx)
	if err != nil {
		n.abandonStorage()
		if errors.Is(err, ctx.Err()) {
			err = nil // what was to be read first, as a large snapshot, is not needed any more
		}
		n.refuse(n.close(n.last, err), err)
		return err
	}
	start := time.Now() // of the first wait for a leader, who could not be heard before
	c := d.core
	n.checkAddress(c.configuration)
	n.identify(c)
	l := newLoop(n, d, start)
	n.transport.UpdatePeers(c.addressBook())
	local := Local{
		ID: n.config.ID, Address: n.config.Address, Cluster: n.config.Cluster,
		Fingerprint: c.settings.fingerprint, Incarnation: c.settings.incarnation, Logger: n.log,
	}
	if err := n.transport.Serve(local, n); err != nil {
		err = fmt.Errorf("raft: node %s cannot serve at %s: %w", n.config.ID, n.config.Address, err)
		n.refuse(n.close(n.last, err), err)
		return err
	}
	n.log.Info("started", zap.Uint64("term", uint64(c.currentTerm)), zap.Uint64("last_index", uint64(c.log.last())), zap.Int("members", len(c.configuration.members)))
	n.mu.Lock()
	n.serving = true
	n.mu.Unlock()
	return l.run(ctx)
}

// identify has requests of callers' goroutines say who this node is.
func (n *Node) identify(c *core) {
	h := c.header("")
	n.identity.Store(&h)
}

// checkAddress tells if peers know this node at another address than it has.
func (n *Node) checkAddress(c configuration) {
	if m, ok := c.member(n.config.ID); ok && m.Address != n.config.Address {
		n.log.Warn("listen where no peer looks", zap.String("address", n.config.Address),
			zap.String("because", "the cluster knows this node at "+m.Address+": change the member's address, or listen there"))
	}
}

// joinClose adds the failure to close, unless there is something worse to tell.
func joinClose(err, closeErr error) error {
	if err == nil {
		return closeErr
	}
	return err
}

// openStorage opens the data directory, unless the user has given a storage.
func (n *Node) openStorage() (Storage, error) {
	if n.config.Storage != nil {
		return n.config.Storage, nil
	}
	return openDiskStorage(vfs.OS(), filepath.ToSlash(n.config.DataDir), wal.Options{
		SegmentBytes: int64(n.config.SegmentBytes), MustExist: n.config.RequireExisting, Prewrite: true,
	})
}

// abandonStorage leaves a data directory that this node cannot start with as it
// is.
func (n *Node) abandonStorage() {
	if disk, ok := n.storage.(*diskStorage); ok && n.config.Storage == nil {
		_ = disk.abandon() // there is something worse to tell
		n.storage = nil
	}
}

// closeStorage closes the data directory. A user's storage is the user's.
func (n *Node) closeStorage() error {
	var err error
	if n.storage != nil && n.storage.Snapshots() != nil {
		err = n.storage.Snapshots().close()
	}
	if disk, ok := n.storage.(*diskStorage); ok && n.config.Storage == nil {
		err = joinClose(disk.Close(), err)
	}
	return err
}

// recover loads what the storage has kept; an empty storage becomes that of a
// founding member, durably, before anything is said to anybody.
func (n *Node) recover(ctx context.Context) (*driver, error) {
	storage, err := n.openStorage()
	if err != nil {
		return nil, fmt.Errorf("raft: node %s cannot open its storage: %w", n.config.ID, err)
	}
	n.storage = storage
	state, err := storage.Load()
	if err != nil {
		return nil, fmt.Errorf("raft: node %s cannot load its storage: %w", n.config.ID, err)
	}
	isNew := state.HardState.Incarnation == 0
	if isNew && n.config.RequireExisting {
		return nil, fmt.Errorf("%w: node %s has RequireExisting set: find its storage, or unset it if this node has never run", ErrNoData, n.config.ID)
	}
	if isNew {
		batch := bootstrap(n.config, drawNumber())
		if n.config.Join {
			batch = SaveBatch{HardState: &HardState{ID: n.config.ID, Incarnation: drawNumber(), Joined: true}}
		}
		if err := storage.Save(batch); err != nil {
			return nil, fmt.Errorf("raft: node %s cannot save its first state: %w", n.config.ID, err)
		}
		state = StorageState{HardState: *batch.HardState, Commit: batch.Commit, Last: batch.Entries.last(), Terms: batch.Entries.terms()}
	}
	if id := state.HardState.ID; id != n.config.ID {
		return nil, fmt.Errorf("raft: node %s was given the storage of node %s: what one node promised binds no other", n.config.ID, id)
	}
	settings := coreSettings{
		id: n.config.ID, address: n.config.Address,
		fingerprint: state.HardState.Fingerprint, incarnation: state.HardState.Incarnation,
		heartbeatInterval: n.config.HeartbeatInterval, electionTimeout: n.config.ElectionTimeout,
		lease:          n.config.lease(),
		diskStallLimit: n.config.DiskStallLimit, maxBatchBytes: n.config.MaxBatchBytes,
		maxInflightBytes: n.config.MaxInflightBytes, maxInflightMessages: n.config.MaxInflightMessages,
		snapshotRate: n.config.SnapshotRate, chunkBytes: 256 << 10, join: n.config.Join,
	}
	if _, ok := n.transport.(AppendStreamer); !ok {
		settings.maxInflightMessages = 1
	}
	c, err := newCore(settings, state, !isNew, drawNumber(), 0)
	if err != nil {
		return nil, err
	}
	d, err := startDriver(ctx, c, storage.Snapshots(), n.durable, driverSettings{
		maxApplyBytes:     4 * n.config.MaxBatchBytes,
		maxUnappliedBytes: n.config.MaxUnappliedBytes,
		logCacheBytes:     n.config.LogCacheBytes,
		snapshotEntries:   n.config.SnapshotEntries,
		snapshotBytes:     n.config.SnapshotBytes,
		trailingEntries:   n.config.TrailingEntries,
	})
	if err != nil {
		return nil, err
	}
	n.sessions = newSessionTable()
	if n.durable != nil {
		n.sessions, err = recoverSessions(storage, d)
	}
	return d, err
}

// startDriver returns the driver of a node that starts, with the state that its
// state machine begins with: that of the newest snapshot, or what it has kept itself.
func startDriver(ctx context.Context, c *core, snapshots *SnapshotStore, durable DurableStateMachine, settings driverSettings) (*driver, error) {
	id, first := c.settings.id, c.log.firstKept()
	if snapshots == nil {
		return nil, fmt.Errorf("%w of node %q: its Storage returns no SnapshotStore", ErrConfig, id)
	}
	if err := snapshots.open(c.settings.fingerprint); err != nil {
		return nil, fmt.Errorf("raft: node %s cannot open its snapshots: %w", id, err)
	}
	var applied Index
	if settings.durableMachine = durable != nil; durable != nil {
		var err error
		if applied, err = durable.AppliedIndex(); err != nil {
			return nil, fmt.Errorf("raft: the state machine of node %s does not say what it has applied: %w", id, err)
		}
	}
	newest, size, err := snapshots.newest(ctx, first-1)
	var damage *CorruptError
	switch covered := applied >= first-1; {
	case err != nil && !(covered && errors.As(err, &damage)):
		return nil, fmt.Errorf("raft: node %s cannot use its snapshots, and its log starts at entry %d: %w", id, first, err)
	case newest == nil && !covered:
		missing := &CorruptError{File: snapshots.dir, Reason: "a snapshot is missing"}
		return nil, fmt.Errorf("raft: node %s has no snapshot of entry %d, and its log starts behind that: its state machine would never see what came before: %w", id, first-1, missing)
	case newest != nil:
		if err := c.install(0, *newest); err != nil {
			return nil, err
		}
	}
	if applied > c.log.last() {
		return nil, fmt.Errorf("raft: the state machine of node %s has applied entry %d, and its log ends at %d: one of them is another node's, or has lost something", id, applied, c.log.last())
	}
	if err := snapshots.clean(); err != nil {
		return nil, fmt.Errorf("raft: node %s cannot clean up among its snapshots: %w", id, err)
	}
	for _, info := range snapshots.files.List() {
		if info.Err != nil {
			c.tell("pass over snapshot", "", "that of entry %d is damaged: %v", info.Index, info.Err)
		}
	}
	d := newDriver(c, settings)
	d.compaction.size = size
	if durable != nil {
		c.commitTo(applied) // it was given only what is committed
		d.applied = applied
		d.compaction.fresh, d.compaction.last = false, mark{index: applied}
	}
	return d, nil
}

// drawNumber returns a random number that is not 0.
func drawNumber() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:]) | 1
}

// stoppedBy is the error of calls on a node that has stopped.
func stoppedBy(id NodeID, cause error) error {
	if cause == nil {
		return fmt.Errorf("%w: %s", ErrStopped, id)
	}
	return fmt.Errorf("%w: %s, because: %v", ErrStopped, id, cause)
}

// close refuses everything from now on, and returns what waits for the loop.
func (n *Node) close(last Status, cause error) taken {
	last.Role, last.Leader, last.LeaderAddress, last.Peers = Follower, "", "", nil
	last.Reason = "the node has stopped"
	if cause != nil {
		last.Reason += ": " + cause.Error()
	}
	n.mu.Lock()
	n.last = last
	n.mu.Unlock()
	return n.inbox.close(stoppedBy(n.config.ID, cause))
}

// refuse ends what was left in the inbox of a node that stops.
func (n *Node) refuse(left taken, cause error) {
	err := stoppedBy(n.config.ID, cause)
	for _, answer := range left.asked {
		answer <- n.Status()
	}
	for _, event := range left.events {
		if respond := responderOf(event); respond != nil {
			respond(nil, err)
		}
		if done := waiterOf(event); done != nil {
			done(0, err)
		}
	}
	for _, b := range left.batches {
		for i := range b.proposals {
			n.end(&b.proposals[i], err)
		}
	}
}

// responderOf returns who waits for the answer to an event; nil: nobody.
func responderOf(event any) responder {
	switch e := event.(type) {
	case voteRequested:
		return e.respond
	case heartbeatArrived:
		return e.respond
	case appendArrived:
		return e.respond
	case snapshotArrived:
		return e.respond
	case timeoutNowArrived:
		return e.respond
	case forwardArrived:
		return e.respond
	case chunkStored:
		return e.chunk.respond
	default:
		return nil
	}
}

// waiterOf returns who waits for the index that an event is to lead to; nil: nobody.
func waiterOf(event any) func(Index, error) {
	switch e := event.(type) {
	case snapshotWanted:
		return e.done
	case changeWanted:
		return e.done
	case catchUpWanted:
		return e.done
	case transferWanted:
		return e.done
	case *readWait:
		return e.done
	case resolveWanted:
		return e.done
	default:
		return nil
	}
}

// finish publishes that the node has stopped.
func (n *Node) finish(err error) {
	n.mu.Lock()
	n.finished = true
	n.err = err
	n.watchers.publish(Leadership{Term: n.last.Term})
	n.watchers.close()
	n.mu.Unlock()
	n.callers.Wait()
	switch {
	case errors.Is(err, ErrRemoved):
		n.log.Info("stopped", zap.Error(err)) // as somebody wanted
	case err != nil:
		n.log.Error("stopped", zap.Error(err))
	default:
		n.log.Info("stopped")
	}
	close(n.done)
}

// HandleVote answers a peer's request for a vote. For the transport.
func (n *Node) HandleVote(ctx context.Context, request *VoteRequest) (*VoteResponse, error) {
	return await[*VoteResponse](ctx, n, func(respond responder) any { return voteRequested{request, respond} })
}

// HandleHeartbeat answers a leader's heartbeat. For the transport.
func (n *Node) HandleHeartbeat(ctx context.Context, request *Heartbeat) (*HeartbeatResponse, error) {
	return await[*HeartbeatResponse](ctx, n, func(respond responder) any { return heartbeatArrived{request, respond} })
}

func (n *Node) beginHeartbeat(request *Heartbeat, respond func(*HeartbeatResponse, error)) {
	answer := typed(respond)
	n.begin(heartbeatArrived{request, answer}, answer)
}

func (n *Node) beginReadQuestion(request *ForwardRequest, respond func(*ForwardResponse, error)) {
	answer := typed(respond)
	n.begin(forwardArrived{request, answer}, answer)
}

// HandleAppend answers a leader's entries, once they are durable. For the
// transport.
func (n *Node) HandleAppend(ctx context.Context, request *AppendEntries) (*AppendResponse, error) {
	return await[*AppendResponse](ctx, n, func(respond responder) any { return appendArrived{request, respond} })
}

// BeginAppend queues a leader's entries and returns. For the transport.
func (n *Node) BeginAppend(request *AppendEntries, respond func(*AppendResponse, error)) {
	n.beginAppend(request, typed(respond))
}

func (n *Node) beginAppend(request *AppendEntries, respond responder) {
	n.begin(appendArrived{request, respond}, respond)
}

// HandleSnapshot answers a chunk of a leader's snapshot, once it is stored. For the
// transport.
func (n *Node) HandleSnapshot(ctx context.Context, request *InstallSnapshot) (*SnapshotResponse, error) {
	return await[*SnapshotResponse](ctx, n, func(respond responder) any { return snapshotArrived{request, respond} })
}

// HandleTimeoutNow answers a leader that hands over. For the transport.
func (n *Node) HandleTimeoutNow(ctx context.Context, request *TimeoutNow) (*TimeoutNowResponse, error) {
	return await[*TimeoutNowResponse](ctx, n, func(respond responder) any { return timeoutNowArrived{request, respond} })
}

// begin posts a request for the loop, which answers it later with respond.
func (n *Node) begin(request any, respond responder) {
	if !n.inbox.post(request) {
		respond(nil, stoppedBy(n.config.ID, nil))
	}
}

// typed returns a responder that passes answers on to a function for those of one type.
func typed[R any](respond func(R, error)) responder {
	return func(response any, err error) {
		r, _ := response.(R)
		respond(r, err)
	}
}

// await posts a request for the loop and waits for its answer.
func await[R any](ctx context.Context, n *Node, event func(responder) any) (R, error) {
	type answer struct {
		response any
		err      error
	}
	var none R
	answers := make(chan answer, 1)
	if !n.inbox.post(event(func(response any, err error) { answers <- answer{response, err} })) {
		return none, stoppedBy(n.config.ID, nil)
	}
	select {
	case a := <-answers:
		r, _ := a.response.(R)
		return r, a.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}
