package raft

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-8da499c8/raft/internal/vfs"
)

// smallDiskVariable names the directory where a copy of this test finds a small
// file system of its own, in name spaces of its own.
const smallDiskVariable = "RAFT_TEST_SMALL_DISK"

func TestD10OnARealFileSystem(t *testing.T) {
	if dir := os.Getenv(smallDiskVariable); dir != "" {
		require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"))
		fillDisk(t, vfs.OS(), dir+"/a.raft", func() {
			require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=16m"))
		})
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestD10OnARealFileSystem$", "-test.v")
	child.Env = append(os.Environ(), smallDiskVariable+"="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	output, err := child.CombinedOutput()
	if len(output) == 0 && os.Getuid() != 0 {
		t.Skipf("this system gives nobody but root a file system of their own: %v", err)
	}
	require.NoError(t, err, "%s", output)
	require.Contains(t, string(output), "--- PASS: TestD10OnARealFileSystem")
}
