package directio

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// An error of writeback is returned by a later write, at the latest by the one that waits for
// it: the kernel reports it once, and the fsync at the end would not see it.
func TestWritebackErrorsAreSeen(t *testing.T) {
	device := overcommitted(t, 4*piece) // first: it goes when the file is closed
	f, _ := newFile(t, Never)
	full, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.file.Close()
	f.file = full
	for off := int64(0); off < (behindRanges+8)*piece && err == nil; off += piece {
		_, err = f.WriteAt(pageAligned(piece, 3), off)
	}
	var path *os.PathError
	if !errors.As(err, &path) || path.Op != "sync_file_range" || !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want an error of sync_file_range", err)
	}
}

// overcommitted returns a block device that is larger than the file system its blocks are
// on, which has size bytes: the page cache takes more than can be written back.
func overcommitted(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	blocks := filepath.Join(dir, "blocks")
	if err := errors.Join(os.WriteFile(blocks, nil, 0o600), os.Truncate(blocks, 16*size)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", blocks).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", device).Run(); err != nil {
			t.Errorf("losetup --detach %s: %v", device, err)
		}
	})
	return device
}
