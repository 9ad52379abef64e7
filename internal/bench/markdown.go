package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// table is one table of the report.
type table struct {
	title string
	head  string // of the column that says what a line is about
	lines []line
}

// line is one line of it: a metric of a row, of every peer.
type line struct {
	row    row
	metric metric
	label  string
	digits int // after the decimal point
}

// short are the tables for readers of README.md.
var short = []table{
	{"Commands per second", "commands", linesOf(rate, 0, propose)},
	{"Reads per second, of which nothing is written", "reads", linesOf(rate, 0, leaderRead, followerRead, leaseRead)},
	{"Elections, a restart, a dead follower", "", slices.Concat(
		linesNamed(wrote, 0, election, "ms until a leader that is %s is replaced by one that has committed a command"),
		linesNamed(applied, 0, restart, "ms from the start of three nodes until 1,000,000 commands of 128 B are applied again"),
		linesNamed(rate, 0, lag, "commands of 1 KiB per second, 256 callers, with one follower dead"),
	)},
}

// details are those for whoever wants to know why.
var details = []table{
	{"Commands: median latency, µs", "commands", linesOf(p50, 0, propose)},
	{"Commands: 99th percentile of the latency, µs", "commands", linesOf(p99, 0, propose)},
	{"Commands: CPU of the whole process for each, µs", "commands", linesOf(cpuMicros, 1, propose)},
	{"Commands: allocations of the whole process for each", "commands", linesOf(allocations, 1, propose)},
	{"Commands: flushes of the disk for each, whoever asked for them", "commands", linesOf(flushes, 4, propose)},
	{"Commands: peak memory of the process, MiB", "commands", linesOf(peakMemory, 0, propose)},
	{"Reads: median latency, µs", "reads", linesOf(p50, 1, leaderRead, followerRead, leaseRead)},
	{"Reads: 99th percentile of the latency, µs", "reads", linesOf(p99, 1, leaderRead, followerRead, leaseRead)},
	{"Reads: CPU of the whole process for each, µs", "reads", linesOf(cpuMicros, 1, leaderRead, followerRead, leaseRead)},
	{"A caller of small commands beside 16 callers of large ones", "", slices.Concat(
		linesNamed(rate, 0, beside, "128 B, 1 caller: commands per second"),
		linesNamed(p50, 0, beside, "128 B, 1 caller: median latency, µs"),
		linesNamed(p99, 0, beside, "128 B, 1 caller: 99th percentile of the latency, µs"),
		linesNamed(largeRate, 0, beside, "64 KiB, 16 callers: commands per second"),
	)},
	{"Elections, restart, a dead follower", "", slices.Concat(
		linesNamed(elected, 0, election, "ms until a leader that is %s is replaced"),
		linesNamed(peakMemory, 0, restart, "restart: peak memory, MiB"),
		linesNamed(cpuMicros, 1, restart, "restart: CPU for each command, µs"),
		linesNamed(healthyRate, 0, lag, "before one follower died: commands per second"),
		linesNamed(healthyP99, 0, lag, "before one follower died: 99th percentile of the latency, µs"),
		linesNamed(p99, 0, lag, "one follower dead: 99th percentile of the latency, µs"),
		linesNamed(idleMemory, 0, lag, "memory before the first command, MiB"),
		linesNamed(healthyPeak, 0, lag, "before one follower died: peak memory, MiB"),
		linesNamed(peakMemory, 0, lag, "one follower dead: peak memory, MiB"),
	)},
}

// linesOf are the rows of some kinds, under their own labels.
func linesOf(m metric, digits int, kinds ...kind) []line {
	var lines []line
	for _, r := range rows {
		if slices.Contains(kinds, r.Kind) {
			lines = append(lines, line{r, m, r.label(), digits})
		}
	}
	return lines
}

// linesNamed are the rows of one kind; %s is what becomes of the leader.
func linesNamed(m metric, digits int, k kind, label string) []line {
	lines := linesOf(m, digits, k)
	for i := range lines {
		lines[i].label = strings.ReplaceAll(label, "%s", lines[i].row.end())
	}
	return lines
}

// write writes the lines of which something was measured; no table, if there are none.
func (t table) write(w io.Writer, rs results, spread bool) {
	measured := slices.DeleteFunc(slices.Clone(t.lines), func(l line) bool { return len(rs.measured(l.row.name(), l.metric, peers)) == 0 })
	if len(measured) == 0 {
		return
	}
	columns := slices.DeleteFunc(slices.Clone(peers), func(p peer) bool {
		return !slices.ContainsFunc(measured, func(l line) bool { return len(rs.values(l.row.name(), p.name, l.metric)) > 0 })
	})
	head := []string{t.head}
	for _, p := range columns {
		head = append(head, p.title)
	}
	head = append(head, "ours / best")
	if limited(columns) {
		head = append(head, "ours / limit")
	}
	fmt.Fprintf(w, "\n%s:\n\n| %s |\n|---|%s\n", t.title, strings.Join(head, " | "), strings.Repeat("---:|", len(head)-1))
	for _, l := range measured {
		l.write(w, rs, columns, spread)
	}
}

// limited reports whether the limit is one of the columns.
func limited(columns []peer) bool {
	return slices.ContainsFunc(columns, func(p peer) bool { return p.name == limit })
}

// write writes a line. The best is bold, but for the limit, which is no library.
func (l line) write(w io.Writer, rs results, columns []peer, spread bool) {
	cells := []string{l.label}
	best, _ := rs.best(l.row.name(), l.metric, libraries())
	for _, p := range columns {
		text := ""
		if v, ok := rs.median(l.row.name(), p.name, l.metric); ok {
			text = grouped(v, l.digits)
		}
		if p.name == best {
			text = "**" + text + "**"
		}
		cells = append(cells, text)
	}
	toBest, compared := rs.timesBest(l.row.name(), l.metric)
	cells = append(cells, times(toBest, compared, spread))
	if limited(columns) {
		toLimit, compared := rs.timesLimit(l.row.name(), l.metric)
		cells = append(cells, times(toLimit, compared, spread))
	}
	fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
}

// label says in a table which row it is.
func (r row) label() string {
	switch r.Kind {
	case propose:
		where := ""
		if r.InMemory {
			where = ", log in memory"
		}
		return fmt.Sprintf("%s, %s%s", size(r.Bytes, " "), r.who("caller"), where)
	case leaderRead:
		return r.who("reader") + " on the leader"
	case followerRead:
		return r.who("reader") + " on a follower"
	case leaseRead:
		return r.who("reader") + " on the leader, by its clock"
	}
	return string(r.Kind)
}

// who says who asks.
func (r row) who(one string) string {
	switch {
	case r.Window > 0:
		return fmt.Sprintf("%d outstanding", r.Window)
	case r.Callers == 1:
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", r.Callers, one)
}

// times writes a ratio, its spread too if that is wanted.
func times(r ratio, ok, spread bool) string {
	switch {
	case !ok:
		return ""
	case spread && r.least < r.most:
		return fmt.Sprintf("%.2f (%.2f to %.2f)", r.median, r.least, r.most)
	default:
		return fmt.Sprintf("%.2f", r.median)
	}
}

// grouped writes a number with a comma between thousands.
func grouped(v float64, digits int) string {
	whole, fraction, _ := strings.Cut(fmt.Sprintf("%.*f", digits, v), ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	return whole
}
