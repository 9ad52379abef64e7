package raft

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/snapshot"
)

// Snapshots in the rig: the work on their files lies with a node until it gets on
// with that, and a chunk that is not answered is given up in time.

// snapshotWork is what a process has to do for snapshots.
type snapshotWork struct {
	slow     bool              // it does not get on by itself
	writing  *snapshotJob      // a snapshot that is taken
	reads    []snapshotRead    // chunks to be read
	chunks   []snapshotArrived // chunks to be stored
	receiver snapshotReceiver
	calls    []snapshotCall // chunks that were sent and not answered
}

// snapshotCall is a chunk that waits for its answer.
type snapshotCall struct {
	to      NodeID
	request *InstallSnapshot
	until   time.Duration
}

// newStorage returns an empty storage.
func (r *rig) newStorage() Storage {
	s := NewMemoryStorage()
	s.snapshots.options = r.fileOptions()
	return s
}

// fileOptions are those of all stores of snapshots: files of several parts, with the
// same bytes whenever the same was done.
func (r *rig) fileOptions() snapshot.Options {
	return snapshot.Options{
		ChunkBytes: 50, SyncBytes: r.sync,
		Random: func() uint64 { r.files++; return r.files },
	}
}

// rigState is a state machine's state after some commands.
func rigState(commands []string) []byte {
	var b strings.Builder
	for _, command := range commands {
		b.WriteString(command + "\n")
	}
	return []byte(b.String())
}

// stateAfter is the state after the entries of a log from the first one on.
func stateAfter(entries Entries) []byte {
	var commands []string
	for entry := range entries.All() {
		if entry.Kind == EntryCommand {
			commands = append(commands, string(entry.Data))
		}
	}
	return rigState(commands)
}

// noteCommitted takes note that the entries of a log from the first one on are
// committed.
func (r *rig) noteCommitted(entries Entries) {
	for entry := range entries.All() {
		if entry.Index > Index(len(r.committed)) {
			r.committed = append(r.committed, commitment{entry.Term, entry.Term})
		}
		require.Equal(r.t, r.committed[entry.Index-1].term, entry.Term, "G3: a snapshot of entry %d of another term", entry.Index)
	}
}

// writeSnapshot writes the snapshot of a log from the first entry on to a store.
func (r *rig) writeSnapshot(store *SnapshotStore, entries Entries) {
	id := EntryID{entries.last(), entries.terms()[len(entries.terms())-1].Term}
	require.NoError(r.t, store.open(r.fingerprint))
	members := r.configuration
	if members.Index == 0 {
		members = r.first(r.ids[0]).HardState.Configurations[0]
	}
	written := store.write(r.t.Context(), snapshotJob{
		metadata: SnapshotMetadata{EntryID: id, Configuration: members},
		view:     stateView(stateAfter(entries)),
	})
	require.NoError(r.t, written.err)
}

// keepSnapshot gives a node that does not run the snapshot of a log from the first
// entry on.
func (n *rigNode) keepSnapshot(entries Entries) { n.rig.writeSnapshot(n.storage.Snapshots(), entries) }

// snapshotOf returns the message that carries the whole snapshot of a log from the
// first entry on.
func (r *rig) snapshotOf(term Term, entries Entries) *InstallSnapshot {
	r.noteCommitted(entries)
	last := EntryID{entries.last(), r.committed[entries.last()-1].term}
	chunk, ok := r.chunks[last]
	if !ok {
		store := NewMemorySnapshotStore()
		store.options = r.fileOptions()
		r.writeSnapshot(store, entries)
		chunk = store.read(r.t.Context(), snapshotRead{id: last, bytes: math.MaxInt32})
		require.NoError(r.t, chunk.err)
		r.chunks[last] = chunk
	}
	return &InstallSnapshot{Term: term, LastIndex: last.Index, LastTerm: last.Term, Transfer: chunk.number, Size: chunk.size, Data: chunk.data}
}

// parts cuts a message that carries a whole snapshot.
func parts(m *InstallSnapshot, bytes int) []*InstallSnapshot {
	var all []*InstallSnapshot
	for at := 0; at < len(m.Data); at += bytes {
		part := *m
		part.Offset, part.Data = uint64(at), m.Data[at:min(at+bytes, len(m.Data))]
		all = append(all, &part)
	}
	return all
}

func (r *rig) askSnapshot(from, to NodeID, request *InstallSnapshot) *SnapshotResponse {
	again := *request
	answer := r.ask(from, to, &again)
	r.settle()
	return answerOf[*SnapshotResponse](r, answer)
}

// wantSnapshot wants a snapshot of a node.
func (r *rig) wantSnapshot(id NodeID, done func(Index, error)) { r.do(id, snapshotWanted{done}) }

// takeSnapshot has a node take a snapshot.
func (r *rig) takeSnapshot(id NodeID) Index {
	var index Index
	ended := false
	r.wantSnapshot(id, func(i Index, err error) {
		require.NoError(r.t, err)
		index, ended = i, true
	})
	for !ended && r.workOne() {
	}
	require.True(r.t, ended, "no snapshot was taken")
	return index
}

// takeSnapshotWork takes over what an advance wants to be done.
func (n *rigNode) takeSnapshotWork(w work) {
	s := &n.snapshots
	if w.snapshot != nil {
		require.Nil(n.rig.t, s.writing, "a snapshot is handed out while one is being written")
		s.writing = w.snapshot
	}
	for _, peer := range w.closes {
		closeSent(n.Snapshots(), peer)
	}
	s.reads = append(s.reads, w.snapshotReads...)
	s.chunks = append(s.chunks, w.chunks...)
	for _, o := range w.outcomes {
		o.done(o.index, o.err)
	}
}

// closeSent closes the file that is kept open to be sent to a peer.
func closeSent(store *SnapshotStore, peer NodeID) {
	if raw := store.detach(peer); raw != nil {
		_ = raw.Close()
	}
}

// workOnSnapshots does one piece of the work of a node, and reports whether there
// was any.
func (r *rig) workOnSnapshots(id NodeID) bool {
	n := r.nodes[id]
	s, store := &n.snapshots, n.Snapshots()
	switch {
	case s.writing != nil:
		job := *s.writing
		s.writing = nil
		n.tellUnlessDark(store.write(context.Background(), job))
	case len(s.reads) > 0:
		first := s.reads[0]
		s.reads = s.reads[1:]
		n.tellUnlessDark(store.read(context.Background(), first))
	case len(s.chunks) > 0:
		first := s.chunks[0]
		s.chunks = s.chunks[1:]
		stored := s.receiver.take(first)
		if stored.complete != nil {
			r.came++
		}
		n.tellUnlessDark(stored)
	default:
		return false
	}
	return true
}

// tellUnlessDark tells a node what its disk has done, if the power has not gone.
func (n *rigNode) tellUnlessDark(event any) {
	if !n.lostPower() {
		n.advance([]any{event}, nil)
	}
}

// beginSnapshotWork does the next piece of work, and nobody hears of it.
func (n *rigNode) beginSnapshotWork() {
	switch s := &n.snapshots; {
	case s.writing != nil:
		n.Snapshots().write(context.Background(), *s.writing)
	case len(s.chunks) > 0:
		s.receiver.take(s.chunks[0])
	}
}

// call takes note of a chunk that leaves, to be given up when it is not answered in
// time. Else a message that vanishes would be waited for without end.
func (n *rigNode) call(r request) {
	if m, ok := r.message.(*InstallSnapshot); ok {
		n.snapshots.calls = append(n.snapshots.calls, snapshotCall{r.to, m, n.rig.now + r.patience})
	}
}

// called reports whether the answer to a request is still waited for, and ends the
// wait for a chunk's.
func (n *rigNode) called(request any) bool {
	m, ok := request.(*InstallSnapshot)
	if !ok {
		return true
	}
	for i, call := range n.snapshots.calls {
		if call.request == m {
			n.snapshots.calls = append(n.snapshots.calls[:i:i], n.snapshots.calls[i+1:]...)
			return true
		}
	}
	return false
}

// patience is until when the first of the chunks is waited for.
func (n *rigNode) patience() time.Duration {
	until := time.Duration(math.MaxInt64)
	for _, call := range n.snapshots.calls {
		until = min(until, call.until)
	}
	return until
}

// expire gives up a chunk that was waited for long enough.
func (r *rig) expire(id NodeID) bool {
	n := r.nodes[id]
	for _, call := range n.snapshots.calls {
		if call.until <= r.now {
			n.called(call.request)
			n.advance([]any{answered(call.to, call.request, nil, context.DeadlineExceeded)}, nil)
			return true
		}
	}
	return false
}

// checkSnapshot requires that what leaves is of the entry that it says, which is
// committed.
func (n *rigNode) checkSnapshot(m *InstallSnapshot) {
	r := n.rig
	require.NoError(r.t, m.valid())
	require.LessOrEqual(r.t, m.LastIndex, n.driver.core.commitIndex, "%s sends a snapshot of what it has not committed", n.id)
	require.Equal(r.t, r.committed[m.LastIndex-1].term, m.LastTerm, "G3: %s sends a snapshot of entry %d", n.id, m.LastIndex)
}

// held returns the IDs of the whole snapshots that a node has, the newest first.
func (n *rigNode) held() []EntryID {
	var ids []EntryID
	for _, info := range n.Snapshots().files.List() {
		if info.Err == nil {
			ids = append(ids, EntryID{Index(info.Index), Term(info.Term)})
		}
	}
	return ids
}
