package raft

import (
	"os"
	"runtime"
	"testing"

	"github.com/seed-8da499c8/raft/internal/testenv"
)

// Every driver of every test checks its invariants after every step.
func TestMain(m *testing.M) {
	verifySteps = true
	testenv.Begin()
	os.Exit(m.Run())
}

// WithoutVerification lets a test's drivers run at full speed until it ends.
// The tests in package raft_test that run long, and compare the results of all
// nodes themselves, call it.
func WithoutVerification(t testing.TB) {
	t.Setenv("WITHOUT_VERIFICATION", "1") // parallel tests may not: it is for all drivers of the process
	verifySteps = false
	t.Cleanup(func() { verifySteps = true })
}

// HeapBytes returns how much of the heap is in use. What a pool holds is free once it
// was collected twice.
func HeapBytes() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
