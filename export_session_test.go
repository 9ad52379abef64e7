package raft

// On returns the client of a session as it is now, at another node: what both propose next is
// the same command of the session.
func (s *Session) On(n *Node) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	twin := newSession(n, s.id)
	twin.next, twin.acked = s.next, s.acked
	return twin
}
