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

// often is how often a random test repeats: a fifth of n, but in make nights.
func often(n int) int {
	if os.Getenv("NIGHTS") == "" {
		return n / 5
	}
	return n
}

func TestCloneRandomRuns(t *testing.T) {
	r := random(t)
	dir := reflinks(t, 2048)
	for round := range often(60) {
		p := &places{t: t, dir: filepath.Join(dir, "run")}
		must(t, os.Mkdir(p.dir, 0o700))
		d := &disk{clusters: map[int64][]byte{}}
		below := r.IntN(3)
		for range below + 2 + r.IntN(7) {
			p.night(r, d, r.IntN(2) == 0, 30)
			if round%3 == 0 { // the end of the disk moves about in a few clusters
				d.resize(int64(r.IntN(4*cluster))&^511 + 512)
				c := randomChange(r, d, 3)
				d.apply(c)
				p.add(d.size, c, r.IntN(2) == 0)
			}
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
			for night := range often(50) {
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

// layer is an image of a chain: its size in clusters, which may be a part of one, and the
// clusters that it has, d for data and z for zeros, the first one first.
type layer struct {
	clusters float64
	text     string
}

// Ends of disks hide what is below them, whatever comes above.
func TestCloneEnds(t *testing.T) {
	const far = 2 * 8192 // the first cluster of the third table
	dir := reflinks(t, 1024)
	for name, test := range map[string]struct {
		below  int
		layers []layer
	}{
		"lowest hides a part of itself":            {0, []layer{{6, "dddddd"}, {4.5, ""}, {6, ""}}},
		"an upper one hides a part of another":     {0, []layer{{1, "d"}, {6, "dddddd"}, {4.5, ""}, {6, ""}}},
		"and of a packed cluster":                  {0, []layer{{1, "d"}, {6, "dddddd"}, {4.5, ""}, {6, "d"}}},
		"the target has it":                        {0, []layer{{6, "dddddd"}, {4.5, ""}, {6, "....d"}}},
		"the target ends there":                    {0, []layer{{6, "dddddd"}, {5, ""}, {4.5, "...."}}},
		"the lowest hides a part of what is below": {1, []layer{{6, "dddddd"}, {4.5, "d"}, {6, ""}}},
		"an upper one does":                        {1, []layer{{6, "dddddd"}, {6, "d"}, {4.5, ""}, {6, ".d"}}},
		"an upper one, over a zero cluster":        {1, []layer{{6, "dddddd"}, {6, "dzzzz"}, {4.5, ""}, {6, ".d"}}},
		"it hides all that is below":               {1, []layer{{far + 3.5, "dd"}, {1.5, "d"}, {far + 4, ".d"}}},
		"and the next one has some of it":          {1, []layer{{far + 3.5, "dd"}, {1.5, "d"}, {far + 4, "d"}, {far + 4, "."}}},
		"a disk of one sector":                     {0, []layer{{6, "dddddd"}, {1.0 / 128, ""}, {far, ""}}},
	} {
		for _, packed := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r := random(t)
				p := &places{t: t, dir: filepath.Join(dir, "ends")}
				must(t, os.Mkdir(p.dir, 0o700))
				d := &disk{clusters: map[int64][]byte{}}
				for _, l := range test.layers {
					d.resize(int64(l.clusters * cluster))
					c := change{}
					for i, what := range l.text {
						switch what {
						case 'd':
							c[int64(i)] = content(r, int64(i), d.size)
						case 'z':
							c[int64(i)] = nil
						}
					}
					if l.clusters > far+2 && len(p.links) == 0 {
						c[far+1] = content(r, far+1, d.size)
					}
					d.apply(c)
					p.add(d.size, c, packed)
				}
				p.proveMerged(d, test.below)
				must(t, os.RemoveAll(p.dir))
			})
		}
	}
}

// What was discarded takes no space any more.
func TestClonePunches(t *testing.T) {
	for name, packed := range map[string]bool{"raw": false, "packed": true} {
		t.Run(name, func(t *testing.T) {
			p := &places{t: t, dir: reflinks(t, 512)}
			d := filled(random(t), 64<<20)
			p.add(d.size, d.clusters, packed)
			c := change{}
			for i := range d.count() - 5 {
				c[i] = nil
			}
			d.apply(c)
			p.add(d.size, c, packed)
			merged, _ := p.proveMerged(d, 0)
			if got := allocated(t, merged.Path); got > 1<<20 {
				t.Errorf("an image with 5 clusters takes %d bytes", got)
			}
		})
	}
}
