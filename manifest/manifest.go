package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/digest"
)

// Kind is what a point, or one disk of it, holds.
type Kind string

// The kinds. A disk is KindFull or KindInc; a point may be any of them.
const (
	KindFull Kind = "full" // every cluster in use; a base for others
	KindInc  Kind = "inc"  // changes since the parent; a base for others
	KindDiff Kind = "diff" // changes since the parent; never a base
	KindCopy Kind = "copy" // every cluster in use; never a base
)

// MethodRescan is how a disk became an inc without a bitmap: read in full, and
// compared with its parent image.
const MethodRescan = "rescan"

// Values of Manifest.Consistency.
const (
	ConsistencyCrash      = "crash"      // as after a power cut
	ConsistencyFilesystem = "filesystem" // the guest's file systems were frozen
)

// FileName is the file that makes a directory a point.
const FileName = "manifest.json"

// DomainXML is the file of a point that holds libvirt's definition of the domain.
const DomainXML = "domain.xml"

// CheckpointXML is the file of a point that holds the definition of its checkpoint in libvirt.
const CheckpointXML = "checkpoint.xml"

// Manifest describes one point. Fields are only ever added.
type Manifest struct {
	Format     int       `json:"format"`
	Repository string    `json:"repository"` // UUID of repository.json
	ID         string    `json:"id"`
	Identity   string    `json:"identity,omitempty"` // of the instant, 16 hex digits; from format 2 on
	Kind       Kind      `json:"kind"`
	Parent     string    `json:"parent,omitempty"`     // id of the point that this one is chained onto
	ParentTime time.Time `json:"parent_time,omitzero"` // the instant that the parent shows: differs from that of another of its name
	// ParentIdentity is the parent's Identity, which is unique.
	ParentIdentity string    `json:"parent_identity,omitempty"`
	Checkpoint     string    `json:"checkpoint,omitempty"` // name of libvirt's checkpoint
	Domain         string    `json:"domain"`
	DomainUUID     string    `json:"domain_uuid"`
	Time           time.Time `json:"time"`     // the instant that the point shows, UTC
	Finished       time.Time `json:"finished"` // when the copy was complete, UTC
	Consistency    string    `json:"consistency"`
	Versions       Versions  `json:"versions"`
	Disks          []Disk    `json:"disks"`
	Extras         []Extra   `json:"extras,omitempty"`    // what else the domain needs to start; their digests are in Files
	Autostart      bool      `json:"autostart,omitempty"` // libvirt starts the domain with the host
	Gone           []string  `json:"gone,omitempty"`      // disks of the parent that the domain no longer has
	LeftOut        []LeftOut `json:"left_out,omitempty"`  // disks of the domain that the point does not have
	Warnings       []string  `json:"warnings,omitempty"`
	// Merged are the points that were merged into this one, oldest first: it shows what it
	// showed when it was made, and no longer needs them.
	Merged []string `json:"merged,omitempty"`
	// FullTime is, in a full that was merged, the instant of the full that its chain began
	// with: when all of the guest's disks was read.
	FullTime time.Time `json:"full_time,omitzero"`
	// Synthetic: the point was an inc, and was made standalone from its chain.
	Synthetic bool              `json:"synthetic,omitempty"`
	Files     map[string]string `json:"files"` // name -> "blake3:<hex>" of every other small file
}

// LeftOut is a disk of the domain that is not copied.
type LeftOut struct {
	Target string `json:"target"`
	Reason string `json:"reason"` // "cdrom", "read-only", "not chosen", …
}

// Versions names the programs that took part.
type Versions struct {
	Virtbackup string `json:"virtbackup"`
	Libvirt    string `json:"libvirt"`
	QEMU       string `json:"qemu"`
}

// Disk describes the image of one disk in a point. Sizes are in bytes.
type Disk struct {
	Target       string `json:"target"`
	Image        string `json:"image"` // file name in the point's directory
	Kind         Kind   `json:"kind"`
	Method       string `json:"method,omitempty"` // MethodRescan, or "" as the kind says
	Reason       string `json:"reason,omitempty"` // why it is not what was asked
	Parent       string `json:"parent,omitempty"` // parent image, relative: ../check1/vda.qcow2
	VirtualSize  int64  `json:"virtual_size"`
	Source       string `json:"source"`
	SourceFormat string `json:"source_format"`
	SourceID     string `json:"source_id,omitempty"` // differs for another file or device of the same name
	// SourceBackingIDs are those of the backing files of the source, the lowest one last, "" for
	// those that are unknown. That of one without bitmaps has the time when it was written to. nil:
	// it is unknown which backing files there were; empty: there were none.
	SourceBackingIDs []string `json:"source_backing_ids,omitzero"`
	// SourceEncrypted: the source is encrypted and QEMU decrypts it: the image here
	// is not encrypted.
	SourceEncrypted bool `json:"source_encrypted,omitempty"`
	// SourceOptions are those of a source in the format qcow2; zero if they are unknown.
	SourceOptions SourceOptions `json:"source_options,omitzero"`
	DataBytes     int64         `json:"data_bytes"`
	ZeroBytes     int64         `json:"zero_bytes"`
	ImageBytes    int64         `json:"image_bytes"`
	Hashes        string        `json:"hashes"`               // "blake3:<hex>" of the hash list, header and hashes
	HashRange     int64         `json:"hash_range,omitempty"` // bytes of the image that each of its hashes covers; 0 is 1 MiB
}

// Number is the N of the id, 0 where the id is not valid.
func (m Manifest) Number() int {
	_, n, _ := ParsePointID(m.ID)
	return n
}

// IsBase says whether other points may be chained onto this one.
func (m Manifest) IsBase() bool { return m.Kind == KindFull || m.Kind == KindInc }

// ReadInFull is, for a full, the instant when all of the guest's disks was read.
func (m Manifest) ReadInFull() time.Time {
	if m.FullTime.IsZero() {
		return m.Time
	}
	return m.FullTime
}

// Disk finds a disk by its target.
func (m Manifest) Disk(target string) (Disk, bool) {
	for _, d := range m.Disks {
		if d.Target == target {
			return d, true
		}
	}
	return Disk{}, false
}

// HashesFile is the name of the disk's hash list in the point's directory.
func (d Disk) HashesFile() string { return d.Target + HashesSuffix }

// ParentImage splits Parent into the id of the point and the name of the image
// there. Both are empty where the disk has no parent.
func (d Disk) ParentImage() (id, image string, err error) {
	if d.Parent == "" {
		return "", "", nil
	}
	parts := strings.Split(d.Parent, "/")
	if len(parts) != 3 || parts[0] != ".." {
		return "", "", fmt.Errorf("parent image %q is not ../POINT/IMAGE", d.Parent)
	}
	if _, _, err := ParsePointID(parts[1]); err != nil {
		return "", "", fmt.Errorf("parent image %q: %w", d.Parent, err)
	}
	if err := ValidName(parts[2]); err != nil {
		return "", "", fmt.Errorf("parent image %q: %w", d.Parent, err)
	}
	return parts[1], parts[2], nil
}

// ParentPath is the backing file name for an image whose parent is image in the
// point id.
func ParentPath(id, image string) string { return path.Join("..", id, image) }

// Encode returns the content of manifest.json.
func Encode(m Manifest) ([]byte, error) { return digest.EncodeJSON(m) }

// Parse reads the content of a manifest.json strictly: its digest, its
// JSON and all that Validate asks for. Fields it does not know are ignored, as
// newer versions may add them.
func Parse(data []byte) (Manifest, error) {
	var m Manifest
	if err := digest.ParseJSON(data, &m); err != nil {
		return Manifest{}, err
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// Validate says what is wrong with a manifest: names that would lead outside
// the point's directory, kinds that do not fit together, impossible sizes.
func (m Manifest) Validate() error {
	if err := CheckFormat(m.Format); err != nil {
		return err
	}
	if !ValidUUID(m.Repository) {
		return fmt.Errorf("repository %q is not a UUID", m.Repository)
	}
	if !ValidUUID(m.DomainUUID) {
		return fmt.Errorf("domain_uuid %q is not a UUID", m.DomainUUID)
	}
	if err := ValidName(m.Domain); err != nil {
		return fmt.Errorf("domain: %w", err)
	}
	if m.Consistency != ConsistencyCrash && m.Consistency != ConsistencyFilesystem {
		return fmt.Errorf("unknown consistency %q", m.Consistency)
	}
	if m.Time.IsZero() {
		return errors.New("no time")
	}
	if err := m.validateIdentity(); err != nil {
		return err
	}
	if err := m.validateLineage(); err != nil {
		return err
	}
	if err := m.validateDisks(); err != nil {
		return err
	}
	if err := m.validateFiles(); err != nil {
		return err
	}
	return m.validateExtras()
}

// validateIdentity compares the identities with the format and the checkpoint's name.
// Points of format 1 have none.
func (m Manifest) validateIdentity() error {
	switch {
	case m.Format < 2 && m.Identity+m.ParentIdentity != "":
		return fmt.Errorf("a point of format %d has no identity", m.Format)
	case m.Format < 2:
		return nil
	case !ValidIdentity(m.Identity):
		return fmt.Errorf("identity %q is not 16 hex digits", m.Identity)
	case m.ParentIdentity != "" && (m.Parent == "" || !ValidIdentity(m.ParentIdentity)):
		return fmt.Errorf("parent identity %q with the parent %q", m.ParentIdentity, m.Parent)
	case m.Checkpoint != "" && m.Checkpoint != CheckpointName(m.ID, m.Identity):
		return fmt.Errorf("checkpoint %q is not that of %s with the identity %s", m.Checkpoint, m.ID, m.Identity)
	}
	return nil
}

// validateLineage compares kind, id and parent with each other. A parent's number is
// always lower, so a chain of valid manifests cannot form a loop.
func (m Manifest) validateLineage() error {
	prefix, n, err := ParsePointID(m.ID)
	if err != nil {
		return err
	}
	want, known := map[Kind]string{
		KindFull: PrefixCheck, KindInc: PrefixCheck, KindDiff: PrefixDiff, KindCopy: PrefixCopy,
	}[m.Kind]
	if !known {
		return fmt.Errorf("unknown kind %q", m.Kind)
	}
	if prefix != want {
		return fmt.Errorf("a point of kind %s cannot have the id %s", m.Kind, m.ID)
	}
	if m.Checkpoint != "" {
		if err := ValidName(m.Checkpoint); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
	if m.Kind == KindFull || m.Kind == KindCopy {
		if m.Parent != "" {
			return fmt.Errorf("a point of kind %s cannot have the parent %q", m.Kind, m.Parent)
		}
		return nil
	}
	parentPrefix, parentN, err := ParsePointID(m.Parent)
	if err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	if parentPrefix != PrefixCheck || parentN >= n {
		return fmt.Errorf("%s cannot be the parent of %s", m.Parent, m.ID)
	}
	return nil
}

func (m Manifest) validateDisks() error {
	seen := map[string]bool{FileName: true}
	for _, d := range m.Disks {
		if err := d.validate(); err != nil {
			return fmt.Errorf("disk %q: %w", d.Target, err)
		}
		if id, _, _ := d.ParentImage(); id != "" && id != m.Parent {
			return fmt.Errorf("disk %q: parent image %q is not in the parent point %q", d.Target, d.Parent, m.Parent)
		}
		for _, name := range []string{d.Image, d.HashesFile()} {
			if seen[name] {
				return fmt.Errorf("disk %q: file %q is named twice", d.Target, name)
			}
			seen[name] = true
		}
	}
	for name := range m.Files {
		if seen[name] {
			return fmt.Errorf("file %q is named twice", name)
		}
	}
	return nil
}

func (d Disk) validate() error {
	if err := ValidName(d.Target); err != nil {
		return err
	}
	if err := ValidName(d.Image); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if _, _, err := d.ParentImage(); err != nil {
		return err
	}
	switch {
	case d.Kind != KindFull && d.Kind != KindInc:
		return fmt.Errorf("unknown kind %q", d.Kind)
	case (d.Kind == KindInc) != (d.Parent != ""):
		return fmt.Errorf("kind %s does not go with the parent image %q", d.Kind, d.Parent)
	case d.VirtualSize < 0 || d.DataBytes < 0 || d.ZeroBytes < 0 || d.ImageBytes < 0:
		return errors.New("a size is negative")
	case d.ImageBytes > hashlist.MaxImage:
		return fmt.Errorf("image_bytes %d is impossible", d.ImageBytes)
	case d.HashRange != 0 && d.HashRange != hashlist.RangeLength && d.HashRange != hashlist.FirstRangeLength:
		return fmt.Errorf("hash_range %d is neither %d nor %d", d.HashRange, hashlist.RangeLength, hashlist.FirstRangeLength)
	case !digest.Valid(d.Hashes):
		return fmt.Errorf("hashes: %q is not a digest", d.Hashes)
	}
	if err := validateBackingIDs(d.SourceBackingIDs); err != nil {
		return err
	}
	return d.SourceOptions.validate()
}

func (m Manifest) validateFiles() error {
	for name, hash := range m.Files {
		if err := ValidName(name); err != nil {
			return fmt.Errorf("files: %w", err)
		}
		if !digest.Valid(hash) {
			return fmt.Errorf("files: %q of %s is not a digest", hash, name)
		}
	}
	for _, target := range m.Gone {
		if err := ValidName(target); err != nil {
			return fmt.Errorf("gone: %w", err)
		}
	}
	return nil
}

// ParentDisk finds, in the parent point, the disk that d is chained onto, and
// checks that the parent is the one that existed when the point was made.
func (m Manifest) ParentDisk(d Disk, parent Manifest) (Disk, error) {
	_, image, err := d.ParentImage()
	switch {
	case err != nil:
		return Disk{}, err
	case !strings.EqualFold(parent.DomainUUID, m.DomainUUID):
		return Disk{}, fmt.Errorf("%s needs it, but it is of another domain: UUID %s, not %s", m.ID, parent.DomainUUID, m.DomainUUID)
	case m.ParentIdentity != "" && m.ParentIdentity != parent.Identity:
		return Disk{}, fmt.Errorf("%s needs the point of identity %s, but this one has %q: put here by hand", m.ID, m.ParentIdentity, parent.Identity)
	case !m.ParentTime.IsZero() && !m.ParentTime.Equal(parent.Time):
		return Disk{}, fmt.Errorf("%s needs the point of %s, but this one shows %s: put here by hand", m.ID,
			m.ParentTime.Format(time.RFC3339Nano), parent.Time.Format(time.RFC3339Nano))
	}
	for _, pd := range parent.Disks {
		if pd.Image == image {
			return pd, nil
		}
	}
	return Disk{}, fmt.Errorf("%s needs its image %s, which its manifest does not have", m.ID, image)
}

// CompareAge orders points by their numbers, which is the order they were made in, whatever
// the clock said. It is for slices.SortFunc.
func CompareAge(a, b Manifest) int {
	return cmp.Or(cmp.Compare(a.Number(), b.Number()), a.Time.Compare(b.Time), strings.Compare(a.ID, b.ID))
}

// NeededParent is the parent, if an image of the point has one of the parent's as backing
// file; else "".
func (m Manifest) NeededParent() string {
	if slices.ContainsFunc(m.Disks, func(d Disk) bool { return d.Parent != "" }) {
		return m.Parent // validateDisks: all are in that point
	}
	return ""
}

func compareNumbers(a, b Manifest) int { return cmp.Compare(a.Number(), b.Number()) }
