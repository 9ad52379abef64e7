package vfs

import (
	"io"
	"math/rand/v2"
	"slices"
)

// sectorSize is what a disk writes as a whole or not at all, unless it tears.
const sectorSize = 512

// sector is never changed once it is part of an image.
type sector [sectorSize]byte

// image is the content of a file. Its sectors are shared with other images; a
// missing one is all zeros, and so are the bytes behind the size.
type image struct {
	size    int64
	sectors []*sector
}

func (m *image) clone() image {
	return image{size: m.size, sectors: slices.Clone(m.sectors)}
}

// at returns one sector, nil if it is all zeros.
func (m *image) at(index int) *sector {
	if index < len(m.sectors) {
		return m.sectors[index]
	}
	return nil
}

func (m *image) set(index int, s *sector) {
	if grow := index + 1 - len(m.sectors); grow > 0 {
		if s == nil {
			return
		}
		m.sectors = append(m.sectors, make([]*sector, grow)...)
	}
	m.sectors[index] = s
}

func (m *image) readAt(p []byte, offset int64) (int, error) {
	n := 0
	for n < len(p) && offset < m.size {
		start := int(offset % sectorSize)
		length := int(min(int64(min(len(p)-n, sectorSize-start)), m.size-offset))
		if s := m.at(int(offset / sectorSize)); s != nil {
			copy(p[n:n+length], s[start:])
		} else {
			clear(p[n : n+length])
		}
		n += length
		offset += int64(length)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *image) bytes() []byte {
	content := make([]byte, m.size)
	if _, err := m.readAt(content, 0); err != nil {
		panic("vfs: an image ends before its size")
	}
	return content
}

// write puts the bytes into new sectors and reports those.
func (m *image) write(p []byte, offset int64) change {
	c := change{offset: offset, length: int64(len(p))}
	for len(p) > 0 {
		index, start := int(offset/sectorSize), int(offset%sectorSize)
		s := new(sector)
		if old := m.at(index); old != nil {
			*s = *old
		}
		n := copy(s[start:], p)
		m.set(index, s)
		c.sectors = append(c.sectors, version{index, s})
		p = p[n:]
		offset += int64(n)
	}
	m.size = max(m.size, offset)
	c.size = m.size
	return c
}

// resize cuts the image or lengthens it with zeros, and reports the sectors
// that it cut.
func (m *image) resize(size int64) change {
	c := change{size: size}
	if size < m.size {
		c.offset, c.length = size, m.size-size
		for index := int(size / sectorSize); index < len(m.sectors); index++ {
			old := m.sectors[index]
			if old == nil {
				continue
			}
			m.sectors[index] = nil
			if kept := size - int64(index)*sectorSize; kept > 0 {
				s := new(sector)
				copy(s[:kept], old[:kept])
				m.sectors[index] = s
			}
			c.sectors = append(c.sectors, version{index, m.sectors[index]})
		}
	}
	m.size = size
	return c
}

// change is a write, or a change of the size, which is not durable yet.
type change struct {
	number         uint64
	offset, length int64
	size           int64 // afterwards
	sectors        []version
}

// version is what a change made of one sector.
type version struct {
	index  int
	sector *sector
}

// apply makes the change to an image in which the earlier changes are made.
func (c *change) apply(m *image) {
	for _, v := range c.sectors {
		m.set(v.index, v.sector)
	}
	m.size = c.size
}

// tear makes the change up to a byte of it, or to those sectors of it which
// pick takes. The size changes or not, whatever becomes of the content.
func (c *change) tear(m *image, keep int64, pick func() bool, resized bool) {
	for _, v := range c.sectors {
		if !pick() {
			continue
		}
		end := c.offset + keep - int64(v.index)*sectorSize
		if end <= 0 {
			continue
		}
		if end >= sectorSize {
			m.set(v.index, v.sector)
			continue
		}
		var torn, now sector
		if old := m.at(v.index); old != nil {
			torn = *old
		}
		if v.sector != nil {
			now = *v.sector
		}
		copy(torn[:end], now[:end])
		m.set(v.index, &torn)
	}
	if resized {
		m.size = c.size
	}
}

// trim drops what is behind the size, which a crash may have left there.
func (m *image) trim() {
	if last := int((m.size + sectorSize - 1) / sectorSize); last < len(m.sectors) {
		m.sectors = m.sectors[:last]
	}
	if start := m.size % sectorSize; start > 0 {
		index := int(m.size / sectorSize)
		if old := m.at(index); old != nil {
			s := new(sector)
			copy(s[:start], old[:start])
			m.set(index, s)
		}
	}
}

// scatter returns what a crash may leave of the durable content and the
// changes since: of each sector any of its versions, and any of the sizes. It
// leaves the trimming to the caller.
func scatter(random *rand.Rand, durable *image, changes []change, stale []*sector) image {
	result := durable.clone()
	if len(changes) == 0 {
		return result
	}
	versions := make(map[int][]*sector)
	var touched []int
	for _, c := range changes {
		for _, v := range c.sectors {
			if versions[v.index] == nil {
				touched = append(touched, v.index)
			}
			versions[v.index] = append(versions[v.index], v.sector)
		}
	}
	slices.Sort(touched)

	// One crash keeps nearly all, another nearly nothing, and some all but one
	// sector or only one.
	kept := []float64{0, 0.1, 0.5, 0.9, 1}[random.IntN(5)]
	odd := -1
	if len(touched) > 0 && random.IntN(2) == 0 {
		odd = touched[random.IntN(len(touched))]
	}
	for _, index := range touched {
		all := versions[index]
		keep := random.Float64() < kept
		if index == odd {
			keep = kept < 0.5
		}
		switch {
		case keep && random.IntN(4) > 0:
			result.set(index, all[len(all)-1])
		case keep:
			result.set(index, all[random.IntN(len(all))])
		case int64(index)*sectorSize >= durable.size:
			result.set(index, remains(random, stale))
		}
	}
	switch random.IntN(4) {
	case 0:
		result.size = durable.size
	case 1:
		result.size = changes[random.IntN(len(changes))].size
	default:
		result.size = changes[len(changes)-1].size
	}
	return result
}

// remains is what a sector of new space holds before anything is written:
// zeros, or what it held for a file that was removed.
func remains(random *rand.Rand, stale []*sector) *sector {
	if len(stale) == 0 || random.IntN(2) == 0 {
		return nil
	}
	return stale[random.IntN(len(stale))]
}
