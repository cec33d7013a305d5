package keep

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// domainDir is the directory of a domain vm1.
func domainDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vm1")
	must(t, os.Mkdir(dir, 0o700))
	return dir
}

func protect(ids ...string) func([]Protection) []Protection {
	return func(points []Protection) []Protection {
		for _, id := range ids {
			points = append(points, Protection{Point: id, Since: time.Now().UTC()})
		}
		return points
	}
}

// What was written is read again; the file lists the points by their numbers.
func TestProtections(t *testing.T) {
	dir := domainDir(t)
	if all, err := Protections(dir); err != nil || len(all) != 0 {
		t.Errorf("without a file: %v, %v", all, err)
	}
	audit := Protection{Point: "diff4", Identity: "0123456789abcdef", Since: time.Now().UTC().Truncate(0),
		Until: time.Date(2030, 5, 6, 7, 8, 9, 0, time.UTC), Note: "the audit"}
	must(t, ChangeProtections(dir, protect("check10", "check2")),
		ChangeProtections(dir, func(points []Protection) []Protection { return append(points, audit) }))
	all, err := Protections(dir)
	must(t, err)
	if len(all) != 3 || all["diff4"] != audit {
		t.Errorf("got %+v", all)
	}
	must(t, ChangeProtections(dir, func(points []Protection) []Protection {
		if len(points) != 3 || points[0].Point != "check2" || points[2].Point != "check10" {
			t.Errorf("the order is %+v", points)
		}
		return nil
	}))
	if all, err := Protections(dir); err != nil || len(all) != 0 {
		t.Errorf("all taken back: %v, %v", all, err)
	}
}

func TestHolds(t *testing.T) {
	until := time.Date(2030, 5, 6, 7, 8, 9, 0, time.UTC)
	for _, tt := range []struct {
		until, now time.Time
		want       bool
	}{
		{time.Time{}, until.AddDate(1000, 0, 0), true},
		{until, until.Add(-1), true},
		{until, until, true},
		{until, until.Add(1), false},
	} {
		if got := (Protection{Until: tt.until}).Holds(tt.now); got != tt.want {
			t.Errorf("until %v, at %v: %v", tt.until, tt.now, got)
		}
	}
}

// A file that is damaged is an error that says so, and is not replaced.
func TestDamagedProtections(t *testing.T) {
	dir := domainDir(t)
	must(t, ChangeProtections(dir, protect("check3")))
	path := filepath.Join(dir, ProtectedName)
	good, err := os.ReadFile(path)
	must(t, err)
	with := func(change func(*protectedFile)) func() error {
		f, err := parseProtected(good, "vm1")
		change(&f)
		data, encodeErr := digest.EncodeJSON(f)
		return func() error { return errors.Join(err, encodeErr, os.WriteFile(path, data, 0o600)) }
	}
	content := func(data string) func() error {
		return func() error { return os.WriteFile(path, []byte(data), 0o600) }
	}
	for name, put := range map[string]func() error{
		"empty":             content(""),
		"cut short":         content(string(good[:len(good)-1])),
		"one bit":           content(strings.Replace(string(good), "check3", "check2", 1)),
		"of another domain": with(func(f *protectedFile) { f.Domain = "vm2" }),
		"a name":            with(func(f *protectedFile) { f.Points[0].Point = "../vm2/check3" }),
		"no format":         with(func(f *protectedFile) { f.Format = 0 }),
		"a point twice": with(func(f *protectedFile) {
			f.Points = append(f.Points, f.Points[0])
			f.Points[1].Until = time.Now().Add(-time.Hour)
		}),
		"a FIFO":            func() error { return unix.Mkfifo(path, 0o600) },
		"a directory":       func() error { return os.Mkdir(path, 0o700) },
		"a link":            func() error { return errors.Join(os.WriteFile(path+".x", good, 0o600), os.Symlink(path+".x", path)) },
		"a link to nothing": func() error { return os.Symlink(path+".y", path) },
	} {
		must(t, os.RemoveAll(path), put())
		_, err := Protections(dir)
		changeErr := ChangeProtections(dir, protect("check1"))
		for what, err := range map[string]error{"Protections": err, "ChangeProtections": changeErr} {
			var damaged *damage.Error
			if !errors.As(err, &damaged) || damaged.Points[0].File != ProtectedName || damaged.Points[0].Domain != "vm1" || !strings.Contains(fail.HintOf(err), "move it away") {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
	}
	must(t, os.RemoveAll(path), with(func(f *protectedFile) { f.Format++ })())
	if _, err := Protections(dir); !errors.Is(err, manifest.ErrNewerFormat) || fail.Is(err, fail.Damaged) {
		t.Errorf("of a newer format: %v", err)
	}
}

// FuzzProtected feeds content whose digest is right: what is accepted has ids of points only.
func FuzzProtected(f *testing.F) {
	data, err := digest.EncodeJSON(protectedFile{Format: manifest.Format, Domain: "vm1", Points: []Protection{{Point: "check1", Since: time.Now(), Note: "x"}}})
	must(f, err)
	f.Add(data[:len(data)-digest.TailLength])
	f.Add([]byte(`{"format":1`))
	f.Fuzz(func(t *testing.T, body []byte) {
		parseProtected(body, "vm1")
		p, err := parseProtected(slices.Concat(body, []byte(digest.Tail(body))), "vm1")
		if err != nil {
			return
		}
		for _, point := range p.Points {
			if _, _, err := manifest.ParsePointID(point.Point); err != nil {
				t.Error(err)
			}
		}
		data, err := digest.EncodeJSON(p)
		if err != nil {
			return // years that RFC 3339 does not have
		}
		if again, err := parseProtected(data, "vm1"); err != nil || len(again.Points) != len(p.Points) {
			t.Errorf("round trip: %v", err)
		}
	})
}
