package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
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

// UintSize, BytesSize and ArrayLenSize return how many bytes the Append
// functions write.
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
	c := r.code()
	switch {
	case c <= 0x7f || c >= 0xe0 || c == 0xc0 || c == 0xc2 || c == 0xc3: // small integer, nil, boolean
		return 0
	case c <= 0x8f: // small map
		return 2 * uint64(c&0x0f)
	case c <= 0x9f: // small array
		return uint64(c & 0x0f)
	case c <= 0xbf: // small string
		r.lengthed(uint64(c & 0x1f))
		return 0
	}
	switch c {
	case 0xc4, 0xc5, 0xc6: // binary
		r.lengthed(r.sized(1 << (c - 0xc4)))
	case 0xc7, 0xc8, 0xc9: // extension
		r.lengthed(r.sized(1<<(c-0xc7)) + 1)
	case 0xca, 0xce, 0xd2:
		r.take(4)
	case 0xcb, 0xcf, 0xd3:
		r.take(8)
	case 0xcc, 0xd0:
		r.take(1)
	case 0xcd, 0xd1:
		r.take(2)
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // extension of fixed size
		r.take(1<<(c-0xd4) + 1)
	case 0xd9, 0xda, 0xdb: // string
		r.lengthed(r.sized(1 << (c - 0xd9)))
	case 0xdc, 0xdd: // array
		return r.sized(2 << (c - 0xdc))
	case 0xde, 0xdf: // map
		return 2 * r.sized(2<<(c-0xde))
	default:
		r.Fail("unknown type")
	}
	return 0
}
