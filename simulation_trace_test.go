package raft

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/sim"
)

// A life to look at: what the recorder of a world is told about nodes and
// messages, and the page that comes of it.

// record has a life recorded that is about to begin.
func (s *simulation) record() {
	var names []string
	for _, n := range s.nodes {
		names = append(names, string(n.id))
	}
	s.trace = s.world.Record(s.network, names, labelOf)
}

// writePage writes the page of a life that was recorded.
func (s *simulation) writePage(t *testing.T, name string, v variant, verdict error) {
	file, err := os.Create(name)
	require.NoError(t, err)
	title := fmt.Sprintf("seed %d", v.seed)
	remarks := []string{v.command(), fmt.Sprintf("%+v", s.settings)}
	require.NoError(t, s.trace.WritePage(file, title, remarks, verdict))
	require.NoError(t, file.Close())
	t.Logf("%s shows %v", name, s.trace)
}

// show has the recorder see what has become of the node.
func (n *simNode) show() {
	if n.trace == nil {
		return
	}
	state := sim.State{Frozen: n.frozen, Role: "down", Vote: -1, Leader: -1}
	if n.driver != nil {
		c := n.driver.core
		state = sim.State{
			Up: true, Frozen: n.frozen, Role: c.role.String(), Term: uint64(c.currentTerm), Vote: n.numberOf(c.votedFor), Leader: n.numberOf(c.leader),
			Last: uint64(c.log.last()), Durable: uint64(n.last), Commit: uint64(c.commitIndex), Applied: uint64(n.driver.applied),
		}
	}
	n.trace.Show(n.number, state)
}

// labelOf says in words what a message is.
func labelOf(message any) sim.Label {
	switch m := message.(type) {
	case *VoteRequest:
		return sim.Label{Kind: voting(m.PreVote), Text: fmt.Sprintf("%s for term %d? my log ends with %d of term %d", voting(m.PreVote), m.Term, m.LastLogIndex, m.LastLogTerm)}
	case *VoteResponse:
		label := sim.Label{Kind: voting(m.PreVote), Answer: true, Refused: !m.VoteGranted, Text: fmt.Sprintf("%s granted in term %d", voting(m.PreVote), m.Term)}
		if label.Refused {
			label.Text = fmt.Sprintf("%s refused in term %d: %s", voting(m.PreVote), m.Term, refusals[m.Refusal])
		}
		return label
	case *Heartbeat:
		return sim.Label{Kind: "heartbeat", Text: fmt.Sprintf("heartbeat of term %d, commit %d", m.Term, m.Commit)}
	case *HeartbeatResponse:
		return sim.Label{Kind: "heartbeat", Answer: true, Text: fmt.Sprintf("heard, term %d", m.Term)}
	case *TimeoutNow:
		return sim.Label{Kind: "vote", Text: fmt.Sprintf("lead, after term %d", m.Term)}
	case *TimeoutNowResponse:
		return sim.Label{Kind: "vote", Answer: true, Refused: !m.Started, Text: fmt.Sprintf("asked to lead: started is %v, term %d", m.Started, m.Term)}
	case *AppendEntries:
		return sim.Label{Kind: "append", Text: fmt.Sprintf("append %s, after %d of term %d; term %d, commit %d", rangeOf(m.Entries), m.PrevLogIndex, m.PrevLogTerm, m.Term, m.LeaderCommit)}
	case *AppendResponse:
		if !m.Success {
			return sim.Label{Kind: "append", Answer: true, Refused: true, Text: fmt.Sprintf("no: what follows %d does not fit here, up to %d it may; term %d", m.PrevLogIndex, m.ConflictIndex, m.Term)}
		}
		return sim.Label{Kind: "append", Answer: true, Text: fmt.Sprintf("have up to %d, term %d", m.Match, m.Term)}
	case *InstallSnapshot:
		return sim.Label{Kind: "append", Text: fmt.Sprintf("snapshot of entry %d: bytes %d to %d of %d, term %d", m.LastIndex, m.Offset, m.Offset+uint64(len(m.Data)), m.Size, m.Term)}
	case *SnapshotResponse:
		if m.Match > 0 {
			return sim.Label{Kind: "append", Answer: true, Text: fmt.Sprintf("have up to %d, term %d", m.Match, m.Term)}
		}
		return sim.Label{Kind: "append", Answer: true, Text: fmt.Sprintf("of the snapshot byte %d is next, term %d", m.Next, m.Term)}
	case *ForwardRequest:
		if m.Kind == ForwardPropose {
			return sim.Label{Kind: "append", Text: fmt.Sprintf("propose %q", m.Payload)}
		}
		return sim.Label{Kind: "heartbeat", Text: "what is a read to see?"}
	case *ForwardResponse:
		return sim.Label{Kind: "append", Answer: true, Refused: m.Code != CodeOK, Text: fmt.Sprintf("of what was forwarded: entry %d, code %d %s", m.Index, m.Code, m.Message)}
	case error:
		return sim.Label{Kind: "error", Answer: true, Refused: true, Text: m.Error()}
	default:
		panic(fmt.Sprintf("no words for a %T", m))
	}
}

func voting(pre bool) string {
	if pre {
		return "pre-vote"
	}
	return "vote"
}

var refusals = map[VoteRefusal]string{
	RefusalNone: "no reason", RefusalStaleTerm: "a later term here", RefusalHasLeader: "there is a leader", RefusalVoted: "voted for another",
	RefusalLongerLog: "the log here is more up-to-date", RefusalRestarted: "just restarted", RefusalInstalling: "a snapshot is being installed",
}

func rangeOf(entries Entries) string {
	switch entries.Len() {
	case 0:
		return "nothing"
	case 1:
		return fmt.Sprint(entries.First())
	default:
		return fmt.Sprintf("%d-%d", entries.First(), entries.last())
	}
}

// tracedPage is the part of a page's data that the tests look at. Rows are as
// internal/sim writes them.
type tracedPage struct {
	Title                                 string
	Words                                 []string
	Messages, States, Faults, Cuts, Lines [][]int
}

// A life with a partition comes onto the page as the world has counted it, and is
// the life that it would have been without a recorder.
func TestSimulationIsShown(t *testing.T) {
	v := drawn(1)
	for newSimulation(v.seed, nil).settings.nodes < 5 || !slices.ContainsFunc(v.plan, func(f sim.Fault) bool { return f.Kind == sim.Split }) {
		v = drawn(v.seed + 1)
	}
	unseen, s := v.begin(), v.begin()
	require.NoError(t, unseen.live())
	s.record()
	require.NoError(t, s.live())
	require.Equal(t, unseen.world.Digest(), s.world.Digest())
	require.Equal(t, unseen.world.Events(), s.world.Events())
	require.Equal(t, unseen.world.Counts(), s.world.Counts())

	name := filepath.Join(t.TempDir(), "run.html")
	s.writePage(t, name, v, nil)
	page, err := os.ReadFile(name)
	require.NoError(t, err)
	_, data, _ := strings.Cut(string(page), `<script type="application/json" id="life">`)
	data, _, _ = strings.Cut(data, "</script>")
	var life tracedPage
	require.NoError(t, json.Unmarshal([]byte(data), &life))
	require.Equal(t, fmt.Sprint("seed ", v.seed), life.Title)

	counts, got := s.world.Counts(), map[string]int{}
	for _, m := range life.Messages {
		got[[]string{"under way", "arrived", "messages lost", "messages cut off", "with its stream"}[m[4]]]++
		if m[5]&4 > 0 {
			got["messages doubled"]++
		}
		got[life.Words[m[6]]]++
	}
	for _, l := range life.Lines {
		got[life.Words[l[3]]]++
	}
	for _, kind := range []string{"messages lost", "messages cut off", "messages doubled", "become leader", "start election", "grant vote"} {
		require.Equal(t, counts[kind], got[kind], kind)
	}
	for _, kind := range []string{"arrived", "messages cut off", "heartbeat", "append", "vote", "become leader"} {
		require.Positive(t, got[kind], kind)
	}
	require.Equal(t, counts["crashes"], got["crash"])
	require.Equal(t, counts["starts"], got["start"])
	planned := 0
	for _, f := range life.Faults {
		planned += int(min(1, f[0])) // those that keep a minority away have no numbers
	}
	require.Equal(t, len(v.plan), planned)
	require.NotEmpty(t, life.Cuts)

	leads := map[string]bool{}
	for _, state := range life.States {
		if life.Words[state[3]] == "leader" {
			leads[fmt.Sprint(state[1], state[4])] = true
		}
	}
	require.NotEmpty(t, leads)
	require.LessOrEqual(t, len(leads), counts["become leader"], "each leads a term of its own")
}
