package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/seed-8da499c8/raft"
)

func TestFlags(t *testing.T) {
	o, err := parseFlags(nil, io.Discard)
	require.NoError(t, err)
	require.Len(t, o.members, 3)
	require.Equal(t, o.members, o.local)

	const pair = "x=host:1=host:2,y=[::1]:3=host:4"
	for _, more := range [][]string{nil, {"-raft", "[::1]:3", "-http", "host:4"}} {
		o, err = parseFlags(append([]string{"-id", "y", "-peers", pair}, more...), io.Discard)
		require.NoError(t, err)
		require.Equal(t, []member{{"x", "host:1", "host:2"}, {"y", "[::1]:3", "host:4"}}, o.members)
		require.Equal(t, o.members[1:], o.local)
		require.Equal(t, map[raft.NodeID]string{"x": "host:1", "y": "[::1]:3"}, o.peers())
	}

	o, err = parseFlags([]string{"-join", "-id", "z", "-raft", "host:5", "-http", "host:6", "-peers", pair}, io.Discard)
	require.NoError(t, err)
	require.Len(t, o.members, 2)
	require.Equal(t, []member{{"z", "host:5", "host:6"}}, o.local)
	require.Equal(t, []string{"z.raft"}, o.dataDirs())
	require.True(t, o.config("z").Join)
	require.Empty(t, o.config("z").Peers)
}

func TestDataDirectories(t *testing.T) {
	dir := t.TempDir()
	tests := map[string]struct {
		args []string
		want []string
	}{
		"three nodes":             {nil, []string{"a.raft", "b.raft", "c.raft"}},
		"three nodes, elsewhere":  {[]string{"-data", dir}, []string{filepath.Join(dir, "a.raft"), filepath.Join(dir, "b.raft"), filepath.Join(dir, "c.raft")}},
		"one of them":             {[]string{"-id", "b"}, []string{"b.raft"}},
		"one of them, elsewhere":  {[]string{"-id", "b", "-data", dir}, []string{dir}},
		"one of them, of another": {[]string{"-id", "b", "-data", "a.raft"}, []string{"a.raft"}}, // the node refuses it
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o, err := parseFlags(test.args, io.Discard)
			require.NoError(t, err)
			require.Equal(t, test.want, o.dataDirs())
			for i, m := range o.local {
				require.Equal(t, test.want[i], o.config(m.id).DataDir)
			}
		})
	}
	require.Equal(t, "x", list([]string{"x"}))
	require.Equal(t, "x and y", list([]string{"x", "y"}))
	require.Equal(t, "x, y and z", list([]string{"x", "y", "z"}))
}

func TestBadFlagsAreReportedAllAtOnce(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "a.raft"), 0o777))
	tests := map[string]struct {
		args []string
		want []string
	}{
		"unknown flag":    {[]string{"-port", "1"}, []string{"-port"}},
		"arguments":       {[]string{"a", "b"}, []string{`["a" "b"]: want flags only`}},
		"unknown node":    {[]string{"-id", "z"}, []string{"-id z: -peers has no such node"}},
		"address alone":   {[]string{"-raft", "127.0.0.1:5001"}, []string{"go with -id"}},
		"other addresses": {[]string{"-id", "a", "-raft", "h:1", "-http", "h:2"}, []string{"-peers has node a at 127.0.0.1:5001", "-peers has node a at 127.0.0.1:8001"}},
		"twice":           {[]string{"-peers", "a=h:1=h:2,a=h:1=h:1"}, []string{`"a" occurs twice`, `"h:1" occurs twice`}},
		"bad id":          {[]string{"-peers", "a!=h:1=h:2,b?=h:3=h:4"}, []string{`"a!"`, `"b?"`}},
		"small segments":  {[]string{"-segment-bytes", "1"}, []string{"SegmentBytes is 1: want 65536"}},
		"no snapshots":    {[]string{"-snapshot-entries", "-1"}, []string{"SnapshotEntries is -1: want 1"}},
		"data of all":     {[]string{"-id", "a", "-data", dir}, []string{"node a has its data in " + filepath.Join(dir, "a.raft")}},
		"join, nobody":    {[]string{"-join"}, []string{"-join goes with -id, -raft and -http"}},
		"join, nowhere":   {[]string{"-join", "-id", "d", "-raft", "h"}, []string{"-raft: address h: missing port", "-http: missing port"}},
		"join, bad id":    {[]string{"-join", "-id", "d!", "-raft", "h:1", "-http", "h:2"}, []string{`ID "d!"`}},
		"many": {[]string{"-id", "z", "-peers", "a=h=h:2,b=h:3,c=:4=h:5,d=h:6=h:0", "x"}, []string{
			"want flags only", `node "a": address h: missing port`, `"b=h:3": want id=raft=http`,
			"address :4: want a host and a port", "address h:0: want a host and a port", "-id z",
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			require.Equal(t, 2, run(test.args, io.Discard, &stderr))
			for _, want := range append(test.want, "Usage:") {
				require.Contains(t, stderr.String(), want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	var stderr bytes.Buffer
	require.Equal(t, 0, run([]string{"-help"}, io.Discard, &stderr))
	require.Contains(t, stderr.String(), "goes\non from there when it is started again")
	require.Contains(t, stderr.String(), "-data")
	require.Contains(t, stderr.String(), "-peers")
}

func TestPortsInUse(t *testing.T) {
	var addresses []any
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		addresses = append(addresses, l.Addr())
	}
	var stderr bytes.Buffer
	require.Equal(t, 1, run([]string{"-peers", fmt.Sprintf("a=%s=%s", addresses...)}, io.Discard, &stderr))
	require.Contains(t, stderr.String(), "node a, raft: listen tcp "+fmt.Sprint(addresses[0]))
	require.Contains(t, stderr.String(), "node a, http: listen tcp "+fmt.Sprint(addresses[1]))
	require.Contains(t, stderr.String(), "choose others with -peers")
}

// What is wrong with the data is said so that an operator knows what to do.
func TestDataThatANodeRefuses(t *testing.T) {
	dir := t.TempDir()
	start := func(id string) string {
		args := []string{"-id", id, "-data", dir, "-peers", freePeers(t)}
		var stderr bytes.Buffer
		require.Equal(t, 1, run(args, io.Discard, &stderr))
		require.Contains(t, stderr.String(), "kv_store: node "+id+", data in "+dir+": ")
		return stderr.String()
	}
	o, err := parseFlags([]string{"-id", "a", "-data", dir, "-peers", freePeers(t)}, io.Discard)
	require.NoError(t, err)
	_, stop := serveInBackground(t, o)
	output := start("a")
	require.Contains(t, output, "data directory is in use")
	require.Contains(t, output, "end that one, or name another directory with -data")
	stop()

	require.Contains(t, start("b"), "was given the storage of node a")

	segments, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	require.NoError(t, err)
	require.NotEmpty(t, segments)
	whole, err := os.ReadFile(segments[0])
	require.NoError(t, err)
	damaged := bytes.Clone(whole)
	damaged[20] ^= 1
	require.NoError(t, os.WriteFile(segments[0], damaged, 0o666))
	output = start("a")
	require.Contains(t, output, segments[0])
	require.Contains(t, output, "nothing was changed there")
	after, err := os.ReadFile(segments[0])
	require.NoError(t, err)
	require.Equal(t, damaged, after)
}

// serveInBackground runs the nodes of this process until stop is called. It
// returns once they serve, or wait to be added.
func serveInBackground(t *testing.T, o options) (out *safeBuffer, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out = new(safeBuffer)
	ended := make(chan error, 1)
	go func() {
		err := serve(ctx, o, zap.NewNop(), out)
		for end := time.Now().Add(patience); errors.Is(err, syscall.EADDRINUSE) && ctx.Err() == nil && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond) // a process that is just being started has copies of the sockets that were closed last
			err = serve(ctx, o, zap.NewNop(), out)
		}
		ended <- err
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	for _, m := range o.local {
		await(t, "node "+string(m.id), func() bool {
			s, err := status(m.http)
			return err == nil && (o.join || s.Applied > 0)
		})
	}
	return out, stop
}

// TestOneProcess runs all nodes in this process, over TCP, and again with the
// same data.
func TestOneProcess(t *testing.T) {
	t.Parallel()
	o, err := parseFlags([]string{"-peers", freePeers(t), "-data", t.TempDir()}, io.Discard)
	require.NoError(t, err)
	curl := client(t)
	out, stop := serveInBackground(t, o)
	await(t, "the greeting", func() bool { return strings.Contains(out.String(), "Ctrl-C stops") })
	require.Equal(t, 200, do(t, curl, o.members[0].http, "PUT", "/kv/hello", "world").code)
	require.Equal(t, "world", do(t, curl, o.members[1].http, "GET", "/kv/hello", "").body)
	stop()

	_, stop = serveInBackground(t, o)
	require.Equal(t, "world", do(t, curl, o.members[2].http, "GET", "/kv/hello", "").body)
	stop()
}

// TestRestartFromSnapshotAndTail starts nodes again whose logs do not go back to the
// first command any more.
func TestRestartFromSnapshotAndTail(t *testing.T) {
	t.Parallel()
	o, err := parseFlags([]string{"-peers", freePeers(t), "-data", t.TempDir(), "-snapshot-entries", "10"}, io.Discard)
	require.NoError(t, err)
	curl := client(t)
	put := func(key, value string) {
		require.Equal(t, 200, do(t, curl, o.members[0].http, "PUT", "/kv/"+key, value).code)
	}
	_, stop := serveInBackground(t, o)
	for i := range 30 {
		put(fmt.Sprint("key", i), "old")
	}
	session := open(t, curl, o.members[1].http)
	count := func(number int) response {
		r := do(t, curl, o.members[number%3].http, "POST", "/kv/sum?add=1", "", under(fmt.Sprint(session, "-", number)))
		require.Equal(t, 200, r.code, "%s", r.body)
		return r
	}
	first := count(1)
	for _, m := range o.members {
		require.Equal(t, 200, do(t, curl, m.http, "POST", "/snapshot", "").code)
	}
	put("key1", "new")
	put("tail", "new")
	second := count(2)
	stop()

	_, stop = serveInBackground(t, o)
	for _, m := range o.members {
		s, err := status(m.http)
		require.NoError(t, err)
		require.Greater(t, s.Snapshot, raft.Index(10))
		require.Greater(t, s.First, raft.Index(10), "the log has the first commands")
	}
	for key, want := range map[string]string{"key0": "old", "key1": "new", "key29": "old", "tail": "new"} {
		require.Equal(t, want, do(t, curl, o.members[2].http, "GET", "/kv/"+key, "").body, key)
	}
	for i, before := range []response{first, second} { // in the snapshot, and behind it
		again := count(i + 1)
		require.Equal(t, before.body, again.body)
		require.Equal(t, before.header.Get("Raft-Index"), again.header.Get("Raft-Index"))
	}
	require.Equal(t, "3", count(3).body)
	stop()
}

// A client whose request does not end is cut off in the end. That is no failure.
func TestStopWithARequestThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	o, err := parseFlags([]string{"-data", t.TempDir(), "-peers", freePeers(t)}, io.Discard)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out safeBuffer
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, o, zap.NewNop(), &out) }()
	await(t, "the greeting", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("it has ended: %v", err)
		default:
		}
		return strings.Contains(out.String(), "Ctrl-C stops")
	})
	connection, err := net.Dial("tcp", o.members[0].http)
	require.NoError(t, err)
	defer connection.Close()
	_, err = io.WriteString(connection, "PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n1")
	require.NoError(t, err)
	time.AfterFunc(100*time.Millisecond, cancel) // the server has begun to read it, or has not: both must end well
	require.NoError(t, <-ended)
}

// A leader that is stopped hands over first: its last client, who does not come to an
// end, keeps nobody waiting.
func TestStoppedLeaderHandsOverFirst(t *testing.T) {
	t.Parallel()
	peers, dir, stops := freePeers(t), t.TempDir(), map[raft.NodeID]func(){}
	var c testCluster
	for _, id := range []string{"a", "b", "c"} {
		o, err := parseFlags([]string{"-id", id, "-peers", peers, "-data", filepath.Join(dir, id)}, io.Discard)
		require.NoError(t, err)
		_, stops[raft.NodeID(id)] = serveInBackground(t, o)
		c.members = o.members
	}
	leader, followers := c.leader(t)
	connection, err := net.Dial("tcp", leader.http)
	require.NoError(t, err)
	defer connection.Close()
	_, err = io.WriteString(connection, "PUT /kv/k HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	require.NoError(t, err)
	_, err = connection.Read(make([]byte, 1)) // the server waits for the body now
	require.NoError(t, err)
	began := time.Now()
	var stopping sync.WaitGroup
	stopping.Go(stops[leader.id])
	curl := client(t)
	await(t, "a write through another node", func() bool {
		s, err := status(followers[0].http)
		if err != nil || s.Leader == leader.id {
			return false
		}
		r, err := try(curl, followers[0].http, "PUT", "/kv/k", "v")
		return err == nil && r.code == 200
	})
	require.Less(t, time.Since(began), stopTimeout/2)
	connection.Close()
	stopping.Wait()
}

// TestThreeProcesses kills the leader and starts it again, as a user with three
// terminals may.
func TestThreeProcesses(t *testing.T) {
	t.Parallel()
	c := startProcesses(t)
	curl := client(t)
	require.Equal(t, 200, do(t, curl, c.members[0].http, "PUT", "/kv/k", "before").code)
	require.Equal(t, "before", do(t, curl, c.members[1].http, "GET", "/kv/k", "").body)

	leader, followers := (&testCluster{members: c.members}).leader(t)
	c.kill(leader)
	killed := time.Now()
	hasty := client(t, func(c *http.Client) { c.Timeout = time.Second })
	await(t, "a write after the leader was killed", func() bool {
		// Until its successor is known, the others send us to the dead one.
		r, err := try(hasty, followers[0].http, "PUT", "/kv/k", "after")
		return err == nil && r.code == 200
	})
	require.Less(t, time.Since(killed), 3*time.Second)
	for _, m := range followers {
		require.Equal(t, "after", do(t, curl, m.http, "GET", "/kv/k", "").body)
	}

	c.start(t, leader)
	c.awaitEqual(t)
	require.Equal(t, "after", do(t, curl, leader.http, "GET", "/kv/k", "").body)
	for _, m := range c.members {
		require.NoError(t, c.running[m.id].interrupt())
		require.Contains(t, c.running[m.id].output.String(), "the same command goes on with it")
	}
}

// processes are three nodes, each in a process and a data directory of its own.
type processes struct {
	peers   string
	dir     string
	more    []string // flags
	members []member
	running map[raft.NodeID]*process // the last one of each node
}

// startProcesses starts the three.
func startProcesses(t *testing.T, more ...string) *processes {
	t.Helper()
	dir := t.TempDir()
	c := &processes{
		peers: freePeers(t), dir: dir, more: more, running: map[raft.NodeID]*process{},
	}
	o, err := parseFlags([]string{"-peers", c.peers}, io.Discard)
	require.NoError(t, err)
	c.members = o.members
	c.start(t, c.members...)
	return c
}

// start starts processes, and waits until they serve.
func (c *processes) start(t *testing.T, members ...member) {
	t.Helper()
	for _, m := range members {
		c.launch(t, m)
	}
	for _, m := range members {
		c.await(t, "node "+string(m.id), func() bool {
			_, err := status(m.http)
			return err == nil
		}, m)
	}
}

// launch starts the process of a node, always with the same data.
func (c *processes) launch(t *testing.T, m member, more ...string) {
	t.Helper()
	c.running[m.id] = startProcess(t, slices.Concat([]string{
		"-id", string(m.id), "-raft", m.raft, "-http", m.http, "-peers", c.peers,
		"-data", filepath.Join(c.dir, string(m.id)+".raft"),
	}, c.more, more)...)
}

// kill ends processes, all at once and without their knowing.
func (c *processes) kill(members ...member) {
	for _, m := range members {
		c.running[m.id].command.Process.Kill()
	}
	for _, m := range members {
		<-c.running[m.id].ended
	}
}

// await polls until ok, and fails the test if a process that should run has
// ended.
func (c *processes) await(t *testing.T, what string, ok func() bool, running ...member) {
	t.Helper()
	await(t, what, func() bool {
		for _, m := range running {
			p := c.running[m.id]
			select {
			case <-p.ended:
				t.Fatalf("while waiting for %s: the process of node %s has ended: %v\n%s", what, m.id, p.err, &p.output)
			default:
			}
		}
		return ok()
	})
}

// awaitEqual waits until all nodes have applied the same commands.
func (c *processes) awaitEqual(t *testing.T) {
	t.Helper()
	c.await(t, "the nodes to agree", func() bool {
		var first nodeStatus
		for i, m := range c.members {
			s, err := status(m.http)
			if err != nil || s.Leader == "" {
				return false
			}
			if i == 0 {
				first = s
			}
			if s.Applied != first.Applied || s.Leader != first.Leader {
				return false
			}
		}
		return true
	}, c.members...)
}

// process is a running program.
type process struct {
	command *exec.Cmd
	output  safeBuffer
	ended   chan struct{}
	err     error // once ended is closed
}

// isProcess says that this program is to be kv_store and not its tests: so they need not
// build it.
const isProcess = "KV_STORE_IS_A_PROCESS"

func TestMain(m *testing.M) {
	if os.Getenv(isProcess) != "" {
		main()
	}
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		flag.Set("test.parallel", "6") // the tests wait most of their time
	}
	os.Exit(m.Run())
}

// startProcess starts a program, which ends with the test at the latest.
func startProcess(t *testing.T, args ...string) *process {
	self, err := os.Executable()
	require.NoError(t, err)
	p := &process{command: exec.Command(self, args...), ended: make(chan struct{})}
	p.command.Env = append(os.Environ(), isProcess+"=1")
	p.command.Stdout, p.command.Stderr = &p.output, &p.output
	require.NoError(t, p.command.Start())
	go func() {
		p.err = p.command.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", args, p.output.String())
		}
	})
	return p
}

// kill ends the process without its knowing.
func (p *process) kill() {
	p.command.Process.Kill()
	<-p.ended
}

// interrupt ends the process as Ctrl-C does, and returns how it ended.
func (p *process) interrupt() error {
	if runtime.GOOS == "windows" {
		return nil // it has no such signal
	}
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
		return p.err
	case <-time.After(patience):
		return fmt.Errorf("it goes on after SIGTERM")
	}
}

// safeBuffer may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// freePeers returns a -peers with ports that nobody uses.
func freePeers(t *testing.T) string {
	a := freeAddresses(t, 6)
	return fmt.Sprintf("a=%s=%s,b=%s=%s,c=%s=%s", a[0], a[1], a[2], a[3], a[4], a[5])
}

// lastPort is the port that a test of this process has got last, from 10000 on. Tests of
// other packages, which may run at the same time, take theirs from 15000 on.
var lastPort atomic.Int64

func init() { lastPort.Store(rand.Int64N(5000)) }

// freeAddresses returns addresses with ports that nobody uses, and that no other test
// of this process will get. They lie below the range that systems take the ports of
// outgoing connections from. Listening there to find out would not do: a process that is
// just being started has a copy of the socket for a while after it is closed.
func freeAddresses(t *testing.T, n int) (addresses []string) {
	for len(addresses) < n {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+lastPort.Add(1)%5000)
		if c, err := net.Dial("tcp", address); err == nil {
			require.NoError(t, c.Close())
			continue
		}
		addresses = append(addresses, address)
	}
	return addresses
}
