package raft

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// askForward has a request forwarded, and returns what the caller of Propose would learn.
func (n *tcpNode) askForward(t *testing.T, to *tcpNode, kind ForwardKind) error {
	ctx := testContext(t)
	_, err := n.CallForward(ctx, to.id, &ForwardRequest{Header: n.headerTo(to.transportNode), Kind: kind})
	if err != nil {
		err = commandError(ctx, err)
	}
	return err
}

// A1: the answer to a forwarded command fits into no frame. The command was executed, so
// nothing may say that it was not accepted.
func TestA1TCPAnswerThatIsTooLarge(t *testing.T) {
	t.Parallel()
	a, b := startTCPPair(t, 20*time.Second, WithSendQueue(1<<30))
	answer := make([]byte, wire.MaxFrame)
	b.handler.forward = func(context.Context, *ForwardRequest) (*ForwardResponse, error) {
		return &ForwardResponse{Index: 7, Term: 1, Payload: answer}, nil
	}
	err := a.askForward(t, b, ForwardPropose)
	require.ErrorIs(t, err, ErrOutcomeUnknown)
	require.NotErrorIs(t, err, ErrNotAccepted)
	require.NoError(t, a.beat(t, b), "the connection goes on")
}

// A1: more large answers are ready at once than the queue holds. Those that do not fit are
// lost, and not the connection.
func TestA1TCPAnswersThatFindNoRoom(t *testing.T) {
	t.Parallel()
	const calls, size = 16, 1 << 20
	a, b := startTCPPair(t, 20*time.Second, WithSendQueue(2*size))
	var ready sync.WaitGroup
	ready.Add(calls)
	answer := make([]byte, size)
	b.handler.forward = func(context.Context, *ForwardRequest) (*ForwardResponse, error) {
		ready.Done()
		ready.Wait()
		return &ForwardResponse{Index: 7, Term: 1, Payload: answer}, nil
	}
	errs := make(chan error, calls)
	for range calls {
		go func() { errs <- a.askForward(t, b, ForwardPropose) }()
	}
	for range calls {
		if err := awaitValue(t, errs, "an answer"); err != nil {
			assert.ErrorContains(t, err, "no room for the answer")
			assert.ErrorIs(t, err, ErrOutcomeUnknown)
			assert.NotErrorIs(t, err, ErrNotAccepted)
		}
	}
}

// Reads are answered while as many forwarded commands wait as may.
func TestTCPForwardedCommandsLeaveRoomForReads(t *testing.T) {
	t.Parallel()
	a, b := startTCPPair(t, 20*time.Second)
	waiting := make(chan bool)
	release := sync.OnceFunc(func() { close(waiting) })
	defer release()
	entered := make(chan bool, maxForwardCalls)
	b.handler.forward = func(ctx context.Context, r *ForwardRequest) (*ForwardResponse, error) {
		if r.Kind == ForwardPropose {
			entered <- true
			<-waiting
		}
		return &ForwardResponse{Index: 7}, nil
	}
	var writers sync.WaitGroup
	for range maxForwardCalls {
		writers.Go(func() { assert.NoError(t, a.askForward(t, b, ForwardPropose)) })
	}
	for range maxForwardCalls {
		awaitValue(t, entered, "a command")
	}
	require.ErrorIs(t, a.askForward(t, b, ForwardPropose), ErrOverloaded)
	require.NoError(t, a.askForward(t, b, ForwardReadIndex))
	release()
	writers.Wait()
}

// meteredConn is a connection with a Write of its own.
type meteredConn struct {
	*net.TCPConn
	sent *int
}

func (c meteredConn) Write(b []byte) (int, error) {
	*c.sent += len(b)
	return c.TCPConn.Write(b)
}

// What a dialer or listener has wrapped is not passed by.
func TestTCPWrappedConnectionsAreWrittenThroughTheirWrite(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.Nil(t, newDirectWriter(meteredConn{conn.(*net.TCPConn), new(int)}))
}
