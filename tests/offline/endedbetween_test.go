package offline

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// The domain is started and ends in another way than before, between the beginning of a run and the
// instant: nobody has tried to start it since, and the run gives way to nobody.
func TestNoStartSinceTheInstant(t *testing.T) {
	for _, point := range []string{"step plan after", "add bitmap after"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.StartBroken(point+":pause", nil, "inc", "--yield")
			testsite.AwaitStopped(t, p)
			s.Start()
			s.Write("vda", 5*mib, 100<<10, 3)
			save(s)
			truth := s.Truths()
			testsite.Continue(p)
			r := p.Wait()
			if r.Code != 0 {
				t.Fatalf("exit %d", r.Code)
			}
			inc := s.Add(r, truth)
			testsite.WantSaid(t, inc.Notes, "the domain is saved")
			s.Check()
			wantClean(s)
		})
	}
}

// save saves the domain; libvirt does not undefine one that is.
func save(s *testsite.Site) {
	s.T.Helper()
	testdomain.Virsh(s.T, "managedsave", s.Name)
	s.T.Cleanup(func() { _, _ = testdomain.TryVirsh(s.T, "managedsave-remove", s.Name) })
}

// A guest that had shut down is started and destroyed before the instant: its file systems are not in
// order at the instant, whatever they were before.
func TestDestroyedBeforeTheInstant(t *testing.T) {
	for _, quiesce := range []string{"try", "require"} {
		t.Run(quiesce, func(t *testing.T) {
			t.Parallel()
			s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 * mib}))
			s.PowerOff()
			p := s.StartBroken("add bitmap after:pause", nil, "full", "--quiesce", quiesce)
			testsite.AwaitStopped(t, p)
			s.Start()
			s.Write("vda", 60*mib, 100<<10, 3)
			s.Destroy()
			truth := s.Truths()
			testsite.Continue(p)
			r := p.Wait()
			wantClean(s)
			if quiesce == "require" {
				if r.Code != 1 || !strings.Contains(r.Stderr, "as --quiesce require asks, and the domain is shut off: someone destroyed it") {
					t.Errorf("exit %d", r.Code)
				}
				return
			}
			if r.Code != 0 {
				t.Fatalf("exit %d", r.Code)
			}
			if got := s.Add(r, truth).Point.Consistency; got != manifest.ConsistencyCrash {
				t.Errorf("of a guest that was destroyed: %s", got)
			}
			s.Check()
		})
	}
}
