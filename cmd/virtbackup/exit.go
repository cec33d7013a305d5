package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
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
var errWarned = errors.New("done, with warnings")

// usageError is a command line that is wrong.
type usageError struct{ message, hint string }

func (e *usageError) Error() string { return e.message }
func (e *usageError) Hint() string  { return e.hint }

// hintedError adds advice to an error.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }
func (e *hintedError) Hint() string  { return e.hint }

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

func isBug(err error) bool {
	var bug *panics.Error
	return errors.As(err, &bug)
}

// readerGone tells whether what reads standard output has gone, as head does.
func readerGone(err error) bool {
	var output *outputError
	return errors.As(err, &output) && errors.Is(output, syscall.EPIPE)
}

// exitCode is the one place that decides how the program ends.
func exitCode(err error) int {
	var (
		several   *severalError
		signal    *signalError
		usage     *usageError
		badBackup *backup.UsageError
		badRest   *restore.UsageError
		noBackup  *backup.NotFoundError
		noRestore *restore.NotFoundError
		locked    *repository.LockedError
		damaged   *repository.DamagedError
		ambiguous *manifest.AmbiguousError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &signal):
		return exitSignal + int(signal.signal)
	case errors.As(err, &several) && several.exitCode() > exitSignal: // a bug beside it counts less
		return several.exitCode()
	case isBug(err):
		return exitBug
	case errors.As(err, &several):
		return several.exitCode()
	case readerGone(err):
		return exitSignal + int(syscall.SIGPIPE)
	case errors.Is(err, errWarned):
		return exitWarning
	case errors.As(err, &usage), errors.As(err, &ambiguous), errors.As(err, &badBackup), errors.As(err, &badRest),
		errors.Is(err, hypervisor.ErrRemote), errors.Is(err, repository.ErrNotRepository):
		return exitUsage
	case errors.As(err, &locked):
		return exitLocked
	case errors.As(err, &damaged):
		return exitDamaged
	case errors.As(err, &noBackup), errors.As(err, &noRestore),
		errors.Is(err, hypervisor.ErrNoDomain), errors.Is(err, hypervisor.ErrNoCheckpoint),
		errors.Is(err, manifest.ErrNoPoint), errors.Is(err, repository.ErrNoDisk):
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

// hintFor asks the error itself, then knows some causes.
func hintFor(err error) string {
	if isBug(err) {
		return "this is a bug, please report it with virtbackup --version and what stands on standard error"
	}
	var own interface{ Hint() string }
	if errors.As(err, &own) && own.Hint() != "" {
		return own.Hint()
	}
	var (
		locked *repository.LockedError
		other  *repository.OtherDomainError
	)
	switch {
	case errors.Is(err, syscall.EMFILE): // the soft limit was raised to the hard one by Go's package os
		return "this process may not open more files: raise the hard limit (ulimit -Hn, LimitNOFILE= in the unit)"
	case errors.Is(err, syscall.ENFILE):
		return "the host has no room for more open files: sysctl fs.file-max"
	case errors.Is(err, hypervisor.ErrNoDomain):
		return "virsh list --all shows the domains; is --connect right?"
	case errors.Is(err, hypervisor.ErrNoCheckpoint):
		return "virtbackup checkpoint list with the domain's name shows the checkpoints"
	case errors.Is(err, hypervisor.ErrUnreachable):
		return "is libvirtd running (systemctl start libvirtd), is --connect right, and may this user connect?"
	case errors.Is(err, hypervisor.ErrRemote):
		return "run virtbackup on the host that the domain runs on: the disks are read over a local socket"
	case errors.Is(err, hypervisor.ErrNotRunning):
		return "virsh start DOMAIN"
	case errors.Is(err, repository.ErrAbsent):
		return "is its file system mounted, and is --repo right? virtbackup init DIR makes a repository"
	case errors.Is(err, repository.ErrNotRepository):
		return "is its file system mounted, and is --repo right? virtbackup init DIR makes a repository in a directory that is new or empty"
	case errors.Is(err, manifest.ErrNewerFormat):
		return "use the newest virtbackup that has written to this repository"
	case errors.Is(err, manifest.ErrNoPoint):
		return "virtbackup list shows the domains and points; is --repo right?"
	case errors.As(err, &locked):
		return "another run of virtbackup works on this domain: wait until it has ended"
	case errors.As(err, &other):
		return "use another repository for this domain (--repo), or rename one of the two; the points of the other one are kept"
	}
	return hintForSystem(err)
}

// hintForSystem is for what the kernel refuses.
func hintForSystem(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free space there, or name another directory; what this run had written is removed"
	case errors.Is(err, syscall.EFBIG):
		return "the file system there, or this process (ulimit -f, LimitFSIZE= in the unit), takes no file that large: raise the limit, or name a directory on another file system"
	case errors.Is(err, directio.ErrRefused):
		return "--direct auto writes through the page cache there, and empties it behind itself"
	case errors.Is(err, syscall.EROFS):
		return "the file system is mounted read-only: mount it for writing, or name another directory"
	case errors.Is(err, fs.ErrPermission):
		return "run virtbackup as root, or as a user who may do that"
	}
	return ""
}
