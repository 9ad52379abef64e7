package vfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestD13ShortWrites lets every call write at most 7 bytes, and signals
// interrupt at random.
func TestD13ShortWrites(t *testing.T) {
	disk := OS()
	file := create(t, disk, filepath.ToSlash(t.TempDir())+"/a").(*osFile)
	random := rand.New(rand.NewPCG(13, 0))
	system, calls := file.write, 0
	file.write = func(pieces [][]byte, skip int, offset int64) (int, error) {
		calls++
		if random.IntN(3) == 0 {
			return -1, syscall.EINTR
		}
		few, room := [][]byte{}, 1+random.IntN(7)
		for _, piece := range pieces {
			piece, skip = piece[skip:], 0
			piece = piece[:min(len(piece), room)]
			room -= len(piece)
			few = append(few, piece)
		}
		return system(few, 0, offset)
	}
	var want []byte
	for range 50 {
		var pieces [][]byte
		start := len(want)
		for range random.IntN(6) {
			piece := make([]byte, random.IntN(20))
			for i := range piece {
				piece[i] = byte(random.Uint32())
			}
			pieces = append(pieces, piece)
			want = append(want, piece...)
		}
		if n, err := file.WritevAt(pieces, int64(start)); err != nil || n != len(want)-start {
			t.Fatal(n, err)
		}
	}
	wantContent(t, file, string(want))
	if calls < len(want)/7 {
		t.Errorf("only %d calls", calls)
	}
}

func TestD13WriteEnds(t *testing.T) {
	pieces := [][]byte{[]byte("abc"), nil, []byte("defg"), nil}
	full := errors.New("full")
	for _, test := range []struct {
		name    string
		results []any // a count, or an error
		want    int
		err     error
	}{
		{"at once", []any{7}, 7, nil},
		{"on the border of a piece", []any{3, 4}, 7, nil},
		{"within pieces", []any{1, 3, 3}, 7, nil},
		{"interrupted", []any{syscall.EINTR, 5, syscall.EINTR, 2}, 7, nil},
		{"no progress", []any{2, 0}, 2, io.ErrShortWrite},
		{"an error at once", []any{full}, 0, full},
		{"an error on the way", []any{4, full}, 4, full},
	} {
		var got bytes.Buffer
		n, err := writeAll(func(pieces [][]byte, skip int, offset int64) (int, error) {
			if offset != int64(100+got.Len()) {
				t.Errorf("%s: offset %d after %d bytes", test.name, offset, got.Len())
			}
			result := test.results[0]
			test.results = test.results[1:]
			if err, ok := result.(error); ok {
				return -1, err
			}
			got.Write(slices.Concat(pieces...)[skip:][:result.(int)])
			return result.(int), nil
		}, pieces, 100)
		if n != test.want || !errors.Is(err, test.err) || got.String() != "abcdefg"[:n] || len(test.results) != 0 {
			t.Errorf("%s: %d, %v, wrote %q", test.name, n, err, got.String())
		}
	}
}

func TestInterruptedCallIsRepeated(t *testing.T) {
	calls := 0
	err := uninterrupted(func() error {
		if calls++; calls < 3 {
			return syscall.EINTR
		}
		return fs.ErrClosed
	})
	if calls != 3 || err != fs.ErrClosed {
		t.Error(calls, err)
	}
}

// TestGrowWithoutSpace covers the systems and file systems that cannot reserve.
func TestGrowWithoutSpace(t *testing.T) {
	file := create(t, OS(), filepath.ToSlash(t.TempDir())+"/a").(*osFile)
	write(t, file, 0, "abc")
	must(t, file.grow(2))
	wantContent(t, file, "abc")
	must(t, file.grow(5))
	wantContent(t, file, "abc\x00\x00")
}

const lockVariable = "VFS_TEST_LOCK"

// TestMain is the other process of the lock tests if it is told a directory: it
// takes the lock, says how that went, and waits to be killed. It is the one that
// is traced if it is told the directory for that.
func TestMain(m *testing.M) {
	if dir := os.Getenv(traceVariable); dir != "" {
		takeSteps(dir)
		return
	}
	dir := os.Getenv(lockVariable)
	if dir == "" {
		os.Exit(m.Run())
	}
	lock, err := OS().Lock(dir)
	fmt.Println(errors.Is(err, ErrLocked), err)
	io.Copy(io.Discard, os.Stdin)
	if lock != nil {
		lock.Close()
	}
}

// locker starts another process that takes the lock.
func locker(t *testing.T, dir string) (refused bool, process *exec.Cmd) {
	process = exec.Command(os.Args[0])
	process.Env = append(os.Environ(), lockVariable+"="+dir)
	_, err := process.StdinPipe()
	must(t, err)
	output, err := process.StdoutPipe()
	must(t, err)
	must(t, process.Start())
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
	line, err := bufio.NewReader(output).ReadString('\n')
	must(t, err)
	switch strings.TrimSpace(line) {
	case "false <nil>":
		return false, process
	default:
		if !strings.HasPrefix(line, "true ") {
			t.Fatalf("the other process failed: %s", line)
		}
		return true, process
	}
}

// TestD18LockOfAnotherProcess starts a second process on one directory, and
// kills the one that holds the lock.
func TestD18LockOfAnotherProcess(t *testing.T) {
	disk, dir := OS(), filepath.ToSlash(t.TempDir())
	lock, err := disk.Lock(dir)
	must(t, err)
	if refused, _ := locker(t, dir); !refused {
		t.Fatal("another process got the lock too")
	}
	must(t, lock.Close())

	refused, holder := locker(t, dir)
	if refused {
		t.Fatal("another process did not get a free lock")
	}
	_, err = disk.Lock(dir)
	wantError(t, err, ErrLocked)
	must(t, holder.Process.Kill())
	holder.Wait()
	lock, err = disk.Lock(dir)
	must(t, err)
	must(t, lock.Close())
}
