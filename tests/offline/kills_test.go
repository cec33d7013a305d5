package offline

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// The process that reads the images is killed: the run fails and says so, and nothing is left.
func TestDaemonIsKilled(t *testing.T) {
	for _, point := range []string{"disks served", "copy buffer#1", "step copy after"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.StartBroken(point+":pause", nil, "inc")
			testsite.AwaitStopped(t, p)
			for _, pid := range daemons(s) {
				n, _ := strconv.Atoi(pid)
				if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			testsite.Continue(p)
			if r := p.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, "it has ended") {
				t.Errorf("exit %d", r.Code)
			}
			wantClean(s)
			s.WantCheckpoints("check1")
			s.Start()
			s.WriteAll(3)
			testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb rescan")
			s.Check()
		})
	}
}

// killedAdd is a qemu-img that is killed while it adds a bitmap, when it has the image open for
// writing: what that leaves is made by qemu-io.
const killedAdd = `#!/bin/sh
case "$*" in
"bitmap --add"*) qemu-io -f qcow2 -c "sigraise 9" %s; kill -9 $$ ;;
esac
exec %s "$@"
`

// qemu-img is killed while it adds a bitmap, which leaves all bitmaps of the image invalid: the run
// stores what it was to store or fails, the next one compares that disk, and the chain goes on.
func TestKilledWhileABitmapIsAdded(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.Destroy()
	program := withQemuImg(s, fmt.Sprintf(killedAdd, s.Disk("vda").Source, "@REAL@"))
	if r := program.Run(t, "inc", s.Name); r.Code != 1 || !strings.Contains(r.Stderr, "cannot be used any more") {
		t.Errorf("exit %d", r.Code)
	}
	wantClean(s)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan, vdb inc")
	testsite.WantSaid(t, inc.Warnings, "is missing or broken")
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Start()
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// withQemuImg is virtbackup with a script in the place of qemu-img, in which @REAL@ is the real one.
func withQemuImg(s *testsite.Site, script string) testdomain.Program {
	s.T.Helper()
	bin := filepath.Join(s.Dir, "bin")
	real := strings.TrimSpace(testdomain.Tool(s.T, "sh", "-c", "command -v qemu-img"))
	testsite.WriteFile(s.T, filepath.Join(bin, "qemu-img"), strings.ReplaceAll(script, "@REAL@", real))
	if err := os.Chmod(filepath.Join(bin, "qemu-img"), 0o755); err != nil {
		s.T.Fatal(err)
	}
	program := s.Program
	program.Env = append(slices.Clone(program.Env), "PATH="+bin+":"+os.Getenv("PATH"))
	return program
}

// The addition of a bitmap fails after it was made: nobody would find it again, since the checkpoint does
// not have it, and so it is removed.
func TestFailedAddition(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.Destroy()
	script := "#!/bin/sh\n@REAL@ \"$@\" || exit\ncase \"$*\" in\n\"bitmap --add\"*" + s.Disk("vda").Source + "*) echo 'it fails' >&2; exit 1 ;;\nesac\n"
	truth := s.Truths()
	inc := s.Add(withQemuImg(s, script).Must(t, []int{3}, "--json", "inc", s.Name), truth)
	testsite.WantSaid(t, inc.Warnings, "disk vda has no bitmap in checkpoint check2")
	if info := testdomain.Tool(t, "qemu-img", "info", s.Disk("vda").Source); strings.Contains(info, "check2.") {
		t.Errorf("a bitmap is left: %s", info)
	}
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan, vdb inc")
	s.Check()
}

// A writer is killed after the bitmaps were added, which loses the new one: a full does not need the
// others, and fails all the same, since its checkpoint would be worth nothing.
func TestNewBitmapIsLost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	wantFailed(s, "add bitmap after", "full", "has lost the bitmap", func() {
		_ = exec.Command("qemu-io", "-f", "qcow2", "-c", "write 0 64k", "-c", "sigraise 9", s.Disk("vda").Source).Run()
	})
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan, vdb rescan")
	s.Check()
}

// A signal ends a run in mid-copy: the domain can start at once.
func TestSignal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.Program.Start(t, "full", s.Name, "--limit-rate", "2M")
	testsite.Await(t, "socket of the storage daemon", 0, func() bool { return served(s) })
	p.Signal(syscall.SIGTERM)
	if r := p.Wait(); r.Code != 128+15 {
		t.Errorf("exit %d", r.Code)
	}
	s.Start()
	wantClean(s)
	s.WantCheckpoints("check1")
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb rescan")
	s.Check()
}

// virtbackup is killed in mid-copy: the process that reads the images ends with it.
func TestKilledInMidCopy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.Program.Start(t, "full", s.Name, "--limit-rate", "2M")
	testsite.Await(t, "socket of the storage daemon", 0, func() bool { return served(s) })
	if len(daemons(s)) == 0 {
		t.Fatal("nothing reads the images")
	}
	p.Signal(syscall.SIGKILL)
	p.Wait()
	s.Start()
	if left := daemons(s); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	s.Destroy()
	report := s.Recovered(0)
	testsite.WantList(t, "left", report.Left)
	wantClean(s)
	if info := testdomain.Tool(t, "qemu-img", "info", s.Disk("vda").Source); strings.Contains(info, "check2.") {
		t.Errorf("a bitmap is left: %s", info)
	}
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb rescan")
	s.Check()
}
