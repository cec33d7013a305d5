package view

import (
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// Listed is a point with what list shows.
type Listed struct {
	manifest.Manifest
	// Verified says since when every byte of it and of all that it needs is proven, or that
	// damage was found; nil if neither is so.
	Verified *repository.Verification `json:"verified,omitempty"`
	// ProvenPercent is how much of each file that it needs was proven, at least, by the samples of
	// a point that is not verified.
	ProvenPercent int `json:"proven_percent,omitempty"`
	// Drill is the result of the last drill, nil if there was none.
	Drill *record.Record `json:"drill,omitempty"`
	// HasCheckpoint says that libvirt has its checkpoint, as far as the repository knows.
	HasCheckpoint bool `json:"has_checkpoint"`
	// Lost are the disks that cannot be restored, because a point that they need is
	// missing or damaged.
	Lost []string `json:"lost,omitempty"`
	// Clock says what is odd about the point's time, "" if nothing is.
	Clock string `json:"clock,omitempty"`
	// Protected is what keeps the point from being removed, nil if nothing does.
	Protected *keep.Protection `json:"protected,omitempty"`
	// Pinned is what uses the point, or one that needs it, so that it stays; "" if nothing does.
	Pinned string `json:"pinned,omitempty"`
	// Removed says when and why the point was removed, nil if it was not.
	Removed *lineage.Removal `json:"removed,omitempty"`

	parent manifest.Manifest // that of the manifest, listed or not; zero if it is unknown
	below  string            // the nearest point that is listed and that this one needs; "": none
}

// Facts are what the repository knows of the points of a domain besides their manifests. The
// maps are by the ids of points.
type Facts struct {
	Removals  map[string]lineage.Removal
	Protected map[string]keep.Protection
	Verified  map[string]repository.Verification
	// ProvenPercent has the points that are proven in part.
	ProvenPercent map[string]int
	Drills        map[string]record.Record
	Lost          map[string][]string
	Pinned        func(id string) string // by what, or ""; nil: none is
	Ledger        *repository.Ledger
	Now           time.Time
}

// List makes a list of the points of a domain, oldest first. all are listed and removed
// points; the removed ones are in the list only if hidden is set.
func List(all []manifest.Manifest, f Facts, hidden bool) (list []Listed) {
	points := map[string]manifest.Manifest{}
	var shown []manifest.Manifest
	for _, m := range all {
		points[m.ID] = m
		if hidden || !f.isRemoved(m.ID) {
			shown = append(shown, m)
		}
	}
	for _, m := range shown {
		p := f.listed(m, shown)
		p.parent = points[m.Parent]
		for p.below = m.Parent; !hidden && f.isRemoved(p.below); {
			p.below = points[p.below].Parent
		}
		list = append(list, p)
	}
	return list
}

// PinnedBy is what Repository.Pinned says, without the word.
func PinnedBy(text string) string { return strings.TrimPrefix(text, "pinned: ") }

func (f Facts) isRemoved(id string) bool {
	_, removed := f.Removals[id]
	return removed
}

// listed adds to a point what its manifest does not contain. others are those to compare its
// clock with.
func (f Facts) listed(m manifest.Manifest, others []manifest.Manifest) Listed {
	p := Listed{Manifest: m, Lost: f.Lost[m.ID], Clock: manifest.OddClock(m, others, f.Now)}
	if i, ok := f.Ledger.Find(m.Identity); ok {
		p.HasCheckpoint = i.Checkpoint && i.State == instants.Issued
	}
	if v, ok := f.Verified[m.ID]; ok {
		p.Verified = &v
	}
	p.ProvenPercent = f.ProvenPercent[m.ID]
	if r, ok := f.Drills[m.ID]; ok {
		p.Drill = &r
	}
	if protection, ok := f.Protected[m.ID]; ok {
		p.Protected = &protection
	}
	if f.Pinned != nil {
		p.Pinned = PinnedBy(f.Pinned(m.ID))
	}
	if removal, ok := f.Removals[m.ID]; ok {
		p.Removed = &removal
	}
	return p
}
