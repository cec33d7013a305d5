package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
)

// point makes a manifest as list shows it.
func point(id string, kind repository.Kind, parent string, disks ...repository.Disk) repository.Manifest {
	m := repository.Manifest{ID: id, Kind: kind, Parent: parent, Domain: "vm1", Consistency: repository.ConsistencyCrash, Disks: disks}
	m.Time = time.Date(2026, 11, 20, 2, m.Number(), 0, 0, time.Local)
	return m
}

const (
	full = repository.KindFull
	inc  = repository.KindInc
	diff = repository.KindDiff
)

func TestTree(t *testing.T) {
	tests := []struct {
		name   string
		points []repository.Manifest
		want   string
	}{
		{"one", []repository.Manifest{point("check1", full, "")}, "check1"},
		{"a chain is one column", []repository.Manifest{
			point("check1", full, ""), point("check2", inc, "check1"), point("check3", inc, "check2")}, `
check1
├─ check2
└─ check3`},
		{"a diff stands to the side", []repository.Manifest{
			point("check1", full, ""), point("diff2", diff, "check1"), point("check3", inc, "check1"), point("check4", inc, "check3")}, `
check1
│  └─ diff2
├─ check3
└─ check4`},
		{"only diffs", []repository.Manifest{
			point("check1", full, ""), point("diff2", diff, "check1"), point("diff3", diff, "check1")}, `
check1
│  └─ diff2
└─ diff3`},
		{"side branches with points of their own", []repository.Manifest{
			point("check1", full, ""), point("check2", inc, "check1"), point("check3", inc, "check2"),
			point("diff4", diff, "check1"), point("check5", inc, "check1")}, `
check1
│  ├─ check2
│  │  └─ check3
│  └─ diff4
└─ check5`},
		{"several chains", []repository.Manifest{
			point("check1", full, ""), point("copy2", repository.KindCopy, ""), point("check3", full, ""), point("check4", inc, "check3")}, `
check1
copy2
check3
└─ check4`},
		{"the parent is lost", []repository.Manifest{point("check3", inc, "check2"), point("check4", inc, "check3")}, `
check3
└─ check4`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var lines []string
			for _, n := range tree(tt.points, "vm1") {
				lines = append(lines, n.branch+n.point.ID)
			}
			if got, want := strings.Join(lines, "\n"), strings.TrimPrefix(tt.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestPrintTrees(t *testing.T) {
	vda := repository.Disk{Target: "vda", Kind: full, DataBytes: 3 << 20, ImageBytes: 3<<20 + 512<<10}
	vdb := repository.Disk{Target: "vdb", Kind: inc, DataBytes: 1 << 30, ImageBytes: 1 << 30}
	points := asListed([]repository.Manifest{point("check1", full, "", vda), point("check2", inc, "check1", vda, vdb), point("diff3", repository.KindDiff, "check2", vda)},
		map[string]repository.Verification{"check1": {Sound: true, Time: time.Date(2026, 11, 21, 3, 4, 5, 0, time.Local)}, "check2": {}},
		&repository.Ledger{}, time.Date(2026, 11, 20, 2, 2, 59, 0, time.Local))
	var b bytes.Buffer
	if err := printTrees(&b, []string{"vm0", "vm1"}, points); err != nil {
		t.Fatal(err)
	}
	want := `vm0
  no points yet

vm1
  POINT      KIND  PARENT  TIME                 DISKS       DATA    IMAGE  CONSISTENCY  CHECKPOINT  VERIFIED             NOTE
  check1     full          2026-11-20 02:01:00  vda      3.0 MiB  3.5 MiB  crash        -           2026-11-21 03:04:05
  ├─ check2  inc   check1  2026-11-20 02:02:00  vda vdb  1.0 GiB  1.0 GiB  crash        -           DAMAGED              vda in full
  └─ diff3   diff  check2  2026-11-20 02:03:00  vda      3.0 MiB  3.5 MiB  crash        -           -                    its time, 2026-11-20 02:03:00, lies in the future; vda in full
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := printTrees(&b, nil, nil); err != nil || b.String() != "no points yet\n" {
		t.Errorf("nothing: got %q, %v", b.String(), err)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB",
		1 << 30: "1.0 GiB", 1 << 40: "1.0 TiB", 1 << 50: "1.0 PiB", 1 << 60: "1024.0 PiB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestProgressLine(t *testing.T) {
	tests := []struct {
		copied, expected int64
		elapsed          time.Duration
		want             string
	}{
		{1 << 30, 4 << 30, 10 * time.Second, "vda: 1.0 GiB of about 4.0 GiB copied, 102.4 MiB/s, about 30s left"},
		{1 << 30, -1, 10 * time.Second, "vda: 1.0 GiB copied, 102.4 MiB/s"},
		{2 << 30, 1 << 30, 10 * time.Second, "vda: 2.0 GiB copied, 204.8 MiB/s"},
		{0, 1 << 30, 0, "vda: 0 B of about 1.0 GiB copied, 0 B/s"},
	}
	for _, tt := range tests {
		if got := progressLine("vda", "copied", tt.copied, tt.expected, tt.elapsed); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

// Bars of a run that failed do not say that they are done.
func TestProgressBars(t *testing.T) {
	for _, done := range []bool{true, false} {
		var b bytes.Buffer
		p := startProgress(&b, barsAlways)
		p.update("vda", 1<<20, 4<<20)
		if _, err := p.Write([]byte("a line of the log\n")); err != nil {
			t.Fatal(err)
		}
		p.close(done)
		p.close(false)
		if got := b.String(); !strings.Contains(got, "vda") || !strings.Contains(got, "a line of the log\n") {
			t.Errorf("done %v: %q", done, got)
		}
		if got := strings.Contains(b.String(), "not done"); got == done {
			t.Errorf("done %v: %q", done, b.String())
		}
	}
}

func TestProgressInALog(t *testing.T) {
	var b bytes.Buffer
	p := startProgress(&b, barsAuto)
	p.update("vda", 1<<20, 4<<20)
	p.disks["vda"].said = p.disks["vda"].said.Add(-lineInterval)
	p.update("vda", 2<<20, 4<<20)
	p.update("vda", 3<<20, 4<<20)
	p.update("vda", 1<<20, 4<<20) // late
	p.close(true)
	if got := b.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "vda: 2.0 MiB of about 4.0 MiB copied") {
		t.Errorf("got %q, want one line", got)
	}
}

func TestCheckpointRows(t *testing.T) {
	all := []checkpoint.Checkpoint{
		{Checkpoint: xml.Checkpoint{Name: "check1", Disks: []xml.CheckpointDisk{{Target: "vda", Bitmap: "check1", Size: 65536}, {Target: "vdb"}}}, Ours: true, Sealed: true, Instant: repository.Instant{Point: "check1"}},
		{Checkpoint: xml.Checkpoint{Name: "check2", Disks: []xml.CheckpointDisk{{Target: "vda", Bitmap: "check2", Size: -1}}}, Ours: true},
		{Checkpoint: xml.Checkpoint{Name: "theirs", Disks: []xml.CheckpointDisk{{Target: "vda", Bitmap: "theirs"}}}},
	}
	rows := checkpointRows(all)
	var b bytes.Buffer
	for _, r := range rows {
		b.WriteString(r.Name + "|" + r.Owner + "|" + r.Point + "|" + strings.Join(r.Broken, " ") + "|" + diskStates(all, r.Name) + "|" + totalSize(r) + "\n")
	}
	want := "check1|ours|check1||vda|64.0 KiB\ncheck2|left over||vda|vda (broken or unknown)|unknown\ntheirs|foreign|||vda|0 B\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if _, ok := rows[0].Bytes["vdb"]; ok {
		t.Error("a disk that the checkpoint does not cover has a size")
	}
}

func TestSplitPoint(t *testing.T) {
	for in, want := range map[string][2]string{
		"vm1": {"vm1", ""}, "vm1@check2": {"vm1", "check2"}, "a@b@check2": {"a@b", "check2"}, "@vm": {"@vm", ""}, "vm1@": {"vm1", ""},
	} {
		if domain, id := splitPoint(in); domain != want[0] || id != want[1] {
			t.Errorf("splitPoint(%q) = %q, %q, want %q", in, domain, id, want)
		}
	}
}
