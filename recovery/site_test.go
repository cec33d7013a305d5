package recovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }

const (
	own   = "0000000000000001"
	other = "0000000000000002"
)

// newSite is a locked directory of a new repository, for a domain that is not looked at.
func newSite(t *testing.T) *Site {
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
	return &Site{Repo: repo, Lock: lock}
}

// issue writes an instant of check1 down.
func (s *Site) issue(t *testing.T, identity string) repository.Instant {
	t.Helper()
	i, err := s.Lock.Issue(repository.Instant{Point: "check1", Identity: identity, Checkpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// processes are one that is dead, one that is alive, and this one.
func processes(t *testing.T) (dead, alive, self repository.Process) {
	t.Helper()
	self, err := repository.Self()
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
	alive = repository.Process{BootID: self.BootID, PID: cmd.Process.Pid}
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
	dead.Start++ // its number was given to another since
	return dead, alive, self
}

// Only what is of this run, or was issued here by a process that is dead, may be removed.
// In a repository whose place is not known, as on FUSE, a copy has the place of the
// original, so that a run is dead is told by its process alone.
func TestMayRemove(t *testing.T) {
	s := newSite(t)
	issued := s.issue(t, other)
	dead, alive, self := processes(t)
	for _, tt := range []struct {
		name     string
		process  repository.Process
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
		s.Own = own
		ledger, err := s.ledger()
		if err != nil {
			t.Fatal(err)
		}
		i := issued
		i.Process, i.Place, i.Identity = tt.process, tt.place, tt.identity
		ledger.Issued = []repository.Instant{i}
		if got := s.mayRemove(ledger, i); got != tt.want {
			t.Errorf("what is %s may be removed: %v", tt.name, got)
		}
		socket := "/run/virtbackup-01234567-89abcdef-" + tt.identity + ".sock"
		if got := s.ours(ledger, socket); got != tt.want {
			t.Errorf("a socket %s is ours: %v", tt.name, got)
		}
	}
}

// What has no identity that was issued here is not ours, however much its name is alike.
func TestOurFiles(t *testing.T) {
	s := newSite(t)
	s.issue(t, other)
	ledger, err := s.ledger()
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
		if got := s.ours(ledger, "/run/"+name); got != want {
			t.Errorf("%q is ours: %v", name, got)
		}
	}
}

// A mark is for the run that comes after: one of a process that is alive has come here with
// a copy of the repository, and stands for nothing. One that says nothing still stands.
func TestMarks(t *testing.T) {
	s := newSite(t)
	dead, alive, self := processes(t)
	for _, tt := range []struct {
		name string
		mark any
		want bool
	}{
		{"a dead process", guestMark{RunID: 7, Process: dead}, true},
		{"a live process", guestMark{RunID: 7, Process: alive}, false},
		{"this process", guestMark{RunID: 7, Process: self}, true},
		{"nobody", guestMark{RunID: 7}, true},
		{"who knows what", "cut short", true},
	} {
		data, err := json.Marshal(tt.mark)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Lock.SetMark(markFrozen, data); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := s.readMark(markFrozen); err != nil || ok != tt.want {
			t.Errorf("a mark of %s stands: %v, %v", tt.name, ok, err)
		}
	}
	if _, ok, err := s.readMark(markPaused); err != nil || ok {
		t.Errorf("a mark that was not set stands: %v, %v", ok, err)
	}
}

// onDomain is newSite for a throwaway domain.
func onDomain(t *testing.T) (*Site, *testdomain.Domain) {
	t.Helper()
	s, d := newSite(t), testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20})
	conn, err := hypervisor.Connect(testdomain.URI)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if s.Domain, err = conn.Domain(d.Name); err != nil {
		t.Fatal(err)
	}
	return s, d
}

// A checkpoint that has the name of ours, and is not proven to be, is not deleted, by
// whichever way.
func TestCheckpointsAreProven(t *testing.T) {
	t.Parallel()
	s, d := onDomain(t)
	i := s.issue(t, other)
	make := func(description string) {
		t.Helper()
		testdomain.Virsh(t, "checkpoint-create-as", d.Name, i.CheckpointName(), description)
	}
	make("somebody's")
	for _, identity := range []string{"", i.Identity} {
		s.Own = identity
		for way, remove := range map[string]func(repository.Instant) error{"delete": s.DeleteCheckpoint, "retire": s.RetireCheckpoint} {
			if err := remove(i); err == nil || len(d.Checkpoints()) != 1 {
				t.Errorf("%s, own %q: %v, left %v", way, identity, err, d.Checkpoints())
			}
		}
	}
	testdomain.Virsh(t, "checkpoint-delete", d.Name, i.CheckpointName())
	make(checkpoint.Description(s.Repo.ID(), i.Point))
	if err := s.DeleteCheckpoint(i); err != nil || len(d.Checkpoints()) > 0 {
		t.Errorf("ours: %v, left %v", err, d.Checkpoints())
	}
}

// Where the agent does not answer, the guest may still be frozen: the mark goes only if the
// domain was started anew since.
func TestThawWithoutAnAgent(t *testing.T) {
	t.Parallel()
	s, d := onDomain(t)
	testdomain.Virsh(t, "resume", d.Name)
	id, err := s.Domain.RunID()
	if err != nil {
		t.Fatal(err)
	}
	for mark, stays := range map[uint]bool{id: true, 0: true, id + 1: false} {
		if err := s.Freezing(); err != nil {
			t.Fatal(err)
		}
		err := s.tryThaw(guestMark{RunID: mark})
		_, left, markErr := s.Lock.Mark(markFrozen)
		var later *laterError
		if markErr != nil || left != stays || errors.As(err, &later) != stays || err != nil && !stays {
			t.Errorf("run %d, marked in run %d: %v, the mark is there: %v", id, mark, err, left)
		}
	}
}

// A point's checkpoint.xml that is that of another point is not given to libvirt, though it
// is what was written: bitmaps of another instant would be taken for those of the point.
func TestCheckpointXMLOfAnotherPoint(t *testing.T) {
	t.Parallel()
	s, _ := onDomain(t)
	first := s.issue(t, own)
	second, err := s.Lock.Issue(repository.Instant{Point: "check2", Identity: other, Checkpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []repository.Instant{first, second} {
		m := s.seal(t, i, fmt.Sprintf("<domaincheckpoint><name>%s</name><description>%s</description><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>",
			second.CheckpointName(), checkpoint.Description(s.Repo.ID(), second.Point)))
		_, err := s.document(absent{m, i})
		var gone *goneError
		if errors.As(err, &gone) != (i == first) || err != nil && i == second {
			t.Errorf("%s: %v", i.Point, err)
		}
	}
}

// seal makes a point without disks.
func (s *Site) seal(t *testing.T, i repository.Instant, checkpointXML string) repository.Manifest {
	t.Helper()
	p, err := s.Lock.Begin(i.Point, i.Identity)
	if err != nil {
		t.Fatal(err)
	}
	m := repository.Manifest{ID: i.Point, Kind: repository.KindFull, Checkpoint: i.CheckpointName(), Domain: "vm1",
		DomainUUID: s.Domain.UUID(), Time: i.Time, Consistency: repository.ConsistencyCrash}
	if err := errors.Join(p.WriteFile(repository.DomainXML, []byte("<domain/>")), p.WriteFile("checkpoint.xml", []byte(checkpointXML)), p.Seal(m)); err != nil {
		t.Fatal(err)
	}
	if m, err = s.Repo.Point("vm1", i.Point); err != nil {
		t.Fatal(err)
	}
	return m
}
