// Package imagelock keeps other processes from writing to an image, by the locks that QEMU
// itself takes.
//
// QEMU locks a byte of the file for each permission that it holds, and another one for each
// that it does not share (block/file-posix.c, RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE).
// Whoever opens a qcow2 image for reading lets nobody write, since its metadata must not
// change. Whoever opens a raw one does not mind (QEMU 7.2: a storage daemon that exports a raw
// file read-only lets qemu-io write to it, and a domain start).
package imagelock

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/eintr"
)

// Where QEMU's locks are, and its permissions (BLK_PERM_… in include/block/block-common.h), as
// the numbers of their bits.
const (
	permBase   = 100
	sharedBase = 200

	consistentRead = 0
	write          = 1
	resize         = 3
)

// ErrHeld says that another process has the image open for writing.
var ErrHeld = errors.New("another process has the image open for writing")

// Lock is held until it is closed, or the process ends.
type Lock struct{ file *os.File }

// ExcludeWriters locks a file or block device so that no QEMU can open it for writing. The error
// is ErrHeld if one has. On a device, a domain that libvirt has started in a mount namespace
// of its own uses another node of the device, and another lock.
func ExcludeWriters(path string) (_ *Lock, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(&os.PathError{Op: "lock", Path: path, Err: err}, f.Close())
		}
	}()
	// As QEMU does it: first the locks, then a look at those of others, so that of two who come
	// at once, one sees the other.
	for _, at := range []int64{permBase + consistentRead, sharedBase + write, sharedBase + resize} {
		if err := fcntl(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart, Start: at, Len: 1}); err != nil {
			return nil, err
		}
	}
	for _, at := range []int64{permBase + write, permBase + resize} {
		held := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1}
		if err := fcntl(f, unix.F_OFD_GETLK, &held); err != nil {
			return nil, err
		}
		if held.Type != unix.F_UNLCK {
			return nil, ErrHeld
		}
	}
	return &Lock{f}, nil
}

// Stat describes the file that is locked, whatever has its name by now.
func (l *Lock) Stat() (os.FileInfo, error) { return l.file.Stat() }

func fcntl(f *os.File, command int, lock *unix.Flock_t) error {
	err := eintr.Retry(func() error { return unix.FcntlFlock(f.Fd(), command, lock) })
	if err != nil {
		return fmt.Errorf("fcntl: %w", err)
	}
	return nil
}

// Close releases the lock. It unlocks first: a process that this one is starting at this moment has
// the open file, too, until it executes its program (fork(2)), and the lock with it.
func (l *Lock) Close() error {
	all := unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart}
	return errors.Join(fcntl(l.file, unix.F_OFD_SETLK, &all), l.file.Close())
}
