package raft

import (
	"fmt"
	"slices"
)

// The configurations of a log (thesis §4.1): each is in force from the moment when its
// entry is appended, committed or not, and goes with its entry if that is replaced.

// adopt takes a configuration into force whose entry was appended.
func (c *core) adopt(next configuration) {
	c.meetAnew(next)
	if c.configuration.index > 0 {
		c.earlier = append(slices.Clip(c.earlier), c.configuration)
	}
	c.inForce(next)
	c.remember()
}

// meetAnew forgets what was on record of members that were added since: they come with
// another disk, perhaps, and are met anew. Of those that this node has not met itself it
// takes over what the leader knew: a newcomer must not count who has lost its disk
// before it came. Who was met with another disk by this node is contested.
func (c *core) meetAnew(next configuration) {
	c.contacts = slices.DeleteFunc(slices.Clone(c.contacts), func(contact Contact) bool {
		_, member := next.member(contact.ID)
		asKnown := func(one configuration) bool {
			_, known := one.member(contact.ID)
			return known && one.origins[contact.ID].added == next.origins[contact.ID].added
		}
		// One that a snapshot replaces may have taken it out, and never have been committed.
		return member && !asKnown(c.configuration) && !slices.ContainsFunc(c.earlier, asKnown)
	})
	for _, m := range next.members {
		if met := next.origins[m.ID].met; met > 0 {
			c.learnContact(Contact{m.ID, met})
		}
	}
}

// inForce puts a configuration into force.
func (c *core) inForce(next configuration) {
	_, member := next.member(c.settings.id)
	c.configuration = next
	c.belonged = c.belonged || member
	c.reconfigured++
}

// adoptFrom takes the configurations among entries into force that were appended.
func (c *core) adoptFrom(entries Entries) error {
	for entry := range entries.All() {
		if entry.Kind != EntryConfiguration {
			continue
		}
		next, err := decodeConfiguration(entry.Index, slices.Clone(entry.Data))
		if err != nil {
			return c.fail(fmt.Errorf("raft: node %s: %w", c.settings.id, err))
		}
		c.adopt(next)
	}
	return nil
}

// rollBack puts the configuration back into force that was before entries from an
// index on, which are replaced.
func (c *core) rollBack(first Index) {
	for c.configuration.index >= first && len(c.earlier) > 0 {
		last := len(c.earlier) - 1
		before := c.earlier[last]
		c.earlier = c.earlier[:last]
		c.inForce(before)
		c.remember()
	}
}

// configurationAt returns the one that is in force at an entry: what a snapshot of it
// says (§5.1).
func (c *core) configurationAt(index Index) configuration {
	at := c.configuration
	for i := len(c.earlier) - 1; i >= 0 && at.index > index; i-- {
		at = c.earlier[i]
	}
	return at
}

// forgetConfigurations forgets those that no entry which is kept was appended under.
func (c *core) forgetConfigurations() {
	n := 0
	for n < len(c.earlier) {
		next := c.configuration
		if n+1 < len(c.earlier) {
			next = c.earlier[n+1]
		}
		if next.index > c.log.compacted.Index {
			break
		}
		n++
	}
	c.earlier = slices.Clone(c.earlier[n:])
	c.forgetStrangers()
}

// forgetStrangers forgets the disks of those who are members in no configuration that is
// kept: the one that took them out is committed, and taken in again they are met anew.
func (c *core) forgetStrangers() {
	known := len(c.contacts)
	c.contacts = slices.DeleteFunc(slices.Clone(c.contacts), func(contact Contact) bool {
		isMember := func(one configuration) bool { _, is := one.member(contact.ID); return is }
		return !isMember(c.configuration) && !slices.ContainsFunc(c.earlier, isMember)
	})
	if len(c.contacts) < known {
		c.remember()
	}
}

// configurationEntries returns what is to be kept of the configurations.
func (c *core) configurationEntries() []ConfigurationEntry {
	var entries []ConfigurationEntry
	for _, one := range c.earlier {
		entries = append(entries, ConfigurationEntry{one.index, one.data})
	}
	if c.configuration.index > 0 {
		entries = append(entries, ConfigurationEntry{c.configuration.index, c.configuration.data})
	}
	return entries
}

// loadConfigurations takes over what the storage has kept beside the log. A write may
// have said more than has become of the log, or than is needed of it by now.
func (c *core) loadConfigurations(entries []ConfigurationEntry) error {
	for _, entry := range entries {
		if entry.Index > c.log.last() {
			break
		}
		one, err := decodeConfiguration(entry.Index, entry.Data)
		if err != nil {
			return err
		}
		if c.configuration.index > 0 {
			c.earlier = append(c.earlier, c.configuration)
		}
		c.inForce(one)
	}
	c.forgetConfigurations()
	if _, member := c.configuration.member(c.settings.id); c.settings.join && !member {
		c.belonged = false // it has been taken out, and is to wait until it is added again
	}
	if c.configuration.index == 0 && !c.settings.join {
		return fmt.Errorf("raft: storage of node %q holds no configuration", c.settings.id)
	}
	return nil
}
