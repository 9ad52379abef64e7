package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// open opens a session.
func open(t *testing.T, c *http.Client, address string) (id string) {
	t.Helper()
	r := do(t, c, address, "POST", "/sessions", "")
	require.Equal(t, 200, r.code, "%s", r.body)
	require.Equal(t, r.body, r.header.Get("Raft-Index"))
	return r.body
}

// under returns the header of a write.
func under(key string) http.Header { return http.Header{keyHeader: {key}} }

// testSessions sends writes more than once, each time to another node: they are
// executed once, and the answers are the same.
func testSessions(t *testing.T, cluster *testCluster) {
	curl := client(t)
	id := open(t, curl, cluster.members[1].http)
	require.NotEqual(t, id, open(t, curl, cluster.members[2].http))
	tests := []struct {
		method, path, content string
		code                  int
		want                  string // the value; empty: JSON
	}{
		{"POST", "/kv/once?add=5", "", 200, "5"},
		{"POST", "/kv/once?add=5", "", 200, "10"},
		{"PUT", "/kv/once", "text", 200, ""},
		{"POST", "/kv/once?if=other", "w", 409, "text"},
		{"POST", "/kv/once?add=1", "", 409, "text"},
		{"DELETE", "/kv/once", "", 200, ""},
		{"DELETE", "/kv/once", "", 404, ""},
		{"POST", "/kv/once?if-absent", "w", 200, ""},
	}
	answers := make([]response, len(tests))
	for i, test := range tests {
		for try := range 3 {
			r := do(t, curl, cluster.members[(i+try)%3].http, test.method, test.path, test.content, under(fmt.Sprint(id, "-", i+1)))
			require.Equal(t, test.code, r.code, "%+v: %s", test, r.body)
			if try == 0 {
				answers[i] = r
			}
			require.Equal(t, answers[i].body, r.body)
			require.Equal(t, answers[i].header.Get("Raft-Index"), r.header.Get("Raft-Index"))
			if test.want != "" {
				require.Equal(t, test.want, r.body)
			}
		}
	}
	require.Equal(t, "w", do(t, curl, cluster.members[0].http, "GET", "/kv/once", "").body)

	// Another write, one that was left behind, and one of a session that is no more.
	at := cluster.members[2].http
	other := do(t, curl, at, "PUT", "/kv/once", "other", under(id+"-3"))
	require.Equal(t, 422, other.code, "%s", other.body)
	require.Equal(t, "not_accepted", other.json(t).Outcome)
	require.Equal(t, 200, do(t, curl, at, "PUT", "/kv/once", "x", http.Header{keyHeader: {id + "-11"}, awaitedHeader: {"10"}}).code)
	for _, key := range []string{id + "-9", "999999999-1"} {
		gone := do(t, curl, at, "PUT", "/kv/once", "gone", under(key))
		require.Equal(t, 410, gone.code, "%s: %s", key, gone.body)
		require.Equal(t, "expired", gone.json(t).Outcome)
	}
	for range 2 {
		require.Equal(t, 200, do(t, curl, at, "DELETE", "/sessions/"+id, "").code)
	}
	require.Equal(t, 410, do(t, curl, at, "PUT", "/kv/once", "gone", under(id+"-11")).code)
	require.Equal(t, "x", do(t, curl, cluster.members[0].http, "GET", "/kv/once", "").body)
}

// handle has a node answer a request, such as "PUT /kv/k".
func handle(n node, request string, header http.Header) response {
	method, path, _ := strings.Cut(request, " ")
	r := httptest.NewRequest(method, path, nil)
	r.Header = header
	w := httptest.NewRecorder()
	(&api{n, newStore(), failingFounders, time.Second}).ServeHTTP(w, r)
	return response{w.Code, w.Body.String(), w.Header()}
}

func TestPlacesInSessions(t *testing.T) {
	for _, test := range []struct {
		key, awaited string
		want         raft.SessionPlace
	}{
		{"", "", raft.SessionPlace{}},
		{"7-1", "", raft.SessionPlace{Session: 7, Sequence: 1, FirstAwaited: 1}},
		{"7-256", "", raft.SessionPlace{Session: 7, Sequence: 256, FirstAwaited: 1}},
		{"7-257", "", raft.SessionPlace{Session: 7, Sequence: 257, FirstAwaited: 2}},
		{"7-257", "257", raft.SessionPlace{Session: 7, Sequence: 257, FirstAwaited: 257}},
		{"18446744073709551615-18446744073709551615", "", raft.SessionPlace{Session: 1<<64 - 1, Sequence: 1<<64 - 1, FirstAwaited: 1<<64 - 256}},
	} {
		r := httptest.NewRequest("PUT", "/kv/k", nil)
		r.Header.Set(keyHeader, test.key)
		r.Header.Set(awaitedHeader, test.awaited)
		got, err := readPlace(r)
		require.NoError(t, err)
		require.Equal(t, test.want, got, "%+v", test)
	}
	for _, bad := range []http.Header{
		{keyHeader: {"7"}}, {keyHeader: {"7-"}}, {keyHeader: {"-1"}}, {keyHeader: {"7-0"}}, {keyHeader: {"0-7"}}, {keyHeader: {"7-x"}},
		{keyHeader: {"7--1"}}, {keyHeader: {"7-1-1"}}, {keyHeader: {"7-18446744073709551616"}}, {keyHeader: {"7-1", "7-2"}},
		{keyHeader: {"7-1"}, awaitedHeader: {"0"}}, {keyHeader: {"7-1"}, awaitedHeader: {"2"}}, {keyHeader: {"7-257"}, awaitedHeader: {"1"}},
		{awaitedHeader: {"1"}},
	} {
		for _, request := range []string{"PUT /kv/k", "POST /kv/k?add=1", "DELETE /kv/k"} {
			got := handle(failingNode{}, request, bad)
			require.Equal(t, 400, got.code, "%s %v: %s", request, bad, got.body)
			require.Contains(t, got.body, "want ")
		}
	}
	// What no session makes safe to repeat does not look as if it were.
	for _, request := range []string{"POST /sessions", "DELETE /sessions/1", "POST /members", "DELETE /members/a", "POST /transfer", "POST /snapshot"} {
		got := handle(failingNode{}, request, under("7-1"))
		require.Equal(t, 400, got.code, "%s: %s", request, got.body)
		require.Contains(t, got.body, "is for writes of")
	}
}

// A write that was executed is not done again if the answer is lost for good.
type forgetfulNode struct{ failingNode }

func (forgetfulNode) ProposeInSession(context.Context, raft.SessionPlace, []byte) (raft.Result, error) {
	return raft.Result{Index: 7, Term: 2}, raft.ErrReplyDropped
}

func TestAnswersThatAreNotKept(t *testing.T) {
	got := handle(forgetfulNode{}, "POST /kv/k?add=1", under("7-1"))
	require.Equal(t, 409, got.code)
	require.Equal(t, "applied", got.json(t).Outcome)
	require.Equal(t, raft.Index(7), got.json(t).Index)
	require.Equal(t, "7", got.header.Get("Raft-Index"))
	require.Contains(t, got.json(t).Error, "not kept")
}

// deposedNode leads, if it does, until it is asked for something.
type deposedNode struct {
	failingNode
	watch chan raft.Leadership
}

func (n deposedNode) WatchLeader(context.Context) <-chan raft.Leadership { return n.watch }

func (n deposedNode) CloseSession(ctx context.Context, _ raft.Index) error {
	n.watch <- raft.Leadership{Leader: "b"}
	<-ctx.Done()
	return n.err
}

func (n deposedNode) ProposeInSession(ctx context.Context, at raft.SessionPlace, _ []byte) (raft.Result, error) {
	return raft.Result{}, n.CloseSession(ctx, at.Session)
}

// Whoever waits in a session for a node to lead again is sent on to the node that does.
func TestNobodyWaitsForADeposedLeader(t *testing.T) {
	for _, test := range []struct {
		first    raft.Leadership
		err      error
		code     int
		location string
	}{
		{raft.Leadership{Leader: "b"}, errors.New("not asked"), 307, "http://web-b"},
		{raft.Leadership{}, errors.New("not asked"), 503, ""},
		{raft.Leadership{IsSelf: true}, &raft.NotLeaderError{Leader: "b"}, 307, "http://web-b"},
		{raft.Leadership{IsSelf: true}, &raft.OutcomeUnknownError{Cause: context.Canceled}, 504, ""},
	} {
		for _, request := range []string{"PUT /kv/k", "DELETE /sessions/7"} {
			watch := make(chan raft.Leadership, 1)
			watch <- test.first
			header := under("7-1")
			if strings.Contains(request, "sessions") {
				header = http.Header{}
			}
			began := time.Now()
			got := handle(deposedNode{failingNode{test.err}, watch}, request, header)
			require.Equal(t, test.code, got.code, "%s: %+v: %s", request, test, got.body)
			if test.location != "" {
				test.location = "http://web-b" + strings.Fields(request)[1]
			}
			require.Equal(t, test.location, got.header.Get("Location"))
			require.Less(t, time.Since(began), time.Second, "the whole time that a request has")
			close(watch)
		}
	}
}
