//go:build !linux

package vfs

// maxGather bounds what is copied for one call.
const maxGather = 1 << 20

// writeVector copies the pieces together, so that many small ones still take
// one call.
func (f *osFile) writeVector(pieces [][]byte, skip int, offset int64) (int, error) {
	if first := pieces[0][skip:]; len(pieces) == 1 || len(first) >= maxGather {
		return f.WriteAt(first, offset)
	}
	var gathered []byte
	for _, piece := range pieces {
		piece, skip = piece[skip:], 0
		if len(gathered) > 0 && len(gathered)+len(piece) > maxGather {
			break
		}
		gathered = append(gathered, piece...)
	}
	return f.WriteAt(gathered, offset)
}

// syncContent is F_FULLFSYNC on macOS and FlushFileBuffers on Windows.
func (f *osFile) syncContent() error { return f.File.Sync() }

func (f *osFile) allocate(size int64) error { return f.grow(size) }
