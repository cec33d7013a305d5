package nbdserver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newImage makes a qcow2 image of a backing file and an overlay, and returns
// the overlay.
func newImage(t *testing.T, dir string) string {
	t.Helper()
	base, top := filepath.Join(dir, "base"), filepath.Join(dir, "top")
	for _, args := range [][]string{
		{"qemu-img", "create", "-q", "-f", "qcow2", base, "4M"},
		{"qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 64k", base},
		{"qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	return top
}

func TestServe(t *testing.T) {
	s, err := Serve(context.Background(), newImage(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("qemu-io", "-r", "-f", "raw", "-c", "read -P 7 1M 64k", "nbd+unix:///?socket="+s.Socket()).CombinedOutput()
	if err != nil || strings.Contains(string(out), "failed") {
		t.Errorf("%v\n%s", err, out)
	}
	s.Stop()
	gone(t, s)
}

// gone checks that nothing is left of a server.
func gone(t *testing.T, s *Server) {
	t.Helper()
	if _, err := os.Stat(s.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
	if err := syscall.Kill(s.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("its process is left: %v", err)
	}
}

func TestServeErrors(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	if _, err := Serve(context.Background(), filepath.Join(t.TempDir(), "absent")); err == nil ||
		!strings.Contains(err.Error(), "No such file") {
		t.Errorf("an image that does not exist: %v", err)
	}
	boom := errors.New("boom")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(boom)
	if _, err := Serve(ctx, newImage(t, t.TempDir())); err == nil {
		t.Error("a context that has ended: no error")
	}
	left, err := filepath.Glob(filepath.Join(tmp, "virtbackup-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
}

// When ctx ends, the server does.
func TestServeEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Serve(ctx, newImage(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-s.exited:
	case <-time.After(5 * time.Second):
		t.Error("it still runs")
	}
	s.Stop()
	gone(t, s)
}

// When this process is killed before anybody has connected, the server ends.
func TestServeEndsWithProcess(t *testing.T) {
	if image := os.Getenv("NBDSERVER_TEST_IMAGE"); image != "" {
		s, err := Serve(context.Background(), image)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("pid=" + strconv.Itoa(s.cmd.Process.Pid) + "\n")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	cmd := exec.Command(os.Args[0], "-test.run=TestServeEndsWithProcess")
	// It leaves the directory of its socket behind.
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "NBDSERVER_TEST_IMAGE="+newImage(t, t.TempDir()))
	out, _ := cmd.Output()
	_, text, _ := strings.Cut(string(out), "pid=")
	text, _, _ = strings.Cut(text, "\n")
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for deadline := time.Now().Add(5 * time.Second); !ended(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it still runs")
		}
	}
}

// ended tells whether a process is gone, or a zombie that nobody has waited for.
func ended(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}
