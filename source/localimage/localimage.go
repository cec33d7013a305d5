// Package localimage looks at the image files and devices of disks that are on this host.
package localimage

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fileid"
)

// Identify returns what distinguishes a file or device from others that were or will be at
// the same path: for a file its inode and time of birth (package fileid), for a device of
// the device mapper (LVM) its UUID. "" means unknown: then only the paths are compared.
func Identify(path string) string {
	info, err := os.Stat(path) // libvirt follows symbolic links, too
	if err != nil {
		return ""
	}
	if info.Mode().IsRegular() {
		id, err := fileid.Of(path)
		if err != nil {
			return ""
		}
		return "file:" + id.String()
	}
	device, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uuid, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/dm/uuid", unix.Major(device.Rdev), unix.Minor(device.Rdev)))
	if err != nil || len(uuid) < 2 {
		return ""
	}
	return "dm:" + string(uuid[:len(uuid)-1])
}

// DataBytes counts the bytes of an image file that are not holes; unwritten
// space counts as a hole (lseek(2), SEEK_DATA).
func DataBytes(path string) (n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	for end := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if err == unix.ENXIO { //nolint:errorlint // a bare errno: no more data
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
			return 0, err
		}
		n += end - start
	}
}
