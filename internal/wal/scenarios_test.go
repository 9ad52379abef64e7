package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// batchOf is a step that appends one entry with a body of so many bytes.
func batchOf(index uint64, size int) step {
	return step{batch: Batch{Runs: []Run{newRun(1, index, strings.Repeat("x", size))}}}
}

// compactionTo is a step that only compacts.
func compactionTo(index, term uint64) step { return step{batch: Batch{Compact: Position{index, term}}} }

// TestD1FailedSync fails each sync once, of files and of the directory, and sees
// the bytes afterwards or not.
func TestD1FailedSync(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpSync, vfs.OpSyncDir} {
		for _, keep := range []bool{false, true} {
			failEach(t, keep, func(n int) func(vfs.Op) error { return vfs.Nth(kind, n, vfs.ErrIO) })
		}
	}
}

// TestFailedOperation fails each operation of the other kinds once.
func TestFailedOperation(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpCreate, vfs.OpAllocate, vfs.OpRename, vfs.OpRemove, vfs.OpOpen, vfs.OpList, vfs.OpSize, vfs.OpRead} {
		failEach(t, false, func(n int) func(vfs.Op) error { return vfs.Nth(kind, n, vfs.ErrIO) })
	}
}

// TestD13ShortWrite does each write in part.
func TestD13ShortWrite(t *testing.T) {
	for _, bytes := range []int{0, 1, 45, 60, 600} {
		failEach(t, false, func(n int) func(vfs.Op) error {
			return vfs.Nth(vfs.OpWrite, n, &vfs.ShortWrite{Bytes: bytes, Err: vfs.ErrIO})
		})
	}
}

// failEach does a workload many times, with another operation that fails in
// each.
func failEach(t *testing.T, keep bool, failure func(n int) func(vfs.Op) error) {
	steps := newGenerator(3, 1<<10).steps(60)
	stride := 1
	if testenv.Brief() {
		stride = 7
	}
	for n := 1; ; n += stride {
		c := newCrasher(t, 1<<10)
		disk := vfs.NewMemory()
		disk.KeepAfterFailedSync(keep)
		disk.Inject(failure(n))
		err := c.runUntilError(disk, steps)
		if err == nil {
			require.Greater(t, n, 1)
			return
		}
		require.ErrorIs(t, err, vfs.ErrIO, c.doing)
		disk.Inject(nil)
		at := fmt.Sprintf("%s fails: %v", c.doing, err)
		c.survive(disk.CrashClone(vfs.CrashKill, 0), at+", then a restart")
		c.survive(disk.CrashClone(vfs.CrashLose, 0), at+", then a cut")
		c.survive(disk.CrashClone(vfs.CrashScatter, uint64(n)), at+", then a crash")
	}
}

// runUntilError does the steps up to the first error. Nothing can be done after
// that, and it stays the same.
func (c *crasher) runUntilError(disk *vfs.Memory, steps []step) error {
	c.doing = "open"
	log, _, err := Open(disk, "log", c.options)
	if err != nil {
		return err
	}
	for i, s := range steps {
		c.doing = fmt.Sprintf("step %d, %v", i, s)
		c.pending = c.acked.after(s)
		if log, err = take(disk, log, c.options, s); err != nil {
			if !s.reopen {
				c.checkStopped(disk, log, err)
			}
			return err
		}
		c.acked = c.pending
	}
	return log.Close()
}

func (c *crasher) checkStopped(disk *vfs.Memory, log *Log, err error) {
	disk.Inject(func(op vfs.Op) error {
		tidies := op.Kind == vfs.OpRemove && strings.HasSuffix(op.Name, spareSuffix)
		assert.True(c.t, tidies || op.Number == 0, "%s: %v after an error", c.doing, op)
		return nil
	})
	require.Equal(c.t, err, log.Append(c.acked.more()), c.doing)
	require.Equal(c.t, err, log.Append(Batch{Compact: Position{c.acked.last().Index + 1, 99}}), c.doing)
	got, readErr := observe(log, log.Contents(), 100)
	require.NoError(c.t, readErr, c.doing)
	require.True(c.t, got.equal(c.acked), "%s: reads %v, want %v", c.doing, got, c.acked)
	require.ErrorIs(c.t, log.Close(), err, c.doing)
	disk.Inject(nil)
	require.ErrorIs(c.t, log.Append(c.acked.more()), errClosed)
}

// TestD2Garbage puts anything in place of the sectors of a batch that was not
// synced.
func TestD2Garbage(t *testing.T) {
	options := inline(8 << 10)
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", options)
	require.NoError(t, err)
	c := newCrasher(t, 8<<10)
	for _, s := range []step{batchOf(1, 700), batchOf(2, 20), batchOf(3, 2000)} {
		c.pending = c.acked
		require.NoError(t, log.Append(s.batch))
		c.acked = c.acked.after(s)
	}
	c.acked, c.pending = c.pending, c.acked // the last one was not synced
	name := "log/" + fileName(1, segmentSuffix)
	whole := disk.Files()[name]
	all := batches(whole)
	torn := all[len(all)-1]
	random := rand.New(rand.NewPCG(1, 1))
	rounds := 3000
	if testenv.Brief() {
		rounds = 300
	}
	for seed := range rounds {
		file := slices.Clone(whole)
		for at := torn.at; at < torn.end()+1024; at = (at/512 + 1) * 512 {
			end := min((at/512+1)*512, torn.end()+1024)
			switch random.IntN(5) {
			case 0:
				clear(file[at:end])
			case 1:
				for i := at; i < end; i++ {
					file[i] = byte(random.Uint32())
				}
			case 2: // from elsewhere in the file, heads of batches included
				copy(file[at:end], whole[random.Int64N(torn.at):torn.at])
			}
		}
		disk := vfs.NewMemory()
		require.NoError(t, disk.Put(name, file))
		c.survive(disk, fmt.Sprintf("garbage %d", seed))
	}
}

// TestCutBatchStaysAway: of a batch that recovery has cut the head was there. The
// next batch is at the same place and has the same body, and of that a crash
// leaves all but the head: it must not complete the one that was cut. That is so
// too if the recovery is the second one, and sees what the first one could not
// make durable.
func TestCutBatchStaysAway(t *testing.T) {
	for _, fails := range []bool{false, true} {
		checkCutBatch(t, fails)
	}
}

func checkCutBatch(t *testing.T, fails bool) {
	c := newCrasher(t, 8<<10)
	body := strings.Repeat("x", 2000)
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", c.options)
	require.NoError(t, err)
	var torn *vfs.Memory
	disk.Inject(func(op vfs.Op) error {
		if op.Kind == vfs.OpSync {
			torn = disk.TearClone(512 - headerBytes)
		}
		return nil
	})
	require.NoError(t, log.Append(Batch{State: []byte("was cut"), Runs: []Run{newRun(1, 1, body)}}))
	if fails {
		torn.KeepAfterFailedSync(true)
		torn.Inject(vfs.Nth(vfs.OpSync, 1, vfs.ErrIO))
		_, _, err = Open(torn, "log", c.options)
		require.ErrorIs(t, err, vfs.ErrIO)
	}
	log, _, err = Open(torn, "log", c.options)
	require.NoError(t, err)
	next := step{batch: Batch{State: []byte("is next"), Runs: []Run{newRun(1, 1, body)}}}
	c.pending = c.acked.after(next)
	torn.Inject(func(op vfs.Op) error {
		if op.Kind == vfs.OpSync {
			for seed := range uint64(200) {
				c.survive(torn.CrashClone(vfs.CrashScatter, seed), fmt.Sprintf("scatter %d", seed))
			}
		}
		return nil
	})
	require.NoError(t, log.Append(next.batch))
}

// TestD5NamesAreDurable cuts the power behind each acknowledgement, the first
// one in each segment among them.
func TestD5NamesAreDurable(t *testing.T) {
	for _, inlined := range []bool{true, false} {
		c := newCrasher(t, 1<<10)
		options := c.options
		options.Inline = inlined
		disk := vfs.NewMemory()
		log, _, err := Open(disk, "log", options)
		require.NoError(t, err)
		c.holds(disk.CrashClone(vfs.CrashLose, 0), c.acked, "first start")
		for i := range uint64(40) {
			s := batchOf(i+1, 100)
			require.NoError(t, log.Append(s.batch))
			c.acked = c.acked.after(s)
			c.holds(disk.CrashClone(vfs.CrashLose, 0), c.acked, "cut")
			c.holds(disk.CrashClone(vfs.CrashScatter, i), c.acked, "crash")
		}
		require.NoError(t, log.Close())
		require.Greater(t, log.active().number, uint64(4))
	}
}

// TestD6FirstStart crashes at each operation of the first start, and of the
// starts after that.
func TestD6FirstStart(t *testing.T) {
	c := newCrasher(t, 1<<10)
	c.scattered, c.deep = min(6, c.scattered), true
	c.run(nil)
}

// TestD9LargeEntries crashes at each operation with entries about as large as a
// segment, and larger, and with such that just fit and just do not.
func TestD9LargeEntries(t *testing.T) {
	t.Parallel()
	const segment = 1 << 10
	overhead := int(headBytes + runRecordBytes + 4)
	sizes := []int{10, segment - 1 - overhead, segment - overhead, segment + 1 - overhead, segment - 1, segment, segment + 1, 3 * segment, 10, 10, 3 * segment, 3 * segment}
	for fits := segment - headerBytes - int(sealBytes) - overhead - 10; fits < segment-headerBytes-overhead+10; fits += 5 {
		sizes = append(sizes, fits)
	}
	if testenv.Brief() {
		sizes = sizes[:10]
	}
	var steps []step
	for i, size := range sizes {
		steps = append(steps, batchOf(uint64(i+1), size))
	}
	c := newCrasher(t, segment)
	c.scattered = 2
	c.run(steps)
}

// TestD9SegmentsAreUsed: no two segments hold the same, and each holds
// something.
func TestD9SegmentsAreUsed(t *testing.T) {
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	for i, size := range []int{10, 1 << 10, 10, 3 << 10, 3 << 10, 500, 500, 10} {
		require.NoError(t, log.Append(batchOf(uint64(i+1), size).batch))
	}
	number := uint64(0)
	for _, file := range segmentsOf(disk.Files()) {
		all := batches(disk.Files()[file])
		require.NotEmpty(t, all)
		if last := all[len(all)-1]; file != "log/"+fileName(log.active().number, segmentSuffix) {
			require.Equal(t, int64(48), last.length(), "%s has no seal", file)
			all = all[:len(all)-1]
			require.NotEmpty(t, all)
		}
		require.Equal(t, number+1, all[0].number)
		number = all[len(all)-1].number
	}
	require.NoError(t, log.Close())
}

// TestD10FullDisk runs out of space at many points. What was acknowledged can be
// read at once and after a start, on a full disk too, and with space the log
// goes on.
func TestD10FullDisk(t *testing.T) {
	steps := newGenerator(5, 1<<10).steps(40)
	stride := int64(97)
	if testenv.Brief() {
		stride = 997
	}
	capacity := int64(1)
	for ; ; capacity += stride {
		c := newCrasher(t, 1<<10)
		disk := vfs.NewMemory()
		disk.SetCapacity(capacity)
		err := c.runUntilError(disk, steps)
		if err == nil {
			break
		}
		require.ErrorIs(t, err, vfs.ErrNoSpace, c.doing)
		at := fmt.Sprintf("%s with %d bytes", c.doing, capacity)
		full := disk.CrashClone(vfs.CrashKill, 0)
		if log, contents, err := Open(full, "log", c.options); err == nil {
			got, err := observe(log, contents, 100)
			require.NoError(t, err, at)
			require.True(t, got.equal(c.acked) || got.equal(c.pending), at)
		} else {
			require.Zero(t, c.acked.last(), "%s: %v", at, err)
			require.ErrorIs(t, err, vfs.ErrNoSpace, at)
		}
		for _, mode := range []vfs.CrashMode{vfs.CrashKill, vfs.CrashLose, vfs.CrashScatter} {
			free := disk.CrashClone(mode, uint64(capacity))
			free.SetCapacity(0)
			c.survive(free, at)
		}
	}
	require.Greater(t, capacity, int64(5<<10))
}

// TestD10NoSpaceForTheSpare: that is made ahead of time, and nobody minds if it
// cannot be made until it is needed.
func TestD10NoSpaceForTheSpare(t *testing.T) {
	disk := vfs.NewMemory()
	disk.SetCapacity(1 << 10)
	log, _, err := Open(disk, "log", Options{SegmentBytes: 1 << 10})
	require.NoError(t, err)
	for i := range uint64(5) {
		require.NoError(t, log.Append(batchOf(i+1, 50).batch))
	}
	failed := <-log.spare // the background has given up
	require.Nil(t, failed.file)
	_, err = log.findSpare(2)
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	log.spare <- failed
	require.Len(t, segmentsOf(disk.Files()), 1)
	disk.SetCapacity(0)
	for i := range uint64(20) {
		require.NoError(t, log.Append(batchOf(i+6, 50).batch))
	}
	require.NoError(t, log.Close())
}

// choppy is a disk that takes and gives seven bytes at a time, as files may that
// are interrupted by signals.
type choppy struct{ vfs.FS }

type choppyFile struct{ vfs.File }

func (c choppy) Create(name string) (vfs.File, error) {
	file, err := c.FS.Create(name)
	return choppyFile{file}, err
}

func (c choppy) Open(name string) (vfs.File, error) {
	file, err := c.FS.Open(name)
	return choppyFile{file}, err
}

func (f choppyFile) ReadAt(b []byte, offset int64) (int, error) {
	return chop(f.File.ReadAt, b, offset)
}

func (f choppyFile) WriteAt(b []byte, offset int64) (int, error) {
	return chop(f.File.WriteAt, b, offset)
}

func (f choppyFile) WritevAt(pieces [][]byte, offset int64) (int, error) {
	return f.WriteAt(slices.Concat(pieces...), offset)
}

func chop(call func([]byte, int64) (int, error), b []byte, offset int64) (int, error) {
	done := 0
	for done < len(b) {
		n, err := call(b[done:min(done+7, len(b))], offset+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// TestD13ChoppyDisk crashes between the parts of each write.
func TestD13ChoppyDisk(t *testing.T) {
	t.Parallel()
	steps := newGenerator(11, 1<<10).steps(8)
	if testenv.Brief() {
		steps = steps[:3]
	}
	c := newCrasher(t, 1<<10)
	c.scattered = 2
	c.over = func(disk *vfs.Memory) vfs.FS { return choppy{disk} }
	c.run(steps)
}

// TestD17DamageAtRest is found when the entry is read, and others can still be
// read.
func TestD17DamageAtRest(t *testing.T) {
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	w := &twin{}
	for i := range uint64(20) {
		s := batchOf(i+1, 100)
		require.NoError(t, log.Append(s.batch))
		w = w.after(s)
	}
	for _, s := range log.index.segments {
		for _, span := range s.spans {
			for i := range int64(span.length) {
				at := int64(span.offset) + i
				require.NoError(t, disk.Corrupt(s.name, at, 1<<(i%8)))
				_, err := log.Read(span.first, span.first, 1<<10)
				var corrupt *CorruptError
				require.ErrorAs(t, err, &corrupt)
				require.Equal(t, []any{s.name, int64(span.offset)}, []any{corrupt.File, corrupt.Offset})
				_, err = log.Read(1, 20, 1<<20)
				require.ErrorAs(t, err, &corrupt)
				require.NoError(t, disk.Corrupt(s.name, at, 1<<(i%8)))
			}
		}
	}
	got, err := observe(log, log.Contents(), 1<<20)
	require.NoError(t, err)
	require.True(t, got.equal(w))

	first := log.index.segments[0]
	require.NoError(t, disk.Cut(first.name, 300))
	_, err = log.Read(1, 20, 1<<20)
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.Equal(t, first.name, corrupt.File)
	_, err = log.Read(20, 20, 1<<20)
	require.NoError(t, err)
}

// TestE1VoteIsDurable: Append has not returned until the vote is, and a crash
// before leaves the vote of before.
func TestE1VoteIsDurable(t *testing.T) {
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	require.NoError(t, log.Append(Batch{State: []byte("term 5, no vote")}))
	voted := false
	disk.Inject(func(op vfs.Op) error {
		require.False(t, voted)
		_, contents, err := Open(disk.CrashClone(vfs.CrashLose, 0), "log", inline(1<<10))
		require.NoError(t, err)
		require.Equal(t, "term 5, no vote", string(contents.State))
		return nil
	})
	require.NoError(t, log.Append(Batch{State: []byte("term 6, vote for A")}))
	voted = true
	_, contents, err := Open(disk.CrashClone(vfs.CrashLose, 0), "log", inline(1<<10))
	require.NoError(t, err)
	require.Equal(t, "term 6, vote for A", string(contents.State))
}

// TestE3TermAndVoteTogether crashes at each operation between three pairs of a
// term and a vote.
func TestE3TermAndVoteTogether(t *testing.T) {
	var steps []step
	for _, state := range []string{"term 5, vote for B", "term 6, no vote", "term 6, vote for C"} {
		steps = append(steps, step{batch: Batch{State: []byte(state)}})
	}
	c := newCrasher(t, 1<<10)
	c.scattered, c.deep = min(4, c.scattered), true
	c.run(steps)
}

// TestVoteBehindTruncatedEntries survives the loss of the entries that it came
// with.
func TestVoteBehindTruncatedEntries(t *testing.T) {
	c := newCrasher(t, 1<<10)
	c.run([]step{
		batchOf(1, 50), batchOf(2, 50),
		{batch: Batch{State: []byte("vote"), Runs: []Run{newRun(1, 3, "three", "four")}}},
		{batch: Batch{Runs: []Run{newRun(2, 2, "another two")}}},
		{reopen: true},
	})
	require.Equal(t, "vote", string(c.acked.state))
}

// TestVoteInACompactedSegment survives the removal of the segment that it stands
// in, and of several at once, with a crash between any two removals.
func TestVoteInACompactedSegment(t *testing.T) {
	c := newCrasher(t, 1<<10)
	steps := []step{{batch: Batch{State: []byte("vote")}}}
	for i := range uint64(30) {
		steps = append(steps, batchOf(i+1, 200))
	}
	c.run(append(steps, compactionTo(25, 1), step{reopen: true}, compactionTo(40, 3), step{reopen: true}))
	require.Equal(t, "vote", string(c.acked.state))
}

// TestReadErrorsAreNoDamage: what the disk cannot read now may be whole.
func TestReadErrorsAreNoDamage(t *testing.T) {
	s := newSpecimen(t, "several segments", 30, false, 0)
	for n := 1; ; n++ {
		disk := s.disk.CrashClone(vfs.CrashKeep, 0)
		disk.Inject(vfs.Nth(vfs.OpRead, n, vfs.ErrIO))
		log, _, err := Open(disk, "log", inline(1<<10))
		disk.Inject(nil)
		if err == nil {
			require.Greater(t, n, len(s.order))
			require.NoError(t, log.Close())
			return
		}
		var corrupt *CorruptError
		require.False(t, errors.As(err, &corrupt))
		require.ErrorIs(t, err, vfs.ErrIO)
		require.Equal(t, s.files, disk.Files())
	}
}
