// Package limit bounds what all runs of a process do together: the number of disks that
// are copied at once, and the bytes that are read per second.
package limit

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/virtbackup/virtbackup/internal/panics"
)

// DisksAtOnce is the number of disks that are copied or restored at once. Each takes 32 to
// 40 MiB of memory. More than four were no faster on the machines measured, and during a
// longer job QEMU copies more of the guest's blocks.
const DisksAtOnce = 4

// burst is the size of a buffer of package nbdcopy, the usual argument of WaitN.
const burst = 1 << 20

// Limits are shared by all runs of a process. [New] makes them; a nil *Limits does not limit
// the rate, but cannot be used for disks.
type Limits struct {
	disks *semaphore.Weighted
	bytes *rate.Limiter // nil: no limit
	first sync.Once     // of WaitN
}

// New returns limits of [DisksAtOnce] disks and of that many bytes per second. 0 does not
// limit the rate.
func New(bytesPerSecond int64) *Limits {
	l := &Limits{disks: semaphore.NewWeighted(DisksAtOnce)}
	if bytesPerSecond > 0 {
		l.bytes = rate.NewLimiter(rate.Limit(bytesPerSecond), burst)
	}
	return l
}

// EachDisk calls do for 0 to n-1, each in a goroutine, started in this order. At most
// DisksAtOnce calls of all runs are active at once. EachDisk waits for its calls and returns
// the first error, which cancels the context of the others, or the cause if ctx was
// cancelled before the last call was started.
func (l *Limits) EachDisk(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	working, end := context.WithCancelCause(ctx)
	defer end(nil)
	var group panics.Group
	left := false // not all calls were started
	for i := range n {
		if left = l.disks.Acquire(working, 1) != nil; left {
			break
		}
		group.Go(func() error {
			defer l.disks.Release(1)
			err := panics.Catch(func() error { return do(working, i) })
			if err != nil {
				end(err) // before another disk takes its place
			}
			return err
		})
	}
	if err := group.Wait(); err != nil || !left {
		return err
	}
	return context.Cause(ctx)
}

// WaitN waits until n more bytes may be read, or ctx is cancelled. The bucket of the limiter
// is emptied at the first call, because it fills while nothing is read: a free buffer would
// exceed a rate of 1 MiB/s by a tenth in the first ten seconds.
func (l *Limits) WaitN(ctx context.Context, n int) error {
	if l == nil || l.bytes == nil {
		return nil
	}
	l.first.Do(func() { l.bytes.AllowN(time.Now(), burst) })
	for ; n > burst; n -= burst {
		if err := l.wait(ctx, burst); err != nil {
			return err
		}
	}
	return l.wait(ctx, n)
}

// wait waits for no more than a burst. A limiter that sees that the deadline of ctx will come
// first fails at once, with an error of its own: the deadline is what ends the wait.
func (l *Limits) wait(ctx context.Context, n int) error {
	err := l.bytes.WaitN(ctx, n)
	if err == nil {
		return nil
	}
	if _, has := ctx.Deadline(); has {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Time returns how long n bytes take at the limited rate, 0 if the rate is not limited.
func (l *Limits) Time(n int64) time.Duration {
	if l == nil || l.bytes == nil {
		return 0
	}
	return time.Duration(float64(n) / float64(l.bytes.Limit()) * float64(time.Second))
}
