package restore

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// SizeError says that an image cannot be as large as its disk.
type SizeError struct{ message, hint string }

// Error returns the message.
func (e *SizeError) Error() string { return e.message }

// Hint says what to do.
func (e *SizeError) Hint() string { return e.hint }

// checkSizes refuses raw images that the file system cannot hold, before anything is
// copied: a raw image is as large as the disk, however little of it takes space. ext4
// with blocks of 4 KiB holds files of 16 TiB, with those of 1 KiB, or without extents,
// much less; FAT 4 GiB; and there is RLIMIT_FSIZE. No call returns the limit of a
// file system, so a file of the largest size is made. A qcow2 image grows with its data.
func (r *restorer) checkSizes(disks []Disk) error {
	raw := slices.DeleteFunc(slices.Clone(disks), func(d Disk) bool { return d.Format != Raw })
	if len(raw) == 0 {
		return nil
	}
	largest := slices.MaxFunc(raw, func(a, b Disk) int { return cmp.Compare(a.VirtualSize, b.VirtualSize) })
	err := trySize(largest.Image+partialSuffix, largest.VirtualSize)
	if !errors.Is(err, unix.EFBIG) {
		return err
	}
	what := fmt.Sprintf("a raw image of disk %s of %s@%s has %d bytes", largest.Target, r.Domain, r.point.ID, largest.VirtualSize)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) == nil && limit.Cur < uint64(largest.VirtualSize) {
		return &SizeError{fmt.Sprintf("%s: this process may write %d to a file", what, limit.Cur),
			"--format qcow2, which takes what the data takes, or a higher limit (ulimit -f, LimitFSIZE= in the unit)"}
	}
	return &SizeError{fmt.Sprintf("%s: the file system of %s cannot hold a file of that size", what, r.Dir),
		"--format qcow2, which takes what the data takes, or --to a directory on another file system (XFS)"}
}

// trySize makes a sparse file of a size, and removes it.
func trySize(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close(), os.Remove(path))
}
