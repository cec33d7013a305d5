package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// NeededError says why a point is not removed: others are chained onto it.
type NeededError struct {
	Domain, ID string
	By         []string // points that name it as parent, oldest first
	Unreadable []string // points that may do so: nobody can read their manifests
}

// Error names the points that need it.
func (e *NeededError) Error() string {
	s := fmt.Sprintf("point %s of domain %s is not removed", e.ID, e.Domain)
	if len(e.By) > 0 {
		s += ": " + strings.Join(e.By, ", ") + " could not be restored without it"
	}
	if len(e.Unreadable) > 0 {
		s += ": " + strings.Join(e.Unreadable, ", ") + " may need it (manifest not readable)"
	}
	return s
}

// Hint says in which order it can be done.
func (e *NeededError) Hint() string {
	return "remove the points that need it first, the newest first; or all of the domain's at once"
}

// PointIDs lists the ids of all points of a domain, damaged ones too, oldest
// first.
func (r *Repository) PointIDs(domain string) ([]string, error) {
	points, err := r.Points(domain)
	var damaged *damage.Error
	if err != nil && !errors.As(err, &damaged) {
		return nil, err
	}
	var ids []string
	for _, m := range points {
		ids = append(ids, m.ID)
	}
	if damaged != nil {
		for _, d := range damaged.Points {
			if _, _, err := manifest.ParsePointID(d.ID); err == nil {
				ids = append(ids, d.ID)
			}
		}
	}
	slices.SortStableFunc(ids, func(a, b string) int { return manifest.NextNumber(a) - manifest.NextNumber(b) })
	return ids, nil
}

// CheckUnneeded returns a *NeededError where a point that would stay needs one
// of these.
func (r *Repository) CheckUnneeded(domain string, ids []string) error {
	points, err := r.Points(domain)
	var damaged *damage.Error
	if err != nil && !errors.As(err, &damaged) {
		return err
	}
	for _, id := range ids {
		needed := &NeededError{Domain: domain, ID: id}
		for _, m := range points {
			if !slices.Contains(ids, m.ID) && m.Needs(id) {
				needed.By = append(needed.By, m.ID)
			}
		}
		if damaged != nil {
			for _, d := range damaged.Points {
				if !slices.Contains(ids, d.ID) && manifest.NextNumber(d.ID) > manifest.NextNumber(id) {
					needed.Unreadable = append(needed.Unreadable, d.ID)
				}
			}
		}
		if len(needed.By)+len(needed.Unreadable) > 0 {
			return needed
		}
	}
	return nil
}

// RemovePoints removes sealed points, the last of ids first: pass them oldest
// first. removed, if set, is told of each. A *NeededError comes before anything
// is removed. Whatever instant it dies at, each point is either listed and
// whole, or a leftover: first its name goes, durably, then its files.
func (l *Lock) RemovePoints(ids []string, removed func(id string)) error {
	if err := l.check(); err != nil {
		return fmt.Errorf("remove points: %w", err)
	}
	if err := l.repo.CheckUnneeded(l.domain, ids); err != nil {
		return err
	}
	for _, id := range slices.Backward(ids) {
		if err := l.removePoint(id); err != nil {
			return fmt.Errorf("remove point %s of domain %s: %w", id, l.domain, err)
		}
		if removed != nil {
			removed(id)
		}
	}
	return nil
}

func (l *Lock) removePoint(id string) error {
	if _, _, err := manifest.ParsePointID(id); err != nil {
		return err
	}
	aside := partialPrefix + id
	if err := l.RemoveLeftover(aside); err != nil {
		return err
	}
	dir := l.repo.domainDir(l.domain)
	err := localfile.RenameExclusive(l.repo.PointDir(l.domain, id), filepath.Join(dir, aside))
	if errors.Is(err, fs.ErrNotExist) {
		return manifest.ErrNoPoint
	}
	if err != nil {
		return err
	}
	if err := localfile.SyncDir(dir); err != nil {
		return err
	}
	return l.RemoveLeftover(aside)
}

// RemoveDomain removes all that is in the domain's directory beside its points (which
// have to be gone) and lets Unlock remove the directory. What nobody knows there
// stays, and the directory with it.
func (l *Lock) RemoveDomain() error {
	if err := l.check(); err != nil {
		return fmt.Errorf("remove domain: %w", err)
	}
	dir := l.repo.domainDir(l.domain)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("remove domain %s: %w", l.domain, err)
	}
	for _, e := range entries {
		if e.Name() != VerifiedName && e.Name() != instants.DamagedName && (e.Name() != instants.FileName || !instants.Unissued(dir)) && !slices.ContainsFunc([]string{partialPrefix, markPrefix, verifiedTemporary, instants.TemporaryName},
			func(prefix string) bool { return strings.HasPrefix(e.Name(), prefix) }) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove domain %s: %w", l.domain, err)
		}
	}
	l.made = true
	return nil
}
