package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// NeededError says why a point is not removed: others are chained onto it.
type NeededError struct {
	Domain, ID string
	By         []string // points that name it as parent, oldest first
	Unreadable []string // points that may do so: their manifests cannot be read
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

// RemovePoints removes sealed points, hidden ones too, the last of ids first: pass them
// oldest first. removed, if set, is called with each. A *NeededError, or a *ProtectedError,
// comes before anything is removed. If the process is killed at any instant, each point is either listed and
// whole, or a leftover: first its name is removed, durably, then its files.
func (l *Lock) RemovePoints(ids []string, removed func(id string)) error {
	if err := l.check(); err != nil {
		return fmt.Errorf("remove points: %w", err)
	}
	lineage, err := l.repo.Lineage(l.domain)
	if err != nil {
		return err
	}
	if err := lineage.CheckUnneeded(ids); err != nil {
		return err
	}
	if err := l.repo.CheckRemovable(l.domain, ids, time.Now()); err != nil {
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
	dir := l.dir()
	if _, err := os.Lstat(filepath.Join(dir, aside)); !errors.Is(err, fs.ErrNotExist) {
		if err := l.RemoveLeftover(aside); err != nil {
			return err
		}
	}
	err := fault.Around("remove: rename", func() error {
		return localfile.RenameExclusive(l.repo.PointDir(l.domain, id), filepath.Join(dir, aside))
	})
	if errors.Is(err, fs.ErrNotExist) {
		return manifest.ErrNoPoint
	}
	if err != nil {
		return err
	}
	if err := fault.Around("remove: sync domain", func() error { return localfile.SyncDir(dir) }); err != nil {
		return err
	}
	return fault.Around("remove: files", func() error { return l.removeAside(aside) })
}

// RemoveDomain removes all that is in the domain's directory beside its points (which
// have to be gone) and lets Unlock remove the directory. Unknown files
// stay, and the directory with them.
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
		if e.Name() == PinsName {
			l.removePinsDir()
		}
		if !slices.Contains([]string{VerifiedName, instants.DamagedName, ReadersName, ProtectedName}, e.Name()) && (e.Name() != instants.FileName || !instants.Unissued(dir)) && !slices.ContainsFunc([]string{partialPrefix, markPrefix, verifiedTemporary, instants.TemporaryName, protectedTemporary},
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

// removePinsDir removes the directory of the pins, unless there are any. Errors are ignored: the
// domain's directory stays then.
func (l *Lock) removePinsDir() {
	if pins, damaged, err := l.repo.Pins(l.domain); err != nil || len(pins)+len(damaged) > 0 {
		return
	}
	dir := filepath.Join(l.dir(), PinsName)
	_ = os.Remove(filepath.Join(dir, pinTemporary)) // of a run that died
	_ = os.Remove(dir)
}
