package raft

import (
	"context"
	"time"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// Heartbeats over TCP without a goroutine that waits for each: a round of them is all
// that a linearizable read costs, so what it wakes up is what the read takes.

// heartbeatStarter is a transport that can do so, as long as it has a connection.
type heartbeatStarter interface {
	// startHeartbeat is CallHeartbeat that returns at once. done is called exactly once,
	// unless the result is false: then there is no connection, and nothing was done.
	startHeartbeat(peer NodeID, request *Heartbeat, patience time.Duration, done func(*HeartbeatResponse, error)) bool
}

// heartbeatBeginner is a [Handler] that can do so.
type heartbeatBeginner interface {
	// beginHeartbeat is HandleHeartbeat that returns at once. respond is called once.
	beginHeartbeat(request *Heartbeat, respond func(*HeartbeatResponse, error))
}

var (
	_ heartbeatStarter  = (*TCPTransport)(nil)
	_ heartbeatBeginner = (*Node)(nil)
)

func (t *TCPTransport) startHeartbeat(peer NodeID, request *Heartbeat, patience time.Duration, done func(*HeartbeatResponse, error)) bool {
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
	response := new(HeartbeatResponse)
	call := &tcpCall{kind: kindHeartbeat, response: response, deadline: time.Now().Add(min(patience, t.timeout))}
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

// expire ends the calls that nobody waits for with a deadline of their own. The writer
// looks after them now and then, so they may last a little longer.
func (c *tcpConn) expire(now time.Time) {
	var late []*tcpCall
	c.mu.Lock()
	for id, call := range c.calls {
		if call.told != nil && now.After(call.deadline) {
			late = append(late, call)
			delete(c.calls, id)
		}
	}
	c.mu.Unlock()
	for _, call := range late {
		call.finish(c.givenUp(call, context.DeadlineExceeded))
	}
}
