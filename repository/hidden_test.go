package repository

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

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// chainOfDisks makes check1 <- check2 <- … of domain vm1, each with vda and vdb.
func chainOfDisks(t testing.TB, n int) (*Repository, *Lock) {
	t.Helper()
	r := newRepository(t)
	l := mustLock(t, r, "vm1")
	for i, id := range checks(n) {
		pt := point{id: id, kind: manifest.KindFull, targets: []string{"vda", "vdb"}}
		if i > 0 {
			pt.kind, pt.parent = manifest.KindInc, checks(n)[i-1]
		}
		makePoint(t, l, pt)
	}
	return r, l
}

// checks are check1 to checkN.
func checks(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("check%d", i+1))
	}
	return ids
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func mustHide(t testing.TB, l *Lock, ids ...string) {
	t.Helper()
	for _, id := range ids {
		must(t, l.Hide(id, "policy"))
	}
}

// wantWhole checks that a point is listed, and that every image of its chains is as it was
// written.
func wantWhole(t testing.TB, r *Repository, id string) {
	t.Helper()
	m, err := r.Point("vm1", id)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Disks {
		links, err := r.Links("vm1", id, d.Target)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		for _, link := range links {
			found, err := diskimage.Check(context.Background(), link, hashlist.CheckOptions{})
			if err != nil || len(found) > 0 {
				t.Errorf("%s: %+v, %v", link.Path, found, err)
			}
		}
	}
}

// A hidden point is gone for those who ask for points, and is there for those who need it.
func TestHide(t *testing.T) {
	r, l := chainOfDisks(t, 4)
	m, err := r.Point("vm1", "check2")
	must(t, err)
	mustHide(t, l, "check2", "check4")
	wantIDs(t, r, "check1", "check3")

	points, err := r.Lineage("vm1")
	must(t, err)
	if ids(points.Hidden) != "check2 check4" || ids(points.All()) != "check1 check2 check3 check4" || !slices.Equal(points.AllIDs(), checks(4)) {
		t.Errorf("hidden %s, all %s", ids(points.Hidden), ids(points.All()))
	}
	if removal := points.Removals["check2"]; removal.Reason != "policy" || time.Since(removal.Time) > time.Minute || removal.Time.Location() != time.UTC {
		t.Errorf("removal %+v", removal)
	}
	if got := ids(points.Needs("check3")); got != "check1 check2 check3" {
		t.Errorf("check3 needs %s", got)
	}
	if got := points.Children("check1"); !slices.Equal(got, []string{"check2"}) {
		t.Errorf("children of check1: %s", got)
	}

	wantHidden := func(what string, err error) {
		t.Helper()
		var hidden *lineage.HiddenError
		if !errors.As(err, &hidden) || !errors.Is(err, manifest.ErrNoPoint) || !fail.Is(err, fail.NotFound) ||
			hidden.ID != "check2" || !strings.Contains(fail.HintOf(err), "prune vm1 --undo check2") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = r.Point("vm1", "check2")
	wantHidden("Point", err)
	_, err = r.Find("vm1", "check2")
	wantHidden("Find", err)
	_, err = r.Links("vm1", "check2", "vda")
	wantHidden("Links", err)
	wantHidden("Hide", l.Hide("check2", "again"))
	_, err = l.Protect("check2", time.Time{}, "")
	wantHidden("Protect", err)
	_, err = l.Pin("check2", "a guest")
	wantHidden("Pin", err)
	for _, at := range []string{"", manifest.Latest, time.Now().Add(time.Hour).Format(time.RFC3339)} {
		if m, err := r.Find("vm1", at); err != nil || m.ID != "check3" {
			t.Errorf("%q is %s, %v", at, m.ID, err)
		}
	}

	wantWhole(t, r, "check3")
	if links, err := r.LinksOf(m, m.Disks[0]); err != nil || len(links) != 2 {
		t.Errorf("links of a hidden point: %v, %v", links, err)
	}
	var needed *lineage.NeededError
	if err := l.RemovePoints([]string{"check2"}, nil); !errors.As(err, &needed) || !slices.Equal(needed.By, []string{"check3"}) {
		t.Errorf("removed what is needed: %v", err)
	}
	if n := next(t, l); n != 5 {
		t.Errorf("next number %d", n)
	}
}

func TestUnhide(t *testing.T) {
	r, l := chainOfDisks(t, 3)
	mustHide(t, l, "check1", "check3")
	must(t, l.Unhide("check3"))
	wantIDs(t, r, "check2", "check3")
	must(t, l.Unhide("check1"))
	wantIDs(t, r, "check1", "check2", "check3")
	for _, id := range checks(3) {
		wantWhole(t, r, id)
	}
	if err := l.Unhide("check1"); !fail.Is(err, fail.Usage) || !strings.Contains(fail.HintOf(err), "--hidden") {
		t.Errorf("listed again twice: %v", err)
	}
	for _, id := range []string{"check9", "../check1", ""} {
		if err := errors.Join(l.Unhide(id)); !errors.Is(err, manifest.ErrNoPoint) {
			t.Errorf("%q: %v", id, err)
		}
	}
	must(t, l.Unlock())
	if l.Hide("check1", "") == nil || l.Unhide("check1") == nil {
		t.Error("without the lock")
	}
	wantIDs(t, r, "check1", "check2", "check3")
}

// Hidden points that nobody needs go, the newest first.
func TestRemoveHiddenPoints(t *testing.T) {
	r, l := chainOfDisks(t, 4)
	mustHide(t, l, "check3", "check4")
	if err := l.RemovePoints([]string{"check3", "check4"}, nil); err != nil {
		t.Fatal(err)
	}
	points, err := r.Lineage("vm1")
	if err != nil || !slices.Equal(points.AllIDs(), []string{"check1", "check2"}) || len(points.Removals) != 0 {
		t.Errorf("%v, %v", points.AllIDs(), err)
	}
}

// Whatever is in the place of removed.json, and is not that of the point, hides nothing and
// is reported.
func TestBadRemovals(t *testing.T) {
	whole, l := chainOfDisks(t, 2)
	must(t, l.Hide("check1", "policy"))
	good, err := os.ReadFile(filepath.Join(whole.PointDir("vm1", "check1"), lineage.RemovedName))
	must(t, err, l.Unhide("check1"))
	m, err := whole.Point("vm1", "check1")
	must(t, err)
	with := func(change func(*lineage.Removal)) func(string) error {
		removal := lineage.Removal{Format: manifest.Format, Point: "check1", Identity: m.Identity, PointTime: m.Time, Time: time.Now()}
		change(&removal)
		data, err := digest.EncodeJSON(removal)
		return func(path string) error { return errors.Join(err, os.WriteFile(path, data, 0o600)) }
	}
	content := func(data string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(data), 0o600) }
	}
	tests := map[string]struct {
		put  func(path string) error
		want string
	}{
		"empty":               {content(""), "parse"},
		"cut short":           {content(string(good[:len(good)/2])), "parse"},
		"one bit":             {content(strings.Replace(string(good), "policy", "poliby", 1)), "digest"},
		"of another point":    {with(func(r *lineage.Removal) { r.Point = "check2" }), "check2"},
		"of another identity": {with(func(r *lineage.Removal) { r.Identity = "fedcba9876543210" }), "by hand"},
		"of no identity":      {with(func(r *lineage.Removal) { r.Identity = "" }), "by hand"},
		"of another instant":  {with(func(r *lineage.Removal) { r.PointTime = r.PointTime.Add(1) }), "by hand"},
		"of a newer format":   {with(func(r *lineage.Removal) { r.Format++ }), "newer"},
		"of no format":        {with(func(r *lineage.Removal) { r.Format = 0 }), "format 0"},
		"a FIFO":              {func(path string) error { return unix.Mkfifo(path, 0o600) }, "regular"},
		"a directory":         {func(path string) error { return os.Mkdir(path, 0o700) }, "regular"},
		"a link to a good one": {func(path string) error {
			return errors.Join(os.WriteFile(path+".other", good, 0o600), os.Symlink(path+".other", path))
		}, "symbolic link"},
		"a link to nothing": {func(path string) error { return os.Symlink(path+".other", path) }, "symbolic link"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := copyOf(t, whole)
			must(t, tt.put(filepath.Join(r.PointDir("vm1", "check1"), lineage.RemovedName)))
			wantIDs(t, r, "check1", "check2")
			points, err := r.Lineage("vm1")
			must(t, err)
			if len(points.BadRemovals) != 1 || points.BadRemovals[0].ID != "check1" || points.BadRemovals[0].File != lineage.RemovedName ||
				!strings.Contains(points.BadRemovals[0].Err.Error(), tt.want) {
				t.Errorf("reported: %+v, want %q", points.BadRemovals, tt.want)
			}
			wantWhole(t, r, "check1")
			l := mustLock(t, r, "vm1")
			must(t, l.Unhide("check1")) // takes it away
			if points, err = r.Lineage("vm1"); err != nil || len(points.BadRemovals) != 0 {
				t.Errorf("after Unhide: %+v, %v", points.BadRemovals, err)
			}
			mustHide(t, l, "check1")
			wantIDs(t, r, "check2")
		})
	}
}

// Hide replaces what is damaged, and follows no link.
func TestHideOverABadRemoval(t *testing.T) {
	r, l := chainOfDisks(t, 2)
	victim := filepath.Join(t.TempDir(), "victim")
	mustWrite(t, victim, "precious")
	for _, name := range []string{lineage.RemovedName, ".removed.json"} {
		must(t, os.Symlink(victim, filepath.Join(r.PointDir("vm1", "check1"), name)))
	}
	mustHide(t, l, "check1")
	wantIDs(t, r, "check2")
	if data, _ := os.ReadFile(victim); string(data) != "precious" {
		t.Errorf("the link's target now holds %q", data)
	}
	if _, err := os.Lstat(filepath.Join(r.PointDir("vm1", "check1"), ".removed.json")); !os.IsNotExist(err) {
		t.Errorf("the temporary file: %v", err)
	}
}

// A run that died while it hid a point has not hidden it, and is in nobody's way.
func TestDeathWhileHiding(t *testing.T) {
	r, l := chainOfDisks(t, 2)
	mustWrite(t, filepath.Join(r.PointDir("vm1", "check1"), ".removed.json"), "{")
	wantIDs(t, r, "check1", "check2")
	mustHide(t, l, "check1")
	wantIDs(t, r, "check2")
}

// The points of another domain's directory, reached by a link, are not those of this one.
func TestPointThroughALink(t *testing.T) {
	r, l := chainOfDisks(t, 1)
	mustHide(t, l, "check1")
	mustMkdir(t, filepath.Join(r.Dir(), "vm2"))
	must(t, os.Symlink(r.PointDir("vm1", "check1"), r.PointDir("vm2", "check1")))
	var damaged *damage.Error
	if _, err := r.Point("vm2", "check1"); !errors.As(err, &damaged) {
		t.Errorf("got %v", err)
	}
}

// A manifest that is missing is damage where the directory is there, hidden or not.
func TestHiddenWithoutManifest(t *testing.T) {
	r, l := chainOfDisks(t, 3)
	mustHide(t, l, "check2")
	must(t, os.Remove(filepath.Join(r.PointDir("vm1", "check2"), manifest.FileName)))
	points, err := r.Lineage("vm1")
	must(t, err)
	if len(points.Unreadable) != 1 || points.Unreadable[0].ID != "check2" || len(points.Broken()["check3"]) != 2 {
		t.Errorf("unreadable %+v, broken %v", points.Unreadable, points.Broken())
	}
	if _, err := localfile.ReadSmall(filepath.Join(r.PointDir("vm1", "check2"), lineage.RemovedName)); err != nil {
		t.Error(err)
	}
}
