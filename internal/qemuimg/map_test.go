package qemuimg

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestAllocated(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	base, top := filepath.Join(dir, "base.raw"), filepath.Join(dir, "top.qcow2")
	run("qemu-img", "create", "-q", "-f", "raw", base, "8M")
	run("qemu-io", "-f", "raw", "-c", "write 0 1M", base)
	run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
	run("qemu-io", "-f", "qcow2", "-c", "write 2M 64k", "-c", "write -z 4M 64k", "-c", "write 6M 128k", top)
	for path, want := range map[string]string{base: "0+1048576 ", top: "2097152+65536 6291456+131072 "} {
		format, got := "qcow2", ""
		if path == base {
			format = "raw"
		}
		if err := Allocated(context.Background(), path, format, func(offset, length int64) {
			got += fmt.Sprintf("%d+%d ", offset, length)
		}); err != nil || got != want {
			t.Errorf("%s: %v, %s, want %s", path, err, got, want)
		}
	}
	if err := Allocated(context.Background(), filepath.Join(dir, "none"), "raw", nil); err == nil {
		t.Error("an image that is not there is mapped")
	}
}
