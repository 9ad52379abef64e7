package raft

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Ids that come back with another disk, while messages of the process before are under
// way, and while others have not read of it yet.

// met has a leader hear, in answer to its last round of heartbeats, from members that
// it has added.
func (r *rig) met(leader NodeID, ids ...NodeID) {
	c := r.core(leader)
	for _, id := range ids {
		r.do(leader, heartbeatAnswered{id, c.currentTerm, &HeartbeatResponse{Term: c.currentTerm, Round: c.round, Incarnation: r.nodes[id].incarnation}, nil})
	}
	r.finishWrite(leader)
}

// takenInAnew returns a rig in which b leads, and has taken c out and in again, which
// has another disk now.
func takenInAnew(t *testing.T) (r *rig, before uint64) {
	r = leading(t, at{log: "1", term: 1, commit: 1})
	r.finishWrite("b")
	r.acknowledge("b", "a", 2)
	r.change("b", 0, removes("c"))
	r.finishWrite("b")
	r.acknowledge("b", "a", 3)
	require.Equal(t, Index(3), r.core("b").commitIndex)
	before = r.nodes["c"].incarnation
	r.nodes["c"].incarnation++
	r.change("b", 0, r.adds("c"))
	r.finishWrite("b")
	return r, before
}

// W1: an acknowledgement of the disk that is gone does not count for the one that has
// taken its place, and does not keep it from being met.
func TestW1LateAnswerOfTheDiskBefore(t *testing.T) {
	r, before := takenInAnew(t)
	term, round := r.core("b").currentTerm, r.core("b").round
	r.do("b",
		appendAnswered{"c", term, &AppendResponse{Term: term, Success: true, Match: 4, Incarnation: before}},
		heartbeatAnswered{"c", term, &HeartbeatResponse{Term: term, Round: round - 1, Incarnation: before}, nil})
	r.ask("c", "b", &VoteRequest{Term: term + 1, LastLogIndex: 9, LastLogTerm: 1, PreVote: true})
	r.finishWrite("b")
	require.Equal(t, Index(3), r.core("b").commitIndex)
	require.Empty(t, mail[*AppendEntries](r, "b", "c"), "it is sent nothing until it is met")
	r.met("b", "c")
	require.NotEmpty(t, mail[*AppendEntries](r, "b", "c"))
	r.acknowledge("b", "c", 4)
	require.Equal(t, Index(4), r.core("b").commitIndex)
}

// A newcomer knows from the entry that adds it in which incarnations the others were
// met: it counts nobody who has lost its disk before.
func TestW1NewcomerKnowsWhoWasMet(t *testing.T) {
	r := newRig(t, "a b c")
	r.addJoiners("d")
	for _, id := range []NodeID{"a", "b", "c", "d"} {
		r.start(id)
	}
	r.elect("a")
	r.crash("c")
	r.change("a", 0, r.adds("d"))
	r.settle()
	for _, id := range []NodeID{"a", "b", "c"} {
		require.Equal(t, r.nodes[id].incarnation, r.core("d").metAs(id), "%s", id)
	}
	r.nodes["c"].incarnation++
	require.ErrorIs(t, r.ask("c", "d", &VoteRequest{Term: 9, LastLogIndex: 9, LastLogTerm: 8}).err, ErrOtherDisk)
}

// Who has not read yet that a member was taken in anew answers it all the same, as one
// that it does not know: else nobody might be left to elect it, or it to lead.
func TestMemberThatWasTakenInAnewIsAnswered(t *testing.T) {
	r := follower(t, at{log: "1", term: 1})
	r.node("c").incarnation++
	pre := &VoteRequest{Term: 2, LastLogIndex: 9, LastLogTerm: 1, PreVote: true}
	require.ErrorIs(t, r.ask("c", "b", pre).err, ErrOtherDisk)
	pre.Added = 7
	require.True(t, answerOf[*VoteResponse](r, r.ask("c", "b", pre)).VoteGranted)
	require.Equal(t, Term(2), r.askHeartbeat("c", "b", Heartbeat{Term: 2, Configuration: 7}).Term)
	require.Equal(t, NodeID("c"), r.core("b").leader)
	require.True(t, r.askAppend("c", "b", AppendEntries{Term: 2, PrevLogIndex: 1, PrevLogTerm: 1}).Success)
}

// A node that waits to be added votes, too: those who have added it may need that to
// elect a leader.
func TestJoinerAnswersACandidate(t *testing.T) {
	r := newRig(t, "a b c")
	r.addJoiners("d")
	r.start("d")
	vote := r.askVote("a", "d", VoteRequest{Term: 5, LastLogIndex: 9, LastLogTerm: 4})
	require.True(t, vote.VoteGranted)
	require.Equal(t, r.fingerprint, r.hardState("d").Fingerprint)
}

// A founder of a cluster of one was taken out, and is taken in anew with an empty disk.
// While it reads of the time when it was the only voter it must not lead by itself.
func TestW1NewcomerIsNotWhoItsNameWasBefore(t *testing.T) {
	r := newRig(t, "a")
	r.addJoiners("b c")
	r.tune = func(s *coreSettings) { s.maxBatchBytes, s.maxInflightMessages = 1, 1 }
	for _, id := range r.ids {
		r.start(id)
	}
	r.pass(beat)
	require.Equal(t, Leader, r.core("a").role)
	done := func(o *decision) {
		r.pass(2 * beat)
		require.True(t, o.ended)
		require.NoError(t, o.err)
	}
	done(r.change("a", 0, r.adds("b")))
	done(r.change("a", 0, r.adds("c")))
	done(r.transfer("a", "b"))
	done(r.change("b", 0, removes("a")))
	r.wipe("a")
	r.node("a").joins = true
	r.start("a")
	r.change("b", 0, r.addsLearner("a"))
	r.settleUntil(func() bool { return r.core("a").configuration.index > 0 })
	r.isolate("a")
	r.pass(4 * wait)
	require.NotEqual(t, Leader, r.core("a").role)
	r.restart("a")
	r.pass(beat)
	require.NotEqual(t, Leader, r.core("a").role)
	r.heal()
	r.pass(4 * wait)
	r.requireHealthy()
}
