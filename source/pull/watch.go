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

// Watch returns an error when the job has to end for the guest's sake, and nil when ctx
// ends or the job is gone. size is that of all disks, in bytes; taken says what the point
// takes. Neither may touch the repository, which may hang while the guest goes on.
func (s *Source) Watch(ctx context.Context, size int64, taken func() source.Taken) error {
	w := scratchWatch{limit: s.ScratchLimit, max: size}
	for {
		sample, err := s.sample(taken)
		switch {
		case errors.Is(err, hypervisor.ErrNoJob):
			return nil // whoever reads will see
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
		"the shorter the job is and the quieter the guest, the less it needs", s.scratchDir()),
		"ended the backup of domain %s to keep the guest going: %s", s.name(), why)
}

// sample looks at the scratch files.
func (s *Source) sample(taken func() source.Taken) (scratchSample, error) {
	stats, err := s.d.Domain.JobStats()
	if err != nil {
		return scratchSample{}, err
	}
	sample := scratchSample{at: time.Now(), used: stats.TempUsed, take: taken().Most}
	sample.free, sample.size, err = diskspace.Free(s.scratchDir(), false)
	sample.has = taken().Now // after free: what is missing there was written before
	return sample, err
}

func (s *Source) scratchDir() string { return guest.RunDir(s.ScratchDir) }

// CheckSpace refuses a job on disks of that size together, in bytes, that would have to end
// at once for lack of scratch space.
func (s *Source) CheckSpace(size int64) error {
	free, total, err := diskspace.Free(s.scratchDir(), false)
	if err != nil || total == 0 {
		return nil // Prepare makes the directory, or says what is wrong
	}
	w := scratchWatch{max: size}
	w.note(scratchSample{free: free, size: total})
	if free >= w.reserve() {
		return nil
	}
	return fail.WithHint(fmt.Errorf("%s has too little space for scratch files: %s are free, and without at least %s the guest's writes could fail",
		s.scratchDir(), bytesize.Text(free), bytesize.Text(w.reserve())), "free space there, or name another directory with --scratch-dir")
}

// Room says what the scratch files of a job on disks of that size together, in bytes, keep of
// the file system of a directory.
func (s *Source) Room(dir string, size int64) source.Room {
	if !diskspace.Shared(dir, s.scratchDir()) {
		return source.Room{}
	}
	free, total, err := diskspace.Free(s.scratchDir(), false) // what is kept for root is not for QEMU
	if err != nil {
		return source.Room{}
	}
	return source.Room{Shared: true, Reserve: min(scratchLeast(total), size), Free: free}
}
