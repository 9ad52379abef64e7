package raft

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/seed-8da499c8/raft/internal/sim"
)

// What is done for snapshots in a simulation.

// diskWork is work on a node's disk that takes a while. A crash cuts it short.
type diskWork struct{ do func() any }

// onDisk has something done on the disk, after a while, and posts its result.
func (n *simNode) onDisk(takes time.Duration, do func() any) {
	life, w := n.life, &diskWork{do}
	n.works = append(n.works, w)
	n.world.After(takes, func() {
		if n.life == life && n.driver != nil {
			n.works = slices.DeleteFunc(n.works, func(other *diskWork) bool { return other == w })
			n.post(w.do())
		}
	})
}

// cutShort lets the work on the disk get as far as it happens to.
func (n *simNode) cutShort() {
	for _, w := range n.works {
		if n.random.IntN(2) == 0 {
			n.disk.FailAfter(n.disk.Operations() + 1 + n.random.IntN(12))
			w.do() // nobody hears of it
			n.world.Count("snapshots cut short")
			return
		}
	}
}

func (n *simNode) carryOutSnapshots(w work) {
	snapshots := n.storage.Snapshots()
	if job := w.snapshot; job != nil {
		n.onDisk(n.takes(20*time.Millisecond), func() any {
			written := snapshots.write(context.Background(), *job)
			n.count(written.err, "snapshots taken", "snapshots that could not be taken")
			if covers := job.metadata.Configuration; written.err == nil {
				if of, err := decodeConfiguration(covers.Index, covers.Data); err != nil || of.isJoint() {
					n.count(err, "snapshots in a joint phase", "snapshots without members")
				}
			}
			return written
		})
	}
	for _, peer := range w.closes {
		closeSent(snapshots, peer)
	}
	for _, r := range w.snapshotReads {
		n.onDisk(n.takes(2*time.Millisecond), func() any { return snapshots.read(context.Background(), r) })
	}
	for _, chunk := range w.chunks {
		n.onDisk(n.takes(2*time.Millisecond), func() any { return n.store(chunk) })
	}
	for _, o := range w.outcomes {
		o.done(o.index, o.err)
	}
}

func (n *simNode) store(chunk snapshotArrived) any {
	begins := n.receiver.file == nil
	stored := n.receiver.take(chunk)
	n.count(stored.err, "chunks stored", "chunks that could not be stored")
	fresh := uint64(0) // what a file that is new would have
	if chunk.request.Offset == 0 {
		fresh = uint64(len(chunk.request.Data))
	}
	if begins && stored.err == nil && stored.complete == nil && stored.next > fresh {
		n.world.Count("transfers resumed")
	}
	if stored.complete == nil && !n.over && n.random.IntN(20) == 0 {
		n.failSoon()
	}
	return stored
}

// failSoon ends the process when that hurts most, and has it come back.
func (n *simNode) failSoon() {
	n.world.After(n.takes(200*time.Millisecond), func() { simMachines{n.simulation}.Kill(n.number) })
	n.world.After(500*time.Millisecond, func() { simMachines{n.simulation}.Start(n.number) })
}

func (n *simNode) count(err error, good, bad string) {
	if err != nil {
		good = bad
	}
	n.world.Count(good)
}

// takes draws how long something takes.
func (n *simNode) takes(most time.Duration) time.Duration {
	return time.Duration(n.random.Int64N(int64(most)))
}

// rot damages the newest snapshot of a machine that is down, if the node can do
// without it. It leaves the header alone: that may look like one of a later version.
func (n *simNode) rot() {
	names := slices.DeleteFunc(sortedKeys(n.disk.Files()), func(name string) bool { return path.Ext(name) != ".snap" })
	if len(names) == 0 || n.compacted > 0 && (len(names) < 2 || indexOf(names[len(names)-2]) < n.compacted) {
		return
	}
	newest := names[len(names)-1]
	const header = 64
	offset := header + n.random.Int64N(int64(len(n.disk.Files()[newest])-header))
	if err := n.disk.Corrupt(newest, offset, 1<<n.random.IntN(8)); err != nil {
		panic(err)
	}
	n.rotten = true
	n.world.Count("snapshots damaged")
	n.world.Note(sim.Line{Kind: "damage", Node: n.number, Peer: -1, Text: newest})
}

// indexOf returns the index in the name of a snapshot's file.
func indexOf(name string) Index {
	var index, term uint64
	if _, err := fmt.Sscanf(path.Base(name), "%016x-%016x.snap", &index, &term); err != nil {
		panic(err)
	}
	return Index(index)
}

// simState is a snapshot of a simulated state machine.
type simState struct {
	Applied int // commands
	Values  map[string]string
	Recent  []string
}

func (m *simMachine) Snapshot() ([]byte, error) {
	latest := max(0, len(m.recent)-20)
	recent := slices.DeleteFunc(slices.Clone(m.recent[:latest]), func(command string) bool { return !strings.HasPrefix(command, "fresh") })
	return json.Marshal(simState{m.n, m.store.Values(), append(recent, m.recent[latest:]...)})
}

func (m *simMachine) Restore(snapshot []byte) error {
	var state simState
	if err := json.Unmarshal(snapshot, &state); err != nil {
		return err
	}
	m.n, m.store, m.recent = state.Applied, sim.StoreOf(state.Values), state.Recent
	if err := m.node.oracle.Restored(m.node.number, m.n, m.store); err != nil {
		m.node.judge.Accuse("the clients' view", "%v", err)
	}
	m.node.world.Count("snapshots restored")
	return nil
}

// newSimOperator wants snapshots now and then.
func newSimOperator(s *simulation) {
	random := s.world.Random("operator")
	var act func()
	act = func() {
		if s.over {
			return
		}
		if n := s.nodes[random.IntN(len(s.nodes))]; n.driver != nil {
			n.post(snapshotWanted{func(index Index, err error) { n.count(err, "snapshots on demand", "snapshots on demand that failed") }})
		}
		s.world.After(time.Duration(random.ExpFloat64()*float64(2*time.Second)), act)
	}
	s.world.After(time.Second, act)
}
