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

	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
)

// RemovePoints removes sealed points, hidden ones too, the last of ids first: pass them
// oldest first. removed, if set, is called with each. A *lineage.NeededError, or a *ProtectedError,
// comes before anything is removed. If the process is killed at any instant, each point is either listed and
// whole, or a leftover: first its name is removed, durably, then its files.
func (l *Lock) RemovePoints(ids []string, removed func(id string)) error {
	if err := l.check(); err != nil {
		return fmt.Errorf("remove points: %w", err)
	}
	points, err := l.repo.Lineage(l.domain)
	if err != nil {
		return err
	}
	if err := l.repo.CheckRemovable(l.domain, ids, time.Now()); err != nil {
		return err
	}
	if err := points.CheckUnneeded(ids); err != nil {
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
		if e.Name() == keep.PinsName {
			keep.RemoveNoPins(dir) // if any stay, so does the domain's directory
		}
		if e.Name() == record.DirName {
			if err := record.RemoveAll(dir); err != nil {
				return fmt.Errorf("remove domain %s: %w", l.domain, err)
			}
		}
		if !slices.Contains([]string{VerifiedName, instants.DamagedName, ReadersName, keep.ProtectedName}, e.Name()) && (e.Name() != instants.FileName || !instants.Unissued(dir)) && !slices.ContainsFunc([]string{partialPrefix, markPrefix, verifiedTemporary, instants.TemporaryName, keep.ProtectedTemporary},
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
