package vfs

import (
	"errors"
	"io/fs"
	"sync"
	"syscall"
	"unsafe"
)

const (
	// maxVector is how many pieces Linux takes in one call.
	maxVector = 1024

	// maxWrite bounds the bytes of one call, far below what any Linux refuses.
	maxWrite = 1 << 30
)

// vectors recycles the lists that pwritev reads.
var vectors = sync.Pool{New: func() any { return new([maxVector]syscall.Iovec) }}

func (f *osFile) writeVector(pieces [][]byte, skip int, offset int64) (int, error) {
	vector := vectors.Get().(*[maxVector]syscall.Iovec)
	count, size := 0, 0
	for _, piece := range pieces {
		piece, skip = piece[skip:], 0
		if count == maxVector || size == maxWrite {
			break
		}
		piece = piece[:min(len(piece), maxWrite-size)]
		if len(piece) > 0 {
			vector[count].Base = &piece[0]
			vector[count].SetLen(len(piece))
			count++
			size += len(piece)
		}
	}
	var n int
	err := f.withDescriptor(func(fd uintptr) error {
		// The offset goes in two words. Where a word holds all of it, the
		// system shifts the other one out.
		written, _, errno := syscall.Syscall6(syscall.SYS_PWRITEV, fd,
			uintptr(unsafe.Pointer(vector)), uintptr(count),
			uintptr(offset), uintptr(uint64(offset)>>32), 0)
		if errno != 0 {
			return errno
		}
		n = int(written)
		return nil
	})
	clear(vector[:count])
	vectors.Put(vector)
	return n, err
}

func (f *osFile) syncContent() error {
	return f.withDescriptor(func(fd uintptr) error {
		return uninterrupted(func() error { return syscall.Fdatasync(int(fd)) })
	})
}

func (f *osFile) allocate(size int64) error {
	err := f.withDescriptor(func(fd uintptr) error {
		return uninterrupted(func() error { return syscall.Fallocate(int(fd), 0, 0, size) })
	})
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return f.grow(size)
	}
	return err
}

// withDescriptor lends the file's descriptor to a call. The file cannot be
// closed meanwhile, so that the number stays its own.
func (f *osFile) withDescriptor(call func(fd uintptr) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if conn.Control(func(fd uintptr) { failed = call(fd) }) != nil {
		return fs.ErrClosed // the only reason not to lend it
	}
	return failed
}
