// Package testfs makes file systems for tests, on loop devices. That takes root, and mkfs of
// the distribution.
package testfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// XFS mounts a new XFS, whose files can share data (reflinks), until the test ends. It has at
// least the 300 MiB that mkfs.xfs wants.
func XFS(t testing.TB, bytes int64) (dir string) {
	t.Helper()
	return mount(t, max(bytes, 320<<20), "mkfs.xfs", "-q", "-m", "reflink=1")
}

// Ext4 mounts a new ext4, whose files cannot.
func Ext4(t testing.TB, bytes int64) (dir string) {
	t.Helper()
	return mount(t, bytes, "mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0")
}

// Ext2 mounts a new ext2 with blocks of 1 KiB, whose files have 16 GiB at most.
func Ext2(t testing.TB, bytes int64) (dir string) {
	t.Helper()
	return mount(t, bytes, "mkfs.ext2", "-q", "-b", "1024")
}

// Btrfs mounts a new btrfs, whose files can share data.
func Btrfs(t testing.TB, bytes int64) (dir string) {
	t.Helper()
	return mount(t, max(bytes, 256<<20), "mkfs.btrfs", "-q")
}

// mount makes a file system in a sparse file and mounts it.
func mount(t testing.TB, bytes int64, mkfs ...string) (dir string) {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(bytes)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	run(t, append(mkfs, image)...)
	MountImage(t, image, dir, "loop")
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

func run(t testing.TB, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", command, err, out)
	}
}
