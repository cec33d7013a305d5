package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
)

// checkAfter reads what the copy has not read of the images, and compares all of them
// with their hashes. copyErr is the error of the copy; the caller gives the new images
// their names only if both have succeeded. Damage takes precedence: a copy from a
// damaged image may fail in any way.
func (r *restorer) checkAfter(ctx context.Context, copyErr error, chains [][]link) error {
	if copyErr != nil && (r.isOurs(copyErr) || fail.Is(copyErr, fail.Bug)) {
		return copyErr
	}
	checkErr := r.check(ctx, chains)
	switch {
	case ctx.Err() != nil && errors.Join(copyErr, checkErr) != nil:
		return context.Cause(ctx) // everything fails then, in no particular order
	case copyErr == nil || fail.Is(checkErr, fail.Damaged):
		return checkErr
	}
	return r.explain(copyErr)
}

// isOurs tells whether writing has failed, which no check of the images explains.
func (r *restorer) isOurs(err error) bool {
	var path *fs.PathError
	if !errors.As(err, &path) {
		return false
	}
	rel, pathErr := filepath.Rel(r.Dir, path.Path)
	return pathErr == nil && filepath.IsLocal(rel)
}

// check reads what is not proven yet of every image of the chains. The error is a
// *damage.Error where what a restore reads is not as it was written.
func (r *restorer) check(ctx context.Context, chains [][]link) error {
	ofChain := make([][]damage.Place, len(chains))
	err := r.Limits.EachDisk(ctx, len(chains), func(ctx context.Context, i int) (err error) {
		ofChain[i], err = r.checkChain(ctx, chains[i])
		return err
	})
	if err != nil {
		return err
	}
	found := slices.Concat(ofChain...)
	for _, d := range found {
		if d.Harmless {
			r.warn(d.String())
		}
	}
	return r.explain(damage.ErrorOf(found))
}

// checkChain reads what is not proven yet of the images of a chain, up to the first that
// is damaged: the others are of no use then.
func (r *restorer) checkChain(ctx context.Context, chain []link) (found []damage.Place, err error) {
	for _, link := range chain {
		if err := fault.Point("restore: check image"); err != nil {
			return nil, err
		}
		ofImage, err := diskimage.Check(ctx, link.Link, hashlist.CheckOptions{Proven: link.proven, Misread: r.warn})
		if err != nil {
			return nil, err
		}
		found = append(found, ofImage...)
		if damage.ErrorOf(ofImage) != nil {
			break
		}
	}
	return found, nil
}

// warn reports what does not prevent the restore.
func (r *restorer) warn(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.warnings = append(r.warnings, text)
	r.Log.Warn(text)
}

// explain adds to damage which points are lost with it, and which are not.
func (r *restorer) explain(err error) error {
	var damaged *damage.Error
	if errors.As(err, &damaged) {
		r.repo.Explain(damaged)
	}
	return err
}

// readXML reads the domain's XML, before anything is written. Where disks are named,
// their images are what is wanted, and damaged XML is only a warning; nil then.
func (r *restorer) readXML() ([]byte, error) {
	doc, err := r.repo.ReadFile(r.point, manifest.DomainXML)
	switch {
	case err == nil:
		return doc, nil
	case !fail.Is(err, fail.Damaged):
		return nil, fmt.Errorf("the domain's XML: %w", err)
	case len(r.Disks) > 0:
		r.warn(fmt.Sprintf("the domain's XML is not restored: %v", err))
		return nil, nil
	}
	return nil, fail.WithHint(fmt.Errorf("the domain's XML: %w", r.explain(err)), "%s", r.imagesAlone())
}

// imagesAlone is the command that restores the images and no XML.
func (r *restorer) imagesAlone() string {
	var disks strings.Builder
	for _, d := range r.disks {
		disks.WriteString(" --disk " + manifest.ShellWord(d.Target))
	}
	return fmt.Sprintf("virtbackup restore %s --at %s --to DIR%s restores the images alone", manifest.ShellWord(r.Domain), r.point.ID, &disks)
}
