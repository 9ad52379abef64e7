package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/crc32c"
	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

// specimen is a log at rest that is damaged in many ways.
type specimen struct {
	name   string
	disk   *vfs.Memory
	want   *twin
	before *twin // without the last batch, nil if that is vouched for
	files  map[string][]byte
	order  []string // names of the segments
}

// specimenSteps have all kinds of records. Their bytes are no numbers of
// records, nor zeros.
func specimenSteps() []step {
	steps := []step{
		{batch: Batch{State: []byte("term 1, vote ~~~~~~~~~~~~~~~~~~~"), Runs: []Run{newRun(1, 1, "one", "two", "three")}}},
		{batch: Batch{Commit: 2, Runs: []Run{newRun(1, 4, "four"), newRun(2, 5, "five", "six")}}},
		{batch: Batch{State: []byte("term 3"), Runs: []Run{newRun(3, 5, "another five")}}},
		{batch: Batch{Runs: []Run{newRun(3, 6, "six again", "seven")}, Commit: 5}},
		{batch: Batch{Compact: Position{2, 1}}},
		{batch: Batch{State: []byte("term 4")}},
	}
	for i := uint64(8); i < 30; i++ {
		steps = append(steps, step{batch: Batch{Runs: []Run{newRun(4, i, fmt.Sprintf("entry %d of a few bytes, which make it fill some of the space", i))}}})
	}
	steps = append(steps, step{batch: Batch{Compact: Position{12, 4}}})
	return append(steps, step{batch: Batch{Runs: []Run{newRun(5, 28, "the new 28"), newRun(5, 29, "the new 29")}, Commit: 20}})
}

// newSpecimen makes a log of the first steps.
func newSpecimen(t testing.TB, name string, steps int, closed bool, random uint64) *specimen {
	return specimenOf(t, name, specimenSteps()[:steps], closed, random)
}

// startedAnewSteps have a log start anew, twice, and compact it, with all that a
// batch can have beside.
func startedAnewSteps() []step {
	steps := specimenSteps()[:4]
	steps = append(steps,
		step{batch: Batch{State: []byte("term 4"), Compact: Position{6, 4}, Runs: []Run{newRun(4, 7, "seven behind a snapshot")}, Commit: 7}},
		step{batch: Batch{Compact: Position{31, 4}}})
	for i := uint64(32); i < 41; i++ {
		steps = append(steps, step{batch: Batch{Runs: []Run{newRun(4, i, fmt.Sprintf("entry %d of a few bytes, which make it fill some of the space", i))}}})
	}
	return append(steps,
		step{batch: Batch{State: []byte("term 7"), Compact: Position{35, 4}, Runs: []Run{newRun(7, 40, "the new 40")}, Commit: 37}},
		step{batch: Batch{Runs: []Run{newRun(7, 41, "the new 41")}}})
}

func newStartedAnew(t testing.TB, closed bool) *specimen {
	return specimenOf(t, "started anew", startedAnewSteps(), closed, 0)
}

// specimenOf makes a log. It is closed, or the machine crashes behind the last
// step.
func specimenOf(t testing.TB, name string, steps []step, closed bool, random uint64) *specimen {
	s := &specimen{name: fmt.Sprintf("%s, closed %v", name, closed), want: &twin{}}
	options := inline(1 << 10)
	salt := options.Random
	options.Random = func() uint64 { return salt() + random }
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", options)
	require.NoError(t, err)
	for _, step := range steps {
		log, err = take(disk, log, options, step)
		require.NoError(t, err)
		s.before, s.want = s.want, s.want.after(step)
	}
	if closed {
		require.NoError(t, log.Close())
		s.before = nil
	}
	s.set(disk)
	return s
}

// newInterrupted is a log that a crash met when it went on in a second segment:
// that was there, and the first one not sealed. It was opened after that, and got
// some more batches.
func newInterrupted(t *testing.T, more int, random uint64) *specimen {
	options := inline(1 << 10)
	salt := options.Random
	options.Random = func() uint64 { return salt() + random }
	disk := vfs.NewMemory()
	named := 0
	disk.Inject(func(op vfs.Op) error {
		switch {
		case op.Kind == vfs.OpRename:
			named++
		case op.Kind == vfs.OpWrite && named == 2 && op.Offset > 0: // the seal
			return vfs.ErrCrashed
		}
		return nil
	})
	log, _, err := Open(disk, "log", options)
	require.NoError(t, err)
	steps := specimenSteps()
	s := &specimen{name: fmt.Sprintf("interrupted rotation and %d more", more), want: &twin{}}
	done := 0
	for ; err == nil; done++ {
		if log, err = take(disk, log, options, steps[done]); err == nil {
			s.want = s.want.after(steps[done])
		}
	}
	require.ErrorIs(t, err, vfs.ErrCrashed)
	disk = disk.CrashClone(vfs.CrashLose, 0)
	log, _, err = Open(disk, "log", options)
	require.NoError(t, err)
	for _, step := range steps[done-1 : done-1+more] {
		require.NoError(t, log.Append(step.batch))
		s.before, s.want = s.want, s.want.after(step)
	}
	s.set(disk)
	return s
}

func (s *specimen) set(disk *vfs.Memory) {
	s.disk = disk.CrashClone(vfs.CrashLose, 0)
	for name := range s.disk.Files() {
		if strings.HasSuffix(name, spareSuffix) { // nothing depends on it
			_ = s.disk.Remove(name) // it is there
		}
	}
	s.files = s.disk.Files()
	s.order = segmentsOf(s.files)
}

// segmentsOf returns the names of all files but the mark.
func segmentsOf(files map[string][]byte) []string {
	names := slices.Sorted(maps.Keys(files))
	return slices.DeleteFunc(names, func(name string) bool { return path.Base(name) == markName })
}

func specimens(t *testing.T) []*specimen {
	return []*specimen{
		newSpecimen(t, "one segment", 4, false, 0), newSpecimen(t, "one segment", 4, true, 0),
		newSpecimen(t, "several segments", 30, false, 0), newSpecimen(t, "several segments", 30, true, 0),
		newInterrupted(t, 0, 0), newInterrupted(t, 4, 0), newStartedAnew(t, false), newStartedAnew(t, true),
	}
}

// last is the name of the last segment.
func (s *specimen) last() string { return s.order[len(s.order)-1] }

// judge opens a damaged log. That is an error which says where, and no file has
// changed, or the log is what it was. mayLose says that the last batch may be
// missing.
func (s *specimen) judge(t *testing.T, disk *vfs.Memory, mayLose bool, how string, args ...any) error {
	how = s.name + ": " + fmt.Sprintf(how, args...)
	before := disk.Files()
	log, contents, err := Open(disk, "log", inline(1<<10))
	if err != nil {
		checkDamage(t, before, err, how)
		after := disk.Files()
		require.True(t, maps.EqualFunc(before, after, slices.Equal), how)
		return err
	}
	got, err := observe(log, contents, 1<<20)
	require.NoError(t, err, how)
	if mayLose && s.before != nil && got.equal(s.before) {
		return nil
	}
	require.True(t, got.equal(s.want), "%s: found %v, want %v", how, got, s.want)
	return nil
}

// checkDamage checks that an error names a place.
func checkDamage(t *testing.T, files map[string][]byte, err error, how string) {
	var corrupt *CorruptError
	var newer vfs.NewerError
	if errors.As(err, &newer) {
		return
	}
	require.ErrorAs(t, err, &corrupt, how)
	require.Equal(t, "log", path.Dir(corrupt.File), how)
	require.GreaterOrEqual(t, corrupt.Offset, int64(0), how)
	if content, ok := files[corrupt.File]; ok {
		require.LessOrEqual(t, corrupt.Offset, int64(len(content)), how)
	}
}

// placed is a batch of a file.
type placed struct {
	head
	at int64
}

func (p placed) end() int64 { return p.at + p.length() }

// batches returns where the batches of a file are.
func batches(file []byte) []placed {
	length, err := headerLength(file)
	if err != nil {
		return nil
	}
	salt := binary.BigEndian.Uint64(file[24:])
	var found []placed
	for at := length; at+headBytes <= int64(len(file)); {
		h, ok := decodeHead(file[at:], salt, at)
		if !ok {
			break
		}
		found = append(found, placed{h, at})
		at += h.length()
	}
	return found
}

// fate is what damage at a byte may come to.
type fate struct {
	refused bool // it must be noticed
	mayLose bool // it may take the last batch along
}

// fates of the bytes of a file. A batch is vouched for if a later one is there.
// Nothing depends on padding, on a seal that has its successor, and on zeros.
func (s *specimen) fates(name string) []fate {
	file := s.files[name]
	fates := make([]fate, len(file))
	all := batches(file)
	for at := range headerEnd(file) {
		fates[at].refused = true
	}
	for i, p := range all {
		isLast := name == s.last() && i == len(all)-1
		seal := name != s.last() && i == len(all)-1
		content := p.at + headBytes + int64(p.recordsLength) + int64(p.bodiesLength)
		for at := p.at; at < content; at++ {
			fates[at] = fate{refused: !isLast && !seal, mayLose: isLast}
		}
	}
	return fates
}

// TestD2EveryBit flips every bit there is, one at a time.
func TestD2EveryBit(t *testing.T) {
	t.Parallel()
	stride := 1
	if testenv.Brief() {
		stride = 23
	}
	flips, refused := 0, 0
	for _, s := range specimens(t) {
		for _, name := range s.order {
			fates := s.fates(name)
			disk := s.disk.CrashClone(vfs.CrashKeep, 0)
			for bit := 0; bit < 8*len(fates); bit += stride {
				fate := fates[bit/8]
				require.NoError(t, disk.Corrupt(name, int64(bit/8), 1<<(bit%8)))
				err := s.judge(t, disk, fate.mayLose, "bit %d of byte %d of %s", bit%8, bit/8, name)
				require.Equal(t, fate.refused, err != nil, "%s: bit %d of byte %d of %s: %v", s.name, bit%8, bit/8, name, err)
				flips++
				if err != nil {
					refused++
					require.NoError(t, disk.Corrupt(name, int64(bit/8), 1<<(bit%8)))
					continue
				}
				disk = s.disk.CrashClone(vfs.CrashKeep, 0)
			}
		}
	}
	t.Logf("%d bits flipped, %d found and refused, no wrong data", flips, refused)
}

// TestD4EveryLength cuts every file at every length, and makes it longer.
func TestD4EveryLength(t *testing.T) {
	t.Parallel()
	stride := 1
	if testenv.Brief() {
		stride = 13
	}
	for _, s := range specimens(t) {
		for _, name := range s.order {
			size := len(s.files[name])
			for length := 0; length < size+20; length += stride {
				disk := s.disk.CrashClone(vfs.CrashKeep, 0)
				require.NoError(t, disk.Cut(name, int64(length)))
				err := s.judge(t, disk, false, "%s cut at %d", name, length)
				require.Equal(t, length != size, err != nil, "%s: %s cut at %d of %d: %v", s.name, name, length, size, err)
			}
		}
	}
}

// TestFilesMixedUp removes, exchanges and renames whole files.
func TestFilesMixedUp(t *testing.T) {
	other := newSpecimen(t, "another log", 30, false, 1)
	all := append(specimens(t), newSpecimen(t, "nothing compacted", 28, false, 0), newSpecimen(t, "nothing compacted", 28, true, 0))
	for _, s := range all {
		if len(s.order) == 1 { // nothing is there to say that it is another one's, or missing
			disk := s.disk.CrashClone(vfs.CrashKeep, 0)
			require.NoError(t, disk.Rename(s.last(), "log/"+fileName(2, segmentSuffix)))
			require.Error(t, s.judge(t, disk, false, "as segment 2"))
			continue
		}
		end, _ := fileNumber(path.Base(s.last()), segmentSuffix)
		for _, name := range s.order {
			disk := s.disk.CrashClone(vfs.CrashKeep, 0)
			require.NoError(t, disk.Remove(name))
			require.ErrorContains(t, s.judge(t, disk, false, "without %s", name), name+" is damaged at offset 0: it is missing")

			disk = s.disk.CrashClone(vfs.CrashKeep, 0)
			require.NoError(t, disk.Put(name, other.files[name]))
			require.Error(t, s.judge(t, disk, false, "with %s of another", name))

			for _, to := range []string{fileName(end+1, segmentSuffix), fileName(end+9, segmentSuffix), strings.TrimSuffix(path.Base(name), segmentSuffix) + spareSuffix} {
				disk = s.disk.CrashClone(vfs.CrashKeep, 0)
				require.NoError(t, disk.Rename(name, "log/"+to))
				require.Error(t, s.judge(t, disk, false, "with %s named %s", name, to))
			}
			for _, to := range s.order {
				if to == name {
					continue
				}
				disk = s.disk.CrashClone(vfs.CrashKeep, 0)
				require.NoError(t, disk.Put(to, s.files[name]))
				require.Error(t, s.judge(t, disk, false, "with %s in place of %s", name, to))
				require.NoError(t, disk.Put(name, s.files[to]))
				require.Error(t, s.judge(t, disk, false, "with %s and %s exchanged", name, to))
			}
		}
	}
}

// TestEmptySegmentOfAnother has nothing in it that tells it apart but its header.
func TestEmptySegmentOfAnother(t *testing.T) {
	s, other := newInterrupted(t, 0, 0), newInterrupted(t, 0, 1)
	disk := s.disk.CrashClone(vfs.CrashKeep, 0)
	require.NoError(t, disk.Put(s.last(), other.files[s.last()]))
	require.Error(t, s.judge(t, disk, false, "with the end of another"))
}

// TestBatchesOfTwoHistories: a disk that has lost a write shows the batch that was
// there before, from which the log went on in another way.
func TestBatchesOfTwoHistories(t *testing.T) {
	name := "log/" + fileName(1, segmentSuffix)
	files := make([][]byte, 2)
	for i := range files {
		disk := vfs.NewMemory()
		log, _, err := Open(disk, "log", inline(1<<10))
		require.NoError(t, err)
		for k, text := range []string{"first", fmt.Sprintf("second of %d", i), "third"} {
			require.NoError(t, log.Append(Batch{Runs: []Run{newRun(1, uint64(k+1), text)}}))
		}
		files[i] = disk.Files()[name]
	}
	border := batches(files[0])[1].end()
	disk := vfs.NewMemory()
	require.NoError(t, disk.Put(name, append(files[0][:border:border], files[1][border:]...)))
	_, _, err := Open(disk, "log", inline(1<<10))
	checkDamage(t, disk.Files(), err, "two histories")
}

// TestNewerVersion is refused, and so is a file of something else.
func TestNewerVersion(t *testing.T) {
	for _, s := range specimens(t) {
		for _, name := range s.order {
			file := slices.Clone(s.files[name])
			binary.BigEndian.PutUint32(file[8:], version+1)
			disk := s.disk.CrashClone(vfs.CrashKeep, 0)
			require.NoError(t, disk.Put(name, mend(file)))
			err := s.judge(t, disk, false, "newer")
			require.ErrorContains(t, err, name)
			require.ErrorContains(t, err, "format version 2")

			require.NoError(t, disk.Put(name, []byte("something else that somebody has put here, long enough for a header, so that it could be one: ..................")))
			require.ErrorContains(t, s.judge(t, disk, false, "no segment"), "does not begin like")
		}
	}
}

// TestLeftoverSpares are no log. The first one may be what a first start has left.
func TestLeftoverSpares(t *testing.T) {
	disk := vfs.NewMemory()
	require.NoError(t, disk.Put("log/"+fileName(1, spareSuffix), make([]byte, 1<<10)))
	log, contents, err := Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	require.Equal(t, Contents{}, contents)
	require.NoError(t, log.Close())
	require.Equal(t, []string{"log/" + fileName(1, segmentSuffix)}, segmentsOf(disk.Files()))

	for _, number := range []uint64{2, 3, math.MaxUint64} {
		disk := vfs.NewMemory()
		require.NoError(t, disk.Put("log/"+fileName(number, spareSuffix), make([]byte, 1<<10)))
		_, _, err := Open(disk, "log", inline(1<<10))
		checkDamage(t, nil, err, "a spare")
		require.ErrorContains(t, err, fileName(number, spareSuffix))
		require.Len(t, disk.Files(), 1)
	}

	disk = vfs.NewMemory()
	for _, name := range []string{"log/notes.txt", "log/1.wal", "log/000000000000000A.wal", "log/0000000000000000.wal", "log/0000000000000001.wal.old"} {
		require.NoError(t, disk.Put(name, nil))
	}
	log, _, err = Open(disk, "log", inline(1<<10))
	require.NoError(t, err, "files of others are let alone")
	require.NoError(t, log.Close())
	require.Len(t, segmentsOf(disk.Files()), 6)
}

// mend makes the checksums of a file right again, as far as it can be read.
func mend(file []byte) []byte {
	if len(file) < headerBytes {
		return file
	}
	binary.BigEndian.PutUint32(file[12:], headerChecksum(file[:min(int64(len(file)), headerEnd(file))]))
	previous := binary.BigEndian.Uint32(file[88:])
	for at := headerEnd(file); at+headBytes <= int64(len(file)) && binary.BigEndian.Uint32(file[at:]) == batchMagic; {
		var length int64
		previous, length = mendBatch(file, at, previous)
		at += length
	}
	return file
}

func headerEnd(file []byte) int64 {
	return align(headerBytes + int64(binary.BigEndian.Uint32(file[92:])))
}

// mendBatch makes the checksums of one batch right, and returns that of its head.
func mendBatch(file []byte, at int64, previous uint32) (sum uint32, length int64) {
	get := binary.BigEndian
	b := file[at:]
	h := head{
		number: get.Uint64(b[8:]), syncedThrough: get.Uint64(b[16:]), previous: previous,
		recordsLength: get.Uint32(b[28:]), bodiesLength: get.Uint32(b[32:]),
	}
	if end := headBytes + int64(h.recordsLength); end <= int64(len(b)) {
		mendRuns(b[headBytes:end], b[end:])
		h.recordChecksum = crc32c.Checksum(b[headBytes:end])
	}
	return h.encode(b, get.Uint64(file[24:]), at), h.length()
}

// mendRuns makes the checksums of the runs right.
func mendRuns(records, bodies []byte) {
	for len(records) > 0 {
		kind := records[0]
		records = records[1:]
		size := recordBytes(kind, records)
		if size < 0 || size > len(records) {
			return
		}
		if kind == recordRun {
			length := binary.BigEndian.Uint32(records[20:])
			if uint64(length) > uint64(len(bodies)) {
				return
			}
			binary.BigEndian.PutUint32(records[24:], crc32c.Checksum(bodies[:length]))
			bodies = bodies[length:]
		}
		records = records[size:]
	}
}

// lengths returns where the length fields of a batch are.
func lengths(file []byte, p placed) []int64 {
	fields := []int64{p.at + 28, p.at + 32}
	at := p.at + headBytes
	for end := at + int64(p.recordsLength); at < end; {
		switch kind := file[at]; kind {
		case recordState:
			fields = append(fields, at+1)
		case recordRun:
			fields = append(fields, at+21)
		}
		at += 1 + int64(recordBytes(file[at], file[at+1:]))
	}
	return fields
}

// TestD11Lengths puts other numbers where lengths are, under right checksums.
func TestD11Lengths(t *testing.T) {
	for _, s := range specimens(t) {
		for _, name := range s.order {
			whole := s.files[name]
			all := batches(whole)
			for _, value := range []uint32{0, 1, math.MaxInt32, math.MaxUint32} {
				for i, p := range all {
					for _, field := range lengths(whole, p) {
						if binary.BigEndian.Uint32(whole[field:]) == value {
							continue
						}
						file := slices.Clone(whole)
						binary.BigEndian.PutUint32(file[field:], value)
						previous := p.previous
						for _, q := range all[i:] {
							previous, _ = mendBatch(file, q.at, previous)
						}
						s.judgeLength(t, name, file, name == s.last() && i == len(all)-1, field, uint64(value))
					}
				}
				for _, field := range []int64{32, 36, 92} { // the size has eight bytes
					file := slices.Clone(whole)
					binary.BigEndian.PutUint32(file[field:], value)
					binary.BigEndian.PutUint32(file[12:], headerChecksum(file[:min(int64(len(file)), headerEnd(file))]))
					s.judgeLength(t, name, file, false, field, uint64(value))
				}
			}
		}
	}
}

func (s *specimen) judgeLength(t *testing.T, name string, file []byte, mayLose bool, field int64, value uint64) {
	disk := s.disk.CrashClone(vfs.CrashKeep, 0)
	require.NoError(t, disk.Put(name, file))
	allocated := allocatedBy(func() {
		s.judge(t, disk, mayLose, "the length at %d of %s is %d", field, name, value)
	})
	require.Less(t, allocated, uint64(4<<20))
}

// allocatedBy returns how many bytes of memory a call takes, the given back ones
// included.
func allocatedBy(call func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	call()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestD11LengthOfALargeFile has lengths that a file of the usual size has room
// for.
func TestD11LengthOfALargeFile(t *testing.T) {
	h := header{number: 1, salt: 5, size: 64 << 20, firstBatch: 1}
	for _, c := range []struct {
		state uint32 // as the header says
		head  head
	}{
		{60 << 20, head{}},
		{0, head{number: 1, recordsLength: 60 << 20}},
		{0, head{number: 1, bodiesLength: 60 << 20}},
		{0, head{number: 1, recordsLength: 30 << 20, bodiesLength: 30 << 20}},
	} {
		disk := vfs.NewMemory()
		require.NoError(t, disk.MkdirAll("log"))
		file, err := disk.Create("log/" + fileName(1, segmentSuffix))
		require.NoError(t, err)
		require.NoError(t, file.Allocate(h.size))
		header := h.encode()
		binary.BigEndian.PutUint32(header[92:], c.state)
		_, err = file.WriteAt(header, 0)
		require.NoError(t, err)
		b := make([]byte, headBytes)
		c.head.encode(b, h.salt, h.length())
		_, err = file.WriteAt(b, h.length())
		require.NoError(t, err)
		require.NoError(t, file.Sync())
		require.Less(t, allocatedBy(func() {
			log, _, err := Open(disk, "log", Options{Inline: true})
			if err == nil {
				require.NoError(t, log.Close())
			}
		}), uint64(32<<20))
	}
}

// TestHeaderThatCannotBe has right checksums and wrong numbers.
func TestHeaderThatCannotBe(t *testing.T) {
	s := newSpecimen(t, "several segments", 30, true, 0)
	for _, name := range s.order[:2] {
		// Of the commit index, the compacted one, the last one, and zeros. In the
		// second file also the term of the compacted one, and the state.
		for _, at := range []int{55, 63, 79, 40, 100, 111, 119, 71, 113}[:7+2*strings.Count(name, "3.wal")] {
			file := slices.Clone(s.files[name])
			file[at] ^= 0x40
			disk := s.disk.CrashClone(vfs.CrashKeep, 0)
			require.NoError(t, disk.Put(name, mend(file)))
			require.Error(t, s.judge(t, disk, false, "byte %d of the header of %s", at, name))
		}
	}
}

// TestContentsAreTheCallers: what Open returns may be changed.
func TestContentsAreTheCallers(t *testing.T) {
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	state := []byte("state")
	require.NoError(t, log.Append(Batch{State: state, Runs: []Run{newRun(1, 1, "one")}}))
	copy(state, "other")
	require.NoError(t, log.Close())
	log, contents, err := Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	copy(contents.State, "wrong")
	contents.Terms[0].Term = 9
	require.NoError(t, log.Append(Batch{Runs: []Run{newRun(1, 2, strings.Repeat("x", 2<<10))}})) // in a new segment
	require.NoError(t, log.Append(Batch{Compact: Position{1, 1}}))                               // without the old one
	require.NoError(t, log.Close())
	_, contents, err = Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	require.Equal(t, "state", string(contents.State))
	require.Equal(t, []TermStart{{2, 1}}, contents.Terms)
}

// TestWhatDoesNotFit is refused, changes nothing, and the log goes on.
func TestWhatDoesNotFit(t *testing.T) {
	disk := vfs.NewMemory()
	log, _, err := Open(disk, "log", inline(1<<10))
	require.NoError(t, err)
	require.NoError(t, log.Append(Batch{Commit: 5, Runs: []Run{newRun(2, 1, "1", "2", "3", "4"), newRun(4, 5, "5", "6", "7")}}))
	require.NoError(t, log.Append(Batch{Compact: Position{3, 2}}))
	before, files := log.Contents(), disk.Files()
	for name, b := range map[string]Batch{
		"below the commit index":  {Runs: []Run{newRun(5, 5, "x")}},
		"below the compacted one": {Runs: []Run{newRun(5, 2, "x")}},
		"behind a gap":            {Runs: []Run{newRun(5, 9, "x")}},
		"of an older term":        {Runs: []Run{newRun(3, 7, "x")}},
		"of a term going back":    {Runs: []Run{newRun(6, 8, "x"), newRun(5, 9, "x")}},
		"with a gap in it":        {Runs: []Run{newRun(6, 8, "x"), newRun(6, 10, "x")}},
		"without an entry":        {Runs: []Run{newRun(6, 8)}},
		"at the end of numbers":   {Runs: []Run{newRun(6, farthest+1, "x")}},

		"compacted at a committed entry of another term": {Compact: Position{4, 3}},
		"compacted at the last committed one, as such":   {Compact: Position{5, 2}},
		"compacted at the end of numbers":                {Compact: Position{farthest + 1, 9}},
		"compacted with runs below":                      {Compact: Position{6, 4}, Runs: []Run{newRun(6, 6, "x")}},
		"anew, with runs of the old log":                 {Compact: Position{7, 5}, Runs: []Run{newRun(6, 7, "x")}},
		"anew, with runs behind the old log":             {Compact: Position{6, 5}, Runs: []Run{newRun(6, 8, "x")}},
		"anew, with runs before it":                      {Compact: Position{9, 5}, Runs: []Run{newRun(6, 8, "x")}},
		"anew, with runs behind a gap":                   {Compact: Position{9, 5}, Runs: []Run{newRun(6, 11, "x")}},
		"anew, with runs of an older term":               {Compact: Position{9, 6}, Runs: []Run{newRun(5, 10, "x")}},
	} {
		require.ErrorContains(t, log.Append(b), "does not fit", name)
	}
	for _, to := range []Position{{}, {3, 2}, {2, 2}, {1, 9}} {
		require.NoError(t, log.Append(Batch{Compact: to}), "that is forgotten already")
	}
	require.NoError(t, log.Append(Batch{}))
	require.NoError(t, log.Append(Batch{Commit: 4}))
	require.Equal(t, before, log.Contents())
	require.Equal(t, files, disk.Files())
	require.NoError(t, log.Append(Batch{Commit: 6, Runs: []Run{newRun(5, 6, "x")}}))
	require.NoError(t, log.Close())
}

// TestTooLarge refuses what could not be read back, and goes on.
func TestTooLarge(t *testing.T) {
	log, _, err := Open(vfs.NewMemory(), "log", inline(1<<20))
	require.NoError(t, err)
	runs := make([]Run, maxRecordsBytes/runRecordBytes+1)
	for i := range runs {
		runs[i] = Run{Term: 1, First: uint64(i + 1), Count: 1}
	}
	require.ErrorContains(t, log.Append(Batch{Runs: runs}), "too large")
	require.ErrorContains(t, log.Append(Batch{State: make([]byte, maxStateBytes+1)}), "too large")
	require.ErrorContains(t, log.Append(Batch{Runs: []Run{{Term: 1, First: 1, Count: -1}}}), "too large")
	require.ErrorContains(t, log.Append(Batch{Runs: []Run{{Term: 1, First: 2, Count: 1}}}), "does not fit")
	require.ErrorContains(t, log.Append(Batch{Runs: []Run{{Term: 1, First: 0, Count: 1}}}), "does not fit")
	require.NoError(t, log.Append(Batch{Runs: runs[:len(runs)-1]}))
	require.NoError(t, log.Append(Batch{State: make([]byte, maxStateBytes)}))
	require.ErrorContains(t, log.Append(Batch{Runs: []Run{{Term: 0, First: 300, Count: 1}}}), "does not fit")
	require.Equal(t, uint64(len(runs)-1), log.index.last.Index)
	require.NoError(t, log.Close())
}
