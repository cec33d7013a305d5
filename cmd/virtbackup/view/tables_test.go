package view

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/verify"
	"github.com/virtbackup/virtbackup/xml"
)

// No row of any table is wider than sixty columns, with names and sizes of long running
// installations, and what is wrong is still there.
func TestTablesFitSixtyColumns(t *testing.T) {
	t.Setenv("COLUMNS", "60")
	disk := manifest.Disk{Target: "vda", Kind: inc, VirtualSize: 1 << 44, DataBytes: 1023 << 30, ZeroBytes: 1023 << 30, ImageBytes: 1023 << 30,
		Parent: "../check1234/vda.qcow2", Source: "/var/lib/libvirt/images/a-long-name-of-a-guest.example.com-disk-0.qcow2",
		Method: manifest.MethodRescan, Reason: "the bitmap of checkpoint check1234 is missing or broken"}
	m := point("check1235", inc, "check1234", disk)
	m.LeftOut = []manifest.LeftOut{{Target: "sda", Reason: "cdrom"}}
	listed := List([]manifest.Manifest{point("check1234", full, "", disk), m, point("diff1236", diff, "check1234", disk)}, Facts{
		Verified: map[string]repository.Verification{"check1234": {Time: time.Now(), Sound: true}, "check1235": {}},
		Lost:     map[string][]string{"check1235": {"vda"}}, Ledger: &repository.Ledger{}, Now: time.Now()}, false)
	all := []checkpoint.Checkpoint{{Checkpoint: xml.Checkpoint{Name: "check1234.0123456789abcdef", Disks: []xml.CheckpointDisk{
		{Target: "vda", Bitmap: "b", Size: 1023 << 20}, {Target: "vdb", Bitmap: "b", Size: -1}}}}}
	for name, tt := range map[string]struct {
		print func(w io.Writer) error
		want  []string
	}{
		"list":   {func(w io.Writer) error { return Trees(w, []string{"vm1"}, listed) }, []string{"check1235", "DAMAGED", "vda LOST"}},
		"report": {func(w io.Writer) error { return Disks(w, m, manifest.Manifest{}, "  ") }, []string{"vda", "1023.0 GiB", "the bitmap of"}},
		"verify": {func(w io.Writer) error {
			return verifiedPoints(w, verify.DomainReport{Domain: "vm1", Points: []verify.Point{
				{ID: "check1234", Kind: inc, Time: time.Now(), Status: verify.Lost, Disks: []string{"vda", "vdb", "vdc"}, LostDisks: []string{"vda", "vdb"}, Broken: true}}}, verify.Report{})
		}, []string{"check1234", "NOT vda vdb; --disk vd"}},
		"checkpoint list": {func(w io.Writer) error { return Checkpoints(w, all, false) }, []string{"check1234.0123456789abcdef", "foreign", "vda vdb (broken"}},
		"checkpoint size": {func(w io.Writer) error { return Sizes(w, all, false) }, []string{"1023.0 MiB", "unknown"}},
		"prune":           {func(w io.Writer) error { return decisions(pruned()).Print(w, "  ") }, []string{"check3", "keep", "newest, newest"}},
		"restore": {func(w io.Writer) error {
			g := restoredGrid(restore.Result{Disks: []restore.Disk{{Target: "vda", VirtualSize: 1 << 44, DataBytes: 1 << 40, Image: "/a/long/directory/of/a/file/system/that/is/mounted/vda.qcow2"}}})
			return g.Print(w, "  ")
		}, []string{"vda.qcow2"}},
	} {
		var b bytes.Buffer
		if err := tt.print(terminal.NewScreen(&b)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for line := range strings.Lines(b.String()) {
			if n := text.StringWidthWithoutEscSequences(strings.TrimSuffix(line, "\n")); n > 60 {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
		for _, want := range tt.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: %q is missing in\n%s", name, want, b.String())
			}
		}
	}
}

// Of one point asked for, the table does not list the hundred others.
func TestVerifiedRows(t *testing.T) {
	points := []verify.Point{{ID: "check1", Status: verify.NotChecked}, {ID: "check2", Status: verify.OK, Restores: true}, {ID: "diff3", Status: verify.Lost, Disks: []string{"vda"}, LostDisks: []string{"vda"}}}
	for n, want := range map[int]string{2: "1 other point was not checked", 3: "2 other points were not checked"} {
		var b bytes.Buffer
		report := verify.DomainReport{Domain: "vm1", Points: append(points[:3:3], verify.Point{ID: "copy4", Status: verify.NotChecked})[:n+1]}
		if err := verifiedPoints(&b, report, verify.Report{}); err != nil || strings.Contains(b.String(), "check1") || !strings.Contains(b.String(), "check2") || !strings.Contains(b.String(), "  "+want+"\n") {
			t.Errorf("%v\n%s", err, b.String())
		}
	}
	var b bytes.Buffer
	if err := verifiedPoints(&b, verify.DomainReport{Domain: "vm1", Points: points[1:]}, verify.Report{}); err != nil || strings.Contains(b.String(), "not checked") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// What is as it was every night is no news.
func TestNotesOfRawDisksAreSaidOnce(t *testing.T) {
	raw := manifest.Disk{Target: "vda", Kind: inc, Method: manifest.MethodRescan, Reason: "a raw image has no bitmaps"}
	first, second := point("check2", inc, "check1", raw), point("check3", inc, "check2", raw)
	if got := diskRemark(first, point("check1", full, "", manifest.Disk{Target: "vda", Kind: full})); got != "vda rescanned: a raw image has no bitmaps" {
		t.Errorf("the first: %q", got)
	}
	if got := diskRemark(second, first); got != "" {
		t.Errorf("the second: %q", got)
	}
	var b bytes.Buffer
	if err := Backup(&b, backup.Result{Point: second, Base: first}); err != nil || strings.Contains(b.String(), "raw") {
		t.Errorf("the report: %v %s", err, b.String())
	}
}

// What a point has besides disks is shown, and named in the report of the run.
func TestExtras(t *testing.T) {
	m := point("check1", full, "", manifest.Disk{Target: "vda"})
	m.Autostart = true
	m.Extras = []manifest.Extra{
		{Kind: manifest.ExtraNVRAM, File: "nvram.fd", Path: "/nvram/vm1_VARS.fd", Size: 528 << 10},
		{Kind: manifest.ExtraTPM, File: "tpm.tar", Size: 10 << 10}, {Kind: "later", File: "later", Size: 1},
	}
	repo, err := repository.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		print func(w io.Writer) error
		want  []string
	}{
		"show": {func(w io.Writer) error { return Point(w, repo, Shown{Manifest: m}, true) },
			[]string{"autostart:   yes\n", "also:        UEFI variables, 528.0 KiB in nvram.fd, from /nvram/vm1_VARS.fd\n", "also:        state of the TPM, 10.0 KiB in tpm.tar\n", "later"}},
		"restore": {func(w io.Writer) error {
			return Restored(w, restore.Result{Extras: []restore.Extra{{Extra: m.Extras[0], Restored: "/to/nvram.fd"}}})
		}, []string{"  its UEFI variables: nvram.fd\n"}},
		"report": {func(w io.Writer) error { return Backup(w, backup.Result{Point: m}) }, []string{"  also stored: UEFI variables, state of the TPM, later\n"}},
	} {
		var b bytes.Buffer
		if err := tt.print(&b); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, want := range tt.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: %q is missing in\n%s", what, want, b.String())
			}
		}
	}
}

// Disks restore from a point of which another file is damaged.
func TestRestoresOf(t *testing.T) {
	day21 := time.Date(2026, 11, 21, 3, 4, 5, 0, time.Local)
	for _, tt := range []struct {
		point verify.Point
		how   verify.Report
		want  string
	}{
		{verify.Point{Restores: true, Disks: []string{"vda"}}, verify.Report{}, "yes"},
		{verify.Point{Broken: true, Disks: []string{"vda", "vdb"}}, verify.Report{}, "NOT whole; --disk vda --disk vdb does"},
		{verify.Point{Broken: true, Disks: []string{"vda", "vdb"}, LostDisks: []string{"vdb"}}, verify.Report{Sample: 10}, "NOT vdb; --disk vda does"},
		{verify.Point{Broken: true, Disks: []string{"vda"}, LostDisks: []string{"vda"}}, verify.Report{}, "NO"},
		{verify.Point{Broken: true}, verify.Report{}, "NO"},
		{verify.Point{Restores: true, Verified: day21}, verify.Report{Sample: 10}, "yes; all was read since 2026-11-21"},
		{verify.Point{ProvenPercent: 40}, verify.Report{Sample: 10}, "not known yet; 40% was read"},
		{verify.Point{Status: verify.OK}, verify.Report{}, "not known yet"}, // with --max-duration
		{verify.Point{}, verify.Report{Quick: true}, "not known yet"},
		{verify.Point{Verified: day21}, verify.Report{Quick: true}, "not proven now; verified 2026-11-21"},
	} {
		if got := restoresOf(tt.point, tt.how); got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.point, got, tt.want)
		}
	}
}
