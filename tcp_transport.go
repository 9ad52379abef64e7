package raft

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// TCPTransport is the [Transport] between processes. It keeps two connections
// to each peer that it calls: one for small and urgent requests, one for log
// entries and snapshots, so that a heartbeat never waits behind these. It also
// implements [AppendStreamer].
//
// A connection is made when it is first needed, and again after it broke, with
// an exponential back-off between failures of at most half the timeout and at
// most 250 ms. While it lasts calls fail at once, with [ErrUnreachable]. A
// side that has heard nothing for one and a half of its timeouts takes the
// connection for broken. The two sides tell each other their timeouts, which may
// differ, and each sends something at least every half of the shorter one; in
// this a timeout below 50 ms counts as 50 ms.
//
// Each connection starts with a handshake. It refuses peers of another cluster,
// connections meant for another node, and other versions of the protocol, with a
// reason that both sides log, at most one line a minute for each peer.
//
// Nothing is encrypted and nobody is authenticated without [WithTLS].
type TCPTransport struct {
	// Immutable after NewTCPTransport.
	timeout time.Duration
	options tcpOptions
	budget  *wire.Budget
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc

	service atomic.Pointer[tcpService] // nil before Serve
	stats   tcpCounters
	reports reportLimiter
	tasks   sync.WaitGroup // every goroutine of the transport, but for handlers, which their connection waits for

	mu        sync.Mutex // guards what follows; never held across I/O
	closed    bool
	listener  net.Listener
	addresses map[NodeID]string
	links     map[linkKey]*tcpLink
	sockets   map[net.Conn]bool // open connections, true for inbound ones
	inbound   int
}

// tcpService is what Serve was told.
type tcpService struct {
	local   Local
	handler Handler
}

type linkKey struct {
	peer    NodeID
	purpose uint64
}

const (
	defaultTCPTimeout     = time.Second
	defaultReceiveBudget  = 256 << 20
	defaultSendQueue      = 32 << 20
	defaultMaxConnections = 1024

	firstRetry = 20 * time.Millisecond
	lastRetry  = 250 * time.Millisecond
)

var (
	errTransportClosed = errors.New("this node's transport is closed")
	errNoTLSConfig     = errors.New("WithTLS was given no config: give it one, or leave WithTLS out if connections may be plain text")
)

// TCPOption is an option of [NewTCPTransport].
type TCPOption func(*tcpOptions)

type tcpOptions struct {
	tls            *tls.Config
	anyName        bool  // in certificates
	misuse         error // of an option: the transport does nothing else but return it
	listener       net.Listener
	dial           func(ctx context.Context, address string) (net.Conn, error)
	receiveBudget  int
	sendQueue      int
	maxConnections int
}

// WithTLS encrypts all connections, those that are accepted and those that are
// made. The one config is used for both: Certificates for this node, RootCAs to
// check the peers that it dials, ClientAuth and ClientCAs to check those that
// dial it. Set ClientAuth to tls.RequireAndVerifyClientCert, else anyone may
// connect.
//
// With that ClientAuth each certificate must be for the node that shows it, so that no
// member can pose as another: the id of the node is among the DNS names of the
// certificate, letter by letter, or is its common name if it has no DNS names. The
// side that dials expects the id of the node that it looks for, in place of the host in
// its address, and the other side the id by which the peer calls itself.
// [WithoutCertificateNames] turns that off. A ServerName in the config is expected beside
// it. With any other ClientAuth the host of the peer's address, or ServerName, is expected
// in its certificate.
//
// A node with TLS and one without refuse each other. With a nil config Serve and all
// calls fail: who asked for TLS must not get plain text.
func WithTLS(config *tls.Config) TCPOption {
	return func(o *tcpOptions) {
		if o.tls = config; config == nil {
			o.misuse = errNoTLSConfig
		}
	}
}

// WithListener makes Serve accept from listener in place of listening on the
// node's address. The transport owns the listener and closes it. With WithTLS
// the listener is a plain one: the transport does the TLS.
func WithListener(listener net.Listener) TCPOption {
	return func(o *tcpOptions) { o.listener = listener }
}

// WithDialer makes the transport connect to peers with dial, which must return
// when its ctx ends. With WithTLS it returns plain connections: the transport
// does the TLS.
func WithDialer(dial func(ctx context.Context, address string) (net.Conn, error)) TCPOption {
	return func(o *tcpOptions) { o.dial = dial }
}

// WithReceiveBudget bounds the bytes of requests that have been received and not
// answered yet, over all connections. When it is used up, connections for log
// entries and snapshots are read no further, and break if that lasts longer than
// the timeout; small and urgent requests go on. One request is always taken,
// however large. Default 256 MiB.
func WithReceiveBudget(bytes int) TCPOption {
	return func(o *tcpOptions) { o.receiveBudget = bytes }
}

// WithSendQueue bounds the bytes that wait to be written on one connection or
// append stream. When it is full, calls fail with [ErrUnreachable] and Send
// returns false. One message is always taken, however large. Default 32 MiB.
func WithSendQueue(bytes int) TCPOption {
	return func(o *tcpOptions) { o.sendQueue = bytes }
}

// WithMaxConnections bounds the connections that peers may have to this node at
// once. A peer uses two; more are closed as they come in. Default 1024.
func WithMaxConnections(connections int) TCPOption {
	return func(o *tcpOptions) { o.maxConnections = connections }
}

// NewTCPTransport returns a transport that knows the addresses of peers, each
// "host:port"; UpdatePeers replaces them later. It does nothing before Serve.
//
// timeout bounds connecting with handshake, the time in which a peer takes 64 KiB
// of what is written to it, or all if that is less, and the silence on a
// connection (see [TCPTransport]). It also bounds the wait for the
// response to a vote request, a heartbeat and a TimeoutNow, and for those calls
// that may have to wait for a disk or for a majority only where their ctx has no
// deadline. Appends on a stream are answered when they are durable, without a
// bound. 0 means one second. A quarter to a whole election timeout is right.
func NewTCPTransport(peers map[NodeID]string, timeout time.Duration, options ...TCPOption) *TCPTransport {
	if timeout <= 0 {
		timeout = defaultTCPTimeout
	}
	t := &TCPTransport{
		timeout: timeout,
		options: tcpOptions{
			receiveBudget:  defaultReceiveBudget,
			sendQueue:      defaultSendQueue,
			maxConnections: defaultMaxConnections,
			dial: func(ctx context.Context, address string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			},
		},
		addresses: maps.Clone(peers),
		links:     make(map[linkKey]*tcpLink),
		sockets:   make(map[net.Conn]bool),
	}
	for _, option := range options {
		option(&t.options)
	}
	t.budget = wire.NewBudget(t.options.receiveBudget)
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Serve listens on local.Address, unless the transport was made with
// [WithListener], and returns. It may be called once. Its error says what to do
// about the address.
func (t *TCPTransport) Serve(local Local, handler Handler) error {
	if local.Logger == nil {
		local.Logger = zap.NewNop()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return fmt.Errorf("raft: cannot serve: %w", errTransportClosed)
	}
	if t.options.misuse != nil {
		return fmt.Errorf("raft: cannot serve: %w", t.options.misuse)
	}
	if t.listener != nil {
		return errors.New("raft: Serve was called before: a transport serves one node, once")
	}
	listener := t.options.listener
	if listener == nil {
		var err error
		if listener, err = net.Listen("tcp", local.Address); err != nil {
			return fmt.Errorf("raft: cannot listen on %q, the address of node %s: %w; "+
				"check that it is an address of this machine and that no other program uses the port, "+
				"or give the transport a listener of your own with WithListener", local.Address, local.ID, err)
		}
	}
	t.listener = listener
	service := &tcpService{local, handler}
	t.service.Store(service)
	t.tasks.Go(func() { t.accept(listener, service) })
	return nil
}

// Addr returns the address that the transport listens on, nil before Serve.
func (t *TCPTransport) Addr() net.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listener == nil {
		return nil
	}
	return t.listener.Addr()
}

// UpdatePeers replaces the addresses of peers. Connections to a peer whose
// address changed, or that has none any more, are closed. It does not block.
func (t *TCPTransport) UpdatePeers(peers map[NodeID]string) {
	t.mu.Lock()
	t.addresses = maps.Clone(peers)
	var stale []*tcpLink
	for key, link := range t.links {
		if t.addresses[key.peer] != link.address {
			stale = append(stale, link)
			delete(t.links, key)
		}
	}
	t.mu.Unlock()
	for _, link := range stale {
		link.close(errors.New("the peer's address has changed"))
	}
}

// Close implements [Transport]. It waits for handlers that are running; their
// ctx has ended. It may be called more than once.
func (t *TCPTransport) Close() error {
	t.mu.Lock()
	listener := t.listener
	if listener == nil {
		listener = t.options.listener // owned even if Serve was never called
	}
	first := !t.closed
	t.closed = true
	t.cancel()
	for socket := range t.sockets {
		socket.Close()
	}
	t.mu.Unlock()

	var err error
	if first && listener != nil {
		err = listener.Close()
	}
	t.tasks.Wait()
	return err
}

// CallVote implements [Transport].
func (t *TCPTransport) CallVote(ctx context.Context, peer NodeID, request *VoteRequest) (*VoteResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return callTCP[VoteResponse](t, ctx, peer, wire.PurposeControl, kindVote, request, 0)
}

// CallHeartbeat implements [Transport].
func (t *TCPTransport) CallHeartbeat(ctx context.Context, peer NodeID, request *Heartbeat) (*HeartbeatResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return callTCP[HeartbeatResponse](t, ctx, peer, wire.PurposeControl, kindHeartbeat, request, 0)
}

// CallTimeoutNow implements [Transport].
func (t *TCPTransport) CallTimeoutNow(ctx context.Context, peer NodeID, request *TimeoutNow) (*TimeoutNowResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return callTCP[TimeoutNowResponse](t, ctx, peer, wire.PurposeControl, kindTimeoutNow, request, 0)
}

// CallAppend implements [Transport].
func (t *TCPTransport) CallAppend(ctx context.Context, peer NodeID, request *AppendEntries) (*AppendResponse, error) {
	if size := request.Entries.encodedSize(); size > maxStreamed {
		return nil, fmt.Errorf("%w: entries of %d bytes for %s do not fit into a frame, which takes %d", ErrTooLarge, size, peer, maxStreamed)
	}
	ctx, cancel := t.withDeadline(ctx)
	defer cancel()
	return callTCP[AppendResponse](t, ctx, peer, wire.PurposeBulk, kindAppend, request, request.Entries.Size())
}

// CallSnapshot implements [Transport].
func (t *TCPTransport) CallSnapshot(ctx context.Context, peer NodeID, request *InstallSnapshot) (*SnapshotResponse, error) {
	ctx, cancel := t.withDeadline(ctx)
	defer cancel()
	return callTCP[SnapshotResponse](t, ctx, peer, wire.PurposeBulk, kindSnapshot, request, len(request.Data))
}

// CallForward implements [Transport]. A large request takes the connection for
// bulk, so that it does not delay votes.
func (t *TCPTransport) CallForward(ctx context.Context, peer NodeID, request *ForwardRequest) (*ForwardResponse, error) {
	ctx, cancel := t.withDeadline(ctx)
	defer cancel()
	purpose := uint64(wire.PurposeControl)
	if len(request.Payload) > smallFrame/2 {
		purpose = wire.PurposeBulk
	}
	return callTCP[ForwardResponse](t, ctx, peer, purpose, kindForward, request, len(request.Payload))
}

// withDeadline bounds a ctx that has no deadline of its own.
func (t *TCPTransport) withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, t.timeout)
}

// callTCP makes one call; payload is the size of what is large in the request.
func callTCP[R any, P interface {
	*R
	message
}](t *TCPTransport, ctx context.Context, peer NodeID, purpose, kind uint64, request message, payload int) (*R, error) {
	link, err := t.link(peer, purpose)
	if err != nil {
		return nil, err
	}
	conn, err := link.connection(ctx)
	if err != nil {
		return nil, unreachable(peer, link.address, err)
	}
	response := new(R)
	if err := conn.call(ctx, kind, request, P(response), payload); err != nil {
		return nil, err
	}
	return response, nil
}

// unreachable is the error of a request that was not handed over. A peer that
// refused the handshake was reached, so the words are others.
func unreachable(peer NodeID, address string, cause error) error {
	text := fmt.Sprintf("%v: %s at %s: %s", ErrUnreachable, peer, address, wordsOf(cause))
	if refusal, ok := refusalIn(cause); ok {
		text = fmt.Sprintf("raft: %s at %s refuses the connection: %s", peer, address, refusal.words())
	}
	return &notHandedOver{lostError{text, cause}}
}

// notHandedOver matches ErrUnreachable, and its cause too unless that says
// something else about how a command ended.
type notHandedOver struct{ lostError }

func (e *notHandedOver) Is(target error) bool {
	return target == ErrUnreachable || target == ErrNotAccepted
}

// start runs task on a goroutine that Close waits for, unless the transport is
// closed.
func (t *TCPTransport) start(task func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.tasks.Go(task)
	return true
}

// adopt makes Close close the socket. It refuses when the transport is closed
// or has too many inbound connections.
func (t *TCPTransport) adopt(socket net.Conn, inbound bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errTransportClosed
	}
	if inbound {
		if t.inbound >= t.options.maxConnections {
			return fmt.Errorf("this node has %d inbound connections already, its limit (WithMaxConnections)", t.inbound)
		}
		t.inbound++
	}
	t.sockets[socket] = inbound
	return nil
}

// discard closes a socket, adopted or not.
func (t *TCPTransport) discard(socket net.Conn) {
	socket.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sockets[socket] {
		t.inbound--
	}
	delete(t.sockets, socket)
}

// accept is the goroutine of the listener. It survives every error but that of
// a closed transport: running out of file descriptors passes.
func (t *TCPTransport) accept(listener net.Listener, service *tcpService) {
	pause := 5 * time.Millisecond
	for {
		socket, err := listener.Accept()
		switch {
		case t.ctx.Err() != nil:
			if err == nil {
				socket.Close()
			}
			return
		case err != nil:
			t.report("", "cannot accept connections, will try again", zap.Stringer("address", listener.Addr()), zap.Error(err))
			select {
			case <-time.After(pause):
			case <-t.ctx.Done():
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		if err := t.adopt(socket, true); err != nil {
			t.stats.handshakesRefused.Add(1)
			t.report(remoteHost(socket), "refused a connection", zap.Stringer("remote", socket.RemoteAddr()), zap.Error(err))
			socket.Close()
			continue
		}
		if !t.start(func() { t.serve(socket, service) }) {
			t.discard(socket)
		}
	}
}

// serve is the goroutine of one inbound connection, from its handshake on.
func (t *TCPTransport) serve(socket net.Conn, service *tcpService) {
	defer t.discard(socket)
	secured, reader, hello, err := t.receiveHello(socket, service)
	if err != nil {
		if t.ctx.Err() != nil || errors.Is(err, io.EOF) { // a port scan, a health check
			return
		}
		t.stats.handshakesRefused.Add(1)
		peer := remoteHost(socket)
		if hello != nil {
			peer = hello.From
		}
		t.report(peer, "refused a connection", zap.String("peer", peer), zap.Stringer("remote", socket.RemoteAddr()), zap.Error(err))
		return
	}
	t.stats.accepted.Add(1)
	conn := newTCPConn(t, secured, socket, reader, hello.Purpose, hello.Timeout)
	conn.peer, conn.address = NodeID(hello.From), socket.RemoteAddr().String()
	service.local.Logger.Debug("accepted a connection", zap.String("peer", hello.From), zap.Stringer("remote", socket.RemoteAddr()))
	err = conn.serve(service.handler)
	t.reportBroken(conn, err)
}

// receiveHello does the accepting side's part of the handshake. The hello is
// returned with an error too, if there was one.
func (t *TCPTransport) receiveHello(socket net.Conn, service *tcpService) (net.Conn, *bufio.Reader, *wire.Hello, error) {
	if err := socket.SetDeadline(time.Now().Add(t.timeout)); err != nil {
		return nil, nil, nil, err
	}
	secured := socket
	if t.options.tls != nil {
		session := tls.Server(socket, t.options.tls)
		err := session.HandshakeContext(t.ctx)
		var notTLS tls.RecordHeaderError
		if errors.As(err, &notTLS) {
			err = errors.New("peer does not speak TLS, this node does")
			refuse(socket, &wire.Refusal{Code: uint64(CodeWrongNode), Reason: "this node speaks TLS, the peer does not"})
		}
		if err != nil {
			linger(socket) // TLS has told the peer what it has against it
			return nil, nil, nil, fmt.Errorf("handshake: %w", brokenOffTLS(err))
		}
		secured = session
	}
	reader := bufio.NewReaderSize(secured, readBuffer)
	hello, err := wire.ReadHello(reader)
	if err != nil {
		if errors.Is(err, wire.ErrMalformed) {
			t.stats.malformedFrames.Add(1)
		}
		if !errors.Is(err, io.EOF) {
			_ = socket.SetWriteDeadline(time.Now().Add(t.timeout)) // the one from before may have passed
			refuse(secured, &wire.Refusal{Code: uint64(CodeInvalidMessage), Reason: err.Error()})
		}
		return nil, nil, nil, fmt.Errorf("handshake: %w", err)
	}
	version, err := checkHello(hello, &service.local)
	if session, ok := secured.(*tls.Conn); ok && t.options.checksNames() {
		if wrong := checkCertificate(NodeID(hello.From), session.ConnectionState().PeerCertificates); wrong != nil {
			err = wrong // to somebody else nothing is explained
		}
	}
	if err != nil {
		refuse(secured, &wire.Refusal{Code: uint64(CodeOf(err)), Reason: err.Error()})
		return nil, nil, hello, err
	}
	welcome := wire.Welcome{Version: version, Incarnation: service.local.Incarnation, Timeout: uint64(t.timeout.Microseconds())}
	if _, err := secured.Write(welcome.Append(nil)); err != nil {
		return nil, nil, hello, err
	}
	return secured, reader, hello, nil
}

// checkHello decides whether a peer may connect, and in which version. A side
// that has no fingerprint yet is about to join: the Node judges its requests.
func checkHello(hello *wire.Hello, local *Local) (version uint64, err error) {
	version = min(hello.MaxVersion, wire.MaxVersion)
	var none [16]byte
	switch {
	case version < max(hello.MinVersion, wire.MinVersion):
		return 0, fmt.Errorf("%w: peer %s speaks versions %d to %d of the protocol, node %s speaks %d to %d: run releases that overlap",
			ErrUnsupported, hello.From, hello.MinVersion, hello.MaxVersion, local.ID, wire.MinVersion, wire.MaxVersion)
	case NodeID(hello.To) != local.ID:
		return 0, fmt.Errorf("%w: peer %s looks for node %s, and this is %s: correct the address of %s in its configuration",
			ErrWrongNode, hello.From, hello.To, local.ID, hello.To)
	case hello.From == "" || NodeID(hello.From) == local.ID:
		return 0, fmt.Errorf("%w: the peer calls itself %q, and this is %s: every node needs a name of its own",
			ErrWrongNode, hello.From, local.ID)
	case hello.Fingerprint != local.Fingerprint && hello.Fingerprint != none && local.Fingerprint != none:
		return 0, fmt.Errorf("%w: peer %s has fingerprint %x, node %s has %x: they were founded with other names, Peers or addresses, or one of them was recovered",
			ErrWrongCluster, hello.From, hello.Fingerprint, local.ID, local.Fingerprint)
	case hello.Purpose != wire.PurposeControl && hello.Purpose != wire.PurposeBulk:
		return 0, fmt.Errorf("%w: peer %s wants a connection for purpose %d, which node %s does not know",
			ErrUnsupported, hello.From, hello.Purpose, local.ID)
	}
	return version, nil
}

// refuse answers a handshake with a refusal.
func refuse(conn net.Conn, refusal *wire.Refusal) {
	if _, err := conn.Write(refusal.Append(nil)); err == nil {
		linger(conn)
	}
}

// brokenOffTLS says what an alert of the peer means.
func brokenOffTLS(err error) error {
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		return fmt.Errorf("the peer broke off TLS, look at the certificates of both: %w", err)
	}
	return err
}

// linger waits a moment for the peer to close: bytes of its that are never read
// would make the system throw away what was written last. The connection has a
// deadline.
func linger(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	io.CopyN(io.Discard, conn, 16<<10)
}

// dial makes one connection to a peer. It returns when ctx ends.
func (t *TCPTransport) dial(ctx context.Context, peer NodeID, address string, purpose uint64) (*tcpConn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	socket, err := t.options.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if err := t.adopt(socket, false); err != nil {
		socket.Close()
		return nil, err
	}
	interrupted := context.AfterFunc(ctx, func() { socket.Close() })
	secured, reader, welcome, err := t.sendHello(ctx, socket, peer, address, purpose)
	if !interrupted() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		t.discard(socket)
		if errors.Is(err, wire.ErrMalformed) {
			t.stats.malformedFrames.Add(1)
		}
		if ctx.Err() == context.DeadlineExceeded || errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("handshake was not answered within %v: %w", t.timeout, err)
		}
		var refusal *wire.Refusal
		if errors.As(err, &refusal) {
			t.stats.handshakesRefused.Add(1)
			err = &RemoteError{Peer: peer, Code: codeOnWire(refusal.Code), Message: refusal.Reason}
		}
		return nil, err
	}
	conn := newTCPConn(t, secured, socket, reader, purpose, welcome.Timeout)
	conn.peer, conn.address = peer, address
	return conn, nil
}

// sendHello does the dialing side's part of the handshake.
func (t *TCPTransport) sendHello(ctx context.Context, socket net.Conn, peer NodeID, address string, purpose uint64) (net.Conn, *bufio.Reader, *wire.Welcome, error) {
	deadline, _ := ctx.Deadline()
	if err := socket.SetDeadline(deadline); err != nil {
		return nil, nil, nil, err
	}
	secured := socket
	if t.options.tls != nil {
		session := tls.Client(socket, t.options.dialTLS(peer, address))
		err := session.HandshakeContext(ctx)
		var notTLS tls.RecordHeaderError
		if errors.As(err, &notTLS) {
			err = errors.New("this node speaks TLS, the peer does not")
		}
		if err != nil {
			return nil, nil, nil, fmt.Errorf("handshake: %w", brokenOffTLS(err))
		}
		secured = session
	}
	local := &t.service.Load().local
	hello := wire.Hello{
		MinVersion: wire.MinVersion, MaxVersion: wire.MaxVersion,
		Fingerprint: local.Fingerprint, From: string(local.ID), To: string(peer),
		Incarnation: local.Incarnation, Purpose: purpose, Timeout: uint64(t.timeout.Microseconds()),
	}
	if _, err := secured.Write(hello.Append(nil)); err != nil {
		return nil, nil, nil, fmt.Errorf("handshake: %w", err)
	}
	reader := bufio.NewReaderSize(secured, readBuffer)
	welcome, err := wire.ReadWelcome(reader)
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil, nil, errors.New("handshake: the peer closed the connection without a word")
	case err != nil:
		return nil, nil, nil, fmt.Errorf("handshake: %w", brokenOffTLS(err)) // TLS 1.3 judges this side's certificate only now
	case welcome.Version < wire.MinVersion || welcome.Version > wire.MaxVersion:
		return nil, nil, nil, fmt.Errorf("handshake: the peer chose version %d of the protocol, which this node does not speak", welcome.Version)
	}
	return secured, reader, welcome, nil
}

// link returns the link to a peer for one purpose.
func (t *TCPTransport) link(peer NodeID, purpose uint64) (*tcpLink, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := linkKey{peer, purpose}
	if link := t.links[key]; link != nil && !t.closed {
		return link, nil
	}
	switch address, known := t.addresses[peer]; {
	case t.closed:
		return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, peer, errTransportClosed)
	case t.options.misuse != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, peer, t.options.misuse)
	case t.service.Load() == nil:
		return nil, fmt.Errorf("%w: %s: this node's transport does not serve yet", ErrUnreachable, peer)
	case !known:
		return nil, fmt.Errorf("%w: %s: its address is not known; add it to Config.Peers or as a member", ErrUnreachable, peer)
	default:
		link := &tcpLink{transport: t, peer: peer, address: address, purpose: purpose}
		link.ctx, link.cancel = context.WithCancel(t.ctx)
		t.links[key] = link
		return link, nil
	}
}

// tcpLink keeps one outbound connection: it makes it when it is needed, and
// decides when to try again.
type tcpLink struct {
	transport *TCPTransport
	peer      NodeID
	address   string
	purpose   uint64
	ctx       context.Context // ends when the link is closed
	cancel    context.CancelFunc

	mu      sync.Mutex    // guards what follows; never held across I/O
	conn    *tcpConn      // nil: none
	dialing chan struct{} // closed when the attempt under way has ended; nil: none is
	failure error         // why there is no connection
	pause   time.Duration // before the attempt after the next failure
	retryAt time.Time     // no attempt before it
	closed  bool
}

// connection returns the connection, waiting for it until ctx ends. It starts
// at most one attempt, and none during a back-off.
func (l *tcpLink) connection(ctx context.Context) (*tcpConn, error) {
	l.mu.Lock()
	if conn := l.conn; conn != nil {
		l.mu.Unlock()
		return conn, nil
	}
	if l.dialing == nil {
		if l.closed || time.Now().Before(l.retryAt) {
			defer l.mu.Unlock()
			return nil, l.failure
		}
		dialing := make(chan struct{})
		if !l.transport.start(func() { l.run(dialing) }) {
			l.mu.Unlock()
			return nil, errTransportClosed
		}
		l.dialing = dialing
	}
	dialing := l.dialing
	l.mu.Unlock()

	select {
	case <-dialing:
	case <-ctx.Done():
		return nil, fmt.Errorf("not connected yet: %w", ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return nil, l.failure
	}
	return l.conn, nil
}

// run is the goroutine of one connection, from dialing to its end.
func (l *tcpLink) run(dialing chan struct{}) {
	t := l.transport
	logger := t.service.Load().local.Logger
	conn, err := t.dial(l.ctx, l.peer, l.address, l.purpose)

	l.mu.Lock()
	l.dialing = nil
	if err == nil && l.closed {
		t.discard(conn.raw)
		err = l.failure
	}
	if err != nil {
		l.failed(err)
	} else {
		l.conn = conn
	}
	l.mu.Unlock()
	close(dialing)
	if err != nil {
		t.stats.dialsFailed.Add(1)
		if l.ctx.Err() == nil {
			t.report(string(l.peer), "cannot connect to a peer", zap.String("peer", string(l.peer)), zap.String("address", l.address), zap.Error(err))
		}
		return
	}
	t.stats.dialed.Add(1)
	logger.Debug("connected to a peer", zap.String("peer", string(l.peer)), zap.String("address", l.address))

	err = conn.receiveResponses()

	l.mu.Lock()
	l.conn = nil
	if l.failed(err); conn.heard.Load() {
		l.pause, l.retryAt = 0, time.Time{}
	}
	l.mu.Unlock()
	conn.end()
	t.discard(conn.raw)
	if l.ctx.Err() == nil {
		t.reportBroken(conn, err)
	}
}

// failed notes why there is no connection, and to try again later and later.
// l.mu is held.
func (l *tcpLink) failed(err error) {
	if !l.closed {
		l.failure = err
	}
	l.pause = min(max(2*l.pause, firstRetry), l.transport.timeout/2, lastRetry)
	l.retryAt = time.Now().Add(l.pause)
}

// close breaks the connection and the attempt under way, without waiting.
func (l *tcpLink) close(reason error) {
	l.mu.Lock()
	l.closed, l.failure = true, reason
	conn := l.conn
	l.mu.Unlock()
	l.cancel()
	if conn != nil {
		conn.fail(reason)
	}
}

// TCPStats are counters of a [TCPTransport] since it was made, and its present
// connections.
type TCPStats struct {
	Accepted          uint64 // connections of peers that passed the handshake
	Dialed            uint64 // connections to peers that passed the handshake
	DialsFailed       uint64 // attempts that did not get so far
	HandshakesRefused uint64 // by this node or by a peer
	MalformedFrames   uint64 // that made this node close a connection
	Overloaded        uint64 // requests refused because too many of one connection were running
	FramesSent        uint64
	FramesReceived    uint64
	BytesSent         uint64 // in frames
	BytesReceived     uint64 // in frames
	Connections       int    // open now, both ways
	ReceivedBytes     int    // of the receive budget, taken now
}

type tcpCounters struct {
	accepted, dialed, dialsFailed, handshakesRefused, malformedFrames, overloaded atomic.Uint64
	framesSent, framesReceived, bytesSent, bytesReceived                          atomic.Uint64
}

// Stats returns a copy of the counters.
func (t *TCPTransport) Stats() TCPStats {
	t.mu.Lock()
	connections := len(t.sockets)
	t.mu.Unlock()
	return TCPStats{
		Accepted:          t.stats.accepted.Load(),
		Dialed:            t.stats.dialed.Load(),
		DialsFailed:       t.stats.dialsFailed.Load(),
		HandshakesRefused: t.stats.handshakesRefused.Load(),
		MalformedFrames:   t.stats.malformedFrames.Load(),
		Overloaded:        t.stats.overloaded.Load(),
		FramesSent:        t.stats.framesSent.Load(),
		FramesReceived:    t.stats.framesReceived.Load(),
		BytesSent:         t.stats.bytesSent.Load(),
		BytesReceived:     t.stats.bytesReceived.Load(),
		Connections:       connections,
		ReceivedBytes:     t.budget.Used(),
	}
}

// report logs a trouble with a peer, at most once a minute for each.
func (t *TCPTransport) report(peer, what string, fields ...zap.Field) {
	if service := t.service.Load(); service != nil && t.reports.allow(peer, time.Now()) {
		service.local.Logger.Warn(what, fields...)
	}
}

func (t *TCPTransport) reportBroken(conn *tcpConn, err error) {
	if t.ctx.Err() == nil && !errors.Is(err, errClosedByPeer) {
		t.report(string(conn.peer), "connection broke", zap.String("peer", string(conn.peer)), zap.String("remote", conn.address), zap.Error(err))
	}
}

// reportLimiter remembers whom something was logged about in the last minute.
type reportLimiter struct {
	mu   sync.Mutex // guards last
	last map[string]time.Time
}

const (
	reportInterval = time.Minute
	reportedPeers  = 1024 // names come from outside, so there is a bound
)

func (r *reportLimiter) allow(peer string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.last[peer]; ok && now.Sub(at) < reportInterval {
		return false
	}
	if len(r.last) >= reportedPeers {
		maps.DeleteFunc(r.last, func(_ string, at time.Time) bool { return now.Sub(at) >= reportInterval })
		if len(r.last) >= reportedPeers {
			return false
		}
	}
	if r.last == nil {
		r.last = make(map[string]time.Time)
	}
	r.last[peer] = now
	return true
}

// remoteHost names a peer that has not told its name.
func remoteHost(conn net.Conn) string {
	address := conn.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
