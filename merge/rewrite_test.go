package merge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/hashlist"
)

// randomWorld has 2 to 8 images, whose sizes go up and down, some of them empty, some
// compressed.
func randomWorld(t *testing.T, seed uint64) *world {
	w := newWorld(t, seed, []int{4096, 65536, 65536, 16384}[seed%4])
	size := func() int64 { return 512 * (1 + w.rnd.Int64N(12<<20/512)) }
	last := size()
	for range 2 + w.rnd.IntN(7) {
		switch w.rnd.IntN(6) {
		case 0:
			last = size()
		case 1:
			last += 512 * w.rnd.Int64N(300)
		case 2:
			last = max(512, last-512*w.rnd.Int64N(300))
		}
		w.add(last, w.rnd.IntN(2) == 0, func(p *painter) {
			if w.rnd.IntN(6) > 0 {
				p.scatter()
			}
		})
	}
	return w
}

// The result shows the same as the run, alone and below the images that were chained onto
// it, and takes no more than was said. The judge is qemu-img.
func TestRewriteRandom(t *testing.T) {
	first := rand.Uint64()
	if os.Getenv("MERGE_SEED") != "" {
		_, err := fmt.Sscan(os.Getenv("MERGE_SEED"), &first)
		must(t, err)
	}
	for i := range uint64(24) {
		seed := first + i
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testRewrite(t, randomWorld(t, seed)) })
	}
}

func testRewrite(t *testing.T, w *world) {
	top := len(w.links) - 1
	w.shows(w.links[top].Path, w.shown[top]) // the model is right
	to := w.rnd.IntN(len(w.links))
	run := w.run(w.rnd.IntN(to+1), to)
	census, err := Survey(context.Background(), run, Options{})
	must(t, err)
	stats, err := Rewrite(context.Background(), run, w.create("merged"), Options{})
	must(t, err)
	merged := w.merged(run, "merged", stats)
	w.judge(merged)
	checkCensus(t, w, run, census, stats)

	target := run.target()
	must(t, os.Rename(filepath.Dir(target.Path), filepath.Dir(target.Path)+".old"))
	must(t, os.Rename(filepath.Dir(merged.Path), filepath.Dir(target.Path)))
	for i := to; i <= top; i++ {
		w.shows(w.links[i].Path, w.shown[i])
	}
	if t.Failed() {
		t.Fatalf("images %d to %d of %d, clusters of %d bytes", to-len(run.Links)+1, to, len(w.links), w.cluster)
	}
}

// checkCensus compares what was foretold with the result.
func checkCensus(t *testing.T, w *world, run Run, c Census, stats Stats) {
	t.Helper()
	took := stats.ImageBytes + hashlist.FileSize(stats.ImageBytes)
	spare := int64(1 << 20)
	for _, l := range run.Links {
		if headerOf(t, l).Compression != 0 {
			spare = 3<<20 + c.Kept/8 // small frames waste much of their last sector
		}
	}
	if c.Need < took || c.Need > took+spare {
		t.Errorf("it takes %d bytes, %d were foretold", took, c.Need)
	}
	if c.Kept > c.Total || c.Kept > c.Need {
		t.Errorf("%+v", c)
	}
}
