package raft

import (
	"runtime"
	"strings"
	"time"
)

// The callbacks of asynchronous commands that have failed. Those of commands that were
// applied are made by the applier.

// callBack has f called from a goroutine that does nothing else: neither the
// loop nor a caller of ProposeAsync may run code of others. The end of Run waits
// for it, but not for what is left to call after that: a callback that proposes
// again without end must not keep a node from stopping.
func (n *Node) callBack(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.callsLeft.Add(1)
	if n.finished {
		go func() {
			defer n.callMade()
			f()
		}()
		return
	}
	if n.calls = append(n.calls, f); !n.calling {
		n.calling = true
		n.callers.Go(n.makeCalls)
	}
}

// makeCalls makes the callbacks that wait, in order, and ends when none does. If
// one of them ends the goroutine, as a failing assertion of a test does, another
// goroutine goes on with the next.
func (n *Node) makeCalls() {
	ended := false
	defer func() {
		if !ended {
			n.callers.Go(n.makeCalls)
		}
	}()
	for {
		n.mu.Lock()
		if n.calling = len(n.calls) > 0; !n.calling {
			n.calls, ended = nil, true
			n.mu.Unlock()
			return
		}
		call := n.calls[0]
		n.calls[0] = nil
		n.calls = n.calls[1:]
		n.mu.Unlock()
		n.callMade()
		call()
	}
}

// maxCalls is how many callbacks with errors may wait without slowing down who proposes.
const maxCalls = 1 << 14

// slowDown waits until callbacks have caught up, but not for long: one of them may wait for
// the caller, against the rule.
func (n *Node) slowDown() {
	n.mu.Lock()
	if n.callsLeft.Load() <= maxCalls {
		n.mu.Unlock()
		return
	}
	if n.slowed == nil {
		n.slowed = make(chan struct{})
	}
	caughtUp := n.slowed
	n.mu.Unlock()
	patience := time.NewTimer(10 * time.Millisecond)
	defer patience.Stop()
	select {
	case <-caughtUp:
	case <-patience.C:
	}
}

// calledByLibrary reports whether this library has called the caller of ProposeAsync, as it
// does with callbacks: to wait on a goroutine of its own would hold up what is waited for.
func calledByLibrary() bool {
	calls := make([]uintptr, 64)
	for runtime.Callers(1, calls) == len(calls) {
		calls = make([]uintptr, 2*len(calls))
	}
	frames := runtime.CallersFrames(calls[:runtime.Callers(1, calls)])
	frame, more := frames.Next()
	library := strings.TrimSuffix(frame.Function, "calledByLibrary")
	for calling := true; more; {
		frame, more = frames.Next()
		if own := strings.HasPrefix(frame.Function, library); own && !calling {
			return true
		} else if !own {
			calling = false // behind ProposeAsync
		}
	}
	return false
}

// callMade takes note that a callback does not wait any more.
func (n *Node) callMade() {
	if n.callsLeft.Add(-1) != maxCalls {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.slowed != nil {
		close(n.slowed)
		n.slowed = nil
	}
}
