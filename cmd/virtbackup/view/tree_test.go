package view

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// point makes a manifest as list shows it.
func point(id string, kind manifest.Kind, parent string, disks ...manifest.Disk) manifest.Manifest {
	m := manifest.Manifest{ID: id, Kind: kind, Parent: parent, Domain: "vm1", Consistency: manifest.ConsistencyCrash, Disks: disks}
	m.Time = time.Date(2026, 11, 20, 2, m.Number(), 0, 0, time.Local)
	return m
}

const (
	full = manifest.KindFull
	inc  = manifest.KindInc
	diff = manifest.KindDiff
)

func TestTree(t *testing.T) {
	tests := []struct {
		name   string
		points []manifest.Manifest
		want   string
	}{
		{"one", []manifest.Manifest{point("check1", full, "")}, "check1"},
		{"a chain is one column", []manifest.Manifest{
			point("check1", full, ""), point("check2", inc, "check1"), point("check3", inc, "check2")}, `
check1
├─ check2
└─ check3`},
		{"a diff stands to the side", []manifest.Manifest{
			point("check1", full, ""), point("diff2", diff, "check1"), point("check3", inc, "check1"), point("check4", inc, "check3")}, `
check1
│  └─ diff2
├─ check3
└─ check4`},
		{"only diffs", []manifest.Manifest{
			point("check1", full, ""), point("diff2", diff, "check1"), point("diff3", diff, "check1")}, `
check1
│  └─ diff2
└─ diff3`},
		{"side branches with points of their own", []manifest.Manifest{
			point("check1", full, ""), point("check2", inc, "check1"), point("check3", inc, "check2"),
			point("diff4", diff, "check1"), point("check5", inc, "check1")}, `
check1
│  ├─ check2
│  │  └─ check3
│  └─ diff4
└─ check5`},
		{"several chains", []manifest.Manifest{
			point("check1", full, ""), point("copy2", manifest.KindCopy, ""), point("check3", full, ""), point("check4", inc, "check3")}, `
check1
copy2
check3
└─ check4`},
		{"the parent is lost", []manifest.Manifest{point("check3", inc, "check2"), point("check4", inc, "check3")}, `
check3
└─ check4`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var lines []string
			for _, n := range tree(List(tt.points, Facts{Ledger: &repository.Ledger{}}, false), "vm1") {
				lines = append(lines, n.branch+n.point.ID)
			}
			if got, want := strings.Join(lines, "\n"), strings.TrimPrefix(tt.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestPrintTrees(t *testing.T) {
	vda := manifest.Disk{Target: "vda", Kind: full, DataBytes: 3 << 20, ImageBytes: 3<<20 + 512<<10}
	vdb := manifest.Disk{Target: "vdb", Kind: inc, DataBytes: 1 << 30, ImageBytes: 1 << 30}
	points := List([]manifest.Manifest{point("check1", full, "", vda), point("check2", inc, "check1", vda, vdb), point("diff3", manifest.KindDiff, "check2", vda)}, Facts{
		Verified: map[string]repository.Verification{"check1": {Sound: true, Time: time.Date(2026, 11, 21, 3, 4, 5, 0, time.Local)}, "check2": {}},
		Ledger:   &repository.Ledger{}, Now: time.Date(2026, 11, 20, 2, 2, 59, 0, time.Local)}, false)
	var b bytes.Buffer
	if err := Trees(&b, []string{"vm0", "vm1"}, points); err != nil {
		t.Fatal(err)
	}
	want := `vm0
  no points yet

vm1
  POINT      KIND  PARENT  TIME                 DISKS       DATA    IMAGE  CONSISTENCY  CHECKPOINT  VERIFIED    NOTE
  check1     full          2026-11-20 02:01:00  vda      3.0 MiB  3.5 MiB  crash        -           2026-11-21
  ├─ check2  inc   check1  2026-11-20 02:02:00  vda vdb  1.0 GiB  1.0 GiB  crash        -           DAMAGED     vda in full
  └─ diff3   diff  check2  2026-11-20 02:03:00  vda      3.0 MiB  3.5 MiB  crash        -           -           its time, 2026-11-20 02:03:00, lies in the future; vda in full
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := Trees(&b, nil, nil); err != nil || b.String() != "no points yet\n" {
		t.Errorf("nothing: got %q, %v", b.String(), err)
	}
}

// chain has removed points between those that are listed, and below them.
func chain() ([]manifest.Manifest, Facts) {
	removed := lineage.Removal{Time: time.Date(2026, 11, 22, 0, 0, 0, 0, time.Local), Reason: "no rule keeps it"}
	all := []manifest.Manifest{point("check1", full, ""), point("check2", inc, "check1"), point("check3", inc, "check2"),
		point("check4", inc, "check3"), point("diff5", diff, "check2"), point("check6", full, ""), point("check7", inc, "check6")}
	return all, Facts{Ledger: &repository.Ledger{}, Now: time.Date(2026, 11, 23, 0, 0, 0, 0, time.Local),
		Removals: map[string]lineage.Removal{"check2": removed, "check3": removed, "check6": removed},
		Protected: map[string]keep.Protection{
			"check1": {Until: time.Date(2027, 1, 1, 23, 59, 59, 999999999, time.Local), Note: "golden"}}}
}

// A point stands below the nearest one that is listed, whatever was removed between them.
func TestTreeOfHiddenPoints(t *testing.T) {
	for hidden, want := range map[bool]string{false: `vm1
  POINT        KIND  PARENT  TIME                 DATA  IMAGE  CONSISTENCY  CHECKPOINT  VERIFIED  NOTE
  check1       full          2026-11-20 02:01:00   0 B    0 B  crash        -           -         protected until 2027-01-01: golden
  │  └─ diff5  diff  check2  2026-11-20 02:05:00   0 B    0 B  crash        -           -
  └─ check4    inc   check3  2026-11-20 02:04:00   0 B    0 B  crash        -           -
  check7       inc   check6  2026-11-20 02:07:00   0 B    0 B  crash        -           -
`, true: `vm1
  POINT        KIND  PARENT  TIME                 DATA  IMAGE  CONSISTENCY  CHECKPOINT  VERIFIED  NOTE
  check1       full          2026-11-20 02:01:00   0 B    0 B  crash        -           -         protected until 2027-01-01: golden
  ├─ check2    inc   check1  2026-11-20 02:02:00   0 B    0 B  crash        -           -         removed 2026-11-22 00:00:00: no rule keeps it
  │  └─ diff5  diff  check2  2026-11-20 02:05:00   0 B    0 B  crash        -           -
  ├─ check3    inc   check2  2026-11-20 02:03:00   0 B    0 B  crash        -           -         removed 2026-11-22 00:00:00: no rule keeps it
  └─ check4    inc   check3  2026-11-20 02:04:00   0 B    0 B  crash        -           -
  check6       full          2026-11-20 02:06:00   0 B    0 B  crash        -           -         removed 2026-11-22 00:00:00: no rule keeps it
  └─ check7    inc   check6  2026-11-20 02:07:00   0 B    0 B  crash        -           -
`} {
		all, facts := chain()
		var b bytes.Buffer
		if err := Trees(&b, []string{"vm1"}, List(all, facts, hidden)); err != nil || b.String() != want {
			t.Errorf("hidden %v, %v: got\n%s\nwant\n%s", hidden, err, b.String(), want)
		}
	}
}
