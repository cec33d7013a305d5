package source

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
