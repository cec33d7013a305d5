package guest

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// blockJob is a block job that another tool begins on vda.
type blockJob struct {
	name  string
	kind  string // as virtbackup calls it
	virsh string // as virsh does
	// begin begins it on the chain base <- middle <- top, and returns the image that vda
	// has once it is over. It takes long.
	begin func(s *testsite.Site, base, middle, top string) (source string)
	// mirror: it stays until it is pivoted.
	mirror bool
	// kinds are those of the disks in the incremental afterwards.
	kinds string
}

const slowly = "--bandwidth=262144" // bytes/s, of 30 MiB: minutes, until the limit is taken away

var blockJobs = []blockJob{
	{"copy", "copy", "Block Copy", func(s *testsite.Site, _, _, _ string) string {
		copied := filepath.Join(s.Dir, "copied")
		testdomain.Virsh(s.T, "blockcopy", s.Name, "vda", copied, "--format", "qcow2", "--transient-job", "--bytes", slowly)
		return copied
	}, true, "vda rescan, vdb inc"},
	{"ready copy", "copy", "Block Copy", func(s *testsite.Site, _, _, _ string) string {
		copied := filepath.Join(s.Dir, "copied")
		testdomain.Virsh(s.T, "blockcopy", s.Name, "vda", copied, "--format", "qcow2", "--transient-job")
		awaitReady(s)
		return copied
	}, true, "vda rescan, vdb inc"},
	{"pull", "pull", "Block Pull", func(s *testsite.Site, _, _, top string) string {
		testdomain.Virsh(s.T, "blockpull", s.Name, "vda", "--bytes", slowly)
		return top
	}, false, "vda rescan, vdb inc"},
	{"commit", "commit", "Block Commit", func(s *testsite.Site, base, middle, top string) string {
		testdomain.Virsh(s.T, "blockcommit", s.Name, "vda", "--top", middle, "--base", base, "--bytes", slowly)
		return top
	}, false, "vda inc, vdb inc"},
	{"active commit", "active commit", "Active Block Commit", func(s *testsite.Site, base, _, _ string) string {
		testdomain.Virsh(s.T, "blockcommit", s.Name, "vda", "--active", "--base", base, "--bytes", slowly)
		return base
	}, true, "vda inc, vdb inc"},
	{"ready active commit", "active commit", "Active Block Commit", func(s *testsite.Site, base, _, _ string) string {
		testdomain.Virsh(s.T, "blockcommit", s.Name, "vda", "--active", "--base", base)
		awaitReady(s)
		return base
	}, true, "vda inc, vdb inc"},
}

// awaitReady returns when the mirror of vda has caught up. virsh --wait, which does the same, was killed after
// three minutes on a busy machine, without a word of how far the mirror was.
func awaitReady(s *testsite.Site) {
	s.T.Helper()
	testsite.Await(s.T, "mirror that is ready", 50*time.Millisecond, func() bool {
		return strings.Contains(testdomain.Virsh(s.T, "dumpxml", s.Name), " ready='yes'>")
	})
}

// A block job of another tool is waited for up to --wait; then the error names it, and says
// what to do. It is never ended. A job that ends in time is no obstacle, and the point is
// right, whatever the job has done to the image and its bitmaps.
func TestBlockJobs(t *testing.T) {
	t.Parallel()
	for _, j := range blockJobs {
		t.Run(j.name, func(t *testing.T) {
			t.Parallel()
			s := testsite.Filled(t)
			s.BackUp(0, "full")
			base, middle, top := s.Disk("vda").Source, filepath.Join(s.Dir, "middle"), filepath.Join(s.Dir, "top")
			for i, overlay := range []string{middle, top} {
				testdomain.Virsh(t, "snapshot-create-as", s.Name, "snap", "--disk-only", "--no-metadata",
					"--diskspec", "vda,file="+overlay, "--diskspec", "vdb,snapshot=no")
				s.Disks[0].Source = overlay
				s.IO("vda", fmt.Sprintf("write -P %#x %dM 15M", 0x51+i, 16*i))
			}
			truth := s.Truths()
			source := j.begin(s, base, middle, top)
			refusedForBlockJob(s, j)
			p := s.Program.Start(t, "--json", "inc", s.Name, "--wait", "2m")
			time.Sleep(time.Second)
			finish(s, j)
			s.Disks[0].Source = source
			inc := s.Add(p.Wait(), truth)
			testsite.WantKinds(t, inc.Point, j.kinds)
			if got := testsite.DiskOf(t, inc.Point, "vda").Source; got != source {
				t.Errorf("the point is of %s, want %s", got, source)
			}
			s.WriteAll(7)
			testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
			s.Check()
		})
	}
}

// refusedForBlockJob checks that a run that does not wait is refused, that a run without the
// disk is not, and that the job goes on.
func refusedForBlockJob(s *testsite.Site, j blockJob) {
	s.T.Helper()
	hint := "virsh blockjob " + s.Name + " vda --info"
	if j.mirror {
		hint = "virsh blockjob " + s.Name + " vda --pivot"
	}
	want := testsite.Reject(1, "domain "+s.Name+" is held by a block job of disk vda that is not ours: "+j.kind+": ", hint)
	r := s.Rejects(want, []string{"inc", s.Name, "--wait", "1s"})
	if !strings.Contains(r.Stderr, "waiting up to 1s for a block job of disk vda") {
		s.T.Error("it does not say that it waits")
	}
	s.Program.Must(s.T, nil, "copy", s.Name, "--wait", "0s", "--exclude", "vda")
	if info := testdomain.Virsh(s.T, "blockjob", s.Name, "vda", "--raw"); !strings.Contains(info, "type="+j.virsh+"\n") {
		s.T.Errorf("the block job is %q, was %s", info, j.virsh)
	}
}

// finish lets a block job end.
func finish(s *testsite.Site, j blockJob) {
	s.T.Helper()
	testdomain.Virsh(s.T, "blockjob", s.Name, "vda", "0") // no limit
	if j.mirror {
		testsite.Await(s.T, "mirror that has caught up", 50*time.Millisecond, func() bool {
			_, err := testdomain.TryVirsh(s.T, "blockjob", s.Name, "vda", "--pivot")
			return err == nil
		})
	}
}

// A snapshot that comes and goes between the plan and the begin of the job gives a disk
// another image: the point would name the one before, with its identity.
func TestSnapshotAfterThePlan(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	p := s.StartBroken("step space before:pause", nil, "inc")
	testsite.AwaitStopped(t, p)
	overlay := filepath.Join(s.Dir, "overlay")
	testdomain.Virsh(t, "snapshot-create-as", s.Name, "snap", "--disk-only", "--no-metadata",
		"--diskspec", "vda,file="+overlay, "--diskspec", "vdb,snapshot=no")
	p.Signal(syscall.SIGCONT)
	if r := p.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, "disk vda of domain "+s.Name+" has another image now") || !strings.Contains(r.Stderr, "a snapshot") {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	s.WantCheckpoints("check1")
	s.Disks[0].Source = overlay
	s.WriteAll(7)
	if got := testsite.DiskOf(t, s.BackUp(0, "inc").Point, "vda").Source; got != overlay {
		t.Errorf("the point is of %s, want %s", got, overlay)
	}
	s.Check()
}
