package restore

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

// smallFiles mounts a file system whose files have 16 GiB at most: ext2, 1 KiB blocks.
func smallFiles(t *testing.T) string {
	t.Helper()
	at := testfs.Ext2(t, 64<<20)
	must(t, os.Remove(filepath.Join(at, "lost+found")))
	return at
}

// refusedForSize sees that a raw image is refused, that nothing is left of it, and that
// a qcow2 image can be made all the same.
func refusedForSize(t *testing.T, repo *repository.Repository, at, why string) {
	t.Helper()
	dir := filepath.Join(at, "new", "vm1")
	copied := false
	_, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir, Format: Raw, Progress: func(string, int64, int64) { copied = true }})
	var size *SizeError
	if !errors.As(err, &size) || !strings.Contains(size.Error(), why) || size.Hint() == "" || copied {
		t.Errorf("%v, copied %v, want a *SizeError of %s before anything is copied", err, copied, why)
	}
	t.Log(err)
	if left, _ := os.ReadDir(at); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	result, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-img", "compare", result.Disks[0].Image, filepath.Join(repo.PointDir("vm1", "check1"), "vda.qcow2")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestRawImageTooLargeForTheFileSystem(t *testing.T) {
	repo, _ := chainOf(t, 1, 17<<30, func(int) []int64 { return []int64{0, 16 << 30} })
	refusedForSize(t, repo, smallFiles(t), "the file system")
}

func TestRawImageTooLargeForTheProcess(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<30, func(int) []int64 { return []int64{0, 1<<30 - cluster} })
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &before))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 512 << 20, Max: before.Max}))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &before)) }()
	refusedForSize(t, repo, t.TempDir(), "this process may write 536870912")
}
