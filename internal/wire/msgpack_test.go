package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

// library returns what the msgpack library writes. The methods that it calls
// choose the shortest form whatever the Encoder's settings are; only its
// reflection needs UseCompactInts for that.
func library(t *testing.T, write func(*msgpack.Encoder) error) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, write(msgpack.NewEncoder(&b)))
	return b.Bytes()
}

// numbers are those around each change of an encoding's length.
func numbers() []uint64 {
	numbers := []uint64{0, 1, math.MaxUint64}
	for bits := 1; bits < 64; bits++ {
		for d := range uint64(3) {
			numbers = append(numbers, 1<<bits-1+d)
		}
	}
	return numbers
}

// lengths are those around each change of a header's length.
var lengths = []int{0, 1, 2, 15, 16, 17, 31, 32, 33, 127, 128, 255, 256, 257, 65535, 65536, 65537}

func TestUintIsTheLibrarysShortestForm(t *testing.T) {
	for _, v := range numbers() {
		b := AppendUint([]byte("x"), v)
		require.Equal(t, library(t, func(e *msgpack.Encoder) error { return e.EncodeUint(v) }), b[1:])
		require.Equal(t, library(t, func(e *msgpack.Encoder) error {
			e.UseCompactInts(true)
			return e.Encode(v)
		}), b[1:])
		require.Equal(t, len(b)-1, UintSize(v))

		r := NewReader(b[1:])
		require.Equal(t, v, r.Uint())
		requireEnd(t, &r)
	}
}

func TestUintReadsEveryUnsignedForm(t *testing.T) {
	for _, write := range []func(*msgpack.Encoder) error{
		func(e *msgpack.Encoder) error { return e.EncodeUint(5) },
		func(e *msgpack.Encoder) error { return e.EncodeUint8(5) },
		func(e *msgpack.Encoder) error { return e.EncodeUint16(5) },
		func(e *msgpack.Encoder) error { return e.EncodeUint32(5) },
		func(e *msgpack.Encoder) error { return e.EncodeUint64(5) },
	} {
		r := NewReader(library(t, write))
		require.EqualValues(t, 5, r.Uint())
		requireEnd(t, &r)
	}
}

func TestBoolIsTheLibrarys(t *testing.T) {
	for _, v := range []bool{false, true} {
		b := AppendBool(nil, v)
		require.Equal(t, library(t, func(e *msgpack.Encoder) error { return e.EncodeBool(v) }), b)
		r := NewReader(b)
		require.Equal(t, v, r.Bool())
		requireEnd(t, &r)
	}
}

func TestStringIsTheLibrarys(t *testing.T) {
	for _, n := range lengths {
		s := strings.Repeat("s", n)
		b := AppendString(nil, s)
		require.Equal(t, library(t, func(e *msgpack.Encoder) error { return e.EncodeString(s) }), b)

		r := NewReader(b)
		require.Equal(t, s, r.String(n))
		requireEnd(t, &r)

		if n > 0 {
			r = NewReader(b)
			require.Empty(t, r.String(n-1), "a string longer than the limit")
			require.ErrorIs(t, r.Err(), ErrMalformed)
		}
	}
}

func TestClipKeepsWholeCharacters(t *testing.T) {
	for maxBytes, want := range []string{"", "a", "a", "aé", "aé", "aé", "aé€", "aé€"} {
		require.Equal(t, want, Clip("aé€", maxBytes), "%d bytes", maxBytes)
	}
	require.Equal(t, "\xff\x80", Clip("\xff\x80", 2), "it fits")
	require.Len(t, Clip(strings.Repeat("\x80", 9), 7), 7, "there are no characters")
	require.Empty(t, Clip("\x80", 0))
}

func TestBytesAreTheLibrarys(t *testing.T) {
	for _, n := range lengths {
		data := bytes.Repeat([]byte{7}, n)
		b := AppendBytes(nil, data)
		require.Equal(t, library(t, func(e *msgpack.Encoder) error { return e.EncodeBytes(data) }), b)
		require.Len(t, b, BytesSize(n))

		r := NewReader(b)
		got := r.Bytes()
		require.Equal(t, data, got)
		require.Equal(t, len(got), cap(got), "appending to what was read must not reach what follows")
		requireEnd(t, &r)
		if n > 0 {
			require.Same(t, &b[len(b)-1], &got[n-1], "it aliases the data")
		}
	}
	require.Equal(t, AppendBytes(nil, []byte{}), AppendBytes(nil, nil), "nil is empty")
}

func TestBytesLenIsTheLibrarys(t *testing.T) {
	for _, n := range append(lengths, math.MaxInt32) {
		b := AppendBytesLen(nil, n)
		require.Equal(t, library(t, func(e *msgpack.Encoder) error { return e.EncodeBytesLen(n) }), b)
		require.Equal(t, len(b)+n, BytesSize(n))
	}
}

func TestArrayLenIsTheLibrarys(t *testing.T) {
	for _, n := range append(lengths, math.MaxInt32) {
		b := AppendArrayLen(nil, n)
		require.Equal(t, library(t, func(e *msgpack.Encoder) error { return e.EncodeArrayLen(n) }), b)
		require.Len(t, b, ArrayLenSize(n))
		if n == math.MaxInt32 {
			continue // no test has that many elements
		}

		r := NewReader(append(b, make([]byte, n)...))
		require.Equal(t, n, r.ArrayLen())
		require.NoError(t, r.Err())
		require.Len(t, r.Rest(), n)
		if n > 0 {
			r = NewReader(append(b, make([]byte, n-1)...))
			require.Zero(t, r.ArrayLen(), "more elements than bytes")
			require.ErrorIs(t, r.Err(), ErrMalformed)
		}
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	dst, data := make([]byte, 0, 256), make([]byte, 100)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		b := AppendArrayLen(dst, 17)
		b = AppendUint(b, math.MaxUint64)
		b = AppendBool(b, true)
		b = AppendString(b, "a string of more than thirty-one bytes")
		AppendBytes(b, data)
	}))
}

// requireEnd requires that r has read everything, without an error.
func requireEnd(t *testing.T, r *Reader) {
	t.Helper()
	require.NoError(t, r.Err())
	require.Empty(t, r.Rest())
}

// reads are all that a Reader reads.
var reads = map[string]func(*Reader){
	"Uint":     func(r *Reader) { r.Uint() },
	"Bool":     func(r *Reader) { r.Bool() },
	"String":   func(r *Reader) { _ = r.String(math.MaxInt) },
	"Bytes":    func(r *Reader) { r.Bytes() },
	"ArrayLen": func(r *Reader) { r.ArrayLen() },
	"Skip":     func(r *Reader) { r.Skip(1) },
}

// samples has a value for each first byte, whole and with nothing behind it;
// none for 0xc1, which MessagePack never uses.
func samples() map[byte][]byte {
	s := map[byte][]byte{}
	for c := range 256 {
		c := byte(c)
		b := []byte{c}
		var n uint64
		l, ok := layoutOf(c)
		if !ok {
			continue
		}
		if l.lengthBytes > 0 {
			n = 3
			b = append(append(b, make([]byte, l.lengthBytes-1)...), byte(n))
		}
		b = append(b, make([]byte, l.bytes+n*l.bytesPer+l.values+n*l.valuesPer)...)
		s[c] = b
	}
	return s
}

func TestEachReadTakesItsOwnTypeOnly(t *testing.T) {
	reader := func(c byte) string {
		switch {
		case c <= 0x7f || c >= 0xcc && c <= 0xcf:
			return "Uint"
		case c == 0xc2 || c == 0xc3:
			return "Bool"
		case c >= 0xa0 && c <= 0xbf || c >= 0xd9 && c <= 0xdb:
			return "String"
		case c >= 0xc4 && c <= 0xc6:
			return "Bytes"
		case c >= 0x90 && c <= 0x9f || c == 0xdc || c == 0xdd:
			return "ArrayLen"
		}
		return "none"
	}
	for c, data := range samples() {
		for name, read := range reads {
			r := NewReader(data)
			read(&r)
			if name == "Skip" || name == reader(c) {
				require.NoError(t, r.Err(), "%s of %x", name, data)
			} else {
				require.ErrorIs(t, r.Err(), ErrMalformed, "%s of %x", name, data)
				require.Empty(t, r.Rest())
			}
		}
	}
}

func TestReadsOfValuesThatEndEarlyFail(t *testing.T) {
	for _, data := range samples() {
		for end := range data {
			for name, read := range reads {
				r := NewReader(data[:end])
				read(&r)
				if name == "ArrayLen" && r.Err() == nil {
					continue // it reads the header only
				}
				require.ErrorIs(t, r.Err(), ErrMalformed, "%s of %x", name, data[:end])
			}
		}
	}
}

func TestTheFirstErrorSticks(t *testing.T) {
	r := NewReader([]byte{0xc3, 0x05})
	require.Zero(t, r.Uint())
	first := r.Err()
	require.ErrorContains(t, first, "not an unsigned integer")
	for _, read := range reads {
		read(&r)
	}
	r.Fail("again")
	require.Equal(t, first, r.Err())
	require.Empty(t, r.Rest())
}

func TestFailIsForTheCallersRanges(t *testing.T) {
	r := NewReader([]byte{0x05, 0x06})
	require.EqualValues(t, 5, r.Uint())
	r.Fail("five is too many")
	require.ErrorIs(t, r.Err(), ErrMalformed)
	require.ErrorContains(t, r.Err(), "five is too many")
	require.Zero(t, r.Uint())
}

func TestSkipPassesOverEveryType(t *testing.T) {
	seen := 0
	for c, data := range samples() {
		seen++
		r := NewReader(append(data, 0x2a))
		r.Skip(1)
		require.NoError(t, r.Err(), "%#x", c)
		require.Equal(t, []byte{0x2a}, r.Rest(), "%#x", c)
		requireSkipAgrees(t, data)
		requireSkipAgrees(t, data[:len(data)-1])
	}
	require.Equal(t, 255, seen)
}

func TestSkipPassesOverNestedValues(t *testing.T) {
	value := library(t, func(e *msgpack.Encoder) error {
		e.SetSortMapKeys(true)
		return e.Encode(map[string]any{
			"list":  []any{1, -1, "two", []byte{3}, nil, true, 4.5, map[string]any{"x": []any{[]any{}}}},
			"empty": map[string]any{},
			"text":  strings.Repeat("long", 100),
		})
	})
	data := append(append([]byte{0x01}, value...), 0x2a)
	r := NewReader(data)
	r.Skip(0)
	require.Len(t, r.Rest(), len(data))
	r.Skip(2)
	require.Equal(t, []byte{0x2a}, r.Rest())
}

// hostile are values that claim or nest more than they hold.
func hostile() map[string][]byte {
	return map[string][]byte{
		"bytes":             {0xc6, 0xff, 0xff, 0xff, 0xff},
		"bytes, 256 MiB":    {0xc6, 0x10, 0x00, 0x00, 0x00},
		"string":            {0xdb, 0xff, 0xff, 0xff, 0xff, 's'},
		"extension":         {0xc9, 0xff, 0xff, 0xff, 0xff, 1},
		"array":             {0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2, 3},
		"map":               {0xdf, 0xff, 0xff, 0xff, 0xff, 1, 2, 3},
		"arrays in arrays":  bytes.Repeat([]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, 100_000),
		"deep arrays":       bytes.Repeat([]byte{0x91}, 1<<17),
		"deep maps":         bytes.Repeat([]byte{0x81}, 1<<17),
		"wide, one missing": append(AppendArrayLen(nil, 1<<17), make([]byte, 1<<17-1)...),
	}
}

func TestW4HugeClaimsFailInConstantMemory(t *testing.T) {
	for name, data := range hostile() {
		for kind, read := range reads {
			if kind == "ArrayLen" && strings.HasPrefix(name, "deep arrays") {
				continue // the outermost one holds one element, as it says
			}
			allocated := leastAllocated(func() {
				r := NewReader(data)
				read(&r)
				require.ErrorIs(t, r.Err(), ErrMalformed, "%s: %s", kind, name)
			})
			require.Less(t, allocated, uint64(4<<10), "%s: %s", kind, name)
		}
	}
}

func TestSkipGoesDeepInConstantMemory(t *testing.T) {
	data := append(bytes.Repeat([]byte{0x91}, 1<<20), 0x2a)
	require.Less(t, leastAllocated(func() {
		r := NewReader(data)
		r.Skip(1)
		requireEnd(t, &r)
	}), uint64(4<<10))
}

// leastAllocated returns how many bytes f allocates: the least of several
// runs, since other goroutines count too.
func leastAllocated(f func()) uint64 {
	least := uint64(math.MaxUint64)
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

// fillFrom reads a stream of data.
func fillFrom(data []byte) func([]byte) error {
	r := bytes.NewReader(data)
	return func(p []byte) error {
		_, err := io.ReadFull(r, p)
		return err
	}
}

func TestReadValueReadsOneValue(t *testing.T) {
	for c, data := range samples() {
		r := iotest.OneByteReader(bytes.NewReader(append(data, 0x2a)))
		got, err := ReadValue(func(p []byte) error { _, err := io.ReadFull(r, p); return err }, 1<<10)
		require.NoError(t, err, "%#x", c)
		require.Equal(t, data, got)
		rest, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, []byte{0x2a}, rest, "it reads no further")
	}
	large := AppendBytes([]byte{0x92, 0x01}, make([]byte, 3<<20))
	got, err := ReadValue(fillFrom(large), len(large))
	require.NoError(t, err)
	require.Equal(t, large, got)
}

func TestReadValueTellsAnEndBeforeFromAnEndWithin(t *testing.T) {
	_, err := ReadValue(fillFrom(nil), 1<<10)
	require.Equal(t, io.EOF, err)
	for _, data := range samples() {
		for end := 1; end < len(data); end++ {
			_, err := ReadValue(fillFrom(data[:end]), 1<<10)
			require.ErrorIs(t, err, ErrMalformed, "%x", data[:end])
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%x", data[:end])
		}
	}
	broken := errors.New("broken")
	_, err = ReadValue(func([]byte) error { return broken }, 1<<10)
	require.Equal(t, broken, err)
}

func TestReadValueKeepsItsLimit(t *testing.T) {
	for _, data := range samples() {
		for limit := range data {
			_, err := ReadValue(fillFrom(data), limit)
			require.ErrorIs(t, err, ErrMalformed, "%x within %d bytes", data, limit)
		}
		_, err := ReadValue(fillFrom(data), len(data))
		require.NoError(t, err)
	}
	_, err := ReadValue(fillFrom([]byte{0xc1}), 1<<10)
	require.ErrorIs(t, err, ErrMalformed)
}

func TestW4ReadValueAllocatesNoMoreThanWhatCame(t *testing.T) {
	for name, data := range hostile() {
		allocated := leastAllocated(func() {
			_, err := ReadValue(fillFrom(data), 64<<20)
			require.ErrorIs(t, err, ErrMalformed, name)
		})
		require.Less(t, allocated, uint64(4<<10+8*len(data)), name)
	}
}

// requireSkipAgrees requires that Skip and ReadValue take what the library's
// Decoder skips.
func requireSkipAgrees(t *testing.T, data []byte) {
	t.Helper()
	theirs := bytes.NewReader(data)
	theirErr := msgpack.NewDecoder(theirs).Skip()
	r := NewReader(data)
	r.Skip(1)
	value, valueErr := ReadValue(fillFrom(data), 1<<20)
	if theirErr != nil {
		require.ErrorIs(t, r.Err(), ErrMalformed, "%x", data)
		require.Error(t, valueErr, "%x", data)
		return
	}
	require.NoError(t, r.Err(), "%x", data)
	require.NoError(t, valueErr, "%x", data)
	require.Equal(t, theirs.Len(), len(r.Rest()), "%x", data)
	require.Equal(t, data[:len(data)-len(r.Rest())], value)
}

// FuzzReader reads arbitrary bytes by an arbitrary sequence of reads, and
// compares Skip and ReadValue with the library.
func FuzzReader(f *testing.F) {
	for _, data := range samples() {
		f.Add([]byte("ubsBaS"), data)
	}
	for _, data := range hostile() {
		f.Add([]byte("SaB"), data[:min(len(data), 64)])
	}
	f.Fuzz(func(t *testing.T, script, data []byte) {
		r := NewReader(data)
		for _, step := range script {
			left := len(r.Rest())
			switch step {
			case 'u':
				v := r.Uint()
				require.LessOrEqual(t, UintSize(v), max(1, left-len(r.Rest())))
			case 'b':
				r.Bool()
			case 's':
				require.LessOrEqual(t, len(r.String(16)), 16)
			case 'B':
				require.LessOrEqual(t, len(r.Bytes()), left)
			case 'a':
				require.LessOrEqual(t, r.ArrayLen(), left)
			default:
				r.Skip(int(step % 4))
			}
			require.LessOrEqual(t, len(r.Rest()), left)
			if r.Err() != nil {
				require.ErrorIs(t, r.Err(), ErrMalformed)
				require.Empty(t, r.Rest())
			}
		}
		if len(data) > 0 && len(data) < 1<<10 {
			requireSkipAgrees(t, data)
		}
	})
}

// FuzzAppend compares the Append functions with the library, and reads back
// what they wrote.
func FuzzAppend(f *testing.F) {
	for _, n := range lengths[:len(lengths)-3] {
		f.Add(uint64(n), strings.Repeat("s", n), bytes.Repeat([]byte{1}, n))
	}
	f.Fuzz(func(t *testing.T, v uint64, s string, data []byte) {
		if data == nil {
			data = []byte{}
		}
		b := AppendArrayLen(nil, 3)
		b = AppendUint(b, v)
		b = AppendString(b, s)
		b = AppendBytes(b, data)
		require.Equal(t, library(t, func(e *msgpack.Encoder) error {
			return errors.Join(e.EncodeArrayLen(3), e.EncodeUint(v), e.EncodeString(s), e.EncodeBytes(data))
		}), b)
		r := NewReader(b)
		require.Equal(t, 3, r.ArrayLen())
		require.Equal(t, v, r.Uint())
		require.Equal(t, s, r.String(len(s)))
		require.Equal(t, data, r.Bytes())
		requireEnd(t, &r)
	})
}

func ExampleReader() {
	data := AppendBytes(AppendUint(AppendArrayLen(nil, 2), 7), []byte("seven"))
	r := NewReader(data)
	n, number, name := r.ArrayLen(), r.Uint(), r.Bytes()
	fmt.Println(n, number, string(name), r.Err())
	// Output: 2 7 seven <nil>
}
