package raft

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What went wrong in other implementations, and must not here: see
// testdata/scenarios.md. Most of these stories are told in testdata/scripts. Here is
// what takes many seeds, or what no script can say.

// E13: the election wait starts anew without a vote being granted, so that a
// stale candidate keeps good ones from campaigning.
func TestE13StaleCandidateDoesNotHoldUpTheOthers(t *testing.T) {
	for seed := range uint64(10) {
		r := newRig(t, "a b c")
		r.seed = seed
		r.startAt("b", at{log: "1 1 1 1", term: 2})
		r.startAt("c", at{log: "1", term: 2})
		end := r.now + 3*wait
		for r.core("b").role != Leader {
			require.Less(t, r.now, end, "seed %d\n%s", seed, r)
			r.pass(wait / 2)
			if r.core("b").role != Leader {
				term := r.core("c").currentTerm + 1
				r.ask("c", "b", &VoteRequest{Term: term, LastLogIndex: 1, LastLogTerm: 1, PreVote: true})
				r.ask("c", "b", &VoteRequest{Term: term, LastLogIndex: 1, LastLogTerm: 1})
			}
		}
	}
}

// E15: a leader is asked for votes all the time when heartbeats are as rare as
// elections. Such a configuration is refused.
func TestE15HeartbeatsAsRareAsElectionsAreRefused(t *testing.T) {
	config := NewConfig("a", "a", map[NodeID]string{"a": "a"})
	config.Storage = NewMemoryStorage()
	config.HeartbeatInterval, config.ElectionTimeout = wait, wait
	_, err := NewNode(config, &rigMachine{}, NewMemoryNetwork().Transport("a"))
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "ElectionTimeout")
}

// lateBy makes messages take a random time.
func (r *rig) lateBy(most time.Duration) {
	random := chance(r.seed)
	r.late = func() time.Duration { return time.Duration(random.Int64N(int64(most))) }
}

// P1a: of three nodes two cannot see each other, and elections never end.
func TestP1ThreeNodesWithOneLinkCutSettle(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		r := newCluster(t, "a b c")
		r.seed = seed
		r.elect("a")
		r.lateBy(beat / 2)
		term := r.core("a").currentTerm
		r.disconnect("a", "b")
		r.requireStable(term, 2)
	}
}

// P1b: of five nodes two see only one other each.
func TestP1FiveNodesInAChainSettle(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		r := newCluster(t, "a b c d e")
		r.seed = seed
		r.elect("c")
		r.lateBy(beat / 2)
		term := r.core("c").currentTerm
		for _, cut := range []string{"da", "dc", "de", "ea", "eb"} {
			r.disconnect(NodeID(cut[:1]), NodeID(cut[1:]))
		}
		r.requireStable(term, 2)
		require.Equal(t, NodeID("c"), r.leader())
		require.Equal(t, term, r.core("d").currentTerm)
		require.Equal(t, term, r.core("e").currentTerm)
	}
}

// requireStable requires one leader within bound, and the same one for 50
// election timeouts, whose writes succeed.
func (r *rig) requireStable(term Term, grows Term) {
	r.pass(10 * wait)
	leader := r.leader()
	require.NotEmpty(r.t, leader)
	for range 50 {
		o := r.propose(leader, "x")[0]
		r.pass(wait)
		require.NoError(r.t, o.err)
		require.True(r.t, o.ended)
		require.Equal(r.t, leader, r.leader(), "seed %d", r.seed)
	}
	require.LessOrEqual(r.t, r.core(leader).currentTerm, term+grows)
}

func (r *rig) rejections(id NodeID) int {
	n := 0
	for _, note := range r.nodes[id].notes {
		if note.action == "reject entries" {
			n++
		}
	}
	return n
}

func distinct(logs ...string) int {
	terms := map[string]bool{}
	for _, log := range logs {
		for _, term := range strings.Fields(log) {
			terms[term] = true
		}
	}
	return len(terms)
}

// L6: long conflicting tails are found in a few rounds, not one per entry.
func TestL6LongConflictTakesFewRounds(t *testing.T) {
	tail := func(terms ...string) string {
		var b strings.Builder
		b.WriteString("1")
		for _, term := range terms {
			b.WriteString(strings.Repeat(" "+term, 100))
		}
		return b.String()
	}
	for _, logs := range [][2]string{
		{tail("3"), tail("2")},
		{tail("3", "5", "7"), tail("2", "4", "6")},
		{tail("2", "4", "6", "8"), tail("2", "3", "5", "7", "7")},
	} {
		r := newRig(t, "a b c")
		r.startAt("a", at{log: logs[0], term: 8, commit: 1})
		r.startAt("b", at{log: logs[1], term: 8, commit: 1})
		r.crown("a")
		r.settle()
		require.Equal(t, logs[0]+" 9", r.terms("b"))
		require.LessOrEqual(t, r.rejections("b"), distinct(logs[0], logs[1])+2)
	}
}

// L12: whatever is not this node's in a header is refused.
func TestL12WrongHeadersAreRefused(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("c", at{log: "1 1", term: 2})
	heartbeat := &Heartbeat{Term: 9, Commit: 99}
	r.fillHeader("a", "b", heartbeat)
	var refusal error
	r.do("c", heartbeatArrived{heartbeat, func(_ any, err error) { refusal = err }})
	require.ErrorIs(t, refusal, ErrWrongNode)
	require.Equal(t, Term(2), r.core("c").currentTerm)
	require.Zero(t, r.core("c").commitIndex)
	require.Contains(t, r.reason("c"), "a is turned away: request for another node: ")

	r.fillHeader("a", "c", heartbeat)
	heartbeat.Fingerprint[0]++
	r.do("c", heartbeatArrived{heartbeat, func(_ any, err error) { refusal = err }})
	require.ErrorIs(t, refusal, ErrWrongCluster)
	heartbeat.Fingerprint[0]--
	heartbeat.Group = 1
	r.do("c", heartbeatArrived{heartbeat, func(_ any, err error) { refusal = err }})
	require.ErrorIs(t, refusal, ErrWrongCluster)

	for _, from := range []NodeID{"c", "", "."} {
		r.fillHeader(from, "c", heartbeat)
		r.do("c", heartbeatArrived{heartbeat, func(_ any, err error) { refusal = err }})
		require.ErrorIs(t, refusal, ErrWrongNode, "from %q", from)
	}
	require.Equal(t, uint64(6), r.node("c").driver.status(r.now).Refused)
	require.Equal(t, Term(2), r.core("c").currentTerm)
}

// C6: strangers that answer are counted.
func TestC6StrangersAreNotCounted(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	r.finishWrite("b")
	for _, stranger := range []NodeID{"x", "y", "z"} {
		r.do("b", appendAnswered{stranger, 3, &AppendResponse{Term: 3, Success: true, Match: 3, Incarnation: 7}})
		r.do("b", heartbeatAnswered{stranger, 3, &HeartbeatResponse{Term: 3, Incarnation: 7}, nil})
		r.do("b", voteAnswered{stranger, 3, false, &VoteResponse{Term: 3, VoteGranted: true, Incarnation: 7}, nil})
	}
	require.Zero(t, r.core("b").commitIndex)
	r.now += wait
	r.do("b", heartbeatAnswered{"x", 3, &HeartbeatResponse{Term: 3, Incarnation: 7}, nil})
	require.Equal(t, Follower, r.core("b").role, "its voters do not answer")
}

// W6: a leader that has lost what was committed is not followed into it.
func TestW6LeaderThatLostCommittedEntriesStopsTheFollower(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1 2", term: 2, commit: 3})
	// In one batch with what raises the term: the answer must not be lost in it.
	append := &AppendEntries{Term: 3, PrevLogIndex: 1, PrevLogTerm: 1, Entries: entry(2, 3)}
	r.fillHeader("a", "b", append)
	later := &AppendEntries{Term: 4, PrevLogIndex: 1, PrevLogTerm: 1}
	r.fillHeader("c", "b", later)
	var refusal error
	r.do("b",
		appendArrived{append, func(_ any, err error) { refusal = err }},
		appendArrived{later, func(any, error) {}})
	require.Error(t, refusal)
	require.False(t, r.up("b"))
	for _, words := range []string{"committed here", "leader a", "lost data"} {
		require.ErrorContains(t, r.node("b").failure, words)
	}
	require.Equal(t, "1 1 2", r.saved("b"))
}

// W6: an acknowledgement of what the leader itself does not have is no bug of this
// node, and does not make it one.
func TestW6AcknowledgementBeyondTheLogIsIgnored(t *testing.T) {
	r := leading(t, at{log: "1 1", term: 2})
	r.finishWrite("b")
	r.acknowledge("b", "a", 4)
	require.True(t, r.told("b", "ignore acknowledgement"))
	require.Zero(t, r.core("b").peer("a").match)
	require.Zero(t, r.core("b").commitIndex)
	r.acknowledge("b", "a", 3)
	require.Equal(t, Index(3), r.core("b").commitIndex)
}

// A node whose storage does not fit together does not start.
func TestW6StorageThatLostEntriesIsRefused(t *testing.T) {
	settings := coreSettings{id: "a", electionTimeout: wait}
	for _, state := range []StorageState{
		{HardState: HardState{Term: 2}, Commit: 3, Last: 2, Terms: []TermStart{{1, 1}}},
		{HardState: HardState{Term: 1}, Commit: 1, Last: 2, Terms: []TermStart{{1, 1}, {2, 2}}},
		{HardState: HardState{Term: 1}},
	} {
		_, err := newCore(settings, state, true, 1, 0)
		require.Error(t, err)
	}
}

// N10: entries of an old connection arrive after those of the new one.
func TestN10OldEntriesAfterNewOnes(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.hold("a", "b")
	for i := range 5 {
		r.propose("a", fmt.Sprint("old ", i))
	}
	old := r.remove(func(p *packet) bool { return p.link == link{"a", "b"} })
	r.release("a", "b")
	r.do("a", appendLost{"b", r.core("a").currentTerm, errors.New("connection reset")})
	r.pass(2 * beat)
	r.propose("a", "new")
	r.settle()
	r.requireEqual()
	for i := len(old) - 1; i >= 0; i-- {
		r.deliver(old[i])
		r.settle()
	}
	r.requireEqual()
	require.Len(t, r.commands, 6)
}

// F1: the leader stands still, again and again, for less or more than an election
// timeout, while clients write. It costs the leadership at most once each time, and
// nothing that was acknowledged.
func TestF1FrozenLeaderCostsAtMostOneElection(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		timeouts float64
		rounds   int
		changes  float64 // at most, per freeze
	}{{0.5, 100, 0}, {2, 100, 1.5}, {50, 5, 1.5}} {
		r := newCluster(t, "a b c")
		r.seed = uint64(c.rounds)
		r.elect("a")
		r.lateBy(beat / 10)
		acknowledged := map[string]*outcome{}
		write := func(id NodeID, command string) {
			o := r.propose(id, command)[0]
			acknowledged[command] = o
		}
		before := r.core(r.leader()).currentTerm
		for round := range c.rounds {
			old := r.leader()
			write(old, fmt.Sprint("before ", round))
			r.pass(beat / 20) // some of it is on its way
			r.nodes[old].frozen = true
			r.pass(time.Duration(c.timeouts * float64(wait)))
			if leader := r.leader(); !r.nodes[leader].frozen {
				write(leader, fmt.Sprint("meanwhile ", round))
			}
			r.nodes[old].frozen = false
			write(old, fmt.Sprint("after ", round)) // the first thing that it is asked
			r.passUntil(10*wait, "one leader", func() bool {
				return r.leader() != "" && r.core(r.leader()).commitIndex == r.core(r.leader()).log.last()
			})
		}
		elections := float64(r.core(r.leader()).currentTerm - before)
		require.LessOrEqual(t, elections, c.changes*float64(c.rounds), "frozen for %v timeouts", c.timeouts)
		r.requireHealthy()
		for command, o := range acknowledged {
			if o.ended && o.err == nil {
				require.Contains(t, r.commands, command)
			}
		}
	}
}

// F6: all nodes stand still at once and go on at once, so that all of them may
// campaign at the same moment. Terms grow by little, and there soon is a leader.
func TestF6CommonStallIsSoonOver(t *testing.T) {
	t.Parallel()
	const rounds = 50
	r := newCluster(t, "a b c d e")
	r.elect("a")
	r.lateBy(beat / 10)
	inTime := 0
	var growth []Term
	for range rounds {
		for _, id := range r.ids {
			r.nodes[id].frozen = true
		}
		before := r.core("a").currentTerm
		r.pass(3 * wait)
		for _, id := range r.ids {
			r.nodes[id].frozen = false
		}
		r.pass(5 * wait)
		if leader := r.leader(); leader != "" && r.core(leader).leader == leader {
			inTime++
		}
		r.passUntil(20*wait, "a leader", func() bool { return r.leader() != "" })
		r.pass(beat)
		growth = append(growth, r.core(r.leader()).currentTerm-before)
	}
	slices.Sort(growth)
	require.GreaterOrEqual(t, inTime, rounds*98/100)
	require.LessOrEqual(t, growth[rounds/2], Term(3), "%v", growth)
	r.requireHealthy()
}

// W4: with a term next to the last number there is, terms would begin anew. Requests and answers
// with one change nothing.
func TestW4TermsThatNoElectionComesToAreRefused(t *testing.T) {
	t.Parallel()
	for _, term := range []Term{maxTerm + 1, math.MaxUint64 - 1, math.MaxUint64} {
		r := newCluster(t, "a b c")
		r.elect("a")
		r.settle()
		was := r.core("a").currentTerm
		last := r.core("c").log.last()
		requests := []any{
			&VoteRequest{Term: term, LastLogIndex: 99, LastLogTerm: was, Transfer: true},
			&VoteRequest{Term: term, LastLogIndex: 99, LastLogTerm: was, PreVote: true},
			&Heartbeat{Term: term},
			&AppendEntries{Term: term, PrevLogIndex: last, PrevLogTerm: was},
			&InstallSnapshot{Term: term, LastIndex: 9, LastTerm: was, Size: 1, Data: []byte{1}},
		}
		for _, request := range requests {
			for _, to := range []NodeID{"a", "c"} {
				require.ErrorIs(t, r.ask("b", to, request).err, ErrInvalidMessage, "%T", request)
			}
		}
		require.False(t, answerOf[*TimeoutNowResponse](r, r.ask("a", "c", &TimeoutNow{Term: term})).Started)
		b := r.nodes["b"].incarnation
		for _, event := range []any{
			answered("b", &VoteRequest{Term: was}, &VoteResponse{Term: term, Incarnation: b}, nil),
			answered("b", &Heartbeat{Term: was}, &HeartbeatResponse{Term: term, Incarnation: b}, nil),
			answered("b", &AppendEntries{Term: was}, &AppendResponse{Term: term, Incarnation: b}, nil),
			answered("b", &InstallSnapshot{Term: was}, &SnapshotResponse{Term: term, Incarnation: b}, nil),
			answered("b", &TimeoutNow{Term: was}, &TimeoutNowResponse{Term: term, Incarnation: b}, nil),
		} {
			r.nodes["a"].advance([]any{event}, nil)
			require.Equal(t, Leader, r.core("a").role, "%T", event)
			require.True(t, r.core("a").peer("b").otherDisk, "%T: what is under way to it ends", event)
		}
		r.pass(3 * wait)
		for _, id := range r.ids {
			require.Equal(t, was, r.core(id).currentTerm)
		}
		require.False(t, r.core("a").peer("b").otherDisk, "it counts again")
		r.requireHealthy()
	}
}
