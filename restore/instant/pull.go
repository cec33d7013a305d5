package instant

import (
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
)

// pull is the way home of a disk's data.
type pull struct {
	target string
	begun  time.Time // when QEMU was asked for it last; zero: not by this process
}

// advance begins a pull that is not under way, and tells whether the disk's data is all there.
func (r *run) advance(p *pull) (done bool, err error) {
	job, err := r.domain.BlockJob(p.target)
	switch {
	case errors.Is(err, hypervisor.ErrNotRunning):
		return false, nil // shut off
	case err != nil:
		return false, err
	case job.Kind == hypervisor.PullJob:
		r.adopt(p)
		r.Progress(p.target, int64(job.Done), int64(job.Total))
		return false, nil
	case job.Kind != "":
		r.once(fmt.Sprintf("disk %s has another job, a %s: its data is pulled when that has ended", p.target, job.Kind))
		return false, nil
	}
	if done, err := r.standsAlone(p.target); done || err != nil {
		return done, err
	}
	if time.Since(p.begun) < pause {
		return false, nil
	}
	p.begun = time.Now()
	if err := fault.Point("instant: pull"); err != nil {
		return false, err
	}
	if err := r.domain.BlockPull(p.target, r.Bandwidth); err != nil && !errors.Is(err, hypervisor.ErrNotRunning) {
		// As while a backup of the domain is made, or a snapshot.
		r.once(fmt.Sprintf("the data of disk %s is not pulled yet: %v", p.target, err))
	}
	return false, nil
}

// adopt makes a pull that an earlier process has begun as fast as this one's would be.
func (r *run) adopt(p *pull) {
	if !p.begun.IsZero() {
		return
	}
	p.begun = time.Now()
	if err := r.domain.PullSpeed(p.target, r.Bandwidth); err != nil { // it may have ended
		r.Log.Debug(err.Error())
	}
}

// standsAlone tells whether a disk needs the server no more: neither libvirt nor the image's header
// says so.
func (r *run) standsAlone(target string) (bool, error) {
	definition, err := parsed(r.domain.XML)
	if err != nil {
		return false, err
	}
	for _, d := range definition.Disks {
		if d.Target != target {
			continue
		}
		if len(d.Backing) > 0 {
			return false, nil
		}
		backing, err := backingOf(d.Source)
		return backing == "", err
	}
	return false, fail.WithHint(fmt.Errorf("domain %s has no disk %s any more", r.domain.Name(), target), "--abandon takes the domain away")
}
