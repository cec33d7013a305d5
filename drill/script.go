package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/tail"
)

const (
	// keptOutput is how much is kept of what a script prints, in bytes: the end.
	keptOutput = 16 << 10
	// termTime is how long a script may take to end after SIGTERM.
	termTime = 5 * time.Second
)

// runScript has a program of the administrator judge the guest. It is told the names of domains,
// and where libvirt is.
func (d *drill) runScript(ctx context.Context) error {
	if err := fault.Point("drill: run script"); err != nil {
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, d.ScriptTimeout, errTooLong)
	defer cancel()
	output := tail.New(keptOutput)
	cmd := exec.CommandContext(limited, d.Script, d.domain.Name(), d.URI)
	cmd.Env = append(os.Environ(), "LIBVIRT_DEFAULT_URI="+d.URI, "VIRTBACKUP_DRILL_DOMAIN="+d.domain.Name(), "VIRTBACKUP_DRILL_UUID="+d.domain.UUID(),
		"VIRTBACKUP_DRILL_OF="+d.point.Domain, "VIRTBACKUP_DRILL_POINT="+d.point.ID)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its children end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = termTime
	start := time.Now()
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it has left; mostly nothing
	}
	d.result.Script = &record.Script{Path: d.Script, ExitCode: -1, Seconds: round(time.Since(start)), Output: output.String()}
	if cmd.ProcessState != nil {
		d.result.Script.ExitCode = cmd.ProcessState.ExitCode()
	}
	return d.judge(limited, err)
}

// judge makes an error of how the script has ended.
func (d *drill) judge(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, exec.ErrWaitDelay) && d.result.Script.ExitCode == 0 {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errTooLong) {
		return cause
	}
	if failure := d.server.failure(); failure != nil {
		return d.unreadable(failure)
	}
	said := ""
	if lines := strings.Split(strings.TrimSpace(d.result.Script.Output), "\n"); lines[len(lines)-1] != "" {
		said = ": " + cut(lines[len(lines)-1], keptLine)
	}
	switch {
	case errors.Is(context.Cause(ctx), errTooLong):
		return d.notBooted("--script-timeout 15m", "the script %s did not end within %s%s", d.Script, d.ScriptTimeout, said)
	case d.result.Script.ExitCode < 0:
		return fmt.Errorf("run the script: %w", err)
	}
	return d.notBooted("its whole output is in the record", "the script %s says so, with exit status %d%s", d.Script, d.result.Script.ExitCode, said)
}
