package quorum

import (
	"slices"
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

// reachedByCounting is the brute-force twin: the largest value that more than half
// of the voters have reached, and of those of a second list too, unless it is empty.
func reachedByCounting(incoming, outgoing []uint64) uint64 {
	best := uint64(0)
	for _, candidate := range slices.Concat(incoming, outgoing) {
		if moreThanHalf(incoming, candidate) && (len(outgoing) == 0 || moreThanHalf(outgoing, candidate)) {
			best = max(best, candidate)
		}
	}
	return best
}

func moreThanHalf(values []uint64, reach uint64) bool {
	count := 0
	for _, v := range values {
		if v >= reach {
			count++
		}
	}
	return 2*count > len(values)
}

func TestReachedAgreesWithCounting(t *testing.T) {
	for n := range 10 {
		limit := 4
		if n > 7 {
			limit = 3
		}
		eachAssignment(n, limit, func(values []uint64) {
			want := reachedByCounting(values, nil)
			got := Reached(slices.Clone(values))
			joint := ReachedByBoth(slices.Clone(values), nil)
			if got != want || joint != want {
				t.Fatalf("Reached(%v) = %d, and with nobody left %d, counting says %d", values, got, joint, want)
			}
		})
	}
}

// Both halves have 1 to 9 voters of up to 9 in all, and overlap in any number of
// them: all, some or none. Which voters these are does not matter, only how many.
func TestReachedByBothAgreesWithCounting(t *testing.T) {
	cases := 0
	for voters := 1; voters <= 9; voters++ {
		limit := 4
		if voters > 5 {
			limit = 2
		}
		for entering := 1; entering <= voters; entering++ {
			for first := 0; first <= entering; first++ { // of the voters that are left
				if first == voters {
					continue
				}
				eachAssignment(voters, limit, func(values []uint64) {
					cases++
					incoming, outgoing := values[:entering], values[first:]
					want := reachedByCounting(incoming, outgoing)
					if got := ReachedByBoth(slices.Clone(incoming), slices.Clone(outgoing)); got != want {
						t.Fatalf("ReachedByBoth(%v, %v) = %d, counting says %d", incoming, outgoing, got, want)
					}
				})
			}
		}
	}
	require.Greater(t, cases, 50_000)
}

func TestTwoMajoritiesAlwaysMeet(t *testing.T) {
	for n := 1; n <= 9; n++ {
		require.Greater(t, 2*Majority(n), n, "two majorities of %d voters share one", n)
		require.LessOrEqual(t, Majority(n), n)
	}
}

// Why a joint phase is safe (thesis §4.3): who decides in it shares a voter with
// whoever decides in the configuration before, and in the one after. With one voter
// more or less this holds without one (§4.1).
func TestJointMajoritiesMeetThoseBeforeAndAfter(t *testing.T) {
	const voters = 6
	of := func(set, voter int) uint64 { return uint64(set >> voter & 1) }
	votes := func(yes, members int) (values []uint64) {
		for v := range voters {
			if of(members, v) == 1 {
				values = append(values, of(yes, v))
			}
		}
		return values
	}
	for before := 1; before < 1<<voters; before++ {
		for after := 1; after < 1<<voters; after++ {
			for yes := range 1 << voters {
				no := ^yes // whoever is not among them decides otherwise
				joint := ReachedByBoth(votes(yes, after), votes(yes, before)) == 1
				if joint && (Reached(votes(no, before)) == 1 || Reached(votes(no, after)) == 1) {
					t.Fatalf("of %06b before and %06b after, %06b decide alone, and so do all others", before, after, yes)
				}
			}
		}
	}
	for n := 1; n < 9; n++ {
		require.Greater(t, Majority(n)+Majority(n+1), n+1, "majorities of %d and of %d voters share one", n, n+1)
	}
}
