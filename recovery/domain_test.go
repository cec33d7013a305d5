package recovery

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// onDomain is newLocked for a throwaway domain.
func onDomain(t *testing.T) (*locked, *testdomain.Domain) {
	t.Helper()
	s, d := newLocked(t), testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20})
	conn, err := hypervisor.Connect(testdomain.URI)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if s.Domain, err = guest.Libvirt(conn).Domain(d.Name); err != nil {
		t.Fatal(err)
	}
	return s, d
}

// A checkpoint that has the name of one of ours, but is not proven to be ours, is never
// deleted.
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
		for way, remove := range map[string]func(instants.Instant) error{"delete": s.DeleteCheckpoint, "retire": s.RetireCheckpoint} {
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

// What belongs to a run that is alive stays, even if nobody holds the lock, which may be the
// lock of a copy. When the run is dead all of it is removed.
func TestRecoverOfALiveRun(t *testing.T) {
	t.Parallel()
	s, d := onDomain(t)
	if err := s.Lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	run := exec.Command(os.Args[0])
	run.Env = append(os.Environ(), "RECOVERY_TEST_ISSUE="+s.Repo.Dir())
	if _, err := run.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = run.Wait() }()
	defer func() { _ = run.Process.Kill() }()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "issued: <nil>\n" {
		t.Fatalf("the other run: %s", line)
	}
	if s.Lock, err = s.Repo.Lock("vm1"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Lock.Unlock() })
	testdomain.Virsh(t, "checkpoint-create-as", d.Name, manifest.CheckpointName("check1", other), checkpoint.Description(s.Repo.ID(), "check1"))
	s.SocketDir, s.ScratchDir = t.TempDir(), t.TempDir()
	for _, path := range []string{s.Socket(other), s.Scratch(other, "vda")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	report, err := Recover(t.Context(), s.LockedDomain, false)
	if err != nil || len(report.Fixed)+len(report.Left) > 0 || s.left(t, d) != 4 {
		t.Errorf("alive: %+v, %v; %d things are there, want 4", report, err, s.left(t, d))
	}
	if err := run.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for i := s.issued(t); i.Process.Alive(); time.Sleep(time.Millisecond) {
	}
	report, err = Recover(t.Context(), s.LockedDomain, false)
	if err != nil || len(report.Fixed) != 3 || len(report.Left) > 0 || s.left(t, d) != 0 {
		t.Errorf("dead: %+v, %v; %d things are there", report, err, s.left(t, d))
	}
}

func (s *locked) issued(t *testing.T) instants.Instant {
	t.Helper()
	ledger, err := s.Ledger()
	if err != nil {
		t.Fatal(err)
	}
	i, _ := ledger.Find(other)
	return i
}

// left counts what exists of the other run: checkpoint, identity, socket, scratch file.
func (s *locked) left(t *testing.T, d *testdomain.Domain) (n int) {
	t.Helper()
	n = len(d.Checkpoints())
	if s.issued(t).Identity != "" {
		n++
	}
	for _, path := range []string{s.Socket(other), s.Scratch(other, "vda")} {
		if _, err := os.Stat(path); err == nil {
			n++
		}
	}
	return n
}

// A point's checkpoint.xml that belongs to another point is not redefined, even if it is
// undamaged: bitmaps of another instant would be used as those of the point.
func TestCheckpointXMLOfAnotherPoint(t *testing.T) {
	t.Parallel()
	s, _ := onDomain(t)
	first := s.issue(t, own)
	second, err := s.Lock.Issue(instants.Instant{Point: "check2", Identity: other, Checkpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []instants.Instant{first, second} {
		m := s.seal(t, i, fmt.Sprintf("<domaincheckpoint><name>%s</name><description>%s</description><disks><disk name='vda' checkpoint='bitmap'/><disk name='vdx' checkpoint='bitmap'/></disks></domaincheckpoint>",
			second.CheckpointName(), checkpoint.Description(s.Repo.ID(), second.Point)))
		c, err := newRecoverer(s.LockedDomain).document(absent{m, i})
		var gone *goneError
		if errors.As(err, &gone) != (i == first) || err != nil && i == second {
			t.Errorf("%s: %v", i.Point, err)
		}
		if i == second && (len(c.Disks) != 1 || c.Disks[0].Target != "vda") { // libvirt refuses a disk that the domain does not have
			t.Errorf("%s is to be defined again for %v", i.Point, c.Disks)
		}
	}
}

// seal makes a point without disks.
func (s *locked) seal(t *testing.T, i instants.Instant, checkpointXML string) manifest.Manifest {
	t.Helper()
	p, err := s.Lock.Begin(i.Point, i.Identity)
	if err != nil {
		t.Fatal(err)
	}
	m := manifest.Manifest{ID: i.Point, Kind: manifest.KindFull, Checkpoint: i.CheckpointName(), Domain: "vm1",
		DomainUUID: s.Domain.UUID(), Time: i.Time, Consistency: manifest.ConsistencyCrash}
	if err := errors.Join(p.WriteFile(manifest.DomainXML, []byte("<domain/>")), p.WriteFile("checkpoint.xml", []byte(checkpointXML)), p.Seal(m)); err != nil {
		t.Fatal(err)
	}
	if m, err = s.Repo.Point("vm1", i.Point); err != nil {
		t.Fatal(err)
	}
	return m
}
