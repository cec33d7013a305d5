package prune

import (
	"context"

	"github.com/virtbackup/virtbackup/repository"
)

// Undo lists a hidden point again, as long as its data is there. The next prune may remove
// it again, unless it is protected.
//
// Errors: manifest.ErrNoPoint where it is gone, fail.Usage where it was not removed,
// *repository.LockedError, a *damage.Error where the manifests of what it needs are damaged.
func Undo(_ context.Context, repo *repository.Repository, domain, point string) (err error) {
	r := newRun(repo, domain, Options{})
	if err := r.checkDomain(); err != nil {
		return err
	}
	return r.locked(func() error {
		l, err := repo.Lineage(domain)
		if err != nil {
			return err
		}
		if err := r.damageOf(l); err != nil {
			return err
		}
		if m, ok := l.Point(point); ok { // its images, and those that it needs, are there
			for _, d := range m.Disks {
				if _, err := repo.LinksOf(m, d); err != nil {
					return err
				}
			}
		}
		return r.lock.Unhide(point)
	})
}
