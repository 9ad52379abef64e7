package raft

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// The kinds of frames, beside those of the handshake. The numbers are part of
// the protocol. Requests go from the side that dialed to the side that accepted;
// the response to one has its id and its kind plus kindResponse, an error its id
// and [code, text].
const (
	kindAlive          = 0 // sent by a side that has nothing else to say
	kindVote           = 1
	kindHeartbeat      = 2
	kindAppend         = 3
	kindSnapshot       = 4
	kindTimeoutNow     = 5
	kindForward        = 6
	kindStreamedAppend = 7 // an AppendEntries that is served and answered in order
	kindResponse       = 32
	kindError          = 64
)

// message is what every request and response is.
type message interface {
	AppendBinary(dst []byte) ([]byte, error)
	UnmarshalBinary(data []byte) error
}

const (
	readBuffer = 16 << 10 // larger pieces of a frame are read past it
	writePiece = 64 << 10 // what a peer must take before each deadline; small frames gather up to it
	keepBuffer = 2 << 20  // a larger write buffer is given back after use

	// smallFrame is the largest frame that takes nothing from the receive
	// budget, on connections where the number of frames is bounded otherwise.
	smallFrame = 64 << 10

	// messageOverhead is added to a message's payload when its size is counted.
	messageOverhead = 256

	maxErrorText = 1 << 10

	// A timeout that is shorter counts as this one where it is about silence. So
	// no peer can make this node send without a pause.
	leastTimeout = 50 * time.Millisecond

	// How many requests of one connection may be running at once. Each kind of
	// work has its own bound, so that none starves the others.
	maxUrgentCalls  = 64
	maxBulkCalls    = 16
	maxForwardCalls = 1024
	maxForwardBytes = 16 << 20
)

var (
	errQueueFull    = errors.New("its send queue is full")
	errClosedByPeer = errors.New("the peer closed the connection")
)

// tcpConn is one connection after its handshake, of either direction. Two
// goroutines live with it: the reader, which also ends it, and the writer. A timer runs a
// third one for a moment, to end calls that are late. What is small and urgent is written
// by whoever sends it, if nobody else is writing and the socket takes it at once: a
// wake-up less on the way of a heartbeat.
type tcpConn struct {
	// Immutable after it is made.
	transport *TCPTransport
	socket    net.Conn // read and written
	raw       net.Conn // closed: below TLS, whose Close may wait to write
	reader    *bufio.Reader
	peer      NodeID
	address   string
	bulk      bool
	pace      time.Duration   // something is written at least this often
	inbound   bool            // set by serve
	ctx       context.Context // of handlers; ends when the connection breaks
	cancel    context.CancelFunc
	heard     atomic.Bool // a frame has arrived
	wake      chan struct{}

	// Inbound only. The reader takes, handlers give back.
	handlers               sync.WaitGroup
	urgentCalls, bulkCalls callBound
	forwardCalls           callBound

	mu      sync.Mutex // guards what follows; never held across I/O, encoding or callbacks
	queue   []outgoing
	queued  int         // bytes, from here until they are written
	writing bool        // somebody has frames
	quiet   bool        // nothing was written since keepAlive
	frames  frameWriter // of who has set writing
	failure error       // why it broke; nil while it works

	// Outbound only.
	lastID    uint64
	calls     map[uint64]*tcpCall // sent or queued, not answered; nil once the connection has ended
	streams   map[*tcpStream]struct{}
	expiry    *time.Timer    // runs expire; nil: there was no call with a deadline of its own yet
	expiresAt time.Time      // when it does; zero: not before there is another such call
	expiring  sync.WaitGroup // begun with mu held
}

// outgoing is a frame that waits to be written.
type outgoing struct {
	kind, id uint64
	body     message // nil: an error, below
	code     ErrorCode
	text     string
	size     int
	call     *tcpCall // of a request
}

// tcpCall is a request that waits for its response.
type tcpCall struct {
	state    atomic.Int32 // callQueued and then one of the others
	response message

	// One of the three: a caller waits for done, which is closed after err is
	// set, told is called, soon after the deadline at the latest, or a stream is told.
	// position counts the requests of the stream.
	done     chan struct{}
	err      error
	told     func(error)
	deadline time.Time
	stream   *tcpStream
	position uint64
	kind     uint64
}

// finish says how a call has ended that is not of a stream.
func (call *tcpCall) finish(err error) {
	if call.told != nil {
		call.told(err)
		return
	}
	call.err = err
	close(call.done)
}

const (
	callQueued  = 0
	callSent    = 1 // the writer has taken it: from here on it may reach the peer
	callDropped = 2 // it will certainly not
)

// newTCPConn returns a connection to a peer that has told its timeout, in
// microseconds, or 0.
func newTCPConn(t *TCPTransport, socket, raw net.Conn, reader *bufio.Reader, purpose, peerTimeout uint64) *tcpConn {
	c := &tcpConn{
		transport: t, socket: socket, raw: raw, reader: reader,
		bulk:         purpose == wire.PurposeBulk,
		pace:         keepAlivePace(t.timeout, peerTimeout),
		wake:         make(chan struct{}, 1),
		urgentCalls:  callBound{maxCalls: maxUrgentCalls},
		bulkCalls:    callBound{maxCalls: maxBulkCalls},
		forwardCalls: callBound{maxCalls: maxForwardCalls, maxBytes: maxForwardBytes},
		calls:        make(map[uint64]*tcpCall),
		streams:      make(map[*tcpStream]struct{}),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.frames.conn = c
	direct := newDirectWriter(socket)
	// Race detection knows nothing of vectors, and would see races where there are none.
	c.frames.socket = direct != nil && !raceDetection
	if !c.bulk && socket.SetWriteDeadline(time.Time{}) == nil { // that of the handshake is over
		c.frames.direct = direct
	}
	return c
}

// keepAlivePace is half of the shorter timeout: the side that has it takes a
// connection for broken that is silent for one and a half of it.
func keepAlivePace(own time.Duration, peer uint64) time.Duration {
	if peer > 0 && peer < uint64(own.Microseconds()) {
		own = time.Duration(peer) * time.Microsecond
	}
	return max(own, leastTimeout) / 2
}

// fail breaks the connection; the reader does the rest. Only the first cause counts.
func (c *tcpConn) fail(cause error) {
	c.mu.Lock()
	if c.failure == nil {
		c.failure = cause
	}
	c.mu.Unlock()
	c.cancel()
	c.raw.Close()
}

// serve reads requests until the connection breaks, waits for everything that
// it started, and returns why it broke.
func (c *tcpConn) serve(handler Handler) error {
	c.inbound = true
	err := c.readFrames(func(f *frame) error { return c.serveRequest(handler, f) })
	c.handlers.Wait()
	return err
}

// receiveResponses reads responses until the connection breaks, and returns why
// it broke.
func (c *tcpConn) receiveResponses() error {
	return c.readFrames(c.receiveResponse)
}

// frame is one that has arrived, for the call that it is passed to. The message is a part
// of the body.
type frame struct {
	kind, id      uint64
	message, body []byte
	sum           uint32 // the checksum of the body
}

// readFrames runs the writer, and reads until the connection breaks.
func (c *tcpConn) readFrames(receive func(*frame) error) error {
	var writer sync.WaitGroup
	writer.Go(c.writeFrames)
	defer writer.Wait()

	t := c.transport
	silence := max(t.timeout, leastTimeout) * 3 / 2
	gate := wire.Gate{
		Extend: func() error { return c.socket.SetReadDeadline(time.Now().Add(silence)) },
		Reserve: func(bytes int) error {
			if c.charge(bytes) > 0 && !t.budget.Acquire(c.ctx.Done(), bytes) {
				return net.ErrClosed
			}
			return nil
		},
		Release: c.release,
	}
	var err error
	var f frame // one for all: it would be on the heap each time
	for err == nil {
		if f.body, f.sum, err = wire.ReadFrame(c.reader, &gate); err != nil {
			break
		}
		c.heard.Store(true)
		t.stats.framesReceived.Add(1)
		t.stats.bytesReceived.Add(uint64(len(f.body) + 8))
		if f.kind, f.id, f.message, err = wire.ParseBody(f.body); err != nil {
			c.release(len(f.body))
			break
		}
		err = receive(&f)
		f = frame{} // nothing keeps its memory
	}
	switch {
	case t.ctx.Err() != nil:
		err = errTransportClosed
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		err = errClosedByPeer
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("nothing or too little was heard from the peer for %v: %w", silence, err)
	case errors.Is(err, wire.ErrMalformed) || errors.Is(err, ErrInvalidMessage):
		t.stats.malformedFrames.Add(1)
	}
	c.fail(err)
	return c.cause()
}

func (c *tcpConn) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure
}

// charge is what a received body takes from the receive budget.
func (c *tcpConn) charge(size int) int {
	if size <= smallFrame && !(c.inbound && c.bulk) {
		return 0
	}
	return size
}

func (c *tcpConn) release(size int) {
	if bytes := c.charge(size); bytes > 0 {
		c.transport.budget.Release(bytes)
	}
}

// serveRequest starts what a request asks for. It does not wait: a request that
// finds too many others running is refused. An error breaks the connection.
func (c *tcpConn) serveRequest(handler Handler, f *frame) error {
	switch f.kind {
	case kindAlive:
		c.release(len(f.body))
		return nil
	case kindVote:
		return serveCall(c, &c.urgentCalls, f, handler.HandleVote)
	case kindHeartbeat:
		if h, ok := handler.(callBeginner); ok {
			return beginCall(c, &c.urgentCalls, f, h.beginHeartbeat)
		}
		return serveCall(c, &c.urgentCalls, f, handler.HandleHeartbeat)
	case kindTimeoutNow:
		return serveCall(c, &c.urgentCalls, f, handler.HandleTimeoutNow)
	case kindForward:
		return beginCall(c, &c.forwardCalls, f, func(request *ForwardRequest, respond func(*ForwardResponse, error)) {
			if h, ok := handler.(callBeginner); ok && request.Kind == ForwardReadIndex {
				h.beginReadQuestion(request, respond)
				return
			}
			c.handlers.Go(func() { respond(handler.HandleForward(c.ctx, request)) })
		})
	}
	if c.bulk {
		switch f.kind {
		case kindAppend:
			return serveCall(c, &c.bulkCalls, f, handler.HandleAppend)
		case kindSnapshot:
			return serveCall(c, &c.bulkCalls, f, handler.HandleSnapshot)
		case kindStreamedAppend:
			return c.serveStreamedAppend(handler, f)
		}
	}
	c.release(len(f.body))
	c.respondError(f.id, fmt.Errorf("%w (kind %d)", ErrUnsupported, f.kind))
	return nil
}

type requestPointer[Request any] interface {
	*Request
	message
	sender() NodeID
}

type responsePointer[Response any] interface {
	*Response
	message
}

// serveCall runs one handler on a goroutine of its own.
func serveCall[Request, Response any, RequestPointer requestPointer[Request], ResponsePointer responsePointer[Response]](
	c *tcpConn, bound *callBound, f *frame, handle func(context.Context, *Request) (*Response, error),
) error {
	return beginCall[Request, Response, RequestPointer, ResponsePointer](c, bound, f, func(request *Request, respond func(*Response, error)) {
		c.handlers.Go(func() { respond(handle(c.ctx, request)) })
	})
}

// beginCall has a request answered by begin, which does not wait and calls respond once.
func beginCall[Request, Response any, RequestPointer requestPointer[Request], ResponsePointer responsePointer[Response]](
	c *tcpConn, bound *callBound, f *frame, begin func(*Request, func(*Response, error)),
) error {
	kind, id, size := f.kind, f.id, len(f.body) // not all of f stays until the response
	request := new(Request)
	if err := RequestPointer(request).UnmarshalBinary(f.message); err != nil {
		c.release(size)
		return fmt.Errorf("request of kind %d: %w", kind, err)
	}
	if err := c.checkSender(RequestPointer(request).sender()); err != nil {
		c.release(size)
		return fmt.Errorf("request of kind %d: %w", kind, err)
	}
	if forward, ok := any(request).(*ForwardRequest); ok && forward.Kind == ForwardReadIndex {
		bound = &c.urgentCalls // reads do not wait for writes: all of a peer's share one question
	}
	if !bound.take(size) {
		c.release(size)
		c.transport.stats.overloaded.Add(1)
		c.respondError(id, fmt.Errorf("%w: too many requests of one peer are running", ErrOverloaded))
		return nil
	}
	begin(request, func(response *Response, err error) {
		bound.give(size)
		c.release(size)
		if err == nil && response == nil {
			err = errors.New("raft: the handler returned no response")
		}
		if err != nil {
			c.respondError(id, err)
			return
		}
		payload := 0
		if forward, ok := any(response).(*ForwardResponse); ok {
			payload = len(forward.Payload) + len(forward.Message)
		}
		c.respond(outgoing{kind: kind + kindResponse, id: id, body: ResponsePointer(response), size: payload})
	})
	return nil
}

// checkSender holds a peer to the name of its handshake.
func (c *tcpConn) checkSender(from NodeID) error {
	if from != c.peer {
		return fmt.Errorf("%w: it says that it is from %q, on a connection of %q", ErrInvalidMessage, from, c.peer)
	}
	return nil
}

// serveStreamedAppend passes an append on in the order of its arrival. The
// frame counts as received until the handler has responded.
func (c *tcpConn) serveStreamedAppend(handler Handler, f *frame) error {
	a := &streamedAppend{conn: c, id: f.id, size: len(f.body)}
	err := a.request.unmarshalFrame(f)
	if err == nil {
		err = c.checkSender(a.request.From)
	}
	if err != nil {
		c.release(a.size)
		return fmt.Errorf("append on a stream: %w", err)
	}
	if n, ok := handler.(appendBeginner); ok {
		n.beginAppend(&a.request, a.respond)
		return nil
	}
	handler.BeginAppend(&a.request, func(response *AppendResponse, err error) { a.respond(response, err) })
	return nil
}

// appendBeginner is a [Handler] that needs no closure more for each append.
type appendBeginner interface {
	// beginAppend is BeginAppend; the response is nil or an *AppendResponse.
	beginAppend(request *AppendEntries, respond responder)
}

var _ appendBeginner = (*Node)(nil)

// streamedAppend is an append that was passed on, and what its answer needs: one
// allocation for all of that.
type streamedAppend struct {
	conn      *tcpConn
	id        uint64
	size      int // of the frame
	responded atomic.Bool
	request   AppendEntries
}

// respond answers the append, the first time.
func (a *streamedAppend) respond(answer any, err error) {
	if a.responded.Swap(true) {
		return
	}
	a.conn.release(a.size)
	response, _ := answer.(*AppendResponse)
	if err == nil && response == nil {
		err = errors.New("raft: the handler returned no response")
	}
	if err != nil {
		a.conn.respondError(a.id, err)
		return
	}
	a.conn.respond(outgoing{kind: kindStreamedAppend + kindResponse, id: a.id, body: response})
}

func (c *tcpConn) respondError(id uint64, err error) {
	c.respond(outgoing{kind: kindError, id: id, code: CodeOf(err), text: wire.Clip(err.Error(), maxErrorText)})
}

// respond queues a response. It does not block: a peer that does not read its
// responses loses the connection. A large one that finds no room gives way to a small one
// that says so, since many may have become ready at the same moment.
func (c *tcpConn) respond(out outgoing) {
	large := out.size > 0
	out.size += messageOverhead
	c.mu.Lock()
	err := c.enqueue(out)
	if err == errQueueFull && large {
		c.push(outgoing{kind: kindError, id: out.id, code: CodeInternal, text: "there is no room for the answer", size: messageOverhead})
		err = nil // no more of them than requests may be running
	}
	c.mu.Unlock()
	if err != nil {
		c.fail(fmt.Errorf("the peer does not read its responses: %w", err))
		return
	}
	c.send()
}

// enqueue queues a frame for the writer. c.mu is held.
func (c *tcpConn) enqueue(out outgoing) error {
	if c.failure != nil {
		return c.failure
	}
	limited := out.call == nil || out.call.stream == nil // streams count for themselves
	if limited && c.queued > 0 && c.queued+out.size > c.transport.options.sendQueue {
		return errQueueFull
	}
	c.push(out)
	return nil
}

// push queues a frame whether there is room or not. c.mu is held.
func (c *tcpConn) push(out outgoing) {
	c.queue = append(c.queue, out)
	c.queued += out.size
}

// request sends a request under a new id. It does not block.
func (c *tcpConn) request(call *tcpCall, body message, size int) (id uint64, err error) {
	c.mu.Lock()
	id = c.lastID + 1
	err = c.enqueue(outgoing{kind: call.kind, id: id, body: body, size: size, call: call})
	if err == nil {
		c.lastID = id
		c.calls[id] = call
		if call.told != nil {
			c.expireAt(call.deadline)
		}
	}
	c.mu.Unlock()
	if err == nil {
		c.send()
	}
	return id, err
}

// send has what is queued written: at once as far as the socket takes it, or by the writer.
func (c *tcpConn) send() {
	w := &c.frames
	if w.direct != nil && w.take(false) {
		w.flushNow()
		if !w.leave() {
			return
		}
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// call sends a request and waits for its response or the end of ctx.
func (c *tcpConn) call(ctx context.Context, kind uint64, request, response message, payload int) error {
	call := &tcpCall{kind: kind, response: response, done: make(chan struct{})}
	id, err := c.request(call, request, payload+messageOverhead)
	if err != nil {
		return unreachable(c.peer, c.address, err)
	}
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	_, waiting := c.calls[id]
	delete(c.calls, id)
	c.mu.Unlock()
	switch {
	case !waiting: // it is being answered at this moment
		<-call.done
		return call.err
	default:
		return c.givenUp(call, ctx.Err())
	}
}

// givenUp returns the error of a call that is not waited for any longer.
func (c *tcpConn) givenUp(call *tcpCall, why error) error {
	if call.state.CompareAndSwap(callQueued, callDropped) {
		return unreachable(c.peer, c.address, fmt.Errorf("not sent yet: %w", why))
	}
	return fmt.Errorf("raft: no response from %s at %s: %w", c.peer, c.address, why)
}

// receiveResponse hands a response to whom it is for. One that nobody waits for
// any more is dropped. An error breaks the connection.
func (c *tcpConn) receiveResponse(f *frame) error {
	defer c.release(len(f.body))
	if f.kind == kindAlive {
		return nil
	}
	c.mu.Lock()
	call := c.calls[f.id]
	delete(c.calls, f.id)
	c.mu.Unlock()
	if call == nil {
		return nil
	}
	answer, err := c.decodeResponse(call, f.kind, f.message)
	if call.stream != nil {
		if err != nil {
			return err
		}
		return call.stream.receive(call, answer)
	}
	if err != nil {
		answer = c.brokenAfterSending(err)
	}
	call.finish(answer)
	return err
}

// decodeResponse decodes a response into call, or returns the error that the
// peer answered with. The second error is about the bytes.
func (c *tcpConn) decodeResponse(call *tcpCall, kind uint64, message []byte) (answer, malformed error) {
	switch kind {
	case call.kind + kindResponse:
		if err := call.response.UnmarshalBinary(message); err != nil {
			return nil, fmt.Errorf("response of kind %d: %w", kind, err)
		}
		return nil, nil
	case kindError:
		r := wire.NewReader(message)
		fields := r.ArrayLen()
		remote := &RemoteError{Peer: c.peer, Code: codeOnWire(r.Uint()), Message: r.String(maxErrorText)}
		if fields < 2 {
			r.Fail("an error has too few fields")
		}
		if r.Skip(fields - 2); r.Err() != nil {
			return nil, fmt.Errorf("%w: error of a peer: %w", ErrInvalidMessage, r.Err())
		}
		return remote, nil
	default:
		return nil, fmt.Errorf("%w: a frame of kind %d answers a request of kind %d", ErrInvalidMessage, kind, call.kind)
	}
}

// end tells everyone who waits for a response that none will come. The reader
// calls it when it has ended.
func (c *tcpConn) end() {
	c.mu.Lock()
	calls, streams := c.calls, c.streams
	c.calls, c.streams, c.queue = nil, nil, nil
	if c.expiry != nil {
		c.expiry.Stop()
	}
	cause := c.failure
	c.mu.Unlock()
	c.expiring.Wait()
	for _, call := range calls {
		if call.stream != nil {
			continue
		}
		if call.state.CompareAndSwap(callQueued, callDropped) {
			call.finish(unreachable(c.peer, c.address, cause))
		} else {
			call.finish(c.brokenAfterSending(cause))
		}
	}
	for stream := range streams {
		stream.shut(&lostError{fmt.Sprintf("raft: connection to %s at %s broke: %s", c.peer, c.address, wordsOf(cause)), cause})
	}
}

func (c *tcpConn) brokenAfterSending(cause error) error {
	return &lostError{fmt.Sprintf("raft: connection to %s at %s broke after the request was sent: %s", c.peer, c.address, wordsOf(cause)), cause}
}

// lostError is the end of requests whose connection broke. The cause may be
// about another request: then it says nothing about how these ended.
type lostError struct {
	text  string
	cause error
}

func (e *lostError) Error() string { return e.text }
func (e *lostError) Unwrap() error { return unclassified(e.cause) }

// attach makes the connection tell stream about its end.
func (c *tcpConn) attach(stream *tcpStream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != nil {
		return c.failure
	}
	c.streams[stream] = struct{}{}
	return nil
}

// detach forgets a stream and what it has queued.
func (c *tcpConn) detach(stream *tcpStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, stream)
	for id, call := range c.calls {
		if call.stream == stream {
			call.state.CompareAndSwap(callQueued, callDropped)
			delete(c.calls, id)
		}
	}
	c.queue = slices.DeleteFunc(c.queue, func(out outgoing) bool {
		drop := out.call != nil && out.call.stream == stream
		if drop {
			c.queued -= out.size
		}
		return drop
	})
}

// writeFrames is the writer: it encodes what is queued and writes it, many small
// frames at once.
func (c *tcpConn) writeFrames() {
	alive := time.NewTicker(c.pace / 2)
	defer alive.Stop()
	w := &c.frames
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		case <-alive.C:
			c.keepAlive()
		}
		for w.take(true) {
			w.flush()
			w.leave()
		}
	}
}

// keepAlive queues something to write if nothing was since the last time.
func (c *tcpConn) keepAlive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quiet {
		c.push(outgoing{kind: kindAlive, size: messageOverhead})
	}
	c.quiet = true
}

// frameWriter gathers encoded frames. The first error sticks.
type frameWriter struct {
	conn    *tcpConn
	socket  bool          // the connection is one, says how much it took before a deadline, and may be given pieces
	direct  *directWriter // nil: only the connection's writer writes
	mayWait bool          // who has it now may
	batch   []outgoing    // of the queue, reused
	buffer  []byte
	apart   []apart     // what is to be written in between
	pieces  net.Buffers // of a flush, reused
	rest    net.Buffers // of the pieces
	frames  uint64
	size    int // bytes of the queue that the buffer stands for
	err     error

	// Bytes of streams' queues, by stream: neighbours mostly share one.
	stream      *tcpStream
	streamBytes int
}

// apart is what is written from where it is, when the buffer was written up to a place:
// large bodies of entries are not copied.
type apart struct {
	at   int
	runs []run
}

// take takes the frame writer and encodes what is queued. It reports false if there is
// nothing to write, or somebody is writing, who goes on with what is queued meanwhile or
// leaves it to the writer. What the socket has not taken at once is the writer's.
func (w *frameWriter) take(mayWait bool) bool {
	c := w.conn
	c.mu.Lock()
	free := !c.writing && w.err == nil // else the rest is not to be looked at
	if !free || len(c.queue)+len(w.buffer) == 0 || len(w.buffer) > 0 && !mayWait {
		c.mu.Unlock()
		return false
	}
	c.writing, c.quiet = true, false
	w.batch, c.queue = c.queue, w.batch[:0]
	c.mu.Unlock()
	w.mayWait = mayWait
	for i := range w.batch {
		w.add(&w.batch[i])
	}
	clear(w.batch)
	return true
}

// leave gives the frame writer back, and reports whether there is more to write.
func (w *frameWriter) leave() bool {
	c, err := w.conn, w.err
	c.mu.Lock()
	c.writing = false
	more := len(c.queue)+len(w.buffer) > 0
	c.mu.Unlock()
	if err != nil {
		c.fail(err)
	}
	return more && err == nil
}

// add encodes a frame, unless it was dropped, and writes the buffer once that
// is worth it.
func (w *frameWriter) add(out *outgoing) {
	if w.err != nil {
		return
	}
	w.size += out.size
	if call := out.call; call != nil {
		if call.stream != w.stream {
			w.settleStream()
			w.stream = call.stream
		}
		if call.stream != nil {
			w.streamBytes += out.size
		}
		if !call.state.CompareAndSwap(callQueued, callSent) {
			return
		}
	}
	start := len(w.buffer)
	if err := w.encode(out); err != nil {
		w.buffer = w.buffer[:start]
		w.rejected(out, err)
		return
	}
	w.frames++
	if w.mayWait && (len(w.buffer) >= writePiece || len(w.apart) > 0) {
		w.flush()
	}
}

func (w *frameWriter) encode(out *outgoing) (err error) {
	var known wire.Part
	var runs []run
	start := len(w.buffer)
	w.buffer = wire.BeginFrame(w.buffer, out.kind, out.id)
	switch {
	case out.body != nil:
		var buffer []byte
		if m, ok := out.body.(*AppendEntries); ok {
			buffer, known, err = m.appendSummed(w.buffer, w.mayWait && w.socket)
			runs = m.Entries.runs
		} else {
			buffer, err = out.body.AppendBinary(w.buffer)
		}
		if err != nil {
			return err
		}
		w.buffer = buffer
	case out.kind == kindAlive:
		w.buffer = wire.AppendArrayLen(w.buffer, 0)
	default:
		w.buffer = wire.AppendArrayLen(w.buffer, 2)
		w.buffer = wire.AppendUint(w.buffer, uint64(out.code))
		w.buffer = wire.AppendString(w.buffer, out.text)
	}
	if err := wire.EndFrame(w.buffer, start, known); err != nil {
		return err
	}
	if known.Apart {
		w.apart = append(w.apart, apart{known.At, runs})
	}
	return nil
}

// rejected deals with a message that cannot be encoded: nothing of it was sent.
func (w *frameWriter) rejected(out *outgoing, err error) {
	c := w.conn
	if errors.Is(err, wire.ErrFrameTooLarge) {
		err = fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	switch {
	case out.call == nil: // a response: the request was served, and no code must say that it was refused
		w.add(&outgoing{kind: kindError, id: out.id, code: CodeInternal, text: wire.Clip(err.Error(), maxErrorText)})
	case out.call.stream != nil: // its later requests must not overtake this one; Send lets none pass that is too large
		w.err = fmt.Errorf("cannot send a request: %w", err)
	default:
		c.mu.Lock()
		_, waiting := c.calls[out.id]
		delete(c.calls, out.id)
		c.mu.Unlock()
		if waiting {
			out.call.finish(err)
		}
	}
}

// flushNow writes as much of the buffer as the socket takes at once.
func (w *frameWriter) flushNow() {
	if w.err != nil {
		return
	}
	var n int
	n, w.err = w.direct.tryWrite(w.buffer)
	w.conn.transport.stats.bytesSent.Add(uint64(n))
	w.buffer = w.buffer[:copy(w.buffer, w.buffer[n:])]
	if len(w.buffer) == 0 {
		w.settle()
	}
}

// flush writes the buffer and what belongs in between.
func (w *frameWriter) flush() {
	c := w.conn
	w.gather()
	for len(w.rest) > 0 && w.err == nil {
		var n int64
		n, w.err = w.writeSome()
		c.transport.stats.bytesSent.Add(uint64(n))
	}
	if w.err == nil && w.direct != nil {
		w.err = c.socket.SetWriteDeadline(time.Time{}) // it would end a direct write later
	}
	w.settle()
	clear(w.pieces) // of those that were not written, too
	clear(w.apart)
	w.apart = w.apart[:0]
	if w.buffer = w.buffer[:0]; cap(w.buffer) > keepBuffer {
		w.buffer = nil
	}
}

// gather lists what is to be written, in order.
func (w *frameWriter) gather() {
	from := 0
	w.pieces = w.pieces[:0]
	for _, a := range w.apart {
		w.pieces = append(w.pieces, w.buffer[from:a.at])
		for _, r := range a.runs {
			w.pieces = append(w.pieces, r.body)
		}
		from = a.at
	}
	if from < len(w.buffer) {
		w.pieces = append(w.pieces, w.buffer[from:])
	}
	w.rest = w.pieces
}

// writeSome writes some of the rest under a deadline, so that a large frame passes a slow
// link and a stuck one is noticed: all of it into a socket, which tells how much it took
// and must take a piece each time, or only a piece into anything else, which may be of no
// use after a deadline.
func (w *frameWriter) writeSome() (n int64, err error) {
	c := w.conn
	if err := c.socket.SetWriteDeadline(time.Now().Add(c.transport.timeout)); err != nil {
		return 0, err
	}
	if w.socket {
		n, err = w.rest.WriteTo(c.socket)
	} else {
		piece := w.rest[0][:min(len(w.rest[0]), writePiece)]
		var written int
		written, err = c.socket.Write(piece)
		if w.rest[0] = w.rest[0][len(piece):]; len(w.rest[0]) == 0 {
			w.rest = w.rest[1:]
		}
		n = int64(written)
	}
	switch late := errors.Is(err, os.ErrDeadlineExceeded); {
	case late && w.socket && n >= writePiece:
		return n, nil
	case late:
		err = fmt.Errorf("the peer took nothing, or too little, for %v: %w", c.transport.timeout, err)
	}
	return n, err
}

// settle gives bytes back to the queues that they are from: they are written.
func (w *frameWriter) settle() {
	c := w.conn
	c.transport.stats.framesSent.Add(w.frames)
	c.mu.Lock()
	c.queued -= w.size
	c.mu.Unlock()
	w.settleStream()
	w.frames, w.size = 0, 0
}

// settleStream gives bytes back to the queue of the stream that they are from.
func (w *frameWriter) settleStream() {
	if w.stream != nil {
		w.stream.written(w.streamBytes)
	}
	w.stream, w.streamBytes = nil, 0
}

// callBound bounds the requests of one kind that are running. Only the reader takes.
type callBound struct {
	maxCalls, maxBytes int64 // maxBytes 0: no bound but the receive budget
	calls, bytes       atomic.Int64
}

func (b *callBound) take(size int) bool {
	running, bytes := b.calls.Load(), b.bytes.Load()
	if running >= b.maxCalls || (b.maxBytes > 0 && bytes > 0 && bytes+int64(size) > b.maxBytes) {
		return false
	}
	b.calls.Add(1)
	b.bytes.Add(int64(size))
	return true
}

func (b *callBound) give(size int) {
	b.calls.Add(-1)
	b.bytes.Add(-int64(size))
}
