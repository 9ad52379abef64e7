package raft_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
	"github.com/seed-8da499c8/raft/internal/testenv"
)

// history is what all lives of all state machines of a cluster have applied: a
// committed index never holds two commands (thesis §3.6.3, State Machine
// Safety), and no life skips one or applies it twice.
type history struct {
	mu       sync.Mutex
	commands map[raft.Index]string
	broken   []string
}

// life is the state machine of one run of a node. It keeps what it applied.
type life struct {
	history *history
	id      raft.NodeID
	last    raft.Index
	applied []string
}

func (l *life) ApplyBatch(commands []raft.Command, results []raft.ApplyResult) {
	h := l.history
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, command := range commands {
		if command.Index <= l.last {
			h.broken = append(h.broken, fmt.Sprintf("%s applies entry %d after %d", l.id, command.Index, l.last))
		}
		l.last = command.Index
		first, known := h.commands[command.Index]
		switch {
		case !known:
			first = string(command.Data)
			h.commands[command.Index] = first
		case first != string(command.Data):
			h.broken = append(h.broken, fmt.Sprintf("entry %d is %q on %s and was %q", command.Index, command.Data, l.id, first))
		}
		l.applied = append(l.applied, first)
		results[i].Response = strconv.AppendInt(nil, int64(len(l.applied)), 10)
	}
}

func (l *life) Apply([]byte) ([]byte, error) { panic("ApplyBatch is there") }
func (l *life) Snapshot() ([]byte, error)    { panic("no snapshots") }
func (l *life) Restore([]byte) error         { panic("no snapshots") }

// ledger is what the clients of a cluster were told.
type ledger struct {
	mu       sync.Mutex
	acked    map[string]raft.Result
	refused  map[string]error
	unknown  map[string]error
	problems []string
}

func (l *ledger) record(command string, result raft.Result, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	isRefused, isUnknown := errors.Is(err, raft.ErrNotAccepted), errors.Is(err, raft.ErrOutcomeUnknown)
	switch {
	case err == nil:
		l.acked[command] = result
	case isRefused && !isUnknown:
		l.refused[command] = err
	case isUnknown && !isRefused:
		l.unknown[command] = err
	default:
		l.problems = append(l.problems, fmt.Sprintf("%s: of no class, or of both: %v", command, err))
	}
}

// hour is one run of a cluster under faults.
type hour struct {
	*cluster
	random   *rand.Rand
	history  *history
	ledger   *ledger
	nodes    sync.Mutex // guards the members while clients use them
	restarts int
}

// Clusters of three and of five nodes, side by side, survive faults of all kinds.
func TestClustersSurviveAnHourOfFaults(t *testing.T) {
	if !testing.Short() || testenv.Race {
		raft.WithoutVerification(t) // it takes longer with each entry
	}
	for _, nodes := range []int{3, 5} {
		t.Run(fmt.Sprint(nodes, " nodes"), func(t *testing.T) {
			t.Parallel()
			surviveAnHour(t, nodes)
		})
	}
}

// surviveAnHour is an hour of virtual time in which clients propose all the
// while and something always breaks; then all is healed and the books are
// compared. For more than three nodes it is 20 minutes. With -short it is a tenth,
// with the invariants checked at every step; under the race detector a quarter.
func surviveAnHour(t *testing.T, nodes int) {
	length := time.Hour
	if nodes > 3 {
		length /= 3 // which takes as long
	}
	switch {
	case testing.Short():
		length /= 10
	case testenv.Race:
		length /= 4
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	began := time.Now()
	bubble(t, func(t *testing.T) {
		h := &hour{
			random:  rand.New(rand.NewPCG(seed, uint64(nodes))),
			history: &history{commands: map[raft.Index]string{}},
			ledger:  &ledger{acked: map[string]raft.Result{}, refused: map[string]error{}, unknown: map[string]error{}},
		}
		h.cluster = newCluster(t, nodes, clusterOptions{
			machine: func(id raft.NodeID) raft.StateMachine { return &life{history: h.history, id: id} },
			each: func(id raft.NodeID, config *raft.Config) {
				switch id {
				case "b":
					config.LogCacheBytes = 1
				case "c", "d":
					config.LogCacheBytes = 1 << 10
				}
			},
		})
		h.network.Seed(seed)
		for _, id := range h.ids {
			h.start(id)
		}
		h.leader()
		ctx, cancel := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for client := range 4 {
			random := rand.New(rand.NewPCG(seed, uint64(client)))
			clients.Go(func() { h.client(ctx, client, random) })
		}
		for end := time.Now().Add(length); time.Now().Before(end); {
			h.trouble()
			time.Sleep(time.Duration(1+h.random.IntN(5000)) * time.Millisecond)
		}
		cancel()
		clients.Wait()
		h.heal()
		h.compareBooks()
	})
	t.Logf("%v of virtual time in %v", length, time.Since(began).Round(time.Millisecond))
}

// anyNode returns a node that runs, for a client.
func (h *hour) anyNode(random *rand.Rand) *raft.Node {
	h.nodes.Lock()
	defer h.nodes.Unlock()
	return h.node(h.running()[random.IntN(len(h.running()))])
}

// client proposes commands, each once, to whom it takes for the leader.
func (h *hour) client(ctx context.Context, client int, random *rand.Rand) {
	node := h.anyNode(random)
	for i := 0; ctx.Err() == nil; i++ {
		command := fmt.Sprintf("client %d command %d", client, i)
		if random.IntN(8) == 0 {
			for j := range 8 {
				burst := fmt.Sprintf("%s part %d", command, j)
				node.ProposeAsync([]byte(burst), func(result raft.Result, err error) { h.ledger.record(burst, result, err) })
			}
		}
		patience, cancel := context.WithTimeout(ctx, time.Duration(1+random.IntN(2000))*time.Millisecond)
		result, err := node.Propose(patience, []byte(command))
		cancel()
		h.ledger.record(command, result, err)
		if err != nil {
			node = h.elsewhere(err, random)
		}
		time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
	}
}

// elsewhere returns the node to try after an error.
func (h *hour) elsewhere(err error, random *rand.Rand) *raft.Node {
	var hint *raft.NotLeaderError
	if errors.As(err, &hint) && hint.Leader != "" {
		h.nodes.Lock()
		defer h.nodes.Unlock()
		if node := h.node(hint.Leader); node != nil {
			return node
		}
		return h.node(h.running()[0])
	}
	return h.anyNode(random)
}

func (h *hour) any() raft.NodeID { return h.ids[h.random.IntN(len(h.ids))] }

// trouble lets something happen.
func (h *hour) trouble() {
	ms := func(most int) time.Duration { return time.Duration(h.random.IntN(most)) * time.Millisecond }
	from, to := h.any(), h.any()
	switch h.random.IntN(12) {
	case 0, 1:
		h.network.Heal()
	case 2:
		h.network.Isolate(from)
	case 3:
		groups := [][]raft.NodeID{nil, nil}
		for _, id := range h.ids {
			side := h.random.IntN(2)
			groups[side] = append(groups[side], id)
		}
		h.network.Partition(groups...)
	case 4:
		h.network.Cut(from, to)
	case 5:
		h.network.Drop(from, "", h.random.Float64()/2)
	case 6:
		shortest := ms(50)
		h.network.Delay(from, "", shortest, shortest+ms(200))
	case 7:
		h.network.Duplicate("", to, h.random.Float64())
	case 8, 9:
		h.bury(from)
	default:
		h.raise()
	}
}

// bury ends a node, one way or the other, unless it is the last that runs.
func (h *hour) bury(id raft.NodeID) {
	if !h.isRunning(id) || len(h.running()) == 1 {
		return
	}
	kills := h.random.IntN(2) == 0
	if !kills { // which takes a while, in which clients do not wait for the lock: that would stop the clock
		require.NoError(h.t, h.node(id).Stop(context.Background()))
	}
	h.nodes.Lock()
	defer h.nodes.Unlock()
	if kills {
		h.kill(id)
	} else {
		h.buried(h.members[id])
	}
}

// raise starts all nodes that do not run.
func (h *hour) raise() {
	h.nodes.Lock()
	defer h.nodes.Unlock()
	for _, id := range h.ids {
		if !h.isRunning(id) {
			h.start(id)
			h.restarts++
		}
	}
}

// heal ends all faults and waits until the cluster has settled.
func (h *hour) heal() {
	h.network.Heal()
	h.raise()
	leader := h.leader()
	h.propose(leader, "the last word")
	h.eventually(soon, "the last word everywhere", func() bool {
		for _, id := range h.ids {
			if s := h.status(id); s.AppliedIndex != h.status(leader).LastIndex {
				return false
			}
		}
		return true
	})
}

// compareBooks compares what the clients were told with what was applied.
func (h *hour) compareBooks() {
	t := h.t
	require.Empty(t, h.history.broken)
	require.Empty(t, h.ledger.problems)
	applied := h.members["a"].machine.(*life).applied
	for _, id := range h.ids {
		require.True(t, slices.Equal(applied, h.members[id].machine.(*life).applied), "%s equals a", id)
	}
	times := map[string]int{}
	for _, command := range applied {
		times[command]++
		require.LessOrEqual(t, times[command], 1, "%s was proposed once", command)
	}
	for command, result := range h.ledger.acked {
		require.Equal(t, command, h.history.commands[result.Index], "entry %d", result.Index)
		require.Equal(t, 1, times[command], command)
	}
	for command, err := range h.ledger.refused {
		require.Zero(t, times[command], "%s: %v", command, err)
	}
	late := 0
	for command := range h.ledger.unknown {
		late += times[command]
	}
	answered := len(h.ledger.acked) + late + 1 // the last word
	require.Len(t, applied, answered, "nothing appears that nobody proposed")
	require.NotEmpty(t, h.ledger.acked)
	require.NotEmpty(t, h.ledger.refused)
	t.Logf("%d terms, %d restarts; %d acknowledged, %d refused, %d unknown, of which %d were applied",
		h.status("a").Term, h.restarts, len(h.ledger.acked), len(h.ledger.refused), len(h.ledger.unknown), late)
}
