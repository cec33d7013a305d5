// Package localimage looks at the image files and devices of disks that are on this host.
package localimage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fileid"
	"github.com/virtbackup/virtbackup/qcow2"
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

// IdentifyImage is Identify for an image of a format as QEMU names it. A qcow2 image may have its
// data in another file, which then distinguishes it, too: its bitmaps do not show that the data
// file was replaced.
func IdentifyImage(path, format string) string {
	id := Identify(path)
	if data := DataFile(path, format); id != "" && data != "" {
		id += ",data:" + Identify(data)
	}
	return id
}

// Written returns when an image file was written to last, with its data file if it has one: the
// times in nanoseconds since the Epoch. "" means unknown; devices have no such time.
func Written(path, format string) string {
	times := ""
	for _, path := range []string{path, DataFile(path, format)} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			return ""
		}
		if times != "" {
			times += "+"
		}
		times += strconv.FormatInt(info.ModTime().UnixNano(), 10)
	}
	return times
}

// DataFile returns the path of the external data file of an image of a format as QEMU names it, "" if
// it has none.
func DataFile(path, format string) string {
	if format != "qcow2" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	header, err := qcow2.ReadHeader(f)
	if err = errors.Join(err, f.Close()); err != nil || !header.ExternalData() {
		return ""
	}
	if filepath.IsAbs(header.DataFile) {
		return header.DataFile
	}
	return filepath.Join(filepath.Dir(path), header.DataFile)
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
