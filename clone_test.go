package raft

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
)

// step is what one advance was given.
type step struct {
	now     time.Duration
	wait    time.Duration // the end of the election wait, which timeOut moves
	events  []any
	batches []*batch
}

// describe says what an advance led to, for comparison.
func describe(w work) string {
	text := fmt.Sprintln(w.resets, w.notes, w.failure, w.snapshotReads, w.closes, len(w.chunks), len(w.outcomes))
	if w.save != nil {
		text += fmt.Sprintln(w.save.HardState, w.save.Commit, termsOf(w.save.Entries), w.save.Compacted)
	}
	if w.apply != nil {
		text += fmt.Sprintln("apply", w.apply.first, w.apply.last, w.apply.entries.Len(), w.apply.restore, w.apply.capture)
	}
	if w.snapshot != nil {
		text += fmt.Sprintf("write %+v\n", w.snapshot.metadata)
	}
	for _, r := range w.reads {
		text += fmt.Sprintf("read %+v\n", r)
	}
	for _, r := range w.requests {
		text += fmt.Sprintf("to %s %T %+v\n", r.to, r.message, r.message)
	}
	for _, r := range w.replies {
		text += fmt.Sprintf("reply %T %+v\n", r.response, r.response)
	}
	for _, f := range w.failed {
		text += fmt.Sprintln("failed", f.first, f.term, len(f.proposals), f.err)
	}
	return text
}

// A clone is a world of its own: whatever happens to it never shows in the
// original, and what happens to both alike leads to the same.
func TestCloneIsIndependentAndActsAlike(t *testing.T) {
	t.Parallel()
	seeds := uint64(40)
	if testenv.Brief() {
		seeds = 8
	}
	for seed := range seeds {
		w := newWalk(t, seed, "a b c")
		clones := map[NodeID]*driver{}
		lives := map[NodeID]int{}
		hashes := map[NodeID]uint64{}
		record := func(n *rigNode, s step, out work) {
			if clones[n.id] == nil || lives[n.id] != n.life {
				return
			}
			require.Equal(t, hashes[n.id], clones[n.id].hash(), "seed %d: stepping the original changed the clone", seed)
			clones[n.id].core.electionDeadline = s.wait
			before := n.driver.hash()
			require.Equal(t, describe(out), describe(clones[n.id].advance(s.now, s.events, s.batches)), "seed %d", seed)
			require.Equal(t, before, n.driver.hash(), "seed %d: stepping the clone changed the original", seed)
			require.Equal(t, before, clones[n.id].hash(), "seed %d: equal steps, equal hashes", seed)
			hashes[n.id] = before
		}
		w.watch = record
		for i := range 600 {
			if i%50 == 0 {
				clear(clones)
				for _, id := range w.ids {
					if w.up(id) {
						clones[id] = w.node(id).driver.clone()
						hashes[id], lives[id] = clones[id].hash(), w.node(id).life
						require.Equal(t, w.node(id).driver.hash(), hashes[id])
					}
				}
			}
			w.act()
		}
	}
}

// Equal tests run equally: two walks of one seed end in the same states.
func TestEqualWalksHaveEqualHashes(t *testing.T) {
	for seed := range uint64(6) {
		one, two := newWalk(t, seed, "a b c"), newWalk(t, seed, "a b c")
		for i := range 500 {
			one.act()
			two.act()
			for _, id := range one.ids {
				require.Equal(t, one.up(id), two.up(id))
				if one.up(id) {
					require.Equal(t, one.node(id).driver.hash(), two.node(id).driver.hash(), "seed %d, action %d", seed, i)
				}
			}
		}
	}
}

// Each part of the state that later steps depend on shows in the hash.
func TestHashShowsEveryPartOfTheState(t *testing.T) {
	base := func() *driver {
		r := leading(t, at{log: "1 1 2", term: 2, commit: 1})
		r.propose("b", "x")
		return r.node("b").driver
	}
	require.Equal(t, base().hash(), base().hash())
	for name, change := range map[string]func(d *driver, c *core){
		"currentTerm":      func(_ *driver, c *core) { c.currentTerm++ },
		"votedFor":         func(_ *driver, c *core) { c.votedFor = "a" },
		"contacts":         func(_ *driver, c *core) { c.contacts[0].Incarnation++ },
		"remembered":       func(_ *driver, c *core) { c.remembered++ },
		"durable":          func(_ *driver, c *core) { c.durable++ },
		"writing":          func(_ *driver, c *core) { c.writing++ },
		"lastMet":          func(_ *driver, c *core) { c.lastMet++ },
		"writingSince":     func(_ *driver, c *core) { c.writingSince++ },
		"isWriting":        func(_ *driver, c *core) { c.isWriting = !c.isWriting },
		"log":              func(_ *driver, c *core) { c.log.truncate(4) },
		"log.durable":      func(_ *driver, c *core) { c.log.durable++ },
		"log.handed":       func(_ *driver, c *core) { c.log.handed-- },
		"log.writing":      func(_ *driver, c *core) { c.log.writing-- },
		"commitIndex":      func(_ *driver, c *core) { c.commitIndex++ },
		"role":             func(_ *driver, c *core) { c.role = Candidate },
		"leader":           func(_ *driver, c *core) { c.leader = "" },
		"leaderAddress":    func(_ *driver, c *core) { c.leaderAddress = "elsewhere" },
		"leaderContact":    func(_ *driver, c *core) { c.leaderContact++ },
		"heardLeader":      func(_ *driver, c *core) { c.heardLeader = !c.heardLeader },
		"quietUntil":       func(_ *driver, c *core) { c.quietUntil++ },
		"electionDeadline": func(_ *driver, c *core) { c.electionDeadline++ },
		"candidacy":        func(_ *driver, c *core) { c.candidacy++ },
		"ballots":          func(_ *driver, c *core) { c.ballots["a"] = ballot{granted: true} },
		"heartbeatDue":     func(_ *driver, c *core) { c.heartbeatDue++ },
		"round":            func(_ *driver, c *core) { c.round++ },
		"readRound":        func(_ *driver, c *core) { c.readRound++ },
		"hedgeAt":          func(_ *driver, c *core) { c.hedgeAt++ },
		"asked":            func(_ *driver, c *core) { c.peers[0].asked++ },
		"timed":            func(_ *driver, c *core) { c.peers[0].timed++ },
		"timedAt":          func(_ *driver, c *core) { c.peers[0].timedAt++ },
		"answered":         func(_ *driver, c *core) { c.peers[0].answered++ },
		"took":             func(_ *driver, c *core) { c.peers[0].took++ },
		"quiet":            func(_ *driver, c *core) { c.peers[0].quiet++ },
		"lease":            func(_ *driver, c *core) { c.lease.held = !c.lease.held },
		"lease's start":    func(_ *driver, c *core) { c.lease.since++ },
		"lease's round":    func(_ *driver, c *core) { c.lease.round++ },
		"lease's sending":  func(_ *driver, c *core) { c.lease.sent++ },
		"lease's members":  func(_ *driver, c *core) { c.lease.under++ },
		"lease's end":      func(_ *driver, c *core) { c.lease.void = true },
		"reads":            func(d *driver, _ *core) { d.reads.batches = []readBatch{{round: 1}} },
		"untold":           func(d *driver, _ *core) { d.reads.untold = true },
		"tellAt":           func(d *driver, _ *core) { d.reads.tellAt++ },
		"question":         func(d *driver, _ *core) { d.reads.call = new(ForwardRequest) },
		"confirmed reads":  func(d *driver, _ *core) { d.reads.applies = []appliedWait{{index: 1}} },
		"freshness":        func(d *driver, _ *core) { d.reads.fresh[ReadConfirmed].at++ },
		"chance":           func(_ *driver, c *core) { c.drawElectionWait() },
		"match":            func(_ *driver, c *core) { c.peers[0].match++ },
		"next":             func(_ *driver, c *core) { c.peers[0].next++ },
		"probing":          func(_ *driver, c *core) { c.peers[0].probing = !c.peers[0].probing },
		"inflight":         func(_ *driver, c *core) { c.peers[0].inflight = nil },
		"bytes":            func(_ *driver, c *core) { c.peers[0].bytes++ },
		"sentCommit":       func(_ *driver, c *core) { c.peers[0].sentCommit++ },
		"contact":          func(_ *driver, c *core) { c.peers[0].contact++ },
		"retryAt":          func(_ *driver, c *core) { c.peers[0].retryAt++ },
		"log.told":         func(_ *driver, c *core) { c.log.told++ },
		"snapshot":         func(_ *driver, c *core) { c.snapshot.Index++ },
		"snapshot's term":  func(_ *driver, c *core) { c.snapshot.Term++ },
		"installing":       func(_ *driver, c *core) { c.installing++ },
		"transfer":         func(_ *driver, c *core) { c.peers[0].transfer = new(transfer) },
		"log.compacted":    func(_ *driver, c *core) { c.log.compacted.Term++ },
		"log.terms":        func(_ *driver, c *core) { c.log.terms[0].Term++ },
		"log.end":          func(_ *driver, c *core) { c.log.end++ },
		"log.runs":         func(_ *driver, c *core) { c.log.runs = c.log.runs[1:] },
		"reading":          func(_ *driver, c *core) { c.peers[0].reading = true },
		"otherDisk":        func(_ *driver, c *core) { c.peers[0].otherDisk = true },
		"applied":          func(d *driver, _ *core) { d.applied++ },
		"unsettled":        func(d *driver, _ *core) { d.unsettled[0].last++ },
		"unsettledBytes":   func(d *driver, _ *core) { d.unsettledBytes++ },
		"applying":         func(d *driver, _ *core) { d.applying = !d.applying },
		"waiting":          func(d *driver, _ *core) { d.waiting[0].first++ },
		"rejected":         func(d *driver, _ *core) { d.rejected["a"] = "why" },
		"deferred": func(d *driver, _ *core) {
			d.deferred = []deferredEvent{{heartbeatAnswered{from: "a", term: 3, response: &HeartbeatResponse{Term: 3}}, 7}}
		},
		"requests": func(d *driver, _ *core) {
			d.requests = []request{{to: "a", message: &VoteRequest{Term: 3}, term: 3}}
		},
		"a request's role": func(d *driver, _ *core) {
			d.requests = []request{{to: "a", message: &VoteRequest{Term: 3}, term: 3, role: Candidate}}
		},
		"a request's message": func(d *driver, _ *core) {
			d.requests = []request{{to: "a", message: &VoteRequest{Term: 4}, term: 3}}
		},
		"capturing":          func(d *driver, _ *core) { d.compaction.capturing = true },
		"writing a snapshot": func(d *driver, _ *core) { d.compaction.writing = true },
		"wanted":             func(d *driver, _ *core) { d.compaction.wanted = true },
		"snapshot retried":   func(d *driver, _ *core) { d.compaction.retryAt++ },
		"fresh":              func(d *driver, _ *core) { d.compaction.fresh = !d.compaction.fresh },
		"sessions":           func(d *driver, _ *core) { d.compaction.sessions = true },
		"snapshot's size":    func(d *driver, _ *core) { d.compaction.size++ },
		"last snapshot":      func(d *driver, _ *core) { d.compaction.last.index++ },
		"bytes applied":      func(d *driver, _ *core) { d.compaction.bytes++ },
		"marks":              func(d *driver, _ *core) { d.compaction.marks = []mark{{1, 1}} },
		"resolutions":        func(d *driver, _ *core) { d.resolutions = []*resolution{{EntryID: EntryID{1, 1}}} },
		"snapshot's waiters": func(d *driver, _ *core) { d.compaction.waiters = []snapshotWaiter{{index: 1}} },
		"replies":            func(d *driver, _ *core) { d.replies = []reply{{response: &HeartbeatResponse{Round: 1}}} },
		"other replies":      func(d *driver, _ *core) { d.replies = []reply{{response: &HeartbeatResponse{Round: 2}}} },
		"appendReplies":      func(d *driver, _ *core) { d.appendReplies = []reply{{response: &AppendResponse{Match: 1}}} },
	} {
		d := base()
		change(d, d.core)
		require.NotEqual(t, base().hash(), d.hash(), name)
	}
	sending := func(t transfer) uint64 {
		d := base()
		d.core.peers[0].transfer = &t
		return d.hash()
	}
	for name, other := range map[string]transfer{
		"index": {id: EntryID{1, 0}}, "term": {id: EntryID{0, 1}}, "size": {size: 1}, "next": {next: 1}, "busy": {busy: true},
		"pace's time": {pace: pace{at: 1}}, "pace's credit": {pace: pace{credit: 1}},
		"sent": {sent: 1}, "patience": {patience: 1},
	} {
		require.NotEqual(t, sending(transfer{}), sending(other), "a transfer's %s", name)
	}
	paced := func(p pace) uint64 {
		d := base()
		d.core.peers[0].pace = p
		return d.hash()
	}
	for name, other := range map[string]pace{"at": {at: 1}, "credit": {credit: 1}, "grown": {grown: 1}} {
		require.NotEqual(t, paced(pace{}), paced(other), "a pace's %s", name)
	}
	one, two := base(), base()
	one.deferred = []deferredEvent{{heartbeatAnswered{from: "a", term: 3, response: &HeartbeatResponse{Term: 3}}, 7}}
	two.deferred = []deferredEvent{{heartbeatAnswered{from: "a", term: 3, response: &HeartbeatResponse{Term: 4}}, 7}}
	require.NotEqual(t, one.hash(), two.hash(), "what is deferred")
}
