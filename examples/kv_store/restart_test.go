package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// BenchmarkRestart compares how long a node takes to be where it was, from Run to
// the last command applied, with reading and decoding the same 1,000,000 keys from a
// plain file, which knows no checksums. Both take turns, and medians are reported.
func BenchmarkRestart(b *testing.B) {
	const keys = 1_000_000
	dir := b.TempDir()
	applied := fillNode(b, dir, keys)
	plain := filepath.Join(dir, "plain")
	var ofNode, ofFile []time.Duration
	for b.Loop() {
		took, s := restart(b, dir, applied)
		require.Len(b, s.values, keys)
		ofNode = append(ofNode, took)
		if len(ofFile) == 0 {
			writePlain(b, plain, s)
		}
		took, s = readPlain(b, plain)
		require.Len(b, s.values, keys)
		ofFile = append(ofFile, took)
	}
	node, file := median(ofNode), median(ofFile)
	b.ReportMetric(node.Seconds()*1000, "node-ms")
	b.ReportMetric(file.Seconds()*1000, "file-ms")
	b.ReportMetric(float64(node)/float64(file), "node/file")
	b.ReportMetric(0, "ns/op") // of both and of what is between
}

// startSolo runs a node that is a cluster of its own. stop returns its store.
func startSolo(b *testing.B, dir string, entries int) (node *raft.Node, stop func() *store) {
	config := raft.NewConfig("solo", "solo", map[raft.NodeID]string{"solo": "solo"})
	config.DataDir = filepath.Join(dir, "solo.raft")
	config.SnapshotEntries, config.SnapshotBytes = entries, 1<<30
	s := newStore()
	node, err := raft.NewNode(config, s, raft.NewMemoryNetwork().Transport("solo"))
	require.NoError(b, err)
	ended := make(chan error, 1)
	go func() { ended <- node.Run(context.Background()) }()
	return node, func() *store {
		require.NoError(b, node.Stop(context.Background()))
		require.NoError(b, <-ended)
		return s
	}
}

// fillNode makes a data directory with a snapshot of keys of 16 bytes and values of
// 64, and returns up to where that goes.
func fillNode(b *testing.B, dir string, keys int) raft.Index {
	node, stop := startSolo(b, dir, 10*keys)
	defer stop()
	for leadership := range node.WatchLeader(b.Context()) {
		if leadership.IsSelf {
			break
		}
	}
	var outcomes sync.WaitGroup
	room := make(chan struct{}, 4096)
	for i := range keys {
		room <- struct{}{}
		outcomes.Add(1)
		c := command{op: opSet, key: fmt.Sprintf("key %012d", i), value: fmt.Appendf(nil, "%064d", i)}
		node.ProposeAsync(c.encode(), func(_ raft.Result, err error) {
			if err != nil {
				b.Error(err)
			}
			<-room
			outcomes.Done()
		})
	}
	outcomes.Wait()
	index, err := node.TakeSnapshot(b.Context())
	require.NoError(b, err)
	return index
}

// restart starts the node and waits until it has applied what it had.
func restart(b *testing.B, dir string, applied raft.Index) (time.Duration, *store) {
	runtime.GC()
	began := time.Now()
	node, stop := startSolo(b, dir, 1<<30)
	for node.Status().AppliedIndex < applied {
		require.NoError(b, node.Err())
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began)
	return took, stop()
}

func writePlain(b *testing.B, name string, s *store) {
	file, err := os.Create(name)
	require.NoError(b, err)
	defer file.Close()
	v, err := s.CaptureSnapshot()
	require.NoError(b, err)
	require.NoError(b, v.WriteTo(b.Context(), file))
	require.NoError(b, v.Close())
}

func readPlain(b *testing.B, name string) (time.Duration, *store) {
	runtime.GC()
	began := time.Now()
	file, err := os.Open(name)
	require.NoError(b, err)
	defer file.Close()
	s := newStore()
	require.NoError(b, s.RestoreFrom(b.Context(), file))
	return time.Since(began), s
}

func median(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)/2]
}
