// Package wal keeps a log of entries on disk: a write-ahead log that entries
// are appended to, whose end can be replaced, and whose beginning can be
// forgotten, or all of it, so that it starts anew further on. Entries are opaque
// bytes in runs of one term; beside them the log keeps a commit index, and a
// state of the caller's that is replaced as a whole. Everything that one
// [Log.Append] is given becomes durable together, with one write and one sync,
// or not at all.
//
//	log, contents, err := wal.Open(vfs.OS(), "node1.raft", wal.Options{})
//	err = log.Append(wal.Batch{State: vote, Runs: []wal.Run{{Term: 2, First: 7, Count: 1, Body: entry}}})
//	runs, err := log.Read(5, 7, 1<<20)
//	err = log.Close()
//
// # What is assumed of the disk
//
// Once a sync has returned without an error, what was written before it is
// there after a crash, and the names that were there before the sync of a
// directory. A write that no sync followed may leave any of its sectors, in any
// order, whole or torn. It does not damage bytes beside it. A sync that failed
// says nothing about what it was to make durable, whatever a later one says:
// nothing is written after it.
//
// Bytes at rest may rot: every byte that counts is under a checksum, which is
// looked at when the log is opened and when entries are read. What was durable
// and is not what was written is an error, and the files stay as they are. That
// the last batch before a crash was durable is not known to anybody but the
// caller, though: if it is damaged, it looks like one that was cut short.
//
// # Segments
//
// The log is a sequence of files, 0000000000000001.wal and so on. Batches never
// cross the border of two files. A file is made ahead of time under the name
// 0000000000000002.spare, with all of its space. When its turn comes it gets its
// header, which is synced, then its name, which is synced, and then the file
// before it gets its seal. So a segment that is there has a header, and a sealed
// one has a successor.
//
// The files of up to two removed segments become spares, too: a sync takes less time
// where the disk was written before. For the same reason zeros may be written behind a
// batch, as a part of the same write, in a file of which that is not known, a new one or
// the last one after a start: as many bytes as the segment has by then, from 64 KiB to
// half a MiB. What follows goes there. So behind its batches a segment holds zeros, or
// whatever its file held before.
//
// All numbers are big endian. Checksums are CRC-32C.
//
//	segment   0          8         12         16         24         32         40
//	          +----------+----------+----------+----------+----------+----------+
//	          | raft.wal | version  | checksum |  number  |   salt   |   size   |
//	          |          | 1, u32   | u32      |  u64     |   u64    | of file  |
//	          +----------+----------+----------+----------+----------+----------+
//	         40         48         56              72          88         92
//	          +----------+----------+---------------+-----------+----------+
//	          | first    | commit   | compacted     | last      | checksum |
//	          | batch u64| index u64| index, term   | index,term| of batch |
//	          +----------+----------+---------------+-----------+  before  |
//	         92         96        97     112                    +----------+
//	          +----------+---------+------+-----------+
//	          | length of| 1: there| zeros| state ... | zeros, to a multiple of 8
//	          | state u32| is one  |      |           |
//	          +----------+---------+------+-----------+
//
// The header has a copy of all that the segments before it say, but for their
// entries, so these files can be removed once their entries are not needed. Its
// checksum is of everything but itself.
//
// Beside the segments there is an empty file, begun. It is made once there is the
// first segment; a directory that has it and no segment has lost its log.
//
// # Batches
//
//	batch     0          4          8         16         24
//	          +----------+----------+----------+----------+
//	          | btch     | checksum | number   | synced   |
//	          |          | u32      | u64      | through  |
//	          +----------+----------+----------+----------+
//	         24         28         32         36         40
//	          +----------+----------+----------+----------+-------------+------------+
//	          | checksum | length of| length of| checksum | records ... | bodies ... | zeros,
//	          | of batch | records  | bodies   | of       |             |            | to a multiple
//	          | before   | u32      | u32      | records  |             |            | of 8
//	          +----------+----------+----------+----------+-------------+------------+
//
// The checksum of a batch is of bytes 8 to 40, seeded with the segment's salt and
// the batch's offset, so that bytes which came from elsewhere, such as a
// caller's, never look like a batch. It covers all the rest: the records by
// their checksum, the bodies by those in the records. Synced through is the
// number of the last batch whose sync had returned when this one was written.
//
//	records   1 state     u32 length, bytes
//	          2 truncate  u64 last            the entries behind are gone
//	          3 run       u64 term, u64 first, u32 count, u32 length, u32 checksum
//	          4 commit    u64 index
//	          5 compact   u64 index, u64 term the entries up to there are gone
//	          6 seal                          the next segment exists
//
// They stand in this order, each at most once but for runs. A seal stands alone,
// at the end of a segment, and has the number of the batch that follows it. A
// batch without records says that the log was closed.
//
// They take effect in this order too, but for compact, which comes between
// truncate and the runs: what is forgotten is of the log as it was. Each is to
// fit what the log says by then, or the batch is damaged:
//
//	truncate  is below the last entry, and not below the commit index
//	compact   is above the compacted entry of before. It is an entry of the log, or
//	          above the last one: then all of the log is forgotten, and it starts
//	          anew. The commit index becomes at least as high.
//	run       begins right behind the last entry, or the compacted one if there is
//	          no other, and its term is not lower
//	commit    is not below the one before, and not above the last entry
//
// So for a log that is to start anew at an index where it has an entry of another
// term, which is not committed, the same batch cuts it at its commit index first.
// Nothing that is read depends on entries that are forgotten: it comes out the
// same whether the segments with them are still there or not.
//
// # Recovery
//
// Opening reads everything, and changes nothing until all of it was checked. A
// batch that is not whole ends the log, if nothing says that it was durable: no
// batch behind it whose synced-through reaches it, no seal, no later segment.
// Otherwise data was lost, and [CorruptError] says where. The same goes for a
// file that is not as long as it was made, and for missing or exchanged files.
//
// Then the place behind the last batch is cleared, where the head may be of one that
// is not whole, so that no later one completes it. The last batch is written again,
// since it counts from now on: nothing says that it is durable. If
// that file has no batch yet, the one before is sealed again.
package wal
