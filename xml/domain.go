package xml

import (
	"cmp"
	"encoding/xml"
	"fmt"

	"libvirt.org/go/libvirtxml"
)

// Disk is one <disk> of a domain.
type Disk struct {
	Target         string   // <target dev=>, the name that libvirt's backup and checkpoint documents use: "vda"
	Device         string   // "disk", "lun", "cdrom" or "floppy"
	Bus            string   // <target bus=>: "virtio", "scsi", "sd", … or "" where the document does not say
	Source         string   // path, or its equivalent: "pool/volume", "rbd:pool/image"; "" without a medium
	SourceType     string   // "file", "block", "dir", "network", "volume", "nvme", "vhostuser", "vhostvdpa"; "" where empty
	Format         string   // <driver type=>: "qcow2", "raw", …
	Index          uint     // <source index=>, from which libvirt makes the names of QEMU's nodes; 0 if the domain does not run
	Backing        []string // <backingStore>: sources below Source, as far as libvirt lists them; it does for a domain that runs
	BackingFormats []string // <backingStore>: the formats of Backing, "" where the document does not say
	BackingEnds    bool     // <backingStore/>: nothing is below the last of Backing, or below Source
	Special        string   // what of <source> is not in the file that it names: "slices", "dataStore"; "" nothing
	ReadOnly       bool     // <readonly/>
	Transient      bool     // <transient/>: changes are thrown away when the guest stops
	Shareable      bool     // <shareable/>: other guests may write to it, and this guest's dirty bitmap does not see that
	Encrypted      bool     // <encryption>: QEMU decrypts, so what is read over NBD is plain
}

// Domain is what a backup has to know from a domain's XML.
type Domain struct {
	Name  string
	UUID  string
	Disks []Disk // in the order of the document
}

// domainDocument holds only what is read, so that a device that libvirtxml does not know cannot fail a backup.
type domainDocument struct {
	XMLName xml.Name                `xml:"domain"`
	Name    string                  `xml:"name"`
	UUID    string                  `xml:"uuid"`
	Disks   []libvirtxml.DomainDisk `xml:"devices>disk"`
}

// ParseDomain reads a <domain> document as virDomainGetXMLDesc returns it. It fails on a document that is not one, and
// on a domain without a name or UUID; a disk without a target is an error too, as libvirt always gives one.
func ParseDomain(doc string) (Domain, error) {
	var raw domainDocument
	if err := xml.Unmarshal([]byte(doc), &raw); err != nil {
		return Domain{}, fmt.Errorf("parse domain XML: %w", err)
	}
	if raw.Name == "" || raw.UUID == "" {
		return Domain{}, fmt.Errorf("parse domain XML: no name or no uuid")
	}
	domain := Domain{Name: raw.Name, UUID: raw.UUID}
	for i := range raw.Disks {
		disk := newDisk(&raw.Disks[i])
		if disk.Target == "" {
			return Domain{}, fmt.Errorf("parse XML of domain %s: disk %d has no target", raw.Name, i+1)
		}
		domain.Disks = append(domain.Disks, disk)
	}
	return domain, nil
}

// FormatNode is the name of the node of QEMU's that interprets the image's format, "" where the domain does not run
// (libvirt's qemu_block.c: "libvirt-%u-format").
func (d Disk) FormatNode() string {
	if d.Index == 0 {
		return ""
	}
	return fmt.Sprintf("libvirt-%d-format", d.Index)
}

// Disk returns the disk with that target.
func (d Domain) Disk(target string) (Disk, bool) {
	for _, disk := range d.Disks {
		if disk.Target == target {
			return disk, true
		}
	}
	return Disk{}, false
}

func newDisk(raw *libvirtxml.DomainDisk) Disk {
	disk := Disk{
		Device:    "disk", // formatdomain, "device": "defaulting to" disk
		Format:    "raw",  // without a driver type libvirt does not probe (CVE-2010-2237), and means raw
		ReadOnly:  raw.ReadOnly != nil,
		Transient: raw.Transient != nil,
		Shareable: raw.Shareable != nil,
		Encrypted: raw.Encryption != nil || raw.Source != nil && raw.Source.Encryption != nil,
	}
	if raw.Device != "" {
		disk.Device = raw.Device
	}
	if raw.Driver != nil && raw.Driver.Type != "" {
		disk.Format = raw.Driver.Type
	}
	if raw.Target != nil {
		disk.Target, disk.Bus = raw.Target.Dev, raw.Target.Bus
	}
	if raw.Source != nil {
		disk.SourceType, disk.Source = sourceOf(raw.Source)
		disk.Index, disk.Special = raw.Source.Index, special(raw.Source)
	}
	disk.addBacking(raw.BackingStore)
	return disk
}

// addBacking reads the elements <backingStore>, one in the other.
func (d *Disk) addBacking(b *libvirtxml.DomainDiskBackingStore) {
	for ; b != nil; b = b.BackingStore {
		name := ""
		if b.Source != nil {
			_, name = sourceOf(b.Source)
		}
		if name == "" {
			d.BackingEnds = true
			return
		}
		format := ""
		if b.Format != nil {
			format = b.Format.Type
		}
		d.Backing, d.BackingFormats = append(d.Backing, name), append(d.BackingFormats, format)
		d.Special = cmp.Or(d.Special, special(b.Source))
	}
}

// special names what makes a source other than the file that it names (formatdomain, "slices",
// "dataStore").
func special(s *libvirtxml.DomainDiskSource) string {
	switch {
	case s.Slices != nil:
		return "slices"
	case s.DataStore != nil:
		return "dataStore"
	}
	return ""
}

// sourceOf returns the type and a readable name of a disk's source, both "" for a drive without a medium.
func sourceOf(s *libvirtxml.DomainDiskSource) (kind, name string) {
	switch {
	case s.File != nil:
		kind, name = "file", s.File.File
	case s.Block != nil:
		kind, name = "block", s.Block.Dev
	case s.Dir != nil:
		kind, name = "dir", s.Dir.Dir
	case s.Network != nil:
		kind, name = "network", s.Network.Protocol+":"+s.Network.Name
	case s.Volume != nil:
		kind, name = "volume", s.Volume.Pool+"/"+s.Volume.Volume
	case s.NVME != nil:
		return "nvme", nvmeName(s.NVME)
	case s.VHostUser != nil:
		return "vhostuser", "vhost-user"
	case s.VHostVDPA != nil:
		kind, name = "vhostvdpa", s.VHostVDPA.Dev
	}
	if name == "" || name == ":" || name == "/" {
		return "", ""
	}
	return kind, name
}

func nvmeName(s *libvirtxml.DomainDiskSourceNVME) string {
	if s.PCI == nil {
		return "nvme"
	}
	name := fmt.Sprintf("nvme:%d", s.PCI.Namespace)
	if a := s.PCI.Address; a != nil && a.Domain != nil && a.Bus != nil && a.Slot != nil && a.Function != nil {
		name = fmt.Sprintf("%04x:%02x:%02x.%x/%d", *a.Domain, *a.Bus, *a.Slot, *a.Function, s.PCI.Namespace)
	}
	return name
}

// Unfit returns why a backup leaves the disk out, or "" if it takes it. libvirt itself leaves empty and read-only disks out
// where it chooses (virDomainBackupAlignDisks), and fails a job that names a disk on an SD bus, a transient or a vhost-user
// one (qemuDomainDiskBlockJobIsSupported).
func (d Disk) Unfit() string {
	switch {
	case d.Device == "cdrom" || d.Device == "floppy":
		return d.Device
	case d.Source == "":
		return "empty"
	case d.ReadOnly:
		return "read-only"
	case d.Transient:
		return "transient"
	case d.Bus == "sd":
		return "sd bus"
	case d.SourceType == "vhostuser":
		return "vhost-user"
	case d.SourceType == "vhostvdpa":
		return "vhost-vdpa"
	case d.SourceType == "dir":
		return "directory"
	}
	return ""
}
