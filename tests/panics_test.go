package tests

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// panicking runs a command that panics at a point, and sees that it says so in order:
// an error, a hint, the stack, and 70.
func (s *site) panicking(point string, args ...string) {
	s.t.Helper()
	program := s.program
	program.Binary = testdomain.FaultyBinary(s.t)
	program.Env = append(slices.Clone(program.Env), "VIRTBACKUP_FAULT="+point+":panic")
	r := program.Must(s.t, []int{70}, args...)
	last := 0
	for _, words := range []string{"error: ", "internal error: fault: " + strings.Split(point, "#")[0] + "\n", "hint: this is a bug, please report it", "\ngoroutine ", "fault.Point("} {
		i := strings.Index(r.Stderr[last:], words)
		if i < 0 {
			s.t.Errorf("panic at %q: it does not say %q where it should", point, words)
			continue
		}
		last += i
	}
	if strings.Count(r.Stderr, "\ngoroutine ") != 1 {
		s.t.Errorf("panic at %q: more than the stack of one goroutine", point)
	}
	if r.Stdout != "" {
		s.t.Errorf("panic at %q: standard output: %s", point, r.Stdout)
	}
}

// A panic of any goroutine of a restore, of verify, release and recover leaves nothing
// that was not there. Those of a backup are in TestFaultMatrix.
func TestPanics(t *testing.T) {
	t.Parallel()
	s := filled(t)
	s.backUp(0, "full")
	s.writeAll(2)
	s.backUp(0, "inc")
	before := s.everything(nil)
	unchanged := func(what string) {
		t.Helper()
		if after := s.everything(nil); after != before {
			t.Errorf("a panic in %s has changed something: before\n%s\nafter\n%s", what, before, after)
		}
	}
	to := filepath.Join(s.Dir, "a", "restored")
	for _, point := range []string{
		"restore disk", "flatten plan", "flatten batch#3", "fsync vda.qcow2.partial before", // goroutines of the copy
		"restore: check image", "check piece#2", // of the check
		"restore: name images", "restore: write XML", "restore: done", // the goroutine that waits for them
	} {
		s.panicking(point, "restore", s.Name, "--to", to)
		if left := listing(t, filepath.Dir(to)); left != " absent" {
			t.Errorf("panic at %q: left: %s", point, left)
		}
		unchanged("restore")
	}
	for _, point := range []string{"verify files", "verify structure", "verify structure#2", "check piece#2"} {
		s.panicking(point, "verify", s.Name)
		unchanged("verify")
	}
	s.panicking("create repository", "init", filepath.Join(s.Dir, "b", "repo"))
	s.panicking("create repository", "full", s.Name, "--repo", filepath.Join(s.Dir, "b"))
	if left := listing(t, filepath.Join(s.Dir, "b")); left != " absent" {
		t.Errorf("a panic in init has left: %s", left)
	}
	s.panicking("connect", "release", s.Name, "--points")
	unchanged("release")
	s.check()

	for n, point := range []string{"recover before", "recover before#3", "delete checkpoint before"} {
		p := s.startBroken("step copy before:kill", nil, "inc")
		p.Wait()
		if !s.HasJob() {
			t.Fatal("the killed run has left no job")
		}
		s.panicking(point, "recover", s.Name)
		s.program.Must(t, nil, "recover", s.Name)
		if got := s.labels(); !slices.Equal(got, []string{"check1", "check2"}) || s.HasJob() {
			t.Errorf("after %d panics in recover: checkpoints %v, job %v", n+1, got, s.HasJob())
		}
	}
	s.writeAll(3)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.check()

	// A release that ends half-way goes on where it was, and has removed no point before
	// all checkpoints.
	for _, point := range []string{"delete checkpoint before", "delete checkpoint after", "delete checkpoint before#2"} {
		s.panicking(point, "release", s.Name, "--points")
		s.check()
	}
	s.program.Must(t, nil, "release", s.Name, "--points")
	if got := s.labels(); len(got) != 0 {
		t.Errorf("checkpoints are left: %v", got)
	}
}

// A panic while the guest is frozen, or while a job protects it, leaves it thawed and
// running.
func TestPanicWhileFrozen(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	s.guestPoint("full", "require", "filesystem")
	for _, point := range []string{"step freeze after", "step begin before", "step begin after", "step thaw before", "reply"} {
		before := s.labels()
		s.panicking(point, "inc", s.Name, "--quiesce", "require")
		s.wantThawed(t)
		if got := s.labels(); s.HasJob() || !slices.Equal(got, before) {
			t.Errorf("panic at %q: job %v, checkpoints %v, want %v", point, s.HasJob(), got, before)
		}
		s.noPartial()
	}
	s.guestPoint("inc", "require", "filesystem")
	for i, p := range s.points {
		s.checkGuestPoint(i, p)
	}
}
