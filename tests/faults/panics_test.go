package faults

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A panic in any goroutine of restore, verify, release or recover leaves nothing behind.
// Those of a backup are in TestFaultMatrix.
func TestPanics(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc")
	before := s.Everything(nil)
	unchanged := func(what string) {
		t.Helper()
		if after := s.Everything(nil); after != before {
			t.Errorf("a panic in %s has changed something: before\n%s\nafter\n%s", what, before, after)
		}
	}
	to := filepath.Join(s.Dir, "a", "restored")
	for _, point := range []string{
		"restore disk", "flatten plan", "flatten batch#3", "fsync vda.qcow2.partial before", // goroutines of the copy
		"restore: check image", "check piece#2", // of the check
		"restore: name files", "restore: write XML", "restore: done", // the goroutine that waits for them
	} {
		s.Panicking(point, "restore", s.Name, "--to", to)
		if left := testsite.Listing(t, filepath.Dir(to)); left != " absent" {
			t.Errorf("panic at %q: left: %s", point, left)
		}
		unchanged("restore")
	}
	for _, point := range []string{"verify files", "verify structure", "verify structure#2", "check piece#2"} {
		s.Panicking(point, "verify", s.Name)
		unchanged("verify")
	}
	s.Panicking("create repository", "init", filepath.Join(s.Dir, "b", "repo"))
	s.Panicking("create repository", "full", s.Name, "--repo", filepath.Join(s.Dir, "b"))
	if left := testsite.Listing(t, filepath.Join(s.Dir, "b")); left != " absent" {
		t.Errorf("a panic in init has left: %s", left)
	}
	s.Panicking("connect", "release", s.Name, "--points")
	unchanged("release")
	s.Check()

	for n, point := range []string{"recover before", "recover before#3", "delete checkpoint before"} {
		p := s.StartBroken("step copy before:kill", nil, "inc")
		p.Wait()
		if !s.HasJob() {
			t.Fatal("the killed run has left no job")
		}
		s.Panicking(point, "recover", s.Name)
		s.Program.Must(t, nil, "recover", s.Name)
		if got := s.Labels(); !slices.Equal(got, []string{"check1", "check2"}) || s.HasJob() {
			t.Errorf("after %d panics in recover: checkpoints %v, job %v", n+1, got, s.HasJob())
		}
	}
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()

	// A release that ended half-way continues there, and removes no point before all
	// checkpoints are deleted.
	for _, point := range []string{"delete checkpoint before", "delete checkpoint after", "delete checkpoint before#2"} {
		s.Panicking(point, "release", s.Name, "--points")
		s.Check()
	}
	s.Program.Must(t, nil, "release", s.Name, "--points")
	if got := s.Labels(); len(got) != 0 {
		t.Errorf("checkpoints are left: %v", got)
	}
}
