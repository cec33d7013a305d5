package define

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
)

const (
	partialSuffix = ".partial" // ends the name of a file that is not complete
	// varStore is the format of variables that are not <nvram>, but <varstore>.
	varStore = "json"
)

// files are the files of the point that go beside the images. A later version may write
// others.
func (d *definer) files() []manifest.Extra {
	return slices.DeleteFunc(slices.Clone(d.point.Extras), func(e manifest.Extra) bool {
		known := []manifest.ExtraKind{manifest.ExtraNVRAM, manifest.ExtraLoader, manifest.ExtraKernel, manifest.ExtraInitrd,
			manifest.ExtraDTB, manifest.ExtraShim, manifest.ExtraACPI, manifest.ExtraTPM}
		return !slices.Contains(known, e.Kind) || e.Kind == manifest.ExtraTPM && e.Format == "tar"
	})
}

// inDir is the path of a restored file.
func (d *definer) inDir(e manifest.Extra) string { return filepath.Join(d.Dir, e.File) }

// extraNames are the names of all that is made in the directory besides images and XML.
func (d *definer) extraNames() (names []string) {
	for _, e := range d.files() {
		names = append(names, e.File, e.File+partialSuffix)
	}
	return names
}

// putFiles puts the files beside the images that the domain needs besides its disks.
func (d *definer) putFiles(ctx context.Context) error {
	for _, e := range d.files() {
		if err := fault.Point("define: put file"); err != nil {
			return err
		}
		if err := d.putFile(ctx, e); err != nil {
			return fmt.Errorf("restore %s of %s@%s: %w", e.File, d.Domain, d.point.ID, err)
		}
		d.result.Files = append(d.result.Files, d.inDir(e))
	}
	return nil
}

// putFile makes a file under a name of its own first. Its time is that of the point: whoever
// changes it later is noticed by that (see restore's marker).
func (d *definer) putFile(ctx context.Context, e manifest.Extra) (err error) {
	path := d.inDir(e)
	f, err := os.OpenFile(path+partialSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := pointfile.CopyTo(ctx, d.repo.PointDir(d.Domain, d.point.ID), d.point, e.File, f); err != nil {
		return err
	}
	if d.owner != nil {
		if err := d.owner.give(f.Name()); err != nil {
			return err
		}
	}
	err = errors.Join(f.Chmod(e.Perm()), os.Chtimes(f.Name(), d.point.Time, d.point.Time), localfile.Sync(f))
	if err != nil {
		return err
	}
	return localfile.RenameExclusive(f.Name(), path)
}
