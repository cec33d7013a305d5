package checkpoint

import (
	"errors"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/xml"
)

// Deleter deletes a checkpoint of a domain; hypervisor.Domain is one.
type Deleter interface {
	CheckpointXML(name string) (string, error)
	DeleteCheckpoint(name string, metadataOnly bool) error
	RedefineCheckpoint(doc string, validate bool) error
}

// Delete deletes a checkpoint with its bitmaps. If the domain is off, it deletes only
// libvirt's record, and the bitmaps stay in the images. After an error there may still be
// bitmaps, and a later call deletes them: hypervisor.ErrBusy, for which libvirt has
// waited 30 s, ErrUnreachable, or what QEMU said.
//
// The position of the checkpoint in the tree of checkpoints does not matter. libvirt
// (qemu_checkpoint.c, and as seen with 9.0) makes its parent the parent of its children,
// which is only a name in their records (qemuCheckpointDelete). Then it has QEMU remove the
// bitmaps of its name, from every image of a disk's backing chain, in one transaction
// (qemuCheckpointDiscard). A broken bitmap is removed like a good one; if a disk has no
// bitmap of that name, the deletion fails before any is removed, and the record stays. With
// METADATA_ONLY it drops the record and leaves the bitmaps alone. Nothing is merged
// either way: every bitmap records from its own instant on, so deleting one does not change
// what the others say.
func Delete(d Deleter, name string) error {
	err := deleteWithBitmaps(d, name)
	if errors.Is(err, hypervisor.ErrNotRunning) {
		return dropRecord(d, name)
	}
	return err
}

// dropRecord deletes libvirt's record of a checkpoint, if it has one, and no bitmap.
func dropRecord(d Deleter, name string) error {
	err := d.DeleteCheckpoint(name, true)
	if errors.Is(err, hypervisor.ErrNoCheckpoint) {
		return nil
	}
	return err
}

// deleteWithBitmaps is Delete for a domain that runs. If the domain is off, it deletes
// nothing, and the error is hypervisor.ErrNotRunning. If libvirt lists a bitmap that an image
// does not have (QEMU was killed), it deletes only the record, and then each bitmap that
// exists.
func deleteWithBitmaps(d Deleter, name string) error {
	doc, err := d.CheckpointXML(name)
	if err != nil {
		return err
	}
	c, err := xml.ParseCheckpoint(doc)
	if err != nil {
		return err
	}
	err = fault.Around("delete checkpoint", func() error { return deleteListed(d, name, doc) })
	if !errors.Is(err, errNoBitmap) {
		return err
	}
	if err := d.DeleteCheckpoint(name, true); err != nil {
		return err
	}
	return deleteBitmaps(d, c)
}

// errNoBitmap says that a disk has no usable bitmap of the checkpoint, and that none of the
// others was deleted.
var errNoBitmap = errors.New("an image does not have the checkpoint's bitmap")

// deleteListed deletes a checkpoint that libvirt lists, with its bitmaps. libvirt reports a
// missing bitmap only as text, in the language of its host. So libvirt is asked to check
// the bitmaps, for which it has an error code. The check covers the same disks as the
// deletion, those that the domain has. It changes nothing if one has no usable bitmap, and
// writes the same record again if all have. A broken bitmap is not usable, either; but it is
// deleted like a good one, and QEMU's refusal is not hypervisor.ErrMayLackBitmap.
func deleteListed(d Deleter, name, doc string) error {
	err := d.DeleteCheckpoint(name, false)
	if !errors.Is(err, hypervisor.ErrMayLackBitmap) {
		return err
	}
	asked := d.RedefineCheckpoint(doc, true)
	if errors.Is(asked, hypervisor.ErrCheckpointInconsistent) {
		return errNoBitmap
	}
	return errors.Join(err, asked)
}

// deleteBitmaps deletes the bitmaps of a checkpoint that libvirt does not list, one by
// one: libvirt deletes all of a checkpoint's bitmaps or none, so each gets a checkpoint of
// its own, for a moment. An image without its bitmap is no error. It stops at the first
// error, because the cause applies to the other bitmaps, too.
func deleteBitmaps(d Deleter, c xml.Checkpoint) error {
	for _, disk := range c.Disks {
		if disk.Bitmap == "" {
			continue
		}
		if err := deleteBitmap(d, c, disk); err != nil {
			return err
		}
	}
	return nil
}

// deleteBitmap deletes the bitmap of one disk. It defines a checkpoint of that disk alone for
// that, and removes it after an error, if libvirt answers at all: a later run finds the bitmap
// by the identity that the repository keeps.
func deleteBitmap(d Deleter, c xml.Checkpoint, disk xml.CheckpointDisk) error {
	c.Parent, c.Disks = "", []xml.CheckpointDisk{disk}
	doc, err := c.Marshal()
	if err != nil {
		return nil // libvirt would not take it either, and has never made one
	}
	err = d.RedefineCheckpoint(doc, false)
	if errors.Is(err, hypervisor.ErrBitmap) {
		return nil // a raw disk, or another that has no bitmaps
	}
	if err != nil {
		return err
	}
	err = deleteListed(d, c.Name, doc)
	if err == nil {
		return nil
	}
	if errors.Is(err, errNoBitmap) {
		err = nil
	}
	return errors.Join(err, dropRecord(d, c.Name))
}
