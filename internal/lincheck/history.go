package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// operation is what a client did and how it went, a line of a history.
type operation struct {
	Client   int           `json:"client"`
	Node     int           `json:"node"`
	Call     time.Duration `json:"call"`
	Return   time.Duration `json:"return"` // counts if it is done
	Command  string        `json:"command"`
	Outcome  string        `json:"outcome"`
	Index    uint64        `json:"index"`
	Response string        `json:"response"` // of one that is done: the value before

	command command
}

// The outcomes: what the client knows in the end.
const (
	done    = "done"
	refused = "refused" // it has not happened, and never will
	unknown = "unknown"
	pending = "pending" // unknown too: there was no answer at all
)

// command is what a register is asked to do, in words:
//
//	ID get KEY            read it
//	ID put KEY VALUE      set it
//	ID cas KEY OLD VALUE  set it if its value is OLD
type command struct{ id, verb, key, old, value string }

// readHistory reads all operations, and believes no line that it does not
// understand in full.
func readHistory(r io.Reader) ([]operation, error) {
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	var operations []operation
	for {
		var op operation
		err := decoder.Decode(&op)
		if err == io.EOF {
			break
		}
		if err == nil {
			err = op.understand()
		}
		if err != nil {
			return nil, fmt.Errorf("operation %d: %w", len(operations)+1, err)
		}
		operations = append(operations, op)
	}
	if len(operations) == 0 {
		return nil, errors.New("there are no operations in it")
	}
	return operations, nil
}

// understand checks an operation, and takes its command apart.
func (op *operation) understand() (err error) {
	switch op.Outcome {
	case done:
		if op.Return < op.Call {
			return fmt.Errorf("it returned at %d, and was called at %d", op.Return, op.Call)
		}
		if op.Response == "" {
			return errors.New("it is done, and has no response")
		}
	case refused, unknown, pending:
	default:
		return fmt.Errorf("%q is no outcome", op.Outcome)
	}
	op.command, err = parseCommand(op.Command)
	return err
}

func parseCommand(s string) (command, error) {
	words := strings.Fields(s)
	switch {
	case len(words) == 3 && words[1] == "get":
		return command{id: words[0], verb: "get", key: words[2]}, nil
	case len(words) == 4 && words[1] == "put":
		return command{id: words[0], verb: "put", key: words[2], value: words[3]}, nil
	case len(words) == 5 && words[1] == "cas":
		return command{id: words[0], verb: "cas", key: words[2], old: words[3], value: words[4]}, nil
	default:
		return command{}, fmt.Errorf("%q is no command", s)
	}
}
