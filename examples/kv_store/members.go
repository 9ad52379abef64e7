package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-8da499c8/raft"
)

// The members of the cluster. raft knows where their nodes reach each other; where
// clients reach them travels as the metadata of a member, which raft hands to all.
// The founders begin without metadata: -peers, the same on each node, has theirs.

// webs returns where clients reach the members.
func (a *api) webs(members []raft.Member) map[raft.NodeID]string {
	webs := map[raft.NodeID]string{}
	for _, m := range members {
		webs[m.ID] = a.webOf(m)
	}
	return webs
}

func (a *api) webOf(m raft.Member) string {
	if len(m.Metadata) > 0 {
		return string(m.Metadata)
	}
	for _, founder := range a.founders {
		if founder.id == m.ID && founder.raft == m.Address {
			return founder.http
		}
	}
	return ""
}

// serveMembers shows the members as this node knows them: another node may know more.
func (a *api) serveMembers(w http.ResponseWriter, _ *http.Request) {
	type shown struct {
		ID       raft.NodeID     `json:"id"`
		Raft     string          `json:"raft"`
		HTTP     string          `json:"http"`
		Role     raft.MemberRole `json:"role"`
		Priority uint8           `json:"priority"`
	}
	s := a.node.Status()
	members := []shown{}
	for _, m := range s.Members {
		members = append(members, shown{m.ID, m.Address, a.webOf(m), m.Role, m.Priority})
	}
	writeJSON(w, struct {
		ConfigurationIndex raft.Index  `json:"configuration_index"`
		Changing           bool        `json:"changing"` // what is shown is not certain yet, or one half of a change
		Leader             raft.NodeID `json:"leader"`
		Members            []shown     `json:"members"`
	}{s.ConfigurationIndex, isChanging(s), s.Leader, members})
}

// isChanging reports whether a change has been begun that has not ended.
func isChanging(s raft.Status) bool {
	return s.Joint || s.ConfigurationIndex > s.CommitIndex
}

// addMember adds a member, promotes a learner, has a new member take the place of
// another one, or changes the HTTP address and the priority of one that there is.
func (a *api) addMember(w http.ResponseWriter, r *http.Request) {
	m, replaced, err := readMember(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	lastAsLongAsItTakes(w)
	s := a.node.Status()
	present := func(p raft.Member) bool { return p.ID == m.ID && p.Address == m.Address && p.Role == m.Role }
	switch {
	case replaced != "":
		err = a.replace(r.Context(), replaced, m)
	case slices.ContainsFunc(s.Members, present):
		_, err = a.node.ChangeMembers(r.Context(), s.ConfigurationIndex, raft.MemberChange{Kind: raft.ChangeUpdate, Member: m})
	case m.Role == raft.Learner:
		err = a.node.AddLearner(r.Context(), m)
	default:
		err = a.node.AddVoter(r.Context(), m)
	}
	a.answerChange(w, r, err)
}

// readMember returns the member that the parameters describe, and the id of the one
// whose place it takes, if any.
func readMember(r *http.Request) (m raft.Member, replaced raft.NodeID, err error) {
	query, err := readQuery(r, "id", "raft", "http", "role", "priority", "replace")
	if err != nil {
		return m, "", err
	}
	m = raft.Member{ID: raft.NodeID(query.Get("id")), Address: query.Get("raft"), Role: raft.Voter, Metadata: []byte(query.Get("http"))}
	replaced = raft.NodeID(query.Get("replace"))
	if query.Has("role") {
		err = m.Role.UnmarshalText([]byte(query.Get("role")))
	}
	if query.Has("priority") {
		n, e := strconv.ParseUint(query.Get("priority"), 10, 8)
		m.Priority, err = uint8(n), errors.Join(err, e)
	}
	for _, address := range []string{"raft", "http"} {
		err = errors.Join(err, named("parameter "+address, checkAddress(query.Get(address))))
	}
	switch {
	case m.ID == "":
		err = errors.Join(err, errors.New("parameter id: want the new member's"))
	case m.Role == raft.Leaving:
		err = errors.Join(err, errors.New("parameter role: want voter or learner"))
	case replaced != "" && m.Role != raft.Voter:
		err = errors.Join(err, errors.New("parameter role: a learner replaces nobody"))
	}
	return m, replaced, err
}

// readQuery returns the parameters of a request, and an error if there are others,
// or one of them twice: to ignore it would be to do something else.
func readQuery(r *http.Request, known ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("the query does not parse: %w", err)
	}
	for name, values := range query {
		if !slices.Contains(known, name) || len(values) != 1 {
			return nil, fmt.Errorf("parameter %q, %d times: want %s, each once at most", name, len(values), list(known))
		}
	}
	return query, nil
}

// replace has a new voter take the place of another member in one step. It comes in
// as a learner before, so that it has what the others have when it begins to count.
func (a *api) replace(ctx context.Context, replaced raft.NodeID, m raft.Member) error {
	s := a.node.Status()
	known := func(p raft.Member) bool { return p.ID == replaced }
	if s.Role == raft.Leader && !slices.ContainsFunc(s.Members, known) {
		return fmt.Errorf("%w: %q", raft.ErrUnknownMember, replaced)
	}
	if err := a.node.AddLearner(ctx, m); err != nil {
		return err
	}
	if err := a.awaitCatchUp(ctx, m.ID); err != nil {
		return err
	}
	_, err := a.node.ChangeMembers(ctx, 0,
		raft.MemberChange{Kind: raft.ChangeUpdate, Member: m},
		raft.MemberChange{Kind: raft.ChangeRemove, Member: raft.Member{ID: replaced}})
	return err
}

// awaitCatchUp waits until a learner has what this leader has now.
func (a *api) awaitCatchUp(ctx context.Context, id raft.NodeID) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for want := a.node.Status().LastIndex; ; {
		s := a.node.Status()
		i := slices.IndexFunc(s.Peers, func(p raft.PeerStatus) bool { return p.ID == id })
		switch {
		case s.Role != raft.Leader:
			return &raft.NotLeaderError{Leader: s.Leader, Address: s.LeaderAddress}
		case i < 0:
			return fmt.Errorf("%w: %q was taken out meanwhile", raft.ErrUnknownMember, id)
		case s.Peers[i].Match >= want:
			return nil
		case s.Peers[i].LastContact > a.timeout:
			return fmt.Errorf("%w, and is still a learner: %s has not answered for %v: %s", raft.ErrCannotFollow, id, s.Peers[i].LastContact, s.Peers[i].Trouble)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is still a learner: %w", id, context.Cause(ctx))
		}
	}
}

// removeMember takes a member out. Its process ends once it has learnt of it.
func (a *api) removeMember(w http.ResponseWriter, r *http.Request) {
	lastAsLongAsItTakes(w)
	id := strings.TrimPrefix(r.URL.Path, "/members/")
	a.answerChange(w, r, a.node.RemoveMember(r.Context(), raft.NodeID(id)))
}

// transfer has another voter lead.
func (a *api) transfer(w http.ResponseWriter, r *http.Request) {
	query, err := readQuery(r, "to")
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	a.answerChange(w, r, a.node.TransferLeadership(r.Context(), raft.NodeID(query.Get("to"))))
}

// lastAsLongAsItTakes lifts the deadlines of the server for a request: a newcomer may
// have much to catch up with. raft ends such a call when there is no progress.
func lastAsLongAsItTakes(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	_, _ = c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{}) // else it ends earlier
}

// answerChange answers a request to change the members or the leader.
func (a *api) answerChange(w http.ResponseWriter, r *http.Request, err error) {
	var mismatch *raft.ConfigurationMismatchError
	switch {
	case err == nil:
		answer(w, http.StatusOK, body{Outcome: "applied", Index: a.node.Status().ConfigurationIndex})
	case errors.Is(err, raft.ErrCannotFollow):
		refuse(w, http.StatusBadGateway, err)
	case errors.Is(err, raft.ErrUnknownMember):
		refuse(w, http.StatusNotFound, err)
	case errors.Is(err, raft.ErrInvalidChange):
		refuse(w, http.StatusBadRequest, err)
	case errors.Is(err, raft.ErrChangeInProgress), errors.Is(err, raft.ErrMemberExists), errors.Is(err, raft.ErrTransferFailed), errors.As(err, &mismatch):
		refuse(w, http.StatusConflict, err)
	default:
		a.fail(w, r, err)
	}
}
