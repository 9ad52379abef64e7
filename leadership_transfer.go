package raft

import (
	"fmt"
	"time"
)

// Leadership on request (thesis §3.10): the core's part. The leader takes no proposals
// until its successor has the whole log, and then asks it to campaign at once.

// handover is a transfer of leadership under way.
type handover struct {
	to       NodeID
	deadline time.Duration // when the leader goes on instead
	sent     bool          // the successor is asked
}

// timeoutNowArrived: a leader asks this node to campaign.
type timeoutNowArrived struct {
	request *TimeoutNow
	respond responder
}

// timeoutNowAnswered: a successor has answered, or not.
type timeoutNowAnswered struct {
	from     NodeID
	term     Term
	response *TimeoutNowResponse
	err      error // instead of a response
}

// handoverWanted: a leader is to hand over to another voter.
type handoverWanted struct{ to NodeID }

// checkSuccessor reports why leadership cannot be handed over to a member.
func (c *core) checkSuccessor(to NodeID) error {
	m, known := c.configuration.member(to)
	switch {
	case c.handover != nil:
		return fmt.Errorf("%w: leadership is being handed over to %s", ErrTransferFailed, c.handover.to)
	case !known:
		return fmt.Errorf("%w: %q", ErrUnknownMember, to)
	case m.Role != Voter:
		return fmt.Errorf("%w: %s is a %s", ErrTransferFailed, to, m.Role)
	case to != c.settings.id && c.peer(to).otherDisk:
		return fmt.Errorf("%w: %s came back with another disk, and does not count", ErrTransferFailed, to)
	default:
		return nil
	}
}

// mostUpToDate returns the voter in contact that is known to have most of the log, or that
// has voted for this leader when none has told yet; empty: none has been heard.
func (c *core) mostUpToDate(now time.Duration) (best NodeID) {
	var match Index
	for _, id := range c.configuration.incoming {
		p := c.peer(id)
		if p == nil || p.otherDisk || now >= p.contact+c.settings.electionTimeout {
			continue
		}
		if p.match > match || best == "" && p.granted {
			best, match = id, p.match
		}
	}
	return best
}

// startHandover begins to hand over.
func (c *core) startHandover(now time.Duration, to NodeID) {
	c.handover = &handover{to: to, deadline: now + c.settings.electionTimeout}
	c.tell("hand over leadership", to, "it is to lead")
}

// advanceHandover asks the successor to campaign once it has the whole log, and gives
// up when that takes too long.
func (c *core) advanceHandover(now time.Duration) {
	h := c.handover
	if h == nil {
		return
	}
	p := c.peer(h.to)
	m, _ := c.configuration.member(h.to)
	switch {
	case p == nil || m.Role != Voter:
		c.endHandover(fmt.Sprintf("%s is no voter any more", h.to))
	case now >= h.deadline:
		c.endHandover(fmt.Sprintf("%s did not take over within %v: it has the log up to %d of %d", h.to, c.settings.electionTimeout, p.match, c.log.last()))
	case !h.sent && p.match == c.log.last():
		h.sent, c.lease.void = true, true
		c.send(h.to, &TimeoutNow{Header: c.header(h.to), Term: c.currentTerm}, promise{})
	}
}

// endHandover has the leader go on.
func (c *core) endHandover(why string) {
	c.tell("keep leadership", c.handover.to, "%s", why)
	c.handover, c.handoverEnd = nil, why
}

// handleTimeoutNow campaigns at the request of the leader (§3.10), without a pre-vote:
// the voters are still in contact with the leader. The requests for votes leave once
// the whole log is durable, like any.
func (c *core) handleTimeoutNow(now time.Duration, e timeoutNowArrived) {
	r := e.request
	may := r.Term == c.currentTerm && c.role == Follower && r.From == c.leader &&
		c.configuration.isVoter(c.settings.id) && !c.isInstalling() && !c.diskHangs(now, c.settings.electionTimeout)
	if may {
		c.tell("start election", r.From, "it hands leadership over")
		c.becomeCandidate(now)
		c.askForVotes(VoteRequest{Term: c.currentTerm, Transfer: true}, promise{c.candidacy, c.log.last()})
		if c.soleVoter() {
			c.countVotes(now)
		}
	}
	c.reply(e.respond, &TimeoutNowResponse{Term: c.currentTerm, Started: may, Incarnation: c.settings.incarnation}, c.promised(0))
}

// handleTimeoutNowAnswer goes on as leader if the successor will not campaign.
func (c *core) handleTimeoutNowAnswer(now time.Duration, e timeoutNowAnswered) {
	if e.response != nil && c.stepsDownFor(now, e.from, e.response.Term) {
		return
	}
	if h := c.handover; h == nil || h.to != e.from || e.term != c.currentTerm {
		return
	}
	switch {
	case e.err != nil:
		c.endHandover(fmt.Sprintf("%s could not be asked: %s", e.from, wordsOf(e.err)))
	case !e.response.Started:
		c.endHandover(fmt.Sprintf("%s does not campaign", e.from))
	}
}

// prefer hands leadership over to an up-to-date voter of a higher priority, now and
// then.
func (c *core) prefer(now time.Duration) {
	own, _ := c.configuration.member(c.settings.id)
	if now < c.preferAt || c.handover != nil || c.departure > 0 || !c.committedInTerm() {
		return
	}
	best := own
	for _, id := range c.configuration.incoming {
		m, _ := c.configuration.member(id)
		p := c.peer(id)
		if m.Priority > best.Priority && p != nil && !p.otherDisk && p.match >= c.commitIndex && now < p.contact+2*c.settings.heartbeatInterval {
			best = m
		}
	}
	if best.ID != own.ID {
		c.preferAt = now + 10*c.settings.electionTimeout
		c.startHandover(now, best.ID)
	}
}
