package pull

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/bounded"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// Begin starts libvirt's job and, at the same instant, creates the new checkpoint, without the
// bitmaps that QEMU refuses.
func (s *Source) Begin(ctx context.Context) (source.Begun, error) {
	refused := map[string]error{}
	at, err := s.begin()
	if errors.Is(err, hypervisor.ErrBitmap) && s.job.Checkpoint != "" {
		at, err = s.withoutBitmaps(ctx, err, refused)
	}
	return source.Begun{Time: at, Quiesced: s.quiesced, NotQuiesced: s.crash, Refused: refused}, err
}

// begin returns the time of the instant.
func (s *Source) begin() (at time.Time, err error) {
	job, point, err := s.documents()
	if err != nil {
		return at, err
	}
	if at, err = s.session.Begin(job, point); err != nil {
		return at, s.explainBegin(err)
	}
	return at, nil
}

// documents makes the XML of the job and of the checkpoint; the latter is "" for
// a point without one.
func (s *Source) documents() (job, point string, err error) {
	backup := xml.Backup{Socket: s.d.Socket(s.job.Instant.Identity), Leave: s.job.LeftOut}
	chk := xml.Checkpoint{Name: s.job.Checkpoint, Description: checkpoint.Description(s.d.Repo.ID(), s.job.Instant.Point)}
	for _, d := range s.job.Disks {
		backup.Disks = append(backup.Disks, xml.BackupDisk{Target: d.Target, Incremental: d.Since, Scratch: s.d.Scratch(s.job.Instant.Identity, d.Target)})
		disk := xml.CheckpointDisk{Target: d.Target}
		if d.Bitmap {
			disk.Bitmap = s.job.Checkpoint
		}
		chk.Disks = append(chk.Disks, disk)
	}
	for _, target := range s.job.LeftOut {
		chk.Disks = append(chk.Disks, xml.CheckpointDisk{Target: target})
	}
	if job, err = backup.Marshal(); err != nil || s.job.Checkpoint == "" {
		return job, "", err
	}
	point, err = chk.Marshal()
	return job, point, err
}

// askTime bounds a query that only makes an error clearer.
const askTime = 5 * time.Second

// explainBegin adds a hint for the usual reasons why a job does not begin.
func (s *Source) explainBegin(err error) error {
	switch {
	case errors.Is(err, hypervisor.ErrSocket):
		return fail.WithHint(err, "QEMU's user must be able to make a socket in %s; name another directory with --socket-dir, or allow this one "+
			"(owner and mode of it and of all above it, AppArmor, SELinux)", guest.RunDir(s.SocketDir))
	case errors.Is(err, hypervisor.ErrScratch):
		return fail.WithHint(err, "QEMU's user must be able to enter %s; name another directory with --scratch-dir, or allow this one "+
			"(owner and mode of it and of all above it, AppArmor, SELinux)", guest.RunDir(s.ScratchDir))
	case errors.Is(err, hypervisor.ErrBitmap):
		return err
	}
	// Another job may have begun a moment ago. Do not wait long: the guest may be frozen.
	var h *holder
	asked := bounded.Within(askTime, func() (err error) {
		h, err = s.holder(s.job.Targets())
		return err
	})
	if asked == nil && h != nil {
		return fail.WithHint(fmt.Errorf("%w; it is held by %v", err, h), "%s", h.hint)
	}
	return err
}
