package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-8da499c8/raft"
)

const (
	// maxValueBytes is the size of the largest value.
	maxValueBytes = 1 << 20

	// maxHeaderBytes bounds the request line and the headers, and with them
	// the key and the old value of a compare-and-set.
	maxHeaderBytes = 64 << 10

	// maxCommandBytes leaves room for a value and all that the headers may hold.
	maxCommandBytes = maxValueBytes + 2*maxHeaderBytes
)

// api serves the store over HTTP.
//
//	GET    /kv/{key}            200 and the value, or 404; see below
//	PUT    /kv/{key}            sets the value to the body
//	DELETE /kv/{key}            200, or 404
//	POST   /kv/{key}?if=old     sets the value to the body if it is old now, else 409, or 404
//	POST   /kv/{key}?if-absent  sets the value to the body if there is none, else 409
//	POST   /kv/{key}?add=n      adds to a number, 0 if there is none, and answers with the
//	                            sum, else 409
//	POST   /sessions            opens a session of writes, and answers with its id
//	DELETE /sessions/{id}       closes it
//	GET    /status              what this node knows about the cluster
//	POST   /snapshot            has this node take a snapshot now
//	GET    /members             the members, as this node knows them
//	POST   /members?id=&raft=&http=
//	                            adds a voter, once it has caught up; with &role=learner a
//	                            member that counts for nothing; with &replace=id a voter that
//	                            takes the place of that member; &priority= says how much it is
//	                            preferred as leader. One that there is gets this HTTP address
//	                            and priority
//	DELETE /members/{id}        takes a member out
//	POST   /transfer?to=id      has another voter lead; without to the most up-to-date one
//
// A change of members is refused with 409 while another one goes on, and for an id that
// there is with another address, with 404 for a member that there is not, with 400 if it
// makes no sense, and with 502 if the newcomer does not answer. A transfer that fails is
// a 409.
//
// The old value of a compare-and-set is a part of the URL. URL and headers
// together have room for 64 KiB; beyond that the server answers 431 by itself.
//
// The key is all that follows /kv/, percent-decoded: any bytes, but at least
// one. Values are raw bytes too. The body of a 409 is the present value, so
// that the caller can try again from there.
//
// Any node takes any request, and serves reads by itself. Asked for a write or a change, one
// that does not lead answers 307 with the leader's URL: curl -L and most HTTP clients
// follow it, with method, headers and body.
//
// A read sees all that was written before it began, on any node, and relies on no clock.
// It may do with less:
//
//	?consistency=lease   the same, as long as clocks run at about the same rate; the
//	                     leader asks nobody for it
//	?consistency=stale   what this node has, which asks nobody
//	?max-staleness=2s    all that was written up to then (not if stale)
//	?min-index=n         with each of them: all up to there in any case
//
// Raft-Index, a header of the answer to a write, says where that stands in the log. With it
// as the min-index a client reads its own writes on any node. In the answer to a read it is
// the index up to which the read has seen everything.
//
// A write with the header Idempotency-Key happens once at most, however often and whichever
// node it is sent to; see session.go.
//
// All other answers are JSON, with an outcome that says what a retry may do:
//
//	applied       it happened, on a majority of the nodes at least
//	not_accepted  it did not happen and will not: a retry is safe
//	unknown       it may happen or not: a retry may do it twice, unless it has the same
//	              Idempotency-Key
//	expired       it did not happen now and will not, but may have at an earlier request of
//	              the same Idempotency-Key: its session is no more, with 410
type api struct {
	node     node
	store    *store // the state machine of the node
	founders []member
	timeout  time.Duration // how long a request may wait for a majority
}

// node is what the api needs of a *raft.Node. An interface, so that tests can
// make it fail.
type node interface {
	Propose(ctx context.Context, command []byte) (raft.Result, error)
	Read(ctx context.Context, options raft.ReadOptions) (raft.Index, error)
	TakeSnapshot(ctx context.Context) (raft.Index, error)
	Status() raft.Status
	WatchLeader(ctx context.Context) <-chan raft.Leadership

	OpenSession(ctx context.Context) (*raft.Session, error)
	ProposeInSession(ctx context.Context, at raft.SessionPlace, command []byte) (raft.Result, error)
	CloseSession(ctx context.Context, id raft.Index) error

	AddVoter(ctx context.Context, m raft.Member) error
	AddLearner(ctx context.Context, m raft.Member) error
	RemoveMember(ctx context.Context, id raft.NodeID) error
	ChangeMembers(ctx context.Context, expected raft.Index, changes ...raft.MemberChange) (raft.Index, error)
	TransferLeadership(ctx context.Context, to raft.NodeID) error
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// No http.ServeMux here: it would clean "/kv/a//b" and "/kv/..", which
	// are keys like any other.
	if key, isKey := strings.CutPrefix(r.URL.Path, "/kv/"); isKey {
		a.serveKey(w, r, key)
		return
	}
	page := r.URL.Path
	for _, things := range []string{"/members/", "/sessions/"} {
		if strings.HasPrefix(page, things) {
			page = things + "{id}"
		}
	}
	methods := a.pages()[page]
	switch serve := methods[r.Method]; {
	case methods == nil:
		refuse(w, http.StatusNotFound, errors.New("no such page: use /kv/{key}, /sessions, /status, /snapshot, /members or /transfer"))
	case serve == nil:
		allowed := slices.Sorted(maps.Keys(methods))
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		refuse(w, http.StatusMethodNotAllowed, fmt.Errorf("%s is not for %s: want %s", r.Method, page, list(allowed)))
	case r.Method != http.MethodGet && r.Header.Get(keyHeader) != "":
		refuse(w, http.StatusBadRequest, fmt.Errorf("%s is for writes of /kv/{key}: %s would happen again if it is sent again", keyHeader, page))
	default:
		serve(w, r)
	}
}

// pages are all pages but the keys, by path and method.
func (a *api) pages() map[string]map[string]http.HandlerFunc {
	return map[string]map[string]http.HandlerFunc{
		"/sessions":      {"POST": a.openSession},
		"/sessions/{id}": {"DELETE": a.closeSession},
		"/status":        {"GET": a.serveStatus, "HEAD": a.serveStatus},
		"/snapshot":      {"POST": a.serveSnapshot},
		"/members":       {"GET": a.serveMembers, "HEAD": a.serveMembers, "POST": a.addMember},
		"/members/{id}":  {"DELETE": a.removeMember},
		"/transfer":      {"POST": a.transfer},
	}
}

// serveKey reads or writes the value of a key.
func (a *api) serveKey(w http.ResponseWriter, r *http.Request, key string) {
	switch {
	case key == "":
		refuse(w, http.StatusBadRequest, errors.New("the key is empty: want /kv/{key}"))
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		a.serveRead(w, r, key)
	case r.Method == http.MethodPut, r.Method == http.MethodPost, r.Method == http.MethodDelete:
		a.serveWrite(w, r, key)
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT, POST, DELETE")
		refuse(w, http.StatusMethodNotAllowed, fmt.Errorf("method %s is not served here", r.Method))
	}
}

// serveWrite turns the request into a command, and has it replicated and applied.
func (a *api) serveWrite(w http.ResponseWriter, r *http.Request, key string) {
	at, err := readPlace(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	c, status, err := readCommand(w, r, key)
	if err != nil {
		refuse(w, status, err)
		return
	}
	// Without a majority a proposal would wait for ever: bound it.
	ctx, cancel := context.WithTimeout(r.Context(), a.timeout)
	defer cancel()
	data := c.encode()
	result, err := a.propose(ctx, at, data)
	re, noReply := decodeReply(result.Response)
	switch {
	case errors.Is(err, raft.ErrReplyDropped) && result.Index > 0:
		answer(w, http.StatusConflict, body{Outcome: "applied", Index: result.Index, Error: err.Error()})
	case err != nil:
		a.fail(w, r, err)
	case noReply != nil:
		a.fail(w, r, noReply)
	case re.command != checksum(data):
		refuse(w, http.StatusUnprocessableEntity, fmt.Errorf("%s %s was that of another write", keyHeader, r.Header.Get(keyHeader)))
	default:
		answerWrite(w, c.op, result.Index, re)
	}
}

// answerWrite turns a reply into a response.
func answerWrite(w http.ResponseWriter, op op, index raft.Index, re reply) {
	switch {
	case re.outcome == outcomeAbsent:
		answer(w, http.StatusNotFound, body{Outcome: "applied", Index: index, Error: "the key is absent"})
	case re.outcome == outcomeConflict:
		writeValue(w, http.StatusConflict, index, re.value)
	case op == opAdd:
		writeValue(w, http.StatusOK, index, re.value)
	default:
		answer(w, http.StatusOK, body{Outcome: "applied", Index: index})
	}
}

// readCommand returns the command that a request stands for, or an error with
// its HTTP status.
func readCommand(w http.ResponseWriter, r *http.Request, key string) (command, int, error) {
	c := command{key: key}
	query, err := url.ParseQuery(r.URL.RawQuery)
	alone := func(name string) bool { return len(query) == 1 && len(query[name]) == 1 }
	switch {
	case err != nil:
		return c, http.StatusBadRequest, fmt.Errorf("the query does not parse: %w", err)
	case r.Method != http.MethodPost && len(query) > 0:
		// To ignore a condition would be to overwrite what it protects.
		return c, http.StatusBadRequest, fmt.Errorf("%s takes no parameters: conditions go with POST", r.Method)
	case r.Method == http.MethodDelete:
		c.op = opDelete
		return c, 0, nil
	case r.Method == http.MethodPut:
		c.op = opSet
	case alone("if"):
		c.op, c.old = opSwap, []byte(query.Get("if"))
	case alone("if-absent"):
		c.op = opCreate
	case alone("add"):
		n, err := strconv.ParseInt(query.Get("add"), 10, 64)
		c.op, c.value = opAdd, strconv.AppendInt(nil, n, 10)
		return c, http.StatusBadRequest, named("parameter add", err)
	default:
		return c, http.StatusBadRequest, errors.New("POST wants either ?if=old, ?if-absent or ?add=number; PUT sets a value whatever is there")
	}
	c.value, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxValueBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return c, http.StatusRequestEntityTooLarge, fmt.Errorf("the value is too large: want at most %d bytes", tooLarge.Limit)
	case err != nil:
		return c, http.StatusBadRequest, fmt.Errorf("the body cannot be read: %w", err)
	}
	return c, 0, nil
}

// fail answers a request whose command has no reply. What raft's errors promise
// is passed on: not_accepted only if a retry is safe.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	var notLeader *raft.NotLeaderError
	var refused *raft.ApplyError
	leader := "" // its HTTP address, if this node knows it
	if errors.As(err, &notLeader) {
		leader = a.webs(a.node.Status().Members)[notLeader.Leader]
	}
	switch {
	case leader != "":
		// 307 and not 301 or 302: the client must keep the method and the body.
		// Clients resolve "/.." in a Location, which is part of a key here.
		path := strings.ReplaceAll(r.URL.RequestURI(), "/.", "/%2E")
		w.Header().Set("Location", "http://"+leader+path)
		refuse(w, http.StatusTemporaryRedirect, fmt.Errorf("%s leads: ask http://%s (curl -L does)", notLeader.Leader, leader))
	case errors.Is(err, raft.ErrSessionExpired), errors.Is(err, raft.ErrReplyDropped):
		answer(w, http.StatusGone, body{Outcome: "expired", Error: err.Error()})
	case errors.Is(err, raft.ErrTooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, err)
	case errors.Is(err, raft.ErrNotAccepted):
		retryLater(w, err)
	case errors.As(err, &refused):
		answer(w, http.StatusInternalServerError, body{Outcome: "applied", Index: refused.Index, Error: err.Error()})
	default:
		answer(w, http.StatusGatewayTimeout, body{Outcome: "unknown", Error: err.Error()})
	}
}

// serveStatus shows what this node knows, which is not linearizable: another
// node may know more.
func (a *api) serveStatus(w http.ResponseWriter, _ *http.Request) {
	s := a.node.Status()
	writeJSON(w, struct {
		raft.Status
		HTTP map[raft.NodeID]string `json:"http"`
	}{s, a.webs(s.Members)})
}

// writeJSON answers with JSON for people.
func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(v) // an error means that the client has gone
}

// serveSnapshot has this node take a snapshot, whether it leads or not. One that
// takes long is taken also if nobody waits for it any more: /status will show it.
func (a *api) serveSnapshot(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), a.timeout)
	defer cancel()
	_, err := a.node.TakeSnapshot(ctx)
	switch {
	case err == nil:
		s := a.node.Status() // it may have a newer one by now
		answer(w, http.StatusOK, body{Outcome: "applied", Index: s.SnapshotIndex, Bytes: s.SnapshotBytes})
	case errors.Is(err, raft.ErrNotAccepted), ctx.Err() != nil:
		a.fail(w, r, err)
	default: // a full disk, for example
		refuse(w, http.StatusInternalServerError, err)
	}
}

// body is the JSON of every answer that is not a value.
type body struct {
	Outcome string     `json:"outcome"`
	Index   raft.Index `json:"index,omitempty"` // where the command stands in the log; the last one in a snapshot
	Bytes   uint64     `json:"bytes,omitempty"` // of a snapshot
	Error   string     `json:"error,omitempty"`
}

// retryLater answers a request that changed nothing and never will, and may be repeated.
func retryLater(w http.ResponseWriter, err error) {
	w.Header().Set("Retry-After", "1") // seconds: about two elections
	refuse(w, http.StatusServiceUnavailable, err)
}

// refuse answers a request that changed nothing and never will.
func refuse(w http.ResponseWriter, status int, err error) {
	answer(w, status, body{Outcome: "not_accepted", Error: err.Error()})
}

func answer(w http.ResponseWriter, status int, b body) {
	w.Header().Set("Content-Type", "application/json")
	if b.Index > 0 {
		tellIndex(w, b.Index)
	}
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(b) // an error means that the client has gone
}

func writeValue(w http.ResponseWriter, status int, index raft.Index, value []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	tellIndex(w, index)
	w.WriteHeader(status)
	w.Write(value) // an error means that the client has gone
}

// tellIndex says where a write stands in the log, or what a read has seen.
func tellIndex(w http.ResponseWriter, index raft.Index) {
	w.Header().Set("Raft-Index", strconv.FormatUint(uint64(index), 10))
}
