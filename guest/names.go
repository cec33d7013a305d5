package guest

import (
	"fmt"
	"path/filepath"
)

// DefaultRunDir is where sockets and scratch files go: below the directory that
// belongs to QEMU's user on Debian (libvirt-qemu) and Fedora (qemu), and that
// SELinux lets QEMU make sockets in. libvirt labels the scratch files itself.
const DefaultRunDir = "/var/lib/libvirt/qemu/virtbackup"

// NamePrefix begins the name of every socket and scratch file of virtbackup.
const NamePrefix = "virtbackup-"

// Prefix begins the name of every socket and scratch file of this domain and
// repository. The identity of the run's instant follows, which shows the owner.
func (d *LockedDomain) Prefix() string {
	return fmt.Sprintf(NamePrefix+"%.8s-%.8s-", d.Repo.ID(), d.Domain.UUID())
}

// Socket is where QEMU serves the disks for an instant.
func (d *LockedDomain) Socket(identity string) string {
	return filepath.Join(RunDir(d.SocketDir), d.Prefix()+identity+".sock")
}

// Scratch is where QEMU saves the old blocks of a disk while a point is made.
func (d *LockedDomain) Scratch(identity, target string) string {
	return filepath.Join(RunDir(d.ScratchDir), d.Prefix()+identity+"-"+target+".scratch")
}

// MaxSocketDir is the maximum length of the path of a directory for sockets, in bytes: with
// the names of sockets appended, it has to fit into the 108 bytes of sun_path (unix(7)),
// including the terminating null byte.
const MaxSocketDir = 107 - len("/virtbackup-01234567-01234567-0123456789abcdef.sock")

// RunDir is dir, or DefaultRunDir.
func RunDir(dir string) string {
	if dir == "" {
		return DefaultRunDir
	}
	return dir
}
