package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// metric is one of the things that a cell measures.
type metric string

const (
	rate        metric = "perSecond"
	p50         metric = "p50Micros"
	p99         metric = "p99Micros"
	cpuMicros   metric = "cpuMicros"   // of the whole process for one operation: three nodes and the callers
	allocations metric = "allocations" // of the whole process for one operation
	flushes     metric = "flushes"     // of the disk for one operation
	peakMemory  metric = "peakMiB"     // resident memory of the whole process
	idleMemory  metric = "idleMiB"     // before there was anything to do
	healthyRate metric = "healthyPerSecond"
	healthyP99  metric = "healthyP99Micros"
	healthyPeak metric = "healthyPeakMiB"
	largeRate   metric = "largePerSecond" // of the large commands beside
	elected     metric = "electedMillis"
	wrote       metric = "wroteMillis"   // until the new leader has committed and applied a command
	applied     metric = "appliedMillis" // until three nodes have applied all that was in their logs
	otherCores  metric = "otherCores"    // CPUs that other processes were using
	failures    metric = "failures"      // operations that returned an error
)

// samples are what a cell has measured: nearly always one number of a kind, but some
// measure several times.
type samples map[metric][]float64

func (s samples) add(m metric, v float64) { s[m] = append(s[m], v) }

// result is a cell, a row of one peer in one round, with what came out of it. It is a
// line of the file of results.
type result struct {
	Row      string    `json:"row"`
	Peer     string    `json:"peer"`
	Round    int       `json:"round"`
	Seconds  float64   `json:"seconds"`
	Settings string    `json:"settings,omitempty"` // that are not the defaults
	At       time.Time `json:"at"`
	Machine  string    `json:"machine"`
	Revision string    `json:"revision"` // of this library
	Samples  samples   `json:"samples,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// results are all that is known, in the order in which it was measured.
type results []result

// readResults reads a file that may not be there yet. A last line that was cut short by a
// crash counts as not measured.
func readResults(name string) (results, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var all results
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r result
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			all = append(all, r)
		}
	}
	return all, lines.Err()
}

// appendResult adds a line to the file. It starts with the end of what may be half a line.
func appendResult(name string, r result) error {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	line, err := json.Marshal(r)
	if err == nil {
		_, err = fmt.Fprintf(file, "\n%s\n", line)
	}
	return errors.Join(err, file.Close())
}

// has reports whether a cell was measured without an error.
func (rs results) has(row, peer string, round int) bool {
	return slices.ContainsFunc(rs, func(r result) bool {
		return r.Row == row && r.Peer == peer && r.Round == round && r.Error == ""
	})
}

// whole reports whether it is about everything, in all of its rounds, with the defaults.
func (rs results) whole() bool {
	whole := matrix{peers: peers, rows: rows, rounds: len(rs.rounds())}
	return len(rs) > 0 && !slices.ContainsFunc(whole.cells(), func(c cell) bool { return !rs.has(c.row.name(), c.peer.name, c.round) }) &&
		!slices.ContainsFunc(rs, func(r result) bool { return r.Settings != "" })
}

// values returns what all rounds have measured.
func (rs results) values(row, peer string, m metric) []float64 {
	var all []float64
	for _, r := range rs {
		if r.Row == row && r.Peer == peer && r.Error == "" {
			all = append(all, r.Samples[m]...)
		}
	}
	return all
}

// median of all rounds; ok is false if nothing was measured.
func (rs results) median(row, peer string, m metric) (v float64, ok bool) {
	return median(rs.values(row, peer, m))
}

// byRound returns the results of each round.
func (rs results) byRound() []results {
	var all []results
	for _, round := range rs.rounds() {
		all = append(all, slices.DeleteFunc(slices.Clone(rs), func(r result) bool { return r.Round != round }))
	}
	return all
}

// rounds returns the numbers of the rounds.
func (rs results) rounds() []int {
	return distinct(rs, func(r result) int { return r.Round })
}

// revisions returns those of this library. That there are several is for readers to know.
func (rs results) revisions() []string {
	return distinct(rs, func(r result) string { return r.Revision })
}

// distinct returns what results have, each once, in their order.
func distinct[T comparable](rs results, of func(result) T) []T {
	var all []T
	for _, r := range rs {
		if v := of(r); !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	return all
}

// best returns which of some peers is the best by its median.
func (rs results) best(row string, m metric, among []peer) (name string, ok bool) {
	var most float64
	for _, p := range among {
		v, measured := rs.median(row, p.name, m)
		if measured && (!ok || m.better(v, most)) {
			name, most, ok = p.name, v, true
		}
	}
	return name, ok
}

// better reports whether a is better than b.
func (m metric) better(a, b float64) bool {
	if m == rate || m == healthyRate || m == largeRate {
		return a > b
	}
	return a < b
}

// decides returns what makes a peer the one to compare with. For latencies that is the
// rate: it is no art to answer few quickly.
func (m metric) decides() metric {
	if m == p50 || m == p99 {
		return rate
	}
	return m
}

// isDrawn reports whether chance decides more about a value than the machine does: of such
// all rounds are compared together, since the best of some in a few trials is who had luck.
func (m metric) isDrawn() bool { return m == elected || m == wrote }

// ratio is one value divided by another, in several rounds.
type ratio struct{ median, least, most float64 }

// timesBest is our value divided by that of the best of the others in the same round. A
// round that lacks one of the others, because it has failed or the run has not come so far,
// does not count: the best may be the one.
func (rs results) timesBest(row string, m metric) (r ratio, ok bool) {
	among := rs.measured(row, m.decides(), others())
	best := func(of results) (float64, bool) {
		if len(of.measured(row, m.decides(), among)) < len(among) {
			return 0, false
		}
		name, ok := of.best(row, m.decides(), among)
		if !ok {
			return 0, false
		}
		return of.median(row, name, m)
	}
	if m.isDrawn() {
		return divided(row, m, []results{rs}, best)
	}
	return divided(row, m, rs.byRound(), best)
}

// measured returns the peers, of some, of which there is a value.
func (rs results) measured(row string, m metric, among []peer) []peer {
	return slices.DeleteFunc(slices.Clone(among), func(p peer) bool { return len(rs.values(row, p.name, m)) == 0 })
}

// timesLimit is the same for the limit.
func (rs results) timesLimit(row string, m metric) (r ratio, ok bool) {
	return divided(row, m, rs.byRound(), func(of results) (float64, bool) { return of.median(row, limit, m) })
}

// divided divides our value in some results by another one in the same.
func divided(row string, m metric, parts []results, by func(results) (float64, bool)) (r ratio, ok bool) {
	var all []float64
	for _, part := range parts {
		a, measured := part.median(row, ours, m)
		b, compared := by(part)
		if measured && compared && b > 0 {
			all = append(all, a/b)
		}
	}
	if r.median, ok = median(all); ok {
		r.least, r.most = slices.Min(all), slices.Max(all)
	}
	return r, ok
}

func median(values []float64) (v float64, ok bool) {
	n := len(values)
	if n == 0 {
		return 0, false
	}
	values = slices.Sorted(slices.Values(values))
	return (values[(n-1)/2] + values[n/2]) / 2, true
}
