package raft

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
	"weak"

	"github.com/stretchr/testify/require"
)

// Small commands fill the queue by what they cost, not by their own bytes.
func TestQueueCountsWhatACommandCosts(t *testing.T) {
	const bound = 1 << 20
	q := newInbox(bound, 1<<16)
	n := 0
	for n < bound && q.enqueue(EntryCommand, nil, proposal{done: func(Result, error) {}}) == nil {
		n++
	}
	require.LessOrEqual(t, n, bound/proposalBytes)
	require.Greater(t, n, bound/proposalBytes*9/10)
}

// A batch of large commands is full when no other one fits: what it has allocated is not more.
func TestBatchesOfLargeCommandsAreFull(t *testing.T) {
	const size = 64 << 10
	q := newInbox(64<<20, 256<<10) // a batch has room for three, with what each has around it
	for range 40 {
		require.NoError(t, q.enqueue(EntryCommand, make([]byte, size), proposal{done: func(Result, error) {}}))
	}
	batches := q.take(nil, 1<<30, true).batches
	for _, b := range batches[2 : len(batches)-1] { // the first ones are smaller, and the last has what is left
		require.GreaterOrEqual(t, len(b.body), 3*size)
		require.Less(t, cap(b.body), len(b.body)+size/2)
	}
}

// A large command has a batch of its own, in its turn, and has no say in how much room the
// small ones after it get.
func TestLargeCommandsHaveBatchesOfTheirOwn(t *testing.T) {
	q := newInbox(64<<20, 256<<10)
	sizes := []int{1, largeCommand, 2, 3, largeCommand + 1, largeCommand + 2, 4}
	for _, size := range sizes {
		require.NoError(t, q.enqueue(EntryCommand, make([]byte, size), proposal{done: func(Result, error) {}}))
	}
	require.Len(t, q.wake, 1)
	var taken []int
	for _, b := range q.take(nil, 1<<30, true).batches {
		require.Equal(t, len(b.body) > largeCommand, b.large)
		require.True(t, !b.large || len(b.proposals) == 1)
		require.LessOrEqual(t, cap(b.body), len(b.body)+slack)
		for rest := b.body; len(rest) > 0; {
			var data []byte
			_, data, rest = readEntry(rest)
			taken = append(taken, len(data))
		}
	}
	require.Equal(t, sizes, taken)
	require.Zero(t, q.pending)

	require.NoError(t, q.enqueue(EntryCommand, nil, proposal{done: func(Result, error) {}}))
	require.Less(t, cap(q.batches[0].body), 256)
}

// Small commands beside large ones have the room that such many have needed before, and take no
// more memory than they count where each waits behind another large one.
func TestSmallCommandsBesideLargeOnes(t *testing.T) {
	q := newInbox(64<<20, 256<<10)
	enqueue := func(size int) {
		require.NoError(t, q.enqueue(EntryCommand, make([]byte, size), proposal{done: func(Result, error) {}}))
	}
	for range 2 {
		for range 256 {
			enqueue(128)
		}
		q.take(nil, 1<<30, true)
	}
	enqueue(largeCommand)
	q.take(nil, 1<<30, true)
	for range 256 {
		enqueue(128)
	}
	require.Len(t, q.take(nil, 1<<30, true).batches, 1, "the large one has said nothing about them")

	for range 100 {
		enqueue(largeCommand)
		enqueue(16)
	}
	allocated := 0
	for _, b := range q.batches {
		allocated += cap(b.body) + cap(b.proposals)*int(unsafe.Sizeof(proposal{}))
	}
	require.Less(t, allocated, q.pending*11/10)
}

// What was taken is not kept by the queue of what is left.
func TestQueueForgetsWhatWasTaken(t *testing.T) {
	q := newInbox(64<<20, 256<<10)
	for range 3 {
		require.NoError(t, q.enqueue(EntryCommand, make([]byte, largeCommand), proposal{done: func(Result, error) {}}))
	}
	taken := weak.Make(q.take(nil, 1, true).batches[0])
	require.Len(t, q.batches, 2)
	require.Zero(t, testing.AllocsPerRun(10, func() { q.take(nil, 0, true) }), "nothing was taken")
	runtime.GC()
	require.Nil(t, taken.Value())
	runtime.KeepAlive(q)
}

// A large command is encoded between getting room and taking its place: its caller may
// leave after that, and the queue may be closed before.
func TestLargeCommandThatIsNotTaken(t *testing.T) {
	q := newInbox(64<<20, 256<<10)
	w := newWaiter().(*waiter)
	require.NoError(t, q.enqueue(EntryCommand, make([]byte, largeCommand), proposal{wait: w}))
	require.True(t, q.withdraw(w))
	require.Zero(t, q.pending, "its room is free at once")
	for _, b := range q.take(nil, 1<<30, true).batches {
		require.Empty(t, b.proposals)
		require.Empty(t, b.body)
	}

	require.NoError(t, q.promiseRoom(proposalSize(largeCommand)))
	require.Empty(t, q.close(ErrStopped).batches)
	require.Equal(t, ErrStopped, q.enqueuePromised(EntryCommand, make([]byte, largeCommand), proposal{wait: w}))
	require.Empty(t, q.batches)
}

// The loop takes about as much as there is room for, and is told of the rest.
func TestQueueIsTakenAsFarAsThereIsRoom(t *testing.T) {
	q := newInbox(1<<20, 1000)
	for range 50 {
		require.NoError(t, q.enqueue(EntryCommand, make([]byte, 400), proposal{done: func(Result, error) {}}))
	}
	pending := q.pending
	require.Empty(t, q.take(nil, 0, true).batches)
	first := q.take(nil, 1500, true)
	require.True(t, first.more)
	size, last := 0, first.batches[len(first.batches)-1].size()
	for _, b := range first.batches {
		size += b.size()
		require.LessOrEqual(t, len(b.body), 1000)
	}
	require.GreaterOrEqual(t, size, 1500)
	require.Less(t, size-last, 1500)
	require.Equal(t, pending-size, q.pending)
	rest := q.take(nil, 1<<30, true)
	require.False(t, rest.more)
	require.Zero(t, q.pending)
}

// Many callers that leave at the same moment hold nobody up: each costs about as
// much as the one before.
func TestManyCallersLeaveAFullQueueAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInbox(1000, 1000)
		require.NoError(t, q.enqueue(EntryCommand, make([]byte, 900), proposal{done: func(Result, error) {}}))
		const callers = 20_000
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, callers)
		for range callers {
			go func() {
				left <- q.enqueueWait(ctx, EntryCommand, make([]byte, 900), proposal{done: func(Result, error) {}})
			}()
		}
		synctest.Wait()
		require.Len(t, q.waiting, callers)
		cancel()
		synctest.Wait()
		require.Len(t, left, callers)
		for range callers {
			require.ErrorIs(t, <-left, ErrNotAccepted)
		}
		require.Empty(t, q.waiting)
		require.Zero(t, q.left)
		require.Equal(t, proposalSize(900), q.pending)

		// Who comes after them gets the room, once there is some.
		last := make(chan error, 1)
		go func() {
			last <- q.enqueueWait(t.Context(), EntryCommand, make([]byte, 900), proposal{done: func(Result, error) {}})
		}()
		time.Sleep(time.Second)
		require.Empty(t, last)
		require.Len(t, q.take(nil, 1<<30, true).batches, 1)
		synctest.Wait()
		require.NoError(t, <-last)
	})
}

// Callers that leave while others stay are passed over.
func TestCallersBehindOneThatLeftGetTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInbox(1000, 1000)
		require.NoError(t, q.enqueue(EntryCommand, make([]byte, 900), proposal{done: func(Result, error) {}}))
		served := make(chan int, 5)
		var leave []context.CancelFunc
		for i := range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			leave = append(leave, cancel)
			go func() {
				if q.enqueueWait(ctx, EntryCommand, make([]byte, 900), proposal{done: func(Result, error) {}}) == nil {
					served <- i
				}
			}()
			synctest.Wait()
		}
		leave[0]()
		leave[2]()
		synctest.Wait()
		for _, want := range []int{1, 3, 4} {
			q.take(nil, 1<<30, true)
			synctest.Wait()
			require.Equal(t, want, <-served)
		}
		for _, cancel := range leave {
			cancel()
		}
	})
}

// Room goes to those who wait for it in turn: nobody who comes later overtakes them, and who
// leaves lets those behind go on who need less.
func TestRoomGoesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInbox(1000, 1000)
		enqueue := func(ctx context.Context, size int) chan error {
			ended := make(chan error, 1)
			go func() {
				ended <- q.enqueueWait(ctx, EntryCommand, make([]byte, size), proposal{done: func(Result, error) {}})
			}()
			synctest.Wait()
			return ended
		}
		require.NoError(t, <-enqueue(t.Context(), 400))
		ctx, leave := context.WithCancel(t.Context())
		first := enqueue(ctx, 800)
		second := enqueue(t.Context(), 100)
		require.Empty(t, second, "there is room, but somebody waits before it")
		require.ErrorIs(t, q.enqueue(EntryCommand, make([]byte, 100), proposal{done: func(Result, error) {}}), ErrOverloaded)
		leave()
		require.ErrorIs(t, <-first, ErrNotAccepted)
		synctest.Wait()
		require.Len(t, second, 1)
		require.NoError(t, <-second)
		require.Equal(t, proposalSize(400)+proposalSize(100), q.pending)
	})
}

// The room of a command whose caller has left is free again when the batch is taken that holds
// it still.
func TestWithdrawnCommandsGiveBackTheirRoom(t *testing.T) {
	q := newInbox(1<<20, 1<<20)
	q.lastBytes = 1000 // one batch has room for all
	w := newWaiter().(*waiter)
	for range 5 {
		require.NoError(t, q.enqueue(EntryCommand, make([]byte, 100), proposal{wait: w}))
	}
	require.Len(t, q.batches, 1)
	require.True(t, q.withdraw(w))
	require.Positive(t, q.batches[0].withdrawn, "it is too little to be taken out at once")
	q.take(nil, 1<<30, true)
	require.Zero(t, q.pending)
}

// A2: room that is granted to a caller who leaves at that moment is not lost.
func TestA2RoomOfACallerWhoLeavesIsFreeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInbox(1000, 1000)
		q.pending = 1000
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			left <- q.enqueueWait(ctx, EntryCommand, make([]byte, 100), proposal{done: func(Result, error) {}})
		}()
		synctest.Wait()
		q.mu.Lock()
		cancel() // the caller leaves, and has not said so yet when the queue is taken
		q.pending = 0
		q.grantRoom()
		require.Equal(t, proposalSize(100), q.pending)
		q.mu.Unlock()
		synctest.Wait()
		require.ErrorIs(t, <-left, ErrNotAccepted)
		require.Zero(t, q.pending)
	})
}

// A2: who waits for room is told when the queue is closed.
func TestA2WaitForRoomEndsWithTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInbox(1000, 1000)
		require.NoError(t, q.enqueue(EntryCommand, make([]byte, 900), proposal{done: func(Result, error) {}}))
		ended := make(chan error, 3)
		for range cap(ended) {
			go func() {
				ended <- q.enqueueWait(t.Context(), EntryCommand, make([]byte, 900), proposal{done: func(Result, error) {}})
			}()
		}
		synctest.Wait()
		require.Empty(t, ended)
		require.Len(t, q.close(ErrStopped).batches, 1)
		synctest.Wait()
		require.Len(t, ended, cap(ended))
		for range cap(ended) {
			require.ErrorIs(t, <-ended, ErrStopped)
		}
	})
}

// Reads gather as long as the loop has no use for more, but for those that need nobody
// else. Whoever leaves meanwhile leaves nothing behind.
func TestR3ReadsGatherBeforeTheLoop(t *testing.T) {
	q := newInbox(1<<20, 1000)
	read := func(o ReadOptions) *readWait {
		w := &readWait{options: o}
		require.NoError(t, q.enqueueRead(w))
		return w
	}
	first := read(ReadOptions{})
	in := q.take(nil, 0, false)
	require.Empty(t, in.events)
	require.True(t, in.reading)
	local, stale, second := read(ReadOptions{Level: ReadLocal}), read(ReadOptions{MaxStaleness: 1}), read(ReadOptions{Level: ReadConfirmed})
	require.True(t, q.withdrawRead(first))
	in = q.take(nil, 0, false)
	require.Equal(t, []any{local, stale}, in.events)
	require.False(t, q.withdrawRead(local), "the loop has it")
	in = q.take(nil, 0, true)
	require.Equal(t, []any{second}, in.events)
	require.False(t, in.reading)

	var all []*readWait
	for range maxReads {
		all = append(all, read(ReadOptions{}))
	}
	require.ErrorIs(t, q.enqueueRead(new(readWait)), ErrOverloaded)
	for _, w := range all {
		require.True(t, q.withdrawRead(w))
	}
	require.Empty(t, q.reads)
	left := read(ReadOptions{})
	stopped := q.close(ErrStopped)
	require.Equal(t, []any{left}, stopped.events)
	require.ErrorIs(t, q.enqueueRead(new(readWait)), ErrStopped)
}

// Readers who want the same are one read for the loop, which stands for all of them. They
// need not look at their ctx only where the loop will tell them that it takes a while.
func TestR3ReadersOfAGroup(t *testing.T) {
	q := newInbox(1<<20, 1000)
	join := func(level ReadLevel, patient bool) *readGroup {
		g, soon, err := q.joinRead(level)
		require.NoError(t, err)
		require.Equal(t, patient, soon)
		return g
	}
	first := join(ReadLinearizable, false) // the loop has not said anything yet
	require.Same(t, first, join(ReadLinearizable, false))
	confirmed := join(ReadConfirmed, false)
	require.NotSame(t, first, confirmed)
	require.True(t, q.leaveRead(first))
	require.True(t, q.leaveRead(confirmed))
	in := q.take(nil, 0, true)
	require.Equal(t, []any{&first.readWait}, in.events, "nobody waits for the other")
	require.Equal(t, 0, first.others)
	require.Equal(t, ReadLinearizable, first.options.Level)

	second := join(ReadLinearizable, true)
	require.NotSame(t, first, second)
	for range 2 {
		require.Same(t, second, join(ReadLinearizable, true))
	}
	require.False(t, q.leaveRead(first), "the loop has it")
	q.tellReads()
	<-second.settled
	require.NotNil(t, second.ended)
	require.Same(t, second, join(ReadLinearizable, false))
	require.False(t, join(ReadConfirmed, false) == confirmed)
	in = q.take(nil, 0, true)
	require.Len(t, in.events, 2)
	require.Equal(t, 3, second.others)
	second.delayed() // once more
	second.done(7, ErrStopped)
	<-second.ended
	require.Equal(t, Index(7), second.index)
	require.Equal(t, ErrStopped, second.err)

	third := join(ReadLinearizable, true)
	third.done(9, nil)
	<-third.settled
	require.Nil(t, third.ended, "they have ended, and were not told before")
	require.Equal(t, Index(9), third.index)

	for range maxReads - 1 {
		join(ReadLinearizable, true)
	}
	_, _, err := q.joinRead(ReadLinearizable)
	require.ErrorIs(t, err, ErrOverloaded)
	require.True(t, q.leaveRead(third))
	join(ReadLinearizable, true)
	require.Len(t, q.close(ErrStopped).events, 1)
	_, _, err = q.joinRead(ReadLinearizable)
	require.ErrorIs(t, err, ErrStopped)
}
