package raft

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"go.uber.org/zap"
)

// Config is what a node is made with. It is a value: zero fields mean
// defaults, and NewNode copies it, checks it and reports every problem at once.
type Config struct {
	// ID names this node, for ever: an id that lost its storage must not come
	// back under the same name.
	ID NodeID

	// Address is where this node listens, as its peers reach it. It equals
	// this node's entry in Peers.
	Address string

	// Peers are the first members of the cluster, this node included, the same
	// on each founding node, addresses included: nodes founded with different
	// Peers refuse each other. It is used only while the storage is empty.
	Peers map[NodeID]string

	// Join says that the node is to join a cluster that there is: it starts empty,
	// without Peers, and waits until a leader adds it. While it is a member Join makes
	// no difference. One that was taken out waits to be added again, whereas without
	// Join Run returns ErrRemoved as soon as a leader says so.
	Join bool

	// Cluster is the cluster's name. It is part of the cluster's fingerprint,
	// so that nodes of two clusters never take each other for peers.
	Cluster string

	// DataDir is the directory that keeps term, vote, log and snapshots, made if
	// need be. A node that is made again with it goes on where it was. It is
	// locked while the node runs. Default "<ID>.raft" in the working directory.
	DataDir string

	// RequireExisting makes Run refuse to start with an empty storage: for
	// operators who do not want a node that lost its disk, or was given the wrong
	// one, to begin anew. Unset it for the first start of each node.
	RequireExisting bool

	// SegmentBytes is the size of the files that the log in DataDir consists of.
	// Space is reserved, and comes back, in such pieces, and one is always in
	// reserve. Up to two that are not needed any more are kept while the node runs,
	// since syncs are faster where a disk was written before. Default 32 MiB, at
	// least 64 KiB, at most 1 GiB.
	SegmentBytes int

	// Storage keeps term, vote and log instead of DataDir, for tests such as with
	// NewMemoryStorage(), or in a place of your own. The node does not close it.
	Storage Storage

	// HeartbeatInterval is the time between two heartbeats of a leader. Default
	// 100 ms, or a fifth of an ElectionTimeout that is less than 500 ms.
	HeartbeatInterval time.Duration

	// ElectionTimeout is how long a node stays quiet without hearing from a
	// leader: each wait is drawn anew from [ElectionTimeout, 2*ElectionTimeout),
	// and with up to three voters short ones are likelier than long ones. A
	// leader that has not heard from a majority for as long steps down. At least
	// 3 heartbeats; default 500 ms.
	ElectionTimeout time.Duration

	// ForwardProposals has Propose on a member that does not lead send the command on to
	// the leader, once. So are sessions opened and closed, and their commands, which may be
	// sent again. ProposeAsync, changes of the members and TransferLeadership are not sent on.
	ForwardProposals bool

	// LeaseReads has a leader answer reads by its clock, without asking anybody, for a
	// while after a majority has answered a heartbeat: those who have refuse votes to
	// others for an ElectionTimeout, and MaxClockDrift less than that is relied on.
	// Whoever has less of an ElectionTimeout than the leader does not count. If in
	// doubt, as after a pause, a read goes on as without LeaseReads.
	//
	// Such reads are linearizable only as long as clocks keep to MaxClockDrift, and
	// no member is started again with a shorter ElectionTimeout than it had. A
	// machine that is suspended breaks that: Go's clock may stand still meanwhile.
	// So the default is false: reads then depend on no clock.
	LeaseReads bool

	// MaxClockDrift bounds how much faster any member's clock runs than any other's,
	// as a fraction. Only LeaseReads relies on it. Default 0.1, less than 1.
	MaxClockDrift float64

	// DiskStallLimit is how long a leader's write may take until it gives up
	// leadership. Default 5 election timeouts.
	DiskStallLimit time.Duration

	// MaxCommandBytes is the size of the largest command that Propose takes.
	// Default 1 MiB, at most 32 MiB.
	MaxCommandBytes int

	// MaxBatchBytes bounds the entries in one AppendEntries; one entry is
	// always sent, however large. Default 256 KiB, at most 16 MiB.
	MaxBatchBytes int

	// MaxInflightBytes bounds the entries that are under way to one peer.
	// Default 16 MiB; at least one batch is always sent.
	MaxInflightBytes int

	// MaxInflightMessages bounds the AppendEntries that are under way to one
	// peer. Default 64, at most 65,536.
	MaxInflightMessages int

	// MaxPendingBytes bounds the queue of proposals that are not in the log
	// yet, each counted with 64 bytes beside its own. Propose waits for room,
	// ProposeAsync reports ErrOverloaded. Default 64 MiB.
	MaxPendingBytes int

	// MaxUnappliedBytes bounds what a leader's log holds that is not applied yet,
	// or not on the leader's own disk, counted in the same way: while it is
	// exceeded, proposals wait in their queue. It is how a slow state machine, a
	// slow disk, or a lost quorum, slows down its callers. Default 64 MiB.
	MaxUnappliedBytes int

	// LogCacheBytes bounds the part of the log that is in memory, its end, each
	// batch counted with 64 bytes beside its entries. What is not applied yet stays
	// in memory up to four times that, and what is not on disk yet in any case.
	// Older entries are read from the Storage for followers that lag, and for a slow
	// state machine. Default 8 MiB.
	LogCacheBytes int

	// A snapshot is taken, and the log compacted, once SnapshotEntries entries or
	// SnapshotBytes bytes of entries were applied since the last one, and as many
	// bytes at least as that one has. Default 100,000 and 32 MiB.
	SnapshotEntries, SnapshotBytes int

	// TrailingEntries is how many entries are kept behind a snapshot, for followers
	// that lag a little, as long as they have no more than SnapshotBytes. What
	// followers in contact still lack is kept beyond that, up to four times as many
	// bytes as SnapshotBytes, or as the snapshot. Default 10,000.
	TrailingEntries int

	// SnapshotRate bounds how fast a follower that lags far is brought up to date, in
	// bytes per second: by a snapshot, or by entries that are not in memory any more,
	// which come that much faster than the log grows. Default 32 MiB.
	SnapshotRate int

	// MaxSessions is how many sessions of clients there are at most: when one more is
	// opened, the one expires that was not used for the longest time, measured by the log.
	// That of the leader holds which opens one, for all members. Default 4096, at most
	// 65,536.
	MaxSessions int

	// SessionReplyBytes bounds the replies to commands in sessions that are kept until
	// their clients have them, each counted with 64 bytes beside its own; the oldest are
	// dropped beyond it. They are part of each snapshot. That of the leader holds which
	// opens a session, for all members. Default 16 MiB, at most 256 MiB.
	SessionReplyBytes int

	// Logger receives what operators want to know; nothing is logged per
	// message. nil: silent.
	Logger *zap.Logger
}

// NewConfig returns a Config for one of the founding members of a cluster,
// with default settings.
func NewConfig(id NodeID, address string, peers map[NodeID]string) Config {
	return Config{ID: id, Address: address, Peers: maps.Clone(peers)}
}

// withDefaults returns a copy in which zero fields have their defaults.
func (c Config) withDefaults() Config {
	c.Peers = maps.Clone(c.Peers)
	if c.ElectionTimeout > 0 {
		defaultTo(&c.HeartbeatInterval, min(100*time.Millisecond, max(1, c.ElectionTimeout/5)))
	}
	defaultTo(&c.HeartbeatInterval, 100*time.Millisecond)
	defaultTo(&c.ElectionTimeout, max(500*time.Millisecond, 3*c.HeartbeatInterval))
	defaultTo(&c.DiskStallLimit, 5*c.ElectionTimeout)
	defaultTo(&c.MaxClockDrift, 0.1)
	defaultTo(&c.MaxCommandBytes, 1<<20)
	defaultTo(&c.MaxBatchBytes, 256<<10)
	defaultTo(&c.MaxInflightBytes, 16<<20)
	defaultTo(&c.MaxInflightMessages, 64)
	defaultTo(&c.MaxPendingBytes, 64<<20)
	defaultTo(&c.MaxUnappliedBytes, 64<<20)
	defaultTo(&c.SegmentBytes, 32<<20)
	if c.Storage == nil {
		defaultTo(&c.DataDir, string(c.ID)+".raft")
	}
	defaultTo(&c.LogCacheBytes, 8<<20)
	defaultTo(&c.SnapshotEntries, 100_000)
	defaultTo(&c.SnapshotBytes, 32<<20)
	defaultTo(&c.TrailingEntries, 10_000)
	defaultTo(&c.SnapshotRate, 32<<20)
	defaultTo(&c.MaxSessions, 4096)
	defaultTo(&c.SessionReplyBytes, 16<<20)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return c
}

// maxWindow is the largest MaxInflightMessages.
const maxWindow = 1 << 16

// lease is how long a leader may answer reads by its clock after it has sent a heartbeat.
func (c Config) lease() time.Duration {
	if !c.LeaseReads {
		return 0
	}
	return time.Duration(float64(c.ElectionTimeout) * (1 - c.MaxClockDrift))
}

func defaultTo[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate reports every problem of a Config whose defaults are filled in.
func (c Config) validate() error {
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(c.ID.valid(), "ID %q: want 1 to 128 bytes of [A-Za-z0-9._-], not starting with a dot", c.ID)
	check(c.Address != "", "Address is empty: want where peers reach this node")
	check(len(c.Address) <= maxAddressBytes, "Address has %d bytes: want at most %d", len(c.Address), maxAddressBytes)
	check(c.Storage == nil || c.DataDir == "", "Storage is set, and DataDir is %q: want one of them", c.DataDir)
	check(len(c.Peers) <= maxContacts, "Peers has %d members: want at most %d", len(c.Peers), maxContacts)
	check(len(c.Peers) > 0 || c.Join, "Peers is empty: want the first members, this node included, or Join")
	check(len(c.Peers) == 0 || !c.Join, "Join is set, and Peers has %d members: want one of them", len(c.Peers))
	if address, ok := c.Peers[c.ID]; len(c.Peers) > 0 {
		check(ok, "Peers has no entry for this node, %q", c.ID)
		check(!ok || address == c.Address, "Peers has this node at %q, Address is %q: want them equal", address, c.Address)
	}
	seen := map[string]NodeID{}
	for _, id := range sortedKeys(c.Peers) {
		address := c.Peers[id]
		check(id.valid(), "Peers: id %q: want 1 to 128 bytes of [A-Za-z0-9._-], not starting with a dot", id)
		check(address != "", "Peers: %q has no address", id)
		check(len(address) <= maxAddressBytes, "Peers: the address of %q has %d bytes: want at most %d", id, len(address), maxAddressBytes)
		if other, ok := seen[address]; ok && address != "" {
			check(false, "Peers: %q and %q have the same address %q", other, id, address)
		}
		seen[address] = id
	}
	check(len(c.Cluster) <= maxNameBytes, "Cluster has %d bytes: want at most %d", len(c.Cluster), maxNameBytes)
	check(c.HeartbeatInterval > 0, "HeartbeatInterval is %v: want more than 0", c.HeartbeatInterval)
	check(c.ElectionTimeout >= 3*c.HeartbeatInterval, "ElectionTimeout is %v: want at least 3 heartbeats, %v", c.ElectionTimeout, 3*c.HeartbeatInterval)
	check(c.DiskStallLimit >= c.ElectionTimeout, "DiskStallLimit is %v: want at least the ElectionTimeout, %v", c.DiskStallLimit, c.ElectionTimeout)
	check(c.MaxClockDrift > 0 && c.MaxClockDrift < 1, "MaxClockDrift is %v: want more than 0 and less than 1", c.MaxClockDrift)
	checkBytes := func(name string, value, least, most int) {
		check(value >= least && value <= most, "%s is %d: want %d to %d", name, value, least, most)
	}
	checkBytes("SegmentBytes", c.SegmentBytes, 64<<10, 1<<30)
	checkBytes("MaxCommandBytes", c.MaxCommandBytes, 1, 32<<20)
	checkBytes("MaxBatchBytes", c.MaxBatchBytes, 1, 16<<20)
	checkBytes("MaxInflightBytes", c.MaxInflightBytes, 1, math.MaxInt)
	checkBytes("MaxInflightMessages", c.MaxInflightMessages, 1, maxWindow)
	checkBytes("MaxPendingBytes", c.MaxPendingBytes, proposalSize(c.MaxCommandBytes), math.MaxInt)
	checkBytes("MaxUnappliedBytes", c.MaxUnappliedBytes, 1, math.MaxInt)
	checkBytes("LogCacheBytes", c.LogCacheBytes, 1, math.MaxInt)
	checkBytes("SnapshotEntries", c.SnapshotEntries, 1, math.MaxInt)
	checkBytes("SnapshotBytes", c.SnapshotBytes, 1, math.MaxInt)
	checkBytes("TrailingEntries", c.TrailingEntries, 1, math.MaxInt)
	checkBytes("SnapshotRate", c.SnapshotRate, 1, math.MaxInt)
	checkBytes("MaxSessions", c.MaxSessions, 1, mostSessions)
	checkBytes("SessionReplyBytes", c.SessionReplyBytes, 1, mostReplyBytes)
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w of node %q: %w", ErrConfig, c.ID, errors.Join(problems...))
}

// Longest names, in bytes.
const (
	maxIDBytes      = 128
	maxNameBytes    = 256
	maxAddressBytes = 1024
)

// valid reports whether id may name a node.
func (id NodeID) valid() bool {
	if len(id) == 0 || len(id) > maxIDBytes || id[0] == '.' {
		return false
	}
	for _, b := range []byte(id) {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '.', b == '_', b == '-':
		default:
			return false
		}
	}
	return true
}
