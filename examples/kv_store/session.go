package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/seed-8da499c8/raft"
)

// Writes that are executed once, however often they are sent. A client opens a session,
// numbers its writes from 1 on, and sends each with a header:
//
//	Idempotency-Key: <session>-<number>
//
// If no answer comes, or one that does not settle it, the client sends the same write with
// the same key again, to whichever node, until it gets an answer that does: that to the first
// one that was executed, whichever it was.
//
// A client that waits for several answers at once sends the writes in any order. It may wait
// for those to the latest 256, and by default all of these are kept for it. It can say that
// it needs less:
//
//	Idempotency-First-Awaited: <lowest number that is not answered yet>
//
// The nodes have room for a number of sessions: the one that was not used for longest
// expires. A client that gets 410 for that opens another session, and has to find out by
// itself what has become of the writes that were not answered. For answers there is room
// too: of a write whose answer is not kept any more a 409 in JSON says that it was executed
// once, and where. Another write under the key of one that was executed is refused with 422.

const (
	keyHeader     = "Idempotency-Key"
	awaitedHeader = "Idempotency-First-Awaited"

	// sessionWindow is how many commands of a session a client may wait for.
	sessionWindow = 256
)

// readPlace returns where a write stands in a session, the zero place if it is in none.
func readPlace(r *http.Request) (raft.SessionPlace, error) {
	key, awaited := strings.Join(r.Header.Values(keyHeader), ", "), strings.Join(r.Header.Values(awaitedHeader), ", ")
	if key == "" && awaited == "" {
		return raft.SessionPlace{}, nil
	}
	session, number, _ := strings.Cut(key, "-")
	id, err := positive(session)
	n, e := positive(number)
	err = errors.Join(err, e)
	first := n - min(n, sessionWindow) + 1
	if awaited != "" {
		first, e = positive(awaited)
		err = errors.Join(err, e)
	}
	switch {
	case err != nil:
		return raft.SessionPlace{}, fmt.Errorf("%s %q, %s %q: want <session>-<number>, and a number or nothing; all from 1 on", keyHeader, key, awaitedHeader, awaited)
	case first > n || n-first >= sessionWindow:
		return raft.SessionPlace{}, fmt.Errorf("%s %q, %s %q: want one of the %d numbers from that on", keyHeader, key, awaitedHeader, awaited, sessionWindow)
	default:
		return raft.SessionPlace{Session: raft.Index(id), Sequence: n, FirstAwaited: first}, nil
	}
}

// positive reads a number from 1 on.
func positive(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && n == 0 {
		err = errors.New("0: want a number from 1 on")
	}
	return n, err
}

// propose has a command replicated and executed, at a place in a session if it has one.
func (a *api) propose(ctx context.Context, at raft.SessionPlace, command []byte) (result raft.Result, err error) {
	if at.Session == 0 {
		return a.node.Propose(ctx, command)
	}
	err = a.whileLeading(ctx, func(ctx context.Context) error {
		result, err = a.node.ProposeInSession(ctx, at, command)
		return err
	})
	return result, err
}

// whileLeading does what raft would try again once this node leads: as soon as another one
// does that ends, and the client is sent on.
func (a *api) whileLeading(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := a.node.WatchLeader(ctx)
	if present := <-watch; !present.IsSelf {
		return &raft.NotLeaderError{Leader: present.Leader, Address: present.Address}
	}
	go func() {
		for present := range watch {
			if present.Leader != "" && !present.IsSelf {
				cancel()
			}
		}
	}()
	return do(ctx)
}

// openSession opens a session. What nobody uses since the answer was lost expires in time.
func (a *api) openSession(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), a.timeout)
	defer cancel()
	session, err := a.node.OpenSession(ctx)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	id := session.ID()
	writeValue(w, http.StatusOK, id, strconv.AppendUint(nil, uint64(id), 10))
}

// closeSession closes a session, and does no harm if it is no more.
func (a *api) closeSession(w http.ResponseWriter, r *http.Request) {
	id, err := positive(strings.TrimPrefix(r.URL.Path, "/sessions/"))
	if err != nil {
		refuse(w, http.StatusBadRequest, named("session", err))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.timeout)
	defer cancel()
	err = a.whileLeading(ctx, func(ctx context.Context) error { return a.node.CloseSession(ctx, raft.Index(id)) })
	if err != nil {
		a.fail(w, r, err)
		return
	}
	answer(w, http.StatusOK, body{Outcome: "applied"})
}
