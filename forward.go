package raft

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// Calls that one member makes for another's caller, and their outcomes as they cross the
// wire.

// HandleForward answers a call that another member has forwarded to its leader. For the
// transport. It never forwards one again. An error means that nothing was accepted: all
// outcomes are in the response.
func (n *Node) HandleForward(ctx context.Context, request *ForwardRequest) (*ForwardResponse, error) {
	response, err := await[*ForwardResponse](ctx, n, func(respond responder) any { return forwardArrived{request, respond} })
	if err != nil || response.Code != CodeOK || request.Kind == ForwardReadIndex {
		return response, err
	}
	return forwardResponse(n.proposeFor(ctx, request)), nil
}

// forwardKinds are how proposals are forwarded, by the kinds of their entries. The payload
// is the data of the entry.
var forwardKinds = map[EntryKind]ForwardKind{
	EntryCommand:        ForwardPropose,
	EntryOpenSession:    ForwardOpenSession,
	EntrySessionCommand: ForwardSessionCommand,
	EntryCloseSession:   ForwardCloseSession,
}

// isServed reports whether nodes make calls of a kind for each other.
func isServed(kind ForwardKind) bool {
	switch kind {
	case ForwardPropose, ForwardReadIndex, ForwardOpenSession, ForwardSessionCommand, ForwardCloseSession:
		return true
	default:
		return false
	}
}

// proposeFor proposes for another member, which may have other limits, and this node's
// hold.
func (n *Node) proposeFor(ctx context.Context, request *ForwardRequest) (Result, error) {
	kind, data, err := EntryCommand, request.Payload, error(nil)
	switch request.Kind {
	case ForwardPropose:
		err = n.checkCommand(data)
	case ForwardOpenSession:
		kind = EntryOpenSession
		data, err = n.sessionOpening()
	case ForwardSessionCommand:
		var c sessionCommand
		kind, err = EntrySessionCommand, c.unmarshal(data)
		err = cmp.Or(err, n.checkCommand(c.command))
	case ForwardCloseSession:
		kind, err = EntryCloseSession, new(sessionClosing).unmarshal(data)
	}
	if err != nil {
		return Result{}, err
	}
	return n.propose(ctx, kind, data)
}

// forward proposes at the leader, once, and waits until what has come of it is applied here,
// too.
func (n *Node) forward(ctx context.Context, leader NodeID, kind ForwardKind, data []byte) (Result, error) {
	asking, cancel := n.withoutCause(ctx)
	defer cancel()
	request := &ForwardRequest{Header: *n.identity.Load(), Kind: kind, Payload: bytes.Clone(data)} // it may be on its way for longer than ctx lasts
	request.To = leader
	response, err := either(n.transport.CallForward(asking, leader, request))
	if err != nil {
		return Result{}, commandError(ctx, err)
	}
	result, err := response.outcome(leader)
	if response.Code != CodeOK && response.Code != CodeApply && response.Code != CodeReplyDropped {
		return Result{}, commandError(ctx, err)
	}
	if _, lost := n.Read(ctx, ReadOptions{Level: ReadLocal, MinIndex: result.Index}); lost != nil {
		return Result{}, &OutcomeUnknownError{Index: result.Index, Term: result.Term, Cause: lost}
	}
	return result, err
}

// withoutCause returns a context that ends with ctx, and says nothing else: the cause of
// ctx may be how another command ended. One without a deadline gets one: a transport
// would set its own, which is for short calls.
func (n *Node) withoutCause(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * n.config.ElectionTimeout)
	}
	bare, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	stop := context.AfterFunc(ctx, cancel)
	return bare, func() { stop(); cancel() }
}

// commandError puts what became of a forwarded command into one of the two classes: who
// refused the call has not accepted it, and otherwise nobody knows.
func commandError(ctx context.Context, err error) error {
	if errors.Is(err, ErrNotAccepted) || errors.Is(err, ErrOutcomeUnknown) || err == ErrSessionExpired {
		return err
	}
	if refusal, ok := refusalIn(err); ok && refusal.Unwrap() != nil {
		return fmt.Errorf("%w: %w", ErrNotAccepted, err)
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done() // the call had the same deadline, and its timer may be ahead
	}
	if ctx.Err() != nil {
		err = contextError(ctx)
	}
	return &OutcomeUnknownError{Cause: err}
}

// forwardResponse is an outcome as it crosses the wire.
func forwardResponse(result Result, err error) *ForwardResponse {
	r := &ForwardResponse{Code: CodeOf(err), Index: result.Index, Term: result.Term, Payload: result.Response}
	if err == nil {
		return r
	}
	var apply *ApplyError
	var unknown *OutcomeUnknownError
	var notLeader *NotLeaderError
	text := err.Error()
	switch {
	case errors.As(err, &apply):
		r.Index, text = apply.Index, apply.Err.Error()
	case errors.As(err, &unknown):
		r.Index, r.Term, text = unknown.Index, unknown.Term, unknown.Cause.Error()
	case errors.As(err, &notLeader):
		r.Leader, r.Address = notLeader.Leader, notLeader.Address
	}
	r.Message = wire.Clip(text, maxForwardedText)
	return r
}

// maxForwardedText bounds the words of an error in a response.
const maxForwardedText = 64 << 10

// outcome is what forwardResponse was made of, but for the types of errors that have no
// code.
func (r *ForwardResponse) outcome(from NodeID) (Result, error) {
	result := Result{Index: r.Index, Term: r.Term, Response: r.Payload}
	switch r.Code {
	case CodeOK:
		return result, nil
	case CodeApply:
		return result, &ApplyError{Index: r.Index, Err: errors.New(r.Message)}
	case CodeOutcomeUnknown:
		return Result{}, &OutcomeUnknownError{Index: r.Index, Term: r.Term, Cause: errors.New(r.Message)}
	case CodeSessionExpired:
		return Result{}, ErrSessionExpired
	case CodeReplyDropped:
		return result, ErrReplyDropped
	case CodeNotLeader:
		return Result{}, &NotLeaderError{Leader: r.Leader, Address: r.Address}
	default:
		return Result{}, &RemoteError{Peer: from, Code: r.Code, Message: r.Message}
	}
}
