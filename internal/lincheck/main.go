// Lincheck checks whether what clients saw of a cluster is linearizable: as if
// each operation had happened at once, at some moment between its call and its
// return. It reads histories that the simulation writes with -sim.histories, one
// JSON object in a line:
//
//	go run . [-timeout 30s] [-html DIR] DIR|FILE...
//
// It takes the word of nobody but the clients: when they called, what for, when
// they had an answer, and which. It does not know in what order the cluster
// applied their commands, and shares no code with those who wrote the history; so
// it is a second opinion on the order that they found.
//
// It fails if a history is not linearizable, and also if it could not find out in
// time, cannot be read, or if there is none.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

func main() {
	c := checker{out: os.Stdout}
	flag.DurationVar(&c.timeout, "timeout", 30*time.Second, "how long to search for an order of the operations on one register; 0: without end")
	flag.StringVar(&c.html, "html", "", "the `directory` for a page about each register that is not linearizable")
	flag.Parse()
	if err := c.run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "lincheck:", err)
		os.Exit(1)
	}
}

// checker checks one history after another and counts.
type checker struct {
	timeout time.Duration
	html    string
	out     io.Writer

	histories, operations, unknown, refused int
	registers, illegal, undecided           int
}

func (c *checker) run(args []string) error {
	names, err := find(args)
	if err != nil {
		return err
	}
	began := time.Now()
	for _, name := range names {
		if err := c.check(name); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.out, "%d histories, %d operations, %d of them of unknown outcome and %d refused: %d registers in %v\n",
		c.histories, c.operations, c.unknown, c.refused, c.registers, time.Since(began).Round(time.Millisecond))
	if c.illegal > 0 || c.undecided > 0 {
		return fmt.Errorf("of %d registers %d are not linearizable, and %d are undecided", c.registers, c.illegal, c.undecided)
	}
	return nil
}

// find returns the files that are meant: those named, and the histories in the
// directories named. To have checked nothing is not to have found nothing wrong.
func find(args []string) ([]string, error) {
	if len(args) == 0 {
		return nil, errors.New("name histories, or directories of them")
	}
	var names []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			names = append(names, arg)
			continue
		}
		before := len(names)
		entries, err := os.ReadDir(arg)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			if filepath.Ext(entry.Name()) == ".jsonl" {
				names = append(names, filepath.Join(arg, entry.Name()))
			}
		}
		if len(names) == before {
			return nil, fmt.Errorf("%s has no histories, which are files *.jsonl", arg)
		}
	}
	return names, nil
}

// check checks the registers of one history, each for itself: a history is
// linearizable if and only if each of its registers is.
func (c *checker) check(name string) error {
	registers, err := c.read(name)
	if err != nil {
		return err
	}
	c.histories++
	for _, r := range registers {
		c.registers++
		switch porcupine.CheckOperationsTimeout(model, r.calls, c.timeout) {
		case porcupine.Illegal:
			c.illegal++
			fmt.Fprintf(c.out, "%s: register %s is not linearizable\n", name, r.key)
			if err := c.draw(name, r); err != nil {
				return err
			}
		case porcupine.Unknown:
			c.undecided++
			fmt.Fprintf(c.out, "%s: register %s is undecided after %v\n", name, r.key, c.timeout)
		}
	}
	return nil
}

// read reads a history, and counts what is in it.
func (c *checker) read(name string) ([]register, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	operations, err := readHistory(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, op := range operations {
		c.operations++
		switch op.Outcome {
		case refused:
			c.refused++
		case pending, unknown:
			c.unknown++
		}
	}
	return registersOf(operations), nil
}

// draw writes a page, if there are to be pages, that shows how far an order of the
// operations could be found. That search keeps much more than one that only
// decides, so it is made for those that need it.
func (c *checker) draw(name string, r register) error {
	if c.html == "" {
		return nil
	}
	if err := os.MkdirAll(c.html, 0o777); err != nil {
		return err
	}
	_, info := porcupine.CheckOperationsVerbose(model, inRows(r.calls), c.timeout)
	page := filepath.Join(c.html, strings.TrimSuffix(filepath.Base(name), ".jsonl")+"-"+r.key+".html")
	if err := porcupine.VisualizePath(model, info, page); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "see %s\n", page)
	return nil
}
