package prune

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

func TestPruneCompact(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.nights(5)
		r := w.prune(compact(last(3)))
		if got := w.listed() + " | " + w.hidden(); got != "check3 check4 check5 | " {
			t.Errorf("listed and hidden: %s", got)
		}
		if len(r.Merged) != 1 || fmt.Sprint(r.Merged[0].From) != "[check1 check2]" || fmt.Sprint(r.Deleted) != "[check2 check1]" || r.Freed <= 0 {
			t.Errorf("%+v", r)
		}
		m, _ := w.lineage().Point("check3")
		if m.Kind != manifest.KindFull || m.Parent != "" || fmt.Sprint(m.Merged) != "[check1 check2]" || !m.FullTime.Equal(w.now.Add(-4*24*time.Hour)) {
			t.Errorf("manifest: kind %s, parent %q, merged %v, read in full %v", m.Kind, m.Parent, m.Merged, m.FullTime)
		}
		w.check()
	})
}

// The chain goes on above a point that was merged.
func TestPruneNightAfterNight(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		id := w.nights(2)[1]
		for i := range 20 {
			w.write("vda", byte(i), i%16, (i*7)%16)
			w.write("vda", 0, (i*5)%16)
			id = w.point(manifest.KindInc, id)
			r := last(3)
			r.MaxHidden = 4
			w.prune(r)
			w.compare(filepath.Join(w.repo.PointDir("vm1", id), "vda.qcow2"), w.truth[id]["vda"])
		}
		if n := len(w.lineage().Hidden); n > 5 {
			t.Errorf("%d points are hidden", n)
		}
		w.check()
	})
}

// A point where two chains part stays, hidden; what is hidden below it is merged into it.
func TestPruneBranches(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ids := w.nights(2) // check1 check2
		w.write("vda", 50, 9)
		diff := w.point(manifest.KindDiff, "check2") // diff3
		w.write("vda", 51, 10)
		w.point(manifest.KindInc, ids[1]) // check4
		w.write("vda", 52, 11)
		w.point(manifest.KindInc, "check4") // check5
		w.write("vda", 53, 12)
		w.point(manifest.KindInc, "check5") // check6
		w.point(manifest.KindCopy, "")      // copy7
		w.protect(diff, "audit")
		r := w.prune(compact(last(1)))
		if got := w.listed() + " | " + w.hidden(); got != "diff3 check6 copy7 | check2" {
			t.Errorf("listed and hidden: %s", got)
		}
		if len(r.Held) != 1 || r.Held[0].By != "needed by diff3, check6" {
			t.Errorf("held: %+v", r.Held)
		}
		w.check()
		l := w.lock()
		if err := l.Unprotect(diff); err != nil {
			t.Fatal(err)
		}
		l.Unlock()
		w.prune(compact(last(1)))
		if got := w.listed() + " | " + w.hidden(); got != "check6 copy7 | " {
			t.Errorf("after unprotect: %s", got)
		}
		w.check()
	})
}

// Disks that grew, shrank, came and went, and a full of one disk among incs.
func TestPruneDisks(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.disks["vdb"] = make([]byte, 8*cluster)
		w.write("vda", 1, 0, 5, 15)
		w.write("vdb", 2, 0, 3)
		w.point(manifest.KindFull, "") // check1
		w.disks["vda"] = w.disks["vda"][:6*cluster]
		delete(w.disks, "vdb")
		w.disks["vdc"] = make([]byte, 4*cluster)
		w.write("vdc", 3, 1)
		w.point(manifest.KindInc, "check1") // check2
		w.disks["vda"] = append(w.disks["vda"], make([]byte, 14*cluster)...)
		w.disks["vdb"] = make([]byte, 8*cluster)
		w.write("vdb", 4, 1)
		w.point(manifest.KindInc, "check2") // check3: vdb in full
		w.write("vda", 5, 19)
		w.write("vdc", 0, 1)
		w.point(manifest.KindInc, "check3") // check4
		w.write("vdb", 6, 2)
		w.point(manifest.KindInc, "check4") // check5
		w.check()
		for _, keep := range []int{4, 3, 2, 1} {
			w.prune(compact(last(keep)))
			if w.hidden() != "" {
				t.Errorf("last %d: hidden %s", keep, w.hidden())
			}
			w.check()
		}
		m, _ := w.lineage().Point("check5")
		if len(m.Disks) != 3 || m.Kind != manifest.KindFull {
			t.Errorf("%s with %d disks", m.Kind, len(m.Disks))
		}
	})
}

// In the middle of a chain the new image is chained onto a kept point, and has the zeros that
// hide its data.
func TestPruneInTheMiddle(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.write("vda", 1, 0, 1, 2, 3)
		w.write("vda", 1, 15)
		w.point(manifest.KindFull, "")
		w.write("vda", 0, 1)
		w.disks["vda"] = w.disks["vda"][:8*cluster] // cluster 15 is gone
		w.point(manifest.KindInc, "check1")
		w.disks["vda"] = append(w.disks["vda"], make([]byte, 8*cluster)...)
		w.point(manifest.KindInc, "check2")
		w.write("vda", 7, 4)
		w.point(manifest.KindInc, "check3")
		w.prune(compact(Request{Remove: []string{"check2"}}))
		if got := w.listed() + " | " + w.hidden(); got != "check1 check3 check4 | " {
			t.Errorf("listed and hidden: %s", got)
		}
		m, _ := w.lineage().Point("check3")
		if m.Kind != manifest.KindInc || m.Parent != "check1" {
			t.Errorf("%s of %s", m.Kind, m.Parent)
		}
		w.check()
	})
}

// Between points that stay, few points are hidden each, and the chain does not grow beyond
// what readers open: the longest run of incs is merged.
func TestPruneCrowd(t *testing.T) {
	w := newWorld(t)
	w.write("vda", 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
	id := w.point(manifest.KindFull, "")
	var remove []string
	for i := 2; i <= 16; i++ { // no two change the same: nothing is superseded but of the full
		w.write("vda", byte(i), i%16)
		id = w.point(manifest.KindInc, id)
		if i%4 != 0 {
			remove = append(remove, id)
		}
	}
	request := Request{Remove: remove}
	request.MaxHidden = 5
	r := w.prune(request)
	if got := w.listed(); got != "check1 check4 check8 check12 check16" {
		t.Errorf("listed: %s", got)
	}
	if n := len(strings.Fields(w.hidden())); n > 5 || len(r.Merged) != 2 {
		t.Errorf("hidden: %s, merged %+v", w.hidden(), r.Merged)
	}
	w.check()
}

// A hidden point whose only child is never built anew is a target itself.
func TestPruneBelowADiff(t *testing.T) {
	w := newWorld(t)
	w.nights(2)
	w.write("vda", 50, 9)
	diff := w.point(manifest.KindDiff, "check2")
	w.write("vda", 1, 0, 1, 2)
	w.point(manifest.KindFull, "")
	w.protect(diff, "")
	r := w.prune(compact(last(1)))
	if got := w.listed() + " | " + w.hidden(); got != "diff3 check4 | check2" {
		t.Errorf("listed and hidden: %s", got)
	}
	if len(r.Held) != 1 || r.Held[0].By != "diff3 needs it, a diff, which is never merged" {
		t.Errorf("held: %+v", r.Held)
	}
	w.check()
}

// A clone of a compressed image keeps the frames that are superseded as long as their host
// clusters hold others: where that would be too much, the images are rewritten.
func TestPruneOfSupersededFrames(t *testing.T) {
	const clusters = 128
	for name, c := range map[string]struct {
		changed int // every so many of the clusters
		cloned  bool
	}{"every other one": {2, false}, "few": {32, true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorldIn(t, testfs.XFS(t, 0))
			w.packed = true
			w.disks["vda"] = make([]byte, clusters*cluster)
			r := rand.New(rand.NewPCG(1, 2))
			scramble := func(every int) { // half of a cluster, so that its frame is as long
				for at := 0; at < clusters*cluster; at += every * cluster {
					for i := at; i < at+cluster/2; i++ {
						w.disks["vda"][i] = byte(r.Uint32())
					}
				}
			}
			scramble(1)
			full := w.point(manifest.KindFull, "")
			scramble(c.changed)
			w.point(manifest.KindInc, full)
			did := w.prune(last(1))
			if len(did.Merged) != 1 || did.Merged[0].Cloned != c.cloned {
				t.Errorf("%+v, want a clone: %v", did.Merged, c.cloned)
			}
			w.check()
		})
	}
}
