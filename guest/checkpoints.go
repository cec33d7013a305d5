package guest

import (
	"errors"
	"fmt"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/xml"
)

// DeleteCheckpoint deletes the checkpoint of an instant with its bitmaps, even if libvirt
// has lost its record, and checks that it is gone. The identity stays: nothing is written
// to the repository, which may be full. After an error there may still be bitmaps, and the
// identity must be kept: hypervisor.ErrNotRunning and ErrNoDomain, ErrBusy, and others
// of checkpoint.Delete.
func (d *LockedDomain) DeleteCheckpoint(i instants.Instant) error {
	doc, err := d.Domain.CheckpointXML(i.CheckpointName())
	switch {
	case errors.Is(err, hypervisor.ErrNoCheckpoint):
		return d.DeleteOrphans(i)
	case err != nil:
		return err
	}
	if err := d.prove(doc, i); err != nil {
		return err
	}
	d.log().Info("deleting checkpoint " + i.Point)
	return checkpoint.DeleteForSure(d.Domain, i.CheckpointName())
}

// DeleteOrphans deletes the bitmaps of an instant whose checkpoint libvirt does not list. For
// errors see checkpoint.DeleteOrphans.
func (d *LockedDomain) DeleteOrphans(i instants.Instant) error {
	described, err := d.Describe()
	if err != nil {
		return err
	}
	return checkpoint.DeleteOrphans(d.Domain, d.Repo.ID(), i, described.Disks)
}

// RetireCheckpoint deletes the checkpoint of a sealed point, and forgets its identity. The
// caller logs it, with the reason.
func (d *LockedDomain) RetireCheckpoint(i instants.Instant) error {
	doc, err := d.Domain.CheckpointXML(i.CheckpointName())
	if err == nil {
		err = d.prove(doc, i)
	}
	if err != nil && !errors.Is(err, hypervisor.ErrNoCheckpoint) {
		return err
	}
	d.log().Debug("deleting checkpoint " + i.Point)
	return checkpoint.DeleteIssued(d.Domain, d.Lock, i)
}

// prove checks that the repository has issued the identity of a checkpoint here. For this
// run's own identity it does not read the repository, which may hang.
func (d *LockedDomain) prove(doc string, i instants.Instant) error {
	c, err := xml.ParseCheckpoint(doc)
	if err != nil {
		return err
	}
	if i.Identity == d.Own && c.Name == i.CheckpointName() && c.Description == checkpoint.Description(d.Repo.ID(), i.Point) {
		return nil
	}
	ledger, err := d.Ledger()
	if err != nil {
		return err
	}
	if i, ok := checkpoint.Issued(c, ledger); !ok || ledger.Inherited(i) {
		return fmt.Errorf("checkpoint %s is not deleted: it is not known to be ours", c.Name)
	}
	return nil
}

// Survey lists the domain's checkpoints.
func (d *LockedDomain) Survey(sizes bool) ([]checkpoint.Checkpoint, error) {
	docs, err := d.Domain.Checkpoints(sizes)
	if err != nil {
		return nil, err
	}
	ledger, err := d.Ledger()
	if err != nil {
		return nil, err
	}
	return checkpoint.Survey(docs, ledger)
}
