package raft

import "fmt"

// NodeID names a member of a cluster: 1 to 128 bytes of [A-Za-z0-9._-], not
// starting with a dot.
type NodeID string

// Term is a logical time with at most one leader (thesis §3.3).
type Term uint64

// Index is a position in the log. The first entry stands at index 1.
type Index uint64

// Header opens every request. The Node checks it, so that safety never rests
// on a transport's handshake.
type Header struct {
	Fingerprint [16]byte // of the cluster: first bytes of SHA-256 over its name and its first configuration; random once it was recovered
	Group       uint64   // 0: reserved for many groups on one transport
	From, To    NodeID
	Incarnation uint64 // a random number made with the sender's storage: another number is another disk; 0: not told
}

func (h *Header) sender() NodeID { return h.From }

// VoteRequest asks for a vote (thesis §3.4), or, with PreVote, whether a vote
// would be granted (§9.6). The candidate is Header.From.
type VoteRequest struct {
	Header
	Term         Term // the candidate's term; in a pre-vote the one that it would campaign in
	LastLogIndex Index
	LastLogTerm  Term
	PreVote      bool
	Transfer     bool // the leader asked for this election: stickiness does not refuse it (§3.10)

	// Added is the entry that added the candidate, as far as it knows; 0: it is a
	// founding member. One that was taken in anew may have another disk.
	Added Index
}

// VoteResponse answers a VoteRequest.
type VoteResponse struct {
	Term        Term // the responder's currentTerm
	VoteGranted bool
	PreVote     bool        // echo: this answers a pre-vote
	Refusal     VoteRefusal // why VoteGranted is false
	Leader      NodeID      // the leader that the responder follows, if that is why
	Incarnation uint64      // the responder's
}

// VoteRefusal says why a vote was refused. The numbers are part of the protocol.
type VoteRefusal uint8

// The reasons of a refusal.
const (
	RefusalNone       VoteRefusal = 0 // granted, or no reason given
	RefusalStaleTerm  VoteRefusal = 1 // the responder is in a later term
	RefusalHasLeader  VoteRefusal = 2 // the responder hears from a leader (§4.2.3)
	RefusalVoted      VoteRefusal = 3 // the responder voted for another candidate in this term
	RefusalLongerLog  VoteRefusal = 4 // the responder's log is more up-to-date (§3.6.1)
	RefusalRestarted  VoteRefusal = 5 // the responder restarted less than an election timeout ago
	RefusalInstalling VoteRefusal = 6 // a snapshot is taking the place of the responder's log
)

// Heartbeat proves contact with the leader, Header.From. It says nothing about
// the log: Commit never exceeds what the receiver has acknowledged in this
// term.
type Heartbeat struct {
	Header
	Term          Term
	Commit        Index
	Round         uint64 // counts the leader's rounds of heartbeats
	LeaderAddress string
	// Contacts are the incarnations in which the leader met the members. The
	// receiver takes over those of members that it has not met itself, counts
	// none that it has met in another one, and learns from its own whether it
	// came back with another disk.
	Contacts []Contact
	// Configuration is the index of the one that is in force at the leader.
	Configuration Index
}

// HeartbeatResponse answers a Heartbeat.
type HeartbeatResponse struct {
	Term        Term
	Round       uint64 // echo
	Incarnation uint64
	Quiet       uint64 // nanoseconds for which the responder refuses votes after a heartbeat, at least
}

// AppendEntries replicates log entries (thesis §3.5). The leader is Header.From.
type AppendEntries struct {
	Header
	Term          Term
	PrevLogIndex  Index
	PrevLogTerm   Term
	Entries       Entries // consecutive, starting at PrevLogIndex+1; may be empty
	LeaderCommit  Index
	LeaderAddress string
}

// AppendResponse answers an AppendEntries.
type AppendResponse struct {
	Term    Term
	Success bool
	// Match, with Success, is the last index that this very request verified,
	// and that is durable with the responder.
	Match Index
	// Without Success: PrevLogIndex is that of the request, and ConflictIndex
	// is the last index at which the two logs may agree, ConflictTerm the term
	// of the responder's entry there.
	PrevLogIndex  Index
	ConflictIndex Index
	ConflictTerm  Term
	Incarnation   uint64
}

// InstallSnapshot carries one chunk of a snapshot (thesis §5.3).
type InstallSnapshot struct {
	Header
	Term      Term
	LastIndex Index // the last entry that the snapshot replaces
	LastTerm  Term
	Transfer  uint64 // names the transfer that the chunk belongs to
	Size      uint64 // bytes in all
	Offset    uint64 // of Data
	Data      []byte
}

// SnapshotResponse answers an InstallSnapshot.
type SnapshotResponse struct {
	Term        Term
	Next        uint64 // the offset that the responder wants next
	Match       Index  // once installed: the last index of the responder's log that is settled
	Incarnation uint64
}

// TimeoutNow asks the receiver to campaign at once (thesis §3.10).
type TimeoutNow struct {
	Header
	Term Term
}

// TimeoutNowResponse answers a TimeoutNow.
type TimeoutNowResponse struct {
	Term        Term
	Started     bool // the responder campaigns
	Incarnation uint64
}

// ForwardKind says what a ForwardRequest asks the leader to do. The numbers
// are part of the protocol.
type ForwardKind uint8

// The calls that a node forwards to its leader.
const (
	ForwardPropose        ForwardKind = 1
	ForwardReadIndex      ForwardKind = 2
	ForwardChangeMembers  ForwardKind = 3
	ForwardTransfer       ForwardKind = 4
	ForwardOpenSession    ForwardKind = 5
	ForwardSessionCommand ForwardKind = 6
	ForwardCloseSession   ForwardKind = 7
)

// ForwardRequest is a call that a node sends on to its leader. It is never sent a second time by
// itself: only what does nothing the second time is asked for again, in a request of its own.
type ForwardRequest struct {
	Header
	Kind    ForwardKind
	Payload []byte
}

// ForwardResponse answers a ForwardRequest.
type ForwardResponse struct {
	Code    ErrorCode // CodeOK, or the class of the error
	Index   Index
	Term    Term
	Leader  NodeID // the leader that the responder knows
	Address string // and where it listens
	Message string // the error in words
	Payload []byte
}

// maxTerm bounds the terms that are taken from others. No cluster holds so many elections, and
// from here none comes to the last number, after which its terms would begin anew.
const maxTerm Term = 1 << 62

// isPossible reports whether somebody can lead, or campaign, in a term.
func (t Term) isPossible() bool { return 0 < t && t <= maxTerm }

// valid checks what no decoder can: how the fields fit together. Whatever
// passes cannot break an invariant of the core.
func (r *VoteRequest) valid() error {
	if !r.Term.isPossible() || r.LastLogTerm > r.Term {
		return fmt.Errorf("%w: vote request of term %d with a log that ends in term %d", ErrInvalidMessage, r.Term, r.LastLogTerm)
	}
	return nil
}

func (r *Heartbeat) valid() error {
	if !r.Term.isPossible() {
		return fmt.Errorf("%w: heartbeat of term %d", ErrInvalidMessage, r.Term)
	}
	return nil
}

func (r *AppendEntries) valid() error {
	first, firstTerm, lastTerm := r.PrevLogIndex+1, r.PrevLogTerm, r.PrevLogTerm
	if n := len(r.Entries.runs); n > 0 {
		first, firstTerm, lastTerm = r.Entries.First(), r.Entries.runs[0].term, r.Entries.runs[n-1].term
	}
	switch {
	case !r.Term.isPossible() || lastTerm > r.Term || firstTerm < r.PrevLogTerm:
		return fmt.Errorf("%w: entries of terms %d to %d after term %d, from a leader of term %d", ErrInvalidMessage, firstTerm, lastTerm, r.PrevLogTerm, r.Term)
	case first != r.PrevLogIndex+1 || (r.PrevLogIndex == 0) != (r.PrevLogTerm == 0):
		return fmt.Errorf("%w: entries from %d on after entry %d of term %d", ErrInvalidMessage, first, r.PrevLogIndex, r.PrevLogTerm)
	default:
		return nil
	}
}
