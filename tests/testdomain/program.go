package testdomain

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Root is the top of the source tree.
func Root(t testing.TB) string {
	t.Helper()
	return root()
}

func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// build is a program, built once for each test process.
type build struct {
	once sync.Once
	from string // package
	tags string
	err  error
}

// The program under test.
var plain, faulty = build{from: "./cmd/virtbackup"}, build{from: "./cmd/virtbackup", tags: "faults"}

var (
	built   = map[string]*build{} // programs of tests, by their packages
	builtMu sync.Mutex
)

// Build builds a program of the tests, with the tag faults, and returns its path. from is its
// package, such as "./tests/nights/makepoint".
func Build(t testing.TB, from string) string {
	t.Helper()
	builtMu.Lock()
	if built[from] == nil {
		built[from] = &build{from: from, tags: "faults"}
	}
	b := built[from]
	builtMu.Unlock()
	return b.path(t)
}

// binaries is the directory of what was built; Main removes it.
func binaries() string { return filepath.Join("/var/tmp", prefix+"bin") }

func (b *build) path(t testing.TB) string {
	t.Helper()
	file := filepath.Join(binaries(), filepath.Base(b.from)+b.tags)
	b.once.Do(func() {
		cmd := exec.Command("go", "build", "-tags", b.tags, "-o", file, b.from)
		cmd.Dir = root()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = errors.Join(err, errors.New(string(out)))
		}
	})
	if b.err != nil {
		t.Fatalf("build %s: %v", b.from, b.err)
	}
	return file
}

// Binary is the path of virtbackup, built from the present source tree by the first test that
// asks. VIRTBACKUP_BINARY names another one to test.
func Binary(t testing.TB) string {
	t.Helper()
	if b := os.Getenv("VIRTBACKUP_BINARY"); b != "" {
		return b
	}
	return plain.path(t)
}

// FaultyBinary is the same, built so that VIRTBACKUP_FAULT breaks it (package fault).
// VIRTBACKUP_FAULTY_BINARY names one that has been built already.
func FaultyBinary(t testing.TB) string {
	t.Helper()
	if b := os.Getenv("VIRTBACKUP_FAULTY_BINARY"); b != "" {
		return b
	}
	return faulty.path(t)
}

// Program says how to run virtbackup: with which environment, and where.
type Program struct {
	Binary string        // the program; "": Binary
	Env    []string      // added to the test's own environment
	Dir    string        // working directory; "": the test's
	Max    time.Duration // after which it is killed and the test ends; 0: 5 minutes
}

// Result is the result of one run.
type Result struct {
	Code           int // exit status; 128+N where signal N ended it without its own doing
	Stdout, Stderr string
}

// Run runs virtbackup to its end. Its output goes to the test's log.
func (p Program) Run(t testing.TB, args ...string) Result {
	t.Helper()
	return p.Start(t, args...).Wait()
}

// Must is Run for a command that must end with one of the exit statuses given, or with 0 if
// none is given.
func (p Program) Must(t testing.TB, codes []int, args ...string) Result {
	t.Helper()
	r := p.Run(t, args...)
	if len(codes) == 0 {
		codes = []int{0}
	}
	for _, code := range codes {
		if r.Code == code {
			return r
		}
	}
	t.Fatalf("%s: exit %d, want %v", line("virtbackup", args), r.Code, codes)
	return r
}

// Process is a running virtbackup.
type Process struct {
	Cmd         *exec.Cmd
	t           testing.TB
	args        []string
	out, errors bytes.Buffer
	limit       *time.Timer
	ended       chan struct{}
}

// Start starts virtbackup; Wait must follow. A process that still runs when
// the test ends is killed.
func (p Program) Start(t testing.TB, args ...string) *Process {
	t.Helper()
	startHypervisor(t)
	most := p.Max
	if most == 0 {
		most = 5 * time.Minute
	}
	program := p.Binary
	if program == "" {
		program = Binary(t)
	}
	r := &Process{Cmd: exec.Command(program, args...), t: t, args: args, ended: make(chan struct{})}
	r.Cmd.Env = append(os.Environ(), p.Env...)
	r.Cmd.Dir = p.Dir
	r.Cmd.Stdout, r.Cmd.Stderr = &r.out, &r.errors
	r.Cmd.WaitDelay = time.Second
	if err := r.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.limit = time.AfterFunc(most, func() {
		t.Errorf("%s: still runs after %s", line("virtbackup", args), most)
		_ = r.Cmd.Process.Kill()
	})
	t.Cleanup(r.end)
	return r
}

// end kills a process that was not waited for.
func (r *Process) end() {
	select {
	case <-r.ended:
	default:
		_ = r.Cmd.Process.Kill()
		r.Wait()
	}
}

// Signal sends a signal to it.
func (r *Process) Signal(s os.Signal) {
	r.t.Helper()
	if err := r.Cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// AwaitEnd waits for its end, but leaves reaping it to Wait, so that /proc still has it.
func (r *Process) AwaitEnd() {
	r.t.Helper()
	for {
		err := unix.Waitid(unix.P_PID, r.Cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EINTR) {
			r.t.Errorf("wait for %s: %v", line("virtbackup", r.args), err)
			return
		}
	}
}

// Wait waits for its end. It may be called once.
func (r *Process) Wait() Result {
	r.t.Helper()
	err := r.Cmd.Wait()
	r.limit.Stop()
	close(r.ended)
	result := Result{Code: r.Cmd.ProcessState.ExitCode(), Stdout: r.out.String(), Stderr: r.errors.String()}
	if s := signalOf(r.Cmd.ProcessState); s != 0 {
		result.Code = 128 + s
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Errorf("%s: %v", line("virtbackup", r.args), err)
	}
	r.t.Logf("$ %s\n%s%s[exit %d]", line("virtbackup", r.args), result.Stdout, result.Stderr, result.Code)
	return result
}
