package raft

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever is slowed down goes on when callbacks have caught up, or after a while.
func TestSlowedDownUntilCallbacksHaveCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(Node)
		for _, took := range []time.Duration{3 * time.Millisecond, 10 * time.Millisecond} {
			n.callsLeft.Store(maxCalls + 1)
			began := time.Now()
			caughtUp := time.AfterFunc(3*time.Millisecond, n.callMade)
			if took > 3*time.Millisecond {
				caughtUp.Stop()
			}
			n.slowDown()
			require.Equal(t, took, time.Since(began))
		}
		n.callMade()
		began := time.Now()
		n.slowDown()
		require.Zero(t, time.Since(began), "they have caught up meanwhile")
	})
}
