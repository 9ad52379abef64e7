package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// capture returns a view of s.
func capture(t *testing.T, s *store) raft.SnapshotView {
	t.Helper()
	v, err := s.CaptureSnapshot()
	require.NoError(t, err)
	return v
}

// restored returns what a store becomes that is given a snapshot.
func restored(t *testing.T, snapshot io.Reader) map[string][]byte {
	t.Helper()
	s := newStore()
	require.NoError(t, s.RestoreFrom(t.Context(), snapshot))
	return s.values
}

// written returns what a view has, and closes it.
func written(t *testing.T, v raft.SnapshotView) map[string][]byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, v.WriteTo(t.Context(), &b))
	require.NoError(t, v.Close())
	return restored(t, &b)
}

func TestSnapshotAndRestore(t *testing.T) {
	a := newStore()
	apply(t, a, set("x", "1"), set("y", ""), set("\xff", "\x00"), set("z", "3"), remove("z"))
	snapshot, err := a.Snapshot()
	require.NoError(t, err)
	require.Equal(t, a.values, restored(t, iotest.OneByteReader(bytes.NewReader(snapshot))))

	b := newStore()
	apply(t, b, set("old", "state"))
	require.NoError(t, b.Restore(snapshot))
	require.Equal(t, []string{"done 1", "done", "done \x00", "absent", "absent"},
		apply(t, b, get("x"), get("y"), get("\xff"), get("z"), get("old")))

	empty, err := newStore().Snapshot()
	require.NoError(t, err)
	require.NoError(t, b.Restore(empty))
	require.Empty(t, b.values)
	require.Equal(t, []string{"done"}, apply(t, b, set("k", "v")))
}

// Whether views are open or not, a store answers as one that has none; and each view
// has what there was when it was taken.
func TestViewsDoNotChangeAndChangeNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	s, model := newStore(), newStore()
	var v raft.SnapshotView
	var want map[string][]byte
	views := 0
	for range 20_000 {
		switch {
		case v == nil && random.IntN(20) == 0:
			v, want = capture(t, s), maps.Clone(model.values)
		case v != nil && random.IntN(40) == 0:
			require.Equal(t, want, written(t, v))
			v = nil
			views++
		}
		c := command{
			op: []op{0, opSet, opDelete, opSwap, opCreate, opAdd}[random.IntN(6)], key: fmt.Sprint(random.IntN(8)),
			value: fmt.Append(nil, random.IntN(3)), old: fmt.Append(nil, random.IntN(3)),
		}
		require.Equal(t, apply(t, model, c), apply(t, s, c), "%+v", c)
		if v == nil && c.op != 0 { // a read merges nothing
			require.Equal(t, model.values, s.values)
			require.Empty(t, s.changes)
		}
	}
	require.Greater(t, views, 100)
}

// A view is written by one goroutine while another one applies commands.
func TestViewIsWrittenWhileCommandsAreApplied(t *testing.T) {
	s := newStore()
	for i := range 200 {
		apply(t, s, set(fmt.Sprint(i), strings.Repeat("v", 4<<10))) // more than is buffered on the way
	}
	want := maps.Clone(s.values)
	v := capture(t, s)
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := v.WriteTo(t.Context(), w)
		ended <- errors.Join(err, v.Close(), w.Close())
	}()
	var snapshot bytes.Buffer
	for i := 0; ; i++ {
		apply(t, s, set(fmt.Sprint(i), "new"), remove(fmt.Sprint(i+50)), set(fmt.Sprint("more", i), ""))
		n, err := io.CopyN(&snapshot, r, 1<<10)
		if err == io.EOF && n == 0 {
			break
		}
	}
	require.NoError(t, <-ended)
	require.Equal(t, want, restored(t, &snapshot))
	require.Equal(t, []string{"done new"}, apply(t, s, get("0")))
	require.Nil(t, s.changes, "they are merged")
	require.Contains(t, s.values, "more0")
}

// What it costs to take a view does not depend on how much there is.
func TestCaptureCopiesNothing(t *testing.T) {
	s := newStore()
	for i := range 10_000 {
		s.put(fmt.Sprint(i), []byte("v"))
	}
	require.Less(t, testing.AllocsPerRun(100, func() { capture(t, s).Close() }), 10.0)
}

func TestOneViewAtATime(t *testing.T) {
	s := newStore()
	v := capture(t, s)
	_, err := s.CaptureSnapshot()
	require.ErrorContains(t, err, "another view")
	require.NoError(t, v.Close())
	capture(t, s)
}

func TestViewOutlivesARestore(t *testing.T) {
	s := newStore()
	apply(t, s, set("x", "1"))
	v := capture(t, s)
	apply(t, s, set("x", "2"), set("y", "2"))
	require.NoError(t, s.RestoreFrom(t.Context(), bytes.NewReader([]byte{0x81, 0xa1, 'z', 0xa1, '3'})))
	apply(t, s, set("z", "4"))
	require.Equal(t, map[string][]byte{"x": []byte("1")}, written(t, v))
	require.Equal(t, []string{"absent", "absent", "done 4"}, apply(t, s, get("x"), get("y"), get("z")))
}

func TestRestoreOfABrokenSnapshotChangesNothing(t *testing.T) {
	from := newStore()
	apply(t, from, set("x", "1"), set("y", "2"))
	whole, err := from.Snapshot()
	require.NoError(t, err)
	bad := map[string][]byte{
		"one byte more":            append(bytes.Clone(whole), 0),
		"no map":                   {0x07},
		"huge count":               {0xdf, 0xff, 0xff, 0xff, 0xff},
		"huge key":                 {0x81, 0xc6, 0xff, 0xff, 0xff, 0xff, 'x'},
		"huge value":               {0x81, 0xa1, 'x', 0xc6, 0x7f, 0xff, 0xff, 0xff, '1'},
		"nil":                      {0xc0},
		"an array":                 {0x92, 0xa1, 'x', 0xa1, '1'},
		"a key twice":              {0x82, 0xa1, 'x', 0xa1, '1', 0xa1, 'x', 0xa1, '2'},
		"a value that is a number": {0x81, 0xa1, 'x', 0x01},
	}
	for i := range whole {
		bad[fmt.Sprintf("first %d bytes", i)] = whole[:i]
	}
	for name, snapshot := range bad {
		t.Run(name, func(t *testing.T) {
			s := newStore()
			apply(t, s, set("k", "v"))
			require.ErrorContains(t, s.Restore(snapshot), "snapshot: ")
			require.Equal(t, []string{"done v"}, apply(t, s, get("k")))
		})
	}
}

func TestRestoreFromPassesErrorsOn(t *testing.T) {
	from := newStore()
	apply(t, from, set("x", "1"), set("y", "2"))
	whole, err := from.Snapshot()
	require.NoError(t, err)
	damaged := errors.New("damaged")
	s := newStore()
	for i := range len(whole) + 1 { // at the end, too: it is not whole before io.EOF
		r := io.MultiReader(bytes.NewReader(whole[:i]), iotest.ErrReader(damaged))
		require.ErrorIs(t, s.RestoreFrom(t.Context(), r), damaged, "after %d bytes", i)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.RestoreFrom(ended, bytes.NewReader(whole)), context.Canceled)
	require.Empty(t, s.values)
}

func TestWriteToPassesErrorsOn(t *testing.T) {
	s := newStore()
	apply(t, s, set("x", "1"))
	v := capture(t, s)
	r, w := io.Pipe()
	full := errors.New("full")
	r.CloseWithError(full)
	require.ErrorIs(t, v.WriteTo(t.Context(), w), full)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, v.WriteTo(ended, io.Discard), context.Canceled)
}
