package imagelock

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func image(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "raw", path, "1M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func qemuIO(path string, args ...string) (string, error) {
	out, err := exec.Command("qemu-io", append(append([]string{"-f", "raw"}, args...), path)...).CombinedOutput()
	return string(out), err
}

// While the lock is held, QEMU does not write, and reads; after that it writes.
func TestExcludeWriters(t *testing.T) {
	path := image(t)
	lock, err := ExcludeWriters(path)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := qemuIO(path, "-c", "write 0 4k"); err == nil || !strings.Contains(out, `Failed to get "write" lock`) {
		t.Errorf("a write: %v: %s", err, out)
	}
	if out, err := qemuIO(path, "-r", "-c", "read 0 4k"); err != nil {
		t.Errorf("a read: %v: %s", err, out)
	}
	second, err := ExcludeWriters(path)
	if err != nil {
		t.Errorf("a second one: %v", err)
	} else if err := second.Close(); err != nil {
		t.Error(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := qemuIO(path, "-c", "write 0 4k"); err != nil {
		t.Errorf("a write after that: %v: %s", err, out)
	}
}

// A QEMU that has it open for writing is noticed.
func TestHeld(t *testing.T) {
	path := image(t)
	cmd := exec.Command("qemu-io", "-f", "raw", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		lock, err := ExcludeWriters(path)
		if errors.Is(err, ErrHeld) {
			return
		}
		if err == nil {
			err = lock.Close() // it is not open yet
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("not held: %v", err)
		}
	}
}
