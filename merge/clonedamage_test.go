package merge

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"lukechampine.com/blake3"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], at)
	must(t, err)
}

// nothingLeft tells whether a failed clone has left files.
func (p *places) nothingLeft() {
	p.t.Helper()
	left, err := os.ReadDir(filepath.Join(p.dir, "merged"))
	must(p.t, err)
	if len(left) > 0 {
		p.t.Errorf("left behind: %v", left)
	}
}

// twoImages are a full with data and an increment with raw and zero clusters, and one that is
// packed.
func twoImages(t *testing.T, dir string, packed bool) (*places, *disk) {
	r := random(t)
	p := &places{t: t, dir: dir}
	d := filled(r, 20<<20+512)
	p.add(d.size, d.clusters, false)
	c := change{3: content(r, 3, d.size), 4: content(r, 4, d.size), 9: nil}
	d.apply(c)
	p.add(d.size, c, packed)
	return p, d
}

// hostOffset is where an image has a cluster; its L2 table for -1.
func hostOffset(t testing.TB, l diskimage.Link, i int64) int64 {
	t.Helper()
	f, err := os.Open(l.Path)
	must(t, err)
	defer f.Close()
	if i < 0 {
		h, err := qcow2.ReadHeader(f)
		must(t, err)
		p := make([]byte, 8)
		_, err = f.ReadAt(p, h.L1Offset)
		must(t, err)
		return qcow2.TableOffset(binary.BigEndian.Uint64(p))
	}
	c, err := chain.Open([]io.ReaderAt{f})
	must(t, err)
	w, err := c.Window(i * cluster / c.WindowSize())
	must(t, err)
	return w.HostOffset(int(i % (c.WindowSize() / cluster)))
}

// refcountBlock is where the first one of an image is.
func refcountBlock(t testing.TB, l diskimage.Link) int64 {
	t.Helper()
	f, err := os.Open(l.Path)
	must(t, err)
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	must(t, err)
	p := make([]byte, 8)
	_, err = f.ReadAt(p, h.RefcountTableOffset)
	must(t, err)
	return int64(binary.BigEndian.Uint64(p))
}

// What is read is proven: damage there stops the clone, names the place, and leaves nothing
// behind.
func TestCloneStopsAtDamage(t *testing.T) {
	for name, test := range map[string]struct {
		packed bool
		link   int
		at     func(l diskimage.Link) int64
	}{
		"header of the lowest":         {false, 0, func(diskimage.Link) int64 { return 8 }},
		"L2 table of the lowest":       {false, 0, func(l diskimage.Link) int64 { return hostOffset(t, l, -1) + 40 }},
		"refcount block of the lowest": {false, 0, func(l diskimage.Link) int64 { return refcountBlock(t, l) + 5 }},
		"header of the upper":          {false, 1, func(diskimage.Link) int64 { return 100 }},
		"L2 table of the upper":        {false, 1, func(l diskimage.Link) int64 { return hostOffset(t, l, -1) + 40 }},
		"a packed cluster":             {true, 1, func(l diskimage.Link) int64 { return hostOffset(t, l, 4) + 100 }},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := twoImages(t, reflinks(t, 512), test.packed)
			at := test.at(p.links[test.link])
			flip(t, p.links[test.link].Path, at)
			_, _, err := p.clone(0, Options{})
			var damaged *damage.Error
			if !errors.As(err, &damaged) || !damaged.Has(p.links[test.link].Point.ID) || errors.Is(err, ErrNoClone) {
				t.Errorf("got %v, want damage of %s", err, p.links[test.link].Point.ID)
			}
			p.nothingLeft()
		})
	}
}

// A cluster of which the end of an image hides a part is changed, so it is read.
func TestCloneStopsAtDamageOfAChangedCluster(t *testing.T) {
	r := random(t)
	p := &places{t: t, dir: reflinks(t, 512)}
	d := filled(r, 10*cluster)
	p.add(d.size, d.clusters, false)
	for _, size := range []int64{5*cluster + 512, 10 * cluster} {
		d.resize(size)
		p.add(size, change{}, false)
	}
	merged, _ := p.proveMerged(d, 0)
	must(t, os.RemoveAll(filepath.Dir(merged.Path)))
	flip(t, p.links[0].Path, hostOffset(t, p.links[0], 5)+60000)
	_, _, err := p.clone(0, Options{})
	var damaged *damage.Error
	if !errors.As(err, &damaged) || !damaged.Has("check1") {
		t.Errorf("got %v, want damage of check1", err)
	}
	p.nothingLeft()
}

// What is not read keeps its hash: damage there is found in the result as it was before.
func TestCloneCarriesDamageOver(t *testing.T) {
	for name, test := range map[string]struct {
		link    int
		cluster int64
		changed bool
	}{
		"of the lowest, which stays": {0, 100, false},
		"of the upper, cloned":       {1, 4, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := twoImages(t, reflinks(t, 512), false)
			flip(t, p.links[test.link].Path, hostOffset(t, p.links[test.link], test.cluster)+77)
			merged, stats, err := p.clone(0, Options{})
			must(t, err)
			found, err := diskimage.Check(context.Background(), merged, hashlist.CheckOptions{})
			must(t, err)
			at := hostOffset(t, merged, test.cluster)
			if len(found) != 1 || found[0].Offset != at || len(found[0].Guest) != 1 || found[0].Guest[0].Offset != test.cluster*cluster {
				t.Errorf("found %v, want damage of cluster %d at %d", found, test.cluster, at)
			}
			err = ReadBack(context.Background(), merged, stats.Changed, Options{})
			var damaged *damage.Error
			if errors.As(err, &damaged) != test.changed {
				t.Errorf("reading back the changes: %v", err)
			}
		})
	}
}

// Where a rewrite can do what a clone cannot, the error says so, and nothing is left behind.
func TestCloneRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, p *places)
		why   error
	}{
		"no list":        {func(t *testing.T, p *places) { must(t, os.Remove(p.links[0].HashesPath())) }, os.ErrNotExist},
		"a damaged list": {func(t *testing.T, p *places) { flip(t, p.links[0].HashesPath(), 50) }, hashlist.ErrListUnusable},
		"a list of format 1": {func(t *testing.T, p *places) {
			p.links[0].Disk.HashRange = 0
			if CanClone(p.links) == "" {
				t.Error("a list of format 1 can be cloned")
			}
		}, nil},
		"a file system without": {func(t *testing.T, p *places) {
			dir := t.TempDir() // of another kind, or another one at least
			tool(t, "mount", "-t", "tmpfs", "-o", "size=100m", "vbtest", dir)
			t.Cleanup(func() { tool(t, "umount", dir) })
			tool(t, "cp", "-r", p.dir+"/.", dir)
			moved := &places{t: t, dir: dir}
			for i, l := range p.links {
				p.links[i] = moved.link(l.Point.ID, l.Disk)
			}
			p.dir = dir
		}, localfile.ErrNotSupported},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := twoImages(t, reflinks(t, 512), false)
			if reason := CanClone(p.links); reason != "" {
				t.Fatal(reason)
			}
			test.spoil(t, p)
			_, _, err := p.clone(0, Options{})
			if !errors.Is(err, ErrNoClone) || test.why != nil && !errors.Is(err, test.why) {
				t.Errorf("got %v, want ErrNoClone, %v", err, test.why)
			}
			p.nothingLeft()
		})
	}
}

func TestCloneIsCancelled(t *testing.T) {
	p, _ := twoImages(t, reflinks(t, 512), false)
	must(t, os.Mkdir(filepath.Join(p.dir, "merged"), 0o700))
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := Clone(ctx, Run{Links: p.links}, p.path("merged"), Options{}); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
	p.nothingLeft()
}

// formatOne gives an image a list of format 1, which has a hash for each MiB.
func formatOne(t *testing.T, l *diskimage.Link) {
	t.Helper()
	image, err := os.ReadFile(l.Path)
	must(t, err)
	list := append([]byte("VBHASHES"), 1, 0, 0, 0, 1, 0, 0, 0)
	list = binary.LittleEndian.AppendUint64(list, 1<<20)
	list = binary.LittleEndian.AppendUint64(list, uint64(len(image)))
	for ; len(image) > 0; image = image[min(1<<20, len(image)):] {
		sum := blake3.Sum256(image[:min(1<<20, len(image))])
		list = append(list, sum[:]...)
	}
	must(t, os.WriteFile(l.HashesPath(), list, 0o600))
	l.Disk.HashRange, l.Disk.Hashes = 0, digest.Of(list)
}

// The hashes of an image whose list has other ranges cannot be carried over: what it has is
// read and proven.
func TestCloneReadsImagesWithOtherRanges(t *testing.T) {
	p, d := twoImages(t, reflinks(t, 512), false)
	formatOne(t, &p.links[1])
	merged, s := p.proveMerged(d, 0)
	if s.Written < 2*cluster {
		t.Errorf("%d bytes were written, want two clusters at least", s.Written)
	}
	must(t, os.RemoveAll(filepath.Dir(merged.Path)))
	flip(t, p.links[1].Path, hostOffset(t, p.links[1], 4)+77)
	_, _, err := p.clone(0, Options{})
	var damaged *damage.Error
	if !errors.As(err, &damaged) || !damaged.Has("check2") {
		t.Errorf("got %v, want damage of check2", err)
	}
	p.nothingLeft()
}

// Files that are there already stay what they are.
func TestCloneOverFiles(t *testing.T) {
	for _, suffix := range []string{manifest.ImageSuffix, manifest.HashesSuffix} {
		p, _ := twoImages(t, reflinks(t, 512), false)
		must(t, os.Mkdir(filepath.Join(p.dir, "merged"), 0o700))
		there := p.path("merged") + suffix
		must(t, os.WriteFile(there, []byte("mine"), 0o600))
		if _, _, err := p.clone(0, Options{}); !errors.Is(err, os.ErrExist) || errors.Is(err, ErrNoClone) {
			t.Errorf("got %v, want that the file exists", err)
		}
		if got, err := os.ReadFile(there); err != nil || string(got) != "mine" {
			t.Errorf("%s holds %q, %v", suffix, got, err)
		}
		must(t, os.Remove(there))
		p.nothingLeft()
	}
}
