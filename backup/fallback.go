package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// checkParents checks the hashes of the images that disks will be compared with, and of
// those that the last verify found damaged. It runs before the job begins, so that it does
// not slow down the guest.
func (r *run) checkParents(ctx context.Context) error {
	doubts := r.repo.Doubts(r.Domain)
	for i := range r.plan.Disks {
		d := &r.plan.Disks[i]
		var err error
		switch {
		case d.Incremental && len(doubts) > 0:
			err = r.checkDoubtful(ctx, d, doubts)
		case d.Rescan:
			err = r.checkRescan(ctx, d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkRescan reads the chain that a disk will be compared with. If that is damaged the
// disk is copied in full: an image that is chained onto damage does not restore.
func (r *run) checkRescan(ctx context.Context, d *plan.Disk) error {
	level := slog.LevelInfo
	if before, _ := r.plan.Base.Disk(d.Target); before.Method == manifest.MethodRescan && before.Reason == d.Reason {
		level = slog.LevelDebug // a raw disk, for example, is rescanned every time
	}
	r.Log.Log(ctx, level, fmt.Sprintf("checking the image of disk %s in point %s, to compare the disk with it", d.Target, r.plan.Base.ID))
	links, err := r.checkParent(ctx, *d)
	switch {
	case fail.Is(err, fail.Damaged):
		d.Rescan, d.Parent = false, ""
		d.Reason += fmt.Sprintf(", and its image in point %s is damaged", r.plan.Base.ID)
		r.warn("disk %s is copied in full, as it cannot be compared with its image in point %s: %v", d.Target, r.plan.Base.ID, err)
	case err != nil:
		return fmt.Errorf("check the image of disk %s in point %s: %w", d.Target, r.plan.Base.ID, err)
	default:
		d.Links = links
	}
	return nil
}

// checkDoubtful reads the chain that an incremental will be added to, if the last verify
// found damage in it: an image that is chained onto damage does not restore.
func (r *run) checkDoubtful(ctx context.Context, d *plan.Disk, doubts map[string][]string) error {
	links, err := r.repo.Links(r.Domain, r.plan.Base.ID, d.Target)
	if err == nil {
		n := slices.IndexFunc(links, func(l diskimage.Link) bool { return slices.Contains(doubts[l.Point.ID], d.Target) })
		if n < 0 {
			return nil
		}
		level := slog.LevelInfo
		if before, _ := r.plan.Base.Disk(d.Target); before.Method == manifest.MethodRescan && before.Reason == d.Reason {
			level = slog.LevelDebug // a raw disk, for example, is rescanned every time
		}
		r.Log.Log(ctx, level, fmt.Sprintf("checking the images of disk %s: the last verify found point %s to be damaged", d.Target, links[n].Point.ID))
		_, err = r.checkParent(ctx, *d)
	}
	switch {
	case fail.Is(err, fail.Damaged):
		return r.leaveBase(d, err)
	case err != nil:
		return err
	}
	var sound []string
	for _, l := range links {
		sound = append(sound, l.Point.ID)
	}
	if err := r.repo.ClearDoubts(r.Domain, sound, d.Target); err != nil { // the next run reads them again
		r.Log.Debug(err.Error())
	}
	return nil
}

// checkParent reads a disk's chain as of the base. Damage is a *damage.Error.
func (r *run) checkParent(ctx context.Context, d plan.Disk) ([]diskimage.Link, error) {
	links, err := r.repo.Links(r.Domain, r.plan.Base.ID, d.Target)
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		found, err := diskimage.Check(ctx, link, hashlist.CheckOptions{Misread: r.warnOnce, Progress: func(int64) { r.meter.Moves() }})
		if err == nil {
			err = damage.ErrorOf(found)
		}
		if err != nil {
			return nil, err
		}
	}
	return links, nil
}

// checkTails looks for disks that were shrunk and grown again, which their bitmaps do not
// show. It needs the disks as the job exports them. The watch reads the plan meanwhile, so
// the plan is replaced only at the end.
func (r *run) checkTails(ctx context.Context) error {
	disks := slices.Clone(r.plan.Disks)
	err := r.watched(ctx, func(ctx context.Context) error { return r.lookAtTails(ctx, disks) })
	if err == nil {
		r.plan.Disks = disks
	}
	return err
}

// lookAtTails replans the disks that turn out not to be incremental.
func (r *run) lookAtTails(ctx context.Context, disks []plan.Disk) error {
	for i := range disks {
		d := &disks[i]
		if !d.Incremental {
			continue
		}
		err := r.lookAtTail(ctx, d)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("look at the end of disk %s of domain %s: %w", d.Target, r.Domain, err)
		}
	}
	return nil
}

// lookAtTail replans a disk whose base is damaged or whose end has changed. An image that
// cannot be read for another reason fails the run: the base may be sound.
func (r *run) lookAtTail(ctx context.Context, d *plan.Disk) error {
	offset, changed, err := r.tailChanged(ctx, *d)
	var noChain *chain.Error
	switch {
	case fail.Is(err, fail.Damaged), errors.As(err, &noChain):
		return r.leaveBase(d, err)
	case err != nil:
		return err
	case changed:
		return r.fallBackLate(ctx, d, offset)
	}
	return nil
}

func (r *run) tailChanged(ctx context.Context, d plan.Disk) (offset int64, changed bool, err error) {
	links, err := r.repo.Links(r.Domain, r.plan.Base.ID, d.Target)
	if err != nil {
		return 0, false, err
	}
	images, _, closeAll, err := diskimage.OpenChain(ctx, links, r.readOptions())
	if err != nil {
		return 0, false, err
	}
	defer closeAll()
	export, err := r.openDisk(ctx, d)
	if err != nil {
		return 0, false, err
	}
	defer export.Close()
	return flatten.TailChanged(ctx, images, export)
}

// leaveBase replans a disk to be copied in full because its image in the base is damaged:
// an incremental chained onto that would not restore.
func (r *run) leaveBase(d *plan.Disk, damage error) error {
	d.Reason = fmt.Sprintf("its image in point %s is damaged", r.plan.Base.ID)
	if r.Fallback == plan.FallbackFail {
		return fail.WithHint(damage, "virtbackup verify %s shows what is damaged; virtbackup full %s starts a new chain", r.word(), r.word())
	}
	d.Incremental, d.Parent, d.BaseSize, d.Expected = false, "", 0, d.Size
	r.warn("disk %s is copied in full, as its image in point %s is damaged: %v", d.Target, r.plan.Base.ID, damage)
	return nil
}

// fallBackLate replans a disk whose bitmap turned out to be wrong after the job began.
// The job exports all of the disk, so nothing else changes.
func (r *run) fallBackLate(ctx context.Context, d *plan.Disk, offset int64) error {
	base, _ := r.plan.Base.Disk(d.Target)
	d.Incremental, d.Parent, d.BaseSize, d.Expected = false, "", 0, d.Size
	d.Reason = fmt.Sprintf("the data at offset %d has changed since point %s, but the bitmap does not have it: "+
		"was the disk shrunk and grown again, or changed while the domain was off?", offset, r.plan.Base.ID)
	d.FallBack(r.Fallback, r.plan.Base, base.Image)
	replanned := plan.Plan{Base: r.plan.Base, Disks: []plan.Disk{*d}}
	if err := replanned.Refuse(r.Wanted); err != nil {
		return err
	}
	if !d.Rescan {
		r.warn("disk %s is copied in full: %s", d.Target, d.Reason)
		return nil
	}
	r.warn("disk %s is read in full and compared with point %s: %s", d.Target, r.plan.Base.ID, d.Reason)
	return r.checkRescan(ctx, d)
}

// openBase opens the images that a disk is compared with, or returns nil if it is not
// compared. The caller closes them. checkParents has read them before the job began: damage
// that is found now ends the run, and the next one copies the disk in full.
func (r *run) openBase(ctx context.Context, d plan.Disk) (*chain.Chain, func(), error) {
	if !d.Rescan {
		return nil, func() {}, nil
	}
	images, _, closeAll, err := diskimage.OpenChain(ctx, d.Links, r.readOptions())
	return images, closeAll, err
}

// readOptions makes reads of the base count as progress: if a hash list is damaged, a
// whole image is read before anything is copied.
func (r *run) readOptions() hashlist.ReadOptions {
	return hashlist.ReadOptions{Warn: r.warnOnce, Progress: r.meter.Moves}
}
