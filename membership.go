package raft

import (
	"cmp"
	"maps"
	"slices"
)

// sortedKeys returns the keys of m in order, so that no order of map iteration
// leaks into anything.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
