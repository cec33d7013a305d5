package offline

import (
	"context"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/internal/bounded"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/source"
)

// startPause is the time between two looks for a start of the domain. A start takes some tenths of a
// second until QEMU opens the images, 1.5 s here, and one that fails then leaves its reason in the
// state of the domain. So a run that gives way is mostly early enough for the start to succeed.
const startPause = 200 * time.Millisecond

// Watch looks for starts of the domain, which fail while its images are read, unless one is on a
// block device. It returns an error if the run is to give way to them, or if the domain may have
// written to a device. It returns nil when ctx is cancelled.
func (s *Source) Watch(ctx context.Context, _ int64, _ func() source.Taken) error {
	for {
		if s.startWanted() {
			if s.Yield {
				return source.Ended(fmt.Sprintf("if the start has failed, virsh start %s works now; the next backup stores what this one has not", s.word()), "gave way to the start of domain %s", s.name())
			}
			if err := s.startedOn(s.guard.device()); err != nil {
				return err
			}
			s.tried = true
			s.warn(fmt.Sprintf("somebody tried to start domain %s while its images were read, which fails; --yield gives way to a start", s.name()))
		}
		select {
		case <-time.After(startPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// startedOn is the error of a domain that may have written to a device while it was read; nil if
// there is no device.
func (s *Source) startedOn(device string) error {
	if device == "" {
		return nil
	}
	return source.Ended("run the backup again", "domain %s was started while its images were read, and nothing keeps it from writing to %s", s.name(), device)
}

// startWanted reports whether somebody has tried to start the domain, or does now; once.
func (s *Source) startWanted() bool {
	if s.tried {
		return false
	}
	why, err := s.d.Domain.WhyShutOff()
	if err != nil {
		s.Log.Debug(err.Error())
		return false
	}
	active, err := s.d.Domain.Active()
	return err == nil && (active || why != s.off) // it is starting, or that has failed
}

// askTime bounds a question to the storage daemon.
const askTime = 10 * time.Second

// Explain returns the cause of a read error: that the storage daemon has ended.
func (s *Source) Explain(ctx context.Context, err error) error {
	if s.daemon == nil || ctx.Err() != nil {
		return err
	}
	select {
	case <-s.daemon.Ended():
	case <-time.After(time.Second):
	}
	if gone := s.alive(ctx); gone != nil {
		return fail.WithHint(fmt.Errorf("the program that reads the images has ended (%w): %w", gone, err), "run the backup again; the kernel's log says whether it was out of memory")
	}
	return err
}

// alive returns an error unless the storage daemon answers.
func (s *Source) alive(ctx context.Context) error {
	for _, disk := range s.disks {
		return bounded.WithinContext(ctx, askTime, func() error {
			_, err := disk.Bitmaps(ctx)
			return err
		})
	}
	return nil
}
