//go:build cgo

package nbdcopy

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/extent/extenttest"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

func TestMain(m *testing.M) {
	for _, tool := range []string{"qemu-nbd", "nbdkit"} {
		out, err := exec.Command(tool, "--version").Output()
		if err != nil {
			out = []byte(err.Error())
		}
		first, _, _ := strings.Cut(string(out), "\n")
		println(first)
	}
	os.Exit(m.Run())
}

// copyAll opens an export and copies it into a recorder of 64 KiB clusters.
func copyAll(t *testing.T, src Source, o Options) (*extenttest.Recorder, Stats) {
	t.Helper()
	leaks := watchLeaks(t)
	e, err := Open(context.Background(), src)
	if err != nil {
		t.Fatal(err)
	}
	sink := &extenttest.Recorder{Cluster: 64 * kib, Size: e.Size(), Bytes: make([]byte, e.Size())}
	measured, err := e.Measure(context.Background(), sink.Cluster, func() {})
	if err != nil {
		t.Error(err)
	}
	stats, err := e.Copy(context.Background(), sink, o)
	e.Close()
	if err != nil {
		t.Fatal(err)
	}
	if stats.Size != sink.Size {
		t.Errorf("size %d in the statistics, want %d", stats.Size, sink.Size)
	}
	if want := (Measured{Data: stats.Read, Zero: sink.Size - stats.Read - stats.Clean, Clean: stats.Clean}); measured != want {
		t.Errorf("measured %+v beforehand, and copied %+v", measured, want)
	}
	leaks()
	return sink, stats
}

// image makes an image and runs commands of qemu-io on it.
func image(t testing.TB, format, size string, commands ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	run(t, "qemu-img", "create", "-q", "-f", format, path, size)
	change(t, format, path, commands...)
	return path
}

func change(t testing.TB, format, path string, commands ...string) {
	t.Helper()
	args := []string{"-f", format, path}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	if len(commands) > 0 {
		run(t, "qemu-io", args...)
	}
}

// contents reads an image with qemu-img.
func contents(t *testing.T, format, path string) []byte {
	t.Helper()
	raw := path + ".raw"
	run(t, "qemu-img", "convert", "-f", format, "-O", "raw", path, raw)
	data, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func wantOps(t *testing.T, sink *extenttest.Recorder, want []extent.Extent) {
	t.Helper()
	if got := sink.Extents(t); !reflect.DeepEqual(got, want) {
		t.Errorf("operations %v, want %v", got, want)
	}
}

func TestCopyFull(t *testing.T) {
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			path := image(t, format, "33555968", // 32 MiB + 1536 bytes
				"write -P 1 0 3M", "write -P 2 4M 64k", "write -P 3 5111808 4k", // ends inside a cluster
				"write -P 4 20M 10M", "write -z 22M 1M", "write -P 5 33554432 1536")
			s := qemuNBD(t, format, path)
			sink, stats := copyAll(t, Source{Socket: s.socket, Export: "vda"}, Options{})
			wantOps(t, sink, []extent.Extent{
				extenttest.Data(0, 3*mib), extenttest.Zero(3*mib, mib), extenttest.Data(4*mib, 64*kib),
				extenttest.Zero(4*mib+64*kib, 832*kib), extenttest.Data(4*mib+896*kib, 64*kib),
				extenttest.Zero(5*mib-64*kib, 15*mib+64*kib), extenttest.Data(20*mib, 2*mib), extenttest.Zero(22*mib, mib),
				extenttest.Data(23*mib, 7*mib), extenttest.Zero(30*mib, 2*mib), extenttest.Data(32*mib, 1536),
			})
			if !bytes.Equal(sink.Bytes, contents(t, format, path)) {
				t.Error("the copy differs from what qemu-img reads")
			}
			if want := int64(12*mib + 3*64*kib); stats.Data != want || stats.Clean != 0 {
				t.Errorf("statistics %+v, want %d bytes of data", stats, want)
			}
		})
	}
}

// What changed since the bitmap was made, and nothing else; zeros that the
// guest wrote hide the base, so they must come, too.
func TestCopyIncremental(t *testing.T) {
	path := image(t, "qcow2", "1T", "write -P 1 0 16M", "write -P 1 500G 1M")
	run(t, "qemu-img", "bitmap", "--add", "--enable", path, "check1")
	change(t, "qcow2", path, "write -P 2 1M 1M", "write -P 3 4M 4k", "write -z 8M 1M", "discard 10M 128k",
		"write -P 4 700G 64k", "write -z 1023G 64k", "write -P 0 12M 64k")
	s := qemuNBD(t, "qcow2", path, "--bitmap=check1")
	leaks := watchLeaks(t)
	e, err := Open(context.Background(), Source{Socket: s.socket, Export: "vda", Bitmap: "check1"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	sink := &extenttest.Recorder{Cluster: 64 * kib, Size: e.Size()}
	stats, err := e.Copy(context.Background(), sink, Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantOps(t, sink, []extent.Extent{
		extenttest.Data(mib, mib), extenttest.Data(4*mib, 64*kib), extenttest.Zero(8*mib, mib), extenttest.Zero(10*mib, 128*kib),
		extenttest.Zero(12*mib, 64*kib), // data to the server, but all zero
		extenttest.Data(700<<30, 64*kib), extenttest.Zero(1023<<30, 64*kib),
	})
	want := Stats{Size: 1 << 40, Read: mib + 3*64*kib, Data: mib + 2*64*kib,
		Clean: 1<<40 - (2*mib + 128*kib + 4*64*kib)}
	if stats != want {
		t.Errorf("statistics %+v, want %+v", stats, want)
	}
	e.Close()
	leaks()
}

// Bits finer than a cluster: the whole cluster is read.
func TestCopyFineBitmap(t *testing.T) {
	path := image(t, "qcow2", "8M", "write -P 1 0 8M")
	run(t, "qemu-img", "bitmap", "--add", "--enable", "-g", "4k", path, "b")
	change(t, "qcow2", path, "write -P 2 68k 4k", "write -P 2 124k 8k", "write -z 512k 4k", "write -P 0 1020k 8k")
	s := qemuNBD(t, "qcow2", path, "--bitmap=b")
	sink, _ := copyAll(t, Source{Socket: s.socket, Export: "vda", Bitmap: "b"}, Options{})
	wantOps(t, sink, []extent.Extent{extenttest.Data(64*kib, 128*kib), extenttest.Data(512*kib, 64*kib), extenttest.Data(960*kib, 128*kib)})
	disk := contents(t, "qcow2", path)
	for _, op := range sink.Extents(t) {
		if !bytes.Equal(sink.Bytes[op.Offset:op.End()], disk[op.Offset:op.End()]) {
			t.Errorf("%v differs from what qemu-img reads", op)
		}
	}
}

// A disk that grew: its bitmap says nothing of what is new.
func TestCopyDirtyFrom(t *testing.T) {
	path := image(t, "qcow2", "8M", "write -P 1 0 8M")
	run(t, "qemu-img", "bitmap", "--add", "--enable", path, "b")
	s := qemuNBD(t, "qcow2", path, "--bitmap=b")
	sink, _ := copyAll(t, Source{Socket: s.socket, Export: "vda", Bitmap: "b", DirtyFrom: 6*mib + 512}, Options{})
	wantOps(t, sink, []extent.Extent{extenttest.Data(6*mib, 2*mib)})
}

// More reads than buffers, connections and writers, of random sizes.
func TestCopyManyExtents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	size := int64(96*mib + 512)
	disk := make([]byte, size)
	for off := int64(0); off < size; {
		n := min(rnd.Int64N(40)*16*kib, size-off)
		if rnd.IntN(2) == 0 {
			for i := off; i < off+n; i++ {
				disk[i] = byte(rnd.Uint32())
			}
			if _, err := f.WriteAt(disk[off:off+n], off); err != nil {
				t.Fatal(err)
			}
		}
		off += n
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	s := qemuNBD(t, "raw", path)
	for _, o := range []Options{{}, {Connections: 1, Requests: 1, Writers: 1}, {Connections: 4, Requests: 64, Writers: 8}} {
		var calls, copied atomic.Int64
		o.Progress = func(p Progress) {
			calls.Add(1)
			copied.Store(max(copied.Load(), p.Copied))
		}
		sink, stats := copyAll(t, Source{Socket: s.socket, Export: "vda"}, o)
		if !bytes.Equal(sink.Bytes, disk) {
			t.Errorf("%+v: the copy differs", o)
		}
		if got := sink.Extents(t); len(got) == 0 || got[len(got)-1].End() > size {
			t.Errorf("%+v: operations end at %v", o, got)
		}
		if calls.Load() == 0 || copied.Load() != stats.Read {
			t.Errorf("progress called %d times, up to %d bytes of %d", calls.Load(), copied.Load(), stats.Read)
		}
	}
}

func TestCopyEmptyDisk(t *testing.T) {
	sink, _ := copyAll(t, Source{Socket: nbdkit(t, "null", "size=0").socket}, Options{})
	wantOps(t, sink, nil)
}

func TestCopyTinyDisk(t *testing.T) {
	s := nbdkit(t, "data", "1 2 3", "size=512")
	sink, _ := copyAll(t, Source{Socket: s.socket}, Options{})
	wantOps(t, sink, []extent.Extent{extenttest.Data(0, 512)})
	if !bytes.Equal(sink.Bytes[:4], []byte{1, 2, 3, 0}) {
		t.Errorf("read %v", sink.Bytes[:4])
	}
}

// A server that cannot tell zeros from data: all is read, and zeros are still
// found.
func TestCopyWithoutBlockStatus(t *testing.T) {
	const disk = "@0x100000 ( 0x55 )*131072 @0x7f0000 1"
	for name, args := range map[string][]string{
		"no structured replies": {"--no-sr", "data", disk, "size=8M"},
		"no extents":            {"--filter=noextents", "data", disk, "size=8M"},
	} {
		t.Run(name, func(t *testing.T) {
			s := nbdkit(t, args...)
			sink, stats := copyAll(t, Source{Socket: s.socket}, Options{})
			if stats.Read != 8*mib {
				t.Errorf("read %d bytes, want all", stats.Read)
			}
			wantOps(t, sink, []extent.Extent{extenttest.Zero(0, mib), extenttest.Data(mib, 128*kib),
				extenttest.Zero(mib+128*kib, 8*mib-64*kib-mib-128*kib), extenttest.Data(8*mib-64*kib, 64*kib)})
		})
	}
}

func TestCopyRefusesOptions(t *testing.T) {
	s := nbdkit(t, "null", "size=1M")
	e, err := Open(context.Background(), Source{Socket: s.socket})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, cluster := range []int{0, 256, 3 * 65536, 2 * mib} {
		if _, err := e.Copy(context.Background(), &extenttest.Recorder{Cluster: cluster}, Options{}); err == nil {
			t.Errorf("clusters of %d bytes are taken", cluster)
		}
	}
	for _, o := range []Options{{Connections: -1}, {Requests: -1}, {Writers: -1}} {
		if _, err := e.Copy(context.Background(), &extenttest.Recorder{Cluster: 65536}, o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
