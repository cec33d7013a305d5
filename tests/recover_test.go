package tests

import (
	"encoding/json"
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
	"github.com/virtbackup/virtbackup/recovery"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// recovered runs recover on the domain and returns its report.
func (s *site) recovered(code int, args ...string) recovery.Report {
	s.t.Helper()
	r := s.program.Must(s.t, []int{code}, append([]string{"recover", s.Name, "--json"}, args...)...)
	var reports []recovery.Report
	if err := json.Unmarshal([]byte(r.Stdout), &reports); err != nil || len(reports) != 1 {
		s.t.Fatalf("not one report: %v", err)
	}
	return reports[0]
}

// wantList checks what one of the lists of a report begins with, line by line.
func wantList(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && strings.HasPrefix(got[i], want[i])
	}
	if !ok {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// repoID is the id that our checkpoints carry.
func (s *site) repoID() string {
	s.t.Helper()
	r, err := repository.Open(s.repo)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.ID()
}

func (s *site) prefix() string { return fmt.Sprintf("virtbackup-%.8s-%.8s-", s.repoID(), s.UUID) }

// kill starts a run and kills it in mid-copy.
func (s *site) kill(args ...string) {
	s.t.Helper()
	p := s.stopped(args...)
	p.Signal(syscall.SIGKILL)
	p.Wait()
	if !s.HasJob() {
		s.t.Fatal("the killed run has left no job")
	}
}

// What a killed run left: a dry run shows it and changes nothing, recover puts
// it right, and a second one has nothing to do.
func TestRecover(t *testing.T) {
	t.Parallel()
	s := slowSite(t)
	before := s.everything(nil)
	s.kill("inc", s.Name)
	killed := s.everything(nil)
	want := []string{"a backup job", "checkpoint check2", "the unfinished point .partial-check2", guest.DefaultRunDir + "/" + s.prefix()}

	dry := s.recovered(0, "--dry-run")
	if !dry.DryRun || len(dry.Left)+len(dry.Lost) != 0 {
		t.Errorf("dry run: %+v", dry)
	}
	wantList(t, "dry run", dry.Fixed[:len(want)], want...)
	if now := s.everything(nil); now != killed {
		t.Errorf("the dry run has changed something: before\n%s\nafter\n%s", killed, now)
	}
	report := s.recovered(0)
	wantList(t, "recover", report.Fixed[:len(want)], want...)
	if now := s.everything(nil); now != before {
		t.Errorf("not as before the killed run: before\n%s\nnow\n%s", before, now)
	}
	if r := s.program.Must(t, nil, "recover", s.Name); !strings.Contains(r.Stdout, "nothing to put right") {
		t.Errorf("a second recover: %s", r.Stdout)
	}
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.check()
}

// The domain of a killed run is shut off when recover comes: what can be cleaned
// up is, the rest by the next run.
func TestRecoverShutOff(t *testing.T) {
	t.Parallel()
	s := slowSite(t)
	s.kill("inc", s.Name)
	s.Destroy() // QEMU is gone, and with it the job
	report := s.recovered(3)
	wantList(t, "left", report.Left, "checkpoint check2: its bitmaps can be deleted only while the domain runs")
	wantList(t, "fixed", report.Fixed[:1], "the unfinished point .partial-check2")
	if files, _ := filepath.Glob(filepath.Join(guest.DefaultRunDir, s.prefix()+"*")); len(files) != 0 {
		t.Errorf("left: %q", files)
	}
	if left, _ := filepath.Glob(filepath.Join(s.repo, s.Name, ".*")); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	s.Start()
	inc := s.backUp(0, "inc")
	wantSaid(t, inc.Recovered, "checkpoint check2")
	wantKinds(t, inc.Point, "vda inc, vdb inc")
	s.check()
}

// libvirt forgets the checkpoint of a killed run, with the whole domain, and the bitmaps
// are in the images: they go all the same, once QEMU can be asked.
func TestRecoverForgottenCheckpoint(t *testing.T) {
	t.Parallel()
	s := slowSite(t)
	s.kill("inc", s.Name)
	s.Destroy()
	s.defineAnew()
	s.recovered(3) // the domain is off
	if n := strings.Count(s.bitmaps("vda"), "check2."); n != 1 {
		t.Fatalf("%d bitmaps of check2 before: %s", n, s.bitmaps("vda"))
	}
	s.Start()
	s.recovered(0)
	s.Destroy()
	for _, target := range []string{"vda", "vdb"} {
		if bitmaps := s.bitmaps(target); strings.Contains(bitmaps, "check2.") || !strings.Contains(bitmaps, "check1.") {
			t.Errorf("bitmaps of %s: %s", target, bitmaps)
		}
	}
	if strings.Contains(s.issued(), `"check2"`) {
		t.Errorf("what is issued: %s", s.issued())
	}
	s.Start()
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.check()
}

// The same while another job holds the domain: whether there are bitmaps cannot be told
// now, so the identity stays, and a later run deletes them. Nothing else waits for that.
func TestRecoverForgottenCheckpointWhileDumped(t *testing.T) {
	t.Parallel()
	s := slowSite(t)
	s.kill("inc", s.Name)
	s.Destroy()
	s.defineAnew()
	s.recovered(3) // the domain is off
	s.Start()
	testdomain.Virsh(t, "checkpoint-create", s.Name, filepath.Join(s.repo, s.Name, "check1", "checkpoint.xml"), "--redefine")
	end := s.dump()
	start := time.Now()
	s.recovered(0)
	if took := time.Since(start); took > 50*time.Second {
		t.Errorf("it took %v: libvirt waits 30 s for each call", took)
	}
	if !strings.Contains(s.issued(), `"check2"`) {
		t.Errorf("check2 is forgotten: %s", s.issued())
	}
	end()
	s.recovered(0)
	if strings.Contains(s.issued(), `"check2"`) {
		t.Errorf("check2 is not forgotten: %s", s.issued())
	}
	s.Destroy()
	for _, target := range []string{"vda", "vdb"} {
		if bitmaps := s.bitmaps(target); strings.Contains(bitmaps, "check2.") || !strings.Contains(bitmaps, "check1.") {
			t.Errorf("bitmaps of %s: %s", target, bitmaps)
		}
	}
}

// The checkpoint of a killed run is left for later while another job holds the domain.
func TestRecoverWhileDumped(t *testing.T) {
	t.Parallel()
	s := slowSite(t)
	s.kill("inc", s.Name)
	s.abortJob()
	end := s.dump()
	report := s.recovered(3)
	wantList(t, "left", report.Left, "checkpoint check2: delete checkpoint check2.")
	s.noPartial()
	end()
	wantList(t, "fixed", s.recovered(0).Fixed, "checkpoint check2")
	s.wantCheckpoints("check1")
}

// dump holds the domain by a dump of its memory, until end is called.
func (s *site) dump() (end func()) {
	s.t.Helper()
	fifo := filepath.Join(testdomain.TempDir(s.t), "dump")
	if err := syscall.Mkfifo(fifo, 0o666); err != nil {
		s.t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0) // nobody reads: the dump waits
	if err != nil {
		s.t.Fatal(err)
	}
	dump := exec.Command("virsh", "-c", "qemu:///system", "dump", s.Name, fifo, "--memory-only", "--live")
	if err := dump.Start(); err != nil {
		s.t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		go func() { _, _ = io.Copy(io.Discard, reader) }() // until it is closed
		if err := dump.Wait(); err != nil {
			s.t.Errorf("dump: %v", err)
		}
		_ = reader.Close()
	})
	s.t.Cleanup(end)
	await(s.t, "dump", 100*time.Millisecond, func() bool {
		return strings.Contains(testdomain.Virsh(s.t, "domjobinfo", s.Name), "Dump")
	})
	return end
}

// issued is what the repository has written down of the domain's instants.
func (s *site) issued() string {
	s.t.Helper()
	list, err := os.ReadFile(filepath.Join(s.repo, s.Name, instants.FileName))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(list)
}

// All domains of the repository that libvirt knows; the others are named.
func TestRecoverAll(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.backUp(0, "full")
	gone := testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 1 << 20})
	gone.Start()
	s.program.Must(t, nil, "full", gone.Name)
	s.program.Must(t, nil, "release", gone.Name)
	gone.Destroy()
	testdomain.Virsh(t, "undefine", gone.Name)
	write(t, filepath.Join(s.repo, s.Name, ".partial-check2", "vda.qcow2"), "half")
	r := s.program.Must(t, nil, "recover", "--all")
	if !strings.Contains(r.Stderr, "libvirt does not know domain "+gone.Name) || !strings.Contains(r.Stdout, "put right: the unfinished point .partial-check2") {
		t.Error("it does not say both")
	}
	testdomain.Virsh(t, "define", filepath.Join(gone.Dir, "domain.xml")) // for its clean-up; it gets another UUID
	s.program.Must(t, []int{6}, "recover", "nosuch")
	s.program.Must(t, []int{2}, "recover")
	s.program.Must(t, []int{2}, "recover", "--all", s.Name)
	// The domain of that name is another one: its points are not its own.
	if r := s.program.Must(t, []int{1}, "recover", s.Name, gone.Name); !strings.Contains(r.Stderr, "1 of 2 domains were not cleaned up: "+gone.Name) {
		t.Error("it does not say which domain failed")
	}
}

// A live run is not taken for a dead one.
func TestRecoverDuringARun(t *testing.T) {
	t.Parallel()
	s := slowSite(t)
	truth := s.truths()
	p := s.stopped("--json", "inc", s.Name)
	for _, args := range [][]string{{"recover", s.Name}, {"recover", s.Name, "--dry-run"}, {"release", s.Name, "--points"}} {
		s.rejects(rejection{4, "is locked by process", "another run"}, args)
	}
	p.Signal(syscall.SIGCONT)
	s.add(p.Wait(), truth)
	s.check()
}

// What carries our marks but no identity that this repository has issued stays, as what
// others have made does: it may be of a copy of the repository.
func TestRecoverCheckpoints(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.backUp(0, "full")
	for name, description := range map[string]string{
		"check2":                  "virtbackup " + s.repoID() + " check2",
		"check2.0123456789abcdef": "virtbackup " + s.repoID() + " check2",
		"check3":                  "virtbackup 11111111-2222-3333-4444-555555555555 check3",
		"check4":                  "",
		"nightly":                 "virtbackup " + s.repoID() + " check5",
	} {
		file := filepath.Join(s.Dir, "checkpoint.xml")
		write(t, file, fmt.Sprintf("<domaincheckpoint><name>%s</name><description>%s</description></domaincheckpoint>", name, description))
		testdomain.Virsh(t, "checkpoint-create", s.Name, file)
	}
	wantList(t, "recover", s.recovered(0).Fixed)
	if id := s.backUp(0, "inc").Point.ID; id != "check2" {
		t.Errorf("the next point is %s, want check2", id)
	}
	s.wantCheckpoints("check1", "check2", "check2", "check2", "check3", "check4", "nightly")
	s.check()
}

// A job of somebody else is left alone, and so are his files beside ours.
func TestRecoverForeign(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.backUp(0, "full")
	dir := filepath.Join(testdomain.TempDir(t), "run")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "virtbackup-11111111-22222222-check1-vda.scratch"), "")
	scratch := s.prefix() + s.points[0].Identity + "-vda.scratch"
	write(t, filepath.Join(dir, scratch), "")
	write(t, filepath.Join(dir, s.prefix()+"0123456789abcdef-vda.scratch"), "") // of a copy, perhaps
	file := filepath.Join(s.Dir, "job.xml")
	write(t, file, fmt.Sprintf(`<domainbackup mode='pull'><server transport='unix' socket='%s/foreign.sock'/>`+
		`<disks><disk name='vda' backup='yes' type='file'><scratch file='%s/foreign.scratch'/></disk></disks></domainbackup>`, dir, dir))
	testdomain.Virsh(t, "backup-begin", s.Name, file)
	wantList(t, "recover", s.recovered(0, "--scratch-dir", dir).Fixed, filepath.Join(dir, scratch))
	if !s.HasJob() {
		t.Error("the job of somebody else is gone")
	}
	testdomain.Virsh(t, "domjobabort", s.Name)
	await(t, "end of the job", 0, func() bool { return !s.HasJob() })
	for _, name := range []string{"virtbackup-11111111-22222222-check1-vda.scratch", s.prefix() + "0123456789abcdef-vda.scratch"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}
