package repository

import (
	"errors"
	"slices"
)

// Ledger is what a repository knows of a domain's instants, at one moment: which
// identities it has issued, and which of them belong to a sealed point.
type Ledger struct {
	Instants
	ids        []string          // of the repository, the present one first
	place      string            // of the repository
	sealed     map[string]string // identity -> id of the sealed point
	unreadable []string          // ids of points that cannot be read
}

// Ledger reads the ledger of a domain. A damaged instants.json is as good as none.
func (r *Repository) Ledger(domain string) (*Ledger, error) {
	l := &Ledger{ids: append([]string{r.id}, r.formerIDs...), place: r.place.String(), sealed: map[string]string{}}
	var bad *instantsError
	is, err := r.readInstants(domain)
	if err != nil && !errors.As(err, &bad) {
		return nil, err
	}
	l.Instants = is
	points, err := r.Points(domain)
	var damaged *DamagedError
	if err != nil && !errors.As(err, &damaged) {
		return nil, err
	}
	for _, m := range points {
		if m.Identity != "" {
			l.sealed[m.Identity] = m.ID
		}
	}
	if damaged != nil {
		for _, d := range damaged.Points {
			l.unreadable = append(l.unreadable, d.ID)
		}
	}
	return l, nil
}

// RepositoryIDs are the UUIDs that the repository has or had.
func (l *Ledger) RepositoryIDs() []string { return l.ids }

// Sealed tells whether the point of an instant is there. One that cannot be read
// counts: its checkpoint is not ours to throw away.
func (l *Ledger) Sealed(i Instant) bool {
	return l.sealed[i.Identity] == i.Point || slices.Contains(l.unreadable, i.Point)
}

// Inherited tells whether an instant was issued where the repository is not any more:
// it was moved, or it is a copy, and the original may need the checkpoint.
func (l *Ledger) Inherited(i Instant) bool {
	return i.Place != "" && l.place != "" && i.Place != l.place
}
