package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// FaultKind says what goes wrong.
type FaultKind int

// The kinds of faults. A seed draws which of them its life has.
const (
	Isolate    FaultKind = iota // a node is cut off from all others
	Split                       // the nodes fall apart into two groups
	OneWay                      // a link is cut in one direction
	Sever                       // a link is cut in both directions, while others see both ends
	Flap                        // a link is cut and mended again and again
	BadLink                     // a link loses, doubles and delays
	BadNetwork                  // all links do
	Clog                        // a link holds back what is sent, and lets it all go at once
	Kill                        // a process ends, and comes back later
	PowerCut                    // a machine loses power, and what its disk has not synced
	Blackout                    // all machines lose power at the same instant
	Pause                       // a process stands still, and its clock with it unless that has a bound
	Freeze                      // a process stands still while its clock goes on
	Drift                       // a clock runs fast or slow
	Leap                        // a clock leaps forward
	SlowDisk                    // writes take long
	HungDisk                    // a write does not end
	BadDisk                     // a sync fails
	SlowApply                   // the state machine takes long
	Wipe                        // a machine loses its disk, and comes back with an empty one

	// What an operator does, who goes to whoever leads then.

	AddLearner   // a machine joins
	AddVoter     // so it does, and is promoted once it has caught up
	Promote      // a learner becomes a voter
	Demote       // a voter becomes a learner
	Remove       // a member is taken out
	RemoveLeader // the one that leads is
	Joint        // several such changes are one
	ReplaceAll   // other machines take the place of all members
	Race         // another operator wants something else at the same moment
	Transfer     // another voter is to lead
	FaultKinds   // how many there are
)

var faultNames = [FaultKinds]string{
	"isolate", "split", "one-way", "sever", "flap", "bad link", "bad network", "clog", "kill", "power cut", "blackout",
	"pause", "freeze", "drift", "leap", "slow disk", "hung disk", "bad disk", "slow apply", "wipe",
	"add learner", "add voter", "promote", "demote", "remove", "remove leader", "joint change", "replace all", "race", "transfer",
}

func (k FaultKind) String() string { return faultNames[k] }

// byOperator tells what operators do from what goes wrong.
func (k FaultKind) byOperator() bool { return k >= AddLearner }

// scope is whom faults of a kind hit. The page of a trace knows the numbers.
func (k FaultKind) scope() scope {
	if k.byOperator() {
		return everybody
	}
	switch k {
	case Split, BadNetwork, Blackout:
		return everybody
	case OneWay, Sever, Flap, BadLink, Clog:
		return oneLink
	default:
		return oneNode
	}
}

type scope int

const (
	everybody scope = iota
	oneLink         // from Fault.Node to Fault.Peer; severed and flapping ones are both ways
	oneNode         // Fault.Node
)

// Fault is something that goes wrong for a time.
type Fault struct {
	Number  int // in the plan that was drawn, from 1 on
	At, For time.Duration
	Kind    FaultKind
	Node    int // and Peer: whom it hits, where that matters
	Peer    int
	Leader  bool    // it hits whoever leads when it begins, in place of Node, if somebody does
	Level   float64 // how hard, from 0 to 1
	Seed    uint64  // of the chances within
}

func (f Fault) String() string {
	s := fmt.Sprintf("%v %v", f.At, f.Kind)
	switch f.Kind.scope() {
	case oneLink:
		s += fmt.Sprintf(" %d-%d", f.Node, f.Peer)
	case oneNode:
		s += fmt.Sprintf(" %d", f.Node)
	}
	if f.Leader {
		s += " or whoever leads"
	}
	return fmt.Sprintf("%s for %v, level %.2f", s, f.For, f.Level)
}

// Plan is all that goes wrong in a life, and what its operators do.
type Plan []Fault

func (p Plan) String() string {
	var b strings.Builder
	for _, f := range p {
		fmt.Fprintf(&b, "%4d  %v\n", f.Number, f)
	}
	return b.String()
}

// usual is how long faults of a kind last, and how many there are in a minute, in
// a life that has them at full strength.
var usual = [FaultKinds]struct {
	lasts  time.Duration
	perMin float64
}{
	Isolate: {1500 * time.Millisecond, 50}, Split: {1500 * time.Millisecond, 40}, OneWay: {1500 * time.Millisecond, 60},
	Sever: {3 * time.Second, 30}, Flap: {1500 * time.Millisecond, 40}, BadLink: {2 * time.Second, 60}, BadNetwork: {2 * time.Second, 20},
	Clog: {500 * time.Millisecond, 60}, Kill: {1500 * time.Millisecond, 50}, PowerCut: {1500 * time.Millisecond, 50},
	Blackout: {500 * time.Millisecond, 15}, Pause: {time.Second, 40}, Freeze: {time.Second, 40},
	Drift: {5 * time.Second, 30}, Leap: {0, 40}, SlowDisk: {2 * time.Second, 40},
	HungDisk: {time.Second, 40}, BadDisk: {time.Second, 25}, SlowApply: {2 * time.Second, 40}, Wipe: {500 * time.Millisecond, 60},
	AddLearner: {0, 60}, AddVoter: {0, 120}, Promote: {0, 60}, Demote: {0, 30}, Remove: {0, 60}, RemoveLeader: {0, 40},
	Joint: {0, 100}, ReplaceAll: {0, 40}, Race: {0, 40}, Transfer: {0, 80},
}

// DrawPlan draws what goes wrong among n nodes until a time. Each life has some
// kinds of faults and not others, each at its own strength: what shows only
// without a certain fault, or only with many of one kind, is found as well.
func DrawPlan(random *rand.Rand, n int, until time.Duration) Plan {
	var plan Plan
	often := 2 * random.Float64()
	for kind := range FaultKinds {
		if random.IntN(3) == 0 {
			continue
		}
		strength := random.Float64()
		rate := often * usual[kind].perMin * strength * strength * float64(until) / float64(time.Minute)
		for range int(rate + random.Float64()) {
			f := Fault{
				Kind:  kind,
				At:    time.Duration(random.Int64N(int64(until))),
				For:   time.Duration(random.ExpFloat64() * float64(usual[kind].lasts)),
				Level: random.Float64(),
				Seed:  random.Uint64(),
			}
			f.hit(random.IntN(n), 1+random.IntN(max(1, n-1)), n)
			f.Leader = random.IntN(3) == 0
			plan = append(plan, f)
		}
	}
	slices.SortStableFunc(plan, func(a, b Fault) int { return int(a.At - b.At) })
	for i := range plan {
		plan[i].Number = i + 1
	}
	return plan
}

// hit aims the fault at a node, and at the one that is so many behind it.
func (f *Fault) hit(node, behind, n int) { f.Node, f.Peer = node, (node+behind)%n }

// Machines is what faults do to processes and disks, which the world knows
// nothing about. Nodes have numbers.
type Machines interface {
	Kill(node int)                  // the process ends
	PowerCut(node int, seed uint64) // so it does, and unsynced bytes are lost
	Start(node int)                 // it comes back; nothing if it runs
	Freeze(node int, frozen bool)   // it stands still
	SlowDisk(node int, by float64)  // 0: as usual
	HangDisk(node int, hung bool)   // a write does not end
	FailSync(node int, seed uint64) // the next sync fails
	SlowApply(node int, by float64) // 0: as usual
	Clock(node int) *Clock          // of its machine
	Leader() int                    // -1: none
	Wipe(node int, seed uint64)     // it ends, and its disk is empty; not if that would be the loss of too many
	Operate(f Fault)                // an operator does something

	// InWrite has something happen in the middle of the node's next write.
	InWrite(node int, happen func())
}

// Inflict has the faults of a plan happen.
func (w *World) Inflict(plan Plan, net *Network, machines Machines) {
	n := len(net.links)
	for _, f := range plan {
		w.After(f.At, func() {
			if f.Leader {
				if leader := machines.Leader(); leader >= 0 {
					f.hit(leader, f.Peer-f.Node+n, n)
					if f.Kind.scope() == oneLink && f.Seed%2 == 0 { // what comes to it, and not what it sends
						f.Node, f.Peer = f.Peer, f.Node
					}
				}
			}
			w.Count(f.Kind.String())
			w.Note(Line{Kind: "fault", Node: f.Node, Peer: f.Peer, Text: f.String()})
			net.trace.fault(f)
			if end := begin(w, f, n, net, machines); end != nil {
				w.After(f.For, func() {
					w.Note(Line{Kind: "fault ends", Node: f.Node, Peer: f.Peer, Text: f.Kind.String()})
					end()
				})
			}
		})
	}
}

// begin begins a fault and returns what ends it.
func begin(w *World, f Fault, n int, net *Network, machines Machines) (end func()) {
	random := rand.New(rand.NewPCG(f.Seed, 0))
	if f.Kind.byOperator() {
		machines.Operate(f)
		return nil
	}
	switch f.Kind {
	case Isolate:
		return cutBetween(net, n, func(i int) bool { return i == f.Node })
	case Split:
		side := make([]bool, n)
		for i := range side {
			side[i] = random.IntN(2) == 0
		}
		return cutBetween(net, n, func(i int) bool { return side[i] })
	case OneWay:
		return net.Cut(f.Node, f.Peer)
	case Sever:
		return sever(net, f)
	case Flap:
		return flap(w, f, net, random)
	case BadLink:
		return net.Worsen(f.Node, f.Peer, worse(f.Level))
	case BadNetwork:
		return worsenAll(net, n, worse(f.Level/2))
	case Clog:
		net.Clog(f.Node, f.Peer, w.now+f.For)
		return nil
	case Kill:
		machines.Kill(f.Node)
		return func() { machines.Start(f.Node) }
	case PowerCut:
		strike(f, machines, func() { machines.PowerCut(f.Node, f.Seed) })
		return func() { machines.Start(f.Node) }
	case Blackout:
		return blackout(w, f, n, machines)
	case Pause:
		machines.Clock(f.Node).pause(true)
		machines.Freeze(f.Node, true)
		return func() {
			machines.Clock(f.Node).pause(false)
			machines.Freeze(f.Node, false)
		}
	case Freeze:
		machines.Freeze(f.Node, true)
		return func() { machines.Freeze(f.Node, false) }
	case Drift:
		machines.Clock(f.Node).drift(f.Level)
		return func() { machines.Clock(f.Node).SetRate(1) }
	case Leap:
		machines.Clock(f.Node).leap(f.Level)
		return nil
	case SlowDisk:
		machines.SlowDisk(f.Node, f.Level)
		return func() { machines.SlowDisk(f.Node, 0) }
	case HungDisk:
		machines.HangDisk(f.Node, true)
		return func() { machines.HangDisk(f.Node, false) }
	case BadDisk:
		machines.FailSync(f.Node, f.Seed)
		return func() { machines.Start(f.Node) } // such a node stops by itself
	case SlowApply:
		machines.SlowApply(f.Node, f.Level)
		return func() { machines.SlowApply(f.Node, 0) }
	case Wipe:
		machines.Wipe(f.Node, f.Seed)
		return func() { machines.Start(f.Node) }
	default:
		panic(fmt.Sprintf("sim: no way to inflict %v", f.Kind))
	}
}

// strike has the power fail at once, or in the middle of a write if one comes before
// the fault ends: elsewhere there is next to nothing to lose.
func strike(f Fault, machines Machines, happen func()) {
	if f.Seed%3 == 0 {
		happen()
	} else {
		machines.InWrite(f.Node, happen)
	}
}

// cutBetween cuts all links between those inside and the others.
func cutBetween(net *Network, n int, inside func(int) bool) (mend func()) {
	var mends []func()
	for from := range n {
		for to := range n {
			if inside(from) != inside(to) {
				mends = append(mends, net.Cut(from, to))
			}
		}
	}
	return all(mends)
}

// sever cuts a link in both directions.
func sever(net *Network, f Fault) (mend func()) {
	return all([]func(){net.Cut(f.Node, f.Peer), net.Cut(f.Peer, f.Node)})
}

// flap cuts a link, and mends it, until the fault ends, or all do.
func flap(w *World, f Fault, net *Network, random *rand.Rand) (end func()) {
	over, heals := false, net.heals
	var mend func()
	var turn func()
	turn = func() {
		switch {
		case over || net.heals > heals:
			return
		case mend == nil:
			mend = sever(net, f)
		default:
			mend()
			mend = nil
		}
		w.After(time.Duration(random.Int64N(int64(300*time.Millisecond))), turn)
	}
	turn()
	return func() {
		if over = true; mend != nil {
			mend()
		}
	}
}

// all makes one end of several.
func all(ends []func()) (end func()) {
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// worse is how a bad link behaves.
func worse(level float64) Quality {
	return Quality{
		Delay:     time.Duration(level * float64(50*time.Millisecond)),
		Jitter:    time.Duration(level * float64(200*time.Millisecond)),
		Loss:      level / 3,
		Duplicate: level / 4,
	}
}

func worsenAll(net *Network, n int, q Quality) (end func()) {
	var ends []func()
	for from := range n {
		for to := range n {
			ends = append(ends, net.Worsen(from, to, q))
		}
	}
	return all(ends)
}

// blackout cuts the power of all machines, which come back one after the other.
func blackout(w *World, f Fault, n int, machines Machines) (end func()) {
	strike(f, machines, func() {
		for i := range n {
			machines.PowerCut(i, f.Seed+uint64(i))
		}
	})
	return func() {
		for i := range n {
			w.After(time.Duration((f.Seed>>(8*(i%8)))&0xff)*4*time.Millisecond, func() { machines.Start(i) })
		}
	}
}
