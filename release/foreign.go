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

// ForeignRequest is about checkpoints that virtbackup made for other repositories. If such
// a repository is gone nobody else deletes them, and each slows down every write of the
// guest. Only a person knows whether it is gone.
type ForeignRequest struct {
	Domain string
	// Delete are the full names of those to delete. If empty, they are only listed.
	Delete []string
	DryRun bool
	Log    *slog.Logger // may be nil
}

// ForeignCheckpoint is a checkpoint that virtbackup made for another repository.
type ForeignCheckpoint struct {
	Name       string    `json:"name"`       // in full
	Repository string    `json:"repository"` // its id, from the checkpoint's description
	Point      string    `json:"point"`
	Created    time.Time `json:"created"`
}

// ForeignResult is what was found and what was deleted; in a dry run, what would be deleted.
type ForeignResult struct {
	Domain  string              `json:"domain"`
	DryRun  bool                `json:"dry_run,omitempty"`
	Foreign []ForeignCheckpoint `json:"foreign"` // before anything was deleted
	Deleted []string            `json:"deleted"`
}

// Foreign lists the checkpoints that virtbackup made for other repositories than repo, and
// deletes those that are named. If one of the names is not among them, it deletes none.
//
// Errors: hypervisor.ErrNoDomain, ErrNotRunning (only a running QEMU can delete bitmaps
// that guest/shutoff does not reach), *NotForeignError, *repository.LockedError, and what libvirt reports.
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
	all, err := checkpoint.List(domain, repo, false)
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

// NotForeignError names a checkpoint that was not made for another repository, or does not
// exist.
type NotForeignError struct{ Domain, Name string }

// Error says so.
func (e *NotForeignError) Error() string {
	return fmt.Sprintf("domain %s has no checkpoint %s that virtbackup made for another repository: nothing is deleted", e.Domain, e.Name)
}

// Unwrap makes it an ErrNoCheckpoint.
func (e *NotForeignError) Unwrap() error { return hypervisor.ErrNoCheckpoint }

// Hint says how to list the names.
func (e *NotForeignError) Hint() string {
	return fmt.Sprintf("virtbackup release %s --foreign lists them, with their full names", manifest.ShellWord(e.Domain))
}
