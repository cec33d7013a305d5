package diskimage

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

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
