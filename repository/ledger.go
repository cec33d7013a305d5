package repository

import (
	"errors"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/manifest"
)

// Ledger is what a repository knows of a domain's instants: which identities it has
// issued, at the moment of asking, and which of them belong to a sealed point.
type Ledger struct {
	instants.List
	// Damage says why instants.json cannot be used, if it is there: then nothing in
	// libvirt is known to be ours.
	Damage error
	repo   *Repository
	domain string
}

// Ledger reads the ledger of a domain. A damaged instants.json counts as an empty one.
func (r *Repository) Ledger(domain string) (*Ledger, error) {
	if manifest.ValidDomain(domain) != nil { // nothing of it can be ours
		return &Ledger{repo: r, domain: domain}, nil
	}
	is, err := instants.Read(r.domainDir(domain))
	var bad *instants.DamagedError
	if err != nil && !errors.As(err, &bad) {
		return nil, err
	}
	l := &Ledger{List: is, repo: r, domain: domain}
	if bad != nil {
		l.Damage = bad
	}
	return l, nil
}

// RepositoryIDs are the UUIDs that the repository has or had.
func (l *Ledger) RepositoryIDs() []string { return l.repo.IDs() }

// Sealed tells whether the point of an instant exists. One that cannot be read
// counts: its checkpoint must not be deleted.
func (l *Ledger) Sealed(i instants.Instant) bool {
	m, err := l.repo.Point(l.domain, i.Point)
	if err != nil {
		return !errors.Is(err, manifest.ErrNoPoint)
	}
	return m.Identity == i.Identity
}

// Inherited tells whether an instant was issued while the repository was in another place:
// it was moved, or it is a copy, and the original may need the checkpoint. An unknown place
// differs from every known one.
func (l *Ledger) Inherited(i instants.Instant) bool {
	return i.Place != description.PlaceText(l.repo.place)
}
