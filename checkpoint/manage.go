package checkpoint

import (
	"errors"
	"fmt"
	"slices"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
)

// Domain is what this package needs of a domain; *hypervisor.Domain is one.
type Domain interface {
	Deleter
	Name() string
	Checkpoints(sizes bool) ([]string, error)
}

// List surveys the checkpoints of a domain, with sizes if they are wanted. repo may be nil; then
// none is ours.
func List(domain Domain, repo *repository.Repository, sizes bool) ([]Checkpoint, error) {
	docs, err := domain.Checkpoints(sizes)
	if err != nil {
		return nil, err
	}
	var ledger *repository.Ledger
	if repo != nil {
		if ledger, err = repo.Ledger(domain.Name()); err != nil {
			return nil, err
		}
	}
	return Survey(docs, ledger)
}

// RefusedError says why a checkpoint is not deleted without force.
type RefusedError struct{ Name, Reason, Loss string }

// Error names the checkpoint and the reason.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("checkpoint %s is not deleted: %s", e.Name, e.Reason)
}

// Hint says what force would do.
func (e *RefusedError) Hint() string { return "--force deletes it nevertheless; " + e.Loss }

// Refuse returns a *RefusedError for a checkpoint that is not ours alone or that a
// sealed point needs, nil for any other.
func Refuse(c Checkpoint) error {
	switch {
	case !c.Ours:
		return &RefusedError{c.Name, "it was not made by virtbackup for this repository",
			"then its owner cannot make an incremental since it"}
	case c.Inherited:
		return &RefusedError{c.Name, "it was made before the repository was moved or copied, and the original may need it",
			"then an inc since " + c.Label() + ", in this repository or the other, has to read the whole disks and compare"}
	case c.Sealed && c.Instant.State != instants.Retired:
		return &RefusedError{c.Label(), "point " + c.Label() + " needs it as the base of later backups",
			"the point stays and restores, but an inc or diff since it has to read the whole disks and compare"}
	}
	return nil
}

// Choose finds the checkpoint that a person names: by its point if it is ours, else by
// libvirt's full name for it.
func Choose(all []Checkpoint, name string) (Checkpoint, bool) {
	if c, ok := OfPoint(all, name); ok && !c.Inherited {
		return c, true
	}
	return Find(all, name)
}

// LeftOverError says that a checkpoint is not deleted alone, even with force: its run was
// killed, and recovery recognises the job and the files of that run by the same identity.
// Without the identity the job would never be ended.
type LeftOverError struct{ Domain, Name string }

// Error names the checkpoint.
func (e *LeftOverError) Error() string {
	return fmt.Sprintf("checkpoint %s is of a run that was killed, or its point is gone: it is deleted together with everything else that is left", e.Name)
}

// Hint says which command deletes it.
func (e *LeftOverError) Hint() string {
	return fmt.Sprintf("virtbackup recover %s deletes it, and ends the job of that run", manifest.ShellWord(e.Domain))
}

// Remove deletes the named checkpoint (see Choose) of a locked domain, unless Refuse refuses
// and force is not set. loss says what is lost by that, or is "". Errors:
// hypervisor.ErrNoCheckpoint, ErrNotRunning (only a running QEMU can delete bitmaps that
// guest/shutoff does not reach), *LeftOverError, *RefusedError.
func Remove(domain Domain, lock *repository.Lock, name string, force bool) (loss string, err error) {
	all, err := List(domain, lock.Repository(), false)
	if err != nil {
		return "", err
	}
	c, ok := Choose(all, name)
	if !ok {
		return "", unknown(all, domain.Name(), name)
	}
	if c.Ours && !c.Sealed && !c.Inherited {
		return "", &LeftOverError{domain.Name(), c.Name}
	}
	var refused *RefusedError
	if errors.As(Refuse(c), &refused) {
		if !force {
			return "", refused
		}
		loss = refused.Loss
	}
	if c.Ours {
		err = DeleteIssued(domain, lock, c.Instant)
	} else {
		err = DeleteForSure(domain, c.Name)
	}
	if errors.Is(err, hypervisor.ErrNotRunning) {
		err = fmt.Errorf("delete checkpoint %s of domain %s: its bitmaps would stay in the images: %w", name, domain.Name(), err)
	}
	return loss, err
}

// unknown returns the error for a name that no checkpoint has. Checkpoints of the same point
// that are not ours alone have to be named in full.
func unknown(all []Checkpoint, domain, name string) error {
	err := fmt.Errorf("domain %s: checkpoint %q: %w", domain, name, hypervisor.ErrNoCheckpoint)
	for _, c := range all {
		if point, _, ok := manifest.ParseCheckpointName(c.Name); ok && point == name {
			err = fmt.Errorf("%w: libvirt's checkpoint of that point is %s, and has to be named in full", err, c.Owner())
			return &NamedInFullError{err, c.Name}
		}
	}
	return err
}

// NamedInFullError says that a checkpoint that is not ours alone was named by its point.
type NamedInFullError struct {
	error
	Name string // what libvirt calls the checkpoint
}

// Unwrap returns the cause, hypervisor.ErrNoCheckpoint.
func (e *NamedInFullError) Unwrap() error { return e.error }

// Hint says the name.
func (e *NamedInFullError) Hint() string { return "its full name is " + e.Name }

// DeleteIssued deletes the checkpoint of an instant that the repository has issued, and
// drops the identity once libvirt does not list the checkpoint any more. Until then it is
// retired: neither used as a base nor redefined. Errors of a full repository are ignored,
// since deleting makes room: then the next run drops the identity.
func DeleteIssued(d Deleter, lock *repository.Lock, i instants.Instant) error {
	if err := lock.SetInstantState(i.Identity, instants.Retired); err != nil && !localfile.IsFull(err) {
		return err
	}
	if err := DeleteForSure(d, i.CheckpointName()); err != nil {
		return err
	}
	if err := lock.DropInstant(i.Identity); err != nil && !localfile.IsFull(err) {
		return err
	}
	return nil
}

// DeleteForSure deletes a checkpoint with its bitmaps and checks that libvirt does not list
// it any more. It is no error if there is none. If no QEMU is running to delete bitmaps, the
// error is hypervisor.ErrNotRunning and the checkpoint stays: without libvirt's record the
// bitmaps would not be found again. For other errors see Delete.
func DeleteForSure(d Deleter, name string) error {
	err := deleteWithBitmaps(d, name)
	if err == nil {
		_, err = d.CheckpointXML(name)
	}
	switch {
	case err == nil:
		return fmt.Errorf("delete checkpoint %s: libvirt still lists it", name)
	case !errors.Is(err, hypervisor.ErrNoCheckpoint):
		return err
	}
	return nil
}

// RecordedBy reports whether a checkpoint is the one that was made with a point of format
// 1, which had no identity: name, repository and creation time must be those that the point
// recorded.
func RecordedBy(repo *repository.Repository, m manifest.Manifest, c xml.Checkpoint) bool {
	if m.Identity != "" || c.Name != m.Checkpoint || c.Description != Description(m.Repository, m.ID) || !slices.Contains(repo.IDs(), m.Repository) {
		return false
	}
	doc, err := repo.ReadFile(m, "checkpoint.xml")
	if err != nil {
		return false
	}
	recorded, err := xml.ParseCheckpoint(string(doc))
	return err == nil && recorded.Name == c.Name && !c.Created.IsZero() && recorded.Created.Equal(c.Created)
}
