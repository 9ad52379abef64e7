package raft

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// Errors of a proposal that is certainly not in the log. All of them match
// [ErrNotAccepted], so a caller that only wants to know whether a retry is
// safe asks for that one.
var (
	// ErrNotAccepted is matched by every error that says: the command is not
	// in the log and never will be. Proposing it again cannot apply it twice.
	ErrNotAccepted = errors.New("raft: not accepted")

	// ErrNotLeader is matched by [*NotLeaderError], which is returned by a
	// node that is not the leader.
	ErrNotLeader error = &notAccepted{"raft: not the leader"}

	// ErrOverloaded is returned by ProposeAsync when the queue of proposals
	// holds MaxPendingBytes already, where Propose waits instead, and by ReadIndex
	// and Resolve when too many of them wait. A leader that has too many forwarded
	// calls of one member under way refuses more with it.
	ErrOverloaded error = &notAccepted{"raft: overloaded: too many calls wait"}

	// ErrTooLarge is returned for a command of more than MaxCommandBytes.
	ErrTooLarge error = &notAccepted{"raft: command too large"}

	// ErrStopped is returned by every call on a node that has stopped, and
	// to proposals that it had not accepted when it stopped. What was forwarded to a
	// leader that stops ends with it, too.
	ErrStopped error = &notAccepted{"raft: node stopped"}

	// ErrUnreachable is returned by a transport when a request was certainly
	// not handed over to the peer: no connection, or a full queue.
	ErrUnreachable error = &notAccepted{"raft: peer unreachable"}
)

// ErrOutcomeUnknown is matched by [*OutcomeUnknownError]: the command was
// accepted, and whether it will be applied is not known here. Proposing it
// again may apply it twice.
var ErrOutcomeUnknown = errors.New("raft: outcome unknown")

// Errors of a [Session].
var (
	// ErrSessionExpired is returned for a command, or an attempt at one, that was not
	// executed since its session is closed, or has expired. What was proposed in it before
	// and has no outcome may have been executed: a new session knows nothing of it.
	ErrSessionExpired = errors.New("raft: session expired")

	// ErrReplyDropped is returned for a command that was executed, once, and whose
	// reply is not kept any more: there were too many, or the state machine is a
	// [DurableStateMachine] that was given the command in an earlier life of this node. The Result
	// has the Index and Term of the command, and no response. If it has none of them, the client
	// had said before that it does not wait for the command: it is not executed now, and nobody
	// knows whether it was.
	ErrReplyDropped = errors.New("raft: the reply to the command is not kept any more")
)

// Errors of starting a node.
var (
	// ErrConfig is matched by the error that NewNode returns for a Config
	// with problems. Its text names every one of them.
	ErrConfig = errors.New("raft: invalid configuration")

	// ErrAlreadyRun is returned by Run when it was called before.
	ErrAlreadyRun = errors.New("raft: Run was called before")

	// ErrDataDirInUse is returned by Run when another node, in this process or
	// another, has the data directory open.
	ErrDataDirInUse = errors.New("raft: data directory is in use")

	// ErrNoData is returned by Run when the storage is empty although
	// Config.RequireExisting says that this node has run before.
	ErrNoData = errors.New("raft: storage is empty")

	// ErrCorrupt is matched by [*CorruptError]: the storage is not what was
	// written. No file was changed.
	ErrCorrupt = errors.New("raft: storage is damaged")
)

// CorruptError is returned by Run when a file in the data directory is not what
// was written, or is missing, so that something that this node has promised to
// keep may be lost. It does not start then, and leaves all files as they are.
// If the cluster has its majority, the way back is another name and an empty
// directory: what is left here must not vote.
type CorruptError struct {
	File   string // or the directory, where it is more than one file
	Offset int64  // in the file, of what is not right
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("raft: storage is damaged: %s, at offset %d: %s", e.File, e.Offset, e.Reason)
}

// Is makes errors.Is(err, ErrCorrupt) hold.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Errors of changing the membership, and of handing over leadership.
var (
	// ErrChangeInProgress is returned while another change is under way: its entry
	// is not committed, its joint phase has not ended, or leadership is being handed
	// over. It can be tried again soon.
	ErrChangeInProgress = errors.New("raft: another change is in progress")

	// ErrUnknownMember is returned for an id that no member has.
	ErrUnknownMember = errors.New("raft: unknown member")

	// ErrMemberExists is returned when a member is to be added whose id there is,
	// at another address or by ChangeMembers.
	ErrMemberExists = errors.New("raft: member exists")

	// ErrInvalidChange is returned for changes that no leader makes: without any
	// voter left, with two of one member, with a role, id or address that is none.
	ErrInvalidChange = errors.New("raft: invalid change of the members")

	// ErrCannotFollow is returned by AddVoter for a newcomer that cannot be reached,
	// or falls ever further behind.
	ErrCannotFollow = errors.New("raft: the new member cannot follow")

	// ErrTransferFailed is returned by TransferLeadership when this node goes on
	// leading, or somebody else does.
	ErrTransferFailed = errors.New("raft: leadership was not handed over")

	// ErrRemoved is returned by Run once this node has learnt that it is no member
	// any more.
	ErrRemoved = errors.New("raft: removed from the cluster")
)

// ConfigurationMismatchError is returned by [Node.ChangeMembers] when the members have
// changed since the configuration that the caller has looked at.
type ConfigurationMismatchError struct {
	Have Index // of the configuration that is in force
}

func (e *ConfigurationMismatchError) Error() string {
	return fmt.Sprintf("raft: the members have changed: the configuration in force is that of entry %d", e.Have)
}

// ErrCompacted is matched by the error of [Storage.Entries] for entries that the
// storage has forgotten, as it was told to.
var ErrCompacted = errors.New("raft: entries compacted")

// Errors between nodes. A Handler returns them, and transports carry them to
// the caller as codes, so that errors.Is holds on the other side.
var (
	// ErrUnsupported is returned for a kind of request that this node does
	// not serve (yet).
	ErrUnsupported = errors.New("raft: this node does not serve requests of that kind")

	// ErrWrongCluster is returned for a request whose fingerprint is another
	// cluster's: the peers were founded with other names or members, or one of
	// them was recovered, see [RecoverCluster].
	ErrWrongCluster = errors.New("raft: request from another cluster")

	// ErrWrongNode is returned for a request that is addressed to another
	// node, or whose sender does not name itself.
	ErrWrongNode = errors.New("raft: request for another node")

	// ErrOtherDisk is returned for a request from a peer that came back with
	// another disk under its old name: what it promised before is lost, so it
	// does not count any more. Nor does one that some have met with one disk and
	// some with another: then it counts with neither. Take it out and add it again.
	ErrOtherDisk = errors.New("raft: peer came back with another disk")

	// ErrInvalidMessage is returned for bytes or fields that no correct peer sends.
	ErrInvalidMessage = errors.New("raft: invalid message")
)

// notAccepted is the class of errors below ErrNotAccepted.
type notAccepted struct{ text string }

func (e *notAccepted) Error() string        { return e.text }
func (e *notAccepted) Is(target error) bool { return target == ErrNotAccepted }

// NotLeaderError is returned by a node that is not the leader. It matches
// [ErrNotLeader] and [ErrNotAccepted].
type NotLeaderError struct {
	Leader  NodeID // the leader that this node knows; empty: none
	Address string // where that leader listens; empty: not known
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "raft: not the leader, and no leader is known"
	}
	return fmt.Sprintf("raft: not the leader: that is %s at %s", e.Leader, e.Address)
}

// Is makes errors.Is(err, ErrNotLeader) and errors.Is(err, ErrNotAccepted) hold.
func (e *NotLeaderError) Is(target error) bool {
	return target == ErrNotLeader || target == ErrNotAccepted
}

// OutcomeUnknownError is returned for a command, or a change of the members, that was
// accepted, when the caller's context ended, leadership was lost or the node stopped
// before the outcome was known. It matches [ErrOutcomeUnknown] and never
// [ErrNotAccepted].
type OutcomeUnknownError struct {
	Index Index // where the command stands in the log; 0: not known
	Term  Term  // the term it was proposed in; 0: not known
	Cause error // why the wait ended
}

func (e *OutcomeUnknownError) Error() string {
	if e.Index == 0 {
		return fmt.Sprintf("raft: outcome unknown: the command was accepted, then: %v", e.Cause)
	}
	return fmt.Sprintf("raft: outcome unknown: the command was accepted at index %d in term %d, then: %v", e.Index, e.Term, e.Cause)
}

// Is makes errors.Is(err, ErrOutcomeUnknown) hold.
func (e *OutcomeUnknownError) Is(target error) bool { return target == ErrOutcomeUnknown }

// Unwrap returns the cause, unless the cause on its own would say that a retry
// is safe: no error is of both classes.
func (e *OutcomeUnknownError) Unwrap() error { return unclassified(e.Cause) }

// ApplyError is returned by Propose when the command was committed and the
// state machine refused it: the error is part of the command's result, the
// same on every node.
type ApplyError struct {
	Index Index
	Err   error // what Apply returned
}

func (e *ApplyError) Error() string {
	return fmt.Sprintf("raft: command at index %d was applied and refused by the state machine: %v", e.Index, e.Err)
}

// Unwrap returns the state machine's error, unless that would make a command
// that was applied look like one that is safe to retry.
func (e *ApplyError) Unwrap() error { return unclassified(e.Err) }

// unclassified returns err, or nil if err says how a command ended, this one or
// another.
func unclassified(err error) error {
	var apply *ApplyError
	if errors.Is(err, ErrNotAccepted) || errors.Is(err, ErrOutcomeUnknown) || errors.As(err, &apply) {
		return nil
	}
	return err
}

// ErrorCode is how an error crosses the wire. The numbers are part of the
// protocol and never change.
type ErrorCode uint16

// The codes. CodeInternal stands for every error without a code of its own.
const (
	CodeOK             ErrorCode = 0
	CodeInternal       ErrorCode = 1
	CodeNotAccepted    ErrorCode = 2
	CodeNotLeader      ErrorCode = 3
	CodeOverloaded     ErrorCode = 4
	CodeTooLarge       ErrorCode = 5
	CodeStopped        ErrorCode = 6
	CodeUnreachable    ErrorCode = 7
	CodeOutcomeUnknown ErrorCode = 8
	CodeApply          ErrorCode = 9
	CodeUnsupported    ErrorCode = 10
	CodeWrongCluster   ErrorCode = 11
	CodeWrongNode      ErrorCode = 12
	CodeOtherDisk      ErrorCode = 13
	CodeInvalidMessage ErrorCode = 14
	CodeSessionExpired ErrorCode = 20
	CodeReplyDropped   ErrorCode = 21
)

// codes pairs each code with its sentinel, most specific first: CodeOf takes
// the first that matches.
var codes = []struct {
	code     ErrorCode
	sentinel error
}{
	{CodeNotLeader, ErrNotLeader},
	{CodeOverloaded, ErrOverloaded},
	{CodeTooLarge, ErrTooLarge},
	{CodeStopped, ErrStopped},
	{CodeUnreachable, ErrUnreachable},
	{CodeNotAccepted, ErrNotAccepted},
	{CodeOutcomeUnknown, ErrOutcomeUnknown},
	{CodeUnsupported, ErrUnsupported},
	{CodeWrongCluster, ErrWrongCluster},
	{CodeWrongNode, ErrWrongNode},
	{CodeOtherDisk, ErrOtherDisk},
	{CodeInvalidMessage, ErrInvalidMessage},
	{CodeSessionExpired, ErrSessionExpired},
	{CodeReplyDropped, ErrReplyDropped},
}

// codeOnWire is the code that a peer sent. No number that is out of range must
// be taken for one that means something.
func codeOnWire(n uint64) ErrorCode {
	if n > math.MaxUint16 {
		return CodeInternal
	}
	return ErrorCode(n)
}

// CodeOf returns the code of err: CodeOK for nil, CodeInternal for an error
// without a code. For transports: [RemoteError] is its way back.
func CodeOf(err error) ErrorCode {
	var apply *ApplyError
	switch {
	case err == nil:
		return CodeOK
	case errors.As(err, &apply): // whatever it is that the state machine has returned
		return CodeApply
	}
	for _, c := range codes {
		if errors.Is(err, c.sentinel) {
			return c.code
		}
	}
	return CodeInternal
}

// RemoteError is an error that a peer answered with. errors.Is finds in it the
// sentinel of its code.
type RemoteError struct {
	Peer    NodeID
	Code    ErrorCode
	Message string // the peer's own words
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("raft: peer %s answered: %s", e.Peer, e.words())
}

// words are the peer's, as part of a longer sentence.
func (e *RemoteError) words() string { return strings.TrimPrefix(e.Message, errorPrefix) }

// errorPrefix opens the text of errors that this package returns.
const errorPrefix = "raft: "

// refusalIn returns what a peer answered in place of a response, if that is what
// err is about.
func refusalIn(err error) (*RemoteError, bool) {
	var refusal *RemoteError
	ok := errors.As(err, &refusal)
	return refusal, ok
}

// wordsOf is the text of err as part of a longer sentence.
func wordsOf(err error) string { return strings.TrimPrefix(err.Error(), errorPrefix) }

// Unwrap returns the sentinel of the error's code, or nil if it has none here.
func (e *RemoteError) Unwrap() error {
	for _, c := range codes {
		if c.code == e.Code {
			return c.sentinel
		}
	}
	return nil
}
