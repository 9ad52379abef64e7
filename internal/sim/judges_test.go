package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// logOf makes an observation of a follower whose entries have these terms.
func logOf(node int, term uint64, terms ...uint64) Observation {
	return Observation{
		Node: node, Life: 1, Term: term, First: 1, Last: uint64(len(terms)),
		Entry: func(i uint64) (uint64, uint64) { return terms[i-1], 100*i + terms[i-1] },
	}
}

// Each promise that is broken is found, and by its own name.
func TestJudgeFindsEachBrokenPromise(t *testing.T) {
	with := func(o Observation, change func(*Observation)) Observation {
		change(&o)
		return o
	}
	leads := func(o *Observation) { o.Leads = true }
	committed := func(index uint64) func(*Observation) { return func(o *Observation) { o.Commit = index } }
	onDisk := func(term, vote uint64) func(*Observation) {
		return func(o *Observation) { o.OnDisk = Ballot{term, vote} }
	}
	again := func(o Observation) Observation { return with(o, func(o *Observation) { o.Life++ }) }
	members := func(all ...Configuration) func(*Observation) { return func(o *Observation) { o.Members = all } }
	three := Configuration{Index: 1, Voters: []int{0, 1, 2}}
	joint := Configuration{Index: 2, Voters: []int{0, 1, 3, 4, 5}, Outgoing: three.Voters}
	cases := map[string][]Observation{
		"one change at a time: two":   {with(logOf(0, 2, 1, 1), members(three, Configuration{Index: 2, Voters: []int{0, 3, 1}}))},
		"one change at a time: other": {with(logOf(0, 2, 1, 1, 1), members(joint, Configuration{Index: 3, Voters: []int{0, 1, 3, 4}}))},
		"one change at a time: early": {with(logOf(0, 2, 1, 1), members(three, Configuration{Index: 2, Voters: []int{0, 1}}))},
		"monotone term":               {logOf(0, 2, 1), logOf(0, 1, 1)},
		"monotone term: ":             {with(logOf(0, 3, 1), onDisk(2, 0)), again(logOf(0, 1, 1))},
		"one vote a term: ":           {with(logOf(0, 2, 1), onDisk(2, 1)), again(logOf(0, 2, 1))},
		"one vote a term":             {with(logOf(0, 2, 1), func(o *Observation) { o.Vote = 1 }), with(logOf(0, 2, 1), func(o *Observation) { o.Vote = 2 })},
		"monotone commit":             {with(logOf(0, 2, 1, 1), committed(2)), with(logOf(0, 2, 1, 1), committed(1))},
		"order of indexes":            {with(logOf(0, 2, 1), committed(2))},
		"election safety":             {with(logOf(0, 2, 1), leads), with(logOf(1, 2, 1), leads)},
		"log matching":                {logOf(0, 3, 1, 2, 3), logOf(1, 3, 1, 1, 3)},
		"committed entries":           {with(logOf(0, 2, 1, 1), committed(2)), with(logOf(1, 2, 1, 2), committed(2))},
		"leader completeness":         {with(logOf(0, 2, 1, 2), committed(2)), with(logOf(1, 3, 1), leads)},
		"bounded memory":              {with(logOf(0, 2, 1), func(o *Observation) { o.Held = []Held{{"much", 999, 1000}, {"little", 2, 1}} })},
	}
	for promise, observations := range cases {
		t.Run(promise, func(t *testing.T) {
			j := NewJudge()
			for i, o := range observations {
				require.NoError(t, j.Verdict(), "before observation %d", i)
				j.Observe(o)
			}
			name, _, _ := strings.Cut(promise, ": ")
			require.ErrorContains(t, j.Verdict(), name)
		})
	}
	j := NewJudge()
	j.Promise(0, "a vote", 5, 5, 7, 7)
	require.NoError(t, j.Verdict())
	j.Promise(0, "a vote", 6, 5, 0, 0)
	require.ErrorContains(t, j.Verdict(), "before it is durable")
}

// A leader of a joint phase needs the votes of majorities of both halves, and the same
// to commit. Neither who is no voter nor who was set aside is among them.
func TestJudgeCountsBothHalves(t *testing.T) {
	for _, test := range []struct {
		vote, keep []int
		aside      int
		broken     string
	}{
		{vote: []int{0, 1, 3}, keep: []int{0, 1, 3}, aside: -1},
		{vote: []int{0, 1, 2, 5}, aside: -1, broken: "voters elect"},
		{vote: []int{0, 3, 4}, aside: -1, broken: "voters elect"},
		{vote: []int{0, 1, 3}, aside: 3, broken: "voters elect"},
		{vote: []int{0, 1, 3}, keep: []int{0, 1, 2}, aside: -1, broken: "voters commit"},
	} {
		j := NewJudge()
		j.SetAside(test.aside, true)
		for _, node := range test.vote {
			j.Written(node, Ballot{2, 1}, Mark{1, 1})
		}
		leader := logOf(0, 2, 1, 2)
		leader.Leads, leader.Vote, leader.Commit = true, 1, 1
		leader.Members = []Configuration{{Index: 1, Voters: []int{0, 3, 4}, Outgoing: []int{0, 1, 2}}}
		j.Observe(leader)
		for _, node := range test.keep {
			j.Written(node, Ballot{2, 1}, Mark{2, 2})
		}
		leader.Commit = 2
		j.Observe(leader)
		if test.broken == "" {
			require.NoError(t, j.Verdict())
			continue
		}
		require.ErrorContains(t, j.Verdict(), test.broken)
	}
}

// A log that is overwritten where nothing was committed breaks no promise.
func TestJudgeAllowsWhatRaftDoes(t *testing.T) {
	j := NewJudge()
	leader := logOf(0, 2, 1, 1, 2)
	leader.Leads, leader.Commit = true, 1
	j.Observe(leader)
	j.Observe(logOf(1, 2, 1, 1))
	next := logOf(1, 3, 1, 1, 3)
	next.Leads, next.Commit = true, 3
	j.Observe(next)
	old := logOf(0, 3, 1, 1, 3)
	old.Commit = 1
	j.Observe(old)
	old.Term, old.Vote, old.OnDisk = 4, 1, Ballot{3, 0} // a term that was not on its disk yet
	j.Observe(old)
	restarted := logOf(0, 3, 1, 1, 3)
	restarted.Life, restarted.Vote = 2, 2
	j.Observe(restarted)
	require.NoError(t, j.Verdict())
	require.Equal(t, uint64(3), j.Committed())
}

func TestOracleFindsEachLie(t *testing.T) {
	type story func(o *Oracle) error
	apply := func(o *Oracle, commands ...string) error {
		for n, command := range commands {
			if err := o.Apply(0, n, Applied{uint64(n + 1), command}); err != nil {
				return err
			}
		}
		return nil
	}
	ended := func(o *Oracle, call, end time.Duration, command string, outcome Outcome, index uint64, response string) {
		op := o.Begin(0, 0, call, command)
		op.Return, op.Outcome, op.Index, op.Response = end, outcome, index, response
	}
	stories := map[string]story{
		"durability": func(o *Oracle) error {
			ended(o, 1, 2, "1 put k v", Done, 1, "-")
			return o.Check()
		},
		"was refused": func(o *Oracle) error {
			ended(o, 1, 2, "1 put k v", Refused, 0, "")
			_ = apply(o, "1 put k v")
			return o.Check()
		},
		"was answered with": func(o *Oracle) error {
			ended(o, 1, 2, "1 put k v", Done, 1, "-")
			ended(o, 3, 4, "2 get k", Done, 2, "-")
			_ = apply(o, "1 put k v", "2 get k")
			return o.Check()
		},
		"acknowledged at": func(o *Oracle) error {
			ended(o, 1, 2, "1 put k v", Done, 2, "-")
			_ = apply(o, "1 put k v")
			return o.Check()
		},
		"real-time order": func(o *Oracle) error {
			ended(o, 1, 2, "1 put k v", Done, 2, "w")
			ended(o, 3, 4, "2 put k w", Done, 1, "-")
			_ = apply(o, "2 put k w", "1 put k v")
			return o.Check()
		},
		"and nobody did": func(o *Oracle) error {
			ended(o, 1, 2, "1 put k v", Unknown, 0, "")
			o.Operations[0].Executed = true
			return o.Check()
		},
		"sessions are replicated": func(o *Oracle) error {
			_ = o.Sessions(0, 7, []byte("a table"))
			return o.Sessions(1, 7, []byte("another"))
		},
		"at most once": func(o *Oracle) error { return apply(o, "1 put k v", "1 put k v") },
		"state machine safety": func(o *Oracle) error {
			_ = apply(o, "1 put k v")
			return o.Apply(1, 0, Applied{1, "2 put k v"})
		},
	}
	for what, tell := range stories {
		t.Run(what, func(t *testing.T) { require.ErrorContains(t, tell(NewOracle()), what) })
	}
	o := NewOracle()
	ended(o, 1, 5, "1 put k v", Done, 2, "w")
	ended(o, 2, 4, "2 put k w", Done, 1, "-")
	ended(o, 3, 0, "3 put k x", Unknown, 0, "")
	ended(o, 3, 0, "4 put k y", Pending, 0, "")
	require.NoError(t, apply(o, "2 put k w", "1 put k v", "3 put k x"))
	o.Operations[2].Executed = true
	require.NoError(t, o.Check())
	require.Equal(t, 2, o.Acknowledged())

	for index := uint64(1); index < 3; index++ { // each of its own
		require.NoError(t, o.Sessions(0, index, []byte{byte(index)}))
		require.NoError(t, o.Sessions(1, index, []byte{byte(index)}))
	}
}

// A state that lacks a command up to an index is found out, and which that is. Reads are a
// part of the history unless they may see less than there was.
func TestOracleKnowsWhatReadsMiss(t *testing.T) {
	o := NewOracle()
	for n, index := range []uint64{2, 5} {
		require.NoError(t, o.Apply(0, n, Applied{index, fmt.Sprint(n, " get k")}))
	}
	for _, test := range []struct {
		n      int
		index  uint64
		misses bool
	}{{0, 1, false}, {0, 2, true}, {1, 4, false}, {1, 5, true}, {2, 9, false}} {
		missing, misses := o.Misses(test.n, test.index)
		require.Equal(t, test.misses, misses, "%+v", test)
		if misses {
			require.Equal(t, o.applied[test.n], missing)
		}
	}
	o.BeginRead(1, 2, 3, "1.1 get k", false)
	o.BeginRead(1, 2, 3, "1.2 get k", true)
	var history strings.Builder
	require.NoError(t, o.WriteHistory(&history))
	require.Contains(t, history.String(), "1.1 get k")
	require.NotContains(t, history.String(), "1.2 get k")
	require.NoError(t, o.Check())
	require.Zero(t, o.Acknowledged())
}

// Whatever faults do to clocks that have a bound: over any lease, which is a tenth shorter
// than an election timeout, no clock makes a whole one more than any other.
func TestClocksKeepToTheirBound(t *testing.T) {
	const timeout = 500 * time.Millisecond
	bound := Bound{Rate: 0.1 / 4, Leap: timeout / 50, Rest: 2 * timeout}
	w := NewWorld(1)
	random := w.Random("test")
	var clocks [3]*Clock
	for i := range clocks {
		clocks[i] = w.NewClock(time.Duration(i)*time.Hour, 1)
		clocks[i].Bound = bound
	}
	type moment [3]time.Duration
	var past []moment
	for range 5000 {
		w.RunUntil(w.Now()+time.Duration(random.Int64N(int64(20*time.Millisecond))), func() bool { return false })
		switch c := clocks[random.IntN(3)]; random.IntN(3) {
		case 0:
			c.drift(random.Float64())
		case 1:
			c.leap(random.Float64())
		case 2:
			c.pause(random.IntN(2) == 0)
		}
		now := moment{clocks[0].Now(), clocks[1].Now(), clocks[2].Now()}
		past = append(past, now)
		for _, then := range past[max(0, len(past)-100):] {
			for i := range now {
				for j := range now {
					isLease, isTimeout := now[i]-then[i] < timeout*9/10, now[j]-then[j] >= timeout
					if isLease && isTimeout {
						t.Fatalf("%v and then %v", then, now)
					}
				}
			}
		}
	}
}

// The clocks of a world never go back, whatever happens to them.
func TestClockNeverGoesBack(t *testing.T) {
	w := NewWorld(1)
	c := w.NewClock(time.Hour, 1.5)
	random := w.Random("test")
	was := c.Now()
	for range 1000 {
		w.RunUntil(w.Now()+time.Duration(random.Int64N(int64(time.Second))), func() bool { return false })
		switch random.IntN(5) {
		case 0:
			c.SetRate(0.5 + random.Float64())
		case 1:
			c.Hold(random.IntN(2) == 0)
		case 2:
			c.Leap(time.Second)
		}
		require.GreaterOrEqual(t, c.Now(), was)
		was = c.Now()
	}
	c.Hold(false)
	c.SetRate(2)
	require.InDelta(t, time.Second, c.Until(c.Now()+2*time.Second), 10)
}

// Streams keep their order, and lose only ends.
func TestStreamKeepsItsOrder(t *testing.T) {
	w := NewWorld(1)
	net := w.NewNetwork(2, Quality{Delay: time.Millisecond, Jitter: 10 * time.Millisecond})
	var got []int
	s := net.NewStream(0, 1, nil)
	for i := range 100 {
		s.Send(nil, func() { got = append(got, i) })
	}
	w.RunUntil(time.Minute, func() bool { return false })
	require.Len(t, got, 100)
	require.IsIncreasing(t, got)

	told := 0
	s = net.NewStream(0, 1, func() { told++ })
	net.Cut(0, 1)
	s.Send(nil, func() { t.Error("it went through a cut link") })
	net.Heal()
	s.Send(nil, func() { t.Error("it went over a broken stream") })
	w.RunUntil(2*time.Minute, func() bool { return false })
	require.LessOrEqual(t, told, 1)
}

// A link that flaps at the time when all faults end stays whole from then on.
func TestNetworkStaysHealed(t *testing.T) {
	w := NewWorld(1)
	net := w.NewNetwork(2, Quality{})
	plan := Plan{{At: time.Second, For: time.Minute, Kind: Flap, Node: 0, Peer: 1}}
	w.Inflict(plan, net, nil)
	cut := 0
	look := func() bool {
		if net.IsCut(0, 1) || net.IsCut(1, 0) {
			cut++
		}
		return false
	}
	w.RunUntil(10*time.Second, look)
	require.Positive(t, cut)
	net.Heal()
	cut = 0
	w.RunUntil(2*time.Minute, look)
	require.Zero(t, cut)
}
