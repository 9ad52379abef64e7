package raft

import "time"

// Linearizable reads without the log (thesis §6.4): the core's part. Nobody else can
// have led, and committed anything, before a round of heartbeats began that a majority
// has answered in the leader's term. So what was committed when a read came is all that
// it has to see, if the round that confirms it began after that.

// roundWanted: reads wait for a round of heartbeats, which a leader is to start at once.
type roundWanted struct{}

// startRound starts a round of heartbeats for reads. It is one like any other: the next
// is due an interval later.
func (c *core) startRound(now time.Duration) {
	c.sendHeartbeats(now)
	c.readRound = c.round
}

// confirmedRound returns the last round of heartbeats that a majority has answered, in a
// joint phase one of either half. Whoever is a majority alone needs no answers.
func (c *core) confirmedRound() uint64 {
	return c.configuration.reached(func(id NodeID) uint64 {
		if id == c.settings.id {
			return c.round + 1 // of any round it knows at once
		}
		return c.peer(id).answered
	})
}

// readIndex returns what a read that comes now has to see. A leader knows that once it
// has committed an entry of its own term: before, its commit index may be behind that of
// the leaders before it.
func (c *core) readIndex() (Index, bool) { return c.commitIndex, c.committedInTerm() }
