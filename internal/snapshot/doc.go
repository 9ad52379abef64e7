// Package snapshot keeps snapshots in the files of a directory: what a state
// machine has become up to an entry of the log, so that the entries up to there
// can go. A snapshot consists of metadata, which is read as a whole, and of data,
// which is a stream of any length. Both are opaque bytes. Of a file there is never
// more in memory than one chunk and the metadata.
//
//	store, err := snapshot.Open(vfs.OS(), "node1.raft/snapshots", snapshot.Options{Fingerprint: cluster})
//	err = store.Clean() // once what there is has turned out to be of use
//	w, err := store.Create(snapshot.ID{Index: 1000, Term: 3}, configuration)
//	_, err = io.Copy(w, state)
//	info, err := w.Commit()
//
// A file is sent to another node as it is, byte by byte, and becomes the same
// file there:
//
//	raw, err := store.Raw(id)            // here: raw.Info(), raw.ReadAt
//	r, err := other.Receive(raw.Info())  // there: r.Next, r.Write
//	info, err := r.Commit()
//
// The caller has locked the directory: a store is the only one of its process, and
// of all others.
//
// # What is assumed of the disk
//
// What internal/wal assumes: after a sync that returned without an error the bytes
// of the file are there, and stay unless they rot; a sync that failed says nothing
// about them, whatever a later one says. So nothing is written to a file after an
// error, and it is removed at once, or else by [Store.Clean] of the next process.
//
// # Files
//
//	00000000000003e8-0000000000000003.snap                                 index, term
//	00000000000003e8-0000000000000003-5be0cd19137e2179.tmp                 and identity
//	00000000000003e8-0000000000000003-0000000000100000-5be0cd19137e2179.part  index, term, size, identity
//	00000000000003e8-0000000000000003.copy                                 index, term
//
// A .snap is whole. It has got this name when all of it was durable, and counts
// once its name is durable too. Then the newest [Options].Keep that are not known
// to be damaged stay, and the others go. What cannot be removed, as files that are
// open on some systems, is tried again after the next snapshot.
//
// A .tmp is a snapshot that this node takes. If one is there when the directory is
// opened, nobody will finish it, and [Store.Clean] removes it. A .part is one that is being
// received, and goes on: there is one at most. A .copy is a .snap for a cluster of
// another fingerprint, of which only the header differs. It waits for a directory
// that becomes that cluster's in one step: once it is opened with the fingerprint the
// .copy becomes the .snap, and if it never is, [Store.Clean] removes it.
//
// All numbers are big endian. Checksums are CRC-32C, each of everything in its
// part of the file but itself. But for that of the header they are seeded with the
// file's identity and the offset of the part, so that bytes which came from
// elsewhere, such as a client's, never look like a part of this file.
//
//	header    0          8         12         16         24         32         40
//	          +----------+----------+----------+----------+----------+----------+
//	          | raft.snp | version  | checksum |  index   |   term   | identity |
//	          |          | 1, u32   | u32      |  u64     |   u64    |   u64    |
//	          +----------+----------+----------+----------+----------+----------+
//	         40                     56         60         64
//	          +---------------------+----------+----------+
//	          | fingerprint         | length of| length of|
//	          | of the cluster      | chunk u32| meta. u32|
//	          +---------------------+----------+----------+
//
//	chunk     0          4          8         12
//	          +----------+----------+----------+-------------+
//	          | meta or  | checksum | length   | content ... |
//	          | data     | u32      | u32      |             |
//	          +----------+----------+----------+-------------+
//
//	trailer   0          4          8         16         24         32
//	          +----------+----------+----------+----------+----------+
//	          | last     | checksum | length of| length of| number of|
//	          |          | u32      | file u64 | data u64 | chunks   |
//	          +----------+----------+----------+----------+----------+
//
// The chunks of the metadata come first. Every chunk is as long as the header says,
// but for the last one of the metadata and the last one of the data. So where each
// part stands follows from the header and the length of the file; no other length
// is relied on, and equal contents with equal headers make equal bytes. A file that
// is cut, or has anything behind its end, has no trailer that fits.
//
// The identity is a random number. It tells files of the same snapshot apart, whose
// bytes differ since several nodes have taken it.
//
// # Receiving
//
// Bytes arrive in order. Each part is read back from the file and checked once all
// of it is there; a wrong one ends the transfer. Now and then the file is synced,
// and then the place of the trailer, which comes last, says how far it is:
//
//	mark      0          4          8         16
//	          +----------+----------+----------+
//	          | sync     | checksum | through  |
//	          |          | u32      | u64      |
//	          +----------+----------+----------+
//
// There is room for two marks, which take turns, so that one is whole whatever a
// crash does to the other. A mark is written when the sync has returned, and of
// whole parts that were checked. So after a restart the transfer goes on where a
// mark says, and no byte counts of which only the memory of the system was known
// to have it, as may be after a sync that failed. What is before the mark is read
// and checked again; if it is not what was received, the transfer begins anew.
//
// When a received file gets its name, each of its parts was checked, once since the
// directory was opened, as the system gave it back after writing it; and a sync has
// returned after that. It was not read back from the medium: Verify does that, if
// the system has not kept it in memory.
//
// # Opening
//
// Opening reads the headers and trailers, and not what is in between. A file that
// is damaged as far as that shows is listed, with the error, and left alone: whether
// an older one will do is the caller's to decide. One that a later release has
// written is an error, and then nothing is changed.
package snapshot
