package limit

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtbackup/virtbackup/internal/panics"
)

// counter counts the disks that are worked on.
type counter struct {
	mu        sync.Mutex
	now, most int
	done      []int
}

// do takes a second for a disk.
func (c *counter) do(_ context.Context, i int) error {
	c.mu.Lock()
	c.now++
	c.most = max(c.most, c.now)
	c.mu.Unlock()
	time.Sleep(time.Second)
	c.mu.Lock()
	c.now--
	c.done = append(c.done, i)
	c.mu.Unlock()
	return nil
}

// Two runs together have no more disks at once than one may have.
func TestEachDiskOfSeveralRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c, start := New(0), &counter{}, time.Now()
		var runs panics.Group
		for range 2 {
			runs.Go(func() error { return l.EachDisk(t.Context(), 6, c.do) })
		}
		if err := runs.Wait(); err != nil {
			t.Fatal(err)
		}
		if c.most != DisksAtOnce || time.Since(start) != 3*time.Second {
			t.Errorf("%d at once, in %v", c.most, time.Since(start))
		}
		slices.Sort(c.done)
		if want := []int{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5}; !slices.Equal(c.done, want) {
			t.Errorf("done: %v", c.done)
		}
	})
}

// The first error ends a run, whose other disks do not begin, and gives back what it held.
func TestEachDiskEndsWithTheFirstError(t *testing.T) {
	boom := errors.New("boom")
	for name, failing := range map[string]func() error{"error": func() error { return boom }, "panic": func() error { panic("boom") }} {
		synctest.Test(t, func(t *testing.T) {
			l, c := New(0), &counter{}
			err := l.EachDisk(t.Context(), 9, func(ctx context.Context, i int) error {
				if i == 2 {
					return failing()
				}
				<-ctx.Done()
				return c.do(ctx, i)
			})
			var bug *panics.Error
			if !errors.Is(err, boom) && !errors.As(err, &bug) || len(c.done) != DisksAtOnce-1 {
				t.Errorf("%s: %v, done %v", name, err, c.done)
			}
			if err := l.EachDisk(t.Context(), DisksAtOnce, c.do); err != nil || c.most != DisksAtOnce {
				t.Errorf("%s: afterwards %d at once, %v", name, c.most, err)
			}
		})
	}
}

// A run whose disks have no turn before ctx is cancelled says why it was; one whose disks
// are all done by then is done.
func TestEachDiskCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signal := errors.New("ended by signal")
		l, c := New(0), &counter{}
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		time.AfterFunc(500*time.Millisecond, func() { cancel(signal) })
		if err := l.EachDisk(ctx, DisksAtOnce+1, c.do); err != signal || len(c.done) != DisksAtOnce {
			t.Errorf("%v, done %v", err, c.done)
		}
		ctx, cancel = context.WithCancelCause(t.Context())
		defer cancel(nil)
		time.AfterFunc(500*time.Millisecond, func() { cancel(signal) })
		if err := l.EachDisk(ctx, DisksAtOnce, c.do); err != nil {
			t.Error(err)
		}
	})
}

// All that share the limits together read no more than the rate, from the first byte on.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(1 << 20)
		time.Sleep(time.Minute) // until the first copy begins
		start := time.Now()
		var runs panics.Group
		for range 2 {
			runs.Go(func() error {
				for range 5 {
					if err := l.WaitN(t.Context(), 1<<20); err != nil {
						return err
					}
				}
				return l.WaitN(t.Context(), 5<<20)
			})
		}
		if err := runs.Wait(); err != nil || time.Since(start).Round(time.Second) != 20*time.Second {
			t.Errorf("20 MiB took %v: %v", time.Since(start), err)
		}
		if got := l.Time(3 << 20); got != 3*time.Second {
			t.Errorf("3 MiB take %v", got)
		}
	})
}

func TestNoRate(t *testing.T) {
	for _, l := range []*Limits{nil, New(0)} {
		if err := l.WaitN(t.Context(), 1<<40); err != nil || l.Time(1<<40) != 0 {
			t.Errorf("%v, %v", err, l.Time(1<<40))
		}
	}
}
