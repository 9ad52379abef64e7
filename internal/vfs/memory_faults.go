package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"
)

// OpKind says which method of FS or File an operation is.
type OpKind int

// The kinds up to OpTruncate can change the disk, and are counted.
const (
	OpMkdir OpKind = iota // one directory of MkdirAll
	OpCreate
	OpRename
	OpRemove
	OpSyncDir
	OpWrite // WriteAt and WritevAt
	OpSync
	OpAllocate
	OpTruncate

	OpOpen
	OpList
	OpLock
	OpRead
	OpSize
)

var opNames = [...]string{
	OpMkdir: "mkdir", OpCreate: "create", OpRename: "rename", OpRemove: "remove",
	OpSyncDir: "syncdir", OpWrite: "write", OpSync: "sync", OpAllocate: "allocate",
	OpTruncate: "truncate", OpOpen: "open", OpList: "list", OpLock: "lock",
	OpRead: "read", OpSize: "size",
}

func (k OpKind) String() string {
	if k < 0 || int(k) >= len(opNames) {
		return fmt.Sprintf("OpKind(%d)", int(k))
	}
	return opNames[k]
}

// Op is an operation that is about to take effect.
type Op struct {
	Kind   OpKind
	Number int    // as Operations counts; 0 for one that is not counted
	Name   string // as it was given to the method, or to Create or Open
	To     string // the new name of OpRename
	Offset int64  // of OpRead and OpWrite
	Length int64  // of OpRead and OpWrite; the size of OpAllocate and OpTruncate
}

func (o Op) String() string {
	switch o.Kind {
	case OpRename:
		return fmt.Sprintf("%d %v %s to %s", o.Number, o.Kind, o.Name, o.To)
	case OpRead, OpWrite, OpAllocate, OpTruncate:
		return fmt.Sprintf("%d %v %s %d+%d", o.Number, o.Kind, o.Name, o.Offset, o.Length)
	default:
		return fmt.Sprintf("%d %v %s", o.Number, o.Kind, o.Name)
	}
}

// ErrIO is what a broken disk returns.
var ErrIO error = syscall.EIO

// ErrNoSpace is what a full disk returns.
var ErrNoSpace = errNoSpace

// ShortWrite lets the first bytes of a write be written before the error.
type ShortWrite struct {
	Bytes int
	Err   error
}

func (e *ShortWrite) Error() string {
	return fmt.Sprintf("wrote only %d bytes: %v", e.Bytes, e.Err)
}

func (e *ShortWrite) Unwrap() error { return e.Err }

// Inject sets a hook that every operation passes before it takes effect; nil
// takes it away. The hook runs in the goroutine of the operation, without any
// lock, so it may block, which stalls that operation and no other; what the
// machine does meanwhile comes first.
//
// The operation returns the error of the hook and has no effect, with three
// exceptions: after a Sync that fails the bytes it should have made durable are
// lost, a write with a [ShortWrite] is done in part, and ErrCrashed ends the
// machine at this operation.
func (m *Memory) Inject(hook func(Op) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inject = hook
}

// KeepAfterFailedSync chooses what a process sees of the bytes that a failed
// Sync lost. Normally they are gone at once. With true they can be read until
// the crash, as from a page cache that takes them for written.
func (m *Memory) KeepAfterFailedSync(keep bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keepFailed = keep
}

// SetCapacity bounds the sum of the sizes of all files; 0 takes the bound away.
// A write that needs more is done as far as it fits and returns ErrNoSpace, as
// Allocate and Truncate do without any effect.
func (m *Memory) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// FailAfter sets the operation, as Operations counts, from which on everything
// returns ErrCrashed: that one has no effect any more. If it is past, the
// machine crashes now.
func (m *Memory) FailAfter(operation int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failAt = operation
	m.crashed = m.crashed || operation <= m.operations
}

// Operations returns how many operations there were that can change the disk.
// Those that only read are not counted, because a crash at one of them leaves
// what a crash at the next change would.
func (m *Memory) Operations() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.operations
}

// Crashed reports whether operations fail with ErrCrashed.
func (m *Memory) Crashed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.crashed
}

// do makes an operation unless it is to fail.
func (m *Memory) do(op Op, effect func() error) error {
	return m.attempt(op, func(injected error) error {
		if injected != nil {
			return injected
		}
		return effect()
	})
}

// attempt makes an operation and says in its error which one it was. The effect
// runs under the lock, and decides what the error of the hook means.
func (m *Memory) attempt(op Op, effect func(injected error) error) error {
	hook, err := m.begin(&op)
	if err == nil && hook != nil {
		err = hook(op)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashed = m.crashed || errors.Is(err, ErrCrashed)
	if m.crashed {
		err = ErrCrashed
	} else {
		err = effect(err)
	}
	if err != nil {
		err = &fs.PathError{Op: op.Kind.String(), Path: op.Name, Err: err}
	}
	return err
}

// begin counts an operation.
func (m *Memory) begin(op *Op) (hook func(Op) error, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if op.Kind <= OpTruncate && !m.crashed {
		m.operations++
		op.Number = m.operations
		m.crashed = m.operations == m.failAt
	}
	if m.crashed {
		return nil, ErrCrashed
	}
	return m.inject, nil
}

// Nth returns a hook that fails the n-th operation of a kind, counted from 1
// and from now.
func Nth(kind OpKind, n int, err error) func(Op) error {
	var mu sync.Mutex
	seen := 0
	return func(op Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == kind {
			if seen++; seen == n {
				return err
			}
		}
		return nil
	}
}

// Gate stalls those who pass it while it is held. The zero value is open. To
// stall the syncs of a disk:
//
//	var gate vfs.Gate
//	disk.Inject(func(op vfs.Op) error {
//		if op.Kind == vfs.OpSync {
//			gate.Pass()
//		}
//		return nil
//	})
//	gate.Hold()
//
// In a bubble of testing/synctest, Hold must be called in the bubble.
type Gate struct {
	mu      sync.Mutex
	waiting int
	closed  chan struct{} // nil while open
}

// Hold closes the gate.
func (g *Gate) Hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = make(chan struct{})
	}
}

// Release opens the gate and lets all go on who wait at it.
func (g *Gate) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		close(g.closed)
		g.closed = nil
	}
}

// Waiting returns how many wait at the gate.
func (g *Gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}

// Pass waits until the gate is open.
func (g *Gate) Pass() {
	g.mu.Lock()
	closed := g.closed
	if closed != nil {
		g.waiting++
	}
	g.mu.Unlock()
	if closed == nil {
		return
	}
	<-closed
	g.mu.Lock()
	g.waiting--
	g.mu.Unlock()
}
