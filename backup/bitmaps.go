package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/xml"
)

// findOldImages finds qcow2 images of version 2, which has no bitmaps: libvirt's
// XML does not tell, and one of them would fail the whole checkpoint. Where this
// process cannot read the image (a volume of a pool, a disk over the network) QEMU is
// asked, which taints the domain, so not for the others. What nobody tells of is
// taken for version 3, the default of the last ten years.
func (r *run) findOldImages(disks []xml.Disk) {
	var hidden []*xml.Disk
	for i := range disks {
		d := &disks[i]
		if d.Unfit() != "" || d.Format != "qcow2" {
			continue
		}
		switch version, err := qcow2Version(*d); {
		case err != nil:
			hidden = append(hidden, d)
		case version == 2:
			d.Format = qcow2v2
		}
	}
	if len(hidden) == 0 {
		return
	}
	old, err := r.domain.OldImages()
	if err != nil {
		r.Log.Debug(err.Error())
	}
	for _, d := range hidden {
		if slices.Contains(old, d.FormatNode()) {
			d.Format = qcow2v2
		}
	}
}

// qcow2v2 is the format of an image that cannot have bitmaps.
const qcow2v2 = "qcow2 v2"

// qcow2Version looks into an image on this host.
func qcow2Version(d xml.Disk) (int, error) {
	if d.SourceType != "file" && d.SourceType != "block" {
		return 0, fmt.Errorf("the image of disk %s is not on this host", d.Target)
	}
	f, err := os.Open(d.Source)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	h, err := qcow2.ReadHeader(f)
	return int(h.Version), err
}

// withoutBitmaps begins the job after QEMU has refused a bitmap, as cause says,
// which fails the whole checkpoint: it finds the disks that it is refused for, and
// leaves them out of the checkpoint. A guest that was frozen for the first try is
// not while that goes on, and frozen again for the next.
func (r *run) withoutBitmaps(ctx context.Context, cause error) error {
	r.Log.Info(fmt.Sprintf("trying the bitmap of each disk alone: %v", cause))
	if err := r.thaw(ctx); err != nil {
		return errors.Join(cause, err)
	}
	r.quiesced = false
	refused := false
	for i := range r.plan.Disks {
		d := &r.plan.Disks[i]
		if !d.Bitmap {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		why, err := r.tryBitmap(d.Target)
		if err != nil {
			return fmt.Errorf("%w; try the bitmap of disk %s alone: %w", cause, d.Target, err)
		}
		if why != nil {
			refused, d.Bitmap = true, false
			r.warn("disk %s has no bitmap in checkpoint %s: the next backup has to read all of it: %v", d.Target, r.plan.ID, why)
		}
	}
	if !refused {
		return cause
	}
	if err := r.noCheckpoint(); err != nil {
		return err
	}
	if err := r.awaitStillIdle(ctx); err != nil {
		return err
	}
	if err := r.freeze(ctx); err != nil {
		return err
	}
	return r.beginJob()
}

// noCheckpoint gives the point's checkpoint up where no disk is left for it, and
// notes that there is none to define again. Those of the tries are gone.
func (r *run) noCheckpoint() error {
	if slices.ContainsFunc(r.plan.Disks, func(d DiskPlan) bool { return d.Bitmap }) {
		return nil
	}
	r.plan.Checkpoint, r.dropped = "", true
	return r.lock.SetInstantState(r.plan.Identity, instants.Retired)
}

// tryBitmap makes the new checkpoint for one disk alone, and deletes it. Under its
// own name, which is written down, it is ours wherever this ends. why is QEMU's
// reason to refuse it.
func (r *run) tryBitmap(target string) (why, err error) {
	c := xml.Checkpoint{Name: r.plan.Checkpoint, Description: checkpoint.Description(r.repo.ID(), r.plan.ID),
		Disks: []xml.CheckpointDisk{{Target: target, Bitmap: r.plan.Checkpoint}}}
	doc, err := c.Marshal()
	if err != nil {
		return nil, err
	}
	err = within(beginTime, func() error { return r.domain.CreateCheckpoint(doc) })
	if err == nil {
		err = fault.Point("try bitmap")
	}
	if errors.Is(err, hypervisor.ErrBitmap) {
		why, err = err, nil
	}
	if errors.Is(err, errNoAnswer) {
		return nil, err // nothing can be deleted either
	}
	return why, errors.Join(err, r.site().DeleteCheckpoint(r.instant))
}
