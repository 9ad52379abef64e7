package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// ID names a snapshot: the last entry that it replaces.
type ID struct{ Index, Term uint64 }

// Compare is negative if a snapshot is older than another one.
func (id ID) Compare(other ID) int {
	return cmp.Or(cmp.Compare(id.Index, other.Index), cmp.Compare(id.Term, other.Term))
}

func (id ID) String() string { return fmt.Sprintf("entry %d of term %d", id.Index, id.Term) }

// Info describes a file.
type Info struct {
	ID
	Size     int64  // of the file, as it is sent
	Identity uint64 // tells it from other files of the same snapshot
	Err      error  // why it cannot be used, a *vfs.CorruptError; nil as far as is known
}

// Options of a store. The zero value is fit for use.
type Options struct {
	// Fingerprint is that of the cluster. Files of another one are refused.
	Fingerprint [16]byte

	// Keep is how many snapshots are kept. Default 2.
	Keep int

	// ChunkBytes is how long the chunks of new files are, at most 1 MiB. Default
	// 256 KiB.
	ChunkBytes int

	// SyncBytes is how much is written between two syncs, so that a disk is not
	// asked for all of a large file at once. An interrupted transfer loses no
	// more than twice as much. Default 8 MiB.
	SyncBytes int64

	// Random returns random numbers. nil: those of the system.
	Random func() uint64
}

// Join gives a store that is empty, and that nobody uses yet, the fingerprint of its
// cluster.
func (s *Store) Join(fingerprint [16]byte) { s.options.Fingerprint = fingerprint }

func (o *Options) complete() error {
	o.Keep = cmp.Or(o.Keep, 2)
	o.ChunkBytes = cmp.Or(o.ChunkBytes, 256<<10)
	o.SyncBytes = cmp.Or(o.SyncBytes, 8<<20)
	if o.Random == nil {
		o.Random = rand.Uint64
	}
	if o.Keep < 1 || o.SyncBytes < 1 || o.ChunkBytes < 1 || o.ChunkBytes > maxChunkBytes {
		return fmt.Errorf("snapshots to keep: %d, bytes of a chunk: %d, bytes between syncs: %d: want positive numbers, and chunks of at most %d", o.Keep, o.ChunkBytes, o.SyncBytes, maxChunkBytes)
	}
	return nil
}

// ErrNotNewer is returned by Create, Receive and Commit if there is already a
// snapshot that is as new, or newer.
var ErrNotNewer = errors.New("there is a snapshot that is as new")

// ErrBusy is returned by Create while another snapshot is being written, and by
// Receive while another one is being received.
var ErrBusy = errors.New("another snapshot is under way")

// errFinished is returned by a Writer or Receiver that has come to its end.
var errFinished = errors.New("the snapshot is finished, or was given up")

// Store is an open directory of snapshots. Its methods may be called from any
// goroutine.
type Store struct {
	fs      vfs.FS
	dir     string
	options Options

	leftovers []string // until Clean, which is called before anything is written

	naming sync.Mutex // held while a file gets its name and older ones go

	mu        sync.Mutex // guards what follows; never held for I/O
	files     []Info     // newest first
	partial   *Info      // what there is a .part of
	writing   bool
	receiving bool // who does it owns the .part
}

// Open opens the snapshots in a directory, which it makes if need be and which the
// caller has locked. Files that are damaged as far as header and trailer show are
// listed with their error. It changes no file, but that copies which were made for this
// cluster take their places: call Clean once the snapshots are known to be of use.
func Open(fs vfs.FS, dir string, options Options) (*Store, error) {
	if err := options.complete(); err != nil {
		return nil, err
	}
	if err := fs.MkdirAll(dir); err != nil {
		return nil, err
	}
	s := &Store{fs: fs, dir: dir, options: options}
	if err := s.list(); err != nil {
		return nil, err
	}
	if err := fs.SyncDir(dir); err != nil { // what was found counts from now on
		return nil, err
	}
	return s, nil
}

// Clean removes what a process has left behind that ended in the middle of something.
// It is called before anything is written.
func (s *Store) Clean() error {
	if len(s.leftovers) == 0 {
		return nil
	}
	for _, name := range s.leftovers {
		if err := s.remove(name); err != nil {
			return err
		}
	}
	s.leftovers = nil
	return s.fs.SyncDir(s.dir)
}

// list finds out what there is, and what should not be.
func (s *Store) list() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	if adopted, err := s.adopt(names); err != nil {
		return err
	} else if adopted {
		return s.list()
	}
	var partials []Info
	for _, name := range names {
		id, whole := parseFile(name)
		partial, part := parsePartial(name)
		switch {
		case whole:
			info, err := s.inspect(name, id)
			if err != nil {
				return err
			}
			s.files = append(s.files, info)
		case part:
			partials = append(partials, partial)
		case strings.HasSuffix(name, tempSuffix), strings.HasSuffix(name, partialSuffix), strings.HasSuffix(name, copySuffix):
			s.leftovers = append(s.leftovers, name)
		}
	}
	slices.SortFunc(s.files, newestFirst)
	slices.SortFunc(partials, newestFirst)
	for _, info := range partials {
		if s.partial == nil && s.wanted(info.ID) == nil {
			s.partial = &info
		} else {
			s.leftovers = append(s.leftovers, partialName(info))
		}
	}
	return nil
}

func newestFirst(a, b Info) int { return b.Compare(a.ID) }

// inspect looks at a whole file.
func (s *Store) inspect(name string, id ID) (Info, error) {
	file, err := s.fs.Open(s.path(name))
	if err != nil {
		return Info{}, err
	}
	defer file.Close()
	info := Info{ID: id}
	if info.Size, err = file.Size(); err != nil {
		return Info{}, err
	}
	p, err := s.examine(file, s.path(name), id)
	var corrupt *vfs.CorruptError
	if errors.As(err, &corrupt) {
		info.Err = err
		return info, nil
	}
	info.Identity = p.identity
	return info, err
}

// List returns the snapshots, the newest first, with those that are damaged.
func (s *Store) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.files)
}

// find returns the file of a snapshot.
func (s *Store) find(id ID) (Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, info := range s.files {
		if info.ID == id {
			return info, nil
		}
	}
	return Info{}, fmt.Errorf("snapshot at %v: %w", id, iofs.ErrNotExist)
}

// note remembers that a file is damaged, if that is what the error says.
func (s *Store) note(info Info, err error) {
	var corrupt *vfs.CorruptError
	if !errors.As(err, &corrupt) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.files, info); i >= 0 {
		s.files[i].Err = err
	}
}

// wanted returns an error unless a snapshot is newer than all that can be used.
// The caller holds mu.
func (s *Store) wanted(id ID) error {
	for _, info := range s.files {
		if info.Err == nil && id.Compare(info.ID) <= 0 {
			return fmt.Errorf("%w as %v: the one at %v", ErrNotNewer, id, info.ID)
		}
	}
	return nil
}

// claim makes the caller the only one who writes, or who receives, until release.
// It waits for the end of a prune, which may remove the .part of nobody.
func (s *Store) claim(id ID, busy *bool) error {
	s.naming.Lock()
	defer s.naming.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if *busy {
		return ErrBusy
	}
	if err := s.wanted(id); err != nil {
		return err
	}
	*busy = true
	return nil
}

func (s *Store) release(busy *bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*busy = false
}

// establish makes a file durable that has everything, and then its name. From then
// on it counts, and those that it replaces go.
func (s *Store) establish(file vfs.File, name string, info Info) error {
	if err := file.Sync(); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	s.naming.Lock()
	defer s.naming.Unlock()
	s.mu.Lock()
	err := s.wanted(info.ID) // another one may have been faster
	s.mu.Unlock()
	if err != nil {
		return err
	}
	whole := fileName(info.ID)
	if err := s.fs.Rename(s.path(name), s.path(whole)); err != nil {
		return err
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return errors.Join(err, s.remove(whole)) // nobody knows whether it would stay
	}
	s.publish(info)
	s.prune()
	return nil
}

func (s *Store) publish(info Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = slices.DeleteFunc(s.files, func(old Info) bool { return old.ID == info.ID })
	s.files = append(s.files, info)
	slices.SortFunc(s.files, newestFirst)
}

// prune removes what is not needed any more. What cannot be removed stays, and
// meets the next prune. The removals need not be durable.
func (s *Store) prune() {
	for _, info := range s.obsolete() {
		if s.remove(fileName(info.ID)) == nil {
			s.forget(info)
		}
	}
	if s.partialIsObsolete() {
		_ = s.removePartial()
	}
}

// obsolete returns the files that are damaged, or older than those to be kept.
func (s *Store) obsolete() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var obsolete []Info
	kept := 0
	for _, info := range s.files {
		if info.Err == nil && kept < s.options.Keep {
			kept++
		} else {
			obsolete = append(obsolete, info)
		}
	}
	return obsolete
}

func (s *Store) forget(info Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = slices.DeleteFunc(s.files, func(f Info) bool { return f.ID == info.ID })
}

// partialIsObsolete reports whether nobody will go on with the .part.
func (s *Store) partialIsObsolete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.partial != nil && !s.receiving && s.wanted(s.partial.ID) != nil
}

// setPartial says whose .part there is from now on.
func (s *Store) setPartial(info *Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.partial = info
}

// removePartial removes the .part, if there is one.
func (s *Store) removePartial() error {
	s.mu.Lock()
	partial := s.partial
	s.mu.Unlock()
	if partial == nil {
		return nil
	}
	err := s.remove(partialName(*partial))
	if err == nil {
		s.setPartial(nil)
	}
	return err
}

// remove removes a file that may be missing already.
func (s *Store) remove(name string) error {
	err := s.fs.Remove(s.path(name))
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	return err
}

// path does not clean the directory's name: some systems have names that must not
// be cleaned.
func (s *Store) path(name string) string { return s.dir + "/" + name }

const (
	fileSuffix    = ".snap"
	tempSuffix    = ".tmp"
	partialSuffix = ".part"
	copySuffix    = ".copy"
)

func fileName(id ID) string { return formatName(fileSuffix, id.Index, id.Term) }

func copyName(id ID) string { return formatName(copySuffix, id.Index, id.Term) }

func tempName(id ID, identity uint64) string {
	return formatName(tempSuffix, id.Index, id.Term, identity)
}

func partialName(info Info) string {
	return formatName(partialSuffix, info.Index, info.Term, uint64(info.Size), info.Identity)
}

func parseFile(name string) (ID, bool) { return parseID(name, fileSuffix) }
func parseCopy(name string) (ID, bool) { return parseID(name, copySuffix) }

func parseID(name, suffix string) (ID, bool) {
	n, ok := parseName(name, suffix, 2)
	if !ok {
		return ID{}, false
	}
	return ID{n[0], n[1]}, true
}

func parsePartial(name string) (Info, bool) {
	n, ok := parseName(name, partialSuffix, 4)
	if !ok {
		return Info{}, false
	}
	return Info{ID: ID{n[0], n[1]}, Size: int64(n[2]), Identity: n[3]}, true
}

func formatName(suffix string, numbers ...uint64) string {
	var parts []string
	for _, n := range numbers {
		parts = append(parts, fmt.Sprintf("%016x", n))
	}
	return strings.Join(parts, "-") + suffix
}

// parseName returns the numbers in a name that formatName made; false for other
// names.
func parseName(name, suffix string, count int) ([]uint64, bool) {
	digits, _ := strings.CutSuffix(name, suffix)
	var numbers []uint64
	for part := range strings.SplitSeq(digits, "-") {
		n, err := strconv.ParseUint(part, 16, 64)
		if err != nil {
			return nil, false
		}
		numbers = append(numbers, n)
	}
	return numbers, len(numbers) == count && formatName(suffix, numbers...) == name
}
