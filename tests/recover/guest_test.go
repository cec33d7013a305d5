package recover

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A guest that a killed run has left frozen is thawed by the next run, even if no job runs any
// more.
func TestRecoverFrozen(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	s.Program.Must(t, nil, "full", s.Name)
	mark := filepath.Join(s.Repo, s.Name, ".mark-frozen")
	if _, err := os.Stat(mark); !os.IsNotExist(err) {
		t.Errorf("a mark is left: %v", err)
	}
	for _, args := range [][]string{{"recover", s.Name}, {"inc", s.Name}} {
		killFrozen(s)
		r := s.Program.Must(t, nil, args...)
		if !strings.Contains(r.Stdout+r.Stderr, "a freeze of the guest's file systems") {
			t.Error("it does not say that it has thawed the guest")
		}
		s.WantThawed(t)
	}
	// A guest that is off or paused cannot be thawed.
	testsite.WriteFile(t, mark, "{")
	testdomain.Virsh(t, "suspend", s.Name)
	testsite.WantList(t, "left", s.Recovered(3).Left, "a freeze of the guest's file systems: the domain is paused")
	s.Destroy()
	testsite.WantList(t, "fixed", s.Recovered(0).Fixed, "a freeze of the guest's file systems")
	if _, err := os.Stat(mark); !os.IsNotExist(err) {
		t.Errorf("a mark is left: %v", err)
	}
}

// killFrozen kills a run while the guest is frozen for it.
func killFrozen(s *testsite.Site) {
	s.T.Helper()
	s.StartBroken("step freeze after:kill", nil, "inc", "--quiesce", "require").Wait()
	status := testdomain.Virsh(s.T, "qemu-agent-command", s.Name, `{"execute":"guest-fsfreeze-status"}`)
	if !strings.Contains(status, "frozen") {
		s.T.Fatalf("the guest is not frozen: %s", status)
	}
}

// The guest is paused for lack of scratch space while the run that should watch it is stopped
// and then killed: recover ends the job and resumes the guest. It also does so if a run, or
// another recover, was killed after it had ended the job, when only its mark says so. A domain
// that is paused without a job of ours stays paused.
func TestRecoverPaused(t *testing.T) {
	t.Parallel()
	scratch := testsite.Mount(t, "600m") // before QEMU starts, which sees the mounts of that moment
	if err := os.Chmod(scratch, 0o777); err != nil {
		t.Fatal(err)
	}
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}, testdomain.Disk{Target: "vdb", Size: 512 << 20}))
	s.IO("vdb", "write -P 0x41 0 384M")
	const job, guest = "a backup job, with the guest paused by an I/O error", "the guest, paused by an I/O error"
	recovered := func(what string) {
		t.Helper()
		testsite.WantList(t, "dry run", s.Recovered(0, "--dry-run").Fixed[:1], what)
		testsite.WantList(t, "recover", s.Recovered(0).Fixed[:1], what)
		if s.HasJob() || s.State() != "running" {
			t.Errorf("job %v, the domain is %s", s.HasJob(), s.State())
		}
		testsite.Await(t, "writes of the guest", 0, func() bool { return strings.Contains(s.Exec("cat /tmp/done || true"), "done") })
		if left, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".mark-*")); len(left) != 0 {
			t.Errorf("left: %q", left)
		}
	}
	p := pauseFull(s, scratch, "copy buffer#2:pause")
	p.Signal(syscall.SIGKILL)
	p.Wait()
	recovered(job)

	p = pauseFull(s, scratch, "copy buffer#2:pause,job ended:kill")
	if err := os.Remove(filepath.Join(scratch, "ballast")); err != nil { // the guest stays paused
		t.Fatal(err)
	}
	p.Signal(syscall.SIGCONT)
	if r := p.Wait(); !strings.Contains(r.Stderr, "ending the backup job") {
		t.Error("the run has not ended the job because the guest is paused")
	}
	recovered(guest)

	p = pauseFull(s, scratch, "copy buffer#2:pause")
	p.Signal(syscall.SIGKILL)
	p.Wait()
	broken := s.Program
	broken.Binary, broken.Env = testdomain.FaultyBinary(t), append(slices.Clone(broken.Env), "VIRTBACKUP_FAULT=job ended:kill")
	broken.Run(t, "recover", s.Name)
	recovered(guest)

	// As if it died between the end of the job and the resume.
	testsite.WriteFile(t, filepath.Join(s.Repo, s.Name, ".mark-paused"), "")
	testdomain.Virsh(t, "suspend", s.Name)
	testsite.WantList(t, "recover", s.Recovered(0).Fixed, "a note that an I/O error had paused the guest")
	if s.State() != "paused" {
		t.Error("a domain that somebody has paused was resumed")
	}
}

// pauseFull starts a full that is stopped by a fault, and makes the guest write more than the
// scratch space holds, which pauses the guest.
func pauseFull(s *testsite.Site, scratch, faults string) *testdomain.Process {
	s.T.Helper()
	ballast := filepath.Join(scratch, "ballast")
	if err := os.RemoveAll(ballast); err != nil {
		s.T.Fatal(err)
	}
	p := s.StartBroken(faults, nil, "full", "--scratch-dir", scratch, "--limit-rate", "64M") // or it may end before it sees the pause
	testsite.AwaitStopped(s.T, p)
	// The command begins before the space is used up, which pauses the guest at its next write,
	// and writes later: the agent must answer first that the command has begun.
	s.Exec(`rm -f /tmp/done; setsid sh -c 'sleep 6; dd if=/dev/urandom of=/dev/vdb bs=1M count=64 oflag=direct; echo done >/tmp/done' >/dev/null 2>&1 </dev/null &`)
	// Repeated, as the guest may take space between the question and the answer.
	testdomain.Tool(s.T, "sh", "-c", fmt.Sprintf("while a=$(df -B1 --output=avail %s | tail -1); [ $a -gt 0 ]; do fallocate -l $a %s && break; done", scratch, ballast))
	testsite.Await(s.T, "pause", 0, func() bool { return s.State() == "paused" })
	return p
}
