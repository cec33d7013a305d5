package merge

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/diskimage"
)

// countMap sums up what qemu-img map says of the image itself (depth 0).
func countMap(t testing.TB, out []byte) (data, zero int64) {
	t.Helper()
	var all []struct {
		Start, Length int64
		Depth         int
		Present       bool
		Zero, Data    bool
	}
	must(t, json.Unmarshal(out, &all))
	for _, e := range all {
		switch {
		case e.Depth > 0 || !e.Present:
		case e.Data:
			data += e.Length
		case e.Zero:
			zero += e.Length
		}
	}
	return data, zero
}

// sizes of disks: no larger than three tables, and often no whole number of clusters.
func randomSize(r *rand.Rand, old int64) int64 {
	if old > 0 && r.IntN(3) > 0 {
		return old
	}
	size := r.Int64N(1200<<20) + 512
	switch r.IntN(4) {
	case 0:
		size = r.Int64N(40*cluster) + 512
	case 1:
		size = 512<<20 + int64(r.IntN(5)-2)*cluster
	case 2:
		size = (old + int64(r.IntN(7)-3)*512*int64(r.IntN(129))) // about the same cluster
	}
	size = max(512, size&^511)
	if r.IntN(2) == 0 {
		size = (size + cluster - 1) &^ (cluster - 1)
	}
	return size
}

// night adds an image to a chain and its model.
func (p *places) night(r *rand.Rand, d *disk, packed bool, most int) {
	d.resize(randomSize(r, d.size))
	c := randomChange(r, d, most)
	if len(p.links) == 0 {
		for i := range c {
			if c[i] == nil {
				delete(c, i)
			}
		}
	}
	d.apply(c)
	p.add(d.size, c, packed)
}

// proveMerged merges the run from link g on, and compares the result with the old chain, by
// qemu-img, and with the model.
func (p *places) proveMerged(d *disk, g int) (diskimage.Link, Stats) {
	t := p.t
	t.Helper()
	estimate, err := CloneNeed(context.Background(), Run{Links: p.links[g:], Below: p.links[:g]}, Options{})
	must(t, err)
	merged, stats, err := p.clone(g, Options{})
	must(t, err)
	sound(t, merged)
	tool(t, "qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", p.links[len(p.links)-1].Path, merged.Path)
	shows(t, append(p.links[:g:g], merged), d)
	data, zero := holds(t, merged)
	if data != stats.DataBytes || zero != stats.ZeroBytes && g > 0 {
		t.Errorf("%d bytes of data and %d of zeros, counted %d and %d", data, zero, stats.DataBytes, stats.ZeroBytes)
	}
	if stats.Written > estimate {
		t.Errorf("%d bytes were written, and %d thought enough", stats.Written, estimate)
	}
	must(t, ReadBack(context.Background(), merged, stats.Changed, Options{}))
	return merged, stats
}

func TestCloneRandomRuns(t *testing.T) {
	r := random(t)
	dir := reflinks(t, 2048)
	for round := range 40 {
		p := &places{t: t, dir: filepath.Join(dir, "run")}
		must(t, os.Mkdir(p.dir, 0o700))
		d := &disk{clusters: map[int64][]byte{}}
		below := r.IntN(3)
		for range below + 2 + r.IntN(7) {
			p.night(r, d, r.IntN(2) == 0, 30)
		}
		p.proveMerged(d, below)
		if t.Failed() {
			t.Fatalf("round %d, %d images over %d", round, len(p.links)-below, below)
		}
		must(t, os.RemoveAll(p.dir))
	}
}

// As the nights go by each new image is merged into what the ones before it have become.
func TestCloneFiftyNights(t *testing.T) {
	for name, below := range map[string]int{"standalone": 0, "above another": 1} {
		t.Run(name, func(t *testing.T) {
			r := random(t)
			p := &places{t: t, dir: reflinks(t, 2048)}
			d := &disk{clusters: map[int64][]byte{}}
			for range below + 1 {
				p.night(r, d, r.IntN(2) == 0, 30)
			}
			for night := range 50 {
				for range 1 + r.IntN(2) {
					p.night(r, d, r.IntN(2) == 0, 20)
				}
				merged, _ := p.proveMerged(d, below)
				if t.Failed() {
					t.Fatalf("night %d", night)
				}
				p.exchange(below, merged)
			}
		})
	}
}
