package backup

import (
	"context"
	"fmt"
	"slices"

	"github.com/virtbackup/virtbackup/internal/bytesize"
)

// measure looks, where an incremental seems too large for the repository, how
// much of what is dirty is data, and refuses what cannot fit before anything is
// written. libvirt's estimate counts the zeros of a guest that trims
// (fstrim.timer), which take no space. It is asked of the block status, which is
// there only with the job; where the estimate fits nobody needs to ask. The watch reads
// the plan meanwhile, so what is measured becomes part of it only then.
func (r *run) measure(ctx context.Context) error {
	if !r.doubtful {
		return nil
	}
	disks := slices.Clone(r.plan.Disks)
	if err := r.watched(ctx, func(ctx context.Context) error { return r.measureDisks(ctx, disks) }); err != nil {
		return err
	}
	r.plan.Disks = disks
	r.need = r.plan.need(r.written)
	r.meter.expect(r.plan.Disks, r.written)
	room, err := r.room()
	if err != nil || room.fits(r.need) {
		return err
	}
	return r.tooSmall(room)
}

func (r *run) measureDisks(ctx context.Context, disks []DiskPlan) error {
	for i := range disks {
		if !disks[i].Incremental {
			continue
		}
		if err := r.measureDisk(ctx, &disks[i]); err != nil {
			return fmt.Errorf("look for zeros on disk %s of domain %s: %w", disks[i].Target, r.Domain, err)
		}
	}
	return nil
}

// measureDisk replaces libvirt's estimate of a disk by what is data on it.
func (r *run) measureDisk(ctx context.Context, d *DiskPlan) error {
	export, err := r.openDisk(ctx, *d)
	if err != nil {
		return err
	}
	defer export.Close()
	m, err := export.Measure(ctx, imageCluster, r.meter.moves)
	if err != nil {
		return err
	}
	r.Log.Debug(fmt.Sprintf("disk %s: of %s that are dirty %s are data", d.Target, bytesize.Text(m.Data+m.Zero), bytesize.Text(m.Data)))
	d.Expected, d.zeros, d.measured = m.Data, m.Zero, true
	return nil
}
