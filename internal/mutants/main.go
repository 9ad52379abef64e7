// Command mutants tests the tests. It makes one small mistake after another in a
// copy of the module, and looks whether a test notices it:
//
//	go run ./internal/mutants [-run REGEXP] [-workers N]
//
// The mistakes are the patches in testdata/mutants. Each names a test that is
// known to notice it, which is tried first, and all others after that. Where
// none can notice it the patch says why. Whatever is not as the patch says makes
// the command fail: a mistake that nobody notices, one that is noticed though it
// is said to survive, a patch that does not fit any more or does not compile.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

func main() {
	only := flag.String("run", "", "only mutants whose name, scenario or file matches this `regexp`")
	workers := flag.Int("workers", 2, "how many are tried at the same time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only, *workers); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// unchanged is no mutant at all. Its tests must pass, else nothing that the
// others fail at says anything.
var unchanged = mutant{name: "unchanged", breaks: "Nothing.", scenario: "-", survives: "nothing is changed"}

// run tries the mutants of the module in the working directory.
func run(ctx context.Context, only string, workers int) error {
	start := time.Now()
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	all, err := readMutants(".")
	if err != nil {
		return err
	}
	chosen := []mutant{unchanged}
	for _, m := range all {
		if pattern.MatchString(m.name) || pattern.MatchString(m.scenario) || pattern.MatchString(m.file) {
			chosen = append(chosen, m)
		}
	}
	outcomes, err := tryAll(ctx, chosen, workers)
	if err != nil {
		return err
	}
	return report(outcomes, time.Since(start))
}

// tryAll tries mutants in so many copies of the module, and returns the outcomes
// in the order of the mutants.
func tryAll(ctx context.Context, mutants []mutant, workers int) ([]outcome, error) {
	outcomes := make([]outcome, len(mutants))
	next := make(chan int)
	failures := make([]error, workers)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			failures[w] = inCopy(func(root string) {
				for i := range next {
					outcomes[i] = try(ctx, root, mutants[i])
					fmt.Println(outcomes[i])
				}
			})
			for range next { // whatever is left, if there is no copy
			}
		})
	}
	for i := range mutants {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	group.Wait()
	return outcomes, errors.Join(append(failures, ctx.Err())...)
}

// inCopy calls f with a copy of the module, which it removes afterwards.
func inCopy(f func(root string)) error {
	root, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := copyTree(root, "."); err != nil {
		return err
	}
	f(root)
	return nil
}

// copyTree copies all files but those of version control and of builds.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == ".git" || name == "bin"):
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, 0o644)
	})
}
