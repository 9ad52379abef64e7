// Command kv_store is a replicated key-value store with an HTTP API, the
// example to copy from:
//
//	store.go     the state machine: what is replicated
//	snapshot.go  its snapshots: they are written while it goes on
//	http.go      the API: requests become commands, errors become status codes
//	read.go      reads: a node answers them by itself
//	session.go   writes that are executed once, however often they are sent
//	members.go   the part of it that changes the members
//	main.go      the wiring of all that to raft, start and stop
//	flags.go     the command line
//
// Without flags it runs a cluster of three nodes in one process:
//
//	go run ./examples/kv_store
//	curl -L -X PUT -d world http://127.0.0.1:8001/kv/hello
//	curl http://127.0.0.1:8002/kv/hello
//
// Any node answers reads by itself, as strongly as it is asked to, and sends writes on to
// the leader. A write with a key may be sent again, and is executed once:
//
//	curl 'http://127.0.0.1:8003/kv/hello?consistency=stale'
//	session=$(curl -s -L -X POST http://127.0.0.1:8001/sessions)
//	curl -L -X POST -H "Idempotency-Key: $session-1" 'http://127.0.0.1:8002/kv/counter?add=1'
//
// With -id it runs one node, so that three terminals make a cluster whose
// processes can be killed:
//
//	go run ./examples/kv_store -id a
//	go run ./examples/kv_store -id b
//	go run ./examples/kv_store -id c
//
// A node keeps its data in a directory, a.raft for node a unless -data says
// otherwise. A process that is started again, however it ended, returns with all
// that it had, and catches up with what it missed. It takes a snapshot now and then,
// so that neither the log nor a start grows with every command, or at once:
//
//	curl -X POST http://127.0.0.1:8001/snapshot
//
// With -join it runs a node that waits until it is added to a cluster that there is,
// for good or in the place of another one, whose process then ends:
//
//	go run ./examples/kv_store -id d -raft 127.0.0.1:5004 -http 127.0.0.1:8004 -join
//	curl -L -X POST 'http://127.0.0.1:8001/members?id=d&raft=127.0.0.1:5004&http=127.0.0.1:8004&replace=c'
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-8da499c8/raft"
)

const (
	// requestTimeout bounds how long a request waits for a majority.
	requestTimeout = 5 * time.Second

	// stopTimeout bounds a clean stop: a little longer than a request.
	stopTimeout = requestTimeout + time.Second

	// transportTimeout is what the transport gives a peer to answer; an
	// election timeout, by default 500 ms, is right.
	transportTimeout = 500 * time.Millisecond
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status: 0 after Ctrl-C or SIGTERM, and once the nodes were
// taken out of the cluster, 1 if something failed, 2 for bad flags.
func run(args []string, stdout, stderr io.Writer) int {
	o, err := parseFlags(args, stderr)
	switch {
	case errors.Is(err, errHelp):
		return 0
	case err != nil:
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once

	if err := serve(ctx, o, newLogger(stderr), stdout); err != nil {
		fmt.Fprintf(stderr, "kv_store: %v\n", err)
		return 1
	}
	if ctx.Err() != nil {
		fmt.Fprintf(stdout, "Stopped. The data is in %s: the same command goes on with it.\n", list(o.dataDirs()))
	}
	return 0
}

// serve runs the local nodes until ctx ends, one of them fails, or all were taken out
// of the cluster.
func serve(ctx context.Context, o options, logger *zap.Logger, stdout io.Writer) error {
	// All ports first: either the whole program starts, or nothing of it.
	listeners, err := listenAll(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var replicas []*replica
	for _, m := range o.local {
		transport := raft.NewTCPTransport(o.peers(), transportTimeout, raft.WithListener(listeners[m.raft]))
		config := o.config(m.id)
		config.Logger = logger.Named(string(m.id))
		r, err := newReplica(config, o.members, transport)
		if err != nil {
			return err // parseFlags has checked it: a mistake in this program
		}
		replicas = append(replicas, r)
	}
	var running sync.WaitGroup
	errs := make([]error, len(replicas))
	for i, r := range replicas {
		m := o.local[i]
		running.Go(func() {
			err := r.run(ctx, listeners[m.http])
			if errors.Is(err, raft.ErrRemoved) {
				fmt.Fprintf(stdout, "Node %s was removed from the cluster and has stopped. Its data is in %s: a start with -join\nwaits until it is added again.\n", m.id, o.dataDir(m.id))
				return
			}
			errs[i] = explain(err, m.id, o.dataDir(m.id))
			cancel() // all or none
		})
	}
	running.Go(func() { greet(ctx, o, replicas[0].node, stdout) })
	running.Wait()
	return errors.Join(errs...)
}

// listenAll opens every local port, or none and reports all that failed.
func listenAll(o options) (map[string]net.Listener, error) {
	listeners := map[string]net.Listener{}
	var problems []error
	listen := func(m member, use, address string) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			problems = append(problems, fmt.Errorf("node %s, %s: %w", m.id, use, err))
			return
		}
		listeners[address] = l
	}
	for _, m := range o.local {
		listen(m, "raft", m.raft)
		listen(m, "http", m.http)
	}
	if len(problems) == 0 {
		return listeners, nil
	}
	for _, l := range listeners {
		l.Close()
	}
	return nil, fmt.Errorf("%w\nif another program uses a port, choose others with -peers, see -help", errors.Join(problems...))
}

// explain adds to the error of a node which data it is about, and what an operator
// can do.
func explain(err error, id raft.NodeID, dir string) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("node %s, data in %s: %w", id, dir, err)
	switch {
	case errors.Is(err, raft.ErrDataDirInUse):
		return fmt.Errorf("%w\nanother process has this directory open: end that one, or name another directory with -data", err)
	case errors.Is(err, raft.ErrCorrupt):
		return fmt.Errorf("%w\nnothing was changed there. Keep the directory, see to the disk, and leave this node out:\nthe others have all that was acknowledged, and serve without it", err)
	default:
		return err
	}
}

// replica is one node of the cluster with its HTTP server.
type replica struct {
	node *raft.Node
	web  *http.Server
}

// newReplica returns a replica that is ready to run. It starts nothing.
//
// The store begins empty each time: the node has snapshots and the log in its data
// directory, has the store restore the newest one, and applies what follows.
func newReplica(config raft.Config, founders []member, transport raft.Transport) (*replica, error) {
	s := newStore()
	node, err := raft.NewNode(config, s, transport)
	if err != nil {
		return nil, err
	}
	return &replica{node, &http.Server{
		Handler: &api{node: node, store: s, founders: founders, timeout: requestTimeout},
		// No client may hold a connection for ever.
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      20*time.Second + requestTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          zap.NewStdLog(config.Logger.Named("http")),
	}}, nil
}

// run serves until ctx ends, and returns nil then, or until something fails.
func (r *replica) run(ctx context.Context, listener net.Listener) error {
	ended := make(chan error, 2)
	// Not Run(ctx): its end would be abrupt. Stop ends the node below.
	go func() { ended <- r.node.Run(context.Background()) }()
	go func() { ended <- r.web.Serve(listener) }()
	var err error
	waiting := 2
	select {
	case <-ctx.Done():
	case err = <-ended: // either failed: neither returns on its own otherwise
		waiting--
	}
	// First leadership, if the node has it: clients are sent on to the next leader as
	// long as the server runs. Then the requests that are under way, while the node still
	// serves them. A client that goes on for long is cut off. The node gets its own time.
	transfer, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	_ = r.node.TransferLeadership(transfer, "") // the others elect one anyway
	requests, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if e := r.web.Shutdown(requests); e != nil {
		r.web.Close()
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err = errors.Join(err, r.node.Stop(stopping))
	for range waiting {
		if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// greet says what to try, once there is a leader.
func greet(ctx context.Context, o options, node *raft.Node, stdout io.Writer) {
	var b strings.Builder
	fmt.Fprintf(&b, "\nA replicated key-value store. Its data is in %s.\n", list(o.dataDirs()))
	switch {
	case o.join:
		m := o.local[0]
		fmt.Fprintf(&b, "This is node %s. If it is in no cluster yet it waits until one adds it:\n\n  curl -L -X POST 'http://%s/members?%s'\n",
			m.id, o.members[0].http, m.query())
	case len(o.local) < len(o.members):
		fmt.Fprintf(&b, "This is node %s; %d of the %d nodes must run for it to serve. One that is killed and\n",
			o.local[0].id, len(o.members)/2+1, len(o.members))
		fmt.Fprintln(&b, "started again comes back with its data, and catches up.")
	}
	fmt.Fprintln(&b)
	io.WriteString(stdout, b.String())

	for l := range node.WatchLeader(ctx) { // its channel is closed when ctx ends
		if l.Leader != "" {
			fmt.Fprintf(stdout, "\nNode %s leads. Try, on any node (-L follows it to the leader, which writes):\n\n%s\nCtrl-C stops.\n\n", l.Leader, curls(o.members))
			return
		}
	}
}

// query returns the parameters that POST /members wants, of a member with these
// addresses.
func (m member) query() string {
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "%3A", ":") } // for people
	return fmt.Sprintf("id=%s&raft=%s&http=%s", escape(string(m.id)), escape(m.raft), escape(m.http))
}

// list joins names as people do: a, b and c.
func list(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// curls returns commands to try.
func curls(members []member) string {
	at := func(i int) string { return "http://" + members[i%len(members)].http }
	return strings.Join([]string{
		"  curl -L -X PUT -d world " + at(0) + "/kv/hello",
		"  curl " + at(1) + "/kv/hello; echo",
		"  curl -L -d moon '" + at(2) + "/kv/hello?if=world'",
		"  curl -L -d 1 '" + at(0) + "/kv/counter?if-absent'",
		"  curl -L -X POST '" + at(1) + "/kv/counter?add=1'; echo",
		"  curl '" + at(1) + "/kv/counter?consistency=stale'",
		"  session=$(curl -s -L -X POST " + at(0) + "/sessions)",
		"  curl -L -X POST -H \"Idempotency-Key: $session-1\" '" + at(0) + "/kv/counter?add=1'; echo",
		"  curl -L -X DELETE " + at(1) + "/kv/hello",
		"  curl " + at(2) + "/status",
		"  curl -X POST " + at(2) + "/snapshot",
		"",
	}, "\n")
}

// newLogger returns a logger for people: short times, the node first.
func newLogger(w io.Writer) *zap.Logger {
	config := zap.NewDevelopmentEncoderConfig()
	config.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
	config.CallerKey, config.StacktraceKey = zapcore.OmitKey, zapcore.OmitKey
	config.ConsoleSeparator = "  "
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(config), zapcore.Lock(zapcore.AddSync(w)), zap.InfoLevel))
}
