package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

var replacements = flag.Int("replacements", 1, "how often TestProcessesAreReplacedUnderLoad replaces all processes")

// A client that tries again is served within this time.
const longestOutage = time.Second

// TestProcessesAreReplacedUnderLoad replaces the three processes of a cluster one by
// one by three others, in any order, while clients write through any of them. A client
// whose request fails tries again, and is served within a second. At the end every
// write that was acknowledged is there, once and in its place.
func TestProcessesAreReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := startProcesses(t, "-segment-bytes", "262144", "-snapshot-entries", "50")
	(&testCluster{members: c.members}).leader(t) // to find the first one takes its time
	load := startLoad(t, c.members)
	for round := range *replacements {
		rand.Shuffle(len(c.members), func(i, j int) { c.members[i], c.members[j] = c.members[j], c.members[i] })
		for i := range 3 {
			load.awaitWrites(t, c, 1+rand.IntN(100), c.members...)
			addresses := freeAddresses(t, 2)
			newcomer := member{raft.NodeID(fmt.Sprintf("r%dn%d", round, i)), addresses[0], addresses[1]}
			c.replace(t, newcomer)
			load.aim(c.members)
		}
	}
	load.awaitWrites(t, c, 100, c.members...)
	load.end(t)
	require.Less(t, load.outage(), longestOutage, "a client asked in vain for so long")
	c.awaitEqual(t)
	for _, m := range c.members {
		load.check(t, m.http)
	}
	for _, m := range c.members {
		require.NoError(t, c.running[m.id].interrupt())
	}
	t.Logf("%d processes replaced in %.1fs: %s; longest gap between two acknowledged writes %v, longest time that a client asked in vain %v",
		3**replacements, time.Since(began).Seconds(), load.summary(), load.longest.Round(time.Millisecond), load.outage().Round(time.Millisecond))
}

// replace starts the process of a newcomer, has it take the place of the member that
// has been there for longest, and waits until the process of that one has ended.
func (c *processes) replace(t *testing.T, newcomer member) {
	old, others := c.members[0], c.members[1:]
	c.launch(t, newcomer, "-join")
	c.members = append(slices.Clone(others), newcomer)
	curl := client(t)
	c.await(t, fmt.Sprintf("%s to replace %s", newcomer.id, old.id), func() bool {
		at := others[rand.IntN(len(others))].http
		r, err := try(curl, at, "POST", "/members?"+newcomer.query()+"&replace="+string(old.id), "")
		if err == nil && r.code == http.StatusOK {
			return true
		}
		// What is not known to have happened may have happened.
		shown, err := members(at)
		return err == nil && !shown.Changing && strings.Contains(shown.roles(), string(newcomer.id)+":voter") && !strings.Contains(shown.roles(), string(old.id)+":")
	}, c.members...)
	p := c.running[old.id]
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("the process of %s goes on after it was removed", old.id)
	}
	require.NoError(t, p.err)
	require.Contains(t, p.output.String(), "was removed from the cluster")
}
