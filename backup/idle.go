package backup

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/recovery"
	"github.com/virtbackup/virtbackup/xml"
)

// awaitIdle waits until nobody else's job holds the domain. libvirt would wait
// by itself, but then the guest would be frozen.
func (r *run) awaitIdle(ctx context.Context) error {
	deadline := time.Now().Add(r.Wait)
	for said := false; ; said = true {
		job, err := r.domain.RunningJob()
		if err != nil || job == "" {
			return err
		}
		if !time.Now().Before(deadline) {
			return withHint(fmt.Errorf("domain %s is held by a job that is not ours: %s: %w", r.Domain, job, hypervisor.ErrBusy),
				"virsh domjobinfo %s shows it; --wait DURATION waits longer%s", r.Domain, r.otherRun())
		}
		if !said {
			r.Log.Info(fmt.Sprintf("waiting up to %v for a job that is not ours: %s", r.Wait, job))
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// otherRun says, as part of a hint, that the job that holds the domain is a run of
// virtbackup for another repository, or "".
func (r *run) otherRun() string {
	doc, err := r.domain.BackupJob()
	if err != nil {
		return ""
	}
	job, err := xml.ParseBackup(doc)
	if name := filepath.Base(job.Socket); err == nil && strings.HasPrefix(name, recovery.NamePrefix) {
		return fmt.Sprintf("; by its socket, %s, it is a run of virtbackup for another repository, and may be alive", name)
	}
	return ""
}
