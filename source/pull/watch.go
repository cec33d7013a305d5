package pull

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/source"
)

// Watch returns an error when the job has to end to protect the guest, and nil when ctx is
// cancelled or the job is gone. size is the sum of the sizes of all disks, in bytes; taken
// returns what the point takes. Neither may access the repository, which may hang while the
// guest runs on.
func (s *Source) Watch(ctx context.Context, size int64, taken func() source.Taken) error {
	w := scratchWatch{limit: s.ScratchLimit, max: size}
	for {
		sample, err := s.sample(taken)
		switch {
		case errors.Is(err, hypervisor.ErrNoJob):
			return nil // the readers fail by themselves
		case err != nil:
			s.Log.Debug(fmt.Sprintf("look at the scratch files: %v", err))
		default:
			w.note(sample)
			if why := w.short(); why != "" {
				return s.scratchShort(why)
			}
		}
		if s.session.Starved() {
			return s.scratchShort(guest.ErrStarved.Error())
		}
		select {
		case <-time.After(w.pause()):
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Source) scratchShort(why string) error {
	return source.Ended(fmt.Sprintf("free space in %s, or name another directory with --scratch-dir; --scratch-limit BYTES sets another limit; "+
		"a shorter job and a guest that writes less need less space", s.scratchDir()),
		"ended the backup of domain %s to keep the guest going: %s", s.name(), why)
}

// sample takes a sample of the scratch space.
func (s *Source) sample(taken func() source.Taken) (scratchSample, error) {
	stats, err := s.d.Domain.JobStats()
	if err != nil {
		return scratchSample{}, err
	}
	sample := scratchSample{at: time.Now(), used: stats.TempUsed, take: taken().Most}
	sample.free, sample.size, err = diskspace.Free(s.scratchDir(), false)
	sample.has = taken().Now // after free, so that it includes all that reduced free
	return sample, err
}

func (s *Source) scratchDir() string { return guest.RunDir(s.ScratchDir) }

// CheckSpace refuses a job that would have to end at once for lack of scratch space. size is
// the sum of the sizes of its disks, in bytes.
func (s *Source) CheckSpace(size int64) error {
	free, total, err := diskspace.Free(s.scratchDir(), false)
	if err != nil || total == 0 {
		return nil // Prepare makes the directory, or reports the error
	}
	w := scratchWatch{max: size}
	w.note(scratchSample{free: free, size: total})
	if free >= w.reserve() {
		return nil
	}
	return fail.WithHint(fmt.Errorf("%s has too little space for scratch files: %s are free, and without at least %s the guest's writes could fail",
		s.scratchDir(), bytesize.Text(free), bytesize.Text(w.reserve())), "free space there, or name another directory with --scratch-dir")
}

// Room returns what the scratch files of a job reserve on the file system of a directory.
// size is the sum of the sizes of the job's disks, in bytes.
func (s *Source) Room(dir string, size int64) source.Room {
	if !diskspace.Shared(dir, s.scratchDir()) {
		return source.Room{}
	}
	free, total, err := diskspace.Free(s.scratchDir(), false) // QEMU cannot use what is kept for root
	if err != nil {
		return source.Room{}
	}
	return source.Room{Shared: true, Reserve: min(scratchLeast(total), size), Free: free}
}
