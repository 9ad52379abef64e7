// Package raft replicates a log of commands over a small cluster of nodes with
// the Raft consensus algorithm, and applies it to a state machine of the user's.
// As long as a majority of the nodes runs and can talk to each other, commands
// are accepted; whatever was acknowledged is kept, in one order, on all of them.
//
// The algorithm is that of Diego Ongaro's thesis, "Consensus: Bridging Theory
// and Practice" (2014). Comments cite its sections as §3.4.
//
// # Usage
//
// A [StateMachine] is what is replicated. A [Transport] connects the nodes:
// [NewTCPTransport] between processes, [MemoryNetwork] in tests. A [Node] brings
// both together.
//
//	// start is what each of the three processes does, under its own id.
//	func start(ctx context.Context, id raft.NodeID) (*raft.Node, error) {
//		config := raft.NewConfig(id, peers[id], peers) // data in <id>.raft, see DataDir
//		transport := raft.NewTCPTransport(peers, 500*time.Millisecond)
//		node, err := raft.NewNode(config, new(counter), transport)
//		if err != nil {
//			return nil, err
//		}
//		go func() {
//			if err := node.Run(ctx); err != nil { // nil after ctx or node.Stop
//				log.Print(err)
//			}
//		}()
//		return node, nil
//	}
//
// Then node.Propose(ctx, command) returns what the state machine made of the
// command, on the leader; other nodes answer with a [*NotLeaderError] that
// names it. The examples below are complete, and README.md has tables of the
// errors and of the settings.
//
// # Guarantees
//
// Every member applies the same commands in the same order, each of them once. A read of
// a member's state machine after [Node.ReadIndex] sees all that was committed before.
// A command whose [Node.Propose] returned without an error, or with an
// [*ApplyError], stays in that order for ever. An error that matches
// [ErrNotAccepted] says that the command is not in the log and never will be;
// one that matches [ErrOutcomeUnknown], that this node cannot tell. No error is
// both, and every wait ends: with the ctx, with the loss of leadership, or with
// the node.
//
// That holds if members fail by stopping, not by lying, and if what a disk has
// synced is there when the node comes back: term, vote, log and snapshots are in
// Config.DataDir, and a node that is made again with it, after a crash or a power
// cut too, goes on where it was. It must never come back with less. Safety does
// not depend on clocks, but for reads with Config.LeaseReads. Progress does: a majority
// must hear from each other well within Config.ElectionTimeout.
//
// A node that cannot keep its promises stops: the first failed write or sync ends
// [Node.Run] with that error, nothing is tried again, and data that is not what
// was written is refused with a [*CorruptError] and left as it is.
//
// The log does not grow without end: each member takes snapshots of its state
// machine and forgets the entries before them, as Config.SnapshotEntries and the
// fields beside it say, or when [Node.TakeSnapshot] is called. A state machine that
// comes back, or was away for longer than entries are kept, restores a snapshot and
// is given what follows: it still has each command once, in the same order. How it
// hands out its state, and whether commands wait for that, is for it to choose:
// [StateMachine], [StreamingStateMachine], [DurableStateMachine].
//
// A client that may not know what has become of its command asks [Node.Resolve], or
// proposes in a [Session], which tries again by itself: the command is executed once, however
// often it is in the log.
//
// The members change while all this goes on: [Node.AddVoter], [Node.ChangeMembers].
// README.md lists the limits.
//
// # Goroutines, and who owns what
//
//	callers: Propose, Status ...          peers: Transport -> Handler
//	               |                                 |
//	               +------------> inbox <------------+--------------------+
//	                                |                                     |
//	  event loop:   take all, driver.advance(now, ...), carry out         |
//	               |             |           |               |            |
//	          disk writer     applier     readers    a sender per peer    |
//	               |       snapshot writer   |       snapshot receiver    |
//	               |             |           |               |            |
//	               +-- written, applied, read, answered, lost ------------+
//
// The event loop (loop.go) is one goroutine, the one that called [Node.Run]. It
// alone can reach the driver, and through that the core. It moves batches and
// decides nothing. It never waits for a disk, a peer or the state machine: the
// channels to the disk writer and to the applier hold the one batch that may be
// under way.
//
// The driver (driver.go) and the core (raft.go and its chapters) are plain
// values that are stepped: time and events go in, work comes out. Equal states
// and equal events lead to equal results; randomness comes from a generator that
// is part of the state. The core knows the algorithm; the driver knows who waits
// for what, and which messages must wait for the disk.
//
// The disk writer alone calls Storage.Save, one batch at a time, and each costs
// one sync. While one is under way the next gathers, so that the batches are as
// large as the disk is slow, without a timer. In the data directory two more
// goroutines work behind it, for the time that it takes: one makes the next file
// of the log ready, one removes files that are not needed any more, or keeps them to be
// used again. An empty file there, begun, says that there is a log: a directory that has
// it and no log is refused.
//
// Memory holds the end of the log, up to Config.LogCacheBytes, or four times that if it
// is not applied yet, and whatever is not durable. What a slow follower needs from
// before that is read from the storage by a goroutine of its own, at most one for each
// follower; what the state machine needs, by the applier.
//
// The applier alone calls the state machine, keeps what is known of clients' sessions,
// and completes the proposals that it applied: the callbacks of [Node.ProposeAsync] run there, in log order.
// Those of other outcomes run on a goroutine that does nothing else.
//
// Snapshots have goroutines of their own, so that neither the loop nor the log waits
// for their files. The applier asks the state machine for its state, between two
// commands; one goroutine writes that, while commands go on if the state machine
// can do so, and makes it durable. Chunks for followers are read one at a time for
// each, and sent like votes, one under way. Chunks that arrive are stored by one
// goroutine, the snapshot receiver. Restoring is a task of the applier.
//
// Senders: votes and heartbeats have a goroutine each, under a deadline, at most
// 16 heartbeats to a peer at a time; over a connection of a [TCPTransport] that is there
// heartbeats need none, nor has their receiver one for each. Entries go through an [AppendStream] of
// their own, or, if the transport has none, through one CallAppend at a time. So
// heartbeats and votes never wait behind entries.
//
// Reads gather in the inbox while a round of heartbeats is under way for others, and share
// the next. Those that want the same are a group, which is one read for the loop and ends
// by the closing of one channel. Their callers wait for that alone, and look at ctx once the
// loop has told them that it takes a while. With a lease that holds, readers do not meet the
// loop at all: it shows them the lease (lease_view.go) before anything leaves that could
// end it.
//
// The inbox (inbox.go) is shared by everybody, under a lock that is held for a
// slice swap or for copying one command of less than 128 KiB; a batch is copied only if
// callers have left it, or if most of its body is empty. The goroutine of a caller encodes
// its command there, a larger one before it takes the lock; these bytes go into the
// leader's log, into each message and into the followers' logs as they are. Whatever a
// message refers to is never changed and never reused.
//
// The Node's own fields are immutable, or under its lock: whether it runs, the
// last Status, and those who watch the leader. All goroutines have ended when
// Run returns, but for callbacks of calls that are made later.
//
// # What is in memory
//
// The core knows the term of every entry, as the indexes at which terms start,
// so all that it decides it decides without the disk. Of the entries themselves
// it has the last ones: after each step it gives up the oldest, while they count
// more than Config.LogCacheBytes, or four times that if they are not applied yet, and
// are durable. What is not durable cannot be read back, so it stays. Whatever is read
// is compared with the terms that the core knows before it is sent or applied, and a
// node whose storage fails to give back what it was given stops.
//
// # What must be durable before what
//
// Every message that leaves carries a promise: the number of a change of the
// hard state (term, vote and first contacts), and an index of the log. The
// method driver.release lets it go once both are durable; only errors, which
// promise nothing, pass it by. A RequestVote promises the candidate's own vote
// and its log, a granted vote the vote, an acknowledgement the entries, and any
// answer the term that it states. A request is not sent any more once its term
// has passed or its sender has become a follower, and a peer that waits for an
// answer of an earlier term is told the new one instead. AppendEntries,
// heartbeats and requests for pre-votes promise nothing and leave at once.
//
// Durable is what a Save has returned for. In the data directory that is one
// write to the log of internal/wal and one sync, for everything that waited: the
// entries, what the log forgets, and term and vote in the same piece, so that none
// can be there without the others. All of it survives a crash, or nothing. A file of the log is
// used only once its header and its name are durable. The package comment of
// internal/wal says what is assumed of the disk, and how damage is told from a
// write that was cut short.
//
// The commit index travels along with the next write and is never synced for
// itself: it promises nothing, since a later leader finds it out again. On the
// disk it never exceeds the entries that stand before it, so a node that comes
// back applies up to there at once.
//
// A snapshot is a file that gets its name when all of it is durable. Only then are
// entries forgotten, with the next Save, in one piece with everything else. A
// complete snapshot of a leader takes the place of the log in the same way: the Save
// that forgets all entries is the moment, and a node that comes back before it with
// a snapshot that is newer than its log does it then. No snapshot covers what is not
// on this node's own disk.
//
// The state machine starts with the newest snapshot, or empty, and is given the log
// from there on. One that keeps its own state is given what it does not have.
//
// # Where this departs from the thesis, and why that is safe
//
// Asynchronous writes. A leader sends entries while its own write of them is
// still under way (§10.2.1 describes it): its own log counts for the majority
// only as far as it is durable, so what is committed is on a majority of disks.
// A node may apply a committed entry before its own write of it has ended: a
// majority has it, and the state machine does not outlive the process. One that
// does, a [DurableStateMachine], is given only what is on this node's disk.
//
// Election waits (§3.4) are drawn from once to twice the timeout, but evenly only with more
// than three voters: else short ones are likelier, because no more than two campaign, who
// meet seldom. How they are drawn matters for how soon there is a leader, not for safety.
//
// Pre-vote, always on (§9.6). A node asks for pre-votes first and increments its
// term only when a majority would vote for it. A pre-vote changes nothing on
// either side, so it cannot make two leaders; what it prevents is that a node
// that was cut off comes back with a high term and deposes a good leader.
//
// Leader stickiness, always on (§4.2.3). A node that leads, or that heard from
// its leader less than an election timeout ago, refuses votes and pre-votes and
// does not take over the candidate's term. Refusing a vote is always safe. If
// the leader is really gone its followers stop refusing one election timeout
// later, at the earliest moment that they would campaign themselves. A node that
// is in a higher term than its leader shows that in its answers, which deposes
// the leader: nobody is locked out.
//
// The quiet lasts from when a leader was heard from, whatever has happened since: also if
// the late answer of another node shows a later term. Leases rely on that.
//
// Quiet after a restart. A node that comes back refuses votes and pre-votes for
// one election timeout, since it has forgotten whether it heard from a leader
// just before. That, too, is only refusing. A node that is all of its cluster's
// voters has nobody to wait for, and one that starts for the first time has
// nothing to have forgotten.
//
// Check-quorum (§6.2). A leader that was not in contact with a majority for an
// election timeout steps down, in the same term. Stepping down is always safe.
// It ends the waits of its clients, as outcome unknown, and its followers may
// vote for others.
//
// Reads share rounds. The thesis (§6.4) confirms them by a round of heartbeats; here a
// round begins as soon as a read comes, and while it is under way the next reads gather
// for one round together. Only rounds that began after a read count. The index is that
// of when the last of them came. Other members than the leader ask it, in the same way:
// many reads, one question, which must have left after they came. A read of bounded
// staleness is one whose round may have been an earlier read's.
//
// A round for reads asks a majority: those voters that have answered soonest of late, in a
// joint phase until that is one of either half. If they have not confirmed it after 2 ms, or
// twice the time that their answers take, all other voters are asked too: one who dies or
// hangs costs no more than that, until it has been silent for longer than others take.
// Heartbeats to everybody are due as often as without reads: they keep followers quiet, and
// tell how soon each of them answers.
//
// Leases (§6.4.1) count from when a round was sent, by the leader's clock at the moment of
// the answer. Each follower says how long it keeps quiet, so that one with a shorter
// election timeout does not count. A lease ends with the configuration in force, and with
// the first TimeoutNow, for the rest of the term: its receiver needs nobody's quiet.
//
// Heartbeats are messages of their own, not empty AppendEntries, so that they
// never wait behind entries or disks. They say nothing about the log: a
// follower does not check anything against it and acknowledges nothing by
// answering. The commit index that they carry is limited by the leader to what
// this follower has acknowledged in this term, and a follower takes it only
// for a log that it knows to be the leader's, so it never commits an entry that
// the leader does not have.
//
// Commit announced at once. A follower that has nothing else under way is told
// a new commit index in an empty AppendEntries, not with the next heartbeat: its
// state machine follows without delay. It is an ordinary AppendEntries.
//
// Nothing is taken on trust. From AppendEntries a follower commits and acknowledges only up to the last
// entry that the very message has verified, as the thesis asks; it truncates
// only where an entry really conflicts, so that a late message does not remove
// what came after it. A leader that asks for a committed entry to be replaced
// shows that somebody lost data: the node stops.
//
// Backtracking from both sides. The thesis (§3.5) lets a follower name the first
// index of the conflicting term. Here it names the last index at which the logs
// may agree, which is the last one whose term does not exceed that of the
// leader's entry, with its own term there; the leader does the same with its own
// log against that. Each step skips at least a term on one side. It only chooses
// where to probe next: the consistency check of AppendEntries still decides.
//
// The first configuration is entry 1, of term 1, the same bytes on each founding
// node, committed and saved before anything is sent. Elections begin with term
// 2, so no leader of term 1 can contradict it.
//
// Fingerprints. Each request carries 16 bytes of a hash of the cluster's name
// and its first configuration, and each node refuses those of others: nodes that
// were founded with different Peers do not talk, instead of disagreeing about
// who is a majority. A node that joins has none: it takes that of the first leader or
// candidate that calls it, and has it on its disk before it answers.
//
// Incarnations. A storage gets a random number when it is first used. Each node
// records, durably and before an answer of a peer counts, the number in which it
// first met that peer, and does not count or answer it in any other: a node
// that lost its storage has forgotten its votes and what it acknowledged, and
// counting it could make two leaders or lose entries. Leaders pass on whom they
// have met with their heartbeats, so that the others know a member's number too,
// and the member learns that its own is not the one that is expected. A configuration
// says in which number its leader has met each member, so that a newcomer knows it
// before it counts anybody. Who has met a member in one number, and learns that a leader
// has in another, counts it in neither: with one of them it has forgotten what it
// promised. All this only removes votes and acknowledgements, so it is safe. It does
// not help where nobody who matters had met the node, or heard of it, before, nor
// against an older copy of the same storage: that has the number too.
//
// Members that were taken in anew. A member that is taken out and in again is met anew,
// by whoever reads of it, and may have another storage then. An answer to what a leader
// has asked before it added the member is not the first contact, and does not count: it
// may be late, from the process that had the id before. So one that was not met is sent
// heartbeats only, and entries once it is out again. Late may be, too, an answer to a
// candidate of before, a call that was forwarded, or a TimeoutNow. Who has not read of it
// yet answers such a member, if it shows that it is one, as a candidate or leader that its
// configuration lacks (§4.1): a vote request says which entry has added the candidate, a
// heartbeat which configuration is in force.
//
// While such a member is brought up to date the configurations of before are in force in
// its log, one after the other, and name its id: it is none of their voters, and does not
// campaign as one. It tells them by the incarnation that they say, and those of the
// founding members by its storage, which keeps whether it is one's.
//
// Removed members. The thesis (§4.2) leaves a removed server running until somebody
// stops it. Here a leader goes on with heartbeats to it for ten election timeouts, and
// they say which configuration is in force: a node that has the whole log up to that
// one, knows it to be committed, is not in it and was in an earlier one, stops. The
// index keeps a member that was taken in again from stopping when it reads of its
// removal of long ago. Meanwhile it is sent the entries that it lacks, but no snapshot:
// a member that would need one to read of its removal waits until somebody stops it. So
// does one that does not count with the storage that it has: it refuses heartbeats which
// say so, and cannot be told from one that was started to be added again.
//
// Recovery from a lost majority is not in the thesis, and no consensus: somebody says
// that the others will not come back. [RecoverCluster] makes one survivor the only
// member, by a configuration at the end of its log, in a term of its own, that no leader has
// entered and that counts as committed with all that is before it. So that this stays
// one history, whoever has another must not meet it. The fingerprint, a random one from
// then on, keeps away the members of before, and other survivors that were recovered. Those
// who join have nothing else, but what they are sent first is older than the
// recovery: a few of them under the names of voters of before would find themselves to be
// a majority there. So no leader adds anybody under a name of before, as long as
// what it keeps tells of it.
//
// Snapshots are resumed and not pushed. The thesis (§5.3) sends chunks in order from
// the first one and discards a file that is incomplete. Here a follower answers each
// chunk with the offset that it wants next, which may be anywhere, so that nothing
// is sent twice after a lost connection or a restart, and a late or repeated chunk
// does no harm. Each file has a random number, so that chunks of two snapshots of the
// same entry, which may differ, are never mixed.
//
// No election while a snapshot replaces the log. Receiving one is no reason not to
// campaign. But from when a complete one starts to take the place of the log until
// that is durable, the log is neither what this node has acknowledged nor what it
// will be: until then it does not campaign and refuses votes, which is always safe.
//
// Sessions. The thesis (§6.3) lets a client have one command under way, and sessions expire by
// the leader's clock, which it writes into its entries. Here a client may wait for a number
// of commands at once: with each it says which is the first that it still waits for, and all
// from there on are remembered. A session expires only when its place is needed for
// another, the least recently used first. So no clock is in the log, and none is needed: what a
// session costs while nobody uses it is bounded anyway. How many there may be is in the entry that opens
// one, so that members with other settings agree. Replies are kept beside, and bounded on
// their own: whether a command is executed never depends on them, so a state machine that
// keeps its own state, and is not given again what it has, needs only the log to know.
//
// A slow disk. A leader whose write takes longer than Config.DiskStallLimit
// steps down, and a node whose write takes longer than an election timeout does
// not campaign. Both only give up leadership.
//
// # Files
//
// In an order for reading:
//
//	statemachine.go      the StateMachine, and the applier that feeds it
//	session_table.go     what members remember of clients, so that commands are executed once
//	session.go           Session: a client whose commands are
//	node.go              Node: what users call, start and stop
//	callbacks.go         the callbacks of asynchronous commands that have failed
//	loop.go              the event loop, the disk writer, the readers, the senders
//	inbox.go             where everybody leaves work for the loop; batches of proposals
//	raft.go              the core: state, roles, events, effects, invariants
//	election.go          pre-vote, RequestVote, heartbeats, check-quorum
//	log.go               entries in their one encoded form, and the log of them
//	replication.go       AppendEntries, progress of followers, the commit rule
//	membership.go        members, their configurations, the first one, incarnations
//	configurations.go    which configuration is in force, with the log and back
//	membership_change.go  the rules of changing it: one voter at once, or a joint phase
//	leadership_transfer.go  a successor on request
//	read.go              reads without the log: rounds of heartbeats, leases
//	driver.go            between loop and core: what may leave when, who waits for what
//	reconfiguration.go   who waits for changes of members and leader
//	members.go           what users call for that
//	read_waiters.go      who waits for reads, many for one round
//	reading.go           what users call to read
//	lease_view.go        what readers see of the lease, without the loop
//	forward.go           what a member has its leader do: reads, and commands
//	resolve.go           what has become of an entry, if that was left open
//	recovery.go          the way back from the loss of a majority
//	pace.go              how fast followers are brought up to date that lag far
//	snapshot.go          sending and installing snapshots, compacting the log
//	compaction.go        when a snapshot is taken, and how much of the log is kept
//	storage.go           the Storage interface, and memory
//	disk_storage.go      the one in a data directory, over internal/wal
//	checksums.go         checksums of entries, which frames and logs share
//	snapshot_store.go    the files of snapshots, over internal/snapshot
//	storage_check.go     CheckStorage, which tests one of the user's
//	transport.go         the Transport interface, and the Handler
//	messages.go          the messages between nodes
//	messages_codec.go    their bytes
//	tcp_transport.go     the transport between processes: listening, dialling, handshake
//	tcp_identity.go      whose certificate it is
//	tcp_conn.go          one connection: requests, responses, bounds
//	tcp_stream.go        append streams over TCP
//	tcp_begin.go         heartbeats and questions of reads over TCP, without a goroutine for each
//	tcp_direct_unix.go   writing to a socket without waiting
//	tcp_direct_other.go  where that cannot be
//	race_on.go           this is built with -race, which knows nothing of vectors
//	race_off.go          it is not
//	memory_network.go    a network in memory, for tests, as bad as one likes
//	memory_transport.go  its transports: calls and append streams
//	config.go            settings, their defaults and bounds
//	errors.go            every error, by when it is returned; their codes on the wire
//	status.go            Status, and the reasons in words
//
// In internal, wal is the log on the disk and its recovery, snapshot is files of
// snapshots, vfs is the few file operations that both need, with a twin in memory
// that can crash at each of them, crc32c is their checksum, quorum is the arithmetic of majorities, wire is
// frames, handshake and MessagePack, and sim is the world in which tests let whole clusters live and
// die, and testenv is how tests are run. None of them knows package raft. A module of its own there, lincheck,
// judges what the clients of such a cluster saw, and the program mutants the
// tests themselves. Another module, bench, compares this library with others.
package raft
