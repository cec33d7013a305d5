package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
)

var start = time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)

// domain makes the directory of a domain with points.
func domain(t *testing.T, points ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vm1")
	for _, id := range points {
		if err := os.MkdirAll(filepath.Join(dir, id), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func drillOf(point, identity string, n int) Record {
	return Record{Format: manifest.Format, ID: fmt.Sprintf("%016x", n+1), Domain: "vm1", Point: point, Identity: identity, PointTime: start, Manifest: "blake3:a",
		Time: start.Add(time.Duration(n) * time.Hour), Booted: true, By: ByAgent, Console: []string{"\x1b[31m"}}
}

func put(t *testing.T, dir string, r Record, png string) {
	t.Helper()
	if err := Add(dir, r, []byte(png)); err != nil {
		t.Fatal(err)
	}
}

func TestAddAndList(t *testing.T) {
	dir := domain(t, "check1")
	if got := List(dir); len(got) > 0 {
		t.Errorf("without a directory: %v", got)
	}
	put(t, dir, drillOf("check1", "1111111111111111", 2), "")
	put(t, dir, drillOf("check1", "1111111111111111", 1), "png")
	all := List(dir)
	if len(all) != 2 || !all[0].Time.Before(all[1].Time) || all[0].Console[0] != "\x1b[31m" {
		t.Errorf("%+v", all)
	}
	if data, err := os.ReadFile(filepath.Join(dir, DirName, ScreenshotName(all[0].ID))); err != nil || string(data) != "png" {
		t.Errorf("%q, %v", data, err)
	}
}

// A clock that was wrong does not hide what is recorded later.
func TestFuture(t *testing.T) {
	dir := domain(t, "check1")
	future, near := drillOf("check1", "1111111111111111", 1), drillOf("check1", "1111111111111111", 2)
	future.Time, near.Time = time.Now().Add(time.Hour), time.Now().Add(clockSlack/2)
	put(t, dir, future, "")
	put(t, dir, near, "")
	if all := List(dir); len(all) != 1 || all[0].ID != near.ID {
		t.Errorf("%+v", all)
	}
}

// What is not a record of the domain as it was written is none.
func TestOnlyWhole(t *testing.T) {
	dir := domain(t, "check1")
	r := drillOf("check1", "1111111111111111", 1)
	put(t, dir, r, "")
	path := filepath.Join(dir, DirName, r.ID+".json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		changed := append([]byte(nil), data...)
		changed[i] ^= 1
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := List(dir); len(got) > 0 {
			t.Fatalf("byte %d changed: %+v", i, got)
		}
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(filepath.Dir(dir), "vm2")
	if err := os.Rename(dir, other); err != nil {
		t.Fatal(err)
	}
	if got := List(other); len(got) > 0 {
		t.Errorf("under another domain's name: %+v", got)
	}
	outside := domain(t, "check1")
	if err := os.Symlink(filepath.Join(other, DirName), filepath.Join(outside, DirName)); err != nil {
		t.Fatal(err)
	}
	if got := List(outside); len(got) > 0 {
		t.Errorf("through a symbolic link: %+v", got)
	}
	if err := Add(outside, r, nil); err == nil {
		t.Error("written through a symbolic link")
	}
}

// A record is that of one point: neither of another one that has its id after the repository was
// put back, nor of one whose manifest somebody has changed. A merge does not change what boots.
func TestIs(t *testing.T) {
	m := manifest.Manifest{Domain: "vm1", ID: "check3", Identity: "1111111111111111", Time: start}
	merged, synthetic, again, old, renamed := m, m, m, m, m
	merged.Merged, synthetic.Synthetic = []string{"check1"}, true
	again.Identity, renamed.Domain = "2222222222222222", "vm2"
	old.Identity = ""
	r := drillOf("check3", m.Identity, 1)
	ofOld := r
	ofOld.Identity = ""
	oldMerged := old
	oldMerged.Merged = []string{"check1"}
	for name, c := range map[string]struct {
		record Record
		point  manifest.Manifest
		digest string
		want   bool
	}{
		"itself": {r, m, "blake3:a", true}, "changed": {r, m, "blake3:b", false}, "merged": {r, merged, "blake3:b", true}, "synthetic": {r, synthetic, "blake3:b", true},
		"made again": {r, again, "blake3:a", false}, "another domain": {r, renamed, "blake3:a", false},
		"without identity": {ofOld, old, "blake3:a", true}, "without identity, changed": {ofOld, old, "blake3:b", false},
		"without identity, merged": {ofOld, oldMerged, "blake3:b", false}, "without identity, of one with": {r, old, "blake3:a", false},
	} {
		if got := c.record.Is(c.point, c.digest); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The last drill of a point counts, also one that failed.
func TestNewest(t *testing.T) {
	m := manifest.Manifest{Domain: "vm1", ID: "check1", Time: start}
	failed := drillOf("check1", "", 2)
	failed.Booted = false
	records := []Record{drillOf("check1", "", 1), failed, drillOf("check9", "", 3)}
	digest := func(id string) (string, bool) { return "blake3:a", id != "check2" }
	got := Newest(records, []manifest.Manifest{m, {Domain: "vm1", ID: "check2", Time: start}}, digest)
	if r, ok := got["check1"]; len(got) != 1 || !ok || r.Booted || r.ID != failed.ID {
		t.Errorf("%+v", got)
	}
}

// The number of records is bounded; the newest of each point that is there stays.
func TestTidy(t *testing.T) {
	dir := domain(t, "check1", "check2")
	put(t, dir, drillOf("check1", "1111111111111111", 0), "png")
	put(t, dir, drillOf("check1", "1111111111111111", 1), "png")
	put(t, dir, drillOf("check8", "8888888888888888", 2), "png") // a point that is gone
	for n := range kept {
		put(t, dir, drillOf("check2", "2222222222222222", 10+n), "png")
	}
	all := List(dir)
	if len(all) != kept+1 || all[0].Point != "check1" || all[0].Time != start.Add(time.Hour) {
		t.Errorf("%d records, the first is %+v", len(all), all[0])
	}
	pictures, err := filepath.Glob(filepath.Join(dir, DirName, "*.png"))
	if err != nil || len(pictures) != kept {
		t.Errorf("%d screenshots, %v", len(pictures), err)
	}
}

// Only records are removed with the domain, and the directory stays while a drill has its note there.
func TestRemoveAll(t *testing.T) {
	dir := domain(t, "check1")
	put(t, dir, drillOf("check1", "1111111111111111", 0), "png")
	note := filepath.Join(dir, DirName, ".running-0123456789abcdef")
	if err := os.WriteFile(note, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAll(dir); err != nil || len(List(dir)) > 0 {
		t.Errorf("%v, left %v", err, List(dir))
	}
	if _, err := os.Lstat(note); err != nil {
		t.Error(err)
	}
	if err := os.Remove(note); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if _, err := Dir(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}
