package offline

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testfs"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// onDevice puts the image of vda, of a domain that is off, onto a block device.
func onDevice(s *testsite.Site) {
	s.T.Helper()
	file := filepath.Join(s.Dir, "device")
	testdomain.Tool(s.T, "truncate", "-s", "64M", file)
	device := testfs.Attach(s.T, file)
	image := s.Disk("vda").Source
	testdomain.Tool(s.T, "dd", "if="+image, "of="+device, "bs=1M", "status=none")
	xml := strings.Replace(testdomain.Virsh(s.T, "dumpxml", s.Name, "--inactive"), fmt.Sprintf("<source file='%s'/>", image), fmt.Sprintf("<source dev='%s'/>", device), 1)
	i := strings.LastIndex(xml[:strings.Index(xml, device)], "<disk type='file'")
	define(s, xml[:i]+strings.Replace(xml[i:], "<disk type='file'", "<disk type='block'", 1))
	s.Disks[0].Source = device
}

func define(s *testsite.Site, xml string) {
	s.T.Helper()
	file := filepath.Join(s.Dir, "defined.xml")
	testsite.WriteFile(s.T, file, xml)
	testdomain.Virsh(s.T, "define", file)
}

// An image on a block device gets no bitmap while the domain is off, unless --exclusive says that
// no other host uses it; its bitmaps from when it ran are used.
func TestBlockDevice(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 16 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib}))
	onDevice(s)
	s.Start()
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.Destroy()
	device := s.Disk("vda").Source
	before := testdomain.Tool(t, "md5sum", device)
	shared := s.BackUp(3, "inc")
	testsite.WantKinds(t, shared.Point, "vda inc, vdb inc")
	testsite.WantSaid(t, shared.Warnings, "--exclusive (VIRTBACKUP_EXCLUSIVE=1) says so")
	if after := testdomain.Tool(t, "md5sum", device); after != before {
		t.Error("the device was written to")
	}
	s.Start()
	s.WriteAll(3)
	next := s.BackUp(3, "inc")
	testsite.WantKinds(t, next.Point, "vda rescan, vdb inc")
	testsite.WantSaid(t, next.Warnings, "does not cover this disk")
	s.WriteAll(4)
	s.Destroy()
	testsite.WantKinds(t, s.BackUp(0, "inc", "--exclusive").Point, "vda inc, vdb inc")
	s.Program.Env = append(s.Program.Env, "VIRTBACKUP_EXCLUSIVE=1")
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Start()
	s.WriteAll(5)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// The image of a domain that is off is the backing file of one that runs: nobody may write to
// it, so it gets no bitmap, and the domain is backed up all the same.
func TestTemplate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	overlay := filepath.Join(testdomain.TempDir(t), "overlay.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", s.Disk("vda").Source, "-F", "qcow2", overlay)
	user := testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib, Source: overlay, Format: "qcow2"})
	r := s.BackUp(3, "inc")
	testsite.WantKinds(t, r.Point, "vda inc, vdb rescan")
	testsite.WantSaid(t, r.Warnings, "is it the backing file of a domain that runs?")
	user.Destroy()
	next := s.BackUp(0, "inc") // since the newest point that has a bitmap
	testsite.WantKinds(t, next.Point, "vda inc, vdb rescan")
	if next.Point.Parent != "check1" {
		t.Errorf("it is since %s", next.Point.Parent)
	}
	s.Check()
}

// Where the bitmaps may not find room none is added, and the others stay valid.
func TestNoRoomForBitmaps(t *testing.T) {
	t.Parallel()
	dir := testsite.Mount(t, "24M")
	source := filepath.Join(dir, "vda.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", source, "16M")
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib, Source: source, Format: "qcow2"}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.Destroy()
	filler := fill(t, dir)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc")
	testsite.WantSaid(t, inc.Warnings, "the bitmaps may need")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.WantBitmap(true, s.Checkpoint("check1"))
	testsite.WantKinds(t, s.BackUp(0, "inc", "--since", "check1").Point, "vda inc")
	s.Check()
}

// fill fills a file system, by a file that it returns.
func fill(t *testing.T, dir string) string {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	testdomain.Tool(t, "sh", "-c", fmt.Sprintf("cat /dev/zero >%s 2>/dev/null; true", filler))
	return filler
}

// Nor is one removed there, by a command or after a run that failed: all others would be lost, those
// of other programs, too.
func TestNoRoomToRemoveBitmaps(t *testing.T) {
	t.Parallel()
	dir := testsite.Mount(t, "32M")
	source := filepath.Join(dir, "vda.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", source, "16M")
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib, Source: source, Format: "qcow2"}))
	doc := filepath.Join(s.Dir, "theirs.xml")
	testsite.WriteFile(t, doc, "<domaincheckpoint><name>theirs</name></domaincheckpoint>")
	testdomain.Virsh(t, "checkpoint-create", s.Name, doc)
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc")
	s.WriteAll(3)
	s.Destroy()
	sound := func(filler string) {
		t.Helper()
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		s.WantBitmap(true, "theirs")
		if info := testdomain.Tool(t, "qemu-img", "info", source); strings.Contains(info, "in-use") {
			t.Fatalf("bitmaps are lost: %s", info)
		}
	}
	filler := fill(t, dir)
	r := s.Program.Must(t, []int{1}, "checkpoint", "delete", s.Name, "check1", "--force")
	if !strings.Contains(r.Stderr, "the bitmaps may need") {
		t.Errorf("it does not say why")
	}
	sound(filler)
	p := s.StartBroken("disks served:pause", nil, "inc")
	testsite.AwaitStopped(t, p)
	filler = fill(t, dir)
	p.Signal(syscall.SIGINT)
	testsite.Continue(p)
	if r := p.Wait(); r.Code != 130 {
		t.Errorf("exit %d", r.Code)
	}
	sound(filler)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.WantBitmap(true, "theirs")
	s.Check()
	wantClean(s)
}

// What cannot be read without QEMU is refused with a hint; the other disks are backed up.
func TestRunningOnly(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 8 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib}))
	xml := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	vda := fmt.Sprintf("<source file='%s'/>", s.Disk("vda").Source)
	for name, c := range map[string]struct{ old, new, said string }{
		"slices":       {vda, fmt.Sprintf("<source file='%s'><slices><slice type='storage' offset='0' size='1048576'/></slices></source>", s.Disk("vda").Source), "<slices>"},
		"other chain":  {vda, vda + fmt.Sprintf("<backingStore type='file'><format type='qcow2'/><source file='%s'/></backingStore>", s.Disk("vdb").Source), "its XML has the backing file"},
		"other format": {"type='qcow2'", "type='qed'", "its format is qed"},
	} {
		define(s, strings.Replace(xml, c.old, c.new, 1))
		r := s.Program.Must(t, []int{1}, "full", s.Name)
		if !strings.Contains(r.Stderr, "disk vda of domain "+s.Name+" can be read only while the domain runs: ") || !strings.Contains(r.Stderr, c.said) ||
			!strings.Contains(r.Stderr, "hint: virsh start --paused "+s.Name) {
			t.Errorf("%s: it does not say %q, with a hint", name, c.said)
		}
		s.BackUp(0, "full", "--exclude", "vda")
	}
	s.Check()
}

// Without QEMU's programs a domain that is off cannot be backed up, and the error says what to
// install.
func TestNoPrograms(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Program.Env = append(s.Program.Env, "PATH=/nonexistent")
	s.Rejects(testsite.Reject(1, "executable file not found", "qemu-utils"), []string{"--quiet", "inc", s.Name})
}

// The commands on checkpoints know those of a domain that is off.
func TestCheckpointsWhileOff(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.BackUp(0, "inc")
	size := s.Program.Must(t, nil, "checkpoint", "size", s.Name).Stdout
	testsite.WantLine(t, size, `^check1 +vda +[1-9]`)
	testsite.WantLine(t, size, `^check2 +vda +0 B`)
	s.Program.Must(t, nil, "checkpoint", "list", s.Name)
	name := s.Checkpoint("check1")
	s.Program.Must(t, nil, "checkpoint", "delete", s.Name, "check1", "--force")
	if info := testdomain.Tool(t, "qemu-img", "info", s.Disk("vda").Source); strings.Contains(info, name) {
		t.Errorf("its bitmap is left: %s", info)
	}
	s.WantCheckpoints("check2")
	// libvirt loses its records: the next run defines them again, without a start.
	s.DefineAnew()
	inc := s.BackUp(0, "inc")
	testsite.WantSaid(t, inc.Recovered, "checkpoint check2, which libvirt has lost")
	testsite.WantKinds(t, inc.Point, "vda inc, vdb rescan")
	// Retired checkpoints go with their bitmaps.
	for range 3 {
		s.BackUp(0, "inc", "--keep-checkpoints", "1")
	}
	info := testdomain.Tool(t, "qemu-img", "info", s.Disk("vda").Source)
	if n := strings.Count(info, "granularity:"); n != len(s.Checkpoints()) || n > 2 {
		t.Errorf("%d bitmaps, checkpoints %q: %s", n, s.Checkpoints(), info)
	}
	s.Program.Must(t, nil, "release", s.Name, "--points")
	if info := testdomain.Tool(t, "qemu-img", "info", s.Disk("vda").Source); strings.Contains(info, "bitmaps:") {
		t.Errorf("bitmaps are left: %s", info)
	}
}

// A guest that has shut down in order has left its file systems so; one that is saved has not.
func TestQuiesced(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 * mib}))
	s.WriteFile("/mnt/a", []byte("one"))
	testdomain.Virsh(t, "managedsave", s.Name)
	s.Rejects(testsite.Reject(1, "--quiesce require", "while it runs or after its guest has shut down"), []string{"--quiet", "full", s.Name, "--quiesce", "require"})
	if got := s.BackUp(0, "full").Point.Consistency; got != manifest.ConsistencyCrash {
		t.Errorf("of a domain that is saved: %s", got)
	}
	testdomain.Virsh(t, "start", s.Name)
	testsite.Await(t, "answer of the agent", time.Second, func() bool {
		_, err := testdomain.TryVirsh(t, "qemu-agent-command", s.Name, `{"execute":"guest-ping"}`, "--timeout", "5")
		return err == nil
	})
	s.PowerOff()
	inc := s.BackUp(0, "inc", "--quiesce", "require")
	if got := inc.Point.Consistency; got != manifest.ConsistencyFilesystem {
		t.Errorf("of a guest that has shut down: %s", got)
	}
	s.Check()
	// Its disk goes back to what it was while it was saved, and libvirt still says that it has shut down.
	s.Program.Must(t, nil, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
	s.Rejects(testsite.Reject(1, "put back to a point that is crash consistent", "while it runs or after its guest has shut down"), []string{"--quiet", "inc", s.Name, "--quiesce", "require"})
	if got := s.BackUp(0, "inc").Point.Consistency; got != manifest.ConsistencyCrash {
		t.Errorf("of disks that were put back: %s", got)
	}
	if testdomain.NeedsReplay(t, s.Points[1].Truth["vda"]) {
		t.Error("the file system of the guest that has shut down has a journal to replay")
	}
}
