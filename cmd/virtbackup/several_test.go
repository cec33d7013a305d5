package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/repository"
)

// The exit code of several domains is that of the gravest end, whatever the order.
func TestGravest(t *testing.T) {
	order := []int{exitSignal + 15, exitBug, exitDamaged, exitFailed, exitUsage, exitNotFound, exitLocked, exitWarning, exitDone}
	for i, want := range order {
		for _, less := range order[i:] {
			if a, b := gravest([]int{want, less, exitDone}), gravest([]int{exitDone, less, want}); a != want || b != want {
				t.Errorf("%d and %d: %d, %d, want %d", want, less, a, b, want)
			}
		}
	}
}

// ended is how a domain of that name ends.
func ended(cancel func()) func(domain string) (any, bool, error) {
	return func(domain string) (any, bool, error) {
		switch domain {
		case "locked":
			return nil, false, &repository.LockedError{Domain: domain}
		case "broken":
			return nil, false, errors.New("boom")
		case "buggy":
			panic("out of my depth")
		case "cut":
			cancel()
			return nil, false, &signalError{syscall.SIGTERM}
		}
		return map[string]string{"domain": domain}, domain == "warned", nil
	}
}

func runSeveral(t *testing.T, isJSON bool, stdout io.Writer, domains ...string) (stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var said bytes.Buffer
	app := newApp(terminal.NewScreen(stdout), &said)
	app.Action = func(c *cli.Context) error {
		return several[any]{what: "done", do: ended(cancel), print: func(w io.Writer, result any) error {
			_, err := fmt.Fprintln(w, result)
			return err
		}}.run(c, domains)
	}
	args := []string{"virtbackup"}
	if isJSON {
		args = append(args, "--json")
	}
	code = report(&said, app.RunContext(ctx, args))
	return said.String(), code
}

// One failure does not stop the others, nor does a panic; a signal does.
func TestSeveral(t *testing.T) {
	for line, tt := range map[string]struct {
		code   int
		stderr string // its last line
		done   string
	}{
		"a b":             {0, "", "a b"},
		"a warned b":      {3, "", "a warned b"},
		"warned locked b": {4, "error: 1 of 3 domains were not done: locked", "warned b"},
		"locked broken b": {1, "error: 2 of 3 domains were not done: locked, broken", "b"},
		"locked":          {4, "hint: another run of virtbackup works on this domain: wait until it has ended", ""},
		"broken buggy b":  {70, "error: 2 of 3 domains were not done: broken, buggy", "b"},
		"buggy cut b":     {143, "error: 3 of 3 domains were not done: buggy, cut; not begun: b", ""},
	} {
		t.Run(line, func(t *testing.T) {
			var stdout bytes.Buffer
			stderr, code := runSeveral(t, true, &stdout, strings.Fields(line)...)
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			if code != tt.code || lines[len(lines)-1] != tt.stderr {
				t.Errorf("exit %d, %s", code, stderr)
			}
			var results []struct {
				Domain, Error, Hint string
				ExitCode            int `json:"exit_code"`
			}
			if err := json.Unmarshal(stdout.Bytes(), &results); err != nil {
				t.Fatalf("%v: %s", err, stdout.String())
			}
			var done []string
			for _, r := range results {
				if r.Error == "" {
					done = append(done, r.Domain)
					continue
				}
				if r.ExitCode == 0 || r.Domain == "" || r.Domain == "locked" && r.Hint == "" {
					t.Errorf("the failure %+v", r)
				}
			}
			if got := strings.Join(done, " "); got != tt.done {
				t.Errorf("done: %s", got)
			}
		})
	}
}

// fullOutput is standard output on /dev/full.
type fullOutput struct{}

func (fullOutput) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// What was done is done, whether it can be reported or not.
func TestReportThatCannotBePrinted(t *testing.T) {
	for _, isJSON := range []bool{false, true} {
		if stderr, code := runSeveral(t, isJSON, fullOutput{}, "a", "b"); code != exitWarning || !strings.Contains(stderr, "warning: done, but the report") {
			t.Errorf("JSON %t: exit %d, %s", isJSON, code, stderr)
		}
	}
	dir := t.TempDir() + "/repo"
	var stderr bytes.Buffer
	if code := run(context.Background(), []string{"virtbackup", "init", dir}, fullOutput{}, &stderr); code != exitWarning {
		t.Errorf("init: exit %d, %s", code, stderr.String())
	}
	stderr.Reset()
	code := run(context.Background(), []string{"virtbackup", "--repo", dir, "list"}, fullOutput{}, &stderr)
	if code != exitFailed || !strings.Contains(stderr.String(), "standard output: no space left on device") || strings.Contains(stderr.String(), "removed") {
		t.Errorf("list: exit %d, %s", code, stderr.String())
	}
}

// An error of one of several domains says which, also where its text has the name by chance.
func TestNamed(t *testing.T) {
	for _, c := range []struct{ domain, text, want string }{
		{"vm1", "look up domain vm1: not found", "look up domain vm1: not found"},
		{"vm1", "copy disk vda of domain vm1", "copy disk vda of domain vm1"},
		{"vm1", "boom", "domain vm1: boom"},
		{"vm1", "domain vm10 is locked", "domain vm1: domain vm10 is locked"},
		{"a", "no space left on device", "domain a: no space left on device"},
		{"srv", "mkdir /srv/backup/other: file exists", "domain srv: mkdir /srv/backup/other: file exists"},
	} {
		if got := named(c.domain, errors.New(c.text)).Error(); got != c.want {
			t.Errorf("%s: %q, want %q", c.domain, got, c.want)
		}
	}
}
