package localfile

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// RealPath leads where the kernel goes, and to what is absent only where the kernel
// would make it.
func TestRealPath(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, err := range []error{os.MkdirAll("a/b/c", 0o700), os.Mkdir("d", 0o700), os.WriteFile("file", nil, 0o600),
		os.Symlink("a/b", "link"), os.Symlink(dir+"/link/c", "d/far"), os.Symlink("absent", "nowhere"), os.Symlink("loop", "loop")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/", "/..", ".", "..", "a", "link", "link/", "link/..", "link/../b/./c", "d/far/../..", "d/../link/../../file", "//" + dir + "//d"} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		kernel, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if got, realErr := RealPath(path); err != nil || realErr != nil || got != kernel {
			t.Errorf("%s: got %s, %v, the kernel has %s, %v", path, got, realErr, kernel, err)
		}
		f.Close()
	}
	for path, want := range map[string]string{"new": "new", "link/../new/er/": "a/new/er", "d/far/./new": "a/b/c/new", "file/": "file", "file/new": "file/new"} {
		if got, err := RealPath(path); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%s: got %s, %v, want %s", path, got, err, want)
		}
	}
	for _, path := range []string{"new/..", "a/new/../b", "file/..", "nowhere", "nowhere/new", "loop"} {
		if got, err := RealPath(path); err == nil {
			t.Errorf("%s: got %s, want an error", path, got)
		}
	}
}
