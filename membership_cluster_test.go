package raft_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

func newMember(id raft.NodeID) raft.Member { return raft.Member{ID: id, Address: addressOf(id)} }

// within returns a context that ends soon.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	t.Cleanup(cancel)
	return ctx
}

// dismissed is for clusters whose nodes are taken out.
func dismissed(t *testing.T, _ raft.NodeID, err error) {
	if err != nil {
		require.ErrorIs(t, err, raft.ErrRemoved)
	}
}

// roles lists the members as a node knows them.
func (c *cluster) roles(id raft.NodeID) string {
	text := ""
	for _, m := range c.status(id).Members {
		text += fmt.Sprintf("%s:%s ", m.ID, m.Role)
	}
	return text
}

func TestVoterIsAdded(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		c.propose(leader, "1")
		c.join("d")
		require.NoError(t, c.node(leader).AddVoter(within(t), newMember("d")))
		require.Equal(t, "a:voter b:voter c:voter d:voter ", c.roles(leader))
		c.propose(leader, "2")
		require.Equal(t, []string{"1", "2"}, c.equal())
		require.NoError(t, c.node(leader).AddVoter(within(t), newMember("d")), "it is one")
		require.ErrorIs(t, c.node(leader).AddVoter(within(t), raft.Member{ID: "d", Address: "elsewhere"}), raft.ErrMemberExists)
		require.ErrorIs(t, c.node("d").AddVoter(within(t), newMember("d")), raft.ErrNotLeader, "a follower may not know that it was taken out")

		c.stop("d") // and comes back as a member
		c.start("d")
		c.propose(c.leader(), "3")
		require.Equal(t, []string{"1", "2", "3"}, c.equal())
		require.Equal(t, "a:voter b:voter c:voter d:voter ", c.roles("d"))
	})
}

func TestLearnersCountForNothing(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{})
		for _, id := range []raft.NodeID{"b", "c"} {
			c.join(id)
			require.NoError(t, c.node("a").AddLearner(within(t), newMember(id)))
			require.NoError(t, c.node("a").AddLearner(within(t), newMember(id)), "there it is")
			require.ErrorIs(t, c.node(id).AddLearner(within(t), newMember(id)), raft.ErrNotLeader)
		}
		c.propose("a", "1")
		require.Equal(t, []string{"1"}, c.equal())
		c.stop("b")
		c.stop("c")
		c.propose("a", "2")
		time.Sleep(10 * electionTimeout)
		require.True(t, c.isLeader("a"), "learners are not asked for contact")
		c.start("b")
		require.Equal(t, []string{"1", "2"}, c.equal())
		require.ErrorIs(t, c.node("a").TransferLeadership(within(t), "b"), raft.ErrTransferFailed)
		c.propose("a", "3") // M16: a learner stays one whatever happens to others
		require.Equal(t, "a:voter b:learner c:learner ", c.roles("b"))
	})
}

// M5: a leader takes itself out: it tells everybody, hands over and stops.
func TestM5LeaderRemovesItself(t *testing.T) {
	t.Parallel()
	for nodes := 2; nodes <= 4; nodes++ {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := startCluster(t, nodes, clusterOptions{ended: dismissed})
				leader := c.leader()
				c.propose(leader, "1")
				require.NoError(t, c.node(leader).RemoveMember(within(t), leader))
				began := time.Now()
				<-c.members[leader].ended
				require.ErrorIs(t, c.members[leader].err, raft.ErrRemoved)
				require.ErrorIs(t, c.node(leader).Err(), raft.ErrRemoved)
				c.buried(c.members[leader])
				next := c.leaderOf(c.others(leader)...)
				require.Less(t, time.Since(began), 2*electionTimeout)
				c.propose(next, "2")
				require.Equal(t, []string{"1", "2"}, c.applied(next))
				require.NotContains(t, c.roles(next), string(leader)+":")
			})
		})
	}
}

// A leader that becomes a learner hands over, and goes on as one.
func TestLeaderBecomesALearner(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		m := newMember(leader)
		m.Role = raft.Learner
		_, err := c.node(leader).ChangeMembers(within(t), 0, raft.MemberChange{Kind: raft.ChangeUpdate, Member: m})
		require.NoError(t, err)
		c.eventually(2*electionTimeout, "another leader", func() bool { return !c.isLeader(leader) && c.status(leader).Leader != "" })
		c.propose(c.leader(), "1")
		require.Equal(t, []string{"1"}, c.equal())
	})
}

// M2: a member is taken out while it cannot hear of it.
func TestM2RemovedMemberDisturbsNobody(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{ended: dismissed})
		leader := c.leader()
		out := c.others(leader)[0]
		c.network.Isolate(out)
		require.NoError(t, c.node(leader).RemoveMember(within(t), out))
		term := c.status(leader).Term
		time.Sleep(20 * electionTimeout)
		c.network.Heal()
		time.Sleep(20 * electionTimeout)
		require.Equal(t, term, c.status(leader).Term)
		require.True(t, c.isLeader(leader))
		c.propose(leader, "1")
	})
}

// A member that is taken out learns of it, and its Run says so.
func TestRemovedMemberStops(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{ended: dismissed})
		leader := c.leader()
		out := c.others(leader)[0]
		require.NoError(t, c.node(leader).RemoveMember(within(t), out))
		c.awaitEnd(out)
		c.buried(c.members[out])
		require.ErrorIs(t, c.members[out].err, raft.ErrRemoved)
		require.ErrorContains(t, c.members[out].err, string(out))
		c.propose(leader, "1")
		time.Sleep(11 * electionTimeout)
		require.Len(t, c.status(leader).Peers, 1)
	})
}

// Everybody is replaced at once, through a joint phase.
func TestAllAreReplacedAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{ended: dismissed})
		leader := c.leader()
		c.propose(leader, "1")
		var changes []raft.MemberChange
		for _, id := range []raft.NodeID{"d", "e", "f"} {
			c.join(id)
			m := newMember(id)
			m.Role = raft.Voter
			changes = append(changes, raft.MemberChange{Kind: raft.ChangeAdd, Member: m})
		}
		for _, id := range []raft.NodeID{"a", "b", "c"} {
			changes = append(changes, raft.MemberChange{Kind: raft.ChangeRemove, Member: raft.Member{ID: id}})
		}
		index, err := c.node(leader).ChangeMembers(within(t), c.status(leader).ConfigurationIndex, changes...)
		require.NoError(t, err)
		for _, id := range []raft.NodeID{"a", "b", "c"} {
			c.awaitEnd(id)
			c.buried(c.members[id])
		}
		next := c.leader()
		require.Equal(t, index, c.status(next).ConfigurationIndex)
		require.Equal(t, "d:voter e:voter f:voter ", c.roles(next))
		c.propose(next, "2")
		require.Equal(t, []string{"1", "2"}, c.equal())
	})
}

// M11: a newcomer that cannot be reached does not become a voter, and is taken out.
func TestM11NewcomerThatCannotFollow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		down := c.others(leader)[0]
		c.stop(down)
		err := c.node(leader).AddVoter(context.Background(), newMember("d"))
		require.ErrorIs(t, err, raft.ErrCannotFollow)
		require.ErrorContains(t, err, "d has not answered for")
		require.Equal(t, "a:voter b:voter c:voter ", c.roles(leader))
		c.propose(leader, "1")
	})
}

// M11: somebody else takes a newcomer out that is still catching up.
func TestM11NewcomerThatIsTakenOutMeanwhile(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		added := make(chan error, 1)
		go func() { added <- c.node(leader).AddVoter(context.Background(), newMember("d")) }()
		synctest.Wait()
		time.Sleep(electionTimeout)
		require.Contains(t, c.roles(leader), "d:learner")
		require.NoError(t, c.node(leader).RemoveMember(within(t), "d"))
		err := receive(t, added, "the end of AddVoter")
		require.ErrorIs(t, err, raft.ErrUnknownMember)
		require.NotContains(t, err.Error(), "still a learner")
	})
}

// M13, M14: what cannot be done is refused, and holds up nothing.
func TestM13ChangesThatAreRefused(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{ended: dismissed})
		leader := c.leader()
		node, follower := c.node(leader), c.node(c.others(leader)[0])
		change := func(kind raft.ChangeKind, id raft.NodeID, role raft.MemberRole) raft.MemberChange {
			return raft.MemberChange{Kind: kind, Member: raft.Member{ID: id, Address: addressOf(id), Role: role}}
		}
		for _, test := range []struct {
			want    error
			changes []raft.MemberChange
		}{
			{raft.ErrMemberExists, []raft.MemberChange{change(raft.ChangeAdd, "a", raft.Voter)}},
			{raft.ErrUnknownMember, []raft.MemberChange{change(raft.ChangeRemove, "x", 0)}},
			{raft.ErrUnknownMember, []raft.MemberChange{change(raft.ChangeUpdate, "x", raft.Learner)}},
			{raft.ErrInvalidChange, nil},
			{raft.ErrInvalidChange, []raft.MemberChange{change(raft.ChangeAdd, "x", 0)}},
			{raft.ErrInvalidChange, []raft.MemberChange{change(raft.ChangeAdd, "x", raft.Leaving)}},
			{raft.ErrInvalidChange, []raft.MemberChange{change(raft.ChangeAdd, "no good", raft.Voter)}},
			{raft.ErrInvalidChange, []raft.MemberChange{change(9, "x", raft.Voter)}},
			{raft.ErrInvalidChange, []raft.MemberChange{change(raft.ChangeAdd, "x", raft.Voter), change(raft.ChangeRemove, "x", 0)}},
			{raft.ErrInvalidChange, []raft.MemberChange{{Kind: raft.ChangeAdd, Member: raft.Member{ID: "x", Address: addressOf("a"), Role: raft.Learner}}}},
			{raft.ErrInvalidChange, []raft.MemberChange{change(raft.ChangeRemove, "a", 0), change(raft.ChangeRemove, "b", 0), change(raft.ChangeRemove, "c", 0)}},
		} {
			_, err := node.ChangeMembers(within(t), 0, test.changes...)
			require.ErrorIs(t, err, test.want, "%v", test.changes)
		}
		var mismatch *raft.ConfigurationMismatchError
		_, err := node.ChangeMembers(within(t), 7, change(raft.ChangeRemove, "a", 0))
		require.ErrorAs(t, err, &mismatch)
		require.Equal(t, raft.Index(1), mismatch.Have)
		_, err = follower.ChangeMembers(within(t), 0, change(raft.ChangeRemove, "a", 0))
		require.ErrorIs(t, err, raft.ErrNotLeader)
		require.ErrorIs(t, follower.TransferLeadership(within(t), ""), raft.ErrNotLeader)

		c.network.Isolate(leader) // the change that is under way now does not end
		ended := make(chan error, 1)
		out := c.others(leader)[1]
		go func() { ended <- node.RemoveMember(context.Background(), out) }()
		synctest.Wait()
		require.ErrorIs(t, node.RemoveMember(within(t), "a"), raft.ErrChangeInProgress)
		requireUnknown(t, <-ended)
		c.network.Heal()
		c.leader()
		require.Equal(t, "a:voter b:voter c:voter ", c.roles(leader), "M3: it went with its entry")
		require.NoError(t, c.node(c.leader()).RemoveMember(within(t), c.others(c.leader())[0]))
	})
}

func TestLeadershipIsTransferred(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		for range 5 {
			leader := c.leader()
			to := c.others(leader)[0]
			began := time.Now()
			require.NoError(t, c.node(leader).TransferLeadership(within(t), to))
			require.Less(t, time.Since(began), electionTimeout/2)
			require.Equal(t, to, c.leader())
			c.propose(to, "x")
		}
		leader := c.leader()
		term := c.status(leader).Term
		require.NoError(t, c.node(leader).TransferLeadership(within(t), leader), "T4: it leads")
		require.ErrorIs(t, c.node(leader).TransferLeadership(within(t), "x"), raft.ErrUnknownMember)
		require.Equal(t, term, c.status(leader).Term)
	})
}

// T1: a transfer that fails leaves the leader at work.
func TestT1FailedTransfer(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		to := c.others(leader)[0]
		c.network.Isolate(to)
		ended := make(chan error, 1)
		began := time.Now()
		go func() { ended <- c.node(leader).TransferLeadership(context.Background(), to) }()
		synctest.Wait()
		written := c.proposeLater(context.Background(), leader, "1")
		require.ErrorIs(t, <-ended, raft.ErrTransferFailed)
		require.LessOrEqual(t, time.Since(began), electionTimeout)
		require.NoError(t, (<-written).err)
		require.True(t, c.isLeader(leader))
		c.network.Heal()
		require.Equal(t, []string{"1"}, c.equal())
	})
}

func TestPreferredMemberLeads(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		preferred := newMember(c.others(leader)[0])
		preferred.Role, preferred.Priority = raft.Voter, 5
		_, err := c.node(leader).ChangeMembers(within(t), 0, raft.MemberChange{Kind: raft.ChangeUpdate, Member: preferred})
		require.NoError(t, err)
		c.eventually(20*electionTimeout, "the preferred one to lead", func() bool { return c.isLeader(preferred.ID) })
		c.leader()
		c.stop(preferred.ID)
		c.propose(c.leader(), "1") // whoever is left
		c.start(preferred.ID)
		c.eventually(30*electionTimeout, "the preferred one to lead again", func() bool { return c.isLeader(preferred.ID) })
	})
}

// An id comes back through remove and add, with another disk.
func TestWipedMemberIsTakenInAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{ended: dismissed})
		leader := c.leader()
		c.propose(leader, "1")
		out := c.others(leader)[0]
		c.stop(out)
		c.ids = slices.DeleteFunc(c.ids, func(id raft.NodeID) bool { return id == out })
		c.join(out)
		c.eventually(soon, "the leader to tell of the other disk", func() bool {
			return strings.Contains(c.status(leader).Reason+fmt.Sprint(c.status(leader).Peers), "other disk")
		})
		require.NoError(t, c.node(leader).RemoveMember(within(t), out))
		require.NoError(t, c.node(leader).AddVoter(within(t), newMember(out)))
		c.propose(leader, "2")
		require.Equal(t, []string{"1", "2"}, c.equal())
	})
}

// Members come with snapshots.
func TestJoinerGetsASnapshot(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) { config.TrailingEntries = 1 }, machine: func(raft.NodeID) raft.StateMachine { return newRecorder() }})
		leader := c.leader()
		for i := range 100 {
			c.propose(leader, fmt.Sprint(i))
		}
		_, err := c.node(leader).TakeSnapshot(within(t))
		require.NoError(t, err)
		c.join("d")
		require.NoError(t, c.node(leader).AddVoter(within(t), newMember("d")))
		require.Len(t, c.equal(), 100)
		require.Positive(t, c.status("d").SnapshotIndex)
		_, err = c.node("d").TakeSnapshot(within(t))
		require.NoError(t, err)
		c.stop("d")
		c.start("d")
		require.Len(t, c.equal(), 100)
	})
}

// E14: a leader that is asked to lead goes on as it is.
func TestE14LeaderIsAskedToLead(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		term := c.status(leader).Term
		for range 5 {
			require.NoError(t, c.node(leader).TransferLeadership(within(t), leader))
			c.propose(leader, "x")
		}
		time.Sleep(2 * electionTimeout)
		require.Equal(t, leader, c.leader())
		require.Equal(t, term, c.status(leader).Term)
	})
}

// P6: a member that was added just now has not been silent for long.
func TestP6NewMemberIsNotTakenForDead(t *testing.T) {
	t.Parallel()
	for offset := time.Duration(0); offset < electionTimeout; offset += heartbeat / 4 {
		bubble(t, func(t *testing.T) {
			c := startCluster(t, 2, clusterOptions{})
			leader := c.leader()
			term := c.status(leader).Term
			c.join("c")
			time.Sleep(3*electionTimeout + offset)
			m := newMember("c")
			m.Role = raft.Voter
			_, err := c.node(leader).ChangeMembers(within(t), 0, raft.MemberChange{Kind: raft.ChangeAdd, Member: m})
			require.NoError(t, err)
			time.Sleep(3 * electionTimeout)
			require.Equal(t, leader, c.leader())
			require.Equal(t, term, c.status(leader).Term)
		})
	}
}

// M10: when a dead voter is taken out, what waited for it is committed at once.
func TestM10FewerVotersCommitAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 4, clusterOptions{})
		leader := c.leader()
		others := c.others(leader)
		c.kill(others[0])
		c.network.Cut(leader, others[1])
		removed := make(chan error, 1)
		go func() { removed <- c.node(leader).RemoveMember(context.Background(), others[0]) }()
		synctest.Wait()
		require.NoError(t, receive(t, removed, "the end of the change"), "two of three have it")
		written := c.proposeLater(context.Background(), leader, "1")
		require.NoError(t, receive(t, written, "an outcome").err)
	})
}

// shortContext ends once it was asked so often whether it has, and tells nobody who waits.
type shortContext struct {
	context.Context
	left int
}

func (c *shortContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// M11: AddVoter never says that nothing was accepted once its newcomer is a member.
func TestM11NewcomerThatIsNotPromoted(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{ended: dismissed})
		leader := c.leader()
		c.join("d")
		err := c.node(leader).AddVoter(&shortContext{context.Background(), 1}, newMember("d"))
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, raft.ErrNotAccepted)
		require.Equal(t, "a:voter b:voter c:voter ", c.roles(leader), "it is taken out again")

		ended := make(chan error, 1)
		go func() { ended <- c.node(leader).AddVoter(context.Background(), newMember("e")) }() // nobody is there
		synctest.Wait()
		require.Equal(t, "a:voter b:voter c:voter e:learner ", c.roles(leader))
		c.network.Isolate(leader)
		requireUnknown(t, <-ended)
		c.network.Heal()
	})
}

// A2: whoever waits for a change of the members, or for another leader, is told when
// leadership is lost and when the node stops.
func TestA2WaitsForChangesEnd(t *testing.T) {
	t.Parallel()
	ends := map[string]func(*cluster, raft.NodeID){
		"quorum lost": func(*cluster, raft.NodeID) {},
		"stopped":     (*cluster).stop,
		"killed":      (*cluster).kill,
	}
	for name, end := range ends {
		for _, call := range waitingCalls {
			switch call.name {
			case "AddVoter", "AddLearner", "RemoveMember", "ChangeMembers", "TransferLeadership", "OpenSession", "ReadIndex":
			default:
				continue // none of the majority
			}
			t.Run(name+"/"+call.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					c := startCluster(t, 3, clusterOptions{})
					leader := c.leader()
					node := c.node(leader)
					c.network.Isolate(leader)
					ended := make(chan error, 1)
					go func() { ended <- call.call(context.Background(), node) }()
					synctest.Wait()
					require.Empty(t, ended)
					began := time.Now()
					end(c, leader)
					time.Sleep(electionTimeout + time.Second - time.Since(began))
					err := receive(t, ended, "the end of the call")
					require.Error(t, err)
					require.False(t, errors.Is(err, raft.ErrNotAccepted) && errors.Is(err, raft.ErrOutcomeUnknown), "%v", err)
				})
			})
		}
	}
}

// A2: commands that are proposed to a leader while it is taken out end, each in one way.
func TestA2ProposalsToALeaderThatIsRemoved(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const each = 500
		c := startCluster(t, 3, clusterOptions{ended: dismissed})
		leader := c.leader()
		node := c.node(leader)
		c.network.Delay("", "", heartbeat/20, heartbeat/10)
		removed := make(chan error, 1)
		go func() { removed <- node.RemoveMember(context.Background(), leader) }()
		outcomes := make(chan error, 2*each)
		for range each {
			go func() { outcomes <- propose(context.Background(), node) }()
			go func() { outcomes <- proposeAsync(context.Background(), node) }()
			time.Sleep(time.Millisecond)
		}
		require.NoError(t, receive(t, removed, "the end of the change"))
		c.awaitEnd(leader)
		time.Sleep(electionTimeout + time.Second)
		require.Len(t, outcomes, cap(outcomes))
		succeeded, unknown := 0, 0
		for range cap(outcomes) {
			switch err := <-outcomes; {
			case err == nil:
				succeeded++
			case errors.Is(err, raft.ErrOutcomeUnknown):
				requireUnknown(t, err)
				unknown++
			default:
				requireRefused(t, err)
			}
		}
		require.Positive(t, succeeded)
		require.Less(t, succeeded+unknown, cap(outcomes))
		c.buried(c.members[leader])
		applied := len(c.equal())
		require.GreaterOrEqual(t, applied, succeeded)
		require.LessOrEqual(t, applied, succeeded+unknown)
	})
}

// N6: a peer that never answers holds up neither changes of the members nor a transfer.
func TestN6ChangesBesideAPeerThatNeverAnswers(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{ended: dismissed})
		leader := c.leader()
		mute, next := c.others(leader)[0], c.others(leader)[1]
		c.network.Drop(mute, "", 1)
		c.steady(leader, 2*electionTimeout, "with a mute peer")
		began := time.Now()
		require.NoError(t, c.node(leader).TransferLeadership(within(t), next))
		require.NoError(t, c.node(next).RemoveMember(within(t), mute))
		c.join("d")
		c.network.Drop("d", "", 1)
		require.NoError(t, c.node(next).AddLearner(within(t), newMember("d")))
		c.propose(next, "beside two mute peers")
		require.NoError(t, c.node(next).RemoveMember(within(t), "d"))
		require.Less(t, time.Since(began), electionTimeout)
		require.True(t, c.isLeader(next))
	})
}
