package vfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const traceVariable = "VFS_TEST_TRACE"

// traced is one step of the process that is traced, and what the system is to be
// asked for meanwhile. DIR is a directory that is there, UP the one above it.
type traced struct {
	name string
	do   func(disk FS, dir string, file File) (File, error)
	want []string
}

var tracedSteps = []traced{
	{"MkdirAll of what is there", func(disk FS, dir string, _ File) (File, error) {
		return nil, disk.MkdirAll(dir)
	}, []string{"fsync UP"}},
	{"MkdirAll of two levels", func(disk FS, dir string, _ File) (File, error) {
		return nil, disk.MkdirAll(dir + "/a/b")
	}, []string{
		"fsync UP", "fsync DIR", "mkdir DIR/a", "fsync DIR",
		"fsync DIR/a", "mkdir DIR/a/b", "fsync DIR/a",
	}},
	{"Create", func(disk FS, dir string, _ File) (File, error) {
		return disk.Create(dir + "/a/b/new")
	}, []string{"open DIR/a/b/new O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC"}},
	{"write", func(_ FS, _ string, file File) (File, error) {
		_, err := file.WritevAt([][]byte{[]byte("one"), []byte("two")}, 10)
		return file, err
	}, []string{"pwritev DIR/a/b/new one two"}},
	{"Sync", func(_ FS, _ string, file File) (File, error) {
		return file, file.Sync()
	}, []string{"fdatasync DIR/a/b/new"}},
	{"SyncDir", func(disk FS, dir string, file File) (File, error) {
		return file, disk.SyncDir(dir + "/a/b")
	}, []string{"fsync DIR/a/b"}},
	{"Rename", func(disk FS, dir string, file File) (File, error) {
		return file, disk.Rename(dir+"/a/b/new", dir+"/a/b/old")
	}, []string{"rename DIR/a/b/new DIR/a/b/old"}},
	{"Sync under the new name", func(_ FS, _ string, file File) (File, error) {
		return nil, file.Sync()
	}, []string{"fdatasync DIR/a/b/old"}},
	{"Open", func(disk FS, dir string, _ File) (File, error) {
		return disk.Open(dir + "/a/b/old")
	}, []string{"open DIR/a/b/old O_RDWR|O_CLOEXEC"}},
	{"Sync of what was opened", func(_ FS, _ string, file File) (File, error) {
		return file, file.Sync()
	}, []string{"fdatasync DIR/a/b/old"}},
	{"Remove", func(disk FS, dir string, file File) (File, error) {
		return file, disk.Remove(dir + "/a/b/old")
	}, []string{"unlink DIR/a/b/old"}},
}

// takeSteps is what the traced process does. It opens a file that is not there
// before each step, so that the steps can be told apart. One thread does it all,
// and has a trace of its own.
func takeSteps(dir string) {
	runtime.LockOSThread()
	var file File
	for i, step := range tracedSteps {
		_, _ = os.Open(fmt.Sprintf("%s/step %d", dir, i))
		var err error
		if file, err = step.do(OS(), dir, file); err != nil {
			fmt.Println(step.name, err)
			os.Exit(1)
		}
	}
}

// A call as strace prints it: its name, what it was given, what it returned.
var (
	tracedCall = regexp.MustCompile(`^(\w+)\((.*)\) += (\S+)`)
	tracedPath = regexp.MustCompile(`"([^"]*)"|\d<([^<>]*)>`)
	tracedFlag = regexp.MustCompile(`O_[A-Z_|]+`)
)

// asked reads what a line of a trace says. "step" begins a new step, "" is none
// of what is looked for.
func asked(line, dir string) string {
	call := tracedCall.FindStringSubmatch(line)
	if call == nil {
		return ""
	}
	name := strings.TrimSuffix(strings.TrimSuffix(call[1], "at2"), "at")
	words := []string{name}
	for _, path := range tracedPath.FindAllStringSubmatch(call[2], -1) {
		words = append(words, path[1]+path[2])
	}
	if name == "open" {
		if strings.HasPrefix(words[1], dir+"/step ") {
			return "step"
		}
		flags := strings.ReplaceAll(tracedFlag.FindString(call[2]), "|O_LARGEFILE", "")
		if strings.HasPrefix(flags, "O_RDONLY") {
			return "" // a directory that is synced, or something of the runtime
		}
		words = append(words, flags)
	}
	if strings.HasPrefix(call[3], "-") || call[3] == "?" {
		words = append(words, "failed")
	}
	for i := range words {
		words[i] = strings.Replace(words[i], dir, "DIR", 1)
		if words[i] == filepath.Dir(dir) {
			words[i] = "UP"
		}
	}
	return strings.Join(words, " ")
}

// TestSystemIsAskedForDurability looks at the calls that a process makes: what is
// to be durable is synced, on the file or the directory in question and in the
// right order.
func TestSystemIsAskedForDurability(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the calls are those of Linux")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("there is no strace here to look at the calls with: ", err)
	}
	up, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	dir := filepath.Join(up, "data")
	must(t, os.Mkdir(dir, 0o777))
	trace := filepath.Join(t.TempDir(), "trace")
	process := exec.Command(strace, "-ff", "-y", "-s", "4096", "-o", trace, "-e", "signal=none",
		"-e", "trace=?open,?openat,?openat2,?creat,?mkdir,?mkdirat,?rename,?renameat,?renameat2,?link,?linkat,?unlink,?unlinkat,?rmdir,"+
			"?fsync,?fdatasync,?sync,?syncfs,?sync_file_range,?msync,?pwritev,?pwritev2,?pwrite64,?ftruncate,?truncate", os.Args[0])
	process.Env = append(os.Environ(), traceVariable+"="+dir, "GODEBUG=asyncpreemptoff=1") // which would interrupt calls
	if output, err := process.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	text := tracedThread(t, trace, dir)
	var steps [][]string
	for line := range strings.Lines(text) {
		switch what := asked(line, dir); {
		case what == "step":
			steps = append(steps, nil)
		case what != "" && len(steps) > 0:
			steps[len(steps)-1] = append(steps[len(steps)-1], what)
		}
	}
	if len(steps) != len(tracedSteps) {
		t.Fatalf("%d steps of %d in the trace:\n%s", len(steps), len(tracedSteps), text)
	}
	for i, step := range tracedSteps {
		if !slices.Equal(steps[i], step.want) {
			t.Errorf("%s: the system was asked for\n%q, want\n%q", step.name, steps[i], step.want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// tracedThread returns the trace of the thread that has taken the steps.
func tracedThread(t *testing.T, trace, dir string) string {
	names, err := filepath.Glob(trace + ".*")
	must(t, err)
	for _, name := range names {
		text, err := os.ReadFile(name)
		must(t, err)
		if strings.Contains(string(text), dir+"/step 0") {
			return string(text)
		}
	}
	t.Fatalf("no step in any of the traces %q", names)
	return ""
}
