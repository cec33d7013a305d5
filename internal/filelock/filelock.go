// Package filelock locks files with flock(2): with a wait that a context cancels, and with
// names for those who hold a lock.
//
// The kernel releases a lock when the last process that has the file open, as it was opened for
// the lock, ends or closes it.
package filelock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/eintr"
)

// Mode is how a file is locked.
type Mode int

const (
	// Shared is beside others that have it shared.
	Shared Mode = unix.LOCK_SH
	// Exclusive is alone.
	Exclusive Mode = unix.LOCK_EX
)

// ErrHeld says that others hold a lock.
var ErrHeld = errors.New("locked")

// poll is how often a lock that another process holds is tried again. A reader between two
// restores is away for some tens of milliseconds.
const poll = 10 * time.Millisecond

// Try locks a file without waiting. The error is ErrHeld where others hold a lock that
// excludes this one.
func Try(f *os.File, mode Mode) error {
	err := flock(f, int(mode)|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrHeld
	}
	return err
}

// Wait locks a file, and waits at most that long for others, then the error is ErrHeld; a
// negative time is for ever. Cancelling ctx stops the wait with its cause.
func Wait(ctx context.Context, f *os.File, mode Mode, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		err := Try(f, mode)
		if !errors.Is(err, ErrHeld) {
			return err
		}
		if wait >= 0 && !time.Now().Before(deadline) {
			return ErrHeld
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(poll):
		}
	}
}

// Close releases the lock and closes the file. To close it is not enough: a process that is
// being started has it open, too, until execve(2), and the lock belongs to all that have it
// open.
func Close(f *os.File) error {
	return errors.Join(flock(f, unix.LOCK_UN), f.Close())
}

func flock(f *os.File, how int) error {
	err := eintr.Retry(func() error { return unix.Flock(int(f.Fd()), how) })
	if err != nil {
		return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return nil
}

// IsAt tells whether an open file is the one that has this path now. A lock on a file that
// has lost its name since it was opened keeps nobody out.
func IsAt(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(open, named)
}

// Create opens a file and locks it alone, and makes it where it is absent. It waits for others
// as long as they hold the lock; they may remove the file with their lock, then another one
// is made.
func Create(path string, perm fs.FileMode) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, perm)
		if err != nil {
			return nil, err
		}
		if err := flock(f, unix.LOCK_EX); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if IsAt(f, path) {
			return f, nil
		}
		if err := f.Close(); err != nil { // whoever held it before has removed it
			return nil, err
		}
	}
}
