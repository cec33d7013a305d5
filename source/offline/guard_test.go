package offline

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/qemuimg"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// writes tries to write to an image with QEMU's code.
func writes(format, path string) error {
	out, err := exec.Command("qemu-io", "-f", format, "-c", "write 0 64k", path).CombinedOutput()
	if err != nil || strings.Contains(string(out), "Failed to get") {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// What is held is locked against QEMU's writers, whatever its format, and not against readers.
func TestGuardExcludesWriters(t *testing.T) {
	for _, format := range []string{"raw", "qcow2"} {
		path := filepath.Join(t.TempDir(), "image")
		must(t, qemuimg.Create(path, format, 1<<20))
		var g, other guard
		must(t, g.hold(path))
		must(t, other.hold(path)) // a reader
		if err := writes(format, path); err == nil || !strings.Contains(err.Error(), `Failed to get "write" lock`) {
			t.Errorf("%s: a writer: %v", format, err)
		}
		must(t, errors.Join(g.named(), g.unchanged()))
		g.release()
		other.release()
		must(t, writes(format, path))
	}
}

// An image that a writer has open cannot be held.
func TestGuardFindsWriters(t *testing.T) {
	for _, format := range []string{"raw", "qcow2"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "image")
		must(t, qemuimg.Create(path, format, 1<<20))
		must(t, exec.Command("qemu-nbd", "-t", "-f", format, "-k", filepath.Join(dir, "s"), "--fork", "--pid-file", filepath.Join(dir, "pid"), path).Run())
		var g guard
		err := g.hold(path)
		must(t, exec.Command("sh", "-c", "kill -9 $(cat "+filepath.Join(dir, "pid")+")").Run())
		if !errors.Is(err, qemuimg.ErrLocked) {
			t.Errorf("%s: %v", format, err)
		}
	}
}

// Files that are written to without locks, or replaced, are noticed.
func TestGuardNotices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(path, []byte("one"), 0o600))
	var g guard
	must(t, g.hold(path))
	defer g.release()
	must(t, os.WriteFile(path+".new", []byte("one"), 0o600))
	must(t, os.Rename(path+".new", path))
	if err := g.named(); err == nil {
		t.Error("another file is not noticed")
	}
	must(t, g.unchanged()) // the one that is held
	must(t, os.Remove(path))
	if err := g.named(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}

	path += "2"
	must(t, os.WriteFile(path, []byte("one"), 0o600))
	must(t, os.Chtimes(path, someTime, someTime))
	must(t, g.hold(path))
	must(t, os.WriteFile(path, []byte("two"), 0o600))
	if err := g.unchanged(); err == nil {
		t.Error("a write is not noticed")
	}
}
