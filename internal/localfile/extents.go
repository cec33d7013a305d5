package localfile

import (
	"io/fs"
	"math"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/eintr"
)

// From linux/fs.h and linux/fiemap.h, which package unix leaves out.
const (
	ioctlFiemap  = 0xC020660B // FS_IOC_FIEMAP
	extentLast   = 0x1        // FIEMAP_EXTENT_LAST
	extentShared = 0x2000     // FIEMAP_EXTENT_SHARED
)

// extentsAtOnce bounds the memory of extentMap, at 56 bytes an extent.
const extentsAtOnce = 500

// extentMap is struct fiemap.
type extentMap struct {
	start, length uint64
	flags         uint32
	mapped, count uint32
	_             uint32
	extents       [extentsAtOnce]struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
}

// Exclusive returns how many bytes of its file system a regular file has for itself: what
// its removal frees. Data that another file shares (reflinks) does not count, and nothing
// does where the file has another name. Where the file system does not say which data is
// shared (ioctl_fiemap(2)), all counts. The path's last element is not followed.
func Exclusive(path string) (int64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	s := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || s.Nlink > 1 {
		return 0, nil
	}
	all := s.Blocks * 512
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	shared, err := sharedBytes(f)
	if isOneOf(err, unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EINVAL) {
		return all, nil
	}
	if err != nil {
		return 0, &fs.PathError{Op: "list the extents of", Path: path, Err: err}
	}
	return max(0, all-shared), nil // less than nothing: btrfs compresses what it shares
}

// sharedBytes is the length of a file's extents that other files share.
func sharedBytes(f *os.File) (shared int64, err error) {
	m := &extentMap{count: extentsAtOnce}
	for {
		m.length = math.MaxUint64 - m.start
		err := eintr.Retry(func() error {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlFiemap, uintptr(unsafe.Pointer(m)))
			if errno != 0 {
				return errno
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		for _, e := range m.extents[:m.mapped] {
			if e.flags&extentShared != 0 {
				shared += int64(e.length)
			}
			if e.flags&extentLast != 0 {
				return shared, nil
			}
			m.start = e.logical + e.length
		}
		if m.mapped == 0 {
			return shared, nil
		}
	}
}
