package tests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// abortJob ends the backup job of the domain as somebody else would, and waits
// until it is gone.
func (s *site) abortJob() {
	s.t.Helper()
	testdomain.Virsh(s.t, "domjobabort", s.Name)
	await(s.t, "end of the job", 0, func() bool { return !s.HasJob() })
}

// foreignJob begins a backup job as another tool would.
func (s *site) foreignJob() {
	s.t.Helper()
	dir := filepath.Join(testdomain.TempDir(s.t), "run")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.Dir, "job.xml")
	write(s.t, file, fmt.Sprintf(`<domainbackup mode='pull'><server transport='unix' socket='%s/foreign.sock'/>`+
		`<disks><disk name='vda' backup='yes' type='file'><scratch file='%s/foreign.scratch'/></disk></disks></domainbackup>`, dir, dir))
	testdomain.Virsh(s.t, "backup-begin", s.Name, file)
}

// Somebody else ends the job before all has been read: that is said, and not only what
// the reader meets.
func TestJobEndedInMidCopy(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}))
	s.Write("vda", 0, 1<<20, 0x41)
	s.backUp(0, "full")
	for _, step := range []string{"copy", "tails"} {
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
	s.backUp(0, "full")
	for name, other := range map[string]func(){
		"ended": s.abortJob,
		"ended, and another one begun": func() {
			s.abortJob()
			s.foreignJob()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.Write("vda", 2<<20, 1<<20, 0x42)
			p := s.startBroken("step end before:pause", nil, "inc")
			awaitStopped(t, p)
			other()
			// Without the job nothing keeps the old content for the reader.
			s.Write("vda", 2<<20, 1<<20, 0x43)
			continueStopped(p)
			wantFailed(t, p.Wait(), "the backup job of domain "+s.Name+" is gone", "hint: ")
			if s.HasJob() != (name != "ended") {
				t.Errorf("a job: %v", s.HasJob())
			} else if s.HasJob() {
				s.abortJob()
			}
			s.noPartial()
			s.wantCheckpoints("check1")
		})
	}
	s.backUp(0, "inc")
	s.check()
}
