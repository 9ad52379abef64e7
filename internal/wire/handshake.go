package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Preamble opens both directions of a connection. Its first byte is not ASCII,
// so that no text protocol is taken for it, nor it for one.
const Preamble = "\x8craft\r\n\x00"

// The versions of the protocol that this package speaks. Two nodes use the
// highest that both speak. Fields and kinds may be added without a new version:
// what is unknown is skipped or refused politely.
const (
	MinVersion = 1
	MaxVersion = 1
)

// The kinds of frames of the handshake.
const (
	KindHello   = 96
	KindWelcome = 97
	KindRefusal = 98
)

// What a connection is for.
const (
	PurposeControl = 1 // small and urgent requests
	PurposeBulk    = 2 // log entries, snapshots
)

// The limits of the handshake, whose sender is not known yet.
const (
	MaxHandshakeFrame = 4 << 10
	maxName           = 128
	maxReason         = 1 << 10
)

// How many fields a message of the handshake has at least. The timeout came
// later: a peer may leave it out.
const (
	helloFields   = 7
	welcomeFields = 2
	refusalFields = 2
)

// Errors of reading a handshake, beside ErrMalformed.
var (
	// ErrPeerSpeaksTLS is returned when a TLS record stands in place of the preamble.
	ErrPeerSpeaksTLS = errors.New("peer speaks TLS, this node does not")
	// ErrPreamble is returned when something else does.
	ErrPreamble = errors.New("peer does not speak the raft protocol")
)

// Hello is what the side that dials says first.
type Hello struct {
	MinVersion, MaxVersion uint64
	Fingerprint            [16]byte // of the cluster; zero if the sender has none yet
	From, To               string
	Incarnation            uint64 // of the sender's storage
	Purpose                uint64
	Timeout                uint64 // the sender's, in microseconds: it wants to hear something twice in it; 0: not said
}

// Append appends the preamble and the frame.
func (h *Hello) Append(dst []byte) []byte {
	dst = append(dst, Preamble...)
	start := len(dst)
	dst = BeginFrame(dst, KindHello, 0)
	dst = AppendArrayLen(dst, helloFields+1)
	dst = AppendUint(dst, h.MinVersion)
	dst = AppendUint(dst, h.MaxVersion)
	dst = AppendBytes(dst, h.Fingerprint[:])
	dst = AppendString(dst, h.From)
	dst = AppendString(dst, h.To)
	dst = AppendUint(dst, h.Incarnation)
	dst = AppendUint(dst, h.Purpose)
	dst = AppendUint(dst, h.Timeout)
	return endSmallFrame(dst, start)
}

// ReadHello reads the preamble and a hello.
func ReadHello(r *bufio.Reader) (*Hello, error) {
	kind, fields, err := readHandshake(r)
	if err != nil {
		return nil, err
	}
	if kind != KindHello {
		return nil, fmt.Errorf("%w: a frame of kind %d in place of a hello", ErrMalformed, kind)
	}
	h := new(Hello)
	n := fields.ArrayLen()
	if fields.Err() == nil && n < helloFields {
		fields.Fail("hello has too few fields")
	}
	h.MinVersion, h.MaxVersion = fields.Uint(), fields.Uint()
	if b := fields.Bytes(); len(b) == len(h.Fingerprint) {
		copy(h.Fingerprint[:], b)
	} else {
		fields.Fail("fingerprint is not of 16 bytes")
	}
	h.From, h.To = fields.String(maxName), fields.String(maxName)
	h.Incarnation, h.Purpose = fields.Uint(), fields.Uint()
	h.Timeout = readTimeout(&fields, n-helloFields)
	return h, fields.Err()
}

// Welcome is the answer to a Hello that is accepted.
type Welcome struct {
	Version     uint64 // that this connection uses
	Incarnation uint64 // of the responder's storage
	Timeout     uint64 // the responder's, as in Hello
}

// Append appends the preamble and the frame.
func (w *Welcome) Append(dst []byte) []byte {
	dst = append(dst, Preamble...)
	start := len(dst)
	dst = BeginFrame(dst, KindWelcome, 0)
	dst = AppendArrayLen(dst, welcomeFields+1)
	dst = AppendUint(dst, w.Version)
	dst = AppendUint(dst, w.Incarnation)
	dst = AppendUint(dst, w.Timeout)
	return endSmallFrame(dst, start)
}

// Refusal is the answer to a Hello that is not. It is an error.
type Refusal struct {
	Code   uint64 // of the class of the error
	Reason string // for people
}

func (e *Refusal) Error() string { return e.Reason }

// Append appends the preamble and the frame.
func (e *Refusal) Append(dst []byte) []byte {
	dst = append(dst, Preamble...)
	start := len(dst)
	dst = BeginFrame(dst, KindRefusal, 0)
	dst = AppendArrayLen(dst, refusalFields)
	dst = AppendUint(dst, e.Code)
	dst = AppendString(dst, Clip(e.Reason, maxReason))
	return endSmallFrame(dst, start)
}

// ReadWelcome reads the preamble and a welcome. A refusal is returned as the
// error *Refusal.
func ReadWelcome(r *bufio.Reader) (*Welcome, error) {
	kind, fields, err := readHandshake(r)
	if err != nil {
		return nil, err
	}
	n := fields.ArrayLen()
	if fields.Err() == nil && n < min(welcomeFields, refusalFields) {
		fields.Fail("answer to a hello has too few fields")
	}
	switch kind {
	case KindWelcome:
		w := &Welcome{Version: fields.Uint(), Incarnation: fields.Uint()}
		w.Timeout = readTimeout(&fields, n-welcomeFields)
		return w, fields.Err()
	case KindRefusal:
		e := &Refusal{Code: fields.Uint(), Reason: fields.String(maxReason)}
		if fields.Err() != nil {
			return nil, fields.Err()
		}
		return nil, e
	default:
		return nil, fmt.Errorf("%w: a frame of kind %d in place of an answer to a hello", ErrMalformed, kind)
	}
}

// readTimeout reads the field behind those that every peer sends, if it is
// there, and skips what a later version has put behind it.
func readTimeout(fields *Reader, left int) (timeout uint64) {
	if left > 0 {
		timeout = fields.Uint()
		left--
	}
	fields.Skip(left)
	return timeout
}

// readHandshake reads the preamble and one small frame. It recognises a wrong
// preamble as early as possible.
func readHandshake(r *bufio.Reader) (kind uint64, fields Reader, err error) {
	for n := 1; n <= len(Preamble); n++ {
		got, err := r.Peek(n)
		switch {
		case err == io.EOF && n > 1:
			return 0, fields, io.ErrUnexpectedEOF
		case err != nil:
			return 0, fields, err
		case n == 2 && (got[0] == 0x16 || got[0] == 0x15) && got[1] == 0x03: // a TLS handshake or alert record
			return 0, fields, ErrPeerSpeaksTLS
		case n > 1 && !bytes.HasPrefix([]byte(Preamble), got):
			return 0, fields, fmt.Errorf("%w: it starts with % x", ErrPreamble, got)
		}
	}
	if _, err := r.Discard(len(Preamble)); err != nil {
		return 0, fields, err
	}
	body, _, err := ReadFrame(r, &Gate{Limit: MaxHandshakeFrame})
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, fields, err
	}
	kind, _, message, err := ParseBody(body)
	return kind, NewReader(message), err
}

// endSmallFrame ends a frame that cannot be too large.
func endSmallFrame(dst []byte, start int) []byte {
	if err := EndFrame(dst, start, Part{}); err != nil {
		panic(fmt.Sprintf("wire: frame of a handshake: %v", err))
	}
	return dst
}
