package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// load is work for a cluster: blocking callers, or submitters that keep a window of
// commands outstanding, for a time or for a number of operations.
type load struct {
	bytes    int
	callers  int
	window   int           // instead of callers
	duration time.Duration // measured, after a warm-up
	count    int           // all of them measured, instead of for a time

	do    func(ctx context.Context, command []byte) error // one operation of a caller
	start func(command []byte) (future, error)            // one of a submitter
	retry func(ctx context.Context)                       // before the next one, after an error
	dir   string                                          // on the disk whose flushes count

	stage     atomic.Int32
	issued    atomic.Int64
	failed    atomic.Uint64
	firstErr  atomic.Pointer[error]
	latencies [16]histogram // shared by callers, so that they do not get into each other's way
}

// The stages of a load that lasts for a time. A load of a number of operations
// stays in the first one.
const (
	warming = iota
	measuring
	stopping
)

// proposals is a load of commands for a cluster.
func proposals(c *cluster, r row, dir string) *load {
	return &load{
		bytes: r.Bytes, callers: r.Callers, window: r.Window, dir: dir,
		do:    func(ctx context.Context, command []byte) error { return (*c.leader.Load()).Propose(ctx, command) },
		start: func(command []byte) (future, error) { return (*c.leader.Load()).ProposeAsync(command) },
		retry: func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_ = c.awaitLeader(ctx)
		},
	}
}

// run puts the load on, and adds what it has measured to s. Operations that fail are
// counted, and tried again by whoever has begun them.
func (l *load) run(s samples) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	if l.window > 0 {
		l.submit(ctx, &group)
	} else {
		l.call(ctx, &group)
	}
	from, to := l.measure(&group)
	if err := wait(&group, 15*time.Second); err != nil {
		return err
	}
	all := new(histogram)
	for i := range l.latencies {
		all.merge(&l.latencies[i])
	}
	err := l.firstErr.Load()
	switch {
	case all.count() == 0 && err != nil:
		return fmt.Errorf("no operation succeeded; the first error: %w", *err)
	case all.count() == 0:
		return errNothingDone
	case err != nil:
		s.add(failures, float64(l.failed.Load()))
	}
	s.usage(from, to, all.count())
	s.add(p50, micros(all.quantile(.5)))
	s.add(p99, micros(all.quantile(.99)))
	return nil
}

// errNothingDone says that no operation ended in the time that counts, without an error
// of any: who stalls has no rate, and no latency.
var errNothingDone = errors.New("no operation ended while it was measured")

// measure says what the counters were at both ends of the time that counts.
func (l *load) measure(group *sync.WaitGroup) (from, to usage) {
	if l.count > 0 {
		from = usageNow(l.dir)
		group.Wait()
		return from, usageNow(l.dir)
	}
	time.Sleep(min(2*time.Second, l.duration))
	runtime.GC()
	from = usageNow(l.dir)
	l.stage.Store(measuring)
	time.Sleep(l.duration)
	l.stage.Store(stopping)
	return from, usageNow(l.dir)
}

// more reports whether there is one more operation to begin.
func (l *load) more() bool {
	return l.stage.Load() < stopping && (l.count == 0 || l.issued.Add(1) <= int64(l.count))
}

// done counts an operation.
func (l *load) done(ctx context.Context, h *histogram, began time.Time, err error) {
	switch {
	case err != nil:
		l.fail(ctx, err)
	case l.count > 0 || l.stage.Load() == measuring:
		h.add(time.Since(began))
	}
}

// fail is not a part of done: an error that is kept is allocated, and that of each
// operation would be if it were.
func (l *load) fail(ctx context.Context, err error) {
	l.failed.Add(1)
	l.firstErr.CompareAndSwap(nil, &err)
	_ = pause(ctx, time.Millisecond)
	l.retry(ctx)
}

// call starts the callers. Most send zeros, since random bytes take their time, too.
func (l *load) call(ctx context.Context, group *sync.WaitGroup) {
	for i := range l.callers {
		command := make([]byte, l.bytes)
		if i < 64 {
			rand.Read(command)
		}
		group.Go(func() {
			for l.more() {
				began := time.Now()
				err := l.do(ctx, command)
				l.done(ctx, &l.latencies[i%len(l.latencies)], began, err)
			}
		})
	}
}

// submit starts submitters, and for each somebody who waits for what it has begun.
func (l *load) submit(ctx context.Context, group *sync.WaitGroup) {
	type begun struct {
		future future
		at     time.Time
	}
	const submitters = 4
	for i := range submitters {
		outstanding := make(chan begun, max(l.window/submitters-1, 1))
		command := make([]byte, l.bytes)
		rand.Read(command)
		group.Go(func() {
			defer close(outstanding)
			for l.more() {
				at := time.Now()
				future, err := l.start(command)
				if err != nil {
					l.done(ctx, nil, at, err)
					continue
				}
				outstanding <- begun{future, at}
			}
		})
		group.Go(func() {
			for b := range outstanding {
				l.done(ctx, &l.latencies[i], b.at, b.future.Wait())
			}
		})
	}
}

// wait waits for the end of what is under way.
func wait(group *sync.WaitGroup, limit time.Duration) error {
	ended := make(chan struct{})
	go func() {
		group.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("operations do not end within %v", limit)
	}
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }
