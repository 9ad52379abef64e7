package raft

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newStoppedLoop returns the loop of a node of its own that does not turn, so
// that a test decides what falls into one step.
func newStoppedLoop(t *testing.T) *loop {
	config := NewConfig("a", "address", map[NodeID]string{"a": "address"})
	config.Storage = NewMemoryStorage()
	network := NewMemoryNetwork()
	n, err := NewNode(config, noMachine{}, network.Transport("a"))
	require.NoError(t, err)
	d, err := n.recover(t.Context())
	require.NoError(t, err)
	return newLoop(n, d, time.Now())
}

type noMachine struct{}

func (noMachine) Apply([]byte) ([]byte, error) { return nil, nil }
func (noMachine) Snapshot() ([]byte, error)    { return nil, nil }
func (noMachine) Restore([]byte) error         { return nil }

// A node may fail in the very step that commits an entry: whoever waits for the
// entry is told, though nobody applies it.
func TestStepThatFailsEndsTheWaitsForWhatItCommitted(t *testing.T) {
	l := newStoppedLoop(t)
	cause := errors.New("the disk is gone")
	var outcomes []error
	run := waitingRun{first: 7, term: 1, proposals: []proposal{{done: func(_ Result, err error) { outcomes = append(outcomes, err) }}}}
	err := l.carryOut(work{failure: cause, apply: &applyTask{waiting: []waitingRun{run}}})
	require.Equal(t, cause, err)
	l.shutDown(err)
	l.node.callers.Wait()
	require.Len(t, outcomes, 1)
	var unknown *OutcomeUnknownError
	require.ErrorAs(t, outcomes[0], &unknown)
	require.Equal(t, Index(7), unknown.Index)
	require.ErrorIs(t, outcomes[0], cause)
}

// Whoever asked for the status just before the end gets the last one.
func TestStatusAskedForAtTheEndIsAnswered(t *testing.T) {
	l := newStoppedLoop(t)
	answer := make(chan Status, 1)
	require.True(t, l.node.inbox.ask(answer))
	l.shutDown(nil)
	require.Len(t, answer, 1)
	require.Contains(t, (<-answer).Reason, "stopped")
	require.False(t, l.node.inbox.ask(answer))
}

// A callback may ask for the status, in the step in which the node fails too.
func TestStatusInACallbackOfAFailingStepIsAnswered(t *testing.T) {
	l := newStoppedLoop(t)
	l.node.serving = true
	var status Status
	run := waitingRun{proposals: []proposal{{done: func(Result, error) { status = l.node.Status() }}}}
	err := l.carryOut(work{failure: errors.New("the disk is gone"), failed: []failedRun{{run, ErrNotLeader}}})
	l.shutDown(err)
	l.node.callers.Wait()
	require.Contains(t, status.Reason, "the disk is gone")
}

// Who has the answer to a command finds it applied in the status, even before the loop has
// heard of it from the applier, and in the last status of a node that stops.
func TestStatusIsNotOlderThanAnAnswer(t *testing.T) {
	l := newStoppedLoop(t)
	var applied []Index
	look := proposal{done: func(Result, error) { applied = append(applied, l.status(0).AppliedIndex) }}
	run := waitingRun{first: 1, term: 1, proposals: []proposal{look, look}}
	commands := MakeEntries(LogEntry{Term: 1, Index: 1, Kind: EntryCommand}, LogEntry{Term: 1, Index: 2, Kind: EntryCommand})
	require.NoError(t, l.applier.run(&applyTask{first: 1, last: 2, entries: commands, waiting: []waitingRun{run}}))
	require.Equal(t, []Index{1, 2}, applied, "nor newer than what is applied")
	l.shutDown(nil)
	require.Equal(t, Index(2), l.node.Status().AppliedIndex)
}

// Answers to a sender's AppendEntries keep their order to the end: what waits
// for the disk came before what is still in the inbox.
func TestAppendsAreAnsweredInOrderAtTheEnd(t *testing.T) {
	l := newStoppedLoop(t)
	var answered []int
	respond := func(i int) responder {
		return func(any, error) { answered = append(answered, i) }
	}
	l.driver.appendReplies = []reply{{respond: respond(1)}}
	require.True(t, l.node.inbox.post(appendArrived{&AppendEntries{}, respond(2)}))
	l.shutDown(nil)
	require.Equal(t, []int{1, 2}, answered)
}

// nothingTransport breaks the contract: it returns neither responses nor errors.
type nothingTransport struct{ Transport }

func (nothingTransport) CallVote(context.Context, NodeID, *VoteRequest) (*VoteResponse, error) {
	return nil, nil
}
func (nothingTransport) CallHeartbeat(context.Context, NodeID, *Heartbeat) (*HeartbeatResponse, error) {
	return nil, nil
}
func (nothingTransport) CallAppend(context.Context, NodeID, *AppendEntries) (*AppendResponse, error) {
	return nil, nil
}

func TestTransportThatReturnsNothingIsAnError(t *testing.T) {
	l := newStoppedLoop(t)
	l.node.transport = nothingTransport{l.node.transport}
	s := l.sender("b")
	s.vote(&VoteRequest{})
	s.heartbeat(&Heartbeat{})
	s.append(&AppendEntries{}, time.Second)
	var lost, unanswered int
	require.Eventually(t, func() bool {
		for _, event := range l.node.inbox.take(nil, 0, true).events {
			switch e := event.(type) {
			case voteAnswered:
				require.ErrorIs(t, e.err, errNoResponse)
				unanswered++
			case heartbeatAnswered:
				require.ErrorIs(t, e.err, errNoResponse)
				unanswered++
			case appendLost:
				require.ErrorIs(t, e.err, errNoResponse)
				lost++
			}
		}
		return lost == 1 && unanswered == 2
	}, 5*time.Second, time.Millisecond)
	l.shutDown(nil)
}

// slowTransport has calls that end with their ctx, and says when.
type slowTransport struct {
	Transport
	ended chan *AppendEntries
}

func (s slowTransport) CallAppend(ctx context.Context, _ NodeID, m *AppendEntries) (*AppendResponse, error) {
	<-ctx.Done()
	defer func() { s.ended <- m }()
	return nil, ctx.Err()
}

// The end of a call that was given up must not disturb the one in its place.
func TestGivenUpCallIsNotHeardOfAgain(t *testing.T) {
	l := newStoppedLoop(t)
	transport := slowTransport{l.node.transport, make(chan *AppendEntries, 2)}
	l.node.transport = transport
	s := l.sender("b")
	first, second := &AppendEntries{Term: 1}, &AppendEntries{Term: 2}
	s.append(first, time.Hour)
	s.append(second, time.Hour)
	require.Same(t, first, <-transport.ended)
	s.reset()
	require.Same(t, second, <-transport.ended)
	l.group.Wait()
	require.Empty(t, l.node.inbox.take(nil, 0, true).events)
	l.shutDown(nil)
}
