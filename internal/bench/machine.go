package main

import (
	"fmt"
	"hash/crc32"
	"io"
	"sync/atomic"
)

// machine is the state machine of every node of every peer: the number of commands,
// and a running checksum of all their bytes. So replicas can be compared, and
// nothing that a peer does is cheap because it does not look at commands.
type machine struct {
	_        [64]byte // no neighbour shares its cache line
	commands atomic.Uint64
	checksum atomic.Uint32
	_        [64]byte
}

// state is what a machine has become.
type state struct {
	Commands uint64
	Checksum uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// apply is called by one goroutine only.
func (m *machine) apply(command []byte) {
	m.checksum.Store(crc32.Update(m.checksum.Load(), castagnoli, command))
	m.commands.Add(1)
}

func (m *machine) state() state { return state{m.commands.Load(), m.checksum.Load()} }

func (m *machine) set(s state) {
	m.commands.Store(s.Commands)
	m.checksum.Store(s.Checksum)
}

// write and readState are the form of a state in snapshots.
func (s state) write(w io.Writer) error {
	_, err := fmt.Fprintln(w, s.Commands, s.Checksum)
	return err
}

func readState(r io.Reader) (state, error) {
	var s state
	_, err := fmt.Fscan(r, &s.Commands, &s.Checksum)
	return s, err
}
