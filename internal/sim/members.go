package sim

import "slices"

// What the judge knows of who takes part: the numbers of nodes.

// Configuration is who counts from an entry of the log on.
type Configuration struct {
	Index    uint64
	Voters   []int
	Outgoing []int // the voters before, while majorities of both must agree
}

// Mark is the end of a log.
type Mark struct{ Index, Term uint64 }

// Forget takes note that a machine has another disk now: nothing binds it that it
// was seen to do.
func (j *Judge) Forget(node int) { delete(j.nodes, node) }

// SetAside takes note that a node does not count any more, as one that has lost its
// disk, or that it does again.
func (j *Judge) SetAside(node int, is bool) { j.aside[node] = is }

// oneChangeAtATime: a configuration differs from the one before by a voter, or is one
// end of a joint phase, and no two of a log are not committed (thesis §4.1, §4.3).
func (j *Judge) oneChangeAtATime(o Observation) {
	open := 0
	for i, c := range o.Members {
		if i > 0 && !c.follows(o.Members[i-1]) {
			j.Accuse("one change at a time", "on node %d configuration %v follows %v", o.Node, c, o.Members[i-1])
		}
		if c.Index > j.Committed() {
			open++
		}
	}
	if open > 1 {
		j.Accuse("one change at a time", "node %d has %d configurations beyond %d, the last entry that was ever seen committed: %v", o.Node, open, j.Committed(), o.Members)
	}
}

// follows reports whether c may come next after another configuration.
func (c Configuration) follows(before Configuration) bool {
	switch {
	case len(before.Outgoing) > 0:
		return len(c.Outgoing) == 0 && slices.Equal(c.Voters, before.Voters)
	case len(c.Outgoing) > 0:
		return slices.Equal(c.Outgoing, before.Voters)
	}
	differ := 0
	for _, v := range slices.Concat(c.Voters, before.Voters) {
		if !slices.Contains(c.Voters, v) || !slices.Contains(before.Voters, v) {
			differ++
		}
	}
	return differ <= 1
}

// Agree reports whether enough of those who count are so, of both halves.
func (c Configuration) Agree(is func(node int) bool) bool {
	return agree(c.Voters, is) && (len(c.Outgoing) == 0 || agree(c.Outgoing, is))
}

func agree(voters []int, is func(node int) bool) bool {
	n := 0
	for _, v := range voters {
		if is(v) {
			n++
		}
	}
	return 2*n > len(voters)
}

// Written takes note of what a disk holds now, whatever becomes of it. That of a node
// that does not count is not looked at.
func (j *Judge) Written(node int, vote Ballot, log Mark) {
	if j.aside[node] {
		return
	}
	j.kept[node] = log
	if vote.Vote == 0 {
		return
	}
	if j.votes[vote] == nil {
		j.votes[vote] = map[int]bool{}
	}
	j.votes[vote][node] = true
}

// votersElect: a leader has the votes, on their disks, of a majority of the voters, in
// a joint phase of both halves (§3.4, §4.3).
func (j *Judge) votersElect(o Observation, k *known) {
	if !o.Leads || k.last.Leads && k.last.Term == o.Term && k.last.Life == o.Life {
		return
	}
	votes := j.votes[Ballot{o.Term, o.Vote}]
	j.requireOne("voters elect", o, k, func(node int) bool { return votes[node] })
}

// votersCommit: what a leader commits by counting is on the disks of such a majority
// (§3.6.2): who is no voter, or has lost its disk, is not counted, nor the leader
// itself if it is none.
func (j *Judge) votersCommit(o Observation, k *known) {
	if !o.Leads || o.Commit <= k.last.Commit || k.last.Life != o.Life || o.Commit < o.First {
		return
	}
	if term, _ := o.Entry(o.Commit); term != o.Term {
		return // it heard of it as a follower
	}
	j.requireOne("voters commit", o, k, func(node int) bool {
		kept := j.kept[node]
		return kept.Index >= o.Commit && kept.Term >= o.Term // of a later term it may hold the same and more
	})
}

// requireOne accuses a node unless enough agree in a configuration that was in force
// on it since it was last seen.
func (j *Judge) requireOne(promise string, o Observation, k *known, is func(node int) bool) {
	if len(o.Members) == 0 {
		return // it was not said who they are
	}
	since := uint64(0)
	if n := len(k.last.Members); n > 0 && k.last.Life == o.Life {
		since = k.last.Members[n-1].Index
	}
	for i, c := range o.Members {
		if (c.Index >= since || i == len(o.Members)-1) && c.Agree(is) {
			return
		}
	}
	j.Accuse(promise, "node %d leads term %d, with commit index %d, and too few of %v agree, of what is on disks: %v", o.Node, o.Term, o.Commit, o.Members, j.kept)
}
