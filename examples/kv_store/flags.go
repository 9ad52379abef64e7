package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-8da499c8/raft"
)

const defaultPeers = "a=127.0.0.1:5001=127.0.0.1:8001,b=127.0.0.1:5002=127.0.0.1:8002,c=127.0.0.1:5003=127.0.0.1:8003"

const usage = `Usage:
  kv_store                  three nodes in one process
  kv_store -id a            one node of them; run the others in other terminals
  kv_store -id a -raft 127.0.0.1:5001 -http 127.0.0.1:8001 -peers a=127.0.0.1:5001=127.0.0.1:8001,...
  kv_store -id d -raft 127.0.0.1:5004 -http 127.0.0.1:8004 -join
                            a fourth one, which waits until POST /members adds it

Each node keeps its data in a directory of its own, a.raft for node a, and goes
on from there when it is started again, however it ended before. The first start
makes the directory, and -peers says who founds the cluster. Later starts want
the same directory and the same -peers. A node whose directory is lost does not
count any more: take it out with DELETE /members/{id}, start it with -join, and add
it again. The process of a node that is taken out ends, with exit status 0. From
time to time, or when it is asked to, a node writes all keys and values to a
snapshot there, and forgets the commands that led to them.

Any node answers reads by itself. By default they see all that was written before,
and rely on no clock; ?consistency=lease is cheaper and does rely on clocks,
?consistency=stale asks nobody, ?max-staleness=2s and ?min-index=N bound what may be
missed. Writes go to the leader. Those under an Idempotency-Key, with the number of a
session that POST /sessions has opened, may be sent again, and are executed once.

`

// errHelp says that the usage was asked for, and has been printed.
var errHelp = flag.ErrHelp

// member is one node of the cluster.
type member struct {
	id   raft.NodeID
	raft string // where the other nodes reach it
	http string // where clients reach it
}

// options are what the flags say.
type options struct {
	members []member // who founded the cluster, in the order of -peers
	local   []member // those that this process runs
	single  bool     // -id was given
	join    bool     // -join: it is no founder, or not as such
	data    string   // -data
	segment int      // -segment-bytes; 0: as raft has it
	entries int      // -snapshot-entries; 0: as raft has it
}

// config returns the configuration of one node.
func (o options) config(id raft.NodeID) raft.Config {
	peers := o.peers()
	config := raft.NewConfig(id, peers[id], peers)
	if o.join {
		config = raft.Config{ID: id, Address: o.local[0].raft, Join: true}
	}
	config.DataDir = o.dataDir(id)
	config.LeaseReads = true // only reads with ?consistency=lease use it
	config.SegmentBytes = o.segment
	config.SnapshotEntries = o.entries
	config.TrailingEntries = (o.entries + 9) / 10
	config.MaxCommandBytes = maxCommandBytes
	return config
}

// dataDir returns where a node keeps its data: in -data itself if that is for one
// node, else in a directory of its own name there.
func (o options) dataDir(id raft.NodeID) string {
	if o.single && o.data != "" {
		return o.data
	}
	return filepath.Join(o.data, string(id)+".raft")
}

// dataDirs returns where the nodes of this process keep their data.
func (o options) dataDirs() []string {
	var dirs []string
	for _, m := range o.local {
		dirs = append(dirs, o.dataDir(m.id))
	}
	return dirs
}

func (o options) peers() map[raft.NodeID]string {
	peers := map[raft.NodeID]string{}
	for _, m := range o.members {
		peers[m.id] = m.raft
	}
	return peers
}

// parseFlags reads the command line. If that does not work, it writes all
// problems at once and the usage to stderr, and returns an error.
func parseFlags(args []string, stderr io.Writer) (options, error) {
	flags := flag.NewFlagSet("kv_store", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		io.WriteString(stderr, usage)
		flags.PrintDefaults()
	}
	id := flags.String("id", "", "the `node` that this process runs; empty: all of them")
	raftAddress := flags.String("raft", "", "`address` for the other nodes, as in -peers, which is the default")
	httpAddress := flags.String("http", "", "`address` for clients, as in -peers, which is the default")
	join := flags.Bool("join", false, "with -id, -raft and -http: wait to be added to the cluster that -peers founded")
	data := flags.String("data", "", "`directory` with the data: with -id that of the node, by default <id>.raft;\nwithout, the one that holds <id>.raft of each node, by default the working directory")
	segment := flags.Int("segment-bytes", 32<<20, "the `size` of the files that the log consists of; space for two of them is reserved for\neach node")
	entries := flags.Int("snapshot-entries", 100_000, "take a snapshot and compact the log after so many `commands`, and keep a tenth of them")
	peers := flags.String("peers", defaultPeers, "the nodes that found the cluster, the same on each: `id=raft=http,...`")
	if err := flags.Parse(args); err != nil {
		return options{}, err // the flag package has written it
	}
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if flags.NArg() > 0 {
		problem("%q: want flags only", flags.Args())
	}
	members, err := parsePeers(*peers)
	if err != nil {
		problems = append(problems, err)
	}
	o := options{members: members, single: *id != "", join: *join, data: *data, segment: *segment, entries: *entries}
	var localErr error
	if o.local, localErr = o.pick(raft.NodeID(*id), *raftAddress, *httpAddress); localErr != nil {
		problems = append(problems, localErr)
	}
	if err == nil && !(o.join && localErr != nil) {
		// The rest is raft's business: it checks ids, for example. NewNode does no
		// I/O, so making a node only for its error is cheap.
		one := members[0]
		if o.join {
			one = o.local[0]
		}
		if _, err := raft.NewNode(o.config(one.id), newStore(), raft.NewTCPTransport(nil, 0)); err != nil {
			problems = append(problems, err)
		}
	}
	if o.single && o.data != "" {
		// To begin anew beside the data would be to lose it.
		inside := filepath.Join(o.data, *id+".raft")
		if _, err := os.Stat(inside); err == nil {
			problem("-data %s: node %s has its data in %s, from a start without -id: name that", o.data, *id, inside)
		}
	}
	if len(problems) == 0 {
		return o, nil
	}
	err = errors.Join(problems...)
	fmt.Fprintf(stderr, "kv_store: bad flags:\n  %s\n\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
	flags.Usage()
	return options{}, err
}

// pick returns the nodes that this process runs: one that joins, one of -peers, or
// with an empty id all of these.
func (o options) pick(id raft.NodeID, raftAddress, httpAddress string) ([]member, error) {
	switch {
	case o.join && id == "":
		return nil, errors.New("-join goes with -id, -raft and -http")
	case o.join:
		err := errors.Join(named("-raft", checkAddress(raftAddress)), named("-http", checkAddress(httpAddress)))
		return []member{{id, raftAddress, httpAddress}}, err
	case id == "" && raftAddress+httpAddress != "":
		return o.members, errors.New("-raft and -http go with -id; without it, -peers has the addresses")
	case id == "":
		return o.members, nil
	}
	i := slices.IndexFunc(o.members, func(m member) bool { return m.id == id })
	if i < 0 {
		return nil, fmt.Errorf("-id %s: -peers has no such node; one that is to join the others takes -join", id)
	}
	m := o.members[i]
	var problems []error
	if raftAddress != "" && raftAddress != m.raft {
		problems = append(problems, fmt.Errorf("-raft %s: -peers has node %s at %s", raftAddress, id, m.raft))
	}
	if httpAddress != "" && httpAddress != m.http {
		problems = append(problems, fmt.Errorf("-http %s: -peers has node %s at %s", httpAddress, id, m.http))
	}
	return []member{m}, errors.Join(problems...)
}

// named says what an error is about.
func named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// parsePeers reads id=raft=http,... and reports every problem.
func parsePeers(s string) ([]member, error) {
	var members []member
	var problems []error
	seen := map[string]bool{}
	for part := range strings.SplitSeq(s, ",") {
		fields := strings.Split(part, "=")
		if len(fields) != 3 {
			problems = append(problems, fmt.Errorf("-peers: %q: want id=raft=http, such as a=127.0.0.1:5001=127.0.0.1:8001", part))
			continue
		}
		for i, field := range fields {
			if seen[field] && field != "" {
				problems = append(problems, fmt.Errorf("-peers: %q occurs twice", field))
			}
			seen[field] = true
			if err := checkAddress(field); i > 0 && err != nil {
				problems = append(problems, fmt.Errorf("-peers: node %q: %w", fields[0], err))
			}
		}
		members = append(members, member{raft.NodeID(fields[0]), fields[1], fields[2]})
	}
	return members, errors.Join(problems...)
}

// checkAddress wants a host, since it is where others connect to, and a port.
func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("address %s: want a host and a port from 1 to 65535", address)
	}
	return nil
}
