package raft

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTCPTransport(t *testing.T) {
	testTransport(t, func(t *testing.T) (a, b transportUnderTest) {
		return newTCPPair(t, 2*time.Second)
	})
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
