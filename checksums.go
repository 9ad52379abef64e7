package raft

import "github.com/seed-8da499c8/raft/internal/wire"

// The bytes of entries are read for their checksum once by the leader that appends them,
// and once by each follower, which derives it from that of the frame that brought them:
// frames and the logs of all members share it.

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
		r.checksum = checksum{wire.Checksum(r.body), true}
	}
	return r
}

// part returns the stretch of a buffer that entries end which were encoded there.
func (e Entries) part(end int) (p wire.Part) {
	n := e.Size()
	if n < summedBytes || e.groupCount(0) != e.Len() {
		return p // with the head of a group between its bodies it is no stretch of them
	}
	for _, r := range e.runs {
		if r.known {
			p.Sum = wire.Join(p.Sum, r.sum, len(r.body))
		} else {
			p.Sum = wire.Extend(p.Sum, r.body)
		}
	}
	p.From, p.To = end-n, end
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
		end := cap(f.body) - cap(f.message) + len(f.message) - c.entriesEnd // both reach to the same capacity
		m.Entries.runs[0].checksum = checksum{wire.Cut(f.body, f.sum, end-n, end), true}
	}
	return nil
}
