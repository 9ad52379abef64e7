package raft

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// One test per rule of figure 3.1 of Ongaro's thesis, in its order, and of the
// sections that complete it. "Puppets" are members that the test speaks for.

// follower returns a rig in which b is a follower with two puppets, a and c.
func follower(t *testing.T, s at) *rig {
	r := newRig(t, "a b c")
	r.startAt("b", s)
	return r
}

// leading returns a rig in which b leads two puppets, a and c, in the term
// after the one given, and has sent them nothing yet.
func leading(t *testing.T, s at) *rig {
	r := follower(t, s)
	r.crown("b")
	r.take("b", "a")
	r.take("b", "c")
	return r
}

// Figure 3.1, persistent state: currentTerm is on disk before an answer.
func TestPaperCurrentTermIsDurableBeforeAnAnswer(t *testing.T) {
	for name, request := range map[string]any{
		"vote":      &VoteRequest{Term: 7},
		"heartbeat": &Heartbeat{Term: 7},
		"append":    &AppendEntries{Term: 7, PrevLogIndex: 9, PrevLogTerm: 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := follower(t, at{log: "1 1", term: 5})
			r.stall("b")
			answer := r.ask("a", "b", request)
			require.Equal(t, Term(7), r.core("b").currentTerm)
			require.False(t, answer.done, "answered while term 7 is not on disk")
			require.Equal(t, Term(5), r.hardState("b").Term)
			r.resume("b")
			require.True(t, answer.done)
			require.Equal(t, Term(7), r.hardState("b").Term)
		})
	}
}

// Figure 3.1, persistent state: votedFor is on disk before the vote leaves.
func TestPaperVoteIsDurableBeforeItLeaves(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 5})
	r.stall("b")
	answer := r.ask("a", "b", &VoteRequest{Term: 5, LastLogIndex: 2, LastLogTerm: 1})
	require.Equal(t, NodeID("a"), r.core("b").votedFor)
	require.False(t, answer.done)
	r.resume("b")
	require.True(t, answerOf[*VoteResponse](r, answer).VoteGranted)
	require.Equal(t, NodeID("a"), r.hardState("b").VotedFor)
}

// Figure 3.1, persistent state: entries are on disk before they are
// acknowledged.
func TestPaperEntriesAreDurableBeforeTheyAreAcknowledged(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	r.stall("b")
	answer := r.ask("a", "b", &AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1, Entries: entry(3, 2)})
	require.Equal(t, "1 1 2", r.terms("b"))
	require.False(t, answer.done)
	r.resume("b")
	require.Equal(t, Index(3), answerOf[*AppendResponse](r, answer).Match)
	require.Equal(t, "1 1 2", r.saved("b"))
}

// Figure 3.1, persistent state: term, vote and log survive a restart.
func TestPaperStateSurvivesARestart(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1, Entries: entry(3, 2)})
	r.now += 2 * wait
	require.True(t, r.askVote("c", "b", VoteRequest{Term: 6, LastLogIndex: 3, LastLogTerm: 2}).VoteGranted)
	r.restart("b")
	require.Equal(t, Term(6), r.core("b").currentTerm)
	require.Equal(t, NodeID("c"), r.core("b").votedFor)
	require.Equal(t, "1 1 2", r.terms("b"))
}

// Figure 3.1, volatile state on leaders, set anew after each election:
// nextIndex starts behind the last entry, matchIndex at 0.
func TestPaperProgressStartsAnewWithEachElection(t *testing.T) {
	r := leading(t, at{log: "1 1 2", term: 2})
	for _, p := range r.core("b").peers {
		require.Equal(t, Index(4), p.next)
		require.Zero(t, p.match)
	}
	r.acknowledge("b", "a", 4)
	require.Equal(t, Index(4), r.core("b").peer("a").match)
	r.settle()
	r.askHeartbeat("a", "b", Heartbeat{Term: 4})
	require.Empty(t, r.core("b").peers, "only a leader keeps progress")
	r.now += 2 * wait
	r.crown("b")
	require.Zero(t, r.core("b").peer("a").match)
	require.Equal(t, Index(5), r.core("b").peer("a").next)
}

// Figure 3.1, AppendEntries, receiver rule 1: a leader of an earlier term is
// refused (§3.3), and learns the term.
func TestPaperAppendOfAnEarlierTermIsRefused(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 5})
	response := r.askAppend("a", "b", AppendEntries{Term: 4, PrevLogIndex: 2, PrevLogTerm: 1, Entries: entry(3, 4), LeaderCommit: 3})
	require.False(t, response.Success)
	require.Equal(t, Term(5), response.Term)
	require.Equal(t, "1 1", r.terms("b"))
	require.Zero(t, r.core("b").commitIndex)
	require.Empty(t, r.core("b").leader)
}

// Figure 3.1, AppendEntries, receiver rule 2: what does not follow an entry of
// the own log is refused (§3.5).
func TestPaperAppendThatDoesNotFollowIsRefused(t *testing.T) {
	for name, prev := range map[string]place{
		"beyond the end":  {4, 2},
		"of a later term": {3, 2},
		"of an earlier":   {3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			log := "1 1 1"
			if prev.term == 1 {
				log = "1 1 2"
			}
			r := follower(t, at{log: log, term: 3})
			response := r.askAppend("a", "b", AppendEntries{Term: 3, PrevLogIndex: prev.index, PrevLogTerm: prev.term, Entries: entry(prev.index+1, 3), LeaderCommit: 9})
			require.False(t, response.Success)
			require.Equal(t, prev.index, response.PrevLogIndex)
			require.Equal(t, log, r.terms("b"))
			require.Zero(t, r.core("b").commitIndex)
			require.Equal(t, NodeID("a"), r.core("b").leader, "but it is the leader")
		})
	}
}

// Figure 3.1, AppendEntries, receiver rule 3: at a conflict, the entry and all
// that follow it are removed (§3.5).
func TestPaperConflictRemovesAllThatFollows(t *testing.T) {
	r := follower(t, at{log: "1 1 2 2 2", term: 3})
	response := r.askAppend("a", "b", AppendEntries{Term: 3, PrevLogIndex: 2, PrevLogTerm: 1, Entries: entry(3, 3)})
	require.True(t, response.Success)
	require.Equal(t, Index(3), response.Match)
	require.Equal(t, "1 1 3", r.terms("b"))
	require.Equal(t, "1 1 3", r.saved("b"))
}

// Figure 3.1, AppendEntries, receiver rules 3 and 4: nothing is removed where
// nothing conflicts; what is there already is not appended again.
func TestPaperOnlyNewEntriesAreAppended(t *testing.T) {
	r := follower(t, at{log: "1 1 2 2 2", term: 3})
	response := r.askAppend("a", "b", AppendEntries{Term: 3, PrevLogIndex: 1, PrevLogTerm: 1, Entries: r.tail("1 1 2", 2)})
	require.Equal(t, Index(3), response.Match)
	require.Equal(t, "1 1 2 2 2", r.terms("b"))
	response = r.askAppend("a", "b", AppendEntries{Term: 3, PrevLogIndex: 3, PrevLogTerm: 2, Entries: r.tail("1 1 2 2 2 3 3", 4)})
	require.Equal(t, Index(7), response.Match)
	require.Equal(t, "1 1 2 2 2 3 3", r.terms("b"))
}

// Figure 3.1, AppendEntries, receiver rule 5: the leader's commit index holds
// as far as the last new entry (§3.5).
func TestPaperCommitIndexIsTheLeadersUpToTheLastNewEntry(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1, Entries: r.tail("1 1 2 2", 3), LeaderCommit: 3})
	require.Equal(t, Index(3), r.core("b").commitIndex)
	r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 4, PrevLogTerm: 2, Entries: r.tail("1 1 2 2 2", 5), LeaderCommit: 99})
	require.Equal(t, Index(5), r.core("b").commitIndex)
}

// Figure 3.1, RequestVote, receiver rule 1: a candidate of an earlier term is
// refused (§3.3).
func TestPaperVoteOfAnEarlierTermIsRefused(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 5})
	response := r.askVote("a", "b", VoteRequest{Term: 4, LastLogIndex: 9, LastLogTerm: 4})
	require.False(t, response.VoteGranted)
	require.Equal(t, RefusalStaleTerm, response.Refusal)
	require.Equal(t, Term(5), response.Term)
	require.Empty(t, r.core("b").votedFor)
}

// Figure 3.1, RequestVote, receiver rule 2: one vote per term, the first come
// (§3.4); the same candidate may ask again.
func TestPaperOneVotePerTerm(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 5})
	request := VoteRequest{Term: 5, LastLogIndex: 2, LastLogTerm: 1}
	require.True(t, r.askVote("a", "b", request).VoteGranted)
	response := r.askVote("c", "b", request)
	require.False(t, response.VoteGranted)
	require.Equal(t, RefusalVoted, response.Refusal)
	require.True(t, r.askVote("a", "b", request).VoteGranted)
	request.Term = 6
	require.True(t, r.askVote("c", "b", request).VoteGranted, "a new term, a new vote")
}

// Figure 3.1, RequestVote, receiver rule 2: the candidate's log must be at
// least as up-to-date (§3.6.1): the later last term, then the longer log.
func TestPaperVoteNeedsAnUpToDateLog(t *testing.T) {
	for _, c := range []struct {
		own   string
		index Index
		term  Term
		grant bool
	}{
		{"1 1 2", 3, 2, true},
		{"1 1 2", 4, 2, true},
		{"1 1 2", 2, 2, false},
		{"1 1 2", 2, 3, true},
		{"1 1 2", 9, 1, false},
		{"1 1 2", 0, 0, false},
	} {
		for _, pre := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s against %d@%d, pre-vote %v", c.own, c.index, c.term, pre), func(t *testing.T) {
				r := follower(t, at{log: c.own, term: 4})
				response := r.askVote("a", "b", VoteRequest{Term: 5, LastLogIndex: c.index, LastLogTerm: c.term, PreVote: pre})
				require.Equal(t, c.grant, response.VoteGranted)
				require.Equal(t, pre, response.PreVote)
				if !c.grant {
					require.Equal(t, RefusalLongerLog, response.Refusal)
				}
			})
		}
	}
}

// Figure 3.1, all servers: what is committed is applied, in the order of the
// log, each entry once.
func TestPaperCommittedEntriesAreAppliedInOrder(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1, Entries: r.tail("1 1 2 2 2", 3), LeaderCommit: 4})
	r.settle()
	require.Equal(t, []string{"2@1", "3@2", "4@2"}, r.node("b").machine.commands)
	require.Equal(t, Index(4), r.node("b").driver.applied)
	r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 5, PrevLogTerm: 2, LeaderCommit: 5})
	r.settle()
	require.Equal(t, []string{"2@1", "3@2", "4@2", "5@2"}, r.node("b").machine.commands)
}

// Figure 3.1, all servers: a request of a later term takes a server into that
// term, as a follower (§3.3). For a leader's quiet see the stickiness tests.
func TestPaperRequestOfALaterTermMakesAFollower(t *testing.T) {
	for _, role := range []Role{Follower, PreCandidate, Candidate} {
		for name, request := range map[string]any{
			"vote":      &VoteRequest{Term: 9},
			"heartbeat": &Heartbeat{Term: 9},
			"append":    &AppendEntries{Term: 9},
		} {
			t.Run(fmt.Sprintf("%s gets %s", role, name), func(t *testing.T) {
				r := inRole(t, role)
				r.ask("c", "b", request)
				require.Equal(t, Follower, r.core("b").role)
				require.Equal(t, Term(9), r.core("b").currentTerm)
				require.Empty(t, r.core("b").votedFor)
			})
		}
	}
}

// Figure 3.1, all servers: an answer from a later term does the same, with any
// role and any kind of answer (§3.3).
func TestPaperAnswerFromALaterTermMakesAFollower(t *testing.T) {
	for _, role := range []Role{Follower, PreCandidate, Candidate, Leader} {
		for name, answer := range map[string]func(r *rig) any{
			"vote": func(r *rig) any {
				return voteAnswered{"c", r.core("b").currentTerm, false, &VoteResponse{Term: 9, Incarnation: r.node("c").incarnation}, nil}
			},
			"pre-vote": func(r *rig) any {
				return voteAnswered{"c", r.core("b").currentTerm + 1, true, &VoteResponse{Term: 9, PreVote: true, Incarnation: r.node("c").incarnation}, nil}
			},
			"heartbeat": func(r *rig) any {
				return heartbeatAnswered{"c", r.core("b").currentTerm, &HeartbeatResponse{Term: 9, Incarnation: r.node("c").incarnation}, nil}
			},
			"append": func(r *rig) any {
				return appendAnswered{"c", r.core("b").currentTerm, &AppendResponse{Term: 9, Incarnation: r.node("c").incarnation}}
			},
		} {
			t.Run(fmt.Sprintf("%s gets %s", role, name), func(t *testing.T) {
				r := inRole(t, role)
				r.do("b", answer(r))
				require.Equal(t, Term(9), r.core("b").currentTerm)
				require.True(t, r.told("b", "become follower"))
				if role == PreCandidate && name == "pre-vote" {
					// Its turn is not over: in the new term it asks again at once.
					require.Equal(t, PreCandidate, r.core("b").role)
					return
				}
				require.Equal(t, Follower, r.core("b").role)
			})
		}
	}
}

// inRole returns a rig in which b has come to a role.
func inRole(t *testing.T, role Role) *rig {
	r := follower(t, at{log: "1 1", term: 2})
	switch role {
	case PreCandidate:
		r.timeOut("b")
	case Candidate:
		r.timeOut("b")
		r.grant("b")
	case Leader:
		r.crown("b")
	}
	require.Equal(t, role, r.core("b").role)
	return r
}

// Figure 3.1, followers: an election wait without a sign of a leader ends in a
// candidacy; here, in asking whether it could be won (§9.6).
func TestPaperFollowerCampaignsWhenItsWaitIsOver(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	deadline := r.core("b").electionDeadline
	r.now = deadline - 1
	r.do("b")
	require.Equal(t, Follower, r.core("b").role)
	r.now = deadline
	r.do("b")
	require.Equal(t, PreCandidate, r.core("b").role)
}

// Figure 3.1, followers: the wait starts anew with each message of the present
// leader, and with a vote that is granted (§3.4). Nothing else restarts it.
func TestPaperWhatRestartsTheElectionWait(t *testing.T) {
	for _, c := range []struct {
		name     string
		request  any
		restarts bool
	}{
		{"heartbeat", &Heartbeat{Term: 2}, true},
		{"entries", &AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1}, true},
		{"entries that do not follow", &AppendEntries{Term: 2, PrevLogIndex: 7, PrevLogTerm: 1}, true},
		{"vote granted", &VoteRequest{Term: 2, LastLogIndex: 2, LastLogTerm: 1}, true},
		{"heartbeat of an earlier term", &Heartbeat{Term: 1}, false},
		{"entries of an earlier term", &AppendEntries{Term: 1}, false},
		{"vote refused in a new term", &VoteRequest{Term: 3, LastLogIndex: 1, LastLogTerm: 1}, false},
		{"vote refused for its term", &VoteRequest{Term: 1, LastLogIndex: 2, LastLogTerm: 1}, false},
		{"pre-vote granted", &VoteRequest{Term: 3, LastLogIndex: 2, LastLogTerm: 1, PreVote: true}, false},
		{"pre-vote refused", &VoteRequest{Term: 3, LastLogIndex: 1, LastLogTerm: 1, PreVote: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := follower(t, at{log: "1 1", term: 2})
			before := r.core("b").electionDeadline
			r.now = before - beat
			r.ask("a", "b", c.request)
			if c.restarts {
				require.GreaterOrEqual(t, r.core("b").electionDeadline, r.now+wait)
			} else {
				require.Equal(t, before, r.core("b").electionDeadline)
			}
		})
	}
}

// Figure 3.1, candidates: a candidacy increments currentTerm, votes for itself,
// restarts the wait and asks all others (§3.4).
func TestPaperCandidateAsksForVotes(t *testing.T) {
	r := follower(t, at{log: "1 1 2", term: 3})
	r.timeOut("b")
	r.take("b", "a")
	r.take("b", "c")
	r.now += beat
	r.grant("b")
	c := r.core("b")
	require.Equal(t, Candidate, c.role)
	require.Equal(t, Term(4), c.currentTerm)
	require.Equal(t, NodeID("b"), c.votedFor)
	require.GreaterOrEqual(t, c.electionDeadline, r.now+wait)
	require.Empty(t, r.take("b", "a"), "its own vote is not on disk yet")
	r.finishWrite("b")
	for _, other := range []NodeID{"a", "c"} {
		requests := mail[*VoteRequest](r, "b", other)
		require.Len(t, requests, 1)
		require.Equal(t, VoteRequest{
			Header: Header{Fingerprint: r.fingerprint, From: "b", To: other, Incarnation: r.node("b").incarnation},
			Term:   4, LastLogIndex: 3, LastLogTerm: 2,
		}, *requests[0])
	}
}

// Figure 3.1, candidates: votes of a majority make a leader (§3.4), the own
// one included once it is durable.
func TestPaperMajorityOfVotesMakesALeader(t *testing.T) {
	r := newRig(t, "a b c d e")
	r.startAt("b", at{log: "1 1", term: 2})
	r.timeOut("b")
	r.grant("b")
	r.finishWrite("b")
	r.grantFrom("b", "a")
	require.Equal(t, Candidate, r.core("b").role, "two of five")
	r.grantFrom("b", "c")
	require.Equal(t, Leader, r.core("b").role, "three of five")
}

// Figure 3.1, candidates: an own vote that is not durable does not count.
func TestPaperOwnVoteCountsOnceItIsDurable(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	r.timeOut("b")
	r.grant("b")
	r.grantFrom("b", "a")
	require.Equal(t, Candidate, r.core("b").role)
	require.Contains(t, r.reason("b"), "its own vote is not on disk yet")
	r.finishWrite("b")
	require.Equal(t, Leader, r.core("b").role)
}

// Figure 3.1, candidates: a message of the term's leader makes a follower (§3.4).
func TestPaperCandidateFollowsTheLeaderOfItsTerm(t *testing.T) {
	for name, request := range map[string]any{
		"heartbeat": &Heartbeat{Term: 3},
		"append":    &AppendEntries{Term: 3, PrevLogIndex: 7, PrevLogTerm: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := inRole(t, Candidate)
			r.ask("c", "b", request)
			require.Equal(t, Follower, r.core("b").role)
			require.Equal(t, NodeID("c"), r.core("b").leader)
			require.Equal(t, NodeID("b"), r.core("b").votedFor, "the vote of this term stays")
		})
	}
}

// Figure 3.1, candidates: a wait that ends without a winner leads to a new
// election, in a new term (§3.4).
func TestPaperCandidateTriesAgain(t *testing.T) {
	r := inRole(t, Candidate)
	r.finishWrite("b")
	require.Equal(t, Term(3), r.core("b").currentTerm)
	r.now = r.core("b").electionDeadline
	r.do("b")
	require.Equal(t, PreCandidate, r.core("b").role)
	r.grant("b")
	require.Equal(t, Candidate, r.core("b").role)
	require.Equal(t, Term(4), r.core("b").currentTerm)
}

// Figure 3.1, leaders: heartbeats at once and then all the time, so that nobody
// else campaigns (§3.4).
func TestPaperLeaderSendsHeartbeats(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	r.crown("b")
	for round := range uint64(4) {
		for _, other := range []NodeID{"a", "c"} {
			beats := mail[*Heartbeat](r, "b", other)
			require.Len(t, beats, 1, "round %d", round)
			require.Equal(t, round+1, beats[0].Round)
			require.Equal(t, Term(3), beats[0].Term)
		}
		r.now += beat - 1
		r.do("b")
		require.Empty(t, mail[*Heartbeat](r, "b", "a"), "before it is time")
		r.now++
		r.do("b")
	}
}

// Figure 3.1, leaders: a command goes into the log, and is answered once it is
// applied (§3.5).
func TestPaperLeaderAnswersACommandOnceItIsApplied(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2, commit: 1})
	r.node("b").slow = true
	o := r.propose("b", "x")[0]
	require.Equal(t, "1 1 3 3", r.terms("b"))
	r.finishWrite("b")
	r.finishWrite("b")
	require.Equal(t, Index(1), r.core("b").commitIndex)
	r.acknowledge("b", "a", 4)
	require.Equal(t, Index(4), r.core("b").commitIndex)
	require.False(t, o.ended, "committed, not applied")
	r.apply("b")
	r.apply("b")
	require.Equal(t, outcome{true, Result{Index: 4, Term: 3, Response: []byte("did x")}, nil}, *o)
}

// Figure 3.1, leaders: a follower whose nextIndex is not beyond the last entry
// is sent what starts there (§3.5).
func TestPaperLeaderSendsFromNextIndexOn(t *testing.T) {
	r := follower(t, at{log: "1 1 2", term: 2})
	r.crown("b")
	m := mail[*AppendEntries](r, "b", "a")
	require.Len(t, m, 1)
	require.Equal(t, Index(3), m[0].PrevLogIndex)
	require.Equal(t, Term(2), m[0].PrevLogTerm)
	require.Equal(t, Index(4), m[0].Entries.First())
	require.Equal(t, 1, m[0].Entries.Len())
	r.acknowledge("b", "a", 4)
	r.propose("b", "x")
	r.propose("b", "y")
	m = mail[*AppendEntries](r, "b", "a")
	require.Len(t, m, 2, "and does not wait for the first to be answered")
	require.Equal(t, Index(5), m[0].Entries.First())
	require.Equal(t, Index(6), m[1].Entries.First())
	require.Equal(t, Index(5), m[1].PrevLogIndex)
	require.Equal(t, Term(3), m[1].PrevLogTerm)
}

// Figure 3.1, leaders: success raises nextIndex and matchIndex (§3.5).
func TestPaperSuccessRaisesProgress(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	r.acknowledge("b", "a", 3)
	require.Equal(t, Index(3), r.core("b").peer("a").match)
	require.Equal(t, Index(4), r.core("b").peer("a").next)
	r.acknowledge("b", "a", 2)
	require.Equal(t, Index(3), r.core("b").peer("a").match, "an old answer takes nothing back")
}

// Figure 3.1, leaders: a refusal for inconsistency lowers nextIndex, and the
// leader tries again (§3.5).
func TestPaperRefusalLowersNextIndex(t *testing.T) {
	r := leading(t, at{log: "1 1 2 2", term: 2})
	r.reject("b", "a", 4, 2, 1)
	m := mail[*AppendEntries](r, "b", "a")
	require.Len(t, m, 1)
	require.Equal(t, Index(2), m[0].PrevLogIndex)
	require.Equal(t, Term(1), m[0].PrevLogTerm)
	require.Equal(t, Index(3), m[0].Entries.First())
	r.reject("b", "a", 4, 2, 1)
	require.Empty(t, r.take("b", "a"), "a refusal of something else says nothing")
}

// Figure 3.1, leaders, and §3.6.2: an entry of the own term is committed once a
// majority has it, and all before it with it.
func TestPaperOwnTermCommitsByCounting(t *testing.T) {
	r := leading(t, at{log: "1 1 2", term: 2})
	r.finishWrite("b")
	r.acknowledge("b", "a", 3)
	require.Zero(t, r.core("b").commitIndex, "entry 3 of term 2 is on a majority, but of an earlier term")
	r.acknowledge("b", "a", 4)
	require.Equal(t, Index(4), r.core("b").commitIndex)
}

// §3.6.2 and §6.4: a new leader appends a no-op at once, so that what earlier
// leaders left gets committed without waiting for a command.
func TestPaperLeaderStartsWithANoop(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	var kinds []EntryKind
	for e := range r.stored("b", 1).All() {
		kinds = append(kinds, e.Kind)
	}
	require.Equal(t, []EntryKind{EntryConfiguration, EntryCommand, EntryNoop}, kinds)
	require.Equal(t, "1 1 3", r.terms("b"))
}

// §3.6.3, Leader Append-Only: a leader removes nothing from its log, whoever
// claims to lead its term.
func TestPaperLeaderOnlyAppends(t *testing.T) {
	r := leading(t, at{log: "1 1 2", term: 2})
	response := r.askAppend("a", "b", AppendEntries{Term: 3, PrevLogIndex: 1, PrevLogTerm: 1, Entries: entry(2, 3)})
	require.False(t, response.Success)
	require.Equal(t, "1 1 2 3", r.terms("b"))
	require.Equal(t, Leader, r.core("b").role)
}

// §3.6.3, State Machine Safety: a committed entry is not replaced; a node that
// is asked to stops.
func TestPaperCommittedEntryIsNotReplaced(t *testing.T) {
	r := follower(t, at{log: "1 1 2", term: 2, commit: 3})
	answer := r.ask("a", "b", &AppendEntries{Term: 3, PrevLogIndex: 1, PrevLogTerm: 1, Entries: entry(2, 3)})
	require.Error(t, answer.err)
	require.False(t, r.up("b"))
	require.ErrorContains(t, r.node("b").failure, "committed")
	require.Equal(t, "1 1 2", r.saved("b"))
}

// §9.6: a pre-vote changes neither the term nor the vote, on either side.
func TestPaperPreVoteChangesNothing(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2, vote: "c"})
	r.timeOut("b")
	for _, other := range []NodeID{"a", "c"} {
		requests := mail[*VoteRequest](r, "b", other)
		require.Len(t, requests, 1)
		require.True(t, requests[0].PreVote)
		require.Equal(t, Term(3), requests[0].Term, "the term that it would campaign in")
	}
	require.Equal(t, Term(2), r.core("b").currentTerm)
	require.Equal(t, NodeID("c"), r.core("b").votedFor)

	r = follower(t, at{log: "1 1", term: 2, vote: "c"})
	response := r.askVote("a", "b", VoteRequest{Term: 9, LastLogIndex: 2, LastLogTerm: 1, PreVote: true})
	require.True(t, response.VoteGranted)
	require.Equal(t, Term(2), response.Term)
	require.Equal(t, Term(2), r.core("b").currentTerm)
	require.Equal(t, NodeID("c"), r.core("b").votedFor)
	require.Nil(t, r.node("b").saving, "nothing to write down")
}

// §9.6: without pre-votes of a majority there is no election, however long.
func TestPaperNoElectionWithoutPreVotesOfAMajority(t *testing.T) {
	r := newRig(t, "a b c d e")
	r.startAt("b", at{log: "1 1", term: 2})
	r.timeOut("b")
	r.grantFrom("b", "a")
	require.Equal(t, PreCandidate, r.core("b").role)
	r.pass(20 * wait)
	require.Equal(t, Term(2), r.core("b").currentTerm)
	r.grantFrom("b", "a")
	r.grantFrom("b", "c")
	require.Equal(t, Candidate, r.core("b").role)
}

// §9.6: a pre-vote that was granted in one pre-election is no vote.
func TestPaperPreVoteIsNoVote(t *testing.T) {
	r := inRole(t, Candidate)
	r.finishWrite("b")
	r.do("b", voteAnswered{"a", 3, true, &VoteResponse{Term: 2, VoteGranted: true, PreVote: true, Incarnation: r.node("a").incarnation}, nil})
	r.do("b", voteAnswered{"c", 3, false, &VoteResponse{Term: 2, VoteGranted: true, PreVote: true, Incarnation: r.node("c").incarnation}, nil})
	r.do("b", voteAnswered{"c", 3, false, &VoteResponse{Term: 3, VoteGranted: true, PreVote: true, Incarnation: r.node("c").incarnation}, nil})
	require.Equal(t, Candidate, r.core("b").role)
}

// §4.2.3: who has heard from a leader within the shortest election timeout
// neither grants a vote nor takes over a candidate's term.
func TestPaperFollowerOfALiveLeaderIgnoresCandidates(t *testing.T) {
	for _, pre := range []bool{false, true} {
		t.Run(fmt.Sprintf("pre-vote %v", pre), func(t *testing.T) {
			r := follower(t, at{log: "1 1", term: 2})
			r.askHeartbeat("a", "b", Heartbeat{Term: 2})
			request := VoteRequest{Term: 9, LastLogIndex: 9, LastLogTerm: 2, PreVote: pre}
			r.now += wait - 1
			response := r.askVote("c", "b", request)
			require.False(t, response.VoteGranted)
			require.Equal(t, RefusalHasLeader, response.Refusal)
			require.Equal(t, NodeID("a"), response.Leader)
			require.Equal(t, Term(2), r.core("b").currentTerm)
			r.now++
			require.True(t, r.askVote("c", "b", request).VoteGranted, "the leader has been silent for long enough")
		})
	}
}

// §4.2.3 with §6.2: a leader in contact with a majority ignores candidates too.
func TestPaperLeaderIgnoresCandidates(t *testing.T) {
	for _, pre := range []bool{false, true} {
		r := leading(t, at{log: "1 1", term: 2})
		response := r.askVote("c", "b", VoteRequest{Term: 9, LastLogIndex: 9, LastLogTerm: 2, PreVote: pre})
		require.Equal(t, RefusalHasLeader, response.Refusal)
		require.Equal(t, Leader, r.core("b").role)
		require.Equal(t, Term(3), r.core("b").currentTerm)
	}
}

// §3.10 with §4.2.3: an election that the leader itself has asked for is not
// held up by the quiet; the vote stays one per term.
func TestPaperTransferOverridesTheQuietButNotTheVote(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	r.askHeartbeat("a", "b", Heartbeat{Term: 2})
	request := VoteRequest{Term: 3, LastLogIndex: 2, LastLogTerm: 1, Transfer: true}
	require.True(t, r.askVote("c", "b", request).VoteGranted)
	require.Equal(t, RefusalVoted, r.askVote("a", "b", request).Refusal)
	request.Term, request.LastLogIndex = 4, 1
	require.Equal(t, RefusalLongerLog, r.askVote("a", "b", request).Refusal)
}

// §6.2: a leader that has not been in contact with a majority for an election
// timeout steps down.
func TestPaperLeaderWithoutAMajorityStepsDown(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	r.now += wait - 1
	r.do("b")
	require.Equal(t, Leader, r.core("b").role)
	r.now++
	r.do("b")
	require.Equal(t, Follower, r.core("b").role)
	require.Empty(t, r.core("b").leader)
	require.Equal(t, Term(3), r.core("b").currentTerm)
	r.take("b", "a")
	r.pass(wait - 1)
	require.Empty(t, r.take("b", "a"), "and stops its heartbeats")
}

// §3.4: waits are drawn at random from [T, 2T), spread over all of it: evenly where more
// than two others may campaign, with more short ones where no more than two are left.
func TestPaperElectionWaitsAreSpreadOut(t *testing.T) {
	const draws, parts = 4000, 5
	even := func(x float64) float64 { return x } // the share of waits below (1+x)T
	short := func(x float64) float64 { return math.Cbrt(x * x) }
	joint := func(incoming, outgoing string) configuration {
		ids := func(names string) (ids []NodeID) {
			for name := range strings.FieldsSeq(names) {
				ids = append(ids, NodeID(name))
			}
			return ids
		}
		return configuration{incoming: ids(incoming), outgoing: ids(outgoing)}
	}
	for _, c := range []struct {
		configuration
		below func(x float64) float64
	}{
		{joint("a b", ""), short},
		{joint("a b c", ""), short},
		{joint("a b c", "a b"), short},
		{joint("a b c d", ""), even},
		{joint("a b d", "a b c"), even}, // who are four
		{joint("a b c d e", ""), even},
	} {
		r := newCluster(t, "a b c")
		r.core("b").configuration = c.configuration
		var count [parts]int
		for range draws {
			w := r.core("b").drawElectionWait()
			require.GreaterOrEqual(t, w, wait)
			require.Less(t, w, 2*wait)
			count[int((w-wait)*parts/wait)]++
		}
		for i, n := range count {
			expected := draws * (c.below(float64(i+1)/parts) - c.below(float64(i)/parts))
			require.InEpsilon(t, expected, n, 0.15, "%v: part %d of %d", c.configuration, i, parts)
		}
	}
}

// §3.4: each wait is drawn anew, and nodes draw differently.
func TestPaperElectionWaitIsDrawnAnewEachTime(t *testing.T) {
	r := follower(t, at{log: "1 1", term: 2})
	seen := map[time.Duration]bool{}
	for range 50 {
		r.now += beat
		r.askHeartbeat("a", "b", Heartbeat{Term: 2})
		seen[r.core("b").electionDeadline-r.now] = true
	}
	for range 50 {
		r.now = r.core("b").electionDeadline
		r.do("b")
		seen[r.core("b").electionDeadline-r.now] = true
	}
	require.Len(t, seen, 100)

	cluster := newCluster(t, "a b c d e")
	first := map[time.Duration]bool{}
	for _, id := range cluster.ids {
		first[cluster.core(id).electionDeadline] = true
	}
	require.Len(t, first, 5)
}
