package raft

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// What recovery makes of the directory of a survivor, and what a crash leaves of it.

const survivorDir = "a.raft"

// survivors are what node b has, one of three voters.
var survivors = map[string]at{
	"log":                   {log: "1 1 1 2 2", term: 4, commit: 3, vote: "c"},
	"log behind a snapshot": {log: "1 1 1 2 2 3", term: 3, commit: 5, snapshot: 4, compacted: 2},
	"snapshot alone":        {log: "1 1 2", term: 7, commit: 3, snapshot: 3, compacted: 3},
	"snapshot ahead of log": {log: "1 1 1 2 2", term: 4, commit: 2},
}

// survivor returns a rig whose node b does not run, and the terms of all that b has.
func survivor(t *testing.T, name string) (r *rig, terms string) {
	r = newRig(t, "a b c")
	r.inFiles()
	s := survivors[name]
	r.startAt("b", s)
	r.settle()
	r.crash("b")
	if name != "snapshot ahead of log" {
		return r, s.log
	}
	terms = "1 1 1 3 3 3 3" // a crash came before the log has given way
	r.noteCommitted(r.log(terms))
	b := r.node("b")
	b.open()
	b.keepSnapshot(r.log(terms))
	r.crash("b")
	return r, terms
}

// eachSurvivor runs a test with each of them.
func eachSurvivor(t *testing.T, test func(t *testing.T, r *rig, terms string)) {
	for _, name := range slices.Sorted(maps.Keys(survivors)) {
		t.Run(name, func(t *testing.T) {
			r, terms := survivor(t, name)
			test(t, r, terms)
		})
	}
}

// requireRecovered starts a recovered node: it leads at once, has all that it had, and takes
// new commands.
func requireRecovered(r *rig, terms string, before Survivor, want Member) {
	b := r.node("b")
	after, err := inspectSurvivor(b.disk, survivorDir)
	require.NoError(r.t, err)
	require.NotEqual(r.t, before.Fingerprint, after.Fingerprint)
	require.Equal(r.t, before.Term+1, after.Term)
	require.Equal(r.t, after.Term, after.LastTerm)
	require.Equal(r.t, before.LastIndex+1, after.LastIndex)
	require.Equal(r.t, after.LastIndex, after.CommitIndex)
	require.Equal(r.t, after.LastIndex, after.ConfigurationIndex)
	require.Equal(r.t, before.SnapshotIndex, after.SnapshotIndex)
	require.Equal(r.t, []Member{want}, after.Members)

	r.fingerprint = after.Fingerprint
	r.boot("b")
	c := r.core("b")
	require.Equal(r.t, Leader, c.role)
	require.Equal(r.t, after.Term+1, c.currentTerm)
	require.Equal(r.t, after.LastIndex+1, c.commitIndex)
	require.Equal(r.t, c.commitIndex, r.node("b").driver.applied)
	require.Empty(r.t, c.contacts, "nobody was met yet")
	require.Equal(r.t, string(stateAfter(r.log(terms))), string(rigState(r.node("b").machine.commands)))
	index := r.takeSnapshot("b")
	require.Equal(r.t, c.commitIndex, index)
	require.Equal(r.t, EntryID{index, c.currentTerm}, b.held()[0])
	for name := range b.disk.Files() {
		require.False(r.t, strings.HasSuffix(name, ".copy") || strings.HasSuffix(name, ".tmp"), name)
	}
}

// A survivor becomes the only member, with all that it had, the entries too that are not
// known to be committed.
func TestRecoverCluster(t *testing.T) {
	eachSurvivor(t, func(t *testing.T, r *rig, terms string) {
		disk := r.node("b").disk
		files := disk.Files()
		inspected, err := inspectSurvivor(disk, survivorDir)
		require.NoError(t, err)
		require.Equal(t, files, disk.Files(), "inspection changes nothing")
		require.EqualValues(t, len(strings.Fields(terms)), inspected.LastIndex)
		require.Equal(t, r.fingerprint, inspected.Fingerprint)
		require.Len(t, inspected.Members, 3)

		want := Member{ID: "b", Role: Voter, Address: "elsewhere:7000", Priority: 3, Metadata: []byte("x")}
		before, err := recoverCluster(disk, survivorDir, want)
		require.NoError(t, err)
		require.Equal(t, inspected, before)
		requireRecovered(r, terms, before, want)
	})
}

// The power goes at every operation of a recovery: the directory is as it was, and can be
// recovered, or it is recovered.
func TestCrashInRecovery(t *testing.T) {
	t.Parallel()
	seeds := uint64(5)
	if testenv.Brief() {
		seeds = 1
	}
	member := Member{ID: "b"}
	eachSurvivor(t, func(t *testing.T, r *rig, terms string) {
		old := r.node("b").disk
		before, err := inspectSurvivor(old, survivorDir)
		require.NoError(t, err)
		want, _ := configuration{members: before.Members}.member("b")
		whole := old.CrashClone(vfs.CrashKill, 0)
		_, err = recoverCluster(whole, survivorDir, member)
		require.NoError(t, err)
		operations := whole.Operations()
		require.Greater(t, operations, 5)
		recovered := 0
		for _, mode := range []vfs.CrashMode{vfs.CrashLose, vfs.CrashKeep, vfs.CrashKill, vfs.CrashTear, vfs.CrashScatter} {
			for at := 1; at <= operations; at++ {
				for seed := range seeds {
					disk := old.CrashClone(vfs.CrashKill, 0)
					disk.FailAfter(at)
					_, err := recoverCluster(disk, survivorDir, member)
					require.Error(t, err)
					disk = disk.CrashClone(mode, seed)
					found, err := inspectSurvivor(disk, survivorDir)
					require.NoError(t, err, "%v at %d", mode, at)
					if found.Fingerprint == before.Fingerprint {
						require.Equal(t, before, found, "%v at %d", mode, at)
						_, err = recoverCluster(disk, survivorDir, member)
						require.NoError(t, err)
					} else {
						recovered++
					}
					r, _ := survivor(t, strings.ReplaceAll(t.Name()[strings.LastIndex(t.Name(), "/")+1:], "_", " "))
					r.node("b").disk = disk
					requireRecovered(r, terms, before, want)
					if mode == vfs.CrashLose || mode == vfs.CrashKeep || mode == vfs.CrashKill {
						break // nothing depends on the seed
					}
				}
			}
		}
		require.Positive(t, recovered, "some crashes came late enough")
	})
}

// What a crash has left of a recovery that did not take place is gone after the next start.
func TestLeftoverOfARecoveryGoes(t *testing.T) {
	r, _ := survivor(t, "log behind a snapshot")
	b := r.node("b")
	store, err := openTestStorage(b.disk)
	require.NoError(t, err)
	require.NoError(t, store.snapshots.open(r.fingerprint))
	require.NoError(t, store.snapshots.files.CopyFor([16]byte{1}, store.snapshots.newestWhole().file()))
	require.NoError(t, store.abandon())
	hasCopy := func() bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(b.disk.Files())), func(name string) bool { return strings.HasSuffix(name, ".copy") })
	}
	require.True(t, hasCopy())
	r.boot("b")
	require.False(t, hasCopy())
	require.Equal(t, []EntryID{{4, 2}}, b.held())
}

// A recovery that would be a mistake is refused, and then no file is changed.
func TestRecoveryIsRefused(t *testing.T) {
	long := strings.Repeat("x", maxAddressBytes+1)
	for name, member := range map[string]Member{
		"no id":            {},
		"another id":       {ID: "a"},
		"a learner":        {ID: "b", Role: Learner},
		"no role":          {ID: "b", Role: 9},
		"a long address":   {ID: "b", Address: long},
		"a lot of it":      {ID: "b", Metadata: make([]byte, maxMetadataBytes+1)},
		"another id, alas": {ID: "B"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := survivor(t, "log")
			disk := r.node("b").disk
			files := disk.Files()
			_, err := recoverCluster(disk, survivorDir, member)
			require.ErrorIs(t, err, ErrInvalidChange)
			require.Equal(t, files, disk.Files())
		})
	}

	t.Run("twice", func(t *testing.T) {
		r, _ := survivor(t, "log behind a snapshot")
		disk := r.node("b").disk
		_, err := recoverCluster(disk, survivorDir, Member{ID: "b"})
		require.NoError(t, err)
		files := disk.Files()
		_, err = recoverCluster(disk, survivorDir, Member{ID: "b"})
		require.ErrorIs(t, err, ErrInvalidChange)
		require.ErrorContains(t, err, "b is the only voter already")
		require.Equal(t, files, disk.Files())
	})

	t.Run("in use", func(t *testing.T) {
		r, _ := survivor(t, "log")
		b := r.node("b")
		b.open()
		files := b.disk.Files()
		_, err := recoverCluster(b.disk, survivorDir, Member{ID: "b"})
		require.ErrorIs(t, err, ErrDataDirInUse)
		_, err = inspectSurvivor(b.disk, survivorDir)
		require.ErrorIs(t, err, ErrDataDirInUse)
		require.Equal(t, files, b.disk.Files())
	})

	t.Run("no data", func(t *testing.T) {
		for _, dir := range []string{"nowhere", "empty"} {
			disk := vfs.NewMemory()
			require.NoError(t, disk.MkdirAll("empty"))
			_, err := recoverCluster(disk, dir, Member{ID: "b"})
			require.ErrorIs(t, err, ErrNoData)
			require.Empty(t, disk.Files())
		}
	})

	t.Run("no member", func(t *testing.T) {
		stranger := Survivor{ID: "b", Members: []Member{{ID: "a", Role: Voter}, {ID: "c", Role: Voter}}}
		_, err := stranger.alone(Member{ID: "b"})
		require.ErrorIs(t, err, ErrInvalidChange)
		require.ErrorContains(t, err, "b is no member")
	})
}

// A learner that has survived, and a voter in a joint phase of which it is half of, can be
// recovered; one that leads without the others needs no recovery.
func TestWhoCanBeRecovered(t *testing.T) {
	for name, test := range map[string]struct {
		members []Member
		can     bool
	}{
		"learner":               {[]Member{{ID: "a", Role: Voter}, {ID: "b", Role: Learner, Address: "b"}}, true},
		"leaving":               {[]Member{{ID: "a", Role: Voter}, {ID: "b", Role: Leaving, Address: "b"}}, true},
		"others leave":          {[]Member{{ID: "a", Role: Leaving}, {ID: "b", Role: Voter, Address: "b"}}, true},
		"only voter":            {[]Member{{ID: "b", Role: Voter, Address: "b"}}, false},
		"only voter of members": {[]Member{{ID: "a", Role: Learner}, {ID: "b", Role: Voter, Address: "b"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			next, err := Survivor{ID: "b", Members: test.members}.alone(Member{ID: "b"})
			if !test.can {
				require.ErrorIs(t, err, ErrInvalidChange)
				return
			}
			require.NoError(t, err)
			require.Equal(t, []Member{{ID: "b", Role: Voter, Address: "b"}}, next.members)
		})
	}
}

// Damage is told, with the files as they are, whichever file it is in.
func TestRecoveryRefusesDamage(t *testing.T) {
	r, _ := survivor(t, "log behind a snapshot")
	whole := r.node("b").disk
	for _, name := range slices.Sorted(maps.Keys(whole.Files())) {
		size := len(whole.Files()[name])
		for _, offset := range []int{20, 100, 150, 250, 300} {
			if offset >= size {
				continue
			}
			disk := whole.CrashClone(vfs.CrashKill, 0)
			require.NoError(t, disk.Corrupt(name, int64(offset), 0x40))
			files := disk.Files()
			_, err := recoverCluster(disk, survivorDir, Member{ID: "b"})
			if err == nil {
				require.Fail(t, "damage went unnoticed", "%s at %d", name, offset)
			}
			require.ErrorIs(t, err, ErrCorrupt, "%s at %d", name, offset)
			require.Equal(t, files, disk.Files(), "%s at %d", name, offset)
		}
	}
}

// A log tells where its cluster was recovered: no leader goes on like that.
func TestWhoBelongedBeforeARecovery(t *testing.T) {
	config := func(incoming string, outgoing ...string) configuration {
		var c configuration
		for _, id := range strings.Fields(incoming) {
			c.members = append(c.members, Member{ID: NodeID(id), Role: Voter})
			c.incoming = append(c.incoming, NodeID(id))
		}
		for _, id := range strings.Fields(strings.Join(outgoing, "")) {
			c.outgoing = append(c.outgoing, NodeID(id))
		}
		return c
	}
	for name, test := range map[string]struct {
		history []configuration
		before  string // who belonged to the cluster before
	}{
		"never changed":                {[]configuration{config("a b c")}, ""},
		"one by one":                   {[]configuration{config("a b c"), config("a b"), config("a"), config("a d")}, ""},
		"joint":                        {[]configuration{config("a b c"), config("d e f", "a b c"), config("d e f")}, ""},
		"recovered":                    {[]configuration{config("a b c"), config("a"), config("a d")}, "abc"},
		"recovered from a joint phase": {[]configuration{config("d e", "a b c"), config("d")}, "de"},
		"recovered twice":              {[]configuration{config("a b c"), config("a"), config("a d"), config("a d e"), config("e")}, "abcde"},
	} {
		t.Run(name, func(t *testing.T) {
			last := len(test.history) - 1
			c := &core{earlier: test.history[:last], configuration: test.history[last]}
			found := ""
			for _, id := range "abcdef" {
				if c.beforeRecovery(NodeID(id)) {
					found += string(id)
				}
			}
			require.Equal(t, test.before, found)
		})
	}
}
