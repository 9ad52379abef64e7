package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-8da499c8/raft/internal/snapshot"
)

// StateMachine is what the cluster replicates: the application's state, which
// changes by commands alone. All three methods are called from one goroutine
// of the node. They must be deterministic, since every member runs the same
// commands and must end in the same state (thesis §3.5), and must not call the
// Node and wait for it. A panic in any of them stops the node, with the panic
// as the cause.
type StateMachine interface {
	// Apply executes one committed command, in log order. The command is
	// valid only during the call and must not be changed: the log may still have
	// to write it, or send it. Copy what is kept.
	// The response belongs to raft after the return. err is part of the
	// result: it reaches the proposer as [*ApplyError] and stops nothing.
	Apply(command []byte) (response []byte, err error)

	// Snapshot returns the whole state. It is called between two commands, which
	// wait for it. What it returns is written while later commands are applied: it
	// must not change any more, so copy what Apply changes in place. An error means
	// that there is no snapshot this time, and stops nothing.
	Snapshot() ([]byte, error)

	// Restore replaces the whole state by that of a snapshot, of this member or
	// of another one, when the node starts or later. snapshot is the state machine's
	// to keep. An error stops the node.
	Restore(snapshot []byte) error
}

// Command is a committed command with its place in the log.
type Command struct {
	Index Index
	Term  Term
	Data  []byte // valid only during the call, and must not be changed
}

// ApplyResult is what a command led to.
type ApplyResult struct {
	Response []byte
	Err      error // reaches the proposer as [*ApplyError]
}

// BatchStateMachine is an optional extension of [StateMachine], found by type
// assertion: where it is implemented, ApplyBatch is called instead of Apply,
// with as many commands as are ready.
type BatchStateMachine interface {
	// ApplyBatch executes the commands in order and writes the result of
	// commands[i] to results[i]. Both slices are reused after the return.
	ApplyBatch(commands []Command, results []ApplyResult)
}

// StreamingStateMachine is an optional extension of [StateMachine], found by type
// assertion, for states that are large: snapshots are written while commands are
// being applied, and neither written nor read as one piece of memory. Where it is
// implemented, Snapshot and Restore are not called.
type StreamingStateMachine interface {
	// CaptureSnapshot returns a view of the state as it is now, which later
	// commands do not change. It is called between two applies, which wait for
	// it: copy on write, a tree that shares its nodes, or a transaction of a
	// database return fast. The view before it has been closed.
	CaptureSnapshot() (SnapshotView, error)

	// RestoreFrom replaces the whole state by what a view has written. It must
	// read up to io.EOF: an error before it, such as of a ctx that ends with the
	// node, means that the state is not whole, and is to be returned.
	RestoreFrom(ctx context.Context, r io.Reader) error
}

// SnapshotView is a state machine's state at one moment.
type SnapshotView interface {
	// WriteTo writes the state. It is called once at most, on a goroutine of its
	// own, while commands are being applied; it should return soon after ctx has
	// ended. A write that fails is to be returned.
	WriteTo(ctx context.Context, w io.Writer) error

	// Close lets go of the view. It is called once, in any case.
	Close() error
}

// DurableStateMachine is an optional extension of [StateMachine], found by type
// assertion, for one that keeps its own state on a disk: commands that it has
// applied before a restart are not applied again, and snapshots are taken only for
// followers that need one, and by [Node.TakeSnapshot], until clients open sessions: these
// are kept in snapshots, which are taken as of any other state machine from then on, and of
// commands in sessions that it has applied the replies are not known. It must make durable,
// together with the effect of a command, the index of that: it implements
// [BatchStateMachine] to learn that. The index is a part of its snapshots.
type DurableStateMachine interface {
	// AppliedIndex returns the index of the last command of which the effect is
	// there, 0 if there is none. It is called once, by Run.
	AppliedIndex() (Index, error)

	// Sync makes durable what was applied, and returns the index up to which
	// everything is. The log is compacted up to there.
	Sync() (Index, error)
}

// Result is what a command led to.
type Result struct {
	Index    Index  // where it stands in the log
	Term     Term   // of its entry
	Response []byte // what the state machine returned
}

// applyTask is a stretch of committed entries for the applier, and who waits
// for them; or it is to restore a snapshot, or to hand out the state. The applier
// and a node that stops share it.
type applyTask struct {
	restore EntryID      // if not zero
	capture *captureTask // if not nil

	first, last Index
	entries     Entries   // all of them; empty: they are to be read
	terms       stretches // of the log

	mu      sync.Mutex
	waiting []waitingRun // not answered yet, in order
}

// claim returns the waits for entries up to an index, which from then on are
// the caller's to end.
func (t *applyTask) claim(index Index) []waitingRun {
	t.mu.Lock()
	defer t.mu.Unlock()
	return takeWaiting(&t.waiting, index)
}

// applier feeds committed commands to the state machine and answers their
// proposers. It runs on a goroutine of its own.
type applier struct {
	machine   StateMachine
	sessions  *sessionTable
	batcher   BatchStateMachine // instead, if the machine is one
	report    func(event any)   // tells the loop
	stopped   *atomic.Bool      // the node stops: leave the rest of the task
	ctx       context.Context   // likewise, while a snapshot is restored
	storage   Storage           // has what is not in memory
	readBytes int               // how much is read at once

	answered  atomic.Uint64 // up to which entry proposers were answered; the loop learns it later
	answering bool          // callbacks of proposers run, not the state machine
	claimed   []waitingRun  // whose proposers are not answered yet

	size     int // of the next chunk, in commands
	commands []Command
	results  []ApplyResult
	steps    []sessionStep // of the entries of sessions among the chunk
}

func newApplier(ctx context.Context, machine StateMachine, sessions *sessionTable, storage Storage, readBytes int, report func(any), stopped *atomic.Bool) *applier {
	batcher, _ := machine.(BatchStateMachine)
	return &applier{ctx: ctx, machine: machine, sessions: sessions, batcher: batcher, storage: storage, readBytes: readBytes, report: report, stopped: stopped}
}

const (
	// maxApplyCommands bounds a chunk: what ApplyBatch is given at once.
	maxApplyCommands = 4096

	// slowChunk is when a chunk took long enough for the next not to be larger.
	slowChunk = 5 * time.Millisecond
)

// run does a task.
func (a *applier) run(task *applyTask) error {
	switch {
	case task.restore != EntryID{}:
		return a.restore(task)
	case task.capture != nil:
		return a.capture(task.capture)
	default:
		return a.applyAll(task)
	}
}

// applyAll applies entries. What is not in memory any more is read piece by piece,
// unless a snapshot has taken its place meanwhile.
func (a *applier) applyAll(task *applyTask) error {
	a.commands, a.steps = a.commands[:0], a.steps[:0]
	a.size = 1
	if a.batcher != nil {
		a.size = maxApplyCommands
	}
	for next := task.first; next <= task.last; {
		entries, err := a.entries(task, next)
		if errors.Is(err, ErrCompacted) {
			a.report(outrun{task})
			return nil
		}
		if err != nil {
			return fmt.Errorf("raft: entries %d to %d of the log cannot be read to apply them: %w", next, task.last, err)
		}
		if err := a.feed(task, entries); err != nil || a.stopped.Load() {
			return err
		}
		next = entries.last() + 1
		a.report(appliedUpTo{index: next - 1, bytes: entries.Size(), done: next > task.last})
	}
	return nil
}

// entries returns entries of a task, from an index on.
func (a *applier) entries(task *applyTask, first Index) (Entries, error) {
	if len(task.entries.runs) > 0 {
		return task.entries, nil
	}
	entries, err := a.storage.Entries(first, task.last, a.readBytes)
	if err == nil {
		err = task.terms.check(entries, first, task.last)
	}
	return entries, err
}

// feed applies entries in chunks, and answers after each. A batching machine gets
// as much as there is. For any other the chunks grow from one command to two,
// four and so on, as long as that goes fast: so many answers are given together,
// and none waits for long.
func (a *applier) feed(task *applyTask, entries Entries) error {
	start := time.Now()
	reported := start
	for entry := range entries.All() {
		command, ok := a.commandIn(entry)
		if !ok {
			continue
		}
		a.commands = append(a.commands, Command{entry.Index, entry.Term, command})
		if len(a.commands) < a.size {
			continue
		}
		if err := a.apply(task); err != nil || a.stopped.Load() {
			return err
		}
		now := time.Now()
		if now.Sub(reported) >= slowChunk { // else the end of the task comes soon enough
			a.report(appliedUpTo{index: entry.Index})
			reported = now
		}
		if took := now.Sub(start); took < slowChunk {
			a.size = min(2*a.size, maxApplyCommands)
		} else if a.batcher == nil {
			a.size = max(1, a.size/2)
		}
		start = now
	}
	return a.apply(task)
}

// commandIn returns the command of an entry, if it has one that is to be executed.
func (a *applier) commandIn(entry LogEntry) (command []byte, ok bool) {
	switch entry.Kind {
	case EntryCommand:
		return entry.Data, true
	case EntryOpenSession, EntrySessionCommand, EntryCloseSession:
		step, command := a.sessions.take(entry)
		a.steps = append(a.steps, step)
		return command, step.executes
	default:
		return nil, false
	}
}

// apply applies the commands gathered, and answers their proposers.
func (a *applier) apply(task *applyTask) error {
	n := len(a.commands)
	if n == 0 && len(a.steps) == 0 {
		return nil
	}
	a.results = slices.Grow(a.results[:0], n)[:n]
	if err := a.execute(); err != nil || a.stopped.Load() {
		return err
	}
	a.settleSessions()
	a.answering = true
	a.answer(task)
	a.answering = false
	clear(a.results) // nothing is kept of what was answered, and the next find theirs empty
	clear(a.commands)
	clear(a.steps)
	a.commands, a.steps = a.commands[:0], a.steps[:0]
	return nil
}

// settleSessions has the sessions know what their commands have led to.
func (a *applier) settleSessions() {
	next := 0
	for i := range a.steps {
		step, reply := &a.steps[i], (*sessionReply)(nil)
		if step.executes {
			for a.commands[next].Index < step.Index {
				next++
			}
			reply = replyOf(a.results[next])
		}
		a.sessions.settle(step, reply)
	}
}

// execute lets the state machine have the commands gathered. What it panics
// with stops the node.
func (a *applier) execute() (err error) {
	if len(a.commands) == 0 {
		return nil
	}
	at := a.commands[0].Index
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("raft: state machine panicked at entry %d: %v\n%s", at, p, debug.Stack())
		}
	}()
	if a.batcher != nil {
		a.batcher.ApplyBatch(a.commands, a.results)
		return nil
	}
	for i, command := range a.commands {
		if a.stopped.Load() {
			break
		}
		at = command.Index
		a.results[i].Response, a.results[i].Err = a.machine.Apply(command.Data)
	}
	return nil
}

// answer ends the waits for the commands gathered.
func (a *applier) answer(task *applyTask) {
	last := a.lastGathered()
	a.answered.Store(uint64(last)) // before: who has an answer sees it in the status
	a.claimed = task.claim(last)
	a.endClaimed()
}

// endClaimed ends the waits that were claimed. None is there any more once its callback
// runs, which may end the goroutine: another one goes on with the next.
func (a *applier) endClaimed() {
	commands, results, steps := a.commands, a.results, a.steps
	for ; len(a.claimed) > 0; a.claimed = a.claimed[1:] {
		for w := &a.claimed[0]; len(w.proposals) > 0; {
			index, p := w.first, w.proposals[0]
			w.proposals[0] = proposal{} // the array may live on, and what a callback holds must not
			w.first, w.proposals = w.first+1, w.proposals[1:]
			for len(steps) > 0 && steps[0].Index < index {
				steps = steps[1:]
			}
			if len(steps) > 0 && steps[0].EntryID == (EntryID{index, w.term}) {
				p.complete(steps[0].outcome())
				continue
			}
			for len(commands) > 0 && commands[0].Index < index {
				commands, results = commands[1:], results[1:]
			}
			if len(commands) == 0 || commands[0].Index != index || commands[0].Term != w.term {
				panic(fmt.Sprintf("raft: a caller waits for entry %d of term %d, which was not applied", index, w.term))
			}
			var err error
			if results[0].Err != nil {
				err = &ApplyError{index, results[0].Err}
			}
			p.complete(Result{index, w.term, results[0].Response}, err)
		}
	}
	a.claimed = nil
}

// lastGathered returns the last index that was gathered.
func (a *applier) lastGathered() (last Index) {
	if n := len(a.commands); n > 0 {
		last = a.commands[n-1].Index
	}
	if n := len(a.steps); n > 0 {
		last = max(last, a.steps[n-1].Index)
	}
	return last
}

// restore has the state machine become what a snapshot says.
func (a *applier) restore(task *applyTask) (err error) {
	id := task.restore
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("raft: state machine panicked while it restored the snapshot of entry %d: %v\n%s", id.Index, p, debug.Stack())
		}
	}()
	reader, err := a.storage.Snapshots().openSnapshot(id)
	if isGone(err) { // a newer one has taken its place
		a.report(outrun{task})
		return nil
	}
	if err == nil {
		err = errors.Join(a.restoreSessions(reader), a.restoreFrom(reader), reader.Close())
	}
	if err != nil {
		if a.stopped.Load() {
			return nil
		}
		return fmt.Errorf("raft: state machine could not restore the snapshot of entry %d: %w", id.Index, err)
	}
	a.report(restored{id, uint64(reader.Info().Size)})
	return nil
}

// restoreSessions takes over the sessions of a snapshot.
func (a *applier) restoreSessions(reader *snapshot.Reader) error {
	var m SnapshotMetadata
	if err := m.unmarshal(reader.Metadata()); err != nil {
		return err
	}
	table, err := decodeSessions(m.Sessions)
	if err == nil {
		*a.sessions = *table
	}
	return err
}

func (a *applier) restoreFrom(reader *snapshot.Reader) error {
	if streaming, ok := a.machine.(StreamingStateMachine); ok {
		return streaming.RestoreFrom(a.ctx, reader)
	}
	state := make([]byte, reader.DataSize())
	if _, err := io.ReadFull(reader, state); err != nil {
		return err
	}
	return a.machine.Restore(state)
}

// capture has the state machine hand out its state, or make it durable. That is enough
// only until there was a first session: the table of sessions is nowhere but in
// snapshots, and the log is not compacted without it.
func (a *applier) capture(task *captureTask) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("raft: state machine panicked while it was asked for a snapshot of entry %d: %v\n%s", task.metadata.Index, p, debug.Stack())
		}
	}()
	task.metadata.Sessions = a.sessions.encode()
	if task.syncOnly && len(task.metadata.Sessions) == 0 {
		index, err := a.machine.(DurableStateMachine).Sync()
		a.report(synced{index, err})
		return nil
	}
	view, err := a.view()
	switch {
	case err != nil:
		view = nil
	case view == nil:
		err = errors.New("the state machine returned neither a view of its state nor an error")
	}
	a.report(captured{snapshotJob{task.metadata, view}, err})
	return nil
}

func (a *applier) view() (SnapshotView, error) {
	if streaming, ok := a.machine.(StreamingStateMachine); ok {
		return streaming.CaptureSnapshot()
	}
	state, err := a.machine.Snapshot()
	return stateView(state), err
}

// stateView is the view of a state that is in memory as a whole.
type stateView []byte

func (v stateView) WriteTo(_ context.Context, w io.Writer) error {
	_, err := w.Write(v)
	return err
}

func (v stateView) Close() error { return nil }
