package restore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// What a killed restore has left is removed once its effects elsewhere are undone, and nothing else is.
func TestRemoveLeft(t *testing.T) {
	undone := 0
	undo := func() error { undone++; return nil }
	empty := t.TempDir()
	must(t, os.WriteFile(filepath.Join(empty, "vm1.xml"), []byte("mine"), 0o600))
	must(t, RemoveLeft(empty, undo))
	if data, err := os.ReadFile(filepath.Join(empty, "vm1.xml")); undone != 0 || string(data) != "mine" {
		t.Errorf("a directory without a marker: undone %d times, file %q, %v", undone, data, err)
	}
	must(t, RemoveLeft(filepath.Join(empty, "none"), undo))

	dir := killed(t, "vda.qcow2.partial", "vm1.xml")
	must(t, os.WriteFile(filepath.Join(dir, "other"), []byte("mine"), 0o600))
	failed := errors.New("not undone")
	if err := RemoveLeft(dir, func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	wantNames(t, dir, 4)
	must(t, RemoveLeft(dir, undo))
	if undone != 1 {
		t.Errorf("undone %d times", undone)
	}
	wantNames(t, dir, 1)

	changed := killed(t, "vda.qcow2")
	must(t, os.Remove(filepath.Join(changed, "vda.qcow2")))
	must(t, os.WriteFile(filepath.Join(changed, "vda.qcow2"), []byte("mine"), 0o600))
	if err := RemoveLeft(changed, undo); err == nil {
		t.Error("a file that was changed is removed")
	}
	wantNames(t, changed, 2)

	used := killed(t, "vm1.xml")
	c, err := takeClaim(filepath.Join(used, markerName))
	must(t, err)
	if err := RemoveLeft(used, undo); !fail.Is(err, fail.Locked) {
		t.Errorf("beside a restore: %v", err)
	}
	must(t, c.abandon())
}

// wantNames sees how many names a directory has.
func wantNames(t *testing.T, dir string, want int) {
	t.Helper()
	if entries, err := os.ReadDir(dir); len(entries) != want {
		t.Errorf("%v are in the directory, want %d: %v", entries, want, err)
	}
}
