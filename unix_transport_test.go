package raft

import (
	"context"
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// unixTransport shows how to write a Transport. It is all that is needed: the
// Node copes with calls that fail, so there is no retry, no queue and no
// stream. An address is the path of a Unix socket, each call has a connection of
// its own, and messages are their AppendBinary bytes, each way in a frame of
//
//	length of what follows (4 bytes), kind of request or error code (2), message or text
type unixTransport struct {
	ctx    context.Context // ends with Close, and with it every connection
	cancel context.CancelFunc
	tasks  sync.WaitGroup // that Close waits for
	peers  atomic.Pointer[map[NodeID]string]
}

func newUnixTransport(peers map[NodeID]string) *unixTransport {
	t := new(unixTransport)
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.peers.Store(&peers)
	return t
}

// Serve listens. The numbers are the kinds of the calls below.
func (t *unixTransport) Serve(local Local, h Handler) error {
	listener, err := net.Listen("unix", local.Address)
	if err != nil {
		return err
	}
	handlers := map[uint16]func([]byte) ([]byte, error){
		1: unixHandler(t.ctx, h.HandleVote), 2: unixHandler(t.ctx, h.HandleHeartbeat), 3: unixHandler(t.ctx, h.HandleAppend),
		4: unixHandler(t.ctx, h.HandleSnapshot), 5: unixHandler(t.ctx, h.HandleTimeoutNow), 6: unixHandler(t.ctx, h.HandleForward),
	}
	context.AfterFunc(t.ctx, func() { listener.Close() })
	t.tasks.Go(func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			t.tasks.Go(func() { t.serveConn(conn, handlers) })
		}
	})
	return nil
}

func (t *unixTransport) serveConn(conn net.Conn, handlers map[uint16]func([]byte) ([]byte, error)) {
	defer conn.Close()
	defer context.AfterFunc(t.ctx, func() { conn.Close() })()
	kind, body, err := readUnixFrame(conn)
	if err != nil || handlers[kind] == nil {
		return // the caller learns of it by the end of the connection
	}
	answer, err := handlers[kind](body)
	if err != nil {
		answer = []byte(err.Error())
	}
	writeUnixFrame(conn, uint16(CodeOf(err)), answer)
}

// unixHandler makes one of the Handler's methods a function of bytes.
func unixHandler[R any, Response encoding.BinaryAppender](ctx context.Context, handle func(context.Context, *R) (Response, error)) func([]byte) ([]byte, error) {
	return func(body []byte) ([]byte, error) {
		request, response := new(R), *new(Response)
		err := any(request).(encoding.BinaryUnmarshaler).UnmarshalBinary(body)
		if err == nil {
			response, err = handle(ctx, request)
		}
		if err != nil {
			return nil, err
		}
		return response.AppendBinary(nil)
	}
}

func (t *unixTransport) UpdatePeers(peers map[NodeID]string) { t.peers.Store(&peers) }

func (t *unixTransport) Close() error {
	t.UpdatePeers(nil)
	t.cancel()
	t.tasks.Wait()
	return nil
}

func (t *unixTransport) CallVote(ctx context.Context, to NodeID, r *VoteRequest) (*VoteResponse, error) {
	return callUnix[VoteResponse](ctx, t, to, 1, r)
}
func (t *unixTransport) CallHeartbeat(ctx context.Context, to NodeID, r *Heartbeat) (*HeartbeatResponse, error) {
	return callUnix[HeartbeatResponse](ctx, t, to, 2, r)
}
func (t *unixTransport) CallAppend(ctx context.Context, to NodeID, r *AppendEntries) (*AppendResponse, error) {
	return callUnix[AppendResponse](ctx, t, to, 3, r)
}
func (t *unixTransport) CallSnapshot(ctx context.Context, to NodeID, r *InstallSnapshot) (*SnapshotResponse, error) {
	return callUnix[SnapshotResponse](ctx, t, to, 4, r)
}
func (t *unixTransport) CallTimeoutNow(ctx context.Context, to NodeID, r *TimeoutNow) (*TimeoutNowResponse, error) {
	return callUnix[TimeoutNowResponse](ctx, t, to, 5, r)
}
func (t *unixTransport) CallForward(ctx context.Context, to NodeID, r *ForwardRequest) (*ForwardResponse, error) {
	return callUnix[ForwardResponse](ctx, t, to, 6, r)
}

func callUnix[R any](ctx context.Context, t *unixTransport, peer NodeID, kind uint16, request encoding.BinaryAppender) (*R, error) {
	body, err := request.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	path := (*t.peers.Load())[peer]
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil { // certainly not handed over; from here on that cannot be known
		return nil, fmt.Errorf("%w: %s at %q: %w", ErrUnreachable, peer, path, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer context.AfterFunc(t.ctx, func() { conn.Close() })()
	writeUnixFrame(conn, kind, body) // a failure shows in the read
	code, answer, err := readUnixFrame(conn)
	if err != nil {
		return nil, fmt.Errorf("call of %s at %s: %w", peer, path, errors.Join(ctx.Err(), err))
	}
	if ErrorCode(code) != CodeOK { // errors cross as codes: errors.Is works on this side
		return nil, &RemoteError{Peer: peer, Code: ErrorCode(code), Message: string(answer)}
	}
	response := new(R)
	return response, any(response).(encoding.BinaryUnmarshaler).UnmarshalBinary(answer)
}

func writeUnixFrame(w io.Writer, number uint16, body []byte) {
	frame := binary.BigEndian.AppendUint32(nil, uint32(2+len(body)))
	w.Write(append(binary.BigEndian.AppendUint16(frame, number), body...))
}

// readUnixFrame believes no length beyond that of any message: the rest is cut off, and not read.
func readUnixFrame(r io.Reader) (number uint16, body []byte, err error) {
	frame := make([]byte, 4)
	if _, err = io.ReadFull(r, frame); err == nil {
		frame = make([]byte, min(max(2, binary.BigEndian.Uint32(frame)), 64<<20))
		_, err = io.ReadFull(r, frame)
	}
	return binary.BigEndian.Uint16(frame), frame[2:], err
}
