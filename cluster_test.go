package raft_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// The default times of the clusters in these tests.
const (
	heartbeat       = 100 * time.Millisecond
	electionTimeout = 500 * time.Millisecond

	// soon is when a cluster without faults must have settled.
	soon = 10 * electionTimeout
)

// cluster is some nodes of one process on a memory network, in the virtual time
// of a bubble. Its end stops all nodes; a goroutine that is left then fails the
// test, since the bubble cannot end.
type cluster struct {
	t       *testing.T
	network *raft.MemoryNetwork
	ids     []raft.NodeID
	members map[raft.NodeID]*member
	options clusterOptions
}

// clusterOptions are what a test wants to be different.
type clusterOptions struct {
	configure func(*raft.Config)
	machine   func(raft.NodeID) raft.StateMachine  // instead of a recorder
	transport func(raft.Transport) raft.Transport  // wraps each transport
	each      func(raft.NodeID, *raft.Config)      // configures one node
	ended     func(*testing.T, raft.NodeID, error) // instead of requiring that Run returns nil
}

// member is a node with what outlives it, its disk, and its present life.
type member struct {
	id      raft.NodeID
	disk    *disk
	node    *raft.Node
	machine raft.StateMachine
	kill    context.CancelFunc
	joins   bool          // a cluster that there is
	ended   chan struct{} // closed when Run has returned
	err     error         // what Run returned, once ended
}

// bubble runs a test in a bubble of virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// newCluster returns n nodes, a, b, c and so on, that do not run yet.
func newCluster(t *testing.T, n int, options clusterOptions) *cluster {
	c := &cluster{t: t, network: raft.NewMemoryNetwork(), members: map[raft.NodeID]*member{}, options: options}
	for i := range n {
		id := raft.NodeID('a' + rune(i))
		c.ids = append(c.ids, id)
		c.members[id] = &member{id: id, disk: newDisk()}
	}
	t.Cleanup(c.stopAll)
	return c
}

// startCluster starts n nodes and waits until one of them leads.
func startCluster(t *testing.T, n int, options clusterOptions) *cluster {
	c := newCluster(t, n, options)
	for _, id := range c.ids {
		c.start(id)
	}
	c.leader()
	return c
}

func (c *cluster) addresses() map[raft.NodeID]string {
	book := map[raft.NodeID]string{}
	for _, id := range c.ids {
		if !c.members[id].joins {
			book[id] = addressOf(id)
		}
	}
	return book
}

func addressOf(id raft.NodeID) string { return "address of " + string(id) }

// join starts a new node that waits to be added.
func (c *cluster) join(id raft.NodeID) {
	c.ids = append(c.ids, id)
	c.members[id] = &member{id: id, disk: newDisk(), joins: true}
	c.start(id)
}

// config returns the configuration of a node.
func (c *cluster) config(id raft.NodeID) raft.Config {
	config := raft.NewConfig(id, addressOf(id), c.addresses())
	if c.members[id].joins {
		config.Peers, config.Join = nil, true
	}
	config.HeartbeatInterval, config.ElectionTimeout = heartbeat, electionTimeout
	config.Storage = c.members[id].disk
	if c.options.configure != nil {
		c.options.configure(&config)
	}
	if c.options.each != nil {
		c.options.each(id, &config)
	}
	return config
}

// build makes a node with its disk, a new transport and a new state machine.
func (c *cluster) build(id raft.NodeID) *member {
	m := c.members[id]
	m.machine = newRecorder()
	if c.options.machine != nil {
		m.machine = c.options.machine(id)
	}
	transport := c.network.Transport(id)
	if c.options.transport != nil {
		transport = c.options.transport(transport)
	}
	node, err := raft.NewNode(c.config(id), m.machine, transport)
	require.NoError(c.t, err)
	m.node = node
	return m
}

// start makes a node and runs it. It goes on where its disk is.
func (c *cluster) start(id raft.NodeID) {
	c.run(c.build(id))
}

func (c *cluster) run(m *member) {
	ctx, cancel := context.WithCancel(context.Background())
	m.kill, m.ended = cancel, make(chan struct{})
	go func() {
		defer close(m.ended)
		m.err = m.node.Run(ctx)
	}()
}

// stop ends a node in good order.
func (c *cluster) stop(id raft.NodeID) {
	m := c.members[id]
	require.NoError(c.t, m.node.Stop(context.Background()))
	c.buried(m)
}

// kill ends a node abruptly, and with it the write that hangs, if any.
func (c *cluster) kill(id raft.NodeID) {
	m := c.members[id]
	m.kill()
	m.disk.lose()
	<-m.ended
	c.buried(m)
}

// buried checks how a node ended.
func (c *cluster) buried(m *member) {
	<-m.ended
	m.kill()
	if c.options.ended != nil {
		c.options.ended(c.t, m.id, m.err)
	} else {
		require.NoError(c.t, m.err, "Run of %s", m.id)
	}
	m.node = nil
}

func (c *cluster) stopAll() {
	for _, id := range c.ids {
		c.members[id].disk.resume()
	}
	for _, id := range c.ids {
		if c.members[id].ended != nil && c.members[id].node != nil {
			c.stop(id)
		}
	}
}

func (c *cluster) node(id raft.NodeID) *raft.Node    { return c.members[id].node }
func (c *cluster) disk(id raft.NodeID) *disk         { return c.members[id].disk }
func (c *cluster) status(id raft.NodeID) raft.Status { return c.members[id].node.Status() }
func (c *cluster) applied(id raft.NodeID) []string {
	return c.members[id].machine.(interface{ seen() []string }).seen()
}
func (c *cluster) isRunning(id raft.NodeID) bool { return c.members[id].node != nil }
func (c *cluster) isLeader(id raft.NodeID) bool  { return c.status(id).Role == raft.Leader }
func (c *cluster) others(id raft.NodeID) []raft.NodeID {
	return slices.DeleteFunc(slices.Clone(c.ids), func(other raft.NodeID) bool { return other == id })
}

// running returns the nodes that run.
func (c *cluster) running() []raft.NodeID {
	return slices.DeleteFunc(slices.Clone(c.ids), func(id raft.NodeID) bool { return !c.isRunning(id) })
}

// eventually waits until something holds.
func (c *cluster) eventually(within time.Duration, what string, holds func() bool) {
	c.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
		if !time.Now().Before(end) {
			for _, id := range c.running() {
				c.t.Logf("%+v", c.status(id))
			}
			require.FailNow(c.t, what+" did not come true", "within %v", within)
		}
	}
}

// awaitEnd waits for a node that is to stop by itself.
func (c *cluster) awaitEnd(id raft.NodeID) {
	c.t.Helper()
	select {
	case <-c.node(id).Done():
	case <-time.After(10 * electionTimeout):
		require.FailNow(c.t, "the node goes on", "%s", id)
	}
}

// leader waits until one of the running nodes leads, all of them follow it,
// and it has committed an entry of its own; it returns it.
func (c *cluster) leader() raft.NodeID {
	c.t.Helper()
	return c.leaderOf(c.running()...)
}

// leaderOf is leader for some of the nodes.
func (c *cluster) leaderOf(ids ...raft.NodeID) raft.NodeID {
	c.t.Helper()
	var leader raft.NodeID
	c.eventually(soon, fmt.Sprintf("a leader of %v", ids), func() bool {
		leader = c.status(ids[0]).Leader
		if !slices.Contains(ids, leader) {
			return false
		}
		s := c.status(leader)
		if s.Role != raft.Leader || s.AppliedIndex < s.LastIndex {
			return false
		}
		for _, id := range ids {
			if peer := c.status(id); peer.Leader != leader || peer.Term != s.Term {
				return false
			}
		}
		return true
	})
	return leader
}

// propose proposes a command and requires that it is applied.
func (c *cluster) propose(id raft.NodeID, command string) raft.Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	result, err := c.node(id).Propose(ctx, []byte(command))
	require.NoError(c.t, err)
	return result
}

// settled waits until the recorders of all running nodes have seen these
// commands, in this order and nothing else.
func (c *cluster) settled(commands ...string) {
	c.t.Helper()
	c.eventually(soon, fmt.Sprintf("%d commands applied everywhere", len(commands)), func() bool {
		for _, id := range c.running() {
			if !slices.Equal(c.applied(id), commands) {
				return false
			}
		}
		return true
	})
}

// equal waits until all running recorders have seen the same, and returns it.
func (c *cluster) equal() []string {
	c.t.Helper()
	leader := c.leader()
	c.eventually(soon, "the same commands applied everywhere", func() bool {
		for _, id := range c.running() {
			if !slices.Equal(c.applied(id), c.applied(leader)) {
				return false
			}
		}
		return true
	})
	return c.applied(leader)
}

// outcome is how a proposal ended.
type outcome struct {
	result raft.Result
	err    error
}

// proposeLater proposes in the background.
func (c *cluster) proposeLater(ctx context.Context, id raft.NodeID, command string) <-chan outcome {
	node, ended := c.node(id), make(chan outcome, 1)
	go func() {
		result, err := node.Propose(ctx, []byte(command))
		ended <- outcome{result, err}
	}()
	return ended
}

// requireUnknown requires that an error says that nobody knows.
func requireUnknown(t *testing.T, err error) *raft.OutcomeUnknownError {
	t.Helper()
	var unknown *raft.OutcomeUnknownError
	require.ErrorAs(t, err, &unknown)
	require.ErrorIs(t, err, raft.ErrOutcomeUnknown)
	require.NotErrorIs(t, err, raft.ErrNotAccepted)
	return unknown
}

// requireRefused requires that an error says that the command is in no log.
func requireRefused(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, raft.ErrNotAccepted)
	require.NotErrorIs(t, err, raft.ErrOutcomeUnknown)
}

// receive takes a value that must be there at once, in virtual time.
func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	synctest.Wait()
	select {
	case value := <-from:
		return value
	default:
		require.FailNow(t, what+" is not there")
		panic("unreachable")
	}
}

// recorder is a state machine that remembers the commands that it applied. Its
// responses are how many they are.
type recorder struct {
	// before is called ahead of each command, if set: it may take its time,
	// panic, or refuse the command.
	before func(command string) error

	mu       sync.Mutex
	commands []string
	restored int // snapshots
}

func newRecorder() *recorder { return new(recorder) }

func (r *recorder) Apply(command []byte) ([]byte, error) {
	if r.before != nil {
		if err := r.before(string(command)); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commands = append(r.commands, string(command))
	return fmt.Append(nil, len(r.commands)), nil
}

func (r *recorder) Snapshot() ([]byte, error) { return json.Marshal(r.seen()) }

func (r *recorder) Restore(snapshot []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.restored++
	r.commands = nil
	return json.Unmarshal(snapshot, &r.commands)
}

// restores counts the snapshots that it was given.
func (r *recorder) restores() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.restored
}

func (r *recorder) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.commands)
}

// recorders makes recorders that share a hook.
func recorders(before func(command string) error) func(raft.NodeID) raft.StateMachine {
	return func(raft.NodeID) raft.StateMachine { return &recorder{before: before} }
}

// disk is a MemoryStorage that can be slow, hang and fail. It outlives the
// nodes that it serves.
type disk struct {
	memory *raft.MemoryStorage

	mu      sync.Mutex
	delay   time.Duration // of each write
	gate    chan struct{} // closed to let writes go on; nil: they do not wait
	lost    bool          // what waits at the gate is not written
	saves   int
	failAt  int // the write that fails; 0: none
	loadErr error

	readGate chan struct{} // closed to let reads go on; nil: they do not wait
	readErr  error         // what reads end with
	reads    int
}

var errDisk = errors.New("input/output error")

func newDisk() *disk { return &disk{memory: raft.NewMemoryStorage()} }

func (d *disk) Load() (raft.StorageState, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.loadErr != nil {
		return raft.StorageState{}, d.loadErr
	}
	return d.memory.Load()
}

func (d *disk) Save(batch raft.SaveBatch) error {
	d.mu.Lock()
	d.saves++
	delay, gate, fails := d.delay, d.gate, d.saves == d.failAt
	d.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	if gate != nil {
		<-gate
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.lost {
			return errDisk
		}
	}
	if fails {
		return errDisk
	}
	return d.memory.Save(batch)
}

func (d *disk) Entries(first, last raft.Index, maxBytes int) (raft.Entries, error) {
	d.mu.Lock()
	d.reads++
	gate, err := d.readGate, d.readErr
	d.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if err != nil {
		return raft.Entries{}, err
	}
	return d.memory.Entries(first, last, maxBytes)
}

func (d *disk) Snapshots() *raft.SnapshotStore { return d.memory.Snapshots() }

// stallReads makes reads hang from now on, until resumeReads.
func (d *disk) stallReads() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readGate = make(chan struct{})
}

func (d *disk) resumeReads() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.readGate)
	d.readGate = nil
}

// failReads makes every read fail from now on; nil: none.
func (d *disk) failReads(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readErr = err
}

// saveCount counts the writes so far.
func (d *disk) saveCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.saves
}

// readCount counts the reads so far.
func (d *disk) readCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads
}

// slow makes every write take a time.
func (d *disk) slow(delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay = delay
}

// stall makes writes hang from now on, until resume.
func (d *disk) stall() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gate == nil {
		d.gate, d.lost = make(chan struct{}), false
	}
}

// resume lets writes go on.
func (d *disk) resume() { d.open(false) }

// lose ends the writes that hang without writing anything.
func (d *disk) lose() { d.open(true) }

func (d *disk) open(lost bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gate != nil {
		d.lost = lost
		close(d.gate)
		d.gate = nil
	}
}

// failNext makes a write fail: the nth from now.
func (d *disk) failNext(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failAt = d.saves + n
}

// writes counts the writes so far.
func (d *disk) writes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.saves
}
