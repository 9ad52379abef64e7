package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/testenv"
	"github.com/seed-8da499c8/raft/internal/vfs"
)

const dir = "snapshots"

func TestMain(m *testing.M) {
	testenv.Begin()
	os.Exit(m.Run())
}

// small are options for small files, which are equal for equal seeds.
func small(seed uint64) Options {
	return Options{
		Fingerprint: [16]byte{0: 0xf1, 15: 0x1f}, ChunkBytes: 100, SyncBytes: 250,
		Random: rand.New(rand.NewPCG(seed, 0)).Uint64,
	}
}

// openClean opens a directory and removes what was left behind there.
func openClean(fs vfs.FS, dir string, options Options) (*Store, error) {
	s, err := Open(fs, dir, options)
	if err != nil {
		return nil, err
	}
	if err := s.Clean(); err != nil {
		return nil, err
	}
	return s, nil
}

func open(t testing.TB, fs vfs.FS, options Options) *Store {
	t.Helper()
	s, err := openClean(fs, dir, options)
	require.NoError(t, err)
	return s
}

// noise is n bytes that are the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	for i, random := 0, rand.New(rand.NewPCG(seed, 1)); i < n; i++ {
		b[i] = byte(random.Uint32())
	}
	return b
}

// contents of the snapshots in tests follow from the index.
func contents(id ID) (metadata, data []byte) {
	random := rand.New(rand.NewPCG(id.Index, 2))
	return noise(id.Index, random.IntN(250)), noise(id.Index+1<<32, random.IntN(1500))
}

func at(index uint64) ID { return ID{index, index/10 + 1} }

// take takes a snapshot, up to but for its commit if that is not wanted.
func take(s *Store, id ID, commit bool) (*Writer, error) {
	metadata, data := contents(id)
	w, err := s.Create(id, metadata)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil || !commit {
		return w, err
	}
	_, err = w.Commit()
	return w, err
}

func mustTake(t testing.TB, s *Store, ids ...ID) {
	t.Helper()
	for _, id := range ids {
		_, err := take(s, id, true)
		require.NoError(t, err)
	}
}

// check reads a snapshot in pieces, and says what is wrong with it.
func check(s *Store, id ID) error {
	r, err := s.Open(id)
	if err != nil {
		return err
	}
	defer r.Close()
	metadata, data := contents(id)
	if !bytes.Equal(r.Metadata(), metadata) {
		return errors.New("the metadata is another one")
	}
	got, err := io.ReadAll(&oddly{r, 0})
	if err != nil {
		return err
	}
	if !bytes.Equal(got, data) || r.DataSize() != int64(len(data)) || r.Info().ID != id {
		return errors.New("the data is another one")
	}
	return s.Verify(context.Background(), id)
}

// oddly reads pieces of changing length.
type oddly struct {
	io.Reader
	n int
}

func (o *oddly) Read(p []byte) (int, error) {
	o.n = o.n*7%191 + 1
	return o.Reader.Read(p[:min(len(p), o.n)])
}

// ids of what is listed, all of it whole.
func ids(t testing.TB, s *Store) []ID {
	t.Helper()
	var found []ID
	for _, info := range s.List() {
		require.NoError(t, info.Err)
		require.NoError(t, check(s, info.ID))
		found = append(found, info.ID)
	}
	return found
}

// names of the files on a disk.
func names(disk *vfs.Memory) []string {
	var found []string
	for _, name := range slices.Sorted(maps.Keys(disk.Files())) {
		found = append(found, strings.TrimPrefix(name, dir+"/"))
	}
	return found
}

func namesOf(ids ...ID) []string {
	var names []string
	for _, id := range ids {
		names = append(names, fileName(id))
	}
	slices.Sort(names)
	return names
}

// sent is a file of another node.
type sent struct {
	Info
	bytes []byte
}

// source takes a snapshot on another node, whose files differ by the seed.
func source(t testing.TB, id ID, seed uint64) sent {
	t.Helper()
	options := small(seed*1000 + id.Index)
	options.ChunkBytes += int(seed)
	s := open(t, vfs.NewMemory(), options)
	mustTake(t, s, id)
	raw, err := s.Raw(id)
	require.NoError(t, err)
	f := sent{raw.Info(), make([]byte, raw.Info().Size)}
	_, err = raw.ReadAt(f.bytes, 0)
	require.NoError(t, err)
	require.NoError(t, raw.Close())
	return f
}

// pass writes what is wanted up to an offset, in pieces.
func (f sent) pass(r *Receiver, upTo int64, piece int64) error {
	for r.Next() < upTo {
		at := r.Next()
		if err := r.Write(at, f.bytes[at:min(at+piece, upTo)]); err != nil {
			return err
		}
	}
	return nil
}

func (f sent) receive(s *Store, piece int64) error {
	r, err := s.Receive(f.Info)
	if err != nil {
		return err
	}
	if err := f.pass(r, f.Size, piece); err != nil {
		return err
	}
	_, err = r.Commit()
	return err
}

func TestTakeAndRead(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	require.Empty(t, s.List())
	for _, size := range []struct{ metadata, data int }{
		{0, 0}, {0, 1}, {1, 0}, {99, 99}, {100, 100}, {101, 101}, {200, 200}, {12, 188}, {0, 1000}, {1000, 0}, {333, 5555},
	} {
		id := at(uint64(len(s.List()) + 100*size.metadata + size.data + 1))
		id.Index += s.newest()
		metadata, data := noise(1, size.metadata), noise(2, size.data)
		w, err := s.Create(id, metadata)
		require.NoError(t, err)
		for rest := data; len(rest) > 0; {
			n := min(len(rest), len(rest)%70+1)
			written, err := w.Write(rest[:n])
			require.NoError(t, err)
			require.Equal(t, n, written)
			rest = rest[n:]
		}
		info, err := w.Commit()
		require.NoError(t, err)
		require.Equal(t, info, s.List()[0])
		require.Equal(t, int64(len(disk.Files()[dir+"/"+fileName(id)])), info.Size)

		for _, s := range []*Store{s, open(t, disk, small(1))} {
			r, err := s.Open(id)
			require.NoError(t, err)
			require.Equal(t, info, r.Info())
			require.Equal(t, metadata, r.Metadata())
			require.Equal(t, int64(len(data)), r.DataSize())
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.Equal(t, data, got)
			require.NoError(t, r.Close())
			require.NoError(t, s.Verify(t.Context(), id))
			require.Equal(t, info, s.List()[0])
		}
	}
}

func (s *Store) newest() uint64 {
	if list := s.List(); len(list) > 0 {
		return list[0].Index
	}
	return 0
}

// TestEqualCallsMakeEqualFiles whatever the pieces are that are written.
func TestEqualCallsMakeEqualFiles(t *testing.T) {
	var first map[string][]byte
	for piece := 1; piece < 1500; piece += 83 {
		disk := vfs.NewMemory()
		w, err := open(t, disk, small(1)).Create(at(7), noise(1, 150))
		require.NoError(t, err)
		for p := range slices.Chunk(noise(2, 1200), piece) {
			_, err := w.Write(p)
			require.NoError(t, err)
		}
		_, err = w.Commit()
		require.NoError(t, err)
		if first == nil {
			first = disk.Files()
		}
		require.Equal(t, first, disk.Files())
	}
}

func TestOldOnesGo(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	mustTake(t, s, at(10), at(20))
	old, err := s.Open(at(10))
	require.NoError(t, err)
	raw, err := s.Raw(at(10))
	require.NoError(t, err)
	mustTake(t, s, at(30))
	require.Equal(t, []ID{at(30), at(20)}, ids(t, s))
	require.Equal(t, namesOf(at(20), at(30)), names(disk))

	_, data := contents(at(10))
	got, err := io.ReadAll(old)
	require.NoError(t, err)
	require.Equal(t, data, got, "who reads an old one goes on")
	require.NoError(t, old.Close())
	_, err = raw.ReadAt(make([]byte, raw.Info().Size), 0)
	require.NoError(t, err)
	require.NoError(t, raw.Close())
	for _, id := range []ID{at(10), at(11), {20, 99}} {
		_, err = s.Open(id)
		require.ErrorIs(t, err, iofs.ErrNotExist)
		_, err = s.Raw(id)
		require.ErrorIs(t, err, iofs.ErrNotExist)
		require.ErrorIs(t, s.Verify(t.Context(), id), iofs.ErrNotExist)
	}

	options := small(1)
	options.Keep = 1
	s = open(t, disk, options)
	require.Equal(t, []ID{at(30), at(20)}, ids(t, s), "opening removes none")
	mustTake(t, s, at(40))
	require.Equal(t, namesOf(at(40)), names(disk))
}

// TestWhatCannotBeRemoved stays readable, and goes after the next snapshot.
func TestWhatCannotBeRemoved(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	mustTake(t, s, at(10), at(20))
	disk.Inject(vfs.Nth(vfs.OpRemove, 1, vfs.ErrIO))
	mustTake(t, s, at(30))
	require.Equal(t, []ID{at(30), at(20), at(10)}, ids(t, s))
	mustTake(t, s, at(40))
	require.Equal(t, []ID{at(40), at(30)}, ids(t, s))
	require.Equal(t, namesOf(at(30), at(40)), names(disk))
}

// TestOnlyNewerOnes are taken and received.
func TestOnlyNewerOnes(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	mustTake(t, s, at(20))
	for _, id := range []ID{at(10), at(20), {20, 1}} {
		_, err := s.Create(id, nil)
		require.ErrorIs(t, err, ErrNotNewer)
		_, err = s.Receive(Info{ID: id, Size: 1000})
		require.ErrorIs(t, err, ErrNotNewer)
	}
	slow, err := take(s, at(25), false)
	require.NoError(t, err)
	f := source(t, at(30), 1)
	require.NoError(t, f.receive(s, 100))
	_, err = slow.Commit()
	require.ErrorIs(t, err, ErrNotNewer, "another one was faster")
	require.Equal(t, []ID{at(30), at(20)}, ids(t, s))
	require.Equal(t, namesOf(at(20), at(30)), names(disk))

	f = source(t, at(40), 1)
	r, err := s.Receive(f.Info)
	require.NoError(t, err)
	require.NoError(t, f.pass(r, f.Size, 100))
	mustTake(t, s, at(40))
	_, err = r.Commit()
	require.ErrorIs(t, err, ErrNotNewer)
	require.Equal(t, namesOf(at(30), at(40)), names(disk))
	require.Equal(t, []ID{at(40), at(30)}, ids(t, s))
}

// TestOneAtATime: a snapshot that is taken beside one that is received, and no more.
func TestOneAtATime(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	w, err := s.Create(at(10), nil)
	require.NoError(t, err)
	_, err = s.Create(at(20), nil)
	require.ErrorIs(t, err, ErrBusy)
	r, err := s.Receive(source(t, at(30), 1).Info)
	require.NoError(t, err)
	_, err = s.Receive(source(t, at(40), 1).Info)
	require.ErrorIs(t, err, ErrBusy)
	require.NoError(t, w.Abort())
	require.NoError(t, r.Close())
	mustTake(t, s, at(20))
	require.NoError(t, source(t, at(40), 1).receive(s, 100))
	require.Equal(t, namesOf(at(20), at(40)), names(disk))
}

// TestEnds: behind its end a writer or receiver does nothing any more.
func TestEnds(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	f := source(t, at(30), 1)
	for _, committed := range []bool{false, true} {
		w, err := take(s, at(10), false)
		require.NoError(t, err)
		r, err := s.Receive(f.Info)
		require.NoError(t, err)
		if committed {
			_, err = w.Commit()
			require.NoError(t, err)
			require.NoError(t, f.pass(r, f.Size, 1000))
			_, err = r.Commit()
			require.NoError(t, err)
		} else {
			require.NoError(t, w.Abort())
			require.NoError(t, r.Close())
		}
		before := disk.Operations()
		require.NoError(t, w.Abort())
		require.NoError(t, r.Close())
		_, err = w.Write([]byte("more"))
		require.ErrorIs(t, err, errFinished)
		_, err = w.Commit()
		require.ErrorIs(t, err, errFinished)
		require.ErrorIs(t, r.Write(r.Next(), nil), errFinished)
		_, err = r.Commit()
		require.ErrorIs(t, err, errFinished)
		require.Equal(t, before, disk.Operations())
	}
	require.Equal(t, []ID{at(30), at(10)}, ids(t, s))
}

func TestWrongArguments(t *testing.T) {
	disk := vfs.NewMemory()
	for _, change := range []func(*Options){
		func(o *Options) { o.Keep = -1 }, func(o *Options) { o.SyncBytes = -1 },
		func(o *Options) { o.ChunkBytes = -1 }, func(o *Options) { o.ChunkBytes = maxChunkBytes + 1 },
	} {
		options := small(1)
		change(&options)
		_, err := openClean(disk, dir, options)
		require.ErrorContains(t, err, "want positive numbers")
	}
	s := open(t, disk, Options{})
	_, err := s.Create(ID{0, 1}, nil)
	require.Error(t, err)
	for _, info := range []Info{{ID: ID{0, 1}, Size: 1000}, {ID: at(1), Size: headerBytes + trailerBytes - 1}, {ID: at(1), Size: -1}} {
		_, err = s.Receive(info)
		require.Error(t, err)
	}
	require.Empty(t, names(disk))
	mustTake(t, s, at(1))
	require.Equal(t, []ID{at(1)}, ids(t, s))
}

func TestVerifyCanBeCancelled(t *testing.T) {
	s := open(t, vfs.NewMemory(), small(1))
	mustTake(t, s, at(10))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Verify(ctx, at(10)), context.Canceled)
	require.NoError(t, s.List()[0].Err)
	require.NoError(t, s.Verify(t.Context(), at(10)))
}

// TestS11Leftovers: what is not whole goes when the directory is opened, and what
// is none of ours stays.
func TestS11Leftovers(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	mustTake(t, s, at(10), at(20))
	whole := disk.Files()[dir+"/"+fileName(at(20))]
	ours := namesOf(at(10), at(20))
	foreign := []string{"notes.txt", "0000000000000001.snap", "1-1.snap", "000000000000001E-0000000000000001.snap", "begun"}
	for i, name := range append(foreign, "anything.tmp", "0.part", tempName(at(30), 1), tempName(at(20), 2),
		partialName(Info{ID: at(20), Size: 1000}), partialName(Info{ID: at(19), Size: 1000}), partialName(Info{ID: at(29), Size: 1000})) {
		require.NoError(t, disk.Put(dir+"/"+name, whole[:i*len(whole)/12]))
	}
	going := partialName(Info{ID: at(30), Size: 1000, Identity: 5})
	require.NoError(t, disk.Put(dir+"/"+going, nil))
	s = open(t, disk, small(1))
	want := slices.Sorted(slices.Values(slices.Concat(ours, foreign, []string{going})))
	require.Equal(t, want, names(disk))
	require.Equal(t, want, names(disk.CrashClone(vfs.CrashLose, 0)))
	require.Equal(t, []ID{at(20), at(10)}, ids(t, s))
}

// TestOpenMakesNamesDurable: what is found counts, so it must not go again.
func TestOpenMakesNamesDurable(t *testing.T) {
	disk := vfs.NewMemory()
	s := open(t, disk, small(1))
	disk.Inject(func(op vfs.Op) error {
		if op.Kind == vfs.OpSyncDir {
			return vfs.ErrCrashed
		}
		return nil
	})
	_, err := take(s, at(10), true)
	require.ErrorIs(t, err, vfs.ErrCrashed)
	disk = disk.CrashClone(vfs.CrashKill, 0)
	require.Empty(t, names(disk.CrashClone(vfs.CrashLose, 0)))
	require.Equal(t, []ID{at(10)}, ids(t, open(t, disk, small(1))))
	require.Equal(t, []ID{at(10)}, ids(t, open(t, disk.CrashClone(vfs.CrashLose, 0), small(1))))
}

func ExampleStore() {
	disk := vfs.NewMemory()
	store, _ := openClean(disk, "snapshots", Options{})
	w, _ := store.Create(ID{Index: 1000, Term: 3}, []byte("members"))
	fmt.Fprint(w, "the state")
	info, _ := w.Commit()
	r, _ := store.Open(info.ID)
	data, _ := io.ReadAll(r)
	fmt.Printf("%v: %s, %s\n", info.ID, r.Metadata(), data)
	// Output: entry 1000 of term 3: members, the state
}
