package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// step is something that happens to a store. It returns the store that goes on.
type step struct {
	name string
	id   ID // of the snapshot that is whole afterwards; zero: none
	do   func(*crasher, *Store) (*Store, error)
}

// taking takes a snapshot and commits it.
func taking(id ID) step {
	return step{fmt.Sprintf("take %v", id), id, func(_ *crasher, s *Store) (*Store, error) {
		_, err := take(s, id, true)
		return s, err
	}}
}

// aborting takes a snapshot and gives it up.
func aborting(id ID) step {
	return step{fmt.Sprintf("abort %v", id), ID{}, func(_ *crasher, s *Store) (*Store, error) {
		w, err := take(s, id, false)
		if err != nil {
			return s, err
		}
		return s, w.Abort()
	}}
}

// leaving takes a snapshot, in the middle of which the process ends.
func leaving(id ID) step {
	return step{fmt.Sprintf("leave %v", id), ID{}, func(c *crasher, s *Store) (*Store, error) {
		if _, err := take(s, id, false); err != nil {
			return s, err
		}
		return openClean(c.disk, dir, c.options)
	}}
}

// receiving receives a whole file and commits it, from where the last one was
// interrupted.
func receiving(f sent) step {
	return step{fmt.Sprintf("receive %v", f.ID), f.ID, func(c *crasher, s *Store) (*Store, error) {
		r, err := c.receive(s, f, f.Size)
		if err != nil {
			return s, err
		}
		_, err = r.Commit()
		return s, err
	}}
}

// interrupting receives a part of a file. Then it is closed, or the process ends.
func interrupting(f sent, percent int64, closed bool) step {
	return step{fmt.Sprintf("receive %d%% of %v", percent, f.ID), ID{}, func(c *crasher, s *Store) (*Store, error) {
		r, err := c.receive(s, f, f.Size*percent/100)
		if err != nil {
			return s, err
		}
		if closed {
			return s, r.Close()
		}
		return openClean(c.disk, dir, c.options)
	}}
}

// crasher does steps to a store, and looks at what a crash at each operation of the
// disk would leave.
type crasher struct {
	t         testing.TB
	options   Options
	disk      *vfs.Memory
	scattered int  // how many of the crashes of each operation keep some sectors
	deep      bool // crash while the directory is opened too

	files   map[string]sent  // by the names of their parts
	arrived map[string]int64 // how much of them has, at most
	rotten  ID               // this one is damaged, and may be so again until it is replaced

	before []ID // what must be there, newest first
	after  []ID // the same after the step under way
	doing  string
	cases  int
	parts  int // how many crashes left a part that was gone on with
}

func newCrasher(t testing.TB) *crasher {
	c := &crasher{t: t, options: small(1), disk: vfs.NewMemory(), scattered: 6, files: map[string]sent{}, arrived: map[string]int64{}}
	if testenv.Brief() {
		c.scattered = 1
	}
	return c
}

// receive writes a part of a file, in pieces that are no chunks.
func (c *crasher) receive(s *Store, f sent, upTo int64) (*Receiver, error) {
	name := partialName(f.Info)
	c.files[name] = f
	r, err := s.Receive(f.Info)
	if err != nil {
		return nil, err
	}
	for r.Next() < upTo {
		next := min(r.Next()+170, upTo)
		c.arrived[name] = max(c.arrived[name], next)
		if err := f.pass(r, next, 170); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// run does the steps once, and a crash before each operation.
func (c *crasher) run(steps []step) {
	c.disk.Inject(func(op vfs.Op) error {
		if op.Number > 0 { // one that only reads leaves what the next one finds
			c.crash(op)
		}
		return nil
	})
	c.doing = "open"
	s := open(c.t, c.disk, c.options)
	var err error
	for i, step := range steps {
		c.doing, c.after = fmt.Sprintf("step %d, %s", i, step.name), c.before
		if step.id != (ID{}) {
			kept := append([]ID{step.id}, slices.DeleteFunc(slices.Clone(c.before), func(id ID) bool { return id == step.id })...)
			c.after = kept[:min(2, len(kept))]
		}
		s, err = step.do(c, s)
		require.NoError(c.t, err, c.doing)
		c.doing, c.before = c.doing+", done", c.after
		if step.id != (ID{}) {
			c.rotten = ID{}
			require.Equal(c.t, c.after, ids(c.t, s), c.doing)
		}
	}
	c.disk.Inject(nil)
	c.crash(vfs.Op{})
}

// crash looks at everything that a crash at this moment may leave.
func (c *crasher) crash(op vfs.Op) {
	at := fmt.Sprintf("%s, crash at %v", c.doing, op)
	for _, mode := range []vfs.CrashMode{vfs.CrashLose, vfs.CrashKeep, vfs.CrashKill} {
		c.survive(c.disk.CrashClone(mode, 0), fmt.Sprintf("%s: %v", at, mode))
	}
	for seed := range uint64(c.scattered) {
		c.survive(c.disk.CrashClone(vfs.CrashScatter, seed), fmt.Sprintf("%s: scatter %d", at, seed))
		if seed%2 == 0 {
			c.survive(c.disk.CrashClone(vfs.CrashTear, seed), fmt.Sprintf("%s: tear %d", at, seed))
		}
	}
	length := c.disk.LastWrite()
	for keep := int64(1); keep < length; keep += length/int64(2*c.scattered) + 1 {
		c.survive(c.disk.TearClone(keep), fmt.Sprintf("%s: torn at byte %d of %d", at, keep, length))
	}
}

// survive opens what a crash has left: the snapshots that were there, or these and
// the one under way, each whole. They stay, whatever comes, and so does what is
// taken and received from then on.
func (c *crasher) survive(disk *vfs.Memory, at string) {
	c.cases++
	if c.deep {
		c.crashInOpen(disk, at)
	}
	s, err := openClean(disk, dir, c.options)
	require.NoError(c.t, err, at)
	found := c.look(s, at)
	require.True(c.t, holds(found, c.before) || holds(found, c.after), "%s: found %v, want %v or %v", at, found, c.before, c.after)
	part := c.leftovers(disk, at)
	c.same(disk, found, at+", cut after opening")

	if part != "" {
		f := c.files[part]
		r, err := s.Receive(f.Info)
		require.NoError(c.t, err, at)
		require.LessOrEqual(c.t, r.Next(), c.arrived[part], at)
		if r.Next() > 0 {
			c.parts++
		}
		require.NoError(c.t, f.pass(r, f.Size, 500), at)
		_, err = r.Commit()
		require.NoError(c.t, err, at)
		found = c.look(s, at)
		require.Equal(c.t, f.ID, found[0], at)
		c.same(disk, found, at+", cut after the rest was received")
	}
	mustTake(c.t, s, ID{1000, 1000})
	c.same(disk, c.look(s, at), at+", cut after one more")
	require.Equal(c.t, namesOf(c.look(s, at)...), names(disk), at)
}

// holds reports whether what was found is what must be there, and older ones that
// nobody needs.
func holds(found, want []ID) bool {
	if len(want) == 0 || len(found) == 0 {
		return len(want) == len(found)
	}
	for _, id := range want {
		if !slices.Contains(found, id) {
			return false
		}
	}
	return found[0] == want[0]
}

// look returns what a store has, and reads all of it.
func (c *crasher) look(s *Store, at string) []ID {
	var found []ID
	for _, info := range s.List() {
		require.NoError(c.t, info.Err, at)
		err := check(s, info.ID)
		var corrupt *vfs.CorruptError
		if info.ID != c.rotten || !errors.As(err, &corrupt) {
			require.NoError(c.t, err, at)
		}
		found = append(found, info.ID)
	}
	return found
}

// same cuts the power, and then everything must be there.
func (c *crasher) same(disk *vfs.Memory, want []ID, at string) {
	s, err := openClean(disk.CrashClone(vfs.CrashLose, 0), dir, c.options)
	require.NoError(c.t, err, at)
	found := c.look(s, at)
	require.True(c.t, holds(found, want), "%s: found %v, want %v", at, found, want)
}

// leftovers returns the name of the part that is there; there is nothing else but
// whole files.
func (c *crasher) leftovers(disk *vfs.Memory, at string) (part string) {
	for _, name := range names(disk) {
		switch {
		case strings.HasSuffix(name, partialSuffix):
			require.Empty(c.t, part, at)
			require.Contains(c.t, c.files, name, at)
			part = name
		default:
			require.True(c.t, strings.HasSuffix(name, fileSuffix), "%s: %s is left", at, name)
		}
	}
	return part
}

// crashInOpen opens the directory and crashes at each operation of that.
func (c *crasher) crashInOpen(disk *vfs.Memory, at string) {
	disk = disk.CrashClone(vfs.CrashKill, 0)
	c.deep = false
	defer func() { c.deep = true }()
	disk.Inject(func(op vfs.Op) error {
		if op.Number > 0 {
			for i, mode := range []vfs.CrashMode{vfs.CrashLose, vfs.CrashKill, vfs.CrashScatter, vfs.CrashScatter, vfs.CrashTear} {
				c.survive(disk.CrashClone(mode, uint64(i)), fmt.Sprintf("%s, crash of the opening at %v: %v", at, op, mode))
			}
		}
		return nil
	})
	_, err := openClean(disk, dir, c.options)
	require.NoError(c.t, err, at)
}

// workload has everything that can come after something else.
func workload(t testing.TB) []step {
	one, two := source(t, at(40), 1), source(t, at(40), 2)
	return []step{
		taking(at(5)), taking(at(9)), aborting(at(10)), taking(at(13)),
		receiving(source(t, at(20), 1)),
		interrupting(source(t, at(30), 1), 60, true), receiving(source(t, at(30), 1)),
		interrupting(one, 50, false), interrupting(two, 70, false), interrupting(one, 30, true), interrupting(one, 80, false), receiving(one),
		interrupting(source(t, at(43), 3), 99, true), taking(at(45)),
		interrupting(source(t, at(60), 3), 70, true), taking(at(47)),
		leaving(at(50)), taking(at(50)), receiving(source(t, at(60), 3)),
	}
}

// TestCrashAtEveryOperation is the promise of the package: a snapshot is there as a
// whole or not at all, and none that must be there is lost.
func TestCrashAtEveryOperation(t *testing.T) {
	t.Parallel()
	steps := workload(t)
	if testenv.Brief() {
		steps = slices.Concat(steps[2:6], steps[9:11], steps[16:18])
	}
	c := newCrasher(t)
	c.run(steps)
	t.Logf("%d crashes, all survived, %d of them in a transfer that went on", c.cases, c.parts)
	require.Positive(t, c.parts)
}

// TestCrashInOpen crashes while a directory is opened that a crash has left.
func TestCrashInOpen(t *testing.T) {
	t.Parallel()
	steps := workload(t)
	steps = slices.Concat(steps[2:4], steps[7:9], steps[16:17])
	if testenv.Brief() {
		steps = steps[3:4]
	}
	c := newCrasher(t)
	c.scattered, c.deep = 1, true
	c.run(steps)
	t.Logf("%d crashes, all survived", c.cases)
}

// TestCrashWhileReplacing: the newest one is damaged, and received again, or taken.
func TestCrashWhileReplacing(t *testing.T) {
	t.Parallel()
	f := source(t, at(20), 1)
	for _, replace := range []step{receiving(f), taking(at(20))} {
		c := newCrasher(t)
		rot := step{"rot", ID{}, func(c *crasher, s *Store) (*Store, error) {
			c.rotten = at(20)
			if err := c.disk.Corrupt(dir+"/"+fileName(at(20)), 500, 4); err != nil {
				return s, err
			}
			var corrupt *vfs.CorruptError
			require.ErrorAs(c.t, s.Verify(context.Background(), at(20)), &corrupt)
			return s, nil
		}}
		steps := []step{taking(at(10)), taking(at(20)), rot, interrupting(f, 70, true), replace}
		c.run(steps)
	}
}
