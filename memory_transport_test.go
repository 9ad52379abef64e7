package raft_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// memoryHandler answers every request, and remembers the order they came in.
type memoryHandler struct {
	mu   sync.Mutex
	seen []any

	fail error                                           // what every call returns, if set
	wait func(ctx context.Context, request any)          // what every call does first, if set
	take func(respond func(*raft.AppendResponse, error)) // what BeginAppend does instead of answering, if set
}

func (h *memoryHandler) requests() []any {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen)
}

// terms returns the terms of the AppendEntries that arrived: the tests number them so.
func (h *memoryHandler) terms() []raft.Term {
	var terms []raft.Term
	for _, request := range h.requests() {
		if appendEntries, ok := request.(*raft.AppendEntries); ok {
			terms = append(terms, appendEntries.Term)
		}
	}
	return terms
}

func memoryServe[Response any](ctx context.Context, h *memoryHandler, request any, response *Response) (*Response, error) {
	h.mu.Lock()
	h.seen = append(h.seen, request)
	h.mu.Unlock()
	if h.wait != nil {
		h.wait(ctx, request)
	}
	if h.fail != nil {
		return nil, h.fail
	}
	return response, nil
}

func (h *memoryHandler) HandleVote(ctx context.Context, request *raft.VoteRequest) (*raft.VoteResponse, error) {
	return memoryServe(ctx, h, request, &raft.VoteResponse{Term: request.Term})
}

func (h *memoryHandler) HandleHeartbeat(ctx context.Context, request *raft.Heartbeat) (*raft.HeartbeatResponse, error) {
	return memoryServe(ctx, h, request, &raft.HeartbeatResponse{Term: request.Term})
}

func (h *memoryHandler) HandleAppend(ctx context.Context, request *raft.AppendEntries) (*raft.AppendResponse, error) {
	return memoryServe(ctx, h, request, &raft.AppendResponse{Term: request.Term})
}

func (h *memoryHandler) HandleSnapshot(ctx context.Context, request *raft.InstallSnapshot) (*raft.SnapshotResponse, error) {
	return memoryServe(ctx, h, request, &raft.SnapshotResponse{Term: request.Term})
}

func (h *memoryHandler) HandleTimeoutNow(ctx context.Context, request *raft.TimeoutNow) (*raft.TimeoutNowResponse, error) {
	return memoryServe(ctx, h, request, &raft.TimeoutNowResponse{Term: request.Term})
}

func (h *memoryHandler) HandleForward(ctx context.Context, request *raft.ForwardRequest) (*raft.ForwardResponse, error) {
	return memoryServe(ctx, h, request, &raft.ForwardResponse{Payload: request.Payload})
}

func (h *memoryHandler) BeginAppend(request *raft.AppendEntries, respond func(*raft.AppendResponse, error)) {
	response, err := memoryServe(context.Background(), h, request, &raft.AppendResponse{Term: request.Term})
	if h.take != nil {
		h.take(respond)
		return
	}
	respond(response, err)
}

// memoryRig is a network with serving nodes.
type memoryRig struct {
	*raft.MemoryNetwork
	t          *testing.T
	transports map[raft.NodeID]raft.Transport
	handlers   map[raft.NodeID]*memoryHandler
}

// memoryBubble runs f in a bubble with a rig of these nodes, and closes it
// after. That the bubble ends proves that no goroutine is left.
func memoryBubble(t *testing.T, f func(t *testing.T, rig *memoryRig), ids ...raft.NodeID) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		rig := &memoryRig{raft.NewMemoryNetwork(), t, map[raft.NodeID]raft.Transport{}, map[raft.NodeID]*memoryHandler{}}
		for _, id := range ids {
			rig.start(id)
		}
		f(t, rig)
		for _, transport := range rig.transports {
			require.NoError(t, transport.Close())
		}
	})
}

func (rig *memoryRig) start(id raft.NodeID) {
	rig.transports[id], rig.handlers[id] = rig.Transport(id), &memoryHandler{}
	require.NoError(rig.t, rig.transports[id].Serve(raft.Local{ID: id}, rig.handlers[id]))
}

// heartbeat makes a call that waits for a second at most.
func (rig *memoryRig) heartbeat(from, to raft.NodeID, term raft.Term) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	response, err := rig.transports[from].CallHeartbeat(ctx, to, &raft.Heartbeat{Term: term})
	if err == nil {
		assert.Equal(rig.t, term, response.Term)
	}
	return err
}

// goHeartbeat makes a call in the background.
func (rig *memoryRig) goHeartbeat(from, to raft.NodeID, term raft.Term) <-chan error {
	result := make(chan error, 1)
	go func() { result <- rig.heartbeat(from, to, term) }()
	synctest.Wait()
	return result
}

// memoryStreamLog is what the sender of a stream was told.
type memoryStreamLog struct {
	raft.AppendStream
	mu    sync.Mutex
	terms []raft.Term
	cause error
}

func (rig *memoryRig) stream(from, to raft.NodeID) *memoryStreamLog {
	log := &memoryStreamLog{}
	log.AppendStream = rig.transports[from].(raft.AppendStreamer).OpenAppendStream(to,
		func(response *raft.AppendResponse) {
			log.mu.Lock()
			defer log.mu.Unlock()
			log.terms = append(log.terms, response.Term)
		},
		func(err error) {
			log.mu.Lock()
			defer log.mu.Unlock()
			log.cause = err
		})
	return log
}

// answered waits until nothing moves any more, and returns the terms of the
// responses so far.
func (log *memoryStreamLog) answered() []raft.Term {
	synctest.Wait()
	log.mu.Lock()
	defer log.mu.Unlock()
	return slices.Clone(log.terms)
}

// broken returns the cause that onClosed was called with.
func (log *memoryStreamLog) broken() error {
	synctest.Wait()
	log.mu.Lock()
	defer log.mu.Unlock()
	return log.cause
}

func (log *memoryStreamLog) sendTerms(t *testing.T, first, last raft.Term) {
	for term := first; term <= last; term++ {
		require.True(t, log.Send(&raft.AppendEntries{Term: term}))
	}
}

func memoryTerms(first, last raft.Term) []raft.Term {
	var terms []raft.Term
	for term := first; term <= last; term++ {
		terms = append(terms, term)
	}
	return terms
}

// memoryEntries returns one entry with so many zeros. Nothing writes them, so
// that even a huge one costs no time.
func memoryEntries(size int) raft.Entries {
	header := []byte{0x93, 1, 1, 0x91, 0x92, byte(raft.EntryCommand), 0xc6}
	header = binary.BigEndian.AppendUint32(header, uint32(size))
	raw := make([]byte, len(header)+size)
	copy(raw, header)
	entries, err := raft.ParseEntries(1, raw)
	if err != nil {
		panic(err)
	}
	return entries
}

// memoryCalls makes each kind of call.
var memoryCalls = map[string]func(ctx context.Context, t raft.Transport, peer raft.NodeID) (any, error){
	"vote": func(ctx context.Context, t raft.Transport, peer raft.NodeID) (any, error) {
		return t.CallVote(ctx, peer, &raft.VoteRequest{Term: 7})
	},
	"heartbeat": func(ctx context.Context, t raft.Transport, peer raft.NodeID) (any, error) {
		return t.CallHeartbeat(ctx, peer, &raft.Heartbeat{Term: 7})
	},
	"append": func(ctx context.Context, t raft.Transport, peer raft.NodeID) (any, error) {
		return t.CallAppend(ctx, peer, &raft.AppendEntries{Term: 7})
	},
	"snapshot": func(ctx context.Context, t raft.Transport, peer raft.NodeID) (any, error) {
		return t.CallSnapshot(ctx, peer, &raft.InstallSnapshot{Term: 7})
	},
	"timeout now": func(ctx context.Context, t raft.Transport, peer raft.NodeID) (any, error) {
		return t.CallTimeoutNow(ctx, peer, &raft.TimeoutNow{Term: 7})
	},
	"forward": func(ctx context.Context, t raft.Transport, peer raft.NodeID) (any, error) {
		return t.CallForward(ctx, peer, &raft.ForwardRequest{Payload: []byte("seven")})
	},
}

var memoryResponses = map[string]any{
	"vote":        &raft.VoteResponse{Term: 7},
	"heartbeat":   &raft.HeartbeatResponse{Term: 7},
	"append":      &raft.AppendResponse{Term: 7},
	"snapshot":    &raft.SnapshotResponse{Term: 7},
	"timeout now": &raft.TimeoutNowResponse{Term: 7},
	"forward":     &raft.ForwardResponse{Payload: []byte("seven")},
}

func TestMemoryEveryCall(t *testing.T) {
	for name, call := range memoryCalls {
		t.Run(name, func(t *testing.T) {
			memoryBubble(t, func(t *testing.T, rig *memoryRig) {
				ctx := t.Context()
				for _, way := range [][2]raft.NodeID{{"a", "b"}, {"b", "a"}} {
					from, to := rig.transports[way[0]], rig.handlers[way[1]]
					response, err := call(ctx, from, way[1])
					require.NoError(t, err)
					require.Equal(t, memoryResponses[name], response)
					require.Len(t, to.requests(), 1)

					to.fail = &raft.NotLeaderError{Leader: "c"}
					_, err = call(ctx, from, way[1])
					require.ErrorIs(t, err, raft.ErrNotLeader)
					var remote *raft.RemoteError
					require.ErrorAs(t, err, &remote)
					require.Equal(t, &raft.RemoteError{Peer: way[1], Code: raft.CodeNotLeader, Message: to.fail.Error()}, remote)

					to.fail = errors.New("no idea")
					_, err = call(ctx, from, way[1])
					require.ErrorAs(t, err, &remote)
					require.Equal(t, raft.CodeInternal, remote.Code)
					require.Contains(t, err.Error(), "no idea")
				}
				_, err := call(ctx, rig.transports["a"], "nobody")
				require.ErrorIs(t, err, raft.ErrUnreachable)
				require.Contains(t, err.Error(), "nobody")

				ended, cancel := context.WithCancel(ctx)
				cancel()
				_, err = call(ended, rig.transports["a"], "b")
				require.ErrorIs(t, err, context.Canceled)
			}, "a", "b")
		})
	}
}

func TestMemoryMessagesAreNotCopied(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		request := &raft.Heartbeat{Term: 1}
		_, err := rig.transports["a"].CallHeartbeat(t.Context(), "b", request)
		require.NoError(t, err)
		require.Same(t, request, rig.handlers["b"].requests()[0])
	}, "a", "b")
}

func TestMemoryServe(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		require.ErrorContains(t, rig.transports["a"].Serve(raft.Local{ID: "a"}, &memoryHandler{}), "already")
		other := rig.Transport("a")
		require.ErrorContains(t, other.Serve(raft.Local{ID: "b"}, &memoryHandler{}), "asked to serve b")
		require.NoError(t, other.Close())
		require.ErrorContains(t, other.Serve(raft.Local{ID: "a"}, &memoryHandler{}), "closed")
		rig.transports["a"].UpdatePeers(nil) // nobody needs an address here
		require.NoError(t, rig.heartbeat("a", "b", 1))
		require.NoError(t, rig.heartbeat("a", "a", 1))
	}, "a", "b")
}

func TestMemoryNewestTransportServes(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		stream := rig.stream("a", "b")
		oldTransport, oldHandler := rig.transports["b"], rig.handlers["b"]
		rig.start("b")
		require.Error(t, stream.broken(), "a stream does not outlive the transport that it was connected to")
		require.NoError(t, rig.heartbeat("a", "b", 1))
		require.NoError(t, oldTransport.Close())
		require.NoError(t, rig.heartbeat("a", "b", 2), "closing the old one does not take the new one away")
		require.Empty(t, oldHandler.requests())
		require.Len(t, rig.handlers["b"].requests(), 2)
	}, "a", "b")
}

func TestMemoryDropIsSilentForCalls(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Drop("a", "b", 1)
		start := time.Now()
		require.ErrorIs(t, rig.heartbeat("a", "b", 1), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		require.Empty(t, rig.handlers["b"].requests())
		require.ErrorIs(t, rig.heartbeat("b", "a", 1), context.DeadlineExceeded, "the response is lost")
		require.Len(t, rig.handlers["a"].requests(), 1)

		rig.Drop("a", "b", 0)
		require.NoError(t, rig.heartbeat("a", "b", 2))
	}, "a", "b")
}

func TestMemoryDropLeavesGapInStream(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		stream := rig.stream("a", "b")
		stream.sendTerms(t, 1, 2)
		rig.Drop("a", "b", 1)
		stream.sendTerms(t, 3, 4)
		rig.Drop("a", "b", 0)
		stream.sendTerms(t, 5, 5)
		require.Equal(t, []raft.Term{1, 2, 5}, stream.answered())
		rig.Drop("b", "a", 1)
		stream.sendTerms(t, 6, 6)
		synctest.Wait()
		rig.Drop("b", "a", 0)
		stream.sendTerms(t, 7, 7)
		require.Equal(t, []raft.Term{1, 2, 5, 7}, stream.answered())
		require.Equal(t, []raft.Term{1, 2, 5, 6, 7}, rig.handlers["b"].terms())
		require.NoError(t, stream.broken())
	}, "a", "b")
}

func TestMemoryRandomChoicesComeFromSeed(t *testing.T) {
	lost := func(seeds ...uint64) string {
		var text string
		memoryBubble(t, func(t *testing.T, rig *memoryRig) {
			require.NoError(t, rig.heartbeat("a", "b", 1)) // so that the link is there before its seed
			for _, seed := range seeds {
				rig.Seed(seed)
			}
			rig.Drop("", "", 0.3)
			for range 40 {
				text += fmt.Sprint(rig.heartbeat("a", "b", 1) == nil, " ")
			}
		}, "a", "b")
		return text
	}
	require.Equal(t, lost(), lost())
	require.Equal(t, lost(7), lost(7))
	require.NotEqual(t, lost(7), lost(8))
	require.Contains(t, lost(7), "true")
	require.Contains(t, lost(7), "false")
}

func TestMemoryOneWayCut(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Cut("b", "a")
		require.ErrorIs(t, rig.heartbeat("a", "b", 1), context.DeadlineExceeded)
		require.Len(t, rig.handlers["b"].requests(), 1, "only the response is lost")
		require.ErrorIs(t, rig.heartbeat("b", "a", 2), context.DeadlineExceeded)
		require.Empty(t, rig.handlers["a"].requests())
		require.NoError(t, rig.heartbeat("b", "c", 3))
		require.ErrorIs(t, rig.heartbeat("a", "b", 1), context.DeadlineExceeded)
		rig.Mend("b", "a")
		require.NoError(t, rig.heartbeat("a", "b", 4))

		// Nobody hears a, while a hears everybody.
		rig.Cut("a", "")
		rig.start("d")
		for _, to := range []raft.NodeID{"b", "c", "d"} {
			require.ErrorIs(t, rig.heartbeat("a", to, 5), context.DeadlineExceeded)
		}
		before := len(rig.handlers["a"].requests())
		require.Error(t, rig.heartbeat("d", "a", 6))
		require.Len(t, rig.handlers["a"].requests(), before+1)
	}, "a", "b", "c")
}

func TestMemoryCutLosesWhatIsUnderWay(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Delay("a", "b", 100*time.Millisecond, 100*time.Millisecond)
		result := rig.goHeartbeat("a", "b", 1)
		rig.Cut("a", "b")
		require.ErrorIs(t, <-result, context.DeadlineExceeded)
		require.Empty(t, rig.handlers["b"].requests())
	}, "a", "b")
}

func TestMemoryCallOverCutToDeadNodeWaits(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		// No way back either means that nobody says that the node is gone.
		rig.Cut("gone", "a")
		require.ErrorIs(t, rig.heartbeat("a", "gone", 1), context.DeadlineExceeded)
		rig.Mend("gone", "a")
		require.ErrorIs(t, rig.heartbeat("a", "gone", 1), raft.ErrUnreachable)
	}, "a")
}

func TestMemoryPartition(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		connected := func() string {
			var text string
			for _, way := range []string{"ab", "ba", "ac", "bc", "cd", "ad", "aa"} {
				if rig.heartbeat(raft.NodeID(way[:1]), raft.NodeID(way[1:]), 1) == nil {
					text += way + " "
				}
			}
			return text
		}
		rig.Partition([]raft.NodeID{"a", "b"}, []raft.NodeID{"c", "d"})
		require.Equal(t, "ab ba cd aa ", connected())
		rig.Partition([]raft.NodeID{"a", "b"})
		require.Equal(t, "ab ba cd aa ", connected(), "the others stay together")
		rig.Partition([]raft.NodeID{"a", "b"}, []raft.NodeID{"b", "c", "d"})
		require.Equal(t, "ab ba bc cd aa ", connected(), "b is a bridge")
		rig.Isolate("a")
		require.Equal(t, "bc cd aa ", connected())
		rig.Isolate("a", "c")
		require.Equal(t, "aa ", connected())
		rig.Partition()
		require.Equal(t, "ab ba ac bc cd ad aa ", connected())
		rig.Isolate("a")
		rig.Cut("b", "c")
		rig.Drop("c", "d", 1)
		rig.Heal()
		require.Equal(t, "ab ba ac bc cd ad aa ", connected())
	}, "a", "b", "c", "d")
}

func TestMemoryCutBreaksStream(t *testing.T) {
	for _, cut := range [][2]raft.NodeID{{"a", "b"}, {"b", "a"}} {
		memoryBubble(t, func(t *testing.T, rig *memoryRig) {
			stream := rig.stream("a", "b")
			stream.sendTerms(t, 1, 1)
			require.Equal(t, []raft.Term{1}, stream.answered())
			rig.Cut(cut[0], cut[1])
			require.NoError(t, stream.broken(), "an idle stream does not notice")
			stream.sendTerms(t, 2, 2)
			require.ErrorContains(t, stream.broken(), "cut")
			require.NotErrorIs(t, stream.broken(), raft.ErrUnreachable)
			require.False(t, stream.Send(&raft.AppendEntries{Term: 3}))

			again := rig.stream("a", "b")
			require.NoError(t, again.broken())
			again.sendTerms(t, 4, 4)
			require.Error(t, again.broken())

			rig.Heal()
			again = rig.stream("a", "b")
			again.sendTerms(t, 5, 6)
			require.Equal(t, []raft.Term{5, 6}, again.answered())
		}, "a", "b")
	}
}

func TestMemoryStreamOpenedOverCutConnectsLater(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Isolate("a")
		there, gone := rig.stream("a", "b"), rig.stream("a", "gone")
		require.NoError(t, gone.broken())
		rig.Heal()
		there.sendTerms(t, 1, 1)
		gone.sendTerms(t, 1, 1)
		require.Equal(t, []raft.Term{1}, there.answered())
		require.ErrorIs(t, gone.broken(), raft.ErrUnreachable)
	}, "a", "b")
}

func TestMemoryHoldAndRelease(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Hold("a", "b")
		one, two := rig.goHeartbeat("a", "b", 1), rig.goHeartbeat("a", "b", 2)
		require.NoError(t, rig.heartbeat("a", "c", 9))
		require.Empty(t, rig.handlers["b"].requests())
		require.Equal(t, []any{&raft.Heartbeat{Term: 1}, &raft.Heartbeat{Term: 2}}, rig.Held("a", "b"))
		require.Len(t, rig.Held("", ""), 2)
		require.Empty(t, rig.Held("b", ""))

		// The response is a message of its own.
		rig.Hold("b", "a")
		require.True(t, rig.DeliverNext("a", "b"))
		synctest.Wait()
		require.Equal(t, []any{&raft.Heartbeat{Term: 1}}, rig.handlers["b"].requests())
		require.Equal(t, []any{&raft.HeartbeatResponse{Term: 1}}, rig.Held("b", "a"))
		require.Empty(t, one)
		require.True(t, rig.DeliverNext("b", ""))
		require.NoError(t, <-one)

		require.True(t, rig.DropNext("a", "b"))
		require.False(t, rig.DropNext("a", "b"))
		require.False(t, rig.DeliverNext("a", "b"))
		require.ErrorIs(t, <-two, context.DeadlineExceeded)

		three, four := rig.goHeartbeat("a", "b", 3), rig.goHeartbeat("a", "b", 4)
		rig.Release("a", "b")
		synctest.Wait()
		require.Len(t, rig.handlers["b"].requests(), 3)
		rig.Heal()
		require.NoError(t, <-three)
		require.NoError(t, <-four)
		require.NoError(t, rig.heartbeat("a", "b", 5))
		require.Empty(t, rig.Held("", ""))
	}, "a", "b", "c")
}

func TestMemoryHeldRequestArrivesAfterItsCallEnded(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Hold("a", "b")
		require.ErrorIs(t, rig.heartbeat("a", "b", 1), context.DeadlineExceeded)
		rig.Cut("a", "b") // a test that delivers by hand has decided
		require.True(t, rig.DeliverNext("a", "b"))
		synctest.Wait()
		require.Len(t, rig.handlers["b"].requests(), 1)
	}, "a", "b")
}

// A connection is replaced while the old one still has requests under way (N10).
func TestMemoryOldStreamArrivesLate(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		old := rig.stream("a", "b")
		rig.Intercept(func(_, _ raft.NodeID, message any) raft.Verdict {
			request, ok := message.(*raft.AppendEntries)
			return raft.Verdict{Hold: ok && request.Term <= 3}
		})
		old.sendTerms(t, 1, 3)
		old.Close()
		renewed := rig.stream("a", "b")
		renewed.sendTerms(t, 4, 5)
		require.Equal(t, []raft.Term{4, 5}, renewed.answered())
		rig.Release("a", "b")
		require.Equal(t, []raft.Term{4, 5}, renewed.answered())
		require.Equal(t, []raft.Term{4, 5, 1, 2, 3}, rig.handlers["b"].terms())
		require.Empty(t, old.answered(), "nothing is called after Close")
		require.NoError(t, old.broken())
	}, "a", "b")
}

func TestMemoryDuplicate(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Duplicate("a", "b", 1)
		require.NoError(t, rig.heartbeat("a", "b", 1))
		synctest.Wait()
		require.Len(t, rig.handlers["b"].requests(), 2)
		require.NoError(t, rig.heartbeat("b", "a", 1))
		require.Len(t, rig.handlers["a"].requests(), 1, "responses are not duplicated")

		stream := rig.stream("a", "b")
		stream.sendTerms(t, 1, 3)
		require.Equal(t, []raft.Term{1, 2, 3}, stream.answered(), "one response for each")
		require.Equal(t, []raft.Term{1, 1, 2, 2, 3, 3}, rig.handlers["b"].terms())
	}, "a", "b")
}

// A request that was handed over must not be reported as unreachable because
// its copy came to a node that is gone, nor the other way round.
func TestMemoryDuplicateAcrossRestart(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Duplicate("a", "b", 1)
		rig.Hold("a", "b")
		require.NoError(t, rig.transports["b"].Close())
		result := rig.goHeartbeat("a", "b", 1)
		require.True(t, rig.DeliverNext("a", "b"))
		require.ErrorIs(t, <-result, raft.ErrUnreachable)
		rig.start("b")
		require.True(t, rig.DeliverNext("a", "b"))
		synctest.Wait()
		require.Empty(t, rig.handlers["b"].requests())

		rig.handlers["b"].wait = func(ctx context.Context, _ any) { <-ctx.Done() }
		result = rig.goHeartbeat("a", "b", 2)
		require.True(t, rig.DeliverNext("a", "b"))
		synctest.Wait()
		rig.Cut("b", "a") // so that the caller is not told
		require.NoError(t, rig.transports["b"].Close())
		rig.Mend("b", "a")
		require.Empty(t, result)
		require.True(t, rig.DeliverNext("a", "b"))
		err := <-result
		require.Error(t, err)
		require.NotErrorIs(t, err, raft.ErrUnreachable)
	}, "a", "b")
}

func TestMemoryDelay(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Delay("a", "b", 30*time.Millisecond, 30*time.Millisecond)
		rig.Delay("b", "a", 20*time.Millisecond, 20*time.Millisecond)
		start := time.Now()
		require.NoError(t, rig.heartbeat("a", "b", 1))
		require.Equal(t, 50*time.Millisecond, time.Since(start))
		rig.Delay("", "", 0, 0)
		require.NoError(t, rig.heartbeat("a", "b", 2))
		require.Equal(t, 50*time.Millisecond, time.Since(start))
	}, "a", "b")
}

func TestMemoryDelayReordersCallsAndNotStreams(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Delay("", "", time.Millisecond, 100*time.Millisecond)
		stream := rig.stream("a", "b")
		var calls []<-chan error
		for term := raft.Term(1); term <= 50; term++ {
			stream.sendTerms(t, term, term)
			calls = append(calls, rig.goHeartbeat("a", "b", term))
		}
		for _, result := range calls {
			require.NoError(t, <-result)
		}
		time.Sleep(time.Second)
		require.Equal(t, memoryTerms(1, 50), rig.handlers["b"].terms())
		require.Equal(t, memoryTerms(1, 50), stream.answered())
		var heartbeats []raft.Term
		for _, request := range rig.handlers["b"].requests() {
			if heartbeat, ok := request.(*raft.Heartbeat); ok {
				heartbeats = append(heartbeats, heartbeat.Term)
			}
		}
		require.Len(t, heartbeats, 50)
		require.False(t, slices.IsSorted(heartbeats))
	}, "a", "b")
}

// Heartbeats and votes never wait behind bulk (N1).
func TestMemoryControlOvertakesBulk(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		const second = 1 << 20
		rig.Bandwidth("a", "b", second)
		stream := rig.stream("a", "b")
		start := time.Now()
		for range 8 {
			require.True(t, stream.Send(&raft.AppendEntries{Term: 1, Entries: memoryEntries(second)}))
		}
		snapshot := make(chan time.Duration, 1)
		go func() {
			_, err := rig.transports["a"].CallSnapshot(context.Background(), "b", &raft.InstallSnapshot{Data: make([]byte, 2*second)})
			assert.NoError(t, err)
			snapshot <- time.Since(start)
		}()
		for time.Since(start) < 7500*time.Millisecond {
			sent := time.Now()
			require.NoError(t, rig.heartbeat("a", "b", 1))
			require.NoError(t, rig.heartbeat("b", "a", 1))
			require.Zero(t, time.Since(sent))
			time.Sleep(50 * time.Millisecond)
		}
		require.Len(t, stream.answered(), 7)
		require.InDelta(t, 10, (<-snapshot).Seconds(), 0.01)
		require.Len(t, stream.answered(), 8)
	}, "a", "b")
}

func TestMemoryBandwidthChangesForBacklog(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Bandwidth("", "", 1000)
		stream := rig.stream("a", "b")
		for range 3 {
			require.True(t, stream.Send(&raft.AppendEntries{Entries: memoryEntries(1 << 20)}))
		}
		time.Sleep(time.Minute)
		rig.Bandwidth("a", "b", 1<<20)
		time.Sleep(950 * time.Millisecond)
		require.Len(t, stream.answered(), 1, "what had been transmitted counts")
		rig.Heal()
		require.Len(t, stream.answered(), 3)
	}, "a", "b")
}

func TestMemoryBulkOfEndedSendersLeavesPipe(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Bandwidth("a", "b", 1<<20)
		stream := rig.stream("a", "b")
		for range 8 {
			require.True(t, stream.Send(&raft.AppendEntries{Term: 1, Entries: memoryEntries(1 << 20)}))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := rig.transports["a"].CallSnapshot(ctx, "b", &raft.InstallSnapshot{Data: make([]byte, 64<<20)})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		stream.Close()

		start := time.Now()
		_, err = rig.transports["a"].CallAppend(t.Context(), "b", &raft.AppendEntries{Term: 2, Entries: memoryEntries(1 << 20)})
		require.NoError(t, err)
		require.InDelta(t, 1, time.Since(start).Seconds(), 0.01)
		require.Equal(t, []raft.Term{2}, rig.handlers["b"].terms())
	}, "a", "b")
}

func TestMemoryIntercept(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		var mu sync.Mutex
		var seen []string
		verdicts := map[raft.Term]raft.Verdict{
			2: {Drop: true},
			3: {Hold: true},
			4: {Duplicate: true},
			5: {Delay: 300 * time.Millisecond},
		}
		rig.Intercept(func(from, to raft.NodeID, message any) raft.Verdict {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s>%s %T", from, to, message))
			if heartbeat, ok := message.(*raft.Heartbeat); ok {
				if heartbeat.Term == 6 {
					rig.Cut("b", "a") // a hook may use the network
				}
				return verdicts[heartbeat.Term]
			}
			return raft.Verdict{}
		})
		require.NoError(t, rig.heartbeat("a", "b", 1))
		rig.handlers["b"].fail = raft.ErrWrongNode
		require.ErrorIs(t, rig.heartbeat("a", "b", 1), raft.ErrWrongNode)
		rig.handlers["b"].fail = nil
		require.Equal(t, []string{"a>b *raft.Heartbeat", "b>a *raft.HeartbeatResponse", "a>b *raft.Heartbeat", "b>a *raft.RemoteError"}, seen)

		require.ErrorIs(t, rig.heartbeat("a", "b", 2), context.DeadlineExceeded)
		held := rig.goHeartbeat("a", "b", 3)
		require.Len(t, rig.Held("a", "b"), 1)
		before := len(rig.handlers["b"].requests())
		require.NoError(t, rig.heartbeat("a", "b", 4))
		synctest.Wait()
		require.Len(t, rig.handlers["b"].requests(), before+2)
		start := time.Now()
		require.NoError(t, rig.heartbeat("a", "b", 5))
		require.Equal(t, 300*time.Millisecond, time.Since(start))
		rig.Release("a", "b")
		require.NoError(t, <-held)
		require.ErrorIs(t, rig.heartbeat("a", "b", 6), context.DeadlineExceeded)

		rig.Heal()
		require.ErrorIs(t, rig.heartbeat("a", "b", 2), context.DeadlineExceeded, "a hook outlives Heal")
		rig.Intercept(nil)
		require.NoError(t, rig.heartbeat("a", "b", 2))
	}, "a", "b")
}

func TestMemoryInterceptStream(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Intercept(func(_, _ raft.NodeID, message any) raft.Verdict {
			switch m := message.(type) {
			case *raft.AppendEntries:
				return raft.Verdict{Drop: m.Term == 2, Hold: m.Term == 4, Duplicate: m.Term == 3}
			case *raft.AppendResponse:
				return raft.Verdict{Drop: m.Term == 5}
			}
			return raft.Verdict{}
		})
		stream := rig.stream("a", "b")
		stream.sendTerms(t, 1, 6)
		require.Equal(t, []raft.Term{1, 3}, stream.answered(), "the stream waits for the one that is held")
		rig.Release("a", "b")
		require.Equal(t, []raft.Term{1, 3, 4, 6}, stream.answered())
		require.Equal(t, []raft.Term{1, 3, 3, 4, 5, 6}, rig.handlers["b"].terms())

		stream.sendTerms(t, 4, 6)
		rig.DropNext("a", "b")
		require.Equal(t, []raft.Term{1, 3, 4, 6, 6}, stream.answered(), "nor for one that is lost after all")
	}, "a", "b")
}

func TestMemoryStreamWaitsForUnansweredResponse(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		var responds []func(*raft.AppendResponse, error)
		rig.handlers["b"].take = func(respond func(*raft.AppendResponse, error)) {
			responds = append(responds, respond)
		}
		stream := rig.stream("a", "b")
		stream.sendTerms(t, 1, 3)
		require.Empty(t, stream.answered())
		responds[0](&raft.AppendResponse{Term: 1}, nil)
		responds[0](&raft.AppendResponse{Term: 1}, nil) // a mistake, without consequence
		responds[1](&raft.AppendResponse{Term: 2}, nil)
		responds[2](nil, raft.ErrWrongCluster)
		require.Equal(t, []raft.Term{1, 2}, stream.answered())
		require.ErrorIs(t, stream.broken(), raft.ErrWrongCluster)
		require.False(t, stream.Send(&raft.AppendEntries{}))
		stream.Close()
	}, "a", "b")
}

func TestMemoryStreamToNobody(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		stream := rig.stream("a", "nobody")
		require.ErrorIs(t, stream.broken(), raft.ErrUnreachable)
		require.ErrorContains(t, stream.broken(), "nobody")
		require.False(t, stream.Send(&raft.AppendEntries{}))
	}, "a")
}

func TestMemoryStreamIsBounded(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Hold("a", "b")
		stream := rig.stream("a", "b")
		huge := &raft.AppendEntries{Entries: memoryEntries(48 << 20)}
		large := &raft.AppendEntries{Entries: memoryEntries(8 << 20)}
		require.True(t, stream.Send(huge), "one always fits")
		require.False(t, stream.Send(&raft.AppendEntries{}))
		rig.Release("a", "b")
		require.Len(t, stream.answered(), 1)
		rig.Hold("a", "b")
		taken := 0
		for stream.Send(large) {
			taken++
		}
		require.Equal(t, 3, taken, "four of them and their headers are over 32 MiB")
		require.True(t, rig.DropNext("a", "b"))
		require.True(t, stream.Send(large), "what was lost makes room")
		rig.Heal()
		require.Len(t, stream.answered(), 4)

		seen := 0
		rig.Intercept(func(_, _ raft.NodeID, message any) raft.Verdict {
			if _, ok := message.(*raft.AppendEntries); ok {
				seen++
			}
			return raft.Verdict{Hold: true}
		})
		require.True(t, stream.Send(huge))
		require.False(t, stream.Send(huge))
		require.Equal(t, 1, seen, "the hook sees what is sent, not what is refused")
	}, "a", "b")
}

func TestMemoryStreamCloseFromCallbacks(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		var stream raft.AppendStream
		var calls atomic.Int32
		streamer := rig.transports["a"].(raft.AppendStreamer)
		unexpected := func(err error) { calls.Add(100) }
		rig.Hold("a", "b")
		stream = streamer.OpenAppendStream("b", func(*raft.AppendResponse) { calls.Add(1); stream.Close(); stream.Close() }, unexpected)
		for range 3 {
			require.True(t, stream.Send(&raft.AppendEntries{}))
		}
		rig.Release("a", "b")
		synctest.Wait()
		require.EqualValues(t, 1, calls.Load())

		opened := make(chan struct{})
		stream = streamer.OpenAppendStream("nobody", nil, func(error) { <-opened; calls.Add(1); stream.Close() })
		close(opened)
		synctest.Wait()
		require.EqualValues(t, 2, calls.Load())

		// Two callbacks that close each other's streams do not wait for each other.
		var streams [2]raft.AppendStream
		var both sync.WaitGroup
		both.Add(2)
		for i := range streams {
			streams[i] = streamer.OpenAppendStream("b", func(*raft.AppendResponse) {
				calls.Add(1)
				both.Done()
				both.Wait()
				streams[1-i].Close()
			}, unexpected)
		}
		require.True(t, streams[0].Send(&raft.AppendEntries{}))
		require.True(t, streams[1].Send(&raft.AppendEntries{}))
		synctest.Wait()
		require.EqualValues(t, 4, calls.Load())
	}, "a", "b")
}

func TestMemoryStreamCloseStartsNoFurtherCallback(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		var calls atomic.Int32
		stream := rig.transports["a"].(raft.AppendStreamer).OpenAppendStream("b", func(*raft.AppendResponse) {
			calls.Add(1)
			time.Sleep(time.Second)
		}, func(error) { t.Error("closed") })
		require.True(t, stream.Send(&raft.AppendEntries{}))
		require.True(t, stream.Send(&raft.AppendEntries{}))
		synctest.Wait()
		stream.Close() // does not wait for the call that is under way
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, calls.Load())
	}, "a", "b")
}

// This one runs in real time: it is about what happens at the same moment.
func TestMemoryNothingIsCalledAfterClose(t *testing.T) {
	network := raft.NewMemoryNetwork()
	sender := network.Transport("a")
	defer sender.Close()
	for round := range 60 {
		receiver, handler := network.Transport("b"), &memoryHandler{}
		var receiverClosed, streamClosed atomic.Bool
		handler.wait = func(context.Context, any) {
			if receiverClosed.Load() {
				t.Error("the handler was called after Close")
			}
		}
		require.NoError(t, receiver.Serve(raft.Local{ID: "b"}, handler))
		var late atomic.Int32
		called := func() {
			if streamClosed.Load() && late.Add(1) > 1 { // one may have been under way
				t.Error("a callback was called after Close")
			}
		}
		stream := sender.(raft.AppendStreamer).OpenAppendStream("b", func(*raft.AppendResponse) { called() }, func(error) { called() })
		var senders sync.WaitGroup
		senders.Go(func() {
			for sent := 0; sent < 500 && stream.Send(&raft.AppendEntries{}); sent++ {
			}
		})
		senders.Go(func() {
			for {
				if _, err := sender.CallHeartbeat(context.Background(), "b", &raft.Heartbeat{}); err != nil {
					return
				}
			}
		})
		time.Sleep(time.Duration(round) * 5 * time.Microsecond)
		if round%2 == 0 {
			stream.Close()
			streamClosed.Store(true)
		}
		require.NoError(t, receiver.Close())
		receiverClosed.Store(true)
		senders.Wait()
	}
}

func TestMemoryCloseOfPeer(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		var ended atomic.Bool
		rig.handlers["b"].wait = func(ctx context.Context, _ any) {
			<-ctx.Done()
			time.Sleep(time.Second)
			ended.Store(true)
		}
		handed := rig.goHeartbeat("a", "b", 1)
		stream := rig.stream("a", "b")
		start := time.Now()
		require.NoError(t, rig.transports["b"].Close())
		require.True(t, ended.Load(), "Close waits for the handler")
		require.Equal(t, time.Second, time.Since(start))

		err := <-handed
		require.ErrorContains(t, err, "closed the connection")
		require.NotErrorIs(t, err, raft.ErrUnreachable)
		require.ErrorContains(t, stream.broken(), "closed the connection")
		require.False(t, stream.Send(&raft.AppendEntries{}))
		require.ErrorIs(t, rig.heartbeat("a", "b", 2), raft.ErrUnreachable)
		require.NoError(t, rig.transports["b"].Close(), "again")

		rig.start("b")
		require.NoError(t, rig.heartbeat("a", "b", 3))
	}, "a", "b")
}

func TestMemoryCloseOfPeerBehindCut(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.handlers["b"].wait = func(ctx context.Context, _ any) { <-ctx.Done() }
		handed := rig.goHeartbeat("a", "b", 1)
		stream := rig.stream("a", "b")
		rig.Isolate("b")
		require.NoError(t, rig.transports["b"].Close())
		require.ErrorIs(t, <-handed, context.DeadlineExceeded)
		require.NoError(t, stream.broken(), "nobody tells")
		rig.Heal()
		rig.start("b")
		stream.sendTerms(t, 1, 1)
		require.ErrorContains(t, stream.broken(), "closed the connection")
		require.Empty(t, rig.handlers["b"].requests(), "a stream belongs to the life of the node that it was opened to")
	}, "a", "b")
}

func TestMemoryCloseOfSender(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Hold("a", "b")
		held := rig.goHeartbeat("a", "b", 1)
		stream := rig.stream("a", "b")
		stream.sendTerms(t, 1, 2)
		require.NoError(t, rig.transports["a"].Close())
		err := <-held
		require.ErrorContains(t, err, "closed")
		require.NotErrorIs(t, err, raft.ErrUnreachable, "it may still arrive")
		require.ErrorContains(t, stream.broken(), "closed")

		for name, call := range memoryCalls {
			_, err := call(t.Context(), rig.transports["a"], "b")
			require.ErrorIs(t, err, raft.ErrUnreachable, name)
		}
		late := rig.stream("a", "b")
		require.False(t, late.Send(&raft.AppendEntries{}))
		require.NoError(t, late.broken())
		late.Close()

		rig.Release("a", "b")
		synctest.Wait()
		require.Len(t, rig.handlers["b"].requests(), 3, "what was under way arrives late")
		require.Empty(t, stream.answered())
	}, "a", "b")
}

func TestMemoryCloseWithMessagesUnderWay(t *testing.T) {
	memoryBubble(t, func(t *testing.T, rig *memoryRig) {
		rig.Delay("", "", time.Second, time.Minute)
		rig.Bandwidth("", "", 10)
		stream := rig.stream("a", "b")
		stream.sendTerms(t, 1, 9)
		rig.goHeartbeat("a", "b", 1)
		time.Sleep(500 * time.Millisecond)
	}, "a", "b") // the bubble ends although timers are pending
}

func TestMemoryInvalidFaultsPanic(t *testing.T) {
	network := raft.NewMemoryNetwork()
	require.Panics(t, func() { network.Drop("a", "b", 1.5) })
	require.Panics(t, func() { network.Duplicate("a", "b", math.NaN()) })
	require.Panics(t, func() { network.Delay("a", "b", 2, 1) })
	require.Panics(t, func() { network.Delay("a", "b", -1, 1) })
	require.Panics(t, func() { network.Bandwidth("a", "b", -1) })
}

// All faults at once, changing all the time: whatever happens, the order of
// each stream holds, every call ends, and the network works after Heal.
func TestMemoryChaos(t *testing.T) {
	for seed := range uint64(3) {
		memoryBubble(t, func(t *testing.T, rig *memoryRig) {
			rig.Seed(seed)
			ids := []raft.NodeID{"a", "b", "c"}
			rig.Drop("", "", 0.1)
			rig.Duplicate("", "", 0.1)
			rig.Delay("", "", 0, 50*time.Millisecond)
			rig.Bandwidth("a", "b", 10_000)
			var workers sync.WaitGroup
			for i, from := range ids {
				to := ids[(i+1)%3]
				workers.Go(func() {
					for range 30 {
						if err := rig.heartbeat(from, to, 1); err != nil {
							assert.ErrorIs(t, err, context.DeadlineExceeded)
						}
					}
				})
				workers.Go(func() {
					for range 10 {
						stream := rig.stream(from, to)
						for term := raft.Term(1); term <= 100 && stream.Send(&raft.AppendEntries{Term: term}); term++ {
							time.Sleep(time.Millisecond)
						}
						time.Sleep(200 * time.Millisecond)
						stream.Close() // after which nobody writes stream.terms
						assert.True(t, slices.IsSorted(stream.terms))
					}
				})
			}
			for i := range 20 {
				time.Sleep(100 * time.Millisecond)
				switch i % 4 {
				case 0:
					rig.Isolate(ids[i%3])
				case 1:
					rig.Hold("", ids[i%3])
				case 2:
					rig.Partition()
				case 3:
					rig.Release("", "")
				}
			}
			workers.Wait()
			rig.Heal()
			time.Sleep(time.Second)
			for i, from := range ids {
				require.NoError(t, rig.heartbeat(from, ids[(i+1)%3], 2))
				stream := rig.stream(from, ids[(i+1)%3])
				stream.sendTerms(t, 1, 10)
				require.Equal(t, memoryTerms(1, 10), stream.answered())
			}
		}, "a", "b", "c")
	}
}

func BenchmarkMemoryStream(b *testing.B) {
	network := raft.NewMemoryNetwork()
	sender, receiver := network.Transport("a"), network.Transport("b")
	defer sender.Close()
	defer receiver.Close()
	require.NoError(b, receiver.Serve(raft.Local{ID: "b"}, memoryBenchHandler{}))
	window := make(chan struct{}, 64)
	stream := sender.(raft.AppendStreamer).OpenAppendStream("b", func(*raft.AppendResponse) { <-window }, func(error) {})
	request := &raft.AppendEntries{Entries: memoryEntries(1 << 10)}
	b.ReportAllocs()
	for b.Loop() {
		window <- struct{}{}
		if !stream.Send(request) {
			b.Fatal("full")
		}
	}
}

func BenchmarkMemoryCall(b *testing.B) {
	network := raft.NewMemoryNetwork()
	sender, receiver := network.Transport("a"), network.Transport("b")
	defer sender.Close()
	defer receiver.Close()
	require.NoError(b, receiver.Serve(raft.Local{ID: "b"}, memoryBenchHandler{}))
	request := &raft.AppendEntries{Entries: memoryEntries(1 << 10)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := sender.CallAppend(context.Background(), "b", request); err != nil {
			b.Fatal(err)
		}
	}
}

// memoryBenchHandler answers without remembering.
type memoryBenchHandler struct{ raft.Handler }

var memoryBenchResponse = &raft.AppendResponse{}

func (memoryBenchHandler) HandleAppend(context.Context, *raft.AppendEntries) (*raft.AppendResponse, error) {
	return memoryBenchResponse, nil
}

func (memoryBenchHandler) BeginAppend(_ *raft.AppendEntries, respond func(*raft.AppendResponse, error)) {
	respond(memoryBenchResponse, nil)
}
