package localfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMakeAndRemove(t *testing.T) {
	top := t.TempDir()
	a, b, c := filepath.Join(top, "a"), filepath.Join(top, "a", "b"), filepath.Join(top, "a", "b", "c")
	absent := AbsentDirs(c)
	if want := []string{a, b, c}; !slices.Equal(absent, want) {
		t.Fatalf("absent are %v, want %v", absent, want)
	}
	for range 2 { // the second finds them there
		must(t, MakeDir(c))
	}
	for dir, want := range map[string]fs.FileMode{a: 0o755, b: 0o755, c: 0o700} {
		info, err := os.Stat(dir)
		must(t, err)
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v, want %v", dir, got, want)
		}
	}
	if left := AbsentDirs(c); len(left) != 0 {
		t.Errorf("absent are %v still", left)
	}
	must(t, os.WriteFile(filepath.Join(a, "file"), nil, 0o600))
	must(t, RemoveDirs(append(absent, filepath.Join(c, "gone"))))
	if left, err := os.ReadDir(a); err != nil || len(left) != 1 || left[0].Name() != "file" {
		t.Errorf("left are %v, %v, want the file alone", left, err)
	}
}

func TestMakeDirOverAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if err := MakeDir(file); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("got %v, want ENOTDIR", err)
	}
	if err := RemoveDirs([]string{file}); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("remove: got %v, want ENOTDIR", err)
	}
}

func TestRenameExclusive(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	must(t, os.WriteFile(from, []byte("new"), 0o600))
	must(t, os.WriteFile(to, []byte("old"), 0o600))
	var link *os.LinkError
	if err := RenameExclusive(from, to); !errors.Is(err, fs.ErrExist) || !errors.As(err, &link) {
		t.Errorf("over another: got %v, want ErrExist and both names", err)
	}
	if data, err := os.ReadFile(to); err != nil || string(data) != "old" {
		t.Errorf("the target is %q, %v", data, err)
	}
	must(t, os.Remove(to))
	must(t, RenameExclusive(from, to))
	if data, err := os.ReadFile(to); err != nil || string(data) != "new" {
		t.Errorf("renamed: %q, %v", data, err)
	}
	if err := RenameExclusive(from, to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("from nowhere: got %v, want ErrNotExist", err)
	}
}

func TestSyncDir(t *testing.T) {
	must(t, SyncDir(t.TempDir()))
	if err := SyncDir(filepath.Join(t.TempDir(), "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
}
