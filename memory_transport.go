package raft

import (
	"context"
	"fmt"
	"sync"
)

// memoryTransport is one life of a node on a [MemoryNetwork]. Its fields below
// running are guarded by the network's lock.
type memoryTransport struct {
	network *MemoryNetwork
	id      NodeID
	ctx     context.Context // of the handler's calls; ends with Close
	cancel  context.CancelFunc

	// running counts the goroutines that call this node: its handler, and the
	// callbacks of its streams. It grows only under the lock and only until
	// closed, so that Close can wait for it.
	running sync.WaitGroup

	handler Handler
	closed  bool
	calls   map[*memoryCall]struct{}   // that the handler is serving
	inbound map[*memoryStream]struct{} // that peers have open to this node
	streams map[*memoryStream]struct{} // that this node has open
}

var _ AppendStreamer = (*memoryTransport)(nil)

func (t *memoryTransport) Serve(local Local, handler Handler) error {
	n := t.network
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case local.ID != t.id:
		return fmt.Errorf("raft: the memory transport of %s is asked to serve %s", t.id, local.ID)
	case t.closed:
		return fmt.Errorf("raft: the memory transport of %s is closed", t.id)
	case t.handler != nil:
		return fmt.Errorf("raft: the memory transport of %s is serving already", t.id)
	}
	t.handler = handler
	if before := n.serving[t.id]; before != nil {
		before.hangUp()
	}
	n.serving[t.id] = t
	return nil
}

// UpdatePeers has nothing to do: the network finds nodes by their ids.
func (t *memoryTransport) UpdatePeers(map[NodeID]string) {}

func (t *memoryTransport) CallVote(ctx context.Context, peer NodeID, request *VoteRequest) (*VoteResponse, error) {
	return memoryRoundTrip(ctx, t, peer, request, Handler.HandleVote)
}

func (t *memoryTransport) CallHeartbeat(ctx context.Context, peer NodeID, request *Heartbeat) (*HeartbeatResponse, error) {
	return memoryRoundTrip(ctx, t, peer, request, Handler.HandleHeartbeat)
}

func (t *memoryTransport) CallAppend(ctx context.Context, peer NodeID, request *AppendEntries) (*AppendResponse, error) {
	return memoryRoundTrip(ctx, t, peer, request, Handler.HandleAppend)
}

func (t *memoryTransport) CallSnapshot(ctx context.Context, peer NodeID, request *InstallSnapshot) (*SnapshotResponse, error) {
	return memoryRoundTrip(ctx, t, peer, request, Handler.HandleSnapshot)
}

func (t *memoryTransport) CallTimeoutNow(ctx context.Context, peer NodeID, request *TimeoutNow) (*TimeoutNowResponse, error) {
	return memoryRoundTrip(ctx, t, peer, request, Handler.HandleTimeoutNow)
}

func (t *memoryTransport) CallForward(ctx context.Context, peer NodeID, request *ForwardRequest) (*ForwardResponse, error) {
	return memoryRoundTrip(ctx, t, peer, request, Handler.HandleForward)
}

func (t *memoryTransport) Close() error {
	n := t.network
	n.mu.Lock()
	if !t.closed {
		t.closed = true
		if n.serving[t.id] == t {
			delete(n.serving, t.id)
		}
		t.hangUp()
		for s := range t.streams {
			s.fail(t.closedError())
		}
	}
	n.mu.Unlock()
	t.cancel()
	t.running.Wait()
	return nil
}

// hangUp ends what peers have under way to this transport. They learn of it at
// once, unless there is no way from here to them: then calls wait for their
// ctx, and streams break when they are used next.
func (t *memoryTransport) hangUp() {
	n := t.network
	for c := range t.calls {
		if t.closed && !n.isCut(c.back) {
			c.finish(nil, resetError(t.id))
		}
	}
	for s := range t.inbound {
		if !n.isCut(s.back) {
			s.fail(resetError(t.id))
		}
	}
}

func (t *memoryTransport) closedError() error {
	return fmt.Errorf("raft: the memory transport of %s was closed", t.id)
}

// resetError is not ErrUnreachable: what had been sent may have been handed over.
func resetError(peer NodeID) error {
	return fmt.Errorf("raft: %s closed the connection", peer)
}

func unreachableError(peer NodeID) error {
	return fmt.Errorf("%w: %s is not serving", ErrUnreachable, peer)
}

// answer is what a handler's results become on their way back.
func answer(peer NodeID, response any, err error) any {
	if err == nil {
		return response
	}
	return &RemoteError{Peer: peer, Code: CodeOf(err), Message: err.Error()}
}

// memoryCall is a call from its start until its response is delivered. It owns
// both parcels.
type memoryCall struct {
	transport *memoryTransport // the caller's
	peer      NodeID
	out, back *memoryLink
	handle    func(context.Context, Handler) (any, error)
	result    chan callResult // takes the first result, see finish

	handed  bool // to a handler, at least once
	refused bool // the caller was told that it is not handed over, so it must not be
}

type callResult struct {
	message any
	err     error
}

// memoryRoundTrip makes one call; handle is the method of the peer's handler.
func memoryRoundTrip[Request, Response any](
	ctx context.Context, t *memoryTransport, peer NodeID, request *Request,
	handle func(Handler, context.Context, *Request) (*Response, error),
) (*Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n := t.network
	verdict := n.intercept(t.id, peer, request)
	n.mu.Lock()
	if t.closed {
		n.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, t.closedError())
	}
	c := &memoryCall{
		transport: t,
		peer:      peer,
		out:       n.link(t.id, peer),
		back:      n.link(peer, t.id),
		handle:    func(ctx context.Context, h Handler) (any, error) { return handle(h, ctx, request) },
		result:    make(chan callResult, 1),
	}
	p := parcel{link: c.out, message: request, size: bulkSize(request), owner: c}
	second := p
	second.copied = true
	twice := n.duplicates(c.out, verdict, request)
	n.depart(&p, verdict)
	if twice {
		n.depart(&second, verdict)
	}
	n.mu.Unlock()

	var r callResult
	select {
	case r = <-c.result:
	case <-ctx.Done():
		r = c.abandon(ctx.Err())
	case <-t.ctx.Done():
		r = c.abandon(t.closedError())
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.message.(*Response), nil
}

// abandon ends the call with err, unless its result came at the same time.
func (c *memoryCall) abandon(err error) callResult {
	n := c.transport.network
	n.mu.Lock()
	defer n.mu.Unlock()
	n.withdraw(c.out, c)
	c.finish(nil, err)
	return <-c.result
}

// finish ends the call; the first result counts.
func (c *memoryCall) finish(message any, err error) {
	select {
	case c.result <- callResult{message, err}:
	default:
	}
}

func (c *memoryCall) arrive(p *parcel) {
	if p.answer {
		if err, failed := p.message.(*RemoteError); failed {
			c.finish(nil, err)
		} else {
			c.finish(p.message, nil)
		}
		return
	}
	n := c.transport.network
	server := n.serving[c.peer]
	switch {
	case server == nil && n.isCut(c.back):
		// Nobody can tell the caller.
	case server == nil && c.handed:
		c.finish(nil, resetError(c.peer))
	case server == nil:
		c.refused = true
		c.finish(nil, unreachableError(c.peer))
	case !c.refused:
		c.handed = true
		if !p.copied {
			server.calls[c] = struct{}{}
		}
		server.running.Add(1)
		go c.serve(server, p.copied)
	}
}

// lose does nothing: that nothing comes back is all that the caller notices.
func (c *memoryCall) lose(*parcel, bool) {}

// serve runs the handler and sends its answer back.
func (c *memoryCall) serve(server *memoryTransport, copied bool) {
	defer server.running.Done()
	response, err := c.handle(server.ctx, server.handler)
	if copied {
		return
	}
	n := c.transport.network
	message := answer(c.peer, response, err)
	verdict := n.intercept(c.peer, c.transport.id, message)
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(server.calls, c)
	if !server.closed {
		n.depart(&parcel{link: c.back, message: message, answer: true, owner: c}, verdict)
	}
}

// maxStreamBytes bounds what an append stream takes before it is handed over.
const maxStreamBytes = 32 << 20

// memoryStream is an append stream. It has no goroutine while nothing moves:
// each direction starts one when a message has arrived, which ends when there
// is no further one to deliver.
type memoryStream struct {
	transport  *memoryTransport // the sender's
	peer       NodeID
	out, back  *memoryLink
	onResponse func(*AppendResponse)
	onClosed   func(error)

	// Guarded by the network's lock.
	server    *memoryTransport // the peer's, once connected
	requests  requestLane
	responses responseLane
	bytes     int   // of requests that were taken, and neither handed over nor lost
	closed    bool  // by Close: nothing is called any more
	cause     error // why the stream is broken; onClosed is still to be called if not told
	told      bool  // onClosed is being called or was
}

// The two directions of a stream own its parcels.
type (
	requestLane struct {
		*memoryStream
		lane
	}
	responseLane struct {
		*memoryStream
		lane
	}
)

// lane keeps the parcels of one direction in order: one that arrived waits for
// those before it, as bytes of a connection do.
type lane struct {
	parcels []*parcel
	running bool // a goroutine is delivering
}

// ready drops what was lost from the front, and returns the first parcel if it
// has arrived, otherwise nil.
func (l *lane) ready() *parcel {
	for len(l.parcels) > 0 && l.parcels[0].settled && !l.parcels[0].arrived {
		l.pop()
	}
	if len(l.parcels) == 0 || !l.parcels[0].arrived {
		return nil
	}
	return l.parcels[0]
}

func (l *lane) pop() {
	l.parcels[0] = nil
	l.parcels = l.parcels[1:]
}

func (t *memoryTransport) OpenAppendStream(peer NodeID, onResponse func(*AppendResponse), onClosed func(error)) AppendStream {
	n := t.network
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &memoryStream{
		transport:  t,
		peer:       peer,
		out:        n.link(t.id, peer),
		back:       n.link(peer, t.id),
		onResponse: onResponse,
		onClosed:   onClosed,
	}
	s.requests.memoryStream = s
	s.responses.memoryStream = s
	if t.closed {
		s.closed = true // onClosed is not called: the node called Close, which promised that
		return s
	}
	t.streams[s] = struct{}{}
	// A link that is cut does not tell whether the peer is there.
	if !n.isCut(s.out) && !n.isCut(s.back) {
		s.connect()
	}
	return s
}

// connect binds the stream to the peer's present transport: a stream does not
// outlive it.
func (s *memoryStream) connect() {
	s.server = s.transport.network.serving[s.peer]
	if s.server == nil {
		s.fail(unreachableError(s.peer))
		return
	}
	s.server.inbound[s] = struct{}{}
}

func (s *memoryStream) ended() bool { return s.closed || s.cause != nil }

func (s *memoryStream) Send(request *AppendEntries) bool {
	n := s.transport.network
	size := bulkSize(request)
	var verdict Verdict
	if n.hook.Load() != nil {
		n.mu.Lock()
		fits := s.fits(size)
		n.mu.Unlock()
		if !fits {
			return false // and not shown to the hook
		}
		verdict = n.intercept(s.transport.id, s.peer, request)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !s.fits(size) {
		return false
	}
	twice := n.duplicates(s.out, verdict, request)
	s.send(request, size, false, verdict)
	if twice {
		s.send(request, size, true, verdict)
	}
	return true
}

func (s *memoryStream) fits(size int) bool {
	return !s.ended() && (s.bytes == 0 || s.bytes+size <= maxStreamBytes)
}

func (s *memoryStream) send(request *AppendEntries, size int, copied bool, verdict Verdict) {
	p := &parcel{link: s.out, message: request, size: size, copied: copied, owner: &s.requests}
	s.bytes += size
	s.requests.parcels = append(s.requests.parcels, p)
	s.transport.network.depart(p, verdict)
}

// Close ends the stream.
func (s *memoryStream) Close() {
	s.transport.network.mu.Lock()
	defer s.transport.network.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.end()
	}
}

// fail breaks the stream: what has arrived is still delivered, then onClosed.
func (s *memoryStream) fail(cause error) {
	if s.ended() {
		return
	}
	s.cause = cause
	s.end()
	s.responses.start()
}

// end takes the stream out of everything that knows it. Requests that have left
// go on without it.
func (s *memoryStream) end() {
	n := s.transport.network
	delete(s.transport.streams, s)
	if s.server != nil {
		delete(s.server.inbound, s)
	}
	n.withdraw(s.out, &s.requests)
}

func (s *memoryStream) cutError(l *memoryLink) error {
	return fmt.Errorf("raft: append stream to %s: the link from %s to %s is cut", s.peer, l.name.from, l.name.to)
}

func (r *requestLane) arrive(p *parcel) {
	p.settled, p.arrived = true, true
	r.start()
}

func (r *requestLane) lose(p *parcel, cut bool) {
	p.settled = true
	r.bytes -= p.size
	if cut {
		r.fail(r.cutError(p.link))
	}
	r.start() // those behind it need not wait for it any more
}

func (r *requestLane) start() {
	if !r.running && r.ready() != nil {
		r.running = true
		go r.deliver()
	}
}

// deliver hands requests to the peer's handler. Its goroutine counts as the
// peer's while it does that.
func (r *requestLane) deliver() {
	n := r.transport.network
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := r.ready(); p != nil; p = r.ready() {
		r.pop()
		r.bytes -= p.size
		if r.server == nil && !r.ended() {
			r.connect()
		}
		server := r.server
		if server == nil || server.closed {
			r.fail(resetError(r.peer))
			continue
		}
		server.running.Add(1)
		n.mu.Unlock()
		server.handler.BeginAppend(p.message.(*AppendEntries), func(response *AppendResponse, err error) {
			r.respond(p, response, err)
		})
		server.running.Done()
		n.mu.Lock()
	}
	r.running = false
}

// respond sends the answer to the request p back.
func (s *memoryStream) respond(p *parcel, response *AppendResponse, err error) {
	if p.copied {
		return
	}
	message := answer(s.peer, response, err)
	n := s.transport.network
	verdict := n.intercept(s.peer, s.transport.id, message)
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.answered || s.ended() || s.server.closed {
		return
	}
	p.answered = true
	back := &parcel{link: s.back, message: message, owner: &s.responses}
	s.responses.parcels = append(s.responses.parcels, back)
	n.depart(back, verdict)
}

func (r *responseLane) arrive(p *parcel) {
	p.settled, p.arrived = true, true
	r.start()
}

func (r *responseLane) lose(p *parcel, cut bool) {
	p.settled = true
	if cut {
		r.fail(r.cutError(p.link))
	}
	r.start()
}

// start has a goroutine call back if there is something to tell. A stream that
// has ended tells no more than its end, which starts with fail; so a transport
// that has closed starts nothing.
func (r *responseLane) start() {
	if r.running || r.closed || r.told {
		return
	}
	if r.cause != nil || r.ready() != nil {
		r.running = true
		r.transport.running.Add(1)
		go r.deliver()
	}
}

// deliver calls onResponse for what has arrived, and onClosed if the stream is
// broken.
func (r *responseLane) deliver() {
	defer r.transport.running.Done()
	n := r.transport.network
	n.mu.Lock()
	defer n.mu.Unlock()
	for !r.closed && !r.told {
		p := r.ready()
		if p == nil && r.cause == nil {
			break
		}
		if p == nil {
			r.told = true
			r.callBack(func() { r.onClosed(r.cause) })
			continue
		}
		r.pop()
		if err, failed := p.message.(*RemoteError); failed {
			// A stream has no other way to pass on a peer's error than to end.
			r.parcels = nil
			r.fail(err)
			continue
		}
		r.callBack(func() { r.onResponse(p.message.(*AppendResponse)) })
	}
	r.running = false
}

// callBack calls f, which is code of others, without the lock.
func (s *memoryStream) callBack(f func()) {
	s.transport.network.mu.Unlock()
	defer s.transport.network.mu.Lock()
	f()
}
