package raft

import (
	"fmt"
	"slices"
)

// The properties that the exploration checks, one function for each. Those of a
// node's step are checked when the step is made, those of the cluster whenever a
// node has come into another state, on that node: what the others did was
// checked when they did it. The driver and the core check their own invariants
// in each step besides: Leader Append-Only is there (thesis §3.5).

// The names of the properties, for tests of the explorer that leave some out.
const (
	electionSafety   = "election safety"
	logMatching      = "log matching"
	leaderComplete   = "leader completeness"
	stateMachines    = "state machine safety"
	committedOnDisks = "what is committed is on a majority of disks"
	promises         = "nothing is promised before it is durable"
	nothingBack      = "term, vote and commit index do not go back"
	membersFollowLog = "the configurations are those of the log"
	whoStops         = "only who is no member any more stops"
	coreInvariant    = "the core's own invariants"
	nobodyHasToStop  = "no node has to stop"
)

// breach is a property that does not hold, and why.
type breach struct {
	property string
	why      string
}

func breachOf(property, format string, args ...any) *breach {
	return &breach{property, fmt.Sprintf(format, args...)}
}

// clusterProperties are checked in this order.
var clusterProperties = []struct {
	name  string
	check func(w *world, node int) *breach
}{
	{electionSafety, oneLeaderInATerm},
	{logMatching, logsMatch},
	{leaderComplete, leaderHasAllCommitted},
	{stateMachines, committedStays},
	{committedOnDisks, committedIsDurable},
	{membersFollowLog, configurationsFollowTheLog},
}

// oneLeaderInATerm is Election Safety (§3.4).
func oneLeaderInATerm(w *world, node int) *breach {
	c := w.members[node].core()
	if c.role != Leader {
		return nil
	}
	if other := w.past.leader(c.currentTerm); other != nobody && other != node {
		return breachOf(electionSafety, "%s leads term %d, which %s has led", exploredIDs[node], c.currentTerm, exploredIDs[other])
	}
	return nil
}

// logsMatch is Log Matching (§3.5): if two logs have entries of the same index
// and term, they are the same up to there.
func logsMatch(w *world, node int) *breach {
	log := w.members[node].log
	for other, m := range w.members {
		i := min(len(log), len(m.log)) - 1
		for i >= 0 && log[i].term != m.log[i].term {
			i--
		}
		if i >= 0 && !slices.Equal(log[:i+1], m.log[:i+1]) {
			return breachOf(logMatching, "the logs of %s and %s agree in the term of entry %d and differ up to there", exploredIDs[node], exploredIDs[other], i+1)
		}
	}
	return nil
}

// leaderHasAllCommitted is Leader Completeness (§3.6): a leader has what was
// committed in earlier terms.
func leaderHasAllCommitted(w *world, node int) *breach {
	m := w.members[node]
	c := m.core()
	if c.role != Leader {
		return nil
	}
	for i, e := range w.past.committed {
		if e.in < c.currentTerm && (i >= len(m.log) || m.log[i] != e.entrySum) {
			return breachOf(leaderComplete, "%s leads term %d without entry %d@%d, which was committed in term %d", exploredIDs[node], c.currentTerm, i+1, e.term, e.in)
		}
	}
	return nil
}

// committedStays is State Machine Safety (§3.6.3): what is committed on one node
// is never another entry on another one, nor later on any.
func committedStays(w *world, node int) *breach {
	m := w.members[node]
	for i, e := range w.past.committed[:min(len(w.past.committed), int(m.core().commitIndex))] {
		if m.log[i] != e.entrySum {
			return breachOf(stateMachines, "%s commits entry %d@%d, where %d@%d was committed in term %d", exploredIDs[node], i+1, m.log[i].term, i+1, e.term, e.in)
		}
	}
	return nil
}

// committedIsDurable is what the other properties rest on (§3.6.2, §3.8): what is
// committed is, from then on, on the disks of a majority.
func committedIsDurable(w *world, node int) *breach {
	committed := w.members[node].log[:w.members[node].core().commitIndex]
	for i := range max(len(committed), len(w.past.committed)) {
		var e entrySum
		if i < len(w.past.committed) {
			e = w.past.committed[i].entrySum
		} else {
			e = committed[i]
		}
		disks := 0
		for _, m := range w.members {
			if i < len(m.disk) && m.disk[i] == e {
				disks++
			}
		}
		if disks < 2 && !slices.ContainsFunc(w.members[:], (*member).mayBeAlone) {
			return breachOf(committedOnDisks, "entry %d@%d is committed and on %d disks", i+1, e.term, disks)
		}
	}
	return nil
}

// mayBeAlone reports whether one voter was a majority at some time.
func (m *member) mayBeAlone() bool {
	c := m.core()
	return slices.ContainsFunc(append(slices.Clip(c.earlier), c.configuration), func(one configuration) bool { return len(one.incoming) == 1 })
}

// configurationsFollowTheLog is the rule of §4.1: a configuration is in force from its
// entry on, committed or not, and as long as that is there.
func configurationsFollowTheLog(w *world, node int) *breach {
	m := w.members[node]
	known := m.core().configurationEntries()
	found := 0
	for i, e := range m.log {
		if !e.configures {
			continue
		}
		if found == len(known) || known[found].Index != Index(i)+1 || whatOf(EntryConfiguration, known[found].Data) != e.what {
			return breachOf(membersFollowLog, "%s does not know the configuration of entry %d", exploredIDs[node], i+1)
		}
		found++
	}
	if found < len(known) {
		return breachOf(membersFollowLog, "%s takes a configuration for that of entry %d", exploredIDs[node], known[found].Index)
	}
	return nil
}

// onlyWhoIsOutStops holds of a node that takes itself for removed: a configuration
// without it is committed (§4.2.2).
func onlyWhoIsOutStops(p *process) *breach {
	c := p.driver.core
	if _, member := c.configuration.member(c.settings.id); member || c.configuration.index > c.commitIndex {
		return breachOf(whoStops, "%s stops, with the configuration of entry %d in force, %s, and commit index %d", c.settings.id, c.configuration.index, c.configuration, c.commitIndex)
	}
	return nil
}

// onlyDurablePromises is the rule of [effects] (§3.8), checked against the disk
// when a letter leaves.
func onlyDurablePromises(p *process, l *letter) *breach {
	disk, self := p.storage.hardState, exploredIDs[l.from]
	has := func(index Index, term Term) bool {
		log := entrySums(p.storage.runs)
		return int(index) <= len(log) && (index == 0 || log[index-1].term == term)
	}
	message := l.request
	if l.answer != nil {
		message = l.answer
	}
	term := termIn(message)
	switch m := message.(type) {
	case *VoteRequest:
		if m.PreVote {
			return nil
		}
		if disk.VotedFor != self || !has(m.LastLogIndex, m.LastLogTerm) {
			return breachOf(promises, "%s campaigns with a vote or a log that is not on its disk", self)
		}
	case *VoteResponse:
		if m.VoteGranted && !m.PreVote && (disk.Term != m.Term || disk.VotedFor != exploredIDs[l.to]) {
			return breachOf(promises, "%s grants %s a vote in term %d that its disk does not know", self, exploredIDs[l.to], m.Term)
		}
	case *Heartbeat, *AppendEntries, *TimeoutNow:
		if disk.VotedFor != self || disk.Term != term {
			return breachOf(promises, "%s leads term %d without its own vote on disk", self, term)
		}
	case *AppendResponse:
		if have, _ := p.driver.core.log.term(m.Match); m.Success && !has(m.Match, have) {
			return breachOf(promises, "%s acknowledges entry %d@%d, which is not on its disk", self, m.Match, have)
		}
	}
	if term > disk.Term {
		return breachOf(promises, "%s speaks in term %d, which its disk does not know", self, term)
	}
	return nil
}

// nothingGoesBack holds between a node before and after a step (§3.3, §3.4): of
// its disk always, of its memory as long as the process lives.
func nothingGoesBack(before, after *member, restarted bool) *breach {
	was, is := before.storage.hardState, after.storage.hardState
	disk := is.Term > was.Term || is.Term == was.Term && (was.VotedFor == "" || is.VotedFor == was.VotedFor)
	if !disk || after.storage.commit < before.storage.commit {
		return breachOf(nothingBack, "the disk of %s", is.ID)
	}
	b, a := before.core(), after.core()
	memory := a.currentTerm > b.currentTerm || a.currentTerm == b.currentTerm && (b.votedFor == "" || a.votedFor == b.votedFor)
	if !restarted && (!memory || a.commitIndex < b.commitIndex) {
		return breachOf(nothingBack, "the memory of %s", is.ID)
	}
	return nil
}

// appliedInOrder holds of what a state machine is given: the entries of the log
// that come next, and committed ones only.
func appliedInOrder(p *process, task *applyTask) *breach {
	c := p.driver.core
	if task.first != p.applied+1 || task.last < task.first || task.last > c.commitIndex {
		return breachOf(stateMachines, "%s applies entries %d to %d after %d, committed up to %d", c.settings.id, task.first, task.last, p.applied, c.commitIndex)
	}
	for e := range task.entries.All() {
		if !c.log.matches(e.Index, e.Term) {
			return breachOf(stateMachines, "%s applies entry %d@%d, which is not in its log", c.settings.id, e.Index, e.Term)
		}
	}
	return nil
}
