// Package wire holds what the raft library puts on a network connection, up to
// but not including what a message means: frames, the handshake that opens a
// connection, and bounded MessagePack primitives. It speaks bytes and integers.
//
// # A connection
//
// The side that dials sends the preamble and a hello; the side that accepts
// answers with the preamble and a welcome, or a refusal, after which it closes.
// Then frames go both ways.
//
//	0                                                             8
//	+------+------+------+------+------+------+------+------+
//	| 0x8c | 'r'  | 'a'  | 'f'  | 't'  | '\r' | '\n' | 0x00 |   preamble
//	+------+------+------+------+------+------+------+------+
//
// # A frame
//
//	0               4               8                              4+length
//	+---------------+---------------+----------------- - - - -------------+
//	| length        | CRC-32C       | body                                |
//	| uint32 big    | uint32 big    | one MessagePack array               |
//	| endian        | endian        | [kind, request id, message, ...]    |
//	+---------------+---------------+----------------- - - - -------------+
//	                |<-------------------- length ----------------------->|
//	                                |<---------- checksummed ------------>|
//
// The length counts the checksum and the body. It is at least [MinFrame] and at
// most [MaxFrame]. The message is an array too, whose fields depend on the kind.
// Elements behind those that a reader knows are skipped, in both arrays, so that
// a later version may add some.
//
// Kinds and ids are unsigned integers. Kinds from [KindHello] to [KindRefusal]
// belong to the handshake, all others to the transport:
//
//	hello    [96, 0, [lowest version, highest version, fingerprint (16 bytes), from, to, incarnation, purpose, timeout]]
//	welcome  [97, 0, [version, incarnation, timeout]]
//	refusal  [98, 0, [code, reason]]
//
// The timeout is that of the sender, in microseconds. Each side sends something
// at least every half of the shorter of the two timeouts, so that a side with a
// short one does not take the other for dead. It may be missing, or 0: then the
// other side goes by its own.
//
// None of these constants may change: nodes of different releases talk to each
// other. The files in testdata hold the bytes.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/seed-8da499c8/raft/internal/buffer"
	"github.com/seed-8da499c8/raft/internal/crc32c"
)

// The limits of a frame's length field.
const (
	MaxFrame = 64 << 20
	MinFrame = checksumBytes + 4 // an array of three needs four bytes
)

const (
	headerBytes   = 8
	checksumBytes = 4

	// A frame is allocated in one piece up to eagerBytes; a longer one grows
	// as its bytes arrive, so that a length field alone costs a bounded amount.
	eagerBytes = 4 << 20

	// pieceBytes is how much of a frame must arrive between two calls of
	// Gate.Extend.
	pieceBytes = 64 << 10
)

// ErrFrameTooLarge is returned by EndFrame for a body that no frame can hold.
var ErrFrameTooLarge = errors.New("frame exceeds 64 MiB")

// BeginFrame appends the header of a frame, up to and including the id. The
// caller appends the message and calls EndFrame.
func BeginFrame(dst []byte, kind, id uint64) []byte {
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	dst = AppendArrayLen(dst, 3)
	dst = AppendUint(dst, kind)
	return AppendUint(dst, id)
}

// Part is a stretch of a frame whose checksum is known. The zero value is none.
type Part struct {
	At, Size int // where it is in the buffer, and its bytes
	Sum      uint32
	Apart    bool // it is not in the buffer, and is to be written when that was up to At
}

// EndFrame completes the frame that starts at dst[start:] and reaches to the
// end of dst. It does not read what is known.
func EndFrame(dst []byte, start int, known Part) error {
	frame := dst[start:]
	length := len(frame) - headerBytes + checksumBytes
	if known.Apart {
		length += known.Size
	}
	if length > MaxFrame {
		return ErrFrameTooLarge
	}
	binary.BigEndian.PutUint32(frame, uint32(length))
	sum, rest := uint32(0), frame[headerBytes:]
	if known.Size > 0 {
		sum = crc32c.Join(crc32c.Checksum(dst[start+headerBytes:known.At]), known.Sum, known.Size)
		if rest = dst[known.At:]; !known.Apart {
			rest = rest[known.Size:]
		}
	}
	binary.BigEndian.PutUint32(frame[4:], crc32c.Extend(sum, rest))
	return nil
}

// Gate is what the reader of a connection imposes on the frames it reads. A
// nil function imposes nothing.
type Gate struct {
	Limit   int                   // the longest length accepted; 0 means MaxFrame
	Extend  func() error          // called before each read that may block, to move a deadline
	Reserve func(bytes int) error // called before the memory for a body is allocated; may wait
	Release func(bytes int)       // takes a reservation back when the rest of the frame does not come
}

// ReadFrame reads one frame and returns its body, which belongs to the caller,
// together with the reservation for it, and the checksum of the body. At the end of the
// stream, between two frames, it returns io.EOF. Errors about the bytes match ErrMalformed.
func ReadFrame(r *bufio.Reader, gate *Gate) (body []byte, sum uint32, err error) {
	if err := gate.extend(r, headerBytes); err != nil {
		return nil, 0, err
	}
	header, err := r.Peek(headerBytes)
	switch {
	case err == io.EOF && len(header) > 0:
		return nil, 0, io.ErrUnexpectedEOF
	case err != nil:
		return nil, 0, err
	}
	length, limit := int64(binary.BigEndian.Uint32(header)), int64(MaxFrame)
	claimed := binary.BigEndian.Uint32(header[4:])
	r.Discard(headerBytes)
	if gate.Limit > 0 {
		limit = int64(gate.Limit)
	}
	if length < MinFrame || length > limit {
		return nil, 0, fmt.Errorf("%w: a frame of %d bytes, at most %d are accepted", ErrMalformed, length, limit)
	}
	size := int(length) - checksumBytes
	if gate.Reserve != nil {
		if err := gate.Reserve(size); err != nil {
			return nil, 0, err
		}
	}
	body, err = readBody(r, size, gate)
	sum = crc32c.Checksum(body)
	if err == nil && sum != claimed {
		err = fmt.Errorf("%w: checksum of a frame of %d bytes does not match", ErrMalformed, length)
	}
	if err != nil {
		if gate.Release != nil {
			gate.Release(size)
		}
		return nil, 0, err
	}
	return body, sum, nil
}

func readBody(r *bufio.Reader, size int, gate *Gate) ([]byte, error) {
	body := buffer.Uncleared(min(size, eagerBytes))
	for len(body) < size {
		if len(body) == cap(body) {
			body = append(buffer.Uncleared(min(size, 2*cap(body))), body...)
		}
		piece := body[len(body):min(len(body)+pieceBytes, cap(body))]
		if err := gate.extend(r, len(piece)); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(r, piece); err == io.EOF {
			return nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return nil, err
		}
		body = body[:len(body)+len(piece)]
	}
	return body, nil
}

func (g *Gate) extend(r *bufio.Reader, bytes int) error {
	if g.Extend == nil || r.Buffered() >= bytes {
		return nil
	}
	return g.Extend()
}

// ParseBody splits the body of a frame. The message aliases it.
func ParseBody(body []byte) (kind, id uint64, message []byte, err error) {
	r := NewReader(body)
	fields := r.ArrayLen()
	if r.Err() == nil && fields < 3 {
		r.Fail("body of a frame has too few elements")
	}
	kind, id = r.Uint(), r.Uint()
	message = r.Rest()
	if fields > 3 {
		r.Skip(1)
		message = message[:len(message)-len(r.Rest())]
		r.Skip(fields - 3)
		if r.Err() == nil && len(r.Rest()) > 0 {
			r.Fail("bytes behind the body of a frame")
		}
	}
	if r.Err() == nil && len(message) == 0 {
		r.Fail("body of a frame ends before its message")
	}
	if r.Err() != nil {
		return 0, 0, nil, r.Err()
	}
	return kind, id, message, nil
}
