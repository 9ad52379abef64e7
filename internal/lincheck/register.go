package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/anishathalye/porcupine"
)

// register is what clients did with one register, as the checker of
// linearizability wants it.
type register struct {
	key   string
	calls []porcupine.Operation
}

// never is after the last moment of every history.
const never = math.MaxInt64

// anything is the answer to a call that got none.
const anything = ""

// registersOf sorts the operations of a history by register. What was refused is
// left out: nobody may see anything of it.
//
// Where the outcome is unknown, the answer may be anything, and the moment at
// which it happened any one from the call on. That it has not happened at all needs
// no choice of its own: it is the same as to happen after everything else, where
// nobody sees it. If it only reads, it is left out too: nobody sees it anywhere.
func registersOf(operations []operation) []register {
	calls := map[string][]porcupine.Operation{}
	for _, op := range operations {
		c := op.command
		if op.Outcome == refused || op.Outcome != done && c.verb == "get" {
			continue
		}
		call := porcupine.Operation{Input: c, Call: int64(op.Call), Output: op.Response, Return: int64(op.Return), Metadata: op}
		if op.Outcome != done {
			call.Output, call.Return = anything, never
		}
		calls[c.key] = append(calls[c.key], call)
	}
	var registers []register
	for _, key := range slices.Sorted(maps.Keys(calls)) {
		registers = append(registers, register{key, calls[key]})
	}
	return registers
}

// model is a register. Its state is the value, "-" before the first one. Every
// command is answered with the value before.
var model = porcupine.Model{
	Init: func() any { return "-" },
	Step: func(state, input, output any) (bool, any) {
		c := input.(command)
		switch {
		case output != anything && output != state:
			return false, state
		case c.verb == "put", c.verb == "cas" && state == c.old:
			return true, c.value
		default:
			return true, state
		}
	},
	DescribeOperation: func(input, output any) string {
		if output == anything {
			output = "?"
		}
		switch c := input.(command); c.verb {
		case "put":
			return fmt.Sprintf("put %s, was %s", c.value, output)
		case "cas":
			return fmt.Sprintf("cas %s %s, was %s", c.old, c.value, output)
		default:
			return fmt.Sprintf("get, was %s", output)
		}
	},
	DescribeOperationMetadata: func(metadata any) string {
		op := metadata.(operation)
		return fmt.Sprintf("command %s of client %d at node %d, %s, index %d", op.command.id, op.Client, op.Node, op.Outcome, op.Index)
	},
}

// inRows gives each call a row on the page, so that none hides another: a client
// may call many times at once, and a call of unknown outcome never ends.
func inRows(calls []porcupine.Operation) []porcupine.Operation {
	calls = slices.SortedStableFunc(slices.Values(calls), func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var ends []int64 // of the last call of each row
	for i := range calls {
		row := slices.IndexFunc(ends, func(end int64) bool { return end < calls[i].Call })
		if row < 0 {
			row = len(ends)
			ends = append(ends, 0)
		}
		calls[i].ClientId, ends[row] = row, calls[i].Return
	}
	return calls
}
