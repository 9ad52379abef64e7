package raft

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a follower allocates for a batch of entries does not depend on how many there are,
// from its bytes off the wire until it is acknowledged.
func TestFollowerAllocatesForBatchesOnly(t *testing.T) {
	allocations := func(count int) float64 {
		r := follower(t, at{log: "1 1 2", term: 2, commit: 1})
		d, incarnation := r.node("b").driver, r.nodes["a"].incarnation
		d.verify = false
		last := d.core.log.last()
		const runs = 200
		var messages [][]byte
		for i := range runs + 1 { // AllocsPerRun makes one more
			first := last + 1 + Index(i*count)
			var entries []LogEntry
			for j := range count {
				entries = append(entries, LogEntry{Term: 2, Index: first + Index(j), Kind: EntryCommand, Data: []byte("command")})
			}
			header := Header{Fingerprint: d.core.settings.fingerprint, From: "a", To: "b", Incarnation: incarnation}
			messages = append(messages, encode(t, &AppendEntries{
				Header: header, Term: 2, PrevLogIndex: first - 1, PrevLogTerm: 2, LeaderCommit: first - 1, Entries: MakeEntries(entries...),
			}))
		}
		acknowledged := Index(0)
		now, events := r.now, make([]any, 1)
		respond := func(response any, err error) {
			require.NoError(t, err)
			acknowledged = response.(*AppendResponse).Match
		}
		return testing.AllocsPerRun(runs, func() {
			m := new(AppendEntries)
			if err := m.UnmarshalBinary(messages[0]); err != nil {
				t.Error(err)
			}
			messages = messages[1:]
			now += time.Millisecond
			events[0] = appendArrived{m, respond}
			d.advance(now, events, nil)
			events[0] = written{}
			w := d.advance(now, events, nil)
			for _, reply := range w.replies {
				reply.respond(reply.response, nil)
			}
			if acknowledged != m.PrevLogIndex+Index(count) {
				t.Error("not acknowledged")
			}
		})
	}
	few, many := allocations(2), allocations(2000)
	t.Logf("%v allocations for 2 entries, %v for 2000", few, many)
	require.Equal(t, few, many)
	require.LessOrEqual(t, many, 8.0)
}
