package guest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/bounded"
	"github.com/virtbackup/virtbackup/manifest"
)

// thawTime is how long a freeze may take after it was requested: the guest first writes
// out what it has cached, which took 20 s on a slow disk in a test, and the agent does not
// answer meanwhile.
const thawTime = time.Minute

// answerTime is the time that libvirt may need besides the agent's: it waits 30 s for
// another call that holds the domain.
const answerTime = 40 * time.Second

// freeze is what is known about a freeze of the guest's file systems.
type freeze struct {
	runID uint // of the domain when it was frozen (Domain.RunID); 0 if unknown
	// patience is how long to retry if the agent does not answer.
	patience time.Duration
	// doubtful: the agent has not answered, so probably nothing is frozen.
	doubtful bool
}

// Frozen reports whether the guest's file systems may be frozen.
func (s *Session) Frozen() bool { return s.frozen != nil }

// Freeze freezes the guest's file systems through its agent, and returns how many. It sets
// a mark first, for recovery. Call Thaw whatever Freeze returns.
//
// The error is hypervisor.ErrAgent if the agent does not answer, and also
// hypervisor.ErrFreezing if it got the request and may still freeze the guest.
func (s *Session) Freeze() (filesystems int, err error) {
	if err := s.d.setMark(markFrozen); err != nil {
		return 0, err
	}
	// Set first: file systems may be frozen even after an error.
	s.frozen = &freeze{patience: thawTime}
	timeout := s.d.AgentWait()
	err = bounded.Within(2*timeout+answerTime, func() (err error) {
		filesystems, err = s.d.Domain.Freeze(timeout)
		return err
	})
	s.frozen.doubtful = err != nil && !errors.Is(err, hypervisor.ErrFreezing)
	return filesystems, err
}

// SilentError says why the guest cannot be thawed yet: its agent does not answer.
type SilentError struct {
	Why  string
	Hint string // a command
	err  error
}

// Error names the reason and the command.
func (e *SilentError) Error() string { return e.Why + "; " + e.Hint }

// Unwrap returns what libvirt said, or nil.
func (e *SilentError) Unwrap() error { return e.err }

// Thaw thaws the guest's file systems, if they may be frozen. If the agent does not answer,
// Thaw retries as long as the freeze may still be in progress, then returns a *SilentError.
// Cancelling ctx stops it. [ErrStarved] says that the job has to end first.
func (s *Session) Thaw(ctx context.Context) error {
	if s.frozen == nil {
		return nil
	}
	deadline := time.Now().Add(s.frozen.patience)
	for {
		err := s.tryThaw()
		var silent *SilentError
		switch {
		case !errors.As(err, &silent), time.Now().After(deadline):
			return err
		case s.Starved():
			return ErrStarved
		}
		s.d.log().Debug(fmt.Sprintf("thaw the guest, again: %v", err))
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("%w; %w", context.Cause(ctx), err)
		}
	}
}

func (s *Session) tryThaw() error {
	timeout, n := s.d.AgentWait(), 0
	var state hypervisor.State
	err := bounded.Within(timeout+answerTime, func() (err error) {
		if state, err = s.d.Domain.State(); err == nil && state == hypervisor.Running {
			n, err = s.d.Domain.Thaw(timeout)
		}
		return err
	})
	name := manifest.ShellWord(s.d.Domain.Name())
	switch {
	case err == nil && state == hypervisor.ShutOff: // the freeze has ended with the guest
	case err == nil && state != hypervisor.Running:
		return &SilentError{fmt.Sprintf("the domain is %s, and its guest agent cannot answer", state), "virsh resume " + name, nil}
	case err == nil:
		s.d.log().Debug(fmt.Sprintf("thawed %d file systems", n))
	case !errors.Is(err, hypervisor.ErrAgent):
		return err
	case !s.frozen.doubtful && !s.startedAnew():
		return &SilentError{err.Error(), "virsh domfsthaw " + name, err}
	}
	s.frozen = nil
	return s.d.Lock.ClearMark(markFrozen)
}

// startedAnew reports whether the guest was started again since it was frozen.
func (s *Session) startedAnew() bool {
	id, err := s.d.Domain.RunID()
	return err == nil && s.frozen.runID != 0 && id != s.frozen.runID
}
