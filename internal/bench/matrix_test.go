package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// In each round all peers do one row, and then the next. Nobody is asked for what it does
// not have.
func TestRoundsAreInterleaved(t *testing.T) {
	chosen, err := choosePeers("ours,hashicorp-wal,limit")
	require.NoError(t, err)
	rows := []row{{Kind: propose, Bytes: 16, Callers: 1}, {Kind: followerRead, Callers: 1}}
	m := &matrix{peers: chosen, rows: rows, rounds: 2}
	var order []string
	for _, c := range m.cells() {
		order = append(order, c.row.name()+" "+c.peer.name)
	}
	first := []string{"propose/16B/1 ours", "propose/16B/1 hashicorp-wal", "propose/16B/1 limit"}
	second := []string{"read/follower/1 ours", "read/follower/1 limit"}
	require.Len(t, order, 10)
	for _, round := range [][]string{order[:5], order[5:]} {
		require.ElementsMatch(t, first, round[:3])
		require.ElementsMatch(t, second, round[3:])
	}
}

// Over the rounds of a whole run every peer follows on every other one, and the order is
// that of a run that was interrupted.
func TestPeersFollowOnDifferentOnes(t *testing.T) {
	m := &matrix{peers: peers, rows: rows, rounds: 5}
	follows := map[string]bool{}
	cells := m.cells()
	for i := range cells[1:] {
		if cells[i].row == cells[i+1].row {
			follows[cells[i].peer.name+" "+cells[i+1].peer.name] = true
		}
	}
	require.Len(t, follows, len(peers)*(len(peers)-1))
	for i, c := range m.cells() {
		require.Equal(t, cells[i].peer.name, c.peer.name)
	}
}

// Results tell rows apart by their names.
func TestRowsHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rows {
		require.False(t, seen[r.name()], r.name())
		seen[r.name()] = true
	}
	require.Len(t, seen, 30)
	chosen, err := chooseRows("^propose/1KiB/4096-async$")
	require.NoError(t, err)
	require.Equal(t, []row{{Kind: propose, Bytes: 1024, Window: 4096}}, chosen)
	_, err = chooseRows("propose/3B")
	require.ErrorContains(t, err, "no row matches")
	_, err = choosePeers("ours,nobody")
	require.ErrorContains(t, err, `no peer "nobody"`)
}

// The time left is that of others of the same row, or else a guess.
func TestPaceKnowsRows(t *testing.T) {
	quick, slow := cell{row: row{Kind: restart}}, cell{row: row{Kind: lag}}
	p := newPace(5)
	require.Equal(t, 20*time.Second, p.left([]cell{quick, slow}))
	p.took(slow, 30*time.Second)
	p.took(slow, 50*time.Second)
	require.Equal(t, 50*time.Second, p.left([]cell{quick, slow}))
}

// Of a process that failed the reason is told, and not what dragonboat has to say.
func TestReasonOfAFailure(t *testing.T) {
	text := "2006-01-02 I | settings: Setting A to 1\npanic: no\n\ngoroutine 1\nmain.f()\n"
	require.Equal(t, "panic: no\n", firstLines(text, 2))
	require.Empty(t, firstLines("", 2))
}
