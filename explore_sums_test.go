package raft

import "hash/fnv"

// The hashes of the exploration. They leave out what makes no difference to what
// can still happen: times and the random source, which the explorer overrules,
// the numbers of changes and of rounds, who waits for a command, and words for
// operators. Of a change of the hard state only this counts: is it durable, will
// it be with the write under way, or later.
//
// The algorithm treats all names alike, so a world is also hashed as it would be
// with its nodes renamed, in each of the six ways, and the least of these hashes
// stands for all six worlds.

// renamings are the permutations of the three nodes.
var renamings = [6][3]uint64{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}

// sums are the hashes of a part of a world, one for each renaming. Those of a
// whole are the sums of those of its parts, so that the order of the parts does
// not matter, and a step changes a few of them only.
type sums [6]uint64

// nameBit marks a word that is the number of a node.
const nameBit = 1 << 63

func nameWord(id NodeID) uint64 {
	if id == "" {
		return 0
	}
	return nameBit | uint64(numberOf(id))
}

func numberWord(node int) uint64 { return nameBit | uint64(node) }

// add adds a part: a sequence of numbers and names.
func (s *sums) add(words ...uint64) { s.addAround(sums{}, words...) }

// addAround adds a part that has another one in it.
func (s *sums) addAround(inner sums, words ...uint64) {
	for i, renamed := range renamings {
		h := inner[i] ^ uint64(len(words))
		for _, word := range words {
			if word&nameBit != 0 {
				word = nameBit | renamed[word&3]
			}
			h = mix(h ^ word)
		}
		s[i] += mix(h)
	}
}

// mix spreads every bit of a word over the whole of it.
func mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// replace takes one part out and puts another one in.
func (s *sums) replace(old, by *sums) {
	for i := range s {
		s[i] += by[i] - old[i]
	}
}

// least is the hash that stands for all renamings.
func (s *sums) least() uint64 { return min(s[0], s[1], s[2], s[3], s[4], s[5]) }

func digest(data []byte) uint64 {
	h := fnv.New64a()
	h.Write(data)
	return mix(h.Sum64()) &^ nameBit
}

func sumsOfLetter(l *letter) sums {
	words := []uint64{numberWord(l.from), numberWord(l.to), uint64(termIn(l.request))}
	if l.answer == nil {
		words = append(words, requestWords(l.request)...)
	} else {
		words = append(words, answerWords(l.request, l.answer)...)
	}
	var s sums
	s.add(words...)
	return s
}

func requestWords(request any) []uint64 {
	switch r := request.(type) {
	case *VoteRequest:
		return []uint64{1, uint64(r.LastLogIndex), uint64(r.LastLogTerm), bit(r.PreVote), bit(r.Transfer)}
	case *Heartbeat:
		return []uint64{2, uint64(r.Commit), uint64(r.Configuration)}
	case *TimeoutNow:
		return []uint64{7}
	default:
		a := r.(*AppendEntries)
		words := []uint64{3, uint64(a.PrevLogIndex), uint64(a.PrevLogTerm), uint64(a.LeaderCommit)}
		return append(words, entryWords(a.Entries.runs)...)
	}
}

// answerWords has of the request only what goes with the answer to the core.
func answerWords(request, answer any) []uint64 {
	switch r := answer.(type) {
	case *VoteResponse:
		return []uint64{4, bit(request.(*VoteRequest).PreVote), uint64(r.Term), bit(r.VoteGranted), bit(r.PreVote)}
	case *HeartbeatResponse:
		return []uint64{5, uint64(r.Term)}
	case *TimeoutNowResponse:
		return []uint64{8, uint64(r.Term), bit(r.Started)}
	default:
		a := r.(*AppendResponse)
		return []uint64{6, uint64(a.Term), bit(a.Success), uint64(a.Match), uint64(a.PrevLogIndex), uint64(a.ConflictIndex), uint64(a.ConflictTerm)}
	}
}

// entryWords has the batches too: they are sent as they are.
func entryWords(runs []run) []uint64 {
	words := []uint64{uint64(len(runs))}
	for _, r := range runs {
		words = append(words, uint64(r.term), uint64(r.first), uint64(r.count), digest(r.body))
	}
	return words
}

// sumsOf returns the hashes of a node. The names of the others come in no order
// of their own, so what belongs to each of them is a part.
func (x *explorer) sumsOf(m *member) sums {
	var s sums
	self := numberWord(m.self())
	s.add(append([]uint64{self, 1}, m.processWords()...)...)
	s.add(append([]uint64{self, 2}, m.diskWords()...)...)
	c := m.core()
	for id, b := range c.ballots {
		if b.granted { // others are words for operators
			s.add(self, 3, nameWord(id))
		}
	}
	for _, p := range c.peers {
		s.add(append([]uint64{self, 4, nameWord(p.id)}, p.words()...)...)
	}
	for _, r := range m.driver.requests {
		l := x.internLetter(letter{from: m.self(), to: numberOf(r.to), request: r.message})
		s.addAround(l.sums, self, 5, m.whenDurable(r.promise.change), uint64(r.promise.index), uint64(r.role), uint64(r.term))
	}
	for _, r := range m.driver.replies {
		x.addReply(&s, m, r, 6, 0)
	}
	for i, r := range m.driver.appendReplies { // these leave in their order
		x.addReply(&s, m, r, 7, i)
	}
	return s
}

func (x *explorer) addReply(s *sums, m *member, r reply, kind, place int) {
	if l := x.replied(r); l != nil {
		s.addAround(l.sums, numberWord(m.self()), uint64(kind), uint64(place), m.whenDurable(r.promise.change), uint64(r.promise.index), uint64(r.term))
	}
}

// whenDurable says of a change of the hard state when it is durable: now, with
// the write under way, or later.
func (m *member) whenDurable(change uint64) uint64 {
	return bit(change > m.core().durable) + bit(change > m.core().writing)
}

func (m *member) processWords() []uint64 {
	c := m.core()
	words := []uint64{
		uint64(c.currentTerm), nameWord(c.votedFor), uint64(c.role), nameWord(c.leader), uint64(c.commitIndex),
		m.whenDurable(c.remembered), uint64(m.driver.applied),
		uint64(c.log.end), uint64(c.log.durable), uint64(c.log.handed),
		bit(m.removed), bit(c.belonged), bit(c.departure > 0),
	}
	if c.role == Candidate {
		words = append(words, m.whenDurable(c.candidacy))
	}
	if c.isWriting {
		words = append(words, uint64(c.log.writing))
	}
	for _, start := range c.log.terms {
		words = append(words, uint64(start.First), uint64(start.Term))
	}
	return append(words, entryWords(c.log.runs)...)
}

func (m *member) diskWords() []uint64 {
	s := m.storage
	words := []uint64{uint64(s.hardState.Term), nameWord(s.hardState.VotedFor), uint64(s.commit)}
	words = append(words, entryWords(s.runs)...)
	if b := m.saving; b != nil {
		words = append(words, uint64(b.Commit))
		words = append(words, entryWords(b.Entries.runs)...)
		if b.HardState != nil {
			words = append(words, uint64(b.HardState.Term), nameWord(b.HardState.VotedFor))
		}
	}
	return words
}

func (p *progress) words() []uint64 {
	words := []uint64{uint64(p.match), uint64(p.next), uint64(p.sentCommit), bit(p.probing), bit(p.otherDisk), bit(p.reading), bit(p.left), bit(p.farewell > 0), bit(p.knows)}
	for _, f := range p.inflight {
		words = append(words, uint64(f.prev), uint64(f.last), uint64(f.bytes))
	}
	return words
}
