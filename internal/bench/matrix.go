package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-8da499c8/raft"
)

// matrix is what is to be measured.
type matrix struct {
	peers    []peer
	rows     []row
	rounds   int
	seconds  float64
	dir, out string
	touch    bool
	profiles bool
	ours     string // fields of this library's Config
	gogc     string
	progress io.Writer
	failed   int // of the cells measured
}

// cell is one measurement of it.
type cell struct {
	row   row
	peer  peer
	round int
}

// cellLimit is how long a cell may take.
const cellLimit = 5 * time.Minute

func resultsFile(out string) string { return filepath.Join(out, "results.jsonl") }

// cells returns all of them in the order in which they are measured. In each round peers
// have another order in a row, drawn, but the same whenever it is asked for: whoever
// follows on another one may suffer from it, and is not always to follow the same.
func (m *matrix) cells() []cell {
	var all []cell
	for round := 1; round <= m.rounds; round++ {
		for i, r := range m.rows {
			chance := rand.New(rand.NewPCG(uint64(round), uint64(i)))
			for _, j := range chance.Perm(len(m.peers)) {
				if p := m.peers[j]; p.can(r.Kind) {
					all = append(all, cell{r, p, round})
				}
			}
		}
	}
	return all
}

// run measures what is not measured yet.
func (m *matrix) run(ctx context.Context) error {
	if err := configure(new(raft.Config), m.ours); err != nil {
		return err
	}
	if err := m.makeDirs(); err != nil {
		return err
	}
	done, err := readResults(resultsFile(m.out))
	if err != nil {
		return err
	}
	var left []cell
	for _, c := range m.cells() {
		if !done.has(c.row.name(), c.peer.name, c.round) {
			left = append(left, c)
		}
	}
	for _, r := range done {
		switch {
		case m.rounds == 0: // they are only told again
		case r.Settings != m.settings():
			return fmt.Errorf("%s has cells measured with other settings (%s, not %s): name another -out", resultsFile(m.out), cmp.Or(r.Settings, defaults), cmp.Or(m.settings(), defaults))
		case len(left) > 0 && r.Seconds != m.seconds:
			return fmt.Errorf("%s has cells of %v s: go on with -seconds %v, or name another -out", resultsFile(m.out), r.Seconds, r.Seconds)
		}
	}
	if m.rounds > 0 && len(left) == 0 {
		fmt.Fprintf(m.progress, "%s has all that: name another -out to measure it again\n", resultsFile(m.out))
	}
	return m.measureAll(ctx, left)
}

// defaults are the settings of cells that nothing was changed for.
const defaults = "the defaults"

// settings are what makes figures other ones than those of the defaults, "" if nothing does.
func (m *matrix) settings() string {
	var all []string
	if m.ours != "" {
		all = append(all, "-ours "+m.ours)
	}
	if m.gogc != "" {
		all = append(all, "-gogc "+m.gogc)
	}
	if m.profiles {
		all = append(all, "-profiles")
	}
	if !m.touch {
		all = append(all, "-touch=false")
	}
	return strings.Join(all, " ")
}

func (m *matrix) measureAll(ctx context.Context, cells []cell) error {
	pace, round := newPace(m.seconds), 0
	for i, c := range cells {
		if c.round != round && m.touch {
			fmt.Fprintf(m.progress, "round %d: touching memory\n", c.round)
			if err := touchMemory(); err != nil {
				return err
			}
		}
		round = c.round
		fmt.Fprintf(m.progress, "[%d/%d] round %d  %-27s %-15s", i+1, len(cells), c.round, c.row.name(), c.peer.name)
		began := time.Now()
		r := m.measure(ctx, c)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted; the same command goes on")
		}
		if err := appendResult(resultsFile(m.out), r); err != nil {
			return err
		}
		if r.Error != "" {
			m.failed++
		}
		pace.took(c, time.Since(began))
		fmt.Fprintf(m.progress, " %s  (%v left)\n", r, pace.left(cells[i+1:]))
	}
	return nil
}

// measure measures a cell, in a directory of its own.
func (m *matrix) measure(ctx context.Context, c cell) result {
	r := result{Row: c.row.name(), Peer: c.peer.name, Round: c.round, Seconds: m.seconds, Settings: m.settings(),
		At: time.Now().UTC().Round(time.Second), Machine: machineName(), Revision: revision()}
	samples, err := m.samples(ctx, c)
	if err != nil {
		r.Error = err.Error()
	}
	r.Samples = samples
	return r
}

func (m *matrix) samples(ctx context.Context, c cell) (samples, error) {
	ctx, cancel := context.WithTimeout(ctx, cellLimit)
	defer cancel()
	parent := m.dir
	if c.row.InMemory {
		parent = memoryDir
	}
	dir, err := os.MkdirTemp(parent, "raft-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	t := task{Peer: c.peer.name, Row: c.row, Seconds: m.seconds, Dir: dir, Ours: m.ours, GOGC: m.gogc}
	if m.profiles {
		name := strings.ReplaceAll(fmt.Sprintf("%s-%s-%d", c.row.name(), c.peer.name, c.round), "/", "-")
		if t.Profiles, err = filepath.Abs(filepath.Join(m.out, name)); err != nil {
			return nil, err
		}
	}
	if err := t.prepare(); err != nil {
		return nil, err
	}
	out, err := t.run(ctx)
	if err != nil {
		return nil, err
	}
	var s samples
	return s, json.Unmarshal(out, &s)
}

// makeDirs makes the directories, and says so if what is to be on a disk is not.
func (m *matrix) makeDirs() error {
	for _, dir := range []string{m.dir, m.out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(m.dir, &fs); err != nil {
		return err
	}
	if fs.Type == unix.TMPFS_MAGIC {
		fmt.Fprintf(m.progress, "%s is in memory, where syncs cost nothing: name a -dir on a disk\n", m.dir)
	}
	return nil
}

// memoryDir is a file system in memory.
const memoryDir = "/dev/shm"

// touchMemory uses four fifths of the memory that is available, once: the first use of
// a page of a virtual machine takes many times as long, and no peer should pay for it.
func touchMemory() error {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(data), "MemAvailable:")
	file, err := os.CreateTemp(memoryDir, "raft-bench-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	piece := make([]byte, 1<<20)
	for range number(strings.Fields(rest), 0) / 1024 * 4 / 5 {
		if _, err := file.Write(piece); err != nil {
			return nil // no more than that is allowed
		}
	}
	return nil
}

func machineName() string {
	return fmt.Sprintf("%d CPUs, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// revision is what git calls the working directory, if it is there to be asked.
func revision() string {
	name, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(name))
}

// list prints what there is.
func (m *matrix) list() {
	for _, r := range m.rows {
		fmt.Fprintln(m.progress, "row ", r.name())
	}
	for _, p := range m.peers {
		fmt.Fprintln(m.progress, "peer", p.name)
	}
}

// String is a result for the progress.
func (r result) String() string {
	if r.Error != "" {
		return "failed: " + r.Error
	}
	var told []string
	for _, m := range []struct {
		metric metric
		unit   string
	}{{rate, "/s"}, {p99, " µs p99"}, {cpuMicros, " µs CPU"}, {wrote, " ms to write"}, {applied, " ms to apply"}, {peakMemory, " MiB"}} {
		if v, ok := median(r.Samples[m.metric]); ok {
			told = append(told, fmt.Sprintf("%.0f%s", v, m.unit))
		}
	}
	return strings.Join(told, ", ")
}

// pace knows how long cells take: as long as others of their row did, or else as long as
// they measure, and a little.
type pace struct {
	guess time.Duration
	spent map[string]time.Duration
	count map[string]int
}

func newPace(seconds float64) *pace {
	warmed := seconds + min(seconds, 2)
	return &pace{time.Duration((warmed + 3) * float64(time.Second)), map[string]time.Duration{}, map[string]int{}}
}

func (p *pace) took(c cell, d time.Duration) {
	p.spent[c.row.name()] += d
	p.count[c.row.name()]++
}

func (p *pace) left(cells []cell) time.Duration {
	var sum time.Duration
	for _, c := range cells {
		if n := p.count[c.row.name()]; n > 0 {
			sum += p.spent[c.row.name()] / time.Duration(n)
		} else {
			sum += p.guess
		}
	}
	return sum.Round(time.Second)
}
