package guest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/bounded"
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
func (d *LockedDomain) FindLeftover(ctx context.Context) (Leftover, error) {
	l := Leftover{Session: NewSession(d)}
	err := d.awaitBegin(ctx)
	if err != nil {
		return l, err
	}
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

// awaitBegin waits for a job that libvirt still begins for a run that was killed meanwhile:
// until then libvirt shows no job. If it were not awaited, the job would go on with nobody to
// know that it is ours, once all else of its identity is gone.
func (d *LockedDomain) awaitBegin(ctx context.Context) error {
	ledger, err := d.Ledger()
	if err != nil {
		return err
	}
	left := func(i instants.Instant) bool {
		return i.Identity != d.Own && !ledger.Sealed(i) && d.MayRemove(ledger, i)
	}
	if !slices.ContainsFunc(ledger.Issued, left) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, BeginTime)
	defer cancel()
	return bounded.Within(BeginTime+time.Second, func() error { return d.Domain.Settle(ctx) })
}
