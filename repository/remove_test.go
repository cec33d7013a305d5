package repository

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// ofChain makes check1 <- check2 <- check3 and check1 <- diff4 of domain vm1.
func ofChain(t *testing.T) (*Repository, *Lock) {
	t.Helper()
	r := newRepository(t)
	l, err := r.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Unlock() })
	for _, pt := range []point{{id: "check1", kind: manifest.KindFull}, {id: "check2", kind: manifest.KindInc, parent: "check1"},
		{id: "check3", kind: manifest.KindInc, parent: "check2"}, {id: "diff4", kind: manifest.KindDiff, parent: "check1"}} {
		makePoint(t, l, pt)
	}
	return r, l
}

func wantIDs(t *testing.T, r *Repository, want ...string) {
	t.Helper()
	ids, err := idsOf(r, "vm1")
	if err != nil || !slices.Equal(ids, want) {
		t.Errorf("points: %q, %v, want %q", ids, err, want)
	}
}

func TestRemovePointsRefusesToOrphan(t *testing.T) {
	r, l := ofChain(t)
	for _, tt := range []struct{ remove, by string }{
		{"check1", "check2 diff4"}, {"check2", "check3"}, {"check1 check2 diff4", "check3"},
	} {
		err := l.RemovePoints(strings.Fields(tt.remove), nil)
		var needed *lineage.NeededError
		if !errors.As(err, &needed) || strings.Join(needed.By, " ") != tt.by || needed.Hint() == "" {
			t.Errorf("remove %s: %v, want it to be needed by %s", tt.remove, err, tt.by)
		}
	}
	wantIDs(t, r, "check1", "check2", "check3", "diff4")
}

func TestRemovePoints(t *testing.T) {
	r, l := ofChain(t)
	var told []string
	if err := l.RemovePoints([]string{"check2", "check3"}, func(id string) { told = append(told, id) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(told, []string{"check3", "check2"}) {
		t.Errorf("told of %q", told)
	}
	wantIDs(t, r, "check1", "diff4")
	if err := l.RemovePoints([]string{"check2"}, nil); !errors.Is(err, manifest.ErrNoPoint) {
		t.Errorf("removed again: %v", err)
	}
	if err := l.RemovePoints([]string{"../vm2"}, nil); err == nil {
		t.Error("a name that leads elsewhere was taken")
	}
	if left, err := l.Leftovers(); err != nil || len(left) != 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

// A removal that died after the rename is a leftover, and stands in no other's
// way.
func TestRemovePointsAfterADeath(t *testing.T) {
	r, l := ofChain(t)
	dir := filepath.Join(r.Dir(), "vm1")
	if err := os.Mkdir(filepath.Join(dir, ".partial-check3"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.RemovePoints([]string{"check3"}, nil); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, r, "check1", "check2", "diff4")
}

// Nobody knows what a point needs whose manifest cannot be read.
func TestRemovePointsBesideDamage(t *testing.T) {
	r, l := ofChain(t)
	if err := os.WriteFile(filepath.Join(r.PointDir("vm1", "check3"), manifest.FileName), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, r, "check1", "check2", "check3", "diff4")
	var needed *lineage.NeededError
	if err := l.RemovePoints([]string{"check2"}, nil); !errors.As(err, &needed) || !slices.Equal(needed.Unreadable, []string{"check3"}) {
		t.Errorf("got %v", err)
	}
	if err := l.RemovePoints([]string{"diff4"}, nil); err != nil {
		t.Errorf("a newer point: %v", err)
	}
	if err := l.RemovePoints([]string{"check1", "check2", "check3"}, nil); err != nil {
		t.Errorf("all: %v", err)
	}
	wantIDs(t, r)
}

func TestRemoveDomain(t *testing.T) {
	for _, stranger := range []string{"", "notes.txt"} {
		r, l := ofChain(t)
		dir := filepath.Join(r.Dir(), "vm1")
		for _, name := range []string{VerifiedName, ".mark-lost", ".partial-check9", stranger} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); name != "" && err != nil {
				t.Fatal(err)
			}
		}
		ids, _ := idsOf(r, "vm1")
		if err := errors.Join(l.RemovePoints(ids, nil), l.RemoveDomain(), l.Unlock()); err != nil {
			t.Fatal(err)
		}
		_, err := os.Stat(dir)
		if gone := os.IsNotExist(err); gone != (stranger == "") {
			t.Errorf("stranger %q: the directory is gone: %v", stranger, gone)
		}
	}
}

func TestMarks(t *testing.T) {
	_, l := ofChain(t)
	if _, ok, err := l.Mark("frozen"); ok || err != nil {
		t.Errorf("a mark that nobody has set: %v, %v", ok, err)
	}
	for text, set := range map[string]func(string, []byte) error{"since then": l.SetMark, "later": l.SetDurableMark} {
		if err := set("frozen", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if data, ok, err := l.Mark("frozen"); string(data) != text || !ok || err != nil {
			t.Errorf("got %q, %v, %v", data, ok, err)
		}
	}
	for range 2 {
		if err := l.ClearMark("frozen"); err != nil {
			t.Error(err)
		}
	}
	if l.SetMark("../frozen", nil) == nil || l.SetDurableMark("../frozen", nil) == nil {
		t.Error("a name that leads elsewhere was taken")
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := l.SetMark("frozen", nil); err == nil {
		t.Error("a mark was set without the lock")
	}
}

// A pipe that somebody has put in the place of a mark is an error, not a wait for ever.
func TestMarkOfAPipe(t *testing.T) {
	r, l := ofChain(t)
	if err := unix.Mkfifo(filepath.Join(r.Dir(), "vm1", ".mark-frozen"), 0o600); err != nil {
		t.Fatal(err)
	}
	set := make(chan error, 1)
	go func() { set <- l.SetMark("frozen", nil) }()
	select {
	case err := <-set:
		if err == nil {
			t.Error("a mark was set in a pipe")
		}
	case <-time.After(5 * time.Second):
		t.Error("SetMark waits for a reader of the pipe")
	}
}

func TestNamesOf(t *testing.T) {
	r, l := ofChain(t)
	other, err := r.Lock("vm2")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Unlock()
	if err := os.Mkdir(filepath.Join(r.Dir(), "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	uuid, err := r.Owner(l.Domain())
	if err != nil {
		t.Fatal(err)
	}
	if names, err := r.NamesOf(strings.ToUpper(uuid)); err != nil || !slices.Equal(names, []string{"vm1"}) {
		t.Errorf("got %q, %v", names, err)
	}
	makePoint(t, other, point{id: "check1", kind: manifest.KindFull})
	if names, err := r.NamesOf(uuid); err != nil || !slices.Equal(names, []string{"vm1", "vm2"}) {
		t.Errorf("got %q, %v", names, err)
	}
	if names, err := r.NamesOf("11111111-2222-3333-4444-555555555555"); err != nil || len(names) != 0 {
		t.Errorf("got %q, %v", names, err)
	}
}
