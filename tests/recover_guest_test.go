package tests

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// A guest that a killed run has left frozen is thawed by the next one, also when
// no job runs any more.
func TestRecoverFrozen(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	s.program.Must(t, nil, "full", s.Name)
	mark := filepath.Join(s.repo, s.Name, ".mark-frozen")
	if _, err := os.Stat(mark); !os.IsNotExist(err) {
		t.Errorf("a mark is left: %v", err)
	}
	for _, args := range [][]string{{"recover", s.Name}, {"inc", s.Name}} {
		s.killFrozen(mark)
		r := s.program.Must(t, nil, args...)
		if !strings.Contains(r.Stdout+r.Stderr, "a freeze of the guest's file systems") {
			t.Error("it does not say that it has thawed the guest")
		}
		s.wantThawed(t)
	}
	// With the guest off, or paused, nobody can be thawed.
	write(t, mark, "{")
	testdomain.Virsh(t, "suspend", s.Name)
	wantList(t, "left", s.recovered(3).Left, "a freeze of the guest's file systems: the domain is paused")
	s.Destroy()
	wantList(t, "fixed", s.recovered(0).Fixed, "a freeze of the guest's file systems")
	if _, err := os.Stat(mark); !os.IsNotExist(err) {
		t.Errorf("a mark is left: %v", err)
	}
}

// killFrozen kills a run while the guest is frozen for it. The instant is too
// short to hit, so the guest is frozen, and the mark set, as that run does it.
func (s *site) killFrozen(mark string) {
	s.t.Helper()
	testdomain.Virsh(s.t, "domfsfreeze", s.Name)
	write(s.t, mark, `{"run_id":0,"since":"2020-01-01T00:00:00Z"}`)
	status := testdomain.Virsh(s.t, "qemu-agent-command", s.Name, `{"execute":"guest-fsfreeze-status"}`)
	if !strings.Contains(status, "frozen") {
		s.t.Fatalf("the guest is not frozen: %s", status)
	}
}

// The guest is paused for lack of scratch space while the run that was to watch
// over it is stopped, and then killed: recover ends the job and resumes it. A
// domain that is paused without a job of ours stays so.
func TestRecoverPaused(t *testing.T) {
	scratch := mount(t, "600m") // before QEMU starts, which sees the mounts of that moment
	if err := os.Chmod(scratch, 0o777); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}, testdomain.Disk{Target: "vdb", Size: 512 << 20}))
	s.IO("vdb", "write -P 0x41 0 384M")
	p := s.stopped("full", s.Name, "--scratch-dir", scratch)
	p.Signal(syscall.SIGKILL)
	p.Wait()
	testdomain.Tool(t, "sh", "-c", "dd if=/dev/zero of="+scratch+"/ballast bs=1M 2>/dev/null || true")
	s.Exec(`setsid sh -c 'dd if=/dev/urandom of=/dev/vdb bs=1M count=64 oflag=direct; echo done >/tmp/done' >/dev/null 2>&1 </dev/null &`)
	await(t, "pause", 0, func() bool { return s.State() == "paused" })
	dry := s.recovered(0, "--dry-run")
	wantList(t, "dry run", dry.Fixed[:1], "a backup job, with the guest paused by an I/O error")
	report := s.recovered(0)
	wantList(t, "recover", report.Fixed[:1], "a backup job, with the guest paused by an I/O error")
	if s.HasJob() || s.State() != "running" {
		t.Errorf("job %v, the domain is %s", s.HasJob(), s.State())
	}
	await(t, "writes of the guest", 0, func() bool { return strings.Contains(s.Exec("cat /tmp/done || true"), "done") })
	if left, _ := filepath.Glob(filepath.Join(s.repo, s.Name, ".mark-*")); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	// As it dies between the end of the job and the resume.
	write(t, filepath.Join(s.repo, s.Name, ".mark-paused"), "")
	testdomain.Virsh(t, "suspend", s.Name)
	wantList(t, "recover", s.recovered(0).Fixed, "a note that an I/O error had paused the guest")
	if s.State() != "paused" {
		t.Error("a domain that somebody has paused was resumed")
	}
}
