// Bench compares this library with hashicorp/raft, etcd's raft and dragonboat, each with
// a log on the disk, and with the limit: a replicated log with nothing of Raft in it.
// All do the same work in the same way.
//
//	go run . [-peers ours,limit] [-rows REGEXP] [-rounds 5] [-seconds 1] [-touch=false] [-dir DIR] [-out DIR]
//	         [-ours JSON] [-gogc GOGC] [-profiles] [-readme FILE]
//	go run . -list
//
// Rounds are interleaved: in each of them every row is measured for one peer after
// another, each cell in a process of its own. Results are added to a file as they
// come. So a run that was interrupted goes on when it is started again, and -rounds 0 only
// writes the report anew. README.md says what is measured and how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := performTask(ctx)
	if errors.Is(err, errNoTask) {
		err = runMatrix(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var errNoTask = errors.New("nobody has started this process for a task")

// performTask does what another process has started this one for.
func performTask(ctx context.Context) error {
	t, ok, err := taskOfThisProcess()
	if err != nil {
		return err
	}
	if !ok {
		return errNoTask
	}
	return t.perform(ctx, os.Stdout)
}

// runMatrix does what somebody has asked for.
func runMatrix(ctx context.Context) error {
	m := matrix{progress: os.Stdout}
	names := flag.String("peers", "", "only these `peers`, with commas between them")
	pattern := flag.String("rows", "", "only rows whose names match this `regexp`")
	flag.IntVar(&m.rounds, "rounds", 5, "how often each cell is measured; 0: only write the report")
	flag.Float64Var(&m.seconds, "seconds", 1, "for how long, after a warm-up of as long, 2 s at most")
	flag.StringVar(&m.dir, "dir", filepath.Join(os.TempDir(), "raft-bench"), "scratch `directory` on the disk that is to be measured")
	flag.StringVar(&m.out, "out", "../../bin/bench", "`directory` of the results and the report")
	flag.BoolVar(&m.touch, "touch", true, "touch most of the memory before each round: a virtual machine is slow where it was never used")
	flag.BoolVar(&m.profiles, "profiles", false, "write CPU, allocation, mutex and block profiles of each cell; its figures do not count, so name another -out")
	flag.StringVar(&m.ours, "ours", "", "fields of this library's Config as `JSON`, to try other settings: name another -out")
	flag.StringVar(&m.gogc, "gogc", "", "`GOGC` of all cells, likewise")
	readme := flag.String("readme", "", "the Markdown `file` that is to have the tables, between its markers")
	list := flag.Bool("list", false, "print the names of rows and peers")
	flag.Parse()
	var err error
	if m.peers, err = choosePeers(*names); err != nil {
		return err
	}
	if m.rows, err = chooseRows(*pattern); err != nil {
		return err
	}
	if *list {
		m.list()
		return nil
	}
	measured := m.run(ctx)
	if m.failed > 0 {
		measured = errors.Join(measured, fmt.Errorf("%d cells failed; the same command measures them again", m.failed))
	}
	if measured != nil {
		*readme = "" // it keeps its tables
	}
	return errors.Join(measured, writeReport(m.out, *readme))
}
