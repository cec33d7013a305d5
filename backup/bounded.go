package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
)

// errNoAnswer is a call that was given up on.
var errNoAnswer = errors.New("no answer")

// within runs f and gives up on it after the limit, with errNoAnswer; f goes on
// alone then: neither a call of libvirt nor a write to a file system that hangs can
// be cancelled.
func within(limit time.Duration, f func() error) error {
	return withinContext(context.Background(), limit, f)
}

// withinContext is within, and gives up when ctx ends, too, with its cause.
func withinContext(ctx context.Context, limit time.Duration, f func() error) error {
	done := panics.Go(f)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("%w for %v", errNoAnswer, limit)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// undoOne runs one undo in a bounded time, with a context that no signal ends:
// where libvirtd, QEMU or a file system hangs for ever, what can be undone
// elsewhere still is, and the run ends.
func (r *run) undoOne(ctx context.Context, s step) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	err := within(cleanupTime+time.Second, func() error {
		_ = r.fault("undo " + s.name) // a place to be killed at
		return s.undo(r, ctx)
	})
	if errors.Is(err, errNoAnswer) {
		return fail.WithHint(fmt.Errorf("undo step %s: %w", s.name, err),
			"see whether libvirtd, the domain's QEMU and the file system of the repository answer; the next run of this domain cleans up")
	}
	return err
}
