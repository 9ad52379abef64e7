//go:build !plan9

package vfs

import (
	"errors"
	"syscall"
)

var errNoSpace error = syscall.ENOSPC

func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
