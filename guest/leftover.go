package guest

import (
	"errors"
	"time"
)

// Leftover is what killed runs have done to the guest. End and Wake undo the job and the
// pause, Thaw the freeze.
type Leftover struct {
	*Session
	Job       bool // a job of ours runs
	Paused    bool // an I/O error has paused the guest
	WasPaused bool // an I/O error had paused it when a job of ours was ended
}

// FindLeftover looks for what killed runs have done to the guest. It excludes what belongs
// to a run that is alive, such as one of the repository that this is a copy of.
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
		// Limited both ways, as the clock may have been set back since the mark was set.
		patience := min(max(thawTime-time.Since(mark.Since), 0), thawTime)
		l.frozen = &freeze{runID: mark.RunID, patience: patience}
	}
	return l, errors.Join(pausedErr, frozenErr)
}
