package raft

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// After a restart a node stays quiet for one election timeout: it may have
// promised a leader that it would.
func TestRestartedNodeStaysQuiet(t *testing.T) {
	for _, pre := range []bool{false, true} {
		r := newRig(t, "a b c")
		r.startAt("b", at{log: "1 1", term: 2, restarted: true})
		request := VoteRequest{Term: 3, LastLogIndex: 2, LastLogTerm: 1, PreVote: pre}
		r.now = wait - 1
		require.Equal(t, RefusalRestarted, r.askVote("a", "b", request).Refusal)
		require.Equal(t, Term(2), r.core("b").currentTerm)
		r.now++
		require.True(t, r.askVote("a", "b", request).VoteGranted)
		require.GreaterOrEqual(t, r.core("b").electionDeadline, wait, "nor does it campaign before")
	}
	first := newRig(t, "a b c")
	first.start("b")
	require.True(t, first.askVote("a", "b", VoteRequest{Term: 2, LastLogIndex: 1, LastLogTerm: 1}).VoteGranted, "there was nobody to promise it to")
}

// A member is recorded, durably, in the incarnation in which it is first met,
// before anything that it says counts.
func TestFirstContactIsDurableBeforeItCounts(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1", term: 1, strangers: true})
	r.stall("b")
	r.timeOut("b")
	r.grantFrom("b", "a")
	require.Equal(t, PreCandidate, r.core("b").role, "a was met just now")
	require.Empty(t, r.hardState("b").Contacts)
	r.finishWrite("b")
	require.Equal(t, []Contact{{"a", r.node("a").incarnation}}, r.hardState("b").Contacts)
	require.Equal(t, Candidate, r.core("b").role, "the answer was kept until then")
	r.finishWrite("b")
	r.grantFrom("b", "c")
	require.Equal(t, Candidate, r.core("b").role)
	r.finishWrite("b")
	require.Equal(t, Leader, r.core("b").role)
	require.Len(t, r.hardState("b").Contacts, 2)

	r = newRig(t, "a b c")
	r.startAt("b", at{log: "1", term: 1, strangers: true})
	r.stall("b")
	answer := r.ask("c", "b", &VoteRequest{Term: 2, LastLogIndex: 1, LastLogTerm: 1, PreVote: true})
	require.False(t, answer.done, "c was met just now")
	r.finishWrite("b")
	require.True(t, answerOf[*VoteResponse](r, answer).VoteGranted)
}

// Who comes back with another disk does not count, in any way, and shows.
func TestW1MemberWithAnotherDiskDoesNotCount(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1", term: 1})
	r.node("c").incarnation++
	for _, request := range []any{&VoteRequest{Term: 9, LastLogIndex: 9, LastLogTerm: 8}, &Heartbeat{Term: 9, Configuration: 1}, &AppendEntries{Term: 9}} {
		require.ErrorIs(t, r.ask("c", "b", request).err, ErrOtherDisk)
	}
	require.Equal(t, Term(1), r.core("b").currentTerm)
	r.timeOut("b")
	r.grantFrom("b", "c")
	require.Equal(t, PreCandidate, r.core("b").role)
	require.Contains(t, r.reason("b"), "c is turned away")
	require.Contains(t, r.reason("b"), "came back with another disk")
	r.grantFrom("b", "a")
	r.finishWrite("b")
	r.grantFrom("b", "c")
	require.Equal(t, Candidate, r.core("b").role)
	r.grantFrom("b", "a")
	require.Equal(t, Leader, r.core("b").role)
	r.finishWrite("b")
	r.acknowledge("b", "c", 2)
	require.Zero(t, r.core("b").commitIndex)
	mail[*AppendEntries](r, "b", "c")
	r.propose("b", "x")
	require.Empty(t, mail[*AppendEntries](r, "b", "c"), "it is sent nothing more")
	require.Contains(t, r.node("b").driver.status(r.now).Peers[1].Trouble, "another disk")

	r.node("c").incarnation-- // the old disk is back
	r.acknowledge("b", "c", 2)
	require.Equal(t, Index(2), r.core("b").commitIndex)
	require.NotEmpty(t, mail[*AppendEntries](r, "b", "c"), "and it is sent what it lacks")
	require.Empty(t, r.node("b").driver.status(r.now).Peers[1].Trouble)
}

// Who does not campaign does not say that it will.
func TestStatusSaysWhoTakesNoPart(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.addJoiners("d")
	r.start("d")
	require.Equal(t, "no leader is known, and this node does not campaign; it waits until a leader adds it", r.reason("d"))
	r.change("a", 0, r.addsLearner("d"))
	r.settle()
	require.Empty(t, r.reason("d"))
	r.restart("d")
	require.Contains(t, r.reason("d"), "no leader is known, and this node does not campaign")
	r.change("a", 0, removes("b"))
	r.settle()
	r.restart("b")
	require.Contains(t, r.reason("b"), "it is no member by entry 4, the last configuration that it has")
}

// Status says in words what is in the way.
func TestStatusSaysWhy(t *testing.T) {
	r := newRig(t, "a b c d e")
	r.startAt("a", at{log: "1", term: 1, commit: 1})
	r.settle()
	require.Contains(t, r.reason("a"), "no leader is known; this node campaigns in ")
	r.timeOut("a")
	incarnation := func(id NodeID) uint64 { return r.node(id).incarnation }
	r.do("a", voteAnswered{"b", 2, true, &VoteResponse{Term: 1, PreVote: true, Refusal: RefusalLongerLog, Incarnation: incarnation("b")}, nil})
	r.do("a", voteAnswered{"c", 2, true, &VoteResponse{Term: 1, PreVote: true, Refusal: RefusalHasLeader, Leader: "e", Incarnation: incarnation("c")}, nil})
	r.do("a", voteAnswered{"d", 2, true, nil, errUnreachableInRig})
	require.Equal(t, "pre-vote refused by b: its log is longer; pre-vote refused by c: it hears from a leader, e; "+
		"pre-vote not answered by d: no route; pre-vote not answered by e yet", r.reason("a"))
	for refusal, words := range map[VoteRefusal]string{
		RefusalNone: "no reason given", RefusalStaleTerm: "it is in a later term", RefusalVoted: "it voted for another candidate",
		RefusalRestarted: "it restarted less than an election timeout ago", 99: "reason 99",
	} {
		r.do("a", voteAnswered{"b", 2, true, &VoteResponse{Term: 1, PreVote: true, Refusal: refusal, Incarnation: incarnation("b")}, nil})
		require.Contains(t, r.reason("a"), "pre-vote refused by b: "+words)
	}

	// A peer that refuses has answered, whether it refuses the connection or the
	// request. The words are those of one sentence.
	refusal := &RemoteError{Peer: "b", Code: CodeWrongCluster, Message: "raft: request from another cluster: look at the names"}
	for _, err := range []error{refusal, unreachable("b", "b:1", refusal)} {
		r.do("a", voteAnswered{"b", 2, true, nil, err})
		require.Contains(t, r.reason("a"), "pre-vote refused by b: request from another cluster: look at the names;")
	}
	r.do("a", voteAnswered{"b", 2, true, nil, unreachable("b", "b:1", errors.New("no route"))})
	require.Contains(t, r.reason("a"), "pre-vote not answered by b: peer unreachable: b at b:1: no route;")

	r = leading(t, at{log: "1 1", term: 2, commit: 2})
	r.settle()
	refusal.Peer = "a"
	for message, trouble := range map[any]string{
		appendLost{"a", 3, refusal}:                                      "peer a answered: request from another cluster: look at the names",
		appendLost{"a", 3, unreachable("a", "a:1", refusal)}:             "a at a:1 refuses the connection: request from another cluster: look at the names",
		heartbeatAnswered{"a", 3, nil, unreachable("a", "a:1", refusal)}: "a at a:1 refuses the connection: request from another cluster: look at the names",
	} {
		r.do("b", message)
		require.Contains(t, r.reason("b"), "last answered 0s ago ("+trouble+")")
	}
	r.do("b", appendLost{"a", 3, errUnreachableInRig})
	r.do("b", heartbeatAnswered{"c", 3, nil, errUnreachableInRig})
	require.Contains(t, r.reason("b"), "entries 3 to 3 wait for 2 of 3 voters")
	require.Contains(t, r.reason("b"), "a has them up to 0 and last answered 0s ago (no route)")
	r.acknowledge("b", "a", 3)
	r.settle()
	require.Empty(t, r.reason("b"))
	require.Empty(t, r.node("b").driver.status(r.now).Peers[0].Trouble)
	r.node("b").slow = true
	r.propose("b", "x")
	r.settle()
	r.acknowledge("b", "a", 4)
	require.Equal(t, "the state machine has 1 committed entries still to apply", r.reason("b"))
}

// The window of what is sent and not answered is bounded in messages and in
// bytes; one batch always goes.
func TestWindowIsBounded(t *testing.T) {
	for _, c := range []struct{ messages, bytes, want int }{{3, 1 << 20, 3}, {100, 100, 3}, {100, 1, 1}} {
		r := newRig(t, "a b c")
		r.tune = func(s *coreSettings) { s.maxInflightMessages, s.maxInflightBytes = c.messages, c.bytes }
		r.startAt("b", at{log: "1 1", term: 2})
		r.crown("b")
		r.acknowledge("b", "a", 3)
		r.take("b", "a")
		command := strings.Repeat("x", 50-entrySize(0)-1)
		for range 10 {
			r.propose("b", command)
		}
		sent := mail[*AppendEntries](r, "b", "a")
		require.Len(t, sent, c.want)
		r.acknowledge("b", "a", 4)
		more := mail[*AppendEntries](r, "b", "a")
		require.NotEmpty(t, more, "an answer makes room")
		require.Equal(t, sent[len(sent)-1].Entries.last()+1, more[0].Entries.First())
		require.LessOrEqual(t, len(r.core("b").peer("a").inflight), c.want)
	}
}

// A lost message is sent again after a pause, or as soon as the peer answers a
// heartbeat.
func TestLostEntriesAreSentAgainAfterAPause(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	r.do("b", appendLost{"a", 2, nil})
	require.NotEmpty(t, r.core("b").peer("a").inflight, "a loss of an earlier term says nothing")
	r.do("b", appendLost{"a", 3, errUnreachableInRig})
	require.Empty(t, mail[*AppendEntries](r, "b", "a"))
	r.now += beat
	r.do("b")
	require.Len(t, mail[*AppendEntries](r, "b", "a"), 1)
	r.do("b", appendLost{"a", 3, errUnreachableInRig})
	require.Empty(t, mail[*AppendEntries](r, "b", "a"))
	r.do("b", heartbeatAnswered{"a", 3, &HeartbeatResponse{Term: 3, Incarnation: r.node("a").incarnation}, nil})
	require.Len(t, mail[*AppendEntries](r, "b", "a"), 1)
}

// Entries that are not answered for long are sent again, on a new stream.
func TestUnansweredEntriesAreSentAgain(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	var resets []NodeID
	r.watch = func(_ *rigNode, _ step, w work) { resets = append(resets, w.resets...) }
	end := r.now + r.core("b").patience(r.core("b").peer("a"), entrySize(0)) // for the no-op
	for ; r.now < end; r.now += beat {
		for _, id := range []NodeID{"a", "c"} {
			r.do("b", heartbeatAnswered{id, 3, &HeartbeatResponse{Term: 3, Incarnation: r.node(id).incarnation}, nil})
		}
		require.Empty(t, mail[*AppendEntries](r, "b", "a"), "at %v", r.now)
	}
	require.Empty(t, resets)
	r.do("b")
	require.Equal(t, []NodeID{"a", "c"}, resets)
	again := mail[*AppendEntries](r, "b", "a")
	require.Len(t, again, 1)
	require.Equal(t, Index(2), again[0].PrevLogIndex, "it is asked again where it was asked before")
}

// What is committed is announced at once to a follower that has nothing else
// to be sent.
func TestCommitIsAnnouncedAtOnce(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	now := r.now
	r.propose("a", "x")
	r.settle()
	require.Equal(t, now, r.now)
	for _, id := range r.ids {
		require.Equal(t, Index(3), r.core(id).commitIndex)
	}
	require.Empty(t, r.table, "and then there is silence")
}

// A follower that restarts in an idle cluster learns what is committed.
func TestRestartedFollowerLearnsTheCommitIndex(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.propose("a", "x")
	r.settle()
	r.restart("b")
	require.Less(t, r.core("b").commitIndex, Index(3), "it is not saved on its own")
	r.pass(beat)
	require.Equal(t, Index(3), r.core("b").commitIndex)
}

// The late end of a write says nothing about what has replaced its entries.
func TestLateWriteDoesNotAcknowledgeWhatReplacedIt(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1", term: 2})
	r.stall("b")
	send := func(from NodeID, term Term, entries Entries) *given {
		return r.ask(from, "b", &AppendEntries{Term: term, PrevLogIndex: 1, PrevLogTerm: 1, Entries: entries})
	}
	send("a", 2, r.tail("1 2 2", 2))
	third := send("c", 3, entry(2, 3))
	r.finishWrite("b") // of 2@2 and 3@2
	require.Equal(t, Index(1), r.core("b").log.durable)
	require.False(t, third.done)
	fourth := send("a", 4, entry(2, 2)) // a leads again, and has 2@2 still
	require.Equal(t, "1 2", r.terms("b"))
	r.finishWrite("b") // of 2@3, and term 3
	require.Equal(t, Index(1), r.core("b").log.durable)
	require.False(t, fourth.done)
	r.finishWrite("b")
	require.Equal(t, Index(2), answerOf[*AppendResponse](r, fourth).Match)
	require.False(t, answerOf[*AppendResponse](r, third).Success, "it was another leader's")
	require.Equal(t, "1 2", r.saved("b"))
}

// A vote request that waits for the disk does not outlive its candidacy.
func TestVoteRequestDoesNotOutliveItsCandidacy(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	r.stall("b")
	r.ask("a", "b", &AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1, Entries: entry(3, 2)})
	r.now += wait / 2
	r.timeOut("b")
	r.grant("b")
	require.Equal(t, Candidate, r.core("b").role)
	r.take("b", "c")
	r.ask("c", "b", &AppendEntries{Term: 3, PrevLogIndex: 2, PrevLogTerm: 1, Entries: entry(3, 3)})
	r.resume("b")
	require.Empty(t, mail[*VoteRequest](r, "b", "c"))
	require.Equal(t, "1 1 3", r.saved("b"))
}

// Proposals wait in their queue while too much is not applied.
func TestUnappliedEntriesHoldBackProposals(t *testing.T) {
	r := newRig(t, "a")
	r.queue = 200
	r.start("a")
	r.settle()
	r.node("a").slow = true
	require.Positive(t, r.node("a").driver.proposalRoom())
	r.propose("a", strings.Repeat("x", 300))
	r.settle()
	require.LessOrEqual(t, r.node("a").driver.proposalRoom(), 0)
	r.node("a").slow = false
	r.settle()
	require.Positive(t, r.node("a").driver.proposalRoom())
	r.propose("a")
	require.Equal(t, Index(3), r.core("a").log.last(), "an empty batch is nothing")
}

// A failure of a goroutine stops the node with its cause.
func TestFailureStopsTheNode(t *testing.T) {
	r := newCluster(t, "a b c")
	r.do("a", failed{errUnreachableInRig})
	require.Equal(t, errUnreachableInRig, r.node("a").failure)
}

// Times of the rig fit the configuration that nodes accept.
func TestRigTimesAreValid(t *testing.T) {
	config := newRig(t, "a").founding("a")
	config.Storage, config.HeartbeatInterval, config.ElectionTimeout = NewMemoryStorage(), beat, wait
	require.NoError(t, config.withDefaults().validate())
	require.Equal(t, 5*wait, config.withDefaults().DiskStallLimit)
	require.Equal(t, 500*time.Millisecond, wait)
}

// An answer to what was asked in another term says nothing about this one.
func TestAnswersOfAnotherTermDoNotCount(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	r.finishWrite("b")
	p := r.core("b").peer("a")
	before := *p
	r.now += beat / 2
	for _, term := range []Term{1, 2} {
		success := &AppendResponse{Term: term, Success: true, Match: 3, Incarnation: r.node("a").incarnation}
		refusal := &AppendResponse{Term: term, PrevLogIndex: 2, Incarnation: r.node("a").incarnation}
		beaten := &HeartbeatResponse{Term: term, Incarnation: r.node("a").incarnation}
		for _, asked := range []Term{term, 3} { // the second, as if it had come on the wrong call
			r.do("b", appendAnswered{"a", asked, success}, appendAnswered{"a", asked, refusal}, heartbeatAnswered{"a", asked, beaten, nil})
		}
	}
	r.do("b", heartbeatAnswered{"a", 2, nil, errUnreachableInRig})
	now := appendAnswered{"a", 2, &AppendResponse{Term: 3, Success: true, Match: 3, Incarnation: r.node("a").incarnation}}
	r.do("b", now, heartbeatAnswered{"a", 2, &HeartbeatResponse{Term: 3, Incarnation: r.node("a").incarnation}, nil})
	require.Equal(t, before, *p)
	require.Zero(t, r.core("b").commitIndex)
	now.term = 3
	r.do("b", now)
	require.Equal(t, Index(3), r.core("b").commitIndex)
}

// Answers to entries come in the order of the entries; heartbeats pass them.
func TestAppendAnswersKeepTheirOrder(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	r.stall("b")
	first := r.ask("a", "b", &AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1, Entries: entry(3, 2)})
	second := r.ask("a", "b", &AppendEntries{Term: 2, PrevLogIndex: 9, PrevLogTerm: 2})
	require.True(t, r.ask("a", "b", &Heartbeat{Term: 2}).done, "which waits for no disk")
	require.False(t, first.done)
	require.False(t, second.done, "though it promises nothing that is not durable")
	r.resume("b")
	require.True(t, first.done)
	require.False(t, answerOf[*AppendResponse](r, second).Success)
}

// A pre-vote for an earlier term may have come from a voter whose log has grown
// since.
func TestPreVoteOfAnEarlierTermDoesNotCount(t *testing.T) {
	r := inRole(t, PreCandidate)
	late := voteAnswered{"a", 3, true, &VoteResponse{Term: 2, VoteGranted: true, PreVote: true, Incarnation: r.node("a").incarnation}, nil}
	r.askHeartbeat("c", "b", Heartbeat{Term: 3})
	r.now += wait
	r.timeOut("b")
	r.do("b", late)
	require.Equal(t, PreCandidate, r.core("b").role)
	r.grantFrom("b", "a")
	require.Equal(t, Candidate, r.core("b").role)
}

// A peer of another make may tell no incarnation: what it says counts, and does
// not stand against what it tells later.
func TestPeerThatTellsNoIncarnationCounts(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("a", at{log: "1", term: 1, commit: 1})
	r.timeOut("a")
	r.do("a", voteAnswered{"b", 2, true, &VoteResponse{Term: 1, VoteGranted: true, PreVote: true}, nil})
	require.Equal(t, Candidate, r.core("a").role)
	r.do("a", voteAnswered{"b", 2, false, &VoteResponse{Term: 2, VoteGranted: true, Incarnation: r.node("b").incarnation}, nil})
	r.settle()
	require.Equal(t, Leader, r.core("a").role)
}
