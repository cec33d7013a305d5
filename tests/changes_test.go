package tests

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
)

// attach gives the running domain one more disk, for good.
func (s *site) attach(target string, size int64) {
	s.t.Helper()
	image := filepath.Join(s.Dir, target+".qcow2")
	testdomain.Tool(s.t, "qemu-img", "create", "-q", "-f", "qcow2", image, strconv.FormatInt(size, 10))
	s.device("attach-device", target, fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>"+
		"<source file='%s'/><target dev='%s' bus='virtio'/><alias name='ua-%s'/></disk>", image, target, target), "--persistent")
	s.Disks = append(s.Disks, testdomain.Disk{Target: target, Size: size, Format: "qcow2", Source: image})
}

func (s *site) device(command, target, xml string, option string) {
	s.t.Helper()
	file := filepath.Join(s.Dir, target+".xml")
	if err := os.WriteFile(file, []byte(xml), 0o600); err != nil {
		s.t.Fatal(err)
	}
	testdomain.Virsh(s.t, command, s.Name, file, option)
}

// removeDisk takes a disk away while the domain is off: no operating system runs
// that would let go of it.
func (s *site) removeDisk(target string) {
	s.t.Helper()
	s.Destroy()
	testdomain.Virsh(s.t, "detach-disk", s.Name, target, "--config")
	s.Disks = slices.DeleteFunc(s.Disks, func(d testdomain.Disk) bool { return d.Target == target })
	s.Start()
}

// Disks that came since the base are copied in full, those that went are named,
// and the rest stays incremental.
func TestDisksComeAndGo(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.writeAll(1)
	s.backUp(0, "full")
	s.attach("vdc", 8<<20+512)
	s.writeAll(2)
	added := s.backUp(3, "inc")
	wantKinds(t, added.Point, "vda inc, vdb inc, vdc full")
	wantSaid(t, added.Warnings, "vdc")
	wantSaid(t, added.Point.Warnings, "vdc")
	if got := disk(t, added.Point, "vdc").Reason; !strings.Contains(got, "does not have this disk") {
		t.Errorf("the reason of vdc is %q", got)
	}
	s.writeAll(3)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc, vdc inc")
	s.removeDisk("vdb")
	s.writeAll(4)
	removed := s.backUp(0, "inc")
	wantKinds(t, removed.Point, "vda inc, vdc inc")
	wantSaid(t, removed.Notes, "disk vdb of point check3 is gone")
	if !slices.Equal(removed.Point.Gone, []string{"vdb"}) {
		t.Errorf("gone are %q, want vdb", removed.Point.Gone)
	}
	s.writeAll(5)
	wantKinds(t, s.backUp(3, "diff", "--since", "check1").Point, "vda inc, vdc full")
	s.attach("vdb", 16<<20) // another disk of the same name
	s.writeAll(6)
	wantKinds(t, s.backUp(3, "inc", "--since", "check1").Point, "vda inc, vdb rescan, vdc full")
	s.check()
}

// writeAll changes every disk.
func (s *site) writeAll(round int64) {
	s.t.Helper()
	for _, d := range s.Disks {
		s.IO(d.Target, fmt.Sprintf("write -P %#x %d 100k", round, round<<20), fmt.Sprintf("write -z 1M %d", round*5000),
			fmt.Sprintf("write -P %#x 3M 1000", 0x80+round))
	}
}

// Live external snapshots take the bitmaps along: the chain goes on.
func TestExternalSnapshot(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16<<20 + 512}))
	s.writeAll(1)
	s.backUp(0, "full")
	s.writeAll(2)
	args := []string{"snapshot-create-as", s.Name, "snap", "--disk-only", "--no-metadata"}
	for i, d := range s.Disks {
		overlay := filepath.Join(s.Dir, d.Target+".overlay")
		args = append(args, "--diskspec", fmt.Sprintf("%s,file=%s", d.Target, overlay))
		s.Disks[i].Source = overlay
	}
	testdomain.Virsh(t, args...)
	s.writeAll(3)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.writeAll(4)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	wantKinds(t, s.backUp(0, "diff", "--since", "check1").Point, "vda inc, vdb inc")
	s.Destroy()
	s.Start()
	s.writeAll(5)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.check()
}

// A checkpoint that another tool has deleted is missed with a clear error, and
// auto takes the next best base.
func TestCheckpointDeletedByOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	for round, kind := range []string{"full", "inc", "inc"} {
		s.writeAll(int64(round + 1))
		s.backUp(0, kind)
	}
	testdomain.Virsh(t, "checkpoint-delete", s.Name, s.checkpoint("check3"))
	s.writeAll(4)
	for _, kind := range []string{"inc", "diff"} {
		s.refused(1, "checkpoint check3 is gone", kind, s.Name, "--since", "check3", "--fallback", "fail")
	}
	diff := s.backUp(3, "diff", "--since", "check3")
	wantKinds(t, diff.Point, "vda rescan")
	wantSaid(t, diff.Warnings, "compared with point check3: checkpoint check3 is gone from libvirt")
	diff = s.backUp(3, "diff", "--since", "check3", "--fallback", "full")
	wantKinds(t, diff.Point, "vda full")
	auto := s.backUp(0, "auto")
	if auto.Point.Kind != manifest.KindInc || auto.Point.Parent != "check2" {
		t.Errorf("auto made a %s since %q, want an inc since check2", auto.Point.Kind, auto.Point.Parent)
	}
	s.writeAll(5)
	for _, name := range s.Checkpoints() {
		testdomain.Virsh(t, "checkpoint-delete", s.Name, name)
	}
	s.refused(1, "is gone", "inc", s.Name, "--fallback", "fail")
	inc := s.backUp(3, "inc") // since the newest point, whatever
	wantKinds(t, inc.Point, "vda rescan")
	if inc.Point.Parent != auto.Point.ID {
		t.Errorf("inc is since %s, want %s", inc.Point.Parent, auto.Point.ID)
	}
	testdomain.Virsh(t, "checkpoint-delete", s.Name, inc.Point.Checkpoint)
	if auto = s.backUp(0, "auto", "--fallback", "full"); auto.Point.Kind != manifest.KindFull || auto.Why == "" {
		t.Errorf("auto made a %s (%s), want a full and why", auto.Point.Kind, auto.Why)
	}
	s.check()
}

// When QEMU is killed the bitmaps are lost: with --fallback full the next inc
// copies the disks in full, says so, and is a base again. The checkpoints without
// bitmaps go once there is a new one, and do not come back; their points stay
// bases to compare with.
func TestBitmapsLost(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.writeAll(1)
	s.backUp(0, "full")
	s.writeAll(2)
	s.backUp(0, "inc")
	s.foreignCheckpoint("theirs")
	s.Destroy() // QEMU stores the bitmaps, and marks them as in use when it starts
	s.Start()
	s.crash(3)
	diff := s.backUp(3, "diff", "--fallback", "full")
	wantLost(s, diff.Point, diff.Warnings)
	s.wantCheckpoints("check1", "check2", "theirs") // there is no new one
	s.wantBitmap(true, s.checkpoint("check1"))      // in the images, and broken
	inc := s.backUp(3, "inc", "--fallback", "full")
	wantLost(s, inc.Point, inc.Warnings)
	s.wantCheckpoints("theirs", inc.Point.ID)
	s.wantBitmap(false, s.checkpoint("check1"))
	s.writeAll(4)
	next := s.backUp(0, "inc")
	wantKinds(t, next.Point, "vda inc, vdb inc")
	if len(next.Recovered) > 0 {
		t.Errorf("the next run has recovered %q", next.Recovered)
	}
	s.wantCheckpoints("theirs", inc.Point.ID, next.Point.ID)
	wantList(t, "lost", s.recovered(0).Lost) // they are forgotten
	s.wantCheckpoints("theirs", inc.Point.ID, next.Point.ID)
	for _, kind := range []string{"diff", "inc"} {
		since := s.backUp(3, kind, "--since", "check2")
		wantKinds(t, since.Point, "vda rescan, vdb rescan")
		wantSaid(t, since.Warnings, "compared with point check2: checkpoint check2 is gone from libvirt")
		if since.Point.Parent != "check2" {
			t.Errorf("%s is since %s, want check2", kind, since.Point.Parent)
		}
	}
	s.crash(6)
	if auto := s.backUp(0, "auto", "--fallback", "full"); auto.Point.Kind != manifest.KindFull || !strings.Contains(auto.Why, "missing or broken") {
		t.Errorf("auto made a %s (%s), want a full and why", auto.Point.Kind, auto.Why)
	}
	s.writeAll(7)
	wantKinds(t, s.backUp(0, "auto").Point, "vda inc, vdb inc")
	s.check()
}

// Of three checkpoints the middle one has lost its bitmaps while the domain was
// off: it goes, and those beside it stay and tell what changed. One of a disk that
// is detached stays, too: its bitmap may come back with it.
func TestBitmapsLostInTheMiddle(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	for round, kind := range []string{"full", "inc", "inc"} {
		s.writeAll(int64(round + 1))
		s.backUp(0, kind)
	}
	s.Destroy()
	for _, d := range s.Disks {
		testdomain.Tool(t, "qemu-img", "bitmap", "--remove", d.Source, s.checkpoint("check2"))
	}
	s.Start()
	s.writeAll(4)
	wantKinds(t, s.backUp(3, "diff", "--since", "check2").Point, "vda rescan, vdb rescan")
	s.wantCheckpoints("check1", "check2", "check3")
	s.writeAll(5)
	inc := s.backUp(0, "inc")
	wantKinds(t, inc.Point, "vda inc, vdb inc")
	s.wantCheckpoints("check1", "check3", inc.Point.ID)
	for _, since := range []string{"check1", "check3"} {
		s.writeAll(6)
		wantKinds(t, s.backUp(0, "diff", "--since", since).Point, "vda inc, vdb inc")
	}
	wantKinds(t, s.backUp(3, "inc", "--since", "check2").Point, "vda rescan, vdb rescan")
	only := s.backUp(0, "full", "--disk", "vdb").Point.ID
	s.check()
	s.removeDisk("vdb")
	s.writeAll(7)
	s.points = nil
	last := s.backUp(0, "inc", "--since", "check3")
	wantKinds(t, last.Point, "vda inc")
	if !slices.Contains(s.labels(), only) {
		t.Errorf("checkpoint %s of the detached disk is gone: %q", only, s.Checkpoints())
	}
	s.check()
}

// wantCheckpoints checks which checkpoints libvirt lists, in any order.
func (s *site) wantCheckpoints(want ...string) {
	s.t.Helper()
	got := s.labels()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.t.Errorf("checkpoints %q, want %q", got, want)
	}
}

// labels are the domain's checkpoints, those of points by the points' names.
func (s *site) labels() []string {
	s.t.Helper()
	var labels []string
	for _, name := range s.Checkpoints() {
		if point, _, ok := manifest.ParseCheckpointName(name); ok {
			name = point
		}
		labels = append(labels, name)
	}
	return labels
}

// checkpoint is what libvirt calls the checkpoint of a point, and QEMU its bitmaps.
func (s *site) checkpoint(point string) string {
	s.t.Helper()
	for _, p := range s.points {
		if p.ID == point {
			return p.Checkpoint
		}
	}
	s.t.Fatalf("there is no point %s", point)
	return ""
}

// wantBitmap checks whether the images of all disks have a bitmap.
func (s *site) wantBitmap(want bool, name string) {
	s.t.Helper()
	for _, d := range s.Disks {
		info := testdomain.Tool(s.t, "qemu-img", "info", "-U", d.Source)
		if got := strings.Contains(info, "name: "+name+"\n"); got != want {
			s.t.Errorf("%s has bitmap %s: %v, want %v\n%s", d.Target, name, got, want, info)
		}
	}
}

// foreignCheckpoint makes one as another tool would.
func (s *site) foreignCheckpoint(name string) {
	s.t.Helper()
	file := filepath.Join(s.Dir, name+".xml")
	write(s.t, file, fmt.Sprintf("<domaincheckpoint><name>%s</name></domaincheckpoint>", name))
	testdomain.Virsh(s.t, "checkpoint-create", s.Name, file)
}

// crash writes, kills QEMU and starts the domain again.
func (s *site) crash(round int64) {
	s.t.Helper()
	s.writeAll(round)
	s.Kill()
	s.Start()
}

func wantLost(s *site, m manifest.Manifest, warnings []string) {
	s.t.Helper()
	wantKinds(s.t, m, "vda full, vdb full")
	for _, d := range m.Disks {
		if !strings.Contains(d.Reason, "missing or broken") {
			s.t.Errorf("the reason of %s is %q", d.Target, d.Reason)
		}
		wantSaid(s.t, warnings, d.Target+" is copied in full")
		wantSaid(s.t, m.Warnings, d.Target+" is copied in full")
	}
}

// Of two disks, the one whose bitmap is lost is copied in full, in the same
// job that copies the other one incrementally.
func TestOneBitmapLost(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.writeAll(1)
	s.backUp(0, "full")
	s.Destroy()
	testdomain.Tool(t, "qemu-img", "bitmap", "--remove", s.Disk("vdb").Source, s.checkpoint("check1"))
	s.Start()
	s.writeAll(2)
	inc := s.backUp(3, "inc", "--fallback", "full")
	wantKinds(t, inc.Point, "vda inc, vdb full")
	wantSaid(t, inc.Warnings, "disk vdb is copied in full: the bitmap of checkpoint check1 is missing or broken")
	s.writeAll(3)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.check()
}

// A disk that has shrunk is compared with what it was.
func TestDiskShrunk(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.writeAll(1)
	s.backUp(0, "full")
	testdomain.Virsh(t, "blockresize", s.Name, "vdb", fmt.Sprintf("%dB", 12<<20+512))
	s.writeAll(2)
	inc := s.backUp(3, "inc")
	wantKinds(t, inc.Point, "vda inc, vdb rescan")
	wantSaid(t, inc.Warnings, "has shrunk")
	s.writeAll(3)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	testdomain.Virsh(t, "blockresize", s.Name, "vdb", fmt.Sprintf("%dB", 17<<20))
	s.writeAll(4)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.check()
}

// A disk whose image was put back, or got an overlay, while the domain was off
// shows what it holds now, whatever was backed up meanwhile.
func TestImageReplacedOffline(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.writeAll(1)
	s.backUp(0, "full")
	image := s.Disk("vda").Source
	s.Destroy()
	testdomain.Tool(t, "cp", image, image+".old")
	s.Start()
	s.writeAll(2)
	s.backUp(0, "inc")
	s.Destroy()
	testdomain.Tool(t, "mv", image+".old", image)
	s.Start()
	back := s.backUp(3, "inc")
	wantKinds(t, back.Point, "vda rescan, vdb inc")
	wantSaid(t, back.Warnings, "was replaced by another file since")
	// The bitmap of check1 is in the copy, too, and right; but nobody can know.
	wantKinds(t, s.backUp(3, "diff", "--since", "check1").Point, "vda rescan, vdb inc")
	s.Destroy()
	overlay := filepath.Join(s.Dir, "overlay.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay)
	s.redefine(image, overlay)
	s.Disks[0].Source = overlay
	s.Start()
	s.writeAll(3)
	wantKinds(t, s.backUp(3, "inc").Point, "vda rescan, vdb inc")
	s.writeAll(4)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.check()
}

// redefine replaces text in the configuration of the domain.
func (s *site) redefine(old, new string) {
	s.t.Helper()
	file := filepath.Join(s.Dir, "redefined.xml")
	xml := testdomain.Virsh(s.t, "dumpxml", s.Name, "--inactive")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(xml, old, new)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	testdomain.Virsh(s.t, "define", file)
}
