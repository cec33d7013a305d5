package lineage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/manifest"
)

const testUUID = "6a3f1c1e-6e3c-4a55-8d43-1d7f8a0f9c11"

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// write writes the manifest of a point with the disks vda and vdb into the directory of a
// domain.
func write(t *testing.T, dir, id, parent string) manifest.Manifest {
	t.Helper()
	n := manifest.NextNumber(id)
	instant := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
	identity := func(n int) string { return fmt.Sprintf("%016x", n) }
	m := manifest.Manifest{Format: manifest.Format, Repository: testUUID, ID: id, Identity: identity(n), Kind: manifest.KindFull, Parent: parent,
		Domain: filepath.Base(dir), DomainUUID: testUUID, Time: instant(n), Consistency: manifest.ConsistencyCrash, Files: map[string]string{}}
	hashes := "blake3:" + strings.Repeat("0", 64)
	for _, target := range []string{"vda", "vdb"} {
		d := manifest.Disk{Target: target, Image: target + ".qcow2", Kind: manifest.KindFull, VirtualSize: 1 << 20, Hashes: hashes}
		if parent != "" {
			d.Kind, d.Parent = manifest.KindInc, manifest.ParentPath(parent, d.Image)
		}
		m.Disks = append(m.Disks, d)
	}
	if parent != "" {
		p := manifest.NextNumber(parent)
		m.Kind, m.ParentTime, m.ParentIdentity = manifest.KindInc, instant(p), identity(p)
	}
	data, err := manifest.Encode(m)
	must(t, err, m.Validate(), os.MkdirAll(filepath.Join(dir, id), 0o700), os.WriteFile(filepath.Join(dir, id, manifest.FileName), data, 0o600))
	return m
}

// chain makes check1 <- check2 <- check3 and check1 <- check4, and check10, a full.
func chain(t *testing.T) (dir string) {
	dir = filepath.Join(t.TempDir(), "vm1")
	for _, p := range [][2]string{{"check10", ""}, {"check1", ""}, {"check2", "check1"}, {"check3", "check2"}, {"check4", "check1"}} {
		write(t, dir, p[0], p[1])
	}
	return dir
}

func mustRead(t *testing.T, dir string) *Lineage {
	t.Helper()
	l, err := Read(dir)
	must(t, err)
	return l
}

func ids(points []manifest.Manifest) string {
	var s []string
	for _, m := range points {
		s = append(s, m.ID)
	}
	return strings.Join(s, " ")
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// A hidden point is followed, and not listed.
func TestRead(t *testing.T) {
	dir := chain(t)
	must(t, os.Mkdir(filepath.Join(dir, "pins"), 0o700), os.Mkdir(filepath.Join(dir, ".partial-check11"), 0o700),
		os.WriteFile(filepath.Join(dir, "instants.json"), nil, 0o600))
	m, _ := mustRead(t, dir).Point("check2")
	must(t, WriteRemoval(filepath.Join(dir, "check2"), m, "policy"))
	l := mustRead(t, dir)
	want(t, "points", ids(l.Points), "check1 check3 check4 check10")
	want(t, "hidden", ids(l.Hidden), "check2")
	want(t, "all", ids(l.All()), "check1 check2 check3 check4 check10")
	want(t, "ids", strings.Join(l.IDs(), " "), "check1 check3 check4 check10")
	want(t, "all ids", strings.Join(l.AllIDs(), " "), "check1 check2 check3 check4 check10")
	want(t, "needs", ids(l.Needs("check3")), "check1 check2 check3")
	want(t, "children", strings.Join(l.Children("check1"), " "), "check2 check4")
	want(t, "reason", l.Removals["check2"].Reason, "policy")
	if l.Domain != "vm1" || l.Err() != nil || len(l.Broken()) != 0 {
		t.Errorf("domain %s, %v, broken %v", l.Domain, l.Err(), l.Broken())
	}
	must(t, ClearRemoval(filepath.Join(dir, "check2")))
	want(t, "points again", ids(mustRead(t, dir).Points), "check1 check2 check3 check4 check10")
	want(t, "no directory", ids(mustRead(t, dir+"x").Points), "")
}

// Damage is told beside the rest, with what is lost by it.
func TestDamage(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil      func(dir string) error
		unreadable string
		broken     string
	}{
		"no manifest":         {func(dir string) error { return os.Remove(filepath.Join(dir, "check2", manifest.FileName)) }, "check2", "check3"},
		"a point gone":        {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "check1")) }, "", "check2 check3 check4"},
		"of another one":      {func(dir string) error { return os.Rename(filepath.Join(dir, "check10"), filepath.Join(dir, "check11")) }, "check11", ""},
		"a foreign directory": {func(dir string) error { return os.Mkdir(filepath.Join(dir, "old"), 0o700) }, "old", ""},
		"a link":              {func(dir string) error { return os.Symlink("check1", filepath.Join(dir, "check12")) }, "check12", ""},
	} {
		dir := chain(t)
		must(t, tt.spoil(dir))
		l := mustRead(t, dir)
		var unreadable, broken []string
		for _, p := range l.Unreadable {
			unreadable = append(unreadable, p.ID)
		}
		for _, m := range l.All() {
			if disks := l.Broken()[m.ID]; len(disks) > 0 {
				want(t, name+": disks", strings.Join(disks, " "), "vda vdb")
				broken = append(broken, m.ID)
			}
		}
		want(t, name+": unreadable", strings.Join(unreadable, " "), tt.unreadable)
		want(t, name+": broken", strings.Join(broken, " "), tt.broken)
		var damaged *damage.Error
		if errors.As(l.Err(), &damaged) != (tt.unreadable != "") {
			t.Errorf("%s: %v", name, l.Err())
		}
	}
}

// An image that is lost takes along the same disk of the points above it, and no other.
func TestLost(t *testing.T) {
	lost := mustRead(t, chain(t)).Lost(func(ref manifest.ImageRef) bool { return ref == manifest.ImageRef{Point: "check2", Image: "vda.qcow2"} })
	want(t, "lost", fmt.Sprint(lost), "map[check2:[vda] check3:[vda]]")
}

func TestCheckUnneeded(t *testing.T) {
	dir := chain(t)
	for remove, by := range map[string]string{"check1": "check2 check4", "check2": "check3", "check3": "", "check10": "", "check2 check3": "", "check1 check2 check3": "check4"} {
		err := mustRead(t, dir).CheckUnneeded(strings.Fields(remove))
		var needed *NeededError
		if errors.As(err, &needed) != (by != "") || needed != nil && strings.Join(needed.By, " ") != by {
			t.Errorf("%s: %v, want it to be needed by %q", remove, err, by)
		}
	}
	must(t, os.Remove(filepath.Join(dir, "check4", manifest.FileName)))
	var needed *NeededError
	if err := mustRead(t, dir).CheckUnneeded([]string{"check3"}); !errors.As(err, &needed) || strings.Join(needed.Unreadable, " ") != "check4" {
		t.Errorf("below one that cannot be read: %v", err)
	}
	must(t, mustRead(t, dir).CheckUnneeded([]string{"check10"}))
}
