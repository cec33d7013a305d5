package testdomain

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// ours marks, in the environment, every process that a test starts.
const ours = "VIRTBACKUP_TEST_RUN"

// Main is to be called by TestMain of a package with domains. It removes what earlier, killed
// runs left, runs the tests, and fails the run if any of them left a domain, directory,
// socket, scratch file or process:
//
//	func TestMain(m *testing.M) { testdomain.Main(m) }
func Main(m *testing.M) {
	sweep()
	takeSignals()
	if err := os.Setenv(ours, strconv.Itoa(os.Getpid())); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(binaries())
	for _, leak := range leaks() {
		fmt.Println("left behind by the tests:", leak)
		code = max(code, 1)
	}
	os.Exit(code)
}

// takeSignals catches the signals that nohup, or a shell that starts something in the
// background, has set to be ignored. A child process inherits ignored signals, but gets the
// default action for caught ones, so that the programs under test can be ended by them.
func takeSignals() {
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
}

var hypervisor struct {
	once sync.Once
	err  error
}

// startHypervisor starts libvirtd if it does not run. libvirtd outlives the tests, so it does
// not carry their mark. With -short the test is skipped: make unit runs what needs no daemon.
func startHypervisor(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs libvirtd")
	}
	hypervisor.once.Do(func() { hypervisor.err = bringUp() })
	if hypervisor.err != nil {
		t.Fatal(hypervisor.err)
	}
}

// StartHypervisor starts libvirtd again after a test has killed it.
func StartHypervisor(t testing.TB) {
	t.Helper()
	if err := bringUp(); err != nil {
		t.Fatal(err)
	}
}

func bringUp() error {
	cmd := exec.Command(filepath.Join(root(), "scripts/hypervisor.sh"))
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, ours+"=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// places are where a test may have left something, besides libvirt's list of domains:
// directories; the NBD sockets and scratch files of virtbackup; libvirt's checkpoint metadata.
var places = []string{
	"/var/tmp/%s*",
	"/var/lib/libvirt/qemu/virtbackup/*%s*",
	"/var/lib/libvirt/qemu/virtbackup/*/*%s*",
	"/var/lib/libvirt/qemu/checkpoint/%s*/*",
	"/var/log/libvirt/qemu/%s*",
	"/run/virtbackup/*%s*",
	"/run/virtbackup/*/*%s*",
}

// leaks names what this process's tests have left.
func leaks() []string {
	var found []string
	for _, name := range domains(prefix) {
		found = append(found, "domain "+name)
	}
	for _, place := range places {
		files, _ := filepath.Glob(fmt.Sprintf(place, prefix))
		found = append(found, files...)
	}
	return append(found, processes()...)
}

// domains lists those whose names begin with start.
func domains(start string) []string {
	out, _, err := command("virsh", "-q", "-c", URI, "list", "--all", "--name")
	if err != nil {
		return nil
	}
	var names []string
	for _, name := range strings.Fields(out) {
		if strings.HasPrefix(name, start) {
			names = append(names, name)
		}
	}
	return names
}

// processes names every process other than this one that carries this run's mark.
func processes() []string {
	mark := []byte(ours + "=" + strconv.Itoa(os.Getpid()) + "\x00")
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(env, mark) {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		found = append(found, "process "+filepath.Base(filepath.Dir(file))+": "+
			strings.ReplaceAll(string(line), "\x00", " "))
	}
	return found
}

// initialPIDs is the host's own PID namespace (PROC_PID_INIT_INO in the kernel's proc_ns.h).
const initialPIDs = "pid:[4026531836]"

// sweep removes the domains and directories of test processes that no longer
// exist: a test that was killed could not clean up. In a PID namespace of its own this process
// does not see those of others, which may share /var/tmp and libvirtd with it.
func sweep() {
	if ns, err := os.Readlink("/proc/self/ns/pid"); err != nil || ns != initialPIDs {
		return
	}
	for _, name := range domains("vbtest-") {
		if !alive(name) {
			_ = removeDomain(name)
		}
	}
	unmountDead()
	dirs, _ := filepath.Glob("/var/tmp/vbtest-*")
	for _, dir := range dirs {
		if !alive(filepath.Base(dir)) {
			_ = os.RemoveAll(dir)
		}
	}
}

// unmountDead unmounts what they have mounted below their directories: nothing of it is to be
// removed one by one, and no directory can be as long as it is mounted on.
func unmountDead() {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line) // what, where, …
		if len(fields) < 2 {
			continue
		}
		name, ok := strings.CutPrefix(fields[1], "/var/tmp/")
		name, _, _ = strings.Cut(name, "/")
		if ok && strings.HasPrefix(name, "vbtest-") && !alive(name) {
			_ = syscall.Unmount(fields[1], 0)
		}
	}
}

// alive says whether the process in a name vbtest-PID-… exists.
func alive(name string) bool {
	fields := strings.Split(name, "-")
	if len(fields) < 3 {
		return true
	}
	pid, err := strconv.Atoi(fields[1])
	return err != nil || syscall.Kill(pid, 0) != syscall.ESRCH
}

// signalOf is the signal that ended a process, or 0.
func signalOf(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return int(w.Signal())
	}
	return 0
}
