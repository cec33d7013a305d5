package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

// Places that are new file systems on loop devices: one that shares data between files, and
// one that does not. What is written to them can be counted.
const (
	xfs  place = "xfs"
	ext4 place = "ext4"
)

// makers make file systems that have nothing left to write of their own later.
var makers = map[place][]string{
	xfs:  {"mkfs.xfs", "-q"},
	ext4: {"mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"},
}

// smallestVolume is the least that mkfs.xfs takes, and some.
const smallestVolume = 512 * mib

// volume is a mounted file system on a loop device of its own.
type volume struct {
	dir  string // where it is mounted
	stat string // the device's counters; see Documentation/block/stat.rst in the kernel
}

// newVolume makes a file system of size bytes, of which only those take space that were
// written once. It is gone when the test ends.
func newVolume(t *testing.T, p place, size int64) *volume {
	t.Helper()
	image, dir := filepath.Join(testdomain.TempDir(t), "volume"), testdomain.TempDir(t)
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, max(size, smallestVolume)); err != nil {
		t.Fatal(err)
	}
	maker := makers[p]
	testdomain.Tool(t, maker[0], append(maker[1:len(maker):len(maker)], image)...)
	// With direct I/O what is written is not cached twice.
	device := testfs.AttachOnly(t, image, "--direct-io=on")
	// Detached now, it lives until it is unmounted, even if this process is killed.
	defer testdomain.Tool(t, "losetup", "--detach", device)
	testdomain.Tool(t, "mount", "-o", "noatime", device, dir)
	t.Cleanup(func() { testdomain.Tool(t, "umount", dir) })
	return &volume{dir, filepath.Join("/sys/block", filepath.Base(device), "stat")}
}

// written is how many bytes were written to the device, all that was due included.
func (v *volume) written(t *testing.T) int64 {
	t.Helper()
	v.sync(t)
	fields := strings.Fields(fileText(v.stat))
	if len(fields) < 7 {
		t.Fatalf("%s has no sectors written", v.stat)
	}
	sectors, err := strconv.ParseInt(fields[6], 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", v.stat, err)
	}
	return sectors * 512
}

// used is how many bytes the file system has given away. Files that share data count once.
func (v *volume) used(t *testing.T) int64 {
	t.Helper()
	v.sync(t)
	var s unix.Statfs_t
	if err := unix.Statfs(v.dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Blocks-s.Bfree) * s.Bsize
}

func (v *volume) sync(t *testing.T) {
	t.Helper()
	f, err := os.Open(v.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
}
