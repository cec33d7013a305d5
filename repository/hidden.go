package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// RemovedName is the file that hides a point, in its directory. The point's data stays there
// as long as others need it.
const RemovedName = "removed.json"

// removedTemporary is replaced under the domain's lock, so one name is enough.
const removedTemporary = ".removed.json"

// Removal says when and why a point was hidden.
type Removal struct {
	Format int `json:"format"`
	// Point, Identity and PointTime are those of the point: a copy of the file hides no other
	// point. Points of format 1 have no identity.
	Point     string    `json:"point"`
	Identity  string    `json:"identity,omitempty"`
	PointTime time.Time `json:"point_time"`
	Time      time.Time `json:"time"`   // UTC
	Reason    string    `json:"reason"` // for people
}

// HiddenError says that a point was removed; errors.Is finds manifest.ErrNoPoint in it.
type HiddenError struct {
	Domain, ID string
	Removal    Removal
}

// Error says when and why.
func (e *HiddenError) Error() string {
	return fmt.Sprintf("point %s of domain %s was removed %s (%s)", e.ID, e.Domain, manifest.TimeText(e.Removal.Time), e.Removal.Reason)
}

// Hint says how to bring it back.
func (e *HiddenError) Hint() string {
	return fmt.Sprintf("virtbackup prune %s --undo %s brings it back: its data is still there", manifest.ShellWord(e.Domain), e.ID)
}

// Unwrap makes it a manifest.ErrNoPoint.
func (e *HiddenError) Unwrap() error { return manifest.ErrNoPoint }

// found is a point as it was read.
type found struct {
	manifest.Manifest
	digest  string // of manifest.json
	hidden  bool
	removal Removal // of a hidden point
	bad     error   // why a removed.json that is there hides nothing
}

// readPoint reads the manifest of a point, and whether it was removed. One that is damaged, or that of another point,
// hides nothing: the point's data is whole, and who removes data has to know why.
//
// removed.json is read first. A hidden point that is deleted meanwhile has no manifest then; the
// other way round it would look like a listed point.
func (r *Repository) readPoint(domain, id string) (found, error) {
	data, readErr := localfile.ReadSmall(filepath.Join(r.PointDir(domain, id), RemovedName))
	m, sum, err := r.readManifestFile(domain, id)
	if err != nil || errors.Is(readErr, fs.ErrNotExist) {
		return found{Manifest: m, digest: sum}, err
	}
	removal, err := Removal{}, readErr
	if err == nil {
		removal, err = parseRemoval(data, m)
	}
	if err != nil {
		return found{Manifest: m, digest: sum, bad: fmt.Errorf("%s: %w", RemovedName, err)}, nil
	}
	return found{m, sum, true, removal, nil}, nil
}

// parseRemoval reads the content of the removed.json of a point strictly.
func parseRemoval(data []byte, m manifest.Manifest) (removal Removal, err error) {
	if err := digest.ParseJSON(data, &removal); err != nil {
		return Removal{}, err
	}
	if err := manifest.CheckFormat(removal.Format); err != nil {
		return Removal{}, err
	}
	if removal.Point != m.ID || removal.Identity != m.Identity || !removal.PointTime.Equal(m.Time) {
		return Removal{}, fmt.Errorf("is that of %s with the identity %q, of %s: put here by hand", removal.Point, removal.Identity, removal.PointTime.Format(time.RFC3339Nano))
	}
	return removal, nil
}

// Hide removes a sealed point from what is listed, durably, and keeps its data. The caller
// has checked that it may go: it is neither protected nor pinned.
func (l *Lock) Hide(id, reason string) error {
	m, err := l.lockedPoint(id)
	if err != nil {
		return fmt.Errorf("hide point %s of domain %s: %w", id, l.domain, err)
	}
	data, err := digest.EncodeJSON(Removal{Format: manifest.Format, Point: id, Identity: m.Identity, PointTime: m.Time, Time: time.Now().UTC(), Reason: reason})
	if err != nil {
		return err
	}
	dir := l.repo.PointDir(l.domain, id)
	err = fault.Around("hide", func() error {
		return localfile.Replace(filepath.Join(dir, removedTemporary), filepath.Join(dir, RemovedName), data)
	})
	if err != nil {
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
	if !p.hidden && p.bad == nil {
		return fail.Errorf(fail.Usage, "virtbackup list "+manifest.ShellWord(l.domain)+" --hidden shows the points that were removed", "point %s of domain %s was not removed", id, l.domain)
	}
	dir := l.repo.PointDir(l.domain, id)
	err = fault.Around("unhide", func() error {
		if err := os.Remove(filepath.Join(dir, RemovedName)); err != nil {
			return err
		}
		return localfile.SyncDir(dir)
	})
	if err != nil {
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
