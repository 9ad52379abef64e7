package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sample is what two peers and the limit have measured in rows of two kinds.
var sample = results{
	measured("propose/128B/16", ours, 1, rate, 12_345.4), measured("propose/128B/16", "etcdraft", 1, rate, 6172.7), measured("propose/128B/16", limit, 1, rate, 24_690.8),
	measured("propose/128B/4096-async", ours, 1, rate, 1e6), measured("propose/128B/4096-async", "etcdraft", 1, rate, 2e6),
	measured("election/killed", ours, 1, wrote, 200), measured("election/killed", "etcdraft", 1, wrote, 160),
}

func TestTables(t *testing.T) {
	var out bytes.Buffer
	writeTables(&out, short, sample, false)
	require.Equal(t, `
Commands per second:

| commands | this library | etcd raft, etcd wal | limit | ours / best | ours / limit |
|---|---:|---:|---:|---:|---:|
| 128 B, 16 callers | **12,345** | 6,173 | 24,691 | 2.00 | 0.50 |
| 128 B, 4096 outstanding | 1,000,000 | **2,000,000** |  | 0.50 |  |

Elections, a restart, a dead follower:

|  | this library | etcd raft, etcd wal | ours / best |
|---|---:|---:|---:|
| ms until a leader that is killed is replaced by one that has committed a command | 200 | **160** | 1.25 |
`, out.String())

	out.Reset()
	writeTables(&out, short, append(results{
		measured("propose/128B/16", ours, 2, rate, 5), measured("propose/128B/16", "etcdraft", 2, rate, 5), measured("propose/128B/16", limit, 2, rate, 5),
	}, sample...), true)
	require.Contains(t, out.String(), "| 1.50 (1.00 to 2.00) | 0.75 (0.50 to 1.00) |\n")
}

// Every metric of every row is in some table.
func TestTablesAreComplete(t *testing.T) {
	shown := map[string]bool{}
	for _, tables := range [][]table{short, details} {
		for _, table := range tables {
			for _, l := range table.lines {
				shown[l.row.name()+" "+string(l.metric)] = true
			}
		}
	}
	for _, r := range rows {
		for _, m := range promised[r.Kind] {
			if m == allocations && r.Kind != propose || m == peakMemory && strings.HasPrefix(string(r.Kind), "read") {
				continue // of reads rate, latency and CPU are enough
			}
			require.True(t, shown[r.name()+" "+string(m)], "no table shows %s of %s", m, r.name())
		}
	}
}

// The picture is whole, has a bar for each value, and nothing from elsewhere.
func TestPicture(t *testing.T) {
	var out bytes.Buffer
	drawPicture(&out, sample)
	drawn := out.String()
	for decoder := xml.NewDecoder(&out); ; {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
	}
	require.Contains(t, drawn, `<rect class="p0" x="190" y="62" width="330.0" `) // half of the limit
	require.Contains(t, drawn, `>12,345</text>`)
	require.NotContains(t, drawn, "outstanding", "a row without a limit")

	var beyond bytes.Buffer
	drawPicture(&beyond, append(results{measured("propose/128B/1", ours, 1, rate, 3), measured("propose/128B/1", limit, 1, rate, 1)}, sample...))
	require.Contains(t, beyond.String(), `width="660.0"`, "three times the limit, and in the picture")
	require.Contains(t, beyond.String(), `width="110.0"`, "half of the limit on that scale")
	require.Contains(t, beyond.String(), `>300%</text>`)
	require.Contains(t, drawn, "prefers-color-scheme: dark")
	require.NotRegexp(t, `<script|@import|@font-face|href|url\(`, drawn)
}

// What is around the markers stays, and the second time changes nothing.
func TestReadmeIsUpdatedBetweenMarkers(t *testing.T) {
	root := t.TempDir()
	readme := filepath.Join(root, "README.md")
	here := filepath.Join(root, "internal", "bench")
	require.NoError(t, os.MkdirAll(here, 0o755))
	t.Chdir(here)
	for _, r := range sample {
		require.NoError(t, appendResult(resultsFile(root), r))
	}
	before := "before\n" + beginMark + "\nstale\n" + endMark + "\nafter\n"
	require.NoError(t, os.WriteFile(readme, []byte(before), 0o644))
	require.ErrorContains(t, writeReport(root, readme), "keeps its tables")
	require.NoFileExists(t, "report.md")
	untouched, err := os.ReadFile(readme)
	require.NoError(t, err)
	require.Equal(t, before, string(untouched))

	all := matrix{peers: peers, rows: rows, rounds: len(sample.rounds())}
	for _, c := range all.cells() {
		if !sample.has(c.row.name(), c.peer.name, c.round) {
			require.NoError(t, appendResult(resultsFile(root), measured(c.row.name(), c.peer.name, c.round, otherCores, 0)))
		}
	}
	require.NoError(t, writeReport(root, readme))
	once, err := os.ReadFile(readme)
	require.NoError(t, err)
	require.Regexp(t, `(?s)^before\n`+beginMark+`\n.*!\[.*\]\(internal/bench/commands.svg\).*The best library is bold.*12,345.*\(internal/bench/report.md\).*\n`+endMark+`\nafter\n$`, string(once))
	require.NotContains(t, string(once), "stale")
	require.FileExists(t, "commands.svg")
	require.FileExists(t, "report.md")

	require.NoError(t, writeReport(root, readme))
	twice, err := os.ReadFile(readme)
	require.NoError(t, err)
	require.Equal(t, string(once), string(twice))

	require.NoError(t, os.WriteFile(readme, []byte("no markers\n"), 0o644))
	require.ErrorContains(t, writeReport(root, readme), "has no lines")
	kept, err := os.ReadFile(readme)
	require.NoError(t, err)
	require.Equal(t, "no markers\n", string(kept))
}

func TestGrouped(t *testing.T) {
	for _, test := range []struct {
		v      float64
		digits int
		want   string
	}{{7, 0, "7"}, {999.4, 0, "999"}, {1000, 0, "1,000"}, {1234567.26, 1, "1,234,567.3"}, {0.05, 2, "0.05"}} {
		require.Equal(t, test.want, grouped(test.v, test.digits))
	}
}
