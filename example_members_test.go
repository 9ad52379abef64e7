package raft_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// A node joins: it runs with Join, and the leader adds it.
func ExampleNode_AddVoter() {
	ctx := context.Background()
	network := raft.NewMemoryNetwork()
	founder := raft.NewConfig("node1", "10.0.0.1:7000", map[raft.NodeID]string{"node1": "10.0.0.1:7000"})
	founder.Storage = raft.NewMemoryStorage()
	leader, err := raft.NewNode(founder, new(counter), network.Transport("node1"))
	if err != nil {
		log.Fatal(err)
	}
	joiner := raft.Config{ID: "node4", Address: "10.0.0.4:7000", Join: true, Storage: raft.NewMemoryStorage()}
	newcomer, err := raft.NewNode(joiner, new(counter), network.Transport("node4"))
	if err != nil {
		log.Fatal(err)
	}
	go leader.Run(ctx)
	go newcomer.Run(ctx)
	awaitLeader(leader, "")

	added := leader.AddVoter(ctx, raft.Member{ID: "node4", Address: "10.0.0.4:7000"})
	fmt.Println("added:", added)
	for _, m := range leader.Status().Members {
		fmt.Println(m.ID, m.Address, m.Role)
	}
	newcomer.Stop(ctx)
	leader.Stop(ctx)
	// Output:
	// added: <nil>
	// node1 10.0.0.1:7000 voter
	// node4 10.0.0.4:7000 voter
}

// A cluster grows and shrinks at work: from 1 voter to 3, 5, 7 and back to 3.
func ExampleNode_ChangeMembers() {
	for _, line := range growAndShrink() {
		fmt.Println(line)
	}
	// Output:
	// 3 voters, and the sum is 1
	// 5 voters, and the sum is 2
	// 7 voters, and the sum is 3
	// 3 voters, and the sum is 4
}

func growAndShrink() (lines []string) {
	ctx := context.Background()
	network := raft.NewMemoryNetwork()
	nodes := map[raft.NodeID]*raft.Node{}
	start := func(config raft.Config) {
		config.Storage = raft.NewMemoryStorage()
		config.ElectionTimeout = 2 * time.Second // a busy machine is no reason for an election
		node, err := raft.NewNode(config, new(counter), network.Transport(config.ID))
		if err != nil {
			log.Fatal(err)
		}
		go node.Run(ctx)
		nodes[config.ID] = node
	}
	start(raft.NewConfig("n1", "n1", map[raft.NodeID]string{"n1": "n1"}))
	awaitLeader(nodes["n1"], "")
	grow := func(ids ...raft.NodeID) {
		var changes []raft.MemberChange
		for _, id := range ids {
			start(raft.Config{ID: id, Address: string(id), Join: true})
			changes = append(changes, raft.MemberChange{Kind: raft.ChangeAdd, Member: raft.Member{ID: id, Address: string(id), Role: raft.Voter}})
		}
		lines = append(lines, change(nodes["n1"], changes...))
	}
	grow("n2", "n3")
	grow("n4", "n5")
	grow("n6", "n7")
	var removals []raft.MemberChange
	for _, id := range []raft.NodeID{"n4", "n5", "n6", "n7"} {
		removals = append(removals, raft.MemberChange{Kind: raft.ChangeRemove, Member: raft.Member{ID: id}})
	}
	lines = append(lines, change(nodes["n1"], removals...))
	for _, node := range nodes {
		node.Stop(ctx)
	}
	return lines
}

// The same in virtual time, in which nothing is left behind either.
func TestGrowAndShrink(t *testing.T) {
	bubble(t, func(t *testing.T) {
		require.Equal(t, []string{
			"3 voters, and the sum is 1", "5 voters, and the sum is 2", "7 voters, and the sum is 3", "3 voters, and the sum is 4",
		}, growAndShrink())
	})
}

// change changes the members and then adds 1.
func change(leader *raft.Node, changes ...raft.MemberChange) string {
	if _, err := leader.ChangeMembers(context.Background(), 0, changes...); err != nil {
		log.Fatal(err)
	}
	result, err := leader.Propose(context.Background(), []byte("1"))
	if err != nil {
		log.Fatal(err)
	}
	return fmt.Sprintf("%d voters, and the sum is %s", len(leader.Status().Members), result.Response)
}

// Two of three nodes are lost for good. The third becomes a cluster of its own.
func ExampleRecoverCluster() {
	dir, err := os.MkdirTemp("", "survivor")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	loseMajority(dir)

	survivor, err := raft.InspectSurvivor(dir)
	if err != nil {
		log.Fatal(err)
	}
	log.Print(survivor) // compare it with what the others have
	if _, err := raft.RecoverCluster(dir, raft.Member{ID: survivor.ID}); err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	network := raft.NewMemoryNetwork()
	node := startOn(ctx, dir, network)
	if err := node.AddVoter(ctx, joiner(ctx, "node4", network)); err != nil {
		log.Fatal(err)
	}
	result, err := node.Propose(ctx, []byte("1"))
	fmt.Println("the sum is", string(result.Response), err)
	for _, m := range node.Status().Members {
		fmt.Println(m.ID, m.Role)
	}
	node.Stop(ctx)
	// Output:
	// the sum is 42 <nil>
	// node1 voter
	// node4 voter
}

// loseMajority leaves the directory of node1 of a cluster of three.
func loseMajority(dir string) {
	ctx, cancel := context.WithCancel(context.Background())
	network := raft.NewMemoryNetwork()
	node := startOn(ctx, dir, network)
	for _, id := range []raft.NodeID{"node2", "node3"} {
		if err := node.AddVoter(ctx, joiner(ctx, id, network)); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := node.Propose(ctx, []byte("41")); err != nil {
		log.Fatal(err)
	}
	if _, err := node.TakeSnapshot(ctx); err != nil { // of what is on its own disk, not just on those of others
		log.Fatal(err)
	}
	cancel()
	<-node.Done()
}

// startOn starts node1 and waits until it leads.
func startOn(ctx context.Context, dir string, network *raft.MemoryNetwork) *raft.Node {
	config := raft.NewConfig("node1", "node1", map[raft.NodeID]string{"node1": "node1"})
	config.DataDir = dir
	node, err := raft.NewNode(config, new(counter), network.Transport("node1"))
	if err != nil {
		log.Fatal(err)
	}
	go node.Run(ctx)
	awaitLeader(node, "")
	return node
}

// joiner starts a node that waits to be added.
func joiner(ctx context.Context, id raft.NodeID, network *raft.MemoryNetwork) raft.Member {
	config := raft.Config{ID: id, Address: string(id), Join: true, Storage: raft.NewMemoryStorage()}
	node, err := raft.NewNode(config, new(counter), network.Transport(id))
	if err != nil {
		log.Fatal(err)
	}
	go node.Run(ctx)
	return raft.Member{ID: id, Address: config.Address}
}
