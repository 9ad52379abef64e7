package sim

import (
	"math/rand/v2"
	"time"
)

// Network carries bytes between nodes. Each direction of each pair is a link of
// its own.
type Network struct {
	world  *World
	random *rand.Rand
	links  [][]*link
	trace  *Trace
	heals  int // how often all faults ended

	// Base is the quality of links without faults.
	Base Quality
}

// Quality is how a link behaves.
type Quality struct {
	Delay     time.Duration // at least
	Jitter    time.Duration // on top of that, at most; rarely ten times as much
	Loss      float64       // of messages
	Duplicate float64
}

// link is one direction between two nodes.
type link struct {
	cuts    int       // faults that cut it
	bad     []Quality // faults that make it worse
	clogged time.Duration
}

// NewNetwork connects n nodes, each with each.
func (w *World) NewNetwork(n int, base Quality) *Network {
	net := &Network{world: w, random: w.Random("network"), Base: base}
	for range n {
		net.links = append(net.links, make([]*link, n))
	}
	net.Heal()
	return net
}

// Cut makes a link lose everything, until it is mended.
func (n *Network) Cut(from, to int) (mend func()) {
	l := n.links[from][to]
	add := func(cuts int) {
		if l.cuts += cuts; l == n.links[from][to] {
			n.trace.link(from, to, n.IsCut(from, to))
		}
	}
	add(1)
	return func() { add(-1) }
}

// IsCut reports whether a link loses everything.
func (n *Network) IsCut(from, to int) bool { return n.links[from][to].cuts > 0 }

// Worsen adds what a fault does to a link, until it is taken back.
func (n *Network) Worsen(from, to int, q Quality) (takeBack func()) {
	l := n.links[from][to]
	l.bad = append(l.bad, q)
	return func() {
		for i := range l.bad {
			if l.bad[i] == q {
				l.bad = append(l.bad[:i:i], l.bad[i+1:]...)
				return
			}
		}
	}
}

// Clog holds up what is sent over a link until a time, when it all arrives.
func (n *Network) Clog(from, to int, until time.Duration) {
	l := n.links[from][to]
	l.clogged = max(l.clogged, until)
}

// Heal ends all faults: the links are new ones, which what would have ended the
// faults does not know.
func (n *Network) Heal() {
	n.heals++
	for from := range n.links {
		for to := range n.links[from] {
			n.links[from][to] = new(link)
		}
	}
	n.trace.heal()
}

func (n *Network) quality(from, to int) Quality {
	q := n.Base
	for _, bad := range n.links[from][to].bad {
		q.Delay += bad.Delay
		q.Jitter += bad.Jitter
		q.Loss = max(q.Loss, bad.Loss)
		q.Duplicate = max(q.Duplicate, bad.Duplicate)
	}
	return q
}

// travel draws how long a message takes now.
func (n *Network) travel(from, to int) time.Duration {
	q := n.quality(from, to)
	d := q.Delay + time.Duration(n.random.Int64N(int64(q.Jitter)+1))
	if n.random.IntN(200) == 0 {
		d += 10 * q.Jitter
	}
	return max(d, n.links[from][to].clogged-n.world.now)
}

// Send carries a message that may be lost, late, doubled and overtaken.
func (n *Network) Send(from, to int, message any, deliver func()) {
	q := n.quality(from, to)
	copies := 1
	switch p := n.random.Float64(); {
	case n.IsCut(from, to):
		n.world.Count("messages cut off")
		n.trace.message(from, to, message).ends(cutOff)
		return
	case p < q.Loss:
		n.world.Count("messages lost")
		n.trace.message(from, to, message).ends(lost)
		return
	case p < q.Loss+q.Duplicate:
		n.world.Count("messages doubled")
		copies = 2
	}
	for i := range copies {
		traced := n.trace.message(from, to, message)
		traced.double(i > 0)
		n.world.After(n.travel(from, to), func() {
			if n.IsCut(from, to) {
				n.world.Count("messages cut off")
				traced.ends(cutOff)
				return
			}
			traced.ends(arrived)
			deliver()
		})
	}
}

// Stream carries messages from one node to another in order, as a connection
// does. What the network loses breaks it, and takes along all that follows.
type Stream struct {
	network  *Network
	from, to int
	broken   bool
	onBroken func()
	last     [2]time.Duration // when the last message of each direction arrives
}

// NewStream opens a stream. onBroken is called once when its sender learns that
// it is broken, which may take long.
func (n *Network) NewStream(from, to int, onBroken func()) *Stream {
	return &Stream{network: n, from: from, to: to, onBroken: onBroken}
}

// Send carries a message to the other end.
func (s *Stream) Send(message any, deliver func()) { s.carry(0, s.from, s.to, message, deliver) }

// Answer carries a message back.
func (s *Stream) Answer(message any, deliver func()) { s.carry(1, s.to, s.from, message, deliver) }

func (s *Stream) carry(direction, from, to int, message any, deliver func()) {
	n := s.network
	if s.broken {
		return
	}
	traced := n.trace.message(from, to, message)
	q := n.quality(from, to)
	if n.IsCut(from, to) || n.random.Float64() < q.Loss/4 { // a connection sends again what is lost; it breaks only rarely
		traced.ends(wentAlong)
		s.Break()
		return
	}
	at := max(n.world.now+n.travel(from, to), s.last[direction])
	s.last[direction] = at
	n.world.After(at-n.world.now, func() {
		switch {
		case s.broken && n.random.IntN(2) == 0: // else it was in the buffers of the other end already
			traced.ends(wentAlong)
		case n.IsCut(from, to):
			traced.ends(wentAlong)
			s.Break()
		default:
			traced.ends(arrived)
			deliver()
		}
	})
}

// Break breaks the stream. Its sender learns that soon, late, or never.
func (s *Stream) Break() {
	if s.broken {
		return
	}
	s.broken = true
	s.network.world.Count("streams broken")
	switch s.network.random.IntN(5) {
	case 0: // nobody tells it
	case 1:
		s.network.world.After(time.Duration(s.network.random.Int64N(int64(3*time.Second))), s.tell)
	default:
		s.network.world.After(time.Duration(s.network.random.Int64N(int64(50*time.Millisecond))), s.tell)
	}
}

func (s *Stream) tell() {
	if s.onBroken != nil {
		s.onBroken()
		s.onBroken = nil
	}
}

// Close ends the stream from its sender's side, who hears nothing of it any more.
// What is under way may still arrive.
func (s *Stream) Close() {
	s.broken = true
	s.onBroken = nil
}
