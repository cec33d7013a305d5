package repository

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// What was found of a point counts for those that need it, disk by disk, and is dated by what
// was proven longest ago. Earlier versions noted each point with all that it needs, at once.
func TestVerifiedWithAllItNeeds(t *testing.T) {
	r := chainOfThree(t)
	l, err := r.Lineage("vm1")
	if err != nil {
		t.Fatal(err)
	}
	early, late := time.Unix(1.7e9, 0).UTC(), time.Unix(1.75e9, 0).UTC()
	sound := func(at time.Time) Verification { return Verification{Time: at, Sound: true} }
	for name, tt := range map[string]struct {
		base, child Verification
		want        Verification // of the child; zero: not verified
	}{
		"both at once":             {sound(early), sound(early), sound(early)},
		"the base earlier":         {sound(early), sound(late), sound(early)},
		"the child earlier":        {sound(late), sound(early), sound(early)},
		"the base never":           {Verification{}, sound(late), Verification{}},
		"the child never":          {sound(late), Verification{}, Verification{}},
		"a disk of the base":       {Verification{Time: late, Lost: []string{"vda"}}, sound(early), Verification{}},
		"another of the base":      {Verification{Time: late, Lost: []string{"vdz"}}, sound(early), Verification{}},
		"that, before a child":     {Verification{Time: early, Lost: []string{"vdz"}}, sound(late), sound(late)},
		"domain.xml of the base":   {Verification{Time: late}, sound(late), sound(late)},
		"the same, after a child":  {Verification{Time: late}, sound(early), Verification{}},
		"in the future":            {sound(early), sound(time.Now().Add(time.Hour)), Verification{}},
		"the clock of a neighbour": {sound(early), sound(time.Now().Add(clockSlack / 2)), sound(early)},
	} {
		note := map[string]Verification{}
		for id, v := range map[string]Verification{"check1": tt.base, "check2": tt.child} {
			if !v.Time.IsZero() {
				v.Manifest, _ = l.Digest(id)
			}
			note[id] = v
		}
		if err := r.SetVerified("vm1", note); err != nil {
			t.Fatal(err)
		}
		got, known := r.Verified("vm1")["check2"]
		if known != !tt.want.Time.IsZero() || got.Sound != tt.want.Sound || !got.Time.Equal(tt.want.Time) {
			t.Errorf("%s: got %+v, %v; want %+v", name, got, known, tt.want)
		}
	}
}

// A record that is too long is written without dates: nothing counts as proven for that.
func TestRecordWithoutDates(t *testing.T) {
	r := chainOfThree(t)
	l, err := r.Lineage("vm1")
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := l.Digest("check1")
	f := verifiedFile{Format: manifest.Format, Points: map[string]Verification{"check1": {Time: time.Unix(1.7e9, 0), Manifest: digest, Lost: []string{"vdz"}}},
		Proven: map[string]provenPoint{"check1": {digest, map[string]string{"vda.qcow2": "100:0", strings.Repeat("x", mostVerified): "100:0"}}}}
	if err := r.replaceVerified("vm1", f); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(r.Dir(), "vm1", VerifiedName)); err != nil || info.Size() > 1<<10 {
		t.Errorf("%v, %v", info, err)
	}
	if d := r.Proofs(l).Dates("check1", "vda.qcow2"); d != (Dates{}) {
		t.Errorf("never read, and proven: %s", d)
	}
	if v, known := r.Verified("vm1")["check1"]; !known || v.Sound {
		t.Errorf("noted %+v", v)
	}
}

// A record that cannot be read now is not replaced by one without what it says.
func TestRecordThatCannotBeRead(t *testing.T) {
	if dir := reads(); dir != "" {
		r, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("set: %v\n", r.SetVerified("vm1", map[string]Verification{"check2": {}}))
		return
	}
	r := chainOfThree(t)
	digest, err := r.ManifestDigest("vm1", "check1")
	if err := errors.Join(err, r.SetVerified("vm1", map[string]Verification{"check1": {Time: time.Unix(1.7e9, 0), Manifest: digest, Lost: []string{"vda"}}})); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.Dir(), "vm1", VerifiedName)
	for inject, refused := range map[string]bool{"openat:error=EMFILE": true, "read:error=EIO": true, "read:error=ESTALE": true, "read:error=EIO:when=1": false} {
		out := underStrace(t, path, r.Dir(), inject)
		if strings.Contains(out, "set: <nil>") == refused {
			t.Errorf("%s: %s", inject, out)
		}
		if doubts := r.Doubts("vm1"); len(doubts["check1"]) != 1 {
			t.Errorf("%s: what was known is lost: %v", inject, doubts)
		}
	}
	// What it holds is no record, and stays none.
	mustWrite(t, path, "{")
	if err := r.SetVerified("vm1", map[string]Verification{"check1": {Time: time.Unix(1.7e9, 0), Manifest: digest, Sound: true}}); err != nil {
		t.Error(err)
	}
}
