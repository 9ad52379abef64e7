package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// quietCores is how many CPUs others may use while a cell is measured, without it being said.
const quietCores = 0.3

// The names of what a report consists of.
const (
	reportFile  = "report.md"
	pictureFile = "commands.svg"
)

// The lines between which a Markdown file has the tables.
const (
	beginMark = "<!-- bench: begin -->"
	endMark   = "<!-- bench: end -->"
)

// writeReport writes the report of what is known into the directory of results. If
// there is a README it gets the short tables, and the working directory the rest, to be
// kept with it.
func writeReport(out, readme string) error {
	rs, err := readResults(resultsFile(out))
	if err != nil {
		return err
	}
	var part error
	if readme != "" && !rs.whole() {
		part = fmt.Errorf("%s keeps its tables: these are others, or not all", readme)
		readme = ""
	}
	var report, picture bytes.Buffer
	fmt.Fprintf(&report, "# What was measured\n\n![Commands per second, as a part of the limit](%s)\n\n%s", pictureFile, summary(rs))
	report.WriteString(howToRead)
	writeTables(&report, slices.Concat(short, details), rs, true)
	drawPicture(&picture, rs)
	dirs := []string{out}
	if readme != "" {
		dirs = append(dirs, ".")
	}
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, reportFile), report.Bytes(), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, pictureFile), picture.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if readme == "" {
		return part
	}
	return updateReadme(readme, rs)
}

// howToRead is for those who see tables before they see README.md of this directory.
const howToRead = "\nThe best library is bold. `ours / best` is this library divided by the best of the others, `ours / limit` by a log " +
	"without Raft: more than 1 is good for rates, and less than 1 for times, CPU and memory. Both are medians of what the " +
	"rounds say, each about itself, and so not the quotients of the medians beside them; of elections all trials are compared " +
	"together. For latencies the best is who has the highest rate.\n"

func writeTables(w io.Writer, tables []table, rs results, spread bool) {
	for _, t := range tables {
		t.write(w, rs, spread)
	}
}

// summary says where figures come from, and which are not to be relied on.
func summary(rs results) string {
	if len(rs) == 0 {
		return "Nothing was measured yet.\n"
	}
	var text strings.Builder
	first, last := rs[0], rs[len(rs)-1]
	when, end := first.At.Format(time.DateOnly), last.At.Format(time.DateOnly)
	if end != when {
		when += " to " + end
	}
	fmt.Fprintf(&text, "Medians of %d rounds of %v s, revision %s, %s, on %s.", len(rs.rounds()), last.Seconds,
		strings.Join(rs.revisions(), " and "), when, last.Machine)
	if settings := distinct(rs, func(r result) string { return cmp.Or(r.Settings, defaults) }); !slices.Equal(settings, []string{defaults}) {
		fmt.Fprintf(&text, " With %s.", strings.Join(settings, " and "))
	}
	disturbed, failed := 0, []string{}
	for _, r := range rs {
		if others, ok := median(r.Samples[otherCores]); ok && others > quietCores {
			disturbed++
		}
		for _, n := range r.Samples[failures] {
			failed = append(failed, fmt.Sprintf("%s in %s, round %d: %.0f operations", r.Peer, r.Row, r.Round, n))
		}
		if r.Error != "" && !rs.has(r.Row, r.Peer, r.Round) {
			line, _, _ := strings.Cut(r.Error, "\n")
			failed = append(failed, fmt.Sprintf("%s in %s, round %d: %s", r.Peer, r.Row, r.Round, line))
		}
	}
	if disturbed > 0 {
		fmt.Fprintf(&text, " In %d of %d cells other processes used more than %v CPUs.", disturbed, len(rs), quietCores)
	}
	text.WriteString("\n")
	if len(failed) > 0 {
		fmt.Fprintf(&text, "\nWhat failed:\n\n- %s\n", strings.Join(slices.Compact(failed), "\n- "))
	}
	return text.String()
}

// updateReadme puts the picture and the short tables between the markers of a file.
func updateReadme(name string, rs results) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(data), beginMark)
	_, after, ends := strings.Cut(rest, endMark)
	if !begins || !ends {
		return fmt.Errorf("%s has no lines %s and %s", name, beginMark, endMark)
	}
	here, err := linkFrom(name)
	if err != nil {
		return err
	}
	var tables bytes.Buffer
	fmt.Fprintf(&tables, "\n![Commands per second, as a part of the limit](%s/%s)\n\n%s", here, pictureFile, summary(rs))
	tables.WriteString(howToRead)
	writeTables(&tables, short, rs, false)
	fmt.Fprintf(&tables, "\nLatencies, CPU, allocations and memory are in [the full report](%s/%s).\n", here, reportFile)
	return os.WriteFile(name, []byte(before+beginMark+"\n"+tables.String()+"\n"+endMark+after), 0o644)
}

// linkFrom returns how a file links to the working directory.
func linkFrom(name string) (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	file, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	relative, err := filepath.Rel(filepath.Dir(file), here)
	return filepath.ToSlash(relative), err
}
