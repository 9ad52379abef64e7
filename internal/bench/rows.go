package main

import (
	"fmt"
	"regexp"
)

// kind is what a row measures.
type kind string

const (
	propose      kind = "propose"       // commands, committed and applied on the leader
	leaderRead   kind = "read/leader"   // linearizable reads on the leader
	followerRead kind = "read/follower" // and on another node
	leaseRead    kind = "read/lease"    // by the leader's clock
	election     kind = "election"      // from the leader's end to the next one's first write
	restart      kind = "restart"       // from three processes' start to all of a long log applied
	lag          kind = "lag"           // commands while one follower is dead
	beside       kind = "beside"        // commands beside large ones of others
)

// row is one line of the tables: the same work for every peer.
type row struct {
	Kind     kind `json:"kind"`
	Bytes    int  `json:"bytes"`              // of a command
	Callers  int  `json:"callers,omitempty"`  // who wait for each of their commands, or reads
	Window   int  `json:"window,omitempty"`   // or commands outstanding, of four submitters
	InMemory bool `json:"inMemory,omitempty"` // the logs are in memory: what remains is CPU
	Commands int  `json:"commands,omitempty"` // so many, instead of for a time
	Trials   int  `json:"trials,omitempty"`   // elections in a cell
	Frozen   bool `json:"frozen,omitempty"`   // the leader is stopped, not killed
	Drawn    bool `json:"drawn,omitempty"`    // in the picture, too
}

// largeBytes and largeCallers are the large commands that others are proposed beside.
const (
	largeBytes   = 64 << 10
	largeCallers = 16
)

var rows = allRows()

func allRows() []row {
	var all []row
	for _, bytes := range []int{16, 128, 1024} {
		for _, callers := range []int{1, 16, 256, 4096} {
			all = append(all, row{Kind: propose, Bytes: bytes, Callers: callers, Drawn: bytes == 128 || bytes == 1024 && callers == 256})
		}
		all = append(all, row{Kind: propose, Bytes: bytes, Window: 4096, Drawn: bytes == 128})
	}
	for _, callers := range []int{1, 16, 256} {
		all = append(all, row{Kind: propose, Bytes: largeBytes, Callers: callers, Drawn: callers == largeCallers})
	}
	all = append(all, row{Kind: propose, Bytes: 128, Window: 4096, InMemory: true})
	for _, k := range []kind{leaderRead, followerRead, leaseRead} {
		for _, callers := range []int{1, 256} {
			all = append(all, row{Kind: k, Bytes: 128, Callers: callers})
		}
	}
	return append(all,
		row{Kind: election, Bytes: 128, Trials: 4},
		row{Kind: election, Bytes: 128, Trials: 4, Frozen: true},
		row{Kind: restart, Bytes: 128, Window: 4096, Commands: 1_000_000},
		row{Kind: lag, Bytes: 1024, Callers: 256, Commands: 512 << 10},
		row{Kind: beside, Bytes: 128, Callers: 1})
}

// name is how a row is called in results and chosen with -rows.
func (r row) name() string {
	switch r.Kind {
	case election:
		return fmt.Sprintf("%s/%s", r.Kind, r.end())
	case restart, lag, beside:
		return string(r.Kind)
	case propose:
		where := ""
		if r.InMemory {
			where = "/memory"
		}
		return fmt.Sprintf("%s/%s/%s%s", r.Kind, size(r.Bytes, ""), r.load(), where)
	default:
		return fmt.Sprintf("%s/%s", r.Kind, r.load())
	}
}

// load says who asks.
func (r row) load() string {
	if r.Window > 0 {
		return fmt.Sprintf("%d-async", r.Window)
	}
	return fmt.Sprint(r.Callers)
}

// end says what becomes of the leader.
func (r row) end() string {
	if r.Frozen {
		return "frozen"
	}
	return "killed"
}

// size writes a number of bytes, with something between it and its unit.
func size(bytes int, between string) string {
	if bytes >= 1024 {
		return fmt.Sprintf("%d%sKiB", bytes/1024, between)
	}
	return fmt.Sprintf("%d%sB", bytes, between)
}

// chooseRows returns those whose names match an expression.
func chooseRows(expression string) ([]row, error) {
	pattern, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	var chosen []row
	for _, r := range rows {
		if pattern.MatchString(r.name()) {
			chosen = append(chosen, r)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no row matches %q", expression)
	}
	return chosen, nil
}
