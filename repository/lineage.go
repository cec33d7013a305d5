package repository

import (
	"errors"
	"slices"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/manifest"
)

// Lineage knows what the points of a domain need of one another, as their
// manifests say. What the images themselves say, Links checks.
type Lineage struct {
	Domain     string
	Points     []manifest.Manifest // those that can be read, oldest first
	Unreadable []damage.Point      // directories that should be points and cannot be read

	byID map[string]manifest.Manifest
}

// Lineage reads the manifests of a domain. A damaged point is no error here: what
// cannot be read is in Unreadable.
func (r *Repository) Lineage(domain string) (*Lineage, error) {
	points, err := r.Points(domain)
	var damaged *damage.Error
	if err != nil && !errors.As(err, &damaged) {
		return nil, err
	}
	l := &Lineage{Domain: domain, Points: points, byID: map[string]manifest.Manifest{}}
	if damaged != nil {
		if damaged.Points[0].ID == "" {
			return nil, err
		}
		l.Unreadable = damaged.Points
	}
	for _, m := range points {
		l.byID[m.ID] = m
	}
	return l, nil
}

// Point finds a point that can be read.
func (l *Lineage) Point(id string) (manifest.Manifest, bool) {
	m, ok := l.byID[id]
	return m, ok
}

// Parent finds the parent of a disk of a point. ref is the zero value where the
// disk has none, and err says why a parent that there should be is not there.
func (l *Lineage) Parent(m manifest.Manifest, d manifest.Disk) (ref manifest.ImageRef, err error) {
	if d.Parent == "" {
		return manifest.ImageRef{}, nil
	}
	id, image, err := d.ParentImage()
	if err != nil {
		return manifest.ImageRef{}, err
	}
	ref = manifest.ImageRef{Point: id, Image: image}
	parent, ok := l.byID[id]
	if !ok {
		return ref, manifest.ErrNoPoint
	}
	_, err = m.ParentDisk(d, parent)
	return ref, err
}

// Lost returns, for each point that cannot be restored whole, the disks (their
// targets) that are lost: those that need, themselves or through their parents,
// an image that broken tells of. It is also asked for images of points that are
// not there or cannot be read; such points are not in the result.
func (l *Lineage) Lost(broken func(manifest.ImageRef) bool) map[string][]string {
	lost := map[string][]string{}
	bad := map[manifest.ImageRef]bool{}
	for _, m := range l.Points { // parents stand before their children
		for _, d := range m.Disks {
			ref := manifest.ImageRef{Point: m.ID, Image: d.Image}
			parent, _ := l.Parent(m, d)
			_, readable := l.byID[parent.Point]
			if broken(ref) || bad[parent] || parent.Point != "" && !readable && broken(parent) {
				bad[ref] = true
				lost[m.ID] = append(lost[m.ID], d.Target)
			}
		}
	}
	return lost
}

// Broken returns, for each point that cannot be restored whole because a point that it
// needs is not there, cannot be read or is another one, the disks that are lost.
func (l *Lineage) Broken() map[string][]string { return l.Lost(l.unchained) }

// unchained tells whether the parent of an image is not there, or another one.
func (l *Lineage) unchained(ref manifest.ImageRef) bool {
	m, ok := l.byID[ref.Point]
	if !ok {
		return true
	}
	for _, d := range m.Disks {
		if d.Image == ref.Image {
			_, err := l.Parent(m, d)
			return err != nil
		}
	}
	return true
}

// Needs returns the points that a point needs, itself included, oldest first, as
// far as they can be read.
func (l *Lineage) Needs(id string) []manifest.Manifest {
	need := map[string]bool{id: true}
	for _, m := range slices.Backward(l.Points) { // children before their parents
		if !need[m.ID] {
			continue
		}
		for _, d := range m.Disks {
			if ref, _ := l.Parent(m, d); ref.Point != "" {
				need[ref.Point] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(l.Points), func(m manifest.Manifest) bool { return !need[m.ID] })
}

// Explain adds to a *damage.Error what follows from it for the other points of
// the domain. An error of reading them leaves it as it was.
func (r *Repository) Explain(e *damage.Error) {
	if len(e.Points) == 0 || e.Points[0].ID == "" {
		return
	}
	l, err := r.Lineage(e.Points[0].Domain)
	if err != nil {
		return
	}
	hit, whole, files := map[string]bool{}, map[string]bool{}, map[manifest.ImageRef]bool{}
	for _, p := range append(slices.Clone(e.Points), l.Unreadable...) {
		hit[p.ID] = true
		whole[p.ID] = whole[p.ID] || p.File == ""
		files[manifest.ImageRef{Point: p.ID, Image: p.File}] = true
	}
	lost := l.Lost(func(ref manifest.ImageRef) bool { return whole[ref.Point] || files[ref] || l.unchained(ref) })
	e.Lost, e.Left = nil, nil
	for _, p := range l.Unreadable {
		e.Lost = append(e.Lost, p.ID)
	}
	verified := r.Verified(e.Points[0].Domain)
	for _, m := range l.Points {
		v, known := verified[m.ID]
		switch {
		case hit[m.ID] || len(lost[m.ID]) > 0:
			e.Lost = append(e.Lost, m.ID)
		case known && !v.Sound: // this damage leaves it alone, another does not
		default:
			e.Left = append(e.Left, m.ID)
		}
	}
}
