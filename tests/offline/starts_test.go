package offline

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

func newSite(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib, Format: "raw"}))
	s.Write("vda", 0, 16*mib, 1)
	s.Write("vdb", 0, 8*mib, 1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.Destroy()
	return s
}

// lockedOut tells whether a start has failed because an image is locked. libvirt does not always come
// to read what QEMU says before it ends; the domain's log has it.
func lockedOut(s *testsite.Site, err error) bool {
	log, _ := os.ReadFile("/var/log/libvirt/qemu/" + s.Name + ".log")
	return strings.Contains(err.Error()+string(log), `Failed to get "write" lock`)
}

// The domain starts, writes and ends at any step of a run before the images are locked: the point
// has what was written, and so has the next.
func TestStartInBetween(t *testing.T) {
	for _, point := range []string{"step recover after", "step plan after", "step issue after", "step still idle after", "add bitmap before", "add bitmap after"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.StartBroken(point+":pause", nil, "inc")
			testsite.AwaitStopped(t, p)
			s.Start()
			s.Write("vda", 5*mib, 100<<10, 3)
			s.Write("vdb", 5*mib, 100<<10, 3)
			s.Destroy()
			truth := s.Truths()
			testsite.Continue(p)
			r := p.Wait()
			if r.Code != 0 && r.Code != 3 {
				t.Fatalf("exit %d", r.Code)
			}
			s.Add(r, truth)
			s.Start()
			s.WriteAll(4)
			testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb rescan")
			s.Check()
			wantClean(s)
		})
	}
}

// The same, and the domain stays on: it is backed up as one that runs, and nothing is left of the
// first try.
func TestStartedForGood(t *testing.T) {
	for _, point := range []string{"step issue after", "step still idle after", "add bitmap before", "add bitmap after"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.StartBroken(point+":pause", nil, "inc", "--wait", "0s")
			testsite.AwaitStopped(t, p)
			s.Start()
			s.Write("vda", 5*mib, 100<<10, 3)
			truth := s.Truths()
			testsite.Continue(p)
			r := p.Wait()
			if r.Code != 0 || !strings.Contains(r.Stderr, "has been started meanwhile") {
				t.Fatalf("exit %d", r.Code)
			}
			testsite.WantKinds(t, s.Add(r, truth).Point, "vda inc, vdb rescan")
			wantClean(s)
			s.WriteAll(4)
			testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb rescan")
			s.Destroy()
			if info := testdomain.Tool(t, "qemu-img", "info", s.Disk("vda").Source); strings.Count(info, "granularity:") != len(s.Points) {
				t.Errorf("%d points, and %s", len(s.Points), info)
			}
			s.Check()
		})
	}
}

// The domain gets other images while the run is under way.
func TestOtherImagesInBetween(t *testing.T) {
	for name, change := range map[string]func(s *testsite.Site){
		"snapshot": func(s *testsite.Site) { snapshot(s, "between") },
		"replaced": func(s *testsite.Site) {
			source := s.Disk("vda").Source
			testdomain.Tool(s.T, "cp", source, source+".new")
			testdomain.Tool(s.T, "mv", source+".new", source)
		},
		"resized": func(s *testsite.Site) { testdomain.Tool(s.T, "qemu-img", "resize", "-q", s.Disk("vda").Source, "20M") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.StartBroken("add bitmap after:pause", nil, "inc")
			testsite.AwaitStopped(t, p)
			change(s)
			testsite.Continue(p)
			if r := p.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, "when this run was planned") {
				t.Errorf("exit %d", r.Code)
			}
			wantClean(s)
			s.Start()
			s.WriteAll(3)
			s.MayWarn = true
			r := s.Program.Must(t, []int{0, 3}, "--json", "inc", s.Name)
			s.Add(r, s.Truths())
			s.Check()
		})
	}
}

// While the images are read the domain cannot start, not even one whose disks are all raw; once
// the run has ended it can.
func TestStartFailsMeanwhile(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 * mib, Format: format}))
			s.WriteAll(1)
			s.Destroy()
			truth := s.Truths()
			p := s.StartBroken("disks served:pause", nil, "full")
			testsite.AwaitStopped(t, p)
			if _, err := testdomain.TryVirsh(t, "start", s.Name, "--paused"); err == nil || !lockedOut(s, err) {
				t.Fatalf("a start while the images are read: %v", err)
			}
			testsite.Continue(p)
			s.Add(p.Wait(), truth)
			s.Start()
			s.WriteAll(2)
			s.BackUp(0, "inc")
			s.Check()
		})
	}
}

// Where libvirt gives a domain a node of its own for a block device, QEMU's locks on that are not
// seen: the domain starts while its device is read. Then the run fails, and writes no more to the
// device, not even to remove a bitmap.
func TestStartOnDeviceMeanwhile(t *testing.T) {
	for _, args := range [][]string{{"full"}, {"full", "--exclusive"}} {
		t.Run(args[len(args)-1], func(t *testing.T) {
			t.Parallel()
			s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
			onDevice(s)
			s.Start()
			s.WriteAll(1)
			s.Destroy()
			p := s.StartBroken("disks served:pause", nil, args...)
			testsite.AwaitStopped(t, p)
			if _, err := testdomain.TryVirsh(t, "start", s.Name, "--paused"); err != nil {
				testsite.Continue(p)
				if r := p.Wait(); r.Code != 3 {
					t.Errorf("it shares the node of its device with the host, and did not start: exit %d", r.Code)
				}
				return
			}
			s.Write("vda", 1*mib, 64<<10, 9)
			testsite.Continue(p)
			if r := p.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, "was started while its images were read") {
				t.Errorf("exit %d", r.Code)
			}
			s.Write("vda", 2*mib, 64<<10, 10)
			s.BackUp(0, "full")
			s.Destroy()
			testdomain.CheckImage(t, s.Disk("vda").Source)
			s.Check()
			wantClean(s)
		})
	}
}

// The domain starts between the end of the run's reading and libvirt's record of the checkpoint:
// what it writes is in the new bitmap.
func TestStartBeforeTheRecord(t *testing.T) {
	for _, point := range []string{"unlocked", "define checkpoint after"} {
		t.Run(point, func(t *testing.T) { startBeforeTheRecord(t, point) })
	}
}

func startBeforeTheRecord(t *testing.T, point string) {
	t.Parallel()
	s := newSite(t)
	truth := s.Truths()
	p := s.StartBroken(point+":pause", nil, "inc")
	testsite.AwaitStopped(t, p)
	s.Start()
	s.Write("vda", 5*mib, 100<<10, 3)
	testsite.Continue(p)
	s.Add(p.Wait(), truth)
	s.Write("vda", 9*mib, 100<<10, 4)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb rescan")
	s.Destroy()
	testsite.WantKinds(t, s.BackUp(0, "diff", "--since", "check2").Point, "vda inc, vdb rescan")
	s.Check()
}

// served says whether the disks of the domain are being read.
func served(s *testsite.Site) bool {
	found, _ := filepath.Glob(fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/*-%.8s-*/nbd.sock", s.UUID))
	return len(found) > 0
}

// A start in mid-copy fails, and the run says so; with --yield it ends, and that start or the next
// works.
func TestYield(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		env  []string
		code int
		said string
	}{
		{"no", nil, nil, 3, "somebody tried to start domain"},
		{"option", []string{"--yield"}, nil, 1, "gave way to the start of domain"},
		{"variable", nil, []string{"VIRTBACKUP_YIELD=1"}, 1, "gave way to the start of domain"},
		{"saved", []string{"--yield"}, nil, 1, "gave way to the start of domain"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if tt.name == "saved" {
				s.Start()
				testdomain.Virsh(t, "managedsave", s.Name)
			}
			truth := s.Truths()
			program := s.Program
			program.Env = append(program.Env, tt.env...)
			p := program.Start(t, append([]string{"--json", "full", s.Name, "--limit-rate", "2M"}, tt.args...)...)
			testsite.Await(t, "socket of the storage daemon", 0, func() bool { return served(s) })
			_, err := testdomain.TryVirsh(t, "start", s.Name)
			if err != nil && !lockedOut(s, err) || err == nil && tt.code == 3 {
				t.Errorf("a start: %v", err)
			}
			r := p.Wait()
			if r.Code != tt.code || !strings.Contains(r.Stderr, tt.said) {
				t.Fatalf("exit %d, want %d and %q", r.Code, tt.code, tt.said)
			}
			if err != nil { // else the run has given way before QEMU came to the images
				testdomain.Virsh(t, "start", s.Name)
			}
			wantClean(s)
			if tt.code == 3 {
				s.Add(r, truth)
			} else {
				s.WantCheckpoints("check1")
			}
			testdomain.Virsh(t, "suspend", s.Name)
			s.WriteAll(3)
			testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb rescan")
			s.Check()
		})
	}
}

// wantFailed does something while a run is paused at a point: the run fails, says so, and leaves nothing.
func wantFailed(s *testsite.Site, point, kind, said string, meanwhile func()) {
	s.T.Helper()
	p := s.StartBroken(point+":pause", nil, kind)
	testsite.AwaitStopped(s.T, p)
	meanwhile()
	testsite.Continue(p)
	if r := p.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, said) {
		s.T.Errorf("exit %d", r.Code)
	}
	wantClean(s)
}

// Who writes to an image without QEMU's locks is noticed.
func TestWriterWithoutLocks(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	wantFailed(s, "step copy after", "inc", "was changed while it was read", func() {
		testdomain.Tool(t, "dd", "if=/dev/zero", "of="+s.Disk("vdb").Source, "bs=1k", "count=1", "conv=notrunc")
	})
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb rescan")
	s.Check()
}

// The same for a backing file.
func TestWriterToABackingFileWithoutLocks(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 8 * mib, Backing: "raw"}))
	wantFailed(s, "step copy after", "full", "vda.base.raw was changed while it was read", func() {
		testdomain.Tool(t, "dd", "if=/dev/zero", "of="+filepath.Join(s.Dir, "vda.base.raw"), "bs=1k", "count=1", "conv=notrunc")
	})
}

// Another program has an image open: the run waits, and says who may be meant.
func TestImageInUse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	pid := s.Dir + "/pid"
	testdomain.Tool(t, "qemu-nbd", "-t", "--fork", "--pid-file", pid, "-f", "qcow2", "-k", s.Dir+"/nbd", s.Disk("vda").Source)
	end := func() {
		testdomain.Tool(t, "sh", "-c", fmt.Sprintf("p=$(cat %s) && kill $p && while kill -0 $p 2>/dev/null; do sleep 0.05; done", pid))
	}
	s.Rejects(testsite.Reject(1, "another process has an image open", "--wait"), []string{"--quiet", "inc", s.Name, "--wait", "1s"})
	p := s.Program.Start(t, "--json", "inc", s.Name, "--wait", "30s")
	testsite.Await(t, "lock file", 0, func() bool { return strings.Contains(testsite.Listing(t, s.Repo), "lock") })
	end()
	s.Add(p.Wait(), s.Truths())
	s.Check()
}

// An image is replaced between the lock and the moment when it is opened for reading.
func TestReplacedBeforeItIsOpened(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.StartBroken("storage daemon started:pause", nil, "inc")
	testsite.AwaitStopped(t, p)
	source := s.Disk("vdb").Source
	testdomain.Tool(t, "cp", source, source+".new")
	testdomain.Tool(t, "mv", source+".new", source)
	testsite.Continue(p)
	if r := p.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, "is another file now") {
		t.Errorf("exit %d", r.Code)
	}
	s.BackUp(0, "inc")
	s.Check()
	wantClean(s)
}
