package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
)

// Extra is a restored file that is no disk: what else the domain needs to start.
type Extra struct {
	manifest.Extra
	Restored string `json:"restored"` // path
}

// extraNames are the names of extras in the directory: those that they have in the point.
func (r *restorer) extraNames() (names []string) {
	for _, e := range r.point.Extras {
		names = append(names, e.File, e.File+partialSuffix)
	}
	return names
}

// proveExtras reads what else the domain needs, before anything is written. What is damaged is
// left out, with a warning, if disks are named.
func (r *restorer) proveExtras(ctx context.Context) error {
	for _, e := range r.point.Extras {
		sound, err := r.point.ProveFile(ctx, e.File)
		if err != nil {
			return err
		}
		if sound {
			r.extras = append(r.extras, e)
		}
	}
	return nil
}

// restoreExtras puts what else the domain needs beside the images.
func (r *restorer) restoreExtras(ctx context.Context) (extras []Extra, err error) {
	for _, e := range r.extras {
		path := filepath.Join(r.Dir, e.File)
		if err := r.restoreExtra(ctx, e.File, path+partialSuffix); err != nil {
			return nil, err
		}
		extras = append(extras, Extra{e, path})
	}
	return extras, nil
}

func (r *restorer) restoreExtra(ctx context.Context, name, path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	r.makes(path)
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fault.Point("restore: write extra"); err != nil {
		return err
	}
	if err := r.point.CopyFile(ctx, name, f); err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	return f.Sync()
}
