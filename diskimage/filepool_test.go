package diskimage

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/directio"
)

// A file that is being read stays open, however many others are opened meanwhile and
// when the pool is closed, and not for longer.
func TestFilePoolKeepsWhatIsRead(t *testing.T) {
	dir := t.TempDir()
	path := func(i int) string { return filepath.Join(dir, fmt.Sprint(i)) }
	for i := range 2 * maxOpen {
		if err := os.WriteFile(path(i), []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := newFilePool(false)
	wantContent := func(r *directio.Reader) {
		p := directio.Buffer(4096)
		if n, _ := r.ReadAt(p, 0); string(p[:n]) != "content" {
			t.Errorf("read %q", p[:n])
		}
	}
	err := pool.with(path(0), func(r *directio.Reader) error {
		for i := range 2*maxOpen - 1 {
			if err := pool.with(path(i+1), func(*directio.Reader) error { return nil }); err != nil {
				return err
			}
		}
		if n := openFiles(t, dir); n > maxOpen {
			t.Errorf("%d files are open", n)
		}
		wantContent(r)
		pool.close()
		if n := openFiles(t, dir); n != 1 {
			t.Errorf("%d files are open while one is read", n)
		}
		wantContent(r)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := openFiles(t, dir); n != 0 {
		t.Errorf("%d files stay open", n)
	}
}

// A pool's readers read through the page cache if they are to, and only then.
func TestFilePoolCached(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cached := range []bool{false, true} {
		pool := newFilePool(cached)
		defer pool.close()
		p := directio.Buffer(4096)
		for at := int64(0); at < 8192; at += 4096 {
			if n, err := (pooledPath{pool, path}).ReadAt(p, at); n != len(p) || err != nil {
				t.Fatalf("%d bytes, %v", n, err)
			}
			(pooledPath{pool, path}).Forget(at, 4096)
		}
		flags, err := unix.FcntlInt(pool.files[path].file.Fd(), unix.F_GETFL, 0)
		if err != nil || cached && flags&unix.O_DIRECT != 0 {
			t.Errorf("cached %v: flags %#x, %v", cached, flags, err)
		}
		if direct := flags&unix.O_DIRECT != 0; !cached && !direct {
			t.Log("the temporary directory has no O_DIRECT")
		}
	}
}

// openFiles counts the files of a directory that this process has open.
func openFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && filepath.Dir(target) == dir {
			n++
		}
	}
	return n
}
