package storagedaemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/qemuimg"
)

// TestMain is, in processes of their own, one that is killed while it has a daemon.
func TestMain(m *testing.M) {
	if image := os.Getenv("STORAGEDAEMON_OPEN"); image != "" {
		if err := openAndHang(image, os.Getenv("STORAGEDAEMON_WRITABLE") != ""); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func openAndHang(image string, writable bool) error {
	ctx := context.Background()
	d, err := Start(ctx, filepath.Dir(image), writable)
	if err != nil {
		return err
	}
	chain, err := qemuimg.Chain(ctx, image, "qcow2", true)
	if err != nil {
		return err
	}
	disk, err := d.Open(ctx, "vda", chain, writable)
	if err != nil {
		return err
	}
	if err := disk.Export(ctx, "", writable); err != nil {
		return err
	}
	fmt.Println("pid", d.Pid())
	select {}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// overlay makes a chain of two images, as a live external snapshot leaves it: both have bitmap
// c1, and each shows what was written to it.
func overlay(t *testing.T) (top string, chain []qemuimg.Image) {
	t.Helper()
	dir := t.TempDir()
	base, top := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "top.qcow2")
	must(t, qemuimg.Create(base, "qcow2", 8<<20))
	must(t, qemuimg.AddBitmap(base, "c1", 64<<10))
	tool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 1M 64k", base)
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
	must(t, qemuimg.AddBitmap(top, "c1", 64<<10))
	tool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 2 4M 64k", top)
	chain, err := qemuimg.Chain(context.Background(), top, "qcow2", false)
	must(t, err)
	return top, chain
}

func start(t *testing.T, writable bool) *Daemon {
	t.Helper()
	d, err := Start(context.Background(), t.TempDir(), writable)
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d
}

func uri(d *Daemon) string { return "nbd+unix:///vda?socket=" + d.Socket() }

// The bitmaps of all images of a chain are merged: what was written to the base counts.
func TestMergedBitmap(t *testing.T) {
	_, chain := overlay(t)
	ctx := context.Background()
	d := start(t, false)
	disk, err := d.Open(ctx, "vda", chain, false)
	must(t, err)
	bitmaps, err := disk.Bitmaps(ctx)
	must(t, err)
	for i, b := range bitmaps {
		if len(b) != 1 || b[0].Name != "c1" || b[0].Count != 64<<10 || !b[0].Recording || !b[0].Persistent || b[0].Inconsistent {
			t.Errorf("bitmaps of image %d: %+v", i, b)
		}
	}
	merged, err := disk.Merge(ctx, "c1", 2, 64<<10)
	must(t, err)
	must(t, disk.Export(ctx, merged, false))
	got := tool(t, "nbdinfo", "--map=qemu:dirty-bitmap:"+merged, uri(d))
	want := "0 1048576 0 clean\n1048576 65536 1 dirty\n1114112 3080192 0 clean\n4194304 65536 1 dirty\n4259840 4128768 0 clean\n"
	if strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("got\n%s", got)
	}
	if _, err := disk.Merge(ctx, "c2", 1, 64<<10); err == nil {
		t.Error("a bitmap that does not exist is merged")
	}
}

// While a reader is open, nobody writes: a domain cannot start. Once it is closed, one can.
func TestReaderExcludesWriters(t *testing.T) {
	top, chain := overlay(t)
	d := start(t, false)
	_, err := d.Open(context.Background(), "vda", chain, false)
	must(t, err)
	for _, i := range chain {
		if err := qemuimg.AddBitmap(i.Path, "c2", 64<<10); !errors.Is(err, qemuimg.ErrLocked) {
			t.Errorf("%s: %v", i.Path, err)
		}
	}
	must(t, d.Close())
	must(t, qemuimg.AddBitmap(top, "c2", 64<<10))
	must(t, d.Close()) // again
}

// An image that a writer has open is not opened.
func TestOpenLocked(t *testing.T) {
	_, chain := overlay(t)
	writer, other := start(t, true), start(t, false)
	_, err := writer.Open(context.Background(), "vda", chain, true)
	must(t, err)
	if _, err := other.Open(context.Background(), "vda", chain, false); !errors.Is(err, qemuimg.ErrLocked) || !strings.Contains(err.Error(), chain[0].Path) {
		t.Errorf("got %v", err)
	}
}

// What is written is in the image, and in its bitmap, once the daemon is closed.
func TestWritable(t *testing.T) {
	top, chain := overlay(t)
	ctx := context.Background()
	d := start(t, true)
	disk, err := d.Open(ctx, "vda", chain, true)
	must(t, err)
	must(t, disk.Export(ctx, "", true))
	tool(t, "qemu-io", "-f", "raw", "-c", "write -P 3 6M 64k", "-c", "flush", uri(d))
	must(t, d.Close())
	tool(t, "qemu-io", "-f", "qcow2", "-c", "read -P 3 6M 64k", "-c", "read -P 1 1M 64k", top)
	reader := start(t, false)
	if disk, err = reader.Open(ctx, "vda", chain, false); err != nil {
		t.Fatal(err)
	}
	bitmaps, err := disk.Bitmaps(ctx)
	must(t, err)
	if b := bitmaps[0]; len(b) != 1 || b[0].Count != 128<<10 || b[0].Inconsistent {
		t.Errorf("got %+v", b)
	}
}

// A daemon ends with the process that started it, however that ends. One that is writable
// stores the bitmaps before.
func TestEndsWithItsProcess(t *testing.T) {
	for _, writable := range []string{"", "yes"} {
		top, _ := overlay(t)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "STORAGEDAEMON_OPEN="+top, "STORAGEDAEMON_WRITABLE="+writable)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		var pid int
		if _, err := fmt.Fscanf(out, "pid %d\n", &pid); err != nil {
			t.Fatal(err)
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		gone := false
		for range 100 {
			if gone = errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); gone {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if !gone {
			t.Errorf("writable %q: process %d is still there", writable, pid)
		}
		images, err := qemuimg.Chain(context.Background(), top, "qcow2", false)
		must(t, err)
		if b, ok := images[0].Bitmap("c1"); !ok || !b.Valid() {
			t.Errorf("writable %q: bitmap %+v", writable, b)
		}
	}
}

// The error of a command says why the daemon has ended.
func TestDaemonThatEnds(t *testing.T) {
	_, chain := overlay(t)
	d := start(t, false)
	must(t, syscall.Kill(d.Pid(), syscall.SIGKILL))
	<-d.Ended()
	if _, err := d.Open(context.Background(), "vda", chain, false); !errors.Is(err, errGone) {
		t.Errorf("got %v", err)
	}
}

// Cancelling the context gives up on a command.
func TestCancelled(t *testing.T) {
	d := start(t, false)
	must(t, syscall.Kill(d.Pid(), syscall.SIGSTOP))
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(stop)
	if err := d.monitor.execute(ctx, "query-named-block-nodes", nil, nil); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// A directory whose path leaves no room for that of a socket is not used.
func TestTempDir(t *testing.T) {
	for dir, want := range map[string]string{"/var/tmp": "/var/tmp", "/" + strings.Repeat("x", 90): "/tmp"} {
		t.Setenv("TMPDIR", dir)
		if got := TempDir(); got != want {
			t.Errorf("with TMPDIR %s: %s", dir, got)
		}
	}
}
