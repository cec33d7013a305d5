package repository

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

// Link is the image of a disk of a point, whatever it is chained onto.
func (r *Repository) Link(m manifest.Manifest, d manifest.Disk) diskimage.Link {
	return diskimage.Link{Point: m, Disk: d, Path: filepath.Join(r.PointDir(m.Domain, m.ID), d.Image)}
}

// Links returns the images that a disk of a point needs, base first, the point's
// own image last. It follows the manifests and compares the header of each image
// with them, so that no backing file name in an image leads anywhere but to
// the parent that the manifest names. The error is ErrNoPoint or ErrNoDisk for
// what was asked for, a *damage.Error for what lies below; others say why
// the chain could not be checked: this user may not read files, or too many are open.
func (r *Repository) Links(domain, id, target string) ([]diskimage.Link, error) {
	m, err := r.Point(domain, id)
	if err != nil {
		return nil, fmt.Errorf("chain of disk %s: %w", target, err)
	}
	d, ok := m.Disk(target)
	if !ok {
		return nil, fmt.Errorf("chain of disk %s of %s: %w", target, id, ErrNoDisk)
	}
	return r.LinksOf(m, d)
}

// LinksOf is Links for a disk of a point that may be hidden.
func (r *Repository) LinksOf(m manifest.Manifest, d manifest.Disk) ([]diskimage.Link, error) {
	links, err := r.follow(m, d, diskimage.CheckHeader)
	if err != nil {
		return nil, err
	}
	return links, nil
}

// LinksFound returns the images of a chain that may be damaged, as far down as manifests lead:
// they may be missing. below is the damage that hides those below them, nil if there is none.
func (r *Repository) LinksFound(m manifest.Manifest, d manifest.Disk) (links []diskimage.Link, below, err error) {
	links, err = r.follow(m, d, func(diskimage.Link) error { return nil })
	if fail.Is(err, fail.Damaged) {
		return links, err, nil
	}
	return links, nil, err
}

// follow returns the images of a chain, base first, as far as they could be followed and pass a
// check.
func (r *Repository) follow(m manifest.Manifest, d manifest.Disk, check func(diskimage.Link) error) (links []diskimage.Link, err error) {
	defer func() { slices.Reverse(links) }()
	// The loop ends: Validate lets a parent's number only go down.
	for {
		link := r.Link(m, d)
		if err := check(link); err != nil {
			return links, err
		}
		links = append(links, link)
		if d.Parent == "" {
			return links, nil
		}
		if m, d, err = r.parentOf(m, d); err != nil {
			return links, err
		}
	}
}

func (r *Repository) parentOf(m manifest.Manifest, d manifest.Disk) (manifest.Manifest, manifest.Disk, error) {
	id, _, err := d.ParentImage()
	if err != nil {
		return manifest.Manifest{}, manifest.Disk{}, damage.OfPoint(m.Domain, m.ID, err)
	}
	parent, err := r.readManifest(m.Domain, id)
	if err != nil {
		return manifest.Manifest{}, manifest.Disk{}, damage.OfPoint(m.Domain, id, fmt.Errorf("%s needs it: %w", m.ID, err))
	}
	pd, err := m.ParentDisk(d, parent)
	if err != nil {
		return manifest.Manifest{}, manifest.Disk{}, damage.OfPoint(m.Domain, id, err)
	}
	return parent, pd, nil
}
