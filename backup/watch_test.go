package backup

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtbackup/virtbackup/internal/bounded"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/source"
)

// copyOf calls awaitCopy with a copy that is f, in a synctest bubble.
func copyOf(t *testing.T, r *run, f func(context.Context) error) (took time.Duration, err error) {
	t.Helper()
	ctx, end := context.WithCancelCause(t.Context())
	defer end(nil)
	start := time.Now()
	r.meter.Moves()
	err = r.awaitCopy(ctx, end, panics.Go(func() error { return f(ctx) }))
	took = time.Since(start)
	if err != nil && ctx.Err() != nil {
		err = r.explainCopy(ctx, err)
	}
	return took, err
}

// A copy that makes progress is never cancelled, one that stalls is, and one that hangs is
// left behind.
func TestAwaitCopy(t *testing.T) {
	t.Run("slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRun()
			r.StallTimeout = time.Minute
			took, err := copyOf(t, r, func(context.Context) error {
				for i := range 100 {
					time.Sleep(50 * time.Second)
					r.meter.Note("vda", int64(i))
				}
				return nil
			})
			if err != nil || took != 5000*time.Second {
				t.Errorf("%v after %v", err, took)
			}
		})
	})
	t.Run("source stalls", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRun()
			r.StallTimeout = time.Minute
			took, err := copyOf(t, r, func(ctx context.Context) error {
				r.meter.Note("vda", 5<<20)
				<-ctx.Done()
				return context.Cause(ctx)
			})
			if err == nil || !strings.Contains(err.Error(), "stalled: nothing was read or written for 1m0s, after 5.0 MiB") || r.hung || took != time.Minute {
				t.Errorf("%v after %v, stuck %v", err, took, r.hung)
			}
		})
	})
	t.Run("target hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRun()
			r.StallTimeout, r.Repository, r.plan.ID = time.Minute, "/repo", "check2"
			hung := make(chan struct{})
			took, err := copyOf(t, r, func(context.Context) error { <-hung; return nil })
			if !errors.Is(err, ErrStuck) || !strings.Contains(err.Error(), "stalled") || !r.hung || took != time.Minute+copyGrace {
				t.Errorf("%v after %v, stuck %v", err, took, r.hung)
			}
			close(hung)
			synctest.Wait()
		})
	})
	t.Run("never", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			took, err := copyOf(t, newRun(), func(context.Context) error { time.Sleep(100 * time.Hour); return errBoom })
			if !errors.Is(err, errBoom) || took != 100*time.Hour {
				t.Errorf("%v after %v", err, took)
			}
		})
	})
	t.Run("rate limit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRun()
			r.StallTimeout, r.Limits = time.Minute, limit.New(1024) // a buffer takes 17 minutes
			_, err := copyOf(t, r, func(context.Context) error { time.Sleep(30 * time.Minute); return nil })
			if err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("panic", func(t *testing.T) {
		var p *panics.Error
		if _, err := copyOf(t, newRun(), func(context.Context) error { panic(errBoom) }); !errors.As(err, &p) {
			t.Errorf("%v", err)
		}
	})
}

// If the watch ends, so does the copy. The watch of a run without a domain panics at once.
func TestPanicOfTheWatchEndsTheCopy(t *testing.T) {
	err := newRun().watched(t.Context(), func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Second):
			return nil
		}
	})
	var p *panics.Error
	if !errors.As(err, &p) {
		t.Errorf("the copy goes on unwatched: %v", err)
	}
}

// The job still runs while explainCopy looks for the cause of a failure: a query that hangs
// is abandoned when the job has to end.
func TestQuestionsEndWithTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancelCause(t.Context())
		hung := make(chan struct{})
		time.AfterFunc(time.Second, func() { end(source.Ended("", "short of space")) })
		start := time.Now()
		err := bounded.WithinContext(ctx, time.Minute, func() error { <-hung; return nil })
		if took := time.Since(start); took != time.Second || err == nil || err.Error() != "short of space" {
			t.Errorf("%v after %v", err, took)
		}
		close(hung)
		synctest.Wait()
	})
}

// If an undo hangs, the others still run, and the run ends.
func TestUndoThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var did []string
		steps := fake(3, 2, func(*run) error { return errBoom }, &did)
		hung := make(chan struct{})
		steps[1].undo = func(*run, context.Context) error { <-hung; return nil }
		start := time.Now()
		err := newRun().execute(t.Context(), steps)
		if got := strings.Join(did, ""); got != "+0+1+2-2-0" || !errors.Is(err, errBoom) || !errors.Is(err, bounded.ErrNoAnswer) {
			t.Errorf("got %s, %v", got, err)
		}
		if took := time.Since(start); took > cleanupTime+time.Second {
			t.Errorf("it took %v", took)
		}
		close(hung)
		synctest.Wait()
	})
}

// A run whose copy hangs does not access the repository any more.
func TestStuckRunLeavesTheRepositoryAlone(t *testing.T) {
	r := newRun()
	r.hung = true
	if err := r.undo(t.Context(), steps); err != nil {
		t.Error(err)
	}
}
