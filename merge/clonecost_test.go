package merge

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"
)

// filled is a disk that is full of data.
func filled(r *rand.Rand, size int64) *disk {
	d := &disk{size: size, clusters: map[int64][]byte{}}
	few := make([][]byte, 16)
	for i := range few {
		few[i] = content(r, int64(i), size)
	}
	for i := range d.count() {
		d.clusters[i] = few[i%16]
	}
	return d
}

func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var s unix.Stat_t
	must(t, unix.Stat(path, &s))
	return s.Blocks * 512
}

// What a clone writes is set by the increment, not by the full that it is merged into.
func TestCloneCost(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 2 GiB")
	}
	dir := reflinks(t, 4096)
	for _, packed := range []bool{false, true} {
		var written []int64
		large := int64(1 << 30)
		if packed || os.Getenv("NIGHTS") == "" {
			large = 256 << 20 // compressing takes long
		}
		for _, size := range []int64{64 << 20, large} {
			r := rand.New(rand.NewPCG(1, 2))
			p := &places{t: t, dir: filepath.Join(dir, "cost")}
			must(t, os.Mkdir(p.dir, 0o700))
			d := filled(r, size)
			p.add(size, d.clusters, packed)
			c := change{}
			for range 200 { // in the first 64 MiB
				i := int64(r.IntN(1000))
				c[i] = content(r, i, size)
			}
			d.apply(c)
			p.add(size, c, packed)
			estimate, err := CloneNeed(context.Background(), Run{Links: p.links}, Options{})
			must(t, err)
			merged, s := p.proveMerged(d, 0)
			t.Logf("%d MiB, packed %v: %d KiB written for %d KiB of increment, %d expected", size>>20, packed, s.Written>>10, p.links[1].Disk.ImageBytes>>10, estimate>>10)
			if most := s.Written*5/4 + 2<<20; estimate > most {
				t.Errorf("%d bytes were thought necessary, want at most %d", estimate, most)
			}
			if most := p.links[1].Disk.ImageBytes * 13 / 10; packed && s.Written > most {
				t.Errorf("%d bytes were written, want at most %d", s.Written, most)
			}
			if most := int64(1 << 20); !packed && s.Written > most {
				t.Errorf("%d bytes were written of data that is shared, want at most %d", s.Written, most)
			}
			written = append(written, s.Written)
			p.exchange(0, merged)
			must(t, os.RemoveAll(p.dir))
		}
		if diff := written[1] - written[0]; diff > 128<<10 {
			t.Errorf("over a full of %d MiB %d bytes more were written than over one of 64 MiB", large>>20, diff)
		}
	}
}

// 400 nights over the same tenth of a disk leave an image that takes hardly more than its data.
func TestCloneFourHundredNights(t *testing.T) {
	nights := often(400)
	for name, packed := range map[string]bool{"raw": false, "packed": true} {
		t.Run(name, func(t *testing.T) {
			r := random(t)
			p := &places{t: t, dir: reflinks(t, 2048)}
			const size = 128 << 20
			d := filled(r, size)
			p.add(size, d.clusters, packed)
			first := allocated(t, p.links[0].Path)
			for night := range nights {
				c := change{}
				for range 20 {
					i := r.Int64N(size / cluster / 10)
					if c[i] = nil; r.IntN(8) > 0 {
						c[i] = content(r, i, size)
					}
				}
				d.apply(c)
				p.add(size, c, packed)
				if night%50 == 49 {
					merged, _ := p.proveMerged(d, 0)
					p.exchange(0, merged)
					continue
				}
				merged, _, err := p.clone(0, Options{})
				must(t, err)
				p.exchange(0, merged)
			}
			now := allocated(t, p.links[0].Path)
			t.Logf("%d KiB at first, %d KiB after %d nights; %d KiB long", first>>10, now>>10, nights, p.links[0].Disk.ImageBytes>>10)
			if now > first*5/4 {
				t.Errorf("the image takes %d bytes, want at most 1.25 of the %d that it took at first", now, first)
			}
			if p.links[0].Disk.ImageBytes > 2*first {
				t.Errorf("the image is %d bytes long: free clusters were not used again", p.links[0].Disk.ImageBytes)
			}
		})
	}
}

// Progress ends with the bytes of all clusters that were put into the clone.
func TestCloneProgress(t *testing.T) {
	for _, packed := range []bool{false, true} {
		p, _ := twoImages(t, reflinks(t, 512), packed)
		var copied int64
		_, _, err := p.clone(0, Options{Progress: func(bytes int64) { copied = bytes }})
		must(t, err)
		if want := int64(2 * cluster); copied != want {
			t.Errorf("packed %v: %d bytes were reported, want %d", packed, copied, want)
		}
	}
}

// A clone of many images of a large disk takes no more memory than one of a few.
func TestCloneMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 100 MiB")
	}
	const size, perTable = 1 << 40, 8192
	r := random(t)
	p := &places{t: t, dir: reflinks(t, 2048)}
	for n := range int64(40) {
		c := change{}
		for i := n * 50; i < 2048; i += 1 + 60*min(n, 1) {
			c[i*perTable+n] = content(r, i, size)
			c[i*perTable+n+1] = nil
		}
		p.add(size, c, n%2 == 1)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	before := heap()
	var peak, calls int64
	_, _, err := p.clone(0, Options{Progress: func(int64) {
		if calls++; calls%64 == 0 {
			peak = max(peak, heap())
		}
	}})
	must(t, err)
	if took := peak - before; took > 60<<20 || peak == 0 {
		t.Errorf("it took %d MiB", took>>20)
	} else {
		t.Logf("it took %d MiB", took>>20)
	}
}
