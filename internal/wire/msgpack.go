package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
)

// The Append functions write MessagePack in its shortest form, byte for byte
// what the Encoder of github.com/vmihailenco/msgpack/v5 writes.

// AppendArrayLen appends the header of an array of n elements.
func AppendArrayLen(dst []byte, n int) []byte {
	switch {
	case n < 16:
		return append(dst, 0x90|byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, 0xdc), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(dst, 0xdd), uint32(n))
	}
}

// AppendUint appends an unsigned integer.
func AppendUint(dst []byte, v uint64) []byte {
	switch {
	case v <= math.MaxInt8:
		return append(dst, byte(v))
	case v <= math.MaxUint8:
		return append(dst, 0xcc, byte(v))
	case v <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, 0xcd), uint16(v))
	case v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(dst, 0xce), uint32(v))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 0xcf), v)
	}
}

// AppendBool appends a boolean.
func AppendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 0xc3)
	}
	return append(dst, 0xc2)
}

// Clip returns what a text for people has within maxBytes. It cuts no character in two, and
// what it need not cut it leaves as it is, even if that is no text.
func Clip(text string, maxBytes int) string {
	if len(text) <= maxBytes {
		return text
	}
	for end := maxBytes; end > maxBytes-utf8.UTFMax && end >= 0; end-- {
		if utf8.RuneStart(text[end]) {
			return text[:end]
		}
	}
	return text[:maxBytes]
}

// AppendString appends a string.
func AppendString(dst []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		dst = append(dst, 0xa0|byte(n))
	case n <= math.MaxUint8:
		dst = append(dst, 0xd9, byte(n))
	case n <= math.MaxUint16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0xda), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, 0xdb), uint32(n))
	}
	return append(dst, s...)
}

// AppendBytes appends a binary string.
func AppendBytes(dst, b []byte) []byte { return append(AppendBytesLen(dst, len(b)), b...) }

// AppendBytesLen appends the header of a binary string of n bytes, which the
// caller appends.
func AppendBytesLen(dst []byte, n int) []byte {
	switch {
	case n <= math.MaxUint8:
		return append(dst, 0xc4, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, 0xc5), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(dst, 0xc6), uint32(n))
	}
}

// UintSize returns the encoded size of an unsigned integer.
func UintSize(v uint64) int {
	switch {
	case v <= math.MaxInt8:
		return 1
	case v <= math.MaxUint8:
		return 2
	case v <= math.MaxUint16:
		return 3
	case v <= math.MaxUint32:
		return 5
	default:
		return 9
	}
}

// BytesSize returns the encoded size of a binary string of n bytes.
func BytesSize(n int) int {
	switch {
	case n <= math.MaxUint8:
		return 2 + n
	case n <= math.MaxUint16:
		return 3 + n
	default:
		return 5 + n
	}
}

// ArrayLenSize returns the size of the header of an array of n elements.
func ArrayLenSize(n int) int {
	switch {
	case n < 16:
		return 1
	case n <= math.MaxUint16:
		return 3
	default:
		return 5
	}
}

// ErrMalformed is matched by every error of a Reader.
var ErrMalformed = errors.New("malformed message")

// Reader reads MessagePack values from a byte slice, which it never copies
// and never trusts: each length is compared with the bytes that are left
// before anything is done with it. The first error sticks; every read after
// it returns a zero value.
type Reader struct {
	data []byte
	err  error
}

// NewReader returns a Reader of data.
func NewReader(data []byte) Reader { return Reader{data: data} }

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Rest returns the bytes not read yet, aliasing the data.
func (r *Reader) Rest() []byte { return r.data }

// Fail makes the Reader fail, unless it has failed before: for a caller that
// finds a value out of its range.
func (r *Reader) Fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	r.data = nil
}

// take returns the next n bytes, aliasing the data.
func (r *Reader) take(n int) []byte {
	if n > len(r.data) {
		r.Fail("value ends early")
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

func (r *Reader) code() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0xc1 // never used by MessagePack
}

// sized reads a big-endian unsigned integer of 1, 2, 4 or 8 bytes.
func (r *Reader) sized(bytes int) uint64 {
	b := r.take(bytes)
	if b == nil {
		return 0
	}
	switch bytes {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(b))
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	default:
		return binary.BigEndian.Uint64(b)
	}
}

// Uint reads an unsigned integer.
func (r *Reader) Uint() uint64 {
	c := r.code()
	switch {
	case c <= math.MaxInt8:
		return uint64(c)
	case c >= 0xcc && c <= 0xcf:
		return r.sized(1 << (c - 0xcc))
	default:
		r.Fail("not an unsigned integer")
		return 0
	}
}

// Bool reads a boolean.
func (r *Reader) Bool() bool {
	switch r.code() {
	case 0xc3:
		return true
	case 0xc2:
		return false
	default:
		r.Fail("not a boolean")
		return false
	}
}

// Bytes reads a binary string, aliasing the data.
func (r *Reader) Bytes() []byte {
	c := r.code()
	if c < 0xc4 || c > 0xc6 {
		r.Fail("not a binary string")
		return nil
	}
	return r.lengthed(r.sized(1 << (c - 0xc4)))
}

// String reads a string of at most limit bytes.
func (r *Reader) String(limit int) string {
	c := r.code()
	var n uint64
	switch {
	case c >= 0xa0 && c <= 0xbf:
		n = uint64(c & 0x1f)
	case c >= 0xd9 && c <= 0xdb:
		n = r.sized(1 << (c - 0xd9))
	default:
		r.Fail("not a string")
		return ""
	}
	if n > uint64(limit) {
		r.Fail("string too long")
		return ""
	}
	return string(r.lengthed(n))
}

// lengthed returns the next n bytes, where n was read from the data.
func (r *Reader) lengthed(n uint64) []byte {
	if n > uint64(len(r.data)) {
		r.Fail("length exceeds what is left")
		return nil
	}
	return r.take(int(n))
}

// ArrayLen reads the header of an array and returns the number of its
// elements, each of which takes at least one of the bytes left.
func (r *Reader) ArrayLen() int {
	c := r.code()
	var n uint64
	switch {
	case c >= 0x90 && c <= 0x9f:
		n = uint64(c & 0x0f)
	case c == 0xdc:
		n = r.sized(2)
	case c == 0xdd:
		n = r.sized(4)
	default:
		r.Fail("not an array")
		return 0
	}
	if n > uint64(len(r.data)) {
		r.Fail("length exceeds what is left")
		return 0
	}
	return int(n)
}

// Skip passes over n values of any kind, nested ones included, in constant
// memory: that is how fields of a later version are ignored.
func (r *Reader) Skip(n int) {
	for left := uint64(n); left > 0 && r.err == nil; left-- {
		left += r.skipOne()
		if left > uint64(len(r.data))+1 {
			r.Fail("length exceeds what is left")
		}
	}
}

// skipOne passes over one value and returns how many values it holds that
// still follow.
func (r *Reader) skipOne() uint64 {
	l, ok := layoutOf(r.code())
	if !ok {
		r.Fail("unknown type")
		return 0
	}
	var n uint64
	if l.lengthBytes > 0 {
		n = r.sized(l.lengthBytes)
	}
	r.lengthed(l.bytes + n*l.bytesPer)
	return l.values + n*l.valuesPer
}

// layout says what follows the first byte of a value: first a length field of
// lengthBytes, unless that is 0; then bytes of content, then nested values.
type layout struct {
	lengthBytes         int
	bytes, values       uint64 // whatever the length field says
	bytesPer, valuesPer uint64 // for each unit of the length field
}

// layoutOf returns the layout of a value with first byte c, not ok for the one
// byte that MessagePack never uses.
func layoutOf(c byte) (l layout, ok bool) {
	switch {
	case c <= 0x7f || c >= 0xe0 || c == 0xc0 || c == 0xc2 || c == 0xc3: // small integer, nil, boolean
		return layout{}, true
	case c <= 0x8f: // small map
		return layout{values: 2 * uint64(c&0x0f)}, true
	case c <= 0x9f: // small array
		return layout{values: uint64(c & 0x0f)}, true
	case c <= 0xbf: // small string
		return layout{bytes: uint64(c & 0x1f)}, true
	}
	switch c {
	case 0xc4, 0xc5, 0xc6: // binary
		return layout{lengthBytes: 1 << (c - 0xc4), bytesPer: 1}, true
	case 0xc7, 0xc8, 0xc9: // extension: its type takes a byte more
		return layout{lengthBytes: 1 << (c - 0xc7), bytes: 1, bytesPer: 1}, true
	case 0xcc, 0xd0: // numbers
		return layout{bytes: 1}, true
	case 0xcd, 0xd1:
		return layout{bytes: 2}, true
	case 0xca, 0xce, 0xd2:
		return layout{bytes: 4}, true
	case 0xcb, 0xcf, 0xd3:
		return layout{bytes: 8}, true
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // extension of fixed size
		return layout{bytes: 1<<(c-0xd4) + 1}, true
	case 0xd9, 0xda, 0xdb: // string
		return layout{lengthBytes: 1 << (c - 0xd9), bytesPer: 1}, true
	case 0xdc, 0xdd: // array
		return layout{lengthBytes: 2 << (c - 0xdc), valuesPer: 1}, true
	case 0xde, 0xdf: // map
		return layout{lengthBytes: 2 << (c - 0xde), valuesPer: 2}, true
	default:
		return layout{}, false
	}
}

// ReadValue reads one value of any kind, nested ones included, from a stream
// and returns its bytes, at most limit. fill fills the slice that it is given
// from the stream, as io.ReadFull does. Lengths are not trusted: memory grows
// with the bytes that have really come, and nesting costs none.
//
// A stream that ends before the value gives the error of fill as it is, so
// that io.EOF stays io.EOF; one that ends within it gives an error that
// matches both [ErrMalformed] and io.ErrUnexpectedEOF.
func ReadValue(fill func([]byte) error, limit int) ([]byte, error) {
	c := collector{fill: fill, limit: limit}
	for left := uint64(1); left > 0; left-- {
		code := c.take(1)
		if c.err != nil {
			return nil, c.err
		}
		l, ok := layoutOf(code[0])
		if !ok {
			return nil, fmt.Errorf("%w: unknown type", ErrMalformed)
		}
		var n uint64
		for _, b := range c.take(uint64(l.lengthBytes)) {
			n = n<<8 | uint64(b)
		}
		c.take(l.bytes + n*l.bytesPer)
		left += l.values + n*l.valuesPer
		if c.err == nil && left-1 > uint64(limit-len(c.data)) {
			c.err = fmt.Errorf("%w: value longer than %d bytes", ErrMalformed, limit)
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	return c.data, nil
}

// collector gathers the bytes of a value from a stream.
type collector struct {
	fill  func([]byte) error
	limit int
	data  []byte
	err   error // the first one; nothing is read after it
}

// take reads n more bytes and returns them.
func (c *collector) take(n uint64) []byte {
	start := len(c.data)
	if c.err == nil && n > uint64(c.limit-start) {
		c.err = fmt.Errorf("%w: value longer than %d bytes", ErrMalformed, c.limit)
	}
	for n > 0 && c.err == nil {
		at := len(c.data)
		step := min(n, max(512, uint64(at))) // at most doubles what has come
		c.data = append(c.data, make([]byte, step)...)
		c.err = c.fill(c.data[at:])
		if at > 0 && (errors.Is(c.err, io.EOF) || errors.Is(c.err, io.ErrUnexpectedEOF)) {
			c.err = fmt.Errorf("%w: value ends early: %w", ErrMalformed, io.ErrUnexpectedEOF)
		}
		n -= step
	}
	return c.data[start:]
}
