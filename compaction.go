package raft

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/seed-8da499c8/raft/internal/snapshot"
)

// When a node takes a snapshot, and how much of the log it keeps (thesis §5.1,
// §5.1.2): the driver's part. The state machine is asked between two tasks of the
// applier, and the files are written elsewhere.

// compaction is what a driver knows of its own snapshots. A state machine that
// keeps its own state has no snapshot taken of it before somebody needs one: its
// log is compacted up to what it has made durable.
type compaction struct {
	capturing bool          // the applier is asked for the state, or to make it durable
	writing   bool          // a snapshot is being written
	wanted    bool          // a follower needs one
	retryAt   time.Duration // the last attempt failed: none before
	trouble   string        // why it did

	sessions  bool   // the newest state that was handed out has some: see [applier.capture]
	restoring Index  // the snapshot that the state machine is restoring; 0: none
	fresh     bool   // since the start nothing was restored, and nothing applied
	size      uint64 // of the newest snapshot
	last      mark   // what the newest snapshot covers, or what the machine has made durable
	bytes     uint64 // of entries applied since the start
	marks     []mark // some of the way, oldest first
	waiters   []snapshotWaiter
}

// mark says how much was applied when the applied index was that.
type mark struct {
	index Index
	bytes uint64
}

// snapshotWaiter waits for a snapshot that covers an entry.
type snapshotWaiter struct {
	index Index
	done  func(Index, error)
}

// waitOutcome ends a wait for an index: of a snapshot, or of a configuration.
type waitOutcome struct {
	done  func(Index, error)
	index Index
	err   error
}

// captureTask asks the applier for the state as it is, or only to make it durable.
type captureTask struct {
	metadata SnapshotMetadata
	syncOnly bool
}

type (
	// snapshotWanted: somebody wants one of everything that is applied now.
	snapshotWanted struct{ done func(Index, error) }
	// captured: the state machine has handed out its state.
	captured struct {
		job snapshotJob
		err error
	}
	// synced: the state machine has made its state durable up to an index.
	synced struct {
		index Index
		err   error
	}
	// snapshotWritten: a snapshot is on disk, or could not be written.
	snapshotWritten struct {
		id     EntryID
		size   uint64
		err    error
		newest EntryID // which there is, if that is newer
	}
	// outrun: the applier needs entries that are not kept any more.
	outrun struct{ task *applyTask }
)

// retrySnapshot is how long a snapshot that failed is not tried again by itself.
const retrySnapshot = time.Minute

// schedule hands the applier its next task, one at a time.
func (d *driver) schedule(now time.Duration) {
	switch {
	case d.applying:
	case d.needsRestore():
		d.compaction.fresh, d.compaction.restoring = false, d.core.snapshot.Index
		d.applying, d.work.apply = true, &applyTask{restore: d.core.snapshot}
	case d.needsCapture(now):
		if d.applied <= d.core.log.durable { // else the disk is waited for, which does not take long
			d.scheduleCapture()
		}
	default:
		d.scheduleApply()
	}
}

// needsRestore reports whether the state machine lacks what the log has no entries
// for, or has only begun and is spared them.
func (d *driver) needsRestore() bool {
	c := d.core
	return d.applied < c.log.compacted.Index || d.compaction.fresh && d.applied < c.snapshot.Index
}

// needsCapture reports whether it is time for a snapshot.
func (d *driver) needsCapture(now time.Duration) bool {
	p := &d.compaction
	switch {
	case p.capturing || p.writing || d.applied == 0:
		return false
	case len(p.waiters) > 0:
		return true
	case now < p.retryAt || d.applied <= d.core.snapshot.Index:
		return false
	case p.wanted:
		return true
	default:
		return d.logIsLong()
	}
}

// logIsLong: a snapshot is due after so many entries or bytes, but not before the
// log has as many bytes as the last one, so that a large state is not written again
// and again for little (§5.1.2).
func (d *driver) logIsLong() bool {
	p := &d.compaction
	if d.settings.snapshotEntries == 0 {
		return false
	}
	entries, bytes := d.applied-p.last.index, p.bytes-p.last.bytes
	long := entries >= Index(d.settings.snapshotEntries) || bytes >= uint64(d.settings.snapshotBytes)
	return d.applied > p.last.index && long && (bytes >= p.size || d.settings.durableMachine && !p.sessions)
}

func (d *driver) scheduleCapture() {
	c, p := d.core, &d.compaction
	term, _ := c.log.term(d.applied)
	configuration := c.configurationAt(d.applied)
	task := &captureTask{metadata: SnapshotMetadata{
		EntryID:       EntryID{d.applied, term},
		Configuration: ConfigurationEntry{configuration.index, configuration.data},
	}}
	task.syncOnly = d.settings.durableMachine && !p.wanted && len(p.waiters) == 0
	p.capturing, d.applying = true, true
	d.work.apply = &applyTask{capture: task}
}

// handleCaptured has a state written.
func (d *driver) handleCaptured(now time.Duration, e captured) {
	d.applying, d.compaction.capturing = false, false
	d.compaction.sessions = len(e.job.metadata.Sessions) > 0
	if e.err != nil {
		d.snapshotFailed(now, e.err)
		return
	}
	d.compaction.writing = true
	d.work.snapshot = &e.job
}

// handleSynced compacts the log of a state machine that keeps its own state.
func (d *driver) handleSynced(now time.Duration, e synced) {
	d.applying, d.compaction.capturing = false, false
	if e.err != nil {
		d.snapshotFailed(now, e.err)
		return
	}
	d.compact(now, min(e.index, d.applied), d.compaction.size)
	d.compaction.last = mark{d.applied, d.compaction.bytes} // it is not asked again at once, whatever it says
}

// handleSnapshotWritten takes note of a new snapshot, and compacts the log.
func (d *driver) handleSnapshotWritten(now time.Duration, e snapshotWritten) {
	p := &d.compaction
	p.writing = false
	if errors.Is(e.err, snapshot.ErrNotNewer) { // a leader has sent a newer one meanwhile
		d.core.snapshotTaken(e.newest)
		d.endSnapshotWaitsUpTo(e.newest.Index)
		return
	}
	if e.err != nil {
		d.snapshotFailed(now, e.err)
		return
	}
	p.wanted = false
	d.core.snapshotTaken(e.id)
	d.compact(now, e.id.Index, e.size)
	d.endSnapshotWaitsUpTo(e.id.Index)
	d.core.tell("snapshot taken", "", "it covers entry %d, in %d bytes; the log starts at %d", e.id.Index, e.size, d.core.log.firstKept())
}

// snapshotFailed: a node without a new snapshot goes on, with a longer log.
func (d *driver) snapshotFailed(now time.Duration, err error) {
	p := &d.compaction
	p.trouble, p.retryAt = wordsOf(err), now+retrySnapshot
	d.endSnapshotWaits(fmt.Errorf("raft: node %s could not take a snapshot: %w", d.core.settings.id, err))
	d.core.tell("no snapshot taken", "", "%s", p.trouble)
}

// endSnapshotWaitsUpTo ends the waits for a snapshot that covers no more than one up
// to an index does.
func (d *driver) endSnapshotWaitsUpTo(index Index) {
	p := &d.compaction
	p.waiters = slices.DeleteFunc(p.waiters, func(w snapshotWaiter) bool {
		ends := w.index <= index
		if ends {
			d.work.outcomes = append(d.work.outcomes, waitOutcome{w.done, index, nil})
		}
		return ends
	})
}

func (d *driver) endSnapshotWaits(err error) {
	for _, w := range d.compaction.waiters {
		d.work.outcomes = append(d.work.outcomes, waitOutcome{w.done, 0, err})
	}
	d.compaction.waiters = nil
}

// handleSnapshotWanted: what covers everything already is not taken again.
func (d *driver) handleSnapshotWanted(e snapshotWanted) {
	if newest := d.core.snapshot.Index; d.applied > 0 && d.applied <= newest {
		d.work.outcomes = append(d.work.outcomes, waitOutcome{e.done, newest, nil})
		return
	}
	d.compaction.waiters = append(d.compaction.waiters, snapshotWaiter{d.applied, e.done})
}

// compact forgets entries that are not needed any more, since what has become
// durable covers them: all but the trailing ones, and those that followers in
// contact need. Of both there is a bound in bytes.
func (d *driver) compact(now time.Duration, covered Index, size uint64) {
	p := &d.compaction
	at := p.markAt(covered)
	p.last, p.size, p.trouble = at, size, ""
	upTo := covered - min(covered, Index(d.settings.trailingEntries))
	upTo = max(upTo, p.within(at, uint64(d.settings.snapshotBytes)))
	d.core.forget(now, min(upTo, covered), p.within(at, 4*max(uint64(d.settings.snapshotBytes), size)))
	first := d.core.log.firstKept()
	p.marks = slices.DeleteFunc(p.marks, func(m mark) bool { return m.index < first })
}

// advanceMark takes note of entries that were applied.
func (d *driver) advanceMark(bytes int) {
	p := &d.compaction
	p.bytes += uint64(bytes)
	if d.settings.snapshotEntries == 0 {
		return
	}
	if n := len(p.marks); n == 0 || p.bytes-p.marks[n-1].bytes >= uint64(d.settings.snapshotBytes)/32 {
		p.marks = append(p.marks, mark{d.applied, p.bytes})
	}
}

// markAt returns about how much had been applied at an index.
func (p *compaction) markAt(index Index) mark {
	at := mark{index, p.bytes}
	for _, m := range slices.Backward(p.marks) {
		if m.index < index {
			break
		}
		at.bytes = m.bytes
	}
	return at
}

// within returns the index behind which the entries up to a mark have at most so
// many bytes, about; 0 if those of the whole log have.
func (p *compaction) within(at mark, bytes uint64) Index {
	for _, m := range slices.Backward(p.marks) {
		if m.index <= at.index && at.bytes-m.bytes > bytes {
			return m.index
		}
	}
	return 0
}

// handleRestored: the state machine is what a snapshot says.
func (d *driver) handleRestored(e restored) {
	d.applied, d.applying = e.id.Index, false
	p := &d.compaction
	p.last, p.size, p.restoring = mark{e.id.Index, p.bytes}, e.size, 0
	p.marks = nil
	d.endOvertaken(e.id.Index) // the log may still have them
}

// handleOutrun: a snapshot has taken the place of entries that the applier was
// still to apply. Who waits for these will not learn what became of them.
func (d *driver) handleOutrun(e outrun) {
	d.applying, d.compaction.restoring = false, 0
	if e.task.restore != (EntryID{}) {
		return // what is needed now is the newer one, or the log
	}
	if d.core.log.compacted.Index <= d.applied {
		d.work.failure = fmt.Errorf("raft: node %s: entries from %d on of the log cannot be read to apply them: %w, and no snapshot has taken their place", d.core.settings.id, d.applied+1, ErrCompacted)
		return
	}
	for _, w := range e.task.claim(e.task.last) {
		d.work.failed = append(d.work.failed, failedRun{w, errOvertaken})
	}
}

// endOvertaken ends the waits for entries up to an index, whose place a snapshot has
// taken.
func (d *driver) endOvertaken(index Index) {
	for _, w := range takeWaiting(&d.waiting, index) {
		d.work.failed = append(d.work.failed, failedRun{w, errOvertaken})
	}
}

var errOvertaken = errors.New("a snapshot took the place of the entry before it was applied here")
