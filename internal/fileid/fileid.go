// Package fileid tells a file or directory from others that have been, or will
// be, at the same path.
package fileid

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ID identifies a file within its file system: the number of the inode and
// the instant of its birth. A copy has others, also one that is moved to the path
// of the original; a file that is moved within its file system keeps both.
type ID struct {
	Device string `json:"device"` // of the file system, MAJOR:MINOR; may be another after each mount
	Inode  uint64 `json:"inode"`
	Birth  string `json:"birth,omitempty"` // seconds since the Epoch, with nanoseconds; "" unknown
}

// Of returns the ID of what is at path; symbolic links are followed. The error is a
// *os.PathError.
func Of(path string) (ID, error) {
	var s unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &s); err != nil {
		return ID{}, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	id := ID{Device: fmt.Sprintf("%d:%d", s.Dev_major, s.Dev_minor), Inode: s.Ino}
	if s.Mask&unix.STATX_BTIME != 0 {
		id.Birth = fmt.Sprintf("%d.%09d", s.Btime.Sec, s.Btime.Nsec)
	}
	return id, nil
}

// String is the inode and the birth, without the device: the number of a device
// changes with a restart of the host, and on NFS with each mount.
func (id ID) String() string {
	if id.Birth == "" {
		return fmt.Sprint(id.Inode)
	}
	return fmt.Sprintf("%d@%s", id.Inode, id.Birth)
}
