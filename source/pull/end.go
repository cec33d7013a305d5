package pull

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/bounded"
	"github.com/virtbackup/virtbackup/internal/fail"
)

// endTime bounds the queries at the end of a job, which take some 25 ms.
const endTime = time.Minute

// End ends the job after everything has been read. It fails if the job did not protect all
// that was read.
func (s *Source) End(ctx context.Context) error {
	if err := bounded.Within(endTime, s.session.ProveJob); err != nil {
		return s.explainEnd(ctx, err)
	}
	if err := s.endJob(ctx); err != nil {
		return err
	}
	if err := s.removeScratchFiles(); err != nil { // Cleanup tries again
		s.Log.Debug(err.Error())
	}
	return nil
}

func (s *Source) endJob(ctx context.Context) error {
	err := s.session.End(ctx)
	if err != nil && !s.session.Ended() {
		return fail.WithHint(err, "if the domain's QEMU hangs, the job ends as soon as it responds again; virsh domjobabort %s ends it, too", s.word())
	}
	s.wake()
	return err
}

// wake resumes a guest that has paused during the job. If that fails, or the guest pauses
// again, the run only warns.
func (s *Source) wake() {
	if err := s.session.Wake(); err != nil {
		s.warn(err.Error())
	}
}

// Abandon undoes Begin: it ends the job, and deletes the checkpoint unless keep says that
// its point has been sealed. libvirt keeps the checkpoint even of a job that could not
// begin (only its exports failed), so it is always looked up. hung says that the
// repository hangs.
func (s *Source) Abandon(ctx context.Context, keep, hung bool) error {
	if !s.session.Began() {
		return nil
	}
	s.session.Hung = hung
	var errs []error
	if !s.session.Ended() {
		if s.session.OwnJob() == nil {
			s.Log.Info("ending the backup job")
		}
		err := s.endJob(ctx)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, bounded.ErrNoAnswer) {
			return err // nothing can be deleted while the job runs
		}
		errs = append(errs, err)
	}
	s.jobless = true
	if !keep && s.job.Checkpoint != "" {
		errs = append(errs, s.dropCheckpoint())
	}
	return errors.Join(errs...)
}

// dropCheckpoint deletes the checkpoint of a point that was not sealed. While QEMU shuts down its
// bitmaps cannot be deleted, and if it does so cleanly they are in the images then. So libvirt's record of the checkpoint, if there is one, and the identity stay: the
// next run finds and deletes the bitmaps by them.
func (s *Source) dropCheckpoint() error {
	off, err := s.d.Domain.WhyShutOff() // Active would be true for a moment yet
	if err == nil && (off != "" || s.shutOff) {
		err = hypervisor.ErrNotRunning
	} else {
		err = errors.Join(err, s.d.DeleteCheckpoint(s.job.Instant))
	}
	s.dropped = err == nil
	if !errors.Is(err, hypervisor.ErrNotRunning) && !errors.Is(err, hypervisor.ErrNoDomain) {
		return err
	}
	s.Log.Warn("the domain is off: checkpoint " + s.job.Instant.Point + " is left; the next run deletes it")
	return nil
}

// Explain returns why reading has failed: what happened to the guest or its job rather than
// errors that follow from it. The job may still run, so it does no more queries when ctx is
// cancelled.
func (s *Source) Explain(ctx context.Context, err error) error {
	if why := s.whyShutOff(ctx); why != "" {
		return s.explainShutOff(why, err)
	}
	if gone := bounded.WithinContext(ctx, endTime, s.session.OwnJob); errors.Is(gone, hypervisor.ErrNoJob) {
		return s.explainGone(fmt.Errorf("%w; %w", gone, err))
	}
	return err
}

// explainEnd returns why the job cannot be proven.
func (s *Source) explainEnd(ctx context.Context, err error) error {
	if !errors.Is(err, hypervisor.ErrNoJob) {
		return fmt.Errorf("see whether the backup job of domain %s still runs: %w", s.name(), err)
	}
	if why := s.whyShutOff(context.WithoutCancel(ctx)); why != "" {
		return s.explainShutOff(why, err)
	}
	return s.explainGone(err)
}

func (s *Source) explainGone(err error) error {
	return fail.WithHint(fmt.Errorf("the backup job of domain %s is gone, and this run has not ended it: the copy may include later writes of the guest, "+
		"a state that the disks never had: %w", s.name(), err),
		"virsh domjobabort, or a program that manages the domain, has ended it; prevent that, and run the backup again")
}

func (s *Source) explainShutOff(why string, err error) error {
	s.shutOff = true
	return fail.WithHint(fmt.Errorf("domain %s was shut off while it was backed up (%s): %w", s.name(), why, err),
		"run the backup again: it reads the images of a domain that is shut off")
}

// offTime is how long libvirt may take to notice that QEMU has ended.
const offTime = 2 * time.Second

// whyShutOff says why the domain is not running, or "" if it is. Cancelling ctx stops it.
func (s *Source) whyShutOff(ctx context.Context) (why string) {
	_ = bounded.Within(2*offTime, func() (err error) {
		for start := time.Now(); ctx.Err() == nil && time.Since(start) < offTime; time.Sleep(100 * time.Millisecond) {
			if why, err = s.d.Domain.WhyShutOff(); why != "" || err != nil {
				break
			}
		}
		return err
	})
	return why
}
