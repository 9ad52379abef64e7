package snapshot

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// faulty fails some operations of a disk, counted from 1, those that only read
// included.
type faulty struct {
	first, last int
	err         error
	seen        int
	hit         []vfs.Op
}

func (f *faulty) hook(op vfs.Op) error {
	f.seen++
	if f.seen < f.first || f.seen > f.last {
		return nil
	}
	f.hit = append(f.hit, op)
	if op.Kind == vfs.OpWrite && f.first%2 == 0 {
		return &vfs.ShortWrite{Bytes: int(op.Length / 2), Err: f.err}
	}
	return f.err
}

// noticed reports whether failed operations must have been noticed: all but
// removals, which may come later.
func noticed(failed []vfs.Op) bool {
	return slices.ContainsFunc(failed, func(op vfs.Op) bool { return op.Kind != vfs.OpRemove })
}

// TestFaultAtEveryOperation: a step in which the disk fails returns the error. What
// was whole stays whole, the store goes on once the disk does, and nothing is left
// when the directory is opened again.
func TestFaultAtEveryOperation(t *testing.T) {
	t.Parallel()
	steps := workload(t)
	cases, stride := 0, 1
	if testenv.Brief() {
		stride = 7
	}
	for _, length := range []int{1, 4} {
		for _, fault := range []error{vfs.ErrIO, vfs.ErrNoSpace} {
			for first := 1; ; first += stride {
				f := &faulty{first: first, last: first + length - 1, err: fault}
				surviveFault(t, steps, f)
				if len(f.hit) == 0 {
					break
				}
				cases++
			}
		}
	}
	t.Logf("%d faults, all survived", cases)
}

func surviveFault(t *testing.T, steps []step, f *faulty) {
	c := newCrasher(t)
	s := open(t, c.disk, c.options)
	c.disk.Inject(f.hook)
	for i, step := range steps {
		before, hits := s.newest(), len(f.hit)
		went, err := step.do(c, s)
		failed := f.hit[hits:]
		at := fmt.Sprintf("step %d, %s, faults at %v", i, step.name, failed)
		if noticed(failed) {
			require.ErrorIs(t, err, f.err, at)
		}
		c.disk.Inject(nil)
		if went == nil || len(failed) > 0 && err != nil && i%2 == 0 { // the process may end, and start again
			went = open(t, c.disk, c.options)
		}
		s = went
		found := ids(t, s)
		require.GreaterOrEqual(t, s.newest(), before, at)
		if err == nil && step.id != (ID{}) {
			require.Equal(t, step.id, found[0], at)
		}
		c.disk.Inject(f.hook)
	}
	c.disk.Inject(nil)
	mustTake(t, s, at(1000))
	s = open(t, c.disk, c.options)
	found := ids(t, s)
	require.Equal(t, at(1000), found[0])
	require.Equal(t, namesOf(found...), names(c.disk), "faults at %v", f.hit)
}

// TestD10FullDisk: a snapshot for which there is no room is an error, and its space
// is free again.
func TestD10FullDisk(t *testing.T) {
	free := vfs.NewMemory()
	mustTake(t, open(t, free, small(1)), at(10))
	used := int64(len(free.Files()[dir+"/"+fileName(at(10))]))
	f := source(t, at(30), 1)
	for room := int64(0); ; room += 7 {
		disk := vfs.NewMemory()
		s := open(t, disk, small(1))
		mustTake(t, s, at(10))
		disk.SetCapacity(used + room)
		_, err := take(s, at(20), true)
		if err == nil {
			break
		}
		require.ErrorIs(t, err, vfs.ErrNoSpace)
		require.Equal(t, namesOf(at(10)), names(disk))
		require.Equal(t, []ID{at(10)}, ids(t, s))

		_, err = s.Receive(f.Info)
		if room < f.Size {
			require.ErrorIs(t, err, vfs.ErrNoSpace, "the space is taken before the bytes come")
			require.Equal(t, namesOf(at(10)), names(disk))
		}
		disk.SetCapacity(0)
		mustTake(t, s, at(25))
		require.Equal(t, []ID{at(25), at(10)}, ids(t, s))
	}
}

// TestD1NothingAfterFailedSync: a file of which a sync has failed is not touched any
// more, but for its removal.
func TestD1NothingAfterFailedSync(t *testing.T) {
	f := source(t, at(13), 1)
	for n := 1; n < 8; n++ {
		for _, receive := range []bool{false, true} {
			disk := vfs.NewMemory()
			s := open(t, disk, small(1))
			mustTake(t, s, at(10))
			sync := vfs.Nth(vfs.OpSync, n, vfs.ErrIO)
			failed := ""
			disk.Inject(func(op vfs.Op) error {
				if failed == op.Name && op.Kind != vfs.OpRemove {
					t.Errorf("sync %d has failed, then came %v", n, op)
				}
				err := sync(op)
				if err != nil {
					failed = op.Name
				}
				return err
			})
			var w *Writer
			var err error
			if receive {
				err = f.receive(s, 100)
			} else {
				w, err = take(s, at(13), true)
			}
			if failed == "" {
				require.Greater(t, n, 3)
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, vfs.ErrIO)
			if before := disk.Operations(); w != nil {
				_, err = w.Write([]byte("more"))
				require.ErrorIs(t, err, vfs.ErrIO)
				_, err = w.Commit()
				require.ErrorIs(t, err, vfs.ErrIO)
				require.NoError(t, w.Abort())
				require.Equal(t, before, disk.Operations())
			}
			require.Equal(t, namesOf(at(10)), names(disk))
			require.Equal(t, []ID{at(10)}, ids(t, s))
		}
	}
}

// TestFailedNameIsNotReliedOn: whether a name is durable whose sync has failed is
// known to nobody, so the snapshot does not count, and none is removed for it.
func TestFailedNameIsNotReliedOn(t *testing.T) {
	for _, removable := range []bool{true, false} {
		disk := vfs.NewMemory()
		s := open(t, disk, small(1))
		mustTake(t, s, at(10), at(20))
		disk.Inject(func(op vfs.Op) error {
			if op.Kind == vfs.OpSyncDir || op.Kind == vfs.OpRemove && !removable {
				return vfs.ErrIO
			}
			return nil
		})
		_, err := take(s, at(30), true)
		require.ErrorIs(t, err, vfs.ErrIO)
		disk.Inject(nil)
		require.Equal(t, []ID{at(20), at(10)}, ids(t, s))
		require.Equal(t, removable, !slices.Contains(names(disk), fileName(at(30))))
		mustTake(t, s, at(30))
		require.Equal(t, []ID{at(30), at(20)}, ids(t, s))
		require.Equal(t, namesOf(at(20), at(30)), names(disk))
	}
}

// TestUnreadable: what the disk does not give back is no damage. It may come back.
func TestUnreadable(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	mustTake(t, s, at(13))
	reads := 0
	for n := 1; ; n++ {
		disk.Inject(vfs.Nth(vfs.OpRead, n, vfs.ErrIO))
		err := check(s, at(13))
		disk.Inject(nil)
		if err == nil {
			break
		}
		reads++
		require.ErrorIs(t, err, vfs.ErrIO)
		require.False(t, strings.Contains(err.Error(), "damaged"), err)
		require.NoError(t, s.List()[0].Err)
	}
	require.Greater(t, reads, 10)
	require.Equal(t, []ID{at(13)}, ids(t, s))
}

// TestFaultWhileOpening is an error, whatever it is that the disk does not do.
func TestFaultWhileOpening(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	mustTake(t, s, at(10), at(20))
	_, err := take(s, at(30), false)
	require.NoError(t, err)
	kinds := map[vfs.OpKind]bool{}
	for first := 1; ; first++ {
		disk := disk.CrashClone(vfs.CrashKeep, 0)
		f := &faulty{first: first, last: first, err: vfs.ErrIO}
		disk.Inject(f.hook)
		s, err := openClean(disk, dir, small(1))
		disk.Inject(nil)
		if len(f.hit) == 0 {
			require.NoError(t, err)
			require.Equal(t, []ID{at(20), at(10)}, ids(t, s))
			break
		}
		require.ErrorIs(t, err, vfs.ErrIO)
		require.Nil(t, s)
		kinds[f.hit[0].Kind] = true
	}
	require.Len(t, kinds, 6) // list, open, size, read, remove, sync of the directory
}
