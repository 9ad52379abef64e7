package wal

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// TestReadLocksOnce: who closes a file that is being read waits for the reader,
// and the reader must not wait for it again at the next stretch of that file.
func TestReadLocksOnce(t *testing.T) {
	log, _, err := Open(vfs.NewMemory(), "log", inline(1<<20))
	require.NoError(t, err)
	for i := range uint64(3) {
		require.NoError(t, log.Append(Batch{State: make([]byte, 2*maxGap), Runs: []Run{newRun(1, i+1, "entry")}}))
	}
	pieces, err := log.locate(1, 3, 1<<20)
	require.NoError(t, err)
	require.Len(t, pieces, 3)
	s := log.active()
	s.use.RUnlock()
	require.True(t, s.use.TryLock(), "it is locked more than once")
}

// TestReadIsBounded: what stands between two runs and is read along counts too.
func TestReadIsBounded(t *testing.T) {
	log, _, err := Open(vfs.NewMemory(), "log", inline(8<<20))
	require.NoError(t, err)
	for i := range uint64(1000) {
		require.NoError(t, log.Append(Batch{State: make([]byte, maxGap*3/4), Runs: []Run{newRun(1, i+1, "entry")}}))
	}
	var runs []Run
	require.Less(t, allocatedBy(func() { runs, err = log.Read(1, 1000, 20<<10) }), uint64(80<<10))
	require.NoError(t, err)
	require.Len(t, runs, 7)
}

// told is an entry that says what it is.
func told(index, term uint64) string { return fmt.Sprintf("entry %d of term %d", index, term) }

// TestReadBesideAppend reads from several goroutines what others append, replace,
// compact and start anew, and goes on while the log is closed.
func TestReadBesideAppend(t *testing.T) {
	log, _, err := Open(vfs.NewMemory(), "log", Options{SegmentBytes: 2 << 10})
	require.NoError(t, err)
	var readers sync.WaitGroup
	var closing, done atomic.Bool
	var read atomic.Int64
	for seed := range uint64(3) {
		random := rand.New(rand.NewPCG(seed, 0))
		readers.Go(func() {
			for !done.Load() {
				err := readSome(log, random)
				if err != nil && !closing.Load() {
					t.Error(err)
					return
				}
				read.Add(1)
			}
		})
	}
	random := rand.New(rand.NewPCG(9, 9))
	term := uint64(1)
	for i := 0; i < 1500 || read.Load() < 300; i++ {
		c := log.Contents()
		first := c.Last.Index + 1
		if i%7 == 0 && c.Last.Index > c.Compacted.Index+3 {
			first -= 1 + random.Uint64N(3)
			term++
		}
		require.NoError(t, log.Append(Batch{Runs: []Run{newRun(term, first, told(first, term), told(first+1, term))}}))
		if i%170 == 0 {
			term++
			first += random.Uint64N(20) // in the log, or behind it
			require.NoError(t, log.Append(Batch{Compact: Position{first, term}, Runs: []Run{newRun(term, first+1, told(first+1, term))}}))
		}
		if i%50 == 0 {
			require.NoError(t, log.Append(Batch{Compact: Position{first, term}}))
		}
	}
	closing.Store(true)
	require.NoError(t, log.Close())
	done.Store(true)
	readers.Wait()
}

// readSome reads a part of the log, which changes meanwhile.
func readSome(log *Log, random *rand.Rand) error {
	c := log.Contents()
	if c.Last == c.Compacted {
		return nil
	}
	first := c.Compacted.Index + 1 + random.Uint64N(c.Last.Index-c.Compacted.Index)
	runs, err := log.Read(first, c.Last.Index, random.IntN(5000))
	if errors.Is(err, ErrCompacted) || err != nil && strings.Contains(err.Error(), "the log ends at") {
		return nil
	}
	for _, r := range runs {
		for i, body := range split(r.Body) {
			if want := told(r.First+uint64(i), r.Term); body != want {
				return fmt.Errorf("read %q, want %q", body, want)
			}
		}
	}
	return err
}

// TestSpareIsMadeAhead: the file that a batch goes on in is there before.
func TestSpareIsMadeAhead(t *testing.T) {
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", Options{SegmentBytes: 1 << 10})
	require.NoError(t, err)
	for number := uint64(2); number < 6; number++ {
		made := <-log.spare
		require.NotNil(t, made.file)
		log.spare <- made
		name := log.path(fileName(number, spareSuffix))
		require.Contains(t, disk.Files(), name)
		disk.Inject(func(op vfs.Op) error {
			if op.Kind == vfs.OpCreate && op.Name == name {
				return vfs.ErrIO
			}
			return nil
		})
		for log.active().number < number {
			require.NoError(t, log.Append(batchOf(log.index.last.Index+1, 300).batch))
		}
	}
	require.NoError(t, log.Close())
	for _, name := range segmentsOf(disk.Files()) {
		require.True(t, strings.HasSuffix(name, segmentSuffix), "%s is left", name)
	}
}

// TestCloseWaitsForTheBackground: for the spare, which takes its time, and for
// the removals.
func TestCloseWaitsForTheBackground(t *testing.T) {
	disk := vfs.NewMemory()
	var gate vfs.Gate
	disk.Inject(func(op vfs.Op) error {
		if op.Kind == vfs.OpRemove || op.Kind == vfs.OpAllocate && strings.HasSuffix(op.Name, fileName(7, spareSuffix)) {
			gate.Pass()
		}
		return nil
	})
	log, _, err := Open(disk, "log", Options{SegmentBytes: 1 << 10})
	require.NoError(t, err)
	gate.Hold()
	for log.active().number < 6 {
		require.NoError(t, log.Append(batchOf(log.index.last.Index+1, 300).batch))
	}
	for gate.Waiting() < 1 { // else a file that is not needed any more becomes the spare
		runtime.Gosched()
	}
	require.NoError(t, log.Append(Batch{Compact: log.Contents().Last}))
	closed := make(chan error)
	go func() { closed <- log.Close() }()
	for gate.Waiting() < 2 {
		runtime.Gosched()
	}
	_, _, err = Open(disk, "log", Options{})
	require.ErrorIs(t, err, vfs.ErrLocked)
	gate.Release()
	require.NoError(t, <-closed)
	require.Len(t, segmentsOf(disk.Files()), 1)
}

// TestFailedRemoval stops the log, since the disk is not what it should be.
func TestFailedRemoval(t *testing.T) {
	checkFailedRemoval(t, vfs.OpRemove, 1)
	checkFailedRemoval(t, vfs.OpRename, 2) // to a spare
}

func checkFailedRemoval(t *testing.T, kind vfs.OpKind, nth int) {
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", Options{SegmentBytes: 1 << 10})
	require.NoError(t, err)
	for log.active().number < maxUsed+3 { // one is removed even if one of those that are kept is used at once
		require.NoError(t, log.Append(batchOf(log.index.last.Index+1, 300).batch))
	}
	disk.Inject(vfs.Nth(kind, nth, vfs.ErrIO))
	require.NoError(t, log.Append(Batch{Compact: log.Contents().Last}))
	// Nothing is appended meanwhile: that could use all the files again, and remove none.
	for began := time.Now(); log.usable() == nil; runtime.Gosched() {
		require.Less(t, time.Since(began), time.Minute, "no file was removed")
	}
	require.ErrorIs(t, log.Append(Batch{State: []byte("vote")}), vfs.ErrIO)
	require.ErrorIs(t, log.Close(), vfs.ErrIO)
	disk.Inject(nil)
	log, contents, err := Open(disk, "log", Options{SegmentBytes: 1 << 10})
	require.NoError(t, err)
	require.Equal(t, contents.Compacted, contents.Last)
	require.NoError(t, log.Close())
}

// TestOpenAndCloseLeakNothing opens and closes a log on a real disk many times.
func TestOpenAndCloseLeakNothing(t *testing.T) {
	dir := filepath.ToSlash(t.TempDir())
	cycles := 200
	if testing.Short() {
		cycles = 20
	}
	var goroutines, files int
	for i := range cycles {
		log, contents, err := Open(vfs.OS(), dir, Options{SegmentBytes: 4 << 10})
		require.NoError(t, err)
		require.Equal(t, uint64(i), contents.Last.Index)
		require.NoError(t, log.Append(batchOf(uint64(i+1), 200).batch))
		if i%20 == 19 {
			require.NoError(t, log.Append(Batch{Compact: Position{uint64(i), 1}}))
		}
		require.NoError(t, log.Close())
		if i == 5 {
			goroutines, files = runtime.NumGoroutine(), openFiles()
		}
	}
	for runtime.NumGoroutine() > goroutines {
		runtime.Gosched() // the last ones are about to end
	}
	require.LessOrEqual(t, openFiles(), files)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		require.True(t, entry.Name() == "LOCK" || entry.Name() == markName || strings.HasSuffix(entry.Name(), segmentSuffix), "%s is left", entry.Name())
	}
	require.Less(t, len(entries), 6) // with the lock and the mark
}

// openFiles is 0 where the system does not tell.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// TestCloseTwice does no harm, and nothing can be done in between.
func TestCloseTwice(t *testing.T) {
	log, _, err := Open(vfs.OS(), filepath.ToSlash(t.TempDir()), Options{SegmentBytes: 4 << 10})
	require.NoError(t, err)
	require.NoError(t, log.Append(batchOf(1, 10).batch))
	require.NoError(t, log.Close())
	require.ErrorIs(t, log.Append(batchOf(2, 10).batch), errClosed)
	_, err = log.Read(1, 1, 10)
	require.ErrorIs(t, err, os.ErrClosed)
	require.ErrorIs(t, log.Close(), errClosed)
}

const directoryVariable = "WAL_TEST_DIRECTORY"

// TestMain is another process if it is told a directory: it appends to the log
// there and says so, until it is killed.
func TestMain(m *testing.M) {
	dir := os.Getenv(directoryVariable)
	if dir == "" {
		testenv.Begin()
		os.Exit(m.Run())
	}
	log, contents, err := Open(vfs.OS(), dir, Options{SegmentBytes: 4 << 10})
	for i := contents.Last.Index + 1; err == nil; i++ {
		if err = log.Append(batchOf(i, 100).batch); err == nil {
			fmt.Println(i)
		}
	}
	fmt.Println(err)
}

// TestD18KilledProcess: while a process has a log open, nobody else can open it.
// Once it was killed, anybody can, and finds all that it has said.
func TestD18KilledProcess(t *testing.T) {
	dir := filepath.ToSlash(t.TempDir())
	acked := 0
	for range 3 {
		process := exec.Command(os.Args[0])
		process.Env = append(os.Environ(), directoryVariable+"="+dir)
		output, err := process.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, process.Start())
		lines := bufio.NewScanner(output)
		for range 40 {
			require.True(t, lines.Scan())
		}
		_, _, err = Open(vfs.OS(), dir, Options{})
		require.ErrorIs(t, err, vfs.ErrLocked)
		require.NoError(t, process.Process.Kill())
		for ok := true; ok; ok = lines.Scan() {
			_, err := fmt.Sscan(lines.Text(), &acked)
			require.NoError(t, err)
		}
		_ = process.Wait() // it was killed
		log, contents, err := Open(vfs.OS(), dir, Options{})
		require.NoError(t, err)
		require.GreaterOrEqual(t, contents.Last.Index, uint64(acked))
		require.LessOrEqual(t, contents.Last.Index, uint64(acked)+1)
		_, err = observe(log, contents, 1<<20)
		require.NoError(t, err)
		require.NoError(t, log.Close())
	}
}
