package inplace

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// pausedAt starts a restore to check1, and waits until it has stopped at a point.
func pausedAt(t *testing.T, s *testsite.Site, point string, args ...string) *testdomain.Process {
	t.Helper()
	p := s.Program
	p.Binary, p.Env = testdomain.FaultyBinary(t), append(p.Env, "VIRTBACKUP_FAULT="+point+":pause")
	run := p.Start(t, append([]string{"restore", s.Name + "@check1", "--in-place", "--yes"}, args...)...)
	testsite.AwaitStopped(t, run)
	return run
}

// wantNoticed lets a restore go on that is to notice that a disk was written to, and not to touch it.
func wantNoticed(t *testing.T, s *testsite.Site, run *testdomain.Process, target, what string) {
	t.Helper()
	source := s.Disk(target).Source
	before := testdomain.Tool(t, "md5sum", source)
	testsite.Continue(run)
	if r := run.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, what) {
		t.Errorf("disk %s: exit %d", target, r.Code)
	}
	if after := testdomain.Tool(t, "md5sum", source); after != before {
		t.Errorf("disk %s was changed", target)
	}
	if marks, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".mark-in-place*")); len(marks) > 0 {
		t.Errorf("left: %v", marks)
	}
}

// The bitmap of the point of the present state is lost with the QEMU that has written since: it shows
// nothing then, which does not mean that nothing was written.
func TestWrittenAfterSaveAndKilled(t *testing.T) {
	t.Parallel()
	s := small(t)
	run := pausedAt(t, s, "in place: saved")
	s.Start()
	s.IO("vda", "write -P 0x66 5M 64k", "flush")
	s.Kill()
	wantNoticed(t, s, run, "vda", "was written to after point check3 was made")
}

// A qcow2 image without bitmaps, such as one of version 2.
func TestWrittenAfterSaveWithoutBitmap(t *testing.T) {
	t.Parallel()
	source := filepath.Join(testdomain.TempDir(t), "vda")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", source, "8M")
	testdomain.Tool(t, "chmod", "666", source)
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 8 * mib, Source: source}))
	s.MayWarn = true
	testdomain.QemuIO(t, source, "qcow2", "write -P 0x11 0 4M")
	s.Program.Must(t, []int{0, 3}, "full", s.Name)
	testdomain.QemuIO(t, source, "qcow2", "write -P 0x12 2M 64k")
	run := pausedAt(t, s, "in place: saved")
	s.Start()
	s.IO("vda", "write -P 0x66 5M 64k")
	s.Destroy()
	wantNoticed(t, s, run, "vda", "was written to after point check2 was made")
	s.Program.Must(t, []int{0, 3}, "restore", s.Name+"@check1", "--in-place", "--yes")
}

// A block device has no time of its last change; the kernel counts what is written to it.
func TestDeviceWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	s := onDevice(t)
	write := func() {
		t.Helper()
		s.Start()
		s.IO("vda", "write -P 0x66 5M 64k")
		s.Destroy()
	}
	run := pausedAt(t, s, "in place: saved")
	write()
	wantNoticed(t, s, run, "vda", "was written to after point check2 was made")
	run = pausedAt(t, s, "in place: begin before", "--no-save")
	if _, err := testdomain.TryVirsh(t, "start", s.Name, "--paused"); err != nil { // it shares the node of its device with the host
		testsite.Continue(run)
		run.Wait()
		return
	}
	s.IO("vda", "write -P 0x67 5M 64k")
	s.Destroy()
	wantNoticed(t, s, run, "vda", "was written to while it was compared")
	s.Program.Must(t, []int{0, 3}, "restore", s.Name+"@check1", "--in-place", "--yes")
	wantPoint(t, s, pointOf(t, s, "check1"))
}

// The clock of the host, or of an NFS server, need not be that of the file's last change.
func TestFileOfTheFuture(t *testing.T) {
	t.Parallel()
	s := small(t)
	testdomain.Tool(t, "touch", "-d", "tomorrow", s.Disk("vdb").Source)
	restored(t, s, "check1")
	wantPoint(t, s, pointOf(t, s, "check1"))
}

// The mark of another restore, which was killed meanwhile, stays: its disks hold a mixture.
func TestAnotherRestoreKilledMeanwhile(t *testing.T) {
	t.Parallel()
	s := small(t)
	run := pausedAt(t, s, "in place: saved")
	args := []string{"restore", s.Name + "@check1", "--in-place", "--yes", "--no-save"}
	if r := faulty(t, s, []string{"VIRTBACKUP_FAULT=in place: zero heads after:kill"}, args...); r.Code != 137 {
		t.Fatalf("exit %d", r.Code)
	}
	testsite.Continue(run)
	if r := run.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, "another restore") {
		t.Errorf("exit %d", r.Code)
	}
	s.Rejects(testsite.Reject(1, "its disks hold a mixture of two states", "finishes it"), []string{"--quiet", "copy", s.Name})
	s.Program.Must(t, []int{0, 3}, args...)
	wantPoint(t, s, pointOf(t, s, "check1"))
}

// A restore that was to make no point of the present state, and was killed before it wrote: a point
// that a backup has made since is what "latest" means.
func TestKilledAndBackedUp(t *testing.T) {
	t.Parallel()
	s := small(t)
	args := []string{"--json", "restore", s.Name, "--in-place", "--yes", "--no-save"}
	if r := faulty(t, s, []string{"VIRTBACKUP_FAULT=in place: compare:kill"}, args...); r.Code != 137 {
		t.Fatalf("exit %d", r.Code)
	}
	s.Start()
	s.WriteAll(4)
	s.BackUp(0, "inc")
	s.WriteAll(5)
	s.Destroy()
	if r := resultOf(t, s.Program.Must(t, []int{0, 3}, args...)); r.Point != "check3" {
		t.Errorf("it was restored to %s", r.Point)
	}
	wantPoint(t, s, pointOf(t, s, "check3"))
}
