package repository

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/manifest"
)

// What is damaged in one point takes along those that need it, and no others.
func TestExplain(t *testing.T) {
	whole := chainOfThree(t)
	tests := map[string]struct {
		spoil      func(r *Repository) error
		lost, left string
	}{
		"a manifest": {func(r *Repository) error {
			return os.Remove(filepath.Join(r.PointDir("vm1", "check1"), manifest.FileName))
		}, "check1 check2 diff3", "copy10"},
		"a parent":   {func(r *Repository) error { return os.RemoveAll(r.PointDir("vm1", "check1")) }, "check2 diff3", "copy10"},
		"domain.xml": {func(r *Repository) error { return nil }, "check1", "check2 diff3 copy10"},
		"one that verify has found damaged": {func(r *Repository) error {
			digest, err := r.ManifestDigest("vm1", "copy10")
			return errors.Join(err, r.SetVerified("vm1", map[string]Verification{"copy10": {Manifest: digest}}))
		}, "check1", "check2 diff3"},
		"not a point": {func(r *Repository) error { return os.Mkdir(r.PointDir("vm1", "old"), 0o700) }, "old check1", "check2 diff3 copy10"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := copyOf(t, whole)
			e := &damage.Error{Points: []damage.Point{{Domain: "vm1", ID: "check1", File: manifest.DomainXML, Err: fs.ErrInvalid}}}
			if err := tt.spoil(r); err != nil {
				t.Fatal(err)
			}
			r.Explain(e)
			if got := strings.Join(e.Lost, " "); got != tt.lost {
				t.Errorf("lost %s, want %s", got, tt.lost)
			}
			if got := strings.Join(e.Left, " "); got != tt.left {
				t.Errorf("left %s, want %s", got, tt.left)
			}
		})
	}
}

// A point that stands where another one of its name stood is no parent.
func TestParentOfAnotherTime(t *testing.T) {
	a, b := chainOfThree(t), chainOfThree(t)
	if err := errors.Join(os.RemoveAll(a.PointDir("vm1", "check1")),
		os.CopyFS(a.PointDir("vm1", "check1"), os.DirFS(b.PointDir("vm1", "check1")))); err != nil {
		t.Fatal(err)
	}
	_, err := a.Links("vm1", "diff3", "vda")
	var damaged *damage.Error
	if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "put here by hand") {
		t.Errorf("got %v", err)
	}
}

// So is one that was made at the same time, under another identity.
func TestParentOfAnotherIdentity(t *testing.T) {
	r := chainOfThree(t)
	m, err := r.Point("vm1", "check1")
	if err != nil {
		t.Fatal(err)
	}
	m.Identity = "fedcba9876543210"
	data, err := manifest.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(r.PointDir("vm1", "check1"), manifest.FileName), string(data))
	_, err = r.Links("vm1", "diff3", "vda")
	var damaged *damage.Error
	if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "needs the point of identity "+testIdentity) {
		t.Errorf("got %v", err)
	}
}
