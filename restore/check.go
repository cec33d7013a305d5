package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/repository"
)

// checkAfter reads what the copy has not read of the images, and compares all of them
// with their hashes. copyErr is the error of the copy; the caller gives the new images
// their names only if both have succeeded. Damage takes precedence: a copy from a
// damaged image may fail in any way.
func (r *restorer) checkAfter(ctx context.Context, copyErr error, chains [][]link) error {
	var bug *panics.Error
	if copyErr != nil && (r.isOurs(copyErr) || errors.As(copyErr, &bug)) {
		return copyErr
	}
	checkErr := r.check(ctx, chains)
	var damaged *repository.DamagedError
	switch {
	case ctx.Err() != nil && errors.Join(copyErr, checkErr) != nil:
		return context.Cause(ctx) // everything fails then, in no particular order
	case copyErr == nil || errors.As(checkErr, &damaged):
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
// *repository.DamagedError where what a restore reads is not as it was written.
func (r *restorer) check(ctx context.Context, chains [][]link) error {
	var mu sync.Mutex
	var found []repository.Damage
	group, ctx := panics.WithContext(ctx)
	group.SetLimit(disksAtOnce)
	for _, chain := range chains {
		group.Go(func() error {
			for _, link := range chain {
				if err := fault.Point("restore: check image"); err != nil {
					return err
				}
				damage, err := r.repo.CheckImage(ctx, link.Point, link.Disk, repository.CheckOptions{Proof: link.proof, Misread: r.warn})
				if err != nil {
					return err
				}
				mu.Lock()
				found = append(found, damage...)
				mu.Unlock()
				if err := repository.DamagedBy(damage); err != nil {
					return nil // without it the others of the chain are of no use
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, d := range found {
		if d.Harmless {
			r.warn(d.String())
		}
	}
	return r.explain(repository.DamagedBy(found))
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
	var damaged *repository.DamagedError
	if errors.As(err, &damaged) {
		r.repo.Explain(damaged)
	}
	return err
}

// readXML reads the domain's XML, before anything is written. Where disks are named,
// their images are what is wanted, and damaged XML is only a warning; nil then.
func (r *restorer) readXML() ([]byte, error) {
	doc, err := r.repo.ReadFile(r.point, repository.DomainXML)
	var damaged *repository.DamagedError
	switch {
	case err == nil:
		return doc, nil
	case !errors.As(err, &damaged):
		return nil, fmt.Errorf("the domain's XML: %w", err)
	case len(r.Disks) > 0:
		r.warn(fmt.Sprintf("the domain's XML is not restored: %v", err))
		return nil, nil
	}
	return nil, &xmlError{r.explain(err), r.imagesAlone()}
}

// imagesAlone is the command that restores the images and no XML.
func (r *restorer) imagesAlone() string {
	var disks strings.Builder
	for _, d := range r.disks {
		disks.WriteString(" --disk " + repository.ShellWord(d.Target))
	}
	return fmt.Sprintf("virtbackup restore %s --at %s --to DIR%s restores the images alone", repository.ShellWord(r.Domain), r.point.ID, &disks)
}

// xmlError says that the domain's XML is damaged.
type xmlError struct {
	err  error
	hint string
}

func (e *xmlError) Error() string { return fmt.Sprintf("the domain's XML: %v", e.err) }
func (e *xmlError) Unwrap() error { return e.err }

// Hint says how to get the images all the same.
func (e *xmlError) Hint() string { return e.hint }
