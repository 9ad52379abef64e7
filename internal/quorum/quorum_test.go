package quorum

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// eachAssignment calls f with every list of n values below limit.
func eachAssignment(n, limit int, f func([]uint64)) {
	values := make([]uint64, n)
	var fill func(int)
	fill = func(i int) {
		if i == n {
			f(values)
			return
		}
		for v := range limit {
			values[i] = uint64(v)
			fill(i + 1)
		}
	}
	fill(0)
}

// The brute-force twin: the largest value that more than half have reached.
func reachedByCounting(values []uint64) uint64 {
	best := uint64(0)
	for _, candidate := range values {
		count := 0
		for _, v := range values {
			if v >= candidate {
				count++
			}
		}
		if 2*count > len(values) {
			best = max(best, candidate)
		}
	}
	return best
}

func TestReachedAgreesWithCounting(t *testing.T) {
	for n := range 8 {
		eachAssignment(n, 4, func(values []uint64) {
			want := reachedByCounting(values)
			got := Reached(append([]uint64(nil), values...))
			if got != want {
				t.Fatalf("Reached(%v) = %d, counting says %d", values, got, want)
			}
		})
	}
}

func TestTwoMajoritiesAlwaysMeet(t *testing.T) {
	for n := 1; n <= 9; n++ {
		require.Greater(t, 2*Majority(n), n, "two majorities of %d voters share one", n)
		require.LessOrEqual(t, Majority(n), n)
	}
}

func TestCount(t *testing.T) {
	for n := 1; n <= 9; n++ {
		for granted := 0; granted <= n; granted++ {
			for refused := 0; granted+refused <= n; refused++ {
				want := Pending
				switch missing := n - granted - refused; {
				case 2*granted > n:
					want = Won
				case 2*(granted+missing) <= n:
					want = Lost
				}
				require.Equal(t, want, Count(n, granted, refused), "%d voters, %d granted, %d refused", n, granted, refused)
			}
		}
	}
	require.NotEqual(t, Won, Count(0, 0, 0), "nobody elects nobody")
}
