package raft

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whom a leader asks to confirm reads: as few as are enough, those who answer soonest.

// beats takes the heartbeats that a leader has sent and returns whom they are for.
func (r *rig) beats(leader NodeID) string {
	var names []string
	for _, id := range r.ids {
		if len(mail[*Heartbeat](r, leader, id)) > 0 {
			names = append(names, string(id))
		}
	}
	return strings.Join(names, " ")
}

// requireConfirmedBy requires that a read ends when all of some have answered its round, not
// before.
func (r *rig) requireConfirmedBy(o *decision, leader NodeID, voters []string) {
	r.t.Helper()
	for _, id := range voters {
		require.False(r.t, o.ended)
		r.answerRound(leader, NodeID(id), r.core(leader).round)
	}
	require.True(r.t, o.ended)
	require.NoError(r.t, o.err)
}

// pacedLeader is settledLeader whose a has answered in 1 ms, and c in 2 ms.
func pacedLeader(t *testing.T) *rig {
	r := settledLeader(t)
	for _, id := range []NodeID{"a", "c"} {
		r.now += time.Millisecond
		r.answerRound("b", id, r.core("b").round)
	}
	return r
}

func TestReadsAskWhoAnswersSoonest(t *testing.T) {
	r := pacedLeader(t)
	o := r.readIndex("b")
	require.Equal(t, "a", r.beats("b"))
	r.now += 10 * time.Millisecond
	r.answerRound("b", "a", r.core("b").round)
	require.True(t, o.ended)
	r.take("b", "c")

	o = r.readIndex("b")
	require.Equal(t, "c", r.beats("b"), "a takes 2.1 ms now, an eighth of what was late")
	r.answerRound("b", "c", r.core("b").round)
	require.True(t, o.ended)
}

// Who is asked first may just have died: the others confirm the round then, and the next.
func TestReadsAskTheOthersAfterAWhile(t *testing.T) {
	r := pacedLeader(t)
	o := r.readIndex("b")
	require.Equal(t, "a", r.beats("b"))
	require.Equal(t, r.now+hedgeAfter, r.node("b").driver.deadline())
	r.now += hedgeAfter - 1
	r.do("b")
	require.Empty(t, r.beats("b"))
	r.now++
	r.do("b")
	require.Equal(t, "c", r.beats("b"))
	r.answerRound("b", "c", r.core("b").round)
	require.True(t, o.ended)
	require.NoError(t, o.err)

	o = r.readIndex("b")
	require.Equal(t, "c", r.beats("b"), "a has not answered for longer than c takes")
	r.answerRound("b", "c", r.core("b").round)
	require.True(t, o.ended)
	r.now += 2 * hedgeAfter
	r.do("b")
	require.Empty(t, r.beats("b"), "the round is confirmed")
	require.Zero(t, r.core("b").hedgeAt)
}

// Who is far is given the time that it takes, before others are asked for nothing.
func TestReadsGiveFarVotersTheirTime(t *testing.T) {
	r := settledLeader(t)
	for _, id := range []NodeID{"a", "c"} {
		r.now += 10 * time.Millisecond
		r.answerRound("b", id, r.core("b").round)
	}
	r.readIndex("b")
	require.Equal(t, "a", r.beats("b"))
	require.Equal(t, r.now+20*time.Millisecond, r.core("b").hedgeAt)
}

// Answers that come one after another were under way together: each took as long as the first.
func TestHeartbeatsUnderWayTogetherAreTimedApart(t *testing.T) {
	p := newProgress("a", 1, 0)
	const took, every, rounds = 60 * time.Millisecond, 5 * time.Millisecond, 200
	for i := range time.Duration(rounds) {
		p.ask(i*every, uint64(i)+1)
		if late := i - took/every; late >= 0 {
			p.answer(i*every, uint64(late)+1, time.Second)
			require.Equal(t, took, p.took)
			require.GreaterOrEqual(t, p.latency(i*every), took)
		}
	}
}

// A member that comes back is no slower than it was for long.
func TestSilenceIsNotTakenForSlowness(t *testing.T) {
	r := pacedLeader(t)
	for range 600 {
		r.now += beat
		r.answerRound("b", "c", r.core("b").round)
		r.do("b")
	}
	r.answerRound("b", "a", r.core("b").round)
	require.LessOrEqual(t, r.core("b").peer("a").took, beat)
}

// A cluster of real members loses either follower amid reads.
func TestReadsOutliveEitherFollower(t *testing.T) {
	for _, dead := range []NodeID{"b", "c"} {
		r := newCluster(t, "a b c")
		r.elect("a")
		r.settle()
		r.crash(dead)
		for range 3 {
			o := r.readIndex("a")
			r.settle()
			r.pass(hedgeAfter)
			require.True(t, o.ended, "without %s", dead)
			require.NoError(t, o.err)
		}
	}
}

// With more than three voters all others are asked then: one more is no majority.
func TestReadsAskAllOthersAfterAWhile(t *testing.T) {
	r := newCluster(t, "a b c d e")
	r.elect("a")
	r.settle()
	for _, p := range r.core("a").peers {
		p.took = time.Millisecond
	}
	o := r.readIndex("a")
	require.Len(t, strings.Fields(r.beats("a")), 2)
	r.now += hedgeAfter
	r.do("a")
	others := strings.Fields(r.beats("a"))
	require.Len(t, others, 2)
	r.requireConfirmedBy(o, "a", others)
}

// Answers to rounds for reads, of which there may be thousands in a second, do not have lost
// entries sent again; those to the others do, whatever was read before.
func TestReadsTryNothingAgain(t *testing.T) {
	r := pacedLeader(t)
	r.readIndex("b")
	later := r.now + time.Hour
	p := r.core("b").peer("a")
	p.retryAt = later
	r.answerRound("b", "a", r.core("b").round)
	require.Equal(t, later, p.retryAt)
	r.now += beat
	r.do("b")
	r.answerRound("b", "a", r.core("b").round)
	require.Equal(t, r.now, p.retryAt)
}

// Rounds for reads do not replace those that keep followers from campaigning.
func TestReadsDelayNoHeartbeats(t *testing.T) {
	r := pacedLeader(t)
	start, heard := r.now, 0
	for r.now < start+10*beat {
		r.now += time.Millisecond
		r.readIndex("b")
		if strings.Contains(r.beats("b"), "c") {
			heard++
		}
		r.answerRound("b", "a", r.core("b").round)
	}
	require.Equal(t, 10, heard, "c is asked for no read, and hears the leader as often as ever")
}

// Learners confirm nothing, so they are not asked; and of five voters two others are enough.
func TestReadsAskNoMoreThanAMajority(t *testing.T) {
	r := withJoiners(t, "a b c d e", "f")
	r.change("a", 0, r.addsLearner("f"))
	r.settle()
	for _, p := range r.core("a").peers {
		p.took = time.Millisecond
	}
	r.core("a").peer("f").took = 0
	o := r.readIndex("a")
	asked := strings.Fields(r.beats("a"))
	require.Len(t, asked, 2)
	require.NotContains(t, asked, "f")
	r.requireConfirmedBy(o, "a", asked)
}

// M6: in a joint phase a majority of either half is asked.
func TestM6ReadsAskBothHalves(t *testing.T) {
	for quickest, asked := range map[string]string{"d b e c": "b d", "d e b c": "b d e", "b c e d": "b c e"} {
		r := jointLeader(t)
		r.heal()
		for i, id := range strings.Fields(quickest) {
			p := r.core("a").peer(NodeID(id))
			p.answered, p.timed, p.took = p.asked, p.asked, time.Duration(i)*time.Millisecond
		}
		r.beats("a")
		r.readIndex("a")
		require.Equal(t, asked, r.beats("a"), "%s", quickest)
	}
}
