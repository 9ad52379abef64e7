package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// etcdNode is what etcd's raft leaves to its users, around a RawNode and etcd's log: a
// goroutine owns the node (etcd_loop.go), others send and receive (etcd_network.go),
// apply (etcd_apply.go), and, with asynchronous writes, write the log (etcd_storage.go).
type etcdNode struct {
	id    uint64
	async bool
	tick  time.Duration
	keep  uint64 // entries in memory behind those applied

	raw     *raft.RawNode
	memory  *raft.MemoryStorage
	log     *wal.WAL
	machine *machine

	inbox struct {
		sync.Mutex
		messages  []*raftpb.Message
		proposals []*etcdWaiter
		reads     []*etcdWaiter
	}
	wake chan struct{}

	pending etcdPending
	leads   atomic.Bool
	applied atomic.Uint64 // index

	reading   etcdReading
	confirmed chan etcdConfirmed

	compacted uint64                       // index
	snapshot  atomic.Pointer[etcdSnapshot] // the last one

	toApply, toWrite *etcdQueue
	senders          [4]*etcdSender // by id
	listener         net.Listener
	conns            etcdConns

	stop  chan struct{}
	group sync.WaitGroup
}

// etcdID is the number of a node there: they begin with 1.
func etcdID(node int) uint64 { return uint64(node + 1) }

var (
	etcdVoters = &raftpb.ConfState{Voters: []uint64{etcdID(0), etcdID(1), etcdID(2)}}
	etcdFirst  = &walpb.Snapshot{Index: new(uint64(1)), Term: new(uint64(1)), ConfState: etcdVoters}
)

// etcdWaiter is somebody who waits for a command or a read.
type etcdWaiter struct {
	id   uint64
	data []byte // 8 bytes for the id, then the command
	done chan error
}

var etcdWaiters = sync.Pool{New: func() any { return &etcdWaiter{done: make(chan error, 1)} }}

func newEtcdWaiter() *etcdWaiter { return etcdWaiters.Get().(*etcdWaiter) }

// Wait may be called once.
func (w *etcdWaiter) Wait() error {
	err := <-w.done
	w.data = nil
	etcdWaiters.Put(w)
	return err
}

func openEtcd(o options, async bool) (node, error) {
	n := &etcdNode{
		id: etcdID(o.Node), async: async, tick: 100 * time.Millisecond, keep: 20_000,
		memory: raft.NewMemoryStorage(), machine: new(machine),
		wake: make(chan struct{}, 1), confirmed: make(chan etcdConfirmed, 16), compacted: 1,
		toApply: newEtcdQueue(), toWrite: newEtcdQueue(), stop: make(chan struct{}),
		// The log may have entries of an earlier process: they are not to be taken for ours.
		pending: etcdPending{lastID: uint64(time.Now().UnixMicro())},
	}
	if o.Bytes > 4096 {
		n.keep = 1000
	}
	if o.ShortTimeouts {
		n.tick = 15 * time.Millisecond
	}
	n.applied.Store(1)
	if err := n.openLog(filepath.Join(o.Dir, "wal")); err != nil {
		return nil, err
	}
	config := &raft.Config{
		ID: n.id, ElectionTick: 10, HeartbeatTick: 1, Storage: n.memory, Applied: 1, AsyncStorageWrites: async,
		MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: 4 << 20, MaxInflightMsgs: 512,
		CheckQuorum: true, PreVote: true, Logger: etcdQuiet{}}
	if o.LeaseReads {
		config.ReadOnlyOption = raft.ReadOnlyLeaseBased
	}
	var err error
	if n.raw, err = raft.NewRawNode(config); err != nil {
		return nil, err
	}
	if n.listener, err = net.Listen("tcp", o.Addresses[o.Node]); err != nil {
		return nil, err
	}
	n.start(o)
	return n, nil
}

// start starts the goroutines.
func (n *etcdNode) start(o options) {
	for i, address := range o.Addresses {
		if id := etcdID(i); id != n.id {
			n.senders[id] = &etcdSender{node: n, to: id, address: address, queue: newEtcdQueue()}
			n.group.Go(n.senders[id].run)
		}
	}
	n.group.Go(n.accept)
	n.group.Go(n.apply)
	n.group.Go(n.loop)
	if n.async {
		n.group.Go(n.write)
	}
}

// openLog makes the log, or reads what is in it. The members are not in it, but known, as
// the documentation of RawNode advises.
func (n *etcdNode) openLog(dir string) error {
	first := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{ConfState: etcdVoters, Index: new(uint64(1)), Term: new(uint64(1))}}
	if err := n.memory.ApplySnapshot(first); err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return n.createLog(dir)
	}
	var err error
	if n.log, err = wal.Open(zap.NewNop(), dir, etcdFirst); err != nil {
		return err
	}
	_, hardState, entries, err := n.log.ReadAll()
	if err != nil {
		return err
	}
	return errors.Join(n.memory.SetHardState(hardState), n.memory.Append(entries))
}

func (n *etcdNode) createLog(dir string) error {
	var err error
	if n.log, err = wal.Create(zap.NewNop(), dir, nil); err != nil {
		return err
	}
	hardState := &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))}
	return errors.Join(n.memory.SetHardState(hardState), n.log.SaveSnapshot(etcdFirst), n.log.Save(hardState, nil))
}

func (n *etcdNode) Leads() bool { return n.leads.Load() }

func (n *etcdNode) Propose(_ context.Context, command []byte) error {
	return n.propose(command).Wait()
}

func (n *etcdNode) ProposeAsync(command []byte) (future, error) { return n.propose(command), nil }

func (n *etcdNode) propose(command []byte) *etcdWaiter {
	w := newEtcdWaiter()
	w.data = make([]byte, 8+len(command))
	copy(w.data[8:], command)
	n.inbox.Lock()
	n.inbox.proposals = append(n.inbox.proposals, w)
	n.inbox.Unlock()
	poke(n.wake)
	return w
}

func (n *etcdNode) ReadIndex(context.Context) error {
	w := newEtcdWaiter()
	n.inbox.Lock()
	n.inbox.reads = append(n.inbox.reads, w)
	n.inbox.Unlock()
	poke(n.wake)
	return w.Wait()
}

func (n *etcdNode) State() state { return n.machine.state() }

// Close ends the node, and whoever still waits for it.
func (n *etcdNode) Close() error {
	close(n.stop)
	n.listener.Close()
	n.conns.close()
	n.group.Wait()
	n.pending.fail()
	n.inbox.Lock()
	defer n.inbox.Unlock()
	refuse(n.inbox.proposals)
	refuse(n.inbox.reads)
	refuse(n.reading.waiting)
	return n.log.Close()
}

func refuse(waiters []*etcdWaiter) {
	for _, w := range waiters {
		w.done <- errNoLeader
	}
}

// etcdPending is the proposals of this node on their way, oldest first.
type etcdPending struct {
	mu      sync.Mutex
	lastID  uint64
	waiting []*etcdWaiter
}

// add numbers proposals; the node is part of the number.
func (p *etcdPending) add(node uint64, proposals []*etcdWaiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range proposals {
		p.lastID++
		w.id = p.lastID
		binary.LittleEndian.PutUint64(w.data, node<<56|w.id)
	}
	p.waiting = append(p.waiting, proposals...)
}

// drop takes back the last n, which nobody has accepted.
func (p *etcdPending) drop(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = p.waiting[:len(p.waiting)-n]
}

// complete tells the proposals that are among applied entries. Those that were passed
// over are lost.
func (p *etcdPending) complete(node uint64, entries []*raftpb.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, entry := range entries {
		data := entry.GetData()
		if len(data) < 8 {
			continue
		}
		number := binary.LittleEndian.Uint64(data)
		id := number & (1<<56 - 1)
		if number>>56 != node {
			continue
		}
		for len(p.waiting) > 0 && p.waiting[0].id <= id {
			var err error
			if p.waiting[0].id < id {
				err = errNoLeader
			}
			p.waiting[0].done <- err
			p.waiting[0] = nil
			p.waiting = p.waiting[1:]
		}
	}
}

// fail tells all of them that leadership was lost.
func (p *etcdPending) fail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	refuse(p.waiting)
	p.waiting = nil
}
