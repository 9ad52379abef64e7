package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// frame returns a frame with message, which is an encoded value.
func frame(t testing.TB, kind, id uint64, message []byte) []byte {
	dst := append(BeginFrame([]byte("before"), kind, id), message...)
	require.NoError(t, EndFrame(dst, len("before"), Part{}))
	return dst[len("before"):]
}

func reader(data []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(data)) }

// TestGoldenFrames compares with the bytes that other releases send. They never
// change; a new kind gets a new file.
func TestGoldenFrames(t *testing.T) {
	hello := Hello{MinVersion: 1, MaxVersion: 1, From: "node-1", To: "node-2", Incarnation: 0x0102030405060708, Purpose: PurposeBulk, Timeout: 500_000}
	for i := range hello.Fingerprint {
		hello.Fingerprint[i] = byte(i)
	}
	welcome := Welcome{Version: 1, Incarnation: 300, Timeout: 125_000}
	refusal := Refusal{Code: 11, Reason: "another cluster"}
	for name, got := range map[string][]byte{
		"frame":   frame(t, 2, 1000, AppendBytes(AppendArrayLen(nil, 1), []byte("message"))),
		"hello":   hello.Append(nil),
		"welcome": welcome.Append(nil),
		"refusal": refusal.Append(nil),
	} {
		assert.Equal(t, hex.Dump(golden(t, name)), hex.Dump(got), name)
	}

	gotHello, err := ReadHello(reader(hello.Append(nil)))
	require.NoError(t, err)
	assert.Equal(t, &hello, gotHello)
	gotWelcome, err := ReadWelcome(reader(welcome.Append(nil)))
	require.NoError(t, err)
	assert.Equal(t, &welcome, gotWelcome)
	_, err = ReadWelcome(reader(refusal.Append(nil)))
	assert.Equal(t, &refusal, err)

	// A peer may leave the timeout out.
	hello.Timeout, welcome.Timeout = 0, 0
	gotHello, err = ReadHello(reader(golden(t, "hello-without-timeout")))
	require.NoError(t, err)
	assert.Equal(t, &hello, gotHello)
	gotWelcome, err = ReadWelcome(reader(golden(t, "welcome-without-timeout")))
	require.NoError(t, err)
	assert.Equal(t, &welcome, gotWelcome)
}

// golden returns the bytes that a file of testdata holds.
func golden(t *testing.T, name string) []byte {
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	require.NoError(t, err)
	data, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	require.NoError(t, err, name)
	return data
}

func TestFrameRoundTrip(t *testing.T) {
	var stream []byte
	sizes := []int{0, 1, 100, 1 << 16, eagerBytes, 2*eagerBytes + 5}
	for i, size := range sizes {
		stream = append(stream, frame(t, 7, uint64(i), AppendBytes(nil, bytes.Repeat([]byte{byte(i)}, size)))...)
	}
	r := reader(stream)
	for i, size := range sizes {
		body, _, err := ReadFrame(r, &Gate{})
		require.NoError(t, err)
		kind, id, message, err := ParseBody(body)
		require.NoError(t, err)
		assert.EqualValues(t, 7, kind)
		assert.EqualValues(t, i, id)
		value := NewReader(message)
		assert.Len(t, value.Bytes(), size)
	}
	_, _, err := ReadFrame(r, &Gate{})
	assert.Equal(t, io.EOF, err, "the end between two frames")
}

func TestFrameTooLarge(t *testing.T) {
	dst := make([]byte, headerBytes+MaxFrame)
	assert.ErrorIs(t, EndFrame(dst, 0, Part{}), ErrFrameTooLarge)
}

// TestMalformedFrames damages a frame in every byte and cuts it everywhere.
func TestMalformedFrames(t *testing.T) {
	whole := frame(t, 3, 9, AppendString(nil, "message"))
	for cut := 1; cut < len(whole); cut++ {
		_, _, err := ReadFrame(reader(whole[:cut]), &Gate{})
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut at %d", cut)
	}
	for at := range whole {
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[at] ^= 1 << bit
			_, _, err := ReadFrame(reader(damaged), &Gate{})
			assert.Error(t, err, "bit %d of byte %d", bit, at)
		}
	}
	for _, length := range []uint32{0, MinFrame - 1, MaxFrame + 1, 1 << 31, 1<<32 - 1} {
		header := binary.BigEndian.AppendUint32(nil, length)
		gate := &Gate{Reserve: func(int) error { t.Error("reserved for a bad length"); return nil }}
		_, _, err := ReadFrame(reader(append(header, whole[4:]...)), gate)
		assert.ErrorIs(t, err, ErrMalformed, "length %d", length)
	}
	for _, body := range []string{"", "\xc0", "\x90", "\x92\x01\x01", "\x93\x01\x01", "\x93\x01\xc0\x90", "\x94\x01\x01\x90", "\x94\x01\x01\x90\x90\x90", "\xdd\xff\xff\xff\xff\x01\x01\x90"} {
		_, _, _, err := ParseBody([]byte(body))
		assert.ErrorIs(t, err, ErrMalformed, "%x", body)
	}
	kind, id, message, err := ParseBody([]byte("\x95\x01\x02\x91\x07\xa1x\x91\x90"))
	require.NoError(t, err, "elements of a later version")
	assert.Equal(t, []any{uint64(1), uint64(2), []byte{0x91, 7}}, []any{kind, id, message})
}

// TestClaimedLength checks that memory is taken for bytes that came, not for
// bytes that were announced.
func TestClaimedLength(t *testing.T) {
	reserved := 0
	gate := &Gate{
		Reserve: func(bytes int) error { reserved += bytes; return nil },
		Release: func(bytes int) { reserved -= bytes },
	}
	claim := append(binary.BigEndian.AppendUint32(nil, MaxFrame), "abcd and a few bytes"...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := ReadFrame(reader(claim), gate)
	runtime.ReadMemStats(&after)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(5<<20))
	assert.Zero(t, reserved)

	gate.Reserve = func(int) error { return errors.New("no") }
	_, _, err = ReadFrame(reader(claim), gate)
	assert.EqualError(t, err, "no")
}

func TestFrameAllocations(t *testing.T) {
	data := frame(t, 7, 1, AppendBytes(nil, make([]byte, 1<<20)))
	source := bytes.NewReader(data)
	r := bufio.NewReaderSize(source, 16<<10)
	gate := &Gate{}
	allocations := testing.AllocsPerRun(20, func() {
		source.Reset(data)
		r.Reset(source)
		if _, _, err := ReadFrame(r, gate); err != nil {
			t.Fatal(err)
		}
	})
	assert.LessOrEqual(t, allocations, 2.0, "the body, and the header that escapes")
}

func TestHandshakePeculiarities(t *testing.T) {
	base := Hello{MinVersion: 1, MaxVersion: 1, From: "a", To: "b", Purpose: PurposeControl}
	for input, want := range map[string]error{
		"\x16\x03\x01\x02\x00\x01":             ErrPeerSpeaksTLS,
		"\x15\x03\x01\x00\x02\x02\x46":         ErrPeerSpeaksTLS,
		"GET / HTTP/1.1\r\n\r\n":               ErrPreamble,
		"":                                     io.EOF,
		Preamble[:3]:                           io.ErrUnexpectedEOF,
		Preamble:                               io.ErrUnexpectedEOF,
		Preamble + "\x00\x01\x00\x00aaaabbbbb": ErrMalformed, // longer than a handshake may be
		Preamble + string(frame(t, 1, 0, twoNils)): ErrMalformed,
	} {
		_, err := ReadHello(reader([]byte(input)))
		assert.ErrorIs(t, err, want, "%q", input)
	}
	long := base
	long.From = strings.Repeat("x", maxName+1)
	_, err := ReadHello(reader(long.Append(nil)))
	assert.ErrorIs(t, err, ErrMalformed)

	// A later version may add fields.
	fields := AppendArrayLen(nil, 10)
	for _, v := range []uint64{1, 5} {
		fields = AppendUint(fields, v)
	}
	fields = AppendBytes(fields, make([]byte, 16))
	fields = AppendUint(AppendUint(AppendUint(AppendString(AppendString(fields, "a"), "b"), 1), 1), 9)
	fields = AppendString(AppendBytes(fields, []byte("more")), "and more")
	hello, err := ReadHello(reader(append([]byte(Preamble), frame(t, KindHello, 0, fields)...)))
	require.NoError(t, err)
	assert.EqualValues(t, 5, hello.MaxVersion)
	assert.EqualValues(t, 9, hello.Timeout)

	refusal := Refusal{Reason: strings.Repeat("because ", 1000)}
	_, err = ReadWelcome(reader(refusal.Append(nil)))
	assert.ErrorContains(t, err, "because because")
}

var twoNils = []byte{0x92, 0xc0, 0xc0} // an array of two nils

func TestBudget(t *testing.T) {
	b := NewBudget(100)
	done := make(chan struct{})
	require.True(t, b.Acquire(done, 1000), "more than all there is, when nothing is taken")
	admitted := make(chan int, 10)
	var waiters [3]chan struct{}
	for i, bytes := range []int{90, 20, 5} {
		waiters[i] = make(chan struct{})
		go func() {
			if b.Acquire(waiters[i], bytes) {
				admitted <- i
			} else {
				admitted <- -1 - i
			}
		}()
		require.Eventually(t, func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.waiters) == i+1
		}, 5*time.Second, time.Millisecond)
	}
	b.Release(1000)
	assert.Equal(t, 0, <-admitted, "the first in line")
	assert.Equal(t, 90, b.Used())
	close(waiters[1])
	assert.ElementsMatch(t, []int{-2, 2}, []int{<-admitted, <-admitted}, "the second gives up, the third fits")
	assert.Equal(t, 95, b.Used())
	b.Release(95)
	assert.Zero(t, b.Used())
}

// FuzzFrame reads any bytes as a connection's: it must not panic, nor take more
// memory than came, and what it accepts must be what was framed.
func FuzzFrame(f *testing.F) {
	f.Add(frame(f, 1, 2, []byte{0x90}))
	f.Add((&Hello{MinVersion: 1, MaxVersion: 1, From: "a", To: "b"}).Append(nil))
	f.Add((&Welcome{Version: 1}).Append(nil))
	f.Add((&Refusal{Code: 1, Reason: "r"}).Append(nil))
	f.Add([]byte("\x80\x00\x00\x00aaaa"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if hello, err := ReadHello(reader(data)); err == nil {
			again, err := ReadHello(reader(hello.Append(nil)))
			require.NoError(t, err)
			require.Equal(t, hello, again)
		}
		ReadWelcome(reader(data))
		r, consumed := reader(data), 0
		for {
			body, _, err := ReadFrame(r, &Gate{Limit: 1 << 20})
			if err != nil {
				break
			}
			require.Equal(t, data[consumed+headerBytes:consumed+headerBytes+len(body)], body)
			consumed += headerBytes + len(body)
			if kind, id, message, err := ParseBody(body); err == nil {
				framed := frame(t, kind, id, message)
				again, _, err := ReadFrame(reader(framed), &Gate{})
				require.NoError(t, err)
				kind2, id2, message2, err := ParseBody(again)
				require.NoError(t, err)
				require.Equal(t, []any{kind, id, message}, []any{kind2, id2, message2})
			}
		}
		// Bytes with a correct header get past the checksum.
		body := append(make([]byte, headerBytes), data...)
		if len(data) >= 4 && EndFrame(body, 0, Part{}) == nil {
			got, _, err := ReadFrame(reader(body), &Gate{})
			require.NoError(t, err)
			ParseBody(got)
			ReadHello(reader(append([]byte(Preamble), body...)))
			ReadWelcome(reader(append([]byte(Preamble), body...)))
		}
	})
}
