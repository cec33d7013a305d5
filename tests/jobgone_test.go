package tests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/xml"
)

// abortJob ends the backup job of the domain as somebody else would, and waits
// until it is gone.
func (s *site) abortJob() {
	s.t.Helper()
	testdomain.Virsh(s.t, "domjobabort", s.Name)
	await(s.t, "end of the job", 0, func() bool { return !s.HasJob() })
}

// jobDir is a new directory for the socket and the scratch files of a job.
func (s *site) jobDir() string {
	s.t.Helper()
	dir := filepath.Join(testdomain.TempDir(s.t), "run")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// foreignJob begins a backup job as another tool would.
func (s *site) foreignJob() {
	s.t.Helper()
	s.beginJob(filepath.Join(s.jobDir(), "foreign.sock"), "vda")
}

// beginJob begins a backup job of some disks with a socket.
func (s *site) beginJob(socket string, targets ...string) {
	s.t.Helper()
	disks := ""
	for _, d := range s.Disks {
		if !slices.Contains(targets, d.Target) {
			disks += fmt.Sprintf(`<disk name='%s' backup='no'/>`, d.Target)
			continue
		}
		disks += fmt.Sprintf(`<disk name='%s' backup='yes' type='file'><scratch file='%s.%s.scratch'/></disk>`, d.Target, socket, d.Target)
	}
	file := filepath.Join(s.Dir, "job.xml")
	write(s.t, file, fmt.Sprintf(`<domainbackup mode='pull'><server transport='unix' socket='%s'/><disks>%s</disks></domainbackup>`, socket, disks))
	testdomain.Virsh(s.t, "backup-begin", s.Name, file)
}

// jobSocket is the socket of the running job.
func (s *site) jobSocket() string {
	s.t.Helper()
	job, err := xml.ParseBackup(testdomain.Virsh(s.t, "backup-dumpxml", s.Name))
	if err != nil {
		s.t.Fatal(err)
	}
	return job.Socket
}

// Somebody else ends the job before all has been read: that is said, and not only what
// the reader meets. The run is stopped before its first connection: with one that it had
// closed, before the copy, QEMU 7.2 hung now and then in qmp_nbd_server_stop, in aio_poll for
// that connection, and libvirtd's only thread for the events of all domains with it.
func TestJobEndedInMidCopy(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}))
	s.Write("vda", 0, 1<<20, 0x41)
	s.backUp(0, "full")
	for _, step := range []string{"tails"} {
		p := s.startBroken("step "+step+" before:pause", nil, "inc")
		awaitStopped(t, p)
		s.abortJob()
		continueStopped(p)
		wantFailed(t, p.Wait(), "the backup job of domain "+s.Name+" is gone", "hint: virsh domjobabort")
		s.noPartial()
		s.wantCheckpoints("check1")
	}
	s.backUp(0, "inc")
	s.check()
}

// Somebody else ends the job when all has been read: until when it protected the
// reads nobody knows, so no point is sealed and nothing is left. So it is where
// another job has taken its place.
func TestJobEndedByOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 8 << 20}))
	s.Write("vda", 0, 1<<20, 0x41)
	first := s.backUp(0, "full").Point
	const before, proving = "step end before", "prove"
	for _, c := range []struct {
		name, at string
		another  func(socket string) // begins another job; socket is that of the run
		left     bool
	}{
		{"ended", before, func(string) {}, false},
		{"another one begun", before, func(string) { s.foreignJob() }, true},
		{"another one begun that is proven", proving, func(string) { s.beginJob(filepath.Join(s.jobDir(), "sock"), "vda", "vdb") }, true},
		{"one begun at the same socket, without a disk", before, func(socket string) { s.beginJob(socket, "vda") }, false},
		{"one begun at the socket of a run that is dead", before, func(socket string) {
			own := strings.LastIndex(socket, "-") + 1
			s.beginJob(socket[:own]+first.Identity+".sock", "vda", "vdb")
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.Write("vda", 2<<20, 1<<20, 0x42)
			p := s.startBroken(c.at+":pause", nil, "inc")
			awaitStopped(t, p)
			socket := s.jobSocket()
			s.abortJob()
			c.another(socket)
			// Without the job nothing keeps the old content for the reader.
			s.Write("vda", 2<<20, 1<<20, 0x43)
			continueStopped(p)
			wantFailed(t, p.Wait(), "the backup job of domain "+s.Name+" is gone", "hint: ")
			if s.HasJob() != c.left {
				t.Errorf("a job: %v", s.HasJob())
			}
			if s.HasJob() {
				s.abortJob()
			}
			s.noPartial()
			s.wantCheckpoints("check1")
		})
	}
	s.backUp(0, "inc")
	s.check()
}
