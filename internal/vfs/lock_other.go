//go:build !darwin && !dragonfly && !freebsd && !illumos && !linux && !netbsd && !openbsd && !windows

package vfs

import (
	"errors"
	"io"
	"os"
)

// lock refuses, since two processes that both believe to be alone would ruin
// each other's files.
func lock(name string) (io.Closer, error) {
	return nil, &os.PathError{Op: "lock", Path: name, Err: errors.ErrUnsupported}
}
