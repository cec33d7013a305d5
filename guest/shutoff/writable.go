package shutoff

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// localFileSystems are those that only one host at a time has mounted, by their magic numbers
// (statfs(2)).
var localFileSystems = map[int64]bool{
	unix.EXT4_SUPER_MAGIC:      true, // ext2 and ext3, too
	unix.XFS_SUPER_MAGIC:       true,
	unix.BTRFS_SUPER_MAGIC:     true,
	unix.TMPFS_MAGIC:           true,
	unix.RAMFS_MAGIC:           true,
	unix.F2FS_SUPER_MAGIC:      true,
	unix.OVERLAYFS_SUPER_MAGIC: true,
	0x2fc12fc1:                 true, // ZFS
	0xca451a4e:                 true, // bcachefs
}

// SharedError says why another host may use an image.
type SharedError struct{ Path, Why string }

// Error names the image.
func (e *SharedError) Error() string { return fmt.Sprintf("%s %s", e.Path, e.Why) }

// Hint says what allows it.
func (e *SharedError) Hint() string {
	return "if no other host uses it, --exclusive (VIRTBACKUP_EXCLUSIVE=1) says so"
}

// MayBeShared returns a *SharedError if another host may use an image, and so may have it open for
// writing: QEMU's locks do not show that. nil means that it is a file on a local file system.
func MayBeShared(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &SharedError{path, "is a block device, which another host may use"}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", path, err)
	}
	if !localFileSystems[int64(fs.Type)] {
		return &SharedError{path, "is on a file system that another host may use"}
	}
	return nil
}

// mayWrite returns an error if an image may not be opened for writing.
func (o Options) mayWrite(path string) error {
	if o.Exclusive {
		return nil
	}
	return MayBeShared(path)
}
