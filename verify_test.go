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
