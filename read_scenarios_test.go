package raft

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Reads that do not go through the log (thesis §6.4): see R and LS in
// testdata/scenarios.md.

// readIndex begins a read at a node.
func (r *rig) readIndex(id NodeID) *decision {
	o := new(decision)
	r.do(id, &readWait{done: o.end(r.t)})
	return o
}

// answerRound answers a leader's round of heartbeats for a puppet.
func (r *rig) answerRound(leader, follower NodeID, round uint64) {
	term := r.core(leader).currentTerm
	r.do(leader, heartbeatAnswered{follower, term, &HeartbeatResponse{Term: term, Round: round, Incarnation: r.nodes[follower].incarnation}, nil})
}

// requireIdle requires that nobody waits for a read, and that nothing is kept of those
// who did.
func (r *rig) requireIdle(id NodeID) {
	reads := r.node(id).driver.reads
	require.Zero(r.t, reads.count)
	require.Empty(r.t, reads.batches)
	require.Empty(r.t, reads.applies)
	require.Empty(r.t, reads.left)
}

// settledLeader returns a rig in which b leads two puppets, a and c, and has committed an
// entry of its own.
func settledLeader(t *testing.T) *rig {
	r := leading(t, at{log: "1 1 2", term: 2, commit: 1})
	r.settle()
	r.acknowledge("b", "a", 4)
	r.settle()
	require.Equal(t, Index(4), r.core("b").commitIndex)
	r.take("b", "a")
	r.take("b", "c")
	return r
}

// R1: what is committed is known to a new leader once an entry of its own is.
func TestR1NewLeaderWaitsForItsFirstCommit(t *testing.T) {
	r := leading(t, at{log: "1 1 2", term: 2, commit: 1})
	r.settle()
	o := r.readIndex("b")
	r.answerRound("b", "a", r.core("b").round)
	r.answerRound("b", "c", r.core("b").round)
	require.False(t, o.ended, "entry 3 may have been acknowledged")
	r.acknowledge("b", "a", 4)
	r.settle()
	require.True(t, o.ended)
	require.NoError(t, o.err)
	require.Equal(t, Index(4), o.index)
	r.requireIdle("b")
}

// R2: a leader that others have replaced does not answer, ever.
func TestR2PartitionedLeaderDoesNotAnswer(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.isolate("a")
	r.quiet()
	for _, p := range r.core("a").peers {
		p.contact = r.now // else it would step down by its clock alone
	}
	r.timeOut("b")
	r.settle()
	require.Equal(t, Leader, r.core("b").role)
	written := r.propose("b", "x=2")[0]
	r.settle()
	require.NoError(t, written.err)
	require.Equal(t, Leader, r.core("a").role)
	o := r.readIndex("a")
	r.pass(wait / 2)
	require.False(t, o.ended)
	r.pass(wait)
	require.True(t, o.ended)
	require.ErrorIs(t, o.err, ErrNotLeader)
	r.heal()
	r.requireHealthy()
	r.requireIdle("a")
}

// R3: rounds that began before a read say nothing about what was committed before it.
func TestR3OlderRoundsConfirmNothing(t *testing.T) {
	r := settledLeader(t)
	r.now += beat
	r.do("b")
	before := r.core("b").round
	o := r.readIndex("b")
	require.Equal(t, before+1, r.core("b").round, "the read does not wait for the next interval")
	r.answerRound("b", "a", before)
	r.answerRound("b", "c", before)
	require.False(t, o.ended)
	r.answerRound("b", "c", before+1)
	require.True(t, o.ended)
	require.NoError(t, o.err)
}

// R3: many reads share a round, and those that come while one is under way the next.
func TestR3ReadsShareRounds(t *testing.T) {
	r := settledLeader(t)
	var first, second []*decision
	for range 3 {
		first = append(first, r.readIndex("b"))
	}
	require.Len(t, mail[*Heartbeat](r, "b", "a"), 1)
	one := r.core("b").round
	r.answerRound("b", "a", one)
	require.True(t, first[0].ended)
	require.False(t, first[1].ended, "it came after the round had begun")
	require.Len(t, mail[*Heartbeat](r, "b", "a"), 1, "the others share the next")
	second = append(second, r.readIndex("b"))
	require.Empty(t, mail[*Heartbeat](r, "b", "a"))
	r.answerRound("b", "c", one+1)
	require.True(t, first[1].ended && first[2].ended)
	require.False(t, second[0].ended)
	r.answerRound("b", "c", one+2)
	require.True(t, second[0].ended)
	require.Nil(t, r.node("b").saving, "nothing is written for a read")
	r.requireIdle("b")
}

// R3: a round that was lost is made good by the next heartbeats.
func TestR3LostRound(t *testing.T) {
	r := settledLeader(t)
	one := r.readIndex("b")
	two := r.readIndex("b")
	r.take("b", "a")
	r.take("b", "c")
	r.now += beat
	r.do("b")
	round := mail[*Heartbeat](r, "b", "a")[0].Round
	r.answerRound("b", "a", round)
	require.True(t, one.ended && two.ended)
	r.requireIdle("b")
}

// R3: whoever is the only voter asks nobody.
func TestR3OnlyVoterAnswersAtOnce(t *testing.T) {
	r := withJoiners(t, "a", "b")
	r.change("a", 0, r.addsLearner("b"))
	r.settle()
	r.isolate("b")
	round := r.core("a").round
	o := r.readIndex("a")
	require.True(t, o.ended)
	require.NoError(t, o.err)
	require.Equal(t, round, r.core("a").round)
}

// jointLeader returns a rig in which a leads in a joint phase from a, b and c to a, d and e,
// of whom d and e are cut off.
func jointLeader(t *testing.T) *rig {
	r := withJoiners(t, "a b c", "d e")
	r.part("a b c", "d e")
	r.change("a", 0, r.adds("d"), r.adds("e"), removes("b"), removes("c"))
	r.settle()
	require.True(t, r.core("a").configuration.isJoint())
	return r
}

// M6: in a joint phase both halves must say that nobody else leads.
func TestM6ReadsNeedBothHalves(t *testing.T) {
	r := jointLeader(t)
	o := r.readIndex("a")
	r.settle()
	require.Equal(t, r.core("a").round, r.core("a").peer("b").answered)
	require.False(t, o.ended)
	r.heal()
	r.pass(2 * beat)
	require.True(t, o.ended)
	require.NoError(t, o.err)
}

// R6: a read that is confirmed waits until the state machine has come so far.
func TestR6ReadsWaitForTheStateMachine(t *testing.T) {
	r := settledLeader(t)
	r.node("b").slow = true
	r.propose("b", "x", "y")
	r.settle()
	r.acknowledge("b", "a", 6)
	require.Equal(t, Index(4), r.node("b").driver.applied)
	o := r.readIndex("b")
	r.answerRound("b", "a", r.core("b").round)
	require.False(t, o.ended)
	r.apply("b")
	require.True(t, o.ended)
	require.Equal(t, Index(6), o.index)
	require.Equal(t, []string{"2@1", "3@2", "x", "y"}, r.node("b").machine.commands)
	r.requireIdle("b")
}

// R7: reads that wait are bounded, and end with leadership; those whose callers have
// left are forgotten.
func TestR7WaitingReadsAreBounded(t *testing.T) {
	r := settledLeader(t)
	var events []any
	overloaded, lost := 0, 0
	for i := range maxReads + 10 {
		events = append(events, &readWait{done: func(_ Index, err error) {
			if i < maxReads {
				require.ErrorIs(t, err, ErrNotLeader)
				lost++
			} else {
				require.ErrorIs(t, err, ErrOverloaded)
				overloaded++
			}
		}})
	}
	r.do("b", events...)
	require.Equal(t, 10, overloaded)
	require.Equal(t, maxReads, r.node("b").driver.reads.count)
	for i := range 100 {
		r.do("b", readLeft{events[i].(*readWait)})
	}
	require.Equal(t, maxReads-100, r.node("b").driver.reads.count)
	r.now += wait
	r.do("b")
	require.Equal(t, Follower, r.core("b").role)
	require.Equal(t, maxReads-100, lost)
	r.requireIdle("b")
}

// leasing returns what settledLeader does, with leases.
func leasing(t *testing.T) *rig {
	r := newRig(t, "a b c")
	r.tune = withLease
	r.startAt("b", at{log: "1 1 2", term: 2, commit: 1})
	r.crown("b")
	r.settle()
	r.acknowledge("b", "a", 4)
	r.settle()
	r.take("b", "a")
	r.take("b", "c")
	return r
}

// withLease has a leader answer by its clock, which may differ by a tenth.
func withLease(s *coreSettings) { s.lease = s.electionTimeout * 9 / 10 }

// quietRound answers a round for a puppet that keeps its quiet.
func (r *rig) quietRound(leader, follower NodeID, round uint64, quiet time.Duration) {
	term := r.core(leader).currentTerm
	r.do(leader, heartbeatAnswered{follower, term, &HeartbeatResponse{Term: term, Round: round, Incarnation: r.nodes[follower].incarnation, Quiet: uint64(quiet)}, nil})
}

// requireLease requires that a read is answered at once, or that it is not.
func (r *rig) requireLease(id NodeID, held bool, why string) {
	r.t.Helper()
	require.Equal(r.t, held, r.now < r.node(id).driver.leaseEnd(), "as readers see it: %s", why)
	round := r.core(id).round
	o := r.readIndex(id)
	require.Equal(r.t, held, o.ended, why)
	if held {
		require.NoError(r.t, o.err)
		require.Equal(r.t, round, r.core(id).round, "nobody is asked")
	}
}

// LS1: the lease counts from when the round was sent, however late the answer is.
func TestLS1LeaseCountsFromTheSending(t *testing.T) {
	r := leasing(t)
	sent, round := r.now, r.core("b").round
	r.now += wait * 8 / 10
	r.quietRound("b", "a", round, wait)
	r.requireLease("b", true, "the answer has come in time")
	r.now = sent + wait*9/10 - 1
	r.requireLease("b", true, "it still holds")
	r.now++
	r.requireLease("b", false, "the followers' quiet may be over for a clock that is fast")
}

// LS1: the same when another round has been sent since, as a read sends one at any time.
func TestLS1LeaseCountsFromTheRoundThatIsAnswered(t *testing.T) {
	r := leasing(t)
	first, sent := r.core("b").round, r.now
	r.now += beat
	r.do("b")
	require.Greater(t, r.core("b").round, first)
	r.quietRound("b", "a", first, wait)
	require.Equal(t, sent+r.core("b").settings.lease, r.node("b").driver.leaseEnd())
}

// leasingAlive returns three nodes that run, of which a leads and has a lease.
func leasingAlive(t *testing.T) *rig {
	r := newRig(t, "a b c")
	r.tune = withLease
	for _, id := range r.ids {
		r.start(id)
	}
	r.elect("a")
	r.pass(2 * beat)
	r.requireLease("a", true, "all have answered")
	return r
}

// LS2: a leader that stood still finds a read before it has heard any time pass.
func TestLS2FrozenLeaderDoesNotAnswer(t *testing.T) {
	r := leasingAlive(t)
	r.node("a").frozen = true
	r.passUntil(10*wait, "another leader", func() bool { return r.leader() != "a" })
	require.NoError(t, r.propose(r.leader(), "x=2")[0].err)
	r.settle()
	r.node("a").frozen = false
	o := r.readIndex("a")
	require.ErrorIs(t, o.err, ErrNotLeader, "its own clock says that no majority was in contact")
	r.requireHealthy()
}

// LS2: the same, and the clock of the leadership has not run out: a read is not answered
// by the lease, whatever else the leader believes.
func TestLS2LeaseEndsBeforeTheLeadership(t *testing.T) {
	r := leasing(t)
	round := r.core("b").round
	r.quietRound("b", "a", round, wait)
	r.now += wait * 9 / 10
	o := r.readIndex("b")
	require.Equal(t, Leader, r.core("b").role)
	require.False(t, o.ended)
	r.quietRound("b", "a", r.core("b").round, wait)
	require.True(t, o.ended, "it goes on as without a lease")
	require.NoError(t, o.err)
	r.requireLease("b", true, "and the lease is renewed")
}

// LS5: whoever keeps quiet for a shorter time than the leader relies on does not count.
func TestLS5ShorterQuietDoesNotCount(t *testing.T) {
	r := leasing(t)
	round := r.core("b").round
	r.quietRound("b", "a", round, wait-1)
	r.requireLease("b", false, "a is quiet for less than the leader thinks")
	r.quietRound("b", "c", round, wait)
	r.requireLease("b", true, "c is a majority with the leader")
}

// LS5: however the others' clocks run, within the bound, none of them votes while a
// leader that cannot be heard any more has its lease. A follower's clock is that of the
// whole rig here, and the leader's is the slower one.
func TestLS5NobodyVotesDuringALease(t *testing.T) {
	r := leasing(t)
	r.startAt("a", at{log: "1 1 2", term: 3, commit: 1})
	heard := r.now
	r.askHeartbeat("b", "a", Heartbeat{Term: 3, Round: 1})
	for _, preVote := range []bool{true, false} {
		r.now = heard + wait - 1 // 0.9 of that for the leader
		require.False(t, r.askVote("c", "a", VoteRequest{Term: 4, LastLogIndex: 9, LastLogTerm: 3, PreVote: preVote}).VoteGranted)
	}
	// The answer to a pre-vote of before comes late, and shows a later term.
	r.do("a", voteAnswered{"c", 4, true, &VoteResponse{Term: 6, PreVote: true, Incarnation: r.node("c").incarnation}, nil})
	require.Equal(t, Term(6), r.core("a").currentTerm)
	require.False(t, r.askVote("c", "a", VoteRequest{Term: 7, LastLogIndex: 9, LastLogTerm: 3}).VoteGranted, "it has promised its quiet")
	r.now++
	require.True(t, r.askVote("c", "a", VoteRequest{Term: 7, LastLogIndex: 9, LastLogTerm: 3}).VoteGranted)
}

// R1 with a lease: it is no right before an entry of the own term is committed.
func TestR1NoLeaseBeforeTheFirstCommit(t *testing.T) {
	r := newRig(t, "a b c")
	r.tune = withLease
	r.startAt("b", at{log: "1 1 2", term: 2, commit: 1})
	r.crown("b")
	r.settle()
	r.quietRound("b", "a", r.core("b").round, wait)
	r.requireLease("b", false, "entry 3 may have been acknowledged")
	r.acknowledge("b", "a", 4)
	r.settle()
	r.requireLease("b", true, "the round has been answered")
}

// T3: from the moment when a successor is asked to campaign there is no lease, and none
// comes back when it does not.
func TestT3NoLeaseOnceASuccessorIsAsked(t *testing.T) {
	r := leasing(t)
	r.quietRound("b", "a", r.core("b").round, wait)
	r.transfer("b", "c")
	r.requireLease("b", true, "c lacks an entry, and is not asked yet")
	r.acknowledge("b", "c", 4)
	require.Len(t, mail[*TimeoutNow](r, "b", "c"), 1)
	r.requireLease("b", false, "c may win at once")
	r.do("b", timeoutNowAnswered{"c", 3, &TimeoutNowResponse{Term: 3, Incarnation: r.node("c").incarnation}, nil})
	require.Equal(t, Leader, r.core("b").role)
	r.quietRound("b", "a", r.core("b").round, wait)
	r.requireLease("b", false, "the request may still be on its way")
}

// T3: the successor wins and commits while the lease would still hold, and the leader
// before has heard nothing of it.
func TestT3SuccessorCommitsDuringTheLease(t *testing.T) {
	r := leasingAlive(t)
	r.hold("b", "a")
	r.transfer("a", "b")
	r.settle()
	require.Equal(t, Leader, r.core("b").role)
	r.isolate("a")
	written := r.propose("b", "x=2")[0]
	r.settle()
	require.True(t, written.ended)
	require.NoError(t, written.err)
	require.Equal(t, Leader, r.core("a").role)
	leased, confirmed := r.readIndex("a"), r.readAs("a", ReadOptions{Level: ReadConfirmed})
	require.False(t, leased.ended || confirmed.ended)
	r.pass(2 * wait)
	require.ErrorIs(t, leased.err, ErrNotLeader)
	require.ErrorIs(t, confirmed.err, ErrNotLeader)
	r.heal()
	r.requireHealthy()
}

// M6: a lease of one half of a joint configuration is none, and what was answered under
// another configuration does not count.
func TestM6LeaseNeedsBothHalves(t *testing.T) {
	r := newRig(t, "a b c")
	r.tune = withLease
	r.addJoiners("d e")
	for _, id := range r.ids {
		r.start(id)
	}
	r.elect("a")
	r.pass(2 * beat)
	r.requireLease("a", true, "b and c have answered")
	r.part("a b c", "d e")
	r.change("a", 0, r.adds("d"), r.adds("e"), removes("b"), removes("c"))
	r.settle()
	require.True(t, r.core("a").configuration.isJoint())
	r.requireLease("a", false, "others count now")
	r.pass(2 * beat)
	r.requireLease("a", false, "one half has answered")
	r.heal()
	r.pass(4 * beat)
	require.False(t, r.core("a").configuration.isJoint())
}

// M6: the same where nobody new is asked, so that no round begins.
func TestM6LeaseEndsWithTheConfiguration(t *testing.T) {
	r := leasingAlive(t)
	r.part("a", "b c")
	round := r.core("a").round
	r.change("a", 0, removes("b"), removes("c"))
	require.True(t, r.core("a").configuration.isJoint())
	require.Equal(t, round, r.core("a").round)
	r.requireLease("a", false, "others count now")
}

// readAs begins a read with options at a node.
func (r *rig) readAs(id NodeID, options ReadOptions) *decision {
	o := new(decision)
	r.do(id, &readWait{options: options, done: o.end(r.t)})
	return o
}

// A local read asks nobody, and with an index waits until that is applied.
func TestLocalReads(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.isolate("c")
	written := r.propose("a", "x")[0]
	r.settle()
	index := written.result.Index
	require.NotZero(t, index)
	o := r.readAs("c", ReadOptions{Level: ReadLocal})
	require.True(t, o.ended)
	require.NoError(t, o.err)
	require.Equal(t, index-1, o.index, "it may miss what others have")
	hopeless := &readWait{options: ReadOptions{Level: ReadLocal, MinIndex: math.MaxUint64}}
	r.do("c", hopeless)
	o = r.readAs("c", ReadOptions{Level: ReadLocal, MinIndex: index})
	require.False(t, o.ended)
	r.heal()
	r.pass(2 * beat)
	require.True(t, o.ended)
	require.NoError(t, o.err)
	require.GreaterOrEqual(t, o.index, index)
	r.do("c", readLeft{hopeless})
	r.requireIdle("c")
}

// With a bound on its staleness a read is good as long as the last one that was
// confirmed is not older, and waits until what that had to see is applied.
func TestReadsOfBoundedStaleness(t *testing.T) {
	r := settledLeader(t)
	bounded := ReadOptions{MaxStaleness: beat}
	o := r.readAs("b", bounded)
	require.False(t, o.ended, "nothing is known yet")
	r.now += beat / 4
	r.answerRound("b", "a", r.core("b").round)
	require.True(t, o.ended)
	r.now += beat * 3 / 4
	require.True(t, r.readAs("b", bounded).ended, "it is as good as the first, of a beat ago")
	round := r.core("b").round
	require.False(t, r.readAs("b", ReadOptions{}).ended)
	require.Equal(t, round+1, r.core("b").round)
	r.now++
	require.False(t, r.readAs("b", bounded).ended, "the first came longer ago, if not its answer")
	r.answerRound("b", "a", r.core("b").round)
	require.True(t, r.readAs("b", ReadOptions{Level: ReadConfirmed, MaxStaleness: time.Hour}).ended)
}

// A follower's state is as good as when it asked, not as when it heard from the leader since.
func TestFollowersReadsOfBoundedStaleness(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.settle()
	bounded := ReadOptions{MaxStaleness: beat}
	first := r.readAs("b", bounded)
	asked := mail[*ForwardRequest](r, "b", "a")
	require.Len(t, asked, 1)
	r.now += beat / 2
	r.askHeartbeat("a", "b", Heartbeat{Term: r.core("a").currentTerm, Round: r.core("a").round})
	r.now += beat / 2
	r.do("b", forwardAnswered{"a", asked[0], &ForwardResponse{Index: 2}, nil})
	require.True(t, first.ended)
	require.True(t, r.readAs("b", bounded).ended)
	r.now++
	require.False(t, r.readAs("b", bounded).ended, "it was asked longer ago, if not answered")
}

// LS5: what a read by a lease has made sure of rests on a clock, so a read that must not rely on
// any is not answered by that, however much it may miss.
func TestLS5BoundedReadsThatAreConfirmedUseNoLease(t *testing.T) {
	r := leasing(t)
	r.quietRound("b", "a", r.core("b").round, wait)
	r.requireLease("b", true, "a has answered")
	require.True(t, r.readAs("b", ReadOptions{MaxStaleness: beat}).ended)
	o := r.readAs("b", ReadOptions{Level: ReadConfirmed, MaxStaleness: beat})
	require.False(t, o.ended, "only a clock says that nobody else leads")
	r.quietRound("b", "c", r.core("b").round, wait)
	require.True(t, o.ended)
	require.NoError(t, o.err)
	require.True(t, r.readAs("b", ReadOptions{Level: ReadConfirmed, MaxStaleness: beat}).ended, "a round says it now")
}

// Who wants no clock relied on gets a round, whatever the lease says.
func TestConfirmedReadsNeedNoLease(t *testing.T) {
	r := leasing(t)
	r.quietRound("b", "a", r.core("b").round, wait)
	r.requireLease("b", true, "it is held")
	o := r.readAs("b", ReadOptions{Level: ReadConfirmed})
	require.False(t, o.ended)
	r.answerRound("b", "c", r.core("b").round)
	require.True(t, o.ended)
}

// R6: a follower asks the leader what to wait for, and waits until it has applied that;
// so it does after a restart, before which it had applied more.
func TestR6FollowerReadsWhatItHasApplied(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.settle()
	r.node("b").slow = true
	r.propose("a", "x")
	r.settle()
	o := r.readIndex("b")
	r.settle()
	require.False(t, o.ended, "it is confirmed, and x is not applied here")
	r.node("b").slow = false
	r.settle()
	require.True(t, o.ended)
	require.NoError(t, o.err)
	require.Contains(t, r.node("b").machine.commands, "x")

	r.restart("b")
	r.node("b").slow = true
	r.pass(beat)
	o = r.readIndex("b")
	r.settle()
	require.False(t, o.ended)
	r.node("b").slow = false
	r.settle()
	require.True(t, o.ended)
	require.NoError(t, o.err)
	require.Contains(t, r.node("b").machine.commands, "x")
	r.requireIdle("a")
	r.requireIdle("b")
}

// R3: reads of a follower share a question to the leader. One that is on its way covers
// none that come later.
func TestR3FollowersReadsShareQuestions(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.settle()
	one := r.readIndex("b")
	two, three := r.readIndex("b"), r.readIndex("b")
	asked := mail[*ForwardRequest](r, "b", "a")
	require.Len(t, asked, 1, "the others wait for the next")
	r.propose("a", "x")
	r.settle()
	r.do("b", forwardAnswered{"a", asked[0], &ForwardResponse{Index: 2}, nil})
	require.True(t, one.ended)
	require.False(t, two.ended || three.ended)
	r.do("b", forwardAnswered{"a", asked[0], &ForwardResponse{Index: 2}, nil}) // once more
	require.False(t, two.ended || three.ended)
	r.settle()
	require.True(t, two.ended && three.ended)
	require.Equal(t, Index(3), two.index)
	r.requireIdle("b")
}

// R3: questions of several members share a round, and who asks last sees what was committed
// since the first asked.
func TestR3LaterQuestionSeesWhatWasCommittedSince(t *testing.T) {
	r := settledLeader(t)
	r.readIndex("b") // its round is under way
	first := r.ask("a", "b", &ForwardRequest{Kind: ForwardReadIndex})
	r.propose("b", "x")
	r.settle()
	r.acknowledge("b", "a", 5)
	r.settle()
	require.Equal(t, Index(5), r.core("b").commitIndex)
	second := r.ask("c", "b", &ForwardRequest{Kind: ForwardReadIndex})
	r.answerRound("b", "a", r.core("b").round) // and the next begins
	require.False(t, first.done || second.done)
	r.answerRound("b", "a", r.core("b").round)
	require.Equal(t, &ForwardResponse{Index: 5}, answerOf[*ForwardResponse](r, second))
	require.True(t, first.done)
}

// LS5: a question about a read that must not rely on clocks is answered by a round.
func TestLS5QuestionsAboutConfirmedReadsUseNoLease(t *testing.T) {
	r := leasing(t)
	r.quietRound("b", "a", r.core("b").round, wait)
	r.requireLease("b", true, "a has answered")
	ask := func(level ReadLevel) *given {
		return r.ask("a", "b", &ForwardRequest{Kind: ForwardReadIndex, Payload: []byte{byte(level)}})
	}
	require.True(t, ask(ReadLinearizable).done)
	confirmed := ask(ReadConfirmed)
	require.False(t, confirmed.done, "by no clock")
	r.answerRound("b", "c", r.core("b").round)
	require.True(t, confirmed.done)
}

// LS5: a question is for the strictest of those who share it, whoever of them comes last.
func TestLS5QuestionsAreForTheStrictest(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.settle()
	r.readIndex("b")
	asked := mail[*ForwardRequest](r, "b", "a")
	require.Len(t, asked, 1)
	require.Equal(t, ReadLinearizable, readOptionsIn(asked[0]).Level)
	r.readIndex("b")
	r.readAs("b", ReadOptions{Level: ReadConfirmed})
	r.readIndex("b")
	r.do("b", forwardAnswered{"a", asked[0], &ForwardResponse{Index: 2}, nil})
	asked = mail[*ForwardRequest](r, "b", "a")
	require.Len(t, asked, 1)
	require.Equal(t, ReadConfirmed, readOptionsIn(asked[0]).Level)
}

// LS5: what a leader may have answered by its clock says nothing to reads that must not rely on
// one, however stale they may be.
func TestLS5AnswersByTheClockAreNoRounds(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.settle()
	first := r.readIndex("b")
	asked := mail[*ForwardRequest](r, "b", "a")
	require.Len(t, asked, 1)
	r.do("b", forwardAnswered{"a", asked[0], &ForwardResponse{Index: 2}, nil})
	require.True(t, first.ended)
	require.True(t, r.readAs("b", ReadOptions{MaxStaleness: time.Hour}).ended)
	require.False(t, r.readAs("b", ReadOptions{Level: ReadConfirmed, MaxStaleness: time.Hour}).ended)
}

// R3: those who leave take nothing with them that an answer says about others.
func TestR3ReadersThatLeave(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.settle()
	first := &readWait{done: func(Index, error) { require.Fail(t, "it has left") }}
	r.do("b", first)
	second := r.readIndex("b")
	r.do("b", readLeft{first})
	asked := mail[*ForwardRequest](r, "b", "a")
	require.Len(t, asked, 1)
	r.do("b", forwardAnswered{"a", asked[0], &ForwardResponse{Index: 2}, nil})
	require.False(t, second.ended, "the question left before it came")
	r.settle()
	require.True(t, second.ended)
	require.NoError(t, second.err)
	r.requireIdle("b")
}

// R7: what is counted is who waits: those of a group that have left do not, and the group
// goes with the last of them.
func TestR7WhoLeavesAGroupIsNotCounted(t *testing.T) {
	for _, id := range []NodeID{"a", "b"} {
		r := newCluster(t, "a b c")
		r.elect("a")
		r.settle()
		ends := 0
		group := &readWait{others: 4, done: func(Index, error) { ends++ }}
		r.do(id, group)
		waiting := &r.node(id).driver.reads
		require.Equal(t, 5, waiting.count)
		r.do(id, readLeft{group}, readLeft{group})
		require.Equal(t, 3, waiting.count)
		require.Len(t, waiting.batches[0].waiting, 1)
		r.do(id, readLeft{group}, readLeft{group})
		r.do(id, readLeft{group})
		require.Zero(t, waiting.count)
		require.Empty(t, waiting.batches[0].waiting)
		r.settle()
		require.Zero(t, ends)
		r.requireIdle(id)

		group = &readWait{others: 4, done: func(Index, error) { ends++ }}
		r.do(id, group)
		r.do(id, readLeft{group})
		r.settle()
		require.Equal(t, 1, ends)
		r.requireIdle(id)
	}
}

// R2: a read of a follower of a leader that others have replaced is not confirmed, and
// ends at once when the follower hears of another leader.
func TestR2FollowerOfAPartitionedLeader(t *testing.T) {
	r := newCluster(t, "a b c d e")
	r.elect("a")
	r.part("a b", "c d e")
	r.quiet()
	for _, p := range r.core("a").peers {
		p.contact = r.now // else it would step down by its clock alone
	}
	r.timeOut("c")
	r.settle()
	require.Equal(t, Leader, r.core("c").role)
	r.propose("c", "x=2")
	r.settle()
	o := r.readIndex("b")
	r.settle()
	require.False(t, o.ended)
	r.heal()
	r.part("a", "b c d e")
	r.passUntil(10*wait, "b follows c", func() bool { return r.core("b").leader == "c" })
	require.True(t, o.ended)
	require.ErrorIs(t, o.err, ErrNotLeader)
	o = r.readIndex("b")
	r.settle()
	require.True(t, o.ended)
	require.NoError(t, o.err)
	require.Contains(t, r.node("b").machine.commands, "x=2")
	r.heal()
	r.requireHealthy()
	r.requireIdle("a")
	r.requireIdle("b")
}

// A leader that is asked by a follower answers what it would answer itself, and who does
// not lead says who does.
func TestForwardedReads(t *testing.T) {
	r := settledLeader(t)
	answer := r.ask("a", "b", &ForwardRequest{Kind: ForwardReadIndex})
	require.False(t, answer.done)
	r.answerRound("b", "c", r.core("b").round)
	require.Equal(t, &ForwardResponse{Index: 4}, answerOf[*ForwardResponse](r, answer))
	unknown := r.ask("a", "b", &ForwardRequest{Kind: 77})
	require.ErrorIs(t, unknown.err, ErrUnsupported)

	f := follower(t, at{log: "1 1", term: 2})
	f.askHeartbeat("a", "b", Heartbeat{Term: 2, LeaderAddress: "a.example:1"})
	response := answerOf[*ForwardResponse](f, f.ask("c", "b", &ForwardRequest{Kind: ForwardReadIndex}))
	require.Equal(t, CodeNotLeader, response.Code)
	require.Equal(t, NodeID("a"), response.Leader)
	require.Equal(t, "a.example:1", response.Address)
}
