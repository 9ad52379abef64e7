package raft_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// A member moves: it stops, the others are told where it will be, and it comes back
// there, with what it had. All of them move, one after the other, and so the cluster
// ends at addresses of which none was there when it was founded.
func TestMembersMoveToOtherAddresses(t *testing.T) {
	t.Parallel()
	ids := []raft.NodeID{"a", "b", "c"}
	peers := freeAddresses(ids...)
	storages, nodes := map[raft.NodeID]raft.Storage{}, map[raft.NodeID]*raft.Node{}
	start := func(id raft.NodeID, address string, peers map[raft.NodeID]string) {
		listener, err := net.Listen("tcp", address)
		require.NoError(t, err)
		config := raft.NewConfig(id, address, peers)
		config.Storage = storages[id]
		node, err := raft.NewNode(config, new(counter), raft.NewTCPTransport(peers, time.Second, raft.WithListener(listener)))
		require.NoError(t, err)
		nodes[id] = node
		go node.Run(context.Background())
		t.Cleanup(func() { require.NoError(t, node.Stop(context.Background())) })
	}
	for _, id := range ids {
		storages[id] = raft.NewMemoryStorage()
		start(id, peers[id], peers)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	leader := func(running ...raft.NodeID) *raft.Node {
		for ; ; time.Sleep(time.Millisecond) {
			for _, id := range running {
				if nodes[id].Status().Role == raft.Leader {
					return nodes[id]
				}
			}
			require.NoError(t, ctx.Err(), "nobody leads")
		}
	}
	await := func(id raft.NodeID, index raft.Index) {
		for nodes[id].Status().AppliedIndex < index {
			require.NoError(t, ctx.Err(), "%s has not got entry %d: %+v", id, index, nodes[id].Status())
			time.Sleep(time.Millisecond)
		}
	}
	for moved, id := range ids {
		founded, err := leader(ids...).Propose(ctx, []byte("1"))
		require.NoError(t, err)
		await(id, founded.Index)
		require.NoError(t, nodes[id].Stop(ctx))
		others := []raft.NodeID{ids[(moved+1)%3], ids[(moved+2)%3]}
		elsewhere := freeAddresses(id)[id]
		member := raft.Member{ID: id, Address: elsewhere, Role: raft.Voter}
		_, err = leader(others...).ChangeMembers(ctx, 0, raft.MemberChange{Kind: raft.ChangeUpdate, Member: member})
		require.NoError(t, err)
		_, err = leader(others...).Propose(ctx, []byte("1"))
		require.NoError(t, err)
		start(id, elsewhere, map[raft.NodeID]string{id: elsewhere}) // it has the rest in its storage
		await(id, leader(others...).Status().CommitIndex)
	}
	result, err := leader(ids...).Propose(ctx, []byte("1"))
	require.NoError(t, err)
	require.Equal(t, "7", string(result.Response))
}
