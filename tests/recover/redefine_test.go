package recover

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A domain that was undefined and defined again goes on with its chain: the bitmaps are in the
// images, and have recorded what was written in between.
func TestUndefinedAndDefined(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16<<20 + 512}))
	for round, kind := range []string{"full", "inc", "inc"} {
		s.WriteAll(int64(round + 1))
		s.BackUp(0, kind)
	}
	s.WriteAll(4)
	s.Destroy()
	s.DefineAnew()
	report := s.Recovered(0) // while it is off
	testsite.WantList(t, "fixed", report.Fixed, "checkpoint check1, which libvirt has lost", "checkpoint check2", "checkpoint check3")
	s.DefineAnew()
	s.Start()
	s.WriteAll(5)
	dry := s.Recovered(0, "--dry-run")
	testsite.WantList(t, "dry run", dry.Fixed, "checkpoint check1, which libvirt has lost: to be defined again", "checkpoint check2", "checkpoint check3")
	if left := s.Checkpoints(); len(left) != 0 {
		t.Errorf("the dry run has defined %q", left)
	}
	inc := s.BackUp(0, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc, vdb inc")
	testsite.WantList(t, "recovered", inc.Recovered, "checkpoint check1, which libvirt has lost", "checkpoint check2", "checkpoint check3")
	if inc.Point.Parent != "check3" || strings.Join(s.Labels(), " ") != "check1 check2 check3 check4" {
		t.Errorf("parent %s, checkpoints %q", inc.Point.Parent, s.Checkpoints())
	}
	s.WriteAll(6)
	testsite.WantKinds(t, s.BackUp(0, "diff", "--since", "check1").Point, "vda inc, vdb inc")
	s.Check()
}

// The same with a transient domain, which libvirt forgets when it ends, and
// with one that is undefined while it runs.
func TestTransientDomain(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	doc := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	file := filepath.Join(s.Dir, "transient.xml")
	testsite.WriteFile(t, file, doc)
	s.WriteAll(1)
	s.BackUp(0, "full")
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	s.WriteAll(2)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.Destroy()
	testdomain.Virsh(t, "create", file, "--paused")
	s.WriteAll(3)
	inc := s.BackUp(0, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc")
	testsite.WantList(t, "recovered", inc.Recovered, "checkpoint check1", "checkpoint check2")
	testdomain.Virsh(t, "define", file) // for the test's clean-up
	s.Check()
}

// Only valid checkpoints are defined again: of three, one has lost the bitmap of one disk, and
// one has lost all. The loss is reported once.
func TestLostBitmaps(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	for round, kind := range []string{"full", "inc", "inc"} {
		s.WriteAll(int64(round + 1))
		s.BackUp(0, kind)
	}
	s.Destroy()
	for bitmap, targets := range map[string][]string{"check2": {"vda", "vdb"}, "check3": {"vdb"}} {
		for _, target := range targets {
			testdomain.Tool(t, "qemu-img", "bitmap", "--remove", s.Disk(target).Source, s.Checkpoint(bitmap))
		}
	}
	s.DefineAnew()
	s.Start()
	s.WriteAll(4)
	report := s.Recovered(0)
	testsite.WantList(t, "fixed", report.Fixed, "checkpoint check1", "checkpoint check3, which libvirt has lost (without the bitmap of vdb")
	testsite.WantList(t, "lost", report.Lost, "checkpoint check2: its bitmaps are missing or broken")
	testsite.WantKinds(t, s.BackUp(3, "inc", "--fallback", "full").Point, "vda inc, vdb full")
	s.WriteAll(5)
	s.Refused(1, "checkpoint check2 is gone", "inc", s.Name, "--since", "check2", "--fallback", "fail")
	r := s.Program.Must(t, []int{1}, "inc", s.Name, "--since", "check2", "--fallback", "fail", "--verbose")
	if !strings.Contains(issued(s), `"lost"`) || strings.Contains(r.Stderr, " is lost: ") {
		t.Error("what is lost for good is not noted, or tried again by each run")
	}
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	// All bitmaps are lost, as when QEMU was killed: nothing is a base, and nothing stays
	// defined.
	s.Kill()
	s.DefineAnew()
	s.Start()
	testsite.WantList(t, "lost", s.Recovered(0).Lost, "checkpoint check1", "checkpoint check2", "checkpoint check3", "checkpoint check4", "checkpoint check5")
	if left := s.Checkpoints(); len(left) != 0 {
		t.Errorf("checkpoints: %q", left)
	}
	if auto := s.BackUp(0, "auto", "--fallback", "full"); auto.Point.Kind != manifest.KindFull || len(auto.Recovered) != 0 {
		t.Errorf("auto made a %s, recovered %q", auto.Point.Kind, auto.Recovered)
	}
	s.Check()
}

// A domain shuts off while its checkpoint is defined again: which of its bitmaps are lost is seen
// in the images.
func TestEndsWhileRedefined(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 16 << 20}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.Destroy()
	testdomain.Tool(t, "qemu-img", "bitmap", "--remove", s.Disk("vdb").Source, s.Checkpoint("check1"))
	s.DefineAnew()
	s.Start()
	p := s.StartBroken("redefined:pause", nil, "recover")
	testsite.AwaitStopped(t, p)
	s.Destroy()
	testsite.Continue(p)
	r := p.Wait()
	if text := r.Stdout + r.Stderr; r.Code != 0 || !strings.Contains(text, "checkpoint check1, which libvirt has lost (without the bitmap of vdb, which is missing or broken)") {
		t.Errorf("exit %d: %s", r.Code, text)
	}
	if strings.Contains(issued(s), `"lost"`) || !strings.Contains(bitmaps(s, "vda"), "check1.") {
		t.Errorf("issued: %s\nbitmaps: %s", issued(s), bitmaps(s, "vda"))
	}
	s.Start()
	s.WriteAll(2)
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda inc, vdb rescan")
	s.Check()
}

// While another job holds the domain, the checkpoints that libvirt has lost are left for later.
func TestRedefinedAfterTheDump(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.Destroy()
	s.DefineAnew()
	s.Start()
	end := dump(s)
	testsite.WantList(t, "left", s.Recovered(3).Left, "checkpoint check1, which libvirt has lost: ")
	end()
	testsite.WantList(t, "fixed", s.Recovered(0).Fixed, "checkpoint check1, which libvirt has lost")
	s.WantCheckpoints("check1")
	s.WriteAll(2)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.Check()
}

// A copy of the repository does not delete a lost checkpoint of the original: its broken
// bitmaps stay in the images until the original's own run.
func TestLostBitmapsOfTheOriginal(t *testing.T) {
	t.Parallel()
	a := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	a.BackUp(0, "full")
	bitmap := a.Checkpoint("check1")
	b := a.Copied()
	a.Destroy() // QEMU stores the bitmap, and marks it as in use when it starts
	a.Start()
	a.Kill()
	a.DefineAnew()
	a.Start()
	testsite.WantList(t, "lost", b.Recovered(0).Lost, "checkpoint check1: its bitmaps are missing or broken")
	a.WantBitmap(true, bitmap)
	a.WantCheckpoints()
	testsite.WantList(t, "lost", a.Recovered(0).Lost, "checkpoint check1: its bitmaps are missing or broken")
	a.WantBitmap(false, bitmap)
}

// A checkpoint.xml that was changed is not given to libvirt.
func TestChangedCheckpointXML(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.BackUp(0, "full")
	s.Destroy()
	s.DefineAnew()
	s.Start()
	file := filepath.Join(s.Repo, s.Name, "check1", "checkpoint.xml")
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(doc), "check1.", "check7.", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	testsite.WantList(t, "lost", s.Recovered(0).Lost, "checkpoint check1: point check1")
	if left := s.Checkpoints(); len(left) != 0 {
		t.Errorf("checkpoints: %q", left)
	}
}

// A renamed domain starts a new chain under its new name, and harms neither the points nor the
// checkpoints of its old name; renamed back, it goes on.
func TestRename(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	old := s.Name
	t.Cleanup(func() { _ = os.Remove("/var/log/libvirt/qemu/" + old + "-new.log") })
	rename(s, old+"-new")
	s.Rejects(testsite.Reject(6, "no domain with matching name", "libvirt calls the domain of these points "+s.Name+" now"), []string{"inc", old})
	s.WriteAll(2)
	r := s.Program.Must(t, []int{6}, "inc", s.Name)
	for _, words := range []string{"was called " + old, "virsh domrename " + s.Name + " " + old, "no full or inc of these disks"} {
		if !strings.Contains(r.Stderr, words) {
			t.Errorf("it does not say %q", words)
		}
	}
	r = s.Program.Must(t, []int{3}, "full", s.Name, "--json")
	if !strings.Contains(r.Stdout, `"id": "check1"`) {
		t.Error("the first point under the new name is not check1")
	}
	s.Program.Must(t, nil, "inc", s.Name)
	s.Program.Must(t, nil, "recover", s.Name)
	if got := strings.Join(s.Labels(), " "); got != "check1 check1 check2" {
		t.Errorf("checkpoints: %s", got)
	}
	rename(s, old)
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.Check()
}

// rename renames the domain, which must be off.
func rename(s *testsite.Site, name string) {
	s.T.Helper()
	s.Destroy()
	testdomain.Virsh(s.T, "domrename", s.Name, name)
	s.Name = name
	s.Start()
}
