package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

var rounds = flag.Int("rounds", 1, "how often TestKilledProcessesLoseNothing kills")

const (
	killClients = 8
	killChains  = killClients / 2 // two clients write to each

	// chainLinks is how many values a key of a chain holds.
	chainLinks = 50
)

// TestKilledProcessesLoseNothing kills processes with SIGKILL while clients
// write, one or all of them, at any moment, also while they start, and starts
// them again with their data. Then every write that was acknowledged must be
// there, once and in its place, on each majority of the nodes.
//
// The verdict does not depend on the moments, which are different each time. The
// segments are small and snapshots frequent, so that the files change often.
func TestKilledProcessesLoseNothing(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := startProcesses(t, "-segment-bytes", "262144", "-snapshot-entries", "50")
	load := startLoad(t, c.members)
	kills := 0
	kill := func(within time.Duration, victims ...member) {
		<-time.After(rand.N(within)) // any moment, not that of an acknowledgement
		c.kill(victims...)
		kills += len(victims)
	}
	for range *rounds {
		load.awaitWrites(t, c, 1+rand.IntN(200), c.members...)
		if rand.IntN(3) == 0 {
			kill(20*time.Millisecond, c.members...)
			c.start(t, c.members...)
			continue
		}
		shuffled := slices.Clone(c.members)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		victim, others := shuffled[0], shuffled[1:]
		kill(20*time.Millisecond, victim)
		load.awaitWrites(t, c, 1+rand.IntN(50), others...)
		if rand.IntN(3) == 0 {
			c.launch(t, victim)
			kill(100*time.Millisecond, victim) // while it starts
		}
		behind, err := status(others[0].http)
		require.NoError(t, err)
		c.start(t, victim)
		c.await(t, "node "+string(victim.id)+" to catch up", func() bool {
			s, err := status(victim.http)
			return err == nil && s.Applied >= behind.Applied
		}, c.members...)
	}
	load.awaitWrites(t, c, 100, c.members...)
	c.await(t, "snapshots", func() bool {
		return !slices.ContainsFunc(c.members, func(m member) bool {
			s, err := status(m.http)
			return err != nil || s.Snapshot == 0 || s.First == 1
		})
	}, c.members...)
	load.end(t)

	c.kill(c.members...)
	for i := range c.members { // each majority
		pair := []member{c.members[i], c.members[(i+1)%len(c.members)]}
		c.start(t, pair...)
		load.check(t, pair[0].http)
		c.kill(pair...)
	}
	c.start(t, c.members...)
	load.check(t, c.members[0].http)
	c.awaitEqual(t)
	for _, m := range c.members {
		require.NoError(t, c.running[m.id].interrupt())
	}
	t.Logf("%d rounds, %d processes killed, in %.1fs: %s", *rounds, kills, time.Since(began).Seconds(), load.summary())
}

// load is clients that write, each value once in all, and what became of every
// value.
type load struct {
	clients []*loadClient
	members atomic.Pointer[[]member] // whom the clients ask
	clock   atomic.Int64             // orders what ended before what began
	acked   atomic.Int64
	stop    chan struct{}
	running sync.WaitGroup
	failed  chan error // of a client: a promise that was broken

	mu      sync.Mutex // guards what follows
	lastAck time.Time
	longest time.Duration // between two acknowledged writes
}

// write is one request to write a value.
type write struct {
	value      string
	start, end int64 // by the clock of the load
	fate       fate
	index      raft.Index // if it is applied
}

// fate is what a client knows about a request of its own.
type fate int

const (
	unknown fate = iota // may be applied, now or later
	applied
	refused // not applied, and never will be
	missed  // applied without effect: the value compared with is not there
)

// loadClient appends values to a chain that it shares with another client, and
// sets a register that is its own.
//
// A chain is keys with lists of values, of which only the last one is not full. A
// client adds a value by compare and set. A register has the last value that was
// set, so that a write which is applied again, later, shows.
type loadClient struct {
	load  *load
	id    int
	http  *http.Client
	count int // of values

	part string // of the chain, as it was last seen
	full int    // parts that are full

	appends, sets []write
	gets          int

	failing time.Time     // since when no request of it has been served; zero: the last one was
	outage  time.Duration // the longest such time
}

func startLoad(t *testing.T, members []member) *load {
	l := &load{stop: make(chan struct{}), failed: make(chan error, killClients), lastAck: time.Now()}
	l.aim(members)
	for i := range killClients {
		c := &loadClient{load: l, id: i}
		c.http = client(t, func(c *http.Client) { c.Timeout = 2 * time.Second })
		l.clients = append(l.clients, c)
	}
	for _, c := range l.clients {
		l.running.Go(func() {
			if err := c.run(); err != nil {
				l.failed <- fmt.Errorf("client %d: %w", c.id, err)
			}
		})
	}
	t.Cleanup(sync.OnceFunc(l.halt))
	return l
}

// aim has the clients ask these members from now on.
func (l *load) aim(members []member) {
	members = slices.Clone(members)
	l.members.Store(&members)
}

// halt ends the clients.
func (l *load) halt() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.running.Wait()
}

// end ends the clients and reports what they found.
func (l *load) end(t *testing.T) {
	l.halt()
	select {
	case err := <-l.failed:
		t.Fatal(err)
	default:
	}
}

// awaitWrites waits until so many more writes are acknowledged.
func (l *load) awaitWrites(t *testing.T, c *processes, more int, running ...member) {
	t.Helper()
	want := l.acked.Load() + int64(more)
	c.await(t, "writes", func() bool {
		select {
		case err := <-l.failed:
			t.Fatal(err)
		default:
		}
		return l.acked.Load() >= want
	}, running...)
}

// run writes and reads until the load ends.
func (c *loadClient) run() error {
	for {
		var f fate
		var err error
		began := time.Now()
		switch rand.IntN(4) {
		case 0:
			f, err = c.set()
		case 1:
			f, err = c.get()
		default:
			f, err = c.append()
		}
		if err != nil {
			return err
		}
		c.observe(f, began)
		pause := time.Duration(0)
		if f == unknown || f == refused {
			pause = 5 * time.Millisecond // as Retry-After asks, in a hurry
		}
		select {
		case <-c.load.stop:
			return nil
		case <-time.After(pause):
		}
	}
}

// observe notes how long the client asks in vain: from the start of a request that
// fails to the end of the next one that is served.
func (c *loadClient) observe(f fate, began time.Time) {
	failed := f == unknown || f == refused
	if failed && c.failing.IsZero() {
		c.failing = began
	}
	if !c.failing.IsZero() {
		c.outage = max(c.outage, time.Since(c.failing))
	}
	if !failed {
		c.failing = time.Time{}
	}
}

// acknowledged notes a write that was acknowledged just now.
func (l *load) acknowledged() {
	l.acked.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.longest = max(l.longest, now.Sub(l.lastAck))
	l.lastAck = now
}

// outage returns the longest time that a client of an ended load has asked in vain.
func (l *load) outage() (longest time.Duration) {
	for _, c := range l.clients {
		longest = max(longest, c.outage)
	}
	return longest
}

func chainKey(chain, part int) string { return fmt.Sprintf("/kv/chain%d/%d", chain, part) }
func registerKey(client int) string   { return fmt.Sprintf("/kv/register%d", client) }

// append adds a new value to the chain.
func (c *loadClient) append() (fate, error) {
	if strings.Count(c.part, " ") == chainLinks {
		c.full++
		c.part = ""
	}
	w := c.begin()
	path := chainKey(c.id%killChains, c.full) + "?if-absent"
	if c.part != "" {
		path = chainKey(c.id%killChains, c.full) + "?if=" + url.QueryEscape(c.part)
	}
	longer := c.part + " " + w.value
	present, err := c.send(&w, "POST", path, longer)
	c.appends = append(c.appends, w)
	if err != nil {
		return 0, err
	}
	switch {
	case w.fate == applied:
		c.part = longer
	case w.fate == missed && !strings.HasPrefix(present, c.part):
		return 0, fmt.Errorf("%s was %q, and is %q: something is lost", path, c.part, present)
	case w.fate == missed:
		c.part = present
	}
	return w.fate, nil
}

// set sets the register to a new value.
func (c *loadClient) set() (fate, error) {
	w := c.begin()
	_, err := c.send(&w, "PUT", registerKey(c.id), w.value)
	c.sets = append(c.sets, w)
	return w.fate, err
}

// get reads the register.
func (c *loadClient) get() (fate, error) {
	var r write
	present, err := c.send(&r, "GET", registerKey(c.id), "")
	if err == nil && r.fate == applied {
		c.gets++
		err = c.checkRegister(present)
	}
	return r.fate, err
}

// checkRegister checks the value of the register: it is the last one whose write
// was acknowledged, or one whose outcome is unknown. Empty: there is none.
func (c *loadClient) checkRegister(present string) error {
	last := ""
	for _, w := range c.sets {
		switch {
		case w.fate == applied:
			last = w.value
		case w.fate == unknown && w.value == present:
			return nil
		}
	}
	if present != last {
		return fmt.Errorf("%s has the value %q, want %q, whose write was acknowledged last", registerKey(c.id), present, last)
	}
	return nil
}

// begin returns a write of a value that no other write has.
func (c *loadClient) begin() write {
	c.count++
	return write{value: fmt.Sprintf("%d.%d", c.id, c.count), start: c.load.clock.Add(1)}
}

// send sends a request to any node, and notes what becomes of it. It returns the
// value of the key if the answer has it.
func (c *loadClient) send(w *write, method, path, content string) (present string, err error) {
	members := *c.load.members.Load()
	r, err := try(c.http, members[rand.IntN(len(members))].http, method, path, content)
	w.end = c.load.clock.Add(1)
	var network *net.OpError
	switch {
	case errors.As(err, &network) && network.Op == "dial": // also of the leader that a redirect names
		w.fate = refused
	case err != nil:
		w.fate = unknown
	case r.code == http.StatusOK && method == "GET":
		w.fate, present = applied, r.body
	case r.code == http.StatusOK:
		var b body
		if err := json.Unmarshal([]byte(r.body), &b); err != nil {
			return "", err
		}
		w.fate, w.index = applied, b.Index
		c.load.acknowledged()
	case r.code == http.StatusNotFound && method == "GET":
		w.fate = applied
	case r.code == http.StatusConflict:
		w.fate, present = missed, r.body
	case r.code == http.StatusServiceUnavailable:
		w.fate = refused
	case r.code == http.StatusGatewayTimeout:
		w.fate = unknown
	default: // a key that was there is absent, for example
		return "", fmt.Errorf("%s %s: %d: %s", method, path, r.code, r.body)
	}
	return present, nil
}

// check reads everything from a node and compares it with what the clients know.
func (l *load) check(t *testing.T, address string) {
	t.Helper()
	curl := client(t)
	for _, c := range l.clients {
		r := do(t, curl, address, "GET", registerKey(c.id), "")
		if r.code == http.StatusNotFound {
			r.body = ""
		}
		require.NoError(t, c.checkRegister(r.body))
	}
	for chain := range killChains {
		var values []string
		for part := 0; ; part++ {
			r := do(t, curl, address, "GET", chainKey(chain, part), "")
			if r.code == http.StatusNotFound {
				break
			}
			require.Zero(t, len(values)%chainLinks, "a part of chain %d is not full, and another one follows", chain)
			values = append(values, strings.Fields(r.body)...)
		}
		require.NoError(t, l.checkChain(chain, values))
	}
	require.NoError(t, l.checkIndexes())
}

// checkChain checks that a chain has what was acknowledged and nothing that was
// refused, nothing twice, and in an order that agrees with time.
func (l *load) checkChain(chain int, values []string) error {
	places := map[string]int{}
	for i, value := range values {
		if first, twice := places[value]; twice {
			return fmt.Errorf("chain %d has %s twice, at %d and %d", chain, value, first, i)
		}
		places[value] = i
	}
	chained := make([]write, len(values))
	for _, c := range l.clients {
		if c.id%killChains != chain {
			continue
		}
		for _, w := range c.appends {
			place, there := places[w.value]
			switch {
			case !there && w.fate == applied:
				return fmt.Errorf("chain %d lacks %s, which was acknowledged at index %d", chain, w.value, w.index)
			case there && (w.fate == refused || w.fate == missed):
				return fmt.Errorf("chain %d has %s, which was refused", chain, w.value)
			case there:
				chained[place] = w
			}
		}
	}
	for i, w := range chained {
		if w.value == "" {
			return fmt.Errorf("chain %d has %s, which nobody wrote", chain, values[i])
		}
	}
	return checkOrder(chained)
}

// checkIndexes checks that each acknowledged write has a place of its own in the
// log, and that the places agree with time.
func (l *load) checkIndexes() error {
	var all []write
	for _, c := range l.clients {
		for _, w := range slices.Concat(c.appends, c.sets) {
			if w.fate == applied {
				all = append(all, w)
			}
		}
	}
	slices.SortFunc(all, func(a, b write) int { return int(a.index) - int(b.index) })
	for i := range all[1:] {
		if all[i].index == all[i+1].index {
			return fmt.Errorf("%s and %s were both acknowledged at index %d", all[i].value, all[i+1].value, all[i].index)
		}
	}
	return checkOrder(all)
}

// checkOrder checks that of two writes of which one had been acknowledged when
// the other began, it comes first; and that indexes rise.
func checkOrder(writes []write) error {
	var next write // of those that follow, the one that was acknowledged first
	var index raft.Index
	for _, w := range slices.Backward(writes) {
		if next.end > 0 && next.end < w.start {
			return fmt.Errorf("%s comes before %s, which was acknowledged before it began", w.value, next.value)
		}
		if w.fate != applied {
			continue
		}
		if next.end == 0 || w.end < next.end {
			next = w
		}
		if index > 0 && w.index >= index {
			return fmt.Errorf("%s, at index %d, comes before index %d", w.value, w.index, index)
		}
		index = w.index
	}
	return nil
}

// summary counts what became of the requests.
func (l *load) summary() string {
	fates := map[fate]int{}
	gets := 0
	last := raft.Index(0)
	for _, c := range l.clients {
		gets += c.gets
		for _, w := range slices.Concat(c.appends, c.sets) {
			fates[w.fate]++
			last = max(last, w.index)
		}
	}
	return fmt.Sprintf("%d writes acknowledged, up to index %d, none lost and none twice; %d unknown, %d refused, %d compared in vain, %d reads",
		fates[applied], last, fates[unknown], fates[refused], fates[missed], gets)
}

// The checks find what they are for.
func TestLoadFindsWhatIsWrong(t *testing.T) {
	sample := func() *load {
		l := &load{}
		for i := range killClients {
			l.clients = append(l.clients, &loadClient{load: l, id: i})
		}
		l.clients[0].appends = []write{
			{"0.1", 1, 2, applied, 5}, {"0.2", 3, 6, unknown, 0}, {"0.3", 7, 8, refused, 0}, {"0.4", 9, 10, applied, 8},
		}
		l.clients[killChains].appends = []write{{"4.1", 4, 5, applied, 6}, {"4.2", 6, 11, missed, 0}}
		return l
	}
	for name, test := range map[string]struct {
		chain string
		want  string
	}{
		"all is well":          {"0.1 4.1 0.2 0.4", ""},
		"unknown, not applied": {"0.1 4.1 0.4", ""},
		"lost":                 {"0.1 0.2 0.4", "lacks 4.1"},
		"twice":                {"0.1 4.1 0.4 0.1", "0.1 twice"},
		"refused":              {"0.1 4.1 0.3 0.4", "has 0.3, which was refused"},
		"missed":               {"0.1 4.1 4.2 0.4", "has 4.2, which was refused"},
		"from nowhere":         {"0.1 4.1 9.9 0.4", "9.9, which nobody wrote"},
		"out of order":         {"4.1 0.1 0.4", "4.1 comes before 0.1"},
		"late, unknown":        {"0.2 0.1 4.1 0.4", "0.2 comes before 0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			err := sample().checkChain(0, strings.Fields(test.chain))
			if test.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.want)
			}
		})
	}
	l := sample()
	require.NoError(t, l.checkIndexes())
	l.clients[0].sets = []write{{"0.5", 11, 12, applied, 7}}
	require.ErrorContains(t, l.checkIndexes(), "0.5 comes before 0.4")
	l.clients[0].sets[0].index = 6
	require.ErrorContains(t, l.checkIndexes(), "both acknowledged at index 6")
	l.clients[0].sets = []write{{"x", 1, 2, applied, 7}, {"y", 3, 4, unknown, 0}, {"z", 5, 6, refused, 0}}
	for value, ok := range map[string]bool{"": false, "x": true, "y": true, "z": false, "w": false} {
		require.Equal(t, ok, l.clients[0].checkRegister(value) == nil, "%q", value)
	}
}
