package main

import (
	"encoding/binary"
	"hash/crc32"
	"net"
)

// limitReceiver reads from a connection while its follower writes to the disk.
type limitReceiver struct {
	filled chan limitBuffer
	empty  chan []byte
	taken  []limitBuffer
	pieces [][]byte
}

// limitBuffer is a buffer of which so many bytes were read.
type limitBuffer struct {
	bytes []byte
	n     int
}

const (
	limitBuffers     = 64
	limitBufferBytes = 256 << 10
	limitTaken       = 48 // at once, so that reading goes on
)

func receiveLimit(conn net.Conn) *limitReceiver {
	r := &limitReceiver{filled: make(chan limitBuffer, limitBuffers), empty: make(chan []byte, limitBuffers)}
	for range limitBuffers {
		r.empty <- make([]byte, limitBufferBytes)
	}
	go func() {
		defer close(r.filled)
		for buffer := range r.empty {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			r.filled <- limitBuffer{buffer, n}
		}
	}()
	return r
}

// take waits for something, and returns all that there is.
func (r *limitReceiver) take() ([][]byte, bool) {
	r.taken, r.pieces = r.taken[:0], r.pieces[:0]
	b, ok := <-r.filled
	for ok {
		r.taken, r.pieces = append(r.taken, b), append(r.pieces, b.bytes[:b.n])
		if len(r.taken) == limitTaken {
			break
		}
		select {
		case b, ok = <-r.filled:
		default:
			return r.pieces, true
		}
	}
	return r.pieces, ok
}

// release gives back what was taken.
func (r *limitReceiver) release() {
	for _, b := range r.taken {
		r.empty <- b.bytes
	}
}

// limitParser finds entries in pieces that may end anywhere, and computes what a state
// machine that applied them would be.
type limitParser struct {
	header [limitHeader]byte
	have   int    // bytes of the header
	left   int    // bytes of the command
	index  uint64 // of the entry that is being read

	last     uint64 // index that is complete
	commands uint64
	checksum uint32
}

func (p *limitParser) parse(piece []byte) {
	for len(piece) > 0 {
		if p.left == 0 {
			n := copy(p.header[p.have:], piece)
			p.have += n
			piece = piece[n:]
			if p.have < limitHeader {
				return
			}
			p.have = 0
			p.left = int(binary.LittleEndian.Uint32(p.header[:]))
			p.index = binary.LittleEndian.Uint64(p.header[8:])
		}
		n := min(p.left, len(piece))
		p.checksum = crc32.Update(p.checksum, castagnoli, piece[:n])
		piece = piece[n:]
		if p.left -= n; p.left == 0 {
			p.last = p.index
			p.commands++
		}
	}
}
