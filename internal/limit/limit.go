// Package limit bounds what all runs of one process do together, however many of them
// work side by side: the disks that are read at once, and the bytes a second.
package limit

import (
	"context"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/virtbackup/virtbackup/internal/panics"
)

// DisksAtOnce is how many disks are copied or restored side by side; each takes some
// 32 to 40 MiB of memory. More than four read no faster from the machines measured, and
// a guest pays for a longer job with more copied blocks.
const DisksAtOnce = 4

// burst is one buffer of package nbdcopy, the least that is waited for.
const burst = 1 << 20

// Limits are shared by all runs of a process; make them with [New]. A nil *Limits limits
// no rate, but has no disks.
type Limits struct {
	disks *semaphore.Weighted
	bytes *rate.Limiter // nil: no limit
}

// New returns limits of [DisksAtOnce] disks and of so many bytes a second; 0 is no limit
// of the rate. The first buffer waits, too: for nothing, it would be a tenth more than the
// rate in the first ten seconds of 1 MiB/s.
func New(bytesPerSecond int64) *Limits {
	l := &Limits{disks: semaphore.NewWeighted(DisksAtOnce)}
	if bytesPerSecond > 0 {
		l.bytes = rate.NewLimiter(rate.Limit(bytesPerSecond), burst)
		l.bytes.AllowN(time.Now(), burst)
	}
	return l
}

// EachDisk calls do for 0 to n-1, in this order, side by side as far as the disks of other
// runs leave room. It returns the first error, which cancels the context of the others, or
// the cause of the end of ctx.
func (l *Limits) EachDisk(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, working := panics.WithContext(ctx)
	left := false // disks had no turn
	for i := range n {
		if left = l.disks.Acquire(working, 1) != nil; left {
			break
		}
		group.Go(func() error {
			defer l.disks.Release(1)
			return do(working, i)
		})
	}
	if err := group.Wait(); err != nil || !left {
		return err
	}
	return context.Cause(ctx)
}

// WaitN waits until n more bytes may be read, or ctx is cancelled.
func (l *Limits) WaitN(ctx context.Context, n int) error {
	if l == nil || l.bytes == nil {
		return nil
	}
	for ; n > burst; n -= burst {
		if err := l.bytes.WaitN(ctx, burst); err != nil {
			return err
		}
	}
	return l.bytes.WaitN(ctx, n)
}

// Time is how long n bytes take at the limited rate; 0 without a limit.
func (l *Limits) Time(n int64) time.Duration {
	if l == nil || l.bytes == nil {
		return 0
	}
	return time.Duration(float64(n) / float64(l.bytes.Limit()) * float64(time.Second))
}
