// Package checkpoint knows a domain's checkpoints: which are ours, which point
// each belongs to, and whether their bitmaps can still be used.
//
// A checkpoint is one persistent dirty bitmap per disk that records from its own
// instant on. None depends on another, so deleting one never harms the others.
package checkpoint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
)

// mark begins the description of every checkpoint that we create. The id of the repository
// and the point follow, for people and for other repositories. The proof that a checkpoint
// is ours is the identity in its name.
const mark = "virtbackup"

// Description is the text of the checkpoint that belongs to a point of a
// repository.
func Description(repository, point string) string {
	return strings.Join([]string{mark, repository, point}, " ")
}

// Checkpoint is one checkpoint of a domain, as libvirt lists it, and what the
// repository says about it.
type Checkpoint struct {
	xml.Checkpoint
	// Ours: the repository has issued its identity. Instant is what it recorded then, the
	// zero value for a checkpoint that is not ours.
	Ours    bool
	Instant instants.Instant
	// Sealed: the repository has the point it belongs to. Only then is it a
	// base for later points.
	Sealed bool
	// Inherited: it was made before the repository was moved or copied, and the
	// original may need it. It is a base like others, and never deleted.
	Inherited bool
}

// Owner says who the checkpoint belongs to: "ours", "inherited", "foreign", "of a run" for one
// of ours whose run has not sealed its point yet, "left over" if that run is dead or the
// point is gone, or "retired" for one that is to be deleted.
func (c Checkpoint) Owner() string {
	switch {
	case !c.Ours:
		return "foreign"
	case c.Inherited:
		return "inherited"
	case !c.Sealed && c.Instant.Process.Alive():
		return "of a run"
	case !c.Sealed:
		return "left over"
	case c.Instant.State == instants.Retired:
		return "retired"
	}
	return "ours"
}

// Label is the checkpoint's name for people: its point's if it is ours.
func (c Checkpoint) Label() string {
	if c.Ours {
		return c.Instant.Point
	}
	return c.Name
}

// Base reports whether an incremental may start from it.
func (c Checkpoint) Base() bool {
	return c.Ours && c.Sealed && c.Instant.State != instants.Retired
}

// Bitmap reports whether the checkpoint has a bitmap for the disk.
func (c Checkpoint) Bitmap(target string) bool {
	d, ok := c.disk(target)
	return ok && d.Bitmap != ""
}

// Broken lists the disks of the domain whose bitmap is lost or inconsistent:
// libvirt omits their size. It is meaningless for a domain that is not running, for which
// libvirt knows no sizes at all.
func (c Checkpoint) Broken() []string {
	var targets []string
	for _, d := range c.Disks {
		if d.Bitmap != "" && d.Size < 0 {
			targets = append(targets, d.Target)
		}
	}
	return targets
}

// Dead reports whether it covers disks and none of its bitmaps can be used, so
// that no incremental can start from it. Like [Checkpoint.Broken], it is meaningful only if
// libvirt was asked for sizes and knew them; and the bitmap of a disk that is detached now
// may still be in its image.
func (c Checkpoint) Dead() bool {
	broken := c.Broken()
	return len(broken) > 0 && len(broken) == len(c.Bitmaps())
}

// Healthy reports whether it covers disks and all of its bitmaps can be used.
func (c Checkpoint) Healthy() bool { return len(c.Broken()) == 0 && len(c.Bitmaps()) > 0 }

// Bitmaps lists the disks that it has a bitmap for.
func (c Checkpoint) Bitmaps() []string {
	var targets []string
	for _, d := range c.Disks {
		if d.Bitmap != "" {
			targets = append(targets, d.Target)
		}
	}
	return targets
}

// Usable reports whether the disk's bitmap is there and healthy.
func (c Checkpoint) Usable(target string) bool {
	d, ok := c.disk(target)
	return ok && d.Bitmap != "" && d.Size >= 0
}

// Size is how many bytes of the disk an incremental since the checkpoint would read; -1 if
// libvirt does not know.
func (c Checkpoint) Size(target string) int64 {
	d, ok := c.disk(target)
	if !ok || d.Bitmap == "" {
		return -1
	}
	return d.Size
}

func (c Checkpoint) disk(target string) (xml.CheckpointDisk, bool) {
	i := slices.IndexFunc(c.Disks, func(d xml.CheckpointDisk) bool { return d.Target == target })
	if i < 0 {
		return xml.CheckpointDisk{}, false
	}
	return c.Disks[i], true
}

// Survey parses the XML of a domain's checkpoints (with sizes, if the domain runs) and uses
// the ledger to find out which are ours. With a nil ledger none is ours.
func Survey(docs []string, ledger *repository.Ledger) ([]Checkpoint, error) {
	var all []Checkpoint
	for _, doc := range docs {
		x, err := xml.ParseCheckpoint(doc)
		if err != nil {
			return nil, fmt.Errorf("survey checkpoints: %w", err)
		}
		c := Checkpoint{Checkpoint: x}
		if ledger != nil {
			c.claim(ledger)
		}
		all = append(all, c)
	}
	return all, nil
}

// claim finds out whether the repository has issued the checkpoint's identity.
func (c *Checkpoint) claim(ledger *repository.Ledger) {
	i, ok := Issued(c.Checkpoint, ledger)
	if !ok {
		return
	}
	c.Ours, c.Instant = true, i
	c.Sealed, c.Inherited = ledger.Sealed(i), ledger.Inherited(i)
}

// Issued returns the instant of a checkpoint that the repository has issued: name,
// description and the record in the repository must agree.
func Issued(c xml.Checkpoint, ledger *repository.Ledger) (instants.Instant, bool) {
	point, identity, ok := manifest.ParseCheckpointName(c.Name)
	if !ok || !slices.ContainsFunc(ledger.RepositoryIDs(), func(id string) bool { return c.Description == Description(id, point) }) {
		return instants.Instant{}, false
	}
	i, ok := ledger.Find(identity)
	return i, ok && i.Checkpoint && i.Point == point
}

// Find returns the checkpoint of that name.
func Find(all []Checkpoint, name string) (Checkpoint, bool) {
	i := slices.IndexFunc(all, func(c Checkpoint) bool { return c.Name == name })
	if i < 0 {
		return Checkpoint{}, false
	}
	return all[i], true
}

// OfPoint returns our checkpoint of a point.
func OfPoint(all []Checkpoint, point string) (Checkpoint, bool) {
	i := slices.IndexFunc(all, func(c Checkpoint) bool { return c.Ours && c.Instant.Point == point })
	if i < 0 {
		return Checkpoint{}, false
	}
	return all[i], true
}
