package raft

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStatusReadsItsOwnJSON(t *testing.T) {
	for role := Follower; role <= Leader; role++ {
		status := Status{
			ID: "a", Role: role, Term: 3, Leader: "b", LeaderAddress: "b:1", CommitIndex: 7, AppliedIndex: 6, LastIndex: 9, FirstIndex: 1, DurableIndex: 8,
			Members: []Member{{ID: "a", Address: "a:1", Role: Voter}}, Joint: true,
			Peers:  []PeerStatus{{ID: "b", Match: 5, Next: 10, Replicating: true, Inflight: 2, InflightBytes: 100, LastContact: time.Second, Trouble: "none"}},
			Reason: "because",
		}
		text, err := json.Marshal(status)
		require.NoError(t, err)
		var got Status
		require.NoError(t, json.Unmarshal(text, &got))
		require.Equal(t, status, got)
	}
	require.Error(t, new(Role).UnmarshalText([]byte("king")))
	require.Error(t, new(MemberRole).UnmarshalText([]byte("king")))
}
