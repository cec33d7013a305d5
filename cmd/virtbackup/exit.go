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
)

// The exit codes, as docs and scripts know them.
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

// errWarned is returned by a command that is done and has said something worth
// reading.
var errWarned = fail.Sentinel(fail.Warned, "", "done, with warnings")

// withPanic adds to err a panic that it does not say: on its way it has become a
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

// readerGone tells whether what reads standard output has gone, as head does.
func readerGone(err error) bool {
	var output *outputError
	return errors.As(err, &output) && errors.Is(output, syscall.EPIPE)
}

// exitCode is the one place that decides how the program ends.
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

// report prints an error and what to do about it, and returns the exit code.
// What a severalError is made of has been printed before. Where only the reader of
// the output has gone there is nothing to say.
func report(w io.Writer, err error) int {
	code := exitCode(err)
	if code == exitDone || code == exitWarning || code == exitSignal+int(syscall.SIGPIPE) {
		return code
	}
	fmt.Fprintf(w, "error: %s\n", plain(err.Error()))
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", plain(hint))
	}
	var bug *panics.Error
	if errors.As(err, &bug) {
		fmt.Fprintf(w, "%s", bug.Stack)
	}
	return code
}

// hintFor asks the error itself, then the kernel's reasons.
func hintFor(err error) string { return cmp.Or(fail.HintOf(err), hintForSystem(err)) }

// hintForSystem is for what the kernel refuses.
func hintForSystem(err error) string {
	switch {
	case errors.Is(err, syscall.EMFILE): // the soft limit was raised to the hard one by Go's package os
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
