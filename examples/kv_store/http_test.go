package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/seed-8da499c8/raft"
)

// patience bounds every wait of the tests. An election takes a second; the rest
// is for slow machines.
const patience = 20 * time.Second

// testCluster is three replicas with HTTP on loopback, whose nodes talk over a
// network that can be broken.
type testCluster struct {
	members []member
	network *raft.MemoryNetwork
}

func startCluster(t *testing.T, electionTimeout time.Duration) *testCluster {
	t.Helper()
	c := &testCluster{network: raft.NewMemoryNetwork()}
	listeners := map[raft.NodeID]net.Listener{}
	for _, id := range []raft.NodeID{"a", "b", "c"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listeners[id] = l
		c.members = append(c.members, member{id, string(id), l.Addr().String()})
	}
	logger := zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for id, l := range listeners {
		o := options{members: c.members, data: dir, segment: 4 << 20}
		config := o.config(id)
		config.ElectionTimeout = electionTimeout
		config.Logger = logger
		r, err := newReplica(config, o.members, c.network.Transport(id))
		require.NoError(t, err)
		running.Go(func() { assert.NoError(t, r.run(ctx, l)) })
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return c
}

// leader waits until a node leads and the others follow it.
func (c *testCluster) leader(t *testing.T) (leader member, followers []member) {
	t.Helper()
	await(t, "a leader that the others follow", func() bool {
		leader, followers = member{}, nil
		known := map[raft.NodeID]bool{}
		for _, m := range c.members {
			s, err := status(m.http)
			require.NoError(t, err)
			known[s.Leader] = true
			if s.Role == raft.Leader.String() {
				leader = m
			} else {
				followers = append(followers, m)
			}
		}
		return leader.id != "" && known[leader.id] && len(known) == 1 && len(followers) == len(c.members)-1
	})
	return leader, followers
}

// await polls until ok, or fails the test when patience ends.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

type response struct {
	code   int
	body   string
	header http.Header
}

// json returns the JSON of a response.
func (r response) json(t *testing.T) (b body) {
	t.Helper()
	require.Equal(t, "application/json", r.header.Get("Content-Type"))
	require.NoError(t, json.Unmarshal([]byte(r.body), &b), "%s", r.body)
	return b
}

// try sends one request. path is what comes after the address, and is sent as
// it is.
func try(client *http.Client, address, method, path, content string, headers ...http.Header) (response, error) {
	request, err := http.NewRequest(method, "http://"+address+path, strings.NewReader(content))
	if err != nil {
		return response{}, err
	}
	for _, header := range headers {
		request.Header = header.Clone()
	}
	r, err := client.Do(request)
	if err != nil {
		return response{}, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return response{r.StatusCode, string(b), r.Header}, err
}

// client follows redirects, as curl -L does.
func client(t *testing.T, more ...func(*http.Client)) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Transport: transport, Timeout: patience}
	for _, f := range more {
		f(c)
	}
	return c
}

func staying(c *http.Client) {
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
}

// do sends a request until it is accepted, since there may be no leader at
// first, and once more if the outcome is unknown and a retry does no harm.
func do(t *testing.T, c *http.Client, address, method, path, content string, headers ...http.Header) (r response) {
	t.Helper()
	await(t, method+" "+path, func() bool {
		var err error
		r, err = try(c, address, method, path, content, headers...)
		require.NoError(t, err)
		adds := strings.HasPrefix(path, "/members?") && !strings.Contains(path, "replace=") // which changes nothing the second time
		harmless := method == http.MethodGet || method == http.MethodPut || adds || len(headers) > 0
		return r.code != http.StatusServiceUnavailable && !(r.code == http.StatusGatewayTimeout && harmless)
	})
	return r
}

// nodeStatus is what the tests need of /status.
type nodeStatus struct {
	ID       raft.NodeID            `json:"id"`
	Role     string                 `json:"role"`
	Leader   raft.NodeID            `json:"leader"`
	Applied  raft.Index             `json:"applied_index"`
	First    raft.Index             `json:"first_index"`
	Last     raft.Index             `json:"last_index"`
	Snapshot raft.Index             `json:"snapshot_index"`
	HTTP     map[raft.NodeID]string `json:"http"`
}

func status(address string) (s nodeStatus, err error) {
	r, err := http.Get("http://" + address + "/status")
	if err != nil {
		return s, err
	}
	defer r.Body.Close()
	return s, json.NewDecoder(r.Body).Decode(&s)
}

// TestHTTP tests the API with a cluster that keeps its leader, even on a slow
// machine.
func TestHTTP(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 2*time.Second)
	cluster.leader(t)
	for name, test := range map[string]func(*testing.T, *testCluster){
		"requests":        testRequests,
		"keys":            testKeysAreAnyBytes,
		"redirects":       testAFollowerRedirects,
		"reads":           testReadsOfEachNode,
		"sessions":        testSessions,
		"readme":          testReadme,
		"status":          testStatus,
		"snapshot":        testSnapshot,
		"compare and set": testCompareAndSetLosesNothing,
		"create":          testCreateSucceedsOnce,
	} {
		t.Run(name, func(t *testing.T) { test(t, cluster) })
	}
}

func testRequests(t *testing.T, cluster *testCluster) {
	curl := client(t)
	const applied = `"outcome":"applied"`
	tests := []struct {
		method, path, content string
		code                  int
		want                  string // the value, or a part of the JSON
	}{
		{"GET", "/kv/k", "", 404, "the key is absent"},
		{"PUT", "/kv/k", "v", 200, applied},
		{"GET", "/kv/k", "", 200, "v"},
		{"PUT", "/kv/k", "raw \x00\xff bytes\n", 200, applied},
		{"GET", "/kv/k", "", 200, "raw \x00\xff bytes\n"},
		{"POST", "/kv/k?if=other", "w", 409, "raw \x00\xff bytes\n"},
		{"POST", "/kv/k?if=raw+%00%ff%20bytes%0A", "w", 200, applied},
		{"GET", "/kv/k", "", 200, "w"},
		{"POST", "/kv/k?if-absent", "x", 409, "w"},
		{"GET", "/kv/k?consistency=linearizable", "", 200, "w"},
		{"GET", "/kv/k?consistency=lease", "", 200, "w"},
		{"GET", "/kv/k?max-staleness=0s&consistency=lease&min-index=1", "", 200, "w"},
		{"DELETE", "/kv/k", "", 200, applied},
		{"DELETE", "/kv/k", "", 404, "the key is absent"},
		{"POST", "/kv/k?if=", "x", 404, "the key is absent"},
		{"POST", "/kv/k?if-absent", "", 200, applied},
		{"GET", "/kv/k", "", 200, ""},
		{"POST", "/kv/k?if=", "x", 200, applied},
		{"HEAD", "/kv/k", "", 200, ""},
		{"POST", "/kv/sum?add=2", "ignored", 200, "2"},
		{"POST", "/kv/sum?add=-5", "", 200, "-3"},
		{"GET", "/kv/sum", "", 200, "-3"},
		{"POST", "/kv/k?add=1", "", 409, "x"},
		{"PUT", "/kv/large", strings.Repeat("x", maxValueBytes), 200, applied},
		{"GET", "/kv/large", "", 200, strings.Repeat("x", maxValueBytes)},
		{"PUT", "/kv/large", strings.Repeat("x", maxValueBytes+1), 413, "want at most 1048576 bytes"},
		{"PUT", "/kv/" + strings.Repeat("k", 30000), strings.Repeat("x", maxValueBytes), 200, applied},
		{"PUT", "/kv/" + strings.Repeat("k", 80000), "", 431, ""},
		{"PUT", "/kv/", "v", 400, "the key is empty"},
		{"PUT", "/kv/k?if=x", "v", 400, "PUT takes no parameters"},
		{"GET", "/kv/", "", 400, "the key is empty"},
		{"GET", "/kv/k?if=x", "", 400, "want consistency, min-index and max-staleness"},
		{"GET", "/kv/k?consistency=eventual", "", 400, "want linearizable, lease or stale"},
		{"GET", "/kv/k?consistency=stale&consistency=lease", "", 400, "2 times"},
		{"GET", "/kv/k?min-index=-1&consistency=x", "", 400, "parameter min-index: strconv"},
		{"GET", "/kv/k?max-staleness=5", "", 400, "parameter max-staleness: time: missing unit"},
		{"GET", "/kv/k?max-staleness=-1s", "", 400, "less than nothing"},
		{"GET", "/kv/k?max-staleness=1s&consistency=stale", "", 400, "nobody knows how stale"},
		{"POST", "/kv/k", "v", 400, "either ?if=old, ?if-absent or ?add=number"},
		{"POST", "/kv/k?if=x&if-absent", "v", 400, "either ?if=old, ?if-absent or ?add=number"},
		{"POST", "/kv/k?if=x&if=y", "v", 400, "either ?if=old, ?if-absent or ?add=number"},
		{"POST", "/kv/k?add=1&if=x", "v", 400, "either ?if=old, ?if-absent or ?add=number"},
		{"POST", "/kv/k?add=x", "v", 400, "parameter add: strconv"},
		{"POST", "/kv/k?if=%zz", "v", 400, "the query does not parse"},
		{"PATCH", "/kv/k", "v", 405, "method PATCH"},
		{"DELETE", "/status", "", 405, "DELETE is not for /status"},
		{"GET", "/snapshot", "", 405, "GET is not for /snapshot"},
		{"GET", "/transfer", "", 405, "GET is not for /transfer: want POST"},
		{"PUT", "/members", "", 405, "PUT is not for /members: want GET, HEAD and POST"},
		{"GET", "/sessions", "", 405, "GET is not for /sessions: want POST"},
		{"DELETE", "/sessions/0", "", 400, "want a number from 1 on"},
		{"GET", "/members/a", "", 405, "GET is not for /members/{id}: want DELETE"},
		{"GET", "/", "", 404, "use /kv/{key}, /sessions, /status"},
		{"GET", "/kv", "", 404, "use /kv/{key}, /sessions, /status"},
	}
	for i, test := range tests {
		name := fmt.Sprintf("%s %.30s", test.method, test.path)
		got := do(t, curl, cluster.members[i%3].http, test.method, test.path, test.content)
		require.Equal(t, test.code, got.code, "%s: %.200s", name, got.body)
		if got.header.Get("Content-Type") == "application/json" {
			require.Contains(t, got.body, test.want, name)
		} else if test.code != 431 { // net/http's own
			require.True(t, test.want == got.body, "%s: %.200q", name, got.body)
		}
	}
}

func testKeysAreAnyBytes(t *testing.T, cluster *testCluster) {
	curl := client(t)
	keys := []string{
		"plain", "a/b", "a//b", "/", "//", "a/", ".", "..", "../..", "a/../b", "a b", "a+b", "%", "%2F", "a%b",
		"?", "a?if=b", "#", "ключ/鍵/é", "\x00", "\xff\xfe", "'\"<&>", "http://b/kv/x", "status",
	}
	for i, key := range keys {
		r := do(t, curl, cluster.members[i%3].http, "PUT", "/kv/"+url.PathEscape(key), "value of "+key)
		require.Equal(t, 200, r.code, "%q: %s", key, r.body)
	}
	for i, key := range keys {
		r := do(t, curl, cluster.members[(i+1)%3].http, "GET", "/kv/"+url.PathEscape(key), "")
		require.Equal(t, 200, r.code, "%q: %s", key, r.body)
		require.Equal(t, "value of "+key, r.body)
	}
	// A slash need not be escaped.
	for _, path := range []string{"/kv/a/b", "/kv/a%2fb"} {
		require.Equal(t, "value of a/b", do(t, curl, cluster.members[0].http, "GET", path, "").body)
	}
}

func testAFollowerRedirects(t *testing.T, cluster *testCluster) {
	stay := client(t, staying)
	tests := []struct{ method, path, location string }{
		{"POST", "/kv/k?if=a%20b&", "/kv/k?if=a%20b&"},
		{"POST", "/kv/a%2Fb/%C3%A9//x?add=1", "/kv/a%2Fb/%C3%A9//x?add=1"},
		{"PUT", "/kv/%FF%25?", "/kv/%FF%25?"},
		{"DELETE", "/kv/a/../.b", "/kv/a/%2E./%2Eb"},
	}
	for _, test := range tests {
		await(t, "a redirect to the leader", func() bool {
			leader, followers := cluster.leader(t)
			r, err := try(stay, followers[0].http, test.method, test.path, "v")
			require.NoError(t, err)
			if r.code != http.StatusTemporaryRedirect {
				return false // the leadership has just changed
			}
			require.Equal(t, "not_accepted", r.json(t).Outcome)
			return r.header.Get("Location") == "http://"+leader.http+test.location
		})
	}
	// What is wrong on any node is not sent on.
	_, followers := cluster.leader(t)
	r, err := try(stay, followers[0].http, "PUT", "/kv/k?if=x", "v")
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, r.code)
}

// testReadsOfEachNode writes through one node, and reads from each by itself: what it may
// not miss is there, and the index that it tells.
func testReadsOfEachNode(t *testing.T, cluster *testCluster) {
	curl, stay := client(t), client(t, staying)
	for i := range 20 {
		value := fmt.Sprint("value ", i)
		written := do(t, curl, cluster.members[i%3].http, "PUT", "/kv/read", value)
		require.Equal(t, 200, written.code)
		require.Equal(t, fmt.Sprint(written.json(t).Index), written.header.Get("Raft-Index"))
		query := []string{"", "?consistency=lease", "?consistency=stale&min-index=" + written.header.Get("Raft-Index")}[i%3]
		for _, m := range cluster.members {
			read := do(t, stay, m.http, "GET", "/kv/read"+query, "")
			require.Equal(t, 200, read.code, "%s: %s", query, read.body)
			require.Equal(t, value, read.body, query)
			index, err := strconv.ParseUint(read.header.Get("Raft-Index"), 10, 64)
			require.NoError(t, err)
			require.GreaterOrEqual(t, raft.Index(index), written.json(t).Index)
		}
	}
	absent := do(t, stay, cluster.members[0].http, "GET", "/kv/absent", "")
	require.Equal(t, 404, absent.code)
	require.NotEmpty(t, absent.header.Get("Raft-Index"))
	before, err := status(cluster.members[0].http)
	require.NoError(t, err)
	for i := range 60 {
		require.Equal(t, 200, do(t, stay, cluster.members[i%3].http, "GET", "/kv/read", "").code)
	}
	after, err := status(cluster.members[0].http)
	require.NoError(t, err)
	require.Equal(t, before.Last, after.Last, "nothing is written for reads")
}

func testStatus(t *testing.T, cluster *testCluster) {
	leader, followers := cluster.leader(t)
	s, err := status(followers[0].http)
	require.NoError(t, err)
	require.Equal(t, followers[0].id, s.ID)
	require.Equal(t, raft.Follower.String(), s.Role)
	require.Equal(t, leader.id, s.Leader)
	for _, m := range cluster.members {
		require.Equal(t, m.http, s.HTTP[m.id])
	}
	require.Len(t, s.HTTP, len(cluster.members))
}

// testSnapshot takes a snapshot on each node, whether it leads or not.
func testSnapshot(t *testing.T, cluster *testCluster) {
	curl := client(t)
	put := do(t, curl, cluster.members[0].http, "PUT", "/kv/snapshot", strings.Repeat("v", 1000))
	require.Equal(t, 200, put.code)
	for _, m := range cluster.members {
		await(t, "the value on each node", func() bool {
			s, err := status(m.http)
			return err == nil && s.Applied >= put.json(t).Index
		})
		r := do(t, curl, m.http, "POST", "/snapshot", "")
		require.Equal(t, 200, r.code, "%s", r.body)
		got := r.json(t)
		require.Equal(t, "applied", got.Outcome)
		require.GreaterOrEqual(t, got.Index, put.json(t).Index)
		require.Greater(t, got.Bytes, uint64(1000))
		after, err := status(m.http)
		require.NoError(t, err)
		require.Equal(t, got.Index, after.Snapshot)
	}
}

// testCompareAndSetLosesNothing has many clients count with one key, on all
// nodes. Each success counts once.
func testCompareAndSetLosesNothing(t *testing.T, cluster *testCluster) {
	curl := client(t)
	const clients, each = 8, 10
	require.Equal(t, 200, do(t, curl, cluster.members[0].http, "POST", "/kv/n?if-absent", "0").code)

	var mu sync.Mutex
	unknown := 0
	count := func(address string) error {
		end := time.Now().Add(2 * patience)
		seen := "0"
		for done := 0; done < each; {
			if time.Now().After(end) {
				return errors.New("no progress")
			}
			n, err := strconv.Atoi(seen)
			if err != nil {
				return err
			}
			r, err := try(curl, address, "POST", "/kv/n?if="+seen, strconv.Itoa(n+1))
			switch {
			case err != nil:
				return err
			case r.code == http.StatusOK:
				done, seen = done+1, strconv.Itoa(n+1)
			case r.code == http.StatusConflict:
				seen = r.body
			case r.code == http.StatusServiceUnavailable:
				time.Sleep(10 * time.Millisecond) // as Retry-After asks, in a hurry
			case r.code == http.StatusGatewayTimeout:
				mu.Lock()
				unknown++
				mu.Unlock()
			default:
				return fmt.Errorf("%d: %s", r.code, r.body)
			}
		}
		return nil
	}
	errs := make([]error, clients)
	var running sync.WaitGroup
	for i := range clients {
		running.Go(func() { errs[i] = count(cluster.members[i%3].http) })
	}
	running.Wait()
	require.NoError(t, errors.Join(errs...))
	n, err := strconv.Atoi(do(t, curl, cluster.members[0].http, "GET", "/kv/n", "").body)
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, clients*each)
	require.LessOrEqual(t, n, clients*each+unknown)
}

func testCreateSucceedsOnce(t *testing.T, cluster *testCluster) {
	curl := client(t)
	cluster.leader(t)
	codes := make([]int, 12)
	var running sync.WaitGroup
	for i := range codes {
		running.Go(func() {
			if r, err := try(curl, cluster.members[i%3].http, "POST", "/kv/lock?if-absent", fmt.Sprint(i)); err == nil {
				codes[i] = r.code
			}
		})
	}
	running.Wait()
	holder := do(t, curl, cluster.members[0].http, "GET", "/kv/lock", "").body
	for i, code := range codes {
		if code == 200 {
			require.Equal(t, holder, fmt.Sprint(i))
		} else if code != 503 && code != 504 {
			require.Equal(t, 409, code)
		}
	}
}

func TestWithoutAMajority(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, 0)
	stay := client(t, staying)
	// Cut off just after it has led, the leader takes the command, and cannot
	// tell what becomes of it.
	var old member
	await(t, "an outcome that is unknown", func() bool {
		cluster.network.Heal()
		old, _ = cluster.leader(t)
		cluster.network.Isolate(old.id)
		start := time.Now()
		r, err := try(stay, old.http, "PUT", "/kv/k", "v")
		require.NoError(t, err)
		require.Less(t, time.Since(start), requestTimeout+5*time.Second, "no request hangs")
		if r.code != http.StatusGatewayTimeout {
			return false // it did not lead any more
		}
		require.Equal(t, "unknown", r.json(t).Outcome)
		return true
	})
	// By now it knows that it does not lead, and can read no more than what it has.
	for _, query := range []string{"", "?consistency=lease", "?max-staleness=1ns"} {
		r, err := try(stay, old.http, "GET", "/kv/k"+query, "")
		require.NoError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, r.code, "%s", r.body)
		require.Equal(t, "not_accepted", r.json(t).Outcome)
		require.NotEmpty(t, r.header.Get("Retry-After"))
	}
	r, err := try(stay, old.http, "GET", "/kv/k?consistency=stale", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, r.code, "%s", r.body)

	cluster.network.Heal()
	require.Equal(t, 200, do(t, client(t), old.http, "PUT", "/kv/k", "w").code)
	require.Equal(t, "w", do(t, client(t), old.http, "GET", "/kv/k", "").body)
}

// failingNode is a node that does nothing but fail.
type failingNode struct{ err error }

func (n failingNode) Propose(context.Context, []byte) (raft.Result, error) {
	return raft.Result{Response: []byte("no reply")}, n.err
}
func (n failingNode) Read(context.Context, raft.ReadOptions) (raft.Index, error) { return 3, n.err }
func (n failingNode) WatchLeader(context.Context) <-chan raft.Leadership {
	watch := make(chan raft.Leadership, 1)
	watch <- raft.Leadership{IsSelf: true}
	close(watch)
	return watch
}
func (n failingNode) OpenSession(context.Context) (*raft.Session, error) { return nil, n.err }
func (n failingNode) CloseSession(context.Context, raft.Index) error     { return n.err }
func (n failingNode) ProposeInSession(ctx context.Context, _ raft.SessionPlace, command []byte) (raft.Result, error) {
	return n.Propose(ctx, command)
}
func (n failingNode) TakeSnapshot(ctx context.Context) (raft.Index, error) {
	if n.err == nil {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return 0, n.err
}
func (n failingNode) AddVoter(context.Context, raft.Member) error           { return n.err }
func (n failingNode) AddLearner(context.Context, raft.Member) error         { return n.err }
func (n failingNode) RemoveMember(context.Context, raft.NodeID) error       { return n.err }
func (n failingNode) TransferLeadership(context.Context, raft.NodeID) error { return n.err }
func (n failingNode) ChangeMembers(context.Context, raft.Index, ...raft.MemberChange) (raft.Index, error) {
	return 0, n.err
}

// Status has a founder, b, whose HTTP address -peers knows, one that has joined, c, and
// one at another address than -peers says.
func (n failingNode) Status() raft.Status {
	return raft.Status{Members: []raft.Member{
		{ID: "b", Address: "raft-b"}, {ID: "c", Address: "raft-c", Metadata: []byte("web-c")}, {ID: "d", Address: "raft-d"},
	}}
}

var failingFounders = []member{{"b", "raft-b", "web-b"}, {"c", "raft-c", "web-of-old"}, {"d", "raft-elsewhere", "web-d"}}

func TestErrorsBecomeStatusCodes(t *testing.T) {
	unknown := &raft.OutcomeUnknownError{Index: 7, Term: 2, Cause: context.DeadlineExceeded}
	tests := map[string]struct {
		err      error
		code     int
		outcome  string
		location string
	}{
		"another node leads":          {&raft.NotLeaderError{Leader: "b", Address: "raft-b"}, 307, "not_accepted", "http://web-b/kv/a%2Fb"},
		"one that has joined leads":   {&raft.NotLeaderError{Leader: "c", Address: "raft-c"}, 307, "not_accepted", "http://web-c/kv/a%2Fb"},
		"one that has moved leads":    {&raft.NotLeaderError{Leader: "d", Address: "raft-d"}, 503, "not_accepted", ""},
		"a leader without an address": {&raft.NotLeaderError{Leader: "x"}, 503, "not_accepted", ""},
		"no leader":                   {&raft.NotLeaderError{}, 503, "not_accepted", ""},
		"wrapped":                     {fmt.Errorf("wrapped: %w", raft.ErrNotLeader), 503, "not_accepted", ""},
		"overloaded":                  {raft.ErrOverloaded, 503, "not_accepted", ""},
		"stopped":                     {raft.ErrStopped, 503, "not_accepted", ""},
		"not accepted":                {raft.ErrNotAccepted, 503, "not_accepted", ""},
		"too large":                   {raft.ErrTooLarge, 413, "not_accepted", ""},
		"unknown":                     {unknown, 504, "unknown", ""},
		"unknown after losing office": {&raft.OutcomeUnknownError{Cause: &raft.NotLeaderError{Leader: "b"}}, 504, "unknown", ""},
		"refused by the store":        {&raft.ApplyError{Index: 7, Err: errors.New("nonsense")}, 500, "applied", ""},
		"a session that has expired":  {fmt.Errorf("%w: %w", raft.ErrNotAccepted, raft.ErrSessionExpired), 410, "expired", ""},
		"one that has later":          {&raft.OutcomeUnknownError{Cause: raft.ErrSessionExpired}, 410, "expired", ""},
		"a number that was left":      {raft.ErrReplyDropped, 410, "expired", ""},
		"an error of no class":        {errors.New("surprise"), 504, "unknown", ""},
		"a reply of no sense":         {nil, 504, "unknown", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := handle(failingNode{test.err}, "PUT /kv/a%2Fb", nil)
			require.Equal(t, test.code, got.code, "%s", got.body)
			require.Equal(t, test.outcome, got.json(t).Outcome)
			require.NotEmpty(t, got.json(t).Error)
			require.Equal(t, test.location, got.header.Get("Location"))
			require.Equal(t, test.code == 503, got.header.Get("Retry-After") != "")

			again := handle(failingNode{test.err}, "PUT /kv/a%2Fb", under("7-1"))
			require.Equal(t, got.body, again.body, "in a session")
			require.Equal(t, got.code, again.code, "in a session")
		})
	}
}

// A read that fails may be repeated, whatever the reason: it has changed nothing.
func TestReadsThatFail(t *testing.T) {
	for _, err := range []error{
		&raft.NotLeaderError{Leader: "b", Address: "raft-b"}, raft.ErrOverloaded, raft.ErrStopped,
		context.DeadlineExceeded, errors.New("surprise"),
	} {
		got := handle(failingNode{err}, "GET /kv/k", nil)
		require.Equal(t, 503, got.code)
		require.NotEmpty(t, got.header.Get("Retry-After"))
		require.Equal(t, "not_accepted", got.json(t).Outcome)
		require.Contains(t, got.json(t).Error, err.Error())
	}
}

// Each level is what it is called: linearizable reads rely on no clock.
func TestReadOptions(t *testing.T) {
	for query, want := range map[string]raft.ReadOptions{
		"": {Level: raft.ReadConfirmed},
		"?consistency=linearizable&min-index=3&max-staleness=2s": {Level: raft.ReadConfirmed, MinIndex: 3, MaxStaleness: 2 * time.Second},
		"?consistency=lease":             {Level: raft.ReadLinearizable},
		"?consistency=stale&min-index=0": {Level: raft.ReadLocal},
	} {
		got, err := readOptions(httptest.NewRequest("GET", "/kv/k"+query, nil))
		require.NoError(t, err)
		require.Equal(t, want, got, query)
	}
	o, err := parseFlags(nil, io.Discard)
	require.NoError(t, err)
	require.True(t, o.config("a").LeaseReads)
}

func TestSnapshotsThatFail(t *testing.T) {
	tests := map[string]struct {
		err     error
		code    int
		outcome string
	}{
		"stopped":        {raft.ErrStopped, 503, "not_accepted"},
		"takes too long": {nil, 504, "unknown"},
		"a full disk":    {errors.New("no space left"), 500, "not_accepted"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a := &api{failingNode{test.err}, newStore(), nil, time.Millisecond}
			w := httptest.NewRecorder()
			a.ServeHTTP(w, httptest.NewRequest("POST", "/snapshot", nil))
			got := response{w.Code, w.Body.String(), w.Header()}
			require.Equal(t, test.code, got.code, "%s", got.body)
			require.Equal(t, test.outcome, got.json(t).Outcome)
			require.NotEmpty(t, got.json(t).Error)
		})
	}
}
