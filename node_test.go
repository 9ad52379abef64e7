package raft_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/seed-8da499c8/raft"
)

// What a Node promises to its callers. Ids such as A1 are explained in
// testdata/scenarios.md.

func TestA1OnlyWhatWasAcceptedMayAppear(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		a := c.leader()
		bc := c.others(a)

		_, err := c.node(bc[0]).Propose(t.Context(), []byte("refused"))
		requireRefused(t, err)

		// a's entry reaches its followers, but their answers do not reach a.
		c.network.Cut(bc[0], a)
		c.network.Cut(bc[1], a)
		pending := c.proposeLater(t.Context(), a, "unknown")
		synctest.Wait()
		c.network.Isolate(a)
		b := c.leaderOf(bc...)
		require.Equal(t, []string{"unknown"}, c.applied(b), "b commits what a had accepted")
		unknown := requireUnknown(t, receive(t, pending, "the outcome").err)
		require.NotZero(t, unknown.Index)
		require.NotZero(t, unknown.Term)

		c.network.Heal()
		c.propose(b, "after")
		c.settled("unknown", "after")
	})
}

// A1: what the error of a proposal has left open, Resolve settles.
func TestA1OutcomeIsResolvedLater(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		a := c.leader()
		bc := c.others(a)
		resolve := func(id raft.NodeID, u *raft.OutcomeUnknownError) bool {
			committed, err := c.node(id).Resolve(t.Context(), u.Index, u.Term)
			require.NoError(t, err)
			return committed
		}
		c.network.Cut(bc[0], a)
		c.network.Cut(bc[1], a)
		kept := c.proposeLater(t.Context(), a, "kept")
		synctest.Wait()
		c.network.Isolate(a)
		lost := c.proposeLater(t.Context(), a, "lost")
		b := c.leaderOf(bc...)
		one := requireUnknown(t, receive(t, kept, "the outcome").err)
		two := requireUnknown(t, receive(t, lost, "the outcome").err)
		require.True(t, resolve(b, one))
		require.False(t, resolve(b, two), "the new leader's own entry is in its place")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.node(a).Resolve(ctx, two.Index, two.Term)
		require.ErrorIs(t, err, context.DeadlineExceeded, "who is cut off cannot know")
		waits := make(chan bool, 2)
		for _, u := range []*raft.OutcomeUnknownError{one, two} {
			go func() { waits <- resolve(a, u) }()
		}
		synctest.Wait()
		require.Empty(t, waits)
		c.network.Heal()
		c.settled("kept")
		require.NotEqual(t, <-waits, <-waits)
		for _, id := range c.ids {
			require.True(t, resolve(id, one))
			require.False(t, resolve(id, two))
		}

		_, err = c.node(a).Resolve(t.Context(), 0, 0)
		require.ErrorContains(t, err, "nothing is known")
		stopped := make(chan error, 1)
		node := c.node(a)
		go func() {
			_, err := node.Resolve(t.Context(), 1000, c.status(b).Term)
			stopped <- err
		}()
		synctest.Wait()
		c.stop(a)
		require.ErrorIs(t, <-stopped, raft.ErrStopped)
		_, err = node.Resolve(t.Context(), one.Index, one.Term)
		require.ErrorIs(t, err, raft.ErrStopped)
	})
}

// slowStorage takes its time to load.
type slowStorage struct{ raft.Storage }

const slowLoad = 10 * time.Second

func (s slowStorage) Load() (raft.StorageState, error) {
	time.Sleep(slowLoad)
	return s.Storage.Load()
}

// However long a node takes to open its storage, it waits for a leader before it
// campaigns: until it listened, none could be heard.
func TestTheElectionWaitBeginsWhenLeadersCanBeHeard(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		config := raft.NewConfig("a", "a", map[raft.NodeID]string{"a": "a", "b": "b", "c": "c"})
		config.Storage = slowStorage{raft.NewMemoryStorage()}
		node, err := raft.NewNode(config, new(counter), raft.NewMemoryNetwork().Transport("a"))
		require.NoError(t, err)
		go node.Run(t.Context())
		const timeout = 500 * time.Millisecond // by default
		time.Sleep(slowLoad + timeout - time.Millisecond)
		require.Equal(t, raft.Follower, node.Status().Role)
		time.Sleep(timeout + time.Millisecond)
		require.Equal(t, raft.PreCandidate, node.Status().Role)
		require.NoError(t, node.Stop(t.Context()))
	})
}

// A node whose storage says that it is a member at another address tells so: its
// peers look for it there.
func TestANodeAtAnotherAddressThanItsPeersKnow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		storage := raft.NewMemoryStorage()
		for _, address := range []string{"here", "there"} {
			core, logs := observer.New(zapcore.WarnLevel)
			config := raft.NewConfig("a", address, map[raft.NodeID]string{"a": address})
			config.Storage, config.Logger = storage, zap.New(core)
			node, err := raft.NewNode(config, new(counter), raft.NewMemoryNetwork().Transport("a"))
			require.NoError(t, err)
			go node.Run(t.Context())
			synctest.Wait()
			require.NoError(t, node.Stop(t.Context()))
			if address == "here" {
				require.Zero(t, logs.Len())
				continue
			}
			require.Equal(t, 1, logs.Len())
			require.Equal(t, "listen where no peer looks", logs.All()[0].Message)
			require.Contains(t, logs.All()[0].ContextMap()["because"], "at here")
		}
	})
}

// inFlight fills a leader that cannot commit with proposals of both kinds.
func inFlight(c *cluster, leader raft.NodeID) chan outcome {
	const each = 500
	outcomes := make(chan outcome, 2*each)
	node := c.node(leader)
	for i := range each {
		go func() {
			result, err := node.Propose(context.Background(), fmt.Append(nil, "p", i))
			outcomes <- outcome{result, err}
		}()
		node.ProposeAsync(fmt.Append(nil, "a", i), func(result raft.Result, err error) { outcomes <- outcome{result, err} })
	}
	synctest.Wait()
	require.Empty(c.t, outcomes)
	return outcomes
}

func TestA2EveryWaitEnds(t *testing.T) {
	t.Parallel()
	ends := map[string]struct {
		end    func(c *cluster, leader raft.NodeID)
		ending error
	}{
		"quorum lost":   {func(c *cluster, leader raft.NodeID) {}, nil},
		"stopped":       {func(c *cluster, leader raft.NodeID) { c.stop(leader) }, nil},
		"killed":        {func(c *cluster, leader raft.NodeID) { c.kill(leader) }, nil},
		"storage fails": {func(c *cluster, leader raft.NodeID) { c.disk(leader).lose() }, errDisk},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 3, clusterOptions{ended: func(t *testing.T, _ raft.NodeID, err error) {
					if err != nil {
						require.ErrorIs(t, err, end.ending)
					}
				}})
				leader := c.leader()
				for _, id := range c.others(leader) {
					c.kill(id)
				}
				if end.ending != nil {
					c.disk(leader).stall()
				}
				outcomes := inFlight(c, leader)
				end.end(c, leader)
				time.Sleep(electionTimeout + time.Second)
				require.Len(t, outcomes, cap(outcomes))
				for range cap(outcomes) {
					requireUnknown(t, (<-outcomes).err)
				}
			})
		})
	}
}

// A call that waits in the queue, because the unapplied entries are too many,
// ends too when leadership is lost.
func TestA2QueuedProposalsEndWithLeadership(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) { config.MaxUnappliedBytes = 1 }})
		leader := c.leader()
		c.network.Isolate(leader)
		accepted := c.proposeLater(t.Context(), leader, "in the log")
		synctest.Wait()
		queued := c.proposeLater(t.Context(), leader, "in the queue")
		synctest.Wait()
		c.eventually(2*electionTimeout, "the leader's step down", func() bool { return !c.isLeader(leader) })
		requireUnknown(t, receive(t, accepted, "the accepted one's outcome").err)
		err := receive(t, queued, "the queued one's outcome").err
		requireRefused(t, err)
		require.ErrorIs(t, err, raft.ErrNotLeader)
		c.network.Heal()
		require.NotContains(t, c.equal(), "in the queue")
	})
}

func TestA3PanicInApplyStopsTheNode(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		armed := true
		var mu sync.Mutex
		c := startCluster(t, 1, clusterOptions{
			machine: recorders(func(command string) error {
				mu.Lock()
				defer mu.Unlock()
				if armed && command == "7" {
					panic("seven is too many")
				}
				return nil
			}),
			ended: func(*testing.T, raft.NodeID, error) {},
		})
		node := c.node("a")
		outcomes := make(chan outcome, 10)
		for i := range cap(outcomes) {
			node.ProposeAsync(fmt.Append(nil, i), func(result raft.Result, err error) { outcomes <- outcome{result, err} })
		}
		c.awaitEnd("a")
		require.ErrorContains(t, node.Err(), "seven is too many")
		require.ErrorContains(t, node.Err(), "panicked at entry")
		require.Contains(t, node.Status().Reason, "seven is too many")
		synctest.Wait() // Done comes before Run returns
		require.Equal(t, c.members["a"].err, node.Err())
		require.Len(t, outcomes, cap(outcomes))
		succeeded, unknown := 0, 0
		for range cap(outcomes) {
			switch o := <-outcomes; {
			case o.err == nil:
				succeeded++
			case errors.Is(o.err, raft.ErrNotAccepted): // it was still in the queue
				requireRefused(t, o.err)
			default:
				requireUnknown(t, o.err)
				unknown++
			}
		}
		require.LessOrEqual(t, succeeded, 7)
		require.Positive(t, unknown, "the command that made it panic is in the log")
		_, err := node.Propose(t.Context(), []byte("late"))
		require.ErrorIs(t, err, raft.ErrStopped)
		c.stop("a")

		mu.Lock()
		armed = false
		mu.Unlock()
		c.start("a")
		c.leader()
		c.settled("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
	})
}

func TestA3ErrorOfApplyIsAResult(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		refusal := fmt.Errorf("no such account: %w", raft.ErrNotAccepted)
		c := startCluster(t, 3, clusterOptions{machine: recorders(func(command string) error {
			if command == "withdraw" {
				return refusal
			}
			return nil
		})})
		leader := c.leader()
		_, err := c.node(leader).Propose(t.Context(), []byte("withdraw"))
		var refused *raft.ApplyError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, c.status(leader).AppliedIndex, refused.Index)
		require.Equal(t, refusal, refused.Err)
		require.NotErrorIs(t, err, raft.ErrNotAccepted, "it is in the log")
		c.propose(leader, "deposit")
		c.settled("deposit")
	})
}

// call is one public method, and what it must return.
type call struct {
	name string
	call func(ctx context.Context, n *raft.Node) error
}

func propose(ctx context.Context, n *raft.Node) error {
	_, err := n.Propose(ctx, []byte("x"))
	return err
}

// proposeAsync waits for the outcome of a ProposeAsync.
func proposeAsync(ctx context.Context, n *raft.Node) error {
	outcomes := make(chan error, 1)
	n.ProposeAsync([]byte("x"), func(_ raft.Result, err error) { outcomes <- err })
	select {
	case err := <-outcomes:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitingCalls calls what may have to wait, beside proposals.
var waitingCalls = []call{
	{"ReadIndex", func(ctx context.Context, n *raft.Node) error {
		_, err := n.ReadIndex(ctx)
		return err
	}},
	{"Read", func(ctx context.Context, n *raft.Node) error {
		_, err := n.Read(ctx, raft.ReadOptions{Level: raft.ReadLocal})
		return err
	}},
	{"Resolve", func(ctx context.Context, n *raft.Node) error {
		_, err := n.Resolve(ctx, 1, 1)
		return err
	}},
	{"TakeSnapshot", func(ctx context.Context, n *raft.Node) error {
		_, err := n.TakeSnapshot(ctx)
		return err
	}},
	{"AddVoter", func(ctx context.Context, n *raft.Node) error { return n.AddVoter(ctx, newMember("x")) }},
	{"AddLearner", func(ctx context.Context, n *raft.Node) error { return n.AddLearner(ctx, newMember("x")) }},
	{"RemoveMember", func(ctx context.Context, n *raft.Node) error { return n.RemoveMember(ctx, "a") }},
	{"ChangeMembers", func(ctx context.Context, n *raft.Node) error {
		m := newMember("x")
		m.Role = raft.Learner
		_, err := n.ChangeMembers(ctx, 0, raft.MemberChange{Kind: raft.ChangeAdd, Member: m})
		return err
	}},
	{"TransferLeadership", func(ctx context.Context, n *raft.Node) error { return n.TransferLeadership(ctx, "") }},
	{"OpenSession", func(ctx context.Context, n *raft.Node) error {
		_, err := n.OpenSession(ctx)
		return err
	}},
	{"ProposeInSession", func(ctx context.Context, n *raft.Node) error {
		_, err := n.ProposeInSession(ctx, raft.SessionPlace{Session: 1, Sequence: 1, FirstAwaited: 1}, []byte("x"))
		return err
	}},
	{"CloseSession", func(ctx context.Context, n *raft.Node) error { return n.CloseSession(ctx, 1) }},
}

// publicCalls calls every public method that may have to wait, and the handlers.
func publicCalls() []call {
	return slices.Concat([]call{{"Propose", propose}, {"ProposeAsync", proposeAsync}}, waitingCalls, handlers)
}

// handlers calls everything that a transport calls.
var handlers = []call{
	{"HandleVote", func(ctx context.Context, n *raft.Node) error {
		_, err := n.HandleVote(ctx, &raft.VoteRequest{})
		return err
	}},
	{"HandleHeartbeat", func(ctx context.Context, n *raft.Node) error {
		_, err := n.HandleHeartbeat(ctx, &raft.Heartbeat{})
		return err
	}},
	{"HandleSnapshot", func(ctx context.Context, n *raft.Node) error {
		_, err := n.HandleSnapshot(ctx, &raft.InstallSnapshot{})
		return err
	}},
	{"HandleTimeoutNow", func(ctx context.Context, n *raft.Node) error {
		_, err := n.HandleTimeoutNow(ctx, &raft.TimeoutNow{})
		return err
	}},
	{"HandleForward", func(ctx context.Context, n *raft.Node) error {
		_, err := n.HandleForward(ctx, &raft.ForwardRequest{Kind: raft.ForwardReadIndex})
		return err
	}},
	{"HandleAppend", func(ctx context.Context, n *raft.Node) error {
		_, err := n.HandleAppend(ctx, &raft.AppendEntries{})
		return err
	}},
	{"BeginAppend", func(ctx context.Context, n *raft.Node) error {
		answers := make(chan error, 2)
		n.BeginAppend(&raft.AppendEntries{}, func(_ *raft.AppendResponse, err error) { answers <- err })
		select {
		case err := <-answers:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}},
}

func TestA5CallsBeforeRunWaitForIt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 1, clusterOptions{})
		m := c.build("a")
		node := m.node

		require.NoError(t, node.Err())
		status := node.Status()
		require.Equal(t, raft.NodeID("a"), status.ID)
		require.Contains(t, status.Reason, "Run has not been called")
		select {
		case <-node.Done():
			require.Fail(t, "Done is closed")
		default:
		}
		leaders := node.WatchLeader(t.Context())
		require.Equal(t, raft.Leadership{}, receive(t, leaders, "the leadership"))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		requireRefused(t, propose(ctx, node))
		for _, call := range publicCalls() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			require.Error(t, call.call(ctx, node), call.name)
			cancel()
		}
		require.Contains(t, node.Status().Reason, "Run has not been called")
		patient := make(chan error, 2)
		go func() { patient <- proposeAsync(context.Background(), node) }()
		go func() { patient <- propose(context.Background(), node) }()
		synctest.Wait()
		require.Empty(t, patient)

		c.run(m)
		time.Sleep(soon)
		require.Len(t, patient, 2)
		// A node that does not lead yet when it takes them refuses them.
		for range 2 {
			if err := <-patient; err != nil {
				require.ErrorIs(t, err, raft.ErrNotLeader)
			}
		}
		require.True(t, receive(t, leaders, "the new leadership").IsSelf)
	})
}

func TestA5CallsAfterStopEndAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{})
		node := c.node("a")
		c.propose("a", "x")
		c.stop("a")
		began := time.Now()
		for _, call := range publicCalls() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			require.ErrorIs(t, call.call(ctx, node), raft.ErrStopped, call.name)
			cancel()
		}
		node.ProposeAsync(nil, nil)
		require.NoError(t, node.Stop(t.Context()))
		require.ErrorIs(t, node.Run(t.Context()), raft.ErrAlreadyRun)
		require.NoError(t, node.Err())
		<-node.Done()
		status := node.Status()
		require.Contains(t, status.Reason, "stopped")
		require.Equal(t, raft.Follower, status.Role)
		require.NotZero(t, status.CommitIndex, "what it knew last")
		leaders := node.WatchLeader(t.Context())
		require.Equal(t, raft.Leadership{Term: status.Term}, <-leaders)
		_, open := <-leaders
		require.False(t, open)
		require.Zero(t, time.Since(began))
	})
}

func TestA5CallsDuringStop(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{})
		node := c.node("a")
		c.disk("a").stall() // so that Stop cannot finish
		pending := c.proposeLater(t.Context(), "a", "x")
		persistent := make(chan error, 1)
		go func() { persistent <- node.CloseSession(context.Background(), 5) }()
		time.Sleep(20 * electionTimeout) // it does not lead any more, and waits for one who does
		require.Empty(t, persistent)
		require.NotEqual(t, raft.Leader, node.Status().Role)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, node.Stop(ctx), context.DeadlineExceeded)
		requireUnknown(t, receive(t, persistent, "the end of what is tried again"))
		require.ErrorIs(t, node.Stop(ctx), context.DeadlineExceeded, "a second Stop waits too")
		requireUnknown(t, receive(t, pending, "the outcome").err)
		began := time.Now()
		for _, call := range publicCalls() {
			require.ErrorIs(t, call.call(t.Context(), node), raft.ErrStopped, call.name)
		}
		require.Contains(t, node.Status().Reason, "stopped")
		require.NoError(t, node.Err())
		require.Zero(t, time.Since(began))
		select {
		case <-node.Done():
			require.Fail(t, "Done is closed before the last goroutine has ended")
		default:
		}

		many := make(chan error, 10)
		for range cap(many) {
			go func() { many <- node.Stop(context.Background()) }()
		}
		synctest.Wait()
		require.Empty(t, many)
		c.disk("a").resume()
		for range cap(many) {
			require.NoError(t, receive(t, many, "the end of Stop"))
		}
		require.NoError(t, node.Err())
	})
}

// What ends the applier's goroutine without a panic stops the node as well.
func TestA3GoexitInApplyStopsTheNode(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{
			machine: recorders(func(string) error { runtime.Goexit(); return nil }),
			ended:   func(*testing.T, raft.NodeID, error) {},
		})
		pending := c.proposeLater(context.Background(), "a", "x")
		c.awaitEnd("a")
		require.ErrorContains(t, c.node("a").Err(), "the state machine ended the goroutine")
		requireUnknown(t, receive(t, pending, "the outcome").err)
	})
}

// So does a callback with a success, which is made by the same goroutine. The cause names it.
func TestA3GoexitInACallbackStopsTheNode(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{ended: func(*testing.T, raft.NodeID, error) {}})
		c.node(c.leader()).ProposeAsync([]byte("x"), func(raft.Result, error) { runtime.Goexit() })
		c.awaitEnd("a")
		require.ErrorContains(t, c.node("a").Err(), "a callback of ProposeAsync ended the goroutine")
	})
}

// Who waits behind such callbacks has answers all the same, if it was applied together with them.
func TestA3GoexitInACallbackLeavesNobodyBehind(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{
			machine: func(raft.NodeID) raft.StateMachine { return &batcher{recorder: new(recorder)} },
			ended:   func(*testing.T, raft.NodeID, error) {},
		})
		node := c.node(c.leader())
		c.disk("a").stall()
		node.ProposeAsync([]byte("is being written, and the others wait for it"), nil)
		synctest.Wait()
		ends := func(raft.Result, error) { runtime.Goexit() }
		node.ProposeAsync([]byte("1"), ends)
		node.ProposeAsync([]byte("2"), ends)
		synctest.Wait()
		pending := c.proposeLater(context.Background(), "a", "3")
		synctest.Wait()
		var answers []error
		for range 20 {
			node.ProposeAsync([]byte("4"), func(_ raft.Result, err error) { answers = append(answers, err) })
		}
		node.ProposeAsync([]byte("5"), ends)
		synctest.Wait()
		c.disk("a").resume()
		c.awaitEnd("a")
		require.ErrorContains(t, node.Err(), "a callback of ProposeAsync ended the goroutine")
		require.NoError(t, receive(t, pending, "the outcome").err)
		require.Equal(t, make([]error, 20), answers)
	})
}

// A node that reads what its storage holds says so.
func TestStatusOfANodeThatStarts(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 1, clusterOptions{})
		m := c.build("a")
		c.disk("a").stall()
		c.run(m)
		synctest.Wait()
		require.Contains(t, m.node.Status().Reason, "starting")
		c.disk("a").resume()
		c.leader()
	})
}

func TestA5StopBeforeRun(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 1, clusterOptions{})
		node := c.build("a").node
		waiting := make(chan error, 2)
		go func() { waiting <- propose(context.Background(), node) }()
		go func() { waiting <- proposeAsync(context.Background(), node) }()
		leaders := node.WatchLeader(t.Context())
		synctest.Wait()
		require.NoError(t, node.Stop(t.Context()))
		require.NoError(t, node.Stop(t.Context()))
		for range 2 {
			require.ErrorIs(t, receive(t, waiting, "the outcome"), raft.ErrStopped)
		}
		<-node.Done()
		require.NoError(t, node.Err())
		require.NoError(t, node.Run(t.Context()), "there is nothing left to do")
		require.Zero(t, c.disk("a").writes())
		receive(t, leaders, "the last leadership")
		_, open := <-leaders
		require.False(t, open)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 20 {
			require.NoError(t, node.Stop(ended), "it has stopped, whatever the context says")
		}
	})
}

func TestA5RunTwice(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{})
		require.ErrorIs(t, c.node("a").Run(t.Context()), raft.ErrAlreadyRun)
		c.propose("a", "it goes on")
	})
}

func TestA5EndOfContextStopsCleanly(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		node := c.node(leader)
		c.kill(leader)
		<-node.Done()
		require.NoError(t, node.Err())
		require.NoError(t, node.Stop(t.Context()))
	})
}

// brokenTransport cannot serve.
type brokenTransport struct{ raft.Transport }

var errPortInUse = errors.New("port in use")

func (brokenTransport) Serve(raft.Local, raft.Handler) error { return errPortInUse }

func TestA6StartsAndStopsLeaveNothingBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		synctest.Wait()
		before := runtime.NumGoroutine()
		for i := range 200 {
			c := newCluster(t, 1, clusterOptions{ended: func(*testing.T, raft.NodeID, error) {}})
			var want error
			switch i % 4 {
			case 1:
				want = errPortInUse
				c.options.transport = func(transport raft.Transport) raft.Transport { return brokenTransport{transport} }
			case 2:
				want = errDisk
				c.disk("a").loadErr = errDisk
			case 3:
				want = errDisk
				c.disk("a").failNext(1)
			}
			node := c.build("a").node
			waiting := make(chan error, 1)
			go func() { waiting <- propose(context.Background(), node) }()
			leaders := node.WatchLeader(t.Context())
			c.run(c.members["a"])
			if want == nil {
				c.leader()
				c.propose("a", "work")
				<-waiting
			} else {
				<-node.Done()
				require.ErrorIs(t, node.Err(), want)
				require.ErrorIs(t, receive(t, waiting, "the outcome"), raft.ErrStopped)
				require.Contains(t, node.Status().Reason, want.Error())
			}
			c.stop("a")
			for range leaders { // ends
			}
		}
		synctest.Wait()
		require.LessOrEqual(t, runtime.NumGoroutine(), before+5) // other tests of the process may have some
	})
}

func TestA7SlowListenerSeesTheLatestLeadership(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		slow := c.node("a").WatchLeader(t.Context())
		never := c.node("a").WatchLeader(t.Context()) // nobody reads from this one
		require.NotEmpty(t, receive(t, slow, "the present leadership").Leader, "primed")
		term := c.status("a").Term
		for range 100 {
			leader := c.leader()
			c.network.Isolate(leader)
			c.leaderOf(c.others(leader)...)
			c.network.Heal()
		}
		leader := c.leader()
		require.GreaterOrEqual(t, c.status("a").Term, term+100)
		want := raft.Leadership{Term: c.status("a").Term, Leader: leader, Address: c.addresses()[leader], IsSelf: leader == "a"}
		require.Equal(t, want, receive(t, slow, "the latest leadership"))
		require.Empty(t, slow)

		c.stop("a")
		for range 2 {
			last := receive(t, never, "the last leadership")
			require.Empty(t, last.Leader, "a stopped node knows no leader")
			never = slow
		}
		_, open := <-slow
		require.False(t, open)
	})
}

func TestA7WatchingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		leaders := c.node("a").WatchLeader(ctx)
		require.True(t, (<-leaders).IsSelf)
		cancel()
		_, open := <-leaders
		require.False(t, open)

		done, cancel := context.WithCancel(t.Context())
		cancel()
		leaders = c.node("a").WatchLeader(done)
		for range leaders { // primed, perhaps, then closed
		}
	})
}

func TestA8WaiterOfAnOverwrittenEntry(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		a := c.leader()
		c.network.Isolate(a)
		tenth := c.proposeLater(t.Context(), a, "a's tenth")
		synctest.Wait()
		eleventh := c.proposeLater(t.Context(), a, "a's eleventh")
		b := c.leaderOf(c.others(a)...)
		first := c.propose(b, "b's first")
		c.propose(b, "b's second")
		c.network.Heal()
		require.Equal(t, b, c.leader())
		c.settled("b's first", "b's second")

		unknown := requireUnknown(t, receive(t, tenth, "the tenth's outcome").err)
		requireUnknown(t, receive(t, eleventh, "the eleventh's outcome").err)
		require.LessOrEqual(t, unknown.Index, first.Index, "the index holds another entry now")
		require.Less(t, unknown.Term, first.Term)
		c.propose(b, "later")
		c.settled("b's first", "b's second", "later")
	})
}

// A8: or by a snapshot, which covers the place of the entry that they wait for.
func TestA8WaiterOfAnEntryUnderASnapshot(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) { config.TrailingEntries = 1 }})
		a := c.leader()
		others := c.others(a)
		c.network.Isolate(a)
		tenth := c.proposeLater(t.Context(), a, "a's tenth")
		synctest.Wait()
		eleventh := c.proposeLater(t.Context(), a, "a's eleventh")
		synctest.Wait()
		own := c.status(a)
		b := c.leaderOf(others...)
		c.proposeMany(b, 0, 20)
		time.Sleep(2 * electionTimeout) // nothing is kept for the other any more
		covered, err := c.node(b).TakeSnapshot(t.Context())
		require.NoError(t, err)
		require.Greater(t, c.status(b).FirstIndex, own.LastIndex, "no entry is left to overwrite its own with")
		c.network.Heal()
		require.Len(t, c.equal(), 20)
		require.Equal(t, covered, c.status(a).SnapshotIndex)
		require.Equal(t, 1, c.restored(a))

		unknown := requireUnknown(t, receive(t, tenth, "the tenth's outcome").err)
		require.Equal(t, own.LastIndex-1, unknown.Index)
		requireUnknown(t, receive(t, eleventh, "the eleventh's outcome").err)
		c.propose(b, "later")
		require.Len(t, c.equal(), 21)
	})
}

func TestA11ProposalsIntoTheVoid(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		follower := c.others(leader)[0]

		_, err := c.node(follower).Propose(t.Context(), []byte("to a follower"))
		requireRefused(t, err)
		require.ErrorIs(t, err, raft.ErrNotLeader)
		var elsewhere *raft.NotLeaderError
		require.ErrorAs(t, err, &elsewhere)
		require.Equal(t, raft.NotLeaderError{Leader: leader, Address: c.addresses()[leader]}, *elsewhere)
		require.ErrorIs(t, proposeAsync(t.Context(), c.node(follower)), raft.ErrNotLeader)

		_, err = c.node(leader).Propose(t.Context(), make([]byte, 1<<20+1))
		requireRefused(t, err)
		require.ErrorIs(t, err, raft.ErrTooLarge)

		largest := c.propose(leader, strings.Repeat("x", 1<<20))
		empty := c.propose(leader, "")
		require.Equal(t, largest.Index+1, empty.Index, "an empty command is a command")
		c.settled(strings.Repeat("x", 1<<20), "")

		c.network.Isolate(c.ids...)
		c.eventually(soon, "an election", func() bool { return c.status(follower).Role == raft.PreCandidate })
		_, err = c.node(follower).Propose(t.Context(), []byte("during an election"))
		require.ErrorAs(t, err, &elsewhere)
		require.Empty(t, elsewhere.Leader)
		c.network.Heal()
	})
}

// A11: who does not vote takes no commands either, and who was taken out says so.
func TestA11LearnersAndRemovedMembersTakeNothing(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{ended: dismissed})
		leader := c.leader()
		c.join("d")
		require.NoError(t, c.node(leader).AddLearner(within(t), newMember("d")))
		c.eventually(soon, "the learner follows", func() bool { return c.status("d").Leader == leader })
		for _, way := range []func(context.Context, *raft.Node) error{propose, proposeAsync} {
			err := way(t.Context(), c.node("d"))
			requireRefused(t, err)
			var elsewhere *raft.NotLeaderError
			require.ErrorAs(t, err, &elsewhere)
			require.Equal(t, raft.NotLeaderError{Leader: leader, Address: addressOf(leader)}, *elsewhere)
		}
		require.NoError(t, c.node(leader).RemoveMember(within(t), "d"))
		c.awaitEnd("d")
		for _, way := range []func(context.Context, *raft.Node) error{propose, proposeAsync} {
			err := way(t.Context(), c.node("d"))
			requireRefused(t, err)
			require.ErrorIs(t, err, raft.ErrStopped)
			require.ErrorContains(t, err, raft.ErrRemoved.Error())
		}
		c.buried(c.members["d"])
		require.Empty(t, c.equal())
	})
}

func TestA11QueueIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const size = 1000
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) {
			config.MaxCommandBytes, config.MaxPendingBytes, config.MaxUnappliedBytes = size, 100*(size+70), 1
		}})
		leader := c.leader()
		node := c.node(leader)
		c.disk(c.others(leader)[0]).stall()
		c.disk(c.others(leader)[1]).stall()
		command := func(i int) []byte { return fmt.Appendf(nil, "%0*d", size, i) }

		first := c.proposeLater(t.Context(), leader, "in the log") // beyond MaxUnappliedBytes: the rest is queued
		synctest.Wait()
		accepted := 0
		for i := range 10_000 {
			node.ProposeAsync(command(i), func(_ raft.Result, err error) {
				if err == nil {
					accepted++
					return
				}
				requireRefused(t, err)
				require.ErrorIs(t, err, raft.ErrOverloaded)
			})
		}
		synctest.Wait()

		impatient, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := node.Propose(impatient, command(-1))
		requireRefused(t, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		patient := c.proposeLater(t.Context(), leader, "patient")
		time.Sleep(100 * time.Millisecond)
		require.Empty(t, patient)

		c.disk(c.others(leader)[0]).resume()
		c.disk(c.others(leader)[1]).resume()
		time.Sleep(time.Second)
		require.NoError(t, receive(t, first, "the first's outcome").err)
		require.NoError(t, receive(t, patient, "the patient one's outcome").err)
		require.InDelta(t, 100, accepted, 1)
		applied := c.equal()
		require.Equal(t, "patient", applied[len(applied)-1])
		require.Len(t, applied, accepted+2)
	})
}

// Whoever proposes on regardless, hundreds of thousands of times, is slowed down to the pace
// of its own callbacks, some of which are slow against the rule: no more than about 16,384 of
// them wait, and the end waits for no more.
func TestA11CallbacksOfTheRefusedAreBounded(t *testing.T) {
	t.Parallel()
	for _, stopped := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			c := newCluster(t, 3, clusterOptions{configure: func(config *raft.Config) {
				config.MaxCommandBytes, config.MaxPendingBytes = 100, 10_000
			}})
			c.start("a") // no leader, ever
			node := c.node("a")
			if stopped {
				require.NoError(t, node.Stop(t.Context()))
			}
			var called atomic.Int64
			var ended sync.WaitGroup
			most, began := int64(0), time.Now()
			for i := range int64(300_000) {
				ended.Add(1)
				node.ProposeAsync(nil, func(_ raft.Result, err error) {
					defer ended.Done()
					requireRefused(t, err)
					if called.Add(1)%10_000 == 0 {
						time.Sleep(time.Second)
					}
				})
				most = max(most, i-called.Load())
			}
			require.LessOrEqual(t, most, int64(20_000))
			require.True(t, stopped || most > 10_000, most)
			require.LessOrEqual(t, time.Since(began), 31*time.Second, "as slow as the callbacks, no slower")
			began = time.Now()
			require.NoError(t, node.Stop(t.Context()))
			require.Less(t, time.Since(began), 5*time.Second)
			ended.Wait()
			require.Equal(t, int64(300_000), called.Load())
			synctest.Wait()
			began = time.Now()
			node.ProposeAsync(nil, nil)
			require.Zero(t, time.Since(began), "nothing waits any more")
		})
	}
}

// Callbacks may propose again, all of them and at once: that slows down neither them nor
// the end of the node.
func TestCallbacksThatProposeAreNotSlowedDown(t *testing.T) {
	t.Parallel()
	const outstanding = 40_000 // more than may wait without slowing down others
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		node := c.node(leader)
		for _, id := range c.others(leader) {
			c.disk(id).stall()
		}
		var calls atomic.Int64
		again := func(_ raft.Result, err error) {
			requireRefused(t, err)
			if calls.Add(1)%3 > 0 {
				node.ProposeAsync([]byte("once more"), func(_ raft.Result, err error) {
					requireRefused(t, err)
					calls.Add(1)
					node.ProposeAsync([]byte("and once more"), nil)
				})
			}
		}
		unknown := func(_ raft.Result, err error) {
			requireUnknown(t, err)
			node.ProposeAsync([]byte("again"), again)
		}
		for range outstanding {
			node.ProposeAsync([]byte("x"), unknown)
		}
		synctest.Wait() // all are in the log
		require.Zero(t, calls.Load())
		began := time.Now()
		require.NoError(t, node.Stop(t.Context()))
		require.Less(t, time.Since(began), 5*time.Second)
		synctest.Wait()
		require.Greater(t, calls.Load(), int64(outstanding))
		for _, id := range c.others(leader) {
			c.disk(id).resume()
		}
	})
}

// Nor are those that the state machine's goroutine makes: nothing would be applied meanwhile.
func TestCallbacksOfSuccessesAreNotSlowedDown(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		node := c.node(c.leader())
		release, ended := make(chan bool), make(chan bool)
		defer close(release)
		tooLarge := make([]byte, 1<<20+1)
		for range 16_400 {
			node.ProposeAsync(tooLarge, func(raft.Result, error) { <-release })
		}
		left := 500
		var next func(raft.Result, error)
		next = func(_ raft.Result, err error) {
			require.NoError(t, err)
			if left--; left == 0 {
				close(ended)
				return
			}
			node.ProposeAsync([]byte("next"), next)
		}
		began := time.Now()
		node.ProposeAsync([]byte("first"), next)
		receive(t, ended, "the last one")
		require.LessOrEqual(t, time.Since(began), 500*time.Millisecond)
	})
}

// Whoever has an answer finds it in the status, before the loop has heard of it.
func TestAnswersAreInTheStatus(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 1, clusterOptions{})
		node, answered := c.node(c.leader()), make(chan raft.Index, 10)
		for range cap(answered) {
			node.ProposeAsync([]byte("x"), func(result raft.Result, err error) {
				require.NoError(t, err)
				status := node.Status()
				require.GreaterOrEqual(t, status.AppliedIndex, result.Index)
				require.NotContains(t, status.Reason, "to apply")
				answered <- result.Index
			})
			synctest.Wait()
		}
		require.Len(t, answered, cap(answered))
	})
}

// A callback that proposes again and again keeps no node from stopping.
func TestEndlessCallbackDoesNotKeepANodeFromStopping(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		node := c.node(c.others(c.leader())[0])
		var calls, afterwards atomic.Int32
		var again func(raft.Result, error)
		again = func(_ raft.Result, err error) {
			requireRefused(t, err)
			calls.Add(1)
			time.Sleep(time.Millisecond)
			select {
			case <-node.Done():
				afterwards.Add(1)
			default:
			}
			if afterwards.Load() < 10 {
				node.ProposeAsync([]byte("again"), again)
			}
		}
		node.ProposeAsync([]byte("again"), again)
		time.Sleep(time.Second)
		require.Greater(t, calls.Load(), int32(100))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, node.Stop(ctx))
		time.Sleep(time.Second) // the last of them ends
	})
}

// A callback that ends its goroutine, as a failing assertion does, takes no other
// outcome along.
func TestCallbacksThatEndTheirGoroutine(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		node := c.node(c.others(c.leader())[0])
		var called atomic.Int32
		for range 100 {
			node.ProposeAsync([]byte("on a follower"), func(_ raft.Result, err error) {
				requireRefused(t, err)
				called.Add(1)
				runtime.Goexit()
			})
		}
		time.Sleep(time.Second)
		require.Equal(t, int32(100), called.Load())
		_, err := node.Propose(t.Context(), []byte("later"))
		requireRefused(t, err)
		for range 100 {
			node.ProposeAsync([]byte("just before the end"), func(raft.Result, error) {
				called.Add(1)
				runtime.Goexit()
			})
		}
		require.NoError(t, node.Stop(t.Context()))
		require.Equal(t, int32(200), called.Load())
	})
}

func TestContextEndsInTheQueue(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) { config.MaxUnappliedBytes = 1 }})
		leader := c.leader()
		for _, id := range c.others(leader) {
			c.disk(id).stall()
		}
		first := c.proposeLater(t.Context(), leader, "in the log")
		synctest.Wait()
		before := c.proposeLater(t.Context(), leader, "before")
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		leaves := c.proposeLater(ctx, leader, "leaves")
		synctest.Wait()
		after := c.proposeLater(t.Context(), leader, "after")
		synctest.Wait()
		cancel()
		err := receive(t, leaves, "the outcome").err
		requireRefused(t, err)
		require.ErrorIs(t, err, context.Canceled)
		_, err = c.node(leader).Propose(ctx, []byte("never starts"))
		requireRefused(t, err)
		require.ErrorIs(t, err, context.Canceled)

		for _, id := range c.others(leader) {
			c.disk(id).resume()
		}
		time.Sleep(time.Second)
		results := []raft.Result{receive(t, first, "first").result, receive(t, before, "before").result, receive(t, after, "after").result}
		require.Equal(t, []string{"1", "2", "3"}, []string{string(results[0].Response), string(results[1].Response), string(results[2].Response)})
		c.settled("in the log", "before", "after")
	})
}

func TestContextEndsAfterAcceptance(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		for _, id := range c.others(leader) {
			c.disk(id).stall()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err := c.node(leader).Propose(ctx, []byte("accepted"))
		unknown := requireUnknown(t, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, c.status(leader).LastIndex, unknown.Index)
		require.Equal(t, c.status(leader).Term, unknown.Term)
		for _, id := range c.others(leader) {
			c.disk(id).resume()
		}
		c.settled("accepted")
		require.Equal(t, unknown.Index, c.status(leader).AppliedIndex)
	})
}

func TestCausesOfContextsDoNotChangeTheClass(t *testing.T) {
	t.Parallel()
	causes := map[string]error{
		"unknown":  &raft.OutcomeUnknownError{Index: 1, Cause: context.Canceled},
		"refused":  fmt.Errorf("another call: %w", raft.ErrStopped),
		"applied":  &raft.ApplyError{Index: 1, Err: errors.New("what another command led to")},
		"anything": errors.New("the caller has changed its mind"),
	}
	for name, cause := range causes {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 3, clusterOptions{configure: func(config *raft.Config) { config.MaxUnappliedBytes = 1 }})
				leader := c.leader()
				for _, id := range c.others(leader) {
					c.disk(id).stall()
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				accepted := c.proposeLater(ctx, leader, "accepted")
				synctest.Wait()
				queued := c.proposeLater(ctx, leader, "queued")
				synctest.Wait()
				cancel(cause)
				for _, err := range []error{receive(t, accepted, "its outcome").err, receive(t, queued, "its outcome").err} {
					require.ErrorIs(t, err, context.Canceled)
					require.ErrorContains(t, err, cause.Error())
					require.NotEqual(t, errors.Is(err, raft.ErrNotAccepted), errors.Is(err, raft.ErrOutcomeUnknown), "%v", err)
					var apply *raft.ApplyError
					require.False(t, errors.As(err, &apply), "%v", err)
					require.NotEqual(t, raft.CodeApply, raft.CodeOf(err))
				}
			})
		})
	}
}

func TestCommandMayBeReusedAfterTheCall(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := startCluster(t, 3, clusterOptions{})
		leader := c.leader()
		var want []string
		buffer := make([]byte, 8)
		for i := range 100 {
			copy(buffer, fmt.Appendf(nil, "%08d", i))
			want = append(want, string(buffer))
			if i%2 == 0 {
				_, err := c.node(leader).Propose(t.Context(), buffer)
				require.NoError(t, err)
			} else {
				c.node(leader).ProposeAsync(buffer, nil)
			}
			clear(buffer)
		}
		c.settled(want...)
	})
}

// goroutine returns the number of the present goroutine.
func goroutine() string {
	stack := make([]byte, 64)
	return strings.Fields(string(stack[:runtime.Stack(stack, false)]))[1]
}

func TestProposeAsyncCallsBackExactlyOnce(t *testing.T) {
	t.Parallel()
	situations := map[string]struct {
		success bool // of the first
		before  func(c *cluster, leader raft.NodeID) raft.NodeID
		after   func(c *cluster, leader raft.NodeID)
	}{
		"all is well":     {success: true},
		"not the leader":  {before: func(c *cluster, leader raft.NodeID) raft.NodeID { return c.others(leader)[0] }},
		"leadership lost": {before: func(c *cluster, leader raft.NodeID) raft.NodeID { c.network.Isolate(leader); return leader }},
		"stop":            {after: func(c *cluster, leader raft.NodeID) { c.stop(leader) }},
		"kill":            {after: func(c *cluster, leader raft.NodeID) { c.kill(leader) }},
		"storage fails":   {before: func(c *cluster, leader raft.NodeID) raft.NodeID { c.disk(leader).failNext(1); return leader }},
		"stopped before": {before: func(c *cluster, leader raft.NodeID) raft.NodeID {
			go c.node(leader).Stop(context.Background())
			time.Sleep(time.Second)
			return leader
		}},
		"quorum and disks": {before: func(c *cluster, leader raft.NodeID) raft.NodeID { c.disk(leader).stall(); return leader }, after: func(c *cluster, leader raft.NodeID) { c.disk(leader).lose() }},
	}
	for name, s := range situations {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := startCluster(t, 3, clusterOptions{
					configure: func(config *raft.Config) { config.MaxCommandBytes = 100 },
					ended:     func(*testing.T, raft.NodeID, error) {},
				})
				leader := c.leader()
				id := leader
				if s.before != nil {
					id = s.before(c, leader)
				}
				node := c.node(id)
				const commands = 300
				var mu sync.Mutex
				calls := make([]int, 2*commands+1)
				var successes []raft.Index
				proposer := goroutine()
				done := func(i int, then func()) func(raft.Result, error) {
					return func(result raft.Result, err error) {
						mu.Lock()
						defer mu.Unlock()
						calls[i]++
						if goroutine() == proposer {
							t.Error("called from inside ProposeAsync")
						}
						if err == nil {
							successes = append(successes, result.Index)
						} else if errors.Is(err, raft.ErrNotAccepted) == errors.Is(err, raft.ErrOutcomeUnknown) {
							t.Errorf("of both classes, or none: %v", err)
						}
						if then != nil {
							then()
						}
					}
				}
				for i := range commands {
					node.ProposeAsync(fmt.Append(nil, i), done(i, func() {
						node.ProposeAsync(fmt.Append(nil, commands+i), done(commands+i, nil))
					}))
				}
				node.ProposeAsync(make([]byte, 101), done(2*commands, nil))
				if s.after != nil {
					s.after(c, leader)
				}
				time.Sleep(soon)
				mu.Lock()
				defer mu.Unlock()
				for i, n := range calls {
					require.Equal(t, 1, n, "calls for proposal %d", i)
				}
				require.True(t, slices.IsSorted(successes), "successes in the order of the log")
				if s.success {
					require.Len(t, successes, 2*commands)
				}
			})
		})
	}
}

func TestNoErrorIsOfBothClasses(t *testing.T) {
	base := []error{
		raft.ErrNotAccepted, raft.ErrNotLeader, raft.ErrOverloaded, raft.ErrTooLarge, raft.ErrStopped, raft.ErrUnreachable,
		raft.ErrOutcomeUnknown, context.Canceled, errDisk, raft.ErrConfig, raft.ErrUnsupported, nil,
		&raft.NotLeaderError{Leader: "a", Address: "there"},
		&raft.RemoteError{Peer: "b", Code: raft.CodeOverloaded}, &raft.RemoteError{Peer: "b", Code: raft.CodeOutcomeUnknown},
	}
	refused := base[:6]
	for _, err := range append(refused[:6:6], base[12], base[13]) {
		requireRefused(t, err)
	}
	for _, cause := range base {
		causes := []error{cause, fmt.Errorf("wrapped: %w", cause), errors.Join(cause, errDisk), &raft.OutcomeUnknownError{Cause: cause}, &raft.ApplyError{Err: cause}}
		for _, cause := range causes {
			requireUnknown(t, &raft.OutcomeUnknownError{Index: 1, Term: 2, Cause: cause})
			requireUnknown(t, fmt.Errorf("on the way: %w", &raft.OutcomeUnknownError{Cause: cause}))
			applied := &raft.ApplyError{Index: 1, Err: cause}
			require.NotErrorIs(t, applied, raft.ErrNotAccepted, "%v", cause)
			require.NotErrorIs(t, applied, raft.ErrOutcomeUnknown, "%v", cause)
			require.NotEmpty(t, applied.Error())
		}
	}
	for code := raft.CodeOK; code <= raft.CodeInvalidMessage; code++ {
		err := &raft.RemoteError{Peer: "b", Code: code, Message: "no"}
		require.False(t, errors.Is(err, raft.ErrNotAccepted) && errors.Is(err, raft.ErrOutcomeUnknown), "code %d", code)
	}
}
