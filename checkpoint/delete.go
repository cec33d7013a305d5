package checkpoint

import (
	"errors"
	"fmt"

	"github.com/virtbackup/virtbackup/fault"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/xml"
)

// Deleter deletes a checkpoint of a domain; hypervisor.Domain is one.
type Deleter interface {
	CheckpointXML(name string) (string, error)
	DeleteCheckpoint(name string, metadataOnly bool) error
	RedefineCheckpoint(doc string, validate bool) error
}

// Delete removes a checkpoint with its bitmaps. Where that fails because libvirt
// lists a bitmap that the image does not have (after QEMU was killed), or the
// domain does not run, its metadata goes, and then, of a domain that runs, each
// bitmap that is there. It says whether bitmaps may have stayed behind in the
// images.
//
// Where in the line of checkpoints it stands does not matter. libvirt (as
// its qemu_checkpoint.c reads, and as 9.0 does) gives its children to its parent,
// which is but a name in their records (qemuCheckpointDelete). Then it has QEMU
// remove the bitmaps of its name, from every image of a disk's backing chain, in one
// transaction (qemuCheckpointDiscard). A broken bitmap goes like a good one; where a
// disk has none of that name it fails before any is removed, and the record stays. With
// METADATA_ONLY it drops the record and leaves the bitmaps alone. Nothing is merged
// either way: every bitmap records from its own instant on, so those of the others
// say the same with and without this one.
func Delete(d Deleter, name string) (stayed bool, err error) {
	doc, docErr := d.CheckpointXML(name)
	err = fault.Around("delete checkpoint", func() error { return d.DeleteCheckpoint(name, false) })
	if err == nil {
		return false, nil
	}
	if again := d.DeleteCheckpoint(name, true); again != nil {
		return false, fmt.Errorf("delete checkpoint %s: %w", name, errors.Join(err, again))
	}
	if docErr != nil || errors.Is(err, hypervisor.ErrNotRunning) {
		return true, nil
	}
	return deleteBitmaps(d, doc)
}

// deleteBitmaps deletes the bitmaps of a checkpoint that libvirt no longer
// lists, one by one: libvirt deletes all of a checkpoint's bitmaps or none, so
// each gets a checkpoint of its own, for a moment.
func deleteBitmaps(d Deleter, doc string) (stayed bool, err error) {
	c, err := xml.ParseCheckpoint(doc)
	if err != nil {
		return true, nil
	}
	for _, disk := range c.Disks {
		if disk.Bitmap == "" {
			continue
		}
		gone, err := deleteBitmap(d, c, disk)
		if err != nil {
			return true, err
		}
		stayed = stayed || !gone
	}
	return stayed, nil
}

func deleteBitmap(d Deleter, c xml.Checkpoint, disk xml.CheckpointDisk) (gone bool, err error) {
	c.Parent, c.Disks = "", []xml.CheckpointDisk{disk}
	doc, err := c.Marshal()
	if err != nil {
		return false, nil // libvirt would not take it either
	}
	if err := d.RedefineCheckpoint(doc, false); err != nil {
		return false, nil
	}
	if err := d.DeleteCheckpoint(c.Name, false); err == nil {
		return true, nil
	}
	if err := d.DeleteCheckpoint(c.Name, true); err != nil {
		return false, fmt.Errorf("delete checkpoint %s: %w", c.Name, err)
	}
	return false, nil
}
