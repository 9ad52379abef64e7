package raft

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Changes of the members and of the leader, step by step: what went wrong in other
// implementations, and must not here. See testdata/scenarios.md; more of these stories
// are told in testdata/scripts.

// part leaves only the links within groups of nodes, which are given by their letters.
func (r *rig) part(groups ...string) {
	r.heal()
	for i, group := range groups {
		for _, other := range groups[i+1:] {
			for _, a := range strings.Fields(group) {
				for _, b := range strings.Fields(other) {
					r.disconnect(NodeID(a), NodeID(b))
				}
			}
		}
	}
}

// settleUntil lets things happen that take no time, until something holds.
func (r *rig) settleUntil(holds func() bool) {
	r.t.Helper()
	for !holds() {
		require.True(r.t, r.settleOne(), "%s", r)
	}
}

// quiet has everybody wait for a leader for long enough to vote.
func (r *rig) quiet() {
	r.now += wait
	for _, id := range r.ids {
		if r.up(id) {
			r.core(id).electionDeadline = max(r.core(id).electionDeadline, r.now+wait)
		}
	}
}

// withJoiners returns a cluster of founding members, the first of which leads, and of
// nodes that wait to be taken in.
func withJoiners(t *testing.T, members, joiners string) *rig {
	r := newRig(t, members)
	r.addJoiners(joiners)
	for _, id := range r.ids {
		r.start(id)
	}
	r.elect(r.ids[0])
	return r
}

func (r *rig) membersOf(id NodeID) string { return membersLine(r.core(id).configuration) }

// M1: two leaders change one and the same configuration, one voter each. If the second
// does not wait for an entry of its own term, each has a majority without the other.
func TestM1NoChangeBeforeAnOwnEntryIsCommitted(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second func(*rig) []MemberChange
		apart         string // whom the first leader wins with, in the end
	}{
		{"add and remove", func(r *rig) []MemberChange { return []MemberChange{r.adds("e")} }, func(*rig) []MemberChange { return []MemberChange{removes("a")} }, "a d e"},
		{"two adds", func(r *rig) []MemberChange { return []MemberChange{r.adds("e")} }, func(r *rig) []MemberChange { return []MemberChange{r.adds("f")} }, "a d e"},
		{"two removes", func(*rig) []MemberChange { return []MemberChange{removes("b")} }, func(*rig) []MemberChange { return []MemberChange{removes("a")} }, "a d"},
		{"joint", func(r *rig) []MemberChange { return []MemberChange{r.adds("e")} }, func(r *rig) []MemberChange { return []MemberChange{removes("a"), r.adds("f")} }, "a d e"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := withJoiners(t, "a b c d", "e f")
			r.part("a e", "b c d f")
			first := r.change("a", 0, c.first(r)...)
			r.settle()
			require.Equal(t, Index(3), r.core("a").configuration.index)
			require.False(t, first.ended)
			r.pass(wait) // it steps down

			// b leads, and reaches nobody but c, so nothing of its term is committed.
			r.quiet()
			r.timeOut("b")
			r.settleUntil(func() bool { return r.core("b").role == Leader })
			r.part("a d e", "b c f")
			second := r.change("b", 0, c.second(r)...)
			require.Equal(t, Index(1), r.core("b").configuration.index, "it has no entry of its own term")
			r.settle()
			require.Equal(t, Index(1), r.core("b").configuration.index)
			require.Less(t, r.core("b").commitIndex, Index(3))
			require.False(t, second.ended, "it waits")

			// The first leader is elected by others. The rig checks that it lacks nothing
			// that is committed.
			r.part(c.apart, "b c f")
			r.elect("a")
			r.heal()
			r.pass(2 * wait)
			require.ErrorIs(t, second.err, ErrNotLeader)
			r.requireHealthy()
		})
	}
}

// M1: the change that waits is made as soon as it may be.
func TestM1ChangeWaitsForAnOwnEntry(t *testing.T) {
	r := withJoiners(t, "a b c", "d")
	r.quiet()
	r.timeOut("b")
	r.settleUntil(func() bool { return r.core("b").role == Leader })
	add := r.change("b", 1, r.adds("d"))
	require.False(t, add.ended)
	r.settle()
	require.Equal(t, decision{true, 4, nil}, *add)
	require.Equal(t, "a b c d", r.membersOf("d"))
	r.requireHealthy()
}

// M1: what the leader before has changed is committed with the first entry of the next
// one, which no operator should have to know of.
func TestM1ChangeWaitsForTheOneOfTheLeaderBefore(t *testing.T) {
	r := withJoiners(t, "a b c", "d")
	r.change("a", 0, r.addsLearner("d"))
	r.settleUntil(func() bool { return r.core("b").configuration.index == 3 && r.core("c").configuration.index == 3 })
	r.isolate("a")
	r.quiet()
	r.timeOut("b")
	r.settleUntil(func() bool { return r.core("b").role == Leader })
	require.Less(t, r.core("b").commitIndex, Index(3))
	remove := r.change("b", 3, removes("d"))
	require.False(t, remove.ended)
	r.settle()
	require.Equal(t, decision{true, 5, nil}, *remove)
}

// M3: an uncommitted configuration goes with its entry, from memory, from the disk,
// and for the next process.
func TestM3ConfigurationGoesWithItsEntry(t *testing.T) {
	for _, joint := range []bool{false, true} {
		r := withJoiners(t, "a b c d e", "f g")
		r.part("a b", "c d e f g")
		changes := []MemberChange{r.adds("f")}
		if joint {
			changes = append(changes, r.adds("g"), removes("b"))
		}
		r.change("a", 0, changes...)
		r.settle()
		require.Equal(t, Index(3), r.core("b").configuration.index, "it is in force from its entry on")
		require.Equal(t, joint, r.core("b").configuration.isJoint())
		require.Len(t, r.hardState("b").Configurations, 2)
		r.restart("b")
		require.Equal(t, Index(3), r.core("b").configuration.index)

		r.quiet()
		r.timeOut("c")
		r.settle()
		require.Equal(t, Leader, r.core("c").role)
		r.part("a", "b c d e f g")
		r.pass(beat)
		require.True(t, r.told("b", "replace entries"))
		require.Equal(t, "a b c d e", r.membersOf("b"))
		require.Equal(t, Index(1), r.core("b").configuration.index)
		require.Len(t, r.hardState("b").Configurations, 1)
		r.restart("b")
		require.Equal(t, "a b c d e", r.membersOf("b"))

		second := r.change("c", 1, r.adds("g"))
		r.settle()
		require.True(t, second.ended)
		require.NoError(t, second.err)
		require.Equal(t, "a b c d e g", r.membersOf("b"))
		r.heal()
		r.requireHealthy()
		require.Equal(t, "a b c d e g", r.membersOf("a"))
	}
}

// M4: a newcomer is made a voter at once and cannot be reached, so the leader steps
// down. It has not called the newcomer then, whose vote is needed for any other leader.
func TestM4NewcomerVotesForACandidate(t *testing.T) {
	r := newRig(t, "a")
	r.addJoiners("b")
	r.start("a")
	r.settle()
	o := r.change("a", 0, r.adds("b"))
	r.pass(2 * wait)
	require.ErrorIs(t, o.err, ErrOutcomeUnknown)
	require.Empty(t, r.leader())
	r.table = nil // what a has sent is lost
	r.start("b")
	r.requireHealthy()
	require.Equal(t, "a b", r.membersOf("b"))
}

// M5: a leader takes itself out, and nobody else has heard of it when its process ends.
// Its log is the longest, so only it can win: not being a voter any more in its own
// eyes, it still campaigns (thesis §4.2.2), and finishes what it has begun.
func TestM5RemovedLeaderIsStillNeeded(t *testing.T) {
	r := newCluster(t, "a b")
	r.elect("a")
	r.part("a", "b")
	r.change("a", 0, removes("a"))
	r.settle()
	require.Equal(t, "b", r.membersOf("a"))
	require.Equal(t, Index(2), r.core("a").commitIndex, "it does not count")
	r.restart("a")
	r.heal()
	r.passUntil(10*wait, "a leads to the end of the change", func() bool { return !r.up("a") })
	require.ErrorIs(t, r.node("a").failure, ErrRemoved)
	r.requireHealthy()
	require.Equal(t, "b", r.membersOf("b"))
	require.Equal(t, NodeID("b"), r.leader())
}

// M5: a leader that takes itself out needs a majority of the others, without itself.
func TestM5RemovedLeaderDoesNotCount(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.isolate("c")
	r.change("a", 0, removes("a"))
	r.settle()
	require.Equal(t, Index(3), r.core("a").peer("b").match)
	require.Equal(t, Index(2), r.core("a").commitIndex)
	r.heal()
	r.passUntil(10*wait, "the change ends", func() bool { return !r.up("a") })
	r.requireHealthy()
}

// M5: who knows that it was taken out does not campaign.
func TestM5RemovedMemberDoesNotCampaign(t *testing.T) {
	r := newCluster(t, "a b c d")
	r.elect("a")
	r.change("a", 0, removes("d"))
	r.settle()
	require.Equal(t, Index(3), r.core("d").commitIndex)
	r.quiet()
	r.timeOut("d")
	require.Equal(t, Follower, r.core("d").role)
	require.Empty(t, mail[*VoteRequest](r, "d", "a"))
}

// M2, M5: an answer of who has left changes no term.
func TestM2AnswerOfARemovedMemberDeposesNobody(t *testing.T) {
	r := newCluster(t, "a b c d")
	r.elect("a")
	r.isolate("d")
	r.change("a", 0, removes("d"))
	r.settle()
	term := r.core("a").currentTerm
	require.NotNil(t, r.core("a").peer("d"), "it is to learn that it has left")
	late := Term(9)
	r.do("a", heartbeatAnswered{"d", term, &HeartbeatResponse{Term: late, Incarnation: r.node("d").incarnation}, nil})
	r.do("a", appendAnswered{"d", term, &AppendResponse{Term: late, Incarnation: r.node("d").incarnation}})
	r.do("a", voteAnswered{"d", term, false, &VoteResponse{Term: late, Incarnation: r.node("d").incarnation}, nil})
	require.Equal(t, Leader, r.core("a").role)
	require.Equal(t, term, r.core("a").currentTerm)
	r.do("a", heartbeatAnswered{"c", term, &HeartbeatResponse{Term: late, Incarnation: r.node("c").incarnation}, nil})
	require.Equal(t, late, r.core("a").currentTerm, "a member's does")
}

// M2: who has left and has not the whole log yet, of a leader since, does not know yet
// what it is told, and is told so again.
func TestM2RemovedMemberReadsUpToTheLeader(t *testing.T) {
	r := newRig(t, "a b c d")
	r.tune = func(s *coreSettings) { s.maxBatchBytes, s.maxInflightMessages = 1, 1 }
	for _, id := range r.ids {
		r.start(id)
	}
	r.elect("a")
	r.isolate("d")
	r.change("a", 0, removes("d"))
	r.settle()
	r.propose("a", "x", "y")
	r.settle()
	r.propose("a", "z")
	r.settle()
	r.elect("b")
	removal := r.core("b").configuration.index
	r.heal()
	r.now = r.core("b").heartbeatDue
	r.do("b")
	r.settleUntil(func() bool { p := r.core("b").peer("d"); return p != nil && p.match == removal })
	r.now = r.core("b").heartbeatDue
	r.do("b")
	r.pass(2 * wait)
	require.ErrorIs(t, r.node("d").failure, ErrRemoved)
}

// M2: who was taken out and starts again with Join waits, though its leader may go on
// telling it that it is out; and is a member as before once it is added.
func TestM2RemovedMemberMayJoinAgain(t *testing.T) {
	r := newRig(t, "a b")
	r.addJoiners("d")
	for _, id := range []NodeID{"a", "b", "d"} {
		r.start(id)
	}
	r.elect("a")
	for _, role := range []MemberRole{Learner, Voter} {
		r.change("a", 0, MemberChange{ChangeAdd, r.memberCalled("d", role)})
		r.settle()
		r.change("a", 0, removes("d"))
		r.settle()
		r.pass(wait)
		require.ErrorIs(t, r.node("d").failure, ErrRemoved)
		r.restart("d")
		r.askHeartbeat("a", "d", Heartbeat{Term: r.core("a").currentTerm, Configuration: r.core("a").configuration.index, Commit: r.core("a").commitIndex})
		require.NoError(t, r.node("d").failure)
	}
	r.change("a", 0, r.adds("d"))
	r.settle()
	r.pass(wait)
	require.Equal(t, r.core("a").log.last(), r.core("a").peer("d").match)
}

// M2: who is taken out before its leader has met it is told so, too.
func TestM2RemovedBeforeItWasMet(t *testing.T) {
	r := newRig(t, "a b c")
	r.addJoiners("d")
	for _, id := range []NodeID{"a", "b", "c", "d"} {
		r.start(id)
	}
	r.elect("a")
	r.isolate("d")
	r.change("a", 0, MemberChange{ChangeAdd, r.memberCalled("d", Learner)})
	r.settle()
	require.True(t, r.core("a").peer("d").unmet)
	r.change("a", 0, removes("d"))
	r.settle()
	r.heal()
	r.pass(2 * wait)
	require.ErrorIs(t, r.node("d").failure, ErrRemoved)
}

// M13: a member cannot be given the role that only a joint phase gives.
func TestM13NobodyIsMadeToLeave(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	leaves := func(id NodeID) MemberChange { return MemberChange{ChangeUpdate, r.memberCalled(id, Leaving)} }
	require.ErrorIs(t, r.change("a", 0, leaves("b")).err, ErrInvalidChange)
	require.ErrorIs(t, r.change("a", 0, leaves("b"), leaves("c")).err, ErrInvalidChange)
}

// The hard state holds all configurations that the log does, and a disk takes only so
// much of it: a leader makes no change that would stop every member.
func TestConfigurationsFitIntoTheHardState(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	update := r.promotes("b")
	update.Member.Metadata = make([]byte, maxMetadataBytes)
	var err error
	for range 400 {
		if o := r.change("a", 0, update); o.err != nil {
			err = o.err
			break
		}
		r.settle()
	}
	require.ErrorIs(t, err, ErrInvalidChange)
	for _, id := range r.ids {
		state := r.hardState(id)
		bytes, err := state.marshal(nil)
		require.NoError(t, err)
		require.Less(t, len(bytes), 1<<20)
	}
	r.propose("a", "1", "2", "3")
	r.settle()
	r.takeSnapshot("a")
	r.settle()
	require.NoError(t, r.change("a", 0, update).err, "the log is compacted")
}

// M11: a newcomer that answers heartbeats, and whose disk does not, holds up nobody for
// ever who waits for it; nor do many who wait no more.
func TestM11NewcomerWhoseDiskHangs(t *testing.T) {
	r := withJoiners(t, "a b c", "d")
	r.change("a", 0, r.addsLearner("d"))
	r.pass(3 * beat)
	r.stall("d")
	r.propose("a", "x")
	first, last := new(decision), new(decision)
	r.do("a", catchUpWanted{"d", first.end(t)})
	for range 100 {
		last = new(decision)
		r.do("a", catchUpWanted{"d", last.end(t)})
	}
	require.ErrorIs(t, last.err, ErrChangeInProgress)
	r.pass(99 * wait)
	require.False(t, first.ended)
	require.Less(t, r.now-r.core("a").peer("d").contact, wait, "it answers")
	r.pass(9 * wait)
	require.ErrorIs(t, first.err, ErrCannotFollow)
}

// A leader that stops does not send to itself those who wait.
func TestStoppedLeaderEndsWaits(t *testing.T) {
	r := leading(t, at{log: "1", term: 1, commit: 1}) // nothing of its term is committed
	change := r.change("b", 0, removes("c"))
	require.False(t, change.ended)
	d := r.node("b").driver
	d.endMembershipWaits(ErrStopped)
	for _, o := range d.work.outcomes {
		o.done(o.index, o.err)
	}
	require.Equal(t, decision{true, 0, ErrStopped}, *change)
}

// W4: no bytes make one voter two.
func TestW4NoMemberIsThereTwice(t *testing.T) {
	a, b := Member{ID: "a", Address: "x", Role: Voter}, Member{ID: "b", Address: "y", Role: Voter}
	for _, c := range []configuration{
		{members: []Member{a, b, b}},
		{members: []Member{a, b}, outgoing: []NodeID{"a", "a"}},
		{members: []Member{{Address: "x", Role: Voter}, a}},
	} {
		_, err := decodeConfiguration(1, c.encode())
		require.ErrorIs(t, err, ErrInvalidMessage)
	}
}

// M2: a member that was taken in again reads of its removal of long ago, and goes on:
// its leader has a later configuration in force. Nor does a newcomer stop that reads of
// the time before it was taken in.
func TestM2OldRemovalIsNoRemoval(t *testing.T) {
	for _, belongs := range []bool{true, false} {
		r := newRig(t, "a b c")
		r.addJoiners("d")
		id := NodeID("d")
		if belongs {
			id = "c"
		}
		r.start(id)
		two := configuration{members: []Member{r.memberCalled("a", Voter), r.memberCalled("b", Voter)}}
		entries := append(r.logEntries("1 2"), LogEntry{2, 3, EntryConfiguration, two.encode()})
		r.askAppend("a", id, AppendEntries{Term: 2, Entries: MakeEntries(entries...), LeaderCommit: 3})
		r.askHeartbeat("a", id, Heartbeat{Term: 2, Commit: 3, Configuration: 9})
		require.True(t, r.up(id))
		r.askHeartbeat("a", id, Heartbeat{Term: 2, Commit: 3, Configuration: 3})
		require.Equal(t, !belongs, r.up(id), "%v", r.node(id).failure)
	}
}

// inJoint returns a rig in which c is to lead from the voters a, b and c to c, d and e.
// All others are puppets. Nobody has acknowledged the joint configuration, entry 3.
func inJoint(t *testing.T) *rig {
	r := newRig(t, "a b c")
	r.addJoiners("d e")
	r.startAt("c", at{log: "1", term: 1, commit: 1})
	r.crown("c")
	r.finishWrite("c")
	r.acknowledge("c", "a", 2)
	require.Equal(t, Index(2), r.core("c").commitIndex)
	r.change("c", 0, r.adds("d"), r.adds("e"), removes("a"), removes("b"))
	r.finishWrite("c")
	r.met("c", "d", "e")
	require.Equal(t, "c d e, and before a b c", r.membersOf("c"))
	return r
}

// eachSubset calls f with every set of those nodes.
func eachSubset(ids []NodeID, f func([]NodeID)) {
	for bits := range 1 << len(ids) {
		var set []NodeID
		for i, id := range ids {
			if bits>>i&1 == 1 {
				set = append(set, id)
			}
		}
		f(set)
	}
}

// M6: with c, each half of a, b, c and of c, d, e needs one more.
func TestM6BothHalvesMustAgree(t *testing.T) {
	agree := func(set []NodeID) bool {
		has := func(id NodeID) bool { return slices.Contains(set, id) }
		return (has("a") || has("b")) && (has("d") || has("e"))
	}
	others := []NodeID{"a", "b", "d", "e"}
	eachSubset(others, func(set []NodeID) {
		t.Run(fmt.Sprint(set), func(t *testing.T) {
			t.Run("commits", func(t *testing.T) {
				r := inJoint(t)
				require.True(t, r.node("c").driver.status(r.now).Joint)
				for _, id := range set {
					r.acknowledge("c", id, 3)
					r.finishWrite("c")
				}
				require.Equal(t, agree(set), r.core("c").commitIndex >= 3)
				require.Equal(t, agree(set), !r.core("c").configuration.isJoint(), "it ends once both have it")
			})
			t.Run("elects", func(t *testing.T) {
				r := inJoint(t)
				r.restart("c")
				r.quiet()
				r.timeOut("c")
				for _, id := range set {
					r.grantFrom("c", id)
					r.finishWrite("c")
				}
				require.Equal(t, agree(set), r.core("c").role != PreCandidate, "pre-votes")
				r.quiet()
				r.timeOut("c")
				for _, id := range others {
					r.grantFrom("c", id)
					r.finishWrite("c")
				}
				if r.core("c").role == Leader {
					return // with answers to the pre-vote it was one before
				}
				require.Equal(t, Candidate, r.core("c").role)
			})
			t.Run("votes", func(t *testing.T) {
				r := inJoint(t)
				r.restart("c")
				r.quiet()
				r.timeOut("c")
				for _, id := range others {
					if r.core("c").role == PreCandidate {
						r.grantFrom("c", id)
						r.finishWrite("c")
					}
				}
				require.Equal(t, Candidate, r.core("c").role)
				for _, id := range set {
					if r.core("c").role == Candidate {
						r.grantFrom("c", id)
						r.finishWrite("c")
					}
				}
				require.Equal(t, agree(set), r.core("c").role == Leader)
			})
			t.Run("keeps the leader", func(t *testing.T) {
				r := inJoint(t)
				r.now += wait
				for _, id := range set {
					r.core("c").peer(id).contact = r.now
				}
				r.do("c")
				require.Equal(t, agree(set), r.core("c").role == Leader)
			})
		})
	})
}

// M14: of two changes at the same time one is refused. When one ends the next may
// begin in the same instant, and both learn their outcomes.
func TestM14OneChangeAtATime(t *testing.T) {
	r := withJoiners(t, "a b c", "d e")
	first, second := new(decision), new(decision)
	r.do("a", changeWanted{0, []MemberChange{r.adds("d")}, first.end(t)}, changeWanted{0, []MemberChange{r.adds("e")}, second.end(t)})
	require.ErrorIs(t, second.err, ErrChangeInProgress)
	require.False(t, first.ended)

	// The answer that commits the first change comes in one batch with another wish.
	r.hold("b", "a")
	r.isolate("c")
	r.settle()
	require.False(t, first.ended)
	acknowledged := appendAnswered{"b", 2, &AppendResponse{Term: 2, Success: true, Match: 3, Incarnation: r.node("b").incarnation}}
	joiner := appendAnswered{"d", 2, &AppendResponse{Term: 2, Success: true, Match: 3, Incarnation: r.node("d").incarnation}}
	third := new(decision)
	r.do("a", acknowledged, joiner, changeWanted{3, []MemberChange{r.adds("e")}, third.end(t)})
	require.Equal(t, decision{true, 3, nil}, *first)
	r.heal()
	r.pass(beat)
	require.Equal(t, decision{true, 4, nil}, *third)
	require.Equal(t, "a b c d e", r.membersOf("c"))

	// The index is that of the configuration that the change is based on.
	var mismatch *ConfigurationMismatchError
	require.ErrorAs(t, r.change("a", 3, removes("e")).err, &mismatch)
	require.Equal(t, Index(4), mismatch.Have)
	r.requireHealthy()
}

// M14: the leader changes in the middle of a change, wherever that is. What comes of it
// is one of the configurations that were wished for, and no joint one.
func TestM14LeaderChangesInAChange(t *testing.T) {
	const before, one, two, both = "a b c, learners d e", "b c d e", "a b c d", "b c d"
	seen := map[string]int{}
	for steps := range 80 {
		r := withJoiners(t, "a b c", "d e")
		r.change("a", 0, r.addsLearner("d"), r.addsLearner("e"))
		r.settle()
		first := r.change("a", 0, r.promotes("d"), r.promotes("e"), removes("a"))
		for range steps {
			r.settleOne()
		}
		r.isolate("a")
		r.pass(wait)
		leader := NodeID("")
		for try := 0; leader == ""; try++ {
			require.Less(t, try, 10)
			r.quiet()
			id := []NodeID{"b", "c"}[(steps+try)%2]
			r.timeOut(id)
			for r.core(id).role != Leader && r.settleOne() {
			}
			if r.core(id).role == Leader {
				leader = id
			}
		}
		second := r.change(leader, 0, r.promotes("d"), removes("e"))
		r.pass(2 * wait)
		r.heal()
		r.pass(4 * wait)
		r.requireHealthy()
		members := r.membersOf(r.leader())
		seen[members]++
		require.True(t, second.ended)
		require.Contains(t, []string{one, two, both}, members)
		require.Equal(t, members != one, second.err == nil, "%v", second.err)
		if first.ended && first.err == nil {
			require.NotEqual(t, two, members)
		}
	}
	require.Positive(t, seen[one])
	require.Positive(t, seen[two])
	require.Positive(t, seen[both])
	require.Zero(t, seen[before])
}

// M16: learners stay what they are when voters change.
func TestM16LearnersStayWhenVotersChange(t *testing.T) {
	r := withJoiners(t, "a", "b c d")
	for _, id := range []NodeID{"b", "c", "d"} {
		o := r.change("a", 0, r.addsLearner(id))
		r.settle()
		require.NoError(t, o.err)
	}
	o := r.change("a", 0, r.promotes("b"), r.promotes("c"))
	require.Equal(t, "a b c, and before a, learners d", r.membersOf("a"))
	r.settle()
	require.True(t, o.ended)
	require.Equal(t, "a b c, learners d", r.membersOf("d"))
	r.propose("a", "x")
	r.settle()
	require.Equal(t, []string{"x"}, r.node("d").machine.commands)
	r.requireHealthy()
}

// T4: leadership is handed over to nobody who cannot lead, and who is asked late does
// not campaign.
func TestT4BadSuccessors(t *testing.T) {
	r := withJoiners(t, "a b c", "d")
	r.change("a", 0, r.addsLearner("d"))
	r.settle()
	r.change("a", 0, removes("c"))
	r.settle()
	for id, want := range map[NodeID]error{"a": nil, "d": ErrTransferFailed, "c": ErrUnknownMember, "x": ErrUnknownMember} {
		o := r.transfer("a", id)
		require.True(t, o.ended, "%s", id)
		require.ErrorIs(t, o.err, want, "%s", id)
		require.Nil(t, r.core("a").handover)
		done := r.propose("a", "x")[0]
		r.settle()
		require.True(t, done.ended && done.err == nil, "nobody waits for it")
	}
	require.Equal(t, Term(2), r.core("a").currentTerm)

	// Asked in vain, and demoted since: it must not campaign.
	r.hold("a", "b")
	failed := r.transfer("a", "b")
	require.ErrorIs(t, r.change("a", 0, r.demotes("b")).err, ErrChangeInProgress)
	require.ErrorIs(t, r.transfer("a", "b").err, ErrTransferFailed, "it is being done")
	asked := r.remove(func(p *packet) bool { _, ok := p.request.(*TimeoutNow); return ok })
	require.Len(t, asked, 1)
	r.release("a", "b")
	r.pass(wait)
	require.ErrorIs(t, failed.err, ErrTransferFailed)
	demoted := r.change("a", 0, r.demotes("b"))
	r.pass(beat)
	require.NoError(t, demoted.err)
	again := *asked[0]
	r.deliver(asked[0])
	require.Equal(t, Follower, r.core("b").role)
	r.settle()
	require.Equal(t, Leader, r.core("a").role)

	// A term later: it is another leader's wish.
	r.change("a", 0, r.promotes("b"))
	r.pass(beat)
	r.restart("a")
	r.pass(10 * wait)
	leader := r.leader()
	term := r.core(leader).currentTerm
	require.Greater(t, term, Term(2))
	r.deliver(&again)
	r.settle()
	require.Equal(t, leader, r.leader())
	require.Equal(t, term, r.core("b").currentTerm)
	r.requireHealthy()
}

// T4: the flag of a transfer lifts the quiet that a voter owes to its leader, and not
// its vote (thesis §3.10, §4.2.3).
func TestT4TransferLeavesVotesAsTheyAre(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1", term: 2})
	r.askHeartbeat("a", "b", Heartbeat{Term: 2})
	request := VoteRequest{Term: 3, LastLogIndex: 2, LastLogTerm: 1}
	require.Equal(t, RefusalHasLeader, r.askVote("c", "b", request).Refusal)
	request.Transfer = true
	require.True(t, r.askVote("c", "b", request).VoteGranted)
	require.Equal(t, RefusalVoted, r.askVote("a", "b", request).Refusal)
	require.Equal(t, NodeID("c"), r.core("b").votedFor)
	request.Term, request.LastLogIndex = 4, 1
	require.Equal(t, RefusalLongerLog, r.askVote("a", "b", request).Refusal)

	// Nor does who is asked to campaign forget whom it has voted for.
	r.askHeartbeat("c", "b", Heartbeat{Term: 4})
	late := r.ask("c", "b", &TimeoutNow{Term: 3})
	require.False(t, answerOf[*TimeoutNowResponse](r, late).Started, "it is about a term that is over")
	r.ask("c", "b", &TimeoutNow{Term: 4})
	require.Equal(t, Term(5), r.core("b").currentTerm, "it votes for itself in a new term")
}

// T4: of two transfers the second may begin in the instant in which the first fails.
func TestT4TransferAfterOneThatFailed(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.hold("a", "b")
	first, second := r.transfer("a", "b"), new(decision)
	r.do("a", timeoutNowAnswered{"b", 2, nil, errUnreachableInRig}, transferWanted{"c", second.end(t)})
	require.ErrorIs(t, first.err, ErrTransferFailed)
	r.settle()
	require.Equal(t, Leader, r.core("c").role)
	require.True(t, second.ended)
	require.NoError(t, second.err)
}

// C6: learners may acknowledge, answer and vote as they like.
func TestC6LearnersAreNotCounted(t *testing.T) {
	learning := func(t *testing.T) *rig {
		r := newRig(t, "a b c")
		r.addJoiners("d e")
		r.startAt("a", at{log: "1", term: 1, commit: 1})
		r.crown("a")
		r.finishWrite("a")
		for i, id := range []NodeID{"d", "e"} {
			r.acknowledge("a", "b", Index(i)+2)
			r.change("a", 0, r.addsLearner(id))
			r.finishWrite("a")
			r.met("a", id)
		}
		r.acknowledge("a", "b", 4)
		require.Equal(t, Index(4), r.core("a").commitIndex)
		require.Equal(t, "a b c, learners d e", r.membersOf("a"))
		return r
	}
	acknowledge := func(r *rig, index Index, ids ...NodeID) {
		for _, id := range ids {
			r.acknowledge("a", id, index)
			r.finishWrite("a")
		}
	}

	r := learning(t)
	r.propose("a", "x")
	r.finishWrite("a")
	acknowledge(r, 5, "d", "e")
	require.Equal(t, Index(4), r.core("a").commitIndex, "commits")
	acknowledge(r, 5, "c")
	require.Equal(t, Index(5), r.core("a").commitIndex)

	r = learning(t)
	r.now += wait
	r.core("a").peer("d").contact, r.core("a").peer("e").contact = r.now, r.now
	r.do("a")
	require.Equal(t, Follower, r.core("a").role, "contact")

	r = learning(t)
	r.restart("a")
	r.quiet()
	r.timeOut("a")
	require.Empty(t, mail[*VoteRequest](r, "a", "d"), "nobody asks them")
	grant := func(ids ...NodeID) {
		for _, id := range ids {
			r.grantFrom("a", id)
			r.finishWrite("a")
		}
	}
	grant("d", "e")
	require.Equal(t, PreCandidate, r.core("a").role)
	grant("b")
	require.Equal(t, Candidate, r.core("a").role)
	grant("d", "e")
	require.Equal(t, Candidate, r.core("a").role)
	grant("c")
	require.Equal(t, Leader, r.core("a").role)

	// In a joint phase, too: of voters a, b, c and a, b, d; e stays a learner.
	r = learning(t)
	r.change("a", 0, r.promotes("d"), removes("c"))
	r.finishWrite("a")
	require.Equal(t, "a b d, and before a b c, learners e", r.membersOf("a"))
	acknowledge(r, 5, "e", "d")
	require.Equal(t, Index(4), r.core("a").commitIndex, "of those before there is a alone")
	acknowledge(r, 5, "c")
	require.Equal(t, Index(5), r.core("a").commitIndex)
}

// C6: a alone is the majority before, and not the one after.
func TestC6OldMajorityOfAJointPhaseIsNotEnough(t *testing.T) {
	r := newRig(t, "a")
	r.addJoiners("b c")
	r.start("a")
	r.settle()
	o := r.change("a", 0, r.adds("b"), r.adds("c"))
	r.settle()
	require.Equal(t, "a b c, and before a", r.membersOf("a"))
	require.Equal(t, Index(2), r.core("a").commitIndex)
	require.False(t, o.ended)
	r.start("c")
	r.pass(2 * beat)
	require.Equal(t, decision{true, 4, nil}, *o)
	require.Equal(t, "a b c", r.membersOf("c"))
}

// A learner that campaigned would have a majority at once, were it to count itself.
func TestC6LearnerDoesNotCampaign(t *testing.T) {
	r := withJoiners(t, "a", "b")
	r.change("a", 0, r.addsLearner("b"))
	r.settle()
	r.crash("a")
	r.pass(10 * wait)
	require.Equal(t, Follower, r.core("b").role)
	require.Equal(t, Term(2), r.core("b").currentTerm)
}

// W1: a voter comes back with an empty disk, as a founding member or as one that waits
// to be taken in. It counts again once it was taken out and in, everywhere.
func TestW1WipedVoterCountsOnceItIsTakenInAnew(t *testing.T) {
	for _, joins := range []bool{false, true} {
		r := newCluster(t, "a b c d")
		r.elect("a")
		r.pass(beat) // who all know each other now
		r.wipe("d")
		r.node("d").joins = joins
		r.start("d")
		r.isolate("c")
		r.propose("a", "x")
		r.pass(wait / 2)
		require.Equal(t, Index(2), r.core("a").commitIndex, "two of four have it")
		r.timeOut("b")
		r.grantFrom("b", "d")
		r.settle()
		require.NotEqual(t, Leader, r.core("b").role)
		r.heal()
		r.pass(10 * wait)
		leader := r.leader()
		require.NotEmpty(t, leader)
		require.Contains(t, r.reason(leader), "d is turned away")
		require.Contains(t, r.reason("d"), string(leader)+" is turned away: peer came back with another disk: "+string(leader)+" met this node")
		require.ErrorIs(t, r.transfer(leader, "d").err, ErrTransferFailed)
		require.Nil(t, r.core(leader).handover, "nobody waits for who does not count")

		removed := r.change(leader, 0, removes("d"))
		r.pass(2 * wait)
		require.NoError(t, removed.err)
		require.Empty(t, r.reason(leader), "it is no member any more")
		if r.node("d").joins = true; !joins {
			r.wipe("d")
			r.start("d")
		}
		added := r.change(leader, 0, r.adds("d"))
		r.pass(2 * wait)
		require.True(t, added.ended)
		require.NoError(t, added.err)
		r.requireHealthy()
		require.Equal(t, "a b c d", r.membersOf("d"))

		// Each of the others counts it, and is counted by it.
		for _, id := range []NodeID{"b", "c", "d", "a"} {
			r.elect(id)
		}
		r.requireHealthy()
	}
}

// W1: a member was taken out and in with another disk while b was away, and b learns of
// both by a snapshot. What b has on record of it is of before.
func TestW1MemberTakenInAnewIsKnownByASnapshot(t *testing.T) {
	r := newCluster(t, "a b c d e")
	r.elect("a")
	r.pass(beat)
	r.isolate("b")
	r.change("a", 0, removes("e"))
	r.pass(2 * beat)
	r.wipe("e")
	r.node("e").joins = true
	r.start("e")
	r.change("a", 0, r.adds("e"))
	r.pass(2 * wait)
	for range 3 {
		r.propose("a", "x")
		r.settle()
	}
	r.takeSnapshot("a")
	require.Greater(t, r.core("a").log.compacted.Index, Index(4))
	r.heal()
	r.pass(2 * beat)
	require.Equal(t, 1, r.came)
	require.Equal(t, "a b c d e", r.membersOf("b"))

	r.part("b d e", "a c")
	r.elect("b")
	o := r.propose("b", "y")[0]
	r.settle()
	require.True(t, o.ended && o.err == nil, "d and e have it: %v", o)
	r.heal()
	r.requireHealthy()
}

// W1: what a leader tells of disks is of its configuration. Told late it may be of a
// member that was taken in anew since.
func TestW1LateRecordOfADiskDoesNotCount(t *testing.T) {
	r := newRig(t, "a b c")
	r.addJoiners("d")
	r.start("b")
	three := configuration{members: []Member{r.memberCalled("a", Voter), r.memberCalled("b", Voter), r.memberCalled("c", Voter), r.memberCalled("d", Voter)}}
	r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 1, PrevLogTerm: 1, Entries: MakeEntries(LogEntry{2, 2, EntryConfiguration, three.encode()})})
	r.askHeartbeat("a", "b", Heartbeat{Term: 2, Configuration: 1, Contacts: []Contact{{"d", 0xdd}}})
	require.NotContains(t, r.core("b").contacts, Contact{"d", 0xdd})
	r.askHeartbeat("a", "b", Heartbeat{Term: 2, Configuration: 2, Contacts: []Contact{{"d", 0xee}}})
	require.Contains(t, r.core("b").contacts, Contact{"d", 0xee})
}

// W1: a member that lost its disk is met first by one who was cut off, and has not heard of the
// disk that it had before. Once a leader tells what it has on record, or a configuration does,
// neither disk counts, until the member is taken in anew.
func TestW1MemberMetWithTwoDisksDoesNotCount(t *testing.T) {
	const before, after = 0xdd, 0xee
	for _, byConfiguration := range []bool{false, true} {
		r := newRig(t, "a b c")
		r.addJoiners("d")
		r.start("b")
		r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 1, PrevLogTerm: 1,
			Entries: MakeEntries(LogEntry{2, 2, EntryConfiguration, fourMembers(r, map[NodeID]origin{"d": {added: 2}}).encode()})})
		_, err := r.core("b").meet("d", after)
		require.NoError(t, err)
		if byConfiguration {
			r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 2,
				Entries: MakeEntries(LogEntry{2, 3, EntryConfiguration, fourMembers(r, map[NodeID]origin{"d": {2, before}}).encode()})})
		} else {
			r.askHeartbeat("a", "b", Heartbeat{Term: 2, Configuration: 2, Contacts: []Contact{{"d", before}}})
		}
		r.settle()
		require.Contains(t, r.hardState("b").Contacts, Contact{"d", contested})
		for _, incarnation := range []uint64{before, after} {
			_, err := r.core("b").meet("d", incarnation)
			require.ErrorIs(t, err, ErrOtherDisk)
			require.ErrorContains(t, err, "two disks")
		}
		err = r.node("b").driver.checkOwnDisk(&Heartbeat{Header: Header{From: "a"}, Contacts: []Contact{{"b", contested}}})
		require.ErrorIs(t, err, ErrOtherDisk)
		require.ErrorContains(t, err, "two storages")
		last := r.core("b").log.last()
		r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: last, PrevLogTerm: 2,
			Entries: MakeEntries(LogEntry{2, last + 1, EntryConfiguration, fourMembers(r, map[NodeID]origin{"d": {last + 1, 0}}).encode()})})
		_, err = r.core("b").meet("d", after)
		require.NoError(t, err, "it was taken in anew")
	}
}

// W1: a call that a member has forwarded before it was taken out and in again is not the first
// contact with it: that is with the disk that it has since. Nor is the end of its leadership.
func TestW1LateRequestIsNoFirstContact(t *testing.T) {
	for _, late := range []func(Header) any{
		func(h Header) any { return forwardArrived{request: &ForwardRequest{Header: h}} },
		func(h Header) any { return timeoutNowArrived{request: &TimeoutNow{Header: h, Term: 1}} },
	} {
		r := newCluster(t, "a b c")
		c, d := r.core("a"), r.node("a").driver
		c.contacts = nil
		header := Header{Fingerprint: c.settings.fingerprint, From: "b", To: "a", Incarnation: 0xdd}
		require.NoError(t, d.checkHeader(header, late(header)))
		require.Empty(t, c.contacts)
		_, err := c.meet("b", 0xee)
		require.NoError(t, err)
		require.ErrorIs(t, d.checkHeader(header, late(header)), ErrOtherDisk)
	}
}

// W1: nor is an answer that comes late, to what a node has asked when it was a candidate. One to
// the present election is: a vote may be all that is missing.
func TestW1LateVoteIsNoFirstContact(t *testing.T) {
	const before, after = 0xdd, 0xee
	r := newRig(t, "a b c")
	r.addJoiners("d")
	r.start("b")
	r.timeOut("b")
	r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 1, PrevLogTerm: 1,
		Entries: MakeEntries(LogEntry{2, 2, EntryConfiguration, fourMembers(r, map[NodeID]origin{"d": {added: 2}}).encode()})})
	preVote := func(term Term, incarnation uint64) voteAnswered {
		return voteAnswered{"d", term, true, &VoteResponse{Term: 1, PreVote: true, VoteGranted: true, Incarnation: incarnation}, nil}
	}
	r.do("b", preVote(2, before))
	r.settle()
	require.NotContains(t, r.hardState("b").Contacts, Contact{"d", before})
	r.timeOut("b")
	require.Equal(t, PreCandidate, r.core("b").role)
	r.do("b", preVote(2, before))
	r.do("b", preVote(3, after))
	r.settle()
	require.Contains(t, r.hardState("b").Contacts, Contact{"d", after})
	require.True(t, r.core("b").ballots["d"].granted)
}

// W1: a snapshot takes the place of an entry that would have taken a member out, and was never
// committed: what is on record of its disk stays.
func TestW1RecordOutlastsARemovalThatIsReplaced(t *testing.T) {
	const before, after = 0xdd, 0xee
	r := newRig(t, "a b c d")
	r.start("b")
	_, err := r.core("b").meet("d", before)
	require.NoError(t, err)
	without := configuration{members: []Member{r.memberCalled("a", Voter), r.memberCalled("b", Voter), r.memberCalled("c", Voter)}}
	r.askAppend("a", "b", AppendEntries{Term: 2, PrevLogIndex: 1, PrevLogTerm: 1,
		Entries: MakeEntries(LogEntry{2, 2, EntryConfiguration, without.encode()})})
	r.settle()
	r.askSnapshot("c", "b", r.snapshotOf(3, r.log("1 3 3 3")))
	r.settle()
	require.Equal(t, Index(4), r.core("b").commitIndex)
	require.Contains(t, r.hardState("b").Contacts, Contact{"d", before})
	_, err = r.core("b").meet("d", after)
	require.ErrorIs(t, err, ErrOtherDisk)
}

// W1: a member that is started without its disk, to be added again, while its leader still tells
// it that it was taken out, does not take that for its own removal.
func TestW1ReplacedMemberWaitsToBeAdded(t *testing.T) {
	r := newCluster(t, "a b c d")
	r.elect("a")
	r.pass(beat)
	r.wipe("d")
	r.transfer("a", "b")
	r.pass(2 * beat)
	removal := r.change("b", 0, removes("d"))
	r.pass(beat)
	require.Equal(t, decision{true, removal.index, nil}, *removal)
	r.node("d").joins = true
	r.start("d")
	r.pass(2 * wait)
	require.True(t, r.up("d"), "%v", r.node("d").failure)
	addition := r.change("b", 0, r.adds("d"))
	r.pass(20 * wait)
	require.Equal(t, decision{true, addition.index, nil}, *addition)
	require.Equal(t, r.core("b").commitIndex, r.core("d").commitIndex)
}

// fourMembers is a configuration of voters.
func fourMembers(r *rig, origins map[NodeID]origin) configuration {
	return configuration{origins: origins, members: []Member{r.memberCalled("a", Voter), r.memberCalled("b", Voter), r.memberCalled("c", Voter), r.memberCalled("d", Voter)}}
}

// W1: records of disks do not pile up when members come and go.
func TestW1RecordsOfRemovedMembersGo(t *testing.T) {
	r := newCluster(t, "a b c d")
	r.elect("a")
	r.pass(beat)
	knows := func() bool {
		return slices.ContainsFunc(r.hardState("a").Contacts, func(c Contact) bool { return c.ID == "d" })
	}
	require.True(t, knows())
	r.change("a", 0, removes("d"))
	r.pass(beat)
	require.True(t, knows(), "a configuration that has it is kept")
	r.propose("a", "x", "y", "z")
	r.settle()
	r.takeSnapshot("a")
	r.settle()
	require.Greater(t, r.core("a").log.compacted.Index, Index(3))
	require.False(t, knows())
	require.Len(t, r.hardState("a").Contacts, 2)
}

// W3: who waits to be taken in belongs to the first cluster whose leader calls it by its
// name, and to no other, after a restart neither.
func TestW3JoinerBelongsToOneCluster(t *testing.T) {
	r := newRig(t, "a b c")
	r.addJoiners("d")
	r.start("d")
	other := [16]byte{0xff}
	refused := func(want error, header Header, request any) {
		t.Helper()
		var refusal error
		answered := false
		respond := func(_ any, err error) { refusal, answered = err, true }
		switch m := request.(type) {
		case *Heartbeat:
			m.Header = header
			r.do("d", heartbeatArrived{m, respond})
		case *VoteRequest:
			m.Header = header
			r.do("d", voteRequested{m, respond})
		default:
			require.Fail(t, "no such request")
		}
		r.settle()
		require.True(t, answered)
		require.ErrorIs(t, refusal, want)
	}
	refused(ErrWrongCluster, Header{Fingerprint: other, From: "a", To: "x", Incarnation: 1}, &Heartbeat{Term: 2})
	refused(ErrWrongCluster, Header{Fingerprint: other, From: "d", To: "d", Incarnation: 1}, &Heartbeat{Term: 2})
	refused(ErrWrongCluster, Header{Fingerprint: other, From: "/", To: "d", Incarnation: 1}, &Heartbeat{Term: 2})
	refused(ErrWrongCluster, Header{Fingerprint: other, From: "a", To: "d", Incarnation: 1}, &Heartbeat{Term: 0})

	r.stall("d")
	first := r.ask("a", "d", &VoteRequest{Term: 2, PreVote: true})
	require.False(t, first.done, "its fingerprint is to be durable first")
	r.resume("d")
	require.True(t, first.done)
	require.Equal(t, r.fingerprint, r.hardState("d").Fingerprint)
	r.askHeartbeat("a", "d", Heartbeat{Term: 2})
	for range 2 {
		refused(ErrWrongCluster, Header{Fingerprint: other, From: "a", To: "d", Incarnation: 1}, &Heartbeat{Term: 9})
		refused(ErrWrongCluster, Header{Fingerprint: other, From: "a", To: "d", Incarnation: 1}, &VoteRequest{Term: 9})
		require.Equal(t, Term(2), r.core("d").currentTerm)
		r.restart("d")
	}
}

// W6: a commit index or a configuration beyond the log says nothing about what the log
// holds: nobody takes itself for removed, and nothing is committed, before the entries
// are there.
func TestW6CommitAndConfigurationBeyondTheLog(t *testing.T) {
	r := newRig(t, "a b c")
	r.addJoiners("d")
	r.start("d")
	r.askHeartbeat("a", "d", Heartbeat{Term: 2, Commit: 99, Configuration: 99})
	require.Zero(t, r.core("d").commitIndex, "it has no log")
	require.Zero(t, r.core("d").configuration.index)
	r.pass(5 * wait)
	require.Equal(t, Follower, r.core("d").role, "and waits")

	r = newCluster(t, "a b c")
	r.elect("a")
	r.hold("a", "c")
	out := r.change("a", 0, removes("c"))
	r.settle()
	require.NoError(t, out.err)
	r.askHeartbeat("a", "c", Heartbeat{Term: 2, Commit: 99, Configuration: 3})
	require.True(t, r.up("c"), "it has not read of its removal")
	require.Equal(t, Index(2), r.core("c").commitIndex)
	r.release("a", "c")
	r.pass(beat)
	require.ErrorIs(t, r.node("c").failure, ErrRemoved)

	r = newCluster(t, "a b c") // a wiped node, and a leader that knows more
	r.wipe("c")
	r.start("c")
	r.askHeartbeat("a", "c", Heartbeat{Term: 2, Commit: 99, Configuration: 99})
	require.True(t, r.up("c"))
	require.Equal(t, Index(1), r.core("c").commitIndex)
	require.Equal(t, "a b c", r.membersOf("c"))
}

// S1: a log with a configuration that is nobody else's gives way to a snapshot with
// another one. Wherever the power goes, the configuration in force is that of the log
// that is there.
func TestS1MembersAreInstalledWithTheSnapshot(t *testing.T) {
	const terms = "1 1 1 2 2 2 2 2"
	members := func(ids ...NodeID) []byte {
		var c configuration
		for _, id := range ids {
			c.members = append(c.members, Member{ID: id, Address: string(id) + ".example:1", Role: Voter})
		}
		return c.encode()
	}
	uncommitted, installed := members("a", "b", "x"), members("a", "b", "c", "d")
	send := func(r *rig) {
		r.configuration = ConfigurationEntry{7, installed}
		for _, part := range parts(r.snapshotOf(2, r.log(terms)), 70) {
			r.tells(part)
		}
	}
	tellInTheDark(t, darkStory{
		given: func(r *rig) {
			r.startAt("b", at{log: "1 1 1 1", term: 1, commit: 3})
			r.tells(&AppendEntries{Term: 1, PrevLogIndex: 4, PrevLogTerm: 1, Entries: MakeEntries(LogEntry{1, 5, EntryConfiguration, uncommitted})})
			require.Equal(r.t, "a b x", r.membersOf("b"))
		},
		goes: send,
		after: func(r *rig) {
			if r.core("b").log.compacted.Index == 0 {
				require.Equal(r.t, "a b x", r.membersOf("b"))
				require.Equal(r.t, Index(5), r.core("b").configuration.index)
			} else {
				require.Equal(r.t, "a b c d", r.membersOf("b"))
				require.Equal(r.t, Index(7), r.core("b").configuration.index)
				require.Len(r.t, r.core("b").configurationEntries(), 1)
			}
			send(r)
			require.Equal(r.t, "a b c d", r.membersOf("b"))
			r.restart("b")
			require.Equal(r.t, "a b c d", r.membersOf("b"))
		},
	})
}

// S17: what makes a node a voter is a snapshot that is not durable yet.
func TestS17NewVoterDoesNotCampaignWhileInstalling(t *testing.T) {
	r := newRig(t, "a b c")
	r.addJoiners("d")
	r.start("d")
	members := configuration{members: []Member{r.memberCalled("a", Voter), r.memberCalled("d", Voter)}, origins: map[NodeID]origin{"d": {added: 7}}}
	r.configuration = ConfigurationEntry{7, members.encode()}
	r.askHeartbeat("a", "d", Heartbeat{Term: 2, Configuration: 7})
	r.stall("d")
	r.ask("a", "d", r.snapshotOf(2, r.log("1 1 1 2 2 2 2 2")))
	r.settleUntil(func() bool { return r.core("d").isInstalling() })
	require.Equal(t, "a d", r.membersOf("d"))
	r.now += 2 * wait
	r.timeOut("d")
	require.Equal(t, Follower, r.core("d").role)
	vote := r.ask("a", "d", &VoteRequest{Term: 3, LastLogIndex: 9, LastLogTerm: 2, Transfer: true})
	campaigns := r.ask("a", "d", &TimeoutNow{Term: 2})
	require.Equal(t, Term(2), r.core("d").currentTerm)
	r.resume("d")
	require.Equal(t, RefusalInstalling, answerOf[*VoteResponse](r, vote).Refusal)
	require.False(t, answerOf[*TimeoutNowResponse](r, campaigns).Started)
	r.now += 2 * wait
	r.timeOut("d")
	require.Equal(t, PreCandidate, r.core("d").role)
}

// A snapshot says who was a member at its last entry, and not who is one now.
func TestSnapshotHasTheMembersOfItsEntry(t *testing.T) {
	r := withJoiners(t, "a b c", "d")
	r.part("a", "b c d")
	r.change("a", 0, r.adds("d"))
	r.settle()
	require.Equal(t, "a b c d", r.membersOf("a"))
	require.Equal(t, Index(2), r.takeSnapshot("a"))
	metadata, err := r.node("a").Snapshots().metadata(EntryID{2, 2}.file())
	require.NoError(t, err)
	require.Equal(t, Index(1), metadata.Configuration.Index)
}

// A leader hands over to nobody whom it has not heard: right after an election all others
// look as if they were in contact.
func TestHandoverToWhomTheLeaderHasHeard(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	c := r.core("a")
	for _, p := range c.peers {
		require.Positive(t, p.match)
		p.match = 0 // as before their first answer
	}
	voters := slices.DeleteFunc(slices.Clone(c.peers), func(p *progress) bool { return !p.granted })
	require.Len(t, voters, 1, "one vote has made it the leader")
	require.Equal(t, voters[0].id, c.mostUpToDate(r.now))
	voters[0].granted = false
	require.Empty(t, c.mostUpToDate(r.now))
	c.peer("c").match = 1
	require.Equal(t, NodeID("c"), c.mostUpToDate(r.now))
}
