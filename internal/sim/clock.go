package sim

import "time"

// Clock is what a node believes the time to be: it never goes back, but it may
// run at another rate than the world, stand still, or leap forward. Such are the
// monotonic clocks of machines that are paused and resumed.
type Clock struct {
	Bound Bound // of what faults do to it

	world *World
	rate  float64
	held  bool
	at    time.Duration // of the world
	local time.Duration // at that time
	rests time.Duration // until then it does not leap again
}

// Bound is how bad a clock gets that others may rely on: faults make it run that much
// faster or slower, have it leap that far, not before it has rested since the last time,
// and never hold it. The zero value bounds nothing.
type Bound struct {
	Rate       float64
	Leap, Rest time.Duration
}

// NewClock returns a clock that shows a time and runs at a rate.
func (w *World) NewClock(local time.Duration, rate float64) *Clock {
	return &Clock{world: w, rate: rate, at: w.now, local: local}
}

// Now returns what the clock shows.
func (c *Clock) Now() time.Duration {
	if c.held {
		return c.local
	}
	return c.local + time.Duration(float64(c.world.now-c.at)*c.rate)
}

func (c *Clock) settle() { c.local, c.at = c.Now(), c.world.now }

// SetRate changes how fast the clock runs.
func (c *Clock) SetRate(rate float64) {
	c.settle()
	c.rate = rate
}

// Hold stops the clock, and lets it go on.
func (c *Clock) Hold(held bool) {
	c.settle()
	c.held = held
}

// Leap moves the clock forward.
func (c *Clock) Leap(d time.Duration) {
	c.settle()
	c.local += d
}

// Faults, each at a level from 0 to 1.

func (c *Clock) drift(level float64) {
	if c.Bound == (Bound{}) {
		c.SetRate(0.5 + 1.5*level)
	} else {
		c.SetRate(1 + c.Bound.Rate*(2*level-1))
	}
}

func (c *Clock) leap(level float64) {
	most := 5 * time.Second
	if c.Bound != (Bound{}) {
		most = c.Bound.Leap
	}
	if c.world.now >= c.rests {
		c.Leap(time.Duration(level * float64(most)))
		c.rests = c.world.now + c.Bound.Rest
	}
}

func (c *Clock) pause(held bool) {
	if c.Bound == (Bound{}) {
		c.Hold(held)
	}
}

// Until returns after how long, as the world counts, the clock will show a time,
// if it goes on as it does.
func (c *Clock) Until(local time.Duration) time.Duration {
	left := local - c.Now()
	if left <= 0 {
		return 0
	}
	if c.held {
		return time.Hour
	}
	return time.Duration(float64(left)/c.rate) + 1
}
