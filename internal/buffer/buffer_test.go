package buffer

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// All of the memory may be written, keeps what was written, and is nobody else's.
func TestUncleared(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, 7, 8, 9, 4095, 4096, 4097, 32 << 10, 32<<10 + 1, 1<<20 - 1, 4<<20 + 1}
	var made [][]byte
	for i, size := range sizes {
		b := Uncleared(size)
		require.Empty(t, b)
		require.Equal(t, size, cap(b))
		made = append(made, append(b, bytes.Repeat([]byte{byte(i)}, size)...))
		require.Equal(t, size, cap(made[i]), "it has not grown")
	}
	runtime.GC()
	for i, size := range sizes {
		require.Equal(t, size, bytes.Count(made[i], []byte{byte(i)}))
	}
}

func BenchmarkUncleared(b *testing.B) {
	b.SetBytes(256 << 10)
	for b.Loop() {
		Uncleared(256 << 10)
	}
}
