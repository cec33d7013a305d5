package tests

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
	m := disturbed{&matrix{site: newSite(t, d), Rand: newRand(1), numbers: new(numbers)}}
	m.begin()
	return m
}

// during runs an inc, breaks something while it is held at the point, and sees
// that what is listed then is right. Whether the run succeeds is up to it.
func (d disturbed) during(point string, breaks func(*testdomain.Process)) testdomain.Result {
	d.t.Helper()
	d.t.Logf("--- at %q", point)
	d.arrange(&scenario{})
	// More than all buffers of a copy hold: much is still to be read at the second.
	d.Write("vda", 0, 48<<20, byte(1+d.IntN(255)))
	truth := d.truths()
	p := d.startBroken(point+":pause", nil, "inc")
	awaitStopped(d.t, p)
	breaks(p)
	p.Signal(syscall.SIGCONT)
	r := p.Wait()
	d.keepListed(cell{&scenario{}, point, "something else"}, r, truth)
	d.compareAll(cell{&scenario{}, point, "something else"})
	return r
}

// goesOn sees that the next inc succeeds, is right, and leaves nothing.
func (d disturbed) goesOn(codes ...int) {
	d.t.Helper()
	d.change()
	truth := d.truths()
	added := d.add(d.program.Must(d.t, codes, "--json", "inc", d.Name), truth).Point
	if !slices.ContainsFunc(added.Disks, func(k manifest.Disk) bool { return k.Method != manifest.MethodRescan }) {
		// All bitmaps from before are lost, and their checkpoints are gone.
		for i := range d.points[:len(d.points)-1] {
			d.points[i].Checkpoint = ""
		}
	}
	d.wantNothingLeft("the next inc")
	d.check()
}

// cutShort are points at which to break something, all or only the first.
func cutShort(points ...string) []string {
	if allFaults() {
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
				if files, _ := filepath.Glob(d.repo + "/*/.partial*"); len(files) > 0 {
					t.Errorf("left: %v", files)
				}
				d.Start()
				d.goesOn(0, 3)
			})
		}
	}
}

// The connections to the NBD server are cut under a run; the guest lives on.
func TestFaultConnectionCut(t *testing.T) {
	t.Parallel()
	d := newDisturbed(t)
	for _, point := range cutShort("copy buffer#2", "copy buffer#1", "copy buffer#30") {
		r := d.during(point, func(p *testdomain.Process) { cutConnections(t, p.Cmd.Process.Pid) })
		if r.Code != 1 || !strings.Contains(r.Stderr, "NBD") {
			t.Errorf("exit %d, without a word on NBD", r.Code)
		}
		d.wantNothingLeft("the cut")
		d.goesOn(0)
	}
}

// cutConnections ends what a process has open to NBD servers, for both sides.
// QEMU's nbd-server-stop would do that, too, but a QEMU 7.2 that is told so while
// a client negotiates does not answer any more, to nobody.
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

// A disk whose blocks cannot be read, for a while: an nbdkit that can be told to
// fail stands between QEMU and the image.
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
	m.redefine(fmt.Sprintf("<disk type='file' device='disk'>%s<source file='%s'/>", driver, d.Disk("vdb").Source),
		fmt.Sprintf("<disk type='network' device='disk'>%s<source protocol='nbd' name=''><host transport='unix' socket='%s'/></source>", driver, socket))
	d.Start()
	r := m.during("step begin after", func(*testdomain.Process) { write(t, trigger, "") })
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

// serveBreakable serves a file over NBD, whose blocks cannot be read as long as
// the file trigger exists.
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
	await(t, "nbdkit", 10*time.Millisecond, func() bool { return os.Chmod(socket, 0o777) == nil })
}

// insideVariable says that this process is in namespaces of its own.
const insideVariable = "VIRTBACKUP_TEST_INSIDE"

// libvirtd is killed and started again under a run. QEMU, its NBD server and the
// job live on, and the run may succeed or fail. It is a libvirtd of this test's
// own, with its own directories and processes: that of the machine serves others.
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

// runInside runs a test of this program with a hypervisor that nobody else has:
// in namespaces for mounts, processes and networks, with empty directories in
// place of libvirt's. All that it starts ends with it.
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
	d.t.Helper()
	text, err := os.ReadFile("/run/libvirtd.pid")
	if err != nil {
		d.t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		d.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		d.t.Fatal(err)
	}
	await(d.t, "end of libvirtd", time.Millisecond, func() bool { return syscall.Kill(pid, 0) != nil })
	testdomain.StartHypervisor(d.t)
}
