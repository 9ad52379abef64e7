package wal

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// crasher does steps to a log, and looks at what a crash at each operation of
// the disk would leave.
type crasher struct {
	t       *testing.T
	options Options
	over    func(*vfs.Memory) vfs.FS // the log's view of the disk

	scattered  int  // how many of the crashes of each operation keep some sectors
	deep       bool // crash in each recovery too
	background bool // the log does some of its work in the background

	mu      sync.Mutex // guards what follows: others look at it in the background
	acked   *twin      // after the last step that returned
	pending *twin      // after the one under way
	doing   string
	cases   int
	again   int // files of removed segments that were kept
}

func newCrasher(t *testing.T, segment int64) *crasher {
	c := &crasher{t: t, options: inline(segment), scattered: 8, acked: &twin{}, pending: &twin{}}
	c.over = func(disk *vfs.Memory) vfs.FS { return disk }
	if testenv.Brief() {
		c.scattered = 2
	}
	return c
}

// run does the steps once, and a crash before each operation. It returns how
// many segments there were.
func (c *crasher) run(steps []step) int {
	disk := vfs.NewMemory()
	fs := c.over(disk)
	disk.Inject(func(op vfs.Op) error {
		if op.Number > 0 { // one that only reads leaves what the next one finds
			c.crash(disk, op)
		}
		if op.Kind == vfs.OpRename && strings.HasSuffix(op.To, spareSuffix) {
			c.again++
		}
		return nil
	})
	options := inline(c.options.SegmentBytes) // with random numbers of its own
	options.Inline, options.Prewrite = !c.background, c.options.Prewrite
	c.now("open", c.acked, c.pending)
	log, _, err := Open(fs, "log", options)
	require.NoError(c.t, err)
	for i, s := range steps {
		doing, next := fmt.Sprintf("step %d, %v", i, s), c.acked.after(s)
		c.now(doing, c.acked, next)
		log, err = take(fs, log, options, s)
		require.NoError(c.t, err, doing)
		c.now(doing+", done", next, next)
	}
	require.NoError(c.t, log.Close())
	disk.Inject(nil)
	c.crash(disk, vfs.Op{})
	return int(log.active().number)
}

// now says what is going on.
func (c *crasher) now(doing string, acked, pending *twin) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doing, c.acked, c.pending = doing, acked, pending
}

// crash looks at everything that a crash at this moment may leave.
func (c *crasher) crash(disk *vfs.Memory, op vfs.Op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := fmt.Sprintf("%s, crash at %v", c.doing, op)
	for _, mode := range []vfs.CrashMode{vfs.CrashLose, vfs.CrashKeep, vfs.CrashKill} {
		c.survive(disk.CrashClone(mode, 0), fmt.Sprintf("%s: %v", at, mode))
	}
	for seed := range uint64(c.scattered) {
		c.survive(disk.CrashClone(vfs.CrashScatter, seed), fmt.Sprintf("%s: scatter %d", at, seed))
		if seed%2 == 0 {
			c.survive(disk.CrashClone(vfs.CrashTear, seed), fmt.Sprintf("%s: tear %d", at, seed))
		}
	}
	length := disk.LastWrite()
	stride := int64(1) // small writes are torn at every byte
	if length > 100 || c.scattered < 8 {
		stride = length/12 + 1
	}
	for keep := int64(1); keep < length; keep += stride {
		c.survive(disk.TearClone(keep), fmt.Sprintf("%s: torn at byte %d of %d", at, keep, length))
	}
}

// survive opens what a crash has left: it must be what was acknowledged, or that
// and what was under way. Once it is read it must stay, whatever comes.
func (c *crasher) survive(disk *vfs.Memory, at string) {
	c.cases++
	if c.deep {
		c.crashInRecovery(disk, at)
	}
	fs := c.over(disk)
	log, contents, err := Open(fs, "log", c.options)
	require.NoError(c.t, err, at)
	got, err := observe(log, contents, 1<<20)
	require.NoError(c.t, err, at)
	require.True(c.t, got.equal(c.acked) || got.equal(c.pending), "%s: found %v, want %v or %v", at, got, c.acked, c.pending)

	c.holds(disk.CrashClone(vfs.CrashLose, 0), got, at+", cut after the recovery")
	more := got.more()
	require.NoError(c.t, log.Append(more), at)
	c.holds(disk.CrashClone(vfs.CrashLose, 0), got.after(step{batch: more}), at+", cut after one more batch")
	require.NoError(c.t, log.Close(), at)
}

// more is a batch that fits the log, and replaces its last entry if it may.
func (w *twin) more() Batch {
	last := w.last()
	if last.Index > w.commit {
		last.Index--
	}
	return Batch{State: []byte("more"), Runs: []Run{newRun(last.Term+1, last.Index+1, "one", "two")}}
}

// holds opens a log that must hold exactly that.
func (c *crasher) holds(disk *vfs.Memory, want *twin, at string) {
	log, contents, err := Open(c.over(disk), "log", c.options)
	require.NoError(c.t, err, at)
	got, err := observe(log, contents, 1<<20)
	require.NoError(c.t, err, at)
	require.True(c.t, got.equal(want), "%s: found %v, want %v", at, got, want)
	require.NoError(c.t, log.Close(), at)
}

// crashInRecovery opens the log and crashes at each operation of that, and opens
// it again.
func (c *crasher) crashInRecovery(disk *vfs.Memory, at string) {
	disk = disk.CrashClone(vfs.CrashKill, 0)
	c.deep = false
	defer func() { c.deep = true }()
	disk.Inject(func(op vfs.Op) error {
		if op.Number > 0 {
			for i, mode := range []vfs.CrashMode{vfs.CrashLose, vfs.CrashKill, vfs.CrashScatter, vfs.CrashScatter, vfs.CrashTear} {
				c.survive(disk.CrashClone(mode, uint64(i)), fmt.Sprintf("%s, crash of the recovery at %v: %v", at, op, mode))
			}
		}
		return nil
	})
	log, _, err := Open(c.over(disk), "log", c.options)
	require.NoError(c.t, err, at)
	require.NoError(c.t, log.release())
}

// workload is 200 steps with many rotations. The first few are of all kinds.
func workload() []step { return newGenerator(921, 2<<10).steps(200) }

// TestCrashAtEveryOperation is the promise of the package: whatever was
// acknowledged is there after a crash, and a batch is there as a whole or not at
// all.
func TestCrashAtEveryOperation(t *testing.T) {
	t.Parallel()
	steps := workload()
	if testenv.Brief() {
		steps = steps[:60]
	}
	kinds, w := make(map[string]int), &twin{}
	for _, s := range steps {
		kinds[w.kind(s)]++
		w = w.after(s)
	}
	require.Len(t, kinds, 8, "all kinds of steps: %v", kinds)
	c := newCrasher(t, 2<<10)
	names := c.run(steps)
	t.Logf("%d crashes in %d steps (%v, %d segments, %d removed ones whose files were kept), all recovered", c.cases, len(steps), kinds, names, c.again)
	require.Greater(t, c.again, names/4)
	require.Greater(t, names, len(steps)/15)
}

// TestS1NewStartIsWhole: a snapshot takes the place of a log that ends before it,
// or that is in conflict with it, along with a vote and entries behind it. A crash
// at any operation, those of the recovery too, leaves all of it or nothing, while
// the segments of before are removed.
func TestS1NewStartIsWhole(t *testing.T) {
	t.Parallel()
	conflicting := step{batch: Batch{State: []byte("term 1"), Runs: []Run{newRun(1, 1, "1", "2", "3", "4", "5")}, Commit: 3}}
	long := []step{conflicting}
	for i := uint64(6); i < 20; i++ {
		long = append(long, batchOf(i, 200))
	}
	for name, steps := range map[string][]step{
		"behind the end":                 {conflicting, {batch: Batch{State: []byte("term 2"), Compact: Position{8, 2}}}},
		"behind the end, with entries":   {conflicting, {batch: Batch{State: []byte("term 2"), Compact: Position{8, 2}, Runs: []Run{newRun(2, 9, "9", "10")}, Commit: 9}}},
		"conflict":                       {conflicting, {batch: Batch{State: []byte("term 2"), Compact: Position{4, 2}}}},
		"conflict of the last one":       {conflicting, {batch: Batch{Compact: Position{5, 2}}}, {batch: Batch{Runs: []Run{newRun(2, 6, "6")}}}},
		"conflict, with entries":         {conflicting, {batch: Batch{State: []byte("term 2"), Compact: Position{4, 2}, Runs: []Run{newRun(2, 5, "5"), newRun(3, 6, "6")}, Commit: 99}}},
		"conflict of many segments":      append(long[:len(long):len(long)], step{batch: Batch{State: []byte("term 2"), Compact: Position{17, 2}, Runs: []Run{newRun(2, 18, "18")}}}),
		"behind the end of several":      append(long[:len(long):len(long)], step{batch: Batch{Compact: Position{30, 2}}}, step{batch: Batch{Runs: []Run{newRun(2, 31, "31")}}}),
		"a prefix of many segments":      append(long[:len(long):len(long)], step{batch: Batch{State: []byte("term 2"), Compact: Position{17, 1}, Runs: []Run{newRun(2, 19, "19")}}}),
		"a prefix, and all that is left": {conflicting, {batch: Batch{Compact: Position{4, 1}, Runs: []Run{newRun(2, 5, "another 5")}}}},
	} {
		c := newCrasher(t, 1<<10)
		c.scattered, c.deep = 2, len(steps) < 5 && !testenv.Brief()
		c.run(steps)
		want := steps[len(steps)-1].batch
		t.Logf("%s: %d crashes, all recovered", name, c.cases)
		require.True(t, want.Compact.Index == 0 || c.acked.compacted == want.Compact, name)
	}
}

// TestCrashWithBackground is that of a log which makes and removes files in the
// background.
func TestCrashWithBackground(t *testing.T) {
	t.Parallel()
	steps := workload()
	if testenv.Brief() {
		steps = steps[:40]
	}
	c := newCrasher(t, 2<<10)
	c.scattered, c.background = 2, true
	c.run(steps)
	t.Logf("%d crashes, all recovered", c.cases)
}

// TestCrashInRecovery crashes while it recovers from a crash.
func TestCrashInRecovery(t *testing.T) {
	t.Parallel()
	steps := workload()[:25]
	if testenv.Brief() {
		steps = steps[:4]
	}
	c := newCrasher(t, 2<<10)
	c.scattered, c.deep = 1, true
	c.run(steps)
	t.Logf("%d crashes, all recovered", c.cases)
}
