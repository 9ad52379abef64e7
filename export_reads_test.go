package raft

import "errors"

// WaitingReads returns how many reads wait on a node that runs: so many fewer than there is
// room for are taken.
func (n *Node) WaitingReads() int {
	refused, last := 0, make(chan struct{})
	waits := make([]*readWait, maxReads+1)
	for i := range waits {
		waits[i] = &readWait{options: ReadOptions{Level: ReadLocal, MinIndex: 1 << 60}, done: func(_ Index, err error) {
			if errors.Is(err, ErrOverloaded) {
				refused++
			}
			if i == maxReads {
				close(last)
			}
		}}
		n.inbox.post(waits[i])
	}
	<-last
	for _, w := range waits {
		n.inbox.post(readLeft{w})
	}
	return refused - 1 // there is no room for the last one in any case
}

// ShowsLease reports whether readers see a lease of the node.
func (n *Node) ShowsLease() bool {
	_, shown := n.lease.read(ReadOptions{})
	return shown
}

// MaxHeartbeats is how many heartbeats are under way to one peer at most.
const MaxHeartbeats = maxHeartbeats
