package raft

import (
	"bufio"
	"context"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// beatWithoutWaiting starts a heartbeat, and returns the channel of its end.
func (n *tcpNode) beatWithoutWaiting(to *tcpNode, patience time.Duration) (ended chan error, started bool) {
	ended = make(chan error, 2)
	started = n.tcp.startHeartbeat(to.id, &Heartbeat{Header: n.headerTo(to.transportNode), Term: 7}, patience, func(response *HeartbeatResponse, err error) {
		if err == nil && response.Term != 7 {
			err = io.ErrUnexpectedEOF
		}
		ended <- err
	})
	return ended, started
}

// askWithoutWaiting starts a question of a read, likewise.
func (n *tcpNode) askWithoutWaiting(to *tcpNode, patience time.Duration) (ended chan error, started bool) {
	ended = make(chan error, 2)
	request := &ForwardRequest{Header: n.headerTo(to.transportNode), Kind: ForwardReadIndex, Payload: []byte{byte(ReadConfirmed)}}
	started = n.tcp.startReadQuestion(to.id, request, patience, func(response *ForwardResponse, err error) {
		if err == nil && response.Index != 7 {
			err = io.ErrUnexpectedEOF
		}
		ended <- err
	})
	return ended, started
}

func (n *tcpNode) control(t *testing.T, to *tcpNode) *tcpConn {
	link, err := n.tcp.link(to.id, wire.PurposeControl)
	require.NoError(t, err)
	conn, err := link.connection(testContext(t))
	require.NoError(t, err)
	return conn
}

// A heartbeat, or a question of a read, needs no goroutine that waits for it, once there is a
// connection. It ends exactly once: with its answer, when that does not come in time, or with
// the connection.
func TestTCPCallsWithoutGoroutines(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(from, to *tcpNode, patience time.Duration) (chan error, bool){
		"heartbeat":          (*tcpNode).beatWithoutWaiting,
		"question of a read": (*tcpNode).askWithoutWaiting,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := startTCPPair(t, 4*time.Second) // so long that no load breaks the connection, and so short that what is late is soon noticed
			entered := make(chan bool, 1)
			var hang atomic.Bool
			enter := func(ctx context.Context) {
				if hang.Load() {
					entered <- true
					<-ctx.Done()
				}
			}
			b.handler.heartbeat = func(ctx context.Context, r *Heartbeat) (*HeartbeatResponse, error) {
				enter(ctx)
				return &HeartbeatResponse{Term: r.Term}, nil
			}
			b.handler.forward = func(ctx context.Context, r *ForwardRequest) (*ForwardResponse, error) {
				enter(ctx)
				return &ForwardResponse{Index: 7}, nil
			}
			_, started := start(a, b, time.Second)
			require.False(t, started, "there is no connection")
			require.NoError(t, a.beat(t, b))
			ended, started := start(a, b, 20*time.Second)
			require.True(t, started)
			require.NoError(t, awaitValue(t, ended, "the answer"))

			hang.Store(true)
			later, started := start(a, b, 400*time.Millisecond)
			require.True(t, started)
			awaitValue(t, entered, "the call that hangs")
			late, started := start(a, b, 100*time.Millisecond)
			require.True(t, started)
			awaitValue(t, entered, "the other call that hangs")
			require.ErrorIs(t, awaitValue(t, late, "the end of its time"), context.DeadlineExceeded)
			require.ErrorIs(t, awaitValue(t, later, "the end of its time, too"), context.DeadlineExceeded)

			lost, started := start(a, b, time.Hour)
			require.True(t, started)
			awaitValue(t, entered, "the call that hangs, too")
			conn := a.control(t, b)
			conn.fail(errQueueFull)
			err := awaitValue(t, lost, "the end of the connection")
			require.ErrorContains(t, err, "broke after the request was sent")
			require.NotErrorIs(t, err, ErrUnreachable)
			require.Empty(t, late)
			require.Empty(t, later)
			require.Empty(t, lost)
		})
	}
}

// The end of a transport waits for those that it tells that their time is over.
func TestTCPCloseWaitsForTheTold(t *testing.T) {
	t.Parallel()
	a, b := startTCPPair(t, 4*time.Second)
	b.handler.heartbeat = func(ctx context.Context, r *Heartbeat) (*HeartbeatResponse, error) {
		if r.Round == 9 {
			<-ctx.Done()
		}
		return &HeartbeatResponse{Term: r.Term}, nil
	}
	require.NoError(t, a.beat(t, b))
	entered, stop := make(chan bool), make(chan bool)
	var left atomic.Bool
	require.True(t, a.tcp.startHeartbeat(b.id, &Heartbeat{Header: a.headerTo(b.transportNode), Term: 7, Round: 9}, time.Millisecond, func(*HeartbeatResponse, error) {
		close(entered)
		<-stop
		left.Store(true)
	}))
	awaitValue(t, entered, "the end of its time")
	closed := make(chan error, 1)
	go func() {
		err := a.tcp.Close()
		assert.True(t, left.Load())
		closed <- err
	}()
	select {
	case <-closed:
	case <-time.After(50 * time.Millisecond): // time enough for one that does not wait
	}
	close(stop)
	require.NoError(t, awaitValue(t, closed, "the end of the transport"))
}

// A sender of small requests never waits for the socket: what that does not take at once
// is written later, in order, and all of it arrives. What has a deadline ends with it all the same.
func TestTCPSendersDoNotWaitForTheSocket(t *testing.T) {
	t.Parallel()
	a, b := startTCPPair(t, 20*time.Second)
	proxy := throughProxy(t, a, b)
	b.handler.forward = func(_ context.Context, r *ForwardRequest) (*ForwardResponse, error) {
		return &ForwardResponse{Index: Index(len(r.Payload))}, nil
	}
	require.NoError(t, a.beat(t, b))
	conn := a.control(t, b)
	if runtime.GOOS != "windows" {
		require.NotNil(t, conn.frames.direct)
	}
	proxy.each(func(link *proxyLink) { link.stalled.Store(true) })
	const requests, size = 450, 32 << 10 // more than sockets take
	responses := make([]ForwardResponse, requests)
	ends := make(chan error, requests)
	for i := range requests {
		call := &tcpCall{kind: kindForward, response: &responses[i], told: func(err error) { ends <- err }, deadline: time.Now().Add(time.Hour)}
		_, err := conn.request(call, &ForwardRequest{Header: a.headerTo(b.transportNode), Payload: make([]byte, size-i)}, size)
		require.NoError(t, err)
	}
	conn.mu.Lock()
	queued := conn.queued
	conn.mu.Unlock()
	require.Positive(t, queued, "the sockets have taken everything: the test shows nothing")
	late, started := a.askWithoutWaiting(b, 10*time.Millisecond)
	require.True(t, started)
	require.ErrorIs(t, awaitValue(t, late, "the end of its time"), context.DeadlineExceeded)
	proxy.each(func(link *proxyLink) { link.stalled.Store(false) })
	for range requests {
		require.NoError(t, awaitValue(t, ends, "an answer"))
	}
	for i := range requests {
		require.Equal(t, Index(size-i), responses[i].Index)
	}
	conn.mu.Lock()
	defer conn.mu.Unlock()
	require.Zero(t, conn.queued)
}

// deadlined is a connection that remembers its write deadlines.
type deadlined struct {
	net.Conn
	writeDeadlines []time.Time
}

func (d *deadlined) SetWriteDeadline(t time.Time) error {
	d.writeDeadlines = append(d.writeDeadlines, t)
	return d.Conn.SetWriteDeadline(t)
}

// Who writes at once is not held to the deadline that the writer had for something else.
func TestTCPDirectWritesHaveNoDeadline(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	go func() { _, _ = io.Copy(io.Discard, there) }()
	transport := NewTCPTransport(nil, time.Second)
	defer transport.Close()
	socket := &deadlined{Conn: here}
	conn := newTCPConn(transport, socket, here, bufio.NewReader(here), wire.PurposeControl, 0)
	conn.frames.direct = new(directWriter) // as if it were a socket
	conn.quiet, socket.writeDeadlines = true, nil
	conn.keepAlive()
	require.True(t, conn.frames.take(true))
	conn.frames.flush()
	require.NoError(t, conn.frames.err)
	require.Len(t, socket.writeDeadlines, 2)
	require.False(t, socket.writeDeadlines[0].IsZero(), "the writer waits for so long")
	require.True(t, socket.writeDeadlines[1].IsZero())
}

// Answers count as received until they are decoded, and no longer.
func TestTCPLargeAnswersGiveBackTheirRoom(t *testing.T) {
	t.Parallel()
	a, b := startTCPPair(t, 20*time.Second)
	b.handler.forward = func(context.Context, *ForwardRequest) (*ForwardResponse, error) {
		return &ForwardResponse{Payload: make([]byte, 2*smallFrame)}, nil
	}
	for range 10 {
		response, err := a.CallForward(testContext(t), b.id, &ForwardRequest{Header: a.headerTo(b.transportNode), Kind: ForwardPropose})
		require.NoError(t, err)
		require.Len(t, response.Payload, 2*smallFrame)
	}
	eventually(t, func() bool { return a.tcp.budget.Used() == 0 }, "all to be given back")
}

// What a closed stream has left in the queue of a connection takes no room there.
func TestTCPClosedStreamsLeaveTheQueue(t *testing.T) {
	t.Parallel()
	a, b := startTCPPair(t, 20*time.Second)
	proxy := throughProxy(t, a, b)
	b.handler.begin = func(_ *AppendEntries, respond func(*AppendResponse, error)) { respond(new(AppendResponse), nil) }
	send := func(stream AppendStream) bool {
		return stream.Send(&AppendEntries{Header: a.headerTo(b.transportNode), Term: 1, Entries: MakeEntries(LogEntry{Index: 1, Term: 1, Data: make([]byte, 1<<20)})})
	}
	stream, events := openTestStream(a.transportNode, b.id)
	require.True(t, send(stream))
	awaitValue(t, events.responses, "the first answer")
	link, err := a.tcp.link(b.id, wire.PurposeBulk)
	require.NoError(t, err)
	conn, err := link.connection(testContext(t))
	require.NoError(t, err)
	proxy.each(func(link *proxyLink) { link.stalled.Store(true) })
	for send(stream) {
	}
	stream.Close()
	proxy.each(func(link *proxyLink) { link.stalled.Store(false) })
	eventually(t, func() bool {
		conn.mu.Lock()
		defer conn.mu.Unlock()
		return conn.queued == 0
	}, "the queue to be empty")
}
