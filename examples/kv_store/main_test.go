package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
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
		require.Equal(t, map[raft.NodeID]string{"x": "host:2", "y": "host:4"}, o.webs())
	}
}

func TestBadFlagsAreReportedAllAtOnce(t *testing.T) {
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
	require.Contains(t, stderr.String(), "must not be started\nagain")
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

// TestOneProcess runs all nodes in this process, over TCP.
func TestOneProcess(t *testing.T) {
	t.Parallel()
	o, err := parseFlags([]string{"-peers", freePeers(t)}, io.Discard)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out safeBuffer
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, o, zap.NewNop(), &out) }()
	await(t, "the greeting", func() bool { return strings.Contains(out.String(), "Ctrl-C stops") })
	curl := client(t)
	require.Equal(t, 200, do(t, curl, o.members[0].http, "PUT", "/kv/hello", "world").code)
	require.Equal(t, "world", do(t, curl, o.members[1].http, "GET", "/kv/hello", "").body)
	cancel()
	require.NoError(t, <-ended)
}

// TestThreeProcesses kills the leader, as a user with three terminals may.
func TestThreeProcesses(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "kv_store.exe") // a name that every system runs
	if output, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	peers := freePeers(t)
	o, err := parseFlags([]string{"-peers", peers}, io.Discard)
	require.NoError(t, err)
	processes := map[raft.NodeID]*process{}
	for _, m := range o.members {
		processes[m.id] = startProcess(t, program, "-id", string(m.id), "-raft", m.raft, "-http", m.http, "-peers", peers)
	}
	curl := client(t)
	for _, m := range o.members {
		await(t, "node "+string(m.id), func() bool {
			_, err := status(m.http)
			return err == nil
		})
	}
	cluster := &testCluster{members: o.members}
	require.Equal(t, 200, do(t, curl, o.members[0].http, "PUT", "/kv/k", "before").code)
	require.Equal(t, "before", do(t, curl, o.members[1].http, "GET", "/kv/k", "").body)

	leader, followers := cluster.leader(t)
	processes[leader.id].kill()
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
	await(t, "the two to agree", func() bool {
		a, errA := status(followers[0].http)
		b, errB := status(followers[1].http)
		return errA == nil && errB == nil && a.Applied == b.Applied && a.Leader == b.Leader
	})
	for _, m := range followers {
		require.NoError(t, processes[m.id].interrupt())
	}
}

// process is a running program.
type process struct {
	command *exec.Cmd
	output  safeBuffer
	ended   chan struct{}
	err     error // once ended is closed
}

// startProcess starts a program, which ends with the test at the latest.
func startProcess(t *testing.T, program string, args ...string) *process {
	p := &process{command: exec.Command(program, args...), ended: make(chan struct{})}
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

// freePeers returns a -peers with ports that nobody uses. They lie below the
// range that systems take the ports of outgoing connections from, so that no
// other test gets one by chance.
func freePeers(t *testing.T) string {
	var ports []any
	for len(ports) < 6 {
		port := 10000 + rand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close() // once all are found, so that they differ
		ports = append(ports, port)
	}
	const address = "127.0.0.1:%d"
	return fmt.Sprintf("a="+address+"="+address+",b="+address+"="+address+",c="+address+"="+address, ports...)
}
