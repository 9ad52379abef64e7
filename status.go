package raft

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Status is what a node knows about itself and its cluster at one moment. It is
// a copy.
type Status struct {
	ID            NodeID   `json:"id"`
	Role          Role     `json:"role"`
	Term          Term     `json:"term"`
	Leader        NodeID   `json:"leader"` // empty: not known
	LeaderAddress string   `json:"leader_address"`
	CommitIndex   Index    `json:"commit_index"`
	AppliedIndex  Index    `json:"applied_index"`
	LastIndex     Index    `json:"last_index"`
	FirstIndex    Index    `json:"first_index"`    // the first entry that is kept; 0: none is
	SnapshotIndex Index    `json:"snapshot_index"` // the last index that a snapshot covers; 0: there is none
	SnapshotBytes uint64   `json:"snapshot_bytes"` // the size of that snapshot
	DurableIndex  Index    `json:"durable_index"`  // up to here the log is on this node's disk
	Members       []Member `json:"members"`

	// ConfigurationIndex is the entry that made Members what they are. They may still
	// be rolled back while CommitIndex is less.
	ConfigurationIndex Index `json:"configuration_index"`

	// Joint says that these are the members of a joint phase: a change of more than one
	// voter has not ended, and majorities of the voters before and after must agree.
	// Whoever is to be a learner after it may still count.
	Joint bool `json:"joint,omitempty"`

	Peers []PeerStatus `json:"peers,omitempty"` // on a leader: the other members, and for a while those that have left

	// Receiving is the snapshot that a leader is sending to this node; nil: none is.
	Receiving *SnapshotTransfer `json:"receiving,omitempty"`

	// Refused counts the requests of peers that this node turned away since its
	// start: of another cluster, for another node, from a disk that it does not
	// know, or malformed.
	Refused uint64 `json:"refused"`

	// Reason says in words why there is no leader, why entries are not committed or
	// applied, or why this node takes no part; empty: nothing is in the way.
	Reason string `json:"reason,omitempty"`
}

// PeerStatus is what a leader knows about another member.
type PeerStatus struct {
	ID            NodeID        `json:"id"`
	Match         Index         `json:"match"`       // up to here its log is known to be the leader's, durably
	Next          Index         `json:"next"`        // the next entry to send to it
	Replicating   bool          `json:"replicating"` // false: it is still being found out where the logs agree
	Inflight      int           `json:"inflight"`    // AppendEntries under way
	InflightBytes int           `json:"inflight_bytes"`
	LastContact   time.Duration `json:"last_contact_ns"`   // how long ago it last answered
	Trouble       string        `json:"trouble,omitempty"` // what is wrong with it, in words; empty: nothing is known to be

	// Snapshot is the snapshot that is being sent to it; nil: none is.
	Snapshot *SnapshotTransfer `json:"snapshot,omitempty"`
}

// SnapshotTransfer is how far a snapshot has got from a leader to a follower.
type SnapshotTransfer struct {
	Peer           NodeID `json:"peer"`  // the other end
	Index          Index  `json:"index"` // the last entry that it covers
	Done           uint64 `json:"done"`  // bytes
	Total          uint64 `json:"total"` // bytes; 0: not known yet
	BytesPerSecond int64  `json:"bytes_per_second"`
}

// status describes the driver's state.
func (d *driver) status(now time.Duration) Status { return d.statusWith(now, d.applied) }

// statusWith is status with what was applied meanwhile.
func (d *driver) statusWith(now time.Duration, applied Index) Status {
	c := d.core
	s := Status{
		ID: c.settings.id, Role: c.role, Term: c.currentTerm,
		Leader: c.leader, LeaderAddress: d.leaderAddress(),
		CommitIndex: c.commitIndex, AppliedIndex: applied, DurableIndex: c.log.durable,
		LastIndex:          c.log.last(),
		Members:            append([]Member(nil), c.configuration.members...),
		ConfigurationIndex: c.configuration.index, Joint: c.configuration.isJoint(),
		SnapshotIndex: c.snapshot.Index, SnapshotBytes: d.compaction.size,
		Receiving: c.incoming.status(now),
		Reason:    d.reason(now, applied),
		Refused:   d.refused,
	}
	if c.log.last() >= c.log.firstKept() {
		s.FirstIndex = c.log.firstKept()
	}
	for _, p := range c.peers {
		s.Peers = append(s.Peers, PeerStatus{
			ID: p.id, Match: p.match, Next: p.next, Replicating: !p.probing,
			Inflight: len(p.inflight), InflightBytes: p.bytes,
			LastContact: now - p.contact, Trouble: d.trouble(p), Snapshot: p.transfer.status(now),
		})
	}
	return s
}

// trouble says in words what is wrong with a peer.
func (d *driver) trouble(p *progress) string {
	if why := d.rejected[p.id]; why != "" {
		return why
	}
	if c := d.core; c.lacksCompacted(p) && p.transfer == nil {
		return fmt.Sprintf("it needs entries from %d on, and the log starts at %d: it waits for a snapshot", p.next, c.log.firstKept())
	}
	return cmp.Or(p.stuck, p.trouble)
}

// reason says in words why there is no leader or no progress.
func (d *driver) reason(now time.Duration, applied Index) string {
	var reasons []string
	add := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	c := d.core
	if c.diskHangs(now, c.settings.electionTimeout) {
		add("the disk has not answered for %v", (now - c.writingSince).Round(time.Millisecond))
	}
	switch {
	case c.role == Leader:
		d.addLag(now, add)
	case c.role != Follower:
		d.addBallots(add)
	case c.leader == "" && c.mayLead():
		add("no leader is known; this node campaigns in %v unless one is heard from", max(0, c.electionDeadline-now).Round(time.Millisecond))
	case c.leader == "":
		add("no leader is known, and this node does not campaign")
	}
	switch _, member := c.configuration.member(c.settings.id); {
	case c.configuration.index == 0:
		add("it waits until a leader adds it")
	case !member:
		add("it is no member by entry %d, the last configuration that it has", c.configuration.index)
	}
	if applied < c.commitIndex {
		add("the state machine has %d committed entries still to apply", c.commitIndex-applied)
	}
	if c.isInstalling() {
		add("a snapshot is taking the place of the log")
	}
	if index := d.compaction.restoring; index > 0 {
		add("the state machine is restoring the snapshot of entry %d", index)
	}
	if why := d.compaction.trouble; why != "" {
		add("no snapshot could be taken: %s", why)
	}
	if t := c.incoming; t != nil && t.trouble != "" {
		add("the snapshot that %s sends cannot be stored: %s", t.peer, t.trouble)
	}
	for _, id := range sortedKeys(d.rejected) {
		if d.concerns(id) {
			add("%s is turned away: %s", id, d.rejected[id])
		}
	}
	return strings.Join(reasons, "; ")
}

// addBallots says how the present (pre-)election stands.
func (d *driver) addBallots(add func(string, ...any)) {
	c := d.core
	what := "vote"
	if c.role == PreCandidate {
		what = "pre-vote"
	}
	for _, m := range c.configuration.members {
		b, answered := c.ballots[m.ID]
		switch {
		case !c.configuration.isVoter(m.ID):
		case m.ID == c.settings.id:
			if c.role == Candidate && c.candidacy > c.durable {
				add("its own vote is not on disk yet")
			}
		case !answered:
			add("%s not answered by %s yet", what, m.ID)
		case b.lost:
			add("%s not answered by %s: %s", what, m.ID, b.why)
		case !b.granted:
			add("%s refused by %s: %s", what, m.ID, b.why)
		}
	}
}

// addLag says what a leader's uncommitted entries wait for.
func (d *driver) addLag(now time.Duration, add func(string, ...any)) {
	c := d.core
	last := c.log.last()
	if c.commitIndex == last {
		return
	}
	add("entries %d to %d wait for %s", c.commitIndex+1, last, c.configuration.quorumWords())
	if c.log.durable < last {
		add("this node's disk has them up to %d", c.log.durable)
	}
	for _, p := range c.peers {
		if p.match >= last {
			continue
		}
		line := fmt.Sprintf("%s has them up to %d and last answered %v ago", p.id, p.match, (now - p.contact).Round(time.Millisecond))
		if t := d.trouble(p); t != "" {
			line += " (" + t + ")"
		}
		add("%s", line)
	}
}
