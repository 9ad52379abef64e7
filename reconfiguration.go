package raft

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Changes of the membership and of the leadership: the driver's part, which knows who
// waits for them.

// reconfiguration is what a driver knows of them.
type reconfiguration struct {
	early    []changeWanted  // they wait until an entry of the leader's term is committed
	change   *changeWaiter   // nil: nobody waits
	catchUps []*catchUp      // of newcomers
	handover *handoverWaiter // nil: nobody waits
}

type (
	// changeWanted: somebody wants the members to change.
	changeWanted struct {
		expected Index
		changes  []MemberChange
		done     func(Index, error)
	}
	// catchUpWanted: somebody wants to know when a new member has caught up.
	catchUpWanted struct {
		id   NodeID
		done func(Index, error)
	}
	// transferWanted: somebody wants another leader.
	transferWanted struct {
		to   NodeID // empty: the most up-to-date voter
		done func(Index, error)
	}
)

// changeWaiter waits for a configuration that the leader has entered.
type changeWaiter struct {
	index Index // of the last configuration that belongs to the change
	term  Term
	done  func(Index, error)
}

// handoverWaiter waits for another leader.
type handoverWaiter struct {
	to    NodeID
	until time.Duration
	done  func(Index, error)
}

// catchUp follows a newcomer in rounds: each ends when it has what the log held when
// the round began. One that takes less than an election timeout shows that it would
// not hold up the cluster as a voter (thesis §4.2.1).
type catchUp struct {
	catchUpWanted
	target Index
	since  time.Duration
	rounds int
	got    uint64        // how much it had when that was last seen to grow
	gotAt  time.Duration // when that was
}

// maxRounds is how many rounds a newcomer gets to catch up.
const maxRounds = 10

// clone returns an independent copy, but for those who wait.
func (r reconfiguration) clone() reconfiguration {
	r.early, r.catchUps = slices.Clone(r.early), slices.Clone(r.catchUps)
	for i, u := range r.catchUps {
		v := *u
		r.catchUps[i] = &v
	}
	if r.change != nil {
		w := *r.change
		r.change = &w
	}
	return r
}

// words lists the state for a digest.
func (r reconfiguration) words() []any {
	words := []any{len(r.early)}
	for _, e := range r.early {
		words = append(words, e.expected, e.changes)
	}
	for _, u := range r.catchUps {
		words = append(words, u.id, u.target, u.since, u.rounds, u.got, u.gotAt)
	}
	if w := r.change; w != nil {
		words = append(words, w.index, w.term)
	}
	if w := r.handover; w != nil {
		words = append(words, w.to, w.until)
	}
	return words
}

// endWait ends a wait with an index or an error.
func (d *driver) endWait(done func(Index, error), index Index, err error) {
	d.work.outcomes = append(d.work.outcomes, waitOutcome{done, index, err})
}

func (d *driver) notLeader() error {
	return &NotLeaderError{Leader: d.core.leader, Address: d.leaderAddress()}
}

// handleChangeWanted has the members changed, if that can be.
func (d *driver) handleChangeWanted(now time.Duration, e changeWanted) {
	c, r := d.core, &d.reconfiguration
	if c.role != Leader {
		d.endWait(e.done, 0, d.notLeader())
		return
	}
	d.settleChange() // the one before may have been committed just now
	next, err := c.plannedChange(e.expected, e.changes)
	switch {
	case errors.Is(err, errTooEarly) && len(r.early) < maxEarly:
		r.early = append(r.early, e)
	case errors.Is(err, errTooEarly):
		d.endWait(e.done, 0, fmt.Errorf("%w: %d others wait for it", ErrChangeInProgress, maxEarly))
	case err != nil:
		d.endWait(e.done, 0, err)
	default:
		d.step(now, configurationProposed{next})
		r.change = &changeWaiter{c.configuration.index, c.currentTerm, e.done}
		d.settleChange()
	}
}

// maxEarly bounds the changes that wait for the first commit of a leader.
const maxEarly = 64

// handleTransferWanted begins to hand over leadership.
func (d *driver) handleTransferWanted(now time.Duration, e transferWanted) {
	c := d.core
	if c.role != Leader {
		d.endWait(e.done, 0, d.notLeader())
		return
	}
	d.settleHandover(now) // the one before may have failed just now
	if e.to == "" {
		e.to = c.mostUpToDate(now)
	}
	switch err := c.checkSuccessor(e.to); {
	case e.to == c.settings.id:
		d.endWait(e.done, 0, nil) // it leads
	case e.to == "":
		d.endWait(e.done, 0, fmt.Errorf("%w: %s has heard no other voter", ErrTransferFailed, c.settings.id))
	case err != nil:
		d.endWait(e.done, 0, err)
	default:
		d.step(now, handoverWanted{e.to})
		d.reconfiguration.handover = &handoverWaiter{e.to, now + 2*c.settings.electionTimeout, e.done}
	}
}

// handleCatchUpWanted begins to follow a newcomer.
func (d *driver) handleCatchUpWanted(now time.Duration, e catchUpWanted) {
	if d.core.role != Leader {
		d.endWait(e.done, 0, d.notLeader())
		return
	}
	if len(d.reconfiguration.catchUps) == maxEarly { // some have left, perhaps
		d.endWait(e.done, 0, fmt.Errorf("%w: %d others wait for newcomers", ErrChangeInProgress, maxEarly))
		return
	}
	d.reconfiguration.catchUps = append(d.reconfiguration.catchUps, &catchUp{catchUpWanted: e, target: d.core.log.last(), since: now, gotAt: now})
}

// settleMembership ends waits that events have decided.
func (d *driver) settleMembership(now time.Duration) {
	r := &d.reconfiguration
	d.settleChange()
	r.catchUps = slices.DeleteFunc(r.catchUps, func(u *catchUp) bool { return d.settleCatchUp(now, u) })
	d.settleHandover(now)
	if len(r.early) > 0 && d.core.role == Leader && d.core.committedInTerm() {
		early := r.early
		r.early = nil
		for _, e := range early {
			d.handleChangeWanted(now, e)
		}
	}
}

// settleChange ends the wait for a change once its last configuration is committed.
func (d *driver) settleChange() {
	c, w := d.core, d.reconfiguration.change
	if w == nil || c.role != Leader {
		return
	}
	w.index = c.configuration.index // there is no other change: of a joint phase it is the end
	if !c.configuration.isJoint() && c.commitIndex >= w.index {
		d.reconfiguration.change = nil
		d.endWait(w.done, w.index, nil)
	}
}

// settleCatchUp reports whether a newcomer has caught up, or will not.
func (d *driver) settleCatchUp(now time.Duration, u *catchUp) bool {
	c := d.core
	p := c.peer(u.id)
	fail := func(format string, args ...any) bool {
		d.endWait(u.done, 0, fmt.Errorf("%w: %s "+format, append([]any{ErrCannotFollow, u.id}, args...)...))
		return true
	}
	if p == nil || p.left {
		d.endWait(u.done, 0, fmt.Errorf("%w: %q was taken out meanwhile", ErrUnknownMember, u.id))
		return true
	}
	u.look(now, c, p)
	switch {
	case p.match < u.target && now >= max(p.contact, u.since)+10*c.settings.electionTimeout:
		return fail("has not answered for %v: %s", now-p.contact, orUnknown(d.trouble(p)))
	case p.match < u.target && now >= u.gotAt+100*c.settings.electionTimeout:
		return fail("answers, and has got nothing for %v: %s", now-u.gotAt, orUnknown(d.trouble(p)))
	case p.match < u.target:
		return false
	case now-u.since < c.settings.electionTimeout:
		d.endWait(u.done, p.match, nil)
		return true
	}
	u.rounds++
	if u.rounds == maxRounds {
		return fail("needed %v for the last of %d rounds, in which it got what was new in the one before: an election timeout is %v", now-u.since, maxRounds, c.settings.electionTimeout)
	}
	u.target, u.since = c.log.last(), now
	return false
}

// look notes when a newcomer gets on. While there is no snapshot to send it cannot.
func (u *catchUp) look(now time.Duration, c *core, p *progress) {
	got := uint64(p.match)
	if p.transfer != nil {
		got += p.transfer.next
	}
	if got != u.got || p.transfer == nil && c.lacksCompacted(p) {
		u.got, u.gotAt = got, now
	}
}

func orUnknown(why string) string {
	if why == "" {
		return "nothing is known of why"
	}
	return why
}

// settleHandover ends the wait for another leader: there is one, or this node goes on.
func (d *driver) settleHandover(now time.Duration) {
	c, w := d.core, d.reconfiguration.handover
	if w == nil {
		return
	}
	var err error
	switch {
	case c.leader == w.to:
	case c.role == Leader && c.handover == nil:
		err = fmt.Errorf("%w: %s", ErrTransferFailed, c.handoverEnd)
	case c.role != Leader && c.leader != "":
		err = fmt.Errorf("%w: %s leads now, in term %d", ErrTransferFailed, c.leader, c.currentTerm)
	case now >= w.until:
		err = fmt.Errorf("%w: no leader is known", ErrTransferFailed)
	default:
		return
	}
	d.reconfiguration.handover = nil
	d.endWait(w.done, 0, err)
}

// endLeadership ends the waits that only a leader can fulfil, with the error of those
// who wait for what is not in the log.
func (d *driver) endLeadership(err error) {
	r := &d.reconfiguration
	if w := r.change; w != nil {
		r.change = nil
		d.endWait(w.done, w.index, &OutcomeUnknownError{Index: w.index, Term: w.term, Cause: errLeadershipLost})
	}
	for _, e := range r.early {
		d.endWait(e.done, 0, err)
	}
	for _, u := range r.catchUps {
		d.endWait(u.done, 0, err)
	}
	r.early, r.catchUps = nil, nil
}

// endMembershipWaits ends all waits of a node that stops.
func (d *driver) endMembershipWaits(err error) {
	d.endLeadership(err)
	if w := d.reconfiguration.handover; w != nil {
		d.endWait(w.done, 0, err)
		d.reconfiguration.handover = nil
	}
}
