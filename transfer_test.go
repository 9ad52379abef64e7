package raft_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

var transferMiB = flag.Int("transfer.mib", 4, "how large the state of TestTransferOfALargeState is; half as much is written while a follower is away")

const transferClients = 64

// TestTransferOfALargeState has a follower come back by a snapshot while clients go on
// writing: three nodes in this process, over TCP, with their data on the disk. The
// full form, with a state of 1 GiB, takes some minutes and 8 GiB of disk:
//
//	go test -run '^TestTransfer' -v . -transfer.mib=1024
//
// It reports how the clients fared, before and meanwhile, and the memory of the whole
// process, which is sender and receiver at once. For figures the machine must have
// nothing else to do.
func TestTransferOfALargeState(t *testing.T) {
	raft.WithoutVerification(t)
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // as users have it
	size := int64(*transferMiB) << 20
	c := startTransfer(t, size)
	few := size / (8 << 10) // commands
	c.awaitWrites(few)
	for _, id := range c.ids { // from now on none is taken before the log is as large as the state
		_, err := c.node(id).TakeSnapshot(t.Context())
		require.NoError(t, err)
	}
	before := c.phase(func() { c.awaitWrites(few) })

	leader := c.leader()
	away, other := c.others(leader)[0], c.others(leader)[1]
	c.stop(away)
	behind := c.status(away).LastIndex
	c.commandBytes.Store(64 << 10)
	c.awaitBytes(size / 2)
	c.commandBytes.Store(1 << 10)
	c.compact(leader, behind)
	c.compact(other, behind)
	was := c.status(leader)

	c.start(away)
	began := time.Now()
	var asked, arrived, restored, back time.Duration // since then
	transfer := c.phase(func() {
		c.await("the snapshot to be received", func() bool {
			s := c.status(away)
			if s.Receiving != nil && asked == 0 {
				asked = time.Since(began)
			}
			return s.SnapshotIndex >= was.SnapshotIndex
		})
		arrived = time.Since(began)
	})
	comingBack := c.phase(func() {
		c.await("the snapshot to be restored", func() bool { return c.status(away).AppliedIndex >= was.SnapshotIndex })
		restored = time.Since(began)
		commit := c.status(leader).CommitIndex
		c.await("the log behind it to be applied", func() bool { return c.status(away).AppliedIndex >= commit })
		back = time.Since(began)
	})
	after := c.phase(func() { c.awaitWrites(few) })
	changes := c.status(leader).Term - was.Term
	c.endClients()
	c.requireEqual()

	t.Logf("a state of %d MiB, and %d entries that were written while %s was away", *transferMiB, was.SnapshotIndex-behind, away)
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	t.Logf("since it started: %v until its leader sent a snapshot, %v until that was there, %v until it was restored, %v until the log was applied", ms(asked), ms(arrived), ms(restored), ms(back))
	t.Logf("transferred at %.1f MiB/s; snapshots received: %d; leader changes: %d", float64(*transferMiB)/(arrived-asked).Seconds(), c.machines[away].state().restored-1, changes)
	for _, p := range []struct {
		name string
		*phase
	}{{"before", before}, {"during the transfer", transfer}, {"from there until it was back", comingBack}, {"all of that", transfer.with(comingBack)}, {"after", after}} {
		t.Logf("%s: %d commands, p50 %v, p99 %v; heap at most %.1f MiB, %.1f MiB with garbage", p.name, p.total(), p.quantile(0.5), p.quantile(0.99), mib(p.live.Load()), mib(p.heap.Load()))
	}
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

// transfer is a cluster and the clients that write to it.
type transfer struct {
	t        *testing.T
	size     int64
	dir      string
	ids      []raft.NodeID
	peers    map[raft.NodeID]string
	machines map[raft.NodeID]*generated // the last one of each node

	mu    sync.Mutex                 // guards what follows: clients look for the leader
	nodes map[raft.NodeID]*raft.Node // likewise

	commandBytes atomic.Int64
	writes       atomic.Int64 // acknowledged
	bytes        atomic.Int64 // of these
	present      atomic.Pointer[phase]
	endClients   func()
}

// startTransfer starts three nodes, and the clients of the one that leads.
func startTransfer(t *testing.T, size int64) *transfer {
	c := &transfer{
		t: t, size: size, dir: t.TempDir(),
		ids: []raft.NodeID{"a", "b", "c"}, peers: freeAddresses("a", "b", "c"),
		nodes: map[raft.NodeID]*raft.Node{}, machines: map[raft.NodeID]*generated{},
	}
	for _, id := range c.ids {
		c.start(id)
	}
	t.Cleanup(func() {
		for _, id := range c.ids {
			c.stop(id)
		}
	})
	c.commandBytes.Store(1 << 10)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	c.endClients = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(c.endClients)
	first := c.node(c.leader())
	for range transferClients {
		running.Go(func() { c.write(ctx, first) })
	}
	running.Go(func() { c.watchHeap(ctx) })
	return c
}

// start starts a node with a new state machine and the data that it has.
func (c *transfer) start(id raft.NodeID) {
	listener, err := net.Listen("tcp", c.peers[id])
	require.NoError(c.t, err)
	config := raft.NewConfig(id, c.peers[id], c.peers)
	config.DataDir = filepath.Join(c.dir, string(id))
	config.SnapshotBytes = int(c.size / 16) // 64 MiB, the default, for 1 GiB
	config.SegmentBytes = max(1<<20, int(c.size/16))
	machine := &generated{size: c.size}
	node, err := raft.NewNode(config, machine, raft.NewTCPTransport(c.peers, 500*time.Millisecond, raft.WithListener(listener)))
	require.NoError(c.t, err)
	go node.Run(context.Background()) // until stop, which asks how it ended
	c.machines[id] = machine
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[id] = node
}

func (c *transfer) node(id raft.NodeID) *raft.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id]
}

func (c *transfer) status(id raft.NodeID) raft.Status { return c.node(id).Status() }

// stop ends a node, if it runs.
func (c *transfer) stop(id raft.NodeID) {
	require.NoError(c.t, c.node(id).Stop(context.Background()))
	require.NoError(c.t, c.node(id).Err())
}

// await polls until ok.
func (c *transfer) await(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(5 * time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (c *transfer) awaitWrites(more int64) {
	c.t.Helper()
	want := c.writes.Load() + more
	c.await("writes", func() bool { return c.writes.Load() >= want })
}

func (c *transfer) awaitBytes(more int64) {
	c.t.Helper()
	want := c.bytes.Load() + more
	c.await("bytes written", func() bool { return c.bytes.Load() >= want })
}

func (c *transfer) leader() (leader raft.NodeID) {
	c.await("a leader", func() bool {
		for _, id := range c.ids {
			if c.status(id).Role == raft.Leader {
				leader = id
			}
		}
		return leader != ""
	})
	return leader
}

func (c *transfer) others(ids ...raft.NodeID) (others []raft.NodeID) {
	for _, id := range c.ids {
		if !slices.Contains(ids, id) {
			others = append(others, id)
		}
	}
	return others
}

// compact has a node take snapshots until its log starts behind an entry. A leader
// keeps what a follower lacks that was there a moment ago.
func (c *transfer) compact(id raft.NodeID, behind raft.Index) {
	c.await("a short log", func() bool {
		_, err := c.node(id).TakeSnapshot(c.t.Context())
		require.NoError(c.t, err)
		return c.status(id).FirstIndex > behind+1
	})
}

// requireEqual waits until all nodes have applied everything, and requires that they
// have the same state.
func (c *transfer) requireEqual() {
	c.await("the nodes to agree", func() bool {
		applied := map[raft.Index]bool{}
		for _, id := range c.ids {
			s := c.status(id)
			applied[s.AppliedIndex] = true
			applied[s.LastIndex] = true
		}
		return len(applied) == 1
	})
	want := c.machines["a"].state()
	for _, id := range c.ids {
		got := c.machines[id].state()
		require.Equal(c.t, want.count, got.count, "commands of %s", id)
		require.Equal(c.t, want.sum, got.sum, "what they were, of %s", id)
	}
	require.GreaterOrEqual(c.t, want.count, uint64(c.writes.Load()))
}

// write is a client: one command after the other, to whoever leads.
func (c *transfer) write(ctx context.Context, leader *raft.Node) {
	command := make([]byte, 64<<10)
	for ctx.Err() == nil {
		binary.BigEndian.PutUint64(command, rand.Uint64())
		n := c.commandBytes.Load()
		began := time.Now()
		_, err := leader.Propose(ctx, command[:n])
		var notLeader *raft.NotLeaderError
		switch {
		case err == nil:
			c.writes.Add(1)
			c.bytes.Add(n)
			if p := c.present.Load(); p != nil {
				p.add(time.Since(began))
			}
		case errors.As(err, &notLeader) && notLeader.Leader != "":
			leader = c.node(notLeader.Leader)
		default:
			time.Sleep(10 * time.Millisecond) // there is none, for the moment
		}
	}
}

// phase notes how clients and heap do while f runs.
func (c *transfer) phase(f func()) *phase {
	p := new(phase)
	c.present.Store(p)
	f()
	c.present.Store(nil)
	return p
}

// watchHeap notes the largest heap of each phase.
func (c *transfer) watchHeap(ctx context.Context) {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		metrics.Read(samples)
		if p := c.present.Load(); p != nil {
			p.live.Store(max(p.live.Load(), samples[0].Value.Uint64()))
			p.heap.Store(max(p.heap.Load(), samples[1].Value.Uint64()))
		}
	}
}

// phase is a part of the test: how long commands took, and how large the heap was.
type phase struct {
	counts     [100_000]atomic.Uint32 // of commands, by how many steps they took
	live, heap atomic.Uint64          // bytes, without and with garbage
}

const phaseStep = 50 * time.Microsecond

func (p *phase) add(took time.Duration) {
	p.counts[min(int(took/phaseStep), len(p.counts)-1)].Add(1)
}

// with returns what was in either.
func (p *phase) with(q *phase) *phase {
	both := new(phase)
	for i := range both.counts {
		both.counts[i].Store(p.counts[i].Load() + q.counts[i].Load())
	}
	both.live.Store(max(p.live.Load(), q.live.Load()))
	both.heap.Store(max(p.heap.Load(), q.heap.Load()))
	return both
}

func (p *phase) total() (total int) {
	for i := range p.counts {
		total += int(p.counts[i].Load())
	}
	return total
}

// quantile returns what a part of the commands took at most.
func (p *phase) quantile(q float64) time.Duration {
	left := int(q * float64(p.total()))
	for i := range p.counts {
		if left -= int(p.counts[i].Load()); left < 0 {
			return time.Duration(i+1) * phaseStep
		}
	}
	return 0
}

// generated is a state machine with a state of any size and no memory of it: random
// bytes, which follow from the commands that were applied.
type generated struct {
	size int64

	mu      sync.Mutex // guards what follows: the test looks at it
	present generatedState
}

type generatedState struct {
	count, sum uint64 // of commands
	restored   int    // how often
}

func (g *generated) state() generatedState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.present
}

func (g *generated) Apply(command []byte) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.present.count++
	g.present.sum = bits.RotateLeft64(g.present.sum, 7) ^ uint64(crc32.ChecksumIEEE(command))
	return nil, nil
}

func (g *generated) CaptureSnapshot() (raft.SnapshotView, error) {
	return generatedView{g.size, g.state()}, nil
}

// RestoreFrom compares what arrives with what must.
func (g *generated) RestoreFrom(ctx context.Context, r io.Reader) error {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	s := generatedState{count: binary.BigEndian.Uint64(head[:]), sum: binary.BigEndian.Uint64(head[8:])}
	var at int64
	got := make([]byte, 64<<10)
	err := s.generate(g.size, func(want []byte) error {
		if _, err := io.ReadFull(r, got[:len(want)]); err != nil {
			return err
		}
		if !bytes.Equal(got[:len(want)], want) {
			return fmt.Errorf("other bytes than were written, from %d on", at)
		}
		at += int64(len(want))
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if n, err := r.Read(got); err != io.EOF {
		return fmt.Errorf("%d bytes too many: %v", n, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s.restored = g.present.restored + 1
	g.present = s
	return nil
}

func (g *generated) Snapshot() ([]byte, error) { return nil, errors.ErrUnsupported }
func (g *generated) Restore([]byte) error      { return errors.ErrUnsupported }

type generatedView struct {
	size  int64
	state generatedState
}

func (v generatedView) WriteTo(ctx context.Context, w io.Writer) error {
	head := binary.BigEndian.AppendUint64(nil, v.state.count)
	head = binary.BigEndian.AppendUint64(head, v.state.sum)
	if _, err := w.Write(head); err != nil {
		return err
	}
	return v.state.generate(v.size, func(b []byte) error {
		_, err := w.Write(b)
		return errors.Join(err, ctx.Err())
	})
}

func (v generatedView) Close() error { return nil }

// generate makes the bytes of a state, piece by piece.
func (s generatedState) generate(size int64, f func([]byte) error) error {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], s.count)
	binary.BigEndian.PutUint64(seed[8:], s.sum)
	source := rand.NewChaCha8(seed)
	piece := make([]byte, 64<<10)
	for size > 0 {
		piece = piece[:min(size, int64(len(piece)))]
		source.Read(piece) // never fails
		if err := f(piece); err != nil {
			return err
		}
		size -= int64(len(piece))
	}
	return nil
}
