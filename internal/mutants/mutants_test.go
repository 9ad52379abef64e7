package main

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "../.."

func read(t *testing.T, name string) string {
	content, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(content)
}

// Whether a mutant is caught takes minutes to find out. That it still is one takes
// none: its patch fits the file, and what it speaks of exists.
func TestMutantsFit(t *testing.T) {
	mutants, err := readMutants(root)
	require.NoError(t, err)
	survivors := 0
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			wrong, err := m.apply(read(t, m.file))
			require.NoError(t, err)
			_, err = parser.ParseFile(token.NewFileSet(), m.file, wrong, 0)
			assert.NoError(t, err)
			assert.True(t, known(t, m.scenario), "testdata/scenarios.md does not explain %s", m.scenario)
			assert.True(t, strings.HasSuffix(m.breaks, "."), "what breaks is no sentence")
			if m.test != "" {
				assert.True(t, exists(t, m), "there is no test %s", m.test)
			}
		})
		if m.survives != "" {
			survivors++
		}
	}
	assert.GreaterOrEqual(t, len(mutants), 50)
	assert.LessOrEqual(t, 20*survivors, len(mutants), "more than one in twenty survives")
}

// known reports whether a scenario is one that is explained, or a section of the
// thesis.
func known(t *testing.T, scenario string) bool {
	if regexp.MustCompile(`^thesis [0-9]+(\.[0-9]+)*$`).MatchString(scenario) {
		return true
	}
	return strings.Contains(read(t, "testdata/scenarios.md"), "\n| "+scenario+" | ")
}

// exists reports whether a mutant's test is in its package.
func exists(t *testing.T, m mutant) bool {
	test, script, _ := strings.Cut(m.test, "/")
	if test == "TestScript" {
		_, err := os.Stat(filepath.Join(root, "testdata/scripts", script+".txt"))
		return err == nil
	}
	names, err := filepath.Glob(filepath.Join(root, m.dir(), "*_test.go"))
	require.NoError(t, err)
	for _, name := range names {
		if content, err := os.ReadFile(name); err == nil && strings.Contains(string(content), "\nfunc "+test+"(") {
			return true
		}
	}
	return false
}

const patch = `Breaks: A leader never gives up.
Scenario: P5
Test: TestLeader

--- a/raft.go
+++ b/raft.go
@@ -1,4 +1,3 @@
 one
-two
 three
`

func TestPatchesAreRead(t *testing.T) {
	m, err := parseMutant("stubborn", patch)
	require.NoError(t, err)
	assert.Equal(t, mutant{
		name: "stubborn", breaks: "A leader never gives up.", scenario: "P5", test: "TestLeader",
		file: "raft.go", before: "one\ntwo\nthree\n", after: "one\nthree\n",
	}, m)
	wrong, err := m.apply("zero\none\ntwo\nthree\nfour\n")
	require.NoError(t, err)
	assert.Equal(t, "zero\none\nthree\nfour\n", wrong)
	for _, changed := range []string{"one\nthree\n", "one\ntwo\nthree\none\ntwo\nthree\n"} {
		_, err := m.apply(changed)
		assert.Error(t, err, changed)
	}
}

func TestMalformedPatchesAreRefused(t *testing.T) {
	for old, wrong := range map[string]string{
		"Scenario: P5\n":       "",
		"Breaks: A":            "Break: A",
		"Test: TestLeader\n":   "Test: TestLeader\nSurvives: it is harmless\n",
		"Test: TestLeader":     "Test: TestLeader\nTest: TestOther",
		"TestLeader\n":         "\n",
		"+++ b/raft.go":        "+++ b/log.go",
		"@@ -1,4 +1,3 @@":      "@@",
		" one\n":               "-one\n",
		"-two\n":               " two\n",
		" three\n":             "three\n",
		"Test: TestLeader\n\n": "Test: TestLeader\n",
	} {
		require.Contains(t, patch, old)
		_, err := parseMutant("name", strings.Replace(patch, old, wrong, 1))
		assert.Error(t, err, "%q in place of %q", wrong, old)
	}
}

func TestFirstFailureIsFound(t *testing.T) {
	for output, want := range map[string]string{
		"=== RUN   TestA\n--- PASS: TestA (0.00s)\n=== RUN   TestB\n--- FAIL: TestB (0.00s)\nFAIL\n":                                  "TestB",
		"=== RUN   TestA\n=== RUN   TestA/x\n--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/x (0.00s)\n--- FAIL: TestB (0.00s)\nFAIL\n": "TestA/x",
		"=== RUN   TestA\nfatal error: all goroutines are asleep\nFAIL\tpackage\t0.1s\n=== RUN   TestB\n":                             "TestA",
	} {
		assert.Equal(t, want, firstFailure(output))
	}
}

func TestOutcomeIsComparedWithThePatch(t *testing.T) {
	caught, survivor := mutant{test: "TestA"}, mutant{survives: "it is harmless"}
	assert.NoError(t, outcome{mutant: caught, by: "TestB"}.unexpected())
	assert.NoError(t, outcome{mutant: survivor}.unexpected())
	assert.Error(t, outcome{mutant: caught}.unexpected())
	assert.Error(t, outcome{mutant: survivor, by: "TestB"}.unexpected())
	assert.Error(t, outcome{mutant: caught, by: "TestB", problem: os.ErrNotExist}.unexpected())
}
