package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A signal in mid-copy ends the run in order: the run says so, leaves nothing behind and
// changes nothing, and the next run works as usual.
func TestSignals(t *testing.T) {
	s := testsite.Slow(t)
	before := s.Everything(nil)
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGXCPU}
	for n, signal := range signals {
		id := fmt.Sprintf("check%d", n+2) // numbers are not used again
		p := s.Stopped("full", s.Name)
		p.Signal(signal)
		p.Signal(syscall.SIGCONT)
		r := p.Wait()
		if r.Code != 128+int(signal) {
			t.Errorf("%s: exit %d", signal, r.Code)
		}
		for _, words := range []string{signal.String() + ": cleaning up", "ending the backup job", "deleting checkpoint " + id,
			"removing the unfinished point " + id, "\nerror: ", "ended by signal: " + signal.String()} {
			if !strings.Contains(r.Stderr, words) {
				t.Errorf("%s: it does not say %q", signal, words)
			}
		}
		for _, words := range []string{"context canceled", "goroutine"} {
			if strings.Contains(r.Stderr, words) {
				t.Errorf("%s: it speaks of a %s", signal, words)
			}
		}
		if r.Stdout != "" {
			t.Errorf("%s: standard output: %s", signal, r.Stdout)
		}
		if after := s.Everything(nil); after != before {
			t.Errorf("%s has changed something: before\n%s\nafter\n%s", signal, before, after)
		}
	}
	if id, want := s.BackUp(0, "inc").Point.ID, fmt.Sprintf("check%d", len(signals)+2); id != want {
		t.Errorf("the next point is %s, want %s", id, want)
	}
	testsite.WantKinds(t, s.Points[1].Manifest, "vda inc, vdb inc")
	s.Check()
}

// Signals that are no request to end do not end a run: those that programs use for their own
// purposes, and SIGHUP under nohup.
func TestSignalsThatEndNothing(t *testing.T) {
	s := testsite.Slow(t)
	script := filepath.Join(s.Dir, "nohup")
	testsite.WriteFile(t, script, fmt.Sprintf("#!/bin/sh\ntrap '' HUP\nexec %s \"$@\"\n", testdomain.Binary(t)))
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Program.Binary = script
	truth := s.Truths()
	p := s.Stopped("--json", "inc", s.Name)
	for _, signal := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGPIPE, syscall.SIGXFSZ, syscall.SIGHUP} {
		p.Signal(signal)
	}
	p.Signal(syscall.SIGCONT)
	s.Add(p.Wait(), truth)
	s.Check()
}

// The reader of the output may close it, or never have opened it: a run goes on to its end.
// A command that only prints ends silently, as SIGPIPE would end it.
func TestNobodyReads(t *testing.T) {
	s := testsite.Slow(t)
	gone := func(stderr bool, args ...string) (code int, said string) {
		t.Helper()
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = read.Close()
		defer write.Close()
		var text strings.Builder
		cmd := exec.Command(testdomain.Binary(t), args...)
		cmd.Env = append(os.Environ(), s.Program.Env...)
		cmd.Stdout, cmd.Stderr = write, &text
		if stderr {
			cmd.Stderr = write
		}
		_ = cmd.Run()
		return cmd.ProcessState.ExitCode(), text.String()
	}
	before := s.Footprint()
	if code, said := gone(false, "list", s.Name); code != 128+int(syscall.SIGPIPE) || said != "" {
		t.Errorf("list: exit %d, %s", code, said)
	}
	if after := s.Footprint(); after != before {
		t.Errorf("list has changed something: %s, was %s", after, before)
	}
	for n, stderr := range []bool{true, false} {
		code, said := gone(stderr, "--verbose", "inc", s.Name)
		if code == 1 || code < 0 || strings.Contains(said, "removing") {
			t.Errorf("inc: exit %d, %s", code, said)
		}
		if want := []string{"check1", "check2", "check3"}[:n+2]; !slices.Equal(s.Labels(), want) || s.HasJob() {
			t.Errorf("the checkpoints are %v, want %v; a job is left: %v", s.Labels(), want, s.HasJob())
		}
		s.Program.Must(t, nil, "verify", fmt.Sprintf("%s@check%d", s.Name, n+2))
	}
	closed := testdomain.Program{Binary: "sh", Env: s.Program.Env}
	truth := s.Truths()
	s.Add(closed.Must(t, nil, "-c", `exec "$0" --json --verbose inc "$1" 2>&-`, testdomain.Binary(t), s.Name), truth)
	s.Check()
}

// A signal during the first run removes the repository that the run has made.
func TestSignalInTheFirstRun(t *testing.T) {
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 512 << 20}))
	s.Write("vda", 0, 384<<20, 0x42)
	if err := os.RemoveAll(s.Repo); err != nil {
		t.Fatal(err)
	}
	before := s.Everything(nil)
	p := s.Stopped("full", s.Name)
	p.Signal(syscall.SIGINT)
	p.Signal(syscall.SIGCONT)
	if r := p.Wait(); r.Code != 130 {
		t.Errorf("exit %d, want 130", r.Code)
	}
	if after := s.Everything(nil); after != before {
		t.Errorf("something is left: before\n%s\nafter\n%s", before, after)
	}
}

// A second run for the same domain fails at once and leaves the first one alone.
func TestSecondRun(t *testing.T) {
	s := testsite.Slow(t)
	truth := s.Truths()
	p := s.Stopped("--json", "inc", s.Name)
	want := testsite.Reject(4, fmt.Sprintf("domain %s is locked by process %d", s.Name, p.Cmd.Process.Pid), "another run")
	for _, args := range [][]string{{"inc", s.Name}, {"full", s.Name}, {"checkpoint", "delete", s.Name, "check1", "--force"}} {
		s.Rejects(want, args)
	}
	s.Program.Must(t, nil, "list", s.Name)
	p.Signal(syscall.SIGCONT)
	r := p.Wait()
	if r.Code != 0 {
		t.Fatalf("the first run: exit %d", r.Code)
	}
	s.Add(r, truth)
	s.Check()
}

// A run that was killed leaves its job, checkpoint and partial point; the next
// one says what it found, cleans up, and succeeds.
func TestKill(t *testing.T) {
	s := testsite.Slow(t)
	listed := testsite.Listing(t, filepath.Join(s.Repo, s.Name, "check1"))
	p := s.Stopped("inc", s.Name)
	p.Signal(syscall.SIGKILL)
	p.Wait()
	if !s.HasJob() || !slices.Contains(s.Labels(), "check2") {
		t.Fatal("the killed run has left no job or no checkpoint: nothing to clean up")
	}
	if got := s.Program.Must(t, nil, "list", s.Name, "--json").Stdout; strings.Count(got, `"id"`) != 1 {
		t.Errorf("an unfinished point is listed: %s", got)
	}
	s.CheckRestored(s.Points[0], "raw")

	truth := s.Truths()
	r := s.Program.Must(t, nil, "--json", "inc", s.Name)
	var result backup.Result
	if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"a backup job", "checkpoint check2", "the unfinished point .partial-check2"} {
		testsite.WantSaid(t, result.Recovered, words)
		if !strings.Contains(r.Stderr, "cleaned up after an earlier run: "+words) {
			t.Errorf("it does not say that it has cleaned up %q", words)
		}
	}
	s.Add(r, truth)
	testsite.WantKinds(t, result.Point, "vda inc, vdb inc")
	if now := testsite.Listing(t, filepath.Join(s.Repo, s.Name, "check1")); now != listed {
		t.Errorf("the older point has changed: %s, was %s", now, listed)
	}
	if partial, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".partial-*")); len(partial) != 0 {
		t.Errorf("left: %q", partial)
	}
	if files, _ := filepath.Glob(fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/*%.8s*", s.UUID)); len(files) != 0 {
		t.Errorf("left: %q", files)
	}
	s.Check()
}

// A signal during a restore removes what it has made.
func TestSignalInARestore(t *testing.T) {
	s := testsite.Slow(t)
	s.BackUp(0, "inc")
	to := filepath.Join(s.Dir, "a", "restored")
	p := s.Program.Start(t, "restore", s.Name, "--to", to)
	for {
		if _, err := os.Stat(filepath.Join(to, "vda.qcow2.partial")); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	p.Signal(syscall.SIGTERM)
	if r := p.Wait(); r.Code != 143 || !strings.Contains(r.Stderr, "terminated: cleaning up") {
		t.Errorf("exit %d", r.Code)
	}
	if left := testsite.Listing(t, filepath.Dir(to)); left != " absent" {
		t.Errorf("left: %s", left)
	}
}
