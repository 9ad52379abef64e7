package raft

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// Every message is one MessagePack array of its fields in the order of their
// declaration; those of a Header come first, as fields of the same array. What
// the fields method of a message lists is that array, in both directions.
//
//	unsigned integers   in their shortest form
//	strings             str
//	[]byte, Fingerprint bin; nil and empty are the same, and read as nil
//	Entries             bin, whose content is that of Entries.AppendBinary
//
// A later version may add fields at the end: a reader skips those that it does
// not know. It refuses a message with fewer fields than it knows.

// codec passes over the fields of one message and either appends or reads
// them. The first error sticks.
type codec struct {
	message string // its name, for errors
	count   int    // fields passed so far
	err     error

	// Appending: dst[start] is the header of the array.
	dst   []byte
	start int

	// Reading: left is the number of elements not read yet.
	reading bool
	r       wire.Reader
	left    int

	entriesEnd int  // in dst; reading: how many bytes of the message follow them
	leaveOut   bool // appending: the bodies of the entries, which are one group
}

// appending returns a codec that appends a message to dst.
func appending(dst []byte, message string) codec {
	return codec{message: message, start: len(dst), dst: wire.AppendArrayLen(dst, 0)}
}

// reading returns a codec that reads a message from data.
func reading(data []byte, message string) codec {
	c := codec{message: message, reading: true, r: wire.NewReader(data)}
	c.left = c.r.ArrayLen()
	return c
}

// appended ends an encoding. After an error dst is as it was.
func (c *codec) appended() ([]byte, error) {
	if c.err != nil {
		return c.dst[:c.start], c.invalid()
	}
	return c.dst, nil
}

// done ends a decoding: it skips fields that a later version added, and
// expects nothing behind them.
func (c *codec) done() error {
	c.r.Skip(c.left)
	if c.fail(c.r.Err()); c.err == nil && len(c.r.Rest()) > 0 {
		c.fail(errors.New("bytes behind the message"))
	}
	if c.err != nil {
		return c.invalid()
	}
	return nil
}

// fail notes err, unless it is nil or another was first.
func (c *codec) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// invalid is the error that c ends with.
func (c *codec) invalid() error {
	return fmt.Errorf("%w: %s: field %d: %w", ErrInvalidMessage, c.message, c.count, c.err)
}

// next begins a field: it counts it in the array's header, which is one byte
// for as many fields as any message has, or off the elements that are left.
// False means that there is nothing to do any more.
func (c *codec) next() bool {
	if c.fail(c.r.Err()); c.err != nil {
		return false
	}
	c.count++
	switch {
	case !c.reading:
		c.dst[c.start]++
	case c.left == 0:
		c.fail(errors.New("missing"))
		return false
	default:
		c.left--
	}
	return true
}

func (c *codec) header(h *Header) {
	c.fingerprint(&h.Fingerprint)
	number(c, &h.Group)
	c.member(&h.From)
	c.member(&h.To)
	number(c, &h.Incarnation)
}

func (c *codec) fingerprint(f *[16]byte) {
	if !c.next() {
		return
	}
	if !c.reading {
		c.dst = wire.AppendBytes(c.dst, f[:])
		return
	}
	if b := c.r.Bytes(); len(b) == len(f) {
		*f = [16]byte(b)
	} else {
		c.r.Fail("not a fingerprint")
	}
}

func number[T ~uint8 | ~uint16 | ~uint64](c *codec, n *T) {
	if !c.next() {
		return
	}
	if !c.reading {
		c.dst = wire.AppendUint(c.dst, uint64(*n))
		return
	}
	v := c.r.Uint()
	if *n = T(v); uint64(*n) != v {
		c.r.Fail("number out of range")
	}
}

func (c *codec) flag(f *bool) {
	if !c.next() {
		return
	}
	if !c.reading {
		c.dst = wire.AppendBool(c.dst, *f)
		return
	}
	*f = c.r.Bool()
}

// member is the id of a node, node one that may be missing.
func (c *codec) member(id *NodeID) {
	c.node(id)
	if *id == "" {
		c.fail(errors.New("no node id"))
	}
}

func (c *codec) node(id *NodeID) {
	c.text((*string)(id), maxIDBytes)
	if *id != "" && !id.valid() {
		c.fail(errors.New("not a node id"))
	}
}

func (c *codec) address(a *string) { c.text(a, maxAddressBytes) }

func (c *codec) text(s *string, limit int) {
	if !c.next() {
		return
	}
	if c.reading {
		*s = c.r.String(limit)
		c.fail(c.r.Err())
		return
	}
	if len(*s) > limit {
		c.fail(errors.New("string too long"))
		return
	}
	c.dst = wire.AppendString(c.dst, *s)
}

func (c *codec) bytes(b *[]byte) {
	if !c.next() {
		return
	}
	if !c.reading {
		c.dst = slices.Grow(c.dst, wire.BytesSize(len(*b)))
		c.dst = wire.AppendBytes(c.dst, *b)
		return
	}
	// An empty slice would only keep the memory of the whole message alive.
	if *b = c.r.Bytes(); len(*b) == 0 {
		*b = nil
	}
}

// entries are those that follow the entry at prev.
func (c *codec) entries(prev Index, e *Entries) {
	if !c.next() {
		return
	}
	if prev == math.MaxUint64 {
		c.fail(errors.New("no index follows the previous one"))
		return
	}
	if c.reading {
		raw := c.r.Bytes()
		c.entriesEnd = len(c.r.Rest())
		if c.r.Err() == nil {
			var err error
			*e, err = parseEntries(prev+1, raw)
			c.fail(err)
		}
		return
	}
	if len(e.runs) > 0 && (e.First() != prev+1 || e.runs[0].term == 0) {
		c.fail(fmt.Errorf("entries from index %d on, of term %d, after index %d", e.First(), e.runs[0].term, prev))
		return
	}
	size := e.encodedSize()
	if c.leaveOut {
		c.dst = e.appendHead(wire.AppendBytesLen(c.dst, size), 0)
	} else {
		c.dst = slices.Grow(c.dst, wire.BytesSize(size))
		c.dst, _ = e.AppendBinary(wire.AppendBytesLen(c.dst, size))
	}
	c.entriesEnd = len(c.dst)
}

// maxContacts bounds the members that a message speaks of.
const maxContacts = 1024

// configurations is a list of entries, each an index and data.
func (c *codec) configurations(entries *[]ConfigurationEntry) {
	if !c.next() {
		return
	}
	if !c.reading {
		c.dst = wire.AppendArrayLen(c.dst, len(*entries))
		for _, entry := range *entries {
			c.dst = wire.AppendArrayLen(c.dst, 2)
			c.dst = wire.AppendUint(c.dst, uint64(entry.Index))
			c.dst = wire.AppendBytes(c.dst, entry.Data)
		}
		return
	}
	*entries = nil
	for range c.r.ArrayLen() {
		fields := c.r.ArrayLen()
		entry := ConfigurationEntry{Index(c.r.Uint()), c.r.Bytes()}
		c.r.Skip(fields - 2)
		if fields < 2 {
			c.r.Fail("not a configuration entry")
		}
		if c.r.Err() != nil {
			return
		}
		*entries = append(*entries, entry)
	}
}

// contacts is an array of [id, incarnation] pairs.
func (c *codec) contacts(contacts *[]Contact) {
	if !c.next() {
		return
	}
	if !c.reading {
		c.dst = wire.AppendArrayLen(c.dst, len(*contacts))
		for _, contact := range *contacts {
			if len(*contacts) > maxContacts || !contact.ID.valid() {
				c.fail(errors.New("not a contact, or too many"))
				return
			}
			c.dst = wire.AppendArrayLen(c.dst, 2)
			c.dst = wire.AppendString(c.dst, string(contact.ID))
			c.dst = wire.AppendUint(c.dst, contact.Incarnation)
		}
		return
	}
	n := c.r.ArrayLen()
	if n > maxContacts {
		c.fail(fmt.Errorf("%d contacts", n))
		return
	}
	*contacts = nil
	for range n {
		fields := c.r.ArrayLen()
		contact := Contact{NodeID(c.r.String(maxIDBytes)), c.r.Uint()}
		c.r.Skip(fields - 2)
		if fields < 2 || !contact.ID.valid() {
			c.r.Fail("not a contact")
		}
		if c.r.Err() != nil {
			return
		}
		*contacts = append(*contacts, contact)
	}
}

// maxNestedBytes bounds a message that is read from a stream.
const maxNestedBytes = 64 << 20

func encodeMsgpack(e *msgpack.Encoder, m encoding.BinaryAppender) error {
	data, err := m.AppendBinary(nil)
	if err != nil {
		return err
	}
	_, err = e.Writer().Write(data)
	return err
}

// decodeMsgpack gathers the bytes of the message itself. The Decoder would
// allocate what a length claims, and recurse as deep as values nest.
func decodeMsgpack(d *msgpack.Decoder, m encoding.BinaryUnmarshaler) error {
	data, err := wire.ReadValue(d.ReadFull, maxNestedBytes)
	if errors.Is(err, wire.ErrMalformed) {
		return fmt.Errorf("%w: %w", ErrInvalidMessage, err)
	}
	if err != nil {
		return err
	}
	return m.UnmarshalBinary(data)
}

func (m *VoteRequest) fields(c *codec) {
	c.header(&m.Header)
	number(c, &m.Term)
	number(c, &m.LastLogIndex)
	number(c, &m.LastLogTerm)
	c.flag(&m.PreVote)
	c.flag(&m.Transfer)
	number(c, &m.Added)
}

func (m *VoteResponse) fields(c *codec) {
	number(c, &m.Term)
	c.flag(&m.VoteGranted)
	c.flag(&m.PreVote)
	number(c, &m.Refusal)
	c.node(&m.Leader)
	number(c, &m.Incarnation)
}

func (m *Heartbeat) fields(c *codec) {
	c.header(&m.Header)
	number(c, &m.Term)
	number(c, &m.Commit)
	number(c, &m.Round)
	c.address(&m.LeaderAddress)
	c.contacts(&m.Contacts)
	number(c, &m.Configuration)
}

func (m *HeartbeatResponse) fields(c *codec) {
	number(c, &m.Term)
	number(c, &m.Round)
	number(c, &m.Incarnation)
	number(c, &m.Quiet)
}

func (m *AppendEntries) fields(c *codec) {
	c.header(&m.Header)
	number(c, &m.Term)
	number(c, &m.PrevLogIndex)
	number(c, &m.PrevLogTerm)
	c.entries(m.PrevLogIndex, &m.Entries)
	number(c, &m.LeaderCommit)
	c.address(&m.LeaderAddress)
}

func (m *AppendResponse) fields(c *codec) {
	number(c, &m.Term)
	c.flag(&m.Success)
	number(c, &m.Match)
	number(c, &m.PrevLogIndex)
	number(c, &m.ConflictIndex)
	number(c, &m.ConflictTerm)
	number(c, &m.Incarnation)
}

func (m *InstallSnapshot) fields(c *codec) {
	c.header(&m.Header)
	number(c, &m.Term)
	number(c, &m.LastIndex)
	number(c, &m.LastTerm)
	number(c, &m.Transfer)
	number(c, &m.Size)
	number(c, &m.Offset)
	c.bytes(&m.Data)
}

func (m *SnapshotResponse) fields(c *codec) {
	number(c, &m.Term)
	number(c, &m.Next)
	number(c, &m.Match)
	number(c, &m.Incarnation)
}

func (m *TimeoutNow) fields(c *codec) {
	c.header(&m.Header)
	number(c, &m.Term)
}

func (m *TimeoutNowResponse) fields(c *codec) {
	number(c, &m.Term)
	c.flag(&m.Started)
	number(c, &m.Incarnation)
}

func (m *ForwardRequest) fields(c *codec) {
	c.header(&m.Header)
	number(c, &m.Kind)
	c.bytes(&m.Payload)
}

func (m *ForwardResponse) fields(c *codec) {
	number(c, &m.Code)
	number(c, &m.Index)
	number(c, &m.Term)
	c.node(&m.Leader)
	c.address(&m.Address)
	c.text(&m.Message, math.MaxInt)
	c.bytes(&m.Payload)
}

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m VoteRequest) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "VoteRequest")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m VoteRequest) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *VoteRequest) UnmarshalBinary(data []byte) error {
	c := reading(data, "VoteRequest")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m VoteRequest) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *VoteRequest) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m VoteResponse) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "VoteResponse")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m VoteResponse) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *VoteResponse) UnmarshalBinary(data []byte) error {
	c := reading(data, "VoteResponse")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m VoteResponse) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *VoteResponse) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m Heartbeat) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "Heartbeat")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m Heartbeat) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *Heartbeat) UnmarshalBinary(data []byte) error {
	c := reading(data, "Heartbeat")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m Heartbeat) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *Heartbeat) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m HeartbeatResponse) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "HeartbeatResponse")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m HeartbeatResponse) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *HeartbeatResponse) UnmarshalBinary(data []byte) error {
	c := reading(data, "HeartbeatResponse")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m HeartbeatResponse) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *HeartbeatResponse) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m AppendEntries) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "AppendEntries")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m AppendEntries) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *AppendEntries) UnmarshalBinary(data []byte) error {
	c := reading(data, "AppendEntries")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m AppendEntries) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *AppendEntries) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m AppendResponse) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "AppendResponse")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m AppendResponse) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *AppendResponse) UnmarshalBinary(data []byte) error {
	c := reading(data, "AppendResponse")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m AppendResponse) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *AppendResponse) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m InstallSnapshot) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "InstallSnapshot")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m InstallSnapshot) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *InstallSnapshot) UnmarshalBinary(data []byte) error {
	c := reading(data, "InstallSnapshot")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m InstallSnapshot) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *InstallSnapshot) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m SnapshotResponse) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "SnapshotResponse")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m SnapshotResponse) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *SnapshotResponse) UnmarshalBinary(data []byte) error {
	c := reading(data, "SnapshotResponse")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m SnapshotResponse) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *SnapshotResponse) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m TimeoutNow) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "TimeoutNow")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m TimeoutNow) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *TimeoutNow) UnmarshalBinary(data []byte) error {
	c := reading(data, "TimeoutNow")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m TimeoutNow) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *TimeoutNow) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m TimeoutNowResponse) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "TimeoutNowResponse")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m TimeoutNowResponse) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *TimeoutNowResponse) UnmarshalBinary(data []byte) error {
	c := reading(data, "TimeoutNowResponse")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m TimeoutNowResponse) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *TimeoutNowResponse) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m ForwardRequest) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "ForwardRequest")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m ForwardRequest) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *ForwardRequest) UnmarshalBinary(data []byte) error {
	c := reading(data, "ForwardRequest")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m ForwardRequest) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *ForwardRequest) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }

// AppendBinary appends the encoded message to dst. The error matches
// [ErrInvalidMessage]: a field holds what no peer would accept.
func (m ForwardResponse) AppendBinary(dst []byte) ([]byte, error) {
	c := appending(dst, "ForwardResponse")
	m.fields(&c)
	return c.appended()
}

// MarshalBinary returns the encoded message, see AppendBinary.
func (m ForwardResponse) MarshalBinary() ([]byte, error) { return m.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, and nothing behind it. The
// message aliases data, which must not change any more. The error matches
// [ErrInvalidMessage], and leaves the message in no useful state.
func (m *ForwardResponse) UnmarshalBinary(data []byte) error {
	c := reading(data, "ForwardResponse")
	m.fields(&c)
	return c.done()
}

// EncodeMsgpack writes the bytes of AppendBinary, one MessagePack value.
func (m ForwardResponse) EncodeMsgpack(e *msgpack.Encoder) error { return encodeMsgpack(e, m) }

// DecodeMsgpack reads what EncodeMsgpack wrote, into memory of its own.
func (m *ForwardResponse) DecodeMsgpack(d *msgpack.Decoder) error { return decodeMsgpack(d, m) }
