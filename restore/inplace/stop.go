package inplace

import (
	"context"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

// stopPoll is how often a domain that shuts down is looked at.
const stopPoll = 200 * time.Millisecond

// stop sees that the domain is off, or with Force shuts it down, once that is confirmed.
func (r *run) stop(ctx context.Context) error {
	active, err := r.domain.Active()
	if err != nil || !active {
		return err
	}
	state, err := r.domain.State()
	if err != nil {
		return err
	}
	if state != hypervisor.Running {
		word := manifest.ShellWord(r.Domain)
		return fail.Errorf(fail.Usage, fmt.Sprintf("virsh resume %s, or virsh destroy %s, which is like pulling the plug", word, word), "domain %s is %s and cannot shut down", r.Domain, state)
	}
	if err := r.ask(true); err != nil {
		return err
	}
	r.Log.Info(fmt.Sprintf("domain %s is asked to shut down", r.Domain))
	if err := r.power.ShutDown(); err != nil {
		return err
	}
	for deadline := time.Now().Add(r.StopTime); active; active, err = r.domain.Active() {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return fail.Errorf(fail.Other, "virsh shutdown again, or virsh destroy, which is like pulling the plug; or a longer --stop-time",
				"domain %s has not shut down within %s; its disks were not changed", r.Domain, r.StopTime)
		}
		time.Sleep(stopPoll)
	}
	return nil
}

// refuseState refuses a domain that runs, or was saved, unless that may be forced.
func (r *run) refuseState() error {
	active, err := r.domain.Active()
	if err != nil {
		return err
	}
	if active {
		return r.refuseActive()
	}
	saved, err := r.power.ManagedSave()
	if err != nil || !saved || r.Force {
		return err
	}
	return fail.Errorf(fail.Usage, "--force discards it; or virsh start, and shut the guest down",
		"domain %s has a managed save: its memory would go on with disks that are not its own any more", r.Domain)
}

func (r *run) refuseActive() error {
	word := manifest.ShellWord(r.Domain)
	if !r.Force {
		return fail.Errorf(fail.Usage, "virsh shutdown "+word+", or --force, which does that", "domain %s is running: its disks cannot be restored in place", r.Domain)
	}
	persistent, err := r.domain.Persistent()
	if err == nil && !persistent {
		err = fail.Errorf(fail.Usage, "virsh define it first, or restore --define --to DIR under a new name", "domain %s is transient: it would be gone once it is shut down", r.Domain)
	}
	return err
}
