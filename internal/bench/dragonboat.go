package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/logger"
	"github.com/lni/dragonboat/v4/plugin/tan"
	"github.com/lni/dragonboat/v4/statemachine"
)

// dragonboatNode is a host of one replica of dragonboat, with tan, its own log.
type dragonboatNode struct {
	host    *dragonboat.NodeHost
	replica uint64
	session *client.Session
	machine *machine
}

const (
	dragonboatShard = 1
	dragonboatLimit = 20 * time.Second // of a command
)

// dragonboatReplica is the number of a node there: they begin with 1.
func dragonboatReplica(node int) uint64 { return uint64(node + 1) }

// dragonboatMachine is the machine as dragonboat wants it.
type dragonboatMachine struct{ *machine }

func (m dragonboatMachine) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	for i := range entries {
		m.apply(entries[i].Cmd)
		entries[i].Result = statemachine.Result{Value: 1}
	}
	return entries, nil
}

func (m dragonboatMachine) Lookup(any) (any, error)       { return m.state(), nil }
func (m dragonboatMachine) PrepareSnapshot() (any, error) { return m.state(), nil }
func (m dragonboatMachine) Close() error                  { return nil }

func (m dragonboatMachine) SaveSnapshot(s any, w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	return s.(state).write(w)
}

func (m dragonboatMachine) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	s, err := readState(r)
	if err == nil {
		m.set(s)
	}
	return err
}

// dragonboatHost translates options. One shard on few cores needs fewer workers than
// the default for many shards has, and smaller buffers: there are 16, of 128 MiB each.
func dragonboatHost(o options) config.NodeHostConfig {
	expert := config.GetDefaultExpertConfig()
	expert.Engine = config.EngineConfig{ExecShards: 1, CommitShards: 1, ApplyShards: 1, SnapshotShards: 1, CloseShards: 1}
	expert.LogDB.Shards = 1
	expert.LogDB.KVWriteBufferSize = 4 << 20
	expert.LogDBFactory = tan.Factory
	host := config.NodeHostConfig{NodeHostDir: o.Dir, RTTMillisecond: 100, RaftAddress: o.Addresses[o.Node], Expert: expert}
	if o.ShortTimeouts {
		host.RTTMillisecond = 15
	}
	return host
}

func openDragonboat(o options) (node, error) {
	for _, name := range []string{"raft", "rsm", "transport", "dragonboat", "logdb", "grpc", "tan", "config", "raftpb",
		"registry", "settings", "order", "utils", "fileutil", "server", "pebblekv", "tests", "id", "gossip"} {
		logger.GetLogger(name).SetLevel(logger.CRITICAL)
	}
	host, err := dragonboat.NewNodeHost(dragonboatHost(o))
	if err != nil {
		return nil, err
	}
	members := map[uint64]dragonboat.Target{} // of a replica that resumes: it knows them
	if !o.Resume {
		for i, address := range o.Addresses {
			members[dragonboatReplica(i)] = address
		}
	}
	m := new(machine)
	create := func(uint64, uint64) statemachine.IConcurrentStateMachine { return dragonboatMachine{m} }
	err = host.StartConcurrentReplica(members, false, create, config.Config{
		ReplicaID: dragonboatReplica(o.Node), ShardID: dragonboatShard,
		ElectionRTT: 10, HeartbeatRTT: 1, CheckQuorum: true, PreVote: true})
	if err != nil {
		return nil, err
	}
	return &dragonboatNode{host, dragonboatReplica(o.Node), host.GetNoOPSession(dragonboatShard), m}, nil
}

func (n *dragonboatNode) Leads() bool {
	leader, _, known, err := n.host.GetLeaderID(dragonboatShard)
	return err == nil && known && leader == n.replica
}

func (n *dragonboatNode) Propose(_ context.Context, command []byte) error {
	f, err := n.ProposeAsync(command)
	if err != nil {
		return err
	}
	return f.Wait()
}

// ProposeAsync tries again while the queue of proposals is full: to wait for room is
// part of the latency.
func (n *dragonboatNode) ProposeAsync(command []byte) (future, error) {
	for began := time.Now(); ; time.Sleep(100 * time.Microsecond) {
		request, err := n.host.Propose(n.session, command, dragonboatLimit)
		if err == nil {
			return dragonboatFuture{request}, nil
		}
		if !errors.Is(err, dragonboat.ErrSystemBusy) || time.Since(began) > dragonboatLimit {
			return nil, err
		}
	}
}

type dragonboatFuture struct{ *dragonboat.RequestState }

func (f dragonboatFuture) Wait() error {
	result := <-f.ResultC()
	f.Release()
	if !result.Completed() {
		return fmt.Errorf("not completed: timeout %v, rejected %v, dropped %v, terminated %v",
			result.Timeout(), result.Rejected(), result.Dropped(), result.Terminated())
	}
	return nil
}

func (n *dragonboatNode) ReadIndex(context.Context) error {
	request, err := n.host.ReadIndex(dragonboatShard, 5*time.Second)
	if err != nil {
		return err
	}
	return dragonboatFuture{request}.Wait()
}

func (n *dragonboatNode) State() state { return n.machine.state() }

func (n *dragonboatNode) Close() error {
	n.host.Close()
	return nil
}
