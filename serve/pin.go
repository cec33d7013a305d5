package serve

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// lookForPin is how often it is looked whether the pin is still there.
const lookForPin = 250 * time.Millisecond

// errUnpinned says that nobody needs what is served any more.
var errUnpinned = errors.New("the pin is gone")

// whilePinned calls do with a context that is cancelled when the pin is gone, which is no error.
func whilePinned(ctx context.Context, repo *repository.Repository, domain, id string, do func(context.Context, keep.Pin) error) error {
	pin, there, err := findPin(repo, domain, id)
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
			if _, there, err := findPin(repo, domain, id); err != nil || there || !isThere(repo) {
				continue
			}
			if _, there, err := findPin(repo, domain, id); err == nil && !there { // the repository being there
				cancel(errUnpinned)
			}
		}
	})
	err = do(ctx, pin)
	cancel(nil)
	if err = errors.Join(err, group.Wait()); errors.Is(err, errUnpinned) {
		return nil
	}
	return err
}

// findPin looks for a pin. Where one is damaged it may be that: what it holds is unknown then.
func findPin(repo *repository.Repository, domain, id string) (pin keep.Pin, there bool, err error) {
	pins, damaged, err := repo.Pins(domain)
	if i := slices.IndexFunc(pins, func(p keep.Pin) bool { return p.ID == id }); i >= 0 {
		return pins[i], true, nil
	}
	return keep.Pin{}, len(damaged) > 0, err
}

// checkPinned refuses a point that is not the one that was pinned: a repository that was rolled back
// may have another one of its name.
func checkPinned(pin keep.Pin, m manifest.Manifest) error {
	if pin.ID == "" || pin.Point == m.ID && pin.Identity == m.Identity {
		return nil
	}
	return fail.Errorf(fail.Damaged, "the repository was rolled back, or is a copy: bring back the one that the domain was restored from",
		"point %s of domain %s is not the one that was pinned: it has the identity %q, not %q", m.ID, m.Domain, m.Identity, pin.Identity)
}

// isThere tells whether the repository is where it was: an empty mountpoint has no pins either.
func isThere(repo *repository.Repository) bool {
	now, err := repository.Open(repo.Dir())
	return err == nil && now.ID() == repo.ID()
}
