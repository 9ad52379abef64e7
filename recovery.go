package raft

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/seed-8da499c8/raft/internal/vfs"
	"github.com/seed-8da499c8/raft/internal/wal"
)

// The way back when a majority of the voters is lost for good: a survivor, which does
// not run, is made the only member of a cluster of its own.

// Survivor is what the data directory of a node holds that does not run.
type Survivor struct {
	ID          NodeID   `json:"id"`
	Fingerprint [16]byte `json:"-"`    // of its cluster
	Term        Term     `json:"term"` // the latest that it has seen

	// The log ends at LastIndex. What the others had beyond that is lost with them. Of
	// two survivors the one with the later LastTerm has more, and with equal ones the
	// one with the higher LastIndex.
	LastIndex Index `json:"last_index"`
	LastTerm  Term  `json:"last_term"`

	// Up to CommitIndex the entries are known to be committed. Those behind it may be
	// committed too, and acknowledged, or not: a survivor cannot tell.
	CommitIndex Index `json:"commit_index"`

	SnapshotIndex      Index    `json:"snapshot_index"`      // what the newest snapshot covers; 0: there is none
	ConfigurationIndex Index    `json:"configuration_index"` // of the last configuration in the log
	Members            []Member `json:"members"`             // as that says
}

// String tells what an operator wants to know before a recovery.
func (s Survivor) String() string {
	return fmt.Sprintf("node %s of cluster %x: its log ends at entry %d of term %d, and is known to be committed up to entry %d; its newest snapshot covers entry %d; the members are %s",
		s.ID, s.Fingerprint, s.LastIndex, s.LastTerm, s.CommitIndex, s.SnapshotIndex, configuration{members: s.Members})
}

// InspectSurvivor reads and checks the data directory of a node that does not run, and
// changes none of its files, unless a recovery was interrupted behind its decisive write,
// which then comes to its end. Compare what all survivors have before you recover one.
// Errors are those of [RecoverCluster].
func InspectSurvivor(dataDir string) (Survivor, error) {
	survivor, err := inspectSurvivor(vfs.OS(), filepath.ToSlash(dataDir))
	if err != nil {
		return Survivor{}, fmt.Errorf("raft: cannot inspect %s: %w", dataDir, err)
	}
	return survivor, nil
}

// RecoverCluster makes a node the only member of its cluster, for good, where a
// majority of the voters is lost for good and nothing can be committed any more. The node
// does not run; the call works in its data directory, and returns what was there
// before. Started again with the same Config the node leads, with all that its log
// holds, and others are added to it with [Node.AddVoter], from empty directories, with
// Config.Join, and under names that no member had before: as long as the log, or a snapshot,
// says who that was, an old name is refused.
//
// This is the one call that can lose what was acknowledged: what is not in this log is
// lost. The entries behind the commit index are kept, since they may have been
// acknowledged, and count as committed from then on. So recover one survivor only, the one
// whose log is longest (see [Survivor]), and only when the others are lost indeed: a
// majority that comes back goes on without it, with another history. To keep the two
// apart, the recovered cluster has a new fingerprint: its nodes and those from before
// refuse each other, with [ErrWrongCluster], and so do two survivors that were both
// recovered.
//
// Member says who the survivor is, as a check that the directory is the one that is
// meant. Its Address, Metadata and Priority stay as the log has them where they are zero.
// There are no others to be given: one that is gone must not be waited for, and one that
// joins is brought up to date before it counts.
//
// It happens in one write, behind everything else: after a crash, or an error of the disk,
// the directory is as it was, or recovered. The log gets a configuration as its last entry, in
// a term after all that it has seen; snapshots are copied, so there must be room for the
// newest one again. Keep a copy of the directory from before, and never run that.
//
// Errors: [ErrDataDirInUse] if a node runs on the directory, [ErrNoData] if none ever did,
// [*CorruptError] if it is damaged, and [ErrInvalidChange] if member is not the node of this
// directory, has a role other than [Voter] or zero or what no member may have, does not
// belong to the cluster, or is its only voter already: that one needs no recovery. With all
// of these no file was changed.
func RecoverCluster(dataDir string, member Member) (Survivor, error) {
	survivor, err := recoverCluster(vfs.OS(), filepath.ToSlash(dataDir), member)
	if err != nil {
		return Survivor{}, fmt.Errorf("raft: cannot recover a cluster from %s: %w", dataDir, err)
	}
	return survivor, nil
}

func inspectSurvivor(fs vfs.FS, dir string) (survivor Survivor, err error) {
	storage, err := openDiskStorage(fs, dir, wal.Options{ReadOnly: true})
	if err != nil {
		return Survivor{}, err
	}
	defer func() { err = errors.Join(err, storage.abandon()) }()
	c, err := survivingCore(storage)
	if err != nil {
		return Survivor{}, err
	}
	return c.survivor(), nil
}

// recoverCluster looks first, and refuses, before it opens the directory in a way that
// changes anything.
func recoverCluster(fs vfs.FS, dir string, member Member) (Survivor, error) {
	survivor, err := inspectSurvivor(fs, dir)
	if err != nil {
		return Survivor{}, err
	}
	if _, err := survivor.alone(member); err != nil {
		return Survivor{}, err
	}
	storage, err := openDiskStorage(fs, dir, wal.Options{SegmentBytes: 64 << 10, Inline: true, MustExist: true})
	if err != nil {
		return Survivor{}, err
	}
	if survivor, err = recoverStorage(storage, member); err != nil {
		return Survivor{}, errors.Join(err, storage.abandon())
	}
	return survivor, storage.Close()
}

// recoverStorage makes the change. The last Save is the moment: what is written before
// it is of no account until then.
func recoverStorage(storage *diskStorage, member Member) (Survivor, error) {
	c, err := survivingCore(storage)
	if err != nil {
		return Survivor{}, err
	}
	if err := saveAll(storage, c); err != nil {
		return Survivor{}, err
	}
	survivor := c.survivor()
	next, err := survivor.alone(member)
	if err != nil {
		return Survivor{}, err
	}
	rand.Read(c.settings.fingerprint[:]) // never fails
	if c.snapshot != (EntryID{}) {
		if err := storage.snapshots.files.CopyFor(c.settings.fingerprint, c.snapshot.file()); err != nil {
			return Survivor{}, diskError(err)
		}
	}
	if err := c.recoverAs(next); err != nil {
		return Survivor{}, err
	}
	if err := saveAll(storage, c); err != nil {
		return Survivor{}, err
	}
	return survivor, storage.snapshots.open(c.settings.fingerprint) // the copy takes its place
}

// survivingCore returns the core with which the node of a storage would start.
func survivingCore(storage *diskStorage) (*core, error) {
	state, err := storage.Load()
	if err != nil {
		return nil, err
	}
	if state.HardState.Incarnation == 0 {
		return nil, fmt.Errorf("%w: no node has ever run on it", ErrNoData)
	}
	hard := state.HardState
	c, err := newCore(coreSettings{id: hard.ID, fingerprint: hard.Fingerprint, incarnation: hard.Incarnation, electionTimeout: 1}, state, true, 0, 0)
	if err != nil {
		return nil, err
	}
	if err := storage.snapshots.open(hard.Fingerprint); err != nil {
		return nil, err
	}
	newest, _, err := storage.snapshots.newest(context.Background(), c.log.compacted.Index)
	switch {
	case err != nil:
		return nil, err
	case newest == nil && c.log.compacted.Index > 0:
		return nil, &CorruptError{File: storage.snapshots.dir, Reason: fmt.Sprintf("the snapshot of entry %d is missing, and the log starts behind that", c.log.compacted.Index)}
	case newest != nil:
		err = c.install(0, *newest)
	}
	return c, err
}

// saveAll makes durable what the core has and the storage has not, in as few steps as
// the core takes.
func saveAll(storage Storage, c *core) error {
	for {
		batch, more := c.takeWrite(0)
		if !more {
			return nil
		}
		if err := storage.Save(batch); err != nil {
			return err
		}
		c.step(0, written{})
	}
}

func (c *core) survivor() Survivor {
	return Survivor{
		ID: c.settings.id, Fingerprint: c.settings.fingerprint, Term: c.currentTerm,
		LastIndex: c.log.last(), LastTerm: c.log.lastTerm(), CommitIndex: c.commitIndex, SnapshotIndex: c.snapshot.Index,
		ConfigurationIndex: c.configuration.index, Members: c.configuration.members,
	}
}

// alone returns the configuration of a survivor that is the only member.
func (s Survivor) alone(member Member) (configuration, error) {
	known, belongs := configuration{members: s.Members}.member(s.ID)
	others := 0
	for _, m := range s.Members {
		if m.ID != s.ID && m.Role != Learner {
			others++
		}
	}
	switch {
	case member.ID != s.ID:
		return configuration{}, fmt.Errorf("%w: this is the directory of node %q, and %q is to be recovered", ErrInvalidChange, s.ID, member.ID)
	case member.Role != Voter && member.Role != 0:
		return configuration{}, fmt.Errorf("%w: %s is to be a %s: want a voter, who else could lead", ErrInvalidChange, s.ID, member.Role)
	case !belongs:
		return configuration{}, fmt.Errorf("%w: %s is no member of the cluster: those of entry %d are %s", ErrInvalidChange, s.ID, s.ConfigurationIndex, configuration{members: s.Members})
	case known.Role == Voter && others == 0:
		return configuration{}, fmt.Errorf("%w: %s is the only voter already, and needs no recovery", ErrInvalidChange, s.ID)
	}
	alone := Member{
		ID: s.ID, Role: Voter, Address: cmp.Or(member.Address, known.Address),
		Priority: cmp.Or(member.Priority, known.Priority), Metadata: bytes.Clone(member.Metadata),
	}
	if len(alone.Metadata) == 0 {
		alone.Metadata = known.Metadata
	}
	next := configuration{members: []Member{alone}, incoming: []NodeID{alone.ID}}
	return next, next.checkMembers()
}

// recoverAs makes a configuration the last entry of the log, all of it committed. It has a
// term of its own, in which nobody else can lead: it is voted for here. What was on
// record of others is of no use, since none of them may come back as who it was.
func (c *core) recoverAs(alone configuration) error {
	next, err := decodeConfiguration(c.log.last()+1, alone.encode())
	if err != nil {
		return err
	}
	c.currentTerm++
	c.votedFor = c.settings.id
	c.contacts, c.joined = nil, false // it founds a cluster
	c.log.appendRun(run{term: c.currentTerm, first: next.index, count: 1, body: appendEntry(nil, EntryConfiguration, next.data)})
	c.adopt(next)
	c.commitIndex = next.index
	return nil
}

// beforeRecovery reports whether id belonged to the cluster before it was recovered, and the
// log that is kept, or the snapshot before that, still says so. It must not join under that
// name: while it is sent what is old it would take itself for a voter, and with others
// like it for a majority, which has none of what the recovered cluster commits.
func (c *core) beforeRecovery(id NodeID) bool {
	history := append(slices.Clip(c.earlier), c.configuration)
	for i := len(history) - 1; i > 0; i-- {
		if history[i-1].leadsTo(history[i]) {
			continue
		}
		return slices.ContainsFunc(history[:i], func(old configuration) bool { _, belonged := old.member(id); return belonged })
	}
	return false
}

// leadsTo reports whether a leader may have entered next after this one. Anything else is a
// recovery.
func (c configuration) leadsTo(next configuration) bool {
	if c.isJoint() {
		return slices.Equal(c.incoming, next.incoming)
	}
	after := map[NodeID]Member{}
	for _, id := range next.incoming {
		after[id] = Member{ID: id, Role: Voter}
	}
	return next.isJoint() || !c.between(after).isJoint()
}
