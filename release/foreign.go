package release

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// ForeignRequest is about checkpoints that virtbackup made for other repositories. Where
// such a repository is gone nobody else deletes them, and each slows down every write of
// the guest; whether it is gone only a person knows.
type ForeignRequest struct {
	Domain string
	// Delete are the full names of those to delete, none lists only.
	Delete []string
	DryRun bool
	Log    *slog.Logger // may be nil
}

// ForeignCheckpoint is one of them.
type ForeignCheckpoint struct {
	Name       string    `json:"name"`       // in full
	Repository string    `json:"repository"` // its id, as the checkpoint says
	Point      string    `json:"point"`
	Created    time.Time `json:"created"`
}

// ForeignResult is what there is, and what was deleted; in a dry run, what would be.
type ForeignResult struct {
	Domain  string              `json:"domain"`
	DryRun  bool                `json:"dry_run,omitempty"`
	Foreign []ForeignCheckpoint `json:"foreign"` // before anything was deleted
	Deleted []string            `json:"deleted"`
}

// Foreign lists the checkpoints that virtbackup made for other repositories than repo, and
// deletes those that are named: all, or none where one of the names is not among them.
//
// Errors: hypervisor.ErrNoDomain, ErrNotRunning (bitmaps can only be deleted by a running
// QEMU), *NotForeignError, *repository.LockedError, and what libvirt reports.
func Foreign(host guest.Host, repo *repository.Repository, request ForeignRequest) (result ForeignResult, err error) {
	result = ForeignResult{Domain: request.Domain, DryRun: request.DryRun, Foreign: []ForeignCheckpoint{}, Deleted: []string{}}
	domain, err := host.Domain(request.Domain)
	if err != nil {
		return result, err
	}
	lock, err := repo.Lock(request.Domain)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	all, err := checkpoint.List(domain, repo)
	if err != nil {
		return result, err
	}
	for _, c := range checkpoint.OfElsewhere(all, repo.ID()) {
		id, point, _ := c.Elsewhere(repo.ID())
		result.Foreign = append(result.Foreign, ForeignCheckpoint{Name: c.Name, Repository: id, Point: point, Created: c.Created.UTC()})
	}
	for _, name := range request.Delete {
		if !slices.ContainsFunc(result.Foreign, func(f ForeignCheckpoint) bool { return f.Name == name }) {
			return result, &NotForeignError{request.Domain, name}
		}
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(request.Delete))) {
		if !request.DryRun {
			if _, err := checkpoint.Remove(domain, lock, name, true); err != nil {
				return result, err
			}
			if request.Log != nil {
				request.Log.Debug("deleted checkpoint " + name)
			}
		}
		result.Deleted = append(result.Deleted, name)
	}
	return result, nil
}

// NotForeignError names what is no checkpoint of another repository.
type NotForeignError struct{ Domain, Name string }

// Error says so.
func (e *NotForeignError) Error() string {
	return fmt.Sprintf("domain %s has no checkpoint %s that virtbackup made for another repository: nothing is deleted", e.Domain, e.Name)
}

// Unwrap makes it an ErrNoCheckpoint.
func (e *NotForeignError) Unwrap() error { return hypervisor.ErrNoCheckpoint }

// Hint says where the names are.
func (e *NotForeignError) Hint() string {
	return fmt.Sprintf("virtbackup release %s --foreign lists those that there are, with their full names", manifest.ShellWord(e.Domain))
}
