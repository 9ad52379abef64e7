package sim

import "fmt"

// Observation is what a judge is shown of a node: the numbers of Raft, and a way
// to look at its log.
type Observation struct {
	Node      int
	Life      int // counts its processes
	Term      uint64
	Vote      uint64 // whom it voted for in Term; 0: nobody, else any number for each
	OnDisk    Ballot // what it has made durable of these two
	Leads     bool
	Commit    uint64
	Applied   uint64
	First     uint64 // of the log, with what is compacted taken off
	Last      uint64
	Forgotten uint64 // the term of the entry before First; 0: none was forgotten
	Held      []Held // what it keeps in memory

	// Members are the configurations that it knows, in order: the last is in force.
	Members []Configuration

	// Entry returns the term of an entry, and a digest of it with its term.
	Entry func(index uint64) (term, digest uint64)
}

// Held is what a node keeps in memory of one kind, in bytes, and how much that may
// be. A bound for all of it would let most of it leak.
type Held struct {
	What        string
	Bytes, Most int
}

// Ballot is a term, and whom a node voted for in it.
type Ballot struct{ Term, Vote uint64 }

// Judge knows all that was seen of a cluster, and finds out whether it broke a
// promise. Each promise has a function of its own.
type Judge struct {
	leaders   map[uint64]int    // by term
	entries   map[place]history // of every log that was seen
	committed []commitment      // by index, from 1 on
	nodes     map[int]*known
	votes     map[Ballot]map[int]bool // who was seen to have given them, on its disk
	kept      map[int]Mark            // how far the logs on disks have got
	aside     map[int]bool            // who does not count: it has lost its disk
	verdict   error
}

// place is where an entry stands. All entries that stand there are equal.
type place struct{ index, term uint64 }

// history is an entry, and the term of the one before it.
type history struct{ digest, before uint64 }

// commitment is what was committed at an index, and under which term first.
type commitment struct{ term, digest, in uint64 }

// known is what was seen of a node before.
type known struct {
	last    Observation
	checked uint64 // up to here its log was looked at, as it was then
	term    uint64 // of the entry there
}

// NewJudge returns a judge who has seen nothing yet.
func NewJudge() *Judge {
	return &Judge{leaders: map[uint64]int{}, entries: map[place]history{}, nodes: map[int]*known{}, votes: map[Ballot]map[int]bool{}, kept: map[int]Mark{}, aside: map[int]bool{}}
}

// Verdict returns the first promise that was broken; nil: none.
func (j *Judge) Verdict() error { return j.verdict }

// Accuse notes that a promise was broken.
func (j *Judge) Accuse(promise, format string, args ...any) {
	if j.verdict == nil {
		j.verdict = fmt.Errorf("%s: %s", promise, fmt.Sprintf(format, args...))
	}
}

// Committed returns how many entries were ever seen committed.
func (j *Judge) Committed() uint64 { return uint64(len(j.committed)) }

// Observe looks at a node, after each thing that has happened to it.
func (j *Judge) Observe(o Observation) {
	k := j.nodes[o.Node]
	if k == nil {
		k = &known{}
		j.nodes[o.Node] = k
	}
	j.neverBack(o, k)
	j.oneLeader(o)
	j.logMatching(o, k)
	j.commitsStay(o, k)
	j.forgetsCommitted(o)
	j.leaderIsComplete(o, k)
	j.memoryIsBounded(o)
	j.oneChangeAtATime(o)
	j.votersElect(o, k)
	j.votersCommit(o, k)
	k.last = o
	k.last.Entry, k.last.Held = nil, nil
}

// neverBack: term and vote in a term never go back, and within a process neither
// do the commit index and the applied index (figure 3.1, persistent and volatile
// state). A process that has ended is remembered by what was on its disk.
func (j *Judge) neverBack(o Observation, k *known) {
	was, before := k.last, Ballot{k.last.Term, k.last.Vote}
	if o.Life != was.Life {
		before = was.OnDisk
	}
	switch {
	case o.Term < before.Term:
		j.Accuse("monotone term", "node %d goes from term %d to %d", o.Node, before.Term, o.Term)
	case o.Term == before.Term && before.Vote != 0 && o.Vote != before.Vote:
		j.Accuse("one vote a term", "node %d votes for %d and for %d in term %d", o.Node, before.Vote, o.Vote, o.Term)
	case o.Life == was.Life && (o.Commit < was.Commit || o.Applied < was.Applied):
		j.Accuse("monotone commit", "node %d goes from commit index %d to %d, applied %d to %d", o.Node, was.Commit, o.Commit, was.Applied, o.Applied)
	case o.Applied > o.Commit || o.Commit > o.Last:
		j.Accuse("order of indexes", "node %d has applied %d, committed %d, last %d", o.Node, o.Applied, o.Commit, o.Last)
	}
}

// oneLeader: a term has at most one leader (Election Safety, figure 3.2).
func (j *Judge) oneLeader(o Observation) {
	if !o.Leads {
		return
	}
	if other, ok := j.leaders[o.Term]; ok && other != o.Node {
		j.Accuse("election safety", "nodes %d and %d lead term %d", other, o.Node, o.Term)
	}
	j.leaders[o.Term] = o.Node
}

// logMatching: entries of equal index and term are equal, and follow an entry of
// the same term, so by induction whole logs are equal up to there (Log Matching,
// figure 3.2).
func (j *Judge) logMatching(o Observation, k *known) {
	from := max(o.First, 1)
	if k.checked >= from && k.last.Life == o.Life && k.checked <= o.Last {
		if term, _ := o.Entry(k.checked); term == k.term {
			from = k.checked + 1 // what is before that was looked at, and has not changed
		}
	}
	before := o.Forgotten
	if from > max(o.First, 1) {
		before = k.term
	}
	for i := from; i <= o.Last; i++ {
		term, digest := o.Entry(i)
		at := place{i, term}
		if seen, ok := j.entries[at]; ok && (seen.digest != digest || i > max(o.First, 1) && seen.before != before) {
			j.Accuse("log matching", "entry %d of term %d on node %d differs from what another node had there", i, term, o.Node)
		} else if !ok {
			j.entries[at] = history{digest, before}
		}
		before = term
	}
	if k.checked, k.term = o.Last, o.Forgotten; o.Last >= o.First && o.Last > 0 {
		k.term, _ = o.Entry(o.Last)
	}
}

// commitsStay: what is committed at an index is the same on all nodes, for ever
// (State Machine Safety, figure 3.2).
func (j *Judge) commitsStay(o Observation, k *known) {
	from := max(o.First, 1)
	if k.last.Life == o.Life {
		from = max(from, k.last.Commit+1)
	}
	for i := from; i <= min(o.Commit, o.Last); i++ {
		term, digest := o.Entry(i)
		if n := uint64(len(j.committed)); i <= n {
			if c := j.committed[i-1]; c.term != term || c.digest != digest {
				j.Accuse("committed entries stay", "entry %d was committed with term %d, and with term %d on node %d", i, c.term, term, o.Node)
			}
			continue
		} else if i > n+1 {
			j.Accuse("committed entries stay", "node %d commits entry %d, the last that was ever seen is %d", o.Node, i, n)
			return
		}
		j.committed = append(j.committed, commitment{term, digest, o.Term})
	}
}

// forgetsCommitted: what a log has forgotten was committed, and is what all others
// have committed there (§5.1).
func (j *Judge) forgetsCommitted(o Observation) {
	if o.First <= 1 {
		return
	}
	if n := uint64(len(j.committed)); o.First-1 > n || j.committed[o.First-2].term != o.Forgotten {
		j.Accuse("only what is committed is forgotten", "node %d has forgotten entry %d of term %d, of %d that were ever seen committed", o.Node, o.First-1, o.Forgotten, n)
	}
}

// leaderIsComplete: a leader has every entry that was committed in an earlier
// term (Leader Completeness, figure 3.2).
func (j *Judge) leaderIsComplete(o Observation, k *known) {
	if !o.Leads || k.last.Leads && k.last.Term == o.Term && k.last.Life == o.Life {
		return
	}
	for i := uint64(len(j.committed)); i >= max(o.First, 1); i-- {
		c := j.committed[i-1]
		if c.in >= o.Term {
			continue
		}
		if i > o.Last {
			j.Accuse("leader completeness", "node %d leads term %d and lacks entry %d, committed in term %d", o.Node, o.Term, i, c.in)
		} else if term, _ := o.Entry(i); term != c.term {
			j.Accuse("leader completeness", "node %d leads term %d with entry %d of term %d, committed with term %d", o.Node, o.Term, i, term, c.term)
		}
		return // with log matching this holds for all before
	}
}

// memoryIsBounded: whatever a node keeps has a bound of its own.
func (j *Judge) memoryIsBounded(o Observation) {
	for _, h := range o.Held {
		if h.Bytes > h.Most {
			j.Accuse("bounded memory", "node %d holds %d bytes of %s, more than %d", o.Node, h.Bytes, h.What, h.Most)
		}
	}
}

// Promise says what a message that leaves a node promises: its own vote or term,
// or a log up to an index. On is what is on its disk. §3.8: a server must not
// forget what it has told others.
func (j *Judge) Promise(node int, what string, term, onTerm, index, onIndex uint64) {
	if term > onTerm || index > onIndex {
		j.Accuse("nothing is promised before it is durable", "node %d sends %s of term %d and index %d, its disk has term %d and index %d", node, what, term, index, onTerm, onIndex)
	}
}
