package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
	"github.com/virtbackup/virtbackup/xml"
)

// jobDir is a new directory for the socket and the scratch files of a job.
func jobDir(s *testsite.Site) string {
	s.T.Helper()
	dir := filepath.Join(testdomain.TempDir(s.T), "run")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		s.T.Fatal(err)
	}
	return dir
}

// foreignJob begins a backup job as another tool would.
func foreignJob(s *testsite.Site) {
	s.T.Helper()
	beginJob(s, filepath.Join(jobDir(s), "foreign.sock"), "vda")
}

// beginJob begins a backup job of some disks with a socket.
func beginJob(s *testsite.Site, socket string, targets ...string) {
	s.T.Helper()
	disks := ""
	for _, d := range s.Disks {
		if !slices.Contains(targets, d.Target) {
			disks += fmt.Sprintf(`<disk name='%s' backup='no'/>`, d.Target)
			continue
		}
		disks += fmt.Sprintf(`<disk name='%s' backup='yes' type='file'><scratch file='%s.%s.scratch'/></disk>`, d.Target, socket, d.Target)
	}
	file := filepath.Join(s.Dir, "job.xml")
	testsite.WriteFile(s.T, file, fmt.Sprintf(`<domainbackup mode='pull'><server transport='unix' socket='%s'/><disks>%s</disks></domainbackup>`, socket, disks))
	testdomain.Virsh(s.T, "backup-begin", s.Name, file)
}

// jobSocket is the socket of the running job.
func jobSocket(s *testsite.Site) string {
	s.T.Helper()
	job, err := xml.ParseBackup(testdomain.Virsh(s.T, "backup-dumpxml", s.Name))
	if err != nil {
		s.T.Fatal(err)
	}
	return job.Socket
}

// Another tool ends the job before everything has been read: the error says that, and not
// only what the reader saw. The run is stopped before its first connection. If it had closed
// one, before the copy, QEMU 7.2 sometimes hung in qmp_nbd_server_stop, in aio_poll for that
// connection, and libvirtd's only thread for the events of all domains with it.
func TestJobEndedInMidCopy(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}))
	s.Write("vda", 0, 1<<20, 0x41)
	s.BackUp(0, "full")
	for _, step := range []string{"tails"} {
		p := s.StartBroken("step "+step+" before:pause", nil, "inc")
		testsite.AwaitStopped(t, p)
		s.AbortJob()
		testsite.Continue(p)
		wantFailed(t, p.Wait(), "the backup job of domain "+s.Name+" is gone", "hint: virsh domjobabort")
		s.NoPartial()
		s.WantCheckpoints("check1")
	}
	s.BackUp(0, "inc")
	s.Check()
}

// Another tool ends the job when everything has been read: it is unknown how long the job
// protected the reads, so no point is sealed and nothing is left behind. The same holds if
// another job has replaced it.
func TestJobEndedByOthers(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 8 << 20}))
	s.Write("vda", 0, 1<<20, 0x41)
	first := s.BackUp(0, "full").Point
	const before, proving = "step end before", "prove"
	for _, c := range []struct {
		name, at string
		another  func(socket string) // begins another job; socket is that of the run
		left     bool
	}{
		{"ended", before, func(string) {}, false},
		{"another one begun", before, func(string) { foreignJob(s) }, true},
		{"another one begun that is proven", proving, func(string) { beginJob(s, filepath.Join(jobDir(s), "sock"), "vda", "vdb") }, true},
		{"one begun at the same socket, without a disk", before, func(socket string) { beginJob(s, socket, "vda") }, false},
		{"one begun at the socket of a run that is dead", before, func(socket string) {
			own := strings.LastIndex(socket, "-") + 1
			beginJob(s, socket[:own]+first.Identity+".sock", "vda", "vdb")
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.Write("vda", 2<<20, 1<<20, 0x42)
			p := s.StartBroken(c.at+":pause", nil, "inc")
			testsite.AwaitStopped(t, p)
			socket := jobSocket(s)
			s.AbortJob()
			c.another(socket)
			// Without the job nothing keeps the old content for the reader.
			s.Write("vda", 2<<20, 1<<20, 0x43)
			testsite.Continue(p)
			wantFailed(t, p.Wait(), "the backup job of domain "+s.Name+" is gone", "hint: ")
			if s.HasJob() != c.left {
				t.Errorf("a job: %v", s.HasJob())
			}
			if s.HasJob() {
				s.AbortJob()
			}
			s.NoPartial()
			s.WantCheckpoints("check1")
		})
	}
	s.BackUp(0, "inc")
	s.Check()
}
