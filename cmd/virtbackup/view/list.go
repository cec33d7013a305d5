package view

import (
	"time"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// Listed is a point with what list shows.
type Listed struct {
	manifest.Manifest
	// Verified is the result of the last verification, nil if there was none.
	Verified *repository.Verification `json:"verified,omitempty"`
	// HasCheckpoint says that libvirt has its checkpoint, as far as the repository knows.
	HasCheckpoint bool `json:"has_checkpoint"`
	// Lost are the disks that cannot be restored, because a point that they need is
	// missing or damaged.
	Lost []string `json:"lost,omitempty"`
	// Clock says what is odd about the point's time, "" if nothing is.
	Clock string `json:"clock,omitempty"`
}

// AsListed adds to the points of a domain what their manifests do not contain.
func AsListed(points []manifest.Manifest, verified map[string]repository.Verification, ledger *repository.Ledger, now time.Time) []Listed {
	var all []Listed
	for _, m := range points {
		p := Listed{Manifest: m, Clock: manifest.OddClock(m, points, now)}
		if i, ok := ledger.Find(m.Identity); ok {
			p.HasCheckpoint = i.Checkpoint && i.State == instants.Issued
		}
		if v, ok := verified[m.ID]; ok {
			p.Verified = &v
		}
		all = append(all, p)
	}
	return all
}
