package localfile

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// CannotCheck reports whether an error says nothing of the file: it is one of permissions,
// of this process, or of a server that cannot be reached.
func CannotCheck(err error) bool {
	return isOneOf(err, fs.ErrPermission, unix.EMFILE, unix.ENFILE, unix.ENOMEM,
		unix.ESTALE, unix.ETIMEDOUT, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ENETDOWN, unix.ENETUNREACH, unix.ENOTCONN, unix.ECONNRESET)
}

// Unreadable reports whether storage could not return what was written: a bad
// sector is ENODATA past the page cache (BLK_STS_MEDIUM in Linux's block/blk-core.c) and EIO
// through it; file systems with checksums have codes of their own. It is damage if it
// occurs twice.
func Unreadable(err error) bool {
	return isOneOf(err, unix.EIO, unix.ENODATA, unix.EREMOTEIO, unix.EILSEQ, unix.EUCLEAN, unix.EBADMSG)
}

func isOneOf(err error, kinds ...error) bool {
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// Reason says in words why a file cannot be read, without its path.
func Reason(err error) string {
	var path *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "missing"
	case errors.Is(err, ErrNotRegular):
		return err.Error()
	case errors.As(err, &path):
		return fmt.Sprintf("cannot be read: %v", path.Err)
	}
	return fmt.Sprintf("cannot be read: %v", err)
}

// IsFull tells whether an error says that a file system, or a quota, has no space left.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
