package raft

import (
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
	c, err := n.recover()
	require.NoError(t, err)
	return newLoop(n, newDriver(c, driverSettings{maxApplyBytes: 1 << 20, maxUnappliedBytes: 1 << 20}), time.Now())
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
