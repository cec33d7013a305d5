package device

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

const mib = 1 << 20

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantRefused sees that a device is refused for a reason, with a hint.
func wantRefused(t *testing.T, path, why string) {
	t.Helper()
	d, err := Open(path)
	if err == nil {
		d.Close()
	}
	if !fail.Is(err, fail.Usage) || !strings.Contains(err.Error(), why) || fail.HintOf(err) == "" {
		t.Errorf("%s: got %v, want fail.Usage that says %q", path, err, why)
	}
}

// Whole blocks and others are written, and zeros; what is beside them stays.
func TestWrite(t *testing.T) {
	const size = 8 * mib
	for _, options := range [][]string{nil, {"--sector-size", "4096"}} {
		path := testfs.Loop(t, size, 0xee, options...)
		d, err := Open(path)
		must(t, err)
		if d.Size() != size || d.Path() != path {
			t.Errorf("%s has %d bytes", d.Path(), d.Size())
		}
		want := bytes.Repeat([]byte{0xee}, size)
		buf := directio.Buffer(mib)
		for i := range buf {
			buf[i] = byte(i * 7)
		}
		for _, w := range []struct{ off, length int }{{0, mib}, {3 * mib, 64<<10 + 512}, {5*mib - 512, 1536}} {
			if n, err := d.WriteAt(buf[:w.length], int64(w.off)); n != w.length || err != nil {
				t.Fatalf("%+v: %d, %v", w, n, err)
			}
			copy(want[w.off:], buf[:w.length])
		}
		for _, z := range []struct{ off, length int }{{mib / 2, mib}, {6 * mib, 64<<10 + 512}, {7*mib - 1024, 512}} {
			must(t, d.Zero(t.Context(), int64(z.off), int64(z.length)))
			clear(want[z.off : z.off+z.length])
		}
		must(t, d.Sync())
		must(t, d.Close())
		got, err := os.ReadFile(path)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%v: the device has not what was written", options)
		}
	}
}

func TestNoBlockDevice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	wantRefused(t, file, "is not a block device")
	wantRefused(t, "/dev/null", "is not a block device")
	if _, err := Open(file + "2"); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
}

// Every use of a device is found, and named.
func TestInUse(t *testing.T) {
	t.Run("mounted", func(t *testing.T) {
		path := testfs.Loop(t, 64*mib, 0)
		wantRefused(t, path, "is in use: it is mounted at "+testfs.Mount(t, path, "mkfs.ext4", "-q"))
	})
	t.Run("a partition is mounted", func(t *testing.T) {
		path := testfs.Loop(t, 64*mib, 0)
		part := testfs.Partition(t, path, 64*mib)
		at := testfs.Mount(t, part, "mkfs.ext4", "-q")
		wantRefused(t, path, filepath.Base(part)+" is mounted at "+at)
		wantRefused(t, part, "is mounted at "+at)
	})
	t.Run("the whole is open", func(t *testing.T) {
		path := testfs.Loop(t, 64*mib, 0)
		part := testfs.Partition(t, path, 64*mib)
		d, err := Open(path)
		must(t, err)
		defer d.Close()
		wantRefused(t, part, "is in use")
		wantRefused(t, path, "is in use")
	})
	t.Run("a loop device is on it", func(t *testing.T) {
		path := testfs.Loop(t, 64*mib, 0)
		loop := testfs.Attach(t, path)
		wantRefused(t, path, "is behind "+loop)
	})
	t.Run("QEMU has it", func(t *testing.T) {
		path := testfs.Loop(t, 64*mib, 0)
		qemu := exec.Command("qemu-io", "-f", "raw", path)
		stdin, err := qemu.StdinPipe()
		must(t, err)
		stdout, err := qemu.StdoutPipe()
		must(t, err)
		must(t, qemu.Start())
		defer qemu.Wait()
		defer stdin.Close()
		_, err = stdin.Write([]byte("length\n"))
		must(t, err)
		_, err = stdout.Read(make([]byte, 100)) // it has opened the device
		must(t, err)
		wantRefused(t, path, "has it open for writing")
	})
	t.Run("read-only", func(t *testing.T) {
		wantRefused(t, testfs.Loop(t, mib, 0, "--read-only"), "is read-only")
	})
}

// While a device is open here, QEMU does not open it.
func TestQEMUIsKeptOut(t *testing.T) {
	path := testfs.Loop(t, 64*mib, 0)
	read := func() ([]byte, error) {
		return exec.Command("qemu-io", "-f", "raw", "-c", "read 0 512", path).CombinedOutput()
	}
	d, err := Open(path)
	must(t, err)
	out, err := read()
	must(t, d.Close())
	if err == nil || !strings.Contains(string(out), "lock") {
		t.Errorf("QEMU has opened it: %v, %s", err, out)
	}
	if out, err := read(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestSame(t *testing.T) {
	path, other := testfs.Loop(t, 64*mib, 0), testfs.Loop(t, mib, 0)
	part := testfs.Partition(t, path, 64*mib)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(path, link))
	for _, test := range []struct {
		a, b string
		want bool
	}{{path, path, true}, {path, link, true}, {path, part, true}, {part, link, true}, {path, other, false}, {part, other, false}, {path, "/none", false}, {path, "", false}} {
		if got := Same(test.a, test.b); got != test.want {
			t.Errorf("%s and %s: %v", test.a, test.b, got)
		}
	}
}
