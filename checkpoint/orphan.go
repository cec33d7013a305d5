package checkpoint

import (
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
)

// DeleteOrphans deletes what there may be of the bitmaps of an instant whose checkpoint
// libvirt does not list: the domain was undefined, or is transient and was created again,
// after a run had died. QEMU goes on recording into them, and no tool that asks libvirt
// would find them. disks are those that the running domain has.
//
// The error is hypervisor.ErrNotRunning, or another one, where that cannot be told now.
func DeleteOrphans(d Deleter, repositoryID string, i repository.Instant, disks []xml.Disk) error {
	name := i.CheckpointName()
	c := xml.Checkpoint{Name: name, Description: Description(repositoryID, i.Point), Created: i.Time.Truncate(time.Second)}
	for _, disk := range disks {
		c.Disks = append(c.Disks, xml.CheckpointDisk{Target: disk.Target, Bitmap: name})
	}
	for _, disk := range c.Disks {
		if _, err := deleteBitmap(d, c, disk); err != nil {
			return fmt.Errorf("look for bitmaps of %s: %w", name, err)
		}
	}
	// A connection that is lost meanwhile is no proof of anything.
	if _, err := d.CheckpointXML(name); !errors.Is(err, hypervisor.ErrNoCheckpoint) {
		return errors.Join(fmt.Errorf("look for bitmaps of %s: libvirt lists it", name), err)
	}
	return nil
}
