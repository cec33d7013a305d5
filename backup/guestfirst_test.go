package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
	"github.com/virtbackup/virtbackup/xml"
)

// before returns the steps of a run, with something that happens just before one of them.
func before(name string, happens func()) []step {
	changed := slices.Clone(steps)
	i := slices.IndexFunc(steps, func(s step) bool { return s.name == name })
	changed[i].do = func(r *run, ctx context.Context) error { happens(); return steps[i].do(r, ctx) }
	return changed
}

// An agent that was asked to freeze, does so late and answers nothing meanwhile is asked to
// thaw until it does.
func TestLateFreeze(t *testing.T) {
	t.Parallel()
	for _, quiesce := range []source.Quiesce{source.QuiesceTry, source.QuiesceRequire} {
		s := newFakeSite(t)
		s.domain.Agent = fakelibvirt.AgentLate
		s.count("Thaw", func(n int) error {
			if n == 0 {
				return &hypervisor.Error{Kind: hypervisor.ErrAgent, Message: "Guest agent is not responding"}
			}
			return nil
		})
		request := s.request(manifest.KindFull)
		request.Quiesce = quiesce
		r, err := s.run(t.Context(), request, steps)
		if s.domain.Frozen() || r.sealed != (quiesce == source.QuiesceTry) {
			t.Errorf("--quiesce %s: frozen %v, sealed %v, %v", quiesce, s.domain.Frozen(), r.sealed, err)
		}
	}
}

// With a guest that is shut off its freeze is over: nobody waits for the agent, and no mark is
// left.
func TestShutOffWhileFrozen(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"begin", "thaw"} {
		s := newFakeSite(t)
		s.must(manifest.KindFull)
		start := time.Now()
		r, err := s.run(t.Context(), s.request(manifest.KindInc), before(at, s.domain.ShutDown))
		if files := s.world().files; err == nil || r.sealed || strings.Contains(files, "mark") || time.Since(start) > 30*time.Second {
			t.Errorf("%s: %v after %v, left %s", at, err, time.Since(start), files)
		}
		s.domain.Start()
		s.must(manifest.KindInc)
		s.checkPoints()
	}
}

// A guest that is frozen and paused, because a write has found no space in the scratch files,
// cannot be thawed before the job has ended: so it ends at once.
func TestOutOfScratchWhileFrozen(t *testing.T) {
	t.Parallel()
	s := newFakeSite(t)
	s.must(manifest.KindFull)
	world := s.world()
	start := time.Now()
	_, err := s.run(t.Context(), s.request(manifest.KindInc), before("thaw", func() { s.domain.RunOutOfSpace("vda") }))
	if took := time.Since(start); err == nil || !strings.Contains(err.Error(), "to keep the guest going") || took > 30*time.Second {
		t.Errorf("%v after %v", err, took)
	}
	s.wantLeftAlone(world)
	if state, err := s.domain.State(); err != nil || state != hypervisor.Running {
		t.Errorf("the guest is %v, %v", state, err)
	}
}

// A guest that an I/O error had paused before the job began stays paused: what it waits for is
// not ours.
func TestPausedBefore(t *testing.T) {
	t.Parallel()
	s := newFakeSite(t)
	s.domain.RunOutOfSpace("vda")
	if r, err := s.run(t.Context(), s.request(manifest.KindFull), steps); err != nil || !r.sealed {
		t.Errorf("%v", err)
	}
	if state, err := s.domain.State(); err != nil || state != hypervisor.PausedForIO {
		t.Errorf("the guest is %v, %v", state, err)
	}
	s.checkPoints()
}

// A job that has taken the place of this run's is neither taken for it nor ended.
func TestOthersJobInPlaceOfOurs(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"tails", "copy", "end"} {
		s := newFakeSite(t)
		s.must(manifest.KindFull)
		r, err := s.run(t.Context(), s.request(manifest.KindInc), before(at, func() { s.replaceJob() }))
		if err == nil || r.sealed || !s.domain.Job() {
			t.Errorf("%s: %v, sealed %v, the other job runs: %v", at, err, r.sealed, s.domain.Job())
		}
		_ = s.domain.EndBackup(t.Context())
		s.must(manifest.KindInc)
		s.checkPoints()
	}
}

// What was read is proven by QEMU, which ends a job before libvirt knows, and by the job being
// this run's after that: another may have begun since it was looked at.
func TestUnprovenJob(t *testing.T) {
	t.Parallel()
	for what, happens := range map[string]func(*fakeSite) error{
		"QEMU has ended the job": func(*fakeSite) error {
			return &hypervisor.Error{Kind: hypervisor.ErrNoJob, Message: "Job 'backup-vda-libvirt-1-format' in state 'aborting' cannot accept command verb 'set-speed'"}
		},
		"another job is proven": func(s *fakeSite) error { s.replaceJob(); return nil },
	} {
		s := newFakeSite(t)
		s.must(manifest.KindFull)
		s.count("ProveBackup", func(int) error { return happens(s) })
		r, err := s.run(t.Context(), s.request(manifest.KindInc), steps)
		if err == nil || r.sealed || !strings.Contains(err.Error(), "is gone, and this run has not ended it") {
			t.Errorf("%s: %v, sealed %v", what, err, r.sealed)
		}
		s.domain.Hook = nil
		_ = s.domain.EndBackup(t.Context())
		s.must(manifest.KindInc)
		s.checkPoints()
	}
}

// A guest that is paused because a disk that is not copied is full does not end the job, which
// has nothing to do with that.
func TestOtherDiskIsFull(t *testing.T) {
	t.Parallel()
	s := newFakeSite(t)
	request := s.request(manifest.KindFull)
	request.Disks = []string{"vda"}
	request.Progress = func(string, int64, int64) {
		s.domain.RunOutOfSpace("vdb")
		time.Sleep(300 * time.Millisecond) // the watch looks five times a second
	}
	if r, err := s.run(t.Context(), request, steps); err != nil || !r.sealed {
		t.Errorf("%v", err)
	}
}

// What this run has begun it ends without its repository, whose file system may have gone.
func TestRepositoryIsGone(t *testing.T) {
	t.Parallel()
	s := newFakeSite(t)
	s.must(manifest.KindFull)
	world := s.world()
	here, away := filepath.Join(s.repo, "vm1"), filepath.Join(s.repo, ".away")
	_, err := s.run(t.Context(), s.request(manifest.KindInc), before("copy", func() {
		if err := os.Rename(here, away); err != nil {
			t.Error(err)
		}
	}))
	if err == nil || s.domain.Job() || s.domain.Frozen() || len(s.domain.Names()) != 1 {
		t.Errorf("%v: a job %v, frozen %v, checkpoints %q", err, s.domain.Job(), s.domain.Frozen(), s.domain.Names())
	}
	if err := os.RemoveAll(here); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, here); err != nil {
		t.Fatal(err)
	}
	s.must(manifest.KindInc)
	if after := s.world(); strings.Contains(after.files, "partial") || strings.Contains(after.files, "sock") {
		t.Errorf("left behind: %+v, was %+v", after, world)
	}
	s.checkPoints()
}

// With a repository that hangs nothing is written to it, not even that the guest is paused: it
// goes on all the same.
func TestRepositoryHangs(t *testing.T) {
	t.Parallel()
	s := newFakeSite(t)
	s.must(manifest.KindFull)
	marked := false
	s.domain.HookAfter = func(method string) error {
		if method == "EndBackup" {
			_, err := os.Stat(filepath.Join(s.repo, "vm1", ".mark-paused"))
			marked = err == nil
		}
		return nil
	}
	changed := slices.Clone(steps)
	i := slices.IndexFunc(steps, func(s step) bool { return s.name == "copy" })
	changed[i].do = func(r *run, _ context.Context) error {
		s.domain.RunOutOfSpace("vda")
		r.hung = true
		return ErrStuck
	}
	r, err := s.run(t.Context(), s.request(manifest.KindInc), changed)
	if state, _ := s.domain.State(); !errors.Is(err, ErrStuck) || marked || s.domain.Job() || state != hypervisor.Running || len(s.domain.Names()) != 1 {
		t.Errorf("%v: a mark was set %v, a job %v, the guest is %v, checkpoints %q", err, marked, s.domain.Job(), state, s.domain.Names())
	}
	if err := r.lock.Unlock(); err != nil { // the kernel does
		t.Fatal(err)
	}
	s.domain.HookAfter = nil
	s.must(manifest.KindInc)
	s.checkPoints()
}

// replaceJob ends the job and begins that of another program on the same disks.
func (s *fakeSite) replaceJob() {
	s.t.Helper()
	other := xml.Backup{Socket: filepath.Join(s.t.TempDir(), "other.sock")}
	for _, target := range fakeTargets {
		scratch := filepath.Join(s.t.TempDir(), target)
		if err := os.WriteFile(scratch, nil, 0o600); err != nil {
			s.t.Fatal(err)
		}
		other.Disks = append(other.Disks, xml.BackupDisk{Target: target, Scratch: scratch})
	}
	doc, err := other.Marshal()
	if err == nil {
		err = s.domain.EndBackup(s.t.Context())
	}
	if err == nil {
		err = s.domain.BackupBegin(doc, "")
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
