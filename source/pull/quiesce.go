package pull

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/source"
)

// Freeze makes the scratch files, and freezes the guest's file systems through its agent, as
// far as asked. Whatever can be done before the freeze is.
func (s *Source) Freeze(ctx context.Context) error {
	s.quiesced, s.crash = false, ""
	if err := s.makeScratchFiles(); err != nil {
		return err
	}
	state, err := s.session.Start()
	if err != nil || s.Quiesce == source.QuiesceNo {
		return err
	}
	if state != hypervisor.Running {
		s.crash = fmt.Sprintf("the domain is %s, and its guest agent cannot answer", state)
		if s.Quiesce == source.QuiesceRequire {
			return fail.WithHint(errors.New("freeze the guest, as --quiesce require asks: "+s.crash), "virsh resume %s, or use --quiesce try", s.word())
		}
		return nil
	}
	start := time.Now()
	n, err := s.session.Freeze()
	switch {
	case err == nil:
		s.quiesced = true
		s.Log.Info(fmt.Sprintf("froze %d file systems of the guest in %v", n, time.Since(start).Round(time.Millisecond)))
		return nil
	case !s.session.Frozen(): // no request was sent to the guest
		return err
	case s.Quiesce == source.QuiesceRequire:
		return s.explainFreeze(err)
	}
	if thawErr := s.Thaw(ctx); thawErr != nil {
		return errors.Join(err, thawErr)
	}
	if errors.Is(err, hypervisor.ErrFreezing) {
		err = fmt.Errorf("the guest did not freeze within %v, and has been thawed since", s.d.AgentWait())
	}
	s.crash = err.Error()
	return nil
}

func (s *Source) explainFreeze(err error) error {
	hint := "install and start qemu-guest-agent in the guest and give the domain its channel, or use --quiesce try"
	if errors.Is(err, hypervisor.ErrFreezing) {
		hint = "the guest needs long to write out what it has cached; --agent-timeout gives it more time"
	}
	return fail.WithHint(fmt.Errorf("freeze the guest, as --quiesce require asks: %w", err), "%s", hint)
}

// Thaw undoes Freeze. It is called as soon as the job has begun, and however a run ends.
func (s *Source) Thaw(ctx context.Context) error {
	switch err := s.session.Thaw(ctx); {
	case err == nil:
		return nil
	case errors.Is(err, guest.ErrStarved):
		return s.scratchShort(err.Error())
	default:
		return fail.WithHint(fmt.Errorf("thaw the guest: %w", err), "the guest's file systems may still be frozen: virsh domfsthaw %s", s.word())
	}
}
