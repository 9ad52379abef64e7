package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"sync"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/seed-8da499c8/raft"
)

// store is the replicated state machine: a map from keys to values. Every node
// of the cluster has one, and raft has each of them execute the same commands in the
// same order. Handlers of HTTP requests look into it meanwhile: that takes a lock.
type store struct {
	mu     sync.RWMutex // guards all that follows
	values map[string][]byte
	index  raft.Index // of the last command that was executed

	// While a snapshot is being written, see snapshot.go.
	view    *view             // of values, which stays as it is; nil: none is open
	changes map[string][]byte // since the view was taken; nil for a key that is deleted
}

func newStore() *store { return &store{values: map[string][]byte{}} }

// op is what a command does. The numbers stand in the log: they never change.
type op uint8

const (
	opSet    op = 2 // 1 was a read, when these went through the log
	opDelete op = 3
	opSwap   op = 4 // sets value if the present one is old: compare-and-set
	opCreate op = 5 // sets value if the key is absent
	opAdd    op = 6 // adds value, a number; an absent one counts as 0
)

// command is an entry of the replicated log.
type command struct {
	op    op
	key   string
	value []byte // all but opDelete
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
	value   []byte // the present value, after opAdd and outcomeConflict
	command uint32 // the checksum of the command: in a session it may be another one of the same number
}

// ApplyBatch executes the commands that are ready: raft calls it in place of Apply, and
// the store learns where they stand in the log.
func (s *store) ApplyBatch(commands []raft.Command, results []raft.ApplyResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range commands {
		results[i].Response, results[i].Err = s.apply(c.Data)
		s.index = c.Index
	}
}

// Apply executes one command. It belongs to every state machine.
func (s *store) Apply(data []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apply(data)
}

// apply must do the same on every node, so it uses nothing but the command and the map:
// no clock, no random numbers, no order of map iteration.
//
// A compare that fails is an ordinary reply. The error is for commands that
// make no sense; it is returned on every node alike.
func (s *store) apply(data []byte) ([]byte, error) {
	c, err := decodeCommand(data)
	if err != nil {
		return nil, err
	}
	s.merge()
	r := s.execute(c)
	r.command = checksum(data)
	return r.encode(), nil
}

func (s *store) execute(c command) reply {
	present, exists := s.get(c.key)
	done := reply{outcome: outcomeDone}
	switch {
	case c.op == opSet, c.op == opCreate && !exists:
		s.put(c.key, c.value)
	case c.op == opAdd:
		sum, ok := add(present, exists, c.value)
		if !ok {
			return reply{outcome: outcomeConflict, value: present}
		}
		s.put(c.key, sum)
		done.value = sum
	case !exists: // nothing to delete or compare with
		return reply{outcome: outcomeAbsent}
	case c.op == opDelete:
		s.put(c.key, nil)
	case c.op == opSwap && bytes.Equal(present, c.old):
		s.put(c.key, c.value)
	default:
		return reply{outcome: outcomeConflict, value: present}
	}
	return done
}

// add adds n to the present value, unless that is no number or the sum is too large.
func add(present []byte, exists bool, n []byte) (sum []byte, ok bool) {
	if !exists {
		present = []byte("0")
	}
	a, errA := strconv.ParseInt(string(present), 10, 64)
	b, errB := strconv.ParseInt(string(n), 10, 64)
	if errors.Join(errA, errB) != nil || (b < 0) != (a+b < a) {
		return nil, false
	}
	return strconv.AppendInt(nil, a+b, 10), true
}

// read returns the present value of a key, and an index up to which the store has what is
// committed: of the last command, or the one before it that raft names.
func (s *store) read(key string) (value []byte, exists bool, index raft.Index) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	value, exists = s.get(key) // nobody changes the bytes of a value
	return value, exists, s.index
}

// Commands and replies are MessagePack arrays: a number, then byte strings.
//
//	command: [op, key, value, old]
//	reply:   [outcome, value, checksum of the command]

func (c command) encode() []byte { return encode(uint8(c.op), []byte(c.key), c.value, c.old) }

func decodeCommand(data []byte) (command, error) {
	number, fields, err := decode(data, 3)
	if err != nil {
		return command{}, fmt.Errorf("command: %w", err)
	}
	c := command{op(number), string(fields[0]), fields[1], fields[2]}
	if c.op < opSet || c.op > opAdd {
		return command{}, fmt.Errorf("command: unknown operation %d", number)
	}
	return c, nil
}

func (r reply) encode() []byte {
	return encode(uint8(r.outcome), r.value, binary.BigEndian.AppendUint32(nil, r.command))
}

func decodeReply(data []byte) (reply, error) {
	number, fields, err := decode(data, 2)
	if err == nil && len(fields[1]) != 4 {
		err = fmt.Errorf("a checksum of %d bytes", len(fields[1]))
	}
	if err != nil {
		return reply{}, fmt.Errorf("reply: %w", err)
	}
	return reply{outcome(number), fields[0], binary.BigEndian.Uint32(fields[1])}, nil
}

// checksum tells one command from another.
func checksum(command []byte) uint32 { return crc32.Checksum(command, castagnoli) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

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
