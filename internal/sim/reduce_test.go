package sim

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// numbers returns 0 to n-1.
func numbers(n int) []int {
	var list []int
	for i := range n {
		list = append(list, i)
	}
	return list
}

// What is needed is left, in its order, wherever it stands.
func TestReduceLeavesWhatIsNeeded(t *testing.T) {
	for _, needed := range [][]int{{}, {0}, {99}, {41, 42}, {0, 50, 99}, {3, 4, 5, 6, 7, 60}} {
		got := Reduce(numbers(100), 1000, func(list []int) bool {
			return !slices.ContainsFunc(needed, func(n int) bool { return !slices.Contains(list, n) })
		})
		require.Equal(t, needed, got)
	}
	require.Empty(t, Reduce([]int{}, 10, func([]int) bool { panic("there is nothing to take away") }))
}

// What fails only together with one of two others keeps one of them: without any
// single one of what is left it does not fail.
func TestReduceEndsWhereEachIsNeeded(t *testing.T) {
	fails := func(list []int) bool {
		return slices.Contains(list, 10) && (slices.Contains(list, 20) || slices.Contains(list, 30)) && len(list)%2 == 0
	}
	got := Reduce(numbers(64), 10_000, fails)
	require.True(t, fails(got))
	for i := range got {
		require.False(t, fails(slices.Delete(slices.Clone(got), i, i+1)), "%v without its %d.", got, i)
	}
}

// The list that was given stays, and nobody is asked more often than allowed:
// then what failed last is the answer.
func TestReduceKeepsToItsTries(t *testing.T) {
	list := numbers(100)
	for tries := range 40 {
		asked := 0
		smallest := list
		got := Reduce(list, tries, func(shorter []int) bool {
			asked++
			if !slices.Contains(shorter, 77) {
				return false
			}
			smallest = shorter
			return true
		})
		require.LessOrEqual(t, asked, tries)
		require.Equal(t, smallest, got)
	}
	require.Equal(t, numbers(100), list)
}

func TestLeast(t *testing.T) {
	for want := 1; want <= 9; want++ {
		require.Equal(t, want, Least(0, 9, 1, func(n int) bool { return n >= want }))
	}
	got := Least(0, 14*time.Second, 50*time.Millisecond, func(d time.Duration) bool { return d >= 3*time.Second })
	require.GreaterOrEqual(t, got, 3*time.Second)
	require.LessOrEqual(t, got, 3*time.Second+50*time.Millisecond)
}
