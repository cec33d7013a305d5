package offline

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

const mib = 1 << 20

// A chain goes on while the domain runs, is off, is saved, and runs again; each point holds the
// disks as they were.
func TestOnAndOff(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}, testdomain.Disk{Target: "vdb", Size: 8*mib + 512, Backing: "qcow2"},
		testdomain.Disk{Target: "vdc", Size: 8 * mib, Format: "raw"}))
	const kinds = "vda inc, vdb inc, vdc rescan"
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.Destroy()
	off := s.BackUp(0, "inc")
	testsite.WantKinds(t, off.Point, kinds)
	if off.Point.Consistency != manifest.ConsistencyCrash {
		t.Errorf("consistency %q", off.Point.Consistency)
	}
	testsite.WantSaid(t, off.Notes, "someone destroyed it")
	s.WantCheckpoints("check1", "check2")
	again := s.BackUp(0, "inc") // nothing has changed
	if d := testsite.DiskOf(t, again.Point, "vda"); d.DataBytes+d.ZeroBytes > 0 {
		t.Errorf("of a disk that has not changed: %+v", d)
	}
	s.Start()
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, kinds)
	testsite.WantKinds(t, s.BackUp(0, "diff", "--since", "check2").Point, kinds)
	s.WriteAll(4)
	testdomain.Virsh(t, "managedsave", s.Name)
	saved := s.BackUp(0, "inc")
	testsite.WantKinds(t, saved.Point, kinds)
	testsite.WantSaid(t, saved.Notes, "saved")
	s.Auto(manifest.KindInc, "since "+saved.Point.ID)
	s.Start() // continues from the saved memory
	s.WriteAll(5)
	testsite.WantKinds(t, s.BackUp(0, "inc", "--since", saved.Point.ID).Point, kinds)
	s.Destroy()
	testsite.WantKinds(t, s.BackUp(0, "diff", "--since", "check1").Point, kinds)
	s.BackUp(0, "copy")
	s.BackUp(0, "full")
	s.Start()
	s.WriteAll(6)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, kinds)
	s.Check()
	wantClean(s)
}

// A domain that has never run is backed up, and its first run continues the chain.
func TestNeverRun(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 8 * mib, Backing: "raw"}))
	s.BackUp(0, "full")
	s.Start()
	s.WriteAll(1)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.Check()
}

// snapshot makes an external snapshot of vda; the overlay is its image from then on. libvirt makes
// none of a domain that is off and has checkpoints, so it is made by hand.
func snapshot(s *testsite.Site, name string) {
	s.T.Helper()
	overlay := filepath.Join(s.Dir, name+".qcow2")
	if below := s.Disk("vda").Source; s.State() == "shut" {
		testdomain.Tool(s.T, "qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", overlay)
		s.Redefine(below, overlay)
		s.Disks[0].Source = overlay
		return
	}
	testdomain.Virsh(s.T, "snapshot-create-as", s.Name, name, "--disk-only", "--no-metadata", "--diskspec", "vda,snapshot=external,file="+overlay)
	s.Disks[0].Source = overlay
}

// An external snapshot of a running domain leaves what has changed since a checkpoint in two
// bitmaps: one of the image that was on top before, one of the overlay. Both count.
func TestLiveSnapshot(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
	s.Write("vda", 0, 16*mib, 1)
	s.BackUp(0, "full")
	s.Write("vda", 1*mib, 100<<10, 2) // below
	snapshot(s, "one")
	s.Write("vda", 5*mib, 100<<10, 3)
	snapshot(s, "two")
	s.Write("vda", 9*mib, 100<<10, 4) // in the overlay
	s.Destroy()
	inc := s.BackUp(0, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc")
	testsite.WantSmall(t, inc, "vda")
	testsite.WantKinds(t, s.BackUp(0, "diff", "--since", "check1").Point, "vda inc")
	s.Start()
	s.Write("vda", 13*mib, 100<<10, 5)
	testsite.WantKinds(t, s.BackUp(0, "inc", "--since", "check1").Point, "vda inc")
	testsite.WantKinds(t, s.BackUp(0, "inc", "--since", "check2").Point, "vda inc")
	s.Destroy()
	s.Program.Must(t, nil, "release", s.Name, "--points")
	for image := range strings.FieldsSeq(s.Disk("vda").Source + " " + filepath.Join(s.Dir, "one.qcow2") + " " + filepath.Join(s.Dir, "vda.qcow2")) {
		if info := testdomain.Tool(t, "qemu-img", "info", image); strings.Contains(info, "bitmaps:") {
			t.Errorf("bitmaps are left in %s: %s", image, info)
		}
	}
}

// What was written before the snapshot is in the bitmap of the image below only. Where a copy without
// bitmaps has taken its place, in the same file, the disk is compared, by an inc and by a restore.
func TestBitmapBelowIsLost(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
	s.Write("vda", 0, 16*mib, 1)
	s.BackUp(0, "full")
	s.Write("vda", 1*mib, 100<<10, 2)
	below := s.Disk("vda").Source
	snapshot(s, "one")
	s.Write("vda", 9*mib, 100<<10, 4)
	s.Destroy()
	testdomain.Tool(t, "qemu-img", "convert", "-O", "qcow2", below, below+".new")
	testdomain.Tool(t, "dd", "if="+below+".new", "of="+below, "bs=1M", "status=none")
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan")
	testsite.WantSaid(t, inc.Warnings, "has lost the bitmap")
	s.Check()
	s.Program.Must(t, nil, "checkpoint", "delete", s.Name, "check2", "--force")
	s.Program.Must(t, []int{0, 3}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
	testdomain.Same(t, s.Disk("vda").Source, "qcow2", s.Points[0].Truth["vda"])
}

// The same, but the domain runs again when it is backed up.
func TestBitmapBelowIsLostWhileItRuns(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
	s.Write("vda", 0, 16*mib, 1)
	s.BackUp(0, "full")
	s.Write("vda", 1*mib, 100<<10, 2)
	below := s.Disk("vda").Source
	snapshot(s, "one")
	s.Write("vda", 9*mib, 100<<10, 4)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc") // QEMU has stored the bitmap below
	s.Program.Must(t, nil, "checkpoint", "delete", s.Name, "check2", "--force")
	s.Destroy()
	testdomain.Tool(t, "qemu-img", "convert", "-O", "qcow2", below, below+".new")
	testdomain.Tool(t, "dd", "if="+below+".new", "of="+below, "bs=1M", "status=none")
	s.Start()
	s.Write("vda", 4*mib, 100<<10, 5)
	inc := s.BackUp(3, "inc", "--since", "check1")
	testsite.WantKinds(t, inc.Point, "vda rescan")
	testsite.WantSaid(t, inc.Warnings, "has lost the bitmap")
	s.Check()
}

// The points of the same, checked before they are removed.
func TestLiveSnapshotPoints(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
	s.Write("vda", 0, 16*mib, 1)
	s.BackUp(0, "full")
	s.Write("vda", 1*mib, 100<<10, 2)
	snapshot(s, "one")
	s.Write("vda", 9*mib, 100<<10, 4)
	s.Destroy()
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.Start()
	s.Write("vda", 3*mib, 100<<10, 5)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.Destroy()
	testsite.WantKinds(t, s.BackUp(0, "diff", "--since", "check1").Point, "vda inc")
	s.Check()
}

// An overlay that was made while the domain was off has no bitmaps: they show nothing of what is
// written to it, and the disk is compared, while it is off and while it runs.
func TestSnapshotWhileOff(t *testing.T) {
	for _, off := range []bool{true, false} {
		t.Run(fmt.Sprintf("off=%v", off), func(t *testing.T) {
			t.Parallel()
			s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
			s.Write("vda", 0, 8*mib, 1)
			s.BackUp(0, "full")
			s.Destroy()
			snapshot(s, "one")
			s.Start()
			s.Write("vda", 3*mib, 100<<10, 2)
			if off {
				s.Destroy()
			}
			inc := s.BackUp(3, "inc")
			testsite.WantKinds(t, inc.Point, "vda rescan")
			testsite.WantSaid(t, inc.Warnings, "missing or broken")
			testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
			s.Check()
		})
	}
}

// After a crash of QEMU the bitmaps are not valid, whatever they hold.
func TestCrashed(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.Kill()
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan, vdb rescan")
	testsite.WantSaid(t, inc.Warnings, "is missing or broken")
	testsite.WantSaid(t, inc.Notes, "its QEMU crashed")
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Start()
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// Rolled back storage: the old content, with the old bitmaps, in the same file.
func TestRolledBack(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.Destroy()
	source := s.Disk("vda").Source
	testdomain.Tool(t, "cp", source, source+".old")
	s.Start()
	s.WriteAll(2)
	s.BackUp(0, "inc")
	s.Destroy()
	testdomain.Tool(t, "dd", "if="+source+".old", "of="+source, "bs=1M", "status=none")
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan")
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.Check()
}

// A copy of the image in its place has the same bitmaps, which show nothing of what the copy has
// missed.
func TestReplaced(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.Destroy()
	source := s.Disk("vda").Source
	testdomain.Tool(t, "cp", source, source+".old")
	s.Start()
	s.WriteAll(2)
	s.BackUp(0, "inc", "--since", "check1")
	s.Destroy()
	if err := os.Rename(source+".old", source); err != nil {
		t.Fatal(err)
	}
	inc := s.BackUp(3, "inc", "--since", "check1")
	testsite.WantKinds(t, inc.Point, "vda rescan")
	testsite.WantSaid(t, inc.Warnings, "was replaced by another file since")
	s.Check()
}

// Checkpoints and bitmaps of others stay, and go on recording.
func TestForeignBitmaps(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}))
	doc := filepath.Join(s.Dir, "theirs.xml")
	testsite.WriteFile(t, doc, "<domaincheckpoint><name>theirs</name></domaincheckpoint>")
	testdomain.Virsh(t, "checkpoint-create", s.Name, doc)
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.Destroy()
	source := s.Disk("vda").Source
	testdomain.Tool(t, "qemu-img", "bitmap", "--add", source, "by-hand")
	testdomain.Tool(t, "qemu-img", "bitmap", "--add", "--disable", source, "does-not-record")
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.StartBroken("disks served:error", nil, "inc").Wait()
	for _, name := range []string{"theirs", "by-hand", "does-not-record"} {
		s.WantBitmap(true, name)
	}
	if got := s.Checkpoints(); len(got) != 3 || got[0] != "theirs" {
		t.Errorf("checkpoints %q", got)
	}
	s.Start()
	s.WriteAll(2)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.Check()
}

// wantClean checks that nothing of a run is left: no process, no socket, no directory, no lock.
func wantClean(s *testsite.Site) {
	s.T.Helper()
	if left, _ := filepath.Glob(fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/*-%.8s-*", s.UUID)); len(left) > 0 {
		s.T.Errorf("left: %q", left)
	}
	for _, pid := range daemons(s) {
		s.T.Errorf("process %s is left", pid)
	}
	s.NoPartial()
}

// daemons are the processes that have an image of the domain open, besides its QEMU.
func daemons(s *testsite.Site) (pids []string) {
	s.T.Helper()
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		to, err := os.Readlink(link)
		pid := strings.Split(link, "/")[2]
		if err != nil || !strings.HasPrefix(to, s.Dir+"/") || !strings.Contains(command(pid), "qemu-storage-daemon") {
			continue
		}
		if len(pids) == 0 || pids[len(pids)-1] != pid {
			pids = append(pids, pid)
		}
	}
	return pids
}

func command(pid string) string {
	text, _ := os.ReadFile("/proc/" + pid + "/cmdline")
	return string(text)
}
