package nights

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

// filesystem is one of its own, for one repository: in a file in memory, through a loop
// device, so that an fsync costs little.
type filesystem struct {
	kind  string // ext4 or xfs
	dir   string // where it is mounted
	empty int64  // bytes in use when it was new
}

// newFilesystem makes one of that many MiB. What is deleted is given back to memory.
func newFilesystem(t *testing.T, kind string, mib int) *filesystem {
	t.Helper()
	memory, dir := testdomain.TempDir(t), testdomain.TempDir(t)
	testdomain.Tool(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dM,mode=755", mib), "vbtest", memory)
	// The loop device may have the image for a moment after it was unmounted.
	t.Cleanup(func() { testdomain.Tool(t, "umount", "--lazy", memory) })
	image := filepath.Join(memory, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, int64(mib)<<20); err != nil {
		t.Fatal(err)
	}
	testdomain.Tool(t, "mkfs."+kind, "-q", image)
	testfs.MountImage(t, image, dir, "loop,discard")
	t.Cleanup(func() { testdomain.Tool(t, "umount", dir) })
	f := &filesystem{kind: kind, dir: dir}
	f.empty = f.used(t)
	return f
}

// used is how many bytes are in use since it was new: data that files share counts once.
func (f *filesystem) used(t *testing.T) int64 {
	t.Helper()
	dir, err := os.Open(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var s unix.Statfs_t
	// XFS frees what was deleted, and allocates what was written, later.
	if err := errors.Join(unix.Syncfs(int(dir.Fd())), unix.Fstatfs(int(dir.Fd()), &s)); err != nil {
		t.Fatal(err)
	}
	return int64(s.Blocks-s.Bfree)*s.Bsize - f.empty
}
