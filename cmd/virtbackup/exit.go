package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/internal/terminal"
)

// The exit codes. They are documented, and scripts rely on them.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitWarning  = 3
	exitLocked   = 4
	exitDamaged  = 5
	exitNotFound = 6
	exitBug      = 70 // EX_SOFTWARE of sysexits.h
	exitSignal   = 128
)

// errWarned is returned by a command that is done and has printed a warning.
var errWarned = fail.Sentinel(fail.Warned, "", "done, with warnings")

// withPanic adds a panic to err, unless err has it: on its way up it may have become a
// warning.
func withPanic(err error, p *panics.Error) error {
	var several *severalError
	switch {
	case isBug(err), errors.As(err, &several) && slices.ContainsFunc(several.errs, isBug):
		return err
	case errors.Is(err, errWarned):
		return p
	}
	return errors.Join(err, p)
}

func isBug(err error) bool { return fail.Is(err, fail.Bug) }

// readerGone reports whether the reader of standard output has ended, as head does.
func readerGone(err error) bool {
	var output *terminal.OutputError
	return errors.As(err, &output) && errors.Is(output, syscall.EPIPE)
}

// exitCode returns the exit code for an error. No other place decides it.
func exitCode(err error) int {
	var (
		several *severalError
		signal  *signalError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &signal):
		return exitSignal + int(signal.signal)
	case errors.As(err, &several) && (several.exitCode() > exitSignal || !isBug(err)): // a bug beside a signal counts less
		return several.exitCode()
	case readerGone(err) && !isBug(err):
		return exitSignal + int(syscall.SIGPIPE)
	}
	switch fail.KindOf(err) {
	case fail.Bug:
		return exitBug
	case fail.Warned:
		return exitWarning
	case fail.Usage:
		return exitUsage
	case fail.Locked:
		return exitLocked
	case fail.Damaged:
		return exitDamaged
	case fail.NotFound:
		return exitNotFound
	}
	return exitFailed
}

// report prints an error and its hint, and returns the exit code. The errors in a
// severalError were printed before. If only the reader of the output has ended, or a server as
// it should, nothing is printed.
func report(w io.Writer, err error) int {
	code := exitCode(err)
	if _, served := err.(*servedError); served || code == exitDone || code == exitWarning || code == exitSignal+int(syscall.SIGPIPE) {
		return code
	}
	fmt.Fprintf(w, "error: %s\n", terminal.Plain(err.Error()))
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", terminal.Plain(hint))
	}
	var bug *panics.Error
	if errors.As(err, &bug) {
		fmt.Fprintf(w, "%s", bug.Stack)
	}
	return code
}

// hintFor returns the hint of the error itself, or else one for the kernel's error.
func hintFor(err error) string { return cmp.Or(fail.HintOf(err), hintForSystem(err)) }

// hintForSystem returns a hint for an error of the kernel.
func hintForSystem(err error) string {
	switch {
	case errors.Is(err, syscall.EMFILE): // Go's package os has raised the soft limit to the hard one
		return "this process may not open more files: raise the hard limit (ulimit -Hn, LimitNOFILE= in the unit)"
	case errors.Is(err, syscall.ENFILE):
		return "the host has no room for more open files: sysctl fs.file-max"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free space there, or name another directory; what this run had written is removed"
	case errors.Is(err, syscall.EFBIG):
		return "the file system there, or this process (ulimit -f, LimitFSIZE= in the unit), takes no file that large: raise the limit, or name a directory on another file system"
	case errors.Is(err, syscall.EROFS):
		return "the file system is mounted read-only: mount it for writing, or name another directory"
	case errors.Is(err, fs.ErrPermission):
		return "run virtbackup as root, or as a user who may do that"
	}
	return ""
}
