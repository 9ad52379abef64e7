package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"time"
)

// perform does the task of this process, and prints what it has measured.
func (t task) perform(ctx context.Context, out io.Writer) error {
	log.SetOutput(io.Discard) // of peers
	p, err := peerNamed(t.Peer)
	if err != nil {
		return err
	}
	switch t.Part {
	case oneNode:
		return t.beNode(ctx, p, out)
	case fillLogs:
		return t.fill(ctx, p)
	}
	s := samples{}
	switch t.Row.Kind {
	case election:
		err = t.elections(ctx, s)
	case restart:
		err = t.restart(ctx, p, s)
	case lag:
		err = t.lag(ctx, p, s)
	case beside:
		err = t.beside(ctx, p, s)
	default:
		err = t.steady(ctx, p, s)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(s)
}

// options are those of the nodes in the row.
func (t task) options() options {
	largest := t.Row.Bytes
	if t.Row.Kind == beside {
		largest = largeBytes
	}
	return options{
		Dir:           t.Dir,
		Bytes:         largest,
		ShortTimeouts: t.Row.Kind == election || t.Row.Kind == restart,
		LeaseReads:    t.Row.Kind == leaseRead,
		WholeLog:      t.Row.Kind == restart,
		Ours:          t.Ours,
	}
}

// open opens the three nodes.
func (t task) open(ctx context.Context, p peer, o options) (*cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return openCluster(ctx, p, o)
}

// steady measures commands or reads for a time.
func (t task) steady(ctx context.Context, p peer, s samples) error {
	c, err := t.open(ctx, p, t.options())
	if err != nil {
		return err
	}
	l := proposals(c, t.Row, t.Dir)
	if t.Row.Kind != propose {
		if l, err = t.reads(c); err != nil {
			return err
		}
	}
	l.duration = time.Duration(t.Seconds * float64(time.Second))
	stop, err := t.profile()
	if err != nil {
		return err
	}
	if err := errors.Join(l.run(s), stop()); err != nil {
		return err
	}
	s.memory(peakMemory, "VmHWM")
	if _, err := t.settle(ctx, c); err != nil {
		return err
	}
	return c.close()
}

// settle waits for replicas that agree, in every cell: whoever is fast and wrong is no
// peer.
func (t task) settle(ctx context.Context, c *cluster) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return c.settle(ctx)
}

// reads is a load of reads, of a log that is not empty.
func (t task) reads(c *cluster) (*load, error) {
	few := proposals(c, row{Bytes: t.Row.Bytes, Callers: 64}, t.Dir)
	few.count = 2000
	if err := few.run(samples{}); err != nil {
		return nil, err
	}
	l := proposals(c, t.Row, t.Dir)
	n := *c.leader.Load()
	if t.Row.Kind == followerRead {
		i, err := c.follower()
		if err != nil {
			return nil, err
		}
		n = c.nodes[i]
	}
	l.do = func(ctx context.Context, _ []byte) error { return n.ReadIndex(ctx) }
	return l, nil
}

// restart measures how long it takes three nodes to apply logs that another process
// has filled.
func (t task) restart(ctx context.Context, p peer, s samples) error {
	filling := t
	filling.Part = fillLogs
	cmd, err := filling.command(ctx)
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("to fill the logs: %w", err)
	}
	o := t.options()
	o.Resume = true
	from := usageNow(t.Dir)
	c, err := t.open(ctx, p, o)
	if err != nil {
		return err
	}
	n, err := t.settle(ctx, c)
	if err != nil {
		return err
	}
	to := usageNow(t.Dir)
	if n < uint64(t.Row.Commands) {
		return fmt.Errorf("%d of %d commands were applied", n, t.Row.Commands)
	}
	s.add(applied, millis(to.at.Sub(from.at)))
	s.add(cpuMicros, micros(to.cpu-from.cpu)/float64(n))
	s.memory(peakMemory, "VmHWM")
	return c.close()
}

// fill writes the logs that a restart is to read: with timeouts that survive a load, and
// once more what has failed.
func (t task) fill(ctx context.Context, p peer) error {
	o := t.options()
	o.ShortTimeouts = false
	c, err := t.open(ctx, p, o)
	if err != nil {
		return err
	}
	for n := 0; n < t.Row.Commands; {
		l := proposals(c, t.Row, t.Dir)
		l.count = t.Row.Commands - n
		if err := l.run(samples{}); err != nil {
			return err
		}
		written, err := t.settle(ctx, c)
		if err != nil {
			return err
		}
		n = int(written)
	}
	return c.close()
}

// beside measures what large commands of others cost those who propose small ones.
func (t task) beside(ctx context.Context, p peer, s samples) error {
	c, err := t.open(ctx, p, t.options())
	if err != nil {
		return err
	}
	small, large := proposals(c, t.Row, t.Dir), proposals(c, row{Bytes: largeBytes, Callers: largeCallers}, t.Dir)
	small.duration = time.Duration(t.Seconds * float64(time.Second))
	large.duration = small.duration
	others, ended := samples{}, make(chan error, 1)
	go func() { ended <- large.run(others) }()
	if err := errors.Join(small.run(s), <-ended); err != nil {
		return err
	}
	s[largeRate] = others[rate]
	if failed := others[failures]; failed != nil {
		s[failures] = append(s[failures], failed...)
	}
	if _, err := t.settle(ctx, c); err != nil {
		return err
	}
	return c.close()
}

// lag measures what a dead follower costs the others: as many commands before its end and
// after it, and the memory that is held meanwhile.
func (t task) lag(ctx context.Context, p peer, s samples) error {
	c, err := t.open(ctx, p, t.options())
	if err != nil {
		return err
	}
	runtime.GC()
	s.memory(idleMemory, "VmRSS")
	healthy, before := samples{}, proposals(c, t.Row, t.Dir)
	before.count = t.Row.Commands
	if err := before.run(healthy); err != nil {
		return err
	}
	s[healthyRate], s[healthyP99] = healthy[rate], healthy[p99]
	s.memory(healthyPeak, "VmHWM")
	if failed := healthy[failures]; failed != nil {
		s[failures] = failed
	}
	i, err := c.follower()
	if err != nil {
		return err
	}
	if err := c.closeNode(i); err != nil {
		return err
	}
	runtime.GC()
	forgotten := forgetPeak()
	after := proposals(c, t.Row, t.Dir)
	after.count = t.Row.Commands
	if err := after.run(s); err != nil {
		return err
	}
	if forgotten == nil {
		s.memory(peakMemory, "VmHWM")
	}
	if _, err := t.settle(ctx, c); err != nil {
		return err
	}
	return c.close()
}

func millis(d time.Duration) float64 { return float64(d) / 1e6 }
