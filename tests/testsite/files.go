package testsite

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

// Flip changes one byte of a file.
func Flip(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
}

// Mounted is a small file system of its own: a tmpfs, or an ext4 or xfs in a file. Its size is
// in MiB; an xfs has at least 300.
func Mounted(t *testing.T, kind string, mib int) string {
	t.Helper()
	dir := testdomain.TempDir(t)
	at := filepath.Join(dir, "at")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if kind == "tmpfs" {
		testdomain.Tool(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dM,mode=755", mib), "tmpfs", at)
	} else {
		image := filepath.Join(dir, "image")
		testdomain.Tool(t, "truncate", "-s", fmt.Sprintf("%dM", mib), image)
		testdomain.Tool(t, "mkfs."+kind, "-q", image)
		testfs.MountImage(t, image, at, "loop")
	}
	t.Cleanup(func() { testdomain.Tool(t, "umount", at) })
	return at
}

// At moves the repository of a site to another directory.
func (s *Site) At(dir string) *Site {
	s.Repo = filepath.Join(dir, "repo")
	s.Program.Env = []string{"VIRTBACKUP_REPO=" + s.Repo}
	return s
}

// Copied is the site with a copy of its repository, with all files, and what the
// points there show.
func (s *Site) Copied() *Site {
	s.T.Helper()
	other := *s
	other.Repo = filepath.Join(testdomain.TempDir(s.T), "repo")
	testdomain.Tool(s.T, "cp", "-a", s.Repo, other.Repo)
	other.Program = testdomain.Program{Env: []string{"VIRTBACKUP_REPO=" + other.Repo}}
	other.Points = append([]Point{}, s.Points...)
	return &other
}

// WriteFile writes a file, and makes its directory.
func WriteFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Mount mounts an empty tmpfs of that size, as mount's option size takes it.
func Mount(t *testing.T, size string) string {
	t.Helper()
	dir := testdomain.TempDir(t)
	testdomain.Tool(t, "mount", "-t", "tmpfs", "-o", "size="+size, "vbtest", dir)
	t.Cleanup(func() { testdomain.Tool(t, "umount", dir) })
	return dir
}
