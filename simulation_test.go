package raft

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/sim"
	"github.com/seed-8da499c8/raft/internal/testenv"
)

var (
	simSeed      = flag.Uint64("sim.seed", 0, "simulate the life of this seed alone, and tell it")
	simSeeds     = flag.Int("sim.seeds", 0, "how many lives to simulate; 0: 150, or 100 where time is short")
	simTrace     = flag.String("sim.trace", "", "the `file` for a page that shows the life of -sim.seed")
	simHistories = flag.String("sim.histories", "", "the `directory` for what the clients of each life saw")
)

// TestSimulation runs whole clusters through lives full of faults. One that fails
// is seen again, as a story and as a page for a browser, with
//
//	go test -run 'TestSimulation$' -v . -sim.seed=N -sim.trace=run.html
func TestSimulation(t *testing.T) {
	if *simSeed > 0 {
		v, err := pick(*simSeed, *simFaults, *simUntil, *simClients)
		require.NoError(t, err)
		tellLife(t, v)
		return
	}
	require.True(t, *simTrace == "" && *simFaults == "all" && *simUntil == 0 && *simClients == 0, "which life is it about? -sim.seed says that")
	lives := 150
	switch {
	case *simSeeds > 0:
		lives = *simSeeds
	case testenv.Brief():
		lives = 100
	}
	total := &tally{counts: map[string]int{}, lives: map[string]int{}}
	began := time.Now()
	var workers sync.WaitGroup
	for first := range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed := first + 1; seed <= lives; seed += runtime.GOMAXPROCS(0) {
				simulate(t, uint64(seed), total)
			}
		})
	}
	workers.Wait()
	took := time.Since(began)
	t.Logf("%d lives in %v: %v of virtual time, %d events, %d commands acknowledged", lives, took, total.virtual, total.events, total.acknowledged)
	for _, kind := range sortedKeys(total.counts) {
		t.Logf("%8d %s, in %d lives", total.counts[kind], kind, total.lives[kind])
	}
	if lives >= 100 {
		for _, kind := range simulated {
			require.Positive(t, total.counts[kind], "no life had %q", kind)
		}
		if lives >= 1000 {
			for _, kind := range simulatedRarely {
				require.Positive(t, total.counts[kind], "no life had %q", kind)
			}
		}
		for kind := range sim.FaultKinds {
			require.Positive(t, total.counts[kind.String()], "no life had the fault %v", kind)
		}
	}
}

// simulated is what a hundred lives must have had: a simulation that never gets
// there proves nothing.
var simulated = []string{
	"become leader", "become follower", "ask for pre-votes", "start election", "grant vote", "refuse vote",
	"replace entries", "reject entries", "probe follower", "step down",
	"crashes", "starts", "power cut, lose", "power cut, keep", "power cut, tear", "power cut, scatter", "writes cut short", "writes lost",
	"suffixes truncated", "reads for followers", "nodes that stopped by themselves", "writes that hung",
	"messages cut off", "messages lost", "messages doubled", "streams broken",
	"operations done", "operations refused", "operations unknown", "operations tried again", "nodes kept away",
	"snapshots taken", "snapshots on demand", "snapshots restored", "send snapshot", "snapshot arrived", "install snapshot",
	"chunks stored", "snapshots damaged", "snapshots fallen back from",
	"enter configuration", "join cluster", "changes made", "changes refused", "changes of unknown outcome",
	"learners added", "voters added", "learners promoted", "voters demoted", "members taken out", "leaders taken out",
	"joint changes", "members that were all replaced", "removed nodes that ended", "crashes in a joint phase", "snapshots in a joint phase",
	"hand over leadership", "leadership handed over", "leadership not handed over", "keep leadership", "disks lost",
	"reads, linearizable", "reads, confirmed", "reads, local", "reads of what was written", "reads of bounded staleness",
	"reads on learners", "reads on followers", "reads on leaders", "reads by a lease", "reads refused", "reads given up",
	"commands forwarded", "forwarded commands done",
	"sessions opened", "sessions closed", "sessions expired", "commands in sessions done", "commands in sessions unknown", "commands in sessions refused",
	"retries in sessions", "retries found executed", "late copies of commands in sessions", "replies dropped",
}

// simulatedRarely is what a thousand lives must have had.
var simulatedRarely = []string{
	"writes torn", "transfers interrupted", "transfers resumed", "snapshots cut short", "snapshots that could not be taken", "no snapshot taken",
	"members without their disk taken out", "ids that came back with an empty disk", "removed nodes that were taken in again", "newcomers that could not follow",
}

// tally adds up what many lives had.
type tally struct {
	mu                   sync.Mutex
	counts               map[string]int // of what happened
	lives                map[string]int // in which it happened
	virtual              time.Duration
	events, acknowledged int
	failed               int
}

// worthReducing reports whether a smaller life is to be looked for in place of one
// that failed: of a few only, since it takes a while.
func (c *tally) worthReducing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed++
	return c.failed <= 2
}

func (c *tally) add(s *simulation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for kind, n := range s.world.Counts() {
		c.counts[kind] += n
		c.lives[kind]++
	}
	c.virtual += s.world.Now()
	c.events += s.world.Events()
	c.acknowledged += s.oracle.Acknowledged()
}

func simulate(t *testing.T, seed uint64, total *tally) {
	s := newSimulation(seed, nil)
	if err := s.live(); err != nil {
		f := failureOf(drawn(seed), s, err)
		t.Error(f.explain())
		if total.worthReducing() {
			t.Error(f.explainSmaller(f.reduce(func(*simulation) {})))
		}
	}
	total.add(s)
	if *simHistories == "" {
		return
	}
	file, err := os.Create(filepath.Join(*simHistories, fmt.Sprintf("%d.jsonl", seed)))
	if err == nil {
		err = s.oracle.WriteHistory(file)
	}
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		t.Error(err)
	}
}

// tellLife simulates one life and tells what happened in it.
func tellLife(t *testing.T, v variant) {
	s := v.begin()
	s.world.Tell = func(at time.Duration, line sim.Line) {
		t.Logf("%12v  %-2d %-2d %s: %s", at, line.Node, line.Peer, line.Kind, line.Text)
	}
	if *simTrace != "" {
		s.record()
	}
	err := s.live()
	t.Logf("settings %+v\n%s\nfaults, by number:\n%s", s.settings, s, s.plan)
	if *simTrace != "" {
		s.writePage(t, *simTrace, v, err)
	}
	require.NoError(t, err, "seed %d", v.seed)
}

// The same seed leads to the same life, and leaves the same nodes behind, a hundred
// times, whatever else the machine does.
func TestSimulationIsDeterministic(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	var want [10]string
	for seed := range want {
		want[seed] = endOfLife(t, uint64(seed+1))
	}
	for turn := range 10 {
		runtime.GOMAXPROCS(1 + turn%4)
		var lives sync.WaitGroup
		for seed := range want {
			lives.Go(func() { assert.Equal(t, want[seed], endOfLife(t, uint64(seed+1)), "seed %d", seed+1) })
		}
		lives.Wait()
	}
}

// endOfLife tells one life from all others.
func endOfLife(t *testing.T, seed uint64) string {
	s := newSimulation(seed, nil)
	assert.NoError(t, s.run())
	end := fmt.Sprint(s.world.Digest(), s.world.Events(), s.oracle.Acknowledged(), s.world.Now())
	for _, n := range s.nodes {
		if n.driver != nil {
			end += fmt.Sprintf(" %x", n.driver.hash())
		}
	}
	return end
}

// BenchmarkSimulation lives the lives of three nodes that are under load and have
// no faults.
func BenchmarkSimulation(b *testing.B) {
	var virtual time.Duration
	commands := 0
	for seed := uint64(1); b.Loop(); seed++ {
		s := newSimulation(seed, sim.Plan{})
		for ; s.settings.nodes != 3; seed++ {
			s = newSimulation(seed+1, sim.Plan{})
		}
		s.settings.clients, s.settings.thinks, s.settings.faulty = 6, 30*time.Millisecond, 10*time.Second
		s.settings.pending, s.settings.unapplied = 1<<20, 1<<20
		if err := s.run(); err != nil {
			b.Fatal(err)
		}
		virtual += s.world.Now()
		commands += s.oracle.Acknowledged()
	}
	b.ReportMetric(virtual.Seconds()/b.Elapsed().Seconds(), "virtual-s/s")
	b.ReportMetric(float64(commands)/virtual.Seconds(), "commands/virtual-s")
}

// A disk that says now and then that it has written, and has not, is found out
// soon: the judges are not asleep.
func TestSimulationFindsADiskThatLies(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		s := newSimulation(seed, nil)
		s.lies = func(n *simNode) bool { return n.random.IntN(50) == 0 }
		if s.run() != nil {
			return
		}
	}
	t.Fatal("20 lives with lying disks, and nobody noticed")
}
