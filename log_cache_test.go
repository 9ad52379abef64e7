package raft

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Entries that are not in memory any more: who reads them, and what happens
// meanwhile.

// forgetful returns a rig in which a leads b and c, and nothing durable stays in
// memory.
func forgetful(t *testing.T) *rig {
	r := newRig(t, "a b c")
	r.cache = 1
	r.tune = func(s *coreSettings) { s.maxBatchBytes = 100 }
	for _, id := range r.ids {
		r.start(id)
	}
	r.elect("a")
	return r
}

func (r *rig) proposeMany(id NodeID, n int, what string) []*outcome {
	var outcomes []*outcome
	for i := range n {
		outcomes = append(outcomes, r.propose(id, fmt.Sprintf("%s %d", what, i))...)
		r.settle()
	}
	return outcomes
}

func requireSuccess(t *testing.T, outcomes []*outcome) {
	t.Helper()
	for _, o := range outcomes {
		require.True(t, o.ended)
		require.NoError(t, o.err)
	}
}

// A follower that lags is caught up from the storage, and while that takes its
// time the leader goes on, with commands and with heartbeats.
func TestSlowFollowerIsCaughtUpFromTheStorage(t *testing.T) {
	r := forgetful(t)
	r.isolate("c")
	r.node("a").unread = true
	requireSuccess(t, r.proposeMany("a", 40, "while c is away"))
	r.pass(10 * beat)
	require.Empty(t, r.node("a").reads, "nothing is read for who cannot be reached")
	r.heal()
	r.pass(5 * beat)
	require.Len(t, r.node("a").reads, 1, "one read for a follower at a time")
	behind := r.core("c").log.last()
	require.Less(t, behind, Index(10))
	for i := range 10 {
		requireSuccess(t, r.proposeMany("a", 1, fmt.Sprint("meanwhile ", i)))
		r.pass(wait)
		require.Equal(t, NodeID("a"), r.leader())
		require.Less(t, r.now-r.core("c").leaderContact, 2*beat, "heartbeats flow")
		require.Len(t, r.node("a").reads, 1)
	}
	require.Equal(t, behind, r.core("c").log.last())
	reads := 0
	r.watch = func(_ *rigNode, _ step, w work) { reads += len(w.reads) }
	r.node("a").unread = false
	r.pass(beat)
	require.Greater(t, reads, 5, "it takes several reads")
	r.requireEqual()
}

// A node that comes back with more than fits into memory applies all of it, in
// order: the rig compares.
func TestRestartedNodeAppliesWhatIsNotInMemory(t *testing.T) {
	r := forgetful(t)
	requireSuccess(t, r.proposeMany("a", 40, "x"))
	for _, id := range r.ids {
		r.crash(id)
	}
	for _, id := range r.ids {
		r.restart(id)
	}
	require.Equal(t, Index(1), r.node("b").task.first)
	require.Equal(t, r.core("b").commitIndex, r.node("b").task.last, "one task for all that is to be read")
	r.passUntil(5*wait, "a leader", func() bool { return r.leader() != "" })
	r.pass(wait)
	require.Len(t, r.node("b").machine.commands, 40)
	r.requireEqual()
}

// The bound holds whenever everything is durable.
func TestLogCacheIsBounded(t *testing.T) {
	r := newRig(t, "a b c")
	r.cache = 500
	most := 0
	r.watch = func(n *rigNode, _ step, _ work) {
		log := &n.driver.core.log
		most = max(most, log.cachedBytes)
		require.True(t, log.cachedBytes <= r.cache || log.runs[0].last() > log.durable, "%d bytes in memory", log.cachedBytes)
	}
	for _, id := range r.ids {
		r.start(id)
	}
	r.elect("a")
	requireSuccess(t, r.proposeMany("a", 50, "x"))
	require.Positive(t, r.core("a").log.cachedBytes, "what fits stays in memory")
	require.Greater(t, most, 400)
	r.requireEqual()
}

// What is not on disk cannot be read back: it stays in memory.
func TestOnlyDurableEntriesLeaveTheMemory(t *testing.T) {
	r := forgetful(t)
	durable := r.core("a").log.last()
	require.Equal(t, durable+1, r.core("a").log.cachedFrom())
	r.stall("a")
	requireSuccess(t, r.proposeMany("a", 10, "x")) // b and c have them on disk
	require.Equal(t, durable+1, r.core("a").log.cachedFrom())
	require.Equal(t, durable+10, r.core("a").log.last())
	r.resume("a")
	require.Equal(t, durable+11, r.core("a").log.cachedFrom())
	r.requireEqual()
}

// reader returns a rig in which the leader b has a read out for the puppet a,
// whose log agrees with b's in the first entry. None of b's log is in memory,
// but for its no-op, entry 6 of term 3.
func reader(t *testing.T) (*rig, read) {
	r := follower(t, at{log: "1 1 1 2 2", term: 2, cold: true})
	r.node("b").unread = true
	r.crown("b")
	r.finishWrite("b")
	r.take("b", "a")
	r.take("b", "c")
	r.reject("b", "a", 5, 1, 1)
	probe := mail[*AppendEntries](r, "b", "a")
	require.Len(t, probe, 1)
	require.Zero(t, probe[0].Entries.Len(), "nothing is read for a probe")
	require.Equal(t, Index(1), probe[0].PrevLogIndex)
	r.acknowledge("b", "a", 1)
	require.Empty(t, mail[*AppendEntries](r, "b", "a"))
	require.Equal(t, []read{{"a", 3, 2, 5, 1 << 20}}, r.node("b").reads)
	return r, r.node("b").reads[0]
}

func TestWhatWasReadIsSent(t *testing.T) {
	r, _ := reader(t)
	r.propose("b", "x")
	require.Empty(t, mail[*AppendEntries](r, "b", "a"), "entries keep their order")
	r.read("b")
	sent := mail[*AppendEntries](r, "b", "a")
	require.Len(t, sent, 2)
	require.Equal(t, Index(1), sent[0].PrevLogIndex)
	require.Equal(t, Term(1), sent[0].PrevLogTerm)
	require.Equal(t, "1 1 2 2", termsOf(sent[0].Entries))
	require.Equal(t, Index(5), sent[1].PrevLogIndex)
	require.Equal(t, "3 3", termsOf(sent[1].Entries), "what is in memory follows at once")
	require.Equal(t, Index(8), r.core("b").peer("a").next)
	require.Equal(t, sent[0].Entries.Size()+sent[1].Entries.Size(), r.core("b").peer("a").bytes)
}

// A read that ends when things have changed is of no use, and does no harm.
func TestStaleReadIsIgnored(t *testing.T) {
	t.Run("another place", func(t *testing.T) {
		r, _ := reader(t)
		r.do("b", appendLost{"a", 3, nil})
		r.read("b")
		require.Empty(t, mail[*AppendEntries](r, "b", "a"), "it is probed anew, after a pause")
		r.now += beat
		r.do("b")
		require.Len(t, mail[*AppendEntries](r, "b", "a"), 1)
		r.acknowledge("b", "a", 3)
		require.Len(t, r.node("b").reads, 1)
		require.Equal(t, Index(4), r.node("b").reads[0].first)
		r.acknowledge("b", "a", 4) // from an answer that was under way
		r.read("b")
		require.Empty(t, mail[*AppendEntries](r, "b", "a"))
		require.Equal(t, Index(5), r.node("b").reads[0].first, "and read again from where it stands")
		r.read("b")
		require.Equal(t, "2", termsOf(mail[*AppendEntries](r, "b", "a")[0].Entries))
	})
	t.Run("another term", func(t *testing.T) {
		r, old := reader(t)
		require.True(t, r.askHeartbeat("c", "b", Heartbeat{Term: 4}).Term == 4)
		r.now += 2 * wait
		r.crown("b")
		require.Equal(t, Term(5), r.core("b").currentTerm)
		r.take("b", "a")
		r.reject("b", "a", 6, 1, 1)
		r.take("b", "a")
		r.acknowledge("b", "a", 1)
		require.Len(t, r.node("b").reads, 2)
		entries, err := r.node("b").Entries(old.first, old.last, old.maxBytes)
		require.NoError(t, err)
		for _, event := range []entriesRead{{old, entries, nil}, {old, Entries{}, errors.New("of another log")}} {
			r.do("b", event)
			require.Empty(t, mail[*AppendEntries](r, "b", "a"))
			require.True(t, r.core("b").peer("a").reading)
			require.True(t, r.up("b"))
		}
	})
	t.Run("another disk", func(t *testing.T) {
		r, _ := reader(t)
		r.do("b", heartbeatAnswered{"a", 3, &HeartbeatResponse{Term: 3, Incarnation: 0xbad}, nil})
		r.read("b")
		require.Empty(t, mail[*AppendEntries](r, "b", "a"))
	})
}

// What is being read may be replaced, by the leader of a later term: then the
// storage may have other entries, or none, where the read looks.
func TestLogIsTruncatedWhileAReadIsOut(t *testing.T) {
	for _, late := range []bool{false, true} {
		r, _ := reader(t)
		if late {
			r.askAppend("c", "b", AppendEntries{Term: 4, PrevLogIndex: 1, PrevLogTerm: 1, Entries: entry(2, 4)})
			require.Equal(t, "1 4", r.saved("b"))
		} else {
			r.stall("b")
			r.ask("c", "b", &AppendEntries{Term: 4, PrevLogIndex: 1, PrevLogTerm: 1, Entries: entry(2, 4)})
		}
		r.read("b")
		require.True(t, r.up("b"))
		require.Empty(t, mail[*AppendEntries](r, "b", "a"))
		r.resume("b")
		require.Equal(t, "1 4", r.terms("b"))
	}
}

var errReadInRig = errors.New("input/output error")

// L8, an error: the node stops, with what it could not do, and nothing
// malformed leaves.
func TestL8FailedReadStopsTheLeader(t *testing.T) {
	other := entry(2, 1)
	for words, result := range map[string]entriesRead{
		"input/output error":    {err: errReadInRig},
		"nothing was read":      {},
		"entries 3 to 3":        {entries: entry(3, 1)},
		"of term 2":             {entries: entry(2, 2)},
		"entries 3 to 3 of ter": {entries: Entries{append(other.runs, entry(3, 2).runs...)}},
		"entries 4 to 4 of ter": {entries: Entries{append(other.runs, entry(4, 2).runs...)}},
		"entries 6 to 6":        {entries: r6(t)},
	} {
		r, out := reader(t)
		result.read = out
		r.do("b", result)
		require.False(t, r.up("b"), words)
		require.ErrorContains(t, r.node("b").failure, "node b cannot read entries 2 to 5 of its log: ")
		require.ErrorContains(t, r.node("b").failure, words)
		require.Empty(t, mail[*AppendEntries](r, "b", "a"))
	}
	r, _ := reader(t)
	r.node("b").readErr = errReadInRig
	r.read("b")
	require.ErrorIs(t, r.node("b").failure, errReadInRig)
}

// r6 returns more of the log of reader than was asked for.
func r6(t *testing.T) Entries {
	r := newRig(t, "a b c")
	return Entries{append(r.tail("1 1 1 2 2", 2).runs, entry(6, 3).runs...)}
}

// An applier that cannot read stops the node, too.
func TestFailedReadOfTheApplierStopsTheNode(t *testing.T) {
	for words, change := range map[string]func(n *rigNode){
		"input/output error": func(n *rigNode) { n.readErr = errReadInRig },
		"of term 1": func(n *rigNode) {
			memory := n.storage.(*MemoryStorage)
			memory.runs = append(Entries{memory.runs}.upTo(1).runs, entry(2, 1).runs...)
		},
		"compacted": func(n *rigNode) { require.NoError(t, n.storage.Save(SaveBatch{Compacted: EntryID{2, 2}})) },
	} {
		r := newRig(t, "a b c")
		r.startAt("b", at{log: "1 2 2", term: 2, commit: 2, cold: true})
		change(r.node("b"))
		r.apply("b")
		require.False(t, r.up("b"))
		require.ErrorContains(t, r.node("b").failure, "of the log cannot be read to apply them")
		require.ErrorContains(t, r.node("b").failure, words)
	}
}

// A log may be compacted while a read is out. That stops nobody, nor is the
// storage asked over and over.
func TestReadOfWhatIsCompactedIsTriedAgainLater(t *testing.T) {
	r, _ := reader(t)
	r.node("b").readErr = fmt.Errorf("%w: gone", ErrCompacted)
	r.read("b")
	require.True(t, r.up("b"))
	require.Empty(t, r.node("b").reads)
	require.Contains(t, r.node("b").driver.status(r.now).Peers[0].Trouble, "compacted: gone")
	r.now += beat
	r.do("b")
	require.Len(t, r.node("b").reads, 1)
	r.node("b").readErr = nil
	r.read("b")
	require.Len(t, mail[*AppendEntries](r, "b", "a"), 1+1, "what was read, and the no-op")
}

// A storage whose log was compacted, and whose log ends there.
func TestLogOfNothingButWhatIsCompacted(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1 2", term: 2, commit: 3, compacted: 3})
	status := r.node("b").driver.status(r.now)
	require.Zero(t, status.FirstIndex)
	require.Equal(t, Index(3), status.LastIndex)
	require.True(t, r.askVote("a", "b", VoteRequest{Term: 3, LastLogIndex: 3, LastLogTerm: 2}).VoteGranted)
	require.True(t, r.askAppend("a", "b", AppendEntries{Term: 3, PrevLogIndex: 3, PrevLogTerm: 2, Entries: entry(4, 3), LeaderCommit: 4}).Success)
	r.settle()
	require.Equal(t, []string{"2@1", "3@2", "4@3"}, r.node("b").machine.commands)
	require.Equal(t, Index(4), r.node("b").driver.status(r.now).FirstIndex)
}

// F5: what leaves the cache is free, whatever the sizes.
func TestF5EvictedEntriesAreFree(t *testing.T) {
	const bound, total = 1 << 20, 64 << 20
	for _, size := range []int{100, 10_000, 3 << 20} {
		var l raftLog
		given := Entries{}
		before := HeapBytes()
		for written := 0; written < total; written += size {
			l.appendRun(run{term: 1, first: l.last() + 1, count: 1, body: appendEntry(nil, EntryCommand, make([]byte, size))})
			if l.last() == 1 {
				given = l.from(1, 1)
			}
			l.hand()
			l.written()
			l.evict(bound, l.last())
		}
		require.LessOrEqual(t, HeapBytes()-before, 4*bound, "of %d bytes in entries of %d", total, size)
		require.Equal(t, 1, given.Len())
		runtime.KeepAlive(&l)
	}
}

// F5: what is not applied yet is not read back but for a state machine that is far
// behind.
func TestF5UnappliedEntriesStayForAWhile(t *testing.T) {
	const bound, size = 1 << 10, 100
	var l raftLog
	for l.cachedBytes <= unappliedCaches*bound-size {
		l.appendRun(run{term: 1, first: l.last() + 1, count: 1, body: appendEntry(nil, EntryCommand, make([]byte, size))})
		l.hand()
		l.written()
		l.evict(bound, 3)
		require.True(t, l.cachedBytes <= bound || l.cachedFrom() <= 4, "from %d on", l.cachedFrom())
	}
	require.Equal(t, Index(4), l.cachedFrom())
	for range 100 {
		l.appendRun(run{term: 1, first: l.last() + 1, count: 1, body: appendEntry(nil, EntryCommand, make([]byte, size))})
		l.hand()
		l.written()
		l.evict(bound, 3)
		require.Less(t, l.cachedBytes, (unappliedCaches+1)*bound)
	}
	l.evict(bound, l.last())
	require.LessOrEqual(t, l.cachedBytes, bound)
}

// What does not fit together is refused, whatever a storage says.
func TestStorageStateIsChecked(t *testing.T) {
	good := StorageState{HardState: HardState{Term: 3}, Commit: 5, Compacted: EntryID{4, 2}, Last: 7, Terms: []TermStart{{5, 2}, {6, 3}}}
	require.NoError(t, good.check())
	require.NoError(t, StorageState{}.check())
	require.NoError(t, StorageState{HardState: HardState{Term: 3}, Commit: 4, Compacted: EntryID{4, 2}, Last: 4}.check())
	for name, change := range map[string]func(s *StorageState){
		"commit index beyond the log":      func(s *StorageState) { s.Commit = 8 },
		"commit index before the log":      func(s *StorageState) { s.Commit = 3 },
		"log of a later term":              func(s *StorageState) { s.HardState.Term = 2 },
		"no terms":                         func(s *StorageState) { s.Terms = nil },
		"terms that start late":            func(s *StorageState) { s.Terms[0].First = 6; s.Terms[1].First = 7 },
		"terms that start early":           func(s *StorageState) { s.Terms[0].First = 4 },
		"a term twice":                     func(s *StorageState) { s.Terms[1].Term = 2 },
		"a term that falls":                func(s *StorageState) { s.Terms[0].Term = 1 },
		"two terms at one index":           func(s *StorageState) { s.Terms[1].First = 5 },
		"a term behind the end":            func(s *StorageState) { s.Terms[1].First = 8 },
		"an end before what was compacted": func(s *StorageState) { s.Last, s.Commit, s.Terms = 3, 3, nil },
	} {
		state := good
		state.Terms = []TermStart{{5, 2}, {6, 3}}
		change(&state)
		require.Error(t, state.check(), name)
	}
}

// Entries that are applied before they are durable here come from memory.
func TestEntriesAreAppliedBeforeTheyAreDurable(t *testing.T) {
	r := forgetful(t)
	r.stall("a")
	r.node("a").readErr = errReadInRig
	o := r.propose("a", strings.Repeat("x", 200))
	r.settle()
	requireSuccess(t, o)
	require.Less(t, r.core("a").log.durable, r.core("a").log.last())
}
