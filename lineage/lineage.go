package lineage

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
)

// Lineage lists the points of a domain, and knows what they need of one another as their
// manifests say. What the images themselves say is not read.
type Lineage struct {
	Domain string
	// Points are the sealed points that can be read, oldest first. The order is that of
	// the numbers, not of the clock: numbers only grow, under the lock, and so a parent
	// always stands before its children, whatever the host's clock did.
	Points []manifest.Manifest
	// Hidden are the points that were removed and whose data others may need, oldest first.
	// They are followed as parents, and are nothing else: not listed, no base, not restored.
	Hidden []manifest.Manifest
	// Removals say when and why, by the ids of the hidden points.
	Removals map[string]Removal
	// BadRemovals are points of which removed.json is damaged, or that of another point. They
	// are not hidden.
	BadRemovals []damage.Point
	// Unreadable are directories that should be points and cannot be read as such; one
	// without an ID where the directory of the domain is something else.
	Unreadable []damage.Point

	all      []manifest.Manifest // Points and Hidden, oldest first
	byID     map[string]*manifest.Manifest
	children map[string][]string // by parent, oldest first
	digests  map[string]string   // of each manifest.json, by id
}

// tries bounds how often manifests are read again because merges may have changed them
// meanwhile. A merge takes seconds, a reading milliseconds, and a point that is removed while
// they are read is no reason.
const tries = 10

// Read reads the manifests in the directory of a domain; there are no points where there is no
// directory. Damage is no error here, Err returns it.
//
// It may run beside a merge, which replaces a point and then removes its parents: what looks
// damaged counts as damaged only if it looks the same when it is read again.
func Read(dir string) (*Lineage, error) {
	l, err := read(dir)
	for range tries {
		if err != nil {
			return nil, err
		}
		before := l.complaints()
		if len(before) == 0 {
			break
		}
		if l, err = read(dir); err == nil && slices.Equal(l.complaints(), before) {
			break
		}
	}
	return l, err
}

func read(dir string) (*Lineage, error) {
	domain := filepath.Base(dir)
	l := &Lineage{Domain: domain, Removals: map[string]Removal{},
		byID: map[string]*manifest.Manifest{}, children: map[string][]string{}, digests: map[string]string{}}
	ids, err := IDs(dir)
	var damaged *damage.Error
	if errors.As(err, &damaged) {
		l.Unreadable = damaged.Points
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	read, err := readPoints(dir, ids)
	if err != nil {
		return nil, err
	}
	points := make([]Point, 0, len(ids))
	for i, id := range ids {
		switch err := read[i].err; {
		case err != nil && IsGone(dir, id): // removed a moment ago: no number is used again
		case err != nil:
			l.Unreadable = append(l.Unreadable, damage.Point{Domain: domain, ID: id, Err: err})
		default:
			points = append(points, read[i].Point)
		}
	}
	slices.SortFunc(points, func(a, b Point) int { return manifest.CompareAge(a.Manifest, b.Manifest) })
	l.enter(points)
	return l, nil
}

// readersAtOnce read manifests side by side: to open, read and parse one takes some 80 µs, so
// ten thousand are read in less than half a second on two processors.
const readersAtOnce = 4

// manyPoints are worth several goroutines.
const manyPoints = 100

// readPoint is a point, or why it could not be read.
type readPoint struct {
	Point
	err error
}

// readPoints reads the points of these ids. The error is that of a panic.
func readPoints(dir string, ids []string) ([]readPoint, error) {
	all := make([]readPoint, len(ids))
	read := func(first, step int) error {
		for i := first; i < len(ids); i += step {
			all[i].Point, all[i].err = ReadPoint(dir, ids[i])
		}
		return nil
	}
	if len(ids) < manyPoints {
		return all, read(0, 1)
	}
	var group panics.Group
	for first := range readersAtOnce {
		group.Go(func() error { return read(first, readersAtOnce) })
	}
	return all, group.Wait()
}

// enter fills in what follows from the points that were read, oldest first.
func (l *Lineage) enter(points []Point) {
	l.all = make([]manifest.Manifest, len(points))
	for i, p := range points {
		m := p.Manifest
		l.all[i] = m
		l.byID[m.ID], l.digests[m.ID] = &l.all[i], p.Digest
		if m.Parent != "" { // that of all its images, too
			l.children[m.Parent] = append(l.children[m.Parent], m.ID)
		}
		if p.Bad != nil {
			l.BadRemovals = append(l.BadRemovals, damage.Point{Domain: l.Domain, ID: m.ID, File: RemovedName, Err: p.Bad})
		}
		if !p.Hidden {
			l.Points = append(l.Points, m)
			continue
		}
		l.Hidden = append(l.Hidden, m)
		l.Removals[m.ID] = p.Removal
	}
}

// complaints are what looks damaged by the manifests, with all that differs if it looks so
// for another reason when it is read again.
func (l *Lineage) complaints() (all []string) {
	for _, p := range slices.Concat(l.Unreadable, l.BadRemovals) {
		all = append(all, p.ID+"/"+p.File+": "+p.Err.Error())
	}
	for _, m := range l.all {
		for _, d := range m.Disks {
			if ref, err := l.Parent(m, d); err != nil {
				all = append(all, m.ID+"/"+d.Image+": "+ref.Point+": "+err.Error())
			}
		}
	}
	return all
}

// NotAfterNewest is now, or the instant of the newest listed point if that is earlier. By
// this clock protections end: one that went ahead alone ends none.
func (l *Lineage) NotAfterNewest(now time.Time) time.Time {
	if n := len(l.Points); n > 0 && l.Points[n-1].Time.Before(now) {
		return l.Points[n-1].Time
	}
	return now
}

// Protected are those of the protections that hold (see [Lineage.NotAfterNewest]).
func (l *Lineage) Protected(all map[string]keep.Protection, now time.Time) map[string]keep.Protection {
	holding := maps.Clone(all)
	maps.DeleteFunc(holding, func(_ string, p keep.Protection) bool { return !p.Holds(l.NotAfterNewest(now)) })
	return holding
}

// Digest is that of a point's manifest.json as it was read.
func (l *Lineage) Digest(id string) (digest string, known bool) {
	digest, known = l.digests[id]
	return digest, known
}

// All are the listed points and the hidden ones, oldest first.
func (l *Lineage) All() []manifest.Manifest { return l.all }

// Err is a *damage.Error of what cannot be read, nil where all can.
func (l *Lineage) Err() error {
	if len(l.Unreadable) == 0 {
		return nil
	}
	return &damage.Error{Points: l.Unreadable}
}

// IDs are the ids of all points, oldest first, also of those that cannot be read, but not of
// hidden ones.
func (l *Lineage) IDs() []string { return l.ids(l.Points) }

// AllIDs are those with the hidden ones.
func (l *Lineage) AllIDs() []string { return l.ids(l.all) }

func (l *Lineage) ids(points []manifest.Manifest) []string {
	var ids []string
	for _, m := range points {
		ids = append(ids, m.ID)
	}
	for _, p := range l.Unreadable {
		if _, _, err := manifest.ParsePointID(p.ID); err == nil {
			ids = append(ids, p.ID)
		}
	}
	slices.SortStableFunc(ids, func(a, b string) int { return manifest.NextNumber(a) - manifest.NextNumber(b) })
	return ids
}

// Point finds a point that can be read, listed or hidden.
func (l *Lineage) Point(id string) (manifest.Manifest, bool) {
	if m, ok := l.byID[id]; ok {
		return *m, true
	}
	return manifest.Manifest{}, false
}

// MergedInto returns the point that a deleted one was merged into; "" if there is none.
func (l *Lineage) MergedInto(id string) string {
	for _, m := range slices.Concat(l.Points, l.Hidden) {
		if slices.Contains(m.Merged, id) {
			return m.ID
		}
	}
	return ""
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
	_, err = m.ParentDisk(d, *parent)
	return ref, err
}

// Lost returns, for each point that cannot be restored whole, the disks (their
// targets) that are lost: those that need, themselves or through their parents,
// an image for which broken returns true. It is also called with images of points that
// are missing or cannot be read; such points are not in the result.
func (l *Lineage) Lost(broken func(manifest.ImageRef) bool) map[string][]string {
	lost := map[string][]string{}
	bad := map[manifest.ImageRef]bool{}
	for _, m := range l.all { // parents stand before their children
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
func (l *Lineage) Broken() map[string][]string { return l.Lost(l.Unchained) }

// Unchained tells whether the parent of an image is not there, or another one.
func (l *Lineage) Unchained(ref manifest.ImageRef) bool {
	m, ok := l.byID[ref.Point]
	if !ok {
		return true
	}
	for _, d := range m.Disks {
		if d.Image == ref.Image {
			_, err := l.Parent(*m, d)
			return err != nil
		}
	}
	return true
}

// Needs returns the points that a point needs, itself and hidden ones included, oldest
// first, as far as they can be read.
func (l *Lineage) Needs(id string) []manifest.Manifest {
	var need []manifest.Manifest
	for {
		m, ok := l.byID[id]
		if !ok {
			break
		}
		need = append(need, *m)
		if id = m.NeededParent(); id == "" {
			break
		}
	}
	slices.Reverse(need)
	return need
}

// Children are the ids of the points that are chained onto a point directly, hidden ones
// included, oldest first, as far as they can be read.
func (l *Lineage) Children(id string) []string { return slices.Clone(l.children[id]) }
