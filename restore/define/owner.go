package define

import (
	"errors"
	"os"
	"syscall"

	"github.com/virtbackup/virtbackup/guest/qemuuser"
)

// dirMode is the mode of directories that are made: QEMU's user can enter them and cannot
// list them.
const dirMode = 0o711

// findOwner finds the user that QEMU runs the domain as.
func (d *definer) findOwner() (*qemuuser.User, error) {
	capabilities, err := d.host.Capabilities()
	if err != nil {
		return nil, err
	}
	return qemuuser.Find(d.adapted.XML, capabilities)
}

// give makes QEMU's user the owner of a file. A file system that has no owners, or a server
// that lets nobody change them (NFS with root_squash), is a warning: QEMU may be able to open
// the file all the same.
func (d *definer) give(path string) error {
	if d.owner == nil {
		return nil
	}
	err := os.Lchown(path, d.owner.UID, d.owner.GID)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) {
		d.warn("QEMU, which runs as %s, may not be able to open what was restored: %v", d.owner.Name, err)
		return nil
	}
	return err
}
