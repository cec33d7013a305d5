package merge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
)

// world is a chain of images of a disk, and what the guest sees at each of them.
type world struct {
	t       testing.TB
	rnd     *rand.Rand
	dir     string // with a directory for each point
	cluster int
	links   []diskimage.Link
	shown   [][]byte // by link
}

// newWorld prints the seed that it makes everything from.
func newWorld(t testing.TB, seed uint64, cluster int) *world {
	t.Helper()
	t.Logf("seed %d", seed)
	return &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), cluster: cluster}
}

// painter writes an image, and what it shows.
type painter struct {
	*world
	w     *qcow2.Writer
	shown []byte
	size  int64
}

// add writes an image above those that there are.
func (w *world) add(size int64, compressed bool, fill func(*painter)) {
	w.t.Helper()
	i := len(w.links)
	var shown []byte // of a small disk
	if size <= 1<<30 {
		shown = make([]byte, size)
	}
	o := qcow2.Options{VirtualSize: size, ClusterSize: w.cluster}
	disk := manifest.Disk{Target: "vda", Image: "vda.qcow2", Kind: manifest.KindFull, VirtualSize: size, HashRange: hashlist.RangeLength}
	if i > 0 {
		copy(shown, w.shown[i-1])
		disk.Kind, disk.Parent = manifest.KindInc, manifest.ParentPath(w.links[i-1].Point.ID, "vda.qcow2")
		o.BackingFile, o.BackingFormat = disk.Parent, "qcow2"
	}
	if compressed {
		o.NewCompressor = newFrames
	}
	point := manifest.Manifest{Domain: "vm1", ID: fmt.Sprintf("check%d", i+1)}
	link := diskimage.Link{Point: point, Disk: disk, Path: filepath.Join(w.dir, point.ID, "vda.qcow2")}
	im := w.create(point.ID)
	writer, err := qcow2.NewWriter(im, o)
	must(w.t, err)
	fill(&painter{w, writer, shown, size})
	_, err = writer.Finish(im.Sync)
	must(w.t, err)
	link.Disk.Hashes, link.Disk.ImageBytes, err = im.Finish()
	must(w.t, err)
	w.links, w.shown = append(w.links, link), append(w.shown, shown)
}

// create makes the image of a point.
func (w *world) create(id string) *diskimage.Image {
	w.t.Helper()
	must(w.t, os.Mkdir(filepath.Join(w.dir, id), 0o700))
	im, err := diskimage.Create(filepath.Join(w.dir, id, "vda"), directio.Auto)
	must(w.t, err)
	w.t.Cleanup(func() { im.Close() })
	return im
}

// data writes n clusters from number first on, text or noise.
func (p *painter) data(first, n int, noise bool) {
	p.t.Helper()
	var offsets []int64
	buf := directio.Buffer(n * p.cluster)
	for i := range n {
		offsets = append(offsets, int64((first+i)*p.cluster))
	}
	end := min(len(buf), int(p.size)-first*p.cluster)
	word := p.rnd.Uint64()
	for i := 0; i < end; i++ {
		if i%8 == 0 && (noise || i%256 == 0) {
			word = p.rnd.Uint64() | 1<<40
		}
		buf[i] = byte(word >> (i % 8 * 8))
	}
	must(p.t, p.w.Write(offsets, buf))
	if p.shown != nil {
		copy(p.shown[first*p.cluster:], buf[:end])
	}
}

// zero makes n clusters from number first on read as zeros.
func (p *painter) zero(first, n int) {
	p.t.Helper()
	from, to := int64(first*p.cluster), min(int64((first+n)*p.cluster), int64(len(p.shown)))
	must(p.t, p.w.Zero(from, to-from))
	clear(p.shown[from:to])
}

// scatter writes runs of data and of zeros all over the disk.
func (p *painter) scatter() {
	total := (len(p.shown) + p.cluster - 1) / p.cluster
	longest := 1 + p.rnd.IntN(60)
	for at := 0; at < total; {
		n := min(1+p.rnd.IntN(longest), total-at)
		switch p.rnd.IntN(8) {
		case 0:
			p.zero(at, n)
		case 1:
			p.data(at, n, true)
		case 2, 3:
			p.data(at, n, false)
		case 4:
			if n = min(1200, total-at); p.rnd.IntN(8) == 0 {
				p.zero(at, n)
			}
		}
		at += n
	}
}

// run is the images from number from to number to.
func (w *world) run(from, to int) Run {
	return Run{Links: w.links[from : to+1], Below: w.links[:from]}
}

// merged is the link of a result that was written into a point of its own.
func (w *world) merged(run Run, id string, stats Stats) diskimage.Link {
	l := run.target()
	l.Point.ID, l.Path = id, filepath.Join(w.dir, id, "vda.qcow2")
	l.Disk.Parent, l.Disk.Hashes, l.Disk.ImageBytes, l.Disk.HashRange = run.parent(), stats.Hashes, stats.ImageBytes, hashlist.RangeLength
	return l
}

// judge checks an image with its hash list, and alone by qemu-img.
func (w *world) judge(l diskimage.Link) {
	w.t.Helper()
	must(w.t, diskimage.CheckHeader(l))
	damaged, err := diskimage.Check(context.Background(), l, hashlist.CheckOptions{})
	if err != nil || damaged != nil {
		w.t.Errorf("%v, %v", damaged, err)
	}
	qemuImg(w.t, "check", "-q", "-f", "qcow2", l.Path)
}

// shows compares what qemu-img reads through the chain of an image.
func (w *world) shows(image string, want []byte) {
	w.t.Helper()
	raw := filepath.Join(w.t.TempDir(), "raw")
	must(w.t, os.WriteFile(raw, want, 0o600))
	qemuImg(w.t, "compare", "-f", "qcow2", "-F", "raw", image, raw)
}

func qemuImg(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func headerOf(t testing.TB, l diskimage.Link) qcow2.Header {
	t.Helper()
	f, err := os.Open(l.Path)
	must(t, err)
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	must(t, err)
	return h
}
