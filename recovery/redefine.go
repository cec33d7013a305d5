package recovery

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// absent is a checkpoint that a point has but libvirt does not list: the domain was
// undefined and defined again, is transient and was created again, was renamed, or has
// migrated; or somebody has deleted the checkpoint.
type absent struct {
	point   manifest.Manifest
	instant instants.Instant
}

func (a absent) what() string {
	return fmt.Sprintf("checkpoint %s, which libvirt has lost", a.point.ID)
}

func (a absent) name() string { return a.instant.CheckpointName() }

// missing lists the absent checkpoints whose identities are valid, oldest first.
func (r *recoverer) missing() ([]absent, error) {
	there, err := r.Survey(false)
	if err != nil {
		return nil, err
	}
	ledger, err := r.Ledger()
	if err != nil {
		return nil, err
	}
	var all []absent
	for _, i := range ledger.Issued { // in the order of their numbers
		if _, listed := checkpoint.Find(there, i.CheckpointName()); listed || !i.Checkpoint || i.State == instants.Retired {
			continue
		}
		m, err := r.Repo.Point(r.Lock.Domain(), i.Point)
		switch {
		case errors.Is(err, manifest.ErrNoPoint), fail.Is(err, fail.Damaged), err == nil && m.Identity != i.Identity:
			continue // not sealed, or not to be trusted
		case err != nil:
			return nil, err
		}
		all = append(all, absent{m, i})
	}
	return all, nil
}

// redefine redefines absent checkpoints whose bitmaps are still valid, oldest first. A
// bitmap is persistent: QEMU keeps it in the image and continues to record in it, whether
// libvirt knows about it or not. What libvirt refuses now is left for the next run (see
// ifNotRefused).
func (r *recoverer) redefine(again bool, report *Report) error {
	missing, err := r.missing()
	if err != nil {
		return err
	}
	for _, a := range missing {
		if a.instant.State == instants.Lost && !again {
			continue // known from an earlier recovery
		}
		var what string
		err := r.ifNotRefused(func() (err error) {
			what, err = r.redefineOne(a)
			return err
		})
		var gone *goneError
		var refused *laterError
		state := instants.Issued
		switch {
		case errors.As(err, &refused):
			report.add(finding{what: a.what(), later: refused.why})
			continue
		case errors.As(err, &gone):
			state = instants.Lost
			report.Lost = append(report.Lost, fmt.Sprintf("checkpoint %s: %s", a.point.ID, gone.why))
			r.log.Debug(fmt.Sprintf("checkpoint %s is lost: %s", a.name(), gone.why))
		case err != nil:
			return fmt.Errorf("define checkpoint %s again: %w", a.point.ID, err)
		default:
			report.add(finding{what: what})
			r.log.Info("defined again: " + what)
		}
		if state != a.instant.State {
			if err := r.unlessFull(r.Lock.SetInstantState(a.instant.Identity, state)); err != nil {
				return err
			}
		}
	}
	return nil
}

// goneError says why a checkpoint cannot be redefined.
type goneError struct{ why string }

func (e *goneError) Error() string { return e.why }

// redefineOne redefines a checkpoint if at least one of its bitmaps is valid. If others are
// not, libvirt lists a checkpoint with broken bitmaps, as after a crash of QEMU, and only
// those disks fall back.
func (r *recoverer) redefineOne(a absent) (what string, err error) {
	c, err := r.document(a)
	if err != nil {
		return "", err
	}
	doc, err := c.Marshal()
	if err != nil {
		return "", &goneError{err.Error()}
	}
	err = r.Domain.RedefineCheckpoint(doc, true)
	if err == nil {
		return a.what(), nil
	}
	if !errors.Is(err, hypervisor.ErrCheckpointInconsistent) {
		return "", refusal(err)
	}
	if err := r.Domain.RedefineCheckpoint(doc, false); err != nil {
		return "", refusal(err)
	}
	if err := fault.Point("redefined"); err != nil {
		return "", err
	}
	broken, valid, err := r.bitmaps(c.Name)
	if err != nil {
		return "", err
	}
	if valid > 0 {
		return fmt.Sprintf("%s (without the bitmap of %s, which is missing or broken)", a.what(), strings.Join(broken, " and ")), nil
	}
	if err := r.dropRecord(a); err != nil {
		return "", err
	}
	return "", &goneError{"its bitmaps are missing or broken"}
}

// dropRecord deletes the record of a checkpoint that has no valid bitmap, and its broken
// bitmaps, unless it is inherited: then they may belong to the original repository.
func (r *recoverer) dropRecord(a absent) error {
	ledger, err := r.Ledger()
	if err != nil {
		return err
	}
	if ledger.Inherited(a.instant) {
		return r.Domain.DeleteCheckpoint(a.name(), true)
	}
	return checkpoint.DeleteForSure(r.Domain, a.name())
}

// refusal distinguishes what libvirt rejects for good (*goneError) from temporary errors.
func refusal(err error) error {
	for _, kind := range []error{hypervisor.ErrUnreachable, hypervisor.ErrNoDomain, hypervisor.ErrNotRunning, hypervisor.ErrBusy} {
		if errors.Is(err, kind) {
			return err
		}
	}
	return &goneError{err.Error()}
}

// document returns the checkpoint as the point recorded it, without the disks that the
// domain does not have any more.
func (r *recoverer) document(a absent) (xml.Checkpoint, error) {
	data, err := r.Repo.ReadFile(a.point, "checkpoint.xml")
	if fail.Is(err, fail.Damaged) {
		return xml.Checkpoint{}, &goneError{err.Error()}
	}
	if err != nil {
		return xml.Checkpoint{}, err
	}
	c, err := xml.ParseCheckpoint(string(data))
	if err != nil {
		return c, &goneError{err.Error()}
	}
	ledger, err := r.Ledger()
	if err != nil {
		return c, err
	}
	if i, ok := checkpoint.Issued(c, ledger); !ok || i.Identity != a.instant.Identity {
		return c, &goneError{"the point's checkpoint.xml belongs to another point"}
	}
	domain, err := r.Describe()
	if err != nil {
		return c, err
	}
	c.Disks = slices.DeleteFunc(c.Disks, func(d xml.CheckpointDisk) bool {
		_, has := domain.Disk(d.Target)
		return !has
	})
	if !slices.ContainsFunc(c.Disks, func(d xml.CheckpointDisk) bool { return d.Bitmap != "" }) {
		return c, &goneError{"the domain no longer has any of its disks"}
	}
	return c, r.setParent(&c)
}

// setParent drops a parent that libvirt does not list, as libvirt would refuse it. The
// parent is only for display, as each bitmap records by itself.
func (r *recoverer) setParent(c *xml.Checkpoint) error {
	if c.Parent == "" {
		return nil
	}
	_, err := r.Domain.CheckpointXML(c.Parent)
	if errors.Is(err, hypervisor.ErrNoCheckpoint) {
		c.Parent = ""
		return nil
	}
	return err
}

// bitmaps returns the disks of a checkpoint with a broken bitmap, and how many have a valid
// one. It fails if libvirt cannot tell now: the domain has ended, or another job holds it.
func (r *recoverer) bitmaps(name string) (broken []string, valid int, err error) {
	doc, err := r.Domain.CheckpointSizes(name)
	if err != nil {
		return nil, 0, err
	}
	c, err := xml.ParseCheckpoint(doc)
	if err != nil {
		return nil, 0, err
	}
	sized := checkpoint.Checkpoint{Checkpoint: c}
	return sized.Broken(), len(sized.Bitmaps()) - len(sized.Broken()), nil
}
