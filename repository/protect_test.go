package repository

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
)

func wantProtected(t *testing.T, what string, err error, id string) {
	t.Helper()
	var protected *ProtectedError
	if !errors.As(err, &protected) || protected.ID != id || !fail.Is(err, fail.Usage) || fail.HintOf(err) == "" {
		t.Errorf("%s: %v, want %s to be protected", what, err, id)
	}
}

func protectedIDs(t *testing.T, r *Repository) string {
	t.Helper()
	all, err := r.Protections("vm1")
	must(t, err)
	var ids []string
	for id := range all {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

func TestProtect(t *testing.T) {
	r, l := ofChain(t)
	if got := protectedIDs(t, r); got != "" {
		t.Errorf("protected are %s", got)
	}
	until := time.Date(2030, 5, 6, 7, 8, 9, 0, time.FixedZone("", 7200))
	p, err := l.Protect("check3", until, "the audit")
	must(t, err)
	all, err := r.Protections("vm1")
	must(t, err)
	if all["check3"] != p || p.Identity != testIdentity || !p.Until.Equal(until) || p.Until.Location() != time.UTC || time.Since(p.Since) > time.Minute {
		t.Errorf("got %+v, %+v", all, p)
	}
	if s := p.String(); !strings.HasPrefix(s, "protected until ") || !strings.HasSuffix(s, ": the audit") {
		t.Error(s)
	}
	wantProtected(t, "RemovePoints", l.RemovePoints([]string{"diff4", "check3"}, nil), "check3")
	wantIDs(t, r, "check1", "check2", "check3", "diff4") // nothing before all was checked

	_, err = l.Protect("check1", time.Time{}, "")
	must(t, err)
	if p, err = l.Protect("check3", time.Time{}, ""); err != nil || p.String() != "protected" || !p.Holds(time.Now().AddDate(1000, 0, 0)) {
		t.Errorf("again, for ever: %v, %v", p, err)
	}
	if got := protectedIDs(t, r); got != "check1 check3" {
		t.Errorf("protected are %s", got)
	}
	must(t, l.Unprotect("check3"))
	must(t, l.RemovePoints([]string{"check3"}, nil))
	if err := l.Unprotect("check3"); !fail.Is(err, fail.NotFound) {
		t.Errorf("not protected: %v", err)
	}
	if _, err := l.Protect("check3", time.Time{}, ""); !errors.Is(err, manifest.ErrNoPoint) {
		t.Errorf("a point that is gone: %v", err)
	}
	wantProtected(t, "all", l.RemovePoints([]string{"check1", "check2", "diff4"}, nil), "check1")
}

// A protection ends when the clock says so and a point is newer: a clock that went ahead
// alone ends none.
func TestExpiredProtection(t *testing.T) {
	r, l := ofChain(t)
	points, err := r.Lineage("vm1")
	must(t, err)
	newest := points.Points[len(points.Points)-1].Time
	_, err = l.Protect("check3", newest, "")
	must(t, err)
	wantProtected(t, "before", r.CheckRemovable("vm1", []string{"check3"}, newest.Add(-time.Hour)), "check3")
	wantProtected(t, "at its end", r.CheckRemovable("vm1", []string{"check3"}, newest), "check3")
	err = r.CheckRemovable("vm1", []string{"check3"}, newest.Add(time.Hour))
	wantProtected(t, "without a newer point", err, "check3")
	if !strings.Contains(err.Error(), "no point is newer") {
		t.Errorf("without a newer point: %v", err)
	}
	_, err = l.Protect("check3", newest.Add(-1), "")
	must(t, err, r.CheckRemovable("vm1", []string{"check3"}, newest.Add(time.Hour)))
	wantProtected(t, "the clock went back", r.CheckRemovable("vm1", []string{"check3"}, newest.Add(-time.Hour)), "check3")
	must(t, l.RemovePoints([]string{"check3"}, nil))
}

// Points that are gone are forgotten at the next change, those that cannot be read are not.
func TestProtectionsOfPointsThatAreGone(t *testing.T) {
	r, l := ofChain(t)
	for _, id := range []string{"check2", "check3", "diff4"} {
		_, err := l.Protect(id, time.Time{}, "")
		must(t, err)
	}
	must(t, os.RemoveAll(r.PointDir("vm1", "check3")), os.Remove(filepath.Join(r.PointDir("vm1", "check2"), manifest.FileName)))
	must(t, l.Unprotect("diff4"))
	if got := protectedIDs(t, r); got != "check2" {
		t.Errorf("protected are %s", got)
	}
	wantProtected(t, "unreadable", l.RemovePoints([]string{"check1", "check2", "diff4"}, nil), "check2")
	must(t, l.Unprotect("check2"))
	if got := protectedIDs(t, r); got != "" {
		t.Errorf("protected are %s", got)
	}
	must(t, l.RemovePoints([]string{"check1", "check2", "diff4"}, nil))
}

// Nothing is removed, protected or unprotected while it is unknown what is protected.
func TestDamagedProtections(t *testing.T) {
	r, l := ofChain(t)
	_, err := l.Protect("check3", time.Time{}, "")
	must(t, err)
	path := filepath.Join(r.Dir(), "vm1", keep.ProtectedName)
	good, err := os.ReadFile(path)
	must(t, err)
	content := func(data string) func() error {
		return func() error { return os.WriteFile(path, []byte(data), 0o600) }
	}
	for name, put := range map[string]func() error{
		"empty":       content(""),
		"cut short":   content(string(good[:len(good)-1])),
		"one bit":     content(strings.Replace(string(good), "check3", "check2", 1)),
		"a directory": func() error { return os.Mkdir(path, 0o700) },
		"a link":      func() error { return errors.Join(os.WriteFile(path+".x", good, 0o600), os.Symlink(path+".x", path)) },
	} {
		must(t, os.RemoveAll(path), put())
		_, err := r.Protections("vm1")
		_, protectErr := l.Protect("check1", time.Time{}, "")
		for what, err := range map[string]error{"Protections": err, "Protect": protectErr, "Unprotect": l.Unprotect("check3"),
			"CheckRemovable": r.CheckRemovable("vm1", []string{"diff4"}, time.Now()), "RemovePoints": l.RemovePoints([]string{"diff4"}, nil)} {
			if !fail.Is(err, fail.Damaged) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		wantIDs(t, r, "check1", "check2", "check3", "diff4")
	}
	must(t, os.RemoveAll(path), l.RemovePoints([]string{"diff4"}, nil))
}

func TestProtectWithoutTheLock(t *testing.T) {
	r, l := ofChain(t)
	_, err := l.Protect("check3", time.Time{}, "")
	must(t, err, l.Unlock())
	if _, err := l.Protect("check1", time.Time{}, ""); err == nil {
		t.Error("protected")
	}
	if l.Unprotect("check3") == nil {
		t.Error("unprotected")
	}
	if got := protectedIDs(t, r); got != "check3" {
		t.Errorf("protected are %s", got)
	}
	if _, err := r.Protections("../vm1"); err == nil {
		t.Error("a name that leads outside was read")
	}
}

// RemoveDomain takes along all that is not points.
func TestRemoveDomainWithProtectionsAndPins(t *testing.T) {
	r, l := ofChain(t)
	_, err := l.Protect("check3", time.Now().Add(-time.Hour), "")
	must(t, err)
	pin, err := l.Pin("check3", "a guest")
	must(t, err)
	dir := filepath.Join(r.Dir(), "vm1")
	for _, name := range []string{ReadersName, keep.ProtectedTemporary, filepath.Join(keep.PinsName, ".pin")} {
		mustWrite(t, filepath.Join(dir, name), "")
	}
	ids, _ := idsOf(r, "vm1")
	wantProtected(t, "pinned", l.RemovePoints(ids, nil), "check3")
	must(t, r.Unpin("vm1", pin.ID), l.RemovePoints(ids, nil), l.RemoveDomain(), l.Unlock())
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		entries, _ := os.ReadDir(dir)
		t.Errorf("the directory is still there, with %v", entries)
	}
}
