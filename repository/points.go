package repository

import (
	"fmt"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// Point returns the manifest of one sealed point. The error is ErrNoPoint where
// there is no such directory, a *lineage.HiddenError where the point was removed, a *damage.Error
// where it cannot be read as one.
func (r *Repository) Point(domain, id string) (manifest.Manifest, error) {
	p, err := r.point(domain, id)
	if err == nil && p.Hidden {
		err = &lineage.HiddenError{Domain: domain, ID: id, Removal: p.Removal}
	}
	if err != nil {
		return manifest.Manifest{}, err
	}
	return p.Manifest, nil
}

// point is Point for those that may be hidden.
func (r *Repository) point(domain, id string) (lineage.Point, error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return lineage.Point{}, err
	}
	if _, _, err := manifest.ParsePointID(id); err != nil {
		return lineage.Point{}, fmt.Errorf("%w: %w", manifest.ErrNoPoint, err)
	}
	p, err := lineage.ReadPoint(r.domainDir(domain), id)
	if err != nil && lineage.IsGone(r.domainDir(domain), id) { // perhaps a moment ago
		return lineage.Point{}, r.goneError(domain, id)
	}
	if err != nil {
		return lineage.Point{}, damage.OfPoint(domain, id, err)
	}
	return p, nil
}

// goneError says that a point is not there, and where it went if it was merged.
func (r *Repository) goneError(domain, id string) error {
	err := fmt.Errorf("%w: %s of domain %s", manifest.ErrNoPoint, id, domain)
	if l, readErr := r.Lineage(domain); readErr == nil && l.MergedInto(id) != "" {
		return mergedError(err, domain, l.MergedInto(id))
	}
	return err
}

func mergedError(err error, domain, into string) error {
	return fail.WithHint(fmt.Errorf("%w: it was merged into %s", err, into), "virtbackup list %s shows the points that are left", manifest.ShellWord(domain))
}

// Lineage reads the points of a domain; see [lineage.Read].
func (r *Repository) Lineage(domain string) (*lineage.Lineage, error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return nil, err
	}
	return lineage.Read(r.domainDir(domain))
}

// pointIDs lists what should be the points of a domain, in no order; see [lineage.IDs].
func (r *Repository) pointIDs(domain string) ([]string, error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return nil, err
	}
	return lineage.IDs(r.domainDir(domain))
}

// readManifest reads the manifest of a point that may be hidden.
func (r *Repository) readManifest(domain, id string) (manifest.Manifest, error) {
	return lineage.ReadManifest(r.domainDir(domain), id)
}
