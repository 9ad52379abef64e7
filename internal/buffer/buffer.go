// Package buffer makes room for bytes that are about to be written.
package buffer

import (
	"strings"
	"unsafe"
)

// Uncleared returns an empty slice of that capacity. What is behind its length
// is arbitrary, so it costs no clearing, which for large batches is a pass over their
// memory. Nothing may be sliced out of it that was not written before.
func Uncleared(capacity int) []byte {
	if capacity == 0 {
		return nil
	}
	var b strings.Builder // the one way to such memory without linking to the runtime
	b.Grow(capacity)
	b.WriteByte(0) // a string without bytes points nowhere
	return unsafe.Slice(unsafe.StringData(b.String()), capacity)[:0]
}
