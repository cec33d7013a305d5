package testsite

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/recovery"
	"github.com/virtbackup/virtbackup/release"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// Auto makes a point with auto, which must choose this kind and say why.
func (s *Site) Auto(kind manifest.Kind, why string) {
	s.T.Helper()
	if got := s.BackUp(0, "auto"); got.Point.Kind != kind || !strings.Contains(got.Why, why) {
		s.T.Errorf("auto made a %s: %q; want a %s: %q", got.Point.Kind, got.Why, kind, why)
	}
}

// StartBroken starts a run of the domain, KIND and its options, with faults.
func (s *Site) StartBroken(faults string, env []string, args ...string) *testdomain.Process {
	s.T.Helper()
	program := s.Program
	program.Binary = testdomain.FaultyBinary(s.T)
	program.Env = append(append(slices.Clone(program.Env), "VIRTBACKUP_FAULT="+faults), env...)
	return program.Start(s.T, append([]string{"--json", args[0], s.Name}, args[1:]...)...)
}

// AwaitStopped waits until a process has been stopped, by the fault "pause".
func AwaitStopped(t *testing.T, p *testdomain.Process) {
	t.Helper()
	Await(t, "stopped process", time.Millisecond, func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Cmd.Process.Pid))
		if err != nil {
			return false
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		if strings.HasPrefix(rest, "Z") {
			t.Fatalf("it has ended and was to be stopped: exit %d", p.Wait().Code)
		}
		return strings.HasPrefix(rest, "T")
	})
}

// StopAtSocket stops virtbackup as soon as QEMU has its NBD socket, when
// libvirt has not yet answered that the job has begun, and waits until it has.
func (s *Site) StopAtSocket(p *testdomain.Process) {
	s.T.Helper()
	pattern := fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/*-%.8s-*.sock", s.UUID)
	Await(s.T, "QEMU's socket", time.Millisecond, func() bool {
		found, err := filepath.Glob(pattern)
		return err == nil && len(found) > 0
	})
	p.Signal(syscall.SIGSTOP)
	Await(s.T, "the exports of all disks", 50*time.Millisecond, func() bool {
		exports, err := testdomain.TryVirsh(s.T, "qemu-monitor-command", s.Name, `{"execute":"query-block-exports"}`)
		return err == nil && strings.Count(exports, `"type":"nbd"`) == len(s.Disks)
	})
	partial, _ := filepath.Glob(s.Repo + "/*/.partial-*/*")
	if len(partial) > 0 {
		s.T.Fatalf("virtbackup was stopped too late: it has %v", partial)
	}
}

// Continue lets a stopped process go on.
func Continue(p *testdomain.Process) { p.Signal(syscall.SIGCONT) }

// Await waits until it is so, for a minute at most. It asks after each pause.
func Await(t testing.TB, what string, pause time.Duration, so func() bool) {
	t.Helper()
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(pause) {
		if so() {
			return
		}
	}
	t.Fatalf("no %s after a minute", what)
}

// Panicking runs a command that panics at a point, and checks its output and exit status: an
// error, a hint, the stack, in this order, and 70.
func (s *Site) Panicking(point string, args ...string) {
	s.T.Helper()
	program := s.Program
	program.Binary = testdomain.FaultyBinary(s.T)
	program.Env = append(slices.Clone(program.Env), "VIRTBACKUP_FAULT="+point+":panic")
	r := program.Must(s.T, []int{70}, args...)
	last := 0
	for _, words := range []string{"error: ", "internal error: fault: " + strings.Split(point, "#")[0] + "\n", "hint: this is a bug, please report it", "\ngoroutine ", "fault.Point("} {
		i := strings.Index(r.Stderr[last:], words)
		if i < 0 {
			s.T.Errorf("panic at %q: it does not say %q where it should", point, words)
			continue
		}
		last += i
	}
	if strings.Count(r.Stderr, "\ngoroutine ") != 1 {
		s.T.Errorf("panic at %q: more than the stack of one goroutine", point)
	}
	if r.Stdout != "" {
		s.T.Errorf("panic at %q: standard output: %s", point, r.Stdout)
	}
}

// Recovered runs recover on the domain and returns its report.
func (s *Site) Recovered(code int, args ...string) recovery.Report {
	s.T.Helper()
	r := s.Program.Must(s.T, []int{code}, append([]string{"recover", s.Name, "--json"}, args...)...)
	var reports []recovery.Report
	if err := json.Unmarshal([]byte(r.Stdout), &reports); err != nil || len(reports) != 1 {
		s.T.Fatalf("not one report: %v", err)
	}
	return reports[0]
}

// Released runs release and returns what it has removed.
func (s *Site) Released(what string, args ...string) release.Result {
	s.T.Helper()
	r := s.Program.Must(s.T, nil, append([]string{"release", what, "--json"}, args...)...)
	var result release.Result
	if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
		s.T.Fatal(err)
	}
	return result
}

// Stopped starts a run and stops the process in mid-copy.
func (s *Site) Stopped(args ...string) *testdomain.Process {
	s.T.Helper()
	p := s.Program.Start(s.T, args...)
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(time.Millisecond) {
		images, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".partial-*", "vda.qcow2"))
		if len(images) == 0 {
			continue
		}
		p.Signal(syscall.SIGSTOP)
		time.Sleep(50 * time.Millisecond) // all its threads
		if images, _ = filepath.Glob(images[0]); len(images) == 0 || !s.HasJob() {
			s.T.Fatal("the run was over before it was stopped")
		}
		return p
	}
	s.T.Fatal("no image after a minute")
	return nil
}
