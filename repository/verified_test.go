package repository

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
)

func TestVerified(t *testing.T) {
	r := chainOfThree(t)
	if got := r.Verified("vm1"); len(got) != 0 {
		t.Errorf("got %v of nothing", got)
	}
	note := map[string]Verification{}
	for _, id := range []string{"check1", "check2"} {
		digest, err := r.ManifestDigest("vm1", id)
		if err != nil {
			t.Fatal(err)
		}
		note[id] = Verification{Time: time.Unix(1e9, 0), Manifest: digest, Sound: id == "check1"}
	}
	for range 2 {
		if err := r.SetVerified("vm1", note); err != nil {
			t.Fatal(err)
		}
		delete(note, "check1") // what was known before stays
	}
	if got := r.Verified("vm1"); len(got) != 2 || !got["check1"].Sound || got["check2"].Sound {
		t.Errorf("got %v", got)
	}
	if points, err := pointsOf(r, "vm1"); err != nil || len(points) != 4 {
		t.Errorf("points beside the file: %s, %v", ids(points), err)
	}
	note["check1"] = Verification{Manifest: note["check2"].Manifest, Sound: true}
	note["../../check1"] = note["check1"]
	if err := errors.Join(r.SetVerified("vm1", note), os.RemoveAll(r.PointDir("vm1", "check2"))); err != nil {
		t.Fatal(err)
	}
	if got := r.Verified("vm1"); len(got) != 0 {
		t.Errorf("of other manifests and points that are gone: %v", got)
	}
	if err := os.WriteFile(filepath.Join(r.Dir(), "vm1", VerifiedName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := r.Verified("vm1"); len(got) != 0 {
		t.Errorf("of a damaged file: %v", got)
	}
}

// TestVerifiedOf leaves out what belongs to no point that was read.
func TestVerifiedOf(t *testing.T) {
	r := chainOfThree(t)
	note := map[string]Verification{"check3": {Manifest: "another"}}
	for _, id := range []string{"check1", "check2"} {
		digest, err := r.ManifestDigest("vm1", id)
		if err != nil {
			t.Fatal(err)
		}
		note[id] = Verification{Time: time.Unix(1e9, 0), Manifest: digest, Sound: true}
	}
	l, err := r.Lineage("vm1")
	if err := errors.Join(err, r.SetVerified("vm1", note)); err != nil {
		t.Fatal(err)
	}
	if got := r.VerifiedOf(l); len(got) != 2 || !got["check1"].Sound || !got["check2"].Sound {
		t.Errorf("got %v", got)
	}
	if err := os.WriteFile(filepath.Join(r.PointDir("vm1", "check2"), manifest.FileName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	note["check2"] = Verification{} // without a digest, as the point is without a manifest
	l, err = r.Lineage("vm1")
	if err := errors.Join(err, r.SetVerified("vm1", note)); err != nil {
		t.Fatal(err)
	}
	if got := r.VerifiedOf(l); len(got) != 1 || !got["check1"].Sound {
		t.Errorf("got %v", got)
	}
}
