package raft

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// How scripts write messages, logs and states: each in one line, which is read
// back in the same form.

// messageKinds are the words before the parenthesis. A Loss is the news that no
// answer comes, a Refusal an error in place of an answer.
var messageKinds = []string{
	"RequestVote", "VoteAnswer", "PreVote", "PreVoteAnswer", "Heartbeat", "HeartbeatAnswer", "AppendEntries", "AppendAnswer",
	"InstallSnapshot", "SnapshotAnswer", "TimeoutNow", "TimeoutNowAnswer", "Refusal", "Loss",
}

func messageKind(message any) string {
	switch m := message.(type) {
	case *VoteRequest:
		if m.PreVote {
			return "PreVote"
		}
		return "RequestVote"
	case *VoteResponse:
		if m.PreVote {
			return "PreVoteAnswer"
		}
		return "VoteAnswer"
	case *Heartbeat:
		return "Heartbeat"
	case *HeartbeatResponse:
		return "HeartbeatAnswer"
	case *AppendEntries:
		return "AppendEntries"
	case *AppendResponse:
		return "AppendAnswer"
	case *InstallSnapshot:
		return "InstallSnapshot"
	case *SnapshotResponse:
		return "SnapshotAnswer"
	case *TimeoutNow:
		return "TimeoutNow"
	case *TimeoutNowResponse:
		return "TimeoutNowAnswer"
	default:
		panic(fmt.Sprintf("no word for %T", message))
	}
}

// answerKind returns the kind of the answer to a request.
func answerKind(request any) string {
	switch kind := messageKind(request); kind {
	case "RequestVote":
		return "VoteAnswer"
	case "AppendEntries":
		return "AppendAnswer"
	case "InstallSnapshot":
		return "SnapshotAnswer"
	default:
		return kind + "Answer"
	}
}

func packetKind(p *packet) string {
	switch {
	case p.lost:
		return "Loss"
	case p.err != nil:
		return "Refusal"
	case p.answer != nil:
		return messageKind(p.answer)
	default:
		return messageKind(p.request)
	}
}

// packetLine writes a message under way.
func packetLine(p *packet) string {
	what := ""
	switch {
	case p.lost:
		what = fmt.Sprintf("Loss(of %s)", messageLine(p.request))
	case p.err != nil:
		what = fmt.Sprintf("Refusal(of %s: %s)", messageKind(p.request), wordsOf(p.err))
	case p.answer != nil:
		what = messageLine(p.answer)
	default:
		what = messageLine(p.request)
	}
	return fmt.Sprintf("%s -> %s: %s", p.from, p.to, what)
}

// messageLine writes a message. What is left out is the same in all that a node
// sends, or counts messages.
func messageLine(message any) string {
	var fields []string
	add := func(format string, args ...any) { fields = append(fields, fmt.Sprintf(format, args...)) }
	switch m := message.(type) {
	case *VoteRequest:
		add("term %d", m.Term)
		add("last %d@%d", m.LastLogIndex, m.LastLogTerm)
		if m.Transfer {
			add("transfer")
		}
	case *VoteResponse:
		add("term %d", m.Term)
		if m.VoteGranted {
			add("granted")
		} else {
			add("refused: %s", m.Refusal.reason(m.Leader))
		}
	case *Heartbeat:
		add("term %d", m.Term)
		add("commit %d", m.Commit)
	case *HeartbeatResponse:
		add("term %d", m.Term)
	case *AppendEntries:
		add("term %d", m.Term)
		add("prev %d@%d", m.PrevLogIndex, m.PrevLogTerm)
		if m.Entries.Len() > 0 {
			add("entries %s", runsLine(m.Entries.terms(), m.Entries.last()))
		}
		add("commit %d", m.LeaderCommit)
	case *AppendResponse:
		add("term %d", m.Term)
		if m.Success {
			add("match %d", m.Match)
		} else {
			add("rejected behind %d", m.PrevLogIndex)
			add("agree %d@%d", m.ConflictIndex, m.ConflictTerm)
		}
	case *InstallSnapshot:
		add("term %d", m.Term)
		add("last %d@%d", m.LastIndex, m.LastTerm)
		add("bytes %d to %d of %d", m.Offset, m.Offset+uint64(len(m.Data)), m.Size)
	case *SnapshotResponse:
		add("term %d", m.Term)
		if m.Match > 0 {
			add("match %d", m.Match)
		}
		add("next %d", m.Next)
	case *TimeoutNow:
		add("term %d", m.Term)
	case *TimeoutNowResponse:
		add("term %d", m.Term)
		add("%s", map[bool]string{true: "campaigns", false: "does not campaign"}[m.Started])
	}
	return fmt.Sprintf("%s(%s)", messageKind(message), strings.Join(fields, ", "))
}

// runsLine writes entries up to the last by their indexes and terms: 1..3@1 4@2.
func runsLine(terms stretches, last Index) string {
	var words []string
	for i, s := range terms {
		end := last
		if i+1 < len(terms) {
			end = terms[i+1].First - 1
		}
		if s.First == end {
			words = append(words, fmt.Sprintf("%d@%d", s.First, s.Term))
		} else {
			words = append(words, fmt.Sprintf("%d..%d@%d", s.First, end, s.Term))
		}
	}
	return strings.Join(words, " ")
}

func logLine(compacted EntryID, terms stretches, last Index) string {
	var words []string
	if compacted.Index > 0 {
		words = append(words, fmt.Sprintf("(..%d@%d)", compacted.Index, compacted.Term))
	}
	if last > compacted.Index {
		words = append(words, runsLine(terms, last))
	}
	return orNothing(strings.Join(words, " "))
}

func orNothing(text string) string {
	if text == "" {
		return "nothing"
	}
	return text
}

func stateLine(r *rig, id NodeID) string {
	n := r.nodes[id]
	if n.driver == nil {
		return fmt.Sprintf("%s: down", id)
	}
	c := n.driver.core
	fields := []string{fmt.Sprintf("%s: %s", id, c.role)}
	if c.leader != "" && c.leader != id {
		fields[0] += " of " + string(c.leader)
	}
	if n.frozen {
		fields[0] += ", frozen"
	}
	add := func(format string, args ...any) { fields = append(fields, fmt.Sprintf(format, args...)) }
	add("term %d", c.currentTerm)
	if c.votedFor != "" {
		add("vote %s", c.votedFor)
	}
	add("log %s", logLine(c.log.compacted, c.log.terms, c.log.last()))
	if c.log.durable < c.log.last() {
		add("on disk %d", c.log.durable)
	}
	if c.snapshot.Index > 0 {
		add("snapshot %d@%d", c.snapshot.Index, c.snapshot.Term)
	}
	add("commit %d", c.commitIndex)
	if n.driver.applied != c.commitIndex {
		add("applied %d", n.driver.applied)
	}
	return strings.Join(fields, ", ")
}

// appliedLine writes what a state machine has done: how many commands a snapshot
// had, in parentheses, and those after it.
func appliedLine(m rigMachine) string {
	var words []string
	if m.restored > 0 {
		words = append(words, fmt.Sprintf("(%s to %s)", m.commands[0], m.commands[m.restored-1]))
	}
	return orNothing(strings.Join(append(words, m.commands[m.restored:]...), " "))
}

func diskLine(n *rigNode) string {
	state := loaded(n.storage)
	line := fmt.Sprintf("%s: term %d", n.id, state.HardState.Term)
	if vote := state.HardState.VotedFor; vote != "" {
		line += fmt.Sprintf(", vote %s", vote)
	}
	line += ", log " + logLine(state.Compacted, state.Terms, state.Last)
	if !n.started {
		return line
	}
	for i, id := range n.held() {
		line += fmt.Sprintf("%s%d@%d", []string{", snapshots ", " "}[min(i, 1)], id.Index, id.Term)
	}
	return line
}

func peerLine(p PeerStatus) string {
	line := fmt.Sprintf("%s: match %d, next %d", p.ID, p.Match, p.Next)
	if !p.Replicating {
		line += ", probed"
	}
	if p.Inflight > 0 {
		line += fmt.Sprintf(", %d under way", p.Inflight)
	}
	if t := p.Snapshot; t != nil {
		line += fmt.Sprintf(", %d of %d bytes of snapshot %d", t.Done, t.Total, t.Index)
	}
	if p.Trouble != "" {
		line += ": " + p.Trouble
	}
	return line
}

// batchLine writes what a write brings to a storage.
func batchLine(batch *SaveBatch, before StorageState) string {
	var fields []string
	add := func(format string, args ...any) { fields = append(fields, fmt.Sprintf(format, args...)) }
	if h := batch.HardState; h != nil {
		if old := before.HardState; h.Term != old.Term || h.VotedFor != old.VotedFor {
			add("term %d", h.Term)
			if h.VotedFor != "" {
				add("vote %s", h.VotedFor)
			}
		}
		for _, contact := range h.Contacts {
			if !slices.Contains(before.HardState.Contacts, contact) {
				add("contact with %s", contact.ID)
			}
		}
	}
	if at := batch.Compacted; at.Index > 0 {
		add("compacted %d@%d", at.Index, at.Term)
	}
	if batch.Entries.Len() > 0 {
		add("entries %s", runsLine(batch.Entries.terms(), batch.Entries.last()))
	}
	return strings.Join(fields, ", ")
}

// Reading.

// parsedFields are the fields of a message or a state: a key, and its value.
type parsedFields map[string]string

// parseFields reads "key value, key, ...". Each key must be one of those that
// are allowed.
func parseFields(text string, allowed ...string) (parsedFields, error) {
	fields := parsedFields{}
	for _, field := range strings.Split(text, ", ") {
		key := ""
		for _, a := range allowed {
			if field == a || strings.HasPrefix(field, a+" ") || strings.HasPrefix(field, a+": ") {
				key = a
			}
		}
		if _, twice := fields[key]; key == "" || twice {
			return nil, fmt.Errorf("%q is none of %s, or comes twice", field, strings.Join(allowed, ", "))
		}
		fields[key] = strings.TrimLeft(strings.TrimPrefix(field, key), ": ")
	}
	return fields, nil
}

// number returns a field that is a number; 0 if it is not there.
func (f parsedFields) number(key string) (uint64, error) {
	if f[key] == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(f[key], 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%s %q is not a number", key, f[key])
	}
	return n, nil
}

// entry returns a field that is an index and a term.
func (f parsedFields) entry(key string) (place, error) {
	var p place
	if f[key] == "" {
		return p, nil
	}
	if n, err := fmt.Sscanf(f[key], "%d@%d", &p.index, &p.term); n != 2 || err != nil {
		return p, fmt.Errorf("%s %q is not an entry, as 3@1 is", key, f[key])
	}
	return p, nil
}

func (f parsedFields) has(key string) bool {
	_, ok := f[key]
	return ok
}

var oneRun = regexp.MustCompile(`^(\d+)(?:\.\.(\d+))?@(\d+)$`)

// parseRuns reads what runsLine wrote.
func parseRuns(text string) ([]place, error) {
	var places []place
	for _, word := range strings.Fields(text) {
		m := oneRun.FindStringSubmatch(word)
		if m == nil {
			return nil, fmt.Errorf("%q are no entries, as 1..3@1 4@2 are", word)
		}
		first, _ := strconv.ParseUint(m[1], 10, 32)
		last := first
		if m[2] != "" {
			last, _ = strconv.ParseUint(m[2], 10, 32)
		}
		term, _ := strconv.ParseUint(m[3], 10, 32)
		for i := first; i <= last; i++ {
			if n := len(places); n > 0 && (places[n-1].index != Index(i)-1 || places[n-1].term > Term(term)) {
				return nil, fmt.Errorf("%d@%d does not follow %d@%d", i, term, places[n-1].index, places[n-1].term)
			}
			places = append(places, place{Index(i), Term(term)})
		}
	}
	return places, nil
}

// entriesAt returns entries of those indexes and terms: those that a node has,
// or commands that say where they stand.
func (r *rig) entriesAt(places []place) Entries {
	var entries []LogEntry
	for _, p := range places {
		entries = append(entries, r.entryAt(p))
	}
	return MakeEntries(entries...)
}

func (r *rig) entryAt(p place) LogEntry {
	for _, id := range r.ids {
		if !r.up(id) || !r.core(id).log.matches(p.index, p.term) || p.index < r.core(id).log.firstKept() {
			continue
		}
		for entry := range r.stored(id, p.index).All() {
			return entry
		}
	}
	if p == (place{1, 1}) {
		return r.logEntries("1")[0]
	}
	for entry := range entry(p.index, p.term).All() {
		return entry
	}
	panic("no entry")
}

// parseState reads the state of given.
func parseState(text string) (at, error) {
	f, err := parseFields(text, "log", "term", "vote", "commit", "compacted", "snapshot", "cold", "restarted", "strangers")
	if err != nil {
		return at{}, err
	}
	places, err := parseRuns(f["log"])
	if err != nil {
		return at{}, err
	}
	s := at{vote: NodeID(f["vote"]), cold: f.has("cold"), restarted: f.has("restarted"), strangers: f.has("strangers")}
	var words []string
	for _, p := range places {
		words = append(words, fmt.Sprint(p.term))
	}
	if len(places) == 0 || places[0] != (place{1, 1}) {
		return at{}, fmt.Errorf("a log starts with the first configuration, 1@1")
	}
	s.log = strings.Join(words, " ")
	numbers := map[string]*uint64{"term": (*uint64)(&s.term), "commit": (*uint64)(&s.commit), "compacted": (*uint64)(&s.compacted), "snapshot": (*uint64)(&s.snapshot)}
	for _, key := range sortedKeys(numbers) {
		if *numbers[key], err = f.number(key); err != nil {
			return at{}, err
		}
	}
	if max(s.compacted, s.snapshot) > s.commit || s.commit > Index(len(places)) || f.has("snapshot") && s.snapshot < s.compacted {
		return at{}, fmt.Errorf("a log is compacted as far as it is committed, at most, and has a snapshot of that")
	}
	return s, nil
}

var wholeMessage = regexp.MustCompile(`^(\w+)\((.*)\)$`)

// parseMessage reads what messageLine wrote.
func parseMessage(r *rig, text string) (any, error) {
	m := wholeMessage.FindStringSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("%q is no message, as RequestVote(term 2, last 3@1) is", text)
	}
	kind, body := m[1], m[2]
	switch kind {
	case "RequestVote", "PreVote":
		return parseVoteRequest(kind == "PreVote", body)
	case "VoteAnswer", "PreVoteAnswer":
		return parseVoteResponse(kind == "PreVoteAnswer", body)
	case "Heartbeat":
		f, err := parseFields(body, "term", "commit")
		return &Heartbeat{Term: f.term(&err), Commit: f.index("commit", &err)}, err
	case "HeartbeatAnswer":
		f, err := parseFields(body, "term")
		return &HeartbeatResponse{Term: f.term(&err)}, err
	case "AppendEntries":
		return parseAppendEntries(r, body)
	case "AppendAnswer":
		f, err := parseFields(body, "term", "match", "rejected behind", "agree")
		agree := f.place("agree", &err)
		return &AppendResponse{
			Term: f.term(&err), Success: f.has("match"), Match: f.index("match", &err),
			PrevLogIndex: f.index("rejected behind", &err), ConflictIndex: agree.index, ConflictTerm: agree.term,
		}, err
	case "InstallSnapshot":
		return parseInstallSnapshot(r, body)
	case "SnapshotAnswer":
		f, err := parseFields(body, "term", "match", "next")
		return &SnapshotResponse{Term: f.term(&err), Match: f.index("match", &err), Next: uint64(f.index("next", &err))}, err
	case "TimeoutNow":
		f, err := parseFields(body, "term")
		return &TimeoutNow{Term: f.term(&err)}, err
	case "TimeoutNowAnswer":
		f, err := parseFields(body, "term", "campaigns", "does not campaign")
		return &TimeoutNowResponse{Term: f.term(&err), Started: f.has("campaigns")}, err
	default:
		return nil, fmt.Errorf("there is no message %q: there are %s", kind, strings.Join(messageKinds, ", "))
	}
}

// term, index and place read fields; the first error stays.

func (f parsedFields) term(err *error) Term { return Term(f.index("term", err)) }

func (f parsedFields) index(key string, err *error) Index {
	n, e := f.number(key)
	if *err == nil {
		*err = e
	}
	return Index(n)
}

func (f parsedFields) place(key string, err *error) place {
	p, e := f.entry(key)
	if *err == nil {
		*err = e
	}
	return p
}

func parseVoteRequest(pre bool, body string) (any, error) {
	f, err := parseFields(body, "term", "last", "transfer")
	last := f.place("last", &err)
	return &VoteRequest{Term: f.term(&err), LastLogIndex: last.index, LastLogTerm: last.term, PreVote: pre, Transfer: f.has("transfer")}, err
}

func parseVoteResponse(pre bool, body string) (any, error) {
	f, err := parseFields(body, "term", "granted", "refused")
	if err == nil && f.has("granted") == f.has("refused") {
		err = fmt.Errorf("a vote is either granted or refused")
	}
	response := &VoteResponse{Term: f.term(&err), VoteGranted: f.has("granted"), PreVote: pre}
	for _, refusal := range []VoteRefusal{RefusalStaleTerm, RefusalVoted, RefusalLongerLog, RefusalRestarted} {
		if f["refused"] == refusal.reason("") {
			response.Refusal = refusal
		}
	}
	return response, err
}

func parseAppendEntries(r *rig, body string) (any, error) {
	f, err := parseFields(body, "term", "prev", "entries", "commit")
	if err != nil {
		return nil, err
	}
	places, err := parseRuns(f["entries"])
	prev := f.place("prev", &err)
	return &AppendEntries{
		Term: f.term(&err), PrevLogIndex: prev.index, PrevLogTerm: prev.term, Entries: r.entriesAt(places), LeaderCommit: f.index("commit", &err),
	}, err
}

// parseInstallSnapshot reads a message that carries the snapshot of a log, from the
// first entry on, or a part of it: in a message that a node has sent, that log does
// not show.
func parseInstallSnapshot(r *rig, body string) (any, error) {
	f, err := parseFields(body, "term", "of", "bytes")
	if err != nil {
		return nil, err
	}
	places, err := parseRuns(f["of"])
	if err != nil || len(places) == 0 || places[0] != (place{1, 1}) {
		return nil, fmt.Errorf("%q is no log, as 1..9@1 10@2 is", f["of"])
	}
	m := r.snapshotOf(f.term(&err), r.entriesAt(places))
	if f.has("bytes") && err == nil {
		var from, to uint64
		if n, e := fmt.Sscanf(f["bytes"], "%d to %d", &from, &to); n != 2 || e != nil || from > to || to > m.Size {
			return nil, fmt.Errorf("%q are no bytes of a snapshot of %d, as 0 to 100 are", f["bytes"], m.Size)
		}
		m.Offset, m.Data = from, m.Data[from:to]
	}
	return m, err
}

// fillAnswer sets what scripts leave out.
func fillAnswer(answer, request any, incarnation uint64) {
	switch m := answer.(type) {
	case *VoteResponse:
		m.Incarnation = incarnation
	case *HeartbeatResponse:
		m.Incarnation, m.Round = incarnation, request.(*Heartbeat).Round
	case *AppendResponse:
		m.Incarnation = incarnation
	case *SnapshotResponse:
		m.Incarnation = incarnation
	case *TimeoutNowResponse:
		m.Incarnation = incarnation
	}
}

// lossMode reads what becomes of bytes that are not synced when the power goes.
func (s *script) lossMode() vfs.CrashMode {
	for _, mode := range []vfs.CrashMode{vfs.CrashKeep, vfs.CrashTear, vfs.CrashScatter, vfs.CrashLose} {
		if s.optional(mode.String()) {
			return mode
		}
	}
	return vfs.CrashLose
}
