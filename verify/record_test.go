package verify

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// record changes verified.json as a person with an editor.
func record(t *testing.T, r *repository.Repository, change func(text string) string) {
	t.Helper()
	path := filepath.Join(r.Dir(), "vm1", repository.VerifiedName)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(change(string(data))), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What a clock that was wrong, another manifest or another hand has left in the record counts
// as never, and is read first.
func TestRecordThatIsWrong(t *testing.T) {
	withoutQemuImg(t)
	percent := func(r *repository.Repository) int {
		l, err := r.Lineage("vm1")
		if err != nil {
			t.Fatal(err)
		}
		return r.Proofs(l).Percent()["check1"]
	}
	whole := site(t)
	verified(t, whole, Request{Domain: "vm1", Point: "check1", Sample: 50})
	dates := func(text string) string { // of the first half
		_, after, _ := strings.Cut(text, `"50:`)
		date, _, _ := strings.Cut(after, " ")
		return date
	}
	for name, tt := range map[string]struct {
		change func(string) string
		want   int
	}{
		"as it was":        {func(s string) string { return s }, 50},
		"from the future":  {func(s string) string { return strings.ReplaceAll(s, dates(s), "9"+dates(s)) }, 0},
		"another manifest": {func(s string) string { return strings.ReplaceAll(s, `"blake3:`, `"blake3:0`) }, 0},
		"no dates":         {func(s string) string { return strings.ReplaceAll(s, "50:", "51:") }, 0},
		"no JSON":          {func(s string) string { return s[1:] }, 0},
		"no object":        {func(s string) string { return strings.ReplaceAll(s, `"files": {`, `"files": 5, "x": {`) }, 0},
		"empty":            {func(string) string { return "" }, 0},
	} {
		r := copyOf(t, whole)
		record(t, r, tt.change)
		if got := percent(r); got != tt.want {
			t.Errorf("%s: %d%% proven, want %d", name, got, tt.want)
		}
		report := verified(t, r, Request{Domain: "vm1", Point: "check1", Sample: 50})
		if restores := report.Domains[0].Points[0].Restores; restores != (tt.want == 50) {
			t.Errorf("%s: verified %v after another half", name, restores)
		}
	}
	r := copyOf(t, whole)
	verified(t, r, Request{})
	record(t, r, func(s string) string { return strings.ReplaceAll(s, time.Now().UTC().Format(`"2006-`), `"2099-`) })
	if noted := r.Verified("vm1"); len(noted) > 0 {
		t.Errorf("verified in the future: %v", noted)
	}
}

// A point that was replaced is proven anew; what others had proven of themselves stays.
func TestReplacedPointStartsAnew(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	verified(t, r, Request{Sample: 50})
	m, err := r.Point("vm1", "check1")
	if err != nil {
		t.Fatal(err)
	}
	m.Warnings = []string{"merged"}
	data, err := manifest.Encode(m)
	if err := errors.Join(err, os.WriteFile(filepath.Join(r.PointDir("vm1", "check1"), manifest.FileName), data, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, p := range verified(t, r, Request{Sample: 50}).Domains[0].Points {
		if whole := p.ID == "copy5"; p.Restores != whole || !whole && p.ProvenPercent != 50 {
			t.Errorf("after another half: %+v", p)
		}
	}
	if report := verified(t, r, Request{Sample: 50}); len(report.Domains[0].Restores) != 5 {
		t.Errorf("then: restores %v", report.Domains[0].Restores)
	}
}

// What earlier versions read of the file says "sound" of verified points only, and nothing of
// points proven in part.
func TestOldVersionsReadTheRecord(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	old := func() map[string]repository.Verification {
		var f struct {
			Format int
			Points map[string]repository.Verification
		}
		data, err := os.ReadFile(filepath.Join(r.Dir(), "vm1", repository.VerifiedName))
		if err := errors.Join(err, json.Unmarshal(data, &f)); err != nil || f.Format != 2 {
			t.Fatal(err, f.Format)
		}
		return f.Points
	}
	verified(t, r, Request{Sample: 99})
	if points := old(); len(points) > 0 {
		t.Errorf("proven in part: %v", points)
	}
	verified(t, r, Request{Sample: 1})
	if points := old(); len(points) != 5 || !points["check3"].Sound {
		t.Errorf("proven: %v", points)
	}
	// An earlier version drops what it does not know, and its word counts for all parts.
	record(t, r, func(string) string {
		data, err := json.Marshal(map[string]any{"format": 2, "points": old()})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	})
	if noted := r.Verified("vm1"); len(noted) != 5 {
		t.Errorf("noted %v", noted)
	}
	// A base that has lost a part takes those that need it with it, and others not.
	if err := flip(filepath.Join(r.PointDir("vm1", "check2"), "vdb.qcow2"), 0); err != nil {
		t.Fatal(err)
	}
	verified(t, r, Request{Sample: 1})
	for id, v := range old() {
		if damaged := id == "check2" || id == "check3"; v.Sound == damaged || damaged != slices.Equal(v.Lost, []string{"vdb"}) {
			t.Errorf("%s: %+v", id, v)
		}
	}
}
