package raft_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// State machines that stream their state, and what goes wrong in them.

// vault is a recorder that streams its state, and does what a test wants on the way.
type vault struct {
	recorder
	capturing func() error                                               // ahead of a capture
	replaced  func(raft.SnapshotView) raft.SnapshotView                  // makes a view another one
	writing   func(ctx context.Context, w io.Writer, state []byte) error // instead of writing the state
	closing   func() error                                               // while a view is closed
	restoring func(ctx context.Context) error                            // ahead of a restore
	captured  atomic.Int64                                               // views
	open      atomic.Int64                                               // of them, those that are not closed
}

func (v *vault) Snapshot() ([]byte, error) { panic("not called") }
func (v *vault) Restore([]byte) error      { panic("not called") }

func (v *vault) CaptureSnapshot() (raft.SnapshotView, error) {
	if v.capturing != nil {
		if err := v.capturing(); err != nil {
			return nil, err
		}
	}
	state, err := v.recorder.Snapshot()
	if err != nil {
		return nil, err
	}
	if v.replaced != nil {
		return v.replaced(&vaultView{v, state}), nil
	}
	v.captured.Add(1)
	v.open.Add(1)
	return &vaultView{v, state}, nil
}

func (v *vault) RestoreFrom(ctx context.Context, r io.Reader) error {
	if v.restoring != nil {
		if err := v.restoring(ctx); err != nil {
			return err
		}
	}
	state, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return v.recorder.Restore(state)
}

type vaultView struct {
	vault *vault
	state []byte
}

func (v *vaultView) WriteTo(ctx context.Context, w io.Writer) error {
	if write := v.vault.writing; write != nil {
		return write(ctx, w, v.state)
	}
	_, err := w.Write(v.state)
	return err
}

func (v *vaultView) Close() error {
	v.vault.open.Add(-1)
	if v.vault.closing != nil {
		return v.vault.closing()
	}
	return nil
}

func (c *cluster) vault(id raft.NodeID) *vault { return c.members[id].machine.(*vault) }

// vaults makes vaults.
func vaults(raft.NodeID) raft.StateMachine { return new(vault) }

// sleep waits for a time in the bubble, or for the end of a ctx.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errVault = errors.New("the vault is locked")

// A state that cannot be captured, or a view that cannot be written, costs a snapshot
// and nothing else, whatever the way in which it fails: the state machine itself is as
// it was. The next snapshot succeeds.
func TestSnapshotThatFailsStopsNothing(t *testing.T) {
	t.Parallel()
	none := func(raft.SnapshotView) raft.SnapshotView { return nil }
	for name, failure := range map[string]struct {
		spoil func(*vault)
		says  string
	}{
		"no capture":  {func(v *vault) { v.capturing = func() error { return errVault } }, errVault.Error()},
		"no view":     {func(v *vault) { v.replaced = none }, "neither a view of its state nor an error"},
		"write fails": {func(v *vault) { v.writing = func(context.Context, io.Writer, []byte) error { return errVault } }, errVault.Error()},
		"write panics": {func(v *vault) {
			v.writing = func(context.Context, io.Writer, []byte) error { panic("a slip of the pen") }
		}, "the view of the state machine panicked: a slip of the pen"},
		"write panics in the middle": {func(v *vault) {
			v.writing = func(_ context.Context, w io.Writer, state []byte) error {
				_, err := w.Write(state)
				panic(fmt.Sprint("a slip of the pen: ", err))
			}
		}, "the view of the state machine panicked: a slip of the pen: <nil>"},
		"write ends its goroutine": {func(v *vault) {
			v.writing = func(context.Context, io.Writer, []byte) error { runtime.Goexit(); return nil }
		}, "ended the goroutine"},
		"close fails":  {func(v *vault) { v.closing = func() error { return errVault } }, errVault.Error()},
		"close panics": {func(v *vault) { v.closing = func() error { panic("the door is stuck") } }, "panicked: the door is stuck"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 1, clusterOptions{machine: vaults})
				v := c.vault("a")
				c.proposeMany("a", 0, 3)
				failure.spoil(v)
				_, err := c.node("a").TakeSnapshot(t.Context())
				require.ErrorContains(t, err, "raft: node a could not take a snapshot: ")
				require.ErrorContains(t, err, failure.says)
				require.Contains(t, c.status("a").Reason, "no snapshot could be taken: ")
				require.Zero(t, c.status("a").SnapshotIndex)
				require.Zero(t, v.open.Load(), "views that are open")

				v.capturing, v.replaced, v.writing, v.closing = nil, nil, nil, nil
				index, err := c.node("a").TakeSnapshot(t.Context())
				require.NoError(t, err, "nothing is left of the failure")
				require.Equal(t, c.status("a").AppliedIndex, index)
				require.Empty(t, c.status("a").Reason)
				require.Zero(t, v.open.Load())
				c.proposeMany("a", 3, 3)
				c.stop("a")
				c.start("a")
				c.leader()
				require.Len(t, c.applied("a"), 6)
				require.Equal(t, 1, c.restored("a"))
			})
		})
	}
}

// spoiled is a recorder with other methods for snapshots.
type spoiled struct {
	recorder
	snapshot func() ([]byte, error)
	restore  func([]byte) error
}

func (s *spoiled) Snapshot() ([]byte, error) {
	if s.snapshot != nil {
		return s.snapshot()
	}
	return s.recorder.Snapshot()
}

func (s *spoiled) Restore(state []byte) error {
	if s.restore != nil {
		return s.restore(state)
	}
	return s.recorder.Restore(state)
}

// A state machine that panics, or cannot become what a snapshot says, is in no state
// that anybody knows. The node stops, with that as the cause, and who waits is told.
func TestA3PanicForASnapshotStopsTheNode(t *testing.T) {
	t.Parallel()
	oops := func() { panic("oops") }
	for name, test := range map[string]struct {
		machine func() raft.StateMachine
		says    string
	}{
		"Snapshot panics": {func() raft.StateMachine {
			return &spoiled{snapshot: func() ([]byte, error) { oops(); return nil, nil }}
		}, "state machine panicked while it was asked for a snapshot of entry 5: oops"},
		"Snapshot ends": {func() raft.StateMachine {
			return &spoiled{snapshot: func() ([]byte, error) { runtime.Goexit(); return nil, nil }}
		}, "the state machine ended the goroutine that it was called from"},
		"CaptureSnapshot panics": {func() raft.StateMachine { return &vault{capturing: func() error { oops(); return nil }} }, "state machine panicked while it was asked for a snapshot of entry 5: oops"},
		"CaptureSnapshot ends":   {func() raft.StateMachine { return &vault{capturing: func() error { runtime.Goexit(); return nil }} }, "the state machine ended the goroutine that it was called from"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 1, clusterOptions{machine: func(raft.NodeID) raft.StateMachine { return test.machine() }, ended: func(*testing.T, raft.NodeID, error) {}})
				c.proposeMany("a", 0, 3)
				node := c.node("a")
				_, err := node.TakeSnapshot(t.Context())
				require.ErrorIs(t, err, raft.ErrStopped)
				require.ErrorContains(t, err, test.says)
				<-node.Done()
				require.ErrorContains(t, node.Err(), test.says)
				requireUnknownOrRefused(t, propose(t.Context(), node))
			})
		})
	}
	for name, test := range map[string]struct {
		machine func() raft.StateMachine
		says    string
	}{
		"Restore fails":  {func() raft.StateMachine { return &spoiled{restore: func([]byte) error { return errVault }} }, "state machine could not restore the snapshot of entry 5: the vault is locked"},
		"Restore panics": {func() raft.StateMachine { return &spoiled{restore: func([]byte) error { oops(); return nil }} }, "state machine panicked while it restored the snapshot of entry 5: oops"},
		"Restore ends": {func() raft.StateMachine {
			return &spoiled{restore: func([]byte) error { runtime.Goexit(); return nil }}
		}, "the state machine ended the goroutine that it was called from"},
		"RestoreFrom fails":  {func() raft.StateMachine { return &vault{restoring: func(context.Context) error { return errVault }} }, "state machine could not restore the snapshot of entry 5: the vault is locked"},
		"RestoreFrom panics": {func() raft.StateMachine { return &vault{restoring: func(context.Context) error { oops(); return nil }} }, "state machine panicked while it restored the snapshot of entry 5: oops"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				next := func() raft.StateMachine { return newRecorder() }
				c := startCluster(t, 1, clusterOptions{machine: func(raft.NodeID) raft.StateMachine { return next() }, ended: func(*testing.T, raft.NodeID, error) {}})
				c.proposeMany("a", 0, 3)
				_, err := c.node("a").TakeSnapshot(t.Context())
				require.NoError(t, err)
				c.stop("a")
				next = test.machine
				c.start("a")
				node := c.node("a")
				<-node.Done()
				require.ErrorContains(t, node.Err(), test.says)
				c.stop("a")
				next = func() raft.StateMachine { return newRecorder() }
				c.start("a")
				c.leader()
				require.Len(t, c.applied("a"), 3, "the snapshot is as it was")
			})
		})
	}
}

// requireUnknownOrRefused requires the error of a command at a node that has stopped.
func requireUnknownOrRefused(t *testing.T, err error) {
	t.Helper()
	require.True(t, errors.Is(err, raft.ErrNotAccepted) || errors.Is(err, raft.ErrOutcomeUnknown), "%v", err)
}

// What a view writes is the state at the moment of its capture, however long it takes
// and whatever is applied meanwhile.
func TestViewIsWrittenWhileCommandsAreApplied(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{machine: vaults, configure: func(config *raft.Config) { config.TrailingEntries = 1 }})
		c.vault("a").writing = func(ctx context.Context, w io.Writer, state []byte) error {
			for i := range state {
				if err := sleep(ctx, 100*time.Millisecond); err != nil {
					return err
				}
				if _, err := w.Write(state[i : i+1]); err != nil {
					return err
				}
			}
			return nil
		}
		c.proposeMany("a", 0, 3)
		covered := c.status("a").AppliedIndex
		taken := make(chan raft.Index, 2)
		for range 2 { // the second one wants no less than the first
			go func() {
				index, err := c.node("a").TakeSnapshot(t.Context())
				require.NoError(t, err)
				taken <- index
			}()
		}
		time.Sleep(time.Second)
		began := time.Now()
		c.proposeMany("a", 3, 50)
		require.Zero(t, time.Since(began), "commands do not wait")
		require.Equal(t, covered, <-taken)
		require.Equal(t, covered, <-taken)
		require.EqualValues(t, 1, c.vault("a").captured.Load())
		require.Equal(t, covered, c.status("a").FirstIndex, "the log was compacted")
		require.Greater(t, time.Since(began), 2*time.Second)
		c.kill("a")
		c.start("a")
		c.leader()
		require.Len(t, c.applied("a"), 53)
		require.Equal(t, 1, c.restored("a"))
	})
}

// A snapshot that is due and fails is tried again after a minute, not at once, and the
// log grows until then.
func TestFailedSnapshotIsTriedAgainLater(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{machine: vaults, configure: often})
		v := c.vault("a")
		var attempts atomic.Int64
		v.writing = func(context.Context, io.Writer, []byte) error { attempts.Add(1); return errVault }
		for i := range 50 {
			c.propose("a", fmt.Sprint("command ", i))
			time.Sleep(time.Second)
		}
		require.EqualValues(t, 1, attempts.Load())
		require.EqualValues(t, 1, c.status("a").FirstIndex)
		require.Contains(t, c.status("a").Reason, errVault.Error())
		v.writing = nil
		c.eventually(time.Minute, "the log is compacted", func() bool { return c.status("a").FirstIndex > 20 })
		require.Empty(t, c.status("a").Reason)
	})
}
