package repository

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// Beside a point that cannot be read only another that is named by its id is found: never
// silently an older one than what was asked for.
func TestFindBesideDamage(t *testing.T) {
	r := chainOfThree(t)
	whole, err := r.Point("vm1", "check2")
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(r.PointDir("vm1", "copy10"), manifest.FileName), "{}")
	for _, at := range []string{"", manifest.Latest, "copy10", "check99", whole.Time.Local().Format(time.RFC3339Nano), "2099-01-01"} {
		m, err := r.Find("vm1", at)
		var damaged *damage.Error
		if !errors.As(err, &damaged) || !damaged.Has("copy10") {
			t.Errorf("%q: %s, %v", at, m.ID, err)
		}
	}
	if m, err := r.Find("vm1", "check2"); err != nil || m.ID != "check2" {
		t.Errorf("by its id: %s, %v", m.ID, err)
	}
}

// A hidden point is not found, and the error says how to bring it back.
func TestFindHidden(t *testing.T) {
	r := chainOfThree(t)
	l, err := r.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	if err := l.Hide("check2", "named"); err != nil {
		t.Fatal(err)
	}
	_, err = r.Find("vm1", "check2")
	var hidden *lineage.HiddenError
	if !errors.As(err, &hidden) || hidden.Removal.Reason != "named" || !errors.Is(err, manifest.ErrNoPoint) {
		t.Errorf("by its id: %v", err)
	}
}
