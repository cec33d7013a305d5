package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// Only the chosen disks are in the point, the checkpoint and the job.
func TestChosenDisks(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20},
		testdomain.Disk{Target: "vdc", Size: 16 << 20}, testdomain.Disk{Target: "vdd", Size: 16 << 20, ReadOnly: true},
		testdomain.Disk{Target: "hda", Device: "cdrom"}))
	s.Disks = slices.DeleteFunc(s.Disks, func(d testdomain.Disk) bool { return d.ReadOnly || d.Device == "cdrom" })
	s.WriteAll(1)
	for _, c := range []struct {
		code int
		args []string
		want string
	}{
		{0, []string{"full"}, "vda full, vdb full, vdc full"},
		{0, []string{"inc", "--disk", "vda", "--disk", "vdc"}, "vda inc, vdc inc"},
		{3, []string{"inc", "--exclude", "vdc"}, "vda inc, vdb full"}, // the previous point does not have vdb
		{0, []string{"inc", "--since", "check1", "--disk", "vdb"}, "vdb inc"},
		{0, []string{"diff", "--exclude", "vda", "--exclude", "vdb"}, "vdc inc"},
		{0, []string{"copy", "--disk", "vdc"}, "vdc full"},
		{0, []string{"full", "--disk", "vda"}, "vda full"},
	} {
		p := s.BackUp(c.code, c.args[0], c.args[1:]...).Point
		testsite.WantKinds(t, p, c.want)
		wantBitmaps(s, p)
		s.WriteAll(int64(len(s.Points) + 1))
	}
	s.Refused(6, `no disk "vdx"`, "inc", s.Name, "--disk", "vdx")
	s.Refused(6, `no disk "vdx"`, "full", s.Name, "--exclude", "vdx")
	s.Refused(2, "read-only", "inc", s.Name, "--disk", "vdd")
	s.Refused(2, "", "full", s.Name, "--disk", "vda", "--exclude", "vda")
	s.Refused(2, "", "full", s.Name, "--exclude", "vda", "--exclude", "vdb", "--exclude", "vdc")
	s.Check()
}

// wantBitmaps checks that the point's checkpoint is on the disks of the point.
func wantBitmaps(s *testsite.Site, p manifest.Manifest) {
	s.T.Helper()
	if p.Checkpoint == "" {
		if p.IsBase() {
			s.T.Errorf("point %s has no checkpoint", p.ID)
		}
		return
	}
	doc := testdomain.Virsh(s.T, "checkpoint-dumpxml", s.Name, p.Checkpoint, "--no-domain")
	for _, d := range s.Disks {
		_, chosen := p.Disk(d.Target)
		has := strings.Contains(doc, "<disk name='"+d.Target+"' checkpoint='bitmap'")
		if has != chosen {
			s.T.Errorf("checkpoint %s on %s: %v, want %v\n%s", p.Checkpoint, d.Target, has, chosen, doc)
		}
	}
}

// A job exports the chosen disks only.
func TestJobOfChosenDisks(t *testing.T) {
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 32 << 20}, testdomain.Disk{Target: "vdb", Size: 32 << 20}))
	s.WriteAll(1)
	truth := s.Truths()
	s.Disks = s.Disks[1:] // the number of exports to wait for
	p := s.Program.Start(t, "--json", "full", s.Name, "--disk", "vdb")
	s.StopAtSocket(p)
	job := testdomain.Virsh(t, "backup-dumpxml", s.Name)
	if !strings.Contains(job, "<disk name='vda' backup='no'") || !strings.Contains(job, "<disk name='vdb' backup='yes'") {
		t.Errorf("the job is not that of vdb alone:\n%s", job)
	}
	testsite.Continue(p)
	if r := p.Wait(); r.Code != 0 {
		t.Fatalf("exit %d", r.Code)
	} else {
		s.Add(r, truth)
	}
	s.Check()
}
