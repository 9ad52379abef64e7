package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// directory holds the mutants, below the root of the module.
const directory = "testdata/mutants"

// mutant is a small mistake in one file of the library, and what is known about
// it. It is kept as a patch: a head of lines, each a word, a colon and a text, an
// empty line, and a unified diff of one hunk, which other tools can apply too.
type mutant struct {
	name     string // of the patch
	breaks   string // what goes wrong
	scenario string // an id of testdata/scenarios.md, or a section of the thesis
	test     string // one that notices it; empty: nobody does
	survives string // why nobody notices it; empty: somebody is to

	file          string // that is changed
	before, after string // the lines of the hunk, as they are and with the mistake
}

// dir is the directory of the package that is changed.
func (m mutant) dir() string { return "./" + path.Dir(m.file) }

// readMutants reads all mutants of a module: first those that survive, since all
// tests are run for them, which takes longest, then the others by scenario.
func readMutants(root string) ([]mutant, error) {
	names, err := filepath.Glob(filepath.Join(root, directory, "*.patch"))
	if err != nil {
		return nil, err
	}
	var all []mutant
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		m, err := parseMutant(strings.TrimSuffix(filepath.Base(name), ".patch"), string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, m)
	}
	slices.SortStableFunc(all, func(a, b mutant) int {
		return cmp.Or(-cmp.Compare(a.survives, b.survives), cmp.Compare(a.scenario, b.scenario))
	})
	return all, nil
}

var diffHead = regexp.MustCompile(`^--- a/(\S+)\n\+\+\+ b/(\S+)\n@@ [^\n]* @@[^\n]*\n`)

// parseMutant reads a patch.
func parseMutant(name, text string) (mutant, error) {
	m := mutant{name: name}
	head, diff, _ := strings.Cut(text, "\n\n")
	fields := map[string]*string{"Breaks": &m.breaks, "Scenario": &m.scenario, "Test": &m.test, "Survives": &m.survives}
	for line := range strings.Lines(head + "\n") {
		word, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		field, ok := fields[word]
		if !ok || *field != "" || value == "" {
			return m, fmt.Errorf("line %q of the head is none, has no text, or stands there twice", line)
		}
		*field = value
	}
	switch {
	case m.breaks == "" || m.scenario == "":
		return m, errors.New("the head does not say what breaks, or in which scenario")
	case (m.test == "") == (m.survives == ""):
		return m, errors.New("the head says either which test notices it or why it survives")
	}
	match := diffHead.FindStringSubmatch(diff)
	if match == nil || match[1] != match[2] {
		return m, errors.New("what follows the head is no diff of a file")
	}
	m.file = match[1]
	return m, m.parseHunk(diff[len(match[0]):])
}

// parseHunk reads the lines of the hunk, of which one is removed, or added, or
// both.
func (m *mutant) parseHunk(hunk string) error {
	removed, added := 0, 0
	for line := range strings.Lines(hunk) {
		switch line[0] {
		case ' ':
			m.before += line[1:]
			m.after += line[1:]
		case '-':
			m.before += line[1:]
			removed++
		case '+':
			m.after += line[1:]
			added++
		default:
			return fmt.Errorf("line %q is not one of a hunk", line)
		}
	}
	if removed > 1 || added > 1 || removed+added == 0 {
		return fmt.Errorf("%d lines are removed and %d added: a mutant is a change of one", removed, added)
	}
	return nil
}

// apply returns the content of the file with the mistake.
func (m mutant) apply(content string) (string, error) {
	if n := strings.Count(content, m.before); n != 1 {
		return "", fmt.Errorf("the lines of %s/%s.patch are %d times in %s: make it anew", directory, m.name, n, m.file)
	}
	return strings.Replace(content, m.before, m.after, 1), nil
}

// pattern is what names the test and nothing else to go test.
func (m mutant) pattern() string {
	parts := strings.Split(m.test, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}
