package backup

import (
	"context"

	"github.com/virtbackup/virtbackup/recovery"
	"github.com/virtbackup/virtbackup/repository"
)

// recover cleans up after an earlier run of this domain that was killed, and redefines
// checkpoints that libvirt has lost.
func (r *run) recover(ctx context.Context) error {
	if err := r.refuseHalfRestored(); err != nil {
		return err
	}
	if !r.off {
		if err := r.lock.ClearMark(repository.MarkPutBack); err != nil {
			return err
		}
	}
	report, err := recovery.Recover(ctx, r.domain, false)
	r.result.Recovered = append(r.result.Recovered, report.Fixed...)
	for _, left := range report.Left {
		r.warn("left by an earlier run: %s", left)
	}
	return err
}
