package raft

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// drawElectionWait draws from [ElectionTimeout, 2*ElectionTimeout), anew each
// time, so that nodes that once campaigned together do not go on doing so (§3.4).
// Of three voters two are left when the leader is gone. Then short waits are likelier
// than long ones: the first of two campaigns a tenth sooner, and they meet so seldom that
// even the slowest elections are faster. More than two would meet too often.
func (c *core) drawElectionWait() time.Duration {
	timeout := c.settings.electionTimeout
	share := rand.New(&c.chance).Float64()
	if c.configuration.voters() <= 3 {
		share *= math.Sqrt(share)
	}
	return timeout + time.Duration(share*float64(timeout))
}

// campaign starts a pre-election, or, where this node alone is a majority, an
// election at once.
func (c *core) campaign(now time.Duration) {
	if !c.mayLead() {
		c.electionDeadline = now + c.drawElectionWait()
		return
	}
	if c.diskHangs(now, c.settings.electionTimeout) {
		c.electionDeadline = now + c.drawElectionWait()
		c.tell("do not campaign", "", "the election wait is over, but the disk has not answered for %v", now-c.writingSince)
		return
	}
	if c.isInstalling() {
		c.electionDeadline = now + c.drawElectionWait()
		c.tell("do not campaign", "", "the election wait is over, but a snapshot is taking the place of the log")
		return
	}
	if c.soleVoter() {
		c.startElection(now)
		return
	}
	switch c.role {
	case Follower:
		c.tell("ask for pre-votes", "", "no leader was heard from for a whole election wait")
	case Candidate:
		c.tell("ask for pre-votes", "", "the election of term %d was not won", c.currentTerm)
	}
	c.becomePreCandidate(now)
	c.askForVotes(VoteRequest{Term: c.currentTerm + 1, PreVote: true}, promise{})
}

// mayLead reports whether this node is a voter, or was one until a change that is not
// known to be committed: its log may be the longest of all, so that nobody else can win
// (§4.2.2). It does not count for itself then, and leads just to the end of the change.
func (c *core) mayLead() bool {
	return c.isVoterOf(c.configuration) || c.isVoterOf(c.configurationAt(c.commitIndex))
}

// isVoterOf reports whether this node is a voter of a configuration, and not only of the
// same id. One that was taken in anew reads of the time when its id had another disk:
// there it might win by itself, or with others like it, and has nothing of what came after.
func (c *core) isVoterOf(one configuration) bool {
	own := one.origins[c.settings.id]
	isOwn := own.met == c.settings.incarnation || own.met == 0 && (own.added > 0 || !c.joined)
	return isOwn && one.isVoter(c.settings.id)
}

// startElection campaigns in the next term. The requests leave once the new
// term, the own vote and the whole log that they speak of are durable.
func (c *core) startElection(now time.Duration) {
	c.becomeCandidate(now)
	c.tell("start election", "", "a majority would grant its vote")
	c.askForVotes(VoteRequest{Term: c.currentTerm}, promise{c.candidacy, c.log.last()})
}

func (c *core) askForVotes(request VoteRequest, p promise) {
	request.LastLogIndex, request.LastLogTerm = c.log.last(), c.log.lastTerm()
	request.Added = c.configuration.origins[c.settings.id].added
	for _, m := range c.configuration.members {
		if m.ID == c.settings.id || !c.configuration.isVoter(m.ID) {
			continue
		}
		r := request
		r.Header = c.header(m.ID)
		c.send(m.ID, &r, p)
	}
}

// handleVoteRequest answers a RequestVote or a pre-vote (§3.4, §3.6.1, §9.6).
func (c *core) handleVoteRequest(now time.Duration, e voteRequested) {
	r := e.request
	if refusal := c.refusesContact(now, r); refusal != RefusalNone {
		c.refuseVote(e, refusal)
		return
	}
	if !r.PreVote && r.Term > c.currentTerm {
		c.tell("become follower", r.From, "it campaigns in term %d", r.Term)
		c.becomeFollower(now, r.Term, "")
	}
	if r.Term == c.currentTerm && c.votedFor != "" && c.votedFor != r.From {
		c.refuseVote(e, RefusalVoted)
		return
	}
	if c.log.moreUpToDate(r.LastLogIndex, r.LastLogTerm) {
		c.refuseVote(e, RefusalLongerLog)
		return
	}
	response := &VoteResponse{VoteGranted: true, PreVote: r.PreVote}
	if !r.PreVote {
		if c.votedFor == "" {
			c.votedFor = r.From
			c.remember()
		}
		c.becomeFollower(now, c.currentTerm, c.leader)
		c.electionDeadline = now + c.drawElectionWait()
		c.tell("grant vote", r.From, "its log is at least as up-to-date")
	}
	c.answerVote(e, response)
}

// refusesContact returns why a vote request is turned down before it can change
// anything: its term is over, or this node still owes somebody its quiet. A
// node that hears from a leader, or leads, neither grants a vote nor takes over
// the term of a candidate (§4.2.3); after a restart it may have forgotten that
// it does, and stays quiet for as long. Leases rely on it, so what else has
// happened since it heard from a leader, as a later term, makes no difference.
func (c *core) refusesContact(now time.Duration, r *VoteRequest) VoteRefusal {
	sticky := c.role == Leader || c.heardLeader && now < c.leaderContact+c.settings.electionTimeout
	switch {
	case r.Term < c.currentTerm:
		return RefusalStaleTerm
	case c.isInstalling():
		return RefusalInstalling
	case r.Transfer:
		return RefusalNone
	case sticky:
		return RefusalHasLeader
	case now < c.quietUntil:
		return RefusalRestarted
	default:
		return RefusalNone
	}
}

func (c *core) refuseVote(e voteRequested, refusal VoteRefusal) {
	if !e.request.PreVote {
		c.tell("refuse vote", e.request.From, "of this node: %s", refusal.reason(c.leader))
	}
	c.answerVote(e, &VoteResponse{PreVote: e.request.PreVote, Refusal: refusal, Leader: c.leader})
}

func (c *core) answerVote(e voteRequested, response *VoteResponse) {
	response.Term, response.Incarnation = c.currentTerm, c.settings.incarnation
	c.reply(e.respond, response, c.promised(0))
}

// handleVoteResponse counts an answer, each voter once: only an answer to a
// request of this very (pre-)election says anything about it.
func (c *core) handleVoteResponse(now time.Duration, e voteAnswered) {
	if e.response != nil && e.response.Term > c.currentTerm {
		if _, member := c.configuration.member(e.from); !member {
			return // a late one, of who has left since
		}
		asking := c.role == PreCandidate && e.preVote
		c.tell("become follower", e.from, "it is in term %d", e.response.Term)
		c.becomeFollower(now, e.response.Term, "")
		if asking {
			c.electionDeadline = now // its term was over, its turn is not: it asks again in the new one
		}
		return
	}
	if !c.isOfThisElection(e) || c.ballots[e.from].granted {
		return
	}
	if e.err != nil {
		c.ballots[e.from] = lostBallot(e.err)
		return
	}
	if e.response.VoteGranted && !e.preVote && (e.response.PreVote || e.response.Term != c.currentTerm) {
		return // the grant is another election's
	}
	c.ballots[e.from] = ballot{granted: e.response.VoteGranted, why: e.response.Refusal.reason(e.response.Leader)}
	c.countVotes(now)
}

// isOfThisElection reports whether an answer is to a request of the present (pre-)election: of
// an earlier one of the same term the calls have ended, an election timeout after they began.
func (c *core) isOfThisElection(e voteAnswered) bool {
	if e.preVote {
		return c.role == PreCandidate && e.term == c.currentTerm+1
	}
	return c.role == Candidate && e.term == c.currentTerm
}

// lostBallot is the ballot of a voter that has not answered, or has refused to
// look at the request.
func lostBallot(err error) ballot {
	if refusal, ok := refusalIn(err); ok {
		return ballot{why: refusal.words()}
	}
	return ballot{lost: true, why: wordsOf(err)}
}

// countVotes moves on once a majority has granted.
func (c *core) countVotes(now time.Duration) {
	if c.configuration.reached(func(id NodeID) uint64 { return bit(c.hasVoteOf(id)) }) == 0 {
		return
	}
	if c.role == PreCandidate {
		c.startElection(now)
		return
	}
	granted := 0
	for _, m := range c.configuration.members {
		granted += int(bit(c.configuration.isVoter(m.ID) && c.hasVoteOf(m.ID)))
	}
	c.tell("become leader", "", "%d of %d voters granted their vote", granted, c.configuration.voters())
	c.becomeLeader(now)
}

// hasVoteOf reports whether a voter has granted its vote, or its pre-vote. The own
// vote is one once it is durable.
func (c *core) hasVoteOf(id NodeID) bool {
	if id == c.settings.id {
		return c.role == PreCandidate || c.candidacy <= c.durable
	}
	return c.ballots[id].granted
}

// reason puts a refusal into words, as said about the peer that refuses.
func (r VoteRefusal) reason(leader NodeID) string {
	switch r {
	case RefusalNone:
		return "no reason given"
	case RefusalStaleTerm:
		return "it is in a later term"
	case RefusalHasLeader:
		if leader == "" {
			return "it heard from a leader not long ago"
		}
		return fmt.Sprintf("it hears from a leader, %s", leader)
	case RefusalVoted:
		return "it voted for another candidate"
	case RefusalLongerLog:
		return "its log is longer"
	case RefusalRestarted:
		return "it restarted less than an election timeout ago"
	case RefusalInstalling:
		return "a snapshot is taking the place of its log"
	default:
		return fmt.Sprintf("reason %d", r)
	}
}

// sendHeartbeats starts a round of heartbeats to everybody. A heartbeat proves contact and
// says nothing about the log beyond what the follower has acknowledged.
func (c *core) sendHeartbeats(now time.Duration) {
	c.beginRound(now)
	c.heartbeatDue = now + c.settings.heartbeatInterval
	for _, p := range c.peers {
		c.sendHeartbeat(now, p)
	}
}

// beginRound numbers the heartbeats that are sent from now on.
func (c *core) beginRound(now time.Duration) {
	c.round++
	c.renewWith(c.round, now)
}

// sendHeartbeat sends a heartbeat of the present round.
func (c *core) sendHeartbeat(now time.Duration, p *progress) {
	commit := min(c.commitIndex, p.match)
	if p.left && p.farewell == 0 && commit >= c.configuration.index && c.log.matches(commit, c.currentTerm) { // else it does not believe it yet
		p.farewell = c.round
	}
	p.ask(now, c.round)
	c.send(p.id, &Heartbeat{
		Header: c.header(p.id), Term: c.currentTerm, Commit: commit,
		Round: c.round, LeaderAddress: c.settings.address, Contacts: c.contacts, Configuration: c.configuration.index,
	}, promise{})
}

// handleHeartbeat answers a leader's sign of life. Its commit index is for a
// log that ends in an entry of the leader's term: that entry came from the
// leader, so the whole log is the leader's (§3.5, Log Matching). Any other may
// hold what the leader does not have.
func (c *core) handleHeartbeat(now time.Duration, e heartbeatArrived) {
	r := e.request
	response := &HeartbeatResponse{Round: r.Round, Incarnation: c.settings.incarnation, Quiet: uint64(c.settings.electionTimeout)}
	if c.followLeader(now, r.Term, r.From, r.LeaderAddress) {
		if r.Configuration == c.configuration.index { // else they may be of a member that was taken in anew since
			c.learnContacts(r.Contacts)
		}
		if c.log.lastTerm() == c.currentTerm {
			c.commitTo(r.Commit)
			c.checkRemoved(r.Configuration)
		}
	}
	response.Term = c.currentTerm
	c.reply(e.respond, response, c.promised(0))
}

// followLeader takes note of a message that only the leader of a term sends,
// and reports whether it is to be followed: an earlier term's is not (§3.3).
func (c *core) followLeader(now time.Duration, term Term, from NodeID, address string) bool {
	if term < c.currentTerm {
		return false
	}
	if term == c.currentTerm && (c.role == Leader || c.leader != "" && c.leader != from) {
		c.tell("ignore leader", from, "it claims to lead term %d, which %s leads", term, c.leader)
		return false
	}
	if c.leader != from || term > c.currentTerm || c.role != Follower {
		c.tell("follow leader", from, "it leads term %d", term)
		c.becomeFollower(now, term, from)
	}
	c.leaderAddress = address
	c.leaderContact, c.heardLeader = now, true
	c.electionDeadline = now + c.drawElectionWait()
	return true
}

// handleHeartbeatResponse takes an answer as contact, if it is one to this
// leader: an answer from a later term ends the leadership and is none (§3.3).
func (c *core) handleHeartbeatResponse(now time.Duration, e heartbeatAnswered) {
	if e.response == nil {
		if p := c.peer(e.from); p != nil && e.term == c.currentTerm {
			p.trouble = wordsOf(e.err)
		}
		return
	}
	if c.stepsDownFor(now, e.from, e.response.Term) || c.role != Leader || e.term != c.currentTerm || e.response.Term != c.currentTerm {
		return
	}
	if p := c.peer(e.from); p != nil {
		p.contact, p.trouble = now, ""
		p.answer(now, min(e.response.Round, c.round), c.settings.heartbeatInterval)
		p.quiet = time.Duration(min(e.response.Quiet, math.MaxInt64))
		if c.readRound == 0 || e.response.Round > c.readRound { // of those for reads there may be thousands in a second
			p.retryAt = now // it is reachable: what was lost can be tried again
		}
		p.knows = p.farewell > 0 && e.response.Round >= p.farewell
		c.renewLease()
	}
}

// stepsDownFor makes this node a follower if a response shows a later term. That of
// a member that has left changes nothing: it only is to learn that it has.
func (c *core) stepsDownFor(now time.Duration, from NodeID, term Term) bool {
	if _, member := c.configuration.member(from); term <= c.currentTerm || !member {
		return false
	}
	c.tell("become follower", from, "it answers from term %d", term)
	c.becomeFollower(now, term, "")
	return true
}

// checkQuorum makes a leader step down that has not been in contact with a
// majority for an election timeout (§6.2): others may have elected a new one,
// and its clients must learn that their commands may never be committed.
func (c *core) checkQuorum(now time.Duration) {
	since := time.Duration(c.configuration.reached(func(id NodeID) uint64 {
		if id == c.settings.id {
			return uint64(now)
		}
		return uint64(c.peer(id).contact)
	}))
	if now >= since+c.settings.electionTimeout {
		c.tell("step down", "", "no majority was in contact for %v", now-since)
		c.becomeFollower(now, c.currentTerm, "")
	}
}

// checkDisk makes a leader step down whose own disk does not answer: its
// followers could commit without it, but it takes part in nothing.
func (c *core) checkDisk(now time.Duration) {
	if c.diskHangs(now, c.settings.diskStallLimit) {
		c.tell("step down", "", "the disk has not answered for %v", now-c.writingSince)
		c.becomeFollower(now, c.currentTerm, "")
	}
}

func (c *core) diskHangs(now, limit time.Duration) bool {
	return c.isWriting && now >= c.writingSince+limit
}
