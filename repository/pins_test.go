package repository

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
)

// pinnedIDs are those of these points that are pinned.
func pinnedIDs(t *testing.T, r *Repository, ids ...string) string {
	t.Helper()
	by, err := r.Pinned("vm1")
	must(t, err)
	return strings.Join(slices.DeleteFunc(ids, func(id string) bool { return by(id) == "" }), " ")
}

// A pin holds the point and all that it needs, and no others.
func TestPin(t *testing.T) {
	r, l := chainOfDisks(t, 4)
	if got := pinnedIDs(t, r, checks(4)...); got != "" {
		t.Errorf("pinned are %s", got)
	}
	pin, err := l.Pin("check3", "guest vm1-instant")
	must(t, err)
	pins, damaged, err := r.Pins("vm1")
	must(t, err)
	if len(pins) != 1 || pins[0] != pin || len(damaged) != 0 || pin.Point != "check3" || pin.Identity != testIdentity || pin.Host == "" {
		t.Errorf("%+v, %q; made %+v", pins, damaged, pin)
	}
	if got := pinnedIDs(t, r, checks(4)...); got != "check1 check2 check3" {
		t.Errorf("pinned are %s", got)
	}
	by, err := r.Pinned("vm1")
	if err != nil || !strings.Contains(by("check2"), "pinned: guest vm1-instant (on "+pin.Host+")") {
		t.Errorf("by %q, %v", by("check2"), err)
	}
	wantIDs(t, r, checks(4)...) // pins is no point

	must(t, l.RemovePoints([]string{"check4"}, nil))
	wantProtected(t, "RemovePoints", l.RemovePoints([]string{"check3"}, nil), "check3")
	m, err := r.Point("vm1", "check2")
	must(t, err)
	_, err = l.BeginReplacement(m)
	wantProtected(t, "BeginReplacement", err, "check2")
	if left, _ := l.Leftovers(); len(left) != 0 {
		t.Errorf("left over: %q", left)
	}

	must(t, r.Unpin("vm1", pin.ID), r.Unpin("vm1", pin.ID))
	if _, err := os.Lstat(filepath.Join(r.Dir(), "vm1", keep.PinsName)); !os.IsNotExist(err) {
		t.Errorf("the directory of pins: %v", err)
	}
	must(t, l.RemovePoints([]string{"check3"}, nil))
	for _, bad := range []string{"", "../check1/manifest", "a/b"} {
		if r.Unpin("vm1", bad) == nil || r.Unpin(bad, pin.ID) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// One of several pins is taken back: the others hold.
func TestSeveralPins(t *testing.T) {
	r, l := chainOfDisks(t, 3)
	first, err := l.Pin("check1", "one")
	must(t, err)
	_, err = l.Pin("check2", "two")
	must(t, err, r.Unpin("vm1", first.ID))
	if got := pinnedIDs(t, r, checks(3)...); got != "check1 check2" {
		t.Errorf("pinned are %s", got)
	}
}

// What a pin holds is unknown: all points stay.
func TestPinsThatHoldAll(t *testing.T) {
	whole, l := chainOfDisks(t, 3)
	pin, err := l.Pin("check1", "a guest")
	must(t, err)
	name := pin.ID + ".json"
	good, err := os.ReadFile(filepath.Join(whole.Dir(), "vm1", keep.PinsName, name))
	must(t, err)
	with := func(change func(*keep.Pin)) func(string) error {
		p := pin
		change(&p)
		data, err := digest.EncodeJSON(p)
		return func(dir string) error { return errors.Join(err, os.WriteFile(filepath.Join(dir, name), data, 0o600)) }
	}
	for what, spoil := range map[string]func(dir string) error{
		"empty":     func(dir string) error { return os.Truncate(filepath.Join(dir, name), 0) },
		"cut short": func(dir string) error { return os.Truncate(filepath.Join(dir, name), int64(len(good)/2)) },
		"renamed": func(dir string) error {
			return os.Rename(filepath.Join(dir, name), filepath.Join(dir, "fedcba9876543210.json"))
		},
		"another name":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600) },
		"a FIFO":           func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "x.json"), 0o600) },
		"a link":           func(dir string) error { return os.Symlink(name, filepath.Join(dir, "x.json")) },
		"a directory":      func(dir string) error { return os.Mkdir(filepath.Join(dir, "x.json"), 0o700) },
		"no point's name":  with(func(p *keep.Pin) { p.Point = "../vm2/check1" }),
		"a point gone":     with(func(p *keep.Pin) { p.Point = "check9" }),
		"another identity": with(func(p *keep.Pin) { p.Identity = "fedcba9876543210" }),
		"no format":        with(func(p *keep.Pin) { p.Format = 0 }),
		"a newer format":   with(func(p *keep.Pin) { p.Format++ }),
	} {
		r := copyOf(t, whole)
		must(t, spoil(filepath.Join(r.Dir(), "vm1", keep.PinsName)))
		if got := pinnedIDs(t, r, checks(3)...); got != "check1 check2 check3" {
			t.Errorf("%s: pinned are %s", what, got)
		}
		wantProtected(t, what, mustLock(t, r, "vm1").RemovePoints([]string{"check3"}, nil), "check3")
	}
}

// Where a point below the pinned one cannot be read, what is below that is unknown.
func TestPinAboveDamage(t *testing.T) {
	r, l := chainOfDisks(t, 3)
	_, err := l.Pin("check3", "a guest")
	must(t, err, os.Remove(filepath.Join(r.PointDir("vm1", "check2"), manifest.FileName)))
	if got := pinnedIDs(t, r, checks(3)...); got != "check1 check2 check3" {
		t.Errorf("pinned are %s", got)
	}
}

// The directory of pins may be somebody's link: nothing is written or removed there, and no
// point is.
func TestPinsThroughALink(t *testing.T) {
	r, l := chainOfDisks(t, 1)
	outside := t.TempDir()
	mustWrite(t, filepath.Join(outside, "0123456789abcdef.json"), "precious")
	must(t, os.Symlink(outside, filepath.Join(r.Dir(), "vm1", keep.PinsName)))
	if _, err := l.Pin("check1", "a guest"); err == nil {
		t.Error("pinned")
	}
	if r.Unpin("vm1", "0123456789abcdef") == nil {
		t.Error("unpinned")
	}
	if l.RemovePoints([]string{"check1"}, nil) == nil {
		t.Error("removed")
	}
	wantIDs(t, r, "check1")
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside are %v, %v", entries, err)
	}
}

// So may the directory of the domain, which nobody has locked for Unpin.
func TestUnpinThroughALinkedDomain(t *testing.T) {
	r := newRepository(t)
	outside := t.TempDir()
	mustMkdir(t, filepath.Join(outside, keep.PinsName))
	mustWrite(t, filepath.Join(outside, keep.PinsName, "0123456789abcdef.json"), "precious")
	must(t, os.Symlink(outside, filepath.Join(r.Dir(), "vm1")))
	if r.Unpin("vm1", "0123456789abcdef") == nil {
		t.Error("unpinned")
	}
	if _, err := os.Lstat(filepath.Join(outside, keep.PinsName, "0123456789abcdef.json")); err != nil {
		t.Error(err)
	}
}
