package vfs

import "fmt"

// CorruptError says that a file is not what was written, and where.
type CorruptError struct {
	File   string
	Offset int64
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged at offset %d: %s", e.File, e.Offset, e.Reason)
}

// Corruptf returns a *CorruptError with a formatted reason.
func Corruptf(file string, offset int64, format string, args ...any) error {
	return &CorruptError{file, offset, fmt.Sprintf(format, args...)}
}

// NewerError says that a file was written by a later release, which is no
// damage.
type NewerError struct {
	Have, Known uint32 // versions of the format
}

func (e NewerError) Error() string {
	return fmt.Sprintf("it has format version %d, this release reads version %d: use the release that wrote it, or a later one; if there is none, it is damaged", e.Have, e.Known)
}
