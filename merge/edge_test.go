package merge

import (
	"context"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/qcow2"
)

// grown is an image of 6 clusters below two, of which the first ends inside of cluster 3.
// In cluster 3 they have what edge does.
func grown(t *testing.T, below, edge func(p *painter)) *world {
	w := newWorld(t, 1, 65536)
	w.add(6*65536, false, below)
	w.add(3*65536+1024, true, edge)
	w.add(5*65536, false, func(*painter) {})
	return w
}

func TestRewriteEdge(t *testing.T) {
	all := func(p *painter) { p.data(0, 6, true) }
	none := func(p *painter) {}
	for _, tt := range []struct {
		name        string
		below, edge func(p *painter)
		clusters    int64 // of data in the result
	}{
		{"only below", all, none, 1},
		{"nothing below", none, none, 0},
		{"other clusters below", func(p *painter) { p.data(0, 3, true); p.data(4, 2, true) }, none, 0},
		{"zeros over it", all, func(p *painter) { p.zero(3, 1) }, 0},
		{"data over it", all, func(p *painter) { p.data(3, 1, false) }, 1},
		{"data before it", all, func(p *painter) { p.data(2, 1, false) }, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := grown(t, tt.below, tt.edge)
			run := w.run(1, 2)
			census, err := Survey(context.Background(), run, Options{})
			must(t, err)
			stats, err := Rewrite(context.Background(), run, w.create("merged"), Options{})
			must(t, err)
			if stats.DataBytes != tt.clusters*65536 {
				t.Errorf("%d bytes of data, want %d clusters", stats.DataBytes, tt.clusters)
			}
			checkCensus(t, w, run, census, stats)
			merged := w.merged(run, "merged", stats)
			w.judge(merged)
			w.shows(merged.Path, w.shown[2])
		})
	}
}

// A cluster that is cut by the end of an image is not copied as a frame: what is hidden
// would show.
func TestRewriteCutsFrames(t *testing.T) {
	w := newWorld(t, 1, 65536)
	w.add(4*65536, true, func(p *painter) { p.data(0, 4, false) })
	w.add(2*65536+4096, false, func(*painter) {})
	w.add(4*65536, false, func(*painter) {})
	run := w.run(0, 2)
	stats, err := Rewrite(context.Background(), run, w.create("merged"), Options{})
	must(t, err)
	merged := w.merged(run, "merged", stats)
	w.judge(merged)
	w.shows(merged.Path, w.shown[2])
	if stats.DataBytes != 3*65536 {
		t.Errorf("%+v", stats)
	}
}

// The header says what the image may hold, and nothing more.
func TestRewriteHeader(t *testing.T) {
	for name, compressed := range map[string][2]bool{"raw": {}, "lower": {true, false}, "upper": {false, true}} {
		w := newWorld(t, 1, 65536)
		w.add(1<<20, !compressed[0] && !compressed[1], func(p *painter) { p.data(0, 4, false) })
		w.add(1<<20, compressed[0], func(p *painter) { p.data(3, 4, false) })
		w.add(1<<20, compressed[1], func(p *painter) { p.zero(0, 1) })
		run := w.run(1, 2)
		stats, err := Rewrite(context.Background(), run, w.create("merged"), Options{})
		must(t, err)
		want := 0
		if compressed[0] || compressed[1] {
			want = qcow2.CompressionZstd
		}
		if h := headerOf(t, w.merged(run, "merged", stats)); h.Compression != want || h.BackingFile != "../check1/vda.qcow2" || h.BackingFormat != "qcow2" {
			t.Errorf("%s: %+v", name, h)
		}
		if stats.DataBytes != 4*65536 || stats.ZeroBytes != 65536 {
			t.Errorf("%s: %+v", name, stats)
		}
	}
}

func TestWrongRuns(t *testing.T) {
	w := newWorld(t, 1, 65536)
	for range 3 {
		w.add(1<<20, false, func(p *painter) { p.data(0, 1, true) })
	}
	below, above := w.run(0, 2), w.run(1, 2)
	below.Below, above.Below = w.links[:1], nil
	larger := w.run(1, 2)
	larger.Links = append(larger.Links[:1:1], larger.Links[1])
	larger.Links[1].Disk.VirtualSize++
	for _, tt := range []struct {
		run  Run
		want string
	}{
		{Run{}, "a run without images"},
		{below, `has the backing file "", 1 images are below`},
		{above, `has the backing file "../check1/vda.qcow2", 0 images are below`},
		{larger, "has 1048576 bytes, its manifest says 1048577"},
	} {
		if _, err := Survey(context.Background(), tt.run, Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Survey: %v, want %q", err, tt.want)
		}
		if _, err := Rewrite(context.Background(), tt.run, nil, Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Rewrite: %v, want %q", err, tt.want)
		}
	}
}
