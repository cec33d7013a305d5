package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/bounded"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/source"
)

// ErrStuck is a read or write that hangs in the kernel and cannot be interrupted, for
// example on a file system that is frozen or whose server is gone. The run has ended
// nevertheless, but this process should do nothing more.
var ErrStuck = errors.New("a read or write hangs and cannot be cancelled")

// copyGrace is how long a cancelled copy may take to return: requests in flight take
// tenths of a second, or seconds on a busy disk.
const copyGrace = 10 * time.Second

// copyWatched copies all disks, and what else the domain needs, while the guest is watched.
func (r *run) copyWatched(ctx context.Context) error {
	if err := r.measure(ctx); err != nil {
		return err
	}
	var disks []manifest.Disk
	err := r.watched(ctx, func(ctx context.Context) (err error) {
		if err := r.takeExtras(ctx); err != nil {
			return err
		}
		disks, err = r.copyDisks(ctx)
		return err
	})
	if err == nil {
		r.point.Disks = disks
	}
	return err
}

// watched does work that needs the job, and watches the guest meanwhile: the work is
// cancelled when scratch space gets short or when it makes no progress. If it does not
// return then, it is left behind, with ErrStuck, and continues to use what it has.
func (r *run) watched(ctx context.Context, work func(context.Context) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	r.meter.Moves()
	watch := panics.Go(func() error {
		err := panics.Catch(func() error { return r.source.Watch(ctx, r.plan.Size(), r.taken) })
		if err != nil { // the copy must not run unwatched
			end(err)
		}
		return err
	})
	err := r.awaitCopy(ctx, end, panics.Go(func() error { return work(ctx) }))
	if err != nil {
		err = r.explainCopy(ctx, err)
	}
	end(nil)
	// It hangs only if QEMU does. The next step finds out whether that matters.
	_ = bounded.Within(copyGrace, func() error { return <-watch })
	return err
}

// awaitCopy waits for the copy and cancels it if it stalls. A cancelled copy that does not
// return is left behind.
func (r *run) awaitCopy(ctx context.Context, end context.CancelCauseFunc, copied <-chan error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case err := <-copied:
			return err
		case <-tick.C:
			if err := r.stalled(); err != nil {
				end(err)
			}
		case <-ctx.Done():
		}
	}
	err := bounded.Within(copyGrace, func() error { return <-copied })
	if !errors.Is(err, bounded.ErrNoAnswer) {
		return err
	}
	r.hung = true
	return ErrStuck
}

// explainCopy returns why a copy has failed: the cause rather than errors that follow from
// it. The job still runs, so it does no more queries when ctx is cancelled, to protect the
// guest or by a signal.
func (r *run) explainCopy(ctx context.Context, err error) error {
	var ended *source.EndedError
	cause := context.Cause(ctx)
	switch ours := errors.As(cause, &ended); {
	case r.hung:
		return fail.WithHint(fmt.Errorf("%w; %w", cause, err), "the job has been ended; the unfinished point %s is left to the next run of this domain; "+
			"see whether the file system of %s answers", r.plan.ID, r.Repository)
	case ours:
		return cause
	case errors.As(err, &ended):
		return err
	case ctx.Err() != nil: // a signal
		return err
	}
	err = r.source.Explain(ctx, err)
	var temporary *hashlist.TemporaryError
	if localfile.IsFull(err) && !errors.As(err, &temporary) {
		return r.explainFull(err)
	}
	return err
}

// stalled returns an error if the copy has made no progress for so long that the job
// should not slow down the guest any longer.
func (r *run) stalled() error {
	if r.StallTimeout == 0 {
		return nil
	}
	patience := r.StallTimeout + 2*r.Limits.Time(nbdcopy.MaxRead) // a buffer may wait for the rate limit
	idle, copied := r.meter.Read()
	if idle < patience {
		return nil
	}
	return source.Ended("see whether the file system of the repository, the domain's QEMU and the storage of its disks answer; --stall-timeout TIME waits longer",
		"the copy of domain %s has stalled: nothing was read or written for %v, after %s", r.Domain, idle.Round(time.Second), bytesize.Text(copied))
}

// taken is what the point takes on the repository's file system. It does not access the
// repository.
func (r *run) taken() source.Taken { return source.Taken{Most: r.willTake(), Now: r.meter.Taken()} }
