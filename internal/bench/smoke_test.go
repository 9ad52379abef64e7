package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests' program is also the one that cells are measured by.
func TestMain(m *testing.M) {
	err := performTask(context.Background())
	if errors.Is(err, errNoTask) {
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// small are rows of every kind that take next to no time.
var small = []row{
	{Kind: propose, Bytes: 128, Callers: 16},
	{Kind: propose, Bytes: 1024, Window: 256},
	{Kind: leaderRead, Bytes: 128, Callers: 16},
	{Kind: followerRead, Bytes: 128, Callers: 16},
	{Kind: leaseRead, Bytes: 128, Callers: 16},
	{Kind: election, Bytes: 128, Trials: 1},
	{Kind: election, Bytes: 128, Trials: 1, Frozen: true},
	{Kind: restart, Bytes: 128, Window: 256, Commands: 5000},
	{Kind: lag, Bytes: 1024, Callers: 64, Commands: 5000},
	{Kind: beside, Bytes: 128, Callers: 1},
}

// promised is what a row of each kind must measure.
var promised = map[kind][]metric{
	propose:      {rate, p50, p99, cpuMicros, allocations, peakMemory},
	leaderRead:   {rate, p50, p99, cpuMicros, allocations, peakMemory},
	followerRead: {rate, p50, p99, cpuMicros, allocations, peakMemory},
	leaseRead:    {rate, p50, p99, cpuMicros, allocations, peakMemory},
	election:     {elected, wrote},
	restart:      {applied, cpuMicros, peakMemory},
	lag:          {rate, p99, healthyRate, healthyP99, healthyPeak, idleMemory, peakMemory},
	beside:       {rate, p50, p99, largeRate},
}

func smoke(t *testing.T, names string, rows []row) (m *matrix, progress *bytes.Buffer) {
	chosen, err := choosePeers(names)
	require.NoError(t, err)
	progress = new(bytes.Buffer)
	m = &matrix{peers: chosen, rows: rows, rounds: 1, seconds: 0.2, dir: t.TempDir(), out: t.TempDir(), progress: progress}
	require.NoError(t, m.run(t.Context()))
	t.Log(progress)

	measured, err := readResults(resultsFile(m.out))
	require.NoError(t, err)
	require.Len(t, measured, len(m.cells()))
	for _, c := range m.cells() {
		require.True(t, measured.has(c.row.name(), c.peer.name, 1), "%s of %s has failed", c.row.name(), c.peer.name)
		for _, p := range promised[c.row.Kind] {
			v, ok := measured.median(c.row.name(), c.peer.name, p)
			require.True(t, ok && v > 0 || p == allocations && ok, "%s of %s has no %s", c.row.name(), c.peer.name, p)
		}
	}
	left, err := os.ReadDir(m.dir)
	require.NoError(t, err)
	require.Empty(t, left, "cells leave something behind")
	return m, progress
}

// This library and the limit do all that is measured, and a run that is started again
// has nothing left to do.
func TestOursAndLimit(t *testing.T) {
	m, progress := smoke(t, "ours,limit", small)
	progress.Reset()
	require.NoError(t, m.run(t.Context()))
	require.Equal(t, 1, strings.Count(progress.String(), "\n"), "it measures what it has measured before")
	require.Contains(t, progress.String(), "has all that")

	m.seconds = 0.1
	require.NoError(t, m.run(t.Context()), "nothing is left to measure, however long")
	m.rounds = 2
	require.ErrorContains(t, m.run(t.Context()), "go on with -seconds 0.2")
}

// The others work.
func TestOthers(t *testing.T) {
	if testing.Short() {
		t.Skip("other libraries")
	}
	smoke(t, "hashicorp-wal,etcdraft,etcdraft-async,dragonboat-tan", small[:1])
}

// A cell that fails is in the results with its error, and is measured again.
func TestFailedCellIsMeasuredAgain(t *testing.T) {
	m := &matrix{peers: []peer{{name: "nobody"}}, rows: small[:1], rounds: 1, seconds: 0.1, dir: t.TempDir(), out: t.TempDir(), progress: new(bytes.Buffer)}
	for range 2 {
		require.NoError(t, m.run(t.Context()))
	}
	measured, err := readResults(resultsFile(m.out))
	require.NoError(t, err)
	require.Len(t, measured, 2)
	for _, r := range measured {
		require.Contains(t, r.Error, `there is no peer "nobody"`)
	}
	require.Contains(t, summary(measured), `nobody in propose/128B/16, round 1: `)
}
