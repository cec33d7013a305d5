package inplace

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore/inplace"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// addPoint adds a point of the repository that a restore has made, with its truth.
func addPoint(t *testing.T, s *testsite.Site, id string, truth map[string]string) {
	t.Helper()
	data := s.Program.Must(t, nil, "--json", "show", s.Name+"@"+id).Stdout
	var m manifest.Manifest
	if err := json.Unmarshal([]byte(data), &m); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	s.Points = append(s.Points, testsite.Point{Manifest: m, Truth: truth})
}

// The present state is kept as a point first, and comes back; the chain goes on.
func TestSaved(t *testing.T) {
	t.Parallel()
	s := kinds(t)
	points(t, s)
	s.Destroy()
	truth := s.Truths()
	r := restored(t, s, "check1")
	if r.Saved != "check4" {
		t.Fatalf("%+v", r)
	}
	addPoint(t, s, r.Saved, truth)
	wantPoint(t, s, pointOf(t, s, "check1"))
	for _, d := range r.Disks {
		if d.Format == "qcow2" && d.Method != inplace.MethodBitmap {
			t.Errorf("%+v", d)
		}
	}
	r = restored(t, s, r.Saved)
	wantPoint(t, s, pointOf(t, s, "check4"))
	addPoint(t, s, r.Saved, pointOf(t, s, "check1").Truth)
	s.Start()
	s.WriteAll(5)
	inc := s.BackUp(0, "inc")
	for _, d := range inc.Point.Disks {
		if d.DataBytes > 10*mib {
			t.Errorf("the next inc of disk %s has %d bytes", d.Target, d.DataBytes)
		}
	}
	s.Check()
}

// Killed after the present state was saved, the same command means the point that "latest"
// was before, and not the one of the present state. Nor does it save a mixture.
func TestSavedAndKilled(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"in place: saved", "in place: zero heads after", "in place: write heads after"} {
		t.Run(point, func(t *testing.T) {
			s := small(t)
			args := []string{"--json", "restore", s.Name, "--in-place", "--yes"}
			truth := s.Truths()
			if r := faulty(t, s, []string{"VIRTBACKUP_FAULT=" + point + ":kill"}, args...); r.Code != 137 {
				t.Fatalf("exit %d", r.Code)
			}
			addPoint(t, s, "check3", truth)
			r := resultOf(t, s.Program.Must(t, []int{0, 3}, args...))
			if r.Point != "check2" {
				t.Errorf("it was restored to %s", r.Point)
			}
			wantPoint(t, s, pointOf(t, s, "check2"))
			list := s.Program.Must(t, nil, "--quiet", "list", s.Name).Stdout
			if strings.Contains(list, "check4") != (point == "in place: saved") {
				t.Errorf("points:\n%s", list)
			}
			s.Start()
			s.WriteAll(4)
			s.BackUp(0, "inc")
			s.Check()
		})
	}
}

// If the present state cannot be saved, nothing is overwritten.
func TestSaveFails(t *testing.T) {
	t.Parallel()
	s := small(t)
	before := digests(t, s.Dir)
	r := faulty(t, s, []string{"VIRTBACKUP_FAULT=write image:full"}, "restore", s.Name+"@check1", "--in-place", "--yes")
	if r.Code != 1 || !strings.Contains(r.Stderr, "make a point of the present state") || !strings.Contains(r.Stderr, "--no-save") {
		t.Errorf("exit %d", r.Code)
	}
	after := digests(t, s.Dir)
	for _, d := range s.Disks {
		if d.Format == "raw" && before[d.Source] != after[d.Source] { // a bitmap may have come and gone in a qcow2
			t.Errorf("disk %s was changed", d.Target)
		}
	}
	testdomain.Same(t, s.Disk("vda").Source, "qcow2", s.Truths()["vda"])
	s.Start()
	s.BackUp(0, "inc")
	s.Check()
}

// What is written after the point of the present state was made is not overwritten: the domain was
// started in between.
func TestWrittenAfterSave(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"vda", "vdb"} {
		s := small(t)
		p := s.Program
		p.Binary, p.Env = testdomain.FaultyBinary(t), append(p.Env, "VIRTBACKUP_FAULT=in place: saved:pause")
		run := p.Start(t, "restore", s.Name+"@check1", "--in-place", "--yes")
		testsite.AwaitStopped(t, run)
		s.Start()
		s.IO(target, "write -P 0x66 5M 64k")
		s.Destroy()
		before := testdomain.Tool(t, "md5sum", s.Disk("vda").Source, s.Disk("vdb").Source)
		testsite.Continue(run)
		if r := run.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, "disk "+target+" of domain "+s.Name+" was written to after point check3 was made") {
			t.Errorf("disk %s: exit %d", target, r.Code)
		}
		if after := testdomain.Tool(t, "md5sum", s.Disk("vda").Source, s.Disk("vdb").Source); after != before {
			t.Errorf("disk %s: the disks were changed", target)
		}
	}
}
