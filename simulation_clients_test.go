package raft

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/seed-8da499c8/raft/internal/sim"
)

// The clients of a simulation.

// simPatience is how long clients wait for what may never come.
const simPatience = 2 * time.Second

// simClient does one thing after another, and now and then many at once. What was not
// done it often tries again, as a command of its own: if the outcome is unknown, that may
// happen twice, unless it is in a session.
type simClient struct {
	*simulation
	number  int
	random  *rand.Rand
	node    *simNode // that it went to last
	sent    int
	again   string   // what is to be tried again, if anything
	wrote   Index    // of the last command that was done
	session *Session // nil: it has none
	active  int      // its commands under way in that
}

func newSimClient(s *simulation, number int) {
	c := &simClient{simulation: s, number: number, random: s.world.Random(fmt.Sprint("client ", number))}
	c.later()
}

func (c *simClient) later() {
	c.world.After(time.Duration(c.random.ExpFloat64()*float64(c.settings.thinks)), c.act)
}

// act does something, on some node.
func (c *simClient) act() {
	if c.over {
		return
	}
	n := c.someone()
	if n == nil {
		c.later()
		return
	}
	switch p := c.random.IntN(10); {
	case p < 4:
		c.write(n, c.burst())
	case p < 7:
		c.read(n, c.burst())
	default:
		c.useSession(n)
	}
}

// someone returns a node that is up; nil: it is down. Mostly that is the leader, or was it
// when the client came there.
func (c *simClient) someone() *simNode {
	leader := c.leader()
	switch c.random.IntN(6) {
	case 0:
		c.node = c.nodes[c.random.IntN(len(c.nodes))]
	case 1, 2:
		if leader != nil {
			c.node = leader
		}
	}
	if c.node == nil || c.node.driver == nil {
		c.node = cmp.Or(leader, c.nodes[c.random.IntN(len(c.nodes))])
	}
	if c.node.driver == nil {
		return nil
	}
	return c.node
}

func (c *simClient) burst() int {
	if c.random.IntN(20) == 0 {
		return 2 + c.random.IntN(30)
	}
	return 1
}

// waiting returns what is to be called for each of several answers: after the last one, or
// once patience is lost, the client goes on. Its calls may still end.
func (c *simClient) waiting(answers int) (answered func()) {
	gone := false
	leave := func() {
		if !gone {
			gone = true
			c.later()
		}
	}
	c.world.After(time.Duration(c.random.Int64N(int64(simPatience))), leave)
	return func() {
		if answers--; answers == 0 {
			leave()
		}
	}
}

// write proposes commands.
func (c *simClient) write(n *simNode, burst int) {
	answered := c.waiting(burst)
	for range burst {
		op := c.oracle.Begin(c.number, n.number, c.world.Now(), c.command())
		n.propose(op, func() {
			c.wrote = max(c.wrote, Index(op.Index))
			if op.Outcome != sim.Done && c.random.IntN(2) == 0 {
				_, c.again, _ = strings.Cut(op.Command, " ")
			}
			answered()
		})
	}
}

func (c *simClient) command() string {
	c.sent++
	words := c.again
	if c.again = ""; words == "" {
		words = c.draw()
	} else {
		c.world.Count("operations tried again")
	}
	return fmt.Sprintf("%d.%d %s", c.number, c.sent, words)
}

// draw draws what a command does.
func (c *simClient) draw() string {
	key := fmt.Sprint("k", c.random.IntN(4))
	switch c.random.IntN(4) {
	case 0:
		return "get " + key
	case 1:
		return fmt.Sprintf("cas %s %d %d", key, c.random.IntN(10), c.random.IntN(10))
	default:
		return fmt.Sprintf("put %s %d", key, c.random.IntN(10))
	}
}

// read reads without the log.
func (c *simClient) read(n *simNode, burst int) {
	answered := c.waiting(burst)
	for range burst {
		c.sent++
		options := ReadOptions{Level: c.settings.levels[c.random.IntN(len(c.settings.levels))]}
		if c.random.IntN(4) == 0 {
			options.MaxStaleness = time.Duration(c.random.Int64N(int64(2 * simElectionTimeout)))
		}
		if c.random.IntN(3) == 0 {
			options.MinIndex = c.wrote
		}
		n.readRegister(c.number, fmt.Sprintf("%d.%d get k%d", c.number, c.sent, c.random.IntN(4)), options, answered)
	}
}
