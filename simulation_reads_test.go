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

// leasingLife is the life of a seed with leases, in which the same happens to whoever leads again
// and again.
func leasingLife(seed uint64, faults ...sim.Fault) *simulation {
	var plan sim.Plan
	for at := time.Second; at < 10*time.Second; at += 3 * time.Second {
		for _, f := range faults {
			f.At, f.Leader = at+f.At, true
			plan = append(plan, f)
		}
	}
	s := newSimulation(seed, plan)
	for s.settings.nodes != 3 {
		seed += 1000
		s = newSimulation(seed, plan)
	}
	s.settings.leases, s.settings.beyond, s.settings.clockDrift = true, false, 0.1
	s.settings.faulty, s.settings.clients, s.settings.thinks = 10*time.Second, 12, 10*time.Millisecond
	s.setClocks()
	return s
}

// setClocks has the clocks be as the settings say.
func (s *simulation) setClocks() {
	for _, n := range s.nodes {
		n.clock.Bound = s.settings.clockBound()
	}
}

// LS5: where clocks differ by more than leases allow for, reads by a lease are stale, and
// those that are confirmed are not. So a judge who counts the ones, and finds none of them
// within the bound, has looked. Here a leader is cut off and stands still, its clock too, while
// the others elect another one.
func TestLS5LeasesBeyondTheBoundAreStale(t *testing.T) {
	t.Parallel()
	stale := func(levels ...ReadLevel) (stale, confirmed int) {
		for seed := range uint64(3) {
			s := leasingLife(1+seed, sim.Fault{For: 2 * time.Second, Kind: sim.Isolate}, sim.Fault{For: 3 * time.Second / 2, Kind: sim.Pause})
			s.settings.beyond, s.settings.levels = true, levels
			s.setClocks()
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

// LS5: within the bound no read is stale. A leader gets the answers to its heartbeats late, and
// from then on hears and is heard no more; its clock is as slow as it may be, or leaps, or it
// stands still until the others have another leader, and only then looks at those answers.
func TestLS5LeasesWithinTheBoundAreNot(t *testing.T) {
	t.Parallel()
	var faults []sim.Fault
	for behind := 1; behind < 3+simSpares; behind++ {
		faults = append(faults,
			sim.Fault{For: simElectionTimeout / 2, Kind: sim.Clog, Peer: behind},
			sim.Fault{At: simHeartbeat, For: 2 * time.Second, Kind: sim.OneWay, Peer: behind, Seed: 1},
			sim.Fault{At: 2 * simHeartbeat, For: 2 * time.Second, Kind: sim.Clog, Peer: behind})
	}
	byLease := 0
	for i, clock := range []sim.Fault{{Kind: sim.Drift, For: 2 * time.Second}, {Kind: sim.Leap, Level: 1}, {Kind: sim.Freeze, At: 2 * simHeartbeat, For: 900 * time.Millisecond}} {
		for seed := range uint64(3) {
			s := leasingLife(10*uint64(1+i)+seed, append(slices.Clip(faults), clock)...)
			require.NoError(t, s.run(), "seed %d", s.seed)
			byLease += s.world.Counts()["reads by a lease"]
		}
	}
	require.Positive(t, byLease)
}
