package description

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fileid"
)

// FindPlace returns where a repository is; nil if that is unknown: on FUSE and
// SMB a directory may have another inode after each mount, and an unknown place is better
// than a repository that looks like a copy every night.
func FindPlace(dir string) (*fileid.ID, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch uint32(s.Type) {
	case unix.FUSE_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.SMB_SUPER_MAGIC:
		return nil, nil
	}
	id, err := fileid.Of(dir)
	return &id, err
}

// PlaceText is what places are compared by; "" is an unknown one.
func PlaceText(id *fileid.ID) string {
	if id == nil {
		return ""
	}
	return id.String()
}
