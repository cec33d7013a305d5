package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
)

// Where QEMU refuses the bitmap of a disk, the point is made all the same, consistent, and
// the checkpoint covers the other disks; where it refuses all there is none.
func TestRefusedBitmaps(t *testing.T) {
	t.Parallel()
	for _, refused := range [][]string{{"vda"}, {"vdb"}, fakeTargets} {
		s := newFakeSite(t)
		s.domain.NoBitmaps = refused
		r := s.must(manifest.KindFull)
		if len(r.Warnings) != len(refused) || r.Point.Consistency != manifest.ConsistencyFilesystem {
			t.Errorf("%q refused: warnings %q, %s consistent", refused, r.Warnings, r.Point.Consistency)
		}
		covered := len(refused) < len(fakeTargets)
		if there := len(s.domain.Names()) == 1; there != covered || (r.Point.Checkpoint != "") != covered || len(s.issued()) != len(s.domain.Names()) {
			t.Errorf("%q refused: checkpoint %q, libvirt lists %q, identities %v", refused, r.Point.Checkpoint, s.domain.Names(), s.issued())
		}
		for _, target := range fakeTargets {
			if has := len(s.domain.Bitmaps(target)) > 0; has == slices.Contains(refused, target) {
				t.Errorf("%q refused: disk %s has bitmaps %q", refused, target, s.domain.Bitmaps(target))
			}
		}
		s.must(manifest.KindInc)
		s.checkPoints()
	}
}

// After QEMU has refused bitmaps the guest is frozen again for the instant. Where it cannot be,
// the point is not said to be consistent, though the first freeze has succeeded.
func TestFrozenAgainAfterRefusal(t *testing.T) {
	t.Parallel()
	for agent, want := range map[fakelibvirt.Agent]string{
		fakelibvirt.AgentAnswers: manifest.ConsistencyFilesystem, fakelibvirt.AgentMissing: manifest.ConsistencyCrash,
	} {
		s := newFakeSite(t)
		s.domain.NoBitmaps = []string{"vdb"}
		frozen := false // at the beginning of the last job
		s.domain.Hook = func(method string) error {
			switch method {
			case "CreateCheckpoint":
				s.domain.Agent = agent
			case "BackupBegin":
				frozen = s.domain.Frozen()
			}
			return nil
		}
		r := s.must(manifest.KindFull)
		if r.Point.Consistency != want || frozen != (want == manifest.ConsistencyFilesystem) {
			t.Errorf("agent %d: %s consistent, the guest was frozen: %v", agent, r.Point.Consistency, frozen)
		}
	}
}

// issued are the identities that the repository knows.
func (s *fakeSite) issued() (names []string) {
	s.t.Helper()
	repo, err := repository.Open(s.repo)
	if err != nil {
		s.t.Fatal(err)
	}
	ledger, err := repo.Ledger("vm1")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, i := range ledger.Issued {
		names = append(names, i.Identity)
	}
	return names
}

// Where QEMU refuses bitmaps and the run fails, whichever call it is, the guest goes on, and
// the next run cleans up.
func TestRefusedBitmapsAndFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // whose waits cost no time
		for _, refused := range [][]string{{"vdb"}, fakeTargets} {
			for _, method := range []string{"State", "Freeze", "Thaw", "BackupBegin", "BackupJob", "CreateCheckpoint", "CheckpointXML", "DeleteCheckpoint", "XML", "EndBackup"} {
				for bad, tried := 0, true; tried; bad++ {
					s := newFakeSite(t)
					s.domain.NoBitmaps = refused
					tried = s.failCall(method, bad)
					if s.domain.Frozen() || s.domain.Job() && method != "EndBackup" {
						t.Fatalf("%q refused, call %d of %s failed: frozen %v, a job %v", refused, bad, method, s.domain.Frozen(), s.domain.Job())
					}
					s.must(manifest.KindFull)
					if w := s.world(); s.domain.Job() || strings.Contains(w.files, "partial") || strings.Contains(w.files, "sock") || strings.Contains(w.files, "mark") || len(s.domain.Names()) > 2 {
						t.Fatalf("%q refused, after call %d of %s: %+v", refused, bad, method, w)
					}
					s.checkPoints()
				}
			}
		}
	})
}

// failCall is a run in which a call of libvirt fails, once; tried is false where there are not
// so many.
func (s *fakeSite) failCall(method string, bad int) (tried bool) {
	calls := s.count(method, func(n int) error {
		if n == bad {
			return &hypervisor.Error{Message: "internal error: " + method}
		}
		return nil
	})
	_, _ = s.run(s.t.Context(), s.request(manifest.KindFull), steps)
	s.domain.Hook = nil
	return calls() > bad
}

// A job that cannot be ended is known to the next run, which ends it, whatever QEMU has
// refused.
func TestJobThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	for _, refused := range [][]string{nil, {"vdb"}, fakeTargets} {
		s := newFakeSite(t)
		s.domain.NoBitmaps = refused
		s.count("EndBackup", func(int) error { return fmt.Errorf("end the job: %w", context.DeadlineExceeded) })
		if _, err := s.run(t.Context(), s.request(manifest.KindFull), steps); err == nil || !s.domain.Job() {
			t.Fatalf("%q refused: %v, a job %v", refused, err, s.domain.Job())
		}
		s.domain.Hook = nil
		if r, err := s.run(t.Context(), s.request(manifest.KindFull), steps); err != nil || s.domain.Job() || len(r.result.Recovered) == 0 {
			t.Errorf("%q refused: %v, a job %v, cleaned up %q", refused, err, s.domain.Job(), r.result.Recovered)
		}
		s.checkPoints()
	}
}
