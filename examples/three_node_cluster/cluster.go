package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-8da499c8/raft"
)

// transportTimeout is what the transport gives a peer to answer: an election
// timeout, which is 500 ms by default.
const transportTimeout = 500 * time.Millisecond

// journal is the replicated state machine: the list of all commands. Apply is
// called on each node with the same commands in the same order, so all journals
// become equal.
type journal struct {
	mu    sync.Mutex // the story reads while raft applies
	lines []string
}

// Apply appends a command and returns how many there are now. The command is
// raft's; the conversion to string copies it.
func (j *journal) Apply(command []byte) ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, string(command))
	return fmt.Appendf(nil, "%d", len(j.lines)), nil
}

// Snapshot returns all commands, one a line.
func (j *journal) Snapshot() ([]byte, error) { return []byte(strings.Join(j.all(), "\n")), nil }

// Restore replaces all commands.
func (j *journal) Restore(snapshot []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = nil
	if len(snapshot) > 0 {
		j.lines = strings.Split(string(snapshot), "\n")
	}
	return nil
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// cluster is three nodes of one process.
type cluster struct {
	peers   map[raft.NodeID]string
	ids     []raft.NodeID // sorted
	log     *zap.Logger   // of what the story does itself
	nodeLog *zap.Logger
	members map[raft.NodeID]*member // those that run
	dir     string                  // has a data directory for each node
}

// member is one running node.
type member struct {
	node    *raft.Node
	journal *journal
	crash   context.CancelFunc // ends it abruptly
}

func newCluster(peers map[raft.NodeID]string, dir string, log *zap.Logger) *cluster {
	return &cluster{
		peers:   peers,
		ids:     slices.Sorted(maps.Keys(peers)),
		log:     log.Named("client"),
		nodeLog: log,
		members: map[raft.NodeID]*member{},
		dir:     dir,
	}
}

func (c *cluster) listAddresses() []string {
	var list []string
	for _, id := range c.ids {
		list = append(list, c.peers[id])
	}
	return list
}

// other returns a running node that is not id.
func (c *cluster) other(id raft.NodeID) raft.NodeID {
	for _, other := range c.ids {
		if other != id && c.members[other] != nil {
			return other
		}
	}
	panic("no other node runs")
}

// start makes a node and runs it. One that ran before comes back with its data
// directory: that holds its vote and its log, which the others rely on.
func (c *cluster) start(id raft.NodeID) error {
	// The transport could listen itself. Doing it here tells a busy port from
	// other troubles.
	listener, err := net.Listen("tcp", c.peers[id])
	if err != nil {
		return fmt.Errorf("%s: %w\nif another program uses the port, choose others with -base-port", id, err)
	}
	config := raft.NewConfig(id, c.peers[id], c.peers)
	config.DataDir = filepath.Join(c.dir, string(id)+".raft")
	config.SegmentBytes = 1 << 20 // reserved twice for each node: a tour needs little
	config.TrailingEntries = 1    // kept behind a snapshot
	config.Logger = c.nodeLog.Named(string(id))
	life, crash := context.WithCancel(context.Background())
	m := &member{journal: new(journal), crash: crash}
	transport := raft.NewTCPTransport(c.peers, transportTimeout, raft.WithListener(listener))
	if m.node, err = raft.NewNode(config, m.journal, transport); err != nil {
		crash()
		listener.Close()
		return err
	}
	c.members[id] = m
	go m.node.Run(life) // until stop or crash, which tell how it ended
	return nil
}

// crash ends a node without a word to the others, and waits until it has ended. Its
// data directory can be opened again then.
func (c *cluster) crash(id raft.NodeID) error {
	m := c.members[id]
	delete(c.members, id)
	m.crash()
	<-m.node.Done()
	return m.node.Err()
}

// stop ends a node in good order and waits until it has ended.
func (c *cluster) stop(ctx context.Context, id raft.NodeID) error {
	m := c.members[id]
	delete(c.members, id)
	defer m.crash()
	return errors.Join(m.node.Stop(ctx), m.node.Err())
}

func (c *cluster) stopAll(ctx context.Context) error {
	var errs []error
	for id := range c.members {
		errs = append(errs, c.stop(ctx, id))
	}
	return errors.Join(errs...)
}

// awaitLeader waits until a node knows a leader that is not old.
func (c *cluster) awaitLeader(ctx context.Context, at, old raft.NodeID) (raft.NodeID, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	node := c.members[at].node
	for l := range node.WatchLeader(ctx) { // closed when ctx ends or the node does
		if l.Leader != "" && l.Leader != old && c.members[l.Leader] != nil {
			return l.Leader, nil
		}
	}
	if err := node.Err(); err != nil {
		return "", err
	}
	return "", fmt.Errorf("no leader was elected: %s", node.Status().Reason)
}

// propose has a command replicated. It finds the leader, and tries again while
// it is certain that the command has not been accepted.
func (c *cluster) propose(ctx context.Context, command string) (raft.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	at := c.other("")
	for {
		result, err := c.members[at].node.Propose(ctx, []byte(command))
		if err == nil || !errors.Is(err, raft.ErrNotAccepted) || ctx.Err() != nil {
			return result, err
		}
		if at, err = c.awaitLeader(ctx, c.other(""), ""); err != nil {
			return raft.Result{}, err
		}
	}
}

// compact has the nodes that run take a snapshot and forget the entries before it.
// A leader does not forget what a follower lacks that it was in contact with within
// an election timeout, so the one that is away must have been so for longer.
func (c *cluster) compact(ctx context.Context, away raft.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !c.isSilent(away) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("no leader has missed %s: %w", away, context.Cause(ctx))
		}
	}
	for _, m := range c.members {
		if _, err := m.node.TakeSnapshot(ctx); err != nil {
			return err
		}
	}
	return nil
}

// isSilent reports whether a leader has not heard from a node for an election timeout.
func (c *cluster) isSilent(id raft.NodeID) bool {
	for _, m := range c.members {
		for _, peer := range m.node.Status().Peers { // a leader's
			if peer.ID == id && peer.LastContact > transportTimeout {
				return true
			}
		}
	}
	return false
}

// awaitEqual waits until every node has applied the same commands, in the same
// order, each of those acknowledged once, and returns how many there are.
func (c *cluster) awaitEqual(ctx context.Context, acknowledged []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		journals := map[raft.NodeID][]string{}
		for id, m := range c.members {
			journals[id] = m.journal.all()
		}
		err := compare(journals, c.ids, acknowledged)
		if err == nil {
			return len(journals[c.ids[0]]), nil
		}
		select {
		case <-ticker.C: // the last ones learn of a commit with the next heartbeat
		case <-ctx.Done():
			return 0, err
		}
	}
}

func compare(journals map[raft.NodeID][]string, ids []raft.NodeID, acknowledged []string) error {
	first := journals[ids[0]]
	for _, id := range ids {
		if !slices.Equal(journals[id], first) {
			return fmt.Errorf("%s has applied %q, %s %q", ids[0], first, id, journals[id])
		}
	}
	times := map[string]int{}
	for _, line := range first {
		times[line]++
	}
	for _, line := range acknowledged {
		if times[line] != 1 {
			return fmt.Errorf("%q was acknowledged once and applied %d times", line, times[line])
		}
	}
	return nil
}

// newLogger returns a logger for people: short times, the node in front.
func newLogger(w zapcore.WriteSyncer) *zap.Logger {
	config := zap.NewDevelopmentEncoderConfig()
	config.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
	config.EncodeName = func(name string, e zapcore.PrimitiveArrayEncoder) {
		e.AppendString(strings.TrimSuffix(name, ".raft"))
	}
	config.CallerKey, config.StacktraceKey = zapcore.OmitKey, zapcore.OmitKey
	config.ConsoleSeparator = "  "
	return zap.New(nodeless{zapcore.NewCore(zapcore.NewConsoleEncoder(config), w, zap.InfoLevel)})
}

// nodeless leaves out the field "node", which the name in front says already.
type nodeless struct{ zapcore.Core }

func (c nodeless) With(fields []zap.Field) zapcore.Core {
	fields = slices.DeleteFunc(slices.Clone(fields), func(f zap.Field) bool { return f.Key == "node" })
	return nodeless{c.Core.With(fields)}
}

func fieldsOf(command string, r raft.Result) []zap.Field {
	return []zap.Field{
		zap.String("command", command), zap.Uint64("index", uint64(r.Index)), zap.Uint64("term", uint64(r.Term)),
		zap.ByteString("response", r.Response),
	}
}
