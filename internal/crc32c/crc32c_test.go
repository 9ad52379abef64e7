package crc32c

import (
	"bytes"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/assert"
)

// What is derived equals what reading the bytes gives.
func FuzzChecksums(f *testing.F) {
	long := bytes.Repeat([]byte("checksum"), 40_000)
	f.Add([]byte("before and behind"), 3, 9)
	f.Add(long, 17, len(long)-23)
	f.Add(long, 0, 65_536)
	f.Add(long, 65_536, len(long))
	f.Add([]byte{}, 0, 0)
	f.Fuzz(func(t *testing.T, b []byte, from, to int) {
		if from < 0 || to < from || to > len(b) {
			return
		}
		before, part, behind := b[:from], b[from:to], b[to:]
		sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
		assert.Equal(t, sum, Checksum(b))
		assert.Equal(t, sum, Extend(Join(Checksum(before), Checksum(part), len(part)), behind))
		assert.Equal(t, Checksum(part), Cut(b, sum, from, to))
	})
}

// For lengths up to that of the longest frame and beyond.
func TestShiftThereAndBack(t *testing.T) {
	for n := 1; n < 128<<20; n = n*3 + 1 {
		assert.Equal(t, uint32(0xdecade), shift(shift(0xdecade, n), -n), n)
		assert.Equal(t, shift(0xdecade, 2*n), shift(shift(0xdecade, n), n), n)
	}
}
