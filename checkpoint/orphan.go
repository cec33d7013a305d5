package checkpoint

import (
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/xml"
)

// DeleteOrphans deletes any bitmaps that remain of an instant whose checkpoint libvirt does
// not list: the domain was undefined, or is transient and was created again,
// after a run had died. QEMU continues to record in them, and no tool that asks libvirt
// would find them. disks are those that the running domain has.
//
// nil means that they are gone: libvirt has deleted each, or said that it does not exist.
// After an error they may still exist, and the identity of the instant must be kept for a
// later run: hypervisor.ErrNotRunning, ErrBusy (another job holds the domain), or what
// libvirt or QEMU said.
func DeleteOrphans(d Deleter, repositoryID string, i instants.Instant, disks []xml.Disk) error {
	name := i.CheckpointName()
	c := xml.Checkpoint{Name: name, Description: Description(repositoryID, i.Point), Created: i.Time.Truncate(time.Second)}
	for _, disk := range disks {
		c.Disks = append(c.Disks, xml.CheckpointDisk{Target: disk.Target, Bitmap: name})
	}
	if err := deleteBitmaps(d, c); err != nil {
		return fmt.Errorf("look for bitmaps of %s: %w", name, err)
	}
	// A lost connection proves nothing.
	if _, err := d.CheckpointXML(name); !errors.Is(err, hypervisor.ErrNoCheckpoint) {
		return errors.Join(fmt.Errorf("look for bitmaps of %s: libvirt lists it", name), err)
	}
	return nil
}
