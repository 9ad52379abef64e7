package raft

import (
	"context"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// What a follower's driver allocates for a batch of entries does not depend on how many
// there are, from the message until its acknowledgement may leave.
func TestFollowerAllocatesForBatchesOnly(t *testing.T) {
	allocations := func(count int) float64 {
		r := follower(t, at{log: "1 1 2", term: 2, commit: 1})
		d, incarnation := r.node("b").driver, r.nodes["a"].incarnation
		d.verify = false
		last := d.core.log.last()
		const runs = 200
		var messages [][]byte
		for i := range runs + 1 { // one more is made
			first := last + 1 + Index(i*count)
			var entries []LogEntry
			for j := range count {
				entries = append(entries, LogEntry{Term: 2, Index: first + Index(j), Kind: EntryCommand, Data: []byte("command")})
			}
			header := Header{Fingerprint: d.core.settings.fingerprint, From: "a", To: "b", Incarnation: incarnation}
			messages = append(messages, encode(t, &AppendEntries{
				Header: header, Term: 2, PrevLogIndex: first - 1, PrevLogTerm: 2, LeaderCommit: first - 1, Entries: MakeEntries(entries...),
			}))
		}
		acknowledged := Index(0)
		now, events := r.now, make([]any, 1)
		respond := func(response any, err error) {
			require.NoError(t, err)
			acknowledged = response.(*AppendResponse).Match
		}
		return allocationsPerRun(runs, func() {
			m := new(AppendEntries)
			if err := m.UnmarshalBinary(messages[0]); err != nil {
				t.Error(err)
			}
			messages = messages[1:]
			now += time.Millisecond
			events[0] = appendArrived{m, respond}
			d.advance(now, events, nil)
			events[0] = written{}
			w := d.advance(now, events, nil)
			for _, reply := range w.replies {
				reply.respond(reply.response, nil)
			}
			if acknowledged != m.PrevLogIndex+Index(count) {
				t.Error("not acknowledged")
			}
		})
	}
	few, many := allocations(2), allocations(2000)
	t.Logf("%v allocations for 2 entries, %v for 2000", few, many)
	require.InDelta(t, few, many, 0.5)
	require.Less(t, max(few, many), 7.0, "and connection and disk need some more")
}

// Nor does what a whole follower allocates, from the frame in its socket to the
// acknowledgement in the leader's: connection, loop, driver, log on the disk and answer.
// Nothing is committed, and so nothing applied.
func TestFollowersProcessAllocatesForBatchesOnly(t *testing.T) {
	verifySteps = false // which allocates; no other test runs beside this one
	defer func() { verifySteps = true }()
	allocations := func(count int) float64 {
		leader := leadByHand(t)
		const runs = 50
		frames := make([][]byte, runs+1) // one more is made
		for i := range frames {
			frames[i] = leader.frame(t, count)
		}
		answer := make([]byte, 4096)
		var last []byte
		per := allocationsPerRun(runs, func() {
			_, err := leader.conn.Write(frames[0])
			frames = frames[1:]
			n := 0
			if err == nil {
				n, err = leader.conn.Read(answer)
			}
			if last = answer[:n]; err != nil {
				t.Error(err)
			}
		})
		_, _, message, err := wire.ParseBody(last[8:])
		require.NoError(t, err)
		var response AppendResponse
		require.NoError(t, response.UnmarshalBinary(message))
		require.Equal(t, leader.last, response.Match)
		return per
	}
	few, many := allocations(2), allocations(20_000)
	t.Logf("%v allocations for 2 entries, %v for 20,000", few, many)
	require.InDelta(t, few, many, 1, "a larger frame may come in more pieces")
	require.LessOrEqual(t, max(few, many), 8.0)
}

// allocationsPerRun is testing.AllocsPerRun with what is behind the point.
func allocationsPerRun(runs int, f func()) float64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(runs)
}

// leaderByHand sends entries to a real node over TCP.
type leaderByHand struct {
	conn        net.Conn
	fingerprint [16]byte
	last        Index
}

// leadByHand starts a node with a log on the disk, and connects to it as its leader.
func leadByHand(t *testing.T) *leaderByHand {
	addresses := map[NodeID]string{"a": "127.0.0.1:1", "b": "127.0.0.1:2"}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	const silence = time.Minute // nothing else than what is asked for may happen in it
	transport := NewTCPTransport(addresses, silence, WithListener(listener))
	config := NewConfig("b", addresses["b"], addresses)
	config.DataDir, config.ElectionTimeout, config.HeartbeatInterval = t.TempDir(), silence, silence/10
	node, err := NewNode(config, noMachine{}, transport)
	require.NoError(t, err)
	ran := make(chan error, 1)
	go func() { ran <- node.Run(context.Background()) }()
	t.Cleanup(func() {
		require.NoError(t, node.Stop(context.Background()))
		require.NoError(t, <-ran)
	})
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(silence)))
	require.Eventually(t, func() bool { return transport.service.Load() != nil }, silence, time.Millisecond)
	l := &leaderByHand{conn: conn, fingerprint: transport.service.Load().local.Fingerprint}
	hello := wire.Hello{
		MinVersion: wire.MinVersion, MaxVersion: wire.MaxVersion, Fingerprint: l.fingerprint,
		From: "a", To: "b", Incarnation: 5, Purpose: wire.PurposeBulk, Timeout: uint64(silence.Microseconds()),
	}
	_, err = conn.Write(hello.Append(nil))
	require.NoError(t, err)
	welcome := make([]byte, 4096)
	_, err = conn.Read(welcome) // all of it: there is nothing else to come
	require.NoError(t, err)
	return l
}

// frame is an append of the next entries.
func (l *leaderByHand) frame(t *testing.T, count int) []byte {
	entries := make([]LogEntry, count)
	for i := range entries {
		entries[i] = LogEntry{Term: 1, Index: l.last + 1 + Index(i), Kind: EntryCommand, Data: []byte("command")}
	}
	m := AppendEntries{
		Header: Header{Fingerprint: l.fingerprint, From: "a", To: "b", Incarnation: 5},
		Term:   1, PrevLogIndex: l.last, Entries: MakeEntries(entries...),
	}
	if m.PrevLogTerm = 1; l.last == 0 {
		m.PrevLogTerm = 0
	}
	l.last += Index(count)
	return rawFrame(t, kindStreamedAppend, uint64(l.last), encode(t, &m))
}
