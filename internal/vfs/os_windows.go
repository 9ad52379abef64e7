package vfs

import (
	"io"
	"os"
	"syscall"
	"unsafe"
)

const (
	errorSharingViolation = syscall.Errno(32)

	moveReplaceExisting = 0x1
	moveWriteThrough    = 0x8
)

var moveFileEx = syscall.NewLazyDLL("kernel32.dll").NewProc("MoveFileExW")

// openFile lets others rename and remove the file while it is open, as other
// systems do.
func openFile(name string, flag int) (*os.File, error) {
	disposition := uint32(syscall.OPEN_EXISTING)
	if flag&os.O_CREATE != 0 {
		disposition = syscall.CREATE_NEW
	}
	share := uint32(syscall.FILE_SHARE_READ | syscall.FILE_SHARE_WRITE | syscall.FILE_SHARE_DELETE)
	return createFile("open", name, share, disposition)
}

func createFile(op, name string, share, disposition uint32) (*os.File, error) {
	path, err := syscall.UTF16PtrFromString(name)
	if err != nil {
		return nil, &os.PathError{Op: op, Path: name, Err: err}
	}
	handle, err := syscall.CreateFile(path, syscall.GENERIC_READ|syscall.GENERIC_WRITE,
		share, nil, disposition, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &os.PathError{Op: op, Path: name, Err: err}
	}
	return os.NewFile(uintptr(handle), name), nil
}

// rename returns when the new name is on the disk.
func rename(from, to string) error {
	fail := func(err error) error {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	old, err := syscall.UTF16PtrFromString(from)
	if err != nil {
		return fail(err)
	}
	name, err := syscall.UTF16PtrFromString(to)
	if err != nil {
		return fail(err)
	}
	done, _, err := moveFileEx.Call(uintptr(unsafe.Pointer(old)), uintptr(unsafe.Pointer(name)),
		moveReplaceExisting|moveWriteThrough)
	if done == 0 {
		return fail(err)
	}
	return nil
}

// syncDir only looks whether the directory is there. Windows cannot sync one;
// NTFS journals every change of a name, and the journal reaches the disk in
// order, at the latest with the next sync of any file.
func syncDir(dir string) error {
	_, err := os.Stat(dir)
	return err
}

// lock shares the file with nobody, in this process or another. The system
// closes it with the process.
func lock(name string) (io.Closer, error) {
	file, err := createFile("lock", name, 0, syscall.OPEN_ALWAYS)
	if failed, ok := err.(*os.PathError); ok && failed.Err == errorSharingViolation {
		failed.Err = ErrLocked
	}
	if err != nil {
		return nil, err
	}
	return file, nil
}
