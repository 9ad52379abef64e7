package raft

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run the simulation of this seed alone")
	simSeeds = flag.Int("sim.seeds", 0, "run so many seeds")
)

// TestSimulation runs whole clusters through lives full of faults.
func TestSimulation(t *testing.T) {
	if *simSeed > 0 {
		s := newSimulation(*simSeed, nil)
		err := s.run()
		t.Logf("plan:\n%s%s\n%v", s.plan, s, s.world.Counts())
		require.NoError(t, err, "seed %d", *simSeed)
		return
	}
	seeds := 200
	if *simSeeds > 0 {
		seeds = *simSeeds
	}
	counts := map[string]int{}
	var virtual time.Duration
	began := time.Now()
	events, acknowledged := 0, 0
	for seed := uint64(1); seed <= uint64(seeds); seed++ {
		s := newSimulation(seed, nil)
		if err := s.run(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		for kind, n := range s.world.Counts() {
			counts[kind] += n
		}
		virtual += s.world.Now()
		events += s.world.Events()
		acknowledged += s.oracle.Acknowledged()
	}
	took := time.Since(began)
	t.Logf("%d seeds in %v: %v of virtual time (%.0f times as fast), %d events, %d commands acknowledged", seeds, took, virtual, virtual.Seconds()/took.Seconds(), events, acknowledged)
	for _, kind := range sortedKeys(counts) {
		fmt.Printf("%8d %s\n", counts[kind], kind)
	}
}
