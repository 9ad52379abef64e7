package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// measured makes a result with one sample.
func measured(row, peer string, round int, m metric, v float64) result {
	return result{Row: row, Peer: peer, Round: round, Samples: samples{m: {v}}}
}

// Each of our values is divided by that of the best in the same round, whoever that
// is: the machine may be faster in one round than in another.
func TestRatiosAreThoseOfRounds(t *testing.T) {
	rs := results{
		measured("a", ours, 1, rate, 200), measured("a", "etcdraft", 1, rate, 100), measured("a", "hashicorp-wal", 1, rate, 50), measured("a", limit, 1, rate, 400),
		measured("a", ours, 2, rate, 30), measured("a", "etcdraft", 2, rate, 10), measured("a", "hashicorp-wal", 2, rate, 20), measured("a", limit, 2, rate, 40),
		measured("a", ours, 3, rate, 1000), measured("a", "etcdraft", 3, rate, 1000), measured("a", "hashicorp-wal", 3, rate, 7), measured("a", limit, 3, rate, 1000),
		measured("a", ours, 4, rate, 77),
		measured("b", ours, 1, rate, 9),
	}
	v, ok := rs.timesBest("a", rate)
	require.True(t, ok)
	require.Equal(t, ratio{1.5, 1, 2}, v) // of 2, 1.5 and 1
	v, ok = rs.timesLimit("a", rate)
	require.True(t, ok)
	require.Equal(t, ratio{.75, .5, 1}, v) // of 0.5, 0.75 and 1
	_, ok = rs.timesBest("b", rate)
	require.False(t, ok)
}

// A round without one of the others, which may be the best, is not compared with the rest.
func TestRatiosAreThoseOfWholeRounds(t *testing.T) {
	rs := results{
		measured("a", ours, 1, rate, 200), measured("a", "etcdraft", 1, rate, 100), measured("a", "hashicorp-wal", 1, rate, 50),
		measured("a", ours, 2, rate, 200), measured("a", "hashicorp-wal", 2, rate, 50),
	}
	failed := measured("a", "etcdraft", 2, rate, 100)
	failed.Error = "it has no legs"
	for _, rs := range []results{rs, append(rs, failed)} {
		v, ok := rs.timesBest("a", rate)
		require.True(t, ok)
		require.Equal(t, 2., v.median)
	}
}

// Where less is better the best is the least.
func TestLeastIsBest(t *testing.T) {
	rs := results{measured("a", ours, 1, wrote, 300), measured("a", "etcdraft", 1, wrote, 200), measured("a", "hashicorp-wal", 1, wrote, 600)}
	best, ok := rs.best("a", wrote, libraries())
	require.True(t, ok)
	require.Equal(t, "etcdraft", best)
	v, _ := rs.timesBest("a", wrote)
	require.Equal(t, 1.5, v.median)
}

// Of a few trials somebody is always lucky: all of them are compared together.
func TestElectionsAreComparedTogether(t *testing.T) {
	rs := results{
		measured("a", ours, 1, wrote, 200), measured("a", "etcdraft", 1, wrote, 100), measured("a", "hashicorp-wal", 1, wrote, 400),
		measured("a", ours, 2, wrote, 200), measured("a", "etcdraft", 2, wrote, 400), measured("a", "hashicorp-wal", 2, wrote, 100),
	}
	v, ok := rs.timesBest("a", wrote)
	require.True(t, ok)
	require.Equal(t, ratio{.8, .8, .8}, v)
}

// Latencies are compared with those of the fastest, not with those of somebody who
// answers little, and that quickly.
func TestLatenciesAreComparedWithTheFastest(t *testing.T) {
	rs := results{
		{Row: "a", Peer: ours, Round: 1, Samples: samples{rate: {100}, p99: {30}}},
		{Row: "a", Peer: "etcdraft", Round: 1, Samples: samples{rate: {90}, p99: {60}}},
		{Row: "a", Peer: "hashicorp-wal", Round: 1, Samples: samples{rate: {10}, p99: {15}}},
	}
	v, _ := rs.timesBest("a", p99)
	require.Equal(t, .5, v.median)
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{{[]float64{5}, 5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		v, ok := median(test.values)
		require.True(t, ok)
		require.Equal(t, test.want, v)
	}
	_, ok := median(nil)
	require.False(t, ok)
}

// A crash may leave half a line. That cell counts as not measured, and the next one is
// whole.
func TestHalfALineIsNotMeasured(t *testing.T) {
	name := filepath.Join(t.TempDir(), "results.jsonl")
	none, err := readResults(name)
	require.NoError(t, err)
	require.Empty(t, none)

	require.NoError(t, appendResult(name, measured("a", ours, 1, rate, 1)))
	whole, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, appendResult(name, measured("b", ours, 1, rate, 2)))
	both, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name, both[:len(whole)+(len(both)-len(whole))/2], 0o644))
	require.NoError(t, appendResult(name, measured("c", ours, 1, rate, 3)))

	rs, err := readResults(name)
	require.NoError(t, err)
	require.Equal(t, results{measured("a", ours, 1, rate, 1), measured("c", ours, 1, rate, 3)}, rs)
	require.True(t, rs.has("a", ours, 1))
	require.False(t, rs.has("b", ours, 1))
	require.False(t, rs.has("a", ours, 2))
}

// What has failed is not measured, and takes no part in anything.
func TestErrorsAreNotMeasurements(t *testing.T) {
	failed := measured("a", ours, 1, rate, 1)
	failed.Error = "it has no legs"
	rs := results{failed}
	require.False(t, rs.has("a", ours, 1))
	require.Empty(t, rs.values("a", ours, rate))
	require.Contains(t, summary(rs), "- ours in a, round 1: it has no legs\n")
	rs = append(rs, measured("a", ours, 1, rate, 2))
	require.Equal(t, []float64{2}, rs.values("a", ours, rate))
	require.NotContains(t, summary(rs), "legs")
}

// What was measured with other settings is not for the README, and says so.
func TestSettingsAreNamed(t *testing.T) {
	m := matrix{ours: `{"LogCacheBytes": 7}`, gogc: "400", profiles: true}
	require.Equal(t, `-ours {"LogCacheBytes": 7} -gogc 400 -profiles -touch=false`, m.settings())
	var rs results
	for _, c := range (&matrix{peers: peers, rows: rows, rounds: 2}).cells() {
		rs = append(rs, measured(c.row.name(), c.peer.name, c.round, rate, 1))
	}
	require.True(t, rs.whole())
	require.False(t, rs[1:].whole())
	require.NotContains(t, summary(rs), "With")
	rs[0].Settings = m.settings()
	require.False(t, rs.whole())
	require.Contains(t, summary(rs), ` With -ours {"LogCacheBytes": 7} -gogc 400 -profiles -touch=false and the defaults.`)
}

// Cells of one file have the same settings: to go on with others, or to find nothing left to
// measure, would tell figures of the former as theirs.
func TestOtherSettingsNeedAnotherFile(t *testing.T) {
	var told strings.Builder
	m := matrix{peers: peers[:1], rows: rows[:1], rounds: 1, seconds: 1, touch: true, dir: t.TempDir(), out: t.TempDir(), progress: &told}
	require.NoError(t, appendResult(resultsFile(m.out), result{Row: rows[0].name(), Peer: peers[0].name, Round: 1, Seconds: 1}))
	require.NoError(t, m.run(t.Context()))
	require.Contains(t, told.String(), "has all that")
	m.gogc = "400"
	require.ErrorContains(t, m.run(t.Context()), "has cells measured with other settings (the defaults, not -gogc 400)")
	m.gogc, m.ours = "", `{"LogCacheBites": 1}`
	require.ErrorContains(t, m.run(t.Context()), "LogCacheBites")
	m.rounds, m.ours = 0, ""
	require.NoError(t, m.run(t.Context()), "only to be told again")
}

// Readers learn of which revisions figures are.
func TestSummaryNamesRevisions(t *testing.T) {
	a, b := measured("a", ours, 1, rate, 1), measured("a", ours, 2, rate, 1)
	a.Revision, b.Revision = "abc", "def"
	require.Contains(t, summary(results{a, a, b}), "Medians of 2 rounds of 0 s, revision abc and def, ")
}
