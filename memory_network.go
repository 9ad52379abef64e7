package raft

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// MemoryNetwork connects the nodes of one process, for tests, and can be as
// bad as a real network: it loses, delays, duplicates and holds back messages,
// link by link and direction by direction, and it falls apart into partitions.
//
//	network := raft.NewMemoryNetwork()
//	for id := range peers {
//		config := raft.NewConfig(id, string(id), peers)
//		config.Storage = raft.NewMemoryStorage()
//		node, err := raft.NewNode(config, newStateMachine(), network.Transport(id))
//		// ... go node.Run(ctx)
//	}
//	network.Delay("", "", time.Millisecond, 20*time.Millisecond) // every link
//	network.Isolate("a")                                         // and "a" on its own
//	// ... the others elect a leader and go on ...
//	network.Heal()                                               // "a" catches up
//
// A link is one direction between two nodes. A request travels on the link
// from its sender to its receiver, and the response is a message of its own
// that travels back on the link of the other direction. Every method that
// takes from and to accepts the empty [NodeID] for "every node", those that
// come later included; of two settings for a link the later one counts.
//
// A message meets, in this order: the hook of [MemoryNetwork.Intercept],
// Duplicate, after which each of the two goes its own way, Hold, Cut and
// Partition, Drop, Bandwidth and Delay. All of it may be changed at any time,
// from any goroutine.
//
// What is lost is lost silently: a call whose request or response does not
// arrive waits until its ctx ends. An append stream keeps its order whatever
// the delays are, since a message that is late keeps those behind it waiting;
// Drop leaves a gap in it, and a message that meets a Cut or a Partition breaks
// it. Requests that had left a stream when it ended may still arrive, as the
// last bytes of an old connection do.
//
// Messages are handed over as they are, never copied. The network has no
// goroutine of its own, and its time is that of package time, so it works in
// bubbles of testing/synctest.
type MemoryNetwork struct {
	hook atomic.Pointer[func(from, to NodeID, message any) Verdict]

	// mu guards everything below, and what belongs to links, transports,
	// streams, calls and parcels. No code of others runs under it, and nothing
	// blocks under it.
	mu       sync.Mutex
	seed     uint64
	serving  map[NodeID]*memoryTransport
	links    map[linkName]*memoryLink
	settings []linkSetting // what links are set to, oldest first
	groups   [][]NodeID    // the partition; nil: none
	held     []*parcel     // on all links, oldest first
}

// Verdict is what the hook of [MemoryNetwork.Intercept] decides about one
// message. The zero Verdict leaves it to the settings of its link.
type Verdict struct {
	Drop      bool          // lose it
	Hold      bool          // hold it back, until Release, DeliverNext or DropNext
	Duplicate bool          // deliver it twice; for requests only, and not for a ForwardRequest
	Delay     time.Duration // deliver it so much later than the link alone would
}

// linkName names one direction between two nodes. In a setting, an empty id
// stands for every node.
type linkName struct{ from, to NodeID }

func (name linkName) includes(l linkName) bool {
	return (name.from == "" || name.from == l.from) && (name.to == "" || name.to == l.to)
}

// linkSetting is one fault of the links that it names. Only the last setting of
// a kind under a name is kept, so their number is bounded.
type linkSetting struct {
	kind  string
	name  linkName
	apply func(*linkFaults)
}

// linkFaults is what is wrong with a link. The zero value is a perfect link.
type linkFaults struct {
	cut, hold       bool
	drop, duplicate float64
	minDelay        time.Duration
	maxDelay        time.Duration
	bandwidth       int // bytes per second for bulk; 0: unlimited
}

// memoryLink is one direction between two nodes.
type memoryLink struct {
	name   linkName
	faults linkFaults
	random *rand.Rand // of its own, so that the luck of a link does not depend on what others send

	// Bulk that waits for its turn, while the bandwidth is limited: the first
	// of pipe is being transmitted, and left bytes of it remained at since.
	pipe  []*parcel
	left  float64
	since time.Time
	round uint64 // counts the starts of the timer: what fires for another round is stale
}

// parcel is a message on its way.
type parcel struct {
	link    *memoryLink
	message any // what the hook sees
	size    int // of bulk; 0: a control message
	delay   time.Duration
	copied  bool // a duplicate, whose response nobody waits for
	answer  bool // the response of a call
	owner   parcelOwner

	// Of a parcel of an append stream, see lane.
	settled  bool // arrived or lost
	arrived  bool
	answered bool // so that a second answer to a request is not sent
}

// parcelOwner learns what became of its parcel. Its methods are called under
// the network's lock.
type parcelOwner interface {
	arrive(p *parcel)
	// lose is told whether p met a cut, which a stream notices.
	lose(p *parcel, cut bool)
}

// parcelOverhead is what a bulk message counts for beside its payload, so that
// empty messages are not free.
const parcelOverhead = 64

// bulkSize returns the size of a bulk message, and 0 for a control message.
func bulkSize(message any) int {
	switch m := message.(type) {
	case *AppendEntries:
		return parcelOverhead + m.Entries.Size()
	case *InstallSnapshot:
		return parcelOverhead + len(m.Data)
	}
	return 0
}

// NewMemoryNetwork returns a perfect network without nodes.
func NewMemoryNetwork() *MemoryNetwork {
	return &MemoryNetwork{
		serving: make(map[NodeID]*memoryTransport),
		links:   make(map[linkName]*memoryLink),
	}
}

// Transport returns a new transport for the node id. Each start of a node needs
// its own: a transport that was closed stays closed. Of several transports of
// one node, requests go to the one whose Serve was called last.
//
// The transport finds its peers by their ids and ignores their addresses. It
// is an [AppendStreamer]. A peer that is not serving is [ErrUnreachable].
func (n *MemoryNetwork) Transport(id NodeID) Transport {
	ctx, cancel := context.WithCancel(context.Background())
	return &memoryTransport{
		network: n,
		id:      id,
		ctx:     ctx,
		cancel:  cancel,
		calls:   make(map[*memoryCall]struct{}),
		inbound: make(map[*memoryStream]struct{}),
		streams: make(map[*memoryStream]struct{}),
	}
}

// Seed starts the random choices of all links anew, from seed. Without it they
// start from a fixed one. The choices of a link depend on nothing but the seed
// and the sequence of its messages, which is repeatable as far as the
// scheduling of goroutines is.
func (n *MemoryNetwork) Seed(seed uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seed = seed
	for _, l := range n.links {
		l.random = n.newRandom(l.name)
	}
}

func (n *MemoryNetwork) newRandom(name linkName) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name.from + " " + name.to)) // neither contains a space
	return rand.New(rand.NewPCG(n.seed, h.Sum64()))
}

// Drop makes the link lose messages with the given probability. An append
// stream does not notice: it is left with a gap.
func (n *MemoryNetwork) Drop(from, to NodeID, probability float64) {
	mustBeProbability(probability)
	n.set("drop", from, to, func(f *linkFaults) { f.drop = probability })
}

// Duplicate makes the link deliver requests twice with the given probability.
// The response to the second is discarded, and so would be the second of two
// responses, so that responses are not duplicated. Nor is a [ForwardRequest]: a command would
// be in the log twice.
func (n *MemoryNetwork) Duplicate(from, to NodeID, probability float64) {
	mustBeProbability(probability)
	n.set("duplicate", from, to, func(f *linkFaults) { f.duplicate = probability })
}

// Delay makes each message of the link take a random time between min and max.
// Messages overtake each other, but for those of one append stream.
func (n *MemoryNetwork) Delay(from, to NodeID, min, max time.Duration) {
	if min < 0 || max < min {
		panic(fmt.Sprintf("raft: a delay from %v to %v", min, max))
	}
	n.set("delay", from, to, func(f *linkFaults) { f.minDelay, f.maxDelay = min, max })
}

// Bandwidth limits how many bytes of bulk, which is AppendEntries and
// InstallSnapshot, the link transmits in a second; 0 means no limit. Bulk queues
// for its turn, in order of sending. All other messages are control messages:
// they overtake it, and take no time for their size.
func (n *MemoryNetwork) Bandwidth(from, to NodeID, bytesPerSecond int) {
	if bytesPerSecond < 0 {
		panic(fmt.Sprintf("raft: a bandwidth of %d", bytesPerSecond))
	}
	n.set("bandwidth", from, to, func(f *linkFaults) { f.bandwidth = bytesPerSecond })
}

// Cut makes the link lose everything, what is under way on it included, until
// Mend. The other direction goes on working. A message of an append stream that
// meets the cut breaks the stream; for a connection that is dead without anyone
// noticing use Drop with probability 1.
func (n *MemoryNetwork) Cut(from, to NodeID) {
	n.set("cut", from, to, func(f *linkFaults) { f.cut = true })
}

// Mend undoes Cut.
func (n *MemoryNetwork) Mend(from, to NodeID) {
	n.set("cut", from, to, func(f *linkFaults) { f.cut = false })
}

// Partition cuts, as Cut does, all links between nodes that have no group in
// common. All nodes that are in no group form one more. A node may be in
// several groups, as a bridge between them. Partition replaces the partition
// that there was; without groups it ends it.
func (n *MemoryNetwork) Partition(groups ...[]NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.groups = nil
	for _, group := range groups {
		n.groups = append(n.groups, slices.Clone(group))
	}
}

// Isolate is a Partition that leaves each of these nodes on its own.
func (n *MemoryNetwork) Isolate(ids ...NodeID) {
	groups := make([][]NodeID, len(ids))
	for i, id := range ids {
		groups[i] = []NodeID{id}
	}
	n.Partition(groups...)
}

// Hold makes the link hold back its messages, in order, until Release. A message
// that is held meets no further fault. Those of an append stream still count
// for its bound.
func (n *MemoryNetwork) Hold(from, to NodeID) {
	n.set("hold", from, to, func(f *linkFaults) { f.hold = true })
}

// Release undoes Hold and delivers, in order and at once, what was held back. A
// test for which it matters that the handler has finished with one request
// before it sees the next takes DeliverNext, since calls are served concurrently.
func (n *MemoryNetwork) Release(from, to NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setLocked("hold", from, to, func(f *linkFaults) { f.hold = false })
	n.deliverHeld(from, to)
}

// Held returns the messages that are held back, oldest first: requests and
// responses as in Intercept.
func (n *MemoryNetwork) Held(from, to NodeID) []any {
	n.mu.Lock()
	defer n.mu.Unlock()
	var messages []any
	for _, p := range n.held {
		if (linkName{from, to}).includes(p.link.name) {
			messages = append(messages, p.message)
		}
	}
	return messages
}

// DeliverNext delivers the oldest message that is held back, even over a link
// that is cut. It returns false if there is none.
func (n *MemoryNetwork) DeliverNext(from, to NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.takeHeld(from, to)
	if p == nil {
		return false
	}
	p.owner.arrive(p)
	return true
}

// DropNext loses the oldest message that is held back. It returns false if
// there is none.
func (n *MemoryNetwork) DropNext(from, to NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.takeHeld(from, to)
	if p == nil {
		return false
	}
	p.owner.lose(p, false)
	return true
}

func (n *MemoryNetwork) takeHeld(from, to NodeID) *parcel {
	for i, p := range n.held {
		if (linkName{from, to}).includes(p.link.name) {
			n.held = slices.Delete(n.held, i, i+1)
			return p
		}
	}
	return nil
}

// deliverHeld delivers what is held back now, and not what that brings about.
func (n *MemoryNetwork) deliverHeld(from, to NodeID) {
	for range len(n.held) {
		p := n.takeHeld(from, to)
		if p == nil {
			return
		}
		p.owner.arrive(p)
	}
}

// Heal ends all faults and the partition, and releases all messages that are
// held back. A hook stays, and a message that is being delayed keeps its delay.
func (n *MemoryNetwork) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.groups = nil
	n.settings = nil
	for _, l := range n.links {
		n.setFaults(l, linkFaults{})
	}
	n.deliverHeld("", "")
}

// Intercept makes hook decide about each message, before anything else happens
// to it; nil ends that. The messages are the pointers that transports take and
// return, such as [*VoteRequest] and [*VoteResponse], and a [*RemoteError] in
// place of a response when the handler failed. They must not be changed.
//
// The hook is called on the goroutine that sends the message, from several at
// once, and must not block. It may call all methods of the network. It replaces
// the hook that there was.
func (n *MemoryNetwork) Intercept(hook func(from, to NodeID, message any) Verdict) {
	if hook == nil {
		n.hook.Store(nil)
		return
	}
	n.hook.Store(&hook)
}

func (n *MemoryNetwork) intercept(from, to NodeID, message any) Verdict {
	if hook := n.hook.Load(); hook != nil {
		return (*hook)(from, to, message)
	}
	return Verdict{}
}

func mustBeProbability(p float64) {
	if !(p >= 0 && p <= 1) {
		panic(fmt.Sprintf("raft: a probability of %v", p))
	}
}

// set changes one kind of fault of the links that from and to name, also of
// those that nothing was sent on yet.
func (n *MemoryNetwork) set(kind string, from, to NodeID, apply func(*linkFaults)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setLocked(kind, from, to, apply)
}

func (n *MemoryNetwork) setLocked(kind string, from, to NodeID, apply func(*linkFaults)) {
	name := linkName{from, to}
	n.settings = slices.DeleteFunc(n.settings, func(s linkSetting) bool { return s.kind == kind && s.name == name })
	n.settings = append(n.settings, linkSetting{kind, name, apply})
	for _, l := range n.links {
		if name.includes(l.name) {
			faults := l.faults
			apply(&faults)
			n.setFaults(l, faults)
		}
	}
}

func (n *MemoryNetwork) link(from, to NodeID) *memoryLink {
	name := linkName{from, to}
	l := n.links[name]
	if l == nil {
		l = &memoryLink{name: name, random: n.newRandom(name)}
		for _, s := range n.settings {
			if s.name.includes(name) {
				s.apply(&l.faults)
			}
		}
		n.links[name] = l
	}
	return l
}

// setFaults replaces the faults of a link. Bulk that is queued goes on at the
// new bandwidth, so that a network that was healed has no slow remains.
func (n *MemoryNetwork) setFaults(l *memoryLink, faults linkFaults) {
	old := l.faults.bandwidth
	l.faults = faults
	if old == faults.bandwidth || len(l.pipe) == 0 {
		return
	}
	l.left = max(0, l.left-time.Since(l.since).Seconds()*float64(old))
	if faults.bandwidth > 0 {
		n.transmit(l)
		return
	}
	l.round++
	pipe := l.pipe
	l.pipe = nil
	for _, p := range pipe {
		n.travel(p)
	}
}

func (n *MemoryNetwork) isCut(l *memoryLink) bool {
	return l.faults.cut || n.groups != nil && l.name.from != l.name.to && !n.together(l.name.from, l.name.to)
}

// together reports whether the partition leaves two nodes connected.
func (n *MemoryNetwork) together(a, b NodeID) bool {
	var anyA, anyB bool
	for _, group := range n.groups {
		hasA, hasB := slices.Contains(group, a), slices.Contains(group, b)
		if hasA && hasB {
			return true
		}
		anyA, anyB = anyA || hasA, anyB || hasB
	}
	return !anyA && !anyB
}

// chance draws only for a link that has the fault at all, so that setting one
// fault does not change the luck of the others.
func (l *memoryLink) chance(probability float64) bool {
	return probability > 0 && l.random.Float64() < probability
}

// depart sends p on its way.
func (n *MemoryNetwork) depart(p *parcel, verdict Verdict) {
	l := p.link
	switch {
	case verdict.Drop:
		p.owner.lose(p, false)
	case verdict.Hold || l.faults.hold:
		n.held = append(n.held, p)
	case n.isCut(l):
		p.owner.lose(p, true)
	case l.chance(l.faults.drop):
		p.owner.lose(p, false)
	default:
		p.delay = verdict.Delay + l.faults.minDelay
		if l.faults.maxDelay > l.faults.minDelay {
			p.delay += time.Duration(l.random.Int64N(int64(l.faults.maxDelay-l.faults.minDelay) + 1))
		}
		if p.size == 0 || l.faults.bandwidth == 0 {
			n.travel(p)
			return
		}
		l.pipe = append(l.pipe, p)
		if len(l.pipe) == 1 {
			n.transmitFirst(l)
		}
	}
}

// duplicates decides whether a request is to be sent twice. No transport does that, and nodes
// rely on it for what they forward alone.
func (n *MemoryNetwork) duplicates(l *memoryLink, verdict Verdict, request any) bool {
	if _, forwarded := request.(*ForwardRequest); forwarded {
		return false
	}
	return verdict.Duplicate || l.chance(l.faults.duplicate)
}

// transmitFirst gives the first parcel in the pipe its turn.
func (n *MemoryNetwork) transmitFirst(l *memoryLink) {
	l.round++
	if len(l.pipe) > 0 {
		l.left = float64(l.pipe[0].size)
		n.transmit(l)
	}
}

// transmit starts the timer for what is left of the first parcel in the pipe.
func (n *MemoryNetwork) transmit(l *memoryLink) {
	l.since = time.Now()
	l.round++
	round := l.round
	time.AfterFunc(time.Duration(l.left/float64(l.faults.bandwidth)*float64(time.Second)), func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if l.round != round {
			return
		}
		p := l.pipe[0]
		l.pipe[0] = nil
		l.pipe = l.pipe[1:]
		n.transmitFirst(l)
		n.travel(p)
	})
}

// withdraw takes the owner's parcels out of the pipe: the sender gave up before
// they had left, and they would only be in the way of what it sends next.
func (n *MemoryNetwork) withdraw(l *memoryLink, owner parcelOwner) {
	if len(l.pipe) == 0 {
		return
	}
	first := l.pipe[0]
	l.pipe = slices.DeleteFunc(l.pipe, func(p *parcel) bool {
		if p.owner == owner {
			owner.lose(p, false)
			return true
		}
		return false
	})
	if first.owner == owner {
		n.transmitFirst(l)
	}
}

// travel lets p arrive after its delay, unless the link is cut by then.
func (n *MemoryNetwork) travel(p *parcel) {
	if p.delay <= 0 {
		n.arrive(p)
		return
	}
	time.AfterFunc(p.delay, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.arrive(p)
	})
}

func (n *MemoryNetwork) arrive(p *parcel) {
	if n.isCut(p.link) {
		p.owner.lose(p, true)
		return
	}
	p.owner.arrive(p)
}
