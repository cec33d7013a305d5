package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/virtbackup/virtbackup/repository"
)

// errDamaged ends the copying; what is damaged, the check says.
var errDamaged = errors.New("the repository is damaged")

// copyChecked runs copyAll while all images of the chains are read and held
// against their hashes. It succeeds only if both do, so the caller names what
// was copied only then. Running side by side, one reads what the other has in
// the page cache. Damage is the error that counts: a copy from a damaged image
// may fail in any way.
func (r *restorer) copyChecked(ctx context.Context, chains [][]repository.Link, copyAll func(context.Context) error) error {
	copying, stopCopying := context.WithCancelCause(ctx)
	defer stopCopying(nil)
	checking, stopChecking := context.WithCancel(ctx)
	defer stopChecking()
	checked := make(chan error, 1)
	go func() {
		err := r.check(checking, chains)
		if err != nil {
			stopCopying(errDamaged)
		}
		checked <- err
	}()
	err := copyAll(copying)
	stopped := errors.Is(context.Cause(copying), errDamaged) // by the check
	if err != nil && r.isOurs(err) {
		stopChecking()
	}
	checkErr := <-checked
	var damaged *repository.DamagedError
	switch {
	case ctx.Err() != nil && errors.Join(err, checkErr) != nil:
		return context.Cause(ctx) // all fails then; what was seen first is chance
	case err == nil || stopped || errors.As(checkErr, &damaged):
		return checkErr
	}
	return err
}

// isOurs tells whether what failed is what is written: no check explains that.
func (r *restorer) isOurs(err error) bool {
	var path *fs.PathError
	if !errors.As(err, &path) {
		return false
	}
	rel, pathErr := filepath.Rel(r.Dir, path.Path)
	return pathErr == nil && filepath.IsLocal(rel)
}

// check reads every image of the chains once. The error is a
// *repository.DamagedError where what a restore reads is not as it was written.
func (r *restorer) check(ctx context.Context, chains [][]repository.Link) error {
	var mu sync.Mutex
	var found []repository.Damage
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(disksAtOnce)
	for _, chain := range chains {
		group.Go(func() error {
			for _, link := range chain {
				damage, err := r.repo.CheckImage(ctx, link.Point, link.Disk, repository.CheckOptions{Cache: true})
				if err != nil {
					return err
				}
				mu.Lock()
				found = append(found, damage...)
				mu.Unlock()
				if err := repository.DamagedBy(damage); err != nil {
					return nil // the others of the chain are of no use
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

// warn says what is no obstacle to the restore but worth reading.
func (r *restorer) warn(text string) {
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

// readXML reads the domain's XML, before anything is written.
func (r *restorer) readXML() ([]byte, error) {
	doc, err := r.repo.ReadFile(r.point, repository.DomainXML)
	if err != nil {
		return nil, fmt.Errorf("the domain's XML: %w", r.explain(err))
	}
	return doc, nil
}
