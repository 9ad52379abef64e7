package main

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
)

// limitReads confirms reads, all that wait at once with one round trip. The leader asks
// both followers, and the faster one answers for a majority; a follower asks the
// leader, and these two are one. Less than one round trip cannot make sure of a read, but
// who asks one follower alone has less to do.
type limitReads struct {
	mu      sync.Mutex
	waiting []*limitWaiter

	wake     chan struct{}
	conns    []net.Conn
	answered []atomic.Uint64 // rounds, by connection
	answer   chan struct{}
	closed   chan struct{}
}

func newLimitReads(conns []net.Conn) *limitReads {
	r := &limitReads{
		wake:     make(chan struct{}, 1),
		conns:    conns,
		answered: make([]atomic.Uint64, len(conns)),
		answer:   make(chan struct{}, 1),
		closed:   make(chan struct{}),
	}
	for i, conn := range conns {
		go func() {
			_ = eachNumber(conn, func(round uint64) {
				r.answered[i].Store(round)
				poke(r.answer)
			})
		}()
	}
	go r.run()
	return r
}

func (r *limitReads) read() error {
	w := newLimitWaiter()
	r.mu.Lock()
	r.waiting = append(r.waiting, w)
	r.mu.Unlock()
	poke(r.wake)
	return w.Wait()
}

func (r *limitReads) close() { close(r.closed) }

// run makes one round after another.
func (r *limitReads) run() {
	for round := uint64(1); ; round++ {
		select {
		case <-r.wake:
		case <-r.closed:
			return
		}
		r.mu.Lock()
		asked := r.waiting
		r.waiting = nil
		r.mu.Unlock()
		if len(asked) > 0 && !r.ask(round) {
			return
		}
		for _, w := range asked {
			w.done <- struct{}{}
		}
	}
}

// ask returns when the first one has answered.
func (r *limitReads) ask(round uint64) bool {
	question := binary.LittleEndian.AppendUint64(nil, round)
	for _, conn := range r.conns {
		_, _ = conn.Write(question)
	}
	for !r.isAnswered(round) {
		select {
		case <-r.answer:
		case <-r.closed:
			return false
		}
	}
	return true
}

func (r *limitReads) isAnswered(round uint64) bool {
	for i := range r.answered {
		if r.answered[i].Load() >= round {
			return true
		}
	}
	return false
}
