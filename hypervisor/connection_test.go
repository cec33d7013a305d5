package hypervisor

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
)

func TestCheckLocal(t *testing.T) {
	for uri, remote := range map[string]bool{
		"":                                  false,
		"qemu:///system":                    false,
		"qemu:///session":                   false,
		"qemu+unix:///system?socket=/run/x": false,
		"qemu://localhost/system":           false,
		"qemu+tcp://[::1]:16509/system":     false,
		"qemu+ssh://root@host1/system":      true,
		"qemu://host1.example.org/system":   true,
		"qemu+tls://192.0.2.1:16514/system": true,
		"xen+ssh://host1/":                  true,
	} {
		if err := checkLocal(uri); errors.Is(err, ErrRemote) != remote || !remote && err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
	if _, err := Connect("qemu+ssh://host1/system"); !errors.Is(err, ErrRemote) {
		t.Errorf("Connect to another host: %v", err)
	}
}

func TestConnectUnreachable(t *testing.T) {
	for _, uri := range []string{
		"qemu+unix:///system?socket=" + t.TempDir() + "/none",
		"nonsense:///x",
		"qemu:///system\x7f",
	} {
		if _, err := Connect(uri); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

func TestVersions(t *testing.T) {
	libvirtVersion, qemuVersion, err := connect(t).Versions()
	must(t, err)
	t.Logf("libvirt %s, QEMU %s", libvirtVersion, qemuVersion)
	dots := regexp.MustCompile(`^[1-9]\d*\.\d+\.\d+$`)
	if !dots.MatchString(libvirtVersion) || !dots.MatchString(qemuVersion) {
		t.Error("not a version")
	}
	if got := dotted(11_003_007); got != "11.3.7" {
		t.Errorf("dotted = %s", got)
	}
}

func TestClosed(t *testing.T) {
	conn, err := Connect("qemu:///system")
	must(t, err)
	must(t, conn.Close())
	must(t, conn.Close())
	if _, err := conn.Domains(); !errors.Is(err, errClosed) {
		t.Errorf("a call after Close: %v", err)
	}
}

func TestSeconds(t *testing.T) {
	for timeout, want := range map[time.Duration]int{
		0: 1, time.Millisecond: 1, time.Second: 1, 1001 * time.Millisecond: 2, time.Minute: 60,
	} {
		if got := int(seconds(timeout)); got != want {
			t.Errorf("seconds(%s) = %d, want %d", timeout, got, want)
		}
	}
}

func TestStateOf(t *testing.T) {
	for _, test := range []struct {
		code   libvirt.DomainState
		reason libvirt.DomainPausedReason
		want   State
		text   string
	}{
		{libvirt.DOMAIN_RUNNING, 0, Running, "running"},
		{libvirt.DOMAIN_SHUTDOWN, 0, Running, "running"},
		{libvirt.DOMAIN_PAUSED, libvirt.DOMAIN_PAUSED_USER, Paused, "paused"},
		{libvirt.DOMAIN_PAUSED, libvirt.DOMAIN_PAUSED_IOERROR, PausedForIO, "paused (I/O error)"},
		{libvirt.DOMAIN_CRASHED, 0, Paused, "paused"},
		{libvirt.DOMAIN_SHUTOFF, 0, ShutOff, "shut off"},
		{libvirt.DOMAIN_NOSTATE, 0, ShutOff, "shut off"},
	} {
		if got := stateOf(test.code, int(test.reason)); got != test.want || got.String() != test.text {
			t.Errorf("stateOf(%d, %d) = %v, want %v", test.code, test.reason, got, test.want)
		}
	}
}

// TestDaemonRestart: a libvirtd of our own, with libvirt's test driver behind it, is killed and started again.
func TestDaemonRestart(t *testing.T) {
	d := startDaemon(t)
	conn, err := Connect(d.uri)
	must(t, err)
	defer func() { must(t, conn.Close()) }()
	domain, err := conn.Domain("test")
	must(t, err)

	d.stop(t)
	d.start(t)
	if active, err := domain.Active(); !active || err != nil {
		t.Errorf("after a restart: Active = %v, %v", active, err)
	}

	d.stop(t)
	started := make(chan struct{})
	go func() { // the daemon comes back while the call waits for it
		defer close(started)
		time.Sleep(time.Second)
		d.start(t)
	}()
	// once is for calls like BackupBegin: it has to notice the restart before the call, not in it.
	if err := domain.once(func(*libvirt.Domain) error { return nil }); err != nil {
		t.Errorf("after a slow restart: %v", err)
	}
	<-started
}

// TestDaemonHangs: a daemon that accepts connections and does not answer.
func TestDaemonHangs(t *testing.T) {
	d := startDaemon(t)
	must(t, d.cmd.Process.Signal(syscall.SIGSTOP))
	start := time.Now()
	_, err := open(d.uri, time.Second)
	if took := time.Since(start); !errors.Is(err, ErrUnreachable) || took > 10*time.Second {
		t.Errorf("after %s: %v", took, err)
	}
	must(t, d.cmd.Process.Signal(syscall.SIGCONT))
}

// daemon is an unprivileged libvirtd with its own directories, which does not know of the system's.
type daemon struct {
	dir string
	uri string
	cmd *exec.Cmd
}

func startDaemon(t *testing.T) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "vbtest-hyp-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	uid, gid := nobody(t)
	must(t, os.Chown(dir, uid, gid))
	socket := filepath.Join(dir, "libvirt", "libvirt-sock")
	d := &daemon{dir: dir, uri: "test+unix:///default?socket=" + socket}
	d.start(t)
	t.Cleanup(func() { d.stop(t) })
	return d
}

func nobody(t *testing.T) (uid, gid int) {
	t.Helper()
	account, err := user.Lookup("nobody")
	must(t, err)
	uid, err = strconv.Atoi(account.Uid)
	must(t, err)
	gid, err = strconv.Atoi(account.Gid)
	must(t, err)
	return uid, gid
}

// start runs the daemon and waits for its socket. It may be called from another goroutine.
func (d *daemon) start(t *testing.T) {
	uid, gid := nobody(t)
	d.cmd = exec.Command("libvirtd", "--timeout", "60") // seconds without a client; should the test itself be killed
	d.cmd.Dir = d.dir
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "XDG_RUNTIME_DIR=" + d.dir,
		"XDG_CONFIG_HOME=" + d.dir, "XDG_CACHE_HOME=" + d.dir, "XDG_DATA_HOME=" + d.dir}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if err := d.cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	for range 600 {
		if conn, err := open(d.uri, time.Second); err == nil {
			closeQuietly(conn)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the daemon did not come up")
}

func (d *daemon) stop(t *testing.T) {
	t.Helper()
	must(t, d.cmd.Process.Kill())
	_ = d.cmd.Wait() // "signal: killed"
}
