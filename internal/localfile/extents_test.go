package localfile

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/tests/testfs"
)

func exclusive(t *testing.T, f *os.File) int64 {
	t.Helper()
	must(t, f.Sync())
	n, err := Exclusive(f.Name())
	must(t, err)
	return n
}

func wantExclusive(t *testing.T, what string, f *os.File, want int64) {
	t.Helper()
	if got := exclusive(t, f); got != want {
		t.Errorf("%s: %d bytes, want %d", what, got, want)
	}
}

// What two files share is freed with neither of them; it is with the one that is left.
func TestExclusive(t *testing.T) {
	dir := testfs.XFS(t, 512<<20)
	data := bytes.Repeat([]byte("data"), 256<<10)
	a, b := create(t, filepath.Join(dir, "a"), data), create(t, filepath.Join(dir, "b"), nil)
	must(t, a.Sync())
	wantExclusive(t, "alone", a, 1<<20)
	must(t, Clone(a, b))
	wantExclusive(t, "cloned", a, 0)
	must(t, Punch(b, 64<<10, 128<<10))
	wantExclusive(t, "of which the clone has less", a, 128<<10)
	wantExclusive(t, "the clone", b, 0)
	must(t, errors.Join(a.Close(), os.Remove(a.Name())))
	for end := time.Now().Add(10 * time.Second); exclusive(t, b) == 0 && time.Now().Before(end); { // XFS frees in the background
		time.Sleep(10 * time.Millisecond)
	}
	wantExclusive(t, "the clone alone", b, blocks(t, b))
}

// More extents than are listed at once.
func TestExclusiveOfManyExtents(t *testing.T) {
	dir := testfs.XFS(t, 512<<20)
	const n, block = 3*extentsAtOnce + 7, 4096
	a, b := create(t, filepath.Join(dir, "a"), make([]byte, 2*n*block)), create(t, filepath.Join(dir, "b"), nil)
	must(t, a.Sync())
	for i := int64(0); i < n; i++ {
		must(t, Punch(a, (2*i+1)*block, block))
	}
	before := blocks(t, a) // some behind its end, too, as long as it is open
	wantExclusive(t, "with holes", a, before)
	for i := int64(0); i < n; i += 3 { // every third
		must(t, CloneRange(a, 2*i*block, block, b, 2*i*block))
	}
	wantExclusive(t, "a third is shared", a, before-(n+2)/3*block)
}

// Where nothing is shared, or the file system does not say, what the file has counts.
func TestExclusiveIsAll(t *testing.T) {
	data := bytes.Repeat([]byte("data"), 64<<10)
	tmpfs := t.TempDir()
	must(t, unix.Mount("none", tmpfs, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(tmpfs, 0)) })
	for name, dir := range map[string]string{"ext4": testfs.Ext4(t, 64<<20), "tmpfs": tmpfs} {
		a := create(t, filepath.Join(dir, "a"), data)
		must(t, a.Truncate(math.MaxInt32))
		if got := exclusive(t, a); got != blocks(t, a) || got < int64(len(data)) {
			t.Errorf("%s: %d bytes of %d", name, got, blocks(t, a))
		}
		must(t, errors.Join(os.Link(a.Name(), a.Name()+".link"), os.Symlink(a.Name(), a.Name()+".symlink"), unix.Mkfifo(a.Name()+".fifo", 0o600)))
		for _, name := range []string{a.Name() + ".link", a.Name() + ".symlink", a.Name() + ".fifo"} {
			if got, err := Exclusive(name); got != 0 || err != nil {
				t.Errorf("%s: %d bytes, %v; want none", name, got, err)
			}
		}
	}
}
