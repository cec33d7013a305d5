package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
)

// The marks that say what may have to be undone for the guest.
const (
	markFrozen = "frozen" // its file systems may be frozen
	markPaused = "paused" // it was paused by an I/O error when our job was ended
)

// guestMark says which run of the domain a mark is about, and since when.
type guestMark struct {
	RunID uint      `json:"run_id"` // hypervisor.Domain.RunID
	Since time.Time `json:"since"`
	// Process has set the mark. In a copy of the repository it may be alive.
	Process instants.Process `json:"process"`
}

// Freezing marks that the guest is about to be frozen. Call it before, and
// Thawed once the guest is thawed for sure.
func (s *Site) Freezing() error { return s.markGuest(markFrozen) }

// Thawed takes the mark of Freezing away.
func (s *Site) Thawed() error { return s.Lock.ClearMark(markFrozen) }

// Pausing marks that the guest is paused while our job is about to end, and has
// to be resumed then. Once the job is gone nothing else tells that it was there.
// Call Woken when that is done.
func (s *Site) Pausing() error { return s.markGuest(markPaused) }

// Woken takes the mark of Pausing away.
func (s *Site) Woken() error { return s.Lock.ClearMark(markPaused) }

func (s *Site) markGuest(mark string) error {
	id, err := s.Domain.RunID()
	if err != nil {
		return err
	}
	self, err := instants.Self()
	if err != nil {
		return err
	}
	data, err := json.Marshal(guestMark{id, time.Now().UTC(), self})
	if err != nil {
		return err
	}
	return s.Lock.SetMark(mark, data)
}

func (s *Site) readMark(mark string) (m guestMark, ok bool, err error) {
	data, ok, err := s.Lock.Mark(mark)
	if err == nil && ok {
		_ = json.Unmarshal(data, &m) // cut short, it still stands, for an unknown run
		if m.Process.PID != 0 && !s.dead(m.Process) {
			ok = false // it came here with a copy, and belongs to a run that is alive
		}
	}
	return m, ok, err
}

// endTime bounds the end of a job, which takes some 25 ms.
const endTime = time.Minute

// EndJob ends our job, which must be running, and lets a guest go on that an I/O
// error has paused meanwhile: so QEMU does when the scratch files cannot grow. If
// it was something else, the guest's own disk, QEMU tries once more what failed,
// and pauses again.
func (s *Site) EndJob(ctx context.Context) error {
	job, ours, err := s.OurJob()
	if err != nil || !ours {
		return err
	}
	paused, err := s.Domain.PausedForIO()
	if err != nil {
		return err
	}
	if paused {
		if err := s.Pausing(); err != nil { // in a full repository; this process does it
			s.log().Warn(err.Error())
		}
	}
	endCtx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	if err := s.Domain.EndBackup(endCtx); err != nil {
		return err
	}
	if err := fault.Point("job ended"); err != nil {
		return err
	}
	if paused {
		if err := s.resume(ctx); err != nil {
			return err
		}
	}
	ledger, err := s.ledger()
	if err != nil {
		return err
	}
	files := []string{job.Socket} // libvirt leaves it
	for _, d := range job.Disks {
		files = append(files, d.Scratch)
	}
	for _, path := range files {
		if s.ours(ledger, path) {
			err = errors.Join(err, removeIfExists(path))
		}
	}
	return err
}

// resume lets a guest go on that was paused by an I/O error while our job ran.
func (s *Site) resume(context.Context) error {
	paused, err := s.Domain.PausedForIO()
	if err != nil {
		return err
	}
	if paused {
		if err := s.Domain.Resume(); err != nil {
			return err
		}
		s.log().Info("resumed the domain: an I/O error had paused it while the job ran")
	}
	return s.Woken()
}

// thawTime is how long a freeze may go on after it was asked for: it first writes
// out what the guest has cached, which took 20 s on a slow disk that was tried,
// and the agent answers nothing meanwhile.
const thawTime = time.Minute

// thaw thaws a guest that an earlier run may have frozen. It returns a
// *laterError where the agent does not answer.
func (s *Site) thaw(ctx context.Context) error {
	mark, _, err := s.readMark(markFrozen)
	if err != nil {
		return err
	}
	// By this process's clock: the host's may have gone back since the mark was set.
	deadline := time.Now().Add(min(max(thawTime-time.Since(mark.Since), 0), thawTime))
	for {
		err := s.tryThaw(mark)
		var later *laterError
		if err == nil || !errors.As(err, &later) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *Site) tryThaw(mark guestMark) error {
	state, err := s.Domain.State()
	if err != nil {
		return err
	}
	switch state {
	case hypervisor.ShutOff:
		return s.Thawed() // with the guest went the freeze
	case hypervisor.Paused, hypervisor.PausedForIO:
		return &laterError{fmt.Sprintf("the domain is %s, and its guest agent cannot answer; virsh resume %s", state, manifest.ShellWord(s.Domain.Name()))}
	}
	n, err := s.Domain.Thaw(s.agentTimeout())
	if errors.Is(err, hypervisor.ErrAgent) {
		if id, idErr := s.Domain.RunID(); idErr == nil && id != mark.RunID && mark.RunID != 0 {
			return s.Thawed() // started anew since, and without an agent
		}
		return &laterError{fmt.Sprintf("%v; virsh domfsthaw %s", err, manifest.ShellWord(s.Domain.Name()))}
	}
	if err != nil {
		return err
	}
	s.log().Debug(fmt.Sprintf("thawed %d file systems", n))
	return s.Thawed()
}
