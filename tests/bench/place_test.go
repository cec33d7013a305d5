package bench

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// place is where sources lie.
type place string

const (
	tmpfs place = "tmpfs" // reading costs no time of the disk that is written to
	disk  place = "disk"  // the one that is written to, and not in the page cache
)

// memory is a tmpfs that any Linux has.
const memory = "/dev/shm"

// dir makes a directory there that QEMU may enter. It is removed when the test ends.
func (p place) dir(t *testing.T) string {
	t.Helper()
	if p == disk {
		return testdomain.TempDir(t)
	}
	dir := filepath.Join(memory, testdomain.NewName())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// sweepMemory removes what killed runs left in memory. Their names are
// vbtest-PID-N; testdomain.Main looks after all other places.
func sweepMemory() {
	dirs, _ := filepath.Glob(filepath.Join(memory, "vbtest-*-*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[1])
		if err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			os.RemoveAll(dir)
		}
	}
}

// regular lists the regular files at and below paths.
func regular(t *testing.T, paths ...string) []string {
	t.Helper()
	var files []string
	for _, path := range paths {
		err := filepath.WalkDir(path, func(file string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				files = append(files, file)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// settle brings the machine to the state that every turn begins in: nothing is
// left to be written (nor, after files were removed, to be discarded), and the pages of sources
// are not in the page cache. A small run does not disturb the machine in this way.
func (s settings) settle(t *testing.T, sources []string) {
	t.Helper()
	if s.full {
		unix.Sync()
	}
	for _, file := range regular(t, sources...) {
		dropPages(t, file)
	}
}

// dropPages drops the clean pages of a file from the page cache; on tmpfs there are none.
func dropPages(t *testing.T, file string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatalf("fadvise %s: %v", file, err)
	}
}

// cachedBytes is how much of files is in the page cache.
func cachedBytes(t *testing.T, files []string) int64 {
	t.Helper()
	if len(files) == 0 {
		return 0
	}
	var sum int64
	out := testdomain.Tool(t, "fincore", append([]string{"--bytes", "--noheadings", "--output", "RES"}, files...)...)
	for _, field := range strings.Fields(out) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatalf("fincore: %v", err)
		}
		sum += n
	}
	return sum
}

// storedBytes is how much space files take.
func storedBytes(t *testing.T, files []string) int64 {
	t.Helper()
	var sum int64
	for _, file := range files {
		var st unix.Stat_t
		if err := unix.Stat(file, &st); err != nil {
			t.Fatalf("stat %s: %v", file, err)
		}
		sum += st.Blocks * 512
	}
	return sum
}
