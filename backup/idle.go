package backup

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/recovery"
	"github.com/virtbackup/virtbackup/xml"
)

// idlePause is how long to wait between two looks at the jobs of others.
const idlePause = 500 * time.Millisecond

// holder is a job that is not ours and keeps a backup from beginning.
type holder struct {
	disk string // of a block job; "" of a job of the domain
	job  string // backup, outgoing migration, active commit
	hint string // what to do
}

func (h holder) String() string {
	if h.disk == "" {
		return "a job that is not ours: " + h.job
	}
	return fmt.Sprintf("a block job of disk %s that is not ours: %s", h.disk, h.job)
}

// awaitIdle waits, before anything is planned, until no job of others is on the domain
// and on the disks to be copied. A block job may change the image that a disk has (a
// commit, a copy), so the domain is looked at again.
func (r *run) awaitIdle(ctx context.Context) error {
	r.idleBy = time.Now().Add(r.Wait)
	waited, err := r.await(ctx, chosenTargets(r.Request, r.guest.Disks))
	if err != nil || !waited {
		return err
	}
	return r.find(ctx)
}

// awaitStillIdle does the same just before the guest is frozen: libvirt would wait by
// itself, up to 30 s, but with the guest frozen, and does not wait for block jobs
// (qemuCheckpointPrepare: disk 'vda' has a blockjob assigned). What was waited for
// before counts as part of --wait. The plan is for the images that the disks had, and
// to check its parents may have taken long: a block job or a snapshot that gave a disk
// another image may have come and gone.
func (r *run) awaitStillIdle(ctx context.Context) error {
	targets := r.plan.targets()
	if _, err := r.await(ctx, targets); err != nil {
		return err
	}
	planned := r.guest
	if err := r.find(ctx); err != nil {
		return err
	}
	for _, target := range targets {
		before, _ := planned.Disk(target)
		if now, ok := r.guest.Disk(target); !ok || now.Source != before.Source {
			return fail.WithHint(fmt.Errorf("disk %s of domain %s has another image now than when this run looked at it: %s, before %s",
				target, r.Domain, now.Source, before.Source), "a block job or a snapshot has changed it meanwhile: run the backup again")
		}
	}
	return nil
}

// await waits until there is no holder, up to r.idleBy, and tells whether there was one.
func (r *run) await(ctx context.Context, targets []string) (waited bool, err error) {
	for ; ; waited = true {
		h, err := r.holder(targets)
		if err != nil || h == nil {
			return waited, err
		}
		if !time.Now().Before(r.idleBy) {
			return waited, r.busy(*h)
		}
		if !waited {
			r.Log.Info(fmt.Sprintf("waiting up to %v for %v", time.Until(r.idleBy).Round(time.Second), h))
		}
		select {
		case <-time.After(idlePause):
		case <-ctx.Done():
			return waited, context.Cause(ctx)
		}
	}
}

func (r *run) busy(h holder) error {
	return fail.WithHint(fmt.Errorf("domain %s is held by %v: %w", r.Domain, h, hypervisor.ErrBusy), "%s", h.hint)
}

// holder looks for a job of others; nil is none.
func (r *run) holder(targets []string) (*holder, error) {
	job, err := r.domain.RunningJob()
	if err != nil {
		return nil, err
	}
	if job != "" {
		return &holder{job: job, hint: fmt.Sprintf("virsh domjobinfo %s shows it; --wait TIME waits longer%s", r.word(), r.otherRun())}, nil
	}
	for _, target := range targets {
		job, err := r.domain.BlockJob(target)
		if err != nil {
			return nil, err
		}
		if job.Kind != "" {
			return &holder{target, job.Kind, r.blockJobHint(target, job)}, nil
		}
	}
	return nil, nil
}

// blockJobHint says what to do about a block job. A mirror that has caught up waits for
// somebody to decide.
func (r *run) blockJobHint(target string, job hypervisor.BlockJob) string {
	command := fmt.Sprintf("virsh blockjob %s %s", r.word(), target)
	if job.Mirror {
		return fmt.Sprintf("it ends when somebody decides: %s --pivot goes over to the other image, --abort stays with this one; --exclude %s does without the disk",
			command, target)
	}
	return fmt.Sprintf("%s --info shows how far it is; --wait TIME waits longer, --exclude %s does without the disk", command, target)
}

// otherRun says, as part of a hint, that the job that holds the domain is a run of
// virtbackup that this repository does not know, or "".
func (r *run) otherRun() string {
	doc, err := r.domain.BackupJob()
	if err != nil {
		return ""
	}
	job, err := xml.ParseBackup(doc)
	if name := filepath.Base(job.Socket); err == nil && strings.HasPrefix(name, recovery.NamePrefix) {
		return fmt.Sprintf("; by its socket, %s, it is a run of virtbackup for another repository, or one that this has no note of any more, "+
			"and may be alive; if it is dead, virsh domjobabort %s ends it", name, r.word())
	}
	return ""
}
