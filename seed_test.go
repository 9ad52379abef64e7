package raft

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The defects of the program that this library descends from, as tests.

// 1: a candidate of an earlier term gets the vote, whatever its log.
func TestSeedDefect01VoteForAnEarlierTermOrAShorterLog(t *testing.T) {
	r := follower(t, at{log: "1 1 3", term: 5, vote: "c"})
	require.False(t, r.askVote("a", "b", VoteRequest{Term: 4, LastLogIndex: 9, LastLogTerm: 4}).VoteGranted)
	require.Equal(t, NodeID("c"), r.core("b").votedFor)
	require.False(t, r.askVote("a", "b", VoteRequest{Term: 6, LastLogIndex: 9, LastLogTerm: 2}).VoteGranted, "a longer log of an earlier term")
	require.Empty(t, r.core("b").votedFor, "a new term: the old vote is over")
	require.True(t, r.askVote("a", "b", VoteRequest{Term: 6, LastLogIndex: 1, LastLogTerm: 4}).VoteGranted, "a shorter log of a later term")
}

// 2: a failed or won election forgets the vote, and votes are counted across
// elections.
func TestSeedDefect02VotesOutliveTheirElection(t *testing.T) {
	r := newRig(t, "a b c d e")
	r.startAt("b", at{log: "1", term: 1})
	r.timeOut("b")
	r.grant("b")
	r.finishWrite("b")
	r.grantFrom("b", "a")
	require.Equal(t, Candidate, r.core("b").role, "two of five")
	r.askHeartbeat("c", "b", Heartbeat{Term: 2})
	require.Equal(t, NodeID("b"), r.core("b").votedFor, "a lost election does not give the vote back")
	r.now += 2 * wait
	require.Equal(t, RefusalVoted, r.askVote("d", "b", VoteRequest{Term: 2, LastLogIndex: 1, LastLogTerm: 1}).Refusal)
	r.timeOut("b")
	r.grantFrom("b", "c")
	require.Equal(t, PreCandidate, r.core("b").role)
	r.grantFrom("b", "d")
	r.finishWrite("b")
	r.grantFrom("b", "c")
	require.Equal(t, Candidate, r.core("b").role, "a's vote was for another term")
	r.grantFrom("b", "d")
	require.Equal(t, Leader, r.core("b").role)
	require.Equal(t, NodeID("b"), r.core("b").votedFor, "a won one neither")
}

// 3: a heartbeat of any term succeeds, and sets the term back.
func TestSeedDefect03HeartbeatOfLowerTerm(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 5})
	response := r.askHeartbeat("a", "b", Heartbeat{Term: 4, Commit: 2})
	require.Equal(t, Term(5), response.Term, "which ends a's leadership")
	require.Equal(t, Term(5), r.core("b").currentTerm)
	require.Empty(t, r.core("b").leader)
	require.Zero(t, r.core("b").commitIndex)
}

// 4: heartbeats carry what was known at the election, and uncommitted entries
// as committed.
func TestSeedDefect04HeartbeatsCarryWhatIsCommittedNow(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2, commit: 1})
	r.crown("b")
	r.finishWrite("b")
	require.Zero(t, mail[*Heartbeat](r, "b", "a")[0].Commit)
	r.acknowledge("b", "a", 3)
	require.Equal(t, Index(3), r.core("b").commitIndex)
	r.now += beat
	r.do("b")
	require.Equal(t, Index(3), mail[*Heartbeat](r, "b", "a")[0].Commit)
	for _, m := range mail[*Heartbeat](r, "b", "c") {
		require.Zero(t, m.Commit, "c has acknowledged nothing")
	}
}

// 5: a deposed leader goes on sending.
func TestSeedDefect05DeposedLeaderFallsSilent(t *testing.T) {
	for name, request := range map[string]any{
		"heartbeat": &Heartbeat{Term: 9},
		"append":    &AppendEntries{Term: 9, PrevLogIndex: 2, PrevLogTerm: 1},
		"vote":      &VoteRequest{Term: 9, LastLogIndex: 9, LastLogTerm: 8, Transfer: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := leading(t, at{log: "1 1", term: 2})
			r.ask("a", "b", request)
			require.Equal(t, Follower, r.core("b").role)
			r.take("b", "a")
			r.take("b", "c")
			r.pass(wait - 1)
			require.Empty(t, r.take("b", "a"))
			require.Empty(t, r.take("b", "c"))
		})
	}
}

// 6: replication needs all followers.
func TestSeedDefect06OneOfTwoFollowersIsEnough(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.crash("b")
	o := r.propose("a", "x")[0]
	r.settle()
	require.NoError(t, o.err)
	require.True(t, o.ended)
}

// 7: the second command does not fit behind the first.
func TestSeedDefect07ManyCommandsOneAfterAnother(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	for _, command := range []string{"set", "get", "get again"} {
		o := r.propose("a", command)[0]
		r.settle()
		require.NoError(t, o.err)
		require.Equal(t, "did "+command, string(o.result.Response))
	}
	r.pass(beat)
	r.requireEqual()
}

// 8: several entries in one message end in one slot, the rest stays, and the
// commit index moves one by one.
func TestSeedDefect08ManyEntriesInOneMessage(t *testing.T) {
	r := follower(t, at{log: "1 1 2 2 2 2 2 2", term: 3})
	response := r.askAppend("a", "b", AppendEntries{Term: 3, PrevLogIndex: 2, PrevLogTerm: 1, Entries: r.tail("1 1 3 3 3", 3), LeaderCommit: 5})
	require.Equal(t, Index(5), response.Match)
	require.Equal(t, "1 1 3 3 3", r.terms("b"))
	require.Equal(t, Index(5), r.core("b").commitIndex)
}

// 9: a single node never wins, and a lost election ends the node.
func TestSeedDefect09SingleNodeLeads(t *testing.T) {
	r := newCluster(t, "a")
	r.settle()
	require.Equal(t, Leader, r.core("a").role)
	o := r.propose("a", "x")[0]
	r.settle()
	require.NoError(t, o.err)

	lonely := newCluster(t, "a b c")
	lonely.isolate("a")
	lonely.crash("b")
	lonely.pass(20 * wait)
	require.True(t, lonely.up("a"), "it goes on trying")
	require.NotEmpty(t, lonely.reason("a"))
}

// 10: two candidates wait for each other. Here nobody waits for an answer; that
// the event loop does not either is for the tests of the node.
func TestSeedDefect10TwoCandidatesAnswerEachOther(t *testing.T) {
	for seed := range uint64(20) {
		r := newRig(t, "a b c")
		r.seed = seed
		for _, id := range r.ids {
			r.start(id)
		}
		r.timeOut("a")
		r.timeOut("b")
		r.passUntil(10*wait, "one of them leads", func() bool { return r.leader() != "" })
	}
}

// 11: an unknown peer ends a task in a panic. Here an answer, a request or a
// loss from one says nothing and breaks nothing; sockets that cannot be bound
// and lengths that lie are for the tests of the transports and of the codec.
func TestSeedDefect11UnknownPeersAreHarmless(t *testing.T) {
	for _, role := range []Role{Follower, PreCandidate, Candidate, Leader} {
		r := inRole(t, role)
		term := r.core("b").currentTerm
		r.do("b",
			appendAnswered{"x", term, &AppendResponse{Term: term, Success: true, Match: 3, Incarnation: 7}},
			heartbeatAnswered{"x", term, &HeartbeatResponse{Term: term}, nil},
			heartbeatAnswered{"x", term, nil, errUnreachableInRig},
			voteAnswered{"x", term, false, nil, errUnreachableInRig},
			voteAnswered{"x", term, false, &VoteResponse{Term: 99, VoteGranted: true}, nil},
			appendLost{"x", term, errUnreachableInRig})
		require.Equal(t, role, r.core("b").role)
		require.Equal(t, term, r.core("b").currentTerm)
		require.Zero(t, r.core("b").metAs("x"), "nobody is met who is no member")
		answer := r.ask("x", "b", &VoteRequest{Term: 1})
		require.Equal(t, RefusalStaleTerm, answerOf[*VoteResponse](r, answer).Refusal)
	}
}
