package xml

import (
	"encoding/xml"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// CheckpointDisk is a disk's part in a checkpoint.
type CheckpointDisk struct {
	Target string
	Bitmap string // name of the dirty bitmap; "" for checkpoint='no'
	Size   int64  // bytes that a backup since the checkpoint would export, as libvirt estimates it; -1 unknown
}

// Checkpoint is libvirt's record of an instant.
type Checkpoint struct {
	Name        string
	Description string
	Parent      string    // name of the checkpoint that was the current one before, "" for a root
	Created     time.Time // whole seconds; zero where the document does not say
	Disks       []CheckpointDisk
}

// checkpointDocument mirrors formatcheckpoint. libvirtxml.DomainCheckpoint cannot tell size='0' (nothing changed) from
// no size at all (the bitmap is broken), and that difference is what a plan needs.
type checkpointDocument struct {
	XMLName      xml.Name         `xml:"domaincheckpoint"`
	Name         string           `xml:"name,omitempty"`
	Description  string           `xml:"description,omitempty"`
	Parent       *parentElement   `xml:"parent"`
	CreationTime string           `xml:"creationTime,omitempty"`
	Disks        []diskOfDocument `xml:"disks>disk"`
}

type parentElement struct {
	Name string `xml:"name"`
}

type diskOfDocument struct {
	Name       string `xml:"name,attr"`
	Checkpoint string `xml:"checkpoint,attr,omitempty"`
	Bitmap     string `xml:"bitmap,attr,omitempty"`
	Size       string `xml:"size,attr,omitempty"`
}

// checkpointName is what libvirt's schema takes; a leading dot or a slash would also clash with the file that libvirt keeps
// the checkpoint in.
var checkpointName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*$`)

// Marshal returns the <domaincheckpoint> document for virDomainBackupBegin, or, where Created and Parent are set, for
// virDomainCheckpointCreateXML with REDEFINE (formatcheckpoint: "normally only the name, description, and disks elements are
// settable"; redefining, "all of the XML fields described here are relevant on input").
//
// Every disk is listed with 'bitmap' or 'no'. formatcheckpoint, "disks": "If the entire element was omitted on input, then
// all disks participate in the checkpoint, otherwise, only the disks explicitly listed which do not also use
// checkpoint='no' will participate"; and one raw disk that takes part fails the call.
func (c Checkpoint) Marshal() (string, error) {
	if err := c.validate(); err != nil {
		return "", fmt.Errorf("domaincheckpoint: %w", err)
	}
	doc := checkpointDocument{Name: c.Name, Description: c.Description}
	if c.Parent != "" {
		doc.Parent = &parentElement{Name: c.Parent}
	}
	if !c.Created.IsZero() {
		doc.CreationTime = strconv.FormatInt(c.Created.Unix(), 10)
	}
	for _, disk := range c.Disks {
		element := diskOfDocument{Name: disk.Target, Checkpoint: "no"}
		if disk.Bitmap != "" {
			element.Checkpoint, element.Bitmap = "bitmap", disk.Bitmap
		}
		doc.Disks = append(doc.Disks, element)
	}
	text, err := xml.MarshalIndent(doc, "", "  ")
	return string(text), err
}

func (c Checkpoint) validate() error {
	if !checkpointName.MatchString(c.Name) {
		return fmt.Errorf("libvirt does not take %q as the name of a checkpoint", c.Name)
	}
	if err := checkText("description", c.Description); err != nil {
		return err
	}
	if err := checkText("parent", c.Parent); err != nil {
		return err
	}
	if len(c.Disks) == 0 {
		return fmt.Errorf("checkpoint %s has no disks", c.Name)
	}
	targets := make([]string, 0, len(c.Disks))
	for _, disk := range c.Disks {
		targets = append(targets, disk.Target)
		if err := checkText("bitmap", disk.Bitmap); err != nil {
			return err
		}
	}
	return checkTargets(targets)
}

// ParseCheckpoint reads the <domaincheckpoint> document of virDomainCheckpointGetXMLDesc. A disk without a size has -1:
// either the sizes were not asked for (formatcheckpoint, "size": "only present if the VIR_DOMAIN_CHECKPOINT_XML_SIZE flag was
// used"), or its bitmap is broken, which libvirt 9.0.0 does not report otherwise.
func ParseCheckpoint(doc string) (Checkpoint, error) {
	var raw checkpointDocument
	if err := unmarshalRoot(doc, "domaincheckpoint", &raw); err != nil {
		return Checkpoint{}, err
	}
	if raw.Name == "" {
		return Checkpoint{}, fmt.Errorf("parse domaincheckpoint XML: no name")
	}
	checkpoint := Checkpoint{Name: raw.Name, Description: raw.Description}
	if raw.Parent != nil {
		checkpoint.Parent = raw.Parent.Name
	}
	var err error
	if checkpoint.Created, err = parseTime(raw.CreationTime); err != nil {
		return Checkpoint{}, fmt.Errorf("parse XML of checkpoint %s: %w", raw.Name, err)
	}
	for _, element := range raw.Disks {
		disk, err := newCheckpointDisk(raw.Name, element)
		if err != nil {
			return Checkpoint{}, fmt.Errorf("parse XML of checkpoint %s: %w", raw.Name, err)
		}
		checkpoint.Disks = append(checkpoint.Disks, disk)
	}
	return checkpoint, nil
}

func newCheckpointDisk(checkpoint string, raw diskOfDocument) (CheckpointDisk, error) {
	disk := CheckpointDisk{Target: raw.Name, Size: -1}
	if raw.Name == "" {
		return disk, fmt.Errorf("a disk without a name")
	}
	if raw.Checkpoint != "no" {
		disk.Bitmap = raw.Bitmap
		if disk.Bitmap == "" {
			disk.Bitmap = checkpoint // formatcheckpoint, "bitmap": "defaulting to the checkpoint name"
		}
	}
	if raw.Size != "" {
		size, err := strconv.ParseInt(raw.Size, 10, 64)
		if err != nil || size < 0 {
			return disk, fmt.Errorf("disk %s: size %q is not a number of bytes", raw.Name, raw.Size)
		}
		disk.Size = size
	}
	return disk, nil
}

// parseTime reads a <creationTime>, in seconds since the Epoch; "" is the zero time.
func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("creationTime %q is not a number of seconds", s)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// WithSizes returns the document of a checkpoint with the sizes of its bitmaps, in bytes; ok is
// false for a bitmap that cannot be used.
func WithSizes(doc string, size func(target, bitmap string) (bytes int64, ok bool)) (string, error) {
	var raw checkpointDocument
	if err := unmarshalRoot(doc, "domaincheckpoint", &raw); err != nil {
		return "", err
	}
	for i := range raw.Disks {
		d := &raw.Disks[i]
		d.Size = ""
		if bytes, ok := size(d.Name, d.Bitmap); ok && d.Bitmap != "" {
			d.Size = strconv.FormatInt(bytes, 10)
		}
	}
	text, err := xml.MarshalIndent(raw, "", "  ")
	return string(text), err
}
