package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/internal/bounded"
	"github.com/virtbackup/virtbackup/internal/fail"
)

// cleanupTime bounds each undo of a run. Signals do not cancel undos.
const cleanupTime = 2 * time.Minute

// undoOne runs one undo in a bounded time, with a context that signals do not cancel. If
// libvirtd, QEMU or a file system hangs, the other undos still run, and the run ends.
func (r *run) undoOne(ctx context.Context, s step) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	err := bounded.Within(cleanupTime+time.Second, func() error {
		_ = r.fault("undo " + s.name) // tests kill the process here
		return s.undo(r, ctx)
	})
	if errors.Is(err, bounded.ErrNoAnswer) {
		return fail.WithHint(fmt.Errorf("undo step %s: %w", s.name, err),
			"see whether libvirtd, the domain's QEMU and the file system of the repository answer; the next run of this domain cleans up")
	}
	return err
}
