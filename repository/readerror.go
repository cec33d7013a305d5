package repository

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// cannotCheck tells an error that says nothing of the repository: of who asks, of this
// process, or of a server that is away.
func cannotCheck(err error) bool {
	return isOneOf(err, fs.ErrPermission, unix.EMFILE, unix.ENFILE, unix.ENOMEM,
		unix.ESTALE, unix.ETIMEDOUT, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ENETDOWN, unix.ENETUNREACH, unix.ENOTCONN, unix.ECONNRESET)
}

// unreadable tells an error of storage that cannot give back what was written: a bad
// sector is ENODATA past the page cache (BLK_STS_MEDIUM in Linux's block/blk-core.c) and EIO
// through it; file systems with checksums have codes of their own. It is damage where it
// comes twice.
func unreadable(err error) bool {
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
