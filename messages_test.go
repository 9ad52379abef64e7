package raft

import (
	"bytes"
	"encoding"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// anyMessage is what every message does, by pointer.
type anyMessage interface {
	encoding.BinaryAppender
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
	msgpack.CustomEncoder
	msgpack.CustomDecoder
}

// Values do what only reads them, so that a message nests as a value too.
var _ = []interface {
	encoding.BinaryAppender
	encoding.BinaryMarshaler
	msgpack.CustomEncoder
}{
	VoteRequest{}, VoteResponse{}, Heartbeat{}, HeartbeatResponse{}, AppendEntries{}, AppendResponse{},
	InstallSnapshot{}, SnapshotResponse{}, TimeoutNow{}, TimeoutNowResponse{}, ForwardRequest{}, ForwardResponse{},
}

// messages returns a new one of each kind.
func messages() []anyMessage {
	return []anyMessage{
		&VoteRequest{}, &VoteResponse{}, &Heartbeat{}, &HeartbeatResponse{}, &AppendEntries{}, &AppendResponse{},
		&InstallSnapshot{}, &SnapshotResponse{}, &TimeoutNow{}, &TimeoutNowResponse{}, &ForwardRequest{}, &ForwardResponse{},
	}
}

// newLike returns an empty message of the kind of m.
func newLike(m anyMessage) anyMessage {
	return reflect.New(reflect.TypeOf(m).Elem()).Interface().(anyMessage)
}

func nameOf(m anyMessage) string { return reflect.TypeOf(m).Elem().Name() }

// minimal sets what no message may lack, and leaves the rest at zero.
func minimal(m anyMessage) anyMessage {
	if h := reflect.ValueOf(m).Elem().FieldByName("Header"); h.IsValid() {
		h.Set(reflect.ValueOf(Header{From: "a", To: "b"}))
	}
	return m
}

// fill sets every field of m to random values, among them those around each
// change of an encoding's length.
func fill(random *rand.Rand, m anyMessage) anyMessage {
	fillStruct(random, reflect.ValueOf(m).Elem())
	if a, ok := m.(*AppendEntries); ok {
		a.PrevLogIndex = min(a.PrevLogIndex, math.MaxUint64-100)
		a.Entries = randomEntries(random, a.PrevLogIndex+1, random.IntN(20))
	}
	return m
}

func fillStruct(random *rand.Rand, v reflect.Value) {
	for i := range v.NumField() {
		switch field := v.Field(i); p := field.Addr().Interface().(type) {
		case *Header:
			fillStruct(random, field)
			p.From, p.To = randomID(random), randomID(random)
		case *[16]byte:
			for i := range p {
				p[i] = byte(random.Uint32())
			}
		case *NodeID:
			if *p = ""; random.IntN(3) > 0 {
				*p = randomID(random)
			}
		case *bool:
			*p = random.IntN(2) == 0
		case *string:
			*p = strings.Repeat("s", randomLength(random))
		case *[]byte:
			if *p = nil; random.IntN(3) > 0 {
				*p = bytes.Repeat([]byte{byte(random.Uint32())}, 1+randomLength(random))
			}
		case *Entries:
		case *[]Contact:
			for range random.IntN(4) {
				*p = append(*p, Contact{randomID(random), randomNumber(random)})
			}
		default:
			field.SetUint(randomNumber(random) & (1<<field.Type().Bits() - 1))
		}
	}
}

func randomNumber(random *rand.Rand) uint64 {
	return 1<<random.IntN(64) - 1 + uint64(random.IntN(3))
}

func randomLength(random *rand.Rand) int {
	lengths := []int{0, 1, 31, 32, 255, 256, maxAddressBytes}
	return lengths[random.IntN(len(lengths))]
}

func randomID(random *rand.Rand) NodeID {
	id := make([]byte, []int{1, 8, 31, 32, maxIDBytes}[random.IntN(5)])
	for i := range id {
		id[i] = "abcxyzABCXYZ0189_-"[random.IntN(18)]
	}
	return NodeID(id)
}

// each runs f with a minimal message of each kind and with some random ones.
func each(t *testing.T, f func(t *testing.T, m anyMessage)) {
	for _, kind := range messages() {
		t.Run(nameOf(kind), func(t *testing.T) {
			f(t, minimal(newLike(kind)))
			random := rand.New(rand.NewPCG(1, 2))
			for range 20 {
				f(t, fill(random, newLike(kind)))
			}
		})
	}
}

func encode(t testing.TB, m encoding.BinaryAppender) []byte {
	t.Helper()
	data, err := m.AppendBinary(nil)
	require.NoError(t, err)
	return data
}

func TestMessagesRoundTrip(t *testing.T) {
	each(t, func(t *testing.T, m anyMessage) {
		data := encode(t, m)

		got := newLike(m)
		require.NoError(t, got.UnmarshalBinary(data))
		require.Equal(t, m, got)

		used := fill(rand.New(rand.NewPCG(3, 4)), newLike(m))
		require.NoError(t, used.UnmarshalBinary(data))
		require.Equal(t, m, used, "decoding replaces every field")

		appended, err := m.AppendBinary([]byte("before"))
		require.NoError(t, err)
		require.Equal(t, "before"+string(data), string(appended))

		marshaled, err := m.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, data, marshaled)
	})
}

func TestEmptyBytesAreNil(t *testing.T) {
	header := Header{From: "a", To: "b"}
	for _, pair := range [][2]anyMessage{
		{&InstallSnapshot{Header: header}, &InstallSnapshot{Header: header, Data: []byte{}}},
		{&ForwardRequest{Header: header}, &ForwardRequest{Header: header, Payload: []byte{}}},
		{&ForwardResponse{}, &ForwardResponse{Payload: []byte{}}},
		{&AppendEntries{Header: header}, &AppendEntries{Header: header, Entries: MakeEntries()}},
	} {
		data := encode(t, pair[1])
		require.Equal(t, encode(t, pair[0]), data)
		got := newLike(pair[0])
		require.NoError(t, got.UnmarshalBinary(data))
		require.Equal(t, pair[0], got)
	}
}

// reference encodes v with the msgpack library, and finds the fields by
// reflection: in the order of their declaration, those of an embedded struct
// in its place.
func reference(t *testing.T, m anyMessage) []byte {
	t.Helper()
	var b bytes.Buffer
	e := msgpack.NewEncoder(&b)
	fields := flatten(reflect.ValueOf(m).Elem())
	require.NoError(t, e.EncodeArrayLen(len(fields)))
	for _, field := range fields {
		switch v := field.Interface().(type) {
		case bool:
			require.NoError(t, e.EncodeBool(v))
		case [16]byte:
			require.NoError(t, e.EncodeBytes(v[:]))
		case []byte:
			require.NoError(t, e.EncodeBytes(append([]byte{}, v...)))
		case Entries:
			require.NoError(t, e.EncodeBytes(append([]byte{}, referenceEntries(t, v)...)))
		case []Contact:
			require.NoError(t, e.EncodeArrayLen(len(v)))
			for _, contact := range v {
				require.NoError(t, e.EncodeArrayLen(2))
				require.NoError(t, e.EncodeString(string(contact.ID)))
				require.NoError(t, e.EncodeUint(contact.Incarnation))
			}
		default:
			if field.Kind() == reflect.String {
				require.NoError(t, e.EncodeString(field.String()))
			} else {
				require.NoError(t, e.EncodeUint(field.Uint()))
			}
		}
	}
	return b.Bytes()
}

func flatten(v reflect.Value) []reflect.Value {
	var fields []reflect.Value
	for i := range v.NumField() {
		if v.Type().Field(i).Anonymous {
			fields = append(fields, flatten(v.Field(i))...)
		} else {
			fields = append(fields, v.Field(i))
		}
	}
	return fields
}

func TestMessagesAreWhatTheLibraryWrites(t *testing.T) {
	each(t, func(t *testing.T, m anyMessage) {
		require.Equal(t, reference(t, m), encode(t, m))
	})
}

// golden are messages whose bytes are under testdata: these must never change.
func golden() []anyMessage {
	header := Header{
		Fingerprint: [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		Group:       0, From: "node-1", To: "node-2", Incarnation: 0x0123456789abcdef,
	}
	entries := MakeEntries(
		LogEntry{Term: 3, Index: 1000, Kind: EntryCommand, Data: []byte("set x 1")},
		LogEntry{Term: 5, Index: 1001, Kind: EntryNoop},
		LogEntry{Term: 5, Index: 1002, Kind: EntryConfiguration, Data: []byte("members")},
		LogEntry{Term: 5, Index: 1003, Kind: EntryCommand, Data: bytes.Repeat([]byte{0xab}, 300)},
	)
	return []anyMessage{
		&VoteRequest{Header: header, Term: 5, LastLogIndex: 1000, LastLogTerm: 4, PreVote: true, Transfer: true},
		&VoteResponse{Term: 5, VoteGranted: true, PreVote: true, Refusal: RefusalNone, Incarnation: 70000},
		&VoteResponse{Term: 6, Refusal: RefusalHasLeader, Leader: "node-3", Incarnation: 70000},
		&Heartbeat{Header: header, Term: 5, Commit: 999, Round: 128, LeaderAddress: "10.0.0.1:7000", Contacts: []Contact{{"node-2", 300}, {"node-3", 1 << 40}}},
		&HeartbeatResponse{Term: 5, Round: 128, Incarnation: 1 << 63, Quiet: 500_000_000},
		&AppendEntries{Header: header, Term: 5, PrevLogIndex: 999, PrevLogTerm: 3, Entries: entries, LeaderCommit: 998, LeaderAddress: "10.0.0.1:7000"},
		&AppendEntries{Header: header, Term: 5, PrevLogIndex: 999, PrevLogTerm: 3, LeaderCommit: 999},
		&AppendResponse{Term: 5, Success: true, Match: 1003, Incarnation: 255},
		&AppendResponse{Term: 5, PrevLogIndex: 999, ConflictIndex: 900, ConflictTerm: 2, Incarnation: 255},
		&InstallSnapshot{Header: header, Term: 5, LastIndex: 100000, LastTerm: 4, Transfer: 7, Size: 1 << 32, Offset: 1 << 20, Data: []byte("chunk")},
		&SnapshotResponse{Term: 5, Next: 1<<20 + 5, Match: 100000, Incarnation: 256},
		&TimeoutNow{Header: header, Term: 5},
		&TimeoutNowResponse{Term: 5, Started: true, Incarnation: 65536},
		&ForwardRequest{Header: header, Kind: ForwardPropose, Payload: []byte("set x 1")},
		&ForwardResponse{Code: CodeNotLeader, Term: 5, Leader: "node-3", Address: "10.0.0.3:7000", Message: "raft: not the leader: that is node-3 at 10.0.0.3:7000"},
		&ForwardResponse{Code: CodeOK, Index: 1004, Term: 5, Payload: []byte("ok")},
	}
}

const goldenFile = "testdata/golden/messages.txt"

func TestV1GoldenBytesOfMessages(t *testing.T) {
	var lines []string
	for _, m := range golden() {
		lines = append(lines, fmt.Sprintf("%s: %x", nameOf(m), encode(t, m)))
	}
	for _, m := range messages() {
		lines = append(lines, fmt.Sprintf("%s, zero: %x", nameOf(m), encode(t, minimal(m))))
	}
	if *rewrite {
		require.NoError(t, os.MkdirAll("testdata/golden", 0o755))
		require.NoError(t, os.WriteFile(goldenFile, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	}
	text, err := os.ReadFile(goldenFile)
	require.NoError(t, err)
	want := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	require.Equal(t, want, lines, "the bytes of a message are part of the protocol")

	for i, m := range golden() {
		_, digits, _ := strings.Cut(want[i], ": ")
		data, err := hex.DecodeString(digits)
		require.NoError(t, err)
		got := newLike(m)
		require.NoError(t, got.UnmarshalBinary(data))
		require.Equal(t, m, got)
	}
}

// withMore returns the message data with count more fields, encoded in more.
func withMore(t *testing.T, data []byte, count int, more []byte) []byte {
	r := wire.NewReader(data)
	n := r.ArrayLen()
	require.NoError(t, r.Err())
	return append(append(wire.AppendArrayLen(nil, n+count), r.Rest()...), more...)
}

func TestV1UnknownTrailingFieldIsSkipped(t *testing.T) {
	var later bytes.Buffer
	require.NoError(t, msgpack.NewEncoder(&later).EncodeMulti(
		7, -7, nil, true, 1.5, "text", []byte("bytes"), []any{1, []any{"nested", []any{}}}, map[string]any{"key": []any{2}},
		msgpack.RawMessage{0xd4, 1, 2}, msgpack.RawMessage{0xc7, 2, 1, 3, 4},
	))
	each(t, func(t *testing.T, m anyMessage) {
		data := withMore(t, encode(t, m), 11, later.Bytes())
		got := newLike(m)
		require.NoError(t, got.UnmarshalBinary(data))
		require.Equal(t, m, got)

		d := msgpack.NewDecoder(bytes.NewReader(append(data, 0x2a)))
		got = newLike(m)
		require.NoError(t, got.DecodeMsgpack(d))
		require.Equal(t, m, got)
		next, err := d.DecodeUint64()
		require.NoError(t, err)
		require.EqualValues(t, 0x2a, next, "it reads no further")
	})
}

func TestV1UnknownNumbersAreKept(t *testing.T) {
	for _, m := range []anyMessage{
		&VoteResponse{Refusal: 255},
		&ForwardRequest{Header: Header{From: "a", To: "b"}, Kind: 255},
		&ForwardResponse{Code: 65535},
	} {
		got := newLike(m)
		require.NoError(t, got.UnmarshalBinary(encode(t, m)))
		require.Equal(t, m, got)
	}
}

// requireInvalid requires that data is no message of the kind of m, however
// it is read.
func requireInvalid(t *testing.T, m anyMessage, data []byte, why ...any) {
	t.Helper()
	require.ErrorIs(t, newLike(m).UnmarshalBinary(data), ErrInvalidMessage, why...)
	if len(data) > 0 {
		require.ErrorIs(t, newLike(m).DecodeMsgpack(msgpack.NewDecoder(bytes.NewReader(data))), ErrInvalidMessage, why...)
	}
}

func TestW4TruncatedMessagesAreRefused(t *testing.T) {
	each(t, func(t *testing.T, m anyMessage) {
		data := encode(t, m)
		for end := range data {
			require.ErrorIs(t, newLike(m).UnmarshalBinary(data[:end]), ErrInvalidMessage, "%x", data[:end])
		}
	})
	for _, m := range golden() {
		data := encode(t, m)
		for end := range data {
			requireInvalid(t, m, data[:end])
		}
	}
}

func TestW4AnEndOfTheStreamIsNoMessage(t *testing.T) {
	for _, m := range messages() {
		require.Equal(t, io.EOF, m.DecodeMsgpack(msgpack.NewDecoder(bytes.NewReader(nil))))
	}
}

func TestW4TooFewFieldsAreRefused(t *testing.T) {
	for _, m := range golden() {
		fields := flatten(reflect.ValueOf(m).Elem())
		data := encode(t, m)
		r := wire.NewReader(data)
		require.Equal(t, len(fields), r.ArrayLen())
		for n := range fields {
			all := r.Rest()
			fewer := wire.NewReader(all)
			fewer.Skip(n)
			short := append(wire.AppendArrayLen(nil, n), all[:len(all)-len(fewer.Rest())]...)
			requireInvalid(t, m, short)
		}
	}
}

func TestW4BytesBehindAMessageAreRefused(t *testing.T) {
	each(t, func(t *testing.T, m anyMessage) {
		err := newLike(m).UnmarshalBinary(append(encode(t, m), 0xc0))
		require.ErrorIs(t, err, ErrInvalidMessage)
		require.ErrorContains(t, err, nameOf(m))
		require.ErrorContains(t, err, "bytes behind the message")
	})
}

// TestW4WrongTypesAreRefused puts a value of every other type in the place of
// each field.
func TestW4WrongTypesAreRefused(t *testing.T) {
	types := map[string][]byte{
		"nil": {0xc0}, "bool": {0xc3}, "negative": {0xff}, "unsigned": {0x01}, "signed": {0xd0, 0x01}, "float": {0xca, 0, 0, 0, 0},
		"string": {0xa1, 'x'}, "bytes": {0xc4, 0x01, 0x01}, "array": {0x90}, "map": {0x80}, "extension": {0xd4, 0, 0}, "unused": {0xc1},
	}
	for _, m := range golden() {
		fields := flatten(reflect.ValueOf(m).Elem())
		data := encode(t, m)
		for i, field := range fields {
			own := "unsigned"
			switch field.Kind() {
			case reflect.Bool:
				own = "bool"
			case reflect.String:
				own = "string"
			case reflect.Slice, reflect.Array, reflect.Struct:
				own = "bytes"
			}
			if field.Type() == reflect.TypeFor[[]Contact]() {
				own = "array"
			}
			r := wire.NewReader(data)
			r.ArrayLen()
			r.Skip(i)
			before := data[:len(data)-len(r.Rest())]
			r.Skip(1)
			require.NoError(t, r.Err())
			for name, value := range types {
				if name == own {
					continue
				}
				changed := append(append(append([]byte{}, before...), value...), r.Rest()...)
				requireInvalid(t, m, changed, "%s: %s in field %d", nameOf(m), name, i+1)
			}
		}
	}
}

// TestW4ValuesOutOfRangeAreRefused by both ends: what one end would refuse,
// the other does not send. The bytes come from the reference encoder.
func TestW4ValuesOutOfRangeAreRefused(t *testing.T) {
	header := Header{From: "a", To: "b"}
	badIDs := []NodeID{".a", "a b", "ä", "a/b", NodeID(strings.Repeat("a", maxIDBytes+1))}
	var bad []anyMessage
	for _, id := range append(badIDs, "") {
		bad = append(bad,
			&TimeoutNow{Header: Header{From: id, To: "b"}}, &TimeoutNow{Header: Header{From: "a", To: id}},
			&VoteRequest{Header: Header{From: id, To: "b"}}, &Heartbeat{Header: Header{From: "a", To: id}},
			&AppendEntries{Header: Header{From: id, To: "b"}}, &InstallSnapshot{Header: Header{From: id, To: "b"}},
			&ForwardRequest{Header: Header{From: "a", To: id}},
		)
	}
	for _, id := range badIDs {
		bad = append(bad, &VoteResponse{Leader: id}, &ForwardResponse{Leader: id})
	}
	long := strings.Repeat("a", maxAddressBytes+1)
	bad = append(bad,
		&Heartbeat{Header: header, LeaderAddress: long}, &AppendEntries{Header: header, LeaderAddress: long}, &ForwardResponse{Address: long},
		&AppendEntries{Header: header, PrevLogIndex: math.MaxUint64},
		&AppendEntries{Header: header, Entries: MakeEntries(LogEntry{Term: 0, Index: 1, Kind: EntryNoop})},
	)
	for _, m := range bad {
		requireInvalid(t, m, reference(t, m), "%+v", m)
		dst, err := m.AppendBinary([]byte("before"))
		require.ErrorIs(t, err, ErrInvalidMessage, "%+v", m)
		require.Equal(t, "before", string(dst))
		var b bytes.Buffer
		require.ErrorIs(t, m.EncodeMsgpack(msgpack.NewEncoder(&b)), ErrInvalidMessage)
		require.Zero(t, b.Len())
	}
}

func TestW4NumbersOutOfRangeAreRefused(t *testing.T) {
	replace := func(m anyMessage, field int, value uint64) []byte {
		data := encode(t, m)
		r := wire.NewReader(data)
		r.ArrayLen()
		r.Skip(field)
		before := data[:len(data)-len(r.Rest())]
		r.Skip(1)
		return append(wire.AppendUint(append([]byte{}, before...), value), r.Rest()...)
	}
	vote, forward, response := &VoteResponse{}, &ForwardRequest{Header: Header{From: "a", To: "b"}}, &ForwardResponse{}
	require.NoError(t, newLike(vote).UnmarshalBinary(replace(vote, 3, 255)))
	requireInvalid(t, vote, replace(vote, 3, 256))
	require.NoError(t, newLike(forward).UnmarshalBinary(replace(forward, 5, 255)))
	requireInvalid(t, forward, replace(forward, 5, 256))
	require.NoError(t, newLike(response).UnmarshalBinary(replace(response, 0, 65535)))
	requireInvalid(t, response, replace(response, 0, 65536))
}

func TestW4FingerprintsHaveSixteenBytes(t *testing.T) {
	data := encode(t, &TimeoutNow{Header: Header{From: "a", To: "b"}})
	require.Equal(t, []byte{0x96, 0xc4, 16}, data[:3])
	for _, n := range []int{0, 15, 17} {
		requireInvalid(t, &TimeoutNow{}, append(wire.AppendBytes([]byte{0x96}, make([]byte, n)), data[19:]...))
	}
}

func TestL10AGapBeforeTheEntriesIsRefused(t *testing.T) {
	m := &AppendEntries{Header: Header{From: "a", To: "b"}, Term: 2, PrevLogIndex: 4, PrevLogTerm: 1}
	for _, first := range []Index{1, 4, 6} {
		m.Entries = MakeEntries(LogEntry{Term: 2, Index: first, Kind: EntryNoop})
		requireInvalid(t, m, reference(t, m))
		_, err := m.AppendBinary(nil)
		require.ErrorIs(t, err, ErrInvalidMessage)
	}
}

// requireStable requires of a message that was decoded from arbitrary bytes
// that it can be used, and that encoding and decoding it changes nothing.
func requireStable(t *testing.T, m anyMessage) {
	t.Helper()
	if a, ok := m.(*AppendEntries); ok {
		requireUsable(t, a.Entries, a.PrevLogIndex+1)
	}
	data := encode(t, m)
	again := newLike(m)
	require.NoError(t, again.UnmarshalBinary(data))
	require.Equal(t, data, encode(t, again))
	streamed := newLike(m)
	require.NoError(t, streamed.DecodeMsgpack(msgpack.NewDecoder(bytes.NewReader(data))))
	require.Equal(t, again, streamed)
}

func TestW4ChangedBytesNeverPanic(t *testing.T) {
	for _, m := range golden() {
		data := encode(t, m)
		for i, original := range data {
			for _, b := range []byte{original ^ 1, original ^ 2, original ^ 8, original ^ 0x40, original ^ 0x80, 0x00, 0x9f, 0xc0, 0xc1, 0xc6, 0xcf, 0xdb, 0xdd, 0xdf, 0xff} {
				data[i] = b
				got := newLike(m)
				if err := got.UnmarshalBinary(data); err != nil {
					require.ErrorIs(t, err, ErrInvalidMessage)
				} else {
					requireStable(t, got)
				}
			}
			data[i] = original
		}
	}
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

// TestW4ClaimedLengthsAllocateLittle lets the header of the message, and of
// each field in turn, claim what does not come.
func TestW4ClaimedLengthsAllocateLittle(t *testing.T) {
	claims := [][]byte{
		{0xc6, 0x10, 0x00, 0x00, 0x00}, {0xc6, 0xff, 0xff, 0xff, 0xff}, {0xdb, 0x7f, 0xff, 0xff, 0xff}, {0xdd, 0xff, 0xff, 0xff, 0xff},
		{0xdf, 0xff, 0xff, 0xff, 0xff}, {0xc9, 0xff, 0xff, 0xff, 0xff}, bytes.Repeat([]byte{0xdd, 0x00, 0xff, 0xff, 0xff}, 100), bytes.Repeat([]byte{0x91}, 4096),
	}
	const little = 96 << 10 // most of it is what the msgpack library's Decoder starts with
	for _, m := range messages() {
		data := encode(t, minimal(m))
		r := wire.NewReader(data)
		n := r.ArrayLen()
		for field := range n + 2 {
			before := []byte{}
			if field > 0 { // 0: in place of the message itself; n+1: an unknown field
				r := wire.NewReader(data)
				r.ArrayLen()
				r.Skip(field - 1)
				before = append([]byte{0x90 | byte(max(n, field))}, data[1:len(data)-len(r.Rest())]...)
			}
			for _, claim := range claims {
				hostile := append(append([]byte{}, before...), claim...)
				require.Less(t, leastAllocated(func() { requireInvalid(t, m, hostile) }), uint64(little), "%T: %x", m, hostile[:min(100, len(hostile))])
			}
		}
	}
}

// TestW4DeeplyNestedUnknownFields: nesting takes no stack.
func TestW4DeeplyNestedUnknownFields(t *testing.T) {
	deep := append(bytes.Repeat([]byte{0x91}, 8<<20), 0xc0)
	data := withMore(t, encode(t, &VoteResponse{}), 1, deep)
	require.NoError(t, (&VoteResponse{}).UnmarshalBinary(data))

	deep = deep[len(deep)-1<<14:]
	for _, m := range messages() {
		data := encode(t, minimal(m))
		require.NoError(t, newLike(m).UnmarshalBinary(withMore(t, data, 1, deep)))
		require.NoError(t, newLike(m).DecodeMsgpack(msgpack.NewDecoder(bytes.NewReader(withMore(t, data, 1, deep)))))
		requireInvalid(t, m, withMore(t, data, 1, deep[:len(deep)-1]))
	}
}

func TestW4StreamedMessagesAreBounded(t *testing.T) {
	endless := io.MultiReader(bytes.NewReader([]byte{0xc6, 0xff, 0xff, 0xff, 0xff}), zeros{})
	require.Less(t, leastAllocated(func() {
		var m VoteResponse
		require.ErrorIs(t, m.DecodeMsgpack(msgpack.NewDecoder(endless)), ErrInvalidMessage)
	}), uint64(64<<10))
}

// zeros is an endless stream.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A user's own struct with messages in it, as values, pointers and elements.
type envelope struct {
	Note    string
	Vote    VoteRequest
	Answer  *VoteResponse
	Nothing *Heartbeat
	Appends []AppendEntries
	Last    ForwardResponse
}

func TestMessagesNestInAUsersStruct(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	sent := envelope{Note: "note", Answer: &VoteResponse{}, Appends: make([]AppendEntries, 3)}
	fill(random, &sent.Vote)
	fill(random, sent.Answer)
	fill(random, &sent.Last)
	for i := range sent.Appends {
		fill(random, &sent.Appends[i])
	}
	data, err := msgpack.Marshal(sent)
	require.NoError(t, err)
	var got envelope
	require.NoError(t, msgpack.NewDecoder(bytes.NewReader(data)).Decode(&got))
	require.Equal(t, sent, got)

	byPointer, err := msgpack.Marshal(&sent)
	require.NoError(t, err)
	require.Equal(t, data, byPointer)
}

func TestEncodeMsgpackWritesTheSameBytes(t *testing.T) {
	each(t, func(t *testing.T, m anyMessage) {
		data := encode(t, m)
		var b bytes.Buffer
		e := msgpack.NewEncoder(&b)
		require.NoError(t, m.EncodeMsgpack(e))
		require.Equal(t, data, b.Bytes())
		require.NoError(t, e.Encode(m), "and again behind the first")
		require.Equal(t, append(data, data...), b.Bytes())

		d := msgpack.NewDecoder(&b)
		for range 2 {
			got := newLike(m)
			require.NoError(t, d.Decode(got))
			require.Equal(t, m, got)
		}
		require.Equal(t, io.EOF, newLike(m).DecodeMsgpack(d))
	})
}

func TestMsgpackPassesErrorsOfTheStreamOn(t *testing.T) {
	m := &TimeoutNow{Header: Header{From: "a", To: "b"}}
	r, w := io.Pipe()
	require.NoError(t, r.Close())
	require.ErrorIs(t, m.EncodeMsgpack(msgpack.NewEncoder(w)), io.ErrClosedPipe)
	require.ErrorIs(t, m.DecodeMsgpack(msgpack.NewDecoder(r)), io.ErrClosedPipe)
}

func TestAppendMessagesEncodeWithoutAllocating(t *testing.T) {
	request := &AppendEntries{Header: Header{From: "node-1", To: "node-2"}, Term: 9, PrevLogIndex: 99, LeaderAddress: "10.0.0.1:7000"}
	request.Entries = randomEntries(rand.New(rand.NewPCG(7, 8)), 100, 200)
	response := &AppendResponse{Term: 9, Success: true, Match: 1 << 40}
	dst := make([]byte, 0, 1<<20)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		var err error
		if dst, err = request.AppendBinary(dst[:0]); err != nil {
			panic(err)
		}
		if dst, err = response.AppendBinary(dst); err != nil {
			panic(err)
		}
	}))
}

func TestAppendEntriesGrowsItsBufferOnce(t *testing.T) {
	var entries []LogEntry
	for i := range 64 {
		entries = append(entries, LogEntry{Term: Term(1 + i), Index: Index(1 + i), Kind: EntryCommand, Data: make([]byte, 1<<14)})
	}
	m := &AppendEntries{Header: Header{From: "a", To: "b"}, Entries: MakeEntries(entries...)}
	// The race detector doubles it; growing in steps would take 5 MiB.
	require.Less(t, leastAllocated(func() { _, _ = m.AppendBinary(nil) }), uint64(5<<19), "for one mebibyte of entries")
}

func TestAppendMessagesDecodeWithoutAllocatingPerEntry(t *testing.T) {
	allocations := func(entries int) float64 {
		var e []LogEntry
		for i := range entries {
			e = append(e, LogEntry{Term: 4 + Term(2*i/entries), Index: Index(1 + i), Kind: EntryCommand, Data: []byte("command")})
		}
		data := encode(t, &AppendEntries{Header: Header{From: "node-1", To: "node-2"}, Entries: MakeEntries(e...), LeaderAddress: "10.0.0.1:7000"})
		var m AppendEntries
		return testing.AllocsPerRun(100, func() {
			if err := m.UnmarshalBinary(data); err != nil {
				panic(err)
			}
		})
	}
	require.Equal(t, allocations(2), allocations(10_000), "two groups either way")
	require.LessOrEqual(t, allocations(2), 5.0, "three strings, two runs")

	data := encode(t, &AppendResponse{Term: 9, Success: true, Match: 1 << 40})
	var m AppendResponse
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = m.UnmarshalBinary(data) }))
}

func TestDecodedMessagesAliasTheirBytes(t *testing.T) {
	data := encode(t, &ForwardRequest{Header: Header{From: "a", To: "b"}, Kind: ForwardPropose, Payload: []byte("payload")})
	var m ForwardRequest
	require.NoError(t, m.UnmarshalBinary(data))
	require.Same(t, &data[len(data)-1], &m.Payload[len(m.Payload)-1])
	require.Equal(t, len(m.Payload), cap(m.Payload))
}

func BenchmarkAppendEntries(b *testing.B) {
	request := &AppendEntries{Header: Header{From: "node-1", To: "node-2"}, Term: 9, PrevLogIndex: 99, LeaderAddress: "10.0.0.1:7000"}
	var entries []LogEntry
	for i := range 1000 {
		entries = append(entries, LogEntry{Term: 9, Index: Index(100 + i), Kind: EntryCommand, Data: make([]byte, 128)})
	}
	request.Entries = MakeEntries(entries...)
	data := encode(b, request)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			_, _ = request.AppendBinary(data[:0])
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		var m AppendEntries
		for b.Loop() {
			_ = m.UnmarshalBinary(data)
		}
	})
	b.Run("iterate", func(b *testing.B) {
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			for entry := range request.Entries.All() {
				n += len(entry.Data)
			}
		}
		_ = n
	})
}

// fuzz decodes arbitrary bytes as a message of the kind of m.
func fuzz(f *testing.F, m anyMessage) {
	for _, g := range golden() {
		if nameOf(g) == nameOf(m) {
			f.Add(encode(f, g))
		}
	}
	f.Add(encode(f, minimal(newLike(m))))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := newLike(m)
		if err := got.UnmarshalBinary(data); err != nil {
			require.ErrorIs(t, err, ErrInvalidMessage)
			return
		}
		requireStable(t, got)
	})
}

func FuzzVoteRequest(f *testing.F)        { fuzz(f, &VoteRequest{}) }
func FuzzVoteResponse(f *testing.F)       { fuzz(f, &VoteResponse{}) }
func FuzzHeartbeat(f *testing.F)          { fuzz(f, &Heartbeat{}) }
func FuzzHeartbeatResponse(f *testing.F)  { fuzz(f, &HeartbeatResponse{}) }
func FuzzAppendEntries(f *testing.F)      { fuzz(f, &AppendEntries{}) }
func FuzzAppendResponse(f *testing.F)     { fuzz(f, &AppendResponse{}) }
func FuzzInstallSnapshot(f *testing.F)    { fuzz(f, &InstallSnapshot{}) }
func FuzzSnapshotResponse(f *testing.F)   { fuzz(f, &SnapshotResponse{}) }
func FuzzTimeoutNow(f *testing.F)         { fuzz(f, &TimeoutNow{}) }
func FuzzTimeoutNowResponse(f *testing.F) { fuzz(f, &TimeoutNowResponse{}) }
func FuzzForwardRequest(f *testing.F)     { fuzz(f, &ForwardRequest{}) }
func FuzzForwardResponse(f *testing.F)    { fuzz(f, &ForwardResponse{}) }
