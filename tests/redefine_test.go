package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// defineAnew lets libvirt forget the domain, shut off, with all its checkpoints,
// and defines it anew as it was.
func (s *site) defineAnew() {
	s.t.Helper()
	doc := testdomain.Virsh(s.t, "dumpxml", s.Name, "--inactive")
	testdomain.Virsh(s.t, "undefine", s.Name, "--checkpoints-metadata")
	file := filepath.Join(s.Dir, "anew.xml")
	write(s.t, file, doc)
	testdomain.Virsh(s.t, "define", file)
	if left := s.Checkpoints(); len(left) != 0 {
		s.t.Fatalf("checkpoints are left: %q", left)
	}
}

// A domain that was undefined and defined again goes on with its chain: the
// bitmaps are in the images, and have recorded what was written meanwhile.
func TestUndefinedAndDefined(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16<<20 + 512}))
	for round, kind := range []string{"full", "inc", "inc"} {
		s.writeAll(int64(round + 1))
		s.backUp(0, kind)
	}
	s.writeAll(4)
	s.Destroy()
	s.defineAnew()
	report := s.recovered(3)
	wantList(t, "left", report.Left, "checkpoint check1, which libvirt has lost", "checkpoint check2", "checkpoint check3")
	s.Start()
	s.writeAll(5)
	dry := s.recovered(0, "--dry-run")
	wantList(t, "dry run", dry.Fixed, "checkpoint check1, which libvirt has lost: to be defined again", "checkpoint check2", "checkpoint check3")
	if left := s.Checkpoints(); len(left) != 0 {
		t.Errorf("the dry run has defined %q", left)
	}
	inc := s.backUp(0, "inc")
	wantKinds(t, inc.Point, "vda inc, vdb inc")
	wantList(t, "recovered", inc.Recovered, "checkpoint check1, which libvirt has lost", "checkpoint check2", "checkpoint check3")
	if inc.Point.Parent != "check3" || strings.Join(s.labels(), " ") != "check1 check2 check3 check4" {
		t.Errorf("parent %s, checkpoints %q", inc.Point.Parent, s.Checkpoints())
	}
	s.writeAll(6)
	wantKinds(t, s.backUp(0, "diff", "--since", "check1").Point, "vda inc, vdb inc")
	s.check()
}

// The same with a transient domain, which libvirt forgets when it ends, and
// with one that is undefined while it runs.
func TestTransientDomain(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	doc := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	file := filepath.Join(s.Dir, "transient.xml")
	write(t, file, doc)
	s.writeAll(1)
	s.backUp(0, "full")
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	s.writeAll(2)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc")
	s.Destroy()
	testdomain.Virsh(t, "create", file, "--paused")
	s.writeAll(3)
	inc := s.backUp(0, "inc")
	wantKinds(t, inc.Point, "vda inc")
	wantList(t, "recovered", inc.Recovered, "checkpoint check1", "checkpoint check2")
	testdomain.Virsh(t, "define", file) // for its clean-up
	s.check()
}

// Only what is valid is defined again: of three checkpoints one has lost the
// bitmap of one disk, and one is gone. What is gone is told once.
func TestLostBitmaps(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	for round, kind := range []string{"full", "inc", "inc"} {
		s.writeAll(int64(round + 1))
		s.backUp(0, kind)
	}
	s.Destroy()
	for bitmap, targets := range map[string][]string{"check2": {"vda", "vdb"}, "check3": {"vdb"}} {
		for _, target := range targets {
			testdomain.Tool(t, "qemu-img", "bitmap", "--remove", s.Disk(target).Source, s.checkpoint(bitmap))
		}
	}
	s.defineAnew()
	s.Start()
	s.writeAll(4)
	report := s.recovered(0)
	wantList(t, "fixed", report.Fixed, "checkpoint check1", "checkpoint check3, which libvirt has lost (without the bitmap of vdb")
	wantList(t, "lost", report.Lost, "checkpoint check2: its bitmaps are missing or broken")
	wantKinds(t, s.backUp(3, "inc", "--fallback", "full").Point, "vda inc, vdb full")
	s.writeAll(5)
	s.refused(1, "checkpoint check2 is gone", "inc", s.Name, "--since", "check2", "--fallback", "fail")
	r := s.program.Must(t, []int{1}, "inc", s.Name, "--since", "check2", "--fallback", "fail", "--verbose")
	if !strings.Contains(s.issued(), `"lost"`) || strings.Contains(r.Stderr, " is lost: ") {
		t.Error("what is lost for good is not noted, or tried again by each run")
	}
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	// Everything lost, as when QEMU was killed: nothing is a base, and nothing
	// stays defined.
	s.Kill()
	s.defineAnew()
	s.Start()
	wantList(t, "lost", s.recovered(0).Lost, "checkpoint check1", "checkpoint check2", "checkpoint check3", "checkpoint check4", "checkpoint check5")
	if left := s.Checkpoints(); len(left) != 0 {
		t.Errorf("checkpoints: %q", left)
	}
	if auto := s.backUp(0, "auto", "--fallback", "full"); auto.Point.Kind != manifest.KindFull || len(auto.Recovered) != 0 {
		t.Errorf("auto made a %s, recovered %q", auto.Point.Kind, auto.Recovered)
	}
	s.check()
}

// A domain that ends while its checkpoint is defined again has no sizes of bitmaps. That
// does not mean that the bitmaps are lost.
func TestEndsWhileRedefined(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.writeAll(1)
	s.backUp(0, "full")
	s.Destroy()
	testdomain.Tool(t, "qemu-img", "bitmap", "--remove", s.Disk("vdb").Source, s.checkpoint("check1"))
	s.defineAnew()
	s.Start()
	p := s.startBroken("redefined:pause", nil, "recover")
	awaitStopped(t, p)
	s.Destroy()
	continueStopped(p)
	r := p.Wait()
	if text := r.Stdout + r.Stderr; r.Code != 3 || !strings.Contains(text, "checkpoint check1, which libvirt has lost: ") || !strings.Contains(text, "not running") {
		t.Errorf("exit %d: %s", r.Code, text)
	}
	if strings.Contains(s.issued(), `"lost"`) || !strings.Contains(s.bitmaps("vda"), "check1.") {
		t.Errorf("issued: %s\nbitmaps: %s", s.issued(), s.bitmaps("vda"))
	}
	s.Start()
	s.writeAll(2)
	wantKinds(t, s.backUp(3, "inc").Point, "vda inc, vdb rescan")
	s.check()
}

// While another job holds the domain, what libvirt has lost is left for later, as all else is.
func TestRedefinedAfterTheDump(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	s.writeAll(1)
	s.backUp(0, "full")
	s.Destroy()
	s.defineAnew()
	s.Start()
	end := s.dump()
	wantList(t, "left", s.recovered(3).Left, "checkpoint check1, which libvirt has lost: ")
	end()
	wantList(t, "fixed", s.recovered(0).Fixed, "checkpoint check1, which libvirt has lost")
	s.wantCheckpoints("check1")
	s.writeAll(2)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc")
	s.check()
}

// In a copy of the repository a checkpoint that is lost is not the copy's to delete: its
// broken bitmaps stay in the images until the original's own run.
func TestLostBitmapsOfTheOriginal(t *testing.T) {
	t.Parallel()
	a := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	a.backUp(0, "full")
	bitmap := a.checkpoint("check1")
	b := a.copied()
	a.Destroy() // QEMU stores the bitmap, and marks it as in use when it starts
	a.Start()
	a.Kill()
	a.defineAnew()
	a.Start()
	wantList(t, "lost", b.recovered(0).Lost, "checkpoint check1: its bitmaps are missing or broken")
	a.wantBitmap(true, bitmap)
	a.wantCheckpoints()
	wantList(t, "lost", a.recovered(0).Lost, "checkpoint check1: its bitmaps are missing or broken")
	a.wantBitmap(false, bitmap)
}

// A checkpoint.xml that somebody has changed is not given to libvirt.
func TestChangedCheckpointXML(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.backUp(0, "full")
	s.Destroy()
	s.defineAnew()
	s.Start()
	file := filepath.Join(s.repo, s.Name, "check1", "checkpoint.xml")
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(doc), "check1.", "check7.", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	wantList(t, "lost", s.recovered(0).Lost, "checkpoint check1: point check1")
	if left := s.Checkpoints(); len(left) != 0 {
		t.Errorf("checkpoints: %q", left)
	}
}

// A renamed domain starts anew under its new name, and harms neither the points
// nor the checkpoints of its old one; renamed back, it goes on.
func TestRename(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	s.writeAll(1)
	s.backUp(0, "full")
	old := s.Name
	t.Cleanup(func() { _ = os.Remove("/var/log/libvirt/qemu/" + old + "-new.log") })
	s.rename(old + "-new")
	s.rejects(rejection{6, "no domain with matching name", "libvirt calls the domain of these points " + s.Name + " now"}, []string{"inc", old})
	s.writeAll(2)
	r := s.program.Must(t, []int{6}, "inc", s.Name)
	for _, words := range []string{"was called " + old, "virsh domrename " + s.Name + " " + old, "no full or inc of these disks"} {
		if !strings.Contains(r.Stderr, words) {
			t.Errorf("it does not say %q", words)
		}
	}
	r = s.program.Must(t, []int{3}, "full", s.Name, "--json")
	if !strings.Contains(r.Stdout, `"id": "check1"`) {
		t.Error("the first point under the new name is not check1")
	}
	s.program.Must(t, nil, "inc", s.Name)
	s.program.Must(t, nil, "recover", s.Name)
	if got := strings.Join(s.labels(), " "); got != "check1 check1 check2" {
		t.Errorf("checkpoints: %s", got)
	}
	s.rename(old)
	s.writeAll(3)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc")
	s.check()
}

// rename gives the domain another name, for which it has to be off.
func (s *site) rename(name string) {
	s.t.Helper()
	s.Destroy()
	testdomain.Virsh(s.t, "domrename", s.Name, name)
	s.Name = name
	s.Start()
}
