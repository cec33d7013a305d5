package repository

import (
	"fmt"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// Hide removes a sealed point from what is listed, durably, and keeps its data. The caller
// has checked that it may go: it is neither protected nor pinned.
func (l *Lock) Hide(id, reason string) error {
	m, err := l.lockedPoint(id)
	if err != nil {
		return fmt.Errorf("hide point %s of domain %s: %w", id, l.domain, err)
	}
	if err := lineage.WriteRemoval(l.repo.PointDir(l.domain, id), m, reason); err != nil {
		return fmt.Errorf("hide point %s of domain %s: %w", id, l.domain, err)
	}
	return nil
}

// Unhide lists a hidden point again. Its data must be whole: as long as it is hidden, so is
// that of all that it needs. A removed.json that hides nothing, as it is damaged, is removed,
// too.
func (l *Lock) Unhide(id string) error {
	if err := l.check(); err != nil {
		return err
	}
	p, err := l.repo.point(l.domain, id)
	if err != nil {
		return err
	}
	if !p.Hidden && p.Bad == nil {
		return fail.Errorf(fail.Usage, "virtbackup list "+manifest.ShellWord(l.domain)+" --hidden shows the points that were removed", "point %s of domain %s was not removed", id, l.domain)
	}
	if err := lineage.ClearRemoval(l.repo.PointDir(l.domain, id)); err != nil {
		return fmt.Errorf("list point %s of domain %s again: %w", id, l.domain, err)
	}
	return nil
}

// lockedPoint is Repository.Point for the locked domain.
func (l *Lock) lockedPoint(id string) (manifest.Manifest, error) {
	if err := l.check(); err != nil {
		return manifest.Manifest{}, err
	}
	return l.repo.Point(l.domain, id)
}
