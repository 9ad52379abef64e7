package raft

import (
	"context"
	"time"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// Heartbeats, and what a follower asks its leader for its readers, over TCP without a
// goroutine that waits for each: a round of the former, or one of each, is all that a
// linearizable read costs, so what they wake up is what the read takes.

// callStarter is a transport that can do so, as long as it has a connection with room in its
// queue. done is called exactly once, unless the result is false: then nothing was sent.
type callStarter interface {
	// startHeartbeat is CallHeartbeat that returns at once.
	startHeartbeat(peer NodeID, request *Heartbeat, patience time.Duration, done func(*HeartbeatResponse, error)) bool

	// startReadQuestion is CallForward of a ForwardReadIndex that returns at once.
	startReadQuestion(peer NodeID, request *ForwardRequest, patience time.Duration, done func(*ForwardResponse, error)) bool
}

// callBeginner is a [Handler] that can do so. respond is called once.
type callBeginner interface {
	// beginHeartbeat is HandleHeartbeat that returns at once.
	beginHeartbeat(request *Heartbeat, respond func(*HeartbeatResponse, error))

	// beginReadQuestion is HandleForward of a ForwardReadIndex that returns at once.
	beginReadQuestion(request *ForwardRequest, respond func(*ForwardResponse, error))
}

var (
	_ callStarter  = (*TCPTransport)(nil)
	_ callBeginner = (*Node)(nil)
)

func (t *TCPTransport) startHeartbeat(peer NodeID, request *Heartbeat, patience time.Duration, done func(*HeartbeatResponse, error)) bool {
	return startCall(t, peer, kindHeartbeat, request, min(patience, t.timeout), done)
}

func (t *TCPTransport) startReadQuestion(peer NodeID, request *ForwardRequest, patience time.Duration, done func(*ForwardResponse, error)) bool {
	return startCall(t, peer, kindForward, request, patience, done)
}

// startCall sends a small request, if there is a connection, and has done called with what
// comes of it.
func startCall[Response any, ResponsePointer responsePointer[Response]](
	t *TCPTransport, peer NodeID, kind uint64, request message, patience time.Duration, done func(ResponsePointer, error),
) bool {
	link, err := t.link(peer, wire.PurposeControl)
	if err != nil {
		return false
	}
	link.mu.Lock()
	conn := link.conn
	link.mu.Unlock()
	if conn == nil {
		return false
	}
	response := ResponsePointer(new(Response))
	call := &tcpCall{kind: kind, response: response, deadline: time.Now().Add(patience)}
	call.told = func(err error) {
		if err != nil {
			done(nil, err)
			return
		}
		done(response, nil)
	}
	_, err = conn.request(call, request, messageOverhead)
	return err == nil
}

// expireAt has expire run at a deadline, unless it does so before. Called with c.mu held.
func (c *tcpConn) expireAt(deadline time.Time) {
	switch {
	case !c.expiresAt.IsZero() && !deadline.Before(c.expiresAt):
		return
	case c.expiry == nil:
		c.expiry = time.AfterFunc(time.Until(deadline), c.expire)
	default:
		c.expiry.Reset(time.Until(deadline))
	}
	c.expiresAt = deadline
}

// expire ends the calls that nobody waits for whose deadline has come. The end of the
// connection waits for it.
func (c *tcpConn) expire() {
	now := time.Now()
	var late []*tcpCall
	c.mu.Lock()
	if c.calls == nil {
		c.mu.Unlock()
		return
	}
	c.expiring.Add(1)
	defer c.expiring.Done()
	c.expiresAt = time.Time{}
	for id, call := range c.calls {
		switch {
		case call.told == nil:
		case call.deadline.After(now):
			c.expireAt(call.deadline)
		default:
			late = append(late, call)
			delete(c.calls, id)
		}
	}
	c.mu.Unlock()
	for _, call := range late {
		call.finish(c.givenUp(call, context.DeadlineExceeded))
	}
}
