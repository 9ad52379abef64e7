package raft

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// loop is the one goroutine that owns the driver. It moves batches between the
// driver and the other goroutines, and decides nothing. No other goroutine can
// reach it: they leave events in the inbox.
type loop struct {
	node    *Node
	driver  *driver
	start   time.Time // of the driver's clock
	ctx     context.Context
	cancel  context.CancelFunc
	senders map[NodeID]*sender
	saves   chan *SaveBatch // one at a time
	applies chan *applyTask // one at a time
	chunks  chan snapshotArrived
	applier *applier
	task    *applyTask  // with the applier
	stopped atomic.Bool // the applier is to leave what it has

	alarm   *time.Timer   // wakes the loop
	alarmAt time.Duration // at the deadline, or before

	published    Leadership
	fingerprint  [16]byte       // of the cluster, as the store of snapshots knows it
	reconfigured uint64         // the change of the configuration that the transport knows of
	group        sync.WaitGroup // all goroutines of the node
}

func newLoop(n *Node, d *driver, start time.Time) *loop {
	l := &loop{
		node: n, driver: d, start: start,
		senders:      map[NodeID]*sender{},
		saves:        make(chan *SaveBatch, 1),
		applies:      make(chan *applyTask, 1),
		chunks:       make(chan snapshotArrived, maxChunks),
		reconfigured: d.core.reconfigured, fingerprint: d.core.settings.fingerprint,
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.applier = newApplier(l.ctx, n.machine, n.sessions, n.storage, d.settings.maxApplyBytes, l.report, &l.stopped)
	l.alarm = time.AfterFunc(0, n.inbox.signal)
	n.lease.start = start
	return l
}

func (l *loop) now() time.Duration { return time.Since(l.start) }

// run serves until the node is to stop, and returns why, once everything that
// waited has ended and no goroutine is left.
func (l *loop) run(ctx context.Context) error {
	l.group.Go(l.write)
	l.group.Go(l.apply)
	l.group.Go(l.receive)
	cause := l.serve(ctx)
	l.shutDown(cause)
	return cause
}

// serve turns the loop until the node is to stop: take everything that waits,
// step it, and carry out once what has come of it all.
func (l *loop) serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.node.inbox.signal)()
	defer l.alarm.Stop()
	var events []any
	for range l.node.inbox.wake {
		runtime.Gosched() // who can run, such as callers that were just answered, may leave more: it all goes in one batch
		if ctx.Err() != nil || l.node.toStop.Load() {
			return nil // whatever else has happened at the same moment
		}
		in := l.node.inbox.take(events, l.driver.proposalRoom(), l.driver.wantsReads())
		now := l.now()
		work := l.driver.advance(now, in.events, in.batches)
		l.node.lease.show(l.driver.leaseEnd(), l.driver.applied)
		clear(in.events)
		events = in.events
		for _, answer := range in.asked {
			answer <- l.status(now)
		}
		if err := l.carryOut(work); err != nil {
			return err
		}
		l.driver.reuse(work)
		if l.driver.wantsMore(in) {
			l.node.inbox.signal()
		}
		l.setAlarm(now)
	}
	return nil
}

// status is what the driver knows, and what those know whom the applier has answered.
func (l *loop) status(now time.Duration) Status {
	return l.driver.statusWith(now, max(l.driver.applied, Index(l.applier.answered.Load())))
}

// setAlarm has the loop woken at the driver's deadline, or before: that moves away
// whenever a leader is heard, which is no reason to set the alarm anew each time.
func (l *loop) setAlarm(now time.Duration) {
	deadline := l.driver.deadline()
	if now < l.alarmAt && l.alarmAt <= deadline {
		return
	}
	l.alarmAt = deadline
	l.alarm.Reset(deadline - l.now())
}

// carryOut hands work to the goroutines that do it.
func (l *loop) carryOut(w work) error {
	for _, note := range w.notes {
		l.tell(note)
	}
	if w.failure != nil {
		l.answer(w.replies)
		l.letGo(w.snapshot)
		l.driver.work = work{failed: w.failed, outcomes: w.outcomes, chunks: w.chunks} // for shutDown, as are the waits for a task that nobody runs
		if w.apply != nil {
			l.task = w.apply
		}
		return w.failure
	}
	if joined := l.driver.core.settings.fingerprint; joined != l.fingerprint {
		l.fingerprint = joined
		l.node.storage.Snapshots().join(joined)
		l.node.identify(l.driver.core)
	}
	for _, id := range w.resets {
		l.sender(id).reset()
	}
	for _, r := range w.requests {
		l.send(r)
	}
	if w.save != nil {
		l.saves <- w.save
	}
	for _, r := range w.reads {
		l.read(r)
	}
	l.carryOutSnapshots(w)
	l.tellWaiting(w)
	l.answer(w.replies)
	if w.apply != nil {
		l.task = w.apply
		l.applies <- w.apply
	}
	failAll(w.failed, l.node.end)
	l.publish()
	return nil
}

// carryOutSnapshots hands out what is to be done for snapshots.
func (l *loop) carryOutSnapshots(w work) {
	snapshots := l.node.storage.Snapshots()
	if job := w.snapshot; job != nil { // what a closure captures is on the heap: not all of w, each time
		l.group.Go(func() { l.writeSnapshot(*job) })
	}
	for _, peer := range w.closes {
		if raw := snapshots.detach(peer); raw != nil {
			l.group.Go(func() { _ = raw.Close() }) // it was only read; if newer ones have taken its place, its space is freed, which may take a while
		}
	}
	for _, r := range w.snapshotReads {
		l.group.Go(func() { l.node.inbox.post(snapshots.read(l.ctx, r)) })
	}
	for _, chunk := range w.chunks {
		select {
		case l.chunks <- chunk:
		default:
			chunk.respond(nil, fmt.Errorf("raft: node %s has %d chunks of snapshots to store already", l.node.config.ID, maxChunks))
		}
	}
}

// tellWaiting ends the waits of calls that propose nothing, and tells readers who are to look
// at more than their reads.
func (l *loop) tellWaiting(w work) {
	for _, o := range w.outcomes {
		o.done(o.index, o.err)
	}
	for _, tell := range w.delayed {
		tell()
	}
	if w.slowReads {
		l.node.inbox.tellReads()
	}
}

// writeSnapshot writes a snapshot. A view that ends the goroutine has not written
// it.
func (l *loop) writeSnapshot(job snapshotJob) {
	written := snapshotWritten{id: job.metadata.EntryID, err: errors.New("the view of the state machine ended the goroutine that it was called from")}
	defer func() { l.node.inbox.post(written) }()
	written = l.node.storage.Snapshots().write(l.ctx, job)
}

// letGo closes the view of a snapshot that nobody writes any more.
func (l *loop) letGo(job *snapshotJob) {
	if job == nil {
		return
	}
	l.group.Go(func() {
		if err := job.close(); err != nil {
			l.node.log.Warn("could not close a view of the state machine", zap.Error(err))
		}
	})
}

// maxChunks bounds the chunks that wait to be stored. A leader sends one at a time.
const maxChunks = 8

// receive is the goroutine that stores the chunks of snapshots.
func (l *loop) receive() {
	r := snapshotReceiver{store: l.node.storage.Snapshots()}
	for chunk := range l.chunks {
		if l.stopped.Load() {
			chunk.respond(nil, stoppedBy(l.node.config.ID, nil))
			continue
		}
		stored := r.take(chunk)
		if !l.node.inbox.post(stored) {
			chunk.respond(nil, stoppedBy(l.node.config.ID, nil))
		}
	}
	if err := r.close(); err != nil {
		l.node.log.Warn("could not keep what has arrived of a snapshot", zap.Error(err))
	}
}

// tell logs a note.
func (l *loop) tell(n note) {
	fields := []zap.Field{zap.String("because", n.fact), zap.Uint64("term", uint64(n.term))}
	if n.peer != "" {
		fields = append([]zap.Field{zap.String("peer", string(n.peer))}, fields...)
	}
	l.node.log.Info(n.action, fields...)
}

func (l *loop) answer(replies []reply) {
	for _, r := range replies {
		if err, ok := r.response.(error); ok {
			r.respond(nil, err)
		} else {
			r.respond(r.response, nil)
		}
	}
}

// failAll ends waits with errors.
func failAll(runs []failedRun, end func(*proposal, error)) {
	for _, run := range runs {
		for i := range run.proposals {
			err := run.err
			if run.first > 0 {
				err = &OutcomeUnknownError{Index: run.first + Index(i), Term: run.term, Cause: run.err}
			}
			end(&run.proposals[i], err)
		}
	}
}

// publish tells the watchers who leads, and ends the streams of a leader that
// was.
func (l *loop) publish() {
	c := l.driver.core
	if l.reconfigured != c.reconfigured {
		l.reconfigured = c.reconfigured
		l.node.transport.UpdatePeers(c.addressBook())
	}
	leadership := Leadership{Term: c.currentTerm, Leader: c.leader, Address: l.driver.leaderAddress(), IsSelf: c.role == Leader}
	was := l.published
	if leadership == was {
		return
	}
	l.published = leadership
	l.node.mu.Lock()
	l.node.watchers.publish(leadership)
	l.node.mu.Unlock()
	if was.IsSelf && (!leadership.IsSelf || leadership.Term != was.Term) {
		for _, s := range l.senders {
			s.reset()
		}
		_ = l.node.storage.Snapshots().close() // they were only read
	}
}

// write is the disk writer: one write at a time, in order. A failed write stops
// the node and is never tried again.
func (l *loop) write() {
	for batch := range l.saves {
		if err := l.node.storage.Save(*batch); err != nil {
			l.node.inbox.post(failed{fmt.Errorf("raft: node %s cannot write to its storage: %w", l.node.config.ID, err)})
			return
		}
		l.node.inbox.post(written{})
	}
}

// read reads entries for a follower, on a goroutine of its own: neither the loop
// nor what other followers need waits for it.
func (l *loop) read(r read) {
	l.group.Go(func() {
		entries, err := l.node.storage.Entries(r.first, r.last, r.maxBytes)
		l.node.inbox.post(entriesRead{r, entries, err})
	})
}

// apply is the applier's goroutine. A state machine or a callback that ends it, as a
// failing assertion of a test does, stops the node: nobody would apply what follows.
func (l *loop) apply() {
	ended := false
	defer func() {
		if ended {
			return
		}
		who := "the state machine"
		if l.applier.answering {
			who = "a callback of ProposeAsync"
			l.group.Go(l.answerRest)
		}
		l.node.inbox.post(failed{fmt.Errorf("raft: node %s: %s ended the goroutine that it was called from", l.node.config.ID, who)})
	}()
	for task := range l.applies {
		if err := l.applier.run(task); err != nil {
			l.node.inbox.post(failed{fmt.Errorf("node %s: %w", l.node.config.ID, err)})
			break
		}
	}
	ended = true
}

// answerRest ends the waits that a callback has left that ended the applier's goroutine: what
// they waited for is applied.
func (l *loop) answerRest() {
	defer func() {
		if len(l.applier.claimed) > 0 {
			l.group.Go(l.answerRest)
		}
	}()
	l.applier.endClaimed()
}

// report takes an event from the applier.
func (l *loop) report(event any) {
	if e, ok := event.(captured); !l.node.inbox.post(event) && ok && e.err == nil {
		l.letGo(&e.job)
	}
}

// shutDown ends everything: first those who wait, then the goroutines.
func (l *loop) shutDown(cause error) {
	n, d := l.node, l.driver
	l.stopped.Store(true)
	n.lease.show(0, d.applied)
	var claimed []waitingRun // before the last status: no answer is newer than that
	if l.task != nil {
		claimed = l.task.claim(math.MaxUint64)
	}
	left := n.close(l.status(l.now()), cause)
	for _, r := range slices.Concat(d.replies, d.appendReplies) { // before those in the inbox: they came earlier
		r.respond(nil, stoppedBy(n.config.ID, cause))
	}
	n.refuse(left, cause)
	for _, event := range left.events {
		if e, ok := event.(captured); ok && e.err == nil {
			l.letGo(&e.job)
		}
	}
	unknown := cause
	if unknown == nil {
		unknown = errNodeStopped
	}
	d.failFrom(0, unknown)
	for _, w := range claimed {
		d.work.failed = append(d.work.failed, failedRun{w, unknown})
	}
	failAll(d.work.failed, n.end)
	d.endSnapshotWaits(stoppedBy(n.config.ID, cause))
	d.endMembershipWaits(stoppedBy(n.config.ID, cause))
	d.endReads(stoppedBy(n.config.ID, cause))
	d.endResolutions(stoppedBy(n.config.ID, cause))
	for _, o := range d.work.outcomes {
		o.done(o.index, o.err)
	}
	for _, chunk := range d.work.chunks {
		chunk.respond(nil, stoppedBy(n.config.ID, cause))
	}
	l.cancel()
	for _, s := range l.senders {
		s.reset()
	}
	close(l.saves)
	close(l.applies)
	close(l.chunks)
	l.group.Wait()
}

var errNodeStopped = errors.New("the node stopped")

// sender carries a leader's and a candidate's messages to one peer. Heartbeats
// and votes have a goroutine each, so that nothing delays them; entries go
// through a stream of their own. Only the loop uses it.
type sender struct {
	loop       *loop
	peer       NodeID
	heartbeats atomic.Int32 // under way

	stream *peerStream
	call   *appendCall
}

// peerStream is an append stream of one term.
type peerStream struct {
	AppendStream
	term   Term
	broken atomic.Bool
}

// appendCall is a CallAppend under way. Once it is given up nothing is heard of
// it any more: its end must not disturb the call that took its place.
type appendCall struct {
	cancel  context.CancelFunc
	givenUp atomic.Bool
}

// maxHeartbeats bounds the heartbeats that are under way to one peer. Their
// deadline keeps them below it unless the transport ignores it.
const maxHeartbeats = 16

func (l *loop) sender(id NodeID) *sender {
	s, ok := l.senders[id]
	if !ok {
		s = &sender{loop: l, peer: id}
		l.senders[id] = s
	}
	return s
}

func (l *loop) send(r request) {
	s := l.sender(r.to)
	switch m := r.message.(type) {
	case *VoteRequest:
		s.vote(m)
	case *Heartbeat:
		s.heartbeat(m)
	case *AppendEntries:
		s.append(m, r.patience)
	case *InstallSnapshot:
		s.snapshot(m, r.patience)
	case *TimeoutNow:
		s.timeoutNow(m)
	case *ForwardRequest:
		s.readQuestion(m, r.patience)
	default:
		panic(fmt.Sprintf("raft: no way to send a %T", m))
	}
}

// background runs f on a goroutine of its own, under a deadline.
func (s *sender) background(timeout time.Duration, f func(ctx context.Context)) context.CancelFunc {
	ctx, cancel := context.WithTimeout(s.loop.ctx, timeout)
	s.loop.group.Go(func() {
		defer cancel()
		f(ctx)
	})
	return cancel
}

// either returns a response or an error, whatever a transport has returned.
func either[R any](response *R, err error) (*R, error) {
	switch {
	case err != nil:
		return nil, err
	case response == nil:
		return nil, errNoResponse
	default:
		return response, nil
	}
}

var errNoResponse = errors.New("raft: the transport returned neither a response nor an error")

func (s *sender) post(event any) { s.loop.node.inbox.post(event) }

func (s *sender) vote(m *VoteRequest) {
	s.background(s.loop.node.config.ElectionTimeout, func(ctx context.Context) {
		response, err := either(s.loop.node.transport.CallVote(ctx, s.peer, m))
		s.post(voteAnswered{s.peer, m.Term, m.PreVote, response, err})
	})
}

func (s *sender) heartbeat(m *Heartbeat) {
	if s.heartbeats.Load() >= maxHeartbeats {
		return
	}
	s.heartbeats.Add(1)
	done := func(response *HeartbeatResponse, err error) {
		s.heartbeats.Add(-1)
		response, err = either(response, err)
		s.post(heartbeatAnswered{s.peer, m.Term, response, err})
	}
	patience := s.loop.node.config.ElectionTimeout / 2
	if t, ok := s.loop.node.transport.(callStarter); ok && t.startHeartbeat(s.peer, m, patience, done) {
		return
	}
	s.background(patience, func(ctx context.Context) {
		done(s.loop.node.transport.CallHeartbeat(ctx, s.peer, m))
	})
}

func (s *sender) timeoutNow(m *TimeoutNow) {
	s.background(s.loop.node.config.ElectionTimeout, func(ctx context.Context) {
		response, err := either(s.loop.node.transport.CallTimeoutNow(ctx, s.peer, m))
		s.post(timeoutNowAnswered{s.peer, m.Term, response, err})
	})
}

func (s *sender) readQuestion(m *ForwardRequest, patience time.Duration) {
	done := func(response *ForwardResponse, err error) {
		response, err = either(response, err)
		s.post(forwardAnswered{s.peer, m, response, err})
	}
	if t, ok := s.loop.node.transport.(callStarter); ok && t.startReadQuestion(s.peer, m, patience, done) {
		return
	}
	s.background(patience, func(ctx context.Context) {
		done(s.loop.node.transport.CallForward(ctx, s.peer, m))
	})
}

func (s *sender) snapshot(m *InstallSnapshot, patience time.Duration) {
	s.background(patience, func(ctx context.Context) {
		response, err := either(s.loop.node.transport.CallSnapshot(ctx, s.peer, m))
		s.post(snapshotAnswered{s.peer, m.Term, EntryID{m.LastIndex, m.LastTerm}, response, err})
	})
}

func (s *sender) append(m *AppendEntries, patience time.Duration) {
	streamer, ok := s.loop.node.transport.(AppendStreamer)
	if !ok {
		s.appendByCall(m, patience)
		return
	}
	if s.stream == nil || s.stream.term != m.Term || s.stream.broken.Load() {
		s.reset()
		s.stream = s.open(streamer, m.Term)
	}
	if !s.stream.Send(m) { // if it is broken, it says so by itself
		s.post(appendUnsent{s.peer, m.Term, m.PrevLogIndex})
	}
}

func (s *sender) open(streamer AppendStreamer, term Term) *peerStream {
	stream := &peerStream{term: term}
	stream.AppendStream = streamer.OpenAppendStream(s.peer,
		func(response *AppendResponse) {
			if _, err := either(response, nil); err != nil {
				s.post(appendLost{s.peer, term, err})
				return
			}
			s.post(appendAnswered{s.peer, term, response})
		},
		func(err error) {
			stream.broken.Store(true)
			s.post(appendLost{s.peer, term, err})
		})
	return stream
}

// appendByCall sends entries through a transport without streams.
func (s *sender) appendByCall(m *AppendEntries, patience time.Duration) {
	s.reset()
	call := new(appendCall)
	s.call = call
	call.cancel = s.background(patience, func(ctx context.Context) {
		response, err := either(s.loop.node.transport.CallAppend(ctx, s.peer, m))
		switch {
		case call.givenUp.Load():
		case err != nil:
			s.post(appendLost{s.peer, m.Term, err})
		default:
			s.post(appendAnswered{s.peer, m.Term, response})
		}
	})
}

// reset gives up what is under way.
func (s *sender) reset() {
	if s.stream != nil {
		s.stream.Close()
		s.stream = nil
	}
	if s.call != nil {
		s.call.givenUp.Store(true)
		s.call.cancel()
		s.call = nil
	}
}
