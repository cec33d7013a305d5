package prune

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/retention"
	"github.com/virtbackup/virtbackup/tests/testfs"
	"github.com/virtbackup/virtbackup/verify"
)

// Removed points are hidden, and merged once the rules of the rewrite say so.
func TestPruneHides(t *testing.T) {
	w := newWorld(t)
	w.nights(5)
	r := w.prune(last(3))
	if got := w.listed() + " | " + w.hidden(); got != "check3 check4 check5 | check1 check2" {
		t.Errorf("listed and hidden: %s", got)
	}
	if len(r.Held) != 2 || !strings.Contains(r.Held[0].By, "waits to be merged into check3") {
		t.Errorf("held: %+v", r.Held)
	}
	w.check()
	before := w.tree()
	if again := w.prune(last(3)); len(again.Merged)+len(again.Deleted) > 0 || w.tree() != before {
		t.Errorf("a second prune has done something: %+v", again)
	}
}

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
		l := w.lock()
		if _, err := l.Protect(diff, time.Time{}, "audit"); err != nil {
			t.Fatal(err)
		}
		l.Unlock()
		r := w.prune(compact(last(1)))
		if got := w.listed() + " | " + w.hidden(); got != "diff3 check6 copy7 | check2" {
			t.Errorf("listed and hidden: %s", got)
		}
		if len(r.Held) != 1 || r.Held[0].By != "needed by diff3, check6" {
			t.Errorf("held: %+v", r.Held)
		}
		w.check()
		l = w.lock()
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

func TestPruneRefuses(t *testing.T) {
	tests := map[string]struct {
		request Request
		prepare func(w *world)
		kind    fail.Kind
		text    string
	}{
		"no rule":        {Request{}, nil, fail.Usage, "no rule"},
		"two ways":       {Request{Rules: retention.Rules{Last: 1}, Remove: []string{"check1"}}, nil, fail.Usage, "exclude"},
		"unknown point":  {Request{Remove: []string{"check9"}}, nil, fail.NotFound, "check9"},
		"the newest":     {Request{Remove: []string{"check3"}}, nil, fail.Usage, "never removed"},
		"one is unknown": {Request{Remove: []string{"check1", "check9"}}, nil, fail.NotFound, "check9"},
		"protected": {Request{Remove: []string{"check1"}}, func(w *world) {
			l := w.lock()
			defer l.Unlock()
			if _, err := l.Protect("check1", time.Time{}, "law"); err != nil {
				w.t.Fatal(err)
			}
		}, fail.Usage, "protected: law"},
		"pinned": {Request{Remove: []string{"check1"}}, func(w *world) {
			l := w.lock()
			defer l.Unlock()
			if _, err := l.Pin("check2", "instant vm1-test"); err != nil {
				w.t.Fatal(err)
			}
		}, fail.Usage, "pinned: instant vm1-test"},
		"a damaged manifest": {last(1), func(w *world) {
			path := filepath.Join(w.repo.PointDir("vm1", "check2"), manifest.FileName)
			if err := os.Truncate(path, 100); err != nil {
				w.t.Fatal(err)
			}
		}, fail.Damaged, "check2"},
		"a missing parent": {last(1), func(w *world) {
			if err := os.RemoveAll(w.repo.PointDir("vm1", "check1")); err != nil {
				w.t.Fatal(err)
			}
		}, fail.Damaged, "check1"},
		"damaged protections": {last(1), func(w *world) {
			if err := os.WriteFile(filepath.Join(w.repo.DomainDir("vm1"), keep.ProtectedName), []byte("{}"), 0o600); err != nil {
				w.t.Fatal(err)
			}
		}, fail.Damaged, "protected.json"},
		"removed.json of another point": {last(1), func(w *world) {
			w.prune(Request{Remove: []string{"check1"}})
			data, err := os.ReadFile(filepath.Join(w.repo.PointDir("vm1", "check1"), lineage.RemovedName))
			if err := errors.Join(err, os.WriteFile(filepath.Join(w.repo.PointDir("vm1", "check2"), lineage.RemovedName), data, 0o600)); err != nil {
				w.t.Fatal(err)
			}
		}, fail.Damaged, "put here by hand"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.nights(3)
			if tt.prepare != nil {
				tt.prepare(w)
			}
			before := w.tree()
			_, err := w.try(tt.request)
			if !fail.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v", err)
			}
			if w.tree() != before {
				t.Error("something has changed")
			}
		})
	}
}

// A run holds the lock.
func TestPruneOfALockedDomain(t *testing.T) {
	w := newWorld(t)
	w.nights(3)
	defer w.lock().Unlock()
	if _, err := w.try(last(1)); !fail.Is(err, fail.Locked) {
		t.Error(err)
	}
}

func TestPruneDryRun(t *testing.T) {
	w := newWorld(t)
	w.nights(6)
	w.point(manifest.KindDiff, "check6")
	w.write("vda", 9, 9)
	w.point(manifest.KindInc, "check6")
	w.point(manifest.KindInc, "check8")
	before := w.tree()
	request := compact(last(2))
	request.DryRun = true
	would := w.prune(request)
	if w.tree() != before {
		t.Error("a dry run has changed something")
	}
	did := w.prune(compact(last(2)))
	if fmt.Sprint(would.Points) != fmt.Sprint(did.Points) || len(would.Merged) != len(did.Merged) || fmt.Sprint(would.Merged[0].From) != fmt.Sprint(did.Merged[0].From) {
		t.Errorf("would %+v\ndid   %+v", would, did)
	}
	slices.Sort(would.Deleted)
	slices.Sort(did.Deleted)
	if fmt.Sprint(would.Deleted) != fmt.Sprint(did.Deleted) || fmt.Sprint(would.Held) != fmt.Sprint(did.Held) {
		t.Errorf("would %+v\ndid   %+v", would, did)
	}
}

// What is freed is what the file system has more of then; what two images share is not. A dry
// run says about the same.
func TestPruneFreed(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.bigNights()
		request := compact(last(1))
		request.DryRun = true
		would := w.prune(request)
		before := w.free()
		did := w.prune(compact(last(1)))
		if d := would.Freed - did.Freed; d < -freedTolerance || d > freedTolerance {
			t.Errorf("%d bytes were freed; a dry run said %d", did.Freed, would.Freed)
		}
		if w.cloned { // on the other file system others work, too
			w.wantFreed(before, did.Freed)
		}
	})
}

// A synthetic full shares its data with the points that it was made from: as they go, only what
// it has not is freed.
func TestPruneFreedBelowASyntheticFull(t *testing.T) {
	w := newWorldIn(t, testfs.XFS(t, 0))
	id := w.bigNights()
	before := w.free()
	made, err := Materialise(context.Background(), w.repo, "vm1", id, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.wantFreed(before, made.Freed)
	before = w.free()
	did := w.prune(last(1))
	if len(did.Deleted) != 3 || len(did.Merged) != 0 {
		t.Errorf("%+v", did)
	}
	w.wantFreed(before, did.Freed)
}

const freedTolerance = 1 << 20

// bigNights makes a full of 64 MiB, and incs that supersede some of it.
func (w *world) bigNights() (id string) {
	w.disks["vda"] = make([]byte, 1024*cluster)
	for c := range 1024 {
		w.write("vda", byte(c%250+1), c)
	}
	id = w.point(manifest.KindFull, "")
	for i := range 3 {
		for c := range 100 {
			w.write("vda", byte(i+1), i*50+c)
		}
		w.write("vda", 0, 900+i) // a zero cluster frees what is below it
		id = w.point(manifest.KindInc, id)
	}
	return id
}

// free is what the file system of the repository has, in bytes.
func (w *world) free() int64 {
	w.t.Helper()
	unix.Sync()
	var s unix.Statfs_t
	if err := unix.Statfs(w.repo.Dir(), &s); err != nil {
		w.t.Fatal(err)
	}
	return int64(s.Bfree) * s.Bsize
}

// wantFreed compares what was reported with what is free now.
func (w *world) wantFreed(before, reported int64) {
	w.t.Helper()
	off := func() bool { return max(w.free()-before-reported, reported-w.free()+before) > freedTolerance }
	for end := time.Now().Add(10 * time.Second); off() && time.Now().Before(end); { // XFS frees in the background
		time.Sleep(10 * time.Millisecond)
	}
	if off() {
		w.t.Errorf("%d bytes are free that were not; %d were reported", w.free()-before, reported)
	}
}

// The newest point that was verified stays, and stays verified when others are merged into it.
func TestPruneKeepsTheLastVerified(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.nights(3)
		if _, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1"}); err != nil {
			t.Fatal(err)
		}
		w.write("vda", 77, 3)
		w.point(manifest.KindInc, "check3")
		for range 2 {
			w.prune(compact(last(1)))
			if got := w.listed() + " | " + w.hidden(); got != "check3 check4 | " {
				t.Fatalf("listed and hidden: %s", got)
			}
		}
		if v := w.repo.Verified("vm1")["check3"]; !v.Sound {
			t.Errorf("check3 was verified, and is not any more: %+v", v)
		}
		w.check()
	})
}

// Damage in what a merge reads stops it, and changes nothing but what is listed.
func TestPruneOfDamagedImages(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.nights(4)
		w.damage("check1", 3*cluster)
		r, err := w.try(compact(last(2)))
		if w.cloned { // the range was not read: it is found as before
			report, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1"})
			if err != nil || fmt.Sprint(report.Domains[0].Lost) != "[check3 check4]" {
				t.Errorf("%v: %+v", err, report)
			}
			return
		}
		if !fail.Is(err, fail.Damaged) || len(r.Merged) > 0 || len(r.Held) != 2 {
			t.Errorf("%v; %+v", err, r)
		}
		if got := w.listed() + " | " + w.hidden(); got != "check3 check4 | check1 check2" {
			t.Errorf("listed and hidden: %s", got)
		}
	})
}

func TestUndo(t *testing.T) {
	w := newWorld(t)
	w.nights(4)
	w.prune(last(2))
	if err := Undo(context.Background(), w.repo, "vm1", "check2"); err != nil {
		t.Fatal(err)
	}
	if got := w.listed() + " | " + w.hidden(); got != "check2 check3 check4 | check1" {
		t.Errorf("listed and hidden: %s", got)
	}
	w.check()
	for id, kind := range map[string]fail.Kind{"check4": fail.Usage, "check9": fail.NotFound} {
		if err := Undo(context.Background(), w.repo, "vm1", id); !fail.Is(err, kind) {
			t.Errorf("undo %s: %v", id, err)
		}
	}
}

func TestMaterialise(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.nights(4)
		r, err := Materialise(context.Background(), w.repo, "vm1", "check3", Options{})
		if err != nil || len(r.Merged) != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		w.cloned = r.Merged[0].Cloned
		m, _ := w.lineage().Point("check3")
		if m.Kind != manifest.KindFull || m.Parent != "" || !m.Synthetic || len(m.Merged) > 0 {
			t.Errorf("%+v", m)
		}
		w.check()
		if got := w.listed(); got != "check1 check2 check3 check4" {
			t.Error(got)
		}
		before := w.tree()
		if _, err := Materialise(context.Background(), w.repo, "vm1", "check3", Options{}); err != nil || w.tree() != before {
			t.Errorf("again: %v", err)
		}
	})
}

// A point of which every disk is a full already, as all of them were replaced, needs no other:
// only its manifest changes.
func TestMaterialiseOfReplacedDisks(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		first := w.nights(0)[0]
		w.disks = map[string][]byte{"vdb": make([]byte, 16*cluster)}
		w.write("vdb", 7, 1, 2)
		id := w.point(manifest.KindInc, first)
		r, err := Materialise(context.Background(), w.repo, "vm1", id, Options{})
		if err != nil || len(r.Merged) != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		w.cloned = r.Merged[0].Cloned
		if m, _ := w.lineage().Point(id); m.Kind != manifest.KindFull || m.Parent != "" || !m.ReadInFull().Equal(m.Time) {
			t.Errorf("%+v", m)
		}
		w.check()
	})
}

// Those who read are waited for a bounded time, then named; the next prune goes on.
func TestPruneBesideReaders(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.nights(4)
		err := w.repo.Read(context.Background(), "vm1", func() error {
			r := w.prune(compact(last(2)))
			if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], fmt.Sprintf("process %d", os.Getpid())) || len(r.Merged)+len(r.Deleted) > 0 {
				t.Errorf("%+v", r)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := w.listed() + " | " + w.hidden(); got != "check3 check4 | check1 check2" {
			t.Errorf("listed and hidden: %s", got)
		}
		w.check()
		w.prune(compact(last(2)))
		if w.hidden() != "" {
			t.Errorf("hidden: %s", w.hidden())
		}
		w.check()
	})
}

// A pin keeps a point and all that it needs as they are.
func TestPruneOfPinnedPoints(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.nights(4)
		l := w.lock()
		pin, err := l.Pin("check3", "a guest")
		if err != nil {
			t.Fatal(err)
		}
		l.Unlock()
		before := w.tree()
		r := w.prune(compact(last(1)))
		if w.tree() != before || !slices.ContainsFunc(r.Points, func(p Point) bool { return p.ID == "check1" && p.Keep && strings.Contains(p.Reasons[0], "a guest") }) {
			t.Errorf("%+v", r.Points)
		}
		if err := w.repo.Unpin("vm1", pin.ID); err != nil {
			t.Fatal(err)
		}
		w.prune(compact(last(1)))
		if got := w.listed() + " | " + w.hidden(); got != "check4 | " {
			t.Errorf("listed and hidden: %s", got)
		}
		w.check()
	})
}

func TestPruneTimeLimit(t *testing.T) {
	w := newWorld(t)
	w.nights(4)
	request := compact(last(2))
	request.MaxDuration = time.Nanosecond
	if r := w.prune(request); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "--max-duration") || len(r.Merged) > 0 {
		t.Errorf("%+v", r)
	}
	if got := w.listed() + " | " + w.hidden(); got != "check3 check4 | check1 check2" {
		t.Errorf("listed and hidden: %s", got)
	}
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

// What does not fit is hidden, said with the numbers, and merged when there is room.
func TestPruneWithoutSpace(t *testing.T) {
	w := newWorldIn(t, testfs.Ext4(t, 24<<20))
	w.disks["vda"] = make([]byte, 128*cluster)
	w.write("vda", 1, sequence(96)...)
	id := w.point(manifest.KindFull, "")
	for i := range 4 {
		w.write("vda", byte(10+i), sequence(12)...)
		id = w.point(manifest.KindInc, id)
	}
	ballast := filepath.Join(w.repo.Dir(), "ballast")
	fill(t, ballast, 2<<20)
	r := w.prune(last(1)) // the full and all: 6 MiB; the incs alone: 768 KiB
	if len(r.Merged) != 1 || fmt.Sprint(r.Merged[0].From) != "[check2 check3 check4]" {
		t.Errorf("merged: %+v", r.Merged)
	}
	r = w.prune(compact(last(1)))
	if len(r.Merged) != 0 || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "that needs 7.") || !strings.Contains(r.Held[0].By, "is free") {
		t.Errorf("without space: %+v", r)
	}
	w.check()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if r = w.prune(compact(last(1))); len(r.Merged) != 1 || len(r.Held) > 0 {
		t.Errorf("with space: %+v", r)
	}
	w.check()
}

// A full file system has no room for the note that a point is hidden: what nobody needs goes
// first.
func TestPruneOfAFullRepository(t *testing.T) {
	w := newWorldIn(t, testfs.Ext4(t, 12<<20))
	w.nights(3)
	w.write("vda", 1, 0, 1, 2, 3, 4, 5, 6, 7)
	w.point(manifest.KindFull, "")
	fill(t, filepath.Join(w.repo.Dir(), "ballast"), 0)
	r := w.prune(last(1))
	if got := w.listed() + " | " + w.hidden(); got != "check4 | " || fmt.Sprint(r.Hidden) != "[check1 check2 check3]" {
		t.Errorf("listed and hidden: %s; %+v", got, r)
	}
}

func sequence(n int) (numbers []int) {
	for i := range n {
		numbers = append(numbers, i)
	}
	return numbers
}

// fill writes a file until so much is free.
func fill(t *testing.T, path string, free int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		left, _, err := diskspace.Free(filepath.Dir(path), true)
		if err != nil {
			t.Fatal(err)
		}
		if left <= free {
			break
		}
		if _, err := f.Write(make([]byte, min(1<<20, left-free))); err != nil {
			break // full
		}
	}
	if err := f.Sync(); err != nil && free > 0 {
		t.Fatal(err)
	}
}

// A removal of several that was interrupted goes on when it is repeated.
func TestRemoveAgain(t *testing.T) {
	w := newWorld(t)
	w.nights(4)
	w.prune(Request{Remove: []string{"check1"}})
	if r := w.prune(Request{Remove: []string{"check1", "check2"}}); fmt.Sprint(r.Hidden) != "[check2]" || len(r.Notes) != 1 {
		t.Errorf("%+v", r)
	}
	if _, err := w.try(Request{Remove: []string{"check1", "check2"}}); !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("%v", err)
	}
}

// After damage a disk is copied in full, and the chain goes on: what is chained onto the
// damaged point by another disk is not damaged, as the newer verification says.
func TestDamageIsThatOfADisk(t *testing.T) {
	w := newWorld(t)
	w.disks["vdb"] = make([]byte, 8*cluster)
	w.write("vda", 1, 0, 1, 2, 3)
	w.write("vdb", 2, 0, 3)
	w.point(manifest.KindFull, "")
	w.write("vda", 3, 1)
	w.write("vdb", 3, 1)
	w.point(manifest.KindInc, "check1")
	w.damage("check2", 3*cluster)
	w.verify()
	old := w.truth["check2"]["vda"]
	w.truth["check2"]["vda"] = nil // so that it is a full in check3
	w.write("vdb", 4, 2)
	w.point(manifest.KindInc, "check2")
	w.truth["check2"]["vda"] = old
	w.write("vda", 5, 2)
	w.point(manifest.KindInc, "check3")
	for _, verified := range []bool{false, true} { // nobody has verified them: they count as good
		if verified {
			w.verify()
		}
		request := last(2)
		request.DryRun = true
		got := map[string]string{}
		for _, p := range w.prune(request).Points {
			got[p.ID] = strings.Join(p.Reasons, ", ")
		}
		lastVerified, check4 := "last verified", "newest, newest base, last"
		if verified {
			lastVerified, check4 = "no rule keeps it", "newest, newest base, last verified, last"
		}
		want := map[string]string{"check1": lastVerified, "check2": "damaged, and no rule would keep it", "check3": "last", "check4": check4}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("verified %v:\ngot  %v\nwant %v", verified, got, want)
		}
	}
}

// If every listed point is damaged, hidden ones that are not keep their data.
func TestPruneKeepsTheLastResort(t *testing.T) {
	w := newWorld(t)
	w.nights(3)
	w.verify()
	w.prune(Request{Remove: []string{"check1"}})
	w.write("vda", 9, 1)
	w.point(manifest.KindInc, "check3")
	if err := errors.Join(w.note("check2", false), w.note("check3", false), w.note("check4", false)); err != nil {
		t.Fatal(err)
	}
	r := w.prune(compact(last(1)))
	if len(r.Merged)+len(r.Deleted) > 0 || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "--undo check1") {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(w.hidden(), "check1") {
		t.Errorf("hidden: %s", w.hidden())
	}
}

// A rate and a time limit together: the deadline ends the wait for the rate.
func TestPruneTimeLimitWithARate(t *testing.T) {
	w := newWorld(t)
	w.nights(4)
	request := compact(last(2))
	request.MaxDuration, request.Limits = 300*time.Millisecond, limit.New(1<<18)
	if r := w.prune(request); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "--max-duration") || len(r.Merged) > 0 ||
		!strings.Contains(r.Held[0].By, "--max-duration is over") {
		t.Errorf("%+v", r)
	}
	w.check()
}

// A full file system has no room for a synthetic full either.
func TestMaterialiseWithoutSpace(t *testing.T) {
	w := newWorldIn(t, testfs.Ext4(t, 12<<20))
	w.nights(3)
	fill(t, filepath.Join(w.repo.Dir(), "ballast"), 0)
	before := w.tree()
	_, err := Materialise(context.Background(), w.repo, "vm1", "check3", Options{})
	if !localfile.IsFull(err) && (err == nil || !strings.Contains(err.Error(), "that needs")) {
		t.Errorf("%v", err)
	}
	if w.tree() != before {
		t.Error("something has changed")
	}
}

// A hidden point whose only child is never built anew is a target itself.
func TestPruneBelowADiff(t *testing.T) {
	w := newWorld(t)
	w.nights(2)
	w.write("vda", 50, 9)
	diff := w.point(manifest.KindDiff, "check2")
	w.write("vda", 1, 0, 1, 2)
	w.point(manifest.KindFull, "")
	l := w.lock()
	if _, err := l.Protect(diff, time.Time{}, ""); err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	r := w.prune(compact(last(1)))
	if got := w.listed() + " | " + w.hidden(); got != "diff3 check4 | check2" {
		t.Errorf("listed and hidden: %s", got)
	}
	if len(r.Held) != 1 || r.Held[0].By != "diff3 needs it, a diff, which is never merged" {
		t.Errorf("held: %+v", r.Held)
	}
	w.check()
}

// While it is unknown what a pin holds, nothing is deleted.
func TestPruneUnderAnUnreadablePin(t *testing.T) {
	w := newWorld(t)
	w.nights(2)
	diff := w.point(manifest.KindDiff, "check2")
	l := w.lock()
	pins := filepath.Join(w.repo.DomainDir("vm1"), keep.PinsName)
	if err := errors.Join(l.Hide(diff, "policy"), os.Mkdir(pins, 0o700), os.WriteFile(filepath.Join(pins, "0123456789abcdef.json"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	before := w.tree()
	if r := w.prune(compact(last(1))); len(r.Deleted) > 0 || w.tree() != before {
		t.Errorf("%+v", r)
	}
}
