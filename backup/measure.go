package backup

import (
	"context"
	"fmt"
	"slices"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/internal/bytesize"
)

// measure finds out how much of the dirty clusters is data, if an incremental seems too
// large for the repository, and refuses it before anything is written if it cannot fit.
// libvirt's estimate includes the zeros of a guest that trims (fstrim.timer), which take no
// space. The block status tells them apart, but is available only during the job. The watch
// reads the plan meanwhile, so the plan is replaced only at the end.
func (r *run) measure(ctx context.Context) error {
	if !r.doubtful {
		return nil
	}
	disks := slices.Clone(r.plan.Disks)
	if err := r.watched(ctx, func(ctx context.Context) error { return r.measureDisks(ctx, disks) }); err != nil {
		return err
	}
	r.plan.Disks = disks
	r.need = r.plan.Need(r.written)
	r.meter.Expect(r.plan.Bytes(r.written))
	room, err := r.room()
	if err != nil || room.fits(r.need) {
		return err
	}
	return r.tooSmall(room)
}

func (r *run) measureDisks(ctx context.Context, disks []plan.Disk) error {
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

// measureDisk replaces libvirt's estimate for a disk with the measured size of its data.
func (r *run) measureDisk(ctx context.Context, d *plan.Disk) error {
	export, err := r.openDisk(ctx, *d)
	if err != nil {
		return err
	}
	defer export.Close()
	m, err := export.Measure(ctx, plan.ImageCluster, r.meter.Moves)
	if err != nil {
		return err
	}
	r.Log.Debug(fmt.Sprintf("disk %s: %s are dirty, of which %s are data", d.Target, bytesize.Text(m.Data+m.Zero), bytesize.Text(m.Data)))
	d.Expected, d.Zeros, d.Measured = m.Data, m.Zero, true
	return nil
}
