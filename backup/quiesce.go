package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

// freeze freezes the guest's file systems through its agent, as far as asked.
func (r *run) freeze(ctx context.Context) error {
	if r.Quiesce == QuiesceNo {
		return nil
	}
	state, err := r.domain.State()
	if err != nil {
		return err
	}
	if state != hypervisor.Running {
		paused := fmt.Sprintf("the domain is %s, and its guest agent cannot answer", state)
		if r.Quiesce == QuiesceRequire {
			return fail.WithHint(errors.New("freeze the guest, as --quiesce require asks: "+paused), "virsh resume %s, or use --quiesce try", r.word())
		}
		r.noteCrash(paused)
		return nil
	}
	if err := r.site().Freezing(); err != nil {
		return err
	}
	r.frozen = true // set first: who knows what an error means
	start := time.Now()
	var n int
	err = within(2*r.AgentTimeout+answerTime, func() (err error) {
		n, err = r.domain.Freeze(r.AgentTimeout)
		return err
	})
	if err == nil {
		r.quiesced = true
		r.Log.Info(fmt.Sprintf("froze %d file systems of the guest in %v", n, time.Since(start).Round(time.Millisecond)))
		return nil
	}
	r.freezing = errors.Is(err, hypervisor.ErrFreezing)
	if r.Quiesce == QuiesceRequire {
		hint := "install and start qemu-guest-agent in the guest and give the domain its channel, or use --quiesce try"
		if r.freezing {
			hint = "the guest takes long to write out what it has cached; --agent-timeout gives it more time"
		}
		return fail.WithHint(fmt.Errorf("freeze the guest, as --quiesce require asks: %w", err), "%s", hint)
	}
	if thawErr := r.thaw(ctx); thawErr != nil {
		return errors.Join(err, thawErr)
	}
	if r.freezing {
		err = fmt.Errorf("the guest did not freeze within %v, and has been thawed since", r.AgentTimeout)
	}
	r.noteCrash(err.Error())
	return nil
}

// noteCrash says why the point is only crash consistent. Where the point before is, too,
// that is no news, and only --verbose shows it.
func (r *run) noteCrash(why string) {
	level := slog.LevelInfo
	if n := len(r.points); n > 0 && r.points[n-1].Consistency == manifest.ConsistencyCrash {
		level = slog.LevelDebug
	}
	r.noteAt(level, "the point is crash consistent: "+why)
}

// thawTime is how long a guest that is frozen, or on its way to be, is asked to
// thaw: a freeze first writes out what the guest has cached, which took 20 s on
// a slow disk that was tried, and the agent answers nothing meanwhile.
const thawTime = time.Minute

// answerTime is what libvirt may need besides the agent's time: it waits 30 s
// for another call that holds the domain.
const answerTime = 40 * time.Second

// thaw undoes freeze. It is called as soon as the job has begun, and on every
// way out.
func (r *run) thaw(ctx context.Context) error {
	if !r.frozen {
		return nil
	}
	deadline := time.Now().Add(thawTime)
	for {
		err := within(r.AgentTimeout+answerTime, func() error {
			_, err := r.domain.Thaw(r.AgentTimeout)
			return err
		})
		silent := errors.Is(err, hypervisor.ErrAgent)
		switch {
		case err == nil, silent && !r.quiesced && !r.freezing: // nobody froze, and nobody is there to thaw
			r.frozen = false
			return r.site().Thawed()
		case r.begun && !r.ended && r.pausedByUs():
			return r.scratchPaused()
		case !silent || time.Now().After(deadline) || ctx.Err() != nil:
			return fail.WithHint(fmt.Errorf("thaw the guest: %w", err),
				"the guest's file systems may still be frozen: virsh domfsthaw %s", r.word())
		}
		r.Log.Debug(fmt.Sprintf("thaw the guest, again: %v", err))
		time.Sleep(time.Second)
	}
}
