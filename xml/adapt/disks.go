package adapt

import (
	"fmt"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// disks leads the disks to their restored images.
func (a *adapter) disks() {
	restored := map[string]Disk{}
	for _, d := range a.Disks {
		restored[d.Target] = d
	}
	for _, disk := range a.devices("disk") {
		target := disk.Child("target").Value("dev")
		disk.Child("mirror").Remove()
		disk.Child("source").RemoveAttr("index")
		if d, ok := restored[target]; ok {
			delete(restored, target)
			a.rewrite(disk, d)
		} else {
			a.keep(disk, target)
		}
	}
	for _, d := range a.Disks {
		if _, left := restored[d.Target]; left {
			a.unused = append(a.unused, d)
		}
	}
	if len(a.unused) > 0 && len(a.unused) == len(a.Disks) {
		a.fails(fmt.Errorf("the XML of the domain has no disk %s", a.unused[0].Target))
	}
}

// rewrite makes a disk a file.
func (a *adapter) rewrite(disk *edit.Element, d Disk) {
	source := disk.Child("source")
	what := describe(disk)
	if disk.Value("device") == "lun" { // SCSI passthrough needs a device
		disk.SetAttr("device", "disk")
		disk.RemoveAttr("sgio")
		disk.RemoveAttr("rawio")
		a.note("disk %s is a disk and no longer a LUN: the guest's SCSI commands do not reach a device", d.Target)
	}
	if disk.Child("encryption") != nil || source.Child("encryption") != nil {
		a.note("disk %s was encrypted and is not any more: points hold plain data", d.Target)
	}
	for _, label := range source.Children("seclabel") {
		a.note("disk %s had a security label of its own (%s, relabel %q), which is dropped", d.Target, label.Value("model"), label.Value("relabel"))
	}
	if disk.Child("shareable") != nil {
		a.note("disk %s is marked as shared (<shareable/>), as it was: the other guests do not use this image", d.Target)
	}
	for _, dropped := range []string{"backingStore", "encryption", "auth"} {
		disk.Child(dropped).Remove()
	}
	disk.SetAttr("type", "file")
	a.driver(disk, d.Format)
	if d.Stop {
		for _, policy := range policies {
			disk.Child("driver").SetAttr(policy, "stop")
		}
	}
	if source == nil {
		source = a.insert(disk.Child("target"), "<source/>")
	}
	policy := source.Value("startupPolicy")
	strip(source)
	source.SetAttr("file", d.Image)
	if policy != "" {
		source.SetAttr("startupPolicy", policy)
	}
	if what != d.Image {
		a.note("disk %s: the file %s instead of %s", d.Target, d.Image, what)
	}
}

// driver sets the image's format, without which libvirt takes it for raw.
func (a *adapter) driver(disk *edit.Element, format string) {
	driver := disk.Child("driver")
	if driver == nil {
		first := disk.Child("source")
		if first == nil {
			first = disk.Child("target")
		}
		driver = a.insert(first, "<driver name='qemu'/>")
	}
	driver.SetAttr("type", format)
	if format != "qcow2" {
		driver.Child("metadata_cache").Remove() // which only qcow2 has
	}
}

// keep leaves a disk that is not in the point as it is, but for one that a copy would write to,
// as the original does. A drive whose medium is not on this host becomes empty: the domain
// would not start.
func (a *adapter) keep(disk *edit.Element, target string) {
	source := disk.Child("source")
	device := disk.Value("device")
	path := source.Value("file") + source.Value("dev")
	removable := device == "cdrom" || device == floppy
	switch {
	case source == nil:
	case a.renamed() && a.writes(disk) && device == floppy:
		a.note("the floppy drive %s is empty: the original writes to its medium, %s", target, describe(disk))
		a.eject(disk)
	case a.renamed() && a.writes(disk):
		a.note("disk %s is not in the point and left out of the copy: the original writes to it, %s", target, describe(disk))
		disk.Remove()
	case source.Value("startupPolicy") == "optional":
	case removable && path != "" && !a.Exists(path):
		a.note("the %s drive %s is empty: its medium %s is not on this host", device, target, path)
		a.eject(disk)
	case removable:
	case disk.Child("readonly") != nil:
		a.note("disk %s is not in the point: it is kept as it was, on %s, for reading only", target, describe(disk))
	default:
		a.note("disk %s is not in the point: it is kept as it was, on %s", target, describe(disk))
	}
}

const floppy = "floppy"

// writes says whether the domain writes to what a disk is on. QEMU keeps what is written to a
// transient disk elsewhere, and removes it in the end.
func (a *adapter) writes(disk *edit.Element) bool {
	return disk.Value("device") != "cdrom" && disk.Child("readonly") == nil && disk.Child("transient") == nil
}

// eject makes a drive empty.
func (a *adapter) eject(disk *edit.Element) {
	disk.Child("source").Remove()
	disk.Child("backingStore").Remove()
}

// describe names what a disk is on.
func describe(disk *edit.Element) string {
	source := disk.Child("source")
	switch disk.Value("type") {
	case "file":
		return source.Value("file")
	case "block":
		return "the block device " + source.Value("dev")
	case "volume":
		return fmt.Sprintf("the volume %s of the pool %s", source.Value("volume"), source.Value("pool"))
	case "network":
		return fmt.Sprintf("%s over the network (%s)", source.Value("name"), source.Value("protocol"))
	case "dir":
		return "the directory " + source.Value("dir")
	case "nvme":
		return "the NVMe device " + pciAddress(source.Child("address"))
	case "vhostuser":
		return "the vhost-user socket " + source.Value("path")
	case "vhostvdpa":
		return "the vDPA device " + source.Value("dev")
	}
	return "its source of type " + disk.Value("type")
}

// strip removes all attributes of an element, and all elements in it.
func strip(e *edit.Element) {
	for _, name := range e.AttrNames() {
		e.RemoveAttr(name)
	}
	for _, child := range e.Elements() {
		child.Remove()
	}
	e.Empty()
}

func (a *adapter) insert(before *edit.Element, text string) *edit.Element {
	e, err := before.InsertBefore(text)
	if err != nil {
		a.fails(err)
	}
	return e
}

func (a *adapter) add(to *edit.Element, text string) *edit.Element {
	e, err := to.Append(text)
	if err != nil {
		a.fails(err)
	}
	return e
}
