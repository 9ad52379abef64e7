package raft

import (
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/seed-8da499c8/raft/internal/sim"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// Members come and go in a simulation, as operators want it, and machines lose their
// disks. Neither does what would be the end of any cluster: see sane and mayForget.

// simSpares is how many machines there are beside those of the founding members.
const simSpares = 3

func addressOfSim(id NodeID) string { return string(id) + ".example:1" }

// simMembers is what a simulation knows of its members.
type simMembers struct {
	settled Index            // the latest configuration that was seen committed
	added   map[NodeID]Index // the configuration that added a member last
	changes []*simChange     // that leaders were asked for
	founded bool             // a founding member that lost its disk founds again
}

// simChange is a change that a leader was asked for.
type simChange struct {
	node  *simNode
	life  int
	ended bool
}

// simMembership is what a machine is to the cluster.
type simMembership struct {
	employed bool // it has a process, or is to have one
	retired  bool // its process has ended, knowing that it is no member
	joins    bool // with Config.Join
	emptied  bool // its disk is not the first one
	keptAway bool // at the end
	lost     bool // a member has lost its disk, and was not taken out since
	lostAt   Index

	fingerprint [16]byte // that its snapshots have
	seen        *core    // and its change of the configuration, of which this is known
	change      uint64
	known       []sim.Configuration
}

// noteMembers looks at the configurations that the node knows.
func (n *simNode) noteMembers() {
	c := n.driver.core
	n.settled(c)
	if n.seen == c && n.change == c.reconfigured {
		return
	}
	n.seen, n.change, n.known = c, c.reconfigured, nil
	before := configuration{}
	for _, one := range n.configurations() {
		n.known = append(n.known, sim.Configuration{Index: uint64(one.index), Voters: n.numbersOf(one.incoming), Outgoing: n.numbersOf(one.outgoing)})
		for _, m := range one.members {
			if _, stays := before.member(m.ID); !stays && before.index > 0 {
				n.members.added[m.ID] = max(n.members.added[m.ID], one.index)
			}
		}
		before = one
	}
	if c.configuration.isJoint() && !n.over && n.random.IntN(10) == 0 {
		n.failSoon()
	}
}

// settled takes note of what is committed. Who was taken out counts again, once it is
// taken in.
func (n *simNode) settled(c *core) {
	for _, one := range n.configurations() {
		if one.index > c.commitIndex {
			break
		}
		n.members.settled = max(n.members.settled, one.index)
		for _, other := range n.nodes {
			if _, member := one.member(other.id); other.lost && !member && one.index > other.lostAt {
				other.lost = false
				n.judge.SetAside(other.number, false)
				n.world.Count("members without their disk taken out")
			}
		}
	}
	if joint := c.configuration; joint.isJoint() && n.driver.applied >= joint.index && !n.over && n.random.IntN(4) == 0 {
		n.post(snapshotWanted{func(Index, error) {}})
	}
}

// configurations returns those that the process knows, or the disk of one that is down.
func (n *simNode) configurations() []configuration {
	if n.driver != nil {
		return append(slices.Clip(n.driver.core.earlier), n.driver.core.configuration)
	}
	var all []configuration
	for _, entry := range n.durable.Configurations {
		one, err := decodeConfiguration(entry.Index, entry.Data)
		if err != nil {
			panic(err)
		}
		all = append(all, one)
	}
	return all
}

func (s *simulation) numbersOf(ids []NodeID) []int {
	var numbers []int
	for _, id := range ids {
		numbers = append(numbers, int(id[0]-'a'))
	}
	return numbers
}

// possible returns the configurations that are in force, or may come into force by
// themselves.
func (s *simulation) possible() []configuration {
	var all []configuration
	for _, n := range s.nodes {
		for _, one := range n.configurations() {
			if one.index > 0 && one.index >= s.members.settled {
				all = append(all, one)
			}
		}
	}
	return all
}

// mayBelong reports whether a machine is a member, or may come to be one.
func (s *simulation) mayBelong(n *simNode) bool {
	return slices.ContainsFunc(s.possible(), func(one configuration) bool { _, is := one.member(n.id); return is })
}

// isAgreed reports whether those who are so are enough in a configuration.
func (s *simulation) isAgreed(one configuration, is func(*simNode) bool) bool {
	c := sim.Configuration{Voters: s.numbersOf(one.incoming), Outgoing: s.numbersOf(one.outgoing)}
	return c.Agree(func(node int) bool { return is(s.nodes[node]) })
}

// sane reports whether a cluster can go on with a configuration.
func (s *simulation) sane(next configuration) bool {
	return s.isAgreed(next, func(n *simNode) bool { return !n.lost })
}

// changing reports whether a change may still begin.
func (s *simulation) changing() bool {
	s.members.changes = slices.DeleteFunc(s.members.changes, func(c *simChange) bool {
		return c.ended || c.node.life != c.life || c.node.driver == nil
	})
	return len(s.members.changes) > 0
}

// mayForget reports whether a machine may lose its disk: everybody who might count on
// it has met it, durably, as it is, and will not meet it anew by reading of how it was
// added. Else nobody could tell that it has forgotten what it promised.
func (s *simulation) mayForget(n *simNode) bool {
	for _, other := range s.nodes {
		if other == n || !other.employed || other.retired {
			continue
		}
		if other.driver == nil {
			return false
		}
		c := other.driver.core
		if c.configuration.index == 0 {
			continue // it waits to be added, and counts nobody
		}
		own := Contact{n.id, n.durable.Incarnation}
		if c.configuration.index < s.members.added[n.id] || !slices.Contains(c.contacts, own) || !slices.Contains(other.durable.Contacts, own) {
			return false
		}
	}
	return s.founders(n) // who are none any more may not find each other again
}

// founders reports whether enough founding members have their first disk, without one
// that loses it, if any is to found the cluster again: they might do so together.
func (s *simulation) founders(n *simNode) bool {
	emptied := 0
	for _, other := range s.nodes[:s.settings.nodes] {
		if other.emptied || other == n {
			emptied++
		}
	}
	return !s.members.founded || 2*emptied < s.settings.nodes
}

// empty gives a machine an empty disk.
func (n *simNode) empty() {
	if n.driver != nil {
		n.kill()
	}
	n.disk = vfs.NewMemory()
	n.emptied, n.joins, n.rotten, n.compacted = true, true, false, 0
	n.durable, n.last = HardState{}, 0
	n.judge.Forget(n.number)
	n.world.Note(sim.Line{Kind: "lose disk", Node: n.number, Peer: -1})
}

// Wipe has a member lose its disk. It comes back to wait for a leader, or as the
// founding member that it once was.
func (m simMachines) Wipe(i int, seed uint64) {
	n := m.node(i)
	enough := func(one configuration) bool {
		return m.isAgreed(one, func(other *simNode) bool { return other != n && !other.lost })
	}
	isVital := slices.ContainsFunc(m.possible(), func(one configuration) bool { return !enough(one) })
	if m.over || !n.employed || n.retired || n.lost || !m.mayBelong(n) || isVital || m.changing() || !m.mayForget(n) {
		m.world.Count("disks that were not lost")
		return
	}
	n.empty()
	if seed%2 == 0 && i < m.settings.nodes && m.settings.nodes > 1 {
		founded := m.members.founded
		m.members.founded = true
		if n.joins = !m.founders(n); n.joins {
			m.members.founded = founded
		}
	}
	n.lost, n.lostAt = true, m.members.settled
	m.judge.SetAside(i, true)
	m.world.Count("disks lost")
}

// leave ends a process that knows that it is no member. It comes back if it is one
// again, or once it is: somebody sees that it is away.
func (n *simNode) leave() {
	c := n.driver.core
	if _, member := c.configurationAt(c.commitIndex).member(n.id); member {
		n.judge.Accuse("who stays goes on", "%s ends as one that was taken out, and knows configuration %d: %v", n.id, c.configuration.index, c.configuration)
	}
	n.world.Count("removed nodes that ended")
	n.retired = !n.mayBelong(n)
	n.world.After(simElectionTimeout, n.comeBack)
}

func (n *simNode) comeBack() {
	if n.driver != nil {
		return
	}
	if n.retired = !n.mayBelong(n); n.retired {
		n.world.After(simElectionTimeout, n.comeBack)
		return
	}
	n.world.Count("removed nodes that were taken in again")
	n.start()
}

// At the end.

// minority draws members that the others can do without, whatever comes into force. All
// machines run: what a crash has left of a change is known.
func (s *simulation) minority() (away []*simNode) {
	if s.changing() {
		return nil
	}
	for _, n := range s.nodes {
		more := append(slices.Clip(away), n)
		stay := func(other *simNode) bool { return !other.lost && !slices.Contains(more, other) }
		if s.mayBelong(n) && !slices.ContainsFunc(s.possible(), func(one configuration) bool { return !s.isAgreed(one, stay) }) && s.canElect(stay) {
			away = more
		}
	}
	return away
}

// canElect reports whether some can make one of them leader, by the logs that they have now.
// That their votes are enough in each configuration does not say so: who has the longest log
// may be no voter in it yet, but be needed as one in the configuration of whoever else may
// campaign.
func (s *simulation) canElect(is func(*simNode) bool) bool {
	return slices.ContainsFunc(s.nodes, func(n *simNode) bool {
		if n.driver == nil || !is(n) {
			return false
		}
		c := n.driver.core
		return c.mayLead() && s.isAgreed(c.configuration, func(other *simNode) bool {
			return other.driver != nil && is(other) && !other.driver.core.log.moreUpToDate(c.log.last(), c.log.lastTerm())
		})
	})
}

// whole returns the members that are to be equal in the end.
func (s *simulation) whole() (whole []*simNode) {
	leader := s.leader()
	if leader == nil {
		return nil
	}
	for _, m := range leader.driver.core.configuration.members {
		if n := s.nodes[leader.numberOf(m.ID)]; !n.lost && !n.keptAway {
			whole = append(whole, n)
		}
	}
	return whole
}

// isSettled reports whether no change is under way.
func (s *simulation) isSettled() bool {
	leader := s.leader()
	if leader == nil {
		return false
	}
	c := leader.driver.core
	return !c.configuration.isJoint() && c.configuration.index <= c.commitIndex
}

// Operators.

// simOperator is somebody who has gone to whoever seems to lead.
type simOperator struct {
	*simulation
	leader *simNode
	random *rand.Rand
}

// Operate has an operator do something.
func (m simMachines) Operate(f sim.Fault) {
	o := simOperator{m.simulation, m.leader(), rand.New(rand.NewPCG(f.Seed, 2))}
	if o.over || o.leader == nil {
		return
	}
	switch f.Kind {
	case sim.AddLearner:
		o.add(func(NodeID) {})
	case sim.AddVoter:
		o.add(o.awaitCatchUp)
	case sim.Promote:
		o.update(Learner, Voter, "learners promoted")
	case sim.Demote:
		o.update(Voter, Learner, "voters demoted")
	case sim.Remove:
		if m, ok := o.pick(Voter, Learner); ok {
			o.change("members taken out", nil, remove(m.ID))
		}
	case sim.RemoveLeader:
		o.change("leaders taken out", nil, remove(o.leader.id))
	case sim.Joint:
		o.joint()
	case sim.ReplaceAll:
		o.replaceAll()
	case sim.Race:
		o.race()
	case sim.Transfer:
		o.transfer()
	}
}

func (o simOperator) configuration() configuration { return o.leader.driver.core.configuration }

func remove(id NodeID) MemberChange {
	return MemberChange{Kind: ChangeRemove, Member: Member{ID: id}}
}

// as returns a member with a role, now and then preferred as a leader.
func (o simOperator) as(id NodeID, role MemberRole) Member {
	m := Member{ID: id, Address: addressOfSim(id), Role: role}
	if o.random.IntN(4) == 0 {
		m.Priority = uint8(o.random.IntN(3))
	}
	return m
}

// pick draws a member of one of these roles.
func (o simOperator) pick(roles ...MemberRole) (Member, bool) {
	members := slices.DeleteFunc(slices.Clone(o.configuration().members), func(m Member) bool { return !slices.Contains(roles, m.Role) })
	if len(members) == 0 {
		return Member{}, false
	}
	return members[o.random.IntN(len(members))], true
}

// newcomers returns machines that are no members, with a process that waits to be
// added: a new one, or one that was a member, with the disk that it had or an empty
// one.
func (o simOperator) newcomers(most int) (ids []NodeID) {
	for _, i := range o.random.Perm(len(o.nodes)) {
		n := o.nodes[i]
		if _, member := o.configuration().member(n.id); member || len(ids) == most || o.mayBelong(n) {
			continue
		}
		if n.employed && o.random.IntN(3) > 0 && o.mayForget(n) {
			n.empty()
			o.world.Count("ids that came back with an empty disk")
		}
		n.employed, n.retired = true, false
		n.start()
		ids = append(ids, n.id)
	}
	return ids
}

// change asks the leader for a change, as ChangeMembers does, if it would not be the end
// of the cluster. What it leads to is counted under a name; then goes on.
func (o simOperator) change(name string, then func(), changes ...MemberChange) {
	if o.over || o.leader.driver == nil {
		return
	}
	before := o.configuration()
	if next, err := before.changed(changes); err == nil && !o.sane(next) {
		o.world.Count("changes that nobody dares")
		return
	}
	expected := before.index
	if !o.changing() && o.random.IntN(2) == 0 {
		expected = 0
	}
	o.ask(expected, changes, func(index Index, err error) {
		if err != nil {
			return
		}
		o.world.Count(name)
		c := o.leader.driver.core
		if at := c.configurationAt(index); index > c.commitIndex || at.index == index && at.isJoint() {
			o.judge.Accuse("changes are committed", "%s says so of entry %d, its commit index is %d, and there is %v", o.leader.id, index, c.commitIndex, at)
		}
		if then != nil {
			then()
		}
	})
}

// ask leaves a change with the leader.
func (o simOperator) ask(expected Index, changes []MemberChange, done func(Index, error)) {
	asked := &simChange{node: o.leader, life: o.leader.life}
	o.members.changes = append(o.members.changes, asked)
	o.leader.post(changeWanted{expected, changes, func(index Index, err error) {
		asked.ended = true
		o.world.Count("changes " + outcomeOf(err))
		if outcomeOf(err) == "of another kind" {
			o.judge.Accuse("documented errors", "a change of members ends with %v", err)
		}
		done(index, err)
	}})
}

// outcomeOf says what an operator is told.
func outcomeOf(err error) string {
	var mismatch *ConfigurationMismatchError
	refusals := []error{ErrNotLeader, ErrChangeInProgress, ErrMemberExists, ErrUnknownMember, ErrInvalidChange, ErrStopped}
	switch {
	case errors.As(err, &mismatch):
		return "refused"
	case err == nil:
		return "made"
	case errors.Is(err, ErrOutcomeUnknown):
		return "of unknown outcome"
	case slices.ContainsFunc(refusals, func(refusal error) bool { return errors.Is(err, refusal) }):
		return "refused"
	default:
		return "of another kind"
	}
}

// add has a machine join as a learner.
func (o simOperator) add(then func(NodeID)) {
	for _, id := range o.newcomers(1) {
		o.change("learners added", func() { then(id) }, MemberChange{ChangeAdd, o.as(id, Learner)})
	}
}

// awaitCatchUp goes on as AddVoter does: what cannot follow is taken out again.
func (o simOperator) awaitCatchUp(id NodeID) {
	o.leader.post(catchUpWanted{id, func(_ Index, err error) {
		switch {
		case o.over || o.leader.driver == nil:
		case err == nil:
			o.change("voters added", nil, MemberChange{ChangeUpdate, o.as(id, Voter)})
		case !errors.Is(err, ErrNotAccepted):
			o.world.Count("newcomers that could not follow")
			o.change("members taken out", nil, remove(id))
		}
	}})
}

// update has a member of one role take another.
func (o simOperator) update(from, to MemberRole, name string) {
	if m, ok := o.pick(from); ok {
		o.change(name, nil, MemberChange{ChangeUpdate, o.as(m.ID, to)})
	}
}

// joint makes several changes at once.
func (o simOperator) joint() {
	var changes []MemberChange
	for _, id := range o.newcomers(o.random.IntN(3)) {
		changes = append(changes, MemberChange{ChangeAdd, o.as(id, Voter)})
	}
	for _, m := range o.configuration().members {
		switch p := o.random.IntN(6); {
		case p == 0:
			changes = append(changes, remove(m.ID))
		case p == 1:
			changes = append(changes, MemberChange{ChangeUpdate, o.as(m.ID, Voter+Learner-min(m.Role, Learner))})
		}
	}
	name := "changes of one voter at most"
	if next, err := o.configuration().changed(changes); err == nil && next.isJoint() {
		name = "joint changes"
	}
	o.change(name, nil, changes...)
}

// replaceAll has other machines take the place of all members.
func (o simOperator) replaceAll() {
	var changes []MemberChange
	for _, id := range o.newcomers(len(o.configuration().incoming)) {
		changes = append(changes, MemberChange{ChangeAdd, o.as(id, Voter)})
	}
	for _, m := range o.configuration().members {
		changes = append(changes, remove(m.ID))
	}
	o.change("members that were all replaced", nil, changes...)
}

// race has two operators ask for something else, both of the same configuration: one of
// them at most gets it.
func (o simOperator) race() {
	m, _ := o.pick(Voter, Learner)
	made := 0
	expected := o.configuration().index
	for _, role := range []MemberRole{Voter, Learner} {
		changes := []MemberChange{{ChangeUpdate, o.as(m.ID, role)}}
		if next, err := o.configuration().changed(changes); err == nil && !o.sane(next) {
			continue
		}
		o.ask(expected, changes, func(_ Index, err error) {
			if err == nil {
				made++
			}
			if made == 2 {
				o.judge.Accuse("changes of one configuration", "two that expect entry %d were made", expected)
			}
		})
	}
}

// transfer has leadership handed over, to a member or to whoever is most up-to-date.
func (o simOperator) transfer() {
	to := NodeID("")
	if m, ok := o.pick(Voter, Voter, Learner); ok && o.random.IntN(3) > 0 {
		to = m.ID
	}
	o.leader.post(transferWanted{to, func(_ Index, err error) {
		o.leader.count(err, "leadership handed over", "leadership not handed over")
	}})
}
