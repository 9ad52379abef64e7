package raft

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-8da499c8/raft/internal/wire"
	"github.com/stretchr/testify/require"
)

// pipeNetwork lets a [TCPTransport] run in a bubble of virtual time, where
// sockets cannot be: its connections are pipes within the process.
type pipeNetwork struct {
	mu        sync.Mutex // guards listeners
	listeners map[string]*pipeListener
}

func newPipeNetwork() *pipeNetwork { return &pipeNetwork{listeners: map[string]*pipeListener{}} }

func (n *pipeNetwork) listen(address string) net.Listener {
	l := &pipeListener{address: address, accept: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[address] = l
	return l
}

// dialer dials for whoever listens, or listened last, at an address from.
func (n *pipeNetwork) dialer(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		n.mu.Lock()
		l := n.listeners[address]
		n.mu.Unlock()
		if l == nil {
			return nil, fmt.Errorf("nobody listens at %s", address)
		}
		client, server := net.Pipe()
		select {
		case l.accept <- pipeConn{server, pipeAddress(from)}:
			return pipeConn{client, pipeAddress(address)}, nil
		case <-l.closed:
			return nil, fmt.Errorf("nobody listens at %s any more", address)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

type pipeAddress string

func (pipeAddress) Network() string  { return "pipe" }
func (a pipeAddress) String() string { return string(a) }

type pipeConn struct {
	net.Conn
	remote pipeAddress
}

func (c pipeConn) RemoteAddr() net.Addr { return c.remote }

type pipeListener struct {
	address string
	accept  chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accept:
		return conn, nil
	case <-l.closed:
		return nil, errors.New("the listener is closed")
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddress(l.address) }

// startPipePair starts two transports, each with a timeout of its own, in a
// bubble.
func startPipePair(t *testing.T, timeoutA, timeoutB time.Duration) (a, b *tcpNode, network *pipeNetwork) {
	network = newPipeNetwork()
	peers := map[NodeID]string{"a": "a:1", "b": "b:1"}
	start := func(id NodeID, timeout time.Duration) *tcpNode {
		transport := NewTCPTransport(peers, timeout, WithListener(network.listen(peers[id])), WithDialer(network.dialer(string(id))))
		return startTCP(t, transportUnderTest{transport, Local{ID: id, Address: peers[id], Fingerprint: [16]byte{1}, Incarnation: 7}})
	}
	return start("a", timeoutA), start("b", timeoutB), network
}

// contact makes n connect to a peer for either purpose.
func (n *tcpNode) contact(t *testing.T, to *tcpNode) {
	require.NoError(t, n.beat(t, to))
	_, err := n.CallAppend(testContext(t), to.id, someAppend(n.headerTo(to.transportNode), 1, "x"))
	require.NoError(t, err)
}

// A peer that gives signs of life and reads nothing does not hold the writer for ever: each
// write has a deadline of its own.
func TestTCPPeerThatSpeaksAndDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newPipeNetwork()
		deaf, ended := network.listen("b:1"), make(chan struct{})
		go func() {
			defer close(ended)
			conn, err := deaf.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			wire.ReadHello(bufio.NewReader(conn))
			conn.Write((&wire.Welcome{Version: 1}).Append(nil))
			for err == nil {
				_, err = conn.Write(rawFrame(t, kindAlive, 0, []byte{0x90}))
				time.Sleep(200 * time.Millisecond)
			}
		}()
		transport := NewTCPTransport(map[NodeID]string{"a": "a:1", "b": "b:1"}, time.Second, WithListener(network.listen("a:1")), WithDialer(network.dialer("a")))
		a := startTCP(t, transportUnderTest{transport, Local{ID: "a", Address: "a:1", Fingerprint: [16]byte{1}, Incarnation: 7}})
		stream, events := openTestStream(a.transportNode, "b")
		defer stream.Close()
		began := time.Now()
		require.True(t, stream.Send(someAppend(Header{From: "a", To: "b"}, 1, "x")))
		require.ErrorContains(t, awaitValue(t, events.closed, "the end of the connection"), "took nothing")
		require.LessOrEqual(t, time.Since(began), 2*time.Second)
		deaf.Close() // who dials again finds nobody
		<-ended
	})
}
