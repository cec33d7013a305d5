package faults

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
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// disturbed is a domain whose run is held at a point while something around it
// breaks.
type disturbed struct{ *matrix }

func newDisturbed(t *testing.T) disturbed {
	t.Helper()
	d := testdomain.New(t, testdomain.Disk{Target: "vda", Size: 64 << 20}, testdomain.Disk{Target: "vdb", Size: 6<<20 + 512})
	return disturbedBy(t, d)
}

func disturbedBy(t *testing.T, d *testdomain.Domain) disturbed {
	t.Helper()
	m := disturbed{&matrix{Site: testsite.New(t, d), Rand: newRand(1), numbers: new(numbers)}}
	m.begin()
	return m
}

// during runs an inc, breaks something while the run is held at the point, and checks that
// what is listed then is right. The run may succeed or fail.
func (d disturbed) during(point string, breaks func(*testdomain.Process)) testdomain.Result {
	d.T.Helper()
	d.T.Logf("--- at %q", point)
	d.arrange(&scenario{})
	// More than all buffers of a copy hold: much is still to be read at the second.
	d.Write("vda", 0, 48<<20, byte(1+d.IntN(255)))
	truth := d.Truths()
	p := d.StartBroken(point+":pause", nil, "inc")
	testsite.AwaitStopped(d.T, p)
	breaks(p)
	p.Signal(syscall.SIGCONT)
	r := p.Wait()
	d.keepListed(cell{&scenario{}, point, "something else"}, r, truth)
	d.compareAll(cell{&scenario{}, point, "something else"})
	return r
}

// goesOn checks that the next inc succeeds, is right, and leaves nothing behind.
func (d disturbed) goesOn(codes ...int) {
	d.T.Helper()
	d.change()
	truth := d.Truths()
	added := d.Add(d.Program.Must(d.T, codes, "--json", "inc", d.Name), truth).Point
	if !slices.ContainsFunc(added.Disks, func(k manifest.Disk) bool { return k.Method != manifest.MethodRescan }) {
		// All earlier bitmaps are lost, and their checkpoints are deleted.
		for i := range d.Points[:len(d.Points)-1] {
			d.Points[i].Checkpoint = ""
		}
	}
	d.wantNothingLeft("the next inc")
	d.Check()
}

// cutShort are points at which to break something, all or only the first.
func cutShort(points ...string) []string {
	if testsite.AllFaults() {
		return points
	}
	return points[:1]
}

// QEMU dies, or the domain is destroyed, while a run goes on.
func TestFaultQEMUDies(t *testing.T) {
	t.Parallel()
	for how, end := range map[string]func(disturbed){
		"killed":    func(d disturbed) { d.Kill() },
		"destroyed": func(d disturbed) { d.Destroy() },
	} {
		for _, point := range cutShort("copy buffer#2", "step begin after", "step end before", "step end after", "seal: rename point before") {
			t.Run(how+" "+point, func(t *testing.T) {
				d := newDisturbed(t)
				r := d.during(point, func(*testdomain.Process) { end(d) })
				if r.Code == 0 && strings.HasPrefix(point, "copy") {
					t.Error("the run says that it has succeeded")
				}
				if files, _ := filepath.Glob(d.Repo + "/*/.partial*"); len(files) > 0 {
					t.Errorf("left: %v", files)
				}
				d.Start()
				d.goesOn(0, 3)
			})
		}
	}
}

// The connections to the NBD server are cut during a run; the guest runs on.
func TestFaultConnectionCut(t *testing.T) {
	t.Parallel()
	d := newDisturbed(t)
	for _, point := range cutShort("copy buffer#2", "copy buffer#1", "copy buffer#30") {
		r := d.during(point, func(p *testdomain.Process) { cutConnections(t, p.Cmd.Process.Pid) })
		if r.Code != 1 || !strings.Contains(r.Stderr, "NBD") {
			t.Errorf("exit %d, and the error does not mention NBD", r.Code)
		}
		d.wantNothingLeft("the cut")
		d.goesOn(0)
	}
}

// cutConnections shuts down a process's connections to NBD servers, in both directions.
// QEMU's nbd-server-stop would do that, too, but QEMU 7.2 hangs for good if it gets that
// command while a client negotiates.
func cutConnections(t *testing.T, pid int) {
	t.Helper()
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(process)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	cut := 0
	for _, file := range files {
		number, err := strconv.Atoi(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if err != nil {
			t.Fatalf("file %d of process %d: %v", number, pid, err)
		}
		peer, err := unix.Getpeername(fd)
		if address, ok := peer.(*unix.SockaddrUnix); err == nil && ok && strings.Contains(address.Name, "/virtbackup-") {
			if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
				t.Fatal(err)
			}
			cut++
		}
		_ = unix.Close(fd)
	}
	if cut == 0 {
		t.Fatal("there is no connection to cut")
	}
}

// A disk's blocks cannot be read for a while: an nbdkit that can be told to fail serves the
// image to QEMU.
func TestFaultSourceEIO(t *testing.T) {
	t.Parallel()
	d := testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 64 << 20}, testdomain.Disk{Target: "vdb", Size: 6 << 20})
	socket, trigger := filepath.Join(d.Dir, "nbdkit.sock"), filepath.Join(d.Dir, "broken")
	// A server's export does not grow, as the image would.
	if err := os.Truncate(d.Disk("vdb").Source, 32<<20); err != nil {
		t.Fatal(err)
	}
	serveBreakable(t, d.Disk("vdb").Source, socket, trigger)
	const driver = "\n      <driver name='qemu' type='qcow2' discard='unmap'/>\n      "
	m := disturbedBy(t, d)
	m.Redefine(fmt.Sprintf("<disk type='file' device='disk'>%s<source file='%s'/>", driver, d.Disk("vdb").Source),
		fmt.Sprintf("<disk type='network' device='disk'>%s<source protocol='nbd' name=''><host transport='unix' socket='%s'/></source>", driver, socket))
	d.Start()
	r := m.during("step begin after", func(*testdomain.Process) { testsite.WriteFile(t, trigger, "") })
	// QEMU's server answers with an error or closes the connection.
	if r.Code != 1 || !strings.Contains(r.Stderr, "disk vdb") || !strings.Contains(r.Stderr, "bytes at offset") {
		t.Errorf("exit %d, and it does not say where vdb could not be read", r.Code)
	}
	m.wantNothingLeft("EIO")
	if err := os.Remove(trigger); err != nil {
		t.Fatal(err)
	}
	m.goesOn(0)
}

// serveBreakable serves a file over NBD; reads fail as long as the file trigger exists.
func serveBreakable(t *testing.T, file, socket, trigger string) {
	t.Helper()
	cmd := exec.Command("nbdkit", "-f", "-U", socket, "--filter=error", "file", file, "error-pread=EIO", "error-pread-rate=100%", "error-pread-file="+trigger)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	testsite.Await(t, "nbdkit", 10*time.Millisecond, func() bool { return os.Chmod(socket, 0o777) == nil })
}

// insideVariable says that this process is in namespaces of its own.
const insideVariable = "VIRTBACKUP_TEST_INSIDE"

// libvirtd is killed and started again during a run. QEMU, its NBD server and the job live on,
// and the run may succeed or fail. The test has a libvirtd of its own, with its own directories
// and processes, because other tests use the machine's.
func TestFaultLibvirtdDies(t *testing.T) {
	if os.Getenv(insideVariable) == "" {
		t.Parallel()
		runInside(t, "^TestFaultLibvirtdDies$")
		return
	}
	d := newDisturbed(t)
	for _, point := range cutShort("copy buffer#2", "step plan after", "step begin after", "step end before", "step end after", "seal: rename point before", "step retire before") {
		r := d.during(point, func(*testdomain.Process) { d.restartLibvirtd() })
		t.Logf("%s: exit %d", point, r.Code)
		d.goesOn(0)
	}
}

// runInside runs a test of this program with a hypervisor of its own: in new namespaces for
// mounts, processes and networks, with empty directories in place of libvirt's. All that it
// starts ends with it.
func runInside(t *testing.T, test string) {
	t.Helper()
	dir := testdomain.TempDir(t)
	script := `set -eu
cd "$DIR"
mkdir -p lib/qemu lib/images cache log/qemu tmp
chmod 1777 tmp
chown --reference=/var/lib/libvirt/qemu lib/qemu
mkdir -p etc
cp -a /etc/libvirt/*.conf etc
cd "$HERE"
mount -t tmpfs tmpfs /run
mkdir /run/libvirt
mount --bind "$DIR/lib" /var/lib/libvirt
mount --bind "$DIR/etc" /etc/libvirt
mount --bind "$DIR/cache" /var/cache/libvirt
mount --bind "$DIR/log" /var/log/libvirt
mount --bind "$DIR/tmp" /var/tmp
"$PROGRAM" -test.run "$TEST" -test.v`
	cmd := exec.Command("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), insideVariable+"=1", "DIR="+dir, "HERE="+here, "PROGRAM="+program, "TEST="+test)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "\nPASS") {
		t.Errorf("in namespaces of its own: %v", err)
	}
}

func (d disturbed) restartLibvirtd() {
	d.T.Helper()
	text, err := os.ReadFile("/run/libvirtd.pid")
	if err != nil {
		d.T.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		d.T.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		d.T.Fatal(err)
	}
	testsite.Await(d.T, "end of libvirtd", time.Millisecond, func() bool { return syscall.Kill(pid, 0) != nil })
	testdomain.StartHypervisor(d.T)
}
