package raft

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// LS2: what readers see of a lease ends by their own clock, whatever the loop does.
func TestLS2LeaseViewEndsByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := leaseView{start: time.Now()}
		requireRead := func(answered bool, o ReadOptions) {
			t.Helper()
			index, ok := v.read(o)
			require.Equal(t, answered, ok)
			if ok {
				require.Equal(t, Index(7), index)
			}
		}
		requireRead(false, ReadOptions{})
		v.show(100*time.Millisecond, 7)
		requireRead(true, ReadOptions{MinIndex: 7})
		requireRead(false, ReadOptions{MinIndex: 8})
		requireRead(false, ReadOptions{Level: ReadConfirmed})
		time.Sleep(100*time.Millisecond - 1)
		requireRead(true, ReadOptions{})
		time.Sleep(time.Nanosecond)
		requireRead(false, ReadOptions{})
		v.show(200*time.Millisecond, 7)
		requireRead(true, ReadOptions{})
		v.show(0, 7)
		requireRead(false, ReadOptions{})
	})
}

// R6: readers see no lease while something is committed and not applied: it is the loop
// that waits for the state machine.
func TestR6LeaseViewWaitsForTheStateMachine(t *testing.T) {
	r := leasing(t)
	r.quietRound("b", "a", r.core("b").round, wait)
	d := r.node("b").driver
	require.Greater(t, d.leaseEnd(), r.now)
	d.applied--
	require.Zero(t, d.leaseEnd())
}

// A read costs nothing but its part of a round: of no goroutine, no memory, and with a
// lease not even the loop, which does not turn here.
func TestReadsAllocateLittle(t *testing.T) {
	l := newStoppedLoop(t)
	n := l.node
	n.lease.show(time.Hour, 7)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		index, err := n.ReadIndex(t.Context())
		require.NoError(t, err)
		require.Equal(t, Index(7), index)
	}), "with a lease")

	round := func(reads int) float64 {
		r := settledLeader(t)
		d := r.node("b").driver
		d.verify = false
		term, incarnation := r.core("b").currentTerm, r.nodes["a"].incarnation
		ended := 0
		var events []any
		for range reads {
			events = append(events, &readWait{done: func(Index, error) { ended++ }})
		}
		return testing.AllocsPerRun(100, func() {
			ended = 0
			d.advance(r.now, events, nil)
			w := d.advance(r.now, []any{heartbeatAnswered{"a", term, &HeartbeatResponse{Term: term, Round: d.core.round, Incarnation: incarnation}, nil}}, nil)
			for _, o := range w.outcomes {
				o.done(o.index, o.err)
			}
			require.Equal(t, reads, ended)
		})
	}
	require.InDelta(t, round(1), round(256), 3, "those who share a round")

	q := newInbox(1<<20, 1<<20)
	var events []any
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		for range 256 {
			_, _, err := q.joinRead(ReadLinearizable)
			require.NoError(t, err)
		}
		events = q.take(events, 0, true).events
	}), 4.0, "a group of readers, however many, on the way to the loop")
	l.shutDown(nil)
}
