package raft

import (
	"context"

	"go.uber.org/zap"
)

// Transport carries requests to peers, and requests from peers to the
// [Handler], which is the Node. Requests and responses are immutable once
// handed over: an in-process transport may pass the same value on, any other
// is a pipe for the bytes of AppendBinary and UnmarshalBinary.
//
// A transport is lossy by contract: a call may fail or its ctx may end at any
// time, and the Node copes. It must never answer for a peer, and must never
// send a request twice. It may deliver late; what is stale is recognised by
// the Node.
//
// The Node calls Serve once, uses the transport from several goroutines, and
// calls Close once when it stops.
type Transport interface {
	// Serve starts delivering requests to handler and returns once the
	// transport is listening. Calls to peers may fail before.
	Serve(local Local, handler Handler) error

	// UpdatePeers replaces the addresses of peers. It is an address book,
	// never an allowlist: who may take part is decided by the Node.
	UpdatePeers(peers map[NodeID]string)

	// The calls return the peer's response, or an error: [ErrUnreachable] only
	// when the request was certainly not handed over, the peer's own error as
	// [*RemoteError], and the ctx's error when that ended first.
	CallVote(ctx context.Context, peer NodeID, request *VoteRequest) (*VoteResponse, error)
	CallHeartbeat(ctx context.Context, peer NodeID, request *Heartbeat) (*HeartbeatResponse, error)
	CallAppend(ctx context.Context, peer NodeID, request *AppendEntries) (*AppendResponse, error)
	CallSnapshot(ctx context.Context, peer NodeID, request *InstallSnapshot) (*SnapshotResponse, error)
	CallTimeoutNow(ctx context.Context, peer NodeID, request *TimeoutNow) (*TimeoutNowResponse, error)
	CallForward(ctx context.Context, peer NodeID, request *ForwardRequest) (*ForwardResponse, error)

	// Close stops listening, breaks connections, ends all calls and waits for
	// the transport's goroutines, so that no call of the handler is running
	// or starts after it. Calls of a closed transport fail with ErrUnreachable.
	Close() error
}

// Local is what a transport is told about the node that it serves.
type Local struct {
	ID          NodeID
	Address     string
	Cluster     string
	Fingerprint [16]byte    // of the cluster, see [Header]
	Incarnation uint64      // of this node's storage, see [Header]
	Logger      *zap.Logger // never nil
}

// Handler serves the requests of peers. It is implemented by the Node. Its
// methods may be called from any number of goroutines; a request belongs to
// the handler from then on. Errors are carried to the caller as codes (see
// [CodeOf] and [RemoteError]).
type Handler interface {
	HandleVote(ctx context.Context, request *VoteRequest) (*VoteResponse, error)
	HandleHeartbeat(ctx context.Context, request *Heartbeat) (*HeartbeatResponse, error)
	// HandleAppend returns once the entries are durable.
	HandleAppend(ctx context.Context, request *AppendEntries) (*AppendResponse, error)
	HandleSnapshot(ctx context.Context, request *InstallSnapshot) (*SnapshotResponse, error)
	HandleTimeoutNow(ctx context.Context, request *TimeoutNow) (*TimeoutNowResponse, error)
	HandleForward(ctx context.Context, request *ForwardRequest) (*ForwardResponse, error)

	// BeginAppend queues requests in the order of its calls and returns
	// without waiting for the disk. respond is called exactly once, later or
	// before BeginAppend returns, from any goroutine, and must not block.
	// Responses of one sender come in the order of its requests.
	BeginAppend(request *AppendEntries, respond func(*AppendResponse, error))
}

// AppendStreamer is an optional extension of [Transport], for several
// AppendEntries in flight at once. Without it one at a time is sent through
// CallAppend.
type AppendStreamer interface {
	// OpenAppendStream returns at once; connecting goes on behind it.
	// onResponse is called once per answered request, in the order of Send.
	// onClosed is called at most once, when the stream is broken, with the
	// cause, and nothing after it. Both are called from a goroutine of the
	// transport, never from inside Send, Close or OpenAppendStream, and do not
	// block. A call that is under way when Close is called may end after it;
	// none starts once Close has returned.
	OpenAppendStream(peer NodeID, onResponse func(*AppendResponse), onClosed func(error)) AppendStream
}

// AppendStream is an ordered stream of AppendEntries to one peer.
type AppendStream interface {
	// Send queues a request. It never blocks: false means that the request was
	// not taken, since the queue is full, the stream is broken, or the request
	// is larger than the transport can carry.
	Send(request *AppendEntries) bool
	// Close ends the stream without waiting for what is under way. It may be called from onClosed's goroutine too.
	Close()
}
