package repository

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
)

// compressedDisk is the size in bytes of the disk of compressedImage.
const compressedDisk = 16 << 20

// pureCompressor makes frames without libzstd, which package zstd has.
type pureCompressor struct{ *zstd.Encoder }

func (c pureCompressor) Append(dst, cluster []byte) ([]byte, error) {
	return c.EncodeAll(cluster, dst), nil
}

func newCompressor() qcow2.Compressor {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithAllLitEntropyCompression(true))
	if err != nil {
		panic(err)
	}
	return pureCompressor{e}
}

// compressedImage makes a point whose image has compressed clusters only, and a
// raw file with what the disk held. The last cluster of the disk comes first in
// the image, the first one last.
func compressedImage(t *testing.T) (r *Repository, m manifest.Manifest, raw string, order []int64) {
	t.Helper()
	r = newRepository(t)
	l := mustLock(t, r, "vm1")
	p, m := makePartial(t, l, point{id: "check1", kind: manifest.KindFull})
	im, err := p.CreateImage("vda", directio.Auto)
	if err != nil {
		t.Fatal(err)
	}
	w, err := qcow2.NewWriter(im, qcow2.Options{VirtualSize: compressedDisk, NewCompressor: newCompressor})
	if err != nil {
		t.Fatal(err)
	}
	content := halfCompressible(compressedDisk)
	cluster := int64(w.ClusterSize())
	for at := compressedDisk - cluster; at >= 0; at -= cluster {
		if err := w.Write([]int64{at}, content[at:at+cluster]); err != nil {
			t.Fatal(err)
		}
		order = append(order, at)
	}
	if _, err := w.Finish(im.Sync); err != nil {
		t.Fatal(err)
	}
	if _, _, err := im.Finish(); err != nil {
		t.Fatal(err)
	}
	m.Disks = []manifest.Disk{{Target: "vda", Kind: manifest.KindFull, VirtualSize: compressedDisk}}
	if err := p.Seal(m); err != nil {
		t.Fatal(err)
	}
	if m, err = r.Point("vm1", "check1"); err != nil {
		t.Fatal(err)
	}
	raw = filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return r, m, raw, order
}

// halfCompressible is random data in hexadecimal digits.
func halfCompressible(n int) []byte {
	data := make([]byte, n/2)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(data)
	return fmt.Appendf(nil, "%x", data)
}

// frames are where in an image the compressed clusters begin: at the magic
// number of each zstd frame (RFC 8878, 3.1.1), which such data has by chance
// once in four thousand million bytes.
func frames(image []byte) (starts []int64) {
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	for at := 0; ; {
		i := bytes.Index(image[at:], magic)
		if i < 0 {
			return starts
		}
		at += i
		starts = append(starts, int64(at))
		at += len(magic)
	}
}

// qemu-img check does not look into compressed clusters: a byte flipped there is
// seen by the list of hashes alone, which names the range of the file and the
// clusters of the disk that lie in it.
func TestDamageInCompressedData(t *testing.T) {
	r, m, raw, order := compressedImage(t)
	image := filepath.Join(r.PointDir("vm1", "check1"), "vda.qcow2")
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	starts := frames(whole)
	if len(starts) != len(order) {
		t.Fatalf("%d compressed clusters in the image, %d were written", len(starts), len(order))
	}
	if got := checkOf(t, r, m, whole); len(got) != 0 {
		t.Fatalf("damage in a sound image: %s", describe(got))
	}
	// The first range has the header, the last has the tables: with one of them
	// more of the disk is lost than what lies there.
	last := int64(len(whole)-1) &^ (hashlist.RangeLength - 1)
	flipped := 0
	for i := 0; i+1 < len(starts); i += 29 {
		at := (starts[i] + starts[i+1]) / 2 // its middle: none is as small as the gaps between them
		if at < hashlist.RangeLength || starts[i+1] >= last {
			continue
		}
		flip(t, image, at)
		if out, err := exec.Command("qemu-img", "check", "-f", "qcow2", image).CombinedOutput(); err != nil {
			t.Errorf("qemu-img check sees byte %d: %v\n%s", at, err, out)
		}
		got := checkOf(t, r, m, whole)
		if want := at &^ (hashlist.RangeLength - 1); len(got) != 1 || got[0].Harmless || got[0].Offset != want || got[0].Length != hashlist.RangeLength {
			t.Fatalf("byte %d: %s, want the range at %d", at, describe(got), want)
		}
		wantClusters(t, got[0], starts, order)
		if spoiled := spoiledClusters(t, image, raw); len(spoiled) != 1 || spoiled[0] != order[i] {
			t.Errorf("byte %d: QEMU reads the clusters at %d wrongly, want that at %d", at, spoiled, order[i])
		}
		flip(t, image, at)
		flipped++
	}
	if flipped < 5 {
		t.Errorf("only %d bytes of %d were flipped", flipped, len(whole))
	}
	if got, err := diskimage.Check(context.Background(), r.Link(m, m.Disks[0]), hashlist.CheckOptions{}); err != nil || len(got) != 0 {
		t.Errorf("nothing is damaged any more: %s, %v", describe(got), err)
	}
}

// wantClusters holds what damage names of the disk against the clusters that
// have a part in it. One that ends just before may be named too: an entry for a
// compressed cluster counts sectors of 512 bytes.
func wantClusters(t *testing.T, d damage.Place, starts, order []int64) {
	t.Helper()
	const cluster = 64 << 10
	named := map[int64]bool{}
	for _, g := range d.Guest {
		for at := g.Offset; at < g.Offset+g.Length; at += cluster {
			named[at] = true
		}
	}
	for i, at := range order[:len(order)-1] {
		begins, ends := starts[i], starts[i+1]
		switch lies := begins < d.Offset+d.Length && ends > d.Offset; {
		case lies && !named[at]:
			t.Errorf("%s: cluster %d of the disk, at %d to %d of the file, is not named", d, at, begins, ends)
		case !lies && named[at] && (ends > d.Offset || ends < d.Offset-512):
			t.Errorf("%s: cluster %d of the disk is named, which is at %d to %d of the file", d, at, begins, ends)
		}
	}
	if d.WholeDisk || len(named) == 0 {
		t.Errorf("%s: it does not say what of the disk is lost", d)
	}
}

// spoiledClusters are those that QEMU reads otherwise than they were written.
func spoiledClusters(t *testing.T, image, raw string) (spoiled []int64) {
	t.Helper()
	const cluster = 64 << 10
	read := filepath.Join(t.TempDir(), "read")
	if out, err := exec.Command("qemu-img", "convert", "--salvage", "-f", "qcow2", "-O", "raw", image, read).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img convert: %v\n%s", err, out)
	}
	got, err := os.ReadFile(read)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(want); at += cluster {
		if !bytes.Equal(got[at:at+cluster], want[at:at+cluster]) {
			spoiled = append(spoiled, int64(at))
		}
	}
	return spoiled
}
