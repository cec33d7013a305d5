package backup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/virtbackup/virtbackup/diskimage"
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

// ErrStuck is a read or write that hangs and that the kernel does not let go of,
// as on a file system that is frozen or whose server is gone. The run has ended
// all the same, but this process should do nothing more.
var ErrStuck = errors.New("a read or write hangs and cannot be cancelled")

// copyGrace is how long a copy that is to end may take to come back: requests
// that are under way take tenths of a second, on a busy disk seconds.
const copyGrace = 10 * time.Second

// copyWatched copies all disks under a watch.
func (r *run) copyWatched(ctx context.Context) error {
	if err := r.measure(ctx); err != nil {
		return err
	}
	var disks []manifest.Disk
	err := r.watched(ctx, func(ctx context.Context) (err error) {
		disks, err = r.copyDisks(ctx)
		return err
	})
	if err == nil {
		r.point.Disks = disks
	}
	return err
}

// watched does work that needs the job, and watches over the guest meanwhile: the work
// ends when scratch space gets short or when nothing moves any more. Where it cannot be
// cancelled either it is left behind, with ErrStuck, and goes on using what it has.
func (r *run) watched(ctx context.Context, work func(context.Context) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	r.meter.moves()
	watch := panics.Go(func() error {
		err := panics.Catch(func() error { return r.source.Watch(ctx, r.plan.size(), r.taken) })
		if err != nil { // a copy that nobody watches over ends, too
			end(err)
		}
		return err
	})
	err := r.awaitCopy(ctx, end, panics.Go(func() error { return work(ctx) }))
	if err != nil {
		err = r.explainCopy(ctx, err)
	}
	end(nil)
	// It hangs only where QEMU does, and whether that matters the next step sees.
	_ = bounded.Within(copyGrace, func() error { return <-watch })
	return err
}

// awaitCopy waits for the copy and ends it if it stalls. One that has to end and
// does not come back is left behind.
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

// explainCopy says why a copy has failed: what ended it rather than what that
// led to. The job runs meanwhile, so when ctx ends, for the guest's sake or by a signal,
// it looks no further.
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

// stallMeter knows how far a copy is and when it moved last.
type stallMeter struct {
	mu     sync.Mutex
	moved  time.Time
	copied map[string]int64 // bytes, by target
	// expected are the bytes that will be copied, by target; negative: unknown.
	expected map[string]int64
	images   []*diskimage.Image
}

// expect takes how many bytes of each disk will be copied.
func (m *stallMeter) expect(disks []DiskPlan, bytes func(DiskPlan) int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expected = map[string]int64{}
	for _, d := range disks {
		m.expected[d.Target] = bytes(d)
	}
}

// most is how many bytes of a disk will be copied at most.
func (m *stallMeter) most(d DiskPlan) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, ok := m.expected[d.Target]; ok && n >= m.copied[d.Target] {
		return n
	}
	return d.Size
}

// moves says that the copy gets on.
func (m *stallMeter) moves() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved = time.Now()
}

// note takes how many bytes of a disk are copied.
func (m *stallMeter) note(target string, copied int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved = time.Now()
	if m.copied == nil {
		m.copied = map[string]int64{}
	}
	m.copied[target] = max(m.copied[target], copied)
}

// writes takes an image that is written from now on.
func (m *stallMeter) writes(image *diskimage.Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images = append(m.images, image)
}

// taken is how many bytes all images have taken by now at most.
func (m *stallMeter) taken() (n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, image := range m.images {
		n += image.Taken()
	}
	return n
}

// read returns for how long nothing has moved, and the bytes copied of all disks.
func (m *stallMeter) read() (idle time.Duration, copied int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.copied {
		copied += n
	}
	return time.Since(m.moved), copied
}

// stalled returns an error if nothing has moved for so long that the guest
// should no longer pay for the job.
func (r *run) stalled() error {
	if r.StallTimeout == 0 {
		return nil
	}
	patience := r.StallTimeout + 2*r.Limits.Time(nbdcopy.MaxRead) // nothing moves while a buffer waits for its turn
	idle, copied := r.meter.read()
	if idle < patience {
		return nil
	}
	return source.Ended("see whether the file system of the repository, the domain's QEMU and the storage of its disks answer; --stall-timeout TIME waits longer",
		"the copy of domain %s has stalled: nothing was read or written for %v, after %s", r.Domain, idle.Round(time.Second), bytesize.Text(copied))
}

// taken is what the point takes of the repository's file system. It does not touch the
// repository.
func (r *run) taken() source.Taken { return source.Taken{Most: r.willTake(), Now: r.meter.taken()} }
