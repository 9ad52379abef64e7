package raft

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// The rules about snapshots and compaction, one by one.

// sender returns a cluster in which b leads, with a snapshot of entry 10 and a log from
// 11 on, and sends that to a, which speaks through the test.
func sending(t *testing.T) *rig {
	r := newRig(t, "a b c")
	r.tune = func(c *coreSettings) { c.chunkBytes = 100 }
	r.startAt("b", at{log: "1 1 1 1 1 1 1 1 1 1 1 1", term: 1, commit: 12, compacted: 10})
	r.settle()
	r.crown("b")
	r.reject("b", "a", 12, 3, 1)
	r.settle()
	return r
}

// chunk returns the chunk that is under way to a.
func (r *rig) chunk() *InstallSnapshot {
	r.settle()
	chunks := mail[*InstallSnapshot](r, "b", "a")
	require.Len(r.t, chunks, 1, "one chunk at a time")
	return chunks[0]
}

func (r *rig) answerChunk(m *InstallSnapshot, response SnapshotResponse) {
	response.Term, response.Incarnation = m.Term, r.node("a").incarnation
	r.do("b", snapshotAnswered{"a", m.Term, EntryID{m.LastIndex, m.LastTerm}, &response, nil})
	r.settle()
}

// Whatever a follower answers, a leader goes on with something that makes sense.
func TestAnswersToChunks(t *testing.T) {
	for name, test := range map[string]struct {
		response SnapshotResponse
		offset   uint64 // of the next chunk; -: none
	}{
		"the next one":         {SnapshotResponse{Next: 100}, 100},
		"in the middle":        {SnapshotResponse{Next: 37}, 37},
		"from the start":       {SnapshotResponse{}, 0},
		"behind the end":       {SnapshotResponse{Next: math.MaxUint64}, 0},
		"all, but not applied": {SnapshotResponse{Next: math.MaxInt64}, 0},
		"the log of nobody":    {SnapshotResponse{Next: 100, Match: 1000}, 100},
		"less than is kept":    {SnapshotResponse{Next: 100, Match: 9}, 100},
	} {
		r := sending(t)
		first := r.chunk()
		require.Zero(t, first.Offset)
		if name == "all, but not applied" {
			test.response.Next = first.Size
		}
		r.answerChunk(first, test.response)
		require.True(t, r.up("b"), name)
		require.Equal(t, test.offset, r.chunk().Offset, name)
	}
	for name, response := range map[string]SnapshotResponse{
		"the snapshot": {Match: 10, Next: 300}, "what the log starts with": {Match: 10}, "more": {Match: 12, Next: 1},
	} {
		r := sending(t)
		r.answerChunk(r.chunk(), response)
		require.Empty(t, mail[*InstallSnapshot](r, "b", "a"), name)
		require.Nil(t, r.core("b").peer("a").transfer, name)
		entries := mail[*AppendEntries](r, "b", "a")
		require.Equal(t, response.Match, entries[len(entries)-1].PrevLogIndex, name)
	}
}

// An answer that belongs to another leadership, or to another snapshot, says nothing.
func TestStaleAnswersToChunks(t *testing.T) {
	r := sending(t)
	first := r.chunk()
	stale := &SnapshotResponse{Term: first.Term, Match: 12, Incarnation: r.node("a").incarnation}
	r.do("b", snapshotAnswered{"a", first.Term - 1, EntryID{first.LastIndex, first.LastTerm}, stale, nil})
	r.do("b", snapshotAnswered{"a", first.Term, EntryID{first.LastIndex - 1, first.LastTerm}, stale, nil})
	r.do("b", snapshotAnswered{"c", first.Term, EntryID{first.LastIndex, first.LastTerm}, stale, nil})
	r.settle()
	require.Zero(t, r.core("b").peer("a").match)
	require.True(t, r.core("b").peer("a").transfer.busy, "its answer is still waited for")
	r.answerChunk(first, SnapshotResponse{Next: 100})
	require.EqualValues(t, 100, r.chunk().Offset)

	r.do("b", snapshotAnswered{"a", first.Term, EntryID{first.LastIndex, first.LastTerm}, &SnapshotResponse{Term: 9, Incarnation: r.node("a").incarnation}, nil})
	require.Equal(t, Follower, r.core("b").role, "a later term ends the leadership")
	require.Equal(t, Term(9), r.core("b").currentTerm)
}

// Chunks that cannot be are refused before anybody looks at them.
func TestChunksThatCannotBe(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1", term: 2})
	good := r.snapshotOf(2, r.log("1 1 1 2"))
	for name, change := range map[string]func(*InstallSnapshot){
		"no term":                     func(m *InstallSnapshot) { m.Term = 0 },
		"no index":                    func(m *InstallSnapshot) { m.LastIndex = 0 },
		"no last term":                func(m *InstallSnapshot) { m.LastTerm = 0 },
		"of a term to come":           func(m *InstallSnapshot) { m.LastTerm = 3 },
		"no size":                     func(m *InstallSnapshot) { m.Size = 0 },
		"more than there is":          func(m *InstallSnapshot) { m.Size-- },
		"behind the end":              func(m *InstallSnapshot) { m.Offset = m.Size },
		"so far behind that it wraps": func(m *InstallSnapshot) { m.Offset = math.MaxUint64 - 5 },
	} {
		m := *good
		change(&m)
		answer := r.ask("a", "b", &m)
		r.settle()
		require.True(t, answer.done, name)
		require.ErrorIs(t, answer.err, ErrInvalidMessage, name)
		require.Empty(t, r.node("b").held())
		require.Nil(t, r.core("b").incoming)
	}
	for name, change := range map[string]func(*InstallSnapshot){
		"too small for a file":  func(m *InstallSnapshot) { m.Size, m.Data = 10, nil },
		"too large for anybody": func(m *InstallSnapshot) { m.Size, m.Data = math.MaxUint64, nil },
	} {
		m := *good
		change(&m)
		answer := r.ask("a", "b", &m)
		r.settle()
		require.True(t, answer.done, name)
		require.Error(t, answer.err, name)
		require.True(t, r.up("b"), name)
	}
	require.EqualValues(t, 4, r.askSnapshot("a", "b", good).Match)
}

// L8: a snapshot that cannot be read stops the leader, and nothing leaves.
func TestL8NothingLeavesThatCouldNotBeRead(t *testing.T) {
	r := sending(t)
	mail[*InstallSnapshot](r, "b", "a")
	p := r.core("b").peer("a")
	r.do("b", snapshotAnswered{from: "a", term: r.core("b").currentTerm, id: p.transfer.id, err: errReadInRig})
	r.node("b").snapshots.slow = true
	r.now += beat
	r.do("b")
	require.Len(t, r.node("b").snapshots.reads, 1)
	r.do("b", chunkRead{snapshotRead: r.node("b").snapshots.reads[0], err: errReadInRig})
	require.False(t, r.up("b"))
	require.ErrorIs(t, r.node("b").failure, errReadInRig)
	require.ErrorContains(t, r.node("b").failure, "raft: node b cannot read its snapshot of entry 10: ")
	require.Empty(t, mail[*InstallSnapshot](r, "b", "a"))
}

// The snapshot that a chunk is read from may have been replaced by then: it begins anew
// with the newer one.
func TestSnapshotThatIsGoneIsReplaced(t *testing.T) {
	r := sending(t)
	mail[*InstallSnapshot](r, "b", "a")
	r.acknowledge("b", "c", 13)
	r.settle()
	require.Equal(t, Index(13), r.takeSnapshot("b"))
	p := r.core("b").peer("a")
	r.do("b", snapshotAnswered{from: "a", term: r.core("b").currentTerm, id: p.transfer.id, response: &SnapshotResponse{Term: r.core("b").currentTerm, Next: 100, Incarnation: r.node("a").incarnation}})
	require.Equal(t, Index(10), r.chunk().LastIndex, "it goes on: both are there")
	r.do("b", chunkRead{snapshotRead: snapshotRead{peer: "a", term: r.core("b").currentTerm, id: p.transfer.id}, err: errReadInRig})
	require.True(t, r.up("b"))
	require.Equal(t, Index(13), r.chunk().LastIndex)
}

// A file that is not sent any more is closed: else its space would not come back as
// long as this node leads.
func TestFileThatIsNotSentAnyMoreIsClosed(t *testing.T) {
	for name, end := range map[string]func(r *rig, first *InstallSnapshot){
		"it has another one": func(r *rig, first *InstallSnapshot) { r.answerChunk(first, SnapshotResponse{Match: 12}) },
		"it went away": func(r *rig, first *InstallSnapshot) {
			r.answerChunk(first, SnapshotResponse{Next: 100})
			r.do("b", snapshotAnswered{from: "a", term: first.Term, id: EntryID{10, 1}, err: errReadInRig})
			r.acknowledge("b", "c", 13)
			r.now += wait
			r.acknowledge("b", "c", 13)
			r.settle()
			require.Equal(r.t, Index(13), r.takeSnapshot("b"))
			r.now += beat
			r.do("b")
		},
		"the read was late": func(r *rig, first *InstallSnapshot) {
			r.node("b").snapshots.slow = true
			r.answerChunk(first, SnapshotResponse{Next: 100})
			r.acknowledge("b", "a", 12)
			require.Len(r.t, r.node("b").snapshots.reads, 1)
			r.node("b").snapshots.slow = false
			r.settle()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := sending(t)
			first := r.chunk()
			require.Len(t, r.node("b").Snapshots().sending, 1)
			end(r, first)
			require.Nil(t, r.core("b").peer("a").transfer)
			require.Empty(t, r.node("b").Snapshots().sending)
		})
	}
}

// D17: a file that rots while it is sent is looked at again once its receiver has found
// that out. Else the same bytes would be sent for ever.
func TestD17SnapshotRotsWhileItIsSent(t *testing.T) {
	r := sending(t)
	first := r.chunk()
	disk := r.node("b").Snapshots().fs.(*vfs.Memory)
	for name := range disk.Files() {
		require.NoError(t, disk.Corrupt(name, 150, 1))
	}
	r.answerChunk(first, SnapshotResponse{Next: 100})
	rotten := r.chunk()
	receiver := snapshotReceiver{store: NewMemorySnapshotStore()}
	require.NoError(t, receiver.store.open(r.fingerprint))
	require.NoError(t, receiver.take(snapshotArrived{request: first}).err)
	stored := receiver.take(snapshotArrived{request: rotten})
	require.ErrorIs(t, stored.err, ErrInvalidMessage)
	require.Equal(t, CodeInvalidMessage, CodeOf(stored.err), "the leader learns that")
	r.do("b", snapshotAnswered{from: "a", term: first.Term, id: EntryID{10, 1}, err: &RemoteError{Peer: "a", Code: CodeOf(stored.err)}})
	r.pass(2 * beat)
	require.False(t, r.up("b"))
	require.ErrorIs(t, r.node("b").failure, ErrCorrupt)
}

// A chunk of what there is already is answered with the newest snapshot that can be
// used: a newer one that is damaged, and could not be removed, says nothing.
func TestDamagedSnapshotDoesNotAnswerForAnother(t *testing.T) {
	r := newRig(t, "a b c")
	terms := strings.TrimSpace(strings.Repeat("1 ", 20))
	store := NewMemorySnapshotStore()
	store.options = r.fileOptions()
	r.writeSnapshot(store, r.log(terms).upTo(10))
	r.writeSnapshot(store, r.log(terms))
	disk := store.fs.(*vfs.Memory)
	require.NoError(t, disk.Corrupt(slices.Max(sortedKeys(disk.Files())), 100, 1))
	require.ErrorIs(t, diskError(store.files.Verify(t.Context(), EntryID{20, 1}.file())), ErrCorrupt)
	receiver := snapshotReceiver{store: store}
	stored := receiver.take(snapshotArrived{request: r.snapshotOf(1, r.log(terms).upTo(10))})
	require.NoError(t, stored.err)
	require.Equal(t, EntryID{10, 1}, stored.complete.EntryID)
}

// A read of an earlier leadership neither closes nor replaces the file that is being
// sent, and nothing stays open behind the end.
func TestReadsOfTwoLeaderships(t *testing.T) {
	r := newRig(t, "a")
	store := NewMemorySnapshotStore()
	store.options = r.fileOptions()
	terms := strings.TrimSpace(strings.Repeat("1 ", 30))
	r.writeSnapshot(store, r.log(terms).upTo(10))
	r.writeSnapshot(store, r.log(terms).upTo(20))
	older, newer := snapshotRead{peer: "b", id: EntryID{10, 1}, bytes: 100}, snapshotRead{peer: "b", id: EntryID{20, 1}, bytes: 100}
	late, err := store.take(t.Context(), older)
	require.NoError(t, err)
	require.NoError(t, store.read(t.Context(), newer).err)
	open := store.sending["b"]
	require.NotNil(t, open)
	store.keep("b", late, true)
	require.Same(t, open, store.sending["b"])
	_, err = late.ReadAt(make([]byte, 1), 0)
	require.Error(t, err, "it is closed")

	r.writeSnapshot(store, r.log(terms)) // the oldest one is gone, and what is sent is not
	require.ErrorContains(t, store.read(t.Context(), older).err, "snapshot at entry 10")
	newer.offset = 100
	chunk := store.read(t.Context(), newer)
	require.NoError(t, chunk.err)
	for newer.offset < chunk.size {
		chunk = store.read(t.Context(), newer)
		require.NoError(t, chunk.err)
		newer.offset += uint64(len(chunk.data))
	}
	require.Empty(t, store.sending)
	require.NoError(t, store.close())
}

// overtaken returns a node that led, with a proposal that its state machine has not done
// and two more behind it, all committed, when a snapshot took the place of its log.
func overtaken(t *testing.T, cache int) (r *rig, first, others []*outcome) {
	r = newRig(t, "a b c")
	r.cache = cache
	for _, id := range r.ids {
		r.start(id)
	}
	r.elect("b")
	r.node("b").slow = true
	first = r.propose("b", "x")
	r.settle()
	require.NotNil(t, r.node("b").task)
	others = r.propose("b", "y", "z")
	r.settle()
	require.Equal(t, Index(5), r.core("b").commitIndex)
	r.isolate("b")
	r.elect("a")
	r.propose("a", "later", "latest")
	r.settle()
	r.pass(2 * wait) // nothing is kept for b any more
	index := r.takeSnapshot("a")
	r.settle()
	require.Greater(t, r.core("a").log.firstKept(), Index(6))
	r.heal()
	r.pass(4 * beat)
	require.Equal(t, index, r.core("b").snapshot.Index)
	return r, first, others
}

// Who waits for an entry whose place a snapshot has taken is told that the outcome is
// unknown. What the state machine has in hands it may still do.
func TestWaitsForWhatASnapshotHasReplaced(t *testing.T) {
	for name, cache := range map[string]int{"entries in memory": 1 << 20, "entries on disk": 1} {
		t.Run(name, func(t *testing.T) {
			r, first, others := overtaken(t, cache)
			for _, o := range others {
				require.True(t, o.ended)
				unknown, ok := o.err.(*OutcomeUnknownError)
				require.True(t, ok, "%v", o.err)
				require.Equal(t, errOvertaken, unknown.Cause)
			}
			require.False(t, first[0].ended)
			r.node("b").slow = false
			r.pass(beat)
			require.True(t, first[0].ended)
			if cache == 1 {
				require.ErrorIs(t, first[0].err, errOvertaken)
			} else {
				require.NoError(t, first[0].err)
			}
			require.Equal(t, 1, r.node("b").machine.restores)
			r.requireHealthy()
		})
	}
}

// A snapshot that newer ones have replaced before the state machine could restore it is
// not needed: the log is there, or a newer one.
func TestRestoreOfASnapshotThatIsGone(t *testing.T) {
	terms := strings.TrimSpace(strings.Repeat("1 ", 30))
	r := newRig(t, "a b c")
	r.node("b").slow = true
	r.startAt("b", at{log: terms, term: 1, commit: 30, snapshot: 10})
	r.settle()
	require.Equal(t, EntryID{10, 1}, r.node("b").task.restore)
	for _, index := range []Index{20, 25} {
		written := r.node("b").Snapshots().write(t.Context(), snapshotJob{metadata: SnapshotMetadata{EntryID: EntryID{index, 1}}, view: stateView(nil)})
		require.NoError(t, written.err)
	}
	r.node("b").slow = false
	r.settle()
	require.True(t, r.up("b"))
	r.requireApplied("b", terms)
	require.Zero(t, r.node("b").machine.restores)
}

// Who waits for entries that a snapshot covers, and the log still has, learns nothing of
// them from a state machine that restores it.
func TestWaitsForWhatIsRestored(t *testing.T) {
	r := newRig(t, "a b c")
	r.node("b").slow = true
	r.startAt("b", at{log: strings.TrimSpace(strings.Repeat("1 ", 30)), term: 1, commit: 30, snapshot: 20})
	r.settle()
	require.Equal(t, EntryID{20, 1}, r.node("b").task.restore)
	var outcomes []error
	wait := proposal{done: func(_ Result, err error) { outcomes = append(outcomes, err) }}
	r.node("b").driver.waiting = []waitingRun{{19, 1, []proposal{wait, wait, wait}}}
	r.node("b").slow = false
	r.settle()
	require.Len(t, outcomes, 3)
	for _, err := range outcomes[:2] {
		require.ErrorIs(t, err, errOvertaken)
		require.ErrorIs(t, err, ErrOutcomeUnknown)
	}
	require.NoError(t, outcomes[2])
}

// Entries that come by the log while the last part of a snapshot is being stored are
// applied, and not passed over: somebody may wait for what they lead to.
func TestLogIsFasterThanTheSnapshot(t *testing.T) {
	const terms = "1 1 1 1 1 1 1 1 1 1"
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1", term: 2, commit: 2})
	r.settle()
	require.Equal(t, Index(2), r.node("b").driver.applied)
	r.node("b").snapshots.slow = true
	part := r.ask("a", "b", r.snapshotOf(2, r.log(terms)))
	r.ask("a", "b", &AppendEntries{Term: 2, PrevLogIndex: 2, PrevLogTerm: 1, Entries: r.log(terms).from(3, math.MaxInt), LeaderCommit: 2})
	r.node("b").snapshots.slow = false
	r.settle()
	require.True(t, part.done)
	require.Equal(t, EntryID{10, 1}, r.core("b").snapshot)
	r.requireApplied("b", terms)
	require.Zero(t, r.node("b").machine.restores)
}

// A snapshot never covers what is not on this node's own disk: that of a leader may be
// behind what is committed and applied.
func TestSnapshotWaitsForTheDisk(t *testing.T) {
	r := newCluster(t, "a b c")
	r.elect("a")
	r.stall("a")
	r.propose("a", "x", "y")
	r.settle()
	require.Greater(t, r.node("a").driver.applied, r.core("a").log.durable)
	taken := Index(0)
	r.wantSnapshot("a", func(index Index, err error) {
		require.NoError(t, err)
		taken = index
	})
	r.settle()
	require.Zero(t, taken)
	require.Empty(t, r.node("a").held())
	r.resume("a")
	require.Equal(t, Index(4), taken)
	require.Equal(t, []EntryID{{4, 2}}, r.node("a").held())
}

// The members as of its last entry come with a snapshot, and go on into the next one.
func TestMembersComeWithASnapshot(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("b", at{log: "1 1 1 1 1", term: 2, commit: 3})
	entries := r.log("1 1 1 2 2 2 2 2")
	members := slices.Clone(r.core("b").configuration.members)
	members[2].Address = "elsewhere:1"
	moved := ConfigurationEntry{7, configuration{members: members}.encode()}
	store := NewMemorySnapshotStore()
	require.NoError(t, store.open(r.fingerprint))
	written := store.write(t.Context(), snapshotJob{SnapshotMetadata{EntryID: EntryID{8, 2}, Configuration: moved}, stateView(stateAfter(entries))})
	require.NoError(t, written.err)
	chunk := store.read(t.Context(), snapshotRead{id: EntryID{8, 2}, bytes: math.MaxInt32})
	require.NoError(t, chunk.err)
	m := r.snapshotOf(2, entries)
	m.Transfer, m.Size, m.Data = chunk.number, chunk.size, chunk.data

	require.Equal(t, Index(8), r.askSnapshot("a", "b", m).Match)
	r.restart("b")
	r.settle()
	require.Equal(t, moved.Index, r.core("b").configuration.index)
	require.Equal(t, members, r.core("b").configuration.members)
	r.ask("a", "b", &AppendEntries{Term: 2, PrevLogIndex: 8, PrevLogTerm: 2, Entries: entry(9, 2), LeaderCommit: 9})
	r.settle()
	require.Equal(t, Index(9), r.takeSnapshot("b"))
	metadata, err := r.node("b").Snapshots().metadata(EntryID{9, 2}.file())
	require.NoError(t, err)
	require.Equal(t, moved, metadata.Configuration)
}

// What followers in contact lack is kept, up to a bound; for others nothing is.
func TestWhatIsKeptForFollowers(t *testing.T) {
	compacted := func(change func(*rig, *progress)) Index {
		r := newRig(t, "a b c")
		r.startAt("b", at{log: strings.TrimSpace(strings.Repeat("1 ", 30)), term: 1, commit: 20})
		r.settle()
		r.crown("b")
		r.settle()
		r.acknowledge("b", "a", 8)
		r.acknowledge("b", "c", 31)
		r.settle()
		require.Equal(t, Index(31), r.node("b").driver.applied)
		change(r, r.core("b").peer("a"))
		require.Equal(t, Index(31), r.takeSnapshot("b"))
		return r.core("b").log.compacted.Index
	}
	require.Equal(t, Index(8), compacted(func(*rig, *progress) {}), "a is there, and has that much")
	require.Equal(t, Index(30), compacted(func(r *rig, _ *progress) {
		r.now += wait
		r.acknowledge("b", "c", 31)
	}), "a has not been heard of for a timeout")
	require.Equal(t, Index(30), compacted(func(_ *rig, p *progress) { p.otherDisk = true }))
	require.Equal(t, Index(25), compacted(func(r *rig, p *progress) {
		p.transfer = &transfer{id: EntryID{25, 1}}
		r.core("b").forget(r.now, 30, 0)
	}), "it will need what is behind its snapshot")
	require.Equal(t, Index(20), compacted(func(r *rig, _ *progress) {
		r.node("b").driver.settings.snapshotBytes = 1
		r.node("b").driver.compaction.marks = []mark{{20, 0}, {31, 10_000}}
		r.node("b").driver.compaction.bytes = 10_000
	}), "there is a bound in bytes")
}

// More chunks than can be stored at a time are refused, and those that wait when the
// node stops are answered.
func TestChunksThatWaitAreBounded(t *testing.T) {
	l := newStoppedLoop(t)
	answered := make([]error, maxChunks+2)
	w := work{}
	for i := range answered {
		w.chunks = append(w.chunks, snapshotArrived{&InstallSnapshot{}, func(_ any, err error) { answered[i] = err }})
	}
	l.carryOutSnapshots(w)
	for i, err := range answered {
		require.Equal(t, i >= maxChunks, err != nil, "chunk %d", i)
	}
	require.ErrorContains(t, answered[maxChunks], fmt.Sprintf("has %d chunks of snapshots to store already", maxChunks))
	l.group.Go(l.receive)
	require.True(t, l.node.inbox.post(chunkStored{chunk: snapshotArrived{&InstallSnapshot{}, func(_ any, err error) { answered[maxChunks] = err }}}))
	l.shutDown(errors.New("the disk is gone"))
	for i, err := range answered[:maxChunks+1] {
		require.ErrorIs(t, err, ErrStopped, "chunk %d", i)
	}
}
