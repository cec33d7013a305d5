package view

import (
	"bytes"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/prune"
)

// pruned is a result with all that there is.
func pruned() prune.Result {
	at := point("check1", full, "").Time
	return prune.Result{Domain: "vm1", Seconds: 3, Freed: 3 << 29,
		Points: []prune.Point{
			{ID: "check1", Kind: full, Time: at, Bytes: 4 << 30, Reasons: []string{"no rule keeps it"}},
			{ID: "check2", Kind: inc, Time: at, Bytes: 41 << 20, Reasons: []string{"no rule keeps it"}},
			{ID: "check3", Kind: inc, Time: at, Bytes: 41 << 20, Keep: true, Reasons: []string{"newest", "newest base", "daily 2026-11-20"}},
		},
		Hidden:  []string{"check1", "check2"},
		Deleted: []string{"check2", "check1"},
		Merged: []prune.Merged{{Point: "check3", From: []string{"check1", "check2"}, Written: 42 << 20, Cloned: true},
			{Point: "check6", From: []string{"check5"}, Parent: "check4", Written: 1 << 20}},
		Held: []prune.Held{{Point: "check7", Bytes: 4 << 30, By: "waits to be merged into check8"}, {Point: "check9", Bytes: 1 << 20, By: "needed by diff10"},
			{Point: "check8", Bytes: 1 << 29, By: "waits to be merged into check8"}},
		Notes: []string{"removed .partial-check9, which a killed run had left"},
	}
}

func TestPruned(t *testing.T) {
	dry, more := pruned(), pruned()
	dry.DryRun = true
	more.Freed = -5 << 20
	for _, tt := range []struct {
		result prune.Result
		want   string
	}{
		{pruned(), `vm1
  POINT   KIND  TIME                    IMAGE  KEEP    REASONS
  check1  full  2026-11-20 02:01:00   4.0 GiB  remove  no rule keeps it
  check2  inc   2026-11-20 02:01:00  41.0 MiB  remove  no rule keeps it
  check3  inc   2026-11-20 02:01:00  41.0 MiB  keep    newest, newest base, daily 2026-11-20
  removed: check1 check2
  merged: check1 check2 into check3, standalone now (42.0 MiB written, the rest shared)
  merged: check5 into check6, chained onto check4 now (1.0 MiB written)
  deleted: check2 check1
  freed now: 1.5 GiB
  still held: check7 check8 (4.5 GiB): waits to be merged into check8
  still held: check9 (1.0 MiB): needed by diff10
  note: removed .partial-check9, which a killed run had left
`},
		{dry, `
  would remove: check1 check2
  would merge: check1 check2 into check3, standalone then (by sharing data)
  would merge: check5 into check6, chained onto check4 then
  would delete: check2 check1
  would free now: up to 1.5 GiB
  would still be held: check7 check8 (4.5 GiB): waits to be merged into check8
  would still be held: check9 (1.0 MiB): needed by diff10
`},
		{more, "\n  freed now: 0 bytes (5.0 MiB more are taken)\n"},
		{prune.Result{Domain: "vm1"}, "vm1\n  no points yet\n"},
		{prune.Result{Domain: "vm1", Points: pruned().Points[2:]}, "\n  nothing to remove\n"},
		{prune.Result{Domain: "vm1", Points: pruned().Points[2:], Deleted: []string{"check1"}}, "2026-11-20\n  deleted: check1\n  freed now: 0 bytes\n"},
	} {
		var b bytes.Buffer
		if err := Pruned(&b, tt.result); err != nil || !strings.Contains(b.String(), tt.want) {
			t.Errorf("%v: got\n%s\nwant\n%s", err, b.String(), tt.want)
		}
	}
}

// With many points the table has all of them.
func TestPrunedShowsAllPoints(t *testing.T) {
	r := pruned()
	for len(r.Points) < 1000 {
		r.Points = append(r.Points, r.Points[0])
	}
	var b bytes.Buffer
	if err := Pruned(&b, r); err != nil || strings.Count(b.String(), "\n  check1  full") != 998 {
		t.Errorf("%v, %d lines", err, strings.Count(b.String(), "\n"))
	}
}

func TestMaterialised(t *testing.T) {
	var b bytes.Buffer
	r := prune.Result{Domain: "vm1", Seconds: 2.5, Merged: []prune.Merged{{Point: "check7", Written: 4 << 30}}}
	if err := Materialised(&b, r); err != nil || b.String() != "vm1\n  check7 needs no other point now: a synthetic full, 4.0 GiB written in 2.5 s\n" {
		t.Errorf("%v: %s", err, b.String())
	}
}
