package raft_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// What a node does not need any more it does not keep, however quiet it is from then on.

// held makes what a response, or a callback, holds, and counts what something still refers to.
type held struct {
	mu  sync.Mutex
	all []weak.Pointer[byte]
}

func (h *held) make() []byte {
	b := make([]byte, 8<<10)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, weak.Make(&b[0]))
	return b
}

func (h *held) made() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

func (h *held) count() (n int) {
	runtime.GC()
	for _, p := range h.all {
		if p.Value() != nil {
			n++
		}
	}
	return n
}

// responder is a state machine whose responses are large.
type responder struct {
	*recorder
	held *held
}

func (r responder) Apply([]byte) ([]byte, error) { return r.held.make(), nil }

// batchResponder is one that applies many at once.
type batchResponder struct{ responder }

func (r batchResponder) ApplyBatch(_ []raft.Command, results []raft.ApplyResult) {
	for i := range results {
		results[i].Response = r.held.make()
	}
}

func TestResponsesAreNotKept(t *testing.T) {
	t.Parallel()
	for _, batches := range []bool{false, true} {
		t.Run(fmt.Sprintf("in batches %v", batches), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				var h held
				c := startCluster(t, 3, clusterOptions{machine: func(raft.NodeID) raft.StateMachine {
					r := responder{newRecorder(), &h}
					if batches {
						return batchResponder{r}
					}
					return r
				}})
				leader := c.node(c.leader())
				for range 200 {
					leader.ProposeAsync([]byte("x"), func(_ raft.Result, err error) { require.NoError(t, err) })
				}
				for range 20 {
					_, err := leader.Propose(t.Context(), []byte("y"))
					require.NoError(t, err)
				}
				c.eventually(electionTimeout, "all members to have applied all", func() bool { return h.made() == 3*220 })
				synctest.Wait() // they have answered, too
				require.Zero(t, h.count())
			})
		})
	}
}

func TestCallbacksAreNotKept(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		var h held
		c := startCluster(t, 3, clusterOptions{})
		var called atomic.Int64
		leader := c.node(c.leader())
		for range 400 {
			b := h.make()
			leader.ProposeAsync([]byte("x"), func(_ raft.Result, err error) {
				require.NoError(t, err)
				require.Zero(t, b[0])
				called.Add(1)
			})
		}
		c.eventually(electionTimeout, "all to be called", func() bool { return called.Load() == 400 })
		synctest.Wait() // the last one has returned
		require.Zero(t, h.count())
	})
}
