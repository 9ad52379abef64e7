package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/seed-8da499c8/raft"
)

// ourNode is a node of this library, with its defaults.
type ourNode struct {
	*raft.Node
	machine *machine
	cancel  context.CancelFunc
}

// ourMachine is the machine as this library wants it.
type ourMachine struct{ *machine }

func (m ourMachine) Apply(command []byte) ([]byte, error) {
	m.apply(command)
	return nil, nil
}

func (m ourMachine) Snapshot() ([]byte, error) {
	var b bytes.Buffer
	err := m.state().write(&b)
	return b.Bytes(), err
}

func (m ourMachine) Restore(snapshot []byte) error {
	s, err := readState(bytes.NewReader(snapshot))
	if err == nil {
		m.set(s)
	}
	return err
}

func openOurs(o options) (node, error) {
	id := func(i int) raft.NodeID { return raft.NodeID(fmt.Sprintf("n%d", i)) }
	addresses := map[raft.NodeID]string{}
	for i, address := range o.Addresses {
		addresses[id(i)] = address
	}
	config := raft.NewConfig(id(o.Node), o.Addresses[o.Node], addresses)
	config.DataDir = o.Dir
	config.LeaseReads = o.LeaseReads
	if o.ShortTimeouts {
		config.ElectionTimeout = 150 * time.Millisecond
	}
	if o.WholeLog {
		config.SnapshotEntries, config.SnapshotBytes = math.MaxInt, math.MaxInt
	}
	if err := configure(&config, o.Ours); err != nil {
		return nil, err
	}
	m := new(machine)
	n, err := raft.NewNode(config, ourMachine{m}, raft.NewTCPTransport(addresses, 2*time.Second))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _ = n.Run(ctx) }()
	return &ourNode{n, m, cancel}, nil
}

// configure sets fields of the configuration to what they are in JSON.
func configure(config *raft.Config, fields string) error {
	if fields == "" {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(fields))
	d.DisallowUnknownFields()
	if err := d.Decode(config); err != nil {
		return fmt.Errorf("-ours %s: %w", fields, err)
	}
	return nil
}

func (n *ourNode) Leads() bool {
	s := n.Status()
	return s.Leader == s.ID
}

func (n *ourNode) Propose(ctx context.Context, command []byte) error {
	_, err := n.Node.Propose(ctx, command)
	return err
}

// ourFuture is an asynchronous command.
type ourFuture struct {
	outcome chan error
	done    func(raft.Result, error)
}

// ourFutures are used again, as those of the limit are.
var ourFutures = sync.Pool{New: func() any {
	f := &ourFuture{outcome: make(chan error, 1)}
	f.done = func(_ raft.Result, err error) { f.outcome <- err }
	return f
}}

// Wait may be called once.
func (f *ourFuture) Wait() error {
	err := <-f.outcome
	ourFutures.Put(f)
	return err
}

func (n *ourNode) ProposeAsync(command []byte) (future, error) {
	f := ourFutures.Get().(*ourFuture)
	n.Node.ProposeAsync(command, f.done)
	return f, nil
}

func (n *ourNode) ReadIndex(ctx context.Context) error {
	_, err := n.Node.ReadIndex(ctx)
	return err
}

func (n *ourNode) State() state { return n.machine.state() }

func (n *ourNode) Close() error {
	n.cancel() // no handing over, as with Stop
	<-n.Done()
	return n.Err()
}
