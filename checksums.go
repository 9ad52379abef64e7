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

// apartBytes is how large bodies are on average that are written from where they are: to
// copy smaller ones costs less than to list them.
const apartBytes = 4 << 10

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

// part returns the bodies as a part of a frame, with their checksum; none if nothing is
// known of it.
func (e Entries) part() (p wire.Part) {
	known := slices.ContainsFunc(e.runs, func(r run) bool { return r.known })
	if !known || e.groupCount(0) != e.Len() { // heads of groups stand between the bodies
		return p
	}
	p.Size = e.Size()
	for _, r := range e.runs {
		if r.known {
			p.Sum = crc32c.Join(p.Sum, r.sum, len(r.body))
		} else {
			p.Sum = crc32c.Extend(p.Sum, r.body)
		}
	}
	return p
}

// appendSummed is AppendBinary that also tells what of it has a known checksum. If it may,
// it leaves that out, to be written from where it is.
func (m *AppendEntries) appendSummed(dst []byte, mayLeaveOut bool) ([]byte, wire.Part, error) {
	c := appending(dst, "AppendEntries")
	part := m.Entries.part()
	part.Apart = mayLeaveOut && part.Size >= apartBytes*len(m.Entries.runs) && part.Size > 0
	c.leaveOut = part.Apart
	m.fields(&c)
	dst, err := c.appended()
	if part.At = c.entriesEnd; !part.Apart {
		part.At -= part.Size
	}
	return dst, part, err
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
