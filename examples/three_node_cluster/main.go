// Command three_node_cluster shows what a Raft cluster does: three nodes in one
// process, which talk to each other over TCP on 127.0.0.1, log what they do,
// and survive the loss of their leader. It tells the story between the lines of
// the log:
//
//	go run ./examples/three_node_cluster
//
// The nodes keep their data in a temporary directory, which is removed at the
// end.
//
// main.go has the story, cluster.go how the nodes are made, started, stopped
// and asked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-8da499c8/raft"
)

const (
	// stepTimeout bounds every wait of the story. An election takes one second
	// at most, unless votes are split.
	stepTimeout = 5 * time.Second

	// tourTimeout bounds all of them together.
	tourTimeout = 17 * time.Second

	// readingTime is what a paragraph takes.
	readingTime = 2 * time.Second
)

func main() {
	flags := flag.NewFlagSet("three_node_cluster", flag.ExitOnError)
	once := flags.Bool("once", false, "end after the tour, made without pauses, with status 0 if all three nodes have the same state")
	basePort := flags.Int("base-port", 5001, "`port` of the first node; the others take the next two")
	flags.Parse(os.Args[1:])
	if flags.NArg() > 0 || *basePort < 1 || *basePort > 65535-2 {
		fmt.Fprintln(os.Stderr, "three_node_cluster: want flags only, and a -base-port from 1 to 65533")
		flags.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once

	pause := readingTime
	if *once {
		pause = 0
	}
	if err := run(ctx, addresses(*basePort), *once, pause, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "three_node_cluster: %v\n", err)
		os.Exit(1)
	}
}

func addresses(basePort int) map[raft.NodeID]string {
	peers := map[raft.NodeID]string{}
	for i := range 3 {
		peers[raft.NodeID(fmt.Sprintf("node%d", i+1))] = net.JoinHostPort("127.0.0.1", strconv.Itoa(basePort+i))
	}
	return peers
}

// run makes the tour, and unless that was all goes on until ctx ends.
func run(ctx context.Context, peers map[raft.NodeID]string, once bool, pause time.Duration, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "three_node_cluster-")
	if err != nil {
		return err
	}
	// The story and the log share one writer, so that their lines keep their order.
	locked := zapcore.Lock(zapcore.AddSync(out))
	s := &story{cluster: newCluster(peers, dir, newLogger(locked)), out: locked, pause: pause}
	defer func() {
		// Not ctx, which may have ended: stopping gets its own time.
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
		defer cancel()
		e := errors.Join(s.stopAll(stopping), os.RemoveAll(dir))
		if err == nil {
			err = e
		}
		if err == nil {
			s.tell("All nodes have stopped, and their data is removed: this was a tour.")
		}
	}()
	tour, cancel := context.WithTimeout(ctx, tourTimeout)
	defer cancel()
	if err := s.tour(tour); err != nil {
		switch {
		case ctx.Err() == nil:
			return err
		case once:
			return errors.New("interrupted before the end of the tour: nothing was compared")
		default:
			return nil // Ctrl-C is no failure
		}
	}
	if once {
		return nil
	}
	s.step(ctx, `That was the tour. The cluster goes on with a command every second.
Ctrl-C stops it.`)
	return s.goOn(ctx)
}

// story is a cluster and what is told about it.
type story struct {
	*cluster
	out          io.Writer
	pause        time.Duration // before each step but the first
	acknowledged []string      // commands that are certainly applied
}

// step begins a step of the story, unless ctx has ended.
func (s *story) step(ctx context.Context, format string, args ...any) {
	select {
	case <-ctx.Done():
	case <-time.After(s.pause):
		s.tell(format, args...)
	}
}

// tell prints a paragraph of the story, apart from the lines of the log. One
// Write keeps it in one piece.
func (s *story) tell(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	io.WriteString(s.out, "\n>>> "+strings.ReplaceAll(text, "\n", "\n>>> ")+"\n\n")
}

// tour is the story.
func (s *story) tour(ctx context.Context) error {
	s.tell(`Three nodes start, on %s.
Each keeps its term, its vote and its log in a directory below
%s. Nobody leads yet: the first whose election
timeout runs out asks for pre-votes ("could I win?"), then for votes. With two votes
of three, its own included, it leads.`, strings.Join(s.listAddresses(), ", "), s.dir)
	for _, id := range s.ids {
		if err := s.start(id); err != nil {
			return err
		}
	}
	leader, err := s.awaitLeader(ctx, s.ids[0], "")
	if err != nil {
		return err
	}

	s.step(ctx, `%s leads. Commands go to the leader, which sends them to the others. Each is
committed once it is on the disks of two nodes, and then applied by all three.`, leader)
	if err := s.deposit(ctx, 1, 3); err != nil {
		return err
	}

	s.step(ctx, `Now the leader, %s, stops, without a word to the others. Two nodes of three are
still a majority: when they have heard nothing for an election timeout, they elect
another leader.`, leader)
	if err := s.crash(leader); err != nil {
		return err
	}
	next, err := s.awaitLeader(ctx, s.other(leader), leader)
	if err != nil {
		return err
	}

	s.step(ctx, "%s leads now, in a later term, and the cluster serves as before.", next)
	if err := s.deposit(ctx, 4, 6); err != nil {
		return err
	}

	s.step(ctx, `%s has been away for longer than an election timeout, so nothing is kept for it.
The two others take snapshots of their state machines, and forget the log before.`, leader)
	if err := s.compact(ctx, leader); err != nil {
		return err
	}

	s.step(ctx, `%s comes back with its data directory: it knows its term, its vote and its log.
What it missed is in nobody's log any more. So it is sent the leader's snapshot: that
takes the place of its own log, and its state machine restores it.`, leader)
	if err := s.start(leader); err != nil {
		return err
	}
	total, err := s.awaitEqual(ctx, s.acknowledged)
	if err != nil {
		return err
	}
	s.step(ctx, "All three nodes have applied the same %d commands.", total)
	return nil
}

// deposit replicates the commands first to last, and shows how each ended.
func (s *story) deposit(ctx context.Context, first, last int) error {
	for i := first; i <= last; i++ {
		command := fmt.Sprintf("deposit %d0 coins", i)
		result, err := s.propose(ctx, command)
		switch {
		case err == nil:
			s.acknowledged = append(s.acknowledged, command)
			s.log.Info("committed", fieldsOf(command, result)...)
		case errors.Is(err, raft.ErrOutcomeUnknown) && ctx.Err() == nil:
			// It is in a log and may be applied or not. To try again could
			// deposit twice, so what to do is for the application to know.
			s.log.Warn("may be committed or not", zap.String("command", command), zap.Error(err))
		default:
			return err
		}
	}
	return nil
}

// goOn replicates a command every second until ctx ends.
func (s *story) goOn(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for i := 7; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := s.deposit(ctx, i, i); err != nil && ctx.Err() == nil {
			s.log.Warn("not accepted", zap.Error(err)) // the next may be
		}
	}
}
