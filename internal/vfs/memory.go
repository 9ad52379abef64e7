package vfs

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
)

// Memory is a disk in memory that can crash and fail, for tests.
//
// It has two states at once: what the running process sees, and what is
// durable. In between stand the changes that are not durable yet, in their
// order. Sync moves the changes of one file over, as many as there were when it
// was called, and SyncDir those of the names in one directory. Neither does
// the other's work: the bytes of a file without a durable name are lost with
// it, and a durable name may belong to a file whose bytes were lost.
//
// A crash decides about every change that is not durable; [CrashMode] says how.
// Whatever the mode is, this holds:
//
//   - What was durable stays, unless a change since then replaced it.
//   - A file is made of sectors of 512 bytes. Of each sector a crash leaves the
//     durable content or what one of the changes since then made of it, and
//     the sectors do not depend on each other. Only in the write that a crash
//     tears does the border of old and new lie anywhere within a sector.
//   - The size is the durable one, or one that the file had since. It does not
//     depend on the content: where the file grew and a sector was lost, there
//     are zeros, or bytes of files that were removed.
//   - Creating, renaming and removing happen wholly or not at all, so a renamed
//     file has its old or its new name. Changes which have neither a file nor a
//     name in common do not depend on each other, even in one directory; of
//     those that have, the later one implies the earlier.
//   - A directory that loses its name takes along everything in it.
//
// A disk that damages a durable sector while it writes to it is not modelled;
// [Memory.Corrupt] does such damage.
//
// A Memory may be used by many goroutines at once, and it never waits for time
// to pass. The same operations in the same order and the same seed of a crash
// yield the same disk.
type Memory struct {
	// mu guards everything below, the nodes and the open files included. No
	// code of others runs under it, and nothing blocks under it.
	mu       sync.Mutex
	root     *node
	names    []nameChange // not durable yet, oldest first
	sequence uint64       // the number of the last change
	nodes    uint64       // how many were made
	stale    []*sector    // of removed and cut files

	operations int
	failAt     int // 0 for never
	crashed    bool
	inject     func(Op) error
	capacity   int64 // 0 for unlimited
	keepFailed bool
}

// ErrCrashed is returned by every operation on a Memory after its crash.
var ErrCrashed = errors.New("machine has crashed")

// maxStale bounds how many sectors of removed files are remembered.
const maxStale = 64

// node is a file or a directory.
type node struct {
	number uint64

	// entries is nil for a file. In both lists a name is without slashes.
	entries, durableEntries map[string]*node
	locked                  *memoryLock

	content, durable image
	changes          []change // from durable to content, oldest first
}

func (n *node) isDir() bool { return n.entries != nil }

// place is a name in a directory. The zero place is nowhere.
type place struct {
	dir  *node
	name string
}

// nameChange moves a node: from nowhere when it is created, to nowhere when it
// is removed.
type nameChange struct {
	number   uint64
	node     *node
	from, to place
}

func (c *nameChange) touches(dir *node) bool { return c.from.dir == dir || c.to.dir == dir }

// dependsOn reports whether the change makes no sense without an earlier one.
// What happened to the name that it takes the node from need not be looked at:
// the node came there by an earlier change, which depends on that.
func (c *nameChange) dependsOn(earlier *nameChange) bool {
	return c.node == earlier.node ||
		c.to.dir != nil && (c.to == earlier.from || c.to == earlier.to)
}

// apply makes the change durable.
func (c *nameChange) apply() {
	if c.from.dir != nil {
		delete(c.from.dir.durableEntries, c.from.name)
	}
	if c.to.dir != nil {
		c.to.dir.durableEntries[c.to.name] = c.node
	}
}

// NewMemory returns an empty disk with a root directory.
func NewMemory() *Memory {
	m := &Memory{}
	m.root = m.newNode(true)
	return m
}

func (m *Memory) newNode(dir bool) *node {
	m.nodes++
	n := &node{number: m.nodes}
	if dir {
		n.entries = make(map[string]*node)
		n.durableEntries = make(map[string]*node)
	}
	return n
}

// clean returns the path from the root, which is the empty one. Relative paths
// begin at the root too.
func clean(name string) string { return path.Clean("/" + name)[1:] }

// find returns the node of a path.
func (m *Memory) find(name string) (*node, error) {
	n := m.root
	for part := range strings.SplitSeq(clean(name), "/") {
		if part == "" {
			continue
		}
		next := n.entries[part]
		if next == nil {
			return nil, fs.ErrNotExist
		}
		n = next
	}
	return n, nil
}

func (m *Memory) findDir(name string) (*node, error) {
	n, err := m.find(name)
	if err == nil && !n.isDir() {
		err = errNotDirectory
	}
	return n, err
}

func (m *Memory) findFile(name string) (*node, error) {
	n, err := m.find(name)
	if err == nil && n.isDir() {
		err = errIsDirectory
	}
	return n, err
}

var (
	errNotDirectory = errors.New("not a directory")
	errIsDirectory  = errors.New("is a directory")
)

// findPlace returns where a path is or would be.
func (m *Memory) findPlace(name string) (place, error) {
	dir, base := path.Split(clean(name))
	if base == "" {
		return place{}, errIsDirectory
	}
	parent, err := m.findDir(dir)
	return place{parent, base}, err
}

// move changes a name at once, and durably when SyncDir comes.
func (m *Memory) move(n *node, from, to place) {
	if from.dir != nil {
		delete(from.dir.entries, from.name)
	}
	if to.dir != nil {
		if replaced := to.dir.entries[to.name]; replaced != nil {
			m.recycle(replaced.content.sectors)
		}
		to.dir.entries[to.name] = n
	} else {
		m.recycle(n.content.sectors)
	}
	m.sequence++
	m.names = append(m.names, nameChange{number: m.sequence, node: n, from: from, to: to})
}

// recycle remembers some of the sectors of a file that goes.
func (m *Memory) recycle(sectors []*sector) {
	const most = 16
	for i := 0; i < len(sectors); i += 1 + len(sectors)/most {
		if sectors[i] != nil {
			m.stale = append(m.stale, sectors[i])
		}
	}
	if spare := len(m.stale) - maxStale; spare > 0 {
		m.stale = slices.Delete(m.stale, 0, spare)
	}
}

// MkdirAll is two operations for every directory that it makes, the making and
// the sync of the parent, and a sync for the one that it finds.
func (m *Memory) MkdirAll(dir string) error {
	dir = clean(dir)
	if dir == "" {
		return nil
	}
	m.mu.Lock()
	_, err := m.findDir(dir)
	m.mu.Unlock()
	parent := path.Dir(dir)
	switch {
	case err == nil:
		return m.SyncDir(parent)
	case !errors.Is(err, fs.ErrNotExist):
		return &fs.PathError{Op: OpMkdir.String(), Path: dir, Err: err}
	}
	if err := m.MkdirAll(parent); err != nil {
		return err
	}
	if err := m.mkdir(dir); err != nil {
		return err
	}
	return m.SyncDir(parent)
}

func (m *Memory) mkdir(dir string) error {
	return m.do(Op{Kind: OpMkdir, Name: dir}, func() error {
		at, err := m.findPlace(dir)
		if err != nil {
			return err
		}
		if old := at.dir.entries[at.name]; old != nil {
			if !old.isDir() {
				return fs.ErrExist
			}
			return nil // another goroutine was faster
		}
		m.move(m.newNode(true), place{}, at)
		return nil
	})
}

// Create implements FS.
func (m *Memory) Create(name string) (File, error) {
	var file *memoryFile
	err := m.do(Op{Kind: OpCreate, Name: name}, func() error {
		at, err := m.findPlace(name)
		if err != nil {
			return err
		}
		if at.dir.entries[at.name] != nil {
			return fs.ErrExist
		}
		file = &memoryFile{disk: m, node: m.newNode(false), name: name}
		m.move(file.node, place{}, at)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return file, nil
}

// Open implements FS.
func (m *Memory) Open(name string) (File, error) {
	var file *memoryFile
	err := m.do(Op{Kind: OpOpen, Name: name}, func() error {
		n, err := m.findFile(name)
		file = &memoryFile{disk: m, node: n, name: name}
		return err
	})
	if err != nil {
		return nil, err
	}
	return file, nil
}

// Rename implements FS.
func (m *Memory) Rename(from, to string) error {
	return m.do(Op{Kind: OpRename, Name: from, To: to}, func() error {
		n, err := m.findFile(from)
		if err != nil {
			return err
		}
		old, err := m.findPlace(from)
		if err != nil {
			return err
		}
		at, err := m.findPlace(to)
		if err != nil {
			return err
		}
		if replaced := at.dir.entries[at.name]; replaced != nil && replaced.isDir() {
			return errIsDirectory
		}
		if old != at {
			m.move(n, old, at)
		}
		return nil
	})
}

// Remove implements FS.
func (m *Memory) Remove(name string) error {
	return m.do(Op{Kind: OpRemove, Name: name}, func() error {
		n, err := m.findFile(name)
		if err != nil {
			return err
		}
		at, err := m.findPlace(name)
		if err != nil {
			return err
		}
		m.move(n, at, place{})
		return nil
	})
}

// List implements FS.
func (m *Memory) List(dir string) ([]string, error) {
	names := []string{}
	err := m.do(Op{Kind: OpList, Name: dir}, func() error {
		n, err := m.findDir(dir)
		if err != nil {
			return err
		}
		for name, entry := range n.entries {
			if !entry.isDir() {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}

// SyncDir implements FS. If it fails, what it would have made durable stays as
// it was.
func (m *Memory) SyncDir(dir string) error {
	mark := m.mark()
	return m.do(Op{Kind: OpSyncDir, Name: dir}, func() error {
		n, err := m.findDir(dir)
		if err != nil {
			return err
		}
		m.settleNames(func(c *nameChange) bool { return c.number <= mark && c.touches(n) })
		return nil
	})
}

// mark returns the number of the last change.
func (m *Memory) mark() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sequence
}

// settleNames makes durable the changes that keep takes, and those they depend
// on. The rest goes on waiting.
func (m *Memory) settleNames(keep func(*nameChange) bool) {
	kept := make([]bool, len(m.names))
	for i := range slices.Backward(m.names) {
		if kept[i] = kept[i] || keep(&m.names[i]); !kept[i] {
			continue
		}
		for j := range i {
			kept[j] = kept[j] || m.names[i].dependsOn(&m.names[j])
		}
	}
	var waiting []nameChange
	for i, c := range m.names {
		if kept[i] {
			c.apply()
		} else {
			waiting = append(waiting, c)
		}
	}
	m.names = waiting
}

// Lock implements FS. It leaves no file behind.
func (m *Memory) Lock(dir string) (io.Closer, error) {
	var lock *memoryLock
	err := m.do(Op{Kind: OpLock, Name: dir}, func() error {
		n, err := m.findDir(dir)
		if err != nil {
			return err
		}
		if n.locked != nil {
			return ErrLocked
		}
		lock = &memoryLock{disk: m, dir: n, name: dir}
		n.locked = lock
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lock, nil
}

type memoryLock struct {
	disk *Memory
	dir  *node
	name string
}

func (l *memoryLock) Close() error {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	if l.dir.locked != l {
		return &fs.PathError{Op: "close", Path: l.name, Err: fs.ErrClosed}
	}
	l.dir.locked = nil
	return nil
}

// memoryFile is one opening of a file.
type memoryFile struct {
	disk   *Memory
	node   *node
	name   string
	closed bool
}

// do is Memory.do for an operation on an open file.
func (f *memoryFile) do(op Op, effect func(injected error) error) error {
	op.Name = f.name
	return f.disk.attempt(op, func(injected error) error {
		switch {
		case f.closed:
			return fs.ErrClosed
		case op.Offset < 0 || op.Length < 0:
			return fs.ErrInvalid
		}
		return effect(injected)
	})
}

func (f *memoryFile) ReadAt(p []byte, offset int64) (n int, err error) {
	var end error
	err = f.do(Op{Kind: OpRead, Offset: offset, Length: int64(len(p))}, func(injected error) error {
		if injected == nil {
			n, end = f.node.content.readAt(p, offset)
		}
		return injected
	})
	if err == nil {
		err = end
	}
	return n, err
}

func (f *memoryFile) WriteAt(p []byte, offset int64) (n int, err error) {
	err = f.do(Op{Kind: OpWrite, Offset: offset, Length: int64(len(p))}, func(injected error) error {
		fits := min(int64(len(p)), max(0, f.disk.room(f.node)-offset))
		if injected == nil && fits < int64(len(p)) {
			injected = errNoSpace
		} else if injected != nil {
			var short *ShortWrite
			if !errors.As(injected, &short) {
				return injected
			}
			fits = max(0, min(fits, int64(short.Bytes)))
		}
		if n = int(fits); n > 0 {
			f.record(f.node.content.write(p[:n], offset))
		}
		return injected
	})
	return n, err
}

// WritevAt is one write, which a crash tears as a whole.
func (f *memoryFile) WritevAt(pieces [][]byte, offset int64) (int, error) {
	return f.WriteAt(slices.Concat(pieces...), offset)
}

// record keeps a change until it is durable.
func (f *memoryFile) record(c change) {
	f.disk.sequence++
	c.number = f.disk.sequence
	f.node.changes = append(f.node.changes, c)
}

// Sync implements File. If it fails, the bytes that were not durable are gone
// for good, and later calls succeed without them.
func (f *memoryFile) Sync() error {
	mark := f.disk.mark()
	return f.do(Op{Kind: OpSync}, func(injected error) error {
		n := f.node
		if injected != nil {
			n.changes = nil
			if !f.disk.keepFailed {
				n.content = n.durable.clone()
			}
			return injected
		}
		synced := 0
		for synced < len(n.changes) && n.changes[synced].number <= mark {
			n.changes[synced].apply(&n.durable)
			synced++
		}
		n.changes = slices.Clone(n.changes[synced:])
		return nil
	})
}

func (f *memoryFile) Allocate(size int64) error {
	return f.resize(OpAllocate, size, func(old int64) bool { return size > old })
}

func (f *memoryFile) Truncate(size int64) error {
	return f.resize(OpTruncate, size, func(old int64) bool { return size != old })
}

func (f *memoryFile) resize(kind OpKind, size int64, needed func(old int64) bool) error {
	return f.do(Op{Kind: kind, Length: size}, func(injected error) error {
		n := f.node
		switch {
		case injected != nil:
			return injected
		case !needed(n.content.size):
			return nil
		case size > f.disk.room(n):
			return errNoSpace
		}
		if keep := int(size / sectorSize); keep < len(n.content.sectors) {
			f.disk.recycle(n.content.sectors[keep:])
		}
		f.record(n.content.resize(size))
		return nil
	})
}

func (f *memoryFile) Size() (size int64, err error) {
	err = f.do(Op{Kind: OpSize}, func(injected error) error {
		size = f.node.content.size
		return injected
	})
	return size, err
}

func (f *memoryFile) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.closed = true
	return nil
}

// room returns how long a file may become.
func (m *Memory) room(n *node) int64 {
	if m.capacity == 0 {
		return math.MaxInt64
	}
	free := m.capacity
	for _, file := range m.files() {
		free -= file.node.content.size
	}
	return n.content.size + max(0, free)
}

// named is a file and its path from the root.
type named struct {
	name string
	node *node
}

// files returns all files that the process sees, sorted by name.
func (m *Memory) files() []named {
	var found []named
	var walk func(prefix string, dir *node)
	walk = func(prefix string, dir *node) {
		for name, n := range dir.entries {
			name = path.Join(prefix, name)
			if n.isDir() {
				walk(name, n)
			} else {
				found = append(found, named{name, n})
			}
		}
	}
	walk("", m.root)
	slices.SortFunc(found, func(a, b named) int { return strings.Compare(a.name, b.name) })
	return found
}
