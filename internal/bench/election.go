package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// What a node of an election prints, each in a line.
const (
	sayLeads  = "leads"  // it has become leader
	sayWrote  = "wrote"  // and has committed and applied a command
	sayServes = "serves" // and many more, and goes on with that
)

// elections measures, several times, how long a cluster is without a leader when that
// is killed, or stops where it is as a paused machine does. Nodes are processes, so
// that both are what they are called.
func (t task) elections(ctx context.Context, s samples) error {
	for i := range t.Row.Trials {
		trial := t
		trial.Dir = filepath.Join(t.Dir, fmt.Sprintf("trial%d", i))
		if err := os.Mkdir(trial.Dir, 0o755); err != nil {
			return err
		}
		if err := errors.Join(trial.prepare(), trial.election(ctx, s)); err != nil {
			return err
		}
	}
	return nil
}

// election is one of them.
func (t task) election(ctx context.Context, s samples) error {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel() // which kills all processes, a frozen one too
	said := make(chan saying, 64)
	var processes [3]*exec.Cmd
	for i := range processes {
		part := t
		part.Part, part.Node = oneNode, i
		cmd, err := part.start(ctx, said)
		if err != nil {
			return err
		}
		processes[i] = cmd
		defer func() { cancel(); _ = cmd.Wait() }()
	}
	leader, err := hear(ctx, said, sayServes, -1)
	if err != nil {
		return err
	}
	end := syscall.SIGKILL
	if t.Row.Frozen {
		end = syscall.SIGSTOP
	}
	began := time.Now()
	if err := processes[leader.node].Process.Signal(end); err != nil {
		return err
	}
	next, err := hear(ctx, said, sayLeads, leader.node)
	if err != nil {
		return err
	}
	first, err := hear(ctx, said, sayWrote, leader.node)
	if err != nil {
		return err
	}
	s.add(elected, millis(next.at.Sub(began)))
	s.add(wrote, millis(first.at.Sub(began)))
	return nil
}

// saying is a line that a node has printed.
type saying struct {
	node int
	what string
	at   time.Time
}

// hear waits for a node other than one to say something.
func hear(ctx context.Context, said <-chan saying, what string, except int) (saying, error) {
	for {
		select {
		case s := <-said:
			if s.what == what && s.node != except {
				return s, nil
			}
		case <-ctx.Done():
			return saying{}, fmt.Errorf("no node says %q: %w", what, ctx.Err())
		}
	}
}

// start starts a process that is one node. It ends with ctx.
func (t task) start(ctx context.Context, said chan<- saying) (*exec.Cmd, error) {
	cmd, err := t.command(ctx)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			said <- saying{t.Node, lines.Text(), time.Now()}
		}
	}()
	return cmd, nil
}

// beNode is such a process. Whenever its node becomes leader it says so, writes, and
// serves some callers until it leads no more, so that leaders end in service.
func (t task) beNode(ctx context.Context, p peer, out io.Writer) error {
	n, err := openNode(p, t.options(), t.Node)
	if err != nil {
		return err
	}
	c := &cluster{}
	c.nodes[t.Node] = n
	for {
		if err := c.awaitLeader(ctx); err != nil {
			return err
		}
		fmt.Fprintln(out, sayLeads)
		for n.Leads() && firstWrite(ctx, n) != nil {
		}
		if !n.Leads() {
			continue
		}
		fmt.Fprintln(out, sayWrote)
		if err := t.serve(ctx, c, out); err != nil {
			return err
		}
	}
}

// serve has callers write as long as the node leads, and says so once they have begun.
func (t task) serve(ctx context.Context, c *cluster, out io.Writer) error {
	some := proposals(c, row{Bytes: t.Row.Bytes, Callers: 16}, t.Dir)
	some.count = math.MaxInt                // until it is told to stop
	go func() { _ = some.run(samples{}) }() // whose callers may still find out that nobody leads
	defer some.stage.Store(stopping)
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	fmt.Fprintln(out, sayServes)
	for (*c.leader.Load()).Leads() {
		if err := pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
