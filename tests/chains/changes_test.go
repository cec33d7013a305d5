package chains

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// attach adds a disk to the running domain and to its configuration.
func attach(s *testsite.Site, target string, size int64) {
	s.T.Helper()
	image := filepath.Join(s.Dir, target+".qcow2")
	testdomain.Tool(s.T, "qemu-img", "create", "-q", "-f", "qcow2", image, strconv.FormatInt(size, 10))
	device(s, "attach-device", target, fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>"+
		"<source file='%s'/><target dev='%s' bus='virtio'/><alias name='ua-%s'/></disk>", image, target, target), "--persistent")
	s.Disks = append(s.Disks, testdomain.Disk{Target: target, Size: size, Format: "qcow2", Source: image})
}

func device(s *testsite.Site, command, target, xml string, option string) {
	s.T.Helper()
	file := filepath.Join(s.Dir, target+".xml")
	if err := os.WriteFile(file, []byte(xml), 0o600); err != nil {
		s.T.Fatal(err)
	}
	testdomain.Virsh(s.T, command, s.Name, file, option)
}

// removeDisk detaches a disk while the domain is off: no operating system runs that would
// release it.
func removeDisk(s *testsite.Site, target string) {
	s.T.Helper()
	s.Destroy()
	testdomain.Virsh(s.T, "detach-disk", s.Name, target, "--config")
	s.Disks = slices.DeleteFunc(s.Disks, func(d testdomain.Disk) bool { return d.Target == target })
	s.Start()
}

// Disks added since the base are copied in full, disks removed since are named, and the
// others stay incremental.
func TestDisksComeAndGo(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	attach(s, "vdc", 8<<20+512)
	s.WriteAll(2)
	added := s.BackUp(3, "inc")
	testsite.WantKinds(t, added.Point, "vda inc, vdb inc, vdc full")
	testsite.WantSaid(t, added.Warnings, "vdc")
	testsite.WantSaid(t, added.Point.Warnings, "vdc")
	if got := testsite.DiskOf(t, added.Point, "vdc").Reason; !strings.Contains(got, "does not have this disk") {
		t.Errorf("the reason of vdc is %q", got)
	}
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc, vdc inc")
	removeDisk(s, "vdb")
	s.WriteAll(4)
	removed := s.BackUp(0, "inc")
	testsite.WantKinds(t, removed.Point, "vda inc, vdc inc")
	testsite.WantSaid(t, removed.Notes, "disk vdb of point check3 is gone")
	if !slices.Equal(removed.Point.Gone, []string{"vdb"}) {
		t.Errorf("gone are %q, want vdb", removed.Point.Gone)
	}
	s.WriteAll(5)
	testsite.WantKinds(t, s.BackUp(3, "diff", "--since", "check1").Point, "vda inc, vdc full")
	attach(s, "vdb", 16<<20) // another disk of the same name
	s.WriteAll(6)
	testsite.WantKinds(t, s.BackUp(3, "inc", "--since", "check1").Point, "vda inc, vdb rescan, vdc full")
	s.Check()
}

// Live external snapshots take the bitmaps along: the chain goes on.
func TestExternalSnapshot(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16<<20 + 512}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	args := []string{"snapshot-create-as", s.Name, "snap", "--disk-only", "--no-metadata"}
	for i, d := range s.Disks {
		overlay := filepath.Join(s.Dir, d.Target+".overlay")
		args = append(args, "--diskspec", fmt.Sprintf("%s,file=%s", d.Target, overlay))
		s.Disks[i].Source = overlay
	}
	testdomain.Virsh(t, args...)
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.WriteAll(4)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	testsite.WantKinds(t, s.BackUp(0, "diff", "--since", "check1").Point, "vda inc, vdb inc")
	s.Destroy()
	s.Start()
	s.WriteAll(5)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// If another tool has deleted a checkpoint, the error names it, and auto takes the next best
// base.
func TestCheckpointDeletedByOthers(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	for round, kind := range []string{"full", "inc", "inc"} {
		s.WriteAll(int64(round + 1))
		s.BackUp(0, kind)
	}
	testdomain.Virsh(t, "checkpoint-delete", s.Name, s.Checkpoint("check3"))
	s.WriteAll(4)
	for _, kind := range []string{"inc", "diff"} {
		s.Refused(1, "checkpoint check3 is gone", kind, s.Name, "--since", "check3", "--fallback", "fail")
	}
	diff := s.BackUp(3, "diff", "--since", "check3")
	testsite.WantKinds(t, diff.Point, "vda rescan")
	testsite.WantSaid(t, diff.Warnings, "compared with point check3: checkpoint check3 is gone from libvirt")
	diff = s.BackUp(3, "diff", "--since", "check3", "--fallback", "full")
	testsite.WantKinds(t, diff.Point, "vda full")
	auto := s.BackUp(0, "auto")
	if auto.Point.Kind != manifest.KindInc || auto.Point.Parent != "check2" {
		t.Errorf("auto made a %s since %q, want an inc since check2", auto.Point.Kind, auto.Point.Parent)
	}
	s.WriteAll(5)
	for _, name := range s.Checkpoints() {
		testdomain.Virsh(t, "checkpoint-delete", s.Name, name)
	}
	s.Refused(1, "is gone", "inc", s.Name, "--fallback", "fail")
	inc := s.BackUp(3, "inc") // since the newest point in any case
	testsite.WantKinds(t, inc.Point, "vda rescan")
	if inc.Point.Parent != auto.Point.ID {
		t.Errorf("inc is since %s, want %s", inc.Point.Parent, auto.Point.ID)
	}
	testdomain.Virsh(t, "checkpoint-delete", s.Name, inc.Point.Checkpoint)
	if auto = s.BackUp(0, "auto", "--fallback", "full"); auto.Point.Kind != manifest.KindFull || auto.Why == "" {
		t.Errorf("auto made a %s (%s), want a full and why", auto.Point.Kind, auto.Why)
	}
	s.Check()
}

// When QEMU is killed the bitmaps are lost: with --fallback full the next inc
// copies the disks in full, says so, and is a base again. The checkpoints without
// bitmaps go once there is a new one, and do not come back; their points stay
// bases to compare with.
func TestBitmapsLost(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc")
	foreignCheckpoint(s, "theirs")
	s.Destroy() // QEMU stores the bitmaps, and marks them as in use when it starts
	s.Start()
	s.Crash(3)
	diff := s.BackUp(3, "diff", "--fallback", "full")
	wantLost(s, diff.Point, diff.Warnings)
	s.WantCheckpoints("check1", "check2", "theirs") // there is no new one
	s.WantBitmap(true, s.Checkpoint("check1"))      // in the images, and broken
	inc := s.BackUp(3, "inc", "--fallback", "full")
	wantLost(s, inc.Point, inc.Warnings)
	s.WantCheckpoints("theirs", inc.Point.ID)
	s.WantBitmap(false, s.Checkpoint("check1"))
	s.WriteAll(4)
	next := s.BackUp(0, "inc")
	testsite.WantKinds(t, next.Point, "vda inc, vdb inc")
	if len(next.Recovered) > 0 {
		t.Errorf("the next run has recovered %q", next.Recovered)
	}
	s.WantCheckpoints("theirs", inc.Point.ID, next.Point.ID)
	testsite.WantList(t, "lost", s.Recovered(0).Lost) // they are forgotten
	s.WantCheckpoints("theirs", inc.Point.ID, next.Point.ID)
	for _, kind := range []string{"diff", "inc"} {
		since := s.BackUp(3, kind, "--since", "check2")
		testsite.WantKinds(t, since.Point, "vda rescan, vdb rescan")
		testsite.WantSaid(t, since.Warnings, "compared with point check2: checkpoint check2 is gone from libvirt")
		if since.Point.Parent != "check2" {
			t.Errorf("%s is since %s, want check2", kind, since.Point.Parent)
		}
	}
	s.Crash(6)
	if auto := s.BackUp(0, "auto", "--fallback", "full"); auto.Point.Kind != manifest.KindFull || !strings.Contains(auto.Why, "missing or broken") {
		t.Errorf("auto made a %s (%s), want a full and why", auto.Point.Kind, auto.Why)
	}
	s.WriteAll(7)
	testsite.WantKinds(t, s.BackUp(0, "auto").Point, "vda inc, vdb inc")
	s.Check()
}

// The middle one of three checkpoints has lost its bitmaps while the domain was off: it is
// deleted, and the others stay and still record what changed. The checkpoint of a detached
// disk stays, too: the disk may be attached again, with its bitmap.
func TestBitmapsLostInTheMiddle(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	for round, kind := range []string{"full", "inc", "inc"} {
		s.WriteAll(int64(round + 1))
		s.BackUp(0, kind)
	}
	s.Destroy()
	for _, d := range s.Disks {
		testdomain.Tool(t, "qemu-img", "bitmap", "--remove", d.Source, s.Checkpoint("check2"))
	}
	s.Start()
	s.WriteAll(4)
	testsite.WantKinds(t, s.BackUp(3, "diff", "--since", "check2").Point, "vda rescan, vdb rescan")
	s.WantCheckpoints("check1", "check2", "check3")
	s.WriteAll(5)
	inc := s.BackUp(0, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc, vdb inc")
	s.WantCheckpoints("check1", "check3", inc.Point.ID)
	for _, since := range []string{"check1", "check3"} {
		s.WriteAll(6)
		testsite.WantKinds(t, s.BackUp(0, "diff", "--since", since).Point, "vda inc, vdb inc")
	}
	testsite.WantKinds(t, s.BackUp(3, "inc", "--since", "check2").Point, "vda rescan, vdb rescan")
	only := s.BackUp(0, "full", "--disk", "vdb").Point.ID
	s.Check()
	removeDisk(s, "vdb")
	s.WriteAll(7)
	s.Points = nil
	last := s.BackUp(0, "inc", "--since", "check3")
	testsite.WantKinds(t, last.Point, "vda inc")
	if !slices.Contains(s.Labels(), only) {
		t.Errorf("checkpoint %s of the detached disk is gone: %q", only, s.Checkpoints())
	}
	s.Check()
}

// foreignCheckpoint makes a checkpoint as another tool would.
func foreignCheckpoint(s *testsite.Site, name string) {
	s.T.Helper()
	file := filepath.Join(s.Dir, name+".xml")
	testsite.WriteFile(s.T, file, fmt.Sprintf("<domaincheckpoint><name>%s</name></domaincheckpoint>", name))
	testdomain.Virsh(s.T, "checkpoint-create", s.Name, file)
}

func wantLost(s *testsite.Site, m manifest.Manifest, warnings []string) {
	s.T.Helper()
	testsite.WantKinds(s.T, m, "vda full, vdb full")
	for _, d := range m.Disks {
		if !strings.Contains(d.Reason, "missing or broken") {
			s.T.Errorf("the reason of %s is %q", d.Target, d.Reason)
		}
		testsite.WantSaid(s.T, warnings, d.Target+" is copied in full")
		testsite.WantSaid(s.T, m.Warnings, d.Target+" is copied in full")
	}
}

// Of two disks, the one whose bitmap is lost is copied in full, in the same
// job that copies the other one incrementally.
func TestOneBitmapLost(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.Destroy()
	testdomain.Tool(t, "qemu-img", "bitmap", "--remove", s.Disk("vdb").Source, s.Checkpoint("check1"))
	s.Start()
	s.WriteAll(2)
	inc := s.BackUp(3, "inc", "--fallback", "full")
	testsite.WantKinds(t, inc.Point, "vda inc, vdb full")
	testsite.WantSaid(t, inc.Warnings, "disk vdb is copied in full: the bitmap of checkpoint check1 is missing or broken")
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// A disk that has shrunk is compared with what it was.
func TestDiskShrunk(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	testdomain.Virsh(t, "blockresize", s.Name, "vdb", fmt.Sprintf("%dB", 12<<20+512))
	s.WriteAll(2)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc, vdb rescan")
	testsite.WantSaid(t, inc.Warnings, "has shrunk")
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	testdomain.Virsh(t, "blockresize", s.Name, "vdb", fmt.Sprintf("%dB", 17<<20))
	s.WriteAll(4)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// If an image was restored or got an overlay while the domain was off, the next point has
// the disk's present content, whatever was backed up in between.
func TestImageReplacedOffline(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	image := s.Disk("vda").Source
	s.Destroy()
	testdomain.Tool(t, "cp", image, image+".old")
	s.Start()
	s.WriteAll(2)
	s.BackUp(0, "inc")
	s.Destroy()
	testdomain.Tool(t, "mv", image+".old", image)
	s.Start()
	back := s.BackUp(3, "inc")
	testsite.WantKinds(t, back.Point, "vda rescan, vdb inc")
	testsite.WantSaid(t, back.Warnings, "was replaced by another file since")
	// The bitmap of check1 is in the copy, too, and valid; but that cannot be known.
	testsite.WantKinds(t, s.BackUp(3, "diff", "--since", "check1").Point, "vda rescan, vdb inc")
	s.Destroy()
	overlay := filepath.Join(s.Dir, "overlay.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay)
	s.Redefine(image, overlay)
	s.Disks[0].Source = overlay
	s.Start()
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan, vdb inc")
	s.WriteAll(4)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}
