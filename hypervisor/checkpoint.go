package hypervisor

import (
	"errors"
	"time"

	"libvirt.org/go/libvirt"
)

// Checkpoints returns the <domaincheckpoint> documents of all checkpoints, parents before children
// (virDomainListAllCheckpoints with TOPOLOGICAL, virDomainCheckpointGetXMLDesc with NO_DOMAIN, since 5.6).
//
// With sizes, and of a running domain, they say how many bytes a backup since each would export (XML_SIZE). Where libvirt
// does not know the size for one checkpoint, that one has none.
func (d *Domain) Checkpoints(sizes bool) (docs []string, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		docs = nil
		withSizes := sizes
		if active, err := dom.IsActive(); err != nil || !active {
			withSizes = false
		}
		checkpoints, err := listCheckpoints(dom)
		for i := range checkpoints {
			doc, xmlErr := checkpointXML(&checkpoints[i], withSizes)
			_ = checkpoints[i].Free()
			if errors.Is(xmlErr, libvirt.ERR_NO_DOMAIN_CHECKPOINT) {
				continue // deleted meanwhile
			}
			if err == nil {
				err = xmlErr
			}
			docs = append(docs, doc)
		}
		return err
	})
	if err != nil {
		return nil, about(err, "list the checkpoints of domain %s", d.name)
	}
	return docs, nil
}

// listCheckpoints tries again if another client makes or deletes a checkpoint at the same time: libvirt 9.0.0 then fails the
// whole list (VIR_ERR_INVALID_ARG: name in virGetDomainCheckpoint must not be NULL; our own arguments are valid). There are few
// tries, with pauses in between, because that libvirtd crashed when it was asked in a tight loop.
func listCheckpoints(dom *libvirt.Domain) (checkpoints []libvirt.DomainCheckpoint, err error) {
	for range 5 {
		checkpoints, err = dom.ListAllCheckpoints(libvirt.DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
		if !errors.Is(err, libvirt.ERR_INVALID_ARG) {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	return checkpoints, err
}

func checkpointXML(checkpoint *libvirt.DomainCheckpoint, size bool) (string, error) {
	if size {
		doc, err := checkpoint.GetXMLDesc(libvirt.DOMAIN_CHECKPOINT_XML_NO_DOMAIN | libvirt.DOMAIN_CHECKPOINT_XML_SIZE)
		if err == nil {
			return doc, nil
		}
	}
	return checkpoint.GetXMLDesc(libvirt.DOMAIN_CHECKPOINT_XML_NO_DOMAIN)
}

// CheckpointXML returns the <domaincheckpoint> document of one checkpoint, without sizes and without the domain
// (virDomainCheckpointLookupByName, virDomainCheckpointGetXMLDesc, since 5.6); ErrNoCheckpoint if there is none.
func (d *Domain) CheckpointXML(name string) (doc string, err error) {
	err = d.withCheckpoint(name, func(checkpoint *libvirt.DomainCheckpoint) error {
		doc, err = checkpointXML(checkpoint, false)
		return err
	})
	return doc, about(err, "read checkpoint %s of domain %s", name, d.name)
}

// CheckpointSizes is CheckpointXML with sizes, of a running domain (XML_SIZE). Unlike Checkpoints it fails where libvirt
// cannot tell (ErrNotRunning, ErrBusy): a disk that comes without a size has no usable bitmap, or is not one of the domain's.
func (d *Domain) CheckpointSizes(name string) (doc string, err error) {
	err = d.withCheckpoint(name, func(checkpoint *libvirt.DomainCheckpoint) error {
		doc, err = checkpoint.GetXMLDesc(libvirt.DOMAIN_CHECKPOINT_XML_NO_DOMAIN | libvirt.DOMAIN_CHECKPOINT_XML_SIZE)
		return err
	})
	return doc, about(d.orNotRunning(err), "read the sizes of checkpoint %s of domain %s", name, d.name)
}

// DeleteCheckpoint deletes a checkpoint and its bitmaps, which needs a running domain; its children stay, and remain
// usable. With metadataOnly only libvirt's record is deleted, which is all that can be done if the bitmaps are lost
// (virDomainCheckpointDelete, since 5.6). ErrNoCheckpoint if there is none. ErrMayLackBitmap if QEMU has not refused anything:
// then all bitmaps stay, and a disk may lack its own; RedefineCheckpoint with validate finds out.
func (d *Domain) DeleteCheckpoint(name string, metadataOnly bool) error {
	var flags libvirt.DomainCheckpointDeleteFlags
	if metadataOnly {
		flags = libvirt.DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
	}
	err := d.withCheckpoint(name, func(checkpoint *libvirt.DomainCheckpoint) error { return checkpoint.Delete(flags) })
	return about(d.orNotRunning(deleteError(err)), "delete checkpoint %s of domain %s", name, d.name)
}

// RedefineCheckpoint gives libvirt back its record of a checkpoint whose bitmaps are still in the images
// (virDomainCheckpointCreateXML with REDEFINE, since 5.6); parents have to come first. With validate libvirt checks the
// bitmaps too (REDEFINE_VALIDATE, since 6.10, running domain only) and answers ErrCheckpointInconsistent. Without, libvirt
// 9.0.0 takes every document, also of raw disks and of none; ErrBitmap where another refuses those.
func (d *Domain) RedefineCheckpoint(doc string, validate bool) error {
	flags := libvirt.DOMAIN_CHECKPOINT_CREATE_REDEFINE
	if validate {
		flags |= libvirt.DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
	}
	err := d.once(func(dom *libvirt.Domain) error {
		checkpoint, err := dom.CreateCheckpointXML(doc, flags)
		if err == nil {
			_ = checkpoint.Free()
		}
		return err
	})
	return about(d.orNotRunning(beginError(err)), "redefine a checkpoint of domain %s", d.name)
}

// CreateCheckpoint makes a checkpoint without a backup (virDomainCheckpointCreateXML, since 5.6), which needs a running
// domain. It is never tried twice. ErrBitmap if a disk cannot have the bitmap, and the kinds of BackupBegin.
func (d *Domain) CreateCheckpoint(doc string) error {
	err := d.once(func(dom *libvirt.Domain) error {
		checkpoint, err := dom.CreateCheckpointXML(doc, 0)
		if err == nil {
			_ = checkpoint.Free()
		}
		return err
	})
	return about(d.orNotRunning(beginError(err)), "create a checkpoint of domain %s", d.name)
}

func (d *Domain) withCheckpoint(name string, f func(*libvirt.DomainCheckpoint) error) error {
	return d.with(func(dom *libvirt.Domain) error {
		checkpoint, err := dom.CheckpointLookupByName(name, 0)
		if err != nil {
			return err
		}
		defer func() { _ = checkpoint.Free() }()
		return f(checkpoint)
	})
}
