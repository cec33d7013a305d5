package offline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/internal/storagedaemon"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/source"
)

// maxSocket is how long the path of a unix socket may be, in bytes (sun_path, unix(7)).
const maxSocket = 107

// directory is where the storage daemon's socket is: only this user may enter it.
func (s *Source) directory() string {
	return filepath.Join(guest.RunDir(s.SocketDir), s.d.Prefix()+s.job.Instant.Identity+".d")
}

// Prepare takes the job that Begin will begin, and makes the directory for the socket.
func (s *Source) Prepare(job source.Job) error {
	s.job = job
	if err := guest.MakeRunDir(s.SocketDir); err != nil {
		return err
	}
	if over := len(filepath.Join(s.directory(), "nbd.sock")) - maxSocket; over > 0 {
		return fail.Errorf(fail.Usage, "name a shorter one, or leave --socket-dir out", "the path of --socket-dir is %d bytes too long for a socket of a domain that is shut off", over)
	}
	for _, d := range job.Disks {
		s.warnOfSharing(d, s.chains[d.Target][0].Path)
	}
	if err := s.warnOfSaved(); err != nil {
		return err
	}
	return os.Mkdir(s.directory(), 0o700)
}

// warnOfSharing warns of an image that another host may write to now, without this one seeing it.
func (s *Source) warnOfSharing(d source.JobDisk, path string) {
	if s.Exclusive {
		return
	}
	var shared *shutoff.SharedError
	if !errors.As(shutoff.MayBeShared(path), &shared) {
		return
	}
	costs := ""
	if d.Bitmap {
		costs = ", and the next backup has to read all of the disk, as it gets no bitmap"
	}
	s.warn(fmt.Sprintf("disk %s: %v: if one runs this domain now, the point is worthless%s; %s", d.Target, shared, costs, shared.Hint()))
}

// Freeze finds out whether the guest has left its file systems in order: nothing runs that could be
// frozen.
func (s *Source) Freeze(context.Context) error { return s.judge() }

// judge finds out whether the file systems are in order, by how the domain has ended.
func (s *Source) judge() error {
	saved, err := s.d.Domain.ManagedSave()
	if err != nil {
		return err
	}
	_, putBack, err := s.d.Lock.Mark(repository.MarkPutBack)
	if err != nil {
		return err
	}
	s.clean = ""
	switch {
	case putBack:
		s.clean = "its disks were put back to a point that is crash consistent, and it was not seen running since"
	case saved:
		s.clean = "the domain is saved, and what its guest had not written yet is in the saved memory"
	case s.off != hypervisor.GuestShutDown:
		s.clean = "the domain is shut off: " + s.off
	}
	if s.clean != "" && s.Quiesce == source.QuiesceRequire {
		return fail.WithHint(fmt.Errorf("the file systems are to be in order, as --quiesce require asks, and %s", s.clean),
			"virsh start %s, and back it up while it runs or after its guest has shut down; or use --quiesce try", s.word())
	}
	return nil
}

// Thaw has nothing to undo.
func (s *Source) Thaw(context.Context) error { return nil }

// Begin adds the bitmaps of the new checkpoint, and serves the disks.
func (s *Source) Begin(ctx context.Context) (source.Begun, error) {
	begun := source.Begun{Refused: map[string]error{}}
	if err := s.addBitmaps(begun.Refused); err != nil {
		return begun, err
	}
	for _, step := range []func(context.Context) error{s.lock, s.serve} {
		if err := step(ctx); err != nil {
			return begun, err
		}
	}
	begun.Time, begun.Quiesced = s.begun, s.clean == ""
	if s.Quiesce != source.QuiesceNo {
		begun.NotQuiesced = s.clean
	}
	return begun, nil
}

// lock locks the images, and then checks that they are those that the run was planned for, and that
// the domain is off: from then on it is, and nothing changes.
func (s *Source) lock(ctx context.Context) error {
	for _, d := range s.job.Disks {
		for _, image := range s.chains[d.Target] {
			for _, path := range shutoff.Files(image) {
				err := s.guard.hold(path)
				if errors.Is(err, qemuimg.ErrLocked) {
					return s.lockedOut(d.Target, err)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	if err := fault.Point("locked"); err != nil {
		return err
	}
	_, now, err := s.look(ctx, s.job.Targets())
	if err == nil {
		err = s.same(now)
	}
	if err == nil { // it may have been started since AwaitIdle, and have ended in another way
		s.off, err = s.d.Domain.WhyShutOff()
	}
	if err == nil {
		err = s.judge()
	}
	if err == nil {
		s.chains, s.begun = now, time.Now().UTC()
	}
	return err
}

// serve starts the storage daemon, checks the bitmaps as it has read them, and exports the disks.
func (s *Source) serve(ctx context.Context) (err error) {
	if s.daemon, err = storagedaemon.Start(ctx, s.directory(), false); err != nil {
		return explainMissing(err)
	}
	if err := fault.Point("storage daemon started"); err != nil {
		return err
	}
	for _, d := range s.job.Disks {
		disk, err := s.daemon.Open(ctx, d.Target, s.chains[d.Target], false)
		if err != nil {
			return err
		}
		if err := s.checkNew(ctx, d, disk); err != nil {
			return err
		}
		bitmap, err := s.merge(ctx, d, disk)
		if err != nil {
			return err
		}
		if err := disk.Export(ctx, bitmap, false); err != nil {
			return err
		}
		s.disks[d.Target] = export{disk, bitmap}
	}
	if err := s.guard.named(); err != nil { // the daemon has opened what is locked
		return s.changed("domain %s: %w", s.name(), err)
	}
	return fault.Point("disks served")
}

// checkNew returns an error unless the image of a disk has the new bitmap, and it records.
func (s *Source) checkNew(ctx context.Context, d source.JobDisk, disk *storagedaemon.Disk) error {
	if !d.Bitmap {
		return nil
	}
	bitmaps, err := disk.Bitmaps(ctx)
	if err != nil {
		return err
	}
	for _, b := range bitmaps[0] {
		if b.Name == s.job.Checkpoint && b.Recording && b.Persistent && !b.Inconsistent {
			return nil
		}
	}
	return s.changed("disk %s of domain %s: its image has lost the bitmap %s that was added", d.Target, s.name(), s.job.Checkpoint)
}

// merge returns the name of a bitmap of what has changed on a disk, "" if all of it is read.
func (s *Source) merge(ctx context.Context, d source.JobDisk, disk *storagedaemon.Disk) (string, error) {
	if d.Since == "" {
		return "", nil
	}
	chain := s.chains[d.Target]
	layers := shutoff.Layers(chain, d.Since)
	if layers == 0 {
		return "", s.changed("disk %s of domain %s: bitmap %s cannot be used any more", d.Target, s.name(), d.Since)
	}
	return disk.Merge(ctx, d.Since, layers, shutoff.Granularity(chain, d.Since, layers))
}
