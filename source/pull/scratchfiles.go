package pull

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/qcow2"
)

// makeScratchFiles makes the scratch files of the job, before the guest is frozen: libvirt would
// make them one after the other while it is. Measured with three disks, under load, libvirt took
// 371 ms to begin a job with files of its own, and 180 ms with files that were there.
//
// libvirt gives each to QEMU's user, and takes it back at the end of the job. It does not remove
// them (VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL).
func (s *Source) makeScratchFiles() error {
	if err := s.removeScratchFiles(); err != nil { // of a first try
		return err
	}
	for _, d := range s.job.Disks {
		size, _, err := s.d.Domain.Allocation(d.Target)
		if err != nil {
			return err
		}
		path := s.d.Scratch(s.job.Instant.Identity, d.Target)
		if err := makeScratchFile(path, size); err != nil {
			return fail.WithHint(fmt.Errorf("make the scratch file of disk %s of domain %s: %w", d.Target, s.name(), err),
				"virtbackup itself must be able to write in %s; free space there, or name another directory with --scratch-dir", s.scratchDir())
		}
	}
	return fault.Point("scratch files")
}

// makeScratchFile makes an empty qcow2 image of that many bytes.
func makeScratchFile(path string, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w, err := qcow2.NewWriter(f, qcow2.Options{VirtualSize: size})
	if err != nil {
		return err
	}
	stats, err := w.Finish(nil)
	if err != nil {
		return err
	}
	return f.Truncate(stats.FileBytes)
}

// removeScratchFiles removes the scratch files of the job; there may be none.
func (s *Source) removeScratchFiles() error {
	var errs []error
	for _, d := range s.job.Disks {
		if err := os.Remove(s.d.Scratch(s.job.Instant.Identity, d.Target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Cleanup removes what Prepare and Freeze have made on this host, unless the job may still
// run.
func (s *Source) Cleanup(ctx context.Context) error {
	if s.session.Began() && !s.session.Ended() {
		if !s.jobless {
			return nil
		}
		s.session.Settle(ctx)
	}
	return s.removeScratchFiles()
}
