package testdomain

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// toolTime is how long any one tool (virsh, qemu-img, e2fsck) may run. The slowest, a
// conversion of a large disk on a busy machine, takes seconds.
const toolTime = 3 * time.Minute

// Tool runs a command and returns its standard output. Anything but exit
// status 0 ends the test, with the command line and all that it printed.
func Tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := tryTool(t, name, args...)
	if err != nil {
		t.Fatalf("%s: %v", line(name, args), err)
	}
	return out
}

// TryTool is Tool for commands that may fail.
func TryTool(t testing.TB, name string, args ...string) error {
	t.Helper()
	_, err := tryTool(t, name, args...)
	return err
}

// tryTool is Tool for commands that may fail; standard error goes into the
// test's log and into the error.
func tryTool(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	out, stderr, err := command(name, args...)
	if stderr != "" {
		t.Logf("$ %s\n%s", line(name, args), stderr)
	}
	return out, err
}

// command runs a tool to its end, or for toolTime.
func command(name string, args ...string) (stdout, stderr string, err error) {
	return commandWithin(toolTime, name, args...)
}

// commandWithin runs a tool to its end, or for as long as most.
func commandWithin(most time.Duration, name string, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "", "", err
	}
	limit := time.AfterFunc(most, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	if !limit.Stop() && err != nil {
		err = errors.Join(errors.New("took longer than "+most.String()), err)
	}
	stderr = strings.TrimSpace(errs.String())
	if err != nil {
		err = errors.Join(err, errors.New(strings.TrimSpace(out.String()+"\n"+stderr)))
	}
	return out.String(), stderr, err
}

// line is a command line as one would type it in a shell.
func line(name string, args []string) string {
	words := []string{name}
	for _, arg := range args {
		if arg == "" || strings.ContainsAny(arg, " '\"{}$\\") {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// URI is the libvirt connection that all tests use.
const URI = "qemu:///system"

// Virsh runs virsh on URI and returns its standard output.
func Virsh(t testing.TB, args ...string) string {
	t.Helper()
	return Tool(t, "virsh", append([]string{"-q", "-c", URI}, args...)...)
}

// TryVirsh is Virsh for commands that may fail.
func TryVirsh(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return tryTool(t, "virsh", append([]string{"-q", "-c", URI}, args...)...)
}
