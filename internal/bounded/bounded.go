// Package bounded gives up on calls that cannot be cancelled: those of libvirt, and
// reads and writes of a file system that hangs.
package bounded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/internal/panics"
)

// ErrNoAnswer is a call that was given up on.
var ErrNoAnswer = errors.New("no answer")

// Within runs f and gives up on it after the limit, with ErrNoAnswer; f then goes on
// alone.
func Within(limit time.Duration, f func() error) error {
	return WithinContext(context.Background(), limit, f)
}

// WithinContext is Within, and also gives up when ctx ends, with the cause of ctx.
func WithinContext(ctx context.Context, limit time.Duration, f func() error) error {
	done := panics.Go(f)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("%w for %v", ErrNoAnswer, limit)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
