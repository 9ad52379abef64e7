package sim

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Store is the state machine of simulated clusters: registers that are read, set
// and compared-and-set.
type Store struct{ values map[string]string }

// NewStore returns an empty store.
func NewStore() *Store { return &Store{map[string]string{}} }

// StoreOf returns a store with these values.
func StoreOf(values map[string]string) *Store { return &Store{maps.Clone(values)} }

// Values returns what the registers hold.
func (s *Store) Values() map[string]string { return maps.Clone(s.values) }

// Apply executes a command and returns the answer. Commands are words:
//
//	ID get KEY            the value
//	ID put KEY VALUE      the value before
//	ID cas KEY OLD VALUE  the value before; it is set if that was OLD
//
// ID is of this command alone. A register that was never set has the value "-".
func (s *Store) Apply(command string) string {
	words := strings.Fields(command)
	if len(words) < 3 {
		return "?"
	}
	key := words[2]
	was, ok := s.values[key]
	if !ok {
		was = "-"
	}
	switch {
	case words[1] == "put" && len(words) == 4:
		s.values[key] = words[3]
	case words[1] == "cas" && len(words) == 5 && was == words[3]:
		s.values[key] = words[4]
	}
	return was
}

// Outcome is how an operation ended for the client.
type Outcome string

// The outcomes. Pending is also that of operations whose node has died.
const (
	Pending Outcome = "pending"
	Done    Outcome = "done"
	Refused Outcome = "refused" // it is certainly not in the log
	Unknown Outcome = "unknown"
)

// Operation is what a client did, and how it went.
type Operation struct {
	Client   int           `json:"client"`
	Node     int           `json:"node"`
	Call     time.Duration `json:"call"`
	Return   time.Duration `json:"return"` // 0: never
	Command  string        `json:"command"`
	Outcome  Outcome       `json:"outcome"`
	Index    uint64        `json:"index,omitempty"`
	Response string        `json:"response,omitempty"`

	Executed bool `json:"-"` // so much is known of one whose outcome is not
	Weak     bool `json:"-"` // it reads, and may see less than there was
}

// Oracle knows what the clients did, and what the cluster has made of it.
type Oracle struct {
	Operations []*Operation
	Reads      []*Operation // without the log

	applied  []Applied // in the order of the log, by whoever applied it first
	at       map[string]int
	sessions map[uint64]string // by index, what some node knew of clients there
}

// Applied is a command in the order in which all state machines must apply them.
type Applied struct {
	Index   uint64
	Command string
}

// NewOracle returns an oracle who has heard of nothing yet.
func NewOracle() *Oracle { return &Oracle{at: map[string]int{}, sessions: map[uint64]string{}} }

// Begin notes that a client has called.
func (o *Oracle) Begin(client, node int, at time.Duration, command string) *Operation {
	op := &Operation{Client: client, Node: node, Call: at, Command: command, Outcome: Pending}
	o.Operations = append(o.Operations, op)
	return op
}

// BeginRead notes that a client has asked to read, on a node and without the log. A read is
// weak if it may see less than there was when it began.
func (o *Oracle) BeginRead(client, node int, at time.Duration, command string, weak bool) *Operation {
	op := &Operation{Client: client, Node: node, Call: at, Command: command, Outcome: Pending, Weak: weak}
	o.Reads = append(o.Reads, op)
	return op
}

// Misses returns the command that is missing in the state after the first n commands, if
// it is to hold all up to an index of the log; false: none.
func (o *Oracle) Misses(n int, index uint64) (Applied, bool) {
	if n < len(o.applied) && o.applied[n].Index <= index {
		return o.applied[n], true
	}
	return Applied{}, false
}

// Sessions notes what a node remembers of clients once it has applied an entry: all nodes
// the same, as a function of the log (§6.3).
func (o *Oracle) Sessions(node int, index uint64, table []byte) error {
	before, ok := o.sessions[index]
	if ok && before != string(table) {
		return fmt.Errorf("sessions are replicated: node %d has the sessions %x at entry %d, another node had %x", node, table, index, before)
	}
	o.sessions[index] = string(table)
	return nil
}

// Apply notes that a node's state machine was given a command: its n-th, from 0
// on. All must be given the same, in the same order (State Machine Safety, figure
// 3.2), each once.
func (o *Oracle) Apply(node, n int, a Applied) error {
	switch {
	case n < len(o.applied):
		if o.applied[n] != a {
			return fmt.Errorf("state machine safety: node %d applies %q at %d as its command %d, another node applied %q at %d", node, a.Command, a.Index, n, o.applied[n].Command, o.applied[n].Index)
		}
	case n > len(o.applied):
		return fmt.Errorf("state machine safety: node %d applies its command %d, and only %d were ever applied", node, n, len(o.applied))
	default:
		if before, ok := o.at[a.Command]; ok {
			return fmt.Errorf("at most once: %q is applied at %d, and was at %d", a.Command, a.Index, o.applied[before].Index)
		}
		o.at[a.Command] = n
		o.applied = append(o.applied, a)
	}
	return nil
}

// Restored notes that a node's state machine was restored: it has the state after
// the first n commands.
func (o *Oracle) Restored(node, n int, s *Store) error {
	if n > len(o.applied) {
		return fmt.Errorf("state machine safety: node %d restores a state of %d commands, and only %d were ever applied", node, n, len(o.applied))
	}
	want := NewStore()
	for _, a := range o.applied[:n] {
		want.Apply(a.Command)
	}
	if !maps.Equal(want.values, s.values) {
		return fmt.Errorf("state machine safety: node %d restores %v as the state of %d commands, which is %v", node, s.values, n, want.values)
	}
	return nil
}

// Check compares what the clients were told with what was applied: each answer is
// that of the replay, nothing that was refused appears, and what began after
// something else had ended comes after it in the log. Together this is
// linearizability, with operations of unknown outcome happening or not.
func (o *Oracle) Check() error {
	responses := o.replay()
	for _, op := range o.Operations {
		n, appears := o.at[op.Command]
		switch {
		case op.Outcome == Refused && appears:
			return fmt.Errorf("exact outcomes: %q was refused, and applied at %d", op.Command, o.applied[n].Index)
		case op.Executed && !appears:
			return fmt.Errorf("exact outcomes: %q was executed, as its client was told, and nobody did", op.Command)
		case op.Outcome == Done && !appears:
			return fmt.Errorf("durability: %q was acknowledged at %d, and is gone", op.Command, op.Index)
		case op.Outcome == Done && o.applied[n].Index != op.Index:
			return fmt.Errorf("exact outcomes: %q was acknowledged at %d, and applied at %d", op.Command, op.Index, o.applied[n].Index)
		case op.Outcome == Done && responses[n] != op.Response:
			return fmt.Errorf("exact outcomes: %q was answered with %q, and is %q by the log", op.Command, op.Response, responses[n])
		}
	}
	return o.checkRealTime()
}

func (o *Oracle) replay() []string {
	store := NewStore()
	responses := make([]string, len(o.applied))
	for i, a := range o.applied {
		responses[i] = store.Apply(a.Command)
	}
	return responses
}

// checkRealTime: whoever called after another one had returned comes later. The
// operations are in the order of their calls.
func (o *Oracle) checkRealTime() error {
	returned := slices.DeleteFunc(slices.Clone(o.Operations), func(op *Operation) bool { return op.Outcome != Done })
	slices.SortStableFunc(returned, func(a, b *Operation) int { return cmp.Compare(a.Return, b.Return) })
	next, latest := 0, -1
	var who *Operation
	for _, op := range o.Operations {
		for next < len(returned) && returned[next].Return < op.Call {
			if n := o.at[returned[next].Command]; n > latest {
				latest, who = n, returned[next]
			}
			next++
		}
		if n, appears := o.at[op.Command]; appears && n < latest {
			return fmt.Errorf("real-time order: %q was called at %v and is applied at %d, before %q at %d, which had returned at %v", op.Command, op.Call, o.applied[n].Index, who.Command, o.applied[latest].Index, who.Return)
		}
	}
	return nil
}

// Acknowledged returns how many operations were done.
func (o *Oracle) Acknowledged() (n int) {
	for _, op := range o.Operations {
		if op.Outcome == Done {
			n++
		}
	}
	return n
}

// WriteHistory writes the operations, one in a line, as JSON, but for weak reads.
func (o *Oracle) WriteHistory(w io.Writer) error {
	encoder := json.NewEncoder(w)
	for _, op := range slices.Concat(o.Operations, o.Reads) {
		if op.Weak {
			continue
		}
		if err := encoder.Encode(op); err != nil {
			return err
		}
	}
	return nil
}
