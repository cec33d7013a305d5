package pull

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/xml"
)

// idlePause is the time between two queries for the jobs of others.
const idlePause = 500 * time.Millisecond

// holder is a job that is not ours and prevents a backup from beginning.
type holder struct {
	disk string // of a block job; "" for a job of the domain
	job  string // backup, outgoing migration, active commit
	hint string // what to do
}

func (h holder) String() string {
	if h.disk == "" {
		return "a job that is not ours: " + h.job
	}
	return fmt.Sprintf("a block job of disk %s that is not ours: %s", h.disk, h.job)
}

// AwaitIdle waits, before anything is planned, until no other job runs on the domain or on
// the disks to be copied, and returns the domain as it is then: a block job (commit, copy)
// may change the image of a disk.
func (s *Source) AwaitIdle(ctx context.Context, targets []string) (xml.Domain, error) {
	s.idleBy = time.Now().Add(s.Wait)
	if err := s.await(ctx, targets); err != nil {
		return xml.Domain{}, err
	}
	var err error
	s.seen, err = s.d.Describe()
	return s.seen, err
}

// StillIdle does the same just before the guest is frozen: libvirt would wait by
// itself, up to 30 s, but with the guest frozen, and does not wait for block jobs
// (qemuCheckpointPrepare: disk 'vda' has a blockjob assigned). Both waits together are
// limited by Wait. The plan is for the images that the disks had, and checking its parents
// may have taken long: meanwhile a block job or a snapshot may have given a disk another
// image.
func (s *Source) StillIdle(ctx context.Context, targets []string) error {
	if err := s.await(ctx, targets); err != nil {
		return err
	}
	now, err := s.d.Describe()
	if err != nil {
		return err
	}
	for _, target := range targets {
		before, _ := s.seen.Disk(target)
		if disk, ok := now.Disk(target); !ok || disk.Source != before.Source {
			return fail.WithHint(fmt.Errorf("disk %s of domain %s has another image now than when this run was planned: %s, before %s",
				target, s.name(), disk.Source, before.Source), "a block job or a snapshot has changed it meanwhile: run the backup again")
		}
	}
	return nil
}

// await waits until there is no holder, at most until idleBy.
func (s *Source) await(ctx context.Context, targets []string) error {
	for waited := false; ; waited = true {
		h, err := s.holder(targets)
		if err != nil || h == nil {
			return err
		}
		if !time.Now().Before(s.idleBy) {
			return s.busy(*h)
		}
		if !waited {
			s.Log.Info(fmt.Sprintf("waiting up to %v for %v", time.Until(s.idleBy).Round(time.Second), h))
		}
		select {
		case <-time.After(idlePause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *Source) busy(h holder) error {
	return fail.WithHint(fmt.Errorf("domain %s is held by %v: %w", s.name(), h, hypervisor.ErrBusy), "%s", h.hint)
}

// holder looks for a job of others; nil if there is none.
func (s *Source) holder(targets []string) (*holder, error) {
	job, err := s.d.Domain.RunningJob()
	if err != nil {
		return nil, err
	}
	if job != "" {
		return &holder{job: job, hint: fmt.Sprintf("virsh domjobinfo %s shows it; --wait TIME waits longer%s", s.word(), s.otherRun())}, nil
	}
	for _, target := range targets {
		job, err := s.d.Domain.BlockJob(target)
		if err != nil {
			return nil, err
		}
		if job.Kind != "" {
			return &holder{target, job.Kind, s.blockJobHint(target, job)}, nil
		}
	}
	return nil, nil
}

// blockJobHint says what to do about a block job. A mirror that is ready waits for a pivot
// or an abort.
func (s *Source) blockJobHint(target string, job hypervisor.BlockJob) string {
	command := fmt.Sprintf("virsh blockjob %s %s", s.word(), target)
	if job.Mirror {
		return fmt.Sprintf("it ends when you end it: %s --pivot switches to the other image, --abort keeps this one; --exclude %s leaves the disk out",
			command, target)
	}
	return fmt.Sprintf("%s --info shows how far it is; --wait TIME waits longer, --exclude %s leaves the disk out", command, target)
}

// otherRun returns a part of a hint if the job that holds the domain is a run of
// virtbackup that this repository does not know, or "".
func (s *Source) otherRun() string {
	doc, err := s.d.Domain.BackupJob()
	if err != nil {
		return ""
	}
	job, err := xml.ParseBackup(doc)
	if name := filepath.Base(job.Socket); err == nil && strings.HasPrefix(name, guest.NamePrefix) {
		return fmt.Sprintf("; its socket, %s, shows that it is a run of virtbackup for another repository, or one that this repository has no record of any more; "+
			"it may be alive; if it is dead, virsh domjobabort %s ends it", name, s.word())
	}
	return ""
}
