package raft

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Changes of the membership (thesis §4.1 to §4.3): the core's part.

// ChangeKind says what a [MemberChange] does.
type ChangeKind uint8

// The kinds of changes.
const (
	ChangeAdd    ChangeKind = 1 // a member that there is not
	ChangeUpdate ChangeKind = 2 // a member becomes as it is given: promoted, demoted, at another address
	ChangeRemove ChangeKind = 3 // only the ID of Member counts
)

// MemberChange is one of the changes that [Node.ChangeMembers] makes together.
type MemberChange struct {
	Kind   ChangeKind
	Member Member
}

// changed returns the configuration that changes lead to. More than one voter more or
// less needs a joint phase, else two majorities might have no voter in common (§4.3).
func (c configuration) changed(changes []MemberChange) (configuration, error) {
	if len(changes) == 0 {
		return configuration{}, fmt.Errorf("%w: there is none", ErrInvalidChange)
	}
	after := map[NodeID]Member{}
	for _, m := range c.members {
		after[m.ID] = m
	}
	touched := map[NodeID]bool{}
	for _, change := range changes {
		if touched[change.Member.ID] {
			return configuration{}, fmt.Errorf("%w: two of %q at once", ErrInvalidChange, change.Member.ID)
		}
		touched[change.Member.ID] = true
		if err := change.apply(after); err != nil {
			return configuration{}, err
		}
	}
	next := c.between(after)
	if err := next.checkMembers(); err != nil {
		return configuration{}, err
	}
	return next, nil
}

// apply makes the change to members.
func (change MemberChange) apply(members map[NodeID]Member) error {
	m := change.Member
	present, known := members[m.ID]
	switch change.Kind {
	case ChangeAdd:
		if known {
			return fmt.Errorf("%w: %s, at %s", ErrMemberExists, m.ID, present.Address)
		}
	case ChangeUpdate, ChangeRemove:
		if !known {
			return fmt.Errorf("%w: %q", ErrUnknownMember, m.ID)
		}
	default:
		return fmt.Errorf("%w: kind %d of a change", ErrInvalidChange, change.Kind)
	}
	switch {
	case change.Kind == ChangeRemove:
		delete(members, m.ID)
		return nil
	case m.Role != Voter && m.Role != Learner:
		return fmt.Errorf("%w: the role of %s is %v: want a voter or a learner", ErrInvalidChange, m.ID, m.Role)
	}
	m.Metadata = bytes.Clone(m.Metadata)
	members[m.ID] = m
	return nil
}

// between returns the configuration that leads to members: these, or a joint one.
func (c configuration) between(after map[NodeID]Member) configuration {
	differ := 0
	for _, id := range c.incoming {
		if after[id].Role != Voter {
			differ++
		}
	}
	var next configuration
	for _, id := range sortedKeys(after) {
		m := after[id]
		next.members = append(next.members, m)
		if m.Role == Voter {
			next.incoming = append(next.incoming, id)
			differ += int(bit(!slices.Contains(c.incoming, id)))
		}
	}
	if differ <= 1 {
		return next
	}
	next.outgoing = slices.Clone(c.incoming)
	for _, id := range c.incoming {
		if _, stays := after[id]; !stays {
			m, _ := c.member(id)
			m.Role = Leaving
			next.members = append(next.members, m)
		}
	}
	slices.SortFunc(next.members, byID)
	return next
}

// left returns the configuration at the end of a joint phase.
func (c configuration) left() configuration {
	members := slices.DeleteFunc(slices.Clone(c.members), func(m Member) bool { return m.Role == Leaving })
	return configuration{members: members, incoming: c.incoming}
}

// checkMembers reports what a leader does not put into its log.
func (c configuration) checkMembers() error {
	seen := map[string]NodeID{}
	for _, m := range c.members {
		switch other, taken := seen[m.Address]; {
		case !m.ID.valid():
			return fmt.Errorf("%w: id %q: want 1 to %d bytes of [A-Za-z0-9._-], not starting with a dot", ErrInvalidChange, m.ID, maxIDBytes)
		case m.Address == "" || len(m.Address) > maxAddressBytes:
			return fmt.Errorf("%w: %s has an address of %d bytes: want 1 to %d", ErrInvalidChange, m.ID, len(m.Address), maxAddressBytes)
		case taken && m.Role != Leaving:
			return fmt.Errorf("%w: %s and %s have the same address %s", ErrInvalidChange, other, m.ID, m.Address)
		case len(m.Metadata) > maxMetadataBytes:
			return fmt.Errorf("%w: %s has %d bytes of metadata: want at most %d", ErrInvalidChange, m.ID, len(m.Metadata), maxMetadataBytes)
		}
		if m.Role != Leaving {
			seen[m.Address] = m.ID
		}
	}
	switch {
	case len(c.incoming) == 0:
		return fmt.Errorf("%w: it would leave no voter", ErrInvalidChange)
	case len(c.members) > maxContacts:
		return fmt.Errorf("%w: it would make %d members: at most %d can be", ErrInvalidChange, len(c.members), maxContacts)
	default:
		return nil
	}
}

// configurationProposed: a leader is to enter a configuration that plannedChange has
// returned.
type configurationProposed struct{ next configuration }

// errTooEarly: no change before an entry of the leader's own term is committed: what
// an earlier leader has begun might still come into force (§4.1, and its erratum).
var errTooEarly = errors.New("no entry of the leader's term is committed yet")

// plannedChange returns the configuration that changes lead to from the one in force,
// if a leader may enter it now: one change at a time.
func (c *core) plannedChange(expected Index, changes []MemberChange) (configuration, error) {
	switch {
	case !c.committedInTerm():
		return configuration{}, errTooEarly
	case c.configuration.index > c.commitIndex || c.configuration.isJoint():
		return configuration{}, fmt.Errorf("%w: the configuration of entry %d is not committed yet, or a joint one", ErrChangeInProgress, c.configuration.index)
	case c.handover != nil:
		return configuration{}, fmt.Errorf("%w: leadership is being handed over to %s", ErrChangeInProgress, c.handover.to)
	case c.departure > 0:
		return configuration{}, fmt.Errorf("%w: %s is no voter any more and is about to step down", ErrChangeInProgress, c.settings.id)
	case expected != 0 && expected != c.configuration.index:
		return configuration{}, &ConfigurationMismatchError{Have: c.configuration.index}
	}
	for _, change := range changes {
		if change.Kind == ChangeAdd && c.beforeRecovery(change.Member.ID) {
			return configuration{}, fmt.Errorf("%w: %s was a member before the cluster was recovered, and the log still says so: take another id", ErrInvalidChange, change.Member.ID)
		}
	}
	next, err := c.configuration.changed(changes)
	if err == nil && c.configurationBytes()+2*len(next.encode()) > maxConfigurationBytes {
		err = fmt.Errorf("%w: the configurations in the log would take more than %d bytes: they are forgotten when it is compacted", ErrInvalidChange, maxConfigurationBytes)
	}
	return next, err
}

// maxConfigurationBytes bounds the configurations that a leader keeps, the two of a joint
// phase included: the hard state has them all, and a log takes one of 1 MiB.
const maxConfigurationBytes = 512 << 10

// configurationBytes returns how many bytes the configurations take that are kept.
func (c *core) configurationBytes() int {
	bytes := len(c.configuration.data)
	for _, one := range c.earlier {
		bytes += len(one.data)
	}
	return bytes
}

// committedInTerm reports whether a leader has committed an entry of its own term.
func (c *core) committedInTerm() bool {
	term, ok := c.log.term(c.commitIndex)
	return ok && term == c.currentTerm
}

// enter appends the entry of a configuration, which is in force from now on.
func (c *core) enter(now time.Duration, next configuration) {
	next.origins = map[NodeID]origin{}
	for _, m := range next.members {
		if _, known := c.configuration.member(m.ID); known {
			next.origins[m.ID] = origin{c.configuration.origins[m.ID].added, c.metAs(m.ID)}
		} else {
			next.origins[m.ID] = origin{added: c.log.last() + 1}
		}
	}
	data := next.encode()
	next, err := decodeConfiguration(c.log.last()+1, data)
	if err != nil {
		panic(fmt.Sprintf("raft: %s would enter a configuration that is none: %v", c.settings.id, err))
	}
	c.log.appendRun(run{term: c.currentTerm, first: next.index, count: 1, body: appendEntry(nil, EntryConfiguration, data)})
	c.tell("enter configuration", "", "entry %d: %s", next.index, next)
	c.adopt(next)
	c.followMembers(now)
	if slices.ContainsFunc(c.peers, func(p *progress) bool { return p.unmet }) {
		c.sendHeartbeats(now) // they are sent nothing else until they are met
	}
	c.advanceCommit(now) // fewer may be a majority now
}

// metAs returns the incarnation in which a member was met; 0: it was not.
func (c *core) metAs(id NodeID) uint64 {
	if id == c.settings.id {
		return c.settings.incarnation
	}
	if i, known := c.contact(id); known {
		return c.contacts[i].Incarnation
	}
	return 0
}

// followMembers keeps the progress of all other members. One that is none any more is
// still told so, for a while.
func (c *core) followMembers(now time.Duration) {
	before := c.configuration // of a leader that has just begun: who has left may not know
	if len(c.earlier) > 0 {
		before = c.earlier[len(c.earlier)-1]
	}
	for _, m := range slices.Concat(c.configuration.members, before.members) {
		p := c.peer(m.ID)
		_, member := c.configuration.member(m.ID)
		if m.ID == c.settings.id || p != nil && (!p.left || !member) {
			continue
		}
		c.peers = slices.DeleteFunc(c.peers, func(other *progress) bool { return other == p })
		next := newProgress(m.ID, c.log.last()+1, now)
		isNew := member && c.configuration.origins[m.ID].added > 0 && c.metAs(m.ID) == 0
		next.unmet, next.since = isNew && c.settings.incarnation > 0, c.round // who tells no incarnation does not look at any
		c.peers = append(c.peers, next)
	}
	slices.SortFunc(c.peers, func(p, q *progress) int { return cmp.Compare(p.id, q.id) })
	for _, p := range c.peers {
		if _, member := c.configuration.member(p.id); !member && !p.left {
			p.left, p.leftAt = true, now
			p.unmet = false // what it has counts for nothing any more, and it is to learn that it is out
		}
	}
}

// letGo forgets those that have left, once they know or have had time to.
func (c *core) letGo(now time.Duration) {
	c.peers = slices.DeleteFunc(c.peers, func(p *progress) bool {
		return p.left && (p.knows || now >= p.leftAt+10*c.settings.electionTimeout)
	})
}

// configurationCommitted goes on with a change once its entry is committed: it ends a
// joint phase, whoever has begun it (§4.3), and a leader that is no voter any more
// hands over (§4.2.2).
func (c *core) configurationCommitted(now time.Duration) {
	switch {
	case c.role != Leader || c.configuration.index > c.commitIndex || !c.committedInTerm():
	case c.configuration.isJoint():
		c.enter(now, c.configuration.left())
	case !c.configuration.isVoter(c.settings.id) && c.departure == 0:
		c.departure = now + c.settings.heartbeatInterval // until then it tells everybody
		if to := c.mostUpToDate(now); to != "" && c.handover == nil {
			c.startHandover(now, to)
		}
	}
}

// depart ends the leadership of a node that is no voter any more. If it is no member
// either it stops.
func (c *core) depart() {
	c.departure = 0
	if _, member := c.configuration.member(c.settings.id); member {
		return
	}
	_ = c.fail(fmt.Errorf("%w: node %s led its own removal, entry %d", ErrRemoved, c.settings.id, c.configuration.index))
}

// checkRemoved stops a node that is no member any more, once its leader has said that
// no later configuration is in force: a member that was taken in again may be reading
// of its removal of long ago.
func (c *core) checkRemoved(inForce Index) {
	if _, member := c.configuration.member(c.settings.id); member || !c.belonged {
		return
	}
	if c.configuration.index == inForce && inForce <= c.commitIndex {
		_ = c.fail(fmt.Errorf("%w: node %s is not in the configuration of entry %d", ErrRemoved, c.settings.id, inForce))
	}
}
