package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// peer is a library that is measured, or the limit of what there is to measure.
type peer struct {
	name  string // on the command line and in results
	title string // in tables
	open  func(options) (node, error)
	lacks []kind // kinds of rows that it has no answer to
}

// ours is the peer that ratios are about, and limit the one that they are compared
// with beside the best of the others.
const (
	ours  = "ours"
	limit = "limit"
)

var peers = []peer{
	{ours, "this library", openOurs, nil},
	{"hashicorp-wal", "hashicorp/raft, raft-wal", openHashicorp, []kind{followerRead, leaseRead}},
	{"etcdraft", "etcd raft, etcd wal", func(o options) (node, error) { return openEtcd(o, false) }, nil},
	{"etcdraft-async", "etcd raft, asynchronous writes", func(o options) (node, error) { return openEtcd(o, true) }, nil},
	{"dragonboat-tan", "dragonboat, tan", openDragonboat, []kind{leaseRead}},
	{limit, "limit", openLimit, []kind{leaseRead, election, restart, lag, beside}},
}

// libraries are all peers but the limit, and others are those that are not ours.
func libraries() []peer { return without(peers, limit) }
func others() []peer    { return without(libraries(), ours) }

func without(all []peer, name string) []peer {
	return slices.DeleteFunc(slices.Clone(all), func(p peer) bool { return p.name == name })
}

// peerNamed returns a peer of the table.
func peerNamed(name string) (peer, error) {
	for _, p := range peers {
		if p.name == name {
			return p, nil
		}
	}
	return peer{}, fmt.Errorf("there is no peer %q", name)
}

// choosePeers returns those that a list of names means; all, if it is empty.
func choosePeers(names string) ([]peer, error) {
	if names == "" {
		return peers, nil
	}
	var chosen []peer
	for name := range strings.SplitSeq(names, ",") {
		p, err := peerNamed(name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, p)
	}
	return chosen, nil
}

// can reports whether the peer has rows of a kind.
func (p peer) can(k kind) bool { return !slices.Contains(p.lacks, k) }

// options are what a node is opened with. Each peer translates them into settings of
// its own; none may change what is measured: three nodes, TCP, synced writes.
type options struct {
	Node          int       // 0, 1 or 2
	Addresses     [3]string // of all nodes
	Dir           string    // the node's own
	Bytes         int       // of a command: a hint for tuning
	ShortTimeouts bool      // elections after 150 to 300 ms, instead of the peer's own choice
	Resume        bool      // go on with what an earlier node has left in Dir
	LeaseReads    bool      // ReadIndex by the leader's clock
	WholeLog      bool      // no snapshots: a node that resumes applies every entry
	Ours          string    // fields of this library's Config that are to be others, in JSON
}

// node is one of three nodes, with a log on the disk of its own.
type node interface {
	// Leads reports whether the node can be given commands.
	Leads() bool

	// Propose returns once the command is committed, and applied by this node.
	Propose(ctx context.Context, command []byte) error

	// ProposeAsync returns as soon as the command is on its way.
	ProposeAsync(command []byte) (future, error)

	// ReadIndex returns once this node has applied all that was committed before.
	ReadIndex(ctx context.Context) error

	// State is what the node's state machine has become.
	State() state

	// Close ends the node without handing over leadership.
	Close() error
}

// future is a command on its way.
type future interface{ Wait() error }

var errNoLeader = errors.New("this node does not lead")
