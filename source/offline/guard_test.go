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

// writeTo tries to write to an image with QEMU's code.
func writeTo(format, path string) error {
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
		if err := writeTo(format, path); err == nil || !strings.Contains(err.Error(), `Failed to get "write" lock`) {
			t.Errorf("%s: a writer: %v", format, err)
		}
		must(t, errors.Join(g.named(), g.unchanged()))
		g.release()
		other.release()
		must(t, writeTo(format, path))
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

// A write to a block device is noticed, by whatever node of it.
func TestGuardNoticesWritesToDevices(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	must(t, err)
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { must(t, exec.Command("losetup", "-d", device).Run()) })
	must(t, exec.Command("dd", "if=/dev/urandom", "of="+device, "bs=4k", "count=8", "status=none").Run()) // cached
	var g guard
	must(t, g.hold(device))
	defer g.release()
	if g.device() != device {
		t.Errorf("the device is %q", g.device())
	}
	must(t, exec.Command("dd", "if="+device, "of=/dev/null", "bs=64k", "status=none", "iflag=direct").Run())
	must(t, g.unchanged())
	must(t, exec.Command("dd", "if=/dev/urandom", "of="+device, "bs=4k", "count=1", "status=none", "oflag=direct").Run())
	if err := g.unchanged(); err == nil {
		t.Error("a write is not noticed")
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
