package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/repository"
)

const (
	own   = "0000000000000001"
	other = "0000000000000002"
)

// newLocked is a locked directory of a new repository, for a domain that is not used.
func newLocked(t *testing.T) *LockedDomain {
	t.Helper()
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := repo.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Unlock() })
	return &LockedDomain{Repo: repo, Lock: lock}
}

// issue records an instant of check1.
func (d *LockedDomain) issue(t *testing.T, identity string) instants.Instant {
	t.Helper()
	i, err := d.Lock.Issue(instants.Instant{Point: "check1", Identity: identity, Checkpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// processes returns one that is dead, one that is alive, and this one.
func processes(t *testing.T) (dead, alive, self instants.Process) {
	t.Helper()
	self, err := instants.Self()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	alive = instants.Process{BootID: self.BootID, PID: cmd.Process.Pid}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", alive.PID))
	if err != nil {
		t.Fatal(err)
	}
	var skip string
	fields := []any{}
	for range 21 { // the name of sleep has no space
		fields = append(fields, &skip)
	}
	if _, err := fmt.Sscan(string(stat), append(fields, &alive.Start)...); err != nil {
		t.Fatal(err)
	}
	dead = alive
	dead.Start-- // its PID was given to another process since
	return dead, alive, self
}

// Only what belongs to this run, or was issued here by a dead process, may be removed. In a
// repository whose place is unknown, as on FUSE, a copy has the place of the original, so
// only the process shows whether a run is dead.
func TestMayRemove(t *testing.T) {
	d := newLocked(t)
	issued := d.issue(t, other)
	dead, alive, self := processes(t)
	for _, tt := range []struct {
		name     string
		process  instants.Process
		place    string
		identity string
		want     bool
	}{
		{"of a dead run", dead, issued.Place, other, true},
		{"of a dead run elsewhere", dead, "elsewhere", other, false},
		{"of a live run", alive, issued.Place, other, false},
		{"of an earlier run of this process", self, issued.Place, other, true},
		{"of this run", self, issued.Place, own, true},
		{"of this run, in a directory that was moved meanwhile", self, "elsewhere", own, true},
		{"of this process, elsewhere", self, "elsewhere", other, false},
	} {
		d.Own = own
		ledger, err := d.Ledger()
		if err != nil {
			t.Fatal(err)
		}
		i := issued
		i.Process, i.Place, i.Identity = tt.process, tt.place, tt.identity
		ledger.Issued = []instants.Instant{i}
		if got := d.MayRemove(ledger, i); got != tt.want {
			t.Errorf("what is %s may be removed: %v", tt.name, got)
		}
		socket := "/run/virtbackup-01234567-89abcdef-" + tt.identity + ".sock"
		if got := d.IsOurs(ledger, socket); got != tt.want {
			t.Errorf("a socket %s is ours: %v", tt.name, got)
		}
	}
}

// A file whose identity was not issued here is not ours, even if its name looks like ours.
func TestOurFiles(t *testing.T) {
	d := newLocked(t)
	d.issue(t, other)
	ledger, err := d.Ledger()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"virtbackup-01234567-89abcdef-" + other + ".sock":        true,
		"virtbackup-01234567-89abcdef-" + other + "-vda.scratch": true,
		"virtbackup-01234567-89abcdef-" + own + ".sock":          false,
		"virtbackup-" + other + ".sock":                          false,
		"virtbackup-" + other + "-89abcdef-01234567.sock":        false,
		other + ".sock": false,
		"virtnbdbackup-01234567-89abcdef-" + other + ".sock": false,
		"": false,
	} {
		if got := d.IsOurs(ledger, "/run/"+name); got != want {
			t.Errorf("%q is ours: %v", name, got)
		}
	}
}

// A mark is for the next run. If its process is alive, it was copied here with the
// repository and is ignored. A mark without content is valid.
func TestMarks(t *testing.T) {
	d := newLocked(t)
	dead, alive, self := processes(t)
	for _, tt := range []struct {
		name string
		mark any
		want bool
	}{
		{"a dead process", mark{RunID: 7, Process: dead}, true},
		{"a live process", mark{RunID: 7, Process: alive}, false},
		{"this process", mark{RunID: 7, Process: self}, true},
		{"nobody", mark{RunID: 7}, true},
		{"unknown content", "cut short", true},
	} {
		data, err := json.Marshal(tt.mark)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Lock.SetMark(markFrozen, data); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := d.readMark(markFrozen); err != nil || ok != tt.want {
			t.Errorf("a mark of %s stands: %v, %v", tt.name, ok, err)
		}
	}
	if _, ok, err := d.readMark(markPaused); err != nil || ok {
		t.Errorf("a mark that was not set stands: %v, %v", ok, err)
	}
}
