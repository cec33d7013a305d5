package instant

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/qcow2"
)

// An image without a backing file is not settled while its tables say nothing of a part of the disk. What
// a disk has that was enlarged since is no part of the point.
func TestUnsettled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vda.qcow2")
	tool := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	r := &run{pin: keep.Pin{Runs: &keep.Runs{Dir: dir, Socket: "/run/x.sock", Sizes: map[string]int64{"vda": 4 << 20}}}}
	want := func(want bool, when string) {
		t.Helper()
		if got, err := r.unsettled(path); got != want || err != nil {
			t.Errorf("%s: unsettled: %v, error %v", when, got, err)
		}
	}
	want(false, "no image")
	marked(t, path, markOf("/run/x.sock")+"vda", 4<<20)
	want(true, "an empty image")
	tool("qemu-io", "-f", "qcow2", "-c", "write -q -z 0 4032k", path)
	want(true, "the last cluster is missing")
	tool("qemu-io", "-f", "qcow2", "-c", "write -q 4032k 64k", path)
	want(false, "whole")
	tool("qemu-img", "resize", "-q", path, "8M")
	want(false, "enlarged")
	r.pin.Runs.Sizes["vda"] = 8 << 20
	want(true, "the point has that much")
	tool("qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "nbd+unix:///vda?socket=/nonexistent", path)
	want(false, "with a backing file, which needs says")
	tool("qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-b", "", path)
	r.pin.Runs.Socket = "/run/y.sock"
	want(false, "an image of another restore")
	tool("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
	want(false, "an image of somebody else's")
}

// marked makes an image without data.
func marked(t *testing.T, path, mark string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := qcow2.NewWriter(f, qcow2.Options{VirtualSize: size, Mark: mark})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(f.Sync); err != nil {
		t.Fatal(err)
	}
}
