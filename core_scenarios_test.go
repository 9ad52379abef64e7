package raft

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What went wrong in other implementations, and must not here. The letters and
// numbers name the hazards: E elections, P partial connectivity, L log, C
// commit, W wrong peers, N network, D disk, A callers.

// E1: a vote leaves before it is durable, and is forgotten by a crash.
func TestE1VoteIsNotForgottenByACrash(t *testing.T) {
	for _, written := range []bool{false, true} {
		t.Run(fmt.Sprintf("write ended %v", written), func(t *testing.T) {
			r := newRig(t, "a b c")
			r.startAt("b", at{log: "1 1", term: 5})
			r.stall("b")
			request := VoteRequest{Term: 6, LastLogIndex: 2, LastLogTerm: 1}
			toA := r.ask("a", "b", &request)
			if written {
				r.crashAfterWrite("b")
			} else {
				r.crash("b")
			}
			require.False(t, toA.done)
			r.restart("b")
			r.now += wait
			require.Equal(t, !written, r.askVote("c", "b", request).VoteGranted)
		})
	}
}

// E5: a vote is forgotten without a change of term.
func TestE5VoteLastsAsLongAsItsTerm(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1", term: 5})
	request := VoteRequest{Term: 6, LastLogIndex: 2, LastLogTerm: 1}
	require.True(t, r.askVote("a", "b", request).VoteGranted)
	refused := func(when string) {
		require.Equal(t, NodeID("a"), r.core("b").votedFor, when)
		r.now += wait // nobody is heard from
		forced := request
		forced.Transfer = true
		require.Equal(t, RefusalVoted, r.askVote("c", "b", forced).Refusal, when)
		require.Equal(t, RefusalVoted, r.askVote("c", "b", request).Refusal, when)
	}
	refused("after the vote")
	r.askHeartbeat("a", "b", Heartbeat{Term: 6})
	refused("after it followed the winner and lost it")
	r.timeOut("b")
	require.Equal(t, PreCandidate, r.core("b").role)
	refused("as a pre-candidate")
	r.askHeartbeat("a", "b", Heartbeat{Term: 6})
	require.Equal(t, Follower, r.core("b").role)
	refused("after it fell back to follower")
	require.True(t, r.askVote("a", "b", VoteRequest{Term: 6, LastLogIndex: 2, LastLogTerm: 1, Transfer: true}).VoteGranted, "the same vote again")
	refused("after a transfer")
	r.restart("b")
	r.now += wait
	refused("after a restart")
}

// E7: a vote that was granted in an earlier term is counted in a later one.
func TestE7VoteOfAnEarlierTermDoesNotCount(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("a", at{log: "1", term: 1})
	r.timeOut("a")
	r.grantFrom("a", "b")
	r.finishWrite("a")
	require.Equal(t, Term(2), r.core("a").currentTerm)
	late := voteAnswered{"b", 2, false, &VoteResponse{Term: 2, VoteGranted: true, Incarnation: r.node("b").incarnation}, nil}
	r.now = r.core("a").electionDeadline
	r.do("a")
	r.grantFrom("a", "b")
	r.finishWrite("a")
	require.Equal(t, Candidate, r.core("a").role)
	require.Equal(t, Term(3), r.core("a").currentTerm)
	r.do("a", late)
	require.Equal(t, Candidate, r.core("a").role)
	late.term = 3 // as if it had come on the wrong call
	r.do("a", late)
	require.Equal(t, Candidate, r.core("a").role)
	r.table = nil
	r.startAt("b", at{log: "1", term: 3, vote: "b"})
	r.startAt("c", at{log: "1", term: 3})
	r.elect("b")
}

// E9: a vote that is delivered several times makes a majority.
func TestE9RepeatedVoteCountsOnce(t *testing.T) {
	r := newRig(t, "a b c d e")
	r.startAt("a", at{log: "1", term: 1})
	r.timeOut("a")
	for range 3 {
		r.grantFrom("a", "b")
	}
	require.Equal(t, PreCandidate, r.core("a").role)
	r.grantFrom("a", "c")
	r.finishWrite("a")
	for range 3 {
		r.grantFrom("a", "b")
	}
	require.Equal(t, Candidate, r.core("a").role)
	r.do("a", voteAnswered{"a", 2, false, &VoteResponse{Term: 2, VoteGranted: true, Incarnation: r.node("a").incarnation}, nil})
	require.Equal(t, Candidate, r.core("a").role, "nor does its own count twice")
}

// E10: terms and indexes are compared each on their own.
func TestE10UpToDateIsTermFirstThenIndex(t *testing.T) {
	for _, c := range []struct {
		voter string
		index Index
		term  Term
		grant bool
	}{
		{"1 1", 1, 2, true},
		{"1 1 2", 5, 1, false},
		{"1 1 2", 3, 2, true},
		{"1 1 2", 2, 2, false},
	} {
		r := newRig(t, "a b c")
		r.startAt("b", at{log: c.voter, term: 3})
		response := r.askVote("a", "b", VoteRequest{Term: 4, LastLogIndex: c.index, LastLogTerm: c.term})
		require.Equal(t, c.grant, response.VoteGranted, "%s against %d@%d", c.voter, c.index, c.term)
	}
}

// E11: a later term in the answer to a heartbeat is not read, and renews the
// contact.
func TestE11LaterTermInAHeartbeatAnswerEndsTheLeadership(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	term := r.core("a").currentTerm
	r.disconnect("a", "b")
	r.hold("a", "c")
	r.hold("c", "a")
	r.now += wait - 1 // a leads on, just so
	for _, id := range []NodeID{"b", "c"} {
		r.core(id).leaderContact = 0
	}
	r.timeOut("b")
	r.settle()
	require.Equal(t, Leader, r.core("b").role)
	require.Equal(t, Leader, r.core("a").role)
	contact := r.core("a").peer("c").contact
	r.take("c", "a") // older answers
	r.do("a", heartbeatAnswered{"c", term, &HeartbeatResponse{Term: term, Incarnation: r.node("c").incarnation + 1}, nil})
	require.Equal(t, contact, r.core("a").peer("c").contact, "an answer from another disk is no contact")
	p := r.core("a").peer("c")
	r.do("a", heartbeatAnswered{"c", term, &HeartbeatResponse{Term: term + 1, Incarnation: r.node("c").incarnation}, nil})
	require.Equal(t, Follower, r.core("a").role)
	require.Equal(t, contact, p.contact)
	require.Equal(t, term+1, r.core("a").currentTerm)
}

// E13: the election wait starts anew without a vote being granted, so that a
// stale candidate keeps good ones from campaigning.
func TestE13StaleCandidateDoesNotHoldUpTheOthers(t *testing.T) {
	for seed := range uint64(10) {
		r := newRig(t, "a b c")
		r.seed = seed
		r.startAt("b", at{log: "1 1 1 1", term: 2})
		r.startAt("c", at{log: "1", term: 2})
		end := r.now + 3*wait
		for r.core("b").role != Leader {
			require.Less(t, r.now, end, "seed %d\n%s", seed, r)
			r.pass(wait / 2)
			if r.core("b").role != Leader {
				term := r.core("c").currentTerm + 1
				r.ask("c", "b", &VoteRequest{Term: term, LastLogIndex: 1, LastLogTerm: 1, PreVote: true})
				r.ask("c", "b", &VoteRequest{Term: term, LastLogIndex: 1, LastLogTerm: 1})
			}
		}
	}
}

// E15: a leader grants a vote when heartbeats are as rare as elections. Such a
// configuration is refused; and a leader does not grant.
func TestE15HeartbeatsAsRareAsElectionsAreRefused(t *testing.T) {
	config := NewConfig("a", "a", map[NodeID]string{"a": "a"})
	config.Storage = NewMemoryStorage()
	config.HeartbeatInterval, config.ElectionTimeout = wait, wait
	_, err := NewNode(config, &rigMachine{}, NewMemoryNetwork().Transport("a"))
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "ElectionTimeout")

	r := leading(t, at{log: "1 1", term: 2})
	for _, pre := range []bool{true, false} {
		require.Equal(t, RefusalHasLeader, r.askVote("a", "b", VoteRequest{Term: 4, LastLogIndex: 5, LastLogTerm: 3, PreVote: pre}).Refusal)
	}
	require.Equal(t, Leader, r.core("b").role)
}

// lateBy makes messages take a random time.
func (r *rig) lateBy(most time.Duration) {
	random := chance(r.seed)
	r.late = func() time.Duration { return time.Duration(random.Int64N(int64(most))) }
}

// P1a: of three nodes two cannot see each other, and elections never end.
func TestP1ThreeNodesWithOneLinkCutSettle(t *testing.T) {
	for seed := range uint64(12) {
		r := newCluster(t, "a b c")
		r.seed = seed
		r.elect("a")
		r.lateBy(beat / 2)
		term := r.core("a").currentTerm
		r.disconnect("a", "b")
		r.requireStable(term, 2)
	}
}

// P1b: of five nodes two see only one other each.
func TestP1FiveNodesInAChainSettle(t *testing.T) {
	for seed := range uint64(6) {
		r := newCluster(t, "a b c d e")
		r.seed = seed
		r.elect("c")
		r.lateBy(beat / 2)
		term := r.core("c").currentTerm
		for _, cut := range []string{"da", "dc", "de", "ea", "eb"} {
			r.disconnect(NodeID(cut[:1]), NodeID(cut[1:]))
		}
		r.requireStable(term, 2)
		require.Equal(t, NodeID("c"), r.leader())
		require.Equal(t, term, r.core("d").currentTerm)
		require.Equal(t, term, r.core("e").currentTerm)
	}
}

// requireStable requires one leader within bound, and the same one for 50
// election timeouts, whose writes succeed.
func (r *rig) requireStable(term Term, grows Term) {
	r.pass(10 * wait)
	leader := r.leader()
	require.NotEmpty(r.t, leader)
	for range 50 {
		o := r.propose(leader, "x")[0]
		r.pass(wait)
		require.NoError(r.t, o.err)
		require.True(r.t, o.ended)
		require.Equal(r.t, leader, r.leader(), "seed %d", r.seed)
	}
	require.LessOrEqual(r.t, r.core(leader).currentTerm, term+grows)
}

// P2: a node that was cut off for long comes back and deposes the leader.
func TestP2ReturningNodeDisturbsNobody(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	term := r.core("a").currentTerm
	r.isolate("c")
	r.pass(100 * wait)
	require.Equal(t, term, r.core("c").currentTerm)
	require.Contains(t, r.reason("c"), "pre-vote")
	r.propose("a", "x")
	r.heal()
	r.pass(10 * wait)
	require.Equal(t, NodeID("a"), r.leader())
	require.Equal(t, term, r.core("a").currentTerm)
	r.requireEqual()
}

// P3: answers to pre-votes carry a stale term and are dropped, so a node that
// missed terms and one that is behind never find together.
func TestP3NodeOfAnEarlierTermHelpsToElect(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("a", at{log: "1 1 5", term: 5, vote: "b"})
	r.startAt("c", at{log: "1", term: 1})
	r.passUntil(10*wait, "a leads", func() bool { return r.leader() == "a" })
	r.pass(2 * beat)
	require.Equal(t, r.terms("a"), r.terms("c"))
}

// P5a: a leader that is heard but hears nobody goes on as if it led.
func TestP5LeaderThatHearsNobodyStepsDown(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.block("b", "a")
	r.block("c", "a")
	o := r.propose("a", "x")[0]
	r.passUntil(2*wait, "a steps down", func() bool { return r.core("a").role != Leader })
	require.ErrorIs(t, o.err, ErrOutcomeUnknown)
	r.passUntil(10*wait, "the others elect one", func() bool { return r.leader() != "" && r.leader() != "a" })
	r.heal()
	r.requireHealthy()
}

// P5b: a leader that hears but is not heard.
func TestP5LeaderThatIsNotHeardStepsDown(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.block("a", "b")
	r.block("a", "c")
	r.passUntil(10*wait, "the others elect one", func() bool { return r.leader() != "" && r.leader() != "a" })
	r.pass(beat)
	require.Equal(t, Follower, r.core("a").role)
	require.Equal(t, r.leader(), r.core("a").leader)
	r.heal()
	r.requireHealthy()
}

// L1: late entries remove those that followed them.
func TestL1LateEntriesRemoveNothing(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1", term: 1})
	first := AppendEntries{Term: 1, PrevLogIndex: 1, PrevLogTerm: 1, Entries: entry(2, 1)}
	both := AppendEntries{Term: 1, PrevLogIndex: 1, PrevLogTerm: 1, Entries: r.tail("1 1 1", 2)}
	require.Equal(t, Index(3), r.askAppend("a", "b", both).Match)
	r.askHeartbeat("a", "b", Heartbeat{Term: 1, Commit: 3})
	require.Equal(t, Index(3), r.core("b").commitIndex)
	require.Equal(t, Index(2), r.askAppend("a", "b", first).Match)
	require.Equal(t, "1 1 1", r.terms("b"))
	require.Equal(t, Index(1), r.askAppend("a", "b", AppendEntries{Term: 1, PrevLogIndex: 1, PrevLogTerm: 1}).Match)
	require.Equal(t, "1 1 1", r.terms("b"))
	require.Equal(t, "1 1 1", r.saved("b"))
}

// L2: the leader's commit index is taken for entries that were not verified.
func TestL2CommitIndexNeedsVerifiedEntries(t *testing.T) {
	for _, same := range []bool{true, false} { // whether b was in term 2 before
		term := Term(1)
		if same {
			term = 2
		}
		r := newRig(t, "a b c")
		r.startAt("b", at{log: "1 1 1", term: term})
		response := r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1, LeaderCommit: 3})
		require.Equal(t, Index(2), response.Match)
		require.Equal(t, Index(2), r.core("b").commitIndex)
		r.askHeartbeat("a", "b", Heartbeat{Term: 2, Commit: 3})
		require.Equal(t, Index(2), r.core("b").commitIndex)
	}
}

// L2 for a candidate that loses: what an earlier leader had verified says
// nothing about the winner's log.
func TestL2CandidateForgetsWhatWasVerified(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1", term: 2})
	r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 1, PrevLogTerm: 1, Entries: r.tail("1 2 2", 2)})
	r.now += 2 * wait
	r.timeOut("b")
	r.grantFrom("b", "c")
	r.finishWrite("b")
	require.Equal(t, Term(3), r.core("b").currentTerm)
	r.askHeartbeat("c", "b", Heartbeat{Term: 3, Commit: 3})
	require.Equal(t, NodeID("c"), r.core("b").leader)
	require.Zero(t, r.core("b").commitIndex)
}

// L3: a follower acknowledges its own last index instead of what was verified.
func TestL3OnlyWhatWasVerifiedIsAcknowledged(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("a", at{log: "1 1", term: 1})
	r.startAt("b", at{log: "1 1 1", term: 1})
	r.hold("a", "b")
	r.crown("a")
	require.Equal(t, "1 1 2", r.terms("a"))
	r.finishWrite("a")
	response := r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1})
	r.do("a", appendAnswered{"b", 2, response})
	require.Equal(t, Index(2), r.core("a").peer("b").match)
	require.Zero(t, r.core("a").commitIndex)
	r.release("a", "b")
	r.settle()
	require.Equal(t, Index(3), r.core("a").commitIndex)
	require.Equal(t, "1 1 2", r.terms("b"))
}

// L6: followers with the logs of figure 7 of the paper come to the leader's.
func TestL6LogsOfFigure7Converge(t *testing.T) {
	leader := "1 1 1 4 4 5 5 6 6 6"
	for name, log := range map[string]string{
		"a, short by one":       "1 1 1 4 4 5 5 6 6",
		"b, short by six":       "1 1 1 4",
		"c, long by one":        "1 1 1 4 4 5 5 6 6 6 6",
		"d, long by two":        "1 1 1 4 4 5 5 6 6 6 7 7",
		"e, terms missing":      "1 1 1 4 4 4 4",
		"f, terms in the way":   "1 1 1 2 2 2 3 3 3 3 3",
		"same":                  leader,
		"nothing":               "1",
		"g, everything but one": "1 2 2 2 2 2 2 2 2 2 2 2 2 2",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "a b c")
			r.startAt("a", at{log: leader, term: 7, commit: 1})
			r.startAt("b", at{log: log, term: 7, commit: 1})
			r.crown("a")
			r.settle()
			require.Equal(t, leader+" 8", r.terms("b"))
			require.Equal(t, Index(11), r.core("b").commitIndex)
			require.LessOrEqual(t, r.rejections("b"), distinct(leader, log)+2)
		})
	}
}

func (r *rig) rejections(id NodeID) int {
	n := 0
	for _, note := range r.nodes[id].notes {
		if note.action == "reject entries" {
			n++
		}
	}
	return n
}

func distinct(logs ...string) int {
	terms := map[string]bool{}
	for _, log := range logs {
		for _, term := range strings.Fields(log) {
			terms[term] = true
		}
	}
	return len(terms)
}

// L6: long conflicting tails are found in a few rounds, not one per entry.
func TestL6LongConflictTakesFewRounds(t *testing.T) {
	tail := func(terms ...string) string {
		var b strings.Builder
		b.WriteString("1")
		for _, term := range terms {
			b.WriteString(strings.Repeat(" "+term, 100))
		}
		return b.String()
	}
	for _, logs := range [][2]string{
		{tail("3"), tail("2")},
		{tail("3", "5", "7"), tail("2", "4", "6")},
		{tail("2", "4", "6", "8"), tail("2", "3", "5", "7", "7")},
	} {
		r := newRig(t, "a b c")
		r.startAt("a", at{log: logs[0], term: 8, commit: 1})
		r.startAt("b", at{log: logs[1], term: 8, commit: 1})
		r.crown("a")
		r.settle()
		require.Equal(t, logs[0]+" 9", r.terms("b"))
		require.LessOrEqual(t, r.rejections("b"), distinct(logs[0], logs[1])+2)
	}
}

// L7: entries below the commit index arrive late.
func TestL7LateEntriesBelowTheCommitIndexAreHarmless(t *testing.T) {
	r := newRig(t, "a b c")
	log := "1 1 1 1 1 1 1 1 1 1 2 2"
	r.startAt("b", at{log: log, term: 2, commit: 10})
	r.settle()
	r.node("b").machine.commands = nil
	response := r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 7, PrevLogTerm: 1, Entries: MakeEntries(r.logEntries(log)[7:11]...)})
	require.True(t, response.Success)
	require.Equal(t, Index(11), response.Match)
	response = r.askAppend("a", "b", AppendEntries{Term: 2, Entries: r.log("1")})
	require.True(t, response.Success)
	require.Equal(t, Index(1), response.Match)
	require.Equal(t, log, r.terms("b"))
	require.Equal(t, Index(10), r.core("b").commitIndex)
	r.settle()
	require.Empty(t, r.node("b").machine.commands)
	require.Nil(t, r.node("b").saving)
}

// L10: packing by size leaves entries out.
func TestL10BatchesHaveNoGaps(t *testing.T) {
	const limit = 1000
	for _, oneBatch := range []bool{true, false} {
		r := newRig(t, "a b c")
		r.tune = func(s *coreSettings) { s.maxBatchBytes = limit }
		r.startAt("a", at{log: "1", term: 1})
		r.crown("a")
		r.acknowledge("a", "b", 2)
		var commands []string
		full := limit - (entrySize(limit) - limit) // the command that fills a batch
		for _, size := range []int{1, full - 1, full, full + 1, 1} {
			commands = append(commands, strings.Repeat("x", size))
		}
		mail[*AppendEntries](r, "a", "b")
		if oneBatch {
			r.propose("a", commands...)
		} else {
			for _, command := range commands {
				r.propose("a", command)
			}
		}
		next := Index(3)
		for _, m := range mail[*AppendEntries](r, "a", "b") {
			require.NoError(t, m.valid())
			require.Equal(t, next-1, m.PrevLogIndex)
			require.Equal(t, next, m.Entries.First())
			require.NotZero(t, m.Entries.Len())
			require.True(t, m.Entries.Size() <= limit || m.Entries.Len() == 1, "%d bytes", m.Entries.Size())
			next += Index(m.Entries.Len())
		}
		require.Equal(t, Index(8), next)
	}
}

// L10: a follower writes nothing of a batch with a gap.
func TestL10BatchWithAGapIsRefused(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1", term: 1})
	answer := r.ask("a", "b", &AppendEntries{Term: 1, PrevLogIndex: 2, PrevLogTerm: 1, Entries: entry(4, 1)})
	require.ErrorIs(t, answer.err, ErrInvalidMessage)
	require.Equal(t, "1 1", r.terms("b"))
	require.True(t, r.up("b"))
}

// L12: a message for another node is taken for one's own.
func TestL12MessageForAnotherNodeIsRefused(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("c", at{log: "1 1", term: 2})
	heartbeat := &Heartbeat{Term: 9, Commit: 99}
	r.fillHeader("a", "b", heartbeat)
	var refusal error
	r.do("c", heartbeatArrived{heartbeat, func(_ any, err error) { refusal = err }})
	require.ErrorIs(t, refusal, ErrWrongNode)
	require.Equal(t, Term(2), r.core("c").currentTerm)
	require.Zero(t, r.core("c").commitIndex)
	require.Contains(t, r.reason("c"), "a is turned away: request for another node: ")

	r.fillHeader("a", "c", heartbeat)
	heartbeat.Fingerprint[0]++
	r.do("c", heartbeatArrived{heartbeat, func(_ any, err error) { refusal = err }})
	require.ErrorIs(t, refusal, ErrWrongCluster)
	heartbeat.Fingerprint[0]--
	heartbeat.Group = 1
	r.do("c", heartbeatArrived{heartbeat, func(_ any, err error) { refusal = err }})
	require.ErrorIs(t, refusal, ErrWrongCluster)

	for _, from := range []NodeID{"c", "", "."} {
		r.fillHeader(from, "c", heartbeat)
		r.do("c", heartbeatArrived{heartbeat, func(_ any, err error) { refusal = err }})
		require.ErrorIs(t, refusal, ErrWrongNode, "from %q", from)
	}
	require.Equal(t, uint64(6), r.node("c").driver.status(r.now).Refused)
	require.Equal(t, Term(2), r.core("c").currentTerm)
}

// L13: the tail of a deposed leader is taken for replicated.
func TestL13TailOfADeposedLeaderIsNotAcknowledged(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("a", at{log: "1 1 1 1 2", term: 2})
	r.startAt("b", at{log: "1 1 1 1 2 2 2", term: 2})
	r.hold("b", "a")
	r.crown("a")
	r.settle()
	require.Equal(t, "1 1 1 1 2 3", r.terms("b"))
	for _, response := range mail[*AppendResponse](r, "b", "a") {
		require.LessOrEqual(t, response.Match, Index(6))
	}
}

// C1: figure 8 of the paper: an entry of an earlier term is committed by
// counting, and then overwritten.
func TestC1EntryOfAnEarlierTermIsNotCommittedByCounting(t *testing.T) {
	for _, own := range []bool{false, true} {
		r := newRig(t, "a b c d e")
		r.startAt("a", at{log: "1 2", term: 3, commit: 1})
		r.startAt("b", at{log: "1 2", term: 3, commit: 1})
		r.startAt("c", at{log: "1", term: 3, commit: 1})
		r.startAt("d", at{log: "1", term: 3, commit: 1})
		r.startAt("e", at{log: "1 3", term: 3, vote: "e", commit: 1})
		r.isolate("e")
		r.disconnect("a", "d")
		for _, other := range []NodeID{"b", "c"} {
			r.hold("a", other)
		}
		r.crown("a")
		require.Equal(t, Term(4), r.core("a").currentTerm)
		r.finishWrite("a")
		for _, other := range []NodeID{"b", "c"} { // 2@2 reaches a majority, nothing of term 4 does
			r.do("a", appendAnswered{other, 4, r.askAppend("a", other, AppendEntries{Term: 4, PrevLogIndex: 1, PrevLogTerm: 1, Entries: entry(2, 2)})})
		}
		require.Equal(t, Index(1), r.core("a").commitIndex)
		for _, id := range r.ids {
			require.NotContains(t, r.node(id).machine.commands, "2@2")
		}
		if own {
			r.release("a", "b")
			r.release("a", "c")
			r.settle()
			require.Equal(t, Index(3), r.core("a").commitIndex)
			r.heal()
			r.requireHealthy()
			require.Equal(t, "2@2", r.commands[0])
			continue
		}
		r.isolate("a")
		r.crash("a")
		r.heal()
		r.timeOut("e")
		r.settle()   // it learns of term 4
		r.elect("e") // which has 2@3 and may win
		r.restart("a")
		r.requireHealthy()
		require.Equal(t, "2@3", r.commands[0])
	}
}

// C2: counting stops at the first entry of an earlier term.
func TestC2OwnEntryCommitsThoseBeforeIt(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1", term: 1})
	r.crown("b")
	r.finishWrite("b")
	require.Zero(t, r.core("b").commitIndex)
	r.acknowledge("b", "c", 2)
	require.Equal(t, Index(2), r.core("b").commitIndex)
}

// C3: the commit index goes back under a leader that knows less.
func TestC3CommitIndexNeverFalls(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("a", at{log: "1 1", term: 1, commit: 2})
	r.askHeartbeat("b", "a", Heartbeat{Term: 2, Commit: 1})
	r.askAppend("b", "a", AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1, Entries: entry(3, 2), LeaderCommit: 1})
	r.askAppend("b", "a", AppendEntries{Term: 2, PrevLogIndex: 9, PrevLogTerm: 2})
	require.Equal(t, Index(2), r.core("a").commitIndex)
}

// C4a: a sole voter commits before its own write has ended.
func TestC4SoleVoterCommitsAfterItsOwnWrite(t *testing.T) {
	r := newCluster(t, "a")
	r.settle()
	r.pass(beat)
	require.Equal(t, Leader, r.core("a").role)
	r.stall("a")
	o := r.propose("a", "x")[0]
	r.settle()
	require.False(t, o.ended)
	require.Empty(t, r.node("a").machine.commands)
	r.resume("a")
	require.NoError(t, o.err)
	require.Equal(t, []string{"x"}, r.node("a").machine.commands)
	r.stall("a")
	lost := r.propose("a", "y")[0]
	r.restart("a")
	r.pass(beat)
	require.Equal(t, Leader, r.core("a").role, "it needs nobody and waits for nobody")
	require.False(t, lost.ended)
	require.Equal(t, []string{"x"}, r.node("a").machine.commands)
}

// C4b, C4c: a leader counts itself as far as its own disk has got.
func TestC4LeaderCountsItselfAfterItsOwnWrite(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.stall("a")
	o := r.propose("a", "x")[0]
	r.settle()
	require.True(t, o.ended, "b and c have it")
	require.NoError(t, o.err)
	r.crash("a")
	r.elect("b")
	require.Contains(t, r.node("b").machine.commands, "x")

	r = newCluster(t, "a b c")
	r.elect("a")
	r.stall("a")
	r.stall("c")
	o = r.propose("a", "x")[0]
	r.pass(2 * beat)
	require.False(t, o.ended, "only b has it")
	require.Contains(t, r.reason("a"), "this node's disk has them up to")
	r.resume("c")
	require.True(t, o.ended)
}

// C6: whoever answers is counted, whether it is a voter or not.
func TestC6OnlyVotersAreCounted(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	r.finishWrite("b")
	for _, stranger := range []NodeID{"x", "y", "z"} {
		r.do("b", appendAnswered{stranger, 3, &AppendResponse{Term: 3, Success: true, Match: 3, Incarnation: 7}})
		r.do("b", heartbeatAnswered{stranger, 3, &HeartbeatResponse{Term: 3, Incarnation: 7}, nil})
		r.do("b", voteAnswered{stranger, 3, false, &VoteResponse{Term: 3, VoteGranted: true, Incarnation: 7}, nil})
	}
	require.Zero(t, r.core("b").commitIndex)
	r.now += wait
	r.do("b", heartbeatAnswered{"x", 3, &HeartbeatResponse{Term: 3, Incarnation: 7}, nil})
	require.Equal(t, Follower, r.core("b").role, "its voters do not answer")

	r = newCluster(t, "a b c")
	r.elect("a")
	r.isolate("b")
	r.isolate("c")
	committed := r.core("a").commitIndex
	r.propose("a", "x")
	r.pass(wait / 2)
	require.Equal(t, committed, r.core("a").commitIndex)
	require.Contains(t, r.reason("a"), "wait for 2 of 3 members")
	require.Contains(t, r.reason("a"), errUnreachableInRig.Error())
}

// W6: a commit index beyond the log.
func TestW6CommitIndexBeyondTheLogIsClipped(t *testing.T) {
	for _, log := range []string{"1 1 2", "1 1", "1"} {
		r := newRig(t, "a b c")
		r.startAt("b", at{log: log, term: 2})
		r.askHeartbeat("a", "b", Heartbeat{Term: 2, Commit: 99})
		require.True(t, r.up("b"))
		require.LessOrEqual(t, r.core("b").commitIndex, r.core("b").log.last())
		if r.core("b").log.lastTerm() < 2 {
			require.Zero(t, r.core("b").commitIndex, "none of it is known to be the leader's")
		}
	}
}

// W6: a leader that has lost what was committed is not followed into it.
func TestW6LeaderThatLostCommittedEntriesStopsTheFollower(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1 2", term: 2, commit: 3})
	// In one batch with what raises the term: the answer must not be lost in it.
	append := &AppendEntries{Term: 3, PrevLogIndex: 1, PrevLogTerm: 1, Entries: entry(2, 3)}
	r.fillHeader("a", "b", append)
	later := &AppendEntries{Term: 4, PrevLogIndex: 1, PrevLogTerm: 1}
	r.fillHeader("c", "b", later)
	var refusal error
	r.do("b",
		appendArrived{append, func(_ any, err error) { refusal = err }},
		appendArrived{later, func(any, error) {}})
	require.Error(t, refusal)
	require.False(t, r.up("b"))
	for _, words := range []string{"committed here", "leader a", "lost data"} {
		require.ErrorContains(t, r.node("b").failure, words)
	}
	require.Equal(t, "1 1 2", r.saved("b"))
}

// A node whose storage does not fit together does not start.
func TestW6StorageThatLostEntriesIsRefused(t *testing.T) {
	settings := coreSettings{id: "a", electionTimeout: wait}
	for _, state := range []StorageState{
		{HardState: HardState{Term: 2}, Commit: 3, Last: 2, Terms: []TermStart{{1, 1}}},
		{HardState: HardState{Term: 1}, Commit: 1, Last: 2, Terms: []TermStart{{1, 1}, {2, 2}}},
		{HardState: HardState{Term: 1}},
	} {
		_, err := newCore(settings, state, true, 1, 0)
		require.Error(t, err)
	}
}

// N10: entries of an old connection arrive after those of the new one.
func TestN10OldEntriesAfterNewOnes(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.hold("a", "b")
	for i := range 5 {
		r.propose("a", fmt.Sprint("old ", i))
	}
	old := r.remove(func(p *packet) bool { return p.link == link{"a", "b"} })
	r.release("a", "b")
	r.do("a", appendLost{"b", r.core("a").currentTerm, errors.New("connection reset")})
	r.pass(2 * beat)
	r.propose("a", "new")
	r.settle()
	r.requireEqual()
	for i := len(old) - 1; i >= 0; i-- {
		r.deliver(old[i])
		r.settle()
	}
	r.requireEqual()
	require.Len(t, r.commands, 6)
}

// D15: a leader whose disk hangs keeps its followers and gets nothing done.
func TestD15LeaderWithAHangingDiskStepsDown(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.stall("a")
	o := r.propose("a", "x")
	r.block("a", "b") // so that x stays uncommitted for a while
	r.pass(beat)
	r.pass(5*wait - beat - 1)
	require.Contains(t, r.reason("a"), "the disk has not answered")
	require.Equal(t, Leader, r.core("a").role)
	r.pass(beat)
	require.Equal(t, Follower, r.core("a").role)
	require.True(t, r.told("a", "step down"))
	r.heal()
	r.passUntil(10*wait, "another leader serves", func() bool { return r.leader() != "" && r.leader() != "a" })
	require.True(t, o[0].ended)
	fresh := r.propose(r.leader(), "y")[0]
	r.settle()
	require.NoError(t, fresh.err)
	r.resume("a")
	r.requireHealthy()
}

// D15: a short stall costs no leadership.
func TestD15ShortStallIsHarmless(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	term := r.core("a").currentTerm
	for range 5 {
		r.stall("a")
		o := r.propose("a", "x")[0]
		r.pass(wait - beat)
		r.resume("a")
		require.NoError(t, o.err)
		require.Equal(t, NodeID("a"), r.leader())
		require.Equal(t, term, r.core("a").currentTerm)
	}
}

// D15: a node whose disk hangs does not campaign.
func TestD15NodeWithAHangingDiskDoesNotCampaign(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1", term: 2})
	r.stall("b")
	r.ask("a", "b", &AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1, Entries: entry(3, 2)})
	r.pass(10 * wait)
	require.Equal(t, Follower, r.core("b").role)
	require.Empty(t, r.take("b", "a"))
	require.True(t, r.told("b", "do not campaign"))
	r.resume("b")
	r.pass(2 * wait)
	require.Equal(t, PreCandidate, r.core("b").role)
}

// A8: who waits for an entry that is overwritten gets the other entry's result.
func TestA8WaiterOfAnOverwrittenEntryLearnsThatItIsLost(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.isolate("a")
	mine := r.propose("a", "mine", "mine too")
	r.elect("b")
	theirs := r.propose("b", "theirs", "theirs too", "more")
	r.settle()
	require.NoError(t, theirs[0].err)
	r.heal()
	r.pass(2 * wait)
	for i, o := range mine {
		require.True(t, o.ended)
		var unknown *OutcomeUnknownError
		require.ErrorAs(t, o.err, &unknown)
		require.Equal(t, Index(3+i), unknown.Index)
		require.Equal(t, Term(2), unknown.Term)
		require.NotErrorIs(t, o.err, ErrNotAccepted)
		require.Zero(t, o.result)
	}
	require.Equal(t, []string{"theirs", "theirs too", "more"}, r.node("a").machine.commands)
	r.requireHealthy()
	refused := r.propose("a", "x")[0]
	if r.leader() != "a" {
		var notLeader *NotLeaderError
		require.ErrorAs(t, refused.err, &notLeader)
		require.Equal(t, NodeID("b"), notLeader.Leader)
		require.Equal(t, "b.example:1", notLeader.Address)
	}
}

// A8: what is committed when the leadership ends is answered with its result.
// One message may end the leadership, replace the entry and commit what stands
// in its place.
func TestA8WaiterOfAnEntryReplacedAndCommittedInOneStep(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	for _, other := range []NodeID{"b", "c"} {
		r.hold("a", other)
		r.hold(other, "a")
	}
	mine := r.propose("a", "mine")[0]
	r.settle()
	r.elect("b")
	theirs := r.propose("b", "theirs")[0]
	r.settle()
	require.NoError(t, theirs.err)
	require.Equal(t, Leader, r.core("a").role, "it has heard nothing of all this")
	b := r.core("b")
	require.GreaterOrEqual(t, b.commitIndex, Index(3))
	require.True(t, r.askAppend("b", "a", AppendEntries{
		Term: b.currentTerm, PrevLogIndex: 2, PrevLogTerm: 2, Entries: r.stored("b", 3), LeaderCommit: b.commitIndex,
	}).Success)
	r.settle()
	require.True(t, mine.ended)
	require.ErrorIs(t, mine.err, ErrOutcomeUnknown)
	require.NotErrorIs(t, mine.err, ErrNotAccepted)
	require.Equal(t, []string{"theirs"}, r.node("a").machine.commands)
}

func TestA8WaiterOfACommittedEntryGetsItsResult(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.node("a").slow = true
	committed := r.propose("a", "x", "y")
	r.settle()
	r.isolate("a")
	open := r.propose("a", "z")[0]
	r.pass(2 * wait)
	require.NotEqual(t, Leader, r.core("a").role)
	require.ErrorIs(t, open.err, ErrOutcomeUnknown)
	require.False(t, committed[0].ended)
	r.node("a").slow = false
	r.settle()
	require.NoError(t, committed[0].err)
	require.Equal(t, "did y", string(committed[1].result.Response))
}
