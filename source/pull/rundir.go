package pull

import (
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/source"
)

// Prepare takes the job that Begin will begin, and makes the directories for sockets and scratch
// files.
func (s *Source) Prepare(job source.Job) error {
	s.job = job
	for _, dir := range []string{s.SocketDir, s.ScratchDir} {
		if err := guest.MakeRunDir(dir); err != nil {
			return err
		}
	}
	return nil
}
