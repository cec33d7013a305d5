package localimage

import (
	"os"
	"path/filepath"
	"testing"
)

// A file that was replaced while it is open is told from one that was not.
func TestDeleted(t *testing.T) {
	dir := t.TempDir()
	path, link, other := filepath.Join(dir, "a"), filepath.Join(dir, "link"), filepath.Join(dir, "b")
	for _, p := range []string{path, other} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if Deleted(os.Getpid(), path) || Deleted(os.Getpid(), link) || Deleted(os.Getpid(), other) {
		t.Error("before anything was replaced")
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if !Deleted(os.Getpid(), path) || !Deleted(os.Getpid(), link) {
		t.Error("it was replaced, and is still open")
	}
	g, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if Deleted(os.Getpid(), path) {
		t.Error("the file of that name is open, too")
	}
	if Deleted(0, path) {
		t.Error("there is no such process")
	}
}
