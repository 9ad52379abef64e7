package raft_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// recorder is a state machine that remembers the commands that it applied.
type recorder struct {
	mu       sync.Mutex
	commands []string
}

func (r *recorder) Apply(command []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commands = append(r.commands, string(command))
	return fmt.Appendf(nil, "%d", len(r.commands)), nil
}
func (r *recorder) Snapshot() ([]byte, error)     { return nil, nil }
func (r *recorder) Restore(snapshot []byte) error { return nil }

func (r *recorder) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.commands...)
}

func TestSmoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := raft.NewMemoryNetwork()
		peers := map[raft.NodeID]string{"a": "a", "b": "b", "c": "c"}
		nodes := map[raft.NodeID]*raft.Node{}
		sms := map[raft.NodeID]*recorder{}
		var wg sync.WaitGroup
		for id, address := range peers {
			config := raft.NewConfig(id, address, peers)
			config.Storage = raft.NewMemoryStorage()
			sms[id] = new(recorder)
			n, err := raft.NewNode(config, sms[id], network.Transport(id))
			require.NoError(t, err)
			nodes[id] = n
			wg.Go(func() { require.NoError(t, n.Run(t.Context())) })
		}
		time.Sleep(3 * time.Second)
		for _, n := range nodes {
			s := n.Status()
			fmt.Printf("%+v\n", s)
			if s.Leader == s.ID {
				for i := range 10 {
					r, err := n.Propose(t.Context(), fmt.Appendf(nil, "c%d", i))
					require.NoError(t, err)
					fmt.Println(r)
				}
			}
		}
		time.Sleep(time.Second)
		for id := range nodes {
			fmt.Println(sms[id].seen())
			require.Len(t, sms[id].seen(), 10)
		}
		for _, n := range nodes {
			require.NoError(t, n.Stop(context.Background()))
		}
		wg.Wait()
	})
}
