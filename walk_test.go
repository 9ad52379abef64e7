package raft

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
)

// walk is a rig that is shaken at random.
type walk struct {
	*rig
	random    *rand.Rand
	proposals []*outcome
	texts     []string
	decisions []walkDecision // of those who want other members or another leader
}

// walkDecision is to come from a process, as long as that lives.
type walkDecision struct {
	*decision
	node *rigNode
	life int
}

func newWalk(t *testing.T, seed uint64, names string) *walk {
	r := newRig(t, names)
	if seed%4 > 1 {
		r.addJoiners("x y")
	}
	return startWalk(r, seed)
}

func startWalk(r *rig, seed uint64) *walk {
	r.seed = seed
	r.cache = []int{32 << 20, 1, 400}[seed%3] // bytes
	r.every, r.sync, r.trail = []int{0, 2, 6}[seed/3%3], []int64{0, 60}[seed/2%2], 1+int(seed%3)
	r.tune = func(s *coreSettings) {
		s.maxInflightMessages, s.maxBatchBytes, s.maxInflightBytes, s.chunkBytes = 4, 40, 100, 120
	}
	for _, id := range r.ids {
		r.start(id)
	}
	return &walk{rig: r, random: chance(seed)}
}

func (w *walk) someone() NodeID { return w.ids[w.random.IntN(len(w.ids))] }

// act does one thing at random. Most of it is delivering and writing, so that
// the cluster gets somewhere; the rest is what goes wrong.
func (w *walk) act() {
	id := w.someone()
	switch p := w.random.IntN(1000); {
	case p < 480:
		w.deliverOne()
	case p < 500:
		w.disturbOne()
	case p < 720:
		w.finishWrite(id)
	case p < 780:
		w.apply(id)
	case p < 800:
		w.read(id)
	case p < 840:
		w.workOnSnapshots(id)
	case p < 940:
		w.elapse()
	case p < 967:
		if w.up(id) {
			w.proposeOne(id)
		}
	case p < 970:
		if leader := w.leader(); leader != "" && w.ids[len(w.ids)-1] == "y" {
			w.reconfigure(leader)
		}
	case p < 975:
		if w.up(id) && w.core(id).role != Leader {
			w.timeOut(id)
		}
	case p < 978:
		w.disconnect(id, w.someone())
	case p < 981:
		w.isolate(id)
	case p < 986:
		w.heal()
	case p < 989:
		w.crash(id)
	case p < 991:
		w.crashAfterWrite(id)
	case p < 993:
		w.wantSnapshot(id, func(Index, error) {})
	default:
		if !w.up(id) {
			w.restart(id)
		}
	}
}

// deliverOne delivers one message, more often than not the oldest.
func (w *walk) deliverOne() {
	if len(w.table) == 0 {
		return
	}
	i := 0
	if w.random.IntN(4) == 0 {
		i = w.random.IntN(len(w.table))
	}
	p := w.table[i]
	w.table = slices.Delete(w.table, i, i+1)
	w.deliver(p)
}

// disturbOne drops a message or repeats it.
func (w *walk) disturbOne() {
	if len(w.table) == 0 {
		return
	}
	i := w.random.IntN(len(w.table))
	p := w.table[i]
	if p.lost || len(w.table) > 200 || w.random.IntN(2) == 0 {
		w.table = slices.Delete(w.table, i, i+1)
		if !p.lost && w.random.IntN(2) == 0 {
			w.lose(p)
		}
		return
	}
	again := *p
	w.table = slices.Insert(w.table, w.random.IntN(len(w.table)+1), &again)
}

// elapse moves time on; who has something due may be late.
func (w *walk) elapse() {
	w.now += time.Duration(w.random.Int64N(int64(beat / 3)))
	for _, id := range w.ids {
		if w.up(id) && w.core(id).deadline() <= w.now && w.random.IntN(4) > 0 {
			w.do(id)
		}
		w.expire(id)
	}
}

func (w *walk) proposeOne(id NodeID) {
	if leader := w.leader(); leader != "" && w.random.IntN(4) > 0 {
		id = leader
	}
	text := fmt.Sprintf("command %d", len(w.proposals))
	w.texts = append(w.texts, text)
	w.proposals = append(w.proposals, w.propose(id, text)...)
}

// reconfigure wants up to three changes of the members at once, or another leader.
func (w *walk) reconfigure(leader NodeID) {
	n := w.nodes[leader]
	if w.random.IntN(4) == 0 {
		w.decisions = append(w.decisions, walkDecision{w.transfer(leader, w.someone()), n, n.life})
		return
	}
	var changes []MemberChange
	for range 1 + w.random.IntN(3) {
		id := w.someone()
		_, member := w.core(leader).configuration.member(id)
		kinds := []MemberChange{w.adds(id), w.addsLearner(id)}
		if member {
			kinds = []MemberChange{w.promotes(id), w.demotes(id), removes(id)}
		}
		changes = append(changes, kinds[w.random.IntN(len(kinds))])
	}
	w.decisions = append(w.decisions, walkDecision{w.change(leader, 0, changes...), n, n.life})
}

// finish heals everything and requires that the cluster recovers, and that
// every proposer was told the truth.
func (w *walk) finish() {
	w.heal()
	for _, id := range w.ids {
		if !w.up(id) {
			w.restart(id)
		}
	}
	w.requireHealthy()
	for _, d := range w.decisions {
		require.True(w.t, d.ended || d.life != d.node.life || !w.up(d.node.id), "somebody still waits for %s", d.node.id)
	}
	for i, o := range w.proposals {
		n := 0
		for _, command := range w.commands {
			if command == w.texts[i] {
				n++
			}
		}
		require.LessOrEqual(w.t, n, 1, "%s was applied twice", w.texts[i])
		if !o.ended {
			continue // proposed to a process that crashed
		}
		switch {
		case o.err == nil:
			require.Equal(w.t, 1, n, "%s was acknowledged and is gone", w.texts[i])
			require.Equal(w.t, "did "+w.texts[i], string(o.result.Response))
			if term, kept := w.core(w.leader()).log.term(o.result.Index); kept {
				require.Equal(w.t, o.result.Term, term)
			}
		default:
			_, unknown := o.err.(*OutcomeUnknownError)
			if !unknown {
				require.ErrorIs(w.t, o.err, ErrNotAccepted)
				require.Zero(w.t, n, "%s was refused and applied", w.texts[i])
			}
		}
	}
}

func TestRandomWalks(t *testing.T) {
	t.Parallel()
	seeds := 200
	if testenv.Brief() {
		seeds = 20
	}
	var came atomic.Int64
	t.Cleanup(func() { require.Positive(t, came.Load(), "no snapshot was ever sent and received") })
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for seed := i; seed < seeds; seed += 4 {
				came.Add(int64(randomWalk(t, uint64(seed))))
			}
		})
	}
}

// randomWalk returns how many snapshots arrived at a node.
func randomWalk(t *testing.T, seed uint64) int {
	defer func() {
		if p := recover(); p != nil {
			panic(fmt.Sprintf("seed %d: %v", seed, p))
		}
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	names := "a b c"
	if seed%2 == 1 {
		names = "a b c d e"
	}
	w := newWalk(t, seed, names)
	for range 2000 {
		w.act()
	}
	w.finish()
	return w.came
}
