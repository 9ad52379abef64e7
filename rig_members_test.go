package raft

import (
	"cmp"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
)

// Changes of the members and of the leader in the rig.

// addJoiners adds nodes that are no founding members: they start empty, and wait to
// be taken in.
func (r *rig) addJoiners(names string) {
	for _, name := range strings.Fields(names) {
		id := NodeID(name)
		r.ids = append(r.ids, id)
		r.nodes[id] = &rigNode{rig: r, id: id, joins: true, incarnation: 0xa0 + uint64(len(r.nodes)), storage: r.newStorage()}
	}
}

// decision is what somebody learns who wants other members, or another leader.
type decision struct {
	ended bool
	index Index
	err   error
}

func (o *decision) end(t require.TestingT) func(Index, error) {
	return func(index Index, err error) {
		require.False(t, o.ended, "a second outcome")
		*o = decision{true, index, err}
	}
}

// change has a leader change the members, based on the configuration of an entry; 0
// stands for any.
func (r *rig) change(id NodeID, expected Index, changes ...MemberChange) *decision {
	o := new(decision)
	r.do(id, changeWanted{expected, changes, o.end(r.t)})
	return o
}

// transfer has a leader hand over.
func (r *rig) transfer(id, to NodeID) *decision {
	o := new(decision)
	r.do(id, transferWanted{to, o.end(r.t)})
	return o
}

func (r *rig) memberCalled(id NodeID, role MemberRole) Member {
	return Member{ID: id, Address: string(id) + ".example:1", Role: role}
}

func (r *rig) adds(id NodeID) MemberChange {
	return MemberChange{ChangeAdd, r.memberCalled(id, Voter)}
}

func (r *rig) addsLearner(id NodeID) MemberChange {
	return MemberChange{ChangeAdd, r.memberCalled(id, Learner)}
}

func (r *rig) promotes(id NodeID) MemberChange {
	return MemberChange{ChangeUpdate, r.memberCalled(id, Voter)}
}

func (r *rig) demotes(id NodeID) MemberChange {
	return MemberChange{ChangeUpdate, r.memberCalled(id, Learner)}
}

func removes(id NodeID) MemberChange {
	return MemberChange{Kind: ChangeRemove, Member: Member{ID: id}}
}

// membersLine writes a configuration: its voters, those that must agree too in a
// joint phase, and learners.
func membersLine(c configuration) string {
	names := func(ids []NodeID) string {
		var words []string
		for _, id := range ids {
			words = append(words, string(id))
		}
		return strings.Join(words, " ")
	}
	var learners []NodeID
	for _, m := range c.members {
		if m.Role == Learner {
			learners = append(learners, m.ID)
		}
	}
	line := orNothing(names(c.incoming))
	if c.isJoint() {
		line += ", and before " + names(c.outgoing)
	}
	if len(learners) > 0 {
		line += ", learners " + names(learners)
	}
	return line
}

// checkConfigurations compares what a node takes for its configurations with its log,
// read from its beginning (§4.1): each is in force from its entry on, committed or not,
// and goes with it. One more is known, which what is compacted has left in force.
func (n *rigNode) checkConfigurations() {
	r, c := n.rig, n.driver.core
	if was := n.was; was != nil && was.reconfigured == c.reconfigured && was.log.compacted == c.log.compacted && c.log.matches(was.log.last(), was.log.lastTerm()) {
		for entry := range r.stored(n.id, was.log.last()+1).All() { // those before are as they were
			r.must(entry.Kind != EntryConfiguration, "M3: %s does not know the configuration of entry %d", n.id, entry.Index)
		}
		if c.commitIndex > was.commitIndex {
			r.noteConfigurations(c)
		}
		return
	}
	var want []ConfigurationEntry
	for entry := range r.stored(n.id, c.log.firstKept()).All() {
		if entry.Kind == EntryConfiguration {
			want = append(want, ConfigurationEntry{entry.Index, entry.Data})
		}
	}
	have := c.configurationEntries()
	if c.log.compacted.Index > 0 {
		require.NotEmpty(r.t, have, "M3: %s has no configuration", n.id)
		require.LessOrEqual(r.t, have[0].Index, c.log.compacted.Index, "M3: the first configuration of %s", n.id)
		have = have[1:]
	}
	require.True(r.t, slices.EqualFunc(want, have, func(a, b ConfigurationEntry) bool { return a.Index == b.Index && string(a.Data) == string(b.Data) }),
		"M3: the configurations of %s are those of entries %v, and its log has %v\n%s", n.id, indexes(have), indexes(want), r)
	r.noteConfigurations(c)
}

// noteConfigurations notes those that a node knows to be committed.
func (r *rig) noteConfigurations(c *core) {
	for _, entry := range c.configurationEntries() {
		if entry.Index <= c.commitIndex {
			r.noteConfiguration(entry)
		}
	}
}

func indexes(entries []ConfigurationEntry) []Index {
	var list []Index
	for _, entry := range entries {
		list = append(list, entry.Index)
	}
	return list
}

// noteConfiguration requires that all nodes know the same committed configurations.
func (r *rig) noteConfiguration(entry ConfigurationEntry) {
	at := func(e ConfigurationEntry, index Index) int { return cmp.Compare(e.Index, index) }
	i, known := slices.BinarySearchFunc(r.configurations, entry.Index, at)
	if !known {
		r.configurations = slices.Insert(r.configurations, i, entry)
	}
	require.Equal(r.t, r.configurations[i].Data, entry.Data, "M3: the configuration of entry %d", entry.Index)
}
