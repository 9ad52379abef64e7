package raft

import (
	"os"
	"testing"
)

// Every driver of every test checks its invariants after every step.
func TestMain(m *testing.M) {
	verifySteps = true
	os.Exit(m.Run())
}

// UnderRace tells the tests in package raft_test whether the race detector,
// which makes everything ten times slower, is at work.
const UnderRace = raceEnabled

// WithoutVerification lets a test's drivers run at full speed until it ends.
// The tests in package raft_test that run long, and compare the results of all
// nodes themselves, call it.
func WithoutVerification(t testing.TB) {
	verifySteps = false
	t.Cleanup(func() { verifySteps = true })
}
