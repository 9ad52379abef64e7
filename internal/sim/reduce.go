package sim

// Reduce takes away from a list what is not needed for it to fail, first much at
// once and then one by one, and returns what is left. The list fails as it is;
// fails is asked about shorter ones, so many times at most. If it was not too
// few, each single element that is left is needed.
func Reduce[S ~[]E, E any](list S, tries int, fails func(S) bool) S {
	for size := len(list); size > 0; {
		before := len(list)
		for at := 0; at < len(list); {
			if tries--; tries < 0 {
				return list
			}
			shorter := append(list[:at:at], list[min(at+size, len(list)):]...)
			if fails(shorter) {
				list = shorter
			} else {
				at += size
			}
		}
		if size == 1 && len(list) == before {
			return list
		}
		size = max(1, min(size, len(list))/2)
	}
	return list
}

// Least returns a number above low that fails, as high does: the least one to
// within step, if all above that one fail too.
func Least[N ~int | ~int64](low, high, step N, fails func(N) bool) N {
	for high-low > step {
		if middle := low + (high-low)/2; fails(middle) {
			high = middle
		} else {
			low = middle
		}
	}
	return high
}
