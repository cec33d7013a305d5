package hypervisor

import (
	"errors"
	"fmt"

	"libvirt.org/go/libvirt"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// GuestShutDown is the reason of WhyShutOff for a domain whose guest has shut down by itself, or because it was asked to.
const GuestShutDown = "the guest shut down"

// shutOffReasons names virDomainShutoffReason for people.
var shutOffReasons = map[libvirt.DomainShutoffReason]string{
	libvirt.DOMAIN_SHUTOFF_SHUTDOWN:      GuestShutDown,
	libvirt.DOMAIN_SHUTOFF_DESTROYED:     "someone destroyed it",
	libvirt.DOMAIN_SHUTOFF_CRASHED:       "its QEMU crashed",
	libvirt.DOMAIN_SHUTOFF_MIGRATED:      "it was migrated to another host",
	libvirt.DOMAIN_SHUTOFF_SAVED:         "it was saved",
	libvirt.DOMAIN_SHUTOFF_FAILED:        "its QEMU failed",
	libvirt.DOMAIN_SHUTOFF_FROM_SNAPSHOT: "a snapshot of it was reverted to",
	libvirt.DOMAIN_SHUTOFF_DAEMON:        "libvirtd could not reconnect to its QEMU",
}

// WhyShutOff says why the domain is not running, "" if it is (virDomainGetState). One that is shutting down counts as shut
// off: its QEMU ends within tenths of a second, which libvirt 9.0.0 notices 30 s late where a client reads from a backup job.
func (d *Domain) WhyShutOff() (why string, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		state, reason, err := dom.GetState()
		why = ""
		switch {
		case err == nil && state == libvirt.DOMAIN_SHUTDOWN:
			// Whether the guest or a libvirt client began it is known only at its end.
			why = "it is shutting down"
		case err == nil && stateOf(state, reason) == ShutOff:
			why = shutOffReason(libvirt.DomainShutoffReason(reason))
		}
		return err
	})
	if errors.Is(err, ErrNoDomain) {
		return "it is no longer there, as a transient domain that has ended", nil
	}
	return why, about(err, "read the state of domain %s", d.name)
}

// Crashed says whether the domain is shut off because its QEMU has failed or was killed (virDomainGetState).
func (d *Domain) Crashed() (crashed bool, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		state, reason, err := dom.GetState()
		crashed = state == libvirt.DOMAIN_SHUTOFF && (reason == int(libvirt.DOMAIN_SHUTOFF_CRASHED) || reason == int(libvirt.DOMAIN_SHUTOFF_FAILED))
		return err
	})
	return crashed, about(err, "read the state of domain %s", d.name)
}

func shutOffReason(reason libvirt.DomainShutoffReason) string {
	if why, known := shutOffReasons[reason]; known {
		return why
	}
	return "libvirt does not know why"
}

// VolumePath returns the path of a volume of a storage pool on this host (virStorageVolGetPath). It is an error if it is neither a
// file nor a block device, such as one on the network.
func (d *Domain) VolumePath(pool, volume string) (path string, err error) {
	err = d.conn.withRetry(func(conn *libvirt.Connect) error {
		path, err = volumePath(conn, pool, volume)
		return err
	})
	return path, about(err, "look up volume %s of pool %s", volume, pool)
}

func volumePath(conn *libvirt.Connect, pool, volume string) (string, error) {
	p, err := conn.LookupStoragePoolByName(pool)
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Free() }()
	if active, err := p.IsActive(); err == nil && !active {
		return "", fail.Errorf(fail.Other, "virsh pool-start "+pool, "the storage pool is not active")
	}
	v, err := p.LookupStorageVolByName(volume)
	if err != nil {
		return "", err
	}
	defer func() { _ = v.Free() }()
	info, err := v.GetInfo()
	if err != nil {
		return "", err
	}
	if info.Type != libvirt.STORAGE_VOL_FILE && info.Type != libvirt.STORAGE_VOL_BLOCK {
		return "", fmt.Errorf("it is neither a file nor a block device")
	}
	return v.GetPath()
}

// OutOfSpace names the disks, by target, on which a write of the guest failed for lack of space, in the image or in a scratch
// file of a job (virDomainGetDiskErrors, VIR_DOMAIN_DISK_ERROR_NO_SPACE). libvirt forgets them when the guest is resumed.
func (d *Domain) OutOfSpace() (targets []string, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		targets = nil
		all, err := dom.GetDiskErrors(0)
		for _, e := range all {
			if e.Error == libvirt.DOMAIN_DISK_ERROR_NO_SPACE {
				targets = append(targets, e.Disk)
			}
		}
		return err
	})
	return targets, about(err, "read the disk errors of domain %s", d.name)
}
