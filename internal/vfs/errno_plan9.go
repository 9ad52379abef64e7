package vfs

import "errors"

var errNoSpace = errors.New("no space left on device")

func isReadOnly(error) bool { return false }
