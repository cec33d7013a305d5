package guest

import (
	"errors"
	"time"
)

// Leftover is what runs that were killed have done to the guest, and how to undo it: End
// and Wake for the job and the pause, Thaw for the freeze.
type Leftover struct {
	*Session
	Job       bool // a job of ours runs
	Paused    bool // an I/O error has paused the guest
	WasPaused bool // an I/O error had paused it when a job of ours was ended
}

// FindLeftover looks for what runs that were killed have done to the guest. What belongs to a
// run that is alive is not among it, as that of the repository that this is a copy of.
func (d *LockedDomain) FindLeftover() (Leftover, error) {
	l := Leftover{Session: NewSession(d)}
	var err error
	if _, l.Job, err = d.OurJob(); err != nil {
		return l, err
	}
	if l.Paused, err = d.pausedForIO(); err != nil {
		return l, err
	}
	_, wasPaused, pausedErr := d.readMark(markPaused)
	mark, frozen, frozenErr := d.readMark(markFrozen)
	l.WasPaused, l.marked = wasPaused, wasPaused
	if frozen {
		// By this process's clock: the host's may have gone back since the mark was set.
		patience := min(max(thawTime-time.Since(mark.Since), 0), thawTime)
		l.frozen = &freeze{runID: mark.RunID, patience: patience}
	}
	return l, errors.Join(pausedErr, frozenErr)
}
