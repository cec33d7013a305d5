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

	"github.com/virtbackup/virtbackup/xml"
)

// mark begins the description of every checkpoint that we create. The id of the
// repository and the point follow: a name alone would prove nothing, since
// another tool, or virtbackup with another repository, may use the same one.
const mark = "virtbackup"

// Description is the text of the checkpoint that belongs to a point of a
// repository. [Checkpoint.Ours] knows it again.
func Description(repository, point string) string {
	return strings.Join([]string{mark, repository, point}, " ")
}

// Checkpoint is one checkpoint of a domain, as libvirt lists it, and what the
// repository says about it.
type Checkpoint struct {
	xml.Checkpoint
	// Ours: created by virtbackup for this repository.
	Ours bool
	// Sealed: the repository has the point it belongs to. Only then is it a
	// base for later points.
	Sealed bool
}

// Owner says whose the checkpoint is: "ours", "foreign", or "left over" for one
// of ours whose point was never sealed or is gone.
func (c Checkpoint) Owner() string {
	switch {
	case !c.Ours:
		return "foreign"
	case !c.Sealed:
		return "left over"
	}
	return "ours"
}

// Bitmap reports whether the checkpoint has a bitmap for the disk.
func (c Checkpoint) Bitmap(target string) bool {
	d, ok := c.disk(target)
	return ok && d.Bitmap != ""
}

// Broken lists the disks of the domain whose bitmap is lost or inconsistent:
// libvirt leaves out their size. It means nothing for a domain that is not
// running, of which libvirt knows no sizes at all.
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
// that no incremental can start from it. As [Checkpoint.Broken], it means nothing
// unless libvirt was asked for sizes and could tell; and a bitmap of a disk that
// the domain does not have now may be in its image all the same.
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

// Size is how many bytes of the disk an incremental since the checkpoint would
// look at; -1 where libvirt does not know.
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

// Survey reads the XML of a domain's checkpoints (with sizes, if the domain
// runs) and says which belong to the repository. sealed tells whether the
// repository has a point of that name.
func Survey(docs []string, repository string, sealed func(point string) bool) ([]Checkpoint, error) {
	var all []Checkpoint
	for _, doc := range docs {
		x, err := xml.ParseCheckpoint(doc)
		if err != nil {
			return nil, fmt.Errorf("survey checkpoints: %w", err)
		}
		c := Checkpoint{Checkpoint: x, Ours: x.Description == Description(repository, x.Name)}
		c.Sealed = c.Ours && sealed(x.Name)
		all = append(all, c)
	}
	return all, nil
}

// Find returns the checkpoint of that name.
func Find(all []Checkpoint, name string) (Checkpoint, bool) {
	i := slices.IndexFunc(all, func(c Checkpoint) bool { return c.Name == name })
	if i < 0 {
		return Checkpoint{}, false
	}
	return all[i], true
}

// Names lists the names of all.
func Names(all []Checkpoint) []string {
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.Name
	}
	return names
}
