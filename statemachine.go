package raft

// StateMachine is what the cluster replicates: the application's state, which
// changes by commands alone. All three methods are called from one goroutine
// of the node. They must be deterministic, since every member runs the same
// commands and must end in the same state (thesis §3.5), and must not call the
// Node and wait for it. A panic in any of them stops the node, with the panic
// as the cause.
type StateMachine interface {
	// Apply executes one committed command, in log order. The command is
	// valid only during the call and must not be changed: copy what is kept.
	// The response belongs to raft after the return. err is part of the
	// result: it reaches the proposer as [*ApplyError] and stops nothing.
	Apply(command []byte) (response []byte, err error)

	// Snapshot returns the whole state.
	Snapshot() ([]byte, error)

	// Restore replaces the whole state by that of a snapshot.
	Restore(snapshot []byte) error
}

// Command is a committed command with its place in the log.
type Command struct {
	Index Index
	Term  Term
	Data  []byte // valid only during the call, and must not be changed
}

// ApplyResult is what a command led to.
type ApplyResult struct {
	Response []byte
	Err      error // reaches the proposer as [*ApplyError]
}

// BatchStateMachine is an optional extension of [StateMachine], found by type
// assertion: where it is implemented, ApplyBatch is called instead of Apply,
// with as many commands as are ready.
type BatchStateMachine interface {
	// ApplyBatch executes the commands in order and writes the result of
	// commands[i] to results[i]. Both slices are reused after the return.
	ApplyBatch(commands []Command, results []ApplyResult)
}
