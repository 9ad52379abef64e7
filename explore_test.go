package raft

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
)

var exploreStates = flag.Int("explore.states", 0, "how many distinct states TestExploration visits in each of its scopes; 0: 25,000, or 10,000 where all is slow")

func statesToExplore() int {
	switch {
	case *exploreStates > 0:
		return *exploreStates
	case testenv.Brief():
		return 10_000
	default:
		return 25_000
	}
}

// explorer visits, breadth first, every world that three nodes can come into
// from a first one, within the bounds of its scope. The nodes are real drivers
// around real cores, with what is durable of them. A world is three nodes, the
// letters that were sent, and what is to be remembered of the past. Since a node
// is a function of its state and of what happens to it, each of its steps is made
// once, and found again by its hash in every other world.
//
// The network. A letter that was sent may arrive now, later, several times or
// never, in any order: it stays in the world. That is delay, reordering and
// duplication without bounds, and loss, which is a letter that never arrives.
// That a leader takes entries for lost is a choice of its own, at any moment.
// Answers may even reach the next process of the node that asked, since what
// protects it are terms and not connections. What is taken out are answers that
// make no difference any more, see [letter.pointless].
//
// Crashes. A process ends at any moment, and the next one starts at once with
// what is durable: the write under way is lost, or has become durable as a whole.
// A node that is down for a while is one that nothing reaches meanwhile.
//
// Disks. A write ends at any moment after it was handed out, or never.
//
// Time. There is none: each wait ends at any moment, however short or long that
// is for the others. Clocks allow less than that, and safety must not rest on
// them. In return some waits are always over:
//
//   - A voter that hears from a leader, or has restarted, turns a request for its
//     vote down for a while. That leaves it as it is, and the candidate too: unless
//     its term is over, which every other answer of this voter would show as well.
//     So it is a request that got lost. A voter that leads refuses as ever.
//   - A leader whose messages were lost pauses before it sends again. That is a
//     leader that takes them for lost later.
//   - A disk that hangs keeps a node from campaigning, which is a wait that goes
//     on, or from leading, which the loss of its majority does as well.
//
// Pre-votes. They promise nothing and leave nothing behind, so a node may get
// them at any moment. In most scopes a node whose wait is over has them at once,
// which goes far deeper; one scope has them as messages like all others.
//
// The state machines apply and the logs are read at once, and a message has one
// entry at most. Safety is explored, not progress.
//
// Members. In some scopes a leader may be told, once, to change them. Nodes that are
// none yet know the fingerprint of the cluster already, and nobody tells its
// incarnation. A node that takes itself for removed does nothing any more.
type explorer struct {
	scope

	// For tests of the explorer.
	fault   fault
	skip    []string            // properties that are not checked
	plain   bool                // worlds of other names are other worlds
	twins   map[*member]*member // another node of equal hash, if set
	dropped map[arriving]bool   // letters that were taken out, if set

	members      map[uint64]*member
	letters      []*letter // by number
	lettersBySum map[uint64]*letter
	reply        *letter // see replied

	seen     map[uint64]struct{} // hashes of all worlds that were visited
	trails   []trail             // to them, in order
	first    world
	frontier []world // of the depth before
	next     []world // of the present depth
	full     bool    // this is enough
	found    *finding
}

// fault is what is wrong with the nodes, done after each step.
type fault func(*explorer, *process)

// scope says where an exploration starts and what bounds it.
type scope struct {
	name     string
	script   string // what leads from three new nodes to the first world
	preVotes bool
	commands int
	terms    Term // no node campaigns in a later one
	crashes  int  // of all nodes, after the script
	window   int  // entries under way to a follower

	joining string         // who is no founding member, and waits to be taken in
	changes []MemberChange // that a leader may be told to make, once, together
}

// world is a state of the cluster.
type world struct {
	members [3]*member
	letters []int32 // sorted; worlds share them
	past    *past
	sums    sums  // of all of it
	number  int32 // in the order of visiting
}

// past is what is to be remembered of how a world came about.
type past struct {
	commanded int // how many commands were given
	changed   int // how often the members were to be changed
	crashes   int
	leaders   []int // by term
	committed []committedEntry
	sums      sums
}

// committedEntry is an entry that some node knew to be committed, and the term in
// which the first one that did was.
type committedEntry struct {
	entrySum
	in Term
}

const nobody = -1

func (p *past) leader(term Term) int {
	if int(term) < len(p.leaders) {
		return p.leaders[term]
	}
	return nobody
}

// trail says how a world was first reached.
type trail struct {
	from int32
	node int8
	choice
}

// finding is a breach, and the way to it.
type finding struct {
	*breach
	depth int
	trail trail // from the last good world
}

func newExplorer(s scope) *explorer {
	return &explorer{
		scope: s, members: map[uint64]*member{}, lettersBySum: map[uint64]*letter{}, seen: map[uint64]struct{}{},
	}
}

func (x *explorer) checks(property string) bool { return !slices.Contains(x.skip, property) }

// explore visits worlds until it has seen so many, or all, or has found a
// breach. It tells about each depth.
func (x *explorer) explore(states int, tell func(format string, args ...any)) {
	start := time.Now()
	x.first = x.start()
	x.visit(x.first, trail{from: -1})
	for depth := 1; len(x.next) > 0 && !x.full && x.found == nil; depth++ {
		x.frontier, x.next = x.next, x.frontier[:0]
		for i := range x.frontier {
			if x.expand(&x.frontier[i]); x.found != nil || len(x.seen) >= states {
				x.full = true
				break
			}
		}
		if x.found != nil {
			x.found.depth = depth
		}
		note := ""
		if x.full {
			note = ", not all of them"
		}
		tell("depth %2d: %8d new states%s, %9d in all, %d states of a node, %d letters, %.1fs",
			depth, len(x.next), note, len(x.seen), len(x.members), len(x.letters), time.Since(start).Seconds())
	}
}

// expand visits all worlds that are one step away.
func (x *explorer) expand(w *world) {
	for node, m := range w.members {
		for _, c := range m.choices {
			if x.allowed(w, c) {
				x.follow(w, node, c)
			}
		}
	}
	for _, number := range w.letters {
		x.follow(w, x.letters[number].to, choice{delivered, number})
	}
}

// allowed reports whether a choice of a node is within the bounds.
func (x *explorer) allowed(w *world, c choice) bool {
	switch c.happening {
	case crashed, crashedLate:
		return w.past.crashes < x.crashes
	case commanded:
		return w.past.commanded == int(c.number)-1
	case reconfigured:
		return w.past.changed == 0
	default:
		return true
	}
}

// follow visits the world that a step leads to, unless it was visited before.
func (x *explorer) follow(w *world, node int, c choice) {
	if x.found != nil {
		return
	}
	to := trail{w.number, int8(node), c}
	next, b := x.after(w, node, c)
	if b != nil {
		x.found = &finding{breach: b, trail: to}
		return
	}
	if next.past != nil {
		x.visit(next, to)
	}
}

func (x *explorer) visit(w world, from trail) {
	key := w.sums.least()
	if x.plain || len(x.changes) > 0 { // changes tell the nodes apart
		key = w.sums[0]
	}
	if _, ok := x.seen[key]; ok {
		return
	}
	x.seen[key] = struct{}{}
	w.number = int32(len(x.trails))
	x.trails = append(x.trails, from)
	x.next = append(x.next, w)
}

// after returns the world after a step of one node, the zero world if it is the
// same as before.
func (x *explorer) after(w *world, node int, c choice) (world, *breach) {
	before := w.members[node]
	r := x.react(before, c)
	if r.broken != nil {
		return world{}, r.broken
	}
	sent := x.unknown(w, r.sent)
	if r.member == before && len(sent) == 0 {
		return world{}, nil
	}
	next := *w
	next.members[node] = r.member
	next.sums.replace(&before.sums, &r.member.sums)
	for _, p := range clusterProperties {
		if !x.checks(p.name) {
			continue
		}
		if b := p.check(&next, node); b != nil {
			return world{}, b
		}
	}
	next.record(node, c)
	x.mail(&next, node, before, sent)
	return next, nil
}

// unknown returns those of the letters that the world does not have.
func (x *explorer) unknown(w *world, sent []*letter) []*letter {
	var fresh []*letter
	for _, l := range sent {
		_, known := slices.BinarySearch(w.letters, l.number)
		if !known && !x.drop(l, w.members[l.to]) {
			fresh = append(fresh, l)
		}
	}
	return fresh
}

// arriving is a letter and the state of who it is for.
type arriving struct {
	member *member
	letter *letter
}

// drop reports whether a letter is to be taken out.
func (x *explorer) drop(l *letter, m *member) bool {
	drop := l.pointless(m)
	if drop && x.dropped != nil {
		x.dropped[arriving{m, l}] = true
	}
	return drop
}

// mail adds the letters that a node has sent, and takes out those to it that have
// become pointless.
func (x *explorer) mail(w *world, node int, before *member, sent []*letter) {
	b, a := before.core(), w.members[node].core()
	stands := b.role == a.role && b.currentTerm == a.currentTerm && before.durableTerm() == w.members[node].durableTerm()
	if stands && len(sent) == 0 {
		return
	}
	letters := make([]int32, 0, len(w.letters)+len(sent))
	for _, number := range w.letters {
		if l := x.letters[number]; !stands && l.to == node && x.drop(l, w.members[node]) {
			w.sums.replace(&l.sums, &sums{})
		} else {
			letters = append(letters, number)
		}
	}
	for _, l := range sent {
		w.sums.replace(&sums{}, &l.sums)
		letters = append(letters, l.number)
	}
	slices.Sort(letters)
	w.letters = letters
}

// record remembers what a step was, and whom it made a leader or to know of a
// committed entry.
func (w *world) record(node int, c choice) {
	core := w.members[node].core()
	leads := core.role == Leader && w.past.leader(core.currentTerm) == nobody
	if !c.crashes() && !leads && c.happening != commanded && c.happening != reconfigured && int(core.commitIndex) <= len(w.past.committed) {
		return
	}
	p := *w.past
	p.crashes += int(bit(c.crashes()))
	p.commanded += int(bit(c.happening == commanded))
	p.changed += int(bit(c.happening == reconfigured))
	if leads {
		p.leaders = slices.Clone(p.leaders)
		for len(p.leaders) <= int(core.currentTerm) {
			p.leaders = append(p.leaders, nobody)
		}
		p.leaders[core.currentTerm] = node
	}
	p.committed = slices.Clip(p.committed)
	for i := len(p.committed); i < int(core.commitIndex); i++ {
		p.committed = append(p.committed, committedEntry{w.members[node].log[i], core.currentTerm})
	}
	p.sums = p.sum()
	w.sums.replace(&w.past.sums, &p.sums)
	w.past = &p
}

func (p *past) sum() sums {
	words := []uint64{uint64(p.commanded), uint64(p.changed), uint64(p.crashes), uint64(len(p.leaders)), uint64(len(p.committed))}
	for term, leader := range p.leaders {
		if leader != nobody {
			words = append(words, uint64(term), numberWord(leader))
		}
	}
	for _, e := range p.committed {
		words = append(words, uint64(e.term), e.what, uint64(e.in))
	}
	var s sums
	s.add(words...)
	return s
}

// start returns the first world: three new nodes, and what the script makes of
// them. The crashes of the script do not count.
func (x *explorer) start() world {
	w := world{past: &past{}}
	for i := range w.members {
		w.members[i] = x.founded(i)
		w.sums.replace(&sums{}, &w.members[i].sums)
	}
	w.record(0, choice{})
	for _, line := range strings.Split(x.script, ";") {
		if words := strings.Fields(line); len(words) > 0 {
			w = x.perform(w, words)
		}
	}
	p := *w.past
	p.crashes = 0
	p.sums = p.sum()
	w.sums.replace(&w.past.sums, &p.sums)
	w.past = &p
	return w
}

// perform does one line of a script: "write a", say, or "append a b", which
// delivers such a letter, or "lose vote", which takes all of a kind away.
func (x *explorer) perform(w world, words []string) world {
	if words[0] == "lose" {
		return x.lose(w, words[1])
	}
	node := numberOf(NodeID(words[len(words)-1]))
	var choices []choice
	if i := slices.Index(scriptWords, words[0]); i >= 0 {
		choices = append(choices, choice{happening(i), int32(w.past.commanded) + 1})
	}
	for _, number := range slices.Backward(w.letters) { // the latest first
		if l := x.letters[number]; l.kind() == words[0] && l.to == node && string(exploredIDs[l.from]) == words[1] {
			choices = append(choices, choice{delivered, number})
		}
	}
	for _, c := range choices {
		next, b := x.after(&w, node, c)
		if b != nil {
			panic(fmt.Sprintf("%v: %s in\n%s", words, b.why, x.show(&w)))
		}
		if next.past != nil {
			return next
		}
	}
	panic(fmt.Sprintf("%v does nothing in\n%s", words, x.show(&w)))
}

// lose takes all letters of a kind out of a world.
func (x *explorer) lose(w world, kind string) world {
	var left []int32
	for _, number := range w.letters {
		if l := x.letters[number]; l.kind() == kind {
			w.sums.replace(&l.sums, &sums{})
		} else {
			left = append(left, number)
		}
	}
	w.letters = left
	return w
}

// scriptWords are what scripts call the things that happen to one node.
var scriptWords = []string{wroteDisk: "write", crashed: "crash", timedOut: "timeout", beatDue: "beat", commanded: "command", reconfigured: "change", departed: "depart"}

// coverage counts the steps that nodes made, by what happened to them, and those
// of them that replaced entries, and returns the highest commit index.
func (x *explorer) coverage() (steps [happenings]int, commit Index, replaced int) {
	for _, m := range x.members {
		commit = max(commit, m.core().commitIndex)
		for c, r := range m.reactions {
			steps[c.happening]++
			if n := min(len(m.log), len(r.member.log)); !c.crashes() && !slices.Equal(m.log[:n], r.member.log[:n]) {
				replaced++
			}
		}
	}
	return steps, commit, replaced
}

// kind is what scripts call such a letter.
func (l *letter) kind() string {
	kinds := [2]string{"append", "appended"}
	switch l.request.(type) {
	case *VoteRequest:
		kinds = [2]string{"vote", "voted"}
	case *Heartbeat:
		kinds = [2]string{"heartbeat", "heard"}
	case *TimeoutNow:
		kinds = [2]string{"successor", "succeeded"}
	}
	return kinds[bit(l.answer != nil)]
}

// tale tells the way from the first world to a breach, step by step.
func (x *explorer) tale(f *finding) string {
	steps := []trail{f.trail}
	for l := f.trail; x.trails[l.from].from >= 0; {
		l = x.trails[l.from]
		steps = append(steps, l)
	}
	w := x.first
	var b strings.Builder
	fmt.Fprintf(&b, "%s does not hold: %s\nat first:\n%s", f.property, f.why, x.show(&w))
	for i, l := range slices.Backward(steps) {
		fmt.Fprintf(&b, "%2d. %s\n", len(steps)-i, x.describe(l.node, l.choice))
		if i > 0 {
			w, _ = x.after(&w, int(l.node), l.choice)
		} else {
			w.members[l.node] = x.react(w.members[l.node], l.choice).member
		}
		fmt.Fprintf(&b, "      %s\n", w.members[l.node])
	}
	return b.String()
}

func (x *explorer) show(w *world) string {
	var b strings.Builder
	for _, m := range w.members {
		fmt.Fprintf(&b, "      %s\n", m)
	}
	for _, number := range w.letters {
		fmt.Fprintf(&b, "      under way: %s\n", x.letters[number])
	}
	return b.String()
}

func (x *explorer) describe(node int8, c choice) string {
	id := exploredIDs[node]
	switch c.happening {
	case delivered:
		return x.letters[c.number].String()
	case lostLetters:
		return fmt.Sprintf("%s takes for lost what %s has not answered", id, exploredIDs[c.number])
	case commanded:
		return fmt.Sprintf("%s is given command %d", id, c.number)
	default:
		return fmt.Sprint(id, " ", c.happening)
	}
}

func (h happening) String() string { return happeningWords[h] }

var happeningWords = []string{
	delivered: "is sent a letter", lostLetters: "takes letters for lost", commanded: "is given a command",
	wroteDisk: "ends its write", crashed: "crashes and restarts", crashedLate: "ends its write, crashes and restarts",
	timedOut: "has waited for a leader in vain", beatDue: "sends heartbeats", lostQuorum: "has lost its majority",
	reconfigured: "is to change the members", departed: "steps down, being no voter any more",
}

func (l *letter) String() string {
	message := l.request
	if l.answer != nil {
		message = l.answer
	}
	what := ""
	switch m := message.(type) {
	case *VoteRequest:
		what = fmt.Sprintf("asks for a vote, pre-vote %v, its log ends with %d@%d", m.PreVote, m.LastLogIndex, m.LastLogTerm)
	case *VoteResponse:
		what = fmt.Sprintf("grants the vote of term %d: %v, pre-vote %v", termIn(l.request), m.VoteGranted, m.PreVote)
	case *Heartbeat:
		what = fmt.Sprintf("sends a heartbeat, commit index %d", m.Commit)
	case *HeartbeatResponse:
		what = fmt.Sprintf("answers a heartbeat of term %d", termIn(l.request))
	case *TimeoutNow:
		what = "asks it to campaign"
	case *TimeoutNowResponse:
		what = fmt.Sprintf("campaigns as asked: %v", m.Started)
	case *AppendEntries:
		what = fmt.Sprintf("sends entries of terms [%s] behind %d@%d, commit index %d", termsOf(m.Entries), m.PrevLogIndex, m.PrevLogTerm, m.LeaderCommit)
	case *AppendResponse:
		what = fmt.Sprintf("answers entries of term %d: matches up to %d", termIn(l.request), m.Match)
		if !m.Success {
			what = fmt.Sprintf("answers entries of term %d: lacks entry %d, may agree up to %d@%d", termIn(l.request), m.PrevLogIndex, m.ConflictIndex, m.ConflictTerm)
		}
	}
	return fmt.Sprintf("%s to %s, in term %d: %s", exploredIDs[l.from], exploredIDs[l.to], termIn(message), what)
}

func (m *member) String() string {
	c := m.core()
	text := fmt.Sprintf("%s is a %s in term %d, vote for %q, log %s, commit index %d; on disk term %d, vote for %q, log %s",
		c.settings.id, c.role, c.currentTerm, c.votedFor, termsIn(m.log), c.commitIndex,
		m.storage.hardState.Term, m.storage.hardState.VotedFor, termsIn(m.disk))
	if len(c.earlier) > 0 || c.configuration.index != 1 {
		text += fmt.Sprintf(", members %s since %d", orNothing(c.configuration.String()), c.configuration.index)
	}
	if m.saving != nil {
		text += ", writing"
	}
	if m.removed {
		text += ", stopped"
	}
	return text
}

func termsIn(log []entrySum) string {
	words := make([]string, len(log))
	for i, e := range log {
		words[i] = fmt.Sprint(e.term)
	}
	return "[" + strings.Join(words, " ") + "]"
}

// The scopes of the exploration. From three new nodes even a first election takes
// many steps, so others start where it becomes interesting.
var scopes = []scope{
	{name: "new nodes, with pre-votes", preVotes: true, commands: 2, terms: 3, crashes: 1, window: 2},
	{name: "new nodes", commands: 2, terms: 3, crashes: 2, window: 2},
	{name: "a new leader", script: newLeader, commands: 2, terms: 4, crashes: 2, window: 2},
	{name: "two commands under way", script: twoCommands, commands: 2, terms: 4, crashes: 2, window: 2},
	{name: "a long old log", script: longOldLog, commands: 2, terms: 4, crashes: 2, window: 2},
	{name: "entries of three terms", script: threeTerms, commands: 2, terms: 5, crashes: 2, window: 2},

	// In these the members change. The last three begin in the middle of that.
	{name: "a third voter", script: twoVoters, commands: 1, terms: 4, crashes: 1, window: 2, joining: "c", changes: adds("c")},
	{name: "the leader is taken out", script: leaderLeaves, commands: 1, terms: 4, crashes: 1, window: 2, changes: []MemberChange{removes("a")}},
	{name: "a follower is replaced", script: jointPhase, commands: 1, terms: 4, crashes: 1, window: 1, joining: "c", changes: append(adds("c"), removes("b"))},
	{name: "the leader is replaced", script: jointEnds, commands: 1, terms: 4, crashes: 1, window: 1, joining: "c", changes: append(adds("c"), removes("a"))},
	{name: "one voter gives way to two", script: oneVoter, commands: 1, terms: 4, crashes: 1, window: 1, joining: "bc", changes: append(append(adds("b"), adds("c")...), removes("a"))},
}

// adds is the change that takes in a voter.
func adds(id NodeID) []MemberChange {
	return []MemberChange{{ChangeAdd, Member{ID: id, Address: "address " + string(id), Role: Voter}}}
}

const (
	// newLeader makes a the leader of term 2, with its first entry on its disk.
	newLeader = `timeout a; write a; vote a b; write b; vote a c; write c;
		voted b a; write a; lose vote`
	// twoVoters makes a the leader of a and b, with its first entry committed.
	twoVoters = `timeout a; write a; vote a b; write b; voted b a; write a; lose vote;
		append a b; write b; appended b a; lose heartbeat`
	// leaderLeaves has the leader of a, b and c take itself out, which b has on its disk.
	leaderLeaves = newLeader + `; append a b; write b; appended b a; change a; write a; append a b; write b;
		append a c; write c; appended c a; lose heartbeat`
	// jointPhase has them enter a joint phase with c, which has all that was before it.
	jointPhase = twoVoters + `; change a; write a; append a b; appended b a; append a b; write b;
		append a c; write c; appended c a; append a c; appended c a;
		append a c; write c; appended c a; append a c; write c; lose heartbeat`
	// jointEnds has all of them have that entry, and b the one that ends the phase.
	jointEnds = jointPhase + `; appended c a; append a c; write c; appended b a; appended c a; write a;
		append a b; write b; append a c; lose heartbeat`
	// oneVoter has a, which is alone, enter a joint phase with b and c, and these have
	// the entry that says so before a has it on its disk.
	oneVoter = `write a; write a; change a;
		append a b; write b; appended b a; append a b; appended b a;
		append a b; write b; appended b a; append a b; write b; appended b a; append a b; write b;
		append a c; write c; appended c a; append a c; appended c a;
		append a c; write c; appended c a; append a c; write c; appended c a; append a c; lose heartbeat`
	// twoCommands gives that leader both commands. The first entry is committed, the
	// first command is on a majority of disks without the leader knowing it, and
	// the third node has nothing yet.
	twoCommands = newLeader + `; append a b; write b; appended b a;
		command a; write a; append a b; write b; command a; write a; lose heartbeat`
	// longOldLog leaves a with a command of term 2 that nobody else has, while b leads
	// term 3 and has its first entry on a majority of disks, without knowing it (§3.6.1).
	longOldLog = newLeader + `; command a; write a; lose append; timeout b; write b; vote b c; write c; voted c b; write b;
		crash a; vote b a; write a; append b c; write c; lose vote; lose heartbeat`
	// threeTerms leads into the story of figure 3.7 of the thesis (§3.6.2): a has
	// led term 2 and b term 3, each with an entry that nobody else has, and a leads
	// again, in term 4. It has brought the entry of term 2 to a majority.
	threeTerms = `timeout a; write a; vote a b; write b; vote a c; write c; voted c a; write a;
		timeout b; write b; vote b c; write c; voted c b; write b;
		crash a; vote b a; write a; lose vote; lose append;
		timeout a; write a; vote a c; write c; voted c a; write a; append a b; write b;
		append a c; appended c a; append a c; appended c a; append a c; write c;
		lose vote; lose heartbeat`
)

// No interleaving of whatever may happen breaks a property.
func TestExploration(t *testing.T) {
	t.Parallel()
	for _, s := range scopes {
		t.Run(s.name, func(t *testing.T) {
			t.Logf("%d commands, %d crashes, terms up to %d, %d entries under way to a follower, pre-votes %v", s.commands, s.crashes, s.terms, s.window, s.preVotes)
			x := newExplorer(s)
			x.explore(statesToExplore(), t.Logf)
			if x.found != nil {
				require.Fail(t, "a property is broken", "after %d steps: %s", x.found.depth, x.tale(x.found))
			}
			steps, commit, replaced := x.coverage()
			t.Logf("highest commit index %d; of the distinct steps of a node %d replaced entries", commit, replaced)
			for h, n := range steps {
				t.Logf("%7d steps: a node %s", n, happening(h))
				elective := happening(h) == commanded || happening(h) == departed || happening(h) == reconfigured && len(s.changes) == 0
				require.True(t, n > 0 || s.script == "" || elective, "no node ever %s", happening(h))
			}
		})
	}
}
