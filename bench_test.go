package raft_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// BenchmarkPropose measures three nodes in one process that keep their logs in
// memory, so what it shows is the library and not a disk: commands of 128 bytes
// from blocking callers, and from one that keeps many outstanding. Allocations
// are those of all three nodes.
func BenchmarkPropose(b *testing.B) {
	transports := []struct {
		name    string
		connect func(b testing.TB, ids []raft.NodeID) (map[raft.NodeID]string, map[raft.NodeID]raft.Transport)
	}{
		{"tcp", connectByTCP},
		{"memory", connectInMemory},
	}
	for _, transport := range transports {
		for _, callers := range []int{1, 256} {
			b.Run(fmt.Sprintf("%s/callers=%d", transport.name, callers), func(b *testing.B) {
				leader, _ := benchCluster(b, transport.connect)
				measure(b, func() { proposeBlocking(b, leader, callers) })
			})
		}
		b.Run(transport.name+"/outstanding=4096", func(b *testing.B) {
			leader, _ := benchCluster(b, transport.connect)
			measure(b, func() { proposeOutstanding(b, leader, 4096, b.N) })
		})
	}
}

var benchCommand = make([]byte, 128)

// measure times f, which proposes b.N commands.
func measure(b *testing.B, f func()) {
	b.ReportAllocs()
	b.ResetTimer()
	f()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "cmds/s")
}

// BenchmarkReadIndex measures linearizable reads over loopback, on the leader and on
// another member.
func BenchmarkReadIndex(b *testing.B) {
	for _, callers := range []int{1, 256} {
		for _, onLeader := range []bool{true, false} {
			b.Run(fmt.Sprintf("leader=%v/callers=%d", onLeader, callers), func(b *testing.B) {
				leader, follower := benchCluster(b, connectByTCP)
				node := follower
				if onLeader {
					node = leader
				}
				_, err := node.Read(b.Context(), raft.ReadOptions{Level: raft.ReadLocal, MinIndex: leader.Status().CommitIndex})
				require.NoError(b, err) // it knows the leader by now
				measure(b, func() {
					share(b, callers, func() error {
						_, err := node.ReadIndex(context.Background())
						return err
					})
				})
			})
		}
	}
}

// proposeBlocking has callers share the work, each waiting for every command.
func proposeBlocking(b *testing.B, leader *raft.Node, callers int) {
	share(b, callers, func() error {
		_, err := leader.Propose(context.Background(), benchCommand)
		return err
	})
}

// share has callers make b.N calls together, each one after the other.
func share(b *testing.B, callers int, call func() error) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}

// An asynchronous command costs all three nodes together less than half an allocation.
func TestAsynchronousCommandsAllocateLittle(t *testing.T) {
	leader, _ := benchCluster(t, connectByTCP)
	const commands = 50_000
	proposeOutstanding(t, leader, 4096, commands) // queues and buffers grow
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	proposeOutstanding(t, leader, 4096, commands)
	runtime.ReadMemStats(&after)
	each := float64(after.Mallocs-before.Mallocs) / commands
	t.Logf("%.3f allocations for each command", each)
	require.Less(t, each, 0.5)
}

// proposeOutstanding proposes commands and keeps that many under way.
func proposeOutstanding(b testing.TB, leader *raft.Node, outstanding, commands int) {
	tokens := make(chan struct{}, outstanding)
	var failure atomic.Pointer[error]
	done := func(_ raft.Result, err error) {
		if err != nil {
			first := err // the parameter must not escape: what is allocated here is counted
			failure.CompareAndSwap(nil, &first)
		}
		<-tokens
	}
	for range commands {
		if failure.Load() != nil {
			break
		}
		tokens <- struct{}{}
		leader.ProposeAsync(benchCommand, done)
	}
	for range outstanding {
		tokens <- struct{}{}
	}
	if err := failure.Load(); err != nil {
		require.NoError(b, *err)
	}
}

// benchCluster runs three nodes until the benchmark ends, and returns two of them.
func benchCluster(b testing.TB, connect func(b testing.TB, ids []raft.NodeID) (map[raft.NodeID]string, map[raft.NodeID]raft.Transport)) (leader, follower *raft.Node) {
	raft.WithoutVerification(b)
	ids := []raft.NodeID{"a", "b", "c"}
	addresses, transports := connect(b, ids)
	nodes := map[raft.NodeID]*raft.Node{}
	for _, id := range ids {
		config := raft.NewConfig(id, addresses[id], addresses)
		config.Storage = raft.NewMemoryStorage()
		config.ElectionTimeout = time.Second // busy cores are no reason for an election
		node, err := raft.NewNode(config, new(counting), transports[id])
		require.NoError(b, err)
		nodes[id] = node
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(context.Background())
		go func() { ended <- node.Run(ctx) }()
		b.Cleanup(func() {
			cancel() // nobody is to lead after this one
			require.NoError(b, <-ended)
		})
	}
	for leadership := range nodes["a"].WatchLeader(b.Context()) {
		if leadership.Leader == "" {
			continue
		}
		leader := nodes[leadership.Leader]
		if _, err := leader.Propose(b.Context(), benchCommand); err == nil {
			delete(nodes, leadership.Leader)
			return leader, nodes[slices.Min(slices.Collect(maps.Keys(nodes)))]
		}
	}
	b.Fatal("the benchmark ended before a leader was elected")
	return nil, nil
}

func connectInMemory(_ testing.TB, ids []raft.NodeID) (map[raft.NodeID]string, map[raft.NodeID]raft.Transport) {
	network := raft.NewMemoryNetwork()
	addresses, transports := map[raft.NodeID]string{}, map[raft.NodeID]raft.Transport{}
	for _, id := range ids {
		addresses[id], transports[id] = string(id), network.Transport(id)
	}
	return addresses, transports
}

func connectByTCP(b testing.TB, ids []raft.NodeID) (map[raft.NodeID]string, map[raft.NodeID]raft.Transport) {
	addresses, transports := map[raft.NodeID]string{}, map[raft.NodeID]raft.Transport{}
	listeners := map[raft.NodeID]net.Listener{}
	for _, id := range ids {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		addresses[id], listeners[id] = listener.Addr().String(), listener
	}
	for _, id := range ids {
		transports[id] = raft.NewTCPTransport(addresses, time.Second, raft.WithListener(listeners[id]))
	}
	return addresses, transports
}
