package raft

import (
	"slices"

	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/wire"
)

// The bytes of many entries are read for their checksum once by the leader that appends
// them, and once by each follower, which derives it from that of the frame that brought
// them: the frames of append streams and the logs of all members share it.

// summedBytes is how many bytes have a checksum that is kept: with fewer it costs as much
// to derive one.
const summedBytes = 32 << 10

// checksum is that of a run's body, if it is known.
type checksum struct {
	sum   uint32
	known bool
}

// summed returns the run with its checksum, if that is worth it.
func (r run) summed() run {
	if len(r.body) >= summedBytes {
		r.checksum = checksum{crc32c.Checksum(r.body), true}
	}
	return r
}

// part returns where the bodies are in a buffer in which the encoded entries end there,
// and their checksum; none if nothing is known of it.
func (e Entries) part(end int) (p wire.Part) {
	known := slices.ContainsFunc(e.runs, func(r run) bool { return r.known })
	if !known || e.groupCount(0) != e.Len() { // heads of groups stand between the bodies
		return p
	}
	for _, r := range e.runs {
		if r.known {
			p.Sum = crc32c.Join(p.Sum, r.sum, len(r.body))
		} else {
			p.Sum = crc32c.Extend(p.Sum, r.body)
		}
	}
	p.From, p.To = end-e.Size(), end
	return p
}

// appendSummed is AppendBinary that also tells what of it has a known checksum.
func (m *AppendEntries) appendSummed(dst []byte) ([]byte, wire.Part, error) {
	c := appending(dst, "AppendEntries")
	m.fields(&c)
	dst, err := c.appended()
	return dst, m.Entries.part(c.entriesEnd), err
}

// unmarshalFrame is UnmarshalBinary of what a frame has brought.
func (m *AppendEntries) unmarshalFrame(f *frame) error {
	c := reading(f.message, "AppendEntries")
	m.fields(&c)
	if err := c.done(); err != nil {
		return err
	}
	if n := m.Entries.Size(); n >= summedBytes && len(m.Entries.runs) == 1 {
		r := &m.Entries.runs[0]
		end := cap(f.body) - cap(f.message) + len(f.message) - c.entriesEnd // both reach to the same capacity
		if at := end - n; at >= 0 && end <= len(f.body) && &f.body[at] == &r.body[0] {
			r.checksum = checksum{crc32c.Cut(f.body, f.sum, at, end), true}
		}
	}
	return nil
}
