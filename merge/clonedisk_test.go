package merge

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

// reflinks mounts a new file system that shares data between files: XFS, or
// btrfs if VIRTBACKUP_REFLINK_FS says so. It needs root.
func reflinks(t testing.TB, mib int64) string {
	t.Helper()
	if os.Getenv("VIRTBACKUP_REFLINK_FS") == "btrfs" {
		return testfs.Btrfs(t, mib<<20)
	}
	return testfs.XFS(t, mib<<20)
}

func tool(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// random is a source of random numbers whose seed is printed.
func random(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("VIRTBACKUP_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		must(t, err)
		seed = n
	}
	t.Logf("VIRTBACKUP_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// disk is the model of a disk: the clusters that are not zeros, by number.
type disk struct {
	size     int64
	clusters map[int64][]byte
}

// resize cuts the disk, or lets it grow by zeros.
func (d *disk) resize(size int64) {
	d.size = size
	for i, p := range d.clusters {
		switch end := size - i*cluster; {
		case end <= 0:
			delete(d.clusters, i)
		case end < cluster:
			p = slices.Clone(p)
			clear(p[end:])
			d.clusters[i] = p
		}
	}
}

func (d *disk) count() int64 { return (d.size + cluster - 1) / cluster }

// change is what an image above another one says of clusters: nil for zeros.
type change map[int64][]byte

func (d *disk) apply(c change) {
	for i, p := range c {
		if p == nil {
			delete(d.clusters, i)
		} else {
			d.clusters[i] = p
		}
	}
}

// content is a cluster of data that compresses to half, cut at the end of a disk.
func content(r *rand.Rand, i, size int64) []byte {
	p := make([]byte, cluster)
	for k := 0; k < cluster/2; k += 8 {
		binary.LittleEndian.PutUint64(p[k:], r.Uint64())
	}
	for k := cluster / 2; k < cluster; k++ {
		p[k] = byte(i)
	}
	if end := size - i*cluster; end > 0 && end < cluster {
		clear(p[end:])
	}
	return p
}

// randomChange writes and discards at some places of a disk, in runs, and sometimes a whole
// table.
func randomChange(r *rand.Rand, d *disk, most int) change {
	c := change{}
	n := d.count()
	for range r.IntN(most) + 1 {
		at := r.Int64N(n)
		if r.IntN(3) > 0 { // places that are changed often
			at = min(n-1, int64(r.IntN(3))*8192+int64(r.IntN(40)))
		}
		zero := r.IntN(4) == 0
		for i := at; i < min(n, at+int64(r.IntN(6))+1); i++ {
			if c[i] = nil; !zero {
				c[i] = content(r, i, d.size)
			}
		}
	}
	if r.IntN(4) == 0 {
		table := r.Int64N((n + 8191) / 8192)
		for i := table * 8192; i < min(n, table*8192+8192); i++ {
			c[i] = nil
		}
	}
	if n > 1 && r.IntN(3) == 0 {
		c[n-1] = content(r, n-1, d.size)
	}
	return c
}

// frames compresses clusters.
type frames struct{ *zstd.Encoder }

func (f frames) Append(dst, p []byte) ([]byte, error) { return f.EncodeAll(p, dst), nil }

func newFrames() qcow2.Compressor {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		panic(err)
	}
	return frames{e}
}

// places is a directory of points that are chained onto each other.
type places struct {
	t     testing.TB
	dir   string
	links []diskimage.Link // base first
	next  int
}

func (p *places) path(id string) string { return filepath.Join(p.dir, id, "vda") }

// add writes the image of a new point with a change, of a disk of that size.
func (p *places) add(size int64, c change, packed bool) {
	p.t.Helper()
	p.next++
	id := fmt.Sprintf("check%d", p.next)
	must(p.t, os.Mkdir(filepath.Join(p.dir, id), 0o700))
	im, err := diskimage.Create(p.path(id), directio.Auto)
	must(p.t, err)
	o := qcow2.Options{VirtualSize: size}
	if n := len(p.links); n > 0 {
		o.BackingFile, o.BackingFormat = "../"+p.links[n-1].Point.ID+"/vda.qcow2", "qcow2"
	}
	if packed {
		o.NewCompressor = newFrames
	}
	w, err := qcow2.NewWriter(im, o)
	must(p.t, err)
	buf := directio.Buffer(cluster)
	zero, end := int64(-1), int64(0) // runs of zeros are given at once
	flush := func() {
		if zero >= 0 {
			must(p.t, w.Zero(zero*cluster, min(end*cluster, size)-zero*cluster))
		}
		zero = -1
	}
	for _, i := range slices.Sorted(maps.Keys(c)) {
		if c[i] == nil && zero >= 0 && i == end {
			end = i + 1
			continue
		}
		flush()
		if c[i] == nil {
			zero, end = i, i+1
			continue
		}
		copy(buf, c[i])
		must(p.t, w.Write([]int64{i * cluster}, buf))
	}
	flush()
	stats, err := w.Finish(im.Sync)
	must(p.t, err)
	hashes, length, err := im.Finish()
	must(p.t, err)
	d := manifest.Disk{Target: "vda", Image: "vda.qcow2", Parent: o.BackingFile, VirtualSize: size, ImageBytes: length,
		DataBytes: stats.DataBytes, ZeroBytes: stats.ZeroBytes, Hashes: hashes, HashRange: hashlist.RangeLength}
	if o.BackingFile == "" {
		d.ZeroBytes = 0 // nothing is stored of them
	}
	p.links = append(p.links, p.link(id, d))
}

func (p *places) link(id string, d manifest.Disk) diskimage.Link {
	return diskimage.Link{Point: manifest.Manifest{Domain: "vm1", ID: id}, Disk: d, Path: p.path(id) + ".qcow2"}
}

// clone merges the images from link g on, and returns the new one, which lies beside them.
func (p *places) clone(g int, o Options) (diskimage.Link, Stats, error) {
	run := Run{Links: p.links[g:], Below: p.links[:g]}
	must(p.t, os.MkdirAll(filepath.Join(p.dir, "merged"), 0o700))
	s, err := Clone(context.Background(), run, p.path("merged"), o)
	d := run.target().Disk
	d.Parent = run.parent()
	d.ImageBytes, d.DataBytes, d.ZeroBytes, d.Hashes, d.HashRange = s.ImageBytes, s.DataBytes, s.ZeroBytes, s.Hashes, hashlist.RangeLength
	return p.link("merged", d), s, err
}

// exchange puts the merged image in the place of the run from link g on.
func (p *places) exchange(g int, merged diskimage.Link) {
	p.t.Helper()
	for _, l := range p.links[g:] {
		must(p.t, os.RemoveAll(filepath.Dir(l.Path)))
	}
	id := p.links[len(p.links)-1].Point.ID
	must(p.t, os.Rename(filepath.Join(p.dir, "merged"), filepath.Join(p.dir, id)))
	p.links = append(p.links[:g], p.link(id, merged.Disk))
}

// sound checks an image: by qemu-img, every byte by its hash list, and what its manifest says.
func sound(t testing.TB, l diskimage.Link) {
	t.Helper()
	tool(t, "qemu-img", "check", "-q", l.Path)
	must(t, diskimage.CheckHeader(l))
	places, err := diskimage.Check(context.Background(), l, hashlist.CheckOptions{})
	must(t, err)
	if len(places) > 0 {
		t.Fatalf("%s: %v", l.Path, places)
	}
	if info, err := os.Stat(l.Path); err != nil || info.Size() != l.Disk.ImageBytes {
		t.Fatalf("%s has %v bytes, want %d", l.Path, info.Size(), l.Disk.ImageBytes)
	}
}

// shows compares what the top of a chain shows with the model, every cluster of it.
func shows(t testing.TB, links []diskimage.Link, d *disk) {
	t.Helper()
	c, _, closeChain, err := diskimage.OpenChain(context.Background(), links, hashlist.ReadOptions{})
	must(t, err)
	defer closeChain()
	if c.Size() != d.size {
		t.Fatalf("the disk has %d bytes, want %d", c.Size(), d.size)
	}
	r := c.NewReader()
	zeros, got := make([]byte, cluster), directio.Buffer(cluster)
	for i := range d.count() {
		must(t, r.Read(got, []int64{i * cluster}))
		want := d.clusters[i]
		if want == nil {
			want = zeros
		}
		if n := min(cluster, d.size-i*cluster); !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("cluster %d of %d is not what was written", i, d.count())
		}
	}
}

// holds counts what an image itself says has data and zeros.
func holds(t testing.TB, l diskimage.Link) (data, zero int64) {
	t.Helper()
	out, err := exec.Command("qemu-img", "map", "--output=json", "-f", "qcow2", l.Path).Output()
	must(t, err)
	return countMap(t, out)
}
