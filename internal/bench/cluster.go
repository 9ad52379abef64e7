package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// cluster is three nodes of one peer in this process, that talk TCP over loopback.
type cluster struct {
	nodes  [3]node // nil: closed
	leader atomic.Pointer[node]
}

// openCluster opens the three nodes at once, since some wait for others, and waits
// until one of them leads and a command was committed.
func openCluster(ctx context.Context, p peer, o options) (*cluster, error) {
	c := new(cluster)
	var errs [3]error
	var group sync.WaitGroup
	for i := range c.nodes {
		group.Go(func() { c.nodes[i], errs[i] = openNode(p, o, i) })
	}
	group.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return c, c.firstWrite(ctx)
}

// openNode opens one node, in a directory of its own below the one that they share.
func openNode(p peer, o options, i int) (node, error) {
	addresses, err := addressesIn(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Node, o.Addresses, o.Dir = i, addresses, nodeDir(o.Dir, i)
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	return p.open(o)
}

func nodeDir(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("n%d", i)) }

// addressesIn returns the addresses of the nodes, which makeAddresses has left in
// their directory: they are the same after a restart.
func addressesIn(dir string) (addresses [3]string, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "addresses"))
	if copy(addresses[:], strings.Fields(string(data))) < len(addresses) && err == nil {
		err = fmt.Errorf("%q are not three addresses", data)
	}
	return addresses, err
}

// makeAddresses finds three free addresses.
func makeAddresses(dir string) error {
	var addresses [3]string
	for i := range addresses {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer listener.Close()
		addresses[i] = listener.Addr().String()
	}
	return os.WriteFile(filepath.Join(dir, "addresses"), []byte(strings.Join(addresses[:], " ")), 0o644)
}

// awaitLeader looks for a node that leads, as long as it takes.
func (c *cluster) awaitLeader(ctx context.Context) error {
	for {
		for i, n := range c.nodes {
			if n != nil && n.Leads() {
				c.leader.Store(&c.nodes[i])
				return nil
			}
		}
		if err := pause(ctx, 500*time.Microsecond); err != nil {
			return fmt.Errorf("nobody leads: %w", err)
		}
	}
}

// firstWrite returns once a command is committed and applied, whoever leads.
func (c *cluster) firstWrite(ctx context.Context) error {
	for {
		if err := c.awaitLeader(ctx); err != nil {
			return err
		}
		err := firstWrite(ctx, *c.leader.Load())
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// firstWrite tries once.
func firstWrite(ctx context.Context, n node) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := n.Propose(ctx, []byte("the first write "))
	if err != nil {
		_ = pause(ctx, 500*time.Microsecond)
	}
	return err
}

// follower returns a node that does not lead.
func (c *cluster) follower() (i int, err error) {
	for i := range c.nodes {
		if c.nodes[i] != nil && &c.nodes[i] != c.leader.Load() {
			return i, nil
		}
	}
	return 0, errors.New("there is no follower")
}

// closeNode ends one node.
func (c *cluster) closeNode(i int) error {
	n := c.nodes[i]
	c.nodes[i] = nil
	return n.Close()
}

// settle waits until all nodes have applied the same commands, and returns how many.
func (c *cluster) settle(ctx context.Context) (uint64, error) {
	for {
		var states []state
		for _, n := range c.nodes {
			if n != nil {
				states = append(states, n.State())
			}
		}
		equal := true
		for _, s := range states {
			equal = equal && s == states[0]
		}
		if equal {
			return states[0].Commands, nil
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return 0, fmt.Errorf("the replicas differ: %v", states)
		}
	}
}

// close ends all nodes.
func (c *cluster) close() error {
	var errs []error
	for i, n := range c.nodes {
		if n != nil {
			errs = append(errs, c.closeNode(i))
		}
	}
	return errors.Join(errs...)
}

// pause waits, or returns the error of a ctx that ends meanwhile.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
