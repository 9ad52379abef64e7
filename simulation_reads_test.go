package raft

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/sim"
)

// Reads in a simulation, and the clocks that some of them rely on.

// lease is how long leaders answer reads by their clocks.
func (s simSettings) lease() time.Duration {
	return Config{LeaseReads: s.leases, ElectionTimeout: simElectionTimeout, MaxClockDrift: s.clockDrift}.lease()
}

// clockBound keeps the clocks of a life to what leases rely on, if there are any: all that
// is bound together, a clock makes less of an election timeout than any other makes of a
// lease. Where clocks go beyond that, or nobody relies on them, anything may happen to them.
func (s simSettings) clockBound() sim.Bound {
	if !s.leases || s.beyond {
		return sim.Bound{}
	}
	return sim.Bound{
		Rate: s.clockDrift / 4, Leap: time.Duration(s.clockDrift / 5 * float64(simElectionTimeout)), Rest: 2 * simElectionTimeout,
	}
}

// simCommit says when something was seen committed that never was before.
type simCommit struct {
	index Index
	shown []time.Duration // by the clock of each machine
}

// noteCommitted takes note of what is committed now.
func (s *simulation) noteCommitted() {
	index := Index(s.judge.Committed())
	if index <= s.committed() {
		return
	}
	commit := simCommit{index: index}
	for _, n := range s.nodes {
		commit.shown = append(commit.shown, n.clock.Now())
	}
	s.commits = append(s.commits, commit)
}

// committed returns the last index that anybody was seen to know committed.
func (s *simulation) committed() Index {
	if len(s.commits) == 0 {
		return 0
	}
	return s.commits[len(s.commits)-1].index
}

// committedBefore returns what was committed before the clock of the machine showed a time.
func (n *simNode) committedBefore(shown time.Duration) Index {
	at, _ := slices.BinarySearchFunc(n.commits, shown, func(c simCommit, shown time.Duration) int { return int(c.shown[n.number] - shown) })
	if at == 0 {
		return 0
	}
	return n.commits[at-1].index
}

// await reads on the node, as [Node.Read] does, and gives up in time.
func (n *simNode) await(options ReadOptions, done func(Index, error)) {
	life, ended := n.life, false
	end := func(index Index, err error) {
		if !ended {
			ended = true
			done(index, err)
		}
	}
	w := &readWait{options: options, done: end}
	n.post(w)
	n.world.After(simPatience, func() {
		if !ended {
			n.postIn(life, readLeft{w})
			end(0, errSimTimeout)
		}
	})
}

// readRegister has a client read a register, and calls back when that has ended.
func (n *simNode) readRegister(client int, command string, options ReadOptions, ended func()) {
	r := simRead{simNode: n, options: options, round: n.driver.core.round, sees: n.mustSee(options)}
	op := n.oracle.BeginRead(client, n.number, n.world.Now(), command, r.isWeak())
	n.await(options, func(index Index, err error) {
		op.Return, op.Outcome = n.world.Now(), sim.Refused
		switch {
		case err == nil:
			op.Outcome, op.Index, op.Response = sim.Done, uint64(index), n.machine.store.Apply(command)
			r.judge(command, index)
		case err == errSimTimeout:
			n.world.Count("reads given up")
		case errors.Is(err, ErrNotAccepted):
			n.world.Count("reads refused")
		default:
			n.simulation.judge.Accuse("documented errors", "a read ends with %v", err)
		}
		ended()
	})
}

// mustSee returns up to where a read that begins now is to see everything.
func (n *simNode) mustSee(o ReadOptions) Index {
	switch {
	case o.Level == ReadLocal:
		return o.MinIndex
	case o.MaxStaleness > 0:
		return max(o.MinIndex, n.committedBefore(n.clock.Now()-o.MaxStaleness))
	default:
		return max(o.MinIndex, n.committed())
	}
}

// simRead is a read under way.
type simRead struct {
	*simNode
	options ReadOptions
	round   uint64 // of the node's heartbeats, when it began
	sees    Index  // all up to there
}

// reliesOnClocks reports whether the read may see less where clocks are worse than leases
// allow for.
func (r simRead) reliesOnClocks() bool {
	return r.options.Level == ReadLinearizable && r.settings.leases && r.settings.beyond
}

func (r simRead) isWeak() bool {
	return r.options.Level == ReadLocal || r.options.MaxStaleness > 0 || r.reliesOnClocks()
}

// judge judges a read that has ended with an index, and the state machine of now.
func (r simRead) judge(command string, index Index) {
	missing, misses := r.oracle.Misses(r.machine.n, uint64(r.sees))
	stale := misses || index < r.sees
	switch {
	case stale && r.options.MinIndex < r.sees && r.reliesOnClocks():
		r.world.Count("stale reads by a lease")
	case stale:
		r.simulation.judge.Accuse("reads see what was committed",
			"%q with %+v on node %s sees what is applied at %d, and is to see all up to %d; it misses %v", command, r.options, r.id, index, r.sees, missing)
	}
	r.count()
}

// count counts what kind of a read has ended with a value.
func (r simRead) count() {
	c, o := r.driver.core, r.options
	r.world.Count([]string{"reads, linearizable", "reads, confirmed", "reads, local"}[o.Level])
	if o.MinIndex > 0 {
		r.world.Count("reads of what was written")
	}
	switch m, _ := c.configuration.member(r.id); {
	case o.Level == ReadLocal:
	case o.MaxStaleness > 0:
		r.world.Count("reads of bounded staleness")
	case m.Role == Learner:
		r.world.Count("reads on learners")
	case c.role != Leader:
		r.world.Count("reads on followers")
	case o.Level == ReadLinearizable && r.settings.leases && c.round == r.round && len(c.configuration.incoming) > 1:
		r.world.Count("reads by a lease")
	default:
		r.world.Count("reads on leaders")
	}
}

// hasReaders reports whether anybody waits for a read.
func (n *simNode) hasReaders() bool {
	return n.driver != nil && (n.driver.reads.count > 0 || len(n.driver.reads.left) > 0)
}

// readAll requires of members that are well, and equal, that each of them answers reads.
func (s *simulation) readAll(stop func() bool) error {
	deadline := s.world.Now() + 10*simElectionTimeout
	answered := map[NodeID]bool{}
	lacks := func(n *simNode) bool { return !answered[n.id] }
	for s.world.Now() < deadline && !stop() && slices.ContainsFunc(s.whole(), lacks) {
		for _, n := range s.whole() {
			if lacks(n) && n.driver != nil {
				command := fmt.Sprintf("%s.%d get k0", n.id, s.world.Events())
				n.readRegister(-1, command, ReadOptions{Level: ReadConfirmed}, func() { answered[n.id] = true })
			}
		}
		s.world.RunUntil(s.world.Now()+simElectionTimeout, stop)
	}
	if !stop() && slices.ContainsFunc(s.whole(), lacks) {
		return fmt.Errorf("liveness: not all members answer reads: %v, %s", answered, s)
	}
	return s.judge.Verdict()
}

// beyondTheBound is the life of a seed in which again and again a leader is cut off and stands
// still, its clock too, while the others elect another one.
func beyondTheBound(seed uint64, levels ...ReadLevel) *simulation {
	var plan sim.Plan
	for at := time.Second; at < 10*time.Second; at += 3 * time.Second {
		plan = append(plan,
			sim.Fault{At: at, For: 2 * time.Second, Kind: sim.Isolate, Leader: true},
			sim.Fault{At: at, For: 3 * time.Second / 2, Kind: sim.Pause, Leader: true})
	}
	s := newSimulation(seed, plan)
	for s.settings.nodes != 3 {
		seed += 1000
		s = newSimulation(seed, plan)
	}
	s.settings.leases, s.settings.beyond, s.settings.levels = true, true, levels
	s.settings.faulty, s.settings.clients, s.settings.thinks = 10*time.Second, 6, 10*time.Millisecond
	for _, n := range s.nodes {
		n.clock.Bound = s.settings.clockBound()
	}
	return s
}

// LS5: where clocks differ by more than leases allow for, reads by a lease are stale, and
// those that are confirmed are not. So a judge who counts the ones, and finds none of them
// within the bound, has looked.
func TestLS5LeasesBeyondTheBoundAreStale(t *testing.T) {
	t.Parallel()
	stale := func(levels ...ReadLevel) (stale, confirmed int) {
		for seed := range uint64(5) {
			s := beyondTheBound(1+seed, levels...)
			require.NoError(t, s.run(), "seed %d", 1+seed)
			stale += s.world.Counts()["stale reads by a lease"]
			confirmed += s.world.Counts()["reads, confirmed"]
		}
		return stale, confirmed
	}
	some, _ := stale(ReadLinearizable, ReadConfirmed, ReadLocal)
	require.Positive(t, some)
	none, confirmed := stale(ReadConfirmed)
	require.Zero(t, none)
	require.Positive(t, confirmed)
}
