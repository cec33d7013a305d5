package nights

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// programs runs backups and the program under test, kills some of them, and keeps the last
// lines of what was done.
type programs struct {
	t      *testing.T
	backup string // command makepoint of this package
	binary string // virtbackup, with points of package fault
	trace  string // a file
	repo   string
	// points are those of package fault that each command has passed, by name, with how often.
	points map[string]map[string]int
	took   map[string]time.Duration // the last run of each command
	log    []string
}

func newPrograms(t *testing.T, dir, repo string) *programs {
	t.Helper()
	return &programs{t: t, backup: testdomain.Build(t, "./tests/nights/makepoint"), binary: testdomain.FaultyBinary(t), trace: filepath.Join(dir, "trace"),
		repo: repo, points: map[string]map[string]int{}, took: map[string]time.Duration{}}
}

// result is how a program ended.
type result struct {
	code           int
	killed         bool
	stdout, stderr string
	usage          *syscall.Rusage
}

// logLines is how much is printed when something goes wrong.
const logLines = 150

func (p *programs) note(format string, args ...any) {
	p.log = append(p.log, fmt.Sprintf(format, args...))
	if len(p.log) > 2*logLines {
		p.log = slices.Clone(p.log[logLines:])
	}
}

// virtbackup runs the program under test; r, if set, kills it somewhere.
func (p *programs) virtbackup(r *rand.Rand, args ...string) result {
	p.t.Helper()
	return p.run(r, args[0], p.binary, args...)
}

// run runs a program to its end. With r it is killed, at a point of package fault that this
// command has passed before, or at any moment; it may have ended by then.
func (p *programs) run(r *rand.Rand, command, program string, args ...string) result {
	p.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "VIRTBACKUP_REPO="+p.repo)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	var how string
	after := 2 * time.Minute
	switch {
	case r == nil:
		cmd.Env = append(cmd.Env, "VIRTBACKUP_FAULT_TRACE="+p.trace)
	case r.IntN(2) == 0 && len(p.points[command]) > 0:
		how = p.point(r, command)
		cmd.Env = append(cmd.Env, "VIRTBACKUP_FAULT="+how+":kill")
	default:
		after = time.Duration(r.Int64N(int64(p.took[command])*5/4 + int64(time.Millisecond)))
		how = after.String()
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	done := result{code: cmd.ProcessState.ExitCode(), killed: status.Signaled(), stdout: out.String(), stderr: errs.String(),
		usage: cmd.ProcessState.SysUsage().(*syscall.Rusage)}
	if r == nil {
		p.took[command] = time.Since(start)
		p.learn(command)
	}
	p.note("$ %s %s\n%s%s[exit %d, killed %v %s]", filepath.Base(program), strings.Join(args, " "), done.stdout, done.stderr, done.code, done.killed, how)
	if done.killed && r == nil {
		p.t.Fatalf("%s: still runs after %v", command, after)
	}
	return done
}

// point chooses one of the points, by its name first.
func (p *programs) point(r *rand.Rand, command string) string {
	var names []string
	for name := range p.points[command] {
		names = append(names, name)
	}
	slices.Sort(names)
	name := names[r.IntN(len(names))]
	return fmt.Sprintf("%s#%d", name, 1+r.IntN(p.points[command][name]))
}

// learn reads the trace of a run.
func (p *programs) learn(command string) {
	text, err := os.ReadFile(p.trace)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err := errors.Join(err, os.Remove(p.trace)); err != nil {
		p.t.Fatal(err)
	}
	if p.points[command] == nil {
		p.points[command] = map[string]int{}
	}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "#")
		p.points[command][name] = max(p.points[command][name], strings.Count(string(text), name+"#"))
	}
}
