package raft

import (
	"context"
	"fmt"
	"sync"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// tcpStream is an [AppendStream] over the bulk connection to a peer, from the
// moment that there is one until it breaks. Requests that are sent before wait
// here, later ones go to the connection's queue.
type tcpStream struct {
	peer       NodeID
	limit      int // of queued
	onResponse func(*AppendResponse)
	onClosed   func(error)
	cancel     context.CancelFunc // ends the wait for a connection

	mu       sync.Mutex // guards what follows; never held across I/O, encoding or callbacks; taken before tcpConn.mu
	closed   bool
	conn     *tcpConn // nil: not connected yet
	waiting  []*AppendEntries
	queued   int    // bytes that were sent and not written yet
	sent     uint64 // requests given to conn
	answered uint64 // of these
}

// OpenAppendStream implements [AppendStreamer]. One connection serves all
// streams to a peer; it stays when they are closed.
func (t *TCPTransport) OpenAppendStream(peer NodeID, onResponse func(*AppendResponse), onClosed func(error)) AppendStream {
	ctx, cancel := context.WithCancel(t.ctx)
	s := &tcpStream{peer: peer, limit: t.options.sendQueue, onResponse: onResponse, onClosed: onClosed, cancel: cancel}
	if !t.start(func() { t.connectStream(ctx, s) }) {
		s.closed = true // the transport is closed: it has no goroutine left to call onClosed from
	}
	return s
}

// connectStream is the goroutine of a stream until it has a connection.
func (t *TCPTransport) connectStream(ctx context.Context, s *tcpStream) {
	defer s.cancel()
	link, err := t.link(s.peer, wire.PurposeBulk)
	if err != nil {
		s.shut(err)
		return
	}
	conn, err := link.connection(ctx)
	if err == nil {
		err = s.connected(conn)
	}
	if err != nil {
		s.shut(unreachable(s.peer, link.address, err))
	}
}

// connected hands what waits to the connection. With an error none was.
func (s *tcpStream) connected(conn *tcpConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	if err := conn.attach(s); err != nil {
		return err
	}
	// From here on the end of the connection closes the stream.
	s.conn = conn
	for _, request := range s.waiting {
		if !s.pass(request) {
			break
		}
	}
	s.waiting = nil
	return nil
}

// pass gives a request to the connection. s.mu is held.
func (s *tcpStream) pass(request *AppendEntries) bool {
	call := &tcpCall{kind: kindStreamedAppend, response: new(AppendResponse), stream: s, position: s.sent + 1}
	if _, err := s.conn.request(call, request, streamedSize(request)); err != nil {
		return false
	}
	s.sent++
	return true
}

// maxStreamed bounds the entries of one append: a frame holds no more, with
// what else is in it.
const maxStreamed = wire.MaxFrame - 4<<10

func streamedSize(request *AppendEntries) int { return request.Entries.Size() + messageOverhead }

// Send implements [AppendStream].
func (s *tcpStream) Send(request *AppendEntries) bool {
	size := streamedSize(request)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || (s.queued > 0 && s.queued+size > s.limit) {
		return false
	}
	if request.Entries.encodedSize() > maxStreamed {
		return false // found out by the writer, it would end the connection for everybody
	}
	if s.conn == nil {
		s.waiting = append(s.waiting, request)
	} else if !s.pass(request) {
		return false
	}
	s.queued += size
	return true
}

// written makes room in the queue.
func (s *tcpStream) written(bytes int) {
	s.mu.Lock()
	s.queued -= bytes
	s.mu.Unlock()
}

// receive passes an answer on. The connection's reader calls it; an error
// breaks the connection.
func (s *tcpStream) receive(call *tcpCall, answer error) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.answered++
	inOrder := call.position == s.answered
	s.mu.Unlock()
	switch {
	case !inOrder:
		return fmt.Errorf("%w: append %d of a stream was answered before append %d", ErrInvalidMessage, call.position, s.answered)
	case answer != nil:
		s.shut(answer)
	default:
		s.onResponse(call.response.(*AppendResponse))
	}
	return nil
}

// shut closes the stream from the transport's side.
func (s *tcpStream) shut(cause error) {
	if s.close() {
		s.onClosed(cause)
	}
}

// Close implements [AppendStream]. A callback that is running may still be
// finishing; none starts any more. It may be called from a callback.
func (s *tcpStream) Close() { s.close() }

// close reports whether the stream was open.
func (s *tcpStream) close() bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.closed, s.waiting = true, nil
	conn := s.conn
	s.mu.Unlock()
	s.cancel()
	if conn != nil {
		conn.detach(s)
	}
	return true
}
