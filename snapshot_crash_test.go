package raft

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// The power goes at every operation of the disk in the life of a snapshot, and bits
// of it rot.

// darkStory is a story of node b, whose disk loses power somewhere in it.
type darkStory struct {
	given func(*rig) // the state in which it begins
	goes  func(*rig) // what it does; it may end early
	after func(*rig) // what must hold after the next start, and come true afterwards
}

// tellInTheDark tells a story as often as its disk has operations, and loses the
// power at another one each time, and what is not synced in every way.
func tellInTheDark(t *testing.T, s darkStory) {
	begin := func(t *testing.T) (*rig, *rigNode) {
		r := newRig(t, "a b c")
		r.inFiles()
		r.sync = 60
		s.given(r)
		r.settle()
		return r, r.node("b")
	}
	r, b := begin(t)
	before := b.disk.Operations()
	s.goes(r)
	operations := b.disk.Operations() - before
	require.Greater(t, operations, 5)
	seeds := uint64(6)
	if testenv.Brief() {
		seeds = 1
	}
	for _, mode := range []vfs.CrashMode{vfs.CrashLose, vfs.CrashKeep, vfs.CrashKill, vfs.CrashTear, vfs.CrashScatter} {
		t.Run(mode.String(), func(t *testing.T) {
			for at := 1; at <= operations+1; at++ {
				for seed := range seeds {
					r, b := begin(t)
					b.disk.FailAfter(b.disk.Operations() + at)
					s.goes(r)
					b.disk = b.disk.CrashClone(mode, seed)
					r.restart("b")
					r.settle()
					s.after(r)
					if t.Failed() {
						t.Fatalf("operation %d of %d, seed %d", at, operations, seed)
					}
					if mode == vfs.CrashLose || mode == vfs.CrashKeep || mode == vfs.CrashKill {
						break // nothing depends on the seed
					}
				}
			}
		})
	}
}

// tells delivers requests from a to b in order, as long as b runs.
func (r *rig) tells(requests ...any) {
	for _, request := range requests {
		if r.up("b") {
			r.ask("a", "b", request)
			r.settle()
		}
	}
}

// requireApplied requires that a state machine has just what the log says that it has.
func (r *rig) requireApplied(id NodeID, terms string) {
	applied := r.node(id).driver.applied
	require.Equal(r.t, r.core(id).commitIndex, applied)
	want := string(stateAfter(r.log(terms).upTo(applied)))
	require.Equal(r.t, want, string(rigState(r.node(id).machine.commands)), "the state up to entry %d", applied)
}

// S1: a log of 1@1..5@1, of which 4 and 5 are nobody else's, gives way to a snapshot of
// 8@2, which comes in parts. Wherever the power goes, the log is as it was, or starts
// behind the snapshot.
func TestS1InstallIsAtomic(t *testing.T) {
	const old, terms = "1 1 1 1 1", "1 1 1 2 2 2 2 2"
	send := func(r *rig) {
		for _, part := range parts(r.snapshotOf(2, r.log(terms)), 70) {
			r.tells(part)
		}
	}
	tellInTheDark(t, darkStory{
		given: func(r *rig) { r.startAt("b", at{log: old, term: 2, commit: 3}) },
		goes:  send,
		after: func(r *rig) {
			b, log := r.node("b"), &r.core("b").log
			if len(b.held()) == 0 {
				require.Equal(r.t, EntryID{}, log.compacted)
				require.Equal(r.t, old, r.terms("b"))
				require.Equal(r.t, old, r.saved("b"))
				r.requireApplied("b", old)
			} else {
				require.Equal(r.t, []EntryID{{8, 2}}, b.held())
				require.Equal(r.t, EntryID{8, 2}, log.compacted)
				require.Equal(r.t, Index(8), log.last())
				require.Equal(r.t, Index(8), log.durable)
				require.Equal(r.t, EntryID{8, 2}, loaded(b.storage).Compacted)
				r.requireApplied("b", terms)
			}
			require.Equal(r.t, Term(2), r.core("b").currentTerm)

			// The leader begins anew, and goes on with the log.
			send(r)
			r.tells(&AppendEntries{Term: 2, PrevLogIndex: 8, PrevLogTerm: 2, Entries: entry(9, 2), LeaderCommit: 9})
			require.Equal(r.t, Index(9), loaded(b.storage).Last)
			require.Equal(r.t, EntryID{8, 2}, loaded(b.storage).Compacted)
			r.requireApplied("b", terms+" 2")
		},
	})
}

// S1: the power goes again while the start makes up for what a crash left undone.
func TestS1InstallIsAtomicAtTheStartToo(t *testing.T) {
	const terms = "1 1 1 2 2 2 2 2"
	tellInTheDark(t, darkStory{
		given: func(r *rig) {
			r.startAt("b", at{log: "1 1 1 1 1", term: 2, commit: 3})
			r.stall("b")
			r.ask("a", "b", r.snapshotOf(2, r.log(terms)))
			r.settle()
			require.NotNil(r.t, r.node("b").saving, "the log gives way")
			r.crash("b")
			r.boot("b")
		},
		goes: func(r *rig) {
			r.resume("b")
			r.tells(&AppendEntries{Term: 2, PrevLogIndex: 8, PrevLogTerm: 2, Entries: entry(9, 2), LeaderCommit: 9})
			r.tells(&AppendEntries{Term: 2, PrevLogIndex: 9, PrevLogTerm: 2, Entries: entry(10, 2), LeaderCommit: 10})
		},
		after: func(r *rig) {
			require.Equal(r.t, []EntryID{{8, 2}}, r.node("b").held())
			require.Equal(r.t, EntryID{8, 2}, r.core("b").log.compacted)
			r.requireApplied("b", terms+" 2 2")
		},
	})
}

// S11: the power goes while a snapshot is taken, and the log compacted. The next start
// finds the newest whole one, removes what is left of others, and leaves alone what is
// not its own.
func TestS11TakingIsAtomic(t *testing.T) {
	t.Parallel()
	terms := strings.TrimSpace(strings.Repeat("1 ", 20))
	foreign := map[string]string{"notes.txt": "mine", "empty": "", "0000000000000014-0000000000000001.snap.crc": ""}
	const dir = "a.raft/snapshots/"
	tellInTheDark(t, darkStory{
		given: func(r *rig) {
			r.trail = 4
			r.startAt("b", at{log: terms, term: 2, commit: 20, compacted: 5, snapshot: 10})
			r.crash("b")
			b := r.node("b")
			for name, content := range foreign {
				require.NoError(r.t, b.disk.Put(dir+name, []byte(content)))
			}
			require.NoError(r.t, b.disk.Put(dir+"0000000000000014-0000000000000001-00000000000000ff.tmp", []byte("half")))
			require.NoError(r.t, b.disk.Put(dir+"backup.tmp", nil))
			r.boot("b")
		},
		goes: func(r *rig) {
			r.wantSnapshot("b", func(Index, error) {})
			r.settle()
			r.tells(&AppendEntries{Term: 2, PrevLogIndex: 20, PrevLogTerm: 1, Entries: entry(21, 2), LeaderCommit: 21})
		},
		after: func(r *rig) {
			b, log := r.node("b"), &r.core("b").log
			newest := b.held()[0]
			require.Contains(r.t, []EntryID{{10, 1}, {20, 1}}, newest)
			require.Equal(r.t, newest, r.core("b").snapshot)
			require.Contains(r.t, []EntryID{{5, 1}, {16, 1}}, log.compacted)
			require.LessOrEqual(r.t, log.compacted.Index, newest.Index)
			require.GreaterOrEqual(r.t, log.last(), Index(20))
			r.requireApplied("b", terms+" 2")
			files := b.disk.Files()
			for name, content := range foreign {
				require.Equal(r.t, content, string(files[dir+name]), name)
			}
			for name := range files {
				require.False(r.t, strings.HasSuffix(name, ".tmp"), name)
			}
			r.tells(&AppendEntries{Term: 2, PrevLogIndex: 20, PrevLogTerm: 1, Entries: entry(21, 2), LeaderCommit: 21})
			require.Equal(r.t, Index(21), r.takeSnapshot("b"), "the next one is taken as usual")
			r.settle()
			require.Equal(r.t, EntryID{17, 1}, loaded(b.storage).Compacted)
		},
	})
}

// boot starts the process of a node that was started before.
func (r *rig) boot(id NodeID) {
	r.nodes[id].boot(true)
	r.settle()
}

// rotten returns a node that does not run, with snapshots of entries 10 and 20, and a
// log that starts behind an entry; and the name of the newest one, which is to rot.
func rotten(t *testing.T, compacted Index) (r *rig, b *rigNode, newest string) {
	terms := strings.TrimSpace(strings.Repeat("1 ", 22))
	r = newRig(t, "a b c")
	r.inFiles()
	r.trail = int(20 - compacted)
	r.startAt("b", at{log: terms, term: 2, commit: 20, snapshot: 10})
	r.settle()
	require.Equal(t, Index(20), r.takeSnapshot("b"))
	r.settle()
	b = r.node("b")
	require.Equal(t, []EntryID{{20, 1}, {10, 1}}, b.held())
	require.Equal(t, compacted, loaded(b.storage).Compacted.Index)
	r.crash("b")
	for name := range b.disk.Files() {
		if strings.HasSuffix(name, ".snap") {
			newest = max(newest, name)
		}
	}
	return r, b, newest
}

// eachBit calls visit with one bit after the other of a file: all of them, or some if
// there is little time.
func eachBit(size int, visit func(offset int64, bit byte)) {
	for offset := range size {
		for bit := range 8 {
			if !testenv.Brief() || (offset*8+bit)%37 == 0 {
				visit(int64(offset), 1<<bit)
			}
		}
	}
}

// S12: the newest snapshot is damaged, by a bit. If the log goes on behind the older
// one, the node starts from there, says so, and has the same state.
func TestS12OlderSnapshotAndLogCoverTheGap(t *testing.T) {
	t.Parallel()
	const version = 8 // the offset of the format's version, behind which everything may be different
	r, b, newest := rotten(t, 9)
	whole := b.disk
	eachBit(len(whole.Files()[newest]), func(offset int64, bit byte) {
		b.disk = whole.CrashClone(vfs.CrashKill, 0)
		require.NoError(t, b.disk.Corrupt(newest, offset, bit))
		if offset >= version && offset < version+4 && (offset < version+3 || bit > 1) { // version 0 there never was
			_, err := startOn(r, b.disk)
			require.Error(t, err)
			return
		}
		r.boot("b")
		require.Equal(t, EntryID{10, 1}, r.core("b").snapshot)
		require.True(t, r.told("b", "pass over snapshot"))
		r.requireApplied("b", strings.TrimSpace(strings.Repeat("1 ", 22)))
		require.Equal(t, Index(20), r.core("b").commitIndex)
		require.Equal(t, []EntryID{{10, 1}}, b.held())
		require.Equal(t, Index(20), r.takeSnapshot("b"), "one takes the place of the damaged one")
		require.Equal(t, []EntryID{{20, 1}, {10, 1}}, b.held())
		r.crash("b")
		r.boot("b")
		require.Equal(t, EntryID{20, 1}, r.core("b").snapshot)
		r.crash("b")
		b.notes = nil
	})
}

// S12: if nothing covers the gap the node does not start, says why, and leaves all
// files as they are.
func TestS12DamageThatNothingCoversIsRefused(t *testing.T) {
	r, b, newest := rotten(t, 15)
	whole := b.disk
	eachBit(len(whole.Files()[newest]), func(offset int64, bit byte) {
		disk := whole.CrashClone(vfs.CrashKill, 0)
		require.NoError(t, disk.Corrupt(newest, offset, bit))
		left, err := disk.Create(path.Dir(newest) + "/left.tmp")
		require.NoError(t, err)
		require.NoError(t, left.Close())
		before := disk.Files()
		_, err = startOn(r, disk)
		var corrupt *CorruptError
		if errors.As(err, &corrupt) {
			require.Equal(t, newest, corrupt.File)
			require.ErrorContains(t, err, "raft: node b cannot use its snapshots, and its log starts at entry 16: ")
		} else {
			require.ErrorContains(t, err, "version")
		}
		require.Equal(t, before, disk.Files())
	})
}

// S12: an older snapshot does if the log goes on right behind it, and one entry that is
// missing in between is a gap.
func TestS12OneEntryIsAGap(t *testing.T) {
	for compacted, covered := range map[Index]bool{10: true, 11: false} {
		r, b, newest := rotten(t, compacted)
		require.NoError(t, b.disk.Corrupt(newest, 100, 1))
		_, err := startOn(r, b.disk)
		var corrupt *CorruptError
		require.Equal(t, !covered, errors.As(err, &corrupt), "the log is compacted up to entry %d: %v", compacted, err)
	}
}

// startOn makes a driver of what a disk holds, as a node does that starts.
func startOn(r *rig, disk *vfs.Memory) (*driver, error) {
	s, err := openTestStorage(disk)
	if err != nil {
		return nil, err
	}
	defer func() { require.NoError(r.t, s.abandon()) }()
	c, err := newCore(coreSettings{id: "b", fingerprint: r.fingerprint, heartbeatInterval: beat, electionTimeout: wait}, loaded(s), true, 1, 0)
	if err != nil {
		return nil, err
	}
	return startDriver(r.t.Context(), c, s.Snapshots(), nil, driverSettings{})
}

// S11: what looks like the newest snapshot and is empty, or cut, is one that is damaged.
func TestS11CutSnapshotIsPassedOver(t *testing.T) {
	r, b, newest := rotten(t, 9)
	whole := b.disk
	size := int64(len(whole.Files()[newest]))
	for _, cut := range []int64{0, 1, 63, 64, size / 2, size - 1} {
		b.disk = whole.CrashClone(vfs.CrashKill, 0)
		require.NoError(t, b.disk.Cut(newest, cut))
		r.boot("b")
		require.Equal(t, EntryID{10, 1}, r.core("b").snapshot, "cut to %d bytes", cut)
		r.requireApplied("b", strings.TrimSpace(strings.Repeat("1 ", 22)))
		r.crash("b")
	}
}

// A log whose beginning is gone, and no snapshot at all: the state machine would begin
// in the middle.
func TestNoSnapshotOfWhatIsCompacted(t *testing.T) {
	r, b, _ := rotten(t, 9)
	disk := b.disk.CrashClone(vfs.CrashKill, 0)
	for name := range disk.Files() {
		if strings.HasSuffix(name, ".snap") {
			require.NoError(t, disk.Remove(name))
		}
	}
	before := disk.Files()
	_, err := startOn(r, disk)
	require.ErrorContains(t, err, "raft: node b has no snapshot of entry 9, and its log starts behind that: ")
	require.Equal(t, before, disk.Files())
}

// D17: the snapshot of a leader rots. It finds out before the first byte of it leaves.
func TestD17DamagedSnapshotIsNotSent(t *testing.T) {
	t.Parallel()
	terms := strings.TrimSpace(strings.Repeat("1 ", 20))
	eachBit(200, func(offset int64, bit byte) {
		r := newRig(t, "a b c")
		r.node("b").disk = vfs.NewMemory()
		r.startAt("b", at{log: terms, term: 1, commit: 20, compacted: 20})
		r.settle()
		r.crown("b")
		for name := range r.node("b").disk.Files() {
			if strings.HasSuffix(name, ".snap") {
				require.NoError(t, r.node("b").disk.Corrupt(name, offset, bit))
			}
		}
		r.table = nil
		r.reject("b", "a", 20, 1, 1)
		r.settle()
		require.False(t, r.up("b"), "offset %d, bit %d", offset, bit)
		require.ErrorContains(t, r.node("b").failure, "raft: node b cannot read its snapshot of entry 20: ")
		require.Empty(t, mail[*InstallSnapshot](r, "b", "a"))
	})
}

// D17: bytes that changed on the way are not stored, wherever they are, and the
// transfer that carries the right ones succeeds.
func TestD17DamagedPartIsNotStored(t *testing.T) {
	const terms = "1 1 1 2 2 2 2 2"
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1 1 1 1", term: 2, commit: 3})
	whole := r.snapshotOf(2, r.log(terms))
	eachBit(len(whole.Data), func(offset int64, bit byte) {
		wrong := *whole
		wrong.Data = slices.Clone(whole.Data)
		wrong.Data[offset] ^= bit
		answer := r.ask("a", "b", &wrong)
		r.settle()
		require.True(t, answer.done)
		require.ErrorContains(t, answer.err, "raft: node b cannot store a snapshot: ", "offset %d, bit %d", offset, bit)
		require.True(t, r.up("b"))
		require.Empty(t, r.node("b").held())
		require.Equal(t, "1 1 1 1 1", r.terms("b"))
	})
	require.Equal(t, Index(8), r.askSnapshot("a", "b", whole).Match)
	require.Equal(t, []EntryID{{8, 2}}, r.node("b").held())
	r.requireApplied("b", terms)
}

// A disk that fails while a snapshot is taken or received costs that snapshot, and
// nothing else: neither the node nor what it has.
func TestDiskThatFailsForASnapshotStopsNothing(t *testing.T) {
	terms := strings.TrimSpace(strings.Repeat("1 ", 20))
	faults := map[string]error{"full": vfs.ErrNoSpace, "broken": vfs.ErrIO}
	for name, fault := range faults {
		for _, kind := range []vfs.OpKind{vfs.OpCreate, vfs.OpWrite, vfs.OpSync, vfs.OpRename, vfs.OpSyncDir} {
			t.Run(fmt.Sprintf("%s %v", name, kind), func(t *testing.T) {
				r := newRig(t, "a b c")
				r.inFiles()
				r.startAt("b", at{log: terms, term: 2, commit: 20})
				r.settle()
				b := r.node("b")
				b.disk.Inject(vfs.Nth(kind, 1, fault))
				var problem error
				r.wantSnapshot("b", func(_ Index, err error) { problem = err })
				r.settle()
				require.ErrorIs(t, problem, fault)
				require.ErrorContains(t, problem, "raft: node b could not take a snapshot: ")
				require.Contains(t, r.reason("b"), "no snapshot could be taken: ")
				require.Empty(t, b.held())
				require.Equal(t, Index(20), r.takeSnapshot("b"), "the next attempt")
				require.NotContains(t, r.reason("b"), "no snapshot could be taken")

				r.settle()
				longer := strings.TrimSpace(strings.Repeat("1 ", 30))
				snapshot := r.snapshotOf(2, r.log(longer))
				b.disk.Inject(vfs.Nth(kind, 1, fault))
				answer := r.ask("a", "b", snapshot)
				r.settle()
				require.True(t, answer.done)
				require.ErrorContains(t, answer.err, "raft: node b cannot store a snapshot: ")
				require.ErrorIs(t, answer.err, fault)
				require.Contains(t, r.reason("b"), "the snapshot that a sends cannot be stored: ")
				require.True(t, r.told("b", "cannot store snapshot"))
				b.disk.Inject(nil)
				require.Equal(t, Index(30), r.askSnapshot("a", "b", snapshot).Match)
				r.requireApplied("b", longer)
			})
		}
	}
}
