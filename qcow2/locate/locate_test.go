package locate

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/qcow2"
)

// mapped is an extent as qemu-img map prints it. Compressed ones have no offset.
type mapped struct {
	Start, Length, Offset int64
	Data, Zero, Present   bool
	Depth                 int
}

func qemu(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// For every cluster of an image, Disk names the ranges of the disk that
// qemu-img map finds there; and every table stands for what is found through it.
func TestLocateAgreesWithQemuImg(t *testing.T) {
	for _, options := range []string{"cluster_size=65536", "cluster_size=4096", "cluster_size=2097152", "cluster_size=65536,extended_l2=on"} {
		t.Run(options, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image.qcow2")
			const size = 40<<20 + 512
			qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, fmt.Sprint(size))
			qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 1 33M 5M", "-c", "write -q -P 2 0 3M", "-c", "write -q -z 1M 500k",
				"-c", "write -q -P 3 20M 64k", "-c", fmt.Sprintf("write -q -P 4 %d 512", size-512), image)
			checkLocate(t, image, size)
		})
	}
}

func checkLocate(t *testing.T, image string, size int64) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var extents []mapped
	if err := json.Unmarshal(qemu(t, "qemu-img", "map", "--output=json", "-f", "qcow2", image), &extents); err != nil {
		t.Fatal(err)
	}
	cs := int64(h.ClusterSize)
	tables := map[int64]bool{}
	for at := cs; at < info.Size(); at += cs {
		disk, ok, err := Disk(f, h, []qcow2.Range{{Offset: at, Length: cs}})
		if err != nil || !ok {
			t.Fatalf("cluster at %d: %v, %v", at, ok, err)
		}
		want := int64(-1) // the start of the cluster on the disk
		for _, e := range extents {
			if e.Data && e.Offset < at+cs && e.Offset+e.Length > at {
				want = e.Start - e.Offset%cs + at - (e.Offset - e.Offset%cs)
			}
		}
		switch got := disk[0]; {
		case want >= 0 && (len(got) != 1 || got[0] != qcow2.Range{Offset: want, Length: min(cs, size-want)}):
			t.Errorf("cluster at %d: got %v, want %d", at, got, want)
		case want < 0:
			for _, g := range got {
				for c := g.Offset; c < g.End(); c += cs {
					tables[c] = true
				}
			}
		}
	}
	for _, e := range extents {
		if e.Data && !tables[e.Start/cs*cs] {
			t.Errorf("no table leads to offset %d of the disk", e.Start)
		}
	}
	if _, ok, err := Disk(f, h, []qcow2.Range{{Offset: 0, Length: 1}, {Offset: cs, Length: 1}}); ok || err != nil {
		t.Errorf("damage of the header: %v, %v", ok, err)
	}
	if _, _, err := Disk(strings.NewReader("short"), h, []qcow2.Range{{Offset: cs * 1000, Length: 1}}); err == nil {
		t.Error("a file without tables: no error")
	}
}

// Compressed clusters share clusters of the file, and cross their ends.
func TestLocateCompressed(t *testing.T) {
	dir := t.TempDir()
	raw, image := filepath.Join(dir, "raw"), filepath.Join(dir, "image.qcow2")
	const size = 8 << 20
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i*i>>9) & 7
	}
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	qemu(t, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, image)
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	// A flipped byte of compressed data spoils no other part of the disk than
	// what Disk names; the judge is qemu-img compare.
	for at := int64(h.ClusterSize); at < info.Size(); at += info.Size()/40 + 1 {
		disk, ok, err := Disk(f, h, []qcow2.Range{{Offset: at, Length: 1}})
		if err != nil || !ok {
			t.Fatalf("at %d: %v, %v", at, ok, err)
		}
		wantSpoiled(t, image, raw, at, disk[0])
	}
}

func wantSpoiled(t *testing.T, image, raw string, at int64, disk []qcow2.Range) {
	t.Helper()
	spoiled := filepath.Join(filepath.Dir(image), "spoiled.qcow2")
	data := readFile(t, image)
	data[at] ^= 0xff
	if err := os.WriteFile(spoiled, data, 0o600); err != nil {
		t.Fatal(err)
	}
	truth := readFile(t, raw)
	got := filepath.Join(filepath.Dir(image), "got")
	_ = os.Remove(got)
	_ = exec.Command("qemu-img", "convert", "--salvage", "-f", "qcow2", "-O", "raw", spoiled, got).Run()
	restored := readFile(t, got)
	if len(restored) != len(truth) {
		t.Fatalf("at %d: %d bytes", at, len(restored))
	}
	for i := range truth {
		if restored[i] == truth[i] {
			continue
		}
		inside := false
		for _, r := range disk {
			inside = inside || int64(i) >= r.Offset && int64(i) < r.End()
		}
		if !inside {
			t.Fatalf("flipping byte %d spoils byte %d of the disk, Disk names %v", at, i, disk)
		}
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
