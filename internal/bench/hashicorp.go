package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
)

// hashicorpNode is a node of hashicorp/raft with the log of raft-wal, tuned for
// throughput: large batches, all of them to the state machine at once.
type hashicorpNode struct {
	*raft.Raft
	machine   *machine
	transport *raft.NetworkTransport
	log       *raftwal.WAL
}

// hashicorpMachine is the machine as hashicorp/raft wants it.
type hashicorpMachine struct{ *machine }

func (m hashicorpMachine) Apply(l *raft.Log) any {
	if l.Type == raft.LogCommand {
		m.apply(l.Data)
	}
	return nil
}

func (m hashicorpMachine) ApplyBatch(logs []*raft.Log) []any {
	for _, l := range logs {
		m.Apply(l)
	}
	return make([]any, len(logs))
}

func (m hashicorpMachine) Snapshot() (raft.FSMSnapshot, error) {
	return hashicorpSnapshot{m.state()}, nil
}

func (m hashicorpMachine) Restore(r io.ReadCloser) error {
	s, err := readState(r)
	if err == nil {
		m.set(s)
	}
	return errors.Join(err, r.Close())
}

type hashicorpSnapshot struct{ state }

func (s hashicorpSnapshot) Persist(sink raft.SnapshotSink) error {
	return errors.Join(s.write(sink), sink.Close())
}

func (hashicorpSnapshot) Release() {}

// hashicorpConfig translates options.
func hashicorpConfig(o options, logger hclog.Logger) *raft.Config {
	config := raft.DefaultConfig()
	config.LocalID = raft.ServerID(fmt.Sprint(o.Node))
	config.Logger = logger
	config.BatchApplyCh = true
	config.MaxAppendEntries = 1024
	if o.Bytes > 1024 {
		config.MaxAppendEntries = max(64, 4<<20/o.Bytes)
	}
	if o.ShortTimeouts {
		config.HeartbeatTimeout, config.ElectionTimeout = 150*time.Millisecond, 150*time.Millisecond
		config.LeaderLeaseTimeout = 100 * time.Millisecond
	}
	if o.WholeLog {
		config.SnapshotThreshold = math.MaxUint64
	}
	return config
}

func openHashicorp(o options) (node, error) {
	logger := hclog.NewNullLogger()
	config := hashicorpConfig(o, logger)
	log, err := raftwal.Open(o.Dir, raftwal.WithLogger(logger))
	if err != nil {
		return nil, err
	}
	cached := 4096
	if o.Bytes > 4096 {
		cached = 1024
	}
	cache, err := raft.NewLogCache(cached, log)
	if err != nil {
		return nil, err
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(o.Dir, 1, logger)
	if err != nil {
		return nil, err
	}
	transport, err := raft.NewTCPTransportWithConfig(o.Addresses[o.Node], nil,
		&raft.NetworkTransportConfig{Logger: logger, MaxPool: 3, Timeout: 10 * time.Second})
	if err != nil {
		return nil, err
	}
	if !o.Resume {
		var members raft.Configuration
		for i, address := range o.Addresses {
			members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(fmt.Sprint(i)), Address: raft.ServerAddress(address)})
		}
		if err := raft.BootstrapCluster(config, cache, log, snapshots, transport, members); err != nil {
			return nil, err
		}
	}
	m := new(machine)
	r, err := raft.NewRaft(config, hashicorpMachine{m}, cache, log, snapshots, transport)
	if err != nil {
		return nil, err
	}
	return &hashicorpNode{r, m, transport, log}, nil
}

func (n *hashicorpNode) Leads() bool { return n.Raft.State() == raft.Leader }

func (n *hashicorpNode) Propose(_ context.Context, command []byte) error {
	return n.Apply(command, 0).Error()
}

type hashicorpFuture struct{ raft.ApplyFuture }

func (f hashicorpFuture) Wait() error { return f.Error() }

func (n *hashicorpNode) ProposeAsync(command []byte) (future, error) {
	return hashicorpFuture{n.Apply(command, 0)}, nil
}

func (n *hashicorpNode) ReadIndex(ctx context.Context) error {
	index := n.CommitIndex()
	if err := n.VerifyLeader().Error(); err != nil {
		return err
	}
	for n.AppliedIndex() < index {
		if err := pause(ctx, 50*time.Microsecond); err != nil {
			return err
		}
	}
	return nil
}

func (n *hashicorpNode) State() state { return n.machine.state() }

func (n *hashicorpNode) Close() error {
	return errors.Join(n.Shutdown().Error(), n.transport.Close(), n.log.Close())
}
