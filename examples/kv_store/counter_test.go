//go:build unix

package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

var counterTime = flag.Duration("counter", 0, "how long TestCounterCountsOnce kills and freezes processes, after the first two times")

const (
	countingClients = 4
	countingReaders = 2

	// hurry is how long clients wait for an answer: a frozen process gives none.
	hurry = 500 * time.Millisecond

	// countingPace is how long a client waits before its next request.
	countingPace = 10 * time.Millisecond
)

// TestCounterCountsOnce has clients count with one key through any process, while
// processes are killed and leaders frozen. Who gets no answer that settles it sends the same
// increment again, under the same Idempotency-Key. Every one of them counts once, whatever
// happened to how many of its requests. Others read meanwhile, from any process: what one
// has seen, or was told to be counted, all who read later see.
func TestCounterCountsOnce(t *testing.T) {
	t.Parallel()
	began := time.Now()
	d := &disturbance{processes: startProcesses(t, "-segment-bytes", "262144", "-snapshot-entries", "500")}
	d.load = startCounting(t, d.members)
	d.awaitProgress(t, d.members...)
	faults := []func(*testing.T){d.freezeLeader, d.killLeader, d.killAny, d.killAll, d.freezeLeaderAndKillAnother}
	for round := 0; round < 2 || time.Since(began) < *counterTime; round++ {
		fault := faults[round%2]
		if round >= 2 {
			fault = faults[rand.IntN(len(faults))]
		}
		fault(t)
		d.awaitProgress(t, d.members...)
	}
	d.load.end(t)
	n := d.load.check(t)
	for _, m := range d.members {
		require.Equal(t, strconv.Itoa(n), do(t, client(t), m.http, "GET", "/kv/counter", "").body)
	}
	d.awaitEqual(t)
	for _, m := range d.members {
		require.NoError(t, d.running[m.id].interrupt())
	}
	t.Logf("%d increments, each counted once, in %.1fs: %d processes killed, %d leaders frozen; %d requests sent again, of which %d at least had been executed; %d reads, none of them stale",
		n, time.Since(began).Seconds(), d.kills, d.freezes, d.load.again.Load(), d.load.executed.Load(), d.load.reads.Load())
}

// disturbance is processes, clients that count, and what is done to the processes.
type disturbance struct {
	*processes
	load           *counting
	kills, freezes int
}

// awaitProgress waits until more is counted.
func (d *disturbance) awaitProgress(t *testing.T, running ...member) {
	t.Helper()
	want := d.load.present().sum + 1 + rand.Int64N(50)
	d.await(t, "the counter to reach "+strconv.FormatInt(want, 10), func() bool {
		d.load.fail(t)
		return d.load.present().sum >= want
	}, running...)
}

// freeze stops a process as the system does that has no time for it, and returns what lets
// it go on.
func (d *disturbance) freeze(t *testing.T, m member) (thaw func()) {
	process := d.running[m.id].command.Process
	require.NoError(t, process.Signal(syscall.SIGSTOP))
	d.freezes++
	return func() { require.NoError(t, process.Signal(syscall.SIGCONT)) }
}

// killSoon kills at any moment, not that of an acknowledgement.
func (d *disturbance) killSoon(victims ...member) {
	<-time.After(rand.N(20 * time.Millisecond))
	d.kill(victims...)
	d.kills += len(victims)
}

func (d *disturbance) leader(t *testing.T) (leader member, followers []member) {
	return (&testCluster{members: d.members}).leader(t)
}

// freezeLeader freezes the leader until another one serves. It goes on in the belief that
// it leads.
func (d *disturbance) freezeLeader(t *testing.T) {
	leader, others := d.leader(t)
	thaw := d.freeze(t, leader)
	d.awaitProgress(t, others...)
	thaw()
}

func (d *disturbance) killLeader(t *testing.T) {
	leader, others := d.leader(t)
	d.killSoon(leader)
	d.awaitProgress(t, others...)
	d.start(t, leader)
}

func (d *disturbance) killAny(t *testing.T) {
	victim := d.members[rand.IntN(len(d.members))]
	d.killSoon(victim)
	<-time.After(rand.N(2 * time.Second)) // long enough for another leader, or not
	d.start(t, victim)
}

func (d *disturbance) killAll(t *testing.T) {
	d.killSoon(d.members...)
	d.start(t, d.members...)
}

// freezeLeaderAndKillAnother leaves no majority: the leader goes on with one that has
// started anew, or is succeeded.
func (d *disturbance) freezeLeaderAndKillAnother(t *testing.T) {
	leader, others := d.leader(t)
	thaw := d.freeze(t, leader)
	victim := others[rand.IntN(len(others))]
	d.killSoon(victim)
	<-time.After(rand.N(2 * time.Second))
	if rand.IntN(2) == 0 {
		thaw()
		d.start(t, victim)
		return
	}
	d.start(t, victim)
	thaw()
}

// counting is clients that count and read, and what they know.
type counting struct {
	members []member
	stop    chan struct{}
	running sync.WaitGroup
	failed  chan error // of a client: a promise that was broken

	begun    atomic.Int64 // increments
	again    atomic.Int64 // requests that were sent again
	executed atomic.Int64 // of these, increments that had been executed for certain
	reads    atomic.Int64

	mu   sync.Mutex // guards what follows
	seen counted
	sums []int64 // the answers to all increments
}

// counted is what the counter was at an index, or more.
type counted struct {
	sum   int64
	index raft.Index
}

func startCounting(t *testing.T, members []member) *counting {
	c := &counting{members: members, stop: make(chan struct{}), failed: make(chan error, countingClients+countingReaders)}
	run := func(name string, client func(*http.Client) error) {
		curl := hasty(t)
		c.running.Go(func() {
			if err := client(curl); err != nil {
				c.failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	for i := range countingClients {
		run(fmt.Sprint("client ", i), c.count)
	}
	for i := range countingReaders {
		run(fmt.Sprint("reader ", i), c.read)
	}
	t.Cleanup(c.halt)
	return c
}

func hasty(t *testing.T) *http.Client {
	return client(t, func(c *http.Client) { c.Timeout = hurry })
}

// halt ends the clients, once their last increments are settled.
func (c *counting) halt() {
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.running.Wait()
}

func (c *counting) end(t *testing.T) {
	c.halt()
	c.fail(t)
}

// fail reports what a client has found.
func (c *counting) fail(t *testing.T) {
	select {
	case err := <-c.failed:
		t.Fatal(err)
	default:
	}
}

// goesOn waits until it is time for the next request, and reports false if there is to be
// none.
func (c *counting) goesOn() bool {
	select {
	case <-c.stop:
		return false
	case <-time.After(countingPace):
		return true
	}
}

// present is what whoever reads from now on has to see.
func (c *counting) present() counted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// see notes an answer. The counter only grows, so what was seen first and last may be
// put together.
func (c *counting) see(answer counted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = counted{max(c.seen.sum, answer.sum), max(c.seen.index, answer.index)}
}

// ask sends a request to any process.
func (c *counting) ask(curl *http.Client, method, path string, header http.Header) (response, error) {
	return try(curl, c.members[rand.IntN(len(c.members))].http, method, path, "", header)
}

// open opens a session.
func (c *counting) open(curl *http.Client) (id string, err error) {
	err = c.retry(func() (bool, error) {
		r, err := c.ask(curl, "POST", "/sessions", nil)
		id = r.body
		return isSettled(r, err), nil
	})
	return id, err
}

// increment sends an increment, again and again, until the answer settles it. Some answers
// are lost, for the test: then the next one must be the same.
func (c *counting) increment(curl *http.Client, key string) (answer response, err error) {
	c.begun.Add(1)
	var lost *response
	err = c.retry(func() (bool, error) {
		before := c.present().index
		r, err := c.ask(curl, "POST", "/kv/counter?add=1", under(key))
		if !isSettled(r, err) {
			return false, nil
		}
		index, err := indexOf(r)
		switch {
		case err != nil:
			return false, err
		case lost != nil && (lost.body != r.body || lost.header.Get("Raft-Index") != r.header.Get("Raft-Index")):
			return false, fmt.Errorf("%s was answered with %+v, and with %+v before", key, r, lost)
		case lost != nil || index <= before:
			c.executed.Add(1)
		}
		answer, lost = r, &r
		return rand.IntN(8) > 0, nil
	})
	return answer, err
}

func isSettled(r response, err error) bool {
	return err == nil && r.code != http.StatusServiceUnavailable && r.code != http.StatusGatewayTimeout
}

// retry does something until it succeeds, or fails for good.
func (c *counting) retry(try func() (bool, error)) error {
	for end := time.Now().Add(patience); ; <-time.After(countingPace) {
		ok, err := try()
		switch {
		case ok || err != nil:
			return err
		case time.Now().After(end):
			return fmt.Errorf("no success in %v", patience)
		}
		c.again.Add(1)
	}
}

// count opens a session and counts in it.
func (c *counting) count(curl *http.Client) error {
	session, err := c.open(curl)
	if err != nil {
		return err
	}
	var last counted
	for number := 1; c.goesOn(); number++ {
		r, err := c.increment(curl, fmt.Sprint(session, "-", number))
		if err != nil {
			return err
		}
		answer, err := c.answer(r)
		switch {
		case err != nil:
			return err
		case answer.sum <= last.sum || answer.index <= last.index:
			return fmt.Errorf("increment %d was answered with %+v, after %+v", number, answer, last)
		}
		last = answer
		c.mu.Lock()
		c.sums = append(c.sums, answer.sum)
		c.mu.Unlock()
	}
	return nil
}

// read reads in each way that is not to miss what was seen. All processes have the same
// clock, so leases are among them.
func (c *counting) read(curl *http.Client) error {
	for c.goesOn() {
		floor := c.present()
		query := []string{"", "?consistency=lease", fmt.Sprint("?consistency=stale&min-index=", floor.index)}[rand.IntN(3)]
		r, err := c.ask(curl, "GET", "/kv/counter"+query, nil)
		if err != nil || r.code == http.StatusServiceUnavailable {
			continue
		}
		answer, err := c.answer(r)
		switch {
		case err != nil:
			return err
		case answer.sum < floor.sum:
			return fmt.Errorf("GET %s: the counter is %d, and was %d when the read began", query, answer.sum, floor.sum)
		case strings.Contains(query, "stale") && answer.index < floor.index:
			return fmt.Errorf("GET %s: was served at %d", query, answer.index)
		}
		c.reads.Add(1)
	}
	return nil
}

// answer returns what an answer says of the counter. It is never more than was asked for.
func (c *counting) answer(r response) (answer counted, err error) {
	answer.index, err = indexOf(r)
	switch {
	case err != nil:
	case r.code == http.StatusOK:
		answer.sum, err = strconv.ParseInt(r.body, 10, 64)
	case r.code != http.StatusNotFound: // it was, at first
		err = fmt.Errorf("%d: %s", r.code, r.body)
	}
	if begun := c.begun.Load(); err == nil && answer.sum > begun {
		err = fmt.Errorf("the counter is %d after %d increments", answer.sum, begun)
	}
	if err == nil {
		c.see(answer)
	}
	return answer, err
}

func indexOf(r response) (raft.Index, error) {
	index, err := strconv.ParseUint(r.header.Get("Raft-Index"), 10, 64)
	if err != nil {
		err = fmt.Errorf("%d: %s: Raft-Index: %w", r.code, r.body, err)
	}
	return raft.Index(index), err
}

// check returns how many increments there were, if each counted once.
func (c *counting) check(t *testing.T) (n int) {
	slices.Sort(c.sums)
	for i, sum := range c.sums {
		require.EqualValues(t, i+1, sum, "the answers to all increments, in order")
	}
	require.EqualValues(t, c.begun.Load(), len(c.sums))
	return len(c.sums)
}
