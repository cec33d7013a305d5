package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
)

// Fallback says how to copy a disk that the base has an image of, but whose bitmap
// cannot be used: it is lost, broken, or of another image. New disks are always copied
// in full. Disks that never have bitmaps (raw, shareable) are rescanned every time:
// for them FallbackFail means FallbackRescan.
type Fallback string

const (
	// FallbackRescan reads the disk in full and compares it with the base's
	// image; only the differences are stored, so the chain continues.
	FallbackRescan Fallback = "rescan"
	// FallbackFull copies the disk in full into a standalone image.
	FallbackFull Fallback = "full"
	// FallbackFail fails the run before anything is done.
	FallbackFail Fallback = "fail"
)

func (f Fallback) validate() error {
	if !slices.Contains([]Fallback{"", FallbackRescan, FallbackFull, FallbackFail}, f) {
		return fail.Errorf(fail.Usage, "virtbackup inc --help", "--fallback is rescan, full or fail, not %q", f)
	}
	return nil
}

// whyNoBitmap says why no bitmap shows what changed on a disk since the plan's
// base, which has an image of it; "" if one does.
func (p *Plan) whyNoBitmap(d Disk, base manifest.Disk, s State) string {
	c, ok := sealedCheckpoint(s, p.Base)
	then := source.Image{Source: base.Source, ID: base.SourceID}
	now := s.Images[d.Target]
	why := cmp.Or(source.Replaced(then, now), source.Rebased(then, base.SourceBackingIDs, now), source.Lost(then, now, c.Name))
	switch {
	case noBitmaps(d.Disk) != "":
		return noBitmaps(d.Disk)
	case !ok:
		return noCheckpoint(s, p.Base)
	case why != "":
		return why
	case !c.Bitmap(d.Target):
		return fmt.Sprintf("checkpoint %s does not cover this disk", c.Label())
	case !c.Usable(d.Target):
		return fmt.Sprintf("the bitmap of checkpoint %s is missing or broken", c.Label())
	case d.Size < base.VirtualSize:
		return fmt.Sprintf("the disk has shrunk from %d to %d bytes since point %s", base.VirtualSize, d.Size, p.Base.ID)
	}
	return ""
}

// FallBack plans a disk without a usable bitmap.
func (d *Disk) FallBack(f Fallback, base *manifest.Manifest, image string) {
	if f == FallbackFull {
		return
	}
	d.Rescan = true
	d.Parent = manifest.ParentPath(base.ID, image)
}

// Refuse returns an error if a disk would have to fall back and must not.
func (p *Plan) Refuse(w Wanted) error {
	if w.Fallback != FallbackFail {
		return nil
	}
	var reasons []string
	for _, d := range p.Disks {
		if d.Rescan && noBitmaps(d.Disk) == "" {
			reasons = append(reasons, fmt.Sprintf("disk %s: %s", d.Target, d.Reason))
		}
	}
	if len(reasons) == 0 {
		return nil
	}
	return fail.WithHint(fmt.Errorf("domain %s: not everything can be incremental since %s: %s", w.Domain, p.Base.ID, strings.Join(reasons, "; ")),
		"--fallback rescan reads such a disk in full and stores what differs from %s; --fallback full copies all of it", p.Base.ID)
}

// canCompare reports whether a point has an image of one of the state's disks, for a
// rescan to compare with.
func canCompare(s State, m *manifest.Manifest) bool {
	for _, d := range s.Disks {
		if _, ok := m.Disk(d.Target); ok && d.Unfit() == "" {
			return true
		}
	}
	return false
}
