package guest

import (
	"context"
	"os"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
)

// Domain is a domain as libvirt shows it: *hypervisor.Domain, which documents each
// method, or a fake of package tests/fakelibvirt.
type Domain interface {
	Name() string
	UUID() string
	XML() (string, error)
	InactiveXML() (string, error)
	Persistent() (bool, error)
	// Allocation returns the virtual size of a disk and what its image occupies, in bytes.
	Allocation(target string) (capacity, allocation int64, err error)
	// VolumePath returns the path of a volume of a storage pool.
	VolumePath(pool, volume string) (string, error)
	// OldImages names QEMU's nodes that are qcow2 images of version 2.
	OldImages() ([]string, error)

	Execution
	Jobs
	Checkpoints
	Firmware
}

// Execution is the state of the guest, and what its agent can do.
type Execution interface {
	Active() (bool, error)
	State() (hypervisor.State, error)
	RunID() (uint, error)
	WhyShutOff() (string, error)
	ManagedSave() (bool, error)
	// SavedXML returns the domain as it goes on from its managed save, "" if it has none.
	SavedXML() (string, error)
	Resume() error
	OutOfSpace() (targets []string, err error)
	Freeze(timeout time.Duration) (filesystems int, err error)
	Thaw(timeout time.Duration) (filesystems int, err error)
}

// Jobs are the backup job and other jobs on the domain and its disks.
type Jobs interface {
	BackupBegin(backupXML, checkpointXML string) error
	BackupJob() (string, error)
	// Settle waits until libvirt has begun or ended the backup job that it begins or ends.
	Settle(ctx context.Context) error
	ProveBackup(targets []string) error
	EndBackup(ctx context.Context) error
	JobStats() (hypervisor.JobStats, error)
	RunningJob() (string, error)
	BlockJob(target string) (hypervisor.BlockJob, error)
}

// Checkpoints are libvirt's records of the domain's checkpoints, and their bitmaps.
type Checkpoints interface {
	Checkpoints(sizes bool) ([]string, error)
	CheckpointXML(name string) (string, error)
	CheckpointSizes(name string) (string, error)
	CreateCheckpoint(doc string) error
	DeleteCheckpoint(name string, metadataOnly bool) error
	RedefineCheckpoint(doc string, validate bool) error
}

// Firmware is what a domain starts with besides its disks, as far as only libvirt knows it.
type Firmware interface {
	Autostart() (bool, error)
	PlannedNVRAM() (path, format string, err error)
	CopyNVRAM(ctx context.Context, to *os.File) error
}

var _ Domain = (*hypervisor.Domain)(nil)

// Host is the host of the domains.
type Host interface {
	// Domain and DomainByUUID look a domain up: hypervisor.ErrNoDomain if there is none.
	Domain(name string) (Domain, error)
	DomainByUUID(uuid string) (Domain, error)
	// Domains names all domains that are defined or running.
	Domains() ([]string, error)
	Versions() (libvirt, qemu string, err error)
}

// Libvirt is the host behind a connection.
func Libvirt(conn *hypervisor.Conn) Host { return libvirtHost{conn} }

type libvirtHost struct{ *hypervisor.Conn }

func (h libvirtHost) Domain(name string) (Domain, error) {
	d, err := h.Conn.Domain(name)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (h libvirtHost) DomainByUUID(uuid string) (Domain, error) {
	d, err := h.Conn.DomainByUUID(uuid)
	if err != nil {
		return nil, err
	}
	return d, nil
}
