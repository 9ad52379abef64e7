package main

import (
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// limitLog is a file that was written once and is written over and over: no append can
// be made durable with less than one write and one fdatasync to such a file.
type limitLog struct {
	fd     int
	file   *os.File
	offset int64
}

const limitLogBytes = 64 << 20

func openLimitLog(dir string) (*limitLog, error) {
	file, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	zeros := make([]byte, 1<<20)
	for range limitLogBytes / len(zeros) {
		if _, err := file.Write(zeros); err != nil {
			return nil, err
		}
	}
	return &limitLog{fd: int(file.Fd()), file: file}, file.Sync()
}

// append writes pieces one after another and makes them durable.
func (l *limitLog) append(pieces [][]byte) error {
	for len(pieces) > 0 {
		n, size := l.fitting(pieces)
		if n == 0 {
			l.offset = 0
			continue
		}
		written, err := unix.Pwritev(l.fd, pieces[:n], l.offset)
		if err != nil {
			return err
		}
		if int64(written) != size {
			return io.ErrShortWrite
		}
		l.offset += size
		pieces = pieces[n:]
	}
	return unix.Fdatasync(l.fd)
}

// fitting returns how many pieces one call can write before the end of the file, and
// how many bytes they have.
func (l *limitLog) fitting(pieces [][]byte) (n int, size int64) {
	for n < len(pieces) && n < 256 {
		next := int64(len(pieces[n]))
		if l.offset+size+next > limitLogBytes {
			break
		}
		size += next
		n++
	}
	return n, size
}
