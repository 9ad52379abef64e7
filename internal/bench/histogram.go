package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts durations in 32 steps for each power of two, so that what it says
// is at most 3% off. Several goroutines may add to it.
type histogram struct{ counts [64 * steps]atomic.Uint64 }

const steps = 32

func (h *histogram) add(d time.Duration) {
	v := uint64(d)
	if v < steps {
		h.counts[v].Add(1)
		return
	}
	shift := bits.Len64(v) - 6
	h.counts[(shift+1)*steps+int(v>>shift)-steps].Add(1)
}

// merge adds all that another one has.
func (h *histogram) merge(other *histogram) {
	for i := range h.counts {
		if n := other.counts[i].Load(); n > 0 {
			h.counts[i].Add(n)
		}
	}
}

func (h *histogram) count() (n uint64) {
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// quantile returns what a share of the durations does not exceed.
func (h *histogram) quantile(share float64) time.Duration {
	total := h.count()
	if total == 0 {
		return 0
	}
	wanted := min(uint64(share*float64(total)), total-1)
	var seen uint64
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen > wanted {
			return lowest(i)
		}
	}
	return 0
}

// lowest is the least duration that is counted at i.
func lowest(i int) time.Duration {
	if i < steps {
		return time.Duration(i)
	}
	return time.Duration(i%steps+steps) << (i/steps - 1)
}
