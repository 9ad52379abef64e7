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
// §3.6.2); with times of last contact, since when a majority was in contact.
func Reached(values []uint64) uint64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)-Majority(len(values))]
}

// Vote is the state of an election.
type Vote int

// The states of an election.
const (
	Pending Vote = iota
	Won
	Lost // even if all that are missing were granted
)

// Count returns the state of an election among n voters.
func Count(n, granted, refused int) Vote {
	switch {
	case n > 0 && granted >= Majority(n):
		return Won
	case n-refused < Majority(n):
		return Lost
	default:
		return Pending
	}
}
