package qemuimg

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

func TestChain(t *testing.T) {
	dir := t.TempDir()
	base, top := filepath.Join(dir, "base: 1.qcow2"), filepath.Join(dir, "top.qcow2")
	must(t, Create(base, "qcow2", 64<<20, "cluster_size=128k", "lazy_refcounts=on"))
	must(t, AddBitmap(base, "c1", 128<<10))
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
	must(t, AddBitmap(top, "c1", 64<<10))
	must(t, AddBitmap(top, "c2", 64<<10))
	must(t, RemoveBitmap(top, "c2"))
	tool(t, "qemu-img", "bitmap", "--disable", "-f", "qcow2", base, "c1")

	images, err := Chain(context.Background(), top, "qcow2", false)
	must(t, err)
	if len(images) != 2 {
		t.Fatalf("got %d images", len(images))
	}
	if b, ok := images[0].Bitmap("c1"); !ok || !b.Valid() || b.Granularity != 64<<10 || len(images[0].QCOW2.Bitmaps) != 1 {
		t.Errorf("bitmaps of the top image: %+v", images[0].QCOW2.Bitmaps)
	}
	if images[0].Backing != base || images[0].BackingFormat != "qcow2" {
		t.Errorf("backing file %q (%s), want %q", images[0].Backing, images[0].BackingFormat, base)
	}
	below := images[1]
	if b, ok := below.Bitmap("c1"); !ok || b.Valid() || below.QCOW2.ClusterSize != 128<<10 || !below.QCOW2.LazyRefcounts || below.VirtualSize != 64<<20 {
		t.Errorf("image below: %+v, %+v", below, below.QCOW2)
	}
	must(t, Resize(top, "qcow2", 32<<20))
	if images, err = Chain(context.Background(), top, "qcow2", true); err != nil || images[0].VirtualSize != 32<<20 {
		t.Errorf("after the resize: %+v, %v", images[0], err)
	}
}

// A bitmap of an image whose writer was killed is in use, and not valid.
func TestBitmapInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.qcow2")
	must(t, Create(path, "qcow2", 1<<20))
	must(t, AddBitmap(path, "c1", 64<<10))
	cmd := exec.Command("qemu-io", "-f", "qcow2", "-c", "write 0 64k", "-c", "sigraise 9", path)
	_ = cmd.Run() // killed
	images, err := Chain(context.Background(), path, "qcow2", false)
	must(t, err)
	if b, ok := images[0].Bitmap("c1"); !ok || b.Valid() || !b.InUse {
		t.Errorf("got %+v, want it in use", b)
	}
	must(t, RemoveBitmap(path, "c1"))
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.qcow2")
	must(t, Create(path, "qcow2", 1<<20))
	daemon := exec.Command("qemu-nbd", "-t", "-f", "qcow2", "-k", filepath.Join(dir, "s"), "--fork", "--pid-file", filepath.Join(dir, "pid"), path)
	must(t, daemon.Run())
	t.Cleanup(func() { tool(t, "sh", "-c", "kill -9 $(cat "+dir+"/pid)") })
	if err := AddBitmap(path, "c1", 64<<10); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("of an image in use: %v", err)
	}
	if _, err := Chain(context.Background(), path, "qcow2", false); !errors.Is(err, ErrLocked) {
		t.Errorf("of an image in use: %v", err)
	}
	if _, err := Chain(context.Background(), path, "qcow2", true); err != nil {
		t.Errorf("of an image in use, with force: %v", err)
	}
	if _, err := Chain(context.Background(), filepath.Join(dir, "absent"), "qcow2", true); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("of no image: %v", err)
	}
	if err := AddBitmap(filepath.Join(dir, "absent"), "c1", 65536); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no image: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := Chain(ctx, path, "qcow2", true); !errors.Is(err, stop) {
		t.Errorf("cancelled: %v", err)
	}
}
