package inplace

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// faulty runs a restore with faults.
func faulty(t *testing.T, s *testsite.Site, env []string, args ...string) testdomain.Result {
	t.Helper()
	p := s.Program
	p.Binary, p.Env = testdomain.FaultyBinary(t), append(slices.Clone(p.Env), env...)
	return p.Run(t, args...)
}

// passes are the fault points of a run: "in place: open before#1".
func passes(t *testing.T, s *testsite.Site, args ...string) []string {
	t.Helper()
	file := filepath.Join(testdomain.TempDir(t), "trace")
	if r := faulty(t, s, []string{"VIRTBACKUP_FAULT_TRACE=" + file}, args...); r.Code != 0 && r.Code != 3 {
		t.Fatalf("exit %d", r.Code)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// Killed at any point, a restore leaves the repository as it was, and the same command
// finishes it: the disks are right, autostart is on again, the next inc is right. VIRTBACKUP_SEED
// repeats the cut.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := small(t)
	testdomain.Virsh(t, "autostart", s.Name)
	args := []string{"restore", s.Name + "@check1", "--in-place", "--yes", "--no-save"}
	saved := savedDisks(t, s)
	all := passes(t, s, args...)
	repository := digests(t, s.Repo)
	points := all
	if !testsite.AllFaults() {
		points = cut(all)
	}
	t.Logf("%d points", len(points))
	seed := testsite.NewSeed(t)
	for ways, cut := range map[string]uint64{"kill": 4, "error": 10} {
		for i, point := range points {
			if !testsite.AllFaults() && (uint64(i)+seed)%cut > 0 {
				continue
			}
			saved.back(t)
			t.Logf("%s at %q", ways, point)
			r := faulty(t, s, []string{"VIRTBACKUP_FAULT=" + point + ":" + ways}, args...)
			if r.Code == 0 || r.Code == 3 {
				t.Errorf("%s at %s: exit %d", ways, point, r.Code)
			}
			on := strings.Contains(testdomain.Virsh(t, "dominfo", s.Name), "Autostart:      enable")
			if r := s.Program.Run(t, args...); r.Code != 0 && r.Code != 3 {
				t.Fatalf("%s at %s: begun again: exit %d", ways, point, r.Code)
			}
			wantPoint(t, s, pointOf(t, s, "check1"))
			if !strings.Contains(testdomain.Virsh(t, "dominfo", s.Name), "Autostart:      enable") {
				t.Errorf("%s at %s: autostart is off (it was on in between: %v)", ways, point, on)
			}
			if after := digests(t, s.Repo); !maps.Equal(repository, after) {
				t.Errorf("%s at %s: the repository has changed", ways, point)
			}
			if t.Failed() {
				return
			}
		}
	}
	s.Start()
	s.BackUp(0, "inc")
	s.Check()
}

// cut leaves the first of all points of the same name.
func cut(all []string) (points []string) {
	for _, point := range all {
		if strings.HasSuffix(point, "#1") {
			points = append(points, point)
		}
	}
	return points
}

// disksOf are the disks of a site as they were.
type disksOf map[string]string

func savedDisks(t *testing.T, s *testsite.Site) disksOf {
	t.Helper()
	all := disksOf{}
	for _, d := range s.Disks {
		all[d.Source] = filepath.Join(testdomain.TempDir(t), filepath.Base(d.Source))
		testdomain.Tool(t, "cp", "--sparse=always", d.Source, all[d.Source])
	}
	return all
}

// back puts them back, into the same files.
func (d disksOf) back(t *testing.T) {
	t.Helper()
	for path, saved := range d {
		testdomain.Tool(t, "dd", "status=none", "bs=1M", "if="+saved, "of="+path)
	}
}

// While the disks are half restored they do not boot: their first MiB is zeros, and autostart
// is off.
func TestHalfRestored(t *testing.T) {
	t.Parallel()
	s := small(t)
	testdomain.Virsh(t, "autostart", s.Name)
	args := []string{"restore", s.Name + "@check1", "--in-place", "--yes", "--no-save"}
	for _, point := range []string{"in place: zero heads after", "in place: write#1", "in place: write after", "in place: write heads before"} {
		saved := savedDisks(t, s)
		if r := faulty(t, s, []string{"VIRTBACKUP_FAULT=" + point + ":kill"}, args...); r.Code != 137 {
			t.Fatalf("%s: exit %d", point, r.Code)
		}
		for _, d := range s.Disks {
			testsite.Await(t, "the end of the storage daemon", 0, func() bool {
				return testdomain.TryTool(t, "qemu-io", "-f", d.Format, "-c", "read 0 512", d.Source) == nil
			})
			testdomain.QemuIO(t, d.Source, d.Format, "read -P 0 0 1M")
		}
		if strings.Contains(testdomain.Virsh(t, "dominfo", s.Name), "Autostart:      enable") {
			t.Errorf("%s: autostart is on", point)
		}
		s.Rejects(testsite.Reject(1, "its disks hold a mixture of two states", "virtbackup restore "+s.Name+"@check1 --in-place finishes it"), []string{"--quiet", "copy", s.Name})
		s.Rejects(testsite.Reject(2, "it is not clear what", s.Name+"@check1 finishes it"), []string{"--quiet", "restore", s.Name, "--in-place", "--yes"})
		done := s.Program.Must(t, []int{0, 3}, append([]string{"--json"}, args...)...)
		if r := resultOf(t, done); !r.Resumed || !strings.Contains(done.Stderr, "nothing is kept, nor of what was written since") {
			t.Errorf("%s: it does not say that it goes on: %+v", point, r)
		}
		wantPoint(t, s, pointOf(t, s, "check1"))
		saved.back(t)
	}
}

// What a killed restore was writing to is not left half written by one that restores less.
func TestKilledAndOtherDisks(t *testing.T) {
	t.Parallel()
	s := small(t)
	testdomain.Virsh(t, "autostart", s.Name)
	args := []string{"restore", s.Name + "@check1", "--in-place", "--yes", "--no-save"}
	if r := faulty(t, s, []string{"VIRTBACKUP_FAULT=in place: zero heads after:kill"}, args...); r.Code != 137 {
		t.Fatalf("exit %d", r.Code)
	}
	r := s.Program.Must(t, []int{2}, append(args, "--disk", "vda")...)
	if !strings.Contains(r.Stderr, "disk vdb may be half written") {
		t.Error("it does not say what would be left half written")
	}
	if strings.Contains(testdomain.Virsh(t, "dominfo", s.Name), "Autostart:      enable") {
		t.Error("autostart is on")
	}
	s.Program.Must(t, []int{0, 3}, args...)
	wantPoint(t, s, pointOf(t, s, "check1"))
	s.Program.Must(t, []int{0, 3}, append(args, "--disk", "vda")...)
}

// Where the domain is defined again instead, on new disks, nothing is half restored any more.
func TestKilledAndDefined(t *testing.T) {
	t.Parallel()
	s := small(t)
	if r := faulty(t, s, []string{"VIRTBACKUP_FAULT=in place: write after:kill"}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save"); r.Code != 137 {
		t.Fatalf("exit %d", r.Code)
	}
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	define := []string{"restore", s.Name, "--define", "--to", filepath.Join(testdomain.TempDir(t), "again")}
	s.Program.Must(t, []int{0}, append([]string{"--json"}, define...)...)
	if r := s.Program.Must(t, []int{0, 3}, "auto", s.Name); strings.Contains(r.Stderr, "mixture") {
		t.Error("it takes the new disks for half restored ones")
	}
}
