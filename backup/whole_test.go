package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/recovery"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
)

// Points of every kind contain what the disks held, and incs copy only what changed.
func TestWholeRuns(t *testing.T) {
	s := newFakeSite(t)
	for _, kind := range []manifest.Kind{manifest.KindFull, manifest.KindInc, manifest.KindDiff, manifest.KindCopy, manifest.KindFull, plan.Auto, manifest.KindInc} {
		r := s.must(kind)
		if len(r.Warnings) > 0 || r.Point.Consistency != manifest.ConsistencyFilesystem {
			t.Errorf("%s: warnings %q, %s consistent", r.Point.ID, r.Warnings, r.Point.Consistency)
		}
		for _, d := range r.Point.Disks {
			if inc := r.Point.Parent != ""; inc != (d.Kind == manifest.KindInc) || inc && d.DataBytes > 4*64<<10 {
				t.Errorf("%s of %s: %s with %d bytes", d.Target, r.Point.ID, d.Kind, d.DataBytes)
			}
		}
	}
	s.checkPoints()
	if got := s.domain.Complaints(); len(got) > 0 {
		t.Errorf("libvirt complains: %q", got)
	}
	if got := len(s.domain.Names()); got != 5 {
		t.Errorf("checkpoints %q, want 5", s.domain.Names())
	}
}

// A disk may end within a cluster.
func TestWholeRunsOfOddDisks(t *testing.T) {
	s := newFakeSite(t)
	s.host.Undefine(s.domain)
	s.domain = s.host.Define("vm1", 1<<20-3*512, fakeTargets...)
	for _, kind := range []manifest.Kind{manifest.KindFull, manifest.KindInc, manifest.KindInc, manifest.KindDiff} {
		for _, target := range fakeTargets {
			s.domain.Write(target, 1<<20-4*512, []byte{byte(len(s.truth)), 1})
		}
		s.must(kind)
	}
	s.checkPoints()
}

// failures are the ways in which a step can fail.
var failures = map[string]func(do func(*run, context.Context) error, cancel context.CancelCauseFunc) func(*run, context.Context) error{
	"fails before it has done anything": func(func(*run, context.Context) error, context.CancelCauseFunc) func(*run, context.Context) error {
		return func(*run, context.Context) error { return errBoom }
	},
	"fails after it has done its work": func(do func(*run, context.Context) error, _ context.CancelCauseFunc) func(*run, context.Context) error {
		return func(r *run, ctx context.Context) error { return errors.Join(do(r, ctx), errBoom) }
	},
	"panics": func(do func(*run, context.Context) error, _ context.CancelCauseFunc) func(*run, context.Context) error {
		return func(r *run, ctx context.Context) error { _ = do(r, ctx); panic("boom") }
	},
	"is ended by a signal": func(do func(*run, context.Context) error, cancel context.CancelCauseFunc) func(*run, context.Context) error {
		return func(r *run, ctx context.Context) error { err := do(r, ctx); cancel(errBoom); return err }
	},
}

// Whichever step fails, and however, the guest runs on, and its checkpoints, the repository
// and the host are unchanged; and the next run succeeds.
func TestEveryStepFails(t *testing.T) {
	t.Parallel()
	for how, failing := range failures {
		t.Run(how, func(t *testing.T) {
			s := newFakeSite(t)
			s.must(manifest.KindFull)
			for i, broken := range steps {
				s.change()
				before := s.world()
				ctx, cancel := context.WithCancelCause(t.Context())
				changed := slices.Clone(steps)
				changed[i].do = failing(broken.do, cancel)
				r, err := s.run(ctx, s.request(manifest.KindInc), changed)
				cancel(nil)
				if r.sealed {
					if err != nil || s.domain.Frozen() || s.domain.Job() {
						t.Errorf("step %s: sealed, and %v", broken.name, err)
					}
					continue
				}
				if err == nil {
					t.Fatalf("step %s: no error", broken.name)
				}
				if s.wantLeftAlone(before); t.Failed() {
					t.Fatalf("after a failure of step %s: %v", broken.name, err)
				}
			}
			s.must(manifest.KindInc)
			s.checkPoints()
		})
	}
}

// A full that fails in a new repository removes the repository.
func TestFirstRunFails(t *testing.T) {
	for i := range steps {
		s := newFakeSite(t)
		changed := slices.Clone(steps)
		changed[i].do = func(*run, context.Context) error { return errBoom }
		if r, _ := s.run(t.Context(), s.request(manifest.KindFull), changed); r.sealed {
			continue
		}
		s.wantLeftAlone(world{bitmaps: "vda: vdb: "})
		if _, err := repository.Open(s.repo); !errors.Is(err, repository.ErrAbsent) {
			t.Errorf("step %s: the repository is left: %v", steps[i].name, err)
		}
	}
}

// If any one call to libvirt fails, the run succeeds or fails; in either case the guest
// runs on, and the next run cleans up what could not be undone.
func TestEveryCallFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // whose waits cost no time
		calls := func(s *fakeSite, bad int) (n int, method string) {
			var mu sync.Mutex // the watch asks beside the copy
			s.domain.Hook = func(m string) error {
				mu.Lock()
				defer mu.Unlock()
				if n++; n-1 == bad {
					method = m
					return &hypervisor.Error{Message: "internal error: " + m}
				}
				return nil
			}
			defer func() { s.domain.Hook = nil }()
			s.change()
			_, _ = s.run(t.Context(), s.request(manifest.KindInc), steps)
			return n, method
		}
		s := newFakeSite(t)
		s.must(manifest.KindFull)
		total, _ := calls(s, -1)
		if total < 20 {
			t.Fatalf("only %d calls", total)
		}
		for bad := range total {
			if bad%8 == 7 { // chains stay short: each run reads all manifests
				s.checkPoints()
				s = newFakeSite(t)
				s.must(manifest.KindFull)
			}
			_, method := calls(s, bad)
			if s.domain.Frozen() || s.domain.Job() {
				t.Fatalf("call %d (%s): frozen %v, a job %v", bad, method, s.domain.Frozen(), s.domain.Job())
			}
			s.must(manifest.KindInc)
			if w := s.world(); strings.Contains(w.files, "partial") || strings.Contains(w.files, "sock") || len(s.domain.Names()) > DefaultKeepCheckpoints+1 {
				t.Fatalf("after call %d (%s): %+v", bad, method, w)
			}
		}
		s.checkPoints()
	})
}

// Recovery cleans up after a run that was killed after any step, whatever has happened to
// the domain since.
func TestRecoverAfterEveryStep(t *testing.T) {
	t.Parallel()
	for what, since := range map[string]func(*fakelibvirt.Domain){
		"the domain runs on":            func(*fakelibvirt.Domain) {},
		"the domain was shut down":      func(d *fakelibvirt.Domain) { d.ShutDown(); d.Start() },
		"QEMU was killed":               func(d *fakelibvirt.Domain) { d.Kill(); d.Start() },
		"libvirt has lost its records":  func(d *fakelibvirt.Domain) { d.DropRecords() },
		"the guest was paused for long": func(d *fakelibvirt.Domain) { d.Pause(); _ = d.Resume() },
	} {
		t.Run(what, func(t *testing.T) {
			s := newFakeSite(t)
			s.must(manifest.KindFull)
			for i, last := range steps {
				r := s.kill(i)
				since(s.domain)
				repo, err := repository.Open(s.repo)
				if err != nil {
					t.Fatal(err)
				}
				report, err := recovery.Run(t.Context(), &s.host, repo, recovery.Request{Domain: "vm1", SocketDir: s.runDir, ScratchDir: s.runDir})
				if err != nil || len(report.Left) > 0 {
					t.Fatalf("killed after step %s: %+v, %v", last.name, report, err)
				}
				w := s.world()
				if s.domain.Frozen() || s.domain.Job() || strings.Contains(w.files, ".partial") || strings.Contains(w.files, ".mark") || strings.Contains(w.files, ".sock") {
					t.Fatalf("killed after step %s: frozen %v, a job %v, left %s", last.name, s.domain.Frozen(), s.domain.Job(), w.files)
				}
				for _, name := range s.domain.Names() {
					if id, _, _ := manifest.ParseCheckpointName(name); !r.sealed && id == r.plan.ID {
						t.Fatalf("killed after step %s: checkpoint %s is left", last.name, name)
					}
				}
			}
			s.must(manifest.KindInc)
			s.checkPoints()
		})
	}
}

// kill does the steps up to last, but no undos, like a run that is killed.
func (s *fakeSite) kill(last int) *run {
	s.t.Helper()
	s.change()
	r := &run{Request: s.request(manifest.KindInc).withDefaults(), Deps: s.deps()}
	truth := s.content()
	for _, step := range steps[:last+1] {
		if err := step.do(r, s.t.Context()); err != nil {
			s.t.Fatalf("step %s: %v", step.name, err)
		}
	}
	if r.sealed {
		s.truth[r.point.ID] = truth
	}
	if r.lock != nil { // the kernel does
		if err := r.lock.Unlock(); err != nil {
			s.t.Fatal(err)
		}
	}
	return r
}

// If the agent does not answer, or freezes too late, the point is crash consistent, and the
// guest runs on.
func TestAgents(t *testing.T) {
	for agent, why := range map[fakelibvirt.Agent]string{fakelibvirt.AgentMissing: "not connected", fakelibvirt.AgentLate: "did not freeze within"} {
		s := newFakeSite(t)
		s.domain.Agent = agent
		r := s.must(manifest.KindFull)
		if r.Point.Consistency != manifest.ConsistencyCrash || !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, why) }) {
			t.Errorf("agent %d: %s consistent, notes %q", agent, r.Point.Consistency, r.Notes)
		}
		before := s.world()
		request := s.request(manifest.KindInc)
		request.Quiesce = "require"
		if _, err := s.run(t.Context(), request, steps); err == nil || fail.HintOf(err) == "" {
			t.Errorf("agent %d: --quiesce require: %v", agent, err)
		}
		s.wantLeftAlone(before)
		s.checkPoints()
	}
}

// QEMU pauses a guest whose writes find no space in the scratch files: the job is ended, and
// the guest is resumed.
func TestGuestOutOfScratch(t *testing.T) {
	t.Parallel()
	s := newFakeSite(t)
	s.domain.ScratchLimit = 64 << 10
	before := s.world()
	request := s.request(manifest.KindFull)
	request.Progress = func(string, int64, int64) { // several goroutines call it
		s.domain.Write("vda", 0, make([]byte, 1<<20))
		time.Sleep(300 * time.Millisecond) // the watch looks five times a second
	}
	if _, err := s.run(t.Context(), request, steps); err == nil || !strings.Contains(err.Error(), "to keep the guest going") {
		t.Errorf("%v", err)
	}
	s.wantLeftAlone(before)
	if state, err := s.domain.State(); err != nil || state != hypervisor.Running {
		t.Errorf("the guest is %v, %v", state, err)
	}
	if !s.domain.Write("vda", 0, make([]byte, 1<<20)) {
		t.Error("the guest cannot write")
	}
}

// A run waits for jobs that are not ours, and never ends them.
func TestOtherJobs(t *testing.T) {
	for _, other := range []func(*fakelibvirt.Domain){
		func(d *fakelibvirt.Domain) { d.OtherJob = "outgoing migration" },
		func(d *fakelibvirt.Domain) { d.OtherBlockJob = hypervisor.BlockJob{Kind: "commit"} },
	} {
		s := newFakeSite(t)
		other(s.domain)
		if _, err := s.run(t.Context(), s.request(manifest.KindFull), steps); !errors.Is(err, hypervisor.ErrBusy) || fail.HintOf(err) == "" {
			t.Errorf("%v", err)
		}
		s.wantLeftAlone(world{bitmaps: "vda: vdb: "})
	}
}

// If somebody else has ended the job, or the domain was shut off, the run fails and no point
// is sealed.
func TestJobIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // whose waits cost no time
		for want, end := range map[string]func(*fakeSite){
			"is gone, and this run has not ended it": func(s *fakeSite) { _ = s.domain.EndBackup(s.t.Context()) },
			"was shut off while it was backed up":    func(s *fakeSite) { s.domain.ShutDown() },
		} {
			for _, at := range []string{"tails", "copy", "end"} {
				s := newFakeSite(t)
				s.must(manifest.KindFull)
				changed := slices.Clone(steps)
				i := slices.IndexFunc(steps, func(s step) bool { return s.name == at })
				changed[i].do = func(r *run, ctx context.Context) error { end(s); return steps[i].do(r, ctx) }
				if r, err := s.run(t.Context(), s.request(manifest.KindInc), changed); r.sealed || err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v, sealed %v", at, err, r.sealed)
				}
				if state, _ := s.domain.State(); state == hypervisor.ShutOff {
					s.domain.Start()
				}
				s.must(manifest.KindInc)
				s.checkPoints()
				if got := fmt.Sprint(len(s.domain.Names())); got != "2" {
					t.Errorf("%s: checkpoints %q", at, s.domain.Names())
				}
			}
		}
	})
}

// Whichever undo fails, the run says so, and the next run cleans up what is left.
func TestEveryUndoFails(t *testing.T) {
	t.Parallel()
	copying := slices.IndexFunc(steps, func(s step) bool { return s.name == "copy" })
	for i := range steps[:copying] {
		if steps[i].undo == nil || steps[i].name == "lock" { // this process would hold the lock
			continue
		}
		s := newFakeSite(t)
		s.must(manifest.KindFull)
		changed := slices.Clone(steps)
		changed[copying].do = func(*run, context.Context) error { return errBoom }
		changed[i].undo = func(*run, context.Context) error { panic("boom") }
		s.change()
		var bug *panics.Error
		if _, err := s.run(t.Context(), s.request(manifest.KindInc), changed); !errors.As(err, &bug) {
			t.Errorf("undo of step %s: %v", steps[i].name, err)
		}
		s.must(manifest.KindInc)
		if w := s.world(); s.domain.Frozen() || s.domain.Job() || len(s.domain.Names()) != 2 || len(s.domain.Bitmaps("vda")) != 2 ||
			strings.Contains(w.files, "partial") || strings.Contains(w.files, "sock") || strings.Contains(w.files, "scratch") || strings.Contains(w.files, "mark") {
			t.Errorf("after the undo of step %s has failed: %+v", steps[i].name, w)
		}
		s.checkPoints()
	}
}
