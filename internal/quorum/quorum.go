// Package quorum is the arithmetic of majorities: pure functions of numbers.
package quorum

import "slices"

// Majority returns how many of n voters are a majority.
func Majority(n int) int { return n/2 + 1 }

// Reached returns the largest value that a majority of the voters has reached,
// given the value of each. It sorts values. Without voters it is 0: nobody can
// agree on anything.
//
// With matchIndex values this is the index that is on a majority (thesis
// §3.6.2); with times of last contact, since when a majority was in contact; with
// 1 for each vote that was granted and 0 for others, whether an election is won.
func Reached(values []uint64) uint64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)-Majority(len(values))]
}

// ReachedByBoth returns the largest value that a majority of either configuration
// of a joint phase has reached (§4.3): of the voters of the one that is entered, and
// of those of the one that is left. A voter of both has its value in both. Where
// none is left there is no joint phase, and the voters of the other decide.
func ReachedByBoth(incoming, outgoing []uint64) uint64 {
	reached := Reached(incoming)
	if len(outgoing) > 0 {
		reached = min(reached, Reached(outgoing))
	}
	return reached
}
