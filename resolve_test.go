package raft

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// The rules of Resolve, one by one: a log of which entries 1 to 3 are compacted, 4 to 6 are
// committed and 7 is not.
func TestResolveTellsWhatTheLogTells(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("a", at{log: "1 1 2 2 4 4 4", term: 4, commit: 6, compacted: 3})
	const committed, never, forgotten, open = "committed", "never", "forgotten", "open"
	for id, want := range map[EntryID]string{
		{4, 2}: committed, {5, 4}: committed, {6, 4}: committed,
		{4, 1}: never, {4, 3}: never, {5, 2}: never, {6, 5}: never,
		{7, 3}: never, {9, 2}: never, // behind a committed entry of a later term
		{7, 4}: open, {7, 5}: open, {9, 4}: open,
		{3, 2}: committed, // the last of what is compacted is known
		{3, 1}: never,
		{2, 1}: forgotten, {2, 2}: forgotten, {1, 1}: forgotten,
		{2, 3}: never, {1, 4}: never, // before a committed entry of an earlier term
	} {
		ended, at := open, Index(0)
		wait := &resolution{EntryID: id, done: func(index Index, err error) {
			require.Equal(t, open, ended, "it ends once")
			switch at = index; {
			case err != nil:
				require.ErrorIs(t, err, ErrCompacted)
				ended = forgotten
			case index > 0:
				ended = committed
			default:
				ended = never
			}
		}}
		r.do("a", resolveWanted{wait})
		require.Equal(t, want, ended, "entry %d of term %d", id.Index, id.Term)
		if want == committed {
			require.Equal(t, id.Index, at)
		}
		if want == open {
			require.Len(t, r.node("a").driver.resolutions, 1)
			r.do("a", resolveLeft{wait})
		}
		require.Empty(t, r.node("a").driver.resolutions, "nothing is left of a wait")
	}
}

// Those who wait are bounded, and nothing is left of them when the node stops.
func TestResolutionsAreBounded(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("a", at{log: "1 1 2", term: 2, commit: 2})
	var events []any
	overloaded, stopped := 0, 0
	for range maxResolutions + 10 {
		events = append(events, resolveWanted{&resolution{EntryID: EntryID{3, 2}, done: func(_ Index, err error) {
			if errors.Is(err, ErrOverloaded) {
				overloaded++
			}
			if errors.Is(err, ErrStopped) {
				stopped++
			}
		}}})
	}
	r.do("a", events...)
	require.Equal(t, 10, overloaded)
	d := r.node("a").driver
	require.Len(t, d.resolutions, maxResolutions)
	d.endResolutions(ErrStopped)
	for _, o := range d.work.outcomes {
		o.done(o.index, o.err)
	}
	require.Equal(t, maxResolutions, stopped)
	require.Empty(t, d.resolutions)
}

// What was open is settled by the step that commits something.
func TestResolveWaitsForTheCommit(t *testing.T) {
	r := newRig(t, "a b c")
	r.startAt("a", at{log: "1 1 2", term: 2, commit: 2})
	outcomes := map[Index]Index{}
	wait := func(index Index) {
		r.do("a", resolveWanted{&resolution{EntryID: EntryID{index, 2}, done: func(at Index, err error) {
			require.NoError(t, err)
			outcomes[index] = at
		}}})
	}
	wait(3)
	wait(4)
	wait(8)
	require.Empty(t, outcomes)
	request := &AppendEntries{Term: 3, PrevLogIndex: 3, PrevLogTerm: 2, Entries: entry(4, 3), LeaderCommit: 4}
	r.askAppend("b", "a", *request)
	r.settle()
	require.Equal(t, map[Index]Index{3: 3, 4: 0, 8: 0}, outcomes)
}
