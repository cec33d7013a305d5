package qcow2

import (
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"testing"
)

// Chains of images that have nothing in common but the disk: each with its own
// size of clusters, size of the disk and compression, on a raw file, too.
func TestRandomBackingFiles(t *testing.T) {
	r := newRand(t)
	for range 5 {
		testBackingFiles(t, r)
	}
}

func testBackingFiles(t *testing.T, r *rand.Rand) {
	t.Helper()
	dir := t.TempDir()
	raw := make([]byte, 512*(1+r.Int64N(8<<20/512)))
	var o Options
	if r.IntN(2) == 0 {
		fillMixed(r, raw)
		writeFile(t, filepath.Join(dir, "base"), raw)
		o.BackingFile, o.BackingFormat = "base", "raw"
	}
	for i := range 3 {
		size := 512 * (1 + r.Int64N(8<<20/512))
		shown := make([]byte, size) // zeros behind the end of a shorter backing file
		copy(shown, raw)
		raw = shown
		o.VirtualSize, o.ClusterSize, o.NewCompressor = size, minClusterSize<<r.IntN(10), frames(r.IntN(2) == 0)
		m := randomModel(r, raw, o.ClusterSize)
		name := strconv.Itoa(i) + ".qcow2"
		w, f := newImage(t, dir, name, o)
		m.play(t, w, 1+r.IntN(4))
		finish(t, w, f)
		writeFile(t, filepath.Join(dir, "shown"), raw)
		checkHeader(t, filepath.Join(dir, name), o)
		t.Logf("%s: %+v", name, o) // before the judge, who ends the test
		judge(t, filepath.Join(dir, name), filepath.Join(dir, "shown"))
		o.BackingFile, o.BackingFormat = name, "qcow2"
	}
}
