package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// volumeSite is a domain whose vdb is a volume of a pool: a qcow2 image of
// version 2, which the XML does not tell, nor where it is.
func volumeSite(t *testing.T) *site {
	t.Helper()
	image := oldImage(t, 8<<20)
	s := newSite(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 8 << 20, Source: image}))
	testdomain.Virsh(t, "pool-create-as", s.Name, "dir", "--target", filepath.Dir(image)) // transient
	t.Cleanup(func() { testdomain.Virsh(t, "pool-destroy", s.Name) })
	s.redefineDisk(fmt.Sprintf("<disk type='file' device='disk'>\n      <driver name='qemu' type='qcow2' discard='unmap'/>\n      <source file='%s'/>", image),
		fmt.Sprintf("<disk type='volume' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source pool='%s' volume='%s'/>", s.Name, filepath.Base(image)))
	s.Start()
	return s
}

// redefineDisk replaces a part of the domain's XML while it is off.
func (s *site) redefineDisk(old, new string) {
	s.t.Helper()
	doc := testdomain.Virsh(s.t, "dumpxml", s.Name, "--inactive")
	if strings.Count(doc, old) != 1 {
		s.t.Fatalf("no %s in %s", old, doc)
	}
	file := filepath.Join(s.Dir, "domain.xml")
	write(s.t, file, strings.Replace(doc, old, new, 1))
	testdomain.Virsh(s.t, "define", file)
}

// A disk whose image nobody but QEMU can look at, and that cannot have a bitmap,
// is found out beforehand, and the others have their checkpoint.
func TestVolumeOfVersion2(t *testing.T) {
	t.Parallel()
	s := volumeSite(t)
	s.writeAll(1)
	full := s.backUp(0, "full")
	wantSaid(t, full.Notes, "an inc will read all of disk vdb, and store what differs: a qcow2 v2 image has no bitmaps")
	s.writeAll(2)
	inc := s.backUp(0, "inc").Point
	wantKinds(t, inc, "vda inc, vdb rescan")
	s.wantCovered(inc, "vda")
	s.check()
}

// Only a domain with a disk that nothing else tells of is asked through the monitor:
// libvirt marks it as tainted by that.
func TestMonitorIsAskedOnlyIfNeeded(t *testing.T) {
	t.Parallel()
	ordinary := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}, testdomain.Disk{Target: "vdb", Size: 1 << 20, Format: "raw"}))
	volume := volumeSite(t)
	for s, want := range map[*site]bool{ordinary: false, volume: true} {
		s.program.Must(t, nil, "full", s.Name)
		if tainted := strings.Contains(testdomain.Virsh(t, "dominfo", s.Name), "custom monitor"); tainted != want {
			t.Errorf("%s is tainted: %v, want %v", s.Name, tainted, want)
		}
	}
}

// wantCovered sees of which disks a point's checkpoint has bitmaps.
func (s *site) wantCovered(m manifest.Manifest, want ...string) {
	s.t.Helper()
	var got []string
	for line := range strings.Lines(testdomain.Virsh(s.t, "checkpoint-dumpxml", s.Name, m.Checkpoint, "--no-domain")) {
		if strings.Contains(line, "checkpoint='bitmap'") {
			_, rest, _ := strings.Cut(line, "name='")
			target, _, _ := strings.Cut(rest, "'")
			got = append(got, target)
		}
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("the checkpoint of %s covers %q, want %q", m.ID, got, want)
	}
}

// hiddenSite is a domain with a disk that cannot have bitmaps, although all that
// can be seen of it says so: QEMU holds an image of version 2, and one of version
// 3 has taken its place in the directory.
func hiddenSite(t *testing.T) *site {
	t.Helper()
	image := oldImage(t, 8<<20)
	held := image + ".held"
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 8 << 20, Source: image},
		testdomain.Disk{Target: "vdc", Size: 8 << 20}))
	if err := os.Rename(image, held); err != nil {
		t.Fatal(err)
	}
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1", image, "8M")
	s.Disks[1].Source = held
	s.writeAll(1)
	return s
}

// Where QEMU refuses the bitmap of one disk, that disk is found, named and copied
// without a checkpoint, and the others have theirs. Nothing is left of the tries.
func TestBitmapRefused(t *testing.T) {
	t.Parallel()
	s := hiddenSite(t)
	full := s.backUp(3, "full")
	const words = "disk vdb has no bitmap in checkpoint check1: "
	wantSaid(t, full.Warnings, words)
	wantSaid(t, full.Point.Warnings, "Cannot store dirty bitmaps in qcow2 v2 files")
	s.wantCheckpoints("check1")
	s.wantCovered(full.Point, "vda", "vdc")
	s.writeAll(2)
	inc := s.backUp(3, "inc")
	wantKinds(t, inc.Point, "vda inc, vdb rescan, vdc inc")
	s.writeAll(3)
	wantKinds(t, s.backUp(3, "diff").Point, "vda inc, vdb rescan, vdc inc")
	s.backUp(0, "copy")
	s.check()
	// Of this disk alone there is no checkpoint at all.
	s.points = nil
	alone := s.backUp(3, "full", "--disk", "vdb")
	if alone.Point.Checkpoint != "" {
		t.Errorf("the point has the checkpoint %s", alone.Point.Checkpoint)
	}
	s.wantCheckpoints("check1", "check2")
	if next := s.backUp(3, "inc", "--disk", "vdb"); len(next.Recovered) > 0 {
		t.Errorf("the next run has recovered %q", next.Recovered)
	}
	if lost := s.recovered(0).Lost; len(lost) > 0 {
		t.Errorf("lost are %q", lost)
	}
}

// A run that is killed while it tries bitmaps leaves one that the next run deletes.
func TestKilledWhileTryingBitmaps(t *testing.T) {
	t.Parallel()
	s := hiddenSite(t)
	if r := s.startBroken("try bitmap#2:kill", nil, "full").Wait(); r.Code != 128+9 {
		t.Fatalf("exit %d", r.Code)
	}
	s.wantCheckpoints("check1")
	for _, way := range []string{"error", "term"} {
		if r := s.startBroken("try bitmap#1:"+way, nil, "full").Wait(); r.Code == 0 || r.Code == 3 {
			t.Errorf("%s: exit %d", way, r.Code)
		}
		s.wantCheckpoints()
	}
	s.backUp(3, "full")
	s.check()
}

// Of a run that is killed when it has sealed a point of which no disk can have a bitmap,
// no checkpoint is defined again or said to be lost, and its note goes.
func TestKilledWithoutACheckpoint(t *testing.T) {
	t.Parallel()
	s := hiddenSite(t)
	if r := s.startBroken("step seal after:kill", nil, "full", "--disk", "vdb").Wait(); r.Code != 128+9 {
		t.Fatalf("exit %d", r.Code)
	}
	wantList(t, "lost", s.recovered(0).Lost)
	list, err := os.ReadFile(filepath.Join(s.repo, s.Name, instants.FileName))
	if err != nil || strings.Contains(string(list), "check1") {
		t.Errorf("check1 is still noted: %s, %v", list, err)
	}
}

// The guest is not frozen while bitmaps are tried, and frozen again for the job.
func TestBitmapRefusedOfAGuest(t *testing.T) {
	t.Parallel()
	image := oldImage(t, 8<<20)
	s := newSite(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}, testdomain.Disk{Target: "vdb", Size: 8 << 20, Source: image}))
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", image+".new", "8M")
	if err := os.Rename(image+".new", image); err != nil {
		t.Fatal(err)
	}
	p := s.startBroken("try bitmap#1:pause", nil, "full", "--quiesce", "require")
	awaitStopped(t, p)
	s.wantThawed(t)
	continueStopped(p)
	r := p.Wait()
	if r.Code != 3 {
		t.Fatalf("exit %d, want 3", r.Code)
	}
	if m := s.add(r, nil).Point; m.Consistency != "filesystem" {
		t.Errorf("the point is %s consistent", m.Consistency)
	}
	s.wantThawed(t)
}
