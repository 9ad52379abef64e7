package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft"
)

// membership is what /members shows.
type membership struct {
	ConfigurationIndex raft.Index  `json:"configuration_index"`
	Changing           bool        `json:"changing"`
	Leader             raft.NodeID `json:"leader"`
	Members            []struct {
		ID         raft.NodeID `json:"id"`
		Raft, HTTP string
		Role       raft.MemberRole `json:"role"`
		Priority   uint8           `json:"priority"`
	} `json:"members"`
}

// roles lists the members.
func (m membership) roles() string {
	var words []string
	for _, one := range m.Members {
		words = append(words, fmt.Sprintf("%s:%s", one.ID, one.Role))
	}
	return strings.Join(words, " ")
}

func members(address string) (m membership, err error) {
	r, err := try(http.DefaultClient, address, "GET", "/members", "")
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal([]byte(r.body), &m)
}

// TestReadmeChangesTheMembers does what README.md says, each node in a serve of its
// own, at ports that are free.
func TestReadmeChangesTheMembers(t *testing.T) {
	t.Parallel()
	addresses := freeAddresses(t, 8)
	var replace []string
	for i := range 4 {
		replace = append(replace, fmt.Sprint("127.0.0.1:500", i+1), addresses[2*i], fmt.Sprint("127.0.0.1:800", i+1), addresses[2*i+1])
	}
	here := strings.NewReplacer(replace...)
	peers, dir, outputs := here.Replace(defaultPeers), t.TempDir(), map[string]*safeBuffer{}
	start := func(id string, more ...string) {
		o, err := parseFlags(append(more, "-id", id, "-peers", peers, "-data", filepath.Join(dir, id)), io.Discard)
		require.NoError(t, err)
		outputs[id], _ = serveInBackground(t, o)
	}
	for _, id := range []string{"a", "b", "c"} {
		start(id)
	}
	curl := client(t)
	require.Equal(t, 200, do(t, curl, addresses[1], "PUT", "/kv/hello", "world").code)

	want := []string{"a:voter b:voter c:voter", "b:voter d:voter"}
	for _, line := range readmeLines(t, "A fourth node can join", "\n## ") {
		line = here.Replace(line)
		if _, flags, ok := strings.Cut(line, "kv_store -id d "); ok {
			start("d", strings.Fields(flags)...)
			continue
		}
		c := parseCurl(t, line)
		r := do(t, curl, c.address, c.method, c.path, c.content)
		require.Equal(t, 200, r.code, "%s: %s", line, r.body)
		if c.method == "GET" {
			var shown membership
			require.NoError(t, json.Unmarshal([]byte(r.body), &shown))
			require.Equal(t, want[0], shown.roles())
			want = want[1:]
		}
	}
	require.Empty(t, want)
	for _, id := range []string{"a", "c"} {
		await(t, id+" to end", func() bool { return strings.Contains(outputs[id].String(), "Node "+id+" was removed from the cluster") })
	}

	// They know each other's HTTP addresses, the founder's and the newcomer's.
	for _, at := range []int{3, 7} {
		require.Equal(t, "world", do(t, curl, addresses[at], "GET", "/kv/hello", "").body)
		for _, to := range []string{"b", "d"} {
			require.Equal(t, 200, do(t, curl, addresses[at], "POST", "/transfer?to="+to, "").code)
			require.Equal(t, 200, do(t, curl, addresses[at], "PUT", "/kv/hello", "world").code)
		}
	}

	// a comes back with the data that it has.
	start("a", "-join", "-raft", addresses[0], "-http", addresses[1])
	path := "/members?id=a&raft=" + addresses[0] + "&http=" + addresses[1]
	r := do(t, curl, addresses[3], "POST", path, "")
	require.Equal(t, 200, r.code, r.body)
	for path, code := range map[string]int{
		"id=a&raft=host:1&http=host:2":               409, // at another address
		"id=e&raft=host:1&http=host:2&replace=x":     404,
		"id=e!&raft=host:1&http=host:2":              400,
		"id=e&raft=" + addresses[0] + "&http=host:2": 400, // of another member
	} {
		r := do(t, curl, addresses[1], "POST", "/members?"+path, "")
		require.Equal(t, code, r.code, "%s: %s", path, r.body)
	}
	require.Equal(t, 404, do(t, curl, addresses[1], "DELETE", "/members/x", "").code)
	require.Equal(t, 404, do(t, curl, addresses[1], "POST", "/transfer?to=x", "").code)

	// One that there is gets another priority.
	require.Equal(t, 200, do(t, curl, addresses[3], "POST", path+"&priority=7", "").code)
	await(t, "a to know", func() bool {
		shown, err := members(addresses[1])
		return err == nil && shown.roles() == "a:voter b:voter d:voter" && shown.Members[0].Priority == 7 && shown.Members[0].HTTP == addresses[1] && !shown.Changing
	})
}

func TestRequestsForMembersThatMakeNoSense(t *testing.T) {
	for path, want := range map[string]string{
		"/members":                                               "parameter raft",
		"/members?raft=h:1&http=h:2":                             "parameter id",
		"/members?id=x&raft=h&http=h:2":                          "parameter raft: address h",
		"/members?id=x&raft=h:1&http=:2":                         "parameter http: address :2",
		"/members?id=x&raft=h:1&http=h:2&role=leaving":           "want voter or learner",
		"/members?id=x&raft=h:1&http=h:2&role=king":              `"king" is not the role`,
		"/members?id=x&raft=h:1&http=h:2&priority=256":           "out of range",
		"/members?id=x&raft=h:1&http=h:2&replaces=y":             `parameter "replaces", 1 times`,
		"/members?id=x&id=y&raft=h:1&http=h:2":                   `parameter "id", 2 times`,
		"/members?id=x&raft=h:1&http=h:2&role=learner&replace=y": "a learner replaces nobody",
		"/members?id=%zz":                                        "does not parse",
		"/transfer?from=x":                                       `parameter "from"`,
	} {
		a := &api{failingNode{}, newStore(), nil, time.Second}
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest("POST", path, nil))
		require.Equal(t, 400, w.Code, "%s: %s", path, w.Body)
		var b body
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &b))
		require.Contains(t, b.Error, want, path)
	}
}

func TestChangesOfMembersThatFail(t *testing.T) {
	for _, test := range []struct {
		err      error
		code     int
		outcome  string
		location string
	}{
		{nil, 200, "applied", ""},
		{raft.ErrChangeInProgress, 409, "not_accepted", ""},
		{&raft.ConfigurationMismatchError{}, 409, "not_accepted", ""},
		{raft.ErrMemberExists, 409, "not_accepted", ""},
		{raft.ErrTransferFailed, 409, "not_accepted", ""},
		{raft.ErrUnknownMember, 404, "not_accepted", ""},
		{raft.ErrInvalidChange, 400, "not_accepted", ""},
		{raft.ErrCannotFollow, 502, "not_accepted", ""},
		{raft.ErrStopped, 503, "not_accepted", ""},
		{&raft.NotLeaderError{Leader: "c"}, 307, "not_accepted", "http://web-c"},
		{&raft.OutcomeUnknownError{Cause: &raft.NotLeaderError{Leader: "c"}}, 504, "unknown", ""},
		{errors.New("surprise"), 504, "unknown", ""},
	} {
		for _, request := range []string{
			"POST /members?id=x&raft=h:1&http=h:2", "POST /members?id=x&raft=h:1&http=h:2&role=learner",
			"POST /members?id=x&raft=h:1&http=h:2&replace=b", "DELETE /members/b", "POST /transfer?to=b",
		} {
			if test.err == nil && strings.Contains(request, "replace") {
				continue // it would wait for a learner
			}
			method, path, _ := strings.Cut(request, " ")
			a := &api{failingNode{test.err}, newStore(), failingFounders, time.Second}
			w := httptest.NewRecorder()
			a.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			got := response{w.Code, w.Body.String(), w.Header()}
			require.Equal(t, test.code, got.code, "%s: %v: %s", request, test.err, got.body)
			require.Equal(t, test.outcome, got.json(t).Outcome)
			if test.location != "" {
				test.location = "http://web-c" + path
			}
			require.Equal(t, test.location, got.header.Get("Location"))
		}
	}
}

// catchingUp leads a learner.
type catchingUp struct {
	failingNode
	statuses *[]raft.Status // one after the other; the last one stays
	changed  *[]raft.MemberChange
}

func (n catchingUp) Status() raft.Status {
	s := (*n.statuses)[0]
	if len(*n.statuses) > 1 {
		*n.statuses = (*n.statuses)[1:]
	}
	return s
}

func (n catchingUp) ChangeMembers(_ context.Context, _ raft.Index, changes ...raft.MemberChange) (raft.Index, error) {
	*n.changed = changes
	return 1, nil
}

// The newcomer takes the place of another member once it has caught up, or never.
func TestReplacementWaitsForTheNewcomer(t *testing.T) {
	leads := func(match raft.Index, contact time.Duration) raft.Status {
		return raft.Status{Role: raft.Leader, LastIndex: 9, Members: failingNode{}.Status().Members,
			Peers: []raft.PeerStatus{{ID: "x", Match: match, LastContact: contact, Trouble: "nobody home"}}}
	}
	for name, test := range map[string]struct {
		then raft.Status
		code int
		want string
	}{
		"it catches up":   {leads(9, 0), 200, "applied"},
		"it is not there": {leads(0, time.Minute), 502, "x has not answered for 1m0s: nobody home"},
		"it is taken out": {raft.Status{Role: raft.Leader, LastIndex: 9}, 404, "taken out meanwhile"},
		"another leads":   {raft.Status{Leader: "c", Members: failingNode{}.Status().Members}, 307, "c leads"},
	} {
		t.Run(name, func(t *testing.T) {
			statuses, changed := []raft.Status{leads(0, 0), leads(0, 0), leads(0, 0), leads(8, 0), test.then}, []raft.MemberChange(nil)
			a := &api{catchingUp{failingNode{}, &statuses, &changed}, newStore(), failingFounders, time.Second}
			w := httptest.NewRecorder()
			a.ServeHTTP(w, httptest.NewRequest("POST", "/members?id=x&raft=h:1&http=h:2&replace=b", nil))
			require.Equal(t, test.code, w.Code, "%s", w.Body)
			require.Contains(t, w.Body.String(), test.want)
			require.Equal(t, test.code == 200, len(changed) == 2)
		})
	}
}
