//go:build !windows

package vfs

import (
	"errors"
	"os"
)

func openFile(name string, flag int) (*os.File, error) { return os.OpenFile(name, flag, 0o666) }

func rename(from, to string) error { return os.Rename(from, to) }

// syncDir syncs a directory like a file.
func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
