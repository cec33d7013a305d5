package chains

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
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// volumeSite is a domain whose vdb is a volume of a pool: a qcow2 image of
// version 2. The XML tells neither the version nor the path.
func volumeSite(t *testing.T) *testsite.Site {
	t.Helper()
	image := oldImage(t, 8<<20)
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 8 << 20, Source: image}))
	testdomain.Virsh(t, "pool-create-as", s.Name, "dir", "--target", filepath.Dir(image)) // transient
	t.Cleanup(func() { testdomain.Virsh(t, "pool-destroy", s.Name) })
	redefineDisk(s, fmt.Sprintf("<disk type='file' device='disk'>\n      <driver name='qemu' type='qcow2' discard='unmap'/>\n      <source file='%s'/>", image),
		fmt.Sprintf("<disk type='volume' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source pool='%s' volume='%s'/>", s.Name, filepath.Base(image)))
	s.Start()
	return s
}

// redefineDisk replaces a part of the domain's XML while it is off.
func redefineDisk(s *testsite.Site, old, new string) {
	s.T.Helper()
	doc := testdomain.Virsh(s.T, "dumpxml", s.Name, "--inactive")
	if strings.Count(doc, old) != 1 {
		s.T.Fatalf("no %s in %s", old, doc)
	}
	file := filepath.Join(s.Dir, "domain.xml")
	testsite.WriteFile(s.T, file, strings.Replace(doc, old, new, 1))
	testdomain.Virsh(s.T, "define", file)
}

// A disk whose image only QEMU can read, and that cannot have a bitmap, is found
// before the job begins, and the others get their checkpoint.
func TestVolumeOfVersion2(t *testing.T) {
	t.Parallel()
	s := volumeSite(t)
	s.WriteAll(1)
	full := s.BackUp(0, "full")
	testsite.WantSaid(t, full.Notes, "an inc will read all of disk vdb, and store what differs: a qcow2 v2 image has no bitmaps")
	s.WriteAll(2)
	inc := s.BackUp(0, "inc").Point
	testsite.WantKinds(t, inc, "vda inc, vdb rescan")
	wantCovered(s, inc, "vda")
	s.WriteAll(3)
	s.Destroy() // the volume is looked up then
	off := s.BackUp(0, "inc").Point
	testsite.WantKinds(t, off, "vda inc, vdb rescan")
	wantCovered(s, off, "vda")
	s.Check()
}

// QEMU's monitor is asked only about a disk that nothing else describes, because libvirt
// marks the domain as tainted by such a command.
func TestMonitorIsAskedOnlyIfNeeded(t *testing.T) {
	t.Parallel()
	ordinary := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}, testdomain.Disk{Target: "vdb", Size: 1 << 20, Format: "raw"}))
	volume := volumeSite(t)
	for s, want := range map[*testsite.Site]bool{ordinary: false, volume: true} {
		s.Program.Must(t, nil, "full", s.Name)
		if tainted := strings.Contains(testdomain.Virsh(t, "dominfo", s.Name), "custom monitor"); tainted != want {
			t.Errorf("%s is tainted: %v, want %v", s.Name, tainted, want)
		}
	}
}

// wantCovered checks which disks a point's checkpoint has bitmaps for.
func wantCovered(s *testsite.Site, m manifest.Manifest, want ...string) {
	s.T.Helper()
	var got []string
	for line := range strings.Lines(testdomain.Virsh(s.T, "checkpoint-dumpxml", s.Name, m.Checkpoint, "--no-domain")) {
		if strings.Contains(line, "checkpoint='bitmap'") {
			_, rest, _ := strings.Cut(line, "name='")
			target, _, _ := strings.Cut(rest, "'")
			got = append(got, target)
		}
	}
	if !slices.Equal(got, want) {
		s.T.Errorf("the checkpoint of %s covers %q, want %q", m.ID, got, want)
	}
}

// hiddenSite is a domain with a disk that cannot have bitmaps, although its file looks as if
// it could: QEMU has an image of version 2 open, and one of version 3 has replaced it in the
// directory.
func hiddenSite(t *testing.T) *testsite.Site {
	t.Helper()
	image := oldImage(t, 8<<20)
	held := image + ".held"
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 8 << 20, Source: image},
		testdomain.Disk{Target: "vdc", Size: 8 << 20}))
	if err := os.Rename(image, held); err != nil {
		t.Fatal(err)
	}
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1", image, "8M")
	s.Disks[1].Source = held
	s.WriteAll(1)
	return s
}

// Where QEMU refuses the bitmap of one disk, that disk is found, named and copied
// without a checkpoint, and the others get theirs. The attempts leave nothing behind.
func TestBitmapRefused(t *testing.T) {
	t.Parallel()
	s := hiddenSite(t)
	full := s.BackUp(3, "full")
	const words = "disk vdb has no bitmap in checkpoint check1: "
	testsite.WantSaid(t, full.Warnings, words)
	testsite.WantSaid(t, full.Point.Warnings, "Cannot store dirty bitmaps in qcow2 v2 files")
	s.WantCheckpoints("check1")
	wantCovered(s, full.Point, "vda", "vdc")
	s.WriteAll(2)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc, vdb rescan, vdc inc")
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(3, "diff").Point, "vda inc, vdb rescan, vdc inc")
	s.BackUp(0, "copy")
	s.Check()
	// For this disk alone no checkpoint is possible.
	s.Points = nil
	alone := s.BackUp(3, "full", "--disk", "vdb")
	if alone.Point.Checkpoint != "" {
		t.Errorf("the point has the checkpoint %s", alone.Point.Checkpoint)
	}
	s.WantCheckpoints("check1", "check2")
	if next := s.BackUp(3, "inc", "--disk", "vdb"); len(next.Recovered) > 0 {
		t.Errorf("the next run has recovered %q", next.Recovered)
	}
	if lost := s.Recovered(0).Lost; len(lost) > 0 {
		t.Errorf("lost are %q", lost)
	}
}

// A run that is killed while it tries bitmaps leaves one that the next run deletes.
func TestKilledWhileTryingBitmaps(t *testing.T) {
	t.Parallel()
	s := hiddenSite(t)
	if r := s.StartBroken("try bitmap#2:kill", nil, "full").Wait(); r.Code != 128+9 {
		t.Fatalf("exit %d", r.Code)
	}
	s.WantCheckpoints("check1")
	for _, way := range []string{"error", "term"} {
		if r := s.StartBroken("try bitmap#1:"+way, nil, "full").Wait(); r.Code == 0 || r.Code == 3 {
			t.Errorf("%s: exit %d", way, r.Code)
		}
		s.WantCheckpoints()
	}
	s.BackUp(3, "full")
	s.Check()
}

// A run is killed after it has sealed a point whose disks cannot have bitmaps: no checkpoint
// is defined again or reported as lost, and the record of its identity is removed.
func TestKilledWithoutACheckpoint(t *testing.T) {
	t.Parallel()
	s := hiddenSite(t)
	if r := s.StartBroken("step seal after:kill", nil, "full", "--disk", "vdb").Wait(); r.Code != 128+9 {
		t.Fatalf("exit %d", r.Code)
	}
	testsite.WantList(t, "lost", s.Recovered(0).Lost)
	list, err := os.ReadFile(filepath.Join(s.Repo, s.Name, instants.FileName))
	if err != nil || strings.Contains(string(list), "check1") {
		t.Errorf("check1 is still noted: %s, %v", list, err)
	}
}

// The guest is not frozen while bitmaps are tried, and frozen again for the job.
func TestBitmapRefusedOfAGuest(t *testing.T) {
	t.Parallel()
	image := oldImage(t, 8<<20)
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}, testdomain.Disk{Target: "vdb", Size: 8 << 20, Source: image}))
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", image+".new", "8M")
	if err := os.Rename(image+".new", image); err != nil {
		t.Fatal(err)
	}
	p := s.StartBroken("try bitmap#1:pause", nil, "full", "--quiesce", "require")
	testsite.AwaitStopped(t, p)
	s.WantThawed(t)
	testsite.Continue(p)
	r := p.Wait()
	if r.Code != 3 {
		t.Fatalf("exit %d, want 3", r.Code)
	}
	if m := s.Add(r, nil).Point; m.Consistency != "filesystem" {
		t.Errorf("the point is %s consistent", m.Consistency)
	}
	s.WantThawed(t)
}
