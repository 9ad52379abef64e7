package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// outcome is what became of a mutant.
type outcome struct {
	mutant
	took    time.Duration
	by      string // the first test that failed; empty: none did
	how     string // what is remarkable about that
	problem error  // why it cannot be said
}

// try makes the mistake in a copy of the module, runs the test that is known to
// notice it, all tests if it does not, and takes the mistake back.
func try(ctx context.Context, root string, m mutant) outcome {
	start := time.Now()
	o := outcome{mutant: m}
	undo, err := m.make(root)
	if err != nil {
		o.problem = err
		return o
	}
	defer undo()
	if m.test != "" {
		o.run(ctx, root, "-short", "-timeout=2m", "-run="+m.pattern(), m.dir())
	}
	if o.by == "" && o.problem == nil {
		o.run(ctx, root, "-timeout=10m", "-skip="+ownTest, "./...")
		if o.by != "" && m.test != "" {
			o.how = ", and not by " + m.test
		}
	}
	o.took = time.Since(start)
	return o
}

// ownTest compares the patches with the files that they change: it would notice
// every mutant, without knowing why it is wrong.
const ownTest = "^TestMutantsFit$"

// make makes the mistake in a copy of the module, and returns what takes it back.
func (m mutant) make(root string) (undo func(), err error) {
	if m.file == "" {
		return func() {}, nil
	}
	name := filepath.Join(root, m.file)
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	wrong, err := m.apply(string(content))
	if err != nil {
		return nil, err
	}
	return func() { os.WriteFile(name, content, 0o644) }, os.WriteFile(name, []byte(wrong), 0o644)
}

// run runs tests up to the first that fails.
func (o *outcome) run(ctx context.Context, root string, arguments ...string) {
	command := exec.CommandContext(ctx, "go", append([]string{"test", "-vet=off", "-count=1", "-failfast", "-v"}, arguments...)...)
	command.Dir = root
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	switch out := string(output); {
	case ctx.Err() != nil:
		o.problem = ctx.Err()
	case err == nil:
	case !errors.As(err, &exit):
		o.problem = err
	case strings.Contains(out, " [build failed]") || strings.Contains(out, " [setup failed]"):
		o.problem = fmt.Errorf("it does not compile:\n%s", out)
	case strings.Contains(out, "*** Test killed"):
		o.problem = errors.New("a test did not end at its limit of time")
	case firstFailure(out) == "":
		o.problem = fmt.Errorf("no test failed, and %w:\n%s", err, out)
	default:
		o.by = firstFailure(out)
		if strings.Contains(out, "panic: test timed out after") {
			o.how = ", by its limit of time"
		}
	}
}

var (
	failLine = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)
	runLine  = regexp.MustCompile(`(?m)^=== RUN +(\S+)`)
)

// firstFailure returns the first test that failed, with its subtest if there is
// one; the last that was begun, if the process ended without a word about any.
func firstFailure(output string) string {
	output, _, _ = strings.Cut(output, "\nFAIL\t") // of the first package that failed
	first := ""
	for _, match := range failLine.FindAllStringSubmatch(output, -1) {
		if first != "" && !strings.HasPrefix(match[1], first+"/") {
			break
		}
		first = match[1]
	}
	if begun := runLine.FindAllStringSubmatch(output, -1); first == "" && len(begun) > 0 {
		first = begun[len(begun)-1][1]
	}
	return first
}

// unexpected returns why the outcome is not what the patch says; nil if it is.
func (o outcome) unexpected() error {
	switch {
	case o.problem != nil:
		return o.problem
	case o.by != "" && o.survives != "":
		return fmt.Errorf("%s notices it, though %s", o.by, o.survives)
	case o.by == "" && o.survives == "":
		return errors.New("nobody notices it")
	default:
		return nil
	}
}

// String is a line about the outcome.
func (o outcome) String() string {
	what := "caught by " + o.by + o.how
	if err := o.unexpected(); err != nil {
		what = "WRONG: " + err.Error()
	} else if o.by == "" {
		what = "survives: " + o.survives
	}
	return fmt.Sprintf("%4.0fs  %-13s %-32s %s", o.took.Seconds(), o.scenario, o.name, what)
}

// report prints what became of all, sorted as they are, and returns an error if
// it is not as it should be.
func report(outcomes []outcome, took time.Duration) error {
	fmt.Println()
	mutants, caught, wrong := 0, 0, 0
	for _, o := range outcomes {
		fmt.Println(o)
		fmt.Println(strings.Repeat(" ", 21), o.breaks)
		if o.file != "" {
			mutants++
		}
		if o.by != "" {
			caught++
		}
		if o.unexpected() != nil {
			wrong++
		}
	}
	fmt.Printf("\n%d of %d mutants are caught, in %v.\n", caught, mutants, took.Round(time.Second))
	if wrong > 0 {
		return fmt.Errorf("%d outcomes are not what the patches say", wrong)
	}
	return nil
}
