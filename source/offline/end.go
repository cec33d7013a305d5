package offline

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/xml"
)

// End checks, after everything has been read, that it was the images of the instant. They stay
// locked until the point is sealed.
func (s *Source) End(ctx context.Context) error {
	if err := s.alive(ctx); err != nil {
		return fmt.Errorf("see whether the images of domain %s are still read: %w", s.name(), err)
	}
	if device := s.guard.device(); device != "" && s.startWanted() {
		return s.startedOn(device)
	}
	if err := s.guard.unchanged(); err != nil {
		return fail.WithHint(fmt.Errorf("the copy of domain %s is worthless: %w", s.name(), err), "find out which program does that; run the backup again")
	}
	return nil
}

// CheckpointXML returns the document of the new checkpoint, which libvirt does not have yet.
func (s *Source) CheckpointXML() (string, error) {
	docs, err := s.d.Domain.Checkpoints(false)
	if err != nil {
		return "", err
	}
	c := xml.Checkpoint{Name: s.job.Checkpoint, Description: checkpoint.Description(s.d.Repo.ID(), s.job.Instant.Point), Created: s.begun}
	if c.Parent, err = newest(docs); err != nil {
		return "", err
	}
	for _, d := range s.job.Disks {
		disk := xml.CheckpointDisk{Target: d.Target}
		if d.Bitmap {
			disk.Bitmap = s.job.Checkpoint
		}
		c.Disks = append(c.Disks, disk)
	}
	for _, target := range s.job.LeftOut {
		c.Disks = append(c.Disks, xml.CheckpointDisk{Target: target})
	}
	s.doc, err = c.Marshal()
	return s.doc, err
}

// newest names the checkpoint that a new one is a child of in libvirt's records: of those that are
// nobody's parent the one that was made last.
func newest(docs []string) (string, error) {
	var all []xml.Checkpoint
	for _, doc := range docs {
		c, err := xml.ParseCheckpoint(doc)
		if err != nil {
			return "", err
		}
		all = append(all, c)
	}
	var last xml.Checkpoint
	for _, c := range all {
		parent := slices.ContainsFunc(all, func(other xml.Checkpoint) bool { return other.Parent == c.Name })
		if !parent && !c.Created.Before(last.Created) {
			last = c
		}
	}
	return last.Name, nil
}

// Sealed lets the domain start again, and defines the checkpoint in libvirt. If that fails, the next
// run defines it, from the point.
func (s *Source) Sealed(context.Context) error {
	if err := s.close(); err != nil || s.job.Checkpoint == "" {
		return err
	}
	if err := fault.Point("unlocked"); err != nil {
		return err
	}
	err := fault.Around("define checkpoint", func() error { return s.d.Domain.RedefineCheckpoint(s.doc, false) })
	if err != nil {
		err = fmt.Errorf("define checkpoint %s, which the next run will do: %w", s.job.Instant.Point, err)
	}
	return err
}

// close ends the storage daemon and unlocks the images: the domain can start.
func (s *Source) close() error {
	var err error
	if s.daemon != nil {
		err = s.daemon.Close()
		s.daemon = nil
	}
	clear(s.disks)
	s.guard.release()
	return err
}

// Abandon undoes Begin: the domain can start, and its images have no bitmap of a point that was
// not sealed.
func (s *Source) Abandon(_ context.Context, keep, _ bool) error {
	err := s.close()
	if err != nil || keep {
		return err
	}
	return s.removeBitmaps()
}

// Cleanup removes the directory of the socket.
func (s *Source) Cleanup(context.Context) error {
	if s.job.Instant.Identity == "" {
		return nil
	}
	return os.RemoveAll(s.directory())
}
