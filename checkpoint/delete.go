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

// Delete deletes a checkpoint with its bitmaps. Of a domain that is off only libvirt's
// record goes, and the bitmaps stay in the images. After any other error bitmaps may be
// there still, and a later call deletes them: hypervisor.ErrBusy, for which libvirt has
// waited 30 s, ErrUnreachable, or what QEMU said.
//
// Where the checkpoint stands in the line of checkpoints does not matter. libvirt (as
// its qemu_checkpoint.c reads, and as 9.0 does) gives its children to its parent,
// which is but a name in their records (qemuCheckpointDelete). Then it has QEMU
// remove the bitmaps of its name, from every image of a disk's backing chain, in one
// transaction (qemuCheckpointDiscard). A broken bitmap goes like a good one; where a
// disk has none of that name it fails before any is removed, and the record stays. With
// METADATA_ONLY it drops the record and leaves the bitmaps alone. Nothing is merged
// either way: every bitmap records from its own instant on, so those of the others
// say the same with and without this one.
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

// deleteWithBitmaps is Delete for a domain that runs; of one that is off everything
// stays, and the error is hypervisor.ErrNotRunning. Where libvirt lists a bitmap that an
// image does not have (QEMU was killed), the record goes alone, and then each bitmap
// that is there.
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

// deleteListed deletes a checkpoint that libvirt lists, with its bitmaps. That a bitmap is
// missing libvirt says in a text only, which is in the language of its host. So it is asked
// to check the bitmaps, for which it has a code: it looks at the same disks as the deletion
// does, those that the domain has, and changes nothing where one has no usable bitmap; where
// all have, it writes the same record again. A broken bitmap is not usable, either; but that
// is deleted like a good one, and what QEMU refuses is not hypervisor.ErrMayLackBitmap.
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
// its own, for a moment. An image that does not have its bitmap is no error. Any error
// ends it: what keeps one bitmap from being deleted keeps the others, too.
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

// deleteBitmap deletes the bitmap of one disk. The checkpoint of that disk alone, which
// that takes, does not stay listed after an error, if libvirt can be asked at all: a later run
// finds the bitmap by the identity that the repository keeps.
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
