package raft

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// transportUnderTest is a transport that does not serve yet, with what it is to
// be served with. A pair of them knows each other's addresses.
type transportUnderTest struct {
	Transport
	Local Local
}

// testTransport is what every Transport must pass. newPair returns two
// transports, whose nodes have any two ids; the suite closes them.
func testTransport(t *testing.T, newPair func(t *testing.T) (a, b transportUnderTest)) {
	suite := []struct {
		name    string
		streams bool
		test    func(t *testing.T, a, b *transportNode)
	}{
		{"carries every call both ways", false, testTransportCalls},
		{"carries a large append", false, testTransportLargeAppend},
		{"carries errors as codes", false, testTransportErrors},
		{"lets calls overtake each other", false, testTransportOvertaking},
		{"ends a call with its ctx", false, testTransportContext},
		{"ends calls and handlers with Close", false, testTransportClose},
		{"knows no peer without an address", false, testTransportUnknownPeer},
		{"keeps the order of a stream", true, testStreamOrder},
		{"closes a stream with its peer's error", true, testStreamError},
		{"closes a stream whose peer is down", true, testStreamPeerDown},
		{"allows Close within a callback", true, testStreamCloseInCallback},
	}
	for _, s := range suite {
		t.Run(s.name, func(t *testing.T) {
			first, second := newPair(t)
			a, b := newTransportNode(first), newTransportNode(second)
			t.Cleanup(func() {
				assert.NoError(t, a.Close())
				assert.NoError(t, b.Close())
			})
			if _, ok := first.Transport.(AppendStreamer); s.streams && !ok {
				return // it has none, and need not
			}
			_, err := a.CallVote(testContext(t), b.id, &VoteRequest{Header: a.headerTo(b)})
			require.Error(t, err, "a call before Serve")
			require.NoError(t, a.Serve(a.local, a.handler))
			require.NoError(t, b.Serve(b.local, b.handler))
			s.test(t, a, b)
		})
	}
}

func TestUnixTransport(t *testing.T) {
	testTransport(t, func(t *testing.T) (a, b transportUnderTest) {
		dir := t.TempDir()
		peers := map[NodeID]string{"a": filepath.Join(dir, "a"), "b": filepath.Join(dir, "b")}
		a = transportUnderTest{newUnixTransport(peers), Local{ID: "a", Address: peers["a"]}}
		b = transportUnderTest{newUnixTransport(peers), Local{ID: "b", Address: peers["b"]}}
		return a, b
	})
}

func TestMemoryTransport(t *testing.T) {
	testTransport(t, func(t *testing.T) (a, b transportUnderTest) {
		network := NewMemoryNetwork()
		return transportUnderTest{network.Transport("a"), Local{ID: "a"}}, transportUnderTest{network.Transport("b"), Local{ID: "b"}}
	})
}

// A cluster over real sockets goes through its whole life: it elects a leader,
// replicates, loses the leader and goes on.
func TestClusterOverUnixSockets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	peers := map[NodeID]string{}
	for _, id := range []NodeID{"a", "b", "c"} {
		peers[id] = filepath.Join(dir, string(id))
	}
	testCluster(t, peers, func(NodeID) Transport { return newUnixTransport(peers) })
}

func TestClusterOverTCP(t *testing.T) {
	t.Parallel()
	peers, newTransport := loopbackPeers(t)
	testCluster(t, peers, newTransport)
}

// loopbackPeers returns three members that listen on ports of their own.
func loopbackPeers(t *testing.T) (map[NodeID]string, func(NodeID) Transport) {
	peers := map[NodeID]string{}
	listeners := map[NodeID]net.Listener{}
	for _, id := range []NodeID{"a", "b", "c"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listeners[id], peers[id] = l, l.Addr().String()
	}
	return peers, func(id NodeID) Transport {
		return NewTCPTransport(peers, 500*time.Millisecond, WithListener(listeners[id]))
	}
}

// countingMachine answers each command with how many it has applied, and
// remembers their sum.
type countingMachine struct{ applied, sum atomic.Int64 }

func (m *countingMachine) Apply(command []byte) ([]byte, error) {
	m.sum.Add(int64(len(command)) * m.applied.Add(1))
	return fmt.Append(nil, m.applied.Load()), nil
}
func (m *countingMachine) Snapshot() ([]byte, error) { return nil, nil }
func (m *countingMachine) Restore([]byte) error      { return nil }

func testCluster(t *testing.T, peers map[NodeID]string, newTransport func(NodeID) Transport) {
	testClusterWith(t, peers, newTransport, 0, func(NodeID) Storage { return NewMemoryStorage() })
}

// testClusterWith has 40 commands of at least so many bytes applied, with the leader stopped
// in the middle.
func testClusterWith(t *testing.T, peers map[NodeID]string, newTransport func(NodeID) Transport, bytes int, newStorage func(NodeID) Storage) {
	nodes := map[NodeID]*Node{}
	machines := map[NodeID]*countingMachine{}
	var running sync.WaitGroup
	for id := range peers {
		config := NewConfig(id, peers[id], peers)
		config.Storage = newStorage(id)
		config.HeartbeatInterval, config.ElectionTimeout = 50*time.Millisecond, 600*time.Millisecond // no busy machine is so slow
		machines[id] = new(countingMachine)
		n, err := NewNode(config, machines[id], newTransport(id))
		require.NoError(t, err)
		nodes[id] = n
		running.Go(func() { assert.NoError(t, n.Run(context.Background())) })
	}
	ctx := testContext(t)
	propose := func(command string) {
		for {
			for _, n := range nodes {
				result, err := n.Propose(ctx, []byte(command))
				if err == nil {
					require.NotEmpty(t, result.Response)
					return
				}
				require.ErrorIs(t, err, ErrNotAccepted)
			}
			require.NoError(t, ctx.Err(), "no leader")
			time.Sleep(5 * time.Millisecond)
		}
	}
	for i := range 20 {
		propose(strings.Repeat("x", bytes+i))
	}
	for id, n := range nodes {
		if s := n.Status(); s.Role == Leader {
			require.NoError(t, n.Stop(ctx))
			delete(nodes, id)
			break
		}
	}
	for i := range 20 {
		propose(strings.Repeat("y", bytes+i))
	}
	for id := range nodes {
		require.Eventually(t, func() bool { return machines[id].applied.Load() == 40 }, 5*time.Second, time.Millisecond)
	}
	var sums []int64
	for id, n := range nodes {
		require.NoError(t, n.Stop(ctx))
		sums = append(sums, machines[id].sum.Load())
	}
	running.Wait()
	require.Equal(t, sums[0], sums[1])
}

// transportNode is one side of a pair.
type transportNode struct {
	Transport
	id      NodeID
	local   Local
	handler *fakeHandler
}

func newTransportNode(u transportUnderTest) *transportNode {
	if u.Local.Logger == nil {
		u.Local.Logger = zap.NewNop()
	}
	return &transportNode{u.Transport, u.Local.ID, u.Local, new(fakeHandler)}
}

func (n *transportNode) headerTo(to *transportNode) Header {
	return Header{Fingerprint: n.local.Fingerprint, From: n.id, To: to.id, Incarnation: n.local.Incarnation}
}

// fakeHandler answers as its functions say; without one, with a response that
// repeats the request's term.
type fakeHandler struct {
	vote       func(context.Context, *VoteRequest) (*VoteResponse, error)
	heartbeat  func(context.Context, *Heartbeat) (*HeartbeatResponse, error)
	appendCall func(context.Context, *AppendEntries) (*AppendResponse, error)
	snapshot   func(context.Context, *InstallSnapshot) (*SnapshotResponse, error)
	timeoutNow func(context.Context, *TimeoutNow) (*TimeoutNowResponse, error)
	forward    func(context.Context, *ForwardRequest) (*ForwardResponse, error)
	begin      func(*AppendEntries, func(*AppendResponse, error))
}

func (h *fakeHandler) HandleVote(ctx context.Context, r *VoteRequest) (*VoteResponse, error) {
	if h.vote != nil {
		return h.vote(ctx, r)
	}
	return &VoteResponse{Term: r.Term}, nil
}

func (h *fakeHandler) HandleHeartbeat(ctx context.Context, r *Heartbeat) (*HeartbeatResponse, error) {
	if h.heartbeat != nil {
		return h.heartbeat(ctx, r)
	}
	return &HeartbeatResponse{Term: r.Term, Round: r.Round}, nil
}

func (h *fakeHandler) HandleAppend(ctx context.Context, r *AppendEntries) (*AppendResponse, error) {
	if h.appendCall != nil {
		return h.appendCall(ctx, r)
	}
	return &AppendResponse{Term: r.Term, Success: true, Match: r.Entries.last()}, nil
}

func (h *fakeHandler) HandleSnapshot(ctx context.Context, r *InstallSnapshot) (*SnapshotResponse, error) {
	if h.snapshot != nil {
		return h.snapshot(ctx, r)
	}
	return &SnapshotResponse{Term: r.Term, Next: r.Offset + uint64(len(r.Data))}, nil
}

func (h *fakeHandler) HandleTimeoutNow(ctx context.Context, r *TimeoutNow) (*TimeoutNowResponse, error) {
	if h.timeoutNow != nil {
		return h.timeoutNow(ctx, r)
	}
	return &TimeoutNowResponse{Term: r.Term, Started: true}, nil
}

func (h *fakeHandler) HandleForward(ctx context.Context, r *ForwardRequest) (*ForwardResponse, error) {
	if h.forward != nil {
		return h.forward(ctx, r)
	}
	return &ForwardResponse{Payload: r.Payload}, nil
}

func (h *fakeHandler) BeginAppend(r *AppendEntries, respond func(*AppendResponse, error)) {
	if h.begin != nil {
		h.begin(r, respond)
		return
	}
	respond(&AppendResponse{Term: r.Term, Success: true, Match: r.PrevLogIndex + Index(r.Entries.Len())}, nil)
}

// testContext ends long after anything in a test should have.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// awaitValue receives from c within bound.
func awaitValue[T any](t *testing.T, c <-chan T, what string) (value T) {
	t.Helper()
	select {
	case value = <-c:
	case <-time.After(10 * time.Second):
		require.FailNow(t, "timed out waiting for "+what)
	}
	return value
}

// someAppend returns an append of one entry at index.
func someAppend(header Header, index Index, data string) *AppendEntries {
	return &AppendEntries{
		Header: header, Term: 3, PrevLogIndex: index - 1, PrevLogTerm: 3, LeaderCommit: index - 1, LeaderAddress: "leader:1",
		Entries: MakeEntries(LogEntry{Term: 3, Index: index, Kind: EntryCommand, Data: []byte(data)}),
	}
}

func testTransportCalls(t *testing.T, a, b *transportNode) {
	ctx := testContext(t)
	for _, side := range []struct{ from, to *transportNode }{{a, b}, {b, a}} {
		from, to := side.from, side.to
		header := from.headerTo(to)

		vote := &VoteRequest{Header: header, Term: 5, LastLogIndex: 7, LastLogTerm: 4, PreVote: true, Transfer: true}
		voteResponse := &VoteResponse{Term: 6, VoteGranted: true, PreVote: true, Refusal: RefusalVoted, Leader: "x", Incarnation: 8}
		to.handler.vote = checked(t, vote, voteResponse)
		gotVote, err := from.CallVote(ctx, to.id, vote)
		require.NoError(t, err)
		assert.Equal(t, voteResponse, gotVote)

		heartbeat := &Heartbeat{Header: header, Term: 5, Commit: 2, Round: 9, LeaderAddress: "l:1"}
		heartbeatResponse := &HeartbeatResponse{Term: 5, Round: 9, Incarnation: 3}
		to.handler.heartbeat = checked(t, heartbeat, heartbeatResponse)
		gotHeartbeat, err := from.CallHeartbeat(ctx, to.id, heartbeat)
		require.NoError(t, err)
		assert.Equal(t, heartbeatResponse, gotHeartbeat)

		entries := someAppend(header, 12, "command")
		appendResponse := &AppendResponse{Term: 5, PrevLogIndex: 11, ConflictIndex: 4, ConflictTerm: 2, Incarnation: 3}
		to.handler.appendCall = checked(t, entries, appendResponse)
		gotAppend, err := from.CallAppend(ctx, to.id, entries)
		require.NoError(t, err)
		assert.Equal(t, appendResponse, gotAppend)

		chunk := &InstallSnapshot{Header: header, Term: 5, LastIndex: 9, LastTerm: 4, Transfer: 77, Size: 10, Offset: 4, Data: []byte("chunk")}
		chunkResponse := &SnapshotResponse{Term: 5, Next: 9, Match: 3, Incarnation: 3}
		to.handler.snapshot = checked(t, chunk, chunkResponse)
		gotChunk, err := from.CallSnapshot(ctx, to.id, chunk)
		require.NoError(t, err)
		assert.Equal(t, chunkResponse, gotChunk)

		timeoutNow := &TimeoutNow{Header: header, Term: 5}
		timeoutNowResponse := &TimeoutNowResponse{Term: 6, Started: true, Incarnation: 3}
		to.handler.timeoutNow = checked(t, timeoutNow, timeoutNowResponse)
		gotTimeoutNow, err := from.CallTimeoutNow(ctx, to.id, timeoutNow)
		require.NoError(t, err)
		assert.Equal(t, timeoutNowResponse, gotTimeoutNow)

		for _, size := range []int{1, 100 << 10} {
			forward := &ForwardRequest{Header: header, Kind: ForwardPropose, Payload: []byte(strings.Repeat("p", size))}
			forwardResponse := &ForwardResponse{Code: CodeNotLeader, Index: 4, Term: 5, Leader: "l", Address: "l:1", Message: "no", Payload: []byte(strings.Repeat("r", size))}
			to.handler.forward = checked(t, forward, forwardResponse)
			gotForward, err := from.CallForward(ctx, to.id, forward)
			require.NoError(t, err)
			assert.Equal(t, forwardResponse, gotForward)
		}
	}
}

// checked returns a handler that expects want and answers response.
func checked[Request, Response any](t *testing.T, want *Request, response *Response) func(context.Context, *Request) (*Response, error) {
	return func(_ context.Context, got *Request) (*Response, error) {
		assert.Equal(t, want, got)
		return response, nil
	}
}

func testTransportLargeAppend(t *testing.T, a, b *transportNode) {
	request := someAppend(a.headerTo(b), 1, strings.Repeat("0123456789abcdef", 6<<20/16))
	b.handler.appendCall = checked(t, request, &AppendResponse{Success: true})
	_, err := a.CallAppend(testContext(t), b.id, request)
	require.NoError(t, err)
}

func testTransportErrors(t *testing.T, a, b *transportNode) {
	ctx := testContext(t)
	for _, c := range codes {
		b.handler.heartbeat = func(context.Context, *Heartbeat) (*HeartbeatResponse, error) {
			return nil, fmt.Errorf("%w: on purpose", c.sentinel)
		}
		response, err := a.CallHeartbeat(ctx, b.id, &Heartbeat{Header: a.headerTo(b)})
		assert.Nil(t, response)
		var remote *RemoteError
		if assert.ErrorAs(t, err, &remote) {
			assert.Equal(t, c.code, remote.Code)
			assert.Equal(t, b.id, remote.Peer)
			assert.ErrorIs(t, err, c.sentinel)
			assert.ErrorContains(t, err, "on purpose")
		}
	}
	b.handler.heartbeat = func(context.Context, *Heartbeat) (*HeartbeatResponse, error) {
		return nil, fmt.Errorf("something else")
	}
	_, err := a.CallHeartbeat(ctx, b.id, &Heartbeat{Header: a.headerTo(b)})
	var remote *RemoteError
	require.ErrorAs(t, err, &remote)
	assert.Equal(t, CodeInternal, remote.Code)
}

func testTransportOvertaking(t *testing.T, a, b *transportNode) {
	ctx := testContext(t)
	entered, release := make(chan bool, 1), make(chan bool)
	b.handler.forward = func(ctx context.Context, r *ForwardRequest) (*ForwardResponse, error) {
		entered <- true
		select {
		case <-release:
		case <-ctx.Done():
		}
		return &ForwardResponse{Payload: r.Payload}, nil
	}
	slow := make(chan error, 1)
	go func() {
		_, err := a.CallForward(ctx, b.id, &ForwardRequest{Header: a.headerTo(b), Payload: []byte("slow")})
		slow <- err
	}()
	awaitValue(t, entered, "the slow call")
	for round := range uint64(100) {
		response, err := a.CallHeartbeat(ctx, b.id, &Heartbeat{Header: a.headerTo(b), Round: round})
		require.NoError(t, err)
		require.Equal(t, round, response.Round)
	}
	close(release)
	require.NoError(t, awaitValue(t, slow, "the slow call's response"))
}

func testTransportContext(t *testing.T, a, b *transportNode) {
	entered, release := make(chan bool, 1), make(chan bool)
	b.handler.heartbeat = func(_ context.Context, r *Heartbeat) (*HeartbeatResponse, error) {
		if r.Round == 0 {
			entered <- true
			<-release
		}
		return &HeartbeatResponse{Round: r.Round}, nil
	}
	defer close(release)
	ctx, cancel := context.WithCancel(testContext(t))
	ended := make(chan error, 1)
	go func() {
		_, err := a.CallHeartbeat(ctx, b.id, &Heartbeat{Header: a.headerTo(b)})
		ended <- err
	}()
	awaitValue(t, entered, "the call")
	cancel()
	err := awaitValue(t, ended, "the end of the call")
	assert.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, ErrNotAccepted, "it was handed over")

	response, err := a.CallHeartbeat(testContext(t), b.id, &Heartbeat{Header: a.headerTo(b), Round: 4})
	require.NoError(t, err, "the call after it")
	assert.Equal(t, uint64(4), response.Round)
}

func testTransportClose(t *testing.T, a, b *transportNode) {
	entered := make(chan bool, 1)
	var running atomic.Int32
	b.handler.forward = func(ctx context.Context, _ *ForwardRequest) (*ForwardResponse, error) {
		running.Add(1)
		defer running.Add(-1)
		entered <- true
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ended := make(chan error, 1)
	go func() {
		_, err := a.CallForward(testContext(t), b.id, &ForwardRequest{Header: a.headerTo(b)})
		ended <- err
	}()
	awaitValue(t, entered, "the handler")
	require.NoError(t, b.Close())
	assert.Zero(t, running.Load(), "handlers running after Close")
	err := awaitValue(t, ended, "the end of the call")
	assert.Error(t, err)
	assert.NotErrorIs(t, err, ErrNotAccepted, "the handler had the request")

	require.Eventually(t, func() bool {
		_, err = a.CallHeartbeat(testContext(t), b.id, &Heartbeat{Header: a.headerTo(b)})
		return assert.ObjectsAreEqual(CodeUnreachable, CodeOf(err))
	}, 5*time.Second, time.Millisecond, "a peer that is closed")
	_, err = b.CallHeartbeat(testContext(t), a.id, &Heartbeat{Header: b.headerTo(a)})
	assert.ErrorIs(t, err, ErrUnreachable, "a call after Close")
	assert.NoError(t, b.Close(), "Close again")
}

func testTransportUnknownPeer(t *testing.T, a, b *transportNode) {
	_, err := a.CallHeartbeat(testContext(t), "nobody", &Heartbeat{Header: Header{From: a.id, To: "nobody"}})
	assert.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "nobody")
	_, err = a.CallHeartbeat(testContext(t), b.id, &Heartbeat{Header: a.headerTo(b)})
	assert.NoError(t, err)
}

// streamEvents collects what a stream's callbacks are told.
type streamEvents struct {
	responses chan *AppendResponse
	closed    chan error
}

func openTestStream(n *transportNode, peer NodeID) (AppendStream, *streamEvents) {
	events := &streamEvents{make(chan *AppendResponse, 10_000), make(chan error, 10)}
	stream := n.Transport.(AppendStreamer).OpenAppendStream(peer,
		func(response *AppendResponse) { events.responses <- response },
		func(err error) { events.closed <- err })
	return stream, events
}

func testStreamOrder(t *testing.T, a, b *transportNode) {
	// The peer answers late and from many goroutines, but in order.
	const appends, window = 500, 50
	var mu sync.Mutex
	var seen []Index
	var waiting []func()
	b.handler.begin = func(r *AppendEntries, respond func(*AppendResponse, error)) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Entries.First())
		waiting = append(waiting, func() { respond(&AppendResponse{Success: true, Match: r.Entries.last()}, nil) })
		if len(waiting) < window {
			return
		}
		batch := waiting
		waiting = nil
		done := make(chan bool)
		go func() {
			defer close(done)
			for _, respond := range batch {
				respond()
			}
		}()
		<-done
	}
	stream, events := openTestStream(a, b.id)
	defer stream.Close()
	for i := range Index(appends) {
		require.True(t, stream.Send(someAppend(a.headerTo(b), i+1, "x")))
	}
	for i := range Index(appends) {
		require.Equal(t, i+1, awaitValue(t, events.responses, "a response").Match)
	}
	mu.Lock()
	defer mu.Unlock()
	for i, index := range seen {
		require.Equal(t, Index(i+1), index)
	}
	require.Empty(t, events.closed)
}

func testStreamError(t *testing.T, a, b *transportNode) {
	b.handler.begin = func(r *AppendEntries, respond func(*AppendResponse, error)) {
		if r.Entries.First() == 2 {
			respond(nil, ErrOtherDisk)
			return
		}
		respond(&AppendResponse{Match: r.Entries.First()}, nil)
	}
	stream, events := openTestStream(a, b.id)
	for i := range Index(3) {
		stream.Send(someAppend(a.headerTo(b), i+1, "x"))
	}
	require.Equal(t, Index(1), awaitValue(t, events.responses, "a response").Match)
	err := awaitValue(t, events.closed, "the end of the stream")
	var remote *RemoteError
	assert.ErrorAs(t, err, &remote)
	assert.ErrorIs(t, err, ErrOtherDisk)
	assert.False(t, stream.Send(someAppend(a.headerTo(b), 4, "x")), "Send on a broken stream")
	stream.Close()

	// A stream opened after it works.
	second, secondEvents := openTestStream(a, b.id)
	defer second.Close()
	require.True(t, second.Send(someAppend(a.headerTo(b), 9, "x")))
	assert.Equal(t, Index(9), awaitValue(t, secondEvents.responses, "a response").Match)
	assert.Empty(t, events.responses)
	assert.Empty(t, events.closed)
}

func testStreamPeerDown(t *testing.T, a, b *transportNode) {
	require.NoError(t, b.Close())
	for range 3 { // with an attempt, and during a back-off
		stream, events := openTestStream(a, b.id)
		stream.Send(someAppend(a.headerTo(b), 1, "x"))
		assert.ErrorIs(t, awaitValue(t, events.closed, "the end of the stream"), ErrUnreachable)
		stream.Close()
		assert.Empty(t, events.closed)
		assert.Empty(t, events.responses)
	}
}

func testStreamCloseInCallback(t *testing.T, a, b *transportNode) {
	streamer := a.Transport.(AppendStreamer)
	var responses atomic.Int32
	var stream AppendStream
	ready, closed := make(chan bool), make(chan bool)
	stream = streamer.OpenAppendStream(b.id, func(*AppendResponse) {
		<-ready
		if responses.Add(1) == 1 {
			stream.Close()
			close(closed)
		}
	}, func(error) { assert.Fail(t, "onClosed after Close") })
	for i := range Index(20) {
		require.True(t, stream.Send(someAppend(a.headerTo(b), i+1, "x")))
	}
	close(ready)
	awaitValue(t, closed, "Close")
	// What is answered on a second stream was sent after the first one's.
	second, events := openTestStream(a, b.id)
	second.Send(someAppend(a.headerTo(b), 1, "x"))
	awaitValue(t, events.responses, "a response")
	second.Close()
	assert.EqualValues(t, 1, responses.Load(), "a response after Close")

	var broken AppendStream
	ready, closed = make(chan bool), make(chan bool)
	broken = streamer.OpenAppendStream("nobody", func(*AppendResponse) {}, func(error) {
		<-ready
		broken.Close()
		close(closed)
	})
	close(ready)
	awaitValue(t, closed, "Close within onClosed")
}
