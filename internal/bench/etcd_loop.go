package main

import (
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// etcdReading is the reads that wait for one answer. While it is under way the next
// ones gather in the inbox. Only the loop has it.
type etcdReading struct {
	waiting []*etcdWaiter
	round   uint64
	ticks   int // since it was asked
}

// etcdConfirmed is reads whose index is known, and may not be applied yet.
type etcdConfirmed struct {
	index   uint64
	waiting []*etcdWaiter
}

// deliver leaves messages in the inbox.
func (n *etcdNode) deliver(messages ...*raftpb.Message) {
	n.inbox.Lock()
	n.inbox.messages = append(n.inbox.messages, messages...)
	n.inbox.Unlock()
	poke(n.wake)
}

func (n *etcdNode) loop() {
	ticker := time.NewTicker(n.tick)
	defer ticker.Stop()
	var turn etcdTurn
	for {
		select {
		case <-n.wake:
		case <-ticker.C:
			n.raw.Tick()
			n.askAgain()
		case <-n.stop:
			return
		}
		for more := true; more; {
			more = n.take(&turn)
			for i, m := range turn.messages {
				_ = n.raw.Step(m)
				turn.messages[i] = nil
			}
			n.step(turn.proposals)
			n.ask(turn.reads)
			if n.raw.HasReady() {
				n.ready()
				more = true
			}
		}
	}
}

// etcdTurn is what the loop takes out of the inbox at once.
type etcdTurn struct {
	messages  []*raftpb.Message
	proposals []*etcdWaiter
	reads     []*etcdWaiter
}

// take takes all, but for proposals only 4 MiB: a larger write would outlast heartbeats.
// It reports whether it has left some.
func (n *etcdNode) take(t *etcdTurn) (more bool) {
	n.inbox.Lock()
	defer n.inbox.Unlock()
	t.messages, n.inbox.messages = n.inbox.messages, t.messages[:0]
	taken, bytes := 0, 0
	for taken < len(n.inbox.proposals) && bytes < 4<<20 {
		bytes += len(n.inbox.proposals[taken].data)
		taken++
	}
	if more = taken < len(n.inbox.proposals); more {
		t.proposals = append(t.proposals[:0], n.inbox.proposals[:taken]...)
		n.inbox.proposals = n.inbox.proposals[taken:]
	} else {
		t.proposals, n.inbox.proposals = n.inbox.proposals, t.proposals[:0]
	}
	t.reads = t.reads[:0]
	if n.reading.waiting == nil {
		t.reads, n.inbox.reads = n.inbox.reads, t.reads
	}
	return more
}

// step gives the node proposals, all in one message.
func (n *etcdNode) step(proposals []*etcdWaiter) {
	if len(proposals) == 0 {
		return
	}
	defer clear(proposals)
	if !n.leads.Load() {
		refuse(proposals)
		return
	}
	n.pending.add(n.id, proposals)
	entries := make([]*raftpb.Entry, len(proposals))
	storage := make([]raftpb.Entry, len(proposals))
	for i, w := range proposals {
		storage[i].Data = w.data
		entries[i] = &storage[i]
	}
	if n.raw.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(n.id), Entries: entries}) != nil {
		n.pending.drop(len(proposals))
		refuse(proposals)
	}
}

// ask asks for the index of reads; a follower has its leader asked. The question says who
// asks, since the leader has those of all.
func (n *etcdNode) ask(reads []*etcdWaiter) {
	if len(reads) == 0 {
		return
	}
	n.reading.waiting = slices.Clone(reads)
	clear(reads)
	n.reading.round++
	n.askOnce()
}

func (n *etcdNode) askOnce() {
	n.reading.ticks = 0
	n.raw.ReadIndex(binary.LittleEndian.AppendUint64(nil, n.id<<56|n.reading.round))
}

// askAgain repeats a question that was lost.
func (n *etcdNode) askAgain() {
	if n.reading.waiting == nil {
		return
	}
	if n.reading.ticks++; n.reading.ticks > 10 {
		n.askOnce()
	}
}

// answered hands reads whose index is known to whoever applies.
func (n *etcdNode) answered(states []raft.ReadState) {
	for _, s := range states {
		if len(s.RequestCtx) != 8 || n.reading.waiting == nil ||
			binary.LittleEndian.Uint64(s.RequestCtx) != n.id<<56|n.reading.round {
			continue
		}
		c := etcdConfirmed{s.Index, n.reading.waiting}
		n.reading.waiting = nil
		if n.applied.Load() >= c.index {
			c.tell()
		} else {
			n.confirmed <- c
			poke(n.toApply.wake)
		}
		poke(n.wake) // for those that have gathered
	}
}

func (c etcdConfirmed) tell() {
	for _, w := range c.waiting {
		w.done <- nil
	}
}

// ready carries out what the node wants to be done.
func (n *etcdNode) ready() {
	rd := n.raw.Ready()
	if rd.SoftState != nil {
		leads := rd.RaftState == raft.StateLeader
		if n.leads.Swap(leads) && !leads {
			n.pending.fail()
		}
	}
	n.answered(rd.ReadStates)
	if n.async {
		n.distribute(rd.Messages)
		return
	}
	if len(rd.CommittedEntries) > 0 {
		n.toApply.put(&raftpb.Message{Entries: rd.CommittedEntries})
	}
	leads := n.leads.Load()
	if leads { // it may send before it has written
		n.send(rd.Messages...)
	}
	n.save(rd.HardState, rd.Entries, rd.Snapshot)
	if !leads {
		n.send(rd.Messages...)
	}
	n.raw.Advance(rd)
	n.compact()
}

// distribute sends messages to nodes, and to the goroutines of asynchronous writes.
func (n *etcdNode) distribute(messages []*raftpb.Message) {
	for _, m := range messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			n.toWrite.put(m)
		case raft.LocalApplyThread:
			n.toApply.put(m)
		default:
			n.send(m)
		}
	}
}
