package raft

import (
	"bytes"
	"cmp"
	"container/list"
	"errors"
	"fmt"
	"slices"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// Sessions (thesis §6.3): what members remember of clients, so that a command that is in
// the log more than once is executed once. It is replicated state, as the user's is: a
// function of the log, kept by the applier, and part of every snapshot. No clock and no
// setting of a member has a say in it: the bounds are those of the entry that has opened
// the latest session.
//
// A session expires when there are as many as there may be and another one is opened: the
// one goes that was not used for the longest stretch of the log. Before there is need for its
// place nothing would be won by ending it, and a measure of when a client is gone for good,
// such as time, would have to be part of the log.

// Entries of sessions, each kind with the message that is its data.
type (
	// sessionOpening is that of an EntryOpenSession. The session is named by the index of
	// the entry, which no other has.
	sessionOpening struct {
		maxSessions   uint64
		maxReplyBytes uint64
	}
	// sessionCommand is that of an EntrySessionCommand.
	sessionCommand struct {
		SessionPlace
		command []byte
	}
	// sessionClosing is that of an EntryCloseSession.
	sessionClosing struct{ session Index }
)

// Bounds, part of the protocol: all members agree on them.
const (
	// sessionWindow is how many commands a client may wait for in one session: the
	// sequence number of one is less than that of the first it waits for plus this.
	sessionWindow = 256

	mostSessions   = 1 << 16
	mostReplyBytes = 256 << 20

	// replyOverhead is what a reply counts beside its bytes.
	replyOverhead = 64
)

// sessionTable is what a member remembers. The applier alone uses it.
//
// An entry passes through it in two steps, since commands are executed in batches: take
// says whether one is to be executed, and settle, in the same order and once it was, what it
// has led to. The one knows which sessions there are and what was executed in them, by the
// log alone; the other keeps replies, which a state machine that keeps its own state does
// not give again after a restart.
type sessionTable struct {
	sessions map[Index]*list.Element
	order    *list.List // of *session, least recently used first
	opened   Index      // the latest one; 0: there was none ever

	maxReplyBytes uint64
	replyBytes    uint64
	replied       []*execution // with a reply that is kept, in order of the log; with some that have none any more
	dropped       int          // how many of them have none
}

// session is what is remembered of one.
type session struct {
	id       Index
	acked    uint64                // the replies below it are not waited for
	executed map[uint64]*execution // by sequence number, from acked on
}

// execution is a command that was executed.
type execution struct {
	EntryID
	reply *sessionReply // nil: not kept
}

// sessionReply is what the state machine said to it. Of an error there is the text: that
// is the same on all members.
type sessionReply struct {
	response []byte
	refusal  string
	refused  bool
}

func (r *sessionReply) size() uint64 {
	return uint64(len(r.response) + len(r.refusal) + replyOverhead)
}

// sessionStep is an entry on its way through the table.
type sessionStep struct {
	EntryID
	executes bool         // its command is for the state machine
	of       *execution   // of the command, now or before
	released []*execution // whose replies are not needed any more
	bound    uint64       // of the bytes of replies from now on; 0: as before

	reply *sessionReply // to the command, once this is settled; nil: it is not kept
	err   error         // there is none to it, for this reason
}

func newSessionTable() *sessionTable {
	return &sessionTable{sessions: map[Index]*list.Element{}, order: list.New()}
}

// take takes an entry, and returns the command that is to be executed, if one is.
func (t *sessionTable) take(entry LogEntry) (step sessionStep, command []byte) {
	step.EntryID = EntryID{entry.Index, entry.Term}
	switch entry.Kind {
	case EntryOpenSession:
		var o sessionOpening
		if step.err = o.unmarshal(entry.Data); step.err == nil {
			t.open(&step, o)
		}
	case EntrySessionCommand:
		var c sessionCommand
		if step.err = c.unmarshal(entry.Data); step.err == nil {
			t.command(&step, c)
			command = c.command
		}
	case EntryCloseSession:
		var c sessionClosing
		if step.err = c.unmarshal(entry.Data); step.err == nil {
			t.close(&step, c.session)
		}
	}
	return step, command
}

func (t *sessionTable) open(step *sessionStep, o sessionOpening) {
	for t.order.Len() > 0 && uint64(t.order.Len()) >= min(o.maxSessions, mostSessions) {
		t.close(step, t.order.Front().Value.(*session).id)
	}
	t.sessions[step.Index] = t.order.PushBack(&session{id: step.Index, acked: 1, executed: map[uint64]*execution{}})
	t.opened = step.Index
	step.bound = min(max(o.maxReplyBytes, 1), mostReplyBytes)
}

func (t *sessionTable) close(step *sessionStep, id Index) {
	element, ok := t.sessions[id]
	if !ok {
		step.err = ErrSessionExpired
		return
	}
	s := t.order.Remove(element).(*session)
	delete(t.sessions, id)
	for _, sequence := range sortedKeys(s.executed) {
		step.released = append(step.released, s.executed[sequence])
	}
}

// command finds out whether a command was executed before.
func (t *sessionTable) command(step *sessionStep, c sessionCommand) {
	element, ok := t.sessions[c.Session]
	if !ok {
		step.err = ErrSessionExpired
		return
	}
	t.order.MoveToBack(element)
	s := element.Value.(*session)
	step.released = s.acknowledge(c.FirstAwaited)
	switch e, again := s.executed[c.Sequence]; {
	case again:
		step.of = e
	case c.Sequence < s.acked:
		step.err = ErrReplyDropped
	default:
		step.of, step.executes = &execution{EntryID: step.EntryID}, true
		s.executed[c.Sequence] = step.of
	}
}

// acknowledge forgets what was executed below a sequence number.
func (s *session) acknowledge(acked uint64) (released []*execution) {
	for ; s.acked < acked; s.acked++ {
		if len(s.executed) == 0 {
			s.acked = acked
			break
		}
		if e, ok := s.executed[s.acked]; ok {
			released = append(released, e)
			delete(s.executed, s.acked)
		}
	}
	return released
}

// settle ends the step of an entry. reply is what its command has led to, nil if that is
// not known; for one that was not executed now it does not count.
func (t *sessionTable) settle(step *sessionStep, reply *sessionReply) {
	for _, e := range step.released {
		if t.forget(e) {
			t.dropped++
		}
	}
	if step.bound > 0 {
		t.maxReplyBytes = step.bound
	}
	if step.executes && reply != nil {
		step.of.reply = reply
		t.replied, t.replyBytes = append(t.replied, step.of), t.replyBytes+reply.size()
	}
	if step.of != nil {
		step.reply = step.of.reply
	}
	t.bound()
}

// bound drops the oldest replies while they are too many, and forgets those that were dropped
// out of turn once they are half of all.
func (t *sessionTable) bound() {
	for t.replyBytes > t.maxReplyBytes {
		if !t.forget(t.replied[0]) {
			t.dropped--
		}
		t.replied = t.replied[1:]
	}
	if 2*t.dropped > len(t.replied) {
		t.replied = slices.DeleteFunc(t.replied, func(e *execution) bool { return e.reply == nil })
		t.dropped = 0
	}
}

// forget drops a reply, and reports whether there was one.
func (t *sessionTable) forget(e *execution) bool {
	if e.reply == nil {
		return false
	}
	t.replyBytes -= e.reply.size()
	e.reply = nil
	return true
}

// outcome is what the proposer of the entry gets: of a command what its execution has
// led to, each time.
func (s *sessionStep) outcome() (Result, error) {
	switch {
	case s.err != nil:
		return Result{}, s.err
	case s.of == nil:
		return Result{Index: s.Index, Term: s.Term}, nil
	}
	result := Result{Index: s.of.Index, Term: s.of.Term}
	switch r := s.reply; {
	case r == nil:
		return result, ErrReplyDropped
	case r.refused:
		return result, &ApplyError{s.of.Index, errors.New(r.refusal)}
	default:
		result.Response = bytes.Clone(r.response) // each proposer may change its own
		return result, nil
	}
}

func replyOf(r ApplyResult) *sessionReply {
	if r.Err != nil {
		return &sessionReply{refusal: r.Err.Error(), refused: true}
	}
	return &sessionReply{response: r.Response}
}

// encode returns the table as it is between two entries, for a snapshot: nil if there was no
// session ever.
//
//	[latest session, bound of replies, [[id, acked, [execution ...]] ...]]
//	execution: [sequence, index, term, 0: no reply, 1: response, 2: refusal, that]
//
// Sessions are in the order of their last use, executions in that of their numbers. Equal
// tables have equal bytes.
func (t *sessionTable) encode() []byte {
	if t.opened == 0 {
		return nil
	}
	b := wire.AppendArrayLen(nil, 3)
	b = wire.AppendUint(b, uint64(t.opened))
	b = wire.AppendUint(b, t.maxReplyBytes)
	b = wire.AppendArrayLen(b, t.order.Len())
	for element := t.order.Front(); element != nil; element = element.Next() {
		s := element.Value.(*session)
		b = wire.AppendArrayLen(b, 3)
		b = wire.AppendUint(b, uint64(s.id))
		b = wire.AppendUint(b, s.acked)
		b = wire.AppendArrayLen(b, len(s.executed))
		for _, sequence := range sortedKeys(s.executed) {
			b = s.executed[sequence].append(b, sequence)
		}
	}
	return b
}

func (e *execution) append(b []byte, sequence uint64) []byte {
	b = wire.AppendArrayLen(b, 5)
	b = wire.AppendUint(b, sequence)
	b = wire.AppendUint(b, uint64(e.Index))
	b = wire.AppendUint(b, uint64(e.Term))
	switch r := e.reply; {
	case r == nil:
		return wire.AppendBytes(wire.AppendUint(b, 0), nil)
	case r.refused:
		return wire.AppendBytes(wire.AppendUint(b, 2), []byte(r.refusal))
	default:
		return wire.AppendBytes(wire.AppendUint(b, 1), r.response)
	}
}

// decodeSessions reads what encode has returned. It copies what it keeps.
func decodeSessions(data []byte) (*sessionTable, error) {
	t := newSessionTable()
	if len(data) == 0 {
		return t, nil
	}
	r := wire.NewReader(data)
	expectArray(&r, 3)
	t.opened, t.maxReplyBytes = Index(r.Uint()), r.Uint()
	for n := r.ArrayLen(); n > 0 && r.Err() == nil; n-- {
		t.read(&r)
	}
	if r.Err() == nil && len(r.Rest()) > 0 {
		r.Fail("bytes behind the table of sessions")
	}
	slices.SortFunc(t.replied, func(a, b *execution) int { return cmp.Compare(a.Index, b.Index) })
	return t, r.Err()
}

// read reads one session.
func (t *sessionTable) read(r *wire.Reader) {
	expectArray(r, 3)
	s := &session{id: Index(r.Uint()), acked: r.Uint(), executed: map[uint64]*execution{}}
	for n := r.ArrayLen(); n > 0 && r.Err() == nil; n-- {
		expectArray(r, 5)
		sequence := r.Uint()
		e := &execution{EntryID: EntryID{Index(r.Uint()), Term(r.Uint())}}
		kind, content := r.Uint(), r.Bytes()
		switch kind {
		case 0:
		case 1:
			e.reply = &sessionReply{response: bytes.Clone(content)}
		case 2:
			e.reply = &sessionReply{refusal: string(content), refused: true}
		default:
			r.Fail("unknown kind of reply")
		}
		if _, twice := s.executed[sequence]; twice || sequence < s.acked || sequence-s.acked >= sessionWindow {
			r.Fail("a command of a session out of its window")
			return
		}
		s.executed[sequence] = e
		if e.reply != nil {
			t.replied, t.replyBytes = append(t.replied, e), t.replyBytes+e.reply.size()
		}
	}
	if _, twice := t.sessions[s.id]; twice || s.id == 0 || s.id > t.opened {
		r.Fail("a session that is not one of the table")
		return
	}
	t.sessions[s.id] = t.order.PushBack(s)
}

func expectArray(r *wire.Reader, n int) {
	if r.ArrayLen() != n {
		r.Fail("an array of another length")
	}
}

func (o *sessionOpening) marshal() ([]byte, error) {
	c := appending(nil, "sessionOpening")
	o.fields(&c)
	return c.appended()
}

func (o *sessionOpening) unmarshal(data []byte) error {
	c := reading(data, "sessionOpening")
	o.fields(&c)
	return c.done()
}

func (o *sessionOpening) fields(c *codec) {
	number(c, &o.maxSessions)
	number(c, &o.maxReplyBytes)
}

func (s *sessionClosing) marshal() ([]byte, error) {
	c := appending(nil, "sessionClosing")
	number(&c, &s.session)
	return c.appended()
}

func (s *sessionClosing) unmarshal(data []byte) error {
	c := reading(data, "sessionClosing")
	number(&c, &s.session)
	return c.done()
}

func (s *sessionCommand) marshal() ([]byte, error) {
	c := appending(nil, "sessionCommand")
	s.fields(&c)
	return c.appended()
}

// unmarshal also checks the numbers. The command aliases data.
func (s *sessionCommand) unmarshal(data []byte) error {
	c := reading(data, "sessionCommand")
	s.fields(&c)
	if err := s.valid(); err != nil {
		c.fail(err)
	}
	return c.done()
}

func (s *sessionCommand) fields(c *codec) {
	number(c, &s.Session)
	number(c, &s.Sequence)
	number(c, &s.FirstAwaited)
	c.bytes(&s.command)
}

// recoverSessions returns the table with which a state machine that keeps its own state
// goes on behind the last entry that it has applied. It has that of a snapshot, carried on
// by the log, but for the replies, which nobody gives again. Where all snapshots with
// sessions are ahead of the state machine, that is to restore the newest.
func recoverSessions(storage Storage, d *driver) (*sessionTable, error) {
	c, snapshots := d.core, storage.Snapshots()
	table, at, err := snapshots.sessionsAt(d.applied, c.log.compacted.Index)
	switch {
	case err != nil:
		return nil, fmt.Errorf("raft: node %s cannot find out which sessions its clients have: %w", c.settings.id, err)
	case table == nil && c.snapshot.Index <= d.applied:
		missing := &CorruptError{File: snapshots.dir, Reason: "no snapshot that is whole says which sessions clients have"}
		return nil, fmt.Errorf("raft: node %s cannot start at entry %d: %w", c.settings.id, d.applied, missing)
	case table == nil:
		d.compaction.fresh = true
		return newSessionTable(), nil
	}
	const readBytes = 4 << 20
	for at < d.applied {
		entries, err := storage.Entries(at+1, d.applied, readBytes)
		if err == nil {
			err = c.log.terms.check(entries, at+1, d.applied)
		}
		if err != nil {
			return nil, fmt.Errorf("raft: node %s: entries %d to %d of the log cannot be read for the sessions in them: %w", c.settings.id, at+1, d.applied, err)
		}
		for entry := range entries.All() {
			step, _ := table.take(entry)
			table.settle(&step, nil)
		}
		at = entries.last()
	}
	return table, nil
}

// sessionsAt returns the table as of an entry, or an earlier one behind which the log goes
// on, and the index of that. It needs nothing of a snapshot but the metadata: the rest may be
// damaged. nil: those with sessions are all ahead. If there is no snapshot as new as the log
// is compacted, there was no session ever before that: see [applier.capture].
func (s *SnapshotStore) sessionsAt(applied, compacted Index) (*sessionTable, Index, error) {
	var damage error
	ahead := false
	for _, info := range s.files.List() {
		if Index(info.Index) < compacted {
			break
		}
		m, err := s.metadata(info.ID)
		switch {
		case errors.Is(err, ErrCorrupt):
			damage = err
		case err != nil:
			return nil, 0, err
		case len(m.Sessions) == 0:
			return newSessionTable(), min(m.Index, applied), nil
		case m.Index <= applied:
			table, err := decodeSessions(m.Sessions)
			return table, m.Index, err
		default:
			ahead = true
		}
	}
	switch {
	case compacted == 0 || damage == nil && !ahead:
		return newSessionTable(), compacted, nil
	case ahead:
		return nil, 0, nil
	default:
		return nil, 0, damage
	}
}
