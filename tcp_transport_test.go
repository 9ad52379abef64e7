package raft

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/seed-8da499c8/raft/internal/wire"
)

func TestTCPTransport(t *testing.T) {
	testTransport(t, func(t *testing.T) (a, b transportUnderTest) {
		return newTCPPair(t, 2*time.Second)
	})
}

func TestTCPTransportWithTLS(t *testing.T) {
	certificate := testCertificate(t)
	testTransport(t, func(t *testing.T) (a, b transportUnderTest) {
		return newTCPPair(t, 5*time.Second, WithTLS(certificate))
	})
}

// The numbers on the wire never change.
func TestTCPFrameKinds(t *testing.T) {
	assert.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7, 32, 64},
		[]int{kindAlive, kindVote, kindHeartbeat, kindAppend, kindSnapshot, kindTimeoutNow, kindForward, kindStreamedAppend, kindResponse, kindError})
}

// The bytes of frames that are not a message's own: of an error, and of a side
// that has nothing to say. They are part of the protocol.
func TestV1GoldenBytesOfFrames(t *testing.T) {
	const file = "testdata/golden/frames.txt"
	frames := []struct {
		name string
		outgoing
	}{
		{"alive", outgoing{kind: kindAlive}},
		{"error", outgoing{kind: kindError, id: 1000, code: CodeNotLeader, text: "raft: not the leader"}},
		{"error, later code", outgoing{kind: kindError, id: 1 << 40, code: math.MaxUint16, text: strings.Repeat("t", 300)}},
		{"error, zero", outgoing{kind: kindError}},
	}
	var lines []string
	for _, f := range frames {
		var w frameWriter
		require.NoError(t, w.encode(&f.outgoing))
		lines = append(lines, fmt.Sprintf("%s: %x", f.name, w.buffer))
	}
	if *rewrite {
		require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	want := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	require.Equal(t, want, lines)

	for i, f := range frames[1:] {
		_, digits, _ := strings.Cut(want[i+1], ": ")
		data, err := hex.DecodeString(digits)
		require.NoError(t, err)
		body, _, err := wire.ReadFrame(bufio.NewReader(bytes.NewReader(data)), &wire.Gate{})
		require.NoError(t, err)
		kind, id, message, err := wire.ParseBody(body)
		require.NoError(t, err)
		assert.EqualValues(t, kindError, kind)
		assert.Equal(t, f.id, id)
		answer, malformed := (&tcpConn{peer: "b"}).decodeResponse(&tcpCall{kind: kindVote}, kind, message)
		require.NoError(t, malformed)
		assert.Equal(t, &RemoteError{Peer: "b", Code: f.code, Message: f.text}, answer)
	}
}

// listen returns a listener on a free port of loopback.
func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener
}

func newTCPPair(t *testing.T, timeout time.Duration, options ...TCPOption) (a, b transportUnderTest) {
	listenA, listenB := listen(t), listen(t)
	peers := map[NodeID]string{"a": listenA.Addr().String(), "b": listenB.Addr().String()}
	fingerprint := [16]byte{1, 2, 3}
	with := func(listener net.Listener) []TCPOption {
		return append([]TCPOption{WithListener(listener)}, options...)
	}
	a = transportUnderTest{NewTCPTransport(peers, timeout, with(listenA)...), Local{ID: "a", Address: peers["a"], Fingerprint: fingerprint, Incarnation: 10}}
	b = transportUnderTest{NewTCPTransport(peers, timeout, with(listenB)...), Local{ID: "b", Address: peers["b"], Fingerprint: fingerprint, Incarnation: 11}}
	return a, b
}

// tcpNode is a transport that serves.
type tcpNode struct {
	*transportNode
	tcp  *TCPTransport
	logs *observer.ObservedLogs
}

func startTCP(t *testing.T, u transportUnderTest) *tcpNode {
	core, logs := observer.New(zapcore.WarnLevel)
	u.Local.Logger = zap.New(core)
	n := &tcpNode{newTransportNode(u), u.Transport.(*TCPTransport), logs}
	require.NoError(t, n.Serve(n.local, n.handler))
	t.Cleanup(func() { assert.NoError(t, n.Close()) })
	return n
}

func startTCPPair(t *testing.T, timeout time.Duration, options ...TCPOption) (a, b *tcpNode) {
	first, second := newTCPPair(t, timeout, options...)
	return startTCP(t, first), startTCP(t, second)
}

func (n *tcpNode) beat(t *testing.T, to *tcpNode) error {
	_, err := n.CallHeartbeat(testContext(t), to.id, &Heartbeat{Header: n.headerTo(to.transportNode)})
	return err
}

// eventually is for conditions that a goroutine brings about.
func eventually(t *testing.T, condition func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "timed out waiting for "+what)
	}
}

// appendByStream gets one append answered, on as many streams as it takes.
func appendByStream(t *testing.T, a, b *tcpNode, index Index) {
	eventually(t, func() bool {
		stream, events := openTestStream(a.transportNode, b.id)
		defer stream.Close()
		stream.Send(someAppend(a.headerTo(b.transportNode), index, "x"))
		select {
		case response := <-events.responses:
			return response.Match == index
		case <-events.closed:
			return false
		}
	}, "an answered append")
}

// tcpProxy passes connections on to target, more or less.
type tcpProxy struct {
	listener net.Listener
	target   string
	rate     atomic.Int64 // bytes per second and connection from clients; 0: any
	silent   atomic.Bool  // new connections are accepted and left alone
	accepted atomic.Int32

	tasks sync.WaitGroup
	mu    sync.Mutex
	links []*proxyLink
}

type proxyLink struct {
	client, server net.Conn
	dropping       atomic.Bool // what comes is thrown away, in both directions
	stalled        atomic.Bool // nothing is read from the client
}

func newTCPProxy(t *testing.T, target string) *tcpProxy {
	p := &tcpProxy{listener: listen(t), target: target}
	p.tasks.Go(func() {
		for client, err := p.listener.Accept(); err == nil; client, err = p.listener.Accept() {
			p.accepted.Add(1)
			p.add(client)
		}
	})
	t.Cleanup(func() {
		p.listener.Close()
		p.cut()
		p.tasks.Wait()
	})
	return p
}

func (p *tcpProxy) address() string { return p.listener.Addr().String() }

func (p *tcpProxy) add(client net.Conn) {
	link := &proxyLink{client: client}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links = append(p.links, link)
	if p.silent.Load() {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	link.server = server
	p.tasks.Go(func() { p.pass(link, server, client, p.rate.Load()) })
	p.tasks.Go(func() { p.pass(link, client, server, 0) })
}

func (p *tcpProxy) pass(link *proxyLink, to, from net.Conn, rate int64) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 4<<10)
	for {
		n, err := from.Read(buffer)
		for from == link.client && link.stalled.Load() {
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			return
		}
		if rate > 0 {
			time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
		}
		if !link.dropping.Load() {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

func (p *tcpProxy) each(do func(*proxyLink)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, link := range p.links {
		do(link)
	}
}

// cut ends all connections.
func (p *tcpProxy) cut() {
	p.each(func(link *proxyLink) {
		link.stalled.Store(false)
		link.client.Close()
		if link.server != nil {
			link.server.Close()
		}
	})
	p.mu.Lock()
	p.links = nil
	p.mu.Unlock()
}

// throughProxy makes a reach b through a proxy.
func throughProxy(t *testing.T, a, b *tcpNode) *tcpProxy {
	proxy := newTCPProxy(t, b.local.Address)
	a.UpdatePeers(map[NodeID]string{b.id: proxy.address()})
	return proxy
}

// Bulk that is stuck holds up no heartbeat.
func TestN1TCPHeartbeatsPassStuckBulk(t *testing.T) {
	a, b := startTCPPair(t, 2*time.Second)
	throughProxy(t, a, b).rate.Store(1 << 20)
	stream, events := openTestStream(a.transportNode, b.id)
	defer stream.Close()
	for i := range Index(16) {
		require.True(t, stream.Send(someAppend(a.headerTo(b.transportNode), i+1, strings.Repeat("x", 1<<20))))
	}
	require.NoError(t, a.beat(t, b))
	for range 20 { // as others send them, and as nodes do
		start := time.Now()
		require.NoError(t, a.beat(t, b))
		assert.Less(t, time.Since(start), time.Second)

		start = time.Now()
		ended, started := a.beatWithoutWaiting(b, time.Second)
		require.True(t, started)
		require.NoError(t, awaitValue(t, ended, "the answer"))
		assert.Less(t, time.Since(start), time.Second)
	}
	assert.Less(t, len(events.responses), 16, "the bulk went through before the heartbeats did")
	assert.Empty(t, events.closed)
}

func TestN2TCPHalfOpenConnectionIsReplaced(t *testing.T) {
	const timeout = 400 * time.Millisecond
	a, b := startTCPPair(t, timeout)
	proxy := throughProxy(t, a, b)
	stream, events := openTestStream(a.transportNode, b.id)
	require.True(t, stream.Send(someAppend(a.headerTo(b.transportNode), 1, "x")))
	awaitValue(t, events.responses, "a response")
	eventually(t, func() bool { return a.beat(t, b) == nil }, "contact")

	start := time.Now()
	proxy.each(func(link *proxyLink) { link.dropping.Store(true) })
	stream.Send(someAppend(a.headerTo(b.transportNode), 2, "x"))
	err := awaitValue(t, events.closed, "the end of the stream")
	assert.NotErrorIs(t, err, ErrNotAccepted, "it was handed over")
	eventually(t, func() bool { return a.beat(t, b) == nil }, "contact on a new connection")
	appendByStream(t, a, b, 3)
	assert.Less(t, time.Since(start), 3*time.Second)
}

// An idle connection is kept.
func TestTCPIdleConnectionStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _ := startPipePair(t, wiredTimeout, wiredTimeout)
		a.contact(t, b)
		sent := b.tcp.Stats().FramesSent
		time.Sleep(10 * wiredTimeout)
		assert.Greater(t, b.tcp.Stats().FramesSent, sent+5, "frames of an idle side")
		require.NoError(t, a.beat(t, b))
		assert.EqualValues(t, 2, a.tcp.Stats().Dialed, "one for heartbeats and one for entries")
	})
}

// A side with a long timeout speaks often enough for one with a short timeout.
func TestTCPTimeoutsMayDiffer(t *testing.T) {
	const ms = time.Millisecond
	for _, timeouts := range [][2]time.Duration{{125 * ms, 500 * ms}, {500 * ms, 125 * ms}, {5 * ms, time.Second}, {time.Second, 5 * ms}, {time.Minute, time.Second}} {
		t.Run(fmt.Sprint(timeouts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, _ := startPipePair(t, timeouts[0], timeouts[1])
				a.contact(t, b)
				time.Sleep(2 * time.Minute)
				stats := a.tcp.Stats()
				assert.EqualValues(t, 2, stats.Dialed, "idle connections stay")
				assert.Equal(t, 2, stats.Connections)
				assert.Zero(t, a.logs.Len()+b.logs.Len())
				a.contact(t, b)
				assert.EqualValues(t, 2, a.tcp.Stats().Dialed)
			})
		})
	}
}

// What a peer says about its timeout changes how often this side speaks, within
// bounds.
func TestTCPPeerSetsThePace(t *testing.T) {
	for told, frames := range map[time.Duration]int{
		0:                      20, // it did not say: half of this side's own, a second
		time.Hour:              20,
		200 * time.Millisecond: 100,
		time.Microsecond:       400, // half of leastTimeout: it cannot make this side send all the time
	} {
		t.Run(told.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, b, network := startPipePair(t, time.Second, time.Second)
				conn, err := network.dialer("raw")(t.Context(), b.local.Address)
				require.NoError(t, err)
				defer conn.Close()
				peer := &rawPeer{conn, bufio.NewReader(conn)}
				hello := helloFor(b, wire.PurposeControl)
				hello.Timeout = uint64(told.Microseconds())
				_, err = peer.Write(hello.Append(nil))
				require.NoError(t, err)
				welcome, err := wire.ReadWelcome(peer.r)
				require.NoError(t, err)
				assert.EqualValues(t, 1_000_000, welcome.Timeout)

				var beats sync.WaitGroup
				defer beats.Wait()
				beats.Go(func() {
					alive := rawFrame(t, kindAlive, 0, []byte{0x90})
					for _, err := peer.Write(alive); err == nil; _, err = peer.Write(alive) {
						time.Sleep(time.Second)
					}
				})
				defer conn.Close()
				got := 0
				for end := time.Now().Add(10 * time.Second); time.Now().Before(end); got++ {
					_, _, err := wire.ReadFrame(peer.r, &wire.Gate{})
					require.NoError(t, err)
				}
				assert.InDelta(t, frames, got, 2)
			})
		})
	}
}

func TestN4TCPContactSoonAfterHealing(t *testing.T) {
	const timeout = 300 * time.Millisecond
	a, b := startTCPPair(t, timeout)
	proxy := throughProxy(t, a, b)
	proxy.silent.Store(true)
	for range 3 { // each attempt takes a timeout, calls do not
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		start := time.Now()
		_, err := a.CallHeartbeat(ctx, b.id, &Heartbeat{Header: a.headerTo(b.transportNode)})
		cancel()
		assert.ErrorIs(t, err, ErrUnreachable)
		assert.Less(t, time.Since(start), time.Second)
	}
	eventually(t, func() bool { return a.beat(t, b) != nil && a.tcp.Stats().DialsFailed >= 2 }, "failed attempts")
	proxy.silent.Store(false)
	start := time.Now()
	eventually(t, func() bool { return a.beat(t, b) == nil }, "contact")
	assert.Less(t, time.Since(start), time.Second+timeout+lastRetry)

	// The back-off is forgotten: after the connection breaks, the next call connects.
	proxy.cut()
	link, err := a.tcp.link(b.id, wire.PurposeControl)
	require.NoError(t, err)
	eventually(t, func() bool {
		link.mu.Lock()
		defer link.mu.Unlock()
		return link.conn == nil
	}, "the connection to break")
	assert.NoError(t, a.beat(t, b))
}

// A peer that accepts and never answers costs a timeout, no more.
func TestN6TCPPeerThatNeverAnswers(t *testing.T) {
	const timeout = 200 * time.Millisecond
	a, b := startTCPPair(t, timeout)
	proxy := throughProxy(t, a, b)
	proxy.silent.Store(true)
	start := time.Now()
	err := a.beat(t, b)
	assert.ErrorIs(t, err, ErrUnreachable)
	stream, events := openTestStream(a.transportNode, b.id)
	stream.Send(someAppend(a.headerTo(b.transportNode), 1, "x"))
	assert.ErrorIs(t, awaitValue(t, events.closed, "the end of the stream"), ErrUnreachable)
	go a.beat(t, b)
	a.UpdatePeers(nil) // does not wait for the attempt
	require.NoError(t, a.Close())
	assert.Less(t, time.Since(start), 3*time.Second)
}

// A handler that never answers costs a call's timeout and breaks nothing.
func TestTCPHungHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _ := startPipePair(t, wiredTimeout, wiredTimeout)
		a.contact(t, b)
		b.handler.vote = func(ctx context.Context, _ *VoteRequest) (*VoteResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		start := time.Now()
		_, err := a.CallVote(context.Background(), b.id, &VoteRequest{Header: a.headerTo(b.transportNode)})
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NotErrorIs(t, err, ErrNotAccepted)
		assert.Equal(t, wiredTimeout, time.Since(start))
		assert.NoError(t, a.beat(t, b))
		assert.EqualValues(t, 2, a.tcp.Stats().Dialed, "no connection broke")
	})
}

// Forwards that hang do not hold up heartbeats; too many are refused, not queued.
func TestTCPHandlersAreBounded(t *testing.T) {
	a, b := startTCPPair(t, 5*time.Second)
	var running atomic.Int32
	release := make(chan bool)
	b.handler.forward = func(ctx context.Context, _ *ForwardRequest) (*ForwardResponse, error) {
		running.Add(1)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return new(ForwardResponse), nil
	}
	var overloaded atomic.Int32
	var calls sync.WaitGroup
	for range maxForwardCalls + 10 {
		calls.Go(func() {
			_, err := a.CallForward(testContext(t), b.id, &ForwardRequest{Header: a.headerTo(b.transportNode), Kind: ForwardPropose})
			if errors.Is(err, ErrOverloaded) {
				overloaded.Add(1)
			} else {
				assert.NoError(t, err)
			}
		})
	}
	eventually(t, func() bool { return running.Load() == maxForwardCalls && overloaded.Load() == 10 }, "the bound")
	assert.NoError(t, a.beat(t, b))
	close(release)
	calls.Wait()
	assert.EqualValues(t, 10, b.tcp.Stats().Overloaded)
}

func TestN8TCPFlappingLeavesNothingBehind(t *testing.T) {
	t.Run("the first sockets of a process open files of the runtime", func(t *testing.T) { startTCPPair(t, time.Second) })
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	t.Run("flap", func(t *testing.T) {
		a, b := startTCPPair(t, time.Second)
		proxy := throughProxy(t, a, b)
		for range 300 {
			eventually(t, func() bool { return a.beat(t, b) == nil }, "contact")
			stream, _ := openTestStream(a.transportNode, b.id)
			stream.Send(someAppend(a.headerTo(b.transportNode), 1, "x"))
			proxy.cut()
			stream.Close()
		}
		assert.GreaterOrEqual(t, a.tcp.Stats().Dialed, uint64(300))
		eventually(t, func() bool { return b.tcp.Stats().Connections <= 4 }, "old connections to end")
	})
	eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines }, "goroutines to end")
	assert.LessOrEqual(t, openFiles(t), files)
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Log("cannot count open files here: ", err)
	}
	return len(entries)
}

// What an old connection still held is not sent again on a new one.
func TestN10TCPNothingIsResent(t *testing.T) {
	a, b := startTCPPair(t, time.Second)
	proxy := throughProxy(t, a, b)
	var mu sync.Mutex
	seen := make(map[Index]int)
	b.handler.begin = func(r *AppendEntries, respond func(*AppendResponse, error)) {
		mu.Lock()
		seen[r.Entries.First()]++
		mu.Unlock()
		respond(&AppendResponse{Match: r.Entries.First()}, nil)
	}
	stream, events := openTestStream(a.transportNode, b.id)
	stream.Send(someAppend(a.headerTo(b.transportNode), 1, "x"))
	awaitValue(t, events.responses, "a response")
	proxy.each(func(link *proxyLink) { link.stalled.Store(true) })
	for i := range Index(5) {
		require.True(t, stream.Send(someAppend(a.headerTo(b.transportNode), 10+i, "x")))
	}
	eventually(t, func() bool { return a.tcp.Stats().FramesSent >= 6 }, "the frames to be held")
	proxy.cut()
	assert.NotErrorIs(t, awaitValue(t, events.closed, "the end of the stream"), ErrNotAccepted)
	appendByStream(t, a, b, 20)
	mu.Lock()
	defer mu.Unlock()
	for index, times := range seen {
		if index != 20 {
			assert.Equal(t, 1, times, "append %d", index)
		}
	}
}

// ErrUnreachable is for requests that were certainly not handed over.
func TestTCPUnreachableOnlyIfNotHandedOver(t *testing.T) {
	a, b := startTCPPair(t, 20*time.Second, WithSendQueue(1<<20)) // a busy machine must not end the connection before the test does
	proxy := throughProxy(t, a, b)
	b.handler.snapshot = func(ctx context.Context, r *InstallSnapshot) (*SnapshotResponse, error) {
		if len(r.Data) > 10 {
			<-ctx.Done()
		}
		return new(SnapshotResponse), nil
	}
	_, err := a.CallSnapshot(testContext(t), b.id, &InstallSnapshot{Header: a.headerTo(b.transportNode)})
	require.NoError(t, err)
	proxy.each(func(link *proxyLink) { link.stalled.Store(true) })
	link, err := a.tcp.link(b.id, wire.PurposeBulk)
	require.NoError(t, err)
	conn, err := link.connection(testContext(t))
	require.NoError(t, err)
	queue := func() (frames, bytes int) {
		conn.mu.Lock()
		defer conn.mu.Unlock()
		return len(conn.queue), conn.queued
	}
	eventually(t, func() bool { _, bytes := queue(); return bytes == 0 }, "the writer to settle")

	sent := make(chan error, 1)
	go func() { // more than the system takes at once: the writer gets stuck in it
		_, err := a.CallSnapshot(testContext(t), b.id, &InstallSnapshot{Header: a.headerTo(b.transportNode), Data: make([]byte, 32<<20)})
		sent <- err
	}()
	eventually(t, func() bool { frames, bytes := queue(); return frames == 0 && bytes > 1<<20 }, "the writer to take it")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = a.CallSnapshot(ctx, b.id, &InstallSnapshot{Header: a.headerTo(b.transportNode)})
	assert.ErrorIs(t, err, ErrUnreachable, "the queue is full")
	stream, events := openTestStream(a.transportNode, b.id)
	require.True(t, stream.Send(someAppend(a.headerTo(b.transportNode), 1, strings.Repeat("x", 1<<20))), "one always fits")
	assert.False(t, stream.Send(someAppend(a.headerTo(b.transportNode), 2, "x")), "the stream's queue is full")
	eventually(t, func() bool { frames, _ := queue(); return frames > 0 }, "the stream to have this connection")

	proxy.cut()
	err = awaitValue(t, sent, "the call that was being written")
	assert.Error(t, err)
	assert.NotErrorIs(t, err, ErrNotAccepted)
	assert.ErrorContains(t, err, "broke after the request was sent")
	assert.Error(t, awaitValue(t, events.closed, "the end of the stream"))
}

// What is wrong with one request says nothing about those that share its
// connection: the peer may be working on them.
func TestTCPCauseOfABreakIsNotTheOutcomeOfOthers(t *testing.T) {
	for _, sentinel := range []error{ErrTooLarge, ErrOutcomeUnknown, &ApplyError{1, errors.New("no")}} {
		a, b := startTCPPair(t, 20*time.Second)
		entered := make(chan bool, 2)
		b.handler.snapshot = func(ctx context.Context, _ *InstallSnapshot) (*SnapshotResponse, error) {
			entered <- true
			<-ctx.Done()
			return nil, ctx.Err()
		}
		b.handler.begin = func(*AppendEntries, func(*AppendResponse, error)) { entered <- true }
		called := make(chan error, 1)
		go func() {
			_, err := a.CallSnapshot(testContext(t), b.id, &InstallSnapshot{Header: a.headerTo(b.transportNode)})
			called <- err
		}()
		stream, events := openTestStream(a.transportNode, b.id)
		require.True(t, stream.Send(someAppend(a.headerTo(b.transportNode), 1, "x")))
		awaitValue(t, entered, "the first request")
		awaitValue(t, entered, "the second request")
		link, err := a.tcp.link(b.id, wire.PurposeBulk)
		require.NoError(t, err)
		conn, err := link.connection(testContext(t))
		require.NoError(t, err)
		conn.fail(fmt.Errorf("%w: a third request", sentinel))
		for _, err := range []error{awaitValue(t, called, "the end of the call"), awaitValue(t, events.closed, "the end of the stream")} {
			assert.ErrorContains(t, err, "a third request")
			assert.NotErrorIs(t, err, sentinel)
			assert.NotErrorIs(t, err, ErrNotAccepted)
		}
		// While there is no connection nothing is handed over, whatever became of others.
		_, err = conn.request(&tcpCall{kind: kindVote}, new(VoteRequest), 0)
		err = unreachable(b.id, b.local.Address, err)
		assert.ErrorIs(t, err, ErrUnreachable)
		assert.NotErrorIs(t, err, sentinel)
	}
}

// A request that no frame can hold is refused, and disturbs no other.
func TestTCPTooLargeAppendIsRefused(t *testing.T) {
	t.Parallel()
	a, b := startTCPPair(t, 20*time.Second, WithSendQueue(1<<30))
	entered, release := make(chan bool, 1), make(chan bool)
	b.handler.snapshot = func(ctx context.Context, _ *InstallSnapshot) (*SnapshotResponse, error) {
		entered <- true
		select {
		case <-release:
		case <-ctx.Done():
		}
		return &SnapshotResponse{Next: 7}, nil
	}
	called := make(chan error, 1)
	go func() {
		_, err := a.CallSnapshot(t.Context(), b.id, &InstallSnapshot{Header: a.headerTo(b.transportNode)})
		called <- err
	}()
	awaitValue(t, entered, "the snapshot")
	data := strings.Repeat("x", wire.MaxFrame)
	huge := someAppend(a.headerTo(b.transportNode), 1, data)
	stream, events := openTestStream(a.transportNode, b.id)
	defer stream.Close()
	assert.False(t, stream.Send(huge))
	require.True(t, stream.Send(someAppend(a.headerTo(b.transportNode), 1, "x")))
	assert.Equal(t, Index(1), awaitValue(t, events.responses, "a response").Match)
	_, err := a.CallAppend(testContext(t), b.id, huge)
	assert.ErrorIs(t, err, ErrTooLarge)
	close(release)
	assert.NoError(t, awaitValue(t, called, "the end of the snapshot"))
	assert.Empty(t, events.closed)

	// What Send takes at the most fits into a frame.
	largest := huge
	largest.Entries = MakeEntries(LogEntry{Term: 3, Index: 1, Kind: EntryCommand, Data: huge.Entries.runs[0].body[:maxStreamed-20]})
	largest.LeaderAddress = strings.Repeat("l", maxAddressBytes)
	largest.From, largest.To = NodeID(strings.Repeat("f", maxIDBytes)), NodeID(strings.Repeat("t", maxIDBytes))
	body, err := largest.AppendBinary(wire.BeginFrame(make([]byte, 0, wire.MaxFrame), kindStreamedAppend, 1<<63))
	require.NoError(t, err)
	assert.LessOrEqual(t, largest.Entries.encodedSize(), maxStreamed)
	assert.NoError(t, wire.EndFrame(body, 0, wire.Part{}))
}

func TestTCPAddressChange(t *testing.T) {
	a, b := startTCPPair(t, time.Second)
	proxy := throughProxy(t, a, b)
	stream, events := openTestStream(a.transportNode, b.id)
	stream.Send(someAppend(a.headerTo(b.transportNode), 1, "x"))
	awaitValue(t, events.responses, "a response")
	a.UpdatePeers(map[NodeID]string{b.id: b.local.Address})
	assert.ErrorContains(t, awaitValue(t, events.closed, "the end of the stream"), "address has changed")
	accepted := proxy.accepted.Load()
	require.NoError(t, a.beat(t, b))
	assert.Equal(t, accepted, proxy.accepted.Load())
	a.UpdatePeers(nil)
	assert.ErrorIs(t, a.beat(t, b), ErrUnreachable)
}

func TestTCPWithDialer(t *testing.T) {
	var addresses sync.Map
	a, b := startTCPPair(t, time.Second, WithDialer(func(ctx context.Context, address string) (net.Conn, error) {
		addresses.Store(address, true)
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}))
	require.NoError(t, a.beat(t, b))
	_, dialed := addresses.Load(b.local.Address)
	assert.True(t, dialed)
}

func TestTCPServeErrors(t *testing.T) {
	taken := listen(t)
	transport := NewTCPTransport(nil, 0)
	err := transport.Serve(Local{ID: "a", Address: taken.Addr().String()}, new(fakeHandler))
	require.Error(t, err)
	assert.ErrorContains(t, err, taken.Addr().String())
	assert.ErrorContains(t, err, "WithListener")
	require.NoError(t, transport.Serve(Local{ID: "a", Address: "127.0.0.1:0"}, new(fakeHandler)), "after a failure")
	assert.NotEqual(t, 0, transport.Addr().(*net.TCPAddr).Port)
	assert.ErrorContains(t, transport.Serve(Local{ID: "a", Address: "127.0.0.1:0"}, new(fakeHandler)), "before")
	require.NoError(t, transport.Close())
	assert.Error(t, transport.Serve(Local{ID: "a"}, new(fakeHandler)), "after Close")
	stream := transport.OpenAppendStream("b", nil, nil)
	assert.False(t, stream.Send(new(AppendEntries)))
	stream.Close()
}

// flakyListener fails a few times, as one does without file descriptors left.
type flakyListener struct {
	net.Listener
	failures atomic.Int32
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

func TestTCPAcceptSurvivesErrors(t *testing.T) {
	listener := &flakyListener{Listener: listen(t)}
	listener.failures.Store(3)
	first, second := newTCPPair(t, time.Second)
	second.Transport.Close()
	second.Transport = NewTCPTransport(nil, time.Second, WithListener(listener))
	a, b := startTCP(t, first), startTCP(t, second)
	a.UpdatePeers(map[NodeID]string{b.id: listener.Addr().String()})
	eventually(t, func() bool { return a.beat(t, b) == nil }, "contact")
	assert.Equal(t, 1, b.logs.FilterMessageSnippet("cannot accept").Len())
}

func TestTCPMaxConnections(t *testing.T) {
	a, b := startTCPPair(t, time.Second, WithMaxConnections(1))
	require.NoError(t, a.beat(t, b))
	_, err := a.CallAppend(testContext(t), b.id, someAppend(a.headerTo(b.transportNode), 1, "x"))
	assert.ErrorIs(t, err, ErrUnreachable)
	assert.NoError(t, a.beat(t, b))
}

// helloFor is a handshake that n accepts.
func helloFor(n *tcpNode, purpose uint64) wire.Hello {
	return wire.Hello{MinVersion: 1, MaxVersion: 1, Fingerprint: n.local.Fingerprint, From: "raw", To: string(n.id), Incarnation: 5, Purpose: purpose}
}

// rawPeer speaks to n by hand.
type rawPeer struct {
	net.Conn
	r *bufio.Reader
}

func dialRaw(t *testing.T, n *tcpNode) *rawPeer {
	conn, err := net.Dial("tcp", n.tcp.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return &rawPeer{conn, bufio.NewReader(conn)}
}

func dialRawPeer(t *testing.T, n *tcpNode, hello wire.Hello) *rawPeer {
	peer := dialRaw(t, n)
	peer.Write(hello.Append(nil))
	_, err := wire.ReadWelcome(peer.r)
	require.NoError(t, err)
	return peer
}

// ended waits until the other side has closed the connection.
func (p *rawPeer) ended(t *testing.T) {
	t.Helper()
	_, err := io.Copy(io.Discard, p.r)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection was not closed")
}

func rawFrame(t *testing.T, kind, id uint64, message []byte) []byte {
	frame := append(wire.BeginFrame(nil, kind, id), message...)
	require.NoError(t, wire.EndFrame(frame, 0, wire.Part{}))
	return frame
}

// What no peer sends ends the connection.
func TestW4TCPMalformedFrames(t *testing.T) {
	_, b := startTCPPair(t, 250*time.Millisecond)
	random := make([]byte, 4096)
	rand.Read(random)
	random[0] |= 0x80 // else every 64th begins with the length of a frame, whose rest never comes
	vote, err := (&VoteRequest{Header: Header{From: "raw", To: "b"}}).AppendBinary(nil)
	require.NoError(t, err)
	damaged := rawFrame(t, kindVote, 1, vote)
	damaged[len(damaged)-1] ^= 1
	nils := append(wire.AppendArrayLen(nil, 12), []byte(strings.Repeat("\xc0", 12))...)
	for name, bytes := range map[string][]byte{
		"random":       random,
		"length 2^31":  append(binary.BigEndian.AppendUint32(nil, 1<<31), random...),
		"length 0":     make([]byte, 100),
		"damaged":      damaged,
		"not an array": rawFrame(t, kindVote, 1, []byte{0xc0}),
		"nil fields":   rawFrame(t, kindVote, 1, nils),
		"nil append":   rawFrame(t, kindStreamedAppend, 1, nils),
	} {
		before := b.tcp.Stats().MalformedFrames
		peer := dialRawPeer(t, b, helloFor(b, wire.PurposeBulk))
		peer.Write(bytes)
		peer.ended(t)
		eventually(t, func() bool { return b.tcp.Stats().MalformedFrames == before+1 }, name)
	}
	for name, bytes := range map[string][]byte{"random": random, "zeros": make([]byte, 100), "text": []byte("GET / HTTP/1.1\r\n\r\n")} {
		before := b.tcp.Stats().HandshakesRefused
		peer := dialRaw(t, b)
		peer.Write(bytes)
		peer.ended(t)
		eventually(t, func() bool { return b.tcp.Stats().HandshakesRefused == before+1 }, name)
	}
	assert.Zero(t, b.tcp.Stats().ReceivedBytes)
	assert.LessOrEqual(t, b.logs.Len(), 2, "one line a minute, for the peer with a name and for those without")
}

// A length that is claimed and does not come takes 4 MiB, and ends in time.
func TestW4TCPClaimedLengthsTakeLittleMemory(t *testing.T) {
	const peers = 8
	_, b := startTCPPair(t, 300*time.Millisecond)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var raw []*rawPeer
	for range peers {
		peer := dialRawPeer(t, b, helloFor(b, wire.PurposeBulk))
		peer.Write(append(binary.BigEndian.AppendUint32(nil, wire.MaxFrame), "abcdef"...))
		raw = append(raw, peer)
	}
	for _, peer := range raw {
		peer.ended(t)
	}
	runtime.ReadMemStats(&after)
	assert.Less(t, (after.TotalAlloc-before.TotalAlloc)/peers, uint64(16<<20))
	eventually(t, func() bool { return b.tcp.Stats().ReceivedBytes == 0 }, "the budget to be free")
}

// One byte at a time keeps neither a handshake nor a frame open.
func TestW4TCPSlowLoris(t *testing.T) {
	const timeout = 200 * time.Millisecond
	_, b := startTCPPair(t, timeout)
	hello := helloFor(b, wire.PurposeControl)
	for name, peer := range map[string]*rawPeer{
		"handshake": dialRaw(t, b),
		"frame":     dialRawPeer(t, b, hello),
	} {
		start := time.Now()
		go func() {
			for _, c := range hello.Append(nil) {
				if _, err := peer.Write([]byte{c}); err != nil {
					return
				}
				time.Sleep(timeout / 4)
			}
		}()
		peer.ended(t)
		assert.Less(t, time.Since(start), 5*time.Second, name)
	}
	peer := dialRaw(t, b)
	peer.Write(hello.Append(nil)[:10])
	_, err := wire.ReadWelcome(peer.r)
	var refusal *wire.Refusal
	require.ErrorAs(t, err, &refusal, "who stops in the middle learns why the connection ends")
	assert.EqualValues(t, CodeInvalidMessage, refusal.Code)
}

// A receiver that is full does not read on, and goes on when there is room.
func TestTCPReceiveBudget(t *testing.T) {
	a, b := startTCPPair(t, 5*time.Second, WithReceiveBudget(3<<20))
	var mu sync.Mutex
	var waiting []func()
	b.handler.begin = func(r *AppendEntries, respond func(*AppendResponse, error)) {
		mu.Lock()
		defer mu.Unlock()
		waiting = append(waiting, func() { respond(&AppendResponse{Match: r.Entries.First()}, nil) })
	}
	stream, events := openTestStream(a.transportNode, b.id)
	defer stream.Close()
	for i := range Index(6) {
		require.True(t, stream.Send(someAppend(a.headerTo(b.transportNode), i+1, strings.Repeat("x", 1<<20))))
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(waiting)
	}
	eventually(t, func() bool { return count() == 2 }, "two of them, with their headers")
	require.NoError(t, a.beat(t, b), "urgent requests pass")
	assert.Equal(t, 2, count())
	assert.LessOrEqual(t, b.tcp.Stats().ReceivedBytes, 3<<20)
	for i := range Index(6) {
		eventually(t, func() bool { return count() > 0 }, "the next")
		mu.Lock()
		respond := waiting[0]
		waiting = waiting[1:]
		mu.Unlock()
		respond()
		require.Equal(t, i+1, awaitValue(t, events.responses, "a response").Match)
	}
	eventually(t, func() bool { return b.tcp.Stats().ReceivedBytes == 0 }, "the budget to be free")
}

func TestW3TCPClustersRefuseEachOther(t *testing.T) {
	first, second := newTCPPair(t, 500*time.Millisecond)
	second.Local.Fingerprint = [16]byte{9}
	a, b := startTCP(t, first), startTCP(t, second)
	for range 3 {
		err := a.beat(t, b)
		require.ErrorIs(t, err, ErrUnreachable)
		require.ErrorIs(t, err, ErrWrongCluster)
		err = b.beat(t, a)
		require.ErrorIs(t, err, ErrUnreachable)
		stream, events := openTestStream(a.transportNode, b.id)
		require.ErrorIs(t, awaitValue(t, events.closed, "the end of the stream"), ErrUnreachable)
		stream.Close()
	}
	for _, n := range []*tcpNode{a, b} {
		eventually(t, func() bool { return n.tcp.Stats().HandshakesRefused > 1 && n.logs.Len() > 0 }, "refusals, and a line about them")
		require.Equal(t, 1, n.logs.Len(), "lines in a minute: %v", n.logs.All())
		assert.Contains(t, n.logs.All()[0].ContextMap()["error"], "fingerprint")
	}
	assert.Zero(t, a.tcp.Stats().Accepted+b.tcp.Stats().Accepted)
	eventually(t, func() bool { return a.tcp.Stats().Connections+b.tcp.Stats().Connections == 0 }, "the end of all connections")

	// A node at another's address, and one that calls itself as this one.
	a.UpdatePeers(map[NodeID]string{"c": b.local.Address})
	_, err := a.CallHeartbeat(testContext(t), "c", &Heartbeat{Header: Header{From: "a", To: "c"}})
	assert.ErrorIs(t, err, ErrWrongNode)
	assert.ErrorContains(t, err, "looks for node c")
	self := helloFor(b, wire.PurposeControl)
	self.From = "b"
	for hello, code := range map[wire.Hello]ErrorCode{self: CodeWrongNode, {MinVersion: 1, MaxVersion: 1, From: "x", To: "b", Purpose: 9}: CodeUnsupported} {
		peer := dialRaw(t, b)
		peer.Write(hello.Append(nil))
		_, err = wire.ReadWelcome(peer.r)
		var refusal *wire.Refusal
		require.ErrorAs(t, err, &refusal)
		assert.EqualValues(t, code, refusal.Code)
	}
}

// A peer that refuses is not said to be unreachable, and the reason is told
// once, in one sentence.
func TestTCPWordsOfARefusal(t *testing.T) {
	first, second := newTCPPair(t, 5*time.Second)
	second.Local.Fingerprint = [16]byte{9}
	a, b := startTCP(t, first), startTCP(t, second)
	want := fmt.Sprintf("raft: b at %s refuses the connection: request from another cluster: peer a has fingerprint ", b.local.Address)
	err := a.beat(t, b)
	assert.True(t, strings.HasPrefix(err.Error(), want), "%v", err)
	assert.ErrorIs(t, err, ErrUnreachable)
	stream, events := openTestStream(a.transportNode, b.id)
	defer stream.Close()
	err = awaitValue(t, events.closed, "the end of the stream")
	assert.True(t, strings.HasPrefix(err.Error(), want), "%v", err)

	first, second = newTCPPair(t, 5*time.Second)
	a, b = startTCP(t, first), startTCP(t, second)
	b.handler.heartbeat = func(context.Context, *Heartbeat) (*HeartbeatResponse, error) { return nil, ErrOtherDisk }
	assert.EqualError(t, a.beat(t, b), "raft: peer b answered: peer came back with another disk")
}

func TestTCPJoinerWithoutFingerprint(t *testing.T) {
	first, second := newTCPPair(t, time.Second)
	second.Local.Fingerprint = [16]byte{}
	a, b := startTCP(t, first), startTCP(t, second)
	assert.NoError(t, a.beat(t, b))
	assert.NoError(t, b.beat(t, a))
}

func TestReportLimiter(t *testing.T) {
	var r reportLimiter
	start := time.Now()
	assert.True(t, r.allow("a", start))
	assert.False(t, r.allow("a", start.Add(reportInterval-1)))
	assert.True(t, r.allow("b", start))
	assert.True(t, r.allow("a", start.Add(reportInterval)))
	for i := range 3 * reportedPeers {
		r.allow(strconv.Itoa(i), start.Add(reportInterval))
	}
	assert.LessOrEqual(t, len(r.last), reportedPeers)
	assert.True(t, r.allow("new", start.Add(2*reportInterval)))
}

// Later versions find one that both speak, unknown kinds are refused, and nothing in common ends the connection.
func TestV1TCPVersions(t *testing.T) {
	_, b := startTCPPair(t, time.Second)
	hello := helloFor(b, wire.PurposeControl)
	hello.MaxVersion = 7
	peer := dialRawPeer(t, b, hello)
	vote, err := (&VoteRequest{Header: Header{From: "raw", To: "b"}, Term: 6}).AppendBinary(nil)
	require.NoError(t, err)
	for _, kind := range []uint64{31, 1000, kindAppend, kindVote} { // unknown, unknown, not on this connection, served
		peer.Write(rawFrame(t, kind, 5, append(vote, 0xc0)[:len(vote)]))
		body, _, err := wire.ReadFrame(peer.r, &wire.Gate{})
		require.NoError(t, err)
		got, id, message, err := wire.ParseBody(body)
		require.NoError(t, err)
		assert.EqualValues(t, 5, id)
		if kind == kindVote {
			assert.EqualValues(t, kindVote+kindResponse, got)
			continue
		}
		assert.EqualValues(t, kindError, got)
		r := wire.NewReader(message)
		r.ArrayLen()
		assert.EqualValues(t, CodeUnsupported, r.Uint())
	}

	hello.MinVersion = 2
	refused := dialRaw(t, b)
	refused.Write(hello.Append(nil))
	_, err = wire.ReadWelcome(refused.r)
	assert.ErrorContains(t, err, "versions 2 to 7")
	refused.ended(t)
}

// callsRaw has the node's next call to the peer "raw" answered by hand, from the
// answer to its hello on.
func (n *tcpNode) callsRaw(t *testing.T, serve func(conn net.Conn, r *bufio.Reader)) {
	listener := listen(t)
	n.UpdatePeers(map[NodeID]string{"raw": listener.Addr().String()})
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		wire.ReadHello(r)
		serve(conn, r)
	}()
}

// A peer's error and nonsense in place of a response.
func TestTCPBadResponses(t *testing.T) {
	first, _ := newTCPPair(t, time.Second)
	a := startTCP(t, first)
	for name, test := range map[string]struct {
		kind    uint64
		message string
		is      error
		breaks  bool
	}{
		"unsupported":  {kindError, "\x92\x0a\xa2no", ErrUnsupported, false},
		"later error":  {kindError, "\x93\x0a\xa2no\xc0", ErrUnsupported, false},
		"unknown code": {kindError, "\x92\xcd\x10\x10\xa2no", nil, false},
		"huge code":    {kindError, "\x92\xce\x00\x01\x00\x02\xa2no", nil, false}, // 65538, not CodeNotAccepted
		"no error":     {kindError, "\x90", ErrInvalidMessage, true},
		"other kind":   {kindVote + kindResponse, "\x90", ErrInvalidMessage, true},
		"nil fields":   {kindHeartbeat + kindResponse, "\x93\xc0\xc0\xc0", ErrInvalidMessage, true},
	} {
		ended := make(chan error, 1)
		a.callsRaw(t, func(conn net.Conn, r *bufio.Reader) {
			conn.Write((&wire.Welcome{Version: 1}).Append(nil))
			body, _, _ := wire.ReadFrame(r, &wire.Gate{})
			_, id, _, _ := wire.ParseBody(body)
			conn.Write(rawFrame(t, kindHeartbeat+kindResponse, id+1, []byte{0x90})) // nobody waits for this
			conn.Write(rawFrame(t, test.kind, id, []byte(test.message)))
			_, err := io.Copy(io.Discard, r)
			ended <- err
		})
		_, err := a.CallHeartbeat(testContext(t), "raw", &Heartbeat{Header: Header{From: "a", To: "raw"}})
		require.Error(t, err, name)
		if test.is != nil {
			assert.ErrorIs(t, err, test.is, name)
		}
		assert.NotErrorIs(t, err, ErrNotAccepted, name)
		if test.breaks {
			awaitValue(t, ended, "the end of the connection: "+name)
		} else {
			assert.Empty(t, ended, name)
		}
	}
}

// A peer that answers the appends of a stream out of order mixes them up: nothing
// that it says counts.
func TestTCPAnswersOutOfOrder(t *testing.T) {
	first, _ := newTCPPair(t, time.Second)
	a := startTCP(t, first)
	a.callsRaw(t, func(conn net.Conn, r *bufio.Reader) {
		conn.Write((&wire.Welcome{Version: 1}).Append(nil))
		var ids []uint64
		for range 2 {
			body, _, _ := wire.ReadFrame(r, &wire.Gate{})
			_, id, _, _ := wire.ParseBody(body)
			ids = append(ids, id)
		}
		answer, _ := AppendResponse{Term: 3, Success: true, Match: 1}.AppendBinary(nil)
		for _, id := range []uint64{ids[1], ids[0]} {
			conn.Write(rawFrame(t, kindStreamedAppend+kindResponse, id, answer))
		}
		io.Copy(io.Discard, r)
	})
	stream, events := openTestStream(a.transportNode, "raw")
	defer stream.Close()
	for i := range Index(2) {
		require.True(t, stream.Send(someAppend(Header{From: "a", To: "raw"}, i+1, "x")))
	}
	assert.ErrorIs(t, awaitValue(t, events.closed, "the end of the stream"), ErrInvalidMessage)
	assert.Empty(t, events.responses)
}

// A refusal's code is not cut to its low bits either.
func TestTCPRefusalWithAHugeCode(t *testing.T) {
	first, _ := newTCPPair(t, time.Second)
	a := startTCP(t, first)
	a.callsRaw(t, func(conn net.Conn, _ *bufio.Reader) {
		conn.Write((&wire.Refusal{Code: 1<<16 + uint64(CodeOutcomeUnknown), Reason: "no"}).Append(nil))
	})
	_, err := a.CallHeartbeat(testContext(t), "raw", &Heartbeat{Header: Header{From: "a", To: "raw"}})
	assert.ErrorIs(t, err, ErrUnreachable)
	var remote *RemoteError
	require.ErrorAs(t, err, &remote)
	assert.Equal(t, CodeInternal, remote.Code)
}

// testCertificate is a TLS config for nodes a and b at 127.0.0.1 that trust one another.
func testCertificate(t *testing.T) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"a", "b"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

// Who asked for TLS does not get plain text.
func TestTCPWithTLSWithoutConfig(t *testing.T) {
	listener := listen(t)
	a := newTransportNode(transportUnderTest{
		NewTCPTransport(map[NodeID]string{"b": listener.Addr().String()}, time.Second, WithListener(listener), WithTLS(nil)), Local{ID: "a"},
	})
	assert.ErrorContains(t, a.Serve(a.local, a.handler), "WithTLS was given no config")
	_, err := a.CallVote(testContext(t), "b", &VoteRequest{Header: Header{From: "a", To: "b"}})
	assert.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "WithTLS was given no config")
	stream, events := openTestStream(a, "b")
	defer stream.Close()
	assert.ErrorContains(t, awaitValue(t, events.closed, "the end of the stream"), "WithTLS was given no config")
	assert.NoError(t, a.Close())
	_, err = net.Dial("tcp", listener.Addr().String())
	assert.Error(t, err, "the listener is the transport's, and closed")
}

func TestW4TCPTLSAgainstPlain(t *testing.T) {
	first, second := newTCPPair(t, 2*time.Second)
	second.Transport.Close()
	listener := listen(t)
	second.Transport = NewTCPTransport(map[NodeID]string{"a": first.Local.Address}, 2*time.Second, WithListener(listener), WithTLS(testCertificate(t)))
	plain, secure := startTCP(t, first), startTCP(t, second)
	plain.UpdatePeers(map[NodeID]string{"b": listener.Addr().String()})

	err := plain.beat(t, secure)
	assert.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "speaks TLS")
	eventually(t, func() bool { return secure.logs.Len() == 1 }, "a line in the log")
	assert.Contains(t, secure.logs.All()[0].ContextMap()["error"], "peer does not speak TLS, this node does")

	err = secure.beat(t, plain)
	assert.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "this node speaks TLS, the peer does not")
	eventually(t, func() bool {
		for _, line := range plain.logs.All() {
			if text, _ := line.ContextMap()["error"].(string); strings.Contains(text, "peer speaks TLS, this node does not") {
				return true
			}
		}
		return false
	}, "a line in the log")
}

// Mutual TLS turns away a peer without a certificate, and one with a foreign
// one, whoever dials. Both sides say why.
func TestTCPTLSRefusesStrangers(t *testing.T) {
	good, foreign := testCertificate(t), testCertificate(t)
	bare := good.Clone()
	bare.Certificates = nil
	stranger := good.Clone() // trusts the others, and shows what they do not trust
	stranger.Certificates = foreign.Certificates
	for name, test := range map[string]struct {
		config             *tls.Config
		dialing, accepting string // what the stranger is told when it dials, and what the member logs
		asked, askedBy     string // what a member is told when it dials the stranger, and what the stranger logs
	}{
		"no certificate": {bare, "the peer broke off TLS", "client didn't provide a certificate", "the peer broke off TLS", "no certificates configured"},
		"foreign":        {stranger, "the peer broke off TLS", "certificate signed by unknown authority", "certificate signed by unknown authority", "bad certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			listenA, listenB := listen(t), listen(t)
			peers := map[NodeID]string{"a": listenA.Addr().String(), "b": listenB.Addr().String()}
			a := startTCP(t, transportUnderTest{NewTCPTransport(peers, 5*time.Second, WithListener(listenA), WithTLS(test.config)), Local{ID: "a", Address: peers["a"]}})
			b := startTCP(t, transportUnderTest{NewTCPTransport(peers, 5*time.Second, WithListener(listenB), WithTLS(good)), Local{ID: "b", Address: peers["b"]}})
			for _, test := range []struct {
				from, to        *tcpNode
				dialer, accepts string
			}{
				{a, b, test.dialing, test.accepting},
				{b, a, test.asked, test.askedBy},
			} {
				err := test.from.beat(t, test.to)
				assert.ErrorIs(t, err, ErrUnreachable)
				assert.ErrorContains(t, err, test.dialer)
				eventually(t, func() bool { return test.to.logs.FilterMessage("refused a connection").Len() == 1 }, "a line in the log")
				assert.Contains(t, test.to.logs.FilterMessage("refused a connection").All()[0].ContextMap()["error"], test.accepts)
			}
			assert.Zero(t, a.tcp.Stats().Accepted+b.tcp.Stats().Accepted)
		})
	}
}

// BenchmarkTCPAppendStream keeps 16 appends of 100 entries of 128 bytes in flight.
func BenchmarkTCPAppendStream(b *testing.B) {
	var peers [2]net.Listener
	addresses := make(map[NodeID]string)
	for i, id := range []NodeID{"a", "b"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		peers[i], addresses[id] = listener, listener.Addr().String()
	}
	var transports [2]*TCPTransport
	for i, id := range []NodeID{"a", "b"} {
		transports[i] = NewTCPTransport(addresses, time.Second, WithListener(peers[i]))
		require.NoError(b, transports[i].Serve(Local{ID: id}, new(fakeHandler)))
		defer transports[i].Close()
	}
	entries := make([]LogEntry, 100)
	for i := range entries {
		entries[i] = LogEntry{Term: 1, Index: Index(i + 1), Kind: EntryCommand, Data: make([]byte, 128)}
	}
	request := &AppendEntries{Header: Header{From: "a", To: "b"}, Term: 1, Entries: MakeEntries(entries...)}
	slots := make(chan bool, 16)
	stream := transports[0].OpenAppendStream("b", func(*AppendResponse) { <-slots }, func(err error) { b.Error(err) })
	defer stream.Close()
	b.SetBytes(int64(request.Entries.Size()))
	b.ReportAllocs()
	for b.Loop() {
		slots <- true
		stream.Send(request)
	}
	for range cap(slots) {
		slots <- true
	}
}
