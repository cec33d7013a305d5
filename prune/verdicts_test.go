package prune

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/verify"
)

// A merge of points that were never verified does not call the result verified, and one of points
// that were still does.
func TestMergedIsVerifiedOnlyIfItsPartsWere(t *testing.T) {
	for _, verified := range []bool{false, true} {
		w := newWorld(t)
		ids := w.nights(4)
		if verified {
			if _, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1"}); err != nil {
				t.Fatal(err)
			}
		}
		w.prune(compact(last(1)))
		if got := w.repo.Verified("vm1")[ids[3]].Sound; got != verified {
			t.Errorf("verified %v: after the merge %v", verified, got)
		}
	}
}

// A point whose parent was replaced by one that nobody has verified is not verified.
func TestVerifiedNeedsItsParent(t *testing.T) {
	w := newWorld(t)
	ids := w.nights(2)
	if _, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1"}); err != nil {
		t.Fatal(err)
	}
	if err := w.repo.SetVerified("vm1", map[string]repository.Verification{ids[0]: {Manifest: "another"}}); err != nil {
		t.Fatal(err)
	}
	s, err := newRun(w.repo, "vm1", Options{}).gather()
	if err != nil || s.sound[ids[1]] {
		t.Errorf("sound %v, %v", s.sound, err)
	}
}

// What was merged into a point that is merged itself is noted.
func TestMergedOfMerged(t *testing.T) {
	w := newWorld(t)
	ids := w.nights(3)
	w.prune(compact(last(1)))
	w.write("vda", 200, 0)
	next := w.point(manifest.KindInc, ids[2])
	w.prune(compact(last(1)))
	m, _ := w.lineage().Point(next)
	if !slices.Equal(m.Merged, ids) {
		t.Errorf("merged %v, want %v", m.Merged, ids)
	}
}

// The removed.json of one point, copied to another, hides nothing, and prune does nothing.
func TestRemovedOfAnother(t *testing.T) {
	w := newWorld(t)
	ids := w.nights(4)
	w.prune(last(3))
	data, err := os.ReadFile(filepath.Join(w.repo.PointDir("vm1", ids[0]), lineage.RemovedName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.repo.PointDir("vm1", ids[2]), lineage.RemovedName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	before := w.tree()
	if _, err := w.try(last(1)); err == nil || w.tree() != before {
		t.Errorf("%v", err)
	}
}

// Damage that another run finds while points are merged holds for the result.
func TestDamageFoundDuringAMerge(t *testing.T) {
	for _, verified := range []bool{false, true} {
		onBoth(t, func(t *testing.T, w *world) {
			ids := w.nights(4)
			if verified {
				w.verify()
			}
			request, found := compact(last(1)), false
			request.Progress = func(string, int64, int64) {
				if !found {
					found = true
					if err := w.note(ids[3], false); err != nil {
						t.Error(err)
					}
				}
			}
			if r := w.prune(request); len(r.Merged) != 1 || !found {
				t.Fatalf("merged %v, found %v", r.Merged, found)
			}
			if v := w.repo.Verified("vm1")[ids[3]]; v.Manifest == "" || v.Sound || len(v.Lost) != 1 {
				t.Errorf("verified %v: noted %+v", verified, v)
			}
		})
	}
}
