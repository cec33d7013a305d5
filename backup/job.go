package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/recovery"
	"github.com/virtbackup/virtbackup/xml"
)

// DefaultRunDir is where sockets and scratch files go.
const DefaultRunDir = recovery.DefaultRunDir

func (r *run) socket() string { return r.site().Socket(r.plan.Identity) }

func (r *run) scratch(target string) string { return r.site().Scratch(r.plan.Identity, target) }

func runDir(dir string) string { return recovery.RunDir(dir) }

// prepareRunDirs makes the default directory, with the owner of the directory
// above it: QEMU's user. Directories that the user named must exist.
func (r *run) prepareRunDirs(context.Context) error {
	for _, dir := range []string{r.SocketDir, r.ScratchDir} {
		if dir == "" {
			if err := makeDefaultRunDir(); err != nil {
				return err
			}
			continue
		}
		info, err := os.Stat(dir)
		if err != nil {
			return fail.WithHint(err, "make %s, writable for the user that QEMU runs as", dir)
		}
		if !info.IsDir() || !filepath.IsAbs(dir) {
			return fail.Errorf(fail.Usage, "name one with its absolute path", "%s is not the absolute path of a directory", dir)
		}
	}
	return nil
}

func makeDefaultRunDir() error {
	err := os.Mkdir(DefaultRunDir, 0o770)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fail.WithHint(err, "run as root, or name directories with --scratch-dir and --socket-dir")
	}
	info, err := os.Stat(filepath.Dir(DefaultRunDir))
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return os.Chown(DefaultRunDir, int(owner.Uid), int(owner.Gid))
}

// beginTime bounds the beginning of a job, during which the guest may be frozen.
// libvirt itself waits 30 s for a job that has come in between.
const beginTime = 45 * time.Second

// begin starts the job, without the bitmaps that QEMU refuses.
func (r *run) begin(ctx context.Context) error {
	err := r.beginJob()
	if errors.Is(err, hypervisor.ErrBitmap) && r.plan.Checkpoint != "" {
		return r.withoutBitmaps(ctx, err)
	}
	return err
}

// beginJob starts libvirt's job and, at the same instant, the new checkpoint.
func (r *run) beginJob() error {
	job, point, err := r.documents()
	if err != nil {
		return err
	}
	if r.stateBefore, err = r.domain.State(); err != nil {
		return err
	}
	r.begun = true
	if err := within(beginTime, func() error { return r.domain.BackupBegin(job, point) }); err != nil {
		return r.explainBegin(err)
	}
	r.point.Time = time.Now().UTC()
	doc, err := r.domain.BackupJob()
	if err != nil {
		return err
	}
	r.job, err = xml.ParseBackup(doc)
	return err
}

// documents makes the XML of the job and of the checkpoint; the latter is "" for
// a point without one.
func (r *run) documents() (job, point string, err error) {
	backup := xml.Backup{Socket: r.socket()}
	chk := xml.Checkpoint{Name: r.plan.Checkpoint, Description: checkpoint.Description(r.repo.ID(), r.plan.ID)}
	for _, d := range r.plan.Disks {
		backup.Disks = append(backup.Disks, xml.BackupDisk{Target: d.Target, Incremental: d.Since, Scratch: r.scratch(d.Target)})
		disk := xml.CheckpointDisk{Target: d.Target}
		if d.Bitmap {
			disk.Bitmap = r.plan.Checkpoint
		}
		chk.Disks = append(chk.Disks, disk)
	}
	for _, l := range r.plan.LeftOut {
		backup.Leave = append(backup.Leave, l.Target)
		chk.Disks = append(chk.Disks, xml.CheckpointDisk{Target: l.Target})
	}
	if job, err = backup.Marshal(); err != nil || r.plan.Checkpoint == "" {
		return job, "", err
	}
	point, err = chk.Marshal()
	return job, point, err
}

// askTime bounds a question whose answer only makes an error clearer.
const askTime = 5 * time.Second

// explainBegin says what to do about the usual reasons for a job not to begin.
func (r *run) explainBegin(err error) error {
	switch {
	case errors.Is(err, hypervisor.ErrSocket):
		return fail.WithHint(err, "QEMU's user must be able to make a socket in %s; name another directory with --socket-dir, or allow this one "+
			"(owner and mode of it and of all above it, AppArmor, SELinux)", runDir(r.SocketDir))
	case errors.Is(err, hypervisor.ErrScratch):
		return fail.WithHint(err, "QEMU's user must be able to enter %s; name another directory with --scratch-dir, or allow this one "+
			"(owner and mode of it and of all above it, AppArmor, SELinux)", runDir(r.ScratchDir))
	case errors.Is(err, hypervisor.ErrBitmap):
		return err
	}
	// A job that has begun a moment ago: the guest may be frozen.
	var h *holder
	asked := within(askTime, func() (err error) {
		h, err = r.holder(r.plan.targets())
		return err
	})
	if asked == nil && h != nil {
		return fail.WithHint(fmt.Errorf("%w; it is held by %v", err, h), "%s", h.hint)
	}
	return err
}

// endTime bounds the end of a job, which takes some 25 ms.
const endTime = time.Minute

// end ends the job once all has been read. An abort before that would take the
// protection from the guest's writes away while the exports can still be read.
func (r *run) end(ctx context.Context) error {
	if err := within(endTime, r.proveJob); err != nil {
		return r.explainGone(ctx, err)
	}
	return r.endJob(ctx)
}

// proveJob proves that this run's own job still protects what it reads. Called
// after the last read, that proves all of the copy: nothing is read any more. The
// job has to be ours before and after each disk is asked about, or another job's
// disk would be.
func (r *run) proveJob() error {
	if err := errors.Join(r.ownJob(), fault.Point("prove")); err != nil {
		return err
	}
	for _, d := range r.job.Disks {
		if err := r.domain.ProveBackup(d.Target); err != nil {
			return err
		}
	}
	return r.ownJob()
}

// ownJob returns an error unless the domain's job is this run's: its socket tells.
func (r *run) ownJob() error {
	job, ours, err := r.site().OurJob()
	if err == nil && (!ours || job.Socket != r.socket()) {
		err = fmt.Errorf("%w of this run", hypervisor.ErrNoJob)
	}
	return err
}

// explainGone says what it means that the job cannot be proven.
func (r *run) explainGone(ctx context.Context, err error) error {
	if !errors.Is(err, hypervisor.ErrNoJob) {
		return fmt.Errorf("see whether the backup job of domain %s still runs: %w", r.Domain, err)
	}
	if why := r.shutOff(context.WithoutCancel(ctx)); why != "" {
		return r.explainShutOff(why, err)
	}
	return r.jobGone(err)
}

func (r *run) jobGone(err error) error {
	return fail.WithHint(fmt.Errorf("the backup job of domain %s is gone, and this run has not ended it: what the guest wrote since may be in the copy, "+
		"which is no state that the disks were ever in: %w", r.Domain, err),
		"virsh domjobabort, or a program that manages the domain, has ended it; keep it from doing so, and run the backup again")
}

// endJob ends the job and lets a guest go on that has paused for lack of space.
func (r *run) endJob(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	paused := !r.stuck && r.pausedByUs()
	if paused {
		// Should this run be killed before it can wake the guest, the next one does.
		if err := r.site().Pausing(); err != nil {
			r.warn("%v", err)
		}
	}
	if err := within(endTime+time.Second, func() error { return r.domain.EndBackup(ctx) }); err != nil {
		return fail.WithHint(err, "if the domain's QEMU hangs, the job ends as soon as it goes on; virsh domjobabort %s ends it, too", r.word())
	}
	r.ended = true
	err := r.fault("job ended")
	r.wake()
	err = errors.Join(err, removeIfExists(r.socket())) // libvirt leaves it
	if paused {
		err = errors.Join(err, r.site().Woken())
	}
	return err
}

// abandon undoes begin: the job ends, and the checkpoint goes unless its point
// has been sealed. libvirt keeps the checkpoint even of a job that could not
// begin (only its exports failed), so it is looked up in any case.
func (r *run) abandon(ctx context.Context) error {
	if !r.begun {
		return nil
	}
	var errs []error
	if !r.ended {
		err := r.endOurs(ctx)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errNoAnswer) {
			return err // nothing can be deleted while the job runs
		}
		errs = append(errs, err)
	}
	if !r.sealed && r.plan.Checkpoint != "" {
		errs = append(errs, r.dropCheckpoint())
	}
	return errors.Join(errs...)
}

// dropCheckpoint deletes the checkpoint of a point that was not sealed. Without
// QEMU its bitmaps cannot be deleted, and where QEMU ended in order they are in
// the images by now: then libvirt's record of the checkpoint stays, if it is there,
// and the identity, by which the next run finds and deletes them.
func (r *run) dropCheckpoint() error {
	off, err := r.domain.WhyShutOff() // Active would be true for a moment yet
	if err == nil && (off != "" || r.off) {
		err = hypervisor.ErrNotRunning
	} else {
		err = errors.Join(err, r.site().DeleteCheckpoint(r.instant))
	}
	r.dropped = err == nil
	if !errors.Is(err, hypervisor.ErrNotRunning) && !errors.Is(err, hypervisor.ErrNoDomain) {
		return err
	}
	r.left = true
	r.Log.Warn("the domain is off: checkpoint " + r.plan.ID + " is left until it runs again; the next run deletes it")
	return nil
}

// endOurs ends the running job if it is ours. Where somebody else has ended it, a
// guest that it had paused for lack of space still has to go on.
func (r *run) endOurs(ctx context.Context) error {
	_, ours, err := r.site().OurJob()
	if err != nil || !ours {
		r.wake()
		return errors.Join(err, removeIfExists(r.socket()))
	}
	r.Log.Info("ending the backup job")
	return r.endJob(ctx)
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
