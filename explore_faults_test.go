package raft

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/quorum"
)

// The explorer is tested with nodes that are wrong on purpose. What is wrong is
// done to their state from outside, after each step.

// forgetsVotes is a node that forgets its vote once it has left.
func forgetsVotes(_ *explorer, p *process) {
	c := p.driver.core
	if p.saving != nil || c.votedFor == "" || c.votedFor == c.settings.id {
		return
	}
	c.votedFor = ""
	p.storage = copyOf(p.storage)
	p.storage.hardState.VotedFor = ""
}

// countsOldTerms is a leader that commits whatever is on a majority (§3.6.2).
func countsOldTerms(_ *explorer, p *process) {
	c := p.driver.core
	if c.role != Leader {
		return
	}
	matches := []uint64{uint64(c.log.durable)}
	for _, peer := range c.peers {
		matches = append(matches, uint64(peer.match))
	}
	if index := Index(quorum.Reached(matches)); index > c.commitIndex {
		c.commitIndex, p.fault = index, true
	}
}

// answersAtOnce is a node that grants and acknowledges before its disk has what
// it speaks of.
func answersAtOnce(x *explorer, p *process) {
	d := p.driver
	x.postReplies(p, d.replies)
	x.postReplies(p, d.appendReplies)
	d.replies, d.appendReplies = nil, nil
}

// Whatever is wrong with the nodes, the explorer finds it soon, and tells how it
// comes to that. Properties that would tell at once are left out where what
// matters is whether the explorer finds what follows.
func TestExplorationFindsFaults(t *testing.T) {
	for _, f := range []struct {
		name  string
		fault fault
		scope scope
		skip  []string
		want  string
	}{
		{"a double vote", forgetsVotes, scopes[1], []string{nothingBack}, electionSafety},
		{"a commit of an old term by counting", countsOldTerms, scopes[3], nil, leaderComplete},
		{"an answer before the sync", answersAtOnce, scopes[1], nil, promises},
		{"a vote before the sync, and a crash", answersAtOnce, scopes[1], []string{promises, committedOnDisks, nothingBack}, electionSafety},
		{"an acknowledgement before the sync", answersAtOnce, scopes[2], []string{promises}, committedOnDisks},
		{"an acknowledgement before the sync, and a crash", answersAtOnce, scopes[2], []string{promises, committedOnDisks}, leaderComplete},
	} {
		t.Run(f.name, func(t *testing.T) {
			x := newExplorer(f.scope)
			x.fault, x.skip = f.fault, f.skip
			x.explore(50_000, t.Logf)
			require.NotNil(t, x.found, "%s is not found", f.name)
			t.Logf("after %d steps: %s", x.found.depth, x.tale(x.found))
			require.Equal(t, f.want, x.found.property, "%s", x.found.why)
		})
	}
}
