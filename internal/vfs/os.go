package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// lockName is the file inside a directory that Lock holds. It is never removed:
// a process that removed it could leave two others holding locks on two files
// of the same name.
const lockName = "LOCK"

// OS returns the file system of this machine. Its errors are *os.PathError or,
// for Rename, *os.LinkError.
//
// What the systems can do differs. Linux syncs content with fdatasync, reserves
// space with fallocate and writes pieces with pwritev. macOS syncs with
// F_FULLFSYNC, because its fsync leaves the bytes in the cache of the disk.
// Windows has no call to sync a directory: it journals names by itself, and
// Rename asks it to finish before it returns. Where a system has no lock that
// ends with its process, Lock refuses with errors.ErrUnsupported.
func OS() FS { return osFS{} }

type osFS struct{}

// MkdirAll goes from the top down and syncs each level before it makes the
// next. If a process ends on the way, only the last directory that it made can
// lack a durable name, and that is the one which the next call finds first.
func (osFS) MkdirAll(dir string) error {
	dir = filepath.Clean(filepath.FromSlash(dir))
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return &os.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	case err == nil:
		return syncNameOfOld(dir)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if parent == dir {
		return err
	}
	if err := (osFS{}).MkdirAll(parent); err != nil {
		return err
	}
	if err := syncDir(parent); err != nil {
		return err // before there is a directory whose name cannot be made durable
	}
	if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// syncNameOfOld makes durable the name of a directory that was there before. A
// parent that this process may not read, or that cannot be synced at all, was
// not the place of an unfinished MkdirAll.
func syncNameOfOld(dir string) error {
	err := syncDir(filepath.Dir(dir))
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EINVAL) || isReadOnly(err) {
		return nil
	}
	return err
}

func (osFS) Create(name string) (File, error) {
	return openOS(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (osFS) Open(name string) (File, error) {
	return openOS(name, os.O_RDWR)
}

func openOS(name string, flag int) (File, error) {
	file, err := openFile(filepath.FromSlash(name), flag)
	if err != nil {
		return nil, err
	}
	return newOSFile(file), nil
}

func (osFS) Rename(from, to string) error {
	return rename(filepath.FromSlash(from), filepath.FromSlash(to))
}

func (osFS) Remove(name string) error {
	return os.Remove(filepath.FromSlash(name))
}

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.FromSlash(dir))
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		if !entry.IsDir() && entry.Name() != lockName {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

func (osFS) SyncDir(dir string) error {
	return syncDir(filepath.FromSlash(dir))
}

func (osFS) Lock(dir string) (io.Closer, error) {
	return lock(filepath.Join(filepath.FromSlash(dir), lockName))
}

// osFile keeps the reads and writes of os.File, which go on until everything is
// read or written, and are not stopped by signals.
type osFile struct {
	*os.File

	// write is one call to the system. Tests put others in its place.
	write vectorWrite
}

func newOSFile(file *os.File) *osFile {
	f := &osFile{File: file}
	f.write = f.writeVector
	return f
}

func (f *osFile) WritevAt(pieces [][]byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, f.wrap("pwritev", fs.ErrInvalid)
	}
	n, err := writeAll(f.write, pieces, offset)
	return n, f.wrap("pwritev", err)
}

func (f *osFile) Sync() error {
	return f.wrap("sync", f.syncContent())
}

func (f *osFile) Allocate(size int64) error {
	if size < 0 {
		return f.wrap("allocate", fs.ErrInvalid)
	}
	if size == 0 {
		return nil
	}
	return f.wrap("allocate", f.allocate(size))
}

// grow makes the file at least so long, without space behind it.
func (f *osFile) grow(size int64) error {
	old, err := f.Size()
	if err != nil || size <= old {
		return err
	}
	return f.Truncate(size)
}

func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// wrap says what was tried on which file, unless the error does already.
func (f *osFile) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var said *os.PathError
	if errors.As(err, &said) {
		return err
	}
	return &os.PathError{Op: op, Path: f.Name(), Err: err}
}

// vectorWrite writes the pieces, the first without its first skip bytes, at an
// offset. It may write less than all, and says how much; then it need not
// return an error.
type vectorWrite func(pieces [][]byte, skip int, offset int64) (int, error)

// writeAll calls write until all is written. It neither changes nor copies the
// list of pieces.
func writeAll(write vectorWrite, pieces [][]byte, offset int64) (int, error) {
	total, skip := 0, 0
	for {
		for len(pieces) > 0 && skip >= len(pieces[0]) {
			skip -= len(pieces[0])
			pieces = pieces[1:]
		}
		if len(pieces) == 0 {
			return total, nil
		}
		n, err := write(pieces, skip, offset+int64(total))
		if n > 0 {
			total += n
			skip += n
		}
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return total, err
		}
		if n <= 0 {
			return total, io.ErrShortWrite
		}
	}
}

// uninterrupted repeats a call that a signal stopped.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}
