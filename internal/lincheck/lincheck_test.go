package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// check runs the checker, and returns what it prints.
func check(c checker, args ...string) (string, error) {
	var out bytes.Buffer
	c.out = &out
	err := c.run(args)
	return out.String(), err
}

// written writes a history.
func written(t *testing.T, content string) string {
	name := filepath.Join(t.TempDir(), "history.jsonl")
	require.NoError(t, os.WriteFile(name, []byte(content), 0o666))
	return name
}

// In this history a write of unknown outcome happens after the client has given
// up, a compare-and-set happens and another does not, and one write never does.
func TestUnknownOutcomesAreLegal(t *testing.T) {
	out, err := check(checker{}, "testdata/unknown_outcomes.jsonl")
	require.NoError(t, err)
	require.Regexp(t, `^1 histories, 12 operations, 5 of them of unknown outcome and 1 refused: 2 registers in \S+\n$`, out)
}

// Each of these histories is wrong in one point of register k0, and would be right
// if that were told differently.
func TestIllegalHistoriesAreFound(t *testing.T) {
	for _, test := range []struct{ name, wrong, right string }{
		{"lost_write", `"1.1 put k0 2","outcome":"done"`, `"1.1 put k0 2","outcome":"unknown"`},
		{"stale_read", `"call":60`, `"call":45`},
		{"refused_write", `"refused"`, `"unknown"`},
		{"wrong_cas", `"index":3,"response":"2"`, `"index":3,"response":"1"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := "testdata/" + test.name + ".jsonl"
			out, err := check(checker{}, name)
			require.EqualError(t, err, "of 2 registers 1 are not linearizable, and 0 are undecided")
			require.Contains(t, out, name+": register k0 is not linearizable\n")

			history, err := os.ReadFile(name)
			require.NoError(t, err)
			require.Equal(t, 1, strings.Count(string(history), test.wrong))
			_, err = check(checker{}, written(t, strings.Replace(string(history), test.wrong, test.right, 1)))
			require.NoError(t, err)
		})
	}
}

// All histories of a directory are checked, and each that is wrong is named.
func TestDirectoryIsCheckedToItsEnd(t *testing.T) {
	out, err := check(checker{}, "testdata")
	require.EqualError(t, err, "of 10 registers 4 are not linearizable, and 0 are undecided")
	require.Equal(t, 4, strings.Count(out, "register k0 is not linearizable"))
	require.Contains(t, out, "5 histories, ")
}

func TestNothingToCheckIsAnError(t *testing.T) {
	for _, args := range [][]string{{}, {t.TempDir()}, {"testdata", t.TempDir()}, {"testdata/none.jsonl"}, {written(t, "")}} {
		_, err := check(checker{}, args...)
		require.Error(t, err, "%q", args)
	}
}

func TestMalformedLinesAreErrors(t *testing.T) {
	const good = `{"client":1,"node":0,"call":3,"return":4,"command":"1.1 get k","outcome":"done","response":"-"}`
	for _, test := range []struct{ old, new, want string }{
		{good, good[:40], "unexpected EOF"},
		{good, `words`, "invalid character 'w'"},
		{`"call":3`, `"call":"3"`, "cannot unmarshal string"},
		{`"node"`, `"place"`, `unknown field "place"`},
		{`"done"`, `"fine"`, `"fine" is no outcome`},
		{`"outcome":"done",`, ``, `"" is no outcome`},
		{`"return":4`, `"return":2`, "it returned at 2, and was called at 3"},
		{`,"response":"-"`, ``, "it is done, and has no response"},
		{`1.1 get k`, ``, `"" is no command`},
		{`1.1 get k`, `1.1 get k v`, `"1.1 get k v" is no command`},
		{`1.1 get k`, `1.1 put k`, `"1.1 put k" is no command`},
		{`1.1 get k`, `1.1 cas k 1`, `"1.1 cas k 1" is no command`},
		{`1.1 get k`, `1.1 del k`, `"1.1 del k" is no command`},
	} {
		require.Contains(t, good, test.old)
		name := written(t, good+"\n"+strings.Replace(good, test.old, test.new, 1)+"\n")
		_, err := check(checker{}, name)
		require.ErrorContains(t, err, name+": operation 2: ")
		require.ErrorContains(t, err, test.want)
	}
}

// With 40 writes that may have happened, in any order, it takes for ever to find
// out that none of them explains what was read.
func TestUndecidedIsNotPassed(t *testing.T) {
	var history strings.Builder
	for i := range 40 {
		fmt.Fprintf(&history, `{"call":1,"command":"1.%d put k %d","outcome":"unknown"}`+"\n", i, i)
	}
	history.WriteString(`{"call":1,"return":2,"command":"2.1 get k","outcome":"done","response":"none of these"}`)
	out, err := check(checker{timeout: time.Millisecond}, written(t, history.String()))
	require.EqualError(t, err, "of 1 registers 0 are not linearizable, and 1 are undecided")
	require.Contains(t, out, "register k is undecided after 1ms\n")
}

func TestPagesAreDrawnOfWhatIsWrong(t *testing.T) {
	pages := filepath.Join(t.TempDir(), "new", "directory")
	out, err := check(checker{html: pages}, "testdata/stale_read.jsonl", "testdata/unknown_outcomes.jsonl")
	require.Error(t, err)
	require.Contains(t, out, "see "+filepath.Join(pages, "stale_read-k0.html")+"\n")
	page, err := os.ReadFile(filepath.Join(pages, "stale_read-k0.html"))
	require.NoError(t, err)
	require.Contains(t, string(page), "put 2, was 1")
	require.Contains(t, string(page), "command 2.1 of client 2 at node 1, done, index 5")
	entries, err := os.ReadDir(pages)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

// No two calls of a row overlap, not even in a moment.
func TestRowsHoldOneCallAtATime(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		ends := map[int]int64{}
		for _, r := range registersOf(randomHistory(random, 30)) {
			clear(ends)
			for _, call := range inRows(r.calls) {
				if end, used := ends[call.ClientId]; used {
					require.Less(t, end, call.Call)
				}
				ends[call.ClientId] = call.Return
			}
		}
	}
}

// The verdict is that of the definition, on histories small enough to try every
// order, with what is unknown happening or not.
func TestVerdictIsThatOfTheDefinition(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	verdicts := map[bool]int{}
	for range 20_000 {
		history := randomHistory(random, 1+random.IntN(6))
		legal := linearizable(history, "-")
		for _, r := range registersOf(history) {
			require.Equal(t, legal, porcupine.CheckOperations(model, r.calls), "%+v", history)
			verdicts[legal]++
		}
	}
	require.Greater(t, verdicts[true], 2000)
	require.Greater(t, verdicts[false], 2000)
}

// randomHistory makes up what clients saw of a register, right or wrong.
func randomHistory(random *rand.Rand, length int) []operation {
	history := make([]operation, length)
	value := func() string { return fmt.Sprint(random.IntN(2)) }
	for i := range history {
		op := &history[i]
		op.Call = time.Duration(random.IntN(10))
		op.Return = op.Call + time.Duration(random.IntN(5))
		op.Outcome = []string{done, done, done, refused, unknown, pending}[random.IntN(6)]
		op.Response = []string{"-", "0", "1"}[random.IntN(3)]
		op.Command = []string{"1 get k", "1 put k " + value(), "1 cas k " + value() + " " + value()}[random.IntN(3)]
		if err := op.understand(); err != nil {
			panic(err)
		}
	}
	return history
}

// linearizable reports whether the operations can happen one after the other, from
// a value of the register on. The first may be any that was not called after
// another one had returned; those that are not done may be left over.
func linearizable(left []operation, value string) bool {
	over := true
	for i, op := range left {
		over = over && op.Outcome != done
		if op.Outcome == refused || op.Outcome == done && op.Response != value {
			continue
		}
		rest := append(append([]operation(nil), left[:i]...), left[i+1:]...)
		early := true
		for _, other := range rest {
			early = early && (other.Outcome != done || other.Return >= op.Call)
		}
		next := value
		if c := op.command; c.verb == "put" || c.verb == "cas" && c.old == value {
			next = c.value
		}
		if early && linearizable(rest, next) {
			return true
		}
	}
	return over
}
