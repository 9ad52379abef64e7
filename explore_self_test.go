package raft

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/quorum"
)

// The explorer is tested too. First with nodes that are wrong on purpose: what is
// wrong is done to their state from outside, after each step.

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
		c.commitIndex, p.again = index, true
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

// countsNewVotersOnly is a leader that ends a joint phase without the voters before
// (§4.3).
func countsNewVotersOnly(_ *explorer, p *process) {
	if c := p.driver.core; c.role == Leader && c.configuration.isJoint() {
		c.configuration.outgoing = nil
		if quorum.Reached([]uint64{uint64(c.peer("b").match), uint64(c.peer("c").match)}) >= uint64(c.configuration.index) && c.commitIndex < c.configuration.index {
			c.commitIndex, p.again = c.configuration.index, true
		}
	}
}

// waitsForCommit is a node that takes members into force when they are committed.
func waitsForCommit(_ *explorer, p *process) {
	if c := p.driver.core; c.role == Follower && c.configuration.index > c.commitIndex && len(c.earlier) > 0 {
		c.configuration, c.earlier = c.earlier[len(c.earlier)-1], c.earlier[:len(c.earlier)-1]
	}
}

// Whatever is wrong with the nodes, the explorer finds it soon, and tells how it
// comes to that. Properties that would tell at once are left out where what
// matters is whether the explorer finds what follows.
func TestExplorationFindsFaults(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		name  string
		fault fault
		scope scope
		skip  []string
		want  string
	}{
		{"a double vote", forgetsVotes, scopes[1], []string{nothingBack}, electionSafety},
		{"a commit of an old term by counting", countsOldTerms, scopes[5], nil, leaderComplete},
		{"an answer before the sync", answersAtOnce, scopes[1], nil, promises},
		{"a vote before the sync, and a crash", answersAtOnce, scopes[1], []string{promises, committedOnDisks, nothingBack}, electionSafety},
		{"an acknowledgement before the sync", answersAtOnce, scopes[2], []string{promises}, committedOnDisks},
		{"an acknowledgement before the sync, and a crash", answersAtOnce, scopes[2], []string{promises, committedOnDisks}, leaderComplete},
		{"a joint phase without the voters before", countsNewVotersOnly, scopes[10], nil, leaderComplete},
		{"members that wait for a commit", waitsForCommit, scopes[6], nil, membersFollowLog},
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

// What the hash of a node leaves out makes no difference: two nodes of equal hash
// come into nodes of equal hash by whatever happens to them, and send the same.
func TestExploredNodesOfEqualHashActAlike(t *testing.T) {
	t.Parallel()
	for _, s := range scopes {
		x := newExplorer(s)
		x.twins = map[*member]*member{}
		x.explore(20_000, func(string, ...any) {})
		compared := 0
		for m, twin := range x.twins {
			for c, r := range m.reactions {
				again := x.step(twin, c)
				require.True(t, r.member == again.member, "%s: %s\nor\n%s", x.describe(int8(m.self()), c), r.member, again.member)
				require.ElementsMatch(t, r.sent, again.sent, "%s", x.describe(int8(m.self()), c))
				compared++
			}
		}
		require.Greater(t, compared, 1000)
	}
}

// To take worlds that differ in the names of nodes for one loses none: without
// that the same worlds are found at the same depths, several times each.
func TestExploredWorldsOfOtherNamesAreTheSame(t *testing.T) {
	t.Parallel()
	for _, s := range scopes[:3] {
		renamed, plain := newExplorer(s), newExplorer(s)
		plain.plain = true
		known := map[uint64]bool{}
		var want, got []int
		renamed.explore(1000, func(string, ...any) { want = append(want, len(renamed.next)) })
		plain.explore(12_000, func(string, ...any) {
			known[plain.first.sums.least()] = true
			before := len(known)
			for _, w := range plain.next {
				known[w.sums.least()] = true
			}
			got = append(got, len(known)-before)
		})
		complete := min(len(want), len(got)) - 1
		require.Equal(t, want[:complete], got[:complete])
		require.Greater(t, complete, 3)
		require.Greater(t, 2*len(plain.seen), 3*len(known))
	}
}

// A letter that is taken out as pointless does nothing to its receiver, neither
// then nor after anything else that happens to it.
func TestExplorationTakesOutPointlessLetters(t *testing.T) {
	t.Parallel()
	for _, s := range scopes {
		x := newExplorer(s)
		x.dropped = map[arriving]bool{}
		x.explore(5000, func(string, ...any) {})
		var all []arriving
		for a := range x.dropped {
			all = append(all, a)
		}
		require.NotEmpty(t, all)
		for len(all) > 0 {
			a := all[len(all)-1]
			all = all[:len(all)-1]
			require.True(t, a.letter.pointless(a.member), "%s\n%s", a.letter, a.member)
			r := x.step(a.member, choice{delivered, a.letter.number})
			require.True(t, r.member == a.member && r.broken == nil, "%s\n%s\n%s", a.letter, a.member, r.member)
			require.Empty(t, r.sent)
			for _, r := range a.member.reactions {
				if next := (arriving{r.member, a.letter}); !x.dropped[next] {
					x.dropped[next] = true
					all = append(all, next)
				}
			}
		}
	}
}
