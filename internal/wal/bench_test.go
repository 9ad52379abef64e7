package wal

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// compare is how long TestCompareWithBareLoop measures each size of a batch.
var compare = flag.Duration("compare", 0, "measure appends against a bare loop, so long for each size of a batch")

// entryBytes is the size of an entry in the measurements.
const entryBytes = 128

var batchSizes = []int{1, 64, 1024}

// bareLoop writes as many bytes as a log does to files that are prepared in the
// same way, and does nothing else.
type bareLoop struct {
	fs       vfs.FS
	dir      string
	size     int64
	file     vfs.File
	next     chan vfs.File
	number   int
	position int64
}

func newBareLoop(tb testing.TB, dir string, size int64) *bareLoop {
	b := &bareLoop{fs: vfs.OS(), dir: dir, size: size, next: make(chan vfs.File, 1)}
	b.prepare(tb)
	b.file = <-b.next
	go b.prepare(tb)
	return b
}

func (b *bareLoop) prepare(tb testing.TB) {
	b.number++
	file, err := b.fs.Create(fmt.Sprintf("%s/%d", b.dir, b.number))
	if err == nil {
		err = file.Allocate(b.size)
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = b.fs.SyncDir(b.dir)
	}
	if err != nil {
		tb.Error(err)
	}
	b.next <- file
}

func (b *bareLoop) write(tb testing.TB, bytes []byte) error {
	if b.position+int64(len(bytes)) > b.size {
		if err := b.file.Close(); err != nil {
			return err
		}
		b.file, b.position = <-b.next, 0
		go b.prepare(tb)
	}
	if _, err := b.file.WriteAt(bytes, b.position); err != nil {
		return err
	}
	b.position += int64(len(bytes))
	return b.file.Sync()
}

func (b *bareLoop) close(tb testing.TB) {
	require.NoError(tb, b.file.Close())
	require.NoError(tb, (<-b.next).Close())
}

// batchBytes is how many bytes a log writes for a batch of one run.
func batchBytes(count int) int {
	return int(align(int64(headBytes + runRecordBytes + count*entryBytes)))
}

// appender appends batches of one size.
type appender struct {
	log  *Log
	runs []Run
}

func newAppender(log *Log, count int) *appender {
	return &appender{log, []Run{{Term: 1, First: log.Contents().Last.Index + 1, Count: count, Body: noise(count * entryBytes)}}}
}

// noise is bytes that no disk makes smaller.
func noise(n int) []byte {
	b := make([]byte, n)
	random := rand.New(rand.NewPCG(1, 1))
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

func (a *appender) append() error {
	err := a.log.Append(Batch{Runs: a.runs})
	a.runs[0].First += uint64(a.runs[0].Count)
	return err
}

func openReal(tb testing.TB, dir string) *Log {
	log, _, err := Open(vfs.OS(), filepath.ToSlash(dir), Options{})
	require.NoError(tb, err)
	return log
}

func BenchmarkAppend(b *testing.B) {
	for _, count := range batchSizes {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			log := openReal(b, b.TempDir())
			a := newAppender(log, count)
			b.SetBytes(int64(count * entryBytes))
			b.ReportAllocs()
			for b.Loop() {
				if err := a.append(); err != nil {
					b.Fatal(err)
				}
			}
			require.NoError(b, log.Close())
		})
	}
}

func BenchmarkBareLoop(b *testing.B) {
	for _, count := range batchSizes {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			bare := newBareLoop(b, filepath.ToSlash(b.TempDir()), 64<<20)
			bytes := noise(batchBytes(count))
			b.SetBytes(int64(count * entryBytes))
			b.ReportAllocs()
			for b.Loop() {
				if err := bare.write(b, bytes); err != nil {
					b.Fatal(err)
				}
			}
			bare.close(b)
		})
	}
}

// BenchmarkRecovery opens a log of a million entries, and reports the most
// memory that the process had meanwhile.
func BenchmarkRecovery(b *testing.B) {
	for _, count := range []int{1, 256} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			dir := b.TempDir()
			fill(b, dir, count)
			var most uint64
			for b.Loop() {
				runtime.GC()
				done := watchHeap(&most)
				log := openReal(b, dir)
				done()
				require.NoError(b, log.Close())
			}
			b.ReportMetric(float64(most)/(1<<20), "peak-MiB")
		})
	}
}

// unsynced is a disk whose syncs do nothing, which is enough for a log that is
// read at once.
type unsynced struct{ vfs.FS }

type unsyncedFile struct{ vfs.File }

func (u unsynced) Create(name string) (vfs.File, error) {
	file, err := u.FS.Create(name)
	return unsyncedFile{file}, err
}

func (unsyncedFile) Sync() error { return nil }

// fill makes a log of a million entries.
func fill(b *testing.B, dir string, count int) {
	log, _, err := Open(unsynced{vfs.OS()}, filepath.ToSlash(dir), Options{})
	require.NoError(b, err)
	a := newAppender(log, count)
	for a.runs[0].First <= 1_000_000 {
		require.NoError(b, a.append())
	}
	require.NoError(b, log.Close())
}

// watchHeap looks every millisecond how much memory is in use, until it is told
// to end.
func watchHeap(most *uint64) (done func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		var stats runtime.MemStats
		for {
			runtime.ReadMemStats(&stats)
			*most = max(*most, stats.HeapInuse+stats.StackInuse)
			select {
			case <-ticker.C:
			case <-stop:
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-ended
	}
}

// TestCompareWithBareLoop appends and writes in turns, so that whatever else the
// disk does meets both. It runs only with -compare.
func TestCompareWithBareLoop(t *testing.T) {
	if *compare == 0 {
		t.Skip("it measures, with -compare 60s")
	}
	for _, count := range batchSizes {
		log := openReal(t, t.TempDir())
		a := newAppender(log, count)
		bare := newBareLoop(t, filepath.ToSlash(t.TempDir()), 64<<20)
		bytes := noise(batchBytes(count))
		var ours, theirs []time.Duration
		for start := time.Now(); time.Since(start) < *compare; {
			before := time.Now()
			require.NoError(t, a.append())
			middle := time.Now()
			require.NoError(t, bare.write(t, bytes))
			ours, theirs = append(ours, middle.Sub(before)), append(theirs, time.Since(middle))
		}
		require.NoError(t, log.Close())
		bare.close(t)
		report(t, count, ours, theirs)
	}
}

func report(t *testing.T, count int, ours, theirs []time.Duration) {
	total := func(all []time.Duration) (sum time.Duration) {
		for _, d := range all {
			sum += d
		}
		return sum
	}
	rate := float64(total(theirs)) / float64(total(ours))
	slices.Sort(ours)
	slices.Sort(theirs)
	at := func(all []time.Duration, share float64) time.Duration { return all[int(share*float64(len(all)-1))] }
	t.Logf("batches of %d: %d appends, p50 %v p99 %v; bare loop p50 %v p99 %v; rate %.2f, p50 %.2f, p99 %.2f of the bare loop",
		count, len(ours), at(ours, 0.5), at(ours, 0.99), at(theirs, 0.5), at(theirs, 0.99), rate,
		float64(at(ours, 0.5))/float64(at(theirs, 0.5)), float64(at(ours, 0.99))/float64(at(theirs, 0.99)))
}

// counted counts what is done to a disk.
type counted struct {
	vfs.FS
	writes, syncs, others *int
}

type countedFile struct {
	vfs.File
	counted
}

func newCounted(fs vfs.FS) counted { return counted{fs, new(int), new(int), new(int)} }

func (c counted) Create(name string) (vfs.File, error) {
	*c.others++
	file, err := c.FS.Create(name)
	return countedFile{file, c}, err
}

func (c counted) Rename(from, to string) error { *c.others++; return c.FS.Rename(from, to) }
func (c counted) Remove(name string) error     { *c.others++; return c.FS.Remove(name) }
func (c counted) SyncDir(dir string) error     { *c.others++; return c.FS.SyncDir(dir) }

func (f countedFile) WriteAt(b []byte, offset int64) (int, error) {
	*f.writes++
	return f.File.WriteAt(b, offset)
}

func (f countedFile) WritevAt(pieces [][]byte, offset int64) (int, error) {
	*f.writes++
	return f.File.WritevAt(pieces, offset)
}

func (f countedFile) Sync() error            { *f.syncs++; return f.File.Sync() }
func (f countedFile) Allocate(n int64) error { *f.others++; return f.File.Allocate(n) }
func (f countedFile) Truncate(n int64) error { *f.others++; return f.File.Truncate(n) }
func (f countedFile) Size() (int64, error)   { *f.others++; return f.File.Size() }
func (f countedFile) ReadAt(b []byte, at int64) (int, error) {
	*f.others++
	return f.File.ReadAt(b, at)
}

// TestOneWriteAndOneSync is all that an append takes, however much is in it.
func TestOneWriteAndOneSync(t *testing.T) {
	fs := newCounted(vfs.NewMemory())
	log, _, err := Open(fs, "log", inline(1<<20))
	require.NoError(t, err)
	*fs.writes, *fs.syncs, *fs.others = 0, 0, 0
	for i := range uint64(100) {
		first := 1 + 3*i
		require.NoError(t, log.Append(Batch{State: []byte("state"), Commit: first - 1, Runs: []Run{newRun(i+1, first, "one", "two"), newRun(i+2, first+2, "three")}}))
		require.Equal(t, []int{int(i) + 1, int(i) + 1, 0}, []int{*fs.writes, *fs.syncs, *fs.others})
	}
	require.NoError(t, log.Close())
}

// nowhere is a disk that forgets everything, and takes no memory for it.
type nowhere struct{ vfs.FS }

type nowhereFile struct{ vfs.File }

func (n nowhere) Create(name string) (vfs.File, error) {
	file, err := n.FS.Create(name)
	return nowhereFile{file}, err
}

func (nowhereFile) WritevAt(pieces [][]byte, _ int64) (int, error) {
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	return n, nil
}

func (nowhereFile) Sync() error { return nil }

// TestAppendAllocatesNothing but what the index grows by, now and then.
func TestAppendAllocatesNothing(t *testing.T) {
	if testenv.Race {
		t.Skip("the race detector allocates")
	}
	options := inline(1 << 30)
	options.Prewrite = true
	log, _, err := Open(nowhere{vfs.NewMemory()}, "log", options)
	require.NoError(t, err)
	a := newAppender(log, 4)
	require.Less(t, testing.AllocsPerRun(10000, func() {
		if err := a.append(); err != nil {
			t.Fatal(err)
		}
	}), 0.01)
}
