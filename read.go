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

// lease is a leader's right to answer reads without a round (§6.4.1): as long as a
// majority keeps quiet nobody else can be elected. It does so from when a round of
// heartbeats has reached it, which was after that was sent, however late the answer comes.
type lease struct {
	held  bool
	since time.Duration // when the last round was sent that a majority has answered
	round uint64        // the one that renews the lease; 0: the next one
	sent  time.Duration // when that was
	under uint64        // the change of what is in force: in another configuration others count
	void  bool          // a successor was asked to campaign, who needs no quiet: for the rest of the term
}

// renewWith has the lease renewed by the round that begins, unless one is to do so.
func (c *core) renewWith(round uint64, now time.Duration) {
	l := &c.lease
	if l.under != c.reconfigured {
		*l = lease{under: c.reconfigured, void: l.void}
	}
	if l.round == 0 {
		l.round, l.sent = round, now
	}
}

// renewLease renews the lease once a majority has answered. Who keeps quiet for less
// than this leader does not count.
func (c *core) renewLease() {
	l := &c.lease
	if l.round == 0 || l.under != c.reconfigured {
		return
	}
	answered := c.configuration.reached(func(id NodeID) uint64 {
		if id == c.settings.id {
			return c.round // it does not vote for others while it leads
		}
		if p := c.peer(id); p.quiet >= c.settings.electionTimeout {
			return p.answered
		}
		return 0
	})
	if answered >= l.round {
		l.held, l.since, l.round = true, l.sent, 0
	}
}

// holdsLease reports whether a leader may answer by its clock.
func (c *core) holdsLease(now time.Duration) bool { return now < c.leaseEnd() }

// leaseEnd returns when the lease ends, 0 if there is none. It is shorter than the others'
// quiet by as much as the clocks may differ.
func (c *core) leaseEnd() time.Duration {
	l := c.lease
	if c.role != Leader || !l.held || l.void || l.under != c.reconfigured || !c.committedInTerm() {
		return 0
	}
	return l.since + c.settings.lease
}
