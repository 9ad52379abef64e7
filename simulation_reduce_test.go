package raft

import (
	"flag"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/sim"
)

// What is left of a life that fails when all is taken away that it does not need
// for that.

var (
	simFaults  = flag.String("sim.faults", "all", "the `numbers` of the faults that the life of -sim.seed has, as 3,7,12; or all, or none")
	simUntil   = flag.Duration("sim.until", 0, "when its faults end; 0: as the seed says")
	simClients = flag.Int("sim.clients", 0, "how many clients it has; 0: as the seed says")
)

// variant is a life as its seed has drawn it, or with less in it.
type variant struct {
	seed    uint64
	plan    sim.Plan
	until   time.Duration // when the faults end
	clients int
}

// drawn returns the life of a seed with all that it has.
func drawn(seed uint64) variant {
	s := newSimulation(seed, nil)
	return variant{seed, s.plan, s.settings.faulty, s.settings.clients}
}

// pick returns a variant of the life of a seed, as the flags say it.
func pick(seed uint64, faults string, until time.Duration, clients int) (variant, error) {
	v := drawn(seed)
	if until > 0 {
		v.until = until
	}
	if clients > 0 {
		v.clients = clients
	}
	if faults == "all" {
		return v, nil
	}
	all := v.plan
	v.plan = nil
	if faults == "none" {
		return v, nil
	}
	for word := range strings.SplitSeq(faults, ",") {
		number, err := strconv.Atoi(word)
		if err != nil || number < 1 || number > len(all) {
			return v, fmt.Errorf("-sim.faults=%s: %q is no number from 1 to %d", faults, word, len(all))
		}
		v.plan = append(v.plan, all[number-1])
	}
	return v, nil
}

// command is what shows the variant.
func (v variant) command() string {
	own := drawn(v.seed)
	words := []string{fmt.Sprintf("go test -run 'TestSimulation$' -v . -sim.seed=%d", v.seed)}
	if len(v.plan) < len(own.plan) {
		words = append(words, "-sim.faults="+v.faults())
	}
	if v.until != own.until {
		words = append(words, fmt.Sprintf("-sim.until=%v", v.until))
	}
	if v.clients != own.clients {
		words = append(words, fmt.Sprintf("-sim.clients=%d", v.clients))
	}
	return strings.Join(append(words, "-sim.trace=run.html"), " ")
}

func (v variant) faults() string {
	if len(v.plan) == 0 {
		return "none"
	}
	var numbers []string
	for _, f := range v.plan {
		numbers = append(numbers, strconv.Itoa(f.Number))
	}
	return strings.Join(numbers, ",")
}

// begin returns the life, about to begin.
func (v variant) begin() *simulation {
	plan := sim.Plan{}
	for _, f := range v.plan {
		if f.At < v.until { // what comes later would hit a cluster that is to be well
			plan = append(plan, f)
		}
	}
	s := newSimulation(v.seed, plan)
	s.settings.faulty, s.settings.clients = v.until, v.clients
	return s
}

// live lives the life, and returns the promise that was broken even if that was
// found by a panic.
func (s *simulation) live() (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("no panic: %v\n%s", cause, debug.Stack())
		}
	}()
	return s.run()
}

// failure is a life that broke a promise.
type failure struct {
	variant
	err    error
	events int
	at     time.Duration
}

func failureOf(v variant, s *simulation, err error) failure {
	v.plan = s.plan
	return failure{v, err, s.world.Events(), s.world.Now()}
}

// living lives a variant that prepare has changed, and returns how it failed.
func (v variant) living(prepare func(*simulation)) (f failure, failed bool) {
	s := v.begin()
	prepare(s)
	err := s.live()
	return failureOf(v, s, err), err != nil
}

// size is what there is to get smaller.
func (f failure) size() [3]int { return [3]int{len(f.plan), f.clients, f.events} }

// promise is the name of what was broken.
func (f failure) promise() string {
	name, _, _ := strings.Cut(f.err.Error(), ": ")
	return name
}

// Bounds of a reduction.
const (
	reduceTries = 200
	reduceTime  = 20 * time.Second
	reduceStep  = 50 * time.Millisecond // of the time when faults end
)

// explain tells what was broken and how one sees it.
func (f failure) explain() string {
	return fmt.Sprintf("seed %d: %v\nsee it with: %s", f.seed, f.err, f.command())
}

// explainSmaller tells the same of a smaller life that was found in so many tries.
func (f failure) explainSmaller(smallest failure, tries int) string {
	if smallest.size() == f.size() {
		return fmt.Sprintf("of %d lives with less in them none breaks it", tries)
	}
	what, _, _ := strings.Cut(smallest.err.Error(), "\n") // without the stack of a panic
	return fmt.Sprintf("of %d lives with less in them the smallest that breaks it too has %d of %d faults, %d of %d clients, %d events instead of %d:\n%v%s\nsee it with: %s",
		tries, len(smallest.plan), len(f.plan), smallest.clients, f.clients, smallest.events, f.events, smallest.plan, what, smallest.command())
}

// reduce looks for a smaller life that breaks the same promise, and not much later,
// and returns it with the number of lives that were tried. Fewer faults matter more
// than fewer events: a cluster that is hit less may do more. All lives are changed by
// prepare, as the one that failed was.
func (f failure) reduce(prepare func(*simulation)) (smallest failure, tries int) {
	smallest = f
	deadline := time.Now().Add(reduceTime)
	fails := func(v variant, events int) bool {
		if tries == reduceTries || time.Now().After(deadline) {
			return false
		}
		tries++
		got, failed := v.living(func(s *simulation) {
			prepare(s)
			s.world.After(2*f.at, func() { s.judge.Accuse("in time", "it breaks much later, if at all") })
		})
		if !failed || got.promise() != f.promise() || got.events > events {
			return false
		}
		smallest = got
		return true
	}
	for before := [3]int{}; before != smallest.size(); {
		before = smallest.size()
		v := smallest.variant
		sim.Least(0, v.clients, 1, func(clients int) bool { // first, since lives with fewer clients are tried faster
			v.clients = clients
			return fails(v, smallest.events)
		})
		v = smallest.variant
		sim.Reduce(v.plan, reduceTries, func(plan sim.Plan) bool {
			v.plan = plan
			return fails(v, math.MaxInt)
		})
		v = smallest.variant
		sim.Least(0, min(v.until, smallest.at), reduceStep, func(until time.Duration) bool {
			v.until = until.Round(time.Millisecond)
			return fails(v, smallest.events)
		})
	}
	return smallest, tries
}

// Of a life with disks that lie, what is left is enough to break the same promise,
// is less than there was, and is what its command says.
func TestSimulationIsReduced(t *testing.T) {
	t.Parallel()
	lie := func(s *simulation) { s.lies = func(n *simNode) bool { return n.random.IntN(50) == 0 } }
	reduced := 0
	for seed := uint64(1); reduced < 5; seed++ {
		f, failed := drawn(seed).living(lie)
		if !failed {
			continue
		}
		reduced++
		smallest, tries := f.reduce(lie)
		require.LessOrEqual(t, tries, reduceTries)
		require.Equal(t, f.promise(), smallest.promise())
		require.NotEqual(t, f.size(), smallest.size())
		require.LessOrEqual(t, len(smallest.plan), len(f.plan))
		require.LessOrEqual(t, smallest.at, 2*f.at)
		again, err := pick(seed, smallest.faults(), smallest.until, smallest.clients)
		require.NoError(t, err)
		same, failed := again.living(lie)
		require.True(t, failed)
		require.Equal(t, smallest.err, same.err)
		require.Equal(t, smallest.events, same.events)
	}
}

// A promise that breaks once power was cut and a disk hung needs two faults, in a
// life that has many.
func TestSimulationIsReducedToWhatIsNeeded(t *testing.T) {
	needs := []sim.FaultKind{sim.PowerCut, sim.HungDisk}
	prepare := func(s *simulation) {
		s.world.Tell = func(time.Duration, sim.Line) {
			if counts := s.world.Counts(); counts[needs[0].String()] > 0 && counts[needs[1].String()] > 0 {
				s.judge.Accuse("a seeded promise", "both have happened")
			}
		}
	}
	v := drawn(1)
	early := func(kind sim.FaultKind) bool {
		return slices.ContainsFunc(v.plan, func(f sim.Fault) bool { return f.Kind == kind && f.At < 2*time.Second })
	}
	for len(v.plan) < 8 || !early(needs[0]) || !early(needs[1]) {
		v = drawn(v.seed + 1)
	}
	f, failed := v.living(prepare)
	require.True(t, failed)
	smallest, tries := f.reduce(prepare)
	require.Len(t, smallest.plan, 2)
	for _, fault := range smallest.plan {
		require.Contains(t, needs, fault.Kind)
	}
	require.Equal(t, 1, smallest.clients)
	require.Contains(t, f.explain(), f.command())
	require.Contains(t, f.explainSmaller(smallest, tries), smallest.command())
	require.Contains(t, smallest.command(), "-sim.faults="+smallest.faults()+" ")
	t.Log(f.explain() + "\n" + f.explainSmaller(smallest, tries))
}
