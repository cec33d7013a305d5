package bench

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sample is what one turn of one contestant cost. Bytes and seconds.
type sample struct {
	Wall   float64 `json:"wall"`
	User   float64 `json:"user"`          // of all processes that it started
	System float64 `json:"system"`        // likewise
	Peak   int64   `json:"peak"`          // resident memory; of processes side by side the sum
	Cached int64   `json:"cached"`        // of the result, in the page cache
	Stored int64   `json:"stored"`        // space that the result takes
	Gap    float64 `json:"gap,omitempty"` // the largest between two commits of the guest meanwhile
	Data   int64   `json:"data"`          // that a copy of the whole disk has to store

	Written int64 `json:"written,omitempty"` // to the device, where that can be counted
	Live    int64 `json:"live,omitempty"`    // of a repository: data of its listed points

	latencies []time.Duration // of the guest's writes meanwhile
}

// turn is one run of one contestant.
type turn struct {
	t *testing.T
	sample
	dir    string // new, empty, on the disk, for what it makes; removed afterwards
	result string // what it made: dir, or a part of what lasts longer
	image  string // below result, the image to compare with the source; "" none
	helper *process
}

// longest is the time limit of any one process: twenty times what the slowest takes.
const longest = 15 * time.Minute

// process is a running program. Its output is kept for errors.
type process struct {
	*exec.Cmd
	t      *testing.T
	output bytes.Buffer
	limit  *time.Timer
}

func start(t *testing.T, in io.Reader, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(name, args...), t: t}
	p.Stdin, p.Stdout, p.Stderr = in, &p.output, &p.output
	p.Env = append(os.Environ(), env...)
	p.WaitDelay = time.Second
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.limit = time.AfterFunc(longest, func() { p.Process.Kill() })
	return p
}

// wait waits for the end, which must be exit status 0 unless it was told to end.
func (p *process) wait(told bool) {
	p.t.Helper()
	err := p.Wait()
	p.limit.Stop()
	if err != nil && !told {
		p.t.Fatalf("%s: %v\n%s", strings.Join(p.Args, " "), err, p.output.String())
	}
}

// peak is the largest resident memory of the process, or of one that it waited
// for, in bytes. A process starts with the peak of the one that forked it, so
// forgetPeak comes first.
func (p *process) peak() int64 {
	return p.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
}

// forgetPeak resets the peak of this process to its present memory; see proc(5).
func forgetPeak() {
	os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// run runs a program to its end, as part of the turn, and returns its output.
func (r *turn) run(name string, args ...string) string {
	r.t.Helper()
	return r.runWith(nil, nil, name, args...)
}

// runChild lets this binary play a role of child.
func (r *turn) runChild(role string, args ...string) {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	r.runWith(nil, []string{childRole + "=" + role}, self, args...)
}

// runWith is run with standard input and additions to the environment.
func (r *turn) runWith(in io.Reader, env []string, name string, args ...string) string {
	r.t.Helper()
	p := start(r.t, in, env, name, args...)
	p.wait(false)
	r.charge(p)
	r.Peak = max(r.Peak, p.peak())
	return p.output.String()
}

// startHelper starts a program that works beside those of run.
func (r *turn) startHelper(name string, args ...string) {
	r.t.Helper()
	r.helper = start(r.t, nil, nil, name, args...)
	r.t.Cleanup(func() { r.helper.Process.Kill() }) // no-op once it was waited for
}

// endHelper ends it and adds what it cost.
func (r *turn) endHelper() {
	r.t.Helper()
	r.helper.Process.Signal(unix.SIGTERM)
	r.helper.wait(true)
	r.charge(r.helper)
	r.Peak += r.helper.peak()
}

func (r *turn) charge(p *process) {
	r.User += p.ProcessState.UserTime().Seconds()
	r.System += p.ProcessState.SystemTime().Seconds()
}

// sync puts the files at and below path onto stable storage, for contestants
// that do not.
func (r *turn) sync(path string) {
	r.t.Helper()
	for _, file := range regular(r.t, path) {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err == nil {
			err = f.Sync()
			f.Close()
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}
