package recovery

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
	"github.com/virtbackup/virtbackup/xml"
)

// killed is a domain in memory with what a killed run has left of an instant: its job,
// checkpoint, socket and scratch file.
type killed struct {
	*locked
	domain *fakelibvirt.Domain
	issued instants.Instant
}

func newKilled(t *testing.T) *killed {
	t.Helper()
	var host fakelibvirt.Host
	k := &killed{locked: newLocked(t), domain: host.Define("vm1", 1<<20, "vda")}
	k.Domain = k.domain
	dir, err := os.MkdirTemp("/dev/shm", "vb-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	k.SocketDir, k.ScratchDir = dir, dir
	k.issued = k.issue(t, other)
	return k
}

// begin begins the job of the killed run.
func (k *killed) begin(t *testing.T) {
	t.Helper()
	if err := k.tryBegin(t); err != nil {
		t.Fatal(err)
	}
}

func (k *killed) tryBegin(t *testing.T) error {
	t.Helper()
	job, err := xml.Backup{Socket: k.Socket(other), Disks: []xml.BackupDisk{{Target: "vda", Scratch: k.Scratch(other, "vda")}}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	c, err := xml.Checkpoint{Name: k.issued.CheckpointName(), Description: checkpoint.Description(k.Repo.ID(), "check1"),
		Disks: []xml.CheckpointDisk{{Target: "vda", Bitmap: k.issued.CheckpointName()}}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.Scratch(other, "vda"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return k.domain.BackupBegin(job, c)
}

// libvirt goes on with a job that was to begin for a run that was killed meanwhile: recovery
// waits for it and ends it.
func TestRecoverOfALateJob(t *testing.T) {
	k := newKilled(t)
	k.domain.LateBegin = true
	if err := k.tryBegin(t); err == nil || k.domain.Job() {
		t.Fatal("it has begun at once")
	}
	report, err := Recover(t.Context(), k.LockedDomain, false)
	if err != nil || k.domain.Job() || len(k.domain.Names()) > 0 || len(k.domain.Bitmaps("vda")) > 0 || !slices.Contains(report.Fixed, "a backup job") {
		t.Errorf("%+v, %v: a job %v, checkpoints %q", report, err, k.domain.Job(), k.domain.Names())
	}
	if err := k.domain.Settle(t.Context()); err != nil || k.domain.Job() {
		t.Errorf("the job has begun after recovery: %v", err)
	}
}

// files lists the directory of sockets and scratch files.
func (k *killed) files() (names []string) {
	entries, _ := os.ReadDir(k.SocketDir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Whatever a killed run has left is removed, and a second recovery finds nothing.
func TestRecoverOnAFake(t *testing.T) {
	for name, tt := range map[string]struct {
		since func(*killed, *testing.T)
		fixed []string // parts of the report
	}{
		"a job":     {func(k *killed, t *testing.T) {}, []string{"a backup job", "checkpoint check1"}},
		"no job":    {func(k *killed, t *testing.T) { _ = k.domain.EndBackup(t.Context()) }, []string{"checkpoint check1", ".sock"}},
		"no record": {func(k *killed, t *testing.T) { _ = k.domain.EndBackup(t.Context()); k.domain.DropRecords() }, []string{".sock"}},
		"a paused guest": {func(k *killed, t *testing.T) {
			k.domain.ScratchLimit = 1
			k.domain.Write("vda", 0, []byte{1})
		}, []string{"a backup job, with the guest paused by an I/O error", "checkpoint check1"}},
		"a frozen guest": {func(k *killed, t *testing.T) {
			if _, err := guest.NewSession(k.LockedDomain).Freeze(); err != nil {
				t.Fatal(err)
			}
		}, []string{"a backup job", "a freeze of the guest's file systems", "checkpoint check1"}},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKilled(t)
			k.begin(t)
			tt.since(k, t)
			look, err := Look(t.Context(), k.LockedDomain)
			if err != nil || !look.DryRun {
				t.Fatal(look, err)
			}
			report, err := Recover(t.Context(), k.LockedDomain, false)
			if err != nil || len(report.Left) > 0 {
				t.Fatalf("%+v, %v", report, err)
			}
			for _, want := range tt.fixed {
				if !slices.ContainsFunc(report.Fixed, func(fixed string) bool { return strings.Contains(fixed, want) }) {
					t.Errorf("%q was cleaned up, want %q", report.Fixed, want)
				}
			}
			for _, want := range report.Fixed {
				if !slices.Contains(look.Fixed, want) {
					t.Errorf("a dry run does not say %q: %q", want, look.Fixed)
				}
			}
			state, _ := k.domain.State()
			if k.domain.Frozen() || k.domain.Job() || state != hypervisor.Running || len(k.domain.Names()) > 0 || len(k.domain.Bitmaps("vda")) > 0 || len(k.files()) > 0 {
				t.Errorf("frozen %v, a job %v, %v, checkpoints %q, bitmaps %q, files %q", k.domain.Frozen(), k.domain.Job(), state,
					k.domain.Names(), k.domain.Bitmaps("vda"), k.files())
			}
			if again, err := Recover(t.Context(), k.LockedDomain, false); err != nil || len(again.Fixed)+len(again.Left) > 0 {
				t.Errorf("again: %+v, %v", again, err)
			}
		})
	}
}

// A job and files that are not ours stay, even if their names look like ours.
func TestRecoverLeavesOthersAlone(t *testing.T) {
	k := newKilled(t)
	if err := k.Lock.DropInstant(other); err != nil { // the repository has not issued it
		t.Fatal(err)
	}
	k.begin(t)
	files := k.files()
	report, err := Recover(t.Context(), k.LockedDomain, false)
	if err != nil || len(report.Fixed)+len(report.Left) > 0 || !k.domain.Job() || len(k.domain.Names()) != 1 || !slices.Equal(k.files(), files) {
		t.Errorf("%+v, %v: a job %v, checkpoints %q, files %q", report, err, k.domain.Job(), k.domain.Names(), k.files())
	}
}

// The bitmaps of a domain that is off cannot be deleted: the checkpoint and its identity
// stay, and are removed when it runs again.
func TestRecoverWhileOff(t *testing.T) {
	k := newKilled(t)
	k.begin(t)
	k.domain.ShutDown()
	report, err := Recover(t.Context(), k.LockedDomain, false)
	if err != nil || len(report.Left) != 1 || len(k.domain.Names()) != 1 {
		t.Fatalf("off: %+v, %v, checkpoints %q", report, err, k.domain.Names())
	}
	k.domain.Start()
	report, err = Recover(t.Context(), k.LockedDomain, false)
	if err != nil || len(report.Left) > 0 || len(k.domain.Bitmaps("vda")) > 0 {
		t.Errorf("on: %+v, %v, bitmaps %q", report, err, k.domain.Bitmaps("vda"))
	}
}

// If the agent does not answer for a minute after the freeze, the guest stays frozen, with
// its mark, for the next run.
func TestRecoverOfASilentAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKilled(t)
		if _, err := guest.NewSession(k.LockedDomain).Freeze(); err != nil {
			t.Fatal(err)
		}
		k.domain.Agent = fakelibvirt.AgentSilent
		start := time.Now()
		report, err := Recover(t.Context(), k.LockedDomain, false)
		if took := time.Since(start); err != nil || len(report.Left) != 1 || !strings.Contains(report.Left[0], "virsh domfsthaw vm1") || took < time.Minute || took > 2*time.Minute {
			t.Fatalf("%+v, %v after %v", report, err, took)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("a signal")
		time.AfterFunc(time.Millisecond, func() { cancel(gone) })
		if report, err := Recover(ctx, k.LockedDomain, false); err != nil && !errors.Is(err, gone) {
			t.Errorf("with a signal: %+v, %v", report, err)
		}
		k.domain.Agent = fakelibvirt.AgentAnswers
		if report, err := Recover(t.Context(), k.LockedDomain, false); err != nil || len(report.Left) > 0 || k.domain.Frozen() {
			t.Errorf("%+v, %v, frozen %v", report, err, k.domain.Frozen())
		}
	})
}

// The run was killed when its job had ended and the guest was still paused: the guest goes on,
// though a question to libvirt fails at first. The note of it stays until then.
func TestRecoverWakesThoughLibvirtFails(t *testing.T) {
	for _, method := range []string{"State", "Resume"} {
		for bad := range 3 { // the call that fails
			k := newKilled(t)
			k.begin(t)
			k.domain.ScratchLimit = 1
			k.domain.Write("vda", 0, []byte{1})
			left, err := k.FindLeftover(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := left.End(t.Context()); err != nil {
				t.Fatal(err)
			}
			n := 0
			k.domain.Hook = func(m string) error {
				if m == method {
					n++
				}
				if m == method && n-1 == bad {
					return &hypervisor.Error{Message: "internal error: " + m}
				}
				return nil
			}
			_, firstErr := Recover(t.Context(), k.LockedDomain, false)
			k.domain.Hook = nil
			if _, err := Recover(t.Context(), k.LockedDomain, false); err != nil {
				t.Fatal(err)
			}
			if state, err := k.domain.State(); err != nil || state != hypervisor.Running {
				t.Errorf("call %d of %s failed (%v): the guest is left %v, %v", bad, method, firstErr, state, err)
			}
		}
	}
}
