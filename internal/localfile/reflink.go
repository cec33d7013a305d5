package localfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/eintr"
)

// ErrNotSupported says that a file system cannot do what Exchange, Clone, CloneRange or
// Punch ask of it. Nothing was changed then.
var ErrNotSupported = errors.New("the file system does not support this")

// Exchange swaps two names of one file system in one step (renameat2(2), RENAME_EXCHANGE):
// at any instant both exist. Neither the files nor the directories of the names are
// synced. NFS and some FUSE file systems return ErrNotSupported.
func Exchange(a, b string) error {
	err := eintr.Retry(func() error {
		return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	})
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: "exchange", Old: a, New: b, Err: unsupported(err, unix.EINVAL, unix.ENOSYS, unix.ENOTSUP)}
}

// Clone makes the file to share all data of from (ioctl_ficlone(2), FICLONE). to is open
// for writing, and as long as from afterwards if it was not longer. Where the two files
// are not of one file system that can share data, the error is ErrNotSupported.
func Clone(from, to *os.File) error {
	err := eintr.Retry(func() error { return unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) })
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: "clone", Old: from.Name(), New: to.Name(), Err: noClone(err)}
}

// CloneRange makes length bytes of the file to, from offset at on, share the data that from
// has at offset (FICLONERANGE). All three are multiples of the file system's block, except
// for a length that reaches the end of from. Errors are as with Clone.
func CloneRange(from *os.File, offset, length int64, to *os.File, at int64) error {
	err := eintr.Retry(func() error {
		return unix.IoctlFileCloneRange(int(to.Fd()), &unix.FileCloneRange{
			Src_fd: int64(from.Fd()), Src_offset: uint64(offset), Src_length: uint64(length), Dest_offset: uint64(at)})
	})
	if err == nil {
		return nil
	}
	op := fmt.Sprintf("clone %d bytes at offset %d to offset %d", length, offset, at)
	return &os.LinkError{Op: op, Old: from.Name(), New: to.Name(), Err: noClone(err)}
}

// noClone marks the errors of file systems without shared data (ioctl_ficlone(2)); EXDEV is
// for two file systems, ENOTTY for those that know no such call.
func noClone(err error) error {
	return unsupported(err, unix.EOPNOTSUPP, unix.EXDEV, unix.ENOTTY, unix.EINVAL, unix.ENOSYS)
}

// Punch frees length bytes of a file from offset on, which read as zeros then
// (fallocate(2), FALLOC_FL_PUNCH_HOLE). The file keeps its length.
func Punch(f *os.File, offset, length int64) error {
	err := eintr.Retry(func() error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	})
	if err == nil {
		return nil
	}
	op := fmt.Sprintf("free %d bytes at offset %d", length, offset)
	return &os.PathError{Op: op, Path: f.Name(), Err: unsupported(err, unix.EOPNOTSUPP, unix.ENOSYS)}
}

// unsupported marks those errors that mean a file system which cannot do this.
func unsupported(err error, codes ...error) error {
	if isOneOf(err, codes...) {
		return fmt.Errorf("%w: %w", ErrNotSupported, err)
	}
	return err
}
