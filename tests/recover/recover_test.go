package recover

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

func prefix(s *testsite.Site) string {
	return fmt.Sprintf("virtbackup-%.8s-%.8s-", s.RepositoryID(), s.UUID)
}

// kill starts a run and kills it in mid-copy.
func kill(s *testsite.Site, args ...string) {
	s.T.Helper()
	p := s.Stopped(args...)
	p.Signal(syscall.SIGKILL)
	p.Wait()
	if !s.HasJob() {
		s.T.Fatal("the killed run has left no job")
	}
}

// After a killed run a dry run of recover shows what was left and changes nothing, recover
// cleans up, and a second recover has nothing to do.
func TestRecover(t *testing.T) {
	t.Parallel()
	s := testsite.Slow(t)
	before := s.Everything(nil)
	kill(s, "inc", s.Name)
	killed := s.Everything(nil)
	want := []string{"a backup job", "checkpoint check2", "the unfinished point .partial-check2", guest.DefaultRunDir + "/" + prefix(s)}

	dry := s.Recovered(0, "--dry-run")
	if !dry.DryRun || len(dry.Left)+len(dry.Lost) != 0 {
		t.Errorf("dry run: %+v", dry)
	}
	testsite.WantList(t, "dry run", dry.Fixed[:len(want)], want...)
	if now := s.Everything(nil); now != killed {
		t.Errorf("the dry run has changed something: before\n%s\nafter\n%s", killed, now)
	}
	report := s.Recovered(0)
	testsite.WantList(t, "recover", report.Fixed[:len(want)], want...)
	if now := s.Everything(nil); now != before {
		t.Errorf("not as before the killed run: before\n%s\nnow\n%s", before, now)
	}
	if r := s.Program.Must(t, nil, "recover", s.Name); !strings.Contains(r.Stdout, "nothing to clean up") {
		t.Errorf("a second recover: %s", r.Stdout)
	}
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// The domain of a killed run is shut off when recover runs: it cleans up everything, with the
// bitmaps in the images.
func TestRecoverShutOff(t *testing.T) {
	t.Parallel()
	s := testsite.Slow(t)
	kill(s, "inc", s.Name)
	s.Destroy() // QEMU is gone, and with it the job
	orphan := s.Checkpoints()[1]
	report := s.Recovered(0)
	testsite.WantList(t, "left", report.Left)
	testsite.WantList(t, "fixed", report.Fixed[:2], "checkpoint check2, which has no point", "the unfinished point .partial-check2")
	s.WantBitmap(false, orphan)
	s.WantBitmap(true, s.Checkpoint("check1"))
	if files, _ := filepath.Glob(filepath.Join(guest.DefaultRunDir, prefix(s)+"*")); len(files) != 0 {
		t.Errorf("left: %q", files)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".*")); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Start()
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// libvirt forgets the checkpoint of a killed run, with the whole domain, and the bitmaps stay
// in the images: they are still deleted, whether the domain runs or not.
func TestRecoverForgottenCheckpoint(t *testing.T) {
	for _, off := range []bool{false, true} {
		t.Run(fmt.Sprintf("off=%v", off), func(t *testing.T) { recoverForgotten(t, off) })
	}
}

func recoverForgotten(t *testing.T, off bool) {
	t.Parallel()
	s := testsite.Slow(t)
	kill(s, "inc", s.Name)
	s.Destroy()
	s.DefineAnew()
	if n := strings.Count(bitmaps(s, "vda"), "check2."); n != 1 {
		t.Fatalf("%d bitmaps of check2 before: %s", n, bitmaps(s, "vda"))
	}
	if !off {
		s.Start()
	}
	s.Recovered(0)
	if !off {
		s.Destroy()
	}
	for _, target := range []string{"vda", "vdb"} {
		if bitmaps := bitmaps(s, target); strings.Contains(bitmaps, "check2.") || !strings.Contains(bitmaps, "check1.") {
			t.Errorf("bitmaps of %s: %s", target, bitmaps)
		}
	}
	if strings.Contains(issued(s), `"check2"`) {
		t.Errorf("what is issued: %s", issued(s))
	}
	s.Start()
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// The same while another job holds the domain: whether there are bitmaps is unknown then, so
// the identity stays, and a later run deletes them. Nothing else is delayed.
func TestRecoverForgottenCheckpointWhileDumped(t *testing.T) {
	t.Parallel()
	s := testsite.Slow(t)
	kill(s, "inc", s.Name)
	s.Destroy()
	s.DefineAnew()
	s.Start()
	testdomain.Virsh(t, "checkpoint-create", s.Name, filepath.Join(s.Repo, s.Name, "check1", "checkpoint.xml"), "--redefine")
	end := dump(s)
	start := time.Now()
	s.Recovered(0)
	if took := time.Since(start); took > 50*time.Second {
		t.Errorf("it took %v: libvirt waits 30 s for each call", took)
	}
	if !strings.Contains(issued(s), `"check2"`) {
		t.Errorf("check2 is forgotten: %s", issued(s))
	}
	end()
	s.Recovered(0)
	if strings.Contains(issued(s), `"check2"`) {
		t.Errorf("check2 is not forgotten: %s", issued(s))
	}
	s.Destroy()
	for _, target := range []string{"vda", "vdb"} {
		if bitmaps := bitmaps(s, target); strings.Contains(bitmaps, "check2.") || !strings.Contains(bitmaps, "check1.") {
			t.Errorf("bitmaps of %s: %s", target, bitmaps)
		}
	}
}

// The checkpoint of a killed run is left for later while another job holds the domain.
func TestRecoverWhileDumped(t *testing.T) {
	t.Parallel()
	s := testsite.Slow(t)
	kill(s, "inc", s.Name)
	s.AbortJob()
	end := dump(s)
	report := s.Recovered(3)
	testsite.WantList(t, "left", report.Left, "checkpoint check2, which has no point: delete checkpoint check2.")
	s.NoPartial()
	end()
	testsite.WantList(t, "fixed", s.Recovered(0).Fixed, "checkpoint check2")
	s.WantCheckpoints("check1")
}

// dump holds the domain by a dump of its memory, until end is called.
func dump(s *testsite.Site) (end func()) {
	s.T.Helper()
	fifo := filepath.Join(testdomain.TempDir(s.T), "dump")
	if err := syscall.Mkfifo(fifo, 0o666); err != nil {
		s.T.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0) // nobody reads: the dump waits
	if err != nil {
		s.T.Fatal(err)
	}
	dump := exec.Command("virsh", "-c", "qemu:///system", "dump", s.Name, fifo, "--memory-only", "--live")
	if err := dump.Start(); err != nil {
		s.T.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		go func() { _, _ = io.Copy(io.Discard, reader) }() // until it is closed
		if err := dump.Wait(); err != nil {
			s.T.Errorf("dump: %v", err)
		}
		_ = reader.Close()
	})
	s.T.Cleanup(end)
	testsite.Await(s.T, "dump", 100*time.Millisecond, func() bool {
		return strings.Contains(testdomain.Virsh(s.T, "domjobinfo", s.Name), "Dump")
	})
	return end
}

// issued is what the repository has written down of the domain's instants.
func issued(s *testsite.Site) string {
	s.T.Helper()
	list, err := os.ReadFile(filepath.Join(s.Repo, s.Name, instants.FileName))
	if err != nil {
		s.T.Fatal(err)
	}
	return string(list)
}

// recover --all handles the domains of the repository that libvirt knows, and names the others.
func TestRecoverAll(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.BackUp(0, "full")
	gone := testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 1 << 20})
	gone.Start()
	s.Program.Must(t, nil, "full", gone.Name)
	s.Program.Must(t, nil, "release", gone.Name)
	gone.Destroy()
	testdomain.Virsh(t, "undefine", gone.Name)
	testsite.WriteFile(t, filepath.Join(s.Repo, s.Name, ".partial-check2", "vda.qcow2"), "half")
	r := s.Program.Must(t, nil, "recover", "--all")
	if !strings.Contains(r.Stderr, "libvirt does not know domain "+gone.Name) || !strings.Contains(r.Stdout, "cleaned up: the unfinished point .partial-check2") {
		t.Error("it does not say both")
	}
	testdomain.Virsh(t, "define", filepath.Join(gone.Dir, "domain.xml")) // for the test's clean-up; it gets another UUID
	s.Program.Must(t, []int{6}, "recover", "nosuch")
	s.Program.Must(t, []int{2}, "recover")
	s.Program.Must(t, []int{2}, "recover", "--all", s.Name)
	// The domain of that name is another one: its points are not its own.
	if r := s.Program.Must(t, []int{1}, "recover", s.Name, gone.Name); !strings.Contains(r.Stderr, "1 of 2 domains were not cleaned up: "+gone.Name) {
		t.Error("it does not say which domain failed")
	}
}

// A live run is not mistaken for a dead one.
func TestRecoverDuringARun(t *testing.T) {
	t.Parallel()
	s := testsite.Slow(t)
	truth := s.Truths()
	p := s.Stopped("--json", "inc", s.Name)
	for _, args := range [][]string{{"recover", s.Name}, {"recover", s.Name, "--dry-run"}, {"release", s.Name, "--points"}} {
		s.Rejects(testsite.Reject(4, "is locked by process", "another run"), args)
	}
	p.Signal(syscall.SIGCONT)
	s.Add(p.Wait(), truth)
	s.Check()
}

// Checkpoints with our marks but without an identity that this repository has issued stay, as
// those of other tools do: they may belong to a copy of the repository.
func TestRecoverCheckpoints(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.BackUp(0, "full")
	for name, description := range map[string]string{
		"check2":                  "virtbackup " + s.RepositoryID() + " check2",
		"check2.0123456789abcdef": "virtbackup " + s.RepositoryID() + " check2",
		"check3":                  "virtbackup 11111111-2222-3333-4444-555555555555 check3",
		"check4":                  "",
		"nightly":                 "virtbackup " + s.RepositoryID() + " check5",
	} {
		file := filepath.Join(s.Dir, "checkpoint.xml")
		testsite.WriteFile(t, file, fmt.Sprintf("<domaincheckpoint><name>%s</name><description>%s</description></domaincheckpoint>", name, description))
		testdomain.Virsh(t, "checkpoint-create", s.Name, file)
	}
	testsite.WantList(t, "recover", s.Recovered(0).Fixed)
	if id := s.BackUp(0, "inc").Point.ID; id != "check2" {
		t.Errorf("the next point is %s, want check2", id)
	}
	s.WantCheckpoints("check1", "check2", "check2", "check2", "check3", "check4", "nightly")
	s.Check()
}

// The job of another tool is left alone, and so are its files beside ours.
func TestRecoverForeign(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.BackUp(0, "full")
	dir := filepath.Join(testdomain.TempDir(t), "run")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	testsite.WriteFile(t, filepath.Join(dir, "virtbackup-11111111-22222222-check1-vda.scratch"), "")
	scratch := prefix(s) + s.Points[0].Identity + "-vda.scratch"
	testsite.WriteFile(t, filepath.Join(dir, scratch), "")
	testsite.WriteFile(t, filepath.Join(dir, prefix(s)+"0123456789abcdef-vda.scratch"), "") // perhaps of a copy
	file := filepath.Join(s.Dir, "job.xml")
	testsite.WriteFile(t, file, fmt.Sprintf(`<domainbackup mode='pull'><server transport='unix' socket='%s/foreign.sock'/>`+
		`<disks><disk name='vda' backup='yes' type='file'><scratch file='%s/foreign.scratch'/></disk></disks></domainbackup>`, dir, dir))
	testdomain.Virsh(t, "backup-begin", s.Name, file)
	testsite.WantList(t, "recover", s.Recovered(0, "--scratch-dir", dir).Fixed, filepath.Join(dir, scratch))
	if !s.HasJob() {
		t.Error("the job of somebody else is gone")
	}
	testdomain.Virsh(t, "domjobabort", s.Name)
	testsite.Await(t, "end of the job", 0, func() bool { return !s.HasJob() })
	for _, name := range []string{"virtbackup-11111111-22222222-check1-vda.scratch", prefix(s) + "0123456789abcdef-vda.scratch"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// libvirt finishes a BackupBegin although the run that has asked for it was killed: recovery
// awaits the job and ends it. It would be nobody's once all else of its identity is gone.
func TestKillInMidBegin(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	p := s.StartBroken("step freeze after:pause", nil, "full")
	testsite.AwaitStopped(t, p)
	qemu := s.Pid()
	if err := syscall.Kill(qemu, syscall.SIGSTOP); err != nil { // libvirt waits for its answers
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(qemu, syscall.SIGCONT) })
	p.Signal(syscall.SIGCONT)
	time.Sleep(2 * time.Second)
	p.Signal(syscall.SIGKILL)
	p.Wait()
	recovery := s.Program.Start(t, "recover", s.Name)
	time.Sleep(2 * time.Second)
	if err := syscall.Kill(qemu, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if r := recovery.Wait(); r.Code != 0 || !strings.Contains(r.Stdout, "cleaned up: a backup job") {
		t.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if s.HasJob() || len(s.Checkpoints()) > 0 {
		t.Errorf("a job: %v, checkpoints %q", s.HasJob(), s.Checkpoints())
	}
	s.BackUp(0, "full")
	s.Check()
}
