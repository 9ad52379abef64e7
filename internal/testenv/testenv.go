// Package testenv knows how the tests of a process are run. Tests alone import it.
package testenv

import (
	"flag"
	"runtime/debug"
	"testing"
)

// Begin is called by a TestMain before its tests run. Tests make many small things
// in a small heap: collecting it less often halves their time. Benchmarks measure
// what users get.
func Begin() {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		debug.SetGCPercent(400)
	}
}

// Race tells whether the race detector, which makes everything ten times slower, is
// at work.
const Race = raceEnabled

// Brief tells whether tests are to do a part only of what takes long.
func Brief() bool { return testing.Short() || Race }
