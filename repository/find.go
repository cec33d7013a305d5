package repository

import (
	"cmp"
	"errors"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// Find returns the point of a domain that at names, as [manifest.Resolve] does; "" is [manifest.Latest].
// A point that cannot be read may be the one asked for, or newer: then the error is a
// *damage.Error, unless at is the id of another point. That of a hidden point is a *lineage.HiddenError.
func (r *Repository) Find(domain, at string) (manifest.Manifest, error) {
	at = cmp.Or(at, manifest.Latest)
	l, err := r.Lineage(domain)
	if err != nil {
		return manifest.Manifest{}, err
	}
	if removal, hidden := l.Removals[at]; hidden {
		return manifest.Manifest{}, &lineage.HiddenError{Domain: domain, ID: at, Removal: removal}
	}
	m, err := manifest.Resolve(domain, l.Points, at)
	if into := l.MergedInto(at); errors.Is(err, manifest.ErrNoPoint) && into != "" {
		err = mergedError(err, domain, into)
	}
	var damaged *damage.Error
	if !errors.As(l.Err(), &damaged) || err == nil && m.ID == at {
		return m, err
	}
	r.Explain(damaged)
	if at == manifest.Latest || damaged.Has(at) {
		return manifest.Manifest{}, damaged
	}
	return manifest.Manifest{}, errors.Join(damaged, err)
}
