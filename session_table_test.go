package raft

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// The table of sessions, on its own and in the applier.

// journal is a state machine that notes what it was given. It refuses what begins with no.
type journal struct{ commands []string }

func (j *journal) Apply(command []byte) ([]byte, error) {
	j.commands = append(j.commands, string(command))
	if strings.HasPrefix(string(command), "no") {
		return nil, fmt.Errorf("refused as number %d", len(j.commands))
	}
	return fmt.Appendf(nil, "number %d", len(j.commands)), nil
}

func (j *journal) Snapshot() ([]byte, error) { return []byte(strings.Join(j.commands, "\n")), nil }

func (j *journal) Restore(state []byte) error {
	j.commands = nil
	if len(state) > 0 {
		j.commands = strings.Split(string(state), "\n")
	}
	return nil
}

// journals is a journal that takes its commands in batches.
type journals struct{ journal }

func (j *journals) ApplyBatch(commands []Command, results []ApplyResult) {
	for i, c := range commands {
		results[i].Response, results[i].Err = j.Apply(c.Data)
	}
}

// sessionLog is a log in the making.
type sessionLog struct{ entries []LogEntry }

func (l *sessionLog) add(kind EntryKind, data []byte) Index {
	index := Index(len(l.entries) + 1)
	l.entries = append(l.entries, LogEntry{1 + Term(index)/50, index, kind, data})
	return index
}

func bytesOf(t *testing.T, m interface{ marshal() ([]byte, error) }) []byte {
	data, err := m.marshal()
	require.NoError(t, err)
	return data
}

func (l *sessionLog) open(t *testing.T, sessions, bytes uint64) Index {
	return l.add(EntryOpenSession, bytesOf(t, &sessionOpening{sessions, bytes}))
}

func (l *sessionLog) command(t *testing.T, session Index, sequence, acked uint64, command string) Index {
	return l.add(EntrySessionCommand, bytesOf(t, &sessionCommand{SessionPlace{session, sequence, acked}, []byte(command)}))
}

func (l *sessionLog) close(t *testing.T, session Index) Index {
	return l.add(EntryCloseSession, bytesOf(t, &sessionClosing{session}))
}

// replica is an applier with what it has said.
type replica struct {
	*applier
	answers map[Index]string
	next    Index
}

func newReplica(t *testing.T, machine StateMachine) *replica {
	return &replica{
		applier: newApplier(t.Context(), machine, newSessionTable(), nil, 0, func(any) {}, new(atomic.Bool)),
		answers: map[Index]string{}, next: 1,
	}
}

// play applies so many more entries of a log, in one task.
func (r *replica) play(t *testing.T, l *sessionLog, n int) {
	first := r.next
	r.next = min(first+Index(n), Index(len(l.entries)+1))
	task := &applyTask{first: first, last: r.next - 1, entries: MakeEntries(l.entries[first-1 : r.next-1]...)}
	for _, e := range l.entries[first-1 : r.next-1] {
		if e.Kind == EntryNoop {
			continue
		}
		task.waiting = append(task.waiting, waitingRun{e.Index, e.Term, []proposal{{done: func(result Result, err error) {
			r.answers[e.Index] = fmt.Sprintf("%d@%d %q %v", result.Index, result.Term, result.Response, err)
			for i := range result.Response {
				result.Response[i] = 'x' // it is the proposer's
			}
		}}}})
	}
	require.NoError(t, r.run(task))
}

func playAll(t *testing.T, l *sessionLog) (*replica, *journals) {
	j := new(journals)
	r := newReplica(t, j)
	r.play(t, l, len(l.entries))
	return r, j
}

// A command that is in the log again is not executed, and answered as the first one was,
// whether that was long before or in the same batch; also if it was refused.
func TestCS1CommandInTheLogTwice(t *testing.T) {
	l := new(sessionLog)
	s := l.open(t, 10, 1<<20)
	one := l.command(t, s, 1, 1, "one")
	again := l.command(t, s, 1, 1, "one")
	no := l.command(t, s, 2, 1, "no")
	l.add(EntryCommand, []byte("plain"))
	noAgain := l.command(t, s, 2, 1, "no")
	other := l.open(t, 10, 1<<20)
	two := l.command(t, other, 1, 1, "one")
	r, j := playAll(t, l)
	require.Equal(t, []string{"one", "no", "plain", "one"}, j.commands)
	require.Equal(t, `2@1 "number 1" <nil>`, r.answers[one])
	require.Equal(t, r.answers[one], r.answers[again])
	require.Equal(t, `4@1 "" raft: command at index 4 was applied and refused by the state machine: refused as number 2`, r.answers[no])
	require.Equal(t, r.answers[no], r.answers[noAgain])
	require.Equal(t, `8@1 "number 4" <nil>`, r.answers[two], "another session")

	late := l.command(t, s, 3, 3, "three")
	lost := l.command(t, s, 2, 1, "no") // an old copy, the reply to which was acknowledged
	r.play(t, l, 2)
	require.Equal(t, `9@1 "number 5" <nil>`, r.answers[late])
	require.Contains(t, r.answers[lost], ErrReplyDropped.Error())
	require.Len(t, j.commands, 5)
	require.EqualValues(t, 2*(replyOverhead+len("number 5")), r.sessions.replyBytes, "what is acknowledged takes no room")
}

// A session whose client counts as far as one can takes no room once it is closed.
func TestCS3LastNumbersOfASession(t *testing.T) {
	l := new(sessionLog)
	s := l.open(t, 10, 1<<20)
	last := l.command(t, s, math.MaxUint64, math.MaxUint64-255, "last")
	again := l.command(t, s, math.MaxUint64, math.MaxUint64, "last")
	r, j := playAll(t, l)
	require.Equal(t, r.answers[last], r.answers[again])
	require.Equal(t, []string{"last"}, j.commands)
	l.close(t, s)
	r.play(t, l, 1)
	require.Zero(t, r.sessions.replyBytes)
}

// What members remember depends on the log alone: not on how the entries come, nor on
// restarts from a snapshot in between, nor on a clock, since there is none.
func TestCS3TheTableIsAFunctionOfTheLog(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		l := randomSessions(t, random, 600)
		r, j := playAll(t, l)
		require.NotZero(t, r.sessions.opened)
		for range 4 {
			var plain StateMachine = new(journal)
			if random.IntN(2) == 0 {
				plain = new(journals)
			}
			other := newReplica(t, plain)
			for int(other.next) <= len(l.entries) {
				other.play(t, l, 1+random.IntN(1+random.IntN(80)))
				if random.IntN(5) == 0 {
					other.restart(t)
				}
			}
			state, _ := plain.Snapshot()
			require.Equal(t, strings.Join(j.commands, "\n"), string(state), "seed %d", seed)
			require.Equal(t, r.answers, other.answers, "seed %d", seed)
			require.Equal(t, r.sessions.encode(), other.sessions.encode(), "seed %d", seed)
		}
	}
}

// restart has the replica go on with what a snapshot tells of its sessions.
func (r *replica) restart(t *testing.T) {
	data := r.sessions.encode()
	table, err := decodeSessions(data)
	require.NoError(t, err)
	require.Equal(t, data, table.encode())
	require.Equal(t, r.sessions.replyBytes, table.replyBytes)
	*r.sessions = *table
	for _, e := range table.replied {
		require.NotNil(t, e.reply)
	}
}

// randomSessions is a log in which clients do all that they may, and some that they may not.
func randomSessions(t *testing.T, random *rand.Rand, n int) *sessionLog {
	l := new(sessionLog)
	ids := []Index{l.open(t, 3, 1000)}
	acked := map[Index]uint64{}
	for len(l.entries) < n {
		id := ids[max(0, len(ids)-1-random.IntN(5))]
		switch random.IntN(12) {
		case 0:
			ids = append(ids, l.open(t, uint64(1+random.IntN(4)), uint64(random.IntN(2000))))
		case 1:
			l.close(t, id)
		case 2:
			l.add(EntryCommand, fmt.Appendf(nil, "plain %d", len(l.entries)))
		case 3:
			l.add(EntryNoop, nil)
		case 4:
			l.add(EntryKind(4+random.IntN(3)), []byte{byte(random.Uint32()), byte(random.Uint32())})
		default:
			a := max(1, acked[id])
			if random.IntN(4) == 0 {
				a += random.Uint64N(4)
				acked[id] = a
			}
			sequence := a + random.Uint64N(6)
			command := fmt.Sprintf("%s%d of %d %s", []string{"", "no "}[random.IntN(2)], sequence, id, strings.Repeat("x", random.IntN(100)))
			l.command(t, id, sequence, a-min(a-1, random.Uint64N(2)), command)
		}
	}
	return l
}

// When one session more is opened than there may be, the one goes that was not used for
// the longest time; what is proposed in it is not executed, then or later.
func TestCS4LeastRecentlyUsedSessionExpires(t *testing.T) {
	l := new(sessionLog)
	first, second := l.open(t, 2, 1<<20), l.open(t, 2, 1<<20)
	l.command(t, first, 1, 1, "one")
	third := l.open(t, 2, 1<<20)
	expired := l.command(t, second, 1, 1, "late")
	kept := l.command(t, first, 2, 1, "two")
	fine := l.command(t, third, 1, 1, "three")
	closed := l.close(t, first)
	after := l.command(t, first, 3, 3, "after")
	never := l.command(t, 999, 1, 1, "never opened")
	r, j := playAll(t, l)
	require.Equal(t, []string{"one", "two", "three"}, j.commands)
	for _, index := range []Index{expired, after, never} {
		require.Contains(t, r.answers[index], ErrSessionExpired.Error())
	}
	for _, index := range []Index{kept, fine, closed} {
		require.NotContains(t, r.answers[index], "raft:")
	}
	require.Len(t, r.sessions.sessions, 1)
	require.Equal(t, uint64(replyOverhead+len("number 3")), r.sessions.replyBytes)
	require.Len(t, r.sessions.replied, 1)

	l.open(t, 0, 0)
	l.command(t, third, 1, 1, "three")
	r.play(t, l, 2)
	require.Len(t, r.sessions.sessions, 1, "there is room for one at least")
	require.Len(t, j.commands, 3)
	require.Zero(t, r.sessions.replyBytes)
}

// Replies are dropped, the oldest first, and what was executed is remembered nevertheless.
func TestSessionRepliesAreBounded(t *testing.T) {
	const each = replyOverhead + len("number 1")
	l := new(sessionLog)
	s := l.open(t, 10, uint64(3*each))
	for i := range uint64(5) {
		l.command(t, s, 1+i, 1, fmt.Sprint(i))
	}
	r, j := playAll(t, l)
	require.Equal(t, uint64(3*each), r.sessions.replyBytes)
	var again []Index
	for i := range uint64(5) {
		again = append(again, l.command(t, s, 1+i, 1, fmt.Sprint(i)))
	}
	r.play(t, l, 5)
	require.Len(t, j.commands, 5)
	for i, index := range again {
		if first := Index(2 + i); i < 2 {
			require.Equal(t, fmt.Sprintf("%d@1 %q %v", first, "", ErrReplyDropped), r.answers[index])
		} else {
			require.Equal(t, r.answers[first], r.answers[index])
		}
	}
	for i := range uint64(1000) {
		l.command(t, s, 6+i, 6+i, "more")
	}
	r.play(t, l, 1000)
	require.LessOrEqual(t, len(r.sessions.replied), 3)
	require.Len(t, r.sessions.sessions[s].Value.(*session).executed, 1)
}

// A client that waits for more than the window, or that nobody can follow, is refused.
func TestSessionWindow(t *testing.T) {
	l := new(sessionLog)
	s := l.open(t, 10, 1<<20)
	l.command(t, s, 1, 1, "first")
	last := l.command(t, s, sessionWindow, 1, "last")
	beyond := l.command(t, s, sessionWindow+1, 1, "beyond")
	far := l.command(t, s, 1<<63, 1<<63-5, "far")
	before := l.command(t, s, 1, 2, "before")
	none := l.command(t, s, 0, 0, "none")
	r, j := playAll(t, l)
	require.Equal(t, []string{"first", "last", "far"}, j.commands)
	require.NotContains(t, r.answers[last], "raft:")
	require.NotContains(t, r.answers[far], "raft:")
	for _, index := range []Index{beyond, before, none} {
		require.Contains(t, r.answers[index], ErrInvalidMessage.Error())
	}
}

// The bytes are part of the log and of snapshots, so they stay.
func TestV1BytesOfSessions(t *testing.T) {
	l := new(sessionLog)
	s := l.open(t, 4096, 1000)
	l.command(t, s, 1, 1, "one")
	l.command(t, s, 2, 1, "no")
	r, _ := playAll(t, l)
	for want, data := range map[string][]byte{
		"\x92\xcd\x10\x00\xcd\x03\xe8": l.entries[0].Data,
		"\x94\x01\x02\x01\xc4\x02no":   l.entries[2].Data,
		"\x91\x07":                     bytesOf(t, &sessionClosing{7}),
		"\x93\x01\xcd\x03\xe8\x91\x93\x01\x01\x92" +
			"\x95\x01\x02\x01\x01\xc4\x08number 1\x95\x02\x03\x01\x02\xc4\x13refused as number 2": r.sessions.encode(),
	} {
		require.Equal(t, []byte(want), data)
	}
}

// The bytes of a table from a disk may be any.
func TestDamagedTableOfSessionsIsRefused(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	r, _ := playAll(t, randomSessions(t, random, 100))
	good := r.sessions.encode()
	for n := range good {
		if n > 0 {
			_, err := decodeSessions(good[:n])
			require.Error(t, err, "cut at %d", n)
		}
		bad := append([]byte(nil), good...)
		bad[n] ^= 1 << random.IntN(8)
		if table, err := decodeSessions(bad); err == nil {
			table.encode()
		}
	}
	_, err := decodeSessions(append(good, 0))
	require.Error(t, err)
}

// A snapshot without sessions has the bytes that it had before there were any, and such
// bytes can be read.
func TestSnapshotMetadataWithSessions(t *testing.T) {
	without := SnapshotMetadata{Configuration: ConfigurationEntry{7, []byte("members")}}
	data, err := without.marshal(nil)
	require.NoError(t, err)
	require.Equal(t, byte(0x92), data[0], "two fields")
	with := without
	with.Sessions = []byte("sessions")
	more, err := with.marshal(nil)
	require.NoError(t, err)
	for _, c := range []struct {
		want SnapshotMetadata
		data []byte
	}{{without, data}, {with, more}} {
		var read SnapshotMetadata
		require.NoError(t, read.unmarshal(c.data))
		require.Equal(t, c.want, read)
	}
}

// The table with which a state machine goes on that keeps its own state: what it has
// executed is known, also where the replies are not.
func TestSessionsOfAStateMachineThatIsAhead(t *testing.T) {
	l := new(sessionLog)
	l.entries = append(l.entries, LogEntry{1, 1, EntryNoop, nil})
	s := l.open(t, 10, 1<<20)
	for i := range uint64(8) {
		l.command(t, s, 1+i, 1, fmt.Sprint(i)) // entries 3 to 10
	}
	storage := NewMemoryStorage()
	require.NoError(t, storage.Save(SaveBatch{HardState: &HardState{ID: "a", Term: 1, Incarnation: 1}, Entries: MakeEntries(l.entries...), Commit: 10}))
	require.NoError(t, storage.Snapshots().open([16]byte{}))
	recovered := func(applied, snapshot Index) (*sessionTable, *driver, error) {
		state, err := storage.Load()
		require.NoError(t, err)
		c := &core{settings: coreSettings{id: "a"}, log: newLog(state), snapshot: EntryID{Index: snapshot}}
		d := newDriver(c, driverSettings{})
		d.applied = applied
		d.compaction.fresh = false
		table, err := recoverSessions(storage, d)
		return table, d, err
	}
	take := func(index Index) {
		r := newReplica(t, new(journal))
		r.play(t, l, int(index))
		written := storage.Snapshots().write(t.Context(), snapshotJob{SnapshotMetadata{EntryID: EntryID{index, 1}, Sessions: r.sessions.encode()}, stateView(nil)})
		require.NoError(t, written.err)
	}
	replies := func(table *sessionTable) (known, kept int) {
		require.Contains(t, table.sessions, s)
		return len(table.sessions[s].Value.(*session).executed), len(table.replied)
	}

	table, _, err := recovered(6, 0)
	require.NoError(t, err)
	known, kept := replies(table)
	require.Equal(t, []int{4, 0}, []int{known, kept}, "from the log alone")

	take(5)
	require.NoError(t, storage.Save(SaveBatch{Compacted: EntryID{4, 1}}))
	table, _, err = recovered(9, 5)
	require.NoError(t, err)
	known, kept = replies(table)
	require.Equal(t, []int{7, 3}, []int{known, kept}, "from a snapshot, and the log")

	take(8)
	table, _, err = recovered(6, 8)
	require.NoError(t, err)
	known, kept = replies(table)
	require.Equal(t, []int{4, 3}, []int{known, kept}, "from the older snapshot, and the log")

	require.NoError(t, storage.Save(SaveBatch{Compacted: EntryID{6, 1}}))
	table, d, err := recovered(7, 8)
	require.NoError(t, err)
	require.Empty(t, table.sessions)
	require.True(t, d.needsRestore(), "those that it needs are gone")

	_, _, err = recovered(7, 0)
	require.ErrorIs(t, err, ErrCorrupt, "so is the one to restore")

	storage.memoryLog.runs = nil
	_, _, err = recovered(9, 8)
	require.Error(t, err)
	require.False(t, errors.Is(err, ErrCorrupt))
}

// FuzzSessionEntries takes entries of sessions from any bytes: what can be read is written the
// same, and no table breaks at it.
func FuzzSessionEntries(f *testing.F) {
	for _, m := range []interface{ marshal() ([]byte, error) }{
		&sessionOpening{3, 1000}, &sessionCommand{SessionPlace{1, 2, 1}, []byte("command")}, &sessionClosing{1},
	} {
		data, err := m.marshal()
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range []interface {
			marshal() ([]byte, error)
			unmarshal(data []byte) error
		}{new(sessionOpening), new(sessionCommand), new(sessionClosing)} {
			if err := m.unmarshal(data); err != nil {
				require.ErrorIs(t, err, ErrInvalidMessage)
				continue
			}
			once := bytesOf(t, m)
			require.NoError(t, m.unmarshal(once))
			require.Equal(t, once, bytesOf(t, m))
		}
		table, index := newSessionTable(), Index(0)
		for _, kind := range []EntryKind{EntryOpenSession, EntrySessionCommand, EntrySessionCommand, EntryCloseSession} {
			index++
			step, _ := table.take(LogEntry{1, index, kind, data})
			table.settle(&step, &sessionReply{response: data})
		}
		_, err := decodeSessions(table.encode())
		require.NoError(t, err)
	})
}

// FuzzSessionTable takes a table from any bytes, such as those of a leader's snapshot: it keeps
// its bounds, is written the same, and is empty once its sessions are closed.
func FuzzSessionTable(f *testing.F) {
	for seed := range uint64(3) {
		table, l := newSessionTable(), new(sessionLog)
		s := l.add(EntryOpenSession, nil)
		step := sessionStep{EntryID: EntryID{s, 1}}
		table.open(&step, sessionOpening{3, 200 * seed})
		table.settle(&step, nil)
		for i := range 2 * seed {
			step := sessionStep{EntryID: EntryID{2 + Index(i), 1}}
			table.command(&step, sessionCommand{SessionPlace{s, 1 + i, 1}, nil})
			table.settle(&step, &sessionReply{response: []byte("reply"), refusal: "refusal", refused: i%2 == 0})
		}
		f.Add(table.encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := decodeSessions(data)
		if err != nil {
			return
		}
		once := table.encode()
		again, err := decodeSessions(once)
		require.NoError(t, err)
		require.Equal(t, once, again.encode())
		require.Equal(t, table.replyBytes, again.replyBytes)
		table.bound()
		require.LessOrEqual(t, table.replyBytes, table.maxReplyBytes)
		for _, id := range sortedKeys(table.sessions) {
			require.LessOrEqual(t, len(table.sessions[id].Value.(*session).executed), sessionWindow)
			var step sessionStep
			table.close(&step, id)
			table.settle(&step, nil)
		}
		require.Zero(t, table.order.Len())
		require.Zero(t, table.replyBytes)
		require.Empty(t, table.replied)
	})
}

// FuzzSnapshotMetadata takes what a snapshot says beside the state from any bytes.
func FuzzSnapshotMetadata(f *testing.F) {
	for _, sessions := range [][]byte{nil, []byte("sessions")} {
		m := SnapshotMetadata{Configuration: ConfigurationEntry{5, []byte("members")}, Sessions: sessions}
		data, err := m.marshal(nil)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m, again SnapshotMetadata
		if err := m.unmarshal(data); err != nil {
			require.ErrorIs(t, err, ErrInvalidMessage)
			return
		}
		once, err := m.marshal(nil)
		require.NoError(t, err)
		require.NoError(t, again.unmarshal(once))
		twice, err := again.marshal(nil)
		require.NoError(t, err)
		require.Equal(t, once, twice)
	})
}
