package verify

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// What another run finds damaged while this one reads stays so: this one has read before that.
func TestDamageFoundMeanwhileStays(t *testing.T) {
	withoutQemuImg(t)
	for name, request := range map[string]Request{
		"everything":           {},
		"a sample":             {Sample: 100},
		"with a limit of time": {MaxDuration: 1 << 40},
	} {
		r := site(t)
		image := filepath.Join(r.PointDir("vm1", "check1"), "vda.qcow2")
		if request.MaxDuration == 0 {
			l, err := r.Lock("vm2") // which is read after vm1
			if err != nil {
				t.Fatal(err)
			}
			makePoint(t, l, "check1", manifest.KindFull, "", 1, "vda")
			l.Unlock()
		}
		done := false
		request.Log = slog.New(handler{slog.DiscardHandler, func(text string) {
			if after := strings.HasPrefix(text, "vm2: reading") || strings.HasSuffix(text, "vm1: reading check2"); !after || done {
				return
			}
			done = true
			if err := flip(image, dataOf(t, image)); err != nil {
				t.Error(err)
			}
			if other := verified(t, r, Request{Domain: "vm1", Point: "check1"}); len(other.Damage) != 1 {
				t.Errorf("%s: the other run has found %v", name, other.Damage)
			}
		}})
		_, err := Run(t.Context(), r, request)
		if err != nil && request.MaxDuration > 0 {
			t.Error(err)
		}
		if noted := r.Verified("vm1")["check1"]; !done || noted.Sound || len(noted.Lost) != 1 {
			t.Errorf("%s: noted %+v, done %v, %v", name, noted, done, err)
		}
		verified(t, r, Request{Quick: true})
		if noted := r.Verified("vm1")["check1"]; noted.Sound || len(noted.Lost) != 1 {
			t.Errorf("%s: then noted %+v", name, noted)
		}
	}
}

// A point that stays damaged does not keep others from their turn.
func TestDamagedPointTakesTurns(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	image := filepath.Join(r.PointDir("vm1", "check2"), "vda.qcow2")
	if err := flip(image, dataOf(t, image)); err != nil {
		t.Fatal(err)
	}
	var order []string
	for range 10 {
		report := verified(t, r, Request{MaxDuration: 1}).Domains[0]
		for _, p := range report.Points {
			if !slices.Contains(report.Left, p.ID) {
				order = append(order, p.ID)
			}
		}
	}
	want := []string{"check1", "check2", "check3", "diff4", "copy5"}
	if got := strings.Join(order, " "); got != strings.Join(slices.Repeat(want, 2), " ") {
		t.Errorf("read in turn: %s", got)
	}
}

// Where neither the image nor its hash list is what was written, the list proves nothing of the
// image: a part that agrees with it may be the damaged one.
func TestDamagedListProvesNothing(t *testing.T) {
	withoutQemuImg(t)
	for _, sample := range []int{0, 100} {
		r := site(t)
		dir := r.PointDir("vm1", "copy5")
		image, list := filepath.Join(dir, "vda.qcow2"), filepath.Join(dir, "vda.hashes")
		whole, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		data := dataOf(t, image)
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(flip(image, data))
		content, err := os.ReadFile(image)
		must(err)
		at := data / cluster
		sum := hashlist.SumOf(content[at*cluster : (at+1)*cluster])
		spoilt := slices.Clone(whole)
		copy(spoilt[32+32*at:], sum[:]) // of what is there now
		spoilt[32+32*(at+1)] ^= 1       // and one that is wrong of what is right
		must(os.WriteFile(list, spoilt, 0o600))
		if report := verified(t, r, Request{Domain: "vm1", Point: "copy5", Sample: sample}); len(report.Domains[0].Lost) != 1 {
			t.Errorf("lost %v", report.Domains[0].Lost)
		}
		must(os.WriteFile(list, whole, 0o600)) // from somewhere else
		for range 5 {                          // the part that was said to be damaged, and some more
			report, err := Run(t.Context(), r, Request{Domain: "vm1", Point: "copy5", Sample: 1})
			must(err)
			if noted := r.Verified("vm1")["copy5"]; noted.Sound || len(report.Domains[0].Restores) > 0 {
				t.Errorf("sample %d: noted %+v, restores %v", sample, noted, report.Domains[0].Restores)
			}
		}
	}
}

// Of a point that is lost with what it needs, and was never read, no disk counts as proven.
func TestLostWithoutBeingRead(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	image := filepath.Join(r.PointDir("vm1", "check1"), "vda.qcow2")
	data := dataOf(t, image)
	if err := flip(image, data); err != nil {
		t.Fatal(err)
	}
	verified(t, r, Request{Domain: "vm1", Point: "check1"})
	if err := flip(image, data); err != nil {
		t.Fatal(err)
	}
	l, err := r.Lineage("vm1")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"check2", "check3"} {
		if d := r.Proofs(l).Dates(id, "vdb.qcow2"); d != (repository.Dates{}) {
			t.Errorf("%s: vdb was never read, and is proven: %s", id, d)
		}
	}
	// An earlier version drops the dates; its entries do not stand for what was read, either.
	record(t, r, func(text string) string {
		var all map[string]json.RawMessage
		err := json.Unmarshal([]byte(text), &all)
		delete(all, "proven")
		data, marshalErr := json.Marshal(all)
		if err := errors.Join(err, marshalErr); err != nil {
			t.Fatal(err)
		}
		return string(data)
	})
	for _, id := range []string{"check1", "check2", "check3"} {
		if d := r.Proofs(l).Dates(id, "vdb.qcow2"); d != (repository.Dates{}) {
			t.Errorf("%s: the record has no dates, and vdb is proven: %s", id, d)
		}
	}
	// The list of vda being damaged, all of vda is read in one sample, and a hundredth of vdb.
	if err := flip(filepath.Join(r.PointDir("vm1", "check2"), "vda.hashes"), 40); err != nil {
		t.Fatal(err)
	}
	verified(t, r, Request{Domain: "vm1", Point: "check1"})
	verified(t, r, Request{Domain: "vm1", Point: "check2", Sample: 1})
	if noted := r.Verified("vm1")["check2"]; noted.Sound {
		t.Errorf("noted %+v", noted)
	}
}

// Damage that was found by a clock that was ahead does not stay until that time.
func TestDamageOfTheFuture(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	path := filepath.Join(r.PointDir("vm1", "copy5"), "vda.qcow2")
	for range 2 {
		if err := flip(path, 5); err != nil {
			t.Fatal(err)
		}
		verified(t, r, Request{Domain: "vm1", Point: "copy5"})
		record(t, r, func(s string) string { return strings.ReplaceAll(s, time.Now().UTC().Format(`"2006-`), `"2099-`) })
		if noted := r.Verified("vm1")["copy5"]; noted.Sound {
			t.Errorf("noted %+v", noted)
		}
	}
	verified(t, r, Request{Domain: "vm1", Point: "copy5"})
	if noted := r.Verified("vm1")["copy5"]; !noted.Sound {
		t.Errorf("noted %+v", noted)
	}
}

// Parts that stay damaged take their turn: as many as a sample takes do not keep the rest of
// their image from being read.
func TestDamagedPartsTakeTurns(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	image := filepath.Join(r.PointDir("vm1", "copy5"), "vda.qcow2")
	if err := flip(image, dataOf(t, image)); err != nil {
		t.Fatal(err)
	}
	request := Request{Domain: "vm1", Point: "copy5", Sample: 1}
	found := 0
	for range 105 {
		if report := verified(t, r, request); len(report.Damage) > 0 {
			found++
		}
	}
	l, err := r.Lineage("vm1")
	if err != nil {
		t.Fatal(err)
	}
	d := r.Proofs(l).Dates("copy5", "vda.qcow2")
	wrong := 0
	for _, at := range d {
		if at <= 0 {
			wrong++
		}
	}
	if wrong == 0 || wrong > 3 || found == 0 || found > 10 {
		t.Errorf("%d parts are not proven, damage found in %d runs: %s", wrong, found, d)
	}
	if noted := r.Verified("vm1")["copy5"]; noted.Sound || noted.Manifest == "" {
		t.Errorf("noted %+v", noted)
	}
	if err := flip(image, dataOf(t, image)); err != nil {
		t.Fatal(err)
	}
	verified(t, r, Request{Domain: "vm1", Point: "copy5", Sample: 100})
	if noted := r.Verified("vm1")["copy5"]; !noted.Sound {
		t.Errorf("repaired, and noted %+v", noted)
	}
}

// A fault of the structure is none of what samples read: only a run that could check it takes it back.
func TestStructureNeedsQemuImg(t *testing.T) {
	r := site(t)
	request := Request{Domain: "vm1", Sample: 100}
	with := func(corruptions string) {
		script := "#!/bin/sh\n[ $1 = check ] && echo '{\"corruptions\": " + corruptions + "}'\nexit 0\n"
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "qemu-img"), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir)
	}
	sound := func(want bool, when string) {
		t.Helper()
		for _, id := range []string{"check1", "check2"} {
			if v := r.Verified("vm1")[id]; v.Sound != want || v.Manifest == "" {
				t.Errorf("%s: %s: noted %+v", when, id, v)
			}
		}
	}
	with("1")
	verified(t, r, request)
	sound(false, "found")
	withoutQemuImg(t)
	for _, request := range []Request{request, {Domain: "vm1"}, {Domain: "vm1", MaxDuration: time.Hour}} {
		verified(t, r, request)
		sound(false, "without qemu-img")
	}
	// An incremental that has compared the chain takes back that its bytes are wrong.
	if err := r.ClearDoubts("vm1", []string{"check1", "check2"}, "vda"); err != nil {
		t.Fatal(err)
	}
	verified(t, r, request)
	sound(false, "after an incremental")
	with("0")
	verified(t, r, Request{Domain: "vm1", Quick: true})
	sound(false, "quick")
	verified(t, r, Request{Domain: "vm1", Sample: 1})
	sound(true, "checked")
}
