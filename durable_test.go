package raft

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// Clusters whose nodes keep what they promise in files, on disks that lose power.

// inFiles gives every node that was not started yet a disk of its own.
func (r *rig) inFiles() {
	for _, id := range r.ids {
		r.nodes[id].disk = vfs.NewMemory()
	}
}

// open opens the storage on a node's disk, if it has one.
func (n *rigNode) open() {
	if n.disk == nil {
		return
	}
	s, err := openTestStorage(n.disk)
	require.NoError(n.rig.t, err)
	s.snapshots.options = n.rig.fileOptions()
	n.storage = s
}

// lostPower ends a node whose disk came to the operation at which the power goes,
// and reports whether it did.
func (n *rigNode) lostPower() bool {
	lost := n.disk != nil && n.disk.Crashed()
	if lost {
		n.rig.forget(n.id)
	}
	return lost
}

// cutPower ends a node and loses what its disk has not synced, or some of it. What
// the disk is at gets as far as it happens to.
func (r *rig) cutPower(id NodeID, random *rand.Rand) {
	n := r.nodes[id]
	if n.driver != nil && n.saving != nil && random.IntN(4) > 0 {
		n.disk.FailAfter(n.disk.Operations() + 1 + random.IntN(3))
		_ = n.storage.Save(*n.saving) // which nobody hears of
	} else if n.driver != nil && random.IntN(4) > 0 {
		n.disk.FailAfter(n.disk.Operations() + 1 + random.IntN(8))
		n.beginSnapshotWork()
	}
	modes := []vfs.CrashMode{vfs.CrashLose, vfs.CrashKeep, vfs.CrashTear, vfs.CrashScatter}
	n.disk = n.disk.CrashClone(modes[random.IntN(len(modes))], random.Uint64())
	r.forget(id)
}

// Whatever was acknowledged is there after the power of all nodes is cut at the
// same instant: a cluster that leads, replicates, loses messages and nodes goes
// dark again and again.
func TestD16WholeClusterPowerCut(t *testing.T) {
	instants := 1000
	if testenv.Brief() {
		instants = 60
	}
	for _, names := range []string{"a b c", "a b c d e"} {
		t.Run(fmt.Sprint(len(names)/2+1), func(t *testing.T) {
			t.Parallel()
			const cuts = 10
			for seed := range uint64(instants / cuts) {
				darkWalk(t, seed, names, cuts)
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

func darkWalk(t *testing.T, seed uint64, names string, cuts int) {
	w := newWalkInFiles(t, seed, names)
	acknowledged := 0
	for range cuts {
		for range 100 + w.random.IntN(400) {
			w.act()
		}
		for _, id := range w.ids {
			w.cutPower(id, w.random)
		}
		w.table = nil
		for _, id := range w.ids {
			w.restart(id)
		}
		w.pass(2 * wait) // or so, until somebody leads
	}
	w.finish()
	for _, o := range w.proposals {
		if o.ended && o.err == nil {
			acknowledged++
		}
	}
	require.Positive(t, acknowledged, "nothing was ever acknowledged")
}

func newWalkInFiles(t *testing.T, seed uint64, names string) *walk {
	r := newRig(t, names)
	r.inFiles()
	return startWalk(r, seed)
}

// A vote counts once it is on disk: a voter that loses power before has voted for
// nobody, and one that loses it afterwards for ever for that candidate.
func TestE1VoteReplyWaitsForTheDisk(t *testing.T) {
	for operation := 1; operation <= 3; operation++ { // of those that save the vote: none is done, the write, also the sync
		for _, mode := range []vfs.CrashMode{vfs.CrashLose, vfs.CrashTear, vfs.CrashScatter, vfs.CrashKeep, vfs.CrashKill} {
			for seed := range uint64(20) {
				r := newRig(t, "a b c")
				r.inFiles()
				r.start("b")
				b := r.node("b")
				r.now += 2 * wait
				r.stall("b")
				ask := func(candidate NodeID) *given {
					return r.ask(candidate, "b", &VoteRequest{Term: 6, LastLogIndex: 9, LastLogTerm: 5})
				}
				a := ask("a")
				require.False(t, a.done, "it left before it was durable")
				b.disk.FailAfter(b.disk.Operations() + operation)
				err := b.storage.Save(*b.saving)
				require.Equal(t, operation < 3, err != nil)
				b.disk = b.disk.CrashClone(mode, seed)
				r.forget("b")
				b.boot(true)
				r.now += 2 * wait // it is quiet at first
				b.stalled = false
				c := answerOf[*VoteResponse](r, r.askAndSettle("c", "b", &VoteRequest{Term: 6, LastLogIndex: 9, LastLogTerm: 5}))
				voted := r.hardState("b")
				require.Equal(t, Term(6), voted.Term)
				require.Equal(t, c.VoteGranted, voted.VotedFor == "c")
				if operation == 3 || mode == vfs.CrashKeep && operation == 2 {
					require.False(t, c.VoteGranted, "it voted for a, durably")
				}
			}
		}
	}
}

// askAndSettle asks a node, and lets everything happen that takes no time.
func (r *rig) askAndSettle(from, to NodeID, request any) *given {
	answer := r.ask(from, to, request)
	r.settle()
	return answer
}

// C4: what a sole voter acknowledged is there after a power cut, and what was only
// written may be or not.
func TestC4AcknowledgedMeansOnDisk(t *testing.T) {
	for seed := range uint64(50) {
		r := newRig(t, "a")
		r.inFiles()
		r.start("a")
		r.settle()
		r.pass(beat)
		acknowledged := r.propose("a", "acknowledged")[0]
		r.settle()
		require.True(t, acknowledged.ended)
		r.stall("a")
		pending := r.propose("a", "pending")[0]
		r.settle()
		require.False(t, pending.ended)
		r.cutPower("a", chance(seed))
		r.restart("a")
		r.pass(beat)
		require.Contains(t, r.node("a").machine.commands, "acknowledged")
	}
}
