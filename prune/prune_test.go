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

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/retention"
	"github.com/virtbackup/virtbackup/tests/testfs"
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
