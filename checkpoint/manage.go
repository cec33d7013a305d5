package checkpoint

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/repository"
)

// List surveys the checkpoints of a domain, with sizes if it runs. repo may be
// nil: then none is ours.
func List(domain *hypervisor.Domain, repo *repository.Repository) ([]Checkpoint, error) {
	active, err := domain.Active()
	if err != nil {
		return nil, err
	}
	docs, err := domain.Checkpoints(active)
	if err != nil {
		return nil, err
	}
	if repo == nil {
		return Survey(docs, "", func(string) bool { return false })
	}
	return Survey(docs, repo.ID(), Sealed(repo, domain.Name(), domain.UUID()))
}

// Sealed tells which points of a domain the repository has, under its name or
// under one that it had before. A damaged one counts: its checkpoint is not ours
// to throw away.
func Sealed(repo *repository.Repository, domain, uuid string) func(point string) bool {
	has := func(name, point string) bool {
		_, err := repo.Point(name, point)
		return !errors.Is(err, repository.ErrNoPoint)
	}
	// Few have another name, so nobody looks before there is a reason to.
	others := sync.OnceValues(func() ([]string, error) { return repo.NamesOf(uuid) })
	return func(point string) bool {
		if has(domain, point) {
			return true
		}
		names, err := others()
		if err != nil {
			return true // nobody knows
		}
		return slices.ContainsFunc(names, func(name string) bool { return has(name, point) })
	}
}

// RefusedError says why a checkpoint is not deleted without force.
type RefusedError struct{ Name, Reason, Loss string }

// Error names the checkpoint and the reason.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("checkpoint %s is not deleted: %s", e.Name, e.Reason)
}

// Hint says what force would do.
func (e *RefusedError) Hint() string { return "--force deletes it all the same; " + e.Loss }

// Refuse returns a *RefusedError for a checkpoint that is not ours or that a
// sealed point needs, nil for any other.
func Refuse(c Checkpoint) error {
	switch {
	case !c.Ours:
		return &RefusedError{c.Name, "it was not made by virtbackup for this repository",
			"whoever made it then can make no incremental since it"}
	case c.Sealed:
		return &RefusedError{c.Name, "point " + c.Name + " needs it as the base of later backups",
			"the point stays and restores, but an inc or diff since it has to read the whole disks and compare"}
	}
	return nil
}

// Remove deletes the named checkpoint of a domain, if nothing speaks against it
// or force is set, and says what is lost by that, or "". The caller holds the
// domain's lock. Errors: hypervisor.ErrNoCheckpoint, ErrNotRunning (bitmaps can
// only be deleted by a running QEMU), *RefusedError.
func Remove(domain *hypervisor.Domain, repo *repository.Repository, name string, force bool) (loss string, err error) {
	all, err := List(domain, repo)
	if err != nil {
		return "", err
	}
	c, ok := Find(all, name)
	if !ok {
		return "", fmt.Errorf("domain %s: checkpoint %q: %w", domain.Name(), name, hypervisor.ErrNoCheckpoint)
	}
	var refused *RefusedError
	if errors.As(Refuse(c), &refused) {
		if !force {
			return "", refused
		}
		loss = refused.Loss
	}
	active, err := domain.Active()
	if err != nil {
		return "", err
	}
	if !active {
		return "", fmt.Errorf("delete checkpoint %s of domain %s: %w: its bitmaps would stay in the images",
			name, domain.Name(), hypervisor.ErrNotRunning)
	}
	_, err = Delete(domain, name)
	return loss, err
}
