package inplace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore/reading"
	"github.com/virtbackup/virtbackup/xml"
)

// run is one restore.
type run struct {
	Request
	Deps
	domain guest.Domain
	power  Power
	lock   *repository.Lock
	chosen manifest.Manifest // the point to restore
	mark   mark
	left   time.Time // when a restore was killed that this one makes up for
	saved  *manifest.Manifest
	before map[string]fileState // of the images, by target, before it was made

	disks     []*disk
	extras    []extra
	described xml.Domain // as it will start next time
	point     *reading.Point
	asked     bool // and was told yes
	wrote     bool // something of the domain may have been changed

	result Result
}

// Run puts disks of a domain back to what they were at a point. Until all is proven and
// confirmed nothing is changed, but that a point of the present state is made, and that
// Force stops the domain. What fails or is killed after that is finished by the same request;
// the domain is not started with the host until then.
//
// Errors: fail.Usage, fail.NotFound, *damage.Error, *repository.LockedError, ErrDeclined, and
// whatever libvirt, QEMU or the file system reports.
func Run(ctx context.Context, deps Deps, request Request) (Result, error) {
	start := time.Now()
	r := &run{Request: request.withDefaults(), Deps: deps}
	if err := r.run(ctx); err != nil {
		if r.result.Stopped {
			r.Log.Warn(fmt.Sprintf("domain %s was shut down for this, and is off now", r.Domain))
		}
		return Result{}, err
	}
	r.result.Seconds = time.Since(start).Seconds()
	return r.result, nil
}

func (r *run) run(ctx context.Context) error {
	if err := r.find(); err != nil {
		return err
	}
	if err := r.locked(func() error { return r.prepare(ctx) }); err != nil {
		return err
	}
	if err := r.save(ctx); err != nil {
		return errors.Join(err, r.locked(r.abandon))
	}
	return r.locked(func() error {
		err := r.Repository.Read(ctx, r.Domain, func() error { return r.restore(ctx) })
		if err != nil && !r.wrote {
			err = errors.Join(err, r.abandon())
		}
		if err != nil && r.saved != nil && !r.result.Resumed {
			r.Log.Warn(fmt.Sprintf("the point of the present state, %s, was made and stays", r.saved.ID))
		}
		return err
	})
}

// locked calls do with the lock of the domain's directory.
func (r *run) locked(do func() error) (err error) {
	if r.lock, err = r.Repository.Lock(r.Domain); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.lock.Unlock()) }()
	return do()
}

// find looks the domain up. A restore in place needs it.
func (r *run) find() (err error) {
	if _, err := r.Repository.Find(r.Domain, r.At); err != nil && !fail.Is(err, fail.Damaged) {
		return err // a domain without points has no directory to lock
	}
	r.domain, err = r.Host.Domain(r.Domain)
	if errors.Is(err, hypervisor.ErrNoDomain) {
		return fail.WithHint(err, "restore --define --to DIR defines the domain again")
	}
	if err != nil {
		return err
	}
	r.power, err = r.Power(r.Domain)
	return err
}

// prepare refuses what cannot be, before anything is done, and stops the domain.
func (r *run) prepare(ctx context.Context) error {
	if err := r.choose(); err != nil {
		return err
	}
	if err := r.refuse(ctx); err != nil {
		return err
	}
	active, err := r.domain.Active()
	if err != nil {
		return err
	}
	if err := r.stop(ctx); err != nil {
		return err
	}
	r.result.Stopped = active
	if r.result.Resumed {
		return nil
	}
	if err := r.noteStates(); err != nil {
		return err
	}
	if !r.NoSave {
		if r.mark.Next, err = r.lock.NextNumber(); err != nil {
			return err
		}
	}
	return fault.Around("in place: mark", r.setMark)
}

// save makes a point of the present state. If a killed restore has written already, that
// state is a mixture that nobody wants.
func (r *run) save(ctx context.Context) error {
	switch {
	case r.result.Resumed:
		r.result.Saved = r.mark.Saved
		if m, err := r.Repository.Find(r.Domain, r.mark.Saved); r.mark.Saved != "" && err == nil {
			r.saved = &m
		}
		return nil
	case r.NoSave:
		return nil
	}
	m, err := r.Save(ctx, r.Domain)
	if err != nil {
		return fail.WithHint(fmt.Errorf("make a point of the present state, before it is overwritten: %w", err),
			"%s", strings.TrimPrefix(fail.HintOf(err)+"; --no-save restores without", "; "))
	}
	r.saved, r.mark.Saved, r.result.Saved = &m, m.ID, m.ID
	for _, w := range m.Warnings {
		r.result.Warnings = append(r.result.Warnings, fmt.Sprintf("point %s of the present state: %s", m.ID, w))
	}
	return fault.Point("in place: saved")
}

// restore finds what differs, asks, and writes.
func (r *run) restore(ctx context.Context) (err error) {
	if err := r.stillAlone(); err != nil {
		return err
	}
	if err := r.refuse(ctx); err != nil {
		return err
	}
	if r.point, err = reading.Open(r.Repository, r.Domain, r.chosen.ID, r.Disks, reading.Options{Limits: r.Limits, Log: r.Log, Salvage: r.Salvage}); err != nil {
		return err
	}
	if err := r.makeDir(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.closeDisks()) }()
	if err := r.open(ctx); err != nil {
		return err
	}
	if err := r.compare(ctx); err != nil {
		return r.point.Explain(err)
	}
	if err := r.compareExtras(ctx); err != nil {
		return err
	}
	if err := r.checkSpace(ctx); err != nil {
		return err
	}
	if !r.differs() {
		r.report()
		return r.abandon()
	}
	if err := r.ask(false); err != nil {
		return err
	}
	if err := r.write(ctx); err != nil {
		return r.unfinished(r.point.Explain(err))
	}
	r.report()
	return nil
}

// differs tells whether there is anything to do.
func (r *run) differs() bool {
	return r.result.Resumed || len(r.toWrite()) > 0 || len(r.extras) > 0
}

// report fills in the result.
func (r *run) report() {
	for _, d := range r.disks {
		r.result.Disks = append(r.result.Disks, d.Disk)
	}
	r.result.Domain, r.result.Point, r.result.Time = r.Domain, r.chosen.ID, r.chosen.Time
	r.result.LeftAlone = r.leftAlone()
	r.result.Lost, r.result.LostFiles = r.point.Lost(), r.point.LostFiles()
	r.result.Warnings = append(r.result.Warnings, r.point.Warnings()...)
}

// unfinished says what follows from an error after the first write.
func (r *run) unfinished(err error) error {
	if !r.wrote {
		return err
	}
	return fail.WithHint(fmt.Errorf("domain %s is restored in part, and does not boot: %w", r.Domain, err),
		"the same command goes on: virtbackup restore %s --in-place", manifest.ShellWord(r.Domain+"@"+r.chosen.ID))
}

// leftAlone names the domain's disks that are not restored.
func (r *run) leftAlone() (targets []string) {
	for _, d := range r.described.Disks {
		if d.Unfit() == "" && !slices.ContainsFunc(r.disks, func(chosen *disk) bool { return chosen.Target == d.Target }) {
			targets = append(targets, d.Target)
		}
	}
	return targets
}

// ask says what will be overwritten, and asks.
func (r *run) ask(stops bool) error {
	o := Overwrite{Domain: r.Domain, Point: r.chosen, LeftAlone: r.leftAlone(), Saved: r.saved, Saves: !r.NoSave, Stops: stops, Resumed: r.result.Resumed, Killed: r.left}
	for _, d := range r.disks {
		o.Disks = append(o.Disks, d.Disk)
		if err := shutoff.MayBeShared(d.Path); err != nil && !r.Exclusive {
			o.Shared = append(o.Shared, err.Error())
		}
	}
	if r.point != nil {
		o.Lost = r.point.Lost()
	}
	if r.asked && len(o.Lost) == 0 { // what is lost was not known then
		return nil
	}
	var err error
	if o.Extras, err = r.extraPaths(stops); err != nil {
		return err
	}
	if o.Newest, err = r.Repository.Find(r.Domain, manifest.Latest); err != nil && !fail.Is(err, fail.Damaged) {
		return err
	}
	if o.DiscardsSave, err = r.power.ManagedSave(); err != nil {
		return err
	}
	if o.OtherXML, err = r.otherXML(); err != nil {
		return err
	}
	yes, err := r.Confirm(o)
	if err == nil && !yes {
		err = ErrDeclined
	}
	r.asked = err == nil
	return err
}

// otherXML tells whether the domain was defined differently at the point. That the point's
// document is damaged is no matter of the disks.
func (r *run) otherXML() (bool, error) {
	then, err := r.Repository.ReadFile(r.chosen, manifest.DomainXML)
	if fail.Is(err, fail.Damaged) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now, err := r.domain.InactiveXML()
	return withoutGeneration(string(then)) != withoutGeneration(now), err
}
