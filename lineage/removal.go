package lineage

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// RemovedName is the file that hides a point, in its directory. The point's data stays there
// as long as others need it.
const RemovedName = "removed.json"

// RemovedTemporary is replaced under the domain's lock, so one name is enough.
const RemovedTemporary = ".removed.json"

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

// WriteRemoval hides a point, whose directory is dir, durably. The caller holds the domain's
// lock.
func WriteRemoval(dir string, m manifest.Manifest, reason string) error {
	data, err := digest.EncodeJSON(Removal{Format: manifest.Format, Point: m.ID, Identity: m.Identity, PointTime: m.Time, Time: time.Now().UTC(), Reason: reason})
	if err != nil {
		return err
	}
	return fault.Around("hide", func() error {
		return localfile.Replace(filepath.Join(dir, RemovedTemporary), filepath.Join(dir, RemovedName), data)
	})
}

// ClearRemoval undoes it, durably.
func ClearRemoval(dir string) error {
	return fault.Around("unhide", func() error {
		if err := os.Remove(filepath.Join(dir, RemovedName)); err != nil {
			return err
		}
		return localfile.SyncDir(dir)
	})
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
