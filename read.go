package raft

import (
	"math"
	"time"
)

// Linearizable reads without the log (thesis §6.4): the core's part. Nobody else can
// have led, and committed anything, before a round of heartbeats began that a majority
// has answered in the leader's term. So what was committed when a read came is all that
// it has to see, if the round that confirms it began after that.

// roundWanted: reads wait for a round of heartbeats, which a leader is to start at once.
type roundWanted struct{}

// hedgeAfter is how long a round for reads relies on those who were asked first, at least.
const hedgeAfter = 2 * time.Millisecond

// startRound starts a round of heartbeats for reads. A majority is enough for it, so none
// but those are asked who answer soonest; the other voters are if that does not confirm it
// in 2 ms, or in twice the time that it takes. The next round that proves contact with
// everybody is due as if there were no reads.
func (c *core) startRound(now time.Duration) {
	c.beginRound(now)
	patience := hedgeAfter
	for c.askedRound() < c.round {
		p := c.quickest(now)
		if p == nil {
			break
		}
		patience = max(patience, min(2*p.took, c.settings.heartbeatInterval))
		c.sendHeartbeat(now, p)
	}
	c.readRound, c.hedgeAt = c.round, now+patience
}

// hedge asks the other voters too if those who were asked first have not confirmed the round.
func (c *core) hedge(now time.Duration) {
	c.hedgeAt = 0
	if c.confirmedRound() >= c.readRound {
		return
	}
	for p := c.quickest(now); p != nil; p = c.quickest(now) {
		c.sendHeartbeat(now, p)
	}
}

// askedRound returns the last round that a majority was asked in, in a joint phase one of
// either half.
func (c *core) askedRound() uint64 {
	return c.configuration.reached(func(id NodeID) uint64 {
		if id == c.settings.id {
			return c.round
		}
		return c.peer(id).asked
	})
}

// quickest returns the voter that answers soonest of those whom the present round has not
// asked, nil if it has asked all.
func (c *core) quickest(now time.Duration) (quickest *progress) {
	for _, p := range c.peers {
		if p.asked < c.round && c.configuration.isVoter(p.id) && (quickest == nil || p.latency(now) < quickest.latency(now)) {
			quickest = p
		}
	}
	return quickest
}

// latency is how long an answer to a heartbeat takes, as far as is known.
func (p *progress) latency(now time.Duration) time.Duration {
	switch {
	case p.answered == 0:
		return math.MaxInt64
	case p.answered < p.timed:
		return max(p.took, now-p.timedAt)
	default:
		return p.took
	}
}

// ask takes note of a heartbeat of a round. One at a time is timed: others may be under way.
func (p *progress) ask(now time.Duration, round uint64) {
	p.asked = round
	if p.timed <= p.answered {
		p.timed, p.timedAt = round, now
	}
}

// answer takes note of the answer to a heartbeat of a round. In the average of what answers
// take the newest counts an eighth, and none more than most: then the peer was not slow, but
// away.
func (p *progress) answer(now time.Duration, round uint64, most time.Duration) {
	if round <= p.answered {
		return
	}
	if took := min(now-p.timedAt, most); p.answered == 0 {
		p.took = took
	} else if p.answered < p.timed && p.timed <= round {
		p.took += (took - p.took) / 8
	}
	p.answered = round
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
