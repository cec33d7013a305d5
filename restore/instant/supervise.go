package instant

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/xml"
)

// tick is how often the guest, its server and the pulls are looked at.
const tick = 200 * time.Millisecond

// damagedError says that a part of the point cannot be read, which the guest and the pulls need.
type damagedError struct {
	name   string
	points []string // lines of the server's log
}

// Error says what the server has said.
func (e *damagedError) Error() string {
	return fmt.Sprintf("domain %s cannot be completed, and pauses where it reads what is damaged: %s", e.name, strings.Join(e.points, "; "))
}

// Kind is fail.Damaged.
func (e *damagedError) Kind() fail.Kind { return fail.Damaged }

// Hint says what can be done.
func (e *damagedError) Hint() string {
	return "--abandon takes the domain away; virtbackup verify names points that restore, and restore --salvage restores what can be of this one"
}

// supervise keeps the guest running until its images stand alone, and then forgets where they
// came from.
func (r *run) supervise(ctx context.Context) error {
	disks, err := r.disks()
	if err != nil {
		return err
	}
	said := map[string]bool{}
	for len(disks) > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := r.keepRunning(ctx, said); err != nil {
			return err
		}
		left := disks[:0:0]
		for _, target := range disks {
			done, err := r.pull(target, said)
			if err != nil {
				return err
			}
			if !done {
				left = append(left, target)
			}
		}
		if disks = left; len(disks) == 0 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
	return r.finish()
}

// disks are the targets of the domain's disks whose images are in the directory, and need others.
func (r *run) disks() (targets []string, err error) {
	definition, err := r.definition(r.domain.InactiveXML)
	if err != nil {
		return nil, err
	}
	for _, d := range definition.Disks {
		if filepath.Dir(d.Source) != r.pin.Runs.Dir {
			continue
		}
		needs, err := r.needsServer(d.Source)
		if err != nil {
			return nil, err
		}
		if needs {
			targets = append(targets, d.Target)
		}
	}
	return targets, nil
}

// definition parses what libvirt says of the domain.
func (r *run) definition(ask func() (string, error)) (xml.Domain, error) {
	doc, err := ask()
	if err != nil {
		return xml.Domain{}, err
	}
	return xml.ParseDomain(doc)
}

// needsServer tells whether an image has a backing file, by its header: QEMU changes that when all is pulled.
func (r *run) needsServer(path string) (bool, error) {
	f, err := localfile.OpenRegular(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return h.BackingFile != "", nil
}

// keepRunning starts the server again where it has ended, and wakes the guest up that has met that.
// A guest that somebody else has paused stays so.
func (r *run) keepRunning(ctx context.Context, said map[string]bool) error {
	started, err := r.server.ensure(ctx)
	if err != nil {
		return err
	}
	if started {
		r.Log.Warn("the server had ended, and was started again")
	}
	if failures := r.server.failures(); len(failures) > 0 {
		return &damagedError{r.pin.Runs.Name, failures}
	}
	state, err := r.domain.State()
	switch {
	case errors.Is(err, hypervisor.ErrNoDomain):
		return fail.WithHint(fmt.Errorf("domain %s is gone: %w", r.pin.Runs.Name, err), "--abandon removes what is left of it")
	case err != nil:
		return err
	case state == hypervisor.ShutOff:
		r.once(said, fmt.Sprintf("domain %s is shut off: the rest is pulled when it runs again", r.domain.Name()))
		return nil
	case state != hypervisor.PausedForIO:
		return nil
	}
	if full, err := r.domain.OutOfSpace(); err == nil && len(full) > 0 {
		r.once(said, fmt.Sprintf("there is no space left in %s: the guest goes on when there is", r.pin.Runs.Dir))
	}
	if err := fault.Point("instant: wake the guest"); err != nil {
		return err
	}
	r.Log.Debug(fmt.Sprintf("domain %s was paused after an I/O error: it is resumed", r.domain.Name()))
	return r.domain.Resume()
}

// once logs a message once.
func (r *run) once(said map[string]bool, message string) {
	if !said[message] {
		said[message] = true
		r.Log.Warn(message)
	}
}

// pull brings the data of a disk home, if that is not under way, and tells whether it is all there.
func (r *run) pull(target string, said map[string]bool) (done bool, err error) {
	job, err := r.domain.BlockJob(target)
	switch {
	case errors.Is(err, hypervisor.ErrNotRunning):
		return false, nil // shut off
	case err != nil:
		return false, err
	case job.Kind != "":
		r.Progress(target, int64(job.Done), int64(job.Total))
		return false, nil
	}
	if done, err := r.standsAlone(target); done || err != nil {
		return done, err
	}
	if err := fault.Point("instant: pull"); err != nil {
		return false, err
	}
	if err := r.domain.BlockPull(target); err != nil {
		// As while a backup of the domain is made, or a snapshot.
		r.once(said, fmt.Sprintf("the data of disk %s is not pulled yet: %v", target, err))
	}
	return false, nil
}

// standsAlone tells whether a disk needs the server no more: neither libvirt nor the image's header
// says so.
func (r *run) standsAlone(target string) (bool, error) {
	definition, err := r.definition(r.domain.XML)
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
		needs, err := r.needsServer(d.Source)
		return !needs, err
	}
	return false, fail.WithHint(fmt.Errorf("domain %s has no disk %s any more", r.domain.Name(), target), "--abandon takes the domain away")
}
