package drill

import (
	"context"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
)

// mostKept is the most that a drill leaves free of a file system, in bytes: some seconds of writes of a
// fast disk, until the guest is ended.
const mostKept = 4 << 30

// keptFree is what a drill leaves free of a file system of that size, which other guests may write to: the
// tenth, and mostKept at most.
func keptFree(size int64) int64 { return min(size/10, mostKept) }

// checkRoom is the error of a file system, that of the drill's directory, which has less than a drill leaves free.
func (d *drill) checkRoom() error {
	free, size, err := diskspace.Free(d.note.Parent, false) // QEMU cannot use what is kept for root
	if err != nil {
		return err
	}
	return d.noRoom(free, size)
}

func (d *drill) noRoom(free, size int64) error {
	least := keptFree(size)
	if free >= least {
		return nil
	}
	return fail.WithHint(fmt.Errorf("boot %s@%s: what the guest writes goes into %s, where %s are free: a drill leaves %s to others",
		d.point.Domain, d.point.ID, d.note.Parent, bytesize.Text(free), bytesize.Text(least)),
		"free space there, or name a directory on another file system with --scratch-dir")
}

// watchRoom asks check again and again, and ends the context that it returns with its first error. stop ends the watch and waits for it.
func watchRoom(ctx context.Context, check func() error) (watched context.Context, stop func() error) {
	watched, cancel := context.WithCancelCause(ctx)
	done := panics.Go(func() error {
		for {
			select {
			case <-watched.Done():
				return nil
			case <-time.After(tick):
			}
			if err := check(); err != nil {
				cancel(err)
				return nil
			}
		}
	})
	return watched, func() error {
		cancel(errDone)
		return <-done
	}
}
