package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// onEach runs a test of the contract on both file systems, in a directory.
func onEach(t *testing.T, test func(t *testing.T, disk FS, dir string)) {
	t.Run("os", func(t *testing.T) { test(t, OS(), filepath.ToSlash(t.TempDir())) })
	t.Run("memory", func(t *testing.T) {
		disk := NewMemory()
		must(t, disk.MkdirAll("data"))
		test(t, disk, "data")
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, disk FS, name string) File {
	t.Helper()
	file, err := disk.Create(name)
	must(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

func open(t *testing.T, disk FS, name string) File {
	t.Helper()
	file, err := disk.Open(name)
	must(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

func write(t *testing.T, file File, offset int64, pieces ...string) {
	t.Helper()
	var all [][]byte
	for _, piece := range pieces {
		all = append(all, []byte(piece))
	}
	n, err := file.WritevAt(all, offset)
	must(t, err)
	if want := len(strings.Join(pieces, "")); n != want {
		t.Fatalf("wrote %d bytes of %d", n, want)
	}
}

func content(t *testing.T, file File) string {
	t.Helper()
	size, err := file.Size()
	must(t, err)
	p := make([]byte, size)
	if n, err := file.ReadAt(p, 0); n != len(p) || err != nil && err != io.EOF {
		t.Fatalf("read %d bytes of %d: %v", n, len(p), err)
	}
	return string(p)
}

func wantContent(t *testing.T, file File, want string) {
	t.Helper()
	if got := content(t, file); got != want {
		t.Fatalf("content is %.100q, want %.100q", got, want)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
	var at *fs.PathError
	if !errors.As(err, &at) || at.Op == "" || at.Path == "" {
		t.Fatalf("error %v does not say what was tried on which file", err)
	}
}

func wantNames(t *testing.T, disk FS, dir string, want ...string) {
	t.Helper()
	got, err := disk.List(dir)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Fatalf("files are %q, want %q", got, want)
	}
}

func TestReadWrite(t *testing.T) {
	onEach(t, func(t *testing.T, disk FS, dir string) {
		file := create(t, disk, dir+"/a")
		write(t, file, 3, "one", "", "two")
		wantContent(t, file, "\x00\x00\x00onetwo")
		if n, err := file.WriteAt([]byte("NE"), 4); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		must(t, file.Sync())
		wantContent(t, open(t, disk, dir+"/a"), "\x00\x00\x00oNEtwo")

		p := make([]byte, 4)
		for _, test := range []struct {
			offset int64
			want   string
			err    error
		}{{3, "oNEt", nil}, {5, "Etwo", nil}, {6, "two", io.EOF}, {9, "", io.EOF}, {4000, "", io.EOF}} {
			n, err := file.ReadAt(p, test.offset)
			if string(p[:n]) != test.want || err != test.err {
				t.Errorf("at %d: %q, %v", test.offset, p[:n], err)
			}
		}
		if n, err := file.ReadAt(nil, 4000); n != 0 || err != nil {
			t.Error("reading nothing:", n, err)
		}
		if n, err := file.WritevAt(nil, 4000); n != 0 || err != nil {
			t.Error("writing nothing:", n, err)
		}
		if size, err := file.Size(); size != 9 || err != nil {
			t.Error("writing nothing changed the size:", size, err)
		}
		_, err := file.WritevAt([][]byte{{1}}, -1)
		wantError(t, err, fs.ErrInvalid)
		if _, err := file.WriteAt([]byte{1}, -1); err == nil {
			t.Error("wrote at a negative offset")
		}
		if _, err := file.ReadAt(p, -1); err == nil || err == io.EOF {
			t.Error("read at a negative offset:", err)
		}
	})
}

func TestWritevOfManyPieces(t *testing.T) {
	onEach(t, func(t *testing.T, disk FS, dir string) {
		var want []byte
		var pieces [][]byte
		for i := range 3000 {
			piece := bytes.Repeat([]byte{byte(i)}, i%5)
			pieces = append(pieces, piece)
			want = append(want, piece...)
		}
		pieces = append(pieces, bytes.Repeat([]byte("large"), 220_000))
		want = append(want, pieces[len(pieces)-1]...)
		before := slices.Clone(pieces)
		file := create(t, disk, dir+"/a")
		if n, err := file.WritevAt(pieces, 7); n != len(want) || err != nil {
			t.Fatal(n, err)
		}
		wantContent(t, file, strings.Repeat("\x00", 7)+string(want))
		for i := range pieces {
			if !bytes.Equal(pieces[i], before[i]) {
				t.Fatal("the list of pieces was changed")
			}
		}
	})
}

func TestSizes(t *testing.T) {
	onEach(t, func(t *testing.T, disk FS, dir string) {
		file := create(t, disk, dir+"/a")
		steps := []struct {
			name string
			do   func() error
			want string
		}{
			{"allocate", func() error { return file.Allocate(600) }, strings.Repeat("\x00", 600)},
			{"allocate less", func() error { return file.Allocate(10) }, strings.Repeat("\x00", 600)},
			{"allocate nothing", func() error { return file.Allocate(0) }, strings.Repeat("\x00", 600)},
			{"write", func() error { _, err := file.WriteAt([]byte("abc"), 0); return err }, "abc" + strings.Repeat("\x00", 597)},
			{"allocate more", func() error { return file.Allocate(700) }, "abc" + strings.Repeat("\x00", 697)},
			{"cut", func() error { return file.Truncate(2) }, "ab"},
			{"grow", func() error { return file.Truncate(5) }, "ab\x00\x00\x00"},
			{"empty", func() error { return file.Truncate(0) }, ""},
			{"sync", file.Sync, ""},
		}
		for _, step := range steps {
			if err := step.do(); err != nil {
				t.Fatal(step.name, err)
			}
			if got := content(t, file); got != step.want {
				t.Fatalf("after %s: %d bytes, %.20q", step.name, len(got), got)
			}
		}
		if file.Truncate(-1) == nil {
			t.Error("truncated to a negative size")
		}
		wantError(t, file.Allocate(-1), fs.ErrInvalid)
	})
}

func TestNames(t *testing.T) {
	onEach(t, func(t *testing.T, disk FS, dir string) {
		wantNames(t, disk, dir)
		a := create(t, disk, dir+"/a")
		write(t, a, 0, "first")
		b := create(t, disk, dir+"/b")
		write(t, b, 0, "second")
		must(t, disk.MkdirAll(dir+"/sub/deep"))
		must(t, disk.MkdirAll(dir+"/sub/deep"))
		create(t, disk, dir+"/sub/deep/c").Close()
		wantNames(t, disk, dir, "a", "b")
		wantNames(t, disk, dir+"/sub")
		wantNames(t, disk, dir+"/sub/deep", "c")

		_, err := disk.Create(dir + "/a")
		wantError(t, err, fs.ErrExist)
		_, err = disk.Open(dir + "/x")
		wantError(t, err, fs.ErrNotExist)
		_, err = disk.Create(dir + "/x/y")
		wantError(t, err, fs.ErrNotExist)
		wantError(t, disk.Remove(dir+"/x"), fs.ErrNotExist)
		_, err = disk.List(dir + "/x")
		wantError(t, err, fs.ErrNotExist)
		wantError(t, disk.SyncDir(dir+"/x"), fs.ErrNotExist)
		if err := disk.Rename(dir+"/x", dir+"/y"); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		if _, err := disk.Open(dir + "/sub"); err == nil {
			t.Error("opened a directory as a file")
		}
		if err := disk.MkdirAll(dir + "/a"); err == nil {
			t.Error("a file became a directory")
		}
		if err := disk.MkdirAll(dir + "/a/b"); err == nil {
			t.Error("a file became a directory above another")
		}

		must(t, a.Close())
		must(t, b.Close())
		must(t, disk.Rename(dir+"/a", dir+"/b"))
		must(t, disk.SyncDir(dir))
		wantNames(t, disk, dir, "b")
		wantContent(t, open(t, disk, dir+"/b"), "first")
		must(t, disk.Rename(dir+"/b", dir+"/sub/b"))
		wantNames(t, disk, dir)
		must(t, disk.Remove(dir+"/sub/b"))
		wantNames(t, disk, dir+"/sub")
	})
}

func TestOpenFileOutlivesItsName(t *testing.T) {
	onEach(t, func(t *testing.T, disk FS, dir string) {
		file := create(t, disk, dir+"/a")
		write(t, file, 0, "content")
		must(t, disk.Rename(dir+"/a", dir+"/b"))
		write(t, file, 7, ", more")
		wantContent(t, open(t, disk, dir+"/b"), "content, more")
		must(t, disk.Remove(dir+"/b"))
		must(t, file.Sync())
		wantContent(t, file, "content, more")
	})
}

func TestClosedFile(t *testing.T) {
	onEach(t, func(t *testing.T, disk FS, dir string) {
		file := create(t, disk, dir+"/a")
		must(t, file.Close())
		_, err := file.Size()
		wantError(t, err, fs.ErrClosed)
		_, err = file.ReadAt(make([]byte, 1), 0)
		wantError(t, err, fs.ErrClosed)
		_, err = file.WriteAt([]byte{1}, 0)
		wantError(t, err, fs.ErrClosed)
		_, err = file.WritevAt([][]byte{{1}}, 0)
		wantError(t, err, fs.ErrClosed)
		wantError(t, file.Sync(), fs.ErrClosed)
		wantError(t, file.Allocate(1), fs.ErrClosed)
		wantError(t, file.Truncate(0), fs.ErrClosed)
		wantError(t, file.Close(), fs.ErrClosed)
	})
}

// TestD18LockInOneProcess takes the lock of a directory twice.
func TestD18LockInOneProcess(t *testing.T) {
	onEach(t, func(t *testing.T, disk FS, dir string) {
		lock, err := disk.Lock(dir)
		must(t, err)
		_, err = disk.Lock(path.Join(dir, ".", "x", ".."))
		wantError(t, err, ErrLocked)
		wantNames(t, disk, dir)

		must(t, disk.MkdirAll(dir+"/other"))
		other, err := disk.Lock(dir + "/other")
		must(t, err)
		must(t, other.Close())

		must(t, lock.Close())
		again, err := disk.Lock(dir)
		must(t, err)
		wantError(t, lock.Close(), fs.ErrClosed)
		_, err = disk.Lock(dir)
		wantError(t, err, ErrLocked)
		must(t, again.Close())
		_, err = disk.Lock(dir + "/missing")
		wantError(t, err, fs.ErrNotExist)
	})
}

func TestConcurrentUse(t *testing.T) {
	onEach(t, func(t *testing.T, disk FS, dir string) {
		shared := create(t, disk, dir+"/shared")
		var group sync.WaitGroup
		for worker := range 4 {
			group.Go(func() {
				for round := range 5 {
					name := fmt.Sprintf("%s/%d-%d", dir, worker, round)
					file, err := disk.Create(name)
					if err != nil {
						t.Error(err)
						return
					}
					_, err1 := file.WriteAt([]byte(name), 0)
					_, err2 := shared.WriteAt([]byte{byte(worker)}, int64(worker*5+round))
					err = errors.Join(err1, err2, file.Sync(), shared.Sync(), file.Close(),
						disk.Rename(name, name+".new"), disk.SyncDir(dir))
					if err != nil {
						t.Error(err)
					}
					if memory, ok := disk.(*Memory); ok {
						memory.CrashClone(CrashScatter, uint64(round))
					}
				}
			})
		}
		group.Wait()
		names, err := disk.List(dir)
		must(t, err)
		if len(names) != 21 {
			t.Errorf("%d files: %q", len(names), names)
		}
	})
}
