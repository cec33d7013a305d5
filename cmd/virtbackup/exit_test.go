package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

func TestReport(t *testing.T) {
	damaged := &damage.Error{Points: []damage.Point{{Domain: "vm1", ID: "check2", Err: errors.New("no manifest")}}}
	bug := &panics.Error{Value: "boom", Stack: []byte("goroutine 1")}
	tests := []struct {
		name string
		err  error
		code int
		hint string // "" none
	}{
		{"done", nil, 0, ""},
		{"warnings", errWarned, 3, ""},
		{"anything", errors.New("boom"), 1, ""},
		{"command line", fail.Errorf(fail.Usage, "virtbackup --help", "wrong"), 2, "virtbackup --help"},
		{"request of a backup", backup.Request{Wanted: plan.Wanted{Kind: "nonsense"}}.Validate(), 2, "virtbackup --help"},
		{"request of a restore", fail.Errorf(fail.Usage, "", ""), 2, ""},
		{"remote", hypervisor.ErrRemote, 2, "on the host that the domain runs on"},
		{"not a repository", repository.ErrNotRepository, 2, "--repo"},
		{"absent repository", repository.ErrAbsent, 2, "virtbackup init DIR makes"},
		{"too many open files", fmt.Errorf("open: %w", syscall.EMFILE), 1, "LimitNOFILE"},
		{"locked", &repository.LockedError{Domain: "vm1", PID: 7}, 4, "another run"},
		{"damaged", damaged, 5, "virtbackup verify"},
		{"damaged, and not found", errors.Join(damaged, fail.Errorf(fail.NotFound, "", "")), 5, "virtbackup verify"},
		{"no disk or point", fail.Errorf(fail.NotFound, "", ""), 6, ""},
		{"nothing to restore", fail.Errorf(fail.NotFound, "", ""), 6, ""},
		{"no domain", hypervisor.ErrNoDomain, 6, "virsh list"},
		{"no checkpoint", hypervisor.ErrNoCheckpoint, 6, "checkpoint list"},
		{"no point", manifest.ErrNoPoint, 6, "virtbackup list"},
		{"no disk in a point", repository.ErrNoDisk, 6, ""},
		{"unreachable", hypervisor.ErrUnreachable, 1, "libvirtd"},
		{"not running", hypervisor.ErrNotRunning, 1, "virsh start"},
		{"another UUID", &repository.OtherDomainError{Name: "vm1"}, 1, "another repository"},
		{"newer format", manifest.ErrNewerFormat, 1, "newest virtbackup"},
		{"refused checkpoint", checkpoint.Refuse(checkpoint.Checkpoint{}), 1, "--force"},
		{"disk full", &fs.PathError{Op: "write", Path: "/r/vda", Err: syscall.ENOSPC}, 1, "free space"},
		{"file too large", &fs.PathError{Op: "write", Path: "/r/vda", Err: syscall.EFBIG}, 1, "ulimit -f"},
		{"quota", syscall.EDQUOT, 1, "free space"},
		{"read-only", syscall.EROFS, 1, "mounted read-only"},
		{"not allowed", syscall.EACCES, 1, "as root"},
		{"interrupted", &signalError{syscall.SIGINT}, 130, "cleaned up"},
		{"terminated", fmt.Errorf("copy: %w", &signalError{syscall.SIGTERM}), 143, "cleaned up"},
		{"a bug", fmt.Errorf("copy: %w", bug), 70, "please report it"},
		{"a bug, and damage", errors.Join(damaged, bug), 70, "please report it"},
		{"a bug that a warning hid", withPanic(errWarned, bug), 70, "please report it"},
		{"a bug in one of several", withPanic(&severalError{of: 2, names: []string{"vm1"}, errs: []error{damaged}}, bug), 70, "please report it"},
		{"a bug that a warning hid, and a signal for another", withPanic(&severalError{of: 2, names: []string{"vm2"}, errs: []error{&signalError{syscall.SIGTERM}}}, bug), 143, "please report it"},
		{"a bug after a signal", errors.Join(bug, &signalError{syscall.SIGTERM}), 143, "please report it"},
		{"hung up, and more", errors.Join(&signalError{syscall.SIGHUP}, damaged), 129, "cleaned up"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wrapped := tt.err
			if wrapped != nil && wrapped != errWarned {
				wrapped = fmt.Errorf("copy disk vda: %w", tt.err)
			}
			var b bytes.Buffer
			if code := report(&b, wrapped); code != tt.code {
				t.Errorf("exit %d, want %d", code, tt.code)
			}
			checkReport(t, b.String(), wrapped != nil && wrapped != errWarned, tt.hint)
		})
	}
}

func checkReport(t *testing.T, text string, isError bool, hint string) {
	t.Helper()
	if !isError {
		if text != "" {
			t.Errorf("it says %q", text)
		}
		return
	}
	said, got, _ := strings.Cut(text, "\nhint: ")
	if !strings.HasPrefix(said, "error: copy disk vda: ") || (hint == "") != (got == "") || !strings.Contains(got, hint) {
		t.Errorf("it says %q, want the hint %q", text, hint)
	}
}

// A signal is the normal end of a server, and anything beside it is a failure.
func TestServersEndBySignal(t *testing.T) {
	signal := &signalError{syscall.SIGTERM}
	for _, tt := range []struct {
		err  error
		want *signalError
	}{
		{nil, nil},
		{signal, signal},
		{errors.Join(errors.Join(signal, nil), nil), signal},
		{errors.Join(signal, fs.ErrPermission), nil},
		{fmt.Errorf("read: %w", signal), nil},
		{fs.ErrPermission, nil},
	} {
		if got := signalAlone(tt.err); got != tt.want {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
	var b bytes.Buffer
	if code := report(&b, &servedError{signal}); code != 143 || b.Len() > 0 {
		t.Errorf("exit %d, %q", code, &b)
	}
}

// A user with a libvirt of their own must not be sent to root.
func TestHintForSessions(t *testing.T) {
	for uri, want := range map[string]string{"qemu:///session": "--scratch-dir", "qemu:///system": "as root"} {
		app := newApp(&bytes.Buffer{}, &bytes.Buffer{})
		app.Action = func(c *cli.Context) error {
			return forSession(c, fmt.Errorf("open: %w", fs.ErrPermission))
		}
		if err := app.Run([]string{"virtbackup", "--connect", uri}); !strings.Contains(hintFor(err), want) || exitCode(err) != exitFailed {
			t.Errorf("%s: %v, hint %s", uri, err, hintFor(err))
		}
	}
}
