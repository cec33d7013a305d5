package prune

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

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

// A hidden point is not listed again if an image is missing, its own or one that it needs.
func TestUndoOfAPointThatIsNotWhole(t *testing.T) {
	for _, id := range []string{"check1", "check2"} {
		w := newWorld(t)
		w.nights(4)
		w.prune(last(2))
		if err := os.Remove(filepath.Join(w.repo.Dir(), "vm1", id, "vda.qcow2")); err != nil {
			t.Fatal(err)
		}
		var damaged *damage.Error
		if err := Undo(context.Background(), w.repo, "vm1", "check2"); !errors.As(err, &damaged) {
			t.Errorf("without the image of %s: %v", id, err)
		}
		if got := w.hidden(); got != "check1 check2" {
			t.Errorf("hidden: %s", got)
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
