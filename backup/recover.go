package backup

import (
	"context"

	"github.com/virtbackup/virtbackup/recovery"
)

// site is what recovery works on. The lock must be held.
func (r *run) site() *recovery.Site {
	return &recovery.Site{
		Domain: r.domain, Repo: r.repo, Lock: r.lock,
		SocketDir: r.SocketDir, ScratchDir: r.ScratchDir, AgentTimeout: r.AgentTimeout, Log: r.Log,
		Own: r.instant.Identity,
	}
}

// recover puts right what an earlier run of this domain left when it was killed,
// and gives libvirt back the checkpoints that it has lost.
func (r *run) recover(ctx context.Context) error {
	report, err := r.site().Recover(ctx, false)
	r.result.Recovered = append(r.result.Recovered, report.Fixed...)
	for _, left := range report.Left {
		r.warn("left by an earlier run: %s", left)
	}
	return err
}
