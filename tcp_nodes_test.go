package raft

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// What nodes do over a TCPTransport whose connections misbehave: in virtual
// time over pipes, and over sockets where these matter.

// wiredNode is a node on a TCPTransport.
type wiredNode struct {
	*Node
	tcp  *TCPTransport
	logs *observer.ObservedLogs
}

// wiredTimeout is the default election timeout, which these nodes have.
const wiredTimeout = 500 * time.Millisecond

type dialFunc = func(context.Context, string) (net.Conn, error)

// startWired starts the nodes a, b and c, which listen at a:1, b:1 and c:1 or
// where listen puts these, and dial as dialer says.
func startWired(t *testing.T, name string, peers map[NodeID]string, listen func(NodeID) net.Listener, dialer func(NodeID) dialFunc) map[NodeID]*wiredNode {
	nodes := map[NodeID]*wiredNode{}
	for _, id := range sortedKeys(peers) {
		core, logs := observer.New(zapcore.WarnLevel)
		config := NewConfig(id, peers[id], peers)
		config.Cluster, config.Storage, config.Logger = name, NewMemoryStorage(), zap.New(core)
		tcp := NewTCPTransport(peers, wiredTimeout, WithListener(listen(id)), WithDialer(dialer(id)))
		node, err := NewNode(config, new(countingMachine), tcp)
		require.NoError(t, err)
		nodes[id] = &wiredNode{node, tcp, logs}
		ended := make(chan error, 1)
		go func() { ended <- node.Run(context.Background()) }()
		t.Cleanup(func() {
			assert.NoError(t, node.Stop(context.Background()))
			assert.NoError(t, <-ended)
		})
	}
	return nodes
}

var wiredPeers = map[NodeID]string{"a": "a:1", "b": "b:1", "c": "c:1"}

// wiredLeader waits for a leader.
func wiredLeader(t *testing.T, nodes map[NodeID]*wiredNode) *wiredNode {
	var leader *wiredNode
	eventually(t, func() bool {
		for _, n := range nodes {
			if n.Status().Role == Leader {
				leader = n
			}
		}
		return leader != nil
	}, "a leader")
	return leader
}

// vanishing dials for a node, unless its SYNs or those to a peer vanish: then
// the attempt ends with its ctx only.
func vanishing(vanishes *atomic.Bool, dial dialFunc, does func(address string) bool) dialFunc {
	return func(ctx context.Context, address string) (net.Conn, error) {
		if vanishes.Load() && does(address) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return dial(ctx, address)
	}
}

// While attempts to connect to a peer hang the others are served at once, and
// the peer is back soon after its network is.
func TestN4TCPHangingDialsDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newPipeNetwork()
		var vanishes atomic.Bool
		vanishes.Store(true)
		nodes := startWired(t, "", wiredPeers, func(id NodeID) net.Listener { return network.listen(wiredPeers[id]) }, func(id NodeID) dialFunc {
			return vanishing(&vanishes, network.dialer(string(id)), func(address string) bool { return id == "c" || address == wiredPeers["c"] })
		})
		leader := wiredLeader(t, nodes)
		term := leader.Status().Term
		var took []time.Duration
		for range 600 { // about five minutes
			began := time.Now()
			_, err := leader.Propose(testContext(t), []byte("x"))
			require.NoError(t, err)
			took = append(took, time.Since(began))
			for _, id := range []NodeID{"a", "b", "c"} {
				began = time.Now()
				nodes[id].Status()
				took = append(took, time.Since(began))
			}
			time.Sleep(487 * time.Millisecond)
		}
		slices.Sort(took)
		assert.Less(t, took[len(took)*99/100], 10*time.Millisecond)
		assert.Equal(t, term, leader.Status().Term)
		assert.Greater(t, leader.tcp.Stats().DialsFailed, uint64(100), "it has tried all the time")
		assert.Less(t, nodes["c"].Status().LastIndex, leader.Status().LastIndex)

		vanishes.Store(false)
		began := time.Now()
		eventually(t, func() bool { return nodes["c"].Status().AppliedIndex == leader.Status().AppliedIndex }, "c to be back")
		assert.LessOrEqual(t, time.Since(began), time.Second+lastRetry)
		assert.Equal(t, term, leader.Status().Term)
	})
}

// Two clusters whose nodes have the same names each have one node at the other's
// address. They refuse each other, and both go on.
func TestW3TCPClustersAtEachOthersAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := newPipeNetwork()
		other := map[string]string{"one": "two", "two": "one"}
		// The c of each cluster sits where the other one looks for its own.
		start := func(name string) map[NodeID]*wiredNode {
			place := func(id NodeID, cluster string) string { return cluster + "/" + wiredPeers[id] }
			return startWired(t, name, wiredPeers, func(id NodeID) net.Listener { return network.listen(place(id, name)) }, func(id NodeID) dialFunc {
				dial := network.dialer(place(id, name))
				return func(ctx context.Context, address string) (net.Conn, error) {
					cluster := name
					if id == "c" || address == wiredPeers["c"] {
						cluster = other[name]
					}
					return dial(ctx, cluster+"/"+address)
				}
			})
		}
		clusters := map[string]map[NodeID]*wiredNode{"one": start("one"), "two": start("two")}
		terms := map[string]Term{}
		for name, nodes := range clusters {
			terms[name] = wiredLeader(t, nodes).Status().Term
		}
		for range 200 {
			for name, nodes := range clusters {
				leader := wiredLeader(t, nodes)
				_, err := leader.Propose(testContext(t), []byte("x"))
				require.NoError(t, err, "cluster %s", name)
				require.Equal(t, terms[name], leader.Status().Term, "cluster %s", name)
			}
			time.Sleep(time.Second)
		}
		for name, nodes := range clusters {
			for id, n := range nodes {
				stats := n.tcp.Stats()
				assert.Greater(t, stats.HandshakesRefused, uint64(100), "%s of %s", id, name)
				if id == "c" {
					assert.Zero(t, stats.Accepted+stats.Dialed, "%s of %s", id, name)
					assert.Contains(t, n.Status().Reason, "pre-vote refused by a: request from another cluster: ")
				}
				checkReports(t, n.logs)
			}
			leader := wiredLeader(t, nodes)
			for _, p := range leader.Status().Peers {
				if p.ID == "c" {
					assert.Contains(t, p.Trouble, "c at c:1 refuses the connection: request from another cluster: ")
				}
			}
			assert.EqualValues(t, 200, leader.machine.(*countingMachine).applied.Load(), "nothing came from the other cluster")
		}
	})
}

// checkReports requires warnings about peers, at most one a minute about each.
func checkReports(t *testing.T, logs *observer.ObservedLogs) {
	last := map[any]time.Time{}
	for _, line := range logs.All() {
		peer := line.ContextMap()["peer"]
		if at, ok := last[peer]; ok {
			assert.GreaterOrEqual(t, line.Time.Sub(at), reportInterval, "%v: %s", peer, line.Message)
		}
		last[peer] = line.Time
	}
	assert.NotEmpty(t, last)
}

// A link that breaks over and over leaves nothing behind.
func TestN8TCPThousandFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newPipeNetwork()
		var mu sync.Mutex
		var open []net.Conn
		dial := network.dialer("a")
		flaky := func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := dial(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				open = append(open, conn)
			}
			return conn, err
		}
		peers := map[NodeID]string{"a": "a:1", "b": "b:1"}
		a := startTCP(t, transportUnderTest{NewTCPTransport(peers, time.Second, WithListener(network.listen("a:1")), WithDialer(flaky)), Local{ID: "a"}})
		b := startTCP(t, transportUnderTest{NewTCPTransport(peers, time.Second, WithListener(network.listen("b:1"))), Local{ID: "b"}})
		synctest.Wait()
		goroutines := runtime.NumGoroutine()
		for range 1000 {
			eventually(t, func() bool { return a.beat(t, b) == nil }, "contact")
			stream, events := openTestStream(a.transportNode, b.id)
			require.True(t, stream.Send(someAppend(a.headerTo(b.transportNode), 1, "x")))
			awaitValue(t, events.responses, "a response")
			mu.Lock()
			for _, conn := range open {
				conn.Close()
			}
			open = nil
			mu.Unlock()
			awaitValue(t, events.closed, "the end of the stream")
		}
		synctest.Wait()
		assert.EqualValues(t, 2000, a.tcp.Stats().Dialed)
		assert.Zero(t, a.tcp.Stats().Connections+b.tcp.Stats().Connections)
		assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines+5) // other tests of the process may have some
	})
}

// deafConn is a connection whose network may begin to lose all that either side sends.
type deafConn struct {
	net.Conn
	loses atomic.Bool
}

func (c *deafConn) Write(b []byte) (int, error) {
	if c.loses.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for err == nil && c.loses.Load() {
		n, err = c.Conn.Read(b)
	}
	return n, err
}

// A follower whose connections are dead without a sign gets entries again soon,
// on new ones.
func TestN2TCPHalfOpenConnectionsOfAFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newPipeNetwork()
		var mu sync.Mutex
		conns := map[string][]*deafConn{} // by the address that was dialed
		nodes := startWired(t, "", wiredPeers, func(id NodeID) net.Listener { return network.listen(wiredPeers[id]) }, func(id NodeID) dialFunc {
			dial := network.dialer(string(id))
			return func(ctx context.Context, address string) (net.Conn, error) {
				conn, err := dial(ctx, address)
				if err != nil {
					return nil, err
				}
				deaf := &deafConn{Conn: conn}
				mu.Lock()
				defer mu.Unlock()
				conns[address] = append(conns[address], deaf)
				return deaf, nil
			}
		})
		leader := wiredLeader(t, nodes)
		propose := func() Index {
			result, err := leader.Propose(testContext(t), []byte("x"))
			require.NoError(t, err)
			return result.Index
		}
		has := func(id NodeID, index Index) func() bool {
			return func() bool { return nodes[id].Status().AppliedIndex >= index }
		}
		for round := range 2 {
			index := propose()
			for id := range nodes {
				eventually(t, has(id, index), fmt.Sprintf("%s to have what was proposed", id))
			}
			follower := slices.DeleteFunc(sortedKeys(wiredPeers), func(id NodeID) bool { return id == leader.Status().ID })[round]
			mu.Lock()
			require.NotEmpty(t, conns[wiredPeers[follower]])
			for _, conn := range conns[wiredPeers[follower]] {
				conn.loses.Store(true)
			}
			mu.Unlock()
			began := time.Now()
			index = propose()
			eventually(t, has(follower, index), "replication to go on")
			t.Logf("replication to %s went on after %v", follower, time.Since(began))
			assert.Less(t, time.Since(began), 3*wiredTimeout)
		}
	})
}

// Followers read what was written, by questions for which no goroutine waits. Those that a
// broken connection or the end of the leader leaves open end with an error that says that
// nothing was read, and the next ones go on with a new connection, or leader.
func TestTCPFollowersAskTheirLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newPipeNetwork()
		nodes := startWired(t, "", wiredPeers, func(id NodeID) net.Listener { return network.listen(wiredPeers[id]) }, func(id NodeID) dialFunc { return network.dialer(string(id)) })
		leader := wiredLeader(t, nodes)
		var followers []*wiredNode
		for _, id := range sortedKeys(nodes) {
			if nodes[id] != leader {
				followers = append(followers, nodes[id])
			}
		}
		write := func() Index {
			result, err := leader.Propose(testContext(t), []byte("x"))
			require.NoError(t, err)
			return result.Index
		}
		for range 50 {
			index := write()
			for _, f := range followers {
				seen, err := f.ReadIndex(testContext(t))
				require.NoError(t, err)
				require.GreaterOrEqual(t, seen, index)
			}
		}

		index, follower := write(), followers[0]
		link, err := follower.tcp.link(leader.config.ID, wire.PurposeControl)
		require.NoError(t, err)
		failed := 0
		for range 50 {
			link.mu.Lock()
			conn := link.conn
			link.mu.Unlock()
			broken := make(chan bool)
			go func() {
				defer close(broken)
				if conn != nil {
					conn.fail(errQueueFull)
				}
			}()
			if seen, err := follower.ReadIndex(testContext(t)); err == nil {
				require.GreaterOrEqual(t, seen, index)
			} else {
				require.ErrorIs(t, err, ErrNotAccepted)
				failed++
			}
			<-broken
			eventually(t, func() bool {
				_, err := follower.ReadIndex(testContext(t))
				return err == nil
			}, "reads to go on")
		}
		t.Logf("%d reads have failed", failed)

		ended := make(chan error, 1)
		go func() {
			for {
				if _, err := follower.ReadIndex(context.Background()); err != nil {
					ended <- err
					return
				}
			}
		}()
		require.NoError(t, leader.Stop(testContext(t)))
		require.ErrorIs(t, awaitValue(t, ended, "a read that the end of the leader fails"), ErrNotAccepted)
		eventually(t, func() bool {
			_, err := follower.ReadIndex(context.Background())
			return err == nil
		}, "reads to go on with a new leader")
	})
}
