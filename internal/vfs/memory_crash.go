package vfs

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// CrashMode says what becomes of the changes that are not durable.
type CrashMode int

const (
	// CrashLose loses all of them.
	CrashLose CrashMode = iota

	// CrashKeep keeps all of them, and makes them durable.
	CrashKeep

	// CrashTear keeps those up to a point of time, over all files and names,
	// and tears the write at that point: of it there are the first bytes, the
	// first sectors, or any sectors.
	CrashTear

	// CrashScatter keeps any of them, whatever their order, as the comment of
	// Memory allows.
	CrashScatter

	// CrashKill ends only the process. The system keeps all that was written,
	// and has not made more of it durable: a crash after it can still lose it.
	CrashKill
)

var crashNames = [...]string{
	CrashLose: "lose", CrashKeep: "keep", CrashTear: "tear", CrashScatter: "scatter", CrashKill: "kill",
}

func (c CrashMode) String() string {
	if c < 0 || int(c) >= len(crashNames) {
		return fmt.Sprintf("CrashMode(%d)", int(c))
	}
	return crashNames[c]
}

// CrashClone returns the disk as a machine may find it that starts after a
// crash at this moment. The seed chooses among what CrashTear and CrashScatter
// may leave. Nothing is locked on the new disk, it has no hook and does not
// crash, and it counts its operations anew; the capacity stays.
//
// This disk stays as it is, and its processes go on unless FailAfter or the
// hook stopped them.
func (m *Memory) CrashClone(mode CrashMode, seed uint64) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.clone()
	switch mode {
	case CrashLose:
		c.loseFrom(0)
	case CrashKeep:
		c.loseFrom(c.sequence + 1)
	case CrashTear:
		c.tear(rand.New(rand.NewPCG(seed, 0)))
	case CrashScatter:
		c.scatter(seed)
	case CrashKill:
		return c
	default:
		panic(fmt.Sprintf("vfs: unknown crash mode %d", mode))
	}
	c.settled()
	return c
}

// LastWrite returns how many bytes the last write has that is not durable, or
// truncation, 0 without one. TearClone tears it.
func (m *Memory) LastWrite() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, last := m.lastWrite(); last != nil {
		return last.length
	}
	return 0
}

// TearClone is CrashClone in a mode of its own: everything is kept but the last
// write, and of that the first bytes.
func (m *Memory) TearClone(keep int64) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.clone()
	if n, last := c.lastWrite(); n != nil {
		for i := range n.changes {
			if change := &n.changes[i]; change != last {
				change.apply(&n.durable)
			} else {
				change.tear(&n.durable, keep, func() bool { return true }, true)
			}
		}
		n.changes = nil
	}
	c.loseFrom(c.sequence + 1)
	c.settled()
	return c
}

func (m *Memory) lastWrite() (n *node, last *change) {
	for _, file := range m.files() {
		for i := range file.node.changes {
			c := &file.node.changes[i]
			if len(c.sectors) > 0 && (last == nil || c.number > last.number) {
				n, last = file.node, c
			}
		}
	}
	return n, last
}

// clone copies everything but what belongs to the running processes.
func (m *Memory) clone() *Memory {
	copies := make(map[*node]*node)
	var copyNode func(*node) *node
	copyNode = func(n *node) *node {
		if n == nil || copies[n] != nil {
			return copies[n]
		}
		c := &node{
			number:  n.number,
			content: n.content.clone(),
			durable: n.durable.clone(),
			changes: slices.Clone(n.changes),
		}
		copies[n] = c
		if n.isDir() {
			c.entries = copyEntries(n.entries, copyNode)
			c.durableEntries = copyEntries(n.durableEntries, copyNode)
		}
		return c
	}
	c := &Memory{
		root:       copyNode(m.root),
		sequence:   m.sequence,
		nodes:      m.nodes,
		stale:      slices.Clone(m.stale),
		capacity:   m.capacity,
		keepFailed: m.keepFailed,
	}
	for _, change := range m.names {
		change.node = copyNode(change.node)
		change.from.dir = copyNode(change.from.dir)
		change.to.dir = copyNode(change.to.dir)
		c.names = append(c.names, change)
	}
	return c
}

func copyEntries(entries map[string]*node, copyNode func(*node) *node) map[string]*node {
	copied := make(map[string]*node, len(entries))
	for name, n := range entries {
		copied[name] = copyNode(n)
	}
	return copied
}

// all returns every node there is, or will be when the crash is decided, in the
// order in which they were made.
func (m *Memory) all() []*node {
	seen := make(map[*node]bool)
	var walk func(*node)
	walk = func(n *node) {
		if n == nil || seen[n] {
			return
		}
		seen[n] = true
		for _, entry := range n.entries {
			walk(entry)
		}
		for _, entry := range n.durableEntries {
			walk(entry)
		}
	}
	walk(m.root)
	for _, c := range m.names {
		walk(c.node)
		walk(c.from.dir)
		walk(c.to.dir)
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b *node) int { return int(a.number) - int(b.number) })
}

// loseFrom makes durable the changes before a number and loses the others.
func (m *Memory) loseFrom(number uint64) {
	for _, n := range m.all() {
		for i := range n.changes {
			if n.changes[i].number < number {
				n.changes[i].apply(&n.durable)
			}
		}
		n.changes = nil
	}
	m.settleNames(func(c *nameChange) bool { return c.number < number })
}

func (m *Memory) tear(random *rand.Rand) {
	nodes := make(map[uint64]*node)
	changes := make(map[uint64]*change)
	points := []uint64{m.sequence + 1}
	for _, n := range m.all() {
		for i := range n.changes {
			c := &n.changes[i]
			nodes[c.number], changes[c.number] = n, c
			points = append(points, c.number)
		}
	}
	for _, c := range m.names {
		points = append(points, c.number)
	}
	slices.Sort(points)
	point := points[random.IntN(len(points))]
	n, torn := nodes[point], changes[point]
	m.loseFrom(point)
	if torn != nil {
		tearAtRandom(random, torn, &n.durable)
	}
}

func tearAtRandom(random *rand.Rand, c *change, m *image) {
	keep, pick := c.length, func() bool { return true }
	switch random.IntN(3) {
	case 0:
		keep = random.Int64N(c.length + 1)
	case 1:
		end := c.offset + random.Int64N(c.length+1)
		keep = max(0, end-end%sectorSize-c.offset)
	default:
		pick = func() bool { return random.IntN(2) == 0 }
	}
	c.tear(m, keep, pick, random.IntN(2) == 0)
}

func (m *Memory) scatter(seed uint64) {
	for _, n := range m.all() {
		random := rand.New(rand.NewPCG(seed, n.number))
		n.durable = scatter(random, &n.durable, n.changes, m.stale)
		n.changes = nil
	}
	random := rand.New(rand.NewPCG(seed, 0))
	kept := []float64{0, 0.1, 0.5, 0.9, 1}[random.IntN(5)]
	m.settleNames(func(*nameChange) bool { return random.Float64() < kept })
}

// settled lets the process see what is durable, and nothing else.
func (m *Memory) settled() {
	m.names = nil
	for _, n := range m.all() {
		if n.isDir() {
			n.entries = maps.Clone(n.durableEntries)
			continue
		}
		n.durable.trim()
		n.content = n.durable.clone()
	}
}

// Files returns the content of all files. A name is the path from the root,
// without a slash in front.
func (m *Memory) Files() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	files := make(map[string][]byte)
	for _, file := range m.files() {
		files[file.name] = file.node.content.bytes()
	}
	return files
}

// Put makes a durable file, in place of one of that name, and the directories
// that it needs.
func (m *Memory) Put(name string, content []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = clean(name)
	dir := m.root
	parts := strings.Split(name, "/")
	for i, part := range parts {
		last := i == len(parts)-1
		n := dir.entries[part]
		switch {
		case part == "" || n != nil && n.isDir() == last:
			return &fs.PathError{Op: "put", Path: name, Err: fs.ErrInvalid}
		case n == nil:
			n = m.newNode(!last)
		}
		dir.entries[part], dir.durableEntries[part] = n, n
		if last {
			n.content = image{}
			n.content.write(content, 0)
			n.durable, n.changes = n.content.clone(), nil
		}
		m.names = slices.DeleteFunc(m.names, func(c nameChange) bool { return c.node == n })
		dir = n
	}
	return nil
}

// Corrupt flips bits of a byte of a file at rest, durably.
func (m *Memory) Corrupt(name string, offset int64, xor byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findFile(name)
	if err == nil && (offset < 0 || offset >= n.content.size) {
		err = fs.ErrInvalid
	}
	if err != nil {
		return &fs.PathError{Op: "corrupt", Path: name, Err: err}
	}
	for _, m := range []*image{&n.content, &n.durable} {
		if offset < m.size {
			index := int(offset / sectorSize)
			s := new(sector)
			if old := m.at(index); old != nil {
				*s = *old
			}
			s[offset%sectorSize] ^= xor
			m.set(index, s)
		}
	}
	return nil
}

// Cut sets the size of a file at rest, durably.
func (m *Memory) Cut(name string, size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findFile(name)
	if err == nil && size < 0 {
		err = fs.ErrInvalid
	}
	if err != nil {
		return &fs.PathError{Op: "cut", Path: name, Err: err}
	}
	n.content.resize(size)
	n.durable = n.content.clone()
	n.changes = nil
	return nil
}
