package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/seed-8da499c8/raft"
)

// Reads. The node that was asked answers from its own store, whoever leads, once raft has
// said that this has what the read must not miss. Nothing is written for it.

// levels are what ?consistency= may be.
var levels = map[string]raft.ReadLevel{
	"linearizable": raft.ReadConfirmed,    // never by a clock
	"lease":        raft.ReadLinearizable, // see Config.LeaseReads, which is on
	"stale":        raft.ReadLocal,
}

// serveRead answers with the value of a key.
func (a *api) serveRead(w http.ResponseWriter, r *http.Request, key string) {
	options, err := readOptions(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.timeout)
	defer cancel()
	index, err := a.node.Read(ctx, options)
	if err != nil {
		retryLater(w, fmt.Errorf("reading again does no harm: %w", err)) // whatever it is
		return
	}
	value, exists, at := a.store.read(key)
	index = max(index, at) // what was applied since is seen too
	tellIndex(w, index)    // 0, too
	if !exists {
		answer(w, http.StatusNotFound, body{Outcome: "applied", Index: index, Error: "the key is absent"})
		return
	}
	writeValue(w, http.StatusOK, index, value)
}

// readOptions returns what the parameters ask for.
func readOptions(r *http.Request) (o raft.ReadOptions, err error) {
	query, err := readQuery(r, "consistency", "min-index", "max-staleness")
	if err != nil {
		return o, err
	}
	level, known := levels[cmp.Or(query.Get("consistency"), "linearizable")]
	if o.Level = level; !known {
		err = errors.New("parameter consistency: want linearizable, lease or stale")
	}
	if query.Has("min-index") {
		n, e := strconv.ParseUint(query.Get("min-index"), 10, 64)
		o.MinIndex, err = raft.Index(n), errors.Join(err, named("parameter min-index", e))
	}
	if query.Has("max-staleness") {
		var e error
		if o.MaxStaleness, e = time.ParseDuration(query.Get("max-staleness")); e == nil && o.MaxStaleness < 0 {
			e = fmt.Errorf("%v is less than nothing", o.MaxStaleness)
		}
		if e == nil && o.Level == raft.ReadLocal {
			e = errors.New("a stale read asks nobody, so nobody knows how stale it is")
		}
		err = errors.Join(err, named("parameter max-staleness", e))
	}
	return o, err
}
