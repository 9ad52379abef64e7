package raft_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/seed-8da499c8/raft"
)

// counter is the state that the cluster replicates: a sum. Every member ends
// up with the same one, since every member applies the same commands.
type counter struct{ sum int }

// Apply adds a number and answers with the sum.
func (c *counter) Apply(command []byte) ([]byte, error) {
	n, err := strconv.Atoi(string(command))
	if err != nil {
		return nil, err // part of the result, the same on every member
	}
	c.sum += n
	return strconv.AppendInt(nil, int64(c.sum), 10), nil
}

// Snapshot returns the whole state.
func (c *counter) Snapshot() ([]byte, error) {
	return strconv.AppendInt(nil, int64(c.sum), 10), nil
}

// Restore replaces the whole state.
func (c *counter) Restore(snapshot []byte) (err error) {
	c.sum, err = strconv.Atoi(string(snapshot))
	return err
}

// batchCounter is a counter that takes the commands that are ready together.
type batchCounter struct{ counter }

// ApplyBatch stands for Apply.
func (c *batchCounter) ApplyBatch(commands []raft.Command, results []raft.ApplyResult) {
	// Here a database would begin a transaction,
	for i, command := range commands {
		results[i].Response, results[i].Err = c.Apply(command.Data)
	}
	// and commit it here, once for all.
}

// diary is a state machine that may become large: all commands, each a line.
type diary struct{ lines []string }

// Apply appends a command.
func (d *diary) Apply(command []byte) ([]byte, error) {
	d.lines = append(d.lines, string(command))
	return strconv.AppendInt(nil, int64(len(d.lines)), 10), nil
}

// CaptureSnapshot returns the lines of now without copying them: what is appended
// later does not change them.
func (d *diary) CaptureSnapshot() (raft.SnapshotView, error) { return view(d.lines), nil }

// view is a diary as it was.
type view []string

// WriteTo runs while commands are being applied.
func (v view) WriteTo(ctx context.Context, w io.Writer) error {
	buffered := bufio.NewWriter(w)
	for _, line := range v {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintln(buffered, line)
	}
	return buffered.Flush() // returns the first error of all
}

// Close has nothing to let go of.
func (v view) Close() error { return nil }

// RestoreFrom replaces all lines. Scan goes on to io.EOF, or to an error.
func (d *diary) RestoreFrom(ctx context.Context, r io.Reader) error {
	d.lines = nil
	lines := bufio.NewScanner(r)
	for ctx.Err() == nil && lines.Scan() {
		d.lines = append(d.lines, lines.Text())
	}
	return errors.Join(ctx.Err(), lines.Err())
}

// Snapshot and Restore are not called, since the methods above are there.
func (d *diary) Snapshot() ([]byte, error) { return nil, errors.ErrUnsupported }
func (d *diary) Restore([]byte) error      { return errors.ErrUnsupported }

// database stands for one whose transactions survive a crash, each as a whole or not
// at all.
type database struct {
	sum     int
	applied raft.Index
}

// storedCounter is a counter that keeps its state in a database, and with it the
// index of the last command.
type storedCounter struct{ database *database }

// ApplyBatch is one transaction.
func (c *storedCounter) ApplyBatch(commands []raft.Command, results []raft.ApplyResult) {
	sum := counter{c.database.sum}
	for i, command := range commands {
		results[i].Response, results[i].Err = sum.Apply(command.Data)
	}
	*c.database = database{sum.sum, commands[len(commands)-1].Index}
}

// AppliedIndex returns up to where nothing is to be applied again.
func (c *storedCounter) AppliedIndex() (raft.Index, error) { return c.database.applied, nil }

// Sync is where a database that does not sync each transaction syncs them all.
func (c *storedCounter) Sync() (raft.Index, error) { return c.database.applied, nil }

// Snapshot is called when a follower needs one. The index is a part of the state.
func (c *storedCounter) Snapshot() ([]byte, error) {
	return fmt.Appendf(nil, "%d %d", c.database.sum, c.database.applied), nil
}

// Restore is one transaction, too.
func (c *storedCounter) Restore(snapshot []byte) error {
	var read database
	if _, err := fmt.Sscan(string(snapshot), &read.sum, &read.applied); err != nil {
		return err
	}
	*c.database = read
	return nil
}

// Apply is not called, since ApplyBatch is there.
func (c *storedCounter) Apply([]byte) ([]byte, error) { return nil, errors.ErrUnsupported }

// peers are the members of the cluster, the same on each of them.
var peers = map[raft.NodeID]string{
	"node1": "127.0.0.1:5001",
	"node2": "127.0.0.1:5002",
	"node3": "127.0.0.1:5003",
}

// start is what each of the three processes does, under its own id.
func start(ctx context.Context, id raft.NodeID) (*raft.Node, error) {
	config := raft.NewConfig(id, peers[id], peers) // data in <id>.raft, see DataDir
	transport := raft.NewTCPTransport(peers, 500*time.Millisecond)
	node, err := raft.NewNode(config, new(counter), transport)
	if err != nil {
		return nil, err
	}
	go func() {
		if err := node.Run(ctx); err != nil { // nil after ctx or node.Stop
			log.Print(err)
		}
	}()
	return node, nil
}

// submit proposes a command to a node of this process, waiting for a leader if
// there is none.
func submit(ctx context.Context, node *raft.Node, command string) (raft.Result, error) {
	for {
		result, err := node.Propose(ctx, []byte(command))
		var notLeader *raft.NotLeaderError
		if !errors.As(err, &notLeader) || notLeader.Leader != "" {
			return result, err // done, or for the process of notLeader.Leader
		}
		watch, cancel := context.WithCancel(ctx)
		for leadership := range node.WatchLeader(watch) {
			if leadership.Leader != "" {
				break
			}
		}
		cancel()
	}
}

// main runs one of them. Each line of its input is a command: a number to add.
func main() {
	id := flag.String("id", "node1", "which of the peers this process is")
	flag.Parse()
	ctx := context.Background()
	node, err := start(ctx, raft.NodeID(*id))
	if err != nil {
		log.Fatal(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		result, err := submit(ctx, node, lines.Text())
		fmt.Println(string(result.Response), err)
	}
	node.Stop(ctx) // if it leads, another member takes over at once
}

var _ = main // in README.md it is the program

// The quick start of README.md, with all three members in one process.
func ExampleNewTCPTransport() {
	defer inTemporaryDirectory()() // which gets the data
	peers = freeAddresses("node1", "node2", "node3")
	ctx := context.Background()
	nodes := map[raft.NodeID]*raft.Node{}
	for id := range peers {
		node, err := start(ctx, id)
		if err != nil {
			log.Fatal(err)
		}
		nodes[id] = node
	}

	// Ask any node, and go where it points to.
	result, err := submit(ctx, nodes["node1"], "42")
	var notLeader *raft.NotLeaderError
	for errors.As(err, &notLeader) && notLeader.Leader != "" {
		result, err = submit(ctx, nodes[notLeader.Leader], "42")
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("the sum is %s\n", result.Response)

	for _, node := range nodes {
		if err := node.Stop(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output: the sum is 42
}

// inTemporaryDirectory makes a directory and goes there. What it returns goes back
// and removes the directory.
func inTemporaryDirectory() (leave func()) {
	back, err := os.Getwd()
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "raft-example-")
	if err != nil {
		log.Fatal(err)
	}
	if err := os.Chdir(dir); err != nil {
		log.Fatal(err)
	}
	return func() {
		if err := errors.Join(os.Chdir(back), os.RemoveAll(dir)); err != nil {
			log.Fatal(err)
		}
	}
}

// A node that is made again with its data directory goes on where it was, however
// it ended.
func ExampleConfig_restart() {
	defer inTemporaryDirectory()()
	ctx := context.Background()
	for range 2 {
		config := raft.NewConfig("solo", "solo", map[raft.NodeID]string{"solo": "solo"})
		config.DataDir = "solo.raft"
		machine := new(counter) // empty: the log is applied to it again
		node, err := raft.NewNode(config, machine, raft.NewMemoryNetwork().Transport("solo"))
		if err != nil {
			log.Fatal(err)
		}
		go node.Run(ctx)
		result, err := submit(ctx, node, "21")
		fmt.Printf("the sum is %s, %v\n", result.Response, err)
		if err := node.Stop(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// the sum is 21, <nil>
	// the sum is 42, <nil>
}

// freeAddresses returns addresses of this machine that nothing listens on.
// Their ports lie below those that outgoing connections are given.
func freeAddresses(ids ...raft.NodeID) map[raft.NodeID]string {
	addresses := map[raft.NodeID]string{}
	for range 1000 {
		port := 20000 + rand.IntN(10000)
		for _, id := range ids {
			addresses[id] = fmt.Sprintf("127.0.0.1:%d", port)
			port++
		}
		if free(addresses) {
			return addresses
		}
	}
	log.Fatal("no free ports")
	return nil
}

func free(addresses map[raft.NodeID]string) bool {
	for _, address := range addresses {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return false
		}
		listener.Close()
	}
	return true
}

// A cluster of one member: it leads as soon as it runs.
func ExampleNode() {
	ctx := context.Background()
	config := raft.NewConfig("solo", "solo", map[raft.NodeID]string{"solo": "solo"})
	config.Storage = raft.NewMemoryStorage()
	node, err := raft.NewNode(config, new(counter), raft.NewMemoryNetwork().Transport("solo"))
	if err != nil {
		log.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- node.Run(ctx) }()

	for _, command := range []string{"1", "2", "3"} {
		result, err := submit(ctx, node, command)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("entry %d: the sum is %s\n", result.Index, result.Response)
	}

	if err := node.Stop(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("Run returned", <-stopped)
	// Output:
	// entry 3: the sum is 1
	// entry 4: the sum is 3
	// entry 5: the sum is 6
	// Run returned <nil>
}

// Three members in one process, connected by a network in memory.
func ExampleMemoryNetwork() {
	ctx := context.Background()
	network := raft.NewMemoryNetwork()
	peers := map[raft.NodeID]string{"a": "a", "b": "b", "c": "c"}
	nodes := map[raft.NodeID]*raft.Node{}
	for id, address := range peers {
		config := raft.NewConfig(id, address, peers)
		config.Storage = raft.NewMemoryStorage()
		config.HeartbeatInterval = 10 * time.Millisecond
		config.ElectionTimeout = 200 * time.Millisecond
		node, err := raft.NewNode(config, new(counter), network.Transport(id))
		if err != nil {
			log.Fatal(err)
		}
		go node.Run(ctx)
		nodes[id] = node
	}

	// All of them come to know the same leader.
	leader := awaitLeader(nodes["a"], "")
	result, err := nodes[leader].Propose(ctx, []byte("42"))
	fmt.Printf("the sum is %s, %v\n", result.Response, err)

	// The two others go on without it,
	network.Isolate(leader)
	next := awaitLeader(nodes[other(peers, leader)], leader)
	result, err = nodes[next].Propose(ctx, []byte("-2"))
	fmt.Printf("the sum is %s, %v\n", result.Response, err)

	// and it catches up as soon as it is back.
	network.Heal()
	for nodes[leader].Status().AppliedIndex < result.Index {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("the old leader is a", nodes[leader].Status().Role)

	for _, node := range nodes {
		node.Stop(ctx)
	}
	// Output:
	// the sum is 42, <nil>
	// the sum is 40, <nil>
	// the old leader is a follower
}

// awaitLeader waits until a node knows a leader other than the one that was.
func awaitLeader(node *raft.Node, was raft.NodeID) raft.NodeID {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for leadership := range node.WatchLeader(ctx) {
		if leadership.Leader != "" && leadership.Leader != was {
			return leadership.Leader
		}
	}
	return ""
}

// other returns a member that is not id.
func other(peers map[raft.NodeID]string, id raft.NodeID) raft.NodeID {
	for peer := range peers {
		if peer != id {
			return peer
		}
	}
	return ""
}

// startSolo starts a cluster of one member with any state machine.
func startSolo(sm raft.StateMachine) *raft.Node {
	return restartSolo(raft.NewMemoryStorage(), sm)
}

// restartSolo starts one that goes on with what a storage has.
func restartSolo(storage raft.Storage, sm raft.StateMachine) *raft.Node {
	config := raft.NewConfig("solo", "solo", map[raft.NodeID]string{"solo": "solo"})
	config.Storage = storage
	node, err := raft.NewNode(config, sm, raft.NewMemoryNetwork().Transport("solo"))
	if err != nil {
		log.Fatal(err)
	}
	go node.Run(context.Background())
	awaitLeader(node, "")
	return node
}

// Many commands under way at once, without a goroutine for each.
func ExampleNode_ProposeAsync() {
	node := startSolo(new(counter))

	var outcomes sync.WaitGroup
	for n := range 100 {
		outcomes.Add(1)
		node.ProposeAsync([]byte(strconv.Itoa(n+1)), func(result raft.Result, err error) {
			defer outcomes.Done()
			switch {
			case err != nil: // in any order
				fmt.Println(err)
			case n%25 == 24: // in the order of the log
				fmt.Printf("1 + ... + %d = %s\n", n+1, result.Response)
			}
		})
	}
	outcomes.Wait()

	node.Stop(context.Background())
	// Output:
	// 1 + ... + 25 = 325
	// 1 + ... + 50 = 1275
	// 1 + ... + 75 = 2850
	// 1 + ... + 100 = 5050
}

// A node tells who leads, from its own point of view, and every change of that.
func ExampleNode_WatchLeader() {
	config := raft.NewConfig("solo", "10.0.0.1:5001", map[raft.NodeID]string{"solo": "10.0.0.1:5001"})
	config.Storage = raft.NewMemoryStorage()
	node, err := raft.NewNode(config, new(counter), raft.NewMemoryNetwork().Transport("solo"))
	if err != nil {
		log.Fatal(err)
	}

	watch := node.WatchLeader(context.Background())
	fmt.Printf("before Run: %+v\n", <-watch)

	go node.Run(context.Background())
	for leadership := range watch {
		if leadership.IsSelf {
			fmt.Printf("%s leads at %s\n", leadership.Leader, leadership.Address)
			break
		}
	}

	node.Stop(context.Background())
	for range watch { // closed once the node has stopped
	}
	fmt.Println("stopped")
	// Output:
	// before Run: {Term:0 Leader: Address: IsSelf:false}
	// solo leads at 10.0.0.1:5001
	// stopped
}

// What a node knows about itself, in fields and in words.
func ExampleNode_Status() {
	node := startSolo(new(counter))
	if _, err := node.Propose(context.Background(), []byte("42")); err != nil {
		log.Fatal(err)
	}
	status := node.Status()
	fmt.Println("role:     ", status.Role)
	fmt.Println("leader:   ", status.Leader)
	fmt.Println("committed:", status.CommitIndex)
	fmt.Println("applied:  ", status.AppliedIndex)
	fmt.Println("members:  ", status.Members)

	node.Stop(context.Background())
	fmt.Println("reason:   ", node.Status().Reason)
	// Output:
	// role:      leader
	// leader:    solo
	// committed: 3
	// applied:   3
	// members:   [{solo solo voter 0 []}]
	// reason:    the node has stopped
}

// Every outcome of a proposal, and what to do about it.
func ExampleNode_Propose() {
	node := startSolo(new(counter))
	ctx := context.Background()

	propose := func(ctx context.Context, command string) {
		result, err := node.Propose(ctx, []byte(command))
		var apply *raft.ApplyError
		var notLeader *raft.NotLeaderError
		switch {
		case err == nil:
			fmt.Printf("applied: %s\n", result.Response)
		case errors.As(err, &apply):
			fmt.Println("applied, and refused by the state machine:", apply.Err)
		case errors.As(err, &notLeader):
			fmt.Println("not in the log: ask", notLeader.Address)
		case errors.Is(err, raft.ErrNotAccepted):
			fmt.Println("not in the log, safe to propose again:", err)
		case errors.Is(err, raft.ErrOutcomeUnknown):
			fmt.Println("applied or not: look before proposing again:", err)
		default:
			fmt.Println(err)
		}
	}
	propose(ctx, "42")
	propose(ctx, "many")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	propose(ended, "1")
	node.Stop(ctx)
	propose(ctx, "1")
	// Output:
	// applied: 42
	// applied, and refused by the state machine: strconv.Atoi: parsing "many": invalid syntax
	// not in the log, safe to propose again: raft: not accepted: context canceled before the command was in the log
	// not in the log, safe to propose again: raft: node stopped: solo
}

// A client that may retry without fear: in a session each command is executed once, whatever
// happens to leaders and answers meanwhile.
func ExampleNode_OpenSession() {
	node := startSolo(new(counter))
	ctx := context.Background()
	session, err := node.OpenSession(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		result, err := session.Propose(ctx, []byte("14"))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", result.Response)
	}
	if err := session.Close(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = session.Propose(ctx, []byte("14"))
	fmt.Println(errors.Is(err, raft.ErrSessionExpired))
	node.Stop(ctx)
	// Output:
	// 14
	// 28
	// 42
	// true
}

// A client in another process numbers its commands itself, and may ask any member again: the
// command is executed once, and the reply is the same.
func ExampleNode_ProposeInSession() {
	node := startSolo(new(counter))
	ctx := context.Background()
	session, err := node.OpenSession(ctx)
	if err != nil {
		log.Fatal(err)
	}
	// request is what such a client sends: here the first is lost on its way back, and sent again.
	request := func(sequence uint64, command string) {
		place := raft.SessionPlace{Session: session.ID(), Sequence: sequence, FirstAwaited: sequence}
		result, err := node.ProposeInSession(ctx, place, []byte(command))
		fmt.Printf("command %d: %s %v\n", sequence, result.Response, err)
	}
	request(1, "40")
	request(1, "40")
	request(2, "2")
	if err := node.CloseSession(ctx, session.ID()); err != nil {
		log.Fatal(err)
	}
	node.Stop(ctx)
	// Output:
	// command 1: 40 <nil>
	// command 1: 40 <nil>
	// command 2: 42 <nil>
}

// Resolve tells what has become of a command whose outcome was left open.
func ExampleNode_Resolve() {
	node := startSolo(new(counter))
	ctx := context.Background()
	// resolve says whether to propose a command again after an error.
	resolve := func(err error) (again bool) {
		var unknown *raft.OutcomeUnknownError
		if !errors.As(err, &unknown) {
			return errors.Is(err, raft.ErrNotAccepted)
		}
		committed, err := node.Resolve(ctx, unknown.Index, unknown.Term)
		return err == nil && !committed
	}
	result, err := node.Propose(ctx, []byte("42"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resolve(&raft.OutcomeUnknownError{Index: result.Index, Term: result.Term}))
	fmt.Println(resolve(&raft.OutcomeUnknownError{Index: result.Index, Term: result.Term - 1}))
	node.Stop(ctx)
	// Output:
	// false
	// true
}

// A follower names the leader, so that a client can go there.
func ExampleNotLeaderError() {
	err := error(&raft.NotLeaderError{Leader: "node2", Address: "127.0.0.1:5002"})

	var notLeader *raft.NotLeaderError
	if errors.As(err, &notLeader) {
		fmt.Println("go to", notLeader.Leader, "at", notLeader.Address)
	}
	fmt.Println("safe to propose again:", errors.Is(err, raft.ErrNotAccepted))
	// Output:
	// go to node2 at 127.0.0.1:5002
	// safe to propose again: true
}

// A leader that lost its followers cannot say what becomes of a command.
func ExampleOutcomeUnknownError() {
	ctx := context.Background()
	network := raft.NewMemoryNetwork()
	peers := map[raft.NodeID]string{"a": "a", "b": "b", "c": "c"}
	nodes := map[raft.NodeID]*raft.Node{}
	for id, address := range peers {
		config := raft.NewConfig(id, address, peers)
		config.Storage = raft.NewMemoryStorage()
		config.HeartbeatInterval = 10 * time.Millisecond
		config.ElectionTimeout = 200 * time.Millisecond
		node, err := raft.NewNode(config, new(counter), network.Transport(id))
		if err != nil {
			log.Fatal(err)
		}
		go node.Run(ctx)
		nodes[id] = node
	}
	leader := awaitLeader(nodes["a"], "")
	nodes[leader].Propose(ctx, []byte("1")) // from here on it knows that it leads

	network.Isolate(leader)
	_, err := nodes[leader].Propose(ctx, []byte("42"))
	var unknown *raft.OutcomeUnknownError
	if errors.As(err, &unknown) {
		fmt.Println("cause:", unknown.Cause)
	}
	fmt.Println("safe to propose again:", errors.Is(err, raft.ErrNotAccepted))

	for _, node := range nodes {
		node.Stop(ctx)
	}
	// Output:
	// cause: leadership was lost
	// safe to propose again: false
}

// A state machine that is given the commands that are ready together.
func ExampleBatchStateMachine() {
	node := startSolo(new(batchCounter))

	var outcomes sync.WaitGroup
	for range 1000 {
		outcomes.Add(1)
		node.ProposeAsync([]byte("1"), func(raft.Result, error) { outcomes.Done() })
	}
	outcomes.Wait()

	result, err := node.Propose(context.Background(), []byte("0"))
	fmt.Printf("the sum is %s, %v\n", result.Response, err)
	node.Stop(context.Background())
	// Output: the sum is 1000, <nil>
}

// A state machine whose snapshots are written while it goes on. A node that starts
// has it restore the newest one, and applies only what follows.
func ExampleStreamingStateMachine() {
	ctx := context.Background()
	storage := raft.NewMemoryStorage() // stands for the data directory
	node := restartSolo(storage, new(diary))
	for _, command := range []string{"Alice arrives", "Bob arrives"} {
		node.Propose(ctx, []byte(command))
	}
	node.TakeSnapshot(ctx)
	node.Propose(ctx, []byte("Alice leaves"))
	node.Stop(ctx)

	machine := new(diary)
	node = restartSolo(storage, machine)
	node.Propose(ctx, []byte("Bob leaves"))
	node.Stop(ctx)
	for _, line := range machine.lines {
		fmt.Println(line)
	}
	// Output:
	// Alice arrives
	// Bob arrives
	// Alice leaves
	// Bob leaves
}

// A snapshot in an hour when there is little to do, for example.
func ExampleNode_TakeSnapshot() {
	ctx := context.Background()
	node := startSolo(new(counter))
	for _, command := range []string{"1", "2", "3"} {
		node.Propose(ctx, []byte(command))
	}
	index, err := node.TakeSnapshot(ctx)
	fmt.Printf("it covers entry %d, %v\n", index, err)
	node.Stop(ctx)
	// Output: it covers entry 5, <nil>
}

// A state machine that keeps its own state has each command once, however often its
// node starts.
func ExampleDurableStateMachine() {
	ctx := context.Background()
	storage, kept := raft.NewMemoryStorage(), new(database)
	for range 2 {
		node := restartSolo(storage, &storedCounter{kept})
		result, err := node.Propose(ctx, []byte("21"))
		fmt.Printf("the sum is %s, %v\n", result.Response, err)
		node.Stop(ctx)
	}
	// Output:
	// the sum is 21, <nil>
	// the sum is 42, <nil>
}

// journal stands for a storage of the user's. It passes everything on.
type journal struct{ raft.Storage }

func openJournal(disk *raft.MemoryStorage) (raft.Storage, error) { return journal{disk}, nil }

// A test of a storage is a call of CheckStorage.
func ExampleCheckStorage() {
	disk := raft.NewMemoryStorage() // stands for a file, or a database
	// Each call opens what the one before has left behind.
	err := raft.CheckStorage(func() (raft.Storage, error) { return openJournal(disk) })
	fmt.Println(err)
	// Output: <nil>
}

// Everything that is wrong with a configuration is reported at once.
func ExampleNewNode() {
	config := raft.NewConfig("node1", "127.0.0.1:5001", map[raft.NodeID]string{"node2": "127.0.0.1:5002"})
	config.HeartbeatInterval = 100 * time.Millisecond
	config.ElectionTimeout = 200 * time.Millisecond
	_, err := raft.NewNode(config, new(counter), raft.NewMemoryNetwork().Transport("node1"))
	fmt.Println(errors.Is(err, raft.ErrConfig))
	fmt.Println(err)
	// Output:
	// true
	// raft: invalid configuration of node "node1": Peers has no entry for this node, "node1"
	// ElectionTimeout is 200ms: want at least 3 heartbeats, 300ms
}
