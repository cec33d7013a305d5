package backup

import (
	"reflect"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// The source is asked for what was planned: what a disk has grown by since the base, too, is
// in no bitmap, and disks that are left out have to be named to be left out.
func TestJobOfAPlan(t *testing.T) {
	r := &run{instant: instants.Instant{Point: "check2"}, plan: plan.Plan{
		Checkpoint: "check2.0000000000000001",
		Disks: []plan.Disk{
			{Disk: xml.Disk{Target: "vda"}, Incremental: true, Since: "check1.0000000000000002", BaseSize: 1 << 20, Bitmap: true},
			{Disk: xml.Disk{Target: "vdb"}},
		},
		LeftOut: []manifest.LeftOut{{Target: "vdc", Reason: "not chosen"}},
	}}
	want := source.Job{
		Instant: r.instant, Checkpoint: "check2.0000000000000001", LeftOut: []string{"vdc"},
		Disks: []source.JobDisk{{Target: "vda", Since: "check1.0000000000000002", DirtyFrom: 1 << 20, Bitmap: true}, {Target: "vdb"}},
	}
	if got := r.job(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// The clock of Deps is that of the manifest.
func TestClockOfTheManifest(t *testing.T) {
	t.Parallel()
	s := newFakeSite(t)
	night := time.Date(2024, 2, 29, 1, 0, 0, 0, time.FixedZone("", 3600))
	deps := s.deps()
	deps.Now = func() time.Time { night = night.Add(time.Minute); return night }
	r, err := Run(t.Context(), deps, s.request(manifest.KindFull))
	if err != nil {
		t.Fatal(err)
	}
	begun, finished := time.Date(2024, 2, 29, 0, 1, 0, 0, time.UTC), time.Date(2024, 2, 29, 0, 2, 0, 0, time.UTC)
	if m := r.Point; !m.Time.Equal(begun) || !m.Finished.Equal(finished) || len(r.Warnings) > 0 {
		t.Errorf("the point is of %v, finished at %v, warnings %q", m.Time, m.Finished, r.Warnings)
	}
}
