package raft

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"github.com/seed-8da499c8/raft/internal/wire"
)

// MemberRole says what a member counts for. The numbers are part of the
// protocol and of the disk format.
type MemberRole uint8

// The roles of members.
const (
	Voter MemberRole = 1
)

func (r MemberRole) String() string {
	if r == Voter {
		return "voter"
	}
	return fmt.Sprintf("member role(%d)", uint8(r))
}

// MarshalText makes roles readable in JSON.
func (r MemberRole) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (r *MemberRole) UnmarshalText(text []byte) error {
	if string(text) != Voter.String() {
		return fmt.Errorf("raft: %q is not the role of a member", text)
	}
	*r = Voter
	return nil
}

// Member is a node that takes part in a cluster.
type Member struct {
	ID      NodeID     `json:"id"`
	Address string     `json:"address"`
	Role    MemberRole `json:"role"`
}

// configuration is who takes part, as an entry of the log says (thesis ch. 4).
type configuration struct {
	index   Index
	members []Member // sorted by ID
	data    []byte   // what it was decoded from
}

// member returns the member of that id.
func (c configuration) member(id NodeID) (Member, bool) {
	i, ok := slices.BinarySearchFunc(c.members, id, func(m Member, id NodeID) int { return cmp.Compare(m.ID, id) })
	if !ok {
		return Member{}, false
	}
	return c.members[i], true
}

// addresses returns where the members listen.
func (c configuration) addresses() map[NodeID]string {
	book := make(map[NodeID]string, len(c.members))
	for _, m := range c.members {
		book[m.ID] = m.Address
	}
	return book
}

// encode returns the data of a configuration entry,
//
//	[[[id, address, role], ...]]
//
// the same bytes for the same members.
func (c configuration) encode() []byte {
	dst := wire.AppendArrayLen(nil, 1)
	dst = wire.AppendArrayLen(dst, len(c.members))
	for _, m := range c.members {
		dst = wire.AppendArrayLen(dst, 3)
		dst = wire.AppendString(dst, string(m.ID))
		dst = wire.AppendString(dst, m.Address)
		dst = wire.AppendUint(dst, uint64(m.Role))
	}
	return dst
}

// decodeConfiguration reads what encode wrote; further fields are ignored.
func decodeConfiguration(index Index, data []byte) (configuration, error) {
	c := configuration{index: index, data: data}
	r := wire.NewReader(data)
	fields := r.ArrayLen()
	for range r.ArrayLen() {
		n := r.ArrayLen()
		m := Member{ID: NodeID(r.String(maxIDBytes)), Address: r.String(maxAddressBytes), Role: MemberRole(r.Uint())}
		r.Skip(n - 3)
		c.members = append(c.members, m)
	}
	r.Skip(fields - 1)
	if r.Err() != nil {
		return configuration{}, fmt.Errorf("%w: configuration entry %d: %w", ErrInvalidMessage, index, r.Err())
	}
	if len(c.members) == 0 || !slices.IsSortedFunc(c.members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) }) {
		return configuration{}, fmt.Errorf("%w: configuration entry %d has no members, or not in order", ErrInvalidMessage, index)
	}
	return c, nil
}

// bootstrap returns what every founding node starts with: the members, sorted
// by id, as entry 1 of term 1, committed. The bytes are the same on each of
// them, and so is the cluster's fingerprint, which is made of its name and
// these bytes: nodes that were founded with other peers are another cluster's.
func bootstrap(config Config, incarnation uint64) SaveBatch {
	var first configuration
	for _, id := range sortedKeys(config.Peers) {
		first.members = append(first.members, Member{ID: id, Address: config.Peers[id], Role: Voter})
	}
	data := first.encode()
	sum := sha256.Sum256(append(wire.AppendString(nil, config.Cluster), data...))
	state := &HardState{
		ID: config.ID, Term: 1, Incarnation: incarnation, Fingerprint: [16]byte(sum[:16]),
		Configuration: ConfigurationEntry{1, data},
	}
	return SaveBatch{
		HardState: state,
		Commit:    1,
		Entries:   MakeEntries(LogEntry{Term: 1, Index: 1, Kind: EntryConfiguration, Data: data}),
	}
}

// loadConfiguration takes over the configuration that the storage has kept
// beside the log.
func (c *core) loadConfiguration(entry ConfigurationEntry) (err error) {
	if entry.Index == 0 {
		return fmt.Errorf("raft: storage of node %q holds no configuration", c.settings.id)
	}
	c.configuration, err = decodeConfiguration(entry.Index, entry.Data)
	return err
}

// isVoter reports whether id counts in elections and commits.
func (c *core) isVoter(id NodeID) bool {
	m, ok := c.configuration.member(id)
	return ok && m.Role == Voter
}

// soleVoter reports whether this node alone is a majority.
func (c *core) soleVoter() bool {
	return len(c.configuration.members) == 1 && c.isVoter(c.settings.id)
}

// meet checks a member's incarnation against the one that it was first met in,
// which it records at the first contact. What such a member says counts once
// the record is durable; true says that it is. Our nodes always tell theirs; 0
// is from a peer of another make that does not, and is not checked.
func (c *core) meet(id NodeID, incarnation uint64) (bool, error) {
	if incarnation == 0 {
		return true, nil
	}
	i, known := slices.BinarySearchFunc(c.contacts, id, func(contact Contact, id NodeID) int { return cmp.Compare(contact.ID, id) })
	if known && c.contacts[i].Incarnation != incarnation {
		return false, fmt.Errorf("%w: %s was first met as %016x and is now %016x: what it promised before is lost, and it does not count", ErrOtherDisk, id, c.contacts[i].Incarnation, incarnation)
	}
	if !known {
		c.contacts = slices.Insert(slices.Clone(c.contacts), i, Contact{id, incarnation})
		c.lastMet = c.remember()
	}
	return c.lastMet <= c.durable, nil
}

// learnContacts takes over a leader's records of members that this node has not
// met itself: a disk that anybody lost since does not count here either.
func (c *core) learnContacts(contacts []Contact) {
	for _, contact := range contacts {
		if _, member := c.configuration.member(contact.ID); member && contact.ID != c.settings.id {
			_, _ = c.meet(contact.ID, contact.Incarnation) // what this node knows itself goes first
		}
	}
}

// sortedKeys returns the keys of m in order, so that no order of map iteration
// leaks into anything.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
