package offline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/imagelock"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/source"
)

// granularity of new bitmaps in bytes: that of libvirt's, and our images' clusters.
const granularity = 64 << 10

// addBitmaps adds the bitmaps of the new checkpoint to the images. Those that cannot have one are
// added to refused.
func (s *Source) addBitmaps(refused map[string]error) error {
	s.job.Disks = slices.Clone(s.job.Disks) // the caller owns the original
	for i := range s.job.Disks {
		d := &s.job.Disks[i]
		if !d.Bitmap {
			continue
		}
		if err := s.checkOff(); err != nil {
			return err
		}
		err := s.addBitmap(s.chains[d.Target][0])
		switch {
		case errors.Is(err, qemuimg.ErrLocked) && s.onlyRead(s.chains[d.Target][0].Path):
			d.Bitmap, refused[d.Target] = false, errReaders
			s.withdraw(s.chains[d.Target][0].Path)
			s.warn(fmt.Sprintf("disk %s has no bitmap in checkpoint %s: the next backup has to read all of it: %v", d.Target, s.job.Instant.Point, errReaders))
		case errors.Is(err, qemuimg.ErrLocked):
			return s.lockedOut(d.Target, err)
		case err != nil:
			d.Bitmap, refused[d.Target] = false, err
			s.withdraw(s.chains[d.Target][0].Path)
			if shared := new(shutoff.SharedError); !errors.As(err, &shared) { // that was said
				s.warn(fmt.Sprintf("disk %s has no bitmap in checkpoint %s: the next backup has to read all of it: %v", d.Target, s.job.Instant.Point, err))
			}
		}
	}
	if s.job.Checkpoint == "" || slices.ContainsFunc(s.job.Disks, func(d source.JobDisk) bool { return d.Bitmap }) {
		return nil
	}
	s.job.Checkpoint = "" // there is none to define
	return s.d.Lock.SetInstantState(s.job.Instant.Identity, instants.Retired)
}

// errReaders is why an image gets no bitmap that others read, such as domains that run on
// overlays of it: while they do, nobody may write to it.
var errReaders = errors.New("another process reads its image; is it the backing file of a domain that runs?")

// onlyRead tells whether the domain is off, and nobody has an image open for writing.
func (s *Source) onlyRead(path string) bool {
	if s.checkOff() != nil {
		return false
	}
	lock, err := imagelock.ExcludeWriters(path)
	return err == nil && lock.Close() == nil
}

// withdraw removes a bitmap whose addition has failed: it may be there nevertheless.
func (s *Source) withdraw(path string) {
	s.added = slices.DeleteFunc(s.added, func(a added) bool {
		if a.image.Path != path {
			return false
		}
		chain, err := qemuimg.Chain(context.Background(), path, "qcow2", true)
		if err != nil {
			return false
		}
		_, there := chain[0].Bitmap(a.name)
		return !there || shutoff.RemoveBitmap(a.image, a.name) == nil
	})
}

func (s *Source) addBitmap(image qemuimg.Image) error {
	if !s.Exclusive {
		if err := shutoff.MayBeShared(image.Path); err != nil {
			return err
		}
	}
	if err := shutoff.RoomFor(image, granularity); err != nil {
		return err
	}
	name := s.job.Checkpoint
	s.added = append(s.added, added{image, name}) // first: it may be there even after an error
	return fault.Around("add bitmap", func() error { return qemuimg.AddBitmap(image.Path, name, granularity) })
}

// removeBitmaps removes the bitmaps that were added, for a point that was not sealed.
func (s *Source) removeBitmaps() error {
	if len(s.added) == 0 {
		return nil
	}
	err := s.checkOff() // a device that the domain writes to now is not locked
	for _, a := range s.added {
		if err != nil {
			break
		}
		err = errors.Join(err, shutoff.RemoveBitmap(a.image, a.name))
	}
	if err != nil { // one was never added, there is no room, or the domain runs by now
		err = s.d.DeleteOrphans(s.job.Instant)
	}
	switch {
	case err == nil:
		s.added = nil
	case errors.Is(err, hypervisor.ErrNotRunning), errors.Is(err, hypervisor.ErrNoDomain), errors.Is(err, hypervisor.ErrBusy):
		s.Log.Warn(fmt.Sprintf("the bitmaps of %s are left: the next run deletes them: %v", s.job.Instant.Point, err))
		err = nil
	}
	return err
}
