package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// AddVoter has a member join that takes part in elections and commits. The member
// comes in as a learner, is brought up to date in rounds, and is promoted once it
// follows (thesis §4.2.1), so it never holds up the others. The node of that id must be
// running with Config.Join. AddVoter waits for all that; call it on the leader. The Role
// of member is not looked at.
//
// If the newcomer cannot follow, or ctx ends while it catches up, it is taken out again,
// for which AddVoter waits up to 10 election timeouts: the error matches
// [ErrCannotFollow], or is ctx's. If leadership is lost meanwhile, or another change is
// under way when it is to be promoted, the learner may stay, which Status shows, and the
// error is an [*OutcomeUnknownError]; AddVoter on the leader goes on with it then, as it
// does with a learner that there was before. If somebody else takes it out meanwhile the
// error is [ErrUnknownMember]. If there is a voter of that id and address AddVoter
// changes nothing, Priority and Metadata included, and returns nil; at another address,
// [ErrMemberExists]. For more errors see [Node.ChangeMembers].
func (n *Node) AddVoter(ctx context.Context, member Member) error {
	member.Role = Learner
	present, known := n.member(member.ID)
	switch {
	case known && present.Address != member.Address:
		return fmt.Errorf("%w: %s, at %s", ErrMemberExists, member.ID, present.Address)
	case known && present.Role == Voter:
		return nil
	case !known:
		if _, err := n.ChangeMembers(ctx, 0, MemberChange{ChangeAdd, member}); err != nil {
			return err
		}
	}
	err := n.awaitCatchUp(ctx, member.ID)
	if err == nil {
		member.Role = Voter
		_, err = n.ChangeMembers(ctx, 0, MemberChange{ChangeUpdate, member})
	}
	if err == nil || known {
		return err
	}
	return n.notPromoted(ctx, member.ID, err)
}

// notPromoted ends the wait for a newcomer that is a learner since, and did not become a
// voter because of err. No error may say that nothing was accepted.
func (n *Node) notPromoted(ctx context.Context, id NodeID, err error) error {
	switch {
	case errors.Is(err, ErrOutcomeUnknown), errors.Is(err, ErrUnknownMember):
		return err
	case ctx.Err() != nil:
		return n.takeOut(id, contextError(ctx))
	case errors.Is(err, ErrCannotFollow):
		return n.takeOut(id, err)
	default: // leadership was lost, or somebody else is changing the members
		return &OutcomeUnknownError{Cause: err}
	}
}

func (n *Node) awaitCatchUp(ctx context.Context, id NodeID) error {
	_, err, _ := n.awaitIndex(ctx, func(done func(Index, error)) any { return catchUpWanted{id, done} })
	return err
}

// takeOut removes a newcomer that did not become a voter because of err.
func (n *Node) takeOut(id NodeID, err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*n.config.ElectionTimeout)
	defer cancel()
	if removeErr := n.RemoveMember(ctx, id); removeErr != nil {
		return fmt.Errorf("%w; it is still a learner: %v", err, removeErr)
	}
	return err
}

// member returns the member of that id, if this node leads and nothing that may be
// rolled back says so: else a call that finds nothing to do would promise too much.
func (n *Node) member(id NodeID) (Member, bool) {
	s := n.Status()
	if s.Role != Leader || s.ConfigurationIndex > s.CommitIndex {
		return Member{}, false
	}
	return configuration{members: s.Members}.member(id)
}

// AddLearner has a member join that is sent everything and counts for nothing. It
// returns once that is committed; the learner catches up afterwards. If there is a
// learner of that id and address it changes nothing and returns nil. The Role of member
// is not looked at. For errors see [Node.ChangeMembers].
func (n *Node) AddLearner(ctx context.Context, member Member) error {
	member.Role = Learner
	present, known := n.member(member.ID)
	if known && present.Role == Learner && present.Address == member.Address {
		return nil
	}
	_, err := n.ChangeMembers(ctx, 0, MemberChange{ChangeAdd, member})
	return err
}

// RemoveMember takes a member out, and returns once that is committed. A leader may take
// itself out: it hands over leadership, and its Run returns [ErrRemoved], as that of any
// removed member does once it has learnt of it. [ErrUnknownMember] is returned for an id
// that no member has; else see [Node.ChangeMembers].
func (n *Node) RemoveMember(ctx context.Context, id NodeID) error {
	_, err := n.ChangeMembers(ctx, 0, MemberChange{Kind: ChangeRemove, Member: Member{ID: id}})
	return err
}

// ChangeMembers makes changes of the membership, all or nothing, and returns the index
// of the configuration that they lead to, once that is committed. If they make more
// than one voter more or less the cluster passes through a joint phase, in which
// majorities of the voters before and after must agree (thesis §4.3); the leader, or the
// next one, ends it by itself. Call it on the leader.
//
// Expected is the index of the configuration that the changes are based on, as Status
// has it: if another one is in force the error is a [*ConfigurationMismatchError]. 0
// stands for any. [ErrChangeInProgress] says that another change is under way,
// [ErrMemberExists], [ErrUnknownMember] and [ErrInvalidChange] what is wrong with this
// one, [*NotLeaderError] where to go. With all of these nothing has changed. An
// [*OutcomeUnknownError] is returned if ctx ends or leadership is lost while the change
// is under way: Status tells what has become of it.
func (n *Node) ChangeMembers(ctx context.Context, expected Index, changes ...MemberChange) (Index, error) {
	if ctx.Err() != nil {
		return 0, leftQueue(ctx)
	}
	copies := make([]MemberChange, len(changes))
	for i, change := range changes {
		change.Member.Metadata = bytes.Clone(change.Member.Metadata)
		copies[i] = change
	}
	index, err, inTime := n.awaitIndex(ctx, func(done func(Index, error)) any { return changeWanted{expected, copies, done} })
	if !inTime {
		return 0, &OutcomeUnknownError{Cause: err}
	}
	return index, err
}

// TransferLeadership hands leadership over to another voter, or with "" to the most
// up-to-date one, and returns once that leads (thesis §3.10). Proposals wait in their
// queue meanwhile. If it does not take over within an election timeout this node goes
// on, and the error matches [ErrTransferFailed], as it does for a learner and while
// another transfer is under way, and for who came back with another disk;
// [ErrUnknownMember] is returned for an id that no member has. If ctx ends the error is
// ctx's, and the transfer goes on. To hand over to itself a leader does nothing. Call it
// on the leader.
func (n *Node) TransferLeadership(ctx context.Context, to NodeID) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	_, err, _ := n.awaitIndex(ctx, func(done func(Index, error)) any { return transferWanted{to, done} })
	return err
}

// handOver has another voter lead before this node stops, if there is one to.
func (n *Node) handOver(ctx context.Context) {
	if n.Status().Role != Leader {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*n.config.ElectionTimeout+time.Second)
	defer cancel()
	_ = n.TransferLeadership(ctx, "") // the others elect one anyway
}
