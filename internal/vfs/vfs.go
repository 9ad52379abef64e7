// Package vfs is the few file operations that a log and snapshots need, the real
// ones and a twin in memory that can crash.
package vfs

import (
	"errors"
	"io"
)

// FS is the only door to the disk. Names are slash-separated paths.
type FS interface {
	// MkdirAll creates a directory and its parents, and makes their names
	// durable. For one that is there it only makes sure of its name.
	MkdirAll(dir string) error

	// Create makes a file that must not be there yet, and opens it for reading
	// and writing. Its name is durable once SyncDir has returned.
	Create(name string) (File, error)

	// Open opens a file for reading and writing.
	Open(name string) (File, error)

	// Rename gives a file another name, in place of any file of that name. It
	// is durable once SyncDir has returned.
	Rename(from, to string) error

	// Remove removes a file. It is durable once SyncDir has returned.
	Remove(name string) error

	// List returns the names of the files in a directory, sorted, without its
	// subdirectories and without what Lock may leave in it.
	List(dir string) ([]string, error)

	// SyncDir makes durable which files are in a directory.
	SyncDir(dir string) error

	// Lock takes the lock on a directory, which is held until it is closed or
	// the process ends. It returns ErrLocked at once if another holds it.
	Lock(dir string) (io.Closer, error)
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer

	// WritevAt writes the pieces one after another at an offset: it takes none
	// or all of them, and reports how many bytes before an error.
	WritevAt(pieces [][]byte, offset int64) (int, error)

	// Sync makes the content durable, and the size as far as reading the
	// content needs it. After an error nothing is known about what was written
	// since the last Sync that succeeded; it must not be tried again.
	Sync() error

	// Allocate reserves space up to a size, as far as the system can; reading
	// reserved space yields zeros. The file's size becomes at least that.
	Allocate(size int64) error

	// Truncate cuts the file, or grows it with zeros.
	Truncate(size int64) error

	Size() (int64, error)
}

// ErrLocked is returned by Lock when another process, or another part of this
// one, holds the lock.
var ErrLocked = errors.New("directory is locked")
