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

	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
)

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
