//go:build cgo

package nbdcopy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// server is an NBD server that runs for the length of a test.
type server struct {
	socket string
	cmd    *exec.Cmd
	ended  chan struct{}
}

// serve starts a server, and returns when it takes connections. SOCKET and
// PIDFILE in its arguments are replaced.
func serve(t testing.TB, name string, args ...string) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{socket: filepath.Join(dir, "s"), ended: make(chan struct{})}
	if len(s.socket) > 107 { // sun_path, unix(7)
		t.Fatalf("the path of a unix socket is too long: %s", s.socket)
	}
	pidFile := filepath.Join(dir, "pid") // both servers write it once they listen
	for i := range args {
		args[i] = strings.NewReplacer("SOCKET", s.socket, "PIDFILE", pidFile).Replace(args[i])
	}
	s.cmd = exec.Command(name, args...)
	s.cmd.Stderr = &logWriter{t: t, name: name}
	t.Log(s.cmd)
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("this test needs %s: %v", name, err)
	}
	go func() {
		defer close(s.ended)
		_ = s.cmd.Wait() // its end is the test's matter; also ends the writing to the log
	}()
	t.Cleanup(s.kill)
	for deadline := time.After(10 * time.Second); ; {
		if data, _ := os.ReadFile(pidFile); bytes.HasSuffix(data, []byte("\n")) {
			return s
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-s.ended:
			t.Fatalf("%s ended: %s", s.cmd, s.cmd.ProcessState)
		case <-deadline:
			t.Fatalf("%s does not listen", s.cmd)
		}
	}
}

// kill ends the server at once, and waits for its end.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// logWriter sends what a child process says to the test's log.
type logWriter struct {
	t    testing.TB
	name string
}

func (w *logWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s: %s", w.name, bytes.TrimRight(p, "\n"))
	return len(p), nil
}

// qemuNBD serves an image read-only to any number of clients, as libvirt's
// backup job does.
func qemuNBD(t testing.TB, format, image string, more ...string) *server {
	t.Helper()
	args := []string{"--read-only", "--persistent", "--shared=0", "--socket=SOCKET", "--pid-file=PIDFILE",
		"--export-name=vda", "--format=" + format}
	return serve(t, "qemu-nbd", append(append(args, more...), image)...)
}

// nbdkit serves what its plugin makes up, as export "".
func nbdkit(t testing.TB, args ...string) *server {
	t.Helper()
	return serve(t, "nbdkit", append([]string{"--foreground", "--readonly", "--unix=SOCKET", "--pidfile=PIDFILE"}, args...)...)
}

// run runs a tool to its end.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	t.Log(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// watchLeaks fails the test if it leaves a goroutine or a file descriptor
// behind. Call it once the servers run.
func watchLeaks(t *testing.T) (check func()) {
	t.Helper()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	return func() {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Second); runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines, before %d:\n%s", runtime.NumGoroutine(), goroutines,
					stacks[:runtime.Stack(stacks, true)])
				break
			}
		}
		if n := openFiles(t); n > files {
			t.Errorf("%d open files, before %d", n, files)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
