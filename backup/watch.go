package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/repository"
)

// ErrStuck is a read or write that hangs and that the kernel does not let go of,
// as on a file system that is frozen or whose server is gone. The run has ended
// all the same, but this process should do nothing more.
var ErrStuck = errors.New("a read or write hangs and cannot be cancelled")

// copyGrace is how long a copy that is to end may take to come back: requests
// that are under way take tenths of a second, on a busy disk seconds.
const copyGrace = 10 * time.Second

// endedError is why this run has ended its own copy.
type endedError struct{ error }

func (e *endedError) Unwrap() error { return e.error }

func endCopy(hint, format string, args ...any) error {
	return &endedError{fail.Errorf(fail.Other, hint, format, args...)}
}

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
		err := panics.Catch(func() error { return r.watchScratch(ctx) })
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
	_ = within(copyGrace, func() error { return <-watch })
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
	err := within(copyGrace, func() error { return <-copied })
	if !errors.Is(err, errNoAnswer) {
		return err
	}
	r.stuck = true
	return ErrStuck
}

// explainCopy says why a copy has failed: what ended it rather than what that
// led to. The job runs meanwhile, so when ctx ends, for the guest's sake or by a signal,
// it looks no further.
func (r *run) explainCopy(ctx context.Context, err error) error {
	var ended *endedError
	cause := context.Cause(ctx)
	switch ours := errors.As(cause, &ended); {
	case r.stuck:
		return fail.WithHint(fmt.Errorf("%w; %w", cause, err), "the job has been ended; the unfinished point %s is left to the next run of this domain; "+
			"see whether the file system of %s answers", r.plan.ID, r.dir)
	case ours:
		return cause
	case errors.As(err, &ended):
		return err
	case ctx.Err() != nil: // a signal
		return err
	}
	if why := r.shutOff(ctx); why != "" {
		return r.explainShutOff(why, err)
	}
	var temporary *hashlist.TemporaryError
	if (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) && !errors.As(err, &temporary) {
		return r.explainFull(err)
	}
	if gone := withinContext(ctx, endTime, r.ownJob); errors.Is(gone, hypervisor.ErrNoJob) {
		return r.jobGone(fmt.Errorf("%w; %w", gone, err))
	}
	return err
}

func (r *run) explainShutOff(why string, err error) error {
	r.off = true
	return fail.WithHint(fmt.Errorf("domain %s was shut off while it was backed up (%s): %w", r.Domain, why, err),
		"start it and run the backup again")
}

// offTime is how long libvirt may take to notice that QEMU has ended.
const offTime = 2 * time.Second

// shutOff says why the domain is not running, or "" if it is. It waits no longer than ctx.
func (r *run) shutOff(ctx context.Context) (why string) {
	_ = within(2*offTime, func() (err error) {
		for start := time.Now(); ctx.Err() == nil && time.Since(start) < offTime; time.Sleep(100 * time.Millisecond) {
			if why, err = r.domain.WhyShutOff(); why != "" || err != nil {
				break
			}
		}
		return err
	})
	return why
}

// meter knows how far a copy is and when it moved last.
type meter struct {
	mu     sync.Mutex
	moved  time.Time
	copied map[string]int64 // bytes, by target
	// expected are the bytes that will be copied, by target; negative: unknown.
	expected map[string]int64
	images   []*repository.Image
}

// expect takes how many bytes of each disk will be copied.
func (m *meter) expect(disks []DiskPlan, bytes func(DiskPlan) int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expected = map[string]int64{}
	for _, d := range disks {
		m.expected[d.Target] = bytes(d)
	}
}

// most is how many bytes of a disk will be copied at most.
func (m *meter) most(d DiskPlan) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, ok := m.expected[d.Target]; ok && n >= m.copied[d.Target] {
		return n
	}
	return d.Size
}

// moves says that the copy gets on.
func (m *meter) moves() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved = time.Now()
}

// note takes how many bytes of a disk are copied.
func (m *meter) note(target string, copied int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved = time.Now()
	if m.copied == nil {
		m.copied = map[string]int64{}
	}
	m.copied[target] = max(m.copied[target], copied)
}

// writes takes an image that is written from now on.
func (m *meter) writes(image *repository.Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images = append(m.images, image)
}

// taken is how many bytes all images have taken by now at most.
func (m *meter) taken() (n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, image := range m.images {
		n += image.Taken()
	}
	return n
}

// read returns for how long nothing has moved, and the bytes copied of all disks.
func (m *meter) read() (idle time.Duration, copied int64) {
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
	return endCopy("see whether the file system of the repository, the domain's QEMU and the storage of its disks answer; --stall-timeout TIME waits longer",
		"the copy of domain %s has stalled: nothing was read or written for %v, after %s", r.Domain, idle.Round(time.Second), sizeText(copied))
}

// watchScratch returns an error when the job has to end for the guest's sake,
// and nil when ctx ends or the job is gone.
func (r *run) watchScratch(ctx context.Context) error {
	w := scratchWatch{limit: r.ScratchLimit, most: r.plan.size()}
	for {
		s, err := r.sampleScratch()
		switch {
		case errors.Is(err, hypervisor.ErrNoJob):
			return nil // the copy will see
		case err != nil:
			r.Log.Debug(fmt.Sprintf("look at the scratch files: %v", err))
		default:
			w.note(s)
			if why := w.short(); why != "" {
				return r.scratchShort("%s", why)
			}
		}
		if r.pausedByUs() {
			return r.scratchPaused()
		}
		select {
		case <-time.After(w.pause()):
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *run) scratchPaused() error {
	return r.scratchShort("the guest was paused, because a write of its found no space in the scratch files")
}

func (r *run) scratchShort(format string, args ...any) error {
	return endCopy(fmt.Sprintf("free space in %s, or name another directory with --scratch-dir; --scratch-limit BYTES sets another limit; "+
		"the shorter the job is and the quieter the guest, the less it needs", runDir(r.ScratchDir)),
		"ended the backup of domain %s to keep the guest going: %s", r.Domain, fmt.Sprintf(format, args...))
}

// sampleScratch looks at the scratch files. It does not touch the repository, which may
// hang while the guest goes on.
func (r *run) sampleScratch() (s scratchSample, err error) {
	stats, err := r.domain.JobStats()
	if err != nil {
		return s, err
	}
	s.at, s.used, s.take = time.Now(), stats.TempUsed, r.willTake()
	s.free, s.size, err = freeSpace(runDir(r.ScratchDir), false)
	s.has = r.meter.taken() // after free: what is missing there was written before
	return s, err
}

// pausedByUs says whether the guest is paused because a write of its found no
// space, and was not before the job began.
func (r *run) pausedByUs() bool {
	state, err := r.domain.State()
	if err != nil || state != hypervisor.PausedForIO || r.stateBefore == hypervisor.PausedForIO {
		return false
	}
	disks, err := r.domain.OutOfSpace()
	return err == nil && slices.ContainsFunc(disks, func(target string) bool {
		return slices.ContainsFunc(r.plan.Disks, func(d DiskPlan) bool { return d.Target == target })
	})
}

// wake resumes a guest that has paused during the job for lack of space. Its
// write is tried again: without a job it needs no scratch space. Where the space
// is short elsewhere it pauses again at once, which is as it would be without us.
func (r *run) wake() {
	if !r.pausedByUs() {
		return
	}
	if err := r.domain.Resume(); err != nil {
		r.warn("the guest has paused during the job for lack of space, and cannot be resumed: %v", err)
		return
	}
	time.Sleep(wakeTime)
	if r.pausedByUs() {
		disks, _ := r.domain.OutOfSpace()
		r.warn("the guest was resumed and has paused again: the storage of %s itself is full", strings.Join(disks, ", "))
		return
	}
	r.Log.Info("resumed the guest, which had paused for lack of scratch space")
}

// wakeTime is how long a write that fails again takes to pause the guest again.
const wakeTime = 200 * time.Millisecond
