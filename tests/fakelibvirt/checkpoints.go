package fakelibvirt

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
)

// record is libvirt's record of a checkpoint.
type record struct {
	name, description, parent string
	created                   int64
	disks                     []recordDisk
}

type recordDisk struct{ target, bitmap string } // "": the checkpoint does not cover it

// document is a <domaincheckpoint>.
type document struct {
	XMLName     xml.Name `xml:"domaincheckpoint"`
	Name        string   `xml:"name"`
	Description string   `xml:"description"`
	Parent      string   `xml:"parent>name"`
	Created     int64    `xml:"creationTime"`
	Disks       []struct {
		Name       string `xml:"name,attr"`
		Checkpoint string `xml:"checkpoint,attr"`
		Bitmap     string `xml:"bitmap,attr"`
	} `xml:"disks>disk"`
}

func parseCheckpoint(text string) (*record, error) {
	var doc document
	if err := xml.Unmarshal([]byte(text), &doc); err != nil {
		return nil, failure(nil, "XML error: %v", err)
	}
	r := &record{name: doc.Name, description: doc.Description, parent: doc.Parent, created: doc.Created}
	for _, d := range doc.Disks {
		disk := recordDisk{target: d.Name}
		if d.Checkpoint != "no" {
			disk.bitmap = d.Bitmap
			if disk.bitmap == "" {
				disk.bitmap = doc.Name
			}
		}
		r.disks = append(r.disks, disk)
	}
	return r, nil
}

// text is the document of a checkpoint, with sizes as far as its bitmaps are good.
func (d *Domain) text(r *record, sizes bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "<domaincheckpoint><name>%s</name><description>%s</description>", r.name, r.description)
	if r.parent != "" {
		fmt.Fprintf(&b, "<parent><name>%s</name></parent>", r.parent)
	}
	fmt.Fprintf(&b, "<creationTime>%d</creationTime><disks>", r.created)
	for _, rd := range r.disks {
		if rd.bitmap == "" {
			fmt.Fprintf(&b, "<disk name='%s' checkpoint='no'/>", rd.target)
			continue
		}
		size := ""
		if bitmap := d.bitmap(rd); sizes && bitmap != nil && !bitmap.broken {
			size = fmt.Sprintf(" size='%d'", bitmap.size())
		}
		fmt.Fprintf(&b, "<disk name='%s' checkpoint='bitmap' bitmap='%s'%s/>", rd.target, rd.bitmap, size)
	}
	return b.String() + "</disks></domaincheckpoint>"
}

// bitmap is that of a disk of a checkpoint, nil if there is none.
func (d *Domain) bitmap(rd recordDisk) *bitmap {
	disk := d.disk(rd.target)
	if disk == nil {
		return nil
	}
	return disk.bitmaps[rd.bitmap]
}

func (d *Domain) record(name string) (*record, error) {
	if i := slices.IndexFunc(d.checkpoints, func(r *record) bool { return r.name == name }); i >= 0 {
		return d.checkpoints[i], nil
	}
	return nil, failure(hypervisor.ErrNoCheckpoint, "Domain checkpoint not found: no domain checkpoint with matching name '%s'", name)
}

// Checkpoints are the documents of all checkpoints.
func (d *Domain) Checkpoints(sizes bool) (docs []string, err error) {
	if err := d.call("Checkpoints"); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.checkpoints {
		docs = append(docs, d.text(r, sizes && d.state != hypervisor.ShutOff))
	}
	return docs, nil
}

// CheckpointXML is the document of one checkpoint, without sizes.
func (d *Domain) CheckpointXML(name string) (string, error) {
	if err := d.call("CheckpointXML"); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := d.record(name)
	if err != nil {
		return "", err
	}
	return d.text(r, false), nil
}

// CheckpointSizes is the same with sizes, of a domain that runs.
func (d *Domain) CheckpointSizes(name string) (string, error) {
	if err := d.call("CheckpointSizes"); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := d.record(name)
	switch {
	case err != nil:
		return "", err
	case d.state == hypervisor.ShutOff:
		return "", d.notRunning()
	}
	return d.text(r, true), nil
}

// CreateCheckpoint makes a checkpoint without a backup.
func (d *Domain) CreateCheckpoint(text string) error {
	if err := d.call("CreateCheckpoint"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == hypervisor.ShutOff {
		return d.notRunning()
	}
	if err := d.create(text); err != nil {
		return err
	}
	return d.done("CreateCheckpoint")
}

// create makes a checkpoint and its bitmaps, or none of them.
func (d *Domain) create(text string) error {
	r, err := parseCheckpoint(text)
	if err != nil {
		return err
	}
	if _, err := d.record(r.name); err == nil {
		return failure(hypervisor.ErrCheckpointExists, "operation failed: domain moment %s already exists", r.name)
	}
	for _, rd := range r.disks {
		switch {
		case d.disk(rd.target) == nil:
			return failure(hypervisor.ErrBitmap, "unsupported configuration: no disk named '%s'", rd.target)
		case rd.bitmap != "" && slices.Contains(d.NoBitmaps, rd.target):
			return failure(hypervisor.ErrBitmap, "internal error: unable to execute QEMU command 'transaction': Can't make bitmap '%s' persistent in '%s'", rd.bitmap, rd.target)
		case rd.bitmap != "" && d.bitmap(rd) != nil:
			return failure(hypervisor.ErrCheckpointExists, "internal error: unable to execute QEMU command 'transaction': Bitmap already exists: %s", rd.bitmap)
		}
	}
	for _, rd := range r.disks {
		if rd.bitmap != "" {
			disk := d.disk(rd.target)
			disk.bitmaps[rd.bitmap] = &bitmap{dirty: make([]bool, clusters(len(disk.data)))}
		}
	}
	r.created, r.parent = time.Now().Unix(), ""
	if n := len(d.checkpoints); n > 0 {
		r.parent = d.checkpoints[n-1].name
	}
	d.checkpoints = append(d.checkpoints, r)
	return nil
}

// DeleteCheckpoint deletes the record of a checkpoint and, if asked, its bitmaps: all, or
// none where a disk of the domain does not have its own.
func (d *Domain) DeleteCheckpoint(name string, metadataOnly bool) error {
	if err := d.call("DeleteCheckpoint"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := d.record(name)
	switch {
	case err != nil:
		return err
	case !metadataOnly && d.state == hypervisor.ShutOff:
		return d.notRunning()
	case !metadataOnly && d.job != nil:
		return failure(hypervisor.ErrBusy, "Timed out during operation: cannot acquire state change lock")
	}
	if !metadataOnly {
		for _, rd := range r.disks {
			if rd.bitmap != "" && d.disk(rd.target) != nil && d.bitmap(rd) == nil {
				return failure(hypervisor.ErrMayLackBitmap, "internal error: bitmap '%s' not found in backing chain of '%s'", rd.bitmap, rd.target)
			}
		}
		for _, rd := range r.disks {
			if rd.bitmap != "" && d.disk(rd.target) != nil {
				delete(d.disk(rd.target).bitmaps, rd.bitmap)
			}
		}
	}
	d.checkpoints = slices.DeleteFunc(d.checkpoints, func(other *record) bool { return other == r })
	for _, child := range d.checkpoints {
		if child.parent == name {
			child.parent = r.parent
		}
	}
	return d.done("DeleteCheckpoint")
}

// RedefineCheckpoint defines a checkpoint whose bitmaps are in the images.
func (d *Domain) RedefineCheckpoint(text string, validate bool) error {
	if err := d.call("RedefineCheckpoint"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := parseCheckpoint(text)
	if err != nil {
		return err
	}
	if validate && d.state == hypervisor.ShutOff {
		return d.notRunning()
	}
	if r.parent != "" {
		if _, err := d.record(r.parent); err != nil {
			return failure(nil, "invalid argument: parent %s for moment %s not found", r.parent, r.name)
		}
	}
	for _, rd := range r.disks {
		if d.disk(rd.target) == nil {
			continue // libvirt looks at disks that the domain has
		}
		if b := d.bitmap(rd); validate && rd.bitmap != "" && (b == nil || b.broken) {
			return failure(hypervisor.ErrCheckpointInconsistent, "checkpoint inconsistent: missing or broken bitmap '%s' for disk '%s'", rd.bitmap, rd.target)
		}
	}
	if old, err := d.record(r.name); err == nil {
		*old = *r
		return d.done("RedefineCheckpoint")
	}
	d.checkpoints = append(d.checkpoints, r)
	return d.done("RedefineCheckpoint")
}
