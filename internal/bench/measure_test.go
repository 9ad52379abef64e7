package main

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Quantiles are at most one step off, which is a thirty-second.
func TestHistogram(t *testing.T) {
	h, other := new(histogram), new(histogram)
	require.Zero(t, h.quantile(.5))
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Microsecond)
		other.add(time.Duration(i+1001) * time.Microsecond)
	}
	h.merge(other)
	require.EqualValues(t, 2000, h.count())
	for _, share := range []float64{0, .25, .5, .99, 1} {
		exact := float64(min(int(share*2000), 1999)+1) * 1000
		require.InEpsilon(t, exact, float64(h.quantile(share)), 1./32, "%v", share)
	}
}

// loadOf is a load of an operation that every third time fails.
func loadOf(l *load) (l2 *load, failed *atomic.Int64) {
	var calls atomic.Int64
	failed = new(atomic.Int64)
	l.do = func(context.Context, []byte) error {
		if calls.Add(1)%3 == 0 {
			failed.Add(1)
			return errors.New("no")
		}
		return nil
	}
	l.start = func(command []byte) (future, error) { return nothing{l.do(context.Background(), command)}, nil }
	l.retry = func(context.Context) {}
	return l, failed
}

type nothing struct{ err error }

func (n nothing) Wait() error { return n.err }

// A load of a number of operations begins that many, of callers and of submitters, and
// what fails does not count as done.
func TestLoadOfANumberOfOperations(t *testing.T) {
	for _, l := range []*load{{callers: 7, count: 100}, {window: 16, count: 100}} {
		l, failed := loadOf(l)
		s := samples{}
		require.NoError(t, l.run(s))
		require.EqualValues(t, 33, failed.Load())
		require.Equal(t, []float64{33}, s[failures])
		var done uint64
		for i := range l.latencies {
			done += l.latencies[i].count()
		}
		require.EqualValues(t, 67, done)
	}
}

// What is measured is not what the measuring allocates: callers allocate nothing for an
// operation, and submitters, whose futures are values here, next to nothing.
func TestLoadAllocatesNothing(t *testing.T) {
	const operations = 20_000
	idle := func(context.Context, []byte) error { return nil }
	for _, l := range []*load{{callers: 4, count: operations}, {window: 16, count: operations}} {
		l.do, l.start = idle, func([]byte) (future, error) { return nothing{}, nil }
		s := samples{}
		require.NoError(t, l.run(s))
		require.Less(t, s[allocations][0], 0.1)
	}
}

// A load that never succeeds is an error.
func TestLoadWithoutSuccess(t *testing.T) {
	l := &load{callers: 2, count: 10, retry: func(context.Context) {}}
	l.do = func(context.Context, []byte) error { return errNoLeader }
	require.ErrorIs(t, l.run(samples{}), errNoLeader)
}

// Neither is one in which nothing has failed, and nothing has ended in time, a rate.
func TestLoadThatStalls(t *testing.T) {
	l := &load{callers: 1, duration: time.Millisecond}
	l.do = func(context.Context, []byte) error {
		for l.stage.Load() < stopping {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	s := samples{}
	require.ErrorIs(t, l.run(s), errNothingDone)
	require.Empty(t, s)
}

// Entries are found in pieces of every size.
func TestLimitParserTakesAnyPieces(t *testing.T) {
	var stream, commands []byte
	for i, command := range []string{"one", "", "a third one", "4"} {
		stream = binary.LittleEndian.AppendUint32(stream, uint32(len(command)))
		stream = binary.LittleEndian.AppendUint32(stream, 0)
		stream = binary.LittleEndian.AppendUint64(stream, uint64(i+1))
		stream = append(stream, command...)
		commands = append(commands, command...)
	}
	for size := 1; size <= len(stream); size++ {
		var p limitParser
		for at := 0; at < len(stream); at += size {
			p.parse(stream[at:min(at+size, len(stream))])
		}
		require.EqualValues(t, 4, p.last, size)
		require.EqualValues(t, 4, p.commands, size)
		require.Equal(t, crc32.Checksum(commands, castagnoli), p.checksum, size)
	}
}

// Every reader gets all that was appended, and segments are used again.
func TestLimitQueue(t *testing.T) {
	q := newLimitQueue(16)
	command := make([]byte, 1000)
	for range 3000 {
		q.append(command)
	}
	for i := range q.readers {
		r := &q.readers[i]
		pieces, index, ok := r.take(nil)
		require.True(t, ok)
		require.EqualValues(t, 3000, index)
		size := 0
		for _, piece := range pieces {
			size += len(piece)
		}
		require.Equal(t, 3000*(limitHeader+len(command)), size)
		require.Len(t, r.passed, 2)
		require.Empty(t, q.free)
		r.release()
	}
	require.Len(t, q.free, 2)
	require.Len(t, q.popWaiting(3000), 3000)
	close(q.closed)
	_, _, ok := q.readers[0].take(nil)
	require.False(t, ok)
}
