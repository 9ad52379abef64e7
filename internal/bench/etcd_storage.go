package main

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// etcdSnapshot is the state at an index: what is before may be forgotten.
type etcdSnapshot struct {
	index uint64
	state state
}

// save makes all that durable with one sync.
func (n *etcdNode) save(hardState *raftpb.HardState, entries []*raftpb.Entry, snapshot *raftpb.Snapshot) {
	if !raft.IsEmptySnap(snapshot) {
		m := snapshot.GetMetadata()
		must(n.log.SaveSnapshot(&walpb.Snapshot{Index: new(m.GetIndex()), Term: new(m.GetTerm()), ConfState: etcdVoters}))
	}
	must(n.log.Save(hardState, entries))
	if !raft.IsEmptySnap(snapshot) {
		must(n.memory.ApplySnapshot(snapshot))
		n.toApply.put(&raftpb.Message{Snapshot: snapshot})
	}
	if !raft.IsEmptyHardState(hardState) {
		must(n.memory.SetHardState(hardState))
	}
	must(n.memory.Append(entries))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// compact forgets in memory what is applied and old, as etcd does.
func (n *etcdNode) compact() {
	s := n.snapshot.Load()
	if s == nil || s.index < n.compacted+2*n.keep {
		return
	}
	if last, err := n.memory.LastIndex(); err != nil || s.index > last {
		return
	}
	var data bytes.Buffer
	must(s.state.write(&data))
	if _, err := n.memory.CreateSnapshot(s.index, etcdVoters, data.Bytes()); err != nil {
		return
	}
	n.compacted = s.index - n.keep
	if err := n.memory.Compact(n.compacted); err != nil && !errors.Is(err, raft.ErrCompacted) {
		panic(err)
	}
}

// write is the goroutine of the log with asynchronous writes: what has gathered, up to
// about 8 MiB, is written with one sync.
func (n *etcdNode) write() {
	for {
		messages := n.toWrite.get(n.stop)
		if messages == nil {
			return
		}
		for len(messages) > 0 {
			count, size := 0, 0
			for count < len(messages) && size < 8<<20 {
				for _, entry := range messages[count].GetEntries() {
					size += len(entry.GetData())
				}
				count++
			}
			n.writeGroup(messages[:count])
			messages = messages[count:]
		}
		n.compact()
	}
}

// writeGroup writes what messages ask for, and then sends what they say is to be sent.
func (n *etcdNode) writeGroup(messages []*raftpb.Message) {
	var entries []*raftpb.Entry
	var hardState *raftpb.HardState
	flush := func() {
		n.save(hardState, entries, nil)
		entries, hardState = nil, nil
	}
	for _, m := range messages {
		if s := (&raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}); m.Term != nil && !raft.IsEmptyHardState(s) {
			hardState = s
		}
		if m.GetSnapshot() != nil {
			flush()
			n.save(nil, nil, m.GetSnapshot())
		}
		more := m.GetEntries()
		if len(entries) > 0 && len(more) > 0 && more[0].GetIndex() != entries[len(entries)-1].GetIndex()+1 {
			flush() // what does not follow replaces something
		}
		if entries == nil {
			entries = more[:len(more):len(more)]
		} else {
			entries = append(entries, more...)
		}
	}
	flush()
	n.respond(messages)
}

func (n *etcdNode) respond(messages []*raftpb.Message) {
	var own []*raftpb.Message
	for _, m := range messages {
		for _, response := range m.GetResponses() {
			if response.GetTo() == n.id {
				own = append(own, response)
			} else {
				n.send(response)
			}
		}
	}
	if len(own) > 0 {
		n.deliver(own...)
	}
}

// etcdQuiet is a logger that says nothing until it is too late.
type etcdQuiet struct{}

func (etcdQuiet) Debug(...any)                   {}
func (etcdQuiet) Debugf(string, ...any)          {}
func (etcdQuiet) Error(...any)                   {}
func (etcdQuiet) Errorf(string, ...any)          {}
func (etcdQuiet) Info(...any)                    {}
func (etcdQuiet) Infof(string, ...any)           {}
func (etcdQuiet) Warning(...any)                 {}
func (etcdQuiet) Warningf(string, ...any)        {}
func (etcdQuiet) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (etcdQuiet) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (etcdQuiet) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (etcdQuiet) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
