package pull

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/bounded"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// withoutBitmaps begins the job after QEMU has refused a bitmap, which fails the whole
// checkpoint; cause is that error. It finds the disks whose bitmap is refused, adds them to
// refused, and leaves them out of the checkpoint. If the guest was frozen for the first
// try, it is thawed meanwhile and frozen again for the next.
func (s *Source) withoutBitmaps(ctx context.Context, cause error, refused map[string]error) (at time.Time, err error) {
	s.Log.Info(fmt.Sprintf("trying the bitmap of each disk alone: %v", cause))
	if err := s.Thaw(ctx); err != nil {
		return at, errors.Join(cause, err)
	}
	if err := s.tryBitmaps(ctx, cause, refused); err != nil {
		return at, err
	}
	if err := s.noCheckpoint(); err != nil {
		return at, err
	}
	if err := s.StillIdle(ctx, s.job.Targets()); err != nil {
		return at, err
	}
	if err := s.Freeze(ctx); err != nil {
		return at, err
	}
	return s.begin()
}

// tryBitmaps leaves the disks whose bitmap QEMU refuses out of the checkpoint. It returns
// cause if QEMU refuses none.
func (s *Source) tryBitmaps(ctx context.Context, cause error, refused map[string]error) error {
	s.job.Disks = slices.Clone(s.job.Disks) // the caller owns the original
	for i := range s.job.Disks {
		d := &s.job.Disks[i]
		if !d.Bitmap {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		why, err := s.tryBitmap(d.Target)
		if err != nil {
			return fmt.Errorf("%w; try the bitmap of disk %s alone: %w", cause, d.Target, err)
		}
		if why != nil {
			d.Bitmap, refused[d.Target] = false, why
			s.warn(fmt.Sprintf("disk %s has no bitmap in checkpoint %s: the next backup has to read all of it: %v", d.Target, s.job.Instant.Point, why))
		}
	}
	if len(refused) == 0 {
		return cause
	}
	return nil
}

// noCheckpoint drops the point's checkpoint if no disk is left for it, and records that
// there is none to redefine. The checkpoints of tryBitmap are deleted by then.
func (s *Source) noCheckpoint() error {
	if slices.ContainsFunc(s.job.Disks, func(d source.JobDisk) bool { return d.Bitmap }) {
		return nil
	}
	s.job.Checkpoint = ""
	return s.d.Lock.SetInstantState(s.job.Instant.Identity, instants.Retired)
}

// tryBitmap makes the new checkpoint for one disk alone, and deletes it. It has the
// recorded name of the point's checkpoint, so recovery finds it if this is interrupted. why
// is QEMU's reason to refuse it.
func (s *Source) tryBitmap(target string) (why, err error) {
	c := xml.Checkpoint{Name: s.job.Checkpoint, Description: checkpoint.Description(s.d.Repo.ID(), s.job.Instant.Point),
		Disks: []xml.CheckpointDisk{{Target: target, Bitmap: s.job.Checkpoint}}}
	doc, err := c.Marshal()
	if err != nil {
		return nil, err
	}
	err = bounded.Within(guest.BeginTime, func() error { return s.d.Domain.CreateCheckpoint(doc) })
	if err == nil {
		err = fault.Point("try bitmap")
	}
	if errors.Is(err, hypervisor.ErrBitmap) {
		why, err = err, nil
	}
	if errors.Is(err, bounded.ErrNoAnswer) {
		return nil, err // a deletion would hang, too
	}
	return why, errors.Join(err, s.d.DeleteCheckpoint(s.job.Instant))
}
