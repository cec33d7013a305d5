package restore

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

// wantSame compares an image with what the disk held, by qemu-img, and checks it.
func wantSame(t *testing.T, image string, format Format, want string) {
	t.Helper()
	for _, args := range [][]string{{"compare", "-f", string(format), "-F", "raw", image, want}, {"check", "-f", string(format), image}} {
		if format == Raw && args[0] == "check" {
			continue
		}
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Errorf("qemu-img %v: %v: %s", args, err, out)
		}
	}
}

// fileOf is a file with what a disk held.
func fileOf(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "want")
	must(t, os.WriteFile(path, content, 0o600))
	return path
}

// spaceOf is what a file takes, in bytes.
func spaceOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestPreallocation(t *testing.T) {
	const size = 520<<20 + 17*cluster + 512
	repo, content := chainOf(t, 2, size, func(link int) []int64 {
		return []int64{0, int64(1+link) * 3 * cluster, 513 << 20, size / cluster * cluster}
	})
	want := fileOf(t, content)
	for _, test := range []struct {
		format        Format
		preallocation Preallocation
		whole         bool // takes the space of the whole disk
	}{
		{QCOW2, PreallocateOff, false}, {QCOW2, PreallocateMetadata, false}, {QCOW2, PreallocateFalloc, true}, {QCOW2, PreallocateFull, true},
		{Raw, PreallocateOff, false}, {Raw, PreallocateFalloc, true}, {Raw, PreallocateFull, true},
	} {
		t.Run(string(test.format)+" "+string(test.preallocation), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "out")
			result, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir, Format: test.format, Preallocation: test.preallocation})
			must(t, err)
			image := result.Disks[0].Image
			wantSame(t, image, test.format, want)
			if got := spaceOf(t, image); got >= size != test.whole || got > size+size/8 {
				t.Errorf("it takes %d bytes of %d", got, int64(size))
			}
			if test.format == QCOW2 {
				wantMapped(t, image, test.preallocation != PreallocateOff, size)
			}
		})
	}
}

// wantMapped tells by qemu-img map whether every cluster of an image has its place.
func wantMapped(t *testing.T, image string, all bool, size int64) {
	t.Helper()
	out, err := exec.Command("qemu-img", "map", "--output=json", "-f", "qcow2", image).Output()
	must(t, err)
	var parts []struct {
		Length int64
		Offset *int64
	}
	must(t, json.Unmarshal(out, &parts))
	mapped := int64(0)
	for _, p := range parts {
		if p.Offset != nil {
			mapped += p.Length
		}
	}
	if (mapped == size) != all {
		t.Errorf("%d bytes of %d have a place", mapped, size)
	}
}

func TestCompressedImage(t *testing.T) {
	repo, content := chainOf(t, 2, 64<<20, func(link int) (all []int64) {
		for at := int64(0); at < 32<<20; at += cluster * int64(1+2*link) {
			all = append(all, at)
		}
		return all
	})
	result, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: filepath.Join(t.TempDir(), "out"), Zstd: 3})
	must(t, err)
	wantSame(t, result.Disks[0].Image, QCOW2, fileOf(t, content))
	if got := spaceOf(t, result.Disks[0].Image); got > 8<<20 {
		t.Errorf("it takes %d bytes", got)
	}
}

func TestImageOptionsThatDoNotFit(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	for _, r := range []Request{
		{Format: Raw, Zstd: 3}, {Format: Raw, Preallocation: PreallocateMetadata}, {Zstd: 3, Preallocation: PreallocateFull},
		{Preallocation: "some"}, {Format: "vmdk"},
	} {
		r.Domain, r.Dir = "vm1", filepath.Join(t.TempDir(), "out")
		if _, err := Run(t.Context(), repo, r); !fail.Is(err, fail.Usage) || fail.HintOf(err) == "" {
			t.Errorf("%s %s zstd %d: got %v, want fail.Usage with a hint", r.Format, r.Preallocation, r.Zstd, err)
		}
		if _, err := os.Stat(r.Dir); err == nil {
			t.Errorf("%s %s zstd %d: the directory is there", r.Format, r.Preallocation, r.Zstd)
		}
	}
}

// Images that do not fit are refused before anything is copied; what is superseded in the
// chain does not count.
func TestTooLittleSpace(t *testing.T) {
	at := testfs.Ext4(t, 64<<20)
	must(t, os.Remove(filepath.Join(at, "lost+found")))
	everything := func(int) (all []int64) {
		for at := int64(0); at < 40<<20; at += cluster {
			all = append(all, at)
		}
		return all
	}
	large, _ := chainOf(t, 1, 128<<20, func(int) []int64 { return append(everything(0), 100<<20, 101<<20) })
	twice, content := chainOf(t, 2, 128<<20, everything)
	for _, r := range []Request{{Preallocation: PreallocateFalloc}, {Format: Raw, Preallocation: PreallocateFull}} {
		r.Domain, r.Dir = "vm1", filepath.Join(at, "out")
		r.Progress = func(string, int64, int64) { t.Error("something is copied") }
		if _, err := Run(t.Context(), large, r); err == nil || !strings.Contains(err.Error(), "has too little space") || fail.HintOf(err) == "" {
			t.Errorf("got %v, want that there is too little space", err)
		}
		if left, _ := os.ReadDir(at); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	result, err := Run(t.Context(), twice, Request{Domain: "vm1", Dir: filepath.Join(at, "out")})
	must(t, err)
	wantSame(t, result.Disks[0].Image, QCOW2, fileOf(t, content))
	if _, err := Run(t.Context(), large, Request{Domain: "vm1", Dir: filepath.Join(at, "out2")}); err == nil || !strings.Contains(err.Error(), "too little space") {
		t.Errorf("got %v, want that there is too little space", err)
	}
}

func TestMayCompress(t *testing.T) {
	for dir, want := range map[string]bool{testfs.Btrfs(t, 0): true, testfs.Ext4(t, 16<<20): false, "/none": false} {
		if got := mayCompress(dir); got != want {
			t.Errorf("%s: %v", dir, got)
		}
	}
}

// The rate is that of the copy, and of the check of what it has not read.
func TestLimitedRate(t *testing.T) {
	for links, data := range map[int]int64{1: 8 << 20, 2: 4 << 20} {
		repo, _ := chainOf(t, links, 16<<20, func(int) (all []int64) {
			for at := int64(0); at < data; at += cluster {
				all = append(all, at)
			}
			return all
		})
		start := time.Now()
		_, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: filepath.Join(t.TempDir(), "out"), Limits: limit.New(8 << 20)})
		if took := time.Since(start); err != nil || took < 900*time.Millisecond {
			t.Errorf("%d times %d MiB at 8 MiB/s took %v, %v", links, data>>20, took, err)
		}
	}
}
