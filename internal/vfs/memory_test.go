package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

var (
	allModes  = []CrashMode{CrashLose, CrashKeep, CrashTear, CrashScatter, CrashKill}
	someModes = []CrashMode{CrashTear, CrashScatter}
)

const seeds = 60

// newDisk returns a disk with an empty directory "data" that is durable.
func newDisk(t *testing.T) *Memory {
	t.Helper()
	disk := NewMemory()
	must(t, disk.MkdirAll("data"))
	return disk
}

// newFile returns a disk with the file "data/a", durable with its content.
func newFile(t *testing.T, content string) (*Memory, File) {
	t.Helper()
	disk := newDisk(t)
	file := create(t, disk, "data/a")
	write(t, file, 0, content)
	must(t, file.Sync())
	must(t, disk.SyncDir("data"))
	return disk, file
}

// outcomes counts what crashes with different seeds leave of "data/a".
func outcomes(disk *Memory, mode CrashMode) map[string]int {
	found := make(map[string]int)
	for seed := range uint64(seeds) {
		if content, ok := disk.CrashClone(mode, seed).Files()["data/a"]; ok {
			found[string(content)]++
		} else {
			found["no file"]++
		}
	}
	return found
}

func wantOutcomes(t *testing.T, disk *Memory, mode CrashMode, want ...string) {
	t.Helper()
	found := outcomes(disk, mode)
	for _, content := range want {
		if found[content] == 0 {
			t.Errorf("%v never leaves %.40q", mode, content)
		}
		delete(found, content)
	}
	for content := range found {
		t.Errorf("%v leaves %.40q", mode, content)
	}
}

func TestSyncedContentSurvives(t *testing.T) {
	disk, _ := newFile(t, strings.Repeat("content", 300))
	for _, mode := range allModes {
		wantOutcomes(t, disk, mode, strings.Repeat("content", 300))
	}
}

func TestUnsyncedContentMayVanish(t *testing.T) {
	disk, file := newFile(t, "old")
	write(t, file, 0, "new")
	wantOutcomes(t, disk, CrashLose, "old")
	wantOutcomes(t, disk, CrashKeep, "new")
	wantOutcomes(t, disk, CrashKill, "new")
	wantOutcomes(t, disk, CrashScatter, "old", "new")
	wantOutcomes(t, disk, CrashTear, "old", "new", "nld", "ned")
}

func TestSectorsAreIndependent(t *testing.T) {
	content := func(c string) string { return strings.Repeat(c, sectorSize) }
	disk, file := newFile(t, content("a")+content("b"))
	write(t, file, 0, content("A")+content("B"))
	both := []string{"ab", "aB", "Ab", "AB"}
	for i, letters := range both {
		both[i] = content(letters[:1]) + content(letters[1:])
	}
	wantOutcomes(t, disk, CrashScatter, both...)
	found := outcomes(disk, CrashTear)
	for _, want := range both {
		if found[want] == 0 {
			t.Errorf("a torn write never leaves %c%c", want[0], want[sectorSize])
		}
	}
	if len(found) < 10 {
		t.Errorf("a write of two sectors is torn in %d ways only", len(found))
	}
}

// TestVersionsOfASector writes a sector several times without a sync.
func TestVersionsOfASector(t *testing.T) {
	disk, file := newFile(t, "0")
	write(t, file, 0, "1")
	write(t, file, 0, "2")
	write(t, file, 0, "3")
	wantOutcomes(t, disk, CrashScatter, "0", "1", "2", "3")
	wantOutcomes(t, disk, CrashTear, "0", "1", "2", "3")
}

func TestSizeAndContentAreIndependent(t *testing.T) {
	disk, file := newFile(t, "old")
	write(t, file, sectorSize, "new")
	hole := strings.Repeat("\x00", sectorSize-3)
	wantOutcomes(t, disk, CrashScatter, "old", "old"+hole+"new", "old"+hole+"\x00\x00\x00")
	must(t, file.Sync())
	must(t, file.Truncate(3))
	write(t, file, 0, "OLD")
	found := outcomes(disk, CrashScatter)
	for _, want := range []string{"old", "OLD", "old" + hole + "new", "OLD" + hole + "new"} {
		if found[want] == 0 {
			t.Errorf("never leaves %q", want)
		}
	}
}

// TestNothingBehindTheEnd grows what a crash left; the lost end stays lost.
func TestNothingBehindTheEnd(t *testing.T) {
	disk, file := newFile(t, "old")
	write(t, file, 3, strings.Repeat("x", 3*sectorSize))
	short := 0
	for seed := range uint64(seeds) {
		clone := disk.CrashClone(CrashScatter, seed)
		left := open(t, clone, "data/a")
		if size, err := left.Size(); err == nil && size == 3 {
			short++
			must(t, left.Truncate(2*sectorSize))
			wantContent(t, left, "old"+strings.Repeat("\x00", 2*sectorSize-3))
		}
	}
	if short == 0 {
		t.Error("no crash left the old size")
	}
}

func TestLostSectorsOfNewSpaceHoldOldBytes(t *testing.T) {
	disk, file := newFile(t, strings.Repeat("secret", 1000))
	must(t, file.Close())
	must(t, disk.Remove("data/a"))
	must(t, disk.SyncDir("data"))
	file = create(t, disk, "data/a")
	must(t, disk.SyncDir("data"))
	write(t, file, 0, strings.Repeat("x", 3*sectorSize))
	zeros, stale := false, false
	for content := range outcomes(disk, CrashScatter) {
		if len(content) == 3*sectorSize {
			zeros = zeros || strings.Contains(content, "\x00\x00")
			stale = stale || strings.Contains(content, "secret")
		}
	}
	if !zeros || !stale {
		t.Errorf("lost sectors hold zeros: %v, old bytes: %v", zeros, stale)
	}

	must(t, file.Sync())
	write(t, file, 0, strings.Repeat("y", 3*sectorSize))
	for content := range outcomes(disk, CrashScatter) {
		if strings.Trim(content, "xy") != "" {
			t.Fatal("old bytes in space that was durable")
		}
	}
}

// TestAllocatedSpaceIsZeros has space that is durable and writes that are not.
func TestAllocatedSpaceIsZeros(t *testing.T) {
	disk, file := newFile(t, "")
	must(t, file.Allocate(2*sectorSize))
	must(t, file.Sync())
	write(t, file, 0, strings.Repeat("x", sectorSize))
	zeros := strings.Repeat("\x00", sectorSize)
	wantOutcomes(t, disk, CrashScatter, zeros+zeros, strings.Repeat("x", sectorSize)+zeros)
}

func TestD5NamesNeedSyncDir(t *testing.T) {
	disk := newDisk(t)
	file := create(t, disk, "data/a")
	write(t, file, 0, "content")
	must(t, file.Sync())
	wantOutcomes(t, disk, CrashLose, "no file")
	wantOutcomes(t, disk, CrashKeep, "content")
	wantOutcomes(t, disk, CrashKill, "content")
	wantOutcomes(t, disk, CrashTear, "no file", "content")
	wantOutcomes(t, disk, CrashScatter, "no file", "content")
	must(t, disk.SyncDir(""))
	wantOutcomes(t, disk, CrashLose, "no file")
	must(t, disk.SyncDir("data"))
	for _, mode := range allModes {
		wantOutcomes(t, disk, mode, "content")
	}
	must(t, disk.Remove("data/a"))
	wantOutcomes(t, disk, CrashLose, "content")
	wantOutcomes(t, disk, CrashScatter, "no file", "content")
	must(t, disk.SyncDir("data"))
	wantOutcomes(t, disk, CrashScatter, "no file")
}

func TestDurableNameOfUnsyncedFile(t *testing.T) {
	disk := newDisk(t)
	write(t, create(t, disk, "data/a"), 0, "x")
	must(t, disk.SyncDir("data"))
	wantOutcomes(t, disk, CrashLose, "")
	wantOutcomes(t, disk, CrashScatter, "", "x", "\x00")
}

// states counts which files crashes leave, each as name=content.
func states(disk *Memory, mode CrashMode) map[string]int {
	found := make(map[string]int)
	for seed := range uint64(3 * seeds) {
		var files []string
		for name, content := range disk.CrashClone(mode, seed).Files() {
			files = append(files, strings.TrimPrefix(name, "data/")+"="+string(content))
		}
		slices.Sort(files)
		found[strings.Join(files, " ")]++
	}
	return found
}

func wantStates(t *testing.T, disk *Memory, mode CrashMode, want ...string) {
	t.Helper()
	found := states(disk, mode)
	for _, state := range want {
		if found[state] == 0 {
			t.Errorf("%v never leaves %q", mode, state)
		}
		delete(found, state)
	}
	for state := range found {
		t.Errorf("%v leaves %q", mode, state)
	}
}

// put makes a file that is durable, but for its name.
func put(t *testing.T, disk *Memory, name, content string) {
	t.Helper()
	file := create(t, disk, name)
	write(t, file, 0, content)
	must(t, file.Sync())
}

func TestRenameIsAtomic(t *testing.T) {
	disk := newDisk(t)
	put(t, disk, "data/a", "old")
	put(t, disk, "data/b", "new")
	must(t, disk.SyncDir("data"))
	must(t, disk.Rename("data/b", "data/a"))
	wantStates(t, disk, CrashLose, "a=old b=new")
	wantStates(t, disk, CrashKill, "a=new")
	for _, mode := range someModes {
		wantStates(t, disk, mode, "a=old b=new", "a=new")
	}

	// Back and forth: some name it always has.
	must(t, disk.Rename("data/a", "data/c"))
	must(t, disk.Rename("data/c", "data/b"))
	for _, mode := range someModes {
		wantStates(t, disk, mode, "a=old b=new", "a=new", "c=new", "b=new")
	}
	must(t, disk.SyncDir("data"))
	wantStates(t, disk, CrashScatter, "b=new")
}

// TestNameTakenAgain gives the name of a file that was renamed to a new one,
// which must not cost the first one both of its names.
func TestNameTakenAgain(t *testing.T) {
	disk := newDisk(t)
	put(t, disk, "data/a", "1")
	must(t, disk.SyncDir("data"))
	must(t, disk.Rename("data/a", "data/b"))
	put(t, disk, "data/a", "2")
	for _, mode := range someModes {
		wantStates(t, disk, mode, "a=1", "b=1", "a=2 b=1")
	}
}

func TestNamesAreIndependent(t *testing.T) {
	disk := newDisk(t)
	for _, name := range []string{"data/1", "data/2", "data/3"} {
		put(t, disk, name, "")
	}
	must(t, disk.SyncDir("data"))
	for _, name := range []string{"data/1", "data/2", "data/3"} {
		must(t, disk.Remove(name))
	}
	wantStates(t, disk, CrashTear, "1= 2= 3=", "2= 3=", "3=", "")
	wantStates(t, disk, CrashScatter, "1= 2= 3=", "1= 2=", "1= 3=", "2= 3=", "1=", "2=", "3=", "")
}

func TestRenameBetweenDirectories(t *testing.T) {
	disk := newDisk(t)
	must(t, disk.MkdirAll("data/sub"))
	put(t, disk, "data/a", "1")
	must(t, disk.SyncDir("data"))
	must(t, disk.Rename("data/a", "data/sub/a"))
	wantStates(t, disk, CrashScatter, "a=1", "sub/a=1")
	for _, dir := range []string{"data", "data/sub"} {
		clone := disk.CrashClone(CrashKill, 0)
		must(t, clone.SyncDir(dir))
		wantStates(t, clone, CrashScatter, "sub/a=1")
	}
}

// TestD6MkdirAllIsDurable crashes at each of its operations, and after kills.
func TestD6MkdirAllIsDurable(t *testing.T) {
	for kill := 1; ; kill++ {
		disk := NewMemory()
		disk.FailAfter(kill)
		err := disk.MkdirAll("a/b/c")
		restarted := disk.CrashClone(CrashKill, 0)
		must(t, restarted.MkdirAll("a/b/c"))
		if _, err := restarted.CrashClone(CrashLose, 0).List("a/b/c"); err != nil {
			t.Fatalf("killed at operation %d: %v", kill, err)
		}
		if err == nil {
			if kill != 7 {
				t.Errorf("three directories took %d operations", kill-1)
			}
			return
		}
	}
}

func TestDirectoryTakesItsFilesAlong(t *testing.T) {
	disk := newDisk(t)
	must(t, disk.mkdir("data/sub"))
	put(t, disk, "data/sub/a", "")
	must(t, disk.SyncDir("data/sub"))
	wantStates(t, disk, CrashScatter, "", "sub/a=")
	must(t, disk.SyncDir("data"))
	wantStates(t, disk, CrashScatter, "sub/a=")
}

// TestKillKeepsNothingDurable kills the process first and the machine then.
func TestKillKeepsNothingDurable(t *testing.T) {
	disk, file := newFile(t, "old")
	write(t, file, 0, "new")
	must(t, disk.Rename("data/a", "data/b"))
	killed := disk.CrashClone(CrashKill, 0)
	wantStates(t, killed, CrashKill, "b=new")
	wantStates(t, killed, CrashLose, "a=old")
	must(t, open(t, killed, "data/b").Sync())
	wantStates(t, killed, CrashLose, "a=new")
	wantStates(t, disk, CrashLose, "a=old")
}

func TestCloneIsADiskOfItsOwn(t *testing.T) {
	disk, file := newFile(t, "old")
	_, err := disk.Lock("data")
	must(t, err)
	disk.SetCapacity(100)
	disk.FailAfter(disk.Operations() + 3)
	for _, mode := range allModes {
		clone := disk.CrashClone(mode, 1)
		if n := clone.Operations(); n != 0 {
			t.Errorf("%v: the clone starts with %d operations", mode, n)
		}
		lock, err := clone.Lock("data")
		must(t, err)
		_, err = clone.Lock("data")
		wantError(t, err, ErrLocked)
		must(t, lock.Close())
		write(t, open(t, clone, "data/a"), 0, "clone")
		put(t, clone, "data/b", "b")
		must(t, clone.Remove("data/b"))
		must(t, clone.SyncDir("data"))
	}
	_, err = disk.Lock("data")
	wantError(t, err, ErrLocked)
	wantContent(t, file, "old")
	wantNames(t, disk, "data", "a")
}

// workload makes one of every kind of change.
func workload(disk *Memory) error {
	if err := disk.MkdirAll("data"); err != nil {
		return err
	}
	file, err := disk.Create("data/a.new")
	if err != nil {
		return err
	}
	if err := file.Allocate(2000); err != nil {
		return err
	}
	for i := range 4 {
		p := bytes.Repeat([]byte{byte('1' + i)}, 400)
		if _, err := file.WritevAt([][]byte{p[:100], p[100:]}, int64(i*400)); err != nil {
			return err
		}
		if err := file.Sync(); err != nil {
			return err
		}
	}
	return errors.Join(file.Truncate(1600), disk.Rename("data/a.new", "data/a"), disk.SyncDir("data"),
		disk.Remove("data/a"), file.Close())
}

func TestCrashAtEveryOperation(t *testing.T) {
	whole := NewMemory()
	must(t, workload(whole))
	count := whole.Operations()
	if count != 16 {
		t.Errorf("%d operations", count)
	}
	for n := 1; n <= count; n++ {
		disk := NewMemory()
		var last Op
		disk.Inject(func(op Op) error {
			if op.Number > 0 {
				last = op
			}
			return nil
		})
		disk.FailAfter(n)
		wantError(t, workload(disk), ErrCrashed)
		if !disk.Crashed() || disk.Operations() != n || last.Number != n-1 {
			t.Errorf("crash at %d: %d operations, the last %v", n, disk.Operations(), last)
		}
		_, err := disk.List("data")
		wantError(t, err, ErrCrashed)
		_, err = disk.Lock("data")
		wantError(t, err, ErrCrashed)
		for _, mode := range allModes {
			disk.CrashClone(mode, uint64(n)).Files()
		}
	}
	disk := NewMemory()
	disk.FailAfter(count + 1)
	must(t, workload(disk))
	disk.FailAfter(count)
	wantError(t, disk.Remove("data/a"), ErrCrashed)
}

func TestSeedDecides(t *testing.T) {
	for _, mode := range someModes {
		different := make(map[string]bool)
		for seed := range uint64(seeds) {
			var results [2]map[string][]byte
			for i := range results {
				disk := NewMemory()
				disk.FailAfter(12)
				workload(disk)
				results[i] = disk.CrashClone(mode, seed).Files()
			}
			if !reflect.DeepEqual(results[0], results[1]) {
				t.Fatalf("%v with seed %d is not reproducible", mode, seed)
			}
			different[fmt.Sprint(results[0])] = true
		}
		if len(different) < 4 {
			t.Errorf("%v left %d different disks", mode, len(different))
		}
	}
}

// TestCrashKeepsItsPromises does random things and compares each crash with
// everything that the file was since its last sync.
func TestCrashKeepsItsPromises(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		disk, file := newFile(t, "")
		states := [][]byte{nil} // the durable content and all later ones
		for range 30 {
			now := slices.Clone(states[len(states)-1])
			switch random.IntN(8) {
			case 0:
				must(t, file.Sync())
				states = [][]byte{now}
				continue
			case 1:
				size := random.IntN(3000)
				now = append(now, make([]byte, max(0, size-len(now)))...)[:size]
				must(t, file.Truncate(int64(size)))
			default:
				p := bytes.Repeat([]byte{byte(1 + random.IntN(255))}, random.IntN(1500))
				offset := random.IntN(2000)
				if len(p) > 0 {
					now = append(now, make([]byte, max(0, offset+len(p)-len(now)))...)
					copy(now[offset:], p)
				}
				_, err := file.WriteAt(p, int64(offset))
				must(t, err)
			}
			states = append(states, now)
			wantContent(t, file, string(now))

			if got := disk.CrashClone(CrashLose, seed).Files()["data/a"]; !bytes.Equal(got, states[0]) {
				t.Fatal("what was synced is not what a crash left")
			}
			for _, mode := range []CrashMode{CrashKeep, CrashKill} {
				if got := disk.CrashClone(mode, seed).Files()["data/a"]; !bytes.Equal(got, now) {
					t.Fatalf("%v lost something", mode)
				}
			}
			checkScattered(t, states, disk.CrashClone(CrashScatter, random.Uint64()).Files()["data/a"])
		}
	}
}

// checkScattered compares the sectors and the size with those of all states.
func checkScattered(t *testing.T, states [][]byte, got []byte) {
	t.Helper()
	part := func(content []byte, start int) string {
		p := make([]byte, min(sectorSize, len(got)-start))
		if start < len(content) {
			copy(p, content[start:])
		}
		return string(p)
	}
	if !slices.ContainsFunc(states, func(s []byte) bool { return len(s) == len(got) }) {
		t.Fatalf("the size %d was never there", len(got))
	}
	for start := 0; start < len(got); start += sectorSize {
		want := part(got, start)
		if start < len(states[0]) && !slices.ContainsFunc(states, func(s []byte) bool { return part(s, start) == want }) {
			t.Fatalf("the sector at %d holds what was never there", start)
		}
	}
}

// TestD2TornLastWrite tears a write at each of its bytes.
func TestD2TornLastWrite(t *testing.T) {
	disk, file := newFile(t, strings.Repeat("-", 600))
	if n := disk.LastWrite(); n != 0 {
		t.Errorf("a durable write of %d bytes can be torn", n)
	}
	write(t, file, 0, "x")
	write(t, file, 400, strings.Repeat("a", 50), strings.Repeat("b", 250))
	must(t, disk.Rename("data/a", "data/b"))
	last := disk.LastWrite()
	if last != 300 {
		t.Fatalf("the last write has %d bytes", last)
	}
	all := content(t, file)
	for keep := range last + 1 {
		want := []byte("x" + strings.Repeat("-", 599) + strings.Repeat("\x00", 100))
		copy(want[400:], all[400:400+keep])
		if got := disk.TearClone(keep).Files()["data/b"]; !bytes.Equal(got, want) {
			t.Fatalf("torn after %d bytes: %q", keep, got)
		}
	}
}

// TestD1FailedSyncLosesBytes fails one Sync; the later ones return nil.
func TestD1FailedSyncLosesBytes(t *testing.T) {
	for _, keep := range []bool{false, true} {
		disk, file := newFile(t, "old")
		disk.KeepAfterFailedSync(keep)
		disk.Inject(Nth(OpSync, 2, ErrIO))
		write(t, file, 0, "NEW")
		must(t, file.Sync())
		write(t, file, 1, "ew, and more")
		wantError(t, file.Sync(), ErrIO)
		if keep {
			wantContent(t, file, "New, and more")
		} else {
			wantContent(t, file, "NEW")
		}
		must(t, file.Sync())
		wantOutcomes(t, disk, CrashKeep, "NEW")
		wantOutcomes(t, disk, CrashScatter, "NEW")
		write(t, file, 0, "n")
		must(t, file.Sync())
		if !keep {
			wantOutcomes(t, disk, CrashLose, "nEW")
		}
	}
}

// TestSyncCoversWhatWasThere makes changes while syncs are under way.
func TestSyncCoversWhatWasThere(t *testing.T) {
	disk, file := newFile(t, "")
	write(t, file, 0, "before")
	disk.Inject(func(op Op) error {
		switch op.Kind {
		case OpSync:
			write(t, file, 6, ", after")
		case OpSyncDir:
			create(t, disk, "data/c")
		}
		return nil
	})
	must(t, file.Sync())
	wantContent(t, file, "before, after")
	wantOutcomes(t, disk, CrashLose, "before")

	create(t, disk, "data/b")
	must(t, disk.SyncDir("data"))
	wantNames(t, disk, "data", "a", "b", "c")
	wantStates(t, disk, CrashLose, "a=before b=")
}

func TestD10FullDisk(t *testing.T) {
	disk, file := newFile(t, "12345")
	disk.SetCapacity(12)
	put(t, disk, "data/b", "123")
	n, err := file.WritevAt([][]byte{[]byte("67"), []byte("89012")}, 5)
	wantError(t, err, ErrNoSpace)
	if n != 4 {
		t.Errorf("%d bytes fitted", n)
	}
	wantContent(t, file, "123456789")
	_, err = file.WriteAt([]byte("x"), 100)
	wantError(t, err, ErrNoSpace)
	wantError(t, file.Allocate(10), ErrNoSpace)
	wantError(t, file.Truncate(10), ErrNoSpace)
	write(t, file, 0, "abc")
	must(t, disk.Remove("data/b"))
	write(t, file, 9, "012")
	must(t, file.Truncate(3))
	must(t, file.Allocate(12))
	disk.SetCapacity(0)
	must(t, file.Allocate(1000))
}

func TestShortWrite(t *testing.T) {
	disk, file := newFile(t, "")
	disk.Inject(Nth(OpWrite, 1, &ShortWrite{Bytes: 3, Err: ErrIO}))
	n, err := file.WritevAt([][]byte{[]byte("12"), []byte("34")}, 0)
	wantError(t, err, ErrIO)
	if n != 3 {
		t.Errorf("wrote %d bytes", n)
	}
	wantContent(t, file, "123")
}

// TestInjectedErrors fails each kind of operation, which then has no effect.
func TestInjectedErrors(t *testing.T) {
	disk, file := newFile(t, "content")
	var seen []OpKind
	failing := errors.New("failing")
	disk.Inject(func(op Op) error {
		seen = append(seen, op.Kind)
		if op.Kind == OpSyncDir && op.Name == "." {
			return nil
		}
		return failing
	})
	_, err := disk.Create("data/b")
	wantError(t, err, failing)
	_, err = disk.Open("data/a")
	wantError(t, err, failing)
	_, err = disk.List("data")
	wantError(t, err, failing)
	_, err = disk.Lock("data")
	wantError(t, err, failing)
	wantError(t, disk.MkdirAll("other"), failing)
	wantError(t, disk.Rename("data/a", "data/b"), failing)
	wantError(t, disk.Remove("data/a"), failing)
	wantError(t, disk.SyncDir("data"), failing)
	_, err = file.ReadAt(make([]byte, 1), 0)
	wantError(t, err, failing)
	_, err = file.WriteAt([]byte("x"), 0)
	wantError(t, err, failing)
	_, err = file.Size()
	wantError(t, err, failing)
	wantError(t, file.Allocate(100), failing)
	wantError(t, file.Truncate(1), failing)
	wantError(t, file.Sync(), failing)
	disk.Inject(nil)
	wantStates(t, disk, CrashKill, "a=content")
	slices.Sort(seen)
	if len(slices.Compact(seen)) != len(opNames) {
		t.Errorf("the hook saw %v only", seen)
	}

	disk.Inject(func(op Op) error {
		if op.Kind == OpRename {
			return ErrCrashed
		}
		return nil
	})
	wantError(t, disk.Rename("data/a", "data/b"), ErrCrashed)
	wantError(t, file.Sync(), ErrCrashed)
	wantStates(t, disk, CrashKeep, "a=content")
}

// TestD15Stall holds the syncs of one file while the disk does other work.
func TestD15Stall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, file := newFile(t, "old")
		other := create(t, disk, "data/b")
		var gate Gate
		disk.Inject(func(op Op) error {
			if op.Kind == OpSync && op.Name == "data/a" {
				gate.Pass()
			}
			return nil
		})
		must(t, file.Sync())
		gate.Hold()
		gate.Hold()
		write(t, file, 0, "new")
		var done atomic.Int32
		for range 2 {
			go func() {
				if err := file.Sync(); err != nil {
					t.Error(err)
				}
				done.Add(1)
			}()
			synctest.Wait()
		}
		if done.Load() != 0 || gate.Waiting() != 2 {
			t.Fatalf("%d syncs passed, %d wait", done.Load(), gate.Waiting())
		}
		write(t, other, 0, "other")
		must(t, other.Sync())
		wantContent(t, file, "new")
		wantOutcomes(t, disk, CrashLose, "old")

		gate.Release()
		gate.Release()
		synctest.Wait()
		if done.Load() != 2 || gate.Waiting() != 0 {
			t.Fatalf("%d syncs passed, %d wait", done.Load(), gate.Waiting())
		}
		wantOutcomes(t, disk, CrashLose, "new")

		gate.Hold()
		failed := make(chan error)
		go func() { failed <- file.Sync() }()
		synctest.Wait()
		disk.FailAfter(0)
		gate.Release()
		wantError(t, <-failed, ErrCrashed)
	})
}

func TestAtRest(t *testing.T) {
	disk := NewMemory()
	must(t, disk.Put("data/deep/a", []byte("content")))
	must(t, disk.Put("/b", []byte("x")))
	must(t, disk.Put("b", []byte("y")))
	want := map[string][]byte{"data/deep/a": []byte("content"), "b": []byte("y")}
	for _, mode := range allModes {
		if got := disk.CrashClone(mode, 1).Files(); !reflect.DeepEqual(got, want) {
			t.Errorf("%v leaves %q", mode, got)
		}
	}
	copied := NewMemory()
	for name, content := range disk.Files() {
		must(t, copied.Put(name, content))
	}
	must(t, disk.Corrupt("data/deep/a", 1, 0x20))
	must(t, disk.Cut("data/deep/a", 4))
	if got := disk.CrashClone(CrashLose, 0).Files()["data/deep/a"]; string(got) != "cOnt" {
		t.Errorf("damaged file is %q", got)
	}
	if got := copied.Files(); !reflect.DeepEqual(got, want) {
		t.Errorf("the copy is %q", got)
	}
	wantError(t, disk.Corrupt("data/deep/a", 4, 1), fs.ErrInvalid)
	wantError(t, disk.Corrupt("x", 0, 1), fs.ErrNotExist)
	wantError(t, disk.Cut("x", 0), fs.ErrNotExist)
	wantError(t, disk.Put("data", nil), fs.ErrInvalid)
	wantError(t, disk.Put("b/c", nil), fs.ErrInvalid)
}

func TestNamesOfKinds(t *testing.T) {
	for text, value := range map[string]fmt.Stringer{
		"rename": OpRename, "size": OpSize, "OpKind(99)": OpKind(99),
		"tear": CrashTear, "CrashMode(-1)": CrashMode(-1),
		"3 write a 8+5":   Op{Kind: OpWrite, Number: 3, Name: "a", Offset: 8, Length: 5},
		"4 rename a to b": Op{Kind: OpRename, Number: 4, Name: "a", To: "b"},
		"0 list a":        Op{Kind: OpList, Name: "a"},
	} {
		if got := value.String(); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
}
