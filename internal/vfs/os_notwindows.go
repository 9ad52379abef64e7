//go:build !windows

package vfs

import "os"

func openFile(name string, flag int) (*os.File, error) { return os.OpenFile(name, flag, 0o666) }

func rename(from, to string) error { return os.Rename(from, to) }

func syncDir(dir string) error { return syncOpenedDir(dir) }
