package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

func TestTour(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	start := time.Now()
	require.NoError(t, run(t.Context(), freeAddresses(t), true, 0, &out), "%s", &out)
	require.Less(t, time.Since(start), 20*time.Second)
	for _, line := range []string{
		"ask for pre-votes", "grant vote", "become leader", "committed", "Now the leader",
		"snapshot taken", "comes back", "install snapshot", "All three nodes have applied the same", "All nodes have stopped",
	} {
		require.Contains(t, out.String(), line)
	}
	_, loss, _ := strings.Cut(out.String(), "Now the leader")
	loss, _, _ = strings.Cut(loss, "leads now")
	require.Contains(t, loss, "no leader was heard from for a whole election wait", "the story says that the others wait for that")
}

func TestGoesOnUntilItIsStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &watchedBuffer{want: []byte("deposit 70 coins"), found: cancel}
	time.AfterFunc(20*time.Second, cancel)
	require.NoError(t, run(ctx, freeAddresses(t), false, 10*time.Millisecond, out), "%s", &out.Buffer)
	require.Contains(t, out.String(), "deposit 70 coins")
	require.Contains(t, out.String(), "All nodes have stopped")
}

// watchedBuffer calls found once want has been written to it.
type watchedBuffer struct {
	bytes.Buffer
	want  []byte
	found func()
}

func (b *watchedBuffer) Write(p []byte) (int, error) {
	if bytes.Contains(p, b.want) {
		b.found()
	}
	return b.Buffer.Write(p)
}

// A tour that was cut short has compared nothing, and says so.
func TestInterruptedTourIsAFailure(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &watchedBuffer{want: []byte("Now the leader"), found: cancel}
	require.ErrorContains(t, run(ctx, freeAddresses(t), true, 0, out), "interrupted before the end")
}

// However it ends, it removes its data.
func TestLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir) // on Windows
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, run(ended, freeAddresses(t), false, 0, new(bytes.Buffer)))
	require.NoError(t, run(t.Context(), freeAddresses(t), true, 0, new(bytes.Buffer)))
	peers := freeAddresses(t)
	taken, err := net.Listen("tcp", peers["node2"])
	require.NoError(t, err)
	defer taken.Close()
	require.Error(t, run(t.Context(), peers, true, 0, new(bytes.Buffer)))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	peers := freeAddresses(t)
	taken, err := net.Listen("tcp", peers["node2"])
	require.NoError(t, err)
	defer taken.Close()
	err = run(t.Context(), peers, true, 0, new(bytes.Buffer))
	require.ErrorContains(t, err, "node2")
	require.ErrorContains(t, err, "-base-port")
}

func TestCompare(t *testing.T) {
	ids := []raft.NodeID{"node1", "node2", "node3"}
	journals := func(second ...string) map[raft.NodeID][]string {
		return map[raft.NodeID][]string{"node1": {"x", "y"}, "node2": second, "node3": {"x", "y"}}
	}
	require.NoError(t, compare(journals("x", "y"), ids, []string{"x"}))
	require.ErrorContains(t, compare(journals("x"), ids, nil), `node1 has applied ["x" "y"], node2 ["x"]`)
	require.ErrorContains(t, compare(journals("y", "x"), ids, nil), "node2")
	require.ErrorContains(t, compare(journals("x", "y"), ids, []string{"z"}), `"z" was acknowledged once and applied 0 times`)
}

func TestJournalSurvivesASnapshot(t *testing.T) {
	for _, lines := range [][]string{nil, {"x"}, {"x", "y"}} {
		var from, to journal
		for i, line := range lines {
			response, err := from.Apply([]byte(line))
			require.NoError(t, err)
			require.Equal(t, string(rune('1'+i)), string(response))
		}
		snapshot, err := from.Snapshot()
		require.NoError(t, err)
		to.Apply([]byte("z"))
		require.NoError(t, to.Restore(snapshot))
		require.Equal(t, lines, to.all())
	}
}

// freeAddresses returns three addresses that nobody uses. They lie below the
// range that systems take the ports of outgoing connections from, and where tests of
// other packages take none, so that no other test gets one by chance.
func freeAddresses(t *testing.T) map[raft.NodeID]string {
	for range 100 {
		peers := addresses(15000 + rand.IntN(4990))
		free := true
		for _, address := range peers {
			l, err := net.Listen("tcp", address)
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return peers
		}
	}
	t.Fatal("no free ports")
	return nil
}
