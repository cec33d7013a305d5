package serve

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/repository"
)

// lookForPin is how often it is looked whether the pin is still there.
const lookForPin = 250 * time.Millisecond

// errUnpinned says that nobody needs what is served any more.
var errUnpinned = errors.New("the pin is gone")

// whilePinned calls do with a context that is cancelled when the pin is gone, which is no error.
func whilePinned(ctx context.Context, repo *repository.Repository, domain, id string, do func(context.Context) error) error {
	there, err := pinned(repo, domain, id)
	if err != nil {
		return err
	}
	if !there {
		return fail.Errorf(fail.NotFound, "virtbackup list shows which points are pinned", "domain %s has no pin %s", domain, id)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var group panics.Group
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(lookForPin):
			}
			// What cannot be read now may be there: a file system may be away for a while.
			if there, err := pinned(repo, domain, id); err == nil && !there {
				cancel(errUnpinned)
			}
		}
	})
	err = do(ctx)
	cancel(nil)
	if err = errors.Join(err, group.Wait()); errors.Is(err, errUnpinned) {
		return nil
	}
	return err
}

// pinned tells whether a pin is there. One that is damaged may be any.
func pinned(repo *repository.Repository, domain, id string) (bool, error) {
	pins, damaged, err := repo.Pins(domain)
	return len(damaged) > 0 || slices.ContainsFunc(pins, func(p keep.Pin) bool { return p.ID == id }), err
}
