package raft

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// How a leader deals with followers that messages are lost to, that are slow, or
// whose stream is full.

// One lost message does not have the whole log sent again: the follower is asked
// where it was asked before.
func TestOneLostMessageDoesNotSendTheLogAgain(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	for range 200 {
		r.propose("a", strings.Repeat("x", 100))
		r.settle()
	}
	last := r.core("c").log.last()
	require.Equal(t, last, r.core("a").log.last())
	r.crash("a")
	r.elect("b")
	r.pass(2 * beat)
	require.Equal(t, last+1, r.core("b").peer("a").next, "what a has is not known, but it was not refused either")

	sent := 0
	r.restart("a")
	r.watch = func(n *rigNode, _ step, w work) {
		for _, request := range w.requests {
			if m, ok := request.message.(*AppendEntries); ok && request.to == "a" {
				sent += m.Entries.Len()
			}
		}
	}
	r.pass(10 * beat)
	require.Equal(t, r.core("b").log.last(), r.core("a").log.last())
	require.LessOrEqual(t, sent, 3)
}

// A follower that the usual patience is not enough for gets more, and smaller
// batches, until it shows that it needs less.
func TestSlowFollowerGetsMorePatience(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	r.settle()
	r.core("b").settings.maxBatchBytes = 1000
	c := r.core("b")
	p := c.peer("a")
	stuck := func() time.Duration { // until a new stream is asked for
		began := r.now
		for streams := 0; streams == 0; r.now += beat {
			r.watch = func(_ *rigNode, _ step, w work) {
				for _, id := range w.resets {
					if id == "a" {
						streams++
					}
				}
			}
			for _, id := range []NodeID{"a", "c"} {
				r.do("b", heartbeatAnswered{id, c.currentTerm, &HeartbeatResponse{Term: c.currentTerm, Incarnation: r.node(id).incarnation}, nil})
			}
			r.acknowledge("b", "c", c.log.last())
			require.Less(t, r.now, began+time.Minute)
		}
		return r.now - began
	}
	first := stuck()
	require.InDelta(t, 2*wait, first, float64(2*beat))
	require.Contains(t, r.trouble("b", "a"), "were not acknowledged for")
	require.Equal(t, 250, c.batchBytes(p))
	require.Equal(t, 2*wait+2*time.Second, c.patience(p, 512<<10), "half as fast a link")
	second := stuck()
	require.InDelta(t, 2*wait, second, float64(2*beat), "what is small does not wait for longer")
	require.Equal(t, 1000/16, c.batchBytes(p))
	p.slow = 4

	// It acknowledges fast: once for each step back.
	for n := 4; n > 0; n-- {
		require.Equal(t, n, p.slow)
		r.propose("b", fmt.Sprint("x", n))
		r.do("b")
		r.acknowledge("b", "a", c.log.last())
	}
	require.Zero(t, p.slow)
	require.Empty(t, r.trouble("b", "a"))
}

// What a full stream had no room for is sent once there is some. What it holds
// already is not thrown away.
func TestFullStreamHoldsBackOnly(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	r.settle()
	r.core("b").settings.maxBatchBytes = 1
	c := r.core("b")
	p := c.peer("a")
	r.acknowledge("b", "a", c.log.last())
	r.do("b")
	r.acknowledge("b", "a", c.log.last()) // what told it the commit index
	for i := range 4 {
		r.propose("b", fmt.Sprint(i))
	}
	r.do("b")
	last := c.log.last()
	require.Len(t, p.inflight, 4)
	mail[*AppendEntries](r, "b", "a")

	r.do("b", appendUnsent{"a", c.currentTerm - 1, last - 2})
	require.Len(t, p.inflight, 4, "that was another leadership's")
	r.do("b", appendUnsent{"a", c.currentTerm, last - 2}, appendUnsent{"a", c.currentTerm, last - 1})
	require.Len(t, p.inflight, 2)
	require.Equal(t, p.inflight[0].bytes+p.inflight[1].bytes, p.bytes, "what was not sent takes no room of the window")
	require.Equal(t, last-1, p.next)
	require.False(t, p.probing)
	require.Empty(t, mail[*AppendEntries](r, "b", "a"), "there is no room yet")
	r.acknowledge("b", "a", last-3)
	sent := mail[*AppendEntries](r, "b", "a")
	require.Len(t, sent, 2, "now there is")
	require.Equal(t, last-2, sent[0].PrevLogIndex)
	require.Equal(t, last-1, sent[1].PrevLogIndex)
	require.Len(t, p.inflight, 3)
}

// A peer whose name two processes use is in the log once a minute, whoever of
// them speaks.
func TestTurningAwayIsLoggedOnceAMinute(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1", term: 2})
	lines := func() (n int) {
		for _, note := range r.node("b").notes {
			if note.action == "turn peer away" {
				n++
			}
		}
		return n
	}
	for range 1200 { // two minutes of heartbeats by c, and of pre-votes by another process under its name
		r.now += beat
		r.askHeartbeat("c", "b", Heartbeat{Term: 2})
		r.node("c").incarnation++
		r.ask("c", "b", &VoteRequest{Term: 3, LastLogIndex: 1, LastLogTerm: 1, PreVote: true})
		r.node("c").incarnation--
	}
	require.Equal(t, 2, lines())
	require.Equal(t, uint64(1200), r.node("b").driver.status(r.now).Refused)
}

// A disk that hangs does not have answers gather without bound.
func TestParkedRepliesAreBounded(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1", term: 2})
	r.stall("b")
	r.ask("c", "b", &Heartbeat{Term: 3}) // the write of term 3 hangs
	d := r.node("b").driver
	d.verify = false // it takes long, so often
	for range maxWindow {
		r.ask("c", "b", &AppendEntries{Term: 3, PrevLogIndex: 1, PrevLogTerm: 1})
	}
	require.Len(t, d.appendReplies, maxWindow, "all that the largest window allows")
	for range 2 * maxParked {
		r.ask("c", "b", &Heartbeat{Term: 3})
		r.ask("c", "b", &AppendEntries{Term: 3, PrevLogIndex: 1, PrevLogTerm: 1})
	}
	require.Len(t, d.replies, maxParked)
	require.Len(t, d.appendReplies, maxWindow)
}

// trouble is what a leader's status says about a peer.
func (r *rig) trouble(leader, peer NodeID) string {
	for _, p := range r.node(leader).driver.status(r.now).Peers {
		if p.ID == peer {
			return p.Trouble
		}
	}
	return "it is no peer"
}

// What gathers while a disk hangs goes to it in pieces that it can take.
func TestWritesAreBounded(t *testing.T) {
	r := newCluster(t, "a b c")
	r.queue = 1 << 30
	r.restart("a")
	r.elect("a")
	r.stall("a")
	r.propose("a", "x")
	last := r.core("a").log.last() + 2*maxWriteRuns + 100
	for r.core("a").log.last() < last { // a run each
		index := r.core("a").log.last() + 1
		r.core("a").log.appendRun(run{term: r.core("a").currentTerm, first: index, count: 1, body: appendEntry(nil, EntryCommand, nil)})
	}
	writes := 0
	r.node("a").driver.verify = false // which would copy it all for each step
	for r.node("a").saving != nil {
		require.LessOrEqual(t, len(r.node("a").saving.Entries.runs), maxWriteRuns)
		require.LessOrEqual(t, r.node("a").saving.Commit, r.node("a").saving.Entries.last())
		r.finishWrite("a")
		writes++
	}
	require.Equal(t, 3+1, writes, "the first was under way with what was there then")
	require.Equal(t, last, r.core("a").log.durable)
	require.Equal(t, last, loaded(r.node("a").storage).Last)
}

// A candidate's own vote may be durable before all of the log that it speaks of,
// if that does not fit into one write. It waits for the rest.
func TestCandidacyWaitsForTheWholeLog(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	r.stall("b")
	r.timeOut("b")
	r.node("b").driver.verify = false // which would copy it all for each step
	for range maxWriteRuns + 2 {      // a run each
		r.core("b").log.appendRun(run{term: 1, first: r.core("b").log.last() + 1, count: 1, body: appendEntry(nil, EntryCommand, nil)})
	}
	r.grant("b")
	require.Equal(t, Candidate, r.core("b").role)
	r.take("b", "c")
	for r.core("b").durable < r.core("b").candidacy {
		r.finishWrite("b")
	}
	require.Empty(t, mail[*VoteRequest](r, "b", "c"))
	for r.node("b").saving != nil {
		r.finishWrite("b")
	}
	require.Len(t, mail[*VoteRequest](r, "b", "c"), 1)
}

// A leader whose own disk is slow holds its callers back, though its followers
// commit and everything is applied.
func TestLeadersSlowDiskHoldsBackProposals(t *testing.T) {
	r := newCluster(t, "a b c")
	r.queue = 1000
	r.restart("a")
	r.elect("a")
	r.stall("a")
	r.propose("a", strings.Repeat("x", 2000))
	r.settle()
	require.Contains(t, r.node("a").machine.commands, strings.Repeat("x", 2000))
	require.LessOrEqual(t, r.node("a").driver.proposalRoom(), 0)
	r.resume("a")
	require.Positive(t, r.node("a").driver.proposalRoom())
}

// What a leader has lost counts no more once it leads again: nobody would ever apply it.
func TestLostProposalsTakeNoRoomOfTheNextLeadership(t *testing.T) {
	r := newCluster(t, "a b c")
	r.queue = 10_000
	r.restart("a")
	r.elect("a")
	r.settle()
	require.Equal(t, r.queue, r.node("a").driver.proposalRoom())
	r.isolate("a")
	for range 10 {
		r.propose("a", strings.Repeat("x", 100))
	}
	r.do("a")
	require.Less(t, r.node("a").driver.proposalRoom(), r.queue-1000)
	r.elect("b")
	r.heal()
	r.passUntil(time.Minute, "what only a has to be gone", func() bool { return r.core("a").log.last() == r.core("b").log.last() })
	require.Equal(t, Follower, r.core("a").role)
	r.elect("a")
	require.Less(t, r.core("a").log.last(), Index(10), "their places are not taken again")
	require.Equal(t, r.queue, r.node("a").driver.proposalRoom())
}
