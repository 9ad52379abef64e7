package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// entry is one entry of the twin.
type entry struct {
	term uint64
	body string
}

// twin is the log as it should be: everything in slices.
type twin struct {
	state     []byte
	commit    uint64
	compacted Position
	entries   []entry // behind the compacted one
}

func (w *twin) last() Position {
	if n := len(w.entries); n > 0 {
		return Position{w.compacted.Index + uint64(n), w.entries[n-1].term}
	}
	return w.compacted
}

func (w *twin) at(index uint64) entry { return w.entries[index-w.compacted.Index-1] }

func (w *twin) term(index uint64) uint64 {
	if index == w.compacted.Index {
		return w.compacted.Term
	}
	return w.at(index).term
}

// has reports whether an entry is there, or is the compacted one.
func (w *twin) has(p Position) bool {
	return p.Index >= w.compacted.Index && p.Index <= w.last().Index && w.term(p.Index) == p.Term
}

func (w *twin) contents() Contents {
	c := Contents{State: w.state, Commit: w.commit, Compacted: w.compacted, Last: w.last()}
	for i, e := range w.entries {
		if i == 0 || e.term != w.entries[i-1].term {
			c.Terms = append(c.Terms, TermStart{w.compacted.Index + 1 + uint64(i), e.term})
		}
	}
	return c
}

func (w *twin) equal(v *twin) bool {
	return bytes.Equal(w.state, v.state) && (w.state == nil) == (v.state == nil) &&
		w.commit == v.commit && w.compacted == v.compacted && slices.Equal(w.entries, v.entries)
}

func (w *twin) String() string {
	return fmt.Sprintf("state %q, commit %d, compacted %v, last %v", w.state, w.commit, w.compacted, w.last())
}

// step is something that is done to a log: one of the two.
type step struct {
	batch  Batch
	reopen bool
}

func (s step) String() string {
	if s.reopen {
		return "reopen"
	}
	text := fmt.Sprintf("append state %q compact %v commit %d", s.batch.State, s.batch.Compact, s.batch.Commit)
	for _, r := range s.batch.Runs {
		text += fmt.Sprintf(" %d@%d+%d (%d B)", r.First, r.Term, r.Count, len(r.Body))
	}
	return text
}

// after returns what the twin is after a step.
func (w *twin) after(s step) *twin {
	v := *w
	if s.batch.State != nil {
		v.state = s.batch.State
	}
	if to := s.batch.Compact; to.Index > w.compacted.Index {
		v.compacted, v.entries = to, nil
		if w.has(to) {
			v.entries = w.entries[to.Index-w.compacted.Index:]
		}
	}
	if len(s.batch.Runs) > 0 {
		v.entries = slices.Clone(v.entries[:s.batch.Runs[0].First-v.compacted.Index-1])
	}
	for _, r := range s.batch.Runs {
		for _, body := range split(r.Body) {
			v.entries = append(v.entries, entry{r.Term, body})
		}
	}
	v.commit = max(v.commit, v.compacted.Index, min(s.batch.Commit, v.last().Index))
	return &v
}

// kind says in words what a step does to the log.
func (w *twin) kind(s step) string {
	kind, to := "append", s.batch.Compact
	switch {
	case s.reopen:
		return "reopen"
	case to.Index <= w.compacted.Index:
		return kind
	case w.has(to):
		kind = "compact"
	case to.Index > w.last().Index:
		kind = "start anew behind the end"
	default:
		kind = "start anew on a conflict"
	}
	if len(s.batch.Runs) > 0 {
		kind += ", with entries"
	}
	return kind
}

// entries of the tests say how long they are.
func encodeEntry(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// split returns all entries of a body.
func split(b []byte) []string {
	var bodies []string
	for len(b) > 0 {
		n := binary.BigEndian.Uint32(b)
		bodies = append(bodies, string(b[4:4+n]))
		b = b[4+n:]
	}
	return bodies
}

// inForce returns the entries of a run that were not replaced.
func (r Run) inForce() ([]string, error) {
	bodies := split(r.Body)
	if len(bodies) != r.Total || r.Count > r.Total || r.Count == 0 {
		return nil, fmt.Errorf("run %d has %d of %d entries in a body of %d", r.First, r.Count, r.Total, len(bodies))
	}
	return bodies[:r.Count], nil
}

func newRun(term, first uint64, bodies ...string) Run {
	r := Run{Term: term, First: first, Count: len(bodies)}
	for _, body := range bodies {
		r.Body = append(r.Body, encodeEntry(body)...)
	}
	return r
}

// observe reads the whole log, about maxBytes at a time.
func observe(log *Log, c Contents, maxBytes int) (*twin, error) {
	w := &twin{state: c.State, commit: c.Commit, compacted: c.Compacted}
	for next := c.Compacted.Index + 1; next <= c.Last.Index; {
		runs, err := log.Read(next, c.Last.Index, maxBytes)
		if err != nil {
			return nil, err
		}
		for i, r := range runs {
			if r.First > next || i > 0 && r.First != next || r.First+uint64(r.Count) <= next {
				return nil, fmt.Errorf("entry %d was asked for, and run %d is %d+%d", next, i, r.First, r.Count)
			}
			bodies, err := r.inForce()
			if err != nil {
				return nil, err
			}
			for _, body := range bodies[next-r.First:] {
				w.entries = append(w.entries, entry{r.Term, body})
				next++
			}
		}
	}
	if got := w.contents(); !slices.Equal(got.Terms, c.Terms) || got.Last != c.Last {
		return nil, fmt.Errorf("contents are %v, entries say %v", c, got)
	}
	return w, nil
}

// generator makes steps that fit a log.
type generator struct {
	random  *rand.Rand
	twin    *twin
	segment int64
	term    uint64
	made    int
}

func newGenerator(seed uint64, segment int64) *generator {
	return &generator{random: rand.New(rand.NewPCG(seed, 0)), twin: &twin{}, segment: segment, term: 1}
}

func (g *generator) steps(n int) []step {
	steps := make([]step, n)
	for i := range steps {
		steps[i] = g.next()
		g.twin = g.twin.after(steps[i])
	}
	return steps
}

func (g *generator) next() step {
	w, last := g.twin, g.twin.last()
	switch k := g.random.IntN(100); {
	case k < 5:
		return step{reopen: true}
	case k < 22:
		return g.compaction(g.position())
	case k < 32:
		return step{batch: Batch{State: g.state()}}
	case k < 36 && last.Index > w.commit:
		return step{batch: Batch{Commit: w.commit + 1 + g.random.Uint64N(last.Index-w.commit)}}
	case k < 50 && last.Index > w.commit:
		return g.replacement(w, step{})
	default:
		return g.append(w, step{}, last.Index+1)
	}
}

// position is one where the log can be compacted.
func (g *generator) position() Position {
	w, last := g.twin, g.twin.last()
	kept, open := last.Index-w.compacted.Index, last.Index-w.commit
	switch k := g.random.IntN(17); {
	case k == 0: // it is already
		return Position{g.random.Uint64N(w.compacted.Index + 1), g.random.Uint64N(g.term + 1)}
	case k < 4: // behind the last entry
		g.term = max(g.term, last.Term)
		return Position{last.Index + 1 + g.random.Uint64N(20), g.term}
	case k < 7 && open > 0: // at one of another term
		g.term++
		return Position{w.commit + 1 + g.random.Uint64N(open), g.term}
	case k < 10 || kept == 0:
		return last
	default:
		to := w.compacted.Index + 1 + g.random.Uint64N(kept)
		return Position{to, w.term(to)}
	}
}

// compaction is one alone, or with all else that a batch can have.
func (g *generator) compaction(to Position) step {
	s := step{batch: Batch{Compact: to}}
	w := g.twin.after(s)
	switch g.random.IntN(4) {
	case 0:
		s.batch.State = g.state()
		s.batch.Commit = g.random.Uint64N(w.last().Index + 5)
	case 1:
		return g.append(w, s, w.last().Index+1)
	case 2:
		return g.replacement(w, s)
	}
	return s
}

func (g *generator) state() []byte {
	g.made++
	if g.random.IntN(10) == 0 {
		return []byte{}
	}
	return fmt.Appendf(nil, "state %d %.*s", g.made, g.random.IntN(30), "..............................")
}

// replacement makes runs that replace entries of the log, as it is with what the
// step does already, or go on behind it.
func (g *generator) replacement(w *twin, s step) step {
	return g.append(w, s, w.commit+1+g.random.Uint64N(w.last().Index-w.commit+1))
}

// append makes runs from an index on, and sometimes a state and a commit index
// along with them.
func (g *generator) append(w *twin, s step, first uint64) step {
	g.term = max(g.term, w.term(first-1))
	if g.random.IntN(3) == 0 || first <= w.last().Index {
		g.term++
	}
	for range 1 + g.random.IntN(3) {
		bodies := make([]string, 1+g.random.IntN(4))
		for i := range bodies {
			bodies[i] = g.body()
		}
		s.batch.Runs = append(s.batch.Runs, newRun(g.term, first, bodies...))
		first += uint64(len(bodies))
		if g.random.IntN(3) == 0 {
			g.term++
		}
	}
	if g.random.IntN(4) == 0 {
		s.batch.State = g.state()
	}
	if g.random.IntN(4) == 0 {
		s.batch.Commit = g.random.Uint64N(first + 3)
	}
	return s
}

func (g *generator) body() string {
	g.made++
	n := g.random.IntN(40)
	if g.random.IntN(100) == 0 {
		n = int(g.segment) + g.random.IntN(int(g.segment))
	}
	body := fmt.Sprintf("entry %d ", g.made)
	return body + strings.Repeat("x", max(0, n-len(body)))
}

// inline are options that make equal files of equal calls.
func inline(segment int64) Options {
	random := rand.New(rand.NewPCG(1, 2))
	return Options{SegmentBytes: segment, Inline: true, Random: random.Uint64}
}

// take does a step to an open log, which it may replace.
func take(fs vfs.FS, log *Log, options Options, s step) (*Log, error) {
	switch {
	case s.reopen:
		if err := log.Close(); err != nil {
			return log, err
		}
		log, _, err := Open(fs, "log", options)
		return log, err
	default:
		return log, log.Append(s.batch)
	}
}

// TestModel does the same to logs and to their twins, and compares them after
// each step.
func TestModel(t *testing.T) {
	runs, steps := 40, 150
	if testenv.Brief() {
		runs, steps = 8, 80
	}
	for seed := range uint64(runs) {
		segment := []int64{1 << 10, 1<<10 + 3, 3000, 1 << 14}[seed%4]
		checkModel(t, newGenerator(seed, segment), segment, steps, seed%3 > 0)
	}
}

func checkModel(t *testing.T, g *generator, segment int64, steps int, inlined bool) {
	options := inline(segment)
	options.Inline = inlined
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", options)
	require.NoError(t, err)
	for range steps {
		s := g.next()
		g.twin = g.twin.after(s)
		log, err = take(disk, log, options, s)
		require.NoError(t, err, s)
		require.Equal(t, g.twin.contents(), log.Contents(), s)
		for _, maxBytes := range []int{0, 100, 1 << 20} {
			got, err := observe(log, log.Contents(), maxBytes)
			require.NoError(t, err, s)
			require.True(t, g.twin.equal(got), "%v: %v is not %v", s, got, g.twin)
		}
		checkRanges(t, g, log)
	}
	require.NoError(t, log.Close())
	again, contents, err := Open(disk, "log", options)
	require.NoError(t, err)
	require.Equal(t, g.twin.contents(), contents)
	got, err := observe(again, contents, 1<<20)
	require.NoError(t, err)
	require.True(t, g.twin.equal(got))
	require.NoError(t, again.Close())
}

// checkRanges reads some ranges, and what is not there.
func checkRanges(t *testing.T, g *generator, log *Log) {
	w := g.twin
	_, err := log.Read(w.compacted.Index, w.last().Index, 100)
	require.ErrorIs(t, err, ErrCompacted)
	_, err = log.Read(w.compacted.Index+1, w.last().Index+1, 100)
	require.Error(t, err)
	for range min(3, len(w.entries)) {
		first := w.compacted.Index + 1 + g.random.Uint64N(uint64(len(w.entries)))
		last := first + g.random.Uint64N(w.last().Index-first+1)
		_, err = log.Read(last+1, first, 100)
		require.Error(t, err)
		runs, err := log.Read(first, last, g.random.IntN(200))
		require.NoError(t, err)
		require.NotEmpty(t, runs)
		require.LessOrEqual(t, runs[0].First, first)
		for i, r := range runs {
			require.LessOrEqual(t, r.First, last)
			require.True(t, i == 0 || r.First == runs[i-1].First+uint64(runs[i-1].Count))
			bodies, err := r.inForce()
			require.NoError(t, err)
			for k, body := range bodies {
				if index := r.First + uint64(k); index > w.compacted.Index {
					require.Equal(t, w.at(index), entry{r.Term, body})
				}
			}
		}
	}
}
