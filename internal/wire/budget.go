package wire

import (
	"slices"
	"sync"
)

// Budget bounds the bytes of received frames that are in memory until they
// have been dealt with. A frame larger than the whole budget is admitted when
// nothing else is. Who waits is served in order.
type Budget struct {
	total int

	mu      sync.Mutex // guards what follows
	used    int
	waiters []*waiter
}

type waiter struct {
	bytes    int
	admitted chan struct{}
}

// NewBudget returns a Budget of so many bytes.
func NewBudget(bytes int) *Budget { return &Budget{total: bytes} }

// Acquire takes bytes, waiting until they are free. It returns false, and takes
// nothing, if done is closed first.
func (b *Budget) Acquire(done <-chan struct{}, bytes int) bool {
	b.mu.Lock()
	if len(b.waiters) == 0 && b.fits(bytes) {
		b.used += bytes
		b.mu.Unlock()
		return true
	}
	w := &waiter{bytes, make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.mu.Unlock()

	select {
	case <-w.admitted:
		return true
	case <-done:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.waiters, w); i >= 0 {
		b.waiters = slices.Delete(b.waiters, i, i+1)
	} else {
		b.used -= bytes // admitted at the same moment
	}
	b.admit()
	return false
}

// Release gives bytes back.
func (b *Budget) Release(bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= bytes
	b.admit()
}

// Used returns how many bytes are taken.
func (b *Budget) Used() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

func (b *Budget) fits(bytes int) bool { return b.used == 0 || b.used+bytes <= b.total }

// admit lets in as many as fit, in order.
func (b *Budget) admit() {
	for len(b.waiters) > 0 && b.fits(b.waiters[0].bytes) {
		b.used += b.waiters[0].bytes
		close(b.waiters[0].admitted)
		b.waiters = slices.Delete(b.waiters, 0, 1)
	}
}
