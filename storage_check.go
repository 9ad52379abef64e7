package raft

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
)

// CheckStorage checks an implementation of [Storage], for tests of that. It
// saves, reads, replaces and forgets entries, and after each step it looks
// whether all is there, as well as after a restart: open returns the storage as
// a node that starts would find it, an empty one at first. Before open is called
// again the storage at hand is closed, if it has a method Close() error, and not
// used any more.
//
// The error tells every problem: what was done, what should be and what is. What
// only a crash shows, CheckStorage does not find: whether what Save has returned
// from is really on the disk, and nothing half of what it has not.
func CheckStorage(open func() (Storage, error)) error {
	c := &storageCheck{open: open, did: "nothing"}
	for _, part := range []func(){
		c.checkEmpty, c.checkSaving, c.checkReplacing, c.checkRefusing, c.checkSizes,
		c.checkReadingMeanwhile, c.checkCompacting, c.checkReplacingTheLog, c.checkRefusingToCompact,
	} {
		if part(); c.ended {
			break
		}
	}
	c.close()
	return errors.Join(c.problems...)
}

// storageCheck is a storage and what it should hold.
type storageCheck struct {
	open    func() (Storage, error)
	storage Storage
	did     string // the last step

	state   StorageState // but for Last and Terms
	entries []LogEntry   // all of them, from 1 on; those that are compacted mean nothing

	mu       sync.Mutex
	problems []error
	ended    bool // there is no use in going on
}

// problem notes that something is not as it should be.
func (c *storageCheck) problem(format string, args ...any) { c.note(false, format, args...) }

// giveUp notes a problem that the checks cannot go on with.
func (c *storageCheck) giveUp(format string, args ...any) { c.note(true, format, args...) }

func (c *storageCheck) note(last bool, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	const enough = 20 // most likely all others follow from them
	if len(c.problems) < enough {
		c.problems = append(c.problems, fmt.Errorf("after %s: "+format, append([]any{c.did}, args...)...))
	}
	c.ended = c.ended || last || len(c.problems) == enough
}

func (c *storageCheck) last() Index { return Index(len(c.entries)) }

// Steps.

// checkEmpty looks at a storage that nothing was saved to.
func (c *storageCheck) checkEmpty() {
	c.reopen()
	c.step("opening it twice", func() error { return nil })
}

// checkSaving saves each part of a batch, alone and with the others.
func (c *storageCheck) checkSaving() {
	configuration := configuration{members: []Member{{ID: "a", Address: "a.example:1", Role: Voter}, {ID: "b", Address: "b.example:1", Role: Voter}}}.encode()
	state := HardState{
		ID: "a", Term: 1, Incarnation: math.MaxUint64, Fingerprint: [16]byte{1, 15: 16},
		Configurations: []ConfigurationEntry{{1, configuration}},
	}
	c.save("a first batch", SaveBatch{
		HardState: &state, Commit: 1,
		Entries: MakeEntries(LogEntry{Term: 1, Index: 1, Kind: EntryConfiguration, Data: configuration}),
	})
	state.Term, state.VotedFor = 4, "b"
	c.save("a term and a vote", SaveBatch{HardState: &state})
	state.Contacts, state.Joined = []Contact{{"b", 7}, {"c", math.MaxUint64}}, true
	c.save("contacts and entries", SaveBatch{HardState: &state, Entries: c.make(2, 2, 0, 1, 300), Commit: 2})
	c.save("entries of two terms", SaveBatch{Entries: MakeEntries(append(c.list(5, 3, 10), c.list(6, 4, 0)...)...)})
	c.save("a commit index", SaveBatch{Commit: 4})
	c.save("a commit index that is lower than before", SaveBatch{Commit: 3})
	c.save("a commit index beyond the last entry", SaveBatch{Commit: 99})
	c.save("entries after a commit index beyond the last entry", SaveBatch{Entries: c.make(7, 4, 5, 5)})
	c.save("nothing at all", SaveBatch{})
	state = HardState{ID: "a", Term: 5, Incarnation: 9, Configurations: []ConfigurationEntry{{3, []byte{0}}}}
	c.save("a hard state with less in it than before", SaveBatch{HardState: &state})
}

// checkReplacing puts entries in the place of others.
func (c *storageCheck) checkReplacing() {
	last := c.last()
	state := c.state.HardState
	state.Term = 9
	c.save("five entries", SaveBatch{HardState: &state, Entries: c.make(last+1, 5, 1, 2, 3, 4, 5)})
	c.save("an entry in place of the last one", SaveBatch{Entries: c.make(last+5, 6, 20)})
	c.save("an entry in place of four", SaveBatch{Entries: c.make(last+2, 7, 0)})
	state.VotedFor = "c"
	c.save("all there is, with two entries in place of one", SaveBatch{HardState: &state, Commit: last + 3, Entries: c.make(last+2, 8, 3, 3)})
	c.save("an entry behind replaced ones", SaveBatch{Entries: c.make(last+4, 9, 70)})
}

// checkRefusing hands out batches and ranges that do not fit the log.
func (c *storageCheck) checkRefusing() {
	last := c.last()
	state := HardState{ID: "a", Term: 99, Incarnation: 9}
	c.refuse(fmt.Sprintf("entry %d behind entry %d", last+2, last), SaveBatch{HardState: &state, Commit: last, Entries: c.make(last+2, 9, 1)})
	if c.ended {
		return
	}
	for _, r := range []struct{ first, last Index }{{0, 0}, {0, 1}, {3, 2}, {last + 1, last + 1}, {1, last + 1}, {last, math.MaxUint64}, {last + 2, last + 1}} {
		entries, err := c.storage.Entries(r.first, r.last, 1<<20)
		if err == nil || errors.Is(err, ErrCompacted) {
			c.problem("Entries(%d, %d) of a log from 1 to %d: want an error other than ErrCompacted, got %d entries and the error %v", r.first, r.last, last, entries.Len(), err)
		}
	}
}

// checkSizes saves large entries and many of them, and reads each range with
// each bound.
func (c *storageCheck) checkSizes() {
	c.save("an entry of more than 1 MiB", SaveBatch{Entries: c.make(c.last()+1, 9, 1<<20+1)})
	c.save("entries about as large as 64 KiB", SaveBatch{Entries: c.make(c.last()+1, 9, 1<<16-1, 1<<16, 1<<16+1)})
	c.save("2000 small entries", SaveBatch{Entries: c.make(c.last()+1, 9, make([]int, 2000)...), Commit: c.last()})
	for _, maxBytes := range []int{0, 1, 4, 100, 1 << 12, 1 << 20, math.MaxInt} {
		for first := Index(1); first <= 24; first++ {
			for _, last := range []Index{first, first + 1, first + 7, c.last() / first} {
				last = max(first, last)
				if _, err := compareEntries(c.storage, c.entries, first, last, maxBytes); err != nil {
					c.problem("%w", err)
				}
			}
		}
	}
}

// checkReadingMeanwhile reads while entries are saved and replaced.
func (c *storageCheck) checkReadingMeanwhile() {
	fixed := c.last()
	c.step("Save while Entries runs", func() (err error) {
		c.readMeanwhile(0, fixed, func() {
			for i := 0; i < 60 && err == nil; i++ {
				first := c.last() + 1
				if i%3 == 2 {
					first -= 2 // behind the fixed ones
				}
				batch := SaveBatch{Entries: c.make(first, 9, 100, 1000, 3000)}
				err = c.storage.Save(batch)
				c.keep(batch)
			}
		})
		return err
	})
}

// checkCompacting forgets entries, some and all of them.
func (c *storageCheck) checkCompacting() {
	state := HardState{ID: "a", Term: 9, Incarnation: 9}
	c.save("a commit index", SaveBatch{Commit: c.last() - 15})
	c.compact(1)
	c.compact(5)
	c.compact(5)
	c.compact(2)
	c.save("entries and a Compacted of before", SaveBatch{HardState: &state, Compacted: EntryID{3, 99}, Entries: c.make(c.last()+1, 9, 8)})
	c.save("an entry in place of the last one of a compacted log", SaveBatch{Entries: c.make(c.last(), 9, 9)})
	for forget := c.state.Compacted.Index + 400; forget < 2000 && !c.ended; forget += 400 {
		c.saveMeanwhile(fmt.Sprintf("Compacted %d", forget), SaveBatch{Compacted: c.id(forget)})
	}
	state.VotedFor = "c"
	c.save("all there is, with entries behind the last one", SaveBatch{HardState: &state, Compacted: c.id(c.state.Commit - 1), Entries: c.make(c.last()+1, 9, 1, 2), Commit: c.state.Commit + 1})
	c.save("a Compacted beyond the commit index", SaveBatch{Compacted: c.id(c.state.Commit + 2)})
	c.save("a Compacted with entries in place of others", SaveBatch{Compacted: c.id(c.state.Commit + 1), Entries: c.make(c.last()-1, 9, 3, 4, 5)})
	c.save("a Compacted with entries in place of all the others", SaveBatch{Compacted: c.id(c.state.Commit + 1), Entries: c.make(c.state.Commit+2, 9, 6, 7)})
	c.compact(c.last())
	c.save("a vote to a log of nothing but what is compacted", SaveBatch{HardState: &HardState{ID: "a", Term: 10, VotedFor: "a", Incarnation: 9}})
	c.save("entries behind the compacted ones", SaveBatch{Entries: c.make(c.last()+1, 10, 1, 2, 3)})
	c.save("entries behind the last one, which is compacted", SaveBatch{Compacted: c.id(c.last()), Entries: c.make(c.last()+1, 10, 4, 5, 6), Commit: c.last() + 2})
}

// checkReplacingTheLog has snapshots take the place of the log.
func (c *storageCheck) checkReplacingTheLog() {
	state := HardState{ID: "a", Term: 20, Incarnation: 9}
	c.save("a Compacted behind the last entry", SaveBatch{HardState: &state, Compacted: EntryID{c.last() + 10, 11}})
	c.save("entries behind a snapshot", SaveBatch{Entries: c.make(c.last()+1, 11, 1, 2, 3, 4, 5)})
	c.save("a Compacted of another term", SaveBatch{Compacted: EntryID{c.last() - 2, 12}, Commit: c.last()})
	c.save("entries behind a snapshot in place of others", SaveBatch{Entries: c.make(c.last()+1, 12, 1, 2, 3, 4, 5)})
	c.save("a Compacted of another term for the last entry", SaveBatch{Compacted: EntryID{c.last(), 13}})
	c.save("many entries behind a snapshot", SaveBatch{Entries: c.make(c.last()+1, 13, make([]int, 200)...), Commit: c.last() + 100})
	state.VotedFor = "b"
	c.save("all there is, with a Compacted of another term", SaveBatch{HardState: &state, Compacted: EntryID{c.last() - 50, 14}, Entries: c.make(c.last()-49, 14, 1, 2, 3), Commit: c.last() - 48})
	state.VotedFor = "c"
	c.save("all there is, with a Compacted behind the last entry", SaveBatch{HardState: &state, Compacted: EntryID{c.last() + 100, 15}, Entries: c.make(c.last()+101, 15, 1, 2, 3), Commit: c.last() + 1000})
	c.save("an entry behind that", SaveBatch{Entries: c.make(c.last()+1, 15, 9)})
	c.save("a thousand entries", SaveBatch{Entries: c.make(c.last()+1, 15, make([]int, 1000)...)})
	c.saveMeanwhile("a Compacted behind the last entry", SaveBatch{Compacted: EntryID{c.last() + 1, 16}})
	c.save("entries of two terms behind that", SaveBatch{Entries: MakeEntries(append(c.list(c.last()+1, 16, 1, 2, 3), c.list(c.last()+4, 17, 4)...)...), Commit: c.last() + 2})
}

// checkRefusingToCompact hands out batches whose Compacted does not fit the log,
// or the entries.
func (c *storageCheck) checkRefusingToCompact() {
	state := HardState{ID: "a", Term: 99, Incarnation: 9}
	last, commit := c.last(), c.state.Commit
	c.refuse("a Compacted of another term for a committed entry", SaveBatch{HardState: &state, Compacted: EntryID{commit, 18}})
	c.refuse("an entry that is compacted in the same batch", SaveBatch{HardState: &state, Compacted: c.id(last - 1), Entries: c.make(last-1, 18, 1)})
	c.refuse("a Compacted of another term with entries that go on behind the last one", SaveBatch{HardState: &state, Compacted: EntryID{last - 1, 18}, Entries: c.make(last+1, 18, 1)})
	c.refuse("a Compacted behind the last entry with entries that do not go on there", SaveBatch{HardState: &state, Compacted: EntryID{last + 5, 18}, Entries: c.make(last+1, 18, 1)})
}

// What steps are made of.

// list returns entries of those sizes.
func (c *storageCheck) list(first Index, term Term, sizes ...int) []LogEntry {
	var list []LogEntry
	for i, size := range sizes {
		data := bytes.Repeat([]byte{byte(term), byte(first) + byte(i), 0xff, 0}, size/4+1)[:size]
		kind := EntryCommand
		if size == 0 {
			kind = EntryNoop
		}
		list = append(list, LogEntry{Term: term, Index: first + Index(i), Kind: kind, Data: data})
	}
	return list
}

func (c *storageCheck) make(first Index, term Term, sizes ...int) Entries {
	return MakeEntries(c.list(first, term, sizes...)...)
}

// save saves a batch and looks at the result.
func (c *storageCheck) save(what string, batch SaveBatch) {
	c.step("Save of "+what, func() error {
		err := c.storage.Save(batch)
		c.keep(batch)
		return err
	})
}

// keep does to what should be there what Save does to the storage.
func (c *storageCheck) keep(batch SaveBatch) {
	if batch.HardState != nil {
		c.state.HardState = batch.HardState.clone()
	}
	if to := batch.Compacted; to.Index > c.state.Compacted.Index {
		if to.Index > c.last() || c.id(to.Index) != to {
			c.entries = make([]LogEntry, to.Index)
		}
		c.state.Compacted = to
		c.state.Commit = max(c.state.Commit, to.Index)
	}
	if first := batch.Entries.First(); first > 0 {
		c.entries = slices.Clip(c.entries[:first-1]) // whoever reads shares what is behind
		c.entries = slices.AppendSeq(c.entries, batch.Entries.All())
	}
	c.state.Commit = max(c.state.Commit, min(batch.Commit, c.last()))
}

// saveMeanwhile saves a batch that forgets entries, while these are read.
func (c *storageCheck) saveMeanwhile(what string, batch SaveBatch) {
	c.step("Save of "+what+" while Entries runs", func() (err error) {
		c.readMeanwhile(batch.Compacted.Index, c.last(), func() {
			err = c.storage.Save(batch)
			c.keep(batch)
		})
		return err
	})
}

// compact forgets entries and looks at the result.
func (c *storageCheck) compact(index Index) {
	c.save(fmt.Sprintf("Compacted %d", index), SaveBatch{Compacted: c.id(index)})
}

// id returns that of an entry.
func (c *storageCheck) id(index Index) EntryID { return EntryID{index, c.entries[index-1].Term} }

// refuse saves a batch that does not fit, and looks whether anything has changed.
func (c *storageCheck) refuse(what string, batch SaveBatch) {
	if c.ended {
		return
	}
	c.did = "Save of " + what
	if c.storage.Save(batch) == nil {
		c.problem("want an error, got none")
	}
	c.did += " and a restart"
	c.reopen()
}

// step does something and looks at the result, before a restart and after.
func (c *storageCheck) step(what string, do func() error) {
	if c.ended {
		return
	}
	c.did = what
	err := do()
	if err != nil {
		c.giveUp("want no error, got %w", err)
		return
	}
	c.look()
	if c.ended {
		return
	}
	c.did = what + " and a restart"
	c.reopen()
}

// reopen starts again, and looks at what is there.
func (c *storageCheck) reopen() {
	c.close()
	var err error
	if c.storage, err = c.open(); err != nil {
		c.giveUp("it cannot be opened: %w", err)
		return
	}
	got, err := c.storage.Load()
	if err != nil {
		c.giveUp("Load: want no error, got %w", err)
		return
	}
	c.compare(got)
	c.look()
}

func (c *storageCheck) close() {
	if closer, ok := c.storage.(interface{ Close() error }); ok {
		if err := closer.Close(); err != nil {
			c.problem("Close: %w", err)
		}
	}
	c.storage = nil
}

// compare compares what Load returned with what should be there.
func (c *storageCheck) compare(got StorageState) {
	var terms stretches
	for _, e := range c.entries[c.state.Compacted.Index:] {
		if n := len(terms); n == 0 || terms[n-1].Term != e.Term {
			terms = append(terms, TermStart{e.Index, e.Term})
		}
	}
	want := c.state
	for _, field := range []struct {
		name      string
		want, got any
	}{
		{"HardState.ID", want.HardState.ID, got.HardState.ID},
		{"HardState.Term", want.HardState.Term, got.HardState.Term},
		{"HardState.VotedFor", want.HardState.VotedFor, got.HardState.VotedFor},
		{"HardState.Incarnation", want.HardState.Incarnation, got.HardState.Incarnation},
		{"HardState.Fingerprint", want.HardState.Fingerprint, got.HardState.Fingerprint},
		{"HardState.Contacts", want.HardState.Contacts, got.HardState.Contacts},
		{"HardState.Joined", want.HardState.Joined, got.HardState.Joined},
		{"HardState.Configurations", want.HardState.Configurations, got.HardState.Configurations},
		{"Commit", want.Commit, got.Commit},
		{"Compacted", want.Compacted, got.Compacted},
		{"Last", c.last(), got.Last},
		{"Terms", []TermStart(terms), got.Terms},
	} {
		if want, got := fmt.Sprintf("%v", field.want), fmt.Sprintf("%v", field.got); want != got {
			c.problem("Load: want %s %s, got %s", field.name, want, got)
		}
	}
}

// look reads all entries, piece by piece, and asks for what is compacted.
func (c *storageCheck) look() {
	compacted := c.state.Compacted.Index
	for _, first := range []Index{1, compacted / 2, compacted} {
		if first == 0 || first > compacted {
			continue
		}
		if _, err := c.storage.Entries(first, compacted, 1<<20); !errors.Is(err, ErrCompacted) {
			c.problem("Entries(%d, %d): want ErrCompacted, got %v", first, compacted, err)
		}
	}
	const piece = 1 << 20
	for first := compacted + 1; first <= c.last(); {
		entries, err := compareEntries(c.storage, c.entries, first, c.last(), piece)
		if err != nil {
			c.problem("%w", err)
			return
		}
		first = entries.last() + 1
	}
	if _, err := c.storage.Entries(c.last()+1, c.last()+1, 1); err == nil {
		c.problem("Entries(%d, %d): want an error, since the last entry is %d, got none", c.last()+1, c.last()+1, c.last())
	}
}

// compareEntries asks a storage for entries and compares them with those of a
// log that starts at 1.
func compareEntries(storage Storage, log []LogEntry, first, last Index, maxBytes int) (Entries, error) {
	call := fmt.Sprintf("Entries(%d, %d, %d)", first, last, maxBytes)
	entries, err := storage.Entries(first, last, maxBytes)
	if err != nil {
		return Entries{}, fmt.Errorf("%s: want entries, got the error %w", call, err)
	}
	n := 0
	for got := range entries.All() {
		at := first + Index(n)
		if at > last {
			return Entries{}, fmt.Errorf("%s: want nothing behind entry %d, got entry %d", call, last, got.Index)
		}
		if want := log[at-1]; got.Index != at || got.Term != want.Term || got.Kind != want.Kind || !bytes.Equal(got.Data, want.Data) {
			return Entries{}, fmt.Errorf("%s: want entry %d of term %d and kind %d with %d bytes %.8x, got entry %d of term %d and kind %d with %d bytes %.8x",
				call, at, want.Term, want.Kind, len(want.Data), want.Data, got.Index, got.Term, got.Kind, len(got.Data), got.Data)
		}
		n++
	}
	switch {
	case n == 0:
		return Entries{}, fmt.Errorf("%s: want one entry at least, got none", call)
	case n > 1 && entries.Size() > maxBytes:
		return Entries{}, fmt.Errorf("%s: want at most %d bytes, got %d in %d entries", call, maxBytes, entries.Size(), n)
	}
	return entries, nil
}

// readMeanwhile reads ranges up to an index at random, from several goroutines,
// while something is done. Of those that start at most at forgotten it is not
// known whether they are there.
func (c *storageCheck) readMeanwhile(forgotten, last Index, do func()) {
	const readers = 4
	storage, log, compacted := c.storage, c.entries, c.state.Compacted.Index
	stop := make(chan struct{})
	var group sync.WaitGroup
	for reader := range readers {
		random := rand.New(rand.NewPCG(uint64(reader), uint64(last)))
		group.Go(func() {
			for ended := false; !ended; {
				select {
				case <-stop:
					ended = true // and one more, of what there is now
				default:
					runtime.Gosched() // whoever saves needs a turn, too
				}
				first := compacted + 1 + Index(random.Uint64N(uint64(last-compacted)))
				end := first + Index(random.Uint64N(uint64(last-first)+1))
				_, err := compareEntries(storage, log, first, end, 1<<random.IntN(20))
				if err != nil && (first > forgotten || !errors.Is(err, ErrCompacted)) {
					c.problem("%w", err)
					return
				}
			}
		})
	}
	do()
	close(stop)
	group.Wait()
}
