package xml

import (
	"encoding/xml"
	"fmt"

	"libvirt.org/go/libvirtxml"
)

// BackupDisk is a disk that a job exports.
type BackupDisk struct {
	Target      string
	Incremental string // the checkpoint since which changes are exported, "" for backupmode='full'
	Scratch     string // absolute path of the file that libvirt makes, QEMU saves old blocks into, and libvirt deletes
}

// Backup describes a pull-mode job, one NBD server on a unix socket for all of its disks.
type Backup struct {
	Socket string // absolute; QEMU creates it, as its own user
	Disks  []BackupDisk
	Leave  []string // targets that get backup='no'
}

// Marshal returns the <domainbackup> document for virDomainBackupBegin. Nothing is left to libvirt's defaults:
//
//   - <scratch>: where <disks> is omitted "libvirt attempts to generate filenames by appending the current timestamp"
//     (formatbackup, "disks") to the disk's own path, and libvirt 9.0.0 gives a listed disk without one no name at all;
//   - backupmode: a raw or new disk is copied in full in the same job in which the others are incremental;
//   - backup: "only the disks explicitly listed which do not also use backup='no' will participate", so that 'no' changes
//     nothing, but the plan is then visible in the job's XML.
//
// It fails on a job without disks, paths that are not absolute, repeated targets, and text that XML cannot carry.
func (b Backup) Marshal() (string, error) {
	if err := b.validate(); err != nil {
		return "", fmt.Errorf("domainbackup: %w", err)
	}
	disks := make([]libvirtxml.DomainBackupPullDisk, 0, len(b.Disks)+len(b.Leave))
	for _, disk := range b.Disks {
		disks = append(disks, disk.element())
	}
	for _, target := range b.Leave {
		disks = append(disks, libvirtxml.DomainBackupPullDisk{Name: target, Backup: "no"})
	}
	doc := libvirtxml.DomainBackup{Pull: &libvirtxml.DomainBackupPull{
		Server: &libvirtxml.DomainBackupPullServer{UNIX: &libvirtxml.DomainBackupPullServerUNIX{Socket: b.Socket}},
		Disks:  &libvirtxml.DomainBackupPullDisks{Disks: disks},
	}}
	return doc.Marshal()
}

func (d BackupDisk) element() libvirtxml.DomainBackupPullDisk {
	element := libvirtxml.DomainBackupPullDisk{
		Name:       d.Target,
		Backup:     "yes",
		BackupMode: "full",
		Driver:     &libvirtxml.DomainBackupDiskDriver{Type: "qcow2"},
		Scratch:    &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: d.Scratch}},
	}
	if d.Incremental != "" {
		element.BackupMode, element.Incremental = "incremental", d.Incremental
	}
	return element
}

func (b Backup) validate() error {
	if len(b.Disks) == 0 {
		return fmt.Errorf("no disks")
	}
	if err := checkPath("socket", b.Socket); err != nil {
		return err
	}
	targets := append([]string(nil), b.Leave...)
	scratches := make(map[string]string)
	for _, disk := range b.Disks {
		targets = append(targets, disk.Target)
		if err := checkPath("scratch file", disk.Scratch); err != nil {
			return fmt.Errorf("disk %s: %w", disk.Target, err)
		}
		if err := checkText("checkpoint", disk.Incremental); err != nil {
			return fmt.Errorf("disk %s: %w", disk.Target, err)
		}
		if other, taken := scratches[disk.Scratch]; taken {
			return fmt.Errorf("disks %s and %s have the same scratch file %s", other, disk.Target, disk.Scratch)
		}
		scratches[disk.Scratch] = disk.Target
	}
	return checkTargets(targets)
}

// JobDisk is a disk of a running job, as libvirt resolved it.
type JobDisk struct {
	Target      string
	Export      string // name of the NBD export
	Bitmap      string // exportbitmap; the NBD context is "qemu:dirty-bitmap:"+Bitmap. "" where the disk is not incremental
	Scratch     string // path of the scratch file or device
	Incremental bool
}

// Job is a running backup job, perhaps another tool's.
type Job struct {
	Push   bool   // a push job, which has no server; no job of ours is one
	Socket string // of the NBD server, "" where it listens on TCP or is a push job
	Disks  []JobDisk
}

// ParseBackup reads the <domainbackup> document of virDomainBackupGetXMLDesc, which has all names filled in. Disks with
// backup='no' are left out. An export without a name has the disk's target (formatbackup, "exportname": "By default equal to
// disk target").
func ParseBackup(doc string) (Job, error) {
	var raw libvirtxml.DomainBackup
	if err := unmarshalRoot(doc, "domainbackup", &raw); err != nil {
		return Job{}, err
	}
	if raw.Pull == nil {
		return Job{Push: true}, nil
	}
	var job Job
	if server := raw.Pull.Server; server != nil && server.UNIX != nil {
		job.Socket = server.UNIX.Socket
	}
	if raw.Pull.Disks == nil {
		return job, nil
	}
	for _, disk := range raw.Pull.Disks.Disks {
		if disk.Backup == "no" {
			continue
		}
		if disk.Name == "" {
			return Job{}, fmt.Errorf("parse domainbackup XML: a disk without a name")
		}
		job.Disks = append(job.Disks, newJobDisk(disk))
	}
	return job, nil
}

func newJobDisk(raw libvirtxml.DomainBackupPullDisk) JobDisk {
	disk := JobDisk{
		Target:      raw.Name,
		Export:      raw.ExportName,
		Bitmap:      raw.ExportBitmap,
		Incremental: raw.BackupMode == "incremental" || raw.BackupMode == "" && raw.Incremental != "",
	}
	if disk.Export == "" {
		disk.Export = raw.Name
	}
	if raw.Scratch != nil {
		_, disk.Scratch = sourceOf(raw.Scratch)
	}
	return disk
}

// unmarshalRoot reads doc into v after checking that its root element is the wanted one: libvirtxml's own decoders take
// any root.
func unmarshalRoot(doc, root string, v any) error {
	var name struct{ XMLName xml.Name }
	if err := xml.Unmarshal([]byte(doc), &name); err != nil {
		return fmt.Errorf("parse %s XML: %w", root, err)
	}
	if name.XMLName.Local != root {
		return fmt.Errorf("parse %s XML: the root element is %s", root, name.XMLName.Local)
	}
	if err := xml.Unmarshal([]byte(doc), v); err != nil {
		return fmt.Errorf("parse %s XML: %w", root, err)
	}
	return nil
}
