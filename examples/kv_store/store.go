package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/vmihailenco/msgpack/v5"
)

// store is the replicated state machine: a map from keys to values. Every node
// of the cluster has one, and raft calls Apply on each of them with the same
// commands in the same order.
//
// It needs no lock: raft calls its methods from one goroutine, and what another one
// reads for a snapshot does not change meanwhile. The HTTP handlers read through
// the log too (see opGet), so that what they answer is never stale.
type store struct {
	values map[string][]byte

	// While a snapshot is being written, see snapshot.go.
	view    *view             // of values, which stays as it is; nil: none is open
	changes map[string][]byte // since the view was taken; nil for a key that is deleted
}

func newStore() *store { return &store{values: map[string][]byte{}} }

// op is what a command does. The numbers stand in the log: they never change.
type op uint8

const (
	opGet    op = 1
	opSet    op = 2
	opDelete op = 3
	opSwap   op = 4 // sets value if the present one is old: compare-and-set
	opCreate op = 5 // sets value if the key is absent
)

// command is an entry of the replicated log.
type command struct {
	op    op
	key   string
	value []byte // opSet, opSwap, opCreate
	old   []byte // opSwap
}

// outcome is how a command ended. The numbers travel between versions of this
// program: they never change.
type outcome uint8

const (
	outcomeDone     outcome = 1
	outcomeAbsent   outcome = 2 // there is no such key
	outcomeConflict outcome = 3 // another value is there
)

// reply is what a command leads to.
type reply struct {
	outcome outcome
	value   []byte // the present value, after opGet and outcomeConflict
}

// Apply executes one command. It must do the same on every node, so it uses
// nothing but the command and the map: no clock, no random numbers, no order
// of map iteration.
//
// A compare that fails is an ordinary reply. The error is for commands that
// make no sense; it is returned on every node alike.
func (s *store) Apply(data []byte) ([]byte, error) {
	c, err := decodeCommand(data)
	if err != nil {
		return nil, err
	}
	s.merge()
	return s.execute(c).encode(), nil
}

func (s *store) execute(c command) reply {
	present, exists := s.get(c.key)
	switch c.op {
	case opSet:
		s.put(c.key, c.value)
		return reply{outcome: outcomeDone}
	case opCreate:
		if exists {
			return reply{outcomeConflict, present}
		}
		s.put(c.key, c.value)
		return reply{outcome: outcomeDone}
	}
	if !exists { // nothing to get, delete or compare with
		return reply{outcome: outcomeAbsent}
	}
	switch c.op {
	case opGet:
		return reply{outcomeDone, present}
	case opDelete:
		s.put(c.key, nil)
	case opSwap:
		if !bytes.Equal(present, c.old) {
			return reply{outcomeConflict, present}
		}
		s.put(c.key, c.value)
	}
	return reply{outcome: outcomeDone}
}

// Commands and replies are MessagePack arrays: a number, then byte strings.
//
//	command: [op, key, value, old]
//	reply:   [outcome, value]

func (c command) encode() []byte { return encode(uint8(c.op), []byte(c.key), c.value, c.old) }

func decodeCommand(data []byte) (command, error) {
	number, fields, err := decode(data, 3)
	if err != nil {
		return command{}, fmt.Errorf("command: %w", err)
	}
	c := command{op(number), string(fields[0]), fields[1], fields[2]}
	if c.op < opGet || c.op > opCreate {
		return command{}, fmt.Errorf("command: unknown operation %d", number)
	}
	return c, nil
}

func (r reply) encode() []byte { return encode(uint8(r.outcome), r.value) }

func decodeReply(data []byte) (reply, error) {
	number, fields, err := decode(data, 1)
	if err != nil {
		return reply{}, fmt.Errorf("reply: %w", err)
	}
	return reply{outcome(number), fields[0]}, nil
}

func encode(number uint8, fields ...[]byte) []byte {
	var b bytes.Buffer
	e := msgpack.NewEncoder(&b)
	must(e.EncodeArrayLen(1 + len(fields)))
	must(e.EncodeUint(uint64(number)))
	for _, field := range fields {
		must(e.EncodeBytes(field))
	}
	return b.Bytes()
}

// decode copies the fields out of data, since data is raft's: it is valid only
// during Apply.
func decode(data []byte, count int) (number uint8, fields [][]byte, err error) {
	d := newDecoder(bytes.NewReader(data))
	n, err := d.DecodeArrayLen()
	if err != nil {
		return 0, nil, err
	}
	if n != 1+count {
		return 0, nil, fmt.Errorf("%d elements, want %d", n, 1+count)
	}
	if number, err = d.DecodeUint8(); err != nil {
		return 0, nil, err
	}
	for range count {
		field, err := d.bytes(nil)
		if err != nil {
			return 0, nil, err
		}
		fields = append(fields, field)
	}
	return number, fields, d.end()
}

// decoder reads MessagePack and believes no length that is larger than a command
// may be.
type decoder struct {
	*msgpack.Decoder
	from byteReader // the Decoder reads from it without buffering
}

type byteReader interface {
	io.Reader
	io.ByteScanner
}

func newDecoder(from byteReader) decoder { return decoder{msgpack.NewDecoder(from), from} }

// bytes reads a byte string into b, or into memory of its own if there is not enough
// of it. It never returns nil without an error.
func (d decoder) bytes(b []byte) ([]byte, error) {
	n, err := d.DecodeBytesLen()
	if err != nil {
		return nil, err
	}
	if n > maxCommandBytes {
		return nil, fmt.Errorf("%d bytes, more than a command may have", n)
	}
	n = max(0, n) // -1 stands for nil
	if b == nil || n > cap(b) {
		b = make([]byte, n)
	}
	return b[:n], d.ReadFull(b[:n])
}

// end returns an error unless everything is read.
func (d decoder) end() error {
	switch _, err := d.from.ReadByte(); err {
	case io.EOF:
		return nil
	case nil:
		return errors.New("bytes behind the end")
	default:
		return err
	}
}

// must is for encoding into memory, which cannot fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
