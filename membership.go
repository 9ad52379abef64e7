package raft

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/seed-8da499c8/raft/internal/quorum"
	"github.com/seed-8da499c8/raft/internal/wire"
)

// MemberRole says what a member counts for. The numbers are part of the
// protocol and of the disk format.
type MemberRole uint8

// The roles of members. A Learner is sent everything and counts for nothing
// (thesis §4.2.1). A member is Leaving while a joint phase that takes it out has not
// ended: it was a voter, and counts as one of the configuration that is left (§4.3).
const (
	Voter   MemberRole = 1
	Learner MemberRole = 2
	Leaving MemberRole = 3
)

func (r MemberRole) String() string {
	switch r {
	case Voter:
		return "voter"
	case Learner:
		return "learner"
	case Leaving:
		return "leaving"
	default:
		return fmt.Sprintf("member role(%d)", uint8(r))
	}
}

// MarshalText makes roles readable in JSON.
func (r MemberRole) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (r *MemberRole) UnmarshalText(text []byte) error {
	for role := Voter; role <= Leaving; role++ {
		if role.String() == string(text) {
			*r = role
			return nil
		}
	}
	return fmt.Errorf("raft: %q is not the role of a member", text)
}

// Member is a node that takes part in a cluster.
type Member struct {
	ID      NodeID     `json:"id"`
	Address string     `json:"address"`
	Role    MemberRole `json:"role"`

	// Priority is how much the member is preferred as leader: leadership drifts to
	// an up-to-date voter of the highest one. Default 0.
	Priority uint8 `json:"priority,omitempty"`

	// Metadata is the application's: raft hands it to all members, in Status. At
	// most 4 KiB.
	Metadata []byte `json:"metadata,omitempty"`
}

// origin is what else a configuration says of a member.
type origin struct {
	added Index  // the entry that added it; 0: it is a founding member
	met   uint64 // the incarnation in which the leader of this entry had met it; 0: it had not
}

// maxMetadataBytes bounds the metadata of a member.
const maxMetadataBytes = 4 << 10

// configuration is who takes part, as an entry of the log says (thesis ch. 4).
type configuration struct {
	index    Index
	members  []Member // sorted by ID
	origins  map[NodeID]origin
	incoming []NodeID // the voters, in a joint phase of the configuration that is entered, sorted
	outgoing []NodeID // in a joint phase: the voters of the configuration that is left, sorted; else none
	data     []byte   // what it was decoded from
}

// isJoint reports whether both of two configurations must agree to everything (§4.3).
func (c configuration) isJoint() bool { return len(c.outgoing) > 0 }

// isVoter reports whether id counts, in a joint phase in either half.
func (c configuration) isVoter(id NodeID) bool {
	return slices.Contains(c.incoming, id) || slices.Contains(c.outgoing, id)
}

// voters returns how many count, in a joint phase in either half.
func (c configuration) voters() int {
	n := len(c.incoming)
	for _, id := range c.outgoing {
		n += int(bit(!slices.Contains(c.incoming, id)))
	}
	return n
}

// reached returns the largest value that a majority has reached, in a joint phase a
// majority of either half. Nobody else is asked for a value.
func (c configuration) reached(value func(NodeID) uint64) uint64 {
	incoming, outgoing := make([]uint64, 0, 16), make([]uint64, 0, 16)
	for _, id := range c.incoming {
		incoming = append(incoming, value(id))
	}
	for _, id := range c.outgoing {
		outgoing = append(outgoing, value(id))
	}
	return quorum.ReachedByBoth(incoming, outgoing)
}

// String lists the members.
func (c configuration) String() string {
	var words []string
	for _, m := range c.members {
		words = append(words, fmt.Sprintf("%s (%s)", m.ID, m.Role))
	}
	if c.isJoint() {
		return "joint: " + strings.Join(words, ", ")
	}
	return strings.Join(words, ", ")
}

// quorumWords says how many must agree.
func (c configuration) quorumWords() string {
	words := fmt.Sprintf("%d of %d voters", quorum.Majority(len(c.incoming)), len(c.incoming))
	if c.isJoint() {
		words += fmt.Sprintf(" and %d of the %d before", quorum.Majority(len(c.outgoing)), len(c.outgoing))
	}
	return words
}

func byID(a, b Member) int { return cmp.Compare(a.ID, b.ID) }

// member returns the member of that id.
func (c configuration) member(id NodeID) (Member, bool) {
	i, ok := slices.BinarySearchFunc(c.members, Member{ID: id}, byID)
	if !ok {
		return Member{}, false
	}
	return c.members[i], true
}

// addressBook returns where the members listen, and those that have left not long ago.
func (c *core) addressBook() map[NodeID]string {
	book := map[NodeID]string{}
	for _, one := range append(slices.Clip(c.earlier), c.configuration) {
		for _, m := range one.members {
			book[m.ID] = m.Address
		}
	}
	return book
}

// encode returns the data of a configuration entry,
//
//	[[[id, address, role, priority, metadata, added, met], ...], [outgoing id, ...]]
//
// without what is zero at the end of a member, and without outgoing ones if there are
// none: the same bytes for the same members.
func (c configuration) encode() []byte {
	fields := 1
	if c.isJoint() {
		fields = 2
	}
	dst := wire.AppendArrayLen(nil, fields)
	dst = wire.AppendArrayLen(dst, len(c.members))
	for _, m := range c.members {
		dst = m.encode(dst, c.origins[m.ID])
	}
	if !c.isJoint() {
		return dst
	}
	dst = wire.AppendArrayLen(dst, len(c.outgoing))
	for _, id := range c.outgoing {
		dst = wire.AppendString(dst, string(id))
	}
	return dst
}

func (m Member) encode(dst []byte, from origin) []byte {
	fields := 3
	switch {
	case from.met > 0:
		fields = 7
	case from.added > 0:
		fields = 6
	case len(m.Metadata) > 0:
		fields = 5
	case m.Priority > 0:
		fields = 4
	}
	dst = wire.AppendArrayLen(dst, fields)
	dst = wire.AppendString(dst, string(m.ID))
	dst = wire.AppendString(dst, m.Address)
	dst = wire.AppendUint(dst, uint64(m.Role))
	if fields > 3 {
		dst = wire.AppendUint(dst, uint64(m.Priority))
	}
	if fields > 4 {
		dst = wire.AppendBytes(dst, m.Metadata)
	}
	if fields > 5 {
		dst = wire.AppendUint(dst, uint64(from.added))
	}
	if fields > 6 {
		dst = wire.AppendUint(dst, from.met)
	}
	return dst
}

// decodeConfiguration reads what encode wrote; further fields are ignored.
func decodeConfiguration(index Index, data []byte) (configuration, error) {
	c := configuration{index: index, data: data, origins: map[NodeID]origin{}}
	r := wire.NewReader(data)
	fields := r.ArrayLen()
	for range r.ArrayLen() {
		n := r.ArrayLen()
		m := Member{ID: NodeID(r.String(maxIDBytes)), Address: r.String(maxAddressBytes), Role: MemberRole(r.Uint())}
		if n > 3 {
			m.Priority = uint8(min(r.Uint(), math.MaxUint8))
		}
		if n > 4 {
			m.Metadata = r.Bytes()
		}
		var from origin
		if n > 5 {
			from.added = Index(r.Uint())
		}
		if n > 6 {
			from.met = r.Uint()
		}
		r.Skip(n - max(3, min(n, 7)))
		c.members = append(c.members, m)
		c.origins[m.ID] = from
		if m.Role == Voter {
			c.incoming = append(c.incoming, m.ID)
		}
	}
	if fields > 1 {
		for range r.ArrayLen() {
			c.outgoing = append(c.outgoing, NodeID(r.String(maxIDBytes)))
		}
	}
	r.Skip(fields - max(1, min(fields, 2)))
	if r.Err() != nil {
		return configuration{}, fmt.Errorf("%w: configuration entry %d: %w", ErrInvalidMessage, index, r.Err())
	}
	if err := c.check(); err != nil {
		return configuration{}, fmt.Errorf("%w: configuration entry %d: %w", ErrInvalidMessage, index, err)
	}
	return c, nil
}

// check reports what no configuration is like.
func (c configuration) check() error {
	for _, m := range c.members {
		if !m.ID.valid() || m.Role < Voter || m.Role > Leaving || m.Role == Leaving && !slices.Contains(c.outgoing, m.ID) {
			return fmt.Errorf("member %q is a %s", m.ID, m.Role)
		}
	}
	switch {
	case len(c.incoming) == 0:
		return errors.New("it has no voters")
	case !areInOrder(c.members, byID) || !areInOrder(c.outgoing, cmp.Compare):
		return errors.New("its members are not in order")
	case slices.ContainsFunc(c.outgoing, func(id NodeID) bool { _, ok := c.member(id); return !ok }):
		return errors.New("a voter of the configuration that is left is no member")
	default:
		return nil
	}
}

// areInOrder reports whether each element is less than the next, so that none is there
// twice: a voter that is would count twice.
func areInOrder[E any](list []E, compare func(a, b E) int) bool {
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			return false
		}
	}
	return true
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
		Configurations: []ConfigurationEntry{{1, data}},
	}
	return SaveBatch{
		HardState: state,
		Commit:    1,
		Entries:   MakeEntries(LogEntry{Term: 1, Index: 1, Kind: EntryConfiguration, Data: data}),
	}
}

// soleVoter reports whether this node alone is a majority.
func (c *core) soleVoter() bool {
	return !c.configuration.isJoint() && len(c.configuration.incoming) == 1 && c.configuration.incoming[0] == c.settings.id
}

// meet checks a member's incarnation against the one that it was first met in,
// which it records at the first contact. What such a member says counts once
// the record is durable; true says that it is. Our nodes always tell theirs; 0
// is from a peer of another make that does not, and is not checked.
func (c *core) meet(id NodeID, incarnation uint64) (bool, error) {
	if incarnation == 0 {
		return true, nil
	}
	i, known := c.contact(id)
	if known && c.contacts[i].Incarnation == contested {
		return false, fmt.Errorf("%w: %s was met with two disks since it was taken in: what it promised with one of them is lost, and it does not count until it is taken out and added again", ErrOtherDisk, id)
	}
	if known && c.contacts[i].Incarnation != incarnation {
		return false, fmt.Errorf("%w: %s was first met as %016x and is now %016x: what it promised before is lost, and it does not count until it is taken out and added again", ErrOtherDisk, id, c.contacts[i].Incarnation, incarnation)
	}
	if !known {
		c.contacts = slices.Insert(slices.Clone(c.contacts), i, Contact{id, incarnation})
		c.lastMet = c.remember()
	}
	return c.lastMet <= c.durable, nil
}

// contact returns where the record of a member is, or belongs.
func (c *core) contact(id NodeID) (i int, known bool) {
	return slices.BinarySearchFunc(c.contacts, id, func(contact Contact, id NodeID) int { return cmp.Compare(contact.ID, id) })
}

// contested is on record of a member that was met with two disks since it was taken in. It
// has lost what it promised with one of them, and who met it cannot know with which: so
// neither counts.
const contested = math.MaxUint64

// learnContacts learns a leader's records of members: a disk that anybody lost since they
// were taken in does not count here either.
func (c *core) learnContacts(contacts []Contact) {
	for _, contact := range contacts {
		if _, member := c.configuration.member(contact.ID); member {
			c.learnContact(contact)
		}
	}
}

// learnContact takes over what a leader has on record of a member. If this node has met that
// with another disk, cut off from those who know better perhaps, it is contested.
func (c *core) learnContact(contact Contact) {
	if contact.ID == c.settings.id {
		return
	}
	if _, err := c.meet(contact.ID, contact.Incarnation); err == nil {
		return
	}
	if i, _ := c.contact(contact.ID); c.contacts[i].Incarnation != contested {
		c.contacts = slices.Clone(c.contacts)
		c.contacts[i].Incarnation = contested
		c.lastMet = c.remember()
	}
}

// sortedKeys returns the keys of m in order, so that no order of map iteration
// leaks into anything.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
