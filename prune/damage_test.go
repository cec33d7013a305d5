package prune

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/verify"
)

// The newest point that was verified stays, and stays verified when others are merged into it.
func TestPruneKeepsTheLastVerified(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.nights(3)
		if _, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1"}); err != nil {
			t.Fatal(err)
		}
		w.write("vda", 77, 3)
		w.point(manifest.KindInc, "check3")
		for range 2 {
			w.prune(compact(last(1)))
			if got := w.listed() + " | " + w.hidden(); got != "check3 check4 | " {
				t.Fatalf("listed and hidden: %s", got)
			}
		}
		if v := w.repo.Verified("vm1")["check3"]; !v.Sound {
			t.Errorf("check3 was verified, and is not any more: %+v", v)
		}
		w.check()
	})
}

// Damage in what a merge reads stops it, and changes nothing but what is listed.
func TestPruneOfDamagedImages(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.nights(4)
		w.damage("check1", 3*cluster)
		r, err := w.try(compact(last(2)))
		if w.cloned { // the range was not read: it is found as before
			report, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1"})
			if err != nil || fmt.Sprint(report.Domains[0].Lost) != "[check3 check4]" {
				t.Errorf("%v: %+v", err, report)
			}
			return
		}
		if !fail.Is(err, fail.Damaged) || len(r.Merged) > 0 || len(r.Held) != 2 {
			t.Errorf("%v; %+v", err, r)
		}
		if got := w.listed() + " | " + w.hidden(); got != "check3 check4 | check1 check2" {
			t.Errorf("listed and hidden: %s", got)
		}
	})
}

// After damage a disk is copied in full, and the chain goes on: what is chained onto the
// damaged point by another disk is not damaged, as the newer verification says.
func TestDamageIsThatOfADisk(t *testing.T) {
	w := newWorld(t)
	w.disks["vdb"] = make([]byte, 8*cluster)
	w.write("vda", 1, 0, 1, 2, 3)
	w.write("vdb", 2, 0, 3)
	w.point(manifest.KindFull, "")
	w.write("vda", 3, 1)
	w.write("vdb", 3, 1)
	w.point(manifest.KindInc, "check1")
	w.damage("check2", 3*cluster)
	w.verify()
	old := w.truth["check2"]["vda"]
	w.truth["check2"]["vda"] = nil // so that it is a full in check3
	w.write("vdb", 4, 2)
	w.point(manifest.KindInc, "check2")
	w.truth["check2"]["vda"] = old
	w.write("vda", 5, 2)
	w.point(manifest.KindInc, "check3")
	for _, verified := range []bool{false, true} { // nobody has verified them: they count as good
		if verified {
			w.verify()
		}
		request := last(2)
		request.DryRun = true
		got := map[string]string{}
		for _, p := range w.prune(request).Points {
			got[p.ID] = strings.Join(p.Reasons, ", ")
		}
		lastVerified, check4 := "last verified", "newest, newest base, last"
		if verified {
			lastVerified, check4 = "no rule keeps it", "newest, newest base, last verified, last"
		}
		want := map[string]string{"check1": lastVerified, "check2": "damaged, and no rule would keep it", "check3": "last", "check4": check4}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("verified %v:\ngot  %v\nwant %v", verified, got, want)
		}
	}
}

// If every listed point is damaged, hidden ones that are not keep their data.
func TestPruneKeepsTheLastResort(t *testing.T) {
	w := newWorld(t)
	w.nights(3)
	w.verify()
	w.prune(Request{Remove: []string{"check1"}})
	w.write("vda", 9, 1)
	w.point(manifest.KindInc, "check3")
	if err := errors.Join(w.note("check2", false), w.note("check3", false), w.note("check4", false)); err != nil {
		t.Fatal(err)
	}
	r := w.prune(compact(last(1)))
	if len(r.Merged)+len(r.Deleted) > 0 || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "--undo check1") {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(w.hidden(), "check1") {
		t.Errorf("hidden: %s", w.hidden())
	}
}
