package sim

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Trace records a life so that one can look at it: what the nodes were at each
// time, the way of each message, faults and the story. A nil trace records
// nothing, and neither changes what happens.
type Trace struct {
	world    *World
	names    []string
	describe func(message any) Label

	messages []*tracedMessage
	states   []tracedState
	faults   []tracedFault
	cuts     []*tracedCut
	lines    []tracedLine
	latest   []State          // of each node
	open     map[[2]int]*span // links that are cut at present
	healed   time.Duration
}

// Label says in words what a message is.
type Label struct {
	Kind    string // one of few: each has its colour
	Answer  bool
	Refused bool
	Text    string
}

// State is what a node is at a time. Nodes have numbers; -1 is nobody.
type State struct {
	Up, Frozen   bool
	Role         string
	Term         uint64
	Vote, Leader int
	Last         uint64 // entry of the log
	Durable      uint64 // the last one on disk
	Commit       uint64
	Applied      uint64
}

// span is a stretch of time; end is -1 as long as it is not over.
type span struct{ begin, end time.Duration }

type tracedMessage struct {
	span
	trace    *Trace
	from, to int
	fate     fate
	doubled  bool
	label    Label
}

// fate is what became of a message. The page knows the numbers.
type fate int

const (
	underWay  fate = iota // as the life ended
	arrived               // which does not mean that somebody was there
	lost                  // by a bad link
	cutOff                // by a link that is cut
	wentAlong             // with the stream, which broke
)

type tracedState struct {
	at   time.Duration
	node int
	State
}

type tracedFault struct {
	at time.Duration
	Fault
}

type tracedCut struct {
	*span
	from, to int
}

type tracedLine struct {
	at time.Duration
	Line
}

// Record has everything recorded from now on. Names are those of the nodes, and
// describe tells what a message is that was given to the network.
func (w *World) Record(net *Network, names []string, describe func(message any) Label) *Trace {
	t := &Trace{world: w, names: names, describe: describe, latest: make([]State, len(names)), open: map[[2]int]*span{}, healed: -1}
	net.trace = t
	tell := w.Tell
	w.Tell = func(at time.Duration, line Line) {
		t.lines = append(t.lines, tracedLine{at, line})
		if tell != nil {
			tell(at, line)
		}
	}
	return t
}

// Show records what a node is now.
func (t *Trace) Show(node int, s State) {
	if t != nil && t.latest[node] != s {
		t.latest[node] = s
		t.states = append(t.states, tracedState{t.world.now, node, s})
	}
}

// message records that a message sets out.
func (t *Trace) message(from, to int, message any) *tracedMessage {
	if t == nil {
		return nil
	}
	m := &tracedMessage{span: span{t.world.now, -1}, trace: t, from: from, to: to, label: t.describe(message)}
	t.messages = append(t.messages, m)
	return m
}

func (m *tracedMessage) ends(f fate) {
	if m != nil {
		m.end, m.fate = m.trace.world.now, f
	}
}

func (m *tracedMessage) double(is bool) {
	if m != nil {
		m.doubled = is
	}
}

// fault records that a fault begins.
func (t *Trace) fault(f Fault) {
	if t != nil {
		t.faults = append(t.faults, tracedFault{t.world.now, f})
	}
}

// link records that a link is cut, or no longer.
func (t *Trace) link(from, to int, cut bool) {
	if t == nil {
		return
	}
	between := [2]int{from, to}
	switch s := t.open[between]; {
	case cut && s == nil:
		s = &span{t.world.now, -1}
		t.open[between] = s
		t.cuts = append(t.cuts, &tracedCut{s, from, to})
	case !cut && s != nil:
		s.end = t.world.now
		delete(t.open, between)
	}
}

// heal records that all faults are over.
func (t *Trace) heal() {
	if t == nil {
		return
	}
	t.healed = t.world.now
	for between := range t.open {
		t.link(between[0], between[1], false)
	}
}

//go:embed trace.html
var tracePage string

// dataMark is where the page has its data.
const dataMark = "{{life}}"

// WritePage writes what was recorded as one page that needs nothing else. The
// title says which life it is, the remarks say more about it, and verdict is the
// promise that was broken; nil: none.
func (t *Trace) WritePage(w io.Writer, title string, remarks []string, verdict error) error {
	data, err := json.Marshal(t.life(title, remarks, verdict)) // in which no < is left, so that nothing in it ends the script
	if err == nil {
		_, err = io.WriteString(w, strings.Replace(tracePage, dataMark, string(data), 1))
	}
	return err
}

// tracedLife is a life as the page reads it. Times are microseconds, -1 for none,
// and what is named word is a place in Words.
type tracedLife struct {
	Title    string   `json:"title"`
	Remarks  []string `json:"remarks"`
	Verdict  string   `json:"verdict"` // empty: all promises were kept
	Events   int      `json:"events"`
	End      int64    `json:"end"`
	Healed   int64    `json:"healed"`
	Nodes    []string `json:"nodes"`
	Words    []string `json:"words"`
	Messages []row    `json:"messages"` // from, to, sent, ended, fate, flags (1 answer, 2 refused, 4 doubled), kind word, text word
	States   []row    `json:"states"`   // at, node, flags (1 up, 2 frozen), role word, term, vote, leader, last, durable, commit, applied
	Faults   []row    `json:"faults"`   // number, kind word, begin, end, scope, node, peer, level in percent
	Cuts     []row    `json:"cuts"`     // from, to, begin, end
	Lines    []row    `json:"lines"`    // at, node, peer, kind word, text word
}

type row []int64

func (t *Trace) life(title string, remarks []string, verdict error) tracedLife {
	life := tracedLife{Title: title, Remarks: remarks, Events: t.world.Events(), End: micros(t.world.now), Healed: micros(t.healed), Nodes: t.names}
	if verdict != nil {
		life.Verdict = verdict.Error()
	}
	words := map[string]int64{}
	word := func(s string) int64 {
		n, ok := words[s]
		if !ok {
			n = int64(len(words))
			words[s] = n
			life.Words = append(life.Words, s)
		}
		return n
	}
	for _, m := range t.messages {
		flags := flag(m.label.Answer, 1) | flag(m.label.Refused, 2) | flag(m.doubled, 4)
		life.Messages = append(life.Messages, row{int64(m.from), int64(m.to), micros(m.begin), micros(m.end), int64(m.fate), flags, word(m.label.Kind), word(m.label.Text)})
	}
	for _, s := range t.states {
		flags := flag(s.Up, 1) | flag(s.Frozen, 2)
		life.States = append(life.States, row{micros(s.at), int64(s.node), flags, word(s.Role), int64(s.Term), int64(s.Vote), int64(s.Leader), int64(s.Last), int64(s.Durable), int64(s.Commit), int64(s.Applied)})
	}
	over := t.world.now
	if t.healed >= 0 {
		over = t.healed
	}
	for _, f := range t.faults {
		life.Faults = append(life.Faults, row{int64(f.Number), word(f.Kind.String()), micros(f.at), micros(min(f.at+f.For, over)), int64(f.Kind.scope()), int64(f.Node), int64(f.Peer), int64(100 * f.Level)})
	}
	for _, c := range t.cuts {
		life.Cuts = append(life.Cuts, row{int64(c.from), int64(c.to), micros(c.begin), micros(c.end)})
	}
	for _, l := range t.lines {
		life.Lines = append(life.Lines, row{micros(l.at), int64(l.Node), int64(l.Peer), word(l.Kind), word(l.Text)})
	}
	return life
}

func micros(d time.Duration) int64 {
	if d < 0 {
		return -1
	}
	return d.Microseconds()
}

func flag(set bool, value int64) int64 {
	if set {
		return value
	}
	return 0
}

// String says how much was recorded.
func (t *Trace) String() string {
	return fmt.Sprintf("%d messages, %d states of nodes, %d faults, %d lines", len(t.messages), len(t.states), len(t.faults), len(t.lines))
}
