package main

import (
	"bytes"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// etcdQueue is messages that are handed over in batches, as many as there are.
type etcdQueue struct {
	mu       sync.Mutex
	messages []*raftpb.Message
	wake     chan struct{}
}

func newEtcdQueue() *etcdQueue { return &etcdQueue{wake: make(chan struct{}, 1)} }

func (q *etcdQueue) put(messages ...*raftpb.Message) {
	q.mu.Lock()
	q.messages = append(q.messages, messages...)
	q.mu.Unlock()
	poke(q.wake)
}

// takeAll does not wait.
func (q *etcdQueue) takeAll() []*raftpb.Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	messages := q.messages
	q.messages = nil
	return messages
}

// get waits for messages; nil says that it has ended.
func (q *etcdQueue) get(stop chan struct{}) []*raftpb.Message {
	for {
		if messages := q.takeAll(); len(messages) > 0 {
			return messages
		}
		select {
		case <-q.wake:
		case <-stop:
			return nil
		}
	}
}

// apply applies what is committed, and tells those who wait for that.
func (n *etcdNode) apply() {
	var waiting []etcdConfirmed
	for {
		messages := n.toApply.takeAll()
		if len(messages) == 0 {
			select {
			case <-n.toApply.wake:
			case c := <-n.confirmed:
				waiting = append(waiting, c)
			case <-n.stop:
				return
			}
		}
		for _, m := range messages {
			n.applyMessage(m)
		}
		for len(waiting) > 0 && waiting[0].index <= n.applied.Load() {
			waiting[0].tell()
			waiting = waiting[1:]
		}
	}
}

func (n *etcdNode) applyMessage(m *raftpb.Message) {
	if snapshot := m.GetSnapshot(); snapshot != nil {
		s, err := readState(bytes.NewReader(snapshot.GetData()))
		must(err)
		n.machine.set(s)
		n.applied.Store(snapshot.GetMetadata().GetIndex())
	}
	if entries := m.GetEntries(); len(entries) > 0 {
		n.applyEntries(entries)
	}
	if responses := m.GetResponses(); len(responses) > 0 {
		n.deliver(responses...)
	}
}

func (n *etcdNode) applyEntries(entries []*raftpb.Entry) {
	for _, entry := range entries {
		if data := entry.GetData(); len(data) >= 8 {
			n.machine.apply(data[8:])
		}
	}
	index := entries[len(entries)-1].GetIndex()
	n.applied.Store(index)
	if n.leads.Load() {
		n.pending.complete(n.id, entries)
	}
	if s := n.snapshot.Load(); s == nil || index >= s.index+n.keep/4 {
		n.snapshot.Store(&etcdSnapshot{index, n.machine.state()})
	}
}
